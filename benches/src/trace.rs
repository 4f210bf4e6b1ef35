//! Recorded keystrokes of one text: the sequential traces of <https://github.com/josephg/editing-traces> (gzip JSON).

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;
use serde::Deserialize;

/// Names the file of the trace that benchmarks play beside what they generate.
pub const TRACE: &str = "CONCLAVE_BENCH_TRACE";

/// At a position a number of characters go, and others come.
pub type Patch = (usize, usize, String);

/// Everything that was typed, and the text in the end.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    txns: Vec<Transaction>,
    /// The text in the end.
    pub end_content: String,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    patches: Vec<Patch>,
}

impl Trace {
    /// The file that the environment names.
    #[must_use]
    pub fn asked() -> Option<PathBuf> {
        std::env::var_os(TRACE).map(PathBuf::from)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_reader(std::io::BufReader::new(
            GzDecoder::new(file),
        ))?)
    }

    /// Edit after edit.
    pub fn edits(&self) -> impl Iterator<Item = &[Patch]> {
        self.txns.iter().map(|it| it.patches.as_slice())
    }
}

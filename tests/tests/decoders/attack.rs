//! One decoder under attack: gives it inputs and judges what it does.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail, ensure};
use conclave_testkit::decoders::{Decoded, Decoder};
use peak_alloc::PeakAlloc;

/// What every decoder may take beyond its input, in bytes.
const FREE_BYTES: usize = 256 * 1024;
/// What it may take for each byte of input: values in memory are larger than on the wire, and lists double as they grow.
const FACTOR: usize = 16;
/// What a decoder may take to find that an input is too large, in bytes: an empty document is made for an update to be refused by.
const UNSEEN_BYTES: usize = 64 * 1024;
/// What is given away to be decoded is copied once to be given away.
const COPIED: &[&str] = &["crdt.yjs.version", "crdt.automerge.version"];
/// Bytes of an input that a failure shows.
const SHOWN_BYTES: usize = 200;

/// Decoders that load whole groups, documents or stores around their input, and what those take, in bytes. Automerge compresses: an
/// update of a few bytes may hold as much as its own limit allows.
const SETTINGS: &[(&str, usize)] = &[
    ("mls.", 16 * 1024 * 1024),
    ("engine.", 16 * 1024 * 1024),
    ("doc.", 16 * 1024 * 1024),
    ("crdt.yjs.", 16 * 1024 * 1024),
    ("crdt.automerge.", 48 * 1024 * 1024),
    ("crdt.foreign", 48 * 1024 * 1024),
    // Serde takes up to one MiB for a list before it has read it.
    ("client.local", 2 * 1024 * 1024),
    // A list of the most items of the largest kind.
    ("proto.service_frame", 4096 * 1024),
];

/// A decoder, and what it did so far.
pub struct Attack<'a> {
    decoder: &'a Decoder,
    memory: &'a PeakAlloc,
    outcomes: BTreeMap<&'static str, usize>,
    highest: usize,
}

impl<'a> Attack<'a> {
    /// Begins with nothing. Whatever the decoder makes once per process is made here.
    pub fn new(decoder: &'a Decoder, memory: &'a PeakAlloc) -> Self {
        for sample in (decoder.samples)() {
            let _ = catch_unwind(|| (decoder.decode)(&sample));
        }
        Self {
            decoder,
            memory,
            outcomes: BTreeMap::new(),
            highest: 0,
        }
    }

    fn run(&mut self, input: &[u8]) -> Result<(Decoded, usize)> {
        self.memory.reset_peak_usage();
        let before = self.memory.current_usage();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.decoder.decode)(input)));
        let taken = self.memory.peak_usage().saturating_sub(before);
        let Ok(decoded) = outcome else {
            let (name, place) = (self.decoder.name, last_panic());
            bail!("{name} panicked on {} ({place})", show(input));
        };
        let code = match &decoded {
            Ok(_) => "ok",
            Err(code) => code,
        };
        *self.outcomes.entry(code).or_default() += 1;
        Ok((decoded, taken))
    }

    /// Gives one input.
    ///
    /// # Errors
    /// When the decoder panics, takes too much memory, gives an error without a code, or reads one value from two encodings.
    pub fn with(&mut self, input: &[u8]) -> Result<()> {
        let name = self.decoder.name;
        let (decoded, taken) = self.run(input)?;
        let bound = bound(name, input.len());
        self.highest = self.highest.max(taken.saturating_mul(100) / bound);
        ensure!(
            taken <= bound,
            "{name} took {taken} bytes for {} (at most {bound}): {}",
            input.len(),
            show(input)
        );
        match &decoded {
            Ok(Some(again)) => ensure!(
                again == input,
                "{name} reads as a value that is encoded otherwise: {}, as {}",
                show(input),
                show(again)
            ),
            Ok(None) => {}
            Err(code) => ensure!(!code.is_empty(), "{name} gives no code"),
        }
        Ok(())
    }

    /// Gives an input past the limit: it has to be refused without being copied.
    ///
    /// # Errors
    /// When it is not.
    pub fn refused_unseen(&mut self, input: &[u8]) -> Result<()> {
        let name = self.decoder.name;
        let (decoded, taken) = self.run(input)?;
        ensure!(
            decoded.is_err(),
            "{name} takes {} bytes, past its limit",
            input.len()
        );
        let copied = if COPIED.contains(&name) {
            input.len()
        } else {
            0
        };
        ensure!(
            taken <= UNSEEN_BYTES + copied,
            "{name} took {taken} bytes before it refused {}",
            input.len()
        );
        Ok(())
    }

    /// Inputs given so far.
    pub fn inputs(&self) -> usize {
        self.outcomes.values().sum()
    }

    /// One line for people.
    pub fn report(&self) -> String {
        format!(
            "{} {} inputs, memory {} % of the bound, {:?}",
            self.decoder.name,
            self.inputs(),
            self.highest,
            self.outcomes
        )
    }
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

/// Panics that a decoder contains are no failures: they are kept for the report of one that it does not contain, and not printed.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = place.unwrap_or_default();
    }));
}

fn last_panic() -> String {
    let last = LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner);
    last.clone()
}

fn bound(name: &str, input_bytes: usize) -> usize {
    let setting = SETTINGS.iter().find(|(prefix, _)| name.starts_with(prefix));
    FREE_BYTES + setting.map_or(0, |(_, bytes)| *bytes) + FACTOR * input_bytes
}

fn show(input: &[u8]) -> String {
    let shown = input.iter().take(SHOWN_BYTES);
    let digits: String = shown.map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes {digits}", input.len())
}

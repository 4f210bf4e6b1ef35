//! `doc export`: a document to a file.

use std::path::Path;

use conclave_client::proto::GroupId;
use conclave_client::{CrdtKind, DocumentInfo, Outcome, View};

use super::document::{Format, Which, open};
use crate::content::{self, Content};
use crate::context::{Context, answer};
use crate::failure::{Exit, Failure, Result};
use crate::input::is_standard;
use crate::output::{Shown, print_bytes};
use crate::write;

/// Writes a document to a file, or to standard output.
///
/// # Errors
/// [`Failure`].
pub async fn run(
    context: &Context,
    which: &Which,
    file: &Path,
    format: Option<Format>,
    force: bool,
) -> Result<Shown> {
    let to_standard = is_standard(file);
    if to_standard && context.global.json {
        return Err(Failure::usage(
            "with --json, standard output holds one JSON object",
            "leave --json away, or name a file",
        ));
    }
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let format = format.or_else(|| by_extension(file));
    let bytes = bytes(context, group, &info, format).await?;
    if to_standard {
        print_bytes(&bytes)?;
        return Ok(Shown::nothing());
    }
    // Whatever asks this process to end is heard from here on: the file is whole by then, or there is none.
    let _heard = (crate::signals::interrupted(), crate::signals::ended());
    write::replace(file, &bytes, force)?;
    let text = format!("wrote {}", file.display());
    let shown = Shown::new(text, "document", info.document);
    Ok(shown.with("file", file).with("bytes", bytes.len()))
}

/// The form that a file's name asks for.
fn by_extension(file: &Path) -> Option<Format> {
    let extension = file.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "txt" | "md" => Some(Format::Text),
        "json" => Some(Format::Json),
        "yjs" | "ydoc" => Some(Format::Yjs),
        "automerge" => Some(Format::Automerge),
        _ => None,
    }
}

async fn bytes(
    context: &Context,
    group: GroupId,
    info: &DocumentInfo,
    format: Option<Format>,
) -> Result<Vec<u8>> {
    let native = match format {
        Some(Format::Yjs) => Some(CrdtKind::Yjs),
        Some(Format::Automerge) => Some(CrdtKind::Automerge),
        _ => None,
    };
    if let Some(kind) = native {
        if kind.to_string() != info.kind {
            return Err(unfitting(format!(
                "this is a document of the kind {}, not {kind}",
                info.kind
            )));
        }
        let bytes = content::view(context, group, info, View::Native).await?;
        return answer!(bytes, Outcome::Bytes(bytes) => bytes.into_vec());
    }
    let reading = content::read(context, group, info).await?;
    if format == Some(Format::Json)
        && let Content::Text(text) = &reading.content
    {
        // The parts are JSON: that of a text is an object with it.
        let whole = reading
            .parts
            .unwrap_or_else(|| serde_json::json!({ "text": text }));
        return Ok(Content::Json(whole).to_text().into_bytes());
    }
    reading.note_hidden(context.global.json);
    Ok(reading.content.to_text().into_bytes())
}

fn unfitting(message: String) -> Failure {
    let hint = "`--format text`, `--format json`, or the document's own kind; `conclave doc list` shows it";
    Failure::new("cli.format", Exit::Usage, message, hint)
}

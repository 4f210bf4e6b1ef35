//! `doc import`: a document from a file.

use std::path::Path;

use conclave_client::{CrdtKind, FirstContent, ForeignError, recognise};

use super::document::{created, finish_new};
use crate::context::{Context, Spinner};
use crate::failure::{Exit, Failure, Result};
use crate::input::{self, TextEncoding, is_standard, name_of};
use crate::json;
use crate::output::Shown;

/// From this size on it is said that a file is being read, in bytes.
const LARGE_BYTES: usize = 1024 * 1024;

/// Creates a document from a file. Everything about the file is judged before anything is made.
///
/// # Errors
/// [`Failure`].
pub async fn run(
    context: &Context,
    group: &str,
    file: &Path,
    title: Option<String>,
    encoding: Option<TextEncoding>,
) -> Result<Shown> {
    let title = title.or_else(|| {
        let name = file.file_name().filter(|_| !is_standard(file))?;
        Some(name.to_string_lossy().into_owned())
    });
    let title = title.ok_or_else(|| {
        Failure::usage(
            "there is no file name to use as a title",
            "give one with --title",
        )
    })?;
    let (kind, content) = read(context, file, encoding)?;
    let group = context.find_group(group).await?.group;
    let document = {
        let _spinner = Spinner::new("making the document", context.global.json);
        created(context, group, &title, kind, Some(content)).await?
    };
    finish_new(context, group, document, &title, kind).await
}

fn read(
    context: &Context,
    file: &Path,
    encoding: Option<TextEncoding>,
) -> Result<(CrdtKind, FirstContent)> {
    let name = name_of(file);
    let bytes = input::read(file)?;
    let quiet = context.global.json || bytes.len() < LARGE_BYTES;
    let mebibytes = bytes.len() / LARGE_BYTES;
    let _spinner = Spinner::new(&format!("reading {name} ({mebibytes} MiB)"), quiet);
    // Whoever names an encoding says that it is text.
    if encoding.is_none() {
        let foreign = recognise(&bytes).map_err(|error| refused(&name, &error))?;
        if let Some(foreign) = foreign {
            return Ok((foreign.kind, FirstContent::State(foreign.state.into())));
        }
    }
    let text = input::text(bytes, encoding, &name)?;
    let is_json = file
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    Ok(match is_json {
        true => (
            CrdtKind::Automerge,
            FirstContent::Json(json::read_new(&text, &name)?),
        ),
        false => (CrdtKind::Yjs, FirstContent::Text(text)),
    })
}

fn refused(name: &str, error: &ForeignError) -> Failure {
    let hint = match error {
        ForeignError::Damaged(_) => {
            "save it again with a present version of the program that made it"
        }
        ForeignError::Incomplete(_) => "save the whole document, not only what was changed last",
        ForeignError::TooLarge(_) => {
            "save it without its history, or split it into several documents"
        }
    };
    let code = format!("cli.{}", error.code());
    Failure::new(&code, Exit::Failed, format!("{name}: {error}"), hint)
}

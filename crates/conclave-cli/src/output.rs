//! What a command shows: text for people, or one JSON object.

use std::io::{self, IsTerminal, Write};

use conclave_client::FindingInfo;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Exit, Failure, Result};

/// The result of a command, in both forms.
#[derive(Debug)]
pub struct Shown {
    text: String,
    exact: bool,
    object: Map<String, Value>,
    exit: Exit,
}

impl Shown {
    /// A text, and one field of the object.
    pub fn new(text: impl Into<String>, field: &str, value: impl Serialize) -> Self {
        Self {
            text: text.into(),
            exact: false,
            object: Map::new(),
            exit: Exit::Done,
        }
        .with(field, value)
    }

    /// The same, with a text that is printed exactly as it is.
    pub fn raw(text: String, field: &str, value: impl Serialize) -> Self {
        Self {
            exact: true,
            ..Self::new(text, field, value)
        }
    }

    /// An object that is printed in JSON only: people have read it already.
    pub fn report(report: &impl Serialize) -> Self {
        let object = match serde_json::to_value(report) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        Self {
            object,
            ..Self::nothing()
        }
    }

    /// Nothing to print: the command has printed by itself.
    pub fn nothing() -> Self {
        Self {
            text: String::new(),
            exact: true,
            object: Map::new(),
            exit: Exit::Done,
        }
    }

    /// Another field of the object.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.object.insert(field.to_owned(), value);
        self
    }

    /// Says that this happened on this device only so far.
    #[must_use]
    pub fn queued(mut self, queued: bool) -> Self {
        if queued {
            self.text.push_str("\nqueued: the service does not have it yet; it is sent by the next command or agent that reaches the service");
            self.exit = Exit::Offline;
        }
        self.with("queued", queued)
    }

    /// Adds what was found wrong, where there is something: people read it on standard error. Gives whether the object has it.
    #[must_use]
    pub fn found(self, findings: &[FindingInfo]) -> (Self, bool) {
        if findings.is_empty() || self.object.is_empty() || self.object.contains_key("findings") {
            return (self, false);
        }
        (self.with("findings", findings), true)
    }

    /// Whether this is queued only.
    pub fn is_queued(&self) -> bool {
        self.exit == Exit::Offline
    }

    /// The process ends with this code.
    #[must_use]
    pub fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Says why the service was not reached, so that this is what this device has.
    #[must_use]
    pub fn not_reached(mut self, why: &Failure) -> Self {
        if matches!(self.exit, Exit::Done | Exit::Offline) {
            self.exit = match why.exit {
                exit @ (Exit::Refused | Exit::OtherLife) => exit,
                _ => Exit::Offline,
            };
        }
        self.with("not_reached", why.to_json())
    }

    /// Prints, and gives the exit code and whether anybody read it.
    ///
    /// # Errors
    /// Standard output takes nothing.
    pub fn print(self, json: bool) -> Result<(Exit, Reader)> {
        let reader = if json && !self.object.is_empty() {
            print_line(&Value::Object(self.object).to_string())?
        } else if self.exact && !json {
            print_raw(&self.text)?
        } else if !json && !self.text.is_empty() {
            print_line(self.text.trim_end_matches('\n'))?
        } else {
            Reader::There
        };
        Ok((self.exit, reader))
    }
}

/// Whether anybody still reads what is printed. A reader that has gone away, such as `head`, is no error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// As far as is known.
    There,
    /// Nothing more needs printing.
    Gone,
}

/// Prints a line on standard output.
///
/// # Errors
/// It could not be written: a full disk, say.
pub fn print_line(line: &str) -> Result<Reader> {
    print_raw(&format!("{line}\n"))
}

/// Prints text exactly as it is.
///
/// # Errors
/// As [`print_line`].
pub fn print_raw(text: &str) -> Result<Reader> {
    let mut stdout = io::stdout();
    // Flushed at once: what is still held when the process ends is lost without a word.
    printed(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    )
}

/// What came of printing.
///
/// # Errors
/// As [`print_line`].
pub fn printed(result: io::Result<()>) -> Result<Reader> {
    match result {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(
            "cli.output",
            Exit::Failed,
            format!("what was to be shown could not be written: {error}"),
            "look at where standard output goes; what the command did before stays done",
        )),
    }
}

/// Prints a failure on standard error, and gives the exit code. Where even that cannot be written nobody can be told.
pub fn print_failure(failure: &Failure, form: Form) -> Exit {
    said_failure(failure, form);
    failure.exit
}

/// Prints a failure on standard error, and gives whether that could be written.
pub fn said_failure(failure: &Failure, form: Form) -> bool {
    let text = match form {
        Form::Json => json!({"error": failure.to_json()}).to_string(),
        Form::Plain | Form::Verbose => failure.to_text("error: ", form),
    };
    said(&text)
}

/// Writes a line on standard error, and gives whether that could be done.
pub fn said(text: &str) -> bool {
    writeln!(io::stderr(), "{text}").is_ok()
}

/// How results and failures are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// To people.
    Plain,
    /// To people who want to know more.
    Verbose,
    /// To scripts.
    Json,
}

/// A note beside the result, for people only.
pub fn note(text: &str, json: bool) {
    if !json {
        said(text);
    }
}

/// Whether somebody sits at a terminal who can be asked.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A number and its noun.
pub fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Lines of cells, each column as wide as its widest cell.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_characters_not_bytes() {
        let row = |cells: &[&str]| {
            cells
                .iter()
                .map(|cell| (*cell).to_owned())
                .collect::<Vec<_>>()
        };
        let text = columns(&[row(&["größe", "1"]), row(&["a", "22"])]);
        assert_eq!(text, "größe  1\na      22");
        assert_eq!(columns(&[]), "");
    }

    #[test]
    fn queued_results_say_so_and_have_their_own_exit_code() {
        let shown = Shown::new("done", "document", "ab").queued(true);
        assert!(shown.text.contains("queued"));
        assert_eq!(shown.object.get("queued"), Some(&Value::Bool(true)));
        assert_eq!(shown.exit, Exit::Offline);
        assert_eq!(
            Shown::new("done", "document", "ab").queued(false).exit,
            Exit::Done
        );
    }
}

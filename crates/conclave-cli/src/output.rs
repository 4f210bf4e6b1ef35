//! What a command shows: text for people, or one JSON object.

use std::io::{IsTerminal, Write};

use conclave_client::FindingInfo;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Exit, Failure};

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

    /// Adds what was found wrong, where there is something: people read it on standard error.
    #[must_use]
    pub fn found(self, findings: &[FindingInfo]) -> Self {
        if findings.is_empty() || self.object.is_empty() || self.object.contains_key("findings") {
            return self;
        }
        self.with("findings", findings)
    }

    /// Says that the service was not reached, so that this may be old.
    #[must_use]
    pub fn stale(mut self, stale: bool) -> Self {
        if stale && self.exit == Exit::Done {
            self.exit = Exit::Offline;
        }
        self
    }

    /// Prints, and gives the exit code.
    pub fn print(self, json: bool) -> Exit {
        if json && !self.object.is_empty() {
            print_line(&Value::Object(self.object).to_string());
        } else if self.exact && !json {
            print_raw(&self.text);
        } else if !json && !self.text.is_empty() {
            print_line(self.text.trim_end_matches('\n'));
        }
        self.exit
    }
}

/// Prints a line on standard output. A reader that has gone away is no error of ours.
pub fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints text exactly as it is.
pub fn print_raw(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

/// Prints a failure on standard error, and gives the exit code.
pub fn print_failure(failure: &Failure, json: bool) -> Exit {
    let mut stderr = std::io::stderr();
    let _ = if json {
        let object = json!({"error": {"code": failure.code, "message": failure.message, "hint": failure.hint}});
        writeln!(stderr, "{object}")
    } else {
        match &failure.hint {
            Some(hint) => writeln!(stderr, "error: {}\nhint: {hint}", failure.message),
            None => writeln!(stderr, "error: {}", failure.message),
        }
    };
    failure.exit
}

/// A note beside the result, for people only.
pub fn note(text: &str, json: bool) {
    if !json {
        let _ = writeln!(std::io::stderr(), "{text}");
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

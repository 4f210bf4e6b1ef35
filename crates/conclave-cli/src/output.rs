//! What a command shows: text for people, or one JSON object. All that this program prints goes through here, where nothing that others wrote
//! can order a terminal about (see [`crate::terminal`]).

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use conclave_client::FindingInfo;
use console::measure_text_width;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Exit, Failure, Result};
pub use crate::painted::PaintedRow;
use crate::painted::{Canvas, painted};
use crate::terminal::{Written, on_one_line, tame};

/// Whether results reach a terminal as they are: somebody asked for that.
static RAW: AtomicBool = AtomicBool::new(false);

/// Results are printed exactly as they are from here on, also on a terminal.
pub fn print_untamed() {
    RAW.store(true, Ordering::Relaxed);
}

/// Where text goes.
#[derive(Debug, Clone, Copy)]
enum Stream {
    /// Standard output: the result.
    Result,
    /// Standard error: what is said beside it.
    Said,
}

impl Stream {
    /// Whether a person looks at it who is to be shown nothing that acts.
    fn is_tame(self) -> bool {
        match self {
            Self::Result => io::stdout().is_terminal() && !RAW.load(Ordering::Relaxed),
            Self::Said => io::stderr().is_terminal(),
        }
    }

    /// Writes bytes as they are, and flushes: what is still held when the process ends is lost without a word.
    fn write_bytes(self, bytes: &[u8]) -> io::Result<()> {
        fn all(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
            to.write_all(bytes)?;
            to.flush()
        }
        match self {
            Self::Result => all(io::stdout().lock(), bytes),
            Self::Said => all(io::stderr().lock(), bytes),
        }
    }

    fn write(self, text: &str) -> io::Result<()> {
        let text = match self.is_tame() {
            true => tame(text, Written::Braced),
            false => Cow::Borrowed(text),
        };
        self.write_bytes(text.as_bytes())
    }
}

/// The log on standard error.
#[derive(Debug, Clone, Copy)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Stream::Said.write(&String::from_utf8_lossy(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is said of what only this device has so far.
const QUEUED: &str = "\nqueued: the service does not have it yet; it is sent by the next command or agent that reaches the service";

/// The result of a command, in both forms.
#[derive(Debug)]
pub struct Shown {
    text: String,
    exact: bool,
    painted: Vec<PaintedRow>,
    object: Map<String, Value>,
    exit: Exit,
}

impl Shown {
    /// A text, and one field of the object.
    pub fn new(text: impl Into<String>, field: &str, value: impl Serialize) -> Self {
        Self {
            text: text.into(),
            exact: false,
            painted: Vec::new(),
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

    /// Rows that say whose they are, and one field of the object.
    pub fn painted(painted: Vec<PaintedRow>, field: &str, value: impl Serialize) -> Self {
        Self {
            painted,
            ..Self::new("", field, value)
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
            painted: Vec::new(),
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

    /// Another line for people.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.text.push('\n');
        self.text.push_str(line);
        self
    }

    /// Says that this happened on this device only so far.
    #[must_use]
    pub fn queued(mut self, queued: bool) -> Self {
        if queued {
            self.text.push_str(QUEUED);
            self.exit = Exit::Offline;
        }
        self.with("queued", queued)
    }

    /// Says why it stays on this device, in place of what is said of what is queued.
    #[must_use]
    pub fn rests(mut self, why: &str, pause: impl Serialize) -> Self {
        self.text = self.text.replace(QUEUED, &format!("\n{why}"));
        self.with("paused", pause)
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
            print_json(&Value::Object(self.object))?
        } else if !self.painted.is_empty() {
            print_painted(&self.painted)?
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

/// Prints text without a line end of its own.
///
/// # Errors
/// As [`print_line`].
pub fn print_raw(text: &str) -> Result<Reader> {
    printed(Stream::Result.write(text))
}

/// Prints rows that say whose they are.
///
/// # Errors
/// As [`print_line`].
fn print_painted(rows: &[PaintedRow]) -> Result<Reader> {
    let is_tame = Stream::Result.is_tame();
    let terminal = console::Term::stdout();
    let width = terminal
        .size_checked()
        .map_or(80, |(_, columns)| usize::from(columns));
    let canvas = Canvas {
        width: is_tame.then_some(width),
        has_colours: is_tame && console::colors_enabled(),
    };
    // Nothing that somebody wrote is in it as it was.
    printed(Stream::Result.write_bytes(painted(rows, canvas).as_bytes()))
}

/// Prints JSON on a line.
///
/// # Errors
/// As [`print_line`].
pub fn print_json(value: &impl Serialize) -> Result<Reader> {
    let text = json_text(value);
    printed(Stream::Result.write_bytes(format!("{text}\n").as_bytes()))
}

/// JSON that means what it should and does nothing to a terminal.
fn json_text(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    tame(&text, Written::Json).into_owned()
}

/// Prints bytes exactly as they are; on a terminal as text, where they are that.
///
/// # Errors
/// As [`print_line`]; or a terminal is there that could do anything with them.
pub fn print_bytes(bytes: &[u8]) -> Result<Reader> {
    if !Stream::Result.is_tame() {
        return printed(Stream::Result.write_bytes(bytes));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => print_raw(text),
        Err(_) => Err(Failure::new(
            "cli.not_for_a_terminal",
            Exit::Usage,
            "this is no text, and standard output is a terminal",
            "name a file, send it to another program, or print it all the same with --raw",
        )),
    }
}

/// What came of printing.
///
/// # Errors
/// As [`print_line`].
fn printed(result: io::Result<()>) -> Result<Reader> {
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
        Form::Json => json_text(&json!({"error": failure.to_json()})),
        Form::Plain | Form::Verbose => failure.to_text("error: ", form),
    };
    said(&text)
}

/// Prints what the reader of the command line says: help on standard output as it is, which is this program's own; anything else tame, since it repeats
/// what was typed, perhaps pasted.
pub fn print_usage(error: &clap::Error) -> Result<()> {
    if error.use_stderr() {
        // Where even that cannot be written nobody can be told.
        let _ = Stream::Said.write(&error.render().to_string());
        return Ok(());
    }
    let written = error.print().and_then(|()| io::stdout().flush());
    printed(written).map(drop)
}

/// Writes a line on standard error, and gives whether that could be done.
pub fn said(text: &str) -> bool {
    Stream::Said.write(&format!("{text}\n")).is_ok()
}

/// Asks on standard error, and gives the line that was typed; none where it could not be read.
pub fn asked(question: &str) -> io::Result<String> {
    Stream::Said.write(question)?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line)
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
///
/// A cell is never more than one line, whatever stands in it: what somebody wrote does not pass for a row of its own.
pub fn columns(rows: &[Vec<String>]) -> String {
    let whole = |row: &Vec<String>| row.iter().map(|cell| one_line(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(whole).collect();
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
    lines
        .map(|line| folded(&line))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A line of a table as standard output has it: where a terminal would break it, it goes on set off from the margin, so that nothing that somebody
/// wrote stands there as a line of its own.
pub fn folded(line: &str) -> String {
    if !Stream::Result.is_tame() {
        return line.to_owned();
    }
    let terminal = console::Term::stdout();
    let width = terminal.size_checked().map_or(80, |(_, columns)| columns);
    folded_at(line, usize::from(width))
}

fn folded_at(line: &str, width: usize) -> String {
    // As it will be shown: what is escaped is longer.
    let line = on_one_line(line);
    // On a terminal that is too narrow to be read, what is set off would be all there is.
    if measure_text_width(&line) <= width || width <= 4 * GOES_ON.len() {
        return line.into_owned();
    }
    let mut out = String::new();
    let mut at = 0;
    for c in line.chars() {
        let wide = measure_text_width(c.encode_utf8(&mut [0; 4]));
        if at + wide > width {
            out.push('\n');
            out.push_str(GOES_ON);
            at = GOES_ON.len();
        }
        out.push(c);
        at += wide;
    }
    out
}

/// What stands before a line that goes on.
const GOES_ON: &str = "        ";

/// A cell without line ends. Whether it reaches a terminal is decided later: other programs have it as it is.
fn one_line(cell: &str) -> String {
    cell.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that is printed has to go through this file, or a command could forget what a terminal must not be given.
    #[test]
    fn nothing_is_printed_but_here() {
        const FORBIDDEN: [&str; 6] = [
            "println!",
            "print!(",
            "dbg!(",
            "io::stdout",
            "io::stderr",
            ".set_message(",
        ];
        // Bars, which say what goes through `on_one_line`, or is the demonstration's own.
        const BARS: [&str; 2] = ["src/context.rs", "src/demo/narrate.rs"];
        let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let (mut seen, mut found) = (0, Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|it| it == "rs")
                    && !path.ends_with("src/output.rs")
                {
                    seen += 1;
                    let source = std::fs::read_to_string(&path).unwrap();
                    let lines = source.lines().enumerate();
                    let is_bar = BARS.iter().any(|bar| path.ends_with(bar));
                    let bad = lines.filter(|(_, line)| {
                        let mut forbidden = FORBIDDEN.iter().filter(|it| line.contains(**it));
                        forbidden.any(|it| !(is_bar && *it == ".set_message("))
                    });
                    found.extend(
                        bad.map(|(at, line)| format!("{}:{}: {line}", path.display(), at + 1)),
                    );
                }
            }
        }
        assert!(seen > 30, "{seen} files");
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn what_stands_in_a_cell_is_no_row_of_its_own() {
        let rows = [vec!["a\nBen  verified".to_owned(), "1".to_owned()]];
        assert_eq!(columns(&rows), "a\\nBen  verified  1");
    }

    #[test]
    fn what_is_too_wide_goes_on_set_off_from_the_margin() {
        let title = format!("Minutes{}beefbeef  yjs  Payroll", " ".repeat(30));
        let row = format!("{title}  cafecafe  yjs");
        let lines: Vec<String> = folded_at(&row, 37).lines().map(str::to_owned).collect();
        assert!(lines.len() > 1);
        assert!(lines.iter().skip(1).all(|line| line.starts_with(GOES_ON)));
        assert!(lines.iter().all(|line| measure_text_width(line) <= 37));
        let whole = lines.join("\n").replace(&format!("\n{GOES_ON}"), "");
        assert_eq!(whole, row);
        // Wide characters, and what is shown escaped.
        let wide = folded_at(&"会".repeat(30), 41);
        assert!(wide.lines().all(|line| measure_text_width(line) <= 41));
        let hidden = folded_at(&"\u{202e}".repeat(30), 41);
        assert!(hidden.lines().all(|line| measure_text_width(line) <= 41));
        assert_eq!(folded_at("short", 37), "short");
    }

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

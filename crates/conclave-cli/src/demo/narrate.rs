//! Telling the story: numbered steps, wrapped sentences, and a progress bar where there is a terminal.

use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, Result};
use crate::output::{print_line, said};

/// Width of the story in columns.
const COLUMNS: usize = 78;
/// Time between two turns of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// How long a step took.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Step {
    /// Its title.
    pub step: String,
    /// Seconds.
    pub seconds: f64,
}

/// Tells the story on one stream.
#[derive(Debug)]
pub struct Narrator {
    to_stderr: bool,
    bar: ProgressBar,
    began: Instant,
    steps: Mutex<Vec<(String, Instant)>>,
    total: usize,
    /// The first line that could not be printed.
    unheard: OnceLock<Failure>,
}

impl Narrator {
    /// A story of `total` steps; on standard error where standard output belongs to JSON.
    pub fn new(to_stderr: bool, total: usize) -> Self {
        // Draws on standard error, and only where that is a terminal.
        let bar = ProgressBar::new(total as u64);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:24}] {elapsed} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(TICK);
        Self {
            to_stderr,
            bar,
            began: Instant::now(),
            steps: Mutex::new(Vec::new()),
            total,
            unheard: OnceLock::new(),
        }
    }

    /// Begins a step.
    pub fn step(&self, title: &str) {
        let number = {
            let mut steps = self
                .steps
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            steps.push((title.to_owned(), Instant::now()));
            steps.len()
        };
        self.bar.set_position(number.saturating_sub(1) as u64);
        self.bar.set_message(title.to_owned());
        self.print(&format!("\n{number}/{} {title}", self.total));
    }

    /// A sentence or two about what happens and why.
    pub fn say(&self, text: &str) {
        self.print(&wrapped(text, "    "));
    }

    /// Something that was seen.
    pub fn seen(&self, text: &str) {
        self.print(&wrapped(text, "  * "));
    }

    /// What is being waited for, beside the bar.
    pub fn waiting(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// Prints lines as they are.
    pub fn print(&self, text: &str) {
        self.bar.suspend(|| {
            if self.to_stderr {
                // Where even that cannot be written nobody can be told.
                said(text);
            } else if let Err(failure) = print_line(text) {
                // Must not end the demonstration before its children are gone.
                let _ = self.unheard.set(failure);
            }
        });
    }

    /// Whether everything could be printed.
    ///
    /// # Errors
    /// What failed first.
    pub fn heard(&self) -> Result<()> {
        self.unheard.get().cloned().map_or(Ok(()), Err)
    }

    /// Ends the bar; gives the time of each step and of everything.
    pub fn finish(&self) -> (Vec<Step>, f64) {
        self.bar.finish_and_clear();
        let steps = self
            .steps
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        let ends = steps.iter().skip(1).map(|(_, began)| *began).chain([now]);
        let steps = steps.iter().zip(ends).map(|((title, began), end)| Step {
            step: title.clone(),
            seconds: rounded((end - *began).as_secs_f64()),
        });
        (steps.collect(), rounded((now - self.began).as_secs_f64()))
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Breaks a paragraph into lines; the first begins with `first`, the others with blanks of the same width.
fn wrapped(text: &str, first: &str) -> String {
    let indent = " ".repeat(first.chars().count());
    let mut lines: Vec<String> = Vec::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    lines.push(line);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_wrapped_and_indented() {
        let text = "word ".repeat(40);
        let lines = wrapped(&text, "  * ");
        assert!(lines.lines().all(|line| line.len() <= COLUMNS));
        assert!(lines.starts_with("  * word"));
        assert!(
            lines
                .lines()
                .skip(1)
                .all(|line| line.starts_with("    word"))
        );
    }

    #[test]
    fn a_word_longer_than_a_line_stays_whole() {
        let word = "x".repeat(100);
        assert_eq!(wrapped(&word, "    "), format!("    {word}"));
    }

    #[test]
    fn steps_are_timed_in_order() {
        let narrator = Narrator::new(true, 2);
        narrator.step("one");
        narrator.step("two");
        let (steps, seconds) = narrator.finish();
        assert_eq!(
            steps
                .iter()
                .map(|step| step.step.as_str())
                .collect::<Vec<_>>(),
            ["one", "two"]
        );
        assert!(seconds >= steps.iter().map(|step| step.seconds).sum::<f64>() - 0.01);
    }
}

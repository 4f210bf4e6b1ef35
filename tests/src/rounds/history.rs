//! What each device says that it wrote, and whether that is what the documents hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// One line of a document, written once by one device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    /// Which document.
    pub document: String,
    /// Which device.
    pub device: String,
    /// Counts that device's lines.
    pub number: u64,
}

impl Token {
    /// As it stands in the document.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}/{}", self.device, self.number)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.line(), self.document)
    }
}

/// What became of an edit, as the device was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended before it heard.
    Unknown,
    /// It is durable.
    Acknowledged,
    /// It was not made, for this reason.
    Failed(String),
}

/// A device's journal. Lines are appended whole, so that a killed process leaves at most one edit of unknown outcome.
#[derive(Debug)]
pub struct Journal {
    file: File,
    next: u64,
}

impl Journal {
    /// Opens a journal and goes on with its numbers.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self> {
        let next = match std::fs::read_to_string(path) {
            Ok(text) => text.lines().filter(|line| line.starts_with("try ")).count(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error).context("reading a journal"),
        };
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file,
            next: next as u64,
        })
    }

    /// Says that an edit begins, and numbers it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn begin(&mut self, document: &str) -> io::Result<u64> {
        let number = self.next;
        self.next += 1;
        self.file
            .write_all(format!("try {document} {number}\n").as_bytes())?;
        Ok(number)
    }

    /// Says that an edit is durable.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn acknowledged(&mut self, document: &str, number: u64) -> io::Result<()> {
        self.file
            .write_all(format!("ok {document} {number}\n").as_bytes())
    }

    /// Says that an edit was refused.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn failed(&mut self, document: &str, number: u64, code: &str) -> io::Result<()> {
        self.file
            .write_all(format!("failed {document} {number} {code}\n").as_bytes())
    }
}

/// What all devices tried, and what they were told.
#[derive(Debug, Default)]
pub struct History {
    outcomes: BTreeMap<Token, Outcome>,
}

impl History {
    /// Reads the journal of one device into this history.
    ///
    /// # Errors
    /// When a line is none of a journal's.
    pub fn read(&mut self, device: &str, text: &str) -> Result<()> {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (verb, document, number, outcome) = match words.as_slice() {
                ["try", document, number] => ("try", document, number, Outcome::Unknown),
                ["ok", document, number] => ("ok", document, number, Outcome::Acknowledged),
                ["failed", document, number, code] => (
                    "failed",
                    document,
                    number,
                    Outcome::Failed((*code).to_owned()),
                ),
                _ => bail!("{device}'s journal has the line {line:?}"),
            };
            let token = Token {
                document: (*document).to_owned(),
                device: device.to_owned(),
                number: number.parse().context("a number in a journal")?,
            };
            if (verb == "try") == self.outcomes.contains_key(&token) {
                bail!("{device}'s journal has {line:?} out of order");
            }
            self.outcomes.insert(token, outcome);
        }
        Ok(())
    }

    /// Edits that were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        let acknowledged = |outcome: &&Outcome| **outcome == Outcome::Acknowledged;
        self.outcomes.values().filter(acknowledged).count()
    }

    /// Compares the history with what the documents hold (name and text) and with lines that were kept apart for their author because the
    /// document takes them no more.
    #[must_use]
    pub fn check(&self, texts: &BTreeMap<String, String>, kept: &BTreeSet<String>) -> Verdict {
        let mut verdict = Verdict::default();
        let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (document, text) in texts {
            for line in text.lines() {
                *counts
                    .entry((document.clone(), line.to_owned()))
                    .or_default() += 1;
            }
        }
        for (token, outcome) in &self.outcomes {
            let line = token.line();
            let count = counts
                .remove(&(token.document.clone(), line.clone()))
                .unwrap_or(0);
            match (outcome, count) {
                (Outcome::Acknowledged, 0) if kept.contains(&line) => verdict.kept += 1,
                (Outcome::Acknowledged, 0) => verdict.lost.push(token.clone()),
                (Outcome::Failed(code), 1..) => {
                    verdict
                        .made_though_failed
                        .push((token.clone(), code.clone()));
                }
                _ => {}
            }
            if count > 1 {
                verdict.doubled.push(token.clone());
            }
        }
        // What is left was written by nobody: torn or mixed lines.
        verdict.foreign = counts
            .into_keys()
            .filter(|(_, line)| !line.is_empty())
            .map(|(document, line)| format!("{line:?} in {document}"))
            .collect();
        verdict.acknowledged = self.acknowledged();
        verdict
    }
}

/// What a check found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Edits that were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged edits that the document takes no more and that were kept apart for their author.
    pub kept: usize,
    /// Acknowledged, and nowhere.
    pub lost: Vec<Token>,
    /// More than once in the document.
    pub doubled: Vec<Token>,
    /// In the document, though their author was told that they failed.
    pub made_though_failed: Vec<(Token, String)>,
    /// In the document, written by nobody.
    pub foreign: Vec<String>,
}

impl Verdict {
    /// Whether the documents hold what the history says.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.made_though_failed.is_empty()
            && self.foreign.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut history = History::default();
        history
            .read(
                "ana",
                "try a 0\nok a 0\ntry b 1\nok b 1\ntry a 2\nfailed a 2 x.y\ntry a 3\n",
            )
            .unwrap();
        history
    }

    fn check(a: &str, b: &str, kept: &[&str]) -> Verdict {
        let texts = [("a", a), ("b", b)].map(|(name, text)| (name.to_owned(), text.to_owned()));
        let kept = kept.iter().map(|line| (*line).to_owned()).collect();
        history().check(&BTreeMap::from(texts), &kept)
    }

    #[test]
    fn what_is_there_once_is_good_whether_or_not_the_author_heard_of_it() {
        for a in ["ana/0\n", "ana/3\nana/0\n"] {
            let verdict = check(a, "ana/1\n", &[]);
            assert!(verdict.is_good(), "{verdict:?}");
            assert_eq!(verdict.acknowledged, 2);
        }
    }

    #[test]
    fn a_lost_edit_is_found_unless_it_was_kept_apart() {
        let verdict = check("", "ana/1\n", &[]);
        assert_eq!(verdict.lost.len(), 1);
        let verdict = check("", "ana/1\n", &["ana/0"]);
        assert!(verdict.is_good());
        assert_eq!(verdict.kept, 1);
    }

    #[test]
    fn a_line_in_the_wrong_document_is_lost_and_foreign() {
        let verdict = check("", "ana/1\nana/0\n", &[]);
        assert_eq!((verdict.lost.len(), verdict.foreign.len()), (1, 1));
    }

    #[test]
    fn doubled_failed_and_torn_lines_are_found() {
        assert_eq!(check("ana/0\nana/0\n", "ana/1\n", &[]).doubled.len(), 1);
        assert_eq!(
            check("ana/0\nana/3\nana/3\n", "ana/1\n", &[]).doubled.len(),
            1
        );
        let failed = check("ana/0\nana/2\n", "ana/1\n", &[]);
        assert_eq!(failed.made_though_failed.len(), 1);
        assert_eq!(check("ana/0\nan\n", "ana/1\n", &[]).foreign.len(), 1);
    }

    #[test]
    fn a_journal_goes_on_with_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ana");
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.begin("a").unwrap(), 0);
        journal.acknowledged("a", 0).unwrap();
        assert_eq!(journal.begin("b").unwrap(), 1);
        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.begin("a").unwrap(), 2);
        journal.failed("a", 2, "x.y").unwrap();
        let mut history = History::default();
        history
            .read("ana", &std::fs::read_to_string(&path).unwrap())
            .unwrap();
        assert_eq!(history.acknowledged(), 1);
        assert!(history.read("ana", "ok a 0\nnonsense\n").is_err());
    }
}

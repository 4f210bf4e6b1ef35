//! Counts of what the sources still hold of a design that is being replaced. `docs/TESTING.md` says what each counts.

mod booleans;
mod closures;
mod fakes;
mod judging;
mod sqlite;
mod tree;

use std::fmt::Write as _;

use anyhow::Result;

pub use tree::{Source, Tree};

/// One count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// What is counted.
    pub what: &'static str,
    /// Where it was found, and how often.
    pub found: Vec<(String, usize)>,
}

impl Count {
    /// How many there are.
    #[must_use]
    pub fn number(&self) -> usize {
        self.found.iter().map(|(_, number)| number).sum()
    }
}

/// Counts in a tree.
///
/// # Errors
/// When it cannot be read, or holds what is no Rust.
pub fn count(tree: &Tree) -> Result<Vec<Count>> {
    let sources = tree.sources()?;
    let [direct, contained] = booleans::count(&sources);
    let [types, made] = closures::count(&sources);
    Ok(vec![
        direct,
        contained,
        types,
        made,
        judging::count(&sources),
        fakes::count(&sources),
        sqlite::count(&sources),
    ])
}

/// Counts as a table; the second column is of an older tree.
#[must_use]
pub fn table(now: &[Count], against: Option<(&str, &[Count])>) -> String {
    let width = now.iter().map(|it| it.what.len()).max().unwrap_or_default();
    let mut table = String::new();
    let mut line = |what: &str, before: Option<String>, number: String| {
        let before = before.map_or_else(String::new, |it| format!("{it:>12}"));
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{what:width$}{before}{number:>8}");
    };
    line(
        "",
        against.map(|(name, _)| shortened(name)),
        "now".to_owned(),
    );
    for (at, count) in now.iter().enumerate() {
        let before = against.and_then(|(_, before)| before.get(at));
        let before = before.map(|count| count.number().to_string());
        line(count.what, before, count.number().to_string());
    }
    table
}

fn shortened(name: &str) -> String {
    name.chars().take(10).collect()
}

/// Where everything was found.
#[must_use]
pub fn list(counts: &[Count]) -> String {
    let mut text = String::new();
    for count in counts {
        text.push_str(&format!("\n{}: {}\n", count.what, count.number()));
        for (place, number) in &count.found {
            text.push_str(&format!("  {number:>5}  {place}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_numbers_stand_beside_the_newer() {
        let count = |number| {
            let found = vec![("a.rs".to_owned(), number), ("b.rs".to_owned(), 1)];
            vec![Count {
                what: "things",
                found,
            }]
        };
        let (now, before) = (count(2), count(40));
        assert_eq!(table(&now, None), "           now\nthings       3\n");
        assert_eq!(
            table(&now, Some(("0123456789abcdef", &before))),
            "        0123456789     now\nthings          41       3\n"
        );
        assert_eq!(list(&now), "\nthings: 3\n      2  a.rs\n      1  b.rs\n");
    }
}

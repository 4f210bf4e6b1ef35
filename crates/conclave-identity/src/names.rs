//! What can stand for somebody or something: names of people, devices and groups, and titles of documents. They are petnames, and identify nothing.

use std::fmt::Write as _;

use crate::error::NameError;

/// Most characters of a name.
pub const NAME_CHARS: usize = 64;
/// Most characters of a title.
pub const TITLE_CHARS: usize = 300;

/// Checks that `name` can stand for somebody: 1 to [`NAME_CHARS`] characters, none of which is a control character or a line break,
/// reverses the direction of text or is an invisible mark, and no white space at the ends.
///
/// # Errors
/// [`NameError`] says which rule is broken.
pub fn check_name(name: &str) -> Result<(), NameError> {
    check(name, NAME_CHARS)
}

/// As [`check_name`], for the title of a document: up to [`TITLE_CHARS`] characters.
///
/// # Errors
/// As [`check_name`].
pub fn check_title(title: &str) -> Result<(), NameError> {
    check(title, TITLE_CHARS)
}

fn check(name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.chars().nth(max).is_some() {
        return Err(NameError::TooLong { max });
    }
    if name.chars().any(is_control) {
        return Err(NameError::Control);
    }
    if name.trim() != name {
        return Err(NameError::Untrimmed);
    }
    Ok(())
}

/// How a name of which nobody knows whether it is one can be shown to people: one that [`check_name`] refuses is told from all others by what is
/// escaped in it (`\u{..}`), or by the mark of what was cut off.
#[must_use]
pub fn shown_name(name: &str) -> String {
    shown(name, NAME_CHARS)
}

/// As [`shown_name`], of a title.
#[must_use]
pub fn shown_title(title: &str) -> String {
    shown(title, TITLE_CHARS)
}

fn shown(name: &str, max: usize) -> String {
    if check(name, max).is_ok() {
        return name.to_owned();
    }
    let inner = name.trim_start();
    let before = name.len() - inner.len();
    let inner = before..before + inner.trim_end().len();
    let mut out = String::new();
    for (at, c) in name.char_indices().take(max) {
        if is_control(c) || !inner.contains(&at) {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    if name.chars().nth(max).is_some() {
        out.push('\u{2026}');
    }
    if out.is_empty() {
        out.push_str("\\u{}");
    }
    out
}

/// Whether it is what [`shown_name`] makes of what is no name.
#[must_use]
pub fn is_escaped(shown: &str) -> bool {
    shown.contains("\\u{")
}

/// Characters beside the control characters that reorder text, break lines or show as nothing (Unicode `Default_Ignorable_Code_Point`,
/// bidirectional marks, separators), so that one name could pass for another. Joiners and variation selectors stay allowed: some scripts
/// and emoji need them.
const HIDDEN: [(char, char); 14] = [
    ('\u{00AD}', '\u{00AD}'),
    ('\u{034F}', '\u{034F}'),
    ('\u{061C}', '\u{061C}'),
    ('\u{115F}', '\u{1160}'),
    ('\u{17B4}', '\u{17B5}'),
    ('\u{180E}', '\u{180E}'),
    ('\u{200B}', '\u{200B}'),
    ('\u{200E}', '\u{200F}'),
    ('\u{2028}', '\u{202E}'),
    ('\u{2060}', '\u{206F}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{FEFF}', '\u{FEFF}'),
    ('\u{FFA0}', '\u{FFA0}'),
    ('\u{FFF9}', '\u{FFFB}'),
];

fn is_control(c: char) -> bool {
    c.is_control()
        || HIDDEN
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_printable() {
        assert_eq!(check_name("Zoë Ångström 🦊"), Ok(()));
        assert_eq!(check_name(&"x".repeat(NAME_CHARS)), Ok(()));
        assert_eq!(check_name(&"é".repeat(NAME_CHARS)), Ok(()));
        assert_eq!(check_name(""), Err(NameError::Empty));
        assert_eq!(
            check_name(&"x".repeat(NAME_CHARS + 1)),
            Err(NameError::TooLong { max: NAME_CHARS })
        );
        for bad in [
            "a\nb",
            "a\0",
            "\u{1b}[31mred",
            "a\u{202e}b",
            "a\u{2028}b",
            "\u{feff}a",
            "a\u{85}b",
            "a\u{ad}b",
            "\u{3164}",
            "a\u{2066}b",
        ] {
            assert_eq!(check_name(bad), Err(NameError::Control), "{bad:?}");
        }
        assert_eq!(check_name(" a"), Err(NameError::Untrimmed));
        assert_eq!(check_name("a\u{3000}"), Err(NameError::Untrimmed));
    }

    #[test]
    fn what_is_no_name_is_shown_as_no_other() {
        for name in ["Board", "Bo\u{e4}rd \u{1f600}", "a b"] {
            assert_eq!(shown_name(name), name);
            assert!(!is_escaped(name));
        }
        let cases = [
            ("Bo\u{202e}ard", "Bo\\u{202e}ard"),
            (" Board", "\\u{20}Board"),
            ("Board\u{a0}", "Board\\u{a0}"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("  ", "\\u{20}\\u{20}"),
            ("", "\\u{}"),
        ];
        for (name, expected) in cases {
            assert!(check_name(name).is_err(), "{name:?}");
            assert_eq!(shown_name(name), expected);
            assert!(is_escaped(&shown_name(name)));
        }
        let long = "x".repeat(NAME_CHARS + 1);
        let short = shown_name(&long);
        assert!(check_name(&short).is_err(), "{short}");
        assert_eq!(shown_title(&long), long);
        let long = "x".repeat(TITLE_CHARS + 1);
        assert!(check_title(&long).is_err());
        assert!(check_title(&shown_title(&long)).is_err());
    }
}

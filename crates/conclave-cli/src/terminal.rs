//! What a person's terminal is shown. Text that others wrote (documents, names, titles, what a service or a file says) could order the
//! terminal about, write over what stands there, or reorder it, so that it seems to come from somebody else. None of that reaches a terminal:
//! such characters are shown as `\u{1b}`, and nothing else is changed.

use std::borrow::Cow;
use std::fmt::Write as _;

/// How a character is written that is not to reach the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As in names that are none: `\u{1b}`.
    Braced,
    /// As JSON writes it within strings, which means the same: `\u001b`.
    Json,
}

/// Characters beside the control characters that reorder text or end a line: bidirectional marks, embeddings, overrides and isolates
/// (Unicode Standard Annex 9), separators, and the deprecated and annotating format characters.
const ACTING: [(char, char); 6] = [
    ('\u{061c}', '\u{061c}'),
    ('\u{200e}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2066}', '\u{206f}'),
    ('\u{fff9}', '\u{fffb}'),
    // Tags: they spell text that nobody sees.
    ('\u{e0001}', '\u{e0001}'),
];

/// Whether a terminal, or who looks at it, may take a character for more than itself. Line ends and tabs are what they are.
fn acts(c: char) -> bool {
    let is_layout = matches!(c, '\n' | '\t');
    let within = |(first, last): &(char, char)| (*first..=*last).contains(&c);
    !is_layout && (c.is_control() || ACTING.iter().any(within))
}

/// A text as a terminal may have it. Lines stay lines.
pub fn tame(text: &str, written: Written) -> Cow<'_, str> {
    // Breakage: what others wrote does what it likes to a terminal.
    if !text.chars().any(acts) || crate::broken("terminal-raw") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().saturating_add(16));
    for c in text.chars() {
        match written {
            _ if !acts(c) => out.push(c),
            Written::Braced => _ = write!(out, "{}", c.escape_unicode()),
            Written::Json => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    Cow::Owned(out)
}

/// The same on one line: a cell of a table, what a bar says.
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\n', '\t']) {
        let broken = text.replace('\n', "\\n").replace('\t', " ");
        return Cow::Owned(tame(&broken, Written::Braced).into_owned());
    }
    tame(text, Written::Braced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_is_left() {
        let cases = [
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("\u{1b}]0;title\u{7}", "\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("mine\rtheirs", "mine\\u{d}theirs"),
            ("a\u{8}b\u{7f}\0", "a\\u{8}b\\u{7f}\\u{0}"),
            (
                "a\u{202e}b\u{2069}\u{200f}",
                "a\\u{202e}b\\u{2069}\\u{200f}",
            ),
            ("a\u{85}b\u{2028}c", "a\\u{85}b\\u{2028}c"),
        ];
        for (text, expected) in cases {
            let tamed = tame(text, Written::Braced);
            assert_eq!(tamed, expected);
            assert!(!tamed.chars().any(acts));
        }
    }

    #[test]
    fn what_only_reads_stays_as_it_is() {
        let text = "größe\tשלום 👩\u{200d}👩\u{200d}👧 ❤\u{fe0f}\nنص\n";
        assert!(matches!(tame(text, Written::Braced), Cow::Borrowed(same) if same == text));
        assert_eq!(on_one_line("a\nb\tc\u{1b}"), "a\\nb c\\u{1b}");
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = serde_json::json!({"a\u{9b}": "b\u{1b}\u{202e}\u{7f}\u{e0001}\n"});
        let text = value.to_string();
        let tamed = tame(&text, Written::Json);
        assert!(!tamed.chars().any(acts));
        let read: serde_json::Value = serde_json::from_str(&tamed).unwrap();
        assert_eq!(read, value);
    }
}

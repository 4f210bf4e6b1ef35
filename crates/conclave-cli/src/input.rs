//! What is read from files and standard input: bytes, and the text in them.

use std::io::Read;
use std::path::Path;

use encoding_rs::{Encoding, REPLACEMENT, UTF_8, UTF_16BE, UTF_16LE};

use crate::failure::{Exit, Failure, Result};

/// Most that is read, in bytes.
pub const INPUT_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The mark with which a text may begin to name its encoding.
const MARK: char = '\u{feff}';

/// How a text is encoded, as `--encoding` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEncoding {
    /// UTF-16 in the order that its mark names; without one little-endian.
    Utf16,
    /// One by its name.
    Named(&'static Encoding),
}

impl std::str::FromStr for TextEncoding {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        if name.eq_ignore_ascii_case("utf-16") || name.eq_ignore_ascii_case("utf16") {
            return Ok(Self::Utf16);
        }
        Encoding::for_label(name.as_bytes())
            .filter(|encoding| *encoding != REPLACEMENT)
            .map(Self::Named)
            .ok_or_else(|| {
                "no such encoding; names are utf-8, utf-16, windows-1252, latin1, shift_jis, …"
                    .to_owned()
            })
    }
}

/// What `-` and other paths are called in messages.
pub fn name_of(path: &Path) -> String {
    match is_standard(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// Whether a path means standard input or output.
pub fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads a file, or standard input for `-`.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more than may be: sizes of pipes and devices are not known before.
    let bound = INPUT_MAX_BYTES + 1;
    let done = match is_standard(path) {
        true => std::io::stdin().lock().take(bound).read_to_end(&mut bytes),
        false => {
            std::fs::File::open(path).and_then(|file| file.take(bound).read_to_end(&mut bytes))
        }
    };
    done.map_err(|error| Failure::file("read", Path::new(&name_of(path)), &error))?;
    if bytes.len() as u64 > INPUT_MAX_BYTES {
        let mebibytes = INPUT_MAX_BYTES / (1024 * 1024);
        let message = format!("{} is larger than {mebibytes} MiB", name_of(path));
        return Err(Failure::usage(message, "split it into several documents"));
    }
    Ok(bytes)
}

/// The text in bytes, without a mark at its front: that belongs to the encoding. Everything else is kept: line ends, zero bytes, a last line
/// without an end.
///
/// # Errors
/// They are not in that encoding. The failure says what they seem to be in.
pub fn text(bytes: Vec<u8>, encoding: Option<TextEncoding>, name: &str) -> Result<String> {
    let chosen = match encoding {
        None => None,
        Some(TextEncoding::Utf16) => Some(match bytes.starts_with(&[0xfe, 0xff]) {
            true => UTF_16BE,
            false => UTF_16LE,
        }),
        Some(TextEncoding::Named(encoding)) => Some(encoding),
    };
    let text = match chosen {
        None if is_unmarked_utf16(&bytes) => return Err(unmarked_utf16(name)),
        None => String::from_utf8(bytes).map_err(|error| not_utf8(&error, name))?,
        Some(encoding) => encoding
            .decode_without_bom_handling_and_without_replacement(&bytes)
            .map(std::borrow::Cow::into_owned)
            .ok_or_else(|| wrongly_named(encoding, name))?,
    };
    Ok(match text.strip_prefix(MARK) {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

fn refused(message: String, hint: impl Into<String>) -> Failure {
    Failure::new("cli.not_text", Exit::Failed, message, hint)
}

fn wrongly_named(encoding: &'static Encoding, name: &str) -> Failure {
    let hint = match encoding == UTF_8 {
        true => "leave --encoding away to be told what it seems to be",
        false => "name another encoding with --encoding",
    };
    refused(
        format!("{name} is not text in the encoding {}", encoding.name()),
        hint,
    )
}

/// Whether every second byte is zero: that is UTF-8 as well, but nobody means it.
fn is_unmarked_utf16(bytes: &[u8]) -> bool {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let zeros = |at: usize| pairs.iter().all(|pair| pair.get(at) == Some(&0));
    pairs.len() > 1 && rest.is_empty() && zeros(0) != zeros(1)
}

fn unmarked_utf16(name: &str) -> Failure {
    refused(
        format!("{name} seems to be UTF-16 text: every second byte is zero"),
        "add --encoding utf-16le or --encoding utf-16be; --encoding utf-8 keeps the zero bytes as they are",
    )
}

fn not_utf8(error: &std::string::FromUtf8Error, name: &str) -> Failure {
    let bytes = error.as_bytes();
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            return refused(
                format!("{name} is UTF-32 text, not UTF-8"),
                "convert it to UTF-8, for example with iconv",
            );
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return refused(
                format!("{name} is UTF-16 text, not UTF-8"),
                "add --encoding utf-16",
            );
        }
        _ => {}
    }
    let at = error.utf8_error().valid_up_to();
    let before = String::from_utf8_lossy(bytes.get(..at).unwrap_or_default());
    let (line, column) = position(&before, before.len());
    let byte = bytes.get(at).copied().unwrap_or_default();
    let place = format!("byte 0x{byte:02X} at line {line}, column {column}");
    // Texts of any encoding hold few control characters.
    let controls = bytes
        .iter()
        .filter(|byte| **byte < 0x20 && !b"\t\n\r\x0c\x1b".contains(byte))
        .count();
    if controls > bytes.len() / 64 {
        return refused(
            format!("{name} is not text ({place}), nor a Yjs or Automerge document"),
            "what can be imported are texts, JSON, and documents of Yjs and Automerge",
        );
    }
    refused(
        format!("{name} is not UTF-8 text: {place}"),
        "if it is an older Western text, add --encoding windows-1252; otherwise name its encoding, such as shift_jis or koi8-r",
    )
}

/// Line and column of a byte offset, both from 1; columns are characters.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.matches('\n').count() + 1;
    let column = before.get(line_start..).unwrap_or("").chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(bytes: &[u8]) -> (String, String) {
        let failure = text(bytes.to_vec(), None, "note.txt").unwrap_err();
        (failure.message, failure.hint.unwrap())
    }

    fn read_as(bytes: &[u8], encoding: &str) -> Result<String> {
        text(bytes.to_vec(), Some(encoding.parse().unwrap()), "note.txt")
    }

    #[test]
    fn what_is_utf8_is_kept_but_for_the_mark() {
        for kept in ["", "one\r\ntwo\r\n", "a\0b\n", "no end", "e\u{301} 👩‍👩‍👧"] {
            assert_eq!(text(kept.into(), None, "f").unwrap(), kept);
        }
        assert_eq!(
            text(b"\xef\xbb\xbfhello".to_vec(), None, "f").unwrap(),
            "hello"
        );
        // A mark elsewhere is a character.
        assert_eq!(text("a\u{feff}".into(), None, "f").unwrap(), "a\u{feff}");
    }

    #[test]
    fn a_refusal_names_the_encoding_and_what_helps() {
        let (message, hint) = refusal(b"\xff\xfeh\0e\0");
        assert!(message.contains("UTF-16") && hint.contains("--encoding utf-16"));
        let (message, hint) = refusal(b"h\0e\0l\0");
        assert!(message.contains("UTF-16") && hint.contains("utf-16le"));
        let (message, hint) = refusal(b"first\ncaf\xe9\n");
        assert!(
            message.contains("byte 0xE9 at line 2, column 4"),
            "{message}"
        );
        assert!(hint.contains("windows-1252"));
        let (message, _) = refusal(b"\x7fELF\x02\x01\x01\0\0\0\0\xff");
        assert!(message.contains("is not text"), "{message}");
        let (message, _) = refusal(b"\xff\xfe\0\0h\0\0\0");
        assert!(message.contains("UTF-32"));
    }

    #[test]
    fn a_named_encoding_is_read_strictly() {
        assert_eq!(read_as(b"caf\xe9", "latin1").unwrap(), "café");
        assert_eq!(read_as(b"\xff\xfeh\0i\0", "utf-16").unwrap(), "hi");
        assert_eq!(read_as(b"\xfe\xff\0h\0i", "UTF-16").unwrap(), "hi");
        assert_eq!(read_as(b"h\0i\0", "utf-16le").unwrap(), "hi");
        assert_eq!(read_as(b"h\0i\0", "utf-8").unwrap(), "h\0i\0");
        // Half a character, half a surrogate pair.
        assert!(read_as(b"h\0i", "utf-16").is_err());
        assert!(read_as(b"\x3d\xd8a\0", "utf-16").is_err());
        assert!(read_as(b"caf\xe9", "utf-8").is_err());
        assert!("no-such".parse::<TextEncoding>().is_err());
    }
}

//! What somebody means by what they typed: the id of something, the beginning of one, or its name.
//!
//! Names identify nothing: whoever gives one can choose another's, or one that looks like it. So a name means something only where no other
//! thing could be meant by it: the same name in other case, composed otherwise, or of characters that look alike counts as much
//! (Unicode Technical Standard 39, section 4), and so does the beginning of an id. A full id means what has that id.

use conclave_engine::{GroupInfo, is_escaped};
use conclave_proto::DocumentId;
use unicode_normalization::UnicodeNormalization as _;
use unicode_security::skeleton;

/// Fewest digits of an id that mean something.
pub const ID_DIGITS_MIN: usize = 8;

/// All things that somebody may mean who typed this, by their ids in hexadecimal and their names. Where these are several, nobody can tell which.
pub fn meant<'a, T>(
    typed: &str,
    things: &'a [T],
    id: impl Fn(&T) -> String,
    name: impl Fn(&T) -> Option<&str>,
) -> Vec<&'a T> {
    let digits = typed.to_ascii_lowercase();
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_id = |thing: &T| is_hex && id(thing).len() == digits.len();
    if things.iter().any(is_id) {
        return things.iter().filter(|thing| id(thing) == digits).collect();
    }
    let begins = is_hex && digits.len() >= ID_DIGITS_MIN;
    let typed = Looks::of(typed);
    let is_meant = |thing: &&T| {
        let by_name = name(thing).is_some_and(|name| !is_escaped(name) && typed.like(name));
        by_name || begins && id(thing).starts_with(&digits)
    };
    things.iter().filter(is_meant).collect()
}

/// Whether this can be a document's id, which means nothing else.
#[must_use]
pub fn is_document_id(typed: &str) -> bool {
    typed.len() == 2 * DocumentId::LEN && typed.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The first group of which the names of documents cannot be told, because nobody can read them or because `listed` says that there is no list. A
/// name may be meant for a document in there: who can make names unreadable in one group would else choose where edits in another go.
pub fn unreadable(groups: &[GroupInfo], listed: impl Fn(&GroupInfo) -> bool) -> Option<&GroupInfo> {
    let mut active = groups.iter().filter(|info| info.active);
    active.find(|info| info.nameless || !listed(info))
}

/// A name as it looks.
struct Looks {
    name: String,
    folded: String,
    skeleton: String,
    folded_skeleton: String,
}

impl Looks {
    fn of(name: &str) -> Self {
        let folded = fold(name);
        Self {
            skeleton: skeleton(name).collect(),
            folded_skeleton: skeleton(&folded).collect(),
            name: name.to_owned(),
            folded,
        }
    }

    /// Whether another name may be taken for this one.
    fn like(&self, name: &str) -> bool {
        // Breakage: a name that looks alike is another one.
        if self.name == name || crate::broken("names-exact") {
            return self.name == name;
        }
        let other = Self::of(name);
        self.folded == other.folded
            || self.skeleton == other.skeleton
            || self.folded_skeleton == other.folded_skeleton
    }
}

/// Names that differ in case only, or in how their characters are composed, count as one. In lower case first: a capital ẞ is its own upper case, ß is not.
fn fold(name: &str) -> String {
    let composed: String = name.nfc().collect();
    let lower = composed.to_lowercase().to_uppercase().to_lowercase();
    lower.nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const THINGS: [(&str, Option<&str>); 9] = [
        ("aaaa1111aaaa1111", Some("Board")),
        ("aaaa1111bbbb2222", Some("Legal")),
        ("bbbb3333bbbb3333", None),
        ("cccc4444cccc4444", Some("aaaa1111aaaa1111")),
        ("dddd5555dddd5555", Some("Stra\u{df}e")),
        ("eeee6666eeee6666", Some("r\u{e9}sum\u{e9}")),
        ("ffff7777ffff7777", Some("modern")),
        ("0000888800008888", Some("bbbb3333")),
        ("1111999911119999", Some("\\u{202e}evil")),
    ];

    fn means(typed: &str) -> Vec<usize> {
        let found = meant(typed, &THINGS, |it| it.0.to_owned(), |it| it.1);
        let at = |it: &(&str, Option<&str>)| THINGS.iter().position(|other| other == it);
        found.into_iter().filter_map(at).collect()
    }

    #[test]
    fn a_full_id_is_an_id_and_nothing_else() {
        assert_eq!(means("aaaa1111aaaa1111"), [0]);
        assert_eq!(means("AAAA1111AAAA1111"), [0]);
        assert_eq!(means("0123456701234567"), [0; 0]);
        assert_eq!(means("cccc4444cccc4444"), [3]);
    }

    #[test]
    fn names_in_any_spelling_and_beginnings_of_ids_count_together() {
        for typed in ["Board", "board", "BOARD", "B\u{43e}ard", "Boar\u{501}"] {
            assert_eq!(means(typed), [0], "{typed}");
        }
        for typed in ["stra\u{df}e", "STRASSE", "STRA\u{1e9e}E"] {
            assert_eq!(means(typed), [4], "{typed}");
        }
        assert_eq!(means("re\u{301}sume\u{301}"), [5]);
        // "rn" looks like "m".
        assert_eq!(means("rnodern"), [6]);
        assert_eq!(means("modem"), [6]);
        // The beginning of one's id, and the name of another.
        assert_eq!(means("bbbb3333"), [2, 7]);
        assert_eq!(means("aaaa1111"), [0, 1]);
        assert_eq!(means("aaaa1111b"), [1]);
        assert_eq!(means("aaaa111"), [0; 0], "too few digits");
        assert_eq!(means(""), [0; 0]);
        assert_eq!(means("\\u{202e}evil"), [0; 0], "no name");
    }
}

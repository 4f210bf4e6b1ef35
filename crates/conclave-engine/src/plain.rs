//! Words that people who use the program are not shown.

/// Words of the protocol and of the program's inside: no text for people has one of them. Commands, `--json`, `--verbose` and error codes do.
const WORDS: &[&str] = &[
    "aead",
    "ciphertext",
    "ciphertexts",
    "commit",
    "commits",
    "committed",
    "crdt",
    "crdts",
    "epoch",
    "epochs",
    "frontier",
    "frontiers",
    "groupinfo",
    "intent",
    "intents",
    "keypackage",
    "keypackages",
    "leaf",
    "merkle",
    "mls",
    "outbox",
    "plaintext",
    "ratchet",
    "root",
    "roots",
    "roster",
    "seq",
    "snapshot",
    "snapshots",
    "welcome",
    "welcomes",
    "wrap",
    "wraps",
];
/// The same of more than one word.
const PHRASES: &[&str] = &["key package", "position "];

/// The first word in a text that is not for people, if there is one. What stands between backquotes is a command, and not looked at.
#[must_use]
pub fn protocol_word(text: &str) -> Option<&'static str> {
    let prose: String = text.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let prose = prose.to_lowercase();
    let mut words = prose.split(|c: char| !c.is_alphanumeric());
    let word = words.find_map(|word| WORDS.iter().find(|other| **other == word));
    let phrase = || PHRASES.iter().find(|phrase| prose.contains(**phrase));
    word.or_else(phrase).copied()
}

#[cfg(test)]
mod tests {
    use super::protocol_word;

    #[test]
    fn finds_words_of_the_protocol_and_nothing_else() {
        assert_eq!(protocol_word("2 Intents wait"), Some("intents"));
        assert_eq!(protocol_word("no key packages yet"), Some("key package"));
        assert_eq!(protocol_word("verified, position 2"), Some("position "));
        assert_eq!(
            protocol_word("run `conclave doc cat snapshot`, then wait"),
            None
        );
        assert_eq!(
            protocol_word("grassroots, intention, commitment, epochal"),
            None
        );
    }
}

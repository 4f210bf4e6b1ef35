//! Canaries: random words that are typed into content, and a search that finds any eight bytes of them anywhere.

use std::collections::HashMap;
use std::path::Path;

use rand_core::RngCore;

/// Letters of a canary word. 24 of 32 letters: no text holds one by chance.
const WORD_LETTERS: usize = 24;
/// Every eight bytes of every encoding of a canary are searched for.
const WINDOW_BYTES: usize = 8;

/// How the found bytes were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// One byte a letter.
    Utf8,
    /// Two bytes a letter, in either order.
    Utf16,
}

impl Encoding {
    /// All byte strings that the word has.
    fn of(word: &str) -> [(Self, Vec<u8>); 3] {
        [
            (Self::Utf8, word.as_bytes().to_vec()),
            (
                Self::Utf16,
                word.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            ),
            (
                Self::Utf16,
                word.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            ),
        ]
    }
}

/// A canary, or a piece of one, where none may be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Leak {
    /// What the word was planted in.
    pub planted_in: String,
    /// Where it was found: a file or a recording.
    pub found_in: String,
    /// Offset there, in bytes.
    pub offset_bytes: usize,
    /// How it was written.
    pub encoding: Encoding,
}

/// All planted words.
#[derive(Debug, Default)]
pub struct Canaries {
    planted: Vec<(String, String)>,
    windows: HashMap<[u8; WINDOW_BYTES], (usize, Encoding)>,
    searched_bytes: u64,
}

impl Canaries {
    /// Draws a word and remembers what it is planted in.
    pub fn plant(&mut self, rng: &mut impl RngCore, planted_in: &str) -> String {
        let mut bytes = [0u8; WORD_LETTERS];
        rng.fill_bytes(&mut bytes);
        let word: String = bytes.iter().map(|byte| letter(*byte)).collect();
        let index = self.planted.len();
        for (encoding, bytes) in Encoding::of(&word) {
            for window in bytes.windows(WINDOW_BYTES) {
                if let Ok(window) = window.try_into() {
                    self.windows.insert(window, (index, encoding));
                }
            }
        }
        self.planted.push((planted_in.to_owned(), word.clone()));
        word
    }

    /// How many words there are.
    pub fn count(&self) -> usize {
        self.planted.len()
    }

    /// How many bytes were searched so far.
    pub fn searched_bytes(&self) -> u64 {
        self.searched_bytes
    }

    /// The first piece of each canary in `bytes`.
    pub fn search(&mut self, found_in: &str, bytes: &[u8]) -> Vec<Leak> {
        self.searched_bytes += bytes.len() as u64;
        let mut leaks: Vec<Leak> = Vec::new();
        for (offset_bytes, window) in bytes.windows(WINDOW_BYTES).enumerate() {
            let found = <[u8; WINDOW_BYTES]>::try_from(window)
                .ok()
                .and_then(|key| self.windows.get(&key));
            let Some((index, encoding)) = found else {
                continue;
            };
            let planted_in = self
                .planted
                .get(*index)
                .map(|(place, _)| place.clone())
                .unwrap_or_default();
            if !leaks.iter().any(|leak| leak.planted_in == planted_in) {
                let found_in = found_in.to_owned();
                leaks.push(Leak {
                    planted_in,
                    found_in,
                    offset_bytes,
                    encoding: *encoding,
                });
            }
        }
        leaks
    }

    /// Searches every file below a folder.
    ///
    /// # Errors
    /// What the file system refused: a file that cannot be read is no proof.
    pub fn search_folder(&mut self, folder: &Path) -> std::io::Result<Vec<Leak>> {
        let mut leaks = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                leaks.extend(self.search_folder(&path)?);
            } else if entry.file_type()?.is_file() {
                leaks.extend(self.search(&path.display().to_string(), &std::fs::read(&path)?));
            }
        }
        Ok(leaks)
    }

    /// How many of the planted words stand whole in a text: the control that the search can find them where they belong.
    pub fn whole_words_in(&self, text: &str) -> usize {
        self.planted
            .iter()
            .filter(|(_, word)| text.contains(word))
            .count()
    }
}

fn letter(byte: u8) -> char {
    // Without vowels, so that no word of a language appears, and without the digits of hexadecimal ids.
    const LETTERS: &[u8; 32] = b"ghjklmnpqrstvwxzGHJKLMNPQRSTVWXZ";
    LETTERS
        .get(usize::from(byte & 31))
        .map_or('g', |letter| char::from(*letter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn planted() -> (Canaries, String, ChaCha20Rng) {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let mut canaries = Canaries::default();
        let word = canaries.plant(&mut rng, "title");
        canaries.plant(&mut rng, "text");
        (canaries, word, rng)
    }

    fn hidden_in_noise(rng: &mut ChaCha20Rng, needle: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0u8; 4096];
        rng.fill_bytes(&mut bytes);
        bytes.splice(1000..1000, needle.iter().copied());
        bytes
    }

    #[test]
    fn every_encoding_is_found() {
        let (mut canaries, word, mut rng) = planted();
        for (encoding, whole) in Encoding::of(&word) {
            let bytes = hidden_in_noise(&mut rng, &whole);
            let leaks = canaries.search("file", &bytes);
            assert_eq!(leaks.len(), 1, "{encoding:?}");
            assert_eq!(leaks[0].encoding, encoding);
            assert_eq!(
                (leaks[0].planted_in.as_str(), leaks[0].offset_bytes),
                ("title", 1000)
            );
        }
    }

    #[test]
    fn any_eight_bytes_of_a_word_are_found_and_seven_are_not() {
        let (mut canaries, word, mut rng) = planted();
        for (encoding, whole) in Encoding::of(&word) {
            for start in 0..=whole.len() - WINDOW_BYTES {
                let bytes = hidden_in_noise(&mut rng, &whole[start..start + WINDOW_BYTES]);
                assert_eq!(
                    canaries.search("file", &bytes).len(),
                    1,
                    "{encoding:?} at {start}"
                );
            }
        }
        let bytes = hidden_in_noise(&mut rng, &word.as_bytes()[..WINDOW_BYTES - 1]);
        assert!(canaries.search("file", &bytes).is_empty());
    }

    #[test]
    fn noise_holds_no_canary_and_the_amount_searched_is_counted() {
        let (mut canaries, _, mut rng) = planted();
        let bytes = hidden_in_noise(&mut rng, b"");
        assert!(canaries.search("file", &bytes).is_empty());
        assert_eq!(canaries.searched_bytes(), 4096);
        assert_eq!(canaries.count(), 2);
    }

    #[test]
    fn folders_are_searched_with_all_their_files() {
        let (mut canaries, word, _) = planted();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("clean"), b"nothing here").unwrap();
        assert!(canaries.search_folder(folder.path()).unwrap().is_empty());
        std::fs::write(folder.path().join("deep/db-wal"), format!("x{word}")).unwrap();
        let leaks = canaries.search_folder(folder.path()).unwrap();
        assert_eq!(leaks.len(), 1);
        assert!(leaks[0].found_in.ends_with("db-wal"));
        assert!(
            canaries
                .search_folder(&folder.path().join("missing"))
                .is_err()
        );
    }

    #[test]
    fn whole_words_are_counted_where_they_belong() {
        let (canaries, word, _) = planted();
        assert_eq!(canaries.whole_words_in(&format!("a {word} b")), 1);
        assert_eq!(canaries.whole_words_in("nothing"), 0);
    }
}

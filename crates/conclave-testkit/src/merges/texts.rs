//! Sentences of common words, changed and put beside each other.

use std::collections::BTreeSet;

use conclave_crdt::{ByReplica, Crdt, ReplicaId};

use super::random::Random;

const COMMON_WORDS: usize = 120;

struct Sentence {
    words: Vec<String>,
    /// What follows: a blank, or the end of a paragraph.
    end: &'static str,
}

impl Sentence {
    fn text(&self) -> String {
        format!("{}.", self.words.join(" "))
    }
}

fn sentences(random: &mut Random, words: usize, marked: bool) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    let mut count = 0;
    while count < words {
        let length = random.between(4, 14);
        // Few words make up most of a text.
        let mut word = || {
            let n = random.below(COMMON_WORDS);
            format!(
                "{}{}",
                ["be", "to", "of", "and", "in"][n % 5],
                random.below(n + 1)
            )
        };
        let mut words: Vec<String> = (0..length).map(|_| word()).collect();
        if marked {
            words[length / 2] = format!("Name{}", sentences.len());
        }
        let end = if random.below(5) == 0 { "\n\n" } else { " " };
        sentences.push(Sentence { words, end });
        count += length;
    }
    sentences
}

/// A text, and what writers do to it.
pub struct TextCase {
    base: Vec<Sentence>,
    /// Whether each sentence has a word of its own.
    marked: bool,
    /// All writers at about the same place, or each anywhere.
    near: Option<usize>,
    touched: BTreeSet<usize>,
    /// Sentences behind which somebody put one.
    followed: BTreeSet<usize>,
    typed: Vec<String>,
    /// Characters typed, blanks included.
    chars: usize,
    edits: usize,
}

impl TextCase {
    /// A text of about so many words.
    pub fn new(random: &mut Random, words: usize) -> Self {
        let marked = random.below(2) == 0;
        let base = sentences(random, words, marked);
        Self {
            near: (random.below(2) == 0).then(|| random.below(base.len())),
            base,
            marked,
            touched: BTreeSet::new(),
            followed: BTreeSet::new(),
            typed: Vec::new(),
            chars: 0,
            edits: 0,
        }
    }

    /// The text that all begin with.
    #[must_use]
    pub fn begin(&self) -> String {
        self.base.iter().map(|one| one.text() + one.end).collect()
    }

    fn type_words(&mut self, writer: usize, count: usize) -> Vec<String> {
        let words: Vec<String> = (0..count)
            .map(|_| {
                self.typed
                    .push(format!("W{writer}x{:04}", self.typed.len()));
                self.typed.last().unwrap().clone()
            })
            .collect();
        self.chars += words.iter().map(|word| word.len() + 2).sum::<usize>();
        words
    }

    /// What one writer makes of the text.
    pub fn write(&mut self, random: &mut Random, writer: usize) -> String {
        let (from, width) = match self.near {
            Some(near) => (near, (self.base.len() - near).min(8)),
            None => (0, self.base.len()),
        };
        let count = random.between(1, 6).min(width);
        let mut chosen = BTreeSet::new();
        while chosen.len() < count {
            chosen.insert(from + random.below(width));
        }
        self.edits += count;
        let mut text = String::new();
        for at in 0..self.base.len() {
            let mut words = self.base[at].words.clone();
            let end = self.base[at].end;
            let mut after = None;
            if chosen.contains(&at) {
                after = self.change(random, writer, at, &mut words);
            }
            if words.is_empty() {
                if end != " " {
                    text.push_str(end);
                }
                continue;
            }
            text.push_str(&words.join(" "));
            text.push('.');
            if let Some(after) = after {
                text.push_str(&format!(" {after}."));
            }
            text.push_str(end);
        }
        text
    }

    /// What one writer adds to the end.
    pub fn append(&mut self, random: &mut Random, writer: usize) -> String {
        self.edits += 1;
        let length = random.between(3, 9);
        self.type_words(writer, length).join(" ") + ". "
    }

    /// Changes the words of a sentence, or gives one that comes behind it.
    fn change(
        &mut self,
        random: &mut Random,
        writer: usize,
        at: usize,
        words: &mut Vec<String>,
    ) -> Option<String> {
        let kind = random.below(6);
        let place = random.below(words.len());
        if kind == 5 {
            self.followed.insert(at);
            let length = random.between(3, 9);
            return Some(self.type_words(writer, length).join(" "));
        }
        self.touched.insert(at);
        match kind {
            0 => words[place] = self.type_words(writer, 1).remove(0),
            1 => {
                let more = random.between(1, 3);
                words.splice(place..place, self.type_words(writer, more));
            }
            2 => {
                let end = (place + random.between(1, 3)).min(words.len() - 1);
                words.drain(place.min(end)..end);
            }
            3 => *words = self.type_words(writer, words.len()),
            _ => words.clear(),
        }
        None
    }

    /// Nothing typed stands twice or is lost, nothing untouched has moved or has a new author. `written` says of each byte whether the first
    /// one wrote it.
    ///
    /// # Panics
    /// Where it is otherwise.
    pub fn check(&self, text: &str, written: &[bool]) {
        for word in &self.typed {
            assert_eq!(
                text.matches(word.as_str()).count(),
                1,
                "{word} in {}",
                around(text, text.find(word.as_str()).unwrap_or(0))
            );
        }
        let foreign = written.iter().filter(|first| !**first).count();
        assert!(
            foreign <= self.chars + 4 * self.edits,
            "{foreign} of {}",
            self.chars
        );
        let mut at = 0;
        let mut before: Option<(usize, usize)> = None;
        for (n, sentence) in self.base.iter().enumerate() {
            if self.touched.contains(&n) {
                continue;
            }
            let wanted = sentence.text();
            let found = text[at..].find(&wanted);
            let start = at
                + found.unwrap_or_else(|| {
                    panic!("no sentence {n} {wanted:?} in {}", around(text, at))
                });
            at = start + wanted.len();
            assert!(
                written[start..at].iter().all(|first| *first),
                "sentence {n} {wanted:?} has a new author in {}",
                around(text, start)
            );
            if let Some((previous, end)) = before
                && previous + 1 == n
                && !self.followed.contains(&previous)
            {
                assert_eq!(
                    &text[end..start],
                    self.base[previous].end,
                    "before sentence {n} in {}",
                    around(text, start)
                );
            }
            before = Some((n, at));
        }
        if self.marked {
            for (n, sentence) in self.base.iter().enumerate() {
                let name = format!("{} ", sentence.words[sentence.words.len() / 2]);
                let times = text.matches(&name).count();
                assert!(times <= 1, "sentence {n} stands {times} times");
            }
        }
    }
}

/// Whether the first one wrote it, under one of these ids, for each byte; these texts are ASCII.
///
/// # Panics
/// Where the document does not say.
pub fn written_by(doc: &mut dyn Crdt, first: &[ReplicaId]) -> Vec<bool> {
    let mut written = Vec::new();
    for (replica, chars) in ByReplica::of_text(doc.attribution().unwrap()).unwrap() {
        written.resize(written.len() + chars, first.contains(&replica));
    }
    written
}

/// A bit of a long text, for a message.
fn around(text: &str, at: usize) -> String {
    let at = at.min(text.len());
    format!(
        "…{}…",
        &text[at.saturating_sub(300)..(at + 300).min(text.len())]
    )
}

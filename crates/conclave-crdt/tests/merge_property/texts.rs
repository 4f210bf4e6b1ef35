//! Sentences of common words, changed and put beside each other.

use std::collections::BTreeSet;

use super::*;

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

#[derive(Default)]
struct Edits {
    touched: BTreeSet<usize>,
    /// Sentences behind which somebody put one.
    followed: BTreeSet<usize>,
    typed: Vec<String>,
    /// Characters typed, blanks included.
    chars: usize,
    count: usize,
}

impl Edits {
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
}

fn edited_text(random: &mut Random, writer: usize, base: &[Sentence], edits: &mut Edits) -> String {
    let count = random.between(1, 6).min(base.len());
    let mut chosen = BTreeSet::new();
    while chosen.len() < count {
        chosen.insert(random.below(base.len()));
    }
    edits.count += count;
    let mut text = String::new();
    for (at, sentence) in base.iter().enumerate() {
        let mut words = sentence.words.clone();
        let mut after = None;
        if chosen.contains(&at) {
            let kind = random.below(6);
            if kind < 5 {
                edits.touched.insert(at);
            }
            let place = random.below(words.len());
            match kind {
                0 => words[place] = edits.type_words(writer, 1).remove(0),
                1 => {
                    let more = random.between(1, 3);
                    words.splice(place..place, edits.type_words(writer, more));
                }
                2 => {
                    let end = (place + random.between(1, 3)).min(words.len() - 1);
                    words.drain(place.min(end)..end);
                }
                3 => {
                    let length = words.len();
                    words = edits.type_words(writer, length);
                }
                4 => words.clear(),
                _ => {
                    edits.followed.insert(at);
                    let length = random.between(3, 9);
                    after = Some(edits.type_words(writer, length).join(" "));
                }
            }
        }
        if words.is_empty() {
            if sentence.end != " " {
                text.push_str(sentence.end);
            }
            continue;
        }
        text.push_str(&words.join(" "));
        text.push('.');
        if let Some(after) = after {
            text.push_str(&format!(" {after}."));
        }
        text.push_str(sentence.end);
    }
    text
}

pub fn text_case(random: &mut Random) {
    let kind = random.kind();
    let (apart, marked) = (random.below(2) == 0, random.below(2) == 0);
    let writers = random.between(2, 3);
    let words = random.size(10, longest(20_000));
    let base = sentences(random, words, marked);
    let mut edits = Edits::default();
    let begin: String = base.iter().map(|one| one.text() + one.end).collect();
    let news: Vec<String> = (0..writers)
        .map(|n| edited_text(random, n, &base, &mut edits))
        .collect();
    let mut doc = new(kind, 1);
    view(&mut doc).replace_all(&begin).unwrap();
    let mut merged = bring_together(kind, &mut doc, apart, &begin, &news, |doc, base, new| {
        view(doc).merge(base, new).unwrap();
    });
    let text = text(&mut merged);
    for word in &edits.typed {
        assert_eq!(
            text.matches(word.as_str()).count(),
            1,
            "{word} in {}",
            around(&text, text.find(word.as_str()).unwrap_or(0))
        );
    }
    // Who wrote each byte; these texts are ASCII.
    let mut authors = Vec::with_capacity(text.len());
    for run in merged.attribution().unwrap().runs().unwrap() {
        authors.resize(authors.len() + run.chars, run.replica == first(kind));
    }
    let foreign = authors.iter().filter(|first| !**first).count();
    assert!(
        foreign <= edits.chars + 4 * edits.count,
        "{foreign} of {}",
        edits.chars
    );
    let mut at = 0;
    let mut before: Option<(usize, usize)> = None;
    for (n, sentence) in base.iter().enumerate() {
        if edits.touched.contains(&n) {
            continue;
        }
        let wanted = sentence.text();
        let found = text[at..].find(&wanted);
        let start = at
            + found
                .unwrap_or_else(|| panic!("no sentence {n} {wanted:?} in {}", around(&text, at)));
        at = start + wanted.len();
        assert!(
            authors[start..at].iter().all(|first| *first),
            "sentence {n} {wanted:?} has a new author in {}",
            around(&text, start)
        );
        if let Some((previous, end)) = before
            && previous + 1 == n
            && !edits.followed.contains(&previous)
        {
            assert_eq!(
                &text[end..start],
                base[previous].end,
                "before sentence {n} in {}",
                around(&text, start)
            );
        }
        before = Some((n, at));
    }
    if marked {
        for (n, sentence) in base.iter().enumerate() {
            let times = text
                .matches(&format!("{} ", sentence.words[sentence.words.len() / 2]))
                .count();
            assert!(times <= 1, "sentence {n} stands {times} times");
        }
    }
}

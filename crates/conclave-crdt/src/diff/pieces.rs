//! Texts that are taken apart: by characters, lines and words.

use core::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// A run without any word boundary that is longer than this, in bytes, is no word: its characters are compared.
const LONGEST_WORD_BYTES: usize = 256;

/// A text of which ranges counted in characters are wanted.
pub(super) struct Chars<'a> {
    text: &'a str,
    /// Where each character starts, unless all are one byte long.
    starts: Option<Vec<usize>>,
}

impl<'a> Chars<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let starts =
            (!text.is_ascii()).then(|| text.char_indices().map(|(start, _)| start).collect());
        Self { text, starts }
    }

    pub(super) fn cut(&self, range: &Range<usize>) -> String {
        let cut = self.text.get(self.at(range.start)..self.at(range.end));
        cut.unwrap_or_default().to_owned()
    }

    /// What comes from a place on.
    pub(super) fn forth_from(&self, index: usize) -> core::str::Chars<'a> {
        self.text.get(self.at(index)..).unwrap_or_default().chars()
    }

    /// What comes before a place, backwards.
    pub(super) fn back_from(&self, index: usize) -> core::iter::Rev<core::str::Chars<'a>> {
        self.text
            .get(..self.at(index))
            .unwrap_or_default()
            .chars()
            .rev()
    }

    fn at(&self, index: usize) -> usize {
        match &self.starts {
            None => index,
            Some(starts) => starts.get(index).copied().unwrap_or(self.text.len()),
        }
    }
}

/// A text in pieces.
pub(super) struct Pieces<'a> {
    pub(super) texts: Vec<&'a str>,
    /// Where each piece starts and the last one ends, in characters.
    starts: Vec<usize>,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(start: usize, texts: impl Iterator<Item = &'a str>) -> Self {
        let texts: Vec<&str> = texts.collect();
        let mut at = start;
        let mut starts = vec![start];
        for text in &texts {
            at += text.chars().count();
            starts.push(at);
        }
        Self { texts, starts }
    }

    pub(super) fn lines(text: &'a str) -> Self {
        Self::of(0, text.split_inclusive('\n'))
    }

    /// The words of some of the pieces, and what stands between them.
    pub(super) fn words(&self, range: &Range<usize>) -> Self {
        let start = self.starts.get(range.start).copied().unwrap_or_default();
        Self::of(start, self.cut(range).iter().flat_map(|text| words(text)))
    }

    pub(super) fn cut(&self, range: &Range<usize>) -> &[&'a str] {
        self.texts.get(range.clone()).unwrap_or(&[])
    }

    pub(super) fn chars(&self, range: &Range<usize>) -> Range<usize> {
        let at = |index: usize| self.starts.get(index).copied().unwrap_or_default();
        at(range.start)..at(range.end)
    }

    pub(super) fn count_words(&self, range: &Range<usize>) -> usize {
        self.cut(range).iter().filter(|text| is_word(text)).count()
    }
}

/// Words as Unicode divides them: no character that a person sees is ever cut.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_word_bounds().flat_map(|word| {
        let long = word.len() > LONGEST_WORD_BYTES;
        let whole = (!long).then_some(word);
        let parts = long.then(|| word.graphemes(true));
        whole.into_iter().chain(parts.into_iter().flatten())
    })
}

pub(super) fn is_word(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}

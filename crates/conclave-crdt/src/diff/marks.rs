//! Which items of two lists say the same, by what tells each from the others.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use super::work;

/// Most words of one text that are looked at: who has more in common is found by these.
const MAX_WORDS: usize = 64;

/// Something that a member says.
#[derive(PartialEq, Eq, Hash)]
struct Mark<'a> {
    key: &'a str,
    says: Cow<'a, str>,
    kind: Saying,
}

#[derive(PartialEq, Eq, Hash)]
enum Saying {
    /// A word of a text, or a value that is no text.
    Word,
    /// A text of several words: it says nothing more than they, but together.
    Whole,
}

impl Mark<'_> {
    fn weight(&self) -> usize {
        self.says.len()
    }
}

fn marks(item: &Value) -> Vec<Mark<'_>> {
    let mut found = Vec::new();
    match item {
        Value::Object(members) => {
            for (key, value) in members {
                add_marks(key, value, &mut found);
            }
        }
        Value::Array(items) => {
            for value in items {
                add_marks("", value, &mut found);
            }
        }
        value => add_marks("", value, &mut found),
    }
    work::count(found.len() as u64);
    found
}

fn add_marks<'a>(key: &'a str, value: &'a Value, found: &mut Vec<Mark<'a>>) {
    let mut add = |says, kind| found.push(Mark { key, says, kind });
    let Value::String(text) = value else {
        add(Cow::Owned(value.to_string()), Saying::Word);
        return;
    };
    for word in text.split_whitespace().take(MAX_WORDS) {
        add(Cow::Borrowed(word), Saying::Word);
    }
    if text.split_whitespace().nth(1).is_some() {
        add(Cow::Borrowed(text), Saying::Whole);
    }
}

/// Which items of one list have a mark.
#[derive(Default, Clone, Copy)]
enum Owner {
    #[default]
    None,
    One(usize),
    Many,
}

impl Owner {
    fn add(&mut self, item: usize) {
        *self = match *self {
            Self::None => Self::One(item),
            Self::One(owner) if owner == item => Self::One(item),
            _ => Self::Many,
        };
    }
}

/// Which item has most; none if several have as much.
#[derive(Default, Clone)]
struct Most {
    item: Option<usize>,
    weight: usize,
}

impl Most {
    fn offer(&mut self, item: usize, weight: usize) {
        if weight > self.weight {
            (self.item, self.weight) = (Some(item), weight);
        } else if weight == self.weight {
            self.item = None;
        }
    }
}

/// What two items share that no others have.
#[derive(Default)]
struct Shared {
    words: usize,
    whole: usize,
}

/// Items of `old` with the item of `new` that has most of what only the old one said and that at most one new one says, or a text of it.
/// Where several claim the same, the one with most has it. Only the items that are `free` are looked for.
pub(super) fn kin(
    old: &[&Value],
    new: &[&Value],
    free: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize)> {
    let mut owners: HashMap<Mark<'_>, (Owner, Owner)> = HashMap::new();
    for (at, item) in old.iter().enumerate() {
        for mark in marks(item) {
            owners.entry(mark).or_default().0.add(at);
        }
    }
    for (at, item) in new.iter().enumerate() {
        for mark in marks(item) {
            // What no old item has is of no use.
            if let Some((_, owner)) = owners.get_mut(&mark) {
                owner.add(at);
            }
        }
    }
    let mut own_words = vec![0; old.len()];
    let mut pairs: HashMap<(usize, usize), Shared> = HashMap::new();
    for (mark, owner) in owners {
        let (from, to) = match owner {
            (Owner::One(_), Owner::Many) | (Owner::None | Owner::Many, _) => continue,
            (Owner::One(from), Owner::None) => (from, None),
            (Owner::One(from), Owner::One(to)) => (from, Some(to)),
        };
        let word = mark.kind == Saying::Word;
        if let Some(own) = own_words.get_mut(from).filter(|_| word) {
            *own += mark.weight();
        }
        if let Some(to) = to
            && free(from, to)
        {
            let shared = pairs.entry((from, to)).or_default();
            let part = if word {
                &mut shared.words
            } else {
                &mut shared.whole
            };
            *part += mark.weight();
        }
    }
    let mut of_old = vec![Most::default(); old.len()];
    let mut of_new = vec![Most::default(); new.len()];
    for ((from, to), shared) in pairs {
        let own = own_words.get(from).copied().unwrap_or_default();
        if (shared.whole > 0 || 2 * shared.words > own)
            && let (Some(old), Some(new)) = (of_old.get_mut(from), of_new.get_mut(to))
        {
            let weight = shared.words + shared.whole;
            old.offer(to, weight);
            new.offer(from, weight);
        }
    }
    let mutual = |(from, most): (usize, Most)| {
        let to = most.item?;
        (of_new.get(to)?.item == Some(from)).then_some((from, to))
    };
    of_old.into_iter().enumerate().filter_map(mutual).collect()
}

/// Whether most of what either item says is said by the other.
pub(super) fn mostly_same(old: &Value, new: &Value) -> bool {
    let words = |item| {
        let marks = marks(item).into_iter();
        marks.filter(|mark| mark.kind == Saying::Word)
    };
    let mut left: HashMap<Mark<'_>, usize> = HashMap::new();
    let (mut all_old, mut all_new, mut shared) = (0, 0, 0);
    for mark in words(old) {
        all_old += mark.weight();
        *left.entry(mark).or_default() += 1;
    }
    for mark in words(new) {
        all_new += mark.weight();
        if let Some(count) = left.get_mut(&mark)
            && *count > 0
        {
            *count -= 1;
            shared += mark.weight();
        }
    }
    2 * shared > all_old.max(all_new)
}

//! What own edits did, as words: where, what was inserted, how much was deleted. Kept apart where the edits themselves have no place, and
//! written into a document again by a person.

use std::fmt;

use conclave_crdt::{Crdt, CrdtError, CrdtKind, text_edits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::views::Views;

/// Characters kept on each side of an insertion, to find its place again.
const CONTEXT_CHARS: usize = 48;
/// Deepest JSON that is compared by its parts; below that a value counts whole.
const MAX_DEPTH: usize = 128;

/// One step of the way to a value in a document's JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A key of an object.
    Key(String),
    /// A position in a list.
    Index(u64),
}

/// What came in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inserted {
    /// Nothing: something was only deleted.
    Nothing,
    /// Characters, at a place in a text.
    Text(String),
    /// A value, as JSON.
    Value(String),
}

/// What stood around an insertion in a text.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Around {
    /// Right before it.
    pub before: String,
    /// Right behind it, after what was deleted.
    pub after: String,
}

/// One place that own edits changed. `Debug` prints no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Way to the value in the document's JSON; empty for the document's text.
    pub path: Vec<Step>,
    /// Characters before it in the text, as it was without own edits.
    pub at: u64,
    /// What came in.
    pub inserted: Inserted,
    /// How many characters, or values, went.
    pub deleted: u64,
    /// What stood around it: others' content, mostly.
    pub around: Option<Around>,
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inserted = match &self.inserted {
            Inserted::Nothing => 0,
            Inserted::Text(text) | Inserted::Value(text) => text.len(),
        };
        write!(f, "Word(+{inserted} bytes, -{})", self.deleted)
    }
}

/// Where Automerge documents keep the text that their text view shows.
const TEXT: &str = "text";

/// What led from `base` to `mine`.
pub(crate) fn between(kind: CrdtKind, base: &Views, mine: &Views) -> Vec<Word> {
    let mut words = Vec::new();
    let text = |views: &Views| views.text.clone().unwrap_or_default();
    texts(&[], &text(base), &text(mine), &mut words);
    let json = |views: &Views| {
        let mut value = views.json.clone().unwrap_or(Value::Null);
        if let (CrdtKind::Automerge, Value::Object(map)) = (kind, &mut value)
            && map.get(TEXT).and_then(Value::as_str) == views.text.as_deref()
        {
            // Shown by both views: it counts once.
            map.remove(TEXT);
        }
        value
    };
    values(&mut Vec::new(), &json(base), &json(mine), &mut words);
    words
}

fn texts(path: &[Step], base: &str, mine: &str, words: &mut Vec<Word>) {
    if base == mine {
        return;
    }
    let chars: Vec<char> = base.chars().collect();
    let mut edits = text_edits(base, mine, base);
    edits.reverse();
    for edit in edits {
        let end = edit.position.saturating_add(edit.delete);
        let begin = edit.position.saturating_sub(CONTEXT_CHARS);
        let cut = |range: std::ops::Range<usize>| -> String {
            chars.get(range).unwrap_or_default().iter().collect()
        };
        let around = Around {
            before: cut(begin..edit.position.min(chars.len())),
            after: cut(end.min(chars.len())..end.saturating_add(CONTEXT_CHARS).min(chars.len())),
        };
        words.push(Word {
            path: path.to_vec(),
            at: edit.position as u64,
            inserted: if edit.insert.is_empty() {
                Inserted::Nothing
            } else {
                Inserted::Text(edit.insert)
            },
            deleted: edit.delete as u64,
            around: Some(around),
        });
    }
}

fn values(path: &mut Vec<Step>, base: &Value, mine: &Value, words: &mut Vec<Word>) {
    if base == mine {
        return;
    }
    match (base, mine) {
        (Value::Object(old), Value::Object(new)) if path.len() < MAX_DEPTH => {
            for (key, value) in new {
                path.push(Step::Key(key.clone()));
                match old.get(key) {
                    Some(before) => values(path, before, value, words),
                    None => words.push(whole(path, Some(value), 0)),
                }
                path.pop();
            }
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                path.push(Step::Key(key.clone()));
                words.push(whole(path, None, 1));
                path.pop();
            }
        }
        (Value::Array(old), Value::Array(new)) if path.len() < MAX_DEPTH => {
            lists(path, old, new, words);
        }
        (Value::String(old), Value::String(new)) => texts(path, old, new, words),
        _ => words.push(whole(path, Some(mine), 1)),
    }
}

/// Lists are alike at both ends; what lies between was changed in place where it is as long, else exchanged.
fn lists(path: &mut Vec<Step>, old: &[Value], new: &[Value], words: &mut Vec<Word>) {
    let front = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()).saturating_sub(front);
    let back = old.iter().rev().zip(new.iter().rev()).take(rest);
    let back = back.take_while(|(a, b)| a == b).count();
    let gone = old
        .get(front..old.len().saturating_sub(back))
        .unwrap_or_default();
    let come = new
        .get(front..new.len().saturating_sub(back))
        .unwrap_or_default();
    for (index, (before, value)) in (front..).zip(gone.iter().zip(come)) {
        path.push(Step::Index(index as u64));
        values(path, before, value, words);
        path.pop();
    }
    let both = gone.len().min(come.len());
    for (index, value) in (front.saturating_add(both)..).zip(come.iter().skip(both)) {
        path.push(Step::Index(index as u64));
        words.push(whole(path, Some(value), 0));
        path.pop();
    }
    for (index, _) in (front.saturating_add(both)..).zip(gone.iter().skip(both)) {
        path.push(Step::Index(index as u64));
        words.push(whole(path, None, 1));
        path.pop();
    }
}

fn whole(path: &[Step], value: Option<&Value>, deleted: u64) -> Word {
    Word {
        path: path.to_vec(),
        at: 0,
        inserted: value.map_or(Inserted::Nothing, |value| {
            Inserted::Value(value.to_string())
        }),
        deleted,
        around: None,
    }
}

/// Writes what was inserted into a document: into its text where its surroundings are still found, else at the end; a value at its path, where
/// the document has room for it there. Deletions are not repeated: what is there now may be others' again.
///
/// # Errors
/// [`CrdtError::InvalidArgument`] where the document has no such view, or what is at a path is of another shape; the errors of editing.
pub fn write_words(words: &[Word], crdt: &mut dyn Crdt) -> Result<(), CrdtError> {
    let mut json: Option<Value> = None;
    for word in words {
        if word.path.is_empty() {
            if let Inserted::Text(text) = &word.inserted {
                let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
                let (at, text) = place(&view.text()?, text, word.around.as_ref());
                view.splice(at, 0, &text)?;
            }
            continue;
        }
        if word.inserted == Inserted::Nothing {
            continue;
        }
        if json.is_none() {
            json = Some(crdt.json().ok_or(CrdtError::InvalidArgument)?.to_json()?);
        }
        if let Some(root) = &mut json {
            put(root, &word.path, word)?;
        }
    }
    match json {
        Some(json) => crdt
            .json()
            .ok_or(CrdtError::InvalidArgument)?
            .merge_json(&json),
        None => Ok(()),
    }
}

/// Where in `text` an insertion goes, in characters, and in what form.
fn place(text: &str, inserted: &str, around: Option<&Around>) -> (usize, String) {
    let chars = |bytes: usize| text.get(..bytes).map_or(0, |head| head.chars().count());
    if let Some(around) = around {
        // The less of it is still there, the less is looked for.
        let lengths = [
            CONTEXT_CHARS,
            CONTEXT_CHARS / 2,
            CONTEXT_CHARS / 4,
            CONTEXT_CHARS / 8,
        ];
        for (with_before, with_after) in [(true, true), (true, false), (false, true)] {
            for length in lengths {
                let before = if with_before {
                    last(&around.before, length)
                } else {
                    ""
                };
                let after = if with_after {
                    first(&around.after, length)
                } else {
                    ""
                };
                if let Some(at) = once(text, &format!("{before}{after}")) {
                    return (chars(at.saturating_add(before.len())), inserted.to_owned());
                }
            }
        }
    }
    // On a line of its own, at the end.
    let apart = !text.is_empty() && !text.ends_with('\n') && !inserted.starts_with('\n');
    let line = if apart { "\n" } else { "" };
    (text.chars().count(), format!("{line}{inserted}"))
}

/// The last so many characters.
fn last(text: &str, chars: usize) -> &str {
    let from = text.char_indices().rev().take(chars).last();
    from.and_then(|(at, _)| text.get(at..)).unwrap_or_default()
}

/// The first so many characters.
fn first(text: &str, chars: usize) -> &str {
    match text.char_indices().nth(chars) {
        Some((at, _)) => text.get(..at).unwrap_or_default(),
        None => text,
    }
}

/// Where a piece stands, if it stands there once.
fn once(text: &str, piece: &str) -> Option<usize> {
    if piece.is_empty() {
        return text.is_empty().then_some(0);
    }
    let at = text.find(piece)?;
    (text.rfind(piece) == Some(at)).then_some(at)
}

fn put(at: &mut Value, path: &[Step], word: &Word) -> Result<(), CrdtError> {
    let Some((step, rest)) = path.split_first() else {
        match (&word.inserted, &*at) {
            (Inserted::Text(text), Value::String(present)) => {
                let (position, text) = place(present, text, word.around.as_ref());
                let mut chars: Vec<char> = present.chars().collect();
                let position = position.min(chars.len());
                chars.splice(position..position, text.chars());
                *at = Value::String(chars.into_iter().collect());
            }
            (Inserted::Text(text), _) => *at = Value::String(text.clone()),
            (Inserted::Value(json), _) => {
                *at = serde_json::from_str(json).map_err(|_| CrdtError::InvalidArgument)?;
            }
            (Inserted::Nothing, _) => {}
        }
        return Ok(());
    };
    if at.is_null() {
        *at = match step {
            Step::Key(_) => Value::Object(Map::new()),
            Step::Index(_) => Value::Array(Vec::new()),
        };
    }
    match (step, at) {
        (Step::Key(key), Value::Object(map)) => {
            put(map.entry(key.clone()).or_insert(Value::Null), rest, word)
        }
        (Step::Index(index), Value::Array(list)) => {
            let index = usize::try_from(*index)
                .unwrap_or(usize::MAX)
                .min(list.len());
            // A value that came in as a whole is not written over another.
            let is_new = rest.is_empty() && word.deleted == 0 && !is_text(word);
            if index == list.len() || is_new {
                list.insert(index, Value::Null);
            }
            let place = list.get_mut(index).ok_or(CrdtError::InvalidArgument)?;
            put(place, rest, word)
        }
        _ => Err(CrdtError::InvalidArgument),
    }
}

fn is_text(word: &Word) -> bool {
    matches!(word.inserted, Inserted::Text(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_crdt::ReplicaId;
    use serde_json::json;

    const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];

    fn crdt(kind: CrdtKind, text: &str, json: &Value) -> Box<dyn Crdt> {
        let replica = ReplicaId::for_kind(kind, [7; 16]);
        let mut crdt = conclave_crdt::create(kind, replica).unwrap();
        if !text.is_empty() {
            crdt.text().unwrap().splice(0, 0, text).unwrap();
        }
        if json.as_object().is_some_and(|map| !map.is_empty()) {
            let mut json = json.clone();
            if kind == CrdtKind::Automerge && !text.is_empty() {
                json[TEXT] = Value::String(text.to_owned());
            }
            crdt.json().unwrap().merge_json(&json).unwrap();
        }
        crdt
    }

    fn views(kind: CrdtKind, text: &str, json: &Value) -> Views {
        Views::of(crdt(kind, text, json).as_mut())
    }

    fn inserted(words: &[Word]) -> Vec<&str> {
        let text = |word| match word {
            &Word {
                inserted: Inserted::Text(ref text) | Inserted::Value(ref text),
                ..
            } => text.as_str(),
            _ => "",
        };
        words.iter().map(text).collect()
    }

    #[test]
    fn only_what_was_written_is_in_the_words() {
        for kind in KINDS {
            let base = views(kind, "one two three four", &json!({}));
            let mine = views(kind, "zero one tw0 three four five", &json!({}));
            let words = between(kind, &base, &mine);
            assert_eq!(inserted(&words).concat(), "zero tw0 five", "{kind}");
            assert_eq!(words.iter().map(|word| word.deleted).sum::<u64>(), 3);
        }
    }

    #[test]
    fn words_find_their_place_among_what_others_wrote_meanwhile() {
        for kind in KINDS {
            let base = views(kind, "alpha\nbeta\ngamma\n", &json!({}));
            let mine = views(kind, "alpha\nown\nbeta\ngamma too\n", &json!({}));
            let words = between(kind, &base, &mine);
            let mut onto = crdt(kind, "before\nalpha\nbeta\ngamma\nafter\n", &json!({}));
            write_words(&words, onto.as_mut()).unwrap();
            let text = onto.text().unwrap().text().unwrap();
            assert_eq!(
                text, "before\nalpha\nown\nbeta\ngamma too\nafter\n",
                "{kind}"
            );
            // Nothing around them is left: they go to the end, apart.
            let mut other = crdt(kind, "something else", &json!({}));
            write_words(&words, other.as_mut()).unwrap();
            let text = other.text().unwrap().text().unwrap();
            assert_eq!(text, "something else\nown\n too", "{kind}");
        }
    }

    #[test]
    fn values_are_named_by_their_path_and_written_there() {
        for kind in KINDS {
            let before = json!({"list": [1, 2, 3], "map": {"theirs": "text of theirs"}, "gone": 1});
            let after = json!({
                "list": [1, {"own": true}, 2, 3],
                "map": {"theirs": "text of mine", "mine": [null]},
            });
            let words = between(kind, &views(kind, "", &before), &views(kind, "", &after));
            let all = inserted(&words).concat();
            assert!(
                all.contains("mine") && !all.contains("theirs"),
                "{kind}: {all}"
            );
            let mut onto = crdt(kind, "", &json!({"list": [1, 2, 3], "other": 5}));
            write_words(&words, onto.as_mut()).unwrap();
            let shown = onto.json().unwrap().to_json().unwrap();
            assert_eq!(shown["list"], json!([1, {"own": true}, 2, 3]), "{kind}");
            assert_eq!(shown["map"]["mine"], json!([null]), "{kind}");
            assert_eq!(shown["other"], json!(5), "{kind}");
        }
    }

    #[test]
    fn what_has_another_shape_is_refused() {
        let words = [Word {
            path: vec![Step::Key("a".to_owned()), Step::Index(0)],
            at: 0,
            inserted: Inserted::Value("1".to_owned()),
            deleted: 0,
            around: None,
        }];
        let mut onto = crdt(CrdtKind::Yjs, "", &json!({"a": "text"}));
        let refused = write_words(&words, onto.as_mut());
        assert_eq!(refused, Err(CrdtError::InvalidArgument));
        assert!(!format!("{words:?}").contains('a'));
    }
}

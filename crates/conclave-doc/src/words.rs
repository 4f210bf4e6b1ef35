//! What own edits did, as words: where, what was inserted, how much was deleted. Kept apart where the edits themselves have no place, and
//! written into a document again by a person.

use std::fmt;

use conclave_crdt::{CrdtKind, item_id, match_items, naming_member, text_edits};
use conclave_proto::Hash;
use conclave_proto::hash::labelled;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::views::Views;

mod write;

pub use write::{Written, write_words};

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
    /// An item of a list.
    Item(Box<Item>),
}

/// An item of a list. It is found by what it is known by, never by its position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its position: of something new with own edits, else without them.
    pub at: u64,
    /// What it is known by; nothing where it is new.
    pub known: Option<Mark>,
    /// The item before it, of those that are not new.
    pub before: Option<Mark>,
    /// The item behind it, of those that are not new.
    pub after: Option<Mark>,
}

/// What an item was known by, without own edits. It stands for others' content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The member that names it, and its value as JSON, where its list has such names.
    pub id: Option<(String, String)>,
    /// Hash of its content.
    pub content: Hash,
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
    /// Nothing new: an item of a list went to another place in it.
    Moved,
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
    /// What went, a value as JSON: others' content, mostly.
    pub gone: Option<String>,
    /// What stood around it: others' content, mostly.
    pub around: Option<Around>,
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inserted = match &self.inserted {
            Inserted::Nothing | Inserted::Moved => 0,
            Inserted::Text(text) | Inserted::Value(text) => text.len(),
        };
        write!(f, "Word(+{inserted} bytes, -{})", self.deleted)
    }
}

impl Word {
    /// Forgets what others wrote.
    pub fn keep_own(&mut self) {
        self.around = None;
        self.gone = None;
        for step in &mut self.path {
            if let Step::Item(item) = step {
                (item.known, item.before, item.after) = (None, None, None);
            }
        }
    }
}

/// What the items of a list are known by.
struct Marks<'a> {
    items: &'a [Value],
    member: Option<&'static str>,
}

impl<'a> Marks<'a> {
    fn of(items: &'a [Value]) -> Self {
        Self {
            items,
            member: naming_member(items),
        }
    }

    fn get(&self, at: usize) -> Option<Mark> {
        let item = self.items.get(at)?;
        let id = self
            .member
            .and_then(|member| Some((member.to_owned(), item_id(item, member)?)));
        Some(Mark {
            id,
            content: content(item),
        })
    }

    /// An item with its neighbours.
    fn item(&self, at: usize) -> Item {
        Item {
            at: at as u64,
            known: self.get(at),
            before: at.checked_sub(1).and_then(|before| self.get(before)),
            after: self.get(at.saturating_add(1)),
        }
    }
}

fn content(item: &Value) -> Hash {
    let text = item.to_string();
    labelled("conclave 1.0 list item", &[text.as_bytes()])
}

/// Where Automerge documents keep the text that their text view shows.
const TEXT: &str = "text";
/// Objects with this key stand for what JSON has no word for: they are one value.
const SPECIAL: &str = "$conclave";

/// What was typed into a copy of a document and not done to it. `Debug` prints no content.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Typed {
    /// Into a text: what the copy was made from, and what became of it.
    Text(String, String),
    /// The same of JSON.
    Json(Value, Value),
    /// Something that was to be JSON, and is not.
    Broken(String),
}

impl fmt::Debug for Typed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Typed(..)")
    }
}

impl Typed {
    /// Where it was typed, and what it did.
    #[must_use]
    pub fn words(&self) -> (CrdtKind, Vec<Word>) {
        let mut words = Vec::new();
        let kind = match self {
            Self::Text(base, mine) => {
                texts(&[], base, mine, &mut words);
                CrdtKind::Yjs
            }
            Self::Json(base, mine) => {
                values(&mut Vec::new(), base, mine, &mut words);
                CrdtKind::Automerge
            }
            // A value that is none: it is shown, and has no place in any document.
            Self::Broken(text) => {
                words.push(Word {
                    path: vec![Step::Key(String::new())],
                    at: 0,
                    inserted: Inserted::Value(text.clone()),
                    deleted: 0,
                    gone: None,
                    around: None,
                });
                CrdtKind::Automerge
            }
        };
        (kind, words)
    }
}

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
            let range = range.start.min(chars.len())..range.end.min(chars.len());
            chars.get(range).unwrap_or_default().iter().collect()
        };
        let around = Around {
            before: cut(begin..edit.position),
            after: cut(end..end.saturating_add(CONTEXT_CHARS)),
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
            gone: (edit.delete > 0).then(|| cut(edit.position..end)),
            around: Some(around),
        });
    }
}

fn values(path: &mut Vec<Step>, base: &Value, mine: &Value, words: &mut Vec<Word>) {
    if base == mine {
        return;
    }
    let special = |value: &Value| value.get(SPECIAL).is_some();
    match (base, mine) {
        _ if special(base) || special(mine) => words.push(whole(path, Some(mine), Some(base))),
        (Value::Object(old), Value::Object(new)) if path.len() < MAX_DEPTH => {
            for (key, value) in new {
                path.push(Step::Key(key.clone()));
                match old.get(key) {
                    Some(before) => values(path, before, value, words),
                    None => words.push(whole(path, Some(value), None)),
                }
                path.pop();
            }
            for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
                path.push(Step::Key(key.clone()));
                words.push(whole(path, None, Some(value)));
                path.pop();
            }
        }
        (Value::Array(old), Value::Array(new)) if path.len() < MAX_DEPTH => {
            lists(path, old, new, words);
        }
        (Value::String(old), Value::String(new)) => texts(path, old, new, words),
        _ => words.push(whole(path, Some(mine), Some(base))),
    }
}

/// What an item of a list was before.
#[derive(Clone, Copy)]
enum Origin {
    New,
    Stays(usize),
    Moved(usize),
}

fn lists(path: &mut Vec<Step>, old: &[Value], new: &[Value], words: &mut Vec<Word>) {
    let marks = Marks::of(old);
    let mut origins = vec![Origin::New; new.len()];
    let mut gone = Vec::new();
    let found = match_items(old, new);
    for (from, (stays, goes)) in found.in_order.iter().zip(&found.anywhere).enumerate() {
        let (to, origin) = match (stays, goes) {
            (Some(to), _) => (to, Origin::Stays(from)),
            (None, Some(to)) => (to, Origin::Moved(from)),
            (None, None) => {
                gone.push(from);
                continue;
            }
        };
        if let Some(place) = origins.get_mut(*to) {
            *place = origin;
        }
    }
    // The next item that stays, for each.
    let mut next = None;
    let mut behind: Vec<Option<usize>> = Vec::with_capacity(new.len());
    for origin in origins.iter().rev() {
        behind.push(next);
        if let Origin::Stays(from) = origin {
            next = Some(*from);
        }
    }
    behind.reverse();
    let mut last = None;
    for (to, ((origin, value), behind)) in origins.iter().zip(new).zip(behind).enumerate() {
        let place = |known| Item {
            at: to as u64,
            known,
            before: last.and_then(|at| marks.get(at)),
            after: behind.and_then(|at| marks.get(at)),
        };
        let (from, moved) = match origin {
            Origin::New => {
                path.push(Step::Item(Box::new(place(None))));
                words.push(whole(path, Some(value), None));
                path.pop();
                continue;
            }
            Origin::Stays(from) => (*from, None),
            Origin::Moved(from) => (*from, Some(place(marks.get(*from)))),
        };
        if let Some(item) = moved {
            path.push(Step::Item(Box::new(item)));
            words.push(Word {
                inserted: Inserted::Moved,
                ..whole(path, None, None)
            });
            path.pop();
        } else {
            last = Some(from);
        }
        if let Some(was) = old.get(from).filter(|was| *was != value) {
            path.push(Step::Item(Box::new(marks.item(from))));
            values(path, was, value, words);
            path.pop();
        }
    }
    for from in gone {
        path.push(Step::Item(Box::new(marks.item(from))));
        words.push(whole(path, None, old.get(from)));
        path.pop();
    }
}

fn whole(path: &[Step], value: Option<&Value>, gone: Option<&Value>) -> Word {
    Word {
        path: path.to_vec(),
        at: 0,
        inserted: value.map_or(Inserted::Nothing, |value| {
            Inserted::Value(value.to_string())
        }),
        deleted: u64::from(gone.is_some()),
        gone: gone.map(Value::to_string),
        around: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_crdt::{Crdt, ReplicaId};
    use serde_json::json;

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
        for kind in CrdtKind::ALL {
            let base = views(kind, "one two three four", &json!({}));
            let mine = views(kind, "zero one tw0 three four five", &json!({}));
            let words = between(kind, &base, &mine);
            assert_eq!(inserted(&words).concat(), "zero tw0 five", "{kind}");
            assert_eq!(words.iter().map(|word| word.deleted).sum::<u64>(), 3);
        }
    }

    #[test]
    fn words_find_their_place_among_what_others_wrote_meanwhile() {
        for kind in CrdtKind::ALL {
            let base = views(kind, "alpha\nbeta\ngamma\n", &json!({}));
            let mine = views(kind, "alpha\nown\nbeta\ngamma too\n", &json!({}));
            let words = between(kind, &base, &mine);
            let mut onto = crdt(kind, "before\nalpha\nbeta\ngamma\nafter\n", &json!({}));
            assert_eq!(write_words(&words, onto.as_mut()).unwrap().left, []);
            let text = onto.text().unwrap().text().unwrap();
            assert_eq!(
                text, "before\nalpha\nown\nbeta\ngamma too\nafter\n",
                "{kind}"
            );
            // Nothing around them is left: they go to the end, apart.
            let mut other = crdt(kind, "something else", &json!({}));
            assert_eq!(write_words(&words, other.as_mut()).unwrap().left, []);
            let text = other.text().unwrap().text().unwrap();
            assert_eq!(text, "something else\nown\n too", "{kind}");
        }
    }

    #[test]
    fn values_are_named_by_their_path_and_written_there() {
        for kind in CrdtKind::ALL {
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
            // What it deleted does not stand there.
            assert_eq!(write_words(&words, onto.as_mut()).unwrap().left.len(), 2);
            let shown = onto.json().unwrap().to_json().unwrap();
            assert_eq!(shown["list"], json!([1, {"own": true}, 2, 3]), "{kind}");
            assert_eq!(shown["map"]["mine"], json!([null]), "{kind}");
            assert_eq!(shown["other"], json!(5), "{kind}");
        }
    }

    #[test]
    fn rows_of_others_are_not_in_the_words() {
        let row = |title: &str, done: bool| json!({"title": title, "done": done});
        let (a, b, c) = (
            row("ana one", false),
            row("ana two", false),
            row("ana three", false),
        );
        for kind in CrdtKind::ALL {
            let base = json!({"rows": [a, b, c]});
            let mine = json!({"rows": [row("own", false), a, b, row("ana three", true)]});
            let words = between(kind, &views(kind, "", &base), &views(kind, "", &mine));
            let all = inserted(&words).concat();
            assert!(all.contains("own") && !all.contains("ana"), "{kind}: {all}");
            // Meanwhile somebody put a row before all of them.
            let other = row("cleo", false);
            let mut onto = crdt(kind, "", &json!({"rows": [other, a, b, c]}));
            assert_eq!(write_words(&words, onto.as_mut()).unwrap().left, []);
            let shown = onto.json().unwrap().to_json().unwrap();
            let wanted = json!([other, row("own", false), a, b, row("ana three", true)]);
            assert_eq!(shown["rows"], wanted, "{kind}");
        }
    }

    /// What is shown after words were written over `onto`, and how many were given back.
    fn written(kind: CrdtKind, words: &[Word], onto: &Value) -> (Value, usize) {
        let mut onto = crdt(kind, "", onto);
        let left = write_words(words, onto.as_mut()).unwrap().left;
        (onto.json().unwrap().to_json().unwrap(), left.len())
    }

    fn words(kind: CrdtKind, base: &Value, mine: &Value) -> Vec<Word> {
        between(kind, &views(kind, "", base), &views(kind, "", mine))
    }

    #[test]
    fn what_has_another_shape_is_left() {
        for kind in CrdtKind::ALL {
            let base = json!({"a": [1, 2], "b": {"c": "text"}, "d": 1});
            let mine = json!({"a": [1, 3], "b": {"c": "texts"}, "d": 2});
            let words = words(kind, &base, &mine);
            let onto = json!({"a": "text", "b": [{"c": "text"}], "d": {"e": 1}});
            assert_eq!(written(kind, &words, &onto), (onto, 3), "{kind}");
            assert!(!format!("{words:?}").contains("text"));
        }
    }

    #[test]
    fn an_item_is_found_by_its_id_wherever_it_is() {
        let row = |id: u64, text: &str| json!({"id": id, "text": text});
        for kind in CrdtKind::ALL {
            let base = json!({"rows": [row(1, "one"), row(2, "two"), row(3, "three")]});
            let mine = json!({"rows": [row(1, "one"), row(3, "three!")]});
            let words = words(kind, &base, &mine);
            // Somebody changed the second and moved the third meanwhile.
            let onto =
                json!({"rows": [row(3, "three"), row(0, "nil"), row(2, "too"), row(1, "one")]});
            let wanted =
                json!({"rows": [row(3, "three!"), row(0, "nil"), row(2, "too"), row(1, "one")]});
            assert_eq!(written(kind, &words, &onto), (wanted, 1), "{kind}");
            // It is gone: nothing is written into another.
            let onto = json!({"rows": [row(1, "one"), row(4, "three")]});
            assert_eq!(written(kind, &words, &onto), (onto, 2), "{kind}");
        }
    }

    #[test]
    fn of_items_alike_the_one_between_its_neighbours_is_meant() {
        for kind in CrdtKind::ALL {
            let words = words(
                kind,
                &json!({"l": ["a", "x", "b", "x"]}),
                &json!({"l": ["a", "x", "b"]}),
            );
            let (shown, left) = written(kind, &words, &json!({"l": ["x", "a", "x", "b", "x"]}));
            assert_eq!(
                (shown, left),
                (json!({"l": ["x", "a", "x", "b"]}), 0),
                "{kind}"
            );
            let onto = json!({"l": ["x", "x"]});
            assert_eq!(written(kind, &words, &onto), (onto, 1), "{kind}");
        }
    }

    #[test]
    fn an_item_that_moved_is_not_written_twice() {
        let row = |id: &str, n: u64| json!({"id": id, "n": n});
        for kind in CrdtKind::ALL {
            let base = json!({"l": [row("a", 1), row("b", 1), row("c", 1)]});
            let mine = json!({"l": [row("c", 1), row("a", 1), row("b", 1)]});
            let words = words(kind, &base, &mine);
            assert_eq!(inserted(&words).concat(), "", "{kind}");
            let onto = json!({"l": [row("z", 1), row("a", 1), row("b", 1), row("c", 2)]});
            let wanted = json!({"l": [row("z", 1), row("c", 2), row("a", 1), row("b", 1)]});
            assert_eq!(written(kind, &words, &onto), (wanted, 0), "{kind}");
        }
    }

    #[test]
    fn deletions_are_done_where_what_went_still_stands() {
        for kind in CrdtKind::ALL {
            let base = views(
                kind,
                "keep this, drop that, and go on",
                &json!({"old": "x", "n": 1}),
            );
            let mine = views(kind, "keep this, and go on", &json!({}));
            let mut words = between(kind, &base, &mine);
            let mut onto = crdt(
                kind,
                "Keep this, drop that, and go on!",
                &json!({"old": "x", "n": 2}),
            );
            let left = write_words(&words, onto.as_mut()).unwrap().left;
            assert_eq!(
                onto.text().unwrap().text().unwrap(),
                "Keep this, and go on!",
                "{kind}"
            );
            let mut shown = onto.json().unwrap().to_json().unwrap();
            shown.as_object_mut().unwrap().remove(TEXT);
            assert_eq!(shown, json!({"n": 2}), "{kind}");
            assert_eq!(left.len(), 1, "{kind}");
            // It is gone from there, or not known any more.
            let present = "keep this, drop those, and go on";
            for _ in 0..2 {
                let mut onto = crdt(kind, present, &json!({}));
                assert_eq!(
                    write_words(&words, onto.as_mut()).unwrap().left.len(),
                    3,
                    "{kind}"
                );
                assert_eq!(onto.text().unwrap().text().unwrap(), present);
                words.iter_mut().for_each(Word::keep_own);
            }
        }
    }

    #[test]
    fn what_was_typed_is_words_and_what_is_no_json_has_no_place() {
        let typed = Typed::Text("one\ntwo\n".to_owned(), "one\nmine\ntwo\n".to_owned());
        assert_eq!(format!("{typed:?}"), "Typed(..)");
        let (kind, words) = typed.words();
        assert_eq!(
            (kind, inserted(&words).concat()),
            (CrdtKind::Yjs, "mine\n".to_owned())
        );
        let (kind, words) = Typed::Json(json!({"a": 1}), json!({"a": 1, "b": [2]})).words();
        let (shown, left) = written(kind, &words, &json!({"a": 3}));
        assert_eq!((shown, left), (json!({"a": 3, "b": [2]}), 0));
        let (kind, words) = Typed::Broken("{\"a\": ".to_owned()).words();
        assert_eq!(inserted(&words), ["{\"a\": "]);
        assert_eq!(
            written(kind, &words, &json!({"a": 3})),
            (json!({"a": 3}), 1)
        );
    }

    #[test]
    fn nothing_of_others_is_in_own_words() {
        let text = |words: &[Word]| serde_json::to_string(words).unwrap();
        for kind in CrdtKind::ALL {
            let base = views(
                kind,
                "secret one",
                &json!({"l": ["secret two", {"id": "secret three"}], "k": "secret four"}),
            );
            let mine = views(
                kind,
                "secret own one",
                &json!({"l": ["secret two", "own", {"id": "secret three", "n": 1}]}),
            );
            let mut words = between(kind, &base, &mine);
            assert!(text(&words).contains("secret"), "{kind}");
            words.iter_mut().for_each(Word::keep_own);
            assert!(!text(&words).contains("secret"), "{kind}: {}", text(&words));
            // What is wholly own has a place everywhere.
            let (shown, left) = written(kind, &words, &json!({"l": [1]}));
            assert_eq!((&shown["l"], left), (&json!([1, "own"]), 2), "{kind}");
        }
    }

    #[test]
    fn what_only_stands_for_something_is_left_and_the_rest_written() {
        for kind in CrdtKind::ALL {
            let base = json!({"l": [1]});
            let mine = json!({"l": [1, 2], "b": {"$conclave": "bytes", "base64": "AAAA"}});
            let mut words = words(kind, &base, &mine);
            let mut carried = words[0].clone();
            carried.path = vec![Step::Key("x".to_owned())];
            let stands_for = json!({"$conclave": "xml", "shown": "<b></b>"});
            carried.inserted = Inserted::Value(stands_for.to_string());
            words.push(carried);
            assert_eq!(written(kind, &words, &base), (mine, 1), "{kind}");
        }
    }
}

//! Lists of items with and without names.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::{Crdt, CrdtKind, ReplicaId};
use serde_json::{Value, json};

use super::random::Random;

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Named,
    Nameless,
    Strings,
    Numbers,
}

fn item(form: Form, n: usize) -> Value {
    match form {
        Form::Named => json!({ "id": n, "title": format!("task {}", n % 7), "done": false }),
        Form::Nameless => {
            json!({ "title": format!("task number {n} of many"), "done": false, "by": n % 3 })
        }
        Form::Strings => json!(format!("item number {n} to get")),
        Form::Numbers => json!(n * 10),
    }
}

/// What an item is recognised by, whoever changed it.
fn known(form: Form, item: &Value) -> String {
    match form {
        Form::Named => item["id"].to_string(),
        Form::Nameless => item["title"].as_str().unwrap().to_owned(),
        Form::Strings => item
            .as_str()
            .unwrap()
            .chars()
            .filter(char::is_ascii_digit)
            .collect(),
        Form::Numbers => item.to_string(),
    }
}

/// A list, and what writers do to it.
pub struct ListCase {
    form: Form,
    base: Vec<Value>,
    /// What is put in, and before which item of the base.
    inserted: BTreeMap<String, usize>,
    removed: BTreeSet<usize>,
    /// By whom each item was changed.
    changed: BTreeMap<usize, BTreeSet<usize>>,
    moved: Option<Move>,
    /// All writers at about the same place, or each anywhere: the first place and how many there are.
    places: (usize, usize),
}

/// Somebody takes an item behind at least three others.
struct Move {
    writer: usize,
    item: usize,
    /// Before which item it is put.
    before: usize,
}

impl ListCase {
    /// With `moves`, one of the writers may move an item.
    pub fn new(random: &mut Random, length: usize, writers: usize, moves: bool) -> Self {
        let form = [Form::Named, Form::Nameless, Form::Strings, Form::Numbers][random.below(4)];
        let item_moved = random.below(length);
        let moved = Move {
            writer: random.below(writers),
            item: item_moved,
            before: item_moved + 4 + random.below(3),
        };
        let moves = moves && random.below(4) == 0 && moved.before <= length;
        Self {
            form,
            base: (0..length).map(|n| item(form, n)).collect(),
            inserted: BTreeMap::new(),
            removed: BTreeSet::new(),
            changed: BTreeMap::new(),
            moved: moves.then_some(moved),
            places: match random.below(2) {
                0 => (0, length + 1),
                _ => (random.below(length), 8),
            },
        }
    }

    /// The value that all begin with.
    #[must_use]
    pub fn begin(&self) -> Value {
        json!({ "list": self.base, "note": "kept" })
    }

    fn moved_item(&self) -> Option<usize> {
        self.moved.as_ref().map(|moved| moved.item)
    }

    /// What one writer makes of it.
    pub fn write(&mut self, random: &mut Random, writer: usize) -> Value {
        let (from, width) = self.places;
        let places = (0..random.between(1, 6)).map(|_| from + random.below(width));
        let places: BTreeSet<usize> = places.collect();
        let base = self.base.clone();
        let mine = self.moved.as_ref().filter(|moved| moved.writer == writer);
        let mine = mine.map(|moved| (moved.item, moved.before));
        let mut new = Vec::new();
        // What is put where something was removed is that, with a change: nobody could tell.
        let mut gone = false;
        for n in 0..=base.len() {
            let beside_gone = core::mem::take(&mut gone);
            if let Some((item, before)) = mine
                && (item..=before).contains(&n)
            {
                if n == before {
                    self.inserted.insert(known(self.form, &base[item]), n);
                    new.push(base[item].clone());
                }
                new.extend(base.get(n).filter(|_| n != item).cloned());
                continue;
            }
            let act = if places.contains(&n) {
                random.below(5)
            } else {
                5
            };
            if act < 2 && !beside_gone {
                let number = item(self.form, 100_000 + self.inserted.len());
                self.inserted.insert(known(self.form, &number), n);
                new.push(number);
            }
            let Some(value) = base.get(n) else { continue };
            if act == 2 && self.moved_item() != Some(n) {
                self.removed.insert(n);
                gone = true;
                continue;
            }
            let mut value = value.clone();
            if matches!(act, 1 | 3 | 4) && self.form != Form::Numbers {
                self.changed.entry(n).or_default().insert(writer);
                match self.form {
                    Form::Strings => {
                        value = json!(format!("{} {}", value.as_str().unwrap(), sign(writer)));
                    }
                    _ => value["done"] = json!(format!("W{writer}")),
                }
            }
            new.push(value);
        }
        json!({ "list": new, "note": "kept" })
    }

    /// Nothing stands twice or is lost, nothing has moved that nobody moved, nothing untouched is another one. `written` says of each item
    /// whether the first one made it.
    ///
    /// # Panics
    /// Where it is otherwise.
    pub fn check(&self, value: &Value, written: &[bool], apart: bool) {
        assert_eq!(value["note"], "kept");
        let list = value["list"].as_array().unwrap();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for (at, item) in list.iter().enumerate() {
            let name = known(self.form, item);
            assert_eq!(places.insert(name.clone(), at), None, "{name} stands twice");
        }
        let place = |n: usize| places.get(&known(self.form, &self.base[n])).copied();
        let mut before = None;
        for (n, item) in self.base.iter().enumerate() {
            let writers = self.changed.get(&n);
            let Some(at) = place(n) else {
                // What was changed comes again, unless others put something in its place: nobody could tell that from a change.
                let lost = self.form == Form::Named && !apart && writers.is_some();
                assert!(self.removed.contains(&n) && !lost, "item {n} is missing");
                continue;
            };
            if self.removed.contains(&n) {
                assert!(writers.is_some(), "item {n} is still there");
                continue;
            }
            if self.moved_item() != Some(n) {
                assert!(before < Some(at), "item {n} has moved");
                before = Some(at);
                assert!(written[at], "item {n} has a new author");
            }
            match writers {
                None => assert_eq!(&list[at], item, "item {n}"),
                Some(writers) => self.check_changes(n, &list[at], writers),
            }
        }
        for (name, gap) in &self.inserted {
            let at = places.get(name);
            let at = *at.unwrap_or_else(|| panic!("{name} is missing"));
            for n in (0..self.base.len()).filter(|n| !self.removed.contains(n)) {
                if self.moved_item() != Some(n) {
                    let right = (place(n) < Some(at)) == (n < *gap);
                    assert!(right, "{name} is not before item {gap}: see item {n}");
                }
            }
        }
    }

    /// Of one member one value stands, of a text all that was added.
    fn check_changes(&self, n: usize, now: &Value, writers: &BTreeSet<usize>) {
        let right = match now.as_str() {
            Some(now) => writers
                .iter()
                .all(|writer| now.matches(sign(*writer)).count() == 1),
            None => writers
                .iter()
                .any(|writer| now["done"] == format!("W{writer}")),
        };
        assert!(right, "item {n} is not as it was changed: {now}");
    }
}

fn sign(writer: usize) -> &'static str {
    ["Wa", "Wb", "Wc"][writer]
}

/// Whether the first one made it, under one of these ids, for each item. Plain values do not say in Yjs: of these it is believed.
///
/// # Panics
/// Where the document is no such list.
pub fn written_by(doc: &mut dyn Crdt, first: &[ReplicaId]) -> Vec<bool> {
    let authors = match doc.kind() {
        CrdtKind::Automerge => automerge_authors(doc),
        _ => yjs_authors(doc),
    };
    let is_first = |author: Option<ReplicaId>| author.is_none_or(|author| first.contains(&author));
    authors.into_iter().map(is_first).collect()
}

fn automerge_authors(doc: &mut dyn Crdt) -> Vec<Option<ReplicaId>> {
    use automerge::{ObjId, ROOT, ReadDoc};
    use conclave_crdt::automerge::Automerge;
    let engine = doc.as_any_mut().downcast_mut::<Automerge>().unwrap();
    let engine = engine.doc_mut();
    let (_, list) = engine.get(ROOT, "list").unwrap().unwrap();
    let author = |id: ObjId| match id {
        ObjId::Id(_, actor, _) => ReplicaId::from_bytes(actor.to_bytes()).ok(),
        ObjId::Root => None,
    };
    engine
        .list_range(&list, ..)
        .map(|item| author(item.id()))
        .collect()
}

fn yjs_authors(doc: &mut dyn Crdt) -> Vec<Option<ReplicaId>> {
    use conclave_crdt::yjs::Yrs;
    use yrs::branch::{Branch, BranchID};
    use yrs::{Array, Map, Out, ReadTxn, Transact};
    let engine = doc.as_any_mut().downcast_mut::<Yrs>().unwrap();
    let txn = engine.doc().transact();
    let root = txn.get_map("root").unwrap();
    let Some(Out::YArray(list)) = root.get(&txn, "list") else {
        panic!("no list");
    };
    let author = |branch: &Branch| match branch.id() {
        BranchID::Nested(id) => ReplicaId::from_bytes(&id.client.get().to_be_bytes()).ok(),
        BranchID::Root(_) => None,
    };
    list.iter(&txn)
        .map(|item| match item {
            Out::YMap(map) => author(map.as_ref()),
            Out::YText(text) => author(text.as_ref()),
            _ => None,
        })
        .collect()
}

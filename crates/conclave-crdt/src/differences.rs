//! What differs between two states of a document, of which one came of the other: told by the operations behind what shows, so that it is what was written
//! and taken out, and not a guess from how the two look.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::{Map, Value};

use crate::api::{Crdt, PathElement, Root};
use crate::attribution::{Asking, Attributed, Path, Stretch, Writers};
use crate::error::{CrdtError, Result};
use crate::json::Slot;
use crate::limits::MAX_JSON_DEPTH;
use crate::types::ReplicaId;

/// Something that differs, and where.
#[derive(Clone, PartialEq)]
pub struct Difference {
    /// The text, list or member of a map, from the root; keys are content. Nothing for the text of [`crate::TextView`] where that has no place in
    /// [`crate::JsonView`], as in Yjs documents.
    pub place: Vec<PathElement>,
    /// What was done there.
    pub what: Differs,
}

/// What was done at a place. Positions are those in the later state: whoever does to the earlier one what is told, in this order, gets the later one.
#[derive(Clone, PartialEq)]
pub enum Differs {
    /// Characters of a text.
    Text {
        /// Where, in Unicode scalar values.
        at: usize,
        /// What was taken out there.
        deleted: String,
        /// What was written there.
        inserted: String,
    },
    /// Items of a list.
    Items {
        /// Where.
        at: usize,
        /// What was taken out there.
        deleted: Vec<Value>,
        /// What was put in there.
        inserted: Vec<Value>,
    },
    /// A member of a map.
    Member {
        /// What it was; none: it was not there.
        before: Option<Value>,
        /// What it is.
        after: Option<Value>,
    },
}

impl core::fmt::Debug for Difference {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let kind = match &self.what {
            Differs::Text { .. } => "text",
            Differs::Items { .. } => "items",
            Differs::Member { .. } => "member",
        };
        write!(f, "Difference({kind})")
    }
}

/// All that differs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Differences {
    /// In the text and the values.
    pub found: Vec<Difference>,
    /// Whether something differs in parts of the document that neither view shows.
    pub elsewhere: bool,
}

/// What shows, with a number for each operation behind it.
pub struct Outline {
    pub(crate) text: Option<(String, Vec<u32>)>,
    pub(crate) values: Shape,
}

pub(crate) enum Shape {
    Map(BTreeMap<String, Item>),
    List(Vec<Item>),
    Text(String, Vec<u32>),
    Value(Value),
}

pub(crate) struct Item {
    op: u32,
    shape: Shape,
}

/// Numbers operations. Of each it holds a few bytes: there is one for every character.
#[derive(Default)]
pub struct Numbers {
    replicas: HashMap<ReplicaId, u32>,
    ops: HashMap<(u32, u64), u32>,
}

impl Writers for Numbers {
    fn writer(&mut self, replica: &ReplicaId, counter: u64) -> Stretch {
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let next = number(self.replicas.len());
        let replica = match self.replicas.get(replica) {
            Some(replica) => *replica,
            None => *self.replicas.entry(replica.clone()).or_insert(next),
        };
        let next = number(self.ops.len());
        Stretch {
            writer: *self.ops.entry((replica, counter)).or_insert(next),
            end: counter.saturating_add(1),
        }
    }
}

/// A text's characters, each with the number of its operation.
pub(crate) fn lettered<T: Attributed>(
    tree: &mut T,
    text: &T::Node,
    numbers: &mut Numbers,
) -> Result<(String, Vec<u32>)> {
    let runs = tree.text(text, &mut Asking::new(numbers))?;
    let each = runs.iter();
    let each = each.flat_map(|run| core::iter::repeat_n(run.writer, run.chars));
    let (letters, each): (String, Vec<u32>) = (tree.letters(text)?, each.collect());
    match letters.chars().count() == each.len() {
        true => Ok((letters, each)),
        false => Err(CrdtError::Engine),
    }
}

/// What a tree shows.
pub(crate) fn outlined<T: Attributed>(tree: &mut T, numbers: &mut Numbers) -> Result<Shape> {
    let root = tree.root();
    shape(tree, Slot::Map(root), numbers, 0)
}

fn shape<T: Attributed>(
    tree: &mut T,
    slot: Slot<T::Node>,
    numbers: &mut Numbers,
    depth: usize,
) -> Result<Shape> {
    if depth > MAX_JSON_DEPTH {
        return Err(CrdtError::TooLarge);
    }
    Ok(match slot {
        Slot::Scalar(value) | Slot::Carried(value) => Shape::Value(value),
        Slot::Text(text) => {
            let (letters, each) = lettered(tree, &text, numbers)?;
            Shape::Text(letters, each)
        }
        Slot::Map(map) => {
            let mut members = BTreeMap::new();
            for (key, slot, (replica, counter)) in tree.entries(&map)? {
                let op = numbers.writer(&replica, counter).writer;
                let shape = shape(tree, slot, numbers, depth + 1)?;
                members.insert(key, Item { op, shape });
            }
            Shape::Map(members)
        }
        Slot::List(list) => {
            let mut items = Vec::new();
            for (slot, (replica, counter)) in tree.items(&list)? {
                let op = numbers.writer(&replica, counter).writer;
                let shape = shape(tree, slot, numbers, depth + 1)?;
                items.push(Item { op, shape });
            }
            Shape::List(items)
        }
    })
}

impl Shape {
    fn to_json(&self) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Text(text, _) => Value::String(text.clone()),
            Self::List(items) => items.iter().map(|item| item.shape.to_json()).collect(),
            Self::Map(members) => {
                let members = members.iter();
                let members = members.map(|(key, item)| (key.clone(), item.shape.to_json()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}

/// What differs between `before` and `after`, which came of it by further operations. Takes time in proportion to both.
///
/// # Errors
/// [`CrdtError::InvalidArgument`] if they cannot tell who wrote what they show, [`CrdtError::TooLarge`] where to say where it differs would take more than
/// [`crate::limits::MAX_PLACES_BYTES`]; the errors of reading a document.
pub fn differences(before: &mut dyn Crdt, after: &mut dyn Crdt) -> Result<Differences> {
    let mut numbers = Numbers::default();
    let mut outline = |of: &mut dyn Crdt| {
        let attribution = of.attribution().ok_or(CrdtError::InvalidArgument)?;
        attribution.outline(&mut numbers)
    };
    let (one, other) = (outline(before)?, outline(after)?);
    let mut comparing = Comparing::default();
    let (old, was) = one.text.unwrap_or_default();
    let (new, is) = other.text.unwrap_or_default();
    comparing.text((&old, &was), (&new, &is))?;
    comparing.inside(&one.values, &other.values)?;
    let others = |roots: Vec<Root>| -> Vec<Root> {
        roots.into_iter().filter(|root| !root.editable).collect()
    };
    Ok(Differences {
        found: comparing.found,
        elsewhere: others(before.roots()?) != others(after.roots()?),
    })
}

#[derive(Default)]
struct Comparing {
    place: Path,
    found: Vec<Difference>,
}

/// A step from one sequence to the other.
enum Step {
    /// At these places of both the same operation stands.
    Stays(usize, usize),
    /// Between two that stay: so many of the one are gone, and so many of the other new.
    Differs {
        was: core::ops::Range<usize>,
        is: core::ops::Range<usize>,
    },
}

/// What stays of a sequence of operations stays in its order.
fn steps(was: &[u32], is: &[u32]) -> Vec<Step> {
    let (before, after): (HashSet<u32>, HashSet<u32>) =
        (was.iter().copied().collect(), is.iter().copied().collect());
    let run = |of: &[u32], from: usize, others: &HashSet<u32>| {
        let rest = of.get(from..).unwrap_or_default();
        from + rest.iter().take_while(|op| !others.contains(op)).count()
    };
    let mut steps = Vec::new();
    let (mut at, mut now) = (0, 0);
    loop {
        let (gone, new) = (run(was, at, &after), run(is, now, &before));
        if gone > at || new > now {
            steps.push(Step::Differs {
                was: at..gone,
                is: now..new,
            });
        }
        (at, now) = (gone, new);
        match (was.get(at), is.get(now)) {
            (None, None) => return steps,
            (Some(one), Some(other)) if one == other => steps.push(Step::Stays(at, now)),
            // No engine moves what stays.
            _ => {
                steps.push(Step::Differs {
                    was: at..was.len(),
                    is: now..is.len(),
                });
                return steps;
            }
        }
        (at, now) = (at + 1, now + 1);
    }
}

impl Comparing {
    fn note(&mut self, what: Differs) -> Result<()> {
        let place = self.place.told()?;
        self.found.push(Difference { place, what });
        Ok(())
    }

    fn at(&mut self, step: PathElement, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.place.push(step);
        f(self)?;
        self.place.pop();
        Ok(())
    }

    fn text(&mut self, (old, was): (&str, &[u32]), (new, is): (&str, &[u32])) -> Result<()> {
        let (mut old, mut new) = (old.chars(), new.chars());
        for step in steps(was, is) {
            match step {
                Step::Stays(..) => _ = (old.next(), new.next()),
                Step::Differs { was, is } => self.note(Differs::Text {
                    at: is.start,
                    deleted: old.by_ref().take(was.len()).collect(),
                    inserted: new.by_ref().take(is.len()).collect(),
                })?,
            }
        }
        Ok(())
    }

    fn items(&mut self, before: &[Item], after: &[Item]) -> Result<()> {
        let ops = |items: &[Item]| items.iter().map(|item| item.op).collect::<Vec<_>>();
        let values = |items: &[Item], range: core::ops::Range<usize>| {
            let items = items.get(range).unwrap_or_default();
            items.iter().map(|item| item.shape.to_json()).collect()
        };
        for step in steps(&ops(before), &ops(after)) {
            match step {
                Step::Stays(was, is) => {
                    if let (Some(old), Some(new)) = (before.get(was), after.get(is)) {
                        self.at(is.into(), |this| {
                            match this.inside(&old.shape, &new.shape)? {
                                true => Ok(()),
                                false => this.member(Some(old), Some(new)),
                            }
                        })?;
                    }
                }
                Step::Differs { was, is } => self.note(Differs::Items {
                    at: is.start,
                    deleted: values(before, was),
                    inserted: values(after, is),
                })?,
            }
        }
        Ok(())
    }

    fn member(&mut self, before: Option<&Item>, after: Option<&Item>) -> Result<()> {
        let (before, after) = (before.map(|it| &it.shape), after.map(|it| &it.shape));
        self.note(Differs::Member {
            before: before.map(Shape::to_json),
            after: after.map(Shape::to_json),
        })
    }

    /// What differs inside a container. False where they are no containers of one kind, and not the same value.
    fn inside(&mut self, before: &Shape, after: &Shape) -> Result<bool> {
        match (before, after) {
            (Shape::Text(old, was), Shape::Text(new, is)) => self.text((old, was), (new, is))?,
            (Shape::List(old), Shape::List(new)) => self.items(old, new)?,
            (Shape::Map(old), Shape::Map(new)) => self.members(old, new)?,
            (Shape::Value(old), Shape::Value(new)) => return Ok(old == new),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn members(
        &mut self,
        old: &BTreeMap<String, Item>,
        new: &BTreeMap<String, Item>,
    ) -> Result<()> {
        let gone = old.keys().filter(|key| !new.contains_key(*key));
        for key in gone {
            self.at(key.as_str().into(), |this| this.member(old.get(key), None))?;
        }
        for (key, item) in new {
            let was = old.get(key);
            self.at(key.as_str().into(), |this| {
                let told = match was.filter(|was| was.op == item.op) {
                    Some(was) => this.inside(&was.shape, &item.shape)?,
                    None => false,
                };
                match told {
                    true => Ok(()),
                    false => this.member(was, Some(item)),
                }
            })?;
        }
        Ok(())
    }
}

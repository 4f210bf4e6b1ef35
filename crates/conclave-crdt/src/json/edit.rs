//! Edits of JSON: what was done to a copy is done to the tree as it is now, and nothing else is touched.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::special::Special;
use super::{At, JsonTree, Slot, create, read, writable};
use crate::api::{Edited, PathElement, Refusal};
use crate::diff::list::Alignment;
use crate::diff::text::{TextEdit, merged, text_edits};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_JSON_DEPTH;

/// Does to the tree what turned `base` into `new`; without a base the tree becomes `new`. Everything is decided before anything is
/// written.
pub(crate) fn edit<T: JsonTree>(tree: &mut T, base: Option<&Value>, new: &Value) -> Result<Edited> {
    let new = writable::<T>(new, 0)?;
    let current = read(tree)?;
    let read_back = base.map(|base| writable::<T>(base, 0)).transpose()?;
    let base = read_back.as_ref().unwrap_or(&current);
    let (Value::Object(base), Value::Object(new), Value::Object(current)) = (base, &new, &current)
    else {
        return Err(CrdtError::InvalidArgument);
    };
    let root = tree.root();
    let mut plan = Plan {
        tree,
        place: Vec::new(),
        actions: Vec::new(),
    };
    match plan.map(&root, base, new, current) {
        Ok(()) => {}
        Err(Stop::Failed(error)) => return Err(error),
        Err(Stop::Refused(refusal)) => return Ok(Edited::Refused(refusal)),
    }
    let actions = plan.actions;
    for action in actions {
        action.perform(tree)?;
    }
    Ok(Edited::Done)
}

/// Something to write.
enum Action<N> {
    Put(N, PathElement, Value),
    Change(N, PathElement, Value, Value),
    Insert(N, usize, Vec<Value>),
    Remove(N, PathElement),
    Text(N, Vec<TextEdit>),
}

impl<N: Clone> Action<N> {
    fn perform<T: JsonTree<Node = N>>(self, tree: &mut T) -> Result<()> {
        match self {
            Self::Put(node, at, value) => create(tree, &node, (&at).into(), &value, false),
            Self::Change(node, at, from, to) => tree.change(&node, (&at).into(), &from, &to),
            Self::Insert(list, index, values) => tree.insert_all(&list, index, &values),
            Self::Remove(node, at) => tree.remove(&node, (&at).into()),
            Self::Text(text, edits) => tree.edit_text(&text, &edits),
        }
    }
}

enum Stop {
    Refused(Refusal),
    Failed(CrdtError),
}

impl From<CrdtError> for Stop {
    fn from(error: CrdtError) -> Self {
        Self::Failed(error)
    }
}

type Planned = core::result::Result<(), Stop>;

/// Collects what to write. In a list later items come first, so that indices before them stay true.
struct Plan<'a, T: JsonTree> {
    tree: &'a mut T,
    /// Where in the tree the planning is.
    place: Vec<PathElement>,
    actions: Vec<Action<T::Node>>,
}

impl<T: JsonTree> Plan<'_, T> {
    fn map(
        &mut self,
        map: &T::Node,
        base: &Map<String, Value>,
        new: &Map<String, Value>,
        current: &Map<String, Value>,
    ) -> Planned {
        for (key, was) in base {
            // What others changed meanwhile stays.
            if !new.contains_key(key) && current.get(key) == Some(was) {
                let at = PathElement::Key(key.clone());
                self.actions.push(Action::Remove(map.clone(), at));
            }
        }
        for (key, value) in new {
            let was = base.get(key);
            if was == Some(value) {
                continue;
            }
            let at = PathElement::Key(key.clone());
            match self.tree.slot(map, At::Key(key))? {
                Some(slot) => self.slot((map, at, slot), was, value, current.get(key))?,
                None => self.put(map, at, value)?,
            }
        }
        Ok(())
    }

    fn slot(
        &mut self,
        (node, at, slot): (&T::Node, PathElement, Slot<T::Node>),
        base: Option<&Value>,
        new: &Value,
        current: Option<&Value>,
    ) -> Planned {
        if current == Some(new) {
            return Ok(());
        }
        if self.place.len() > MAX_JSON_DEPTH {
            return Err(CrdtError::TooLarge.into());
        }
        let tagged = Special::of(new).is_some();
        match (slot, new) {
            (Slot::Map(map), Value::Object(new)) if !tagged => {
                let none = Map::new();
                let base = base.and_then(Value::as_object).unwrap_or(&none);
                let current = current.and_then(Value::as_object).unwrap_or(&none);
                self.inside(at, |plan| plan.map(&map, base, new, current))
            }
            (Slot::List(list), Value::Array(new)) => {
                let items = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
                let base = items(base).unwrap_or_default();
                let current = items(current).unwrap_or_default();
                self.inside(at, |plan| plan.list(&list, &base, new, &current))
            }
            (Slot::Text(text), Value::String(new)) => {
                let current = current.and_then(Value::as_str).unwrap_or_default();
                let base = base.and_then(Value::as_str).unwrap_or(current);
                let edits = text_edits(base, new, current);
                if !edits.is_empty() {
                    self.actions.push(Action::Text(text, edits));
                }
                Ok(())
            }
            (Slot::Scalar(_), _) => {
                self.creatable(&at, new)?;
                let current = current.unwrap_or(&Value::Null);
                let from = base.unwrap_or(current).clone();
                let to = merged_value(&from, new, current);
                self.actions
                    .push(Action::Change(node.clone(), at, from, to));
                Ok(())
            }
            _ => self.put(node, at, new),
        }
    }

    fn list(
        &mut self,
        list: &T::Node,
        base: &[Value],
        new: &[Value],
        current: &[Value],
    ) -> Planned {
        let merge = ListMerge::of(base, new, current);
        let slots = self.tree.items(list)?;
        let mut slots: Vec<Option<Slot<T::Node>>> = slots.into_iter().map(Some).collect();
        for (index, touch) in merge.touched.into_iter().rev() {
            let at = PathElement::Index(index);
            match touch.item {
                Item::Kept => {}
                Item::Removed => self.actions.push(Action::Remove(list.clone(), at)),
                Item::Changed(from, to) => {
                    if let Some(slot) = slots.get_mut(index).and_then(Option::take) {
                        self.slot((list, at, slot), Some(from), to, current.get(index))?;
                    }
                }
            }
            for value in &touch.before {
                self.creatable(&PathElement::Index(index), value)?;
            }
            if !touch.before.is_empty() {
                let action = Action::Insert(list.clone(), index, touch.before);
                self.actions.push(action);
            }
        }
        Ok(())
    }

    fn put(&mut self, node: &T::Node, at: PathElement, value: &Value) -> Planned {
        self.creatable(&at, value)?;
        self.actions
            .push(Action::Put(node.clone(), at, value.clone()));
        Ok(())
    }

    fn inside(&mut self, at: PathElement, f: impl FnOnce(&mut Self) -> Planned) -> Planned {
        self.place.push(at);
        let planned = f(self);
        self.place.pop();
        planned
    }

    /// Refuses what stands for something that cannot be written.
    fn creatable(&mut self, at: &PathElement, value: &Value) -> Planned {
        let refused = matches!(Special::of(value), Some(None));
        self.inside(at.clone(), |plan| match value {
            _ if refused => Err(Stop::Refused(Refusal {
                place: plan.place.clone(),
            })),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .try_for_each(|(index, item)| plan.creatable(&PathElement::Index(index), item)),
            Value::Object(members) => members
                .iter()
                .try_for_each(|(key, item)| plan.creatable(&PathElement::Key(key.clone()), item)),
            _ => Ok(()),
        })
    }
}

/// What becomes of an item of the current list, and what comes before it.
#[derive(Default)]
struct Touch<'a> {
    before: Vec<Value>,
    item: Item<'a>,
}

#[derive(Default)]
enum Item<'a> {
    #[default]
    Kept,
    Removed,
    Changed(&'a Value, &'a Value),
}

/// Where an item of the new list comes from.
#[derive(Clone, Copy, Default)]
enum Origin<'a> {
    #[default]
    New,
    /// It was moved here; what it was, and is now if others have it still.
    Moved(&'a Value, Option<&'a Value>),
    /// It is where it was, which is `behind` that place in the current list. If others removed it, it comes again if it was changed here.
    Stays { behind: usize, again: bool },
}

/// What turned one list into another, on a third.
#[derive(Default)]
struct ListMerge<'a> {
    touched: BTreeMap<usize, Touch<'a>>,
}

impl<'a> ListMerge<'a> {
    fn of(base: &'a [Value], new: &'a [Value], current: &'a [Value]) -> Self {
        let mine = Alignment::of(base, new);
        let theirs = if base == current {
            Alignment::unchanged(base.len())
        } else {
            Alignment::of(base, current)
        };
        let mut merge = Self::default();
        let mut origins = vec![Origin::New; new.len()];
        let mut behind = 0;
        let mine = mine.in_order.iter().zip(&mine.anywhere);
        let others = theirs.in_order.iter().zip(&theirs.anywhere);
        for ((was, (stays, goes)), (stayed, there)) in base.iter().zip(mine).zip(others) {
            if let Some(place) = stayed {
                behind = place + 1;
            }
            let origin = match (stays, goes, there) {
                (Some(to), _, Some(there)) => {
                    let changed = new.get(*to).filter(|value| *value != was);
                    if let Some(value) = changed {
                        merge.touch(*there).item = Item::Changed(was, value);
                    }
                    Origin::Stays {
                        behind,
                        again: false,
                    }
                }
                (Some(to), _, None) => {
                    let again = new.get(*to) != Some(was);
                    Origin::Stays { behind, again }
                }
                (None, Some(_), Some(there)) => {
                    merge.touch(*there).item = Item::Removed;
                    Origin::Moved(was, current.get(*there))
                }
                (None, None, Some(there)) => {
                    // What others changed meanwhile stays.
                    if current.get(*there) == Some(was) {
                        merge.touch(*there).item = Item::Removed;
                    }
                    continue;
                }
                (None, _, None) => continue,
            };
            let place = stays.or(*goes).and_then(|to| origins.get_mut(to));
            if let Some(place) = place {
                *place = origin;
            }
        }
        merge.insert(new, &origins, &theirs.anywhere, current);
        merge
    }

    fn touch(&mut self, index: usize) -> &mut Touch<'a> {
        self.touched.entry(index).or_default()
    }

    /// Puts what is new behind what it followed, and behind what others put there.
    fn insert(
        &mut self,
        new: &[Value],
        origins: &[Origin<'_>],
        theirs: &[Option<usize>],
        current: &[Value],
    ) {
        let known: BTreeSet<usize> = theirs.iter().flatten().copied().collect();
        let end = |from: usize| {
            let next = known.range(from..).next();
            next.copied().unwrap_or(current.len())
        };
        let mut follows = 0;
        let mut run: Vec<Value> = Vec::new();
        for (value, origin) in new.iter().zip(origins) {
            let (next, item) = match *origin {
                Origin::Stays { behind, again } => (behind, again.then(|| value.clone())),
                Origin::Moved(was, Some(now)) => (follows, Some(merged_value(was, value, now))),
                Origin::Moved(_, None) | Origin::New => (follows, Some(value.clone())),
            };
            if next != follows {
                self.insert_run(core::mem::take(&mut run), follows, end(follows), current);
                follows = next;
            }
            run.extend(item);
        }
        self.insert_run(run, follows, end(follows), current);
    }

    fn insert_run(&mut self, run: Vec<Value>, from: usize, to: usize, current: &[Value]) {
        // Others put the same there.
        if run.is_empty() || current.get(from..to) == Some(run.as_slice()) {
            return;
        }
        self.touch(to).before.extend(run);
    }
}

/// What doing to `current` what turned `base` into `new` gives: the same for values alone.
#[must_use]
pub fn merged_value(base: &Value, new: &Value, current: &Value) -> Value {
    match (base, new, current) {
        _ if base == new => current.clone(),
        (Value::Object(base), Value::Object(new), Value::Object(current)) => {
            let mut members = current.clone();
            members.retain(|key, now| {
                new.contains_key(key) || base.get(key).is_none_or(|was| was != now)
            });
            for (key, value) in new {
                let merged = match (base.get(key), current.get(key)) {
                    (Some(was), Some(now)) => merged_value(was, value, now),
                    (Some(was), None) if was == value => continue,
                    _ => value.clone(),
                };
                members.insert(key.clone(), merged);
            }
            Value::Object(members)
        }
        (Value::Array(base), Value::Array(new), Value::Array(current)) => {
            let mut items = current.clone();
            for (index, touch) in ListMerge::of(base, new, current).touched.into_iter().rev() {
                let mut instead = touch.before;
                let now = current.get(index);
                match touch.item {
                    Item::Kept => instead.extend(now.cloned()),
                    Item::Removed => {}
                    Item::Changed(from, to) => {
                        instead.extend(now.map(|now| merged_value(from, to, now)));
                    }
                }
                items.splice(index..(index + 1).min(current.len()), instead);
            }
            Value::Array(items)
        }
        (Value::String(base), Value::String(new), Value::String(current)) => {
            Value::String(merged(base, new, current))
        }
        _ => new.clone(),
    }
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;

//! Who wrote what a document shows: the operations behind its characters and values, and whose they are.
//!
//! An engine knows operations; whose they are is known outside, from who owns a replica id and which record brought the operation. So who reads
//! gives [`Writers`], and what is read names its writers by the numbers that these gave.

use std::collections::BTreeMap;

use crate::api::PathElement;
use crate::deeds::Deeds;
use crate::differences::{Numbers, Outline};
use crate::error::{CrdtError, Result};
use crate::json::Slot;
use crate::limits::{MAX_JSON_DEPTH, MAX_PLACES_BYTES};
use crate::types::ReplicaId;

/// Who wrote operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Somebody, by a number that the caller has given.
    pub writer: u32,
    /// Operations of the replica with a lower counter, from the one that was asked for, are theirs too.
    pub end: u64,
}

/// Says who wrote an operation.
pub trait Writers {
    /// Who wrote the operation of `replica` with this counter: what [`crate::OpRange`] counts, which is operations of Yjs and changes of Automerge.
    fn writer(&mut self, replica: &ReplicaId, counter: u64) -> Stretch;
}

/// Characters by one writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Run {
    /// Who wrote them.
    pub writer: u32,
    /// How many Unicode scalar values.
    pub chars: usize,
}

/// A value and who wrote it.
#[derive(Clone, PartialEq, Eq)]
pub struct AttributedValue {
    /// Its place, from the root. Keys are content.
    pub place: Vec<PathElement>,
    /// Who wrote it.
    pub by: WrittenBy,
}

impl core::fmt::Debug for AttributedValue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AttributedValue({:?})", self.by)
    }
}

/// Who wrote a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrittenBy {
    /// Who put it there; of a map or a list: who made it, and what is in it has a place of its own.
    One(u32),
    /// A text, by many.
    Text(Vec<Run>),
}

/// Who wrote what a document shows.
pub trait Attribution {
    /// Of the text of [`crate::TextView`]: in text order; neighbours differ.
    ///
    /// # Errors
    /// As [`crate::TextView::text`].
    fn of_text(&mut self, writers: &mut dyn Writers) -> Result<Vec<Run>>;

    /// Of the values of [`crate::JsonView`], each map and list before what is in it.
    ///
    /// # Errors
    /// As [`crate::JsonView::to_json`].
    fn of_values(&mut self, writers: &mut dyn Writers) -> Result<Vec<AttributedValue>>;

    /// What updates of the document's log did, from the one at index `from` on. They follow on the snapshot `before`, and all are in the document. Takes time in
    /// proportion to snapshot and updates.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] for what is no snapshot or update; the errors of reading a document.
    fn deeds(
        &mut self,
        before: &[u8],
        updates: &[&[u8]],
        from: usize,
        writers: &mut dyn Writers,
    ) -> Result<Vec<Deeds>>;

    /// What shows, for [`crate::differences`].
    ///
    /// # Errors
    /// As [`Attribution::of_values`].
    fn outline(&mut self, numbers: &mut Numbers) -> Result<Outline>;
}

/// Appends characters to the last run, or starts a new one.
pub(crate) fn push_run(runs: &mut Vec<Run>, writer: u32, chars: usize) {
    match runs.last_mut() {
        _ if chars == 0 => {}
        Some(last) if last.writer == writer => last.chars += chars,
        _ => runs.push(Run { writer, chars }),
    }
}

/// Asks who wrote one operation after another, and asks outside only where somebody else may have.
pub(crate) struct Asking<'a> {
    writers: &'a mut dyn Writers,
    last: Option<(ReplicaId, u64, Stretch)>,
}

impl<'a> Asking<'a> {
    pub(crate) fn new(writers: &'a mut dyn Writers) -> Self {
        Self {
            writers,
            last: None,
        }
    }

    /// Who wrote an operation, and up to which counter.
    pub(crate) fn who(&mut self, replica: &ReplicaId, counter: u64) -> Stretch {
        if let Some((of, from, stretch)) = &self.last
            && of == replica
            && (*from..stretch.end).contains(&counter)
        {
            return *stretch;
        }
        let stretch = self.writers.writer(replica, counter);
        match &mut self.last {
            Some((of, from, last)) if of == replica => (*from, *last) = (counter, stretch),
            last => *last = Some((replica.clone(), counter, stretch)),
        }
        stretch
    }
}

/// An operation: a replica, and what [`Writers`] count.
pub(crate) type Op = (ReplicaId, u64);

/// A container of an engine with the operations behind what is in it.
pub(crate) trait Attributed {
    type Node;

    fn root(&mut self) -> Self::Node;
    #[allow(clippy::type_complexity)]
    fn entries(&mut self, map: &Self::Node) -> Result<Vec<(String, Slot<Self::Node>, Op)>>;
    fn items(&mut self, list: &Self::Node) -> Result<Vec<(Slot<Self::Node>, Op)>>;
    fn text(&mut self, text: &Self::Node, asking: &mut Asking<'_>) -> Result<Vec<Run>>;
    /// The characters of [`Attributed::text`].
    fn letters(&mut self, text: &Self::Node) -> Result<String>;
}

/// Where something stands, and what may still be spent on saying so.
pub(crate) struct Path {
    steps: Vec<PathElement>,
    left: usize,
}

impl Default for Path {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            left: MAX_PLACES_BYTES,
        }
    }
}

impl Path {
    pub(crate) fn push(&mut self, step: PathElement) {
        self.steps.push(step);
    }

    pub(crate) fn pop(&mut self) {
        self.steps.pop();
    }

    fn depth(&self) -> usize {
        self.steps.len()
    }

    /// This place, to be told.
    pub(crate) fn told(&mut self) -> Result<Vec<PathElement>> {
        let bytes = self.steps.iter().map(|step| match step {
            PathElement::Key(key) => key.len(),
            PathElement::Index(_) => 0,
        });
        let bytes: usize = bytes.map(|key| size_of::<PathElement>() + key).sum();
        self.left = self.left.checked_sub(bytes).ok_or(CrdtError::TooLarge)?;
        Ok(self.steps.clone())
    }
}

/// Reads who wrote the values of a tree.
pub(crate) fn of_values<T: Attributed>(
    tree: &mut T,
    writers: &mut dyn Writers,
) -> Result<Vec<AttributedValue>> {
    let root = tree.root();
    let mut reading = Reading {
        tree,
        asking: Asking::new(writers),
        place: Path::default(),
        found: Vec::new(),
    };
    reading.within(Slot::Map(root))?;
    Ok(reading.found)
}

struct Reading<'a, T> {
    tree: &'a mut T,
    asking: Asking<'a>,
    place: Path,
    found: Vec<AttributedValue>,
}

impl<T: Attributed> Reading<'_, T> {
    fn within(&mut self, container: Slot<T::Node>) -> Result<()> {
        if self.place.depth() > MAX_JSON_DEPTH {
            return Err(CrdtError::TooLarge);
        }
        match container {
            Slot::Map(map) => {
                for (key, slot, op) in self.tree.entries(&map)? {
                    self.value(PathElement::Key(key), slot, &op)?;
                }
            }
            Slot::List(list) => {
                for (index, (slot, op)) in self.tree.items(&list)?.into_iter().enumerate() {
                    self.value(PathElement::Index(index), slot, &op)?;
                }
            }
            Slot::Scalar(_) | Slot::Carried(_) | Slot::Text(_) => {}
        }
        Ok(())
    }

    fn value(
        &mut self,
        at: PathElement,
        slot: Slot<T::Node>,
        (replica, counter): &Op,
    ) -> Result<()> {
        self.place.push(at);
        let by = match &slot {
            Slot::Text(text) => WrittenBy::Text(self.tree.text(text, &mut self.asking)?),
            _ => WrittenBy::One(self.asking.who(replica, *counter).writer),
        };
        let place = self.place.told()?;
        self.found.push(AttributedValue { place, by });
        self.within(slot)?;
        self.place.pop();
        Ok(())
    }
}

/// Numbers replica ids: who wrote is who wrote under one of them.
#[derive(Debug, Default)]
pub struct ByReplica {
    numbers: BTreeMap<ReplicaId, u32>,
    replicas: Vec<ReplicaId>,
}

impl ByReplica {
    /// The text's runs, by replica id.
    ///
    /// # Errors
    /// As [`Attribution::of_text`].
    pub fn of_text(of: &mut dyn Attribution) -> Result<Vec<(ReplicaId, usize)>> {
        let mut writers = Self::default();
        let runs = of.of_text(&mut writers)?;
        let named = |run: Run| Some((writers.replica(run.writer)?.clone(), run.chars));
        Ok(runs.into_iter().filter_map(named).collect())
    }

    /// The replica id with this number.
    #[must_use]
    pub fn replica(&self, number: u32) -> Option<&ReplicaId> {
        self.replicas.get(usize::try_from(number).ok()?)
    }
}

impl Writers for ByReplica {
    fn writer(&mut self, replica: &ReplicaId, _: u64) -> Stretch {
        let next = u32::try_from(self.replicas.len()).unwrap_or(u32::MAX);
        let writer = match self.numbers.get(replica) {
            Some(number) => *number,
            None => {
                self.numbers.insert(replica.clone(), next);
                self.replicas.push(replica.clone());
                next
            }
        };
        Stretch {
            writer,
            end: u64::MAX,
        }
    }
}

//! Who wrote what an Automerge document shows. An operation is known by its actor and its number among all operations; whose it is, by the change
//! that brought it.

use std::collections::HashMap;

use automerge::{
    ActorId, AutoCommit, ChangeHash, ObjId, ROOT, ReadDoc, ScalarValue, Value as AmValue,
};

use super::Automerge;
use super::json::{Tree, refused, slot};
use super::text::text_object;
use crate::attribution::{
    Asking, Attributed, AttributedValue, Attribution, Op, Run, Stretch, Writers, of_values,
    push_run,
};
use crate::deeds::Deeds;
use crate::differences::{Numbers, Outline, outlined};
use crate::error::{CrdtError, Result};
use crate::json::{JsonTree, Slot};
use crate::types::ReplicaId;

impl Attribution for Automerge {
    fn of_text(&mut self, writers: &mut dyn Writers) -> Result<Vec<Run>> {
        self.engine(|doc| {
            let changes = Changes::of(doc)?;
            let text = text_object(doc)?;
            let count = Count::Changes(changes);
            runs(doc, &text, &count, &mut Asking::new(writers))
        })?
    }

    fn of_values(&mut self, writers: &mut dyn Writers) -> Result<Vec<AttributedValue>> {
        self.engine(|doc| {
            let count = Count::Changes(Changes::of(doc)?);
            let tree = Tree { doc };
            of_values(&mut Named { tree, count }, writers)
        })?
    }

    fn deeds(
        &mut self,
        before: &[u8],
        updates: &[&[u8]],
        from: usize,
        writers: &mut dyn Writers,
    ) -> Result<Vec<Deeds>> {
        self.deeds_of(before, updates, from, writers)
    }

    fn outline(&mut self, numbers: &mut Numbers) -> Result<Outline> {
        self.engine(|doc| {
            let tree = Tree { doc };
            let count = Count::Operations;
            Ok(Outline {
                // It is one of the values.
                text: None,
                values: outlined(&mut Named { tree, count }, numbers)?,
            })
        })?
    }
}

/// A change: the numbers of its first and last operation, and its own.
type Span = (u64, u64, u64);

/// Of each actor its changes in their order.
pub(super) struct Changes(HashMap<ActorId, (ReplicaId, Vec<Span>)>);

impl Changes {
    pub(super) fn of(doc: &mut AutoCommit) -> Result<Self> {
        Self::with_ids(doc, |_| {})
    }

    /// The same, and gives the id of each.
    pub(super) fn with_ids(doc: &mut AutoCommit, mut id: impl FnMut(ChangeHash)) -> Result<Self> {
        let mut all = HashMap::new();
        for change in doc.get_changes_meta(&[]) {
            id(change.hash);
            if !all.contains_key(change.actor.as_ref()) {
                let replica = ReplicaId::from_bytes(change.actor.to_bytes())?;
                all.insert(change.actor.as_ref().clone(), (replica, Vec::new()));
            }
            if let Some((_, changes)) = all.get_mut(change.actor.as_ref()) {
                changes.push((change.start_op, change.max_op, change.seq));
            }
        }
        for (_, changes) in all.values_mut() {
            changes.sort_unstable();
        }
        Ok(Self(all))
    }

    /// The actor and change of an operation, and the last operation of that change.
    fn find(&self, actor: &ActorId, number: u64) -> Option<(&ReplicaId, u64, u64)> {
        let (replica, changes) = self.0.get(actor)?;
        let after = changes.partition_point(|(start, ..)| *start <= number);
        let (_, last, seq) = changes.get(after.checked_sub(1)?)?;
        (number <= *last).then_some((replica, *seq, *last))
    }

    /// The actor and change of an operation that is shown.
    fn change(&self, id: &ObjId) -> Result<(&ReplicaId, u64)> {
        let ObjId::Id(number, actor, _) = id else {
            return Err(CrdtError::Engine);
        };
        let found = self.find(actor, *number).ok_or(CrdtError::Engine)?;
        Ok((found.0, found.1))
    }

    /// Who wrote an actor's operation, and up to which one. An operation that is not there is nobody's.
    pub(super) fn who(&self, replica: &ReplicaId, number: u64, asking: &mut Asking<'_>) -> Stretch {
        let actor = ActorId::from(replica.as_bytes());
        let found = self.find(&actor, number);
        let (counter, last) = found.map_or((u64::MAX, number), |(_, seq, last)| (seq, last));
        Stretch {
            writer: asking.who(replica, counter).writer,
            end: last.saturating_add(1),
        }
    }
}

/// In what the operations behind something are told.
enum Count {
    /// As [`Writers`] count them.
    Changes(Changes),
    /// Each by itself.
    Operations,
}

impl Count {
    fn op(&self, id: &ObjId) -> Result<Op> {
        match (self, id) {
            (Self::Changes(changes), _) => {
                let (replica, seq) = changes.change(id)?;
                Ok((replica.clone(), seq))
            }
            (Self::Operations, ObjId::Id(number, actor, _)) => {
                Ok((ReplicaId::from_bytes(actor.to_bytes())?, *number))
            }
            (Self::Operations, ObjId::Root) => Err(CrdtError::Engine),
        }
    }

    fn who(&self, id: &ObjId, asking: &mut Asking<'_>) -> Result<u32> {
        if let Self::Changes(changes) = self {
            let (replica, seq) = changes.change(id)?;
            return Ok(asking.who(replica, seq).writer);
        }
        let (replica, number) = self.op(id)?;
        Ok(asking.who(&replica, number).writer)
    }
}

fn runs(
    doc: &AutoCommit,
    text: &ObjId,
    count: &Count,
    asking: &mut Asking<'_>,
) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for item in doc.list_range(text, ..) {
        if let AmValue::Scalar(character) = AmValue::from(item.value.clone())
            && let ScalarValue::Str(character) = character.as_ref()
        {
            let writer = count.who(&item.id(), asking)?;
            push_run(&mut runs, writer, character.chars().count());
        }
    }
    Ok(runs)
}

/// The tree with what its values came with.
struct Named<'a> {
    tree: Tree<'a>,
    count: Count,
}

impl Attributed for Named<'_> {
    type Node = ObjId;

    fn root(&mut self) -> ObjId {
        ROOT
    }

    fn entries(&mut self, map: &ObjId) -> Result<Vec<(String, Slot<ObjId>, Op)>> {
        let entries = self.tree.entries(map)?.into_iter();
        let entries = entries.map(|(key, slot)| {
            let found = self.tree.doc.get(map, key.as_str()).map_err(refused)?;
            let (_, id) = found.ok_or(CrdtError::Engine)?;
            Ok((key, slot, self.count.op(&id)?))
        });
        entries.collect()
    }

    fn items(&mut self, list: &ObjId) -> Result<Vec<(Slot<ObjId>, Op)>> {
        let items = self.tree.doc.list_range(list, ..);
        let items = items.map(|item| {
            let id = item.id();
            let op = self.count.op(&id)?;
            Ok((slot(AmValue::from(item.value.clone()), id), op))
        });
        items.collect()
    }

    fn text(&mut self, text: &ObjId, asking: &mut Asking<'_>) -> Result<Vec<Run>> {
        runs(self.tree.doc, text, &self.count, asking)
    }

    fn letters(&mut self, text: &ObjId) -> Result<String> {
        self.tree.text(text)
    }
}

//! What single Automerge changes did.

use std::collections::{HashMap, HashSet};

use automerge::legacy::{ObjectId, Op, OpType};
use automerge::{AutoCommit, Change, ChangeHash, ObjType};

use super::Automerge;
use super::apply::decode;
use super::attribution::Changes;
use super::chunk::read_update;
use crate::attribution::{Asking, Writers};
use crate::contain::contained;
use crate::deeds::{Collected, Deeds, Following, Told, Units};
use crate::error::Result;
use crate::types::ReplicaId;

/// Adds what operations take out: a put in place of a value takes that out too.
fn add(units: &mut Collected, ops: &[Op]) -> Result<()> {
    for op in ops {
        if matches!(op.action, OpType::Increment(_)) {
            continue;
        }
        for id in op.pred.iter() {
            let replica = ReplicaId::from_bytes(id.1.to_bytes())?;
            units.add(replica, id.0, id.0.saturating_add(1));
        }
    }
    Ok(())
}

/// Which objects are texts.
struct Texts<'a> {
    doc: &'a AutoCommit,
    known: HashMap<String, bool>,
}

impl Texts<'_> {
    fn has(&mut self, object: &ObjectId) -> bool {
        let name = object.to_string();
        let doc = self.doc;
        *self.known.entry(name).or_insert_with_key(|name| {
            doc.import(name)
                .is_ok_and(|(_, kind)| kind == ObjType::Text)
        })
    }
}

fn told(update: &[u8], texts: &mut Texts<'_>, held: &HashSet<ChangeHash>) -> Result<Told> {
    let mut told = Told::default();
    let mut deleted = Collected::default();
    for change in read_update(update)? {
        let change = decode(&change)?;
        let ops = contained(|| change.decode())?.operations;
        for op in &ops {
            match &op.action {
                OpType::Delete | OpType::Increment(_) | OpType::MarkEnd(_) => {}
                OpType::MarkBegin(_) => told.formats += 1,
                OpType::Put(_) if op.insert && texts.has(&op.obj) => told.chars += 1,
                OpType::Put(_) | OpType::Make(_) => told.values += 1,
            }
        }
        // What waits has taken nothing out.
        if held.contains(&change.hash()) {
            add(&mut deleted, &ops)?;
        }
    }
    told.deleted = deleted.sorted();
    Ok(told)
}

fn gone(before: &[u8], replica: &ReplicaId) -> Result<Units> {
    let mut before = Automerge::load(before, replica.clone())?;
    let changes: Vec<Change> = before.engine(|doc| doc.get_changes(&[]))?;
    let mut gone = Collected::default();
    for change in changes {
        add(&mut gone, &contained(|| change.decode())?.operations)?;
    }
    Ok(gone.sorted())
}

impl Automerge {
    /// What updates did from one of them on; the first follows on a snapshot.
    pub(super) fn deeds_of(
        &mut self,
        before: &[u8],
        updates: &[&[u8]],
        from: usize,
        writers: &mut dyn Writers,
    ) -> Result<Vec<Deeds>> {
        let replica = self.replica.clone();
        self.engine(|doc| {
            let mut held = HashSet::new();
            let changes = Changes::with_ids(doc, |id| _ = held.insert(id))?;
            let mut texts = Texts {
                doc,
                known: HashMap::new(),
            };
            let all = updates.iter().map(|update| told(update, &mut texts, &held));
            let all: Vec<Told> = all.collect::<Result<_>>()?;
            let wanted = all.get(from..).unwrap_or_default();
            // Of what was gone before it matters only what is taken out again.
            let gone = match wanted.iter().all(|told| told.deleted.is_empty()) {
                true => Units::new(),
                false => gone(before, &replica)?,
            };
            let who = |replica: &ReplicaId, number: u64, asking: &mut Asking<'_>| {
                changes.who(replica, number, asking)
            };
            let mut following = Following::new(&gone, who);
            let mut asking = Asking::new(writers);
            all.iter().take(from).for_each(|told| following.skip(told));
            let deeds = wanted.iter().map(|told| following.next(told, &mut asking));
            Ok(deeds.collect())
        })?
    }
}

//! Collecting own changes, and applying those of others.

use std::collections::{BTreeSet, HashMap};

use automerge::transaction::CommitOptions;
use automerge::{AutoCommit, Change, ChangeHash};

use super::Automerge;
use super::chunk::{Hash, Parsed};
use crate::contain::contained;
use crate::error::{CrdtError, Result};
use crate::limits::MAX_REPLICAS_PER_UPDATE;
use crate::types::ReplicaId;

impl Automerge {
    /// Commits local edits and moves own changes into the outbox.
    pub(super) fn collect_own(&mut self) -> Result<()> {
        let since = self.collected.clone();
        let (heads, fresh) = self.engine(|doc| {
            doc.commit_with(CommitOptions::default().with_time(0));
            let heads = doc.get_heads();
            let fresh = if heads == since {
                Vec::new()
            } else {
                doc.get_changes(&since)
            };
            (heads, fresh)
        })?;
        for mut change in fresh {
            let seq = change.seq();
            let next = self
                .sequence
                .get(&self.replica)
                .copied()
                .unwrap_or_default()
                + 1;
            if change.actor_id().to_bytes() != self.replica.as_bytes() || seq != next {
                // Written past this adapter: nobody else can get it.
                return self.poisoned_by(CrdtError::Engine);
            }
            self.sequence.insert(self.replica.clone(), seq);
            let bytes = contained(|| change.bytes().into_owned());
            match bytes {
                Ok(bytes) => self.outbox.push(bytes),
                Err(error) => return self.poisoned_by(error),
            }
        }
        self.collected = heads;
        Ok(())
    }

    /// Adds verified changes; applies what can be applied in one engine call. Whether anything was applied.
    pub(super) fn admit(&mut self, changes: Vec<Parsed>) -> Result<bool> {
        self.usable()?;
        let hashes: Vec<Hash> = changes.iter().map(|change| change.hash).collect();
        let unknown: BTreeSet<Hash> = self.missing(&hashes)?.into_iter().collect();
        let changes: Vec<Parsed> = changes
            .into_iter()
            .filter(|change| unknown.contains(&change.hash))
            .collect();
        if changes.is_empty() {
            self.collected = self.engine(AutoCommit::get_heads)?;
            return Ok(false);
        }
        // Decode before anything moves: a change that the engine cannot read must not reach the queue.
        let mut decoded: HashMap<Hash, Change> = HashMap::with_capacity(changes.len());
        for change in &changes {
            decoded.insert(change.hash, decode(change)?);
        }
        let doc = &mut self.doc;
        let admitted = self.queue.admit(changes, &mut self.sequence, |hashes| {
            contained(|| missing_from(doc, hashes))
        });
        let ready = match admitted {
            Err(CrdtError::Panicked) => return self.poisoned_by(CrdtError::Panicked),
            other => other?,
        };
        let ready: Result<Vec<Change>> = ready
            .iter()
            .map(|change| {
                decoded
                    .remove(&change.hash)
                    .map_or_else(|| decode(change), Ok)
            })
            .collect();
        let ready = match ready {
            Ok(ready) => ready,
            Err(error) => return self.poisoned_by(error),
        };
        let applied = !ready.is_empty();
        let outcome = self.engine(|doc| {
            if applied {
                doc.apply_changes(ready).map_err(|_| CrdtError::Malformed)?;
            }
            Ok(doc.get_heads())
        })?;
        match outcome {
            Ok(heads) => {
                self.collected = heads;
                Ok(applied)
            }
            Err(error) => self.poisoned_by(error),
        }
    }

    /// Which of these changes the document does not have.
    pub(super) fn missing(&mut self, hashes: &[Hash]) -> Result<Vec<Hash>> {
        self.engine(|doc| missing_from(doc, hashes))
    }

    /// Refuses new changes under the own id, and too many ids.
    pub(super) fn check_replicas(&self, changes: &[Parsed]) -> Result<()> {
        let actors: BTreeSet<&ReplicaId> = changes.iter().map(|change| &change.actor).collect();
        if actors.len() > MAX_REPLICAS_PER_UPDATE {
            return Err(CrdtError::TooLarge);
        }
        let known = self
            .sequence
            .get(&self.replica)
            .copied()
            .unwrap_or_default();
        let own_new = changes
            .iter()
            .any(|change| change.actor == self.replica && change.seq > known);
        if own_new {
            Err(CrdtError::Equivocation)
        } else {
            Ok(())
        }
    }
}

fn missing_from(doc: &mut AutoCommit, hashes: &[Hash]) -> Vec<Hash> {
    let hashes: Vec<ChangeHash> = hashes.iter().map(|hash| ChangeHash(*hash)).collect();
    doc.get_missing_deps(&hashes)
        .into_iter()
        .map(|hash| hash.0)
        .collect()
}

/// Decodes a verified change. A panic here has touched no document.
pub(super) fn decode(parsed: &Parsed) -> Result<Change> {
    let decoded = contained(|| Change::from_bytes(parsed.bytes.clone()));
    let Ok(Ok(change)) = decoded else {
        return Err(CrdtError::Malformed);
    };
    // Both readers must have understood the same.
    let same = change.hash().0 == parsed.hash
        && change.actor_id().to_bytes() == parsed.actor.as_bytes()
        && change.seq() == parsed.seq
        && change
            .deps()
            .iter()
            .map(|dep| dep.0)
            .eq(parsed.deps.iter().copied());
    if same {
        Ok(change)
    } else {
        Err(CrdtError::Malformed)
    }
}

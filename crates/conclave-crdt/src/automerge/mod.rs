//! Automerge documents.

mod apply;
mod attribution;
mod chunk;
mod columns;
mod deeds;
mod file;
mod json;
mod ops;
mod queue;
mod text;
mod visible;

use std::collections::BTreeSet;

use automerge::{
    ActorId, AutoCommit, ChangeHash, LoadOptions, ObjType, OnPartialLoad, ROOT, TextEncoding,
};
use sha2::{Digest, Sha256};

use crate::api::{Crdt, JsonView, TextView};
use crate::attribution::Attribution;
use crate::contain::contained;
use crate::error::{CrdtError, Result};
use crate::inspected::{Inspected, Reading};
use crate::kinds::CrdtKind;
use crate::limits::{
    MAX_INFLATED_UPDATE_BYTES, MAX_REPLICAS_PER_UPDATE, MAX_SNAPSHOT_BYTES, MAX_UPDATE_BYTES,
    MAX_VERSION_BYTES,
};
use crate::ranges::RangeSet;
use crate::types::{Applied, OpRange, ReplicaId, UpdateInfo, Version};
pub(crate) use chunk::Parsed;
use chunk::{Hash, Snapshot, read_update};
pub(crate) use file::{is_file, read_file};
pub(crate) use ops::Ops;
use queue::{Queue, Sequence};

/// The first change of every document: actor zero, time zero, one text object under the root key `text`. Replicas that
/// start apart thereby share one text.
const BOOTSTRAP: &[u8] = &[
    0x85, 0x6f, 0x4a, 0x83, 0xd7, 0x77, 0x6c, 0x7c, 0x01, 0x2f, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x01, 0x00, 0x00,
    0x00, 0x05, 0x15, 0x06, 0x34, 0x01, 0x42, 0x02, 0x56, 0x02, 0x70, 0x02, 0x7f, 0x04, 0x74, 0x65,
    0x78, 0x74, 0x01, 0x7f, 0x04, 0x7f, 0x00, 0x7f, 0x00,
];

const DIGEST_LABEL: &[u8] = b"conclave-crdt automerge digest 1";

/// An Automerge document.
///
/// History is complete: deleted content stays inside it. Commits of this crate carry time 0.
pub struct Automerge {
    doc: AutoCommit,
    replica: ReplicaId,
    /// Changes in the document, by actor.
    sequence: Sequence,
    queue: Queue,
    /// Own changes that have not been taken.
    outbox: Vec<Vec<u8>>,
    /// The heads up to which own changes have been collected into the outbox.
    collected: Vec<ChangeHash>,
    poisoned: bool,
}

impl Automerge {
    /// A document with nothing but its bootstrap change.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] if `replica` is the bootstrap actor.
    pub fn create(replica: ReplicaId) -> Result<Self> {
        Self::open(None, replica)
    }

    /// A document from a snapshot of [`Crdt::snapshot`], or from any saved Automerge document. The bootstrap change is
    /// added if it is not there.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] or [`CrdtError::TooLarge`] if the bytes are not a document.
    pub fn load(snapshot: &[u8], replica: ReplicaId) -> Result<Self> {
        if snapshot.len() > MAX_SNAPSHOT_BYTES {
            return Err(CrdtError::TooLarge);
        }
        let snapshot = Snapshot::read(snapshot)?;
        let mut loaded = Self::open(snapshot.document, replica)?;
        loaded.admit(snapshot.changes)?;
        Ok(loaded)
    }

    fn open(document: Option<&[u8]>, replica: ReplicaId) -> Result<Self> {
        if replica == bootstrap_actor() {
            return Err(CrdtError::Malformed);
        }
        let actor = ActorId::from(replica.as_bytes());
        let loaded = contained(|| {
            let doc = match document {
                Some(bytes) => AutoCommit::load_with_options(
                    bytes,
                    LoadOptions::new()
                        .on_partial_load(OnPartialLoad::Error)
                        .text_encoding(TextEncoding::UnicodeCodePoint),
                ),
                None => Ok(AutoCommit::new_with_encoding(
                    TextEncoding::UnicodeCodePoint,
                )),
            };
            let mut doc = doc.map_err(|_| CrdtError::Malformed)?.with_actor(actor);
            let sequence = read_sequence(&mut doc)?;
            Ok((doc, sequence))
        });
        // Nothing but a temporary has been touched if this panics.
        let (doc, sequence) = loaded.map_err(|_| CrdtError::Malformed)??;
        let mut opened = Self {
            doc,
            replica,
            sequence,
            queue: Queue::default(),
            outbox: Vec::new(),
            collected: Vec::new(),
            poisoned: false,
        };
        opened.admit(read_update(BOOTSTRAP)?)?;
        Ok(opened)
    }

    /// The engine document, for plain `automerge` code: put, insert, splice, commit.
    ///
    /// Edits become part of [`Crdt::take_pending`]; what is not committed then is committed with time 0. Do not
    /// - apply changes of other replicas to it, merge into it, or load into it;
    /// - change its actor (use [`Crdt::set_replica`]) or leave it isolated at older heads;
    /// - replace it, or use it after an error: a poisoned document may panic.
    #[must_use]
    pub fn doc_mut(&mut self) -> &mut AutoCommit {
        &mut self.doc
    }

    /// Applies the changes of updates in their order; nothing where one is refused before it reaches the engine.
    fn apply_parsed(&mut self, updates: Vec<Vec<Parsed>>) -> Result<Applied> {
        self.collect_own()?;
        for changes in &updates {
            self.check_replicas(changes)?;
        }
        let changed = self.admit(updates.into_iter().flatten().collect())?;
        Ok(match (!self.queue.is_empty(), changed) {
            (true, _) => Applied::Pending,
            (false, true) => Applied::Complete,
            (false, false) => Applied::Duplicate,
        })
    }

    fn usable(&self) -> Result<()> {
        if self.poisoned {
            Err(CrdtError::Poisoned)
        } else {
            Ok(())
        }
    }

    fn poisoned_by<T>(&mut self, error: CrdtError) -> Result<T> {
        self.poisoned = true;
        Err(error)
    }

    /// Runs the engine; a panic poisons the document.
    fn engine<T>(&mut self, f: impl FnOnce(&mut AutoCommit) -> T) -> Result<T> {
        self.usable()?;
        let doc = &mut self.doc;
        contained(|| f(doc)).or_else(|error| self.poisoned_by(error))
    }
}

/// The actor of the bootstrap change.
fn bootstrap_actor() -> ReplicaId {
    // 16 bytes are within the limit of an id.
    ReplicaId::from_bytes(&[0; 16])
        .unwrap_or_else(|_| ReplicaId::for_kind(CrdtKind::Automerge, [0; 16]))
}

/// The changes of an update, within the limits of one.
fn read_sized(update: &[u8]) -> Result<Vec<Parsed>> {
    if update.len() > MAX_UPDATE_BYTES {
        return Err(CrdtError::TooLarge);
    }
    read_update(update)
}

/// Cuts an update into several of about so many bytes; a change stays one.
pub(crate) fn split(update: &[u8], about_bytes: usize) -> Result<Vec<Vec<u8>>> {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for change in read_sized(update)? {
        match parts.last_mut() {
            Some(last) if last.len() + change.bytes.len() <= about_bytes => {
                last.extend_from_slice(&change.bytes);
            }
            _ => parts.push(change.bytes.to_vec()),
        }
    }
    Ok(parts)
}

/// Updates one after the other in as few as hold them: changes name those before them, and stay as they are. A record ends its padding with one byte more.
fn coalesced(updates: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let (mut inflated, mut actors) = (0, BTreeSet::new());
    for update in updates {
        let changes = read_sized(update)?;
        let bytes: usize = changes.iter().map(|change| change.bytes.len()).sum();
        let of: BTreeSet<ReplicaId> = changes.into_iter().map(|change| change.actor).collect();
        let together = actors.union(&of).count();
        match all.last_mut() {
            Some(last)
                if last.len() + update.len() < MAX_UPDATE_BYTES
                    && inflated + bytes <= MAX_INFLATED_UPDATE_BYTES
                    && together <= MAX_REPLICAS_PER_UPDATE =>
            {
                last.extend_from_slice(update);
                inflated += bytes;
                actors.extend(of);
            }
            _ => {
                all.push(update.to_vec());
                (inflated, actors) = (bytes, of);
            }
        }
    }
    Ok(all)
}

fn read_sequence(doc: &mut AutoCommit) -> Result<Sequence> {
    let mut sequence = Sequence::new();
    for change in doc.get_changes_meta(&[]) {
        let known = sequence
            .entry(ReplicaId::from_bytes(change.actor.to_bytes())?)
            .or_default();
        *known = change.seq.max(*known);
    }
    Ok(sequence)
}

impl Crdt for Automerge {
    fn kind(&self) -> CrdtKind {
        CrdtKind::Automerge
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    fn inspect(&self, update: &[u8]) -> Result<Inspected> {
        let changes = read_sized(update)?;
        let mut by_actor: std::collections::BTreeMap<&ReplicaId, RangeSet> =
            std::collections::BTreeMap::new();
        for change in &changes {
            by_actor
                .entry(&change.actor)
                .or_default()
                .insert(change.seq, change.seq + 1);
        }
        if by_actor.len() > MAX_REPLICAS_PER_UPDATE {
            return Err(CrdtError::TooLarge);
        }
        let ranges = by_actor
            .iter()
            .flat_map(|(actor, seqs)| {
                seqs.iter().map(|(start, end)| OpRange {
                    replica: (*actor).clone(),
                    start,
                    end,
                })
            })
            .collect();
        let has_deletes = changes.iter().any(|change| change.declared.deletions > 0);
        Ok(Inspected {
            info: UpdateInfo {
                ranges,
                has_deletes,
            },
            reading: Reading::Automerge(changes),
        })
    }

    fn next_counter(&self, replica: &ReplicaId) -> u64 {
        self.queue.next_seq(
            replica,
            self.sequence.get(replica).copied().unwrap_or_default(),
        )
    }

    fn apply(&mut self, updates: &[&[u8]]) -> Result<Applied> {
        self.usable()?;
        let updates = updates.iter().map(|update| read_sized(update));
        self.apply_parsed(updates.collect::<Result<Vec<_>>>()?)
    }

    fn apply_inspected(&mut self, updates: Vec<(&[u8], Inspected)>) -> Result<Applied> {
        let updates = updates
            .into_iter()
            .map(|(_, inspected)| match inspected.reading {
                Reading::Automerge(changes) => Ok(changes),
                #[cfg(feature = "yjs")]
                Reading::Yjs(_) => Err(CrdtError::Malformed),
            });
        self.apply_parsed(updates.collect::<Result<Vec<_>>>()?)
    }

    fn take_pending(&mut self, out: &mut Vec<Vec<u8>>) -> Result<()> {
        self.collect_own()?;
        if self
            .outbox
            .iter()
            .any(|change| change.len() > MAX_UPDATE_BYTES)
        {
            return Err(CrdtError::TooLarge);
        }
        let mut update: Vec<u8> = Vec::new();
        for change in core::mem::take(&mut self.outbox) {
            if update.len() + change.len() > MAX_UPDATE_BYTES {
                out.push(core::mem::take(&mut update));
            }
            update.extend_from_slice(&change);
        }
        if !update.is_empty() {
            out.push(update);
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Vec<u8>> {
        self.collect_own()?;
        let mut snapshot = self.engine(AutoCommit::save)?;
        for change in self.queue.iter() {
            snapshot.extend_from_slice(&change.bytes);
        }
        if snapshot.len() > MAX_SNAPSHOT_BYTES {
            return Err(CrdtError::TooLarge);
        }
        Ok(snapshot)
    }

    fn version(&mut self) -> Result<Version> {
        self.collect_own()?;
        let mut heads: Vec<Hash> = self
            .engine(AutoCommit::get_heads)?
            .into_iter()
            .map(|hash| hash.0)
            .collect();
        heads.sort_unstable();
        Ok(Version::from_bytes(heads.concat()))
    }

    fn diff_since(&mut self, version: &Version) -> Result<Vec<u8>> {
        self.collect_own()?;
        let bytes = version.as_bytes();
        let (hashes, rest) = bytes.as_chunks::<32>();
        if bytes.len() > MAX_VERSION_BYTES {
            return Err(CrdtError::TooLarge);
        }
        if !rest.is_empty() {
            return Err(CrdtError::Malformed);
        }
        let absent: BTreeSet<Hash> = self.missing(hashes)?.into_iter().collect();
        let known: Vec<ChangeHash> = hashes
            .iter()
            .filter(|hash| !absent.contains(*hash))
            .map(|hash| ChangeHash(*hash))
            .collect();
        self.engine(|doc| {
            let mut diff = Vec::new();
            for mut change in doc.get_changes(&known) {
                diff.extend_from_slice(&change.bytes());
            }
            diff
        })
    }

    fn content_digest(&mut self) -> Result<[u8; 32]> {
        let version = self.version()?;
        let text = self.visible_text()?;
        let json = match JsonView::to_json(self) {
            Ok(value) => value.to_string(),
            Err(CrdtError::TooLarge) => String::from("nested too deeply"),
            Err(error) => return Err(error),
        };
        let mut waiting: Vec<Hash> = self.queue.iter().map(|change| change.hash).collect();
        waiting.sort_unstable();
        let mut hash = Sha256::new();
        for part in [
            DIGEST_LABEL,
            version.as_bytes(),
            &waiting.concat(),
            text.as_bytes(),
            json.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Ok(hash.finalize().into())
    }

    fn visible_digest(&mut self) -> Result<[u8; 32]> {
        let shown = self.engine(|doc| visible::visible(doc, &ROOT, ObjType::Map, 0))??;
        Ok(Sha256::digest(shown.to_string()).into())
    }

    fn has_missing(&self) -> bool {
        !self.queue.is_empty()
    }

    fn replicas(&self) -> Vec<(ReplicaId, u64)> {
        let next = |(replica, last): (&ReplicaId, &u64)| (replica.clone(), last + 1);
        self.sequence.iter().map(next).collect()
    }

    fn export(&mut self) -> Result<Vec<u8>> {
        self.collect_own()?;
        self.engine(AutoCommit::save)
    }

    fn coalesce(&self, updates: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        coalesced(updates)
    }

    fn set_replica(&mut self, replica: ReplicaId) -> Result<()> {
        self.collect_own()?;
        if replica == bootstrap_actor() {
            return Err(CrdtError::Malformed);
        }
        if !self.outbox.is_empty() || self.next_counter(&replica) > 1 {
            return Err(CrdtError::Engine);
        }
        let actor = ActorId::from(replica.as_bytes());
        self.engine(|doc| {
            doc.set_actor(actor);
        })?;
        self.replica = replica;
        Ok(())
    }

    fn text(&mut self) -> Option<&mut dyn TextView> {
        Some(self)
    }

    fn json(&mut self) -> Option<&mut dyn JsonView> {
        Some(self)
    }

    fn attribution(&mut self) -> Option<&mut dyn Attribution> {
        Some(self)
    }

    fn as_any_mut(&mut self) -> &mut dyn core::any::Any {
        self
    }
}

impl Drop for Automerge {
    fn drop(&mut self) {
        // The engine's destructors are foreign code too.
        if self.poisoned {
            let broken = core::mem::take(&mut self.doc);
            let _ = contained(move || drop(broken));
        }
    }
}

impl core::fmt::Debug for Automerge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Automerge")
            .field("replica", &self.replica)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use automerge::transaction::{CommitOptions, Transactable};

    /// The constant is what the engine writes, so documents of all versions start alike.
    #[test]
    fn the_bootstrap_change_is_what_the_engine_writes() {
        let mut doc = AutoCommit::new_with_encoding(TextEncoding::UnicodeCodePoint)
            .with_actor(ActorId::from([0u8; 16]));
        doc.put_object(ROOT, "text", ObjType::Text).unwrap();
        doc.commit_with(CommitOptions::default().with_time(0));
        let changes = doc.get_changes(&[]);
        assert_eq!(
            changes[0].raw_bytes(),
            BOOTSTRAP,
            "{:02x?}",
            changes[0].raw_bytes()
        );
    }
}

//! Rows of a document's local store. Values are plaintext here: the shell encrypts them at rest.
//!
//! | key | value |
//! |---|---|
//! | `c` | checkpoint: where the view of the log begins, tables, CRDT state after some position |
//! | `l` ‖ position | leaves from there on, up to the checkpoint |
//! | `m` | instance, what was found of snapshots, which is confirmed |
//! | `i` | what is kept of the log |
//! | `k` ‖ checkpoint ‖ position | records from there on, as received, with what judging them gave |
//! | `e` ‖ position | what judging that record gave since |
//! | `o` ‖ number | an own record without a place in the log |
//! | `w` ‖ position | a record that waits |
//! | `p` | own snapshot on its way |
//! | `z` ‖ number | an update that the log has lost, with its keys |
//! | `v` ‖ position | a snapshot, as received |
//! | `f` ‖ position | leaves from there on that lie before the view |
//!
//! `k`, `v` and `f` hold ciphertext and hashes only. Opening a document reads the first of them below the size of the log at its checkpoint, and
//! no other. Every batch of changes leads from one loadable state to the next.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::CrdtKind;
use conclave_mls::{RowChange, Rows};
use conclave_proto::Hash;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::merkle::Frontier;
use rand_core::CryptoRngCore;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::aside::Aside;
use crate::checks::Checks;
use crate::content::{Checkpoint, Content, Fresh, Received, TailEntry};
use crate::context::DocContext;
use crate::document::Document;
use crate::error::DocError;
use crate::incoming::Incoming;
use crate::kept::{Below, Era, Keeping, Present, row_end, segment_key};
use crate::light::Light;
use crate::log::LogView;
use crate::lost::{Lost, LostUpdates};
use crate::outbox::{OutItem, Outbox};
use crate::seal::KeyRing;
use crate::state::LogState;
use crate::stored::{
    CheckpointRow, MetaRow, OutRow, ROW_VERSION, SegmentEntry, SegmentEntryOf, Sorted, malformed,
    read_idle, read_segment, read_update,
};
use crate::watch::At;

/// A segment of records is closed past this size, in bytes.
const SEGMENT_BYTES: usize = 64 * 1024;
/// A segment smaller than this is written again with what comes next, in bytes.
const SEGMENT_GROWS_BYTES: usize = 4 * 1024;

/// What of the document is not in the store yet.
#[derive(Debug)]
pub(crate) struct RowTracker {
    pub checkpoint_dirty: bool,
    pub meta_dirty: bool,
    pub snapshot_dirty: bool,
    pub kept_dirty: bool,
    /// Position up to which records are in the store.
    saved_to: u64,
    /// First and last position (exclusive) of rows of leaves in the store.
    leaf_rows: Vec<(u64, u64)>,
    /// Leaves before the view of the log that are in the first of these rows.
    pub below: Below,
    /// What is to be written before anything else.
    pub pending: Vec<RowChange>,
    /// The segments from the checkpoint on.
    pub present: Present,
    /// Former eras, in the order in which they ended.
    pub eras: Vec<Era>,
    /// Those that have ended since the last batch.
    pub closing: Vec<Era>,
    /// What former eras take in the store, in bytes.
    pub counted: u64,
    /// What the newest snapshot covers that this device made or found to match.
    pub sure: u64,
    /// The last segment, while it may grow.
    open: Option<(u64, Zeroizing<Vec<u8>>)>,
    /// Positions whose records are in the store, but mean something else than it says there.
    pub changed: BTreeSet<u64>,
    /// Positions with a row of that kind in the store.
    corrected: BTreeSet<u64>,
}

impl RowTracker {
    /// Nothing is in the store. The view of the log begins at `base`, its checkpoint is at `from`.
    pub(crate) fn new(base: u64, from: u64) -> Self {
        Self {
            checkpoint_dirty: true,
            meta_dirty: true,
            snapshot_dirty: false,
            kept_dirty: true,
            saved_to: from,
            leaf_rows: Vec::new(),
            below: Below {
                first: base,
                leaves: Vec::new(),
            },
            pending: Vec::new(),
            present: Present {
                from,
                ..Present::default()
            },
            eras: Vec::new(),
            closing: Vec::new(),
            counted: 0,
            sure: 0,
            open: None,
            changed: BTreeSet::new(),
            corrected: BTreeSet::new(),
        }
    }

    pub(crate) fn saved_to(&self) -> u64 {
        self.saved_to
    }

    /// Whether the snapshot at a position has its row, or will have it.
    pub(crate) fn has_snapshot(&self, seq: u64) -> bool {
        let former = self.eras.iter().chain(&self.closing);
        let mut all = former
            .flat_map(Era::snapshots)
            .chain(&self.present.snapshots);
        all.any(|(of, _)| *of == seq)
    }

    /// What stored records mean now is in the checkpoint.
    pub(crate) fn drop_corrections(&mut self, out: &mut Vec<RowChange>) {
        let corrected = std::mem::take(&mut self.corrected).into_iter();
        out.extend(corrected.map(|seq| delete(key(b'e', seq))));
        self.changed.clear();
    }

    /// An era begins, with the checkpoint that is here now.
    pub(crate) fn begin(&mut self, from: u64) {
        self.present.from = from;
        self.open = None;
        self.saved_to = from;
        self.checkpoint_dirty = true;
    }
}

fn key(prefix: u8, number: u64) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn cbor<T: Serialize>(value: &T) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::new());
    put_cbor(&mut out, value);
    out
}

/// Puts a value in the place of what is in the buffer.
fn put_cbor<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    out.clear();
    // Writing to memory cannot fail; a row cut short would be refused on loading.
    if ciborium::into_writer(value, &mut *out).is_err() {
        out.clear();
    }
}

pub(crate) fn put(key: Vec<u8>, value: Zeroizing<Vec<u8>>) -> RowChange {
    RowChange {
        key,
        value: Some(value),
    }
}

pub(crate) fn delete(key: Vec<u8>) -> RowChange {
    RowChange { key, value: None }
}

fn out_row(item: OutItem) -> Zeroizing<Vec<u8>> {
    cbor(&OutRow {
        version: ROW_VERSION,
        what: item.what,
        plain: item.plain,
        replicas: item.replicas,
        sealed: item.sealed.map(|record| Bytes::from(encode(&record))),
    })
}

impl Document {
    /// What has changed since the last call, as rows to write and delete in one transaction, in this order. Keys are relative to the document;
    /// [`is_kept`](crate::is_kept) tells which are read only where the log is to be returned.
    pub fn take_changes(&mut self, keeping: &Keeping) -> Vec<RowChange> {
        let mut out = std::mem::take(&mut self.rows.pending);
        if std::mem::take(&mut self.rows.checkpoint_dirty) {
            self.put_checkpoint(&mut out);
            let covered = self.state.active.covered.size;
            self.rows.prune(covered, keeping, &mut out);
            self.rows.kept_dirty = true;
        }
        self.put_corrections(&mut out);
        self.put_records(&mut out);
        if std::mem::take(&mut self.rows.kept_dirty) {
            out.push(put(vec![b'i'], cbor(&self.rows.kept_row())));
        }
        if std::mem::take(&mut self.rows.meta_dirty) | std::mem::take(&mut self.outbox.author_dirty)
        {
            let meta = MetaRow {
                version: ROW_VERSION,
                author: self.outbox.author,
                ground: self.checks.ground,
                checks: self.checks.own.clone(),
                caught_up_epoch: self.caught_up_epoch,
                behind: self.behind,
                aside: self.aside.to_stored(),
            };
            out.push(put(vec![b'm'], cbor(&meta)));
        }
        if std::mem::take(&mut self.rows.snapshot_dirty) {
            let value = self
                .snapshot
                .as_ref()
                .map(|record| Zeroizing::new(encode(record)));
            out.push(RowChange {
                key: vec![b'p'],
                value,
            });
        }
        for (number, item) in self.outbox.take_dirty() {
            // Breakage: edits that are not in the log yet are kept in memory only.
            if crate::broken("drop-outbox-row") {
                continue;
            }
            out.push(RowChange {
                key: key(b'o', number),
                value: item.map(out_row),
            });
        }
        for (number, item) in self.outbox.drafts.take_dirty() {
            // Breakage: what is written while sending is paused is kept in memory only.
            if crate::broken("drop-draft-row") {
                continue;
            }
            out.push(RowChange {
                key: key(b'q', number),
                value: item.map(out_row),
            });
        }
        for (number, payload) in self.lost.take_dirty() {
            let value = payload.map(|payload| {
                let mut row = Zeroizing::new(ROW_VERSION.to_be_bytes().to_vec());
                row.extend_from_slice(&payload.to_bytes());
                row
            });
            out.push(RowChange {
                key: key(b'z', number),
                value,
            });
        }
        for (seq, form) in self.incoming.take_dirty() {
            out.push(RowChange {
                key: key(b'w', seq),
                value: form.map(Zeroizing::new),
            });
        }
        out
    }

    fn put_checkpoint(&mut self, out: &mut Vec<RowChange>) {
        let checkpoint = &self.content.checkpoint;
        let row = CheckpointRow {
            version: ROW_VERSION,
            group: self.group,
            document: self.id,
            kind: self.content.kind.code(),
            base: self.log.base_frontier().clone(),
            size: checkpoint.size,
            state: checkpoint.state.clone(),
            crdt: checkpoint.crdt.clone(),
        };
        out.push(put(vec![b'c'], cbor(&row)));
        let size = checkpoint.size;
        self.put_leaves(size, out);
    }

    /// Writes the leaves up to the checkpoint that are in no row yet. Those before the view go where opening the document does not read them,
    /// a row at a time.
    fn put_leaves(&mut self, to: u64, out: &mut Vec<RowChange>) {
        self.rows.below.put_full(out);
        let below = &self.rows.below;
        let mut from = below.first;
        let mut wanted = Vec::new();
        while from < to {
            let end = to.min(row_end(from));
            wanted.push((from, end));
            from = end;
        }
        let before = std::mem::replace(&mut self.rows.leaf_rows, wanted);
        let below = &self.rows.below;
        for (first, end) in &self.rows.leaf_rows {
            if before.contains(&(*first, *end)) {
                continue;
            }
            let mut leaves = Zeroizing::new(Vec::new());
            let skip = usize::try_from(first.saturating_sub(below.first)).unwrap_or(usize::MAX);
            let below = below.leaves.iter().skip(skip).copied();
            let after = self.log.leaves((*first).max(self.log.base().size), *end);
            for leaf in below.chain(after) {
                leaves.extend_from_slice(leaf.as_bytes());
            }
            out.push(put(key(b'l', *first), leaves));
        }
        let firsts = before.into_iter().map(|(first, _)| first);
        let stays = |first: &u64| self.rows.leaf_rows.iter().any(|(it, _)| it == first);
        let gone = firsts.filter(|first| !stays(first));
        out.extend(gone.map(|first| delete(key(b'l', first))));
    }

    /// Writes what stored records mean now, where that has changed.
    fn put_corrections(&mut self, out: &mut Vec<RowChange>) {
        for seq in std::mem::take(&mut self.rows.changed) {
            if seq < self.rows.saved_to
                && let Some(entry) = self.content.entry(seq)
            {
                out.push(put(key(b'e', seq), cbor(&entry.effect)));
                self.rows.corrected.insert(seq);
            }
        }
    }

    /// Writes records that are not in the store yet, as segments.
    pub(crate) fn put_records(&mut self, out: &mut Vec<RowChange>) {
        let begin = self.content.checkpoint.size;
        let skip = usize::try_from(self.rows.saved_to.saturating_sub(begin)).unwrap_or(usize::MAX);
        let mut segment = self.rows.open.take();
        let mut changed = false;
        let unsaved = self.content.tail.get_mut(skip..).unwrap_or_default();
        // One buffer for all of them: each is short, and wiping one takes as long as it is large.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SEGMENT_GROWS_BYTES));
        for (seq, entry) in (begin.saturating_add(skip as u64)..).zip(unsaved) {
            let record = match entry.sealed.take() {
                Some(Received::Chained(bytes)) => Some(Bytes::from(bytes)),
                Some(Received::Snapshot(bytes)) => {
                    self.rows.keep_snapshot(seq, bytes, out);
                    None
                }
                None => None,
            };
            put_cbor(
                &mut bytes,
                &SegmentEntryOf {
                    effect: &entry.effect,
                    record,
                    read: entry.update.is_some() || entry.idle.is_some(),
                },
            );
            if let Some((first, full)) =
                segment.take_if(|(_, rows)| rows.len() + bytes.len() > SEGMENT_BYTES)
            {
                self.rows.present.wrote(first, full.len());
                out.push(put(segment_key(begin, first), full));
            }
            let (_, rows) = segment.get_or_insert_with(|| {
                self.rows.present.segments.push((seq, 0));
                (seq, Zeroizing::new(ROW_VERSION.to_be_bytes().to_vec()))
            });
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            rows.extend_from_slice(&length.to_be_bytes());
            rows.extend_from_slice(&bytes);
            self.rows.saved_to = seq.saturating_add(1);
            changed = true;
        }
        if let Some((first, rows)) = &segment
            && changed
        {
            self.rows.present.wrote(*first, rows.len());
            out.push(put(segment_key(begin, *first), rows.clone()));
        }
        self.rows.open = segment.filter(|(_, rows)| rows.len() < SEGMENT_GROWS_BYTES);
    }

    /// Loads a document from its rows. Edits from now on are written under a fresh replica id. Where a record is void by now at which work was stuck
    /// ([`Watch::new`](crate::Watch::new)) what is shown ends before it until [`Document::voided`] is called.
    ///
    /// # Errors
    /// [`DocError::Stored`], [`DocError::UnknownKind`], [`DocError::MissingRoot`], [`DocError::Crdt`]. The rows stay as they are; open the
    /// document from the service again.
    pub fn load(
        ctx: &DocContext<'_>,
        rows: Rows,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<Self, DocError> {
        let mut fresh = Fresh::new(rng);
        let sorted = Sorted::read(rows)?;
        let (checkpoint_row, meta) = (sorted.checkpoint, sorted.meta);
        let (group, id) = (checkpoint_row.group, checkpoint_row.document);
        let kind = CrdtKind::from_code(checkpoint_row.kind).ok_or(DocError::UnknownKind {
            code: checkpoint_row.kind,
        })?;
        let (mut log, leaf_rows, below) =
            restore_log(checkpoint_row.base, checkpoint_row.size, sorted.leaves)?;
        let mut state = checkpoint_row.state;
        state.mend(kind, log.size());
        let checkpoint = Checkpoint {
            size: log.size(),
            state: state.clone(),
            crdt: checkpoint_row.crdt,
        };
        let mut tracker = RowTracker::new(0, log.size());
        tracker.checkpoint_dirty = false;
        tracker.meta_dirty = false;
        tracker.kept_dirty = false;
        tracker.leaf_rows = leaf_rows;
        tracker.below = below;
        tracker.restore(sorted.kept);
        let watch = ctx.watch();
        let mut content = watch.within(At::Stored, || {
            Content::new(kind, checkpoint, watch.clone(), &mut fresh)
        })?;
        let mut keys = KeyRing::new(ctx.keys, id);
        let mut corrections = sorted.corrections;
        for (first, bytes) in sorted.segments {
            if first != content.size() {
                return Err(malformed("segment"));
            }
            tracker.present.segments.push((first, bytes.len() as u64));
            let mut entries = read_segment(&bytes)?;
            for (seq, entry) in (first..).zip(&mut entries) {
                if let Some(effect) = corrections.remove(&seq) {
                    entry.effect = effect;
                    tracker.corrected.insert(seq);
                }
            }
            replay(entries, &mut keys, &mut log, &mut state, &mut content)?;
        }
        tracker.saved_to = content.size();
        let mut outbox = Outbox::new(meta.author);
        outbox.author_dirty = false;
        sorted
            .outbox
            .into_iter()
            .for_each(|item| outbox.restore(item));
        sorted
            .drafts
            .into_iter()
            .for_each(|item| outbox.restore_draft(item));
        let mut lost = LostUpdates::default();
        for (number, payload) in sorted.lost {
            let read =
                Lost::read(payload, content.crdt.as_ref()).ok_or(malformed("lost update"))?;
            lost.restore(number, read);
        }
        outbox.carried().for_each(|leaf| lost.queued(leaf));
        match content.first_avoided(ctx, id) {
            // What follows is read when it is taken out.
            Some(seq) => content.load_before(seq, &mut fresh)?,
            None => {
                let overlay: Vec<_> = lost.plains().chain(outbox.updates()).collect();
                content.load_all(&overlay, &mut fresh)?;
            }
        }
        let mut incoming = Incoming::default();
        for (seq, form) in sorted.waiting {
            if seq >= content.size() {
                incoming.restore(seq, form);
            }
        }
        if let Some(confirmed) = &meta.checks.confirmed {
            state.confirm(confirmed);
        }
        let checks = Checks {
            sealed: None,
            ground: meta.ground,
            stub: None,
            own: meta.checks,
        };
        let snapshot = sorted.snapshot;
        let aside = Aside::restore(meta.aside, &content);
        let mut this = Self {
            group,
            id,
            log,
            state,
            content,
            incoming,
            outbox,
            lost,
            anew: false,
            checks,
            snapshot,
            rows: tracker,
            fresh,
            reported: None,
            caught_up_epoch: meta.caught_up_epoch,
            rolled_back: false,
            behind: meta.behind,
            light: Light::default(),
            aside,
        };
        this.claim_known();
        Ok(this)
    }
}

/// The view of the log up to the checkpoint, from its rows. Also gives which rows there are, and what of them lies before the view.
#[allow(clippy::type_complexity)] // used once
fn restore_log(
    base: Frontier,
    size: u64,
    rows: BTreeMap<u64, Vec<Hash>>,
) -> Result<(LogView, Vec<(u64, u64)>, Below), DocError> {
    let begin = base.size();
    let mut log = LogView::new(base);
    let mut places = Vec::new();
    let mut below = Below {
        first: rows.keys().next().map_or(begin, |first| begin.min(*first)),
        leaves: Vec::new(),
    };
    for (first, leaves) in rows {
        let end = first.saturating_add(leaves.len() as u64);
        places.push((first, end));
        for (seq, leaf) in (first..).zip(leaves) {
            if seq < begin && seq == below.end() {
                below.leaves.push(leaf);
            } else if seq == log.size() {
                log.push(leaf);
            }
        }
    }
    if log.size() != size || below.end() != begin {
        return Err(malformed("leaves"));
    }
    Ok((log, places, below))
}

/// Gives the records of a segment their places again, as they were judged when they came.
fn replay(
    entries: Vec<SegmentEntry>,
    keys: &mut KeyRing<'_>,
    log: &mut LogView,
    state: &mut LogState,
    content: &mut Content,
) -> Result<(), DocError> {
    for entry in entries {
        log.push(entry.effect.leaf);
        state.apply(content.size(), &entry.effect);
        let update = read_update(&entry, keys)?;
        let idle = read_idle(&entry)?;
        let effect = entry.effect;
        content.push(
            TailEntry {
                effect,
                update,
                sealed: None,
                idle,
            },
            None,
        );
    }
    Ok(())
}

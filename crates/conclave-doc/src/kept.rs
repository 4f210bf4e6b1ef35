//! What is kept of a document's log beside what opening it reads, so that a log that the service lost can be returned.
//!
//! Records lie where they were written from the beginning: in segments below the size of the log at the checkpoint that they follow. A
//! checkpoint begins another era; the rows of the era before stay until they are pruned, and nothing of them is read or written again. A row
//! of the document lists the eras, so that pruning needs to read none.

use conclave_mls::{RowChange, Rows};
use conclave_proto::codec::{Bytes, decode};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::Record;
use conclave_proto::{Hash, Head, UnixMs, limits};
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::error::DocError;
use crate::state::News;
use crate::store::{RowTracker, delete, put};
use crate::stored::{ROW_VERSION, Sorted, malformed, read_segment};

/// First bytes of the keys of rows that opening a document does not read, but for the segments of the present era: leaves before the view of
/// the log, segments of records, snapshots.
const KEPT: [u8; 3] = *b"fkv";

/// How long records are kept that are not needed for anything else, in milliseconds.
const KEPT_MS: u64 = 14 * 24 * 3600 * 1000;
/// Most bytes that former eras of a document take.
const DOCUMENT_BYTES: u64 = 64 << 20;
/// Most bytes that former eras of all documents of a store take.
const STORE_BYTES: u64 = 1 << 30;

/// Most leaves in one row.
pub(crate) const LEAVES_PER_ROW: u64 = 2048;

/// What decides how long former eras are kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keeping {
    /// The present.
    pub now: UnixMs,
    /// What former eras of all documents of the store take, this one included, in bytes: the sum of [`Document::kept_bytes`].
    pub store_bytes: u64,
}

/// Whether a row, by its key within the document, is one of those that are kept apart from what opening the document reads.
#[must_use]
pub fn is_kept(key: &[u8]) -> bool {
    key.first().is_some_and(|first| KEPT.contains(first))
}

/// The key, within the document, of the row in which the snapshot at a position is kept ([`Document::take_snapshot`]).
#[must_use]
pub fn snapshot_row(seq: u64) -> Vec<u8> {
    numbered(b'v', seq)
}

/// The first bytes of the keys of the segments that opening a document reads beside its other rows, by the one of these that tells. `None` of
/// every other row.
#[must_use]
pub fn present_segments(key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let row: KeptRow = match key {
        b"i" => ciborium::from_reader(value).ok()?,
        _ => return None,
    };
    Some(era_prefix(row.from))
}

fn era_prefix(from: u64) -> Vec<u8> {
    [b"k".as_slice(), &from.to_be_bytes()].concat()
}

pub(crate) fn segment_key(era: u64, first: u64) -> Vec<u8> {
    let mut key = era_prefix(era);
    key.extend_from_slice(&first.to_be_bytes());
    key
}

fn numbered(prefix: u8, number: u64) -> Vec<u8> {
    [[prefix].as_slice(), &number.to_be_bytes()].concat()
}

/// The row that lists what is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptRow {
    pub version: u16,
    /// Size of the log at the checkpoint that the present segments follow.
    pub from: u64,
    /// What the newest snapshot covers that this device made or found to match.
    pub sure: u64,
    /// Snapshots in rows of the present era, with their bytes.
    pub snapshots: Vec<(u64, u64)>,
    /// Former eras, in the order in which they ended.
    pub eras: Vec<Era>,
}

/// A former era.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Era {
    from: u64,
    end: u64,
    /// Records in each of its segments.
    segments: Vec<u64>,
    snapshots: Vec<(u64, u64)>,
    bytes: u64,
    closed: UnixMs,
}

impl Era {
    /// Keys of its rows.
    fn keys(&self) -> impl Iterator<Item = Vec<u8>> {
        let (era, mut next) = (self.from, self.from);
        let segments = self.segments.iter().map(move |records| {
            let first = next;
            next = next.saturating_add(*records);
            segment_key(era, first)
        });
        let snapshots = self.snapshots.iter().map(|(seq, _)| numbered(b'v', *seq));
        segments.chain(snapshots)
    }

    pub(crate) fn snapshots(&self) -> &[(u64, u64)] {
        &self.snapshots
    }

    fn goes(&self, out: &mut Vec<RowChange>) {
        out.extend(self.keys().map(delete));
    }
}

/// The era since the last checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Present {
    pub from: u64,
    /// First positions of its segments in the store, with their bytes.
    pub segments: Vec<(u64, u64)>,
    pub snapshots: Vec<(u64, u64)>,
}

impl Present {
    /// A segment was written, for the first time or longer than before.
    pub(crate) fn wrote(&mut self, first: u64, bytes: usize) {
        if let Some(last) = self.segments.iter_mut().rev().find(|it| it.0 == first) {
            last.1 = bytes as u64;
        }
    }

    /// It ends at this size of the log. None where nothing of it is stored.
    fn close(&mut self, end: u64) -> Option<Era> {
        let Self {
            from,
            segments,
            snapshots,
        } = std::mem::take(self);
        if segments.is_empty() && snapshots.is_empty() {
            return None;
        }
        let bytes = segments.iter().chain(&snapshots).map(|(_, bytes)| *bytes);
        let bytes = bytes.sum();
        let ends = segments.iter().skip(1).map(|(first, _)| *first);
        let counts = segments
            .iter()
            .zip(ends.chain([end]))
            .map(|((first, _), end)| end.saturating_sub(*first));
        Some(Era {
            from,
            end,
            segments: counts.collect(),
            snapshots,
            bytes,
            closed: UnixMs(0),
        })
    }
}

/// Leaves before the view of the log that do not fill a row yet. They end where the view begins.
#[derive(Debug, Default)]
pub(crate) struct Below {
    pub first: u64,
    pub leaves: Vec<Hash>,
}

impl Below {
    pub(crate) fn end(&self) -> u64 {
        self.first.saturating_add(self.leaves.len() as u64)
    }

    /// Full rows go where opening the document does not read them.
    pub(crate) fn put_full(&mut self, out: &mut Vec<RowChange>) {
        loop {
            let end = row_end(self.first);
            let count = usize::try_from(end.saturating_sub(self.first)).unwrap_or(usize::MAX);
            if self.leaves.len() < count {
                return;
            }
            let full = self.leaves.drain(..count);
            let bytes = full.flat_map(|leaf| leaf.0).collect::<Vec<u8>>();
            out.push(put(numbered(b'f', self.first), bytes.into()));
            self.first = end;
        }
    }
}

/// Where the row of leaves ends in which the one at `seq` lies.
pub(crate) fn row_end(seq: u64) -> u64 {
    (seq / LEAVES_PER_ROW)
        .saturating_add(1)
        .saturating_mul(LEAVES_PER_ROW)
}

impl RowTracker {
    /// A snapshot has a row of its own.
    pub(crate) fn keep_snapshot(&mut self, seq: u64, sealed: Vec<u8>, out: &mut Vec<RowChange>) {
        let all = &mut self.present.snapshots;
        all.retain(|(of, _)| *of != seq);
        all.push((seq, sealed.len() as u64));
        self.kept_dirty = true;
        out.push(put(numbered(b'v', seq), sealed.into()));
    }

    /// The row of the snapshot at a position is not there, or holds something else.
    pub(crate) fn lost_snapshot(&mut self, seq: u64) {
        let former = self.eras.iter_mut().chain(&mut self.closing);
        let former = former.map(|era| &mut era.snapshots);
        for snapshots in former.chain([&mut self.present.snapshots]) {
            snapshots.retain(|(of, _)| *of != seq);
        }
        self.kept_dirty = true;
        self.pending.push(delete(numbered(b'v', seq)));
    }

    /// Goes on with what is listed as kept.
    pub(crate) fn restore(&mut self, row: KeptRow) {
        self.counted = row.eras.iter().map(|era| era.bytes).sum();
        self.eras = row.eras;
        self.present.snapshots = row.snapshots;
        self.sure = row.sure;
    }

    /// The row that lists what is kept.
    pub(crate) fn kept_row(&self) -> KeptRow {
        KeptRow {
            version: ROW_VERSION,
            from: self.present.from,
            sure: self.sure,
            snapshots: self.present.snapshots.clone(),
            eras: self.eras.clone(),
        }
    }

    /// Eras that have ended are listed as former ones, and the oldest that need not be kept go. What the active snapshot does not cover stays
    /// in any case.
    pub(crate) fn prune(&mut self, covered: u64, keeping: &Keeping, out: &mut Vec<RowChange>) {
        for mut era in std::mem::take(&mut self.closing) {
            era.closed = keeping.now;
            self.eras.push(era);
        }
        let mut own: u64 = self.eras.iter().map(|era| era.bytes).sum();
        let mut all = keeping
            .store_bytes
            .saturating_sub(self.counted)
            .saturating_add(own);
        let sure = self.sure;
        self.eras.retain(|era| {
            let old = keeping.now.since_ms(era.closed) > KEPT_MS && era.end <= sure;
            let over = own > DOCUMENT_BYTES || all > STORE_BYTES;
            let goes = era.end <= covered && (old || over);
            if goes {
                own = own.saturating_sub(era.bytes);
                all = all.saturating_sub(era.bytes);
                era.goes(out);
            }
            !goes
        });
        self.counted = own;
    }
}

impl Document {
    /// What former eras of this document take in the store, in bytes, as of the last [`Document::take_changes`].
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.rows.counted
    }

    /// Keeps the snapshot at a position whole.
    pub(crate) fn keep_snapshot(&mut self, seq: u64, sealed: Vec<u8>) {
        let mut out = std::mem::take(&mut self.rows.pending);
        self.rows.keep_snapshot(seq, sealed, &mut out);
        self.rows.pending = out;
    }

    /// Before a checkpoint, or another beginning, takes the place of what is here: everything since the last is written, and its era ends.
    pub(crate) fn end_era(&mut self) {
        let mut out = std::mem::take(&mut self.rows.pending);
        self.put_records(&mut out);
        let rows = &mut self.rows;
        rows.drop_corrections(&mut out);
        rows.pending = out;
        let end = rows.saved_to();
        rows.closing.extend(rows.present.close(end));
    }

    /// After [`Document::end_era`]: what follows lies below the size of the checkpoint that is here now.
    pub(crate) fn begin_era(&mut self) {
        let from = self.content.checkpoint.size;
        let rows = &mut self.rows;
        // The log is read anew from where an era began before: its rows would be taken for those to come.
        let mut out = std::mem::take(&mut rows.pending);
        for eras in [&mut rows.eras, &mut rows.closing] {
            eras.retain(|era| {
                let clash = era.from == from;
                if clash {
                    era.goes(&mut out);
                }
                !clash
            });
        }
        rows.pending = out;
        rows.begin(from);
    }

    /// Follows what the newest snapshot covers on which this device's own word stands.
    pub(crate) fn note_sure(&mut self) {
        let active = &self.state.active;
        if self.checks.found(&active.id) == Some(crate::payload::Judgement::Match) {
            self.rows.sure = self.rows.sure.max(active.covered.size);
        }
    }
}

/// What is kept of one position of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptItem {
    /// The whole record.
    Record(Box<Record>),
    /// Its leaf.
    Leaf(Hash),
}

impl KeptItem {
    /// The leaf.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        match self {
            Self::Record(record) => record.leaf(),
            Self::Leaf(leaf) => *leaf,
        }
    }
}

/// What a store holds of a document's log, without gaps up to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLog {
    first: u64,
    items: Vec<KeptItem>,
    /// Right edge of the log where the view of it began.
    base: Frontier,
    head: Head,
    /// Positions of updates that counted.
    counted: std::collections::BTreeSet<u64>,
}

impl KeptLog {
    /// Of a log that ends here, nothing can be read.
    #[must_use]
    pub fn unreadable(head: Head) -> Self {
        Self {
            first: head.size,
            items: Vec::new(),
            base: Frontier::new(),
            head,
            counted: Default::default(),
        }
    }

    /// Reads all rows of a document, those that are kept apart among them.
    ///
    /// # Errors
    /// [`DocError::Stored`] where rows are damaged, missing, or contradict each other.
    pub fn read(rows: &Rows) -> Result<Self, DocError> {
        let kept: Rows = rows
            .iter()
            .filter(|(key, _)| is_kept(key))
            .cloned()
            .collect();
        let sorted = Sorted::read(rows.clone())?;
        let listed = &sorted.kept;
        let base: &Frontier = &sorted.checkpoint.base;
        let mut pieces: Vec<(u64, Vec<Hash>)> = sorted.leaves.into_iter().collect();
        let mut records: std::collections::BTreeMap<u64, Record> = Default::default();
        let mut counted = std::collections::BTreeSet::new();
        let mut end = sorted.checkpoint.size;
        let mut eras: Vec<Vec<u8>> = listed.eras.iter().flat_map(Era::keys).collect();
        eras.sort();
        for (key, value) in kept {
            let Some((table, rest)) = key.split_first() else {
                continue;
            };
            let (numbers, _) = rest.as_chunks::<8>();
            let numbers: Vec<u64> = numbers.iter().copied().map(u64::from_be_bytes).collect();
            match (*table, numbers.as_slice()) {
                (b'f', [first]) => pieces.push((*first, read_leaves(&value)?)),
                (b'v', [seq]) => {
                    records.insert(*seq, read_snapshot(&value)?);
                }
                (b'k', [era, first]) => {
                    let entries = read_segment(&value)?;
                    let leaves = entries.iter().map(|entry| entry.effect.leaf).collect();
                    for (seq, entry) in (*first..=u64::MAX).zip(&entries) {
                        let effect = sorted.corrections.get(&seq).unwrap_or(&entry.effect);
                        if effect.news == News::Update {
                            counted.insert(seq);
                        }
                        let record = entry.record.as_ref().map(read_record).transpose()?;
                        records.extend(record.map(|record| (seq, record)));
                    }
                    if *era == listed.from {
                        end = end.max(first.saturating_add(entries.len() as u64));
                    }
                    pieces.push((*first, leaves));
                }
                _ => return Err(malformed("kept row")),
            }
            if let Ok(at) = eras.binary_search(&key) {
                eras.remove(at);
            }
        }
        if !eras.is_empty() {
            return Err(malformed("kept records"));
        }
        // Where nothing is kept before the view, it begins there.
        pieces.push((base.size(), Vec::new()));
        let (first, leaves) = join(pieces, end)?;
        let head = head_over(base, first, &leaves)?;
        let mut items = Vec::with_capacity(leaves.len());
        for (seq, leaf) in (first..=u64::MAX).zip(leaves) {
            items.push(match records.remove(&seq) {
                Some(record) if record.leaf() != leaf => return Err(malformed("kept record")),
                Some(record) => KeptItem::Record(Box::new(record)),
                None => KeptItem::Leaf(leaf),
            });
        }
        Ok(Self {
            first,
            items,
            base: sorted.checkpoint.base,
            head,
            counted,
        })
    }

    /// The first position of which the leaf is here, and every one after it.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Right edge of the log at a size from which on all leaves are here.
    pub(crate) fn opened_at(&self) -> &Frontier {
        &self.base
    }

    /// Whether an update at a position counted.
    pub(crate) fn counts(&self, seq: u64) -> bool {
        self.counted.contains(&seq)
    }

    /// Head of the first `size` records, where all of these are here.
    pub(crate) fn head_at(&self, size: u64) -> Option<Head> {
        let count = usize::try_from(size).ok().filter(|_| self.first == 0)?;
        let mut frontier = Frontier::new();
        for item in self.items.get(..count)? {
            frontier.push(item.leaf());
        }
        Some(frontier.head())
    }

    /// Head of the log that all of it leads to.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// What is here from a position on, in order and without gaps. `None` where that position is not here.
    #[must_use]
    pub fn since(&self, seq: u64) -> Option<&[KeptItem]> {
        let skip = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.items.get(skip..)
    }

    /// Whether what is listed as kept is there, and nothing else: for tests, after each step. Gives what former eras take, too, in bytes.
    ///
    /// # Errors
    /// What speaks against it.
    #[doc(hidden)]
    pub fn check(rows: &Rows) -> Result<(Self, u64), String> {
        let this = Self::read(rows).map_err(|error| format!("{error:?}"))?;
        let listed = Sorted::read(rows.clone())
            .map_err(|error| format!("{error:?}"))?
            .kept;
        let present = era_prefix(listed.from);
        let mut known: std::collections::BTreeSet<Vec<u8>> =
            listed.eras.iter().flat_map(Era::keys).collect();
        let here = listed.snapshots.iter();
        known.extend(here.map(|(seq, _)| numbered(b'v', *seq)));
        for (key, _) in rows.iter().filter(|(key, _)| is_kept(key)) {
            let is_known = known.remove(key) || key.starts_with(&present) || key.starts_with(b"f");
            if !is_known {
                return Err(format!("not listed: {key:?}"));
            }
        }
        if !known.is_empty() {
            return Err(format!("not there: {known:?}"));
        }
        let size = |key: &Vec<u8>| {
            let found = rows.iter().find(|(of, _)| of == key);
            found.map_or(0, |(_, value)| value.len() as u64)
        };
        for era in &listed.eras {
            let bytes: u64 = era.keys().map(|key| size(&key)).sum();
            if bytes != era.bytes {
                return Err(format!("{bytes} bytes of {era:?}"));
            }
        }
        Ok((this, listed.eras.iter().map(|era| era.bytes).sum()))
    }
}

fn read_record(bytes: &Bytes) -> Result<Record, DocError> {
    Ok(decode(
        "record",
        bytes.as_slice(),
        2 * limits::UPDATE_BYTES,
    )?)
}

pub(crate) fn read_snapshot(row: &[u8]) -> Result<Record, DocError> {
    Ok(decode("snapshot", row, 2 * limits::SNAPSHOT_BYTES)?)
}

pub(crate) fn read_leaves(bytes: &[u8]) -> Result<Vec<Hash>, DocError> {
    let (leaves, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() {
        Ok(leaves.iter().copied().map(Hash).collect())
    } else {
        Err(malformed("leaves"))
    }
}

/// The longest run of leaves without gaps that ends at `end`. Where pieces overlap, they have to agree.
fn join(mut pieces: Vec<(u64, Vec<Hash>)>, end: u64) -> Result<(u64, Vec<Hash>), DocError> {
    pieces.retain(|(first, _)| *first <= end);
    pieces.sort_by_key(|(first, leaves)| (*first, leaves.len()));
    let (mut begin, mut run): (u64, Vec<Hash>) = (0, Vec::new());
    for (first, leaves) in pieces {
        let here = begin.saturating_add(run.len() as u64);
        if first > here {
            (begin, run) = (first, leaves);
            continue;
        }
        let skip = usize::try_from(first.saturating_sub(begin)).unwrap_or(usize::MAX);
        let known = run.get(skip..).unwrap_or_default();
        if known.iter().zip(&leaves).any(|(a, b)| a != b) {
            return Err(malformed("leaves"));
        }
        let more = leaves.get(known.len()..).unwrap_or_default();
        run.extend_from_slice(more);
    }
    let count = usize::try_from(end.saturating_sub(begin)).unwrap_or(usize::MAX);
    if run.len() < count {
        return Err(malformed("leaves"));
    }
    run.truncate(count);
    Ok((begin, run))
}

/// Head over leaves from `first` on, of a log that has `base` as one of its prefixes.
fn head_over(base: &Frontier, first: u64, leaves: &[Hash]) -> Result<Head, DocError> {
    let skip = base.size().checked_sub(first);
    let skip = skip.and_then(|skip| usize::try_from(skip).ok());
    let (below, after) = skip
        .and_then(|skip| leaves.split_at_checked(skip))
        .ok_or(malformed("leaves"))?;
    if first == 0 {
        let mut shown = Frontier::new();
        below.iter().for_each(|leaf| shown.push(*leaf));
        if shown != *base {
            return Err(malformed("leaves"));
        }
    }
    let mut frontier = base.clone();
    after.iter().for_each(|leaf| frontier.push(*leaf));
    Ok(frontier.head())
}

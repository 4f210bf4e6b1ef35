//! Reading the rows that [`Document::take_changes`](crate::Document::take_changes) wrote.

use std::collections::BTreeMap;

use conclave_crdt::ReplicaId;
use conclave_mls::Rows;
use conclave_proto::codec::{Bytes, DecodeError, decode};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{Record, RecordBody};
use conclave_proto::{Author, DocumentId, GroupId, Hash, limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::aside::StoredAside;
use crate::checks::{Ground, OwnWord};
use crate::content::{Idle, Plain};
use crate::error::DocError;
use crate::incoming::Form;
use crate::kept::{KeptRow, is_kept, read_leaves};
use crate::outbox::{OutItem, Own};
use crate::payload::CarriedPayload;
use crate::seal::{KeyRing, open_with};
use crate::state::{Effect, LogState, News};

pub(crate) const ROW_VERSION: u16 = 7;

#[derive(Serialize, Deserialize)]
pub(crate) struct CheckpointRow {
    pub version: u16,
    pub group: GroupId,
    pub document: DocumentId,
    pub kind: u8,
    /// Where the view of the log begins; the leaves after it are in rows of their own.
    pub base: Frontier,
    /// Records that the state covers.
    pub size: u64,
    pub state: LogState,
    pub crdt: Plain,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct MetaRow {
    pub version: u16,
    pub author: Author,
    pub ground: Ground,
    #[serde(default)]
    pub checks: OwnWord,
    pub caught_up_epoch: u64,
    #[serde(default)]
    pub behind: bool,
    #[serde(default)]
    pub aside: StoredAside,
}

/// A [`SegmentEntry`] on its way into its row.
#[derive(Serialize)]
pub(crate) struct SegmentEntryOf<'a> {
    pub effect: &'a Effect,
    pub record: Option<Bytes>,
    pub read: bool,
}

#[derive(Deserialize)]
pub(crate) struct SegmentEntry {
    pub effect: Effect,
    /// The record as received, but for a snapshot, which has a row of its own, and for what came by its leaf only.
    pub record: Option<Bytes>,
    /// Whether what is in it was read, and counts or may come to count.
    pub read: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct OutRow {
    pub version: u16,
    pub what: Own,
    pub plain: Plain,
    pub replicas: Vec<ReplicaId>,
    pub sealed: Option<Bytes>,
}

pub(crate) fn uncbor<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DocError> {
    ciborium::from_reader(bytes).map_err(|_| DocError::Stored(DecodeError::Malformed { what }))
}

pub(crate) fn malformed(what: &'static str) -> DocError {
    DocError::Stored(DecodeError::Malformed { what })
}

/// Rows by kind.
pub(crate) struct Sorted {
    pub checkpoint: CheckpointRow,
    pub meta: MetaRow,
    pub kept: KeptRow,
    pub snapshot: Option<Record>,
    pub leaves: BTreeMap<u64, Vec<Hash>>,
    pub segments: BTreeMap<u64, Zeroizing<Vec<u8>>>,
    pub corrections: BTreeMap<u64, Effect>,
    pub outbox: Vec<OutItem>,
    pub drafts: Vec<OutItem>,
    pub lost: Vec<(u64, CarriedPayload)>,
    pub waiting: Vec<(u64, Form)>,
}

impl Sorted {
    pub(crate) fn read(mut rows: Rows) -> Result<Self, DocError> {
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut checkpoint, mut meta, mut snapshot, mut kept) = (None, None, None, None);
        let (mut segments, mut outbox, mut waiting) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (mut corrections, mut leaves) = (BTreeMap::new(), BTreeMap::new());
        let (mut segments_of, mut lost, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
        for (key, value) in rows {
            let Some((prefix, rest)) = key.split_first() else {
                return Err(malformed("row"));
            };
            let number = rest.try_into().map(u64::from_be_bytes);
            match (prefix, number) {
                (b'c', _) => checkpoint = Some(uncbor::<CheckpointRow>("checkpoint", &value)?),
                (b'm', _) => meta = Some(uncbor::<MetaRow>("document", &value)?),
                (b'p', _) => {
                    snapshot = Some(decode("snapshot", &value, 2 * limits::SNAPSHOT_BYTES)?)
                }
                (b'l', Ok(first)) => {
                    leaves.insert(first, read_leaves(&value)?);
                }
                (b'i', _) => kept = Some(uncbor::<KeptRow>("kept records", &value)?),
                (b'k', _) => segments_of.push((rest.to_vec(), value)),
                // Of no use for opening it.
                _ if is_kept(&key) => {}
                (b'e', Ok(seq)) => {
                    corrections.insert(seq, uncbor("record", &value)?);
                }
                (b'o', Ok(number)) => outbox.push(read_item(number, &value)?),
                (b'q', Ok(number)) => drafts.push(read_item(number, &value)?),
                (b'z', Ok(number)) => lost.push((number, read_lost(&value)?)),
                (b'w', Ok(seq)) => waiting.push((
                    seq,
                    decode("waiting record", &value, 2 * limits::SNAPSHOT_BYTES)?,
                )),
                _ => return Err(malformed("row")),
            }
        }
        let checkpoint = checkpoint.ok_or(malformed("checkpoint"))?;
        let meta = meta.ok_or(malformed("document"))?;
        let kept = kept.ok_or(malformed("kept records"))?;
        let versions = [checkpoint.version, meta.version, kept.version];
        if versions != [ROW_VERSION; 3] {
            return Err(malformed("document"));
        }
        if kept.from != checkpoint.size {
            return Err(malformed("kept records"));
        }
        // Those of former eras may be among them.
        let present = kept.from.to_be_bytes();
        for (rest, value) in segments_of {
            if let Some(first) = rest.strip_prefix(present.as_slice()) {
                let first = first.try_into().map_err(|_| malformed("segment"))?;
                segments.insert(u64::from_be_bytes(first), value);
            }
        }
        Ok(Self {
            checkpoint,
            meta,
            kept,
            snapshot,
            leaves,
            segments,
            corrections,
            outbox,
            drafts,
            lost,
            waiting,
        })
    }
}

pub(crate) fn read_item(number: u64, value: &[u8]) -> Result<OutItem, DocError> {
    let row: OutRow = uncbor("own record", value)?;
    if row.version != ROW_VERSION {
        return Err(malformed("own record"));
    }
    let sealed = match row.sealed {
        Some(bytes) => Some(decode(
            "own record",
            bytes.as_slice(),
            2 * limits::UPDATE_BYTES,
        )?),
        None => None,
    };
    let carries = match row.what {
        Own::Carried => Some(
            CarriedPayload::from_bytes(row.plain.as_slice())?
                .record
                .leaf(),
        ),
        _ => None,
    };
    Ok(OutItem {
        number,
        what: row.what,
        plain: row.plain,
        replicas: row.replicas,
        carries,
        sealed,
    })
}

fn read_lost(value: &[u8]) -> Result<CarriedPayload, DocError> {
    let what = "lost update";
    let (version, payload) = value.split_first_chunk::<2>().ok_or(malformed(what))?;
    if u16::from_be_bytes(*version) != ROW_VERSION {
        return Err(malformed(what));
    }
    Ok(CarriedPayload::from_bytes(payload)?)
}

pub(crate) fn read_segment(bytes: &[u8]) -> Result<Vec<SegmentEntry>, DocError> {
    let what = "segment";
    let (version, mut rest) = bytes.split_first_chunk::<2>().ok_or(malformed(what))?;
    if u16::from_be_bytes(*version) != ROW_VERSION {
        return Err(malformed(what));
    }
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(malformed(what))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let (entry, after) = after.split_at_checked(length).ok_or(malformed(what))?;
        entries.push(uncbor(what, entry)?);
        rest = after;
    }
    Ok(entries)
}

/// A stored record that was not applied.
pub(crate) fn read_idle(entry: &SegmentEntry) -> Result<Option<Idle>, DocError> {
    let is_idle = matches!(entry.effect.news, News::None | News::Aside | News::Costly);
    let Some(bytes) = entry.record.as_ref().filter(|_| is_idle && entry.read) else {
        return Ok(None);
    };
    let record: Record = decode("record", bytes.as_slice(), 2 * limits::UPDATE_BYTES)?;
    Ok(Some(Idle::Sealed(Box::new(record))))
}

/// Opens the update of a stored record, which was judged when it came.
pub(crate) fn read_update(
    entry: &SegmentEntry,
    keys: &mut KeyRing<'_>,
) -> Result<Option<Plain>, DocError> {
    let Some(bytes) = entry
        .record
        .as_ref()
        .filter(|_| entry.effect.news == News::Update)
    else {
        return Ok(None);
    };
    let record: Record = decode("record", bytes.as_slice(), 2 * limits::UPDATE_BYTES)?;
    let epoch = record.header.epoch;
    let key = keys.get(epoch).ok_or(DocError::MissingRoot { epoch })?;
    let mut plain = key.open(&record).map_err(|_| malformed("record"))?;
    if matches!(record.header.body, RecordBody::Carried(_)) {
        let CarriedPayload { record, keys } = CarriedPayload::from_bytes(&plain)?;
        plain = open_with(&record, &keys).map_err(|_| malformed("record"))?;
    }
    Ok(Some(Plain::from(plain)))
}

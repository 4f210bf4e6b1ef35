//! Records, and what is appended of them, that nobody had to sign.

use std::sync::Arc;

use bytes::Bytes;
use conclave_order::Op;
use conclave_order::op::append::{Append, Cover, Frame, FrameRecord, Offer};
use conclave_order::op::snapshot::{PutSnapshot, Written};
use conclave_order::rows::{ActiveRow, RecordKind};
use conclave_proto::codec::encode;
use conclave_proto::merkle::empty_root;
use conclave_proto::policy::Role;
use conclave_proto::record::{
    Chained, RECORD_VERSION, Record, RecordBody, RecordHeader, Sealed, SnapshotHeader,
};
use conclave_proto::{Author, Hash, Head, InstanceId, UnixMs};
use conclave_rules::{LogId, RosterRow, RowCause, Seen};

use crate::ids::{device, user_of};
use crate::world::START;

/// Code of the documents' CRDT kind.
pub(crate) const CRDT: u8 = 1;

pub(crate) fn sealed(tag: u8, bytes: usize) -> Sealed {
    Sealed {
        nonce: [tag; 24],
        ciphertext: vec![tag; bytes].into(),
        tag: [tag; 16],
        commitment: [tag; 32],
        signature: [tag; 64],
    }
}

/// Updates in a row from a place in their author's chain.
#[must_use]
pub fn updates(
    log: LogId,
    author: Author,
    epoch: u64,
    (first_clock, prev): (u64, Hash),
    count: u64,
) -> Op {
    let mut last = prev;
    let clocks = first_clock..first_clock.saturating_add(count);
    let records = clocks.map(|clock| {
        let record = update(log, author, epoch, clock, last);
        last = record.leaf();
        record
    });
    let records: Vec<Record> = records.collect();
    append((log, author, epoch), (first_clock, prev), &records)
}

/// Records of one author in a frame, from a place in their chain.
#[must_use]
pub fn append(
    (log, author, epoch): (LogId, Author, u64),
    (first_clock, prev): (u64, Hash),
    records: &[Record],
) -> Op {
    let frame = Frame {
        epoch,
        prev,
        covered: 0,
        named: Head::EMPTY,
        records: records.iter().map(frame_record).collect(),
    };
    Op::Append(Append {
        log,
        author,
        first_clock,
        offer: Offer::Frame(Arc::new(frame), Cover::Own),
    })
}

/// An update as its author wrote it.
#[must_use]
pub fn update(log: LogId, author: Author, epoch: u64, clock: u64, prev: Hash) -> Record {
    let body = RecordBody::Update(Chained { clock, prev });
    chained(log, author, epoch, body)
}

/// A record in its author's chain.
#[must_use]
pub fn chained(log: LogId, author: Author, epoch: u64, body: RecordBody) -> Record {
    let clock = body.chained().map_or(0, |chained| chained.clock);
    let header = RecordHeader {
        version: RECORD_VERSION,
        group: log.group,
        document: log.document,
        epoch,
        author,
        seen: Head::EMPTY,
        body,
    };
    let tag = clock.to_be_bytes().last().copied().unwrap_or_default();
    Record {
        header,
        sealed: sealed(tag, 20),
    }
}

pub(crate) fn snapshot_record(
    log: LogId,
    by: u8,
    epoch: u64,
    header: SnapshotHeader,
    seen: Head,
) -> Record {
    Record {
        header: RecordHeader {
            version: RECORD_VERSION,
            group: log.group,
            document: log.document,
            epoch,
            author: Author {
                device: device(by),
                instance: InstanceId([0; 8]),
            },
            seen,
            body: RecordBody::Snapshot(header),
        },
        sealed: sealed(by, 60),
    }
}

/// A snapshot that follows another one.
#[must_use]
pub fn snapshot(
    log: LogId,
    by: u8,
    epoch: u64,
    before: &ActiveRow,
    covered: Head,
    now: UnixMs,
) -> Op {
    let parent = before.snapshot().unwrap_or(SnapshotHeader {
        parent: Hash::ZERO,
        chain_proof: Hash::ZERO,
        covered: Head::EMPTY,
        crdt: CRDT,
    });
    let header = SnapshotHeader {
        parent: before.id,
        chain_proof: parent.successor_proof(&before.id),
        covered,
        crdt: CRDT,
    };
    let row = roster_row(by);
    let record = snapshot_record(log, by, epoch, header, covered);
    Op::PutSnapshot(Box::new(PutSnapshot {
        device: device(by),
        written: Written {
            row,
            seen: Seen::True,
        },
        record: Arc::new(record),
        paid: true,
        now,
    }))
}

/// A record as it comes in a frame.
#[must_use]
pub fn frame_record(record: &Record) -> FrameRecord {
    let sealed = Bytes::from(encode(&record.sealed));
    FrameRecord {
        kind: RecordKind::of(record.header.body.kind_code()).unwrap_or(RecordKind::Update),
        seen: 0,
        hint: empty_root().0.first_chunk().copied().unwrap_or_default(),
        leaf: record.leaf(),
        bytes: sealed.len() as u64,
        sealed,
        late: None,
    }
}

/// A device's row in a group that began with it.
#[must_use]
pub fn roster_row(of: u8) -> RosterRow {
    RosterRow {
        device: device(of),
        user: user_of(of),
        credential_type: 1,
        credential: Vec::new().into(),
        key: vec![of; 32].into(),
        scheme: conclave_identity::SCHEME_ED25519,
        role: Role::Owner,
        first_epoch: 0,
        last_epoch: None,
        time: START,
        cause: RowCause::Own,
    }
}

//! A document's log as its members have it, each record signed by who wrote it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use conclave_doc::{DocKeys, seal};
use conclave_order::op::snapshot::{PutSnapshot, Written};
use conclave_order::{Event, Op};
use conclave_proto::frame::{BaseNode, DocumentBase};
use conclave_proto::merkle::{Leaves, NodeSource as _, consistency_nodes, root_of};
use conclave_proto::record::{Chained, RECORD_VERSION, RecordHeader, SnapshotHeader};
use conclave_proto::{
    Author, DocumentId, Frontier, Hash, Head, InstanceId, Record, RecordBody, Refusal,
};
use conclave_rules::Seen;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::lost::{Club, GROUP, INSTANCE};
use crate::database::Database;
use crate::ids::some_hash;
use crate::members::NOW;
use crate::records::CRDT;

const ONE: DocumentId = DocumentId([1; 16]);

/// The log of the document as its members have it.
pub(super) struct Story {
    pub(super) records: Vec<Record>,
    pub(super) chains: BTreeMap<Author, Chained>,
    rng: ChaCha20Rng,
}

impl Story {
    pub(super) fn begun(first: Record) -> Self {
        Self {
            records: vec![first],
            chains: BTreeMap::new(),
            rng: ChaCha20Rng::seed_from_u64(3),
        }
    }

    /// Back to its first records.
    pub(super) fn truncate(&mut self, size: u64) -> Result<()> {
        let records = std::mem::take(&mut self.records);
        self.chains.clear();
        let kept = records.into_iter().take(usize::try_from(size)?);
        kept.for_each(|record| self.place(record));
        Ok(())
    }

    pub(super) fn leaves(&self) -> Vec<Hash> {
        self.records.iter().map(Record::leaf).collect()
    }

    pub(super) fn head(&self, size: u64) -> Result<Head> {
        let leaves = self.leaves();
        let root = root_of(leaves.get(..usize::try_from(size)?).context("shorter")?);
        Ok(Head { size, root })
    }

    pub(super) fn since(&self, seq: u64) -> Result<&[Record]> {
        self.records.get(usize::try_from(seq)?..).context("shorter")
    }

    /// A record by a member who has seen so much, which has no place yet.
    pub(super) fn write<D: Database>(
        &mut self,
        club: &Club<D>,
        (by, instance): (usize, InstanceId),
        seen: u64,
        body: impl FnOnce(Option<Chained>) -> RecordBody,
    ) -> Result<Record> {
        let seat = club.seat(by)?;
        let device = seat.member.device;
        let author = Author { device, instance };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: GROUP,
            document: ONE,
            epoch: seat.group()?.epoch(),
            author,
            seen: self.head(seen)?,
            body: body(self.chains.get(&author).copied()),
        };
        let keys = DocKeys::derive(&seat.secrets()?.root, &ONE);
        let rng = &mut self.rng;
        Ok(seal(&header, b"words", &keys, &seat.member.key, 1, rng))
    }

    pub(super) fn place(&mut self, record: Record) {
        if let Some(chained) = record.header.body.chained() {
            let next = Chained {
                clock: chained.clock + 1,
                prev: record.leaf(),
            };
            self.chains.insert(record.header.author, next);
        }
        self.records.push(record);
    }

    pub(super) fn update<D: Database>(
        &mut self,
        club: &Club<D>,
        by: usize,
        seen: u64,
    ) -> Result<Record> {
        self.update_of(club, (by, INSTANCE), seen)
    }

    pub(super) fn update_of<D: Database>(
        &mut self,
        club: &Club<D>,
        by: (usize, InstanceId),
        seen: u64,
    ) -> Result<Record> {
        let begins = Chained {
            clock: 0,
            prev: Hash::ZERO,
        };
        let body = |chain: Option<Chained>| RecordBody::Update(chain.unwrap_or(begins));
        self.write(club, by, seen, body)
    }

    /// A snapshot that follows another, or the first that is here.
    pub(super) fn snapshot<D: Database>(
        &mut self,
        club: &Club<D>,
        by: usize,
        after: Option<&Record>,
        covered: u64,
    ) -> Result<Record> {
        let (parent, chain_proof) = match after.map(|record| (record.leaf(), record.header.body)) {
            Some((id, RecordBody::Snapshot(header))) => (id, header.successor_proof(&id)),
            _ => (some_hash(8), some_hash(9)),
        };
        let header = SnapshotHeader {
            parent,
            chain_proof,
            covered: self.head(covered)?,
            crdt: CRDT,
        };
        let seen = self.records.len() as u64;
        self.write(club, (by, INSTANCE), seen, |_| RecordBody::Snapshot(header))
    }

    /// What shows that the log had these sizes before it came to `BASE`.
    pub(super) fn base(&self, size: u64, shows: &[u64]) -> Result<DocumentBase> {
        let leaves = self.leaves();
        let mut frontier = Frontier::new();
        let below = leaves.get(..usize::try_from(size)?).context("shorter")?;
        below.iter().for_each(|leaf| frontier.push(*leaf));
        let mut nodes = BTreeMap::new();
        for shown in shows {
            for node in consistency_nodes(*shown, size)? {
                let hash = Leaves(below).node(node.level, node.index);
                nodes.insert((node.level, node.index), hash.context("no node")?);
            }
        }
        // Those are in the right edge.
        nodes.retain(|_, hash| !frontier.nodes().contains(hash));
        let nodes = nodes.into_iter().map(|((level, index), hash)| BaseNode {
            level: level as u8,
            index,
            hash,
        });
        Ok(DocumentBase {
            nodes: nodes.collect(),
            frontier,
        })
    }
}

/// Puts a snapshot of a member to the service that has been wiped.
pub(super) async fn put<D: Database>(
    club: &mut Club<D>,
    record: &Record,
) -> Result<Result<(), Refusal>> {
    let device = record.header.author.device;
    let core = club.lost.core().await?;
    let row = core.state.state().row(&device, record.header.epoch);
    let op = PutSnapshot {
        device,
        written: Written {
            row: row.cloned().context("no row")?,
            seen: Seen::True,
        },
        record: Arc::new(record.clone()),
        paid: true,
        now: NOW,
    };
    match club.lost.run(Op::PutSnapshot(Box::new(op))).await? {
        Event::Snapshot(_) => Ok(Ok(())),
        Event::Refused(refusal) => Ok(Err(refusal)),
        event => bail!("{event:?}"),
    }
}

//! A document's log, put together from what was sent and accepted.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use conclave_proto::frame::{AppendedRecord, DeliveredRecord, ElidedRecord};
use conclave_proto::merkle::verify_consistency;
use conclave_proto::record::{Chained, RECORD_VERSION, RecordBody, RecordHeader};
use conclave_proto::{
    Author, DeviceId, DocumentId, Frontier, GroupId, Hash, Head, InstanceId, Record,
};

/// A log.
#[derive(Default)]
pub(super) struct Log {
    records: Vec<Record>,
    frontier: Frontier,
    /// Of all sizes but 0.
    heads: Vec<Head>,
    /// Next clock and last record of each author.
    chains: BTreeMap<Author, (u64, Hash)>,
}

/// An open document of somebody's.
#[derive(Clone)]
pub(super) struct Sink {
    pub(super) document: DocumentId,
    /// As whom they write.
    pub(super) author: Author,
    /// Authors by their numbers.
    pub(super) authors: Vec<Author>,
}

impl Sink {
    /// A document of which whole records alone come.
    pub(super) fn of(document: DocumentId) -> Self {
        Self {
            document,
            author: Author {
                device: DeviceId::ZERO,
                instance: InstanceId::ZERO,
            },
            authors: Vec::new(),
        }
    }
}

/// A frame that was sent.
pub(super) struct Sent {
    pub(super) epoch: u64,
    pub(super) first_clock: u64,
    pub(super) records: Vec<AppendedRecord>,
}

impl Log {
    pub(super) fn size(&self) -> u64 {
        self.frontier.size()
    }

    pub(super) fn head(&self) -> Head {
        self.frontier.head()
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn at(&self, seq: u64) -> Result<&Record> {
        let record = self.records.get(usize::try_from(seq)?);
        record.with_context(|| format!("nothing at {seq}"))
    }

    /// Its head when it had this size.
    pub(super) fn head_at(&self, size: u64) -> Result<Head> {
        let Some(before) = size.checked_sub(1) else {
            return Ok(Head::EMPTY);
        };
        let head = self.heads.get(usize::try_from(before)?);
        head.copied().with_context(|| format!("no size {size}"))
    }

    /// A whole record at the end.
    pub(super) fn push(&mut self, record: Record) -> Result<()> {
        let seen = record.header.seen;
        ensure!(self.head_at(seen.size)? == seen, "it has seen another log");
        if let Some(place) = record.header.body.chained() {
            let next = place.clock.checked_add(1).context("no clock is left")?;
            self.chains
                .insert(record.header.author, (next, record.leaf()));
        }
        self.frontier.push(record.leaf());
        self.heads.push(self.frontier.head());
        self.records.push(record);
        Ok(())
    }

    fn place(&self, author: &Author) -> Chained {
        let (clock, prev) = self.chains.get(author).copied().unwrap_or((0, Hash::ZERO));
        Chained { clock, prev }
    }

    /// Takes a frame's records: what was left out is filled in (section 14.3). Gives the author's next clock.
    pub(super) fn append(&mut self, group: GroupId, sink: &Sink, sent: Sent) -> Result<u64> {
        ensure!(
            self.place(&sink.author).clock == sent.first_clock,
            "another clock"
        );
        for record in sent.records {
            let place = self.place(&sink.author);
            let seen = self.head_at(record.seen_size.0)?;
            ensure!(seen.root.0.starts_with(&record.seen_hint), "another hint");
            let header = RecordHeader {
                version: RECORD_VERSION,
                group,
                document: sink.document,
                epoch: sent.epoch,
                author: sink.author,
                seen,
                body: record.body(place).context("no chained record")?,
            };
            let sealed = record.sealed;
            self.push(Record { header, sealed })?;
        }
        Ok(self.place(&sink.author).clock)
    }

    /// What was delivered is what is in the log. Gives how many records were filled in.
    pub(super) fn check(
        &self,
        sink: &Sink,
        first: u64,
        records: &[DeliveredRecord],
    ) -> Result<usize> {
        let mut elided = 0;
        for (seq, record) in (first..).zip(records) {
            let known = self.at(seq)?;
            match record {
                DeliveredRecord::Update(of)
                | DeliveredRecord::Verdict(of)
                | DeliveredRecord::Carried(of) => {
                    let code = match record {
                        DeliveredRecord::Update(_) => 1,
                        DeliveredRecord::Verdict(_) => 2,
                        _ => 7,
                    };
                    self.fits(sink, seq, code, of, known)?;
                    elided += 1;
                }
                DeliveredRecord::Whole { record, proof } => {
                    ensure!(record == known, "another record at {seq}");
                    self.shows(&record.header.seen, proof)?;
                }
                DeliveredRecord::Leaf(leaf) => ensure!(*leaf == known.leaf(), "another leaf"),
            }
        }
        Ok(elided)
    }

    /// An elided record, filled in, is the one in the log.
    fn fits(
        &self,
        sink: &Sink,
        seq: u64,
        code: u8,
        of: &ElidedRecord,
        known: &Record,
    ) -> Result<()> {
        let number = usize::try_from(of.author.0)?;
        let author = *sink.authors.get(number).context("no such author")?;
        let seen = seq
            .checked_sub(of.seen_back.0)
            .context("seen before the log")?;
        let seen = self.head_at(seen)?;
        ensure!(seen.root.0.starts_with(&of.seen_hint), "another hint");
        let before = self.records.iter().take(usize::try_from(seq)?);
        let mut last =
            before.filter(|it| it.header.author == author && it.header.body.chained().is_some());
        let place = match last.next_back() {
            Some(last) => Chained {
                clock: last.header.body.chained().map_or(0, |it| it.clock) + 1,
                prev: last.leaf(),
            },
            None => Chained {
                clock: 0,
                prev: Hash::ZERO,
            },
        };
        let filled = Record {
            header: RecordHeader {
                version: RECORD_VERSION,
                group: known.header.group,
                document: sink.document,
                epoch: of.epoch.0,
                author,
                seen,
                body: RecordBody::of_chained(code, place).context("no chained record")?,
            },
            sealed: of.sealed.clone(),
        };
        ensure!(filled == *known, "another record at {seq}");
        Ok(())
    }

    /// A proof leads from what a record has seen to some size of the log.
    fn shows(&self, seen: &Head, proof: &[Hash]) -> Result<()> {
        let leads = |head: &Head| verify_consistency(seen, head, proof).is_ok();
        let found = proof.is_empty() || self.heads.iter().any(leads);
        ensure!(found, "a proof that leads nowhere");
        Ok(())
    }
}

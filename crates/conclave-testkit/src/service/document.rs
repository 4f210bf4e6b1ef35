//! Documents: opening, appending, snapshots, and what listeners get of them.

use std::sync::Arc;

use conclave_order::op::append::{self, Append, Arrived, View};
use conclave_order::op::snapshot::{PutSnapshot, Written, check};
use conclave_order::query::document::{
    Base, Gathered, Stretch, base, ensure_readable, whole_records,
};
use conclave_order::rows::{ActiveRow, DocumentRow};
use conclave_order::{Asker, Bounds, Event, Failure, Op, Proofs, Reader as _, Rows, Stop};
use conclave_proto::codec::{Varint, decode};
use conclave_proto::frame::{Answer, OpenedDocument, ServiceFrame};
use conclave_proto::merkle::empty_root;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, Hash, InstanceId, Record, Refusal, limits};
use conclave_rules::{LogId, Place, Seen};

use super::ConnId;
use super::desk::{Channel, Desk};
use crate::rows::ready;

/// What somebody is told who is stopped.
pub(super) fn refusal(stop: Stop) -> Refusal {
    match stop {
        Stop::Refused(refusal) => refusal,
        _ => Refusal::Storage,
    }
}

fn failed(_: Failure) -> Refusal {
    Refusal::Storage
}

impl Desk {
    /// Where a document of a member's group stands.
    fn document(&mut self, by: Asker, log: LogId) -> Result<(DocumentRow, ActiveRow), Refusal> {
        let core = self.joined(log.group, by)?;
        self.keep(core);
        self.stands(log)
    }

    /// Where a document stands.
    pub(super) fn stands(&self, log: LogId) -> Result<(DocumentRow, ActiveRow), Refusal> {
        let mut rows = self.load(|keys| {
            keys.documents.insert(log);
            keys.actives.insert(log);
        })?;
        let row = rows.documents.remove(&log).flatten();
        let active = rows.actives.remove(&log).flatten();
        row.zip(active).ok_or(Refusal::UnknownDocument)
    }

    /// An author's next clock and last leaf; none where it has written nothing.
    fn chain(&self, log: LogId, author: Author) -> Result<Option<(u64, Hash)>, Refusal> {
        let key = (log, author);
        let rows = self.load(|keys| _ = keys.authors.insert(key))?;
        let row = rows.authors.get(&key).copied().flatten();
        Ok(row.map(|row| (row.next_clock, row.last_leaf)))
    }

    /// Number of a document's channel on every connection.
    fn number(&mut self, log: LogId) -> u64 {
        let known = self.numbers.iter().position(|other| *other == log);
        let number = known.unwrap_or_else(|| {
            self.numbers.push(log);
            self.numbers.len() - 1
        });
        number as u64
    }

    pub(super) fn open(
        &mut self,
        conn: ConnId,
        by: Asker,
        id: Varint,
        (log, instance): (LogId, InstanceId),
        from: Option<u64>,
    ) -> Result<(), Refusal> {
        let (row, active) = self.document(by, log)?;
        ensure_readable(Some(&row))?;
        let author = Author {
            device: by.device,
            instance,
        };
        let (own_next_clock, own_last) = self.chain(log, author)?.unwrap_or((0, Hash::ZERO));
        let began = from.is_none().then_some(Base {
            seq: active.seq,
            covered: row.covered,
        });
        let mut reads = self.store.clone();
        let base = began.map(|began| ready(base(&mut reads, &log, began.seq)));
        let head = row.frontier.head();
        let number = self.number(log);
        let opened = OpenedDocument {
            channel: Varint(number),
            head,
            // Whoever has more than the service is told how much the service has: nothing precedes what comes next.
            from: from.unwrap_or(row.covered).min(head.size),
            base: base.transpose().map_err(failed)?,
            authors: ready(reads.authors(&log)).map_err(failed)?,
            own_next_clock,
            own_last,
        };
        let channel = Channel {
            log,
            author,
            base: began,
        };
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.channels.insert(number, channel);
        }
        let from = opened.from;
        let answer = Answer::Opened(opened);
        self.push(conn, ServiceFrame::Response { id, answer });
        self.deliver(conn, (number, channel), from, head.size)
    }

    /// Sends a stretch of a log.
    fn deliver(
        &mut self,
        conn: ConnId,
        (number, channel): (u64, Channel),
        from: u64,
        end: u64,
    ) -> Result<(), Refusal> {
        let bounds = Bounds {
            from,
            end,
            bytes: usize::MAX,
        };
        let mut reads = self.store.clone();
        let rows = ready(reads.records(&channel.log, bounds)).map_err(failed)?;
        let mut gathered = Gathered::new(number, from);
        let mut proofs = Proofs::default();
        let to = (channel.log, channel.base);
        let mut frames = Vec::new();
        for row in rows {
            ready(gathered.put(&mut reads, to, &row, &mut proofs)).map_err(failed)?;
            if gathered.count() >= limits::RECORDS_PER_FRAME {
                frames.extend(gathered.take(row.seq.saturating_add(1)));
            }
        }
        frames.extend(gathered.take(end));
        for frame in frames {
            let frame = decode("frame", &frame, usize::MAX).map_err(|_| Refusal::Storage)?;
            self.push(conn, frame);
        }
        Ok(())
    }

    /// Shows records to all who have the document open; where they came from, something else or nothing in their place.
    fn publish(
        &mut self,
        log: LogId,
        (from, end): (u64, u64),
        own: Option<(ConnId, Option<ServiceFrame>)>,
        author: Option<Author>,
    ) -> Result<(), Refusal> {
        let number = self.number(log);
        let mut listeners = Vec::new();
        for (id, conn) in &self.conns {
            let channel = conn.channels.get(&number).copied();
            listeners.extend(channel.map(|channel| (*id, channel)));
        }
        for (conn, channel) in listeners {
            if let Some(author) = author {
                let channel = Varint(number);
                self.push(conn, ServiceFrame::NewAuthor { channel, author });
            }
            match &own {
                Some((own, Some(frame))) if *own == conn => self.push(conn, frame.clone()),
                Some((own, None)) if *own == conn => {}
                _ => self.deliver(conn, (number, channel), from, end)?,
            }
        }
        Ok(())
    }

    pub(super) fn append(&mut self, conn: ConnId, number: u64, arrived: &Arrived) {
        let open = self.conns.get(&conn);
        let channel = open.and_then(|conn| conn.channels.get(&number).copied());
        let appended = channel.ok_or(Refusal::NoChannel).and_then(|channel| {
            let Channel { log, author, .. } = channel;
            self.append_for(log, author, arrived, Some(conn))
        });
        if let Err(refusal) = appended {
            let refused = ServiceFrame::AppendRefused {
                channel: Varint(number),
                first_clock: Varint(arrived.first_clock),
                refusal,
            };
            self.push(conn, refused);
        }
    }

    /// Orders a frame of an author, and shows it to all who have the document open. `from` gets an acknowledgement in its place.
    pub(super) fn append_for(
        &mut self,
        log: LogId,
        author: Author,
        arrived: &Arrived,
        from: Option<ConnId>,
    ) -> Result<(), Refusal> {
        let chain = self.chain(log, author)?;
        let offer = self.judge(log, author, chain, arrived)?;
        let op = Append {
            log,
            author,
            first_clock: arrived.first_clock,
            offer,
        };
        let placed = match self.run(Op::Append(op))? {
            Event::Records(placed) => placed,
            Event::RecordsRefused { refusal, .. } => return Err(refusal),
            _ => return Err(Refusal::Storage),
        };
        let count = placed.roots.len() as u64;
        let ack = ServiceFrame::Ack {
            channel: Varint(self.number(log)),
            next_clock: Varint(placed.next_clock),
            first_seq: Varint(placed.first_seq),
            count: Varint(count),
        };
        let fresh = chain.is_none().then_some(author);
        let stretch = (placed.first_seq, placed.first_seq.saturating_add(count));
        self.publish(log, stretch, from.map(|from| (from, Some(ack))), fresh)
    }

    fn judge(
        &mut self,
        log: LogId,
        author: Author,
        chain: Option<(u64, Hash)>,
        arrived: &Arrived,
    ) -> Result<append::Offer, Refusal> {
        let (row, _) = self.stands(log)?;
        let core = self.core(log.group)?;
        let mut rows = Rows::default();
        let judged = loop {
            let view = View {
                authority: core.state.state(),
                log,
                author,
                chain: chain.unwrap_or((0, Hash::ZERO)),
                size: row.frontier.size(),
                covered: row.covered,
                roots: &|_| None,
                rows: &rows,
                singly: true,
            };
            match append::judge(arrived, &view) {
                Err(Stop::Lacks(keys)) => {
                    let newer = ready(self.store.clone().load(&keys)).map_err(failed)?;
                    rows.extend(newer);
                }
                judged => break judged,
            }
        };
        self.keep(core);
        judged.map_err(refusal)
    }

    pub(super) fn put_snapshot(
        &mut self,
        conn: ConnId,
        by: Asker,
        record: Record,
    ) -> Result<Answer, Refusal> {
        let header = record.header;
        let log = LogId {
            group: header.group,
            document: header.document,
        };
        let (row, _) = self.document(by, log)?;
        let id = (log, record.leaf());
        let rows = self.load(|keys| _ = keys.snapshots.insert(id))?;
        if let Some(at) = rows.snapshots.get(&id).copied().flatten() {
            let (seq, head) = (at.seq, at.head);
            return Ok(Answer::Accepted { seq, head });
        }
        let core = self.core(log.group)?;
        let at = Place::of_device(core.state.state(), &by.device, &header)?;
        check(&record, &at)?;
        let writer = at.row.cloned();
        let writer = writer.ok_or(at.answer(RecordFault::NotMember))?;
        self.keep(core);
        let root = self.root_at(log, &row, header.seen.size)?;
        let op = PutSnapshot {
            device: by.device,
            written: Written {
                row: writer,
                seen: Seen::known(root == Some(header.seen.root)),
            },
            record: Arc::new(record),
            // Nobody is paced here.
            paid: true,
            now: self.now,
        };
        match self.run(Op::PutSnapshot(Box::new(op)))? {
            Event::Known { seq, head } => Ok(Answer::Accepted { seq, head }),
            Event::Snapshot(placed) => {
                let (seq, head) = (placed.seq, placed.head);
                // The answer follows at once, in this record's place.
                self.publish(log, (seq, head.size), Some((conn, None)), None)?;
                Ok(Answer::Accepted { seq, head })
            }
            _ => Err(Refusal::Storage),
        }
    }

    /// The root of the first `size` records. None when there are fewer.
    pub(super) fn root_at(
        &self,
        log: LogId,
        row: &DocumentRow,
        size: u64,
    ) -> Result<Option<Hash>, Refusal> {
        if size > row.frontier.size() {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(empty_root()));
        }
        let key = (log, size);
        let rows = self.load(|keys| _ = keys.marks.insert(key))?;
        Ok(rows
            .marks
            .get(&key)
            .copied()
            .flatten()
            .map(|mark| mark.root))
    }

    pub(super) fn records(
        &mut self,
        conn: ConnId,
        by: Asker,
        log: LogId,
        from: u64,
        count: u32,
    ) -> Result<Answer, Refusal> {
        let (row, _) = self.document(by, log)?;
        ensure_readable(Some(&row))?;
        let number = self.number(log);
        let open = self.conns.get(&conn);
        let channel = open.and_then(|conn| conn.channels.get(&number).copied());
        let stretch = Stretch {
            log,
            base: channel.and_then(|channel| channel.base),
            from,
            end: row
                .frontier
                .size()
                .min(from.saturating_add(u64::from(count))),
            covered: row.covered,
            bytes: usize::MAX,
        };
        ready(whole_records(&mut self.store.clone(), stretch)).map_err(failed)
    }
}

//! Documents: who opens them, who hears of what comes to them.

use conclave_order::op::append::Arrived;
use conclave_order::query::document::ensure_readable;
use conclave_order::{Asker, Event};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{Answer, ServiceFrame};
use conclave_proto::{Author, InstanceId, Record, Refusal};
use conclave_rules::LogId;

use super::ConnId;
use super::desk::{Channel, Desk};
use super::log::Log;

impl Desk {
    /// The log of a document of a member's group.
    fn document(&mut self, by: Asker, id: LogId) -> Result<Log, Refusal> {
        let core = self.joined(id.group, by)?;
        self.keep(core);
        Ok(self.log(id))
    }

    /// As [`Desk::document`], of one whose content may be read.
    fn readable(&mut self, by: Asker, id: LogId) -> Result<Log, Refusal> {
        let log = self.document(by, id)?;
        ensure_readable(Some(&log.stands()?.0))?;
        Ok(log)
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
        let document = self.readable(by, log)?;
        let author = Author {
            device: by.device,
            instance,
        };
        let number = self.number(log);
        let (mut opened, base) = document.opened(number, author, from, &self.signing)?;
        opened.losses = self.losses(log)?;
        let channel = Channel { log, author, base };
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.channels.insert(number, channel);
        }
        let stretch = (opened.from, opened.head().size);
        let answer = Answer::Opened(opened);
        self.push(conn, ServiceFrame::Response { id, answer });
        self.deliver(conn, (number, channel), stretch)
    }

    /// Sends a stretch of a log.
    fn deliver(
        &mut self,
        conn: ConnId,
        (number, channel): (u64, Channel),
        stretch: (u64, u64),
    ) -> Result<(), Refusal> {
        let log = self.log(channel.log);
        for frame in log.delivered(number, channel.base, stretch)? {
            self.push(conn, frame);
        }
        Ok(())
    }

    /// Shows records to all who have the document open; where they came from, something else or nothing in their place.
    pub(super) fn publish(
        &mut self,
        log: LogId,
        stretch: (u64, u64),
        own: Option<(ConnId, Option<ServiceFrame>)>,
        fresh: &[Author],
    ) -> Result<(), Refusal> {
        // Before anything of it is acknowledged.
        self.grown(log);
        let number = self.number(log);
        let mut listeners = Vec::new();
        for (id, conn) in &self.conns {
            let channel = conn.channels.get(&number).copied();
            listeners.extend(channel.map(|channel| (*id, channel)));
        }
        for (conn, channel) in listeners {
            for author in fresh {
                let (channel, author) = (Varint(number), *author);
                self.push(conn, ServiceFrame::NewAuthor { channel, author });
            }
            match &own {
                Some((own, Some(frame))) if *own == conn => self.push(conn, frame.clone()),
                Some((own, None)) if *own == conn => {}
                _ => self.deliver(conn, (number, channel), stretch)?,
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
        let mut document = self.log(log);
        let fresh = document.author(author)?.is_none().then_some(author);
        let core = self.core(log.group)?;
        let placed = document.append(core.state.state(), author, arrived);
        self.keep(core);
        let placed = placed?;
        let count = placed.roots.len() as u64;
        let ack = ServiceFrame::Ack {
            channel: Varint(self.number(log)),
            next_clock: Varint(placed.next_clock),
            first_seq: Varint(placed.first_seq),
            count: Varint(count),
        };
        let stretch = (placed.first_seq, placed.first_seq.saturating_add(count));
        let own = from.map(|from| (from, Some(ack)));
        self.publish(log, stretch, own, fresh.as_slice())
    }

    pub(super) fn put_snapshot(
        &mut self,
        conn: ConnId,
        by: Asker,
        record: Record,
    ) -> Result<Answer, Refusal> {
        let (group, document) = (record.header.group, record.header.document);
        let log = LogId { group, document };
        let mut document = self.document(by, log)?;
        document.stands()?;
        let core = self.core(group)?;
        let put = document.put_snapshot(core.state.state(), by.device, record, self.now);
        self.keep(core);
        match put? {
            Event::Known { seq, head } => Ok(Answer::Accepted { seq, head }),
            Event::Snapshot(placed) => {
                let (seq, head) = (placed.seq, placed.head);
                // The answer follows at once, in this record's place.
                self.publish(log, (seq, head.size), Some((conn, None)), &[])?;
                Ok(Answer::Accepted { seq, head })
            }
            _ => Err(Refusal::Storage),
        }
    }

    pub(super) fn records(
        &mut self,
        conn: ConnId,
        by: Asker,
        log: LogId,
        from: u64,
        count: u32,
    ) -> Result<Answer, Refusal> {
        let document = self.readable(by, log)?;
        let number = self.number(log);
        let open = self.conns.get(&conn);
        let channel = open.and_then(|conn| conn.channels.get(&number));
        let base = channel.and_then(|channel| channel.base);
        document.whole(base, (from, from.saturating_add(u64::from(count))))
    }
}

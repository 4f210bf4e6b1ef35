//! Reading what is durable.

use conclave_proto::codec::decode;
use conclave_proto::merkle::empty_root;
use conclave_proto::record::{Chained, RECORD_VERSION, RecordBody, RecordHeader, Sealed};
use conclave_proto::{Author, GroupId, Hash, Head, Record};
use conclave_rules::LogId;

use crate::keys::{Keys, Rows};
use crate::memory::{Memory, Stored};
use crate::rows::{ActiveRow, DocumentRow, EntryKind, EntryRow, PleaRow, RecordKind, RecordRow};
use crate::store::{Bounds, Failure, Reader, WholeRecord};

const DAMAGED: Failure = Failure::Corrupt { what: "record" };

impl Reader for Memory {
    async fn load(&mut self, keys: &Keys) -> Result<Rows, Failure> {
        Ok(self.stored().load(keys))
    }

    async fn entries(&mut self, group: &GroupId, bounds: Bounds) -> Result<Vec<EntryRow>, Failure> {
        let stored = self.stored();
        let entries = stored.logs.entries.get(group);
        let first = stored.first_entry(group);
        let bounds = Bounds {
            from: bounds.from.saturating_sub(first),
            end: bounds.end.saturating_sub(first),
            ..bounds
        };
        Ok(within(entries, bounds, |entry| entry.bytes.len()))
    }

    async fn signed_entries(
        &mut self,
        group: &GroupId,
        end: u64,
    ) -> Result<Vec<EntryRow>, Failure> {
        let stored = self.stored();
        let entries = stored.logs.entries.get(group).into_iter().flatten();
        let end = end.saturating_sub(stored.first_entry(group));
        let before = entries.take(usize::try_from(end).unwrap_or(usize::MAX));
        let signed = before.filter(|entry| entry.kind == EntryKind::Signed);
        Ok(signed.cloned().collect())
    }

    async fn records(&mut self, log: &LogId, bounds: Bounds) -> Result<Vec<RecordRow>, Failure> {
        let stored = self.stored();
        let records = stored.logs.records.get(log);
        let first = records.and_then(|all| all.first()).map_or(0, |row| row.seq);
        let bounds = Bounds {
            from: bounds.from.saturating_sub(first),
            end: bounds.end.saturating_sub(first),
            ..bounds
        };
        let mut found = within(records, bounds, |record| match record.kind {
            RecordKind::Snapshot => 0,
            _ => record.sealed.as_ref().map_or(0, bytes::Bytes::len),
        });
        for record in &mut found {
            if record.kind == RecordKind::Snapshot {
                record.sealed = None;
            }
            record.header = None;
        }
        Ok(found)
    }

    async fn whole(&mut self, log: &LogId, seq: u64) -> Result<Option<WholeRecord>, Failure> {
        let stored = self.stored();
        let record = stored.logs.record(log, seq);
        record.map(|row| stored.whole(log, row)).transpose()
    }

    async fn authors(&mut self, log: &LogId) -> Result<Vec<Author>, Failure> {
        Ok(self.stored().authors(log))
    }

    async fn open_documents(
        &mut self,
        group: &GroupId,
    ) -> Result<Vec<(LogId, DocumentRow, ActiveRow)>, Failure> {
        let stored = self.stored();
        let documents = stored.tables.documents.iter();
        let mut open: Vec<_> = documents
            .filter(|(log, it)| log.group == *group && it.row.closed.is_none())
            .collect();
        open.sort_by_key(|(_, it)| it.no);
        let rows = open.into_iter();
        Ok(rows
            .map(|(log, it)| (*log, it.row.clone(), it.active.clone()))
            .collect())
    }

    async fn pleas(&mut self, group: &GroupId) -> Result<Vec<PleaRow>, Failure> {
        let stored = self.stored();
        let devices = &stored.tables.devices;
        Ok(stored.pleas(|row| {
            let active = devices.get(&row.device).is_some_and(|it| !it.revoked);
            row.group == *group && active
        }))
    }
}

fn within<T: Clone>(rows: Option<&Vec<T>>, bounds: Bounds, size: impl Fn(&T) -> usize) -> Vec<T> {
    let rows = rows.map(Vec::as_slice).unwrap_or_default();
    let at = |seq| usize::try_from(seq).unwrap_or(usize::MAX).min(rows.len());
    let stretch = rows.get(at(bounds.from)..at(bounds.end));
    let mut found = Vec::new();
    let mut bytes = 0usize;
    for row in stretch.unwrap_or_default() {
        bytes = bytes.saturating_add(size(row));
        found.push(row.clone());
        if bytes >= bounds.bytes {
            break;
        }
    }
    found
}

impl Stored {
    fn authors(&self, log: &LogId) -> Vec<Author> {
        let authors = self.tables.authors.iter();
        let mut of_log: Vec<_> = authors.filter(|((of, _), _)| of == log).collect();
        of_log.sort_by_key(|(_, row)| row.no);
        of_log.into_iter().map(|((_, author), _)| *author).collect()
    }

    fn whole(&self, log: &LogId, row: &RecordRow) -> Result<WholeRecord, Failure> {
        let Some(sealed) = &row.sealed else {
            return Ok(WholeRecord::Leaf(row.leaf));
        };
        let sealed: Sealed = decode("sealed record", sealed, usize::MAX).map_err(|_| DAMAGED)?;
        let header = match &row.header {
            Some(header) => decode("record header", header, usize::MAX).map_err(|_| DAMAGED)?,
            None => self.header_of(log, row)?,
        };
        Ok(WholeRecord::Whole {
            record: Box::new(Record { header, sealed }),
            covered: row.covered,
        })
    }

    /// The header of a chained record.
    fn header_of(&self, log: &LogId, row: &RecordRow) -> Result<RecordHeader, Failure> {
        let (no, clock) = row.chained.ok_or(DAMAGED)?;
        let author = usize::try_from(no).ok();
        let author = author.and_then(|no| self.authors(log).get(no).copied());
        let before = clock.checked_sub(1).map(|clock| (no, clock));
        let records = self.logs.records.get(log).into_iter().flatten();
        let prev = before.and_then(|before| {
            let mut records = records.filter(|it| it.chained == Some(before));
            records.next().map(|it| it.leaf)
        });
        let chained = Chained {
            clock,
            prev: prev.unwrap_or(Hash::ZERO),
        };
        let seen = match row.seen {
            0 => Some(empty_root()),
            size => self.mark(&(*log, size)).map(|mark| mark.root),
        };
        Ok(RecordHeader {
            version: RECORD_VERSION,
            group: log.group,
            document: log.document,
            epoch: row.epoch,
            author: author.ok_or(DAMAGED)?,
            seen: Head {
                size: row.seen,
                root: seen.ok_or(DAMAGED)?,
            },
            body: RecordBody::of_chained(row.kind as u8, chained).ok_or(DAMAGED)?,
        })
    }
}

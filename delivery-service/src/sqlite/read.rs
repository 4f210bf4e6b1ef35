//! Reading what is durable.

use std::collections::HashMap;

use conclave_order::query::group::lists;
use conclave_order::rows::{
    ActiveRow, DocumentRow, EntryKind, EntryRow, PleaRow, RecordKind, RecordRow,
    lister as lister_of,
};
use conclave_order::{Bounds, Failure, Keys, Reader, Rows, WholeRecord};
use conclave_proto::group::GroupEntry;
use conclave_proto::merkle::empty_root;
use conclave_proto::record::{Chained, RECORD_VERSION, RecordHeader, Sealed};
use conclave_proto::service::Generation;
use conclave_proto::{
    Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, Record, RecordBody,
};
use conclave_rules::LogId;
use futures_util::StreamExt;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqlitePool;
use sqlx::{Connection, Sqlite, SqliteConnection};
use zeroize::Zeroizing;

use super::codes::{decode, hash, id, int, uint};
use super::load::{PleaColumns, plea_row};
use super::logs::{ActiveColumns, of_document};
use super::sums::check_record;
use super::{bases, failed, hot, load, logs, open, recovery};
use crate::sqlite::StoreError;

type Found<T> = Result<T, StoreError>;

/// Connections that read.
#[derive(Debug, Clone)]
pub struct Reads {
    pool: SqlitePool,
}

impl Reads {
    /// Opens the database for reading.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(place: &open::Place) -> Result<Self, StoreError> {
        let pool = open::open_readers(place).await?;
        Ok(Self { pool })
    }

    /// One of them, as soon as one is free.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn acquire(&self) -> Result<Read, StoreError> {
        let conn = self.pool.acquire().await?;
        Ok(Read { conn })
    }

    /// The present generation, and the seed of its head key.
    pub(crate) async fn generation(
        &self,
    ) -> Result<Option<(Generation, Zeroizing<[u8; 32]>)>, StoreError> {
        let mut conn = self.pool.acquire().await?;
        recovery::generation(&mut conn).await
    }

    /// How many losses were declared.
    pub(crate) async fn losses(&self) -> Result<u64, StoreError> {
        let mut conn = self.pool.acquire().await?;
        let (losses,): (i64,) = sqlx::query_as("SELECT count(*) FROM losses")
            .fetch_one(&mut *conn)
            .await?;
        uint(losses)
    }

    /// Whether a limited database can still take something of size.
    pub(crate) async fn has_room(&self) -> Result<bool, StoreError> {
        let mut conn = self.pool.acquire().await?;
        open::has_room(&mut conn).await
    }

    /// Lets go of all.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A connection that reads.
#[derive(Debug)]
pub struct Read {
    conn: PoolConnection<Sqlite>,
}

impl std::ops::Deref for Read {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.conn
    }
}

impl std::ops::DerefMut for Read {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.conn
    }
}

/// Who wrote the entry that lists a document: in the log, or before it began here.
pub(super) async fn lister(conn: &mut SqliteConnection, log: &LogId) -> Found<Option<Author>> {
    let base = bases::load(conn, &log.group).await?;
    let mut before = base.into_iter().flat_map(|base| base.entries);
    if let Some(author) = before.find_map(|entry| lister_of(&entry, log)) {
        return Ok(Some(author));
    }
    let mut signed = sqlx::query_as::<_, EntryColumns>(
        "SELECT kind, epoch, leaf, root, entry FROM group_log WHERE group_id = ? AND kind = 3 ORDER BY seq",
    )
    .bind(log.group.as_bytes())
    .fetch(conn);
    while let Some(row) = signed.next().await {
        if let Some(author) = lists(&row?.row()?, log)? {
            return Ok(Some(author));
        }
    }
    Ok(None)
}

impl Reader for Read {
    async fn load(&mut self, keys: &Keys) -> Result<Rows, Failure> {
        // What is read with few statements of one table needs no common moment.
        if keys.tables() <= 1 {
            return Ok(load::load(&mut self.conn, keys, &mut HashMap::new()).await?);
        }
        let mut tx = self.conn.begin().await.map_err(failed)?;
        let rows = load::load(&mut tx, keys, &mut HashMap::new()).await?;
        tx.commit().await.map_err(failed)?;
        Ok(rows)
    }

    async fn entries(&mut self, group: &GroupId, bounds: Bounds) -> Result<Vec<EntryRow>, Failure> {
        let mut rows = sqlx::query_as::<_, EntryColumns>(
            "SELECT kind, epoch, leaf, root, entry FROM group_log WHERE group_id = ? AND seq >= ? AND seq < ? ORDER BY seq",
        )
        .bind(group.as_bytes())
        .bind(int(bounds.from))
        .bind(int(bounds.end))
        .fetch(&mut *self.conn);
        let mut found = Vec::new();
        let mut bytes = 0usize;
        while let Some(row) = rows.next().await {
            let row = row.map_err(failed)?.row()?;
            bytes = bytes.saturating_add(row.bytes.len());
            found.push(row);
            if bytes >= bounds.bytes {
                break;
            }
        }
        Ok(found)
    }

    async fn signed_entries(
        &mut self,
        group: &GroupId,
        end: u64,
    ) -> Result<Vec<EntryRow>, Failure> {
        let rows: Vec<EntryColumns> = sqlx::query_as(
            "SELECT kind, epoch, leaf, root, entry FROM group_log WHERE group_id = ? AND kind = 3 AND seq < ? ORDER BY seq",
        )
        .bind(group.as_bytes())
        .bind(int(end))
        .fetch_all(&mut *self.conn)
        .await
        .map_err(failed)?;
        let rows = rows.into_iter().map(EntryColumns::row);
        Ok(rows.collect::<Found<_>>()?)
    }

    async fn records(&mut self, log: &LogId, bounds: Bounds) -> Result<Vec<RecordRow>, Failure> {
        let mut rows = sqlx::query_as::<_, RecordColumns>(of_document!(
            "SELECT seq, kind, author, clock, epoch, seen, hint, covered, leaf, root, weight, \
                 CASE WHEN kind = 3 THEN NULL ELSE sealed END AS sealed, sum \
             FROM records WHERE doc = ",
            " AND seq >= ? AND seq < ? ORDER BY seq"
        ))
        .bind(log.group.as_bytes())
        .bind(log.document.as_bytes())
        .bind(int(bounds.from))
        .bind(int(bounds.end))
        .fetch(&mut *self.conn);
        let mut found = Vec::new();
        let mut bytes = 0usize;
        while let Some(row) = rows.next().await {
            let row = row.map_err(failed)?.row()?;
            bytes = bytes.saturating_add(row.sealed.as_ref().map_or(0, bytes::Bytes::len));
            found.push(row);
            if bytes >= bounds.bytes {
                break;
            }
        }
        Ok(found)
    }

    async fn whole(&mut self, log: &LogId, seq: u64) -> Result<Option<WholeRecord>, Failure> {
        let row: Option<WholeColumns> = sqlx::query_as(of_document!(
            "SELECT r.kind, r.covered, r.epoch, r.clock, r.seen, r.leaf, r.header, r.sealed, a.device, a.instance, \
                    p.leaf AS prev, s.root AS seen_root \
             FROM records r \
             LEFT JOIN authors a ON a.doc = r.doc AND a.no = r.author \
             LEFT JOIN records p ON p.doc = r.doc AND p.author = r.author AND p.clock = r.clock - 1 \
             LEFT JOIN records s ON s.doc = r.doc AND s.seq = r.seen - 1 \
             WHERE r.doc = ",
            " AND r.seq = ?"
        ))
        .bind(log.group.as_bytes())
        .bind(log.document.as_bytes())
        .bind(int(seq))
        .fetch_optional(&mut *self.conn)
        .await
        .map_err(failed)?;
        let Some(mut row) = row else {
            return Ok(None);
        };
        if row.lacks_seen_root() {
            // Where the log begins here there is no record that tells it.
            let mark = logs::mark(&mut self.conn, &(*log, uint(row.seen)?)).await?;
            row.seen_root = mark.map(|mark| mark.root.as_bytes().to_vec());
        }
        Ok(Some(row.put_together(log)?))
    }

    async fn authors(&mut self, log: &LogId) -> Result<Vec<Author>, Failure> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(of_document!(
            "SELECT device, instance FROM authors WHERE doc = ",
            " ORDER BY no"
        ))
        .bind(log.group.as_bytes())
        .bind(log.document.as_bytes())
        .fetch_all(&mut *self.conn)
        .await
        .map_err(failed)?;
        let authors = rows.iter().map(|(device, instance)| {
            Ok(Author {
                device: id(device, DeviceId::from_slice)?,
                instance: id(instance, InstanceId::from_slice)?,
            })
        });
        Ok(authors.collect::<Found<_>>()?)
    }

    async fn open_documents(
        &mut self,
        group: &GroupId,
    ) -> Result<Vec<(LogId, DocumentRow, ActiveRow)>, Failure> {
        let rows: Vec<OpenColumns> = sqlx::query_as(
            "SELECT d.document, d.frontier, d.last_epoch, d.last_epoch_seq, d.author_count, d.weight, d.covered, d.grown_in, d.base, \
                    d.snapshot_seq, d.snapshot_id, d.snapshot_header, d.snapshot_epoch_seq, \
                    LENGTH(r.sealed) AS sealed_bytes, \
                    (SELECT weight FROM records WHERE doc = d.id AND seq = d.covered - 1) AS covered_weight, d.due_epoch, d.parent_seq, d.parent_ms \
             FROM documents d LEFT JOIN records r ON r.doc = d.id AND r.seq = d.snapshot_seq \
             WHERE d.group_id = ? AND d.closed IS NULL ORDER BY d.id",
        )
        .bind(group.as_bytes())
        .fetch_all(&mut *self.conn)
        .await
        .map_err(failed)?;
        let rows = rows.into_iter().map(|row| row.rows(*group));
        Ok(rows.collect::<Found<_>>()?)
    }

    async fn pleas(&mut self, group: &GroupId) -> Result<Vec<PleaRow>, Failure> {
        let rows: Vec<PleaColumns> = sqlx::query_as(
            "SELECT a.group_id, a.device, a.user, a.what, a.at_ms \
             FROM asks a JOIN devices d USING (device) JOIN accounts u ON u.user = d.user \
             WHERE a.group_id = ? AND d.revoked = 0 AND u.disabled = 0 ORDER BY a.at_ms, a.device, a.what",
        )
        .bind(group.as_bytes())
        .fetch_all(&mut *self.conn)
        .await
        .map_err(failed)?;
        let rows = rows.into_iter().map(plea_row);
        Ok(rows.collect::<Found<_>>()?)
    }
}

#[derive(sqlx::FromRow)]
struct EntryColumns {
    kind: i64,
    epoch: Option<i64>,
    leaf: Vec<u8>,
    root: Vec<u8>,
    entry: Vec<u8>,
}

impl EntryColumns {
    /// The entry, if it is the one that the log has.
    fn row(self) -> Found<EntryRow> {
        const DAMAGED: StoreError = StoreError::Corrupt { what: "log entry" };
        let entry: GroupEntry = decode("log entry", &self.entry)?;
        let leaf = hash(&self.leaf)?;
        if entry.leaf() != leaf {
            return Err(DAMAGED);
        }
        let kinds = [EntryKind::Commit, EntryKind::Proposal, EntryKind::Signed];
        let mut kinds = kinds.into_iter();
        let kind = kinds.find(|kind| i64::from(*kind as u8) == self.kind);
        Ok(EntryRow {
            kind: kind.ok_or(DAMAGED)?,
            epoch: self.epoch.map(uint).transpose()?,
            leaf,
            root: hash(&self.root)?,
            bytes: self.entry.into(),
        })
    }
}

#[derive(sqlx::FromRow)]
struct RecordColumns {
    seq: i64,
    kind: i64,
    author: Option<i64>,
    clock: Option<i64>,
    epoch: i64,
    seen: i64,
    hint: Vec<u8>,
    covered: i64,
    leaf: Vec<u8>,
    root: Vec<u8>,
    weight: i64,
    sealed: Option<Vec<u8>>,
    sum: Vec<u8>,
}

impl RecordColumns {
    fn row(self) -> Found<RecordRow> {
        const DAMAGED: StoreError = StoreError::Corrupt { what: "kind" };
        let kind = u8::try_from(self.kind).map_err(|_| DAMAGED)?;
        let chained = match self.author.zip(self.clock) {
            Some((author, clock)) => Some((uint(author)?, uint(clock)?)),
            None => None,
        };
        let row = RecordRow {
            seq: uint(self.seq)?,
            kind: RecordKind::of(kind).ok_or(DAMAGED)?,
            chained,
            epoch: uint(self.epoch)?,
            seen: uint(self.seen)?,
            hint: id(&self.hint, |bytes| bytes.try_into().ok())?,
            covered: uint(self.covered)?,
            leaf: hash(&self.leaf)?,
            root: hash(&self.root)?,
            header: None,
            sealed: self.sealed.map(bytes::Bytes::from),
            weight: uint(self.weight)?,
        };
        check_record(&row, &self.sum)?;
        Ok(row)
    }
}

#[derive(sqlx::FromRow)]
struct WholeColumns {
    kind: i64,
    covered: i64,
    epoch: i64,
    clock: Option<i64>,
    seen: i64,
    leaf: Vec<u8>,
    header: Option<Vec<u8>>,
    sealed: Option<Vec<u8>>,
    device: Option<Vec<u8>>,
    instance: Option<Vec<u8>>,
    prev: Option<Vec<u8>>,
    seen_root: Option<Vec<u8>>,
}

impl WholeColumns {
    fn lacks_seen_root(&self) -> bool {
        self.seen > 0 && self.seen_root.is_none() && self.header.is_none()
    }

    fn put_together(self, log: &LogId) -> Found<WholeRecord> {
        let leaf = hash(&self.leaf)?;
        let Some(sealed) = &self.sealed else {
            return Ok(WholeRecord::Leaf(leaf));
        };
        let sealed: Sealed = decode("sealed record", sealed)?;
        let covered = uint(self.covered)?;
        let header = match &self.header {
            Some(header) => decode("record header", header)?,
            None => self.header_of(log)?,
        };
        let record = Box::new(Record { header, sealed });
        // The leaf covers the record whole: what does not give it is not what was accepted.
        if record.leaf() == leaf {
            Ok(WholeRecord::Whole { record, covered })
        } else {
            Err(StoreError::Corrupt { what: "record" })
        }
    }

    /// The header of a chained record.
    fn header_of(&self, log: &LogId) -> Found<RecordHeader> {
        let corrupt = || StoreError::Corrupt { what: "record" };
        let device = self.device.as_deref().ok_or_else(corrupt)?;
        let instance = self.instance.as_deref().ok_or_else(corrupt)?;
        let chained = Chained {
            clock: uint(self.clock.ok_or_else(corrupt)?)?,
            prev: self.prev.as_deref().map_or(Ok(Hash::ZERO), hash)?,
        };
        let seen_root = self.seen_root.as_deref();
        Ok(RecordHeader {
            version: RECORD_VERSION,
            group: log.group,
            document: log.document,
            epoch: uint(self.epoch)?,
            author: Author {
                device: id(device, DeviceId::from_slice)?,
                instance: id(instance, InstanceId::from_slice)?,
            },
            seen: Head {
                size: uint(self.seen)?,
                root: seen_root.map_or_else(|| Ok(empty_root()), hash)?,
            },
            body: u8::try_from(self.kind)
                .ok()
                .and_then(|kind| RecordBody::of_chained(kind, chained))
                .ok_or_else(corrupt)?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct OpenColumns {
    document: Vec<u8>,
    frontier: Vec<u8>,
    last_epoch: i64,
    last_epoch_seq: i64,
    author_count: i64,
    weight: i64,
    covered: i64,
    grown_in: i64,
    base: Option<Vec<u8>>,
    #[sqlx(flatten)]
    active: ActiveColumns,
}

impl OpenColumns {
    fn rows(self, group: GroupId) -> Found<(LogId, DocumentRow, ActiveRow)> {
        let document = id(&self.document, DocumentId::from_slice)?;
        let row = DocumentRow {
            frontier: decode("frontier", &self.frontier)?,
            last_epoch: uint(self.last_epoch)?,
            last_epoch_seq: uint(self.last_epoch_seq)?,
            author_count: uint(self.author_count)?,
            weight: uint(self.weight)?,
            covered: uint(self.covered)?,
            closed: None,
            grown_in: uint(self.grown_in)?,
            base: hot::base(self.base.as_deref())?,
        };
        Ok((LogId { group, document }, row, self.active.row()?))
    }
}

//! What the service has stored, read from its database by somebody who is not the service.
//!
//! Records are put together again from their columns, and each must hash to the leaf that stands beside it: so it is certain that what the
//! removed device was handed is exactly what the service holds, all of it.

use std::collections::BTreeMap;
use std::path::Path;

use conclave_client::proto::codec::{DecodeError, decode};
use conclave_client::proto::group::RootWrap;
use conclave_client::proto::limits::{SNAPSHOT_BYTES, WRAP_BYTES};
use conclave_client::proto::record::{Chained, Sealed};
use conclave_client::proto::{
    Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, Record, RecordBody, RecordHeader,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Row};

/// Name of the service's database in its data directory.
const DATABASE_FILE: &str = "service.sqlite";
/// Version of the records that the demonstration makes.
const RECORD_VERSION: u16 = conclave_client::proto::record::RECORD_VERSION;

/// Why the database could not be read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// SQLite refused.
    #[error("the service's database cannot be read: {0}")]
    Database(#[from] sqlx::Error),
    /// A column holds something else than it should.
    #[error("the service's database holds a malformed {0}")]
    Malformed(&'static str),
    /// A record does not have the hash that is stored with it.
    #[error("record {seq} of a document does not have the hash that is stored with it")]
    Leaf {
        /// Its position.
        seq: u64,
    },
}

impl From<DecodeError> for EvidenceError {
    fn from(_: DecodeError) -> Self {
        Self::Malformed("structure")
    }
}

/// Everything sealed that the service holds for one group.
#[derive(Debug, Default)]
pub struct Stored {
    /// Records that still have their ciphertext.
    pub records: Vec<Record>,
    /// Positions of all logs, those kept only by hash included.
    pub positions: u64,
    /// Root wraps of all epochs.
    pub wraps: Vec<RootWrap>,
    /// Current epoch of the group.
    pub epoch: u64,
}

impl Stored {
    /// Reads a service's data directory. The service must not be running.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub async fn read(data_dir: &Path, group: GroupId) -> Result<Self, EvidenceError> {
        let options = SqliteConnectOptions::new()
            .filename(data_dir.join(DATABASE_FILE))
            .pragma("query_only", "ON");
        let mut database = options.disable_statement_logging().connect().await?;
        let mut stored = Self {
            epoch: epoch(&mut database, group).await?,
            ..Self::default()
        };
        stored.wraps = wraps(&mut database, group).await?;
        for (number, document) in documents(&mut database, group).await? {
            stored
                .read_document(&mut database, group, number, document)
                .await?;
        }
        Ok(stored)
    }

    async fn read_document(
        &mut self,
        database: &mut SqliteConnection,
        group: GroupId,
        number: i64,
        document: DocumentId,
    ) -> Result<(), EvidenceError> {
        let authors = authors(database, number).await?;
        let rows = sqlx::query(
            "SELECT seq, kind, author, clock, epoch, seen, leaf, root, header, sealed FROM records WHERE doc = ? ORDER BY seq",
        )
        .bind(number)
        .fetch_all(database)
        .await?;
        let mut log = Log {
            group,
            document,
            authors,
            roots: Vec::new(),
            last: BTreeMap::new(),
        };
        for row in &rows {
            self.positions += 1;
            self.records.extend(log.record(row)?);
        }
        Ok(())
    }
}

async fn epoch(database: &mut SqliteConnection, group: GroupId) -> Result<u64, EvidenceError> {
    let row = sqlx::query("SELECT epoch FROM groups WHERE id = ?")
        .bind(group.as_bytes())
        .fetch_one(database)
        .await?;
    number(&row, "epoch")
}

async fn wraps(
    database: &mut SqliteConnection,
    group: GroupId,
) -> Result<Vec<RootWrap>, EvidenceError> {
    // Wraps for joiners are kept beside the join state as well.
    let rows = sqlx::query("SELECT wrap FROM wraps WHERE group_id = ?1 UNION SELECT wrap FROM join_states WHERE group_id = ?1")
        .bind(group.as_bytes())
        .fetch_all(database)
        .await?;
    rows.iter()
        .map(|row| Ok(decode("wrap", row.try_get("wrap")?, 2 * WRAP_BYTES)?))
        .collect()
}

async fn documents(
    database: &mut SqliteConnection,
    group: GroupId,
) -> Result<Vec<(i64, DocumentId)>, EvidenceError> {
    let rows = sqlx::query("SELECT id, document FROM documents WHERE group_id = ? ORDER BY id")
        .bind(group.as_bytes())
        .fetch_all(database)
        .await?;
    rows.iter()
        .map(|row| {
            let id = DocumentId::from_slice(row.try_get("document")?)
                .ok_or(EvidenceError::Malformed("document id"))?;
            Ok((row.try_get("id")?, id))
        })
        .collect()
}

async fn authors(
    database: &mut SqliteConnection,
    document: i64,
) -> Result<BTreeMap<i64, Author>, EvidenceError> {
    let rows = sqlx::query("SELECT no, device, instance FROM authors WHERE doc = ?")
        .bind(document)
        .fetch_all(database)
        .await?;
    rows.iter()
        .map(|row| {
            let device = DeviceId::from_slice(row.try_get("device")?)
                .ok_or(EvidenceError::Malformed("device id"))?;
            let instance = InstanceId::from_slice(row.try_get("instance")?)
                .ok_or(EvidenceError::Malformed("instance"))?;
            Ok((row.try_get("no")?, Author { device, instance }))
        })
        .collect()
}

fn number(row: &SqliteRow, column: &'static str) -> Result<u64, EvidenceError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|_| EvidenceError::Malformed(column))
}

fn hash(row: &SqliteRow, column: &'static str) -> Result<Hash, EvidenceError> {
    Hash::from_slice(row.try_get(column)?).ok_or(EvidenceError::Malformed(column))
}

/// One document's log while it is read in order.
struct Log {
    group: GroupId,
    document: DocumentId,
    authors: BTreeMap<i64, Author>,
    roots: Vec<Hash>,
    last: BTreeMap<i64, Hash>,
}

impl Log {
    /// The record of a row; none where only its hash is kept.
    fn record(&mut self, row: &SqliteRow) -> Result<Option<Record>, EvidenceError> {
        let leaf = hash(row, "leaf")?;
        let (kind, author): (i64, Option<i64>) = (row.try_get("kind")?, row.try_get("author")?);
        let prev = author
            .and_then(|no| self.last.get(&no))
            .copied()
            .unwrap_or(Hash::ZERO);
        self.roots.push(hash(row, "root")?);
        if let Some(author) = author {
            self.last.insert(author, leaf);
        }
        let Some(sealed) = row.try_get::<Option<&[u8]>, _>("sealed")? else {
            return Ok(None);
        };
        let header = match row.try_get::<Option<&[u8]>, _>("header")? {
            Some(header) => decode("record header", header, SNAPSHOT_BYTES)?,
            None => self.chained_header(row, kind, author, prev)?,
        };
        let sealed: Sealed = decode("sealed part", sealed, SNAPSHOT_BYTES)?;
        let record = Record { header, sealed };
        if record.leaf() == leaf {
            Ok(Some(record))
        } else {
            Err(EvidenceError::Leaf {
                seq: number(row, "seq")?,
            })
        }
    }

    fn chained_header(
        &self,
        row: &SqliteRow,
        kind: i64,
        author: Option<i64>,
        prev: Hash,
    ) -> Result<RecordHeader, EvidenceError> {
        let author = author
            .and_then(|no| self.authors.get(&no))
            .ok_or(EvidenceError::Malformed("author"))?;
        let size = number(row, "seen")?;
        let seen = match size
            .checked_sub(1)
            .and_then(|last| usize::try_from(last).ok())
        {
            None => Head::EMPTY,
            Some(last) => Head {
                size,
                root: *self
                    .roots
                    .get(last)
                    .ok_or(EvidenceError::Malformed("seen size"))?,
            },
        };
        let chained = Chained {
            clock: number(row, "clock")?,
            prev,
        };
        let body = u8::try_from(kind).ok();
        let body = body.and_then(|kind| RecordBody::of_chained(kind, chained));
        let body = body.ok_or(EvidenceError::Malformed("kind"))?;
        Ok(RecordHeader {
            version: RECORD_VERSION,
            group: self.group,
            document: self.document,
            epoch: number(row, "epoch")?,
            author: *author,
            seen,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_client::proto::{GroupPolicy, RealmId};
    use conclave_client::{Client, Config, Crdt, CrdtError, Setup, Yrs};
    use conclave_ds::Service;

    /// A service's data directory with one group, its directory of titles and one document with edits.
    async fn data_of_a_service(folder: &Path) -> (std::path::PathBuf, GroupId) {
        let data = folder.join("service");
        let config = conclave_ds::Config::new(&data, ([127, 0, 0, 1], 0).into());
        let service = Service::start(config).await.unwrap();
        let url = format!("ws://{}", service.local_addr());
        let setup = Setup::NewUser {
            name: "Ana".into(),
            realm: RealmId::ZERO,
        };
        let client = Client::create(Config::new(folder.join("ana"), url), setup)
            .await
            .unwrap();
        let group = client
            .create_group("Board", GroupPolicy::default())
            .await
            .unwrap();
        let note = group.create_document::<Yrs>("note").await.unwrap();
        for _ in 0..3 {
            let edit = |note: &mut Yrs| {
                note.text()
                    .ok_or(CrdtError::InvalidArgument)?
                    .splice(0, 0, "x")
            };
            note.edit(edit).await.unwrap();
            note.synced().await.unwrap();
        }
        let id = group.id();
        client.close().await.unwrap();
        service.shutdown().await;
        (data, id)
    }

    async fn execute(data: &Path, statement: &'static str) {
        let options = SqliteConnectOptions::new().filename(data.join(DATABASE_FILE));
        let mut database = options.connect().await.unwrap();
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }

    #[tokio::test]
    async fn every_stored_record_is_put_together_as_it_was_signed() {
        let folder = tempfile::tempdir().unwrap();
        let (data, group) = data_of_a_service(folder.path()).await;
        let stored = Stored::read(&data, group).await.unwrap();
        let kinds = |code| {
            stored
                .records
                .iter()
                .filter(|record| record.header.body.kind_code() == code)
                .count()
        };
        assert!(
            kinds(1) >= 3,
            "three edits and the titles: {} updates",
            kinds(1)
        );
        assert!(kinds(3) >= 2, "a snapshot for each of two documents");
        assert_eq!(stored.positions, stored.records.len() as u64);
        assert!(Stored::read(&data, GroupId::ZERO).await.is_err());
    }

    /// Evidence that was touched is none.
    #[tokio::test]
    async fn a_changed_column_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (data, group) = data_of_a_service(folder.path()).await;
        execute(&data, "UPDATE records SET epoch = epoch + 1 WHERE kind = 1").await;
        assert!(matches!(
            Stored::read(&data, group).await,
            Err(EvidenceError::Leaf { .. })
        ));
        execute(&data, "UPDATE records SET epoch = epoch - 1 WHERE kind = 1").await;
        assert!(Stored::read(&data, group).await.is_ok());
        execute(
            &data,
            "UPDATE records SET sealed = zeroblob(length(sealed)) WHERE kind = 1",
        )
        .await;
        assert!(Stored::read(&data, group).await.is_err());
    }
}

//! What the service has stored of a group, put together again from its database: what a removed device could be handed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use conclave_proto::codec::decode;
use conclave_proto::group::RootWrap;
use conclave_proto::merkle::empty_root;
use conclave_proto::record::{Chained, RECORD_VERSION, Sealed};
use conclave_proto::{
    Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, Record, RecordBody,
    RecordHeader, limits,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

async fn connect(service_folder: &Path) -> Result<SqliteConnection> {
    let file = service_folder.join("service.sqlite");
    let options = SqliteConnectOptions::new().filename(file).read_only(true);
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// Epochs that the commits of a group's log end, in log order.
///
/// # Errors
/// When the database cannot be read.
pub async fn commit_epochs(service_folder: &Path, group: &GroupId) -> Result<Vec<u64>> {
    let mut all = all_commit_epochs(service_folder).await?;
    Ok(all.remove(&group.to_string()).unwrap_or_default())
}

/// The same for every group, by its id in hexadecimal digits.
///
/// # Errors
/// When the database cannot be read.
pub async fn all_commit_epochs(service_folder: &Path) -> Result<BTreeMap<String, Vec<u64>>> {
    let mut connection = connect(service_folder).await?;
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT lower(hex(group_id)), epoch FROM group_log WHERE kind = 1 ORDER BY group_id, seq",
    )
    .fetch_all(&mut connection)
    .await?;
    let mut epochs: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (group, epoch) in rows {
        epochs.entry(group).or_default().push(epoch.cast_unsigned());
    }
    Ok(epochs)
}

/// Every record and root wrap that the service holds of a group. Each record is checked against the leaf stored beside it.
///
/// # Errors
/// When the database cannot be read or a record does not hash to its leaf.
pub async fn whole_records(
    service_folder: &Path,
    group: &GroupId,
) -> Result<(Vec<Record>, Vec<RootWrap>)> {
    let mut connection = connect(service_folder).await?;
    let mut records = Vec::new();
    let documents = sqlx::query("SELECT id, document FROM documents WHERE group_id = ?")
        .bind(group.as_bytes())
        .fetch_all(&mut connection)
        .await?;
    for row in documents {
        let document = id(&row, "document", DocumentId::from_slice)?;
        records.extend(of_document(&mut connection, group, row.try_get("id")?, document).await?);
    }
    let wraps = sqlx::query("SELECT wrap FROM wraps WHERE group_id = ?")
        .bind(group.as_bytes())
        .fetch_all(&mut connection)
        .await?;
    let wraps = wraps
        .iter()
        .map(|row| {
            Ok(decode(
                "wrap",
                row.try_get("wrap")?,
                2 * limits::WRAP_BYTES,
            )?)
        })
        .collect::<Result<Vec<RootWrap>>>()?;
    Ok((records, wraps))
}

fn id<T>(row: &SqliteRow, column: &str, read: fn(&[u8]) -> Option<T>) -> Result<T> {
    read(row.try_get::<&[u8], _>(column)?).with_context(|| format!("column {column}"))
}

fn number(row: &SqliteRow, column: &str) -> Result<u64> {
    Ok(row.try_get::<i64, _>(column)?.cast_unsigned())
}

async fn of_document(
    connection: &mut SqliteConnection,
    group: &GroupId,
    doc: i64,
    document: DocumentId,
) -> Result<Vec<Record>> {
    let mut authors = BTreeMap::new();
    for row in sqlx::query("SELECT no, device, instance FROM authors WHERE doc = ?")
        .bind(doc)
        .fetch_all(&mut *connection)
        .await?
    {
        let author = Author {
            device: id(&row, "device", DeviceId::from_slice)?,
            instance: id(&row, "instance", InstanceId::from_slice)?,
        };
        authors.insert(row.try_get::<i64, _>("no")?, author);
    }
    let mut roots = vec![empty_root()];
    let mut last: BTreeMap<Author, Hash> = BTreeMap::new();
    let mut records = Vec::new();
    for row in sqlx::query("SELECT * FROM records WHERE doc = ? ORDER BY seq")
        .bind(doc)
        .fetch_all(&mut *connection)
        .await?
    {
        let leaf = id(&row, "leaf", Hash::from_slice)?;
        let seen = number(&row, "seen")?;
        let kind: i64 = row.try_get("kind")?;
        let author = row
            .try_get::<Option<i64>, _>("author")?
            .and_then(|no| authors.get(&no))
            .copied();
        let header = match row.try_get::<Option<&[u8]>, _>("header")? {
            Some(header) => decode("header", header, 4096)?,
            None => {
                let author = author.context("a chained record without an author")?;
                let chained = Chained {
                    clock: number(&row, "clock")?,
                    prev: last.get(&author).copied().unwrap_or(Hash::ZERO),
                };
                let root = *roots.get(usize::try_from(seen)?).context("seen root")?;
                RecordHeader {
                    version: RECORD_VERSION,
                    group: *group,
                    document,
                    epoch: number(&row, "epoch")?,
                    author,
                    seen: Head { size: seen, root },
                    body: RecordBody::of_chained(u8::try_from(kind)?, chained)
                        .context("a chained record's kind")?,
                }
            }
        };
        if let (Some(author), true) = (author, kind != 3) {
            last.insert(author, leaf);
        }
        roots.push(id(&row, "root", Hash::from_slice)?);
        if let Some(sealed) = row.try_get::<Option<&[u8]>, _>("sealed")? {
            let sealed: Sealed = decode("sealed part", sealed, 2 * limits::SNAPSHOT_BYTES)?;
            let record = Record { header, sealed };
            ensure!(
                record.leaf() == leaf,
                "a stored record does not hash to its leaf"
            );
            records.push(record);
        }
    }
    Ok(records)
}

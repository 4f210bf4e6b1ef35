//! Inserting many rows with few statements.

use bytes::Bytes;
use conclave_proto::Hash;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use crate::store::StoreError;
use crate::store::codes::{int, sum};

/// Rows of one INSERT, the largest first: few sizes, so that statements stay prepared.
const INSERT_ROWS: [usize; 3] = [64, 8, 1];

/// A record to insert.
pub(crate) struct NewRow {
    pub(crate) seq: u64,
    pub(crate) kind: u8,
    pub(crate) author: Option<u64>,
    pub(crate) clock: Option<u64>,
    pub(crate) epoch: u64,
    pub(crate) seen: u64,
    pub(crate) hint: [u8; 8],
    /// Size that the snapshot active before it covers.
    pub(crate) covered: u64,
    pub(crate) leaf: Hash,
    pub(crate) root: Hash,
    pub(crate) header: Option<Vec<u8>>,
    pub(crate) sealed: Bytes,
    /// Encoded size of an update; nothing else weighs anything.
    pub(crate) bytes: u64,
    /// Encoded bytes of all updates up to this record.
    pub(crate) weight: u64,
}

fn row_sum(row: &NewRow) -> Option<Vec<u8>> {
    // The leaf of a snapshot covers what is read of it.
    let author = row.author?;
    Some(record_sum(&Summed {
        seq: row.seq,
        kind: row.kind,
        author,
        epoch: row.epoch,
        seen: row.seen,
        hint: &row.hint,
        leaf: &row.leaf,
        sealed: &row.sealed,
    }))
}

/// What is delivered of a chained record without putting its header together again.
pub(super) struct Summed<'a> {
    pub(super) seq: u64,
    pub(super) kind: u8,
    pub(super) author: u64,
    pub(super) epoch: u64,
    pub(super) seen: u64,
    pub(super) hint: &'a [u8],
    pub(super) leaf: &'a Hash,
    pub(super) sealed: &'a [u8],
}

/// Checksum stored beside a chained record.
pub(super) fn record_sum(row: &Summed<'_>) -> Vec<u8> {
    sum(
        "conclave 1.0 record sum",
        &[
            &row.seq.to_be_bytes(),
            &[row.kind],
            &row.author.to_be_bytes(),
            &row.epoch.to_be_bytes(),
            &row.seen.to_be_bytes(),
            row.hint,
            row.leaf.as_bytes(),
            row.sealed,
        ],
    )
}

/// Splits a list into runs of the sizes in [`INSERT_ROWS`].
fn runs<T>(mut items: &[T]) -> Vec<&[T]> {
    let mut runs = Vec::new();
    for size in INSERT_ROWS {
        while let Some((run, rest)) = items.split_at_checked(size) {
            runs.push(run);
            items = rest;
        }
    }
    runs
}

pub(super) async fn insert_rows(
    conn: &mut SqliteConnection,
    doc: i64,
    rows: &[NewRow],
) -> Result<(), StoreError> {
    for run in runs(rows) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO records (doc, seq, kind, author, clock, epoch, seen, hint, covered, leaf, root, header, sealed, sum, weight) ",
        );
        query.push_values(run, |mut values, row| {
            values
                .push_bind(doc)
                .push_bind(int(row.seq))
                .push_bind(i64::from(row.kind))
                .push_bind(row.author.map(int))
                .push_bind(row.clock.map(int))
                .push_bind(int(row.epoch))
                .push_bind(int(row.seen))
                .push_bind(row.hint.to_vec())
                .push_bind(int(row.covered))
                .push_bind(row.leaf.as_bytes().to_vec())
                .push_bind(row.root.as_bytes().to_vec())
                .push_bind(row.header.clone())
                .push_bind(row.sealed.to_vec())
                .push_bind(row_sum(row))
                .push_bind(int(row.weight));
        });
        query.build().execute(&mut *conn).await?;
    }
    Ok(())
}

pub(super) async fn insert_nodes(
    conn: &mut SqliteConnection,
    doc: i64,
    nodes: &[(u32, u64, Hash)],
) -> Result<(), StoreError> {
    for run in runs(nodes) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO nodes (doc, level, at, hash) ");
        query.push_values(run, |mut values, (level, index, hash)| {
            values
                .push_bind(doc)
                .push_bind(i64::from(*level))
                .push_bind(int(*index))
                .push_bind(hash.as_bytes().to_vec());
        });
        query.build().execute(&mut *conn).await?;
    }
    Ok(())
}

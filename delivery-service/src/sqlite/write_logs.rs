//! Writing what changes documents.

use std::collections::{BTreeMap, HashMap};

use conclave_order::rows::{AuthorRow, DocumentRow, RecordRow};
use conclave_order::{Change, Failure};
use conclave_proto::codec::encode;
use conclave_proto::merkle::NodeId;
use conclave_proto::record::CloseReason;
use conclave_proto::{Author, DeviceId, Hash};
use conclave_rules::LogId;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::codes::int;
use super::failed;
use super::hot::runs;
use super::sums::record_sum;
use super::write::{expect, known};
use crate::sqlite::StoreError;

/// Those that are open, by their index: a document may have had many.
pub(super) const CLOSE_AUTHORS: &str = "UPDATE authors INDEXED BY authors_open SET closed = 1 WHERE doc = ? AND device = ? AND closed = 0 AND no < ?";

/// The row of a document.
pub(super) async fn number(
    conn: &mut SqliteConnection,
    log: &LogId,
    numbers: &mut HashMap<LogId, i64>,
) -> Result<Option<i64>, StoreError> {
    if let Some(number) = numbers.get(log) {
        return Ok(Some(*number));
    }
    let found: Option<(i64,)> =
        sqlx::query_as("SELECT id FROM documents WHERE group_id = ? AND document = ?")
            .bind(log.group.as_bytes())
            .bind(log.document.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    let found = found.map(|(number,)| number);
    numbers.extend(found.map(|number| (*log, number)));
    Ok(found)
}

/// Where a document's row goes from.
struct Moved {
    expected: u64,
    row: DocumentRow,
}

/// Records, and what changes with them, of many appends.
#[derive(Default)]
pub(super) struct Appends {
    documents: BTreeMap<i64, Moved>,
    records: Vec<(i64, RecordRow)>,
    nodes: Vec<(i64, NodeId, Hash)>,
    authors: BTreeMap<(i64, Author), AuthorRow>,
    closed: Vec<(i64, DeviceId, u64)>,
}

impl Appends {
    /// Takes a change of this kind; gives back any other.
    pub(super) async fn take(
        &mut self,
        conn: &mut SqliteConnection,
        change: Change,
        numbers: &mut HashMap<LogId, i64>,
    ) -> Result<Option<Change>, Failure> {
        match change {
            Change::Append {
                log,
                expected,
                records,
                nodes,
                row,
            } => {
                let doc = known(conn, &log, numbers).await?;
                self.records
                    .extend(records.into_iter().map(|record| (doc, record)));
                self.nodes
                    .extend(nodes.into_iter().map(|(node, hash)| (doc, node, hash)));
                let before = self.documents.get(&doc).map(|moved| moved.expected);
                let expected = before.unwrap_or(expected);
                self.documents.insert(doc, Moved { expected, row });
            }
            Change::Author { log, author, row } => {
                let doc = known(conn, &log, numbers).await?;
                self.authors.insert((doc, author), row);
            }
            Change::CloseAuthors {
                log,
                device,
                before,
            } => {
                let doc = known(conn, &log, numbers).await?;
                self.closed.push((doc, device, before));
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    /// Writes what was taken.
    pub(super) async fn write(&mut self, conn: &mut SqliteConnection) -> Result<(), Failure> {
        let Self {
            documents,
            records,
            nodes,
            authors,
            closed,
        } = std::mem::take(self);
        insert_records(conn, &records).await.map_err(failed)?;
        insert_nodes(conn, &nodes).await.map_err(failed)?;
        let authors: Vec<_> = authors.into_iter().collect();
        put_authors(conn, &authors).await.map_err(failed)?;
        // After the authors: those of the same batch are among who is closed.
        for (doc, device, before) in closed {
            sqlx::query(CLOSE_AUTHORS)
                .bind(doc)
                .bind(device.as_bytes())
                .bind(int(before))
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
        }
        let documents: Vec<_> = documents.into_iter().collect();
        move_documents(conn, &documents).await
    }
}

async fn insert_records(
    conn: &mut SqliteConnection,
    records: &[(i64, RecordRow)],
) -> Result<(), sqlx::Error> {
    for run in runs(records) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO records (doc, seq, kind, author, clock, epoch, seen, hint, covered, leaf, root, header, sealed, sum, weight) ",
        );
        query.push_values(run, |mut values, (doc, row)| {
            values
                .push_bind(doc)
                .push_bind(int(row.seq))
                .push_bind(i64::from(row.kind as u8))
                .push_bind(row.chained.map(|(author, _)| int(author)))
                .push_bind(row.chained.map(|(_, clock)| int(clock)))
                .push_bind(int(row.epoch))
                .push_bind(int(row.seen))
                .push_bind(row.hint.to_vec())
                .push_bind(int(row.covered))
                .push_bind(row.leaf.as_bytes().to_vec())
                .push_bind(row.root.as_bytes().to_vec())
                .push_bind(row.header.as_ref().map(|header| header.to_vec()))
                .push_bind(row.sealed.as_ref().map(|sealed| sealed.to_vec()))
                .push_bind(record_sum(row))
                .push_bind(int(row.weight));
        });
        query.build().execute(&mut *conn).await?;
    }
    Ok(())
}

async fn insert_nodes(
    conn: &mut SqliteConnection,
    nodes: &[(i64, NodeId, Hash)],
) -> Result<(), sqlx::Error> {
    for run in runs(nodes) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO nodes (doc, level, at, hash) ");
        query.push_values(run, |mut values, (doc, node, hash)| {
            values
                .push_bind(doc)
                .push_bind(i64::from(node.level))
                .push_bind(int(node.index))
                .push_bind(hash.as_bytes().to_vec());
        });
        query.build().execute(&mut *conn).await?;
    }
    Ok(())
}

async fn put_authors(
    conn: &mut SqliteConnection,
    authors: &[((i64, Author), AuthorRow)],
) -> Result<(), sqlx::Error> {
    for run in runs(authors) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO authors (doc, no, device, instance, next_clock, last_leaf, closed) ",
        );
        query.push_values(run, |mut values, ((doc, author), row)| {
            values
                .push_bind(doc)
                .push_bind(int(row.no))
                .push_bind(author.device.as_bytes().to_vec())
                .push_bind(author.instance.as_bytes().to_vec())
                .push_bind(int(row.next_clock))
                .push_bind(row.last_leaf.as_bytes().to_vec())
                .push_bind(i64::from(row.closed));
        });
        query.push(
            " ON CONFLICT (doc, no) DO UPDATE SET next_clock = excluded.next_clock, \
               last_leaf = excluded.last_leaf, closed = excluded.closed",
        );
        query.build().execute(&mut *conn).await?;
    }
    Ok(())
}

/// Moves documents to where they stand after their records, each from where it stood before.
async fn move_documents(
    conn: &mut SqliteConnection,
    documents: &[(i64, Moved)],
) -> Result<(), Failure> {
    for run in runs(documents) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "WITH new (id, expected, size, frontier, last_epoch, last_epoch_seq, author_count, weight, grown_in) AS (",
        );
        query.push_values(run, |mut values, (doc, moved)| {
            let row = &moved.row;
            values
                .push_bind(doc)
                .push_bind(int(moved.expected))
                .push_bind(int(row.frontier.size()))
                .push_bind(encode(&row.frontier))
                .push_bind(int(row.last_epoch))
                .push_bind(int(row.last_epoch_seq))
                .push_bind(int(row.author_count))
                .push_bind(int(row.weight))
                .push_bind(int(row.grown_in));
        });
        query.push(
            ") UPDATE documents SET size = new.size, frontier = new.frontier, last_epoch = new.last_epoch, \
                 last_epoch_seq = new.last_epoch_seq, author_count = new.author_count, weight = new.weight, \
                 grown_in = new.grown_in \
               FROM new WHERE documents.id = new.id AND documents.size = new.expected",
        );
        let done = query.build().execute(&mut *conn).await.map_err(failed)?;
        expect(done.rows_affected(), run.len() as u64)?;
    }
    Ok(())
}

/// Writes any other change of a document.
pub(super) async fn write_document(
    conn: &mut SqliteConnection,
    change: Change,
    numbers: &mut HashMap<LogId, i64>,
) -> Result<(), Failure> {
    let query = match change {
        Change::Document {
            log,
            crdt,
            creator,
            row,
            active,
        } => sqlx::query(
            "INSERT INTO documents (group_id, document, crdt, creator, size, frontier, last_epoch, last_epoch_seq, \
                 author_count, covered, snapshot_seq, snapshot_id, snapshot_header, snapshot_epoch_seq, weight, base) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(log.group.as_bytes().to_vec())
        .bind(log.document.as_bytes().to_vec())
        .bind(i64::from(crdt))
        .bind(creator.as_bytes().to_vec())
        .bind(int(row.frontier.size()))
        .bind(encode(&row.frontier))
        .bind(int(row.last_epoch))
        .bind(int(row.last_epoch_seq))
        .bind(int(row.author_count))
        .bind(int(row.covered))
        .bind(int(active.seq))
        .bind(active.id.as_bytes().to_vec())
        .bind(encode(&active.header))
        .bind(int(active.epoch_seq))
        .bind(int(row.weight))
        .bind((row.base.size() > 0).then(|| encode(&row.base))),
        Change::Closed { log, reason } => {
            if matches!(reason, CloseReason::Deleted | CloseReason::Lost) {
                sqlx::query(
                    "INSERT OR IGNORE INTO erasing (doc, from_seq)                      SELECT id, IFNULL((SELECT MIN(seq) FROM records WHERE doc = documents.id), 0) FROM documents                      WHERE group_id = ? AND document = ?",
                )
                .bind(log.group.as_bytes().to_vec())
                .bind(log.document.as_bytes().to_vec())
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
            }
            sqlx::query(
                "UPDATE documents SET closed = ?, due_epoch = iif(?, due_epoch, 0) WHERE group_id = ? AND document = ?",
            )
            .bind(i64::from(reason as u8))
            .bind(reason == CloseReason::Archived)
            .bind(log.group.as_bytes().to_vec())
            .bind(log.document.as_bytes().to_vec())
        }
        Change::Reopened { log } => {
            sqlx::query("UPDATE documents SET closed = NULL WHERE group_id = ? AND document = ?")
                .bind(log.group.as_bytes().to_vec())
                .bind(log.document.as_bytes().to_vec())
        }
        Change::Active { log, row } => {
            let covered = row.snapshot().map_or(0, |header| header.covered.size);
            sqlx::query(
                "UPDATE documents SET snapshot_seq = ?, snapshot_id = ?, snapshot_header = ?, snapshot_epoch_seq = ?, \
                     covered = ?, due_epoch = ?, parent_seq = ?, parent_ms = ? WHERE group_id = ? AND document = ?",
            )
            .bind(int(row.seq))
            .bind(row.id.as_bytes().to_vec())
            .bind(encode(&row.header))
            .bind(int(row.epoch_seq))
            .bind(int(covered))
            .bind(int(row.due_epoch))
            .bind(row.parent.map(|(seq, _)| int(seq)))
            .bind(row.parent.map(|(_, since)| int(since.0)))
            .bind(log.group.as_bytes().to_vec())
            .bind(log.document.as_bytes().to_vec())
        }
        Change::Replaced(row) => {
            let doc = known(conn, &row.log, numbers).await?;
            sqlx::query("INSERT INTO replaced_snapshots (replaced_ms, doc, seq) VALUES (?, ?, ?)")
                .bind(int(row.since.0))
                .bind(doc)
                .bind(int(row.seq))
        }
        Change::LetGo(row) => {
            let doc = known(conn, &row.log, numbers).await?;
            sqlx::query(
                "DELETE FROM paid_snapshots WHERE group_id = ? AND document = ? AND seq = ?",
            )
            .bind(row.log.group.as_bytes().to_vec())
            .bind(row.log.document.as_bytes().to_vec())
            .bind(int(row.seq))
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            sqlx::query("UPDATE records SET sealed = NULL WHERE doc = ? AND seq = ?")
                .bind(doc)
                .bind(int(row.seq))
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
            sqlx::query(
                "DELETE FROM replaced_snapshots WHERE replaced_ms = ? AND doc = ? AND seq = ?",
            )
            .bind(int(row.since.0))
            .bind(doc)
            .bind(int(row.seq))
        }
        _ => return Err(Failure::unwritten()),
    };
    query.execute(conn).await.map_err(failed)?;
    Ok(())
}

//! Reading what is stored of groups.

use conclave_mls::PublicGroupState;
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{EntryBody, Record, RecordBody};
use conclave_proto::{GroupId, Hash, Head};
use futures_util::StreamExt;
use sqlx::SqliteConnection;

use crate::limits;
use crate::store::StoreError;
use crate::store::codes::{check_sum, decode, hash, int, sum, uint};

/// Reads a group's public state: its checkpoint, and the signed entries after it.
pub(crate) async fn restore(
    conn: &mut SqliteConnection,
    group: &GroupId,
) -> Result<Option<PublicGroupState>, StoreError> {
    let corrupt = |_| StoreError::Corrupt { what: "group" };
    let row: Option<(Vec<u8>, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT checkpoint, checkpoint_sum FROM groups WHERE id = ?")
            .bind(group.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    let Some((checkpoint, sum)) = row else {
        return Ok(None);
    };
    check_sum("group", sum.as_deref(), || checkpoint_sum(&checkpoint))?;
    let mut state = PublicGroupState::restore(&checkpoint).map_err(corrupt)?;
    let mut next = state.state().frontier.size();
    loop {
        let entries = entries(conn, group, next, u64::MAX).await?;
        if entries.is_empty() {
            return Ok(Some(state));
        }
        for entry in entries {
            let GroupEntry::Signed(record) = entry else {
                return Err(StoreError::Corrupt { what: "group" });
            };
            let device = record.header.author.device;
            let effect = state
                .judge_entry(&record, device)
                .map_err(|_| StoreError::Corrupt { what: "group" })?;
            state.apply_entry(&effect);
            next = next.saturating_add(1);
        }
    }
}

/// Reads the log: from `from` on, before `end`, and no further than [`limits::BACKLOG_BYTES`] after at least one entry.
pub(crate) async fn entries(
    conn: &mut SqliteConnection,
    group: &GroupId,
    from: u64,
    end: u64,
) -> Result<Vec<GroupEntry>, StoreError> {
    let mut rows = sqlx::query_as::<_, (Vec<u8>, Vec<u8>)>(
        "SELECT entry, leaf FROM group_log WHERE group_id = ? AND seq >= ? AND seq < ? ORDER BY seq",
    )
    .bind(group.as_bytes())
    .bind(int(from))
    .bind(int(end))
    .fetch(&mut *conn);
    let mut found = Vec::new();
    let mut bytes = 0usize;
    while let Some(row) = rows.next().await {
        let (entry, leaf) = row?;
        bytes = bytes.saturating_add(entry.len());
        found.push(checked(&entry, &leaf)?);
        if bytes >= limits::BACKLOG_BYTES {
            break;
        }
    }
    Ok(found)
}

/// A stored entry, if it is the one that the log has.
fn checked(entry: &[u8], leaf: &[u8]) -> Result<GroupEntry, StoreError> {
    let entry: GroupEntry = decode("log entry", entry)?;
    if entry.leaf() == hash(leaf)? {
        Ok(entry)
    } else {
        Err(StoreError::Corrupt { what: "log entry" })
    }
}

/// The signed entries before `end` that created, closed and voided, in the order of the log.
pub(crate) async fn document_entries(
    conn: &mut SqliteConnection,
    group: &GroupId,
    end: u64,
) -> Result<Vec<Record>, StoreError> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT entry, leaf FROM group_log WHERE group_id = ? AND kind = 3 AND seq < ? ORDER BY seq",
    )
    .bind(group.as_bytes())
    .bind(int(end))
    .fetch_all(&mut *conn)
    .await?;
    let mut records = Vec::new();
    for (entry, leaf) in rows {
        let GroupEntry::Signed(record) = checked(&entry, &leaf)? else {
            return Err(StoreError::Corrupt { what: "log entry" });
        };
        let done = matches!(
            record.header.body,
            RecordBody::Entry(EntryBody::RotationComplete { .. })
        );
        if !done {
            records.push(record);
        }
    }
    Ok(records)
}

/// Position of an entry, and the head after it.
pub(crate) async fn position_of(
    conn: &mut SqliteConnection,
    group: &GroupId,
    leaf: &Hash,
) -> Result<Option<(u64, Head)>, StoreError> {
    let row: Option<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT seq, root FROM group_log WHERE group_id = ? AND leaf = ?")
            .bind(group.as_bytes())
            .bind(leaf.as_bytes())
            .fetch_optional(&mut *conn)
            .await?;
    row.map(place).transpose()
}

/// Position of the commit that ended an epoch, and the head after it.
pub(crate) async fn commit_of_epoch(
    conn: &mut SqliteConnection,
    group: &GroupId,
    epoch: u64,
) -> Result<Option<(u64, Head)>, StoreError> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT seq, root FROM group_log WHERE group_id = ? AND epoch = ? AND kind = 1",
    )
    .bind(group.as_bytes())
    .bind(int(epoch))
    .fetch_optional(&mut *conn)
    .await?;
    row.map(place).transpose()
}

fn place((seq, root): (i64, Vec<u8>)) -> Result<(u64, Head), StoreError> {
    let seq = uint(seq)?;
    Ok((
        seq,
        Head {
            size: seq.saturating_add(1),
            root: hash(&root)?,
        },
    ))
}

/// An entry to append: what changes with every one.
pub(crate) struct NewEntry {
    pub(crate) group: GroupId,
    /// Epoch and head that it was judged at.
    pub(crate) epoch: u64,
    pub(crate) size: u64,
    pub(crate) entry: GroupEntry,
    /// Head after it.
    pub(crate) head: Head,
}

impl NewEntry {
    fn kind(&self) -> i64 {
        match self.entry {
            GroupEntry::Commit(_) => 1,
            GroupEntry::Proposal(_) => 2,
            GroupEntry::Signed(_) => 3,
        }
    }

    /// Appends it if the group is still where it was judged. False: the group has moved on.
    pub(crate) async fn append(
        &self,
        conn: &mut SqliteConnection,
        next_epoch: u64,
    ) -> Result<bool, StoreError> {
        let moved = sqlx::query(
            "UPDATE groups SET epoch = ?, size = ?, root = ? WHERE id = ? AND epoch = ? AND size = ?",
        )
        .bind(int(next_epoch))
        .bind(int(self.head.size))
        .bind(self.head.root.as_bytes())
        .bind(self.group.as_bytes())
        .bind(int(self.epoch))
        .bind(int(self.size))
        .execute(&mut *conn)
        .await?;
        if moved.rows_affected() != 1 {
            return Ok(false);
        }
        let is_commit = matches!(self.entry, GroupEntry::Commit(_));
        sqlx::query(
            "INSERT INTO group_log (group_id, seq, kind, epoch, leaf, root, entry) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.group.as_bytes())
        .bind(int(self.size))
        .bind(self.kind())
        .bind(is_commit.then(|| int(self.epoch)))
        .bind(self.entry.leaf().as_bytes())
        .bind(self.head.root.as_bytes())
        .bind(conclave_proto::codec::encode(&self.entry))
        .execute(&mut *conn)
        .await?;
        Ok(true)
    }
}

/// The group's epoch now.
pub(crate) async fn epoch(conn: &mut SqliteConnection, group: &GroupId) -> Result<u64, StoreError> {
    let (epoch,): (i64,) = sqlx::query_as("SELECT epoch FROM groups WHERE id = ?")
        .bind(group.as_bytes())
        .fetch_one(&mut *conn)
        .await?;
    uint(epoch)
}

/// Checksum stored beside a checkpoint.
pub(crate) fn checkpoint_sum(checkpoint: &[u8]) -> Vec<u8> {
    sum("conclave 1.0 checkpoint sum", &[checkpoint])
}

/// Stores a checkpoint.
pub(crate) async fn put_checkpoint(
    conn: &mut SqliteConnection,
    group: &GroupId,
    checkpoint: &[u8],
) -> Result<(), StoreError> {
    sqlx::query("UPDATE groups SET checkpoint = ?, checkpoint_sum = ? WHERE id = ?")
        .bind(checkpoint)
        .bind(checkpoint_sum(checkpoint))
        .bind(group.as_bytes())
        .execute(&mut *conn)
        .await?;
    Ok(())
}

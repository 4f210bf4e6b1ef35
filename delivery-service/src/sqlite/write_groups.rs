//! Writing what changes groups, and key packages.

use conclave_order::rows::JoinRow;
use conclave_order::{Change, Failure};
use conclave_proto::codec::encode;
use conclave_proto::record::CloseReason;
use conclave_proto::{DeviceId, GroupId};
use sqlx::SqliteConnection;

use super::codes::int;
use super::write::expect;
use super::{bases, failed, parts};

pub(super) const DROP_LAST_RESORT: &str =
    "DELETE FROM key_packages WHERE device = ? AND last_resort = 1";
pub(super) const CLEAR_PACKAGES: &str = "UPDATE key_packages SET package = NULL WHERE device = ?";

/// What goes with a group, what refers to it first. What a report showed to be lost stays: the service had signed it.
const DROP_GROUP: [&str; 21] = [
    "UPDATE usage_users SET bytes = MAX(0, bytes - (SELECT SUM(bytes) FROM usage WHERE group_id = ?1 AND user = usage_users.user)) \
     WHERE user IN (SELECT user FROM usage WHERE group_id = ?1)",
    "DELETE FROM usage WHERE group_id = ?",
    "DELETE FROM usage_groups WHERE group_id = ?",
    "DELETE FROM paid_snapshots WHERE group_id = ?",
    "DELETE FROM erasing WHERE doc IN (SELECT id FROM documents WHERE group_id = ?)",
    "DELETE FROM replaced_snapshots WHERE doc IN (SELECT id FROM documents WHERE group_id = ?)",
    "DELETE FROM nodes WHERE doc IN (SELECT id FROM documents WHERE group_id = ?)",
    "DELETE FROM authors WHERE doc IN (SELECT id FROM documents WHERE group_id = ?)",
    "DELETE FROM records WHERE doc IN (SELECT id FROM documents WHERE group_id = ?)",
    "DELETE FROM documents WHERE group_id = ?",
    "DELETE FROM asks WHERE group_id = ?",
    "DELETE FROM welcomes WHERE group_id = ?",
    "DELETE FROM join_states WHERE group_id = ?",
    "DELETE FROM wraps WHERE group_id = ?",
    "DELETE FROM members WHERE group_id = ?",
    "DELETE FROM group_log WHERE group_id = ?",
    "DELETE FROM group_parts WHERE group_id = ?",
    "DELETE FROM bases WHERE group_id = ?",
    "DELETE FROM losses WHERE group_id = ?",
    "DELETE FROM recovery WHERE group_id = ? AND generation = 0",
    "DELETE FROM groups WHERE id = ?",
];

pub(super) async fn write_packages(
    conn: &mut SqliteConnection,
    change: Change,
) -> Result<(), Failure> {
    let query = match change {
        Change::Package { hash, row } => sqlx::query(
            "INSERT INTO key_packages (hash, device, last_resort, created_ms, package) VALUES (?, ?, ?, ?, ?)",
        )
        .bind(hash.as_bytes().to_vec())
        .bind(row.device.as_bytes().to_vec())
        .bind(i64::from(row.last_resort))
        .bind(int(row.created.0))
        .bind(row.bytes),
        Change::TakePackage { hash, .. } => {
            let query = sqlx::query(
                "UPDATE key_packages SET package = NULL WHERE hash = ? AND package IS NOT NULL",
            );
            let query = query.bind(hash.as_bytes().to_vec());
            let done = query.execute(conn).await.map_err(failed)?;
            return expect(done.rows_affected(), 1);
        }
        Change::DropLastResort { device } => {
            sqlx::query(DROP_LAST_RESORT).bind(device.as_bytes().to_vec())
        }
        Change::ClearPackages { device } => {
            let dropped = sqlx::query(DROP_LAST_RESORT).bind(device.as_bytes().to_vec());
            dropped.execute(&mut *conn).await.map_err(failed)?;
            sqlx::query(CLEAR_PACKAGES)
                .bind(device.as_bytes().to_vec())
        }
        Change::ForgetPackages { before } => {
            sqlx::query("DELETE FROM key_packages WHERE created_ms < ?").bind(int(before.0))
        }
        _ => return Err(Failure::unwritten()),
    };
    query.execute(conn).await.map_err(failed)?;
    Ok(())
}

pub(super) async fn write_group(
    conn: &mut SqliteConnection,
    change: Change,
) -> Result<(), Failure> {
    match change {
        Change::Group { .. }
        | Change::Adopted { .. }
        | Change::Dropped { .. }
        | Change::Entry { .. }
        | Change::GroupInfo { .. }
        | Change::Parts { .. } => write_state(conn, change).await,
        Change::Member {
            group,
            device,
            user,
        } => {
            let query = sqlx::query(
                "INSERT OR REPLACE INTO members (group_id, device, user) VALUES (?, ?, ?)",
            );
            let query = query
                .bind(group.as_bytes().to_vec())
                .bind(device.as_bytes().to_vec())
                .bind(user.as_bytes().to_vec());
            query.execute(conn).await.map_err(failed)?;
            Ok(())
        }
        Change::MemberGone { group, device } => member_gone(conn, &group, &device).await,
        Change::Join {
            group,
            epoch,
            row,
            devices,
        } => join(conn, &group, epoch, row, &devices).await,
        Change::ForgetEpochs { group, current } => forget_epochs(conn, &group, current).await,
        other => write_rest(conn, other).await,
    }
}

async fn write_state(conn: &mut SqliteConnection, change: Change) -> Result<(), Failure> {
    match change {
        Change::Group {
            group,
            genesis,
            creator,
            user,
            root,
            parts,
        } => {
            sqlx::query(
                "INSERT INTO groups (id, epoch, size, root, genesis, creator) VALUES (?, 0, 0, ?, ?, ?)",
            )
            .bind(group.as_bytes().to_vec())
            .bind(root.as_bytes().to_vec())
            .bind(genesis.as_bytes().to_vec())
            .bind(creator.as_bytes().to_vec())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            sqlx::query("INSERT INTO members (group_id, device, user) VALUES (?, ?, ?)")
                .bind(group.as_bytes().to_vec())
                .bind(creator.as_bytes().to_vec())
                .bind(user.as_bytes().to_vec())
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
            parts::write(conn, &group, parts).await?;
        }
        Change::Adopted {
            group,
            genesis,
            creator,
            epoch,
            base,
        } => {
            let size = int(base.frontier.size());
            sqlx::query(
                "INSERT INTO groups (id, epoch, size, root, genesis, creator, base) VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(group.as_bytes().to_vec())
            .bind(int(epoch))
            .bind(size)
            .bind(base.frontier.root().as_bytes().to_vec())
            .bind(genesis.as_bytes().to_vec())
            .bind(creator.as_bytes().to_vec())
            .bind(size)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            bases::write(conn, &group, &base).await?;
        }
        Change::Dropped { group, generation } => {
            for statement in DROP_GROUP {
                sqlx::query(statement)
                    .bind(group.as_bytes().to_vec())
                    .execute(&mut *conn)
                    .await
                    .map_err(failed)?;
            }
            sqlx::query("INSERT OR REPLACE INTO dropped (group_id, generation) VALUES (?, ?)")
                .bind(group.as_bytes().to_vec())
                .bind(int(generation))
                .execute(&mut *conn)
                .await
                .map_err(failed)?;
        }
        Change::Entry {
            group,
            expected,
            epoch,
            generation,
            entry,
        } => {
            let seq = expected.size;
            let moved = sqlx::query(
                "UPDATE groups SET epoch = ?, size = ?, root = ?, grown_in = ?, version = version + 1 \
                 WHERE id = ? AND epoch = ? AND size = ? AND version = ?",
            )
            .bind(int(epoch))
            .bind(int(seq.saturating_add(1)))
            .bind(entry.root.as_bytes().to_vec())
            .bind(int(generation))
            .bind(group.as_bytes().to_vec())
            .bind(int(expected.epoch))
            .bind(int(seq))
            .bind(int(expected.version))
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            expect(moved.rows_affected(), 1)?;
            sqlx::query(
                "INSERT INTO group_log (group_id, seq, kind, epoch, leaf, root, entry) VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(group.as_bytes().to_vec())
            .bind(int(seq))
            .bind(i64::from(entry.kind as u8))
            .bind(entry.epoch.map(int))
            .bind(entry.leaf.as_bytes().to_vec())
            .bind(entry.root.as_bytes().to_vec())
            .bind(entry.bytes.to_vec())
            .execute(conn)
            .await
            .map_err(failed)?;
        }
        Change::GroupInfo {
            group,
            expected,
            parts,
        } => {
            let moved = sqlx::query(
                "UPDATE groups SET version = version + 1 WHERE id = ? AND epoch = ? AND size = ? AND version = ?",
            )
            .bind(group.as_bytes().to_vec())
            .bind(int(expected.epoch))
            .bind(int(expected.size))
            .bind(int(expected.version))
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            expect(moved.rows_affected(), 1)?;
            parts::write(conn, &group, parts).await?;
        }
        Change::Parts { group, parts, wrap } => {
            if let Some(wrap) = wrap {
                sqlx::query("UPDATE groups SET wrap = ? WHERE id = ?")
                    .bind(encode(&wrap))
                    .bind(group.as_bytes().to_vec())
                    .execute(&mut *conn)
                    .await
                    .map_err(failed)?;
            }
            parts::write(conn, &group, parts).await?;
        }
        _ => return Err(Failure::unwritten()),
    }
    Ok(())
}

async fn member_gone(
    conn: &mut SqliteConnection,
    group: &GroupId,
    device: &DeviceId,
) -> Result<(), Failure> {
    for statement in [
        "DELETE FROM members WHERE group_id = ? AND device = ?",
        "DELETE FROM welcomes WHERE group_id = ? AND device = ?",
    ] {
        sqlx::query(statement)
            .bind(group.as_bytes())
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

async fn join(
    conn: &mut SqliteConnection,
    group: &GroupId,
    epoch: u64,
    row: JoinRow,
    devices: &[DeviceId],
) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO join_states (group_id, epoch, size, frontier, state, tree, wrap, welcome) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(group.as_bytes())
    .bind(int(epoch))
    .bind(int(row.size))
    .bind(encode(&row.frontier))
    .bind(row.state.as_ref())
    .bind(row.tree.as_ref())
    .bind(encode(&row.wrap))
    .bind(row.welcome.as_ref())
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    for device in devices {
        sqlx::query("INSERT INTO welcomes (group_id, epoch, device) VALUES (?, ?, ?)")
            .bind(group.as_bytes())
            .bind(int(epoch))
            .bind(device.as_bytes())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

async fn forget_epochs(
    conn: &mut SqliteConnection,
    group: &GroupId,
    current: u64,
) -> Result<(), Failure> {
    for statement in [
        "DELETE FROM wraps WHERE group_id = ?1 AND epoch < ?2 AND NOT EXISTS \
         (SELECT 1 FROM welcomes w WHERE w.group_id = wraps.group_id AND w.epoch = wraps.epoch)",
        "DELETE FROM join_states WHERE group_id = ?1 AND epoch <= ?2 AND NOT EXISTS \
         (SELECT 1 FROM welcomes w WHERE w.group_id = join_states.group_id AND w.epoch = join_states.epoch)",
    ] {
        sqlx::query(statement)
            .bind(group.as_bytes())
            .bind(int(current))
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

async fn write_rest(conn: &mut SqliteConnection, change: Change) -> Result<(), Failure> {
    let query = match change {
        Change::WelcomeGone { id, device } => {
            sqlx::query("DELETE FROM welcomes WHERE id = ? AND device = ?")
                .bind(int(id))
                .bind(device.as_bytes().to_vec())
        }
        Change::Wrap { wrap } => {
            let bytes = encode(&wrap);
            sqlx::query(
                "INSERT OR REPLACE INTO wraps (group_id, epoch, signer, wrap) VALUES (?, ?, ?, ?)",
            )
            .bind(wrap.statement.group.as_bytes().to_vec())
            .bind(int(wrap.statement.epoch))
            .bind(wrap.signer.as_bytes().to_vec())
            .bind(bytes)
        }
        Change::Plea(row) => sqlx::query(
            "INSERT INTO asks (group_id, device, what, user, at_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(row.group.as_bytes().to_vec())
        .bind(row.device.as_bytes().to_vec())
        .bind(i64::from(row.what as u8))
        .bind(row.user.as_bytes().to_vec())
        .bind(int(row.at.0)),
        Change::PleaGone {
            group,
            device,
            what,
        } => sqlx::query("DELETE FROM asks WHERE group_id = ? AND device = ? AND what = ?")
            .bind(group.as_bytes().to_vec())
            .bind(device.as_bytes().to_vec())
            .bind(i64::from(what as u8)),
        Change::MarkDue { group, epoch } => {
            // What is put away may be taken up again.
            sqlx::query(
                "UPDATE documents SET due_epoch = ? WHERE group_id = ? AND (closed IS NULL OR closed = ?)",
            )
            .bind(int(epoch))
            .bind(group.as_bytes().to_vec())
            .bind(i64::from(CloseReason::Archived as u8))
        }
        _ => return Err(Failure::unwritten()),
    };
    query.execute(conn).await.map_err(failed)?;
    Ok(())
}

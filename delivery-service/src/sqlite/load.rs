//! Reading rows by their keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use conclave_order::rows::{
    AccountRow, InvitationRow, JoinRow, LeftPackage, ListRow, PackageRow, PleaRow, StockRow,
    WelcomeRow,
};
use conclave_order::{Keys, Rows};
use conclave_proto::frame::Plea;
use conclave_proto::group::RootWrap;
use conclave_proto::{DeviceId, GroupId, Hash, UnixMs, UserId};
use conclave_rules::LogId;
use sqlx::SqliteConnection;

use super::codes::{decode, hash, id, int, uint};
use super::{bases, hot, logs, parts, read, recovery, usage};
use crate::sqlite::StoreError;

type Found<T> = Result<T, StoreError>;

/// Loads rows; `numbers` are those of documents met before, and learns of more.
pub(super) async fn load(
    conn: &mut SqliteConnection,
    keys: &Keys,
    numbers: &mut HashMap<LogId, i64>,
) -> Found<Rows> {
    let mut rows = Rows::default();
    hot::devices(conn, &keys.devices, &mut rows).await?;
    hot::groups(conn, &keys.groups, &mut rows).await?;
    hot::documents(conn, &keys.documents, &mut rows, numbers).await?;
    hot::authors(conn, &keys.authors, &mut rows).await?;
    macro_rules! each {
        ($($field:ident: $find:path;)*) => {
            $(for key in &keys.$field {
                let row = $find(conn, key).await?;
                rows.$field.insert(key.clone(), row);
            })*
        };
    }
    each! {
        accounts: account;
        siblings: siblings;
        acquainted: acquainted;
        lists: list;
        invitations: invitation;
        stocks: stock;
        packages: package;
        bases: bases::load;
        parts: parts::load;
        commit_wraps: commit_wrap;
        entries: logs::entry;
        listers: read::lister;
        commits: logs::commit;
        wraps: wraps;
        joins: join;
        welcomes: welcome;
        waiting: waiting;
        memberships: memberships;
        group_pleas: group_pleas;
        device_pleas: device_pleas;
        due: due;
        actives: logs::active;
        clocks: logs::at_clock;
        marks: logs::mark;
        snapshots: logs::snapshot;
        headers: logs::with_header;
        nodes: logs::node;
        overdue: logs::overdue;
        services: recovery::service;
        recoveries: recovery::recovery;
        ended: recovery::ended;
        losses: recovery::losses;
        dropped: recovery::dropped;
        usage_of_users: usage::of_user;
        usage_of_groups: usage::of_group;
        shares: usage::shares;
        paids: usage::paid;
        erasing: usage::erasing;
        group_roots: recovery::group_root;
    }
    Ok(rows)
}

async fn account(conn: &mut SqliteConnection, user: &UserId) -> Found<Option<AccountRow>> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT disabled FROM accounts WHERE user = ?")
        .bind(user.as_bytes())
        .fetch_optional(&mut *conn)
        .await?;
    Ok(row.map(|(disabled,)| AccountRow {
        disabled: disabled != 0,
    }))
}

fn devices(rows: &[(Vec<u8>,)]) -> Found<Option<BTreeSet<DeviceId>>> {
    let devices = rows
        .iter()
        .map(|(device,)| id(device, DeviceId::from_slice));
    Ok(Some(devices.collect::<Result<_, _>>()?))
}

async fn siblings(conn: &mut SqliteConnection, user: &UserId) -> Found<Option<BTreeSet<DeviceId>>> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT device FROM devices WHERE user = ?")
        .bind(user.as_bytes())
        .fetch_all(&mut *conn)
        .await?;
    devices(&rows)
}

async fn acquainted(
    conn: &mut SqliteConnection,
    user: &UserId,
) -> Found<Option<BTreeSet<DeviceId>>> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT device FROM devices WHERE user = ?1 \
         UNION SELECT other.device FROM members own JOIN members other USING (group_id) WHERE own.user = ?1",
    )
    .bind(user.as_bytes())
    .fetch_all(&mut *conn)
    .await?;
    devices(&rows)
}

async fn list(conn: &mut SqliteConnection, user: &UserId) -> Found<Option<ListRow>> {
    let row: Option<(i64, Vec<u8>)> = sqlx::query_as(
        "SELECT seq, list FROM device_lists WHERE user = ? ORDER BY seq DESC LIMIT 1",
    )
    .bind(user.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|(seq, bytes)| {
        Ok(ListRow {
            seq: uint(seq)?,
            bytes,
        })
    })
    .transpose()
}

async fn invitation(conn: &mut SqliteConnection, token: &Hash) -> Found<Option<InvitationRow>> {
    let row: Option<(String, i64, i64, i64)> = sqlx::query_as(
        "SELECT id, created_ms, expires_ms, uses_left FROM invitations WHERE hash = ?",
    )
    .bind(token.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|(id, created, expires, uses_left)| {
        Ok(InvitationRow {
            id,
            created: UnixMs(uint(created)?),
            expires: UnixMs(uint(expires)?),
            uses_left: uint(uses_left)?,
        })
    })
    .transpose()
}

pub(super) const KNOWN_PACKAGES: &str = "SELECT 1 FROM key_packages WHERE device = ? LIMIT 1";

async fn stock(conn: &mut SqliteConnection, device: &DeviceId) -> Found<Option<StockRow>> {
    let known: Option<(i64,)> = sqlx::query_as(KNOWN_PACKAGES)
        .bind(device.as_bytes())
        .fetch_optional(&mut *conn)
        .await?;
    let rows: Vec<(i64, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT last_resort, created_ms, hash FROM key_packages WHERE device = ? AND package IS NOT NULL \
         ORDER BY last_resort, created_ms, hash",
    )
    .bind(device.as_bytes())
    .fetch_all(&mut *conn)
    .await?;
    let left = rows.into_iter().map(|(last_resort, created, reference)| {
        Ok(LeftPackage {
            last_resort: last_resort != 0,
            created: UnixMs(uint(created)?),
            hash: hash(&reference)?,
        })
    });
    Ok(Some(StockRow {
        known: known.is_some(),
        left: left.collect::<Found<_>>()?,
    }))
}

type PackageColumns = (Vec<u8>, i64, i64, Option<Vec<u8>>);

async fn package(conn: &mut SqliteConnection, reference: &Hash) -> Found<Option<PackageRow>> {
    let row: Option<PackageColumns> = sqlx::query_as(
        "SELECT device, last_resort, created_ms, package FROM key_packages WHERE hash = ?",
    )
    .bind(reference.as_bytes())
    .fetch_optional(&mut *conn)
    .await?;
    row.map(|(device, last_resort, created, bytes)| {
        Ok(PackageRow {
            device: id(&device, DeviceId::from_slice)?,
            last_resort: last_resort != 0,
            created: UnixMs(uint(created)?),
            bytes,
        })
    })
    .transpose()
}

async fn commit_wrap(conn: &mut SqliteConnection, group: &GroupId) -> Found<Option<RootWrap>> {
    let row: Option<(Option<Vec<u8>>,)> = sqlx::query_as("SELECT wrap FROM groups WHERE id = ?")
        .bind(group.as_bytes())
        .fetch_optional(&mut *conn)
        .await?;
    let wrap = row.and_then(|(wrap,)| wrap);
    wrap.map(|wrap| decode("wrap", &wrap)).transpose()
}

async fn wraps(
    conn: &mut SqliteConnection,
    (group, epoch): &(GroupId, u64),
) -> Found<Option<BTreeMap<DeviceId, RootWrap>>> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT signer, wrap FROM wraps WHERE group_id = ? AND epoch = ?")
            .bind(group.as_bytes())
            .bind(int(*epoch))
            .fetch_all(&mut *conn)
            .await?;
    let wraps = rows.iter().map(|(signer, wrap)| {
        Ok((
            id(signer, DeviceId::from_slice)?,
            decode::<RootWrap>("wrap", wrap)?,
        ))
    });
    Ok(Some(wraps.collect::<Found<_>>()?))
}

#[derive(sqlx::FromRow)]
struct JoinColumns {
    size: i64,
    frontier: Vec<u8>,
    state: Vec<u8>,
    tree: Vec<u8>,
    wrap: Vec<u8>,
    welcome: Option<Vec<u8>>,
}

async fn join(
    conn: &mut SqliteConnection,
    (group, epoch): &(GroupId, u64),
) -> Found<Option<JoinRow>> {
    let row: Option<JoinColumns> = sqlx::query_as(
        "SELECT size, frontier, state, tree, wrap, welcome FROM join_states WHERE group_id = ? AND epoch = ?",
    )
    .bind(group.as_bytes())
    .bind(int(*epoch))
    .fetch_optional(&mut *conn)
    .await?;
    let row = row.and_then(|row| row.welcome.clone().map(|welcome| (row, welcome)));
    row.map(|(row, welcome)| {
        Ok(JoinRow {
            size: uint(row.size)?,
            frontier: decode("frontier", &row.frontier)?,
            state: row.state.into(),
            tree: row.tree.into(),
            wrap: decode("wrap", &row.wrap)?,
            welcome: welcome.into(),
        })
    })
    .transpose()
}

type WelcomeColumns = (i64, Vec<u8>, Vec<u8>, i64);

fn welcome_row((number, device, group, epoch): WelcomeColumns) -> Found<WelcomeRow> {
    Ok(WelcomeRow {
        id: uint(number)?,
        device: id(&device, DeviceId::from_slice)?,
        group: id(&group, GroupId::from_slice)?,
        epoch: uint(epoch)?,
    })
}

async fn welcome(conn: &mut SqliteConnection, number: &u64) -> Found<Option<WelcomeRow>> {
    let row: Option<WelcomeColumns> =
        sqlx::query_as("SELECT id, device, group_id, epoch FROM welcomes WHERE id = ?")
            .bind(int(*number))
            .fetch_optional(&mut *conn)
            .await?;
    row.map(welcome_row).transpose()
}

async fn waiting(conn: &mut SqliteConnection, device: &DeviceId) -> Found<Option<Vec<WelcomeRow>>> {
    let rows: Vec<WelcomeColumns> = sqlx::query_as(
        "SELECT id, device, group_id, epoch FROM welcomes WHERE device = ? ORDER BY id",
    )
    .bind(device.as_bytes())
    .fetch_all(&mut *conn)
    .await?;
    let rows = rows.into_iter().map(welcome_row);
    Ok(Some(rows.collect::<Found<_>>()?))
}

async fn memberships(
    conn: &mut SqliteConnection,
    device: &DeviceId,
) -> Found<Option<Vec<GroupId>>> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as(
        "SELECT group_id FROM members m WHERE device = ? AND NOT EXISTS \
         (SELECT 1 FROM welcomes w WHERE w.device = m.device AND w.group_id = m.group_id) ORDER BY group_id",
    )
    .bind(device.as_bytes())
    .fetch_all(&mut *conn)
    .await?;
    let groups = rows.iter().map(|(group,)| id(group, GroupId::from_slice));
    Ok(Some(groups.collect::<Found<_>>()?))
}

#[derive(sqlx::FromRow)]
pub(super) struct PleaColumns {
    group_id: Vec<u8>,
    device: Vec<u8>,
    user: Vec<u8>,
    what: i64,
    at_ms: i64,
}

pub(super) fn plea_row(columns: PleaColumns) -> Found<PleaRow> {
    let what = [Plea::Wrap, Plea::ReAdd]
        .into_iter()
        .find(|what| i64::from(*what as u8) == columns.what);
    Ok(PleaRow {
        group: id(&columns.group_id, GroupId::from_slice)?,
        device: id(&columns.device, DeviceId::from_slice)?,
        user: id(&columns.user, UserId::from_slice)?,
        what: what.ok_or(StoreError::Corrupt { what: "plea" })?,
        at: UnixMs(uint(columns.at_ms)?),
    })
}

async fn group_pleas(conn: &mut SqliteConnection, group: &GroupId) -> Found<Option<Vec<PleaRow>>> {
    let rows: Vec<PleaColumns> = sqlx::query_as(
        "SELECT group_id, device, user, what, at_ms FROM asks WHERE group_id = ? ORDER BY at_ms, device, what",
    )
    .bind(group.as_bytes())
    .fetch_all(&mut *conn)
    .await?;
    let rows = rows.into_iter().map(plea_row);
    Ok(Some(rows.collect::<Found<_>>()?))
}

async fn device_pleas(
    conn: &mut SqliteConnection,
    device: &DeviceId,
) -> Found<Option<Vec<PleaRow>>> {
    let rows: Vec<PleaColumns> = sqlx::query_as(
        "SELECT group_id, device, user, what, at_ms FROM asks WHERE device = ? ORDER BY at_ms, group_id, what",
    )
    .bind(device.as_bytes())
    .fetch_all(&mut *conn)
    .await?;
    let rows = rows.into_iter().map(plea_row);
    Ok(Some(rows.collect::<Found<_>>()?))
}

async fn due(conn: &mut SqliteConnection, group: &GroupId) -> Found<Option<u64>> {
    let (least,): (Option<i64>,) = sqlx::query_as(
        "SELECT min(due_epoch) FROM documents WHERE group_id = ? AND due_epoch > 0 AND closed IS NULL",
    )
    .bind(group.as_bytes())
    .fetch_one(&mut *conn)
    .await?;
    least.map(uint).transpose()
}

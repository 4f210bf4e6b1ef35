//! Rows that every append compares: many at once, with few statements.

use std::collections::{BTreeSet, HashMap};

use conclave_order::Rows;
use conclave_order::rows::{AuthorRow, DeviceRow, DocumentRow, GroupRow, LoginRow};
use conclave_proto::record::CloseReason;
use conclave_proto::{
    Author, DeviceId, DocumentId, Frontier, GroupId, Hash, InstanceId, LifeToken, UnixMs, UserId,
};
use conclave_rules::LogId;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::codes::{decode, hash, id, uint};
use crate::sqlite::StoreError;

/// Rows of one statement, the most first: few sizes, so that statements stay prepared.
const AT_ONCE: [usize; 4] = [64, 16, 4, 1];

/// Splits a list into runs of the sizes in [`AT_ONCE`].
pub(super) fn runs<T>(mut items: &[T]) -> Vec<&[T]> {
    let mut runs = Vec::new();
    for size in AT_ONCE {
        while let Some((run, rest)) = items.split_at_checked(size) {
            runs.push(run);
            items = rest;
        }
    }
    runs
}

pub(super) fn log_id(group: &[u8], document: &[u8]) -> Result<LogId, StoreError> {
    Ok(LogId {
        group: id(group, GroupId::from_slice)?,
        document: id(document, DocumentId::from_slice)?,
    })
}

type DeviceColumns = (
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    i64,
    i64,
    i64,
    i64,
    i64,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
);

fn life_token(bytes: &[u8]) -> Result<LifeToken, StoreError> {
    id(bytes, |bytes| bytes.try_into().ok().map(LifeToken))
}

pub(super) async fn devices(
    conn: &mut SqliteConnection,
    wanted: &BTreeSet<DeviceId>,
    rows: &mut Rows,
) -> Result<(), StoreError> {
    rows.devices.extend(wanted.iter().map(|key| (*key, None)));
    let wanted: Vec<&DeviceId> = wanted.iter().collect();
    for run in runs(&wanted) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT d.device, d.user, d.key, d.revoked, u.disabled, d.session, d.session_ms, d.life, d.token, d.next \
             FROM devices d JOIN accounts u USING (user) WHERE d.device IN (",
        );
        let mut list = query.separated(", ");
        for device in run {
            list.push_bind(device.as_bytes().to_vec());
        }
        query.push(")");
        let found: Vec<DeviceColumns> = query.build_query_as().fetch_all(&mut *conn).await?;
        for (device, user, key, revoked, disabled, session, at, life, token, next) in found {
            let row = DeviceRow {
                user: id(&user, UserId::from_slice)?,
                key,
                revoked: revoked != 0,
                disabled: disabled != 0,
                login: LoginRow {
                    session: uint(session)?,
                    at: UnixMs(uint(at)?),
                    life: uint(life)?,
                    token: token.map(|bytes| life_token(&bytes)).transpose()?,
                    next: next.map(|bytes| life_token(&bytes)).transpose()?,
                },
            };
            let device = id(&device, DeviceId::from_slice)?;
            rows.devices.insert(device, Some(row));
        }
    }
    Ok(())
}

type GroupColumns = (Vec<u8>, i64, i64, i64, Vec<u8>, Vec<u8>, i64, Option<i64>);

pub(super) async fn groups(
    conn: &mut SqliteConnection,
    wanted: &BTreeSet<GroupId>,
    rows: &mut Rows,
) -> Result<(), StoreError> {
    rows.groups.extend(wanted.iter().map(|key| (*key, None)));
    let wanted: Vec<&GroupId> = wanted.iter().collect();
    for run in runs(&wanted) {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT id, epoch, size, version, genesis, creator, grown_in, base FROM groups WHERE id IN (",
        );
        let mut list = query.separated(", ");
        for group in run {
            list.push_bind(group.as_bytes().to_vec());
        }
        query.push(")");
        let found: Vec<GroupColumns> = query.build_query_as().fetch_all(&mut *conn).await?;
        for (group, epoch, size, version, genesis, creator, grown_in, base) in found {
            let row = GroupRow {
                epoch: uint(epoch)?,
                size: uint(size)?,
                version: uint(version)?,
                genesis: hash(&genesis)?,
                creator: id(&creator, DeviceId::from_slice)?,
                grown_in: uint(grown_in)?,
                base: base.map(uint).transpose()?,
            };
            let group = id(&group, GroupId::from_slice)?;
            rows.groups.insert(group, Some(row));
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct DocumentColumns {
    group_id: Vec<u8>,
    document: Vec<u8>,
    id: i64,
    frontier: Vec<u8>,
    last_epoch: i64,
    last_epoch_seq: i64,
    author_count: i64,
    weight: i64,
    covered: i64,
    closed: Option<i64>,
    grown_in: i64,
    base: Option<Vec<u8>>,
}

/// Right edge of a log where it begins here.
pub(super) fn base(bytes: Option<&[u8]>) -> Result<Frontier, StoreError> {
    bytes.map_or_else(|| Ok(Frontier::new()), |bytes| decode("frontier", bytes))
}

pub(super) fn close_reason(number: i64) -> Result<CloseReason, StoreError> {
    [
        CloseReason::Archived,
        CloseReason::Deleted,
        CloseReason::Lost,
    ]
    .into_iter()
    .find(|reason| i64::from(*reason as u8) == number)
    .ok_or(StoreError::Corrupt {
        what: "close reason",
    })
}

impl DocumentColumns {
    fn row(&self) -> Result<DocumentRow, StoreError> {
        Ok(DocumentRow {
            frontier: decode("frontier", &self.frontier)?,
            last_epoch: uint(self.last_epoch)?,
            last_epoch_seq: uint(self.last_epoch_seq)?,
            author_count: uint(self.author_count)?,
            weight: uint(self.weight)?,
            covered: uint(self.covered)?,
            closed: self.closed.map(close_reason).transpose()?,
            grown_in: uint(self.grown_in)?,
            base: base(self.base.as_deref())?,
        })
    }
}

pub(super) async fn documents(
    conn: &mut SqliteConnection,
    wanted: &BTreeSet<LogId>,
    rows: &mut Rows,
    numbers: &mut HashMap<LogId, i64>,
) -> Result<(), StoreError> {
    rows.documents.extend(wanted.iter().map(|key| (*key, None)));
    let wanted: Vec<&LogId> = wanted.iter().collect();
    for run in runs(&wanted) {
        let mut query = QueryBuilder::<Sqlite>::new("WITH wanted (group_id, document) AS (");
        query.push_values(run, |mut values, log| {
            values
                .push_bind(log.group.as_bytes().to_vec())
                .push_bind(log.document.as_bytes().to_vec());
        });
        query.push(
            ") SELECT d.group_id, d.document, d.id, d.frontier, d.last_epoch, d.last_epoch_seq, d.author_count, d.weight, \
                d.covered, d.closed, d.grown_in, d.base \
             FROM wanted w CROSS JOIN documents d ON d.group_id = w.group_id AND d.document = w.document",
        );
        let found: Vec<DocumentColumns> = query.build_query_as().fetch_all(&mut *conn).await?;
        for columns in found {
            let log = log_id(&columns.group_id, &columns.document)?;
            numbers.insert(log, columns.id);
            rows.documents.insert(log, Some(columns.row()?));
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct AuthorColumns {
    group_id: Vec<u8>,
    document: Vec<u8>,
    device: Vec<u8>,
    instance: Vec<u8>,
    no: i64,
    next_clock: i64,
    last_leaf: Vec<u8>,
    closed: i64,
}

pub(super) async fn authors(
    conn: &mut SqliteConnection,
    wanted: &BTreeSet<(LogId, Author)>,
    rows: &mut Rows,
) -> Result<(), StoreError> {
    rows.authors.extend(wanted.iter().map(|key| (*key, None)));
    let wanted: Vec<&(LogId, Author)> = wanted.iter().collect();
    for run in runs(&wanted) {
        let mut query =
            QueryBuilder::<Sqlite>::new("WITH wanted (group_id, document, device, instance) AS (");
        query.push_values(run, |mut values, (log, author)| {
            values
                .push_bind(log.group.as_bytes().to_vec())
                .push_bind(log.document.as_bytes().to_vec())
                .push_bind(author.device.as_bytes().to_vec())
                .push_bind(author.instance.as_bytes().to_vec());
        });
        query.push(
            ") SELECT d.group_id, d.document, a.device, a.instance, a.no, a.next_clock, a.last_leaf, a.closed \
             FROM wanted w CROSS JOIN documents d ON d.group_id = w.group_id AND d.document = w.document \
             CROSS JOIN authors a ON a.doc = d.id AND a.device = w.device AND a.instance = w.instance",
        );
        let found: Vec<AuthorColumns> = query.build_query_as().fetch_all(&mut *conn).await?;
        for columns in found {
            let log = log_id(&columns.group_id, &columns.document)?;
            let author = Author {
                device: id(&columns.device, DeviceId::from_slice)?,
                instance: id(&columns.instance, InstanceId::from_slice)?,
            };
            let last_leaf: Hash = hash(&columns.last_leaf)?;
            let row = AuthorRow {
                no: uint(columns.no)?,
                next_clock: uint(columns.next_clock)?,
                last_leaf,
                closed: columns.closed != 0,
            };
            rows.authors.insert((log, author), Some(row));
        }
    }
    Ok(())
}

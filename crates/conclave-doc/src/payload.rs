//! What is sealed in snapshots, verdicts and carried records. An update seals the bytes of its CRDT and nothing else.

use std::collections::BTreeMap;

use conclave_crdt::ReplicaId;
use conclave_crdt::cost::BALANCE_CAP;
use conclave_proto::codec::{Bytes, DecodeError, Varint, decode, encode};
use conclave_proto::limits::{CARRIED_BYTES, REPLICAS_PER_RECORD, SNAPSHOT_BYTES, UPDATE_BYTES};
use conclave_proto::record::Record;
use conclave_proto::{Author, DeviceId, Frontier, Hash, UserId};
use conclave_rules::Chain;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};
use zeroize::{Zeroize, Zeroizing};

use crate::claims::{ClaimRun, Claims};
use crate::seal::RecordKeys;

/// Version of [`SnapshotPayload`] that this library writes.
pub const SNAPSHOT_VERSION: u16 = 3;
/// Version of [`VerdictPayload`] that this library writes.
pub const VERDICT_VERSION: u8 = 2;

/// Who owns a replica id, and how far its operations go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReplicaOwner {
    /// The device that introduced the id.
    pub device: DeviceId,
    /// Counter of its next operation.
    pub next: u64,
}

/// What a user's updates have cost a document, and how much of it they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct Account {
    /// What the next updates may cost, in units.
    pub balance: u64,
    /// By how much they have made the document grow (canonical blocks of Yjs, operations of Automerge), and what could not be paid of what engines refused.
    pub size: u64,
}

impl Account {
    /// Of a user who has written nothing.
    pub const FULL: Self = Self {
        balance: BALANCE_CAP,
        size: 0,
    };
}

// Each record's row has one: names of fields would be half of it.
impl From<(u64, u64)> for Account {
    fn from((balance, size): (u64, u64)) -> Self {
        Self { balance, size }
    }
}

impl From<Account> for (u64, u64) {
    fn from(account: Account) -> Self {
        (account.balance, account.size)
    }
}

/// What every member knows alike after a prefix of a document's log, beside the CRDT itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tables {
    /// Highest epoch of any record so far.
    pub epoch_high: u64,
    /// Authors' chains.
    pub chains: BTreeMap<Author, Chain>,
    /// Owners of replica ids.
    pub owners: BTreeMap<ReplicaId, ReplicaOwner>,
    /// What users' updates have cost. Who has no row has a full account.
    pub costs: BTreeMap<UserId, Account>,
    /// Size of the document: canonical blocks of Yjs, operations of Automerge.
    pub ops: u64,
}

impl Tables {
    /// Last record of an author's chain, as [`conclave_proto::record::check_link`] wants it.
    #[must_use]
    pub fn last_link(&self, author: &Author) -> Option<(u64, Hash)> {
        self.chains.get(author).and_then(Chain::last_link)
    }

    /// A user's account.
    #[must_use]
    pub fn account(&self, user: &UserId) -> Account {
        self.costs.get(user).copied().unwrap_or(Account::FULL)
    }

    /// A user's account is this from now on.
    pub fn set_account(&mut self, user: UserId, account: Account) {
        if account == Account::FULL {
            self.costs.remove(&user);
        } else {
            self.costs.insert(user, account);
        }
    }

    /// Operations of a device up to these counters are in the log.
    pub(crate) fn claim(&mut self, device: DeviceId, claims: &[(ReplicaId, u64)]) {
        for (replica, next) in claims {
            let owner = ReplicaOwner {
                device,
                next: *next,
            };
            match self.owners.get_mut(replica) {
                Some(known) => *known = owner,
                None => drop(self.owners.insert(replica.clone(), owner)),
            }
        }
    }

    /// Puts a record of `author` at the end of its chain. A first record closes the device's other instances.
    pub fn advance(&mut self, author: Author, clock: u64, leaf: Hash) {
        if clock == 0 {
            let device = author.device;
            for (other, chain) in &mut self.chains {
                if other.device == device {
                    chain.closed = true;
                }
            }
        }
        let closed = self.chains.get(&author).is_some_and(|chain| chain.closed);
        self.chains.insert(
            author,
            Chain {
                next: clock.saturating_add(1),
                last: leaf,
                closed,
            },
        );
    }
}

/// One row of the author table.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct AuthorRow {
    author: Author,
    next: u64,
    last: Hash,
    closed: u8,
}

/// One row of the replica table.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct ReplicaRow {
    replica: Bytes,
    device: DeviceId,
    next: u64,
}

/// One row of the table of costs.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct CostRow {
    user: UserId,
    balance: u64,
    size: u64,
}

/// Where records of a higher epoch begin: how far from where the last one did, and how much higher it is.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct EpochRow {
    after: Varint,
    more: Varint,
}

/// Records of a replica id's row, one after another: how many others lie between them and the last ones of the row, how many they are, and how many
/// operations each brought.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct ClaimRow {
    after: Varint,
    records: Varint,
    each: Varint,
    carrier: Option<DeviceId>,
}

/// The records of one replica id: of each row of the replica table, in its order.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct ReplicaClaims {
    rows: Vec<ClaimRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct WireClaims {
    epochs: Vec<EpochRow>,
    replicas: Vec<ReplicaClaims>,
}

impl WireClaims {
    fn of(tables: &Tables, claims: &Claims) -> Self {
        let mut begun = (0, 0);
        let epochs = claims.epochs.iter().map(|(seq, epoch)| {
            let last = std::mem::replace(&mut begun, (*seq, *epoch));
            EpochRow {
                after: Varint(seq.saturating_sub(last.0)),
                more: Varint(epoch.saturating_sub(last.1)),
            }
        });
        let epochs = epochs.collect();
        let replicas = tables.owners.keys().map(|replica| {
            let mut next = 0;
            let runs = claims.runs.get(replica).into_iter().flatten();
            let rows = runs.map(|run| {
                let after = Varint(run.seq.saturating_sub(next));
                next = run.seq.saturating_add(run.records);
                ClaimRow {
                    after,
                    records: Varint(run.records),
                    each: Varint(run.each),
                    carrier: run.carrier,
                }
            });
            ReplicaClaims {
                rows: rows.collect(),
            }
        });
        Self {
            epochs,
            replicas: replicas.collect(),
        }
    }

    /// The claims of the log's first `size` records, of which all replica ids' operations are some record's; none where they are not.
    fn read(self, tables: &Tables, size: u64) -> Option<Claims> {
        let mut claims = Claims::default();
        let mut last: Option<(u64, u64)> = None;
        for row in self.epochs {
            let (seq, epoch) = last.unwrap_or_default();
            let next = (
                seq.checked_add(row.after.0)?,
                epoch.checked_add(row.more.0)?,
            );
            if last.is_some_and(|last| next.0 <= last.0 || next.1 <= last.1) || next.0 >= size {
                return None;
            }
            claims.epochs.push(next);
            last = Some(next);
        }
        if claims.epochs.last().map_or(0, |(_, epoch)| *epoch) != tables.epoch_high
            || self.replicas.len() != tables.owners.len()
        {
            return None;
        }
        let most = size.saturating_mul(REPLICAS_PER_RECORD as u64);
        // What a document begins with may be by any number of replica ids.
        let most = most.saturating_add(tables.owners.len() as u64);
        let mut records = 0u64;
        for ((replica, owner), rows) in tables.owners.iter().zip(self.replicas) {
            let runs = read_runs(rows.rows, owner.next, size)?;
            records = runs
                .iter()
                .try_fold(records, |all, run| all.checked_add(run.records))?;
            if records > most {
                return None;
            }
            if !runs.is_empty() {
                claims.runs.insert(replica.clone(), runs);
            }
        }
        Some(claims)
    }
}

/// The runs of a replica id whose next operation has the counter `next`.
fn read_runs(rows: Vec<ClaimRow>, next: u64, size: u64) -> Option<Vec<ClaimRun>> {
    let count = |row: &ClaimRow| row.records.0.checked_mul(row.each.0);
    let all = rows
        .iter()
        .try_fold(0u64, |all, row| all.checked_add(count(row)?))?;
    let mut counter = next.checked_sub(all)?;
    // Yjs counts from 0, Automerge from 1.
    if counter > 1 {
        return None;
    }
    let mut seq = 0u64;
    let mut runs: Vec<ClaimRun> = Vec::with_capacity(rows.len());
    for row in rows {
        let run = ClaimRun {
            counter,
            seq: seq.checked_add(row.after.0)?,
            records: row.records.0,
            each: row.each.0,
            carrier: row.carrier,
        };
        seq = run.seq.checked_add(run.records)?;
        let splits = runs.last().is_some_and(|last| last.goes_on(&run));
        if run.records == 0 || run.each == 0 || seq > size || splits {
            return None;
        }
        counter = run.end();
        runs.push(run);
    }
    Some(runs)
}

#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct WireSnapshot {
    version: u16,
    epoch_high: u64,
    frontier: Frontier,
    authors: Vec<AuthorRow>,
    replicas: Vec<ReplicaRow>,
    costs: Vec<CostRow>,
    ops: u64,
    claims: Option<WireClaims>,
    state: Bytes,
}

/// What a snapshot seals: a document's state up to its covered head.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotPayload {
    /// Frontier of the log at the covered head.
    pub frontier: Frontier,
    /// Chains, owners, highest epoch, costs.
    pub tables: Tables,
    /// Which record brought which operations: of all, or nothing of it.
    pub claims: Option<Claims>,
    /// State of the CRDT, with what waits for missing operations.
    pub state: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SnapshotPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SnapshotPayload(covers {}, {} bytes)",
            self.frontier.size(),
            self.state.len()
        )
    }
}

impl SnapshotPayload {
    /// Encodes: `uint16 version; uint64 epoch_high; Frontier; AuthorRow authors<V>; ReplicaRow replicas<V>; CostRow costs<V>;
    /// uint64 ops; optional<Claims>; opaque state<V>`.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let authors = self
            .tables
            .chains
            .iter()
            .map(|(author, chain)| AuthorRow {
                author: *author,
                next: chain.next,
                last: chain.last,
                closed: u8::from(chain.closed),
            })
            .collect();
        let replicas = self
            .tables
            .owners
            .iter()
            .map(|(replica, owner)| ReplicaRow {
                replica: Bytes::from(replica.as_bytes()),
                device: owner.device,
                next: owner.next,
            })
            .collect();
        let costs = self.tables.costs.iter();
        let costs = costs.map(|(user, account)| CostRow {
            user: *user,
            balance: account.balance,
            size: account.size,
        });
        let mut wire = WireSnapshot {
            version: SNAPSHOT_VERSION,
            epoch_high: self.tables.epoch_high,
            frontier: self.frontier.clone(),
            authors,
            replicas,
            costs: costs.collect(),
            ops: self.tables.ops,
            claims: self
                .claims
                .as_ref()
                .map(|claims| WireClaims::of(&self.tables, claims)),
            state: Bytes::from(self.state.as_slice()),
        };
        let bytes = Zeroizing::new(encode(&wire));
        drop(Zeroizing::new(std::mem::take(&mut wire.state).into_vec()));
        bytes
    }

    /// The version of a payload, where this library does not know it: what it says beyond that is not for this program to judge.
    #[must_use]
    pub fn unknown_version(bytes: &[u8]) -> Option<u16> {
        let version = u16::from_be_bytes(*bytes.first_chunk()?);
        (version != SNAPSHOT_VERSION).then_some(version)
    }

    /// Decodes; rows must be sorted and unique, so that a table has one encoding.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else than one payload of a known version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "snapshot payload";
        let malformed = DecodeError::Malformed { what };
        let wire: WireSnapshot = decode(what, bytes, SNAPSHOT_BYTES)?;
        if wire.version != SNAPSHOT_VERSION {
            return Err(malformed);
        }
        let mut tables = Tables {
            epoch_high: wire.epoch_high,
            ops: wire.ops,
            ..Tables::default()
        };
        for row in wire.authors {
            if row.closed > 1 || row.next == 0 {
                return Err(malformed);
            }
            if tables
                .chains
                .last_key_value()
                .is_some_and(|(last, _)| *last >= row.author)
            {
                return Err(malformed);
            }
            let chain = Chain {
                next: row.next,
                last: row.last,
                closed: row.closed == 1,
            };
            tables.chains.insert(row.author, chain);
        }
        for row in wire.replicas {
            let replica = ReplicaId::from_bytes(row.replica.as_slice()).map_err(|_| malformed)?;
            if tables
                .owners
                .last_key_value()
                .is_some_and(|(last, _)| *last >= replica)
            {
                return Err(malformed);
            }
            tables.owners.insert(
                replica,
                ReplicaOwner {
                    device: row.device,
                    next: row.next,
                },
            );
        }
        for row in wire.costs {
            let last = tables.costs.last_key_value();
            let account = Account {
                balance: row.balance,
                size: row.size,
            };
            if row.balance > BALANCE_CAP
                || account == Account::FULL
                || last.is_some_and(|(last, _)| *last >= row.user)
            {
                return Err(malformed);
            }
            tables.costs.insert(row.user, account);
        }
        let claims = match wire.claims {
            Some(claims) => Some(
                claims
                    .read(&tables, wire.frontier.size())
                    .ok_or(malformed)?,
            ),
            None => None,
        };
        Ok(Self {
            frontier: wire.frontier,
            tables,
            claims,
            state: Zeroizing::new(wire.state.into_vec()),
        })
    }
}

/// Why a member's own state differs from a snapshot.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[repr(u8)]
#[non_exhaustive]
pub enum DiffersWhy {
    /// It cannot be opened or decoded.
    Unreadable = 1,
    /// The CRDT engine does not load it.
    Unloadable = 2,
    /// Its content is not that of the log up to the covered head.
    Content = 3,
    /// Its tables of authors, replicas or epochs are not those of the log.
    Tables = 4,
}

/// A member's judgement of a snapshot.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[repr(u8)]
pub enum Judgement {
    /// It is exactly the log up to the covered head.
    #[tls_codec(discriminant = 1)]
    Match,
    /// It is not.
    #[tls_codec(discriminant = 2)]
    Differs(DiffersWhy),
}

/// What a verdict seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct VerdictPayload {
    /// [`VERDICT_VERSION`].
    pub version: u8,
    /// Id of the snapshot.
    pub snapshot: Hash,
    /// Position from which the device has judged every record itself: 0, or the size of what the snapshot covers from which it opened the document.
    pub from: u64,
    /// What the member found.
    pub judgement: Judgement,
}

impl VerdictPayload {
    /// A verdict about a snapshot, of a device that has judged the log from `from` on.
    #[must_use]
    pub fn new(snapshot: Hash, from: u64, judgement: Judgement) -> Self {
        Self {
            version: VERDICT_VERSION,
            snapshot,
            from,
            judgement,
        }
    }

    /// Encodes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// The version of a verdict, where this library does not know it: what it says beyond that is not for this program to judge.
    #[must_use]
    pub fn unknown_version(bytes: &[u8]) -> Option<u16> {
        let version = *bytes.first()?;
        (version != VERDICT_VERSION).then_some(version.into())
    }

    /// Decodes.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else than one verdict of a known version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "verdict";
        let verdict: Self = decode(what, bytes, UPDATE_BYTES)?;
        if verdict.version == VERDICT_VERSION {
            Ok(verdict)
        } else {
            Err(DecodeError::Malformed { what })
        }
    }
}

#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct WireCarried {
    record: Record,
    content_key: [u8; 32],
    commitment_key: [u8; 32],
}

/// What a carried record seals: one update, as its author signed it, and the keys that open it and no other.
#[derive(Clone, PartialEq, Eq)]
pub struct CarriedPayload {
    /// The update.
    pub record: Record,
    /// Its keys.
    pub keys: RecordKeys,
}

impl std::fmt::Debug for CarriedPayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CarriedPayload({:?})", self.record.header.author)
    }
}

impl CarriedPayload {
    /// Encodes: `Record record; opaque content_key[32]; opaque commitment_key[32]`.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(encode(&self.record));
        bytes.reserve_exact(64);
        bytes.extend_from_slice(self.keys.content());
        bytes.extend_from_slice(self.keys.commitment());
        bytes
    }

    /// Decodes.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else than one payload.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut wire: WireCarried = decode("carried record", bytes, CARRIED_BYTES)?;
        let keys = RecordKeys::from_bytes(wire.content_key, wire.commitment_key);
        wire.content_key.zeroize();
        wire.commitment_key.zeroize();
        Ok(Self {
            record: wire.record,
            keys,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_proto::InstanceId;

    fn payload() -> SnapshotPayload {
        let mut tables = Tables {
            epoch_high: 7,
            ..Tables::default()
        };
        for at in 0..3u8 {
            let author = Author {
                device: DeviceId([at; 16]),
                instance: InstanceId([at; 8]),
            };
            tables.advance(author, u64::from(at), Hash([at; 32]));
            let replica = ReplicaId::from_bytes(&[at + 1]).unwrap();
            tables.owners.insert(
                replica,
                ReplicaOwner {
                    device: DeviceId([at; 16]),
                    next: 9,
                },
            );
            let (balance, size) = (u64::from(at), 7);
            let account = Account { balance, size };
            tables.costs.insert(UserId([at; 32]), account);
        }
        tables.ops = 21;
        let mut frontier = Frontier::new();
        frontier.push(Hash([5; 32]));
        SnapshotPayload {
            frontier,
            tables,
            claims: None,
            state: Zeroizing::new(vec![1, 2, 3]),
        }
    }

    fn run(counter: u64, seq: u64, (records, each): (u64, u64)) -> ClaimRun {
        ClaimRun {
            counter,
            seq,
            records,
            each,
            carrier: None,
        }
    }

    /// A payload over eight records that tells these runs of a replica id whose next operation has the counter `next`.
    fn telling(runs: Vec<ClaimRun>, next: u64, epochs: &[(u64, u64)]) -> SnapshotPayload {
        let mut payload = payload();
        let mut frontier = Frontier::new();
        (0..8).for_each(|leaf| frontier.push(Hash([leaf; 32])));
        let (replica, owner) = payload.tables.owners.pop_first().unwrap();
        payload.tables.owners.clear();
        let owner = ReplicaOwner { next, ..owner };
        payload.tables.owners.insert(replica.clone(), owner);
        payload.tables.epoch_high = epochs.last().map_or(0, |(_, epoch)| *epoch);
        payload.claims = Some(Claims {
            runs: BTreeMap::from([(replica, runs)]),
            epochs: epochs.to_vec(),
        });
        SnapshotPayload {
            frontier,
            ..payload
        }
    }

    #[test]
    fn claims_are_all_there_are_in_one_encoding() {
        let carrier = Some(DeviceId([9; 16]));
        let runs = vec![
            run(0, 0, (1, 5)),
            run(5, 2, (3, 1)),
            ClaimRun {
                carrier,
                ..run(8, 5, (1, 1))
            },
            run(9, 7, (1, 4)),
        ];
        let right = telling(runs.clone(), 13, &[(0, 1), (4, 6)]);
        let read = |payload: &SnapshotPayload| SnapshotPayload::from_bytes(&payload.to_bytes());
        assert_eq!(read(&right).unwrap(), right);
        let one = |run| telling(vec![run], 13, &[(0, 1)]);
        assert!(read(&one(run(0, 3, (1, 13)))).is_ok());
        assert!(read(&one(run(1, 3, (1, 12)))).is_ok(), "counted from 1");
        let wrong = [
            telling(runs.clone(), 14 + 1, &[(0, 1)]),
            telling(runs.clone(), 12, &[(0, 1)]),
            one(run(0, 8, (1, 13))),
            one(run(0, 3, (0, 13))),
            one(run(0, 3, (1, 0))),
            one(run(0, 0, (9, 1))),
            one(run(0, 0, (1 << 60, 1 << 60))),
            telling(vec![run(0, 1, (1, 1)), run(1, 2, (1, 1))], 2, &[(0, 1)]),
            telling(runs.clone(), 13, &[(0, 1), (8, 2)]),
            telling(runs.clone(), 13, &[(0, 1), (0, 2)]),
            telling(runs, 13, &[(0, 2), (4, 2)]),
        ];
        for (at, payload) in wrong.iter().enumerate() {
            assert!(read(payload).is_err(), "{at}");
        }
        let mut other_epoch = right.clone();
        other_epoch.tables.epoch_high = 7;
        assert!(read(&other_epoch).is_err());
    }

    #[test]
    fn snapshots_round_trip_and_refuse_other_bytes() {
        let payload = payload();
        let bytes = payload.to_bytes();
        assert_eq!(SnapshotPayload::from_bytes(&bytes).unwrap(), payload);
        for cut in 0..bytes.len() {
            assert!(SnapshotPayload::from_bytes(&bytes[..cut]).is_err());
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(SnapshotPayload::from_bytes(&longer).is_err());
        let mut other_version = bytes.to_vec();
        other_version[1] = 1;
        assert!(SnapshotPayload::from_bytes(&other_version).is_err());
    }

    #[test]
    fn a_table_of_costs_has_one_encoding() {
        let with = |user: u8, account| {
            let mut payload = payload();
            payload.tables.costs.insert(UserId([user; 32]), account);
            SnapshotPayload::from_bytes(&payload.to_bytes())
        };
        let account = |balance, size| Account { balance, size };
        assert!(with(9, account(BALANCE_CAP, 1)).is_ok());
        assert!(with(9, account(BALANCE_CAP - 1, 0)).is_ok());
        assert!(with(9, Account::FULL).is_err(), "a row that says nothing");
        assert!(with(9, account(BALANCE_CAP + 1, 1)).is_err());
        let mut bytes = payload().to_bytes();
        let row = |user: u8| [&[user; 32][..], &[0; 7], &[user]].concat();
        let at = bytes.windows(40).position(|it| it == row(1)).unwrap();
        for user in [0, 2] {
            bytes[at..at + 32].fill(user);
            assert!(SnapshotPayload::from_bytes(&bytes).is_err());
        }
    }

    #[test]
    fn a_first_record_closes_the_older_instances_of_its_device() {
        let mut tables = Tables::default();
        let author = |instance| Author {
            device: DeviceId([1; 16]),
            instance: InstanceId([instance; 8]),
        };
        tables.advance(author(1), 0, Hash([1; 32]));
        tables.advance(author(1), 1, Hash([2; 32]));
        assert!(!tables.chains[&author(1)].closed);
        tables.advance(author(2), 0, Hash([3; 32]));
        assert!(tables.chains[&author(1)].closed);
        assert!(!tables.chains[&author(2)].closed);
        assert_eq!(tables.last_link(&author(1)), Some((1, Hash([2; 32]))));
    }

    #[test]
    fn verdicts_round_trip() {
        for judgement in [Judgement::Match, Judgement::Differs(DiffersWhy::Tables)] {
            let verdict = VerdictPayload::new(Hash([9; 32]), 7, judgement);
            assert_eq!(
                VerdictPayload::from_bytes(&verdict.to_bytes()).unwrap(),
                verdict
            );
        }
        assert!(VerdictPayload::from_bytes(&[3; 42]).is_err());
    }

    #[test]
    fn debug_shows_no_plaintext() {
        assert_eq!(
            format!("{:?}", payload()),
            "SnapshotPayload(covers 1, 3 bytes)"
        );
    }
}

//! What storage holds, as plain rows. A backend reads and writes them; the rules compare them.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::frame::Plea;
use conclave_proto::group::RootWrap;
use conclave_proto::record::{CloseReason, EntryBody, Record, RecordHeader, SnapshotHeader};
use conclave_proto::service::Generation;
use conclave_proto::{
    Author, DeviceId, Frontier, GroupId, Hash, Head, LifeToken, RecordBody, UnixMs, UserId,
};
use conclave_rules::LogId;

/// Version of everything that a backend keeps: of its tables, and of what the rows' bytes mean (public states, entries, records and what is
/// sealed in them, lists, packages). It goes up with every form of any of these that the program before cannot read, or this one cannot read any
/// more. A backend that outlives the program keeps it beside the rows, and opens no others.
pub const STORED_VERSION: u32 = 2;

/// A user's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountRow {
    /// Whether the operator has shut it.
    pub disabled: bool,
}

/// A device: it belongs to the user and the key under which it first logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its user.
    pub user: UserId,
    /// Its key.
    pub key: Vec<u8>,
    /// Whether its user's device list names it no more.
    pub revoked: bool,
    /// Whether its user's account is shut.
    pub disabled: bool,
    /// Its newest login, and the life that it goes on with.
    pub login: LoginRow,
}

/// How a device logged in last. A life is what one store of a device goes on as: with each login that is confirmed the next begins, so that an
/// older copy of the store has an older token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoginRow {
    /// Number of the newest session, raised with every login: what comes over an older one is not written.
    pub session: u64,
    /// When that was.
    pub at: UnixMs,
    /// Number of the present life.
    pub life: u64,
    /// Token of the present life; none before the first login.
    pub token: Option<LifeToken>,
    /// Token of the next life, which the device was told and has not confirmed.
    pub next: Option<LifeToken>,
}

/// A user's newest device list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRow {
    /// Its number.
    pub seq: u64,
    /// `SignedDeviceList`, encoded.
    pub bytes: Vec<u8>,
}

/// An invitation, found by the hash of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvitationRow {
    /// Short name, for revoking it.
    pub id: String,
    /// When it was made.
    pub created: UnixMs,
    /// When it ends.
    pub expires: UnixMs,
    /// Accounts it still admits.
    pub uses_left: u64,
}

/// What is there of a device's key packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StockRow {
    /// Whether there ever was one that is remembered.
    pub known: bool,
    /// Those that can be handed out: one-time ones first, the oldest first.
    pub left: Vec<LeftPackage>,
}

/// A key package that can be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftPackage {
    /// Whether it is handed out again and again, when nothing else is left.
    pub last_resort: bool,
    /// When it was made.
    pub created: UnixMs,
    /// Its reference.
    pub hash: Hash,
}

/// A key package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageRow {
    /// The device it belongs to.
    pub device: DeviceId,
    /// Whether it is handed out again and again.
    pub last_resort: bool,
    /// When it was made.
    pub created: UnixMs,
    /// The package; none when it was handed out.
    pub bytes: Option<Vec<u8>>,
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRow {
    /// Its epoch.
    pub epoch: u64,
    /// Entries in its log.
    pub size: u64,
    /// Raised with everything that changes the group.
    pub version: u64,
    /// Hash of what it was founded with.
    pub genesis: Hash,
    /// Who founded it.
    pub creator: DeviceId,
    /// Number of the service's generation in which its log last grew.
    pub grown_in: u64,
    /// Size that its log had where a member brought it: what is before that is not here. None where the group was founded here.
    pub base: Option<u64>,
}

/// Where the log of a group begins that a member brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRow {
    /// Right edge of the log.
    pub frontier: Frontier,
    /// Its roots since the epoch began, up to this.
    pub roots: Vec<Hash>,
    /// Signed entries before it that created, closed and voided documents, in the order of the log.
    pub entries: Vec<Record>,
}

impl BaseRow {
    /// The root that the log had at a size, if that is known.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        let back = usize::try_from(self.frontier.size().checked_sub(size)?).ok()?;
        self.roots.iter().rev().nth(back).copied()
    }
}

/// Where something was judged: what the group has to be at still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupAt {
    /// Its epoch.
    pub epoch: u64,
    /// Entries in its log.
    pub size: u64,
    /// Its version: epoch and size do not tell of another GroupInfo.
    pub version: u64,
}

impl GroupRow {
    /// Where it stands.
    #[must_use]
    pub fn at(&self) -> GroupAt {
        GroupAt {
            epoch: self.epoch,
            size: self.size,
            version: self.version,
        }
    }
}

/// A row of a group's public state, as `PublicGroupState` makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartChange {
    /// Which.
    pub part: Bytes,
    /// What it holds then; none where it goes.
    pub value: Option<Bytes>,
}

impl PartChange {
    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let value = self.value.as_ref().map_or(0, Bytes::len);
        (self.part.len() + value) as u64
    }
}

/// A group's public state as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartsRow {
    /// The rows of its `PublicGroupState`. The roots since the epoch began are the log's.
    pub parts: BTreeMap<Bytes, Bytes>,
    /// Version of the group.
    pub version: u64,
    /// The root wrap that came with the newest commit.
    pub wrap: Option<RootWrap>,
}

/// A position of a log, and the head after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The position.
    pub seq: u64,
    /// The head after it.
    pub head: Head,
}

impl Position {
    /// The position whose log has this root up to and including it.
    #[must_use]
    pub fn of(seq: u64, root: Hash) -> Self {
        let size = seq.saturating_add(1);
        Self {
            seq,
            head: Head { size, root },
        }
    }
}

/// Kind of an entry of a group's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A commit.
    Commit = 1,
    /// A standalone proposal.
    Proposal = 2,
    /// A signed entry.
    Signed = 3,
}

/// An entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRow {
    /// Its kind.
    pub kind: EntryKind,
    /// The epoch that a commit ends.
    pub epoch: Option<u64>,
    /// Its leaf.
    pub leaf: Hash,
    /// Root of the log up to and including it.
    pub root: Hash,
    /// `GroupEntry`, encoded.
    pub bytes: Bytes,
}

/// Who wrote a signed entry, where it lists this document.
#[must_use]
pub fn lister(entry: &Record, log: &LogId) -> Option<Author> {
    let header = &entry.header;
    match header.body {
        RecordBody::Entry(EntryBody::DocumentCreated { document, .. })
            if document == log.document =>
        {
            Some(header.author)
        }
        _ => None,
    }
}

/// What all who join in one epoch need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRow {
    /// Size of the log with the commit that began the epoch.
    pub size: u64,
    /// Right edge of the log.
    pub frontier: Frontier,
    /// `GroupState`, encoded.
    pub state: Bytes,
    /// The ratchet tree.
    pub tree: Bytes,
    /// The wrap that came with the commit.
    pub wrap: RootWrap,
    /// The Welcome.
    pub welcome: Bytes,
}

/// A Welcome that a device has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WelcomeRow {
    /// Its number.
    pub id: u64,
    /// The device.
    pub device: DeviceId,
    /// The group.
    pub group: GroupId,
    /// The epoch that it leads into.
    pub epoch: u64,
}

/// A plea for help that nobody has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PleaRow {
    /// The group.
    pub group: GroupId,
    /// Who makes it.
    pub device: DeviceId,
    /// Its user.
    pub user: UserId,
    /// What for.
    pub what: Plea,
    /// Since when.
    pub at: UnixMs,
}

/// Where a document's log stands: what every append needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRow {
    /// Right edge of the log.
    pub frontier: Frontier,
    /// Epoch of the newest record.
    pub last_epoch: u64,
    /// First position of that epoch.
    pub last_epoch_seq: u64,
    /// Authors so far.
    pub author_count: u64,
    /// Encoded bytes of all updates.
    pub weight: u64,
    /// Size that the active snapshot covers.
    pub covered: u64,
    /// Why it was closed, if it was.
    pub closed: Option<CloseReason>,
    /// Number of the service's generation in which it last grew.
    pub grown_in: u64,
    /// Right edge of its log where a member brought it: what is before that is not here. Empty where all of it is.
    pub base: Frontier,
}

/// What the service is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRow {
    /// Its generation.
    pub generation: Generation,
    /// Until when all logs are held. It is over when it is taken away, not when its time comes.
    pub hold: Option<UnixMs>,
    /// Whether any log is being returned.
    pub recovers: bool,
}

/// A log that is being returned. It may be unknown here: that is what was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryRow {
    /// When it is given up.
    pub ends: UnixMs,
    /// The log.
    pub log: LogId,
    /// The largest head that it is known to have had, of the newest generation of which one is known.
    pub want: Head,
    /// Number of that generation: a head of an older one may be of what was given up since.
    pub of: u64,
    /// When it began.
    pub began: UnixMs,
}

/// A document's active snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveRow {
    /// Its position.
    pub seq: u64,
    /// Its id.
    pub id: Hash,
    /// Its header: a snapshot's.
    pub header: RecordHeader,
    /// Encoded size.
    pub bytes: u64,
    /// Encoded bytes of the updates that it covers.
    pub covered_weight: u64,
    /// First position of the epoch that was current when it came.
    pub epoch_seq: u64,
    /// Epoch under which a new one has to come, 0 for none.
    pub due_epoch: u64,
    /// Position of its parent, and when that was replaced; none where it is the document's first.
    pub parent: Option<(u64, UnixMs)>,
}

impl ActiveRow {
    /// What its header says as a snapshot's.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotHeader> {
        match self.header.body {
            RecordBody::Snapshot(snapshot) => Some(snapshot),
            _ => None,
        }
    }
}

/// An author of a document, numbered by the first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthorRow {
    /// Its number.
    pub no: u64,
    /// Clock of its next record.
    pub next_clock: u64,
    /// Leaf of its last record.
    pub last_leaf: Hash,
    /// Whether a later instance of the same device has written.
    pub closed: bool,
}

/// A record's kind as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// An update.
    Update = 1,
    /// A verdict.
    Verdict = 2,
    /// A snapshot.
    Snapshot = 3,
    /// A carried record.
    Carried = 7,
}

impl RecordKind {
    /// The kind with this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        [Self::Update, Self::Verdict, Self::Snapshot, Self::Carried]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }

    /// Whether its bytes count as news after a snapshot.
    #[must_use]
    pub fn weighs(self) -> bool {
        matches!(self, Self::Update | Self::Carried)
    }
}

/// A record of a document's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRow {
    /// Its position.
    pub seq: u64,
    /// Its kind.
    pub kind: RecordKind,
    /// Number of its author and its clock; none for a snapshot.
    pub chained: Option<(u64, u64)>,
    /// Its epoch.
    pub epoch: u64,
    /// Size of the prefix that its author had seen.
    pub seen: u64,
    /// First bytes of that prefix's root.
    pub hint: [u8; 8],
    /// Size that the snapshot active before it covers.
    pub covered: u64,
    /// Its leaf.
    pub leaf: Hash,
    /// Root of the log up to and including it.
    pub root: Hash,
    /// A snapshot's header, encoded; the others' follow from the columns.
    pub header: Option<Bytes>,
    /// What is sealed, encoded; none once it was let go.
    pub sealed: Option<Bytes>,
    /// Encoded bytes of all updates up to and including it.
    pub weight: u64,
}

/// What a record says of the log up to and including it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The root.
    pub root: Hash,
    /// Encoded bytes of all updates.
    pub weight: u64,
    /// The record's epoch.
    pub epoch: u64,
}

/// A snapshot that is neither the active one of its document nor that one's parent, and not its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplacedRow {
    /// Since when.
    pub since: UnixMs,
    /// The log.
    pub log: LogId,
    /// Its position.
    pub seq: u64,
}

/// For whom a snapshot's content counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaidRow {
    /// Whose device brought it.
    pub user: UserId,
    /// How much it takes.
    pub bytes: u64,
}

/// A document that was deleted, whose content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErasingRow {
    /// The document.
    pub log: LogId,
    /// Position before which all content has gone.
    pub from: u64,
    /// Size of its log.
    pub size: u64,
}

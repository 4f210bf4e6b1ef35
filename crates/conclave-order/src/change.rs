//! What an operation changes, as data.

use conclave_proto::frame::Plea;
use conclave_proto::group::RootWrap;
use conclave_proto::merkle::NodeId;
use conclave_proto::record::CloseReason;
use conclave_proto::service::{Generation, Loss};
use conclave_proto::{Author, DeviceId, GroupId, Hash, UnixMs, UserId};
use conclave_rules::LogId;
use zeroize::Zeroizing;

use crate::keys::Rows;
use crate::rows::{
    ActiveRow, AuthorRow, BaseRow, DocumentRow, EntryRow, GroupAt, InvitationRow, JoinRow,
    LoginRow, PackageRow, PaidRow, PartChange, PleaRow, RecordRow, RecoveryRow, ReplacedRow,
};
use crate::usage::counted;

/// Thirty-two bytes that nothing prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// Keeps it.
    #[must_use]
    pub fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// The bytes, for storage.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// One change. What says `expected` is compared with what is stored in the moment of writing: where it is not so, somebody else was faster
/// ([`crate::Failure::Conflict`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A new account.
    Account {
        /// Whose.
        user: UserId,
        /// When.
        created: UnixMs,
    },
    /// A new device of a user who has an account.
    Device {
        /// The device.
        device: DeviceId,
        /// Its user.
        user: UserId,
        /// Its key.
        key: Vec<u8>,
        /// When.
        created: UnixMs,
    },
    /// A device has logged in, or its next life has begun.
    Login {
        /// The device.
        device: DeviceId,
        /// Its session before.
        expected: u64,
        /// What is stored of it.
        row: LoginRow,
    },
    /// A device loses or regains its standing.
    Revoked {
        /// The device.
        device: DeviceId,
        /// Whether it loses it.
        revoked: bool,
    },
    /// A newer device list.
    List {
        /// Whose.
        user: UserId,
        /// Number of the newest before.
        expected: Option<u64>,
        /// Its number.
        seq: u64,
        /// The list, encoded.
        bytes: Vec<u8>,
        /// When.
        stored: UnixMs,
    },
    /// A new invitation.
    Invitation {
        /// Hash of its token.
        hash: Hash,
        /// What is stored of it.
        row: InvitationRow,
    },
    /// An invitation is used once more.
    Redeemed {
        /// Hash of its token.
        hash: Hash,
        /// Uses before.
        expected: u64,
    },
    /// A key package. It was not known.
    Package {
        /// Its reference.
        hash: Hash,
        /// The package.
        row: PackageRow,
    },
    /// A one-time package is handed out: its reference stays.
    TakePackage {
        /// Its device.
        device: DeviceId,
        /// Its reference.
        hash: Hash,
    },
    /// A device's last-resort package goes.
    DropLastResort {
        /// The device.
        device: DeviceId,
    },
    /// All packages of a device go; references of one-time ones stay.
    ClearPackages {
        /// The device.
        device: DeviceId,
    },
    /// Packages made before this go, with their references, whosever they are.
    ForgetPackages {
        /// When.
        before: UnixMs,
    },
    /// A new group in epoch 0, with its founder as the only member.
    Group {
        /// The group.
        group: GroupId,
        /// Hash of what it was founded with.
        genesis: Hash,
        /// Who founded it.
        creator: DeviceId,
        /// The founder's user.
        user: UserId,
        /// The root of its empty log.
        root: Hash,
        /// Its public state.
        parts: Vec<PartChange>,
    },
    /// A group that a member brought: its log goes on from there.
    Adopted {
        /// The group.
        group: GroupId,
        /// Hash of what was offered.
        genesis: Hash,
        /// Who brought it.
        creator: DeviceId,
        /// Its epoch.
        epoch: u64,
        /// Where its log begins here.
        base: BaseRow,
    },
    /// A group goes, with its log, its documents, and what was wanted or declared lost of them; but not what the service is shown to have lost before.
    Dropped {
        /// The group.
        group: GroupId,
        /// The generation that begins with it.
        generation: u64,
    },
    /// An entry at the end of a group's log.
    Entry {
        /// The group.
        group: GroupId,
        /// Where the group stood before.
        expected: GroupAt,
        /// Epoch after.
        epoch: u64,
        /// Number of the service's generation.
        generation: u64,
        /// The entry. Its position is the size before.
        entry: EntryRow,
    },
    /// Another GroupInfo in the public state.
    GroupInfo {
        /// The group.
        group: GroupId,
        /// Where it stood before.
        expected: GroupAt,
        /// What of the state is another.
        parts: Vec<PartChange>,
    },
    /// What an entry changes of its group's public state.
    Parts {
        /// The group.
        group: GroupId,
        /// What changes.
        parts: Vec<PartChange>,
        /// The wrap that came with the commit, where there was one.
        wrap: Option<RootWrap>,
    },
    /// A member, or a new row of one.
    Member {
        /// The group.
        group: GroupId,
        /// The device.
        device: DeviceId,
        /// Its user.
        user: UserId,
    },
    /// A member goes, with the Welcomes that waited for it.
    MemberGone {
        /// The group.
        group: GroupId,
        /// The device.
        device: DeviceId,
    },
    /// What joiners of an epoch need, and who they are.
    Join {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: u64,
        /// What they need.
        row: JoinRow,
        /// Who they are.
        devices: Vec<DeviceId>,
    },
    /// A Welcome was taken.
    WelcomeGone {
        /// Its number.
        id: u64,
        /// Its device.
        device: DeviceId,
    },
    /// A root wrap, in place of the signer's own before.
    Wrap {
        /// The wrap.
        wrap: RootWrap,
    },
    /// Wraps of epochs before this, and what joiners needed up to it, go where no Welcome needs them.
    ForgetEpochs {
        /// The group.
        group: GroupId,
        /// Its epoch.
        current: u64,
    },
    /// A plea.
    Plea(PleaRow),
    /// A plea was answered, or is void.
    PleaGone {
        /// The group.
        group: GroupId,
        /// Whose.
        device: DeviceId,
        /// What for.
        what: Plea,
    },
    /// All open documents of a group are due for a snapshot.
    MarkDue {
        /// The group.
        group: GroupId,
        /// Under which epoch.
        epoch: u64,
    },
    /// A new document, with no record yet.
    Document {
        /// Its log.
        log: LogId,
        /// Code of its CRDT kind.
        crdt: u8,
        /// Who made it.
        creator: DeviceId,
        /// Where it stands.
        row: DocumentRow,
        /// The snapshot that it begins with.
        active: ActiveRow,
    },
    /// A document is closed. One that is archived stays due.
    Closed {
        /// Its log.
        log: LogId,
        /// Why.
        reason: CloseReason,
    },
    /// An archived document is open again.
    Reopened {
        /// Its log.
        log: LogId,
    },
    /// Records at the end of a document's log.
    Append {
        /// The log.
        log: LogId,
        /// Its size before.
        expected: u64,
        /// The records.
        records: Vec<RecordRow>,
        /// Inner nodes that they complete, of [`crate::NODE_LEVEL`] and above.
        nodes: Vec<(NodeId, Hash)>,
        /// Where the document stands then.
        row: DocumentRow,
    },
    /// An author's row: new, or in place of the one before.
    Author {
        /// The log.
        log: LogId,
        /// The author.
        author: Author,
        /// The row.
        row: AuthorRow,
    },
    /// Instances of a device with numbers below this write no more.
    CloseAuthors {
        /// The log.
        log: LogId,
        /// The device.
        device: DeviceId,
        /// Number of the newest instance.
        before: u64,
    },
    /// The active snapshot.
    Active {
        /// The log.
        log: LogId,
        /// The snapshot.
        row: ActiveRow,
    },
    /// A snapshot that is neither active nor the active one's parent any more.
    Replaced(ReplacedRow),
    /// Its content goes; its place in the log stays.
    LetGo(ReplacedRow),
    /// More or less is stored for a user in a log.
    Usage {
        /// The log.
        log: LogId,
        /// The user; all zero for nobody in particular.
        user: UserId,
        /// How much, in bytes.
        delta: i64,
    },
    /// A snapshot counts for a user until it loses its content.
    Paid {
        /// The log.
        log: LogId,
        /// Its position.
        seq: u64,
        /// For whom, and how much.
        row: PaidRow,
    },
    /// Records of a deleted document lose their content; their places in the log stay.
    Erase {
        /// The document.
        log: LogId,
        /// First position.
        from: u64,
        /// Position after the last.
        until: u64,
        /// Whether that is all of it.
        is_last: bool,
    },
    /// A generation begins.
    Generation {
        /// Number of the one before.
        expected: Option<u64>,
        /// The generation.
        generation: Generation,
        /// Seed of its head key.
        seed: Secret,
    },
    /// All logs are held until then, or not any more.
    Hold {
        /// Until when.
        ends: Option<UnixMs>,
    },
    /// No package that is stored is handed out any more; references of one-time ones stay.
    PackagesVoid,
    /// A log is being returned.
    Recovery(RecoveryRow),
    /// A log is not being returned any more.
    RecoveryGone {
        /// The log.
        log: LogId,
    },
    /// A loss is declared.
    Loss(Loss),
    /// No head's time lies past this.
    HeadTime {
        /// Seconds since 1970.
        until: u64,
    },
    /// A sign of life.
    Probe {
        /// When.
        now: UnixMs,
    },
}

impl Rows {
    /// Brings what was loaded up to date. Rows that are asked for often are changed; others are forgotten, and loaded again when somebody
    /// asks.
    pub(crate) fn follow(&mut self, change: &Change) {
        match change {
            Change::Account { user, .. } => {
                self.accounts.remove(user);
            }
            Change::Device { device, user, .. } => {
                self.devices.remove(device);
                self.siblings.remove(user);
                self.acquainted.remove(user);
            }
            Change::Login { device, row, .. } => {
                if let Some(Some(device)) = self.devices.get_mut(device) {
                    device.login = *row;
                }
            }
            Change::Revoked { device, revoked } => {
                if let Some(Some(row)) = self.devices.get_mut(device) {
                    row.revoked = *revoked;
                }
            }
            Change::List { user, .. } => {
                self.lists.remove(user);
            }
            Change::Invitation { hash, .. } | Change::Redeemed { hash, .. } => {
                self.invitations.remove(hash);
            }
            Change::Package { hash, row } => {
                self.packages.remove(hash);
                self.stocks.remove(&row.device);
            }
            Change::TakePackage { device, hash } => {
                self.packages.remove(hash);
                self.stocks.remove(device);
            }
            Change::DropLastResort { .. }
            | Change::ClearPackages { .. }
            | Change::ForgetPackages { .. }
            | Change::PackagesVoid => {
                self.packages.clear();
                self.stocks.clear();
            }
            Change::Group { group, .. } => {
                self.forget_group(group);
                self.acquainted.clear();
                self.memberships.clear();
            }
            Change::Adopted { group, .. } => {
                self.forget_group(group);
                self.bases.remove(group);
                self.listers.retain(|log, _| log.group != *group);
                self.group_roots.retain(|(of, _), _| of != group);
            }
            // Nothing of it is asked for often.
            Change::Dropped { .. } => *self = Self::default(),
            Change::Entry {
                group,
                expected,
                epoch,
                generation,
                entry,
            } => {
                if let Some(Some(row)) = self.groups.get_mut(group) {
                    row.grown_in = *generation;
                    row.epoch = *epoch;
                    row.size = expected.size.saturating_add(1);
                    row.version = expected.version.saturating_add(1);
                }
                self.parts.remove(group);
                self.listers.retain(|log, _| log.group != *group);
                self.entries.remove(&(*group, entry.leaf));
                self.commits.remove(&(*group, expected.epoch));
                self.group_roots
                    .remove(&(*group, expected.size.saturating_add(1)));
            }
            Change::GroupInfo {
                group, expected, ..
            } => {
                if let Some(Some(row)) = self.groups.get_mut(group) {
                    row.version = expected.version.saturating_add(1);
                }
                self.parts.remove(group);
            }
            Change::Parts { group, .. } => {
                self.parts.remove(group);
                self.commit_wraps.remove(group);
            }
            Change::Member { .. } | Change::MemberGone { .. } | Change::Join { .. } => {
                self.acquainted.clear();
                self.memberships.clear();
                self.waiting.clear();
                self.welcomes.clear();
                self.joins.clear();
            }
            Change::WelcomeGone { id, device } => {
                self.welcomes.remove(id);
                self.waiting.remove(device);
                self.memberships.remove(device);
            }
            Change::Wrap { wrap } => {
                let statement = &wrap.statement;
                self.wraps.remove(&(statement.group, statement.epoch));
            }
            Change::ForgetEpochs { .. } => {
                self.wraps.clear();
                self.joins.clear();
            }
            Change::Plea(PleaRow { group, device, .. })
            | Change::PleaGone { group, device, .. } => {
                self.group_pleas.remove(group);
                self.device_pleas.remove(device);
            }
            Change::MarkDue { group, .. } => {
                self.due.remove(group);
                self.actives.retain(|log, _| log.group != *group);
            }
            Change::Document { log, .. }
            | Change::Closed { log, .. }
            | Change::Reopened { log } => {
                self.erasing.clear();
                self.due.remove(&log.group);
                self.documents.remove(log);
                self.actives.remove(log);
            }
            Change::Append { log, row, .. } => {
                self.documents.insert(*log, Some(row.clone()));
                self.forget_positions(log);
            }
            Change::Author { log, author, row } => {
                self.authors.insert((*log, *author), Some(*row));
            }
            Change::CloseAuthors {
                log,
                device,
                before,
            } => self.close_authors(log, device, *before),
            Change::Active { log, row } => {
                self.due.remove(&log.group);
                self.actives.insert(*log, Some(row.clone()));
                if let Some(Some(document)) = self.documents.get_mut(log) {
                    document.covered = row.snapshot().map_or(0, |header| header.covered.size);
                }
            }
            Change::Replaced(_) => self.overdue.clear(),
            Change::LetGo(row) => {
                self.overdue.clear();
                self.paids.remove(&(row.log, row.seq));
            }
            Change::Usage { log, user, delta } => {
                if let Some(bytes) = self.usage_of_users.get_mut(user) {
                    *bytes = Some(counted(bytes.unwrap_or(0), *delta));
                }
                if let Some(bytes) = self.usage_of_groups.get_mut(&log.group) {
                    *bytes = Some(counted(bytes.unwrap_or(0), *delta));
                }
                self.shares.remove(log);
            }
            Change::Paid { log, seq, .. } => _ = self.paids.remove(&(*log, *seq)),
            Change::Erase { log, is_last, .. } => {
                self.erasing.clear();
                if *is_last {
                    self.overdue.clear();
                    self.paids.retain(|(of, _), _| of != log);
                }
            }
            Change::Generation { .. }
            | Change::Hold { .. }
            | Change::Recovery(_)
            | Change::RecoveryGone { .. } => {
                self.services.clear();
                self.recoveries.clear();
                self.ended.clear();
            }
            Change::Loss(loss) => _ = self.losses.remove(&loss.log.into()),
            Change::HeadTime { .. } | Change::Probe { .. } => {}
        }
    }

    fn forget_group(&mut self, group: &GroupId) {
        self.groups.remove(group);
        self.parts.remove(group);
    }

    /// Nothing of this costs anything while only frames of records come.
    fn forget_positions(&mut self, log: &LogId) {
        if !self.clocks.is_empty() {
            self.clocks.retain(|(of, _, _), _| of != log);
        }
        if !self.marks.is_empty() {
            self.marks.retain(|(of, _), _| of != log);
        }
        if !self.snapshots.is_empty() {
            self.snapshots.retain(|(of, _), _| of != log);
        }
        if !self.headers.is_empty() {
            self.headers.retain(|(of, _), _| of != log);
        }
        if !self.nodes.is_empty() {
            self.nodes.retain(|(of, _), _| of != log);
        }
    }

    fn close_authors(&mut self, log: &LogId, device: &DeviceId, before: u64) {
        for ((of, author), row) in &mut self.authors {
            if let Some(row) = row
                && of == log
                && author.device == *device
                && row.no < before
            {
                row.closed = true;
            }
        }
    }
}

//! What an application can ask of a device, and what a device tells.

use conclave_crdt::CrdtKind;
use conclave_proto::codec::Bytes;
use conclave_proto::record::CloseReason;
use conclave_proto::{
    DeviceId, DocumentId, EvidenceId, GroupId, GroupPolicy, Hash, RealmId, RescueId, Role, UnixMs,
    UserId,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use conclave_doc::{Typed, View};

use crate::clock::ClockOffset;
use crate::document::{BlameInfo, ChangedInfo, LogInfo, WriterInfo};
use crate::event::{BasisInfo, Person, Present, Showing};
use crate::evidence::ProofInfo;
use crate::finding::{FindingId, FindingInfo, Mark};
use crate::io::DocFn;
use crate::pause::{Pause, PauseChange, PauseInfo};
use crate::policy::PolicyChange;
use crate::presence::AttendeeId;
use crate::rescue::{Rescue, RescueApplied, RescueInfo};
use crate::revocation::RevocationInfo;
use crate::rotation::RekeyingInfo;
use crate::settled::UnderWay;

/// What a new store is for.
#[derive(Debug, Clone)]
pub enum Setup {
    /// A new user's first device.
    NewUser {
        /// What the user calls themselves; travels only in contact texts.
        name: String,
        /// Realm of all statements.
        realm: RealmId,
    },
    /// A further device of a user: it has to be approved by one that holds the user key.
    NewDevice {
        /// What the user calls the device.
        name: String,
        /// Realm of all statements.
        realm: RealmId,
    },
}

/// What an application asks.
pub enum Command {
    /// Who this device is. Reply: `WhoAmI`.
    WhoAmI,
    /// Text for a device that can approve this one. Reply: `Request`.
    DeviceRequest,
    /// Approves another device of this user. Reply: `Text` for that device.
    ApproveDevice(Approval),
    /// Finishes this device's enrolment. Reply: `Done`.
    FinishDevice {
        /// Text of the approval.
        approval: String,
    },
    /// Devices of this user. Reply: `Devices`.
    Devices,
    /// Calls a device of this user otherwise, on this device. Reply: `Devices`, of which it is the only one.
    RenameDevice {
        /// The device.
        device: DeviceId,
        /// The name.
        name: String,
    },
    /// Takes a device away from this user: it is signed off the list, loses its standing at the service, and is removed from every group. Goes
    /// on by itself, also over restarts. Reply: `Revocations`, of which it is the only one, once it is durable here; asked for again, how far it
    /// is.
    RevokeDevice {
        /// The device.
        device: DeviceId,
    },
    /// Devices that were taken away here, and how far that is. Reply: `Revocations`, the newest last.
    Revocations {
        /// Whether the documents are named that are not under new keys yet: there may be many.
        due: bool,
    },
    /// The user says that a device which came onto their list is theirs. Reply: `Done`.
    ConfirmDevice {
        /// The device.
        device: DeviceId,
    },
    /// Takes a contact as known. Reply: `Pinned`.
    Pin {
        /// Contact text.
        contact: String,
        /// What to call them: as before, or as the text suggests, where none is given.
        name: Option<String>,
        /// Whether the safety number or QR code was compared in person.
        verified: bool,
    },
    /// Calls a contact otherwise. Reply: `Pinned`.
    RenameContact {
        /// The contact.
        user: UserId,
        /// The name.
        name: String,
    },
    /// Forgets a contact: nobody of theirs is invited from here any more. They stay in groups. Reply: `Done`.
    ForgetContact {
        /// The contact.
        user: UserId,
    },
    /// Known contacts. Reply: `Pins`.
    Pins,
    /// Safety number shared with a contact. Reply: `Text`.
    SafetyNumber {
        /// The contact.
        user: UserId,
    },
    /// Creates a group. Reply: `Group`.
    CreateGroup {
        /// Its name: content, seen by members only.
        name: String,
        /// Its policy; this user becomes owner.
        policy: Box<GroupPolicy>,
    },
    /// Groups of this device. Reply: `Groups`.
    Groups,
    /// Members of a group. Reply: `Members`.
    Members {
        /// The group.
        group: GroupId,
    },
    /// Adds all devices of a verified user. Reply: `Done` when it is in the group log.
    Invite {
        /// The group.
        group: GroupId,
        /// The user.
        user: UserId,
        /// Role, where it is not the policy's default.
        role: Option<Role>,
    },
    /// Invitations waiting. Reply: `Invitations`.
    Invitations,
    /// Joins a group. Reply: `Done`.
    Accept {
        /// The group.
        group: GroupId,
    },
    /// Leaves a group without having joined it visibly. Reply: `Done`.
    Decline {
        /// The group.
        group: GroupId,
    },
    /// Removes all devices of a user. Reply: `Removed` when it is in the group log; [`Event::Rotation`](crate::Event::Rotation) tells the rest.
    Remove {
        /// The group.
        group: GroupId,
        /// The user.
        user: UserId,
    },
    /// As `Remove`, also where documents are lost with those who go.
    RemoveAnyway {
        /// The group.
        group: GroupId,
        /// The user.
        user: UserId,
    },
    /// Changes a user's role. Reply: `Done`.
    SetRole {
        /// The group.
        group: GroupId,
        /// The user.
        user: UserId,
        /// New role.
        role: Role,
    },
    /// Policy of a group. Reply: `Policy`.
    Policy {
        /// The group.
        group: GroupId,
    },
    /// Changes a group's policy. Reply: `Done` when it is in the group log.
    ChangePolicy {
        /// The group.
        group: GroupId,
        /// What becomes of it.
        change: Box<PolicyChange>,
    },
    /// Leaves a group with all devices. Reply: `Done` when another member has committed it.
    Leave {
        /// The group.
        group: GroupId,
    },
    /// As `Leave`, also where documents are lost with this user's devices.
    LeaveAnyway {
        /// The group.
        group: GroupId,
    },
    /// Creates a document. Reply: `Document`.
    CreateDocument {
        /// The group.
        group: GroupId,
        /// CRDT kind.
        kind: CrdtKind,
        /// Title: content.
        title: String,
        /// First content.
        initial: Option<DocFn>,
    },
    /// Creates a document with the complete state of another program's. Reply: `Document`.
    ImportDocument {
        /// The group.
        group: GroupId,
        /// CRDT kind.
        kind: CrdtKind,
        /// Title: content.
        title: String,
        /// The state, as [`conclave_crdt::recognise`] gives it.
        state: Zeroizing<Vec<u8>>,
    },
    /// Documents of a group. Reply: `Documents`.
    Documents {
        /// The group.
        group: GroupId,
    },
    /// One document of a group. Reply: `Documents`, with it alone, or empty where there is none.
    Document {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// How far a group's documents are under new keys, and what stands in the way. Reply: `Rekeying`.
    Rekeying {
        /// The group.
        group: GroupId,
    },
    /// Of which kind a document of a group is. Reply: `Kind`. Costs the same however many there are, and whatever was written into the directory.
    Kind {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Gives a group another name. Reply: `Done`.
    RenameGroup {
        /// The group.
        group: GroupId,
        /// New name.
        name: String,
    },
    /// Changes a title. Reply: `Done`.
    Rename {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// New title.
        title: String,
    },
    /// Closes a document. Reply: `Done` when it is in the group log.
    Close {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Why.
        reason: CloseReason,
    },
    /// Opens an archived document again. Reply: `Done` when it is in the group log.
    Reopen {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Edits a document. Reply: `Done` when durable here.
    Edit {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// The edit.
        f: DocFn,
    },
    /// Reads a document. Reply: `Done`.
    View {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// The reading; must not edit.
        f: DocFn,
    },
    /// Who wrote what a document shows. Reply: `Blame`.
    Blame {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Which part.
        view: View,
    },
    /// The last records of a document's log before a position. Reply: `Log`.
    Log {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// The position; none: the end.
        before: Option<u64>,
        /// How many at most.
        limit: usize,
    },
    /// What records of a document did, as far as they are here. Reply: `Changed`.
    Changed {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Position of the first.
        first: u64,
        /// And of the last.
        last: u64,
    },
    /// Waits until all local edits of a document are acknowledged and everything the service holds is here. Reply: `Done`.
    Synced {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Pauses or resumes a document, or all of this device. Reply: `Pause`, how it is from then on.
    Pause {
        /// The document; none: all.
        document: Option<(GroupId, DocumentId)>,
        /// What of it.
        change: PauseChange,
    },
    /// Shows something in a document to whoever has it open, from now until it is shown otherwise or this engine ends: beside what is shown for others on
    /// this device, up to eight. Reply: `Done`.
    ShowPresence {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// For whom.
        whose: AttendeeId,
        /// What; none: nothing any more.
        showing: Option<Showing>,
    },
    /// Begins to watch what others show in a document ([`Event::Presence`](crate::Event::Presence)), or ends it: events come while anybody watches. Reply:
    /// `Presence`.
    WatchPresence {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Who.
        whose: AttendeeId,
        /// Whether it begins.
        watch: bool,
    },
    /// State of this device. Reply: `Status`.
    Status,
    /// This copy of the device's store is to go on, and any other to stop. Reply: `Done` when the service has let it in.
    TakeOver,
    /// Makes this older copy of a store a device of its own, which has to be approved as any new device. Groups are left here, not at the
    /// service, where the other copy stays; edits that were never sent are kept apart. Reply: `Request`.
    BecomeNew,
    /// Waits until others can add this device to groups. Reply: `Done`.
    Invitable,
    /// Waits until nothing is under way ([`UnderWay`]): what was ready to be sent is at the service, and what it had for this device is here.
    /// Reply: `Done`.
    Settled,
    /// The user says that another service, which answered in place of the one that this device knows, is the right one from now on.
    /// Reply: `Done`; the connection begins anew.
    AcceptService {
        /// The first hexadecimal digits of its key, at least four.
        key: String,
    },
    /// The user has compared the group's code with another member: a device that came back with nothing to compare may seal. Reply: `Done`.
    ConfirmGroup {
        /// The group.
        group: GroupId,
    },
    /// Makes this device come back into a group by an external commit, whatever it holds of it. Reply: `Done`; [`Event::Returned`](crate::Event::Returned) tells
    /// the rest.
    Rejoin {
        /// The group.
        group: GroupId,
    },
    /// Adds a device of a member again, its old leaf removed. Reply: `Done` when it is in the group log.
    ReAdd {
        /// The group.
        group: GroupId,
        /// The device's user, who must be verified.
        user: UserId,
        /// The device.
        device: DeviceId,
    },
    /// Declares records void that nobody can open, so that the document goes on without them (admins). Reply: `Done` when it is in the
    /// group log.
    VoidRecords {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Declares one record void, whatever it is: for one at which work on the document is stuck (admins). What builds on it is void with it. Reply:
    /// `Done` when it is in the group log.
    VoidRecord {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Its position in the document's log.
        seq: u64,
    },
    /// What is known of one record. Reply: `Record`.
    Record {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Its position in the document's log.
        seq: u64,
    },
    /// Founds a group anew under another id, with the documents, policy and verified members of one that is frozen (admins). The new
    /// group's directory names the old one. Reply: `Group`.
    Restart {
        /// The group.
        group: GroupId,
    },
    /// What was kept of ordered entries that had to be refused. Reply: `Evidence`.
    Evidence {
        /// The group.
        group: GroupId,
    },
    /// Evidence against the service or a device. Reply: `Proofs`, the newest last.
    Proofs,
    /// One piece of it, as it is shown to a stranger. Reply: `Proof`.
    Proof {
        /// Which.
        evidence: EvidenceId,
    },
    /// What was found. Reply: `Findings`, the newest last.
    Findings {
        /// Of this group only.
        group: Option<GroupId>,
        /// Also what somebody is done with.
        dismissed: bool,
    },
    /// Notes that findings were shown, or that somebody is done with them. Reply: `Done`.
    MarkFindings {
        /// Which; those that are not here are passed over.
        ids: Vec<FindingId>,
        /// As what.
        mark: Mark,
    },
    /// Own edits that lost their place and were kept apart. Reply: `Rescues`.
    Rescues,
    /// Keeps apart what somebody typed into a copy of a document that was not done to it. Reply: `Rescues`, with that alone.
    KeepTyped {
        /// The document's group. It need not be here any more.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// What was typed.
        typed: Box<Typed>,
    },
    /// One of them, with what was kept. Reply: `Rescue`.
    Rescue {
        /// Which.
        rescue: RescueId,
    },
    /// Writes the words of one into a document, as an own edit. It ends where nothing stays in it. Reply: `RescueApplied`.
    ApplyRescue {
        /// Which.
        rescue: RescueId,
        /// The document's group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Throws one away. Reply: `Done`.
    DiscardRescue {
        /// Which.
        rescue: RescueId,
    },
    /// The user was told of these. Reply: `Done`.
    RescuesTold {
        /// Which.
        rescues: Vec<RescueId>,
    },
    /// A command that may be asked for again under the same id, also by another process after a crash: it is done once, and its reply is
    /// found again.
    Once {
        /// Drawn at random by whoever asks.
        operation: OperationId,
        /// What is asked for.
        command: Box<Command>,
    },
}

impl Command {
    /// Whether it does something that must not be done twice.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Self::WhoAmI
            | Self::DeviceRequest
            | Self::Devices
            | Self::Revocations { .. }
            | Self::Pins
            | Self::SafetyNumber { .. }
            | Self::Groups
            | Self::Members { .. }
            | Self::Policy { .. }
            | Self::Invitations
            | Self::Record { .. }
            | Self::Documents { .. }
            | Self::Document { .. }
            | Self::Kind { .. }
            | Self::Rekeying { .. }
            | Self::View { .. }
            | Self::Blame { .. }
            | Self::Log { .. }
            | Self::Changed { .. }
            | Self::Synced { .. }
            | Self::ShowPresence { .. }
            | Self::WatchPresence { .. }
            | Self::Status
            | Self::Invitable
            | Self::Settled
            | Self::Evidence { .. }
            | Self::Proofs
            | Self::Proof { .. }
            | Self::Findings { .. }
            | Self::Rescues
            | Self::Rescue { .. } => false,
            Self::TakeOver
            | Self::BecomeNew
            | Self::ApproveDevice(_)
            | Self::RenameDevice { .. }
            | Self::RevokeDevice { .. }
            | Self::ConfirmDevice { .. }
            | Self::FinishDevice { .. }
            | Self::Pin { .. }
            | Self::RenameContact { .. }
            | Self::ForgetContact { .. }
            | Self::CreateGroup { .. }
            | Self::Invite { .. }
            | Self::Accept { .. }
            | Self::Decline { .. }
            | Self::Remove { .. }
            | Self::RemoveAnyway { .. }
            | Self::SetRole { .. }
            | Self::ChangePolicy { .. }
            | Self::Leave { .. }
            | Self::LeaveAnyway { .. }
            | Self::CreateDocument { .. }
            | Self::ImportDocument { .. }
            | Self::Rename { .. }
            | Self::RenameGroup { .. }
            | Self::Close { .. }
            | Self::Reopen { .. }
            | Self::Pause { .. }
            | Self::Edit { .. }
            | Self::AcceptService { .. }
            | Self::ConfirmGroup { .. }
            | Self::Rejoin { .. }
            | Self::ReAdd { .. }
            | Self::VoidRecords { .. }
            | Self::VoidRecord { .. }
            | Self::Restart { .. }
            | Self::MarkFindings { .. }
            | Self::KeepTyped { .. }
            | Self::ApplyRescue { .. }
            | Self::DiscardRescue { .. }
            | Self::RescuesTold { .. } => true,
            Self::Once { command, .. } => command.changes(),
        }
    }
}

/// Approves another device of this user.
#[derive(Clone, Serialize, Deserialize)]
pub struct Approval {
    /// Text of the request.
    pub request: String,
    /// Its code, as the user read it on the new device and typed it in here.
    pub code: String,
    /// Whether the new device gets the user key, with which it can approve and revoke others. None: the user's second device does.
    pub user_key: Option<bool>,
}

/// Names one thing that somebody wants done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OperationId(pub [u8; 16]);

/// Answer to a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply {
    /// Done.
    Done,
    /// A text for people or another device.
    Text(String),
    /// This device.
    WhoAmI(WhoAmI),
    /// How this device asks to be approved.
    Request(RequestInfo),
    /// This user's devices.
    Devices(Vec<DeviceInfo>),
    /// Devices that were taken away.
    Revocations(Vec<RevocationInfo>),
    /// A contact.
    Pinned(PinInfo),
    /// Contacts.
    Pins(Vec<PinInfo>),
    /// A new group.
    Group(GroupId),
    /// Groups.
    Groups(Vec<GroupInfo>),
    /// Members.
    Members(Vec<MemberInfo>),
    /// A group's policy.
    Policy(Box<GroupPolicy>),
    /// Invitations.
    Invitations(Vec<InvitationInfo>),
    /// A new document.
    Document(DocumentId),
    /// Documents.
    Documents(Vec<DocumentInfo>),
    /// How far re-keying is.
    Rekeying(Box<RekeyingInfo>),
    /// A document's kind; none where there is no such document.
    Kind(Option<String>),
    /// One record of a document.
    Record(Box<RecordInfo>),
    /// Who wrote what a document shows.
    Blame(Box<BlameInfo>),
    /// A part of a document's log.
    Log(Box<LogInfo>),
    /// What records of a document did.
    Changed(Box<ChangedInfo>),
    /// What others show in a document.
    Presence(Vec<(Present, Showing)>),
    /// How a document is paused, or the device.
    Pause(PauseInfo),
    /// A removal is in the log.
    Removed {
        /// Epoch that it began.
        epoch: u64,
    },
    /// State of this device.
    Status(Status),
    /// Ordered entries that had to be refused.
    Evidence(Vec<EvidenceInfo>),
    /// Evidence against the service or a device.
    Proofs(Vec<ProofInfo>),
    /// One piece of it: encoded [`Evidence`](conclave_proto::evidence::Evidence).
    Proof(Bytes),
    /// What was found.
    Findings(Vec<FindingInfo>),
    /// Own edits that were kept apart.
    Rescues(Vec<RescueInfo>),
    /// One of them, whole.
    Rescue(Box<Rescue>),
    /// What became of one that was to be written into a document.
    RescueApplied(RescueApplied),
}

/// This device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The user; none before enrolment.
    pub user: Option<UserId>,
    /// This device.
    pub device: DeviceId,
    /// Name.
    pub name: String,
    /// Contact text for others; none before enrolment.
    pub contact: Option<String>,
    /// Whether the device can join groups.
    pub enrolled: bool,
    /// Whether it can approve devices.
    pub holds_user_key: bool,
}

/// How a new device asks to be approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestInfo {
    /// The text, for a device that can approve this one.
    pub text: String,
    /// Thirty digits, which the user reads here and types in there.
    pub code: String,
}

impl RequestInfo {
    /// What approves it where its user compared nothing by hand, as one program does that has both devices.
    #[must_use]
    pub fn approved(&self) -> Approval {
        Approval {
            request: self.text.clone(),
            code: self.code.clone(),
            user_key: None,
        }
    }
}

/// A device of this user.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// The device.
    pub device: DeviceId,
    /// Whether it is this one.
    pub this: bool,
    /// What it is called on this device.
    #[serde(default)]
    pub name: Option<String>,
    /// When this device last got a change that it made; within an hour. None: not since it is known here.
    #[serde(default)]
    pub seen: Option<UnixMs>,
    /// Whether it holds the user key. None: another device approved it.
    #[serde(default)]
    pub holds_user_key: Option<bool>,
    /// Whether this device adds it to groups by itself: not one that came onto the list after a device that may hold the user key was taken
    /// away, before the user confirms it.
    #[serde(default = "yes")]
    pub confirmed: bool,
}

fn yes() -> bool {
    true
}

/// A contact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PinInfo {
    /// The user.
    pub user: UserId,
    /// What they are called here.
    pub name: String,
    /// Whether it was compared in person.
    pub verified: bool,
    /// Number to compare.
    pub safety_number: String,
}

/// A group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupInfo {
    /// The group.
    pub group: GroupId,
    /// Its name, once its directory has arrived.
    pub name: Option<String>,
    /// The group in whose place it was founded, if so.
    #[serde(default)]
    pub parent: Option<GroupId>,
    /// Current epoch here.
    pub epoch: u64,
    /// Leaves.
    pub devices: usize,
    /// Users.
    pub users: usize,
    /// Whether this device is a member.
    pub active: bool,
    /// Why it takes no writes, if so.
    pub frozen: Option<String>,
    /// Why this device is on its way back into it, if so.
    #[serde(default)]
    pub returning: Option<String>,
    /// Whether this device came back with nothing to compare the group with, and seals nothing until another member shows that it is the
    /// right one or the user confirms its code.
    #[serde(default)]
    pub unproven: bool,
    /// Digits to compare with other members.
    pub code: String,
    /// Epoch of a removal whose re-keying is still going on.
    pub rotating_since: Option<u64>,
    /// Whether the group log says that this device leaves, which another member has to complete.
    #[serde(default)]
    pub leaving: bool,
    /// Whether names cannot be read here: the group's directory is missing, closed or damaged.
    #[serde(default)]
    pub nameless: bool,
    /// Whether the service shows another state of it than this device has: nothing is sent there.
    #[serde(default)]
    pub away: bool,
    /// Since when this device listens to what other members were shown; none while it does not, or is alone in it.
    #[serde(default)]
    pub listens: Option<UnixMs>,
    /// When it heard another one last since then.
    #[serde(default)]
    pub heard: Option<UnixMs>,
}

/// An ordered entry of a group's log that this device had to refuse.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EvidenceInfo {
    /// Position in the group log.
    pub seq: u64,
    /// Code of what was wrong.
    pub code: String,
    /// Who signed it, where that is known.
    pub signer: Option<DeviceId>,
    /// When it was refused, by this device's clock.
    pub at: UnixMs,
    /// The encoded entry: it is public.
    pub entry: Bytes,
}

/// A user in a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The user.
    pub user: UserId,
    /// What they are called here; none when not pinned.
    pub name: Option<String>,
    /// Role.
    pub role: Role,
    /// Their devices in the group.
    pub devices: Vec<DeviceId>,
    /// Whether the user is pinned and compared here.
    pub verified: bool,
    /// Whether it is this user.
    pub this: bool,
}

/// An invitation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InvitationInfo {
    /// The group.
    pub group: GroupId,
    /// Who invites.
    pub inviter: UserId,
    /// What they are called here.
    pub inviter_name: Option<String>,
    /// Whether their safety number was compared here, or they are this device's own user.
    pub inviter_verified: bool,
    /// Users in the group.
    pub users: usize,
}

/// A document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DocumentInfo {
    /// The document.
    pub document: DocumentId,
    /// Title, once the directory has arrived.
    pub title: Option<String>,
    /// CRDT kind.
    pub kind: String,
    /// Whether it was closed, and why.
    pub closed: Option<CloseReason>,
    /// Records in its log that are here; none when it was never opened.
    pub size: Option<u64>,
    /// Local edits not yet acknowledged.
    pub pending: usize,
    /// How it is paused, where it is or edits rest here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<PauseInfo>,
    /// On whose word its older content rests here; none when it was never opened.
    #[serde(default)]
    pub basis: Option<BasisInfo>,
    /// Where work on it did not come back, if that is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckInfo>,
    /// Its last change that is here; none where it was never opened, nobody has written in it, or the group's policy is that nobody is shown who wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastInfo>,
}

/// The last change of a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastInfo {
    /// Who made it.
    pub by: WriterInfo,
    /// When it came here, by this device's clock, to the minute.
    pub received: UnixMs,
}

/// One record of a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecordInfo {
    /// Its position in the document's log.
    pub seq: u64,
    /// Its id.
    pub id: Hash,
    /// The device that sealed it.
    pub device: DeviceId,
    /// That device's user, where the group's members tell.
    pub author: Option<Person>,
    /// Its encoded size.
    pub bytes: u32,
}

/// Where work on a document did not come back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StuckInfo {
    /// The record at which it was, if it was at one.
    pub record: Option<RecordInfo>,
    /// Position of the snapshot at which it was, if it was at one.
    pub snapshot: Option<u64>,
    /// In how many sessions.
    pub sessions: u32,
    /// Whether that is often enough to declare the record void, and this device may.
    pub may_void: bool,
}

/// State of a device.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Whether the service is reached and knows this device.
    pub online: bool,
    /// Why the service refuses this device, if so.
    pub refused: Option<String>,
    /// When another copy of this device's store logged in last, where that one is in use and this one is kept out.
    #[serde(default)]
    pub other_life: Option<UnixMs>,
    /// Groups.
    pub groups: usize,
    /// Intents that wait.
    pub intents: usize,
    /// Local edits not yet acknowledged.
    pub pending: usize,
    /// Documents that the service does not know yet.
    #[serde(default)]
    pub new_documents: usize,
    /// One-time key packages at the service, as last heard.
    pub key_packages: u32,
    /// Findings that wait for somebody.
    #[serde(default)]
    pub findings: usize,
    /// The newest of them.
    #[serde(default)]
    pub newest_finding: Option<Box<FindingInfo>>,
    /// A clock that is wrong, as far as this connection shows.
    #[serde(default)]
    pub clock: Option<ClockOffset>,
    /// Whether others can add this device to groups: its list and key packages are at the service.
    #[serde(default)]
    pub invitable: bool,
    /// Invitations that wait until a device of the invited user connects.
    #[serde(default)]
    pub awaited: Vec<AwaitedInfo>,
    /// Invitations to this user that wait at the service, because no more are kept here: they come in as others are answered.
    #[serde(default)]
    pub more_invitations: usize,
    /// What is under way between this device and the service. Without a connection: what would be.
    #[serde(default)]
    pub under_way: UnderWay,
    /// Devices that are being taken away.
    #[serde(default)]
    pub revocations: Vec<RevocationInfo>,
    /// What is paused of all documents.
    #[serde(default, skip_serializing_if = "Pause::is_empty")]
    pub pause: Pause,
    /// How many documents are paused by themselves.
    #[serde(default)]
    pub paused_documents: usize,
    /// How many of the edits not yet acknowledged rest here while that is so.
    #[serde(default)]
    pub drafts: usize,
}

/// An invitation that waits until a device of the invited user connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitedInfo {
    /// The group.
    pub group: GroupId,
    /// Who is invited.
    pub user: UserId,
    /// What they are called here.
    pub name: Option<String>,
}

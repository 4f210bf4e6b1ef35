//! Frames between a device and the service. One WebSocket binary message carries one frame, or one chunk of a frame that is larger than
//! [`limits::WIRE_MESSAGE_BYTES`](crate::limits::WIRE_MESSAGE_BYTES) (see [`crate::chunk`]).

// Frames live for one decode or encode: boxing variants would add allocations to the hot path and save nothing.
#![allow(clippy::large_enum_variant)]

use tls_codec::{DeserializeBytes, TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{Bytes, Tail, Varint};
use crate::group::{CommitBundle, GroupEntry, RootWrap};
use crate::ids::{DeviceId, DocumentId, GroupId, Hash, InstanceId, LifeToken, UnixMs, UserId};
use crate::limits::WIRE_MESSAGE_BYTES;
use crate::merkle::{Frontier, Head};
use crate::presence::{PresenceItem, ShownItem};
use crate::record::{Author, Chained, Record, RecordBody, RecordHeader};
use crate::refusal::Refusal;
use crate::service::{Generation, LogName, Loss, SignedHead};

/// Label under which a device signs its login.
pub const LOGIN_LABEL: &str = "conclave 1.0 service login";

/// A frame from a device to the service.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ClientFrame {
    /// First frame.
    #[tls_codec(discriminant = 1)]
    Hello {
        /// Protocol versions that the client speaks.
        versions: Vec<u16>,
        /// The device's credential, as in its MLS leaf.
        credential: Bytes,
    },
    /// Answer to [`ServiceFrame::Challenge`].
    #[tls_codec(discriminant = 2)]
    Login {
        /// The origin that the client dialled, for example `wss://ds.example`. Part of what is signed ([`LoginStatement`]).
        origin: Bytes,
        /// Device key's signature under [`LOGIN_LABEL`] over a [`LoginStatement`].
        signature: [u8; 64],
        /// Invitation token, where the service admits by invitation.
        token: Option<Bytes>,
        /// Number of the device's life, as it was told it last ([`ServiceFrame::Ready`]); 0 before.
        life: u64,
        /// Token of that life; zero before.
        life_token: LifeToken,
        /// 1 where this copy of the device's store is to go on, whatever life the service knows; otherwise 0.
        take_over: u8,
    },
    /// A request; answered by [`ServiceFrame::Response`] with the same id.
    #[tls_codec(discriminant = 3)]
    Request {
        /// Chosen by the client, unique among its open requests.
        id: Varint,
        /// What is asked.
        body: Request,
    },
    /// Updates and verdicts of one author for an open document, contiguous from `first_clock`; accepted together or not at all. Answered
    /// by [`ServiceFrame::Ack`] or [`ServiceFrame::AppendRefused`].
    #[tls_codec(discriminant = 4)]
    Append {
        /// The open document.
        channel: Varint,
        /// Epoch of all these records.
        epoch: Varint,
        /// Clock of the first.
        first_clock: Varint,
        /// The records, to the end of the frame.
        records: Tail<AppendedRecord>,
    },
    /// Asks for a [`ServiceFrame::Pong`].
    #[tls_codec(discriminant = 5)]
    Ping,
    /// Presence in an open document. Never answered; what is refused, or more than may be, is dropped.
    #[tls_codec(discriminant = 6)]
    Show {
        /// The open document.
        channel: Varint,
        /// The message.
        item: PresenceItem,
    },
}

impl ClientFrame {
    /// Of the beginning of a frame that puts a snapshot, of at most one message: the request's id and the snapshot's header. `None` where it is
    /// another frame, or the header is not whole yet.
    #[must_use]
    pub fn begun_snapshot(begun: &[u8]) -> Option<(Varint, RecordHeader)> {
        const REQUEST: u8 = 3;
        const PUT_SNAPSHOT: u8 = 13;
        if begun.len() > WIRE_MESSAGE_BYTES {
            return None;
        }
        let (kind, rest) = begun.split_first()?;
        let (id, rest) = Varint::tls_deserialize_bytes(rest).ok()?;
        let (body, rest) = rest.split_first()?;
        let (header, _) = RecordHeader::tls_deserialize_bytes(rest).ok()?;
        (*kind == REQUEST && *body == PUT_SNAPSHOT).then_some((id, header))
    }
}

/// What a device signs to log in. Binding the origin makes a relayed login worthless elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct LoginStatement {
    /// The service's nonce.
    pub nonce: [u8; 32],
    /// The origin that the client dialled.
    pub origin: Bytes,
    /// Key of the service, from the challenge.
    pub service_key: [u8; 32],
    /// The device.
    pub device: DeviceId,
    /// As in [`ClientFrame::Login`].
    pub life: u64,
    /// As in [`ClientFrame::Login`].
    pub life_token: LifeToken,
    /// As in [`ClientFrame::Login`].
    pub take_over: u8,
}

/// A record on its way to the service: what the service knows already is left out. The full header is rebuilt from the channel (group,
/// document, author), the frame (epoch, clock) and the service's log (`prev`, seen root) before the signature is checked.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct AppendedRecord {
    /// 1 update, 2 verdict, 7 carried.
    pub kind: u8,
    /// Size of the prefix that the author had seen.
    pub seen_size: Varint,
    /// First eight bytes of its root, for a better error.
    pub seen_hint: [u8; 8],
    /// What is sealed, and the signature.
    pub sealed: crate::record::Sealed,
}

impl AppendedRecord {
    /// What its header says of it at this place in its author's chain; none for other kinds.
    #[must_use]
    pub fn body(&self, place: Chained) -> Option<RecordBody> {
        RecordBody::of_chained(self.kind, place)
    }
}

/// One position of a document's log on its way to a device.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum DeliveredRecord {
    /// An update; left-out header fields are those the receiver knows.
    #[tls_codec(discriminant = 1)]
    Update(ElidedRecord),
    /// A verdict, likewise.
    #[tls_codec(discriminant = 2)]
    Verdict(ElidedRecord),
    /// Any record in full. `proof` shows the seen head to be a prefix of the receiver's base where that lies later.
    #[tls_codec(discriminant = 3)]
    Whole {
        /// The record.
        record: Record,
        /// Consistency proof from the record's seen head to the receiver's base head; empty where the seen size is not below the base.
        proof: Vec<Hash>,
    },
    /// Only the Merkle leaf: the base snapshot itself, or a record that the log keeps only by hash.
    #[tls_codec(discriminant = 4)]
    Leaf(Hash),
    /// A carried record, likewise.
    #[tls_codec(discriminant = 6)]
    Carried(ElidedRecord),
}

/// A chained record without the header fields that a receiver in step can fill in.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ElidedRecord {
    /// Number of the author in this document, as announced.
    pub author: Varint,
    /// Epoch.
    pub epoch: Varint,
    /// The record's position minus the size of the prefix that its author had seen.
    pub seen_back: Varint,
    /// First eight bytes of the seen root.
    pub seen_hint: [u8; 8],
    /// What is sealed, and the signature.
    pub sealed: crate::record::Sealed,
}

/// What a device can ask.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Request {
    /// Publishes the user's newest device list (an encoded, signed statement). Answer: `Done`.
    #[tls_codec(discriminant = 1)]
    PutDeviceList {
        /// `SignedDeviceList` of `conclave-identity`.
        list: Bytes,
    },
    /// Asks for a user's newest device list. Answer: `DeviceList`.
    #[tls_codec(discriminant = 2)]
    GetDeviceList {
        /// The user.
        user: UserId,
    },
    /// Publishes key packages of this device. Answer: `KeyPackageCount`.
    #[tls_codec(discriminant = 3)]
    PutKeyPackages {
        /// One-time packages (`MLSMessage`).
        #[tls_codec(with = "crate::codec::list")]
        one_time: Vec<Bytes>,
        /// Replacement for the last-resort package.
        last_resort: Option<Bytes>,
    },
    /// Takes one key package of each device of a user. Answer: `KeyPackages`.
    #[tls_codec(discriminant = 4)]
    ClaimKeyPackages {
        /// The user.
        user: UserId,
        /// These devices only; empty for all.
        devices: Vec<DeviceId>,
    },
    /// Creates a group. Answer: `Accepted`.
    #[tls_codec(discriminant = 5)]
    CreateGroup {
        /// GroupInfo of epoch 0 (`MLSMessage`), with `external_pub`.
        group_info: Bytes,
        /// Ratchet tree of epoch 0.
        tree: Bytes,
        /// When the group begins: the service's present time as the creator sees it. Another only after `BadCommit(Time)`.
        founded: UnixMs,
    },
    /// A commit with all it brings. Answer: `Accepted`, or `EpochTaken`, `ProposalPending`, `BadCommit`.
    #[tls_codec(discriminant = 6)]
    Commit(CommitBundle),
    /// A standalone proposal (SelfRemove). Answer: `Accepted`.
    #[tls_codec(discriminant = 7)]
    Propose {
        /// The group.
        group: GroupId,
        /// The proposal (`MLSMessage`).
        message: Bytes,
    },
    /// A signed entry for the group log. Answer: `Accepted`.
    #[tls_codec(discriminant = 8)]
    PutEntry {
        /// The entry.
        entry: Record,
    },
    /// A new document and its first snapshot, in one transaction. Answer: `Accepted`.
    #[tls_codec(discriminant = 9)]
    CreateDocument {
        /// `EntryBody::DocumentCreated`.
        entry: Record,
        /// The first snapshot: covers the empty log.
        snapshot: Record,
    },
    /// Follows a group's log from a size on. Answer: `Subscribed`, then [`ServiceFrame::GroupEntries`].
    #[tls_codec(discriminant = 10)]
    SubscribeGroup {
        /// The group.
        group: GroupId,
        /// Entries that the client has.
        from: u64,
    },
    /// Opens a document on this connection. Answer: `Opened`, then [`ServiceFrame::Deliver`].
    #[tls_codec(discriminant = 11)]
    OpenDocument {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Instance under which this connection will write.
        instance: InstanceId,
        /// Records that the client has; none to begin at the active snapshot.
        from: Option<u64>,
    },
    /// Closes a channel. Answer: `Done`.
    #[tls_codec(discriminant = 12)]
    CloseDocument {
        /// The channel.
        channel: Varint,
    },
    /// A snapshot for an open document. Answer: `Accepted`.
    #[tls_codec(discriminant = 13)]
    PutSnapshot {
        /// The snapshot.
        record: Record,
    },
    /// Asks for whole records of an open document. Answer: `Records`.
    #[tls_codec(discriminant = 14)]
    GetRecords {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// First position.
        from: u64,
        /// At most this many.
        count: u32,
    },
    /// Asks for the root wraps of an epoch. Answer: `Wraps`.
    #[tls_codec(discriminant = 15)]
    GetWraps {
        /// The group.
        group: GroupId,
        /// The epoch.
        epoch: u64,
    },
    /// Adds a root wrap for the current epoch. Answer: `Done`.
    #[tls_codec(discriminant = 16)]
    PutWrap {
        /// The wrap.
        wrap: RootWrap,
    },
    /// Asks for the current GroupInfo and ratchet tree. Answer: `GroupInfo`.
    #[tls_codec(discriminant = 17)]
    GetGroupInfo {
        /// The group.
        group: GroupId,
    },
    /// A Welcome has been processed durably, or declined. Answer: `Done`.
    #[tls_codec(discriminant = 18)]
    AckWelcome {
        /// Number from [`WelcomeDelivery`].
        id: u64,
    },
    /// Asks how far a group's documents are re-keyed. Answer: `Status`.
    #[tls_codec(discriminant = 19)]
    GetStatus {
        /// The group.
        group: GroupId,
    },
    /// Replaces the stored GroupInfo of the current epoch: a member has found that nobody could come back with it. Answer: `Done`.
    #[tls_codec(discriminant = 20)]
    PutGroupInfo {
        /// The group.
        group: GroupId,
        /// GroupInfo (`MLSMessage`), with `external_pub` and without the ratchet tree.
        group_info: Bytes,
    },
    /// Asks the members for help, online or not. Repeating it changes nothing. Answer: `Done`.
    #[tls_codec(discriminant = 21)]
    Ask {
        /// The group.
        group: GroupId,
        /// What is needed.
        what: Plea,
    },
    /// Asks in which groups this device is a member with no Welcome left to answer. Answer: `Memberships`.
    #[tls_codec(discriminant = 22)]
    GetMemberships,
    /// Forgets every key package of this device: the private halves are gone. Answer: `KeyPackageCount`.
    #[tls_codec(discriminant = 23)]
    ClearKeyPackages,
    /// Shows the service a head that it once signed and now does not lead to. Answer: `Done`, whether or not anything follows from it;
    /// a service that learns from it that it was put back begins a new generation and closes all connections.
    #[tls_codec(discriminant = 24)]
    Report {
        /// The generation in which the head was signed.
        generation: Generation,
        /// The log.
        log: LogName,
        /// The head.
        signed: SignedHead,
    },
    /// Brings back what the service lost of a group's log: entries up to the head that it wants. Answer: `Accepted` with the position of the
    /// first that came back; or `Recovering`, where the log stands elsewhere or something is still missing.
    #[tls_codec(discriminant = 25)]
    ReturnGroup {
        /// The group.
        group: GroupId,
        /// Position of the first entry.
        from: u64,
        /// The entries.
        #[tls_codec(with = "crate::codec::list")]
        entries: Vec<GroupEntry>,
        /// Where a commit is among them: GroupInfo (`MLSMessage`) of the epoch that the last begins, with `external_pub` and without the
        /// ratchet tree, signed by whoever brings them. None where that commit's bundle is given: then it is the bundle's.
        group_info: Option<Bytes>,
        /// Where a commit is among them: the root wrap of that epoch, or none as above.
        wrap: Option<RootWrap>,
        /// Own commits among them, as they were first sent: what they hand to joiners.
        #[tls_codec(with = "crate::codec::list")]
        bundles: Vec<CommitBundle>,
    },
    /// Brings back what the service lost of a document's log: everything up to the head that it wants. Answer: `Accepted` with the
    /// position of the first record that came back; or `Recovering`, where the log stands elsewhere or something is still missing.
    #[tls_codec(discriminant = 26)]
    ReturnDocument {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Where the log begins of which this is, where the service has nothing of it and what was before is not brought.
        base: Option<DocumentBase>,
        /// Position of the first item.
        from: u64,
        /// The items.
        #[tls_codec(with = "crate::codec::offer")]
        items: Vec<Returned>,
    },
    /// Brings a group that the service does not have, as a member has it: its log goes on from there. Answer: `Done`; `AlreadyExists` where the
    /// service has a group of this id.
    #[tls_codec(discriminant = 27)]
    AdoptGroup {
        /// The group.
        group: GroupId,
        /// GroupInfo (`MLSMessage`) of the present epoch, with `external_pub` and without the ratchet tree, signed by whoever brings it.
        group_info: Bytes,
        /// Ratchet tree of that epoch.
        tree: Bytes,
        /// The public state, with a root wrap of that epoch.
        state: JoinState,
        /// The standalone proposals that are pending (`MLSMessage`), in the order of the log.
        pending: Vec<Bytes>,
    },
    /// The life that [`ServiceFrame::Ready`] named is stored durably. Answer: `Done`.
    #[tls_codec(discriminant = 28)]
    ConfirmLife,
    /// Asks how far a log is now. Answer: `Head`, signed at this time, also where the log has not grown.
    #[tls_codec(discriminant = 29)]
    GetHead {
        /// The log.
        log: LogName,
    },
}

/// Where a document's log begins, of which nothing before that is brought.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DocumentBase {
    /// Right edge of the log there.
    pub frontier: Frontier,
    /// Complete subtrees before that, which show that the log begins with what records after it have seen; none of those in the frontier.
    #[tls_codec(with = "crate::codec::list")]
    pub nodes: Vec<BaseNode>,
}

/// A complete subtree of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct BaseNode {
    /// 0 for a leaf; it is over `2^level` of them.
    pub level: u8,
    /// Its place among those of its level, from 0.
    pub index: u64,
    /// The root over its leaves.
    pub hash: Hash,
}

/// One position of a log that is brought back.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Returned {
    /// The record.
    #[tls_codec(discriminant = 1)]
    Record(Record),
    /// Only its leaf: whoever brings it has no more. Not taken yet.
    #[tls_codec(discriminant = 2)]
    Leaf(Hash),
}

impl Returned {
    /// The records, where all are there.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] where one is only a leaf.
    pub fn records(items: Vec<Self>) -> Result<Vec<Record>, Refusal> {
        let records = items.into_iter().map(|item| match item {
            Self::Record(record) => Ok(record),
            Self::Leaf(_) => Err(Refusal::Malformed),
        });
        records.collect()
    }
}

/// What a device asks the members of a group for.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Plea {
    /// A root wrap of the current epoch: roots are missing. Members only. Forgotten when a wrap is put or a new epoch begins.
    Wrap = 1,
    /// To be added anew, its old leaf removed: it cannot come back by itself. Devices of users who are members. Forgotten when a commit
    /// adds the device.
    ReAdd = 2,
}

/// Answers to requests.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum Answer {
    /// Done; nothing more to say.
    #[tls_codec(discriminant = 1)]
    Done,
    /// Ordered and durable.
    #[tls_codec(discriminant = 2)]
    Accepted {
        /// Position in the log of the group or document.
        seq: u64,
        /// Head after it.
        head: Head,
    },
    /// Not done.
    #[tls_codec(discriminant = 3)]
    Refused(Refusal),
    /// A user's newest device list.
    #[tls_codec(discriminant = 4)]
    DeviceList {
        /// `SignedDeviceList` of `conclave-identity`.
        list: Bytes,
    },
    /// One-time key packages now stored for this device.
    #[tls_codec(discriminant = 5)]
    KeyPackageCount {
        /// How many.
        left: u32,
    },
    /// One key package for each device that has any.
    #[tls_codec(discriminant = 6)]
    KeyPackages {
        /// The packages.
        #[tls_codec(with = "crate::codec::list")]
        packages: Vec<ClaimedKeyPackage>,
    },
    /// The group log is being followed.
    #[tls_codec(discriminant = 7)]
    Subscribed {
        /// Head of the group log now.
        head: Head,
        /// Current epoch.
        epoch: u64,
        /// The service's clock.
        now: UnixMs,
        /// The head, signed. None for a device that was removed: its head is that of its removal, and only the newest is signed.
        signed: Option<SignedHead>,
        /// Losses of the log that were declared, oldest first.
        #[tls_codec(with = "crate::codec::list")]
        losses: Vec<Loss>,
    },
    /// A document is open.
    #[tls_codec(discriminant = 8)]
    Opened(OpenedDocument),
    /// Whole records.
    #[tls_codec(discriminant = 9)]
    Records {
        /// Position of the first.
        first_seq: u64,
        /// The records; a position kept only by hash is a leaf.
        #[tls_codec(with = "crate::codec::list")]
        records: Vec<DeliveredRecord>,
    },
    /// Root wraps.
    #[tls_codec(discriminant = 10)]
    Wraps {
        /// The wraps.
        wraps: Vec<RootWrap>,
    },
    /// GroupInfo and tree of the current epoch.
    #[tls_codec(discriminant = 11)]
    GroupInfo {
        /// Current epoch.
        epoch: u64,
        /// GroupInfo (`MLSMessage`).
        group_info: Bytes,
        /// Ratchet tree.
        tree: Bytes,
        /// Public state, as in [`JoinState`].
        state: JoinState,
        /// The standalone proposals that are pending (`MLSMessage`), in the order of the log: an external commit covers the leaves among them.
        pending: Vec<Bytes>,
    },
    /// State of a group's documents.
    #[tls_codec(discriminant = 12)]
    Status(GroupStatus),
    /// Groups of which the asking device is a member.
    #[tls_codec(discriminant = 13)]
    Memberships {
        /// The groups.
        groups: Vec<GroupId>,
    },
    /// How far a log is.
    #[tls_codec(discriminant = 14)]
    Head {
        /// Its head now.
        signed: SignedHead,
    },
}

/// A key package handed out.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ClaimedKeyPackage {
    /// The device it belongs to.
    pub device: DeviceId,
    /// The key package (`MLSMessage`).
    pub key_package: Bytes,
    /// 1 when this is the device's last-resort package.
    pub last_resort: u8,
}

/// Answer to [`Request::OpenDocument`].
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct OpenedDocument {
    /// Number of the document on this connection.
    pub channel: Varint,
    /// Head of the document's log now, signed; records up to it follow.
    pub signed: SignedHead,
    /// Position of the first record that follows.
    pub from: u64,
    /// Where the client asked to begin at the active snapshot: that snapshot.
    pub base: Option<BaseSnapshot>,
    /// Authors so far, in the order of their numbers.
    pub authors: Vec<Author>,
    /// Next clock of this connection's author, and the leaf of its last record (zero when it has none).
    pub own_next_clock: u64,
    /// See `own_next_clock`.
    pub own_last: Hash,
    /// Losses of the log that were declared, oldest first.
    #[tls_codec(with = "crate::codec::list")]
    pub losses: Vec<Loss>,
}

impl OpenedDocument {
    /// Head of the document's log now.
    #[must_use]
    pub fn head(&self) -> Head {
        self.signed.head
    }
}

/// The active snapshot, sent ahead of the tail.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct BaseSnapshot {
    /// Its position in the log.
    pub seq: u64,
    /// The snapshot.
    pub record: Record,
}

/// What a joiner needs beside its Welcome and that is the same for all who join in one epoch.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct JoinState {
    /// Encoded `GroupState` of `conclave-mls`: roster, policy, time, pending proposals. Its roster hash must be the one that the committer
    /// signed in the root wrap.
    pub group_state: Bytes,
    /// Frontier of the group log right after the commit.
    pub frontier: Frontier,
    /// The signed entries that created, closed and voided documents, in log order.
    pub entries: Vec<Record>,
    /// The wrap that came with the commit.
    pub wrap: RootWrap,
}

/// A Welcome for this device. Repeated on every connection until acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct WelcomeDelivery {
    /// Number for [`Request::AckWelcome`].
    pub id: u64,
    /// The group.
    pub group: GroupId,
    /// The epoch that the joiner enters.
    pub epoch: u64,
    /// The Welcome (`MLSMessage`).
    pub welcome: Bytes,
    /// Ratchet tree of that epoch.
    pub tree: Bytes,
    /// Public state.
    pub state: JoinState,
}

/// State of a group's documents at the service.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct GroupStatus {
    /// Current epoch.
    pub epoch: u64,
    /// Epoch of the last removal whose rotation has not been reported complete; 0 when none.
    pub rotating_since: u64,
    /// Every open document.
    pub documents: Vec<DocumentStatus>,
}

/// One document in a [`GroupStatus`].
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct DocumentStatus {
    /// The document.
    pub document: DocumentId,
    /// 1 while it awaits a snapshot of a newer epoch.
    pub due: u8,
    /// Head of its log.
    pub head: Head,
    /// Positions from here on were written in the active snapshot's epoch or later.
    pub first_seq_of_snapshot_epoch: u64,
    /// Header of the active snapshot.
    pub snapshot: RecordHeader,
    /// Id of the active snapshot.
    pub snapshot_id: Hash,
}

/// A frame from the service to a device.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum ServiceFrame {
    /// Answer to [`ClientFrame::Hello`].
    #[tls_codec(discriminant = 1)]
    Challenge {
        /// Version chosen.
        version: u16,
        /// Random, for one login.
        nonce: [u8; 32],
        /// Key of the service.
        service_key: [u8; 32],
        /// The service's clock.
        now: UnixMs,
        /// The service's present generation.
        generation: Generation,
    },
    /// The device is logged in.
    #[tls_codec(discriminant = 2)]
    Ready {
        /// The service's clock.
        now: UnixMs,
        /// One-time key packages stored for this device.
        key_packages: u32,
        /// 1 when a last-resort key package is stored.
        last_resort: u8,
        /// Number of the device's next life, which begins when it is confirmed.
        life: u64,
        /// Its token.
        next: LifeToken,
    },
    /// Answer to a request.
    #[tls_codec(discriminant = 3)]
    Response {
        /// The request's id.
        id: Varint,
        /// The answer.
        answer: Answer,
    },
    /// Entries of a followed group log.
    #[tls_codec(discriminant = 4)]
    GroupEntries {
        /// The group.
        group: GroupId,
        /// Position of the first.
        first_seq: u64,
        /// The entries.
        #[tls_codec(with = "crate::codec::list")]
        entries: Vec<GroupEntry>,
    },
    /// An author of an open document gets the next free number.
    #[tls_codec(discriminant = 5)]
    NewAuthor {
        /// The document.
        channel: Varint,
        /// The author.
        author: Author,
    },
    /// Records of an open document.
    #[tls_codec(discriminant = 6)]
    Deliver {
        /// The document.
        channel: Varint,
        /// Position of the first.
        first_seq: Varint,
        /// The records, to the end of the frame.
        records: Tail<DeliveredRecord>,
    },
    /// Own records up to `next_clock` (exclusive) are ordered and durable. They are not delivered back to the connection that sent
    /// them; their positions follow from `first_seq`.
    #[tls_codec(discriminant = 7)]
    Ack {
        /// The document.
        channel: Varint,
        /// Next clock.
        next_clock: Varint,
        /// Position of the first record of the acknowledged frame.
        first_seq: Varint,
        /// How many records the frame had.
        count: Varint,
    },
    /// A frame of own records was refused whole.
    #[tls_codec(discriminant = 8)]
    AppendRefused {
        /// The document.
        channel: Varint,
        /// Clock of the first refused record.
        first_clock: Varint,
        /// Why.
        refusal: Refusal,
    },
    /// A Welcome for this device.
    #[tls_codec(discriminant = 9)]
    Welcome(WelcomeDelivery),
    /// Few one-time key packages are left.
    #[tls_codec(discriminant = 10)]
    KeyPackagesLow {
        /// How many are left.
        left: u32,
    },
    /// Answer to [`ClientFrame::Ping`].
    #[tls_codec(discriminant = 11)]
    Pong,
    /// The service is about to close the connection.
    #[tls_codec(discriminant = 12)]
    Goodbye {
        /// Why.
        why: Refusal,
        /// Come back after this many milliseconds.
        retry_after_ms: u64,
    },
    /// The devices of a user with whom this device shares a group, or of its own user, changed: fetch the list.
    #[tls_codec(discriminant = 13)]
    DeviceListChanged {
        /// The user.
        user: UserId,
    },
    /// A device asks the members of a followed group for help. Repeated with every subscription until it was helped.
    #[tls_codec(discriminant = 14)]
    Asked {
        /// The group.
        group: GroupId,
        /// Who asks.
        device: DeviceId,
        /// The device's user.
        user: UserId,
        /// What it needs.
        what: Plea,
    },
    /// Newest signed head of a log that this connection follows or has open: at most one a second for each, the first of them before what
    /// it covers is acknowledged.
    #[tls_codec(discriminant = 15)]
    Head {
        /// The log.
        log: LogName,
        /// The head.
        signed: SignedHead,
    },
    /// Presence in an open document: the newest message to all of each device, or what is for this connection alone. A device's own is among
    /// them.
    #[tls_codec(discriminant = 16)]
    Shown {
        /// The document.
        channel: Varint,
        /// The messages, to the end of the frame.
        items: Tail<ShownItem>,
    },
}

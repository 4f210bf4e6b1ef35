//! What is asked of the service and not answered yet. All of it is forgotten with the connection: durable state asks again.

use conclave_identity::SignedDeviceList;
use conclave_proto::{DeviceId, DocumentId, GroupId, Hash, UnixMs, UserId};

/// What an answer is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Nothing follows from the answer.
    Quiet,
    /// Which groups this device is in.
    Memberships,
    /// The own device list was published.
    OwnList { seq: u64 },
    /// Key packages are taken back.
    ClearPackages,
    /// Key packages are published; when they were made, where all are new.
    Refill {
        made: Option<UnixMs>,
        last_resort: bool,
    },
    /// The own user's newest device list.
    Devices,
    /// Another user's.
    DevicesOf(UserId),
    /// The service was shown what it had signed of a log.
    Report(GroupId, Option<DocumentId>),
    /// What a put-back service lacks of a log was offered to it.
    GiveBack(GroupId, Option<DocumentId>),
    /// A way back into a group whose rows are lost.
    Stray(GroupId),
    /// Something of a group.
    Group(GroupId, GroupPending),
    /// Something of a document that is here.
    Document(GroupId, DocumentId, DocPending),
}

/// What an answer about a group is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupPending {
    /// Its creation.
    Create,
    /// Its log is to be followed.
    Follow,
    /// A commit.
    Commit { leaf: Hash },
    /// What an external commit builds on.
    ReturnInfo,
    /// An external commit.
    Return { leaf: Hash },
    /// The GroupInfo that the service keeps, to be looked at.
    CheckInfo { epoch: u64 },
    /// Wraps of an epoch, for roots that are missing here; whether members were asked before.
    MissingWraps { epoch: u64, pleaded: bool },
    /// Wraps of an epoch, to see whether this device gives one.
    OwnWrap { epoch: u64 },
    /// Re-keying is reported complete.
    Complete,
    /// Something for an intent.
    Intent(u64, IntentPending),
    /// A document is to be opened; it may not be here.
    Open { document: DocumentId, ask: u64 },
    /// How far its log is, or a document's, of which somebody was shown more than is here.
    Head { document: Option<DocumentId> },
    /// The last record that is here of a document, before it is opened.
    Last { document: DocumentId, ask: u64 },
}

/// What an answer for an intent is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IntentPending {
    /// A user's device list; which device alone is wanted, where one is.
    Devices { again: Option<DeviceId> },
    /// Key packages of devices in this list.
    Packages(Box<SignedDeviceList>),
    /// A proposal.
    Proposal,
    /// A signed entry.
    Entry,
}

/// What an answer about a document is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DocPending {
    /// Records.
    Records,
    /// Its creation.
    Create,
    /// A snapshot.
    Snapshot,
}

//! What a device tells its application.

use conclave_proto::{DeviceId, DocumentId, GroupId, InstanceId, SessionId, UserId};
use serde::{Deserialize, Serialize};

use crate::command::{InvitationInfo, Reply};
use crate::error::EngineError;
use crate::finding::FindingInfo;
use crate::io::CommandId;
use crate::rescue::RescueInfo;
use crate::revocation::RevocationInfo;

/// What a device tells: in this order, once what it rests on is durable.
#[derive(Debug, Clone)]
pub enum Told {
    /// The answer to a command.
    Reply {
        /// Which.
        command: CommandId,
        /// The answer.
        result: Result<Reply, EngineError>,
    },
    /// Something that happened.
    Event(Event),
}

/// A change that somebody made to a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChangeInfo {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// What the user is called here.
    pub name: Option<String>,
    /// Who brought it, where the log had lost it.
    pub carried_by: Option<Carrier>,
    /// Position in the log.
    pub seq: u64,
}

/// Who brought back what the log of a document had lost. That it belongs there is on their word; what it says is its author's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carrier {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// What the user is called here.
    pub name: Option<String>,
}

/// A user, as they are known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The user.
    pub user: UserId,
    /// What they are called here.
    pub name: Option<String>,
    /// Whether their contact was verified here, or they are this device's own user.
    pub verified: bool,
    /// Whether they are this device's own user.
    pub is_own: bool,
}

/// On what a document rests as this device shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "on")]
pub enum BasisInfo {
    /// This device has checked it itself: it judged every record, or confirmed a snapshot by its own check.
    Checked,
    /// It was opened from a snapshot that other users found right.
    Vouched {
        /// Who made that.
        author: Person,
        /// Who found it right.
        by: Vec<Person>,
    },
    /// It was opened from a snapshot that nobody but its author says is right.
    Word {
        /// Who made that.
        author: Person,
    },
    /// It was opened from a snapshot of which somebody says that it is wrong.
    Disputed {
        /// Who made that.
        author: Person,
        /// Who found it right.
        for_it: Vec<Person>,
        /// Who says that it differs from the log.
        against: Vec<Person>,
    },
}

impl BasisInfo {
    /// Whether there is nothing to be told of it unasked: this device has checked it, or somebody has whose contact is verified here, and nobody
    /// objects; or a device of the same user made it. Who only made it has not been checked by anybody, verified or not.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        match self {
            Self::Checked => true,
            Self::Vouched { by, .. } => by.iter().any(|it| it.verified),
            Self::Word { author } => author.is_own,
            Self::Disputed { .. } => false,
        }
    }
}

/// Who has a document open now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Present {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The life of the device's store: one that was put back is shown beside what it showed before, until that expires.
    pub instance: InstanceId,
    /// Their session in the document. What a later one of the same device shows at the same index takes the place of what was there.
    pub session: SessionId,
    /// Which of what they show: a device shows up to eight states in a document, one for each of its windows, say.
    pub index: u8,
    /// What the user is called here.
    pub name: Option<String>,
    /// Whether it is another device of this device's user.
    pub is_own: bool,
}

/// What somebody shows in a document. `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Showing {
    /// What form it has.
    pub kind: ShowingKind,
    /// JSON in that form, of at most [`SHOWN_BYTES`](conclave_proto::limits::SHOWN_BYTES) with all else that the device shows there. It is what somebody else
    /// wrote: not checked here.
    pub value: String,
}

impl std::fmt::Debug for Showing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Showing({:?}, {} bytes)", self.kind, self.value.len())
    }
}

/// What form something that is shown has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShowingKind {
    /// An awareness state of Yjs.
    Awareness,
    /// Positions in an Automerge document.
    Positions,
    /// An application's own object.
    Application,
}

impl ShowingKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Awareness => 1,
            Self::Positions => 2,
            Self::Application => 3,
        }
    }

    pub(crate) fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Awareness),
            2 => Some(Self::Positions),
            3 => Some(Self::Application),
            _ => None,
        }
    }
}

/// Something that happened to a device, in its groups or in its documents.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// The service is reached and knows this device.
    Online,
    /// The service is out of reach.
    Offline,
    /// Somebody invites this device.
    Invitation {
        /// To what, and who.
        invitation: InvitationInfo,
    },
    /// An invitation of this device's user waits until a device of the invited user connects; it goes on by itself.
    InvitationWaits {
        /// The group.
        group: GroupId,
        /// Who is invited.
        user: UserId,
    },
    /// A group's members changed.
    MembersChanged {
        /// The group.
        group: GroupId,
        /// New epoch.
        epoch: u64,
        /// Users of whom a device was added.
        added: Vec<UserId>,
        /// Users of whom a device was removed.
        removed: Vec<UserId>,
    },
    /// The group log says that this device leaves; another member completes it.
    Leaving {
        /// The group.
        group: GroupId,
    },
    /// This device is no longer a member.
    GroupLost {
        /// The group.
        group: GroupId,
        /// Why.
        why: String,
    },
    /// A document was created or closed.
    DocumentListed {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Verified changes of others arrived.
    DocumentChanged {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Who changed it.
        changes: Vec<ChangeInfo>,
    },
    /// A document is on its way into step with the service, and that takes long: told again and again meanwhile, and once more when all is here.
    DocumentProgress {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Records that were taken in.
        done: u64,
        /// Records in all.
        total: u64,
    },
    /// The service holds more of this device's edits.
    Acknowledged {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Local edits still unacknowledged.
        pending: usize,
    },
    /// On whose word the older content of a document rests on this device was learned, or has changed.
    BasisChanged {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// On whose.
        basis: BasisInfo,
    },
    /// Somebody shows something in a document that is watched, or nothing any more. Of now alone: nothing of it is kept, and what is lost is not
    /// told again.
    Presence {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Who.
        who: Present,
        /// What; none: nothing any more.
        showing: Option<Showing>,
    },
    /// Nobody is seen any more in a document that is watched: it is not open. Who is there is told anew when it is.
    PresenceLost {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Something does not fit. It is durable until somebody is done with it.
    Finding(Box<FindingInfo>),
    /// Own edits lost their place; what they did is kept apart ([`Command::Rescue`](crate::Command::Rescue)).
    Rescued {
        /// What, and why.
        rescue: RescueInfo,
    },
    /// Re-keying after a removal.
    Rotation {
        /// The group.
        group: GroupId,
        /// Epoch that the removal began.
        epoch: u64,
        /// Documents re-keyed.
        done: usize,
        /// Documents in all.
        total: usize,
        /// Whether it is complete and in the group log.
        complete: bool,
    },
    /// The devices of this user changed.
    DevicesChanged {
        /// The user.
        user: UserId,
    },
    /// A device of this user that was taken away is out of every group that this device is in, and all of their documents are under new keys.
    Revoked {
        /// What became of it.
        revocation: RevocationInfo,
    },
    /// This device came back into a group whose log it could not follow.
    Returned {
        /// The group.
        group: GroupId,
        /// Epoch here.
        epoch: u64,
        /// Whether it is known to be the group that the others are in. If not, nothing is sealed until another member shows it, or the user
        /// confirms the group's code ([`Command::ConfirmGroup`](crate::Command::ConfirmGroup)).
        proven: bool,
    },
    /// A member's device cannot come back by itself and asks to be added again ([`Command::ReAdd`](crate::Command::ReAdd)).
    ReAddAsked {
        /// The group.
        group: GroupId,
        /// The device.
        device: DeviceId,
        /// Its user, as the service says.
        user: UserId,
    },
}

impl Event {
    /// The group that this is about.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::Online | Self::Offline | Self::DevicesChanged { .. } | Self::Revoked { .. } => {
                None
            }
            Self::Invitation { invitation } => Some(invitation.group),
            Self::Finding(finding) => finding.group,
            Self::Rescued { rescue } => Some(rescue.group),
            Self::InvitationWaits { group, .. }
            | Self::Leaving { group }
            | Self::MembersChanged { group, .. }
            | Self::GroupLost { group, .. }
            | Self::DocumentListed { group, .. }
            | Self::DocumentChanged { group, .. }
            | Self::DocumentProgress { group, .. }
            | Self::Acknowledged { group, .. }
            | Self::BasisChanged { group, .. }
            | Self::Presence { group, .. }
            | Self::PresenceLost { group, .. }
            | Self::Returned { group, .. }
            | Self::ReAddAsked { group, .. }
            | Self::Rotation { group, .. } => Some(*group),
        }
    }
}

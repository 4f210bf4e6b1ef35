//! Operations, each with those it is of one kind with. Those who ask have been authenticated.

pub mod adopt;
pub mod append;
pub mod based;
pub mod document;
pub mod drop;
pub mod enter;
pub mod entry;
pub mod group;
pub mod help;
pub mod identity;
pub mod packages;
pub mod recovery;
pub mod returned;
pub mod returned_group;
mod returning;
pub mod seen;
pub mod snapshot;
pub mod upkeep;
mod weight;

use conclave_proto::{DeviceId, Refusal, UserId};

use crate::batch::Decided;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits::Limits;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// The device, authenticated.
    pub device: DeviceId,
    /// Its user.
    pub user: UserId,
    /// Number of the session that it asks in.
    pub session: u64,
}

impl Asker {
    /// The session.
    #[must_use]
    pub fn session(&self) -> Session {
        Session {
            device: self.device,
            number: self.session,
        }
    }

    /// Asks for an operation.
    #[must_use]
    pub fn asks(&self, op: Op) -> Asked {
        Asked {
            session: Some(self.session()),
            op,
        }
    }
}

/// From one login of a device to its next: a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The device.
    pub device: DeviceId,
    /// Its number.
    pub number: u64,
}

/// An operation, and the session that it came over, if it did. Of an older session than the device's newest nothing is decided: what a dead
/// process has sent is stored before its successor has logged in, or never.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The session.
    pub session: Option<Session>,
    /// The operation.
    pub op: Op,
}

impl From<Op> for Asked {
    /// Asked by nobody: by the service itself.
    fn from(op: Op) -> Self {
        Self { session: None, op }
    }
}

/// An operation, judged as far as it can be outside a transaction.
#[derive(Debug, Clone)]
pub enum Op {
    /// A device logs in.
    LogIn(Box<identity::LogIn>),
    /// A device's next life begins.
    ConfirmLife(identity::ConfirmLife),
    /// A new invitation.
    CreateInvitation(identity::CreateInvitation),
    /// A newer device list.
    PutDeviceList(identity::PutDeviceList),
    /// Key packages of a device.
    PutKeyPackages(packages::PutKeyPackages),
    /// A device's packages go.
    ClearKeyPackages(packages::ClearKeyPackages),
    /// Packages of a user's devices are handed out.
    ClaimKeyPackages(packages::ClaimKeyPackages),
    /// A new group.
    CreateGroup(Box<group::CreateGroup>),
    /// A group that a member brings.
    AdoptGroup(Box<adopt::AdoptGroup>),
    /// A commit, a standalone proposal, a signed entry, a new document.
    Enter(Box<entry::NewEntry>),
    /// Another GroupInfo.
    PutGroupInfo(group::PutGroupInfo),
    /// A root wrap.
    PutWrap(help::PutWrap),
    /// A plea.
    Ask(help::Ask),
    /// A Welcome was taken.
    AckWelcome(help::AckWelcome),
    /// Updates and verdicts for a document.
    Append(append::Append),
    /// A snapshot of a document.
    PutSnapshot(Box<snapshot::PutSnapshot>),
    /// Replaced snapshots whose time is over lose their content.
    Sweep(upkeep::Sweep),
    /// A head that the service signed and does not lead to.
    Report(Box<recovery::Report>),
    /// Entries of a group's log that were lost come back.
    ReturnGroup(Box<returned_group::ReturnGroup>),
    /// Records that were lost come back.
    ReturnDocument(Box<returned::ReturnDocument>),
    /// A group goes.
    DropGroup(Box<drop::DropGroup>),
    /// A generation begins.
    Declare(Box<recovery::Declare>),
    /// What is held is held longer.
    Prolong(recovery::Prolong),
    /// The hold over all logs is over.
    EndHold(recovery::EndHold),
    /// What a log did not get back is given up.
    AcceptLoss(Box<recovery::AcceptLoss>),
    /// Times of heads, for a while.
    ReserveTime(recovery::ReserveTime),
    /// Whether a write becomes durable.
    Probe(upkeep::Probe),
}

impl Op {
    /// Rows that it will surely compare.
    pub(crate) fn keys(&self, keys: &mut Keys) {
        match self {
            Self::LogIn(op) => op.keys(keys),
            Self::ConfirmLife(op) => op.keys(keys),
            Self::PutDeviceList(op) => op.keys(keys),
            Self::PutKeyPackages(op) => op.keys(keys),
            Self::ClearKeyPackages(op) => op.keys(keys),
            Self::ClaimKeyPackages(op) => op.keys(keys),
            Self::CreateGroup(op) => op.keys(keys),
            Self::AdoptGroup(op) => op.keys(keys),
            Self::Enter(op) => op.keys(keys),
            Self::PutGroupInfo(op) => op.keys(keys),
            Self::PutWrap(op) => op.keys(keys),
            Self::Ask(op) => op.keys(keys),
            Self::AckWelcome(op) => op.keys(keys),
            Self::Append(op) => op.keys(keys),
            Self::PutSnapshot(op) => op.keys(keys),
            Self::Sweep(op) => op.keys(keys),
            Self::Report(op) => op.keys(keys),
            Self::ReturnGroup(op) => op.keys(keys),
            Self::ReturnDocument(op) => op.keys(keys),
            Self::DropGroup(op) => op.keys(keys),
            Self::Declare(op) => op.keys(keys),
            Self::Prolong(op) => op.keys(keys),
            Self::EndHold(op) => op.keys(keys),
            Self::AcceptLoss(op) => op.keys(keys),
            Self::CreateInvitation(_) | Self::ReserveTime(_) | Self::Probe(_) => {}
        }
    }

    /// What it changes, and what is told then.
    pub(crate) fn decide(&self, rows: &Rows, limits: &Limits) -> Result<Decided, Stop> {
        match self {
            Self::LogIn(op) => op.decide(rows),
            Self::ConfirmLife(op) => op.decide(rows),
            Self::CreateInvitation(op) => Ok(op.decide()),
            Self::PutDeviceList(op) => op.decide(rows),
            Self::PutKeyPackages(op) => op.decide(rows),
            Self::ClearKeyPackages(op) => op.decide(rows),
            Self::ClaimKeyPackages(op) => op.decide(rows),
            Self::CreateGroup(op) => op.decide(rows),
            Self::AdoptGroup(op) => op.decide(rows),
            Self::Enter(op) => op.decide(rows),
            Self::PutGroupInfo(op) => op.decide(rows),
            Self::PutWrap(op) => op.decide(rows),
            Self::Ask(op) => op.decide(rows),
            Self::AckWelcome(op) => op.decide(rows),
            Self::Append(op) => op.decide(rows, limits),
            Self::PutSnapshot(op) => op.decide(rows),
            Self::Sweep(op) => op.decide(rows),
            Self::Report(op) => op.decide(rows),
            Self::ReturnGroup(op) => op.decide(rows),
            Self::ReturnDocument(op) => op.decide(rows),
            Self::DropGroup(op) => op.decide(rows),
            Self::Declare(op) => op.decide(rows),
            Self::Prolong(op) => op.decide(rows),
            Self::EndHold(op) => op.decide(rows),
            Self::AcceptLoss(op) => op.decide(rows),
            Self::ReserveTime(op) => Ok(op.decide()),
            Self::Probe(op) => Ok(op.decide()),
        }
    }

    /// What is told when it is refused.
    pub(crate) fn refused(&self, refusal: Refusal) -> Event {
        match self {
            Self::Append(_) => Event::RecordsRefused {
                refusal,
                chain: None,
            },
            _ => Event::Refused(refusal),
        }
    }
}

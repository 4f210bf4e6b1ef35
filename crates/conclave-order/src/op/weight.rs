//! What operations bring, in bytes: few large ones fill a transaction, as many small ones do.

use conclave_proto::Record;
use conclave_proto::group::{GroupEntry, RootWrap};

use super::Op;
use super::adopt::AdoptGroup;
use super::append::{Append, Offer};
use super::entry::{Does, NewEntry};
use super::packages::PutKeyPackages;
use super::returned_group::ReturnGroup;
use crate::rows::{JoinRow, PartChange};

impl Op {
    /// Bytes that it brings, beside what all have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::PutDeviceList(op) => op.bytes.len(),
            Self::PutKeyPackages(op) => op.bytes(),
            Self::CreateGroup(op) => of_parts(&op.parts),
            Self::AdoptGroup(op) => op.bytes(),
            Self::Enter(op) => op.bytes(),
            Self::PutGroupInfo(op) => of_parts(&op.parts),
            Self::PutWrap(op) => of_wrap(&op.wrap),
            Self::Append(op) => op.bytes(),
            Self::PutSnapshot(op) => of_record(&op.record),
            Self::ReturnGroup(op) => op.bytes(),
            Self::ReturnDocument(op) => op.bytes(),
            Self::LogIn(_)
            | Self::ConfirmLife(_)
            | Self::CreateInvitation(_)
            | Self::ClearKeyPackages(_)
            | Self::ClaimKeyPackages(_)
            | Self::Ask(_)
            | Self::AckWelcome(_)
            | Self::Sweep(_)
            | Self::Report(_)
            | Self::DropGroup(_)
            | Self::Declare(_)
            | Self::Prolong(_)
            | Self::EndHold(_)
            | Self::AcceptLoss(_)
            | Self::ReserveTime(_)
            | Self::Probe(_) => 0,
        }
    }
}

impl Append {
    fn bytes(&self) -> usize {
        match &self.offer {
            Offer::Frame(frame, _) => {
                let records = frame.records.iter();
                records.map(|record| record.sealed.len()).sum()
            }
            Offer::Gap | Offer::Refused(_) => 0,
        }
    }
}

impl PutKeyPackages {
    fn bytes(&self) -> usize {
        let packages = self.one_time.iter().chain(&self.last_resort);
        packages.map(|package| package.bytes.len()).sum()
    }
}

impl AdoptGroup {
    fn bytes(&self) -> usize {
        let entries = self.base.entries.iter().map(of_record);
        entries.sum::<usize>() + of_parts(&self.parts) + self.wrap.as_ref().map_or(0, of_wrap)
    }
}

impl ReturnGroup {
    fn bytes(&self) -> usize {
        let entries = self.entries.iter().map(NewEntry::bytes);
        entries.sum::<usize>() + of_parts(&self.parts) + self.wrap.as_ref().map_or(0, of_wrap)
    }
}

impl NewEntry {
    fn bytes(&self) -> usize {
        let entry = match &self.entry {
            GroupEntry::Commit(bytes) | GroupEntry::Proposal(bytes) => bytes.len(),
            GroupEntry::Signed(record) => of_record(record),
        };
        let beside = match &self.does {
            Does::Commit(begins) => {
                begins.wrap.as_ref().map_or(0, of_wrap) + begins.join.as_ref().map_or(0, of_join)
            }
            Does::CreateDocument { first, .. } => of_record(first),
            Does::Propose | Does::Put | Does::PutAgain => 0,
        };
        entry + of_parts(&self.parts) + beside
    }
}

fn of_record(record: &Record) -> usize {
    record.sealed.ciphertext.len()
}

fn of_wrap(wrap: &RootWrap) -> usize {
    wrap.statement.ciphertext.len()
}

fn of_join(join: &JoinRow) -> usize {
    join.state.len() + join.tree.len() + of_wrap(&join.wrap) + join.welcome.len()
}

fn of_parts(parts: &[PartChange]) -> usize {
    let of = |it: &PartChange| it.part.len() + it.value.as_ref().map_or(0, bytes::Bytes::len);
    parts.iter().map(of).sum()
}

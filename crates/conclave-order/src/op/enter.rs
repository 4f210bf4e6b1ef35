//! Judging what is to enter a group's log, by the group's state. That goes ahead by what is judged: only where this is ordered is it what is
//! stored.

use conclave_mls::PublicGroupState;
use conclave_proto::record::{EntryBody, Record, RecordBody};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault};
use conclave_proto::{DeviceId, Head, Refusal, limits};
use conclave_rules::{Fit, Place, Seen, judge_record};

use super::entry::{Does, NewEntry};
use super::snapshot;

impl NewEntry {
    /// Judges a standalone proposal; the group's state has it then.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn proposal(
        core: &mut PublicGroupState,
        version: u64,
        message: &[u8],
        device: DeviceId,
    ) -> Result<Self, Refusal> {
        if message.len() > limits::MLS_MESSAGE_BYTES {
            let fault = CommitFault::Limit;
            return Err(Refusal::BadCommit { fault });
        }
        let judged = core.judge_proposal(message, device)?;
        Self::of_proposal(core, version, judged, device)
    }

    /// Judges a signed entry that closes, voids or completes; the group's state has it then. Creating a document needs its first snapshot
    /// too.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn signed(
        core: &mut PublicGroupState,
        version: u64,
        entry: Record,
        device: DeviceId,
    ) -> Result<Self, Refusal> {
        check_kind(&entry)?;
        Self::of_signed(core, version, entry, Does::Put, device)
    }

    /// Judges a new document: the entry that lists it, and its first snapshot. That is judged first: refusing it changes nothing.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn document(
        core: &mut PublicGroupState,
        version: u64,
        entry: Record,
        first: Record,
        device: DeviceId,
    ) -> Result<Self, Refusal> {
        let crdt = judge_first(core, &entry, &first, device)?;
        let first = Box::new(first);
        let does = Does::CreateDocument { first, crdt };
        Self::of_signed(core, version, entry, does, device)
    }
}

/// Checks that a record is a signed entry that creates nothing.
///
/// # Errors
/// [`Refusal::Malformed`].
pub fn check_kind(entry: &Record) -> Result<(), Refusal> {
    match entry.header.body {
        RecordBody::Entry(EntryBody::DocumentCreated { .. }) => Err(Refusal::Malformed),
        RecordBody::Entry(_) => Ok(()),
        _ => Err(Refusal::Malformed),
    }
}

/// Judges what an entry creates. Gives the code of its CRDT kind.
fn judge_first(
    core: &PublicGroupState,
    entry: &Record,
    first: &Record,
    device: DeviceId,
) -> Result<u8, Refusal> {
    let RecordBody::Entry(EntryBody::DocumentCreated { document, crdt }) = entry.header.body else {
        return Err(Refusal::Malformed);
    };
    let bad = |fault| Refusal::BadRecord { fault };
    let view = core.state();
    if first.header.document != document || first.header.group != view.group {
        return Err(bad(RecordFault::WrongDocument));
    }
    if first.header.author != entry.header.author {
        let why = ForbiddenWhy::NotYours;
        return Err(Refusal::Forbidden { why });
    }
    let at = Place::of_device(view, &device, &first.header)?;
    snapshot::check(first, &at)?;
    let at = Place {
        seen: Seen::known(first.header.seen == Head::EMPTY),
        ..at
    };
    match judge_record(&first.header, &at) {
        Ok(Fit::Snapshot { header, .. }) if header.crdt == crdt => Ok(crdt),
        Ok(_) => Err(bad(RecordFault::Malformed)),
        Err(fault) => Err(at.answer(fault)),
    }
}

//! What calls on a document are given, and what they give back.

use std::collections::BTreeSet;

use conclave_crdt::{Crdt, CrdtError};
use conclave_identity::DeviceKey;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, Hash, Refusal, UserId};
use conclave_rules::{Authority, RosterRow};
use rand_core::CryptoRngCore;

use crate::error::{Fault, Finding, Suspect};
use crate::payload::Judgement;
use crate::seal::KeySource;
use crate::unsent::Unsent;
use crate::watch::Watch;

/// An edit: runs once, on the document's CRDT.
pub type EditFn<'a> = &'a mut dyn FnMut(&mut dyn Crdt) -> Result<(), CrdtError>;

/// What a document needs to know of its group and its device. Nothing of it is kept.
#[derive(Clone, Copy)]
pub struct DocContext<'a> {
    /// Who holds the document's keys: its group, as far as the group's log has been processed.
    pub authority: &'a dyn Authority,
    /// Roots of epochs.
    pub keys: &'a dyn KeySource,
    /// This device.
    pub device: DeviceId,
    /// Is told where work is, by calls that read a document from rows or from a snapshot.
    pub watch: Option<&'a Watch>,
}

/// What a device seals with. Only calls that seal are given it.
pub struct Sealer<'a> {
    /// The device's key.
    pub key: &'a DeviceKey,
    /// Nonces are drawn from it.
    pub rng: &'a mut dyn CryptoRngCore,
}

impl std::fmt::Debug for Sealer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl std::fmt::Debug for DocContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "DocContext(epoch {}, {:?})",
            self.authority.epoch(),
            self.device
        )
    }
}

impl<'a> DocContext<'a> {
    pub(crate) fn row(&self, device: &DeviceId, epoch: u64) -> Option<&'a RosterRow> {
        self.authority.row(device, epoch)
    }

    /// Whether nobody but one user's devices can check what is written now.
    pub(crate) fn one_user(&self) -> bool {
        self.authority.is_of_one_user(self.authority.epoch())
    }

    pub(crate) fn watch(&self) -> Watch {
        self.watch.cloned().unwrap_or_default()
    }

    pub(crate) fn own_row(&self) -> Option<&'a RosterRow> {
        self.row(&self.device, self.authority.epoch())
    }
}

/// How much there is to do, as far as it can be told without doing it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Records.
    pub records: usize,
    /// Encoded bytes.
    pub bytes: usize,
    /// What a CRDT engine takes for it, in microseconds, as far as that is counted: by the operations of a document, and by what records may cost.
    pub engine_us: u64,
}

impl Cost {
    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            bytes: self.bytes.saturating_add(other.bytes),
            engine_us: self.engine_us.saturating_add(other.engine_us),
        }
    }
}

/// What kind of record changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// The content.
    Update,
    /// Somebody judged a snapshot.
    Verdict,
    /// A snapshot became the active one.
    Snapshot,
}

/// A record of somebody else, or of another life of this device, that has been accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Who wrote it: their signature.
    pub author: Author,
    /// Their user, by the roster of the epoch in which they wrote it.
    pub user: UserId,
    /// Who brought it, and their user, where that was somebody else: an update that the log had lost.
    pub carried_by: Option<(Author, UserId)>,
    /// Position in the log.
    pub seq: u64,
    /// Epoch of the record.
    pub epoch: u64,
    /// What it is.
    pub kind: ChangeKind,
}

impl Change {
    /// Who sealed the record: its author, or the carrier.
    #[must_use]
    pub fn sealed_by(&self) -> Author {
        self.carried_by.map_or(self.author, |(author, _)| author)
    }
}

/// Why application stops at a position. Everything from there on waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// The record is of an epoch that the group state has not reached: process commits, then
    /// [`retry`](crate::Document::retry).
    Epoch(u64),
    /// The root of this epoch is not held: get it, then [`retry`](crate::Document::retry).
    Root(u64),
    /// These records are needed whole: `GetRecords`, then [`deliver`](crate::Document::deliver) the answer.
    Whole {
        /// First position.
        first_seq: u64,
        /// How many.
        count: u32,
    },
    /// The service keeps these records only by hash: open the document at its active snapshot, then
    /// [`opened`](crate::Document::opened).
    Base,
    /// No valid signature covers the record. A later record of its author, or a better copy, may.
    Unverified,
}

/// What a call did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliverOutcome {
    /// Accepted records of others, in log order.
    pub changes: Vec<Change>,
    /// What is wrong, and with whom.
    pub findings: Vec<Finding>,
    /// Where application stopped, and why.
    pub blocked: Option<(u64, Blocked)>,
    /// The epoch to wait for, where that is what stops application.
    pub waiting_for_epoch: Option<u64>,
    /// The epoch whose root is missing, where that is what stops application.
    pub needs_root: Option<u64>,
    /// Who sealed the record that nobody here can open, where that is what stops application: their signature covers it.
    pub needs_root_author: Option<Author>,
    /// Positions from the first up to the second (exclusive) are missing: fetch and deliver them. What came after them is kept.
    pub gap: Option<(u64, u64)>,
    /// Own records that got their place in the log.
    pub acknowledged: usize,
    /// An own record was refused, by all members alike; what it held was written again under a fresh replica id.
    pub refused_own: bool,
    /// An own edit would cost more than it may, and cannot be sent in another form: it waits.
    pub waits_for_cost: bool,
    /// Highest version of a member's verdict that this program does not know: nobody judges what it cannot read, and nobody is at fault.
    pub unknown_verdict: Option<u16>,
    /// Own edits that went out of the document and could not be written again: to be kept apart in the batch that drops them.
    pub lost: Vec<Unsent>,
    /// What the log has lost and nobody here can carry: to be kept apart in the batch that drops it.
    pub uncarried: Vec<Unsent>,
    /// A fresh instance was drawn: open the document again on this connection.
    pub reopen: bool,
    /// The document was built again from its checkpoint, since a record's content became known, or void: anything in it may have changed.
    pub rebuilt: bool,
    /// This store was found behind the service: another life of this device has written on, so this is a restored backup or a copy.
    /// A fresh instance was drawn, and further edits are written under a fresh replica id.
    pub restored: bool,
}

impl DeliverOutcome {
    pub(crate) fn block(&mut self, seq: u64, why: Blocked) {
        self.blocked = Some((seq, why));
        match why {
            Blocked::Epoch(epoch) => self.waiting_for_epoch = Some(epoch),
            Blocked::Root(epoch) => self.needs_root = Some(epoch),
            _ => {}
        }
    }

    pub(crate) fn unblock(&mut self) {
        self.blocked = None;
        self.waiting_for_epoch = None;
        self.needs_root = None;
        self.needs_root_author = None;
    }

    /// The engine does not take a record. Nobody is named for an own one.
    pub(crate) fn refused_by_engine(&mut self, seq: u64, author: Option<Author>, own: DeviceId) {
        self.changes.retain(|change| change.seq != seq);
        let author = author.filter(|author| author.device != own);
        self.findings.push(Finding {
            seq,
            fault: Fault::Record(RecordFault::Content),
            suspect: author.map_or(Suspect::default(), Suspect::author),
        });
    }

    /// Adds what a later call did. States (blocked, gap) are those of the later call.
    pub fn absorb(&mut self, later: Self) {
        self.changes.extend(later.changes);
        self.findings.extend(later.findings);
        self.blocked = later.blocked;
        self.waiting_for_epoch = later.waiting_for_epoch;
        self.needs_root = later.needs_root;
        self.needs_root_author = later.needs_root_author;
        self.gap = later.gap;
        self.acknowledged = self.acknowledged.saturating_add(later.acknowledged);
        self.refused_own |= later.refused_own;
        self.waits_for_cost |= later.waits_for_cost;
        self.unknown_verdict = self.unknown_verdict.max(later.unknown_verdict);
        self.lost.extend(later.lost);
        self.uncarried.extend(later.uncarried);
        self.reopen |= later.reopen;
        self.restored |= later.restored;
        self.rebuilt |= later.rebuilt;
    }
}

/// Records to send in one `Append` frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Their epoch.
    pub epoch: u64,
    /// Clock of the first.
    pub first_clock: u64,
    /// The records.
    pub records: Vec<AppendedRecord>,
}

/// What to do after the service refused own records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusedOutcome {
    /// Process the group's commits up to this epoch, then append again: the records are sealed anew.
    Reseal {
        /// Epoch to reach.
        epoch: u64,
    },
    /// Append again.
    Resend,
    /// Own records are in the log already: fetch from here and deliver.
    Refetch {
        /// First position.
        from: u64,
    },
    /// Append again after this time.
    RetryLater {
        /// In milliseconds.
        after_ms: u64,
    },
    /// The tail is full: make a snapshot first.
    SnapshotNeeded,
    /// The edits will be sent under a fresh instance: open the document again.
    FreshInstance,
    /// The edits are kept and not sent before the document is opened again. Tell the user.
    Parked(Refusal),
}

/// A verdict that this device should write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingVerdict {
    /// The snapshot.
    pub snapshot: Hash,
    /// Its position.
    pub seq: u64,
    /// What this device found.
    pub judgement: Judgement,
}

/// A snapshot that this device could check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckWanted {
    /// Its position.
    pub seq: u64,
    /// Whether it is held; otherwise deliver it.
    pub have: bool,
    /// Whether it is in a row of this store, by whose word nobody can withhold it ([`snapshot_row`](crate::snapshot_row)). Otherwise the service is asked.
    pub kept: bool,
}

/// Epochs whose roots a document needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootsNeeded {
    /// Every root of an epoch below this one is needed.
    pub all_below: u64,
    /// These are needed.
    pub epochs: BTreeSet<u64>,
    /// Every root from this epoch on is needed: records that this device has not seen yet may be under any of them, and under none
    /// before, since epochs never fall along a log.
    pub all_from: u64,
}

impl RootsNeeded {
    /// Whether the root of `epoch` is needed.
    #[must_use]
    pub fn needs(&self, epoch: u64) -> bool {
        epoch < self.all_below || epoch >= self.all_from || self.epochs.contains(&epoch)
    }
}

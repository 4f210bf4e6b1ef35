//! Records of a document's log: what a header must say where its record comes to stand (`docs/PROTOCOL.md`, Order of checks).
//!
//! Signature and content are judged elsewhere: the one needs the sealed part, the other its key.

use conclave_proto::record::{
    ChainFault, Chained, RECORD_VERSION, RecordBody, RecordHeader, SnapshotHeader, check_link,
};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault, Refusal};
use conclave_proto::service::LogName;
use conclave_proto::{DeviceId, DocumentId, GroupId, Hash, limits};
use serde::{Deserialize, Serialize};

use crate::actions::Action;
use crate::authority::Authority;
use crate::roster::RosterRow;

/// The log of a document, or a group's own: that of document zero, which no document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The group.
    pub group: GroupId,
    /// The document.
    pub document: DocumentId,
}

impl LogId {
    /// A group's own log.
    #[must_use]
    pub fn of_group(group: GroupId) -> Self {
        let document = DocumentId::ZERO;
        Self { group, document }
    }

    /// Whether it is a group's own.
    #[must_use]
    pub fn is_group(&self) -> bool {
        self.document == DocumentId::ZERO
    }

    /// Its name in what services sign.
    #[must_use]
    pub fn name(&self) -> LogName {
        LogName {
            group: self.group,
            document: (!self.is_group()).then_some(self.document),
        }
    }
}

impl From<LogName> for LogId {
    fn from(name: LogName) -> Self {
        Self {
            group: name.group,
            document: name.document.unwrap_or(DocumentId::ZERO),
        }
    }
}

/// Where an author's chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Clock of its next record.
    pub next: u64,
    /// Id of its last record.
    pub last: Hash,
    /// Whether a later instance of the same device has written.
    pub closed: bool,
}

impl Chain {
    /// The refusal for a record that does not follow; none where its author has written nothing.
    #[must_use]
    pub fn gap(chain: Option<Self>) -> Refusal {
        Refusal::ClockGap {
            expected: chain.map_or(0, |chain| chain.next),
        }
    }

    /// Clock and id of its last record.
    #[must_use]
    pub fn last_link(&self) -> Option<(u64, Hash)> {
        Some((self.next.checked_sub(1)?, self.last))
    }
}

/// The active snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    /// Its position.
    pub seq: u64,
    /// Its id.
    pub id: Hash,
    /// What it says.
    pub header: SnapshotHeader,
}

/// Whether a head is a true prefix of the log before the record. The caller looks it up, knowing which roots it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is.
    True,
    /// It is not.
    False,
    /// It has not been shown (yet).
    Unproven,
}

impl Seen {
    /// What a comparison says that was made.
    #[must_use]
    pub fn known(is_prefix: bool) -> Self {
        if is_prefix { Self::True } else { Self::False }
    }
}

/// Which epochs are taken: the one intended difference between the service and members.
///
/// A record that is not ordered yet must be of the group's current epoch: what is written from now on is for those who are members now. What is
/// ordered was current once, and whoever reads it later has gone on: it is judged by the roster of its own epoch, and epochs must not
/// fall along a log. For the same reason only the service asks how large a record is ([`max_sealed_bytes`]): a limit that were judged
/// afterwards could never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// At the service, before the record is ordered.
    Before {
        /// The group's epoch.
        current: u64,
    },
    /// At a member, after it was.
    After {
        /// Highest epoch of the records before it.
        highest: u64,
        /// The epoch that the member has reached.
        current: u64,
    },
}

impl Gate {
    /// Whether records of this epoch may be judged here already. Not, where a member has yet to reach the epoch.
    ///
    /// # Errors
    /// [`RecordFault::EpochDecreased`]: the epoch is not one that may come here.
    pub fn admits(self, epoch: u64) -> Result<bool, RecordFault> {
        let (admitted, reached) = match self {
            // Breakage: records of epochs that are over are taken.
            Self::Before { current } => (
                epoch == current || (crate::broken("accept-stale-epoch") && epoch < current),
                true,
            ),
            Self::After { highest, current } => (epoch >= highest, epoch <= current),
        };
        if admitted || !reached {
            Ok(reached)
        } else {
            Err(RecordFault::EpochDecreased)
        }
    }

    /// The group's epoch.
    #[must_use]
    pub fn current(self) -> u64 {
        match self {
            Self::Before { current } | Self::After { current, .. } => current,
        }
    }
}

/// Where a record comes to stand.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The log.
    pub log: LogId,
    /// Its author's roster row in its epoch.
    pub row: Option<&'a RosterRow>,
    /// Its author's chain; none before the first record.
    pub chain: Option<Chain>,
    /// The active snapshot; none before the document's first.
    pub active: Option<&'a Active>,
    /// Whether the head that it has seen is a true prefix.
    pub seen: Seen,
    /// Whether the head that it covers is one, where it is a snapshot.
    pub covered: Seen,
    /// Which epochs are taken.
    pub gate: Gate,
}

impl<'a> Place<'a> {
    /// Where a record that `device` hands in comes to stand before it is ordered, as far as the group tells: nothing is looked up in a log.
    ///
    /// # Errors
    /// [`ForbiddenWhy::NotYours`], and [`Authority::refusal`].
    pub fn of_device(
        authority: &'a dyn Authority,
        device: &DeviceId,
        header: &RecordHeader,
    ) -> Result<Self, Refusal> {
        if header.author.device != *device {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::NotYours,
            });
        }
        let current = authority.epoch();
        let row = authority.row(device, current);
        Ok(Self {
            log: LogId {
                group: header.group,
                document: header.document,
            },
            row: Some(row.ok_or_else(|| authority.refusal(device))?),
            chain: None,
            active: None,
            seen: Seen::Unproven,
            covered: Seen::Unproven,
            gate: Gate::Before { current },
        })
    }

    /// What the service answers to a record that does not fit. A clock that was used before it looks up.
    #[must_use]
    pub fn answer(&self, fault: RecordFault) -> Refusal {
        let forbidden = |why| Refusal::Forbidden { why };
        match fault {
            RecordFault::EpochDecreased => Refusal::StaleEpoch {
                current: self.gate.current(),
            },
            RecordFault::NotMember => forbidden(ForbiddenWhy::NotMember),
            RecordFault::Role => forbidden(ForbiddenWhy::Role),
            RecordFault::Gap | RecordFault::Prev => Chain::gap(self.chain),
            fault => Refusal::BadRecord { fault },
        }
    }
}

/// How a record fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is the next of its author's chain.
    Chained {
        /// Its clock.
        clock: u64,
    },
    /// A snapshot that becomes the active one.
    Snapshot {
        /// What it says.
        header: SnapshotHeader,
    },
    /// Its epoch has not been reached: nothing can be said yet.
    Waits,
    /// All fits, but whether the head that it has seen is a true prefix has to be shown.
    Unproven,
}

/// Judges a record by its header.
///
/// # Errors
/// The first rule that it breaks.
pub fn judge_record(header: &RecordHeader, at: &Place<'_>) -> Result<Fit, RecordFault> {
    if !judge_author(header, at)? {
        return Ok(Fit::Waits);
    }
    let fit = match header.body {
        RecordBody::Update(chained)
        | RecordBody::Verdict(chained)
        | RecordBody::Carried(chained) => {
            check_chain(at.chain, &chained)?;
            Fit::Chained {
                clock: chained.clock,
            }
        }
        RecordBody::Snapshot(snapshot) => {
            check_lineage(&snapshot, at)?;
            Fit::Snapshot { header: snapshot }
        }
        RecordBody::Presence { .. } | RecordBody::Entry(_) => return Err(RecordFault::Malformed),
    };
    // Breakage: a record may claim to have seen any log.
    if crate::broken("ignore-seen-head") {
        return Ok(fit);
    }
    match at.seen {
        Seen::True => Ok(fit),
        Seen::False => Err(RecordFault::SeenHead),
        Seen::Unproven => Ok(Fit::Unproven),
    }
}

/// Of that, what needs no log: ids, kind, epoch, membership and role. Gives whether the epoch has been reached ([`Gate::admits`]).
///
/// # Errors
/// The first rule that it breaks.
pub fn judge_author(header: &RecordHeader, at: &Place<'_>) -> Result<bool, RecordFault> {
    if (header.group, header.document) != (at.log.group, at.log.document) {
        return Err(RecordFault::WrongDocument);
    }
    let kind_fits = match header.body {
        RecordBody::Update(_) | RecordBody::Verdict(_) | RecordBody::Carried(_) => true,
        RecordBody::Snapshot(snapshot) => at
            .active
            .is_none_or(|active| active.header.crdt == snapshot.crdt),
        RecordBody::Presence { .. } | RecordBody::Entry(_) => false,
    };
    if header.version != RECORD_VERSION || !kind_fits {
        return Err(RecordFault::Malformed);
    }
    if !at.gate.admits(header.epoch)? {
        return Ok(false);
    }
    let row = at.row.ok_or(RecordFault::NotMember)?;
    if Action::of_record(&header.body).allowed(row.role) {
        Ok(true)
    } else {
        Err(RecordFault::Role)
    }
}

/// Whether an update or verdict is the next in its author's chain.
///
/// # Errors
/// [`RecordFault::InstanceClosed`], [`RecordFault::Replayed`], [`RecordFault::Gap`], [`RecordFault::Prev`].
pub fn check_chain(chain: Option<Chain>, next: &Chained) -> Result<(), RecordFault> {
    if chain.is_some_and(|chain| chain.closed) {
        return Err(RecordFault::InstanceClosed);
    }
    match check_link(chain.and_then(|chain| chain.last_link()), next) {
        Ok(()) => Ok(()),
        Err(ChainFault::Replayed { .. }) => Err(RecordFault::Replayed),
        Err(ChainFault::Gap { .. }) => Err(RecordFault::Gap),
        // Breakage: a record may name any predecessor.
        Err(_) if crate::broken("ignore-prev") => Ok(()),
        Err(_) => Err(RecordFault::Prev),
    }
}

/// Parent and covered head of a snapshot. Its parent says after which it comes, and nothing of what is in it: each is made from its author's own
/// log.
fn check_lineage(snapshot: &SnapshotHeader, at: &Place<'_>) -> Result<(), RecordFault> {
    let Some(active) = at.active else {
        return if snapshot.parent != Hash::ZERO || snapshot.chain_proof != Hash::ZERO {
            Err(RecordFault::Parent)
        } else if snapshot.covered != conclave_proto::Head::EMPTY {
            Err(RecordFault::Covered)
        } else {
            Ok(())
        };
    };
    let follows = snapshot.parent == active.id
        && snapshot.chain_proof == active.header.successor_proof(&active.id);
    if !follows {
        return Err(RecordFault::Parent);
    }
    // Past the active one's own position too: so no replaced snapshot lies in any tail.
    if snapshot.covered.size <= active.seq || at.covered != Seen::True {
        return Err(RecordFault::Covered);
    }
    Ok(())
}

/// Most bytes that may be sealed in a record, padding included.
#[must_use]
pub fn max_sealed_bytes(body: &RecordBody) -> usize {
    match body {
        RecordBody::Snapshot(_) => limits::SNAPSHOT_BYTES,
        RecordBody::Carried(_) => limits::CARRIED_BYTES,
        RecordBody::Verdict(_) => limits::VERDICT_BYTES,
        _ => limits::UPDATE_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::codec::Bytes;
    use conclave_proto::policy::Role;
    use conclave_proto::{Author, DeviceId, Head, InstanceId, UnixMs, UserId};

    use super::*;
    use crate::roster::RowCause;

    const LOG: LogId = LogId {
        group: GroupId([1; 16]),
        document: DocumentId([2; 16]),
    };
    /// Epoch of the headers below.
    const EPOCH: u64 = 5;

    fn row(role: Role) -> RosterRow {
        RosterRow {
            device: DeviceId([3; 16]),
            user: UserId([4; 32]),
            credential_type: 1,
            credential: Vec::new().into(),
            key: Bytes::default().into(),
            scheme: 1,
            role,
            first_epoch: 0,
            last_epoch: None,
            time: UnixMs(0),
            cause: RowCause::Own,
        }
    }

    fn head(size: u64) -> Head {
        Head {
            size,
            root: Hash([size as u8; 32]),
        }
    }

    fn active() -> Active {
        Active {
            seq: 10,
            id: Hash([9; 32]),
            header: SnapshotHeader {
                parent: Hash([8; 32]),
                chain_proof: Hash([7; 32]),
                covered: head(6),
                crdt: 1,
            },
        }
    }

    /// A snapshot that follows the active one.
    fn next() -> SnapshotHeader {
        let active = active();
        SnapshotHeader {
            parent: active.id,
            chain_proof: active.header.successor_proof(&active.id),
            covered: head(11),
            crdt: 1,
        }
    }

    fn header(body: RecordBody) -> RecordHeader {
        RecordHeader {
            version: RECORD_VERSION,
            group: LOG.group,
            document: LOG.document,
            epoch: EPOCH,
            author: Author {
                device: DeviceId([3; 16]),
                instance: InstanceId([5; 8]),
            },
            seen: head(12),
            body,
        }
    }

    const BEFORE: Gate = Gate::Before { current: EPOCH };
    const AFTER: Gate = Gate::After {
        highest: EPOCH - 1,
        current: EPOCH + 1,
    };

    /// Both sides, for all that they judge alike.
    fn both(row: Option<&RosterRow>, check: impl Fn(Place<'_>)) {
        for gate in [BEFORE, AFTER] {
            check(Place {
                log: LOG,
                row,
                chain: Some(Chain {
                    next: 3,
                    last: Hash([6; 32]),
                    closed: false,
                }),
                active: Some(&active()),
                seen: Seen::True,
                covered: Seen::True,
                gate,
            });
        }
    }

    fn link(clock: u64, prev: u8) -> Chained {
        Chained {
            clock,
            prev: Hash([prev; 32]),
        }
    }

    #[test]
    fn what_fits_is_taken_on_both_sides() {
        both(Some(&row(Role::Editor)), |at| {
            for body in [
                RecordBody::Update(link(3, 6)),
                RecordBody::Carried(link(3, 6)),
            ] {
                let fit = judge_record(&header(body), &at);
                assert_eq!(fit, Ok(Fit::Chained { clock: 3 }));
            }
            let fit = judge_record(&header(RecordBody::Snapshot(next())), &at);
            assert_eq!(fit, Ok(Fit::Snapshot { header: next() }));
        });
    }

    #[test]
    fn ids_version_and_kind_are_those_of_the_log() {
        both(Some(&row(Role::Owner)), |at| {
            let good = header(RecordBody::Update(link(3, 6)));
            let judge = |change: &dyn Fn(&mut RecordHeader)| {
                let mut header = good;
                change(&mut header);
                judge_record(&header, &at)
            };
            let other = judge(&|header| header.group = GroupId([9; 16]));
            assert_eq!(other, Err(RecordFault::WrongDocument));
            let other = judge(&|header| header.document = DocumentId::ZERO);
            assert_eq!(other, Err(RecordFault::WrongDocument));
            let other = judge(&|header| header.version += 1);
            assert_eq!(other, Err(RecordFault::Malformed));
            let other = judge(&|header| {
                header.body = RecordBody::Snapshot(SnapshotHeader { crdt: 2, ..next() });
            });
            assert_eq!(other, Err(RecordFault::Malformed));
        });
    }

    #[test]
    fn the_service_takes_the_current_epoch_and_members_those_that_do_not_fall() {
        for (epoch, before, after) in [
            (EPOCH - 2, Err(()), Err(())),
            (EPOCH - 1, Err(()), Ok(true)),
            (EPOCH, Ok(true), Ok(true)),
            (EPOCH + 1, Err(()), Ok(true)),
            (EPOCH + 2, Err(()), Ok(false)),
        ] {
            assert_eq!(BEFORE.admits(epoch).map_err(drop), before, "{epoch}");
            assert_eq!(AFTER.admits(epoch).map_err(drop), after, "{epoch}");
        }
        both(None, |at| {
            let mut later = header(RecordBody::Update(link(3, 6)));
            later.epoch = EPOCH + 2;
            let judged = judge_record(&later, &at);
            match at.gate {
                // Who its author is, is not known before its epoch is.
                Gate::After { .. } => assert_eq!(judged, Ok(Fit::Waits)),
                Gate::Before { current } => {
                    let answer = judged.map_err(|fault| at.answer(fault));
                    assert_eq!(answer, Err(Refusal::StaleEpoch { current }));
                }
            }
        });
    }

    #[test]
    fn only_members_write_and_each_what_their_role_allows() {
        both(None, |at| {
            let judged = judge_record(&header(RecordBody::Verdict(link(3, 6))), &at);
            assert_eq!(judged, Err(RecordFault::NotMember));
        });
        both(Some(&row(Role::Viewer)), |at| {
            let judge = |body| judge_record(&header(body), &at);
            let fit = judge(RecordBody::Verdict(link(3, 6)));
            assert_eq!(fit, Ok(Fit::Chained { clock: 3 }));
            for body in [
                RecordBody::Update(link(3, 6)),
                RecordBody::Carried(link(3, 6)),
                RecordBody::Snapshot(next()),
            ] {
                assert_eq!(judge(body), Err(RecordFault::Role));
            }
        });
    }

    #[test]
    fn chains_go_on_one_by_one_until_they_are_closed() {
        both(Some(&row(Role::Editor)), |at| {
            let judge = |chained| judge_record(&header(RecordBody::Update(chained)), &at);
            assert_eq!(judge(link(2, 6)), Err(RecordFault::Replayed));
            assert_eq!(judge(link(4, 6)), Err(RecordFault::Gap));
            assert_eq!(judge(link(3, 5)), Err(RecordFault::Prev));
            let gap = Refusal::ClockGap { expected: 3 };
            assert_eq!(at.answer(RecordFault::Gap), gap);
            let closed = Place {
                chain: at.chain.map(|chain| Chain {
                    closed: true,
                    ..chain
                }),
                ..at
            };
            let update = header(RecordBody::Update(link(3, 6)));
            let judged = judge_record(&update, &closed);
            assert_eq!(judged, Err(RecordFault::InstanceClosed));
            let begins = Place { chain: None, ..at };
            let first = header(RecordBody::Update(link(0, 0)));
            let fit = judge_record(&first, &begins);
            assert_eq!(fit, Ok(Fit::Chained { clock: 0 }));
        });
    }

    #[test]
    fn nobody_takes_the_active_snapshots_place() {
        let sibling = SnapshotHeader {
            parent: active().header.parent,
            chain_proof: active().header.chain_proof,
            ..next()
        };
        for role in [Role::Editor, Role::Admin, Role::Owner] {
            both(Some(&row(role)), |at| {
                let header = header(RecordBody::Snapshot(sibling));
                let judged = judge_record(&header, &at);
                assert_eq!(judged, Err(RecordFault::Parent));
            });
        }
        both(Some(&row(Role::Owner)), |at| {
            let stranger = SnapshotHeader {
                parent: Hash([1; 32]),
                ..next()
            };
            let judged = judge_record(&header(RecordBody::Snapshot(stranger)), &at);
            assert_eq!(judged, Err(RecordFault::Parent));
        });
    }

    #[test]
    fn a_snapshot_covers_a_true_prefix_past_the_active_ones_position() {
        both(Some(&row(Role::Editor)), |at| {
            let judge = |size, covered| {
                let snapshot = SnapshotHeader {
                    covered: head(size),
                    ..next()
                };
                let at = Place { covered, ..at };
                judge_record(&header(RecordBody::Snapshot(snapshot)), &at).map(drop)
            };
            assert_eq!(judge(11, Seen::True), Ok(()));
            // Newer than what the active one covers, and yet not past it.
            for size in [6, 7, 10] {
                assert_eq!(judge(size, Seen::True), Err(RecordFault::Covered));
            }
            for covered in [Seen::False, Seen::Unproven] {
                assert_eq!(judge(11, covered), Err(RecordFault::Covered));
            }
        });
    }

    #[test]
    fn the_first_snapshot_follows_nothing_and_covers_nothing() {
        both(Some(&row(Role::Editor)), |at| {
            let at = Place { active: None, ..at };
            let judge = |snapshot| judge_record(&header(RecordBody::Snapshot(snapshot)), &at);
            let first = SnapshotHeader {
                parent: Hash::ZERO,
                chain_proof: Hash::ZERO,
                covered: Head::EMPTY,
                crdt: 2,
            };
            assert!(judge(first).is_ok());
            let parent = Hash([1; 32]);
            let judged = judge(SnapshotHeader { parent, ..first });
            assert_eq!(judged, Err(RecordFault::Parent));
            let covered = head(1);
            let judged = judge(SnapshotHeader { covered, ..first });
            assert_eq!(judged, Err(RecordFault::Covered));
        });
    }

    #[test]
    fn a_seen_head_is_true_or_has_to_be_shown() {
        both(Some(&row(Role::Editor)), |at| {
            for body in [RecordBody::Update(link(3, 6)), RecordBody::Snapshot(next())] {
                let judge = |seen| judge_record(&header(body), &Place { seen, ..at });
                assert_eq!(judge(Seen::False), Err(RecordFault::SeenHead));
                assert_eq!(judge(Seen::Unproven), Ok(Fit::Unproven));
            }
        });
    }
}

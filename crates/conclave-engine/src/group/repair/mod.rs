//! Coming back. A device that cannot follow its group's log any more (a commit that nobody can decrypt, a restored backup, lost MLS rows)
//! makes an external commit on scratch state. The scratch state takes the place of the old one when the log has the commit, never before;
//! until then the old state is read, edits are kept, and nothing is sealed. What cannot come back by itself asks to be added again, and tells
//! its user.

mod adopt;
mod state;

use conclave_mls::{CommitInputs, RejoinOffer};
use conclave_proto::CommitId;
use conclave_proto::frame::{JoinState, Plea};

pub(super) use self::state::{ReturnRow, Returning};
use self::state::{Scratch, Shadow};
use super::*;
use crate::cx::wait_ms;

/// Longest pause between two tries, in milliseconds.
pub(super) const LONGEST_PAUSE_MS: u64 = 5 * 60 * 1000;
/// Definite refusals after which the device asks to be added again.
const REFUSALS: u32 = 3;
/// Offers of an earlier state that are put down to entries on their way.
const OLDER_OFFERS: u32 = 3;
/// Rows of a return in the outbox.
const RETURN_ROW: &[u8] = b"return";

impl Cx {
    /// This device cannot follow the group any more: it comes back by an external commit. Tells who is probably to blame.
    pub(crate) fn come_back(
        &mut self,
        group: &mut Group,
        why: FindingKind,
        suspect: Option<Suspect>,
    ) {
        // What the service does not have yet is nothing to come back into.
        if group.is_broken() || group.is_frozen() || group.is_founding() {
            return;
        }
        // What is not known to be the right group is nothing to compare an offer with.
        group.membership = Membership::Returning {
            why: why.code().to_owned(),
            blind: group.is_unproven(),
        };
        self.save_membership(group);
        self.finding(group.id, None, why, suspect);
        group.returning = Returning::default();
        // All members may be in the same place: they do not come at once.
        let members = group.state().current_rows().count() as u64;
        self.return_later(group, 50, 200 * members.clamp(1, 50));
    }

    pub(super) fn return_later(&mut self, group: &mut Group, from_ms: u64, to_ms: u64) {
        let delay = self.jitter(from_ms, to_ms);
        group.retry_at = self.now.plus_ms(delay);
        self.cancel_timer(TimerKind::Group(group.id, GroupTimer::Pump));
        self.wake(delay, TimerKind::Group(group.id, GroupTimer::Pump));
    }

    /// Waits longer after each try that came to nothing.
    fn return_much_later(&mut self, group: &mut Group) {
        let most = group.returning.tries.next_ms(1_000, LONGEST_PAUSE_MS);
        self.return_later(group, most / 2, most);
    }

    /// Asks for what an external commit builds on, or sends the one that is ready.
    pub(super) fn pump_return(&mut self, group: &mut Group) {
        let id = group.id;
        let returning = &mut group.returning;
        if returning.asked {
            return;
        }
        let (Some(scratch), Some(row)) = (&mut returning.scratch, &returning.bundle) else {
            returning.asked = true;
            let request = Request::GetGroupInfo { group: id };
            self.request_for(id, request, GroupPending::ReturnInfo);
            return;
        };
        if scratch.sent {
            return;
        }
        let max = limits::FRAME_BYTES;
        let Ok(bundle) = decode::<CommitBundle>("commit", row.bundle.as_slice(), max) else {
            return self.drop_scratch(group);
        };
        scratch.sent = true;
        let leaf = row.leaf;
        self.request_for(id, Request::Commit(bundle), GroupPending::Return { leaf });
    }

    pub(crate) fn offered(&mut self, group: &mut Group, answer: Answer) {
        group.returning.asked = false;
        if !group.is_broken() || group.returning.scratch.is_some() {
            return;
        }
        match answer {
            Answer::GroupInfo {
                group_info,
                tree,
                state,
                pending,
                ..
            } => {
                let offer = RejoinOffer {
                    group: group.id,
                    group_info: group_info.as_slice(),
                    tree: tree.as_slice(),
                    state: &state,
                    pending: &pending,
                    known: None,
                };
                self.prepare_return(group, offer);
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                let least_ms = wait_ms(&refusal);
                self.return_later(group, least_ms + 500, least_ms + 3_000);
            }
            Answer::Refused(_) => {
                let what = FindingKind::CannotReturn { cause: None };
                self.tell_return(group, what, None);
                self.return_much_later(group);
            }
            _ => {}
        }
    }

    /// Tells the same thing once.
    fn tell_return(&mut self, group: &mut Group, what: FindingKind, suspect: Option<Suspect>) {
        if group.returning.told.as_deref() != Some(what.code()) {
            group.returning.told = Some(what.code().to_owned());
            self.finding(group.id, None, what, suspect);
        }
    }

    fn prepare_return(&mut self, group: &mut Group, offer: RejoinOffer<'_>) {
        let state = offer.state;
        let known = match self.known_for_return(group, state) {
            Ok(known) => known,
            Err((from_ms, to_ms)) => return self.return_later(group, from_ms, to_ms),
        };
        let offer = RejoinOffer {
            known: known.as_ref().map(|shadow| &shadow.follower),
            ..offer
        };
        // To a group of which nothing is known, older roots are not handed.
        let live_roots = match known {
            Some(_) => group.live_roots(),
            None => Vec::new(),
        };
        let prepared = self.prepare_external(&offer, &live_roots);
        group.returning.shadow = known;
        if group.returning.shadow.is_none() && prepared.is_ok() {
            // It knows no more of the group than what it is offered.
            self.keep_listing(&group.id, &state.entries);
        }
        let (mls, row) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.offer_refused(group, &error);
                return self.return_much_later(group);
            }
        };
        self.keep_scratch(group, mls, row);
        self.pump_return(group);
    }

    /// The state that an offer has to be, taken out of the group; none where this device comes back blindly. Or when to ask again: entries
    /// are on their way where the offer is further on.
    fn known_for_return(
        &mut self,
        group: &mut Group,
        state: &JoinState,
    ) -> Result<Option<Shadow>, (u64, u64)> {
        if group.is_blind() {
            return Ok(None);
        }
        let Some(shadow) = group.shadow() else {
            // Not even the tree can be read: what this device knew is of no use.
            self.go_blind(group);
            return Ok(None);
        };
        if shadow.size() == state.frontier.size() {
            return Ok(group.returning.shadow.take());
        }
        // An older offer stays older: the service has had its chance.
        let behind = shadow.size() < state.frontier.size();
        if !behind {
            let known = shadow.size() > state.frontier.size();
            group.returning.older = group.returning.older.saturating_add(u32::from(known));
        }
        if group.returning.older > OLDER_OFFERS {
            return Ok(group.returning.shadow.take());
        }
        Err((100, 400))
    }

    /// From now on this device has nothing to compare the group with.
    pub(super) fn go_blind(&mut self, group: &mut Group) {
        if let Membership::Returning { blind, .. } = group.membership.thawed_mut() {
            *blind = true;
            self.save_membership(group);
        }
    }

    fn offer_refused(&mut self, group: &mut Group, error: &EngineError) {
        match error {
            EngineError::Mls(conclave_mls::MlsError::BadInvitation { .. }) => {
                let service = Some(Suspect::Service);
                self.tell_return(group, FindingKind::OldGroupInfo, service);
            }
            _ => self.tell_return(group, FindingKind::failed(Step::Return, error), None),
        }
    }

    pub(super) fn prepare_external(
        &mut self,
        offer: &RejoinOffer<'_>,
        live_roots: &[(u64, EpochRoot)],
    ) -> Result<(ClientGroup, ReturnRow), EngineError> {
        let inputs = CommitInputs {
            now: self.own_clock(),
            service_time: self.service_now(),
            id: CommitId(self.random16()),
            live_roots,
        };
        let context = self.device.context()?;
        let (mls, prepared) = ClientGroup::rejoin(&context, offer, inputs, &mut self.rng)?;
        let row = ReturnRow {
            bundle: encode(&prepared.bundle).into(),
            leaf: prepared.leaf,
        };
        Ok((mls, row))
    }

    /// Stores an external commit before it is sent.
    pub(super) fn keep_scratch(&mut self, group: &mut Group, mut mls: ClientGroup, row: ReturnRow) {
        self.put_mls(&group.id, keys::group::SCRATCH, &mut mls);
        let key = keys::group_row(&group.id, keys::group::OUTBOX, RETURN_ROW);
        self.put(key, keys::cbor(&row));
        group.returning.bundle = Some(row);
        group.returning.scratch = Some(Box::new(Scratch { mls, sent: false }));
    }

    pub(super) fn drop_scratch(&mut self, group: &mut Group) {
        group.returning.scratch = None;
        group.returning.bundle = None;
        let prefix = keys::group_row(&group.id, keys::group::SCRATCH, b"");
        self.out.writes.delete_prefix(prefix);
        let key = keys::group_row(&group.id, keys::group::OUTBOX, RETURN_ROW);
        self.delete(key);
    }

    pub(crate) fn return_answered(&mut self, group: &mut Group, leaf: Hash, answer: Answer) {
        let Answer::Refused(refusal) = answer else {
            // Accepted: the log will bring it.
            return;
        };
        let current = group.returning.bundle.as_ref();
        if current.is_none_or(|row| row.leaf != leaf) {
            return;
        }
        match refusal {
            // Somebody was faster.
            Refusal::EpochTaken { .. } | Refusal::StaleEpoch { .. } => self.lost_race(group),
            refusal if refusal.is_retryable() => {
                if let Some(scratch) = &mut group.returning.scratch {
                    scratch.sent = false;
                }
                let least_ms = wait_ms(&refusal);
                if least_ms > crate::intents::PATIENCE_MS {
                    group.returning.paced = true;
                    self.paced(group.id, self.now.plus_ms(least_ms));
                }
                self.return_later(group, least_ms + 500, least_ms + 3_000);
            }
            refusal => {
                self.drop_scratch(group);
                group.returning.refusals = group.returning.refusals.saturating_add(1);
                let what = FindingKind::failed(Step::Return, &refusal);
                self.finding(group.id, None, what, None);
                if group.returning.refusals >= REFUSALS {
                    self.tell_return(group, FindingKind::AsksReAdd, None);
                    self.ask_members(group.id, Plea::ReAdd);
                }
                self.return_much_later(group);
            }
        }
    }

    /// Another commit came first. Where many come back at once, they give each other time.
    pub(super) fn lost_race(&mut self, group: &mut Group) {
        self.drop_scratch(group);
        let members = group.state().current_rows().count() as u64;
        let tries = u64::from(group.returning.tries.tries().min(8)) + 1;
        group.returning.tries.next_ms(1_000, LONGEST_PAUSE_MS);
        self.return_later(group, 50, 100 + 50 * members.min(100) * tries);
    }

    pub(crate) fn ask_members(&mut self, group: GroupId, what: Plea) {
        self.request(Request::Ask { group, what }, Pending::Quiet);
    }
}

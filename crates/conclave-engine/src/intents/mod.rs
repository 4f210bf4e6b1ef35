//! What the user wants of a group, remembered until it is done, superseded or failed. A commit that loses its epoch is thrown away; the intent
//! is judged again in the new one.

mod packages;
mod steps;

use conclave_identity::{Reference, SignedDeviceList};
use conclave_mls::{CommitInputs, MlsError, Plan, check_key_package};
use conclave_proto::frame::{Answer, ClaimedKeyPackage, Request};
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{
    CommitId, DeviceId, DocumentId, GroupId, Hash, Refusal, Role, UnixMs, UserId,
};
use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;
use crate::command::{OperationId, Reply};
use crate::cx::Cx;
use crate::error::EngineError;
use crate::event::Event;
use crate::finding::{About, End, FindingKind, Step as Doing, Suspect};
use crate::group::Group;
use crate::io::CommandId;
use crate::keys;
use crate::link::{GroupPending, IntentPending};
use crate::policy::PolicyChange;
use crate::rescue::RescueCause;
use crate::timers::{GroupTimer, TimerKind, earlier};

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Want {
    /// All devices of a user are members.
    Invite { user: UserId, role: Option<Role> },
    /// The own user's other devices are members.
    AddOwn,
    /// No device of a user is a member.
    Remove { user: UserId },
    /// A user has a role.
    Role { user: UserId, role: Role },
    /// The policy is another.
    Policy(PolicyChange),
    /// This user is out of the group.
    Leave,
    /// A fresh path from the own leaf.
    SelfUpdate,
    /// A document is closed.
    Close {
        document: DocumentId,
        reason: CloseReason,
    },
    /// An archived document is open again.
    Reopen { document: DocumentId },
    /// A device of a member is added again, its old leaf removed.
    ReAdd { user: UserId, device: DeviceId },
    /// A record that nobody can open is void.
    Void { document: DocumentId, record: Hash },
    /// Those of the own user's devices are removed that its newest list does not name.
    PruneOwn,
    /// Those of another user's devices are.
    PruneListed { user: UserId },
}

/// How often the commit of an intent is built anew after definite refusals.
const ATTEMPTS: u32 = 20;

/// Longest that whoever asked for something waits without a word until the service takes it, in milliseconds: longer than another's turn lasts.
pub(crate) const PATIENCE_MS: u64 = 10_000;

/// How long a service waits for what it lost of a log, from when it was put back, in milliseconds. Its operator may prolong that.
const COLLECTS_MS: u64 = 24 * 3600 * 1000;

/// First pause before a user without key packages is asked about again, in milliseconds; each that follows is twice as long.
const FIRST_LOOK_MS: u64 = 5_000;
/// Longest such pause, in milliseconds.
const LONGEST_LOOK_MS: u64 = 5 * 60 * 1000;

/// A durable intent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct IntentRow {
    pub(crate) id: u64,
    want: Want,
    attempts: u32,
    /// The operation that wants it, where it may be asked for again.
    #[serde(default)]
    operation: Option<OperationId>,
    /// Whether it waits until a device of the user to be invited connects.
    #[serde(default)]
    lacking: bool,
}

/// An intent in memory.
#[derive(Debug)]
pub(crate) struct Intent {
    row: IntentRow,
    waiter: Option<CommandId>,
    /// Waits for an answer of the service or for its commit.
    pub(crate) busy: bool,
    /// Key packages for the next commit.
    packages: Option<Vec<ClaimedKeyPackage>>,
    /// How often there were none on this connection.
    lacks: Backoff,
    /// A clock is too wrong to commit by.
    held: bool,
    not_before: UnixMs,
    /// What it waits for until then.
    waits: Waits,
}

/// What an intent waits for, until when it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For nothing but a better moment.
    Moment,
    /// For the service, which lets another device go first.
    Turn,
    /// For the service, which takes only so much of it: nobody waits that long without a word.
    Pace,
    /// For the same, and that was told.
    PaceTold,
    /// It was told, and is tried again: the answer says whether the service takes it now.
    PaceTried,
    /// For a service that was put back, until that has what it lost. Who asked was told.
    Collects,
}

impl Waits {
    fn is_pace(self) -> bool {
        matches!(self, Self::Pace | Self::PaceTold)
    }

    fn tried(self) -> Self {
        match self {
            Self::Pace | Self::PaceTold | Self::PaceTried => Self::PaceTried,
            Self::Moment | Self::Turn | Self::Collects => Self::Moment,
        }
    }
}

impl Intent {
    pub(crate) fn from_row(row: IntentRow) -> Self {
        Self {
            row,
            waiter: None,
            busy: false,
            packages: None,
            lacks: Backoff::default(),
            held: false,
            not_before: UnixMs(0),
            waits: Waits::Moment,
        }
    }

    /// The connection is gone: the next one asks anew.
    pub(crate) fn disconnected(&mut self) {
        self.busy = false;
        self.held = false;
        if self.waits == Waits::Collects {
            self.waits = Waits::Moment;
        }
        if self.lacks.tries() > 0 {
            self.lacks.reset();
            self.not_before = UnixMs(0);
        }
    }

    /// Whether it can only go on later, or when somebody does something: somebody else, or whoever sets the clock.
    pub(crate) fn needs_somebody(&self) -> bool {
        self.lacks.tries() > 0 || self.held || self.waits.is_pace() || self.waits == Waits::Collects
    }

    /// The user whose devices it waits for.
    pub(crate) fn awaited(&self) -> Option<UserId> {
        match self.row.want {
            Want::Invite { user, .. } if self.row.lacking => Some(user),
            _ => None,
        }
    }

    /// The user of whom devices are to be added.
    fn adds(&self, own: Option<UserId>) -> Option<UserId> {
        match self.row.want {
            Want::Invite { user, .. } | Want::ReAdd { user, .. } => Some(user),
            Want::AddOwn => own,
            _ => None,
        }
    }

    /// What was asked of the service or committed does not count any more.
    pub(crate) fn judge_again(&mut self) {
        self.busy = false;
        self.packages = None;
    }

    /// Who waits for it, who is answered otherwise then.
    pub(crate) fn take_waiter(&mut self) -> Option<CommandId> {
        self.waiter.take()
    }

    pub(crate) fn waiter(&self) -> Option<CommandId> {
        self.waiter
    }

    pub(crate) fn is_readd(&self, device: &DeviceId) -> bool {
        matches!(&self.row.want, Want::ReAdd { device: wanted, .. } if wanted == device)
    }

    pub(crate) fn not_before(&mut self, time: UnixMs) {
        self.not_before = self.not_before.max(time);
    }

    /// The clock was set back by so much.
    pub(crate) fn move_back(&mut self, by_ms: u64) {
        self.not_before = earlier(self.not_before, by_ms);
    }

    /// Whether somebody is to be taken out, who may resist: the service lets whoever loses a race with such a commit go first next, and no other.
    fn takes_out(&self) -> bool {
        matches!(
            self.row.want,
            Want::Remove { .. } | Want::PruneOwn | Want::PruneListed { .. }
        )
    }

    /// Whether the service was to take it only later, and has not taken it since. Leaves are renewed when there is time: nobody waits for that.
    fn is_paced(&self) -> bool {
        let paced = self.waits.is_pace() || self.waits == Waits::PaceTried;
        paced && self.row.want != Want::SelfUpdate
    }

    /// Whether the device does it by itself: what becomes of it is nothing to its user.
    fn is_own_care(&self, own: Option<UserId>) -> bool {
        match self.row.want {
            Want::AddOwn | Want::SelfUpdate | Want::PruneOwn | Want::PruneListed { .. } => true,
            Want::ReAdd { user, .. } => Some(user) == own && self.row.operation.is_none(),
            Want::Invite { .. }
            | Want::Remove { .. }
            | Want::Role { .. }
            | Want::Policy(_)
            | Want::Leave
            | Want::Close { .. }
            | Want::Reopen { .. }
            | Want::Void { .. } => false,
        }
    }

    pub(crate) fn is_leave(&self) -> bool {
        self.row.want == Want::Leave
    }
}

/// What to do about an intent in the current epoch.
pub(crate) enum Step {
    /// Nothing left to do.
    Done(Reply),
    /// Not possible any more.
    Fail(EngineError),
    /// Build this commit.
    Commit(Plan),
    /// Something was asked of the service: wait.
    Wait,
    /// There is no device that could be added.
    Lack,
    /// A clock is too wrong to commit by.
    Held,
}

impl Cx {
    /// What a command waits for. Where nothing can be asked of the group now, that is the answer, and nothing is remembered.
    pub(crate) fn intend_waited(&mut self, group: &mut Group, want: Want, waiter: CommandId) {
        match group.check_in_step() {
            Ok(()) => self.remember_intent(group, want, Some(waiter)),
            Err(error) => self.reply(waiter, Err(error)),
        }
    }

    /// Remembers an intent, for which nobody waits, and starts on it.
    pub(crate) fn intend(&mut self, group: &mut Group, want: Want) {
        self.remember_intent(group, want, None);
    }

    fn remember_intent(&mut self, group: &mut Group, want: Want, waiter: Option<CommandId>) {
        let quiet = matches!(
            want,
            Want::AddOwn | Want::SelfUpdate | Want::PruneOwn | Want::PruneListed { .. }
        ) || (waiter.is_none() && matches!(want, Want::ReAdd { .. }));
        if quiet && group.intents.values().any(|other| other.row.want == want) {
            return;
        }
        let operation = waiter.and_then(|waiter| self.operations.of(waiter));
        // Asked for again, after whoever asked first was gone: it is under way.
        let same = |intent: &&mut Intent| intent.row.operation == operation;
        if operation.is_some()
            && let Some(intent) = group.intents.values_mut().find(same)
        {
            intent.waiter = waiter;
            return;
        }
        let mut id = self.fresh_id();
        while group.intents.contains_key(&id) {
            id = id.wrapping_add(1);
        }
        let row = IntentRow {
            id,
            want,
            attempts: 0,
            operation,
            lacking: false,
        };
        let key = keys::group_row(&group.id, keys::group::INTENT, &id.to_be_bytes());
        self.put(key, keys::cbor(&row));
        let mut intent = Intent::from_row(row);
        intent.waiter = waiter;
        group.intents.insert(id, intent);
    }

    /// Nothing that this device does in a group waits for the service's pace any more, if that is so.
    pub(crate) fn end_pace(&mut self, group: &Group) {
        if !group.is_return_paced() && !group.intents.values().any(Intent::is_paced) {
            self.ended(About::Group(group.id), End::LetIn);
        }
    }

    pub(crate) fn finish_intent(
        &mut self,
        group: &mut Group,
        id: u64,
        result: Result<Reply, EngineError>,
    ) {
        let Some(intent) = self.forget_intent(group, id) else {
            return;
        };
        if let Some(operation) = intent.row.operation {
            let told = intent.waiter.is_some() || result.is_ok();
            self.conclude(operation, result.clone());
            if told {
                return;
            }
        }
        match (intent.waiter, result) {
            (Some(waiter), result) => self.reply(waiter, result),
            (None, Err(error)) => {
                let what = FindingKind::failed(Doing::ChangeGroup, &error);
                self.finding(group.id, None, what, None);
            }
            (None, Ok(_)) => {}
        }
    }

    /// The group takes nothing more from this device: all that is wanted of it ends. Who waits is told. What the user asked for, and nobody waits for any more, is
    /// found, unless leaving was their own wish; what the device meant to do by itself is nobody's failure.
    pub(crate) fn drop_intents(&mut self, group: &mut Group, why: &EngineError) {
        let own = self.device.user();
        let left = group
            .parting()
            .is_some_and(|it| it.cause == RescueCause::Left);
        let all: Vec<u64> = group.intents.keys().copied().collect();
        for id in all {
            let Some(intent) = group.intents.get(&id) else {
                continue;
            };
            let untold = intent.waiter.is_none() && (left || intent.is_own_care(own));
            if intent.is_leave() && group.parting().is_some() {
                self.finish_intent(group, id, Ok(Reply::Done));
            } else if untold {
                self.forget_intent(group, id);
            } else {
                self.finish_intent(group, id, Err(why.clone()));
            }
        }
    }

    /// Nobody is told.
    fn forget_intent(&mut self, group: &mut Group, id: u64) -> Option<Intent> {
        let intent = group.intents.remove(&id)?;
        let key = keys::group_row(&group.id, keys::group::INTENT, &id.to_be_bytes());
        self.delete(key);
        self.end_pace(group);
        Some(intent)
    }

    /// Works on intents, those that take somebody out before others, then oldest first, until one needs a commit or an answer.
    pub(crate) fn pump_intents(&mut self, group: &mut Group) {
        let own = self.device.id();
        let mut pending = group.state().pending.iter();
        if pending.any(|pending| pending.device == own) {
            // Who is leaving commits nothing more, and takes nobody's key packages for it.
            return;
        }
        let (first, then): (Vec<_>, Vec<_>) =
            group.intents.iter().partition(|(_, it)| it.takes_out());
        let ids: Vec<u64> = first.iter().chain(&then).map(|(id, _)| **id).collect();
        for id in ids {
            if group.inflight.is_some() {
                return;
            }
            let Some(intent) = group.intents.get(&id) else {
                continue;
            };
            if intent.held {
                // Who asked since is told, too.
                self.commit_later(group, Some(id));
                continue;
            }
            if intent.busy {
                continue;
            }
            if intent.adds(self.device.user()).is_some() && !group.state().has_directory() {
                // Nobody comes into a group before its directory is there: its entry comes next.
                continue;
            }
            if self.now < intent.not_before {
                let timer = match intent.lacks.tries() {
                    0 => GroupTimer::Pump,
                    _ => GroupTimer::Lacking,
                };
                self.wake_at(intent.not_before, TimerKind::Group(group.id, timer));
                // Who asked for it again is told, too.
                self.tell_pace(group, id);
                continue;
            }
            let want = intent.row.want.clone();
            if let Some(intent) = group.intents.get_mut(&id) {
                intent.waits = intent.waits.tried();
            }
            match self.step(group, id, &want) {
                Step::Done(reply) => self.finish_intent(group, id, Ok(reply)),
                Step::Fail(error) => self.finish_intent(group, id, Err(error)),
                Step::Wait => {
                    if let Some(intent) = group.intents.get_mut(&id) {
                        intent.busy = true;
                    }
                }
                Step::Lack => self.lack_packages(group, id),
                Step::Held => self.commit_later(group, Some(id)),
                Step::Commit(plan) => self.commit(group, Some(id), &plan),
            }
        }
        let others_pending = !group.state().pending.is_empty();
        if group.inflight.is_none() && group.cover_due && others_pending {
            group.cover_due = false;
            self.commit(group, None, &Plan::default());
        }
    }

    /// The user has no device that can be added now: the invitation waits until one connects, and is asked about now and then.
    fn lack_packages(&mut self, group: &mut Group, id: u64) {
        let Some(intent) = group.intents.get_mut(&id) else {
            return;
        };
        let Want::Invite { user, .. } = intent.row.want else {
            // Own devices are added by the next notice; a device to be added again asks again.
            let result = match intent.row.want {
                Want::AddOwn => Ok(Reply::Done),
                _ => Err(EngineError::NoKeyPackages),
            };
            return self.finish_intent(group, id, result);
        };
        let first = intent.lacks.tries() == 0;
        let pause = intent.lacks.next_ms(FIRST_LOOK_MS, LONGEST_LOOK_MS);
        intent.judge_again();
        intent.not_before = self.now.plus_ms(pause);
        if !intent.row.lacking {
            intent.row.lacking = true;
            let key = keys::group_row(&group.id, keys::group::INTENT, &id.to_be_bytes());
            let row = keys::cbor(&intent.row);
            self.put(key, row);
        }
        self.wake(pause, TimerKind::Group(group.id, GroupTimer::Lacking));
        if first {
            let group = group.id;
            self.event(Event::InvitationWaits { group, user });
        }
    }

    /// Takes back invitations of a user that wait. False when there was none.
    pub(crate) fn uninvite(&mut self, group: &mut Group, user: UserId) -> bool {
        let of_user = |intent: &Intent| intent.awaited() == Some(user);
        let waiting: Vec<u64> = group
            .intents
            .iter()
            .filter(|(_, intent)| of_user(intent))
            .map(|(id, _)| *id)
            .collect();
        for id in &waiting {
            let why = "the invitation was taken back";
            // Whoever asked for it and is gone wants to hear nothing of it now.
            let told = group.intents.get(id).is_some_and(|it| it.waiter.is_some());
            let result = match told {
                true => Err(EngineError::Superseded { why }),
                false => Ok(Reply::Done),
            };
            self.finish_intent(group, *id, result);
        }
        !waiting.is_empty()
    }

    /// An answer for an intent.
    pub(crate) fn intent_answered(
        &mut self,
        group: &mut Group,
        id: u64,
        what: IntentPending,
        answer: Answer,
    ) {
        match what {
            IntentPending::Devices { again } => self.devices_answered(group, id, again, answer),
            IntentPending::Packages(list) => self.packages_answered(group, id, &list, answer),
            IntentPending::Proposal | IntentPending::Entry => {
                self.order_answered(group, id, answer);
            }
        }
    }

    /// An answer about a proposal or entry: acceptance shows in the log.
    fn order_answered(&mut self, group: &mut Group, id: u64, answer: Answer) {
        let Answer::Refused(refusal) = answer else {
            return;
        };
        let void = matches!(
            refusal,
            Refusal::BadCommit {
                fault: CommitFault::LastOwner
            }
        );
        if refusal.is_retryable() {
            self.retry_intent(group, id, &refusal);
        } else if void {
            self.finish_intent(group, id, Err(EngineError::LastOwner));
        } else {
            self.finish_intent(group, id, Err(EngineError::Refused(refusal)));
        }
    }

    fn retry_intent(&mut self, group: &mut Group, id: u64, refusal: &Refusal) {
        let collects = matches!(refusal, Refusal::Recovering { .. });
        let (least, most) = if collects { (500, 3_000) } else { (100, 1_000) };
        let delay = self.jitter_after(refusal, least, most);
        let group_id = group.id;
        if let Some(intent) = group.intents.get_mut(&id) {
            intent.busy = false;
            intent.not_before = self.now.plus_ms(delay);
            intent.waits = match refusal {
                Refusal::RateLimited { .. } if delay > PATIENCE_MS => Waits::Pace,
                Refusal::RateLimited { .. } => Waits::Turn,
                Refusal::Recovering { .. } => Waits::Collects,
                _ => Waits::Moment,
            };
            if intent.waits == Waits::Moment {
                // Otherwise nothing was wrong with it: what has to wait for others is not given up.
                intent.row.attempts = intent.row.attempts.saturating_add(1);
            }
            self.wake(delay, TimerKind::Group(group_id, GroupTimer::Pump));
            self.tell_pace(group, id);
        }
    }

    /// A commit waits for a service that collects what it lost, and all else that is wanted of the group waits behind it. Who waits is told.
    pub(crate) fn tell_collecting(&mut self, group: &mut Group) {
        let until = self.collects_until();
        for intent in group.intents.values_mut() {
            if matches!(intent.waits, Waits::Moment | Waits::Turn) {
                intent.waits = Waits::Collects;
            }
            if let Some(waiter) = intent.take_waiter() {
                self.reply(waiter, Err(EngineError::WaitsForRecovery { until }));
            }
        }
    }

    /// When a service that was put back goes on at the latest, unless its operator prolongs that.
    fn collects_until(&self) -> Option<UnixMs> {
        let until = self.link.named?.begun.plus_ms(COLLECTS_MS);
        (until > self.service_now()).then_some(until)
    }

    /// The service takes no more like it before long. Who waits for it is told; where nobody does, it is found.
    fn tell_pace(&mut self, group: &mut Group, id: u64) {
        let Some(intent) = group.intents.get_mut(&id) else {
            return;
        };
        let (waits, until) = (intent.waits, intent.not_before);
        if waits == Waits::Collects {
            let waiter = intent.take_waiter();
            let until = self.collects_until();
            return self.reply_all(waiter, &EngineError::WaitsForRecovery { until });
        }
        if !waits.is_pace() {
            return;
        }
        intent.waits = Waits::PaceTold;
        match intent.take_waiter() {
            Some(waiter) => self.reply(waiter, Err(EngineError::WaitsForPace { until })),
            // Leaves are renewed when there is time, and nobody asked for that.
            None if waits == Waits::Pace && intent.row.want != Want::SelfUpdate => {
                self.paced(group.id, until);
            }
            None => {}
        }
    }

    /// Tells that the service takes a change of this device's to a group only later.
    pub(crate) fn paced(&mut self, group: GroupId, until: UnixMs) {
        self.finding(group, None, FindingKind::Paced { until }, None);
    }

    /// An entry in the log ends intents that waited for it.
    pub(crate) fn entry_intents(&mut self, group: &mut Group, body: &EntryBody) {
        let reached = |want: &Want| match (want, body) {
            (
                Want::Close { document, .. },
                EntryBody::DocumentClosed {
                    document: closed, ..
                },
            ) => document == closed,
            (Want::Reopen { document }, EntryBody::DocumentReopened { document: opened }) => {
                document == opened
            }
            (Want::Void { record, .. }, EntryBody::RecordVoided { record: voided, .. }) => {
                record == voided
            }
            _ => false,
        };
        let done: Vec<u64> = group
            .intents
            .iter()
            .filter(|(_, intent)| reached(&intent.row.want))
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            self.finish_intent(group, id, Ok(Reply::Done));
        }
    }

    /// A new epoch: everything that waited for something of the old one is judged again.
    pub(crate) fn intents_epoch_changed(&mut self, group: &mut Group) {
        for intent in group.intents.values_mut() {
            if matches!(
                intent.row.want,
                Want::Leave | Want::Close { .. } | Want::Reopen { .. } | Want::Void { .. }
            ) {
                intent.busy = false;
            }
            if intent.waits != Waits::Moment && intent.takes_out() {
                // Whose turn it was has had it, and it is this one's from when it is heard of.
                intent.waits = Waits::Moment;
                intent.not_before = UnixMs(0);
            }
        }
    }

    /// The intent's own commit is in the log.
    pub(crate) fn intent_committed(&mut self, group: &mut Group, id: u64, epoch: u64) {
        let Some(intent) = group.intents.get_mut(&id) else {
            return;
        };
        intent.busy = false;
        match intent.row.want {
            Want::Remove { .. } => self.finish_intent(group, id, Ok(Reply::Removed { epoch })),
            // Devices that published key packages meanwhile are added by the next notice.
            Want::Invite { .. }
            | Want::AddOwn
            | Want::SelfUpdate
            | Want::PruneOwn
            | Want::PruneListed { .. }
            | Want::ReAdd { .. } => {
                self.finish_intent(group, id, Ok(Reply::Done));
            }
            // What is wanted is there, or is looked for again.
            Want::Role { .. }
            | Want::Policy(_)
            | Want::Leave
            | Want::Close { .. }
            | Want::Reopen { .. }
            | Want::Void { .. } => {}
        }
    }

    /// The service refused the intent's commit for good.
    pub(crate) fn intent_refused(&mut self, group: &mut Group, id: Option<u64>, refusal: Refusal) {
        let Some(id) = id else {
            return;
        };
        let attempts = group
            .intents
            .get(&id)
            .map_or(0, |intent| intent.row.attempts);
        // What is wrong with a commit is mostly that it is late: time, log and packages have gone on. The intent stands.
        // A device that it adds may have been taken away meanwhile.
        let revoked = Refusal::Forbidden {
            why: ForbiddenWhy::DeviceRevoked,
        };
        let late = refusal == revoked
            || matches!(
                refusal,
                Refusal::BadCommit {
                    fault: CommitFault::Time
                        | CommitFault::SeenHead
                        | CommitFault::PendingOmitted
                        | CommitFault::Roster
                        | CommitFault::Mls
                        | CommitFault::GroupInfo
                        | CommitFault::Wrap
                        | CommitFault::Welcome
                }
            );
        if (refusal.is_retryable() || late) && attempts < ATTEMPTS {
            self.retry_intent(group, id, &refusal);
        } else {
            self.finish_intent(group, id, Err(EngineError::Refused(refusal)));
        }
    }

    fn commit(&mut self, group: &mut Group, intent: Option<u64>, plan: &Plan) {
        if self.holds_commits(group) {
            return self.commit_later(group, intent);
        }
        let service_time = self.service_now();
        let live_roots = group.live_roots();
        let inputs = CommitInputs {
            now: self.own_clock(),
            service_time,
            id: CommitId(self.random16()),
            live_roots: &live_roots,
        };
        let prepared = match self.device.context() {
            Ok(context) => group
                .mls
                .commit(&context, plan, inputs, &mut self.rng)
                .map_err(EngineError::from),
            Err(error) => Err(error),
        };
        match prepared {
            Ok(prepared) => {
                if let Some(intent) = intent.and_then(|id| group.intents.get_mut(&id)) {
                    intent.busy = true;
                }
                self.launch(group, &prepared.bundle, prepared.leaf, intent);
            }
            Err(EngineError::Mls(error)) if error.is_retryable() => {
                self.commit_later(group, intent);
            }
            Err(error) => match intent {
                Some(id) => self.finish_intent(group, id, Err(error)),
                None => {
                    let what = FindingKind::failed(Doing::ChangeGroup, &error);
                    self.finding(group.id, None, what, None);
                }
            },
        }
    }

    /// Whether this device's clock is too wrong to commit by.
    pub(crate) fn holds_commits(&self, group: &Group) -> bool {
        self.is_far_ahead(self.service_now().max(group.state().last_time))
    }

    /// A clock is too wrong to commit by. What is wanted waits until it is set; who waits for it is told.
    fn commit_later(&mut self, group: &mut Group, intent: Option<u64>) {
        self.wait_for_clock();
        let offset = self.clock_in_the_way(group);
        if let Some(intent) = intent.and_then(|id| group.intents.get_mut(&id)) {
            intent.busy = true;
            intent.held = true;
            if let Some(waiter) = intent.take_waiter() {
                self.reply(waiter, Err(EngineError::WaitsForClock { offset }));
            }
        }
    }
}

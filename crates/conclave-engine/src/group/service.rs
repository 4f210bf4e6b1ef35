//! What a group asks of the service: its creation, its log, its commits.

use conclave_proto::refusal::CommitFault;
use conclave_proto::service::{LogName, Loss, SignedHead};

use super::*;
use crate::cx::wait_ms;
use crate::give_back::There;
use crate::service::Shown;
use crate::timers::earlier;

impl Engine {
    /// Groups of which this device is a member, as far as it knows.
    pub(crate) fn active_groups(&self) -> Vec<GroupId> {
        let groups = self.groups.iter();
        let active = groups.filter(|(_, slot)| slot.membership().is_active());
        active.map(|(id, _)| *id).collect()
    }

    pub(crate) fn groups_online(&mut self) {
        for id in self.active_groups() {
            self.with_group(id, GroupWork::Look);
        }
        self.strays_online();
    }

    pub(crate) fn groups_offline(&mut self) {
        let slots = self.groups.values_mut();
        slots
            .filter_map(GroupSlot::stray_mut)
            .for_each(Stray::disconnected);
        self.cx.timers.cancel_where(TimerKind::is_of_connection);
        for whole in self.groups.values_mut().filter_map(GroupSlot::hot_mut) {
            whole.group.disconnected();
            whole.docs.disconnected();
        }
    }

    /// Nothing leads to the service: who waits for what only the service has is told.
    pub(crate) fn answer_offline(&mut self) {
        for whole in self.groups.values_mut().filter_map(GroupSlot::hot_mut) {
            let group = &whole.group;
            let waiters = whole.docs.without(|id| !group.is_local(id));
            self.cx.reply_all(waiters, &EngineError::NotHere);
        }
    }
}

impl Group {
    /// The connection is gone.
    fn disconnected(&mut self) {
        self.subscription = Subscription::None;
        // Whether a service is away is known of the connection on which it was seen: the next one is compared anew.
        self.stand = Stand::InStep;
        self.target = None;
        self.doubt = None;
        self.away_tries.reset();
        self.gap = None;
        self.report_again();
        self.retry_at = UnixMs(0);
        self.returning.disconnected();
        self.asking.clear();
        self.missing.disconnected();
        self.looked_at.clear();
        self.note_documents();
        if let Some(inflight) = &mut self.inflight {
            inflight.sent = false;
            inflight.collects = false;
        }
        for intent in self.intents.values_mut() {
            intent.disconnected();
        }
    }

    /// The clock was set back by so much.
    pub(crate) fn move_back(&mut self, by_ms: u64) {
        self.retry_at = earlier(self.retry_at, by_ms);
        if let Some(inflight) = &mut self.inflight {
            inflight.not_before = earlier(inflight.not_before, by_ms);
        }
        for intent in self.intents.values_mut() {
            intent.move_back(by_ms);
        }
    }
}

impl Cx {
    /// Sends what can be sent for a group: its creation, its subscription, a commit, entries, documents.
    pub(super) fn pump_group(&mut self, whole: &mut Whole) {
        let group = &mut whole.group;
        let follows = group.parting().is_none() && (group.mls.is_active() || group.is_broken());
        if !self.link.online || !follows {
            return;
        }
        if self.now < group.retry_at {
            let pump = TimerKind::Group(group.id, GroupTimer::Pump);
            return self.wake_at(group.retry_at, pump);
        }
        if group.is_founding() {
            let ready = group.subscription == Subscription::None && !group.is_frozen();
            if ready && !self.offer_creation(group) {
                self.tell_waits_for_clock(whole);
            }
            return;
        }
        if group.subscription == Subscription::None {
            group.subscription = Subscription::Asked;
            self.subscribe(group.id, group.state().size());
        }
        if group.is_frozen() {
            return self.pump_documents(whole);
        }
        if group.is_broken() {
            self.pump_return(group);
            return self.pump_documents(whole);
        }
        if group.stand.is_away() {
            return self.pump_documents(whole);
        }
        if !group.caught_up() {
            if self.waits_for_clock(group) {
                self.tell_waits_for_clock(whole);
            }
            return;
        }
        if group.is_unproven() {
            return self.pump_documents(whole);
        }
        self.plan_duties(group);
        self.pump_commit(group);
        self.supply_directory(whole);
        self.pump_documents(whole);
        self.pump_titles(whole);
        let group = &mut whole.group;
        self.pump_rotation(group);
        match &group.inflight {
            None => {
                self.pump_intents(group);
                self.pump_commit(group);
            }
            Some(inflight) if inflight.waits_for_recovery() => self.tell_collecting(group),
            Some(_) => {}
        }
        self.plan_beat(group);
    }

    /// What this device owes the group follows from its state, so a restart forgets nothing.
    fn plan_duties(&mut self, group: &mut Group) {
        let own = self.device.id();
        if group
            .state()
            .pending
            .iter()
            .any(|pending| pending.device != own)
            && !group.cover_due
        {
            self.plan(50, 1_500, TimerKind::Group(group.id, GroupTimer::Cover));
        }
        let rotate = TimerKind::Group(group.id, GroupTimer::Rotate);
        let (done, total) = group.kept.progress();
        if !group.may_help(&own) {
            // Others do it, or have said that it is done: that shows as documents open.
        } else if !group.rekeys() {
            self.plan(15_000, 45_000, rotate);
        } else if done < total {
            // What could not be re-keyed so far is looked at again.
            self.plan(60_000, 120_000, rotate);
        }
        if group.meta.renew_due {
            self.plan(
                60_000,
                600_000,
                TimerKind::Group(group.id, GroupTimer::SelfUpdate),
            );
        }
        self.plan_ages(group);
    }

    /// Offers a new group to the service. When it begins is settled with the first offer, and durable before that leaves: only a service that
    /// has refused it is offered another. False: it waits for a clock.
    fn offer_creation(&mut self, group: &mut Group) -> bool {
        if self.waits_for_clock(group) {
            self.wait_for_clock();
            return false;
        }
        let id = group.id;
        let now = self.service_now();
        let Membership::Founding(creation) = &mut group.membership else {
            return true;
        };
        let (group_info, tree) = (creation.group_info.clone(), creation.tree.clone());
        let founded = match creation.founded {
            Some(founded) => founded,
            None => {
                if let Err(error) = group.mls.found(now) {
                    let cause = (&error).into();
                    self.freeze(group, FindingKind::CreationRefused { cause }, None);
                    return true;
                }
                creation.founded = Some(now);
                let row = keys::cbor(&group.membership);
                self.put(keys::index(&id), row);
                now
            }
        };
        group.subscription = Subscription::Creating;
        let request = Request::CreateGroup {
            group_info,
            tree,
            founded,
        };
        self.request_for(id, request, GroupPending::Create);
        true
    }

    /// Whether nothing goes on in a group before this device's clock is set: its founding would carry a time that this device does not sign, or
    /// an entry of its log cannot be judged.
    pub(crate) fn waits_for_clock(&self, group: &Group) -> bool {
        let creation = group.creation();
        let founding = creation.is_some_and(|creation| creation.founded.is_none());
        group.clock_told || (founding && self.is_far_ahead(self.service_now()))
    }

    /// Who waits for the group is told of the clock; what is wanted stays.
    fn tell_waits_for_clock(&mut self, whole: &mut Whole) {
        let group = &mut whole.group;
        let offset = self.clock_in_the_way(group);
        for intent in group.intents.values_mut() {
            if let Some(waiter) = intent.take_waiter() {
                self.reply(waiter, Err(EngineError::WaitsForClock { offset }));
            }
        }
        self.each_document(whole, || DocWork::Look);
    }

    pub(crate) fn creation_answered(&mut self, group: &mut Group, answer: Answer) {
        match answer {
            // A repeated creation after a lost answer finds the group there: ids are drawn at random, so it is ours.
            Answer::Accepted { .. } | Answer::Refused(Refusal::AlreadyExists) => {
                *group.membership.thawed_mut() = Membership::Member;
                self.save_membership(group);
                group.subscription = Subscription::None;
                self.ended(About::Group(group.id), End::Founded);
            }
            // It does not exist there, and may begin at another time.
            Answer::Refused(Refusal::BadCommit {
                fault: CommitFault::Time,
            }) => {
                group.subscription = Subscription::None;
                if let Membership::Founding(creation) = &mut group.membership {
                    creation.founded = None;
                }
                self.time_refused();
                self.later(group, 0);
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                group.subscription = Subscription::None;
                self.later(group, wait_ms(&refusal));
            }
            Answer::Refused(refusal) => {
                let cause = (&refusal).into();
                self.freeze(group, FindingKind::CreationRefused { cause }, None);
            }
            _ => {}
        }
    }

    /// Leaves the service alone about this group for a while, and for as long as it says.
    pub(super) fn later(&mut self, group: &mut Group, least_ms: u64) {
        let delay = self.jitter(1_000, 5_000).max(least_ms);
        group.retry_at = self.now.plus_ms(delay);
        self.wake(delay, TimerKind::Group(group.id, GroupTimer::Pump));
    }

    pub(super) fn subscribe(&mut self, id: GroupId, from: u64) {
        let request = Request::SubscribeGroup { group: id, from };
        self.request_for(id, request, GroupPending::Follow);
    }

    pub(crate) fn follow_answered(&mut self, group: &mut Group, answer: Answer) {
        match answer {
            Answer::Subscribed {
                head,
                signed,
                losses,
                ..
            } => self.subscribed(group, head, signed, &losses),
            Answer::Refused(refusal) => self.subscription_refused(group, refusal),
            _ => {}
        }
    }

    /// The service shows a signed head of the group's log, or of a document's.
    pub(crate) fn head_frame(
        &mut self,
        group: &mut Group,
        document: Option<DocumentId>,
        signed: &SignedHead,
    ) {
        // Of a document that is not open, since its log went another way, it says nothing of what is here.
        let is_followed =
            |id: DocumentId| group.has_document(&id) && self.link.open(group.id, id).is_some();
        if document.is_none_or(is_followed) {
            // What it says of entries that are here is compared when these are: a log that is followed only grows.
            self.head_shown(group, document, signed);
        }
    }

    /// The log is followed: what the service announces is compared with what is here, as far as heads are known.
    fn subscribed(
        &mut self,
        group: &mut Group,
        head: Head,
        signed: Option<SignedHead>,
        losses: &[Loss],
    ) {
        group.not_followed = None;
        self.ended(About::Group(group.id), End::Followed);
        // Only whoever was removed gets another head than the signed one: none.
        let signed = signed.filter(|signed| signed.head == head);
        let shown = signed.map(|signed| self.head_shown(group, None, &signed));
        let signed = signed.filter(|_| shown != Some(Shown::Unsigned));
        self.report(group, None, head.size);
        let own = group.state().head();
        let known = group.state().root_at(head.size);
        if shown == Some(Shown::Contradicts) {
            self.log_away(group, Stand::Contradicted, head.size);
        } else if known.is_some_and(|root| root != head.root) {
            let own = group.own_log().into_owned();
            let stand = self.forked(group, None, signed.as_ref(), &own);
            self.log_away(group, stand, head.size);
        } else if head.size < own.size {
            let log = LogName {
                group: group.id,
                document: None,
            };
            let stand = match self.given_up(&log, (own.size, group.grown_in(None)), losses) {
                true => Stand::Parted,
                // It does not take what is here: that was seen on this connection.
                false if group.stand == Stand::Parted => Stand::Parted,
                false => self.shorter(group, None, head.size),
            };
            self.log_away(group, stand, head.size);
            self.return_log(group, Some(head.size));
        } else {
            group.subscription = Subscription::Live(head.size);
            group.target = Some(head);
            group.stand = Stand::Behind;
            self.target_reached(group);
        }
    }

    /// Where everything announced is here, it has to be what was announced.
    pub(super) fn target_reached(&mut self, group: &mut Group) {
        let own = group.state().head();
        let Some(target) = group.target.filter(|target| target.size <= own.size) else {
            return;
        };
        group.target = None;
        let root = group.state().root_at(target.size);
        if root.is_some_and(|root| root != target.root) {
            let stand = self.apart(group, None);
            return self.log_away(group, stand, target.size);
        }
        group.stand = Stand::InStep;
        self.note_in_step(group, None);
        group.away_tries.reset();
        self.tell_in_step(group.id, None);
    }

    /// The service's log lacks what is here, or went another way: nothing is sent, and it is asked again later.
    pub(crate) fn log_away(&mut self, group: &mut Group, stand: Stand, size: u64) {
        group.stand = stand;
        group.target = None;
        group.doubt = None;
        group.subscription = Subscription::None;
        let most = group.away_tries.next_ms(2_000, repair::LONGEST_PAUSE_MS);
        self.return_later(group, most / 2, most);
        let own = group.state().size();
        let missing = Lacking {
            count: own.saturating_sub(size),
            newest: group.state().last_time,
        };
        self.tell_away(group.id, None, stand, missing);
        // Who waits is told; what is wanted stays.
        for intent in group.intents.values_mut() {
            intent.busy = false;
            if let Some(waiter) = intent.take_waiter() {
                self.reply(waiter, Err(EngineError::WaitsForStep));
            }
        }
        self.post_group(group.id, GroupWork::LookAtDocuments);
    }

    /// What the service lost of the log is brought back to it, where it was put back. Where somebody was let in by that, whoever did it comes
    /// first: nobody else has what they are handed.
    fn return_log(&mut self, group: &Group, have: Option<u64>) {
        let lost = group.state().size().saturating_sub(have.unwrap_or(0));
        let since = group.state().epoch.saturating_sub(lost);
        let others = group.lets_in_since(since) && !group.past.bundles().any(|it| it > since);
        let delay = if others { self.jitter(2_000, 4_000) } else { 0 };
        self.wake(
            delay,
            TimerKind::Group(group.id, GroupTimer::GiveBack(have)),
        );
    }

    pub(crate) fn give_back_due(&mut self, group: &Group, have: Option<u64>) {
        if group.stand == Stand::Returning {
            let there = have.map_or(There::Unknown, There::Size);
            self.give_back(group.id, None, there);
        }
    }

    /// The service goes on without what is here of the log. That cannot be merged.
    pub(crate) fn log_went_on(&mut self, group: &mut Group) {
        if group.stand == Stand::Returning {
            self.log_away(group, Stand::Parted, group.state().size());
        }
    }

    /// The log of a group that was away is asked for again, from this time on at the latest.
    pub(crate) fn compare_again(&mut self, group: &mut Group, at: UnixMs) {
        if group.stand.is_away() && at < group.retry_at {
            let delay = at.since_ms(self.now);
            self.return_later(group, delay, delay);
        }
    }

    /// Asks again later. The same reason is told once.
    fn subscription_refused(&mut self, group: &mut Group, refusal: Refusal) {
        if refusal == Refusal::UnknownGroup {
            // This device is a member, as far as the log says that it has: the service lacks the group, or what made this device a member.
            let stand = self.shorter(group, None, 0);
            self.log_away(group, stand, 0);
            // It does not say which: if it has the group, it says how much of it when it is offered the rest.
            return self.return_log(group, None);
        }
        group.subscription = Subscription::None;
        self.later(group, wait_ms(&refusal));
        if group.not_followed.as_ref() == Some(&refusal) {
            return;
        }
        if let Refusal::Forbidden { .. } = refusal {
            let what = FindingKind::failed(Step::Follow, &refusal);
            self.finding(group.id, None, what, None);
        }
        group.not_followed = Some(refusal);
    }

    /// Stores a commit before it is sent.
    pub(crate) fn launch(
        &mut self,
        group: &mut Group,
        bundle: &CommitBundle,
        leaf: Hash,
        intent: Option<u64>,
    ) {
        let inflight = InFlight {
            bundle: encode(bundle).into(),
            leaf,
            intent,
            sent: false,
            not_before: UnixMs(0),
            collects: false,
        };
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
        self.put(key, keys::cbor(&inflight));
        group.inflight = Some(inflight);
    }

    pub(super) fn pump_commit(&mut self, group: &mut Group) {
        let Some(inflight) = &mut group.inflight else {
            return;
        };
        if inflight.sent {
            return;
        }
        if self.now < inflight.not_before {
            let at = inflight.not_before;
            return self.wake_at(at, TimerKind::Group(group.id, GroupTimer::Pump));
        }
        let max = limits::FRAME_BYTES;
        let Ok(bundle) = decode::<CommitBundle>("commit", inflight.bundle.as_slice(), max) else {
            return;
        };
        inflight.sent = true;
        let leaf = inflight.leaf;
        let what = GroupPending::Commit { leaf };
        self.request_for(group.id, Request::Commit(bundle), what);
    }

    pub(crate) fn commit_answered(&mut self, group: &mut Group, leaf: Hash, answer: Answer) {
        let Answer::Refused(refusal) = answer else {
            // Accepted: the log will bring it.
            return;
        };
        let Some(inflight) = group
            .inflight
            .as_mut()
            .filter(|inflight| inflight.leaf == leaf)
        else {
            return;
        };
        use Refusal as R;
        match refusal {
            // The log brings the winner, which clears this commit.
            R::EpochTaken { .. } | R::StaleEpoch { .. } => {}
            // Not ordered, and paced: others' wishes need not wait for this one.
            R::RateLimited { .. } if inflight.intent.is_some() => {
                let intent = inflight.intent;
                if self.drop_commit(group) {
                    self.intent_refused(group, intent, refusal);
                }
            }
            R::RateLimited { .. } | R::Storage | R::ShuttingDown | R::Recovering { .. } => {
                let delay = self.jitter_after(&refusal, 500, 3_000);
                inflight.sent = false;
                inflight.collects = matches!(refusal, R::Recovering { .. });
                inflight.not_before = self.now.plus_ms(delay);
                self.wake(delay, TimerKind::Group(group.id, GroupTimer::Pump));
            }
            refusal => {
                let intent = inflight.intent;
                if matches!(
                    refusal,
                    R::BadCommit {
                        fault: CommitFault::Time
                    }
                ) {
                    self.time_refused();
                }
                if self.drop_commit(group) {
                    self.intent_refused(group, intent, refusal);
                }
            }
        }
    }

    /// Throws away a commit that the service has refused for good. False when the group had to be frozen.
    fn drop_commit(&mut self, group: &mut Group) -> bool {
        group.inflight = None;
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
        self.delete(key);
        match group.mls.discard_pending() {
            Ok(()) => true,
            Err(error) => {
                let what = FindingKind::failed(Step::TakeBack, &error);
                self.freeze(group, what, None);
                false
            }
        }
    }
}

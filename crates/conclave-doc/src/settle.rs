//! Second half of judging: opening, replica rules, applying.

use conclave_crdt::{Inspected, ReplicaId};
use conclave_proto::policy::Role;
use conclave_proto::record::{Record, RecordBody};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId};

use crate::candidate::{Candidate, Standing};
use crate::carried::{Carried, judge_carried, judge_operations};
use crate::charge::Payer;
use crate::content::{Idle, Plain, Received, TailEntry};
use crate::context::{Blocked, Change, ChangeKind, DeliverOutcome, DocContext};
use crate::document::Document;
use crate::error::{DocError, Fault, Finding, Suspect};
use crate::examine::Examiner;
use crate::outbox::{OutItem, Own};
use crate::payload::VerdictPayload;
use crate::replica::{judge_replicas, squats};
use crate::seal::KeyRing;
use crate::state::{Effect, News};

/// Most records judged at once.
pub(crate) const RUN_RECORDS: usize = 4096;

/// What judging the content of a record gives.
enum Content {
    /// Refused, by all members alike.
    Refused(RecordFault, Suspect),
    /// It would cost more than its user has left.
    Costly,
    /// Void: an admin's entry in the group log says so.
    Void,
    /// Operations that are all known: nothing to do.
    Known,
    /// Nobody could supply its root.
    Aside,
    Verdict(VerdictPayload),
    /// What another program says of a snapshot: nothing that this one could judge.
    UnknownVerdict(u16),
    Update {
        update: Plain,
        read: Inspected,
        claims: Vec<(ReplicaId, u64)>,
        carried: Option<Carried>,
    },
}

/// Why settling stopped before the end of a run.
enum Halt {
    Root {
        epoch: u64,
        author: Author,
    },
    /// Another life of this device wrote under this instance.
    OwnInstance,
    /// A record takes operations that own edits here still claim: a squatter's, or one of another life of this device.
    OwnReplica {
        same_device: bool,
    },
}

impl Document {
    /// Judges waiting records from the end of the log on, as far as possible.
    pub(crate) fn advance(
        &mut self,
        ctx: &DocContext<'_>,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        self.collect_edits()?;
        outcome.unblock();
        self.reread_due(ctx, outcome)?;
        while self.incoming.bridge.is_none() && self.advance_run(ctx, outcome)? {
            self.check_target(outcome);
        }
        self.check_target(outcome);
        self.incoming.drop_below(self.size());
        if outcome.blocked.is_none() {
            outcome.gap = self.incoming.gap(self.size());
        }
        self.check_base(ctx, outcome);
        self.maintain(ctx)
    }

    /// One run. True where another may follow.
    fn advance_run(
        &mut self,
        ctx: &DocContext<'_>,
        outcome: &mut DeliverOutcome,
    ) -> Result<bool, DocError> {
        let run = self.incoming.lend(self.size(), RUN_RECORDS);
        if run.is_empty() {
            return Ok(false);
        }
        let place = (self.group, self.id, self.content.kind);
        let examiner = Examiner::new(ctx, place, &mut self.log, &self.state, &self.outbox);
        let (candidates, stop, rest) = examiner.run(run);
        for (seq, form) in rest {
            self.incoming.give_back(seq, form);
        }
        match self.settle(ctx, candidates, outcome)? {
            None => {}
            Some((seq, Halt::Root { epoch, author })) => {
                outcome.block(seq, Blocked::Root(epoch));
                outcome.needs_root_author = Some(author);
                return Ok(false);
            }
            Some((_, Halt::OwnInstance)) => {
                self.found_behind(outcome)?;
                return Ok(true);
            }
            Some((_, Halt::OwnReplica { same_device })) => {
                self.rewrite_own(Vec::new(), outcome)?;
                if same_device {
                    self.note_behind(outcome);
                }
                return Ok(true);
            }
        }
        if self.state.is_closed(&self.outbox.author) {
            // A later instance of this device is at work, and this store did not draw it.
            self.found_behind(outcome)?;
        }
        let Some(stop) = stop else { return Ok(true) };
        if let Some(finding) = stop.finding
            && self.reported != Some((stop.seq, finding.fault))
        {
            self.reported = Some((stop.seq, finding.fault));
            outcome.findings.push(finding);
        }
        if stop.why == Blocked::Base {
            self.checks.stub = Some(stop.seq);
        }
        outcome.block(stop.seq, stop.why);
        Ok(false)
    }

    /// Gives every authentic record its place, then applies all their updates in one engine call.
    fn settle(
        &mut self,
        ctx: &DocContext<'_>,
        candidates: Vec<Candidate>,
        outcome: &mut DeliverOutcome,
    ) -> Result<Option<(u64, Halt)>, DocError> {
        let mut keys = KeyRing::new(ctx.keys, self.id);
        if candidates.iter().any(Candidate::has_content) {
            self.content.ready_meter()?;
        }
        let mut halted = None;
        let mut refused = Vec::new();
        let from = candidates.first().map(|first| first.seq);
        let (mut next, mut bytes) = (from.unwrap_or_default(), 0usize);
        let mut rest = candidates.into_iter();
        for mut candidate in rest.by_ref() {
            match self.settle_one(ctx, &mut candidate, &mut keys, outcome) {
                Ok(refused_own) => {
                    let costly = self.content.tail.last();
                    let costly = costly.is_some_and(|it| it.effect.news == News::Costly);
                    refused.extend(refused_own.map(|item| (item, costly)));
                    next = candidate.seq.saturating_add(1);
                    bytes = bytes.saturating_add(candidate.queued_bytes);
                }
                Err(halt) => {
                    halted = Some((candidate.seq, halt));
                    self.incoming
                        .give_back(candidate.seq, candidate.into_form());
                    break;
                }
            }
        }
        for candidate in rest {
            self.incoming
                .give_back(candidate.seq, candidate.into_form());
        }
        if let Some(from) = from {
            self.incoming.settle(from, next, bytes);
        }
        self.log.truncate(self.content.size());
        let lost = self.apply_settled(ctx, outcome)?;
        self.forget_known();
        for (item, costly) in refused.extract_if(.., |(item, _)| item.what == Own::Carried) {
            let leaf = item.carries;
            if costly {
                // Others were faster and made it dear: it goes when there is more to pay with.
                let tried = self.tried(ctx);
                leaf.iter().for_each(|leaf| self.lost.hold(leaf, tried));
                continue;
            }
            // Nobody else's would stand either.
            let gone = self.take_lost(|lost| Some(lost.leaf) == leaf)?;
            outcome.uncarried.extend(gone);
        }
        if !refused.is_empty() || !lost.is_empty() {
            let items = refused.into_iter().map(|(item, _)| item);
            let updates = items.filter(|item| item.what == Own::Update);
            let updates = updates.map(|item| item.plain).chain(lost);
            self.rewrite_own(updates.collect(), outcome)?;
        }
        Ok(halted)
    }

    /// Applies updates that have their place; those that the engine refuses are out, and what follows them is counted without them. Gives own updates that do
    /// not stand then.
    fn apply_settled(
        &mut self,
        ctx: &DocContext<'_>,
        outcome: &mut DeliverOutcome,
    ) -> Result<Vec<Plain>, DocError> {
        let (lost, outbox) = (&self.lost, &self.outbox);
        let overlay = || lost.plains().chain(outbox.updates()).collect();
        let refused = self.content.apply_pushed(overlay, &mut self.fresh)?;
        let Some(from) = refused else {
            return Ok(Vec::new());
        };
        let author = self.content.entry(from).and_then(|it| it.effect.link);
        let own = self.outbox.author.device;
        outcome.refused_by_engine(from, author.map(|(author, _)| author), own);
        let mut before = self.judge_again(ctx, from, refused, outcome)?;
        self.rebuild()?;
        // What means now what it meant was told.
        for (seq, (effect, _)) in (from..).zip(&mut before) {
            match self.content.entry(seq) {
                Some(entry) if entry.effect.news == effect.news => *effect = entry.effect.clone(),
                Some(_) if effect.news == News::Costly => {
                    let told = Fault::Record(RecordFault::Cost);
                    let stays = |it: &Finding| it.seq != seq || it.fault != told;
                    outcome.findings.retain(stays);
                }
                _ => {}
            }
        }
        if self.tell_changes(ctx, from, &before, outcome) {
            self.rewrite_own(Vec::new(), outcome)?;
        }
        let mut gone = Vec::new();
        for (seq, (effect, update)) in (from..).zip(before) {
            let stands = self
                .content
                .entry(seq)
                .is_some_and(|it| it.update.is_some());
            if stands || effect.news != News::Update {
                continue;
            }
            outcome.changes.retain(|change| change.seq != seq);
            let author = effect.link.filter(|_| effect.carried.is_none());
            let own = author.is_some_and(|(author, _)| author == self.outbox.author);
            gone.extend(update.filter(|_| own));
        }
        Ok(gone)
    }

    /// Gives one record its place; gives it back where it is an own one whose content does not stand.
    fn settle_one(
        &mut self,
        ctx: &DocContext<'_>,
        candidate: &mut Candidate,
        keys: &mut KeyRing<'_>,
        outcome: &mut DeliverOutcome,
    ) -> Result<Option<OutItem>, Halt> {
        let mut effect = Effect {
            leaf: candidate.leaf,
            bytes: candidate.encoded.len(),
            epoch: None,
            link: None,
            claims: Vec::new(),
            carried: None,
            costs: Vec::new(),
            ops: None,
            news: News::None,
        };
        let Some(record) = &candidate.record else {
            effect.epoch = Some(self.state.active.epoch);
            self.place(effect, None, None, None, None);
            return Ok(None);
        };
        let author = record.header.author;
        let mut own = candidate.is_own();
        let mut content = Content::Known;
        let mut was_read = false;
        match candidate.standing {
            Standing::Refused {
                fault,
                suspect,
                link,
            } => {
                effect.link = link.map(|clock| (author, clock));
                content = Content::Refused(fault, suspect);
            }
            Standing::Position | Standing::Snapshot(_) => {
                effect.epoch = Some(record.header.epoch);
                self.keep_for_check(ctx, record);
            }
            Standing::Chained { clock, seen } => {
                // Breakage: a restored backup goes on under the instance that its former life has used.
                let is_new = !crate::broken("reuse-instance");
                if author == self.outbox.author && !own && is_new {
                    if !self.says_what_waits(record, keys)? {
                        return Err(Halt::OwnInstance);
                    }
                    own = true;
                }
                effect.epoch = Some(record.header.epoch);
                effect.link = Some((author, clock));
                content = match seen {
                    Some(fault) => Content::Refused(
                        fault,
                        Suspect {
                            author: Some(author),
                            service: true,
                        },
                    ),
                    None => {
                        was_read = true;
                        self.read_content(ctx, candidate, record, own, keys, &mut effect)?
                    }
                };
            }
        }
        let stands = !matches!(
            content,
            Content::Refused(..) | Content::Costly | Content::Void
        );
        let update = self.note(ctx, candidate, record, own, content, &mut effect, outcome);
        if effect.news == News::Void {
            let epoch = ctx.authority.epoch();
            self.checks.note_void(candidate.seq, epoch);
            self.rows.meta_dirty = true;
        }
        let (update, mut unapplied) = update.unzip();
        let mut popped = None;
        if own {
            // What was carried is shown here already as well, unless somebody else's came first: once more does nothing. What had waited for
            // an own edit comes in where that has its place.
            unapplied = unapplied.filter(|read| effect.carried.is_some() || read.lets_in());
            popped = self.outbox.pop();
            outcome.acknowledged += 1;
            if !candidate.is_own() {
                // What follows it names the leaf of another seal.
                self.outbox.unseal();
            }
        } else if effect.owner() == Some(self.outbox.author.device)
            && let Some(plain) = &update
        {
            // Another life of this device got the same edit into the log, or somebody carried it.
            unapplied = unapplied.filter(|_| !self.outbox.take_update(plain.as_slice()));
        }
        let applied = update.is_some() || matches!(effect.news, News::Verdict { .. } | News::Void);
        let idle = (was_read && !applied).then(|| Idle::Sealed(Box::new(record.clone())));
        let sealed = Received::of(record, std::mem::take(&mut candidate.encoded));
        self.place(effect, update, idle, Some(sealed), unapplied);
        Ok(popped.filter(|_| !stands))
    }

    /// Whether a record under an own clock, in another form than was sealed here, says what the first item says that waits for this clock: a
    /// frame of an earlier connection that arrived late, and not another life.
    fn says_what_waits(&self, record: &Record, keys: &mut KeyRing<'_>) -> Result<bool, Halt> {
        // Breakage: another seal is taken for another content.
        if crate::broken("leaf-before-content") || self.outbox.is_empty() {
            return Ok(false);
        }
        let (epoch, author) = (record.header.epoch, record.header.author);
        let Some(key) = keys.get(epoch) else {
            return match self.aside.given_up.contains(&epoch) {
                true => Ok(false),
                false => Err(Halt::Root { epoch, author }),
            };
        };
        let Some(what) = Own::of(&record.header.body) else {
            return Ok(false);
        };
        Ok(key.open(record).is_ok_and(|plain| {
            let plain = Plain::from(plain);
            self.outbox.front_says(what, plain.as_slice())
        }))
    }

    /// Writes down what the content of a record means, and tells about it. Gives the update to apply.
    #[allow(
        clippy::too_many_arguments,
        reason = "one record, and what became of it"
    )]
    fn note(
        &self,
        ctx: &DocContext<'_>,
        candidate: &Candidate,
        record: &Record,
        own: bool,
        content: Content,
        effect: &mut Effect,
        outcome: &mut DeliverOutcome,
    ) -> Option<(Plain, Inspected)> {
        let (seq, user, author) = (candidate.seq, candidate.user, record.header.author);
        let mut update = None;
        let mut by = (author, user, None);
        let kind = match content {
            Content::Refused(fault, suspect) => {
                let somebodys = suspect != Suspect::default();
                outcome.findings.extend(somebodys.then_some(Finding {
                    seq,
                    fault: Fault::Record(fault),
                    suspect,
                }));
                None
            }
            Content::Aside => {
                effect.news = News::Aside;
                None
            }
            Content::Costly => {
                effect.news = News::Costly;
                // Nobody is at fault: what others wrote may have made it costly.
                outcome.findings.push(Finding {
                    seq,
                    fault: Fault::Record(RecordFault::Cost),
                    suspect: Suspect::default(),
                });
                None
            }
            Content::Void => {
                effect.news = News::Void;
                None
            }
            Content::UnknownVerdict(version) => {
                outcome.unknown_verdict = outcome.unknown_verdict.max(Some(version));
                None
            }
            Content::Verdict(VerdictPayload {
                snapshot,
                from,
                judgement,
                ..
            }) => {
                let (device, epoch) = (&author.device, record.header.epoch);
                effect.news = News::Verdict {
                    snapshot,
                    judgement,
                    user,
                    role: ctx.row(device, epoch).map_or(Role::Viewer, |row| row.role),
                    from,
                    one_user: ctx.authority.is_of_one_user(epoch),
                };
                Some(ChangeKind::Verdict)
            }
            Content::Update {
                update: plain,
                read,
                claims,
                carried,
            } => {
                effect.news = News::Update;
                effect.claims = claims;
                effect.carried = carried;
                if let Some((inner, inner_user)) = carried.and_then(|it| it.written_by(ctx)) {
                    by = (inner, inner_user, Some((author, user)));
                }
                update = Some((plain, read));
                Some(ChangeKind::Update)
            }
            Content::Known => match &candidate.standing {
                Standing::Snapshot(info) => {
                    effect.news = News::Snapshot(info.clone());
                    Some(ChangeKind::Snapshot)
                }
                _ => None,
            },
        };
        let (author, user, carried_by) = by;
        let change = kind.filter(|_| !own).map(|kind| Change {
            author,
            user,
            carried_by,
            seq,
            epoch: record.header.epoch,
            kind,
        });
        outcome.changes.extend(change);
        update
    }

    /// Puts an effect at the end of the log. The leaf is in the Merkle log already.
    fn place(
        &mut self,
        effect: Effect,
        update: Option<Plain>,
        idle: Option<Idle>,
        sealed: Option<Received>,
        unapplied: Option<Inspected>,
    ) {
        if let Some(forgotten) = self.state.apply(self.content.size(), &effect) {
            self.outlives(forgotten);
        }
        if let (News::Verdict { snapshot, .. }, Some(voice)) = (&effect.news, effect.voice()) {
            self.hear_overdue(snapshot, voice);
        }
        if effect.news == News::Update {
            self.found_again(&effect.carried.map_or(effect.leaf, |carried| carried.leaf));
        }
        self.content.push(
            TailEntry {
                effect,
                update,
                sealed,
                idle,
            },
            unapplied,
        );
    }

    /// Opens a chained record and judges what is in it. What that does to accounts is written into its effect.
    fn read_content(
        &mut self,
        ctx: &DocContext<'_>,
        candidate: &Candidate,
        record: &Record,
        own: bool,
        keys: &mut KeyRing<'_>,
        effect: &mut Effect,
    ) -> Result<Content, Halt> {
        let refused = |fault| {
            Ok(Content::Refused(
                fault,
                Suspect::author(record.header.author),
            ))
        };
        if ctx.authority.is_void(&self.id, &candidate.leaf) {
            return Ok(Content::Void);
        }
        let plain = if own {
            self.outbox.front_plain()
        } else {
            let epoch = record.header.epoch;
            let author = record.header.author;
            let Some(key) = keys.get(epoch) else {
                return if self.aside.given_up.contains(&epoch) {
                    Ok(Content::Aside)
                } else {
                    Err(Halt::Root { epoch, author })
                };
            };
            match key.open_encoded(candidate.encoded.header(), record) {
                Ok(plain) => Plain::from(plain),
                Err(fault) => return refused(fault),
            }
        };
        if matches!(record.header.body, RecordBody::Verdict(_)) {
            let bytes = plain.as_slice();
            if let Some(version) = VerdictPayload::unknown_version(bytes) {
                return Ok(Content::UnknownVerdict(version));
            }
            return Ok(match VerdictPayload::from_bytes(bytes) {
                Ok(verdict) => Content::Verdict(verdict),
                Err(_) => return refused(RecordFault::Content),
            });
        }
        let (mut plain, mut carried) = (plain, None);
        let mut device = record.header.author.device;
        if matches!(record.header.body, RecordBody::Carried(_)) {
            match judge_carried(ctx, &record.header, plain.as_slice(), true) {
                Ok((by, update)) => (plain, carried) = (update, Some(by)),
                Err(fault) => return refused(fault),
            }
        }
        if let Some(by) = &carried {
            device = by.author.device;
        }
        let Ok(mut read) = self.content.crdt.inspect(plain.as_slice()) else {
            return refused(RecordFault::Content);
        };
        let (tables, first) = (&self.state.tables, self.content.first_counter());
        let (ranges, carrier) = (&read.info.ranges, record.header.author.device);
        let judged = match &carried {
            Some(by) => judge_operations(tables, first, by, carrier, ranges),
            None => judge_replicas(tables, first, device, ranges),
        };
        let claims = match judged {
            Ok(Some(claims)) => claims,
            Ok(None) => return Ok(Content::Known),
            // Out of order after what is not known or void; what belongs to somebody else is another matter.
            Err(fault)
                if (self.has_holes(ctx) || self.state.was_costly(&device))
                    && (!self.content.aside.is_empty()
                        || !squats(&self.state.tables, device, &read.info.ranges)) =>
            {
                return Ok(Content::Refused(fault, Suspect::default()));
            }
            // Somebody else was faster, and its author has begun anew since: no harm was meant.
            Err(fault) if carried.is_some_and(|by| self.state.has_carried(&by.leaf)) => {
                return Ok(Content::Refused(fault, Suspect::default()));
            }
            Err(fault) => return refused(fault),
        };
        if !own {
            self.make_way(device, &plain, &claims)?;
        }
        let payer = Payer {
            ctx,
            tables: &self.state.tables,
            device: carrier,
            epoch: record.header.epoch,
        };
        let counted = (plain.as_slice(), &mut read);
        match self.content.charge(&payer, counted, effect) {
            Ok(()) => {}
            Err(RecordFault::Cost) => return Ok(Content::Costly),
            Err(fault) => return refused(fault),
        }
        Ok(Content::Update {
            update: plain,
            read,
            claims,
            carried,
        })
    }

    /// Keeps own ids free of operations that others have written: a squatter, or another life of this device.
    fn make_way(
        &mut self,
        device: DeviceId,
        plain: &Plain,
        claims: &[(ReplicaId, u64)],
    ) -> Result<(), Halt> {
        let same_device = device == self.outbox.author.device;
        let ours = same_device
            && (self.outbox.holds_update(plain.as_slice())
                || self.was_a_draft(plain.as_slice(), claims));
        let taken = Halt::OwnReplica { same_device };
        if !ours
            && claims
                .iter()
                .any(|(replica, end)| self.is_in_the_way(replica, *end, same_device))
        {
            return Err(taken);
        }
        if claims
            .iter()
            .any(|(replica, _)| replica == self.content.crdt.replica())
        {
            let replica = self.fresh.replica(self.content.kind);
            // Refused only where edits are pending, which were collected before.
            if self.content.crdt.set_replica(replica).is_err() {
                return Err(taken);
            }
        }
        Ok(())
    }
}

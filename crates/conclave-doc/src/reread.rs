//! Reading a part of the log again, when more is known of it than before: a root has arrived, or a record is void.
//!
//! What judging needs no content for stays: order, membership, chains, signatures. What the records say is judged again in log order, from
//! the first one that changed, so that the document is the same as if it had been known all along. Own edits that fall out are written again.

use std::collections::BTreeSet;

use conclave_crdt::{Crdt, Inspected, ReplicaId, load};
use conclave_proto::record::RecordBody;
use conclave_proto::refusal::RecordFault;

use crate::carried::{BAD, Carried, judge_carried, judge_operations};
use crate::charge::{Payer, charge_unfit};
use crate::checks::Went;
use crate::content::{Idle, Plain, TailEntry};
use crate::context::{Change, ChangeKind, DeliverOutcome, DocContext};
use crate::document::Document;
use crate::error::{DocError, Fault, Finding, Suspect};
use crate::payload::{Tables, VerdictPayload};
use crate::replica::judge_replicas;
use crate::seal::KeyRing;
use crate::state::{Effect, LogState, News};
use crate::views::{Views, tell_all};

/// What records meant, and their updates where they had one.
pub(crate) type Before = Vec<(Effect, Option<Plain>)>;

/// Own edits that wait, before the log is read again.
struct Pending {
    base: Views,
    mine: Views,
    tells_all: bool,
}

impl Document {
    /// Judges the content of all records from `from` on again, in log order, and builds the CRDT again.
    pub(crate) fn reread(
        &mut self,
        ctx: &DocContext<'_>,
        from: u64,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        // What was written on a record that no engine is given again cannot be compared with what was there before.
        let avoided = self.content.first_avoided(ctx, self.id);
        let pending = match avoided {
            Some(_) => None,
            None => self.pending_views()?,
        };
        let before = self.judge_again(ctx, from, None, outcome)?;
        self.checks.forget_found();
        self.rows.meta_dirty = true;
        self.aside
            .given_up
            .retain(|epoch| ctx.keys.root(*epoch).is_none());
        let in_the_way = self.tell_changes(ctx, from, &before, outcome);
        outcome.rebuilt = true;
        if let Some(first) = avoided {
            if first < self.settled_to() {
                // Others found a snapshot right that holds it.
                self.want_base(Went::Back, outcome);
            }
            return self.give_back_unfit(from, &before, in_the_way, outcome);
        }
        self.settle_pending(pending, in_the_way, outcome)?;
        self.write_lost(from, &before, outcome)
    }

    /// Puts those of the own edits that wait on top of the document that stand by themselves. The others, and own records that have lost their effect, are
    /// given back as they are.
    fn give_back_unfit(
        &mut self,
        from: u64,
        before: &Before,
        in_the_way: bool,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let lost = self.lost_records(from, before)?;
        let records = (from..).zip(before);
        let records = records.filter(|(seq, _)| lost.contains(seq));
        let mut dropped: Vec<_> = records
            .filter_map(|(_, (_, update))| update.as_ref())
            .map(|update| update.0.clone())
            .collect();
        let mut scratch = self.without_own()?;
        let mut kept = Vec::new();
        let items = self.outbox.unsent_updates();
        let count = items.len();
        let mut fits = !in_the_way;
        for item in items {
            let waited = scratch.has_missing();
            let version = match fits {
                true => Some(scratch.version()?),
                false => None,
            };
            let inserts = !item.replicas.is_empty();
            // An engine that has refused one may be poisoned: those after it are not tried.
            fits = fits && scratch.apply(&[item.plain.as_slice()]).is_ok();
            let waits = fits
                && scratch.has_missing()
                && (!waited || (inserts && Some(scratch.version()?) == version));
            match fits && !waits {
                true => kept.push(item),
                false => dropped.push(item.plain.0),
            }
        }
        if kept.len() < count {
            let were_drafts = !self.outbox.drafts.is_empty();
            self.outbox.drop_updates();
            self.outbox.put_back(kept, were_drafts);
            self.renew_instance(outcome);
        }
        self.rebuild()?;
        if !dropped.is_empty() {
            let shown = Views::of(self.content.crdt.as_mut());
            let lost = self.lost_between(&shown, &shown, dropped, false);
            outcome.lost.push(lost);
            outcome.refused_own = true;
        }
        Ok(())
    }

    /// Judges the content of all records from `from` on again, that at `unfit` excepted, which the engine has refused. So it is done from each that the
    /// engine refuses then: what such a record does to accounts is known before what follows is judged, however records were delivered. Own
    /// edits without a place in the log are not in the document afterwards. Gives what was there before.
    pub(crate) fn judge_again(
        &mut self,
        ctx: &DocContext<'_>,
        from: u64,
        mut unfit: Option<u64>,
        outcome: &mut DeliverOutcome,
    ) -> Result<Before, DocError> {
        let mut before: Option<Before> = None;
        let mut at = unfit.unwrap_or(from);
        loop {
            let entries = self.content.take_from(at, &mut self.fresh)?;
            let now = |entry: &TailEntry| (entry.effect.clone(), entry.update.clone());
            let before = before.get_or_insert_with(|| entries.iter().map(now).collect());
            let refused = self.judge_entries(ctx, at, entries, unfit, outcome)?;
            let Some(seq) = refused else {
                return Ok(std::mem::take(before));
            };
            let index = usize::try_from(seq.saturating_sub(from)).unwrap_or(usize::MAX);
            if let Some((old, _)) = before.get(index)
                && old.news != News::None
            {
                let (found, own) = (old.link, self.outbox.author.device);
                outcome.refused_by_engine(seq, found.map(|(author, _)| author), own);
            }
            (at, unfit) = (seq, refused);
        }
    }

    fn judge_entries(
        &mut self,
        ctx: &DocContext<'_>,
        from: u64,
        entries: Vec<TailEntry>,
        unfit: Option<u64>,
        outcome: &mut DeliverOutcome,
    ) -> Result<Option<u64>, DocError> {
        let mut keys = KeyRing::new(ctx.keys, self.id);
        let settled = self.settled_to();
        let known = self.checks.take_voids(from);
        let mut state = self.content.state_at(from);
        self.content.ready_meter()?;
        for (seq, mut entry) in (from..).zip(entries) {
            let avoided = self.content.avoids(ctx, self.id, &entry);
            let void =
                avoided || seq >= settled && ctx.authority.is_void(&self.id, &entry.effect.leaf);
            let is_chained = entry.effect.link.is_some() && entry.effect.epoch.is_some();
            let mut update = None;
            if unfit == Some(seq) {
                entry.make_unfit(ctx, &state.tables);
            } else if is_chained && (void || entry.effect.news == News::Void) {
                entry.make_void();
                let epoch = known.get(&seq).copied();
                let epoch = epoch.unwrap_or_else(|| ctx.authority.epoch());
                self.checks.note_void(seq, epoch);
            } else if is_chained {
                match self.read_again(ctx, &state, &mut entry, &mut keys, seq >= settled, outcome) {
                    Ok(read) => update = read,
                    Err(fault) if entry.effect.news == News::Aside => {
                        entry.effect.news = News::None;
                        let author = entry.effect.link.map(|(author, _)| author);
                        let costly = author.is_some_and(|it| state.was_costly(&it.device));
                        let holes = costly || self.has_holes(ctx);
                        let is_certain = fault != RecordFault::Replica || !holes;
                        outcome.findings.extend(is_certain.then_some(Finding {
                            seq,
                            fault: Fault::Record(fault),
                            suspect: author.map_or(Suspect::default(), Suspect::author),
                        }));
                    }
                    Err(_) => {}
                }
            }
            state.apply(seq, &entry.effect);
            self.content.push(entry, update);
        }
        let refused = self.content.apply_pushed(Vec::new, &mut self.fresh)?;
        self.state = state;
        self.rows.meta_dirty = true;
        if let Some(confirmed) = &self.checks.own.confirmed {
            self.state.confirm(confirmed);
        }
        Ok(refused)
    }

    /// Own records that had an effect and have none any more, since what they follow is void: writes what each did again.
    fn write_lost(
        &mut self,
        from: u64,
        before: &Before,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let lost = self.lost_records(from, before)?;
        if lost.is_empty() {
            return Ok(());
        }
        let mut wanted = Views::of(self.content.crdt.as_mut());
        let none = BTreeSet::new();
        let mut former = self.content.rebuild(from, &none, &[], &mut self.fresh)?;
        // What the document was before a run of lost updates.
        let mut run: Option<Box<dyn Crdt>> = None;
        let mut tells_all = true;
        let mut dropped = Vec::new();
        for (seq, (_, update)) in (from..).zip(before) {
            let Some(update) = update else { continue };
            if lost.contains(&seq) {
                dropped.push(update.0.clone());
                if run.is_none() {
                    let replica = self.fresh.replica(self.content.kind);
                    let state = Plain::from(former.snapshot()?);
                    let same = load(self.content.kind, state.as_slice(), replica)?;
                    run = Some(same);
                }
            } else if let Some(base) = run.take() {
                tells_all &= wanted.follow(base, former.as_mut());
            }
            let place = self.content.entry(seq).map(|entry| entry.place(seq, 0));
            let places = place.as_slice();
            let watch = &self.content.watch;
            watch.with_records(places, || former.apply(&[update.as_slice()]))?;
        }
        if let Some(base) = run {
            tells_all &= wanted.follow(base, former.as_mut());
        }
        outcome.refused_own = true;
        match wanted.write_to(self.content.crdt.as_mut()) {
            Ok(()) => self.collect_edits()?,
            Err(_) => self.rebuild()?,
        }
        let shown = Views::of(self.content.crdt.as_mut());
        if shown != wanted || !tells_all {
            let lost = self.lost_between(&shown, &wanted, dropped, tells_all);
            outcome.lost.push(lost);
        }
        Ok(())
    }

    /// Positions of own updates that stood and are refused now, or wait for ever for operations that are gone.
    fn lost_records(&mut self, from: u64, before: &Before) -> Result<BTreeSet<u64>, DocError> {
        let device = self.outbox.author.device;
        let mut lost = BTreeSet::new();
        let none = BTreeSet::new();
        let mut scratch = self.content.rebuild(from, &none, &[], &mut self.fresh)?;
        let waits = self.content.crdt.has_missing();
        for (seq, (old, _)) in (from..).zip(before) {
            let Some(entry) = self.content.entry(seq) else {
                break;
            };
            // What was only carried stays with who holds it.
            let written = old.link.filter(|_| old.carried.is_none());
            let own = written.is_some_and(|(author, _)| author.device == device);
            let stood = own && old.news == News::Update;
            let Some(update) = &entry.update else {
                if stood && matches!(entry.effect.news, News::None | News::Costly) {
                    lost.insert(seq);
                }
                continue;
            };
            if waits {
                let version = scratch.version()?;
                let places = [entry.place(seq, 0)];
                let watch = &self.content.watch;
                watch.with_records(&places, || scratch.apply(&[update.as_slice()]))?;
                if stood && !entry.effect.claims.is_empty() && scratch.version()? == version {
                    lost.insert(seq);
                }
            }
        }
        Ok(lost)
    }

    /// Judges the content of one record, where `state` is that before it. Gives its update as it was read, where it is one; fails with what is
    /// wrong with it.
    fn read_again(
        &mut self,
        ctx: &DocContext<'_>,
        state: &LogState,
        entry: &mut TailEntry,
        keys: &mut KeyRing<'_>,
        voids_count: bool,
        outcome: &mut DeliverOutcome,
    ) -> Result<Option<Inspected>, RecordFault> {
        let effect = &mut entry.effect;
        effect.costs.clear();
        effect.ops = None;
        let mut carried = effect.carried;
        let Some(((author, _), epoch)) = effect.link.zip(effect.epoch) else {
            return Ok(None);
        };
        let plain = match (&entry.update, &entry.idle) {
            (Some(plain), _) | (None, Some(Idle::Open(plain))) => plain.clone(),
            (None, Some(Idle::Sealed(record))) => {
                let Some(key) = keys.get(epoch) else {
                    return Ok(None);
                };
                let plain = Plain::from(key.open(record)?);
                if matches!(record.header.body, RecordBody::Verdict(_)) {
                    if let Some(version) = VerdictPayload::unknown_version(plain.as_slice()) {
                        effect.news = News::None;
                        outcome.unknown_verdict = outcome.unknown_verdict.max(Some(version));
                        return Ok(None);
                    }
                    let verdict = VerdictPayload::from_bytes(plain.as_slice())
                        .map_err(|_| RecordFault::Content)?;
                    let Some(row) = ctx.row(&author.device, epoch) else {
                        return Ok(None);
                    };
                    effect.news = News::Verdict {
                        snapshot: verdict.snapshot,
                        judgement: verdict.judgement,
                        user: row.user,
                        role: row.role,
                        from: verdict.from,
                        one_user: ctx.authority.is_of_one_user(epoch),
                    };
                    entry.idle = None;
                    return Ok(None);
                }
                if matches!(record.header.body, RecordBody::Carried(_)) {
                    let (outer, plain) = (&record.header, plain.as_slice());
                    let judged = judge_carried(ctx, outer, plain, voids_count)?;
                    carried = Some(judged.0);
                    judged.1
                } else {
                    plain
                }
            }
            (None, None) => return Ok(None),
        };
        let mut read = self.content.crdt.inspect(plain.as_slice());
        let is_void = |by: &Carried| voids_count && ctx.authority.is_void(&self.id, &by.leaf);
        let judged = match &read {
            _ if carried.as_ref().is_some_and(is_void) => Err(BAD),
            Ok(read) => {
                let first_counter = self.content.first_counter();
                let ranges = &read.info.ranges;
                let (tables, device) = (&state.tables, author.device);
                match &carried {
                    Some(by) => judge_operations(tables, first_counter, by, device, ranges),
                    None => judge_replicas(tables, first_counter, device, ranges),
                }
            }
            Err(_) => Err(RecordFault::Content),
        };
        let is_known = judged == Ok(None);
        let judged = match (judged, &mut read) {
            (Ok(Some(claims)), Ok(read)) => {
                let payer = Payer {
                    ctx,
                    tables: &state.tables,
                    device: author.device,
                    epoch,
                };
                let counted = (plain.as_slice(), read);
                let charged = self.content.charge(&payer, counted, effect);
                charged.map(|()| Some(claims))
            }
            (judged, _) => judged,
        };
        match judged {
            Ok(Some(claims)) => {
                effect.news = News::Update;
                effect.claims = claims;
                effect.carried = carried;
                entry.update = Some(plain);
                entry.idle = None;
                Ok(read.ok())
            }
            Ok(None) | Err(_) => {
                effect.claims.clear();
                if judged == Err(RecordFault::Cost) {
                    effect.news = News::Costly;
                } else if matches!(effect.news, News::Update | News::Costly) || is_known {
                    effect.news = News::None;
                }
                let idle = entry.update.take().map(Idle::Open);
                entry.idle = idle.or_else(|| entry.idle.take());
                judged.map(|_| None)
            }
        }
    }

    /// Tells what the records from `from` on mean now and did not before. Gives whether one of them takes operations that own edits claim.
    pub(crate) fn tell_changes(
        &mut self,
        ctx: &DocContext<'_>,
        from: u64,
        before: &Before,
        outcome: &mut DeliverOutcome,
    ) -> bool {
        let mut in_the_way = false;
        for (seq, (old, _)) in (from..).zip(before) {
            let Some(entry) = self.content.entry(seq) else {
                break;
            };
            let (effect, update) = (&entry.effect, entry.update.clone());
            if effect == old {
                continue;
            }
            self.rows.changed.insert(seq);
            let kind = match effect.news {
                News::Update => ChangeKind::Update,
                News::Verdict { .. } => ChangeKind::Verdict,
                News::Costly => {
                    outcome.findings.push(Finding {
                        seq,
                        fault: Fault::Record(RecordFault::Cost),
                        suspect: Suspect::default(),
                    });
                    continue;
                }
                _ => continue,
            };
            let (Some((author, _)), Some(epoch)) = (effect.link, effect.epoch) else {
                continue;
            };
            let Some(row) = ctx.row(&author.device, epoch) else {
                continue;
            };
            let written = effect.carried.and_then(|it| it.written_by(ctx));
            let carried_by = written.map(|_| (author, row.user));
            let (author, user) = written.unwrap_or((author, row.user));
            outcome.changes.push(Change {
                author,
                user,
                carried_by,
                seq,
                epoch,
                kind,
            });
            let claims = effect.claims.clone();
            let same_device = author.device == self.outbox.author.device;
            let taken = same_device
                && update.is_some_and(|update| self.outbox.take_update(update.as_slice()));
            in_the_way |= !taken
                && claims
                    .iter()
                    .any(|(replica, end)| self.is_in_the_way(replica, *end, same_device));
        }
        in_the_way
    }

    /// Whether own edits that wait claim operations of `replica` that a record has taken, which ends before counter `end`.
    pub(crate) fn is_in_the_way(&self, replica: &ReplicaId, end: u64, same_device: bool) -> bool {
        let overlaps = |plain: &Plain| {
            let read = self.content.crdt.inspect(plain.as_slice());
            read.is_ok_and(|read| {
                let mut ranges = read.info.ranges.iter();
                ranges.any(|range| range.replica == *replica && range.start < end)
            })
        };
        self.outbox.writes_under(replica)
            && (!same_device || self.outbox.updates().into_iter().any(overlaps))
    }

    /// Whether records are set aside or void. After them, counters can be out of order through no fault of their author.
    pub(crate) fn has_holes(&self, ctx: &DocContext<'_>) -> bool {
        !self.content.aside.is_empty() || ctx.authority.voided(&self.id).next().is_some()
    }

    /// What the document shows without and with own edits that wait, if there are any.
    fn pending_views(&mut self) -> Result<Option<Pending>, DocError> {
        if !self.outbox.has_updates() {
            return Ok(None);
        }
        let mut base = self.without_own()?;
        let mine = self.content.crdt.as_mut();
        Ok(Some(Pending {
            base: Views::of(base.as_mut()),
            mine: Views::of(mine),
            tells_all: tell_all(base.as_mut(), mine),
        }))
    }

    /// Puts own edits that wait on top of a document that has become another one. Those that do not fit any more, or build on what is gone,
    /// are written again.
    fn settle_pending(
        &mut self,
        pending: Option<Pending>,
        in_the_way: bool,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        if !self.lost.is_empty() {
            self.content.crdt = self.without_own()?;
        }
        let Some(pending) = pending.filter(|_| self.outbox.has_updates()) else {
            return Ok(());
        };
        let onto = Views::of(self.content.crdt.as_mut());
        let wanted = Views::merge(&pending.base, &pending.mine, &onto);
        let fits = !in_the_way && self.rebuild().is_ok();
        let crdt = self.content.crdt.as_mut();
        if fits && (!crdt.has_missing() || Views::of(crdt) == wanted) {
            return Ok(());
        }
        self.write_again(&wanted, Vec::new(), pending.tells_all, outcome)
    }
}

impl TailEntry {
    /// The engine refuses it: it has no content, and its user pays for what that costs everybody. `tables` are those before it.
    fn make_unfit(&mut self, ctx: &DocContext<'_>, tables: &Tables) {
        charge_unfit(ctx, tables, &mut self.effect);
        self.effect.news = News::None;
        let update = self.update.take().map(Idle::Open);
        self.idle = update.or_else(|| self.idle.take());
    }

    /// Counts as nothing from now on. Its place in its author's chain stays.
    fn make_void(&mut self) {
        self.effect.claims.clear();
        self.effect.costs.clear();
        self.effect.ops = None;
        self.effect.news = News::Void;
        self.update = None;
        self.idle = None;
    }
}

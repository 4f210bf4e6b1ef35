//! Records whose content is not known, or does not count: set aside, since nobody could supply their root, and void, since an admin says so
//! in the group log. When either becomes known, what follows in the log is read again, as if it had been known all along.
//!
//! What a matched snapshot covers is settled: voiding changes nothing there. A member whose own log says something else then takes the
//! snapshot over.

use std::collections::BTreeSet;

use conclave_crdt::ReplicaId;
use conclave_proto::record::RecordBody;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, Hash, Head};
use serde::{Deserialize, Serialize};

use crate::content::{Content, Idle, Plain, TailEntry};
use crate::context::{Blocked, Change, ChangeKind, DeliverOutcome, DocContext};
use crate::document::Document;
use crate::error::{DocError, Fault, Finding, Suspect};
use crate::payload::{Judgement, VerdictPayload};
use crate::replica::judge_replicas;
use crate::seal::{KeyRing, open};
use crate::state::{Effect, LogState, News};
use crate::views::Views;

/// What a document knows of records set aside or void, beside their entries in its log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aside {
    /// Epochs whose roots nobody could supply.
    pub given_up: BTreeSet<u64>,
    stored: StoredAside,
}

/// The part of [`Aside`] that is stored.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct StoredAside {
    /// So many of the group's entries that void records of this document are dealt with.
    voids: usize,
    /// The state has to be taken over from the active snapshot.
    wants_base: bool,
    /// The head before the state was taken over, until the log gets there again.
    former: Option<Head>,
    /// A snapshot that was checked before the log was read again.
    checked_before: Option<Hash>,
}

impl Aside {
    pub(crate) fn restore(stored: StoredAside, content: &Content) -> Self {
        Self {
            given_up: content.aside_epochs(),
            stored,
        }
    }

    pub(crate) fn to_stored(&self) -> StoredAside {
        self.stored
    }

    pub(crate) fn wants_base(&self) -> bool {
        self.stored.wants_base
    }

    /// Whether the log is shorter for now than it was.
    pub(crate) fn is_rejoining(&self) -> bool {
        self.stored.wants_base || self.stored.former.is_some()
    }

    /// The state is now that of a snapshot that covers the log up to `covered`; before, the log's head was `former`.
    pub(crate) fn rejoined(&mut self, former: Head, covered: &Head) {
        self.stored.wants_base = false;
        if former.size > covered.size {
            self.stored.former = Some(former);
        }
    }
}

impl Document {
    /// Goes on without the root that application waits for, which nobody could supply: the records under it get their places in the log, with
    /// their content unknown, and no snapshot of this device covers them. If the root arrives later, [`Document::retry`] reads them at
    /// their positions; if an admin's entry voids them, they count as nothing. Does nothing where something else is waited for.
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn set_aside(&mut self, ctx: &DocContext<'_>) -> Result<DeliverOutcome, DocError> {
        let mut outcome = DeliverOutcome::default();
        self.advance(ctx, &mut outcome)?;
        if let Some((_, Blocked::Root(epoch))) = outcome.blocked {
            self.aside.given_up.insert(epoch);
            let mut later = DeliverOutcome::default();
            self.advance(ctx, &mut later)?;
            outcome.absorb(later);
        }
        Ok(outcome)
    }

    /// The group log has voided records of this document: takes them out, and reads again what follows them. They count as nothing then, also
    /// here where they were opened; edits made since that build on them stay without effect. To be called after every such entry;
    /// calling it again does nothing. What a matched snapshot covers stays. Where a void record is in a checkpoint that no such snapshot
    /// covers, the outcome is blocked by [`Blocked::Base`].
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn voided(&mut self, ctx: &DocContext<'_>) -> Result<DeliverOutcome, DocError> {
        self.retry(ctx)
    }

    /// The records set aside, in log order: position, id, epoch, author.
    #[must_use]
    pub fn set_aside_records(&self) -> Vec<(u64, Hash, u64, Author)> {
        let content = &self.content;
        let known = |seq: &u64| {
            let effect = &content.entry(*seq)?.effect;
            Some((*seq, effect.leaf, effect.epoch?, effect.link?.0))
        };
        content.aside.iter().filter_map(known).collect()
    }

    /// Reads again from the first record on of which more is known than before.
    pub(crate) fn reread_due(
        &mut self,
        ctx: &DocContext<'_>,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let arrived: BTreeSet<u64> = self
            .content
            .aside_epochs()
            .into_iter()
            .filter(|epoch| ctx.keys.root(*epoch).is_some())
            .collect();
        let readable = self.content.aside.iter().copied().find(|seq| {
            let epoch = self.content.entry(*seq).and_then(|it| it.effect.epoch);
            epoch.is_some_and(|epoch| arrived.contains(&epoch))
        });
        let voided = self.new_voids(ctx, outcome);
        match readable.into_iter().chain(voided).min() {
            Some(from) => self.reread(ctx, from, outcome),
            None => Ok(()),
        }
    }

    /// Position of the first record that was voided since the last call, where that changes something.
    fn new_voids(&mut self, ctx: &DocContext<'_>, outcome: &mut DeliverOutcome) -> Option<u64> {
        let all = || {
            let ours = ctx.state.voided.iter().filter(|(id, _)| *id == self.id);
            ours.map(|(_, leaf)| *leaf)
        };
        let count = all().count();
        if count <= self.aside.stored.voids {
            return None;
        }
        let new: Vec<Hash> = all().skip(self.aside.stored.voids).collect();
        self.aside.stored.voids = count;
        self.rows.meta_dirty = true;
        let settled = self.settled_to();
        // Of records before the view nothing is known here, unless they are in the very snapshot that would be taken over.
        let is_base = self.content.checkpoint.size == self.state.active.covered.size
            && self.checks.rests_on == Some(self.state.active.id);
        let is_blind = self.log.base().size > settled && !is_base;
        let mut first = None;
        for leaf in new {
            match self.log.find(&leaf) {
                Some(seq) if seq < settled => {}
                Some(seq) if seq >= self.content.checkpoint.size => {
                    first = first.into_iter().chain([seq]).min();
                }
                None if !is_blind => {}
                Some(_) | None => self.want_base(outcome),
            }
        }
        first
    }

    /// Size up to which a matched snapshot says what the log means.
    fn settled_to(&self) -> u64 {
        self.state.matched.map_or(0, |info| info.covered.size)
    }

    /// The state has to be taken over from the active snapshot. What this device has written since comes back with the log, and goes on
    /// under a fresh instance.
    fn want_base(&mut self, outcome: &mut DeliverOutcome) {
        if !self.aside.stored.wants_base {
            self.aside.stored.wants_base = true;
            self.rows.meta_dirty = true;
            self.renew_instance(outcome);
        }
    }

    /// Asks for the snapshot to take over, where a matched one covers what is unknown or void here, or the one that this state rests on
    /// has been replaced.
    pub(crate) fn check_base(&mut self, outcome: &mut DeliverOutcome) {
        let settled = self.settled_to();
        let content = &self.content;
        let first = content.aside.iter().chain(&content.void).min();
        let matched = self.state.matched.map(|info| info.id);
        let agrees =
            matches!(self.checks.done, Some((id, Judgement::Match, _)) if Some(id) == matched);
        let overruled = first.is_some_and(|first| *first < settled) && !agrees;
        let active = &self.state.active;
        let replaced = active.replaces && self.checks.rests_on.is_some_and(|id| id != active.id);
        if overruled || replaced {
            self.want_base(outcome);
        }
        if self.aside.stored.wants_base && outcome.blocked.is_none() {
            outcome.block(self.size(), Blocked::Base);
        }
    }

    /// After the state was taken over: the log that follows must lead through the head that was reached before.
    pub(crate) fn check_former(&mut self, outcome: &mut DeliverOutcome) {
        let size = self.size();
        let Some(former) = self.aside.stored.former.take_if(|head| head.size <= size) else {
            return;
        };
        self.rows.meta_dirty = true;
        if self.contradicts(&former) {
            outcome.findings.push(Finding {
                seq: former.size,
                fault: Fault::Fork,
                suspect: Suspect::SERVICE,
            });
            self.rolled_back = true;
        }
    }

    /// Judges the content of all records from `from` on again, in log order, and builds the CRDT again.
    fn reread(
        &mut self,
        ctx: &DocContext<'_>,
        from: u64,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let pending = self.pending_views()?;
        let mut keys = KeyRing::new(ctx.keys, self.id);
        let settled = self.settled_to();
        let mut state = self.content.state_at(from);
        let entries = self.content.take_from(from, &mut self.fresh)?;
        let before: Vec<(Effect, Option<Plain>)> = entries
            .iter()
            .map(|entry| (entry.effect.clone(), entry.update.clone()))
            .collect();
        for (seq, mut entry) in (from..).zip(entries) {
            let void = seq >= settled && ctx.state.voided.contains(&(self.id, entry.effect.leaf));
            let is_chained = entry.effect.link.is_some() && entry.effect.epoch.is_some();
            if is_chained && (void || entry.effect.news == News::Void) {
                entry.make_void();
            } else if is_chained
                && let Some(fault) = self.read_again(ctx, &state, &mut entry, &mut keys)
                && entry.effect.news == News::Aside
            {
                entry.effect.news = News::None;
                outcome.findings.push(Finding {
                    seq,
                    fault: Fault::Record(fault),
                    suspect: entry
                        .effect
                        .link
                        .map_or(Suspect::default(), |(author, _)| Suspect::author(author)),
                });
            }
            state.apply(seq, &entry.effect);
            self.content.push(entry, true);
        }
        self.content.apply_pushed(&[], &mut self.fresh)?;
        self.state = state;
        if let Some((snapshot, Judgement::Match, true)) = self.checks.done
            && ctx.one_user()
        {
            self.state.set_matched(&snapshot);
        }
        self.aside
            .given_up
            .retain(|epoch| ctx.keys.root(*epoch).is_none());
        let in_the_way = self.tell_changes(ctx, from, &before, outcome);
        outcome.rebuilt = true;
        self.settle_pending(pending, in_the_way, outcome)?;
        self.write_lost(from, &before, outcome)
    }

    /// Own records that stood and do not any more, since what they follow is void: writes what they did again.
    fn write_lost(
        &mut self,
        from: u64,
        before: &[(Effect, Option<Plain>)],
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let device = self.outbox.author.device;
        let is_lost = |seq: u64, old: &Effect| {
            let news = self.content.entry(seq).map(|entry| &entry.effect.news);
            let own = old.link.is_some_and(|(author, _)| author.device == device);
            own && old.news == News::Update && news == Some(&News::None)
        };
        let all = || (from..).zip(before);
        if !all().any(|(seq, (old, _))| is_lost(seq, old)) {
            return Ok(());
        }
        let none = BTreeSet::new();
        let with: Vec<&Plain> = all().filter_map(|(_, (_, it))| it.as_ref()).collect();
        let without: Vec<&Plain> = all()
            .filter(|(seq, (old, _))| !is_lost(*seq, old))
            .filter_map(|(_, (_, update))| update.as_ref())
            .collect();
        let (content, fresh) = (&self.content, &mut self.fresh);
        let mut mine = content.rebuild(from, &none, &with, fresh)?;
        let mut base = content.rebuild(from, &none, &without, fresh)?;
        let (base, mine) = (Views::of(base.as_mut()), Views::of(mine.as_mut()));
        let onto = Views::of(self.content.crdt.as_mut());
        let written = Views::merge(self.content.kind, &base, &mine, &onto, &mut self.fresh)
            .and_then(|wanted| wanted.write_to(self.content.crdt.as_mut()));
        outcome.refused_own = true;
        match written {
            Ok(()) => self.collect_edits(),
            Err(_) => self.rebuild(),
        }
    }

    /// Judges the content of one record, where `state` is that before it. Gives what is wrong with it.
    fn read_again(
        &self,
        ctx: &DocContext<'_>,
        state: &LogState,
        entry: &mut TailEntry,
        keys: &mut KeyRing<'_>,
    ) -> Option<RecordFault> {
        let effect = &mut entry.effect;
        let ((author, _), epoch) = (effect.link?, effect.epoch?);
        let plain = match (&entry.update, &entry.idle) {
            (Some(plain), _) | (None, Some(Idle::Open(plain))) => plain.clone(),
            (None, Some(Idle::Sealed(record))) => {
                let plain = match open(record, keys.get(epoch)?) {
                    Ok(plain) => Plain::from(plain),
                    Err(fault) => return Some(fault),
                };
                if matches!(record.header.body, RecordBody::Verdict(_)) {
                    let Ok(verdict) = VerdictPayload::from_bytes(plain.as_slice()) else {
                        return Some(RecordFault::Content);
                    };
                    effect.news = News::Verdict {
                        snapshot: verdict.snapshot,
                        judgement: verdict.judgement,
                        user: ctx.row(&author.device, epoch)?.user,
                        one_user: ctx.one_user_at(epoch),
                    };
                    entry.idle = None;
                    return None;
                }
                plain
            }
            (None, None) => return None,
        };
        let judged = match self.content.crdt.inspect(plain.as_slice()) {
            Ok(info) => {
                let first_counter = self.content.first_counter();
                judge_replicas(&state.tables, first_counter, author.device, &info.ranges)
            }
            Err(_) => Err(RecordFault::Content),
        };
        let is_known = judged == Ok(None);
        match judged {
            Ok(Some(claims)) => {
                effect.news = News::Update;
                effect.claims = claims;
                entry.update = Some(plain);
                entry.idle = None;
                None
            }
            Ok(None) | Err(_) => {
                effect.claims.clear();
                if effect.news == News::Update || is_known {
                    effect.news = News::None;
                }
                let idle = entry.update.take().map(Idle::Open);
                entry.idle = idle.or_else(|| entry.idle.take());
                judged.err()
            }
        }
    }

    /// Tells what the records from `from` on mean now and did not before. Gives whether one of them takes operations that own edits claim.
    fn tell_changes(
        &mut self,
        ctx: &DocContext<'_>,
        from: u64,
        before: &[(Effect, Option<Plain>)],
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
                _ => continue,
            };
            let (Some((author, _)), Some(epoch)) = (effect.link, effect.epoch) else {
                continue;
            };
            let Some(row) = ctx.row(&author.device, epoch) else {
                continue;
            };
            outcome.changes.push(Change {
                author,
                user: row.user,
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
            let info = self.content.crdt.inspect(plain.as_slice());
            info.is_ok_and(|info| {
                let mut ranges = info.ranges.iter();
                ranges.any(|range| range.replica == *replica && range.start < end)
            })
        };
        self.outbox.writes_under(replica)
            && (!same_device || self.outbox.updates().into_iter().any(overlaps))
    }

    /// What the document shows without and with own edits that wait, if there are any.
    fn pending_views(&mut self) -> Result<Option<(Views, Views)>, DocError> {
        if self.outbox.updates().is_empty() {
            return Ok(None);
        }
        let mine = Views::of(self.content.crdt.as_mut());
        let none = BTreeSet::new();
        let size = self.content.size();
        let mut base = self.content.rebuild(size, &none, &[], &mut self.fresh)?;
        Ok(Some((Views::of(base.as_mut()), mine)))
    }

    /// Puts own edits that wait on top of a document that has become another one. Those that do not fit any more, or build on what is gone,
    /// are written again.
    fn settle_pending(
        &mut self,
        pending: Option<(Views, Views)>,
        in_the_way: bool,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let Some((base, mine)) = pending.filter(|_| !self.outbox.updates().is_empty()) else {
            return Ok(());
        };
        let onto = Views::of(self.content.crdt.as_mut());
        let Ok(wanted) = Views::merge(self.content.kind, &base, &mine, &onto, &mut self.fresh)
        else {
            return self.rebuild();
        };
        let fits = !in_the_way && self.rebuild().is_ok();
        let crdt = self.content.crdt.as_mut();
        if fits && (!crdt.has_missing() || Views::of(crdt) == wanted) {
            return Ok(());
        }
        self.write_again(&wanted, outcome)
    }
}

impl TailEntry {
    /// Counts as nothing from now on. Its place in its author's chain stays.
    fn make_void(&mut self) {
        self.effect.claims.clear();
        self.effect.news = News::Void;
        self.update = None;
        self.idle = None;
    }
}

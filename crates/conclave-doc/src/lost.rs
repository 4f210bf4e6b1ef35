//! Updates that the service's log has lost and this device still holds, after the service was put back and the log went on without them.
//!
//! The document begins anew from what the service has, and what was lost stays on top of it: shown, and kept as its authors signed it, until its
//! operations are in the log again. Whoever holds it carries it ([`crate::carried`]): its author at once, others when that has not helped
//! for a while. Nothing is written again as a difference: that would double it as soon as two do it, and make it somebody else's.
//!
//! What is lost is told by authors' chains, not by positions: a record is in the service's log where its author's chain there goes as far.

mod updates;

use std::collections::BTreeSet;

use conclave_proto::frame::OpenedDocument;
use conclave_proto::record::{Record, RecordBody};
use conclave_proto::{DeviceId, Hash, Head, InstanceId};
use conclave_rules::actions::Action;
use rand_core::CryptoRngCore;
use zeroize::Zeroizing;

pub(crate) use self::updates::{Lost, LostUpdates};
use crate::carried::{judge_carried, judge_operations};
use crate::content::Plain;
use crate::context::{DeliverOutcome, DocContext};
use crate::document::Document;
use crate::error::DocError;
use crate::kept::{KeptItem, KeptLog};
use crate::outbox::{OutItem, header_template};
use crate::payload::{CarriedPayload, Tables};
use crate::replica::judge_replicas;
use crate::seal::KeyRing;
use crate::unsent::Unsent;
use crate::views::{Views, tell_all};

/// Whose lost updates are to be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This device's own.
    Own,
    /// Everybody's.
    All,
}

/// What was found of a former log that the service has not got.
struct Found {
    updates: Vec<CarriedPayload>,
    /// Whether there was more of which the records or the roots are here no longer.
    is_all: bool,
}

impl Document {
    /// How many updates the log has lost and not got back yet.
    #[must_use]
    pub fn lost_count(&self) -> usize {
        self.lost.count()
    }

    /// The service's log went another way than what is here, and it is to go on from there: the document begins anew from the service's answer to
    /// an opening without a position, under `instance`, which has to be fresh. What that log lacks of the former one is kept on top of it, and
    /// so is what is unsent. `kept` is what is kept of the former log.
    ///
    /// [`Document::take_anew`] tells then that rows that were written before count no longer. After an error the document is as before.
    ///
    /// # Errors
    /// As [`Document::open_remote`]; [`DocError::Crdt`].
    pub fn merge(
        &mut self,
        ctx: &DocContext<'_>,
        opened: &OpenedDocument,
        kept: &KeptLog,
        instance: InstanceId,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<DeliverOutcome, DocError> {
        self.collect_edits()?;
        let (mut this, mut outcome) =
            Self::open_remote(ctx, opened, self.group, self.id, instance, rng)?;
        this.content.watch = self.content.watch.clone();
        let former = Views::of(self.content.crdt.as_mut());
        let covered = this.state.active.covered;
        let mut found = self.lost_of(ctx, kept, &this, &covered);
        let before = self.lost.iter().map(|lost| lost.payload.clone());
        let updates: Vec<_> = before.chain(std::mem::take(&mut found.updates)).collect();
        for payload in updates {
            match Lost::read(payload, this.content.crdt.as_ref()) {
                Some(lost) => this.lost.add(lost),
                None => found.is_all = false,
            }
        }
        this.claim_known();
        this.outbox.drafts.make(self.keeps_drafts());
        let were_drafts = !self.outbox.drafts.is_empty();
        let own = self.outbox.unsent_updates();
        this.outbox.put_back(own, were_drafts);
        this.forget_known();
        // Own edits go after what was lost before them, which is known once the log is here.
        this.behind = true;
        let mut dropped = Vec::new();
        if this.rebuild().is_err() {
            dropped = this.keep_what_fits()?;
        }
        if !found.is_all || !dropped.is_empty() {
            let shown = Views::of(this.content.crdt.as_mut());
            if shown != former || !dropped.is_empty() {
                let lost = this.lost_between(&shown, &former, dropped, false);
                outcome.uncarried.push(lost);
            }
        }
        this.anew = true;
        outcome.rebuilt = true;
        *self = this;
        Ok(outcome)
    }

    /// Whether the document has begun anew since the last call: all rows of it that were written before are to be deleted in the batch that takes
    /// its changes, before these.
    pub fn take_anew(&mut self) -> bool {
        std::mem::take(&mut self.anew)
    }

    /// What counted in this log and is not in another, by the authors' chains in that one; where these are not sure, all beyond what both have.
    fn lost_of(&self, ctx: &DocContext<'_>, kept: &KeptLog, other: &Self, covered: &Head) -> Found {
        let tables = &other.state.tables;
        let mut keys = KeyRing::new(ctx.keys, self.id);
        let own = self
            .log
            .head_at(covered.size)
            .or(kept.head_at(covered.size));
        let common = if own == Some(*covered) {
            covered.size
        } else {
            0
        };
        let mut found = Found {
            updates: Vec::new(),
            is_all: true,
        };
        // What both have without a break from there on.
        let mut shared = common;
        let mut unbroken = true;
        let mut by_leaf = Vec::new();
        let from = common.max(kept.first());
        for (seq, item) in (from..).zip(kept.since(from).unwrap_or_default()) {
            let KeptItem::Record(record) = item else {
                by_leaf.push(seq);
                continue;
            };
            let known = is_in(tables, record);
            unbroken &= known;
            if unbroken {
                shared = seq.saturating_add(1);
            }
            if kept.counts(seq) && (!known || !other.is_sure()) {
                match lost_in(record, &mut keys) {
                    Some(payload) => found.updates.push(payload),
                    None => found.is_all &= known,
                }
            }
        }
        let is_short = kept.first() > shared && kept.first() > 0;
        // Rows that a disk has lost leave no gap at the end.
        let is_whole = kept.head() == self.head();
        found.is_all &= is_whole && !is_short && by_leaf.iter().all(|seq| *seq < shared);
        found
    }

    /// What of the lost updates is in the log by now is lost no longer.
    pub(crate) fn forget_known(&mut self) {
        if self.lost.is_empty() {
            return;
        }
        let (tables, first) = (&self.state.tables, self.content.first_counter());
        let known =
            |lost: &&Lost| judge_replicas(tables, first, lost.device(), &lost.ranges) == Ok(None);
        let reached = self.lost.reached(tables).into_iter().filter(known);
        let leaves: Vec<Hash> = reached.map(|lost| lost.leaf).collect();
        for leaf in leaves {
            match self.is_sure() {
                true => self.found_again(&leaf),
                false => self.lost.claim(&leaf),
            }
        }
    }

    /// What the authors' chains, or their operations, say to be in the log is claimed to be, where that is not sure.
    pub(crate) fn claim_known(&mut self) {
        self.lost.unclaim();
        if self.is_sure() {
            return;
        }
        let (tables, first) = (&self.state.tables, self.content.first_counter());
        let known = |lost: &&Lost| {
            let operations = judge_replicas(tables, first, lost.device(), &lost.ranges);
            is_in(tables, &lost.payload.record) || operations == Ok(None)
        };
        let known = self.lost.iter().filter(known).map(|lost| lost.leaf);
        let known: Vec<Hash> = known.collect();
        known.iter().for_each(|leaf| self.lost.claim(leaf));
    }

    /// Another user has compared the snapshot, or nothing rests on it any more: what it says to be in the log is.
    pub(crate) fn claims_are_true(&mut self) {
        let claimed: Vec<Hash> = self.lost.claimed().map(|lost| lost.leaf).collect();
        claimed.iter().for_each(|leaf| self.found_again(leaf));
    }

    /// A record is in the log, as its author wrote it or carried by somebody.
    pub(crate) fn found_again(&mut self, leaf: &Hash) {
        if self.lost.remove_record(leaf).is_some() {
            self.outbox.drop_carried(leaf);
        }
    }

    /// Queues lost updates to be carried, as far as they would stand now; those that would cost too much now wait, and are looked at again when there is
    /// more to pay with. None before all of the log is here. Gives how many. Own ones go by
    /// themselves, before anything else that is unsent ([`Document::next_append`]).
    ///
    /// # Errors
    /// [`DocError::Crdt`] when the CRDT cannot be built again; drop the document and load it from its rows.
    pub fn carry(&mut self, ctx: &DocContext<'_>, whose: Whose) -> Result<usize, DocError> {
        self.collect_edits()?;
        if !self.may_carry(ctx) {
            return Ok(0);
        }
        let account = self.own_account(ctx);
        if self
            .lost
            .tried()
            .is_some_and(|it| it.is_over(self.size(), account))
        {
            self.lost.try_again();
        }
        let epoch = ctx.authority.epoch();
        let wanted = |device: &DeviceId| {
            (whose == Whose::All || *device == ctx.device) && may_write(ctx, device)
        };
        if !self.lost.waiting().any(wanted) {
            // Nothing to be judged again with every frame.
            return Ok(0);
        }
        let header = header_template(self.group, self.id, epoch, self.outbox.author, self.head());
        // What is queued will be in the log before what is queued now.
        let mut tables = self.state.tables.clone();
        let mut items = Vec::new();
        for lost in self.lost.iter() {
            let device = lost.device();
            let is_queued = self.lost.is_queued(lost);
            let goes = self.lost.is_waiting(lost) && wanted(&device);
            if !is_queued && !goes {
                continue;
            }
            let bytes = lost.payload.to_bytes();
            let first = self.content.first_counter();
            let judged = judge_carried(ctx, &header, &bytes, true).and_then(|(by, _)| {
                judge_operations(&tables, first, &by, ctx.device, &lost.ranges)
            });
            let Ok(Some(claims)) = judged else {
                continue;
            };
            tables.claim(device, &claims);
            if !is_queued {
                items.push((Plain::from(bytes), lost.leaf));
            }
        }
        let count = items.len();
        items.iter().for_each(|(_, leaf)| self.lost.queued(leaf));
        self.outbox.carry(items);
        Ok(count)
    }

    /// Whether this device can carry what is lost, now: all of the log is here, and it may write.
    fn may_carry(&self, ctx: &DocContext<'_>) -> bool {
        !self.lost.is_empty() && self.is_all_here() && may_write(ctx, &ctx.device)
    }

    /// Takes out what is lost and was not queued by [`Document::carry`], or would cost more than any update may: it would not stand, so a person decides. Nothing, where this device cannot
    /// carry now: others may. Keep it in the same batch of writes.
    ///
    /// # Errors
    /// As [`Document::carry`].
    pub fn take_uncarried(&mut self, ctx: &DocContext<'_>) -> Result<Option<Unsent>, DocError> {
        self.collect_edits()?;
        if !self.may_carry(ctx) {
            return Ok(None);
        }
        let lost = self.lost.iter();
        let uncarried = lost.filter(|it| self.lost.is_waiting(it) || self.lost.is_never(it));
        let uncarried: BTreeSet<Hash> = uncarried.map(|lost| lost.leaf).collect();
        self.take_lost(|lost| uncarried.contains(&lost.leaf))
    }

    /// Takes out some of the lost updates. Gives what they did to the document.
    pub(crate) fn take_lost(
        &mut self,
        gone: impl Fn(&Lost) -> bool,
    ) -> Result<Option<Unsent>, DocError> {
        self.collect_edits()?;
        let gone = self.lost.remove(gone);
        if gone.is_empty() {
            return Ok(None);
        }
        let wanted = Views::of(self.content.crdt.as_mut());
        let (size, none) = (self.content.size(), BTreeSet::new());
        let left: Vec<_> = self.lost.plains().chain(self.outbox.updates()).collect();
        let mut base = self.content.rebuild(size, &none, &left, &mut self.fresh)?;
        let tells_all = tell_all(base.as_mut(), self.content.crdt.as_mut());
        self.rebuild()?;
        let shown = Views::of(self.content.crdt.as_mut());
        let updates = gone.into_iter().map(|lost| lost.plain.0);
        Ok(Some(self.lost_between(
            &shown,
            &wanted,
            updates.collect(),
            tells_all,
        )))
    }

    /// Keeps those of the lost updates and of the unsent ones that the engine takes on top of the log. Gives the others.
    fn keep_what_fits(&mut self) -> Result<Vec<Zeroizing<Vec<u8>>>, DocError> {
        let mut dropped = Vec::new();
        let (size, none) = (self.content.size(), BTreeSet::new());
        let rebuilt = |this: &mut Self| this.content.rebuild(size, &none, &[], &mut this.fresh);
        self.content.crdt = rebuilt(self)?;
        let lost = std::mem::take(&mut self.lost);
        for item in lost.into_values() {
            match self.content.crdt.apply(&[item.plain.as_slice()]) {
                Ok(_) => self.lost.add(item),
                Err(_) => dropped.push(item.plain.0),
            }
        }
        let updates: Vec<OutItem> = self.outbox.unsent_updates();
        let were_drafts = !self.outbox.drafts.is_empty();
        self.outbox.drop_updates();
        let mut kept = Vec::new();
        for item in updates {
            match self.content.crdt.apply(&[item.plain.as_slice()]) {
                Ok(_) => kept.push(item),
                Err(_) => dropped.push(item.plain.0),
            }
        }
        self.outbox.put_back(kept, were_drafts);
        self.claim_known();
        // A refusal may have left something half-way.
        self.rebuild()?;
        Ok(dropped)
    }
}

/// Whether a device may write updates now.
fn may_write(ctx: &DocContext<'_>, device: &DeviceId) -> bool {
    let row = ctx.row(device, ctx.authority.epoch());
    row.is_some_and(|row| Action::WriteUpdate.allowed(row.role))
}

/// Whether a record is in the log of these chains.
fn is_in(tables: &Tables, record: &Record) -> bool {
    let header = &record.header;
    let chain = tables.chains.get(&header.author);
    let chained = header.body.chained();
    chained.zip(chain).is_some_and(|(chained, chain)| {
        chained.clock < chain.next
            && (chained.clock.saturating_add(1) < chain.next || record.leaf() == chain.last)
    })
}

/// The update in a record of a former log, and its keys.
fn lost_in(record: &Record, keys: &mut KeyRing<'_>) -> Option<CarriedPayload> {
    let of_epoch = keys.get(record.header.epoch)?;
    match record.header.body {
        RecordBody::Carried(_) => {
            let payload = of_epoch.open(record).ok()?;
            CarriedPayload::from_bytes(&payload).ok()
        }
        _ => Some(CarriedPayload {
            record: record.clone(),
            keys: of_epoch.of_record(&record.sealed.nonce),
        }),
    }
}

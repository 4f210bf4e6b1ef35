//! Records whose content is not known, or does not count: set aside, since nobody could supply their root, and void, since an admin says so
//! in the group log. When either becomes known, what follows in the log is read again, as if it had been known all along.
//!
//! What a snapshot covers is settled that another user found right, if no objection weighs against it: voiding changes nothing there. A member whose own log
//! says something else then takes the snapshot over.

use std::collections::BTreeSet;

use conclave_proto::{Author, Hash, Head};
use serde::{Deserialize, Serialize};

use crate::checks::Went;
use crate::content::Content;
use crate::context::{Blocked, DeliverOutcome, DocContext};
use crate::document::Document;
use crate::error::{DocError, Fault, Finding, Suspect};
use crate::payload::Judgement;
use crate::state::SnapshotInfo;

/// What a document knows of records set aside or void, beside their entries in its log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aside {
    /// Epochs whose roots nobody could supply.
    pub given_up: BTreeSet<u64>,
    stored: StoredAside,
}

/// The part of [`Aside`] that is stored.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredAside {
    /// So many of the group's entries that void records of this document are dealt with.
    voids: usize,
    /// The state has to be taken over from the active snapshot, and how the document comes to that.
    wants_base: Option<Went>,
    /// The head before the state was taken over, until the log gets there again.
    former: Option<Head>,
    /// What is void from this position on, or may be, is in the state; known since the group was at that epoch.
    tainted: Option<(u64, u64)>,
    /// Size up to which the log settled what it means when these were dealt with.
    settled: u64,
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
        self.stored.wants_base.is_some()
    }

    /// How the document comes to begin anew from a snapshot.
    pub(crate) fn went(&self) -> Went {
        self.stored.wants_base.unwrap_or_default()
    }

    /// Whether the state holds what is void, or may.
    pub(crate) fn is_tainted(&self) -> bool {
        self.stored.tainted.is_some()
    }

    /// Whether the log is shorter for now than it was.
    pub(crate) fn is_rejoining(&self) -> bool {
        self.wants_base() || self.stored.former.is_some()
    }

    /// The state is now that of a snapshot that covers the log up to `covered`; before, the log's head was `former`.
    pub(crate) fn rejoined(&mut self, former: Head, covered: &Head) {
        self.stored.wants_base = None;
        self.stored.tainted = None;
        self.stored.settled = 0;
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
    /// here where they were opened. Own edits that build on them, in the log or not, are written again; those of others have no effect
    /// before their authors do the same. To be called after every such entry; calling it again does nothing.
    ///
    /// What a settled snapshot covers stays. Where a void record is in a checkpoint that no settled snapshot covers, the state is taken over
    /// from the active snapshot as soon as that helps: the outcome is blocked by [`Blocked::Base`] then, and what builds on the record is not
    /// written again. Until then this device makes no snapshot.
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

    /// Reads again what more is known of than before. What each of several voids changes is told apart where that may excuse somebody.
    pub(crate) fn reread_due(
        &mut self,
        ctx: &DocContext<'_>,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        for so_far in self.each_void(ctx, self.aside.stored.voids) {
            let then = DocContext {
                authority: &so_far,
                ..*ctx
            };
            self.reread_first(&then, outcome)?;
        }
        self.reread_first(ctx, outcome)
    }

    /// Reads again from the first record on of which more is known than before.
    fn reread_first(
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
        let (before, was_tainted) = (self.aside.stored.voids, self.aside.is_tainted());
        let (voided, tainted) = self.new_voids(ctx);
        if let Some(seq) = voided.into_iter().chain(tainted).min() {
            let count = self.aside.stored.voids.saturating_sub(before);
            // What is void already may be in the state.
            let tells = count == 1 && !was_tainted;
            self.keep_before(ctx, seq, tells)?;
        }
        let avoided = self.content.first_avoided(ctx, self.id);
        match readable.into_iter().chain(voided).chain(avoided).min() {
            Some(from) => self.reread(ctx, from, outcome),
            None => Ok(()),
        }
    }

    /// Position of the first record that was voided since the last call, where that changes something; and of the first of those that are in the checkpoint.
    fn new_voids(&mut self, ctx: &DocContext<'_>) -> (Option<u64>, Option<u64>) {
        let all = || ctx.authority.voided(&self.id);
        let count = all().count();
        let settled = self.settled_to();
        // An objection to the snapshot that had settled what is void opens that again.
        let opened = settled < self.aside.stored.settled;
        if count > 0 && settled != self.aside.stored.settled {
            if opened {
                self.aside.stored.voids = 0;
            }
            self.aside.stored.settled = settled;
            self.rows.meta_dirty = true;
        }
        // Breakage: what was opened before it was voided stays.
        if count <= self.aside.stored.voids || crate::broken("ignore-void") {
            return (None, None);
        }
        let new: BTreeSet<Hash> = all().skip(self.aside.stored.voids).collect();
        self.aside.stored.voids = count;
        self.rows.meta_dirty = true;
        // Of records before the view nothing is known here.
        let is_blind = self.log.base().size > settled && !opened;
        let mut first = None;
        let mut tainted: Option<u64> = None;
        let positions = self.log.positions_of(&new);
        for leaf in new {
            let carriers = self.state.carriers_of(&leaf).map(Some);
            for found in carriers.chain([positions.get(&leaf).copied()]) {
                match found {
                    Some(seq) if seq < settled => {}
                    Some(seq) if seq >= self.content.checkpoint.size => {
                        first = first.into_iter().chain([seq]).min();
                    }
                    None if !is_blind => {}
                    found => tainted = tainted.into_iter().chain([found.unwrap_or(0)]).min(),
                }
            }
        }
        if let Some(seq) = tainted {
            let before = self.aside.stored.tainted.map_or(u64::MAX, |it| it.0);
            self.aside.stored.tainted = Some((seq.min(before), ctx.authority.epoch()));
        }
        (first, tainted)
    }

    /// Size up to which a snapshot says what the log means that another user found right and no weighing objection stands against. It follows from the
    /// log: what this device alone has confirmed settles nothing, since others would read the log otherwise.
    pub(crate) fn settled_to(&self) -> u64 {
        self.state.settled().map_or(0, |info| info.covered.size)
    }

    /// The state has to be taken over from the active snapshot. What this device has written since comes back with the log, and goes on
    /// under a fresh instance.
    pub(crate) fn want_base(&mut self, went: Went, outcome: &mut DeliverOutcome) {
        let before = self.aside.stored.wants_base;
        if before.is_none() {
            self.renew_instance(outcome);
        }
        if before != Some(Went::Overruled) && before != Some(went) {
            self.aside.stored.wants_base = Some(went);
            self.rows.meta_dirty = true;
        }
    }

    /// Whether the own reading gives way to a settled snapshot: the own check cannot be done, or was done and said in the log, and weighs nothing. Before that
    /// others' word moves nobody who holds the log.
    fn gives_way(&self, ctx: &DocContext<'_>, settled: &SnapshotInfo) -> Option<Went> {
        match self.checks.found(&settled.id) {
            Some(Judgement::Match) => None,
            Some(Judgement::Differs(_)) => {
                let has_objected = self.has_objected(ctx, &settled.id);
                has_objected.then_some(Went::Overruled)
            }
            None => (!self.can_check(settled)).then_some(Went::Back),
        }
    }

    /// Asks for the snapshot to take over, where a settled one covers what is unknown or void here, or the one that this state rests on is disputed
    /// and the next says something else.
    pub(crate) fn check_base(&mut self, ctx: &DocContext<'_>, outcome: &mut DeliverOutcome) {
        let confirmed = self.checks.own.confirmed.map_or(0, |info| info.seq);
        let settled = self.state.settled().filter(|info| info.seq > confirmed);
        let settled = settled.copied();
        let overruled = settled.filter(|info| {
            let mut aside = self.content.aside.range(..info.covered.size);
            aside.next().is_some() || self.checks.covers_void(info)
        });
        let overruled = overruled.and_then(|info| self.gives_way(ctx, &info));
        let active = &self.state.active;
        let rests_on = self.checks.rests_on();
        // Who objects makes the next from the own log.
        let next = rests_on.is_some_and(|id| id != active.id) && self.base_is_disputed();
        let healed = next && self.says_otherwise();
        // What a device rests on may hold what was voided since; the settled one was judged by somebody who knew.
        let outdated = self.aside.stored.voids > 0 && !self.is_sure();
        let outdated = outdated && settled.is_some_and(|info| rests_on != Some(info.id));
        let healed = healed || outdated;
        // A snapshot that may hold what is void as well is no help, before somebody has found it right, or one is made by somebody who
        // must have known.
        let cleansed = self.aside.stored.tainted.is_some_and(|(seq, epoch)| {
            let covers = active.covered.size > seq;
            !covers || active.epoch > epoch || self.state.active_is_settled()
        });
        if let Some(went) = overruled.or((healed || cleansed).then_some(Went::Back)) {
            self.want_base(went, outcome);
        }
        if self.aside.wants_base() && outcome.blocked.is_none() {
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
}

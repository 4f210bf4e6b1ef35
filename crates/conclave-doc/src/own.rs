//! Getting own edits into the log.

use std::collections::BTreeSet;

use conclave_crdt::Crdt;
use conclave_proto::codec::Varint;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::record::RecordHeader;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, Hash, Refusal, limits};
use conclave_rules::actions::Action;
use rand_core::CryptoRngCore;
use tls_codec::Size;

use crate::content::{Content, Plain};
use crate::context::{Append, DeliverOutcome, DocContext, RefusedOutcome, Sealer};
use crate::document::Document;
use crate::error::{DocError, Fault, Finding, Suspect};
use crate::incoming::Form;
use crate::light::{Ahead, Fits};
use crate::lost::Whose;
use crate::outbox::{Own, SealWith, header_template, hint};
use crate::seal::DocKeys;
use crate::session::{Fell, Session};
use crate::views::{Views, tell_all};

/// Wait after a refusal that names no time, in milliseconds.
const RETRY_MS: u64 = 2_000;

/// Whether a refusal says that nothing of a frame was taken, and is about this moment: the records are as good as never sent.
fn is_untaken(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::StaleEpoch { .. } | Refusal::SnapshotRequired | Refusal::RateLimited { .. }
    )
}

impl Document {
    /// The author's next clock and the leaf of its last record.
    pub(crate) fn own_chain(&self) -> (u64, Hash) {
        self.state
            .tables
            .chains
            .get(&self.outbox.author)
            .map_or((0, Hash::ZERO), |chain| (chain.next, chain.last))
    }

    /// The next frame of own records, sealed under the current epoch, of at most about `max_bytes`. Call until it gives nothing; write
    /// [`Document::take_changes`] before sending. Nothing is given under another instance than the session's, while own records are yet to be found in the
    /// log, records of an older epoch are unanswered, or the role does not allow it.
    ///
    /// # Errors
    /// [`DocError::MissingRoot`] where the current epoch's root is not held.
    pub fn next_append(
        &mut self,
        ctx: &DocContext<'_>,
        session: &mut Session,
        sealer: Sealer<'_>,
        max_bytes: usize,
    ) -> Result<Option<Append>, DocError> {
        self.collect_edits()?;
        if session.author != self.outbox.author {
            return Ok(None);
        }
        if self.keeps_drafts() {
            // What was to be sealed again stays as well.
            self.outbox.hold(self.outbox.in_flight(session));
        }
        if session.frames() == 0 && self.has_caught_up() {
            self.carry(ctx, Whose::Own)?;
        }
        let epoch = ctx.authority.epoch();
        let chain = self.own_chain();
        let ready = self.is_created()
            && self.incoming.bridge.is_none()
            && !self.rolled_back
            && self.has_caught_up()
            && !self.aside.is_rejoining();
        if !ready || !self.outbox.may_send(session, chain.0, epoch) || epoch < self.epoch_high() {
            return Ok(None);
        }
        let may_update = ctx
            .own_row()
            .is_some_and(|row| Action::WriteUpdate.allowed(row.role));
        if ctx.own_row().is_none() {
            return Ok(None);
        }
        let root = ctx
            .keys
            .root(epoch)
            .ok_or(DocError::MissingRoot { epoch })?;
        let keys = DocKeys::derive(&root, &self.id);
        let template = header_template(self.group, self.id, epoch, self.outbox.author, self.head());
        let Sealer { key, rng } = sealer;
        let with = SealWith {
            keys: &keys,
            signer: key,
            padding_bytes: ctx.authority.padding_bytes(),
        };
        let first = self.outbox.in_flight(session);
        let start = self.ahead(ctx);
        let mut ahead = start;
        let filled = self.fill(
            ctx,
            session,
            (&template, chain),
            (&with, rng),
            &mut ahead,
            (may_update, max_bytes),
        );
        self.go_back(&mut ahead, start);
        let records = filled?;
        if records.is_empty() {
            return Ok(None);
        }
        let first_clock = chain.0.saturating_add(first as u64);
        session.push_frame(first_clock, records.len());
        Ok(Some(Append {
            epoch,
            first_clock,
            records,
        }))
    }

    /// Seals what comes next, as far as it fits into one frame and may cost what it does.
    fn fill(
        &mut self,
        ctx: &DocContext<'_>,
        session: &mut Session,
        (template, chain): (&RecordHeader, (u64, Hash)),
        (with, rng): (&SealWith<'_>, &mut dyn CryptoRngCore),
        ahead: &mut Ahead,
        (may_update, max_bytes): (bool, usize),
    ) -> Result<Vec<AppendedRecord>, DocError> {
        let (mut records, mut bytes) = (Vec::new(), 0usize);
        while records.len() < limits::RECORDS_PER_FRAME
            && self.outbox.next_may_go(session, may_update)
        {
            let next = self.outbox.in_flight(session);
            match self.may_cost(ctx, ahead, next)? {
                Fits::Yes => {}
                fits if self.outbox.carries_at(next).is_some() => {
                    // What does not go on from it need not wait.
                    self.hold_carried(ctx, next, fits);
                    ahead.items_up_to(next);
                    continue;
                }
                _ => break,
            }
            let was_sealed = self.outbox.sealed_at(next).is_some();
            let Some(record) = self.outbox.seal_next(session, template, chain, with, rng) else {
                break;
            };
            let appended = AppendedRecord {
                kind: record.header.body.kind_code(),
                seen_size: Varint(record.header.seen.size),
                seen_hint: hint(&record.header.seen),
                sealed: record.sealed,
            };
            let size = appended.tls_serialized_len();
            if !records.is_empty() && bytes.saturating_add(size) > max_bytes {
                if !was_sealed {
                    // Nobody has it: it can still become a draft.
                    self.outbox.unseal_from(next);
                }
                break;
            }
            bytes = bytes.saturating_add(size);
            records.push(appended);
            self.outbox.mark_sent(session);
        }
        Ok(records)
    }

    /// Takes back what the item at `at` was to carry, which would cost more than there is: for now, or for good.
    fn hold_carried(&mut self, ctx: &DocContext<'_>, at: usize, fits: Fits) {
        let tried = self.tried(ctx);
        match (self.outbox.take_carried(at), fits) {
            (Some(leaf), Fits::Never) => self.lost.never(&leaf),
            (Some(leaf), _) => self.lost.hold(&leaf, tried),
            (None, _) => {}
        }
    }

    /// The service has ordered a frame of own records: `count` of them up to clock `next_clock`, from position `first_seq` on.
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn acked(
        &mut self,
        ctx: &DocContext<'_>,
        session: &mut Session,
        next_clock: u64,
        first_seq: u64,
        count: u64,
    ) -> Result<DeliverOutcome, DocError> {
        let begun = self.note_acked(session, next_clock, first_seq, count);
        self.go_on(ctx, begun)
    }

    /// As [`Document::acked`], up to where it gets long: [`Document::go_on`] does the rest.
    pub fn note_acked(
        &mut self,
        session: &mut Session,
        next_clock: u64,
        first_seq: u64,
        count: u64,
    ) -> DeliverOutcome {
        let mut outcome = DeliverOutcome::default();
        if session.author != self.outbox.author {
            return outcome;
        }
        let first_clock = next_clock.checked_sub(count);
        if !first_clock.is_some_and(|first| session.answered(first, count)) {
            outcome.findings.push(Finding {
                seq: first_seq,
                fault: Fault::Protocol,
                suspect: Suspect::SERVICE,
            });
            return outcome;
        }
        let chain_next = self.own_chain().0;
        for at in 0..count {
            let clock = first_clock.unwrap_or_default().saturating_add(at);
            if clock >= chain_next {
                self.place_own(first_seq.saturating_add(at), &mut outcome);
            }
        }
        outcome
    }

    /// The next own record without a place is at `seq`.
    fn place_own(&mut self, seq: u64, outcome: &mut DeliverOutcome) {
        if seq < self.size() {
            // Something else is there already.
            outcome.findings.push(Finding {
                seq,
                fault: Fault::Fork,
                suspect: Suspect::SERVICE,
            });
        } else {
            self.incoming.insert(seq, Form::Own);
        }
    }

    /// The service has refused a frame of own records, whole.
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn refused(
        &mut self,
        ctx: &DocContext<'_>,
        session: &mut Session,
        first_clock: u64,
        refusal: &Refusal,
    ) -> Result<(RefusedOutcome, DeliverOutcome), DocError> {
        let (what, begun) = self.note_refused(session, first_clock, refusal)?;
        Ok((what, self.go_on(ctx, begun)?))
    }

    /// As [`Document::refused`], up to where it gets long: [`Document::go_on`] does the rest.
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn note_refused(
        &mut self,
        session: &mut Session,
        first_clock: u64,
        refusal: &Refusal,
    ) -> Result<(RefusedOutcome, DeliverOutcome), DocError> {
        let mut outcome = DeliverOutcome::default();
        let next = self.own_chain().0;
        let fell = match session.author == self.outbox.author {
            true => session.refused(first_clock),
            false => Fell::Unknown,
        };
        if fell != Fell::Unknown {
            let keep = usize::try_from(first_clock.saturating_sub(next)).unwrap_or(usize::MAX);
            self.outbox.keep_sent(session, keep);
            if self.keeps_drafts() && is_untaken(refusal) {
                // It has no place, and rests with the other drafts.
                self.outbox.unseal_from(self.outbox.in_flight(session));
            }
        }
        if fell != Fell::First {
            return Ok((RefusedOutcome::Resend, outcome));
        }
        let what = match refusal {
            Refusal::StaleEpoch { current } => {
                self.outbox.min_epoch = self.outbox.min_epoch.max(*current);
                RefusedOutcome::Reseal { epoch: *current }
            }
            Refusal::ClockGap { expected } => {
                self.after_clock_gap(session, *expected, next, &mut outcome)?
            }
            Refusal::AlreadyAccepted { leaf, seq } => {
                let at = (first_clock, *seq);
                self.after_accepted(session, *leaf, at, next, &mut outcome)?
            }
            Refusal::SnapshotRequired => RefusedOutcome::SnapshotNeeded,
            Refusal::RateLimited { retry_after_ms } => RefusedOutcome::RetryLater {
                after_ms: *retry_after_ms,
            },
            Refusal::Storage
            | Refusal::ShuttingDown
            | Refusal::NoChannel
            | Refusal::ProposalPending
            // It collects what it lost: own edits wait here meanwhile.
            | Refusal::Recovering { .. }
            | Refusal::EpochTaken { .. } => RefusedOutcome::RetryLater { after_ms: RETRY_MS },
            // Closed by another life of this device.
            Refusal::BadRecord {
                fault: RecordFault::InstanceClosed,
            } if self.outbox.may_renew() => {
                self.found_behind(&mut outcome)?;
                RefusedOutcome::FreshInstance
            }
            // Another view of the log than the service's, or a place that is taken for good: other clocks help against the second only.
            Refusal::BadRecord { fault }
                if *fault != RecordFault::SeenHead && self.outbox.may_renew() =>
            {
                self.renew_instance(&mut outcome);
                RefusedOutcome::FreshInstance
            }
            other => {
                session.parked = Some(other.clone());
                RefusedOutcome::Parked(other.clone())
            }
        };
        Ok((what, outcome))
    }

    fn after_clock_gap(
        &mut self,
        session: &mut Session,
        expected: u64,
        next: u64,
        outcome: &mut DeliverOutcome,
    ) -> Result<RefusedOutcome, DocError> {
        let sealed = next.saturating_add(self.outbox.len() as u64);
        Ok(if expected < next {
            // The service has forgotten what it had ordered.
            let seq = self.size();
            outcome.findings.push(Finding {
                seq,
                fault: Fault::Rollback,
                suspect: Suspect::SERVICE,
            });
            self.renew_instance(outcome);
            RefusedOutcome::FreshInstance
        } else if expected > sealed {
            self.found_behind(outcome)?;
            RefusedOutcome::FreshInstance
        } else if expected > next
            && self.outbox.in_flight(session)
                < usize::try_from(expected - next).unwrap_or(usize::MAX)
        {
            session.await_clock = expected;
            RefusedOutcome::Refetch { from: self.size() }
        } else {
            RefusedOutcome::Resend
        })
    }

    /// The service has a record of this author at the clock of the one that it refused. Under another seal it may still be the same edit: an
    /// earlier connection's frame that arrived late. So it is looked at before another life is believed.
    fn after_accepted(
        &mut self,
        session: &mut Session,
        leaf: Hash,
        (clock, seq): (u64, u64),
        next: u64,
        outcome: &mut DeliverOutcome,
    ) -> Result<RefusedOutcome, DocError> {
        let at = self.outbox.in_flight(session);
        let as_sealed = self.outbox.sealed_at(at);
        Ok(if clock < next {
            // It has come with the log meanwhile, and was judged.
            RefusedOutcome::Resend
        } else if as_sealed.is_some_and(|record| record.leaf() == leaf) {
            self.outbox.mark_sent(session);
            self.place_own(seq, outcome);
            RefusedOutcome::Resend
        } else if seq >= self.size() {
            session.await_clock = clock.saturating_add(1);
            RefusedOutcome::Refetch { from: self.size() }
        } else {
            // What stands there was judged, and is no record of this author that is known here.
            self.found_behind(outcome)?;
            RefusedOutcome::FreshInstance
        })
    }

    /// Another life of this device has written what this store does not know: this is a restored backup, or a copy. Goes on under a fresh
    /// instance, and never again under the replica id used so far, since the other life may use its next counters. Edits that wait keep
    /// theirs: where the other life had them too they are the same bytes, and are recognised in the log, which therefore comes first.
    pub(crate) fn found_behind(&mut self, outcome: &mut DeliverOutcome) -> Result<(), DocError> {
        self.collect_edits()?;
        let replica = self.fresh.replica(self.content.kind);
        if self.content.crdt.set_replica(replica).is_err() {
            self.rebuild()?;
        }
        self.note_behind(outcome);
        self.renew_instance(outcome);
        Ok(())
    }

    /// Tells that this store was found behind, and holds back what is unsent until the log is read.
    pub(crate) fn note_behind(&mut self, outcome: &mut DeliverOutcome) {
        self.behind = true;
        self.rows.meta_dirty = true;
        outcome.restored = true;
    }

    /// Whether what another life of this device may have written is known.
    fn has_caught_up(&mut self) -> bool {
        if self.behind && self.incoming.target.is_none() {
            self.behind = false;
            self.rows.meta_dirty = true;
        }
        !self.behind
    }

    /// Goes on under a fresh instance with the same edits: nothing was wrong with them, but their place is not free.
    pub(crate) fn renew_instance(&mut self, outcome: &mut DeliverOutcome) {
        let author = Author {
            device: self.outbox.author.device,
            instance: self.fresh.instance(),
        };
        self.outbox.renew(author);
        self.incoming.forget_own();
        outcome.reopen = true;
    }

    /// Own edits cannot stand as they are. Takes them out, and writes what they did to the document again: as a difference, under a fresh
    /// replica id and a fresh instance. `refused` are those of them that have left the outbox.
    pub(crate) fn rewrite_own(
        &mut self,
        refused: Vec<Plain>,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let mut fits = true;
        for update in &refused {
            // Where the document had to be built again, it is not in it.
            if self.content.crdt.apply(&[update.as_slice()]).is_err() {
                fits = false;
                self.rebuild()?;
            }
        }
        let mut base = self.without_own()?;
        let wanted = Views::of(self.content.crdt.as_mut());
        let tells_all = fits && tell_all(base.as_mut(), self.content.crdt.as_mut());
        self.write_again(&wanted, refused, tells_all, outcome)
    }

    /// The document without own edits that wait.
    pub(crate) fn without_own(&mut self) -> Result<Box<dyn Crdt>, DocError> {
        let (size, none) = (self.content.size(), BTreeSet::new());
        let lost: Vec<_> = self.lost.plains().collect();
        Ok(self.content.rebuild(size, &none, &lost, &mut self.fresh)?)
    }

    /// Whether all that the service has shown of the log is here.
    pub(crate) fn is_all_here(&self) -> bool {
        let ready = self.incoming.target.is_none() && self.incoming.is_empty();
        ready && !self.rolled_back && !self.aside.is_rejoining()
    }

    /// Takes own edits out, and edits the document until it shows what is wanted: under a fresh replica id and a fresh instance. Gives the
    /// edits back where that cannot be done, or where the views do not tell everything of them.
    pub(crate) fn write_again(
        &mut self,
        wanted: &Views,
        refused: Vec<Plain>,
        tells_all: bool,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let mut dropped: Vec<_> = refused.into_iter().map(|update| update.0).collect();
        dropped.extend(self.dropped_updates());
        self.outbox.drop_updates();
        self.rebuild()?;
        let mut shown = Views::of(self.content.crdt.as_mut());
        let written = wanted.write_to(self.content.crdt.as_mut());
        let mut updates: Vec<Vec<u8>> = Vec::new();
        let taken = self.content.crdt.take_pending(&mut updates);
        if written.is_ok() && taken.is_ok() {
            self.queue_updates(updates)?;
            shown = Views::of(self.content.crdt.as_mut());
        } else {
            self.rebuild()?;
        }
        if shown != *wanted || !tells_all {
            let lost = self.lost_between(&shown, wanted, dropped, tells_all);
            outcome.lost.push(lost);
        }
        outcome.refused_own = true;
        self.renew_instance(outcome);
        Ok(())
    }

    /// As [`Document::rewrite_own`], where the document has become another one in the meantime: `former` is what the edits were made on. The
    /// difference is taken there, so that nothing that others did since is undone.
    pub(crate) fn rewrite_own_from(
        &mut self,
        former: &mut Content,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let wanted = Views::of(former.crdt.as_mut());
        let none = BTreeSet::new();
        let lost: Vec<_> = self.lost.plains().collect();
        let mut scratch = former.rebuild(former.size(), &none, &lost, &mut self.fresh)?;
        let base = Views::of(scratch.as_mut());
        let tells_all = tell_all(scratch.as_mut(), former.crdt.as_mut());
        let mut updates: Vec<Vec<u8>> = Vec::new();
        let taken = scratch.take_pending(&mut updates);
        let dropped = self.dropped_updates();
        self.outbox.drop_updates();
        let mut stands = taken.is_ok() && Views::of(scratch.as_mut()) == wanted;
        if stands {
            self.queue_updates(updates)?;
        }
        if self.rebuild().is_err() {
            stands = false;
            self.outbox.drop_updates();
            self.rebuild()?;
        }
        if !stands || !tells_all {
            let base = if stands { &wanted } else { &base };
            let lost = self.lost_between(base, &wanted, dropped, tells_all);
            outcome.lost.push(lost);
        }
        outcome.refused_own = true;
        self.renew_instance(outcome);
        Ok(())
    }

    /// Queues a verdict.
    pub(crate) fn queue_verdict(&mut self, payload: Vec<u8>) {
        self.outbox
            .push(Own::Verdict, Plain::from(payload), Vec::new());
    }
}

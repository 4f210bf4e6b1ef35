//! Making snapshots, and judging those of others.

use conclave_proto::record::{Record, RecordBody, SnapshotHeader};
use conclave_proto::{Hash, Head, limits};
use conclave_rules::Authority;
use conclave_rules::actions::Action;
use tls_codec::Size;

use crate::content::{Checkpoint, Plain};
use crate::context::{CheckWanted, DeliverOutcome, DocContext, PendingVerdict, Sealer};
use crate::document::Document;
use crate::error::DocError;
use crate::incoming::Form;
use crate::outbox::header_template;
use crate::payload::{DiffersWhy, Judgement, SnapshotPayload, VerdictPayload};
use crate::seal::{DocKeys, open, padded_len, seal};
use crate::state::LogState;

/// Encoded bytes of records since the last checkpoint after which another is made, at least; and at least as many as the state in it has. So
/// what checkpoints write in all is in proportion to the records.
const CHECKPOINT_BYTES: u64 = 512 * 1024;
/// A checkpoint may wait until so many times its bound for a snapshot to be checked against the records before it.
const CHECK_PATIENCE: u64 = 4;

/// A snapshot that lacks nothing but its seal.
#[derive(Debug)]
pub struct PreparedSnapshot {
    header: SnapshotHeader,
    payload: Plain,
}

impl Document {
    pub(crate) fn covers_more(&self) -> bool {
        self.is_created()
            && self.incoming.is_empty()
            && !self.rolled_back
            && self.size() > self.state.active.seq
    }

    /// A snapshot of everything in the log, under the current epoch: for `PutSnapshot`, or for `CreateDocument` while the document's first is
    /// not in the log. Kept durably until it is accepted or refused. Where a dispute stands, an admin's replaces the disputed one.
    ///
    /// # Errors
    /// [`DocError::Role`], [`DocError::NotNow`], [`DocError::SetAside`], [`DocError::Disputed`], [`DocError::TooLarge`], [`DocError::MissingRoot`],
    /// [`DocError::Crdt`].
    pub fn make_snapshot(
        &mut self,
        ctx: &DocContext<'_>,
        sealer: Sealer<'_>,
    ) -> Result<Record, DocError> {
        let prepared = self.prepare_snapshot(ctx)?;
        self.seal_snapshot(ctx, prepared, sealer)
    }

    /// Everything of a snapshot but its seal: what takes time in proportion to the document, and no key of this device.
    ///
    /// # Errors
    /// As [`Document::make_snapshot`].
    pub fn prepare_snapshot(&mut self, ctx: &DocContext<'_>) -> Result<PreparedSnapshot, DocError> {
        self.collect_edits()?;
        self.may_snapshot(ctx)?;
        // Breakage: a snapshot may cover what its author cannot read.
        let aside = self.content.aside.first();
        if let Some(seq) = aside.filter(|_| !crate::broken("cover-aside")) {
            return Err(DocError::SetAside { seq: *seq });
        }
        if self.aside.is_tainted() {
            return Err(DocError::NotNow);
        }
        let active = &self.state.active;
        let (parent, chain_proof) = if !self.is_created() {
            (Hash::ZERO, Hash::ZERO)
        } else if self.is_disputed() {
            (active.parent, active.chain_proof)
        } else {
            let active = active.as_active(self.kind());
            (active.id, active.header.successor_proof(&active.id))
        };
        let crdt = self.clean_state()?;
        let payload = SnapshotPayload {
            frontier: self.log.frontier().clone(),
            tables: self.state.tables.clone(),
            state: crdt.0,
        };
        let header = SnapshotHeader {
            parent,
            chain_proof,
            covered: self.head(),
            crdt: self.kind().code(),
        };
        Ok(PreparedSnapshot {
            header,
            payload: Plain::from(payload.to_bytes()),
        })
    }

    /// Whether this device may write a snapshot now, and there is something to cover.
    fn may_snapshot(&self, ctx: &DocContext<'_>) -> Result<(), DocError> {
        let role = ctx.own_row().map(|row| row.role).ok_or(DocError::Role)?;
        if !Action::WriteSnapshot.allowed(role) {
            return Err(DocError::Role);
        }
        if self.is_disputed() && !Action::ReplaceSnapshot.allowed(role) {
            return Err(DocError::Disputed);
        }
        if self.is_created() && (!self.covers_more() || ctx.authority.epoch() < self.epoch_high()) {
            return Err(DocError::NotNow);
        }
        Ok(())
    }

    /// Seals what was prepared, under the epoch that the group is in by now.
    ///
    /// # Errors
    /// As [`Document::make_snapshot`]; [`DocError::NotNow`] too where the document has changed since.
    pub fn seal_snapshot(
        &mut self,
        ctx: &DocContext<'_>,
        prepared: PreparedSnapshot,
        sealer: Sealer<'_>,
    ) -> Result<Record, DocError> {
        self.may_snapshot(ctx)?;
        if prepared.header.covered != self.head() {
            return Err(DocError::NotNow);
        }
        let record = self.seal_prepared(ctx, &prepared, sealer)?;
        if !self.is_created() {
            self.state.active.id = record.leaf();
            self.state.active.epoch = record.header.epoch;
            self.state.active.bytes = record.tls_serialized_len() as u64;
            self.state = LogState::new(self.state.tables.clone(), self.state.active);
            self.content.checkpoint.state = self.state.clone();
            self.rows.checkpoint_dirty = true;
        }
        self.snapshot = Some(record.clone());
        self.rows.snapshot_dirty = true;
        Ok(record)
    }

    fn seal_prepared(
        &self,
        ctx: &DocContext<'_>,
        prepared: &PreparedSnapshot,
        sealer: Sealer<'_>,
    ) -> Result<Record, DocError> {
        let epoch = ctx.authority.epoch();
        let root = ctx
            .keys
            .root(epoch)
            .ok_or(DocError::MissingRoot { epoch })?;
        let keys = DocKeys::derive(&root, &self.id);
        let bytes = prepared.payload.as_slice();
        let padding = ctx.authority.padding_bytes();
        if padded_len(bytes.len(), padding) > limits::SNAPSHOT_BYTES {
            return Err(DocError::TooLarge {
                max: limits::SNAPSHOT_BYTES,
            });
        }
        let template = header_template(self.group, self.id, epoch, self.outbox.author, self.head());
        let header = conclave_proto::RecordHeader {
            body: RecordBody::Snapshot(prepared.header),
            ..template
        };
        let Sealer { key, rng } = sealer;
        Ok(seal(&header, bytes, &keys, key, padding, rng))
    }

    /// State of the CRDT after everything in the log, without own edits that have no place there.
    fn clean_state(&mut self) -> Result<Plain, DocError> {
        let state = if !self.outbox.has_updates() && self.lost.is_empty() {
            self.content.crdt.snapshot()?
        } else {
            self.content
                .rebuild(
                    self.content.size(),
                    &Default::default(),
                    &[],
                    &mut self.fresh,
                )?
                .snapshot()?
        };
        Ok(Plain::from(state))
    }

    /// The own snapshot that is on its way.
    #[must_use]
    pub fn pending_snapshot(&self) -> Option<&Record> {
        self.snapshot.as_ref()
    }

    /// The service has ordered the own snapshot at `seq`.
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn snapshot_accepted(
        &mut self,
        ctx: &DocContext<'_>,
        seq: u64,
    ) -> Result<DeliverOutcome, DocError> {
        let mut outcome = DeliverOutcome::default();
        if let Some(record) = self.snapshot.clone()
            && seq >= self.size()
        {
            self.incoming.insert(
                seq,
                Form::Whole {
                    record,
                    proof: Vec::new(),
                },
            );
        }
        self.advance(ctx, &mut outcome)?;
        Ok(outcome)
    }

    /// The service has refused the own snapshot: another was faster, or the epoch has changed. Make another where one is still due.
    pub fn snapshot_refused(&mut self) {
        if self.is_created() {
            self.snapshot = None;
            self.rows.snapshot_dirty = true;
        }
    }

    /// Keeps a snapshot that has its place, if it may have to be checked.
    pub(crate) fn keep_for_check(&mut self, ctx: &DocContext<'_>, record: &Record) {
        if self.snapshot.as_ref().is_some_and(|own| own == record) {
            self.snapshot = None;
            self.rows.snapshot_dirty = true;
        }
        let own = record.header.author.device == ctx.device;
        self.checks.sealed = (!own || ctx.one_user()).then(|| record.clone());
    }

    /// The active snapshot, where this device should check it: it can, it has not, and nobody else has found it right.
    #[must_use]
    pub fn check_wanted(&self, authority: &dyn Authority) -> Option<CheckWanted> {
        let active = &self.state.active;
        let epoch = authority.epoch();
        let own = authority.row(&self.outbox.author.device, epoch)?;
        let judges = own.user != active.user || authority.is_of_one_user(epoch);
        let fresh = self.checks.done.is_none_or(|(id, ..)| id != active.id);
        let able = self.size() > active.seq
            && self.checks.rests_on.is_none()
            && !self.aside.is_tainted()
            && self.content.checkpoint.size <= active.covered.size
            // What it holds of a record set aside cannot be told from here.
            && self.content.aside.range(..active.covered.size).next().is_none();
        let wanted =
            judges && fresh && able && !self.state.active_is_matched() && !self.is_disputed();
        let have = self
            .checks
            .sealed
            .as_ref()
            .is_some_and(|record| record.leaf() == active.id);
        wanted.then_some(CheckWanted {
            seq: active.seq,
            have,
        })
    }

    /// Checks the active snapshot against this device's own log: loads both in scratch documents and compares what they hold. Takes time
    /// linear in the document: for when the device is idle. `None` where [`Document::check_wanted`] does not have it.
    ///
    /// # Errors
    /// [`DocError::MissingRoot`], and [`DocError::Crdt`] when the own state cannot be built.
    pub fn check_snapshot(&mut self, ctx: &DocContext<'_>) -> Result<Option<Judgement>, DocError> {
        if !self
            .check_wanted(ctx.authority)
            .is_some_and(|wanted| wanted.have)
        {
            return Ok(None);
        }
        let Some(record) = self.checks.sealed.clone() else {
            return Ok(None);
        };
        let judgement = match self.compare_snapshot(ctx, &record)? {
            Ok(()) => Judgement::Match,
            Err(why) => Judgement::Differs(why),
        };
        let id = self.state.active.id;
        let alone = ctx.one_user() && record.header.author.device == ctx.device;
        if alone && judgement == Judgement::Match {
            self.state.set_matched(&id);
        }
        self.checks.done = Some((id, judgement, alone && judgement == Judgement::Match));
        self.checks.sealed = None;
        self.rows.meta_dirty = true;
        self.maintain(ctx)?;
        Ok(Some(judgement))
    }

    fn compare_snapshot(
        &mut self,
        ctx: &DocContext<'_>,
        record: &Record,
    ) -> Result<Result<(), DiffersWhy>, DocError> {
        let covered = self.state.active.covered;
        let epoch = record.header.epoch;
        let root = ctx
            .keys
            .root(epoch)
            .ok_or(DocError::MissingRoot { epoch })?;
        let payload = open(record, &DocKeys::derive(&root, &self.id)).ok();
        let Some(payload) = payload.and_then(|bytes| SnapshotPayload::from_bytes(&bytes).ok())
        else {
            return Ok(Err(DiffersWhy::Unreadable));
        };
        let tables = self.content.state_at(covered.size).tables;
        if payload.frontier.head() != covered || payload.tables != tables {
            return Ok(Err(DiffersWhy::Tables));
        }
        let kind = self.kind();
        let digest = conclave_crdt::load(kind, &payload.state, self.fresh.replica(kind))
            .and_then(|mut scratch| scratch.content_digest());
        let Ok(digest) = digest else {
            return Ok(Err(DiffersWhy::Unloadable));
        };
        let mut own =
            self.content
                .rebuild(covered.size, &Default::default(), &[], &mut self.fresh)?;
        Ok(if own.content_digest()? == digest {
            Ok(())
        } else {
            Err(DiffersWhy::Content)
        })
    }

    /// The verdict that this device should write, after waiting a random time: a `Match` only if no other user's is there yet.
    #[must_use]
    pub fn pending_verdict(&self) -> Option<PendingVerdict> {
        let (snapshot, judgement, written) = self.checks.done?;
        let active = &self.state.active;
        let needed = judgement != Judgement::Match || !self.state.active_is_matched();
        (snapshot == active.id && !written && needed).then_some(PendingVerdict {
            snapshot,
            seq: active.seq,
            judgement,
        })
    }

    /// Queues the pending verdict; [`Document::next_append`] sends it. False if there is none.
    pub fn write_verdict(&mut self) -> bool {
        let Some(pending) = self.pending_verdict() else {
            return false;
        };
        self.queue_verdict(VerdictPayload::new(pending.snapshot, pending.judgement).to_bytes());
        self.checks.done = Some((pending.snapshot, pending.judgement, true));
        self.rows.meta_dirty = true;
        true
    }

    /// Housekeeping after the log has grown.
    pub(crate) fn maintain(&mut self, ctx: &DocContext<'_>) -> Result<(), DocError> {
        let matched = self.state.matched.map(|info| info.id);
        if self.checks.rests_on.is_some() && self.checks.rests_on == matched {
            self.checks.rests_on = None;
            self.rows.meta_dirty = true;
            self.claims_are_true();
        }
        self.note_sure(ctx.device);
        let active = self.state.active.id;
        if self.state.active_is_matched()
            || self
                .checks
                .sealed
                .as_ref()
                .is_some_and(|kept| kept.leaf() != active)
        {
            self.checks.sealed = None;
        }
        if self.checkpoint_due(ctx) {
            let crdt = self.clean_state()?;
            self.end_era();
            let gone = self.log.rebase(self.state.active.covered.size);
            self.rows.below.leaves.extend(gone);
            self.content.set_checkpoint(self.state.clone(), crdt);
            self.begin_era();
        }
        Ok(())
    }

    /// Whether a checkpoint may be written once so many more bytes of records are here.
    pub(crate) fn is_checkpoint_near(&self, more_bytes: usize) -> bool {
        let bound = CHECKPOINT_BYTES.max(self.content.checkpoint.crdt.len() as u64);
        self.content.tail_bytes.saturating_add(more_bytes as u64) >= bound
    }

    fn checkpoint_due(&self, ctx: &DocContext<'_>) -> bool {
        let content = &self.content;
        if content.tail.is_empty() || !content.aside.is_empty() {
            return false;
        }
        let bound = CHECKPOINT_BYTES.max(content.checkpoint.crdt.len() as u64);
        let patience = if self.check_wanted(ctx.authority).is_some() {
            CHECK_PATIENCE
        } else {
            1
        };
        if content.tail_bytes >= bound.saturating_mul(patience) {
            return true;
        }
        // Roots that only the stored tail still needs are let go.
        let needed = self.state.roots_needed(self.size());
        patience == 1 && content.tail_epochs().any(|epoch| !needed.needs(epoch))
    }

    /// Everything so far as a checkpoint that a new document begins with.
    pub(crate) fn first_checkpoint(
        payload: SnapshotPayload,
        state: LogState,
    ) -> (Head, Checkpoint) {
        let head = payload.frontier.head();
        (
            head,
            Checkpoint {
                size: head.size,
                state,
                crdt: Plain::from(payload.state),
            },
        )
    }
}

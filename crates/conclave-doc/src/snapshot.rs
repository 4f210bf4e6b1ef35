//! Making snapshots.

use conclave_proto::record::{Record, RecordBody, SnapshotHeader};
use conclave_proto::{Hash, Head, limits};
use conclave_rules::actions::Action;
use tls_codec::Size;

use crate::claims::Claims;
use crate::content::{Checkpoint, Plain};
use crate::context::{DeliverOutcome, DocContext, Sealer};
use crate::document::Document;
use crate::error::DocError;
use crate::incoming::Form;
use crate::outbox::header_template;
use crate::payload::SnapshotPayload;
use crate::seal::{DocKeys, padded_len, seal};
use crate::state::LogState;

/// Encoded bytes of records since the last checkpoint after which another is made, at least; and at least as many as the state in it has. So
/// what checkpoints write in all is in proportion to the records.
const CHECKPOINT_BYTES: u64 = 512 * 1024;
/// The same while more of the log is on its way that the service has announced: a long log is taken in with few checkpoints, of which each takes as
/// long as the document is large. Until the next one the records are in memory.
const CATCH_UP_BYTES: u64 = 16 * 1024 * 1024;
/// A checkpoint may wait until so many times its bound for a snapshot to be checked against the records before it. After that, what there is to
/// compare it with is kept.
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
    /// not in the log. Kept durably until it is accepted or refused. Its parent says after which it comes; what is in it comes from this device's own log, so
    /// that the next after a false one is right again.
    ///
    /// # Errors
    /// [`DocError::Role`], [`DocError::NotNow`], [`DocError::SetAside`], [`DocError::TooLarge`], [`DocError::MissingRoot`],
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
        let (parent, chain_proof) = if self.is_created() {
            let active = self.state.active.as_active(self.kind());
            (active.id, active.header.successor_proof(&active.id))
        } else {
            (Hash::ZERO, Hash::ZERO)
        };
        let crdt = self.clean_state()?;
        let payload = SnapshotPayload {
            frontier: self.log.frontier().clone(),
            tables: self.state.tables.clone(),
            claims: self.claims_to_tell(ctx),
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

    /// Which records brought which operations, where the group keeps that and this device knows all of it. What the first snapshot holds stands at its
    /// own position.
    fn claims_to_tell(&self, ctx: &DocContext<'_>) -> Option<Claims> {
        let claims = self.state.claims.as_ref()?.whole()?;
        let tells = self.is_created() && ctx.authority.keeps_attribution();
        tells.then(|| claims.clone())
    }

    /// Whether this device may write a snapshot now, and there is something to cover.
    fn may_snapshot(&self, ctx: &DocContext<'_>) -> Result<(), DocError> {
        let role = ctx.own_row().map(|row| row.role).ok_or(DocError::Role)?;
        if !Action::WriteSnapshot.allowed(role) {
            return Err(DocError::Role);
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
            let tables = self.state.tables.clone();
            self.state = LogState::new(self.kind(), tables, None, self.state.active);
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

    /// Housekeeping after the log has grown.
    pub(crate) fn maintain(&mut self, ctx: &DocContext<'_>) -> Result<(), DocError> {
        if !self.checks.ground.is_log() && self.is_sure() {
            self.claims_are_true();
        }
        self.note_sure();
        self.forget_checks();
        let is_over = |kept: &Record| {
            let is_wanted = self.check_wanted(ctx).is_some_and(|it| it.have);
            !self.is_unchecked(&kept.leaf()) && !is_wanted
        };
        if self.checks.sealed.as_ref().is_some_and(is_over) {
            self.checks.sealed = None;
        }
        if self.checkpoint_due(ctx) {
            self.mark_unchecked()?;
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
        self.content.tail_bytes.saturating_add(more_bytes as u64) >= self.checkpoint_bytes()
    }

    fn checkpoint_bytes(&self) -> u64 {
        let least = match self.incoming.target {
            Some(_) => CATCH_UP_BYTES,
            None => CHECKPOINT_BYTES,
        };
        least.max(self.content.checkpoint.crdt.len() as u64)
    }

    fn checkpoint_due(&self, ctx: &DocContext<'_>) -> bool {
        let content = &self.content;
        if content.tail.is_empty() || !content.aside.is_empty() {
            return false;
        }
        let bound = self.checkpoint_bytes();
        let patience = if self.may_soon_check(ctx) {
            CHECK_PATIENCE
        } else {
            1
        };
        if content.tail_bytes >= bound.saturating_mul(patience) {
            return true;
        }
        // Roots that only the stored tail still needs are let go.
        let needed = self.needed_by_log();
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

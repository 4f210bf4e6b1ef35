//! The document: its parts, and what can be read off it.

use conclave_crdt::{Crdt, CrdtKind, ReplicaId};
use conclave_proto::codec::encode;
use conclave_proto::frame::DeliveredRecord;
use conclave_proto::record::Record;
use conclave_proto::{Author, DocumentId, GroupId, Hash, Head, InstanceId, UserId, limits};

use crate::aside::Aside;
use crate::charge::{building_us, judging_us};
use crate::checks::Checks;
use crate::content::{Content, Fresh, Plain};
use crate::context::{Cost, DeliverOutcome, DocContext, EditFn};
use crate::drafts::DRAFT_BYTES;
use crate::error::{DocError, Fault, Finding, Suspect};
use crate::incoming::Incoming;
use crate::light::Light;
use crate::log::LogView;
use crate::lost::LostUpdates;
use crate::outbox::Outbox;
use crate::payload::Account;
use crate::seal::padded_len;
use crate::settle::RUN_RECORDS;
use crate::state::{LogState, News};
use crate::store::RowTracker;
use crate::watch::{At, RecordAt, Watch};

/// One document of a group, as one device sees it: the log, the CRDT, and what this device has yet to get into the log.
///
/// Pure: what a call changes in the store is collected by [`Document::take_changes`].
pub struct Document {
    pub(crate) group: GroupId,
    pub(crate) id: DocumentId,
    pub(crate) log: LogView,
    pub(crate) state: LogState,
    pub(crate) content: Content,
    pub(crate) incoming: Incoming,
    pub(crate) outbox: Outbox,
    /// Updates that the service's log has lost.
    pub(crate) lost: LostUpdates,
    /// Rows that were written before count no longer.
    pub(crate) anew: bool,
    pub(crate) checks: Checks,
    /// Own snapshot on its way.
    pub(crate) snapshot: Option<Record>,
    pub(crate) rows: RowTracker,
    pub(crate) fresh: Fresh,
    /// Last finding about a record that holds up the log, so that it is told once.
    pub(crate) reported: Option<(u64, Fault)>,
    /// Records that are still to come are of this epoch or a later one, as far as the service is honest.
    pub(crate) caught_up_epoch: u64,
    /// The service has shown a log shorter than this one: nothing is sent.
    pub(crate) rolled_back: bool,
    /// Found behind the service: nothing is sent before the log is as long as the service says, since own edits may be in it already.
    pub(crate) behind: bool,
    /// How the first of the own edits that are still to be sent stands.
    pub(crate) light: Light,
    /// Records set aside, voids handled, and whether a snapshot has to be taken over for them.
    pub(crate) aside: Aside,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Document({:?}, {:?}, {} unsent)",
            self.id,
            self.head(),
            self.outbox.len()
        )
    }
}

impl Document {
    /// The document's id.
    #[must_use]
    pub fn id(&self) -> DocumentId {
        self.id
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Its CRDT kind.
    #[must_use]
    pub fn kind(&self) -> CrdtKind {
        self.content.kind
    }

    /// The instance under which this device writes now.
    #[must_use]
    pub fn instance(&self) -> InstanceId {
        self.outbox.author.instance
    }

    /// Head of the log, as far as it was judged.
    #[must_use]
    pub fn head(&self) -> Head {
        self.log.head()
    }

    /// Number of records judged.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// Root of the first `size` records; none past the end, and below what is known of the log.
    #[must_use]
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        self.log.head_at(size).map(|head| head.root)
    }

    /// Proof that the log of `to` records begins with that of `from`; none past the end, and below what is known of the log.
    #[must_use]
    pub fn consistency(&self, from: u64, to: u64) -> Option<Vec<Hash>> {
        self.log.consistency(from, to)
    }

    /// Whether the document's first snapshot is in the log.
    #[must_use]
    pub fn is_created(&self) -> bool {
        self.size() > 0
    }

    /// Highest epoch of any record so far.
    #[must_use]
    pub fn epoch_high(&self) -> u64 {
        self.state.tables.epoch_high
    }

    /// Whether own edits or verdicts, or what the log has lost, have no place in the log yet.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.has_unsent_to_send() || !self.outbox.drafts.is_empty()
    }

    /// How many own records have no place in the log yet, drafts included.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.outbox.len().saturating_add(self.outbox.drafts.len())
    }

    /// Epoch of the active snapshot.
    #[must_use]
    pub fn snapshot_epoch(&self) -> u64 {
        self.state.active.epoch
    }

    /// Id and position of the active snapshot.
    #[must_use]
    pub fn active_snapshot(&self) -> (Hash, u64) {
        (self.state.active.id, self.state.active.seq)
    }

    /// The service has shown `head` as the document's when the group was at `epoch`, or later: with `GetStatus`, for documents that are not
    /// open. If that is the own head, records that are still to come are of no earlier epoch.
    pub fn confirm_head(&mut self, head: &Head, epoch: u64) {
        if *head == self.head() && epoch > self.caught_up_epoch {
            self.caught_up_epoch = epoch;
            self.rows.meta_dirty = true;
        }
    }

    /// Whether own records that wait stand in an unbroken chain: for tests, after each step.
    #[doc(hidden)]
    #[must_use]
    pub fn outbox_is_contiguous(&self) -> bool {
        self.outbox.is_contiguous(self.own_chain().0)
    }

    /// Whether the state is being taken over from a snapshot, and the log is shorter meanwhile: for tests, after each step.
    #[doc(hidden)]
    #[must_use]
    pub fn is_going_over(&self) -> bool {
        self.aside.is_rejoining()
    }

    /// Whether this log goes on from a head, as far as own leaves reach: for tests, after each step.
    #[doc(hidden)]
    #[must_use]
    pub fn goes_on_from(&self, head: &Head) -> bool {
        head.size <= self.size() && !self.contradicts(head)
    }

    /// The document's CRDT, for reading.
    pub fn crdt(&mut self) -> &mut dyn Crdt {
        self.content.crdt.as_mut()
    }

    /// The device that owns a replica id, by the log.
    #[must_use]
    pub fn owner_of(&self, replica: &ReplicaId) -> Option<conclave_proto::DeviceId> {
        self.state
            .tables
            .owners
            .get(replica)
            .map(|owner| owner.device)
    }

    /// What a user's updates have cost, and how much of the document they are, by the log.
    #[must_use]
    pub fn account(&self, user: &UserId) -> Account {
        self.state.tables.account(user)
    }

    /// Edits the document. The edit is visible at once, and durable once [`Document::take_changes`] is written. All or nothing: after an
    /// error the document is as before. Gives whether there is something to send.
    ///
    /// # Errors
    /// [`DocError::Crdt`] when `edit` or the engine refuses, [`DocError::TooLarge`] when an update does not fit into a record,
    /// [`DocError::DraftsFull`] when there would be more drafts than are kept.
    pub fn edit(&mut self, edit: EditFn<'_>) -> Result<bool, DocError> {
        self.collect_edits()?;
        let edited = edit(self.content.crdt.as_mut());
        let mut updates = Vec::new();
        let taken = self.content.crdt.take_pending(&mut updates);
        let outcome = match (edited, taken) {
            (Ok(()), Ok(())) => self
                .check_drafts(&updates)
                .and_then(|()| self.queue_updates(updates)),
            (Err(error), Ok(())) if updates.is_empty() => return Err(error.into()),
            (Err(error), _) | (Ok(()), Err(error)) => Err(error.into()),
        };
        if outcome.is_err() {
            self.rebuild()?;
        }
        outcome
    }

    /// Whether there is room for these among the drafts, where they would be some.
    fn check_drafts(&self, updates: &[Vec<u8>]) -> Result<(), DocError> {
        let more: usize = updates.iter().map(Vec::len).sum();
        let bytes = self.outbox.drafts.bytes().saturating_add(more);
        if more > 0 && self.outbox.drafts.are_made() && bytes > DRAFT_BYTES {
            return Err(DocError::DraftsFull);
        }
        Ok(())
    }

    /// Queues what was written through [`Document::crdt`].
    pub(crate) fn collect_edits(&mut self) -> Result<(), DocError> {
        let mut updates = Vec::new();
        match self.content.crdt.take_pending(&mut updates) {
            Ok(()) => self.queue_updates(updates).map(|_| ()),
            Err(_) => self.rebuild(),
        }
    }

    /// Puts updates of this replica into the outbox, all or none.
    pub(crate) fn queue_updates(&mut self, updates: Vec<Vec<u8>>) -> Result<bool, DocError> {
        let mut items = Vec::with_capacity(updates.len());
        for update in updates {
            let update = Plain::from(update);
            // The policy's padding can change before the update is sealed; the largest leaves room for any.
            if padded_len(update.len(), 1) > limits::UPDATE_BYTES {
                return Err(DocError::TooLarge {
                    max: limits::UPDATE_BYTES,
                });
            }
            let ranges = self.content.crdt.inspect(update.as_slice())?.info.ranges;
            let mut replicas: Vec<ReplicaId> =
                ranges.into_iter().map(|range| range.replica).collect();
            replicas.dedup();
            items.push((update, replicas));
        }
        let any = !items.is_empty();
        for (update, replicas) in items {
            self.outbox.push_update(update, replicas);
        }
        Ok(any)
    }

    /// Builds the CRDT again from checkpoint, log, what the log has lost, and outbox.
    pub(crate) fn rebuild(&mut self) -> Result<(), DocError> {
        let lost = self.lost.plains();
        let own: Vec<_> = lost.chain(self.outbox.updates()).collect();
        let none = std::collections::BTreeSet::new();
        self.content.crdt =
            self.content
                .rebuild(self.content.size(), &none, &own, &mut self.fresh)?;
        Ok(())
    }

    /// Another author writes in this document: gets the next number on this connection.
    pub fn new_author(&mut self, author: Author) {
        self.incoming.new_author(author);
    }

    /// Takes records from a `Deliver` frame or a `Records` answer; applies what can be applied, in log order.
    ///
    /// # Errors
    /// [`DocError::Crdt`] when the CRDT cannot be built again; drop the document and load it from its rows.
    pub fn deliver(
        &mut self,
        ctx: &DocContext<'_>,
        first_seq: u64,
        records: Vec<DeliveredRecord>,
    ) -> Result<DeliverOutcome, DocError> {
        let mut outcome = DeliverOutcome::default();
        for (at, record) in (0u64..).zip(records) {
            let Some(seq) = first_seq.checked_add(at) else {
                break;
            };
            if self.incoming.bridge.is_none() && seq < self.size() {
                self.compare_again(seq, record, &mut outcome);
                continue;
            }
            let form = self.incoming.resolve(seq, record);
            match &mut self.incoming.bridge {
                Some(bridge) if seq < bridge.info.covered.size => bridge.take(seq, &form),
                _ => self.incoming.insert(seq, form),
            }
        }
        self.cross_bridge(&mut outcome)?;
        if self.incoming.gathers_on(self.size(), RUN_RECORDS) {
            return Ok(outcome);
        }
        self.advance(ctx, &mut outcome)?;
        self.incoming.gathers &= self.incoming.target.is_some();
        Ok(outcome)
    }

    /// What the service has more than this device when the document is opened next is taken in together, in as few engine calls as it can be: after a
    /// pause it may be much, and each call takes as long as the document is large.
    pub fn gather(&mut self) {
        self.incoming.gathers = true;
    }

    /// Goes on after something arrived that application waited for: a commit, a root.
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn retry(&mut self, ctx: &DocContext<'_>) -> Result<DeliverOutcome, DocError> {
        self.go_on(ctx, DeliverOutcome::default())
    }

    /// The long rest of a call that was only begun; `begun` is what that gave.
    ///
    /// # Errors
    /// As [`Document::deliver`].
    pub fn go_on(
        &mut self,
        ctx: &DocContext<'_>,
        begun: DeliverOutcome,
    ) -> Result<DeliverOutcome, DocError> {
        let mut outcome = begun;
        self.advance(ctx, &mut outcome)?;
        Ok(outcome)
    }

    /// What waits to be judged and applied, at most, and what comes with it.
    #[must_use]
    pub fn cost_of_waiting(&self) -> Cost {
        let (records, bytes) = self.incoming.waiting();
        let mut cost = Cost {
            records,
            bytes,
            engine_us: 0,
        };
        if self.is_checkpoint_near(bytes) || !self.content.aside.is_empty() {
            cost = cost.and(self.cost_of_content());
        }
        cost
    }

    /// From now on `watch` is told where work on this document is.
    pub fn set_watch(&mut self, watch: Watch) {
        self.content.watch = watch;
    }

    /// Whether this document is past where work on it was once.
    #[must_use]
    pub fn has_passed(&self, at: &At) -> bool {
        let is_past = match at {
            At::Elsewhere | At::Stored => true,
            At::Records { last, .. } => self.size() > *last,
            At::Record(record) => self.size() > record.seq,
            At::Snapshot { seq, .. } => {
                let mut snapshots = self.remembered();
                !snapshots.any(|it| it.info.seq == *seq && self.can_look(&it.info))
            }
        };
        is_past && self.content.is_whole()
    }

    /// The change at a position of the log, where it is not part of the checkpoint.
    #[must_use]
    pub fn record_at(&self, seq: u64) -> Option<RecordAt> {
        let entry = self.content.entry(seq)?;
        let is_change = matches!(entry.effect.news, News::Update | News::Costly | News::Aside);
        let author = entry.effect.link.filter(|_| is_change);
        author.map(|_| entry.place(seq, 0))
    }

    /// Whether what waits reaches the CRDT engine when it goes on, or is counted from the beginning: how long that takes its length does not tell.
    #[must_use]
    pub fn is_engine_due(&self) -> bool {
        let waits = !self.incoming.is_empty();
        self.incoming.is_of_others()
            || !self.content.aside.is_empty()
            || (waits && self.content.meter.is_none())
    }

    /// What the whole content takes, for calls that go through all of it.
    #[must_use]
    pub fn cost_of_content(&self) -> Cost {
        let tail = usize::try_from(self.content.tail_bytes).unwrap_or(usize::MAX);
        let stored = self.content.checkpoint.crdt.len().saturating_add(tail);
        Cost {
            records: self.content.tail.len().saturating_add(self.pending_count()),
            bytes: stored.saturating_add(self.outbox.bytes()),
            engine_us: building_us(self.kind(), self.state.tables.ops),
        }
    }

    /// The same work, with what an engine may take for so many records: no more than one update may cost each, nor than the users of so many devices can
    /// have saved up.
    #[must_use]
    pub fn with_judging(&self, cost: Cost, devices: usize) -> Cost {
        let engine_us = judging_us(self.kind(), cost.records as u64, devices as u64);
        cost.and(Cost {
            engine_us,
            ..Cost::default()
        })
    }

    /// A record for a position that was judged already: the same again, or the service shows two logs.
    fn compare_again(&mut self, seq: u64, record: DeliveredRecord, outcome: &mut DeliverOutcome) {
        // What lies before the view of the log is known of snapshots that wait for a look.
        let known = self.log.leaf_at(seq);
        let Some(known) = known.or_else(|| self.remembered_at(seq)) else {
            return;
        };
        let leaf = match record {
            DeliveredRecord::Leaf(leaf) => {
                self.is_gone(&leaf);
                Some(leaf)
            }
            DeliveredRecord::Whole { record, .. } => {
                let leaf = record.leaf();
                let is_active = leaf == self.state.active.id;
                if leaf == known && is_active && !self.rows.has_snapshot(seq) {
                    self.keep_snapshot(seq, encode(&record));
                }
                if leaf == known && self.is_of_use(&leaf) {
                    self.checks.sealed = Some(record);
                }
                Some(leaf)
            }
            // Without its place in the author's chain an elided record has no leaf; it was judged when it came first.
            DeliveredRecord::Update(_)
            | DeliveredRecord::Verdict(_)
            | DeliveredRecord::Carried(_) => None,
        };
        if leaf.is_some_and(|leaf| leaf != known) {
            outcome.findings.push(Finding {
                seq,
                fault: Fault::Fork,
                suspect: Suspect::SERVICE,
            });
        }
    }
}

//! Beginning a document, opening one from a snapshot, and finding one's place again after a reconnect.

use conclave_crdt::cost::Meter;
use conclave_crdt::{CrdtError, CrdtKind};
use conclave_proto::codec::encode;
use conclave_proto::frame::{BaseSnapshot, OpenedDocument};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{RECORD_LABEL, Record, RecordBody, SnapshotHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId};
use conclave_rules::{Gate, LogId, Place, Seen, judge_author, verify_signature};
use rand_core::CryptoRngCore;
use tls_codec::Size;

use crate::aside::Aside;
use crate::charge::{Unbounded, accounts_are_of_members, bounded, founded};
use crate::checks::Checks;
use crate::content::{Content, Fresh, Plain};
use crate::context::{Blocked, DeliverOutcome, DocContext, EditFn, Sealer};
use crate::document::Document;
use crate::error::{DocError, Fault, Finding, Suspect};
use crate::incoming::{Bridge, Incoming};
use crate::light::Light;
use crate::log::LogView;
use crate::lost::LostUpdates;
use crate::outbox::Outbox;
use crate::payload::{ReplicaOwner, SnapshotPayload, Tables};
use crate::refound::Founding;
use crate::seal::{DocKeys, open};
use crate::snapshot::PreparedSnapshot;
use crate::state::{LogState, SnapshotInfo};
use crate::store::RowTracker;
use crate::weight::Weight;

/// What a new document begins with.
pub enum Beginning<'a> {
    /// Nothing, or a first edit.
    Edit(Option<EditFn<'a>>),
    /// The complete state of another document: see [`Document::create_from`].
    State(&'a [u8]),
}

fn edited(
    kind: CrdtKind,
    initial: Option<EditFn<'_>>,
    device: DeviceId,
    fresh: &mut Fresh,
) -> Result<Founding, DocError> {
    let mut crdt = conclave_crdt::create(kind, fresh.replica(kind))?;
    if let Some(initial) = initial {
        initial(crdt.as_mut())?;
    }
    let mut updates: Vec<Vec<u8>> = Vec::new();
    crdt.take_pending(&mut updates)?;
    let mut tables = Tables::default();
    for update in &updates {
        for range in crdt.inspect(update)?.info.ranges {
            let next = range.end;
            tables
                .owners
                .insert(range.replica, ReplicaOwner { device, next });
        }
    }
    Ok(Founding {
        kind,
        crdt: Plain::from(crdt.snapshot()?),
        tables,
    })
}

fn taken_over(
    kind: CrdtKind,
    state: &[u8],
    device: DeviceId,
    fresh: &mut Fresh,
) -> Result<Founding, DocError> {
    founded(kind, state)?;
    let mut crdt = conclave_crdt::load(kind, state, fresh.replica(kind))?;
    if crdt.has_missing() {
        return Err(CrdtError::MissingDependency.into());
    }
    let mut tables = Tables::default();
    for (replica, next) in crdt.replicas() {
        tables.owners.insert(replica, ReplicaOwner { device, next });
    }
    Ok(Founding {
        kind,
        crdt: Plain::from(crdt.snapshot()?),
        tables,
    })
}

/// How the service's log of a document stands to the own one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Equal.
    InStep,
    /// The service has more.
    Behind {
        /// Whether it has nothing of what follows the own log: its own began there later, and nothing shows that the one leads to the other.
        is_gap: bool,
    },
    /// The service's log is shorter, and the same as far as own leaves reach.
    Ahead {
        /// Records that it lacks.
        missing: u64,
    },
    /// Both went on, each in another way.
    Apart,
}

impl Document {
    /// A new document with its first snapshot, which covers the empty log. The caller sends it together with the group's
    /// `DocumentCreated` entry, and calls [`Document::snapshot_accepted`] with position 0 once both are ordered; edits wait until then.
    ///
    /// # Errors
    /// [`DocError::Role`], [`DocError::MissingRoot`], [`DocError::Crdt`], [`DocError::TooLarge`].
    pub fn create(
        ctx: &DocContext<'_>,
        group: GroupId,
        document: DocumentId,
        kind: CrdtKind,
        instance: InstanceId,
        initial: Option<EditFn<'_>>,
        sealer: Sealer<'_>,
    ) -> Result<(Self, Record), DocError> {
        let beginning = Beginning::Edit(initial);
        let (mut this, prepared) =
            Self::begin(ctx, group, document, kind, instance, beginning, sealer.rng)?;
        let snapshot = this.seal_snapshot(ctx, prepared, sealer)?;
        Ok((this, snapshot))
    }

    /// A new document that begins with the complete state of another: every operation stays under the id that wrote it. This device brings
    /// these ids in, so they are its own here, as if it had introduced them, and nobody else can write on under them.
    ///
    /// # Errors
    /// As [`Document::create`]; [`DocError::Crdt`] where the state is not complete, [`DocError::TooCostly`] where nobody else would load it.
    pub fn create_from(
        ctx: &DocContext<'_>,
        group: GroupId,
        document: DocumentId,
        kind: CrdtKind,
        instance: InstanceId,
        state: &[u8],
        sealer: Sealer<'_>,
    ) -> Result<(Self, Record), DocError> {
        let beginning = Beginning::State(state);
        let (mut this, prepared) =
            Self::begin(ctx, group, document, kind, instance, beginning, sealer.rng)?;
        let snapshot = this.seal_snapshot(ctx, prepared, sealer)?;
        Ok((this, snapshot))
    }

    /// A new document, and all of its first snapshot but the seal: what takes time in proportion to what it begins with, and no key of this
    /// device. [`Document::seal_snapshot`] does the rest, before anything else is done with it.
    ///
    /// # Errors
    /// As [`Document::create`] and [`Document::create_from`].
    pub fn begin(
        ctx: &DocContext<'_>,
        group: GroupId,
        document: DocumentId,
        kind: CrdtKind,
        instance: InstanceId,
        beginning: Beginning<'_>,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<(Self, PreparedSnapshot), DocError> {
        let mut fresh = Fresh::new(rng);
        ctx.own_row().ok_or(DocError::Role)?;
        let founding = match beginning {
            Beginning::Edit(initial) => edited(kind, initial, ctx.device, &mut fresh)?,
            Beginning::State(state) => taken_over(kind, state, ctx.device, &mut fresh)?,
        };
        let mut this = Self::found(ctx, group, document, founding, instance, fresh)?;
        let prepared = this.prepare_snapshot(ctx)?;
        Ok((this, prepared))
    }

    /// Opens a document from the snapshot in the service's answer. The records from the snapshot's covered head on follow as `Deliver` frames.
    ///
    /// # Errors
    /// [`DocError::Protocol`] without a base, [`DocError::BadRecord`] when the snapshot is not valid, [`DocError::BadSnapshot`] when its author
    /// has signed what is not valid, [`DocError::UnknownSnapshot`], [`DocError::MissingRoot`], [`DocError::FutureEpoch`].
    pub fn open_remote(
        ctx: &DocContext<'_>,
        opened: &OpenedDocument,
        group: GroupId,
        document: DocumentId,
        instance: InstanceId,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<(Self, DeliverOutcome), DocError> {
        let base = opened.base.as_ref().ok_or(DocError::Protocol)?;
        let mut fresh = Fresh::new(rng);
        let (info, payload, kind) = read_base(ctx, group, document, base)?;
        let meter = judge_bound(&info, kind, &payload)?;
        let frontier = payload.frontier.clone();
        let (tables, claims) = (payload.tables.clone(), payload.claims.clone());
        let state = LogState::new(kind, tables, claims, info);
        let (_, checkpoint) = Self::first_checkpoint(payload, state.clone());
        let watch = ctx.watch();
        let content = watch.within(info.place(), || {
            Content::new(kind, checkpoint, watch.clone(), &mut fresh)
        });
        let mut content = content.map_err(|_| DocError::BadSnapshot {
            author: info.author,
            fault: RecordFault::Content,
        })?;
        content.meter = Some(meter);
        let author = Author {
            device: ctx.device,
            instance,
        };
        let mut this = Self::assemble(group, document, frontier, state, content, author, fresh);
        this.keep_snapshot(base.seq, encode(&base.record));
        this.checks = Checks::opened_from(&info);
        let outcome = this.opened(ctx, opened, rng)?;
        Ok((this, outcome))
    }

    pub(crate) fn assemble(
        group: GroupId,
        id: DocumentId,
        base: Frontier,
        state: LogState,
        content: Content,
        author: Author,
        fresh: Fresh,
    ) -> Self {
        let rows = RowTracker::new(base.size(), content.checkpoint.size);
        Self {
            group,
            id,
            log: LogView::new(base),
            state,
            content,
            incoming: Incoming::default(),
            outbox: Outbox::new(author),
            lost: LostUpdates::default(),
            anew: false,
            checks: Checks::default(),
            snapshot: None,
            rows,
            fresh,
            reported: None,
            caught_up_epoch: 0,
            rolled_back: false,
            behind: false,
            light: Light::default(),
            aside: Aside::default(),
        }
    }

    /// The document is open on a connection: compares the service's view with the own one. To be called for every `Opened` answer, before
    /// the `Deliver` frames that follow it.
    ///
    /// # Errors
    /// As [`Document::open_remote`], where the answer brings a later snapshot to continue from.
    pub fn opened(
        &mut self,
        ctx: &DocContext<'_>,
        opened: &OpenedDocument,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<DeliverOutcome, DocError> {
        let mut outcome = DeliverOutcome::default();
        self.fresh.stir(rng);
        self.incoming.forget_own();
        self.incoming.set_authors(opened.authors.clone());
        self.incoming.target = Some((opened.head(), ctx.authority.epoch()));
        self.incoming.bridge = None;
        self.rolled_back = opened.head().size < self.size();
        if self.rolled_back {
            let seq = opened.head().size;
            let fault = if self.contradicts(&opened.head()) {
                Fault::Fork
            } else {
                Fault::Rollback
            };
            outcome.findings.push(Finding {
                seq,
                fault,
                suspect: Suspect::SERVICE,
            });
        }
        self.check_target(&mut outcome);
        if let Some(base) = &opened.base {
            self.compare_base(ctx, base, &mut outcome)?;
        }
        let (next, last) = self.own_chain();
        let held = next.saturating_add(self.outbox.len() as u64);
        if opened.own_next_clock > held
            || (opened.own_next_clock == next && opened.own_last != last)
        {
            // The service knows records of this instance that this store never wrote: a restored backup, or a copy of the store.
            self.found_behind(&mut outcome)?;
        } else if opened.own_next_clock < next && opened.head() == self.head() {
            // It is the same log, which began there after what this device wrote last: that chain does not go on there.
            self.renew_instance(&mut outcome);
        } else if opened.own_next_clock < next && !self.rolled_back {
            let seq = self.size();
            outcome.findings.push(Finding {
                seq,
                fault: Fault::Rollback,
                suspect: Suspect::SERVICE,
            });
            self.rolled_back = true;
        }
        self.cross_bridge(&mut outcome)?;
        self.advance(ctx, &mut outcome)?;
        Ok(outcome)
    }

    /// How the service's log stands to the own one, as far as own leaves reach. To be looked at before [`Document::opened`], which is for logs
    /// that go on from the own one.
    #[must_use]
    pub fn standing(&self, opened: &OpenedDocument) -> Standing {
        let (size, head) = (self.size(), opened.head());
        if self.contradicts(&head) {
            Standing::Apart
        } else if head.size < size {
            Standing::Ahead {
                missing: size - head.size,
            }
        } else if head.size == size {
            Standing::InStep
        } else if opened.base.is_none() && opened.from > size {
            Standing::Behind { is_gap: true }
        } else if opened.own_next_clock < self.own_chain().0 {
            // Longer, without what this device wrote.
            Standing::Apart
        } else {
            Standing::Behind { is_gap: false }
        }
    }

    pub(crate) fn contradicts(&self, head: &Head) -> bool {
        self.log.head_at(head.size).is_some_and(|own| own != *head)
    }

    /// Compares with the head that the service announced, once the log gets there.
    pub(crate) fn check_target(&mut self, outcome: &mut DeliverOutcome) {
        self.check_former(outcome);
        let Some((target, epoch)) = self.incoming.target else {
            return;
        };
        if target.size > self.size() {
            return;
        }
        self.incoming.target = None;
        if self.contradicts(&target) {
            let seq = target.size;
            outcome.findings.push(Finding {
                seq,
                fault: Fault::Fork,
                suspect: Suspect::SERVICE,
            });
        } else if epoch > self.caught_up_epoch && !self.rolled_back {
            self.caught_up_epoch = epoch;
            self.rows.meta_dirty = true;
        }
    }

    /// A base snapshot for a document that is open already: a check, or the way on where the service keeps the records between only by hash.
    fn compare_base(
        &mut self,
        ctx: &DocContext<'_>,
        base: &BaseSnapshot,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let RecordBody::Snapshot(header) = base.record.header.body else {
            return Err(DocError::Protocol);
        };
        let rejoins = self.aside.wants_base() && header.covered.size <= self.size();
        if header.covered.size <= self.size() {
            let known = self.log.leaf_at(base.seq);
            if self.contradicts(&header.covered)
                || known.is_some_and(|leaf| leaf != base.record.leaf())
            {
                let fault = Fault::Fork;
                outcome.findings.push(Finding {
                    seq: base.seq,
                    fault,
                    suspect: Suspect::SERVICE,
                });
                return Ok(());
            }
        }
        if header.covered.size <= self.size() && !rejoins {
            return Ok(());
        }
        let frontier = match self.log.frontier_at(header.covered.size) {
            Some(frontier) if rejoins => frontier,
            // Older than all that this log knows of: no way on.
            None if rejoins => return Ok(()),
            _ => self.log.frontier().clone(),
        };
        let (info, payload, kind) = read_base(ctx, self.group, self.id, base)?;
        if kind != self.kind() {
            return Err(DocError::BadRecord {
                fault: RecordFault::Malformed,
            });
        }
        let meter = judge_bound(&info, kind, &payload)?;
        self.incoming.begin_bridge(Bridge {
            meter,
            frontier,
            info,
            payload,
            sealed: encode(&base.record),
            leaves: Vec::new(),
        });
        Ok(())
    }

    /// Goes on from a later snapshot, once the leaves up to its covered head show that it extends the own log. Own edits stay.
    pub(crate) fn cross_bridge(&mut self, outcome: &mut DeliverOutcome) -> Result<(), DocError> {
        let Some(bridge) = self
            .incoming
            .bridge
            .take_if(|bridge| bridge.missing().is_none())
        else {
            if let Some(bridge) = &self.incoming.bridge {
                outcome.gap = bridge.missing();
            }
            return Ok(());
        };
        if bridge.frontier.head() != bridge.info.covered {
            let seq = bridge.info.covered.size;
            outcome.findings.push(Finding {
                seq,
                fault: Fault::Fork,
                suspect: Suspect::SERVICE,
            });
            outcome.block(self.size(), Blocked::Unverified);
            self.rolled_back = true;
            return Ok(());
        }
        self.adopt_covered(&bridge.payload.tables, outcome)?;
        let went = self.aside.went();
        self.aside.rejoined(self.log.head(), &bridge.info.covered);
        let frontier = bridge.payload.frontier.clone();
        let payload = &bridge.payload;
        let (tables, claims) = (payload.tables.clone(), payload.claims.clone());
        let state = LogState::new(self.kind(), tables, claims, bridge.info);
        let (_, checkpoint) = Self::first_checkpoint(bridge.payload, state.clone());
        let watch = self.content.watch.clone();
        let kind = self.kind();
        let mut content = watch.within(bridge.info.place(), || {
            Content::new(kind, checkpoint, watch.clone(), &mut self.fresh)
        })?;
        content.meter = Some(bridge.meter);
        self.end_era();
        let left = self.log.leaves(0, bridge.info.covered.size);
        self.rows.below.leaves.extend(left.chain(bridge.leaves));
        std::mem::swap(&mut self.content, &mut content);
        let size = self.log.size();
        self.log = LogView::new(frontier);
        self.begin_era();
        self.keep_snapshot(bridge.info.seq, bridge.sealed);
        self.state = state;
        self.checks.begin_from(&bridge.info, went, size);
        self.rows.meta_dirty = true;
        self.claim_known();
        if self.rebuild().is_err() {
            // Own edits do not fit what the snapshot holds: write them again as what they did to the former state.
            self.rewrite_own_from(&mut content, outcome)?;
        }
        Ok(())
    }

    /// Own records that the snapshot covers have their place.
    fn adopt_covered(
        &mut self,
        tables: &Tables,
        outcome: &mut DeliverOutcome,
    ) -> Result<(), DocError> {
        let next = self.own_chain().0;
        let Some(chain) = tables.chains.get(&self.outbox.author) else {
            return Ok(());
        };
        let covered = usize::try_from(chain.next.saturating_sub(next)).unwrap_or(usize::MAX);
        let Some(last) = covered.checked_sub(1) else {
            return Ok(());
        };
        if self
            .outbox
            .sealed_at(last)
            .is_some_and(|record| record.leaf() == chain.last)
        {
            for _ in 0..covered {
                self.outbox.pop();
                outcome.acknowledged += 1;
            }
            Ok(())
        } else {
            self.found_behind(outcome)
        }
    }
}

/// Judges the snapshot from which a document is opened. Everything is checked but what only the log before it can tell.
fn read_base(
    ctx: &DocContext<'_>,
    group: GroupId,
    document: DocumentId,
    base: &BaseSnapshot,
) -> Result<(SnapshotInfo, SnapshotPayload, CrdtKind), DocError> {
    let bad = |fault| DocError::BadRecord { fault };
    let record = &base.record;
    let header = &record.header;
    let row = ctx.row(&header.author.device, header.epoch);
    let place = Place {
        log: LogId { group, document },
        row,
        chain: None,
        active: None,
        seen: Seen::Unproven,
        covered: Seen::Unproven,
        gate: Gate::After {
            highest: 0,
            current: ctx.authority.epoch(),
        },
    };
    let reached = judge_author(header, &place).map_err(bad)?;
    let RecordBody::Snapshot(snapshot) = header.body else {
        return Err(bad(RecordFault::Malformed));
    };
    let kind = CrdtKind::from_code(snapshot.crdt).ok_or(DocError::UnknownKind {
        code: snapshot.crdt,
    })?;
    if !reached {
        return Err(DocError::FutureEpoch {
            epoch: header.epoch,
        });
    }
    let row = row.ok_or(bad(RecordFault::NotMember))?;
    check_base_place(base, &snapshot).map_err(bad)?;
    verify_signature(
        row,
        RECORD_LABEL,
        &record.core().0,
        &record.sealed.signature,
    )
    .map_err(bad)?;
    let root = ctx.keys.root(header.epoch).ok_or(DocError::MissingRoot {
        epoch: header.epoch,
    })?;
    // From here on what is wrong is under the author's signature: the service could not see it.
    let bad = |fault| DocError::BadSnapshot {
        author: header.author,
        fault,
    };
    let bytes = open(record, &DocKeys::derive(&root, &document)).map_err(bad)?;
    let payload = SnapshotPayload::from_bytes(&bytes).map_err(|_| {
        let version = SnapshotPayload::unknown_version(&bytes);
        version.map_or(bad(RecordFault::Content), |version| {
            DocError::UnknownSnapshot { version }
        })
    })?;
    if payload.frontier.head() != snapshot.covered {
        return Err(bad(RecordFault::Covered));
    }
    if payload.tables.epoch_high > header.epoch {
        return Err(bad(RecordFault::EpochDecreased));
    }
    if !accounts_are_of_members(ctx, &payload.tables, header.epoch) {
        return Err(bad(RecordFault::Content));
    }
    let info = SnapshotInfo {
        seq: base.seq,
        id: record.leaf(),
        author: header.author,
        user: row.user,
        epoch: header.epoch,
        parent: snapshot.parent,
        chain_proof: snapshot.chain_proof,
        covered: snapshot.covered,
        bytes: record.tls_serialized_len() as u64,
        weight: Weight::default(),
    };
    Ok((info, payload, kind))
}

/// What an engine may be given is known to be bounded before.
fn judge_bound(
    info: &SnapshotInfo,
    kind: CrdtKind,
    payload: &SnapshotPayload,
) -> Result<Meter, DocError> {
    bounded(kind, payload).map_err(|why| DocError::BadSnapshot {
        author: info.author,
        fault: match why {
            Unbounded::Cost => RecordFault::Cost,
            Unbounded::Content => RecordFault::Content,
        },
    })
}

/// Where a base may stand: not before what it covers; the first of a document at position 0 and nowhere else.
fn check_base_place(base: &BaseSnapshot, snapshot: &SnapshotHeader) -> Result<(), RecordFault> {
    if base.seq < snapshot.covered.size {
        return Err(RecordFault::Covered);
    }
    let is_first = base.seq == 0;
    let begins = snapshot.parent == Hash::ZERO
        && snapshot.chain_proof == Hash::ZERO
        && snapshot.covered == Head::EMPTY;
    if is_first && !begins {
        return Err(RecordFault::Parent);
    }
    let seen = base.record.header.seen;
    if seen.size > base.seq || (seen.size == snapshot.covered.size && seen != snapshot.covered) {
        return Err(RecordFault::SeenHead);
    }
    Ok(())
}

//! A group with real keys before two services: one that has everything, and one that was put back to a copy.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use conclave_doc::{DocKeys, seal};
use conclave_mls::{Adoption, ClientGroup, EpochSecrets, KeyStore, Plan, PublicGroupState};
use conclave_order::limits::FOUND_HOLD_MS;
use conclave_order::op::adopt::AdoptGroup;
use conclave_order::op::drop::DropGroup;
use conclave_order::op::entry::NewEntry;
use conclave_order::op::group::CreateGroup;
use conclave_order::op::help::AckWelcome;
use conclave_order::op::identity::{Claim, Door, Newcomer};
use conclave_order::op::recovery::{AcceptLoss, Declare, EndHold, Report};
use conclave_order::op::returned::{self, ReturnDocument};
use conclave_order::op::returned_group::{Offer, ReturnGroup};
use conclave_order::op::snapshot::{PutSnapshot, Written};
use conclave_order::query::group::{Core, document_entries, restore, waiting, welcome};
use conclave_order::{Asker, Batch, Event, Keys, Op, Reader as _, Rows, Stop, run_batch};
use conclave_proto::codec::Bytes;
use conclave_proto::frame::{DocumentBase, JoinState};
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::record::{
    Chained, EntryBody, RECORD_VERSION, RecordBody, RecordHeader, SnapshotHeader,
};
use conclave_proto::service::Cause;
use conclave_proto::{
    Author, DeviceId, DocumentId, GroupId, GroupPolicy, Hash, Head, InstanceId, Record, Refusal,
    UnixMs, UserId,
};
use conclave_rules::{GroupState, LogId, Seen};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::dump::{Dump, Known, dump};
use crate::database::Database;
use crate::members::{Member, NOW};
use crate::records::CRDT;
use crate::service::Signing;
use crate::world::{LIMITS, log_in, refusal};

/// The group.
pub(super) const GROUP: GroupId = GroupId([7; 16]);
/// Its own log.
pub(super) const LOG: LogId = LogId {
    group: GROUP,
    document: DocumentId::ZERO,
};
pub(super) const INSTANCE: InstanceId = InstanceId([1; 8]);

/// One service's database.
pub(super) struct Side<D: Database> {
    database: D,
    store: D::Store,
}

impl<D: Database> Side<D> {
    async fn new() -> Result<Self> {
        let database = D::create().await?;
        let store = database.store().await?;
        Ok(Self { database, store })
    }

    /// A service whom all know.
    async fn founded(signing: &Signing, seats: &[Seat]) -> Result<Self> {
        let mut side = Self::new().await?;
        let (next, hold) = (signing.founding(), None);
        side.accepts(Op::Declare(Box::new(Declare { next, hold })))
            .await?;
        for seat in seats {
            let log_in = log_in(seat.newcomer(), Door::Open, Claim::default(), NOW);
            side.accepts(log_in).await?;
        }
        Ok(side)
    }

    /// Somebody else writes from here on.
    pub(super) async fn restart(&mut self) -> Result<()> {
        self.store = self.database.store().await?;
        Ok(())
    }

    pub(super) async fn reader(&self) -> Result<D::Reader> {
        self.database.reader().await
    }

    /// Runs an operation.
    pub(super) async fn run(&mut self, op: Op) -> Result<Event> {
        let all = run_batch(&mut self.store, Batch::new(vec![op], LIMITS), &()).await;
        let ended = all.into_iter().next().context("no transaction")?;
        let end = ended.end();
        if let Some(failure) = ended.failure {
            return Err(failure.into());
        }
        ensure!(ended.batch.damaged().is_empty(), "damaged");
        ended.batch.finish(end).pop().context("no event")
    }

    /// Runs one that has to be accepted.
    pub(super) async fn accepts(&mut self, op: Op) -> Result<Event> {
        let event = self.run(op).await?;
        ensure!(refusal(&event).is_none(), "{event:?}");
        Ok(event)
    }

    pub(super) async fn load(&self, want: impl FnOnce(&mut Keys)) -> Result<Rows> {
        let mut keys = Keys::default();
        want(&mut keys);
        Ok(self.database.reader().await?.load(&keys).await?)
    }

    /// The group's state as it is stored.
    pub(super) async fn core(&self) -> Result<Core> {
        let mut reads = self.database.reader().await?;
        // Little of the log at once.
        let core = restore(&mut reads, GROUP, 4096).await?;
        core.context("no group")
    }
}

/// What somebody offers of the group's log.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) device: DeviceId,
    pub(super) from: u64,
    pub(super) entries: Vec<GroupEntry>,
    pub(super) group_info: Option<Vec<u8>>,
    pub(super) wrap: Option<RootWrap>,
    pub(super) bundles: Vec<CommitBundle>,
}

/// The group as somebody brings it.
#[derive(Debug, Clone)]
pub(super) struct Brought {
    pub(super) sender: DeviceId,
    pub(super) user: UserId,
    pub(super) group_info: Vec<u8>,
    pub(super) tree: Vec<u8>,
    pub(super) state: JoinState,
    pub(super) pending: Vec<Bytes>,
    /// The service's time.
    pub(super) now: UnixMs,
}

impl Brought {
    fn offer(&self) -> Adoption<'_> {
        Adoption {
            group: GROUP,
            sender: self.sender,
            group_info: &self.group_info,
            tree: &self.tree,
            state: &self.state,
            pending: &self.pending,
        }
    }
}

/// A member, as far as it has come.
pub(super) struct Seat {
    pub(super) member: Member,
    pub(super) keys: KeyStore,
    pub(super) group: Option<ClientGroup>,
}

impl Seat {
    fn new(rng: &mut ChaCha20Rng) -> Result<Self> {
        Ok(Self {
            member: Member::new(rng)?,
            keys: KeyStore::load(Vec::new())?,
            group: None,
        })
    }

    fn newcomer(&self) -> Newcomer {
        Newcomer {
            user: self.member.user,
            device: self.member.device,
            key: self.member.key.public().to_vec(),
        }
    }

    pub(super) fn group(&self) -> Result<&ClientGroup> {
        self.group.as_ref().context("no member")
    }

    pub(super) fn secrets(&self) -> Result<EpochSecrets> {
        Ok(self.group()?.epoch_secrets()?)
    }
}

/// The group: its owner, Ben, Carol, and Dora outside.
pub(super) struct Club<D: Database> {
    pub(super) full: Side<D>,
    pub(super) lost: Side<D>,
    /// Nothing reaches the copy any more.
    pub(super) is_copied: bool,
    pub(super) seats: Vec<Seat>,
    core: PublicGroupState,
    version: u64,
    signing: Signing,
    pub(super) log: Vec<GroupEntry>,
    /// The directory's first snapshot.
    pub(super) directory: Option<Record>,
    bundles: Vec<CommitBundle>,
    pub(super) logs: Vec<LogId>,
    /// The time at the copy when something is offered to it.
    pub(super) now: UnixMs,
    rng: ChaCha20Rng,
}

pub(super) const ANA: usize = 0;
pub(super) const BEN: usize = 1;
pub(super) const CAROL: usize = 2;
pub(super) const DORA: usize = 3;

impl<D: Database> Club<D> {
    pub(super) async fn new() -> Result<Self> {
        let mut club = Self::of_owner().await?;
        club.add(&[BEN, CAROL]).await?;
        Ok(club)
    }

    /// The owner's alone, with no commit yet.
    pub(super) async fn of_owner() -> Result<Self> {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let mut seats = Vec::new();
        for _ in 0..4 {
            seats.push(Seat::new(&mut rng)?);
        }
        let owner = seats.first_mut().context("nobody")?;
        let context = owner.member.context();
        let (group, created) = ClientGroup::create(&context, GROUP, GroupPolicy::default(), NOW)?;
        let by = Asker {
            device: owner.member.device,
            user: owner.member.user,
            session: 1,
        };
        owner.group = Some(group);
        let offer = (created.group_info.as_slice(), created.tree.as_slice());
        let new = Box::new(CreateGroup::judge(by, offer, NOW, NOW)?);
        let signing = Signing::default();
        let mut full = Side::founded(&signing, &seats).await?;
        let mut lost = Side::founded(&signing, &seats).await?;
        for side in [&mut full, &mut lost] {
            side.accepts(Op::CreateGroup(new.clone())).await?;
        }
        let Core { state, version } = full.core().await?;
        let mut club = Self {
            full,
            lost,
            is_copied: false,
            seats,
            core: state,
            version,
            signing,
            log: Vec::new(),
            directory: None,
            bundles: Vec::new(),
            logs: Vec::new(),
            now: NOW,
            rng,
        };
        club.directory = Some(club.create(ANA, DocumentId::directory(&GROUP)).await?);
        Ok(club)
    }

    /// The copy is a service that was set up anew: it has nothing of the group, and of Welcomes that were taken neither has.
    pub(super) async fn wipe(&mut self) -> Result<()> {
        for seat in &self.seats {
            let device = seat.member.device;
            for row in waiting(&mut self.full.reader().await?, device).await? {
                let ack = AckWelcome { device, id: row.id };
                self.full.accepts(Op::AckWelcome(ack)).await?;
            }
        }
        self.lost = Side::founded(&self.signing, &self.seats).await?;
        self.is_copied = true;
        Ok(())
    }

    pub(super) fn device(&self, seat: usize) -> Result<DeviceId> {
        Ok(self.seat(seat)?.member.device)
    }

    pub(super) fn seat(&self, seat: usize) -> Result<&Seat> {
        self.seats.get(seat).context("nobody")
    }

    /// The owner adds devices, which join.
    pub(super) async fn add(&mut self, seats: &[usize]) -> Result<()> {
        self.invite(seats).await?;
        for seat in seats {
            let side = &self.full;
            join(side, self.seats.get_mut(*seat).context("nobody")?).await?;
        }
        Ok(())
    }

    /// The owner adds devices, which do not hear of it.
    pub(super) async fn invite(&mut self, seats: &[usize]) -> Result<()> {
        let mut plan = Plan::default();
        for seat in seats {
            let seat = self.seats.get_mut(*seat).context("nobody")?;
            plan.add.push(seat.member.key_package(&mut seat.keys)?);
        }
        self.commit(ANA, &plan).await
    }

    pub(super) async fn remove(&mut self, by: usize, seat: usize) -> Result<()> {
        let plan = Plan {
            remove: vec![self.device(seat)?],
            ..Plan::default()
        };
        self.commit(by, &plan).await
    }

    pub(super) async fn commit(&mut self, by: usize, plan: &Plan) -> Result<()> {
        let seat = self.seats.get_mut(by).context("nobody")?;
        let device = seat.member.device;
        let group = seat.group.as_mut().context("no member")?;
        let prepared = seat.member.commit(group, plan)?;
        let bundle = prepared.bundle;
        self.bundles.push(bundle.clone());
        self.enter(|core, version| {
            let judged = core.judge_bundle(&bundle, device, NOW)?;
            NewEntry::of_commit(core, version, judged, device)
        })
        .await
    }

    /// Another commit for the epoch is ordered where the service was put back.
    pub(super) async fn commit_elsewhere(&mut self, by: usize) -> Result<()> {
        let seat = self.seats.get_mut(by).context("nobody")?;
        let device = seat.member.device;
        let group = seat.group.as_mut().context("no member")?;
        let plan = Plan {
            self_update: true,
            ..Plan::default()
        };
        let prepared = seat.member.commit(group, &plan)?;
        group.discard_pending()?;
        let Core { mut state, version } = self.lost.core().await?;
        let judged = state.judge_bundle(&prepared.bundle, device, NOW)?;
        let new = NewEntry::of_commit(&mut state, version, judged, device)?;
        self.lost.accepts(Op::Enter(Box::new(new))).await?;
        Ok(())
    }

    pub(super) async fn leave(&mut self, by: usize) -> Result<()> {
        let seat = self.seats.get_mut(by).context("nobody")?;
        let device = seat.member.device;
        let group = seat.group.as_mut().context("no member")?;
        let message = group.propose_self_remove(&seat.member.context())?;
        self.enter(|core, version| NewEntry::proposal(core, version, &message, device))
            .await
    }

    pub(super) async fn put(&mut self, by: usize, body: EntryBody) -> Result<()> {
        self.put_all(by, vec![body]).await
    }

    /// Entries that are signed at one head: each may be first.
    pub(super) async fn put_all(&mut self, by: usize, bodies: Vec<EntryBody>) -> Result<()> {
        let seat = self.seat(by)?;
        let (context, group) = (seat.member.context(), seat.group()?);
        let sign = |body| group.sign_entry(&context, body, INSTANCE);
        let entries: Vec<Record> = bodies.into_iter().map(sign).collect();
        let device = seat.member.device;
        for entry in entries {
            let judge =
                |core: &mut _, version| NewEntry::signed(core, version, entry.clone(), device);
            self.enter(judge).await?;
        }
        Ok(())
    }

    /// A document with its first snapshot.
    pub(super) async fn create(&mut self, by: usize, document: DocumentId) -> Result<Record> {
        let crdt = CRDT;
        let body = EntryBody::DocumentCreated { document, crdt };
        let seat = self.seat(by)?;
        let context = seat.member.context();
        let entry = seat.group()?.sign_entry(&context, body, INSTANCE);
        let device = seat.member.device;
        let header = SnapshotHeader {
            parent: Hash::ZERO,
            chain_proof: Hash::ZERO,
            covered: Head::EMPTY,
            crdt,
        };
        let first = self.snapshot(by, document, header, Head::EMPTY)?;
        let group = GROUP;
        self.logs.push(LogId { group, document });
        let both = (entry, first.clone());
        self.enter(|core, version| {
            let (entry, first) = both.clone();
            NewEntry::document(core, version, entry, first, device)
        })
        .await?;
        Ok(first)
    }

    /// The first update of an instance, which has seen nothing.
    pub(super) fn update(
        &mut self,
        by: usize,
        document: DocumentId,
        instance: InstanceId,
    ) -> Result<Record> {
        let (clock, prev) = (0, Hash::ZERO);
        let body = RecordBody::Update(Chained { clock, prev });
        self.record(by, (document, instance), body, Head::EMPTY)
    }

    pub(super) fn snapshot(
        &mut self,
        by: usize,
        document: DocumentId,
        header: SnapshotHeader,
        seen: Head,
    ) -> Result<Record> {
        let body = RecordBody::Snapshot(header);
        self.record(by, (document, INSTANCE), body, seen)
    }

    fn record(
        &mut self,
        by: usize,
        (document, instance): (DocumentId, InstanceId),
        body: RecordBody,
        seen: Head,
    ) -> Result<Record> {
        let seat = self.seats.get(by).context("nobody")?;
        let group = seat.group()?;
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: GROUP,
            document,
            epoch: group.epoch(),
            author: Author {
                device: seat.member.device,
                instance,
            },
            seen,
            body,
        };
        let keys = DocKeys::derive(&seat.secrets()?.root, &document);
        let rng = &mut self.rng;
        Ok(seal(&header, b"content", &keys, &seat.member.key, 1, rng))
    }

    /// Another snapshot, which covers everything.
    pub(super) async fn snap(&mut self, by: usize, before: &Record) -> Result<Record> {
        let document = before.header.document;
        let group = GROUP;
        let log = LogId { group, document };
        let RecordBody::Snapshot(parent) = before.header.body else {
            bail!("no snapshot");
        };
        let rows = self.full.load(|keys| _ = keys.documents.insert(log));
        let row = rows.await?.documents.remove(&log).flatten();
        let head = row.context("no document")?.frontier.head();
        let id = before.leaf();
        let header = SnapshotHeader {
            parent: id,
            chain_proof: parent.successor_proof(&id),
            covered: head,
            crdt: CRDT,
        };
        let record = self.snapshot(by, document, header, head)?;
        let device = self.device(by)?;
        let row = self.core.state().row(&device, record.header.epoch).cloned();
        let op = PutSnapshot {
            device,
            written: Written {
                row: row.context("no row")?,
                seen: Seen::True,
            },
            record: Arc::new(record.clone()),
            paid: true,
            now: NOW,
        };
        let op = Op::PutSnapshot(Box::new(op));
        if !self.is_copied {
            self.lost.accepts(op.clone()).await?;
        }
        self.full.accepts(op).await?;
        Ok(record)
    }

    /// Each side judges for itself, by what it has stored.
    async fn enter(
        &mut self,
        judge: impl Fn(&mut PublicGroupState, u64) -> Result<NewEntry, Refusal>,
    ) -> Result<()> {
        if !self.is_copied {
            let Core { mut state, version } = self.lost.core().await?;
            let new = judge(&mut state, version)?;
            self.lost.accepts(Op::Enter(Box::new(new))).await?;
        }
        let new = judge(&mut self.core, self.version)?;
        let entry = new.entry.clone();
        self.full.accepts(Op::Enter(Box::new(new))).await?;
        self.version += 1;
        for seat in &mut self.seats {
            if let Some(group) = &mut seat.group
                && group.is_active()
            {
                group.process(&entry)?;
                group.take_changes();
            }
        }
        self.log.push(entry);
        Ok(())
    }

    /// Somebody shows the copy a head of a log: it says that it was put back, and holds it. The hold over all logs is over then.
    pub(super) async fn report(&mut self, log: LogId, head: Head) -> Result<()> {
        self.report_first(log, head).await?;
        self.hold(None).await
    }

    /// The same, while it holds all logs.
    pub(super) async fn report_first(&mut self, log: LogId, head: Head) -> Result<()> {
        let number = self.generation();
        self.report_of(number, log, head).await
    }

    /// Number of the generation that it is in.
    pub(super) fn generation(&self) -> u64 {
        self.signing.generation().number
    }

    /// The same, of a head of that generation. The other one begins a generation too.
    pub(super) async fn report_of(&mut self, old: u64, log: LogId, head: Head) -> Result<()> {
        let next = self.signing.next(None, Cause::PutBack, NOW);
        let report = Report {
            device: self.device(ANA)?,
            log,
            head,
            number: old,
            next: next.clone(),
            hold: Some(NOW.plus_ms(FOUND_HOLD_MS)),
            now: NOW,
        };
        let event = self.lost.accepts(Op::Report(Box::new(report))).await?;
        if matches!(event, Event::Declared { .. }) {
            let (after, hold) = (next.clone(), None);
            let declare = Declare { next: after, hold };
            self.full.accepts(Op::Declare(Box::new(declare))).await?;
            self.signing.begin(&next);
        }
        Ok(())
    }

    /// All logs of the copy are held until then, or no longer.
    pub(super) async fn hold(&mut self, ends: Option<UnixMs>) -> Result<()> {
        let op = match ends {
            Some(_) => {
                let next = self.signing.next(None, Cause::Restored, NOW);
                self.signing.begin(&next);
                Op::Declare(Box::new(Declare { next, hold: ends }))
            }
            None => {
                // Whenever it was to end.
                let now = UnixMs(i64::MAX.unsigned_abs());
                Op::EndHold(EndHold { now })
            }
        };
        self.lost.accepts(op).await?;
        Ok(())
    }

    /// Somebody who is no member founds a group of that id at the copy.
    pub(super) async fn squat(&mut self, by: usize) -> Result<()> {
        let member = &self.seat(by)?.member;
        let policy = GroupPolicy::default();
        let (_, created) = ClientGroup::create(&member.context(), GROUP, policy, NOW)?;
        let by = Asker {
            device: member.device,
            user: member.user,
            session: 1,
        };
        let offer = (created.group_info.as_slice(), created.tree.as_slice());
        let new = Box::new(CreateGroup::judge(by, offer, NOW, NOW)?);
        self.lost.accepts(Op::CreateGroup(new)).await?;
        Ok(())
    }

    /// The operator removes the group from the copy.
    pub(super) async fn drop_group(
        &mut self,
        even_if_founded_here: bool,
    ) -> Result<Result<(), Refusal>> {
        let next = self.signing.next(None, Cause::Restored, NOW);
        let op = DropGroup {
            group: GROUP,
            next: next.clone(),
            even_if_founded_here,
        };
        match self.lost.run(Op::DropGroup(Box::new(op))).await? {
            Event::Declared { .. } => {
                self.signing.begin(&next);
                Ok(Ok(()))
            }
            Event::Refused(refusal) => Ok(Err(refusal)),
            event => bail!("{event:?}"),
        }
    }

    /// What of the group's log the copy waits for.
    pub(super) async fn waits_for(&self) -> Result<Option<Head>> {
        let rows = self.lost.load(|keys| _ = keys.recoveries.insert(LOG));
        let row = rows.await?.recoveries.remove(&LOG).flatten();
        Ok(row.map(|row| row.want))
    }

    /// The group's state where everything is.
    pub(super) fn core(&self) -> &PublicGroupState {
        &self.core
    }

    /// The head that the whole log has.
    pub(super) fn head(&self) -> Head {
        self.core.state().head()
    }

    /// What somebody has to offer who has everything, with a GroupInfo and a root wrap made anew.
    pub(super) async fn offer(&mut self, seat: usize) -> Result<Given> {
        let from = self.lost.core().await?.state.state().size();
        let entries = self.log.iter().skip(usize::try_from(from)?);
        let entries = entries.cloned().collect();
        let seat = self.seats.get(seat).context("nobody")?;
        let device = seat.member.device;
        let group = seat.group()?;
        let (mut group_info, mut wrap) = (None, None);
        if group.is_active() {
            let (context, secrets) = (seat.member.context(), seat.secrets()?);
            group_info = Some(group.export_group_info(&context)?);
            wrap = Some(group.seal_wrap(&context, &secrets, &[], &mut self.rng)?);
        }
        Ok(Given {
            device,
            from,
            entries,
            group_info,
            wrap,
            bundles: Vec::new(),
        })
    }

    /// As its owner has it, who keeps the commits as they were first sent.
    pub(super) async fn offer_of_owner(&mut self) -> Result<Given> {
        let bundles = self.bundles.clone();
        let offer = self.offer(ANA).await?;
        Ok(Given {
            group_info: None,
            wrap: None,
            bundles,
            ..offer
        })
    }

    /// The group as somebody has it who has everything, with a GroupInfo and a root wrap made anew.
    pub(super) async fn brought(&mut self, by: usize) -> Result<Brought> {
        let state = self.core.state();
        let begun = usize::try_from(state.epoch_start)?;
        let since = self.log.iter().skip(begun);
        let pending = since.filter_map(|entry| match entry {
            GroupEntry::Proposal(message) => Some(message.clone()),
            _ => None,
        });
        let pending = pending.collect();
        let mut reads = self.full.reader().await?;
        let entries = document_entries(&mut reads, &GROUP, state.size()).await?;
        let seat = self.seats.get(by).context("nobody")?;
        let (group, context, secrets) = (seat.group()?, seat.member.context(), seat.secrets()?);
        let wrap = match group.epoch() {
            0 => crate::world::wrap(GROUP, 0, 1),
            _ => group.seal_wrap(&context, &secrets, &[], &mut self.rng)?,
        };
        Ok(Brought {
            sender: seat.member.device,
            user: seat.member.user,
            group_info: group.export_group_info(&context)?,
            tree: self.core.tree(),
            state: self.core.join_state(wrap, entries),
            pending,
            now: NOW,
        })
    }

    /// The group as it is offered to the copy, judged as things stand there.
    pub(super) async fn judged(&self, it: &Brought) -> Result<Result<Op, Refusal>> {
        let by = Asker {
            device: it.sender,
            user: it.user,
            session: 1,
        };
        let rows = self.lost.load(|keys| _ = keys.services.insert(())).await?;
        let service = rows.services.into_values().flatten().next();
        let generation = service.map_or(0, |row| row.generation.number);
        let judged = AdoptGroup::judge(by, &it.offer(), generation, it.now);
        Ok(judged.map(|op| Op::AdoptGroup(Box::new(op))))
    }

    /// Brings the group to the copy.
    pub(super) async fn adopt(&mut self, it: &Brought) -> Result<Result<(), Refusal>> {
        let offer = it.offer();
        let rows = self.lost.load(|keys| AdoptGroup::needs(&offer, keys));
        let known = AdoptGroup::is_known(&offer, &rows.await?);
        let op = match self.judged(it).await? {
            Ok(op) => op,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let answer = match self.lost.run(op).await? {
            Event::Done => Ok(()),
            Event::Refused(refusal) => Err(refusal),
            event => bail!("{event:?}"),
        };
        // It says beforehand what it says then.
        match known {
            Ok(is_known) => ensure!(!is_known || answer.is_ok(), "{answer:?}"),
            Err(stop) => ensure!(refused::<()>(stop)? == answer),
        }
        Ok(answer)
    }

    /// Ends the copy's holds of logs of which nothing is known to be missing. Gives how many there were.
    pub(super) async fn end_holds(&mut self) -> Result<usize> {
        let all = (conclave_proto::UnixMs(i64::MAX.unsigned_abs()), 64);
        let mut rows = self.lost.load(|keys| _ = keys.ended.insert(all)).await?;
        let held = rows.ended.get(&all).cloned().flatten().unwrap_or_default();
        for row in &held {
            let op = loop {
                match AcceptLoss::judge(self.signing.key(), &rows, row) {
                    Ok(op) => break op,
                    Err(Stop::Lacks(keys)) => {
                        rows.extend(self.lost.load(|wanted| wanted.extend(*keys)).await?);
                    }
                    Err(stop) => bail!("{stop:?}"),
                }
            };
            let event = self.lost.accepts(Op::AcceptLoss(Box::new(op))).await?;
            ensure!(matches!(event, Event::Done), "{event:?}");
        }
        Ok(held.len())
    }

    /// Offers entries to the copy.
    pub(super) async fn give(&mut self, given: &Given) -> Result<Result<Head, Refusal>> {
        let offer = Offer {
            device: given.device,
            group: GROUP,
            from: given.from,
            entries: &given.entries,
            group_info: given.group_info.as_deref(),
            wrap: given.wrap.as_ref(),
            bundles: &given.bundles,
            now: self.now,
        };
        let rows = self.lost.load(|keys| offer.needs(keys));
        let rows = rows.await?;
        let mut core = self.lost.core().await?;
        let op = match ReturnGroup::judge(offer, &mut core, &rows) {
            Ok(op) => Op::ReturnGroup(Box::new(op)),
            Err(stop) => return refused(stop),
        };
        self.end(op).await
    }

    /// Offers a document's records to the copy.
    pub(super) async fn give_records(
        &mut self,
        seat: usize,
        from: u64,
        records: &[Record],
    ) -> Result<Result<Head, Refusal>> {
        self.give_from(seat, None, from, records).await
    }

    /// As before, of a document of which nothing before a base is brought.
    pub(super) async fn give_from(
        &mut self,
        seat: usize,
        base: Option<&DocumentBase>,
        from: u64,
        records: &[Record],
    ) -> Result<Result<Head, Refusal>> {
        let offer = self.offering(seat, base, from, records)?;
        let core = self.lost.core().await?;
        self.give_by(core.state.state(), offer).await
    }

    pub(super) fn offering<'a>(
        &self,
        seat: usize,
        base: Option<&'a DocumentBase>,
        from: u64,
        records: &'a [Record],
    ) -> Result<returned::Offer<'a>> {
        let first = records.first().context("no record")?;
        let (group, document) = (GROUP, first.header.document);
        Ok(returned::Offer {
            device: self.device(seat)?,
            log: LogId { group, document },
            base,
            from,
            records,
        })
    }

    /// As before, where the group was looked at earlier.
    pub(super) async fn give_by(
        &mut self,
        view: &GroupState,
        offer: returned::Offer<'_>,
    ) -> Result<Result<Head, Refusal>> {
        let mut rows = Rows::default();
        let op = loop {
            match ReturnDocument::judge(offer, view, self.now, &rows) {
                Ok(op) => break Op::ReturnDocument(Box::new(op)),
                Err(Stop::Lacks(keys)) => {
                    rows.extend(self.lost.load(|wanted| wanted.extend(*keys)).await?);
                }
                Err(stop) => return refused(stop),
            }
        };
        self.end(op).await
    }

    async fn end(&mut self, op: Op) -> Result<Result<Head, Refusal>> {
        match self.lost.run(op).await? {
            Event::Returned { head, .. } => Ok(Ok(head)),
            Event::Refused(refusal) => Ok(Err(refusal)),
            event => bail!("{event:?}"),
        }
    }

    /// All that the two have.
    pub(super) async fn both(&self) -> Result<(Dump, Dump)> {
        let mut known = Known {
            groups: vec![GROUP],
            logs: self.logs.clone(),
            ..Known::default()
        };
        for seat in &self.seats {
            known.keys.memberships.insert(seat.member.device);
            known.keys.waiting.insert(seat.member.device);
        }
        let full = dump(&self.full.database, &known).await?;
        Ok((full, dump(&self.lost.database, &known).await?))
    }

    /// All that the copy has.
    pub(super) async fn copy(&self) -> Result<Dump> {
        Ok(self.both().await?.1)
    }
}

fn refused<T>(stop: Stop) -> Result<Result<T, Refusal>> {
    match stop {
        Stop::Refused(refusal) => Ok(Err(refusal)),
        stop => bail!("{stop:?}"),
    }
}

/// Takes the Welcome that waits for somebody.
pub(super) async fn join<D: Database>(side: &Side<D>, seat: &mut Seat) -> Result<()> {
    let device = seat.member.device;
    let mut reads = side.database.reader().await?;
    let row = waiting(&mut reads, device).await?.pop();
    let row = row.context("no welcome waits")?;
    let delivery = welcome(&mut reads, &row).await?.context("no welcome")?;
    let context = seat.member.context();
    let (group, _) = ClientGroup::join(&context, &mut seat.keys, &delivery, NOW)?;
    seat.group = Some(group);
    Ok(())
}

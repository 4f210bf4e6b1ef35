//! The CRDT, and what it takes to build it again: a checkpoint and the records since.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::cost::Meter;
use conclave_crdt::{Crdt, CrdtError, CrdtKind, Inspected, ReplicaId};
use conclave_proto::hash::labelled;
use conclave_proto::record::{Record, RecordBody};
use conclave_proto::{Author, DeviceId, DocumentId, InstanceId};
use rand_core::CryptoRngCore;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::candidate::Encoded;
use crate::charge::ANY;
use crate::context::DocContext;
use crate::state::{Effect, LogState, News};
use crate::watch::{At, RecordAt, Watch};

/// Plaintext: wiped when dropped, never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Plain(pub Zeroizing<Vec<u8>>);

impl Plain {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Vec<u8>> for Plain {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<Zeroizing<Vec<u8>>> for Plain {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plain({} bytes)", self.len())
    }
}

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Plain;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Plain, E> {
                Ok(Plain::from(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Plain, E> {
                Ok(Plain::from(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// Fresh ids, from a seed drawn when the document was opened and kept only in memory.
pub(crate) struct Fresh {
    seed: Zeroizing<[u8; 32]>,
    counter: u64,
}

impl Fresh {
    pub(crate) fn new(rng: &mut dyn CryptoRngCore) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self { seed, counter: 0 }
    }

    /// Mixes in fresh randomness, so that two copies of a running store part.
    pub(crate) fn stir(&mut self, rng: &mut dyn CryptoRngCore) {
        let mut more = Zeroizing::new([0; 32]);
        rng.fill_bytes(more.as_mut());
        let parts: [&[u8]; 2] = [self.seed.as_slice(), more.as_slice()];
        let mixed = Zeroizing::new(labelled("conclave 1.0 fresh seed", &parts).0);
        self.seed = mixed;
    }

    fn next(&mut self) -> [u8; 32] {
        self.counter = self.counter.saturating_add(1);
        labelled(
            "conclave 1.0 fresh id",
            &[self.seed.as_slice(), &self.counter.to_be_bytes()],
        )
        .0
    }

    pub(crate) fn replica(&mut self, kind: CrdtKind) -> ReplicaId {
        let [seed @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.next();
        ReplicaId::for_kind(kind, seed)
    }

    pub(crate) fn instance(&mut self) -> InstanceId {
        let [a, b, c, d, e, f, g, h, ..] = self.next();
        InstanceId([a, b, c, d, e, f, g, h])
    }
}

/// State of everything after the first `size` records.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub size: u64,
    pub state: LogState,
    pub crdt: Plain,
}

/// One record since the checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct TailEntry {
    pub effect: Effect,
    /// The update, where it was applied.
    pub update: Option<Plain>,
    /// The record as received, until it is in the store.
    pub sealed: Option<Received>,
    /// A chained record that was not applied, but might be if what lies before it in the log turned out to mean something else.
    pub idle: Option<Idle>,
}

/// A record as received, encoded.
#[derive(Debug, Clone)]
pub(crate) enum Received {
    Chained(Vec<u8>),
    /// It has a row of its own.
    Snapshot(Vec<u8>),
}

impl Received {
    pub(crate) fn of(record: &Record, encoded: Encoded) -> Self {
        let bytes = encoded.into_bytes();
        match record.header.body {
            RecordBody::Snapshot(_) => Self::Snapshot(bytes),
            _ => Self::Chained(bytes),
        }
    }
}

/// A record that was not applied.
#[derive(Debug, Clone)]
pub(crate) enum Idle {
    /// As received.
    Sealed(Box<Record>),
    /// Its update.
    Open(Plain),
}

impl TailEntry {
    /// Which record it is: the one at index `at` of a tail that begins at position `first`.
    pub(crate) fn place(&self, first: u64, at: usize) -> RecordAt {
        let nobody = Author {
            device: DeviceId([0; 16]),
            instance: InstanceId([0; 8]),
        };
        RecordAt {
            seq: first.saturating_add(at as u64),
            id: self.effect.leaf,
            author: self.effect.link.map_or(nobody, |(author, _)| author),
            bytes: self.effect.bytes,
        }
    }

    /// Its epoch, where it is an update or may still turn out to be one.
    fn content_epoch(&self) -> Option<u64> {
        let has_content = self.update.is_some() || self.idle.is_some();
        self.effect.epoch.filter(|_| has_content)
    }
}

/// The CRDT with its history.
pub(crate) struct Content {
    pub kind: CrdtKind,
    pub crdt: Box<dyn Crdt>,
    pub checkpoint: Checkpoint,
    /// Records from the checkpoint on, without gaps.
    pub tail: Vec<TailEntry>,
    /// Encoded bytes of the records in the tail.
    pub tail_bytes: u64,
    /// Epochs of the updates in the tail, and of what may still turn out to be one, with how many there are.
    epochs: BTreeMap<u64, usize>,
    /// Positions in the tail of records set aside.
    pub aside: BTreeSet<u64>,
    /// Positions in the tail of records that are void.
    pub void: BTreeSet<u64>,
    /// What counting has learnt of the log so far; made where it is needed.
    pub meter: Option<Meter>,
    /// How many updates were counted for what is to be sent.
    pub counts: u64,
    /// What was loaded ends before the tail does, before a record that no engine is given again.
    ends_early: bool,
    /// Says which records an engine has.
    pub watch: Watch,
    /// Indices into `tail` of updates that the CRDT has yet to see, as they were read.
    unapplied: Vec<(usize, Inspected)>,
}

/// An update of the log as it was read, counted on what is before it. Where others before it are left out for once it may cost more than it did.
fn counted(crdt: &dyn Crdt, meter: &mut Meter, update: &Plain) -> Result<Inspected, CrdtError> {
    let mut read = crdt.inspect(update.as_slice())?;
    let _ = meter.count(update.as_slice(), &mut read, ANY);
    Ok(read)
}

/// Own edits that nobody has seen, to be put on top of the log. With `waits` what waits in the log goes on waiting, also for what they hold: it comes in
/// where they have their place, which is elsewhere in the order.
fn overlay<'a>(
    crdt: &dyn Crdt,
    meter: &mut Meter,
    own: &[&'a Plain],
    waits: bool,
) -> Result<Vec<(&'a [u8], Inspected)>, CrdtError> {
    let any = meter.waiting() > 0;
    let mut counted = 0;
    let mut read_all = Vec::with_capacity(own.len());
    for update in own {
        let read = crdt.inspect(update.as_slice());
        if any && let Ok(mut read) = read {
            let on_top = meter.count_on_top(update.as_slice(), &mut read, ANY);
            counted += usize::from(on_top.is_ok());
            if waits {
                read.keep_waiting();
            }
            read_all.push(Ok((update.as_slice(), read)));
        } else {
            read_all.push(read.map(|read| (update.as_slice(), read)));
        }
    }
    for _ in 0..counted {
        meter.revert();
    }
    read_all.into_iter().collect()
}

/// Gives an engine updates of the log: in one call, or one after the other where it is to be told at which it is.
fn give(
    crdt: &mut dyn Crdt,
    watch: &Watch,
    updates: Vec<(RecordAt, &[u8], Inspected)>,
) -> Result<(), CrdtError> {
    if watch.is_singly() {
        for (record, update, read) in updates {
            watch.with_records(&[record], || crdt.apply_inspected(vec![(update, read)]))?;
        }
        return Ok(());
    }
    if updates.is_empty() {
        return Ok(());
    }
    let records: Vec<RecordAt> = updates.iter().map(|(record, ..)| *record).collect();
    let updates = updates.into_iter().map(|(_, update, read)| (update, read));
    let updates = updates.collect();
    watch.with_records(&records, || crdt.apply_inspected(updates).map(|_| ()))
}

impl Content {
    /// Loads the checkpoint. The tail is pushed and applied afterwards.
    pub(crate) fn new(
        kind: CrdtKind,
        checkpoint: Checkpoint,
        watch: Watch,
        fresh: &mut Fresh,
    ) -> Result<Self, CrdtError> {
        let crdt = conclave_crdt::load(kind, checkpoint.crdt.as_slice(), fresh.replica(kind))?;
        Ok(Self {
            kind,
            crdt,
            checkpoint,
            tail: Vec::new(),
            tail_bytes: 0,
            epochs: BTreeMap::new(),
            aside: BTreeSet::new(),
            void: BTreeSet::new(),
            meter: None,
            counts: 0,
            ends_early: false,
            watch,
            unapplied: Vec::new(),
        })
    }

    /// Counter of a replica's first operation.
    pub(crate) fn first_counter(&self) -> u64 {
        self.kind.first_counter()
    }

    /// Epochs of the updates since the checkpoint, and of what may still turn out to be one.
    pub(crate) fn tail_epochs(&self) -> impl Iterator<Item = u64> {
        self.epochs.keys().copied()
    }

    /// Position of the next record.
    pub(crate) fn size(&self) -> u64 {
        self.checkpoint.size.saturating_add(self.tail.len() as u64)
    }

    /// Adds a record; with its update as it was read, where the CRDT has yet to see it.
    pub(crate) fn push(&mut self, entry: TailEntry, unapplied: Option<Inspected>) {
        self.tail_bytes = self
            .tail_bytes
            .saturating_add(u64::from(entry.effect.bytes));
        if let Some(epoch) = entry.content_epoch() {
            let count = self.epochs.entry(epoch).or_default();
            *count = count.saturating_add(1);
        }
        match entry.effect.news {
            News::Aside => self.aside.insert(self.size()),
            News::Void => self.void.insert(self.size()),
            _ => false,
        };
        let at = self.tail.len();
        let unapplied = unapplied.filter(|_| entry.update.is_some());
        self.unapplied.extend(unapplied.map(|read| (at, read)));
        self.tail.push(entry);
    }

    /// Applies what has been pushed, in one engine call where nothing is wrong with it. Gives the position of the first update that the engine
    /// refuses, at every member alike: from there on the log is to be judged again without it, since what follows was judged as if it had
    /// content. `own` gives own edits without a place in the log, where they are needed.
    pub(crate) fn apply_pushed<'a>(
        &mut self,
        own: impl FnOnce() -> Vec<&'a Plain>,
        fresh: &mut Fresh,
    ) -> Result<Option<u64>, CrdtError> {
        let unapplied = std::mem::take(&mut self.unapplied);
        if unapplied.is_empty() {
            return Ok(None);
        }
        let wanted: Vec<usize> = unapplied.iter().map(|(at, _)| *at).collect();
        let (tail, first) = (&self.tail, self.checkpoint.size);
        let updates = unapplied.into_iter().filter_map(|(at, read)| {
            let entry = tail.get(at)?;
            let update = entry.update.as_ref()?;
            Some((entry.place(first, at), update.as_slice(), read))
        });
        let updates = updates.collect();
        if give(self.crdt.as_mut(), &self.watch, updates).is_ok() {
            return Ok(None);
        }
        self.apply_singly(wanted, &own(), fresh)
    }

    /// After loading: applies tail and own edits in one engine call.
    pub(crate) fn load_all(&mut self, own: &[&Plain], fresh: &mut Fresh) -> Result<(), CrdtError> {
        self.unapplied.clear();
        let (crdt, meter) = self.rebuild_counted(self.size(), &BTreeSet::new(), own, fresh)?;
        (self.crdt, self.meter) = (crdt, Some(meter));
        Ok(())
    }

    /// After loading, where an engine is not to be given the record at `size` again: applies what is before it.
    pub(crate) fn load_before(&mut self, size: u64, fresh: &mut Fresh) -> Result<(), CrdtError> {
        self.unapplied.clear();
        self.crdt = self.rebuild(size, &BTreeSet::new(), &[], fresh)?;
        self.meter = None;
        self.ends_early = true;
        Ok(())
    }

    /// One of these updates is bad. Starts from before them and finds out which is the first. Where there is one, the engine may have been poisoned
    /// half-way.
    fn apply_singly(
        &mut self,
        wanted: Vec<usize>,
        own: &[&Plain],
        fresh: &mut Fresh,
    ) -> Result<Option<u64>, CrdtError> {
        let skip: BTreeSet<usize> = wanted.iter().copied().collect();
        let mut meter;
        (self.crdt, meter) = self.rebuild_counted(self.size(), &skip, own, fresh)?;
        for at in wanted {
            let Some(entry) = self.tail.get(at) else {
                continue;
            };
            let Some(update) = entry.update.clone() else {
                continue;
            };
            let place = entry.place(self.checkpoint.size, at);
            let crdt = self.crdt.as_mut();
            let applied = self.watch.with_records(&[place], || {
                let read = counted(crdt, &mut meter, &update)?;
                Ok::<_, CrdtError>(crdt.apply_inspected(vec![(update.as_slice(), read)]))
            });
            if applied?.is_err() {
                return Ok(Some(self.checkpoint.size.saturating_add(at as u64)));
            }
        }
        Ok(None)
    }

    /// The CRDT after the first `size` records, without the updates at `skip`, plus `own` edits.
    pub(crate) fn rebuild(
        &self,
        size: u64,
        skip: &BTreeSet<usize>,
        own: &[&Plain],
        fresh: &mut Fresh,
    ) -> Result<Box<dyn Crdt>, CrdtError> {
        let (crdt, _) = self.rebuild_counted(size, skip, own, fresh)?;
        Ok(crdt)
    }

    /// The same, with the meter of these records: the engine takes them in as they were counted.
    fn rebuild_counted(
        &self,
        size: u64,
        skip: &BTreeSet<usize>,
        own: &[&Plain],
        fresh: &mut Fresh,
    ) -> Result<(Box<dyn Crdt>, Meter), CrdtError> {
        let (mut crdt, mut meter) = self.rebuild_log(size, skip, fresh)?;
        if own.is_empty() {
            return Ok((crdt, meter));
        }
        let waits = meter.waiting() > 0;
        let overlay = overlay(crdt.as_ref(), &mut meter, own, waits)?;
        if let Err(error) = crdt.apply_inspected(overlay) {
            if !waits {
                return Err(error);
            }
            // They go on from what has waited: then it comes in with them, as it will in the log.
            (crdt, meter) = self.rebuild_log(size, skip, fresh)?;
            let overlay = self::overlay(crdt.as_ref(), &mut meter, own, false)?;
            crdt.apply_inspected(overlay)?;
        }
        Ok((crdt, meter))
    }

    /// The same without own edits.
    fn rebuild_log(
        &self,
        size: u64,
        skip: &BTreeSet<usize>,
        fresh: &mut Fresh,
    ) -> Result<(Box<dyn Crdt>, Meter), CrdtError> {
        let count =
            usize::try_from(size.saturating_sub(self.checkpoint.size)).unwrap_or(usize::MAX);
        let (mut crdt, mut meter) = self.watch.within(At::Stored, || {
            let state = self.checkpoint.crdt.as_slice();
            let crdt = conclave_crdt::load(self.kind, state, fresh.replica(self.kind))?;
            Ok::<_, CrdtError>((crdt, Meter::load(self.kind, state)?))
        })?;
        let first = self.checkpoint.size;
        let mut updates = Vec::new();
        for (at, entry) in self.tail.iter().take(count).enumerate() {
            if let Some(update) = entry.update.as_ref().filter(|_| !skip.contains(&at)) {
                let read = counted(crdt.as_ref(), &mut meter, update)?;
                updates.push((entry.place(first, at), update.as_slice(), read));
            }
        }
        give(crdt.as_mut(), &self.watch, updates)?;
        Ok((crdt, meter))
    }

    /// State of the log after the first `size` records, which must not lie before the checkpoint.
    pub(crate) fn state_at(&self, size: u64) -> LogState {
        let mut state = self.checkpoint.state.clone();
        for (seq, entry) in (self.checkpoint.size..size).zip(&self.tail) {
            state.apply(seq, &entry.effect);
        }
        state
    }

    /// Everything so far becomes the checkpoint.
    pub(crate) fn set_checkpoint(&mut self, state: LogState, crdt: Plain) {
        let size = self.size();
        self.checkpoint = Checkpoint { size, state, crdt };
        self.tail.clear();
        self.tail_bytes = 0;
        self.epochs.clear();
        self.aside.clear();
        self.void.clear();
        self.unapplied.clear();
    }

    /// Takes back the records from position `from` on, which must not lie before the checkpoint. The CRDT is built again without them, and
    /// without own edits.
    pub(crate) fn take_from(
        &mut self,
        from: u64,
        fresh: &mut Fresh,
    ) -> Result<Vec<TailEntry>, CrdtError> {
        let (crdt, meter) = self.rebuild_counted(from, &BTreeSet::new(), &[], fresh)?;
        (self.crdt, self.meter) = (crdt, Some(meter));
        self.ends_early = false;
        let at = usize::try_from(from.saturating_sub(self.checkpoint.size)).unwrap_or(usize::MAX);
        let taken = self.tail.split_off(at.min(self.tail.len()));
        for entry in &taken {
            self.tail_bytes = self
                .tail_bytes
                .saturating_sub(u64::from(entry.effect.bytes));
            if let Some(epoch) = entry.content_epoch()
                && let Some(count) = self.epochs.get_mut(&epoch)
            {
                *count = count.saturating_sub(1);
            }
        }
        self.epochs.retain(|_, count| *count > 0);
        self.aside.split_off(&from);
        self.void.split_off(&from);
        self.unapplied.clear();
        Ok(taken)
    }

    /// Position of the first record with content that no engine is to be given again: it is void by now, and work was stuck at it.
    pub(crate) fn first_avoided(&self, ctx: &DocContext<'_>, document: DocumentId) -> Option<u64> {
        let stuck = self.watch.stuck().iter();
        let mut void = stuck.filter(|id| ctx.authority.is_void(&document, id));
        void.next()?;
        let first = self.checkpoint.size;
        let tail = (first..).zip(&self.tail);
        let mut found =
            tail.filter(|(_, entry)| entry.update.is_some() && self.avoids(ctx, document, entry));
        found.next().map(|(seq, _)| seq)
    }

    /// Whether no engine is to be given a record again.
    pub(crate) fn avoids(
        &self,
        ctx: &DocContext<'_>,
        document: DocumentId,
        entry: &TailEntry,
    ) -> bool {
        let leaf = &entry.effect.leaf;
        self.watch.stuck().contains(leaf) && ctx.authority.is_void(&document, leaf)
    }

    /// Whether all that was loaded is in the CRDT.
    pub(crate) fn is_whole(&self) -> bool {
        !self.ends_early
    }

    /// Epochs of the records set aside.
    pub(crate) fn aside_epochs(&self) -> BTreeSet<u64> {
        let epoch = |seq: &u64| self.entry(*seq)?.effect.epoch;
        self.aside.iter().filter_map(epoch).collect()
    }

    /// The record at a position in the tail.
    pub(crate) fn entry(&self, seq: u64) -> Option<&TailEntry> {
        let at = seq.checked_sub(self.checkpoint.size)?;
        self.tail.get(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Tables;
    use crate::state::SnapshotInfo;
    use crate::weight::Weight;
    use conclave_proto::{Hash, Head, UserId};
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    fn update(epoch: u64) -> TailEntry {
        TailEntry {
            effect: Effect {
                leaf: Hash::ZERO,
                bytes: 1,
                epoch: Some(epoch),
                link: None,
                claims: Vec::new(),
                carried: None,
                costs: Vec::new(),
                ops: None,
                news: News::Update,
            },
            // One of nothing.
            update: Some(Plain::from(vec![0, 0])),
            sealed: None,
            idle: None,
        }
    }

    fn empty() -> Content {
        let mut fresh = Fresh::new(&mut ChaCha8Rng::seed_from_u64(1));
        let kind = CrdtKind::Yjs;
        let mut crdt = conclave_crdt::create(kind, fresh.replica(kind)).unwrap();
        let first = SnapshotInfo {
            seq: 0,
            id: Hash::ZERO,
            author: Author {
                device: DeviceId([1; 16]),
                instance: InstanceId([1; 8]),
            },
            user: UserId([1; 32]),
            epoch: 0,
            parent: Hash::ZERO,
            chain_proof: Hash::ZERO,
            covered: Head::EMPTY,
            bytes: 1,
            weight: Weight::default(),
        };
        let checkpoint = Checkpoint {
            size: 0,
            state: LogState::new(kind, Tables::default(), None, first),
            crdt: Plain::from(crdt.snapshot().unwrap()),
        };
        Content::new(kind, checkpoint, Watch::default(), &mut fresh).unwrap()
    }

    /// Asked after every edit: as much work as there are epochs, however long the tail is.
    #[test]
    fn epochs_of_the_tail_are_kept_and_not_looked_for() {
        let mut content = empty();
        for at in 0..20_000u64 {
            content.push(update(3 + at / 15_000), None);
        }
        assert!(content.tail_epochs().eq([3, 4]));
        let mut fresh = Fresh::new(&mut ChaCha8Rng::seed_from_u64(2));
        content.take_from(15_000, &mut fresh).unwrap();
        assert!(content.tail_epochs().eq([3]));
        let state = content.checkpoint.state.clone();
        content.set_checkpoint(state, Plain::default());
        assert_eq!(content.tail_epochs().next(), None);
    }
}

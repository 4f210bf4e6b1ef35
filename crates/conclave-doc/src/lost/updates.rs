//! The lost updates that a document holds, so kept that what a frame changes is found without a look at all of them.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::{Crdt, OpRange, ReplicaId};
use conclave_proto::{DeviceId, Hash};

use crate::content::Plain;
use crate::light::Tried;
use crate::payload::{CarriedPayload, Tables};
use crate::seal::open_with;

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    /// The record as its author signed it, and its keys.
    pub payload: CarriedPayload,
    pub leaf: Hash,
    pub plain: Plain,
    /// Operations in it.
    pub ranges: Vec<OpRange>,
}

impl Lost {
    /// Reads what is lost. None where it is no update that can be opened and read.
    pub(crate) fn read(payload: CarriedPayload, crdt: &dyn Crdt) -> Option<Self> {
        let plain = Plain::from(open_with(&payload.record, &payload.keys).ok()?);
        let read = crdt.inspect(plain.as_slice()).ok()?;
        Some(Self {
            leaf: payload.record.leaf(),
            payload,
            plain,
            ranges: read.info.ranges,
        })
    }

    /// The device that wrote it.
    pub(crate) fn device(&self) -> DeviceId {
        self.payload.record.header.author.device
    }

    /// Where its operations under one replica id end; none where it only deletes. All of them are known when one range is, or what it says is refused.
    fn end(&self) -> Option<(&ReplicaId, u64)> {
        let range = self.ranges.first()?;
        Some((&range.replica, range.end))
    }
}

/// All of them, in the order in which they once stood.
#[derive(Default)]
pub(crate) struct LostUpdates {
    items: BTreeMap<u64, Lost>,
    by_leaf: BTreeMap<Hash, u64>,
    /// Where their operations end, by replica id.
    ends: BTreeMap<ReplicaId, BTreeSet<(u64, u64)>>,
    /// Those that are not queued to be carried, by their authors' devices.
    waiting: BTreeMap<DeviceId, BTreeSet<u64>>,
    /// Those that are in the log by the word of a snapshot alone that nobody has checked yet: they stay until somebody has.
    claimed: BTreeSet<u64>,
    dirty: BTreeSet<u64>,
    stored: BTreeSet<u64>,
    /// Those that would have cost too much when they were counted, and what goes on from them.
    held: BTreeSet<u64>,
    /// When that was.
    tried: Option<Tried>,
    /// Those that would cost more than any update may: nobody can carry them.
    never: BTreeSet<u64>,
}

impl LostUpdates {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many are not in the log as far as anybody says.
    pub(crate) fn count(&self) -> usize {
        self.items.len().saturating_sub(self.claimed.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lost> {
        self.items.values()
    }

    pub(crate) fn plains(&self) -> impl Iterator<Item = &Plain> {
        self.items.values().map(|lost| &lost.plain)
    }

    /// The update of one of them.
    pub(crate) fn plain_of(&self, leaf: &Hash) -> Option<&Plain> {
        let lost = self.items.get(self.by_leaf.get(leaf)?)?;
        Some(&lost.plain)
    }

    /// Whether some wait to be paid for, or cannot be.
    pub(crate) fn is_holding(&self) -> bool {
        !self.held.is_empty() || !self.never.is_empty()
    }

    /// Whether one that waits to be paid for, or cannot be, writes under this replica id: before the one with this id, if there is one.
    pub(crate) fn holds_under(&self, replica: &ReplicaId, before: Option<&Hash>) -> bool {
        let before = before.and_then(|leaf| self.by_leaf.get(leaf)).copied();
        let ends = self.ends.get(replica);
        let mut numbers = ends.into_iter().flatten().map(|(_, number)| *number);
        numbers.any(|number| {
            let stays = self.held.contains(&number) || self.never.contains(&number);
            before.is_none_or(|before| number < before) && stays
        })
    }

    /// One that was queued would cost more than there is to pay with: it waits for that.
    pub(crate) fn hold(&mut self, leaf: &Hash, tried: Tried) {
        if let Some(number) = self.by_leaf.get(leaf) {
            self.held.insert(*number);
            self.tried = Some(tried);
        }
    }

    /// One that was queued can never be paid for.
    pub(crate) fn never(&mut self, leaf: &Hash) {
        self.never.extend(self.by_leaf.get(leaf));
    }

    /// Whether it can be carried by nobody.
    pub(crate) fn is_never(&self, lost: &Lost) -> bool {
        let number = self.by_leaf.get(&lost.leaf);
        number.is_some_and(|number| self.never.contains(number))
    }

    /// When those that wait to be paid for were looked at last, if there are any.
    pub(crate) fn tried(&self) -> Option<&Tried> {
        self.tried.as_ref().filter(|_| !self.held.is_empty())
    }

    /// Those that wait to be paid for are looked at again.
    pub(crate) fn try_again(&mut self) {
        self.tried = None;
        for number in std::mem::take(&mut self.held) {
            if let Some(lost) = self.items.get(&number) {
                let waiting = self.waiting.entry(lost.device()).or_default();
                waiting.insert(number);
            }
        }
    }

    /// Their authors' devices.
    pub(crate) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.items.values().map(Lost::device)
    }

    /// Those of one device, or of all others.
    pub(crate) fn of(&self, device: DeviceId, own: bool) -> impl Iterator<Item = &Lost> {
        let all = self.items.values();
        all.filter(move |lost| (lost.device() == device) == own)
    }

    pub(crate) fn into_values(self) -> impl Iterator<Item = Lost> {
        self.items.into_values()
    }

    pub(crate) fn add(&mut self, lost: Lost) {
        if self.by_leaf.contains_key(&lost.leaf) {
            return;
        }
        let last = self.items.last_key_value().map(|(number, _)| *number);
        let number = last.map_or(0, |last| last.saturating_add(1));
        self.dirty.insert(number);
        self.insert(number, lost);
    }

    pub(crate) fn restore(&mut self, number: u64, lost: Lost) {
        self.stored.insert(number);
        self.insert(number, lost);
    }

    fn insert(&mut self, number: u64, lost: Lost) {
        self.by_leaf.insert(lost.leaf, number);
        self.watch(number, &lost);
        self.items.insert(number, lost);
    }

    fn watch(&mut self, number: u64, lost: &Lost) {
        if let Some((replica, end)) = lost.end() {
            let ends = self.ends.entry(replica.clone()).or_default();
            ends.insert((end, number));
        }
        let waiting = self.waiting.entry(lost.device()).or_default();
        waiting.insert(number);
    }

    fn unwatch(&mut self, number: u64, lost: &Lost) {
        if let Some((replica, end)) = lost.end() {
            forget(&mut self.ends, replica, &(end, number));
        }
        forget(&mut self.waiting, &lost.device(), &number);
        self.held.remove(&number);
        self.never.remove(&number);
    }

    /// A snapshot that nobody has checked yet says that it is in the log.
    pub(crate) fn claim(&mut self, leaf: &Hash) {
        let Some(number) = self.by_leaf.get(leaf).copied() else {
            return;
        };
        // What is on its way is known when it has its place.
        let waits = self.items.get(&number).filter(|lost| !self.is_queued(lost));
        if waits.is_none() {
            return;
        }
        if let Some(lost) = self.items.remove(&number) {
            self.unwatch(number, &lost);
            self.claimed.insert(number);
            self.items.insert(number, lost);
        }
    }

    /// Another snapshot is to be believed, or not.
    pub(crate) fn unclaim(&mut self) {
        for number in std::mem::take(&mut self.claimed) {
            if let Some(lost) = self.items.remove(&number) {
                self.watch(number, &lost);
                self.items.insert(number, lost);
            }
        }
    }

    /// Those of which a snapshot says that they are in the log.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = &Lost> {
        let numbers = self.claimed.iter();
        numbers.filter_map(|number| self.items.get(number))
    }

    fn is_claimed(&self, lost: &Lost) -> bool {
        let number = self.by_leaf.get(&lost.leaf);
        number.is_some_and(|number| self.claimed.contains(number))
    }

    /// Takes out the one of this record.
    pub(crate) fn remove_record(&mut self, leaf: &Hash) -> Option<Lost> {
        let number = self.by_leaf.remove(leaf)?;
        self.dirty.insert(number);
        let lost = self.items.remove(&number)?;
        self.unwatch(number, &lost);
        self.claimed.remove(&number);
        Some(lost)
    }

    pub(crate) fn remove(&mut self, gone: impl Fn(&Lost) -> bool) -> Vec<Lost> {
        let found = self.items.values().filter(|lost| gone(lost));
        let leaves: Vec<Hash> = found.map(|lost| lost.leaf).collect();
        let found = leaves.iter();
        found.filter_map(|leaf| self.remove_record(leaf)).collect()
    }

    /// Those of whose operations the log of these chains may know all by now.
    pub(crate) fn reached(&self, tables: &Tables) -> Vec<&Lost> {
        let reached = self.ends.iter().flat_map(|(replica, ends)| {
            let next = tables.owners.get(replica).map_or(0, |owner| owner.next);
            ends.range(..=(next, u64::MAX))
        });
        reached
            .filter_map(|(_, number)| self.items.get(number))
            .collect()
    }

    /// It is queued to be carried.
    pub(crate) fn queued(&mut self, leaf: &Hash) {
        let Some(number) = self.by_leaf.get(leaf) else {
            return;
        };
        if let Some(lost) = self.items.get(number) {
            forget(&mut self.waiting, &lost.device(), number);
        }
    }

    /// None is queued any more.
    pub(crate) fn none_queued(&mut self) {
        let left = self.items.iter();
        let aside = |number: &u64| {
            [&self.claimed, &self.held, &self.never]
                .iter()
                .any(|set| set.contains(number))
        };
        for (number, lost) in left.filter(|(number, _)| !aside(number)) {
            let waiting = self.waiting.entry(lost.device()).or_default();
            waiting.insert(*number);
        }
    }

    /// Whether it waits to be carried: neither queued for that, nor held, nor too costly, nor claimed to be in the log.
    pub(crate) fn is_waiting(&self, lost: &Lost) -> bool {
        let waiting = self.waiting.get(&lost.device());
        let number = self.by_leaf.get(&lost.leaf);
        number.is_some_and(|number| waiting.is_some_and(|it| it.contains(number)))
    }

    /// Whether it is queued to be carried.
    pub(crate) fn is_queued(&self, lost: &Lost) -> bool {
        let waiting = self.waiting.get(&lost.device());
        let number = self.by_leaf.get(&lost.leaf);
        let waits = number.is_some_and(|number| waiting.is_some_and(|it| it.contains(number)));
        let held = number.is_some_and(|number| self.held.contains(number));
        !waits && !held && !self.is_never(lost) && !self.is_claimed(lost)
    }

    /// Devices of which some are not queued to be carried.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &DeviceId> {
        self.waiting.keys()
    }

    /// Rows to write and to delete since the last call.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Option<&CarriedPayload>)> {
        let mut out = Vec::new();
        for number in std::mem::take(&mut self.dirty) {
            match self.items.get(&number) {
                Some(lost) => {
                    self.stored.insert(number);
                    out.push((number, Some(&lost.payload)));
                }
                None if self.stored.remove(&number) => out.push((number, None)),
                None => {}
            }
        }
        out
    }
}

/// Takes one out of the set at a key, and the set with its last.
fn forget<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::codec::encode;
    use conclave_proto::record::{Chained, RecordBody, Sealed};
    use conclave_proto::{Author, GroupId, Head, InstanceId, Record};

    use super::*;
    use crate::outbox::header_template;
    use crate::payload::ReplicaOwner;

    const ANA: DeviceId = DeviceId([1; 16]);
    const BEN: DeviceId = DeviceId([2; 16]);

    fn replica(device: DeviceId) -> ReplicaId {
        ReplicaId::from_bytes(&device.0[..2]).unwrap()
    }

    /// An update with one operation, or none.
    fn lost(device: DeviceId, clock: u64, inserts: bool) -> Lost {
        let instance = InstanceId([7; 8]);
        let author = Author { device, instance };
        let group = GroupId([3; 16]);
        let document = conclave_proto::DocumentId([4; 16]);
        let mut header = header_template(group, document, 0, author, Head::EMPTY);
        let prev = Hash([0; 32]);
        header.body = RecordBody::Update(Chained { clock, prev });
        let sealed = Sealed {
            nonce: [0; 24],
            ciphertext: Vec::new().into(),
            tag: [0; 16],
            commitment: [0; 32],
            signature: [0; 64],
        };
        let record = Record { header, sealed };
        let leaf = record.leaf();
        let bytes = [encode(&record), vec![0; 64]].concat();
        let range = OpRange {
            replica: replica(device),
            start: clock,
            end: clock + 1,
        };
        Lost {
            payload: CarriedPayload::from_bytes(&bytes).unwrap(),
            leaf,
            plain: Plain::default(),
            ranges: if inserts { vec![range] } else { Vec::new() },
        }
    }

    fn reached(all: &LostUpdates, ana: u64, ben: u64) -> Vec<Hash> {
        let mut tables = Tables::default();
        for (device, next) in [(ANA, ana), (BEN, ben)] {
            let owner = ReplicaOwner { device, next };
            tables.owners.insert(replica(device), owner);
        }
        all.reached(&tables).iter().map(|lost| lost.leaf).collect()
    }

    /// However many wait, only those are looked at of which the log has come to the end.
    #[test]
    fn what_the_log_reaches_is_found_without_the_rest() {
        let mut all = LostUpdates::default();
        for clock in 0..200 {
            all.add(lost(ANA, clock, true));
            all.add(lost(BEN, clock, true));
        }
        all.add(lost(BEN, 200, false));
        assert_eq!(reached(&all, 0, 0), []);
        let first = lost(ANA, 0, true).leaf;
        assert_eq!(reached(&all, 1, 0), [first]);
        assert!(all.remove_record(&first).is_some());
        assert_eq!(reached(&all, 1, 0), []);
        assert_eq!(reached(&all, 3, 1).len(), 3);
        assert_eq!(reached(&all, 999, 999).len(), 399, "deletions have no end");
    }

    #[test]
    fn what_is_queued_does_not_wait() {
        let mut all = LostUpdates::default();
        let (one, other) = (lost(ANA, 0, true), lost(BEN, 0, false));
        for lost in [&one, &other] {
            all.add(lost.clone());
            assert!(!all.is_queued(lost));
        }
        assert_eq!(all.waiting().count(), 2);
        all.queued(&one.leaf);
        assert!(all.is_queued(&one));
        assert_eq!(all.waiting().collect::<Vec<_>>(), [&BEN]);
        all.queued(&other.leaf);
        assert_eq!(all.waiting().count(), 0);
        all.none_queued();
        assert_eq!(all.waiting().count(), 2);
    }
}

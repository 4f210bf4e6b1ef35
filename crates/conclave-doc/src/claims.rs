//! Which record brought an operation: for each replica id the records that wrote under it, in the order of the log, which is that of its counters.
//!
//! A device that judged the log knows them all. In a snapshot they travel whole or not at all (`docs/PROTOCOL.md`, Claims): whoever opens the document from
//! one without them knows those of the records that followed.

use std::collections::BTreeMap;

use conclave_crdt::ReplicaId;
use conclave_proto::DeviceId;
use serde::{Deserialize, Serialize};

use crate::payload::ReplicaOwner;

/// Records that stand one after another in the log, and of which each brought equally many operations of a replica id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct ClaimRun {
    /// Counter of the first operation.
    pub counter: u64,
    /// Position of the first record.
    pub seq: u64,
    /// How many records.
    pub records: u64,
    /// Operations of each.
    pub each: u64,
    /// Who carried the records, where that was not the device that wrote the operations.
    pub carrier: Option<DeviceId>,
}

// There may be one for each record: names of fields would be half of it.
type Stored = (u64, u64, u64, u64, Option<DeviceId>);

impl From<Stored> for ClaimRun {
    fn from((counter, seq, records, each, carrier): Stored) -> Self {
        Self {
            counter,
            seq,
            records,
            each,
            carrier,
        }
    }
}

impl From<ClaimRun> for Stored {
    fn from(run: ClaimRun) -> Self {
        (run.counter, run.seq, run.records, run.each, run.carrier)
    }
}

impl ClaimRun {
    /// Counter after its last operation.
    #[must_use]
    pub fn end(&self) -> u64 {
        let operations = self.records.saturating_mul(self.each);
        self.counter.saturating_add(operations)
    }

    /// Who wrote the record at a position of it that brought operations of this device, and who carried it. What stood in a document before it began is in its
    /// first record, which its founder wrote.
    pub(crate) fn author(&self, seq: u64, owner: DeviceId) -> (DeviceId, Option<DeviceId>) {
        match self.carrier {
            Some(founder) if seq == 0 => (founder, None),
            carrier => (owner, carrier),
        }
    }

    /// Whether a record continues it that brings the next operations.
    pub(crate) fn goes_on(&self, next: &Self) -> bool {
        self.seq.checked_add(self.records) == Some(next.seq)
            && self.each == next.each
            && self.carrier == next.carrier
    }
}

/// The record that brought an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub seq: u64,
    pub carrier: Option<DeviceId>,
    /// Counter after the last operation that it brought.
    pub end: u64,
}

/// Which records brought the operations of a document, and when epochs began in its log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Of each replica id, in the order of counters. Operations of the first snapshot stand at position 0.
    pub runs: BTreeMap<ReplicaId, Vec<ClaimRun>>,
    /// (position, epoch) where records of a higher epoch begin.
    pub epochs: Vec<(u64, u64)>,
}

/// The claims of a log, as far as they are known here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownClaims {
    claims: Claims,
    /// Where they are known from; 0: all of them.
    from: u64,
}

impl KnownClaims {
    /// Of a document that `founder` begins with these operations. Counters begin at `first`.
    pub(crate) fn founded(
        owners: &BTreeMap<ReplicaId, ReplicaOwner>,
        first: u64,
        founder: DeviceId,
    ) -> Self {
        let run = |owner: &ReplicaOwner| ClaimRun {
            counter: first,
            seq: 0,
            records: 1,
            each: owner.next.saturating_sub(first),
            carrier: (owner.device != founder).then_some(founder),
        };
        let owners = owners.iter().filter(|(_, owner)| owner.next > first);
        let runs = owners.map(|(replica, owner)| (replica.clone(), vec![run(owner)]));
        Self::all(Claims {
            runs: runs.collect(),
            epochs: Vec::new(),
        })
    }

    /// These, and all of them.
    pub(crate) fn all(claims: Claims) -> Self {
        Self { claims, from: 0 }
    }

    /// None of the records before this position.
    pub(crate) fn begin(from: u64) -> Self {
        Self {
            claims: Claims::default(),
            from,
        }
    }

    /// All there are, where all are known.
    pub(crate) fn whole(&self) -> Option<&Claims> {
        (self.from == 0).then_some(&self.claims)
    }

    /// Where they are known from; 0: all of them.
    pub(crate) fn from(&self) -> u64 {
        self.from
    }

    /// What is known of them.
    pub(crate) fn known(&self) -> &Claims {
        &self.claims
    }

    pub(crate) fn known_mut(&mut self) -> &mut Claims {
        &mut self.claims
    }
}

impl Claims {
    /// A record has brought the next operations of a replica id.
    pub(crate) fn note(&mut self, replica: &ReplicaId, run: ClaimRun) {
        if run.each == 0 {
            return;
        }
        let runs = match self.runs.get_mut(replica) {
            Some(runs) => runs,
            None => self.runs.entry(replica.clone()).or_default(),
        };
        match runs.last_mut() {
            Some(last) if last.goes_on(&run) => last.records = last.records.saturating_add(1),
            _ => runs.push(run),
        }
    }

    /// A record of this epoch stands here.
    pub(crate) fn note_epoch(&mut self, seq: u64, epoch: u64) {
        if self.epochs.last().is_none_or(|(_, last)| *last < epoch) {
            self.epochs.push((seq, epoch));
        }
    }

    /// The record that brought an operation; none where that is not known here.
    pub(crate) fn find(&self, replica: &ReplicaId, counter: u64) -> Option<Claim> {
        let runs = self.runs.get(replica)?;
        let after = runs.partition_point(|run| run.counter <= counter);
        let run = runs.get(after.checked_sub(1)?)?;
        let at = counter.checked_sub(run.counter)?.checked_div(run.each)?;
        if at >= run.records {
            return None;
        }
        let before = at.saturating_add(1).saturating_mul(run.each);
        Some(Claim {
            seq: run.seq.saturating_add(at),
            carrier: run.carrier,
            end: run.counter.saturating_add(before),
        })
    }

    /// Counter of the first operation from one on of which the record is known, if there is any.
    pub(crate) fn known_from(&self, replica: &ReplicaId, counter: u64) -> Option<u64> {
        let runs = self.runs.get(replica)?;
        let next = runs.partition_point(|run| run.end() <= counter);
        runs.get(next).map(|run| run.counter)
    }

    /// What is known of records from one position up to another: whose operations, where, and the run that it is part of.
    pub(crate) fn between(
        &self,
        from: u64,
        end: u64,
    ) -> impl Iterator<Item = (&ReplicaId, u64, &ClaimRun)> {
        let after = |run: &ClaimRun| run.seq.saturating_add(run.records);
        self.runs.iter().flat_map(move |(replica, runs)| {
            let skip = runs.partition_point(|run| after(run) <= from);
            let runs = runs.iter().skip(skip);
            let runs = runs.take_while(move |run| run.seq < end);
            runs.flat_map(move |run| {
                let within = run.seq.max(from)..after(run).min(end);
                within.map(move |seq| (replica, seq, run))
            })
        })
    }

    /// The last record that brought operations. The first record of a document may bring those of many: then one of those that tell who founded it.
    pub(crate) fn last(&self) -> Option<(&ReplicaId, u64, &ClaimRun)> {
        let last = self.runs.iter().filter_map(|(replica, runs)| {
            let run = runs.last()?;
            let seq = run.seq.saturating_add(run.records).saturating_sub(1);
            Some((replica, seq, run))
        });
        last.max_by_key(|(_, seq, run)| (*seq, run.carrier.is_some()))
    }

    /// The epoch of the records at a position.
    pub(crate) fn epoch_at(&self, seq: u64) -> Option<u64> {
        let after = self.epochs.partition_point(|(first, _)| *first <= seq);
        let (_, epoch) = self.epochs.get(after.checked_sub(1)?)?;
        Some(*epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(id: u16) -> ReplicaId {
        ReplicaId::from_bytes(&id.to_be_bytes()).unwrap()
    }

    fn one(counter: u64, seq: u64, each: u64) -> ClaimRun {
        ClaimRun {
            counter,
            seq,
            records: 1,
            each,
            carrier: None,
        }
    }

    #[test]
    fn records_alike_that_follow_each_other_are_one_run_and_each_is_found() {
        let mut claims = Claims::default();
        let id = replica(1);
        for at in 0..100 {
            claims.note(&id, one(3 * at, 10 + at, 3));
        }
        // Something else stood between.
        claims.note(&id, one(300, 115, 3));
        claims.note(&id, one(303, 116, 1));
        claims.note(&id, one(304, 117, 0));
        assert_eq!(claims.runs[&id].len(), 3);
        let at = |counter| claims.find(&id, counter).map(|it| (it.seq, it.end));
        assert_eq!(at(0), Some((10, 3)));
        assert_eq!(at(299), Some((109, 300)));
        assert_eq!(at(300), Some((115, 303)));
        assert_eq!(at(303), Some((116, 304)));
        assert_eq!(at(304), None);
        assert_eq!(claims.find(&replica(2), 0), None);
    }

    #[test]
    fn who_carried_a_record_is_known_of_that_record_alone() {
        let mut claims = Claims::default();
        let id = replica(1);
        let carrier = Some(DeviceId([7; 16]));
        claims.note(&id, one(0, 4, 1));
        claims.note(
            &id,
            ClaimRun {
                carrier,
                ..one(1, 5, 1)
            },
        );
        claims.note(&id, one(2, 6, 1));
        let carriers = [0, 1, 2].map(|counter| claims.find(&id, counter).unwrap().carrier);
        assert_eq!(carriers, [None, carrier, None]);
    }

    #[test]
    fn what_a_document_begins_with_stands_at_its_beginning() {
        let owner = |next| ReplicaOwner {
            device: DeviceId([1; 16]),
            next,
        };
        let owners = BTreeMap::from([(replica(1), owner(5)), (replica(2), owner(1))]);
        let founded = KnownClaims::founded(&owners, 1, DeviceId([1; 16]));
        let claims = founded.whole().unwrap();
        assert_eq!(claims.find(&replica(1), 4).map(|it| it.seq), Some(0));
        assert_eq!(claims.find(&replica(1), 5), None);
        assert_eq!(claims.runs.len(), 1);
    }

    #[test]
    fn epochs_begin_where_a_higher_one_comes() {
        let mut claims = Claims::default();
        for (seq, epoch) in [(3, 2), (4, 2), (7, 5)] {
            claims.note_epoch(seq, epoch);
        }
        let epochs = [2, 3, 6, 7, 90].map(|seq| claims.epoch_at(seq));
        assert_eq!(epochs, [None, Some(2), Some(2), Some(5), Some(5)]);
    }
}

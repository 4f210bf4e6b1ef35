//! Changes on their way into the document: those that can be applied, in causal order, and those that wait.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::chunk::{Hash, Parsed};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_WAITING_BYTES;
use crate::types::ReplicaId;

/// How many changes of each actor are in the document. Changes of an actor are numbered from 1 without gaps.
pub(super) type Sequence = BTreeMap<ReplicaId, u64>;

/// Most changes that wait.
const MAX_WAITING_CHANGES: usize = 4_096;

/// Changes whose dependencies have not arrived.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Vec<Parsed>,
    bytes: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Parsed> {
        self.waiting.iter()
    }

    /// The number that the next change of an actor must have, after `known` in the document.
    pub(super) fn next_seq(&self, actor: &ReplicaId, known: u64) -> u64 {
        let mut next = known + 1;
        let mut waiting: Vec<u64> = self
            .waiting
            .iter()
            .filter(|change| change.actor == *actor)
            .map(|change| change.seq)
            .collect();
        waiting.sort_unstable();
        for seq in waiting {
            if seq == next {
                next += 1;
            }
        }
        next
    }

    /// Adds changes that are not in the document and takes out those that can be applied, in causal order.
    /// `missing` tells which of the given hashes the document does not have. On an error nothing is changed.
    pub(super) fn admit(
        &mut self,
        arrived: Vec<Parsed>,
        sequence: &mut Sequence,
        missing: impl FnOnce(&[Hash]) -> Result<Vec<Hash>>,
    ) -> Result<Vec<Parsed>> {
        let arrived = self.distinct(arrived, sequence)?;
        let pool: Vec<&Parsed> = self.waiting.iter().chain(&arrived).collect();
        let mut next = sequence.clone();
        let order = causal_order(&pool, &mut next, missing)?;
        let taken: HashSet<usize> = order.iter().copied().collect();
        let left: usize = pool
            .iter()
            .enumerate()
            .filter(|(i, _)| !taken.contains(i))
            .map(|(_, c)| c.bytes.len())
            .sum();
        let count = pool.len() - taken.len();
        let fuller = left > self.bytes || count > self.waiting.len();
        if fuller && (left > MAX_WAITING_BYTES || count > MAX_WAITING_CHANGES) {
            return Err(CrdtError::MissingDependency);
        }
        let mut slots: Vec<Option<Parsed>> = core::mem::take(&mut self.waiting)
            .into_iter()
            .chain(arrived)
            .map(Some)
            .collect();
        let mut take = |index: usize| slots.get_mut(index).and_then(Option::take);
        let ready = order.iter().filter_map(|index| take(*index)).collect();
        self.waiting = slots.into_iter().flatten().collect();
        self.bytes = left;
        *sequence = next;
        Ok(ready)
    }

    /// Drops repetitions, and refuses a second change under a number that is taken.
    fn distinct(&self, arrived: Vec<Parsed>, sequence: &Sequence) -> Result<Vec<Parsed>> {
        let mut by_number: HashMap<(ReplicaId, u64), Hash> = self
            .waiting
            .iter()
            .map(|change| ((change.actor.clone(), change.seq), change.hash))
            .collect();
        let mut distinct = Vec::new();
        for change in arrived {
            if sequence
                .get(&change.actor)
                .is_some_and(|known| change.seq <= *known)
            {
                return Err(CrdtError::Equivocation);
            }
            match by_number.insert((change.actor.clone(), change.seq), change.hash) {
                Some(hash) if hash != change.hash => return Err(CrdtError::Equivocation),
                Some(_) => {}
                None => distinct.push(change),
            }
        }
        Ok(distinct)
    }
}

/// Topological order over hashes (Kahn's algorithm), first come first served. A change also depends on the one before it by its actor, which an
/// honest one names.
fn causal_order(
    pool: &[&Parsed],
    sequence: &mut Sequence,
    missing: impl FnOnce(&[Hash]) -> Result<Vec<Hash>>,
) -> Result<Vec<usize>> {
    let in_pool: HashSet<Hash> = pool.iter().map(|change| change.hash).collect();
    let mut outside: Vec<Hash> = pool
        .iter()
        .flat_map(|change| &change.deps)
        .filter(|dep| !in_pool.contains(*dep))
        .copied()
        .collect();
    outside.sort_unstable();
    outside.dedup();
    let missing: HashSet<Hash> = missing(&outside)?.into_iter().collect();

    let mut blocked: Vec<usize> = Vec::with_capacity(pool.len());
    let mut dependents: HashMap<Hash, Vec<usize>> = HashMap::new();
    let mut next: HashMap<(&ReplicaId, u64), usize> = HashMap::new();
    for (index, change) in pool.iter().enumerate() {
        let mut open = 0;
        for dep in &change.deps {
            if in_pool.contains(dep) || missing.contains(dep) {
                open += 1;
                dependents.entry(*dep).or_default().push(index);
            }
        }
        let known = sequence.get(&change.actor).copied().unwrap_or_default();
        if change.seq > known + 1 {
            open += 1;
            next.insert((&change.actor, change.seq), index);
        }
        blocked.push(open);
    }
    let mut free: VecDeque<usize> = blocked
        .iter()
        .enumerate()
        .filter(|(_, open)| **open == 0)
        .map(|(index, _)| index)
        .collect();
    let mut order = Vec::new();
    while let Some(index) = free.pop_front() {
        let Some(change) = pool.get(index) else {
            continue;
        };
        let known = sequence.entry(change.actor.clone()).or_default();
        *known = change.seq;
        order.push(index);
        let follows = next.remove(&(&change.actor, change.seq + 1));
        let named = dependents.remove(&change.hash).unwrap_or_default();
        for dependent in named.into_iter().chain(follows) {
            if let Some(open) = blocked.get_mut(dependent) {
                *open -= 1;
                if *open == 0 {
                    free.push_back(dependent);
                }
            }
        }
    }
    sequence.retain(|_, known| *known > 0);
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: u8, actor: u8, seq: u64, deps: &[u8]) -> Parsed {
        Parsed {
            hash: [name; 32],
            actor: ReplicaId::from_bytes(&[actor]).unwrap(),
            seq,
            deps: deps.iter().map(|dep| [*dep; 32]).collect(),
            declared: Default::default(),
            actors: 0,
            bytes: vec![0; 8],
        }
    }

    fn admit(
        queue: &mut Queue,
        sequence: &mut Sequence,
        arrived: Vec<Parsed>,
        absent: &[u8],
    ) -> Result<Vec<u8>> {
        let absent: Vec<Hash> = absent.iter().map(|name| [*name; 32]).collect();
        queue
            .admit(arrived, sequence, |asked| {
                Ok(absent
                    .iter()
                    .filter(|h| asked.contains(h))
                    .copied()
                    .collect())
            })
            .map(|ready| ready.iter().map(|change| change.hash[0]).collect())
    }

    #[test]
    fn changes_come_out_in_causal_order() {
        let (mut queue, mut sequence) = (Queue::default(), Sequence::new());
        let arrived = vec![change(3, 1, 3, &[2]), change(2, 1, 2, &[1])];
        assert_eq!(admit(&mut queue, &mut sequence, arrived, &[1]), Ok(vec![]));
        assert_eq!(queue.next_seq(&ReplicaId::from_bytes(&[1]).unwrap(), 0), 1);
        assert_eq!(
            admit(&mut queue, &mut sequence, vec![change(1, 1, 1, &[])], &[]),
            Ok(vec![1, 2, 3])
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn a_taken_number_is_equivocation_and_changes_nothing() {
        let (mut queue, mut sequence) = (Queue::default(), Sequence::new());
        admit(&mut queue, &mut sequence, vec![change(1, 1, 1, &[])], &[]).unwrap();
        assert_eq!(
            admit(&mut queue, &mut sequence, vec![change(9, 1, 1, &[])], &[]),
            Err(CrdtError::Equivocation)
        );
        // Two with one number, both waiting.
        admit(&mut queue, &mut sequence, vec![change(5, 2, 1, &[4])], &[4]).unwrap();
        assert_eq!(
            admit(&mut queue, &mut sequence, vec![change(6, 2, 1, &[4])], &[4]),
            Err(CrdtError::Equivocation)
        );
        assert_eq!(queue.iter().count(), 1);
    }

    #[test]
    fn a_change_waits_for_the_one_before_it() {
        let (mut queue, mut sequence) = (Queue::default(), Sequence::new());
        admit(&mut queue, &mut sequence, vec![change(3, 1, 3, &[9])], &[9]).unwrap();
        // What it named is there, and its number does not follow yet.
        let named = vec![change(9, 2, 1, &[])];
        assert_eq!(admit(&mut queue, &mut sequence, named, &[]), Ok(vec![9]));
        assert_eq!(queue.iter().count(), 1);
        let first = vec![change(1, 1, 1, &[])];
        assert_eq!(admit(&mut queue, &mut sequence, first, &[]), Ok(vec![1]));
        let second = vec![change(2, 1, 2, &[1])];
        assert_eq!(
            admit(&mut queue, &mut sequence, second, &[]),
            Ok(vec![2, 3])
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn the_queue_is_bounded() {
        let (mut queue, mut sequence) = (Queue::default(), Sequence::new());
        let mut large = change(2, 1, 2, &[1]);
        large.bytes = vec![0; MAX_WAITING_BYTES + 1];
        assert_eq!(
            admit(&mut queue, &mut sequence, vec![large], &[1]),
            Err(CrdtError::MissingDependency)
        );
        assert!(queue.is_empty() && sequence.is_empty());
    }
}

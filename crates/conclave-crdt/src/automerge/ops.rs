//! Counting the operations of a document from the bytes of its changes.

use std::collections::{BTreeMap, BTreeSet};

use super::bootstrap_actor;
use super::chunk::{Parsed, Snapshot};
use super::columns::Declared;
use crate::cost::{
    AUTOMERGE_UPDATE_UNITS, Allowance, BYTE_EARNS, Counted, INFLATED_PER_UNIT, NAME_UNITS, Purse,
    Refused, growth,
};
use crate::error::CrdtError;
use crate::kinds::CrdtKind;
use crate::limits::MAX_SNAPSHOT_BYTES;
use crate::types::ReplicaId;

/// What a log of changes holds, in numbers. A change that arrives before what it depends on counts at once.
#[derive(Debug, Clone)]
pub(crate) struct Ops {
    size: u64,
    changes: BTreeMap<ReplicaId, Numbers>,
    /// What the last update changed, and those before it that can be taken back after it.
    last: Vec<Before>,
}

/// How it was before an update: the size, and what was known of the actors in it.
#[derive(Debug, Clone)]
struct Before {
    size: u64,
    actors: Vec<(ReplicaId, Option<Numbers>)>,
}

/// Which changes of one actor are known: all up to the first number, and some beyond.
#[derive(Debug, Clone, Default)]
struct Numbers {
    first: u64,
    beyond: BTreeSet<u64>,
}

impl Numbers {
    /// Whether it was not known.
    fn insert(&mut self, number: u64) -> bool {
        if number <= self.first || !self.beyond.insert(number) {
            return false;
        }
        while self.beyond.remove(&(self.first + 1)) {
            self.first += 1;
        }
        true
    }
}

impl Default for Ops {
    /// A document starts with its bootstrap change, which has one operation.
    fn default() -> Self {
        let mut ops = Self {
            size: 0,
            changes: BTreeMap::new(),
            last: Vec::new(),
        };
        ops.bootstrap();
        ops
    }
}

impl Declared {
    /// What these operations add to a document: each that does not delete is kept, and so is every mark that one follows another.
    fn kept(&self) -> u64 {
        self.operations.saturating_sub(self.deletions) + self.followed
    }
}

impl Parsed {
    fn cost(&self) -> u64 {
        let names = 1 + self.deps.len() as u64 + self.actors;
        let inflated = self.bytes.len() as u64 / INFLATED_PER_UNIT;
        self.declared.rows + NAME_UNITS * names + inflated
    }
}

impl Ops {
    fn bootstrap(&mut self) {
        let zero = self.changes.entry(bootstrap_actor()).or_default();
        // One operation, and the change.
        self.size += 2 * u64::from(zero.insert(1));
    }

    /// The numbers of a snapshot, and what loading it costs, before anything of it is put together again.
    pub(crate) fn load(snapshot: &[u8], limit: u64) -> core::result::Result<(Self, u64), Refused> {
        if snapshot.len() > MAX_SNAPSHOT_BYTES {
            return Err(CrdtError::TooLarge.into());
        }
        let Snapshot {
            tables, changes, ..
        } = Snapshot::read(snapshot)?;
        let mut ops = Self {
            size: 0,
            changes: BTreeMap::new(),
            last: Vec::new(),
        };
        // What waits has come in updates, each within its limit.
        if changes.iter().any(|it| it.cost() > AUTOMERGE_UPDATE_UNITS) {
            return Err(Refused::Cost { balance: 0 });
        }
        let mut units = changes.iter().map(Parsed::cost).sum();
        if let Some(tables) = tables {
            units += tables.operations.rows + NAME_UNITS * tables.changes.rows;
            ops.size = tables.operations.kept() + tables.changes.dependencies;
            for (actor, first) in tables.actors {
                ops.size += first;
                let beyond = BTreeSet::new();
                ops.changes.insert(actor, Numbers { first, beyond });
            }
        }
        if units > limit {
            return Err(Refused::Cost { balance: 0 });
        }
        ops.take_in(&changes);
        ops.bootstrap();
        Ok((ops, units))
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Adds what is new of these changes.
    fn take_in(&mut self, changes: &[Parsed]) {
        for change in changes {
            let numbers = self.changes.entry(change.actor.clone()).or_default();
            if numbers.insert(change.seq) {
                self.size += change.declared.kept() + 1 + change.deps.len() as u64;
            }
        }
    }

    pub(crate) fn count(
        &mut self,
        bytes: u64,
        changes: &[Parsed],
        allowance: Allowance,
        on_top: bool,
    ) -> core::result::Result<Counted, Refused> {
        let earned = BYTE_EARNS * bytes;
        let purse = Purse::new(CrdtKind::Automerge, allowance, earned);
        let cost = changes.iter().map(Parsed::cost).sum();
        // Only the heads of columns were read: that is paid by the byte.
        let refused = Err(purse.refused(bytes.div_ceil(REFUSED_BYTES)));
        if cost > purse.limit() {
            return refused;
        }
        let actors: BTreeSet<&ReplicaId> = changes.iter().map(|change| &change.actor).collect();
        let actors = actors
            .into_iter()
            .map(|actor| (actor.clone(), self.changes.get(actor).cloned()))
            .collect();
        let size = self.size;
        if !on_top {
            self.last.clear();
        }
        self.last.push(Before { size, actors });
        self.take_in(changes);
        let grown = growth(size, self.size);
        if !allowance.has_room(grown) {
            self.revert();
            return refused;
        }
        Ok(Counted {
            cost,
            balance: purse.paid(cost),
            grown,
            released: 0,
        })
    }

    pub(crate) fn revert(&mut self) {
        let Some(before) = self.last.pop() else {
            return;
        };
        self.size = before.size;
        for (actor, numbers) in before.actors {
            match numbers {
                Some(numbers) => self.changes.insert(actor, numbers),
                None => self.changes.remove(&actor),
            };
        }
    }
}

/// Bytes of a refused update that cost its user one unit.
const REFUSED_BYTES: u64 = 64;

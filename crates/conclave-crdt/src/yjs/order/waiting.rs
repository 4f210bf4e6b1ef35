//! What waits for operations that have not arrived, in numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::super::scan::Id;
use super::item::Item;
use super::state::{Ahead, State};

#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    /// By replica and clock.
    items: BTreeMap<(u64, u32), Item>,
    /// Deletions: where each begins, and ends.
    deletes: BTreeMap<(u64, u32), u32>,
    /// By operation that is waited for, the replicas whose next item that is.
    blocked: BTreeMap<(u64, u32), BTreeSet<u64>>,
    bytes: u64,
}

impl Waiting {
    pub(super) fn undo(&mut self, ahead: Ahead) {
        match ahead {
            Ahead::Item(client, clock, old) => {
                match old {
                    Some(item) => self.items.insert((client, clock), item),
                    None => self.items.remove(&(client, clock)),
                };
            }
            Ahead::Delete(client, clock, old) => {
                match old {
                    Some(end) => self.deletes.insert((client, clock), end),
                    None => self.deletes.remove(&(client, clock)),
                };
            }
            Ahead::Blocked(id, client, was) => {
                self.set_blocked(id, client, was);
            }
            Ahead::Bytes(bytes) => self.bytes = bytes,
        }
    }

    /// Whether that changed anything.
    fn set_blocked(&mut self, id: Id, client: u64, is: bool) -> bool {
        let key = (id.client, id.clock);
        if is {
            return self.blocked.entry(key).or_default().insert(client);
        }
        let Some(clients) = self.blocked.get_mut(&key) else {
            return false;
        };
        let changed = clients.remove(&client);
        if clients.is_empty() {
            self.blocked.remove(&key);
        }
        changed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.deletes.is_empty()
    }

    /// Items and deletions that wait.
    pub(super) fn len(&self) -> usize {
        self.items.len() + self.deletes.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether operations of a replica from `start` to `end` wait.
    pub(super) fn holds(&self, client: u64, start: u32, end: u32) -> bool {
        self.items
            .range((client, 0)..(client, end))
            .next_back()
            .is_some_and(|(_, item)| item.end() > start)
    }

    /// The first item of a replica.
    pub(super) fn first(&self, client: u64) -> Option<Item> {
        self.items
            .range((client, 0)..=(client, u32::MAX))
            .next()
            .map(|(_, item)| *item)
    }

    /// The replicas that waited for operations of one from `start` to `end`.
    pub(super) fn woken(&self, client: u64, start: u32, end: u32) -> Vec<(Id, u64)> {
        self.blocked
            .range((client, start)..(client, end))
            .flat_map(|((client, clock), waiters)| {
                let id = Id {
                    client: *client,
                    clock: *clock,
                };
                waiters.iter().map(move |waiter| (id, *waiter))
            })
            .collect()
    }

    /// Deletions of a replica's operations below a clock.
    pub(super) fn due(&self, client: u64, below: u32) -> Vec<(u32, u32)> {
        self.deletes
            .range((client, 0)..(client, below))
            .map(|((_, start), end)| (*start, *end))
            .collect()
    }
}

impl State {
    fn put_waiting(&mut self, client: u64, clock: u32, item: Option<Item>) {
        let bytes = self.waiting.bytes;
        self.note_ahead(Ahead::Bytes(bytes));
        let old = match item {
            Some(item) => {
                self.waiting.bytes += item.bytes;
                self.waiting.items.insert((client, clock), item)
            }
            None => self.waiting.items.remove(&(client, clock)),
        };
        if let Some(old) = &old {
            self.waiting.bytes = self.waiting.bytes.saturating_sub(old.bytes);
        }
        self.note_ahead(Ahead::Item(client, clock, old));
    }

    /// Keeps an item. Whether it did not wait already; nothing where only a part of it does: nobody writes an item in two ways.
    pub(super) fn wait(&mut self, item: Item) -> Option<bool> {
        let (client, clock) = (item.at.client, item.at.clock);
        if let Some(held) = self.waiting.items.get(&(client, clock)) {
            return (held.len == item.len).then_some(false);
        }
        if self.waiting.holds(client, clock, item.end()) {
            return None;
        }
        self.put_waiting(client, clock, Some(item));
        Some(true)
    }

    /// Says what the next item of a replica waits for.
    pub(super) fn block_on(&mut self, id: Id, client: u64, is: bool) {
        if self.waiting.set_blocked(id, client, is) {
            self.note_ahead(Ahead::Blocked(id, client, !is));
        }
    }

    /// Takes out the first item of a replica.
    pub(super) fn take_waiting(&mut self, item: &Item) {
        self.put_waiting(item.at.client, item.at.clock, None);
    }

    fn put_delete(&mut self, client: u64, start: u32, end: Option<u32>) {
        let old = match end {
            Some(end) => self.waiting.deletes.insert((client, start), end),
            None => self.waiting.deletes.remove(&(client, start)),
        };
        self.note_ahead(Ahead::Delete(client, start, old));
    }

    /// Keeps a deletion, as one with those that it touches.
    pub(super) fn wait_delete(&mut self, client: u64, mut start: u32, mut end: u32) {
        loop {
            let touching = self
                .waiting
                .deletes
                .range((client, 0)..=(client, end))
                .next_back()
                .map(|((_, start), end)| (*start, *end))
                .filter(|(_, held_end)| *held_end >= start);
            let Some((held_start, held_end)) = touching else {
                break;
            };
            start = start.min(held_start);
            end = end.max(held_end);
            self.put_delete(client, held_start, None);
        }
        self.put_delete(client, start, Some(end));
    }

    /// Takes out the part of a deletion below a clock.
    pub(super) fn take_delete(&mut self, client: u64, start: u32, end: u32, below: u32) {
        self.put_delete(client, start, None);
        if end > below {
            self.put_delete(client, below, Some(end));
        }
    }
}

//! Which operations a document holds, and how deep containers are nested.
//!
//! The engine integrates what it can and keeps the rest in a queue of its own. This crate hands it only operations whose
//! dependencies are integrated, so that queue stays empty and the state vector has no gaps.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::plan::Plan;
use super::scan::{Block, Body, Id, Parent, Scan};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_NESTING;

/// What is integrated, by client.
#[derive(Debug, Default)]
pub(super) struct Frontier {
    clients: HashMap<u64, Known>,
}

/// One client's operations: all below `clock`.
#[derive(Debug, Default)]
struct Known {
    clock: u32,
    /// From this clock on, until the next entry, operations stand so.
    stand: Vec<(u32, Stand)>,
}

/// Where operations stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stand {
    /// 0 dropped, 1 in a root type, 2 in a type inside a root type …
    depth: u8,
    /// Whether they are values of a key.
    keyed: bool,
}

/// Blocks `from..to` of a section became known, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) section: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// What [`Frontier::advance`] found.
#[derive(Debug)]
pub(super) struct Progress {
    /// Blocks whose dependencies are known, in an order that respects these.
    pub(super) ready: Vec<Segment>,
    /// Where each section stopped.
    pub(super) stops: Vec<Stop>,
    undo: Vec<(u64, u32, usize)>,
}

/// Where a section stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stop {
    /// The first block that has to wait; the number of blocks if none has to.
    pub(super) block: usize,
    /// An operation that it waits for.
    pub(super) needs: Option<Id>,
}

impl Progress {
    /// Whether every section was taken to its end.
    pub(super) fn is_complete(&self) -> bool {
        self.stops.iter().all(|stop| stop.needs.is_none())
    }
}

enum Readiness {
    /// Everything is known; the block stands so.
    Ready(Stand),
    Needs(Id),
}

impl Frontier {
    pub(super) fn clock(&self, client: u64) -> u32 {
        self.clients.get(&client).map_or(0, |known| known.clock)
    }

    pub(super) fn clocks(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.clients
            .iter()
            .map(|(client, known)| (*client, known.clock))
    }

    pub(super) fn knows(&self, id: Id) -> bool {
        id.clock < self.clock(id.client)
    }

    fn stand(&self, id: Id) -> Stand {
        let Some(known) = self.clients.get(&id.client) else {
            return Stand::default();
        };
        let index = known.stand.partition_point(|entry| entry.0 <= id.clock);
        index
            .checked_sub(1)
            .and_then(|last| known.stand.get(last))
            .map_or(Stand::default(), |entry| entry.1)
    }

    /// Whether a known operation is a value of a key.
    pub(super) fn is_keyed(&self, id: Id) -> bool {
        self.stand(id).keyed
    }

    /// Marks as known every operation of `scan` whose dependencies are known, as far as they go.
    ///
    /// `dropped` says whether the engine has dropped the type with this id: what is put into it is dropped too, so its
    /// depth does not count (members who loaded a snapshot no longer know it). On an error nothing is changed.
    pub(super) fn advance(
        &mut self,
        scan: &Scan<'_>,
        dropped: &dyn Fn(Id) -> bool,
    ) -> Result<Progress> {
        let mut progress = self.start(scan);
        let outcome = self.advance_all(scan, dropped, &mut progress);
        if outcome.is_err() {
            self.undo(&progress);
        }
        outcome.map(|()| progress)
    }

    /// The same, in the order and as far as a plan says, which is never further.
    pub(super) fn advance_planned(
        &mut self,
        scan: &Scan<'_>,
        plan: &Plan,
        dropped: &dyn Fn(Id) -> bool,
    ) -> Result<Progress> {
        let mut progress = self.start(scan);
        let mut outcome = Ok(());
        for Segment { section, to, .. } in &plan.ready {
            outcome = self.advance_section(scan, *section, *to, dropped, &mut progress);
            let stop = progress.stops.get(*section);
            if stop.is_none_or(|stop| stop.block < *to) {
                outcome = outcome.and(Err(CrdtError::Malformed));
            }
            if outcome.is_err() {
                break;
            }
        }
        if plan.stops.len() != scan.sections.len() {
            outcome = outcome.and(Err(CrdtError::Malformed));
        }
        if outcome.is_err() {
            self.undo(&progress);
        }
        progress.stops.clone_from(&plan.stops);
        outcome.map(|()| progress)
    }

    fn start(&self, scan: &Scan<'_>) -> Progress {
        let undo = scan.sections.iter().map(|section| {
            let known = self.clients.get(&section.client);
            (
                section.client,
                known.map_or(0, |k| k.clock),
                known.map_or(0, |k| k.stand.len()),
            )
        });
        let stop = Stop {
            block: 0,
            needs: None,
        };
        Progress {
            ready: Vec::new(),
            stops: vec![stop; scan.sections.len()],
            undo: undo.collect(),
        }
    }

    /// Takes every section as far as it goes, and again whenever what it waited for has become known.
    fn advance_all(
        &mut self,
        scan: &Scan<'_>,
        dropped: &dyn Fn(Id) -> bool,
        progress: &mut Progress,
    ) -> Result<()> {
        let mut queue: VecDeque<usize> = (0..scan.sections.len()).collect();
        // By client and clock, the sections that wait for that operation.
        let mut blocked: BTreeMap<(u64, u32), Vec<usize>> = BTreeMap::new();
        while let Some(index) = queue.pop_front() {
            let Some(section) = scan.sections.get(index) else {
                continue;
            };
            let before = self.clock(section.client);
            self.advance_section(scan, index, usize::MAX, dropped, progress)?;
            let stop = progress.stops.get(index);
            if let Some(needs) = stop.and_then(|stop| stop.needs) {
                blocked
                    .entry((needs.client, needs.clock))
                    .or_default()
                    .push(index);
            }
            let known = (section.client, before)..(section.client, self.clock(section.client));
            let freed: Vec<(u64, u32)> = blocked.range(known).map(|(key, _)| *key).collect();
            for key in freed {
                queue.extend(blocked.remove(&key).unwrap_or_default());
            }
        }
        Ok(())
    }

    fn advance_section(
        &mut self,
        scan: &Scan<'_>,
        index: usize,
        to: usize,
        dropped: &dyn Fn(Id) -> bool,
        progress: &mut Progress,
    ) -> Result<()> {
        let Progress { ready, stops, undo } = progress;
        let (Some(section), Some(stop)) = (scan.sections.get(index), stops.get_mut(index)) else {
            return Ok(());
        };
        // Operations of this very update are not in the engine yet.
        let dropped = |id: Id| {
            let before = undo.iter().find(|entry| entry.0 == id.client);
            before.is_none_or(|entry| id.clock < entry.1) && dropped(id)
        };
        stop.needs = None;
        let mut first_new = None;
        while let Some(block) = section.blocks.get(stop.block).filter(|_| stop.block < to) {
            let clock = self.clock(section.client);
            if block.end() > clock {
                match self.readiness(section.client, block, scan.bytes, &dropped)? {
                    Readiness::Ready(stand) => {
                        self.push(section.client, clock, block.end(), stand);
                        first_new.get_or_insert(stop.block);
                    }
                    Readiness::Needs(id) => {
                        stop.needs = Some(id);
                        break;
                    }
                }
            }
            stop.block += 1;
        }
        if let Some(from) = first_new {
            ready.push(Segment {
                section: index,
                from,
                to: stop.block,
            });
        }
        Ok(())
    }

    fn readiness(
        &self,
        client: u64,
        block: &Block,
        update: &[u8],
        dropped: &dyn Fn(Id) -> bool,
    ) -> Result<Readiness> {
        let clock = self.clock(client);
        let item = match block.body(update)? {
            Body::Skip => {
                return Ok(Readiness::Needs(Id {
                    client,
                    clock: block.end() - 1,
                }));
            }
            _ if block.clock > clock => {
                return Ok(Readiness::Needs(Id {
                    client,
                    clock: block.clock - 1,
                }));
            }
            Body::Gc => return Ok(Readiness::Ready(Stand::default())),
            Body::Item(item) => item,
        };
        let parent = match item.parent {
            Some(Parent::Item(id)) => Some(id),
            _ => None,
        };
        let depends_on = [item.origin, item.right_origin, parent];
        if let Some(id) = depends_on.into_iter().flatten().find(|id| !self.knows(*id)) {
            return Ok(Readiness::Needs(id));
        }
        let beside = || [item.origin, item.right_origin].into_iter().flatten();
        let depth = match (parent, &item.parent) {
            (Some(id), _) => match self.stand(id).depth.saturating_add(1) {
                depth if depth > MAX_NESTING && dropped(id) => 0,
                depth => depth,
            },
            (None, Some(_)) => 1,
            (None, None) => beside().map(|id| self.stand(id).depth).max().unwrap_or(0),
        };
        let keyed = item.parent_sub.is_some() || beside().any(|id| self.stand(id).keyed);
        // The engine deletes recursively: deeper nesting could exhaust the stack.
        if depth > MAX_NESTING {
            Err(CrdtError::TooLarge)
        } else {
            Ok(Readiness::Ready(Stand { depth, keyed }))
        }
    }

    fn push(&mut self, client: u64, start: u32, end: u32, stand: Stand) {
        let known = self.clients.entry(client).or_default();
        known.clock = end;
        if known.stand.last().is_none_or(|last| last.1 != stand) {
            known.stand.push((start, stand));
        }
    }

    /// Forgets what one call of [`Frontier::advance`] added, if nothing was added since.
    pub(super) fn undo(&mut self, progress: &Progress) {
        for (client, clock, entries) in &progress.undo {
            if let Some(known) = self.clients.get_mut(client) {
                known.clock = *clock;
                known.stand.truncate(*entries);
                if *clock == 0 {
                    self.clients.remove(client);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One character by `client` at `clock`, after `origin`.
    fn character(client: u8, clock: u8, origin: Option<(u8, u8)>) -> Vec<u8> {
        let mut update = vec![1, 1, client, clock];
        match origin {
            Some((client, clock)) => update.extend([0x84, client, clock]),
            None => update.extend([4, 1, 1, b't']),
        }
        update.extend([1, b'x', 0]);
        update
    }

    fn advance(frontier: &mut Frontier, update: &[u8]) -> Progress {
        frontier
            .advance(&Scan::exact(update).unwrap(), &|_| false)
            .unwrap()
    }

    #[test]
    fn operations_wait_for_their_own_past_and_for_their_neighbours() {
        let mut frontier = Frontier::default();
        assert!(!advance(&mut frontier, &character(1, 1, Some((1, 0)))).is_complete());
        assert!(!advance(&mut frontier, &character(2, 0, Some((1, 0)))).is_complete());
        assert_eq!(frontier.clock(2), 0);
        assert!(advance(&mut frontier, &character(1, 0, None)).is_complete());
        assert!(advance(&mut frontier, &character(2, 0, Some((1, 0)))).is_complete());
        assert_eq!((frontier.clock(1), frontier.clock(2)), (1, 1));
    }

    #[test]
    fn sections_that_need_each_other_are_ordered() {
        // Client 1: a character after 2:0. Client 2: a first character.
        let update = [
            2, 1, 1, 0, 0x84, 2, 0, 1, b'x', 1, 2, 0, 4, 1, 1, b't', 1, b'y', 0,
        ];
        let mut frontier = Frontier::default();
        let progress = advance(&mut frontier, &update);
        assert!(progress.is_complete());
        let order: Vec<usize> = progress
            .ready
            .iter()
            .map(|segment| segment.section)
            .collect();
        assert_eq!(order, vec![1, 0]);
        frontier.undo(&progress);
        assert_eq!((frontier.clock(1), frontier.clock(2)), (0, 0));
    }

    #[test]
    fn a_cycle_never_becomes_ready() {
        let update = [
            2, 1, 1, 0, 0x84, 2, 0, 1, b'x', 1, 2, 0, 0x84, 1, 0, 1, b'y', 0,
        ];
        assert!(!advance(&mut Frontier::default(), &update).is_complete());
    }

    #[test]
    fn nesting_is_bounded_across_updates() {
        let mut frontier = Frontier::default();
        advance(&mut frontier, &[1, 1, 7, 0, 7, 1, 1, b't', 1, 0]);
        for clock in 1..u8::MAX {
            // A map inside the map of the clock before.
            let mut update = vec![1, 1, 7];
            crate::reader::write_uint(&mut update, u64::from(clock));
            update.extend([7, 0, 7]);
            crate::reader::write_uint(&mut update, u64::from(clock - 1));
            update.extend([1, 0]);
            let scan = Scan::exact(&update).unwrap();
            match frontier.advance(&scan, &|_| false) {
                Ok(progress) => assert!(progress.is_complete() && clock < MAX_NESTING),
                Err(error) => {
                    assert_eq!((error, clock), (CrdtError::TooLarge, MAX_NESTING));
                    assert_eq!(frontier.clock(7), u32::from(clock));
                    assert!(frontier.advance(&scan, &|_| true).unwrap().is_complete());
                    return;
                }
            }
        }
        panic!("nesting was not bounded");
    }

    #[test]
    fn long_chains_between_many_clients_are_followed_in_linear_time() {
        // Client n's only character stands after client n+1's: the worst order for going through clients one by one.
        const CLIENTS: u64 = 50_000;
        let mut update = Vec::new();
        crate::reader::write_uint(&mut update, CLIENTS);
        for client in 0..CLIENTS {
            update.push(1);
            crate::reader::write_uint(&mut update, client);
            update.push(0);
            if client + 1 < CLIENTS {
                update.push(0x84);
                crate::reader::write_uint(&mut update, client + 1);
                update.extend([0, 1, b'x']);
            } else {
                update.extend([4, 1, 1, b't', 1, b'x']);
            }
        }
        update.push(0);
        let mut frontier = Frontier::default();
        let progress = advance(&mut frontier, &update);
        assert!(progress.is_complete());
        assert_eq!(
            progress.ready.first().map(|segment| segment.section as u64),
            Some(CLIENTS - 1)
        );
        assert_eq!(progress.ready.len() as u64, CLIENTS);
    }
}

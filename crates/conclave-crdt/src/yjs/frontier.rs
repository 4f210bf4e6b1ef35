//! Which operations a document holds, and how deep containers are nested.
//!
//! The engine integrates what it can and keeps the rest in a queue of its own. This crate hands it only operations whose
//! dependencies are integrated, so that queue stays empty and the state vector has no gaps.

use std::collections::HashMap;

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
    /// From this clock on, until the next entry, operations are nested this deep: 0 dropped, 1 in a root type, 2 in
    /// a type inside a root type …
    depth: Vec<(u32, u8)>,
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
    /// Per section, the first block that has to wait (the number of blocks if none has to).
    pub(super) stopped_at: Vec<usize>,
    /// Whether every section was taken to its end.
    pub(super) complete: bool,
    undo: Vec<(u64, u32, usize)>,
}

impl Frontier {
    pub(super) fn clock(&self, client: u64) -> u32 {
        self.clients.get(&client).map_or(0, |known| known.clock)
    }

    pub(super) fn clocks(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.clients.iter().map(|(client, known)| (*client, known.clock))
    }

    fn knows(&self, id: Id) -> bool {
        id.clock < self.clock(id.client)
    }

    fn depth(&self, id: Id) -> u8 {
        let Some(known) = self.clients.get(&id.client) else { return 0 };
        let index = known.depth.partition_point(|entry| entry.0 <= id.clock);
        index.checked_sub(1).and_then(|last| known.depth.get(last)).map_or(0, |entry| entry.1)
    }

    /// Marks as known every operation of `scan` whose dependencies are known, as far as they go.
    ///
    /// `dropped` says whether the engine has dropped the type with this id: what is put into it is dropped too, so its
    /// depth does not count (members who loaded a snapshot no longer know it). On an error nothing is changed.
    pub(super) fn advance(&mut self, scan: &Scan<'_>, dropped: &dyn Fn(Id) -> bool) -> Result<Progress> {
        let mut progress = Progress {
            ready: Vec::new(),
            stopped_at: vec![0; scan.sections.len()],
            complete: false,
            undo: scan
                .sections
                .iter()
                .map(|section| {
                    let known = self.clients.get(&section.client);
                    (section.client, known.map_or(0, |k| k.clock), known.map_or(0, |k| k.depth.len()))
                })
                .collect(),
        };
        loop {
            match self.advance_once(scan, dropped, &mut progress) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.undo(&progress);
                    return Err(error);
                }
            }
        }
        progress.complete =
            scan.sections.iter().zip(&progress.stopped_at).all(|(section, stop)| *stop == section.blocks.len());
        Ok(progress)
    }

    /// Takes every section as far as it goes now.
    fn advance_once(
        &mut self,
        scan: &Scan<'_>,
        dropped: &dyn Fn(Id) -> bool,
        progress: &mut Progress,
    ) -> Result<bool> {
        let Progress { ready, stopped_at, undo, .. } = progress;
        // Operations of this very update are not in the engine yet.
        let dropped = |id: Id| {
            let before = undo.iter().find(|entry| entry.0 == id.client);
            before.is_none_or(|entry| id.clock < entry.1) && dropped(id)
        };
        let mut moved = false;
        for (index, section) in scan.sections.iter().enumerate() {
            let Some(stop) = stopped_at.get_mut(index) else { continue };
            let from = *stop;
            let mut known_prefix = true;
            let mut first_new = from;
            while let Some(block) = section.blocks.get(*stop) {
                let clock = self.clock(section.client);
                if block.end() > clock {
                    if block.clock > clock || block.is_skip(scan.bytes) {
                        break;
                    }
                    let Some(depth) = self.ready_depth(block, scan.bytes, &dropped)? else { break };
                    if known_prefix {
                        known_prefix = false;
                        first_new = *stop;
                    }
                    self.push(section.client, clock, block.end(), depth);
                }
                *stop += 1;
            }
            if !known_prefix {
                moved = true;
                ready.push(Segment { section: index, from: first_new, to: *stop });
            }
        }
        Ok(moved)
    }

    /// How deep a block would be nested, or `None` if something it depends on is not known.
    fn ready_depth(&self, block: &Block, update: &[u8], dropped: &dyn Fn(Id) -> bool) -> Result<Option<u8>> {
        let Body::Item(item) = block.body(update)? else { return Ok(Some(0)) };
        let neighbours = [item.origin, item.right_origin];
        if neighbours.iter().flatten().any(|id| !self.knows(*id)) {
            return Ok(None);
        }
        let depth = match item.parent {
            Some(Parent::Root(_)) => 1,
            Some(Parent::Item(id)) if !self.knows(id) => return Ok(None),
            Some(Parent::Item(id)) => match self.depth(id).saturating_add(1) {
                depth if depth > MAX_NESTING && dropped(id) => 0,
                depth => depth,
            },
            None => neighbours.iter().flatten().map(|id| self.depth(*id)).max().unwrap_or(0),
        };
        // The engine deletes recursively: deeper nesting could exhaust the stack.
        if depth > MAX_NESTING { Err(CrdtError::TooLarge) } else { Ok(Some(depth)) }
    }

    fn push(&mut self, client: u64, start: u32, end: u32, depth: u8) {
        let known = self.clients.entry(client).or_default();
        known.clock = end;
        if known.depth.last().is_none_or(|last| last.1 != depth) {
            known.depth.push((start, depth));
        }
    }

    /// Forgets what one call of [`Frontier::advance`] added, if nothing was added since.
    pub(super) fn undo(&mut self, progress: &Progress) {
        for (client, clock, entries) in &progress.undo {
            if let Some(known) = self.clients.get_mut(client) {
                known.clock = *clock;
                known.depth.truncate(*entries);
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
        frontier.advance(&Scan::exact(update).unwrap(), &|_| false).unwrap()
    }

    #[test]
    fn operations_wait_for_their_own_past_and_for_their_neighbours() {
        let mut frontier = Frontier::default();
        assert!(!advance(&mut frontier, &character(1, 1, Some((1, 0)))).complete);
        assert!(!advance(&mut frontier, &character(2, 0, Some((1, 0)))).complete);
        assert_eq!(frontier.clock(2), 0);
        assert!(advance(&mut frontier, &character(1, 0, None)).complete);
        assert!(advance(&mut frontier, &character(2, 0, Some((1, 0)))).complete);
        assert_eq!((frontier.clock(1), frontier.clock(2)), (1, 1));
    }

    #[test]
    fn sections_that_need_each_other_are_ordered() {
        // Client 1: a character after 2:0. Client 2: a first character.
        let update = [2, 1, 1, 0, 0x84, 2, 0, 1, b'x', 1, 2, 0, 4, 1, 1, b't', 1, b'y', 0];
        let mut frontier = Frontier::default();
        let progress = advance(&mut frontier, &update);
        assert!(progress.complete);
        let order: Vec<usize> = progress.ready.iter().map(|segment| segment.section).collect();
        assert_eq!(order, vec![1, 0]);
        frontier.undo(&progress);
        assert_eq!((frontier.clock(1), frontier.clock(2)), (0, 0));
    }

    #[test]
    fn a_cycle_never_becomes_ready() {
        let update = [2, 1, 1, 0, 0x84, 2, 0, 1, b'x', 1, 2, 0, 0x84, 1, 0, 1, b'y', 0];
        assert!(!advance(&mut Frontier::default(), &update).complete);
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
                Ok(progress) => assert!(progress.complete && clock < MAX_NESTING),
                Err(error) => {
                    assert_eq!((error, clock), (CrdtError::TooLarge, MAX_NESTING));
                    assert_eq!(frontier.clock(7), u32::from(clock));
                    assert!(frontier.advance(&scan, &|_| true).unwrap().complete);
                    return;
                }
            }
        }
        panic!("nesting was not bounded");
    }
}

//! Operations and deletions whose dependencies have not arrived.

use std::collections::{BTreeMap, VecDeque};

use super::compare::compare;
use super::encode::{blocks_only, deletes_only, gone, raw_blocks};
use super::frontier::{Frontier, Stop};
use super::scan::{Block, Deletes, Id, Scan};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_WAITING_BYTES;
use crate::ranges::RangeSet;

/// Most separate stretches of operations that wait.
const MAX_STRETCHES: usize = 4_096;
/// What one waiting delete range counts for.
const DELETE_RANGE_BYTES: usize = 16;

/// Consecutive operations of one client.
#[derive(Debug)]
struct Stretch {
    client: u64,
    start: u32,
    end: u32,
    /// An operation that the first of them waits for.
    needs: Id,
    blocks: VecDeque<Held>,
    /// How long they are.
    bytes: usize,
}

/// A block as it came.
#[derive(Debug)]
struct Held {
    end: u32,
    raw: Vec<u8>,
}

impl Stretch {
    fn update(&self) -> Vec<u8> {
        let raw: Vec<&[u8]> = self.blocks.iter().map(|held| held.raw.as_slice()).collect();
        raw_blocks(self.client, self.start, raw.len(), &raw.concat())
    }

    fn push(&mut self, end: u32, raw: Vec<u8>) {
        self.end = end;
        self.bytes += raw.len();
        self.blocks.push_back(Held { end, raw });
    }

    /// Takes its first block out.
    fn pop(&mut self) -> Option<Held> {
        let held = self.blocks.pop_front()?;
        self.start = held.end;
        self.bytes = self.bytes.saturating_sub(held.raw.len());
        // What comes next waits for that, and for whatever else shows then.
        self.needs = Id {
            client: self.client,
            clock: held.end.saturating_sub(1),
        };
        Some(held)
    }
}

/// The waiting room of a document.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    stretches: Vec<Stretch>,
    deletes: Deletes,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.stretches.is_empty() && self.deletes.is_empty()
    }

    /// Whether the rest of an update still fits.
    pub(super) fn has_room_for(&self, scan: &Scan<'_>, unknown: &Deletes) -> bool {
        let ranges = |deletes: &Deletes| deletes.values().map(RangeSet::len).sum::<usize>();
        let held: usize = self.stretches.iter().map(|stretch| stretch.bytes).sum();
        let bytes =
            held + scan.blocks_end + (ranges(&self.deletes) + ranges(unknown)) * DELETE_RANGE_BYTES;
        let gaps: usize = scan
            .sections
            .iter()
            .map(|section| {
                1 + section
                    .blocks
                    .iter()
                    .filter(|block| block.is_skip(scan.bytes))
                    .count()
            })
            .sum();
        bytes <= MAX_WAITING_BYTES && self.stretches.len() + gaps <= MAX_STRETCHES
    }

    /// The operations that wait, by client.
    pub(super) fn ranges(&self) -> BTreeMap<u64, RangeSet> {
        let mut ranges: BTreeMap<u64, RangeSet> = BTreeMap::new();
        for stretch in &self.stretches {
            let of_client = ranges.entry(stretch.client).or_default();
            of_client.insert(u64::from(stretch.start), u64::from(stretch.end));
        }
        ranges
    }

    /// The first counter from `clock` on that does not wait here.
    pub(super) fn first_gap(&self, client: u64, clock: u32) -> u64 {
        let mut ranges = RangeSet::default();
        for stretch in self
            .stretches
            .iter()
            .filter(|stretch| stretch.client == client)
        {
            ranges.insert(u64::from(stretch.start), u64::from(stretch.end));
        }
        ranges.first_gap(u64::from(clock))
    }

    pub(super) fn deletes(&self) -> &Deletes {
        &self.deletes
    }

    /// Compares arriving operations with those that wait.
    pub(super) fn compare(&self, arrived: &Scan<'_>) -> Result<()> {
        for stretch in &self.stretches {
            let overlaps = arrived.section(stretch.client).is_some_and(|section| {
                section
                    .blocks
                    .first()
                    .is_some_and(|first| first.clock < stretch.end)
                    && section
                        .blocks
                        .last()
                        .is_some_and(|last| last.end() > stretch.start)
            });
            if overlaps {
                compare(&Scan::exact(&stretch.update())?, arrived)?;
            }
        }
        Ok(())
    }

    /// Keeps the blocks of every section from where it stopped. Gaps end a stretch.
    pub(super) fn keep(&mut self, scan: &Scan<'_>, stops: &[Stop]) {
        for (section, stop) in scan.sections.iter().zip(stops) {
            let mut needs = stop.needs;
            let rest = section.blocks.get(stop.block..).unwrap_or(&[]);
            for blocks in rest.split(|block| block.is_skip(scan.bytes)) {
                let Some(first) = blocks.first() else {
                    continue;
                };
                // What follows a gap waits for the gap to be filled.
                let before = Id {
                    client: section.client,
                    clock: first.clock.saturating_sub(1),
                };
                let needs = needs.take().unwrap_or(before);
                self.keep_blocks(section.client, blocks, scan.bytes, needs);
            }
        }
    }

    fn keep_blocks(&mut self, client: u64, blocks: &[Block], update: &[u8], needs: Id) {
        // A stretch that these repeat, or continue.
        let mut rest = blocks;
        for stretch in self
            .stretches
            .iter_mut()
            .filter(|stretch| stretch.client == client)
        {
            if rest
                .first()
                .is_some_and(|first| (stretch.start..=stretch.end).contains(&first.clock))
            {
                let known = rest.partition_point(|block| block.end() <= stretch.end);
                rest = rest.get(known..).unwrap_or(&[]);
                if rest.first().is_some_and(|first| first.clock == stretch.end) {
                    for block in core::mem::take(&mut rest) {
                        stretch.push(block.end(), block.raw(update).to_vec());
                    }
                }
            }
        }
        if let Some(first) = rest.first() {
            let mut stretch = Stretch {
                client,
                start: first.clock,
                end: first.clock,
                needs,
                blocks: VecDeque::with_capacity(rest.len()),
                bytes: 0,
            };
            for block in rest {
                stretch.push(block.end(), block.raw(update).to_vec());
            }
            self.stretches.push(stretch);
        }
    }

    /// Takes out the blocks of a replica that end at a clock, or before it. The last of them, as an update.
    pub(super) fn take(&mut self, client: u64, end: u32) -> Option<Vec<u8>> {
        let mut found = None;
        for stretch in &mut self.stretches {
            while stretch.client == client
                && stretch.blocks.front().is_some_and(|held| held.end <= end)
            {
                let start = stretch.start;
                if let Some(held) = stretch.pop().filter(|held| held.end == end) {
                    found = Some(raw_blocks(client, start, 1, &held.raw));
                }
            }
        }
        self.stretches.retain(|stretch| !stretch.blocks.is_empty());
        found
    }

    /// Forgets deletions up to the last of these of each replica.
    pub(super) fn forget_deletes(&mut self, deletes: &Deletes) {
        for (client, ranges) in deletes {
            let last = ranges.iter().last().map_or(0, |(_, end)| end);
            if let Some(kept) = self.deletes.remove(client) {
                let (_, above) = kept.split_at(last);
                if !above.is_empty() {
                    self.deletes.insert(*client, above);
                }
            }
        }
    }

    /// Keeps deletions of operations that are not known yet.
    pub(super) fn keep_deletes(&mut self, deletes: Deletes) {
        for (client, ranges) in deletes {
            let kept = self.deletes.entry(client).or_default();
            ranges
                .iter()
                .for_each(|(start, end)| kept.insert(start, end));
        }
    }

    /// Takes out everything that `frontier` allows now, as updates in an order that respects dependencies.
    pub(super) fn release(&mut self, frontier: &mut Frontier) -> Result<Vec<Vec<u8>>> {
        let mut released = Vec::new();
        while let Some(index) = self
            .stretches
            .iter()
            .position(|waiting| frontier.knows(waiting.needs))
        {
            let stretch = self.stretches.swap_remove(index);
            let update = stretch.update();
            let scan = Scan::exact(&update)?;
            match frontier.advance(&scan, &|_| false) {
                Ok(progress) => {
                    for segment in &progress.ready {
                        let section = scan.sections.first();
                        let blocks = section.and_then(|s| s.blocks.get(segment.from..segment.to));
                        let blocks = blocks.unwrap_or(&[]);
                        released.push(blocks_only(stretch.client, blocks, &update));
                    }
                    self.keep(&scan, &progress.stops);
                }
                // Nested too deeply, as shows only now: it stands nowhere.
                Err(_) => {
                    let mut stretch = stretch;
                    let start = stretch.start.max(frontier.clock(stretch.client));
                    let Some(held) = stretch.pop() else {
                        continue;
                    };
                    let bytes = gone(stretch.client, start, held.end);
                    frontier.advance(&Scan::exact(&bytes)?, &|_| false)?;
                    released.push(bytes);
                    if !stretch.blocks.is_empty() {
                        self.stretches.push(stretch);
                    }
                }
            }
        }
        let (known, unknown) = split_deletes(core::mem::take(&mut self.deletes), frontier);
        self.deletes = unknown;
        if !known.is_empty() {
            released.push(deletes_only(&known));
        }
        Ok(released)
    }

    /// Everything that waits, as updates to be applied after the state they wait for.
    pub(super) fn updates(&self) -> Vec<Vec<u8>> {
        let mut updates: Vec<Vec<u8>> = self.stretches.iter().map(Stretch::update).collect();
        if !self.deletes.is_empty() {
            updates.push(deletes_only(&self.deletes));
        }
        updates
    }
}

/// Splits deletions into those of known operations and the others.
pub(super) fn split_deletes(deletes: Deletes, frontier: &Frontier) -> (Deletes, Deletes) {
    let (mut known, mut unknown) = (Deletes::new(), Deletes::new());
    for (client, ranges) in deletes {
        let first = ranges.iter().next().map_or(0, |(start, _)| start);
        if first >= u64::from(frontier.clock(client)) {
            unknown.insert(client, ranges);
            continue;
        }
        let (below, above) = ranges.split_at(u64::from(frontier.clock(client)));
        if !below.is_empty() {
            known.insert(client, below);
        }
        if !above.is_empty() {
            unknown.insert(client, above);
        }
    }
    (known, unknown)
}

/// The updates of a snapshot: the engine's state and what waits, one after the other.
pub(super) fn split_snapshot(mut bytes: &[u8]) -> Result<Vec<Scan<'_>>> {
    let mut scans = Vec::new();
    while !bytes.is_empty() {
        let (scan, length) = Scan::prefix(bytes)?;
        scans.push(scan);
        bytes = bytes.get(length..).ok_or(CrdtError::Malformed)?;
    }
    if scans.is_empty() {
        Err(CrdtError::Malformed)
    } else {
        Ok(scans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` by client 1 at `clock`, after the clock before.
    fn next(clock: u8, text: &str) -> Vec<u8> {
        let mut update = vec![1, 1, 1, clock, 0x84, 1, clock - 1, text.len() as u8];
        update.extend_from_slice(text.as_bytes());
        update.push(0);
        update
    }

    fn keep(waiting: &mut Waiting, frontier: &mut Frontier, update: &[u8]) {
        let scan = Scan::exact(update).unwrap();
        let progress = frontier.advance(&scan, &|_| false).unwrap();
        waiting.keep(&scan, &progress.stops);
    }

    #[test]
    fn what_continues_or_repeats_a_stretch_joins_it() {
        let (mut waiting, mut frontier) = (Waiting::default(), Frontier::default());
        for (clock, text) in [(1, "ab"), (3, "c"), (1, "abc"), (3, "cde"), (2, "b")] {
            keep(&mut waiting, &mut frontier, &next(clock, text));
        }
        // The one that starts inside the known part of a block and goes past it stays apart.
        let stretches: Vec<(u32, u32)> =
            waiting.stretches.iter().map(|s| (s.start, s.end)).collect();
        assert_eq!(stretches, vec![(1, 4), (3, 6)]);
        assert_eq!((waiting.first_gap(1, 0), waiting.first_gap(1, 1)), (0, 6));
        assert!(waiting.release(&mut frontier).unwrap().is_empty());

        let first = [1, 1, 1, 0, 4, 1, 1, b't', 1, b'x', 0];
        frontier
            .advance(&Scan::exact(&first).unwrap(), &|_| false)
            .unwrap();
        let released = waiting.release(&mut frontier).unwrap();
        assert_eq!((released.len(), frontier.clock(1)), (2, 6));
        assert!(waiting.is_empty());
    }

    #[test]
    fn deletions_wait_for_what_they_delete() {
        let (mut waiting, mut frontier) = (Waiting::default(), Frontier::default());
        let mut ranges = RangeSet::default();
        ranges.insert(0, 1);
        ranges.insert(5, 7);
        waiting.keep_deletes(Deletes::from([(1, ranges)]));
        let first = [1, 1, 1, 0, 4, 1, 1, b't', 1, b'x', 0];
        frontier
            .advance(&Scan::exact(&first).unwrap(), &|_| false)
            .unwrap();
        assert_eq!(
            waiting.release(&mut frontier).unwrap(),
            vec![vec![0, 1, 1, 1, 0, 1]]
        );
        assert!(!waiting.is_empty());
    }

    #[test]
    fn the_number_of_stretches_is_limited() {
        let (mut waiting, mut frontier) = (Waiting::default(), Frontier::default());
        let mut kept = 0;
        for client in 0..=MAX_STRETCHES as u64 {
            let mut update = vec![1, 1];
            crate::reader::write_uint(&mut update, client + 10);
            update.extend([0, 0x84, 1, 0, 1, b'x', 0]);
            let scan = Scan::exact(&update).unwrap();
            if waiting.has_room_for(&scan, &Deletes::new()) {
                keep(&mut waiting, &mut frontier, &update);
                kept += 1;
            }
        }
        assert_eq!(kept, MAX_STRETCHES);
    }
}

//! Operations and deletions whose dependencies have not arrived.

use std::collections::BTreeMap;

use super::compare::compare;
use super::encode::{blocks_only, deletes_only};
use super::frontier::Frontier;
use super::scan::{Deletes, Scan};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_WAITING_BYTES;
use crate::ranges::RangeSet;

/// One stretch of operations of one client, as an update of its own.
#[derive(Debug)]
struct Stretch {
    client: u64,
    start: u32,
    end: u32,
    update: Vec<u8>,
}

/// The waiting room of a document.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    stretches: Vec<Stretch>,
    bytes: usize,
    deletes: Deletes,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.stretches.is_empty() && self.deletes.is_empty()
    }

    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= MAX_WAITING_BYTES
    }

    /// The operations that wait, by client.
    pub(super) fn ranges(&self) -> BTreeMap<u64, RangeSet> {
        let mut ranges: BTreeMap<u64, RangeSet> = BTreeMap::new();
        for stretch in &self.stretches {
            ranges.entry(stretch.client).or_default().insert(u64::from(stretch.start), u64::from(stretch.end));
        }
        ranges
    }

    /// The first counter from `clock` on that does not wait here.
    pub(super) fn first_gap(&self, client: u64, clock: u32) -> u64 {
        let mut ranges = RangeSet::default();
        for stretch in self.stretches.iter().filter(|stretch| stretch.client == client) {
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
            if arrived.section(stretch.client).is_some() {
                compare(&Scan::exact(&stretch.update)?, arrived)?;
            }
        }
        Ok(())
    }

    /// Keeps the blocks of every section from `stopped_at` on. Gaps end a stretch.
    pub(super) fn keep(&mut self, scan: &Scan<'_>, stopped_at: &[usize], frontier: &Frontier) {
        for (section, stop) in scan.sections.iter().zip(stopped_at) {
            let rest = section.blocks.get(*stop..).unwrap_or(&[]);
            for blocks in rest.split(|block| block.is_skip(scan.bytes)) {
                let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { continue };
                let known = self.stretches.iter().any(|stretch| {
                    stretch.client == section.client && stretch.start <= first.clock && last.end() <= stretch.end
                });
                if known || last.end() <= frontier.clock(section.client) {
                    continue;
                }
                let update = blocks_only(section.client, blocks, scan.bytes);
                self.bytes += update.len();
                self.stretches.push(Stretch { client: section.client, start: first.clock, end: last.end(), update });
            }
        }
    }

    /// Keeps deletions of operations that are not known yet.
    pub(super) fn keep_deletes(&mut self, deletes: Deletes) {
        for (client, ranges) in deletes {
            let kept = self.deletes.entry(client).or_default();
            ranges.iter().for_each(|(start, end)| kept.insert(start, end));
        }
    }

    /// Takes out everything that `frontier` allows now, as updates in an order that respects dependencies.
    pub(super) fn release(&mut self, frontier: &mut Frontier) -> Result<Vec<Vec<u8>>> {
        let mut released = Vec::new();
        loop {
            let before = released.len();
            for stretch in core::mem::take(&mut self.stretches) {
                self.bytes -= stretch.update.len();
                let scan = Scan::exact(&stretch.update)?;
                // Nested too deeply, as shows only now: this can never be applied, so it waits for ever.
                let Ok(progress) = frontier.advance(&scan, &|_| false) else {
                    self.keep(&scan, &[0], frontier);
                    continue;
                };
                for segment in &progress.ready {
                    let blocks = scan.sections.first().and_then(|s| s.blocks.get(segment.from..segment.to));
                    released.push(blocks_only(stretch.client, blocks.unwrap_or(&[]), &stretch.update));
                }
                self.keep(&scan, &progress.stopped_at, frontier);
            }
            if released.len() == before {
                break;
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
        let mut updates: Vec<Vec<u8>> = self.stretches.iter().map(|stretch| stretch.update.clone()).collect();
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
    if scans.is_empty() { Err(CrdtError::Malformed) } else { Ok(scans) }
}

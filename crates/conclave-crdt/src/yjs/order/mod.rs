//! Counting what a Yjs update costs an engine: the lists of a document without their content.
//!
//! Engines keep a list as linked items, cut where somebody wrote into them and joined where they can be again, each in its own way. Here a list
//! is made of **canonical blocks**, which depend on nothing but operations and deletions, so that whoever read the log and whoever read a
//! snapshot count alike. **Marks** inside a block are the places where an engine may have cut it: an item stands there, or meant to.

mod counting;
mod item;
mod journal;
mod lookup;
mod marks;
mod state;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::apart::Apart;
use super::frontier::{self, Segment};
use super::plan::{Plan, Released};
use super::scan::{Deletes, Id, Layout, Section};
use super::waiting::split_snapshot;
use crate::cost::{Allowance, Counted, ITEM_EARNS, LoadLimit, Purse, Refused, growth};
use crate::error::CrdtError;
use crate::kinds::CrdtKind;
use crate::limits::MAX_SNAPSHOT_BYTES;
pub(super) use lookup::Owner;

use counting::{Counting, Landed, Passed, Stop};
use item::Item;
use state::State;

/// Costs are added up in parts of a unit, of which this is one.
const WHOLE: u64 = 128;
/// An item costs one unit, and one for each piece that it passes on the way to its place.
const ITEM_UNITS: u64 = 1;
/// An engine is given each stretch of a section by itself.
const STRETCH_UNITS: u64 = 1;
/// Blocks of an update that only go on with the one before.
const JOINED_PER_UNIT: u64 = 2;
/// UTF-16 units that are looked at in a unit of cost, to find where a text is cut.
const SCANNED_PER_UNIT: u64 = 160;
/// UTF-16 units that are copied in a unit of cost, where a text is cut.
const COPIED_PER_UNIT: u64 = 2048;
/// Values that are copied in a unit of cost, where they are cut.
const VALUES_PER_UNIT: u64 = 16;
/// Values that are read in a unit of cost.
const READ_PER_UNIT: u64 = 4;
/// Pieces of a replica's vector that are moved, where one is put in or taken out.
const LINES_PER_UNIT: u64 = 256;
/// Values of a key that are walked over, back to the first, twice.
const KEYS_PER_UNIT: u64 = 16;
/// Pieces that a deletion looks at.
const PASSED_PER_UNIT: u64 = 16;
/// Pieces that are deleted.
const DELETED_PER_UNIT: u64 = 4;
/// Bytes of an update.
const BYTES_PER_UNIT: u64 = 1024;
/// Blocks of the whole document that are looked at, where an update repeats what is known.
const REPEATED_PER_UNIT: u64 = 4;
/// Bytes of what waits that are read again, where an update repeats it.
const AGAIN_PER_UNIT: u64 = 64;
/// What each item and each deletion pays that waits, and the most that it may cost when it comes in. Cutting a block of an import, of 65,536
/// units, in the middle costs 237.
const WAITING_UNITS: u64 = 512;
/// The most that a part of a waiting deletion may cost, of which the rest goes on waiting: what the item earned that it deletes.
const PART_UNITS: u64 = 64;
/// Most items and deletions that wait.
const MAX_WAITING: usize = 4_096;
/// UTF-16 units of the longest live block that earn one unit.
const LONGEST_PER_UNIT: u64 = 160;

/// What a log holds, in numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    state: State,
    passed: Passed,
}

impl Order {
    /// The numbers of a snapshot, and what loading it costs.
    pub(crate) fn load(
        snapshot: &[u8],
        limit: LoadLimit,
    ) -> core::result::Result<(Self, u64), Refused> {
        match Self::read(snapshot, limit) {
            Ok((order, total)) => Ok((order, total.div_ceil(WHOLE))),
            Err(Stop::Over) => Err(Refused::Cost { balance: 0 }),
            Err(Stop::Content) => Err(Refused::Content { balance: 0 }),
            Err(Stop::Malformed(error)) => Err(Refused::Malformed(error)),
        }
    }

    fn read(snapshot: &[u8], limit: LoadLimit) -> core::result::Result<(Self, u64), Stop> {
        if snapshot.len() > MAX_SNAPSHOT_BYTES {
            return Err(CrdtError::TooLarge.into());
        }
        let mut order = Self::default();
        let mut total = 0;
        let scans = split_snapshot(snapshot)?;
        let blocks = scans.iter().flat_map(|scan| &scan.sections);
        let items = blocks.map(|section| section.blocks.len() as u64).sum();
        let limit = limit.with_items(items).saturating_mul(WHOLE);
        for (index, scan) in scans.into_iter().enumerate() {
            let mut reading = Reading::of(&mut order, total, limit);
            reading.counting.strict = false;
            if index == 0 {
                reading.counting.apart = Apart::of(&scan)?;
            }
            reading.update(scan.bytes, &scan.sections, &scan.deletes)?;
            reading.counting.join_all()?;
            // All of the state is ready, and nothing of what waits.
            let right = if index == 0 {
                reading.plan.is_complete()
            } else {
                reading.moved.is_empty() && reading.plan.known.is_empty()
            };
            if !right {
                return Err(CrdtError::Malformed.into());
            }
            total = reading.counting.total;
        }
        Ok((order, total))
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.size + self.waiting()
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.state.waiting.len() as u64
    }

    /// With `on_top` what was counted before can still be taken back after this.
    pub(crate) fn count(
        &mut self,
        update: &[u8],
        layout: &mut Layout,
        allowance: Allowance,
        on_top: bool,
    ) -> core::result::Result<Counted, Refused> {
        if layout.length() != update.len() {
            return Err(Refused::Malformed(CrdtError::Malformed));
        }
        match on_top {
            true => self.state.begin_on_top(),
            false => self.state.begin(),
        }
        let size = self.size();
        let blocks = layout.sections().iter().flat_map(|s| &s.blocks);
        let items = blocks.filter(|block| !block.is_skip(update)).count() as u64;
        // What cutting in the longest block costs, and moving what stands behind it, at the two ends of an edit.
        let longest = u64::from(self.state.longest()) / LONGEST_PER_UNIT
            + 2 * (self.state.most_pieces() / LINES_PER_UNIT);
        let most = Purse::new(CrdtKind::Yjs, allowance, ITEM_EARNS * items + longest);
        let mut reading = Reading::of(self, 0, most.limit() * WHOLE);
        let outcome = reading.update(update, layout.sections(), layout.deletes());
        let counted = reading.counting.total.div_ceil(WHOLE);
        let (earning, grown) = (reading.earning, growth(size, reading.size()));
        let purse = Purse::new(CrdtKind::Yjs, allowance, ITEM_EARNS * earning + longest);
        let over = || purse.refused(counted.min(most.limit() + 1));
        let refusal = match outcome {
            Ok(()) if counted > purse.limit() => over(),
            Ok(()) if !allowance.has_room(grown) => over(),
            Ok(()) => {
                let released = reading.release().div_ceil(WHOLE);
                let grown = growth(size, reading.size());
                layout.plan = Some(Box::new(reading.plan));
                return Ok(Counted {
                    cost: counted,
                    balance: purse.paid(counted),
                    grown,
                    released,
                });
            }
            Err(Stop::Over) => over(),
            Err(Stop::Content) => Refused::Content {
                balance: most.left(counted),
            },
            Err(Stop::Malformed(error)) => Refused::Malformed(error),
        };
        self.state.undo();
        Err(refusal)
    }

    pub(crate) fn revert(&mut self) {
        self.state.undo();
    }
}

/// One update on its way in.
struct Reading<'a> {
    counting: Counting<'a>,
    /// Items that came in at once.
    earning: u64,
    /// How an engine is to take it in.
    plan: Plan,
    /// Which operations became known: of whom, and from and up to which clock.
    moved: Vec<(u64, u32, u32)>,
}

/// Where a section of an update stands.
#[derive(Clone, Copy, Default)]
struct Cursor {
    block: usize,
    /// What it waits for.
    needs: Option<Id>,
    /// The item that the last block was, and where it came to stand.
    last: Option<(Item, Landed)>,
}

impl<'a> Reading<'a> {
    fn of(order: &'a mut Order, total: u64, limit: u64) -> Self {
        Self {
            counting: Counting {
                state: &mut order.state,
                passed: &mut order.passed,
                total,
                limit,
                strict: true,
                deleted: HashMap::new(),
                apart: Apart::default(),
                met: HashSet::new(),
            },
            earning: 0,
            plan: Plan::default(),
            moved: Vec::new(),
        }
    }

    /// Canonical blocks, and what waits.
    fn size(&self) -> u64 {
        self.counting.state.size + self.counting.state.waiting.len() as u64
    }

    fn update(
        &mut self,
        update: &[u8],
        sections: &[Section],
        deletes: &Deletes,
    ) -> core::result::Result<(), Stop> {
        let bytes = update.len() as u64;
        self.counting.pay(bytes * WHOLE / BYTES_PER_UNIT)?;
        self.pay_repeats(sections)?;
        let cursors = self.sections(update, sections)?;
        self.keep(update, sections, &cursors)?;
        self.deletes(deletes)
    }

    /// What is known already is compared, and for that an engine writes it out again.
    fn pay_repeats(&mut self, sections: &[Section]) -> core::result::Result<(), Stop> {
        let mut repeats = false;
        let mut waits = false;
        for section in sections {
            let (Some(first), Some(last)) = (section.blocks.first(), section.blocks.last()) else {
                continue;
            };
            let clock = self.counting.state.clock(section.client);
            if first.clock < clock {
                repeats = true;
                let units = u64::from(clock - first.clock);
                self.counting.pay(units * WHOLE / BYTES_PER_UNIT)?;
            }
            let waiting = &self.counting.state.waiting;
            waits |= waiting.holds(section.client, first.clock, last.end());
        }
        if repeats {
            let size = self.counting.state.size;
            self.counting.pay(size * WHOLE / REPEATED_PER_UNIT)?;
        }
        if waits {
            let bytes = self.counting.state.waiting.bytes();
            self.counting.pay(bytes * WHOLE / AGAIN_PER_UNIT)?;
        }
        Ok(())
    }

    /// Takes every section as far as it goes, and again whenever what it waited for has become known.
    fn sections(
        &mut self,
        update: &[u8],
        sections: &[Section],
    ) -> core::result::Result<Vec<Cursor>, Stop> {
        let mut cursors = vec![Cursor::default(); sections.len()];
        let mut queue: VecDeque<usize> = (0..sections.len()).collect();
        let mut blocked: BTreeMap<(u64, u32), Vec<usize>> = BTreeMap::new();
        while let Some(index) = queue.pop_front() {
            let (Some(section), Some(cursor)) = (sections.get(index), cursors.get_mut(index))
            else {
                continue;
            };
            let before = self.counting.state.clock(section.client);
            let from = cursor.block;
            let needs = self.section(update, section, cursor)?;
            if let Some(id) = needs {
                let waiting = blocked.entry((id.client, id.clock)).or_default();
                waiting.push(index);
            }
            cursor.needs = needs;
            let after = self.counting.state.clock(section.client);
            if after > before {
                if !self.plan.ready.is_empty() {
                    self.counting.pay(STRETCH_UNITS * WHOLE)?;
                }
                self.plan.ready.push(Segment {
                    section: index,
                    from,
                    to: cursor.block,
                });
            }
            let known = (section.client, before)..(section.client, after);
            let freed: Vec<(u64, u32)> = blocked.range(known).map(|(key, _)| *key).collect();
            for key in freed {
                queue.extend(blocked.remove(&key).unwrap_or_default());
            }
        }
        Ok(cursors)
    }

    /// Takes a section as far as it goes. What it waits for then.
    fn section(
        &mut self,
        update: &[u8],
        section: &Section,
        cursor: &mut Cursor,
    ) -> core::result::Result<Option<Id>, Stop> {
        let client = section.client;
        let start = self.counting.state.clock(client);
        let mut needs = None;
        while let Some(block) = section.blocks.get(cursor.block) {
            let clock = self.counting.state.clock(client);
            if block.end() > clock {
                let Some(item) = Item::read(client, block, update)? else {
                    let clock = block.end() - 1;
                    needs = Some(Id { client, clock });
                    break;
                };
                if item.at.clock > clock {
                    needs = Some(before(item.at));
                    break;
                }
                let item = item.from(clock);
                let state = &self.counting.state;
                needs = item.needs(|id| state.knows(id));
                if needs.is_some() {
                    break;
                }
                let landed = match cursor.last {
                    Some((last, landed))
                        if landed.goes_on
                            && last.goes_on(&item)
                            && !self.counting.apart.holds(item.at) =>
                    {
                        self.counting.go_on(landed, &item)?;
                        landed
                    }
                    _ => self.counting.take_in(&item)?,
                };
                cursor.last = Some((item, landed));
                self.earning += 1;
            }
            cursor.block += 1;
        }
        let end = self.counting.state.clock(client);
        if end > start {
            self.moved.push((client, start, end));
        }
        Ok(needs)
    }

    /// Keeps what could not be taken in.
    fn keep(
        &mut self,
        update: &[u8],
        sections: &[Section],
        cursors: &[Cursor],
    ) -> core::result::Result<(), Stop> {
        for (section, cursor) in sections.iter().zip(cursors) {
            let (block, needs) = (cursor.block, cursor.needs);
            self.plan.stops.push(frontier::Stop { block, needs });
            let rest = section.blocks.get(cursor.block..).unwrap_or(&[]);
            for block in rest {
                let Some(item) = Item::read(section.client, block, update)? else {
                    continue;
                };
                match self.counting.state.wait(item) {
                    Some(true) => self.counting.pay(WAITING_UNITS * WHOLE)?,
                    Some(false) => {}
                    None => return Err(Stop::Content),
                }
            }
            if !rest.is_empty() {
                self.wait_for(section.client);
            }
        }
        self.check_room()
    }

    fn check_room(&self) -> core::result::Result<(), Stop> {
        if self.counting.state.waiting.len() > MAX_WAITING {
            Err(Stop::Over)
        } else {
            Ok(())
        }
    }

    /// Notes what the next item of a replica waits for.
    fn wait_for(&mut self, client: u64) {
        let state = &mut *self.counting.state;
        let clock = state.clock(client);
        let needs = match state.waiting.first(client) {
            Some(item) if item.end() <= clock => None,
            Some(item) if item.at.clock <= clock => item.from(clock).needs(|id| state.knows(id)),
            Some(item) => Some(before(item.at)),
            None => None,
        };
        if let Some(id) = needs {
            state.block_on(id, client, true);
        }
    }

    /// Deletes what is known, and keeps the rest.
    fn deletes(&mut self, deletes: &Deletes) -> core::result::Result<(), Stop> {
        for (client, ranges) in deletes {
            let known = self.counting.state.clock(*client);
            for (start, end) in ranges.iter() {
                let (start, end) = (clock(start), clock(end));
                if start < known {
                    self.counting.delete_range(*client, start, end.min(known))?;
                    note(&mut self.plan.known, *client, start, end.min(known));
                }
                if end > known {
                    let start = start.max(known);
                    self.counting.pay(WAITING_UNITS * WHOLE)?;
                    self.counting.state.wait_delete(*client, start, end);
                    note(&mut self.plan.unknown, *client, start, end);
                }
            }
        }
        self.check_room()
    }

    /// Takes in what had waited for what became known. That is never refused: what costs more than was paid for it comes in without its content
    /// and place, as what an engine has dropped. How many parts of a unit that was.
    fn release(&mut self) -> u64 {
        self.counting.total = 0;
        self.counting.limit = u64::MAX;
        if self.counting.state.waiting.is_empty() {
            return 0;
        }
        let mut moved: VecDeque<(u64, u32, u32)> = self.moved.drain(..).collect();
        let mut known = BTreeSet::new();
        while let Some((client, start, end)) = moved.pop_front() {
            known.insert(client);
            let mut woken = self.counting.state.waiting.woken(client, start, end);
            woken.push((Id { client, clock: end }, client));
            for (id, waiter) in woken {
                self.counting.state.block_on(id, waiter, false);
                let before = self.counting.state.clock(waiter);
                self.take_waiting(waiter);
                let after = self.counting.state.clock(waiter);
                if after > before {
                    moved.push_back((waiter, before, after));
                }
            }
        }
        for client in known {
            let below = self.counting.state.clock(client);
            for (start, end) in self.counting.state.waiting.due(client, below) {
                self.counting.state.take_delete(client, start, end, below);
                let most = if end > below {
                    PART_UNITS
                } else {
                    WAITING_UNITS
                };
                let end = end.min(below);
                note(&mut self.plan.due, client, start, end);
                if self.within(most, |counting| counting.delete_range(client, start, end)) {
                    note(&mut self.plan.deletes, client, start, end);
                }
            }
        }
        self.counting.total
    }

    /// Does something if it costs at most so many units; else nothing. Whether it did.
    fn within(
        &mut self,
        most: u64,
        act: impl FnOnce(&mut Counting<'_>) -> core::result::Result<(), Stop>,
    ) -> bool {
        let saved = self.counting.state.save();
        let before = self.counting.total;
        self.counting.limit = before + most * WHOLE;
        let done = act(&mut self.counting).and_then(|()| self.counting.pay(0));
        self.counting.limit = u64::MAX;
        if done.is_err() {
            self.counting.total = before;
            self.counting.state.undo_to(&saved);
        }
        done.is_ok()
    }

    /// Takes a replica's waiting items in as far as they go.
    fn take_waiting(&mut self, client: u64) {
        while let Some(item) = self.counting.state.waiting.first(client) {
            let clock = self.counting.state.clock(client);
            if item.end() <= clock {
                self.counting.state.take_waiting(&item);
                continue;
            }
            let state = &self.counting.state;
            if item.at.clock > clock || item.from(clock).needs(|id| state.knows(id)).is_some() {
                break;
            }
            self.counting.state.take_waiting(&item);
            let item = item.from(clock);
            let fits = self.within(WAITING_UNITS, |counting| counting.take_in(&item).map(drop));
            if !fits {
                self.counting.drop_item(&item);
            }
            self.plan.released.push(Released {
                client,
                start: clock,
                end: item.end(),
                gone: !fits,
            });
        }
        self.wait_for(client);
    }
}

/// Notes deletions.
fn note(deletes: &mut Deletes, client: u64, start: u32, end: u32) {
    let ranges = deletes.entry(client).or_default();
    ranges.insert(u64::from(start), u64::from(end));
}

/// Clocks are below 2³¹.
fn clock(clock: u64) -> u32 {
    u32::try_from(clock).unwrap_or(u32::MAX)
}

/// The operation before one of the same replica.
fn before(id: Id) -> Id {
    Id {
        clock: id.clock.saturating_sub(1),
        ..id
    }
}

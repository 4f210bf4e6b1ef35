//! Taking items and deletions in, and counting what that costs an engine.

use std::collections::{HashMap, HashSet};

use super::super::apart::Apart;
use super::super::scan::Id;
use super::item::{Home, Item};
use super::state::{Block, Kind, NIL, Op, Place, State};
use super::{
    COPIED_PER_UNIT, DELETED_PER_UNIT, ITEM_UNITS, JOINED_PER_UNIT, KEYS_PER_UNIT, LINES_PER_UNIT,
    PASSED_PER_UNIT, SCANNED_PER_UNIT, VALUES_PER_UNIT, WHOLE,
};
use crate::cost::LIVE_BLOCK_UNITS;
use crate::error::CrdtError;
use crate::limits::MAX_NESTING;

/// Why counting ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It costs too much.
    Over,
    Content,
    Malformed(CrdtError),
}

impl From<CrdtError> for Stop {
    fn from(error: CrdtError) -> Self {
        Self::Malformed(error)
    }
}

type Counted<T> = Result<T, Stop>;

/// Which blocks were passed on the way to the place of an item.
#[derive(Debug, Clone, Default)]
pub(super) struct Passed {
    /// By block, the number of the item that passed it last, and of the place since which it was. Both lie together: a walk along a long list waits for
    /// memory and little else.
    by: Vec<(u32, u32)>,
    item: u32,
    place: u32,
}

impl Passed {
    fn start(&mut self, blocks: usize) {
        // After 2³² items all numbers are old ones.
        if self.item == u32::MAX || self.place >= u32::MAX - 1 {
            *self = Self::default();
        }
        self.item += 1;
        self.place += 1;
        if self.by.len() < blocks {
            self.by.resize(blocks, (0, 0));
        }
    }

    fn pass(&mut self, block: u32) {
        if let Some(by) = self.by.get_mut(block as usize) {
            *by = (self.item, self.place);
        }
    }

    fn move_place(&mut self) -> Counted<()> {
        self.place = self.place.checked_add(1).ok_or(Stop::Over)?;
        Ok(())
    }

    fn is_before(&self, block: u32) -> bool {
        let by = self.by.get(block as usize);
        by.is_some_and(|(item, _)| *item == self.item)
    }

    fn is_since(&self, block: u32) -> bool {
        let by = self.by.get(block as usize);
        by.is_some_and(|(_, place)| *place == self.place)
    }
}

/// A point in a list: behind the operations of a block up to a clock, or at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    block: u32,
    clock: u32,
}

const FRONT: Point = Point {
    block: NIL,
    clock: 0,
};

/// Where an item came to stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Landed {
    pub(super) block: u32,
    /// Whether an engine is given what goes on with it as one item.
    pub(super) goes_on: bool,
}

/// What is counted of one update or snapshot, in parts of a unit.
pub(super) struct Counting<'a> {
    pub(super) state: &'a mut State,
    pub(super) passed: &'a mut Passed,
    pub(super) total: u64,
    /// Where counting stops.
    pub(super) limit: u64,
    /// Whether this is judged; else it is there already, and is taken as an engine takes it.
    pub(super) strict: bool,
    /// By replica, how many ranges were deleted, and the end of the last one.
    pub(super) deleted: HashMap<u32, (u64, u32)>,
    /// The blocks of a state that stay apart while it is loaded, and those of these before which an item came to stand, or meant to.
    pub(super) apart: Apart,
    pub(super) met: HashSet<Op>,
}

impl Counting<'_> {
    pub(super) fn pay(&mut self, parts: u64) -> Counted<()> {
        self.total = self.total.saturating_add(parts);
        if self.total > self.limit {
            Err(Stop::Over)
        } else {
            Ok(())
        }
    }

    /// Moving what stands behind a place in an engine's vector of a replica's blocks.
    fn pay_line(&mut self, client: u32) -> Counted<()> {
        let pieces = self.state.count_of(client).pieces;
        self.pay(pieces * WHOLE / LINES_PER_UNIT)
    }

    fn check_length(&self, block: u32) -> Counted<()> {
        let long = self
            .state
            .block(block)
            .is_some_and(|block| block.kind.is_live() && u64::from(block.len) > LIVE_BLOCK_UNITS);
        if self.strict && long {
            Err(Stop::Over)
        } else {
            Ok(())
        }
    }

    /// Whether a block of a state begins here that stays apart.
    fn is_apart(&self, op: Op) -> bool {
        let client = self.state.id_of(op.client);
        let clock = op.clock;
        self.apart.holds(Id { client, clock })
    }

    /// A place in a block before which an item stands, or meant to.
    fn mark(&mut self, op: Op) {
        if self.is_apart(op) {
            self.met.insert(op);
        }
        self.state.mark(op);
    }

    /// What stayed apart and can be joined is joined at the end. That costs what cutting it there would.
    pub(super) fn join_all(&mut self) -> Counted<()> {
        let apart = core::mem::take(&mut self.apart);
        for id in apart.ids() {
            let op = self.state.op(Some(id));
            if !self.met.contains(&op) {
                self.state.unmark(op);
            }
            if let Some(block) = self.state.find(op) {
                self.pay_cut(block, op.clock)?;
            }
        }
        Ok(())
    }

    /// Cutting a block before a clock, if that is inside of it, and the engine has it in one.
    fn pay_cut(&mut self, block: u32, clock: u32) -> Counted<()> {
        let Some(block) = self.state.block(block).copied() else {
            return Ok(());
        };
        let inside = clock > block.at.clock && clock < block.end();
        if !inside || self.is_apart(Op { clock, ..block.at }) {
            return Ok(());
        }
        let (offset, len) = (u64::from(clock - block.at.clock), u64::from(block.len));
        let units = match block.kind {
            Kind::Text => offset.div_ceil(SCANNED_PER_UNIT) + len.div_ceil(COPIED_PER_UNIT),
            Kind::Values => len.div_ceil(VALUES_PER_UNIT),
            Kind::Type | Kind::Single | Kind::Deleted | Kind::Gone => 0,
        };
        self.pay(units * WHOLE)?;
        self.pay_line(block.at.client)
    }

    /// The block of a neighbour.
    fn neighbour(&self, op: Op) -> Option<u32> {
        if op.is_none() {
            None
        } else {
            self.state.find(op)
        }
    }

    /// Whether an item's right neighbour is its left one, or stands before it in one run of a replica's operations. No program writes that, and an engine
    /// puts such an item where it happens to have cut the run, which is not the same at all members. Both ends are followed at once: where the later
    /// operations stand elsewhere, as those of whoever goes back to write, one of them ends soon.
    fn is_turned(&mut self, origin: Op, right: Op) -> Counted<bool> {
        if origin.is_none() || right.is_none() || origin.client != right.client {
            return Ok(false);
        }
        let (Some(mut first), Some(mut last)) = (self.state.find(right), self.state.find(origin))
        else {
            return Ok(false);
        };
        // What is gone stands in no order.
        let stands = self.list_of(Some(first)) != Some(NIL);
        if right.clock > origin.clock || !stands {
            return Ok(false);
        }
        while first != last {
            self.pay(2 * WHOLE / PASSED_PER_UNIT)?;
            let Some(next) = self.state.goes_on_in(first) else {
                return Ok(false);
            };
            first = next;
            if first == last {
                break;
            }
            let before = self.state.block(last).map(|block| block.at);
            let before = before.and_then(|at| self.state.before(at));
            let Some(before) = before.filter(|it| self.state.goes_on_in(*it) == Some(last)) else {
                return Ok(false);
            };
            last = before;
        }
        Ok(true)
    }

    fn list_of(&self, block: Option<u32>) -> Option<u32> {
        block
            .and_then(|block| self.state.block(block))
            .map(|block| block.list)
    }

    /// The list of an item; [`NIL`] if the type that it is in was deleted.
    fn list_for(&mut self, item: &Item, left: Option<u32>, right: Option<u32>) -> Counted<u32> {
        match (self.list_of(left), self.list_of(right)) {
            (Some(left), Some(right)) if left != right => {
                if self.strict {
                    return Err(Stop::Content);
                }
                return Ok(if left == NIL { right } else { left });
            }
            (Some(list), _) | (None, Some(list)) => return Ok(list),
            (None, None) => {}
        }
        match item.home {
            Home::Root(root, key) => Ok(self.state.list_at(Place::Root(root, key), 1)),
            Home::Type(id, key) => {
                let owner = self.state.op(Some(id));
                let block = self.state.find(owner);
                let block = block.and_then(|block| self.state.block(block));
                let (kind, list) = block.map_or((None, NIL), |b| (Some(b.kind), b.list));
                // An engine deletes what is in a type by recursion.
                let depth = self.state.list(list).map_or(0, |list| list.depth) + 1;
                if self.strict && depth > u16::from(MAX_NESTING) {
                    return Err(Stop::Content);
                }
                match kind {
                    Some(Kind::Type) => Ok(self.state.list_at(Place::Type(owner, key), depth)),
                    Some(Kind::Deleted | Kind::Gone) => Ok(NIL),
                    _ if self.strict => Err(Stop::Content),
                    _ => Ok(NIL),
                }
            }
            // A dropped block says nothing of its place.
            Home::Beside => Ok(NIL),
        }
    }

    /// Takes an item in whose neighbours are known.
    pub(super) fn take_in(&mut self, item: &Item) -> Counted<Landed> {
        self.pay(ITEM_UNITS * WHOLE + item.weight)?;
        let client = self.state.client(item.at.client);
        let at = Op {
            client,
            clock: item.at.clock,
        };
        let origin = self.state.op(item.origin);
        let right = self.state.op(item.right);
        let left = self.neighbour(origin);
        let right_block = self.neighbour(right);
        if self.strict && self.is_turned(origin, right)? {
            return Err(Stop::Content);
        }
        let list = self.list_for(item, left, right_block)?;
        if self.is_apart(at) {
            // An engine has it cut there from the beginning.
            self.state.mark(at);
        }
        self.state.set_clock(client, item.end());
        if list == NIL || item.kind == Kind::Gone {
            return Ok(self.add_gone(at, item.len));
        }
        // Neighbours in another list are passed over.
        let beside = |block: &u32| self.state.block(*block).is_some_and(|b| b.list == list);
        let (left_block, right_block) = (left.filter(beside), right_block.filter(beside));
        if let Some(block) = left_block {
            self.pay_cut(block, origin.clock + 1)?;
            if origin.client != client || origin.clock + 1 != at.clock {
                self.mark(Op {
                    clock: origin.clock + 1,
                    ..origin
                });
            }
        }
        if let Some(block) = right_block {
            // Between two neighbours an engine cuts once.
            let cut = left_block == right_block && origin.clock.wrapping_add(1) == right.clock;
            if !cut {
                self.pay_cut(block, right.clock)?;
            }
            self.mark(right);
        }
        let is_key = self.state.list(list).is_some_and(|list| list.is_key);
        if is_key && left_block.is_none() {
            let pieces = self.state.list(list).map_or(0, |list| list.pieces);
            self.pay(pieces * WHOLE / KEYS_PER_UNIT)?;
        }
        let block = Block {
            at,
            len: item.len,
            origin,
            right,
            next: NIL,
            list,
            marks: 0,
            kind: item.kind,
        };
        let place = self.place(&block, left_block, right_block)?;
        let landed = self.put(block, place)?;
        self.check_length(landed)?;
        Ok(Landed {
            block: landed,
            goes_on: !is_key,
        })
    }

    /// Takes an item in that only goes on with the one before it in the same update.
    pub(super) fn go_on(&mut self, landed: Landed, item: &Item) -> Counted<()> {
        self.pay(WHOLE / JOINED_PER_UNIT + item.weight)?;
        if let Some(client) = self.state.known_client(item.at.client) {
            self.state.set_clock(client, item.end());
        }
        if let Some(block) = self.state.block(landed.block).copied() {
            let len = block.len + item.len;
            self.state.set(landed.block, Block { len, ..block });
        }
        self.check_length(landed.block)
    }

    /// Takes an item in without its content and place.
    pub(super) fn drop_item(&mut self, item: &Item) {
        self.total += ITEM_UNITS * WHOLE;
        let client = self.state.client(item.at.client);
        self.state.set_clock(client, item.end());
        let clock = item.at.clock;
        self.add_gone(Op { client, clock }, item.len);
    }

    /// Operations that stand nowhere.
    fn add_gone(&mut self, at: Op, len: u32) -> Landed {
        let before = self.state.before(at);
        let mut block = self.state.add(Block::gone(at, len));
        if let Some(before) = before
            && self.state.join(before, block)
        {
            block = before;
        }
        Landed {
            block,
            goes_on: true,
        }
    }

    /// Where an item comes to stand between its neighbours: what an engine's conflict loop finds, on numbers.
    fn place(&mut self, item: &Block, left: Option<u32>, right: Option<u32>) -> Counted<Point> {
        let head = self.state.list(item.list).map_or(NIL, |list| list.head);
        let mut place = FRONT;
        // What is looked at next: a block, and the first of its clocks.
        let (mut next, mut from) = (head, None);
        if let Some(left) = left {
            place = Point {
                block: left,
                clock: item.origin.clock + 1,
            };
            let inside = self
                .state
                .block(left)
                .is_some_and(|b| place.clock < b.end());
            (next, from) = if inside {
                (left, Some(place.clock))
            } else {
                (self.state.block(left).map_or(NIL, |b| b.next), None)
            };
        }
        let first = (next, from.unwrap_or(0));
        let right = (right.unwrap_or(NIL), item.right.clock);
        let client = self.state.id_of(item.at.client);
        let mut last = NIL;
        self.passed.start(self.state.arena_len());
        while let Some(block) = self.state.block(next).copied() {
            let start = from.take().unwrap_or(block.at.clock);
            if right == (next, start) {
                break;
            }
            let cut = next == right.0 && start < right.1;
            let end = if cut { right.1 } else { block.end() };
            self.pay(WHOLE)?;
            self.passed.pass(next);
            let origin = if start == block.at.clock {
                block.origin
            } else {
                Op {
                    clock: start - 1,
                    ..block.at
                }
            };
            let behind = Point {
                block: next,
                clock: end,
            };
            if origin == item.origin {
                if self.state.id_of(block.at.client) < client {
                    place = behind;
                    self.passed.move_place()?;
                } else if block.right == item.right {
                    break;
                }
            } else {
                // Most stand behind the one just passed.
                let near = self.state.block(last).filter(|last| {
                    last.at.client == origin.client
                        && (last.at.clock..last.end()).contains(&origin.clock)
                });
                let holder = match near {
                    Some(_) => last,
                    None => match self.state.find(origin) {
                        Some(holder) => holder,
                        None => break,
                    },
                };
                let outside = (holder == first.0 && origin.clock < first.1)
                    || (holder == right.0 && origin.clock >= right.1);
                if !self.passed.is_before(holder) || outside {
                    break;
                }
                if !self.passed.is_since(holder) {
                    place = behind;
                    self.passed.move_place()?;
                }
            }
            // What an engine cut off of it is passed as well.
            let marks = if (start, end) == (block.at.clock, block.end()) {
                block.marks
            } else {
                self.state.marks_between(block.at.client, start, end)
            };
            self.pay(u64::from(marks) * WHOLE)?;
            if cut {
                break;
            }
            last = next;
            next = block.next;
        }
        Ok(place)
    }

    /// Puts a block at its place. The block that it is then, or is a part of.
    fn put(&mut self, mut block: Block, place: Point) -> Counted<u32> {
        let Some(list) = self.state.list(block.list).copied() else {
            return Err(Stop::Content);
        };
        let Some(before) = self.state.block(place.block).copied() else {
            block.next = list.head;
            if list.is_key && block.next != NIL {
                block.kind = self.kill_kind(&block);
            }
            let head = self.state.add(block);
            self.state.set_head(block.list, head);
            return Ok(head);
        };
        block.next = if place.clock < before.end() {
            self.state.split(place.block, place.clock)
        } else {
            before.next
        };
        let mut left = place.block;
        // Only the last value of a key lives.
        if list.is_key && block.next != NIL {
            block.kind = self.kill_kind(&block);
        } else if list.is_key && before.kind.is_live() {
            self.delete(left)?;
            // It may have become a part of the one before it.
            let clock = place.clock - 1;
            left = self.state.find(Op { clock, ..before.at }).unwrap_or(NIL);
        }
        let index = self.state.add(block);
        self.state.set_next(left, index);
        if self.state.join(left, index) {
            return Ok(left);
        }
        Ok(index)
    }

    fn kill_kind(&mut self, block: &Block) -> Kind {
        self.note_deleted(block.at.client, block.at.clock, block.end());
        Kind::Deleted
    }

    /// An engine's set of what was deleted is sorted: what comes out of order is inserted.
    fn note_deleted(&mut self, client: u32, start: u32, end: u32) {
        let (count, last) = self.deleted.entry(client).or_default();
        if start < *last {
            // Paid with what comes next.
            self.total = self.total.saturating_add(*count * WHOLE / LINES_PER_UNIT);
        }
        *count += 1;
        *last = end;
    }

    /// Deletes a whole live block, and what is in it. It joins with deleted neighbours.
    fn delete(&mut self, index: u32) -> Counted<()> {
        let Some(block) = self.state.block(index).copied() else {
            return Ok(());
        };
        self.pay(block.pieces() * WHOLE / DELETED_PER_UNIT)?;
        self.note_deleted(block.at.client, block.at.clock, block.end());
        let kind = Kind::Deleted;
        self.state.set(index, Block { kind, ..block });
        if block.kind == Kind::Type {
            let heads = self.state.heads_within(block.at);
            self.drop_all(heads)?;
        }
        for _ in 0..block.marks {
            self.pay_line(block.at.client)?;
        }
        if self.state.join(index, block.next) {
            self.pay_line(block.at.client)?;
        }
        if let Some(before) = self.state.before(block.at)
            && self.state.join(before, index)
        {
            self.pay_line(block.at.client)?;
        }
        Ok(())
    }

    /// What is in a type that was deleted stands nowhere any more.
    fn drop_all(&mut self, heads: Vec<u32>) -> Counted<()> {
        let mut ahead = heads;
        ahead.reverse();
        let mut dropped = Vec::new();
        while let Some(index) = ahead.pop() {
            let Some(block) = self.state.block(index).copied() else {
                continue;
            };
            ahead.push(block.next);
            self.pay(block.pieces() * WHOLE / PASSED_PER_UNIT)?;
            if block.kind.is_live() {
                self.pay(block.pieces() * WHOLE / DELETED_PER_UNIT)?;
                self.note_deleted(block.at.client, block.at.clock, block.end());
            } else {
                for _ in 0..block.pieces() {
                    self.pay_line(block.at.client)?;
                }
            }
            if block.kind == Kind::Type {
                let mut heads = self.state.heads_within(block.at);
                heads.reverse();
                ahead.append(&mut heads);
            }
            dropped.push((self.state.id_of(block.at.client), block.at.clock, index));
        }
        dropped.sort_unstable();
        // Neighbours are joined run by run.
        let mut run: Option<(Op, bool)> = None;
        for (_, _, index) in dropped {
            let Some(block) = self.state.block(index).copied() else {
                continue;
            };
            let follows = run.filter(|(end, _)| *end == block.at);
            if follows.is_none_or(|(_, paid)| !paid) {
                let joined = follows.is_some()
                    || block.marks > 0
                    || self
                        .state
                        .before(block.at)
                        .and_then(|before| self.state.block(before))
                        .is_some_and(|before| before.kind == Kind::Gone);
                if joined {
                    self.pay_line(block.at.client)?;
                }
                run = Some((block.at, joined));
            }
            let paid = run.is_some_and(|(_, paid)| paid);
            let clock = block.end();
            run = Some((Op { clock, ..block.at }, paid));
            self.state.set(index, Block::gone(block.at, block.len));
            let index = match self.state.before(block.at) {
                Some(before) if self.state.join(before, index) => before,
                _ => index,
            };
            let after = self.state.find(Op { clock, ..block.at });
            if let Some(after) = after {
                self.state.join(index, after);
            }
        }
        Ok(())
    }

    /// Deletes known operations of a replica.
    pub(super) fn delete_range(&mut self, client: u64, start: u32, end: u32) -> Counted<()> {
        self.pay(WHOLE)?;
        let Some(client) = self.state.known_client(client) else {
            return Ok(());
        };
        let mut clock = start;
        while clock < end {
            let op = Op { client, clock };
            let Some(index) = self.state.find(op) else {
                return Ok(());
            };
            let Some(block) = self.state.block(index).copied() else {
                return Ok(());
            };
            let last = block.end();
            self.pay(block.pieces() * WHOLE / PASSED_PER_UNIT)?;
            if block.kind.is_live() {
                let mut index = index;
                self.pay_cut(index, clock)?;
                if clock > block.at.clock {
                    index = self.state.split(index, clock);
                }
                self.pay_cut(index, end)?;
                if end < last {
                    self.state.split(index, end);
                }
                self.delete(index)?;
            }
            clock = last;
        }
        Ok(())
    }
}

//! The lists of a document as numbers: canonical blocks in an arena, an index per replica, and a journal that takes changes back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::scan::Id;
use super::journal::Journal;

/// No block, no operation, no list.
pub(super) const NIL: u32 = u32::MAX;

/// An operation: a replica by its place in the table of replicas, and a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Op {
    pub(super) client: u32,
    pub(super) clock: u32,
}

impl Op {
    pub(super) const NONE: Self = Self {
        client: NIL,
        clock: NIL,
    };

    pub(super) fn is_none(self) -> bool {
        self.client == NIL
    }
}

/// What a block holds, as far as it decides what joins what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Values,
    /// A type, which has lists of its own.
    Type,
    /// Other live content.
    Single,
    Deleted,
    /// In a type that was deleted: it stands in no list any more.
    Gone,
}

impl Kind {
    pub(super) fn joins(self) -> bool {
        !matches!(self, Self::Type | Self::Single)
    }

    pub(super) fn is_live(self) -> bool {
        !matches!(self, Self::Deleted | Self::Gone)
    }
}

/// A canonical block: a longest run of operations that were written one after another, stand one after another, and are alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) at: Op,
    pub(super) len: u32,
    pub(super) origin: Op,
    pub(super) right: Op,
    pub(super) next: u32,
    pub(super) list: u32,
    /// How many marks stand inside of it.
    pub(super) marks: u32,
    pub(super) kind: Kind,
}

impl Block {
    /// Operations that stand nowhere.
    pub(super) fn gone(at: Op, len: u32) -> Self {
        Self {
            at,
            len,
            origin: Op::NONE,
            right: Op::NONE,
            next: NIL,
            list: NIL,
            marks: 0,
            kind: Kind::Gone,
        }
    }

    pub(super) fn end(&self) -> u32 {
        self.at.clock + self.len
    }

    /// Into how many pieces an engine may have cut it. What is gone it does not always join: how often cannot be told from what is left, so that
    /// this is a guess.
    pub(super) fn pieces(&self) -> u64 {
        match self.kind {
            Kind::Gone => 1 + u64::from(self.len) / GONE_PER_PIECE,
            _ => 1 + u64::from(self.marks),
        }
    }

    /// Whether `next`, which stands after it, is one block with it.
    fn joins(&self, next: &Self) -> bool {
        self.kind == next.kind
            && self.kind.joins()
            && self.at.client == next.at.client
            && self.end() == next.at.clock
            && (self.kind == Kind::Gone
                || (self.right == next.right
                    && next.origin.client == self.at.client
                    && next.origin.clock.wrapping_add(1) == next.at.clock))
    }
}

/// What one replica wrote.
#[derive(Debug, Clone, Default)]
pub(super) struct Client {
    pub(super) id: u64,
    /// Blocks by their first clock.
    pub(super) blocks: BTreeMap<u32, u32>,
    /// Clocks before which an engine cuts, as somebody stands there or meant to.
    pub(super) marks: BTreeSet<u32>,
    pub(super) count: ClientCount,
    /// The last journal that noted the count.
    noted: u32,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ClientCount {
    /// All operations below it are known.
    pub(super) clock: u32,
    /// Blocks, and marks inside of them.
    pub(super) pieces: u64,
    /// The same of what stands in a list.
    pub(super) standing: u64,
}

/// A sequence, or the values of one key.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub(super) head: u32,
    pub(super) is_key: bool,
    /// 1 in a root, 2 in a type inside a root …
    pub(super) depth: u16,
    /// Blocks, and marks inside of them.
    pub(super) pieces: u64,
    /// The last journal that noted it.
    noted: u32,
}

/// The first half of a hash of a name. Names are content.
pub(super) type Name = [u8; 16];

/// Where a list is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Root(Name, Option<Name>),
    Type(Op, Option<Name>),
}

/// A change of what waits, and how it was before: see [`super::waiting`].
#[derive(Debug, Clone)]
pub(super) enum Ahead {
    Item(u64, u32, Option<super::item::Item>),
    Delete(u64, u32, Option<u32>),
    Blocked(Id, u64, bool),
    Bytes(u64),
}

#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) blocks: Vec<Block>,
    pub(super) free: Vec<u32>,
    pub(super) clients: Vec<Client>,
    by_id: HashMap<u64, u32>,
    pub(super) lists: Vec<List>,
    places: HashMap<Place, u32>,
    /// The lists of a type: the sequence, then keys.
    within: HashMap<Op, BTreeMap<Option<Name>, u32>>,
    /// How many live blocks there are of each length that counts.
    live: BTreeMap<u32, u32>,
    /// How many replicas there are of each number of pieces in lists that counts, in steps of [`MANY`].
    lines: BTreeMap<u64, u32>,
    pub(super) size: u64,
    pub(super) waiting: super::waiting::Waiting,
    pub(super) journal: Option<Journal>,
    /// The number of the journal, and for each block that of the last one that noted it.
    pub(super) number: u32,
    pub(super) noted: Vec<u32>,
}

/// Operations that are gone, of which one piece is left.
const GONE_PER_PIECE: u64 = 32;
/// Shorter blocks earn nothing.
const LONG: u32 = 160;
/// Fewer pieces of a replica earn nothing.
const MANY: u64 = 256;

impl State {
    pub(super) fn remove_list(&mut self, place: Place) {
        self.places.remove(&place);
        if let Place::Type(owner, name) = place
            && let Some(lists) = self.within.get_mut(&owner)
        {
            lists.remove(&name);
            if lists.is_empty() {
                self.within.remove(&owner);
            }
        }
        // The newest list is the last one.
        self.lists.pop();
    }

    /// The replica's place in the table. Replicas are not taken out again: nothing depends on their order.
    pub(super) fn client(&mut self, id: u64) -> u32 {
        let next = self.clients.len() as u32;
        let index = *self.by_id.entry(id).or_insert(next);
        if index == next {
            self.clients.push(Client {
                id,
                ..Client::default()
            });
        }
        index
    }

    pub(super) fn known_client(&self, id: u64) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn id_of(&self, client: u32) -> u64 {
        self.clients.get(client as usize).map_or(0, |c| c.id)
    }

    pub(super) fn count_of(&self, client: u32) -> ClientCount {
        self.clients
            .get(client as usize)
            .map(|client| client.count)
            .unwrap_or_default()
    }

    /// The clock below which all operations of a replica are known.
    pub(super) fn clock(&self, id: u64) -> u32 {
        self.known_client(id).map_or(0, |c| self.count_of(c).clock)
    }

    pub(super) fn knows(&self, id: Id) -> bool {
        id.clock < self.clock(id.client)
    }

    pub(super) fn op(&mut self, id: Option<Id>) -> Op {
        id.map_or(Op::NONE, |id| Op {
            client: self.client(id.client),
            clock: id.clock,
        })
    }

    pub(super) fn block(&self, index: u32) -> Option<&Block> {
        self.blocks.get(index as usize)
    }

    pub(super) fn arena_len(&self) -> usize {
        self.blocks.len()
    }

    /// The block that holds an operation.
    pub(super) fn find(&self, op: Op) -> Option<u32> {
        let client = self.clients.get(op.client as usize)?;
        if op.clock >= client.count.clock {
            return None;
        }
        client
            .blocks
            .range(..=op.clock)
            .next_back()
            .map(|(_, index)| *index)
    }

    /// The block after this one in its list, where that begins with the next clock of the same replica.
    pub(super) fn goes_on_in(&self, index: u32) -> Option<u32> {
        let block = self.block(index)?;
        let next = self.block(block.next)?;
        let goes_on = next.at.client == block.at.client && next.at.clock == block.end();
        goes_on.then_some(block.next)
    }

    pub(super) fn list(&self, index: u32) -> Option<&List> {
        self.lists.get(index as usize)
    }

    /// The list at a place, where there is one.
    pub(super) fn list_of(&self, place: &Place) -> Option<&List> {
        self.list(*self.places.get(place)?)
    }

    /// All lists.
    #[cfg(test)]
    pub(super) fn places(&self) -> Vec<(Place, u32)> {
        self.places
            .iter()
            .map(|(place, list)| (*place, *list))
            .collect()
    }

    /// The list at a place, made where there is none.
    pub(super) fn list_at(&mut self, place: Place, depth: u16) -> u32 {
        if let Some(index) = self.places.get(&place) {
            return *index;
        }
        let index = self.lists.len() as u32;
        let name = match place {
            Place::Root(_, name) | Place::Type(_, name) => name,
        };
        self.lists.push(List {
            head: NIL,
            is_key: name.is_some(),
            depth,
            pieces: 0,
            noted: self.number,
        });
        self.places.insert(place, index);
        if let Place::Type(owner, name) = place {
            self.within.entry(owner).or_default().insert(name, index);
        }
        self.note(|journal| journal.places.push(place));
        index
    }

    /// The first blocks of the lists of a type: of the sequence, then of the keys.
    pub(super) fn heads_within(&self, owner: Op) -> Vec<u32> {
        let lists = self.within.get(&owner).into_iter().flatten();
        lists
            .filter_map(|(_, list)| self.list(*list))
            .map(|list| list.head)
            .filter(|head| *head != NIL)
            .collect()
    }

    /// Length of the longest live block.
    pub(super) fn longest(&self) -> u32 {
        self.live.last_key_value().map_or(0, |(len, _)| *len)
    }

    pub(super) fn count_live(&mut self, len: u32, add: bool) {
        let count = self.live.entry(len).or_default();
        *count = if add {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        if *count == 0 {
            self.live.remove(&len);
        }
    }

    fn set_live(&mut self, len: u32, add: bool) {
        if len >= LONG {
            self.count_live(len, add);
            self.note(|journal| journal.live.push((len, add)));
        }
    }

    pub(super) fn set_clock(&mut self, client: u32, clock: u32) {
        let old = self.count_of(client);
        self.set_count(client, ClientCount { clock, ..old });
    }

    /// Pieces in lists of the replica that has most, to a step of [`MANY`].
    pub(super) fn most_pieces(&self) -> u64 {
        self.lines.last_key_value().map_or(0, |(step, _)| *step) * MANY
    }

    fn count_line(&mut self, pieces: u64, add: bool) {
        let step = pieces / MANY;
        if step == 0 {
            return;
        }
        let count = self.lines.entry(step).or_default();
        *count = if add {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        if *count == 0 {
            self.lines.remove(&step);
        }
    }

    /// Sets what is counted of a replica, without a note of how it was.
    pub(super) fn put_count(&mut self, client: u32, count: ClientCount) {
        let old = self.count_of(client);
        if old.standing / MANY != count.standing / MANY {
            self.count_line(old.standing, false);
            self.count_line(count.standing, true);
        }
        if let Some(slot) = self.clients.get_mut(client as usize) {
            slot.count = count;
        }
    }

    fn set_count(&mut self, client: u32, count: ClientCount) {
        let number = self.number;
        let old = self.count_of(client);
        self.put_count(client, count);
        let Some(slot) = self.clients.get_mut(client as usize) else {
            return;
        };
        if core::mem::replace(&mut slot.noted, number) != number {
            self.note(|journal| journal.counts.push((client, old)));
        }
    }

    fn add_pieces(&mut self, block: &Block, sign: i64) {
        let pieces = block.pieces() as i64 * sign;
        let old = self.count_of(block.at.client);
        let count = ClientCount {
            pieces: old.pieces.saturating_add_signed(pieces),
            standing: match block.kind {
                Kind::Gone => old.standing,
                _ => old.standing.saturating_add_signed(pieces),
            },
            ..old
        };
        self.set_count(block.at.client, count);
        if let Some(list) = self.list(block.list).copied() {
            let changed = List {
                pieces: list.pieces.saturating_add_signed(pieces),
                ..list
            };
            self.set_list(block.list, changed);
        }
    }

    pub(super) fn set_head(&mut self, index: u32, head: u32) {
        if let Some(list) = self.list(index).copied() {
            self.set_list(index, List { head, ..list });
        }
    }

    fn set_list(&mut self, index: u32, list: List) {
        let number = self.number;
        let Some(slot) = self.lists.get_mut(index as usize) else {
            return;
        };
        let old = core::mem::replace(
            slot,
            List {
                noted: number,
                ..list
            },
        );
        if old.noted != number {
            self.note(|journal| journal.lists.push((index, old)));
        }
    }

    /// Changes a block in place, and everything that is counted about it.
    pub(super) fn set(&mut self, index: u32, block: Block) {
        let Some(old) = self.block(index).copied() else {
            return;
        };
        if old.pieces() != block.pieces() || old.list != block.list {
            self.add_pieces(&old, -1);
            self.add_pieces(&block, 1);
        }
        if (old.len, old.kind.is_live()) != (block.len, block.kind.is_live()) {
            if old.kind.is_live() {
                self.set_live(old.len, false);
            }
            if block.kind.is_live() {
                self.set_live(block.len, true);
            }
        }
        self.note_block(index);
        if let Some(slot) = self.blocks.get_mut(index as usize) {
            *slot = block;
        }
    }

    /// A new block in the index of its replica. Who stands before it still has to be told.
    pub(super) fn add(&mut self, block: Block) -> u32 {
        let index = self.free.pop().unwrap_or(self.blocks.len() as u32);
        let number = self.number;
        match (
            self.blocks.get_mut(index as usize),
            self.noted.get_mut(index as usize),
        ) {
            (Some(slot), Some(noted)) => (*slot, *noted) = (block, number),
            _ => {
                self.blocks.push(block);
                self.noted.push(number);
            }
        }
        self.note(|journal| journal.allocated.push(index));
        self.set_index(block.at, Some(index));
        self.add_pieces(&block, 1);
        if block.kind.is_live() {
            self.set_live(block.len, true);
        }
        self.size += 1;
        index
    }

    fn set_index(&mut self, at: Op, block: Option<u32>) {
        let Some(client) = self.clients.get_mut(at.client as usize) else {
            return;
        };
        let old = match block {
            Some(block) => client.blocks.insert(at.clock, block),
            None => client.blocks.remove(&at.clock),
        };
        self.note(|journal| journal.index.push((at, old)));
    }

    /// Takes a block out that became a part of another one.
    pub(super) fn remove(&mut self, index: u32) {
        let Some(block) = self.block(index).copied() else {
            return;
        };
        self.add_pieces(&block, -1);
        if block.kind.is_live() {
            self.set_live(block.len, false);
        }
        self.set_index(block.at, None);
        match &mut self.journal {
            // Its slot stays as it is until the update is kept.
            Some(journal) => journal.freed.push(index),
            None => self.free.push(index),
        }
        self.size -= 1;
    }

    /// Cuts a block before a clock inside of it. The part from there on.
    pub(super) fn split(&mut self, index: u32, clock: u32) -> u32 {
        let Some(block) = self.block(index).copied() else {
            return NIL;
        };
        let (before, after) = if block.marks == 0 {
            (0, 0)
        } else {
            self.marks_beside(&block, clock)
        };
        let len = clock - block.at.clock;
        let at = Op { clock, ..block.at };
        let origin = Op {
            client: block.at.client,
            clock: clock - 1,
        };
        let rest = Block {
            at,
            len: block.len - len,
            origin,
            marks: after,
            ..block
        };
        self.set(
            index,
            Block {
                len,
                marks: before,
                ..block
            },
        );
        let rest = self.add(rest);
        self.set_next(index, rest);
        rest
    }

    pub(super) fn set_next(&mut self, index: u32, next: u32) {
        if let Some(block) = self.block(index).copied() {
            self.set(index, Block { next, ..block });
        }
    }

    /// Joins a block with the one after it in the list, where they are one. Whether they were.
    pub(super) fn join(&mut self, index: u32, next: u32) -> bool {
        let (Some(first), Some(second)) = (self.block(index).copied(), self.block(next).copied())
        else {
            return false;
        };
        if (first.next != next && first.kind != Kind::Gone) || !first.joins(&second) {
            return false;
        }
        let marked = first.kind != Kind::Gone && self.is_marked(second.at);
        self.remove(next);
        self.set(
            index,
            Block {
                len: first.len + second.len,
                next: second.next,
                marks: first.marks + second.marks + u32::from(marked),
                ..first
            },
        );
        true
    }

    /// The block before an operation of the same replica.
    pub(super) fn before(&self, op: Op) -> Option<u32> {
        let clock = op.clock.checked_sub(1)?;
        self.find(Op { clock, ..op })
    }
}

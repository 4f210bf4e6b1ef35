//! What an update changed, so that it can be taken back.

use super::state::{Ahead, Block, ClientCount, List, Op, Place, State};

/// How things were before an update. What an update touches is noted once, at its first touch.
#[derive(Debug, Clone, Default)]
pub(super) struct Journal {
    pub(super) blocks: Vec<(u32, Block)>,
    pub(super) allocated: Vec<u32>,
    pub(super) freed: Vec<u32>,
    pub(super) index: Vec<(Op, Option<u32>)>,
    pub(super) marks: Vec<Op>,
    pub(super) counts: Vec<(u32, ClientCount)>,
    pub(super) lists: Vec<(u32, List)>,
    pub(super) places: Vec<Place>,
    pub(super) live: Vec<(u32, bool)>,
    pub(super) ahead: Vec<Ahead>,
    pub(super) size: u64,
    /// Of an update before, which can be taken back after this one.
    below: Option<Box<Journal>>,
}

impl State {
    /// Starts a journal, in place of those before.
    pub(super) fn begin(&mut self) {
        self.end();
        self.begin_on_top();
    }

    /// Starts a journal on top of those before.
    pub(super) fn begin_on_top(&mut self) {
        self.number += 1;
        self.journal = Some(Journal {
            size: self.size,
            below: self.journal.take().map(Box::new),
            ..Journal::default()
        });
    }

    /// Keeps what was done.
    pub(super) fn end(&mut self) {
        let mut next = self.journal.take();
        while let Some(journal) = next {
            self.free.extend(journal.freed);
            next = journal.below.map(|below| *below);
        }
    }

    pub(super) fn note(&mut self, note: impl FnOnce(&mut Journal)) {
        if let Some(journal) = &mut self.journal {
            note(journal);
        }
    }

    pub(super) fn note_ahead(&mut self, ahead: Ahead) {
        self.note(|journal| journal.ahead.push(ahead));
    }

    pub(super) fn note_block(&mut self, index: u32) {
        let number = self.number;
        if let (Some(noted), Some(block)) = (
            self.noted.get_mut(index as usize),
            self.blocks.get(index as usize).copied(),
        ) && core::mem::replace(noted, number) != number
        {
            self.note(|journal| journal.blocks.push((index, block)));
        }
    }

    /// A point to which can be gone back. What is touched from here on is noted anew.
    pub(super) fn save(&mut self) -> Saved {
        self.number += 1;
        let (Some(journal), size) = (&self.journal, self.size) else {
            return Saved::default();
        };
        Saved {
            blocks: journal.blocks.len(),
            allocated: journal.allocated.len(),
            freed: journal.freed.len(),
            index: journal.index.len(),
            marks: journal.marks.len(),
            counts: journal.counts.len(),
            lists: journal.lists.len(),
            places: journal.places.len(),
            live: journal.live.len(),
            ahead: journal.ahead.len(),
            size,
        }
    }

    /// Takes back what was done since the journal began. The one below it goes on.
    pub(super) fn undo(&mut self) {
        if let Some(journal) = &self.journal {
            let size = journal.size;
            self.undo_to(&Saved {
                size,
                ..Saved::default()
            });
            let journal = self.journal.take();
            self.journal = journal.and_then(|journal| journal.below).map(|it| *it);
        }
    }

    /// Takes back what was done since a point.
    pub(super) fn undo_to(&mut self, saved: &Saved) {
        let Some(mut journal) = self.journal.take() else {
            return;
        };
        self.number += 1;
        self.size = saved.size;
        journal.freed.truncate(saved.freed);
        self.free.extend(journal.allocated.drain(saved.allocated..));
        // Some were noted more than once: the first is how it was.
        for (index, old) in journal.blocks.drain(saved.blocks..).rev() {
            if let Some(block) = self.blocks.get_mut(index as usize) {
                *block = old;
            }
        }
        for (at, old) in journal.index.drain(saved.index..).rev() {
            if let Some(client) = self.clients.get_mut(at.client as usize) {
                match old {
                    Some(block) => client.blocks.insert(at.clock, block),
                    None => client.blocks.remove(&at.clock),
                };
            }
        }
        for at in journal.marks.drain(saved.marks..) {
            if let Some(client) = self.clients.get_mut(at.client as usize) {
                client.marks.remove(&at.clock);
            }
        }
        for (client, count) in journal.counts.drain(saved.counts..).rev() {
            self.put_count(client, count);
        }
        for (index, old) in journal.lists.drain(saved.lists..).rev() {
            if let Some(list) = self.lists.get_mut(index as usize) {
                *list = old;
            }
        }
        for place in journal.places.drain(saved.places..).rev() {
            self.remove_list(place);
        }
        for (len, added) in journal.live.drain(saved.live..).rev() {
            self.count_live(len, !added);
        }
        for ahead in journal.ahead.drain(saved.ahead..).rev() {
            self.waiting.undo(ahead);
        }
        self.journal = Some(journal);
    }
}

/// How much a journal had noted.
#[derive(Debug, Default)]
pub(super) struct Saved {
    blocks: usize,
    allocated: usize,
    freed: usize,
    index: usize,
    marks: usize,
    counts: usize,
    lists: usize,
    places: usize,
    live: usize,
    ahead: usize,
    size: u64,
}

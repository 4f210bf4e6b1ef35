//! Marks: clocks before which an engine may have cut a block.

use super::state::{Block, Kind, Op, State};

impl State {
    pub(super) fn is_marked(&self, op: Op) -> bool {
        self.clients
            .get(op.client as usize)
            .is_some_and(|client| client.marks.contains(&op.clock))
    }

    /// Marks that an engine cuts before this operation.
    pub(super) fn mark(&mut self, op: Op) {
        let Some(client) = self.clients.get_mut(op.client as usize) else {
            return;
        };
        if !client.marks.insert(op.clock) {
            return;
        }
        self.note(|journal| journal.marks.push(op));
        if let Some(index) = self.find(op)
            && let Some(block) = self.block(index).copied()
            && block.at.clock < op.clock
            && block.kind != Kind::Gone
        {
            let marks = block.marks + 1;
            self.set(index, Block { marks, ..block });
        }
    }

    /// Takes a mark away again, while a state is loaded: there is no journal then.
    pub(super) fn unmark(&mut self, op: Op) {
        let Some(client) = self.clients.get_mut(op.client as usize) else {
            return;
        };
        if !client.marks.remove(&op.clock) {
            return;
        }
        if let Some(index) = self.find(op)
            && let Some(block) = self.block(index).copied()
            && block.at.clock < op.clock
            && block.kind != Kind::Gone
        {
            let marks = block.marks.saturating_sub(1);
            self.set(index, Block { marks, ..block });
        }
    }

    /// How many marks stand between two clocks.
    pub(super) fn marks_between(&self, client: u32, after: u32, before: u32) -> u32 {
        if after.saturating_add(1) >= before {
            return 0;
        }
        self.clients
            .get(client as usize)
            .map_or(0, |c| c.marks.range(after + 1..before).count() as u32)
    }

    /// How many marks stand inside a block before and after a clock in it: counted from both ends, until the shorter side is through.
    pub(super) fn marks_beside(&self, block: &Block, clock: u32) -> (u32, u32) {
        let Some(client) = self.clients.get(block.at.client as usize) else {
            return (0, 0);
        };
        let all = block.marks - u32::from(client.marks.contains(&clock));
        let mut before = client.marks.range(block.at.clock + 1..clock);
        let mut after = client.marks.range(clock + 1..block.end());
        let mut count = 0;
        loop {
            if before.next().is_none() {
                return (count, all - count);
            }
            if after.next().is_none() {
                return (all - count, count);
            }
            count += 1;
        }
    }
}

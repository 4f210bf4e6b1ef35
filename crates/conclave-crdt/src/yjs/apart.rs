//! Where the blocks of a state stay apart while it is loaded.
//!
//! A state has its blocks cut already, wherever others stand in them. Joined for an engine and then cut again they would cost it, in a text that was
//! edited all over, the square of its edits. So a block of a state that begins where another item names a neighbour is given to an engine by
//! itself; what can be joined then, it joins at the end.

use super::scan::{Body, Id, Scan};
use crate::error::Result;

/// Operations with which a block begins, and before which an item stands or meant to.
#[derive(Debug, Default)]
pub(super) struct Apart(Vec<(u64, u32)>);

impl Apart {
    pub(super) fn of(state: &Scan<'_>) -> Result<Self> {
        let mut named = Vec::new();
        let mut starts = Vec::new();
        for section in &state.sections {
            for block in &section.blocks {
                starts.push((section.client, block.clock));
                let Body::Item(item) = block.body(state.bytes)? else {
                    continue;
                };
                let after = |id: Id| (id.client, id.clock.saturating_add(1));
                let origin = item.origin.map(after);
                named.extend(origin.filter(|at| *at != (section.client, block.clock)));
                named.extend(item.right_origin.map(|id| (id.client, id.clock)));
            }
        }
        named.sort_unstable();
        named.dedup();
        starts.sort_unstable();
        let begins = |at: &(u64, u32)| starts.binary_search(at).is_ok();
        named.retain(begins);
        named.shrink_to_fit();
        Ok(Self(named))
    }

    pub(super) fn holds(&self, id: Id) -> bool {
        self.0.binary_search(&(id.client, id.clock)).is_ok()
    }

    /// All of them, by replica id and clock.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        self.0.iter().map(|(client, clock)| Id {
            client: *client,
            clock: *clock,
        })
    }
}

//! Looking up which operations stand in a list.

use super::super::scan::Id;
use super::Order;
use super::item::name;
use super::state::{Block, NIL, Op, Place};

/// What has lists: a root by its name, or a type inside of one by its operation.
pub(in crate::yjs) enum Owner {
    Root(String),
    Type(Id),
}

impl Order {
    /// The operation that put there what stands under a key.
    pub(in crate::yjs) fn value_of(&self, owner: &Owner, key: &str) -> Option<Id> {
        let blocks = self.live(owner, Some(key));
        let last = blocks.last()?;
        Some(self.id(last, last.len.saturating_sub(1)))
    }

    /// The operations of the values of a sequence, in its order.
    pub(in crate::yjs) fn values_in(&self, owner: &Owner) -> Vec<Id> {
        let blocks = self.live(owner, None);
        blocks
            .flat_map(|block| (0..block.len).map(move |at| self.id(block, at)))
            .collect()
    }

    fn id(&self, block: &Block, at: u32) -> Id {
        Id {
            client: self.state.id_of(block.at.client),
            clock: block.at.clock.saturating_add(at),
        }
    }

    /// The live blocks of a list, in its order.
    fn live(&self, owner: &Owner, key: Option<&str>) -> impl Iterator<Item = &Block> {
        let key = key.map(name);
        let place = match owner {
            Owner::Root(root) => Some(Place::Root(name(root), key)),
            Owner::Type(id) => self.state.known_client(id.client).map(|client| {
                let clock = id.clock;
                Place::Type(Op { client, clock }, key)
            }),
        };
        let list = place.and_then(|place| self.state.list_of(&place));
        let mut next = list.map_or(NIL, |list| list.head);
        let blocks = std::iter::from_fn(move || {
            let block = self.state.block(next)?;
            next = block.next;
            Some(block)
        });
        blocks.filter(|block| block.kind.is_live())
    }
}

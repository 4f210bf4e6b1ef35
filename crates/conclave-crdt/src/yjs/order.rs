//! Counting what a Yjs update costs.

use super::scan::{Layout, Scan};
use crate::cost::{Allowance, Counted, ITEM_EARNS, Purse, Refused};
use crate::error::Result;
use crate::kinds::CrdtKind;

/// What a log holds, in numbers.
#[derive(Debug, Default)]
pub(crate) struct Order {
    size: u64,
    last: u64,
}

impl Order {
    pub(crate) fn load(snapshot: &[u8]) -> Result<Self> {
        let scans = super::waiting::split_snapshot(snapshot)?;
        let size = scans.iter().map(blocks).sum();
        Ok(Self { size, last: 0 })
    }

    pub(crate) fn load_units(snapshot: &[u8], limit: u64) -> core::result::Result<u64, Refused> {
        let size = Self::load(snapshot)?.size;
        if size > limit {
            Err(Refused::Cost { balance: 0 })
        } else {
            Ok(size)
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn count(
        &mut self,
        update: &[u8],
        layout: &Layout,
        allowance: Allowance,
    ) -> core::result::Result<Counted, Refused> {
        let items = layout.items();
        let cost = items + update.len() as u64 / 1024;
        let purse = Purse::new(CrdtKind::Yjs, allowance, ITEM_EARNS * items);
        if cost > purse.limit() || items > allowance.room {
            return Err(purse.refused(cost.min(purse.limit())));
        }
        self.last = items;
        self.size += items;
        Ok(Counted {
            cost,
            balance: purse.paid(cost),
            grown: items,
            released: Vec::new(),
        })
    }

    pub(crate) fn revert(&mut self) {
        self.size -= core::mem::take(&mut self.last);
    }
}

fn blocks(scan: &Scan<'_>) -> u64 {
    scan.sections.iter().map(|s| s.blocks.len() as u64).sum()
}

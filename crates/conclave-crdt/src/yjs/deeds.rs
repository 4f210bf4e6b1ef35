//! What single Yjs updates did.

use std::collections::HashMap;

use yrs::ReadTxn;

use super::Yrs;
use super::scan::{
    Body, CONTENT_ANY, CONTENT_DELETED, CONTENT_FORMAT, CONTENT_STRING, Deletes, Scan, utf16_len,
};
use super::waiting::split_snapshot;
use crate::attribution::{Asking, Writers};
use crate::deeds::{Collected, Deeds, Following, Told};
use crate::error::Result;
use crate::reader::Reader;
use crate::types::ReplicaId;

/// How many operations of each client are in a document.
type Held = HashMap<u64, u64>;

/// Adds what is deleted of what is held.
fn add(units: &mut Collected, deletes: &Deletes, held: &Held) {
    for (client, ranges) in deletes {
        let Some(held) = held.get(client) else {
            continue;
        };
        for (start, end) in ranges.within(0, *held) {
            units.add(ReplicaId::from_client(*client), start, end);
        }
    }
}

/// What an update tells. What is written by another hand in a part that was there before counts where that hand wrote it.
fn told(update: &[u8], held: &Held) -> Result<Told> {
    let scan = Scan::exact(update)?;
    let mut told = Told::default();
    for section in &scan.sections {
        for block in &section.blocks {
            let Body::Item(item) = block.body(update)? else {
                continue;
            };
            match item.content {
                CONTENT_STRING => {
                    let text = Reader::new(item.data).string()?;
                    debug_assert_eq!(utf16_len(text), u64::from(block.len));
                    told.chars += text.chars().count() as u64;
                }
                CONTENT_FORMAT => told.formats += 1,
                CONTENT_DELETED => {}
                CONTENT_ANY => told.values += u64::from(block.len),
                _ => told.values += 1,
            }
        }
    }
    let mut deleted = Collected::default();
    add(&mut deleted, &scan.deletes, held);
    told.deleted = deleted.sorted();
    Ok(told)
}

impl Yrs {
    fn held(&mut self) -> Result<Held> {
        let clocks = self.read(|txn| txn.state_vector())?;
        let clocks = clocks.iter();
        Ok(clocks
            .map(|(client, clock)| (client.get(), u64::from(*clock)))
            .collect())
    }

    /// What updates did from one of them on; the first follows on a snapshot.
    pub(super) fn deeds_of(
        &mut self,
        before: &[u8],
        updates: &[&[u8]],
        from: usize,
        writers: &mut dyn Writers,
    ) -> Result<Vec<Deeds>> {
        let held = self.held()?;
        let mut gone = Collected::default();
        for scan in &split_snapshot(before)? {
            add(&mut gone, &scan.deletes, &held);
        }
        // Writers count the same operations.
        let who =
            |replica: &ReplicaId, unit: u64, asking: &mut Asking<'_>| asking.who(replica, unit);
        let mut following = Following::new(&gone.sorted(), who);
        let mut asking = Asking::new(writers);
        let mut deeds = Vec::new();
        for (at, update) in updates.iter().enumerate() {
            let told = told(update, &held)?;
            match at < from {
                true => following.skip(&told),
                false => deeds.push(following.next(&told, &mut asking)),
            }
        }
        Ok(deeds)
    }
}

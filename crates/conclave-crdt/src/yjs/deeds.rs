//! What single Yjs updates did.

use super::scan::{
    Body, CONTENT_ANY, CONTENT_DELETED, CONTENT_FORMAT, CONTENT_STRING, Deletes, Scan, utf16_len,
};
use super::waiting::split_snapshot;
use crate::attribution::{Asking, Writers};
use crate::deeds::{Deeds, Following, Told, Units};
use crate::error::Result;
use crate::reader::Reader;
use crate::types::ReplicaId;

fn add(units: &mut Units, deletes: &Deletes) {
    for (client, ranges) in deletes {
        let set = units.entry(ReplicaId::from_client(*client)).or_default();
        ranges
            .iter()
            .for_each(|(start, end)| set.insert(start, end));
    }
}

/// What an update tells. What is written by another hand in a part that was there before counts where that hand wrote it.
fn told(update: &[u8]) -> Result<Told> {
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
    add(&mut told.deleted, &scan.deletes);
    Ok(told)
}

/// What updates did from one of them on; the first follows on a snapshot.
pub(super) fn deeds(
    before: &[u8],
    updates: &[&[u8]],
    from: usize,
    writers: &mut dyn Writers,
) -> Result<Vec<Deeds>> {
    let mut gone = Units::new();
    for scan in &split_snapshot(before)? {
        add(&mut gone, &scan.deletes);
    }
    let mut following = Following::new(gone, |_, unit| Ok((unit, unit + 1)));
    let mut asking = Asking::new(writers);
    let mut deeds = Vec::new();
    for (at, update) in updates.iter().enumerate() {
        let told = told(update)?;
        match at < from {
            true => following.skip(&told),
            false => deeds.push(following.next(&told, &mut asking)?),
        }
    }
    Ok(deeds)
}

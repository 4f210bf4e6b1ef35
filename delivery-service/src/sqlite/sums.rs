//! Checksums that lie beside rows, so that what a failing disk changed is found when it is read.

use super::StoreError;
use super::codes::{SUM_BYTES, sum};
use conclave_order::rows::RecordRow;
use conclave_proto::GroupId;

/// Checksum of a part of a group's public state, with where it belongs.
pub(super) fn part_sum(group: &GroupId, part: &[u8], value: &[u8]) -> Vec<u8> {
    sum("conclave 1.0 part sum", &[group.as_bytes(), part, value])
}

/// Checksum of where a group's log begins, with where it belongs.
pub(super) fn base_sum(group: &GroupId, [frontier, roots, entries]: [&[u8]; 3]) -> Vec<u8> {
    let parts = [group.as_bytes(), frontier, roots, entries];
    sum("conclave 1.0 base sum", &parts)
}

/// Checksum of a record: of what is delivered of it without putting its header together again, and behind that, of a chained record, of what it
/// seals, which may go before the row does. The leaf of a snapshot covers what that seals.
pub(super) fn record_sum(row: &RecordRow) -> Vec<u8> {
    let mut all = row_sum(row);
    if row.chained.is_some() {
        all.extend(sealed_sum(row));
    }
    all
}

/// Compares a record with its stored checksum.
pub(super) fn check_record(row: &RecordRow, stored: &[u8]) -> Result<(), StoreError> {
    let damaged = StoreError::Corrupt { what: "record" };
    let Some((of_row, of_sealed)) = stored.split_at_checked(SUM_BYTES) else {
        return Err(damaged);
    };
    let is_whole = row.chained.is_none() || row.sealed.is_none() || of_sealed == sealed_sum(row);
    match of_row == row_sum(row) && is_whole {
        true => Ok(()),
        false => Err(damaged),
    }
}

fn row_sum(row: &RecordRow) -> Vec<u8> {
    let author = row.chained.map(|(author, _)| author.to_be_bytes());
    sum(
        "conclave 1.0 record sum",
        &[
            &row.seq.to_be_bytes(),
            &[row.kind as u8],
            author.as_ref().map_or(&[], |author| &author[..]),
            &row.epoch.to_be_bytes(),
            &row.seen.to_be_bytes(),
            &row.hint,
            row.leaf.as_bytes(),
        ],
    )
}

fn sealed_sum(row: &RecordRow) -> Vec<u8> {
    let sealed = row.sealed.as_deref().unwrap_or_default();
    sum("conclave 1.0 sealed sum", &[row.leaf.as_bytes(), sealed])
}

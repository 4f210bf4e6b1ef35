//! Checksums that lie beside rows, so that what a failing disk changed is found when it is read.

use super::codes::sum;
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

/// Checksum of what is delivered of a chained record without putting its header together again. The leaf of a snapshot covers what is read
/// of it.
pub(super) fn record_sum(row: &RecordRow) -> Option<Vec<u8>> {
    let (author, _) = row.chained?;
    let sealed = row.sealed.as_deref()?;
    Some(sum(
        "conclave 1.0 record sum",
        &[
            &row.seq.to_be_bytes(),
            &[row.kind as u8],
            &author.to_be_bytes(),
            &row.epoch.to_be_bytes(),
            &row.seen.to_be_bytes(),
            &row.hint,
            row.leaf.as_bytes(),
            sealed,
        ],
    ))
}

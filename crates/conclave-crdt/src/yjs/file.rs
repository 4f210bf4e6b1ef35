//! Yjs documents of other programs: one update, of either encoding, that holds everything.

use super::scan::Scan;
use super::{Yrs, second};
use crate::error::{CrdtError, Result};
use crate::kinds::CrdtKind;
use crate::limits::MAX_SNAPSHOT_BYTES;
use crate::types::ReplicaId;

/// The state in a file, if it is one. An update has no mark at its front. But it has bytes that no text has: a whole document at least the zero
/// clock at which each of its replicas begins. It has to be read to its last byte besides.
pub(crate) fn read_file(bytes: &[u8]) -> Option<Result<Vec<u8>>> {
    if bytes.len() > MAX_SNAPSHOT_BYTES || is_plain_text(bytes) {
        return None;
    }
    if Scan::exact(bytes).is_ok() {
        return Some(complete(bytes.to_vec()));
    }
    let rewritten = second::rewrite(bytes).ok()?;
    let is_update = Scan::exact(&rewritten).is_ok_and(|scan| !scan.sections.is_empty());
    is_update.then(|| complete(rewritten))
}

fn is_plain_text(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes).is_ok_and(|text| {
        !text
            .chars()
            .any(|c| c.is_ascii_control() && !"\t\n\r\u{c}\u{1b}".contains(c))
    })
}

/// Loads a state to see that nothing is missing.
fn complete(state: Vec<u8>) -> Result<Vec<u8>> {
    // Nothing is written under this id.
    let scratch = ReplicaId::for_kind(CrdtKind::Yjs, [0xfe; 16]);
    match Yrs::load(&state, scratch) {
        Ok(_) => Ok(state),
        // It has been scanned: what remains is that something is not there.
        Err(CrdtError::Malformed) => Err(CrdtError::MissingDependency),
        Err(error) => Err(error),
    }
}

//! What is read beside those who write: answers to those who ask, and what they hear of a log from its past.

pub mod document;
pub mod group;

use crate::keys::{Keys, Rows, Stop};
use crate::store::{Failure, Reader};

/// Loads rows.
///
/// # Errors
/// [`Failure`].
pub async fn load<R: Reader>(
    reads: &mut R,
    want: impl FnOnce(&mut Keys) + Send,
) -> Result<Rows, Failure> {
    let mut keys = Keys::default();
    want(&mut keys);
    reads.load(&keys).await
}

/// Only where every row that can lack was loaded: then one still lacking is damage.
fn damaged(stop: Stop) -> Failure {
    match stop {
        Stop::Damaged { what } => Failure::Corrupt { what },
        _ => Failure::Corrupt { what: "row" },
    }
}

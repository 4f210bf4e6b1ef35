//! The register of decoders, whole: everything in the workspace that reads bytes from the network, from a disk or from a person.
//!
//! Those of the wire and of identity statements are listed by their crates; those that need a group or a document around them are
//! made here, from the public interface of their crates.

mod crdt;
mod doc;
mod engine;
mod mls;

use std::sync::OnceLock;

use conclave_proto::codec::{decode, encode};
use conclave_proto::registry::{Decoded, Decoder};
use tls_codec::DeserializeBytes;

pub use mls::Pair;

/// Every registered decoder.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    [
        conclave_proto::registry::decoders(),
        conclave_identity::decoders::decoders(),
        crdt::decoders(),
        mls::decoders(),
        doc::decoders(),
        engine::decoders(),
        conclave_client::decoders::decoders(),
    ]
    .concat()
}

/// Reads a structure from a test's input.
fn read<T: DeserializeBytes>(bytes: &[u8], limit_bytes: usize) -> Result<T, &'static str> {
    decode("input", bytes, limit_bytes).map_err(|error| error.code())
}

/// What is left of a result when only its code is of interest.
fn code<T, E>(result: Result<T, E>, code: impl FnOnce(&E) -> &'static str) -> Decoded {
    match result {
        Ok(_) => Ok(None),
        Err(error) => Err(code(&error)),
    }
}

/// One input made of two byte strings.
fn two(first: &[u8], second: &[u8]) -> Vec<u8> {
    conclave_proto::registry::join_rows([(first, second)])
}

/// Takes apart what [`two`] made.
fn split_two(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    let rows = conclave_proto::registry::split_rows(bytes).ok_or("input.no_pair")?;
    match <[_; 1]>::try_from(rows) {
        Ok([pair]) => Ok(pair),
        Err(_) => Err("input.no_pair"),
    }
}

/// The encoding of a value, as the only sample.
fn sample<T: tls_codec::Serialize + tls_codec::Size>(value: &T) -> Vec<Vec<u8>> {
    vec![encode(value)]
}

/// Makes something once for all tests of a process.
fn once<T>(cell: &'static OnceLock<T>, make: impl FnOnce() -> T) -> &'static T {
    cell.get_or_init(make)
}

//! The register of decoders, whole: everything in the workspace that reads bytes from the network, from a disk or from a person.
//!
//! Each is made from the public interface of its crate, with what it needs around it. Tests and fuzzers walk the whole list, so a decoder that
//! is listed is attacked, and a test compares the list with the sources, so one that is not listed is noticed.

mod client;
mod crdt;
mod doc;
mod engine;
mod identity;
mod mls;
mod proto;
mod register;

use std::sync::OnceLock;

use conclave_proto::codec::{decode, encode};
use tls_codec::DeserializeBytes;

pub use mls::Pair;
pub use proto::{client_frames, refusals, service_frames};
pub use register::{Decoded, Decoder, Shape, Source, join_rows, split_rows};

/// Every registered decoder.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    [
        proto::decoders(),
        identity::decoders(),
        crdt::decoders(),
        mls::decoders(),
        doc::decoders(),
        engine::decoders(),
        client::decoders(),
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
    join_rows([(first, second)])
}

/// Takes apart what [`two`] made.
fn split_two(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    let rows = split_rows(bytes).ok_or("input.no_pair")?;
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

//! States of groups as services stored them before they had rows: for tests of carrying these over.

use std::collections::BTreeMap;

use conclave_mls::PublicGroupState;
use conclave_proto::codec::{Bytes, encode};
use tls_codec::{TlsSerialize, TlsSize};

/// Bytes by which keys of pieces of a value are longer than the key of the value.
const PLACE_BYTES: usize = 8;

#[derive(Debug, TlsSize, TlsSerialize)]
struct Row {
    key: Bytes,
    value: Bytes,
}

#[derive(TlsSize, TlsSerialize)]
struct Checkpoint {
    version: u16,
    state: Bytes,
    group_info: Bytes,
    rows: Vec<Row>,
}

/// A group in one value.
#[must_use]
pub fn of(state: &PublicGroupState) -> Vec<u8> {
    let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let sorted: BTreeMap<Vec<u8>, _> = state.rows().into_iter().collect();
    let of_mls = sorted
        .into_iter()
        .filter(|(key, _)| !key.starts_with(b"own/"));
    for (mut key, value) in of_mls {
        // The tree was one value too.
        if key.starts_with(b"tree/") {
            key.truncate(key.len() - PLACE_BYTES);
        }
        rows.entry(key).or_default().extend_from_slice(&value);
    }
    let rows = rows.into_iter().map(|(key, value)| Row {
        key: key.into(),
        value: value.into(),
    });
    encode(&Checkpoint {
        version: 1,
        state: state.state().to_bytes().into(),
        group_info: state.group_info().into(),
        rows: rows.collect(),
    })
}

//! What reads a device's store, and what other processes on the machine send to a client.

use conclave_client::reading::{address, header, header_samples, row, row_samples};
#[cfg(unix)]
use conclave_client::reading::{
    local_answer, local_answer_samples, local_hello, local_hello_samples, local_operation,
    local_operation_samples,
};

use super::register::{
    Decoder,
    Source::{Disk, Network, Person},
};

pub(super) fn decoders() -> Vec<Decoder> {
    let mut all = vec![
        Decoder::new(
            "client.store_header",
            Disk,
            usize::MAX,
            |bytes| header(bytes).map(|()| None),
            header_samples,
        ),
        Decoder::new(
            "client.store_row",
            Disk,
            usize::MAX,
            |bytes| row(bytes).map(|()| None),
            row_samples,
        ),
        Decoder::new(
            "client.address",
            Person,
            usize::MAX,
            |bytes| address(bytes).map(|()| None),
            || {
                ["wss://ds.example", "ws://127.0.0.1:7700/below/v1"]
                    .map(|text| text.as_bytes().to_vec())
                    .to_vec()
            },
        ),
    ];
    #[cfg(unix)]
    all.extend([
        Decoder::new(
            "client.local_hello",
            Network,
            usize::MAX,
            |bytes| local_hello(bytes).map(|()| None),
            local_hello_samples,
        ),
        Decoder::new(
            "client.local_operation",
            Network,
            usize::MAX,
            |bytes| local_operation(bytes).map(|()| None),
            local_operation_samples,
        ),
        Decoder::new(
            "client.local_answer",
            Network,
            usize::MAX,
            |bytes| local_answer(bytes).map(|()| None),
            local_answer_samples,
        ),
    ]);
    all
}

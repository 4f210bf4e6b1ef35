//! What reads bytes in this crate: this crate's part of the [register of decoders](conclave_proto::registry).

use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use conclave_proto::GroupId;
use conclave_proto::registry::{
    Decoded, Decoder,
    Source::{Disk, Network, Person},
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

#[cfg(unix)]
use crate::local::Answer;
use crate::store::secret::{Secret, StoreKey};
use crate::transport::Endpoint;
use crate::{Operation, Outcome};

const ROW: &[u8] = b"row";

/// The decoders of this crate.
#[must_use]
pub fn decoders() -> Vec<Decoder> {
    let mut all = vec![
        Decoder::new(
            "client.store_header",
            Disk,
            usize::MAX,
            header,
            header_samples,
        ),
        Decoder::new("client.store_row", Disk, usize::MAX, row, row_samples),
        Decoder::new("client.address", Person, usize::MAX, address, || {
            ["wss://ds.example", "ws://127.0.0.1:7700/below/v1"]
                .map(|text| text.as_bytes().to_vec())
                .to_vec()
        }),
    ];
    #[cfg(unix)]
    all.extend([
        Decoder::new(
            "client.local_hello",
            Network,
            usize::MAX,
            local::<crate::local::Hello>,
            || samples(&[crate::local::hello_sample()]),
        ),
        Decoder::new(
            "client.local_operation",
            Network,
            usize::MAX,
            local::<crate::local::Request>,
            || {
                let group = GroupId([1; 16]);
                let operations = [
                    Operation::WhoAmI,
                    Operation::Members { group },
                    Operation::CreateGroup {
                        name: "Board".to_owned(),
                        policy: Box::default(),
                    },
                ];
                samples(&operations.map(crate::local::request_sample))
            },
        ),
        Decoder::new(
            "client.local_answer",
            Network,
            usize::MAX,
            local::<Answer>,
            || {
                let json = serde_json::json!({ "list": [1, 2.5, null, "text"] });
                samples(&[
                    Answer::Listening,
                    Answer::Outcome(Outcome::Text("minutes".to_owned())),
                    Answer::Outcome(Outcome::Json(json)),
                    Answer::Outcome(Outcome::Group(GroupId([1; 16]))),
                ])
            },
        ),
    ]);
    all
}

fn secret() -> Secret {
    Secret::KeyFile(Zeroizing::new([7; 32]))
}

/// The input is what lies under the header's hash, which tells damage apart and protects nothing.
fn header(bytes: &[u8]) -> Decoded {
    let header = [Sha256::digest(bytes).as_slice(), bytes].concat();
    match StoreKey::unwrap(&header, &secret()) {
        Ok(_) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

fn header_samples() -> Vec<Vec<u8>> {
    let header = StoreKey::generate()
        .and_then(|key| key.wrap(&secret()))
        .unwrap_or_default();
    header.get(32..).map(<[u8]>::to_vec).into_iter().collect()
}

/// One key for the life of the process.
fn key() -> Option<&'static StoreKey> {
    static KEY: OnceLock<Option<StoreKey>> = OnceLock::new();
    KEY.get_or_init(|| StoreKey::generate().ok()).as_ref()
}

fn row(bytes: &[u8]) -> Decoded {
    let key = key().ok_or("client.no_randomness")?;
    match key.open(ROW, bytes) {
        Ok(_) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

fn row_samples() -> Vec<Vec<u8>> {
    key()
        .and_then(|key| key.seal(ROW, &[8; 24], b"content").ok())
        .into_iter()
        .collect()
}

fn address(bytes: &[u8]) -> Decoded {
    let text = std::str::from_utf8(bytes).map_err(|_| "text.not_utf8")?;
    match Endpoint::parse(text) {
        Ok(_) => Ok(None),
        Err(_) => Err("client.address"),
    }
}

/// Reads frames until the input ends or one is refused. Reading from memory never waits.
#[cfg(unix)]
fn local<T: DeserializeOwned>(mut bytes: &[u8]) -> Decoded {
    loop {
        match at_once(crate::local::codec::read::<T>(&mut bytes)) {
            None => return Err("local.waits"),
            Some(Err(_)) => return Err("local"),
            Some(Ok(None)) => return Ok(None),
            Some(Ok(Some(_))) => {}
        }
    }
}

#[cfg(unix)]
fn samples<T: Serialize>(values: &[T]) -> Vec<Vec<u8>> {
    let framed = values.iter().map(|value| {
        let mut frame = Vec::new();
        let written = at_once(crate::local::codec::write(&mut frame, value));
        matches!(written, Some(Ok(()))).then_some(frame)
    });
    framed.flatten().collect()
}

/// The result of a future that has nothing to wait for.
#[cfg(unix)]
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

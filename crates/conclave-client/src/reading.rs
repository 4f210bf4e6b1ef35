//! What reads bytes in this crate, for tests that attack it: each gives the code of a typed error or nothing. With good inputs of each.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

#[cfg(unix)]
use conclave_proto::GroupId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

#[cfg(unix)]
use crate::local::Answer;
use crate::store::secret::{Secret, StoreKey};
use crate::transport::Endpoint;
#[cfg(unix)]
use crate::{Operation, Outcome};

type Read = Result<(), &'static str>;

const ROW: &[u8] = b"row";

fn secret() -> Secret {
    Secret::KeyFile(Zeroizing::new([7; 32]))
}

/// The header of a store. The input is what lies under its hash, which tells damage apart and protects nothing.
///
/// # Errors
/// The code.
pub fn header(bytes: &[u8]) -> Read {
    let header = [Sha256::digest(bytes).as_slice(), bytes].concat();
    match StoreKey::unwrap(&header, &secret()) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.code()),
    }
}

/// Good ones.
#[must_use]
pub fn header_samples() -> Vec<Vec<u8>> {
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

/// A row of a store.
///
/// # Errors
/// The code.
pub fn row(bytes: &[u8]) -> Read {
    let key = key().ok_or("client.no_randomness")?;
    match key.open(ROW, bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.code()),
    }
}

/// Good ones.
#[must_use]
pub fn row_samples() -> Vec<Vec<u8>> {
    key()
        .and_then(|key| key.seal(ROW, &[8; 24], b"content").ok())
        .into_iter()
        .collect()
}

/// The address of a service, as a person types it.
///
/// # Errors
/// The code.
pub fn address(bytes: &[u8]) -> Read {
    let text = std::str::from_utf8(bytes).map_err(|_| "text.not_utf8")?;
    match Endpoint::parse(text) {
        Ok(_) => Ok(()),
        Err(_) => Err("client.address"),
    }
}

/// What a process says first on the local socket.
///
/// # Errors
/// The code.
#[cfg(unix)]
pub fn local_hello(bytes: &[u8]) -> Read {
    local::<crate::local::Hello>(bytes)
}

/// Good ones.
#[cfg(unix)]
#[must_use]
pub fn local_hello_samples() -> Vec<Vec<u8>> {
    samples(&[crate::local::hello_sample()])
}

/// What a process asks for on the local socket.
///
/// # Errors
/// The code.
#[cfg(unix)]
pub fn local_operation(bytes: &[u8]) -> Read {
    local::<crate::local::Request>(bytes)
}

/// Good ones.
#[cfg(unix)]
#[must_use]
pub fn local_operation_samples() -> Vec<Vec<u8>> {
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
}

/// What it is answered.
///
/// # Errors
/// The code.
#[cfg(unix)]
pub fn local_answer(bytes: &[u8]) -> Read {
    local::<Answer>(bytes)
}

/// Good ones.
#[cfg(unix)]
#[must_use]
pub fn local_answer_samples() -> Vec<Vec<u8>> {
    let json = serde_json::json!({ "list": [1, 2.5, null, "text"] });
    samples(&[
        Answer::Listening,
        Answer::Outcome(Outcome::Text("minutes".to_owned())),
        Answer::Outcome(Outcome::Json(json)),
        Answer::Outcome(Outcome::Group(GroupId([1; 16]))),
    ])
}

/// Reads frames until the input ends or one is refused. Reading from memory never waits.
#[cfg(unix)]
fn local<T: DeserializeOwned>(mut bytes: &[u8]) -> Read {
    loop {
        match at_once(crate::local::codec::read::<T>(&mut bytes)) {
            None => return Err("local.waits"),
            Some(Err(_)) => return Err("local"),
            Some(Ok(None)) => return Ok(()),
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

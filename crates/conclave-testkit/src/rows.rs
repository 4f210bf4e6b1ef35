//! Rows in memory, as durable as the process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use conclave_engine::shell::Rows;
use conclave_engine::{Row, WriteBatch};
use zeroize::Zeroizing;

/// A device's rows.
#[derive(Clone, Default)]
pub struct MemoryRows(pub BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>);

impl MemoryRows {
    /// Applies a batch, all of it.
    pub fn apply(&mut self, batch: &WriteBatch) {
        batch.apply_to(&mut self.0);
    }

    /// Rows below a prefix, sorted by key.
    #[must_use]
    pub fn read(&self, prefix: &[u8]) -> Vec<Row> {
        self.0
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl Rows for MemoryRows {
    type Error = Infallible;

    async fn write(&mut self, batches: &[WriteBatch]) -> Result<(), Infallible> {
        for batch in batches {
            self.apply(batch);
        }
        Ok(())
    }

    async fn read(&mut self, prefix: &[u8]) -> Result<Vec<Row>, Infallible> {
        Ok(MemoryRows::read(self, prefix))
    }
}

/// The result of a future that has nothing to wait for, such as one over rows in memory.
///
/// # Panics
/// Where it does wait.
#[allow(clippy::panic)]
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("rows in memory never wait"),
    }
}

/// As [`ready`], of one that cannot fail.
///
/// # Panics
/// As [`ready`].
pub fn at_once<T>(future: impl Future<Output = Result<T, Infallible>>) -> T {
    match ready(future) {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

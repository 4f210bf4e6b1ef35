//! A device's rows, in memory.

use std::collections::BTreeMap;

use conclave_engine::{Row, WriteBatch};
use zeroize::Zeroizing;

#[derive(Clone, Default)]
pub struct Rows(pub BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>);

impl Rows {
    /// Applies a batch, all of it.
    pub fn apply(&mut self, batch: WriteBatch) {
        for prefix in &batch.delete_prefixes {
            self.0.retain(|key, _| !key.starts_with(prefix));
        }
        for key in &batch.deletes {
            self.0.remove(key);
        }
        self.0.extend(batch.puts);
    }

    /// Rows below a prefix, sorted by key.
    pub fn read(&self, prefix: &[u8]) -> Vec<Row> {
        self.0
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

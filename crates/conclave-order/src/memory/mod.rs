//! A store in memory: for tests and simulations, and the plainest way to read what the others have to do.

mod copy;
mod load;
mod read;
mod table;
mod tables;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::tables::{Logs, Numbers, Tables};
use crate::change::Change;
use crate::keys::{Keys, Rows};
use crate::store::{Backend, Failure, Transaction};

/// What is stored. Clones share it; [`Memory::copy`] is apart.
///
/// Nothing in it waits: a transaction that is begun while another one is open meets a conflict.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    stored: Arc<Mutex<Stored>>,
}

#[derive(Debug, Default)]
struct Stored {
    tables: Tables,
    logs: Logs,
    /// The numbers as they were when the open transaction began.
    before: Option<Numbers>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn of(stored: Stored) -> Self {
        Self {
            stored: Arc::new(Mutex::new(stored)),
        }
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transaction on a [`Memory`].
#[derive(Debug)]
pub struct MemoryTransaction<'a> {
    memory: &'a Memory,
}

impl Drop for MemoryTransaction<'_> {
    fn drop(&mut self) {
        let mut stored = self.memory.stored();
        if let Some(before) = stored.before.take() {
            stored.tables.numbers = before;
            stored.tables.undo();
            stored.logs.undo();
        }
    }
}

impl Backend for Memory {
    type Tx<'a> = MemoryTransaction<'a>;

    async fn begin(&mut self) -> Result<Self::Tx<'_>, Failure> {
        let mut stored = self.stored();
        if stored.before.is_some() {
            return Err(Failure::Conflict);
        }
        stored.before = Some(stored.tables.numbers);
        drop(stored);
        Ok(MemoryTransaction { memory: self })
    }

    async fn recover(&mut self, _after: &Failure) -> bool {
        true
    }
}

impl Transaction for MemoryTransaction<'_> {
    async fn load(&mut self, keys: &Keys) -> Result<Rows, Failure> {
        Ok(self.memory.stored().load(keys))
    }

    async fn write(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        let mut stored = self.memory.stored();
        changes.into_iter().try_for_each(|it| stored.write(it))
    }

    async fn commit(self) -> Result<(), Failure> {
        let mut stored = self.memory.stored();
        stored.before = None;
        stored.tables.keep();
        stored.logs.keep();
        Ok(())
    }
}

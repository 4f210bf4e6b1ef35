//! Input and output of the engine: plain data.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::{Crdt, CrdtError};
use conclave_proto::UnixMs;
use conclave_proto::frame::{ClientFrame, ServiceFrame};
use zeroize::Zeroizing;

use crate::command::Command;
use crate::document::{Done, Work, WorkId};
use crate::event::Told;

/// A stored row: key, value.
pub type Row = (Vec<u8>, Zeroizing<Vec<u8>>);

/// Plain access to a document's CRDT, for reading or editing. Runs inside [`Engine::handle`](crate::Engine::handle), or in a
/// [`Job`](crate::Job) where the document is large and the engine lends.
pub type DocFn = Box<dyn FnOnce(&mut dyn Crdt) -> Result<(), CrdtError> + Send>;

/// Names a read until its rows come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Names a command until its reply. Chosen by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

/// A read that the shell owes: all rows whose key begins with `prefix`, sorted by key. Answered by [`Input::Loaded`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Repeated in the answer.
    pub id: ReadId,
    /// First bytes of the keys.
    pub prefix: Vec<u8>,
}

/// Changes to the store: to be made durable atomically, in the order of the fields, before anything of the same [`Output`] is sent or told.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct WriteBatch {
    /// Rows whose keys begin with these go away.
    pub delete_prefixes: Vec<Vec<u8>>,
    /// These rows go away.
    pub deletes: BTreeSet<Vec<u8>>,
    /// These rows are stored, replacing what was there.
    pub puts: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
}

impl WriteBatch {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delete_prefixes.is_empty() && self.deletes.is_empty() && self.puts.is_empty()
    }

    /// Size of what is stored, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.puts
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum()
    }

    /// Stores a row.
    pub fn put(&mut self, key: Vec<u8>, value: Zeroizing<Vec<u8>>) {
        self.deletes.remove(&key);
        self.puts.insert(key, value);
    }

    /// Deletes a row.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.puts.remove(&key);
        self.deletes.insert(key);
    }

    /// Does all of it to rows in memory: first what goes, then what is stored.
    pub fn apply_to(&self, rows: &mut BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>) {
        for prefix in &self.delete_prefixes {
            rows.retain(|key, _| !key.starts_with(prefix));
        }
        for key in &self.deletes {
            rows.remove(key);
        }
        let puts = self.puts.iter();
        rows.extend(puts.map(|(key, value)| (key.clone(), value.clone())));
    }

    /// Deletes all rows below a prefix.
    pub fn delete_prefix(&mut self, prefix: Vec<u8>) {
        let below = self.puts.range(prefix.clone()..);
        let below = below.take_while(|(key, _)| key.starts_with(&prefix));
        let gone: Vec<Vec<u8>> = below.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.puts.remove(&key);
        }
        self.delete_prefixes.push(prefix);
    }
}

impl std::fmt::Debug for WriteBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "WriteBatch({} prefixes, {} deletes, {} puts, {} bytes)",
            self.delete_prefixes.len(),
            self.deletes.len(),
            self.puts.len(),
            self.bytes()
        )
    }
}

/// What time it is, by both clocks that a shell has. People set the one; the other only says how much time has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock.
    pub wall: UnixMs,
    /// A clock that never steps, from whatever it counts, in milliseconds. It goes on over all of a process.
    pub steady_ms: u64,
}

/// Where nobody sets the clock, one is both.
impl From<UnixMs> for Moment {
    fn from(now: UnixMs) -> Self {
        Self {
            wall: now,
            steady_ms: now.0,
        }
    }
}

/// What happens to a device.
pub enum Input {
    /// A connection to the service was made, at the origin that was dialled, with an invitation token if the user gave one.
    ConnectionUp {
        /// For example `wss://ds.example`.
        origin: String,
        /// Admission token.
        token: Option<Vec<u8>>,
    },
    /// The connection is gone.
    ConnectionDown,
    /// A connection could not be made, or none is to be made. Who waits for a document that was never here is told so; who only waits for its own
    /// work to be taken, goes on waiting.
    Unreachable,
    /// A frame from the service.
    Frame(Box<ServiceFrame>),
    /// Rows that were asked for.
    Loaded {
        /// Which read.
        id: ReadId,
        /// The rows, sorted by key.
        rows: Vec<Row>,
    },
    /// The application wants something.
    Command {
        /// Repeated in the reply.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// `wake_at` or `wake_steady_ms` has come.
    Timer,
    /// What was lent is done.
    Worked {
        /// Which work.
        id: WorkId,
        /// What came of it.
        done: Box<Done>,
    },
    /// What was lent takes so long that nobody waits for it any longer. If it comes back after all, it is dropped.
    Stuck {
        /// Which work.
        id: WorkId,
        /// Whether a thread has begun it. Else it says nothing about the document that there was none.
        begun: bool,
    },
}

/// What the shell has to do after one transition, in the order of the fields.
#[derive(Default)]
pub struct Output {
    /// Rows to read and hand back.
    pub reads: Vec<Read>,
    /// Long work on documents, to be done and handed back as [`Input::Worked`], in any order, on any thread. None unless
    /// [`Engine::set_lending`](crate::Engine::set_lending) asks for it. A document that never comes back stays away.
    pub work: Vec<Work>,
    /// To be made durable first, as one transaction.
    pub writes: WriteBatch,
    /// To be sent after that.
    pub sends: Vec<ClientFrame>,
    /// To be told to the application after that.
    pub told: Vec<Told>,
    /// To be sent at once, whatever is durable. It may be lost, and of what is for all in one document only the newest counts.
    pub fleeting: Vec<ClientFrame>,
    /// When to come back with [`Input::Timer`], if nothing else happens before.
    pub wake_at: Option<UnixMs>,
    /// The same by the clock that never steps ([`Moment::steady_ms`]).
    pub wake_steady_ms: Option<u64>,
    /// Close the connection and reconnect later, for this reason.
    pub close_connection: Option<String>,
}

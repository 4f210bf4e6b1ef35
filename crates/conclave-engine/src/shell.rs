//! What carries out what an engine wants, in the one order that loses nothing: **durable, then send, then tell**.
//!
//! Every shell has the same duty, whatever its disk and its network are: the client, a browser, a world of tests. A [`Shell`] collects what
//! transitions want, however many of them; [`Shell::release`] makes it durable through [`Rows`] and only then gives out what may be sent and
//! told. The clock is an argument, and the only waiting is for the rows.

use std::collections::VecDeque;

use conclave_proto::UnixMs;
use conclave_proto::frame::ClientFrame;

use crate::command::Command;
use crate::document::Work;
use crate::engine::Engine;
use crate::event::Told;
use crate::io::{CommandId, Input, Moment, Output, Read, Row, WriteBatch};
use crate::presence::Attended;

/// Where a device's rows are kept.
pub trait Rows {
    /// Why it failed.
    type Error;

    /// Makes batches durable, in their order, all or none.
    fn write(&mut self, batches: &[WriteBatch]) -> impl Future<Output = Result<(), Self::Error>>;

    /// All rows whose key begins with `prefix`, sorted by key.
    fn read(&mut self, prefix: &[u8]) -> impl Future<Output = Result<Vec<Row>, Self::Error>>;
}

/// What transitions want and what is not durable yet.
#[derive(Default)]
pub struct Unreleased {
    /// To be made durable, in this order.
    pub batches: Vec<WriteBatch>,
    /// Frames for the present connection.
    pub sends: Vec<ClientFrame>,
    /// Answers to commands, and news.
    pub told: Vec<Told>,
    /// Why the connection is to be given up.
    pub hang_up: Option<String>,
}

/// What may leave: all that it rests on is durable. To be done in the order of the fields.
#[derive(Default)]
#[must_use]
pub struct Released {
    /// To be sent on the present connection; without one they are of no use.
    pub sends: Vec<ClientFrame>,
    /// Give the connection up, for this reason. What still arrives on it is not for the engine, but its end is.
    pub hang_up: Option<String>,
    /// To be told.
    pub told: Vec<Told>,
    /// Whether rows changed.
    pub stored: bool,
}

/// An engine, with what it wants.
pub struct Shell {
    engine: Engine,
    unreleased: Unreleased,
    /// Size of what is not durable yet.
    bytes: usize,
    reads: VecDeque<Read>,
    work: VecDeque<Work>,
    fleeting: Vec<ClientFrame>,
    wake_at: Option<UnixMs>,
    wake_steady_ms: Option<u64>,
    /// When the engine was last told the time.
    told: Option<Moment>,
    commands: u64,
}

impl Shell {
    /// An engine that has just begun, with what it wants first.
    #[must_use]
    pub fn new(engine: Engine, first: Output) -> Self {
        let mut shell = Self {
            engine,
            unreleased: Unreleased::default(),
            bytes: 0,
            reads: VecDeque::new(),
            work: VecDeque::new(),
            fleeting: Vec::new(),
            wake_at: None,
            wake_steady_ms: None,
            told: None,
            commands: 0,
        };
        shell.keep(first);
        shell
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine, to set what its user decided.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Another engine, from what is durable. What the former one wanted is gone, as in a crash. Commands keep their numbers.
    pub fn begin_again(&mut self, engine: Engine, first: Output) {
        let mut fresh = Self::new(engine, first);
        fresh.commands = self.commands;
        // Breakage: the engine goes on with what it could not store.
        if crate::broken("store-full-keeps-memory") {
            std::mem::swap(&mut fresh.engine, &mut self.engine);
        }
        *self = fresh;
    }

    /// What is wanted of documents' presence outlives an engine that has to be made anew: nothing of it was ever stored.
    #[must_use]
    pub fn take_attendance(&mut self) -> Attended {
        self.engine.take_attendance()
    }

    /// See [`Engine::end_presence`].
    #[must_use]
    pub fn end_presence(&mut self) -> Vec<ClientFrame> {
        self.engine.end_presence()
    }

    /// The engine goes on with what another one was wanted for.
    pub fn attend(&mut self, attended: Attended) {
        let output = self.engine.attend(attended);
        self.keep(output);
    }

    /// One transition.
    pub fn handle(&mut self, now: impl Into<Moment>, input: Input) {
        let now = now.into();
        self.told = Some(now);
        if matches!(input, Input::ConnectionUp { .. } | Input::ConnectionDown) {
            // What was meant for the last connection must not reach the next one.
            self.unreleased.sends.clear();
            self.fleeting.clear();
            self.unreleased.hang_up = None;
        }
        let output = self.engine.handle(now, input);
        self.keep(output);
    }

    /// Gives the engine a command, under a number of its own that its reply will name.
    pub fn command(&mut self, now: impl Into<Moment>, command: Command) -> CommandId {
        self.commands = self.commands.saturating_add(1);
        let id = CommandId(self.commands);
        self.handle(now, Input::Command { id, command });
        id
    }

    /// Wakes the engine, if it is time.
    pub fn wake(&mut self, now: impl Into<Moment>) {
        let now = now.into();
        if self.wake_in_ms(now) == Some(0) {
            self.wake_at = None;
            self.wake_steady_ms = None;
            self.handle(now, Input::Timer);
        }
    }

    /// In how many milliseconds the engine wants to be woken.
    #[must_use]
    pub fn wake_in_ms(&self, now: impl Into<Moment>) -> Option<u64> {
        let now = now.into();
        let wall = self.wake_at.map(|at| at.since_ms(now.wall));
        let steady = self
            .wake_steady_ms
            .map(|ms| ms.saturating_sub(now.steady_ms));
        wall.into_iter().chain(steady).min()
    }

    /// When the engine wants to be woken, by the wall clock as it was when it was last told the time: for a shell whose time is made up.
    #[must_use]
    pub fn wake_at(&self) -> Option<UnixMs> {
        let steady = self.wake_steady_ms.zip(self.told);
        let steady = steady.map(|(ms, told)| told.wall.plus_ms(ms.saturating_sub(told.steady_ms)));
        self.wake_at.into_iter().chain(steady).min()
    }

    /// Whether the engine waits for rows.
    #[must_use]
    pub fn wants_rows(&self) -> bool {
        !self.reads.is_empty()
    }

    /// Long work that the engine lends, what it has lent for longest first. What came of it is handed back as [`Input::Worked`].
    pub fn take_work(&mut self) -> Option<Work> {
        self.work.pop_front()
    }

    /// What may be sent at once on the present connection, whatever is durable, and may be lost.
    #[must_use]
    pub fn take_fleeting(&mut self) -> Vec<ClientFrame> {
        std::mem::take(&mut self.fleeting)
    }

    /// What is not durable yet.
    #[must_use]
    pub fn unreleased(&self) -> &Unreleased {
        &self.unreleased
    }

    /// Size of what is not durable yet, in bytes.
    #[must_use]
    pub fn unreleased_bytes(&self) -> usize {
        self.bytes
    }

    /// Reads the rows that the engine has waited for longest and hands them over; false where it waits for none. Everything that was
    /// written before must be durable: release first.
    ///
    /// # Errors
    /// When they cannot be read; the engine goes on waiting.
    pub async fn load<R: Rows>(
        &mut self,
        now: impl Into<Moment>,
        rows: &mut R,
    ) -> Result<bool, R::Error> {
        let Some(read) = self.reads.front() else {
            return Ok(false);
        };
        let found = rows.read(&read.prefix).await?;
        if let Some(Read { id, .. }) = self.reads.pop_front() {
            self.handle(now, Input::Loaded { id, rows: found });
        }
        Ok(true)
    }

    /// Makes durable what transitions wanted since the last time, then gives what may be sent and told.
    ///
    /// # Errors
    /// When it cannot be made durable. The engine is then ahead of its rows and nothing can take that back: nothing of it may leave, and
    /// the engine must [begin again](Shell::begin_again).
    pub async fn release<R: Rows>(&mut self, rows: &mut R) -> Result<Released, R::Error> {
        rows.write(&self.unreleased.batches).await?;
        self.bytes = 0;
        let Unreleased {
            batches,
            sends,
            told,
            hang_up,
        } = std::mem::take(&mut self.unreleased);
        Ok(Released {
            sends,
            hang_up,
            told,
            stored: !batches.is_empty(),
        })
    }

    /// What an output wants joins what is not durable yet.
    pub fn keep(&mut self, output: Output) {
        let unreleased = &mut self.unreleased;
        if !output.writes.is_empty() {
            self.bytes = self.bytes.saturating_add(output.writes.bytes());
            unreleased.batches.push(output.writes);
        }
        unreleased.sends.extend(output.sends);
        self.fleeting.extend(output.fleeting);
        unreleased.told.extend(output.told);
        if output.close_connection.is_some() {
            unreleased.hang_up = output.close_connection;
        }
        self.reads.extend(output.reads);
        self.work.extend(output.work);
        self.wake_at = output.wake_at;
        self.wake_steady_ms = output.wake_steady_ms;
    }
}

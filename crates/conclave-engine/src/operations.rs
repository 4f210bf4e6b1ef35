//! Operations that may be asked for twice: what came of each is durable together with what it did, so that asking again finds it instead of
//! doing it again.

use std::collections::BTreeMap;

use conclave_proto::UnixMs;
use serde::{Deserialize, Serialize};

use crate::command::{Command, OperationId, Reply};
use crate::cx::Cx;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Told;
use crate::io::{CommandId, WriteBatch};
use crate::keys;
use crate::print::Hidden;

/// Outcomes remembered at most.
const OUTCOMES: usize = 256;
/// Time after which an outcome is forgotten, in milliseconds: whoever asks again does so within seconds.
const OUTCOME_MS: u64 = 3_600_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct OutcomeRow {
    at: UnixMs,
    reply: Hidden<Reply>,
}

/// Operations under way, and what came of the last ones.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    done: BTreeMap<OperationId, OutcomeRow>,
    /// In the order in which they were done.
    order: BTreeMap<(UnixMs, OperationId), ()>,
    /// Who waits for those that were begun in this life.
    begun: BTreeMap<OperationId, Vec<CommandId>>,
    of_command: BTreeMap<CommandId, OperationId>,
}

impl Operations {
    /// Takes a stored outcome back.
    pub(crate) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let what = "operation";
        let id = key.get(1..).and_then(|id| id.try_into().ok());
        let id = OperationId(id.ok_or(EngineError::Store { what })?);
        let row: OutcomeRow = keys::uncbor(what, value)?;
        self.order.insert((row.at, id), ());
        self.done.insert(id, row);
        Ok(())
    }

    /// The operation that a command carries out.
    pub(crate) fn of(&self, command: CommandId) -> Option<OperationId> {
        self.of_command.get(&command).copied()
    }

    fn keep(&mut self, id: OperationId, row: OutcomeRow, writes: &mut WriteBatch) {
        let now = row.at;
        writes.put(keys::operation(&id), keys::cbor(&row));
        self.order.insert((now, id), ());
        self.done.insert(id, row);
        while let Some(((at, oldest), ())) = self.order.first_key_value() {
            if self.order.len() <= OUTCOMES && now.since_ms(*at) <= OUTCOME_MS {
                break;
            }
            let oldest = *oldest;
            self.order.pop_first();
            self.done.remove(&oldest);
            writes.delete(keys::operation(&oldest));
        }
    }
}

impl Engine {
    /// Carries out a command unless its operation was carried out before, or is under way. What only reads is done again, and never kept.
    pub(crate) fn once(&mut self, id: CommandId, operation: OperationId, command: Command) {
        if !command.changes() {
            return self.command(id, command);
        }
        let operations = &mut self.cx.operations;
        if let Some(row) = operations.done.get(&operation) {
            let reply = row.reply.0.clone();
            return self.cx.reply(id, Ok(reply));
        }
        operations.of_command.insert(id, operation);
        let waiters = operations.begun.entry(operation).or_default();
        waiters.push(id);
        if waiters.len() == 1 {
            self.command(id, command);
        }
    }
}

impl Cx {
    /// Answers a command, and everybody else who waits for the same operation.
    pub(crate) fn reply(&mut self, command: CommandId, result: Result<Reply, EngineError>) {
        match self.operations.of(command) {
            Some(operation) => self.conclude(operation, result),
            None => self.out.told.push(Told::Reply { command, result }),
        }
    }

    /// An operation is over. What was done is remembered; what failed may be tried again.
    pub(crate) fn conclude(&mut self, id: OperationId, result: Result<Reply, EngineError>) {
        if let Ok(reply) = &result {
            let row = OutcomeRow {
                at: self.now,
                reply: Hidden(reply.clone()),
            };
            self.operations.keep(id, row, &mut self.out.writes);
        }
        for command in self.operations.begun.remove(&id).unwrap_or_default() {
            self.operations.of_command.remove(&command);
            let result = result.clone();
            self.out.told.push(Told::Reply { command, result });
        }
    }
}

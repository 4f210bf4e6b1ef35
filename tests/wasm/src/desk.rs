//! One engine over a store of rows, as an application runs it that has no connection yet.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_engine::shell::{Rows, Shell};
use conclave_engine::{Command, Engine, Event, Reply, Row, Setup, Told, WriteBatch};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, RealmId, UnixMs};
use zeroize::Zeroizing;

use crate::pair::{Failure, append, read};

/// Rows in memory. A page keeps them in IndexedDB.
#[derive(Default)]
struct Stored(BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>);

impl Stored {
    fn below(&self, prefix: &[u8]) -> Vec<Row> {
        self.0
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }
}

impl Rows for Stored {
    type Error = Infallible;

    async fn write(&mut self, batches: &[WriteBatch]) -> Result<(), Infallible> {
        for batch in batches {
            batch.apply_to(&mut self.0);
        }
        Ok(())
    }

    async fn read(&mut self, prefix: &[u8]) -> Result<Vec<Row>, Infallible> {
        Ok(self.below(prefix))
    }
}

/// What comes of a future over rows in memory, which never waits.
fn at_once<T>(future: impl Future<Output = Result<T, Infallible>>) -> Result<T, Failure> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(value)) => Ok(value),
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => Err(Failure::Missing("rows")),
    }
}

/// An engine and its rows.
pub struct Desk {
    shell: Shell,
    rows: Stored,
    now: UnixMs,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Desk({} rows)", self.rows.0.len())
    }
}

impl Desk {
    /// A new user's first device.
    ///
    /// # Errors
    /// [`Failure::Engine`].
    pub fn new(seed: [u8; 32], now: UnixMs) -> Result<Self, Failure> {
        let setup = Setup::NewUser {
            name: "Ana".to_owned(),
            realm: RealmId([1; 16]),
        };
        let (engine, output) =
            Engine::init(setup, seed, now).map_err(|error| Failure::Engine(error.to_string()))?;
        let mut desk = Self {
            shell: Shell::new(engine, output),
            rows: Stored::default(),
            now,
        };
        desk.carry_out()?;
        Ok(desk)
    }

    /// Drops the engine and makes another one from the rows, as a page that is loaded again.
    ///
    /// # Errors
    /// [`Failure::Engine`] when the rows do not make an engine.
    pub fn reopen(&mut self, seed: [u8; 32]) -> Result<(), Failure> {
        let prefixes = Engine::startup_prefixes();
        let rows = prefixes.iter().flat_map(|prefix| self.rows.below(prefix));
        let (engine, output) = Engine::open(rows.collect(), seed, self.now)
            .map_err(|error| Failure::Engine(error.to_string()))?;
        self.shell.begin_again(engine, output);
        self.carry_out().map(drop)
    }

    /// Creates a group.
    ///
    /// # Errors
    /// [`Failure::Engine`].
    pub fn create_group(&mut self) -> Result<GroupId, Failure> {
        let command = Command::CreateGroup {
            name: "Plans".to_owned(),
            policy: Box::new(GroupPolicy::default()),
        };
        match self.ask(command)? {
            Reply::Group(group) => Ok(group),
            other => Err(Failure::Engine(format!("{other:?}"))),
        }
    }

    /// Creates a document that says `text`.
    ///
    /// # Errors
    /// [`Failure::Engine`].
    pub fn create_document(
        &mut self,
        group: GroupId,
        kind: CrdtKind,
        text: &str,
    ) -> Result<DocumentId, Failure> {
        let text = text.to_owned();
        let command = Command::CreateDocument {
            group,
            kind,
            title: "Notes".to_owned(),
            initial: Some(Box::new(move |crdt| append(crdt, &text))),
        };
        match self.ask(command)? {
            Reply::Document(document) => Ok(document),
            other => Err(Failure::Engine(format!("{other:?}"))),
        }
    }

    /// Writes at the end of a document.
    ///
    /// # Errors
    /// [`Failure::Engine`].
    pub fn append(
        &mut self,
        group: GroupId,
        document: DocumentId,
        text: &str,
    ) -> Result<(), Failure> {
        let text = text.to_owned();
        let f = Box::new(move |crdt: &mut dyn Crdt| append(crdt, &text));
        self.ask(Command::Edit { group, document, f }).map(|_| ())
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`Failure::Engine`].
    pub fn text(&mut self, group: GroupId, document: DocumentId) -> Result<String, Failure> {
        let shown = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&shown);
        let f = Box::new(move |crdt: &mut dyn Crdt| {
            let text = read(crdt).map_err(|_| CrdtError::Engine)?;
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(text);
            }
            Ok(())
        });
        self.ask(Command::View { group, document, f })?;
        let text = shown.lock().ok().and_then(|mut slot| slot.take());
        text.ok_or(Failure::Missing("text"))
    }

    /// Gives a command; the rows that it needs are at hand, so the reply comes at once.
    fn ask(&mut self, command: Command) -> Result<Reply, Failure> {
        let id = self.shell.command(self.now, command);
        for told in self.carry_out()? {
            match told {
                Told::Reply { command, result } if command == id => {
                    return result.map_err(|error| Failure::Engine(error.to_string()));
                }
                Told::Event(Event::Finding(found)) => return Err(Failure::Engine(found.text)),
                Told::Reply { .. } | Told::Event(_) => {}
            }
        }
        Err(Failure::Missing("reply"))
    }

    /// Does what the engine wants, until it waits for nothing.
    fn carry_out(&mut self) -> Result<Vec<Told>, Failure> {
        let mut told = Vec::new();
        loop {
            told.extend(at_once(self.shell.release(&mut self.rows))?.told);
            if !at_once(self.shell.load(self.now, &mut self.rows))? {
                return Ok(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents_outlive_the_engine(kind: CrdtKind) {
        let mut desk = Desk::new([1; 32], UnixMs(1_760_000_000_000)).unwrap();
        let group = desk.create_group().unwrap();
        let document = desk.create_document(group, kind, "Dear Ben").unwrap();
        desk.append(group, document, ", hello").unwrap();
        desk.reopen([2; 32]).unwrap();
        assert_eq!(desk.text(group, document).unwrap(), "Dear Ben, hello");
    }

    #[test]
    fn a_yjs_document_outlives_the_engine() {
        documents_outlive_the_engine(CrdtKind::Yjs);
    }

    #[test]
    fn an_automerge_document_outlives_the_engine() {
        documents_outlive_the_engine(CrdtKind::Automerge);
    }
}

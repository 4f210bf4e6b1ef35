//! The engine's store: every row that a device reads when it starts, loads a group or opens a document.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;

use super::register::{
    Decoded, Decoder,
    Source::{Disk, Person},
    join_rows, split_rows,
};
use conclave_crdt::CrdtKind;
use conclave_engine::{
    Command, CommandId, Engine, EngineError, Input, OperationId, Output, PauseChange, Read, Reply,
    Setup, Told, Ways, forensic,
};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, RealmId, UnixMs};
use zeroize::Zeroizing;

use super::once;

const NOW: UnixMs = UnixMs(1_700_000_000_000);
/// A start that asks for more reads than this does not end.
const READS: usize = 200;

pub(super) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder::new("engine.store", Disk, usize::MAX, store, || {
            vec![stored().bytes.clone()]
        })
        .of_rows(),
        Decoder::new("engine.name", Person, usize::MAX, name, || {
            vec![b"Ana".to_vec()]
        }),
    ]
}

/// The store of a device with a group and a document, none of which has ever seen a service.
struct Stored {
    bytes: Vec<u8>,
    group: GroupId,
    document: DocumentId,
}

fn stored() -> &'static Stored {
    static STORED: OnceLock<Stored> = OnceLock::new();
    once(&STORED, Stored::new)
}

/// An engine over rows in memory, without a connection.
struct Device {
    engine: Engine,
    rows: BTreeMap<Vec<u8>, Zeroizing<Vec<u8>>>,
    told: Vec<Told>,
}

impl Device {
    fn open(rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self, EngineError> {
        let rows: BTreeMap<_, _> = rows
            .into_iter()
            .map(|(key, value)| (key, Zeroizing::new(value)))
            .collect();
        let needed = Engine::startup_prefixes();
        let first = rows
            .iter()
            .filter(|(key, _)| needed.iter().any(|prefix| key.starts_with(prefix)))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let (engine, output) = Engine::open(first, [2; 32], NOW)?;
        let mut device = Self {
            engine,
            rows,
            told: Vec::new(),
        };
        device.perform(output);
        Ok(device)
    }

    /// Makes writes, answers reads, keeps what is told.
    fn perform(&mut self, output: Output) {
        let mut reads: VecDeque<Read> = VecDeque::new();
        let mut next = Some(output);
        for _ in 0..READS {
            if let Some(output) = next.take() {
                output.writes.apply_to(&mut self.rows);
                self.told.extend(output.told);
                reads.extend(output.reads);
            }
            let Some(read) = reads.pop_front() else {
                return;
            };
            let found = self
                .rows
                .iter()
                .filter(|(key, _)| key.starts_with(&read.prefix))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let input = Input::Loaded {
                id: read.id,
                rows: found,
            };
            next = Some(self.engine.handle(NOW, input));
        }
    }

    fn ask(&mut self, id: u64, command: Command) -> Option<Result<Reply, EngineError>> {
        let id = CommandId(id);
        let output = self.engine.handle(NOW, Input::Command { id, command });
        self.perform(output);
        self.told.iter().find_map(|told| match told {
            Told::Reply { command, result } if *command == id => Some(result.clone()),
            _ => None,
        })
    }
}

impl Stored {
    fn new() -> Self {
        let setup = Setup::NewUser {
            name: "Ana".to_owned(),
            realm: RealmId([5; 16]),
        };
        let (engine, output) = Engine::init(setup, [1; 32], NOW).unwrap();
        let mut device = Device {
            engine,
            rows: BTreeMap::new(),
            told: Vec::new(),
        };
        device.perform(output);
        let create = Command::CreateGroup {
            name: "Board".to_owned(),
            policy: Box::new(GroupPolicy::default()),
        };
        let Some(Ok(Reply::Group(group))) = device.ask(1, create) else {
            return Self::nothing();
        };
        let create = Command::CreateDocument {
            group,
            kind: CrdtKind::Yjs,
            title: "minutes".to_owned(),
            initial: Some(Box::new(|crdt| crdt.text().unwrap().splice(0, 0, "first"))),
        };
        // Under an id of its own, so that the outcome of an operation is among the rows.
        let create = Command::Once {
            operation: OperationId([6; 16]),
            command: Box::new(create),
        };
        let Some(Ok(Reply::Document(document))) = device.ask(2, create) else {
            return Self::nothing();
        };
        device.rows.extend(forensic::rescue_sample().1);
        device.rows.extend(forensic::evidence_sample().1);
        // Both forms of a pause.
        for (id, of) in [(3, None), (4, Some((group, document)))] {
            let change = PauseChange {
                pause: true,
                ways: Ways::Send,
            };
            let pause = Command::Pause {
                document: of,
                change,
            };
            let Some(Ok(_)) = device.ask(id, pause) else {
                return Self::nothing();
            };
        }
        let rows = device.rows.iter();
        Self {
            bytes: join_rows(rows.map(|(key, value)| (key.as_slice(), value.as_slice()))),
            group,
            document,
        }
    }

    /// No sample: the tests notice.
    fn nothing() -> Self {
        Self {
            bytes: Vec::new(),
            group: GroupId::ZERO,
            document: DocumentId::ZERO,
        }
    }
}

/// Starts a device from the rows, then reads and edits the document, so that everything is loaded.
fn store(bytes: &[u8]) -> Decoded {
    let rows = split_rows(bytes).ok_or("input.no_rows")?;
    let mut device = Device::open(rows).map_err(|error| error.code())?;
    let (group, document) = (stored().group, stored().document);
    let f = Box::new(|crdt: &mut dyn conclave_crdt::Crdt| crdt.text().unwrap().splice(0, 0, "x"));
    let edited = device.ask(3, Command::Edit { group, document, f });
    let _ = device.ask(4, Command::Groups);
    let _ = device.ask(5, Command::Documents { group });
    let _ = device.ask(6, Command::Rescues);
    let rescue = forensic::rescue_sample().0;
    let _ = device.ask(7, Command::Rescue { rescue });
    let _ = device.ask(9, Command::Proofs);
    let evidence = forensic::evidence_sample().0;
    let _ = device.ask(10, Command::Proof { evidence });
    let apply = Command::ApplyRescue {
        rescue,
        group,
        document,
    };
    let _ = device.ask(8, apply);
    let rows = device.rows.iter();
    let rows: Vec<_> = rows
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let _ = conclave_engine::kept::group_log(&rows, &group);
    let _ = conclave_engine::kept::document_log(&rows, &group, &document);
    match edited {
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(error.code()),
        None => Err("engine.no_reply"),
    }
}

fn name(bytes: &[u8]) -> Decoded {
    let name = std::str::from_utf8(bytes).map_err(|_| "text.not_utf8")?;
    let setup = Setup::NewUser {
        name: name.to_owned(),
        realm: RealmId::ZERO,
    };
    match Engine::init(setup, [1; 32], NOW) {
        Ok(_) => Ok(None),
        Err(error) => Err(error.code()),
    }
}

//! Content that would keep an engine busy for minutes, written by a [`Rogue`](crate::rogue::Rogue), and what it costs members who are processes of their
//! own: processor time, memory, and the time that edits of another document wait.

mod member;
mod play;

use anyhow::Result;
use conclave_client::Client;
use conclave_crdt::CrdtKind;
use conclave_engine::FindingKind;
use conclave_engine::finding::Step;
use conclave_proto::{DeviceId, DocumentId};
use conclave_testkit::costly;

pub use member::member;
pub use play::Play;

/// What is written into a fresh document.
pub struct Case {
    /// What it is.
    pub name: String,
    /// Of what kind the document is.
    pub kind: CrdtKind,
    /// What comes first, each cheap.
    pub base: Vec<Vec<u8>>,
    /// What would keep an engine busy.
    pub dear: Vec<Vec<u8>>,
    /// Whether members refuse all of that; else it is within the bound.
    pub refused: bool,
}

/// No update is longer.
const MOST_BYTES: usize = conclave_proto::limits::UPDATE_BYTES;

/// The largest update of this sort that can be sealed, up to a size.
fn largest(size: u32, build: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let mut size = size;
    loop {
        let update = build(size);
        if update.len() <= MOST_BYTES {
            return update;
        }
        size -= size / 16;
    }
}

/// What was seen to take seconds or minutes, and ten times as much of it.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // What any record takes here, with the asking whether it has come.
    let small = [
        ("Automerge", CrdtKind::Automerge, costly::automerge(10)),
        ("Yjs", CrdtKind::Yjs, costly::typed(10)),
    ];
    for (engine, kind, update) in small {
        cases.push(Case {
            name: format!("{engine}: ten operations, to compare"),
            kind,
            base: Vec::new(),
            dear: vec![update],
            refused: false,
        });
    }
    for (times, ops) in [("", 1_000_000), (", ten-fold", 10_000_000)] {
        cases.push(Case {
            name: format!("Automerge: {ops} operations in one change{times}"),
            kind: CrdtKind::Automerge,
            base: Vec::new(),
            dear: vec![costly::automerge(ops)],
            refused: true,
        });
    }
    cases.push(Case {
        name: "Automerge: 131,000 operations in one change".to_owned(),
        kind: CrdtKind::Automerge,
        base: Vec::new(),
        dear: vec![costly::automerge(131_000)],
        refused: false,
    });
    for (times, size) in [("", 8_000), (", ten-fold", 80_000)] {
        let update = largest(size, costly::one_place_at_once);
        cases.push(Case {
            name: format!("Yjs: items of two replicas at one place{times}"),
            kind: CrdtKind::Yjs,
            base: Vec::new(),
            dear: vec![update],
            refused: true,
        });
    }
    let seen = ["from the first character to the end", "cuts back to front"];
    for way in costly::YJS.iter().filter(|way| seen.contains(&way.name)) {
        for (times, size) in [("", way.size), (", ten-fold", 10 * way.size)] {
            let built = (way.build)(size, 1);
            // What does not fit in a record is spread over as few as can be.
            let records = built.dear.iter().map(Vec::len).sum::<usize>() / (MOST_BYTES / 2) + 1;
            let built = match records {
                1 => built,
                more => (way.build)(size, more as u32),
            };
            cases.push(Case {
                name: format!("Yjs: {}{times}", way.name),
                kind: CrdtKind::Yjs,
                base: built.base,
                dear: built.dear,
                refused: true,
            });
        }
    }
    cases.push(Case {
        name: "Yjs: 100,000 items of one character, each after the last".to_owned(),
        kind: CrdtKind::Yjs,
        base: Vec::new(),
        dear: vec![costly::typed(100_000)],
        refused: false,
    });
    cases
}

/// The state of a text in one piece, and of items that cut it.
fn cut_back_to_front(cuts: u32) -> Option<Vec<u8>> {
    let way = costly::YJS
        .iter()
        .find(|way| way.name == "cuts back to front")?;
    let built = (way.build)(cuts, 1);
    let updates = built.base.iter().chain(&built.dear);
    // Each is of one replica and deletes nothing.
    let mut state = vec![u8::try_from(updates.clone().count()).ok()?];
    for update in updates {
        state.extend(update.get(1..update.len().checked_sub(1)?)?);
    }
    state.push(0);
    Some(state)
}

/// A snapshot's state, and of what kind.
#[must_use]
pub fn snapshots() -> Vec<(String, CrdtKind, Vec<u8>)> {
    let mut states = Vec::new();
    for (times, size) in [("", 8_000), (", ten-fold", 80_000)] {
        let name = format!("Yjs: items of two replicas at one place{times}");
        states.push((name, CrdtKind::Yjs, costly::one_place_at_once(size)));
    }
    if let Some(state) = cut_back_to_front(20_000) {
        let name = "Yjs: cuts back to front, ten-fold".to_owned();
        states.push((name, CrdtKind::Yjs, state));
    }
    for (times, ops) in [("", 1_000_000), (", ten-fold", 4_000_000)] {
        let name = format!("Automerge: {ops} operations in one change{times}");
        states.push((name, CrdtKind::Automerge, costly::automerge(ops)));
    }
    states
}

/// The positions at which a device found records of a document wrong, by code.
///
/// # Errors
/// When the device does not answer.
pub async fn found(client: &Client, document: &DocumentId) -> Result<Vec<(String, u64)>> {
    let findings = client.findings(None, false).await?;
    let of_document = findings.iter().filter(|it| it.document == Some(*document));
    let records = of_document.filter_map(|it| match &it.finding.what {
        FindingKind::Record { fault, seq } => Some((fault.clone(), *seq)),
        _ => None,
    });
    Ok(records.collect())
}

/// How often a device found a record of a document wrong: the same again is one finding.
///
/// # Errors
/// When the device does not answer.
pub async fn wrong(client: &Client, document: &DocumentId) -> Result<u64> {
    let findings = client.findings(None, false).await?;
    let of_document = findings.iter().filter(|it| it.document == Some(*document));
    let records = of_document.filter(|it| matches!(it.finding.what, FindingKind::Record { .. }));
    Ok(records.map(|it| it.count).sum())
}

/// Whom a device named for a document that it does not read, where it named somebody.
///
/// # Errors
/// When the device does not answer.
pub async fn unread(client: &Client, document: &DocumentId) -> Result<Option<DeviceId>> {
    let findings = client.findings(None, false).await?;
    let of_document = findings.iter().filter(|it| it.document == Some(*document));
    let mut unread = of_document.filter_map(|it| match &it.finding.what {
        FindingKind::Failed {
            step: Step::ReadDocument,
            ..
        } => it.finding.suspect.and_then(|suspect| suspect.device()),
        _ => None,
    });
    Ok(unread.next())
}

impl Case {
    /// The counters of all replicas together after these updates.
    fn operations(&self, updates: &[Vec<u8>]) -> Result<u64> {
        let reader = conclave_crdt::create(
            self.kind,
            conclave_crdt::ReplicaId::for_kind(self.kind, [0xfd; 16]),
        )?;
        let mut next = std::collections::BTreeMap::new();
        for update in updates {
            for range in reader.inspect(update)?.info.ranges {
                let end = next.entry(range.replica).or_insert(0);
                *end = range.end.max(*end);
            }
        }
        Ok(next.values().sum())
    }
}

//! Content that would keep an engine busy for minutes, written by a [`Rogue`](crate::rogue::Rogue), and what it costs members who are processes of their
//! own: processor time, memory, and the time that edits of another document wait.

mod member;
mod play;
mod table;

use anyhow::{Context as _, Result};
use conclave_client::Client;
use conclave_crdt::{CrdtKind, ReplicaId};
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
        name: "Automerge: 114,000 operations in one change".to_owned(),
        kind: CrdtKind::Automerge,
        base: Vec::new(),
        dear: vec![costly::automerge(114_000)],
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
    for (times, size) in [("", 100_000), (", as many as a record holds", 160_000)] {
        cases.push(Case {
            name: format!("Yjs: items of one character, each after the last{times}"),
            kind: CrdtKind::Yjs,
            base: Vec::new(),
            dear: vec![largest(size, costly::typed)],
            refused: false,
        });
    }
    cases
}

/// What any program may write into any document: a key and its value.
fn ordinary(kind: CrdtKind) -> Result<Vec<u8>> {
    let mut crdt = conclave_crdt::create(kind, ReplicaId::for_kind(kind, [0x77; 16]))?;
    let value = serde_json::json!({ "ordinary": 1 });
    crdt.json()
        .context("a document without JSON")?
        .merge_json(&value)?;
    let mut updates = Vec::new();
    crdt.take_pending(&mut updates)?;
    updates.pop().context("nothing was written")
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

/// A snapshot that holds something dear.
pub struct Snapshot {
    /// What it holds.
    pub name: String,
    /// Of what kind the document is.
    pub kind: CrdtKind,
    /// The document's state.
    pub state: Vec<u8>,
    /// Whether no member loads it; else it is within the bound.
    pub refused: bool,
}

/// Snapshots that hold what was seen to take seconds or minutes, and ten times as much of it.
#[must_use]
pub fn snapshots() -> Vec<Snapshot> {
    let mut states = Vec::new();
    for (times, size) in [("", 8_000), (", ten-fold", 80_000)] {
        states.push(Snapshot {
            name: format!("Yjs: items of two replicas at one place{times}"),
            kind: CrdtKind::Yjs,
            state: costly::one_place_at_once(size),
            refused: true,
        });
    }
    if let Some(state) = cut_back_to_front(20_000) {
        states.push(Snapshot {
            name: "Yjs: cuts back to front, ten-fold".to_owned(),
            kind: CrdtKind::Yjs,
            state,
            refused: true,
        });
    }
    for (times, ops) in [("", 1_000_000), (", ten-fold", 4_000_000)] {
        states.push(Snapshot {
            name: format!("Automerge: {ops} operations in one change{times}"),
            kind: CrdtKind::Automerge,
            state: costly::automerge(ops),
            refused: true,
        });
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
    /// How many operations there are more with what is dear.
    fn added(&self) -> Result<u64> {
        let before = self.operations(&self.base)?;
        let all = [self.base.as_slice(), self.dear.as_slice()].concat();
        Ok(self.operations(&all)?.saturating_sub(before))
    }

    /// The counters of all replicas together after these updates.
    fn operations(&self, updates: &[Vec<u8>]) -> Result<u64> {
        let replica = ReplicaId::for_kind(self.kind, [0xfd; 16]);
        let reader = conclave_crdt::create(self.kind, replica)?;
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

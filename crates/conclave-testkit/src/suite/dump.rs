//! All that a database holds of what a test knows of.

use anyhow::Result;
use conclave_order::rows::{EntryRow, RecordRow};
use conclave_order::{Bounds, Keys, Reader, Rows, WholeRecord};
use conclave_proto::{Author, GroupId, UnixMs};
use conclave_rules::LogId;

use crate::database::Database;

/// Everything about some keys, groups and logs.
#[derive(Debug, PartialEq)]
pub struct Dump {
    rows: Rows,
    entries: Vec<Vec<EntryRow>>,
    records: Vec<Vec<RecordRow>>,
    whole: Vec<Option<WholeRecord>>,
    authors: Vec<Vec<Author>>,
    open: Vec<Vec<LogId>>,
}

impl Dump {
    /// The same, in whatever generation.
    #[must_use]
    pub fn in_any_generation(mut self) -> Self {
        self.rows.services.clear();
        self
    }

    /// As it is, but for the generation in which a document last grew: what came back has not grown in any that is known.
    #[must_use]
    pub fn ungrown(mut self) -> Self {
        for row in self.rows.documents.values_mut().flatten() {
            row.grown_in = 0;
        }
        self
    }
}

const ALL: Bounds = Bounds {
    from: 0,
    end: u64::MAX,
    bytes: usize::MAX,
};

/// What a test knows of.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Rows.
    pub keys: Keys,
    /// Groups.
    pub groups: Vec<GroupId>,
    /// Documents.
    pub logs: Vec<LogId>,
}

/// Reads it.
///
/// # Errors
/// When it cannot be read.
pub async fn dump<D: Database>(database: &D, known: &Known) -> Result<Dump> {
    let mut reads = database.reader().await?;
    let mut keys = known.keys.clone();
    for group in &known.groups {
        keys.groups.insert(*group);
        keys.bases.insert(*group);
        keys.parts.insert(*group);
        keys.commit_wraps.insert(*group);
        keys.due.insert(*group);
        keys.group_pleas.insert(*group);
        keys.losses.insert(LogId::of_group(*group));
        keys.group_roots.extend((0..8).map(|size| (*group, size)));
        for epoch in 0..8 {
            keys.commits.insert((*group, epoch));
            keys.wraps.insert((*group, epoch));
            keys.joins.insert((*group, epoch));
        }
    }
    keys.services.insert(());
    keys.ended.insert((UnixMs(u64::MAX >> 1), 1000));
    keys.losses.extend(&known.logs);
    keys.documents.extend(&known.logs);
    keys.actives.extend(&known.logs);
    keys.welcomes.extend(1..20);
    keys.overdue.insert((UnixMs(u64::MAX >> 1), 1000));
    let mut entries = Vec::new();
    let mut open = Vec::new();
    for group in &known.groups {
        entries.push(reads.entries(group, ALL).await?);
        let documents = reads.open_documents(group).await?;
        open.push(documents.into_iter().map(|(log, _, _)| log).collect());
    }
    let (mut records, mut whole, mut authors) = (Vec::new(), Vec::new(), Vec::new());
    for log in &known.logs {
        let of_log = reads.records(log, ALL).await?;
        for record in &of_log {
            keys.marks.insert((*log, record.seq + 1));
            whole.push(reads.whole(log, record.seq).await?);
        }
        records.push(of_log);
        authors.push(reads.authors(log).await?);
    }
    let rows = reads.load(&keys).await?;
    Ok(Dump {
        rows,
        entries,
        records,
        whole,
        authors,
        open,
    })
}

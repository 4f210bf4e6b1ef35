//! Rows that are read together: of documents, and whatever else belongs to them.

use conclave_doc::present_segments;
use conclave_proto::{DocumentId, GroupId};

use crate::command::Reply;
use crate::cx::{Cx, ReadTarget};
use crate::engine::Engine;
use crate::io::{CommandId, Row};
use crate::keys;
use crate::work::GroupWork;

/// Rows that are read together.
pub(crate) struct Gather {
    missing: usize,
    rows: Vec<Row>,
    stage: Stage,
    what: GatherFor,
}

/// How far a gathering is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The rows that were asked for are read. Those of a document among them tell which of its records belong to them.
    Asked,
    /// Those records are read.
    Records,
}

/// What rows are read together for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GatherFor {
    /// A document that comes into memory.
    Document(GroupId, DocumentId),
    /// What a put-back service lacks of a log: a document's, or the group's own.
    GiveBack(GroupId, Option<DocumentId>),
    /// A document that is to begin anew from the service's log.
    Merge(GroupId, DocumentId),
    /// Own edits in a closed document.
    Closed(GroupId, DocumentId),
    /// Own edits in a group that this device is out of.
    Parting(GroupId),
    /// Own edits in a group whose MLS rows are lost, which somebody leaves.
    Stray(GroupId, Option<CommandId>),
}

impl Gather {
    pub(crate) fn is_for(&self, what: GatherFor) -> bool {
        self.what == what
    }
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gather({:?}, {} to come)", self.what, self.missing)
    }
}

impl Cx {
    /// Reads all rows below some prefixes, as they are after this transition's writes, and the present records of documents among them.
    pub(crate) fn gather(&mut self, prefixes: Vec<Vec<u8>>, what: GatherFor) {
        let number = self.fresh_id();
        let stage = match what {
            // All that is kept of the log is asked for, those records among it.
            GatherFor::GiveBack(..) | GatherFor::Merge(..) => Stage::Records,
            _ => Stage::Asked,
        };
        self.gathers.insert(
            number,
            Gather {
                missing: prefixes.len(),
                rows: Vec::new(),
                stage,
                what,
            },
        );
        for prefix in prefixes {
            self.read(prefix, ReadTarget::Gather(number));
        }
    }

    /// Asks for the rows of a document that is here.
    pub(crate) fn read_document(&mut self, group: GroupId, document: DocumentId) {
        let prefixes = vec![keys::document_prefix(&group, &document)];
        self.gather(prefixes, GatherFor::Document(group, document));
    }

    /// Some rows have come. Gives all of them, once nothing more is to be read.
    fn gather_more(&mut self, number: u64, rows: Vec<Row>) -> Option<Gather> {
        let gather = self.gathers.get_mut(&number)?;
        gather.rows.extend(rows);
        gather.missing = gather.missing.saturating_sub(1);
        if gather.missing > 0 {
            return None;
        }
        if gather.stage == Stage::Asked {
            gather.stage = Stage::Records;
            let prefixes: Vec<Vec<u8>> = gather.rows.iter().filter_map(records_of).collect();
            gather.missing = prefixes.len();
            if !prefixes.is_empty() {
                for prefix in prefixes {
                    self.read(prefix, ReadTarget::Gather(number));
                }
                return None;
            }
        }
        self.gathers.remove(&number)
    }
}

/// Where the records are that belong to a document, by the one of its rows that tells.
fn records_of((key, value): &Row) -> Option<Vec<u8>> {
    let document = keys::of_document(key)?;
    let segments = present_segments(document.row, value)?;
    let prefix = keys::kept_prefix(&document.group, &document.document);
    Some([prefix, segments].concat())
}

impl Engine {
    pub(crate) fn gathered(&mut self, number: u64, rows: Vec<Row>) {
        let Some(Gather { rows, what, .. }) = self.cx.gather_more(number, rows) else {
            return;
        };
        match what {
            GatherFor::Document(group, document) => {
                self.with_group(group, GroupWork::Loaded(document, rows));
            }
            GatherFor::GiveBack(group, Some(document)) => {
                self.cx.give_back_read(group, document, &rows);
            }
            GatherFor::GiveBack(group, None) => self.with_group(group, GroupWork::GiveBack(rows)),
            GatherFor::Merge(group, document) => {
                self.with_group(group, GroupWork::Merge(document, rows));
            }
            GatherFor::Closed(group, document) => {
                self.with_group(group, GroupWork::ClosedRead(document, rows));
            }
            GatherFor::Parting(id) => {
                let read = self.on_whole(id, |cx, whole| cx.parting_read(&whole.group, &rows));
                if read == Some(true) {
                    self.end_group(id);
                }
            }
            GatherFor::Stray(group, command) => {
                let result = self.end_stray(group, &rows);
                if let Some(command) = command {
                    self.cx.reply(command, result.map(|()| Reply::Done));
                }
            }
        }
    }
}

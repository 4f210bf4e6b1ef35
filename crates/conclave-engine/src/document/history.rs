//! What a document's log holds, and what its records did, for people.

use conclave_crdt::{Difference, Differences, Differs};
use conclave_doc::{DeletedOf, DocError, LogPage, Recorded};
use conclave_proto::DeviceId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::blame::{RecordWriter, Spans, WriterInfo, place};
use super::deliver::plain;
use crate::command::Reply;
use crate::cx::Cx;
use crate::group::Group;
use crate::io::CommandId;

/// A part of a document's log, in its order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogInfo {
    /// The records, the newest last.
    pub records: Vec<LogRecordInfo>,
    /// Where the page before this one ends: what to ask for it with. None: there is none.
    pub older: Option<u64>,
    /// Own edits that have no place in the log yet.
    pub unsent: usize,
}

/// One record; of what is gone several.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogRecordInfo {
    /// Position in the log.
    pub seq: u64,
    /// How many positions from there on.
    pub count: u64,
    /// Encoded size, where the record is here.
    pub bytes: Option<u32>,
    /// Who wrote it.
    pub by: WriterInfo,
    /// What it is.
    #[serde(flatten)]
    pub what: RecordedInfo,
}

/// What a record is, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum RecordedInfo {
    /// An edit.
    Edit(EditInfo),
    /// An edit that is part of the saved state: how much it did is not known any more.
    Folded {
        /// Operations that are known to have come with it.
        operations: u64,
    },
    /// A snapshot.
    Snapshot {
        /// It holds what this many records did.
        covered: u64,
    },
    /// What a member found of a snapshot.
    Check {
        /// Position of the snapshot, where it is remembered.
        snapshot: Option<u64>,
        /// Whether they found it right.
        is_match: bool,
    },
    /// Set aside: its key is missing.
    SetAside,
    /// Declared void by an admin.
    Void,
    /// Left out, since it would have cost more than its user had left.
    Costly,
    /// It counts for nothing: it breaks a rule, or says what is known already.
    Nothing,
    /// Part of the saved state; nothing more is known of it.
    Gone,
}

/// How much an edit did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditInfo {
    /// Characters that it put into texts.
    pub chars: u64,
    /// Values that it put into maps and lists.
    pub values: u64,
    /// Marks of formatted text that it set.
    pub formats: u64,
    /// What it took out before any other change did: characters and values, by who wrote them, in whatever changes. The largest, and 16 at most.
    pub deleted: Vec<DeletedInfo>,
    /// And of all others.
    #[serde(default)]
    pub deleted_of_others: u64,
    /// What it took out and another had taken out before it.
    pub deleted_again: u64,
}

/// What was taken out of one writer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedInfo {
    /// Who wrote it. No change of theirs is named: they may have written it in many.
    pub of: WriterInfo,
    /// How much: values and characters, of which a Yjs document counts those beyond the Basic Multilingual Plane as two.
    pub count: u64,
}

/// What records did to what a document shows.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "held")]
pub enum ChangedInfo {
    /// This.
    Here {
        /// Where, and what. Done one after the other, they lead from the state before to the one after.
        places: Vec<PlaceInfo>,
        /// Whether something changed in parts of the document that are neither its text nor its values.
        elsewhere: bool,
    },
    /// They are part of the saved state here: what they did is not known any more.
    Gone,
}

impl std::fmt::Debug for ChangedInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here { places, .. } => write!(f, "Here({})", places.len()),
            Self::Gone => f.write_str("Gone"),
        }
    }
}

/// What changed at one place.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceInfo {
    /// The text, list or member, from the root: names of members, and positions in lists. Nothing for the text of a Yjs document.
    pub place: Vec<Value>,
    /// What.
    #[serde(flatten)]
    pub what: PlaceChange,
}

/// What changed there.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "in")]
pub enum PlaceChange {
    /// Characters of a text.
    Text {
        /// Where, in Unicode scalar values.
        at: usize,
        /// What was taken out there.
        deleted: String,
        /// What was written there.
        inserted: String,
    },
    /// Items of a list.
    List {
        /// Where.
        at: usize,
        /// What was taken out there.
        deleted: Vec<Value>,
        /// What was put in there.
        inserted: Vec<Value>,
    },
    /// A member of a map, or an item whose own value changed.
    Map {
        /// What it was; none: it was not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Value>,
        /// What it is; none: it is not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Value>,
    },
}

fn place_info(difference: Difference) -> PlaceInfo {
    let what = match difference.what {
        Differs::Text {
            at,
            deleted,
            inserted,
        } => PlaceChange::Text {
            at,
            deleted,
            inserted,
        },
        Differs::Items {
            at,
            deleted,
            inserted,
        } => PlaceChange::List {
            at,
            deleted,
            inserted,
        },
        Differs::Member { before, after } => PlaceChange::Map { before, after },
    };
    PlaceInfo {
        place: place(difference.place),
        what,
    }
}

impl Cx {
    /// Answers what a document's log holds.
    pub(super) fn logged(&mut self, group: &Group, id: CommandId, page: Result<LogPage, DocError>) {
        let page = page.map_err(plain).map(|page| {
            let spans = Spans::of(group);
            let writers = page.writers.iter();
            let writers = writers.map(|it| self.writer_info(group, &spans, it));
            let writers: Vec<WriterInfo> = writers.collect();
            let writer = |number: u32| {
                let at = usize::try_from(number).ok();
                let writer = at.and_then(|at| writers.get(at));
                writer.cloned().unwrap_or(WriterInfo::Unknown)
            };
            let records = page.records.into_iter().map(|record| LogRecordInfo {
                seq: record.seq,
                count: record.count,
                bytes: record.bytes,
                by: writer(record.by),
                what: self.recorded(group, record.what),
            });
            Reply::Log(Box::new(LogInfo {
                records: records.collect(),
                older: page.older,
                unsent: page.unsent,
            }))
        });
        self.reply(id, page);
    }

    fn recorded(&self, group: &Group, what: Recorded) -> RecordedInfo {
        match what {
            Recorded::Edit(deeds) => {
                let deleted = deeds.deleted.iter();
                let deleted = deleted.map(|(of, count)| DeletedInfo {
                    of: self.whose(group, of),
                    count: *count,
                });
                RecordedInfo::Edit(EditInfo {
                    chars: deeds.chars,
                    values: deeds.values,
                    formats: deeds.formats,
                    deleted: deleted.collect(),
                    deleted_of_others: deeds.deleted_of_others,
                    deleted_again: deeds.deleted_again,
                })
            }
            Recorded::Folded { operations } => RecordedInfo::Folded { operations },
            Recorded::Snapshot { covered } => RecordedInfo::Snapshot { covered },
            Recorded::Check { snapshot, is_match } => RecordedInfo::Check { snapshot, is_match },
            Recorded::Aside => RecordedInfo::SetAside,
            Recorded::Void => RecordedInfo::Void,
            Recorded::Costly => RecordedInfo::Costly,
            Recorded::Nothing => RecordedInfo::Nothing,
            Recorded::Gone => RecordedInfo::Gone,
        }
    }

    fn whose(&self, group: &Group, whose: &DeletedOf) -> WriterInfo {
        let of = |device: &DeviceId| RecordWriter {
            author: self.author(group, device),
            device: *device,
            seq: None,
            id: None,
            when: None,
            carrier: None,
        };
        match whose {
            DeletedOf::Proven(device) => WriterInfo::Proven(of(device)),
            DeletedOf::OnWordOf {
                snapshot_author,
                device,
            } => WriterInfo::OnWordOf {
                word_of: self.person(snapshot_author),
                writer: of(device),
            },
            DeletedOf::Unsent => WriterInfo::Unsent,
            DeletedOf::Unknown => WriterInfo::Unknown,
        }
    }

    /// Answers what records did.
    pub(super) fn told_changes(
        &mut self,
        id: CommandId,
        changed: Result<Option<Differences>, DocError>,
    ) {
        let changed = changed.map_err(plain).map(|changed| {
            Reply::Changed(Box::new(match changed {
                Some(differences) => ChangedInfo::Here {
                    places: differences.found.into_iter().map(place_info).collect(),
                    elsewhere: differences.elsewhere,
                },
                None => ChangedInfo::Gone,
            }))
        });
        self.reply(id, changed);
    }
}

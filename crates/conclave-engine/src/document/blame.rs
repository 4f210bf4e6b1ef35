//! Who wrote what a document shows, for people.

use conclave_crdt::{AttributedValue, PathElement, Run, WrittenBy};
use conclave_doc::{Blame, ByRecord, DocError, Shown, Writer};
use conclave_proto::{DeviceId, Hash, UnixMs};
use serde::{Deserialize, Serialize};

use super::deliver::plain;
use crate::command::Reply;
use crate::cx::Cx;
use crate::error::EngineError;
use crate::event::Person;
use crate::group::Group;
use crate::io::CommandId;

/// Who wrote characters or a value. What nobody can prove says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "proof")]
pub enum WriterInfo {
    /// The author of a record whose signature this device checked.
    Proven(RecordWriter),
    /// On the word of whoever made the snapshot that this document rests on here.
    OnWordOf {
        /// Who made it.
        word_of: Person,
        /// Who it says that wrote it.
        #[serde(flatten)]
        writer: RecordWriter,
    },
    /// This device; the edit has no place in the log yet.
    Unsent,
    /// Nobody can tell.
    Unknown,
}

/// A writer and the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordWriter {
    /// The device's user, where the group's members tell.
    pub author: Option<Person>,
    /// The device.
    pub device: DeviceId,
    /// Position of the record in the document's log, where it is known.
    pub seq: Option<u64>,
    /// The record's id, where the log is known there.
    pub id: Option<Hash>,
    /// When its epoch was.
    pub when: Option<Span>,
    /// Who carried the record into the log, where that was another device.
    pub carrier: Option<DeviceId>,
}

/// Between which commits a record was written. Records carry no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Not before this commit.
    pub after: UnixMs,
    /// And before this one; none: its epoch is the group's last, as far as members have changed.
    pub before: Option<UnixMs>,
}

/// A document, and who wrote what it shows.
#[derive(Clone, Serialize, Deserialize)]
pub struct BlameInfo {
    /// Who wrote: runs and values name them by their place in this list.
    pub writers: Vec<WriterInfo>,
    /// What is shown.
    #[serde(flatten)]
    pub shown: BlameShown,
}

/// What is shown, with who wrote which part.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "view")]
pub enum BlameShown {
    /// The text.
    Text {
        /// All of it.
        text: String,
        /// Its runs, in text order.
        runs: Vec<Run>,
    },
    /// The values.
    Values {
        /// All of them, as one object.
        json: serde_json::Value,
        /// Each by its place.
        values: Vec<BlameValue>,
    },
}

/// A value and who wrote it.
#[derive(Clone, Serialize, Deserialize)]
pub struct BlameValue {
    /// Its place, from the root: names of members, and positions in lists.
    pub place: Vec<serde_json::Value>,
    /// Who put it there; of a map or a list: who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<u32>,
    /// Of a text: its runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
}

impl std::fmt::Debug for BlameInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BlameInfo").field(&self.writers).finish()
    }
}

pub(super) fn place(steps: Vec<PathElement>) -> Vec<serde_json::Value> {
    let steps = steps.into_iter().map(|step| match step {
        PathElement::Key(key) => key.into(),
        PathElement::Index(index) => index.into(),
    });
    steps.collect()
}

fn value(value: AttributedValue) -> BlameValue {
    let (writer, runs) = match value.by {
        WrittenBy::One(writer) => (Some(writer), Vec::new()),
        WrittenBy::Text(runs) => (None, runs),
    };
    BlameValue {
        place: place(value.place),
        writer,
        runs,
    }
}

impl Cx {
    /// Answers who wrote what a document shows.
    pub(super) fn blamed(&mut self, group: &Group, id: CommandId, blame: Result<Blame, DocError>) {
        let blame = blame.map_err(plain).map(|blame| {
            let spans = Spans::of(group);
            let writers = blame.writers.iter();
            let writers = writers.map(|writer| self.writer_info(group, &spans, writer));
            let shown = match blame.shown {
                Shown::Text { text, runs } => BlameShown::Text { text, runs },
                Shown::Values { json, values } => BlameShown::Values {
                    json,
                    values: values.into_iter().map(value).collect(),
                },
            };
            Reply::Blame(Box::new(BlameInfo {
                writers: writers.collect(),
                shown,
            }))
        });
        self.reply(id, blame);
    }

    /// Whether members of the group are shown who wrote what.
    pub(crate) fn check_attribution(&self, group: &Group) -> Result<(), EngineError> {
        match group.state().policy.attribution {
            0 => Err(EngineError::AttributionOff),
            _ => Ok(()),
        }
    }

    pub(crate) fn writer_info(&self, group: &Group, spans: &Spans, writer: &Writer) -> WriterInfo {
        match writer {
            Writer::Proven(record) => WriterInfo::Proven(self.record_writer(group, spans, record)),
            Writer::OnWordOf {
                snapshot_author,
                device,
                record,
            } => WriterInfo::OnWordOf {
                word_of: self.person(snapshot_author),
                writer: match record {
                    Some(record) => self.record_writer(group, spans, record),
                    None => RecordWriter {
                        author: self.author(group, device),
                        device: *device,
                        seq: None,
                        id: None,
                        when: None,
                        carrier: None,
                    },
                },
            },
            Writer::Unsent => WriterInfo::Unsent,
            Writer::Unknown => WriterInfo::Unknown,
        }
    }

    /// A device's user, where the group's members tell.
    pub(super) fn author(&self, group: &Group, device: &DeviceId) -> Option<Person> {
        let row = group.state().roster.newest_row(device)?;
        Some(self.person(&row.user))
    }

    fn record_writer(&self, group: &Group, spans: &Spans, record: &ByRecord) -> RecordWriter {
        RecordWriter {
            author: self.author(group, &record.device),
            device: record.device,
            seq: Some(record.seq),
            id: record.id,
            when: record.epoch.and_then(|epoch| spans.at(epoch)),
            carrier: record.carrier,
        }
    }
}

/// When epochs were: as far as the rows of members tell, each of which says when it began.
pub(crate) struct Spans {
    /// In the order of epochs: one in which rows began, the latest time of those up to it, and the earliest of those after it.
    epochs: Vec<(u64, UnixMs, Option<UnixMs>)>,
}

impl Spans {
    /// Takes time in proportion to the group's members; each question after that, next to none.
    pub(crate) fn of(group: &Group) -> Self {
        let rows = group.state().roster.rows().iter();
        let mut rows: Vec<(u64, UnixMs)> = rows.map(|row| (row.first_epoch, row.time)).collect();
        rows.sort_unstable();
        let mut epochs: Vec<(u64, UnixMs, Option<UnixMs>)> = Vec::new();
        for (epoch, time) in &rows {
            match epochs.last_mut() {
                Some((last, latest, _)) if last == epoch => *latest = (*latest).max(*time),
                last => {
                    let before = last.map_or(*time, |(_, latest, _)| *latest);
                    epochs.push((*epoch, before.max(*time), None));
                }
            }
        }
        let mut rest = rows.iter().rev().peekable();
        let mut earliest = None;
        for (epoch, _, after) in epochs.iter_mut().rev() {
            while let Some((_, time)) = rest.next_if(|(of, _)| of > epoch) {
                earliest = Some(earliest.map_or(*time, |least: UnixMs| least.min(*time)));
            }
            *after = earliest;
        }
        Self { epochs }
    }

    fn at(&self, epoch: u64) -> Option<Span> {
        let after = self.epochs.partition_point(|(first, ..)| *first <= epoch);
        let (_, after, before) = self.epochs.get(after.checked_sub(1)?)?;
        Some(Span {
            after: *after,
            before: *before,
        })
    }
}

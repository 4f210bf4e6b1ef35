//! What a document's log holds, record by record, as far as it is known here: who wrote each, and how much it did.
//!
//! Of records since the checkpoint all is here. Of those before it there is left what the claims tell: whose operations stood where. What they do not tell is
//! gone, and is said to be.

use std::collections::{BTreeMap, HashMap};

use conclave_crdt::{CrdtError, Deeds, Differences, ReplicaId, Stretch, Writers, differences};
use conclave_proto::{DeviceId, UserId};

use crate::blame::{ByRecord, Known, Writer, judged};
use crate::content::{Content, TailEntry};
use crate::context::DocContext;
use crate::document::Document;
use crate::error::DocError;
use crate::state::{News, SnapshotInfo};

/// Most records in one page.
pub const PAGE_RECORDS: usize = 500;
/// Of how many at most it is told what a record took out of theirs.
pub const MOST_NAMED: usize = 16;

/// A part of a log, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// Who wrote: records name them by their place in this list.
    pub writers: Vec<Writer>,
    /// The records, the newest last.
    pub records: Vec<LogRecord>,
    /// Where the page before this one ends; none: there is none.
    pub older: Option<u64>,
    /// Own edits that have no place in the log yet.
    pub unsent: usize,
}

/// One record; of what is gone several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Position in the log.
    pub seq: u64,
    /// How many positions from there on.
    pub count: u64,
    /// Who wrote it.
    pub by: u32,
    /// Encoded size, where the record is here.
    pub bytes: Option<u32>,
    /// What it is.
    pub what: Recorded,
}

/// What a record is, and what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// An edit.
    Edit(EditDeeds),
    /// An edit that is part of the saved state: so many operations of it are known to have come with it.
    Folded {
        /// How many.
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
    Aside,
    /// Declared void by an admin.
    Void,
    /// Left out, since it would have cost more than its user had left.
    Costly,
    /// It counts for nothing: it breaks a rule, or says what is known already.
    Nothing,
    /// Part of the saved state; nothing more is known of it.
    Gone,
}

/// How much an edit did. What it wrote and took out again does not show in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EditDeeds {
    /// Characters that it put into texts, as Unicode scalar values.
    pub chars: u64,
    /// Values that it put into maps and lists.
    pub values: u64,
    /// Marks of formatted text that it set.
    pub formats: u64,
    /// What it took out before any other did: whose, and how much, in whatever records they wrote it. Those of whom it took most, and [`MOST_NAMED`] at most.
    pub deleted: Vec<(DeletedOf, u64)>,
    /// And of all others.
    pub deleted_of_others: u64,
    /// What it took out and another had taken out before it.
    pub deleted_again: u64,
}

/// Who wrote something, in whatever records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeletedOf {
    /// This device, by signatures that were checked here.
    Proven(DeviceId),
    /// This device, on somebody's word.
    OnWordOf {
        /// Whose word it is.
        snapshot_author: UserId,
        /// The device.
        device: DeviceId,
    },
    /// This device, in an edit that has no place in the log yet.
    Unsent,
    /// Nobody can tell.
    Unknown,
}

impl From<Writer> for DeletedOf {
    fn from(writer: Writer) -> Self {
        match writer {
            Writer::Proven(record) => Self::Proven(record.device),
            Writer::OnWordOf {
                snapshot_author,
                device,
                ..
            } => Self::OnWordOf {
                snapshot_author,
                device,
            },
            Writer::Unsent => Self::Unsent,
            Writer::Unknown => Self::Unknown,
        }
    }
}

/// Numbers those of whom something was taken out. There are as many as there are devices, and not as there are records.
struct Owners<'k, 'a> {
    known: &'k Known<'a>,
    numbers: HashMap<DeletedOf, u32>,
    all: Vec<DeletedOf>,
}

impl<'k, 'a> Owners<'k, 'a> {
    fn new(known: &'k Known<'a>) -> Self {
        Self {
            known,
            numbers: HashMap::new(),
            all: Vec::new(),
        }
    }

    fn told(&self, deeds: Deeds) -> EditDeeds {
        let (deleted, deleted_of_others) = most(deeds.deleted);
        let whose = |number: u32| {
            let at = usize::try_from(number).ok();
            let whose = at.and_then(|at| self.all.get(at));
            whose.copied().unwrap_or(DeletedOf::Unknown)
        };
        let deleted = deleted.into_iter();
        EditDeeds {
            chars: deeds.chars,
            values: deeds.values,
            formats: deeds.formats,
            deleted: deleted.map(|(of, count)| (whose(of), count)).collect(),
            deleted_of_others,
            deleted_again: deeds.deleted_again,
        }
    }
}

/// The largest, and how much all others are.
fn most(mut deleted: Vec<(u32, u64)>) -> (Vec<(u32, u64)>, u64) {
    deleted.sort_by_key(|(of, count)| (core::cmp::Reverse(*count), *of));
    let others = deleted.split_off(deleted.len().min(MOST_NAMED));
    (deleted, others.iter().map(|(_, count)| count).sum())
}

impl Writers for Owners<'_, '_> {
    fn writer(&mut self, replica: &ReplicaId, counter: u64) -> Stretch {
        let (writer, end) = self.known.who(replica, counter);
        let whose = DeletedOf::from(writer);
        let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let writer = *self.numbers.entry(whose).or_insert_with(|| {
            self.all.push(whose);
            next
        });
        Stretch { writer, end }
    }
}

/// What the claims tell of a record.
struct Folded {
    device: DeviceId,
    carrier: Option<DeviceId>,
    operations: u64,
}

impl Document {
    /// The last records before a position, or of all; at most [`PAGE_RECORDS`]. Takes time in proportion to what is here since the checkpoint, and to
    /// the page.
    ///
    /// # Errors
    /// [`DocError::Crdt`] where the document does not tell who wrote it.
    pub fn log(
        &mut self,
        ctx: &DocContext<'_>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<LogPage, DocError> {
        self.collect_edits()?;
        let unsent = self.outbox.updates().len();
        let limit = limit.clamp(1, PAGE_RECORDS) as u64;
        let (size, checkpoint) = (self.content.size(), self.content.checkpoint.size);
        let end = before.unwrap_or(size).min(size);
        let mut from = end.saturating_sub(limit);
        let mut known = Known::new(&self.state, &self.log, &self.outbox, &self.checks, ctx);
        let mut records = Vec::new();
        if from < checkpoint {
            let told = known.known_from();
            // Nothing is known of any before it.
            let gone = told.min(end).min(checkpoint);
            if from < gone {
                from = 0;
                records.push(gone_from(0, gone, known.unknown()));
            }
            known.folded(from.max(gone), end.min(checkpoint), &mut records);
        }
        let first = from.max(checkpoint);
        let mut deeds = self.content.deeds(first, end, &known)?.into_iter();
        for (seq, entry) in self.content.entries(first, end) {
            let what = match &entry.effect.news {
                News::Update => Recorded::Edit(deeds.next().unwrap_or_default()),
                News::Aside => Recorded::Aside,
                News::Void => Recorded::Void,
                News::Costly => Recorded::Costly,
                News::Snapshot(_) | News::None => match known.snapshot_at(seq, entry) {
                    Some(info) => covering(&info),
                    None => Recorded::Nothing,
                },
                News::Verdict {
                    snapshot,
                    judgement,
                    ..
                } => Recorded::Check {
                    snapshot: known.position_of(snapshot),
                    is_match: *judgement == crate::payload::Judgement::Match,
                },
            };
            let by = known.of_entry(seq, entry);
            records.push(LogRecord {
                seq,
                count: 1,
                by,
                bytes: Some(entry.effect.bytes),
                what,
            });
        }
        Ok(LogPage {
            writers: known.into_writers(),
            records,
            older: Some(from).filter(|from| *from > 0),
            unsent,
        })
    }

    /// What the records from `first` to `last` did to what the document shows, without own edits that had no place in the log by then. None where they are part
    /// of the saved state, or not here yet. Builds the document twice.
    ///
    /// # Errors
    /// [`DocError::Crdt`] where the document does not tell who wrote it.
    pub fn changed(&mut self, first: u64, last: u64) -> Result<Option<Differences>, DocError> {
        let held = self.content.checkpoint.size..self.content.size();
        if first > last || !held.contains(&first) || !held.contains(&last) {
            return Ok(None);
        }
        let skip = std::collections::BTreeSet::new();
        let mut at = |size| self.content.rebuild(size, &skip, &[], &mut self.fresh);
        let (mut before, mut after) = (at(first)?, at(last.saturating_add(1))?);
        Ok(Some(differences(before.as_mut(), after.as_mut())?))
    }

    /// Who made the last change of the content, where there is one. Takes the same time for all documents.
    #[must_use]
    pub fn last_writer(&self) -> Option<Writer> {
        let last = self.state.last?;
        let base = self.checks.ground.base();
        let record = ByRecord {
            device: last.device,
            seq: last.seq,
            id: self.log.leaf_at(last.seq),
            epoch: last.epoch,
            carrier: last.carrier,
        };
        let rests = base.map(|base| (base.from, base.author));
        // Where a founder brought it, that one is the device.
        Some(judged(rests, || None, record))
    }
}

fn gone_from(seq: u64, end: u64, by: u32) -> LogRecord {
    LogRecord {
        seq,
        count: end.saturating_sub(seq),
        by,
        bytes: None,
        what: Recorded::Gone,
    }
}

fn covering(info: &SnapshotInfo) -> Recorded {
    Recorded::Snapshot {
        covered: info.covered.size,
    }
}

impl Content {
    /// The records from one position up to another, as far as they are in the tail.
    fn entries(&self, from: u64, end: u64) -> impl Iterator<Item = (u64, &TailEntry)> {
        let all = (self.checkpoint.size..end).zip(&self.tail);
        all.skip_while(move |(seq, _)| *seq < from)
    }

    /// What the updates from one position up to another did.
    fn deeds(
        &mut self,
        from: u64,
        end: u64,
        known: &Known<'_>,
    ) -> Result<Vec<EditDeeds>, DocError> {
        let tail = (self.checkpoint.size..end).zip(&self.tail);
        let updates = tail.filter_map(|(seq, entry)| {
            let applied = entry.effect.news == News::Update;
            let update = entry.update.as_ref().filter(|_| applied)?;
            Some((seq, update.as_slice()))
        });
        let (places, updates): (Vec<u64>, Vec<&[u8]>) = updates.unzip();
        let skip = places.partition_point(|seq| *seq < from);
        if skip == updates.len() {
            return Ok(Vec::new());
        }
        let attribution = self.crdt.attribution().ok_or(CrdtError::InvalidArgument)?;
        let before = self.checkpoint.crdt.as_slice();
        let mut owners = Owners::new(known);
        let deeds = attribution.deeds(before, &updates, skip, &mut owners)?;
        Ok(deeds.into_iter().map(|it| owners.told(it)).collect())
    }
}

impl Known<'_> {
    /// Where records begin of which it is known what they brought.
    fn known_from(&self) -> u64 {
        let claims = self.state.claims.as_ref();
        claims.map_or(u64::MAX, |claims| claims.from())
    }

    fn unknown(&mut self) -> u32 {
        self.number(Writer::Unknown)
    }

    fn position_of(&self, snapshot: &conclave_proto::Hash) -> Option<u64> {
        let mut heard = self.state.heard().iter();
        let found = heard.find(|it| it.info.id == *snapshot);
        found.map(|it| it.info.seq)
    }

    /// The snapshot that a record is. The one from which a document was opened is known by its leaf alone in the log.
    fn snapshot_at(&self, seq: u64, entry: &TailEntry) -> Option<SnapshotInfo> {
        if let News::Snapshot(info) = &entry.effect.news {
            return Some(**info);
        }
        let mut heard = self.state.heard().iter().map(|it| it.info);
        heard.find(|info| (info.seq, info.id) == (seq, entry.effect.leaf))
    }

    fn snapshot(&mut self, info: &SnapshotInfo) -> u32 {
        let writer = self.judged(ByRecord {
            device: info.author.device,
            seq: info.seq,
            id: Some(info.id),
            epoch: Some(info.epoch),
            carrier: None,
        });
        self.number(writer)
    }

    fn of_entry(&mut self, seq: u64, entry: &TailEntry) -> u32 {
        if let Some(info) = self.snapshot_at(seq, entry) {
            return self.snapshot(&info);
        }
        let (Some((author, _)), Some(device)) = (entry.effect.link, entry.effect.owner()) else {
            return self.unknown();
        };
        let writer = self.judged(ByRecord {
            device,
            seq,
            id: Some(entry.effect.leaf),
            epoch: entry.effect.epoch,
            carrier: entry.effect.carried.map(|_| author.device),
        });
        self.number(writer)
    }

    /// What is left of records that are part of the saved state.
    fn folded(&mut self, from: u64, end: u64, records: &mut Vec<LogRecord>) {
        if from >= end {
            return;
        }
        let mut found: BTreeMap<u64, Folded> = BTreeMap::new();
        if let Some(claims) = &self.state.claims {
            for (replica, seq, run) in claims.known().between(from, end) {
                let Some(owner) = self.state.tables.owners.get(replica) else {
                    continue;
                };
                let (device, carrier) = run.author(seq, owner.device);
                let folded = found.entry(seq).or_insert(Folded {
                    device,
                    carrier,
                    operations: 0,
                });
                folded.operations = folded.operations.saturating_add(run.each);
            }
        }
        let heard = self.state.heard().iter().map(|it| it.info);
        let snapshots: BTreeMap<u64, SnapshotInfo> = heard.map(|info| (info.seq, info)).collect();
        let mut gone = from;
        for seq in from..end {
            let (by, what) = match (snapshots.get(&seq), found.get(&seq)) {
                (Some(info), _) => (self.snapshot(info), covering(info)),
                (None, Some(folded)) => {
                    let claims = self.state.claims.as_ref();
                    let writer = self.judged(ByRecord {
                        device: folded.device,
                        seq,
                        id: self.log.leaf_at(seq),
                        epoch: claims.and_then(|claims| claims.known().epoch_at(seq)),
                        carrier: folded.carrier,
                    });
                    let operations = folded.operations;
                    (self.number(writer), Recorded::Folded { operations })
                }
                (None, None) => continue,
            };
            if gone < seq {
                let by = self.unknown();
                records.push(gone_from(gone, seq, by));
            }
            gone = seq.saturating_add(1);
            records.push(LogRecord {
                seq,
                count: 1,
                by,
                bytes: None,
                what,
            });
        }
        if gone < end {
            let by = self.unknown();
            records.push(gone_from(gone, end, by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_whom_most_was_taken_are_named_and_the_others_counted() {
        let all = (0..40).map(|of| (of, u64::from(of) + 1)).collect();
        let (named, others) = most(all);
        assert_eq!(named.len(), MOST_NAMED);
        assert_eq!((named[0], named[15]), ((39, 40), (24, 25)));
        assert_eq!(others, (1..=24).sum::<u64>());
        assert_eq!(most(vec![(4, 1), (2, 1)]), (vec![(2, 1), (4, 1)], 0));
    }
}

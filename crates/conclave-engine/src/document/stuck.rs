//! Where work on a document did not come back: kept over sessions and told, so that an admin can declare the record void at which it was.

use std::collections::BTreeSet;

use conclave_doc::{At, RecordAt, Watch};
use serde::{Deserialize, Serialize};

use super::*;
use crate::command::{RecordInfo, StuckInfo};
use crate::event::Person;
use crate::finding::Finding;
use crate::intents::Want;

/// In so many sessions work has to be stuck at one record before it is offered to declare that void.
pub(crate) const SESSIONS: u32 = 2;
/// Most records of which it is remembered that work was stuck at them.
const RECORDS: usize = 64;

/// Where work on a document was stuck last, until it is past that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StuckRow {
    at: At,
    /// In how many sessions.
    sessions: u32,
    /// Records at which it was before, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<Hash>,
}

/// What this session knows of work on a document that did not come back.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stuck {
    /// How often.
    pub(crate) tries: u8,
    /// Whether this session is counted in [`StuckRow::sessions`].
    counted: bool,
}

/// Whether one place tells no more than another that may be the same.
fn is_vaguer(at: &At, than: &At) -> bool {
    match (at, than) {
        (At::Elsewhere, _) => true,
        (At::Records { first, last }, At::Record(record)) => (*first..=*last).contains(&record.seq),
        _ => at == than,
    }
}

impl StuckRow {
    /// Work was stuck there.
    fn note(row: &mut Option<Self>, stuck: &mut Stuck, at: At) {
        let this = row.get_or_insert_with(|| Self {
            at,
            sessions: 0,
            before: Vec::new(),
        });
        if at == At::Elsewhere && this.at != at {
            // That says nothing of the place that is known.
            return;
        }
        if !is_vaguer(&at, &this.at) {
            this.sessions = 0;
            stuck.counted = false;
            if let At::Record(record) = this.at {
                this.before.push(record.id);
                let surplus = this.before.len().saturating_sub(RECORDS);
                this.before.drain(..surplus);
            }
            this.at = at;
        }
        if !std::mem::replace(&mut stuck.counted, true) {
            this.sessions = this.sessions.saturating_add(1);
        }
    }

    /// The record at which it was stuck, if it was at one.
    pub(crate) fn record(&self) -> Option<&RecordAt> {
        match &self.at {
            At::Record(record) => Some(record),
            _ => None,
        }
    }

    /// Whether it was stuck at this record.
    pub(crate) fn is_at(&self, id: &Hash) -> bool {
        self.record().is_some_and(|record| record.id == *id)
    }

    fn records(&self) -> BTreeSet<Hash> {
        let last = self.record().map(|record| record.id);
        self.before.iter().copied().chain(last).collect()
    }
}

impl Group {
    /// What says where work on a document is, where it was stuck before.
    pub(crate) fn watch(&self, id: &DocumentId) -> Option<Watch> {
        let stuck = self.documents.get(id)?.stuck.as_ref()?;
        Some(Watch::new(true, stuck.records()))
    }

    /// Whether work on a document was stuck at the snapshot at this position.
    pub(super) fn is_stuck_at_snapshot(&self, id: &DocumentId, of: u64) -> bool {
        let stuck = self.documents.get(id).and_then(|row| row.stuck.as_ref());
        stuck.is_some_and(|it| matches!(it.at, At::Snapshot { seq, .. } if seq == of))
    }
}

impl Cx {
    /// Notes where work did not come back, and tells of it.
    pub(super) fn note_stuck(&mut self, whole: &mut Whole, id: DocumentId, at: Option<At>) {
        let Whole { group, docs } = whole;
        if let Some(at) = at {
            let row = group.documents.entry(id).or_default();
            StuckRow::note(&mut row.stuck, docs.stuck_mut(id), at);
            self.save_document_row(group, &id);
        }
        let stuck = group.documents.get(&id).and_then(|row| row.stuck.as_ref());
        let held = Finding {
            what: FindingKind::Held {
                at: stuck.map_or(At::Elsewhere, |it| it.at),
                sessions: stuck.map_or(0, |it| it.sessions),
                may_void: self.may_void(group),
            },
            about: About::Document(group.id, id),
            suspect: None,
        };
        if self.open_finding(&held).as_ref() != Some(&held.what) {
            self.found(held);
        }
    }

    /// A document was worked on to the end: where work was stuck is over, if it is past that.
    pub(super) fn note_passed(&mut self, group: &mut Group, doc: &mut Doc) {
        let row = group.documents.get_mut(&doc.id);
        if let Some(row) = row
            && let Some(stuck) = &row.stuck
        {
            if !doc.document.has_passed(&stuck.at) {
                return;
            }
            row.stuck = None;
            doc.document.set_watch(Watch::default());
            self.save_document_row(group, &doc.id);
        }
        self.ended(About::Document(group.id, doc.id), End::Passed);
    }

    /// A record was declared void at which work on a document was stuck: it is tried again, in this session too.
    pub(crate) fn freed(&mut self, whole: &mut Whole, id: DocumentId) {
        whole.docs.free(&id);
        if let Some(DocSlot::Unreadable(EngineError::Held)) = whole.docs.get(&id) {
            whole.docs.remove(&id);
            self.document_work(whole, id, DocWork::Look);
        }
    }

    /// Whether this device may declare records void.
    fn may_void(&self, group: &Group) -> bool {
        group.state().role_of(&self.device.id()) >= Some(Role::Admin)
    }

    /// Declares one record void, where work was stuck at it here: for that the document need not be in memory. Gives the command back otherwise.
    pub(crate) fn void_stuck(
        &mut self,
        group: &mut Group,
        id: CommandId,
        document: DocumentId,
        seq: u64,
    ) -> Option<CommandId> {
        let row = group.documents.get(&document);
        let row = row.and_then(|row| row.stuck.as_ref());
        let record = row.and_then(StuckRow::record).copied();
        let Some(record) = record.filter(|record| record.seq == seq) else {
            return Some(id);
        };
        self.void_one(group, id, document, record.id);
        None
    }

    fn void_one(&mut self, group: &mut Group, id: CommandId, document: DocumentId, record: Hash) {
        if !self.may_void(group) {
            return self.reply(id, Err(EngineError::Forbidden));
        }
        self.intend_waited(group, Want::Void { document, record }, id);
    }

    /// Declares one record of a document in memory void.
    pub(crate) fn void_record(&mut self, group: &mut Group, doc: &Doc, id: CommandId, seq: u64) {
        match doc.document.record_at(seq) {
            Some(record) => self.void_one(group, id, doc.id, record.id),
            None => self.reply(id, Err(EngineError::NoSuchRecord { seq })),
        }
    }

    /// One record of a document, for people.
    pub(crate) fn record_info(&self, group: &Group, record: &RecordAt) -> RecordInfo {
        let device = record.author.device;
        RecordInfo {
            seq: record.seq,
            id: record.id,
            device,
            author: self.author(group, &device),
            bytes: record.bytes,
        }
    }

    /// Where work on a document was stuck, for people.
    pub(crate) fn stuck_info(&self, group: &Group, row: &StuckRow) -> StuckInfo {
        StuckInfo {
            record: row.record().map(|record| self.record_info(group, record)),
            snapshot: match row.at {
                At::Snapshot { seq, .. } => Some(seq),
                _ => None,
            },
            sessions: row.sessions,
            may_void: row.record().is_some() && row.sessions >= SESSIONS && self.may_void(group),
        }
    }

    pub(super) fn person(&self, user: &UserId) -> Person {
        Person {
            user: *user,
            name: self.name_of(user),
            verified: self.device.has_verified(user),
            is_own: self.device.user() == Some(*user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_proto::Author;

    fn record(seq: u64) -> At {
        At::Record(RecordAt {
            seq,
            id: Hash([seq as u8; 32]),
            author: Author {
                device: DeviceId([1; 16]),
                instance: InstanceId([1; 8]),
            },
            bytes: 9,
        })
    }

    fn session(row: &mut Option<StuckRow>, places: &[At]) {
        let mut stuck = Stuck::default();
        for at in places {
            StuckRow::note(row, &mut stuck, *at);
        }
    }

    #[test]
    fn sessions_are_counted_in_which_work_was_stuck_at_one_place() {
        let mut row = None;
        let run = At::Records { first: 3, last: 9 };
        session(&mut row, &[run, record(5), record(5)]);
        let this = row.clone().unwrap();
        assert_eq!((this.at, this.sessions), (record(5), 1));
        session(&mut row, &[At::Elsewhere]);
        assert_eq!(
            row.clone().unwrap(),
            this,
            "that says nothing of this record"
        );
        session(&mut row, &[record(5)]);
        assert_eq!(row.clone().unwrap().sessions, 2);
        session(&mut row, &[record(6), record(6)]);
        let this = row.clone().unwrap();
        assert_eq!((this.at, this.sessions), (record(6), 1));
        assert_eq!(this.records().len(), 2, "where it was before is remembered");
        for seq in 0..200 {
            session(&mut row, &[record(seq)]);
        }
        assert_eq!(row.unwrap().records().len(), RECORDS + 1);
    }
}

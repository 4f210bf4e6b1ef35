//! Signed entries of the group log: documents created and closed, records voided, rotations complete.

use conclave_proto::record::{
    CloseReason, EntryBody, RECORD_LABEL, RECORD_VERSION, Record, RecordBody,
};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault, Refusal};
use conclave_proto::{Author, DocumentId, Hash, limits};

use super::{DocumentEntry, GroupState};
use crate::actions::Action;
use crate::roster::{RosterRow, verify_signature};

/// Greatest code of a CRDT kind that this version knows.
const MAX_CRDT_KIND: u8 = 4;

/// What a valid entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryEffect {
    /// What it says.
    pub body: EntryBody,
    /// Who says it.
    pub author: Author,
    /// Its leaf in the group log.
    pub leaf: Hash,
}

const fn bad(fault: RecordFault) -> Refusal {
    Refusal::BadRecord { fault }
}

impl GroupState {
    /// Judges a signed entry for the next position of the log.
    ///
    /// # Errors
    /// What the service answers; for a member, the proof that the service ordered something illegal.
    pub fn judge_entry(&self, record: &Record) -> Result<EntryEffect, Refusal> {
        let header = &record.header;
        let body = self.check_shape(record)?;
        if header.epoch != self.epoch {
            return Err(Refusal::StaleEpoch {
                current: self.epoch,
            });
        }
        let device = header.author.device;
        let row = self.roster.current_row(&device).ok_or(Refusal::Forbidden {
            why: ForbiddenWhy::NotMember,
        })?;
        if !self.has_prefix(&header.seen) {
            return Err(bad(RecordFault::SeenHead));
        }
        check_author(row, &body, record)?;
        self.check_body(&body)?;
        Ok(EntryEffect {
            body,
            author: header.author,
            leaf: record.leaf(),
        })
    }

    /// Appends a judged entry to the log.
    pub fn apply_entry(&mut self, effect: &EntryEffect) {
        self.apply_body(&effect.body, self.epoch);
        self.push_leaf(effect.leaf);
    }

    /// Judges an entry of the past against the roster: who signed it, and whether they might. For joiners, who are handed the entries that
    /// made the document list and not the log.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn replay_entry(&mut self, record: &Record) -> Result<(), Refusal> {
        let body = self.check_shape(record)?;
        let header = &record.header;
        if header.epoch > self.epoch {
            return Err(bad(RecordFault::EpochDecreased));
        }
        let row = self
            .row(&header.author.device, header.epoch)
            .ok_or(bad(RecordFault::NotMember))?;
        check_author(row, &body, record)?;
        if !matches!(body, EntryBody::RotationComplete { .. }) {
            self.check_body(&body)?;
            self.apply_body(&body, header.epoch);
        }
        Ok(())
    }

    fn check_shape(&self, record: &Record) -> Result<EntryBody, Refusal> {
        let header = &record.header;
        let RecordBody::Entry(body) = header.body else {
            return Err(bad(RecordFault::Malformed));
        };
        if header.version != RECORD_VERSION || !record.sealed.is_public() {
            return Err(bad(RecordFault::Malformed));
        }
        if header.group != self.group || header.document != DocumentId::ZERO {
            return Err(bad(RecordFault::WrongDocument));
        }
        Ok(body)
    }

    fn check_body(&self, body: &EntryBody) -> Result<(), Refusal> {
        match body {
            EntryBody::DocumentCreated { document, crdt } => {
                if *document == DocumentId::ZERO || *crdt == 0 || *crdt > MAX_CRDT_KIND {
                    return Err(bad(RecordFault::Malformed));
                }
                if self.documents.contains_key(document) {
                    return Err(Refusal::AlreadyExists);
                }
                if self.documents.size() >= limits::GROUP_DOCUMENTS {
                    return Err(Refusal::TooLarge {
                        max: limits::GROUP_DOCUMENTS as u64,
                    });
                }
                Ok(())
            }
            EntryBody::DocumentClosed { document, reason } => {
                match (self.listed(document)?.closed, reason) {
                    // What was put away can still be deleted or given up.
                    (None, _)
                    | (Some(CloseReason::Archived), CloseReason::Deleted | CloseReason::Lost) => {
                        Ok(())
                    }
                    (Some(_), _) => Err(Refusal::DocumentClosed),
                }
            }
            EntryBody::RecordVoided { document, record } => {
                if self.listed(document)?.closed == Some(CloseReason::Deleted) {
                    return Err(Refusal::DocumentClosed);
                }
                if self.voided.iter().any(|void| *void == (*document, *record)) {
                    return Err(Refusal::AlreadyExists);
                }
                Ok(())
            }
            EntryBody::RotationComplete { epoch } => {
                if self.rotating_since == 0 {
                    return Err(Refusal::AlreadyExists);
                }
                if *epoch < self.rotating_since || *epoch > self.epoch {
                    return Err(Refusal::StaleEpoch {
                        current: self.epoch,
                    });
                }
                Ok(())
            }
        }
    }

    fn listed(&self, document: &DocumentId) -> Result<&DocumentEntry, Refusal> {
        self.documents.get(document).ok_or(Refusal::UnknownDocument)
    }

    fn apply_body(&mut self, body: &EntryBody, epoch: u64) {
        match body {
            EntryBody::DocumentCreated { document, crdt } => {
                let entry = DocumentEntry {
                    crdt: *crdt,
                    created_epoch: epoch,
                    closed: None,
                };
                self.documents.insert_mut(*document, entry);
            }
            EntryBody::DocumentClosed { document, reason } => {
                if let Some(entry) = self.documents.get_mut(document) {
                    entry.closed = Some(*reason);
                }
            }
            EntryBody::RecordVoided { document, record } => {
                self.voided.push_back_mut((*document, *record));
            }
            EntryBody::RotationComplete { .. } => self.rotating_since = 0,
        }
    }
}

/// Role and signature of an entry's author, by the row of the entry's epoch.
fn check_author(row: &RosterRow, body: &EntryBody, record: &Record) -> Result<(), Refusal> {
    if !Action::of_entry(body).allowed(row.role) {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::Role,
        });
    }
    verify_signature(
        row,
        RECORD_LABEL,
        &record.core().0,
        &record.sealed.signature,
    )
    .map_err(bad)
}

//! Signed entries of the group log: documents created, closed and reopened, records voided, rotations complete.

use conclave_proto::policy::Role;
use conclave_proto::record::{
    CloseReason, EntryBody, RECORD_LABEL, RECORD_VERSION, Record, RecordBody,
};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault, Refusal};
use conclave_proto::{Author, DocumentId, Hash, UserId, limits};

use super::{DocumentEntry, GroupState, Void};
use crate::actions::Action;
use crate::roster::{RosterRow, verify_signature};

/// Greatest code of a CRDT kind that this version knows.
const MAX_CRDT_KIND: u8 = 4;
/// Code of the CRDT kind of every group's directory.
const DIRECTORY_CRDT_KIND: u8 = 1;

/// What a valid entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryEffect {
    /// What it says.
    pub body: EntryBody,
    /// Who says it.
    pub author: Author,
    /// Whose device that is.
    pub user: UserId,
    /// Its leaf in the group log.
    pub leaf: Hash,
}

const fn bad(fault: RecordFault) -> Refusal {
    Refusal::BadRecord { fault }
}

const DIRECTORY: Refusal = Refusal::BadCommit {
    fault: CommitFault::Directory,
};

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
        self.check_counts(&body)?;
        self.check_voids(&body, row)?;
        Ok(EntryEffect {
            body,
            author: header.author,
            user: row.user,
            leaf: record.leaf(),
        })
    }

    /// Appends a judged entry to the log.
    pub fn apply_entry(&mut self, effect: &EntryEffect) {
        self.apply_body(&effect.body, self.epoch, effect.user);
        self.push_leaf(effect.leaf);
    }

    /// Judges an entry of the past against the roster: who signed it, and whether they might. For joiners, who are handed the entries that
    /// made the document list and not the log. How many documents were open meanwhile is not judged: closings that were taken back are not
    /// among the entries. How many there are in the end is.
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
        let user = row.user;
        self.check_voids(&body, row)?;
        if !matches!(body, EntryBody::RotationComplete { .. }) {
            self.check_body(&body)?;
            self.apply_body(&body, header.epoch, user);
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

    /// How many documents there may be.
    pub(super) fn check_counts(&self, body: &EntryBody) -> Result<(), Refusal> {
        let too_many = |max: usize| Refusal::TooLarge { max: max as u64 };
        let opens = match body {
            EntryBody::DocumentCreated { .. } => {
                if self.documents.size() >= limits::GROUP_DOCUMENTS {
                    return Err(too_many(limits::GROUP_DOCUMENTS));
                }
                true
            }
            EntryBody::DocumentReopened { .. } => true,
            _ => false,
        };
        if opens && self.open_documents >= limits::GROUP_OPEN_DOCUMENTS {
            return Err(too_many(limits::GROUP_OPEN_DOCUMENTS));
        }
        Ok(())
    }

    /// How many records may be declared void. Whoever is no owner has a share, of which many together leave owners a part.
    pub(super) fn check_voids(&self, body: &EntryBody, author: &RosterRow) -> Result<(), Refusal> {
        let EntryBody::RecordVoided { document, .. } = body else {
            return Ok(());
        };
        let (of_document, all) = (self.voided.count_of(document), self.voided.len());
        let (own_of_document, own) = self.voided.counts_by(&author.user, document);
        // Breakage: an admin uses up what owners need.
        let is_owner = author.role == Role::Owner || crate::broken("void-shares");
        let bounds = [
            (is_owner, of_document, limits::DOCUMENT_VOIDS),
            (is_owner, all, limits::GROUP_VOIDS),
            (!is_owner, own_of_document, limits::USER_DOCUMENT_VOIDS),
            (!is_owner, own, limits::USER_GROUP_VOIDS),
            (!is_owner, of_document, limits::DOCUMENT_VOIDS_OF_ADMINS),
            (!is_owner, all, limits::GROUP_VOIDS_OF_ADMINS),
        ];
        let mut bounds = bounds.into_iter();
        match bounds.find(|(applies, count, max)| *applies && count >= max) {
            Some((.., max)) => Err(Refusal::TooLarge { max: max as u64 }),
            None => Ok(()),
        }
    }

    fn check_body(&self, body: &EntryBody) -> Result<(), Refusal> {
        match body {
            EntryBody::DocumentCreated { document, crdt } => {
                let directory = self.directory();
                if *document == DocumentId::ZERO
                    || *crdt == 0
                    || *crdt > MAX_CRDT_KIND
                    || (*document == directory && *crdt != DIRECTORY_CRDT_KIND)
                {
                    return Err(bad(RecordFault::Malformed));
                }
                if self.documents.contains_key(document) {
                    return Err(Refusal::AlreadyExists);
                }
                if *document != directory && !self.documents.contains_key(&directory) {
                    return Err(DIRECTORY);
                }
                Ok(())
            }
            EntryBody::DocumentClosed { document, reason } => {
                if *document == self.directory() {
                    return Err(DIRECTORY);
                }
                match (self.listed(document)?.closed, reason) {
                    // What was put away can still be deleted or given up.
                    (None, _)
                    | (Some(CloseReason::Archived), CloseReason::Deleted | CloseReason::Lost) => {
                        Ok(())
                    }
                    (Some(_), _) => Err(Refusal::DocumentClosed),
                }
            }
            EntryBody::DocumentReopened { document } => match self.listed(document)?.closed {
                Some(CloseReason::Archived) => Ok(()),
                None => Err(Refusal::AlreadyExists),
                Some(CloseReason::Deleted | CloseReason::Lost) => Err(Refusal::DocumentClosed),
            },
            EntryBody::RecordVoided { document, record } => {
                if self.listed(document)?.closed == Some(CloseReason::Deleted) {
                    return Err(Refusal::DocumentClosed);
                }
                if self.voided.contains(document, record) {
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

    pub(super) fn apply_body(&mut self, body: &EntryBody, epoch: u64, user: UserId) {
        match body {
            EntryBody::DocumentCreated { document, crdt } => {
                let entry = DocumentEntry {
                    crdt: *crdt,
                    created_epoch: epoch,
                    closed: None,
                };
                self.documents.insert_mut(*document, entry);
                self.open_documents = self.open_documents.saturating_add(1);
            }
            EntryBody::DocumentClosed { document, reason } => {
                self.set_closed(document, Some(*reason));
            }
            EntryBody::DocumentReopened { document } => self.set_closed(document, None),
            EntryBody::RecordVoided { document, record } => {
                self.voided.push(Void {
                    document: *document,
                    record: *record,
                    user,
                });
            }
            EntryBody::RotationComplete { .. } => self.rotating_since = 0,
        }
    }
}

impl GroupState {
    fn set_closed(&mut self, document: &DocumentId, closed: Option<CloseReason>) {
        let Some(entry) = self.documents.get_mut(document) else {
            return;
        };
        let was_open = entry.closed.is_none();
        entry.closed = closed;
        let open = self.open_documents;
        self.open_documents = match (was_open, closed.is_none()) {
            (true, false) => open.saturating_sub(1),
            (false, true) => open.saturating_add(1),
            _ => open,
        };
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

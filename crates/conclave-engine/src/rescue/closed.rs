//! Documents that are closed for good while they hold own edits.

use conclave_proto::record::CloseReason;

use super::parting::holds_unsent;
use super::*;
use crate::gather::GatherFor;

impl Cx {
    /// A closed document goes; own edits in it are kept apart.
    pub(crate) fn let_document_go(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        by: Option<UserId>,
    ) {
        let group = &mut whole.group;
        let Some(row) = group.documents.get_mut(&id).filter(|row| holds_unsent(row)) else {
            self.forget_document(whole, id);
            return self.drop_document(&mut whole.group, id);
        };
        if by.is_some() {
            // Still known after a restart.
            row.closed_by = by;
            self.save_document_row(group, &id);
        }
        self.forget_document_later(whole, id);
        let group = whole.group.id;
        let directory = DocumentId::directory(&group);
        let prefixes = vec![
            keys::document_prefix(&group, &id),
            keys::document_prefix(&group, &directory),
        ];
        self.gather(prefixes, GatherFor::Closed(group, id));
    }

    pub(crate) fn closed_read(&mut self, group: &mut Group, id: DocumentId, rows: &[Row]) {
        let closed = group
            .state()
            .documents
            .get(&id)
            .and_then(|entry| entry.closed);
        let cause = match closed {
            Some(CloseReason::Deleted) => RescueCause::Deleted,
            Some(CloseReason::Lost) => RescueCause::Lost,
            Some(CloseReason::Archived) | None => return,
        };
        // Two may have read it.
        let Some(row) = group.documents.get(&id).cloned() else {
            return;
        };
        let of = rows_of(&group.id, &id, rows);
        let mut outcome = EngineError::UnknownDocument;
        if let Some(unsent) = unsent_of(of, &group.roots, row.crdt, &mut self.rng) {
            let directory = DocumentId::directory(&group.id);
            let directory = rows_of(&group.id, &directory, rows);
            let titles = titles_of(directory, &group.roots, &mut self.rng);
            let origin = Origin {
                cause,
                by: row.closed_by,
                group: group.id,
                group_name: titles.name,
                document: id,
                title: row.title().or_else(|| titles.titles.get(&id).cloned()),
            };
            let made = self.make_rescue(origin, unsent);
            if !self.has_room_for(std::slice::from_ref(&made)) {
                self.tell_full(group.id, Some(id));
                return self.answer_parted(group.id, Some(id), &EngineError::RescueFull);
            }
            outcome = EngineError::Rescued {
                id: self.keep_apart(made),
            };
        }
        self.answer_parted(group.id, Some(id), &outcome);
        self.drop_document(group, id);
    }

    /// Documents that were closed and are still here: their own edits were not kept apart yet.
    pub(crate) fn go_on_closing(&mut self, whole: &mut Whole) {
        let group = &whole.group;
        let gone = |id: &DocumentId| {
            let entry = group.state().documents.get(id);
            let closed = entry.and_then(|entry| entry.closed);
            closed.is_some_and(|why| why != CloseReason::Archived)
        };
        let left: Vec<DocumentId> = group.documents.keys().copied().filter(gone).collect();
        for id in left {
            self.let_document_go(whole, id, None);
        }
    }
}

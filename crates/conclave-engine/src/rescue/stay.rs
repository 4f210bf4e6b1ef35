//! Documents that stay while own edits have no place in them: put away, or read only from now on.

use conclave_proto::Role;
use conclave_proto::record::CloseReason;

use super::*;
use crate::group::DocRow;

impl Cx {
    /// Why own edits that wait can never be sent, where that is so. The log has to be here first: they may be in it.
    fn has_no_place(&self, group: &Group, doc: &Doc) -> Option<RescueCause> {
        if doc.document.unsent_count() == 0 || !self.link.is_at_rest(group.id, doc) {
            return None;
        }
        let entry = group.state().documents.get(&doc.id);
        let archived = entry.is_some_and(|entry| entry.closed == Some(CloseReason::Archived));
        let role = group.state().role_of(&self.device.id());
        if archived {
            Some(RescueCause::Archived)
        } else {
            role.is_some_and(|role| role < Role::Editor)
                .then_some(RescueCause::RoleLost)
        }
    }

    /// Takes own edits out of a document that has no place for them: it shows what the group has.
    pub(crate) fn take_out_unsent(&mut self, group: &mut Group, doc: &mut Doc) {
        let Some(cause) = self.has_no_place(group, doc) else {
            return;
        };
        let id = doc.id;
        let directory = DocumentId::directory(&group.id);
        let local = group.is_local(&directory);
        if !group.directory.is_read && local && !group.directory.unreadable {
            // What it is called is read first.
            if id != directory {
                return self.post_document(group.id, directory, DocWork::TitlesFor(id));
            }
            group.directory.refresh(&mut doc.document);
        }
        let unsent = match doc.document.unsent() {
            Ok(Some(unsent)) => unsent,
            Ok(None) => return,
            Err(error) => return self.delivered(group, doc, Err(error)),
        };
        let origin = self.origin(group, id, cause);
        let made = self.make_rescue(origin, unsent);
        if !self.has_room_for(std::slice::from_ref(&made)) {
            self.tell_full(group.id, Some(id));
            return doc.answer(self, &EngineError::RescueFull);
        }
        let outcome = doc.document.drop_unsent();
        if outcome.is_ok() {
            let error = EngineError::Rescued {
                id: self.keep_apart(made),
            };
            doc.answer(self, &error);
            // It is opened again under its new instance.
            self.post_document(group.id, id, DocWork::Look);
        }
        self.delivered(group, doc, outcome);
    }

    /// Edits that did not stand and could not be written again. False where there is no room for them.
    pub(crate) fn keep_lost(
        &mut self,
        group: &Group,
        id: DocumentId,
        cause: RescueCause,
        lost: Vec<Unsent>,
    ) -> bool {
        let mut made = Vec::new();
        for unsent in lost {
            let origin = self.origin(group, id, cause);
            made.push(self.make_rescue(origin, unsent));
        }
        if !self.has_room_for(&made) {
            self.tell_full(group.id, Some(id));
            return false;
        }
        for made in made {
            self.keep_apart(made);
        }
        true
    }

    pub(crate) fn origin(&self, group: &Group, document: DocumentId, cause: RescueCause) -> Origin {
        let row = group.documents.get(&document);
        let title = row.and_then(DocRow::title);
        Origin {
            cause,
            by: None,
            group: group.id,
            group_name: group.directory.name.clone(),
            document,
            title: title.or_else(|| group.directory.titles.get(&document).cloned()),
        }
    }
}

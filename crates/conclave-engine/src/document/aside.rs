//! Records that nobody here can open: set aside, and declared void by an admin.

use super::*;
use crate::intents::Want;

impl Engine {
    /// No member has supplied the root: the document goes on without what it seals.
    pub(crate) fn set_aside(&mut self, group: &mut Group, document: DocumentId) {
        self.with_document_in(
            group,
            document,
            None,
            Box::new(|engine, group, doc| {
                let context = group.doc_context(&engine.device, engine.now);
                let before = doc.document.set_aside_records().len();
                let outcome = doc.document.set_aside(&context);
                let aside = doc.document.set_aside_records();
                for (seq, _, _, author) in aside.iter().skip(before) {
                    // Others may only not be there who could open it.
                    let author = Some(author.device).filter(|it| group.has_garbled(it));
                    let author = author.map(Suspect::Device);
                    let what = FindingKind::SetAside { seq: *seq };
                    engine.finding(group.id, Some(doc.id), what, author);
                }
                engine.delivered(group, doc, outcome);
            }),
        );
    }

    /// Admins declared records void: documents in memory count them as nothing. Others do when they are opened.
    pub(crate) fn records_voided(&mut self, group: &mut Group) {
        for id in self.hot_documents(&group.id) {
            self.with_document_in(
                group,
                id,
                None,
                Box::new(|engine, group, doc| engine.apply_voided(group, doc)),
            );
        }
    }

    pub(super) fn apply_voided(&mut self, group: &mut Group, doc: &mut Doc) {
        let concerned = group.state().voided.iter().any(|(id, _)| *id == doc.id);
        if concerned {
            let context = group.doc_context(&self.device, self.now);
            let outcome = doc.document.voided(&context);
            self.delivered(group, doc, outcome);
        }
    }

    /// Declares void what is set aside in a document.
    pub(crate) fn void_records(&mut self, id: CommandId, group: GroupId, document: DocumentId) {
        if !self.known(id, group) {
            return;
        }
        self.with_document(
            group,
            document,
            Some(id),
            Box::new(move |engine, group, doc| {
                if group.state().role_of(&engine.device.id()) < Some(Role::Admin) {
                    return engine.reply(id, Err(EngineError::Forbidden));
                }
                let mut aside = doc.document.set_aside_records();
                let Some((_, last, ..)) = aside.pop() else {
                    return engine.reply(id, Ok(Reply::Done));
                };
                if group.check_in_step().is_ok() {
                    for (_, record, ..) in aside {
                        engine.intend(group, Want::Void { document, record });
                    }
                }
                let record = last;
                engine.intend_waited(group, Want::Void { document, record }, id);
            }),
        );
    }
}

//! Records that nobody here can open: set aside, and declared void by an admin.

use super::*;
use crate::intents::Want;

impl Cx {
    /// No member has supplied the root: the document goes on without what it seals.
    pub(crate) fn set_aside(&mut self, group: &mut Group, doc: &mut Doc) {
        let context = group.doc_context(&self.device);
        let before = doc.document.set_aside_records().len();
        let outcome = doc.document.set_aside(&context);
        let aside = doc.document.set_aside_records();
        for (seq, _, _, author) in aside.iter().skip(before) {
            // Others may only not be there who could open it.
            let author = Some(author.device).filter(|it| group.has_garbled(it));
            let author = author.map(Suspect::Device);
            let what = FindingKind::SetAside { seq: *seq };
            self.finding(group.id, Some(doc.id), what, author);
        }
        self.delivered(group, doc, outcome);
    }

    /// Admins declared records void: a document counts them as nothing, now where it is in memory, else when it is opened.
    pub(crate) fn apply_voided(&mut self, group: &mut Group, doc: &mut Doc) {
        let concerned = group.state().voided.iter().any(|(id, _)| *id == doc.id);
        if concerned {
            let context = group.doc_context(&self.device);
            let outcome = doc.document.voided(&context);
            self.delivered(group, doc, outcome);
        }
    }

    /// Declares void what is set aside in a document.
    pub(crate) fn void_records(&mut self, group: &mut Group, doc: &mut Doc, id: CommandId) {
        if group.state().role_of(&self.device.id()) < Some(Role::Admin) {
            return self.reply(id, Err(EngineError::Forbidden));
        }
        let document = doc.id;
        let mut aside = doc.document.set_aside_records();
        let Some((_, last, ..)) = aside.pop() else {
            return self.reply(id, Ok(Reply::Done));
        };
        if group.check_in_step().is_ok() {
            for (_, record, ..) in aside {
                self.intend(group, Want::Void { document, record });
            }
        }
        let record = last;
        self.intend_waited(group, Want::Void { document, record }, id);
    }
}

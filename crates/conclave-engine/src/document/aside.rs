//! Records that nobody here can open: set aside, and declared void by an admin.

use super::*;
use crate::intents::Want;

impl Cx {
    /// No member has supplied the root: the document has gone on without what it seals.
    pub(super) fn set_aside_done(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        before: usize,
        outcome: Result<DeliverOutcome, DocError>,
    ) {
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

impl Doc {
    /// Nobody gives the root that it waits for.
    pub(crate) fn set_aside(&mut self) {
        self.errand = Some(Errand::SetAside);
    }

    /// Admins declared records void: a document counts them as nothing, now where it is in memory, else when it is opened.
    pub(crate) fn voided(&mut self, group: &Group) {
        if group.state().voided.count_of(&self.id) > 0 {
            self.errand = Some(Errand::Voided);
        }
    }
}

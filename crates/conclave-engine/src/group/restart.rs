//! Founding a group anew, where an ordered commit broke the rules and honest members can only refuse it: another id, the same policy,
//! documents and verified members. The new group's directory names the old group.

use conclave_crdt::CrdtKind;
use conclave_doc::Document;
use conclave_proto::hash::labelled;
use conclave_proto::{Role, policy::GroupPolicy};

use super::*;
use crate::command::Reply;
use crate::document::Doc;
use crate::intents::Want;

/// The copy of a document in the group that is founded anew: always the same, so that nothing is carried over twice.
fn copy_of(new: &GroupId, document: &DocumentId) -> DocumentId {
    let hash = labelled(
        "conclave 1.0 carried document",
        &[new.as_bytes(), document.as_bytes()],
    );
    let mut id = DocumentId::ZERO;
    for (to, from) in id.0.iter_mut().zip(hash.0) {
        *to = from;
    }
    id
}

impl Engine {
    pub(super) fn restart_group(&mut self, id: CommandId, group: GroupId) {
        self.after_directory(
            group,
            id,
            Box::new(move |engine, group| {
                if let Err(error) = engine.begin_restart(id, group) {
                    engine.reply(id, Err(error));
                }
            }),
        );
    }

    fn begin_restart(&mut self, id: CommandId, group: &mut Group) -> Result<(), EngineError> {
        let state = group.state();
        if state.role_of(&self.device.id()) < Some(Role::Admin) {
            return Err(EngineError::Forbidden);
        }
        let name = group.directory.name.clone().unwrap_or_default();
        let own = self.device.user();
        let users: BTreeSet<UserId> = state
            .current_rows()
            .map(|row| row.user)
            .filter(|user| Some(*user) != own)
            .collect();
        let roles: BTreeMap<UserId, Role> = users
            .iter()
            .map(|user| (*user, state.policy.role(user)))
            .collect();
        let policy = GroupPolicy {
            roles: Vec::new(),
            ..state.policy.clone()
        };
        let new = self.create_group(&name, policy)?;
        self.name_parent(new, group.id);
        for user in users {
            if self.device.pins().get(&user).is_some() {
                let role = roles.get(&user).copied();
                self.with_group(
                    new,
                    Box::new(move |engine, group| {
                        engine.intend(group, Want::Invite { user, role });
                    }),
                );
            } else {
                self.finding(group.id, None, FindingKind::NotInvitedAgain, None);
            }
        }
        let old = group.id;
        self.with_group(
            new,
            Box::new(move |engine, group| {
                group.meta.carry_from = Some(old);
                engine.save_meta(group);
            }),
        );
        self.carry_documents(group, new);
        self.reply(id, Ok(Reply::Group(new)));
        Ok(())
    }

    /// What a group founded anew still lacks is carried over: at once, and after a restart.
    pub(super) fn go_on_carrying(&mut self, group: &Group) {
        if let Some(old) = group.meta.carry_from {
            let new = group.id;
            self.with_group(
                old,
                Box::new(move |engine, group| engine.carry_documents(group, new)),
            );
        }
    }

    fn carry_documents(&mut self, group: &mut Group, new: GroupId) {
        let directory = DocumentId::directory(&group.id);
        let state = group.state();
        let open = state.documents.iter();
        let open = open.filter(|(id, entry)| **id != directory && entry.closed.is_none());
        let documents: Vec<DocumentId> = open.map(|(id, _)| *id).collect();
        let copies: BTreeSet<DocumentId> = documents.iter().map(|id| copy_of(&new, id)).collect();
        self.with_group(
            new,
            Box::new(move |engine, group| engine.carried(group, &copies)),
        );
        for document in documents {
            let here = group.documents.get(&document).is_some_and(|row| row.local);
            if !here || group.unreadable.contains(&document) {
                self.finding(group.id, Some(document), FindingKind::NotCarriedOver, None);
                continue;
            }
            let title = group.directory.titles.get(&document).cloned();
            self.with_document_in(
                group,
                document,
                None,
                Box::new(move |engine, group, doc| engine.carry_over(group, doc, new, title)),
            );
        }
    }

    /// When all copies are there, nothing is left to carry.
    fn carried(&mut self, group: &mut Group, copies: &BTreeSet<DocumentId>) {
        let there = |id: &DocumentId| group.documents.contains_key(id);
        if group.meta.carry_from.is_some() && copies.iter().all(there) {
            group.meta.carry_from = None;
            self.save_meta(group);
        }
    }

    fn carry_over(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        new: GroupId,
        title: Option<String>,
    ) {
        if !doc.document.set_aside_records().is_empty() {
            let what = FindingKind::AsideNotCarriedOver;
            self.finding(group.id, Some(doc.id), what, None);
        }
        let context = group.doc_context(&self.device, self.now);
        match doc.document.founding(&context) {
            Ok(founding) => {
                let document = copy_of(&new, &doc.id);
                let old = About::Document(group.id, doc.id);
                self.with_group(
                    new,
                    Box::new(move |engine, group| {
                        if group.documents.contains_key(&document) {
                            return;
                        }
                        let context = group.doc_context(&engine.device, engine.now);
                        let kind: CrdtKind = founding.kind();
                        let instance = engine.device.instance();
                        let made = Document::refound(
                            &context,
                            group.id,
                            document,
                            founding,
                            instance,
                            &mut engine.rng,
                        );
                        match made {
                            Ok((made, _)) => {
                                engine.add_document(group, made, kind, title);
                                for about in [old, About::Document(group.id, document)] {
                                    engine.ended(about, End::Carried);
                                }
                            }
                            Err(error) => {
                                let what = FindingKind::failed(Step::CarryOver, &error);
                                engine.finding(group.id, Some(document), what, None);
                            }
                        }
                    }),
                );
            }
            Err(error) => {
                let what = FindingKind::failed(Step::CarryOver, &error);
                self.finding(group.id, Some(doc.id), what, None);
            }
        }
    }
}

//! Founding a group anew, where an ordered commit broke the rules and honest members can only refuse it: another id, the same policy,
//! documents and verified members. The new group's directory names the old group.

use conclave_crdt::CrdtKind;
use conclave_doc::Document;
use conclave_proto::{Role, policy::GroupPolicy};

use super::*;
use crate::command::Reply;
use crate::document::Doc;
use crate::intents::Want;

/// What is still to be carried over.
struct Move {
    command: CommandId,
    old: GroupId,
    new: GroupId,
    documents: Vec<(DocumentId, Option<String>)>,
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
        let directory = DocumentId::directory(&group.id);
        let mut documents: Vec<(DocumentId, Option<String>)> = Vec::new();
        for (document, entry) in &state.documents {
            let here = group.documents.get(document).is_some_and(|row| row.local)
                && !group.unreadable.contains(document);
            if *document == directory || entry.closed.is_some() {
                continue;
            }
            if here {
                let title = group.directory.titles.get(document).cloned();
                documents.push((*document, title));
            } else {
                self.finding(
                    group.id,
                    Some(*document),
                    "document.not_carried_over",
                    None,
                    "this document is not on this device and is not carried over into the new group",
                );
            }
        }
        let new = self.create_group(&name, policy)?;
        self.name_parent(new, group.id);
        for user in users {
            if self.device.pins().get(&user).is_some() {
                let role = roles.get(&user).copied();
                self.with_group(
                    new,
                    Box::new(move |engine, group| {
                        engine.intend(group, Want::Invite { user, role }, None);
                    }),
                );
            } else {
                self.finding(
                    group.id,
                    None,
                    "group.not_invited_again",
                    None,
                    "a member is not verified here and has to be invited to the new group by somebody else",
                );
            }
        }
        let work = Move {
            command: id,
            old: group.id,
            new,
            documents,
        };
        self.with_group(
            group.id,
            Box::new(move |engine, group| engine.move_next(group, work)),
        );
        Ok(())
    }

    /// Carries over one document after another; answers when all are there.
    fn move_next(&mut self, group: &mut Group, mut work: Move) {
        let Some((document, title)) = work.documents.pop() else {
            return self.reply(work.command, Ok(Reply::Group(work.new)));
        };
        let command = work.command;
        self.with_document_in(
            group,
            document,
            Some(command),
            Box::new(move |engine, group, doc| {
                engine.carry_over(group, doc, work.new, title);
                engine.with_group_for(
                    work.old,
                    Job {
                        waiter: Some(command),
                        work: Box::new(move |engine, group| engine.move_next(group, work)),
                    },
                );
            }),
        );
    }

    fn carry_over(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        new: GroupId,
        title: Option<String>,
    ) {
        let context = group.doc_context(&self.device, self.now);
        match doc.document.founding(&context) {
            Ok(founding) => {
                let document = DocumentId(self.random16());
                self.with_group(
                    new,
                    Box::new(move |engine, group| {
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
                            Ok((made, _)) => engine.add_document(group, made, kind, title),
                            Err(error) => {
                                let text = error.to_string();
                                engine.finding(group.id, Some(document), error.code(), None, &text);
                            }
                        }
                    }),
                );
            }
            Err(error) => {
                let text = error.to_string();
                self.finding(group.id, Some(doc.id), error.code(), None, &text);
            }
        }
    }
}

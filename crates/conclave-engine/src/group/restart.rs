//! Founding a group anew, where an ordered commit broke the rules and honest members can only refuse it: another id, the same policy,
//! documents and verified members. The new group's directory names the old group.

use conclave_crdt::CrdtKind;
use conclave_doc::{Document, Founding, Sealer};
use conclave_proto::{Role, policy::GroupPolicy};

use super::*;
use crate::command::Reply;
use crate::document::Doc;
use crate::intents::Want;
use crate::print::Hidden;

/// What a group is founded anew with.
#[derive(Debug)]
pub(crate) struct Refound {
    command: CommandId,
    /// The group in whose place it is founded.
    old: GroupId,
    name: Hidden<String>,
    policy: GroupPolicy,
    /// Members who are invited again.
    members: Vec<(UserId, Role)>,
}

/// A document that is carried over.
#[derive(Debug)]
pub(crate) struct Copied {
    document: DocumentId,
    /// Where it comes from.
    old: About,
    founding: Founding,
    title: Hidden<Option<String>>,
}

impl Cx {
    pub(crate) fn begin_restart(&mut self, command: CommandId, group: &mut Group) {
        let state = group.state();
        if state.role_of(&self.device.id()) < Some(Role::Admin) {
            return self.reply(command, Err(EngineError::Forbidden));
        }
        let own = self.device.user();
        let users: BTreeSet<UserId> = state
            .current_rows()
            .map(|row| row.user)
            .filter(|user| Some(*user) != own)
            .collect();
        let members = users.into_iter();
        let policy = &state.policy;
        self.post(Post::Refound(Box::new(Refound {
            command,
            old: group.id,
            name: Hidden(group.directory.name.clone().unwrap_or_default()),
            policy: GroupPolicy {
                roles: Vec::new(),
                ..policy.clone()
            },
            members: members.map(|user| (user, policy.role(&user))).collect(),
        })));
    }

    /// What a group founded anew still lacks is carried over: at once, and after a restart.
    pub(super) fn go_on_carrying(&mut self, group: &Group) {
        if let Some(old) = group.meta.carry_from {
            self.post_group(old, GroupWork::CarryTo(group.id));
        }
    }

    pub(crate) fn carry_from(&mut self, group: &mut Group, old: GroupId) {
        group.meta.carry_from = Some(old);
        self.save_meta(group);
        self.go_on_carrying(group);
    }

    pub(crate) fn carry_documents(&mut self, whole: &mut Whole, new: GroupId) {
        whole.read_titles();
        let Whole { group, docs } = whole;
        let directory = DocumentId::directory(&group.id);
        let state = group.state();
        let open = state.documents.iter();
        let open = open.filter(|(id, entry)| **id != directory && entry.closed.is_none());
        let documents: Vec<DocumentId> = open.map(|(id, _)| *id).collect();
        let copies = documents
            .iter()
            .map(|id| DocumentId::carried(&new, id))
            .collect();
        self.post_group(new, GroupWork::CarryCopies(copies));
        for document in documents {
            if !group.is_local(&document) || docs.is_unreadable(&document) {
                self.finding(group.id, Some(document), FindingKind::NotCarriedOver, None);
                continue;
            }
            let title = Hidden(group.directory.titles.get(&document).cloned());
            let work = DocWork::CarryOver { new, title };
            self.post_document(group.id, document, work);
        }
    }

    /// When all copies are there, nothing is left to carry.
    pub(crate) fn carried(&mut self, group: &mut Group, copies: &[DocumentId]) {
        let there = |id: &DocumentId| group.documents.contains_key(id);
        if group.meta.carry_from.is_some() && copies.iter().all(there) {
            group.meta.carry_from = None;
            self.save_meta(group);
        }
    }

    pub(crate) fn carry_over(
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
        let context = group.doc_context(&self.device);
        match doc.document.founding(&context) {
            Ok(founding) => {
                let copy = Box::new(Copied {
                    document: DocumentId::carried(&new, &doc.id),
                    old: About::Document(group.id, doc.id),
                    founding,
                    title: Hidden(title),
                });
                self.post_group(new, GroupWork::TakeCopy(copy));
            }
            Err(error) => {
                let what = FindingKind::failed(Step::CarryOver, &error);
                self.finding(group.id, Some(doc.id), what, None);
            }
        }
    }

    pub(crate) fn take_copy(&mut self, whole: &mut Whole, copy: Copied) {
        let Copied {
            document,
            old,
            founding,
            title,
        } = copy;
        let group = &whole.group;
        if group.documents.contains_key(&document) {
            return;
        }
        let context = group.doc_context(&self.device);
        let kind: CrdtKind = founding.kind();
        let instance = self.device.instance();
        let id = group.id;
        let sealer = Sealer {
            key: self.device.key(),
            rng: &mut self.rng,
        };
        match Document::refound(&context, id, document, founding, instance, sealer) {
            Ok((made, _)) => {
                if let About::Document(group, from) = old {
                    // Drafts are in it: they go when they may.
                    self.copy_pause((group, from), (id, document));
                }
                self.add_document(whole, made, kind, title.0);
                for about in [old, About::Document(id, document)] {
                    self.ended(about, End::Carried);
                }
            }
            Err(error) => {
                let what = FindingKind::failed(Step::CarryOver, &error);
                self.finding(id, Some(document), what, None);
            }
        }
    }
}

impl Engine {
    pub(crate) fn refound(&mut self, what: Refound) {
        let old = what.old;
        let trust = what.policy.trust.clone();
        let new = match self.create_group(&what.name.0, what.policy) {
            Ok(new) => new,
            Err(error) => return self.cx.reply(what.command, Err(error)),
        };
        let directory = DocumentId::directory(&new);
        self.with_document(new, directory, DocWork::NameParent(old));
        for (user, role) in what.members {
            if self.cx.device.pins().admits(&user, &trust).is_ok() {
                let role = Some(role);
                self.with_group(new, GroupWork::Intend(Want::Invite { user, role }));
            } else {
                self.cx
                    .finding(old, None, FindingKind::NotInvitedAgain, None);
            }
        }
        self.with_group(new, GroupWork::CarryFrom(old));
        self.cx.reply(what.command, Ok(Reply::Group(new)));
    }
}

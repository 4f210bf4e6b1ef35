//! Commands about this device, and about one group, when it is in memory.

use conclave_identity::DeviceRequest;

use super::*;
use crate::command::{LastInfo, RequestInfo};
use crate::document::Spans;

/// How a request is shown.
pub(crate) fn request_info(request: &DeviceRequest) -> RequestInfo {
    RequestInfo {
        text: request.to_text(),
        code: request.code(),
    }
}

impl Cx {
    /// Answers commands that can no longer be carried out.
    pub(crate) fn reply_all(
        &mut self,
        waiters: impl IntoIterator<Item = CommandId>,
        error: &EngineError,
    ) {
        for waiter in waiters {
            match self.listing.remove(&waiter) {
                Some(what) => self.post(Post::List(waiter, what)),
                None => self.reply(waiter, Err(error.clone())),
            }
        }
    }

    /// At start, where the device waits to be approved.
    pub(crate) fn ready_to_receive(&mut self) {
        if self.device.be_ready_to_receive(&mut self.rng) {
            self.device.save(&mut self.out.writes);
        }
    }

    pub(super) fn request_device(&mut self, id: CommandId) {
        let result = match self.device.credential() {
            Some(_) => Err(EngineError::AlreadyEnrolled),
            None => self.device.request(),
        };
        self.reply(
            id,
            result.map(|request| Reply::Request(request_info(&request))),
        );
    }

    pub(super) fn approve_device(&mut self, id: CommandId, approval: &Approval) {
        let now = self.latest();
        let result = self.device.approve_text(approval, now, &mut self.rng);
        if let Ok((device, _)) = &result {
            self.forget_revocation(device);
            self.device.save(&mut self.out.writes);
            self.publish_list();
        }
        let result = result.map(|(_, text)| Reply::Text(text));
        self.reply(id, result);
    }

    pub(super) fn rename_device(&mut self, id: CommandId, device: DeviceId, name: &str) {
        let result = self.device.rename_device(device, name);
        if result.is_ok() {
            self.device.save(&mut self.out.writes);
        }
        let result = result.map(|info| Reply::Devices(vec![info]));
        self.reply(id, result);
    }

    pub(super) fn finish_device(&mut self, id: CommandId, approval: &str) {
        let result = self
            .device
            .finish_text(approval, self.now)
            .map(|()| Reply::Done);
        if result.is_ok() {
            self.device.save(&mut self.out.writes);
            self.say_hello();
        }
        self.reply(id, result);
    }

    pub(crate) fn remove(&mut self, id: CommandId, group: &mut Group, user: UserId, anyway: bool) {
        let going: BTreeSet<DeviceId> = Self::devices_of(group, user).into_iter().collect();
        if !anyway && let Err(error) = group.check_holders(&going, &self.device.id()) {
            return self.reply(id, Err(error));
        }
        let member = group.state().current_rows().any(|row| row.user == user);
        if Some(user) == self.device.user() {
            self.intend_waited(group, Want::Leave, id);
        } else if member {
            self.intend_waited(group, Want::Remove { user }, id);
        } else if self.uninvite(group, user) {
            self.reply(id, Ok(Reply::Done));
        } else {
            self.reply(id, Err(EngineError::UnknownMember));
        }
    }

    pub(crate) fn rename(
        &mut self,
        whole: &mut Whole,
        id: CommandId,
        document: DocumentId,
        title: String,
    ) {
        let group = &whole.group;
        let listed = group.state().documents.contains_key(&document)
            || group.documents.contains_key(&document);
        if listed {
            let directory = DocumentId::directory(&group.id);
            let what = DocCommand::Title(document, title);
            self.document_work(whole, directory, DocWork::Command(id, what));
        } else {
            self.reply(id, Err(EngineError::UnknownDocument));
        }
    }

    /// Whether a user's safety number was compared here. The own user is who it is.
    pub(crate) fn is_verified(&self, user: &UserId) -> bool {
        let pin = self.device.pins().get(user);
        Some(*user) == self.device.user() || pin.is_some_and(|pin| pin.verified)
    }

    pub(crate) fn members(&self, group: &Group) -> Vec<MemberInfo> {
        let mut users: BTreeMap<UserId, Vec<DeviceId>> = BTreeMap::new();
        for row in group.state().current_rows() {
            users.entry(row.user).or_default().push(row.device);
        }
        let policy = &group.state().policy;
        users
            .into_iter()
            .map(|(user, devices)| {
                let this = Some(user) == self.device.user();
                MemberInfo {
                    user,
                    name: self.name_of(&user),
                    role: policy.role(&user),
                    devices,
                    verified: self.is_verified(&user),
                    this,
                }
            })
            .collect()
    }

    /// Tells of a group in a list of all, which goes on.
    pub(crate) fn list_group(&mut self, group: &Group, id: CommandId) {
        let info = self.group_info(group);
        if let Some(Listing::Groups { done, .. }) = self.listing.get_mut(&id) {
            done.push(info);
            self.post(Post::ListNext(id));
        }
    }

    fn group_info(&self, group: &Group) -> GroupInfo {
        let state = group.state();
        let own = self.device.id();
        let directory = DocumentId::directory(&group.id);
        let listed = state.documents.get(&directory);
        let known = listed
            .is_some_and(|entry| entry.closed.is_none_or(|why| why == CloseReason::Archived))
            || group.documents.contains_key(&directory);
        let users: BTreeSet<UserId> = state.current_rows().map(|row| row.user).collect();
        GroupInfo {
            group: group.id,
            name: group.directory.name.clone(),
            parent: group.directory.parent,
            epoch: state.epoch,
            devices: state.current_rows().count(),
            users: users.len(),
            active: true,
            frozen: group.frozen().map(ToOwned::to_owned),
            returning: group.broken().map(ToOwned::to_owned),
            unproven: group.is_unproven(),
            code: group_code(&group.mls.epoch_authenticator()),
            rotating_since: (state.rotating_since != 0).then_some(state.rotating_since),
            leaving: state.pending.iter().any(|pending| pending.device == own),
            away: group.stand.is_away(),
            listens: self.pulses.of(&group.id).map(|(since, _)| since),
            heard: self.pulses.of(&group.id).and_then(|(_, heard)| heard),
            nameless: group.directory.unreadable || !known && group.caught_up(),
        }
    }

    /// What is known of all documents of a group, or of one alone.
    pub(crate) fn document_infos(
        &self,
        group: &Group,
        only: Option<DocumentId>,
    ) -> Vec<DocumentInfo> {
        let shows_writers = self.check_attribution(group).is_ok();
        let spans = Spans::of(group);
        let info = |id| self.document_info(group, id, &spans, shows_writers);
        if let Some(only) = only {
            return group.lists(&only).then(|| info(only)).into_iter().collect();
        }
        let mut ids: BTreeSet<DocumentId> = group.state().documents.keys().copied().collect();
        ids.extend(group.documents.keys());
        ids.remove(&DocumentId::directory(&group.id));
        ids.into_iter().map(info).collect()
    }

    fn document_info(
        &self,
        group: &Group,
        id: DocumentId,
        spans: &Spans,
        shows_writers: bool,
    ) -> DocumentInfo {
        let listed = group.state().documents.get(&id);
        let row = group.documents.get(&id);
        let edits = self.unsent.get(&group.id, &id).edits;
        DocumentInfo {
            document: id,
            title: row
                .and_then(DocRow::title)
                .or_else(|| group.directory.titles.get(&id).cloned()),
            kind: group.kind_of(&id),
            closed: listed.and_then(|entry| entry.closed),
            size: row.filter(|row| row.is_local()).map(|row| row.size),
            pending: usize::try_from(edits).unwrap_or(usize::MAX),
            pause: self.pause_info(group.id, id),
            basis: row
                .and_then(DocRow::basis)
                .map(|basis| self.basis_info(&basis)),
            stuck: row
                .and_then(|row| row.stuck.as_ref())
                .map(|stuck| self.stuck_info(group, stuck)),
            last: row
                .and_then(|row| row.last.as_ref())
                .filter(|_| shows_writers)
                .map(|last| LastInfo {
                    by: self.writer_info(group, spans, &last.writer()),
                    received: last.received,
                }),
        }
    }
}

impl Group {
    /// Whether it lists a document, beside its directory.
    pub(crate) fn lists(&self, id: &DocumentId) -> bool {
        let known = self.state().documents.contains_key(id) || self.documents.contains_key(id);
        known && *id != DocumentId::directory(&self.id)
    }

    /// A document's kind, by its name.
    pub(crate) fn kind_of(&self, id: &DocumentId) -> String {
        let listed = self.state().documents.get(id).map(|entry| entry.crdt);
        let crdt = listed.or_else(|| self.documents.get(id).map(|row| row.crdt));
        let kind = crdt.and_then(CrdtKind::from_code);
        kind.map_or_else(|| "unknown".to_owned(), |kind| kind.to_string())
    }
}

//! Commands of the application.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::CrdtKind;
use conclave_identity::group_code;
use conclave_mls::ClientGroup;
use conclave_proto::policy::GroupPolicy;
use conclave_proto::record::CloseReason;
use conclave_proto::{DeviceId, DocumentId, GroupId, UserId};

use crate::command::{AwaitedInfo, Command, DocumentInfo, GroupInfo, MemberInfo, Reply, Status};
use crate::document::{Beginning, Doc};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::finding::{FindingKind, Step};
use crate::group::{Group, GroupWork};
use crate::intents::{Intent, Want};
use crate::io::{CommandId, DocFn};
use crate::settled::Until;
use crate::slot::{Job, Slot};

/// What a command that looks into every group answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    /// The groups.
    Groups,
    /// The documents of one group.
    Documents(GroupId),
}

impl Engine {
    pub(crate) fn command(&mut self, id: CommandId, command: Command) {
        match command {
            Command::WhoAmI => {
                let reply = Reply::WhoAmI(self.device.whoami());
                self.reply(id, Ok(reply));
            }
            Command::DeviceRequest => {
                let result = if self.device.credential().is_some() {
                    Err(EngineError::AlreadyEnrolled)
                } else {
                    self.device
                        .request()
                        .map(|request| Reply::Text(request.to_text()))
                };
                self.reply(id, result);
            }
            Command::ApproveDevice { request } => self.approve_device(id, &request),
            Command::FinishDevice { approval } => self.finish_device(id, &approval),
            Command::Devices => {
                let reply = Reply::Devices(self.device.devices());
                self.reply(id, Ok(reply));
            }
            Command::Pin { contact, verified } => {
                let result = self
                    .device
                    .pin(&contact, verified, self.now)
                    .map(Reply::Pinned);
                self.device.save(&mut self.out.writes);
                self.plan_invitations();
                self.reply(id, result);
            }
            Command::Pins => {
                let reply = Reply::Pins(self.device.pin_infos());
                self.reply(id, Ok(reply));
            }
            Command::SafetyNumber { user } => {
                let number = self.device.safety_number(&user);
                self.reply(
                    id,
                    number.map(Reply::Text).ok_or(EngineError::UnknownMember),
                );
            }
            Command::CreateGroup { name, policy } => {
                let result = self.create_group(&name, *policy).map(Reply::Group);
                self.reply(id, result);
            }
            Command::Groups => self.look_into_groups(id, Listing::Groups),
            Command::Invitations => {
                let reply = Reply::Invitations(self.invitation_infos());
                self.reply(id, Ok(reply));
            }
            Command::Accept { group } => self.accept(id, group),
            Command::Decline { group } => self.decline(id, group),
            Command::Rescues
            | Command::Rescue { .. }
            | Command::ApplyRescue { .. }
            | Command::DiscardRescue { .. }
            | Command::RescuesTold { .. } => self.rescue_command(id, command),
            Command::Findings { group, dismissed } => self.list_findings(id, group, dismissed),
            Command::MarkFindings { ids, mark } => self.mark_findings(id, ids, mark),
            Command::Status => self.wait_until(id, Until::Loaded),
            Command::Invitable => self.wait_until(id, Until::Invitable),
            Command::Settled => self.wait_until(id, Until::Settled),
            Command::Once { operation, command } => self.once(id, operation, *command),
            other => self.group_command(id, other),
        }
    }

    fn group_command(&mut self, id: CommandId, command: Command) {
        match command {
            Command::Members { group } => self.on_group(
                id,
                group,
                Box::new(move |engine, group| {
                    let members = engine.members(group);
                    engine.reply(id, Ok(Reply::Members(members)));
                }),
            ),
            Command::Policy { group } => self.on_group(
                id,
                group,
                Box::new(move |engine, group| {
                    let policy = Box::new(group.state().policy.clone());
                    engine.reply(id, Ok(Reply::Policy(policy)));
                }),
            ),
            Command::ChangePolicy { group, change } => {
                self.intend_for(id, group, Want::Policy(*change));
            }
            Command::Invite { group, user, role } => {
                if self.device.pins().get(&user).is_none() {
                    let error = EngineError::NotVerified(conclave_identity::Untrusted::NotPinned);
                    self.reply(id, Err(error));
                } else {
                    self.intend_for(id, group, Want::Invite { user, role });
                }
            }
            Command::Remove { group, user } => self.on_group(
                id,
                group,
                Box::new(move |engine, group| engine.remove(id, group, user, false)),
            ),
            Command::RemoveAnyway { group, user } => self.on_group(
                id,
                group,
                Box::new(move |engine, group| engine.remove(id, group, user, true)),
            ),
            Command::SetRole { group, user, role } => {
                self.intend_for(id, group, Want::Role { user, role });
            }
            Command::Leave { group } => self.leave(id, group, false),
            Command::LeaveAnyway { group } => self.leave(id, group, true),
            Command::Close {
                group,
                document,
                reason,
            } => {
                self.intend_for(id, group, Want::Close { document, reason });
            }
            Command::CreateDocument {
                group,
                kind,
                title,
                initial,
            } => {
                let beginning = initial.map_or(Beginning::Empty, Beginning::Edit);
                self.create_titled(id, group, kind, title, beginning);
            }
            Command::ImportDocument {
                group,
                kind,
                title,
                state,
            } => self.create_titled(id, group, kind, title, Beginning::State(state)),
            Command::Documents { group } => self.list_documents(id, group),
            Command::Rename {
                group,
                document,
                title,
            } => self.rename(id, group, document, title),
            Command::Edit { group, document, f } => {
                self.on_document(id, group, document, true, f);
            }
            Command::View { group, document, f } => {
                self.on_document(id, group, document, false, f);
            }
            Command::Synced { group, document } => self.wait_synced(id, group, document),
            other => self.repair_command(id, other),
        }
    }

    /// Answers the command when the group is not one of this device's.
    pub(crate) fn known(&mut self, id: CommandId, group: GroupId) -> bool {
        let error = match self.index.get(&group) {
            Some(_) if self.parting.get(&group).is_some_and(|parted| parted.full) => {
                EngineError::RescueFull
            }
            Some(row) if row.active => return true,
            Some(_) => EngineError::Inactive {
                why: "this device is no longer a member",
            },
            None => EngineError::UnknownGroup,
        };
        self.reply(id, Err(error));
        false
    }

    pub(crate) fn on_group(&mut self, id: CommandId, group: GroupId, work: GroupWork) {
        if self.known(id, group) {
            self.with_group_for(
                group,
                Job {
                    waiter: Some(id),
                    work,
                },
            );
        }
    }

    fn on_document(
        &mut self,
        id: CommandId,
        group: GroupId,
        document: DocumentId,
        edits: bool,
        f: DocFn,
    ) {
        if self.known(id, group) {
            self.run_doc_fn(id, group, document, edits, f);
        }
    }

    pub(crate) fn intend_for(&mut self, id: CommandId, group: GroupId, want: Want) {
        self.on_group(
            id,
            group,
            Box::new(move |engine, group| engine.intend_waited(group, want, id)),
        );
    }

    fn remove(&mut self, id: CommandId, group: &mut Group, user: UserId, anyway: bool) {
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

    fn approve_device(&mut self, id: CommandId, request: &str) {
        let result = self.device.approve_text(request, self.latest());
        if result.is_ok() {
            self.device.save(&mut self.out.writes);
            self.publish_list();
        }
        self.reply(id, result.map(Reply::Text));
    }

    fn finish_device(&mut self, id: CommandId, approval: &str) {
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

    pub(crate) fn create_group(
        &mut self,
        name: &str,
        policy: GroupPolicy,
    ) -> Result<GroupId, EngineError> {
        let id = GroupId(self.random16());
        let context = self.device.context()?;
        let (mls, created) = ClientGroup::create(&context, id, policy, self.now)?;
        let secrets = mls.epoch_secrets()?;
        let mut group = Group::new(id, mls);
        self.save_creation(&mut group, created.group_info, created.tree);
        self.adopt_group(group, secrets);
        let name = name.to_owned();
        self.with_group(
            id,
            Box::new(move |engine, group| {
                if let Err(error) = engine.create_directory(group, &name) {
                    let what = FindingKind::failed(Step::MakeDirectory, &error);
                    engine.finding(group.id, None, what, None);
                }
                engine.match_own_devices(group);
            }),
        );
        Ok(id)
    }

    fn create_titled(
        &mut self,
        id: CommandId,
        group: GroupId,
        kind: CrdtKind,
        title: String,
        beginning: Beginning,
    ) {
        let document = DocumentId(self.random16());
        self.on_group(
            id,
            group,
            Box::new(move |engine, group| {
                let result = engine.create_document(group, document, kind, beginning);
                if result.is_ok() {
                    if let Some(row) = group.documents.get_mut(&document) {
                        row.title = Some(title);
                    }
                    engine.save_document_row(group, &document);
                    engine.pump_titles(group);
                }
                engine.reply(id, result.map(|()| Reply::Document(document)));
            }),
        );
    }

    fn rename(&mut self, id: CommandId, group: GroupId, document: DocumentId, title: String) {
        self.on_group(
            id,
            group,
            Box::new(move |engine, group| {
                let listed = group.state().documents.contains_key(&document)
                    || group.documents.contains_key(&document);
                if listed {
                    engine.set_title(id, group, document, &title);
                } else {
                    engine.reply(id, Err(EngineError::UnknownDocument));
                }
            }),
        );
    }

    fn members(&self, group: &Group) -> Vec<MemberInfo> {
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
                    verified: this
                        || self
                            .device
                            .pins()
                            .get(&user)
                            .is_some_and(|pin| pin.verified),
                    this,
                }
            })
            .collect()
    }

    /// Answers when every group that it is about is in memory and has looked into its directory.
    pub(crate) fn look_into_groups(&mut self, id: CommandId, what: Listing) {
        let ids: Vec<GroupId> = self.index.keys().copied().collect();
        self.listing.insert(id, what);
        match what {
            Listing::Groups => self.list_next_group(id, ids, Vec::new()),
            Listing::Documents(group) => self.list_documents(id, group),
        }
    }

    fn list_next_group(&mut self, id: CommandId, mut rest: Vec<GroupId>, mut done: Vec<GroupInfo>) {
        let Some(group) = rest.pop() else {
            done.reverse();
            self.listing.remove(&id);
            self.reply(id, Ok(Reply::Groups(done)));
            return;
        };
        match self.index.get(&group) {
            Some(row)
                if row.active
                    && !self.strays.contains_key(&group)
                    && !self.parting.contains_key(&group) =>
            {
                self.after_directory(
                    group,
                    id,
                    Box::new(move |engine, group| {
                        done.push(engine.group_info(group));
                        engine.list_next_group(id, rest, done);
                    }),
                );
            }
            row => {
                let parted = self.parting.get(&group);
                let why = parted.map(|parted| parted.why.clone());
                let why = why.or_else(|| row.and_then(|row| row.why.clone()));
                let lost = parted.is_none() && self.strays.contains_key(&group);
                done.push(GroupInfo {
                    group,
                    name: None,
                    parent: None,
                    epoch: 0,
                    devices: 0,
                    users: 0,
                    active: false,
                    frozen: why,
                    returning: lost.then(|| "group.state_lost".to_owned()),
                    unproven: false,
                    code: String::new(),
                    rotating_since: None,
                    leaving: false,
                    nameless: false,
                    away: false,
                });
                self.list_next_group(id, rest, done);
            }
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
            nameless: group.unreadable.contains(&directory) || !known && group.caught_up(),
        }
    }

    pub(crate) fn list_documents(&mut self, id: CommandId, group: GroupId) {
        if !self.known(id, group) {
            return;
        }
        self.listing.insert(id, Listing::Documents(group));
        self.after_directory(
            group,
            id,
            Box::new(move |engine, group| {
                engine.listing.remove(&id);
                let documents = engine.document_infos(group);
                engine.reply(id, Ok(Reply::Documents(documents)));
            }),
        );
    }

    /// The directory cannot be read: its group's documents are listed all the same.
    pub(crate) fn list_untitled(&mut self, id: CommandId, group: GroupId) {
        self.on_group(
            id,
            group,
            Box::new(move |engine, group| {
                let documents = engine.document_infos(group);
                engine.reply(id, Ok(Reply::Documents(documents)));
            }),
        );
    }

    fn document_infos(&self, group: &Group) -> Vec<DocumentInfo> {
        let directory = DocumentId::directory(&group.id);
        let state = group.state();
        let mut ids: BTreeSet<DocumentId> = state.documents.keys().copied().collect();
        ids.extend(group.documents.keys());
        ids.remove(&directory);
        ids.into_iter()
            .map(|id| {
                let hot: Option<&Doc> = self.documents.get(&(group.id, id)).and_then(Slot::hot);
                let listed = state.documents.get(&id);
                let row = group.documents.get(&id);
                let kind = listed
                    .map(|entry| entry.crdt)
                    .or_else(|| row.map(|row| row.crdt))
                    .and_then(CrdtKind::from_code);
                DocumentInfo {
                    document: id,
                    title: row
                        .and_then(|row| row.title.clone())
                        .or_else(|| group.directory.titles.get(&id).cloned()),
                    kind: kind.map_or_else(|| "unknown".to_owned(), |kind| kind.to_string()),
                    closed: listed.and_then(|entry| entry.closed),
                    size: hot
                        .map(|doc| doc.document.size())
                        .or_else(|| row.map(|row| row.size)),
                    pending: usize::try_from(self.unsent.get(&group.id, &id).edits)
                        .unwrap_or(usize::MAX),
                }
            })
            .collect()
    }

    pub(crate) fn status(&self) -> Status {
        let (findings, newest) = self.open_findings();
        let groups = || self.groups.values().filter_map(|slot| slot.hot());
        let awaited = groups().flat_map(|group| {
            let users = group.intents.values().filter_map(Intent::awaited);
            users.map(|user| (group.id, user))
        });
        let new = self.unsent.documents();
        Status {
            online: self.link.online,
            refused: self.link.refused.as_ref().map(ToString::to_string),
            groups: self.index.values().filter(|row| row.active).count(),
            intents: groups().map(|group| group.intents.len()).sum(),
            pending: self.unsent.edits(),
            new_documents: new.filter(|(_, unsent)| unsent.creating).count(),
            key_packages: self.link.key_packages,
            findings,
            newest_finding: newest.map(Box::new),
            clock: self.clock(),
            invitable: self.link.is_invitable(),
            awaited: awaited
                .map(|(group, user)| AwaitedInfo {
                    group,
                    user,
                    name: self.name_of(&user),
                })
                .collect(),
            more_invitations: self.link.left_invitations.len(),
            under_way: self.under_way(),
        }
    }
}

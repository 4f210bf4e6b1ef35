//! Commands of the application.

mod group;

pub(crate) use self::group::request_info;

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::CrdtKind;
use conclave_identity::{AuthError, NameError, check_name, check_title, group_code};
use conclave_mls::ClientGroup;
use conclave_proto::policy::GroupPolicy;
use conclave_proto::record::CloseReason;
use conclave_proto::{DeviceId, DocumentId, GroupId, UserId};

use crate::command::{
    Approval, AwaitedInfo, Command, DocumentInfo, GroupInfo, MemberInfo, Reply, Status,
};
use crate::cx::{Cx, Post};
use crate::document::Beginning;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::finding::{FindingKind, Step};
use crate::group::{DocRow, Group, Whole};
use crate::intents::{Intent, Want};
use crate::io::CommandId;
use crate::membership::{Creation, GroupSlot, Membership};
use crate::print::Hidden;
use crate::settled::Until;
use crate::unsent::AllUnsent;
use crate::work::{DirectoryCommand, DocCommand, DocWork, GroupCommand, GroupWork};

/// What a command that looks into every group answers.
#[derive(Clone)]
pub(crate) enum Listing {
    /// The groups: those still to be looked into, and what the others are.
    Groups {
        rest: Vec<GroupId>,
        done: Vec<GroupInfo>,
    },
    /// The documents of one group.
    Documents(GroupId, Option<DocumentId>),
}

impl Engine {
    pub(crate) fn command(&mut self, id: CommandId, command: Command) {
        use GroupCommand as What;
        match command {
            Command::WhoAmI => {
                let reply = Reply::WhoAmI(self.cx.device.whoami());
                self.cx.reply(id, Ok(reply));
            }
            Command::DeviceRequest => self.cx.request_device(id),
            Command::ApproveDevice(approval) => self.cx.approve_device(id, &approval),
            Command::FinishDevice { approval } => self.cx.finish_device(id, &approval),
            Command::Devices => {
                let reply = Reply::Devices(self.cx.device.devices());
                self.cx.reply(id, Ok(reply));
            }
            Command::RenameDevice { device, name } => self.cx.rename_device(id, device, &name),
            Command::RevokeDevice { device } => self.revoke_device(id, device),
            Command::Revocations { due } => {
                let reply = Reply::Revocations(self.revocation_infos(None, due));
                self.cx.reply(id, Ok(reply));
            }
            Command::ConfirmDevice { device } => self.confirm_device(id, device),
            Command::Pin {
                contact,
                name,
                verified,
            } => self.pin(id, &contact, name, verified),
            Command::RenameContact { user, name } => {
                let renamed = self.cx.device.rename_pin(&user, name);
                self.pins_changed(id, renamed.map(Reply::Pinned));
            }
            Command::ForgetContact { user } => {
                let gone = self.cx.device.unpin(&user);
                self.pins_changed(id, gone.map(|()| Reply::Done));
            }
            Command::Pins => {
                let reply = Reply::Pins(self.cx.device.pin_infos());
                self.cx.reply(id, Ok(reply));
            }
            Command::SafetyNumber { user } => {
                let number = self.cx.device.safety_number(&user);
                let number = number.ok_or(EngineError::UnknownMember);
                self.cx.reply(id, number.map(Reply::Text));
            }
            Command::CreateGroup { name, policy } => {
                let checked = check_name(&name).map_err(name_error);
                let result = checked.and_then(|()| self.create_group(&name, *policy));
                let result = result.map(Reply::Group);
                self.cx.reply(id, result);
            }
            Command::Groups => self.list_groups(id),
            Command::Invitations => {
                let reply = Reply::Invitations(self.invitation_infos());
                self.cx.reply(id, Ok(reply));
            }
            Command::Accept { group } => self.accept(id, group),
            Command::Decline { group } => self.decline(id, group),
            Command::Rescues => self.cx.list_rescues(id),
            Command::KeepTyped {
                group,
                document,
                typed,
            } => self.keep_typed(id, group, document, typed),
            Command::Rescue { rescue } => self.cx.show_rescue(id, rescue),
            Command::ApplyRescue {
                rescue,
                group,
                document,
            } => {
                if self.known(id, group) {
                    self.cx.read_rescue_for(id, rescue, group, document);
                }
            }
            Command::DiscardRescue { rescue } => self.cx.discard_rescue(id, &rescue),
            Command::RescuesTold { rescues } => self.cx.rescues_told(id, rescues),
            Command::Proofs => self.cx.list_proofs(id),
            Command::Proof { evidence } => self.cx.show_proof(id, &evidence),
            Command::Findings { group, dismissed } => self.list_findings(id, group, dismissed),
            Command::MarkFindings { ids, mark } => self.mark_findings(id, ids, mark),
            Command::Status => self.wait_until(id, Until::Loaded),
            Command::TakeOver => self.take_over(id),
            Command::BecomeNew => self.become_new(id),
            Command::Invitable => self.wait_until(id, Until::Invitable),
            Command::Settled => self.wait_until(id, Until::Settled),
            Command::Once { operation, command } => self.once(id, operation, *command),
            Command::Members { group } => self.on_group(id, group, What::Members),
            Command::Policy { group } => self.on_group(id, group, What::Policy),
            Command::ChangePolicy { group, change } => {
                self.on_group(id, group, What::Intend(Want::Policy(*change)));
            }
            Command::Invite { group, user, role } => {
                let what = What::Intend(Want::Invite { user, role });
                self.on_verified(id, group, user, what);
            }
            Command::Remove { group, user } => {
                let anyway = false;
                self.on_group(id, group, What::Remove { user, anyway });
            }
            Command::RemoveAnyway { group, user } => {
                let anyway = true;
                self.on_group(id, group, What::Remove { user, anyway });
            }
            Command::SetRole { group, user, role } => {
                self.on_group(id, group, What::Intend(Want::Role { user, role }));
            }
            Command::Leave { group } => self.leave(id, group, false),
            Command::LeaveAnyway { group } => self.leave(id, group, true),
            Command::Close {
                group,
                document,
                reason,
            } => self.on_group(id, group, What::Intend(Want::Close { document, reason })),
            Command::Reopen { group, document } => {
                self.on_group(id, group, What::Intend(Want::Reopen { document }));
            }
            Command::CreateDocument {
                group,
                kind,
                title,
                initial,
            } => {
                let beginning = initial.map_or(Beginning::Empty, Beginning::Edit);
                self.create_document(id, group, kind, title, beginning);
            }
            Command::ImportDocument {
                group,
                kind,
                title,
                state,
            } => self.create_document(id, group, kind, title, Beginning::State(state)),
            Command::Documents { group } => self.list_documents(id, group, None),
            Command::Document { group, document } => {
                self.list_documents(id, group, Some(document));
            }
            Command::Rekeying { group } => self.on_group(id, group, GroupCommand::Rekeying),
            Command::Kind { group, document } => {
                self.on_group(id, group, GroupCommand::Kind(document));
            }
            Command::Rename {
                group,
                document,
                title,
            } => {
                if let Err(error) = check_title(&title) {
                    return self.cx.reply(id, Err(name_error(error)));
                }
                let title = Hidden(title);
                self.on_group(id, group, What::Rename { document, title });
            }
            Command::RenameGroup { group, name } => {
                if let Err(error) = check_name(&name) {
                    return self.cx.reply(id, Err(name_error(error)));
                }
                self.on_group(id, group, What::RenameGroup(Hidden(name)));
            }
            Command::Edit { group, document, f } => {
                self.on_document(id, group, document, DocCommand::Edit(f));
            }
            Command::View { group, document, f } => {
                self.on_document(id, group, document, DocCommand::View(f));
            }
            Command::Blame {
                group,
                document,
                view,
            } => self.on_document(id, group, document, DocCommand::Blame(view)),
            Command::Log {
                group,
                document,
                before,
                limit,
            } => self.on_document(id, group, document, DocCommand::Log(before, limit)),
            Command::Changed {
                group,
                document,
                first,
                last,
            } => self.on_document(id, group, document, DocCommand::Changed(first, last)),
            Command::Synced { group, document } => {
                self.on_document(id, group, document, DocCommand::Synced);
            }
            Command::Pause {
                document: Some((group, document)),
                change,
            } => self.on_group(id, group, What::Pause { document, change }),
            Command::Pause {
                document: None,
                change,
            } => self.pause_device(id, change),
            Command::ShowPresence {
                group,
                document,
                whose,
                showing,
            } => {
                let what = What::ShowPresence {
                    document,
                    whose,
                    showing,
                };
                self.on_group(id, group, what);
            }
            Command::WatchPresence {
                group,
                document,
                whose,
                watch,
            } => {
                let what = What::WatchPresence {
                    document,
                    whose,
                    watch,
                };
                self.on_group(id, group, what);
            }
            Command::AcceptService { key } => {
                let result = self.cx.accept_service(&key).map(|()| Reply::Done);
                self.cx.reply(id, result);
            }
            Command::ConfirmGroup { group } => self.on_group(id, group, What::Confirm),
            Command::Rejoin { group } => self.rejoin(id, group),
            Command::ReAdd {
                group,
                user,
                device,
            } if Some(user) == self.cx.device.user() => {
                self.on_group(id, group, What::ReAdd { user, device });
            }
            Command::ReAdd {
                group,
                user,
                device,
            } => self.on_verified(id, group, user, What::ReAdd { user, device }),
            Command::VoidRecords { group, document } => {
                self.on_document(id, group, document, DocCommand::Void);
            }
            Command::VoidRecord {
                group,
                document,
                seq,
            } => {
                if !self.known(id, group) {
                    return;
                }
                let stuck = self.on_whole(group, |cx, whole| {
                    cx.void_stuck(&mut whole.group, id, document, seq)
                });
                match stuck {
                    Some(None) => self.settle_later(group),
                    // Where it is not stuck here, the document tells which record that is.
                    _ => self.on_document(id, group, document, DocCommand::VoidRecord(seq)),
                }
            }
            Command::Record {
                group,
                document,
                seq,
            } => self.on_document(id, group, document, DocCommand::Record(seq)),
            Command::Restart { group } => {
                let what = What::WithDirectory(DirectoryCommand::Restart);
                self.with_group(group, GroupWork::Command(id, what));
            }
            Command::Evidence { group } => self.tell_evidence(id, group),
        }
    }

    /// Answers the command when the group is not one of this device's.
    pub(crate) fn known(&mut self, id: CommandId, group: GroupId) -> bool {
        let parted = self.cx.parting.get(&group);
        let error = match self.groups.get(&group).map(GroupSlot::membership) {
            Some(_) if parted.is_some_and(|parted| parted.full) => EngineError::RescueFull,
            Some(here) if here.is_active() => return true,
            Some(_) => EngineError::Inactive {
                why: "this device is no longer a member",
            },
            None => EngineError::UnknownGroup,
        };
        self.cx.reply(id, Err(error));
        false
    }

    pub(crate) fn on_group(&mut self, id: CommandId, group: GroupId, what: GroupCommand) {
        if self.known(id, group) {
            self.with_group(group, GroupWork::Command(id, what));
        }
    }

    /// As [`Self::on_group`], for what is done for a user who has to be a contact here. Whether that is enough the group's policy says.
    fn on_verified(&mut self, id: CommandId, group: GroupId, user: UserId, what: GroupCommand) {
        if self.cx.device.pins().get(&user).is_some() {
            return self.on_group(id, group, what);
        }
        let error = EngineError::NotVerified(conclave_identity::Untrusted::NotPinned);
        self.cx.reply(id, Err(error));
    }

    fn pin(&mut self, id: CommandId, contact: &str, name: Option<String>, verified: bool) {
        let now = self.cx.now;
        let result = self.cx.device.pin(contact, name, verified, now);
        self.pins_changed(id, result.map(Reply::Pinned));
    }

    fn pins_changed(&mut self, id: CommandId, result: Result<Reply, EngineError>) {
        self.cx.device.save(&mut self.cx.out.writes);
        self.plan_invitations();
        self.cx.reply(id, result);
    }

    fn on_document(
        &mut self,
        id: CommandId,
        group: GroupId,
        document: DocumentId,
        what: DocCommand,
    ) {
        if self.known(id, group) {
            self.with_document(group, document, DocWork::Command(id, what));
        }
    }

    fn create_document(
        &mut self,
        id: CommandId,
        group: GroupId,
        kind: CrdtKind,
        title: String,
        beginning: Beginning,
    ) {
        if let Err(error) = check_title(&title) {
            return self.cx.reply(id, Err(name_error(error)));
        }
        let document = DocumentId(self.cx.random16());
        let what = GroupCommand::Create {
            document,
            kind,
            title: Hidden(title),
            beginning,
        };
        self.on_group(id, group, what);
    }

    pub(crate) fn create_group(
        &mut self,
        name: &str,
        policy: GroupPolicy,
    ) -> Result<GroupId, EngineError> {
        let id = GroupId(self.cx.random16());
        let context = self.cx.device.context()?;
        let (mls, created) = ClientGroup::create(&context, id, policy, self.cx.now)?;
        let secrets = mls.epoch_secrets()?;
        let founding = Membership::Founding(Creation {
            group_info: created.group_info.into(),
            tree: created.tree.into(),
            founded: None,
        });
        let group = Group::new(id, mls, founding);
        self.adopt_group(group, secrets);
        self.on_whole(id, |cx, whole| {
            if let Err(error) = cx.create_directory(whole, name) {
                let what = FindingKind::failed(Step::MakeDirectory, &error);
                cx.finding(id, None, what, None);
            }
        });
        self.with_group(id, GroupWork::MatchDevices);
        Ok(id)
    }

    /// Lists all groups: each that can be is brought into memory, and its directory is looked into.
    fn list_groups(&mut self, id: CommandId) {
        let listing = Listing::Groups {
            rest: self.groups.keys().copied().collect(),
            done: Vec::new(),
        };
        self.cx.listing.insert(id, listing);
        self.list_next_group(id);
    }

    /// One of the groups went away, or its directory cannot be read: the others are told all the same.
    pub(crate) fn list_again(&mut self, id: CommandId, what: Listing) {
        match what {
            Listing::Groups { .. } => self.list_groups(id),
            Listing::Documents(group, only) => {
                self.on_group(id, group, GroupCommand::UntitledDocuments(only));
            }
        }
    }

    pub(crate) fn list_next_group(&mut self, id: CommandId) {
        while let Some(Listing::Groups { rest, done }) = self.cx.listing.get_mut(&id) {
            let Some(group) = rest.pop() else {
                let mut done = std::mem::take(done);
                done.reverse();
                self.cx.listing.remove(&id);
                return self.cx.reply(id, Ok(Reply::Groups(done)));
            };
            let parted = self.cx.parting.get(&group);
            let slot = self.groups.get(&group);
            let stray = matches!(slot, Some(GroupSlot::Stray(..)));
            let here = slot.map(GroupSlot::membership);
            let active = here.is_some_and(Membership::is_active);
            if active && !stray && parted.is_none() {
                let what = GroupCommand::WithDirectory(DirectoryCommand::Info);
                return self.with_group(group, GroupWork::Command(id, what));
            }
            let why = parted.map(|parted| parted.why.clone());
            let why = why.or_else(|| match here {
                Some(Membership::Left { why }) => Some(why.clone()),
                _ => None,
            });
            let lost = parted.is_none() && stray;
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
                listens: None,
                heard: None,
            });
        }
    }

    fn list_documents(&mut self, id: CommandId, group: GroupId, only: Option<DocumentId>) {
        if self.known(id, group) {
            self.cx.listing.insert(id, Listing::Documents(group, only));
            let what = GroupCommand::WithDirectory(DirectoryCommand::Documents(only));
            self.with_group(group, GroupWork::Command(id, what));
        }
    }

    pub(crate) fn status(&self) -> Status {
        let (findings, newest) = self.open_findings();
        let cx = &self.cx;
        let groups = || self.wholes().map(|whole| &whole.group);
        let awaited = groups().flat_map(|group| {
            let users = group.intents.values().filter_map(Intent::awaited);
            users.map(|user| (group.id, user))
        });
        let new = cx.unsent.documents();
        Status {
            online: cx.link.online,
            refused: cx.link.refused.as_ref().map(ToString::to_string),
            other_life: cx.device.life().elsewhere(),
            groups: self.active_groups().len(),
            intents: groups().map(|group| group.intents.len()).sum(),
            pending: cx.unsent.edits(),
            new_documents: new.filter(|(_, unsent)| unsent.creating).count(),
            key_packages: cx.link.key_packages,
            findings,
            newest_finding: newest.map(Box::new),
            clock: cx.clock(),
            invitable: cx.link.is_invitable(),
            awaited: awaited
                .map(|(group, user)| AwaitedInfo {
                    group,
                    user,
                    name: cx.name_of(&user),
                })
                .collect(),
            more_invitations: cx.link.left_invitations.len(),
            under_way: self.under_way(),
            revocations: self.open_revocations(),
            pause: cx.pauses.device(),
            paused_documents: cx.pauses.documents(),
            drafts: new_drafts(&cx.unsent),
        }
    }
}

/// How many edits rest here while sending is paused.
fn new_drafts(unsent: &AllUnsent) -> usize {
    let drafts = unsent.documents().map(|(_, unsent)| unsent.drafts);
    usize::try_from(drafts.sum::<u64>()).unwrap_or(usize::MAX)
}

/// What is to be a name, and is none.
fn name_error(error: NameError) -> EngineError {
    AuthError::from(error).into()
}

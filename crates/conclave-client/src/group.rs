//! A group as an application sees it.

use std::time::{Duration, Instant};

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_engine::{
    Command, DocFn, DocumentInfo, EvidenceInfo, GroupInfo, MemberInfo, PolicyChange, RecordInfo,
    RekeyingInfo, Reply,
};
use conclave_proto::record::CloseReason;
use conclave_proto::{DeviceId, DocumentId, GroupId, GroupPolicy, Role, UserId};

use crate::actor::Rotations;
use crate::client::{Client, answer};
use crate::document::{Adapter, Any, Document, Kind};
use crate::error::Error;
use crate::naming::meant;

/// A handle to a group of this device.
#[derive(Debug, Clone)]
pub struct Group {
    client: Client,
    id: GroupId,
}

/// What [`Group::remove`] reports when it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removal {
    /// Epoch that the removal began.
    pub epoch: u64,
    /// Documents that were re-keyed: all open ones.
    pub documents: usize,
    /// Documents that were not, because nobody could: an admin has closed them as lost since.
    pub lost: Vec<DocumentId>,
    /// Time from the call to the end.
    pub elapsed: Duration,
}

impl Group {
    pub(crate) fn new(client: Client, id: GroupId) -> Self {
        Self { client, id }
    }

    /// The group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// State of the group: name, epoch, members, comparison code.
    ///
    /// # Errors
    /// [`Error::NoGroup`].
    pub async fn info(&self) -> Result<GroupInfo, Error> {
        let groups = self.client.groups().await?;
        groups
            .into_iter()
            .find(|info| info.group == self.id)
            .ok_or(Error::NoGroup(self.id))
    }

    /// The group's name, once it has arrived.
    ///
    /// # Errors
    /// [`Error::NoGroup`].
    pub async fn name(&self) -> Result<Option<String>, Error> {
        Ok(self.info().await?.name)
    }

    /// Gives the group another name.
    ///
    /// # Errors
    /// [`Error::Engine`]: it is no name, or the role does not allow it.
    pub async fn rename(&self, name: &str) -> Result<(), Error> {
        let (group, name) = (self.id, name.to_owned());
        self.client
            .command_done(Command::RenameGroup { group, name })
            .await
    }

    /// Users in the group.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member.
    pub async fn members(&self) -> Result<Vec<MemberInfo>, Error> {
        answer!(self.client.command(Command::Members { group: self.id }).await, Reply::Members(members) => members)
    }

    /// Adds all devices of a known contact with the group's default role. Resolves when the addition is in the group log; while offline that
    /// waits.
    ///
    /// # Errors
    /// [`Error::Engine`]: the user is not a known contact, a member already, or has no device that can be added; the role does not allow it.
    pub async fn invite(&self, user: &UserId) -> Result<(), Error> {
        self.invite_as(user, None).await
    }

    /// Adds all devices of a known contact, with a role of their own.
    ///
    /// # Errors
    /// As [`Group::invite`].
    pub async fn invite_as(&self, user: &UserId, role: Option<Role>) -> Result<(), Error> {
        self.client
            .command_done(Command::Invite {
                group: self.id,
                user: *user,
                role,
            })
            .await
    }

    /// Removes all devices of a user and waits until every document of the group is re-keyed. From the moment in which the removal is in the
    /// group log, the service takes nothing that the removed devices could open. [`DeviceEvent::Rotation`](crate::DeviceEvent::Rotation) tells how far it
    /// is. Dropping the call, or closing the client, stops neither the removal nor the re-keying.
    ///
    /// # Errors
    /// [`Error::Engine`]: no such member, or the role does not allow it, or they hold the only keys of some documents
    /// (`engine.last_holder`); [`Error::GroupLost`].
    pub async fn remove(&self, user: &UserId) -> Result<Removal, Error> {
        self.remove_by(Command::Remove {
            group: self.id,
            user: *user,
        })
        .await
    }

    /// As [`Group::remove`], also where the devices that go hold the only keys of some documents.
    ///
    /// # Errors
    /// As [`Group::remove`].
    pub async fn remove_anyway(&self, user: &UserId) -> Result<Removal, Error> {
        self.remove_by(Command::RemoveAnyway {
            group: self.id,
            user: *user,
        })
        .await
    }

    async fn remove_by(&self, command: Command) -> Result<Removal, Error> {
        let began = Instant::now();
        let mut rotations = self.client.shared().rotations.subscribe();
        let read = |rotations: &mut Rotations| {
            let all = rotations.borrow_and_update();
            all.get(&self.id).copied().unwrap_or_default()
        };
        let losses = read(&mut rotations).losses;
        let epoch = match self.client.command(command).await? {
            Reply::Removed { epoch } => epoch,
            // Oneself: leaving is all there is to it, and re-keying is the business of those who stay.
            Reply::Done => {
                return Ok(Removal {
                    epoch: 0,
                    documents: 0,
                    lost: Vec::new(),
                    elapsed: began.elapsed(),
                });
            }
            _ => return Err(Error::UnexpectedAnswer),
        };
        // It may have been over before this process had the store.
        let before = self.rekeyed(epoch).await?;
        loop {
            let now = read(&mut rotations);
            let documents = match now.complete_epoch >= epoch {
                true => Some(now.documents),
                false => before,
            };
            if let Some(documents) = documents {
                return Ok(Removal {
                    epoch,
                    documents,
                    lost: self.rekeying().await?.lost,
                    elapsed: began.elapsed(),
                });
            }
            if now.losses > losses {
                return Err(Error::GroupLost);
            }
            if *self.client.shared().stopped.borrow() || rotations.changed().await.is_err() {
                return Err(self.client.shared().cause());
            }
        }
    }

    /// How far the documents are under keys that nobody has who was removed: how many of how many, and what stands in the way.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member.
    pub async fn rekeying(&self) -> Result<RekeyingInfo, Error> {
        let command = Command::Rekeying { group: self.id };
        answer!(self.client.command(command).await, Reply::Rekeying(info) => *info)
    }

    /// How many documents there are, where no re-keying of this epoch or an earlier one goes on.
    async fn rekeyed(&self, epoch: u64) -> Result<Option<usize>, Error> {
        let info = self.info().await?;
        if !info.active || info.rotating_since.is_some_and(|since| since <= epoch) {
            return Ok(None);
        }
        let documents = self.documents().await?;
        let open = documents.iter().filter(|it| it.closed.is_none()).count();
        // And the directory.
        Ok(Some(open.saturating_add(1)))
    }

    /// Changes a user's role.
    ///
    /// # Errors
    /// [`Error::Engine`]: no such member, the last owner, or the role does not allow it.
    pub async fn set_role(&self, user: &UserId, role: Role) -> Result<(), Error> {
        self.client
            .command_done(Command::SetRole {
                group: self.id,
                user: *user,
                role,
            })
            .await
    }

    /// The group's policy.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member.
    pub async fn policy(&self) -> Result<GroupPolicy, Error> {
        let policy = answer!(self.client.command(Command::Policy { group: self.id }).await, Reply::Policy(policy) => policy)?;
        Ok(*policy)
    }

    /// Changes the policy; what `change` does not name stays. Resolves when the change is in the group log; while offline that waits.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it, or there is no such policy.
    pub async fn change_policy(&self, change: PolicyChange) -> Result<(), Error> {
        self.client
            .command_done(Command::ChangePolicy {
                group: self.id,
                change: Box::new(change),
            })
            .await
    }

    /// Leaves with all devices of this user. Resolves when another member has committed it.
    ///
    /// # Errors
    /// [`Error::Engine`]: the last owner cannot leave.
    pub async fn leave(&self) -> Result<(), Error> {
        self.client
            .command_done(Command::Leave { group: self.id })
            .await
    }

    /// As [`Group::leave`], also where this user's devices hold the only keys of some documents.
    ///
    /// # Errors
    /// As [`Group::leave`].
    pub async fn leave_anyway(&self) -> Result<(), Error> {
        self.client
            .command_done(Command::LeaveAnyway { group: self.id })
            .await
    }

    /// Makes this device come back into the group by an external commit, whatever it holds of it.
    /// [`DeviceEvent::Returned`](crate::DeviceEvent::Returned) tells when it is back.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub async fn rejoin(&self) -> Result<(), Error> {
        self.client
            .command_done(Command::Rejoin { group: self.id })
            .await
    }

    /// The user has compared the group's code with another member. A device that came back with nothing to compare seals nothing before.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member.
    pub async fn confirm(&self) -> Result<(), Error> {
        self.client
            .command_done(Command::ConfirmGroup { group: self.id })
            .await
    }

    /// Adds a member's device again, its old leaf removed: it asked for it ([`DeviceEvent::ReAddAsked`](crate::DeviceEvent::ReAddAsked)).
    ///
    /// # Errors
    /// [`Error::Engine`]: the user is not verified, has no key packages, or the role does not allow it.
    pub async fn readd(&self, user: &UserId, device: &DeviceId) -> Result<(), Error> {
        self.client
            .command_done(Command::ReAdd {
                group: self.id,
                user: *user,
                device: *device,
            })
            .await
    }

    /// Founds the group anew under another id, with its documents, policy and verified members: for a group that is frozen. Admins only.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it.
    pub async fn restart(&self) -> Result<Group, Error> {
        let command = Command::Restart { group: self.id };
        let client = self.client.clone();
        answer!(self.client.command(command).await, Reply::Group(id) => Group::new(client, id))
    }

    /// Ordered entries that this device had to refuse.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member.
    pub async fn evidence(&self) -> Result<Vec<EvidenceInfo>, Error> {
        let command = Command::Evidence { group: self.id };
        answer!(self.client.command(command).await, Reply::Evidence(evidence) => evidence)
    }

    /// Declares records of a document void that nobody can open. Admins only.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it.
    pub async fn void_records(&self, id: &DocumentId) -> Result<(), Error> {
        self.client
            .command_done(Command::VoidRecords {
                group: self.id,
                document: *id,
            })
            .await
    }

    /// Declares one record of a document void, by its position: one at which work on the document is stuck ([`DocumentInfo::stuck`]). What it says counts
    /// for nobody then, and what builds on it neither. Admins only.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it, or no change there can be declared void.
    pub async fn void_record(&self, id: &DocumentId, seq: u64) -> Result<(), Error> {
        self.client
            .command_done(Command::VoidRecord {
                group: self.id,
                document: *id,
                seq,
            })
            .await
    }

    /// What is known of one record of a document that is here.
    ///
    /// # Errors
    /// [`Error::Engine`]: there is no change at that position, or it is part of the saved state already.
    pub async fn record(&self, id: &DocumentId, seq: u64) -> Result<RecordInfo, Error> {
        let command = Command::Record {
            group: self.id,
            document: *id,
            seq,
        };
        answer!(self.client.command(command).await, Reply::Record(record) => *record)
    }

    /// Documents of the group, closed ones included.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member.
    pub async fn documents(&self) -> Result<Vec<DocumentInfo>, Error> {
        let command = Command::Documents { group: self.id };
        answer!(self.client.command(command).await, Reply::Documents(documents) => documents)
    }

    /// Creates an empty document of a CRDT kind. Works offline. The title is content: the service does not see it.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it, or the group takes no writes.
    pub async fn create_document<K: Adapter>(&self, title: &str) -> Result<Document<K>, Error> {
        let id = self.create_document_raw(K::CRDT, title, None).await?;
        Ok(Document::new(self.clone(), id))
    }

    /// Creates a document with its first content, in one step.
    ///
    /// # Errors
    /// As [`Group::create_document`], and what the first edit refuses.
    pub async fn create_document_with<K: Adapter>(
        &self,
        title: &str,
        first: impl FnOnce(&mut K) -> Result<(), CrdtError> + Send + 'static,
    ) -> Result<Document<K>, Error> {
        let first: DocFn = Box::new(move |crdt: &mut dyn Crdt| {
            first(K::narrow(crdt).ok_or(CrdtError::InvalidArgument)?)
        });
        let id = self
            .create_document_raw(K::CRDT, title, Some(crate::document::contained(first)))
            .await?;
        Ok(Document::new(self.clone(), id))
    }

    pub(crate) async fn create_document_raw(
        &self,
        kind: CrdtKind,
        title: &str,
        initial: Option<DocFn>,
    ) -> Result<DocumentId, Error> {
        let command = Command::CreateDocument {
            group: self.id,
            kind,
            title: title.to_owned(),
            initial,
        };
        answer!(self.client.command(command).await, Reply::Document(id) => id)
    }

    /// Creates a document from one that another program wrote: every operation stays under the id that wrote it, so that a copy elsewhere and
    /// this one still belong together. Whose they are is not known: they count as brought in by this device.
    ///
    /// # Errors
    /// As [`Group::create_document`]; [`Error::Engine`] where the state is refused. Nothing is made then.
    pub async fn import_document(
        &self,
        title: &str,
        foreign: conclave_crdt::Foreign,
    ) -> Result<Document<Any>, Error> {
        let id = self.import_raw(foreign.kind, title, foreign.state).await?;
        Ok(Document::new(self.clone(), id))
    }

    pub(crate) async fn import_raw(
        &self,
        kind: CrdtKind,
        title: &str,
        state: Vec<u8>,
    ) -> Result<DocumentId, Error> {
        let command = Command::ImportDocument {
            group: self.id,
            kind,
            title: title.to_owned(),
            state: state.into(),
        };
        answer!(self.client.command(command).await, Reply::Document(id) => id)
    }

    /// A document of the group.
    ///
    /// # Errors
    /// [`Error::NoDocument`], [`Error::WrongKind`].
    pub async fn document<K: Kind>(&self, id: &DocumentId) -> Result<Document<K>, Error> {
        let (group, document) = (self.id, *id);
        let command = Command::Kind { group, document };
        let kind = answer!(self.client.command(command).await, Reply::Kind(kind) => kind)?;
        let kind = kind.ok_or(Error::NoDocument(*id))?;
        match K::WANTED {
            Some(wanted) if kind != wanted.to_string() => Err(Error::WrongKind { wanted }),
            _ => Ok(Document::new(self.clone(), *id)),
        }
    }

    /// The document that somebody means by a title, an id, or the beginning of one: see [`naming`](crate::naming).
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`]; [`Error::WrongKind`].
    pub async fn document_by_title<K: Kind>(&self, typed: &str) -> Result<Document<K>, Error> {
        let documents = self.documents().await?;
        let documents: Vec<_> = documents.into_iter().map(|info| (self.id, info)).collect();
        let (_, document) = the_one(typed, &documents)?;
        self.document(&document).await
    }

    pub(crate) async fn document_info(&self, id: &DocumentId) -> Result<DocumentInfo, Error> {
        let (group, document) = (self.id, *id);
        let command = Command::Document { group, document };
        let found = answer!(self.client.command(command).await, Reply::Documents(found) => found)?;
        found.into_iter().next().ok_or(Error::NoDocument(*id))
    }

    /// Closes a document for everybody: puts it away, or deletes it.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it.
    pub async fn close_document(&self, id: &DocumentId, reason: CloseReason) -> Result<(), Error> {
        self.client
            .command_done(Command::Close {
                group: self.id,
                document: *id,
                reason,
            })
            .await
    }

    /// Opens a document again for everybody that was put away: it can be edited as before.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it, the document was deleted or closed as lost, or as many are open as can be.
    pub async fn reopen_document(&self, id: &DocumentId) -> Result<(), Error> {
        self.client
            .command_done(Command::Reopen {
                group: self.id,
                document: *id,
            })
            .await
    }
}

/// The one document that somebody means.
pub(crate) fn the_one(
    typed: &str,
    documents: &[(GroupId, DocumentInfo)],
) -> Result<(GroupId, DocumentId), Error> {
    let id = |(_, info): &(GroupId, DocumentInfo)| info.document.to_string();
    let found = meant(typed, documents, id, |(_, info)| info.title.as_deref());
    let found: Vec<_> = found
        .into_iter()
        .map(|(group, info)| (*group, info.document))
        .collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Error::NotFound),
        _ => Err(Error::Ambiguous(found)),
    }
}

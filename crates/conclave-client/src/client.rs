//! The device as an application sees it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conclave_engine::evidence::ProofInfo;
use conclave_engine::finding::Mark;
use conclave_engine::{
    Approval, Command, DeviceInfo, FindingId, FindingInfo, GroupInfo, InvitationInfo, OperationId,
    PauseChange, PauseInfo, PinInfo, Reply, RequestInfo, Rescue, RescueApplied, RescueInfo,
    RevocationInfo, Setup, Typed, Ways, WhoAmI,
};
use conclave_proto::codec::Bytes;
use conclave_proto::{DeviceId, DocumentId, EvidenceId, GroupId, GroupPolicy, RescueId, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::actor::{self, Call, Shared};
use crate::config::Config;
use crate::document::{Document, Kind};
use crate::error::Error;
use crate::events::{DeviceEvent, Event, Events};
use crate::group::{Group, the_one};
use crate::naming::{is_document_id, unreadable};
use crate::store::Unlock;
use crate::trouble::{Connection, Trouble};

/// Takes the one kind of answer that a command has.
macro_rules! answer {
    ($reply:expr, $pattern:pat => $value:expr) => {
        match $reply? {
            $pattern => Ok($value),
            _ => Err(crate::error::Error::UnexpectedAnswer),
        }
    };
}
pub(crate) use answer;

/// State of a device: what its logic knows, and how it stands with its service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// What the device's logic knows.
    #[serde(flatten)]
    pub device: conclave_engine::Status,
    /// The connection, and what is the matter where there is none.
    pub connection: Connection,
}

impl std::ops::Deref for Status {
    type Target = conclave_engine::Status;

    fn deref(&self) -> &Self::Target {
        &self.device
    }
}

/// One open device: its store, its connection, its groups. Clones are handles to the same device; when the last one is gone, or after
/// [`Client::close`], the device stops.
///
/// Calls wait for what they say in their name and can be dropped while they wait. A command whose call is dropped before the device took
/// it up is not begun; one that was taken up is finished.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// Under which id this handle asks for changes, where they may be asked for again.
    operation: Option<OperationId>,
}

struct Inner {
    calls: mpsc::Sender<Call>,
    shared: Arc<Shared>,
    #[cfg_attr(not(unix), allow(dead_code, reason = "only the local socket needs it"))]
    runtime: tokio::runtime::Handle,
    folder: PathBuf,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("folder", &self.inner.folder)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Opens the device in the configured folder and begins to connect. Works without a connection.
    ///
    /// # Errors
    /// [`Error::Store`] with [`StoreError::Missing`](crate::store::StoreError::Missing) where [`Client::create`] has to come first, with
    /// [`StoreError::InUse`](crate::store::StoreError::InUse) where another process has it open, and with others for a wrong passphrase or
    /// damage; [`Error::Endpoint`]; [`Error::Engine`].
    pub async fn open(config: Config) -> Result<Self, Error> {
        Self::start(config, None).await
    }

    /// Makes a new device: a new user's first one, or a further one that a device of the user has to approve.
    ///
    /// # Errors
    /// [`Error::Store`] with [`StoreError::Exists`](crate::store::StoreError::Exists) where there is one already, and as
    /// [`Client::open`].
    pub async fn create(config: Config, setup: Setup) -> Result<Self, Error> {
        Self::start(config, Some(setup)).await
    }

    async fn start(config: Config, setup: Option<Setup>) -> Result<Self, Error> {
        let folder = config.folder.clone();
        let started = actor::start(config, setup).await?;
        let inner = Inner {
            calls: started.calls,
            shared: started.shared,
            runtime: started.runtime,
            folder,
        };
        Ok(Self {
            inner: Arc::new(inner),
            operation: None,
        })
    }

    /// A handle for one operation: the change that it asks for is made once, however often, and by whichever process, it is asked for.
    pub(crate) fn once(&self, operation: OperationId) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            operation: Some(operation),
        }
    }

    /// Gives a command to the device and waits for its answer.
    pub(crate) async fn command(&self, command: Command) -> Result<Reply, Error> {
        let command = match self.operation {
            Some(operation) if command.changes() => Command::Once {
                operation,
                command: Box::new(command),
            },
            _ => command,
        };
        let (reply, answer) = oneshot::channel();
        self.inner
            .calls
            .send(Call::Command { command, reply })
            .await
            .map_err(|_| self.inner.shared.cause())?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.inner.shared.cause()))
    }

    pub(crate) async fn command_done(&self, command: Command) -> Result<(), Error> {
        answer!(self.command(command).await, Reply::Done => ())
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Does something on the client's own runtime. Nobody waits for it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.runtime.spawn(task);
    }

    /// The client's own runtime, for tasks that must live as long as the client.
    #[cfg(unix)]
    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.inner.runtime
    }

    /// The store's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Events from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.inner.shared.events.subscribe())
    }

    /// Who this device is, with the contact text to give to others.
    ///
    /// # Errors
    /// [`Error::Closed`] and other reasons why the client stopped.
    pub async fn whoami(&self) -> Result<WhoAmI, Error> {
        answer!(self.command(Command::WhoAmI).await, Reply::WhoAmI(who) => who)
    }

    /// Another service has answered than the one that this device knows ([`Trouble::OtherService`](crate::Trouble::OtherService)), and its
    /// key, which begins with these digits, is right: from now on it is the one that is known.
    ///
    /// # Errors
    /// [`Error::Engine`] when no service with such a key has answered, or fewer than four digits are given.
    pub async fn accept_service(&self, key: &str) -> Result<(), Error> {
        let key = key.to_owned();
        self.command_done(Command::AcceptService { key }).await
    }

    /// State of the device: connection, waiting work.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn status(&self) -> Result<Status, Error> {
        let device = answer!(self.command(Command::Status).await, Reply::Status(status) => status)?;
        Ok(Status {
            device,
            connection: self.connection(),
        })
    }

    /// How this device stands with its service now.
    #[must_use]
    pub fn connection(&self) -> Connection {
        self.inner.shared.connection.borrow().clone()
    }

    /// Connects, without waiting for a pause between two attempts to end, and waits until the service has let this device in or it is known
    /// why not. What passes by itself, such as a connection that broke, is waited out. The client goes on trying, whatever comes of this.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn reach(&self) -> Result<Connection, Error> {
        let mut connection = self.inner.shared.connection.subscribe();
        let first = connection.borrow_and_update().clone();
        match first.trouble() {
            None if !first.is_open() => return Ok(first),
            Some(Trouble::NotEnrolled) => return Ok(first),
            None => {}
            Some(_) => {
                let (reply, heard) = oneshot::channel();
                let call = Call::TryNow { reply };
                // A client that stopped says so below.
                if self.inner.calls.send(call).await.is_ok() {
                    let _ = heard.await;
                }
                self.changed(&mut connection).await?;
            }
        }
        loop {
            let now = connection.borrow_and_update().clone();
            if !now.is_open() {
                return Ok(now);
            }
            self.changed(&mut connection).await?;
        }
    }

    /// Makes this copy of the home the one that goes on, and any other stop. That is remembered before anything else, and done when the service is
    /// reached: this waits until it has let this copy in, or it is known why it is not reached.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn take_over(&self) -> Result<Connection, Error> {
        let taken = self.command_done(Command::TakeOver);
        tokio::pin!(taken);
        loop {
            let connection = tokio::select! {
                // First, so that what is asked for is known before it is tried.
                biased;
                taken = &mut taken => return taken.map(|()| self.connection()),
                connection = self.reach() => connection?,
            };
            match connection.trouble() {
                // Of a login that was sent before.
                Some(trouble) if trouble.is_other_life() => {}
                None if connection == Connection::Connected => {
                    return taken.await.map(|()| self.connection());
                }
                _ => {
                    // Calls are taken in order: what is asked for is in the store when this is answered.
                    self.status().await?;
                    return Ok(connection);
                }
            }
        }
    }

    /// Waits until there is trouble that does not pass by itself, and says which.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn trouble(&self) -> Result<Trouble, Error> {
        let mut connection = self.inner.shared.connection.subscribe();
        loop {
            let now = connection.borrow_and_update().clone();
            if let Connection::Trouble { cause, .. } = now
                && !cause.is_passing()
            {
                return Ok(cause);
            }
            self.changed(&mut connection).await?;
        }
    }

    async fn changed(&self, connection: &mut watch::Receiver<Connection>) -> Result<(), Error> {
        tokio::select! {
            // The sender lives as long as this client.
            _ = connection.changed() => Ok(()),
            error = self.stopped() => Err(error),
        }
    }

    /// Waits until others can add this device to groups: the service is reached and has the device's list and key packages. Where the service
    /// refuses the device, [`Client::status`] says why, and this goes on waiting.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn online(&self) -> Result<(), Error> {
        self.command_done(Command::Invitable).await
    }

    /// Waits until this device is in step with its service: what was ready to be sent is there, in all groups and documents, and what the
    /// service had for this device (invitations, group logs, names) is here. What needs somebody else is not waited for. Meanwhile
    /// [`conclave_engine::Status::under_way`] tells what is missing; while offline this waits.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn settled(&self) -> Result<(), Error> {
        self.command_done(Command::Settled).await
    }

    /// Waits until the service is reached and knows this device. Where the service refuses the device, [`Client::status`] says why, and this
    /// goes on waiting.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn connected(&self) -> Result<(), Error> {
        let mut events = self.events();
        if self.status().await?.online {
            return Ok(());
        }
        while let Some(event) = events.next().await {
            let online = match event {
                Event::Device(DeviceEvent::Online) => true,
                Event::Missed { .. } => self.status().await?.online,
                _ => false,
            };
            if online {
                return Ok(());
            }
        }
        Err(self.inner.shared.cause())
    }

    /// Takes a contact text as known, under the name that it carries, or that it was known by. `verified` says that the safety number or QR code was compared with
    /// the person; without a pin nobody can be invited.
    ///
    /// # Errors
    /// [`Error::Engine`] when the text is not a valid contact, or contradicts one that is known.
    pub async fn verify(&self, contact: &str, verified: bool) -> Result<PinInfo, Error> {
        self.verify_as(contact, None, verified).await
    }

    /// As [`Client::verify`], under a name of one's own choosing. Two people may have the same one.
    ///
    /// # Errors
    /// As [`Client::verify`]; [`Error::Engine`] when the name is none.
    pub async fn verify_as(
        &self,
        contact: &str,
        name: Option<&str>,
        verified: bool,
    ) -> Result<PinInfo, Error> {
        let command = Command::Pin {
            contact: contact.to_owned(),
            name: name.map(ToOwned::to_owned),
            verified,
        };
        answer!(self.command(command).await, Reply::Pinned(pin) => pin)
    }

    /// Calls a known contact otherwise, on this device.
    ///
    /// # Errors
    /// [`Error::Engine`] when the user is not a known contact, or the name is none.
    pub async fn rename_contact(&self, user: &UserId, name: &str) -> Result<PinInfo, Error> {
        let (user, name) = (*user, name.to_owned());
        answer!(self.command(Command::RenameContact { user, name }).await, Reply::Pinned(pin) => pin)
    }

    /// Forgets a known contact: from here nobody of theirs is invited any more. Groups that they are in stay as they are.
    ///
    /// # Errors
    /// [`Error::Engine`] when the user is not a known contact.
    pub async fn forget_contact(&self, user: &UserId) -> Result<(), Error> {
        self.command_done(Command::ForgetContact { user: *user })
            .await
    }

    /// Known contacts.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn contacts(&self) -> Result<Vec<PinInfo>, Error> {
        answer!(self.command(Command::Pins).await, Reply::Pins(pins) => pins)
    }

    /// The number that both users see when nobody sits between them.
    ///
    /// # Errors
    /// [`Error::Engine`] when the user is not a known contact.
    pub async fn safety_number(&self, user: &UserId) -> Result<String, Error> {
        answer!(self.command(Command::SafetyNumber { user: *user }).await, Reply::Text(text) => text)
    }

    /// Makes this older copy of a home a device of its own. What was never sent is kept apart, groups are left here (the other copy stays in
    /// them), and what comes is how the new device asks to be approved, as of [`Client::device_request`].
    ///
    /// # Errors
    /// [`Error::Engine`] where no other copy is known to be in use, or where there is no room to keep apart what was never sent.
    pub async fn become_new(&self) -> Result<RequestInfo, Error> {
        answer!(self.command(Command::BecomeNew).await, Reply::Request(request) => request)
    }

    /// Text of a new device, for a device that can approve it, and the code that is typed in there.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is enrolled already.
    pub async fn device_request(&self) -> Result<RequestInfo, Error> {
        answer!(self.command(Command::DeviceRequest).await, Reply::Request(request) => request)
    }

    /// Approves another device of this user, with the code that it shows. The answer is a text for that device.
    ///
    /// # Errors
    /// [`Error::Engine`] when the text is not valid, the code is not its, or this device does not hold the user key.
    pub async fn approve_device(&self, approval: Approval) -> Result<String, Error> {
        answer!(self.command(Command::ApproveDevice(approval)).await, Reply::Text(text) => text)
    }

    /// Calls a device of this user otherwise, on this device. Other devices may call it as they like.
    ///
    /// # Errors
    /// [`Error::Engine`] when it is no device of this user, or the name is none.
    pub async fn rename_device(&self, device: &DeviceId, name: &str) -> Result<(), Error> {
        let (device, name) = (*device, name.to_owned());
        let command = Command::RenameDevice { device, name };
        answer!(self.command(command).await, Reply::Devices(_) => ())
    }

    /// Pauses all documents of this device, until it is resumed: also over restarts. As [`Document::pause`].
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn pause(&self, ways: Ways) -> Result<PauseInfo, Error> {
        self.set_pause(None, true, ways).await
    }

    /// Ends that. Documents that are paused by themselves stay so.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn resume(&self, ways: Ways) -> Result<PauseInfo, Error> {
        self.set_pause(None, false, ways).await
    }

    pub(crate) async fn set_pause(
        &self,
        document: Option<(GroupId, DocumentId)>,
        pause: bool,
        ways: Ways,
    ) -> Result<PauseInfo, Error> {
        let change = PauseChange { pause, ways };
        let command = Command::Pause { document, change };
        answer!(self.command(command).await, Reply::Pause(info) => info)
    }

    /// Takes a device away from this user: it is signed off the list, loses its standing at the service, and leaves every group, whose documents
    /// are put under new keys. The answer comes once this is durable here; it goes on by itself, and [`Client::revocations`] tells how far it is.
    ///
    /// # Errors
    /// [`Error::Engine`] when it is no other device of this user, or this device does not hold the user key.
    pub async fn revoke_device(&self, device: &DeviceId) -> Result<RevocationInfo, Error> {
        let device = *device;
        let all = answer!(self.command(Command::RevokeDevice { device }).await, Reply::Revocations(all) => all)?;
        all.into_iter().next().ok_or(Error::UnexpectedAnswer)
    }

    /// Devices that were taken away on this device, and how far that is; the newest last. Documents that are not under new keys yet are named
    /// where `due` says so: there may be many.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn revocations(&self, due: bool) -> Result<Vec<RevocationInfo>, Error> {
        answer!(self.command(Command::Revocations { due }).await, Reply::Revocations(all) => all)
    }

    /// The user says that a device which came onto their list is theirs, after one that may hold the user key was taken away: this device adds
    /// it to groups then.
    ///
    /// # Errors
    /// [`Error::Engine`] when it is no device of this user.
    pub async fn confirm_device(&self, device: &DeviceId) -> Result<(), Error> {
        self.command_done(Command::ConfirmDevice { device: *device })
            .await
    }

    /// Finishes the enrolment of this new device with the text of the approving one.
    ///
    /// # Errors
    /// [`Error::Engine`] when the text is not valid or not for this device.
    pub async fn finish_device(&self, approval: &str) -> Result<(), Error> {
        self.command_done(Command::FinishDevice {
            approval: approval.to_owned(),
        })
        .await
    }

    /// Devices of this user.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn devices(&self) -> Result<Vec<DeviceInfo>, Error> {
        answer!(self.command(Command::Devices).await, Reply::Devices(devices) => devices)
    }

    /// What did not fit, until somebody is done with it: of one group, or all; the newest last. `dismissed` lists what somebody is done with
    /// as well.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn findings(
        &self,
        group: Option<&GroupId>,
        dismissed: bool,
    ) -> Result<Vec<FindingInfo>, Error> {
        // Then the names of groups and documents are in memory. A group whose names are not there is called by what it is.
        let _ = self.groups().await;
        let command = Command::Findings {
            group: group.copied(),
            dismissed,
        };
        answer!(self.command(command).await, Reply::Findings(findings) => findings)
    }

    /// Notes that findings were shown, or that somebody is done with them.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn mark_findings(&self, ids: Vec<FindingId>, mark: Mark) -> Result<(), Error> {
        self.command_done(Command::MarkFindings { ids, mark }).await
    }

    /// Creates a group; this user becomes its owner. Works offline. The name is content: the service does not see it.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is not enrolled or the policy is not valid.
    pub async fn create_group(&self, name: &str, policy: GroupPolicy) -> Result<Group, Error> {
        let command = Command::CreateGroup {
            name: name.to_owned(),
            policy: Box::new(policy),
        };
        answer!(self.command(command).await, Reply::Group(id) => Group::new(self.clone(), id))
    }

    /// Groups of this device, those it has left included.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn groups(&self) -> Result<Vec<GroupInfo>, Error> {
        answer!(self.command(Command::Groups).await, Reply::Groups(groups) => groups)
    }

    /// A group of this device.
    ///
    /// # Errors
    /// [`Error::NoGroup`].
    pub async fn group(&self, id: &GroupId) -> Result<Group, Error> {
        match self.command(Command::Members { group: *id }).await {
            Ok(_) => Ok(Group::new(self.clone(), *id)),
            Err(Error::Engine(conclave_engine::EngineError::UnknownGroup)) => {
                Err(Error::NoGroup(*id))
            }
            Err(error) => Err(error),
        }
    }

    /// The document that somebody means by a title, an id, or the beginning of one, in all groups that this device is in: see
    /// [`naming`](crate::naming).
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Ambiguous`]; [`Error::UnreadableNames`] for anything but a full id, while there is a group whose names cannot be
    /// read; [`Error::WrongKind`].
    pub async fn find_document<K: Kind>(&self, typed: &str) -> Result<Document<K>, Error> {
        let groups = self.groups().await?;
        let mut documents = Vec::new();
        let mut listed = BTreeSet::new();
        for info in groups.iter().filter(|info| info.active) {
            if let Ok(all) = Group::new(self.clone(), info.group).documents().await {
                listed.insert(info.group);
                documents.extend(all.into_iter().map(|it| (info.group, it)));
            }
        }
        if !is_document_id(typed)
            && let Some(info) = unreadable(&groups, |info| listed.contains(&info.group))
        {
            return Err(Error::UnreadableNames(info.group));
        }
        let (group, document) = the_one(typed, &documents)?;
        Group::new(self.clone(), group).document(&document).await
    }

    /// Invitations that wait for an answer.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn invitations(&self) -> Result<Vec<Invitation>, Error> {
        let list =
            answer!(self.command(Command::Invitations).await, Reply::Invitations(list) => list)?;
        Ok(list
            .into_iter()
            .map(|info| Invitation {
                client: self.clone(),
                info,
            })
            .collect())
    }

    /// Joins a group to which this device is invited.
    ///
    /// # Errors
    /// [`Error::Engine`]: no such invitation, the inviter is not a verified contact, or what the invitation brought does not hold.
    pub async fn accept(&self, group: &GroupId) -> Result<Group, Error> {
        self.command_done(Command::Accept { group: *group }).await?;
        Ok(Group::new(self.clone(), *group))
    }

    /// Declines an invitation.
    ///
    /// # Errors
    /// [`Error::Engine`]: no such invitation.
    pub async fn decline(&self, group: &GroupId) -> Result<(), Error> {
        self.command_done(Command::Decline { group: *group }).await
    }

    /// Own edits that lost their place (the document was deleted, this device was removed) and are kept apart, oldest first.
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn rescues(&self) -> Result<Vec<RescueInfo>, Error> {
        answer!(self.command(Command::Rescues).await, Reply::Rescues(all) => all)
    }

    /// Evidence against the service or a device: what was signed and contradicts itself. The newest last.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn proofs(&self) -> Result<Vec<ProofInfo>, Error> {
        answer!(self.command(Command::Proofs).await, Reply::Proofs(all) => all)
    }

    /// One piece of it, as it is shown to a stranger: [`evidence::verify`](crate::evidence::verify) judges it by the service's key alone.
    ///
    /// # Errors
    /// [`Error::Engine`]: there is none of this id.
    pub async fn proof(&self, id: &EvidenceId) -> Result<Bytes, Error> {
        let command = Command::Proof { evidence: *id };
        answer!(self.command(command).await, Reply::Proof(bytes) => bytes)
    }

    /// Keeps apart what somebody typed into a copy of a document that was not done to it, so that the copy can go.
    ///
    /// # Errors
    /// [`Error::Engine`]: there is no room for it.
    pub async fn keep_typed(
        &self,
        group: &GroupId,
        document: &DocumentId,
        typed: Typed,
    ) -> Result<RescueInfo, Error> {
        let command = Command::KeepTyped {
            group: *group,
            document: *document,
            typed: Box::new(typed),
        };
        let kept = answer!(self.command(command).await, Reply::Rescues(all) => all)?;
        kept.into_iter().next().ok_or(Error::UnexpectedAnswer)
    }

    /// What is kept of some of them.
    ///
    /// # Errors
    /// [`Error::Engine`]: there is no such copy.
    pub async fn rescue(&self, id: &RescueId) -> Result<Rescue, Error> {
        let command = Command::Rescue { rescue: *id };
        answer!(self.command(command).await, Reply::Rescue(rescue) => *rescue)
    }

    /// Writes the words of a copy into a document, as an own edit: each where it belongs as far as that is sure, texts and new items of lists
    /// else at the end. What has no place there stays in the copy, as does what no words tell; where nothing stays, the copy is gone.
    ///
    /// # Errors
    /// [`Error::Engine`]: there is no such copy or document, the document takes no edits from here, or has no place for such words.
    pub async fn apply_rescue(
        &self,
        id: &RescueId,
        group: &GroupId,
        document: &DocumentId,
    ) -> Result<RescueApplied, Error> {
        let command = Command::ApplyRescue {
            rescue: *id,
            group: *group,
            document: *document,
        };
        answer!(self.command(command).await, Reply::RescueApplied(applied) => applied)
    }

    /// Throws a copy away, for good.
    ///
    /// # Errors
    /// [`Error::Engine`]: there is no such copy.
    pub async fn discard_rescue(&self, id: &RescueId) -> Result<(), Error> {
        self.command_done(Command::DiscardRescue { rescue: *id })
            .await
    }

    /// Remembers that the user was told of copies ([`RescueInfo::told`]).
    ///
    /// # Errors
    /// As [`Client::whoami`].
    pub async fn rescues_told(&self, ids: &[RescueId]) -> Result<(), Error> {
        let rescues = ids.to_vec();
        self.command_done(Command::RescuesTold { rescues }).await
    }

    /// Unlocks the store with another passphrase, key file or keyring entry from now on. The old one opens it no more: what it opened is
    /// overwritten. A keyring may ask somebody to unlock it; this device waits so long.
    ///
    /// # Errors
    /// [`Error::Store`]; the old one then still holds.
    pub async fn change_secret(&self, unlock: Unlock) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.inner
            .calls
            .send(Call::ChangeSecret { unlock, reply })
            .await
            .map_err(|_| self.inner.shared.cause())?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.inner.shared.cause()))
    }

    /// Stops the device and closes its store. Calls that still wait are answered [`Error::Closed`]; what they asked for and was durable goes
    /// on when the store is opened again. Closing twice is fine.
    ///
    /// # Errors
    /// The reason why the client had stopped before, or what the store refused.
    pub async fn close(&self) -> Result<(), Error> {
        self.inner.shared.close.cancel();
        match self.stopped().await {
            Error::Closed => Ok(()),
            error => Err(error),
        }
    }

    /// Waits until the device has stopped, and says why.
    pub async fn stopped(&self) -> Error {
        let mut stopped = self.inner.shared.stopped.subscribe();
        // The sender lives as long as this client.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        self.inner.shared.cause()
    }
}

/// An invitation to a group.
#[derive(Debug, Clone)]
pub struct Invitation {
    client: Client,
    info: InvitationInfo,
}

impl Invitation {
    /// Which group, and who invites.
    #[must_use]
    pub fn info(&self) -> &InvitationInfo {
        &self.info
    }

    /// Joins the group.
    ///
    /// # Errors
    /// As [`Client::accept`].
    pub async fn accept(&self) -> Result<Group, Error> {
        self.client.accept(&self.info.group).await
    }

    /// Declines.
    ///
    /// # Errors
    /// As [`Client::decline`].
    pub async fn decline(&self) -> Result<(), Error> {
        self.client.decline(&self.info.group).await
    }
}

//! Operations: what can be asked of a device as plain data, in this process or through the local socket of another.

use std::time::Duration;

use conclave_crdt::{Crdt, CrdtError, CrdtKind, Edited, PathElement, RootShape};
use conclave_engine::evidence::ProofInfo;
use conclave_engine::finding::Mark;
use conclave_engine::{
    Approval, BlameInfo, BlameView, ChangedInfo, DeviceInfo, DocFn, DocumentInfo, EvidenceInfo,
    FindingId, FindingInfo, GroupInfo, InvitationInfo, LogInfo, MemberInfo, OperationId,
    PauseChange, PauseInfo, PinInfo, PolicyChange, RecordInfo, RekeyingInfo, RequestInfo, Rescue,
    RescueApplied, RescueInfo, RevocationInfo, Typed, WhoAmI,
};
use conclave_proto::codec::Bytes;
use conclave_proto::record::CloseReason;
use conclave_proto::{
    DeviceId, DocumentId, EvidenceId, GroupId, GroupPolicy, RescueId, Role, UserId,
};
use serde::{Deserialize, Serialize};

use crate::client::{Client, Status};
use crate::document::{Any, Document, contained};
use crate::error::Error;
use crate::group::Group;
use crate::trouble::Connection;

/// How a document is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// As one text.
    Text,
    /// As JSON.
    Json,
    /// By its named parts.
    Parts,
    /// In the form in which other programs of its engine keep theirs.
    Native,
}

/// A named part of a document ([`conclave_crdt::Root`]).
#[derive(Clone, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub shape: RootShape,
    /// Its content as far as JSON can show it.
    pub value: serde_json::Value,
    /// Whether it is what the text or JSON view edits.
    pub editable: bool,
}

/// Something to do. [`run`] does it. `Debug` prints only the kind: texts, titles and names are content.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "each field is that of the method that the variant names"
)]
pub enum Operation {
    /// [`Client::whoami`]. Outcome: `WhoAmI`.
    WhoAmI,
    /// [`Client::status`]. Outcome: `Status`.
    Status,
    /// [`Client::connected`]. Outcome: `Done`.
    WaitOnline { limit_ms: Option<u64> },
    /// [`Client::reach`], or how far that is when the limit passes. Outcome: `Connection`.
    Reach { limit_ms: Option<u64> },
    /// [`Client::take_over`], or how far that is when the limit passes. Outcome: `Connection`.
    TakeOver { limit_ms: Option<u64> },
    /// [`Client::become_new`]. Outcome: `Request`.
    BecomeNew,
    /// [`Client::trouble`]. Outcome: `Connection`.
    Trouble,
    /// [`Client::settled`]. Outcome: `Done`.
    Settled { limit_ms: Option<u64> },
    /// [`Client::verify`]. Outcome: `Contact`.
    Verify {
        contact: String,
        name: Option<String>,
        verified: bool,
    },
    /// [`Client::rename_contact`]. Outcome: `Contact`.
    RenameContact { user: UserId, name: String },
    /// [`Client::forget_contact`]. Outcome: `Done`.
    ForgetContact { user: UserId },
    /// [`Client::contacts`]. Outcome: `Contacts`.
    Contacts,
    /// [`Client::safety_number`]. Outcome: `Text`.
    SafetyNumber { user: UserId },
    /// [`Client::device_request`]. Outcome: `Request`.
    DeviceRequest,
    /// [`Client::approve_device`]. Outcome: `Text`.
    ApproveDevice(Approval),
    /// [`Client::finish_device`]. Outcome: `Done`.
    FinishDevice { approval: String },
    /// [`Client::devices`]. Outcome: `Devices`.
    Devices,
    /// [`Client::rename_device`]. Outcome: `Done`.
    RenameDevice { device: DeviceId, name: String },
    /// [`Client::revoke_device`]. Outcome: `Revocations`.
    RevokeDevice { device: DeviceId },
    /// [`Client::revocations`]. Outcome: `Revocations`.
    Revocations {
        /// Whether the documents are named that are not under new keys yet: there may be many.
        due: bool,
    },
    /// [`Client::confirm_device`]. Outcome: `Done`.
    ConfirmDevice { device: DeviceId },
    /// [`Client::findings`]. Outcome: `Findings`.
    Findings {
        group: Option<GroupId>,
        dismissed: bool,
    },
    /// [`Client::mark_findings`]. Outcome: `Done`.
    MarkFindings { ids: Vec<FindingId>, mark: Mark },
    /// [`Client::create_group`]. Outcome: `Group`.
    CreateGroup {
        name: String,
        policy: Box<GroupPolicy>,
    },
    /// [`Client::groups`]. Outcome: `Groups`.
    Groups,
    /// [`Group::members`]. Outcome: `Members`.
    Members { group: GroupId },
    /// [`Group::invite_as`]. Outcome: `Done`.
    Invite {
        group: GroupId,
        user: UserId,
        role: Option<Role>,
    },
    /// [`Client::invitations`]. Outcome: `Invitations`.
    Invitations,
    /// [`Client::accept`]. Outcome: `Done`.
    Accept { group: GroupId },
    /// [`Client::decline`]. Outcome: `Done`.
    Decline { group: GroupId },
    /// [`Group::remove`], or [`Group::remove_anyway`]. Outcome: `Removed`.
    Remove {
        group: GroupId,
        user: UserId,
        anyway: bool,
    },
    /// [`Group::rekeying`]. Outcome: `Rekeying`.
    Rekeying { group: GroupId },
    /// [`Group::set_role`]. Outcome: `Done`.
    SetRole {
        group: GroupId,
        user: UserId,
        role: Role,
    },
    /// [`Group::policy`]. Outcome: `Policy`.
    Policy { group: GroupId },
    /// [`Group::change_policy`]. Outcome: `Done`.
    ChangePolicy {
        group: GroupId,
        change: Box<PolicyChange>,
    },
    /// [`Group::leave`], or [`Group::leave_anyway`]. Outcome: `Done`.
    Leave { group: GroupId, anyway: bool },
    /// [`Group::rejoin`]. Outcome: `Done`.
    Rejoin { group: GroupId },
    /// [`Client::accept_service`]. Outcome: `Done`.
    AcceptService { key: String },
    /// [`Group::confirm`]. Outcome: `Done`.
    ConfirmGroup { group: GroupId },
    /// [`Group::readd`]. Outcome: `Done`.
    ReAdd {
        group: GroupId,
        user: UserId,
        device: DeviceId,
    },
    /// [`Group::restart`]. Outcome: `Group`.
    RestartGroup { group: GroupId },
    /// [`Group::evidence`]. Outcome: `Evidence`.
    Evidence { group: GroupId },
    /// [`Group::void_records`]. Outcome: `Done`.
    VoidRecords {
        group: GroupId,
        document: DocumentId,
    },
    /// [`Group::void_record`]. Outcome: `Done`.
    VoidRecord {
        group: GroupId,
        document: DocumentId,
        seq: u64,
    },
    /// [`Group::record`]. Outcome: `Record`.
    Record {
        group: GroupId,
        document: DocumentId,
        seq: u64,
    },
    /// [`Group::documents`]. Outcome: `Documents`.
    Documents { group: GroupId },
    /// Creates a document with its first content, if there is any, in one step: where that is refused, nothing is made. Outcome: `Document`.
    CreateDocument {
        group: GroupId,
        kind: CrdtKind,
        title: String,
        content: Option<FirstContent>,
    },
    /// [`Group::rename`]. Outcome: `Done`.
    RenameGroup { group: GroupId, name: String },
    /// [`Document::rename`]. Outcome: `Done`.
    Rename {
        group: GroupId,
        document: DocumentId,
        title: String,
    },
    /// [`Group::close_document`]. Outcome: `Done`.
    CloseDocument {
        group: GroupId,
        document: DocumentId,
        reason: CloseReason,
    },
    /// [`Group::reopen_document`]. Outcome: `Done`.
    ReopenDocument {
        group: GroupId,
        document: DocumentId,
    },
    /// The document as it is here now. Outcome: `Text`, `Json`, `Parts` or `Bytes`.
    Show {
        group: GroupId,
        document: DocumentId,
        view: View,
    },
    /// At `position`, deletes `delete` characters, then inserts. Outcome: `Done`.
    Splice {
        group: GroupId,
        document: DocumentId,
        position: usize,
        delete: usize,
        insert: String,
    },
    /// Adds to the end of the text. Outcome: `Done`.
    Append {
        group: GroupId,
        document: DocumentId,
        text: String,
    },
    /// Does to the text what turned `base` into `text`, in one step; changes made since `base` was read survive. Without a base the text
    /// becomes `text`. Outcome: `Done`.
    EditText {
        group: GroupId,
        document: DocumentId,
        base: Option<String>,
        text: String,
    },
    /// The same for the JSON view. Outcome: `Done`, or `Unwritable`.
    EditJson {
        group: GroupId,
        document: DocumentId,
        base: Option<serde_json::Value>,
        value: serde_json::Value,
    },
    /// [`Document::blame`]. Outcome: `Blame`.
    Blame {
        group: GroupId,
        document: DocumentId,
        view: BlameView,
    },
    /// [`Document::log`]. Outcome: `Log`.
    Log {
        group: GroupId,
        document: DocumentId,
        before: Option<u64>,
        limit: usize,
    },
    /// [`Document::changed_between`]. Outcome: `Changed`.
    Changed {
        group: GroupId,
        document: DocumentId,
        first: u64,
        last: u64,
    },
    /// Where in the document's text an anchor stands. Outcome: `Place`, or `Done` where it stands nowhere here.
    Locate {
        group: GroupId,
        document: DocumentId,
        anchor: serde_json::Value,
    },
    /// [`Document::synced`]. Outcome: `Done`.
    Synced {
        group: GroupId,
        document: DocumentId,
        limit_ms: Option<u64>,
    },
    /// [`Document::pause`] or [`Document::resume`], or [`Client::pause`] or [`Client::resume`]. Outcome: `Pause`.
    Pause {
        document: Option<(GroupId, DocumentId)>,
        change: PauseChange,
    },
    /// [`Client::proofs`]. Outcome: `Proofs`.
    Proofs,
    /// [`Client::proof`]. Outcome: `Proof`.
    Proof { evidence: EvidenceId },
    /// [`Client::rescues`]. Outcome: `Rescues`.
    Rescues,
    /// [`Client::keep_typed`]. Outcome: `Rescues`, with that alone.
    KeepTyped {
        group: GroupId,
        document: DocumentId,
        typed: Box<Typed>,
    },
    /// [`Client::rescue`]. Outcome: `Rescue`.
    Rescue { rescue: RescueId },
    /// [`Client::apply_rescue`]. Outcome: `RescueApplied`.
    ApplyRescue {
        rescue: RescueId,
        group: GroupId,
        document: DocumentId,
    },
    /// [`Client::discard_rescue`]. Outcome: `Done`.
    DiscardRescue { rescue: RescueId },
    /// [`Client::rescues_told`]. Outcome: `Done`.
    RescuesTold { rescues: Vec<RescueId> },
    /// [`Client::close`]. Outcome: `Done`.
    Shutdown,
}

/// What a new document begins with. `Debug` prints only the kind.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstContent {
    /// A text.
    Text(String),
    /// A JSON object.
    Json(serde_json::Value),
    /// The complete state of a document of another program, as [`conclave_crdt::recognise`] gives it.
    State(Bytes),
}

impl std::fmt::Debug for FirstContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FirstContent({})", kind_of(self))
    }
}

/// What came of an [`Operation`]. `Debug` prints only the kind.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Done; nothing to say.
    Done,
    /// A text: of a document, or for people or another device.
    Text(String),
    /// A document as JSON.
    Json(serde_json::Value),
    /// The named parts of a document.
    Parts(Vec<Part>),
    /// A document in its engine's own form.
    Bytes(Bytes),
    /// This device.
    WhoAmI(WhoAmI),
    /// State of this device.
    Status(Box<Status>),
    /// How this device stands with its service.
    Connection(Connection),
    /// A contact.
    Contact(PinInfo),
    /// Contacts.
    Contacts(Vec<PinInfo>),
    /// How this device asks to be approved.
    Request(RequestInfo),
    /// Devices of this user.
    Devices(Vec<DeviceInfo>),
    /// Devices that were taken away.
    Revocations(Vec<RevocationInfo>),
    /// A new group.
    Group(GroupId),
    /// Groups.
    Groups(Vec<GroupInfo>),
    /// Members.
    Members(Vec<MemberInfo>),
    /// A group's policy.
    Policy(Box<GroupPolicy>),
    /// Invitations.
    Invitations(Vec<InvitationInfo>),
    /// Documents.
    Documents(Vec<DocumentInfo>),
    /// Who wrote what a document shows.
    Blame(BlameInfo),
    /// A part of a document's log.
    Log(LogInfo),
    /// What records of a document did.
    Changed(ChangedInfo),
    /// One record of a document.
    Record(RecordInfo),
    /// Ordered entries that had to be refused.
    Evidence(Vec<EvidenceInfo>),
    /// What did not fit.
    Findings(Vec<FindingInfo>),
    /// Evidence against the service or a device.
    Proofs(Vec<ProofInfo>),
    /// One piece of it, as it is shown to a stranger.
    Proof(Bytes),
    /// Own edits that were kept apart.
    Rescues(Vec<RescueInfo>),
    /// One of them, whole.
    Rescue(Box<Rescue>),
    /// What became of one that was to be written into a document.
    RescueApplied(RescueApplied),
    /// A new document.
    Document(DocumentId),
    /// How a document is paused, or the device.
    Pause(PauseInfo),
    /// Nothing was written: at this place of a document the new JSON has something that stands for what cannot be written.
    Unwritable {
        /// The keys and positions that lead there, with `/` between them.
        place: String,
    },
    /// A place in a text, both from 1.
    Place {
        /// The line.
        line: usize,
        /// The character in it.
        column: usize,
    },
    /// A removal, re-keying included.
    Removed {
        /// Epoch that it began.
        epoch: u64,
        /// Documents re-keyed.
        documents: usize,
        /// Documents that were closed as lost meanwhile, because nobody could re-key them.
        #[serde(default)]
        lost: Vec<DocumentId>,
        /// Time that it took, in milliseconds.
        elapsed_ms: u64,
    },
    /// How far re-keying is.
    Rekeying(RekeyingInfo),
}

/// The name of a variant as it is serialised.
fn kind_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(serde_json::Value::Object(fields)) => fields
            .into_iter()
            .next()
            .map(|(name, _)| name)
            .unwrap_or_default(),
        _ => String::new(),
    }
}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Operation({})", kind_of(self))
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outcome({})", kind_of(self))
    }
}

impl Operation {
    /// The same, when some of its time has passed already.
    #[must_use]
    pub(crate) fn after(mut self, elapsed: Duration) -> Self {
        if let Self::WaitOnline { limit_ms }
        | Self::Settled { limit_ms }
        | Self::Reach { limit_ms }
        | Self::TakeOver { limit_ms }
        | Self::Synced { limit_ms, .. } = &mut self
            && let Some(limit) = limit_ms
        {
            let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
            *limit = limit.saturating_sub(elapsed);
        }
        self
    }
}

/// Performs an operation until it is done, or (`begin`) until what it wants is durable: then there is no outcome yet.
pub(crate) async fn run_once(
    client: &Client,
    id: OperationId,
    operation: Operation,
    begin: bool,
) -> Result<Option<Outcome>, Error> {
    let client = client.once(id);
    let done = run(&client, operation);
    if !begin {
        return done.await.map(Some);
    }
    // Calls are taken in order: when the second one is answered, the first one is in the store.
    tokio::select! {
        biased;
        outcome = done => outcome.map(Some),
        status = client.status() => status.map(|_| None),
    }
}

/// Performs an operation.
///
/// # Errors
/// Those of the method that the operation names; [`Error::TimedOut`] where a limit was given.
pub async fn run(client: &Client, operation: Operation) -> Result<Outcome, Error> {
    match operation {
        Operation::WhoAmI => client.whoami().await.map(Outcome::WhoAmI),
        Operation::Status => client
            .status()
            .await
            .map(|status| Outcome::Status(Box::new(status))),
        Operation::WaitOnline { limit_ms } => within(limit_ms, client.connected()).await,
        Operation::Settled { limit_ms } => within(limit_ms, client.settled()).await,
        Operation::Reach { limit_ms } => {
            let reached = so_far(client, limit_ms, client.reach()).await;
            reached.map(Outcome::Connection)
        }
        Operation::TakeOver { limit_ms } => {
            let taken = so_far(client, limit_ms, client.take_over()).await;
            taken.map(Outcome::Connection)
        }
        Operation::BecomeNew => client.become_new().await.map(Outcome::Request),
        Operation::Trouble => {
            client.trouble().await?;
            Ok(Outcome::Connection(client.connection()))
        }
        Operation::Verify {
            contact,
            name,
            verified,
        } => client
            .verify_as(&contact, name.as_deref(), verified)
            .await
            .map(Outcome::Contact),
        Operation::RenameContact { user, name } => client
            .rename_contact(&user, &name)
            .await
            .map(Outcome::Contact),
        Operation::ForgetContact { user } => done(client.forget_contact(&user).await),
        Operation::Contacts => client.contacts().await.map(Outcome::Contacts),
        Operation::SafetyNumber { user } => client.safety_number(&user).await.map(Outcome::Text),
        Operation::DeviceRequest => client.device_request().await.map(Outcome::Request),
        Operation::ApproveDevice(approval) => {
            client.approve_device(approval).await.map(Outcome::Text)
        }
        Operation::FinishDevice { approval } => done(client.finish_device(&approval).await),
        Operation::Devices => client.devices().await.map(Outcome::Devices),
        Operation::RenameDevice { device, name } => {
            done(client.rename_device(&device, &name).await)
        }
        Operation::RevokeDevice { device } => client
            .revoke_device(&device)
            .await
            .map(|info| Outcome::Revocations(vec![info])),
        Operation::Revocations { due } => client.revocations(due).await.map(Outcome::Revocations),
        Operation::Pause { document, change } => client
            .set_pause(document, change.pause, change.ways)
            .await
            .map(Outcome::Pause),
        Operation::ConfirmDevice { device } => done(client.confirm_device(&device).await),
        Operation::Findings { group, dismissed } => client
            .findings(group.as_ref(), dismissed)
            .await
            .map(Outcome::Findings),
        Operation::MarkFindings { ids, mark } => done(client.mark_findings(ids, mark).await),
        Operation::CreateGroup { name, policy } => client
            .create_group(&name, *policy)
            .await
            .map(|group| Outcome::Group(group.id())),
        Operation::Groups => client.groups().await.map(Outcome::Groups),
        Operation::Invitations => {
            let list = client.invitations().await?;
            Ok(Outcome::Invitations(
                list.iter()
                    .map(|invitation| invitation.info().clone())
                    .collect(),
            ))
        }
        Operation::Accept { group } => client.accept(&group).await.map(|_| Outcome::Done),
        Operation::Decline { group } => done(client.decline(&group).await),
        Operation::Proofs => client.proofs().await.map(Outcome::Proofs),
        Operation::Proof { evidence } => client.proof(&evidence).await.map(Outcome::Proof),
        Operation::Rescues => client.rescues().await.map(Outcome::Rescues),
        Operation::KeepTyped {
            group,
            document,
            typed,
        } => {
            let kept = client.keep_typed(&group, &document, *typed).await?;
            Ok(Outcome::Rescues(vec![kept]))
        }
        Operation::Rescue { rescue } => {
            let rescue = client.rescue(&rescue).await?;
            Ok(Outcome::Rescue(Box::new(rescue)))
        }
        Operation::ApplyRescue {
            rescue,
            group,
            document,
        } => {
            let applied = client.apply_rescue(&rescue, &group, &document).await?;
            Ok(Outcome::RescueApplied(applied))
        }
        Operation::AcceptService { key } => done(client.accept_service(&key).await),
        Operation::DiscardRescue { rescue } => done(client.discard_rescue(&rescue).await),
        Operation::RescuesTold { rescues } => done(client.rescues_told(&rescues).await),
        Operation::Shutdown => done(client.close().await),
        other => run_in_group(client, other).await,
    }
}

async fn run_in_group(client: &Client, operation: Operation) -> Result<Outcome, Error> {
    let of = |group: GroupId| Group::new(client.clone(), group);
    match operation {
        Operation::Members { group } => of(group).members().await.map(Outcome::Members),
        Operation::Invite { group, user, role } => done(of(group).invite_as(&user, role).await),
        Operation::Remove {
            group,
            user,
            anyway,
        } => {
            let group = of(group);
            let removal = if anyway {
                group.remove_anyway(&user).await?
            } else {
                group.remove(&user).await?
            };
            let elapsed_ms = u64::try_from(removal.elapsed.as_millis()).unwrap_or(u64::MAX);
            Ok(Outcome::Removed {
                epoch: removal.epoch,
                documents: removal.documents,
                lost: removal.lost,
                elapsed_ms,
            })
        }
        Operation::Rekeying { group } => of(group).rekeying().await.map(Outcome::Rekeying),
        Operation::SetRole { group, user, role } => done(of(group).set_role(&user, role).await),
        Operation::Policy { group } => {
            let policy = of(group).policy().await?;
            Ok(Outcome::Policy(Box::new(policy)))
        }
        Operation::ChangePolicy { group, change } => done(of(group).change_policy(*change).await),
        Operation::Leave {
            group,
            anyway: true,
        } => done(of(group).leave_anyway().await),
        Operation::Leave { group, .. } => done(of(group).leave().await),
        Operation::Rejoin { group } => done(of(group).rejoin().await),
        Operation::ConfirmGroup { group } => done(of(group).confirm().await),
        Operation::ReAdd {
            group,
            user,
            device,
        } => done(of(group).readd(&user, &device).await),
        Operation::RestartGroup { group } => {
            let new = of(group).restart().await?;
            Ok(Outcome::Group(new.id()))
        }
        Operation::Evidence { group } => of(group).evidence().await.map(Outcome::Evidence),
        Operation::VoidRecords { group, document } => done(of(group).void_records(&document).await),
        Operation::VoidRecord {
            group,
            document,
            seq,
        } => done(of(group).void_record(&document, seq).await),
        Operation::Record {
            group,
            document,
            seq,
        } => of(group).record(&document, seq).await.map(Outcome::Record),
        Operation::Documents { group } => of(group).documents().await.map(Outcome::Documents),
        Operation::CreateDocument {
            group,
            kind,
            title,
            content,
        } => {
            let group = of(group);
            let made = match content {
                None => group.create_document_raw(kind, &title, None).await,
                Some(FirstContent::State(state)) => {
                    group.import_raw(kind, &title, state.into_vec()).await
                }
                Some(FirstContent::Text(text)) => {
                    let edit = first(move |crdt| {
                        let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
                        view.replace_all(&text)
                    });
                    group.create_document_raw(kind, &title, Some(edit)).await
                }
                Some(FirstContent::Json(value)) => {
                    let edit = first(move |crdt| {
                        let view = crdt.json().ok_or(CrdtError::InvalidArgument)?;
                        match view.edit(None, &value)? {
                            Edited::Done => Ok(()),
                            Edited::Refused(_) => Err(CrdtError::InvalidArgument),
                        }
                    });
                    group.create_document_raw(kind, &title, Some(edit)).await
                }
            };
            made.map(Outcome::Document)
        }
        Operation::CloseDocument {
            group,
            document,
            reason,
        } => done(of(group).close_document(&document, reason).await),
        Operation::ReopenDocument { group, document } => {
            done(of(group).reopen_document(&document).await)
        }
        Operation::RenameGroup { group, name } => done(of(group).rename(&name).await),
        other => run_in_document(client, other).await,
    }
}

async fn run_in_document(client: &Client, operation: Operation) -> Result<Outcome, Error> {
    let of = |group: GroupId, id: DocumentId| {
        Document::<Any>::new(Group::new(client.clone(), group), id)
    };
    match operation {
        Operation::Rename {
            group,
            document,
            title,
        } => done(of(group, document).rename(&title).await),
        Operation::Show {
            group,
            document,
            view: View::Text,
        } => {
            let text = of(group, document)
                .read(|crdt| crdt.text().map(|view| view.text()).transpose())
                .await?;
            text.map(Outcome::Text)
                .ok_or(Error::NoView { view: "text" })
        }
        Operation::Show {
            group,
            document,
            view: View::Json,
        } => {
            let value = of(group, document)
                .read(|crdt| crdt.json().map(|view| view.to_json()).transpose())
                .await?;
            value
                .map(Outcome::Json)
                .ok_or(Error::NoView { view: "json" })
        }
        Operation::Show {
            group,
            document,
            view: View::Parts,
        } => {
            let roots = of(group, document).read(|crdt| crdt.roots()).await?;
            let parts = roots.into_iter().map(|root| Part {
                name: root.name,
                shape: root.shape,
                value: root.value,
                editable: root.editable,
            });
            Ok(Outcome::Parts(parts.collect()))
        }
        Operation::Show {
            group,
            document,
            view: View::Native,
        } => {
            let bytes = of(group, document).read(|crdt| crdt.export()).await?;
            Ok(Outcome::Bytes(bytes.into()))
        }
        Operation::Append {
            group,
            document,
            text,
        } => {
            let edit = move |crdt: &mut dyn Crdt| {
                let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
                let end = view.len()?;
                view.splice(end, 0, &text)
            };
            done(of(group, document).change(edit).await)
        }
        Operation::Splice {
            group,
            document,
            position,
            delete,
            insert,
        } => {
            let edit = move |crdt: &mut dyn Crdt| {
                crdt.text()
                    .ok_or(CrdtError::InvalidArgument)?
                    .splice(position, delete, &insert)
            };
            done(of(group, document).change(edit).await)
        }
        Operation::EditText {
            group,
            document,
            base,
            text,
        } => done(of(group, document).edit_text(base, text).await),
        Operation::EditJson {
            group,
            document,
            base,
            value,
        } => match of(group, document).edit_json(base, value).await? {
            Edited::Done => Ok(Outcome::Done),
            Edited::Refused(refusal) => Ok(Outcome::Unwritable {
                place: place(&refusal.place),
            }),
        },
        Operation::Blame {
            group,
            document,
            view,
        } => of(group, document).blame(view).await.map(Outcome::Blame),
        Operation::Log {
            group,
            document,
            before,
            limit,
        } => {
            let page = of(group, document).log(before, limit).await;
            page.map(Outcome::Log)
        }
        Operation::Changed {
            group,
            document,
            first,
            last,
        } => {
            let changed = of(group, document).changed_between(first, last).await;
            changed.map(Outcome::Changed)
        }
        Operation::Locate {
            group,
            document,
            anchor,
        } => {
            let document = of(group, document);
            let placed = document.read(move |crdt| {
                let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
                let place = view.locate(&anchor)?;
                Ok::<_, CrdtError>((place, view.text()?))
            });
            let (Some(place), text) = placed.await? else {
                return Ok(Outcome::Done);
            };
            let before = text.chars().take(place);
            let (line, column) = before.fold((1, 1), |(line, column), c| match c {
                '\n' => (line + 1, 1),
                _ => (line, column + 1),
            });
            Ok(Outcome::Place { line, column })
        }
        Operation::Synced {
            group,
            document,
            limit_ms,
        } => within(limit_ms, of(group, document).synced()).await,
        _ => Err(Error::UnexpectedAnswer),
    }
}

fn place(path: &[PathElement]) -> String {
    let steps = path.iter().map(|step| match step {
        PathElement::Key(key) => key.clone(),
        PathElement::Index(index) => index.to_string(),
    });
    steps.collect::<Vec<_>>().join("/")
}

/// How the connection is when this is done, or the limit passes.
async fn so_far(
    client: &Client,
    limit_ms: Option<u64>,
    wait: impl Future<Output = Result<Connection, Error>>,
) -> Result<Connection, Error> {
    let Some(limit) = limit_ms else {
        return wait.await;
    };
    match tokio::time::timeout(Duration::from_millis(limit), wait).await {
        Ok(reached) => reached,
        Err(_) => Ok(client.connection()),
    }
}

/// The first edit of a new document.
fn first(edit: impl FnOnce(&mut dyn Crdt) -> Result<(), CrdtError> + Send + 'static) -> DocFn {
    contained(Box::new(edit))
}

fn done(result: Result<(), Error>) -> Result<Outcome, Error> {
    result.map(|()| Outcome::Done)
}

async fn within(
    limit_ms: Option<u64>,
    wait: impl Future<Output = Result<(), Error>>,
) -> Result<Outcome, Error> {
    match limit_ms {
        None => done(wait.await),
        Some(limit) => match tokio::time::timeout(Duration::from_millis(limit), wait).await {
            Ok(result) => done(result),
            Err(_) => Err(Error::TimedOut),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_no_content() {
        let operation = Operation::EditText {
            group: GroupId::ZERO,
            document: DocumentId::ZERO,
            base: None,
            text: "secret plan".into(),
        };
        assert_eq!(format!("{operation:?}"), "Operation(edit_text)");
        assert_eq!(format!("{:?}", Operation::Groups), "Operation(groups)");
        assert_eq!(
            format!("{:?}", Outcome::Text("secret plan".into())),
            "Outcome(text)"
        );
    }
}

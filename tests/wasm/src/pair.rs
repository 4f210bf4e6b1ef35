//! Two members of one MLS group, and one document that both have.

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::{Append, DocContext, DocError, Document, KeySource, Sealer, Session};
use conclave_identity::{AuthError, DeviceCredential, DeviceKey, UserGenesis, UserKey};
use conclave_mls::{
    ClientGroup, CommitInputs, DeviceContext, EpochRoot, KeyStore, MlsError, Plan, ProcessError,
    PublicGroupState,
};
use conclave_proto::codec::{DecodeError, Varint, decode, encode};
use conclave_proto::frame::{BaseSnapshot, DeliveredRecord, OpenedDocument, WelcomeDelivery};
use conclave_proto::group::GroupEntry;
use conclave_proto::merkle::{Frontier, Head};
use conclave_proto::record::{
    Chained, EntryBody, RECORD_VERSION, Record, RecordBody, RecordHeader,
};
use conclave_proto::service::SignedHead;
use conclave_proto::{
    Author, CommitId, DeviceId, DocumentId, GroupId, GroupPolicy, Hash, InstanceId, RealmId,
    Refusal, UnixMs, UserId, limits,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const GROUP: GroupId = GroupId([7; 16]);
const DOCUMENT: DocumentId = DocumentId([8; 16]);
const ANA: InstanceId = InstanceId([1; 8]);
const BEN: InstanceId = InstanceId([2; 8]);

/// What went wrong, in words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A credential was not accepted.
    #[error("identity: {0}")]
    Identity(#[from] AuthError),
    /// MLS.
    #[error("group: {0}")]
    Group(#[from] MlsError),
    /// An entry of the group log.
    #[error("group log: {0}")]
    Process(#[from] ProcessError),
    /// The service's judgement.
    #[error("service: {0}")]
    Service(#[from] Refusal),
    /// The document.
    #[error("document: {0}")]
    Document(#[from] DocError),
    /// The CRDT.
    #[error("CRDT: {0}")]
    Crdt(#[from] CrdtError),
    /// Bytes that are no record.
    #[error("record: {0}")]
    Decode(#[from] DecodeError),
    /// A record that its reader does not take.
    #[error("refused: {0}")]
    Refused(String),
    /// An engine's answer.
    #[error("engine: {0}")]
    Engine(String),
    /// Something that has to be there is not.
    #[error("missing: {0}")]
    Missing(&'static str),
}

/// A device of a user of its own.
struct Member {
    device: DeviceId,
    key: DeviceKey,
    credential: DeviceCredential,
}

impl Member {
    fn new(rng: &mut ChaCha20Rng, now: UnixMs) -> Result<Self, Failure> {
        let mut device = [0; 16];
        rng.fill_bytes(&mut device);
        let device = DeviceId(device);
        let user = UserKey::generate(rng);
        let genesis = UserGenesis::new(RealmId([1; 16]), &user, now, rng);
        let key = DeviceKey::generate(rng);
        let (certificate, signature) = user.certify(&genesis, device, &key.public(), 1, now);
        let credential = DeviceCredential::accept(genesis, certificate, signature, &key)?;
        Ok(Self {
            device,
            key,
            credential,
        })
    }

    fn context(&self) -> DeviceContext<'_> {
        DeviceContext {
            key: &self.key,
            credential: &self.credential,
        }
    }

    fn user(&self) -> UserId {
        self.credential.certificate.user
    }
}

/// The root of the one epoch that has records.
struct OneRoot {
    epoch: u64,
    root: EpochRoot,
}

impl KeySource for OneRoot {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        (epoch == self.epoch).then(|| self.root.clone())
    }
}

/// A member in the group.
struct Seat {
    member: Member,
    group: ClientGroup,
    roots: OneRoot,
}

impl Seat {
    fn new(member: Member, group: ClientGroup) -> Result<Self, Failure> {
        let secrets = group.epoch_secrets()?;
        let roots = OneRoot {
            epoch: secrets.epoch,
            root: secrets.root,
        };
        Ok(Self {
            member,
            group,
            roots,
        })
    }

    fn context(&self) -> DocContext<'_> {
        DocContext {
            authority: self.group.state(),
            keys: &self.roots,
            device: self.member.device,
            watch: None,
        }
    }
}

/// Ana, who made the group and a document in it, and Ben, whom she added. What the service would
/// do between them is done here.
pub struct Pair {
    ana: Seat,
    ben: Seat,
    document: Document,
    /// What of it is on its way.
    session: Session,
    /// The document's first snapshot.
    base: Record,
    /// Leaves of the log.
    frontier: Frontier,
    rng: ChaCha20Rng,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pair({:?})", self.document)
    }
}

impl Pair {
    /// Makes both devices, the group, Ben's membership by a Welcome, and a document that says `text`.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn new(kind: CrdtKind, text: &str, seed: [u8; 32], now: UnixMs) -> Result<Self, Failure> {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let (ana, ben) = group_of_two(&mut rng, now)?;
        let mut initial = |crdt: &mut dyn Crdt| append(crdt, text);
        let context = ana.context();
        let (mut document, base) = Document::create(
            &context,
            GROUP,
            DOCUMENT,
            kind,
            ANA,
            Some(&mut initial),
            Sealer {
                key: &ana.member.key,
                rng: &mut rng,
            },
        )?;
        let outcome = document.snapshot_accepted(&context, 0)?;
        if document.size() != 1 || !outcome.findings.is_empty() {
            return Err(Failure::Refused(format!("{outcome:?}")));
        }
        let mut frontier = Frontier::new();
        frontier.push(base.leaf());
        // The service's word that her copy is the whole log: before it she sends nothing.
        let opened = opened(1, frontier.head(), None, Vec::new());
        let session = document.session(&opened);
        document.opened(&context, &opened, &mut rng)?;
        Ok(Self {
            session,
            ana,
            ben,
            document,
            base,
            frontier,
            rng,
        })
    }

    /// Ana appends to the text. Gives the sealed record, as it stands in the log after the first snapshot: once, for nobody acknowledges it.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn seal(&mut self, text: &str) -> Result<Vec<u8>, Failure> {
        let mut edit = |crdt: &mut dyn Crdt| append(crdt, text);
        self.document.edit(&mut edit)?;
        let context = self.ana.context();
        let appended = self.document.next_append(
            &context,
            &mut self.session,
            Sealer {
                key: &self.ana.member.key,
                rng: &mut self.rng,
            },
            limits::FRAME_BYTES,
        )?;
        let appended = appended.ok_or(Failure::Missing("what was written"))?;
        Ok(encode(&self.ordered(appended)?))
    }

    /// What the service makes of an append: it fills in what both sides know.
    fn ordered(&self, append: Append) -> Result<Record, Failure> {
        let [appended] = <[_; 1]>::try_from(append.records)
            .map_err(|_| Failure::Missing("exactly one record"))?;
        let author = Author {
            device: self.ana.member.device,
            instance: ANA,
        };
        let first = Chained {
            clock: 0,
            prev: Hash::ZERO,
        };
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: GROUP,
            document: DOCUMENT,
            epoch: append.epoch,
            author,
            seen: self.frontier.head(),
            body: RecordBody::Update(first),
        };
        Ok(Record {
            header,
            sealed: appended.sealed,
        })
    }

    /// Ben opens the document at its first snapshot, takes one record, and gives the text that he then reads.
    ///
    /// # Errors
    /// [`Failure::Refused`] when he does not take the record, with what he found.
    pub fn open(&mut self, record: &[u8]) -> Result<String, Failure> {
        let record: Record = decode("record", record, limits::FRAME_BYTES)?;
        let context = self.ben.context();
        let mut frontier = self.frontier.clone();
        frontier.push(record.leaf());
        let base = BaseSnapshot {
            seq: 0,
            record: self.base.clone(),
        };
        let opened = opened(0, frontier.head(), Some(base), vec![record.header.author]);
        let (mut document, _) =
            Document::open_remote(&context, &opened, GROUP, DOCUMENT, BEN, &mut self.rng)?;
        let records = vec![
            DeliveredRecord::Leaf(self.base.leaf()),
            DeliveredRecord::Whole {
                record,
                proof: Vec::new(),
            },
        ];
        let outcome = document.deliver(&context, opened.from, records)?;
        let taken = outcome.findings.is_empty() && outcome.blocked.is_none();
        if !taken || outcome.changes.is_empty() || document.size() != 2 {
            return Err(Failure::Refused(format!("{outcome:?}")));
        }
        read(document.crdt())
    }

    /// What Ana reads.
    ///
    /// # Errors
    /// [`Failure::Crdt`].
    pub fn text(&mut self) -> Result<String, Failure> {
        read(self.document.crdt())
    }

    /// Whether a text stands readable in these bytes or in the first snapshot.
    #[must_use]
    pub fn shows(&self, record: &[u8], text: &str) -> bool {
        let holds = |bytes: &[u8]| {
            bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes())
        };
        holds(record) || holds(&encode(&self.base))
    }
}

/// What the service says of the document to who opens it from position `from`, or at the snapshot `base`.
fn opened(
    from: u64,
    head: Head,
    base: Option<BaseSnapshot>,
    authors: Vec<Author>,
) -> OpenedDocument {
    OpenedDocument {
        channel: Varint(1),
        signed: SignedHead {
            head,
            seconds: 0,
            signature: [0; 64],
        },
        from,
        base,
        authors,
        own_next_clock: 0,
        own_last: Hash::ZERO,
        losses: Vec::new(),
    }
}

/// Ana creates a group and adds Ben by his key package; Ben joins by the Welcome.
fn group_of_two(rng: &mut ChaCha20Rng, now: UnixMs) -> Result<(Seat, Seat), Failure> {
    let (ana, ben) = (Member::new(rng, now)?, Member::new(rng, now)?);
    let (mut group, created) =
        ClientGroup::create(&ana.context(), GROUP, GroupPolicy::default(), now)?;
    let (mut service, _) =
        PublicGroupState::create(&created.group_info, &created.tree, ana.device, now)?;
    let directory = EntryBody::DocumentCreated {
        document: DocumentId::directory(&GROUP),
        crdt: 1,
    };
    let directory = group.sign_entry(&ana.context(), directory, ANA);
    let listed = service.judge_entry(&directory, ana.device)?;
    service.apply_entry(&listed);
    group.process(&GroupEntry::Signed(directory.clone()))?;

    let mut keys = KeyStore::load(Vec::new())?;
    let mut packages = keys.generate(&ben.context(), 1, false, now)?;
    let package = packages.one_time.pop();
    let plan = Plan {
        add: vec![package.ok_or(Failure::Missing("key package"))?],
        ..Plan::default()
    };
    let first_root = group.epoch_secrets()?.root;
    let inputs = CommitInputs {
        now,
        service_time: now,
        id: CommitId([3; 16]),
        live_roots: &[(0, first_root)],
    };
    let prepared = group.commit(&ana.context(), &plan, inputs, rng)?;

    let judged = service.judge_bundle(&prepared.bundle, ana.device, now)?;
    let entry = judged.entry.clone();
    let welcome = judged.welcome.clone();
    service.apply(judged)?;
    group.process(&entry)?;

    let delivery = WelcomeDelivery {
        id: 1,
        group: GROUP,
        epoch: service.state().epoch,
        welcome: welcome.ok_or(Failure::Missing("welcome"))?.into(),
        tree: service.tree().into(),
        state: service.join_state(prepared.bundle.wrap, vec![directory]),
    };
    let (joined, by) = ClientGroup::join(&ben.context(), &mut keys, &delivery, now)?;
    if by.inviter.user != ana.user() {
        return Err(Failure::Missing("the inviter's name"));
    }
    Ok((Seat::new(ana, group)?, Seat::new(ben, joined)?))
}

/// Writes at the end of a document's text.
pub(crate) fn append(crdt: &mut dyn Crdt, text: &str) -> Result<(), CrdtError> {
    let view = crdt.text().ok_or(CrdtError::Engine)?;
    let end = view.len()?;
    view.splice(end, 0, text)
}

/// Reads a document's text.
pub(crate) fn read(crdt: &mut dyn Crdt) -> Result<String, Failure> {
    let view = crdt.text().ok_or(Failure::Missing("text"))?;
    Ok(view.text()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_760_000_000_000);

    fn opens_what_was_sealed_and_nothing_else(kind: CrdtKind) {
        let mut pair = Pair::new(kind, "Hello", [5; 32], NOW).unwrap();
        let record = pair.seal(", Ben").unwrap();
        assert!(!pair.shows(&record, "Hello") && !pair.shows(&record, ", Ben"));
        assert_eq!(pair.open(&record).unwrap(), "Hello, Ben");
        assert_eq!(pair.text().unwrap(), "Hello, Ben");
        for at in (0..record.len()).step_by(5) {
            let mut changed = record.clone();
            for byte in changed.iter_mut().skip(at).take(1) {
                *byte ^= 1;
            }
            assert!(pair.open(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn yjs_records_open_whole_or_not_at_all() {
        opens_what_was_sealed_and_nothing_else(CrdtKind::Yjs);
    }

    #[test]
    fn automerge_records_open_whole_or_not_at_all() {
        opens_what_was_sealed_and_nothing_else(CrdtKind::Automerge);
    }
}

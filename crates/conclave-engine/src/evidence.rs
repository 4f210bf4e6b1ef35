//! Evidence that convicts: what the service, or a device, signed and no honest one signs together. It is kept as it is found, outlives document and
//! membership, and can be shown to a stranger who knows the service's key.

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use conclave_identity::{Proven, Unproven, convict};
use conclave_proto::codec::Bytes;
pub use conclave_proto::codec::DecodeError;
use conclave_proto::evidence::{Charge, EVIDENCE_BYTES, EVIDENCE_VERSION, Evidence};
use conclave_proto::record::content_hash;
use conclave_proto::service::{Generation, LogName, SignedHead, note};
use conclave_proto::{DeviceId, DocumentId, EvidenceId, GroupId, Hash, Head, UnixMs};
use conclave_rules::GroupState;
use serde::{Deserialize, Serialize};

use conclave_doc::{Document, LogView};

use crate::command::Reply;
use crate::cx::{Cx, ReadTarget};
use crate::error::EngineError;
use crate::group::Group;
use crate::io::{CommandId, Row};
use crate::keys;

const VERSION: u16 = 1;
/// Most pieces of evidence that are kept: one for each log, generation and kind.
const KEPT: usize = 64;

/// Why a file is no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// It is not evidence.
    #[error(transparent)]
    Unreadable(#[from] DecodeError),
    /// It is, and convicts nobody.
    #[error(transparent)]
    Unproven(#[from] Unproven),
}

/// Judges the content of a file by a service's key alone.
///
/// # Errors
/// [`NoProof`].
pub fn verify(bytes: &[u8], service_key: &[u8; 32]) -> Result<Proven, NoProof> {
    Ok(convict(service_key, &Evidence::from_bytes(bytes)?)?)
}

/// What a piece of evidence shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// The service signed two histories of a log.
    Fork,
    /// The service signed a shorter state of a log after a longer one.
    Rollback,
    /// A device signed two records for one place.
    Equivocation,
    /// The service went on signing in a generation long after the next one had begun.
    Parallel,
}

impl EvidenceKind {
    fn of(charge: &Charge) -> Self {
        match charge {
            Charge::Fork { .. } => Self::Fork,
            Charge::Rollback { .. } => Self::Rollback,
            Charge::Equivocation { .. } => Self::Equivocation,
            Charge::Parallel { .. } => Self::Parallel,
        }
    }
}

/// A piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofInfo {
    /// Names it.
    pub id: EvidenceId,
    /// When it was found, by this device's clock.
    pub at: UnixMs,
    /// What it shows.
    pub kind: EvidenceKind,
    /// The group.
    pub group: GroupId,
    /// The document; none: the group's own log.
    pub document: Option<DocumentId>,
    /// Number of the generation.
    pub generation: u64,
    /// The service's public key: with it, anybody verifies the evidence.
    pub service_key: Hash,
    /// The device that is convicted, where it is one.
    pub device: Option<DeviceId>,
}

impl ProofInfo {
    /// Whether it convicts of the same.
    fn is_as(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.kind, it.group, it.document, it.generation, it.device);
        of(self) == of(other) && self.service_key == other.service_key
    }
}

#[derive(Serialize, Deserialize)]
struct HeadRow {
    version: u16,
    info: ProofInfo,
}

#[derive(Serialize, Deserialize)]
struct BodyRow {
    version: u16,
    evidence: Bytes,
}

/// Reads the first row of a piece of evidence.
pub(crate) fn read_head(value: &[u8]) -> Result<ProofInfo, EngineError> {
    let what = "evidence";
    let row: HeadRow = keys::uncbor(what, value)?;
    match row.version {
        VERSION => Ok(row.info),
        _ => Err(EngineError::Store { what }),
    }
}

fn read_body(value: &[u8]) -> Result<Bytes, EngineError> {
    let what = "evidence";
    let row: BodyRow = keys::uncbor(what, value)?;
    let is_good = row.version == VERSION && row.evidence.len() <= EVIDENCE_BYTES;
    is_good
        .then_some(row.evidence)
        .ok_or(EngineError::Store { what })
}

fn rows_of(info: ProofInfo, evidence: Bytes) -> [Row; 2] {
    let (version, id) = (VERSION, info.id);
    let head = keys::cbor(&HeadRow { version, info });
    let body = keys::cbor(&BodyRow { version, evidence });
    [(keys::proof_head(&id), head), (keys::proof_body(&id), body)]
}

/// Rows of a piece of evidence, for the register of decoders.
pub(crate) fn sample() -> (EvidenceId, Vec<Row>) {
    let id = EvidenceId([9; 16]);
    let info = ProofInfo {
        id,
        at: UnixMs(1_700_000_000_000),
        kind: EvidenceKind::Rollback,
        group: GroupId([2; 16]),
        document: Some(DocumentId([3; 16])),
        generation: 4,
        service_key: Hash([5; 32]),
        device: None,
    };
    (id, rows_of(info, vec![1, 2, 3].into()).to_vec())
}

/// What this device has of a log, as far as it can prove it.
pub(crate) trait OwnLog {
    /// How many leaves.
    fn size(&self) -> u64;
    /// The head of its first `size` leaves.
    fn head_at(&self, size: u64) -> Option<Head>;
    /// Proof that the log of `to` leaves begins with that of `from`.
    fn consistency(&self, from: u64, to: u64) -> Option<Vec<Hash>>;
}

impl<T: OwnLog + ?Sized> OwnLog for &T {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn head_at(&self, size: u64) -> Option<Head> {
        (**self).head_at(size)
    }

    fn consistency(&self, from: u64, to: u64) -> Option<Vec<Hash>> {
        (**self).consistency(from, to)
    }
}

/// Nothing of it.
impl OwnLog for () {
    fn size(&self) -> u64 {
        0
    }

    fn head_at(&self, _: u64) -> Option<Head> {
        None
    }

    fn consistency(&self, _: u64, _: u64) -> Option<Vec<Hash>> {
        None
    }
}

impl OwnLog for Document {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn head_at(&self, size: u64) -> Option<Head> {
        self.root_at(size).map(|root| Head { size, root })
    }

    fn consistency(&self, from: u64, to: u64) -> Option<Vec<Hash>> {
        Self::consistency(self, from, to)
    }
}

/// A group's own log: heads since its epoch began, proofs since this program has followed it.
#[derive(Debug)]
pub(crate) struct GroupLog<'a> {
    /// Copies of it share its parts.
    state: GroupState,
    tree: Cow<'a, LogView>,
}

impl GroupLog<'_> {
    /// The same apart from its group, as long as the log is.
    pub(crate) fn into_owned(self) -> GroupLog<'static> {
        GroupLog {
            state: self.state,
            tree: Cow::Owned(self.tree.into_owned()),
        }
    }
}

impl OwnLog for GroupLog<'_> {
    fn size(&self) -> u64 {
        self.state.size()
    }

    fn head_at(&self, size: u64) -> Option<Head> {
        let known = self.state.root_at(size).map(|root| Head { size, root });
        known.or_else(|| self.tree.head_at(size))
    }

    fn consistency(&self, from: u64, to: u64) -> Option<Vec<Hash>> {
        self.tree.consistency(from, to)
    }
}

impl Group {
    /// What is here of its own log.
    pub(crate) fn own_log(&self) -> GroupLog<'_> {
        let state = self.state().clone();
        let tree = match &self.tree {
            Some(tree) if *tree.frontier() == state.frontier => Cow::Borrowed(tree),
            _ => Cow::Owned(LogView::new(state.frontier.clone())),
        };
        GroupLog { state, tree }
    }

    /// An entry has come to its log.
    pub(crate) fn log_grew(&mut self, leaf: Hash) {
        let frontier = &self.mls.state().frontier;
        let tree = self.tree.as_mut();
        let follows = tree.filter(|tree| tree.size().saturating_add(1) == frontier.size());
        match follows {
            Some(tree) => tree.push(leaf),
            None => self.tree = Some(LogView::new(frontier.clone())),
        }
    }
}

/// All that is kept.
pub(crate) type Proofs = BTreeMap<EvidenceId, ProofInfo>;

impl Cx {
    /// A log's signed head as evidence shows it.
    fn noted(&self, generation: &Generation, log: &LogName, signed: &SignedHead) -> Option<Bytes> {
        let key = self.service.pinned()?.key();
        Some(note(key, generation, log, signed).into())
    }

    /// The service has signed two heads of one log that go not together. `own` is the log of the one of them that is not smaller, where it is another
    /// log at the size of the other. False: that cannot be shown to anybody from here.
    pub(crate) fn convict_of_fork(
        &mut self,
        log: LogName,
        generation: &Generation,
        (a, b): (&SignedHead, &SignedHead),
        own: &dyn OwnLog,
    ) -> bool {
        let (size, end) = (a.head.size, b.head.size);
        // Of two of one size each is the other's.
        let other = if size == end {
            Some((b.head, Vec::new()))
        } else {
            own.head_at(size).zip(own.consistency(size, end))
        };
        let notes = self
            .noted(generation, &log, a)
            .zip(self.noted(generation, &log, b));
        let (Some((other, proof)), Some((a, b))) = (other, notes) else {
            return false;
        };
        let root = other.root;
        self.keep_proof(log, generation, Charge::Fork { a, b, root, proof })
    }

    /// The service has signed a smaller head of a log after a larger one.
    pub(crate) fn convict_of_rollback(
        &mut self,
        log: LogName,
        generation: &Generation,
        (a, b): (&SignedHead, &SignedHead),
    ) -> bool {
        let a = self.noted(generation, &log, a);
        let b = self.noted(generation, &log, b);
        match a.zip(b) {
            Some((a, b)) => self.keep_proof(log, generation, Charge::Rollback { a, b }),
            None => false,
        }
    }

    /// The service has signed a head long after its next generation had begun.
    pub(crate) fn convict_of_parallel(
        &mut self,
        log: LogName,
        generation: &Generation,
        later: &Generation,
        head: &SignedHead,
    ) -> bool {
        let Some(a) = self.noted(generation, &log, head) else {
            return false;
        };
        let later = *later;
        self.keep_proof(log, generation, Charge::Parallel { later, a })
    }

    /// Keeps evidence, unless what it convicts of is known, or there is too much. Nothing is kept that a stranger would not accept.
    fn keep_proof(&mut self, log: LogName, generation: &Generation, charge: Charge) -> bool {
        let Some(key) = self.service.pinned().map(|pinned| *pinned.key()) else {
            return false;
        };
        let kind = EvidenceKind::of(&charge);
        let evidence = Evidence {
            version: EVIDENCE_VERSION,
            generation: *generation,
            charge,
        };
        let Ok(proven) = convict(&key, &evidence) else {
            return false;
        };
        let bytes = evidence.to_bytes();
        let id = content_hash(&bytes);
        let id = id.0.first_chunk().copied().map(EvidenceId);
        let info = ProofInfo {
            id: id.unwrap_or(EvidenceId::ZERO),
            at: self.now,
            kind,
            group: log.group,
            document: log.document,
            generation: generation.number,
            service_key: Hash(key),
            device: proven.device(),
        };
        let is_known = self.proofs.values().any(|known| known.is_as(&info));
        if !is_known && self.proofs.len() < KEPT && bytes.len() <= EVIDENCE_BYTES {
            for (key, value) in rows_of(info.clone(), bytes.into()) {
                self.put(key, value);
            }
            self.proofs.insert(info.id, info);
        }
        true
    }

    /// Answers with what is kept, the newest last.
    pub(crate) fn list_proofs(&mut self, id: CommandId) {
        let mut all: Vec<_> = self.proofs.values().cloned().collect();
        all.sort_by_key(|info| (info.at, info.id));
        self.reply(id, Ok(Reply::Proofs(all)));
    }

    /// Reads a piece of evidence for whoever asks.
    pub(crate) fn show_proof(&mut self, id: CommandId, proof: &EvidenceId) {
        if self.proofs.contains_key(proof) {
            self.read(keys::proof_body(proof), ReadTarget::Proof(id));
        } else {
            self.reply(id, Err(EngineError::UnknownEvidence));
        }
    }

    pub(crate) fn proof_loaded(&mut self, id: CommandId, rows: &[Row]) {
        let body = rows.first().map(|(_, value)| read_body(value));
        let body = body.unwrap_or(Err(EngineError::UnknownEvidence));
        self.reply(id, body.map(Reply::Proof));
    }
}

//! What one document reads: snapshot and verdict payloads, delivered records, the service's answer on opening, and stored rows.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::register::{
    Decoded, Decoder,
    Source::{Disk, Network},
    join_rows, split_rows,
};
use conclave_crdt::{CrdtKind, ReplicaId};
use conclave_doc::{
    Append, CarriedPayload, DocContext, DocError, DocKeys, Document, Keeping, KeptLog, KeySource,
    Sealer, SnapshotPayload, VerdictPayload, seal_with_nonce,
};
use conclave_identity::{DeviceKey, SCHEME_ED25519};
use conclave_mls::{EpochRoot, Rows};
use conclave_proto::codec::{Tail, Varint, encode};
use conclave_proto::frame::{BaseSnapshot, DeliveredRecord, ElidedRecord, OpenedDocument};
use conclave_proto::record::{Chained, RECORD_VERSION, RecordBody, RecordHeader};
use conclave_proto::{
    Author, DeviceId, DocumentId, Frontier, GroupId, GroupPolicy, Hash, Head, InstanceId, Record,
    Role, UnixMs, UserId, limits,
};
use conclave_rules::{EpochState, GroupState, Roster, RosterRow, RowCause};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use zeroize::Zeroizing;

use super::{code, once, read, sample};
use conclave_proto::service::SignedHead;

const GROUP: GroupId = GroupId([7; 16]);
const DOCUMENT: DocumentId = DocumentId([8; 16]);
const NOW: UnixMs = UnixMs(1_700_000_000_000);

pub(super) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder::new(
            "doc.snapshot_payload",
            Network,
            limits::SNAPSHOT_BYTES,
            snapshot_payload,
            || vec![log().payload.clone()],
        ),
        Decoder::new(
            "doc.verdict",
            Network,
            limits::UPDATE_BYTES,
            verdict,
            || {
                [
                    conclave_doc::Judgement::Match,
                    conclave_doc::Judgement::Differs(conclave_doc::DiffersWhy::Tables),
                ]
                .map(|judgement| VerdictPayload::new(Hash([1; 32]), 3, judgement).to_bytes())
                .to_vec()
            },
        ),
        Decoder::new(
            "doc.carried",
            Network,
            limits::CARRIED_BYTES,
            carried,
            || vec![log().carried.clone()],
        ),
        Decoder::new("doc.opened", Network, limits::FRAME_BYTES, opened, || {
            sample(&log().opened)
        }),
        Decoder::new(
            "doc.delivered",
            Network,
            limits::FRAME_BYTES,
            delivered,
            || {
                let with = [log().records.clone(), vec![log().whole.clone()]].concat();
                vec![encode(&Tail(log().records.clone())), encode(&Tail(with))]
            },
        ),
        Decoder::new("doc.rows", Disk, usize::MAX, rows, || {
            vec![
                joined(&log().author),
                joined(&log().reader),
                joined(&log().later),
                joined(&log().merged),
            ]
        })
        .of_rows(),
        Decoder::new("doc.kept", Disk, usize::MAX, kept, || {
            vec![joined(&log().author), joined(&log().reader)]
        })
        .of_rows(),
    ]
}

struct Keys;

impl KeySource for Keys {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        (epoch == 0).then(|| EpochRoot::new([1; 32]))
    }
}

/// A group of two devices, a document of the first, and what the service made of it.
struct Log {
    state: GroupState,
    keys: [DeviceKey; 2],
    /// What the second device gets.
    opened: OpenedDocument,
    records: Vec<DeliveredRecord>,
    payload: Vec<u8>,
    carried: Vec<u8>,
    /// A record that carries another, at the end of the log.
    whole: DeliveredRecord,
    author: Rows,
    reader: Rows,
    /// The second device's, after that.
    later: Rows,
    /// The first device's, when the service has nothing but the beginning: some is lost, and queued to be carried.
    merged: Rows,
}

const OWN: DeviceId = DeviceId([1; 16]);
const OTHER: DeviceId = DeviceId([2; 16]);
const DEVICES: [DeviceId; 2] = [OWN, OTHER];
const INSTANCES: [InstanceId; 2] = [InstanceId([1; 8]), InstanceId([2; 8])];

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    once(&LOG, Log::new)
}

fn context(state: &GroupState, device: DeviceId) -> DocContext<'_> {
    DocContext {
        authority: state,
        keys: &Keys,
        device,
        watch: None,
    }
}

fn sealer<'a>(keys: &'a [DeviceKey; 2], rng: &'a mut ChaCha20Rng) -> Sealer<'a> {
    let [key, _] = keys;
    Sealer { key, rng }
}

fn group_state(keys: &[DeviceKey; 2]) -> GroupState {
    let rows = keys.iter().zip(DEVICES).map(|(key, device)| RosterRow {
        device,
        user: UserId([device.0[0]; 32]),
        credential_type: conclave_identity::CREDENTIAL_TYPE,
        credential: Vec::new().into(),
        key: key.public().to_vec().into(),
        scheme: SCHEME_ED25519,
        role: Role::Editor,
        first_epoch: 0,
        last_epoch: None,
        time: NOW,
        cause: RowCause::Own,
    });
    let of_epoch = EpochState {
        group: GROUP,
        epoch: 0,
        policy: GroupPolicy::default(),
        roster: Roster::from_rows(rows.collect(), Hash::ZERO, 0).unwrap(),
        last_time: NOW,
        epoch_start: 0,
        begun_by: Hash::ZERO,
    };
    GroupState {
        of_epoch: Arc::new(of_epoch),
        pending: Default::default(),
        documents: Default::default(),
        open_documents: 0,
        voided: Default::default(),
        rotating_since: 0,
        frontier: Frontier::new(),
        epoch_log_roots: Default::default(),
    }
}

fn answer(head: Head, base: &Record) -> OpenedDocument {
    OpenedDocument {
        channel: Varint(1),
        signed: SignedHead {
            head,
            seconds: 0,
            signature: [0; 64],
        },
        from: 0,
        base: Some(BaseSnapshot {
            seq: 0,
            record: base.clone(),
        }),
        authors: vec![Author {
            device: DEVICES[0],
            instance: INSTANCES[0],
        }],
        own_next_clock: 0,
        own_last: Hash::ZERO,
        losses: Vec::new(),
    }
}

/// Types one word.
fn write(document: &mut Document, word: &str) {
    document
        .edit(&mut |crdt| crdt.text().unwrap().splice(0, 0, word))
        .unwrap();
}

fn take_rows(document: &mut Document, onto: &Rows) -> Rows {
    let mut rows: BTreeMap<_, _> = onto.iter().cloned().collect();
    for change in document.take_changes(&Keeping::default()) {
        match change.value {
            Some(value) => rows.insert(change.key, value),
            None => rows.remove(&change.key),
        };
    }
    rows.into_iter().collect()
}

/// The record as the service hands it to a device that knows the author.
fn elide(append: &Append, first_seq: u64) -> Vec<DeliveredRecord> {
    let records = append.records.iter().zip(first_seq..);
    records
        .map(|(record, seq)| {
            DeliveredRecord::Update(ElidedRecord {
                author: Varint(0),
                epoch: Varint(append.epoch),
                seen_back: Varint(seq - record.seen_size.0),
                seen_hint: record.seen_hint,
                sealed: record.sealed.clone(),
            })
        })
        .collect()
}

impl Log {
    fn new() -> Self {
        let keys = [
            DeviceKey::from_bytes(&[1; 32]),
            DeviceKey::from_bytes(&[2; 32]),
        ];
        let state = group_state(&keys);
        let ctx = context(&state, OWN);
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let (mut own, base) = Document::create(
            &ctx,
            GROUP,
            DOCUMENT,
            CrdtKind::Yjs,
            INSTANCES[0],
            Some(&mut |crdt| crdt.text().unwrap().splice(0, 0, "minutes")),
            sealer(&keys, &mut rng),
        )
        .unwrap();
        own.snapshot_accepted(&ctx, 0).unwrap();
        let mut first = answer(own.head(), &base);
        first.base = None;
        let mut session = own.session(&first);
        own.opened(&ctx, &first, &mut rng).unwrap();
        let mut records = vec![DeliveredRecord::Leaf(base.leaf())];
        for word in ["one ", "two ", "three "] {
            write(&mut own, word);
            let append = own.next_append(&ctx, &mut session, sealer(&keys, &mut rng), 100_000);
            let append = append.unwrap().unwrap();
            let (at, count) = (own.size(), append.records.len() as u64);
            records.extend(elide(&append, at));
            let next = append.first_clock + count;
            own.acked(&ctx, &mut session, next, at, count).unwrap();
        }
        let opened = answer(own.head(), &base);
        write(&mut own, "unsent ");
        own.next_append(&ctx, &mut session, sealer(&keys, &mut rng), 100_000)
            .unwrap();
        write(&mut own, "unsealed ");
        let mut author = take_rows(&mut own, &Vec::new());
        // A record that waits: known by its hash.
        let mut waiting = vec![b'w'];
        waiting.extend_from_slice(&40u64.to_be_bytes());
        author.push((waiting, Zeroizing::new([&[3u8][..], &[5; 32]].concat())));

        let head = own.head();
        let merged = merge(&mut own, &ctx, &author, &base, &keys);

        let ctx = context(&state, OTHER);
        let (mut other, _) =
            Document::open_remote(&ctx, &opened, GROUP, DOCUMENT, INSTANCES[1], &mut rng).unwrap();
        let empty = take_rows(&mut other, &Vec::new());
        other.deliver(&ctx, 0, records.clone()).unwrap();
        assert_eq!(other.head(), head);
        let reader = take_rows(&mut other, &empty);
        let root = Keys.root(0).unwrap();
        let content = conclave_doc::DocKeys::derive(&root, &DOCUMENT);
        let payload = conclave_doc::open(&base, &content).unwrap().to_vec();
        let (carried, record) = carry(&content, &keys, head);
        let whole = DeliveredRecord::Whole {
            record,
            proof: Vec::new(),
        };
        let size = other.size();
        other.deliver(&ctx, size, vec![whole.clone()]).unwrap();
        assert_eq!(other.size(), size + 1);
        let later = take_rows(&mut other, &reader);
        Self {
            opened,
            records,
            payload,
            carried,
            whole,
            author,
            reader,
            later,
            merged,
            state,
            keys,
        }
    }
}

/// The service's log has nothing but its first snapshot.
fn merge(
    own: &mut Document,
    ctx: &DocContext<'_>,
    rows: &Rows,
    base: &Record,
    keys: &[DeviceKey; 2],
) -> Rows {
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let mut frontier = Frontier::new();
    frontier.push(base.leaf());
    let opened = answer(frontier.head(), base);
    let kept = KeptLog::read(rows).unwrap();
    own.merge(ctx, &opened, &kept, InstanceId([8; 8]), &mut rng)
        .unwrap();
    assert!(own.take_anew());
    let begun = vec![DeliveredRecord::Leaf(base.leaf())];
    own.deliver(ctx, 0, begun).unwrap();
    let mut session = own.session(&opened);
    let append = own.next_append(ctx, &mut session, sealer(keys, &mut rng), 100_000);
    assert!(append.unwrap().is_some());
    assert_eq!(own.lost_count(), 3);
    take_rows(own, &Vec::new())
}

/// An update that no log has, and a record of the same device, in another life, that carries it.
fn carry(keys: &DocKeys, signers: &[DeviceKey; 2], seen: Head) -> (Vec<u8>, Record) {
    let [signer, _] = signers;
    let replica = ReplicaId::for_kind(CrdtKind::Yjs, [9; 16]);
    let mut crdt = conclave_crdt::create(CrdtKind::Yjs, replica).unwrap();
    crdt.text().unwrap().splice(0, 0, "lost ").unwrap();
    let mut updates = Vec::new();
    crdt.take_pending(&mut updates).unwrap();
    let header = |instance, body| RecordHeader {
        version: RECORD_VERSION,
        group: GROUP,
        document: DOCUMENT,
        epoch: 0,
        author: Author {
            device: OWN,
            instance,
        },
        seen,
        body,
    };
    let place = |clock, prev| Chained { clock, prev };
    let body = RecordBody::Update(place(9, Hash([9; 32])));
    let update = updates.first().unwrap();
    let lost = header(INSTANCES[0], body);
    let record = seal_with_nonce(&lost, update, keys, signer, 1, [9; 24]);
    let payload = CarriedPayload {
        keys: keys.of_record(&record.sealed.nonce),
        record,
    };
    let bytes = payload.to_bytes().to_vec();
    let body = RecordBody::Carried(place(0, Hash::ZERO));
    let carrier = header(InstanceId([9; 8]), body);
    let record = seal_with_nonce(&carrier, &bytes, keys, signer, 1, [10; 24]);
    (bytes, record)
}

fn joined(rows: &Rows) -> Vec<u8> {
    join_rows(
        rows.iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice())),
    )
}

fn snapshot_payload(bytes: &[u8]) -> Decoded {
    match SnapshotPayload::from_bytes(bytes) {
        Ok(payload) => Ok(Some(payload.to_bytes().to_vec())),
        Err(error) => Err(error.code()),
    }
}

fn verdict(bytes: &[u8]) -> Decoded {
    match VerdictPayload::from_bytes(bytes) {
        Ok(payload) => Ok(Some(payload.to_bytes())),
        Err(error) => Err(error.code()),
    }
}

fn carried(bytes: &[u8]) -> Decoded {
    match CarriedPayload::from_bytes(bytes) {
        Ok(payload) => Ok(Some(payload.to_bytes().to_vec())),
        Err(error) => Err(error.code()),
    }
}

fn opened(bytes: &[u8]) -> Decoded {
    let opened: OpenedDocument = read(bytes, limits::FRAME_BYTES)?;
    let log = log();
    let ctx = context(&log.state, OTHER);
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    // Again on a connection, and for the first time.
    if let Ok(mut known) = Document::load(&ctx, log.reader.clone(), &mut rng) {
        let _ = known.opened(&ctx, &opened, &mut rng);
    }
    code(
        Document::open_remote(&ctx, &opened, GROUP, DOCUMENT, INSTANCES[1], &mut rng),
        DocError::code,
    )
}

fn delivered(bytes: &[u8]) -> Decoded {
    let records: Tail<DeliveredRecord> = read(bytes, limits::FRAME_BYTES)?;
    let log = log();
    let ctx = context(&log.state, OTHER);
    let mut rng = ChaCha20Rng::from_seed([6; 32]);
    let (mut document, _) =
        Document::open_remote(&ctx, &log.opened, GROUP, DOCUMENT, INSTANCES[1], &mut rng)
            .map_err(|error| error.code())?;
    let outcome = document
        .deliver(&ctx, 0, records.0)
        .map_err(|error| error.code())?;
    let _ = document.take_changes(&Keeping::default());
    match outcome.findings.first() {
        Some(_) => Err("doc.finding"),
        None => Ok(None),
    }
}

fn kept(bytes: &[u8]) -> Decoded {
    let rows = split_rows(bytes).ok_or("input.no_rows")?;
    let rows: Rows = rows
        .into_iter()
        .map(|(key, value)| (key, Zeroizing::new(value)))
        .collect();
    for (key, value) in &rows {
        let _ = conclave_doc::present_segments(key, value);
    }
    let log = KeptLog::read(&rows).map_err(|error| error.code())?;
    let _ = KeptLog::check(&rows);
    let _ = log.since(log.first());
    Ok(None)
}

fn rows(bytes: &[u8]) -> Decoded {
    let rows = split_rows(bytes).ok_or("input.no_rows")?;
    let rows = rows
        .into_iter()
        .map(|(key, value)| (key, Zeroizing::new(value)))
        .collect();
    let log = log();
    let ctx = context(&log.state, OWN);
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let mut document = Document::load(&ctx, rows, &mut rng).map_err(|error| error.code())?;
    let mut session = document.session(&log.opened);
    let _ = document.opened(&ctx, &log.opened, &mut rng);
    let _ = document.next_append(&ctx, &mut session, sealer(&log.keys, &mut rng), 100_000);
    let _ = document.take_changes(&Keeping::default());
    Ok(None)
}

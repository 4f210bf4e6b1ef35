//! Sealed records, what they seal, chains and snapshots, content.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use conclave_crdt::{Crdt, CrdtKind, PathElement, ReplicaId, create};
use conclave_doc::{
    Account, CarriedPayload, ClaimRun, Claims, DiffersWhy, DocKeys, Judgement, ReplicaOwner,
    SnapshotPayload, Tables, VerdictPayload, open, padded_len, seal_with_nonce,
};
use conclave_identity::DeviceKey;
use conclave_mls::EpochRoot;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::merkle::{Frontier, Head};
use conclave_proto::record::{
    Chained, RECORD_LABEL, RECORD_VERSION, Record, RecordBody, RecordHeader, SnapshotHeader,
};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, InstanceId, SessionId, UserId};
use zeroize::Zeroizing;

use super::value::Shown;
use super::{Book, Entry};

const DOCUMENT: DocumentId = DocumentId([0x44; 16]);

fn author() -> Author {
    Author {
        device: DeviceId([0x11; 16]),
        instance: InstanceId([0x22; 8]),
    }
}

fn header(body: RecordBody) -> RecordHeader {
    RecordHeader {
        version: RECORD_VERSION,
        group: GroupId([0x33; 16]),
        document: DOCUMENT,
        epoch: 5,
        author: author(),
        seen: Head {
            size: 3,
            root: Hash([0x55; 32]),
        },
        body,
    }
}

fn root() -> EpochRoot {
    EpochRoot::new([0x66; 32])
}

fn signer() -> DeviceKey {
    DeviceKey::from_bytes(&[0x77; 32])
}

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let chained = Chained {
        clock: 4,
        prev: Hash([0x99; 32]),
    };
    let update = sealed(
        book,
        "an update",
        RecordBody::Update(chained),
        b"an update",
        (1, 1),
    )?;
    let judgement = Judgement::Differs(DiffersWhy::Content);
    let verdict = VerdictPayload::new(Hash([0xbb; 32]), 0, judgement).to_bytes();
    sealed(
        book,
        "a verdict",
        RecordBody::Verdict(chained),
        &verdict,
        (64, 2),
    )?;
    let payload = snapshot()?;
    let replaced = SnapshotHeader {
        parent: Hash([0xcc; 32]),
        chain_proof: Hash([0xdd; 32]),
        covered: payload.frontier.head(),
        crdt: 1,
    };
    let bytes = payload.to_bytes();
    let made = sealed(
        book,
        "a snapshot",
        RecordBody::Snapshot(replaced),
        &bytes,
        (256, 3),
    )?;
    let lost = CarriedPayload {
        keys: DocKeys::derive(&root(), &DOCUMENT).of_record(&update.sealed.nonce),
        record: update,
    };
    let lost = lost.to_bytes();
    sealed(
        book,
        "a carried record",
        RecordBody::Carried(chained),
        &lost,
        (1, 4),
    )?;
    let session = SessionId([0x5e; 16]);
    book.of(
        "a header of presence, which no log takes",
        "RecordHeader",
        &header(RecordBody::Presence { session }),
    )?;
    payloads(book, &payload, &lost)?;
    chain(book, &made, &replaced)?;
    padding(book);
    super::content::write(book)
}

/// A sealed record, with every step from the root of its epoch.
fn sealed(
    book: &mut Book<'_>,
    name: &str,
    body: RecordBody,
    payload: &[u8],
    (padding_bytes, nonce): (u16, u8),
) -> Result<Record> {
    let keys = DocKeys::derive(&root(), &DOCUMENT);
    let nonce = [nonce; 24];
    let header = header(body);
    let record = seal_with_nonce(&header, payload, &keys, &signer(), padding_bytes, nonce);
    let opened = open(&record, &keys).map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
    ensure!(opened.as_slice() == payload, "another payload");
    let mut plaintext = payload.to_vec();
    plaintext.push(0x80);
    plaintext.resize(padded_len(payload.len(), padding_bytes), 0);
    let mut entry = book.of(name, "Record", &record)?;
    entry
        .given_hex("epoch_root", root().as_bytes())
        .given("padding_bytes", u64::from(padding_bytes))
        .given_hex("payload", payload)
        .given_hex("seed of the device key", signer().to_bytes().as_slice());
    super::keys::of_record(&mut entry, &root(), &DOCUMENT, &nonce)?;
    let of_record = keys.of_record(&nonce);
    let header = encode(&header);
    let inner = [&[0; 4][..], nonce.split_at(16).1].concat();
    let of = [
        ("key", of_record.content().as_slice()),
        ("nonce", &inner),
        ("plaintext", &plaintext),
        ("aad", &header),
    ];
    let out = [record.sealed.ciphertext.as_slice(), &record.sealed.tag].concat();
    entry.makes("ciphertext ‖ tag", "ChaCha20-Poly1305", &of, out);
    let tag = &record.sealed.tag;
    let content = [&encode(&Bytes::from(header.as_slice()))[..], &nonce, tag].concat();
    let of = [
        ("key", of_record.commitment().as_slice()),
        ("content", &content),
    ];
    entry.makes("commitment", "HMAC-SHA256", &of, record.sealed.commitment);
    core(&mut entry, &record, &signer().public())?;
    Ok(record)
}

/// From a record to its leaf.
pub(super) fn core(entry: &mut Entry<'_>, record: &Record, key: &[u8; 32]) -> Result<()> {
    let (header, sealed) = (encode(&record.header), &record.sealed);
    let ciphertext = sealed.ciphertext.as_slice();
    let parts: [&[u8]; 5] = [
        &header,
        &sealed.nonce,
        ciphertext,
        &sealed.tag,
        &sealed.commitment,
    ];
    let core = record.core();
    let data = [&core.0[..], &sealed.signature].concat();
    entry
        .labelled("core", "conclave 1.0 record core", &parts, &core)?
        .signed("signature", key, RECORD_LABEL, &core.0, &sealed.signature)?
        .makes("leaf", "leaf", &[("data", &data)], record.leaf().0);
    Ok(())
}

fn snapshot() -> Result<SnapshotPayload> {
    let mut tables = Tables {
        epoch_high: 5,
        ..Tables::default()
    };
    tables.advance(author(), 0, Hash([0x88; 32]));
    let owner = ReplicaOwner {
        device: author().device,
        next: 9,
    };
    tables
        .owners
        .insert(ReplicaId::from_bytes(&[0xaa; 8])?, owner);
    let (balance, size) = (4_000_000, 7);
    let account = Account { balance, size };
    tables.set_account(UserId([0xcc; 32]), account);
    tables.ops = 9;
    let mut frontier = Frontier::new();
    (1..=3).for_each(|leaf| frontier.push(Hash([leaf; 32])));
    let run = |counter, seq, each, carrier| ClaimRun {
        counter,
        seq,
        records: 1,
        each,
        carrier,
    };
    let runs = vec![run(0, 0, 5, None), run(5, 2, 4, Some(DeviceId([0xdd; 16])))];
    let claims = Claims {
        runs: BTreeMap::from([(ReplicaId::from_bytes(&[0xaa; 8])?, runs)]),
        epochs: vec![(0, 2), (2, 5)],
    };
    Ok(SnapshotPayload {
        frontier,
        tables,
        claims: Some(claims),
        state: Zeroizing::new(b"state".to_vec()),
    })
}

fn payloads(book: &mut Book<'_>, snapshot: &SnapshotPayload, carried: &[u8]) -> Result<()> {
    let bytes = snapshot.to_bytes();
    ensure!(SnapshotPayload::from_bytes(&bytes)?.to_bytes() == bytes);
    book.bytes("what the snapshot seals", "SnapshotPayload", &bytes)?;
    ensure!(CarriedPayload::from_bytes(carried)?.to_bytes().as_slice() == carried);
    book.bytes("what the carried record seals", "CarriedPayload", carried)?;
    let differs = [
        DiffersWhy::Unreadable,
        DiffersWhy::Unloadable,
        DiffersWhy::Content,
        DiffersWhy::Tables,
    ];
    let all = differs
        .map(Judgement::Differs)
        .into_iter()
        .chain([Judgement::Match]);
    for judgement in all {
        let verdict = VerdictPayload::new(Hash([0xbb; 32]), 17, judgement);
        book.of("what a verdict seals", "VerdictPayload", &verdict)?;
    }
    Ok(())
}

fn chain(book: &mut Book<'_>, parent: &Record, of: &SnapshotHeader) -> Result<()> {
    let id = parent.leaf();
    let proof = of.successor_proof(&id);
    let next = SnapshotHeader {
        parent: id,
        chain_proof: proof,
        ..*of
    };
    book.of(
        "header of the snapshot after that one",
        "SnapshotHeader",
        &next,
    )?
    .labelled(
        "chain_proof",
        "conclave 1.0 snapshot chain",
        &[&of.chain_proof.0, &id.0],
        &proof,
    )?;
    Ok(())
}

fn padding(book: &mut Book<'_>) {
    for (length, padding_bytes) in [(0, 1), (9, 1), (15, 16), (16, 16), (255, 256), (256, 256)] {
        let padded = padded_len(length, padding_bytes) as u64;
        book.plain("length of a padded payload")
            .given("length of the payload", length as u64)
            .given("padding_bytes", u64::from(padding_bytes))
            .follows("length of the ciphertext", "", &[], padded);
    }
}

/// A replica of a document, and what it wrote.
pub(super) fn replica(kind: CrdtKind, id: &[u8]) -> Result<Box<dyn Crdt>> {
    Ok(create(kind, ReplicaId::from_bytes(id)?)?)
}

/// What a replica wrote since it was asked last: one update.
pub(super) fn written(crdt: &mut dyn Crdt) -> Result<Vec<u8>> {
    let mut updates = Vec::new();
    crdt.take_pending(&mut updates)?;
    ensure!(updates.len() == 1, "{} updates", updates.len());
    updates.pop().context("no update")
}

/// The path of one key.
pub(super) fn at(key: &str) -> Vec<PathElement> {
    vec![PathElement::from(key)]
}

/// Ranges of an update, as they count for replica ids.
pub(super) fn ranges(crdt: &dyn Crdt, update: &[u8]) -> Result<Shown> {
    let read = crdt.inspect(update)?;
    let ranges = read.info.ranges.iter().map(|range| {
        Shown::Fields(vec![
            ("replica".to_owned(), Shown::hex(range.replica.as_bytes())),
            ("start".to_owned(), range.start.into()),
            ("end".to_owned(), range.end.into()),
        ])
    });
    Ok(Shown::List(ranges.collect()))
}

//! Logins, generations, signed heads and losses.

use anyhow::{Result, ensure};
use conclave_identity::{
    HeadKey, NewGeneration, ServiceKey, convict, verify_generation, verify_head, verify_loss,
};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::evidence::{Charge, EVIDENCE_VERSION, Evidence};
use conclave_proto::frame::{LOGIN_LABEL, LoginStatement};
use conclave_proto::ids::{InstanceId, LifeToken};
use conclave_proto::merkle::{consistency_proof, leaf_hash, root_of};
use conclave_proto::record::{Author, Chained, RECORD_LABEL, RECORD_VERSION, Sealed};
use conclave_proto::service::{
    Cause, GENERATION_LABEL, Generation, LOSS_LABEL, LogName, cosigned, note, service_name,
};
use conclave_proto::{DocumentId, GroupId, Hash, Head, Record, RecordBody, RecordHeader, UnixMs};

use super::Book;
use super::identity::Cast;

const FOUNDED: UnixMs = UnixMs(1_700_000_000_123);
const SECONDS: u64 = 1_700_000_001;

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let service = ServiceKey::from_bytes(&[1; 32]);
    let (first, second) = (HeadKey::from_bytes(&[2; 32]), HeadKey::from_bytes(&[3; 32]));
    let new = |cause, begun, key: &HeadKey| NewGeneration {
        cause,
        begun,
        head_key: key.public(),
    };
    let founded = service.begin(None, new(Cause::Founded, FOUNDED, &first));
    let later = FOUNDED.plus_ms(3_600_000);
    let put_back = service.begin(Some(&founded), new(Cause::PutBack, later, &second));
    let restored = service.begin(Some(&put_back), new(Cause::Restored, later, &first));
    generation(book, "the first generation", &service, (&founded, 2))?;
    generation(book, "the service was put back", &service, (&put_back, 3))?;
    generation(
        book,
        "its operator put it back in the same millisecond",
        &service,
        (&restored, 2),
    )?;
    let name = service_name(&service.public());
    book.plain("name of the service in what head keys sign")
        .given_hex("service's key", service.public())
        .follows("<service>", "", &[], name);
    heads(book, &service, &founded, &first)?;
    losses(book, &service, &put_back)?;
    evidence(book, &service, (&founded, &put_back), &first)?;
    login(book, &service)
}

/// Each kind, as it convicts: whoever reads these bytes finds the same.
fn evidence(
    book: &mut Book<'_>,
    service: &ServiceKey,
    (of, later): (&Generation, &Generation),
    heads: &HeadKey,
) -> Result<()> {
    let (public, log) = (service.public(), log(Some(DocumentId([2; 16]))));
    let leaves = |name: u8, count: u8| -> Vec<Hash> {
        let own = (0..count).map(|at| leaf_hash(&[&[if at < 2 { 0 } else { name }, at]]));
        own.collect()
    };
    let noted = |leaves: &[Hash], seconds| -> Bytes {
        let (size, root) = (leaves.len() as u64, root_of(leaves));
        let signed = heads.sign(&public, of.number, &log, Head { size, root }, seconds);
        note(&public, of, &log, &signed).into()
    };
    let (one, other) = (leaves(1, 5), leaves(2, 9));
    let short = noted(&one, SECONDS);
    book.plain("a signed head as a note")
        .given_hex("service's key", public)
        .given_hex("head key", heads.public())
        .given("generation", of.number)
        .follows(
            "note",
            "",
            &[],
            String::from_utf8(short.as_slice().to_vec())?,
        );
    let fork = Charge::Fork {
        a: short.clone(),
        b: noted(&other, SECONDS),
        root: root_of(other.get(..5).unwrap_or_default()),
        proof: consistency_proof(&other, 5)?,
    };
    let rollback = Charge::Rollback {
        a: noted(&leaves(1, 7), SECONDS),
        b: noted(&one, SECONDS + 1),
    };
    let cast = Cast::new()?;
    let record = |content: u8| {
        let device = cast.credential.certificate.device;
        let header = RecordHeader {
            version: RECORD_VERSION,
            group: log.group,
            document: DocumentId([2; 16]),
            epoch: 3,
            author: Author {
                device,
                instance: InstanceId([0x1e; 8]),
            },
            seen: head(5_210),
            body: RecordBody::Update(Chained {
                clock: 7,
                prev: Hash([0xcd; 32]),
            }),
        };
        let mut sealed = Sealed::public([0; 64]);
        sealed.ciphertext = vec![content; 3].into();
        let mut record = Record { header, sealed };
        record.sealed.signature = cast.first_key.sign(RECORD_LABEL, &record.core().0);
        record
    };
    let equivocation = Charge::Equivocation {
        certificate: cast.credential.to_bytes().into(),
        a: record(1),
        b: record(2),
    };
    let parallel = Charge::Parallel {
        later: *later,
        a: noted(&one, later.begun.0 / 1000 + 700),
    };
    for (name, charge) in [
        ("evidence of two histories", fork),
        ("evidence of a log that became shorter", rollback),
        ("evidence of two records for one place", equivocation),
        ("evidence of a generation that went on", parallel),
    ] {
        let evidence = Evidence {
            version: EVIDENCE_VERSION,
            generation: *of,
            charge,
        };
        convict(&public, &evidence)?;
        book.of(name, "Evidence", &evidence)?
            .given_hex("service's key", public);
    }
    Ok(())
}

fn generation(
    book: &mut Book<'_>,
    name: &str,
    service: &ServiceKey,
    (generation, head_seed): (&Generation, u8),
) -> Result<()> {
    verify_generation(&service.public(), generation)?;
    book.of(name, "Generation", generation)?
        .given_hex("seed of the service's key", service.to_bytes().as_slice())
        .given_hex("seed of the head key", [head_seed; 32])
        .signed(
            "signature",
            &service.public(),
            GENERATION_LABEL,
            &generation.signed_bytes(),
            &generation.signature,
        )?
        .labelled(
            "its hash",
            "conclave 1.0 service generation id",
            &[&encode(generation)],
            &generation.hash(),
        )?;
    Ok(())
}

fn log(document: Option<DocumentId>) -> LogName {
    let group = GroupId([1; 16]);
    LogName { group, document }
}

fn head(size: u64) -> Head {
    Head {
        size,
        root: Hash([0xab; 32]),
    }
}

fn heads(book: &mut Book<'_>, service: &ServiceKey, of: &Generation, key: &HeadKey) -> Result<()> {
    let (public, number) = (service.public(), of.number);
    for (name, log) in [
        ("a document's log", log(Some(DocumentId([2; 16])))),
        ("a group's log", log(None)),
    ] {
        let head = head(5_210);
        let signed = key.sign(&public, number, &log, head, SECONDS);
        verify_head(&public, of, &log, &signed)?;
        let text = cosigned(&public, number, &log, &head, SECONDS);
        book.of(&format!("name of {name}"), "LogName", &log)?;
        book.of(&format!("signed head of {name}"), "SignedHead", &signed)?
            .given_hex("service's key", public)
            .given("generation", number)
            .given_hex("head key", key.public())
            .given_hex("log", encode(&log))
            .follows("text", "", &[], String::from_utf8(text.clone())?)
            .makes(
                "signature",
                "Ed25519",
                &[("message", &text)],
                signed.signature,
            );
    }
    Ok(())
}

fn losses(book: &mut Book<'_>, service: &ServiceKey, of: &Generation) -> Result<()> {
    for (name, log) in [
        ("a declared loss of a group's log", log(None)),
        (
            "a declared loss of a document's log",
            log(Some(DocumentId([2; 16]))),
        ),
    ] {
        let loss = service.declare_loss(of.number, log, head(5_200), head(5_210));
        verify_loss(&service.public(), &loss)?;
        let signed = loss.signed_bytes();
        book.of(name, "Loss", &loss)?
            .given_hex("service's key", service.public())
            .signed(
                "signature",
                &service.public(),
                LOSS_LABEL,
                &signed,
                &loss.signature,
            )?;
    }
    Ok(())
}

fn login(book: &mut Book<'_>, service: &ServiceKey) -> Result<()> {
    let cast = Cast::new()?;
    let statement = LoginStatement {
        nonce: [0x29; 32],
        origin: Bytes::from(b"wss://ds.example".as_slice()),
        service_key: service.public(),
        device: cast.credential.certificate.device,
        life: 7,
        life_token: LifeToken([0x31; 16]),
        take_over: 0,
    };
    // The struct is only ever signed: nobody reads it.
    let signed = encode(&statement);
    let signature = cast.first_key.sign(LOGIN_LABEL, &signed);
    ensure!(!signed.is_empty());
    book.of(
        "what a device signs to log in",
        "LoginStatement",
        &statement,
    )?
    .given_hex(
        "seed of the device key",
        cast.first_key.to_bytes().as_slice(),
    )
    .signed(
        "signature",
        &cast.first_key.public(),
        LOGIN_LABEL,
        &signed,
        &signature,
    )?;
    Ok(())
}

//! Statements of users and devices, texts, and numbers that people compare.

use anyhow::{Context as _, Result, ensure};
use conclave_identity::{
    ACCEPTANCE_LABEL, APPROVAL_LABEL, CERTIFICATE_LABEL, Contact, DeviceApproval, DeviceCredential,
    DeviceKey, DeviceRequest, HandsOver, LIST_LABEL, Pin, REQUEST_LABEL, ReceivingKey,
    SEALED_KEY_LABEL, SealedUserKey, SignedDeviceList, UserGenesis, UserKey, enrol_first,
    group_code, safety_number,
};
use conclave_proto::codec::encode;
use conclave_proto::hash::labelled;
use conclave_proto::{DeviceId, RealmId, UnixMs};
use data_encoding::BASE32_NOPAD_NOCASE;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::{Book, NOW};

/// When a device was approved.
const APPROVED: UnixMs = UnixMs(NOW.0 + 600_000);
const SIGNATURE: usize = 64;

/// The users and devices of the vectors.
pub(super) struct Cast {
    pub(super) anna_key: UserKey,
    pub(super) anna: UserGenesis,
    pub(super) boris: UserGenesis,
    pub(super) first_key: DeviceKey,
    pub(super) second_key: DeviceKey,
    pub(super) credential: DeviceCredential,
    pub(super) list: SignedDeviceList,
}

impl Cast {
    pub(super) fn new() -> Result<Self> {
        let (anna_key, boris_key) = (UserKey::from_bytes(&[1; 32]), UserKey::from_bytes(&[2; 32]));
        let (first_key, second_key) = (
            DeviceKey::from_bytes(&[0x11; 32]),
            DeviceKey::from_bytes(&[0x12; 32]),
        );
        let anna = genesis(&anna_key, 0x51);
        let (credential, list) =
            enrol_first(&anna_key, &anna, &first_key, DeviceId([0xd1; 16]), NOW)?;
        Ok(Self {
            boris: genesis(&boris_key, 0x52),
            anna_key,
            anna,
            first_key,
            second_key,
            credential,
            list,
        })
    }
}

fn genesis(key: &UserKey, salt: u8) -> UserGenesis {
    UserGenesis {
        version: conclave_identity::STATEMENT_VERSION,
        realm: RealmId([0xa0; 16]),
        key: key.public(),
        created: NOW,
        salt: [salt; 16],
    }
}

/// All but the signature at the end.
fn unsigned(bytes: &[u8]) -> &[u8] {
    let end = bytes.len().saturating_sub(SIGNATURE);
    bytes.get(..end).unwrap_or_default()
}

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let cast = Cast::new()?;
    for (name, seed, user) in [("Anna", 1u8, &cast.anna), ("Boris", 2, &cast.boris)] {
        let bytes = user.to_bytes();
        let (id, hash) = (user.user_id(), user.hash());
        book.of(&format!("{name}'s genesis"), "UserGenesis", user)?
            .given_hex("seed of the user key", [seed; 32])
            .labelled(
                "user id",
                "conclave 1.0 user id",
                &[&bytes],
                &conclave_proto::Hash(id.0),
            )?
            .labelled(
                "genesis hash",
                "conclave 1.0 user genesis",
                &[&bytes],
                &hash,
            )?
            .follows(
                "user fingerprint",
                "digits",
                &[("groups", 6u64.into())],
                user.fingerprint(),
            );
    }
    credential(
        book,
        "Anna's first device",
        &cast.credential,
        (&cast.anna, &cast.first_key),
    )?;
    list(book, "Anna's first device list", &cast.list)?;
    let second = enrolment(book, &cast)?;
    credential(
        book,
        "Anna's second device",
        &second,
        (&cast.anna, &cast.second_key),
    )?;
    numbers(book, &cast)
}

fn credential(
    book: &mut Book<'_>,
    whose: &str,
    credential: &DeviceCredential,
    (user, key): (&UserGenesis, &DeviceKey),
) -> Result<()> {
    let certificate = encode(&credential.certificate);
    let (by_user, by_device) = (credential.user_signature, credential.device_signature);
    book.of(
        &format!("certificate of {whose}"),
        "DeviceCertificate",
        &credential.certificate,
    )?
    .given_hex("seed of the device key", key.to_bytes().as_slice())
    .signed(
        "user_signature",
        &user.key,
        CERTIFICATE_LABEL,
        &certificate,
        &by_user,
    )?;
    let both = [certificate.as_slice(), &by_user].concat();
    book.of(
        &format!("credential of {whose}"),
        "DeviceCredential",
        credential,
    )?
    .signed(
        "user_signature",
        &user.key,
        CERTIFICATE_LABEL,
        &certificate,
        &by_user,
    )?
    .signed(
        "device_signature",
        &key.public(),
        ACCEPTANCE_LABEL,
        &both,
        &by_device,
    )?;
    Ok(())
}

fn list(book: &mut Book<'_>, name: &str, list: &SignedDeviceList) -> Result<()> {
    let signed = encode(&list.list);
    book.of(name, "SignedDeviceList", list)?
        .signed(
            "signature",
            &list.genesis.key,
            LIST_LABEL,
            &signed,
            &list.signature,
        )?
        .labelled(
            "hash of list",
            "conclave 1.0 device list hash",
            &[&list.to_bytes()],
            &list.hash(),
        )?;
    Ok(())
}

/// A second device asks, is approved, and has a credential.
fn enrolment(book: &mut Book<'_>, cast: &Cast) -> Result<DeviceCredential> {
    let (anna, key) = (&cast.anna, &cast.second_key);
    let receiving = ReceivingKey::from_bytes(&[0x13; 32]);
    let request = DeviceRequest::new(key, &receiving, anna.realm, DeviceId([0xd2; 16]), "tablet")?;
    let bytes = request.to_bytes();
    let hash = request.hash();
    let mut entry = book.of("request of Anna's second device", "DeviceRequest", &request)?;
    entry
        .given_hex("seed of the device key", key.to_bytes().as_slice())
        .given_hex("private key to hpke_key", receiving.to_bytes().as_slice())
        .signed(
            "proof",
            &key.public(),
            REQUEST_LABEL,
            unsigned(&bytes),
            &request.proof,
        )?
        .labelled(
            "hash of request",
            "conclave 1.0 device request hash",
            &[&bytes],
            &hash,
        )?
        .follows(
            "request code",
            "digits",
            &[("groups", 6u64.into())],
            request.code(),
        );
    text(
        &mut entry,
        "conclave:device-request:",
        &bytes,
        &request.to_text(),
    )?;
    drop(entry);

    let pin = Pin::new(&cast.boris, "Boris", true, NOW);
    let mut rng = ChaCha20Rng::from_seed([0x14; 32]);
    let hands_over = HandsOver::UserKey(&mut rng);
    let approval = cast.anna_key.approve(
        &request,
        &cast.list,
        "Anna Ångström",
        &[pin],
        hands_over,
        APPROVED,
    )?;
    let bytes = approval.to_bytes();
    let read = DeviceApproval::from_bytes(&bytes)?;
    let mut entry = book.of("approval of Anna's second device", "DeviceApproval", &read)?;
    entry.signed(
        "signature",
        &anna.key,
        APPROVAL_LABEL,
        unsigned(&bytes),
        &approval.signature,
    )?;
    text(
        &mut entry,
        "conclave:device-approval:",
        &bytes,
        &approval.to_text(),
    )?;
    drop(entry);
    let sealed = approval.user_key.as_ref().context("no user key")?;
    let opened = approval.open_user_key(&receiving)?.context("no user key")?;
    let (seed, private) = (opened.to_bytes(), receiving.to_bytes());
    let hash = request.hash();
    let info = [SEALED_KEY_LABEL.as_bytes(), hash.as_bytes()].concat();
    let of: [(&str, &[u8]); 5] = [
        ("private key", private.as_slice()),
        ("enc", &sealed.enc),
        ("info", &info),
        ("aad", before_key(&bytes, sealed)?),
        ("ciphertext", sealed.sealed.as_slice()),
    ];
    book.of(
        "Anna's user key for her second device",
        "SealedUserKey",
        sealed,
    )?
    .makes("seed of the user key", "HPKE open", &of, seed.as_slice());
    list(book, "Anna's second device list", &approval.list)?;
    Ok(approval.finish(key, &request)?)
}

/// What stands before the sealed key of an approval: that is there (one octet), itself, and the signature follow.
fn before_key<'a>(approval: &'a [u8], sealed: &SealedUserKey) -> Result<&'a [u8]> {
    let after = 1 + encode(sealed).len() + 64;
    let end = approval.len().checked_sub(after).context("short")?;
    approval.get(..end).context("short")
}

/// The text of a statement.
fn text(entry: &mut super::Entry<'_>, prefix: &str, statement: &[u8], is: &str) -> Result<()> {
    let label = "conclave 1.0 text checksum";
    let hash = labelled(label, &[prefix.as_bytes(), statement]);
    let checksum = hash.0.get(..4).context("short")?;
    let whole = [statement, checksum].concat();
    let written = format!(
        "{prefix}{}",
        BASE32_NOPAD_NOCASE.encode(&whole).to_lowercase()
    );
    ensure!(written == is, "another text");
    entry
        .labelled(
            "hash behind the checksum",
            label,
            &[prefix.as_bytes(), statement],
            &hash,
        )?
        .follows("text", "text", &[("prefix", prefix.into())], is);
    Ok(())
}

fn numbers(book: &mut Book<'_>, cast: &Cast) -> Result<()> {
    let contact = Contact::new(cast.anna.clone(), "Anna Ångström")?;
    let prefix = "conclave:user:";
    let is = contact.to_text();
    let digits = is.strip_prefix(prefix).context("another prefix")?;
    let statement = BASE32_NOPAD_NOCASE.decode(digits.as_bytes())?;
    let end = statement.len().saturating_sub(4);
    let statement = statement.get(..end).context("short")?;
    ensure!(Contact::from_text(&is)? == contact, "another contact");
    let mut entry = book.bytes("Anna as a contact", "Contact", statement)?;
    text(&mut entry, prefix, statement, &is)?;
    drop(entry);

    let number = safety_number(&cast.anna, &cast.boris);
    book.plain("safety number of Anna and Boris")
        .given_hex("Anna's genesis hash", cast.anna.hash().0)
        .given_hex("Boris's genesis hash", cast.boris.hash().0)
        .follows(
            "safety number",
            "digits",
            &[("groups", 12u64.into())],
            number,
        );
    let authenticator = [0x77; 32];
    book.plain("group code")
        .given_hex("epoch authenticator", authenticator)
        .follows(
            "group code",
            "digits",
            &[("groups", 6u64.into())],
            group_code(&authenticator),
        );
    Ok(())
}

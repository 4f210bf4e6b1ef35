//! From a Welcome and the private half of a key package to the secrets of the epoch, by RFC 9420 and RFC 9180 alone: a reader without an
//! implementation of MLS can do the same.

use anyhow::{Context as _, Result, bail, ensure};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::frame::WelcomeDelivery;
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use tls_codec::{DeserializeBytes, TlsDeserializeBytes, TlsSize};

use super::{Epoch, Package, Session};

/// What an `MLSMessage` begins with: the version and `mls_welcome` or `mls_key_package` (RFC 9420 §6).
const WELCOME: &[u8] = &[0, 1, 0, 3];
const KEY_PACKAGE: &[u8] = &[0, 1, 0, 5];

/// RFC 9420 §12.4.3.1.
#[derive(TlsSize, TlsDeserializeBytes)]
struct Welcome {
    _suite: u16,
    secrets: Vec<Encrypted>,
    group_info: Bytes,
}

#[derive(Debug, TlsSize, TlsDeserializeBytes)]
struct Encrypted {
    new_member: Bytes,
    kem_output: Bytes,
    ciphertext: Bytes,
}

/// A Welcome opens with a key package of the file, and leads to the secrets that the file states.
pub(super) fn check(session: &Session, delivery: &WelcomeDelivery) -> Result<()> {
    let mut epochs = session.epochs.iter();
    let stated = epochs
        .find(|it| it.epoch == delivery.epoch)
        .context("no epoch")?;
    let message = delivery.welcome.as_slice().strip_prefix(WELCOME);
    let welcome: Welcome = read(message.context("no Welcome")?)?;
    for entry in &welcome.secrets {
        let of = |package: &&Package| {
            reference(package).is_ok_and(|it| it == entry.new_member.as_slice())
        };
        if let Some(package) = session.key_packages.iter().find(of) {
            return open(package, entry, &welcome.group_info, stated);
        }
    }
    bail!("a Welcome for nobody in the file")
}

/// `KeyPackageRef` (RFC 9420 §5.2).
fn reference(package: &Package) -> Result<Vec<u8>> {
    let message = package.key_package.0.strip_prefix(KEY_PACKAGE);
    let value = Bytes::from(message.context("no key package")?);
    let label = Bytes::from(b"MLS 1.0 KeyPackage Reference".as_slice());
    Ok(Sha256::digest([encode(&label), encode(&value)].concat()).to_vec())
}

fn open(package: &Package, entry: &Encrypted, group_info: &Bytes, stated: &Epoch) -> Result<()> {
    let label = Bytes::from(b"MLS 1.0 Welcome".as_slice());
    let info = [encode(&label), encode(group_info)].concat();
    let private: [u8; 32] = package.init_key.exactly()?;
    let secrets = hpke_open(&private, entry, &info)?;
    let (joiner, _) = Bytes::tls_deserialize_bytes(&secrets)
        .ok()
        .context("no GroupSecrets")?;
    let (member, _) = Hkdf::<Sha256>::extract(Some(joiner.as_slice()), &[0; 32]);
    let welcome = derive(&member, "welcome")?;
    let key = expand(&welcome, "key", b"", 32)?;
    let nonce = expand(&welcome, "nonce", b"", 12)?;
    let info = unseal(&key, &nonce, group_info.as_slice())?;
    let epoch = expand(&member, "epoch", context_of(&info)?, 32)?;
    ensure!(
        derive(&epoch, "authentication")? == stated.epoch_authenticator.0,
        "another epoch"
    );
    let exporter = derive(&epoch, "exporter")?;
    for (label, is) in [
        ("conclave 1.0 epoch root", &stated.epoch_root),
        ("conclave 1.0 root wrap", &stated.wrap_key),
        ("conclave 1.0 presence", &stated.presence_root),
    ] {
        let of_label = derive(&exporter, label)?;
        let secret = expand(&of_label, "exported", &Sha256::digest(b""), 32)?;
        ensure!(secret == is.0, "another secret: {label}");
    }
    Ok(())
}

/// The GroupContext with which a GroupInfo begins (RFC 9420 §8.1).
fn context_of(info: &[u8]) -> Result<&[u8]> {
    #[derive(TlsSize, TlsDeserializeBytes)]
    struct GroupContext {
        _version: u16,
        _suite: u16,
        _group: Bytes,
        _epoch: u64,
        _tree_hash: Bytes,
        _transcript: Bytes,
        _extensions: Bytes,
    }
    let read = GroupContext::tls_deserialize_bytes(info).ok();
    let (_, rest) = read.context("no GroupContext")?;
    let length = info.len() - rest.len();
    info.get(..length).context("no GroupContext")
}

fn read<T: DeserializeBytes>(bytes: &[u8]) -> Result<T> {
    let (value, rest) = T::tls_deserialize_bytes(bytes).ok().context("malformed")?;
    ensure!(rest.is_empty(), "more than a message");
    Ok(value)
}

/// RFC 9420 §8.
fn expand(secret: &[u8], label: &str, context: &[u8], length: u16) -> Result<Vec<u8>> {
    let label = Bytes::from([b"MLS 1.0 ", label.as_bytes()].concat());
    let context = Bytes::from(context);
    let info = [
        &length.to_be_bytes()[..],
        &encode(&label),
        &encode(&context),
    ]
    .concat();
    hkdf_expand(secret, &info, length)
}

fn derive(secret: &[u8], label: &str) -> Result<Vec<u8>> {
    expand(secret, label, b"", 32)
}

fn hkdf_expand(secret: &[u8], info: &[u8], length: u16) -> Result<Vec<u8>> {
    let mut out = vec![0; usize::from(length)];
    let hkdf = Hkdf::<Sha256>::from_prk(secret)
        .ok()
        .context("a short secret")?;
    hkdf.expand(info, &mut out).ok().context("too long")?;
    Ok(out)
}

fn unseal(key: &[u8], nonce: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>> {
    let cipher = ChaCha20Poly1305::new_from_slice(key)
        .ok()
        .context("no key")?;
    let payload = Payload {
        msg: ciphertext,
        aad: b"",
    };
    cipher
        .decrypt(nonce.into(), payload)
        .ok()
        .context("it does not open")
}

/// HPKE, base mode, X25519, HKDF-SHA256, ChaCha20-Poly1305 (RFC 9180).
fn hpke_open(private: &[u8; 32], entry: &Encrypted, info: &[u8]) -> Result<Vec<u8>> {
    const KEM: &[u8] = b"KEM\x00\x20";
    const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";
    let enc: [u8; 32] = entry.kem_output.as_slice().try_into().context("no key")?;
    let public = x25519_dalek::x25519(*private, x25519_dalek::X25519_BASEPOINT_BYTES);
    let shared = x25519_dalek::x25519(*private, enc);
    let eae = labeled_extract(KEM, b"", "eae_prk", &shared);
    let secret = labeled_expand(KEM, &eae, "shared_secret", &[enc, public].concat(), 32)?;
    let psk_id = labeled_extract(SUITE, b"", "psk_id_hash", b"");
    let info = labeled_extract(SUITE, b"", "info_hash", info);
    let context = [&[0][..], &psk_id, &info].concat();
    let secret = labeled_extract(SUITE, &secret, "secret", b"");
    let key = labeled_expand(SUITE, &secret, "key", &context, 32)?;
    let nonce = labeled_expand(SUITE, &secret, "base_nonce", &context, 12)?;
    unseal(&key, &nonce, entry.ciphertext.as_slice())
}

fn labeled_extract(suite: &[u8], salt: &[u8], label: &str, ikm: &[u8]) -> Vec<u8> {
    let ikm = [b"HPKE-v1", suite, label.as_bytes(), ikm].concat();
    Hkdf::<Sha256>::extract(Some(salt), &ikm).0.to_vec()
}

fn labeled_expand(
    suite: &[u8],
    secret: &[u8],
    label: &str,
    info: &[u8],
    length: u16,
) -> Result<Vec<u8>> {
    let length_bytes = length.to_be_bytes();
    let info = [&length_bytes[..], b"HPKE-v1", suite, label.as_bytes(), info].concat();
    hkdf_expand(secret, &info, length)
}

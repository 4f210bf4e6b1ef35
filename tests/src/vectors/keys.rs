//! From an epoch's root to the keys of one record, and root wraps.

use anyhow::{Result, ensure};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use conclave_doc::DocKeys;
use conclave_identity::DeviceKey;
use conclave_mls::{EpochRoot, EpochSecrets, Secret32, expand_with_label, open_wrap};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::group::{RootWrap, WRAP_LABEL, WrapStatement};
use conclave_proto::{DeviceId, DocumentId, GroupId, Hash};

use super::value::Shown;
use super::{Book, Entry};

const WRAP_DATA: &str = "conclave 1.0 root wrap data";

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let (root, document) = (EpochRoot::new([0x66; 32]), DocumentId([0x44; 16]));
    let mut entry = book.plain("keys of a document and of one record");
    entry
        .given_hex("epoch_root", root.as_bytes())
        .given_hex("document", document.as_bytes());
    of_record(&mut entry, &root, &document, &[1; 24])?;
    drop(entry);
    let roots = [
        (1, EpochRoot::new([0x61; 32])),
        (3, EpochRoot::new([0x63; 32])),
    ];
    wrap(book, "a root wrap", &roots)?;
    wrap(book, "a root wrap in which nothing is sealed", &[])
}

/// Each step from a root to the keys of the record with this nonce.
pub(super) fn of_record(
    entry: &mut Entry<'_>,
    root: &EpochRoot,
    document: &DocumentId,
    nonce: &[u8; 24],
) -> Result<()> {
    let (content, commitment) = (root.content_key(document), root.commit_key(document));
    let keys = DocKeys::derive(root, document).of_record(nonce);
    let derived = expand_with_label(commitment.as_bytes(), "record", nonce);
    ensure!(derived.as_bytes() == keys.commitment(), "another key");
    let [salt, _] = [nonce.split_at(16).0, nonce.split_at(16).1];
    for (what, secret, label, context, is) in [
        (
            "content_key",
            root.as_bytes(),
            "content",
            document.as_bytes(),
            content.as_bytes(),
        ),
        (
            "commit_key",
            root.as_bytes(),
            "commitment",
            document.as_bytes(),
            commitment.as_bytes(),
        ),
        (
            "record_commitment_key",
            commitment.as_bytes(),
            "record",
            &nonce[..],
            keys.commitment(),
        ),
    ] {
        let of = [
            ("secret", Shown::hex(secret)),
            ("label", label.into()),
            ("context", Shown::hex(context)),
            ("length", 32u64.into()),
        ];
        entry.follows(what, "ExpandWithLabel", &of, Shown::hex(is));
    }
    let of = [("key", content.as_bytes().as_slice()), ("input", salt)];
    entry.makes("record_content_key", "HChaCha20", &of, keys.content());
    Ok(())
}

fn wrap(book: &mut Book<'_>, name: &str, roots: &[(u64, EpochRoot)]) -> Result<()> {
    let secrets = EpochSecrets {
        epoch: 4,
        root: EpochRoot::new([0x64; 32]),
        wrap_key: Secret32::new([0x74; 32]),
        presence_root: Secret32::new([0x84; 32]),
    };
    let key = DeviceKey::from_bytes(&[0x11; 32]);
    let mut statement = WrapStatement {
        group: GroupId([1; 16]),
        epoch: 4,
        commit: Hash([0x10; 32]),
        roster: Hash([0x20; 32]),
        nonce: [0; 24],
        ciphertext: Bytes::default(),
    };
    let plaintext = plaintext(roots);
    let aad = statement.associated_data();
    if !roots.is_empty() {
        statement.nonce = [0x18; 24];
        let cipher = XChaCha20Poly1305::new(secrets.wrap_key.as_bytes().into());
        let payload = Payload {
            msg: &plaintext,
            aad: &aad,
        };
        let sealed = cipher.encrypt(XNonce::from_slice(&statement.nonce), payload);
        statement.ciphertext = sealed.map_err(|_| anyhow::anyhow!("not sealed"))?.into();
    }
    let signed = statement.signed_bytes();
    let wrap = RootWrap {
        signature: key.sign(WRAP_LABEL, &signed),
        statement,
        signer: DeviceId([0xd1; 16]),
    };
    ensure!(open_wrap(&secrets, &wrap)? == roots, "other roots");
    let of = &wrap.statement;
    let epoch = of.epoch.to_be_bytes();
    let parts: [&[u8]; 4] = [of.group.as_bytes(), &epoch, &of.commit.0, &of.roster.0];
    let data = conclave_proto::hash::labelled(WRAP_DATA, &parts);
    ensure!(data.0.as_slice() == aad);
    let mut entry = book.of(name, "RootWrap", &wrap)?;
    entry
        .given_hex("wrap_key", secrets.wrap_key.as_bytes())
        .given_hex("seed of the signer's device key", key.to_bytes().as_slice())
        .signed(
            "signature",
            &key.public(),
            WRAP_LABEL,
            &signed,
            &wrap.signature,
        )?
        .labelled("aad", WRAP_DATA, &parts, &data)?;
    if !roots.is_empty() {
        let of = [
            ("key", secrets.wrap_key.as_bytes().as_slice()),
            ("nonce", &wrap.statement.nonce),
            ("plaintext", &plaintext),
            ("aad", &aad),
        ];
        let sealed = wrap.statement.ciphertext.as_slice();
        entry.makes("ciphertext", "XChaCha20-Poly1305", &of, sealed);
    }
    drop(entry);
    for (epoch, root) in roots {
        let row = [&epoch.to_be_bytes()[..], root.as_bytes()].concat();
        book.bytes("a root in it", "WrappedRoot", &row)?;
    }
    Ok(())
}

/// `WrappedRoot roots<V>`, as [`open_wrap`] reads it.
fn plaintext(roots: &[(u64, EpochRoot)]) -> Vec<u8> {
    let rows = roots
        .iter()
        .flat_map(|(epoch, root)| [&epoch.to_be_bytes()[..], root.as_bytes()].concat());
    encode(&Bytes::from(rows.collect::<Vec<u8>>()))
}

//! Sealing and opening one record, beside the bare primitives on the same bytes: XChaCha20-Poly1305, SHA-256, Ed25519.

use std::hint::black_box;

use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{Key, KeyInit as _, Tag, XChaCha20Poly1305, XNonce};
use conclave_bench::measure::{Bench, sure};
use conclave_doc::{DocKeys, open, seal};
use conclave_identity::{DeviceKey, verify};
use conclave_proto::codec::encode;
use conclave_proto::record::{
    Chained, RECORD_LABEL, RECORD_VERSION, Record, RecordBody, RecordHeader,
};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId};
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};
use sha2::{Digest as _, Sha256};

const SEED: [u8; 32] = [1; 32];
const CONTENT_KEY: [u8; 32] = [2; 32];

fn main() {
    let mut bench = Bench::asked();
    let sizes: &[usize] = bench.form.pick(&[32], &[32, 1_024, 65_536]);
    for bytes in sizes {
        let payload = vec![7; *bytes];
        sealing(&mut bench, &payload);
        opening(&mut bench, &payload);
    }
    bench.finish();
}

fn header() -> RecordHeader {
    RecordHeader {
        version: RECORD_VERSION,
        group: GroupId([7; 16]),
        document: DocumentId([8; 16]),
        epoch: 3,
        author: Author {
            device: DeviceId([9; 16]),
            instance: InstanceId([1; 8]),
        },
        seen: Head::EMPTY,
        body: RecordBody::Update(Chained {
            clock: 0,
            prev: Hash::ZERO,
        }),
    }
}

fn keys() -> DocKeys {
    DocKeys::from_bytes(CONTENT_KEY, [3; 32])
}

/// What the primitives make of a record.
struct Bare {
    nonce: [u8; 24],
    ciphertext: Vec<u8>,
    tag: Tag,
    signature: Signature,
}

fn digest(header: &[u8], ciphertext: &[u8]) -> [u8; 32] {
    let hash = Sha256::new().chain_update(header).chain_update(ciphertext);
    hash.finalize().into()
}

fn bare_seal(header: &[u8], payload: &[u8], key: &SigningKey, rng: &mut ChaCha20Rng) -> Bare {
    let mut nonce = [0; 24];
    rng.fill_bytes(&mut nonce);
    let mut ciphertext = payload.to_vec();
    let cipher = XChaCha20Poly1305::new(Key::from_slice(&CONTENT_KEY));
    let tag =
        sure(cipher.encrypt_in_place_detached(XNonce::from_slice(&nonce), header, &mut ciphertext));
    let signature = key.sign(&digest(header, &ciphertext));
    Bare {
        nonce,
        ciphertext,
        tag,
        signature,
    }
}

fn bare_open(header: &[u8], sealed: &Bare, key: &SigningKey) -> Vec<u8> {
    let digest = digest(header, &sealed.ciphertext);
    sure(
        key.verifying_key()
            .verify_strict(&digest, &sealed.signature),
    );
    let mut plain = sealed.ciphertext.clone();
    let cipher = XChaCha20Poly1305::new(Key::from_slice(&CONTENT_KEY));
    let nonce = XNonce::from_slice(&sealed.nonce);
    sure(cipher.decrypt_in_place_detached(nonce, header, &mut plain, &sealed.tag));
    plain
}

fn sealing(bench: &mut Bench, payload: &[u8]) {
    let (signing, device) = (SigningKey::from_bytes(&SEED), DeviceKey::from_bytes(&SEED));
    let (header, keys) = (header(), keys());
    let encoded = encode(&header);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut other = ChaCha20Rng::seed_from_u64(1);
    bench.pair(
        "seal",
        &format!("seal, {} bytes", payload.len()),
        1,
        ("primitives", &mut |bencher| {
            bencher.iter(|| bare_seal(&encoded, black_box(payload), &signing, &mut rng));
        }),
        ("seal", &mut |bencher| {
            bencher.iter(|| seal(&header, black_box(payload), &keys, &device, 1, &mut other));
        }),
    );
}

fn opening(bench: &mut Bench, payload: &[u8]) {
    let (signing, device) = (SigningKey::from_bytes(&SEED), DeviceKey::from_bytes(&SEED));
    let (header, keys, public) = (header(), keys(), device.public());
    let encoded = encode(&header);
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let bare = bare_seal(&encoded, payload, &signing, &mut rng);
    let record: Record = seal(&header, payload, &keys, &device, 1, &mut rng);
    bench.pair(
        "seal",
        &format!("verify and open, {} bytes", payload.len()),
        1,
        ("primitives", &mut |bencher| {
            bencher.iter(|| bare_open(&encoded, black_box(&bare), &signing));
        }),
        ("verify and open", &mut |bencher| {
            bencher.iter(|| {
                let record = black_box(&record);
                let core = record.core();
                sure(verify(
                    &public,
                    RECORD_LABEL,
                    &core.0,
                    &record.sealed.signature,
                ));
                sure(open(record, &keys))
            });
        }),
    );
}

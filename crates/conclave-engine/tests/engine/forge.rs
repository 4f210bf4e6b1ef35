//! What a member does who follows none of the rules, with the keys that are in its store.

use ciborium::Value;
use conclave_doc::{DocKeys, SnapshotPayload};
use conclave_identity::DeviceKey;
use conclave_mls::EpochRoot;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap, WRAP_LABEL, WrapStatement};
use conclave_proto::{DeviceId, GroupId, Record};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use conclave_testkit::rows::MemoryRows;

#[derive(serde::Deserialize)]
struct Secret {
    device_key: [u8; 32],
}

/// The device key in a store.
pub fn device_key(rows: &MemoryRows) -> DeviceKey {
    let row = &rows.0[[&[1], b"keys".as_slice()].concat().as_slice()];
    let secret: Secret = ciborium::from_reader(row.as_slice()).unwrap();
    DeviceKey::from_bytes(&secret.device_key)
}

/// A root that is in a store.
fn root(rows: &MemoryRows, group: &GroupId, epoch: u64) -> EpochRoot {
    let number = epoch.to_be_bytes();
    let row = &rows.0[[&[4], group.as_bytes(), b"r".as_slice(), &number]
        .concat()
        .as_slice()];
    let value: Value = ciborium::from_reader(row.as_slice()).unwrap();
    let bytes = under(&value, "root").and_then(|value| key_bytes(&value));
    EpochRoot::new(bytes.unwrap().try_into().unwrap())
}

/// The same snapshot, sealed anew by its author, with a table that names an epoch above its own.
pub fn claim_epoch(rows: &MemoryRows, snapshot: &Record) -> Record {
    let header = snapshot.header;
    let keys = DocKeys::derive(&root(rows, &header.group, header.epoch), &header.document);
    let payload = conclave_doc::open(snapshot, &keys).unwrap();
    let mut payload = SnapshotPayload::from_bytes(&payload).unwrap();
    payload.tables.epoch_high = header.epoch + 9;
    let (payload, key) = (payload.to_bytes(), device_key(rows));
    conclave_doc::seal_with_nonce(&header, &payload, &keys, &key, 1, [5; 24])
}

/// The key of the current epoch's membership tags, as OpenMLS keeps it.
fn membership_key(rows: &MemoryRows, group: &GroupId) -> Vec<u8> {
    let prefix = [&[4], group.as_bytes(), b"m".as_slice()].concat();
    let rows = rows.read(&prefix);
    let values = rows
        .iter()
        .filter_map(|(_, value)| ciborium::from_reader::<Value, _>(value.as_slice()).ok());
    let found = values.filter_map(|value| under(&value, "membership_key"));
    found.filter_map(|value| key_bytes(&value)).next().unwrap()
}

fn under(value: &Value, name: &str) -> Option<Value> {
    match value {
        Value::Map(entries) => entries.iter().find_map(|(key, value)| {
            if key.as_text() == Some(name) {
                Some(value.clone())
            } else {
                under(value, name)
            }
        }),
        Value::Array(items) => items.iter().find_map(|item| under(item, name)),
        _ => None,
    }
}

fn key_bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Bytes(bytes) if bytes.len() == 32 => Some(bytes.clone()),
        Value::Array(items) if items.len() == 32 => items
            .iter()
            .map(|item| item.as_integer().and_then(|byte| u8::try_from(byte).ok()))
            .collect(),
        Value::Array(items) => items.iter().find_map(key_bytes),
        Value::Map(entries) => entries.iter().find_map(|(_, value)| key_bytes(value)),
        _ => None,
    }
}

/// Length of an MLS variable-size vector (RFC 9420 §2.1.2), and of its prefix.
fn vector(bytes: &[u8]) -> Option<(usize, usize)> {
    let first = usize::from(*bytes.first()?);
    let size = 1 << (first >> 6);
    let mut length = first & 0x3f;
    for byte in bytes.get(1..size)? {
        length = length << 8 | usize::from(*byte);
    }
    Some((size, length))
}

fn skip(bytes: &[u8], at: usize) -> usize {
    let (prefix, length) = vector(&bytes[at..]).unwrap();
    at + prefix + length
}

/// End of the GroupContext that begins at `at`, and the place of its confirmed transcript hash.
fn context(info: &[u8], at: usize) -> (usize, usize) {
    let epoch = skip(info, at + 4);
    let tree = epoch + 8;
    let transcript = skip(info, tree);
    let extensions = skip(info, transcript);
    (skip(info, extensions), transcript + 1)
}

/// Positions of the last bytes of all path secrets' ciphertexts (RFC 9420 §7.6), in a commit's content that ends at `end`.
fn path_secrets(commit: &[u8], end: usize) -> Vec<usize> {
    const SECRET: usize = 1 + 32 + 1 + 48;
    (4..end)
        .find_map(|at| {
            let (prefix, length) = vector(&commit[at..end])?;
            let start = at + prefix;
            if start + length != end || length < 33 + 1 + SECRET {
                return None;
            }
            let mut found = Vec::new();
            let mut at = start;
            while at < end {
                if commit[at] != 32 {
                    return None;
                }
                at += 33;
                let (prefix, length) = vector(commit.get(at..end)?)?;
                at += prefix;
                if length % SECRET != 0 || at + length > end {
                    return None;
                }
                for _ in 0..length / SECRET {
                    if commit[at] != 32 || commit[at + 33] != 48 {
                        return None;
                    }
                    at += SECRET;
                    found.push(at - 1);
                }
            }
            (!found.is_empty()).then_some(found)
        })
        .expect("path secrets")
}

/// The author garbles every path secret of its own commit, and signs all of it. The service cannot see it; nobody can follow.
pub fn garble(
    rows: &MemoryRows,
    author: DeviceId,
    previous_info: &[u8],
    good: &CommitBundle,
) -> CommitBundle {
    let key = device_key(rows);
    let mut commit = good.commit.as_slice().to_vec();
    let mut info = good.group_info.as_slice().to_vec();
    // At the end of a commit: signature (66 bytes), confirmation tag (33), membership tag (33).
    let [signature_at, tag_at, membership_at] = [132, 66, 33].map(|back| commit.len() - back);
    for at in path_secrets(&commit, signature_at) {
        commit[at] ^= 1;
    }
    let (context_end, transcript_at) = context(previous_info, 4);
    let group_context = &previous_info[4..context_end];
    let signed = [&commit[..signature_at], group_context].concat();
    let signature = key.sign("FramedContentTBS", &signed);
    commit[signature_at + 2..tag_at].copy_from_slice(&signature);

    // The transcript goes on over what was garbled (RFC 9420 §8.2).
    let extensions_end = skip(previous_info, context_end);
    let previous_tag = &previous_info[extensions_end..extensions_end + 33];
    let interim = Sha256::new_with_prefix(&previous_info[transcript_at..transcript_at + 32])
        .chain_update(previous_tag)
        .finalize();
    let confirmed = Sha256::new_with_prefix(interim)
        .chain_update(&commit[2..tag_at])
        .finalize();
    let membership = Hmac::<Sha256>::new_from_slice(&membership_key(rows, &good.group))
        .unwrap()
        .chain_update(&signed)
        .chain_update(&commit[signature_at..membership_at])
        .finalize()
        .into_bytes();
    commit[membership_at + 1..].copy_from_slice(&membership);

    let (_, transcript_at) = context(&info, 4);
    info[transcript_at..transcript_at + 32].copy_from_slice(&confirmed);
    let start = info.len() - 64;
    let signature = key.sign("GroupInfoTBS", &info[4..start - 2]);
    info[start..].copy_from_slice(&signature);
    let statement = WrapStatement {
        commit: GroupEntry::Commit(commit.as_slice().into()).leaf(),
        ciphertext: Bytes::default(),
        ..good.wrap.statement.clone()
    };
    let signature = key.sign(WRAP_LABEL, &encode(&statement));
    CommitBundle {
        commit: commit.into(),
        group_info: info.into(),
        wrap: RootWrap {
            statement,
            signer: author,
            signature,
        },
        ..good.clone()
    }
}

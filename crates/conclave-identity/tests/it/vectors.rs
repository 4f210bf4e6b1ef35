//! Fixed inputs and the bytes that follow from them. Whoever reads the format in another language checks against the same file.

use std::collections::BTreeMap;

use conclave_identity::{
    Contact, DeviceKey, DeviceRequest, Pin, UserGenesis, UserKey, enrol_first, group_code,
    safety_number,
};
use conclave_proto::codec::encode;
use conclave_proto::{DeviceId, RealmId, UnixMs};

const COMMITTED: &str = include_str!("../vectors/identity-v1.json");

type Vectors = BTreeMap<String, String>;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn user(key: &UserKey, salt: u8) -> UserGenesis {
    UserGenesis {
        version: 1,
        realm: RealmId([0xa0; 16]),
        key: key.public(),
        created: UnixMs(1_700_000_000_000),
        salt: [salt; 16],
    }
}

/// Inputs under `in.…`, what follows under `out.…`.
fn compute() -> Vectors {
    let mut vectors = Vectors::new();
    let mut put = |name: &str, value: String| {
        assert!(
            vectors.insert(name.to_owned(), value).is_none(),
            "{name} twice"
        );
    };
    let anna_key = UserKey::from_bytes(&[0x01; 32]);
    let boris_key = UserKey::from_bytes(&[0x02; 32]);
    let first_key = DeviceKey::from_bytes(&[0x11; 32]);
    let second_key = DeviceKey::from_bytes(&[0x12; 32]);
    let (first, second) = (DeviceId([0xd1; 16]), DeviceId([0xd2; 16]));
    let (created, approved) = (UnixMs(1_700_000_000_000), UnixMs(1_700_000_600_000));
    let anna = user(&anna_key, 0x51);
    let boris = user(&boris_key, 0x52);
    put("in.anna.seed", hex(&anna_key.to_bytes()[..]));
    put("in.boris.seed", hex(&boris_key.to_bytes()[..]));
    put("in.first.seed", hex(&first_key.to_bytes()[..]));
    put("in.second.seed", hex(&second_key.to_bytes()[..]));
    put("in.realm", anna.realm.to_string());
    put("in.anna.salt", hex(&anna.salt));
    put("in.boris.salt", hex(&boris.salt));
    put("in.first.device", first.to_string());
    put("in.second.device", second.to_string());
    put("in.created_ms", created.0.to_string());
    put("in.approved_ms", approved.0.to_string());
    put("in.anna.name", "Anna Ångström".to_owned());
    put("in.second.name", "tablet".to_owned());
    put("in.boris.name", "Boris".to_owned());
    put("in.epoch_authenticator", hex(&[0x77; 32]));

    put("out.anna.genesis", hex(&anna.to_bytes()));
    put("out.anna.user_id", anna.user_id().to_string());
    put("out.anna.genesis_hash", anna.hash().to_string());
    put("out.anna.fingerprint", anna.fingerprint());
    put("out.boris.genesis", hex(&boris.to_bytes()));

    let (credential, list) = enrol_first(&anna_key, &anna, &first_key, first, created).unwrap();
    put(
        "out.first.certificate",
        hex(&encode(&credential.certificate)),
    );
    put("out.first.user_signature", hex(&credential.user_signature));
    put(
        "out.first.device_signature",
        hex(&credential.device_signature),
    );
    put("out.first.credential", hex(&credential.to_bytes()));
    put("out.list_1", hex(&list.to_bytes()));
    put("out.list_1.hash", list.hash().to_string());

    let request = DeviceRequest::new(&second_key, anna.realm, second, "tablet").unwrap();
    put("out.request", hex(&request.to_bytes()));
    put("out.request.hash", request.hash().to_string());
    put("out.request.code", request.code());
    put("out.request.text", request.to_text());
    let pin = Pin::new(&boris, "Boris", true, created);
    let approval = anna_key
        .approve(&request, &list, "Anna Ångström", &[pin], approved)
        .unwrap();
    put("out.approval", hex(&approval.to_bytes()));
    put("out.approval.text", approval.to_text());
    put("out.list_2", hex(&approval.list.to_bytes()));
    put("out.list_2.hash", approval.list.hash().to_string());
    let credential = approval.finish(&second_key, &request).unwrap();
    put("out.second.credential", hex(&credential.to_bytes()));

    let contact = Contact::new(anna.clone(), "Anna Ångström").unwrap();
    put("out.anna.contact_text", contact.to_text());
    put("out.safety_number", safety_number(&anna, &boris));
    put("out.group_code", group_code(&[0x77; 32]));
    vectors
}

#[test]
fn the_committed_vectors_hold() {
    let committed: Vectors = serde_json::from_str(COMMITTED).unwrap();
    let computed = compute();
    for (name, value) in &computed {
        assert_eq!(committed.get(name), Some(value), "{name}");
    }
    assert_eq!(committed.len(), computed.len());
}

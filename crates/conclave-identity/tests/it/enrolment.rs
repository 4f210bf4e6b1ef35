//! A further device: request, approval, finish. And what happens when somebody stands between.

use conclave_identity::{
    APPROVAL_LABEL, AuthError, Contact, DeviceApproval, DeviceKey, DeviceRequest, HandsOver,
    NameError, Pin, REQUEST_LABEL, ReceivingKey, TextError, UserGenesis, UserKey,
};
use conclave_proto::codec::Bytes;
use conclave_proto::{DeviceId, Hash, RealmId, UnixMs};

use crate::cast::{NOW, REALM, User, anna, boris, one_bit_flips, present, receiving, rng};

const NEW_DEVICE: DeviceId = DeviceId([0x42; 16]);

fn new_key() -> DeviceKey {
    DeviceKey::from_bytes(&[0x99; 32])
}

fn request() -> DeviceRequest {
    DeviceRequest::new(&new_key(), &receiving(), REALM, NEW_DEVICE, "Anna's tablet").unwrap()
}

fn boris_pinned() -> Pin {
    Pin::of(&Contact::new(boris().genesis, "Boris").unwrap(), true, NOW)
}

fn approval(user: &User) -> DeviceApproval {
    user.key
        .approve(
            &request(),
            &user.list,
            "Anna",
            &[boris_pinned()],
            HandsOver::UserKey(&mut rng()),
            NOW,
        )
        .unwrap()
}

/// Signs whatever stands in an approval, with any key.
fn sign_again(seed: &[u8; 32], approval: &mut DeviceApproval) {
    let bytes = approval.to_bytes();
    approval.signature =
        DeviceKey::from_bytes(seed).sign(APPROVAL_LABEL, &bytes[..bytes.len() - 64]);
}

#[test]
fn a_device_is_enrolled_by_two_texts() {
    let anna = anna();
    let request_text = request().to_text();
    let read = DeviceRequest::from_text(&request_text).unwrap();
    assert_eq!(read, request());
    assert_eq!(read.code(), request().code());

    let approved = anna
        .key
        .approve(
            &read,
            &anna.list,
            "Anna",
            &[boris_pinned()],
            HandsOver::UserKey(&mut rng()),
            NOW,
        )
        .unwrap();
    let approved = DeviceApproval::from_text(&approved.to_text()).unwrap();
    assert_eq!(approved, approval(&anna));
    let credential = approved.finish(&new_key(), &request()).unwrap();

    let identity = present(&credential.to_bytes(), &new_key().public()).unwrap();
    assert_eq!(identity.user, anna.genesis.user_id());
    assert_eq!(identity.device, NEW_DEVICE);
    assert_eq!(approved.list.check_successor(&anna.list), Ok(()));
    assert!(approved.list.contains(&NEW_DEVICE, &new_key().public()));
    assert!(
        approved
            .list
            .contains(&DeviceId([1; 16]), &anna.device_key.public())
    );
    assert_eq!(approved.certificate.list_seq, 2);
    assert_eq!(approved.pins, [boris_pinned()]);
    assert_eq!(approved.name, "Anna");
}

#[test]
fn no_private_key_is_in_any_text() {
    let anna = anna();
    let bytes = [request().to_bytes(), approval(&anna).to_bytes()].concat();
    for secret in [
        &anna.seed[..],
        &anna.device_key.to_bytes()[..],
        &new_key().to_bytes()[..],
    ] {
        assert!(!bytes.windows(32).any(|window| window == secret));
    }
}

#[test]
fn a_lost_approval_can_be_made_anew_without_a_new_list() {
    let anna = anna();
    let first = approval(&anna);
    let again = anna
        .key
        .approve(
            &request(),
            &first.list,
            "Anna",
            &[],
            HandsOver::Nothing,
            UnixMs(NOW.0 + 5),
        )
        .unwrap();
    assert_eq!(again.list, first.list);
    assert!(again.finish(&new_key(), &request()).is_ok());
}

#[test]
fn only_the_device_that_asked_can_finish() {
    let anna = anna();
    let approved = approval(&anna);
    let thief = boris().device_key;
    let other = Err(AuthError::OtherRequest);
    let code =
        |result: Result<_, AuthError>| result.map(|_: conclave_identity::DeviceCredential| ());
    assert_eq!(code(approved.finish(&thief, &request())), other);
    let stolen =
        DeviceRequest::new(&thief, &receiving(), REALM, NEW_DEVICE, "Anna's tablet").unwrap();
    assert_eq!(code(approved.finish(&thief, &stolen)), other);
    assert_eq!(code(approved.finish(&new_key(), &stolen)), other);
    // Another request of the same device and key.
    let renamed =
        DeviceRequest::new(&new_key(), &receiving(), REALM, NEW_DEVICE, "Tablet").unwrap();
    assert_eq!(code(approved.finish(&new_key(), &renamed)), other);
    let other_id = DeviceRequest::new(
        &new_key(),
        &receiving(),
        REALM,
        DeviceId([0x43; 16]),
        "Anna's tablet",
    );
    assert_eq!(code(approved.finish(&new_key(), &other_id.unwrap())), other);
}

#[test]
fn a_signed_approval_for_another_device_is_refused_even_with_the_right_request_hash() {
    // The user key's holder mixes up two approvals.
    let anna = anna();
    let other_key = DeviceKey::from_bytes(&[0x98; 32]);
    let other = DeviceRequest::new(
        &other_key,
        &receiving(),
        REALM,
        DeviceId([0x43; 16]),
        "Phone",
    )
    .unwrap();
    let mut mixed = anna
        .key
        .approve(&other, &anna.list, "Anna", &[], HandsOver::Nothing, NOW)
        .unwrap();
    mixed.request = request().hash();
    sign_again(&anna.seed, &mut mixed);
    assert_eq!(mixed.verify(), Ok(()));
    assert_eq!(
        mixed.finish(&new_key(), &request()).unwrap_err(),
        AuthError::OtherRequest
    );
}

#[test]
fn certificate_and_request_have_to_agree_on_device_key_and_realm() {
    let anna = anna();
    let other_key = DeviceKey::from_bytes(&[0x98; 32]);
    let elsewhere = User::new(1, RealmId([0x22; 16]));
    let variants = [
        (
            &anna,
            DeviceRequest::new(&new_key(), &receiving(), REALM, DeviceId([0x43; 16]), "x"),
        ),
        (
            &anna,
            DeviceRequest::new(&other_key, &receiving(), REALM, NEW_DEVICE, "x"),
        ),
        (
            &elsewhere,
            DeviceRequest::new(
                &new_key(),
                &receiving(),
                elsewhere.genesis.realm,
                NEW_DEVICE,
                "x",
            ),
        ),
    ];
    for (user, answered) in variants {
        let answered = answered.unwrap();
        let mut mixed = user
            .key
            .approve(&answered, &user.list, "Anna", &[], HandsOver::Nothing, NOW)
            .unwrap();
        mixed.request = request().hash();
        sign_again(&user.seed, &mut mixed);
        assert_eq!(mixed.verify(), Ok(()));
        assert_eq!(
            mixed.finish(&new_key(), &request()).unwrap_err(),
            AuthError::OtherRequest
        );
    }
}

#[test]
fn finishing_checks_approval_and_request_again() {
    let anna = anna();
    let mut altered = approval(&anna);
    altered.name = "Boris".to_owned();
    let refused = altered.finish(&new_key(), &request()).unwrap_err();
    assert_eq!(refused, AuthError::ApprovalSignature);
    let mut unproven = request();
    unproven.proof = [0; 64];
    let refused = approval(&anna).finish(&new_key(), &unproven).unwrap_err();
    assert_eq!(refused, AuthError::RequestProof);
}

#[test]
fn a_forged_list_is_not_continued() {
    // The service hands the approving device a list with a device of its own.
    let (anna, boris) = (anna(), boris());
    let mut forged = anna.list.clone();
    forged.list.devices.push(boris.entry());
    let refused = anna
        .key
        .approve(&request(), &forged, "Anna", &[], HandsOver::Nothing, NOW);
    assert_eq!(refused, Err(AuthError::ListSignature));
}

#[test]
fn an_approval_that_contradicts_itself_is_refused_even_when_signed() {
    let anna = anna();
    let mut bad_list = approval(&anna);
    bad_list.list.list.issued = UnixMs(0);
    sign_again(&anna.seed, &mut bad_list);
    assert_eq!(bad_list.verify(), Err(AuthError::ListSignature));

    let mut later = approval(&anna);
    let key = new_key().public();
    (later.certificate, later.user_signature) =
        anna.key.certify(&anna.genesis, NEW_DEVICE, &key, 3, NOW);
    sign_again(&anna.seed, &mut later);
    assert_eq!(later.verify(), Err(AuthError::ListSequence));

    let mut newer = approval(&anna);
    newer.version = 3;
    sign_again(&anna.seed, &mut newer);
    assert_eq!(
        newer.verify(),
        Err(AuthError::UnsupportedVersion { version: 3 })
    );
}

#[test]
fn requests_of_other_versions_and_schemes_are_refused() {
    let sign_again = |request: &mut DeviceRequest| {
        let bytes = request.to_bytes();
        request.proof = new_key().sign(REQUEST_LABEL, &bytes[..bytes.len() - 64]);
    };
    let mut newer = request();
    newer.version = 3;
    sign_again(&mut newer);
    assert_eq!(
        newer.verify(),
        Err(AuthError::UnsupportedVersion { version: 3 })
    );
    let mut foreign = request();
    foreign.scheme = 0x0403;
    sign_again(&mut foreign);
    assert_eq!(
        foreign.verify(),
        Err(AuthError::UnsupportedScheme { scheme: 0x0403 })
    );
}

#[test]
fn every_bit_of_a_request_counts() {
    let bytes = request().to_bytes();
    assert!(DeviceRequest::from_bytes(&bytes).is_ok());
    for (bit, flipped) in one_bit_flips(&bytes).enumerate() {
        assert!(DeviceRequest::from_bytes(&flipped).is_err(), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(
            DeviceRequest::from_bytes(&bytes[..end]).is_err(),
            "cut at {end}"
        );
    }
    assert!(DeviceRequest::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn every_bit_of_an_approval_counts() {
    let bytes = approval(&anna()).to_bytes();
    assert!(DeviceApproval::from_bytes(&bytes).is_ok());
    for (bit, flipped) in one_bit_flips(&bytes).enumerate() {
        assert!(DeviceApproval::from_bytes(&flipped).is_err(), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(
            DeviceApproval::from_bytes(&bytes[..end]).is_err(),
            "cut at {end}"
        );
    }
    assert!(DeviceApproval::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn a_request_proves_possession_of_its_key() {
    let mut forged = request();
    forged.key = Bytes::from(boris().device_key.public().as_slice());
    assert_eq!(forged.verify(), Err(AuthError::RequestProof));
    forged.proof = [0; 64];
    assert_eq!(forged.verify(), Err(AuthError::RequestProof));
    let anna = anna();
    let refused = anna
        .key
        .approve(&forged, &anna.list, "Anna", &[], HandsOver::Nothing, NOW);
    assert_eq!(refused, Err(AuthError::RequestProof));

    // A proof under another label.
    let mut relabelled = request();
    let bytes = relabelled.to_bytes();
    relabelled.proof = new_key().sign(APPROVAL_LABEL, &bytes[..bytes.len() - 64]);
    assert_eq!(relabelled.verify(), Err(AuthError::RequestProof));
}

#[test]
fn a_request_from_another_realm_is_not_approved() {
    let anna = anna();
    let elsewhere = DeviceRequest::new(
        &new_key(),
        &receiving(),
        RealmId::ZERO,
        NEW_DEVICE,
        "Tablet",
    )
    .unwrap();
    let refused = anna
        .key
        .approve(&elsewhere, &anna.list, "Anna", &[], HandsOver::Nothing, NOW);
    assert_eq!(refused, Err(AuthError::WrongRealm));
}

#[test]
fn a_request_cannot_take_the_place_of_a_listed_device() {
    let anna = anna();
    let usurper =
        DeviceRequest::new(&new_key(), &receiving(), REALM, DeviceId([1; 16]), "Tablet").unwrap();
    let refused = anna
        .key
        .approve(&usurper, &anna.list, "Anna", &[], HandsOver::Nothing, NOW);
    assert_eq!(refused, Err(AuthError::ListDevices));
    let twin =
        DeviceRequest::new(&anna.device_key, &receiving(), REALM, NEW_DEVICE, "Twin").unwrap();
    let refused = anna
        .key
        .approve(&twin, &anna.list, "Anna", &[], HandsOver::Nothing, NOW);
    assert_eq!(refused, Err(AuthError::ListDevices));
}

#[test]
fn nobody_approves_in_another_users_name() {
    let (anna, boris) = (anna(), boris());
    let refused = boris
        .key
        .approve(&request(), &anna.list, "Anna", &[], HandsOver::Nothing, NOW);
    assert_eq!(refused, Err(AuthError::ListSignature));
    // Boris alters Anna's approval: a contact slipped in, another list, another name.
    let mut altered = approval(&anna);
    altered
        .pins
        .push(Pin::new(&boris.genesis, "Mum", true, NOW));
    assert_eq!(altered.verify(), Err(AuthError::ApprovalSignature));
    sign_again(&boris.seed, &mut altered);
    assert_eq!(altered.verify(), Err(AuthError::ApprovalSignature));
    let mut altered = approval(&anna);
    altered.name = "Boris".to_owned();
    assert_eq!(altered.verify(), Err(AuthError::ApprovalSignature));
    let mut altered = approval(&anna);
    altered.list = boris.list.clone();
    assert_eq!(altered.verify(), Err(AuthError::UserMismatch));
    let mut altered = approval(&anna);
    altered.list = anna.list.clone();
    assert_eq!(altered.verify(), Err(AuthError::NotListed));
    let mut altered = approval(&anna);
    altered.request = Hash::ZERO;
    assert_eq!(altered.verify(), Err(AuthError::ApprovalSignature));
}

#[test]
fn people_can_tell_a_replaced_text() {
    // Codes to compare on both screens: a different request, and a different user, show differently.
    let thief = DeviceRequest::new(
        &boris().device_key,
        &receiving(),
        REALM,
        NEW_DEVICE,
        "Anna's tablet",
    )
    .unwrap();
    assert_ne!(thief.code(), request().code());
    assert_ne!(anna().genesis.fingerprint(), boris().genesis.fingerprint());
    assert_eq!(request().code().len(), 35);
}

#[test]
fn names_and_sizes_are_checked_before_signing() {
    let anna = anna();
    let bad_name = Err(AuthError::Name(NameError::Control));
    let refused =
        DeviceRequest::new(&new_key(), &receiving(), REALM, NEW_DEVICE, "a\nb").map(|_| ());
    assert_eq!(refused, bad_name);
    let refused = anna
        .key
        .approve(&request(), &anna.list, "a\nb", &[], HandsOver::Nothing, NOW)
        .map(|_| ());
    assert_eq!(refused, bad_name);
    let mut bad_pin = boris_pinned();
    bad_pin.name = "a\u{202e}b".to_owned();
    let refused = anna
        .key
        .approve(
            &request(),
            &anna.list,
            "Anna",
            &[bad_pin],
            HandsOver::Nothing,
            NOW,
        )
        .map(|_| ());
    assert_eq!(refused, bad_name);
    let many = vec![boris_pinned(); 257];
    let refused = anna
        .key
        .approve(
            &request(),
            &anna.list,
            "Anna",
            &many,
            HandsOver::Nothing,
            NOW,
        )
        .map(|_| ());
    assert_eq!(refused, Err(AuthError::TooManyPins { max: 256 }));
    let most = anna
        .key
        .approve(
            &request(),
            &anna.list,
            "Anna",
            &many[..256],
            HandsOver::Nothing,
            NOW,
        )
        .unwrap();
    assert_eq!(DeviceApproval::from_text(&most.to_text()).unwrap(), most);

    // A device whose owner plays foul with the name: the statement does not even decode.
    let mut foul = request();
    foul.name = "\u{1b}[2J".to_owned();
    let bytes = foul.to_bytes();
    foul.proof = new_key().sign(REQUEST_LABEL, &bytes[..bytes.len() - 64]);
    assert_eq!(foul.verify(), bad_name);
    let read = DeviceRequest::from_text(&foul.to_text());
    assert!(matches!(
        read,
        Err(TextError::Statement(AuthError::Malformed(_)))
    ));
}

#[test]
fn a_genesis_statement_survives_storage() {
    let mut rng: rand_chacha::ChaCha20Rng = rand_core::SeedableRng::seed_from_u64(3);
    let key = UserKey::generate(&mut rng);
    let genesis = UserGenesis::new(REALM, &key, NOW, &mut rng);
    assert_eq!(
        UserGenesis::from_bytes(&genesis.to_bytes()).unwrap(),
        genesis
    );
    let again = UserGenesis::new(REALM, &key, NOW, &mut rng);
    assert_ne!(again.user_id(), genesis.user_id());
    let mut weak = genesis.clone();
    weak.key = [0; 32];
    assert_eq!(
        UserGenesis::from_bytes(&weak.to_bytes()),
        Err(AuthError::BadKey)
    );
}

#[test]
fn the_user_key_opens_on_the_device_that_asked_and_nowhere_else() {
    let anna = anna();
    let approval = approval(&anna);
    let opened = approval.open_user_key(&receiving()).unwrap().unwrap();
    assert_eq!(opened.public(), anna.key.public());
    // Whoever sees the text has another key.
    let other = ReceivingKey::from_bytes(&[0x9b; 32]);
    let refused = approval.open_user_key(&other);
    assert_eq!(refused.unwrap_err(), AuthError::SealedKey);
    // What was sealed for one approval opens in no other, also where a holder of the user key signs that.
    for change in [
        |it: &mut DeviceApproval| it.name = "Eve".to_owned(),
        |it: &mut DeviceApproval| it.request = Hash([7; 32]),
        |it: &mut DeviceApproval| it.pins.clear(),
        |it: &mut DeviceApproval| it.user_key.as_mut().unwrap().enc[0] ^= 1,
    ] {
        let mut other = approval.clone();
        change(&mut other);
        sign_again(&anna.seed, &mut other);
        assert!(other.open_user_key(&receiving()).is_err());
    }
    // Another user's key in its place is not taken.
    let mut swapped = approval.clone();
    let boris = boris();
    let theirs = boris
        .key
        .approve(
            &request(),
            &boris.list,
            "Anna",
            &[],
            HandsOver::UserKey(&mut rng()),
            NOW,
        )
        .unwrap();
    swapped.user_key = theirs.user_key;
    assert!(swapped.open_user_key(&receiving()).is_err());
    // And none goes along where none was wanted.
    let none = anna
        .key
        .approve(&request(), &anna.list, "Anna", &[], HandsOver::Nothing, NOW)
        .unwrap();
    assert!(none.open_user_key(&receiving()).unwrap().is_none());
    let shown = format!("{approval:?} {:?}", receiving());
    assert!(!shown.contains("154, 154"), "{shown}");
}

#[test]
fn a_request_with_another_key_to_seal_to_has_another_code() {
    let ours = request();
    let theirs = ReceivingKey::from_bytes(&[0x9b; 32]);
    let swapped =
        DeviceRequest::new(&new_key(), &theirs, REALM, NEW_DEVICE, "Anna's tablet").unwrap();
    assert!(!swapped.is_code(&ours.code()));
    assert!(ours.is_code(&ours.code()));
    assert!(ours.is_code(&ours.code().replace(' ', "")));
    assert!(ours.is_code(&format!(" {}\n", ours.code().replace(' ', "-"))));
    for wrong in ["", "12345", "not a code"] {
        assert!(!ours.is_code(wrong), "{wrong}");
    }
    let mut put_in = ours.clone();
    put_in.hpke_key = theirs.public().unwrap();
    assert_eq!(put_in.verify().unwrap_err(), AuthError::RequestProof);
}

#[test]
fn a_text_of_another_version_is_told_as_that() {
    for (mut bytes, read) in [
        (request().to_bytes(), None),
        (approval(&anna()).to_bytes(), Some(())),
    ] {
        bytes[1] = 1;
        let refused = match read {
            None => DeviceRequest::from_bytes(&bytes).unwrap_err(),
            Some(()) => DeviceApproval::from_bytes(&bytes).unwrap_err(),
        };
        assert_eq!(refused, AuthError::UnsupportedVersion { version: 1 });
    }
}

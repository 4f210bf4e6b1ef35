//! Device credentials through the one door.

use conclave_identity::{
    ACCEPTANCE_LABEL, APPROVAL_LABEL, Assurance, AuthError, CERTIFICATE_LABEL,
    CERTIFICATE_VALIDITY_MS, CLOCK_SKEW_MS, CREDENTIAL_TYPE_X509, DeviceCredential, DeviceKey,
    Evidence, LIST_LABEL, Occasion, Presented, REQUEST_LABEL, Reference, authenticate,
};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::frame::ClientFrame;
use conclave_proto::{DeviceId, RealmId, UnixMs, UserId, limits};

use crate::cast::{
    NOW, REALM, User, anna, boris, one_bit_flips, present, present_at, shown, widen_length,
};

/// Countersigns whatever certificate and user signature stand in a credential, as a device that plays along.
fn countersign(credential: &mut DeviceCredential, key: &DeviceKey) {
    let mut content = encode(&credential.certificate);
    content.extend_from_slice(&credential.user_signature);
    credential.device_signature = key.sign(ACCEPTANCE_LABEL, &content);
}

/// Signs whatever certificate stands in a credential with its user's key and its device's key.
fn sign_again(user: &User, credential: &mut DeviceCredential) {
    credential.user_signature =
        user.sign_anything(CERTIFICATE_LABEL, &encode(&credential.certificate));
    countersign(credential, &user.device_key);
}

fn refusal(user: &User, credential: &DeviceCredential) -> AuthError {
    present(&credential.to_bytes(), &user.device_key.public()).unwrap_err()
}

#[test]
fn a_good_credential_gives_its_identity_on_every_occasion() {
    let anna = anna();
    let bytes = anna.credential.to_bytes();
    let key = anna.device_key.public();
    let reference = Reference {
        realm: Some(REALM),
        user: Some(anna.genesis.user_id()),
        device: Some(DeviceId([1; 16])),
        anchors: &[],
    };
    let first = authenticate(
        &shown(&bytes, &key),
        Occasion::KeyPackage,
        &reference,
        NOW,
        None,
    )
    .unwrap();
    assert_eq!(first.user, anna.genesis.user_id());
    assert_eq!(first.device, DeviceId([1; 16]));
    assert_eq!(first.user_key, anna.key.public());
    assert_eq!(first.assurance, Assurance::SelfAsserted);
    let Evidence::DeviceCertificate {
        realm,
        genesis,
        list_seq,
        ..
    } = first.evidence
    else {
        panic!("other evidence");
    };
    assert_eq!((realm, genesis, list_seq), (REALM, anna.genesis.hash(), 1));
    for occasion in [
        Occasion::KeyPackage,
        Occasion::Tree,
        Occasion::Add,
        Occasion::Update,
        Occasion::CommitPath,
        Occasion::Login,
    ] {
        let again = authenticate(
            &shown(&bytes, &key),
            occasion,
            &reference,
            NOW,
            Some(&first),
        )
        .unwrap();
        assert_eq!(again, first);
    }
}

#[test]
fn a_stolen_certificate_on_another_leaf_key_is_refused() {
    let anna = anna();
    let bytes = anna.credential.to_bytes();
    let thief = boris().device_key;
    assert_eq!(
        present(&bytes, &thief.public()),
        Err(AuthError::KeyMismatch)
    );
    assert_eq!(present(&bytes, &[]), Err(AuthError::KeyMismatch));
    assert_eq!(
        present(&bytes, &anna.device_key.public()[..31]),
        Err(AuthError::KeyMismatch)
    );

    // The thief puts their own key into the certificate.
    let mut forged = anna.credential.clone();
    forged.certificate.device_key = Bytes::from(thief.public().as_slice());
    countersign(&mut forged, &thief);
    assert_eq!(
        present(&forged.to_bytes(), &thief.public()),
        Err(AuthError::UserSignature)
    );
}

#[test]
fn the_scheme_presented_has_to_be_the_one_certified() {
    let anna = anna();
    let bytes = anna.credential.to_bytes();
    let key = anna.device_key.public();
    let presented = Presented {
        scheme: 0x0403,
        ..shown(&bytes, &key)
    };
    let result = authenticate(&presented, Occasion::Tree, &Reference::default(), NOW, None);
    assert_eq!(result, Err(AuthError::SchemeMismatch));

    let mut other = anna.credential.clone();
    other.certificate.scheme = 0x0403;
    sign_again(&anna, &mut other);
    assert_eq!(
        refusal(&anna, &other),
        AuthError::UnsupportedScheme { scheme: 0x0403 }
    );
}

#[test]
fn a_user_signature_from_another_user_is_refused() {
    let (anna, boris) = (anna(), boris());
    let mut forged = anna.credential.clone();
    forged.user_signature = boris.sign_anything(CERTIFICATE_LABEL, &encode(&forged.certificate));
    countersign(&mut forged, &anna.device_key);
    assert_eq!(refusal(&anna, &forged), AuthError::UserSignature);

    // Boris certifies his own device as Anna's, with his own genesis statement beside it.
    let mut forged = boris.credential.clone();
    forged.certificate.user = anna.genesis.user_id();
    sign_again(&boris, &mut forged);
    assert_eq!(refusal(&boris, &forged), AuthError::UserMismatch);

    // The same under Anna's genesis statement with Boris's key in it.
    forged.genesis = anna.genesis.clone();
    forged.genesis.key = boris.key.public();
    assert_eq!(refusal(&boris, &forged), AuthError::UserMismatch);
}

#[test]
fn a_certificate_of_another_realm_is_refused() {
    let anna = anna();
    let elsewhere = User::new(1, RealmId([0x22; 16]));
    // The same key in another realm is another user.
    assert_ne!(anna.genesis.user_id(), elsewhere.genesis.user_id());
    let bytes = elsewhere.credential.to_bytes();
    let key = elsewhere.device_key.public();
    let here = Reference {
        realm: Some(REALM),
        ..Reference::default()
    };
    let result = authenticate(&shown(&bytes, &key), Occasion::Login, &here, NOW, None);
    assert_eq!(result, Err(AuthError::WrongRealm));

    let mut mixed = anna.credential.clone();
    mixed.certificate.realm = RealmId([0x22; 16]);
    sign_again(&anna, &mut mixed);
    assert_eq!(refusal(&anna, &mixed), AuthError::RealmMismatch);

    let mut mixed = anna.credential.clone();
    mixed.genesis = elsewhere.genesis.clone();
    assert_eq!(refusal(&anna, &mixed), AuthError::UserMismatch);
}

#[test]
fn a_missing_or_foreign_countersignature_is_refused() {
    let (anna, boris) = (anna(), boris());
    let mut bare = anna.credential.clone();
    bare.device_signature = [0; 64];
    assert_eq!(refusal(&anna, &bare), AuthError::DeviceSignature);
    bare.device_signature = bare.user_signature;
    assert_eq!(refusal(&anna, &bare), AuthError::DeviceSignature);
    countersign(&mut bare, &boris.device_key);
    assert_eq!(refusal(&anna, &bare), AuthError::DeviceSignature);

    // Anna's user certifies Boris's device key without asking it, to claim his records.
    let (certificate, user_signature) = anna.key.certify(
        &anna.genesis,
        DeviceId([9; 16]),
        &boris.device_key.public(),
        1,
        NOW,
    );
    let claimed = DeviceCredential {
        certificate,
        user_signature,
        device_signature: boris.credential.device_signature,
        ..anna.credential.clone()
    };
    assert_eq!(refusal(&boris, &claimed), AuthError::DeviceSignature);
}

#[test]
fn a_countersignature_covers_the_user_signature() {
    // The user key signs the certificate a second time, with other randomness than RFC 8032 demands. Here: another certificate's.
    let anna = anna();
    let mut renewed = anna.credential.clone();
    renewed.certificate.list_seq = 2;
    renewed.user_signature = anna.sign_anything(CERTIFICATE_LABEL, &encode(&renewed.certificate));
    assert_eq!(refusal(&anna, &renewed), AuthError::DeviceSignature);
    // Countersigning the certificate alone is not enough.
    renewed.device_signature = anna
        .device_key
        .sign(ACCEPTANCE_LABEL, &encode(&renewed.certificate));
    assert_eq!(refusal(&anna, &renewed), AuthError::DeviceSignature);
}

#[test]
fn a_signature_under_another_label_is_refused() {
    let anna = anna();
    for label in [
        ACCEPTANCE_LABEL,
        LIST_LABEL,
        REQUEST_LABEL,
        APPROVAL_LABEL,
        "",
    ] {
        let mut forged = anna.credential.clone();
        forged.user_signature = anna.sign_anything(label, &encode(&forged.certificate));
        countersign(&mut forged, &anna.device_key);
        assert_eq!(refusal(&anna, &forged), AuthError::UserSignature);
    }
    for label in [
        CERTIFICATE_LABEL,
        LIST_LABEL,
        REQUEST_LABEL,
        APPROVAL_LABEL,
        "",
    ] {
        let mut forged = anna.credential.clone();
        let mut content = encode(&forged.certificate);
        content.extend_from_slice(&forged.user_signature);
        forged.device_signature = anna.device_key.sign(label, &content);
        assert_eq!(refusal(&anna, &forged), AuthError::DeviceSignature);
    }
    // An unlabelled signature over the same bytes.
    let mut forged = anna.credential.clone();
    forged.user_signature =
        DeviceKey::from_bytes(&anna.seed).sign_raw(&encode(&forged.certificate));
    countersign(&mut forged, &anna.device_key);
    assert_eq!(refusal(&anna, &forged), AuthError::UserSignature);
}

#[test]
fn validity_is_judged_at_the_time_given() {
    let anna = anna();
    let made = &anna.credential.certificate;
    assert_eq!(made.not_before, UnixMs(0));
    assert_eq!(made.not_after, NOW.plus_ms(CERTIFICATE_VALIDITY_MS));
    let key = anna.device_key.public();
    let slow = present_at(&anna.credential.to_bytes(), &key, UnixMs(0));
    assert!(slow.is_ok());

    let mut later = anna.credential.clone();
    later.certificate.not_before = NOW;
    sign_again(&anna, &mut later);
    let bytes = later.to_bytes();
    let (begin, end) = (NOW.0, later.certificate.not_after.0);
    assert!(present_at(&bytes, &key, UnixMs(begin - CLOCK_SKEW_MS)).is_ok());
    let early = present_at(&bytes, &key, UnixMs(begin - CLOCK_SKEW_MS - 1));
    assert_eq!(early, Err(AuthError::NotYetValid));
    assert!(early.unwrap_err().is_retryable());
    assert!(present_at(&bytes, &key, UnixMs(end - 1)).is_ok());
    assert_eq!(
        present_at(&bytes, &key, UnixMs(end)),
        Err(AuthError::Expired)
    );
    assert_eq!(
        present_at(&bytes, &key, UnixMs(u64::MAX)),
        Err(AuthError::Expired)
    );
    assert_eq!(
        present_at(&bytes, &key, UnixMs(0)),
        Err(AuthError::NotYetValid)
    );

    let mut never = anna.credential.clone();
    never.certificate.not_after = never.certificate.not_before;
    sign_again(&anna, &mut never);
    assert_eq!(refusal(&anna, &never), AuthError::Validity);
}

#[test]
fn what_the_caller_expects_has_to_match() {
    let (anna, boris) = (anna(), boris());
    let bytes = anna.credential.to_bytes();
    let key = anna.device_key.public();
    let judge = |reference: &Reference<'_>| {
        authenticate(&shown(&bytes, &key), Occasion::Add, reference, NOW, None).map(|_| ())
    };
    let any = Reference::default();
    let boris_user = Some(boris.genesis.user_id());
    assert_eq!(
        judge(&Reference {
            user: boris_user,
            ..any
        }),
        Err(AuthError::WrongUser)
    );
    let other_device = Some(DeviceId([7; 16]));
    assert_eq!(
        judge(&Reference {
            device: other_device,
            ..any
        }),
        Err(AuthError::WrongDevice)
    );
    let other_realm = Some(RealmId::ZERO);
    assert_eq!(
        judge(&Reference {
            realm: other_realm,
            ..any
        }),
        Err(AuthError::WrongRealm)
    );
}

#[test]
fn a_successor_keeps_user_device_and_user_key() {
    let (anna, boris) = (anna(), boris());
    let key = anna.device_key.public();
    let bytes = anna.credential.to_bytes();
    let previous = present(&bytes, &key).unwrap();
    let replace = |bytes: &[u8], key: &[u8], previous| {
        authenticate(
            &shown(bytes, key),
            Occasion::CommitPath,
            &Reference::default(),
            NOW,
            Some(previous),
        )
        .map(|_| ())
    };
    // A new certificate for the same device, even with a new device key, is a successor.
    let new_key = DeviceKey::from_bytes(&[0x77; 32]);
    let (certificate, signature) =
        anna.key
            .certify(&anna.genesis, DeviceId([1; 16]), &new_key.public(), 2, NOW);
    let renewed =
        DeviceCredential::accept(anna.genesis.clone(), certificate, signature, &new_key).unwrap();
    assert_eq!(
        replace(&renewed.to_bytes(), &new_key.public(), &previous),
        Ok(())
    );

    let taken = replace(
        &boris.credential.to_bytes(),
        &boris.device_key.public(),
        &previous,
    );
    assert_eq!(taken, Err(AuthError::SuccessorUser));

    let (certificate, signature) =
        anna.key
            .certify(&anna.genesis, DeviceId([3; 16]), &new_key.public(), 2, NOW);
    let sibling =
        DeviceCredential::accept(anna.genesis.clone(), certificate, signature, &new_key).unwrap();
    let moved = replace(&sibling.to_bytes(), &new_key.public(), &previous);
    assert_eq!(moved, Err(AuthError::SuccessorDevice));

    let mut rekeyed = previous.clone();
    rekeyed.user_key = boris.key.public();
    assert_eq!(
        replace(&bytes, &key, &rekeyed),
        Err(AuthError::SuccessorUserKey)
    );

    let mut assured = previous.clone();
    assured.assurance = Assurance::Verified;
    assert_eq!(
        replace(&bytes, &key, &assured),
        Err(AuthError::AssuranceFell)
    );
}

#[test]
fn occasions_fail_closed() {
    let anna = anna();
    let bytes = anna.credential.to_bytes();
    let key = anna.device_key.public();
    let any = Reference::default();
    let update = authenticate(&shown(&bytes, &key), Occasion::Update, &any, NOW, None);
    assert_eq!(update, Err(AuthError::PreviousMissing));
    let sender = authenticate(
        &shown(&bytes, &key),
        Occasion::ExternalSender,
        &any,
        NOW,
        None,
    );
    assert_eq!(sender, Err(AuthError::NotExternalSender));
}

#[test]
fn other_credential_types_are_refused_by_name() {
    let anna = anna();
    let bytes = anna.credential.to_bytes();
    let key = anna.device_key.public();
    for credential_type in [CREDENTIAL_TYPE_X509, 1, 0, 0xF0C2, 0x0A0A] {
        let presented = Presented {
            credential_type,
            ..shown(&bytes, &key)
        };
        let result = authenticate(&presented, Occasion::Tree, &Reference::default(), NOW, None);
        assert_eq!(
            result,
            Err(AuthError::UnsupportedCredential { credential_type })
        );
    }
}

#[test]
fn every_bit_of_a_credential_counts() {
    let anna = anna();
    let key = anna.device_key.public();
    let bytes = anna.credential.to_bytes();
    assert!(present(&bytes, &key).is_ok());
    for (bit, flipped) in one_bit_flips(&bytes).enumerate() {
        assert!(present(&flipped, &key).is_err(), "bit {bit}");
    }
}

#[test]
fn a_credential_has_one_encoding() {
    let anna = anna();
    let key = anna.device_key.public();
    let bytes = anna.credential.to_bytes();
    for end in 0..bytes.len() {
        assert!(present(&bytes[..end], &key).is_err(), "cut at {end}");
    }
    let malformed = |bytes: &[u8]| matches!(present(bytes, &key), Err(AuthError::Malformed(_)));
    assert!(malformed(&[&bytes[..], &[0]].concat()));
    assert!(malformed(&vec![0; limits::CREDENTIAL_BYTES + 1]));
    // Lengths in two bytes: of the rotations (after version and genesis) and of the device key.
    let rotations_at = 2 + 74;
    assert_eq!(bytes[rotations_at], 0);
    assert!(malformed(&widen_length(&bytes, rotations_at)));
    let key_at = rotations_at + 1 + 2 + 16 + 32 + 16 + 2;
    assert_eq!(bytes[key_at], 32);
    assert!(malformed(&widen_length(&bytes, key_at)));
    // A length of four billion.
    let mut huge = bytes.clone();
    huge.splice(key_at..=key_at, [0xbf, 0xff, 0xff, 0xff]);
    assert!(malformed(&huge));
}

#[test]
fn unknown_versions_and_rotations_are_refused() {
    let anna = anna();
    let unsupported = AuthError::UnsupportedVersion { version: 2 };

    let mut credential = anna.credential.clone();
    credential.version = 2;
    assert_eq!(refusal(&anna, &credential), unsupported);

    let mut credential = anna.credential.clone();
    credential.certificate.version = 2;
    sign_again(&anna, &mut credential);
    assert_eq!(refusal(&anna, &credential), unsupported);

    let mut credential = anna.credential.clone();
    credential.genesis.version = 2;
    credential.certificate.user = credential.genesis.user_id();
    sign_again(&anna, &mut credential);
    assert_eq!(refusal(&anna, &credential), unsupported);

    let mut credential = anna.credential.clone();
    credential.rotations = vec![Bytes::default()];
    assert_eq!(refusal(&anna, &credential), AuthError::UnsupportedRotation);

    let mut credential = anna.credential.clone();
    credential.certificate.list_seq = 0;
    sign_again(&anna, &mut credential);
    assert_eq!(refusal(&anna, &credential), AuthError::ListSequence);
}

#[test]
fn a_small_order_key_certifies_nothing() {
    let anna = anna();
    let mut neutral = [0; 32];
    neutral[0] = 1;
    // As a user key: a signature that a cofactored check would take for any message.
    let mut forged = anna.credential.clone();
    forged.genesis.key = neutral;
    forged.certificate.user = forged.genesis.user_id();
    forged.user_signature = [0; 64];
    forged.user_signature[0] = 1;
    countersign(&mut forged, &anna.device_key);
    assert_eq!(refusal(&anna, &forged), AuthError::BadKey);
    // As a device key.
    let mut forged = anna.credential.clone();
    forged.certificate.device_key = Bytes::from(neutral.as_slice());
    sign_again(&anna, &mut forged);
    assert_eq!(
        present(&forged.to_bytes(), &neutral),
        Err(AuthError::BadKey)
    );
}

#[test]
fn accepting_a_certificate_for_another_key_is_refused() {
    let (anna, boris) = (anna(), boris());
    let accept = |user: &User, key: &DeviceKey| {
        let from = &user.credential;
        let certificate = from.certificate.clone();
        DeviceCredential::accept(from.genesis.clone(), certificate, from.user_signature, key)
    };
    assert_eq!(accept(&anna, &anna.device_key).unwrap(), anna.credential);
    assert_eq!(
        accept(&anna, &boris.device_key).unwrap_err(),
        AuthError::KeyMismatch
    );
    let mut forged = anna;
    forged.credential.user_signature = boris.credential.user_signature;
    assert_eq!(
        accept(&forged, &forged.device_key).unwrap_err(),
        AuthError::UserSignature
    );
}

#[test]
fn errors_and_debug_show_no_input() {
    let anna = anna();
    let shown_text = [
        format!("{:?}", anna.credential),
        format!("{:?}", anna.genesis),
        format!("{:?}", anna.list),
        format!("{:?}", anna.credential.certificate),
        format!(
            "{:?}",
            present(&anna.credential.to_bytes(), &anna.device_key.public()).unwrap()
        ),
        format!(
            "{:?}",
            shown(&anna.credential.to_bytes(), &anna.device_key.public())
        ),
    ];
    let key_in_list_form = format!("{:?}", anna.key.public());
    let inner = key_in_list_form.trim_matches(['[', ']']).to_owned();
    let device_inner = format!("{:?}", anna.device_key.public());
    let device_inner = device_inner.trim_matches(['[', ']']);
    for text in &shown_text {
        assert!(
            !text.contains(&inner) && !text.contains(device_inner),
            "{text}"
        );
        assert!(text.len() < 400, "{text}");
    }
    let error = AuthError::UserMismatch;
    assert_eq!(error.code(), "auth.user_mismatch");
    assert!(!error.is_retryable());
    assert_ne!(UserId::ZERO, anna.genesis.user_id());
}

#[test]
fn what_was_checked_once_is_still_refused_when_presented_otherwise() {
    let anna = anna();
    let key = anna.device_key.public();
    let held = shown(&anna.credential.to_bytes(), &key);
    let at = |presented: &Presented<'_>, now| {
        authenticate(presented, Occasion::Tree, &Reference::default(), now, None)
    };
    assert!(at(&held, NOW).is_ok());
    let after = anna.credential.certificate.not_after;
    assert_eq!(at(&held, after), Err(AuthError::Expired));
    let stranger = boris().device_key.public();
    let presented = Presented {
        signature_key: &stranger,
        ..held.clone()
    };
    assert_eq!(at(&presented, NOW), Err(AuthError::KeyMismatch));
    let elsewhere = Reference {
        device: Some(DeviceId([0xee; 16])),
        ..Reference::default()
    };
    let result = authenticate(&held, Occasion::Tree, &elsewhere, NOW, None);
    assert_eq!(result, Err(AuthError::WrongDevice));
    // One that was found false stays false.
    let mut forged = anna.credential.clone();
    forged.user_signature[0] ^= 1;
    let held = shown(&forged.to_bytes(), &key);
    for _ in 0..2 {
        assert_eq!(at(&held, NOW), Err(AuthError::UserSignature));
    }
}

#[test]
fn with_the_largest_credential_a_device_can_still_log_in() {
    let hello = ClientFrame::Hello {
        versions: vec![1; 100],
        credential: vec![0; limits::CREDENTIAL_BYTES].into(),
    };
    assert!(encode(&hello).len() <= limits::UNAUTHENTICATED_FRAME_BYTES);
}

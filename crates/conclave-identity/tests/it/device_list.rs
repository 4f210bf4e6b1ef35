//! Device lists: numbering, chains, rollback, equivocation.

use conclave_identity::{
    AuthError, CERTIFICATE_LABEL, DEVICE_LIST_VALIDITY_MS, DeviceKey, DeviceRef, LIST_LABEL,
    SignedDeviceList,
};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::{DeviceId, Hash, RealmId, UnixMs, limits};

use crate::cast::{NOW, User, anna, boris, entry, one_bit_flips, widen_length};

fn key(number: u8) -> DeviceKey {
    DeviceKey::from_bytes(&[number; 32])
}

fn device(number: u8) -> DeviceId {
    DeviceId([number; 16])
}

/// Signs whatever stands in a list.
fn sign_again(user: &User, list: &mut SignedDeviceList) {
    list.signature = user.sign_anything(LIST_LABEL, &encode(&list.list));
}

/// The list after `prev` with one more device.
fn next(user: &User, prev: &SignedDeviceList, number: u8) -> SignedDeviceList {
    let mut devices = prev.list.devices.clone();
    devices.push(entry(device(number), &key(number)));
    user.key
        .sign_list(&user.genesis, Some(prev), devices, NOW)
        .unwrap()
}

#[test]
fn lists_are_numbered_chained_and_sorted() {
    let anna = anna();
    let first = &anna.list;
    assert_eq!(first.verify(), Ok(()));
    assert_eq!((first.list.seq, first.list.prev), (1, Hash::ZERO));
    assert_eq!(first.list.next_update, NOW.plus_ms(DEVICE_LIST_VALIDITY_MS));
    assert!(first.is_fresh(NOW) && !first.is_fresh(first.list.next_update));

    let second = anna
        .key
        .sign_list(
            &anna.genesis,
            Some(first),
            vec![
                entry(device(9), &key(9)),
                entry(device(4), &key(4)),
                anna.entry(),
            ],
            NOW,
        )
        .unwrap();
    assert_eq!((second.list.seq, second.list.prev), (2, first.hash()));
    let order: Vec<u8> = second
        .list
        .devices
        .iter()
        .map(|entry| entry.device.0[0])
        .collect();
    assert_eq!(order, [1, 4, 9]);
    assert_eq!(second.check_successor(first), Ok(()));
    assert!(second.contains(&device(9), &key(9).public()));
    assert!(!second.contains(&device(9), &key(4).public()));
    assert!(!second.contains(&device(8), &key(9).public()));
    assert_eq!(
        SignedDeviceList::from_bytes(&second.to_bytes()).unwrap(),
        second
    );
    // Nobody left: all devices are revoked.
    let third = anna
        .key
        .sign_list(&anna.genesis, Some(&second), vec![], NOW)
        .unwrap();
    assert_eq!(third.check_successor(&second), Ok(()));
}

#[test]
fn a_rollback_is_refused() {
    let anna = anna();
    let second = next(&anna, &anna.list, 4);
    let third = next(&anna, &second, 5);
    let stale = Err(AuthError::StaleList { newest: 3 });
    assert_eq!(anna.list.supersedes(&third), stale);
    assert_eq!(second.supersedes(&third), stale);
    assert_eq!(
        second.check_successor(&third),
        Err(AuthError::StaleList { newest: 3 })
    );
    // The very same list is no rollback and no successor.
    assert_eq!(third.supersedes(&third), Ok(false));
    assert_eq!(
        third.check_successor(&third),
        Err(AuthError::StaleList { newest: 3 })
    );
}

#[test]
fn lists_may_be_skipped_but_not_as_direct_successors() {
    let anna = anna();
    let second = next(&anna, &anna.list, 4);
    let third = next(&anna, &second, 5);
    assert_eq!(third.supersedes(&anna.list), Ok(true));
    let error = third.check_successor(&anna.list).unwrap_err();
    assert_eq!(error, AuthError::NotDirectSuccessor { expected: 2 });
    assert!(error.is_retryable());
}

#[test]
fn two_lists_with_one_number_are_evidence() {
    let anna = anna();
    let mine = next(&anna, &anna.list, 4);
    let theirs = next(&anna, &anna.list, 5);
    let evidence = AuthError::Equivocation {
        seq: 2,
        known: mine.hash(),
        presented: theirs.hash(),
    };
    assert_eq!(theirs.supersedes(&mine), Err(evidence));
    assert_eq!(theirs.check_successor(&mine), Err(evidence));
    // Also when only the time differs, and for the first list.
    let later = UnixMs(NOW.0 + 1);
    let again = anna
        .key
        .sign_list(&anna.genesis, None, vec![anna.entry()], later)
        .unwrap();
    assert!(matches!(
        again.supersedes(&anna.list),
        Err(AuthError::Equivocation { seq: 1, .. })
    ));
}

#[test]
fn a_broken_chain_is_refused() {
    let anna = anna();
    let mine = next(&anna, &anna.list, 4);
    let theirs = next(&anna, &anna.list, 5);
    let after_theirs = next(&anna, &theirs, 6);
    assert_eq!(after_theirs.supersedes(&mine), Err(AuthError::BrokenChain));
    assert_eq!(
        after_theirs.check_successor(&mine),
        Err(AuthError::BrokenChain)
    );
    assert_eq!(after_theirs.check_successor(&theirs), Ok(()));
}

#[test]
fn numbers_begin_at_one_and_only_the_first_has_no_predecessor() {
    let anna = anna();
    for (seq, prev) in [
        (0, Hash::ZERO),
        (0, Hash([1; 32])),
        (1, Hash([1; 32])),
        (2, Hash::ZERO),
    ] {
        let mut list = anna.list.clone();
        list.list.seq = seq;
        list.list.prev = prev;
        sign_again(&anna, &mut list);
        assert_eq!(list.verify(), Err(AuthError::ListSequence), "{seq}");
    }
    let mut last = anna.list.clone();
    last.list.seq = u64::MAX;
    last.list.prev = Hash([1; 32]);
    sign_again(&anna, &mut last);
    assert_eq!(last.verify(), Ok(()));
    let after = anna.key.sign_list(&anna.genesis, Some(&last), vec![], NOW);
    assert_eq!(after, Err(AuthError::ListSequence));
    assert_eq!(last.check_successor(&last), Err(AuthError::ListSequence));
}

#[test]
fn another_user_or_realm_cannot_continue_a_list() {
    let (anna, boris) = (anna(), boris());
    let elsewhere = User::new(1, RealmId([0x22; 16]));
    let second = next(&anna, &anna.list, 4);
    assert_eq!(second.supersedes(&boris.list), Err(AuthError::WrongUser));
    assert_eq!(
        second.check_successor(&elsewhere.list),
        Err(AuthError::WrongUser)
    );
    let foreign = boris
        .key
        .sign_list(&boris.genesis, Some(&anna.list), vec![], NOW);
    assert_eq!(foreign, Err(AuthError::WrongUser));
    // The wrong key under one's own name.
    let forged = boris
        .key
        .sign_list(&anna.genesis, Some(&anna.list), vec![boris.entry()], NOW);
    assert_eq!(forged, Err(AuthError::ListSignature));

    let mut moved = anna.list.clone();
    moved.list.realm = RealmId([0x22; 16]);
    sign_again(&anna, &mut moved);
    assert_eq!(moved.verify(), Err(AuthError::RealmMismatch));
    let mut renamed = anna.list.clone();
    renamed.list.user = boris.genesis.user_id();
    sign_again(&anna, &mut renamed);
    assert_eq!(renamed.verify(), Err(AuthError::UserMismatch));
    let mut under_other = anna.list.clone();
    under_other.genesis = boris.genesis.clone();
    assert_eq!(under_other.verify(), Err(AuthError::UserMismatch));
}

#[test]
fn devices_are_unique_and_bounded() {
    let anna = anna();
    let sign = |devices: Vec<DeviceRef>| {
        anna.key
            .sign_list(&anna.genesis, None, devices, NOW)
            .map(|_| ())
    };
    let many = |count: u8| {
        (1..=count)
            .map(|at| entry(device(at), &key(at)))
            .collect::<Vec<_>>()
    };
    let most = u8::try_from(limits::USER_DEVICES).unwrap();
    assert_eq!(sign(many(most)), Ok(()));
    let too_many = AuthError::TooManyDevices {
        max: limits::USER_DEVICES,
    };
    assert_eq!(sign(many(most + 1)), Err(too_many));
    let twice = vec![entry(device(1), &key(1)), entry(device(1), &key(2))];
    assert_eq!(sign(twice), Err(AuthError::ListDevices));
    let shared_key = vec![entry(device(1), &key(1)), entry(device(2), &key(1))];
    assert_eq!(sign(shared_key), Err(AuthError::ListDevices));
    let mut short = entry(device(1), &key(1));
    short.key = Bytes::from(&[1u8; 31][..]);
    assert_eq!(sign(vec![short]), Err(AuthError::BadKey));
    let mut foreign = entry(device(1), &key(1));
    foreign.scheme = 0x0403;
    assert_eq!(
        sign(vec![foreign]),
        Err(AuthError::UnsupportedScheme { scheme: 0x0403 })
    );

    // A signer who does not sort, or lists more than allowed, is refused by the reader.
    let mut unsorted = anna.list.clone();
    unsorted.list.devices = vec![entry(device(2), &key(2)), entry(device(1), &key(1))];
    sign_again(&anna, &mut unsorted);
    assert_eq!(unsorted.verify(), Err(AuthError::ListDevices));
    let mut long = anna.list.clone();
    long.list.devices = many(most + 1);
    sign_again(&anna, &mut long);
    let long = SignedDeviceList::from_bytes(&long.to_bytes()).unwrap();
    assert_eq!(long.verify(), Err(too_many));
}

#[test]
fn a_list_that_is_never_fresh_is_refused() {
    let anna = anna();
    let mut list = anna.list.clone();
    list.list.next_update = list.list.issued;
    sign_again(&anna, &mut list);
    assert_eq!(list.verify(), Err(AuthError::ListFreshness));
}

#[test]
fn a_signature_under_another_label_is_refused() {
    let anna = anna();
    let mut list = anna.list.clone();
    list.signature = anna.sign_anything(CERTIFICATE_LABEL, &encode(&list.list));
    assert_eq!(list.verify(), Err(AuthError::ListSignature));
    list.signature = anna.credential.user_signature;
    assert_eq!(list.verify(), Err(AuthError::ListSignature));
}

#[test]
fn every_bit_of_a_list_counts_and_it_has_one_encoding() {
    let anna = anna();
    let list = next(&anna, &anna.list, 4);
    let bytes = list.to_bytes();
    let accepted = |bytes: &[u8]| {
        SignedDeviceList::from_bytes(bytes)
            .and_then(|list| list.verify())
            .is_ok()
    };
    assert!(accepted(&bytes));
    for (bit, flipped) in one_bit_flips(&bytes).enumerate() {
        assert!(!accepted(&flipped), "bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(!accepted(&bytes[..end]), "cut at {end}");
    }
    assert!(!accepted(&[&bytes[..], &[0]].concat()));
    // Length of the first device's key, in two bytes instead of one.
    let key_at = 74 + (2 + 16 + 32 + 8 + 32 + 8 + 8) + 2 + 16 + 2;
    assert_eq!(bytes[key_at], 32);
    let mut wide = widen_length(&bytes, key_at);
    // The vector around it is one byte longer then.
    let length_at = 74 + (2 + 16 + 32 + 8 + 32 + 8 + 8);
    wide[length_at + 1] += 1;
    assert!(matches!(
        SignedDeviceList::from_bytes(&wide),
        Err(AuthError::Malformed(_))
    ));
    assert!(matches!(
        SignedDeviceList::from_bytes(&vec![0; 64 * 1024]),
        Err(AuthError::Malformed(_))
    ));
}

#[test]
fn unknown_versions_are_refused() {
    let anna = anna();
    let mut list = anna.list.clone();
    list.list.version = 2;
    sign_again(&anna, &mut list);
    assert_eq!(
        list.verify(),
        Err(AuthError::UnsupportedVersion { version: 2 })
    );
}

#[test]
fn a_successor_is_verified_before_it_is_compared() {
    let anna = anna();
    let mut forged = next(&anna, &anna.list, 4);
    forged.signature = anna.list.signature;
    assert_eq!(forged.supersedes(&anna.list), Err(AuthError::ListSignature));
    assert_eq!(
        forged.check_successor(&anna.list),
        Err(AuthError::ListSignature)
    );

    let mut unknown = anna.list.clone();
    unknown.genesis.version = 2;
    unknown.list.user = unknown.genesis.user_id();
    sign_again(&anna, &mut unknown);
    assert_eq!(
        unknown.verify(),
        Err(AuthError::UnsupportedVersion { version: 2 })
    );

    let second = next(&anna, &anna.list, 4);
    let mut moved = anna.list.clone();
    moved.list.realm = RealmId([0x22; 16]);
    assert_eq!(second.supersedes(&moved), Err(AuthError::WrongRealm));
}

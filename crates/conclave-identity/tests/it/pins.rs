//! Contacts and what they are trusted for.

use conclave_identity::{
    Assurance, Contact, NameError, PINS_MAX, Pin, PinBook, PinError, Untrusted,
};
use conclave_proto::policy::{Pinned, TrustPolicy};
use conclave_proto::{Hash, UnixMs, UserId};

use crate::cast::{NOW, User, anna, boris, present};

fn pins_count() -> TrustPolicy {
    TrustPolicy {
        pinned: Pinned::Verified,
        ..TrustPolicy::default()
    }
}

fn first_use_counts() -> TrustPolicy {
    TrustPolicy {
        pinned: Pinned::FirstUse,
        ..TrustPolicy::default()
    }
}

fn pin(user: &User, name: &str, verified: bool) -> Pin {
    Pin::of(
        &Contact::new(user.genesis.clone(), name).unwrap(),
        verified,
        NOW,
    )
}

fn stored(book: &PinBook) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(book, &mut bytes).unwrap();
    bytes
}

fn loaded(bytes: &[u8]) -> Option<PinBook> {
    ciborium::from_reader(bytes).ok()
}

#[test]
fn a_pin_makes_an_identity_trusted() {
    let anna = anna();
    let identity = present(&anna.credential.to_bytes(), &anna.device_key.public()).unwrap();
    let mut book = PinBook::default();
    assert_eq!(
        book.judge(&identity, &pins_count()),
        Err(Untrusted::NotPinned)
    );
    book.add(pin(&anna, "Anna", false)).unwrap();
    // Known is not verified: only a policy that says so takes it for enough.
    assert_eq!(
        book.judge(&identity, &pins_count()),
        Err(Untrusted::NotCompared)
    );
    assert_eq!(
        book.judge(&identity, &first_use_counts()),
        Ok(Assurance::Pinned)
    );
    book.add(pin(&anna, "Anna", true)).unwrap();
    assert_eq!(
        book.judge(&identity, &pins_count()),
        Ok(Assurance::Verified)
    );
    assert!(book.remove(&identity.user).is_some());
    assert_eq!(
        book.judge(&identity, &pins_count()),
        Err(Untrusted::NotPinned)
    );
}

#[test]
fn a_policy_without_pins_trusts_nobody_yet() {
    let anna = anna();
    let identity = present(&anna.credential.to_bytes(), &anna.device_key.public()).unwrap();
    let mut book = PinBook::default();
    book.add(pin(&anna, "Anna", true)).unwrap();
    let endorsers_only = TrustPolicy {
        endorsements: 2,
        endorsement_depth: 1,
        ..TrustPolicy::default()
    };
    assert_eq!(
        book.judge(&identity, &TrustPolicy::default()),
        Err(Untrusted::NoEvidence)
    );
    assert_eq!(
        book.judge(&identity, &endorsers_only),
        Err(Untrusted::NoEvidence)
    );
}

#[test]
fn a_pin_of_another_statement_does_not_count() {
    let anna = anna();
    let identity = present(&anna.credential.to_bytes(), &anna.device_key.public()).unwrap();
    let mut book = PinBook::default();
    let mut changed = pin(&anna, "Anna", true);
    changed.genesis_hash = Hash([1; 32]);
    book.add(changed).unwrap();
    assert_eq!(
        book.judge(&identity, &pins_count()),
        Err(Untrusted::PinChanged)
    );
    assert_eq!(book.add(pin(&anna, "Anna", true)), Err(PinError::Changed));
}

#[test]
fn two_people_may_have_one_name() {
    let (anna, boris) = (anna(), boris());
    let mut book = PinBook::default();
    book.add(pin(&anna, "Anna", true)).unwrap();
    book.add(pin(&boris, "Anna", false)).unwrap();
    assert_eq!(book.len(), 2);
    book.add(pin(&anna, "Anna A.", false)).unwrap();
    assert_eq!(book.name_of(&boris.genesis.user_id()), Some("Anna"));
    assert_eq!(book.name_of(&anna.genesis.user_id()), Some("Anna A."));
    book.remove(&anna.genesis.user_id());
    assert_eq!((book.len(), book.is_empty()), (1, false));
    let mut nameless = pin(&boris, "B", false);
    nameless.name = String::new();
    assert_eq!(book.add(nameless), Err(PinError::Name(NameError::Empty)));
}

#[test]
fn pinning_again_never_loses_a_verification() {
    let anna = anna();
    let mut book = PinBook::default();
    let first = pin(&anna, "Anna", true);
    assert_eq!(book.add(first.clone()), Ok(None));
    let mut second = pin(&anna, "Anna from work", false);
    second.since = UnixMs(NOW.0 + 1000);
    assert_eq!(book.add(second), Ok(Some(first)));
    let kept = book.get(&anna.genesis.user_id()).unwrap();
    assert_eq!(
        (kept.verified, kept.since, kept.introducer),
        (true, NOW, false)
    );
    assert_eq!(kept.name, "Anna from work");
}

#[test]
fn a_book_survives_storage_and_bad_books_do_not_load() {
    let (anna, boris) = (anna(), boris());
    let mut book = PinBook::default();
    book.add(pin(&anna, "Anna", true)).unwrap();
    book.add(pin(&boris, "Boris", false)).unwrap();
    let bytes = stored(&book);
    assert_eq!(loaded(&bytes).unwrap(), book);
    let json = serde_json::to_string(&book).unwrap();
    assert_eq!(serde_json::from_str::<PinBook>(&json).unwrap(), book);
    assert!(
        serde_json::from_str::<PinBook>(&json.replace(r#""version":1"#, r#""version":2"#)).is_err()
    );
    assert!(serde_json::from_str::<PinBook>(&json.replace("Boris", r"B\n")).is_err());
    let anna_id = anna.genesis.user_id().to_string();
    let boris_id = boris.genesis.user_id().to_string();
    assert!(serde_json::from_str::<PinBook>(&json.replace(&boris_id, &anna_id)).is_err());
    for end in 0..bytes.len() {
        assert!(loaded(&bytes[..end]).is_none(), "cut at {end}");
    }
}

#[test]
fn a_book_is_bounded_and_large_books_load() {
    let anna = anna();
    let mut book = PinBook::default();
    for number in 0..PINS_MAX {
        let mut user = [0; 32];
        user[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let name = format!("contact {number}");
        book.add(Pin {
            user: UserId(user),
            name,
            ..pin(&anna, "x", false)
        })
        .unwrap();
    }
    assert_eq!(
        book.add(pin(&anna, "Anna", false)),
        Err(PinError::Full { max: PINS_MAX })
    );
    assert_eq!(loaded(&stored(&book)).unwrap(), book);
}

#[test]
fn debug_shows_no_name() {
    let anna = anna();
    let mut book = PinBook::default();
    book.add(pin(&anna, "Very Private", true)).unwrap();
    let shown = format!("{:?} {:?}", book, book.iter().next().unwrap());
    assert!(!shown.to_lowercase().contains("private"), "{shown}");
}

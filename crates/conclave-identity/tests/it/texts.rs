//! Texts that people paste, type and scan.

use conclave_identity::{
    AuthError, Contact, DeviceApproval, DeviceRequest, HandsOver, NAME_CHARS, NameError, TextError,
    group_code, safety_number, safety_number_from_hashes,
};
use conclave_proto::hash::labelled;
use conclave_proto::{DeviceId, RealmId};

use crate::cast::{NOW, REALM, User, anna, boris, receiving, widen_length};

fn contact() -> Contact {
    Contact::new(anna().genesis, "Anna Ångström").unwrap()
}

/// `text` with the character at `at` replaced.
fn with_char(text: &str, at: usize, c: char) -> String {
    text.chars()
        .enumerate()
        .map(|(place, old)| if place == at { c } else { old })
        .collect()
}

#[test]
fn a_contact_survives_paste_and_scan() {
    let text = contact().to_text();
    assert!(text.starts_with("conclave:user:"));
    assert_eq!(text, text.to_lowercase());
    assert_eq!(Contact::from_text(&text).unwrap(), contact());
    assert_eq!(Contact::from_text(&text.to_uppercase()).unwrap(), contact());
    assert_eq!(
        Contact::from_text(&format!("  \n{text}\r\n ")).unwrap(),
        contact()
    );
    let wrapped: Vec<String> = text
        .as_bytes()
        .chunks(20)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    assert_eq!(
        Contact::from_text(&wrapped.join("\r\n")).unwrap(),
        contact()
    );
    assert_eq!(
        Contact::from_text(&wrapped.join("\n\t")).unwrap(),
        contact()
    );
}

#[test]
fn a_contact_fits_a_qr_code() {
    // QR version 10 holds 395 alphanumeric characters at error correction L, version 14 holds 667.
    assert!(contact().to_text().len() <= 200);
    let longest = Contact::new(anna().genesis, &"🦊".repeat(NAME_CHARS))
        .unwrap()
        .to_text();
    assert!(longest.len() <= 667, "{}", longest.len());
    assert_eq!(
        Contact::from_text(&longest).unwrap().name.chars().count(),
        NAME_CHARS
    );
    let alphanumeric =
        |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "$%*+-./: ".contains(c);
    assert!(longest.to_uppercase().chars().all(alphanumeric));
}

#[test]
fn a_mistyped_character_is_noticed_wherever_it_is() {
    let anna = anna();
    let key = &boris().device_key;
    let request = DeviceRequest::new(key, &receiving(), REALM, DeviceId([5; 16]), "Phone").unwrap();
    let approval = anna
        .key
        .approve(&request, &anna.list, "Anna", &[], HandsOver::Nothing, NOW)
        .unwrap();
    let contact_reads = |text: &str| Contact::from_text(text).map(|_| ());
    let request_reads = |text: &str| DeviceRequest::from_text(text).map(|_| ());
    let approval_reads = |text: &str| DeviceApproval::from_text(text).map(|_| ());
    type Reader<'a> = &'a dyn Fn(&str) -> Result<(), TextError>;
    let kinds: [(String, Reader<'_>); 3] = [
        (contact().to_text(), &contact_reads),
        (request.to_text(), &request_reads),
        (approval.to_text(), &approval_reads),
    ];
    for (text, reads) in kinds {
        assert_eq!(reads(&text), Ok(()));
        let chars: Vec<char> = text.chars().collect();
        for at in 0..chars.len() {
            for typo in ['a', 'b', '7', 'q', '1', 'é', '-'] {
                if typo == chars[at] {
                    continue;
                }
                let error = reads(&with_char(&text, at, typo)).unwrap_err();
                let noticed = matches!(
                    error,
                    TextError::WrongKind { .. } | TextError::Alphabet | TextError::Checksum
                );
                assert!(noticed, "{at} {typo}: {error}");
            }
            // Left out, doubled, swapped with its neighbour.
            let mut without = chars.clone();
            without.remove(at);
            let mut doubled = chars.clone();
            doubled.insert(at, chars[at]);
            let mut swapped = chars.clone();
            let neighbour = (at + 1).min(chars.len() - 1);
            swapped.swap(at, neighbour);
            for other in [without, doubled, swapped] {
                if other != chars {
                    assert!(
                        reads(&other.into_iter().collect::<String>()).is_err(),
                        "{at}"
                    );
                }
            }
        }
        for end in 0..text.len() {
            assert!(reads(&text[..end]).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn kinds_of_text_are_not_confused() {
    let anna = anna();
    let text = contact().to_text();
    let wrong = DeviceRequest::from_text(&text).unwrap_err();
    assert_eq!(
        wrong,
        TextError::WrongKind {
            expected: "conclave:device-request:"
        }
    );
    assert_eq!(
        wrong.to_string(),
        "this text does not begin with conclave:device-request:"
    );
    // The checksum covers the prefix.
    let renamed = text.replace("conclave:user:", "conclave:device-request:");
    assert_eq!(
        DeviceRequest::from_text(&renamed).unwrap_err(),
        TextError::Checksum
    );
    let key = &anna.device_key;
    let request = DeviceRequest::new(key, &receiving(), REALM, DeviceId([5; 16]), "Phone").unwrap();
    assert!(matches!(
        Contact::from_text(&request.to_text()),
        Err(TextError::WrongKind { .. })
    ));
    for nothing in ["", " ", "conclave:user", "\u{0}", "hello"] {
        assert!(matches!(
            Contact::from_text(nothing),
            Err(TextError::WrongKind { .. })
        ));
    }
    assert_eq!(
        Contact::from_text("conclave:user:"),
        Err(TextError::Checksum)
    );
    assert_eq!(
        Contact::from_text("conclave:user:aaaaaaa"),
        Err(TextError::Checksum)
    );
}

#[test]
fn long_texts_are_refused_before_they_are_read() {
    let long = format!("conclave:user:{}", "a".repeat(1 << 20));
    assert!(matches!(
        Contact::from_text(&long),
        Err(TextError::TooLong { .. })
    ));
    assert!(matches!(
        DeviceApproval::from_text(&long),
        Err(TextError::TooLong { .. })
    ));
    let spaces = " ".repeat(1 << 20);
    assert!(matches!(
        Contact::from_text(&spaces),
        Err(TextError::TooLong { .. })
    ));
    let just_over = format!("conclave:user:{}", "a".repeat(700));
    assert!(matches!(
        Contact::from_text(&just_over),
        Err(TextError::TooLong { .. })
    ));
}

#[test]
fn the_longest_text_is_read_with_much_white_space() {
    let longest = Contact::new(anna().genesis, &"🦊".repeat(NAME_CHARS)).unwrap();
    let text = longest.to_text();
    let spaced: String = text.chars().flat_map(|c| [c, ' ', '\n', ' ']).collect();
    assert_eq!(Contact::from_text(&spaced).unwrap(), longest);
    let more = format!("{spaced} ");
    assert!(matches!(
        Contact::from_text(&more),
        Err(TextError::TooLong { .. })
    ));
    let longer = format!("{text}a");
    assert_eq!(
        Contact::from_text(&longer),
        Err(TextError::TooLong { max: text.len() })
    );
}

#[test]
fn a_contact_of_another_version_is_refused() {
    // Written by hand: prefix, base32 of version 2, statement, name and checksum.
    let mut statement = vec![0, 2];
    statement.extend_from_slice(&anna().genesis.to_bytes());
    statement.extend_from_slice(b"\x04Anna");
    let text = |statement: &[u8]| {
        let checksum = labelled(
            "conclave 1.0 text checksum",
            &[b"conclave:user:", statement],
        );
        let bytes = [statement, &checksum.0[..4]].concat();
        format!(
            "conclave:user:{}",
            data_encoding::BASE32_NOPAD.encode(&bytes)
        )
    };
    let read = Contact::from_text(&text(&statement));
    assert_eq!(
        read,
        Err(AuthError::UnsupportedVersion { version: 2 }.into())
    );
    statement[1] = 1;
    assert_eq!(Contact::from_text(&text(&statement)).unwrap().name, "Anna");
    // The name's length in two bytes; a byte after it.
    let name_at = statement.len() - 5;
    let malformed = |bytes: &[u8]| {
        let read = Contact::from_text(&text(bytes));
        matches!(read, Err(TextError::Statement(AuthError::Malformed(_))))
    };
    assert!(malformed(&widen_length(&statement, name_at)));
    assert!(malformed(&[&statement[..], &[0]].concat()));
    assert!(malformed(&[]));
}

#[test]
fn a_contact_with_bad_content_is_refused() {
    assert_eq!(
        Contact::new(anna().genesis, "").unwrap_err(),
        NameError::Empty
    );
    let mut foul = contact();
    foul.name = "a\u{202e}nna".to_owned();
    let read = Contact::from_text(&foul.to_text());
    assert!(matches!(
        read,
        Err(TextError::Statement(AuthError::Malformed(_)))
    ));
    let mut newer = contact();
    newer.genesis.version = 2;
    let read = Contact::from_text(&newer.to_text());
    assert_eq!(
        read,
        Err(AuthError::UnsupportedVersion { version: 2 }.into())
    );
    let mut weak = contact();
    weak.genesis.key = [0; 32];
    assert_eq!(
        Contact::from_text(&weak.to_text()),
        Err(AuthError::BadKey.into())
    );
}

#[test]
fn text_errors_do_not_quote() {
    let secret = "hunter2hunter2";
    for text in [secret.to_owned(), format!("conclave:user:{secret}")] {
        let error = Contact::from_text(&text).unwrap_err();
        assert!(!format!("{error} {error:?} {}", error.code()).contains("hunter2"));
    }
    assert!(!format!("{:?}", contact()).contains("Anna"));
}

#[test]
fn safety_numbers_are_symmetric_and_differ() {
    let (anna, boris) = (anna().genesis, boris().genesis);
    let number = safety_number(&anna, &boris);
    assert_eq!(number, safety_number(&boris, &anna));
    assert_eq!(
        number,
        safety_number_from_hashes(&boris.hash(), &anna.hash())
    );
    let groups: Vec<&str> = number.split(' ').collect();
    assert_eq!(groups.len(), 12);
    assert!(
        groups
            .iter()
            .all(|group| group.len() == 5 && group.bytes().all(|b| b.is_ascii_digit()))
    );
    // Somebody in the middle has another key; the same key in another realm or with another salt is another user.
    let middle = User::new(3, REALM).genesis;
    assert_ne!(number, safety_number(&anna, &middle));
    assert_ne!(number, safety_number(&middle, &boris));
    assert_ne!(
        number,
        safety_number(&User::new(1, RealmId::ZERO).genesis, &boris)
    );
    let mut salted = anna.clone();
    salted.salt = [0xee; 16];
    assert_ne!(number, safety_number(&salted, &boris));
}

#[test]
fn group_codes_have_thirty_digits() {
    let code = group_code(&[7; 32]);
    assert_eq!(code.split(' ').count(), 6);
    assert_eq!(code.bytes().filter(u8::is_ascii_digit).count(), 30);
    assert_eq!(code, group_code(&[7; 32]));
    assert_ne!(code, group_code(&[8; 32]));
    assert_ne!(group_code(&[]), group_code(&[0]));
}

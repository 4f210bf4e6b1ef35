use super::*;

fn passphrase(text: &str) -> Secret {
    Secret::Passphrase(
        Zeroizing::new(text.into()),
        PassphraseCost::insecure_for_tests(),
    )
}

fn sealed(key: &StoreKey, row: &[u8], value: &[u8]) -> Vec<u8> {
    key.seal(row, &nonces(1).unwrap()[0], value).unwrap()
}

#[test]
fn values_open_only_where_they_were_sealed() {
    let key = StoreKey::generate().unwrap();
    let value = sealed(&key, b"row", b"content");
    assert_eq!(value.len(), b"content".len() + SEAL_OVERHEAD_BYTES);
    assert_eq!(key.open(b"row", &value).unwrap().as_slice(), b"content");
    assert!(matches!(
        key.open(b"other", &value),
        Err(StoreError::RowDamaged { .. })
    ));
    let other = StoreKey::generate().unwrap();
    assert!(matches!(
        other.open(b"row", &value),
        Err(StoreError::RowDamaged { .. })
    ));
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    let key = StoreKey::generate().unwrap();
    let value = sealed(&key, b"row", b"content");
    for at in 0..value.len() {
        let mut bad = value.clone();
        bad[at] ^= 0x40;
        assert!(key.open(b"row", &bad).is_err(), "byte {at}");
        assert!(key.open(b"row", &value[..at]).is_err(), "cut at {at}");
    }
    let mut future = value;
    future[0] = FORMAT_VERSION + 1;
    assert!(matches!(
        key.open(b"row", &future),
        Err(StoreError::UnknownFormat { found: 2 })
    ));
}

#[test]
fn sealing_twice_gives_different_bytes() {
    let key = StoreKey::generate().unwrap();
    assert_ne!(
        sealed(&key, b"row", b"content"),
        sealed(&key, b"row", b"content")
    );
}

#[test]
fn a_wrapped_key_tells_wrong_from_damaged() {
    let key = StoreKey::generate().unwrap();
    let header = key.wrap(&passphrase("right")).unwrap();
    let again = StoreKey::unwrap(&header, &passphrase("right")).unwrap();
    assert_eq!(again.bytes, key.bytes);
    assert!(matches!(
        StoreKey::unwrap(&header, &passphrase("wrong")),
        Err(StoreError::WrongSecret)
    ));
    let file = Secret::KeyFile(Zeroizing::new([7; 32]));
    assert!(matches!(
        StoreKey::unwrap(&header, &file),
        Err(StoreError::SecretKind { .. })
    ));
    for at in 0..header.len() {
        let mut bad = header.clone();
        bad[at] ^= 1;
        assert!(
            matches!(
                StoreKey::unwrap(&bad, &passphrase("right")),
                Err(StoreError::Damaged { .. })
            ),
            "byte {at}"
        );
    }
    let header = key.wrap(&file).unwrap();
    assert_eq!(StoreKey::unwrap(&header, &file).unwrap().bytes, key.bytes);
    let other = Secret::KeyFile(Zeroizing::new([8; 32]));
    assert!(matches!(
        StoreKey::unwrap(&header, &other),
        Err(StoreError::WrongSecret)
    ));
}

/// Whoever writes the header could otherwise make opening it exhaust the memory.
#[test]
fn an_absurd_cost_is_refused_before_it_is_paid() {
    let cost = PassphraseCost {
        memory_kib: u32::MAX,
        passes: 1,
        lanes: 1,
    };
    let secret = Secret::Passphrase(Zeroizing::new("x".into()), cost);
    let key = StoreKey::generate().unwrap();
    assert!(matches!(key.wrap(&secret), Err(StoreError::Damaged { .. })));
}

#[test]
fn an_unknown_version_is_refused_and_an_old_one_cannot_be_forged() {
    let key = StoreKey::generate().unwrap();
    let secret = passphrase("right");
    for version in [0, WRAP_VERSION + 1, u16::MAX] {
        let header = key.wrap_as(version, secret.method(), &secret).unwrap();
        let error = StoreKey::unwrap(&header, &secret).unwrap_err();
        assert!(
            matches!(error, StoreError::UnknownFormat { found } if found == version),
            "{error:?}"
        );
        assert!(error.to_string().contains("update"), "{error}");
    }
    let header = key.wrap_as(1, secret.method(), &secret).unwrap();
    assert_eq!(described(&header).unwrap().0, 1);
    assert_eq!(StoreKey::unwrap(&header, &secret).unwrap().bytes, key.bytes);
    // Who has no secret can write another version and a hash that fits, but not open the way back.
    let header = key.wrap(&secret).unwrap();
    let mut wrapped = WrappedKey::parse(&header).unwrap();
    wrapped.version = 1;
    let mut body = Vec::new();
    ciborium::into_writer(&wrapped, &mut body).unwrap();
    let forged = [Sha256::digest(&body).to_vec(), body].concat();
    assert!(matches!(
        StoreKey::unwrap(&forged, &secret),
        Err(StoreError::WrongSecret)
    ));
}

#[test]
fn an_entry_of_a_keyring_opens_what_names_it() {
    let key = StoreKey::generate().unwrap();
    let secret = Secret::Keyring([1; 16], Zeroizing::new([7; 32]));
    let header = key.wrap(&secret).unwrap();
    assert!(matches!(described(&header), Ok((WRAP_VERSION, Method::Keyring(id))) if id == [1; 16]));
    assert_eq!(StoreKey::unwrap(&header, &secret).unwrap().bytes, key.bytes);
    let other = Secret::Keyring([1; 16], Zeroizing::new([8; 32]));
    assert!(matches!(
        StoreKey::unwrap(&header, &other),
        Err(StoreError::WrongSecret)
    ));
    // The same bytes as a key file are another key.
    let file = Secret::KeyFile(Zeroizing::new([7; 32]));
    assert!(matches!(
        StoreKey::unwrap(&header, &file),
        Err(StoreError::SecretKind { .. })
    ));
}

#[test]
fn debug_prints_no_secret() {
    let key = StoreKey::generate().unwrap();
    assert_eq!(format!("{key:?}"), "StoreKey(..)");
    assert_eq!(
        format!("{:?}", passphrase("hunter2")),
        "Secret::Passphrase(..)"
    );
}

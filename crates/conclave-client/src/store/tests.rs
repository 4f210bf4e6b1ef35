use super::rows::end_of_prefix;
use super::*;

fn many(count: u32, value: u8) -> WriteBatch {
    let mut batch = WriteBatch::default();
    for at in 0..count {
        batch.put(
            at.to_be_bytes().to_vec(),
            zeroize::Zeroizing::new(vec![value; 1000]),
        );
    }
    batch
}

/// The disk runs full in the middle of the second batch: nothing of either is there, and the store works when there is room again.
#[tokio::test]
async fn a_transaction_that_fails_half_way_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cost = PassphraseCost::insecure_for_tests();
    let unlock = Unlock::Passphrase {
        passphrase: zeroize::Zeroizing::new("right".into()),
        cost,
    };
    let mut store = Store::create(folder.path(), &unlock, &many(1, 1))
        .await
        .unwrap();
    let pages: i64 = sqlx::query_scalar("PRAGMA page_count")
        .fetch_one(&mut store.connection)
        .await
        .unwrap();
    let limit = format!("PRAGMA max_page_count = {}", pages + 50);
    sqlx::query(AssertSqlSafe(limit))
        .execute(&mut store.connection)
        .await
        .unwrap();
    let batches = [many(10, 2), many(1000, 3)];
    let error = store.apply(&batches).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Full) && error.is_retryable(),
        "{error:?}"
    );
    let found = store.read(&[]).await.unwrap();
    assert!(found.len() == 1 && found[0].1.as_slice() == [1; 1000]);
    sqlx::query("PRAGMA max_page_count = 1000000")
        .execute(&mut store.connection)
        .await
        .unwrap();
    store.apply(&batches).await.unwrap();
    let found = store.read(&[]).await.unwrap();
    assert!(found.len() == 1000 && found.iter().all(|(_, value)| value.as_slice() == [3; 1000]));
}

/// What makes "durable, then sent" true, and what erases.
#[tokio::test]
async fn the_database_runs_in_the_promised_mode() {
    let folder = tempfile::tempdir().unwrap();
    let mut connection = connect(&folder.path().join(DATABASE_NAME), true)
        .await
        .unwrap();
    for (pragma, wanted) in [
        ("synchronous", 2i64),
        ("secure_delete", 1),
        ("foreign_keys", 1),
    ] {
        let sql = AssertSqlSafe(format!("PRAGMA {pragma}"));
        let found: i64 = sqlx::query_scalar(sql)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(found, wanted, "{pragma}");
    }
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(mode, "wal");
    let locking: String = sqlx::query_scalar("PRAGMA locking_mode")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(locking, "exclusive");
}

#[test]
fn prefixes_end_where_they_should() {
    assert_eq!(end_of_prefix(b"ab"), Some(b"ac".to_vec()));
    assert_eq!(end_of_prefix(&[1, 0xff, 0xff]), Some(vec![2]));
    assert_eq!(end_of_prefix(&[0xff]), None);
    assert_eq!(end_of_prefix(&[]), None);
}

fn unlock(text: &str) -> Unlock {
    Unlock::Passphrase {
        passphrase: zeroize::Zeroizing::new(text.into()),
        cost: PassphraseCost::insecure_for_tests(),
    }
}

async fn opens(folder: &Path, text: &str) -> bool {
    match Store::open(folder, &unlock(text)).await {
        Ok(mut store) => {
            let rows = store.read(&[]).await.unwrap();
            assert!(
                rows.len() == 20 && rows.iter().all(|(_, value)| value.as_slice() == [1; 1000])
            );
            store.close().await.unwrap();
            true
        }
        Err(error) => {
            assert!(matches!(error, StoreError::WrongSecret), "{error:?}");
            false
        }
    }
}

/// The process dies, or the power fails, at any point of a change of the passphrase: exactly one of the two opens everything.
#[tokio::test]
async fn interrupted_anywhere_a_change_of_the_secret_leaves_exactly_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::create(folder.path(), &unlock("old"), &many(20, 1))
        .await
        .unwrap();
    store.unscrubbed = true;
    store.scrub().await.unwrap();
    let (database, log) = (
        folder.path().join(DATABASE_NAME),
        folder.path().join(format!("{DATABASE_NAME}-wal")),
    );
    let before = std::fs::read(&database).unwrap();
    let secret = unlock("new").new_secret().await.unwrap();
    let header = store.key.wrap(&secret).unwrap();
    store.put_wrapped(&header).await.unwrap();
    let committed = std::fs::read(&log).unwrap();
    store.unscrubbed = true;
    store.scrub().await.unwrap();
    let after = std::fs::read(&database).unwrap();
    store.close().await.unwrap();
    assert!(before.len() == after.len() && before != after && committed.len() > 4096);

    let crashed = tempfile::tempdir().unwrap();
    let restore = |database: &[u8], log: &[u8]| {
        std::fs::write(crashed.path().join(DATABASE_NAME), database).unwrap();
        let path = crashed.path().join(format!("{DATABASE_NAME}-wal"));
        std::fs::write(path, log).unwrap();
    };
    let mut turned = 0;
    // While the log is written. SQLite folds it in when it is opened, so the files are put back for each try.
    for cut in (0..=committed.len()).step_by(412).chain([committed.len()]) {
        restore(&before, &committed[..cut]);
        let old = opens(crashed.path(), "old").await;
        restore(&before, &committed[..cut]);
        let new = opens(crashed.path(), "new").await;
        assert!(old != new, "cut at {cut}");
        turned += usize::from(new);
    }
    assert!(turned > 0);
    // While it is folded in.
    for cut in (0..=before.len()).step_by(2048) {
        let mixed = [&after[..cut], &before[cut..]].concat();
        restore(&mixed, &committed);
        assert!(opens(crashed.path(), "new").await, "folded up to {cut}");
        restore(&mixed, &committed);
        assert!(!opens(crashed.path(), "old").await, "folded up to {cut}");
    }
}

/// A store of the format before the sum over all rows is brought to the present one, once.
#[tokio::test]
async fn an_older_format_is_upgraded_and_keeps_its_cost() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::create(folder.path(), &unlock("right"), &many(20, 1))
        .await
        .unwrap();
    let secret = unlock("right").new_secret().await.unwrap();
    let old = store.key.wrap_as(1, secret.method(), &secret).unwrap();
    store.put_wrapped(&old).await.unwrap();
    sqlx::query("DELETE FROM header WHERE name = 'sum'")
        .execute(&mut store.connection)
        .await
        .unwrap();
    store.close().await.unwrap();
    let cost = PassphraseCost::default();
    let expensive = Unlock::Passphrase {
        passphrase: zeroize::Zeroizing::new("right".into()),
        cost,
    };
    let mut store = Store::open(folder.path(), &expensive).await.unwrap();
    let header = schema::key(&mut store.connection).await.unwrap().unwrap();
    let (version, method) = secret::described(&header).unwrap();
    assert_eq!(version, WRAP_VERSION);
    assert!(
        matches!(method, Method::Passphrase(found) if found == PassphraseCost::insecure_for_tests())
    );
    store.close().await.unwrap();
    assert!(opens(folder.path(), "right").await);
    assert!(!opens(folder.path(), "wrong").await);
}

#[tokio::test]
async fn a_limit_holds_and_can_be_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::create(folder.path(), &unlock("right"), &many(20, 1))
        .await
        .unwrap();
    store.limit_bytes(Some(200_000)).await.unwrap();
    for _ in 0..3 {
        let error = store.apply(&[many(1000, 2)]).await.unwrap_err();
        assert!(matches!(error, StoreError::Full), "{error:?}");
        assert_eq!(store.read(&[]).await.unwrap().len(), 20);
    }
    // What fits goes in, also when the store is full: a change of the secret, a row in place of another.
    store.apply(&[many(20, 1)]).await.unwrap();
    store.change_secret(&unlock("new")).await.unwrap();
    store.scrub().await.unwrap();
    assert!(
        std::fs::metadata(folder.path().join(DATABASE_NAME))
            .unwrap()
            .len()
            <= 200_000
    );
    drop(store);
    assert!(opens(folder.path(), "new").await);
    let mut store = Store::open(folder.path(), &unlock("new")).await.unwrap();
    store.limit_bytes(Some(1)).await.unwrap();
    assert!(store.apply(&[many(1000, 2)]).await.is_err());
    store.limit_bytes(None).await.unwrap();
    store.apply(&[many(1000, 2)]).await.unwrap();
    assert_eq!(store.read(&[]).await.unwrap().len(), 1000);
}

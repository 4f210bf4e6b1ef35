//! When storage fails nothing is acknowledged, and the service goes on when it works again.

use conclave_proto::frame::{Answer, Request, ServiceFrame};
use conclave_proto::{GroupPolicy, Refusal};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::harness::TestService;
use crate::scenes::{ONE, RENEWAL};

/// Another process's way into the database.
pub async fn sabotage(service: &TestService, statement: &'static str) {
    let path = service.dir.path().join("service.sqlite");
    let options = SqliteConnectOptions::new().filename(path);
    let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(statement).execute(&mut conn).await.unwrap();
    conn.close().await.unwrap();
}

#[tokio::test]
async fn a_failing_statement_undoes_its_own_operation_only() {
    let service = TestService::start().await;
    let (mut alice, (document, _)) = service.alone().await;
    let group = alice.group_id();
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let frame = pen.updates(2);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();

    sabotage(
        &service,
        "CREATE TRIGGER broken BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'test'); END",
    )
    .await;
    let mark = pen.mark();
    let frames = [pen.updates(1), pen.updates(1)];
    for frame in &frames {
        alice.wire.send(frame).await;
    }
    assert_eq!(
        alice.wire.appended(pen.channel).await,
        Err(Refusal::Storage)
    );
    let second = alice.wire.appended(pen.channel).await.unwrap_err();
    assert!(
        matches!(second, Refusal::Storage | Refusal::ClockGap { expected: 2 }),
        "{second:?}"
    );
    // Other operations are not touched.
    alice.commit(&RENEWAL).await;
    sabotage(&service, "DROP TRIGGER broken").await;

    pen.restore(mark);
    pen.epoch = 1;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((3, 3)));
    let request = Request::GetRecords {
        group,
        document,
        from: 0,
        count: 10,
    };
    let Answer::Records { records, .. } = alice.wire.request(request).await else {
        panic!()
    };
    assert_eq!(records.len(), 4);
}

#[tokio::test]
async fn a_commit_that_cannot_be_stored_can_be_sent_again() {
    let service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    sabotage(
        &service,
        "CREATE TRIGGER broken BEFORE INSERT ON group_log BEGIN SELECT RAISE(ABORT, 'test'); END",
    )
    .await;
    let prepared = alice.prepare(&RENEWAL);
    let failed = alice.send_commit(prepared.bundle.clone()).await;
    assert_eq!(failed, Answer::Refused(Refusal::Storage));
    sabotage(&service, "DROP TRIGGER broken").await;
    let stored = alice.send_commit(prepared.bundle).await;
    assert!(
        matches!(stored, Answer::Accepted { seq: 1, .. }),
        "{stored:?}"
    );
    alice.catch_up(1).await;
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn a_transaction_that_was_rolled_back_is_refused_and_nobody_is_disturbed() {
    let service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let (document, _) = alice.create_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    // SQLite rolls the whole transaction back, as it does when the disk is full.
    sabotage(
        &service,
        "CREATE TRIGGER broken BEFORE INSERT ON records BEGIN SELECT RAISE(ROLLBACK, 'test'); END",
    )
    .await;
    let mark = pen.mark();
    for _ in 0..3 {
        pen.restore(mark);
        let frame = pen.updates(1);
        alice.wire.send(&frame).await;
        assert_eq!(
            alice.wire.appended(pen.channel).await,
            Err(Refusal::Storage)
        );
    }
    alice.commit(&RENEWAL).await;
    bob.catch_up(2).await;
    sabotage(&service, "DROP TRIGGER broken").await;
    pen.restore(mark);
    pen.epoch = 2;
    let frame = pen.updates(2);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((2, 1)));
}

#[tokio::test]
async fn after_a_transaction_of_unknown_end_everybody_comes_back_and_resumes() {
    let service = TestService::start().await;
    let (mut alice, (document, _)) = service.alone().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let frame = pen.updates(2);
    alice.wire.send(&frame).await;
    alice.wire.appended(pen.channel).await.unwrap();
    // The transaction fails in its COMMIT.
    sabotage(
        &service,
        "CREATE TABLE promises (x TEXT REFERENCES meta (name) DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    sabotage(
        &service,
        "CREATE TRIGGER broken BEFORE INSERT ON records BEGIN INSERT INTO promises VALUES ('no such name'); END",
    )
    .await;
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    loop {
        match alice.wire.receive().await.expect("closed without a word") {
            ServiceFrame::Goodbye { why, .. } => {
                assert_eq!(why, Refusal::Storage);
                break;
            }
            ServiceFrame::Ack { .. } => panic!("acknowledged, and not durable"),
            _ => {}
        }
    }
    sabotage(&service, "DROP TRIGGER broken").await;
    alice.reconnect(&service).await;
    alice.follow(2).await;
    let (opened, mut pen) = alice.open(document, ONE, Some(3)).await;
    assert_eq!((opened.own_next_clock, opened.head().size), (2, 3));
    let frame = pen.updates(1);
    alice.wire.send(&frame).await;
    assert_eq!(alice.wire.appended(pen.channel).await, Ok((3, 3)));
    alice.commit(&RENEWAL).await;
}

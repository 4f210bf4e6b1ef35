//! What was acknowledged is there after any end.

use std::process::Command;

use conclave_mls::Plan;
use conclave_proto::GroupPolicy;
use conclave_proto::frame::{Answer, Request};
use tempfile::TempDir;

use crate::harness::{Person, TestService};
use crate::process::Process;
use crate::scenes::ONE;

#[tokio::test(flavor = "multi_thread")]
async fn a_service_dropped_in_the_middle_keeps_everything_acknowledged() {
    let mut service = TestService::start().await;
    let (mut alice, mut bob) = service.pair().await;
    let group = alice.group_id();
    let (document, _) = alice.create_document().await;
    let mut acknowledged = 0;
    for round in 0..3 {
        let (opened, mut pen) = alice.open(document, ONE, Some(1 + acknowledged)).await;
        assert_eq!(opened.own_next_clock, acknowledged);
        for _ in 0..40 {
            let frame = pen.updates(2);
            alice.wire.send(&frame).await;
        }
        // Some of them are answered when the service goes away, some are not.
        for _ in 0..10 {
            alice.wire.appended(pen.channel).await.unwrap();
        }
        service.drop_and_start().await;
        alice.reconnect(&service).await;
        let size = alice.group().state().head().size;
        alice.follow(size).await;
        let (opened, _) = alice.open(document, ONE, Some(1 + acknowledged)).await;
        assert!(
            opened.own_next_clock >= acknowledged + 20,
            "in round {round}"
        );
        assert_eq!(opened.head().size, 1 + opened.own_next_clock);
        acknowledged = opened.own_next_clock;
        alice
            .commit(&Plan {
                self_update: true,
                ..Plan::default()
            })
            .await;
    }
    bob.reconnect(&service).await;
    bob.follow(bob.group().state().head().size).await;
    bob.catch_up(4).await;
    let answer = bob
        .wire
        .request(Request::GetRecords {
            group,
            document,
            from: 0,
            count: 1000,
        })
        .await;
    let Answer::Records { records, .. } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(records.len() as u64, 1 + acknowledged);
}

#[tokio::test]
async fn killed_at_once_nothing_acknowledged_is_lost() {
    let dir = TempDir::new().unwrap();
    let person = Person::new();
    let process = Process::start(&dir);
    let mut alice = process.member(&person).await;
    alice.create_group(GroupPolicy::default()).await;
    let (document, _) = alice.create_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let mut process = process;
    for round in 1..=4u64 {
        let mut acknowledged = 0;
        for _ in 0..100 {
            let frame = pen.updates(1);
            alice.wire.send(&frame).await;
        }
        for _ in 0..25 * round {
            acknowledged = alice.wire.appended(pen.channel).await.unwrap().0;
        }
        process.signal("-KILL");
        let _ = process.child.wait();
        process = Process::start(&dir);
        alice.wire = process.login(&person).await;
        let (opened, next) = alice.open(document, ONE, Some(1)).await;
        assert!(
            opened.own_next_clock >= acknowledged,
            "{} < {acknowledged}",
            opened.own_next_clock
        );
        assert_eq!(opened.head().size, 1 + opened.own_next_clock);
        pen = next;
    }
}

#[tokio::test]
async fn asked_to_end_the_process_says_goodbye_and_exits_well() {
    let dir = TempDir::new().unwrap();
    let person = Person::new();
    let mut process = Process::start(&dir);
    let mut wire = process.login(&person).await;
    process.signal("-TERM");
    assert_eq!(wire.goodbye().await, conclave_proto::Refusal::ShuttingDown);
    let status = process.child.wait().unwrap();
    assert!(status.success());
    let wal = dir.path().join("service.sqlite-wal");
    let left = std::fs::metadata(wal).map_or(0, |file| file.len());
    assert_eq!(left, 0, "the write-ahead log is folded in");
}

fn run(args: &[&str], dir: &TempDir) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conclave-ds"));
    let output = command
        .args(args)
        .env("CONCLAVE_DS_DATA", dir.path())
        .output()
        .unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[tokio::test]
async fn the_command_line_makes_invitations_and_completions() {
    let dir = TempDir::new().unwrap();
    // Not where no service ever ran: the folder may be mistyped.
    assert!(!run(&["invitation", "create"], &dir).0);
    let _process = Process::start(&dir);
    let (done, token) = run(&["invitation", "create"], &dir);
    assert!(done);
    assert_eq!(token.trim().len(), 32);
    let (_, list) = run(&["invitation", "list"], &dir);
    let id = list.split('\t').next().unwrap().to_owned();
    assert!(!list.contains(token.trim()), "the token is shown once");
    assert!(run(&["invitation", "revoke", &id], &dir).0);
    assert!(!run(&["invitation", "revoke", &id], &dir).0);
    assert_eq!(run(&["invitation", "list"], &dir).1, "");
    assert!(
        run(&["completions", "bash"], &dir)
            .1
            .contains("conclave-ds")
    );
    assert!(!run(&["serve", "--origin", "http://x"], &dir).0);
}

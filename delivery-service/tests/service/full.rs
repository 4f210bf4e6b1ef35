//! A full disk: what was acknowledged stays, what cannot be stored is refused with a reason, and all goes on when there is room again.

use conclave_proto::frame::{Answer, DeliveredRecord, Request};
use conclave_proto::{GroupPolicy, InstanceId, Refusal};
use tempfile::TempDir;

use crate::harness::{Member, Pen, Person, TestService};
use crate::process::Process;
use crate::scenes::{ONE, RENEWAL};
use crate::storage::sabotage;

/// Bytes of one update here.
const UPDATE_BYTES: usize = 100_000;

/// Appends large updates until one is refused; gives how many were acknowledged. Nothing but a lack of storage is a reason.
async fn fill(member: &mut Member, pen: &mut Pen) -> u64 {
    for _ in 0..200 {
        let mark = pen.mark();
        let record = pen.record_of(1, UPDATE_BYTES);
        let frame = pen.frame(mark.0, vec![record]);
        member.wire.send(&frame).await;
        if let Err(refusal) = member.wire.appended(pen.channel).await {
            assert_eq!(refusal, Refusal::Storage);
            assert!(refusal.is_retryable());
            pen.restore(mark);
            return mark.0;
        }
    }
    panic!("it never was full")
}

async fn append(member: &mut Member, pen: &mut Pen) -> Result<u64, Refusal> {
    let mark = pen.mark();
    let frame = pen.updates(1);
    member.wire.send(&frame).await;
    let done = member.wire.appended(pen.channel).await;
    if done.is_err() {
        pen.restore(mark);
    }
    done.map(|(next_clock, _)| next_clock)
}

async fn records(member: &mut Member, pen: &Pen) -> Vec<DeliveredRecord> {
    let mut all = Vec::new();
    loop {
        let request = Request::GetRecords {
            group: pen.group,
            document: pen.document,
            from: all.len() as u64,
            count: 1000,
        };
        let Answer::Records { records, .. } = member.wire.request(request).await else {
            panic!("no records")
        };
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

#[tokio::test]
async fn past_the_limit_writing_is_refused_and_reading_goes_on() {
    let max = conclave_ds::limits::DATABASE_BYTES_LEAST;
    let mut service = TestService::with(move |config| {
        config.limits.database_bytes = Some(max);
    })
    .await;
    // Room that comes back later.
    sabotage(&service, "CREATE TABLE ballast (x BLOB)").await;
    sabotage(&service, "INSERT INTO ballast VALUES (zeroblob(2000000))").await;
    let (mut alice, mut bob) = service.pair().await;
    let (document, _) = alice.create_document().await;
    bob.process_next().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let (_, bobs) = bob.open(document, InstanceId([2; 8]), None).await;
    let acknowledged = fill(&mut alice, &mut pen).await;
    assert!(acknowledged > 3, "{acknowledged}");
    // Everybody still reads, on the connections that they have.
    let all = records(&mut bob, &bobs).await;
    assert_eq!(all.len() as u64, 1 + acknowledged);
    let delivered = bob.wire.delivered(bobs.channel, all.len()).await;
    assert_eq!(delivered.len(), all.len());
    let file = service.dir.path().join("service.sqlite");
    service.restart().await;
    assert!(std::fs::metadata(&file).unwrap().len() <= max);
    alice.reconnect(&service).await;
    bob.reconnect(&service).await;
    assert_eq!(records(&mut bob, &bobs).await, all);
    let (opened, mut pen) = alice.open(document, ONE, Some(0)).await;
    assert_eq!(opened.own_next_clock, acknowledged);
    assert_eq!(fill(&mut alice, &mut pen).await, acknowledged);
    sabotage(&service, "DROP TABLE ballast").await;
    // No restart: there is room again.
    alice.follow(alice.group().state().head().size).await;
    assert_eq!(append(&mut alice, &mut pen).await, Ok(acknowledged + 1));
    let more = fill(&mut alice, &mut pen).await;
    assert!(more > acknowledged + 5, "{more}");
    let after = records(&mut bob, &bobs).await;
    assert_eq!(after[..all.len()], all[..]);
    assert_eq!(after.len() as u64, 1 + more);
}

#[tokio::test]
async fn a_commit_that_finds_no_room_takes_nothing_and_can_be_sent_again() {
    let max = conclave_ds::limits::DATABASE_BYTES_LEAST;
    let service = TestService::with(move |config| {
        config.limits.database_bytes = Some(max);
    })
    .await;
    sabotage(&service, "CREATE TABLE ballast (x BLOB)").await;
    sabotage(&service, "INSERT INTO ballast VALUES (zeroblob(1000000))").await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    let (document, _) = alice.create_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    fill(&mut alice, &mut pen).await;
    // Commits take what little is left.
    let prepared = loop {
        let prepared = alice.prepare(&RENEWAL);
        match alice.send_commit(prepared.bundle.clone()).await {
            Answer::Accepted { .. } => alice.catch_up(prepared.epoch).await,
            refused => {
                assert_eq!(refused, Answer::Refused(Refusal::Storage));
                break prepared;
            }
        }
    };
    let known = alice.group().state().head();
    assert_eq!(alice.follow(known.size).await, known);
    assert_eq!(
        alice.send_commit(prepared.bundle.clone()).await,
        Answer::Refused(Refusal::Storage)
    );
    sabotage(&service, "DELETE FROM ballast").await;
    assert_eq!(
        alice.send_commit(prepared.bundle).await,
        Answer::Accepted {
            seq: known.size,
            head: alice.follow(known.size).await,
        }
    );
    alice.catch_up(prepared.epoch).await;
}

#[cfg(unix)]
#[tokio::test]
async fn past_a_limit_on_file_sizes_the_process_refuses_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let person = Person::new();
    // The database and its write-ahead log may each have four MiB.
    let mut process = Process::limited(&dir, 4 << 20);
    let mut alice = process.member(&person).await;
    alice.create_group(GroupPolicy::default()).await;
    let (document, _) = alice.create_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    assert_eq!(process.http_status("/readyz").await, 200);
    let acknowledged = fill(&mut alice, &mut pen).await;
    assert!(acknowledged > 10, "{acknowledged}");
    assert!(process.is_running(), "a full disk ends nothing");
    // The same connection still reads, and hears again why nothing is stored.
    let all = records(&mut alice, &pen).await;
    assert_eq!(all.len() as u64, 1 + acknowledged);
    fill(&mut alice, &mut pen).await;
    assert_eq!(process.http_status("/livez").await, 200);
    let said = process.said();
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.contains("store.transaction"), "{said}");

    // Killed, and started where there is room.
    let process = Process::start(&dir);
    alice.wire = process.login(&person).await;
    assert_eq!(process.http_status("/readyz").await, 200);
    let (opened, mut pen) = alice.open(document, ONE, Some(0)).await;
    assert!(opened.own_next_clock >= acknowledged);
    assert_eq!(records(&mut alice, &pen).await[..all.len()], all[..]);
    let next = opened.own_next_clock;
    assert_eq!(append(&mut alice, &mut pen).await, Ok(next + 1));
    alice.follow(2).await;
    alice.commit(&RENEWAL).await;
}

#[tokio::test]
async fn a_database_that_is_nearly_full_is_not_ready() {
    let dir = TempDir::new().unwrap();
    let max = conclave_ds::limits::DATABASE_BYTES_LEAST.to_string();
    let args = ["--max-database-bytes", &max];
    let process = Process::run(dir.path(), None, &args).unwrap();
    let person = Person::new();
    let mut alice = process.member(&person).await;
    alice.create_group(GroupPolicy::default()).await;
    let (document, _) = alice.create_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    fill(&mut alice, &mut pen).await;
    assert_eq!(process.http_status("/readyz").await, 503);
    assert_eq!(process.http_status("/livez").await, 200);
    drop(process);
    let process = Process::start(&dir);
    assert_eq!(process.http_status("/readyz").await, 200);
    drop(process);
    let refused = Process::run(dir.path(), None, &["--max-database-bytes", "1"]);
    assert!(refused.err().unwrap().contains("limit on the database"));
}

/// Half of what a group may take is the most for one user, also where the operator says no more than what a group may take.
#[tokio::test]
async fn who_has_filled_half_of_a_group_is_refused_and_others_write_on() {
    let dir = TempDir::new().unwrap();
    let args = ["--max-group-bytes", "2000000"];
    let process = Process::run(dir.path(), None, &args).unwrap();
    let (founder, mallory) = (Person::new(), Person::new());
    let mut alice = process.member(&founder).await;
    let mut mallory = process.member(&mallory).await;
    alice.create_group(GroupPolicy::default()).await;
    alice.invite(&mut mallory).await;
    let (document, _) = alice.create_document().await;
    mallory.process_next().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    let (_, mut full) = mallory.open(document, InstanceId([2; 8]), None).await;
    let filled = fill(&mut mallory, &mut full).await;
    assert!((8..10).contains(&filled), "{filled}");
    let written = fill(&mut alice, &mut pen).await;
    assert!((8..10).contains(&written), "{written}");
    assert_eq!(fill(&mut mallory, &mut full).await, filled);
    // Its own limit refused the one who had filled its half, not the group's: that takes what is small still.
    assert_eq!(append(&mut alice, &mut pen).await, Ok(written + 1));
    drop(process);
    let args = [
        "--max-user-bytes",
        "1000001",
        "--max-group-bytes",
        "2000000",
    ];
    let refused = Process::run(dir.path(), None, &args);
    assert!(
        refused
            .err()
            .unwrap()
            .contains("more than half of a group's")
    );
}

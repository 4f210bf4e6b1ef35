//! A service that was put back: it finds out from a head of its own, or its operator says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use conclave_ds::{Clock, RateLimits, Recovery};
use conclave_identity::verify_head;
use conclave_proto::frame::{Answer, DeliveredRecord, Request, Returned, ServiceFrame};
use conclave_proto::refusal::RecordFault;
use conclave_proto::service::{Cause, Generation, LogName, SignedHead};
use conclave_proto::{DocumentId, Head, Record, Refusal, UnixMs};
use tempfile::TempDir;

use crate::harness::{Member, Pen, Person, TestService, now};
use crate::process::Process;
use crate::scenes::ONE;
use crate::storage::sabotage;

pub const DATABASE: &str = "service.sqlite";
const HOUR_MS: u64 = 3600 * 1000;

fn generation(member: &Member) -> Generation {
    member.wire.service.unwrap().1
}

/// The newest signed head that a member has, as a report of it.
pub fn report(member: &Member, log: LogName) -> Request {
    let mut heads = member.wire.heads.iter().rev();
    let (_, signed) = heads.find(|(of, _)| *of == log).unwrap();
    Request::Report {
        generation: generation(member),
        log,
        signed: *signed,
    }
}

pub async fn write(
    member: &mut Member,
    pen: &mut Pen,
    count: usize,
) -> Result<(u64, u64), Refusal> {
    member.wire.send(&pen.updates(count)).await;
    member.wire.appended(pen.channel).await
}

pub fn recovering(have: u64, want: u64) -> Refusal {
    Refusal::Recovering { have, want }
}

/// Whole records from a position on.
pub async fn records(member: &mut Member, document: DocumentId, from: u64) -> Vec<Record> {
    let request = Request::GetRecords {
        group: member.group_id(),
        document,
        from,
        count: 100,
    };
    let Answer::Records { records, .. } = member.wire.request(request).await else {
        panic!("no records");
    };
    let whole = records.into_iter().map(|record| match record {
        DeliveredRecord::Whole { record, .. } => record,
        other => panic!("not whole: {other:?}"),
    });
    whole.collect()
}

/// A service that was put back to when its document had two records, of which a member has a signed head at five.
struct PutBack {
    service: TestService,
    alice: Member,
    document: DocumentId,
    log: LogName,
    report: Request,
    /// What was lost, as a member has it.
    lost: Vec<Record>,
}

impl PutBack {
    /// Of a service that holds nothing but what it lost.
    async fn new() -> Self {
        Self::of(0).await
    }

    async fn of(found_hold_ms: u64) -> Self {
        let mut service = TestService::start().await;
        service.configure(move |config| config.limits.found_hold_ms = found_hold_ms);
        let (mut alice, _, (document, _)) = service.pair_with_document().await;
        let log = LogName {
            group: alice.group_id(),
            document: Some(document),
        };
        let (_, mut pen) = alice.open(document, ONE, None).await;
        write(&mut alice, &mut pen, 1).await.unwrap();
        let file = service.dir.path().join(DATABASE);
        let copy = service.dir.path().join("copy");
        service.stop().await;
        std::fs::copy(&file, &copy).unwrap();
        service.restart_stopped().await;
        alice.reconnect(&service).await;
        let (_, mut pen) = alice.open(document, ONE, Some(2)).await;
        write(&mut alice, &mut pen, 3).await.unwrap();
        alice.wire.head_of_size(log, 5).await;
        let report = report(&alice, log);
        let lost = records(&mut alice, document, 2).await;
        service.stop().await;
        std::fs::copy(&copy, &file).unwrap();
        service.restart_stopped().await;
        alice.reconnect(&service).await;
        Self {
            service,
            alice,
            document,
            log,
            report,
            lost,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_put_back_declares_itself_at_the_first_report() {
    let PutBack {
        service,
        mut alice,
        document,
        report,
        ..
    } = PutBack::new().await;
    let before = generation(&alice);
    alice.wire.ask(report.clone()).await;
    assert_eq!(alice.wire.goodbye().await, Refusal::ShuttingDown);
    alice.reconnect(&service).await;
    let after = generation(&alice);
    assert_eq!(after.cause, Cause::PutBack);
    assert_eq!(after.previous, before.hash());
    assert!(after.number > before.number);
    // It holds the log, says what it wants, and does not begin anew for the same head.
    alice.follow(0).await;
    let (opened, mut pen) = alice.open(document, ONE, Some(2)).await;
    assert_eq!(opened.head().size, 2);
    let refused = write(&mut alice, &mut pen, 1).await;
    assert_eq!(refused, Err(recovering(2, 5)));
    assert_eq!(alice.wire.request(report).await, Answer::Done);
    assert_eq!(generation(&alice), after);
    // Given up, it goes on, and tells everybody what is gone.
    let recovery = Recovery::of(service.dir.path());
    let losses = recovery.accept_loss(Some(alice.group_id())).await.unwrap();
    let losses = losses.unwrap();
    assert_eq!((losses[0].kept.size, losses[0].lost.size), (2, 5));
    assert!(recovery.accept_loss(None).await.unwrap().is_none());
    assert_eq!(alice.wire.goodbye().await, Refusal::ShuttingDown);
    alice.reconnect(&service).await;
    let (opened, mut pen) = alice.open(document, ONE, Some(2)).await;
    assert_eq!(opened.losses, losses);
    let (key, _) = alice.wire.service.unwrap();
    conclave_identity::verify_loss(&key, &losses[0]).unwrap();
    write(&mut alice, &mut pen, 1).await.unwrap();
}

/// Whoever reports first shows one log. Nobody goes on at another one before those who have heads of it have shown them, or the operator knows that
/// nobody does.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_found_put_back_holds_everything() {
    let PutBack {
        service,
        mut alice,
        document,
        report,
        lost,
        log,
    } = PutBack::of(HOUR_MS).await;
    alice.wire.ask(report).await;
    alice.wire.ended().await;
    alice.reconnect(&service).await;
    alice.follow(0).await;
    let (_, entry, snapshot) = alice.new_document();
    let create = Request::CreateDocument { entry, snapshot };
    let have = alice.group().state().size();
    let refused = alice.wire.refused(create.clone()).await;
    assert_eq!(refused, recovering(have, have));
    // What was signed comes back meanwhile; of the rest it does not know what else may be shown.
    let returning = Request::ReturnDocument {
        group: log.group,
        document,
        base: None,
        from: 2,
        items: lost.into_iter().map(Returned::Record).collect(),
    };
    let answer = alice.wire.request(returning).await;
    assert!(
        matches!(answer, Answer::Accepted { head, .. } if head.size == 5),
        "{answer:?}"
    );
    let (_, mut pen) = alice.open(document, ONE, Some(5)).await;
    let refused = write(&mut alice, &mut pen, 1).await;
    assert_eq!(refused, Err(recovering(5, 5)));
    let recovery = Recovery::of(service.dir.path());
    let group = Some(log.group);
    assert!(recovery.accept_loss(group).await.unwrap().is_none());
    let refused = alice.wire.refused(create.clone()).await;
    assert_eq!(refused, recovering(have, have));
    assert_eq!(recovery.accept_loss(None).await.unwrap(), Some(vec![]));
    assert!(recovery.accept_loss(None).await.unwrap().is_none());
    let answer = alice.wire.request(create).await;
    assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_did_not_sign_makes_it_do_nothing() {
    let PutBack {
        service: _service,
        mut alice,
        log,
        report,
        ..
    } = PutBack::new().await;
    let Request::Report {
        generation, signed, ..
    } = report
    else {
        panic!("no report")
    };
    let before = generation;
    let larger = SignedHead {
        head: Head {
            size: 9,
            ..signed.head
        },
        ..signed
    };
    let later = Generation {
        number: generation.number + 1,
        ..generation
    };
    let of_group = LogName {
        document: None,
        ..log
    };
    for (generation, log, signed) in [
        (generation, log, larger),
        (later, log, signed),
        (generation, of_group, signed),
    ] {
        let forged = Request::Report {
            generation,
            log,
            signed,
        };
        assert_eq!(alice.wire.refused(forged).await, Refusal::BadIdentity);
    }
    // What it signed and leads to says nothing.
    let (opened, _) = {
        let document = log.document.unwrap();
        alice.open(document, ONE, Some(2)).await
    };
    let now = Request::Report {
        generation: before,
        log,
        signed: opened.signed,
    };
    assert_eq!(alice.wire.request(now).await, Answer::Done);
    alice.wire.ping().await;
    assert_eq!(self::generation(&alice), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_declares_before_the_first_login() {
    let mut service = TestService::start().await;
    let (mut alice, _, (document, _)) = service.pair_with_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    write(&mut alice, &mut pen, 1).await.unwrap();
    let recovery = Recovery::of(service.dir.path());
    let copy = service.dir.path().join("copy");
    recovery.backup(&copy).await.unwrap();
    // A copy is not written over.
    assert!(recovery.backup(&copy).await.is_err());
    write(&mut alice, &mut pen, 2).await.unwrap();
    let before = generation(&alice);
    // A service that runs is not restored.
    let error = recovery.restore(&copy, HOUR_MS).await.unwrap_err();
    assert_eq!(error.code(), "store.in_use");
    service.stop().await;
    let junk = service.dir.path().join("junk");
    std::fs::write(&junk, b"no database").unwrap();
    recovery.restore(&junk, HOUR_MS).await.unwrap_err();
    let mut newest = before;
    for _ in 0..2 {
        let restored = recovery.restore(&copy, HOUR_MS).await.unwrap();
        let Generation { number, cause, .. } = restored.generation;
        assert!(number > newest.number && cause == Cause::Restored);
        assert_eq!(restored.generation.previous, newest.hash());
        assert!(restored.before.unwrap().exists());
        newest = restored.generation;
    }
    service.restart_stopped().await;
    alice.reconnect(&service).await;
    assert_eq!(generation(&alice), newest);
    alice.follow(0).await;
    let (opened, mut pen) = alice.open(document, ONE, Some(2)).await;
    assert_eq!(opened.head().size, 2);
    let refused = write(&mut alice, &mut pen, 1).await;
    assert_eq!(refused, Err(recovering(2, 2)));
}

/// Wherever the command dies: what was there is there, or the copy with its declaration; and it can be run again.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_at_any_output_changes_nothing_or_is_done() {
    let (mut outputs, mut changed) = (0, 0);
    loop {
        let mut service = TestService::start().await;
        let (mut alice, _, (document, _)) = service.pair_with_document().await;
        let (_, mut pen) = alice.open(document, ONE, None).await;
        let recovery = Recovery::of(service.dir.path());
        let copy = service.dir.path().join("copy");
        recovery.backup(&copy).await.unwrap();
        write(&mut alice, &mut pen, 2).await.unwrap();
        let before = generation(&alice);
        service.stop().await;
        // A folder of one that was killed before.
        std::fs::create_dir(service.dir.path().join("restoring")).unwrap();
        let killed = recovery.clone().killed_after(outputs);
        let is_done = match killed.restore(&copy, HOUR_MS).await {
            Err(error) => {
                assert_eq!(error.code(), "recover.killed");
                false
            }
            Ok(_) => true,
        };
        service.restart_stopped().await;
        alice.reconnect(&service).await;
        alice.follow(0).await;
        let (opened, _) = alice.open(document, ONE, Some(1)).await;
        let after = generation(&alice);
        let is_copy = after != before;
        assert_eq!(opened.head().size, if is_copy { 1 } else { 3 }, "{outputs}");
        changed += usize::from(is_copy);
        service.stop().await;
        let again = Recovery::of(service.dir.path());
        let restored = again.restore(&copy, HOUR_MS).await.unwrap();
        assert!(restored.generation.number > after.number && restored.unread.is_none());
        if is_done {
            break;
        }
        outputs += 1;
    }
    assert!(outputs > 8 && changed > 1, "{outputs} {changed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_beside_a_running_service_sends_everybody_to_compare() {
    let service = TestService::start().await;
    let (mut alice, _, (document, _)) = service.pair_with_document().await;
    let before = generation(&alice);
    let recovery = Recovery::of(service.dir.path());
    let begun = recovery.declare(HOUR_MS).await.unwrap();
    assert_eq!(alice.wire.goodbye().await, Refusal::ShuttingDown);
    alice.reconnect(&service).await;
    assert_eq!(generation(&alice), begun);
    assert!(begun.number > before.number);
    // To hold longer is no declaration.
    recovery.prolong(2 * HOUR_MS).await.unwrap();
    let (_, mut pen) = alice.open(document, ONE, Some(1)).await;
    let refused = write(&mut alice, &mut pen, 1).await;
    assert_eq!(refused, Err(recovering(1, 1)));
    assert_eq!(generation(&alice), begun);
    // It was put back once more: that is said once more, though everything is held.
    let again = recovery.declare(0).await.unwrap();
    assert_eq!(alice.wire.goodbye().await, Refusal::ShuttingDown);
    alice.reconnect(&service).await;
    assert_eq!((generation(&alice), again.previous), (again, begun.hash()));
}

/// A log that is waited for does not keep the operator from saying that the service was put back: nothing else makes everybody compare.
#[tokio::test(flavor = "multi_thread")]
async fn a_declaration_begins_a_generation_though_a_log_is_held() {
    let mut scene = PutBack::new().await;
    scene.held().await;
    let found = generation(&scene.alice);
    let recovery = Recovery::of(scene.service.dir.path());
    let declared = recovery.declare(HOUR_MS).await.unwrap();
    assert_eq!(declared.previous, found.hash());
    assert_eq!(scene.alice.wire.goodbye().await, Refusal::ShuttingDown);
    scene.alice.reconnect(&scene.service).await;
    assert_eq!(generation(&scene.alice), declared);
    // What was waited for still is.
    let (_, mut pen) = scene.alice.open(scene.document, ONE, Some(2)).await;
    let refused = write(&mut scene.alice, &mut pen, 1).await;
    assert_eq!(refused, Err(recovering(2, 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_end_by_themselves_and_say_what_is_lost() {
    let PutBack {
        mut service,
        mut alice,
        document,
        report,
        ..
    } = PutBack::new().await;
    alice.wire.ask(report).await;
    alice.wire.ended().await;
    let ahead = Arc::new(AtomicU64::new(0));
    let clock = ahead.clone();
    service.configure(move |config| {
        let clock = clock.clone();
        config.clock = Clock::new(move || UnixMs(now().0 + clock.load(Ordering::Relaxed)));
    });
    service.restart().await;
    alice.reconnect(&service).await;
    let (_, mut pen) = alice.open(document, ONE, Some(2)).await;
    let refused = write(&mut alice, &mut pen, 1).await;
    assert_eq!(refused, Err(recovering(2, 5)));
    ahead.store(24 * HOUR_MS, Ordering::Relaxed);
    assert_eq!(alice.wire.goodbye().await, Refusal::ShuttingDown);
    alice.reconnect(&service).await;
    let (opened, mut pen) = alice.open(document, ONE, Some(2)).await;
    assert_eq!(opened.losses[0].lost.size, 5);
    write(&mut alice, &mut pen, 1).await.unwrap();
}

/// A copy may hold what the service waited for when it was made, with times that are over by now: nobody could bring anything since, and nothing is given
/// up before members have come. One log that cannot be given up keeps no other from it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_copy_waits_for_is_not_given_up_before_anybody_comes() {
    let mut scene = PutBack::new().await;
    scene.held().await;
    let recovery = Recovery::of(scene.service.dir.path());
    let copy = scene.service.dir.path().join("held");
    sabotage(&scene.service, "UPDATE recovery SET ends_ms = 1").await;
    recovery.backup(&copy).await.unwrap();
    scene.service.stop().await;
    recovery.restore(&copy, HOUR_MS).await.unwrap();
    scene.service.restart_stopped().await;
    scene.alice.reconnect(&scene.service).await;
    // What looks whether something is over has looked before it sees this.
    recovery.declare(HOUR_MS).await.unwrap();
    assert_eq!(scene.alice.wire.goodbye().await, Refusal::ShuttingDown);
    scene.alice.reconnect(&scene.service).await;
    let (opened, mut pen) = scene.alice.open(scene.document, ONE, Some(2)).await;
    assert_eq!(opened.losses, []);
    let refused = write(&mut scene.alice, &mut pen, 1).await;
    assert_eq!(refused, Err(recovering(2, 5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_given_up_keeps_no_other_from_it() {
    let mut scene = PutBack::new().await;
    let (_, entry, snapshot) = scene.alice.new_document();
    let create = Request::CreateDocument { entry, snapshot };
    let answer = scene.alice.wire.request(create).await;
    assert!(matches!(answer, Answer::Accepted { .. }), "{answer:?}");
    scene.held().await;
    for damage in [
        "UPDATE records SET root = x'00' WHERE doc = (SELECT MAX(id) FROM documents)",
        "INSERT INTO recovery SELECT d.group_id, d.document, want_size, want_root, generation, began_ms, ends_ms - 1 \
         FROM recovery, documents d WHERE d.id = (SELECT MAX(id) FROM documents)",
    ] {
        sabotage(&scene.service, damage).await;
    }
    let ahead = Arc::new(AtomicU64::new(0));
    let clock = ahead.clone();
    scene.service.configure(move |config| {
        config.limits.found_hold_ms = 0;
        let clock = clock.clone();
        config.clock = Clock::new(move || UnixMs(now().0 + clock.load(Ordering::Relaxed)));
    });
    scene.service.restart().await;
    scene.alice.reconnect(&scene.service).await;
    ahead.store(24 * HOUR_MS, Ordering::Relaxed);
    assert_eq!(scene.alice.wire.goodbye().await, Refusal::ShuttingDown);
    scene.alice.reconnect(&scene.service).await;
    let (opened, _) = scene.alice.open(scene.document, ONE, Some(2)).await;
    assert_eq!(opened.losses[0].lost.size, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_head_is_dated_earlier_after_a_restart_with_a_clock_set_back() {
    let mut service = TestService::start().await;
    let (mut alice, _, (document, _)) = service.pair_with_document().await;
    let (before, _) = alice.open(document, ONE, None).await;
    service.configure(|config| {
        config.clock = Clock::new(|| UnixMs(now().0 - 24 * HOUR_MS));
    });
    service.restart().await;
    alice.reconnect(&service).await;
    let (after, _) = alice.open(document, ONE, Some(1)).await;
    assert!(after.signed.seconds >= before.signed.seconds);
}

impl PutBack {
    /// It has found out, and everybody is back.
    async fn held(&mut self) {
        self.alice.wire.ask(self.report.clone()).await;
        self.alice.wire.ended().await;
        self.alice.reconnect(&self.service).await;
    }

    fn returning(&self, from: u64, records: &[Record]) -> Request {
        Request::ReturnDocument {
            group: self.log.group,
            document: self.document,
            base: None,
            from,
            items: records.iter().cloned().map(Returned::Record).collect(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_comes_back_and_ends_the_hold() {
    let mut scene = PutBack::new().await;
    scene.held().await;
    let document = scene.document;
    let (opened, mut pen) = scene.alice.open(document, ONE, Some(2)).await;
    assert_eq!(opened.head().size, 2);
    let returning = scene.returning(2, &scene.lost);
    let answer = scene.alice.wire.request(returning.clone()).await;
    let Answer::Accepted { seq: 2, head } = answer else {
        panic!("not accepted: {answer:?}");
    };
    assert_eq!(head.size, 5);
    // Who listens gets what came back as anything else, and its head.
    let delivered = scene.alice.wire.until(|frame| match frame {
        ServiceFrame::Deliver {
            first_seq, records, ..
        } => Some((first_seq.0, records.0.len())),
        _ => None,
    });
    assert_eq!(delivered.await, (2, 3));
    scene.alice.wire.head_of_size(scene.log, 5).await;
    // It is what it was, and goes on.
    assert_eq!(records(&mut scene.alice, document, 2).await, scene.lost);
    (pen.next_clock, pen.last) = (4, scene.lost[2].leaf());
    pen.seen = head;
    assert_eq!(write(&mut scene.alice, &mut pen, 1).await, Ok((5, 5)));
    // Once more does nothing.
    let again = scene.alice.wire.refused(returning).await;
    assert_eq!(again, recovering(6, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_reordered_altered_or_cut_stores_nothing() {
    let mut scene = PutBack::new().await;
    scene.held().await;
    let lost = scene.lost.clone();
    let elsewhere = Refusal::BadRecord {
        fault: RecordFault::SeenHead,
    };
    let mut altered = lost.clone();
    altered[1].sealed.signature[0] ^= 1;
    let mut unsigned = lost.clone();
    unsigned[2].sealed.signature[0] ^= 1;
    let mut foreign = lost.clone();
    foreign[2].header.author.device = conclave_proto::DeviceId([9; 16]);
    let swapped = [lost[1].clone(), lost[0].clone(), lost[2].clone()];
    for (from, records, refusal) in [
        (2, &lost[..2], recovering(2, 5)),
        (2, &[], recovering(2, 5)),
        (1, &lost[..], recovering(2, 5)),
        (3, &lost[1..], recovering(2, 5)),
        (2, &swapped[..], elsewhere.clone()),
        (2, &altered[..], elsewhere.clone()),
        (2, &unsigned[..], elsewhere.clone()),
        (2, &foreign[..], elsewhere.clone()),
    ] {
        let returning = scene.returning(from, records);
        assert_eq!(scene.alice.wire.refused(returning).await, refusal);
    }
    let leaf = Request::ReturnDocument {
        group: scene.log.group,
        document: scene.document,
        base: None,
        from: 2,
        items: vec![Returned::Leaf(lost[0].leaf())],
    };
    assert_eq!(scene.alice.wire.refused(leaf).await, Refusal::Malformed);
    let mut stranger = scene.service.member().await;
    let returning = scene.returning(2, &lost);
    assert_eq!(
        stranger.wire.refused(returning.clone()).await,
        Refusal::UnknownGroup
    );
    let (opened, _) = scene.alice.open(scene.document, ONE, Some(2)).await;
    assert_eq!(opened.head().size, 2);
    let answer = scene.alice.wire.request(returning).await;
    assert!(matches!(answer, Answer::Accepted { seq: 2, .. }));
}

fn run(data: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_conclave-ds"))
        .args(args)
        .arg("--data")
        .arg(data)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_copy_put_back_hold_and_give_up() {
    let dir = TempDir::new().unwrap();
    // Where no service ever ran there is nothing to recover.
    let never = run(dir.path(), &["recover"]);
    assert!(String::from_utf8_lossy(&never.stderr).contains("no service's database"));
    let process = Process::start(&dir);
    let person = Person::new();
    process.login(&person).await;
    let copy: PathBuf = dir.path().join("copy");
    let copy = copy.to_str().unwrap();
    assert_eq!(said(&run(dir.path(), &["backup", copy])), "");
    assert!(!run(dir.path(), &["restore", copy]).status.success());
    process.signal("-TERM");
    let mut process = process;
    process.child.wait().unwrap();
    let restored = said(&run(dir.path(), &["restore", copy, "--hold", "90s"]));
    assert!(restored.starts_with("generation ") && restored.contains("\nbefore "));
    assert_eq!(
        said(&run(dir.path(), &["recover", "--prolong", "2h"])),
        "prolonged\n"
    );
    // It ends the hold, with nothing lost; then nothing is held.
    let args = ["recover", "--accept-loss"];
    assert_eq!(said(&run(dir.path(), &args)), "");
    let nothing = run(dir.path(), &args);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing to give up"));
    assert!(
        !run(dir.path(), &["recover", "--hold", "soon"])
            .status
            .success()
    );
    let process = Process::start(&dir);
    let wire = process.login(&person).await;
    let (_, generation) = wire.service.unwrap();
    assert_eq!(
        restored.lines().next(),
        Some(format!("generation {}", generation.number).as_str())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_that_may_have_cost_something_is_declared() {
    let person = Person::new();
    let (normal, full) = ("normal", "full");
    // How it ran counts, not how it runs now.
    for runs in [
        [
            (normal, "-KILL", false),
            (normal, "-TERM", true),
            (normal, "-TERM", false),
        ],
        [
            (full, "-KILL", false),
            (full, "-TERM", false),
            (full, "-TERM", false),
        ],
        [
            (normal, "-KILL", false),
            (full, "-KILL", true),
            (full, "-TERM", false),
        ],
        [
            (full, "-KILL", false),
            (normal, "-KILL", false),
            (normal, "-TERM", true),
        ],
    ] {
        let dir = TempDir::new().unwrap();
        let mut before = None;
        for (at, (durability, signal, begun)) in runs.into_iter().enumerate() {
            let args = ["--durability", durability];
            let mut process = Process::run(dir.path(), None, &args).unwrap();
            let (_, generation) = process.login(&person).await.service.unwrap();
            if let Some(before) = before.replace(generation) {
                assert_eq!(generation != before, begun, "{runs:?} {at}");
            }
            process.signal(signal);
            process.child.wait().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_given_to_members_dated_when_it_is_asked_for_and_at_a_pace() {
    let ahead_ms = Arc::new(AtomicU64::new(0));
    let clock = ahead_ms.clone();
    let service = TestService::with(move |config| {
        let (clock, right) = (clock.clone(), Clock::default());
        config.clock = Clock::new(move || right.now().plus_ms(clock.load(Ordering::Relaxed)));
        config.rate_limits = Some(RateLimits::default());
    })
    .await;
    let (mut alice, _, (document, _)) = service.pair_with_document().await;
    let mut stranger = service.member().await;
    for document in [None, Some(document)] {
        let log = LogName {
            group: alice.group_id(),
            document,
        };
        let ask = Request::GetHead { log };
        let Answer::Head { signed: first } = alice.wire.request(ask.clone()).await else {
            panic!("no head")
        };
        let (key, generation) = alice.wire.service.unwrap();
        verify_head(&key, &generation, &log, &first).unwrap();
        assert!(first.head.size > 0);
        let paced = alice.wire.refused(ask.clone()).await;
        assert!(matches!(paced, Refusal::RateLimited { .. }), "{paced:?}");
        ahead_ms.fetch_add(10_000, Ordering::Relaxed);
        let Answer::Head { signed: later } = alice.wire.request(ask.clone()).await else {
            panic!("no head")
        };
        assert_eq!(later.head, first.head);
        assert!(later.seconds >= first.seconds + 9);
        verify_head(&key, &generation, &log, &later).unwrap();
        assert_eq!(stranger.wire.refused(ask).await, Refusal::UnknownGroup);
    }
}

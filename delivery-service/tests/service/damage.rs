//! A database that a failing disk has changed: it is noticed, said, and nothing changed is ever delivered.

use std::path::Path;
use std::time::Duration;

use conclave_mls::Plan;
use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, DeliveredRecord, Request, ServiceFrame};
use conclave_proto::group::GroupEntry;
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Hash, Refusal};
use tempfile::TempDir;

use crate::harness::{Member, Person, TestService};
use crate::process::Process;
use crate::scenes::ONE;
use crate::storage::sabotage;

const PAGE_BYTES: usize = 4096;

/// A directory with a group and a document, and what is in it.
struct Kept {
    dir: TempDir,
    person: Person,
    group: GroupId,
    document: DocumentId,
    leaves: Vec<Hash>,
    entries: Vec<GroupEntry>,
}

async fn kept() -> Kept {
    let mut service = TestService::start().await;
    let person = Person::new();
    let mut alice = service.member_of(&person, 0).await;
    let group = alice.create_group(GroupPolicy::default()).await;
    let mut bob = service.member().await;
    alice.invite(&mut bob).await;
    let (document, _) = alice.create_document().await;
    let (_, mut pen) = alice.open(document, ONE, None).await;
    for _ in 0..40 {
        let mark = pen.mark().0;
        let records = vec![pen.record_of(1, 700), pen.record(1)];
        let frame = pen.frame(mark, records);
        alice.wire.send(&frame).await;
        alice.wire.appended(pen.channel).await.unwrap();
    }
    alice
        .commit(&Plan {
            self_update: true,
            ..Plan::default()
        })
        .await;
    let (leaves, entries) = match read(&mut alice, group, document).await {
        Some(read) => read,
        None => panic!("not readable"),
    };
    assert_eq!((leaves.len(), entries.len()), (81, 4));
    service.stop().await;
    Kept {
        dir: service.dir,
        person,
        group,
        document,
        leaves,
        entries,
    }
}

/// The whole of a document and a group's log; none where the service says that it cannot.
async fn read(
    member: &mut Member,
    group: GroupId,
    document: DocumentId,
) -> Option<(Vec<Hash>, Vec<GroupEntry>)> {
    let request = Request::SubscribeGroup { group, from: 0 };
    let size = match ask(member, request).await? {
        Answer::Subscribed { head, .. } => head.size,
        _ => return None,
    };
    let mut entries: Vec<GroupEntry> = Vec::new();
    while (entries.len() as u64) < size {
        if let ServiceFrame::GroupEntries { entries: more, .. } = member.wire.receive().await? {
            entries.extend(more);
        }
    }
    let request = Request::GetRecords {
        group,
        document,
        from: 0,
        count: 1000,
    };
    let Answer::Records { records, .. } = ask(member, request).await? else {
        return None;
    };
    let leaves = records.iter().map(|record| match record {
        DeliveredRecord::Whole { record, .. } => record.leaf(),
        DeliveredRecord::Leaf(leaf) => *leaf,
        other => panic!("not whole: {other:?}"),
    });
    Some((leaves.collect(), entries))
}

/// The answer to a request; none when the connection ends. A refusal has to be one that says that storage is at fault.
async fn ask(member: &mut Member, body: Request) -> Option<Answer> {
    let id = member.wire.ask(body).await;
    loop {
        match member.wire.receive().await? {
            ServiceFrame::Response { id: of, answer } if of == id => {
                return Some(answer);
            }
            ServiceFrame::Goodbye { why, .. } => {
                assert_eq!(why, Refusal::Storage);
                return None;
            }
            _ => {}
        }
    }
}

/// The elided records that an open document brings, as they were encoded; none where the service says that it cannot.
async fn elided(member: &mut Member, kept: &Kept) -> Option<Vec<Vec<u8>>> {
    let request = Request::OpenDocument {
        group: kept.group,
        document: kept.document,
        instance: ONE,
        from: Some(0),
    };
    let size = match ask(member, request).await? {
        Answer::Opened(opened) => opened.head().size,
        _ => return None,
    };
    let mut found = Vec::new();
    while (found.len() as u64) < size {
        match member.wire.receive().await? {
            ServiceFrame::Deliver { records, .. } => {
                found.extend(records.0.iter().map(encode));
            }
            ServiceFrame::Goodbye { .. } => return None,
            _ => {}
        }
    }
    Some(found)
}

fn copy(from: &Path, change: impl Fn(&mut Vec<u8>)) -> TempDir {
    let dir = TempDir::new().unwrap();
    let mut bytes = std::fs::read(from.join("service.sqlite")).unwrap();
    change(&mut bytes);
    std::fs::write(dir.path().join("service.sqlite"), bytes).unwrap();
    dir
}

/// What became of a damaged database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    NotStarted,
    Refused,
    Unharmed,
}

async fn examine(kept: &Kept, dir: &TempDir, known: &[Vec<u8>], what: &str) -> Found {
    let process = match Process::run(dir.path(), None, &[]) {
        Ok(process) => process,
        Err(said) => {
            assert!(!said.contains("panicked"), "{what}: {said}");
            assert!(said.contains("error: "), "{what}: {said}");
            return Found::NotStarted;
        }
    };
    let look = async {
        let mut wire = crate::harness::Wire::connect(&process.url).await;
        let origin = process.url.trim_end_matches("/v1").to_owned();
        let device = kept.person.devices[0].clone();
        if wire.login(&device, &origin, None).await.is_err() {
            return Found::Refused;
        }
        let mut alice = Member {
            device,
            keys: conclave_mls::KeyStore::load(Vec::new()).unwrap(),
            wire,
            group: None,
        };
        let whole = read(&mut alice, kept.group, kept.document).await;
        if let Some((leaves, entries)) = &whole {
            assert_eq!(leaves, &kept.leaves, "{what}");
            assert_eq!(entries, &kept.entries, "{what}");
        }
        let mut again = process.member(&kept.person).await;
        let open = elided(&mut again, kept).await;
        if let Some(open) = &open {
            assert_eq!(open, known, "{what}");
        }
        match (whole, open) {
            (Some(_), Some(_)) => Found::Unharmed,
            _ => Found::Refused,
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), look)
        .await
        .unwrap_or_else(|_| panic!("{what}: no answer"));
    let said = process.said();
    assert!(!said.contains("panicked"), "{what}: {said}");
    if found == Found::Refused {
        assert!(said.contains("store."), "{what}: {said}");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_any_page_is_never_delivered() {
    let kept = kept().await;
    let known = {
        let dir = copy(kept.dir.path(), |_| ());
        let process = Process::start(&dir);
        let mut alice = process.member(&kept.person).await;
        elided(&mut alice, &kept).await.unwrap()
    };
    let pages = std::fs::metadata(kept.dir.path().join("service.sqlite"))
        .unwrap()
        .len() as usize
        / PAGE_BYTES;
    assert!(pages > 30, "{pages}");
    let mut found = Vec::new();
    for page in 0..pages {
        // The page's own head, and somewhere in its content.
        for offset in [3, PAGE_BYTES - 1 - (page * 389) % 3000] {
            let dir = copy(kept.dir.path(), |bytes| {
                bytes[page * PAGE_BYTES + offset] ^= 0x55;
            });
            let what = format!("page {page}, byte {offset}");
            found.push(examine(&kept, &dir, &known, &what).await);
        }
    }
    // Nothing of this is vacuous.
    for one in [Found::NotStarted, Found::Refused, Found::Unharmed] {
        assert!(found.contains(&one), "{one:?} is not among {found:?}");
    }
}

#[tokio::test]
async fn a_changed_record_is_said_to_be_damaged() {
    for statement in [
        "UPDATE records SET sealed = CAST(substr(sealed, 1, 60) || CASE substr(sealed, 61, 1) WHEN x'77' THEN x'88' ELSE x'77' END || substr(sealed, 62) AS BLOB) WHERE seq = 5",
        "UPDATE records SET seen = 0 WHERE seq = 5",
        "UPDATE records SET author = 7 WHERE seq = 5",
        "UPDATE records SET epoch = 0 WHERE seq = 5",
        "UPDATE records SET leaf = randomblob(32) WHERE seq = 5",
    ] {
        let kept = kept().await;
        let dir = copy(kept.dir.path(), |_| ());
        let service = TestService::on(dir).await;
        sabotage(&service, statement).await;
        let mut alice = service.member_of(&kept.person, 0).await;
        assert_eq!(elided(&mut alice, &kept).await, None, "{statement}");
        let mut alice = service.member_of(&kept.person, 0).await;
        let request = Request::GetRecords {
            group: kept.group,
            document: kept.document,
            from: 5,
            count: 1,
        };
        assert_eq!(
            alice.wire.refused(request).await,
            Refusal::Storage,
            "{statement}"
        );
    }
}

/// What is delivered of it is compared, whatever the row says of what it is.
#[tokio::test]
async fn a_record_that_was_made_another_kind_is_not_delivered() {
    for statement in [
        "UPDATE records SET kind = 3 WHERE seq = 5",
        "UPDATE records SET author = NULL, clock = NULL WHERE seq = 5",
        "UPDATE records SET epoch = epoch + 1 WHERE kind = 3",
        "UPDATE records SET sum = substr(sum, 1, 8) WHERE seq = 5",
        "UPDATE records SET sum = x'' WHERE seq = 5",
    ] {
        let kept = kept().await;
        let dir = copy(kept.dir.path(), |_| ());
        let service = TestService::on(dir).await;
        sabotage(&service, statement).await;
        let mut alice = service.member_of(&kept.person, 0).await;
        assert_eq!(elided(&mut alice, &kept).await, None, "{statement}");
    }
}

#[tokio::test]
async fn a_changed_group_is_said_to_be_damaged() {
    let kept = kept().await;
    for statement in [
        "UPDATE group_parts SET value = CAST(substr(value, 1, 9) || CASE substr(value, 10, 1) WHEN x'77' THEN x'88' ELSE x'77' END || substr(value, 11) AS BLOB) WHERE part = CAST('own/epoch' AS BLOB)",
        "UPDATE group_parts SET part = CAST(part || x'77' AS BLOB) WHERE substr(part, 1, 13) = CAST('own/document/' AS BLOB)",
        "DELETE FROM group_parts WHERE substr(part, 1, 13) = CAST('own/document/' AS BLOB)",
        "UPDATE group_log SET entry = (SELECT entry FROM group_log WHERE seq = 0) WHERE seq = 1",
    ] {
        let dir = copy(kept.dir.path(), |_| ());
        let service = TestService::on(dir).await;
        sabotage(&service, statement).await;
        let mut alice = service.member_of(&kept.person, 0).await;
        assert_eq!(
            read(&mut alice, kept.group, kept.document).await,
            None,
            "{statement}"
        );
    }
}

//! Signed entries of the group log.

use conclave_mls::{Fault, Plan, ProcessError, Processed};
use conclave_proto::group::GroupEntry;
use conclave_proto::policy::Role;
use conclave_proto::record::{CloseReason, EntryBody, RecordBody};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault};
use conclave_proto::{DocumentId, Hash, Record, Refusal, limits};

use crate::world::{GROUP, World};

const DOCUMENT: DocumentId = DocumentId([5; 16]);

fn created(document: DocumentId) -> EntryBody {
    EntryBody::DocumentCreated { document, crdt: 1 }
}

fn closed(reason: CloseReason) -> EntryBody {
    EntryBody::DocumentClosed {
        document: DOCUMENT,
        reason,
    }
}

fn refused(world: &mut World, author: usize, record: &Record, refusal: &Refusal) {
    let answer = world.service.judge_entry(record, world.device(author));
    assert_eq!(answer.as_ref().unwrap_err(), refusal);
    let entry = GroupEntry::Signed(record.clone());
    let error = world.peers[0].group_mut().process(&entry).unwrap_err();
    let ProcessError::Illegal { fault, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(fault, Fault::Entry(refusal.clone()));
}

#[test]
fn documents_are_created_archived_and_deleted() {
    let mut world = World::with_roles(50, &[Role::Editor]);
    for body in [created(DOCUMENT), closed(CloseReason::Archived)] {
        let record = world.sign(1, body);
        world.put(1, record).unwrap();
        world.sync_all();
        world.assert_agreed();
    }
    let record = world.sign(1, closed(CloseReason::Deleted));
    let role = Refusal::Forbidden {
        why: ForbiddenWhy::Role,
    };
    refused(&mut world, 1, &record, &role);
    let record = world.sign(0, closed(CloseReason::Deleted));
    world.put(0, record).unwrap();
    world.sync_all();
    world.assert_agreed();
    let state = world.service.state();
    assert_eq!(
        state.documents[&DOCUMENT].closed,
        Some(CloseReason::Deleted)
    );
    assert_eq!(state.documents.size(), 2);
}

#[test]
fn a_viewers_entry_is_refused_and_its_signer_named() {
    let mut world = World::with_roles(51, &[Role::Viewer]);
    let record = world.sign(1, created(DOCUMENT));
    let why = ForbiddenWhy::Role;
    refused(&mut world, 1, &record, &Refusal::Forbidden { why });
    let entry = GroupEntry::Signed(record);
    let error = world.peers[0].group_mut().process(&entry).unwrap_err();
    let ProcessError::Illegal { signer, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(signer, Some(world.device(1)));
}

#[test]
fn entries_that_lie() {
    let mut world = World::with_roles(52, &[Role::Editor]);
    let good = world.sign(1, created(DOCUMENT));
    let change = |world: &mut World, change: &dyn Fn(&mut Record), refusal: Refusal| {
        let mut record = good.clone();
        change(&mut record);
        refused(world, 1, &record, &refusal);
    };
    let bad = |fault| Refusal::BadRecord { fault };
    change(
        &mut world,
        &|r| r.sealed.signature[0] ^= 1,
        bad(RecordFault::Signature),
    );
    change(
        &mut world,
        &|r| r.sealed.tag[0] = 1,
        bad(RecordFault::Malformed),
    );
    change(
        &mut world,
        &|r| r.header.version = 2,
        bad(RecordFault::Malformed),
    );
    change(
        &mut world,
        &|r| r.header.document = DOCUMENT,
        bad(RecordFault::WrongDocument),
    );
    change(
        &mut world,
        &|r| r.header.seen.root = Hash::ZERO,
        bad(RecordFault::SeenHead),
    );
    change(
        &mut world,
        &|r| r.header.seen.size = 0,
        bad(RecordFault::SeenHead),
    );
    change(
        &mut world,
        &|r| r.header.epoch = 0,
        Refusal::StaleEpoch { current: 1 },
    );
    change(
        &mut world,
        &|r| r.header.epoch = 9,
        Refusal::StaleEpoch { current: 1 },
    );
    let presence = RecordBody::Presence {
        session: conclave_proto::SessionId([0; 16]),
    };
    change(
        &mut world,
        &|r| r.header.body = presence,
        bad(RecordFault::Malformed),
    );
    world.put(1, good.clone()).unwrap();
    world.sync_all();
    refused(&mut world, 1, &good, &Refusal::AlreadyExists);
    let record = world.sign(
        0,
        EntryBody::RecordVoided {
            document: DocumentId([9; 16]),
            record: Hash::ZERO,
        },
    );
    refused(&mut world, 0, &record, &Refusal::UnknownDocument);
}

#[test]
fn an_entry_signed_with_another_members_key() {
    let mut world = World::with_roles(53, &[Role::Editor]);
    let mut record = world.sign(1, closed(CloseReason::Lost));
    record.header.author.device = world.device(0);
    let why = ForbiddenWhy::NotYours;
    let answer = world.service.judge_entry(&record, world.device(1));
    assert_eq!(answer, Err(Refusal::Forbidden { why }));
    let entry = GroupEntry::Signed(record);
    let error = world.peers[0].group_mut().process(&entry).unwrap_err();
    let fault = Fault::Entry(Refusal::BadRecord {
        fault: RecordFault::Signature,
    });
    // The name it gives is not believed.
    assert_eq!(
        error,
        ProcessError::Illegal {
            fault,
            signer: None
        }
    );
}

#[test]
fn a_rotation_is_complete_once() {
    let mut world = World::with_roles(54, &[Role::Editor, Role::Editor]);
    let complete = |epoch| EntryBody::RotationComplete { epoch };
    let record = world.sign(1, complete(1));
    refused(&mut world, 1, &record, &Refusal::AlreadyExists);
    world.remove(0, &[2]);
    world.commit(1, &Plan::default());
    assert_eq!(world.service.state().rotating_since, 2);
    let record = world.sign(1, complete(1));
    refused(&mut world, 1, &record, &Refusal::StaleEpoch { current: 3 });
    let record = world.sign(1, complete(4));
    refused(&mut world, 1, &record, &Refusal::StaleEpoch { current: 3 });
    let record = world.sign(1, complete(2));
    world.put(1, record).unwrap();
    let done = world.sync(0).unwrap();
    assert!(matches!(
        done.last(),
        Some(Processed::Entry(EntryBody::RotationComplete { .. }, _))
    ));
    world.sync_all();
    world.assert_agreed();
    assert_eq!(world.service.state().rotating_since, 0);
}

fn numbered(number: u64) -> DocumentId {
    let mut id = DocumentId([6; 16]);
    id.0[..8].copy_from_slice(&number.to_be_bytes());
    id
}

/// Rows and bytes that a member writes for one entry more.
fn written(world: &mut World, body: EntryBody) -> (usize, usize) {
    let record = world.sign(0, body);
    world.put(0, record.clone()).unwrap();
    world.sync(1).unwrap();
    let group = world.peers[0].group_mut();
    group.process(&GroupEntry::Signed(record)).unwrap();
    let changes = group.take_changes();
    let bytes = changes.iter().filter_map(|change| change.value.as_ref());
    let written = (changes.len(), bytes.map(|value| value.len()).sum());
    world.peers[0].rows.apply(changes);
    written
}

#[test]
fn an_entry_writes_what_it_changes_however_many_documents_and_entries_there_are() {
    let mut world = World::with_roles(58, &[Role::Editor]);
    let mut first = None;
    for number in 0..120 {
        let written = written(&mut world, created(numbered(number)));
        // The log's head grows with the logarithm of its size.
        let (rows, bytes) = *first.get_or_insert(written);
        assert!(
            written.0 <= rows && written.1 <= bytes + 8 * 32,
            "{written:?}"
        );
    }
    world.assert_agreed();
    let before = world.peers[0].group().state().clone();
    world.peers[0].restart();
    assert_eq!(*world.peers[0].group().state(), before);
    // A new epoch begins with one root.
    world.commit(0, &Plan::default());
    world.sync_all();
    for peer in 0..2 {
        let before = world.peers[peer].group().state().clone();
        world.peers[peer].restart();
        assert_eq!(*world.peers[peer].group().state(), before);
    }
    world.assert_agreed();
}

/// A program before this one kept the state in three rows.
#[test]
fn rows_of_before_are_read_and_written_anew() {
    let mut world = World::with_roles(59, &[Role::Editor]);
    for number in 0..3 {
        written(&mut world, created(numbered(number)));
    }
    let state = world.peers[0].group().state().clone();
    let mut rows = world.peers[0].group().rows();
    let kept = [&b"own/meta"[..], b"own/pending"];
    rows.retain(|(key, _)| !key.starts_with(b"own/") || kept.contains(&key.as_slice()));
    let old = [
        (b"own/state".to_vec(), state.core_bytes()),
        (b"own/roster".to_vec(), state.roster_bytes()),
        (b"own/documents".to_vec(), state.documents_bytes()),
    ];
    rows.extend(old.clone().map(|(key, value)| (key, value.into())));
    let mut group = conclave_mls::ClientGroup::load(rows).unwrap();
    assert_eq!(*group.state(), state);
    let changed = group.take_changes();
    let gone = |key: &[u8]| changed.iter().any(|it| it.key == key && it.value.is_none());
    assert!(old.iter().all(|(key, _)| gone(key)));
    let again = conclave_mls::ClientGroup::load(group.rows()).unwrap();
    assert_eq!(*again.state(), state);
}

const DIRECTORY: Refusal = Refusal::BadCommit {
    fault: CommitFault::Directory,
};

/// A group whose founder has not listed its directory.
fn without_directory(seed: u64) -> World {
    let world = World::bare(seed);
    assert!(!world.service.state().has_directory());
    world
}

#[test]
fn nothing_is_listed_and_nobody_comes_in_before_the_directory() {
    let mut world = without_directory(57);
    let early = world.sign(0, created(DOCUMENT));
    refused(&mut world, 0, &early, &DIRECTORY);
    let guest = world.outsider();
    let plan = Plan {
        add: vec![world.package(guest)],
        ..Plan::default()
    };
    let fault = CommitFault::Directory;
    let forbidden = conclave_mls::MlsError::Forbidden { fault };
    assert_eq!(world.prepare(0, &plan).unwrap_err(), forbidden);
    // By somebody whose program does not look.
    let package = crate::packages::package_of(&plan.add[0]);
    let bundle = crate::forge::commit(&world, 0, &crate::forge::data(&world), |builder, _| {
        builder.propose_adds([package])
    });
    assert_eq!(
        crate::forge::refusal(&world, 0, &bundle),
        Refusal::BadCommit { fault }
    );
    // A directory of another kind is none.
    let directory = DocumentId::directory(&GROUP);
    let other = world.sign(
        0,
        EntryBody::DocumentCreated {
            document: directory,
            crdt: 2,
        },
    );
    let malformed = Refusal::BadRecord {
        fault: RecordFault::Malformed,
    };
    refused(&mut world, 0, &other, &malformed);
    for body in [created(directory), created(DOCUMENT)] {
        let record = world.sign(0, body);
        world.put(0, record).unwrap();
        world.sync_all();
    }
    world.add(0, &[guest]);
    assert!(world.is_member(guest));
}

#[test]
fn nobody_closes_the_directory() {
    let mut world = World::with_roles(58, &[Role::Editor, Role::Admin]);
    let document = DocumentId::directory(&GROUP);
    for (by, reason) in [
        (1, CloseReason::Archived),
        (2, CloseReason::Deleted),
        (0, CloseReason::Deleted),
        (0, CloseReason::Lost),
        (0, CloseReason::Archived),
    ] {
        let record = world.sign(by, EntryBody::DocumentClosed { document, reason });
        refused(&mut world, by, &record, &DIRECTORY);
    }
    assert_eq!(world.service.state().documents[&document].closed, None);
}

#[test]
fn what_was_put_away_is_taken_up_again_by_editors_and_nothing_else_is() {
    let mut world = World::with_roles(59, &[Role::Editor, Role::Viewer]);
    let reopened = |document| EntryBody::DocumentReopened { document };
    let record = world.sign(1, reopened(DOCUMENT));
    refused(&mut world, 1, &record, &Refusal::UnknownDocument);
    let record = world.sign(1, created(DOCUMENT));
    world.put(1, record).unwrap();
    world.sync_all();
    let record = world.sign(1, reopened(DOCUMENT));
    refused(&mut world, 1, &record, &Refusal::AlreadyExists);
    for _ in 0..2 {
        let record = world.sign(1, closed(CloseReason::Archived));
        world.put(1, record).unwrap();
        world.sync_all();
        assert_eq!(world.service.state().open_documents, 1);
        let record = world.sign(2, reopened(DOCUMENT));
        let why = ForbiddenWhy::Role;
        refused(&mut world, 2, &record, &Refusal::Forbidden { why });
        let record = world.sign(1, reopened(DOCUMENT));
        world.put(1, record).unwrap();
        world.sync_all();
        world.assert_agreed();
        assert_eq!(world.service.state().documents[&DOCUMENT].closed, None);
        assert_eq!(world.service.state().open_documents, 2);
    }
    // Whoever joins then is handed all of it, and comes to the same.
    let guest = world.outsider();
    world.add(0, &[guest]);
    world.assert_agreed();
    for reason in [CloseReason::Lost, CloseReason::Deleted] {
        let document = DocumentId([reason as u8; 16]);
        let record = world.sign(0, created(document));
        world.put(0, record).unwrap();
        world.sync_all();
        let record = world.sign(0, EntryBody::DocumentClosed { document, reason });
        world.put(0, record).unwrap();
        world.sync_all();
        let record = world.sign(0, reopened(document));
        refused(&mut world, 0, &record, &Refusal::DocumentClosed);
    }
}

/// Leaves of records that nobody can open.
fn garbled(number: usize) -> Hash {
    let mut leaf = [0xdd; 32];
    leaf[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Hash(leaf)
}

#[test]
fn an_admin_cannot_use_up_a_documents_voids() {
    const OWNER: usize = 0;
    const ADMIN: usize = 1;
    let mut world = World::with_roles(58, &[Role::Admin]);
    let record = world.sign(OWNER, created(DOCUMENT));
    world.put(OWNER, record).unwrap();
    let voided = |number| EntryBody::RecordVoided {
        document: DOCUMENT,
        record: garbled(number),
    };
    let mut refusal = None;
    for number in 0..limits::DOCUMENT_VOIDS {
        world.sync(ADMIN).unwrap();
        let record = world.sign(ADMIN, voided(number));
        if let Err(refused) = world.put(ADMIN, record) {
            refusal = Some(refused);
            break;
        }
    }
    // An owner can still go on.
    world.sync_all();
    let record = world.sign(OWNER, voided(limits::DOCUMENT_VOIDS));
    world.put(OWNER, record).unwrap();
    let max = limits::USER_DOCUMENT_VOIDS as u64;
    assert_eq!(refusal, Some(Refusal::TooLarge { max }));
    // Members judge alike, and so does whoever comes later: from the entries, by the roster.
    let record = world.sign(ADMIN, voided(limits::DOCUMENT_VOIDS - 1));
    refused(&mut world, ADMIN, &record, &Refusal::TooLarge { max });
    world.sync_all();
    let joiner = world.outsider();
    world.add(OWNER, &[joiner]);
    world.assert_agreed();
    let state = world.peers[joiner].group().state();
    let by_admin = state.voided.counts_by(&world.user_id(ADMIN), &DOCUMENT);
    assert_eq!(
        by_admin,
        (limits::USER_DOCUMENT_VOIDS, limits::USER_DOCUMENT_VOIDS)
    );
}

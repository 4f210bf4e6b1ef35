//! Signed entries of the group log.

use conclave_mls::{Fault, Plan, ProcessError, Processed};
use conclave_proto::group::GroupEntry;
use conclave_proto::policy::Role;
use conclave_proto::record::{CloseReason, EntryBody, RecordBody};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{DocumentId, Hash, Record, Refusal};

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
    for body in [
        created(DOCUMENT),
        created(DocumentId::directory(&GROUP)),
        closed(CloseReason::Archived),
    ] {
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
    assert_eq!(state.documents.len(), 2);
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

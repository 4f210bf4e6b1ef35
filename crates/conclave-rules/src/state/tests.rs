use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::refusal::Refusal;

use super::*;
use crate::roster::RowCause;

fn document(number: usize) -> DocumentId {
    let mut id = [0xee; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    DocumentId(id)
}

const OWNER: UserId = UserId([1; 32]);

fn group() -> GroupState {
    let user = OWNER;
    let mut policy = GroupPolicy::default();
    policy.set_role(user, Role::Owner);
    let creator = RosterRow {
        device: DeviceId([1; 16]),
        user,
        credential_type: 1,
        credential: vec![7; 300].into(),
        key: vec![1; 32].into(),
        scheme: conclave_identity::SCHEME_ED25519,
        role: Role::Owner,
        first_epoch: 0,
        last_epoch: None,
        time: UnixMs(5),
        cause: RowCause::Own,
    };
    GroupState::genesis(GroupId([7; 16]), policy, creator)
}

fn list(state: &mut GroupState, number: usize, closed: Option<CloseReason>) {
    let entry = DocumentEntry {
        crdt: 1,
        created_epoch: 0,
        closed,
    };
    state.documents.insert_mut(document(number), entry);
    state.open_documents += usize::from(closed.is_none());
}

#[test]
fn as_many_documents_are_open_and_listed_as_may_be() {
    let mut state = group();
    let directory = state.directory();
    let entry = DocumentEntry {
        crdt: 1,
        created_epoch: 0,
        closed: None,
    };
    state.documents.insert_mut(directory, entry);
    state.open_documents = 1;
    let created = |number| EntryBody::DocumentCreated {
        document: document(number),
        crdt: 1,
    };
    let reopened = |number| EntryBody::DocumentReopened {
        document: document(number),
    };
    let too_large = |max: usize| Err(Refusal::TooLarge { max: max as u64 });
    for number in 1..limits::GROUP_OPEN_DOCUMENTS - 1 {
        list(&mut state, number, None);
    }
    let archived = Some(CloseReason::Archived);
    list(&mut state, 0, archived);
    assert_eq!(state.check_counts(&created(1_000_000)), Ok(()));
    assert_eq!(state.check_counts(&reopened(0)), Ok(()));
    list(&mut state, 1_000_000, None);
    assert_eq!(state.open_documents, limits::GROUP_OPEN_DOCUMENTS);
    let open = too_large(limits::GROUP_OPEN_DOCUMENTS);
    assert_eq!(state.check_counts(&created(1_000_001)), open);
    assert_eq!(state.check_counts(&reopened(0)), open);
    assert!(GroupState::from_bytes(&state.to_bytes()).is_ok());
    // One that is closed makes room; one past the limit is no state.
    let closed = EntryBody::DocumentClosed {
        document: document(1),
        reason: CloseReason::Archived,
    };
    let mut roomier = state.clone();
    roomier.apply_body(&closed, 0, OWNER);
    roomier.apply_body(&closed, 0, OWNER);
    assert_eq!(roomier.open_documents, limits::GROUP_OPEN_DOCUMENTS - 1);
    assert_eq!(roomier.check_counts(&reopened(0)), Ok(()));
    roomier.apply_body(&reopened(1), 0, OWNER);
    assert_eq!(roomier.documents, state.documents);
    let mut past = state.clone();
    list(&mut past, 1_000_001, None);
    assert!(GroupState::from_bytes(&past.to_bytes()).is_err());
    // In all: the closed ones count too.
    let mut many = roomier;
    let wanted = limits::GROUP_DOCUMENTS - many.documents.size();
    for number in 2_000_000..2_000_000 + wanted {
        list(&mut many, number, archived);
    }
    let all = too_large(limits::GROUP_DOCUMENTS);
    assert_eq!(many.check_counts(&created(3_000_000)), all);
    assert_eq!(many.check_counts(&reopened(0)), open);
}

fn record(number: usize) -> Hash {
    let mut leaf = [0xdd; 32];
    leaf[..8].copy_from_slice(&(number as u64).to_be_bytes());
    Hash(leaf)
}

fn void(of: usize, number: usize) -> EntryBody {
    EntryBody::RecordVoided {
        document: document(of),
        record: record(number),
    }
}

/// The row of a user's device.
fn of_user(state: &GroupState, user: u8, role: Role) -> RosterRow {
    RosterRow {
        device: DeviceId([user; 16]),
        user: UserId([user; 32]),
        role,
        ..state.roster.rows()[0].clone()
    }
}

/// Declares records of a document void until that is refused, and gives how many and why.
fn void_all(state: &mut GroupState, of: usize, by: &RosterRow) -> (usize, Refusal) {
    let before = state.voided.count_of(&document(of));
    let mut number = before;
    loop {
        let body = void(of, number);
        if let Err(refusal) = state.check_voids(&body, by) {
            return (number - before, refusal);
        }
        state.apply_body(&body, 0, by.user);
        number += 1;
    }
}

const fn too_large(max: usize) -> Refusal {
    Refusal::TooLarge { max: max as u64 }
}

#[test]
fn as_many_records_are_void_as_may_be() {
    let mut state = group();
    let owner = of_user(&state, 1, Role::Owner);
    let documents = limits::GROUP_VOIDS / limits::DOCUMENT_VOIDS;
    for of in 0..=documents {
        list(&mut state, of, None);
    }
    let full = too_large(limits::DOCUMENT_VOIDS);
    let of_one = (limits::DOCUMENT_VOIDS, full);
    assert_eq!(void_all(&mut state, 0, &owner), of_one);
    assert_eq!(state.check_voids(&void(1, 0), &owner), Ok(()));
    assert!(GroupState::from_bytes(&state.to_bytes()).is_ok());
    let mut past = state.clone();
    past.apply_body(&void(0, limits::DOCUMENT_VOIDS), 0, OWNER);
    assert!(GroupState::from_bytes(&past.to_bytes()).is_err());
    for of in 1..documents {
        assert_eq!(void_all(&mut state, of, &owner), of_one);
    }
    let all = too_large(limits::GROUP_VOIDS);
    assert_eq!(state.check_voids(&void(documents, 0), &owner), Err(all));
    assert!(GroupState::from_bytes(&state.to_bytes()).is_ok());
    state.apply_body(&void(documents, 0), 0, OWNER);
    assert!(GroupState::from_bytes(&state.to_bytes()).is_err());
}

#[test]
fn an_admin_declares_its_share_void_and_leaves_others_theirs() {
    let mut state = group();
    // More than are needed to come to the bounds on the group.
    let documents = 2 * limits::GROUP_VOIDS / limits::DOCUMENT_VOIDS;
    for of in 0..documents {
        list(&mut state, of, None);
    }
    let admin = |user: u8| of_user(&group(), user, Role::Admin);
    let owner = of_user(&state, 1, Role::Owner);
    let share = too_large(limits::USER_DOCUMENT_VOIDS);
    let own = (limits::USER_DOCUMENT_VOIDS, share);
    assert_eq!(void_all(&mut state, 0, &admin(2)), own);
    // Another device of the same user has no share of its own; another admin has.
    let sibling = RosterRow {
        device: DeviceId([99; 16]),
        ..admin(2)
    };
    assert_eq!(void_all(&mut state, 0, &sibling), (0, own.1.clone()));
    assert_eq!(void_all(&mut state, 0, &admin(3)), own);
    // However many they are, owners keep a part.
    for user in 4..8 {
        assert_eq!(void_all(&mut state, 0, &admin(user)), own);
    }
    let pool = too_large(limits::DOCUMENT_VOIDS_OF_ADMINS);
    assert_eq!(void_all(&mut state, 0, &admin(8)), (0, pool));
    // What counts is who declared it, also for whoever reads the state again.
    let mut again = GroupState::from_bytes(&state.to_bytes()).unwrap();
    assert_eq!(void_all(&mut again, 0, &admin(2)), (0, own.1.clone()));
    let left = limits::DOCUMENT_VOIDS - limits::DOCUMENT_VOIDS_OF_ADMINS;
    let full = too_large(limits::DOCUMENT_VOIDS);
    assert_eq!(void_all(&mut state, 0, &owner), (left, full));
    // The same of the group.
    let mut state = again;
    let mut declared = limits::USER_DOCUMENT_VOIDS;
    for of in 1..documents {
        let (more, refusal) = void_all(&mut state, of, &admin(2));
        declared += more;
        if more == 0 {
            assert_eq!(refusal, too_large(limits::USER_GROUP_VOIDS));
            break;
        }
    }
    assert_eq!(declared, limits::USER_GROUP_VOIDS);
    'all: for user in 3.. {
        for of in 1..documents {
            let (_, refusal) = void_all(&mut state, of, &admin(user));
            if refusal == too_large(limits::GROUP_VOIDS_OF_ADMINS) {
                break 'all;
            }
        }
    }
    assert_eq!(state.voided.len(), limits::GROUP_VOIDS_OF_ADMINS);
    assert_eq!(state.check_voids(&void(1, 1_000), &owner), Ok(()));
}

#[test]
fn what_is_void_is_found_by_document_and_record() {
    let mut state = group();
    for number in [3, 1, 2] {
        list(&mut state, number, None);
    }
    for (of, number) in [(3, 7), (1, 7), (3, 5)] {
        state.apply_body(&void(of, number), 0, OWNER);
    }
    let of = |number| {
        state
            .voided
            .of(&document(number))
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(of(3), [record(7), record(5)]);
    assert_eq!(of(1), [record(7)]);
    assert!(of(2).is_empty());
    assert!(state.voided.contains(&document(3), &record(5)));
    assert!(!state.voided.contains(&document(1), &record(5)));
    let second = Void {
        document: document(1),
        record: record(7),
        user: OWNER,
    };
    assert_eq!(state.voided.get(1), Some(&second));
    // In the order of the log, however they are looked up.
    let again = GroupState::from_bytes(&state.to_bytes()).unwrap();
    assert_eq!(again, state);
    assert_eq!(again.voided.of(&document(3)).count(), 2);
}

#[test]
fn the_bound_on_a_states_size_is_never_below_it() {
    let mut state = group();
    let close = |state: &GroupState| {
        let (bytes, most) = (state.to_bytes().len(), state.most_bytes());
        assert!(
            (bytes..bytes + bytes / 8 + 5_000).contains(&most),
            "{bytes} {most}"
        );
    };
    close(&state);
    for number in 0..2_000 {
        let reason = [None, Some(CloseReason::Lost)][number % 2];
        list(&mut state, number, reason);
        state.voided.push(Void {
            document: document(number),
            record: Hash([9; 32]),
            user: OWNER,
        });
        state.push_leaf(Hash([number as u8; 32]));
    }
    close(&state);
    for device in 0..40 {
        state.pending.push_back_mut(PendingProposal {
            seq: device,
            leaf: Hash([3; 32]),
            kind: ProposalKind::Leave,
            device: DeviceId([1; 16]),
        });
    }
    close(&state);
    // What ends a row, and what is read again, counts alike.
    let mut rows = Vec::new();
    for number in 0..200_u8 {
        let mut row = state.roster.rows()[0].clone();
        row.device = DeviceId([number; 16]);
        row.key = vec![number; 32].into();
        row.last_epoch = (number % 2 == 0).then_some(0);
        rows.push(row);
    }
    let roster = Roster::from_rows(rows, Hash::ZERO, 1).unwrap();
    let of_epoch = Arc::make_mut(&mut state.of_epoch);
    (of_epoch.roster, of_epoch.epoch) = (roster, 1);
    close(&state);
}

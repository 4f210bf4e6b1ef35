use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::refusal::Refusal;

use super::*;

fn document(number: usize) -> DocumentId {
    let mut id = [0xee; 16];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    DocumentId(id)
}

fn group() -> GroupState {
    let user = UserId([1; 32]);
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
    roomier.apply_body(&closed, 0);
    roomier.apply_body(&closed, 0);
    assert_eq!(roomier.open_documents, limits::GROUP_OPEN_DOCUMENTS - 1);
    assert_eq!(roomier.check_counts(&reopened(0)), Ok(()));
    roomier.apply_body(&reopened(1), 0);
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
        state
            .voided
            .push_back_mut((document(number), Hash([9; 32])));
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

//! The cost bound: what is dear is refused, what is honest is not, and everybody counts alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use automerge::transaction::Transactable;
use conclave_crdt::cost::{
    AUTOMERGE_UPDATE_UNITS, Allowance, BALANCE_CAP, Counted, LIVE_BLOCK_UNITS, LoadLimit, Meter,
    Refused, YJS_UPDATE_UNITS,
};
use conclave_crdt::{Crdt, CrdtKind, ReplicaId, create};
use conclave_testkit::costly::{self, Costly};
use yrs::updates::decoder::Decode as _;
use yrs::{Doc, GetString as _, Transact as _, Update};

const FULL: Allowance = Allowance {
    balance: BALANCE_CAP,
    room: u64::MAX,
};

/// What loading a snapshot costs.
fn load_units(kind: CrdtKind, snapshot: &[u8], limit: u64) -> Result<u64, Refused> {
    Meter::load_within(kind, snapshot, LoadLimit::units(limit)).map(|(_, units)| units)
}

/// One user's balance of one document.
struct Account {
    reader: Box<dyn Crdt>,
    meter: Meter,
    balance: u64,
}

impl Account {
    fn new(kind: CrdtKind) -> Self {
        Self {
            reader: create(kind, ReplicaId::for_kind(kind, [0xfd; 16])).unwrap(),
            meter: Meter::new(kind),
            balance: BALANCE_CAP,
        }
    }

    fn count(&mut self, update: &[u8]) -> Result<Counted, Refused> {
        let mut read = self.reader.inspect(update).map_err(Refused::Malformed)?;
        let allowance = Allowance {
            balance: self.balance,
            room: u64::MAX,
        };
        let counted = self.meter.count(update, &mut read, allowance);
        match &counted {
            Ok(counted) => self.balance = counted.balance,
            Err(Refused::Cost { balance } | Refused::Content { balance }) => {
                self.balance = *balance;
            }
            Err(_) => {}
        }
        counted
    }

    /// After what comes first, with a full balance.
    fn after(base: &[Vec<u8>]) -> Self {
        let mut account = Self::new(CrdtKind::Yjs);
        for update in base {
            account.balance = BALANCE_CAP;
            account.count(update).unwrap();
        }
        account.balance = BALANCE_CAP;
        account
    }
}

/// The cost of dear updates that are all taken in, or how many were.
fn total(case: &Costly) -> Result<u64, usize> {
    let mut account = Account::after(&case.base);
    let mut total = 0;
    for (index, update) in case.dear.iter().enumerate() {
        total += account.count(update).map_err(|_| index)?.cost;
    }
    Ok(total)
}

#[test]
fn what_was_seen_to_take_seconds_is_refused() {
    for way in costly::YJS.iter().filter(|way| way.once) {
        for size in [way.size, 10 * way.size] {
            assert_eq!(
                total(&(way.build)(size, 1)).err(),
                Some(0),
                "{} {size}",
                way.name
            );
        }
    }
}

#[test]
fn what_is_spread_over_many_records_is_refused_at_the_end_of_the_balance() {
    for way in costly::YJS.iter().filter(|way| way.spread) {
        let taken = total(&(way.build)(10 * way.size, 1_000));
        assert!(taken.is_err(), "{}", way.name);
    }
}

#[test]
fn a_refused_update_pays_for_its_counting() {
    let case = (costly::YJS[0].build)(4_000, 1);
    let mut account = Account::after(&case.base);
    for tries in 1..=8 {
        let left = BALANCE_CAP - (tries * (YJS_UPDATE_UNITS + 1)).min(BALANCE_CAP);
        let refused = account.count(&case.dear[0]).unwrap_err();
        assert_eq!(refused, Refused::Cost { balance: left });
    }
}

#[test]
fn operations_are_counted_without_being_walked() {
    let update = costly::automerge(1_000_000);
    assert!(update.len() < 205);
    let mut account = Account::new(CrdtKind::Automerge);
    assert!(matches!(
        account.count(&update),
        Err(Refused::Cost { balance }) if balance == BALANCE_CAP - 2
    ));
    // More rows than any change may have.
    assert!(matches!(
        account.count(&costly::automerge(10_000_000)),
        Err(Refused::Malformed(_))
    ));
    // A change, and its bytes.
    let most = AUTOMERGE_UPDATE_UNITS - 16 - update.len() as u64 / 16;
    let counted = account.count(&costly::automerge(most as u32)).unwrap();
    assert_eq!(counted.cost, AUTOMERGE_UPDATE_UNITS);
    // A value of a key, and that it follows the one before; and the change.
    assert_eq!(counted.grown, 2 * i64::try_from(most).unwrap());
}

#[test]
fn what_is_typed_on_is_one_block() {
    let mut account = Account::new(CrdtKind::Yjs);
    let counted = account.count(&costly::typed(100_000)).unwrap();
    assert_eq!(counted.grown, 1);
    assert!(counted.cost < 60_000);
}

#[test]
fn long_honest_updates_pass() {
    // A text of 20 MB by two replicas in turn.
    let mut account = Account::new(CrdtKind::Yjs);
    for update in costly::imported(20) {
        account.count(&update).unwrap();
    }
    assert!(account.balance > BALANCE_CAP / 2);
    let nulls = Account::new(CrdtKind::Yjs).count(&costly::nulls(100_000));
    assert!(nulls.unwrap().cost < 26_000);
    // As long as a block may be, and longer.
    let mut account = Account::new(CrdtKind::Yjs);
    let most = LIVE_BLOCK_UNITS as u32 - 64;
    account.count(&costly::written(most)).unwrap();
    let more = costly::written_on(most, 64);
    assert!(account.count(&more).is_ok());
    assert!(account.count(&costly::written_on(most + 64, 1)).is_err());
}

#[test]
fn six_hundred_automerge_actors_pass() {
    let kind = CrdtKind::Automerge;
    let mut account = Account::new(kind);
    let mut doc = create(kind, ReplicaId::for_kind(kind, [1; 16])).unwrap();
    for ten in 0..10u8 {
        let mut updates = Vec::new();
        for actor in 0..60u8 {
            let mut seed = [2; 16];
            (seed[0], seed[1]) = (ten, actor);
            doc.set_replica(ReplicaId::for_kind(kind, seed)).unwrap();
            doc.text().unwrap().splice(0, 0, "word").unwrap();
            doc.take_pending(&mut updates).unwrap();
        }
        account.count(&updates.concat()).unwrap();
    }
    assert!(account.balance > BALANCE_CAP - 6_000);
}

#[test]
fn automerge_snapshots_and_logs_are_of_one_size() {
    let kind = CrdtKind::Automerge;
    let mut account = Account::new(kind);
    let mut docs: Vec<_> = (1..4u8)
        .map(|seed| create(kind, ReplicaId::for_kind(kind, [seed; 16])).unwrap())
        .collect();
    let mut log: Vec<Vec<u8>> = Vec::new();
    for step in 0..200usize {
        let doc = &mut docs[step * 7 % 3];
        if step % 5 == 0 {
            let updates: Vec<&[u8]> = log.iter().map(Vec::as_slice).collect();
            doc.apply(&updates).unwrap();
        }
        let text = doc.text().unwrap();
        let len = text.len().unwrap();
        let at = step * 31 % (len + 1);
        text.splice(at, (step % 3).min(len - at), "ab").unwrap();
        let value = serde_json::json!({ "n": step, "list": [step % 4, { "x": step % 2 }] });
        if step % 4 == 0 {
            doc.json().unwrap().merge_json(&value).unwrap();
        }
        let known = log.len();
        doc.take_pending(&mut log).unwrap();
        for update in &log[known..] {
            account.count(update).unwrap();
            account.reader.apply(&[update]).unwrap();
        }
        let snapshot = account.reader.snapshot().unwrap();
        let loaded = Meter::load(kind, &snapshot).unwrap();
        assert_eq!(loaded.size(), account.meter.size(), "{step}");
        // What a document is bounded by bounds what loading it costs.
        let units = load_units(kind, &snapshot, 17 * loaded.size()).unwrap();
        assert_eq!(
            load_units(kind, &snapshot, units - 1),
            Err(Refused::Cost { balance: 0 })
        );
    }
    // What is known adds nothing.
    let size = account.meter.size();
    assert_eq!(account.count(&log[0]).unwrap().grown, 0);
    account.meter.revert();
    assert_eq!(account.meter.size(), size);
}

#[test]
fn an_item_between_two_lists_is_refused() {
    let mut account = Account::new(CrdtKind::Yjs);
    for root in *b"tu" {
        let update = [1, 1, root, 0, 4, 1, 1, root, 1, b'x', 0];
        account.count(&update).unwrap();
    }
    let between = [1, 1, 9, 0, 0xc4, b't', 0, b'u', 0, 1, b'y', 0];
    let left = account.balance;
    // Counting was paid for.
    let refused = |balance| Err(Refused::Content { balance });
    assert_eq!(account.count(&between), refused(left - 2));
    let inside_a_text = [1, 1, 9, 0, 4, 0, b't', 0, 1, b'y', 0];
    assert_eq!(account.count(&inside_a_text), refused(left - 4));
    let behind = [1, 1, 9, 0, 0x84, b't', 0, 1, b'y', 0];
    assert!(account.count(&behind).is_ok());
}

/// "abcdef" of replica 1 in the root `t`.
const RUN: [u8; 16] = [
    1, 1, 1, 0, 4, 1, 1, b't', 6, b'a', b'b', b'c', b'd', b'e', b'f', 0,
];

/// A character of replica 9 between two operations of another.
fn between(of: u8, origin: u8, right: u8) -> Vec<u8> {
    vec![1, 1, 9, 0, 0xc4, of, origin, of, right, 1, b'x', 0]
}

#[test]
fn an_item_whose_right_neighbour_comes_first_is_refused() {
    // An engine puts it where it happens to have cut: here one deletes what nobody else has seen it delete.
    let text = |own: &[u8]| {
        let doc = Doc::new();
        let text = doc.get_or_insert_text("t");
        for update in [&RUN, own, &between(1, 4, 1), &[0, 1, 1, 1, 2, 2]] {
            let update = Update::decode_v1(update).unwrap();
            doc.transact_mut().apply_update(update).unwrap();
        }
        text.get_string(&doc.transact())
    };
    assert_ne!(text(&[0, 1, 1, 1, 2, 2]), text(&[0, 0]));

    let deleted = vec![0, 1, 1, 1, 2, 2];
    for base in [vec![RUN.to_vec()], vec![RUN.to_vec(), deleted]] {
        for (origin, right) in [(4, 1), (4, 4), (4, 0), (1, 0), (5, 3)] {
            let refused = Account::after(&base).count(&between(1, origin, right));
            let content =
                matches!(refused, Err(Refused::Content { balance }) if balance < BALANCE_CAP);
            assert!(content, "{origin} {right}: {refused:?}");
        }
        for (origin, right) in [(1, 2), (0, 5), (4, 5)] {
            let counted = Account::after(&base).count(&between(1, origin, right));
            assert!(counted.is_ok(), "{origin} {right}: {counted:?}");
        }
    }
    // Whoever goes back to write has the later operation first. So has what is gone, which stands in no order any more.
    let back = vec![
        vec![1, 1, 2, 0, 4, 1, 1, b't', 1, b'b', 0],
        vec![1, 1, 2, 1, 0x44, 2, 0, 1, b'a', 0],
    ];
    assert!(Account::after(&back).count(&between(2, 1, 0)).is_ok());
    let gone = vec![
        vec![1, 1, 3, 0, 7, 1, 1, b'l', 2, 0],
        vec![1, 1, 3, 1, 4, 0, 3, 0, 1, b'b', 0],
        vec![1, 1, 3, 2, 0x44, 3, 1, 1, b'a', 0],
        vec![0, 1, 3, 1, 0, 1],
    ];
    assert!(Account::after(&gone).count(&between(3, 2, 1)).is_ok());
}

#[test]
fn what_waits_pays_at_once_for_when_it_comes_in() {
    for (turns, released) in [(200, 200..220), (4_000, 1..2)] {
        let mut account = Account::after(&costly::by_turns(turns));
        // From the first character to the end, after what nobody has yet.
        let waits = [1, 1, 9, 1, 0x84, 1, 0, 1, b'x', 0];
        let counted = account.count(&waits).unwrap();
        assert_eq!((counted.cost, counted.grown), (513, 1));
        assert_eq!(counted.balance, BALANCE_CAP - 513);
        account.balance = 1_000;
        let first = [1, 1, 9, 0, 0x44, 1, 0, 1, b'y', 0];
        let counted = account.count(&first).unwrap();
        assert!(counted.cost < 10, "{}", counted.cost);
        // What would cost more comes in as nothing.
        assert!(released.contains(&counted.released), "{counted:?}");
        assert!(counted.balance > 1_000);
    }
}

#[test]
fn a_document_has_room_and_no_more() {
    let mut account = Account::new(CrdtKind::Yjs);
    let update = costly::written(10);
    let mut read = account.reader.inspect(&update).unwrap();
    let none = Allowance { room: 0, ..FULL };
    assert!(matches!(
        account.meter.count(&update, &mut read, none),
        Err(Refused::Cost { .. })
    ));
    assert_eq!(account.meter.size(), 0);
    let one = Allowance { room: 1, ..FULL };
    assert!(account.meter.count(&update, &mut read, one).is_ok());
    assert_eq!(account.meter.size(), 1);
}

/// One character of a replica.
fn character(at: (u8, u8), beside: &[u8]) -> Vec<u8> {
    [&[1, 1, at.0, at.1][..], beside, &[1, b'x', 0]].concat()
}

#[test]
fn what_is_released_costs_what_was_paid_for_it() {
    let case = costly::released(1_000, 1);
    let mut account = Account::after(&case.base);
    let counted = account.count(&case.dear[0]).unwrap();
    assert!(counted.cost < 10);
    let most = 1_000 * 512;
    assert!(counted.released <= most, "{}", counted.released);
}

/// Takes updates in as a member does: counted, then applied.
fn take_in(account: &mut Account, updates: &[Vec<u8>]) {
    for update in updates {
        let mut read = account.reader.inspect(update).unwrap();
        account.meter.count(update, &mut read, FULL).unwrap();
        account
            .reader
            .apply_inspected(vec![(update, read)])
            .unwrap();
    }
}

#[test]
fn what_waited_and_fits_nowhere_harms_nobody() {
    // The first character of replica 9 is awaited by one in a text as if that were a type, and by one between two lists.
    for beside in [&[4, 0, b't', 0][..], &[0xc4, b't', 0, b'u', 0]] {
        let mut account = Account::new(CrdtKind::Yjs);
        let updates = [
            vec![1, 1, b't', 0, 4, 1, 1, b't', 1, b'x', 0],
            vec![1, 1, b'u', 0, 4, 1, 1, b'u', 1, b'x', 0],
            character((9, 1), beside),
            character((9, 0), &[0x84, b't', 0]),
            character((9, 2), &[0x84, 9, 0]),
        ];
        take_in(&mut account, &updates);
        assert!(!account.reader.has_missing());
        let snapshot = account.reader.snapshot().unwrap();
        let loaded = Meter::load(CrdtKind::Yjs, &snapshot).unwrap();
        assert_eq!(loaded.size(), account.meter.size());
    }
}

#[test]
fn what_waited_and_is_too_deep_can_be_loaded() {
    let mut account = Account::new(CrdtKind::Yjs);
    take_in(&mut account, &[costly::nested(200)]);
    // In the deepest map, after what nobody has yet.
    let mut deeper = vec![1, 1, 9, 1, 4, 0, 1];
    deeper.extend([199, 1, 1, b'x', 0]);
    let first = character((9, 0), &[4, 1, 1, b't']);
    take_in(&mut account, &[deeper, first]);
    let replica = ReplicaId::for_kind(CrdtKind::Yjs, [3; 16]);
    let snapshot = account.reader.snapshot().unwrap();
    let mut loaded = conclave_crdt::load(CrdtKind::Yjs, &snapshot, replica).unwrap();
    assert_eq!(loaded.snapshot().unwrap().len(), snapshot.len());
    let meter = Meter::load(CrdtKind::Yjs, &snapshot).unwrap();
    assert_eq!(meter.size(), account.meter.size());
}

#[test]
fn types_are_nested_so_deep_and_no_deeper() {
    let mut account = Account::new(CrdtKind::Yjs);
    assert!(account.count(&costly::nested(201)).is_err());
    let updates = [costly::nested(200)];
    take_in(&mut account, &updates);
}

/// A change that sets a key to a text of so many equal characters: deflated, as the engine writes it.
fn inflating(len: usize) -> Vec<u8> {
    let replica = ReplicaId::for_kind(CrdtKind::Automerge, [1; 16]);
    let mut doc = conclave_crdt::automerge::Automerge::create(replica).unwrap();
    doc.doc_mut()
        .put(automerge::ROOT, "k", "a".repeat(len))
        .unwrap();
    let mut updates = Vec::new();
    doc.take_pending(&mut updates).unwrap();
    updates.concat()
}

#[test]
fn inflated_bytes_are_paid() {
    let kind = CrdtKind::Automerge;
    let mut account = Account::new(kind);
    let small = inflating(1_000_000);
    assert!(small.len() < 4_096);
    let counted = account.count(&small).unwrap();
    assert!(counted.cost > 1_000_000 / 16, "{}", counted.cost);
    assert_eq!(
        account.count(&inflating(3_000_000)),
        Err(Refused::Malformed(conclave_crdt::CrdtError::TooLarge))
    );
}

#[test]
fn every_row_and_every_change_of_an_automerge_snapshot_is_counted() {
    let kind = CrdtKind::Automerge;
    let mut doc = create(kind, ReplicaId::for_kind(kind, [1; 16])).unwrap();
    let mut updates = Vec::new();
    for _ in 0..100 {
        doc.text().unwrap().splice(0, 0, "word").unwrap();
        doc.take_pending(&mut updates).unwrap();
    }
    let snapshot = doc.snapshot().unwrap();
    let units = load_units(kind, &snapshot, u64::MAX).unwrap();
    assert!(units >= 101 * 16 + 400, "{units}");
    assert!(load_units(kind, &snapshot, units - 1).is_err());
}

/// A change of a snapshot has come in an update, so it is no dearer than one may be, however large the document is said to be.
#[test]
fn a_change_that_waits_in_a_snapshot_is_no_dearer_than_an_update() {
    let within = costly::automerge(114_000);
    assert!(Meter::load_within(CrdtKind::Automerge, &within, LoadLimit::units(u64::MAX)).is_ok());
    let over = costly::automerge(1_000_000);
    let refused = Meter::load_within(CrdtKind::Automerge, &over, LoadLimit::units(u64::MAX)).err();
    assert_eq!(refused, Some(Refused::Cost { balance: 0 }));
}

#[test]
fn many_replicas_cost_what_they_are() {
    let replicas = 3_000u32;
    let snapshot = costly::replicas(replicas);
    let units = load_units(CrdtKind::Yjs, &snapshot, u64::MAX).unwrap();
    assert!(units < 3 * u64::from(replicas), "{units}");
}

#[test]
fn scattered_edits_in_a_long_text_do_not_run_dry() {
    let mut account = Account::new(CrdtKind::Yjs);
    account.count(&costly::written(1_000_000)).unwrap();
    let mut least = account.balance;
    for edit in costly::scattered(1_000_000, 30_000) {
        least = least.min(account.count(&edit).unwrap().balance);
    }
    assert!(least > BALANCE_CAP * 9 / 10, "{least}");
}

/// What members may spend on loading a snapshot of one user: see the protocol.
fn load_limit(size: u64) -> u64 {
    (1 << 24) + (1 << 23) + 64 * size
}

#[test]
fn a_text_that_was_edited_all_over_loads_within_its_bound() {
    let (len, edits) = (1_000_000, 200_000);
    let state = costly::scattered_state(len, edits);
    let (meter, units) =
        Meter::load_within(CrdtKind::Yjs, &state, LoadLimit::units(u64::MAX)).unwrap();
    assert_eq!(meter.size(), 2 * u64::from(edits) + 1);
    // What it takes grows as the document does.
    assert!(units < 3 * meter.size(), "{units}");
    assert!(units < load_limit(meter.size()));
    let fewer = costly::scattered_state(len, 1_000);
    let replica = || ReplicaId::for_kind(CrdtKind::Yjs, [3; 16]);
    let mut loaded = conclave_crdt::load(CrdtKind::Yjs, &fewer, replica()).unwrap();
    let mut account = Account::after(&[costly::written(len)]);
    account.reader.apply(&[&costly::written(len)]).unwrap();
    let updates: Vec<Vec<u8>> = costly::scattered(len, 1_000).collect();
    take_in(&mut account, &updates);
    // The same document, and the same numbers.
    let digest = account.reader.content_digest().unwrap();
    assert_eq!(loaded.content_digest().unwrap(), digest);
    let loaded = Meter::load(CrdtKind::Yjs, &fewer).unwrap();
    assert_eq!(loaded.size(), account.meter.size());
}

/// What stays apart while it is loaded, and can be joined then, is paid.
#[test]
fn what_is_joined_after_loading_is_counted() {
    let joined = |size: u32| {
        let state = costly::apart_in_vain(size);
        Meter::load_within(CrdtKind::Yjs, &state, LoadLimit::units(u64::MAX))
            .unwrap()
            .1
    };
    let (few, many) = (joined(2_000), joined(20_000));
    assert!(many > 50 * few, "{few} {many}");
}

//! What updates cost: judged alike by all members, charged to users, and what becomes of edits that cost too much.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable;
use automerge::{ObjType, ROOT, ReadDoc, ScalarValue};
use common::*;
use conclave_crdt::automerge::Automerge;
use conclave_crdt::cost::{AUTOMERGE_UPDATE_UNITS, BALANCE_CAP, document_size};
use conclave_crdt::{Crdt, CrdtError, CrdtKind, ReplicaId};
use conclave_doc::*;
use conclave_proto::record::{Record, RecordBody};
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;
use conclave_testkit::costly;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const KIND: CrdtKind = CrdtKind::Automerge;
/// Writes as user 3.
const MALLORY: usize = 2;
/// Two devices of user 3, and one each of users 4 and 5: they have the document from a snapshot by which user 3 has little left.
const CAT: usize = 3;
const TOM: usize = 4;
const DAN: usize = 5;
const EVE: usize = 6;
const ALL: [usize; 4] = [CAT, TOM, DAN, EVE];
/// Operations of an update that is within the limit of one.
const MANY: usize = 20_000;

/// Puts so many operations into a document that hardly take a byte.
fn nulls(crdt: &mut dyn Crdt, count: usize) -> Result<(), CrdtError> {
    let automerge = crdt.as_any_mut().downcast_mut::<Automerge>().unwrap();
    let doc = automerge.doc_mut();
    let list = doc.put_object(ROOT, "list", ObjType::List).unwrap();
    let values = std::iter::repeat_n(ScalarValue::Null, count);
    doc.splice(&list, 0, 0, values).unwrap();
    Ok(())
}

/// An update of a fresh replica with so many operations.
fn costly(seed: u8, count: usize) -> Vec<u8> {
    let replica = ReplicaId::for_kind(KIND, [seed; 16]);
    let mut crdt = conclave_crdt::create(KIND, replica).unwrap();
    nulls(crdt.as_mut(), count).unwrap();
    let mut out = Vec::new();
    crdt.take_pending(&mut out).unwrap();
    assert_eq!(out.len(), 1);
    out.remove(0)
}

/// What a member's own log says of accounts and of all else that members know alike.
fn tables(sim: &mut Sim, at: usize) -> Tables {
    let record = snapshot_of(sim, at);
    let keys = DocKeys::derive(&root(record.header.epoch), &DOC);
    let payload = SnapshotPayload::from_bytes(&open(&record, &keys).unwrap()).unwrap();
    payload.tables
}

fn snapshot_of(sim: &mut Sim, at: usize) -> Record {
    let peer = &mut sim.peers[at];
    let keys = peer.keys.clone();
    let ctx = sim.world.ctx(peer.member, peer.epoch, &keys);
    let with = sealer(&peer.key, &mut peer.rng);
    let record = peer.doc.make_snapshot(&ctx, with).unwrap();
    peer.doc.snapshot_refused();
    record
}

fn tables_agree(sim: &mut Sim, of: &[usize]) -> Tables {
    let mut all = of.iter().map(|at| tables(sim, *at)).collect::<Vec<_>>();
    let first = all.pop().unwrap();
    all.iter().for_each(|other| assert_eq!(*other, first));
    first
}

fn user(user: u8) -> UserId {
    UserId([user; 32])
}

fn over(seq: u64) -> Finding {
    Finding {
        seq,
        fault: Fault::Record(RecordFault::Cost),
        suspect: Suspect::default(),
    }
}

/// Orders an update as a member's record.
fn write(sim: &mut Sim, member: usize, update: &[u8]) -> u64 {
    let record = sim.forge(member, update, |_| {});
    let seq = sim.order(vec![record], None);
    sim.settle();
    seq
}

/// A document of which user 3 has so much left.
fn poor(balance: u64) -> Sim {
    poor_in(KIND, balance)
}

fn poor_in(kind: CrdtKind, balance: u64) -> Sim {
    let roles = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
    let mut sim = Sim::new(kind, &roles, "hello");
    (0..3).for_each(|at| sim.peers[at].insert(0, "."));
    sim.settle();
    sim.assert_no_findings();
    let record = forge_snapshot(
        &mut sim,
        0,
        |_| {},
        |payload| {
            let size = payload.tables.account(&user(3)).size;
            let account = Account { balance, size };
            payload.tables.set_account(user(3), account);
        },
    );
    sim.order(vec![record], None);
    (0..3).for_each(|at| sim.disconnect(at));
    for of in [3, 3, 4, 5] {
        let member = sim.world.add(of, Role::Editor);
        sim.reach(sim.world.epoch());
        sim.join(member);
    }
    for at in ALL {
        sim.peers[at].epoch = sim.world.epoch();
    }
    sim.settle();
    sim
}

fn converged(sim: &mut Sim) -> String {
    let text = sim.peers[DAN].text();
    let digest = sim.peers[DAN].digest();
    for at in ALL {
        assert_eq!(sim.peers[at].doc.pending_count(), 0);
        assert_eq!(sim.peers[at].digest(), digest);
    }
    text
}

#[test]
fn what_costs_too_much_is_left_out_by_all_alike_and_blames_nobody() {
    let roles = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
    let mut sim = Sim::new(KIND, &roles, "hello");
    let update = costly(9, AUTOMERGE_UPDATE_UNITS as usize);
    assert!(update.len() < 300, "{}", update.len());
    let seq = write(&mut sim, MALLORY, &update);
    for peer in &sim.peers {
        assert_eq!(peer.findings, [over(seq)]);
        assert_eq!(peer.changes.iter().filter(|it| it.seq == seq).count(), 0);
    }
    // The document goes on, and what the author writes after it counts, though not under an id that is not in the log.
    sim.peers[1].insert(0, "on ");
    let good = sim.update(KIND, 10, "and ");
    write(&mut sim, MALLORY, &good);
    sim.assert_converged();
    assert!(sim.peers[0].text().contains("on "));
    let before = tables_agree(&mut sim, &[0, 1, 2]);
    // Four characters, and the change with what it depends on.
    assert_eq!(before.account(&user(3)).size, 6);
    // Whoever begins from a snapshot comes to the same.
    sim.snapshot(1);
    let newcomer = sim.world.add(4, Role::Editor);
    sim.advance_epochs();
    let newcomer = sim.join(newcomer);
    sim.peers[1].insert(0, "later ");
    sim.settle();
    let again = write(
        &mut sim,
        MALLORY,
        &costly(11, AUTOMERGE_UPDATE_UNITS as usize),
    );
    assert_eq!(sim.peers[newcomer].findings, [over(again)]);
    sim.assert_converged();
    tables_agree(&mut sim, &[0, 1, 2, newcomer]);
    assert_eq!(sim.check(0), Some(Judgement::Match));
}

#[test]
fn a_balance_is_the_users_on_whichever_device() {
    let mut sim = poor(50_000);
    let members: Vec<usize> = [CAT, TOM, DAN].map(|at| sim.peers[at].member).to_vec();
    for (seed, by) in [(20, 0), (21, 1)] {
        write(&mut sim, members[by], &costly(seed, MANY));
    }
    sim.assert_no_findings();
    let seq = write(&mut sim, members[0], &costly(22, MANY));
    for at in ALL {
        assert_eq!(sim.peers[at].findings, [over(seq)], "{at}");
    }
    // Others have theirs.
    write(&mut sim, members[2], &costly(23, MANY));
    sim.peers[EVE].insert(0, "eve ");
    sim.settle();
    assert!(sim.peers[CAT].findings.len() == 1 && converged(&mut sim).contains("eve "));
    let all = tables_agree(&mut sim, &ALL);
    let spent = all.account(&user(3));
    assert!(spent.balance < 15_000, "{spent:?}");
    assert!(spent.size > 2 * MANY as u64);
    assert_eq!(all.account(&user(4)).size, MANY as u64 + 3);
    assert!(all.account(&user(5)).balance > BALANCE_CAP / 2);
    // Nor does a restart give anything back.
    for at in ALL {
        sim.peers[at].store();
        sim.restart(at);
        sim.connect(at);
    }
    sim.settle();
    assert_eq!(tables_agree(&mut sim, &ALL), all);
    let again = write(&mut sim, members[1], &costly(24, MANY));
    for at in ALL {
        assert!(sim.peers[at].findings.contains(&over(again)));
    }
}

#[test]
fn what_is_carried_its_carrier_pays() {
    let mut sim = poor(30_000);
    let (cat, dan) = (sim.peers[CAT].member, sim.peers[DAN].member);
    let carry = |sim: &mut Sim, by: usize, of: usize, seed: u8| {
        let inner = sim.forge(of, &costly(seed, MANY), |_| {});
        let keys = DocKeys::derive(&root(inner.header.epoch), &DOC);
        let keys = keys.of_record(&inner.sealed.nonce);
        let payload = CarriedPayload {
            record: inner,
            keys,
        };
        let record = sim.forge(by, &payload.to_bytes(), |header| {
            header.body = RecordBody::Carried(header.body.chained().unwrap());
        });
        let seq = sim.order(vec![record], None);
        sim.settle();
        seq
    };
    carry(&mut sim, cat, dan, 30);
    sim.assert_no_findings();
    let all = tables_agree(&mut sim, &ALL);
    assert!(all.account(&user(3)).balance < 15_000);
    assert_eq!(all.account(&user(4)), Account::FULL);
    let seq = carry(&mut sim, cat, dan, 31);
    for at in ALL {
        assert_eq!(sim.peers[at].findings, [over(seq)]);
    }
    carry(&mut sim, dan, cat, 32);
    let all = tables_agree(&mut sim, &ALL);
    assert!(all.account(&user(4)).balance < BALANCE_CAP - 18_000);
    converged(&mut sim);
}

/// What counts as nothing was not paid for: what was left out after it counts then.
#[test]
fn what_is_voided_costs_nothing_any_more() {
    let mut sim = poor(30_000);
    let (cat, tom) = (sim.peers[CAT].member, sim.peers[TOM].member);
    let first = write(&mut sim, cat, &costly(40, MANY));
    let second = write(&mut sim, tom, &costly(41, MANY));
    for at in ALL {
        assert_eq!(sim.peers[at].findings, [over(second)]);
        sim.peers[at].findings.clear();
    }
    let leaf = sim.service.leaf(first);
    sim.world.rekey();
    let state = sim.world.states.last_mut().unwrap();
    state.voided = [declared(leaf)].into_iter().collect();
    // One comes to know of it after a restart.
    sim.peers[EVE].store();
    sim.restart(EVE);
    sim.connect(EVE);
    sim.reach(sim.world.epoch());
    for at in ALL {
        sim.peers[at].epoch = sim.world.epoch();
        sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
        let counts = sim.peers[at].last.changes.iter();
        assert_eq!(
            counts.map(|it| it.seq).collect::<Vec<_>>(),
            [second],
            "{at}"
        );
    }
    sim.settle();
    sim.peers[DAN].insert(0, "on ");
    sim.settle();
    converged(&mut sim);
    sim.assert_no_findings();
    let all = tables_agree(&mut sim, &ALL);
    assert!(all.account(&user(3)).balance < 15_000);
    assert!(all.account(&user(3)).size < 2 * MANY as u64);
}

/// Who cannot read a record judges what follows as if it cost nothing, and comes to the same as the others when its root arrives.
#[test]
fn a_root_that_arrives_late_gives_the_same_accounts() {
    let mut sim = poor(30_000);
    let (cat, tom) = (sim.peers[CAT].member, sim.peers[TOM].member);
    sim.world.rekey();
    let hidden = sim.world.epoch();
    sim.peers[EVE].keys.withheld.insert(hidden);
    let step = |sim: &mut Sim| {
        sim.reach(sim.world.epoch());
        for at in ALL {
            sim.peers[at].epoch = sim.world.epoch();
            sim.with(at, |doc, ctx, _| doc.retry(ctx).unwrap());
        }
        sim.settle();
    };
    step(&mut sim);
    write(&mut sim, cat, &costly(50, MANY));
    sim.world.rekey();
    step(&mut sim);
    let second = write(&mut sim, tom, &costly(51, MANY));
    sim.with(EVE, |doc, ctx, _| doc.set_aside(ctx).unwrap());
    assert_eq!(sim.peers[EVE].findings, []);
    assert_eq!(sim.peers[DAN].findings, [over(second)]);
    sim.peers[EVE].store();
    sim.restart(EVE);
    sim.connect(EVE);
    sim.settle();
    sim.peers[EVE].keys.withheld.clear();
    sim.with(EVE, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert_eq!(sim.peers[EVE].findings, [over(second)]);
    sim.settle();
    converged(&mut sim);
    tables_agree(&mut sim, &ALL);
}

/// What the engine refuses costs everybody a document: few such updates are had for a whole balance, and all members count them alike, together or
/// one by one.
#[test]
fn what_the_engine_refuses_costs_its_user_the_same_however_it_is_delivered() {
    let flat = 1 << 19;
    let mut sim = poor(2 * flat + 30_000);
    let before = tables(&mut sim, DAN).account(&user(3)).size;
    let cat = sim.peers[CAT].member;
    let updates = [
        poison(60),
        costly(61, MANY),
        poison(62),
        costly(63, MANY),
        costly(64, 10),
        poison(65),
    ];
    let first = sim.service.size();
    for update in &updates {
        let record = sim.forge(cat, update, |_| {});
        sim.service.force(record);
    }
    let whole: Vec<_> = (first..sim.service.size())
        .map(|seq| sim.service.whole(seq))
        .collect();
    for at in [DAN, EVE] {
        sim.with(at, |doc, ctx, _| {
            doc.deliver(ctx, first, whole.clone()).unwrap()
        });
    }
    let mut left = 0;
    for (seq, record) in (first..).zip(&whole) {
        for at in [CAT, TOM] {
            let one = vec![record.clone()];
            if at == CAT && seq + 1 == first + whole.len() as u64 {
                left = tables(&mut sim, CAT).account(&user(3)).balance;
            }
            sim.with(at, |doc, ctx, _| doc.deliver(ctx, seq, one).unwrap());
        }
    }
    let all = tables_agree(&mut sim, &ALL);
    let account = all.account(&user(3));
    // What fitted, each with its change and a dependency, of what was refused nothing, and what could not be paid of the last.
    let fitted = MANY as u64 + 1 + 11 + 2 * 2;
    assert!(left > 0 && left < flat);
    assert_eq!(account.size, before + fitted + flat - left);
    assert_eq!(account.balance, 0);
    for at in ALL {
        let faults: Vec<_> = sim.peers[at]
            .findings
            .iter()
            .map(|it| (it.seq - first, it.fault))
            .collect();
        let refused = |fault| Fault::Record(fault);
        let expected = [
            (0, refused(RecordFault::Content)),
            (2, refused(RecordFault::Content)),
            (3, refused(RecordFault::Cost)),
            (5, refused(RecordFault::Content)),
        ];
        let mut sorted = faults.clone();
        sorted.sort_by_key(|it| it.0);
        assert_eq!(sorted, expected, "{at}");
        sim.peers[at].store();
        sim.restart(at);
        sim.connect(at);
    }
    sim.settle();
    assert_eq!(tables_agree(&mut sim, &ALL), all);
}

/// Else whoever has nothing left could have everybody build the document again as often as it likes.
#[test]
fn who_cannot_pay_for_what_the_engine_refuses_soon_reaches_no_engine() {
    let mut sim = poor(0);
    let before = tables(&mut sim, DAN).account(&user(3)).size;
    let cat = sim.peers[CAT].member;
    let most = document_size(KIND) / 2 / (1 << 19);
    let first = sim.service.size();
    for seed in 0..=u8::try_from(most).unwrap() {
        let record = sim.forge(cat, &poison(60 + seed), |_| {});
        sim.service.force(record);
    }
    let whole: Vec<_> = (first..sim.service.size())
        .map(|seq| sim.service.whole(seq))
        .collect();
    for at in [DAN, EVE] {
        sim.with(at, |doc, ctx, _| {
            doc.deliver(ctx, first, whole.clone()).unwrap()
        });
    }
    for (seq, record) in (first..).zip(&whole) {
        for at in [CAT, TOM] {
            let one = vec![record.clone()];
            sim.with(at, |doc, ctx, _| doc.deliver(ctx, seq, one).unwrap());
        }
    }
    let all = tables_agree(&mut sim, &ALL);
    let account = all.account(&user(3));
    assert_eq!((account.balance, account.size), (0, before + (most << 19)));
    for at in ALL {
        let mut faults: Vec<_> = sim.peers[at]
            .findings
            .iter()
            .map(|it| (it.seq - first, it.fault))
            .collect();
        faults.sort_by_key(|it| it.0);
        // The last is refused without the engine.
        let fault = |at| match at == most {
            true => RecordFault::Cost,
            false => RecordFault::Content,
        };
        let expected: Vec<_> = (0..=most)
            .map(|at| (at, Fault::Record(fault(at))))
            .collect();
        assert_eq!(faults, expected, "{at}");
        sim.peers[at].store();
        sim.restart(at);
        sim.connect(at);
    }
    sim.settle();
    assert_eq!(tables_agree(&mut sim, &ALL), all);
    sim.peers[DAN].insert(0, "on ");
    sim.settle();
    converged(&mut sim);
}

/// Else somebody who has nothing left, and only takes out, would wait for ever.
#[test]
fn who_has_nothing_left_can_take_out_what_is_cheap() {
    let mut sim = poor_in(CrdtKind::Yjs, 0);
    let before = sim.peers[DAN].text().len();
    sim.peers[CAT].edit(|crdt| crdt.text().unwrap().splice(0, 1, ""));
    sim.settle();
    assert!(!sim.peers[CAT].doc.waits_for_cost());
    assert_eq!(converged(&mut sim).len(), before - 1);
    tables_agree(&mut sim, &ALL);
}

/// Who takes as much out as was put in holds no more of the document than before.
#[test]
fn what_makes_a_document_smaller_gives_its_user_room() {
    let kind = CrdtKind::Yjs;
    let roles = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
    let mut sim = Sim::new(kind, &roles, "hello");
    sim.peers[1].insert(0, &"x".repeat(40));
    // Every other one, so that what is between them is apart.
    for at in 0..20 {
        sim.peers[1].edit(|crdt| crdt.text().unwrap().splice(at, 1, ""));
    }
    sim.settle();
    let many = tables_agree(&mut sim, &[0, 1, 2]);
    sim.peers[1].edit(|crdt| crdt.text().unwrap().splice(0, 20, ""));
    sim.settle();
    let few = tables_agree(&mut sim, &[0, 1, 2]);
    assert!(few.ops < many.ops);
    let shrunk = many.account(&user(2)).size - few.account(&user(2)).size;
    assert_eq!(
        shrunk,
        (many.ops - few.ops).min(many.account(&user(2)).size)
    );
    assert!(shrunk > 0);
}

/// Everybody else would hold it.
#[test]
fn a_document_that_nobody_would_load_is_not_made() {
    let kind = CrdtKind::Yjs;
    let roles = [(1, Role::Owner)];
    let sim = Sim::new(kind, &roles, "hello");
    let state = costly::one_place_at_once(5_000);
    let keys = Keys::default();
    let ctx = sim.world.ctx(0, sim.world.epoch(), &keys);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let with = sealer(&sim.world.keys[0], &mut rng);
    let id = DocumentId([9; 16]);
    let made = Document::create_from(&ctx, GROUP, id, kind, instance(1), &state, with);
    assert_eq!(made.err(), Some(DocError::TooCostly));
}

#[test]
fn an_edit_over_the_limit_goes_in_parts() {
    let roles = [(1, Role::Owner), (2, Role::Editor)];
    let mut sim = Sim::new(KIND, &roles, "hello");
    let long = "z".repeat(AUTOMERGE_UPDATE_UNITS as usize + 1);
    sim.peers[1].insert(0, &long);
    assert_eq!(sim.peers[1].doc.pending_count(), 1);
    // In one change, which cannot be cut.
    sim.settle();
    sim.peers[1].edit(|crdt| {
        let automerge = crdt.as_any_mut().downcast_mut::<Automerge>().unwrap();
        let doc = automerge.doc_mut();
        let (_, text) = doc.get(ROOT, "text").unwrap().unwrap();
        doc.splice_text(&text, 0, 0, &long).unwrap();
        Ok(())
    });
    sim.peers[1].insert(0, "after ");
    assert_eq!(sim.peers[1].doc.pending_count(), 2);
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
    assert_eq!(sim.peers[0].text().len(), 2 * long.len() + 11);
    assert!(sim.peers[0].text().starts_with("after z"));
    assert!(sim.peers[1].lost.is_empty());
    tables_agree(&mut sim, &[0, 1]);
}

/// Nothing runs in an engine before it is known how much that is at most.
#[test]
fn a_snapshot_beyond_its_bound_is_held() {
    let roles = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
    let mut sim = Sim::new(KIND, &roles, "hello");
    sim.peers[1].insert(0, "more ");
    sim.settle();
    let record = forge_snapshot(&mut sim, MALLORY, |_| {}, |payload| payload.tables.ops = 1);
    let author = record.header.author;
    sim.order(vec![record], None);
    sim.settle();
    let found = Judgement::Differs(DiffersWhy::Tables);
    assert_eq!(sim.check(0), Some(found));
    // A newcomer does not load it, and knows whose it is.
    let newcomer = sim.world.add(4, Role::Editor);
    sim.reach(sim.world.epoch());
    let keys = Keys::default();
    let ctx = sim.world.ctx(newcomer, sim.world.epoch(), &keys);
    let device = sim.world.devices[newcomer];
    let fresh = instance(77);
    let of = Author {
        device,
        instance: fresh,
    };
    let opened = sim.service.opened(of, None);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let error = Document::open_remote(&ctx, &opened, GROUP, DOC, fresh, &mut rng);
    let fault = RecordFault::Cost;
    let expected = DocError::BadSnapshot { author, fault };
    assert_eq!(error.err(), Some(expected));
}

/// Two devices of a user write at once what only one of them can pay for.
#[test]
fn what_cannot_be_paid_for_waits_and_is_not_lost() {
    let mut sim = poor(30_000);
    for (at, letter) in [(CAT, "c"), (TOM, "t")] {
        sim.peers[at].insert(0, &letter.repeat(MANY));
    }
    // Both are sealed before either is known.
    assert!(sim.send(CAT, 1 << 20) && sim.send(TOM, 1 << 20));
    sim.settle();
    let seq = sim.service.size() - 1;
    for at in ALL {
        assert_eq!(sim.peers[at].findings, [over(seq)], "{at}");
    }
    let tom = &mut sim.peers[TOM];
    assert!(tom.doc.waits_for_cost() && tom.lost.is_empty());
    assert_eq!(tom.doc.pending_count(), 1);
    assert_eq!(tom.text().matches('t').count(), MANY);
    // Nothing more is sent of it, and others go on, on all devices.
    sim.peers[DAN].insert(0, "on ");
    sim.settle();
    assert!(sim.peers[TOM].text().contains("on "));
    tables_agree(&mut sim, &[CAT, DAN, EVE]);
    // Another form is looked for again as soon as there is something else to send.
    assert!(!sim.send(TOM, 10_000));
    sim.peers[TOM].insert(0, "t");
    assert!(sim.send(TOM, 10_000));
    assert!(!sim.send(TOM, 10_000) && sim.peers[TOM].doc.waits_for_cost());
    // What the user's other device writes earns enough in time.
    for round in 0..6 {
        let text: String = (0..2_000)
            .map(|at| char::from(b'a' + (at * 7 + round) as u8 % 26))
            .collect();
        sim.peers[CAT].insert(0, &text);
        sim.settle();
    }
    assert!(!sim.peers[TOM].doc.waits_for_cost());
    converged(&mut sim);
    tables_agree(&mut sim, &ALL);
}

/// Ways to keep a Yjs engine busy for seconds, each by a member with all of its balance.
#[test]
fn dear_updates_are_left_out_by_who_has_the_log_and_by_who_begins_from_a_snapshot() {
    let kind = CrdtKind::Yjs;
    for way in costly::YJS.iter().filter(|way| way.once) {
        let roles = [(1, Role::Owner), (2, Role::Editor)];
        let mut sim = Sim::new(kind, &roles, "hello");
        let dear = (way.build)(way.size, 1);
        for update in dear.base {
            write(&mut sim, 1, &update);
        }
        assert!(
            sim.peers.iter().all(|it| it.findings.is_empty()),
            "{}",
            way.name
        );
        sim.snapshot(0);
        let newcomer = sim.world.add(3, Role::Editor);
        sim.advance_epochs();
        let newcomer = sim.join(newcomer);
        sim.settle();
        let mut refused = Vec::new();
        for update in dear.dear {
            let seq = write(&mut sim, 1, &update);
            let found = |at: usize| sim.peers[at].findings.contains(&over(seq));
            refused.extend(found(0).then_some(seq));
            assert!(
                found(0) == found(1) && found(0) == found(newcomer),
                "{}",
                way.name
            );
        }
        assert!(!refused.is_empty(), "{}", way.name);
        sim.peers[0].insert(0, "on ");
        sim.settle();
        sim.assert_converged();
        tables_agree(&mut sim, &[0, 1, newcomer]);
    }
}

/// Who carries what others have lost pays for it. What that user cannot pay for now goes when there is more to pay with, and is not given up.
#[test]
fn what_is_carried_is_counted_before_it_is_sealed_and_waits_until_it_can_be_paid_for() {
    let mut sim = poor(30_000);
    let copy = sim.service.clone();
    sim.disconnect(EVE);
    for _ in 0..2 {
        sim.peers[DAN].edit(|crdt| nulls(crdt, MANY));
        sim.settle();
    }
    sim.peers[DAN].insert(0, "{cheap}");
    sim.settle();
    sim.assert_no_findings();
    sim.peers[CAT].store();
    [CAT, TOM, DAN].iter().for_each(|at| sim.disconnect(*at));
    sim.service = copy;
    sim.connect(EVE);
    sim.peers[EVE].insert(0, "{eve}");
    sim.settle();

    sim.merge(CAT);
    sim.settle();
    assert_eq!(sim.carry(CAT, Whose::All), 3);
    let size = sim.service.size();
    sim.settle();
    assert_eq!(
        sim.service.size(),
        size + 1,
        "nothing is sent that is refused"
    );
    for round in 0..2 {
        assert_eq!(sim.peers[CAT].doc.lost_count(), 2);
        assert_eq!(sim.carry(CAT, Whose::All), 0);
        assert_eq!(sim.take_uncarried(CAT), None);
        assert!(sim.peers[CAT].doc.waits_for_cost());
        assert_eq!(sim.peers[CAT].doc.pending_count(), 0);
        if round == 0 {
            sim.peers[CAT].store();
            sim.restart(CAT);
            sim.connect(CAT);
            sim.settle();
            // It is looked at once more then.
            assert_eq!(sim.carry(CAT, Whose::All), 2);
            sim.settle();
        }
    }
    // What is written earns, as far as it is long when it is deflated.
    let numbers = (0..10_000u32).map(|at| at.wrapping_mul(2_654_435_761).to_string());
    sim.peers[CAT].insert(0, &numbers.collect::<String>());
    sim.settle();
    assert_eq!(sim.carry(CAT, Whose::All), 2);
    sim.settle();
    assert_eq!(sim.peers[CAT].doc.lost_count(), 0);
    assert!(!sim.peers[CAT].doc.waits_for_cost());
    assert!(sim.peers[CAT].uncarried.is_empty());
    let (cat, eve) = (sim.peers[CAT].text(), sim.peers[EVE].text());
    assert_eq!(cat, eve);
    assert_eq!(cat.matches("{cheap}").count(), 1);
    tables_agree(&mut sim, &[CAT, EVE]);
}

/// A change that cannot be cut, of which a difference is no smaller: no balance would do. It stays, and whoever wrote it can take it back.
#[test]
fn an_edit_that_can_never_be_sent_is_kept_and_told() {
    let roles = [(1, Role::Owner), (2, Role::Editor)];
    let mut sim = Sim::new(KIND, &roles, "hello");
    let long = "z".repeat(AUTOMERGE_UPDATE_UNITS as usize);
    sim.peers[1].edit(|crdt| {
        let automerge = crdt.as_any_mut().downcast_mut::<Automerge>().unwrap();
        let doc = automerge.doc_mut();
        let (_, text) = doc.get(ROOT, "text").unwrap().unwrap();
        doc.splice_text(&text, 0, 0, &long).unwrap();
        // Neither text nor JSON shows that, so that no difference tells all.
        let bold = Mark::new("bold".to_owned(), true, 0, 3);
        doc.mark(&text, bold, ExpandMark::None).unwrap();
        Ok(())
    });
    sim.settle();
    assert!(sim.peers[1].doc.is_too_costly() && sim.peers[1].doc.waits_for_cost());
    assert!(sim.peers[1].last.waits_for_cost);
    sim.peers[1].store();
    sim.restart(1);
    sim.connect(1);
    sim.settle();
    assert!(sim.peers[1].doc.is_too_costly());
    assert_eq!(sim.peers[1].doc.pending_count(), 1);
    sim.peers[1].edit(|crdt| crdt.text().unwrap().splice(0, long.len(), ""));
    sim.peers[1].insert(0, "on ");
    sim.settle();
    assert!(!sim.peers[1].doc.waits_for_cost());
    sim.assert_no_findings();
    sim.assert_converged();
    assert!(sim.peers[0].text().starts_with("on "));
}

/// What was cheap where it was written can cost more than any update may where it is to go now: then it is given to a person, and the rest goes.
#[test]
fn what_can_never_be_carried_is_counted_once_and_given_to_a_person() {
    let roles = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
    let mut sim = Sim::new(CrdtKind::Yjs, &roles, "hello");
    let dear = (costly::YJS[0].build)(800, 1);
    let (first, others) = dear.base.split_first().unwrap();
    write(&mut sim, 0, first);
    let copy = sim.service.clone();
    sim.disconnect(2);
    for update in &dear.dear {
        write(&mut sim, 1, update);
    }
    sim.peers[0].insert(0, "{cheap}");
    sim.settle();
    sim.assert_no_findings();
    [0, 1].iter().for_each(|at| sim.disconnect(*at));
    sim.service = copy;
    sim.connect(2);
    for update in others {
        write(&mut sim, 2, update);
    }
    sim.settle();
    sim.merge(0);
    // Its own goes by itself.
    sim.settle();
    assert_eq!(sim.carry(0, Whose::All), 1);
    sim.settle();
    let counted = sim.peers[0].doc.counted_updates();
    for _ in 0..3 {
        assert_eq!(sim.carry(0, Whose::All), 0);
        sim.settle();
    }
    assert_eq!(sim.peers[0].doc.counted_updates(), counted, "once");
    assert_eq!(sim.peers[0].doc.lost_count(), 1);
    let kept = sim.take_uncarried(0).unwrap();
    assert_eq!(kept.updates.len(), 1);
    assert_eq!(sim.peers[0].doc.lost_count(), 0);
    let (owner, editor) = (sim.peers[0].text(), sim.peers[2].text());
    assert_eq!(owner, editor);
    assert_eq!(owner.matches("{cheap}").count(), 1);
    tables_agree(&mut sim, &[0, 2]);
}

/// How much is counted for what is sent does not depend on how much there is.
#[test]
fn what_is_sent_costs_as_much_counting_as_is_on_its_way() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let roles = [(1, Role::Owner), (2, Role::Editor)];
        let mut sim = Sim::new(kind, &roles, "hello");
        for at in 0..40 {
            sim.peers[at % 2].insert(0, "a few words ");
            sim.settle();
        }
        let before = sim.peers[1].doc.counted_updates();
        for _ in 0..4 {
            sim.peers[1].insert(0, ".");
            assert!(sim.send(1, 4096));
        }
        // Those on their way, and the next.
        let counted = sim.peers[1].doc.counted_updates() - before;
        assert_eq!(counted, 1 + 2 + 3 + 4, "{kind}");
        sim.settle();
        sim.assert_converged();
        tables_agree(&mut sim, &[0, 1]);
    }
}

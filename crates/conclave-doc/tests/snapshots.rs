//! Snapshots: made, accepted, checked, confirmed, disputed, healed; and opening a document from one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::liars::is_heal_due;
use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::frame::DeliveredRecord;
use conclave_proto::merkle::Head;
use conclave_proto::record::{Chained, SnapshotHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;
use zeroize::Zeroizing;

const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];
const ROLES: [(u8, Role); 4] = [
    (1, Role::Owner),
    (2, Role::Editor),
    (3, Role::Editor),
    (4, Role::Viewer),
];

fn sim(kind: CrdtKind) -> Sim {
    let mut sim = Sim::new(kind, &ROLES, "hello");
    sim.peers[1].insert(5, " world");
    sim.peers[2].insert(0, "oh, ");
    sim.settle();
    sim.assert_no_findings();
    sim
}

#[test]
fn a_snapshot_is_matched_and_opens_the_document() {
    for kind in KINDS {
        let mut sim = sim(kind);
        sim.world.rekey();
        sim.advance_epochs();
        let seq = sim.snapshot(1);
        sim.settle();
        assert_eq!(sim.peers[0].doc.active_snapshot().1, seq);
        let user = |user| UserId([user; 32]);
        let needs = |sim: &Sim, at: usize| sim.peers[at].doc.roots_needed().needs(0);
        assert_eq!(sim.judge(1), None, "its author knows");
        for at in 0..4 {
            assert_eq!(sim.confirm(at, 0), Confirmed::default());
        }
        assert_eq!(sim.judge(0), Some(Judgement::Match));
        sim.settle();
        assert_eq!(sim.check(2), Some(Judgement::Match));
        assert!(!sim.say(2), "one match is enough");
        let hour = Some(UnixMs(3_600_000));
        for at in 0..3 {
            let waits = Confirmed {
                moved: false,
                again: hour,
            };
            assert_eq!(sim.confirm(at, 0), waits);
            assert_eq!(sim.confirm(at, 59), waits);
            assert!(needs(&sim, at), "not within the hour");
            assert!(sim.confirm(at, 60).moved);
            assert!(!needs(&sim, at) && sim.peers[at].doc.roots_needed().needs(1));
            assert_eq!(sim.confirm(at, 61), Confirmed::default());
        }
        assert_eq!(sim.confirm(3, 600), Confirmed::default());
        assert!(needs(&sim, 3), "it has not checked");
        assert_eq!(sim.check(3), Some(Judgement::Match));
        assert!(sim.confirm(3, 700).moved, "it had seen the match before");
        for at in 0..4 {
            sim.peers[at].store();
            sim.restart(at);
            assert!(!needs(&sim, at), "it is durable");
            sim.connect(at);
        }
        sim.settle();
        // A new member who holds no older root reads everything.
        let newcomer = sim.world.add(9, Role::Editor);
        sim.advance_epochs();
        sim.peers[2].insert(0, "tail ");
        sim.settle();
        let at = sim.join(newcomer);
        sim.peers[at].keys.withheld.insert(0);
        sim.settle();
        sim.peers[at].insert(0, "new ");
        sim.settle();
        sim.assert_converged();
        sim.assert_no_findings();
        assert_eq!(sim.peers[at].text(), "new tail oh, hello world");
        let vouched = Basis::Vouched {
            author: user(2),
            by: vec![user(1)],
        };
        assert_eq!(
            sim.peers[at].doc.basis(),
            vouched,
            "the match is in the tail"
        );
        assert_eq!(sim.peers[0].doc.basis(), Basis::Checked);
    }
}

#[test]
fn a_viewer_may_judge() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.snapshot(1);
    sim.settle();
    assert_eq!(sim.judge(3), Some(Judgement::Match));
    sim.settle();
    assert_eq!(sim.check(0), Some(Judgement::Match));
    assert!(!sim.say(0));
    sim.assert_converged();
    sim.assert_no_findings();
}

#[test]
fn an_update_that_races_a_snapshot_is_in_the_tail() {
    for kind in KINDS {
        let mut sim = sim(kind);
        // The update is ordered between the covered head and the snapshot's position.
        let keys = Keys::default();
        let ctx = sim.world.ctx(1, 0, &keys);
        let peer = &mut sim.peers[1];
        let record = peer
            .doc
            .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
            .unwrap();
        sim.peers[2].insert(0, "race ");
        sim.send(2, 10_000);
        let seq = sim.order(vec![record], Some(1));
        sim.settle();
        sim.with(1, |doc, ctx, _| doc.snapshot_accepted(ctx, seq).unwrap());
        sim.settle();
        assert_eq!(
            sim.judge(0),
            Some(Judgement::Match),
            "judged at the covered head"
        );
        sim.settle();
        let newcomer = sim.world.add(9, Role::Editor);
        sim.advance_epochs();
        let at = sim.join(newcomer);
        sim.settle();
        sim.assert_converged();
        sim.assert_no_findings();
        assert!(sim.peers[at].text().contains("race "));
    }
}

/// Many records of a late author name one head below the base of a newcomer: a proof with the first of them is enough.
#[test]
fn what_one_record_has_shown_serves_those_after_it() {
    let mut sim = sim(CrdtKind::Yjs);
    let old_head = sim.service.head_at(2);
    sim.snapshot(1);
    sim.settle();
    let mut late = Vec::new();
    for (seed, text) in [(9, "late "), (10, "later "), (11, "latest ")] {
        let update = sim.update(CrdtKind::Yjs, seed, text);
        let record = sim.forge(2, &update, |header| header.seen = old_head);
        late.push(sim.order(vec![record], None));
        sim.settle();
    }
    let newcomer = sim.world.add(9, Role::Editor);
    sim.advance_epochs();
    let author = Author {
        device: sim.world.devices[newcomer],
        instance: instance(150),
    };
    let opened = sim.service.opened(author, None);
    let base = base_of(&opened);
    let keys = Keys::default();
    let ctx = sim.world.ctx(newcomer, sim.world.epoch(), &keys);
    // With a proof for the first or the second of them.
    for proven in [0, 1] {
        let rng = &mut sim.peers[0].rng;
        let (mut doc, _) =
            Document::open_remote(&ctx, &opened, GROUP, DOC, author.instance, rng).unwrap();
        let records = (opened.from..sim.service.size()).map(|seq| {
            if late[proven] == seq || !late.contains(&seq) {
                sim.service.whole_for(seq, base)
            } else {
                sim.service.elided(seq)
            }
        });
        let outcome = doc.deliver(&ctx, opened.from, records.collect()).unwrap();
        let blocked = outcome.blocked.map(|(seq, _)| seq);
        assert_eq!(blocked, (proven > 0).then_some(late[0]));
        assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
    }
}

/// A late author's seen head lies below the base of a newcomer.
#[test]
fn a_record_that_saw_less_than_the_base_comes_with_a_proof() {
    let mut sim = sim(CrdtKind::Yjs);
    let old_head = sim.service.head_at(2);
    sim.snapshot(1);
    sim.settle();
    let update = sim.update(CrdtKind::Yjs, 9, "late ");
    let record = sim.forge(2, &update, |header| header.seen = old_head);
    let seq = sim.order(vec![record.clone()], None);
    sim.settle();
    let newcomer = sim.world.add(9, Role::Editor);
    sim.advance_epochs();
    let at = sim.join(newcomer);
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
    // Without the proof, or with another, the newcomer cannot tell, and does not accept.
    let newcomer = sim.world.add(10, Role::Editor);
    sim.advance_epochs();
    let author = Author {
        device: sim.world.devices[newcomer],
        instance: instance(150),
    };
    let opened = sim.service.opened(author, None);
    let keys = Keys::default();
    let ctx = sim.world.ctx(newcomer, sim.world.epoch(), &keys);
    let (mut doc, _) = Document::open_remote(
        &ctx,
        &opened,
        GROUP,
        DOC,
        instance(150),
        &mut sim.peers[0].rng,
    )
    .unwrap();
    let mut records: Vec<_> = (opened.from..=seq)
        .map(|seq| sim.service.whole_for(seq, base_of(&opened)))
        .collect();
    *records.last_mut().unwrap() = DeliveredRecord::Whole {
        record,
        proof: vec![Hash([1; 32])],
    };
    let outcome = doc.deliver(&ctx, opened.from, records).unwrap();
    assert!(matches!(outcome.blocked, Some((blocked, Blocked::Whole { .. })) if blocked == seq));
    assert_eq!(
        outcome.findings[0].fault,
        Fault::Record(RecordFault::SeenHead)
    );
    let _ = at;
}

#[test]
fn wrong_parents_and_covered_heads_are_refused() {
    type Change = fn(&mut SnapshotHeader);
    let cases: [(Change, RecordFault); 5] = [
        (|header| header.parent = Hash([1; 32]), RecordFault::Parent),
        (
            |header| header.chain_proof = Hash([1; 32]),
            RecordFault::Parent,
        ),
        (
            |header| header.covered.root = Hash([1; 32]),
            RecordFault::Covered,
        ),
        (|header| header.covered.size += 1, RecordFault::Covered),
        (|header| header.covered = Head::EMPTY, RecordFault::Covered),
    ];
    for (change, fault) in cases {
        let mut sim = sim(CrdtKind::Yjs);
        let before = sim.peers[0].doc.active_snapshot();
        let record = forge_snapshot(&mut sim, 2, change, |_| {});
        let author = record.header.author;
        let seq = sim.order(vec![record], None);
        sim.settle();
        let suspect = Suspect {
            author: Some(author),
            service: true,
        };
        for peer in &sim.peers {
            assert_eq!(
                peer.findings,
                vec![Finding {
                    seq,
                    fault: Fault::Record(fault),
                    suspect
                }]
            );
            assert_eq!(peer.doc.active_snapshot(), before);
        }
        sim.peers[1].insert(0, "on ");
        sim.settle();
        sim.assert_converged();
    }
}

/// As the service demands: so no replaced snapshot lies in the tail of the next.
#[test]
fn a_snapshot_covers_the_active_ones_own_position() {
    let mut sim = sim(CrdtKind::Yjs);
    // The active one comes to lie behind a record that it does not cover.
    let active = forge_snapshot(&mut sim, 1, |_| {}, |_| {});
    sim.peers[2].insert(0, "late ");
    sim.settle();
    let place = sim.order(vec![active], None);
    sim.settle();
    sim.assert_no_findings();
    // Newer than what the active one covers, and a true prefix.
    let covered = sim.service.head_at(place);
    let record = forge_snapshot(&mut sim, 2, |header| header.covered = covered, |_| {});
    let seq = sim.order(vec![record], None);
    sim.settle();
    for peer in &sim.peers {
        let found = peer.findings.iter().map(|it| (it.seq, it.fault));
        let fault = Fault::Record(RecordFault::Covered);
        assert_eq!(found.collect::<Vec<_>>(), [(seq, fault)]);
        assert_eq!(peer.doc.active_snapshot().1, place);
    }
    let next = sim.snapshot(1);
    sim.settle();
    sim.assert_converged();
    for peer in &sim.peers {
        assert_eq!(peer.doc.active_snapshot().1, next);
        assert_eq!(peer.findings.len(), 1);
    }
}

#[test]
fn only_one_of_two_racing_snapshots_is_accepted() {
    let mut sim = sim(CrdtKind::Yjs);
    let first = forge_snapshot(&mut sim, 1, |_| {}, |_| {});
    let second = forge_snapshot(&mut sim, 2, |_| {}, |_| {});
    sim.order(vec![first.clone()], None);
    let seq = sim.order(vec![second], None);
    sim.settle();
    for peer in &sim.peers {
        assert_eq!(peer.doc.active_snapshot().0, first.leaf());
        assert_eq!(peer.findings.len(), 1);
        assert_eq!(
            (peer.findings[0].seq, peer.findings[0].fault),
            (seq, Fault::Record(RecordFault::Parent))
        );
    }
}

#[test]
fn a_viewer_makes_no_snapshot() {
    let mut sim = sim(CrdtKind::Yjs);
    let keys = Keys::default();
    let ctx = sim.world.ctx(3, 0, &keys);
    let peer = &mut sim.peers[3];
    assert_eq!(
        peer.doc
            .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
            .unwrap_err(),
        DocError::Role
    );
    let mut record = forge_snapshot(&mut sim, 2, |_| {}, |_| {});
    // Signed by the viewer's key, in the viewer's name.
    record.header.author = Author {
        device: sim.world.devices[3],
        instance: instance(77),
    };
    let doc_keys = DocKeys::derive(&root(0), &DOC);
    let record = seal(
        &record.header,
        b"x",
        &doc_keys,
        &sim.world.keys[3],
        1,
        &mut sim.peers[0].rng,
    );
    sim.order(vec![record], None);
    sim.settle();
    assert!(
        sim.peers
            .iter()
            .all(|peer| peer.findings[0].fault == Fault::Record(RecordFault::Role))
    );
}

/// Every way in which a snapshot can lie is found by whoever has the log, and said; the next from anybody's own log heals it.
#[test]
fn a_snapshot_that_differs_is_said_and_healed() {
    type Change = fn(&mut SnapshotPayload);
    let cases: [(Change, DiffersWhy); 8] = [
        (
            |payload| {
                let replica = conclave_crdt::ReplicaId::for_kind(CrdtKind::Yjs, [88; 16]);
                let mut crdt = conclave_crdt::load(CrdtKind::Yjs, &payload.state, replica).unwrap();
                crdt.text().unwrap().splice(0, 0, "forged ").unwrap();
                crdt.take_pending(&mut vec![]).unwrap();
                payload.state = Zeroizing::new(crdt.snapshot().unwrap());
            },
            DiffersWhy::Content,
        ),
        (
            |payload| payload.state = Zeroizing::new(b"nonsense".to_vec()),
            DiffersWhy::Unloadable,
        ),
        (
            |payload| {
                payload.tables.epoch_high += 1;
                payload.claims = None;
            },
            DiffersWhy::Tables,
        ),
        (
            |payload| payload.claims.as_mut().unwrap().epochs.clear(),
            DiffersWhy::Tables,
        ),
        (|payload| payload.tables.chains.clear(), DiffersWhy::Tables),
        (
            |payload| {
                payload
                    .tables
                    .chains
                    .values_mut()
                    .for_each(|chain| chain.closed = true)
            },
            DiffersWhy::Tables,
        ),
        (
            |payload| {
                payload
                    .tables
                    .owners
                    .values_mut()
                    .for_each(|owner| owner.device = DeviceId([9; 16]))
            },
            DiffersWhy::Tables,
        ),
        (
            |payload| payload.frontier.push(Hash([1; 32])),
            DiffersWhy::Tables,
        ),
    ];
    for (change, why) in cases {
        let mut sim = sim(CrdtKind::Yjs);
        sim.world.rekey();
        sim.advance_epochs();
        let record = forge_snapshot(&mut sim, 2, |_| {}, change);
        let forger = record.header.author.device;
        let seq = sim.order(vec![record], None);
        sim.settle();
        sim.assert_no_findings();
        assert_eq!(sim.judge(1), Some(Judgement::Differs(why)));
        let heals = |sim: &Sim, at: usize| {
            let keys = Keys::default();
            let ctx = sim.world.ctx(at, 1, &keys);
            sim.peers[at].doc.is_heal_due(&ctx)
        };
        assert!(!heals(&sim, 1), "it is said first");
        sim.settle();
        assert!(heals(&sim, 1));
        assert_eq!(sim.check(0), Some(Judgement::Differs(why)));
        for (at, told) in [(0, 1), (1, 1), (3, 0)] {
            let refuted = sim.refuted(at);
            let false_one = Refuted::Snapshot {
                seq,
                device: forger,
            };
            assert_eq!(refuted, vec![false_one; told]);
            assert_eq!(sim.refuted(at), [], "once");
            assert!(sim.peers[at].doc.can_snapshot());
            assert!(!sim.confirm(at, 600).moved);
            assert!(sim.peers[at].doc.roots_needed().needs(0));
        }
        // An editor's own log heals it.
        let seq = sim.snapshot(1);
        sim.settle();
        for peer in &sim.peers {
            assert_eq!(peer.doc.active_snapshot().1, seq);
        }
        assert_eq!(sim.judge(0), Some(Judgement::Match));
        assert!(!heals(&sim, 0) && !heals(&sim, 1));
        sim.settle();
        for at in [0, 1] {
            assert!(!sim.confirm(at, 700).moved);
            assert!(sim.confirm(at, 760).moved);
            assert!(!sim.peers[at].doc.roots_needed().needs(0));
        }
        sim.assert_converged();
        sim.assert_no_findings();
    }
}

#[test]
fn a_snapshot_that_does_not_open_differs() {
    let mut sim = sim(CrdtKind::Yjs);
    let honest = forge_snapshot(&mut sim, 2, |_| {}, |_| {});
    let wrong = DocKeys::from_bytes([1; 32], [2; 32]);
    let record = seal(
        &honest.header,
        b"whatever",
        &wrong,
        &sim.world.keys[2],
        1,
        &mut sim.peers[0].rng,
    );
    sim.order(vec![record.clone()], None);
    sim.settle();
    assert_eq!(
        sim.judge(1),
        Some(Judgement::Differs(DiffersWhy::Unreadable))
    );
    // Nobody can open the document from it either.
    let author = Author {
        device: sim.world.devices[0],
        instance: instance(150),
    };
    let opened = sim.service.opened(author, None);
    let keys = Keys::default();
    let ctx = sim.world.ctx(0, 0, &keys);
    let error = Document::open_remote(
        &ctx,
        &opened,
        GROUP,
        DOC,
        instance(150),
        &mut sim.peers[0].rng,
    )
    .unwrap_err();
    assert_eq!(
        error,
        DocError::BadSnapshot {
            author: record.header.author,
            fault: RecordFault::Commitment
        }
    );
}

/// A snapshot that a member made with a program of this version, cut off after so many bytes.
fn snapshot_of_version(sim: &mut Sim, version: u16, len: Option<usize>) -> Record {
    let known = forge_snapshot(sim, 2, |_| {}, |_| {});
    let keys = DocKeys::derive(&root(known.header.epoch), &DOC);
    let mut payload = open(&known, &keys).unwrap().to_vec();
    payload[..2].copy_from_slice(&version.to_be_bytes());
    payload.truncate(len.unwrap_or(payload.len()));
    let (key, rng) = (&sim.world.keys[2], &mut sim.peers[0].rng);
    seal(&known.header, &payload, &keys, key, 1, rng)
}

/// Whoever wrote it has another program: that is no fault of theirs.
#[test]
fn a_snapshot_of_an_unknown_version_opens_nothing_and_blames_nobody() {
    for version in [SNAPSHOT_VERSION + 1, SNAPSHOT_VERSION - 1] {
        let mut sim = sim(CrdtKind::Yjs);
        // What another version says may be in any form.
        let record = snapshot_of_version(&mut sim, version, Some(40));
        sim.order(vec![record], None);
        sim.settle();
        let author = Author {
            device: sim.world.devices[0],
            instance: instance(150),
        };
        let opened = sim.service.opened(author, None);
        let held = Keys::default();
        let ctx = sim.world.ctx(0, 0, &held);
        let rng = &mut sim.peers[0].rng;
        let error = Document::open_remote(&ctx, &opened, GROUP, DOC, author.instance, rng);
        let error = error.unwrap_err();
        assert_eq!(error, DocError::UnknownSnapshot { version });
        assert_eq!(error.code(), "doc.unknown_snapshot");
        assert!(!error.is_retryable());
    }
}

/// Who holds the log cannot compare it, and says nothing of it, also after a restart: its author may be as honest as anybody.
#[test]
fn who_holds_the_log_does_not_judge_a_snapshot_of_an_unknown_version() {
    for version in [SNAPSHOT_VERSION + 1, SNAPSHOT_VERSION - 1] {
        let mut sim = sim(CrdtKind::Yjs);
        let record = snapshot_of_version(&mut sim, version, None);
        sim.order(vec![record], None);
        sim.settle();
        assert_eq!(
            sim.look_or_fail(1),
            Err(DocError::UnknownSnapshot { version })
        );
        for _ in 0..2 {
            assert_eq!(sim.look_or_fail(1), Ok(None), "once is enough");
            assert!(!sim.say(1));
            assert_eq!(sim.refuted(1), []);
            assert_eq!(sim.peers[1].doc.missed(), []);
            sim.peers[1].store();
            sim.restart(1);
            sim.connect(1);
            sim.settle();
        }
        // Nor are keys let go of on it.
        assert!(!sim.confirm(1, 600).moved);
        assert!(sim.peers[1].doc.roots_needed().needs(0));
        sim.assert_no_findings();
    }
}

/// Whoever writes one on purpose keeps nobody out: the next is made from the log, by whoever has looked at it, so often and no more.
#[test]
fn a_snapshot_of_an_unknown_version_is_replaced() {
    let mut sim = sim(CrdtKind::Yjs);
    for round in 0..5 {
        let record = snapshot_of_version(&mut sim, u16::MAX, None);
        sim.order(vec![record], None);
        sim.settle();
        assert!(!is_heal_due(&sim, 1), "it was not looked at");
        sim.look_or_fail(1).unwrap_err();
        if round == 4 {
            assert!(!is_heal_due(&sim, 1), "that is enough without an edit");
            sim.peers[1].insert(0, "more ");
            sim.settle();
        }
        assert!(is_heal_due(&sim, 1));
        sim.snapshot(1);
        sim.settle();
        assert!(!is_heal_due(&sim, 1));
        let joined = sim.join(0);
        sim.settle();
        assert_eq!(sim.peers[joined].text(), sim.peers[1].text());
    }
    sim.assert_no_findings();
}

/// What it says counts for nothing here, its author's chain goes on, and nobody is at fault.
#[test]
fn a_verdict_of_an_unknown_version_says_nothing_and_blames_nobody() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.snapshot(1);
    sim.settle();
    let (snapshot, _) = sim.snapshot_at(0);
    for version in [VERDICT_VERSION + 1, VERDICT_VERSION - 1] {
        let differs = Judgement::Differs(DiffersWhy::Content);
        let mut payload = VerdictPayload::new(snapshot, 0, differs).to_bytes();
        payload[0] = version;
        payload.truncate(7);
        let record = sim.forge(sim.peers[2].member, &payload, |header| {
            let Some(Chained { clock, prev }) = header.body.chained() else {
                panic!()
            };
            header.body = RecordBody::Verdict(Chained { clock, prev });
        });
        sim.order(vec![record], None);
        sim.settle();
    }
    let newest = u16::from(VERDICT_VERSION + 1);
    for at in [0, 1] {
        let told = sim.peers[at].unknown_verdict;
        assert_eq!(told, Some(newest));
        assert_eq!(sim.peers[at].doc.basis(), Basis::Checked);
    }
    assert_eq!(sim.judge(0), Some(Judgement::Match));
    sim.settle();
    assert!(!sim.confirm(1, 0).moved);
    assert!(sim.confirm(1, 60).moved, "nobody objects");
    sim.peers[2].insert(0, "on ");
    sim.settle();
    sim.assert_no_findings();
}

#[test]
fn an_unmatched_base_is_on_somebodys_word_and_proves_nothing() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.snapshot(1);
    sim.settle();
    let newcomer = sim.world.add(9, Role::Editor);
    sim.advance_epochs();
    let at = sim.join(newcomer);
    sim.settle();
    let word = Basis::Word {
        author: UserId([2; 32]),
    };
    assert_eq!(sim.peers[at].doc.basis(), word);
    assert_eq!(sim.check(at), None, "it would compare it with itself");
    assert!(!sim.confirm(at, 600).moved);
    assert!(sim.peers[at].doc.roots_needed().needs(0));
    // Nor does it vouch for the next: it says from where it has judged.
    sim.snapshot(0);
    sim.settle();
    assert_eq!(sim.judge(at), Some(Judgement::Match));
    sim.settle();
    let newcomer = sim.world.add(10, Role::Editor);
    sim.advance_epochs();
    let later = sim.join(newcomer);
    sim.settle();
    let of_the_first = Basis::Word {
        author: UserId([1; 32]),
    };
    assert_eq!(sim.peers[later].doc.basis(), of_the_first);
    assert_eq!(sim.peers[at].doc.basis(), word);
    for minutes in [600, 700] {
        assert!(!sim.confirm(at, minutes).moved);
    }
    // Somebody who has judged all of it says the same. What was before the own base stays on its author's word.
    assert_eq!(sim.judge(2), Some(Judgement::Match));
    sim.settle();
    assert!(matches!(
        sim.peers[later].doc.basis(),
        Basis::Vouched { .. }
    ));
    assert!(sim.confirm(at, 760).moved);
    assert!(!sim.peers[at].doc.roots_needed().needs(0));
    assert_eq!(sim.peers[at].doc.basis(), word);
    sim.assert_converged();
    sim.assert_no_findings();
}

/// Another user finds right what a newcomer opened the document from: an hour later that is confirmed, and the newcomer's word counts.
#[test]
fn a_base_that_another_user_found_right_is_confirmed() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.snapshot(1);
    sim.settle();
    let newcomer = sim.world.add(9, Role::Editor);
    sim.advance_epochs();
    let at = sim.join(newcomer);
    sim.settle();
    assert_eq!(sim.judge(2), Some(Judgement::Match));
    sim.settle();
    assert!(matches!(sim.peers[at].doc.basis(), Basis::Vouched { .. }));
    assert!(!sim.confirm(at, 0).moved);
    assert!(sim.confirm(at, 60).moved);
    assert_eq!(sim.peers[at].doc.roots_needed().all_below, 0);
    assert!(matches!(sim.peers[at].doc.basis(), Basis::Vouched { .. }));
    // From here on the newcomer's word counts. What was before stays on the word of those two.
    sim.snapshot(1);
    sim.settle();
    assert_eq!(sim.judge(at), Some(Judgement::Match));
    sim.settle();
    assert!(!sim.confirm(at, 100).moved);
    assert!(sim.confirm(at, 160).moved);
    assert!(matches!(sim.peers[at].doc.basis(), Basis::Vouched { .. }));
    sim.peers[at].store();
    sim.restart(at);
    assert!(matches!(sim.peers[at].doc.basis(), Basis::Vouched { .. }));
    sim.connect(at);
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
}

#[test]
fn alone_a_user_checks_the_own_snapshot() {
    let mut sim = Sim::new(CrdtKind::Yjs, &[(1, Role::Owner)], "hello");
    sim.peers[0].insert(0, "a");
    sim.settle();
    sim.world.rekey();
    sim.advance_epochs();
    sim.snapshot(0);
    assert!(sim.peers[0].doc.roots_needed().needs(0));
    assert_eq!(sim.check(0), Some(Judgement::Match));
    assert!(!sim.say(0), "nobody is there to be told");
    assert!(sim.confirm(0, 0).moved);
    assert!(!sim.peers[0].doc.roots_needed().needs(0));
    sim.peers[0].store();
    sim.restart(0);
    assert!(!sim.peers[0].doc.roots_needed().needs(0));
}

/// Epochs pass over a quiet document: their roots are kept until the service has shown that nothing came in meanwhile.
#[test]
fn roots_of_epochs_that_may_hold_unseen_records_are_kept() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.disconnect(0);
    for _ in 0..3 {
        sim.world.rekey();
    }
    sim.reach(1);
    sim.peers[1].epoch = 1;
    sim.peers[1].insert(0, "under epoch 1 ");
    sim.settle_but(0);
    sim.advance_epochs();
    let needed = sim.peers[0].doc.roots_needed();
    assert!((0..=3).all(|epoch| needed.needs(epoch)), "{needed:?}");
    sim.connect(0);
    sim.settle();
    sim.assert_converged();
    let needed = sim.peers[0].doc.roots_needed();
    let kept: Vec<u64> = (0..=4).filter(|epoch| needed.needs(*epoch)).collect();
    assert_eq!(kept, vec![0, 1, 3, 4], "caught up in epoch 3");
    let head = sim.peers[0].doc.head();
    sim.peers[0].doc.confirm_head(&Head::EMPTY, 9);
    assert!(sim.peers[0].doc.roots_needed().needs(3));
    sim.peers[0].doc.confirm_head(&head, 5);
    assert!(!sim.peers[0].doc.roots_needed().needs(3));
    sim.peers[0].store();
    sim.restart(0);
    assert!(!sim.peers[0].doc.roots_needed().needs(4));
}

#[test]
fn rekeying_is_due_until_all_older_records_are_covered() {
    let mut sim = sim(CrdtKind::Yjs);
    assert!(!sim.peers[0].doc.rekey_due(&sim.world.states[0]));
    sim.world.remove(2);
    sim.advance_epochs();
    sim.disconnect(2);
    sim.peers.remove(2);
    let state = sim.world.states[1].clone();
    assert!(sim.peers[0].doc.rekey_due(&state));
    sim.snapshot(0);
    sim.settle();
    assert!(sim.peers.iter().all(|peer| !peer.doc.rekey_due(&state)));
    sim.peers[1].insert(0, "under the new epoch ");
    sim.settle();
    assert!(sim.peers.iter().all(|peer| !peer.doc.rekey_due(&state)));
}

fn after_records(snapshot_after_records: u32) -> GroupPolicy {
    GroupPolicy {
        snapshot_after_records,
        ..GroupPolicy::default()
    }
}

#[test]
fn snapshots_are_due_by_updates_and_by_their_bytes() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.peers[1].insert(0, &"x".repeat(2_000));
    sim.settle();
    let doc = &sim.peers[0].doc;
    assert!(doc.snapshot_due(&after_records(3)));
    assert!(
        !doc.snapshot_due(&after_records(4)),
        "the snapshot itself does not count"
    );
    let policy = GroupPolicy {
        snapshot_after_bytes: 500,
        ..GroupPolicy::default()
    };
    assert!(doc.snapshot_due(&policy));
    sim.snapshot(0);
    assert!(!sim.peers[0].doc.snapshot_due(&after_records(1)));
    assert!(!sim.peers[0].doc.snapshot_due(&policy));
}

/// Neither a snapshot nor what is said of it calls for the next, however large it is; nor does a line in a large text.
#[test]
fn a_large_snapshot_is_no_news() {
    for (kind, words) in [(CrdtKind::Yjs, 80_000), (CrdtKind::Automerge, 4_000)] {
        let mut sim = Sim::new(kind, &ROLES, &"a word and another ".repeat(words));
        let by_bytes = GroupPolicy {
            snapshot_after_bytes: 60_000,
            ..GroupPolicy::default()
        };
        let policies = [by_bytes, after_records(1)];
        let due = |sim: &Sim| {
            let mut peers = sim.peers.iter();
            peers.any(|peer| policies.iter().any(|it| peer.doc.snapshot_due(it)))
        };
        assert!(!due(&sim), "{kind:?}");
        sim.peers[1].insert(0, "one line more\n");
        sim.settle();
        assert!(!due(&sim), "{kind:?}");
        sim.snapshot(0);
        sim.settle();
        assert!(!due(&sim), "{kind:?}");
        assert_eq!(sim.judge(1), Some(Judgement::Match));
        sim.settle();
        assert!(!due(&sim), "{kind:?}");
        sim.assert_no_findings();
    }
}

/// A snapshot is worth it once as much was written as the last one holds. All who see the log agree on that, and on whose edit it was.
#[test]
fn as_much_is_written_as_the_last_snapshot_holds() {
    let mut sim = Sim::new(CrdtKind::Yjs, &ROLES, &"z".repeat(50_000));
    let policy = after_records(1);
    let device = |sim: &Sim, at: usize| sim.peers[at].author(&sim.world).device;
    for (at, expected) in [(1, false), (2, false), (1, true), (2, true)] {
        sim.peers[at].insert(3, &"y".repeat(20_000));
        sim.settle();
        for peer in &sim.peers {
            assert_eq!(peer.doc.snapshot_due(&policy), expected);
            let by = expected.then(|| device(&sim, 1));
            assert_eq!(peer.doc.made_due_by(&policy), by, "the third edit's");
        }
    }
    sim.peers[0].store();
    sim.restart(0);
    let doc = &sim.peers[0].doc;
    assert!(doc.snapshot_due(&policy));
    assert_eq!(doc.made_due_by(&policy), Some(device(&sim, 1)));
    sim.connect(0);
    sim.settle();
    // Somebody writes on while the snapshot is on its way: that much is new after it.
    let keys = sim.peers[1].keys.clone();
    let ctx = sim
        .world
        .ctx(sim.peers[1].member, sim.peers[1].epoch, &keys);
    let peer = &mut sim.peers[1];
    let record = peer
        .doc
        .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
        .unwrap();
    sim.peers[2].insert(0, &"x".repeat(70_000));
    sim.peers[2].insert(0, &"w".repeat(70_000));
    sim.settle();
    sim.order(vec![record], None);
    sim.settle();
    for peer in &sim.peers {
        assert!(peer.doc.snapshot_due(&policy));
        assert_eq!(peer.doc.made_due_by(&policy), Some(device(&sim, 2)));
    }
    // Nor does it matter where a device has its checkpoint.
    let ctx = sim
        .world
        .ctx(sim.peers[1].member, sim.peers[1].epoch, &keys);
    let peer = &mut sim.peers[1];
    let record = peer
        .doc
        .make_snapshot(&ctx, sealer(&peer.key, &mut peer.rng))
        .unwrap();
    for _ in 0..2 {
        sim.peers[2].insert(0, &"v".repeat(400_000));
    }
    sim.settle();
    sim.order(vec![record], None);
    sim.settle();
    for peer in &sim.peers {
        assert!(peer.doc.snapshot_due(&policy));
    }
    sim.assert_no_findings();
}

/// What checkpoints write is in proportion to what comes, however long the log is: leaves are written once.
#[test]
fn checkpoints_write_as_much_late_as_early() {
    const QUARTER: usize = 4_000;
    let mut sim = Sim::new(CrdtKind::Yjs, &ROLES[..2], "");
    let mut quarters = Vec::new();
    sim.peers[1].doc.take_changes(&Keeping::default());
    for quarter in 0..4 {
        let mut written = 0;
        for at in 0..QUARTER {
            sim.peers[0].insert(quarter * QUARTER + at, "x");
            if at % 250 == 249 {
                sim.settle();
                let changes = sim.peers[1].doc.take_changes(&Keeping::default());
                let kinds = changes
                    .iter()
                    .filter(|change| matches!(change.key[0], b'c' | b'l'));
                written += kinds
                    .map(|change| change.value.as_ref().map_or(0, |value| value.len()))
                    .sum::<usize>();
            }
        }
        quarters.push(written);
    }
    let (early, late) = (quarters[0] + quarters[1], quarters[2] + quarters[3]);
    assert!(early > 0 && late * 2 <= early * 3, "{quarters:?}");
}

#[test]
fn unsent_edits_are_in_no_snapshot() {
    for kind in KINDS {
        let mut sim = sim(kind);
        sim.peers[1].insert(0, "unsent ");
        sim.snapshot(1);
        sim.settle();
        assert_eq!(sim.judge(0), Some(Judgement::Match));
        sim.settle();
        sim.assert_converged();
        assert!(sim.peers[0].text().contains("unsent "));
        sim.assert_no_findings();
    }
}

/// A device was away while the service dropped the records that it lacks: it goes on from the active snapshot, keeps its unsent edits, and
/// the leaves in between show that the log is still the same.
#[test]
fn a_device_left_behind_goes_on_from_a_snapshot() {
    for honest in [true, false] {
        let mut sim = sim(CrdtKind::Yjs);
        sim.disconnect(2);
        sim.peers[2].insert(0, "offline ");
        let from = sim.peers[2].doc.size();
        for _ in 0..5 {
            sim.peers[1].insert(0, "x");
            sim.settle_but(2);
        }
        sim.snapshot(1);
        sim.settle_but(2);
        sim.judge(0);
        sim.settle_but(2);
        // The service has only leaves for what the snapshot covers.
        let author = sim.peers[2].author(&sim.world);
        let covered = sim.service.covered();
        let opened = sim.service.opened(author, Some(from));
        sim.opened(2, &opened);
        let leaf = |seq: u64| DeliveredRecord::Leaf(sim.service.leaf(seq));
        let mut leaves: Vec<DeliveredRecord> = (from..covered).map(leaf).collect();
        let only = leaves[..1].to_vec();
        let outcome = sim.with(2, |doc, ctx, _| doc.deliver(ctx, from, only).unwrap());
        assert_eq!(outcome.blocked, Some((from, Blocked::Base)));
        let opened = sim.service.opened(author, None);
        sim.peers[2].online = true;
        let outcome = sim.opened(2, &opened);
        assert_eq!(
            outcome.gap,
            Some((from + 1, covered)),
            "what is here already is used"
        );
        if !honest {
            leaves[1] = DeliveredRecord::Leaf(Hash([4; 32]));
        }
        let outcome = sim.with(2, |doc, ctx, _| doc.deliver(ctx, from, leaves).unwrap());
        if !honest {
            assert_eq!(outcome.findings[0].fault, Fault::Fork);
            assert!(sim.peers[2].text().contains("offline"));
            continue;
        }
        let tail = (covered..sim.service.size())
            .map(|seq| sim.service.whole(seq))
            .collect();
        sim.with(2, |doc, ctx, _| doc.deliver(ctx, covered, tail).unwrap());
        sim.settle();
        sim.assert_converged();
        sim.assert_no_findings();
        assert_eq!(sim.peers[0].text().matches("offline ").count(), 1);
        sim.peers[2].store();
        sim.restart(2);
        sim.connect(2);
        sim.settle();
        sim.assert_converged();
    }
}

/// Own records that are in the snapshot are not sent again.
#[test]
fn own_records_that_a_snapshot_covers_are_adopted() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.peers[2].insert(0, "in flight ");
    sim.send(2, 10_000);
    sim.disconnect(2);
    sim.peers[2].insert(0, "later ");
    let from = sim.peers[2].doc.size();
    sim.settle_but(2);
    sim.snapshot(1);
    sim.settle_but(2);
    let author = sim.peers[2].author(&sim.world);
    let opened = sim.service.opened(author, None);
    let covered = sim.service.covered();
    sim.peers[2].online = true;
    let outcome = sim.opened(2, &opened);
    assert_eq!(outcome.gap, Some((from, covered)));
    let leaves = (from..covered)
        .map(|seq| DeliveredRecord::Leaf(sim.service.leaf(seq)))
        .collect();
    let outcome = sim.with(2, |doc, ctx, _| doc.deliver(ctx, from, leaves).unwrap());
    assert_eq!(
        (outcome.acknowledged, sim.peers[2].doc.pending_count()),
        (1, 1)
    );
    let tail = (covered..sim.service.size())
        .map(|seq| sim.service.whole(seq))
        .collect();
    sim.with(2, |doc, ctx, _| doc.deliver(ctx, covered, tail).unwrap());
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
    let text = sim.peers[0].text();
    assert_eq!(
        (
            text.matches("in flight ").count(),
            text.matches("later ").count()
        ),
        (1, 1)
    );
}

#[test]
fn bad_bases_are_refused() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.snapshot(1);
    sim.settle();
    let author = Author {
        device: sim.world.devices[0],
        instance: instance(150),
    };
    let good = sim.service.opened(author, None);
    let keys = Keys::default();
    let ctx = sim.world.ctx(0, 0, &keys);
    let mut rng = sim.peers[0].rng.clone();
    let mut open_with = |opened: &conclave_proto::frame::OpenedDocument, document: DocumentId| {
        Document::open_remote(&ctx, opened, GROUP, document, instance(150), &mut rng).map(|_| ())
    };
    assert_eq!(open_with(&good, DOC), Ok(()));
    let other = open_with(&good, DocumentId([1; 16]));
    assert_eq!(
        other,
        Err(DocError::BadRecord {
            fault: RecordFault::WrongDocument
        })
    );
    let mut none = good.clone();
    none.base = None;
    assert_eq!(open_with(&none, DOC), Err(DocError::Protocol));
    let mut early = good.clone();
    early.base.as_mut().unwrap().seq = 1;
    assert_eq!(
        open_with(&early, DOC),
        Err(DocError::BadRecord {
            fault: RecordFault::Covered
        })
    );
    let mut garbled = good.clone();
    garbled.base.as_mut().unwrap().record.sealed.signature[0] ^= 1;
    assert_eq!(
        open_with(&garbled, DOC),
        Err(DocError::BadRecord {
            fault: RecordFault::Signature
        })
    );
    let mut future = good.clone();
    future.base.as_mut().unwrap().record.header.epoch = 9;
    assert_eq!(
        open_with(&future, DOC),
        Err(DocError::FutureEpoch { epoch: 9 })
    );
    let mut update = good.clone();
    update.base.as_mut().unwrap().record = sim.service.record(1);
    assert_eq!(
        open_with(&update, DOC),
        Err(DocError::BadRecord {
            fault: RecordFault::Malformed
        })
    );
}

#[test]
fn an_admins_entry_voids_a_record_that_nobody_can_open() {
    let mut sim = sim(CrdtKind::Yjs);
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[0].keys.withheld.insert(1);
    let update = sim.update(CrdtKind::Yjs, 9, "lost");
    let record = sim.forge(2, &update, |_| {});
    let seq = sim.order(vec![record.clone()], None);
    sim.receive(0);
    sim.receive(0);
    assert_eq!(sim.peers[0].last.needs_root, Some(1));
    sim.world.states[1].voided.push(declared(record.leaf()));
    let outcome = sim.with(0, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert_eq!((outcome.blocked, outcome.changes.len()), (None, 0));
    assert_eq!(sim.peers[0].doc.size(), seq + 1);
}

/// Long logs: checkpoints are written, the tail in the store stays bounded, and a restart gives the same document.
#[test]
fn checkpoints_bound_what_is_stored() {
    let mut sim = Sim::new(
        CrdtKind::Yjs,
        &[(1, Role::Owner), (2, Role::Editor)],
        "hello",
    );
    sim.settle();
    for round in 0..12 {
        for _ in 0..500 {
            sim.peers[1].insert(0, "ab");
        }
        sim.settle();
        sim.peers.iter_mut().for_each(Peer::store);
        if round == 6 {
            sim.snapshot(1);
        }
    }
    sim.assert_converged();
    for at in 0..2 {
        let segments = sim.peers[at].rows.iter().filter(|(key, _)| key[0] == b'k');
        let sizes: Vec<usize> = segments.map(|(_, value)| value.len()).collect();
        assert!(
            sizes.iter().all(|size| *size <= 64 * 1024 + 1024),
            "{sizes:?}"
        );
        assert!(sizes.iter().sum::<usize>() < 6000 * 700);
        let (digest, head) = (sim.peers[at].digest(), sim.peers[at].doc.head());
        sim.restart(at);
        assert_eq!(
            (sim.peers[at].digest(), sim.peers[at].doc.head()),
            (digest, head)
        );
        sim.connect(at);
    }
    sim.peers[0].insert(0, "end");
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
}

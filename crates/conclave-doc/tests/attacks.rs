//! Each lie of a member or of the service, from the attacker's side: who notices, whom the finding names, and that the document goes on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::CrdtKind;
use conclave_doc::*;
use conclave_proto::codec::{decode, encode};
use conclave_proto::frame::DeliveredRecord;
use conclave_proto::merkle::Head;
use conclave_proto::record::{Chained, Record, RecordBody};
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const ROLES: [(u8, Role); 4] = [
    (1, Role::Owner),
    (2, Role::Editor),
    (3, Role::Editor),
    (4, Role::Viewer),
];
const MALLORY: usize = 2;
const VIEWER: usize = 3;

fn sim() -> Sim {
    let mut sim = Sim::new(CrdtKind::Yjs, &ROLES, "hello");
    sim.peers[1].insert(5, " world");
    sim.settle();
    sim.assert_no_findings();
    sim
}

fn author_of(sim: &Sim, member: usize) -> Author {
    Author {
        device: sim.world.devices[member],
        instance: instance(200 + member as u8),
    }
}

/// Orders a bad record; all honest members refuse it alike, say so, and take the next honest edit.
fn refused(
    mut sim: Sim,
    record: Record,
    fault: RecordFault,
    author: Option<Author>,
    service: bool,
) -> Sim {
    let before = sim.peers[0].text();
    let seq = sim.order(vec![record], None);
    sim.settle();
    let expected = Finding {
        seq,
        fault: Fault::Record(fault),
        suspect: Suspect { author, service },
    };
    for peer in &mut sim.peers {
        assert_eq!(peer.findings, vec![expected], "member {}", peer.member);
        assert_eq!(peer.text(), before);
    }
    sim.peers[1].insert(0, "still: ");
    sim.settle();
    for peer in &mut sim.peers {
        assert_eq!(peer.findings.len(), 1);
    }
    assert_eq!(sim.peers[0].text(), format!("still: {before}"));
    sim.assert_converged();
    sim
}

#[test]
fn a_record_for_another_document_is_refused() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    let record = sim.forge(MALLORY, &update, |header| {
        header.document = DocumentId([66; 16])
    });
    let author = author_of(&sim, MALLORY);
    let sim = refused(sim, record, RecordFault::WrongDocument, Some(author), true);
    let update = {
        let mut sim = sim;
        sim.update(CrdtKind::Yjs, 9, "evil")
    };
    let other = self::sim();
    let record = other.forge(MALLORY, &update, |header| header.group = GroupId([66; 16]));
    refused(
        other,
        record,
        RecordFault::WrongDocument,
        Some(author),
        true,
    );
}

#[test]
fn other_versions_and_kinds_are_refused() {
    let author = author_of(&sim(), MALLORY);
    let record = sim().forge(MALLORY, b"", |header| header.version = 2);
    refused(sim(), record, RecordFault::Malformed, Some(author), true);
    let record = sim().forge(MALLORY, b"", |header| {
        header.body = RecordBody::Presence {
            session: SessionId([1; 16]),
        }
    });
    refused(sim(), record, RecordFault::Malformed, Some(author), true);
}

#[test]
fn a_replayed_record_is_refused() {
    let sim = sim();
    let seq = sim.service.size() - 1;
    let record = sim.service.record(seq);
    let author = record.header.author;
    refused_chainless(sim, record, RecordFault::Replayed, Some(author));
}

/// As `refused`, for records that are no link of a chain: the service knows that, and sends them whole.
fn refused_chainless(mut sim: Sim, record: Record, fault: RecordFault, author: Option<Author>) {
    let seq = sim.order(vec![record], None);
    let expected = Finding {
        seq,
        fault: Fault::Record(fault),
        suspect: Suspect {
            author,
            service: true,
        },
    };
    for at in 0..sim.peers.len() {
        sim.peers[at].inbox.clear();
        sim.fetch(at, seq, seq + 1);
        assert_eq!(sim.peers[at].findings, vec![expected]);
    }
    sim.peers[1].insert(0, "on ");
    sim.settle();
    sim.assert_converged();
    assert!(sim.peers[0].text().starts_with("on "));
}

#[test]
fn clock_gaps_and_wrong_predecessors_are_refused() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    let author = author_of(&sim, MALLORY);
    let record = sim.forge(MALLORY, &update, |header| {
        header.body = RecordBody::Update(Chained {
            clock: 1,
            prev: Hash([1; 32]),
        });
    });
    refused_chainless(sim, record, RecordFault::Gap, Some(author));
    let sim = self::sim();
    let record = sim.forge(MALLORY, &update, |header| {
        header.body = RecordBody::Update(Chained {
            clock: 0,
            prev: Hash([1; 32]),
        });
    });
    refused_chainless(sim, record, RecordFault::Prev, Some(author));
}

#[test]
fn an_epoch_never_falls() {
    let mut sim = sim();
    sim.world.rekey();
    sim.advance_epochs();
    sim.peers[1].insert(0, "new epoch ");
    sim.settle();
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    let record = sim.forge(MALLORY, &update, |header| header.epoch = 0);
    let author = author_of(&sim, MALLORY);
    refused(sim, record, RecordFault::EpochDecreased, Some(author), true);
}

#[test]
fn a_viewer_cannot_write() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    let record = sim.forge(VIEWER, &update, |_| {});
    let author = author_of(&sim, VIEWER);
    let mut sim = refused(sim, record, RecordFault::Role, Some(author), true);
    // Nor does the viewer's own device send what its user typed.
    sim.peers[VIEWER].insert(0, "typed");
    assert!(!sim.send(VIEWER, 10_000));
    assert_eq!(sim.peers[VIEWER].doc.pending_count(), 1);
}

#[test]
fn a_removed_device_is_not_a_member_any_more() {
    let mut sim = sim();
    sim.world.remove(MALLORY);
    sim.advance_epochs();
    sim.disconnect(MALLORY);
    sim.peers.remove(MALLORY);
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    // It cannot have the new epoch's key; even with it, the roster refuses. Without a row there is no key to verify with.
    let record = sim.forge(MALLORY, &update, |_| {});
    refused(sim, record, RecordFault::NotMember, None, true);
}

#[test]
fn a_wrong_seen_head_is_refused_and_the_chain_goes_on() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    let size = sim.service.size();
    let record = sim.forge(MALLORY, &update, |header| {
        header.seen = Head {
            size,
            root: Hash([9; 32]),
        }
    });
    let author = author_of(&sim, MALLORY);
    let seq = sim.order(vec![record], None);
    // Elided, the record does not verify: the root that was filled in is not the one signed.
    sim.receive(0);
    let elided = vec![sim.service.deliver(seq)];
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, seq, elided).unwrap());
    assert!(
        matches!(outcome.blocked, Some((at, Blocked::Whole { first_seq, .. })) if at == seq && first_seq == seq)
    );
    assert_eq!(
        outcome.findings[0].fault,
        Fault::Record(RecordFault::SeenHead)
    );
    assert_eq!(outcome.findings[0].suspect, Suspect::SERVICE);
    // What it really says is refused by all; the next record of that author names it and is accepted.
    for at in 0..sim.peers.len() {
        sim.peers[at].inbox.clear();
        sim.peers[at].findings.clear();
        sim.peers[at].doc.new_author(author);
        sim.fetch(at, seq, seq + 1);
        let suspect = Suspect {
            author: Some(author),
            service: true,
        };
        let expected = Finding {
            seq,
            fault: Fault::Record(RecordFault::SeenHead),
            suspect,
        };
        assert_eq!(sim.peers[at].findings, vec![expected]);
    }
    let good = sim.update(CrdtKind::Yjs, 10, "good ");
    let record = sim.forge(MALLORY, &good, |_| {});
    sim.order(vec![record], None);
    for at in 0..sim.peers.len() {
        sim.peers[at].inbox.clear();
        sim.fetch(at, seq + 1, seq + 2);
    }
    sim.assert_converged();
    assert!(sim.peers[0].text().contains("good "));
}

#[test]
fn a_seen_head_past_its_own_position_is_refused() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    let size = sim.service.size();
    let record = sim.forge(MALLORY, &update, |header| {
        header.seen = Head {
            size: size + 1,
            root: Hash([9; 32]),
        }
    });
    let author = author_of(&sim, MALLORY);
    let seq = sim.service.force(record.clone());
    let whole = vec![DeliveredRecord::Whole {
        record,
        proof: vec![],
    }];
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, seq, whole).unwrap());
    let suspect = Suspect {
        author: Some(author),
        service: true,
    };
    assert_eq!(
        outcome.findings,
        vec![Finding {
            seq,
            fault: Fault::Record(RecordFault::SeenHead),
            suspect
        }]
    );
}

/// Sealed with keys that are not the epoch's: the AEAD of the attacker's own key would open it, the commitment does not.
#[test]
fn a_ciphertext_under_another_key_does_not_open() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "evil");
    let author = author_of(&sim, MALLORY);
    let header = sim.forge(MALLORY, &update, |_| {}).header;
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let epoch_root = root(0);
    let (content, commit) = (epoch_root.content_key(&DOC), epoch_root.commit_key(&DOC));
    let signer = &sim.world.keys[MALLORY];
    let other_commitment = DocKeys::from_bytes(*content.as_bytes(), [3; 32]);
    let record = seal(&header, &update, &other_commitment, signer, 1, &mut rng);
    refused(
        self::sim(),
        record,
        RecordFault::Commitment,
        Some(author),
        false,
    );
    // The same ciphertext, committed to rightly, but sealed under another content key.
    let other_content = DocKeys::from_bytes([3; 32], *commit.as_bytes());
    let record = seal(&header, &update, &other_content, signer, 1, &mut rng);
    refused(self::sim(), record, RecordFault::Open, Some(author), false);
}

#[test]
fn content_that_is_no_update_is_refused() {
    let sim = sim();
    let record = sim.forge(MALLORY, b"\xff\xff\xff nonsense", |_| {});
    let author = author_of(&sim, MALLORY);
    refused(sim, record, RecordFault::Content, Some(author), false);
    let sim = self::sim();
    let nonsense = [&[VERDICT_VERSION][..], b"\xff nonsense"].concat();
    let record = sim.forge(VIEWER, &nonsense, |header| {
        header.body = RecordBody::Verdict(header.body.chained().unwrap());
    });
    let author = author_of(&sim, VIEWER);
    refused(sim, record, RecordFault::Content, Some(author), false);
}

#[test]
fn a_replica_id_belongs_to_the_device_that_introduced_it() {
    let mut sim = sim();
    let replica = sim.peers[1].doc.crdt().replica().clone();
    assert_eq!(
        sim.peers[0].doc.owner_of(&replica),
        Some(sim.world.devices[1])
    );
    let mut crdt = conclave_crdt::create(CrdtKind::Yjs, replica).unwrap();
    crdt.text().unwrap().splice(0, 0, "stolen").unwrap();
    let mut stolen = Vec::new();
    crdt.take_pending(&mut stolen).unwrap();
    let record = sim.forge(MALLORY, &stolen[0], |_| {});
    let author = author_of(&sim, MALLORY);
    refused(sim, record, RecordFault::Replica, Some(author), false);
}

/// Ids that came in with a document of another program belong to the device that brought it in: nobody else writes on under them, nor
/// again from their first counter.
#[test]
fn replica_ids_of_an_imported_document_belong_to_who_brought_it_in() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let replica = conclave_crdt::ReplicaId::for_kind(kind, [44; 16]);
        let mut foreign = conclave_crdt::create(kind, replica.clone()).unwrap();
        foreign.text().unwrap().splice(0, 0, "brought in").unwrap();
        let exported = foreign.export().unwrap();
        let state = conclave_crdt::recognise(&exported).unwrap().unwrap().state;
        let imported = || {
            let mut sim = Sim::imported(kind, &ROLES, &state);
            sim.settle();
            sim
        };
        let mut sim = imported();
        for peer in 0..2 {
            assert_eq!(sim.peers[peer].text(), "brought in", "{kind}");
            let owner = sim.peers[peer].doc.owner_of(&replica);
            assert_eq!(owner, Some(sim.world.devices[0]), "{kind}");
        }
        // Everybody goes on under ids of their own.
        sim.peers[1].insert(0, "now ");
        sim.settle();
        assert_eq!(sim.peers[0].text(), "now brought in", "{kind}");

        foreign.take_pending(&mut Vec::new()).unwrap();
        foreign.text().unwrap().splice(0, 0, "stolen ").unwrap();
        let mut on = Vec::new();
        foreign.take_pending(&mut on).unwrap();
        let mut again = conclave_crdt::create(kind, replica).unwrap();
        again.text().unwrap().splice(0, 0, "other").unwrap();
        again.take_pending(&mut on).unwrap();
        for update in on {
            let sim = imported();
            let record = sim.forge(MALLORY, &update, |_| {});
            let author = author_of(&sim, MALLORY);
            refused(sim, record, RecordFault::Replica, Some(author), false);
        }
    }
}

#[test]
fn operations_begin_at_the_next_counter() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let replica = conclave_crdt::ReplicaId::for_kind(kind, [44; 16]);
        let mut crdt = conclave_crdt::create(kind, replica).unwrap();
        let mut updates = Vec::new();
        for text in ["one", "two"] {
            crdt.text().unwrap().splice(0, 0, text).unwrap();
            crdt.take_pending(&mut updates).unwrap();
        }
        let mut sim = Sim::new(kind, &ROLES, "hello");
        sim.settle();
        let record = sim.forge(MALLORY, &updates[1], |_| {});
        let author = author_of(&sim, MALLORY);
        refused(sim, record, RecordFault::Replica, Some(author), false);
    }
}

/// The same operations again are nothing; so is other content in their name, at every member alike.
#[test]
fn known_counters_have_no_effect() {
    for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
        let mut sim = Sim::new(kind, &ROLES, "hello");
        let first = sim.update(kind, 9, "first");
        let other = sim.update(kind, 9, "other");
        for update in [&first, &first, &other] {
            let record = sim.forge(MALLORY, update, |_| {});
            sim.order(vec![record], None);
        }
        sim.settle();
        sim.assert_converged();
        sim.assert_no_findings();
        assert_eq!(sim.peers[0].changes.len(), 1);
        assert!(sim.peers[0].text().contains("first"));
        // They may not bring anything new along.
        let replica = conclave_crdt::ReplicaId::for_kind(kind, [9; 16]);
        let mut crdt = conclave_crdt::create(kind, replica).unwrap();
        crdt.text().unwrap().splice(0, 0, "first and more").unwrap();
        let mut longer = Vec::new();
        crdt.take_pending(&mut longer).unwrap();
        if kind == CrdtKind::Yjs {
            let record = sim.forge(MALLORY, &longer[0], |_| {});
            let author = author_of(&sim, MALLORY);
            refused(sim, record, RecordFault::Replica, Some(author), false);
        }
    }
}

/// All members leave out the same update, whether it came alone or among others, and also when they read the log again.
#[test]
fn an_update_that_the_engine_cannot_stand_is_left_out_alone() {
    let kind = CrdtKind::Automerge;
    let mut sim = Sim::new(kind, &ROLES, "hello");
    sim.settle();
    sim.peers[0].insert(0, "unsent ");
    let updates = [
        sim.update(kind, 9, "first "),
        poison(10),
        sim.update(kind, 11, "good "),
    ];
    let first_seq = sim.service.size();
    for update in &updates {
        let record = sim.forge(MALLORY, update, |_| {});
        sim.service.force(record);
    }
    let whole: Vec<_> = (first_seq..first_seq + 3)
        .map(|seq| sim.service.whole(seq))
        .collect();
    let at_once = sim.with(0, |doc, ctx, _| {
        doc.deliver(ctx, first_seq, whole.clone()).unwrap()
    });
    for (at, record) in whole.into_iter().enumerate() {
        sim.with(1, |doc, ctx, _| {
            doc.deliver(ctx, first_seq + at as u64, vec![record])
                .unwrap()
        });
    }
    let suspect = Suspect::author(author_of(&sim, MALLORY));
    let expected = vec![Finding {
        seq: first_seq + 1,
        fault: Fault::Record(RecordFault::Content),
        suspect,
    }];
    assert_eq!(at_once.findings, expected);
    assert_eq!(sim.peers[1].findings, expected);
    assert_eq!(at_once.changes.len(), 2);
    sim.send(0, 10_000);
    for at in [2, 3] {
        let records = (first_seq..sim.service.size())
            .map(|seq| sim.service.whole(seq))
            .collect();
        sim.peers[at].inbox.clear();
        sim.with(at, |doc, ctx, _| {
            doc.deliver(ctx, first_seq, records).unwrap()
        });
    }
    sim.settle();
    sim.assert_converged();
    let text = sim.peers[0].text();
    assert!(
        text.contains("first ") && text.contains("good ") && text.contains("unsent "),
        "{text}"
    );
    let digest = sim.peers[0].digest();
    sim.peers[0].store();
    sim.restart(0);
    assert_eq!(sim.peers[0].digest(), digest);
}

/// The service alters one byte of what it delivers: nothing of it is ever applied, no member is blamed, and a better copy repairs it.
#[test]
fn any_flipped_byte_is_held_back_until_a_better_copy_comes() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "fine");
    let record = sim.forge(MALLORY, &update, |_| {});
    let author = author_of(&sim, MALLORY);
    let seq = sim.service.force(record.clone());
    let honest = encode(&record);
    sim.peers[0].doc.new_author(author);
    sim.peers[0].store();
    let before = sim.peers[0].text();
    for at in 0..honest.len() {
        let mut bytes = honest.clone();
        bytes[at] ^= 1;
        let Ok(bad) = decode::<Record>("record", &bytes, 1 << 20) else {
            continue;
        };
        sim.restart(0);
        sim.connect(0);
        sim.peers[0].inbox.clear();
        sim.peers[0].findings.clear();
        let whole = vec![DeliveredRecord::Whole {
            record: bad,
            proof: vec![],
        }];
        let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, seq, whole).unwrap());
        assert!(
            outcome
                .findings
                .iter()
                .all(|finding| finding.suspect.author.is_none()),
            "byte {at}: {outcome:?}"
        );
        assert_eq!(outcome.changes, vec![], "byte {at}");
        assert_eq!(sim.peers[0].text(), before);
        match outcome.blocked {
            // Ids, roster: refused at sight. The log of this member is now another than the others'.
            None => assert!(!outcome.findings.is_empty(), "byte {at}"),
            Some((blocked, _)) => {
                assert_eq!(blocked, seq);
                sim.fetch(0, seq, seq + 1);
                assert_eq!(sim.peers[0].doc.head(), sim.service.head(), "byte {at}");
            }
        }
    }
}

#[test]
fn a_garbled_elided_record_is_asked_for_whole() {
    let mut sim = sim();
    let update = sim.update(CrdtKind::Yjs, 9, "fine");
    let record = sim.forge(MALLORY, &update, |_| {});
    let author = author_of(&sim, MALLORY);
    let seq = sim.service.force(record);
    for change in 0..6 {
        let DeliveredRecord::Update(mut elided) = sim.service.deliver(seq) else {
            panic!()
        };
        match change {
            0 => elided.author.0 = 0,
            1 => elided.epoch.0 += 1,
            2 => elided.seen_back.0 += 1,
            3 => elided.sealed.signature[5] ^= 1,
            4 => elided.sealed.nonce[5] ^= 1,
            _ => elided.author.0 = 1000,
        }
        sim.peers[0].store();
        sim.restart(0);
        sim.connect(0);
        sim.peers[0].inbox.clear();
        sim.peers[0].doc.new_author(author);
        let outcome = sim.with(0, |doc, ctx, _| {
            doc.deliver(ctx, seq, vec![DeliveredRecord::Update(elided)])
                .unwrap()
        });
        assert!(
            outcome
                .findings
                .iter()
                .all(|finding| finding.suspect == Suspect::SERVICE)
        );
        assert_eq!(outcome.blocked.unwrap().0, seq, "change {change}");
        if change == 1 {
            assert_eq!(outcome.waiting_for_epoch, Some(1));
        } else {
            assert!(matches!(outcome.blocked, Some((_, Blocked::Whole { .. }))));
        }
        let head = sim.peers[0].doc.head();
        assert_eq!(head.size, seq);
    }
    sim.fetch(0, seq, seq + 1);
    assert_eq!(sim.peers[0].doc.head(), sim.service.head());
}

/// One signature covers an author's run: a record within it that carries none of its own is confirmed by the next, and without one it
/// holds up everything after it.
#[test]
fn an_unsigned_record_waits_for_its_author_to_confirm_it() {
    let mut sim = sim();
    let author = author_of(&sim, MALLORY);
    let update = sim.update(CrdtKind::Yjs, 9, "unsigned");
    let mut unsigned = sim.forge(MALLORY, &update, |_| {});
    unsigned.sealed.signature = [0; 64];
    let seq = sim.service.force(unsigned);
    let honest = sim.update(CrdtKind::Yjs, 12, "honest");
    let record = sim.forge(1, &honest, |_| {});
    sim.service.force(record);
    let records: Vec<_> = (seq..seq + 2).map(|seq| sim.service.whole(seq)).collect();
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, seq, records).unwrap());
    assert_eq!(outcome.blocked, Some((seq, Blocked::Unverified)));
    let expected = Finding {
        seq,
        fault: Fault::Record(RecordFault::Signature),
        suspect: Suspect::SERVICE,
    };
    assert_eq!(outcome.findings, vec![expected]);
    assert_eq!(outcome.changes, vec![]);
    // It survives a restart, and is told once only.
    sim.peers[0].store();
    let again = sim.with(0, |doc, ctx, _| doc.retry(ctx).unwrap());
    assert_eq!(again.findings, vec![]);
    sim.restart(0);
    // The author's next record names it.
    let update = sim.update(CrdtKind::Yjs, 13, "signed");
    let record = sim.forge(MALLORY, &update, |_| {});
    assert_eq!(record.header.author, author);
    sim.service.force(record);
    let whole = vec![sim.service.whole(seq + 2)];
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, seq + 2, whole).unwrap());
    assert_eq!(outcome.blocked, None);
    assert_eq!(outcome.changes.len(), 3);
    assert_eq!(sim.peers[0].doc.head(), sim.service.head());
}

#[test]
fn two_records_for_one_position_are_a_fork() {
    let mut sim = sim();
    let seq = sim.service.size() - 1;
    let update = sim.update(CrdtKind::Yjs, 9, "fork");
    let other = sim.forge(MALLORY, &update, |_| {});
    for record in [
        DeliveredRecord::Whole {
            record: other,
            proof: vec![],
        },
        DeliveredRecord::Leaf(Hash([1; 32])),
    ] {
        let outcome = sim.with(0, |doc, ctx, _| {
            doc.deliver(ctx, seq, vec![record]).unwrap()
        });
        assert_eq!(
            outcome.findings,
            vec![Finding {
                seq,
                fault: Fault::Fork,
                suspect: Suspect::SERVICE
            }]
        );
    }
    let same = sim.service.whole(seq);
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, seq, vec![same]).unwrap());
    assert_eq!(outcome, DeliverOutcome::default());
}

#[test]
fn a_service_that_forgets_or_forks_is_noticed_on_reconnecting() {
    let mut sim = sim();
    let author = sim.peers[0].author(&sim.world);
    let good = sim.service.opened(author, Some(sim.service.size()));
    let mut shorter = good.clone();
    shorter.signed.head = sim.service.head_at(sim.service.size() - 1);
    let outcome = sim.opened(0, &shorter);
    assert_eq!(outcome.findings[0].fault, Fault::Rollback);
    sim.peers[0].insert(0, "kept");
    assert!(
        !sim.send(0, 1000),
        "nothing is sent to a service that has lost records"
    );
    let mut other = good.clone();
    other.signed.head.root = Hash([3; 32]);
    let outcome = sim.opened(0, &other);
    assert_eq!(outcome.findings[0].fault, Fault::Fork);
    let mut longer = good.clone();
    longer.signed.head = Head {
        size: good.signed.head.size + 1,
        root: Hash([3; 32]),
    };
    sim.opened(0, &longer);
    let update = sim.update(CrdtKind::Yjs, 9, "next");
    let record = sim.forge(MALLORY, &update, |_| {});
    let seq = sim.service.force(record);
    let whole = vec![sim.service.whole(seq)];
    let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, seq, whole).unwrap());
    assert_eq!(
        outcome.findings[0].fault,
        Fault::Fork,
        "the announced head was another"
    );
}

#[test]
fn a_closed_instance_writes_no_more() {
    let mut sim = sim();
    let old = sim.update(CrdtKind::Yjs, 9, "old life");
    let record = sim.forge(MALLORY, &old, |_| {});
    sim.order(vec![record], None);
    let device = sim.world.devices[MALLORY];
    let reborn = Author {
        device,
        instance: instance(99),
    };
    let new = sim.update(CrdtKind::Yjs, 10, "new life");
    let record = sim.forge(MALLORY, &new, |header| {
        header.author = reborn;
        header.body = RecordBody::Update(Chained {
            clock: 0,
            prev: Hash::ZERO,
        });
    });
    sim.order(vec![record], None);
    sim.settle();
    sim.assert_no_findings();
    let late = sim.update(CrdtKind::Yjs, 11, "late");
    let record = sim.forge(MALLORY, &late, |_| {});
    let author = author_of(&sim, MALLORY);
    refused(sim, record, RecordFault::InstanceClosed, Some(author), true);
}

//! What a service hands to whoever opens a document, or comes back to it, is judged as what comes live, whatever of it is a lie.

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
use conclave_proto::frame::{DeliveredRecord, OpenedDocument};
use conclave_proto::merkle::Head;
use conclave_proto::record::{Chained, Record, RecordBody, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

const KIND: CrdtKind = CrdtKind::Yjs;
const ROLES: [(u8, Role); 5] = [
    (1, Role::Owner),
    (2, Role::Editor),
    (3, Role::Editor),
    (4, Role::Viewer),
    (5, Role::Editor),
];
const WRITER: usize = 1;
const MALLORY: usize = 2;
const VIEWER: usize = 3;
const GONE: usize = 4;

fn sim() -> Sim {
    let mut sim = Sim::new(KIND, &ROLES, "hello");
    sim.peers[WRITER].insert(5, " world");
    sim.settle();
    sim.assert_no_findings();
    sim
}

/// Who is added to the group, and has opened nothing yet.
fn add(sim: &mut Sim, user: u8) -> usize {
    let newcomer = sim.world.add(user, Role::Editor);
    sim.advance_epochs();
    newcomer
}

/// A record of a life of its own, so that it stands in no other's chain.
fn lone(
    sim: &Sim,
    member: usize,
    life: u8,
    payload: &[u8],
    change: impl FnOnce(&mut RecordHeader),
) -> Record {
    sim.forge(member, payload, |header| {
        header.author.instance = instance(life);
        header.body = RecordBody::Update(Chained {
            clock: 0,
            prev: Hash::ZERO,
        });
        change(header);
    })
}

/// One of each kind that every reader has to refuse, with why.
fn bad_records(sim: &mut Sim) -> Vec<(Record, RecordFault)> {
    let update = sim.update(KIND, 9, "evil");
    let wrong = Hash([1; 32]);
    let mut bad = vec![
        (
            lone(sim, MALLORY, 100, &update, |header| {
                header.document = DocumentId([66; 16]);
            }),
            RecordFault::WrongDocument,
        ),
        (
            lone(sim, MALLORY, 101, &update, |header| {
                header.group = GroupId([66; 16]);
            }),
            RecordFault::WrongDocument,
        ),
        (
            lone(sim, MALLORY, 102, &update, |header| header.version = 2),
            RecordFault::Malformed,
        ),
        (
            lone(sim, MALLORY, 103, &update, |header| header.epoch = 0),
            RecordFault::EpochDecreased,
        ),
        (lone(sim, VIEWER, 104, &update, |_| {}), RecordFault::Role),
        (
            lone(sim, GONE, 105, &update, |_| {}),
            RecordFault::NotMember,
        ),
        (
            lone(sim, MALLORY, 106, &update, |header| {
                header.body = RecordBody::Update(Chained {
                    clock: 1,
                    prev: wrong,
                });
            }),
            RecordFault::Gap,
        ),
        (
            lone(sim, MALLORY, 107, &update, |header| {
                header.body = RecordBody::Update(Chained {
                    clock: 0,
                    prev: wrong,
                });
            }),
            RecordFault::Prev,
        ),
        (
            lone(sim, MALLORY, 108, &update, |header| {
                header.seen.root = wrong;
            }),
            RecordFault::SeenHead,
        ),
        (
            lone(sim, MALLORY, 109, b"\xff\xff\xff nonsense", |_| {}),
            RecordFault::Content,
        ),
    ];
    // Under keys that are not the epoch's.
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let epoch_root = root(sim.world.epoch());
    let (content, commit) = (epoch_root.content_key(&DOC), epoch_root.commit_key(&DOC));
    let signer = &sim.world.keys[MALLORY];
    for (life, keys, fault) in [
        (
            110,
            DocKeys::from_bytes(*content.as_bytes(), [3; 32]),
            RecordFault::Commitment,
        ),
        (
            111,
            DocKeys::from_bytes([3; 32], *commit.as_bytes()),
            RecordFault::Open,
        ),
    ] {
        let header = lone(sim, MALLORY, life, &update, |_| {}).header;
        let record = seal(&header, &update, &keys, signer, 1, &mut rng);
        bad.push((record, fault));
    }
    // Under an id that is somebody else's.
    let replica = sim.peers[WRITER].doc.crdt().replica().clone();
    let mut crdt = conclave_crdt::create(KIND, replica).unwrap();
    crdt.text().unwrap().splice(0, 0, "stolen").unwrap();
    let mut stolen = Vec::new();
    crdt.take_pending(&mut stolen).unwrap();
    bad.push((
        lone(sim, MALLORY, 112, &stolen[0], |_| {}),
        RecordFault::Replica,
    ));
    // What is in the log already, and other words under a clock that is taken.
    let taken = sim.service.record(sim.service.size() - 1);
    let author = taken.header.author;
    let again = sim.forge(WRITER, &update, |header| {
        header.author = author;
        header.body = taken.header.body;
    });
    bad.push((taken, RecordFault::Replayed));
    bad.push((again, RecordFault::Replayed));
    bad
}

#[test]
fn who_opens_a_document_refuses_what_those_who_were_there_refused() {
    let mut sim = sim();
    sim.world.remove(GONE);
    sim.advance_epochs();
    sim.peers.remove(GONE);
    // Mallory's own program takes no part.
    sim.peers.remove(MALLORY);
    sim.peers[WRITER].insert(0, "new epoch ");
    sim.settle();
    let before = sim.peers[0].text();
    let bad = bad_records(&mut sim);
    let mut expected = Vec::new();
    for (record, fault) in bad {
        let seq = sim.order(vec![record], None);
        expected.push((seq, Fault::Record(fault)));
        for at in 0..sim.peers.len() {
            sim.peers[at].inbox.clear();
            sim.fetch(at, seq, seq + 1);
        }
    }
    let newcomer = add(&mut sim, 9);
    let newcomer = sim.join(newcomer);
    let whole = sim.peers[newcomer].doc.size();
    sim.peers[newcomer].inbox.clear();
    sim.fetch(newcomer, whole, sim.service.size());
    for peer in &mut sim.peers {
        let found = peer.findings.iter().map(|it| (it.seq, it.fault));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{}", peer.member);
        assert_eq!(peer.text(), before, "{}", peer.member);
    }
    assert_eq!(sim.peers[0].findings, sim.peers[newcomer].findings);
    // It goes on, for all of them.
    for at in 0..sim.peers.len() {
        sim.connect(at);
    }
    for at in [WRITER, newcomer] {
        sim.peers[at].insert(0, "on ");
    }
    sim.settle();
    sim.assert_converged();
    assert_eq!(sim.peers[0].text(), format!("on on {before}"));
    for peer in &sim.peers {
        assert_eq!(peer.findings.len(), expected.len(), "{}", peer.member);
    }
}

/// The service alters what it delivers: what came before counts, nothing that comes after is lost, and the document is read and edited meanwhile.
#[test]
fn where_one_of_three_is_garbled_what_is_before_it_counts_and_the_rest_is_fetched() {
    for (live, bad) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        let mut sim = sim();
        let first = sim.service.size();
        for text in ["one ", "two ", "three "] {
            sim.peers[WRITER].insert(0, text);
            assert!(sim.send(WRITER, 10_000));
            while sim.receive(WRITER) {}
        }
        let (reader, from) = if live {
            (0, first)
        } else {
            let newcomer = add(&mut sim, 9);
            let at = sim.join(newcomer);
            (at, sim.peers[at].doc.size())
        };
        let author = sim.peers[WRITER].author(&sim.world);
        sim.peers[reader].doc.new_author(author);
        sim.peers[reader].inbox.clear();
        let records = (from..first + 3).map(|seq| {
            let mut delivered = sim.service.deliver(seq);
            if seq == first + bad {
                let DeliveredRecord::Update(elided) = &mut delivered else {
                    panic!("{delivered:?}")
                };
                let mut bytes = elided.sealed.ciphertext.as_slice().to_vec();
                bytes[0] ^= 1;
                elided.sealed.ciphertext = bytes.into();
            }
            delivered
        });
        let records = records.collect();
        let outcome = sim.with(reader, |doc, ctx, _| {
            doc.deliver(ctx, from, records).unwrap()
        });
        let before = ["", "one "][usize::try_from(bad).unwrap()];
        assert_eq!(sim.peers[reader].text(), format!("{before}hello world"));
        let blames = |it: &Finding| it.suspect.author.is_some();
        assert!(!outcome.findings.iter().any(blames), "{outcome:?}");
        let Some((at, Blocked::Whole { first_seq, count })) = outcome.blocked else {
            panic!("{outcome:?}")
        };
        assert_eq!((at, first_seq), (first + bad, first + bad));
        // It is no worse for whoever uses the document, nor after a restart.
        sim.peers[reader].insert(0, "meanwhile ");
        sim.peers[reader].store();
        sim.restart(reader);
        let text = format!("meanwhile {before}hello world");
        assert_eq!(sim.peers[reader].text(), text);
        sim.connect(reader);
        sim.peers[reader].inbox.clear();
        sim.fetch(reader, first_seq, first_seq + u64::from(count));
        let text = sim.peers[reader].text();
        for word in ["three ", "two ", "one ", "meanwhile ", "hello world"] {
            assert_eq!(text.matches(word).count(), 1, "{text}");
        }
        sim.settle();
        sim.assert_converged();
    }
}

/// A service shows what is here already once more, from its snapshot on, and one record that is new.
#[test]
fn the_same_snapshot_again_with_one_more_update_brings_the_update() {
    let mut sim = sim();
    sim.snapshot(WRITER);
    sim.peers[WRITER].insert(0, "after ");
    sim.settle();
    sim.disconnect(0);
    sim.peers[0].insert(0, "offline ");
    sim.peers[WRITER].insert(0, "more ");
    sim.settle_but(0);
    let changes = sim.peers[0].changes.len();
    sim.rejoin(0);
    while sim.receive(0) {}
    assert_eq!(sim.peers[0].changes.len(), changes + 1);
    assert_eq!(sim.peers[0].doc.basis(), Basis::Checked, "not begun anew");
    assert_eq!(sim.peers[0].doc.pending_count(), 1);
    sim.settle();
    sim.assert_converged();
    sim.assert_no_findings();
    let text = sim.peers[0].text();
    for part in ["offline ", "more ", "after "] {
        assert_eq!(text.matches(part).count(), 1, "{text}");
    }
}

/// A device was away while two snapshots came, and the service shows what is between by hashes only: all of it has to lead to the later one.
#[test]
fn a_snapshot_behind_another_is_followed_only_where_everything_between_is_shown() {
    type Lie = fn(&mut Vec<DeliveredRecord>, usize);
    let lies: [Option<Lie>; 4] = [
        None,
        // The one in between is another.
        Some(|leaves, at| leaves[at] = DeliveredRecord::Leaf(Hash([4; 32]))),
        // What is between is there in another order.
        Some(|leaves, at| leaves.swap(at, at + 1)),
        // The one in between is left out, and the next comes in its place.
        Some(|leaves, at| leaves[at] = leaves[at + 1].clone()),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let mut sim = sim();
        sim.disconnect(MALLORY);
        sim.peers[MALLORY].insert(0, "offline ");
        let (from, known) = (
            sim.peers[MALLORY].doc.size(),
            sim.peers[MALLORY].doc.active_snapshot(),
        );
        let mut places = Vec::new();
        for by in [WRITER, 0] {
            sim.peers[by].insert(0, "x");
            sim.settle_but(MALLORY);
            places.push(sim.snapshot(by));
            sim.settle_but(MALLORY);
            sim.peers[by].insert(0, "y");
            sim.settle_but(MALLORY);
        }
        let author = sim.peers[MALLORY].author(&sim.world);
        let opened = sim.service.opened(author, None);
        let covered = sim.service.covered();
        sim.peers[MALLORY].online = true;
        let outcome = sim.opened(MALLORY, &opened);
        assert_eq!(outcome.gap, Some((from, covered)));
        let leaves = (from..covered).map(|seq| DeliveredRecord::Leaf(sim.service.leaf(seq)));
        let mut leaves: Vec<_> = leaves.collect();
        if let Some(lie) = lie {
            lie(&mut leaves, usize::try_from(places[0] - from).unwrap());
        }
        let outcome = sim.with(MALLORY, |doc, ctx, _| {
            doc.deliver(ctx, from, leaves).unwrap()
        });
        if lie.is_some() {
            let found: Vec<_> = outcome.findings.iter().map(|it| it.fault).collect();
            assert_eq!(found, [Fault::Fork], "lie {number}");
            assert_eq!(outcome.findings[0].suspect, Suspect::SERVICE);
            assert_eq!(sim.peers[MALLORY].text(), "offline hello world");
            assert_eq!(sim.peers[MALLORY].doc.active_snapshot(), known);
            assert!(!sim.send(MALLORY, 10_000), "nothing goes to such a service");
            // From the log itself it goes on.
            sim.peers[MALLORY].findings.clear();
            sim.connect(MALLORY);
        } else {
            let tail = covered..sim.service.size();
            let tail = tail.map(|seq| sim.service.whole(seq)).collect();
            sim.with(MALLORY, |doc, ctx, _| {
                doc.deliver(ctx, covered, tail).unwrap()
            });
        }
        sim.settle();
        assert_eq!(sim.peers[MALLORY].doc.active_snapshot().1, places[1]);
        sim.assert_converged();
        sim.assert_no_findings();
        assert_eq!(sim.peers[0].text().matches("offline ").count(), 1);
    }
}

/// What a service would open a document from that gives a snapshot which is not in the log, at the place of the one that is.
fn with_another(sim: &Sim, author: Author, other: &Record) -> OpenedDocument {
    let mut opened = sim.service.opened(author, None);
    opened.base.as_mut().unwrap().record = other.clone();
    opened
}

/// A member and the service in league: a snapshot that covers what the active one covers, and is in no log.
#[test]
fn a_snapshot_that_is_not_in_the_log_is_a_fork_for_whoever_opens_it() {
    let mut sim = sim();
    sim.disconnect(GONE);
    sim.peers[GONE].insert(0, "offline ");
    let behind = sim.peers[GONE].doc.size();
    sim.peers[WRITER].insert(0, "x");
    sim.settle_but(GONE);
    let other = forge_snapshot(&mut sim, MALLORY, |_| {}, |_| {});
    let place = sim.snapshot(WRITER);
    sim.settle_but(GONE);
    sim.assert_no_findings();
    let fork = Finding {
        seq: place,
        fault: Fault::Fork,
        suspect: Suspect::SERVICE,
    };
    // One that has the log knows at once.
    let (author, text) = (sim.peers[0].author(&sim.world), sim.peers[0].text());
    let opened = with_another(&sim, author, &other);
    let outcome = sim.opened(0, &opened);
    assert_eq!(outcome.findings, [fork]);
    assert_eq!(sim.peers[0].text(), text);
    // One that was away, and one that has nothing, when the log comes to that place.
    let newcomer = add(&mut sim, 9);
    let author = sim.peers[GONE].author(&sim.world);
    let opened = with_another(&sim, author, &other);
    sim.peers[GONE].online = true;
    sim.opened(GONE, &opened);
    let leaves = behind..opened.from;
    let leaves = leaves.map(|seq| DeliveredRecord::Leaf(sim.service.leaf(seq)));
    let leaves = leaves.collect();
    sim.with(GONE, |doc, ctx, _| {
        doc.deliver(ctx, behind, leaves).unwrap()
    });
    let tail = opened.from..sim.service.size();
    let tail: Vec<_> = tail.map(|seq| sim.service.whole(seq)).collect();
    let outcome = sim.with(GONE, |doc, ctx, _| {
        doc.deliver(ctx, opened.from, tail.clone()).unwrap()
    });
    assert_eq!(outcome.findings, [fork]);
    assert_eq!(outcome.blocked, Some((place, Blocked::Unverified)));
    assert_eq!(sim.peers[GONE].doc.pending_count(), 1, "no edit is lost");

    let author = Author {
        device: sim.world.devices[newcomer],
        instance: instance(150),
    };
    let opened = with_another(&sim, author, &other);
    let keys = Keys::default();
    let ctx = sim.world.ctx(newcomer, sim.world.epoch(), &keys);
    let rng = &mut sim.peers[0].rng;
    let (mut doc, _) =
        Document::open_remote(&ctx, &opened, GROUP, DOC, author.instance, rng).unwrap();
    let outcome = doc.deliver(&ctx, opened.from, tail).unwrap();
    assert_eq!(outcome.findings, [fork]);
    assert_eq!(outcome.blocked, Some((place, Blocked::Unverified)));
    assert_eq!(
        doc.head(),
        Head {
            ..sim.service.head_at(place)
        }
    );
}

/// A snapshot as a member's key makes it, from what an honest one holds.
fn sealed(sim: &mut Sim, good: &Record, by: usize, change: impl FnOnce(&mut Record)) -> Record {
    let keys = DocKeys::derive(&root(good.header.epoch), &DOC);
    let payload = open(good, &keys).unwrap();
    let mut outer = good.clone();
    change(&mut outer);
    let rng = &mut sim.peers[0].rng;
    seal(&outer.header, &payload, &keys, &sim.world.keys[by], 1, rng)
}

/// Each lie in what a document is opened from, whoever tells it. Nothing is opened, and only what is under its author's signature names that one.
#[test]
fn nobody_opens_a_document_from_a_snapshot_that_is_wrong() {
    let mut sim = sim();
    sim.snapshot(WRITER);
    sim.settle();
    let (place, first) = (sim.service.active(), sim.service.record(0));
    let good = sim.service.record(place);
    let author = good.header.author;
    let at_fault = |fault| DocError::BadRecord { fault };
    let signed = |fault| DocError::BadSnapshot { author, fault };
    let viewer = sim.world.devices[VIEWER];
    let mut wrong = vec![
        (
            place,
            sealed(&mut sim, &good, VIEWER, |it| {
                it.header.author.device = viewer;
            }),
            at_fault(RecordFault::Role),
        ),
        (
            place,
            sealed(&mut sim, &good, MALLORY, |it| {
                it.header.author.device = DeviceId([66; 16]);
            }),
            at_fault(RecordFault::NotMember),
        ),
        (
            place,
            sealed(&mut sim, &good, MALLORY, |_| {}),
            at_fault(RecordFault::Signature),
        ),
        (
            place,
            sealed(&mut sim, &good, WRITER, |it| {
                it.header.seen.size = place + 1;
            }),
            at_fault(RecordFault::SeenHead),
        ),
        (
            0,
            sealed(&mut sim, &first, 0, |it| {
                let RecordBody::Snapshot(header) = &mut it.header.body else {
                    panic!("{it:?}")
                };
                header.parent = Hash([1; 32]);
            }),
            at_fault(RecordFault::Parent),
        ),
    ];
    // Under its author's signature.
    let keys = DocKeys::derive(&root(0), &DOC);
    let (content, commit) = (root(0).content_key(&DOC), root(0).commit_key(&DOC));
    let plain = open(&good, &keys).unwrap();
    let payload = SnapshotPayload::from_bytes(&plain).unwrap();
    let mut unloadable = payload.clone();
    unloadable.state = b"nonsense".to_vec().into();
    let mut elsewhere = payload;
    elsewhere.frontier.push(Hash([1; 32]));
    let (unloadable, elsewhere) = (unloadable.to_bytes(), elsewhere.to_bytes());
    let sealed_as: [(DocKeys, &[u8], RecordFault); 5] = [
        (
            DocKeys::from_bytes(*content.as_bytes(), [3; 32]),
            &plain,
            RecordFault::Commitment,
        ),
        (
            DocKeys::from_bytes([3; 32], *commit.as_bytes()),
            &plain,
            RecordFault::Open,
        ),
        (
            DocKeys::derive(&root(0), &DOC),
            &plain[..40],
            RecordFault::Content,
        ),
        (
            DocKeys::derive(&root(0), &DOC),
            &unloadable,
            RecordFault::Content,
        ),
        (
            DocKeys::derive(&root(0), &DOC),
            &elsewhere,
            RecordFault::Covered,
        ),
    ];
    for (keys, payload, fault) in sealed_as {
        let (key, rng) = (&sim.world.keys[WRITER], &mut sim.peers[0].rng);
        let record = seal(&good.header, payload, &keys, key, 1, rng);
        wrong.push((place, record, signed(fault)));
    }
    let newcomer = add(&mut sim, 9);
    let author = Author {
        device: sim.world.devices[newcomer],
        instance: instance(150),
    };
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let honest = sim.service.opened(author, None);
    let mut from = |opened: &OpenedDocument, held: &Keys| {
        let ctx = sim.world.ctx(newcomer, sim.world.epoch(), held);
        let opened = Document::open_remote(&ctx, opened, GROUP, DOC, author.instance, &mut rng);
        opened.map(|_| ())
    };
    for (seq, record, error) in wrong {
        let mut opened = honest.clone();
        let base = opened.base.as_mut().unwrap();
        (base.seq, base.record) = (seq, record);
        assert_eq!(from(&opened, &Keys::default()), Err(error));
    }
    let mut held = Keys::default();
    held.withheld.insert(0);
    let missing = DocError::MissingRoot { epoch: 0 };
    assert_eq!(from(&honest, &held), Err(missing));
    assert_eq!(from(&honest, &Keys::default()), Ok(()));
}

/// The service alters a snapshot that comes live, of this document or as of another: no member takes it up, and a better copy repairs it.
#[test]
fn an_altered_snapshot_is_not_taken_up() {
    let mut sim = sim();
    let known = sim.peers[0].doc.active_snapshot();
    let good = forge_snapshot(&mut sim, WRITER, |_| {}, |_| {});
    let place = sim.service.force(good.clone());
    for part in 0..2 {
        sim.peers[0].store();
        sim.restart(0);
        sim.connect(0);
        sim.peers[0].inbox.clear();
        let mut record = good.clone();
        match part {
            0 => record.sealed.signature[0] ^= 1,
            _ => record.sealed.tag[0] ^= 1,
        }
        let whole = vec![DeliveredRecord::Whole {
            record,
            proof: vec![],
        }];
        let outcome = sim.with(0, |doc, ctx, _| doc.deliver(ctx, place, whole).unwrap());
        let blames = |it: &Finding| it.suspect.author.is_some();
        assert!(!outcome.findings.iter().any(blames), "{part}: {outcome:?}");
        assert!(outcome.blocked.is_some(), "{part}: {outcome:?}");
        assert_eq!(sim.peers[0].doc.active_snapshot(), known);
        assert_eq!(sim.peers[0].doc.size(), place);
    }
    sim.peers[0].findings.clear();
    sim.fetch(0, place, place + 1);
    for at in 0..sim.peers.len() {
        sim.connect(at);
    }
    sim.settle();
    for peer in &sim.peers {
        assert_eq!(peer.doc.active_snapshot().1, place);
    }
    sim.assert_converged();
    sim.assert_no_findings();
    // One that says of itself that it is of another document, or of another group.
    for other in [true, false] {
        let record = forge_snapshot(&mut sim, WRITER, |_| {}, |_| {});
        let record = sealed(&mut sim, &record, WRITER, |it| match other {
            true => it.header.document = DocumentId([66; 16]),
            false => it.header.group = GroupId([66; 16]),
        });
        let seq = sim.order(vec![record], None);
        sim.settle();
        for peer in &mut sim.peers {
            let found = peer.findings.drain(..).map(|it| (it.seq, it.fault));
            let fault = Fault::Record(RecordFault::WrongDocument);
            assert_eq!(found.collect::<Vec<_>>(), [(seq, fault)]);
            assert_eq!(peer.doc.active_snapshot().1, place);
        }
        sim.peers[WRITER].insert(0, "on ");
        sim.settle();
        sim.assert_converged();
    }
}

//! Updates that the log has lost, carried in records of those who still held them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::*;
use conclave_crdt::{CrdtKind, ReplicaId};
use conclave_doc::*;
use conclave_proto::limits;
use conclave_proto::record::{Record, RecordBody};
use conclave_proto::refusal::RecordFault;
use conclave_proto::*;

const ROLES: [(u8, Role); 4] = [
    (1, Role::Owner),
    (2, Role::Editor),
    (3, Role::Editor),
    (4, Role::Viewer),
];
const ANA: usize = 1;
const BEN: usize = 2;
const VIEWER: usize = 3;
const KINDS: [CrdtKind; 2] = [CrdtKind::Yjs, CrdtKind::Automerge];
/// Seed of the replica id under which the lost update is written.
const SEED: u8 = 9;

fn sim(kind: CrdtKind) -> Sim {
    let mut sim = Sim::new(kind, &ROLES, "hello");
    sim.peers[ANA].insert(5, " world");
    sim.settle();
    sim.assert_no_findings();
    sim
}

/// The keys of one record.
fn keys_of(record: &Record) -> RecordKeys {
    DocKeys::derive(&root(record.header.epoch), &record.header.document)
        .of_record(&record.sealed.nonce)
}

/// As a member would carry this record.
fn wrapped(record: Record) -> CarriedPayload {
    let keys = keys_of(&record);
    CarriedPayload { record, keys }
}

/// An update of a member that is in no log.
fn lost(sim: &mut Sim, by: usize, text: &str) -> CarriedPayload {
    let update = sim.update(sim.peers[0].doc.kind(), SEED, text);
    wrapped(sim.forge(by, &update, |_| {}))
}

/// A member's record that carries another.
fn carried(sim: &Sim, by: usize, payload: &[u8]) -> Record {
    sim.forge(by, payload, |header| {
        header.body = RecordBody::Carried(header.body.chained().unwrap());
    })
}

fn carry(sim: &mut Sim, by: usize, payload: &CarriedPayload) -> u64 {
    let record = carried(sim, by, &payload.to_bytes());
    let seq = sim.order(vec![record], None);
    sim.settle();
    seq
}

fn author_of(sim: &Sim, member: usize) -> Author {
    Author {
        device: sim.world.devices[member],
        instance: instance(200 + member as u8),
    }
}

fn replica(kind: CrdtKind) -> ReplicaId {
    ReplicaId::for_kind(kind, [SEED; 16])
}

/// The group's next epoch begins with a record void.
fn void(sim: &mut Sim, leaf: Hash) {
    sim.world.rekey();
    let state = sim.world.states.last_mut().unwrap();
    state.voided = [declared(leaf)].into_iter().collect();
    sim.advance_epochs();
    for at in 0..sim.peers.len() {
        sim.with(at, |doc, ctx, _| doc.voided(ctx).unwrap());
    }
    sim.settle();
}

fn restart_all(sim: &mut Sim) {
    for at in 0..sim.peers.len() {
        sim.peers[at].store();
        sim.restart(at);
        sim.connect(at);
    }
    sim.settle();
}

fn count(sim: &mut Sim, text: &str) -> usize {
    sim.assert_converged();
    sim.peers[0].text().matches(text).count()
}

#[test]
fn what_is_carried_is_its_authors() {
    for kind in KINDS {
        let mut sim = sim(kind);
        let payload = lost(&mut sim, ANA, "lost ");
        let seq = carry(&mut sim, BEN, &payload);
        sim.assert_no_findings();
        assert_eq!(count(&mut sim, "lost "), 1);
        for peer in &sim.peers {
            let owner = peer.doc.owner_of(&replica(kind));
            assert_eq!(owner, Some(sim.world.devices[ANA]), "{kind}");
            let change = peer
                .changes
                .iter()
                .find(|change| change.seq == seq)
                .unwrap();
            let (ana, ben) = (author_of(&sim, ANA), author_of(&sim, BEN));
            assert_eq!((change.author, change.user), (ana, UserId([2; 32])));
            assert_eq!(change.carried_by, Some((ben, UserId([3; 32]))));
        }
        // What rests on it is the same for everybody: a snapshot of one is found right by the others.
        sim.snapshot(0);
        sim.settle();
        assert_eq!(sim.check(ANA), Some(Judgement::Match));
        restart_all(&mut sim);
        assert_eq!(count(&mut sim, "lost "), 1);
    }
}

#[test]
fn whoever_carries_it_too_changes_nothing() {
    for kind in KINDS {
        let mut sim = sim(kind);
        let payload = lost(&mut sim, ANA, "lost ");
        for by in [0, BEN, ANA] {
            carry(&mut sim, by, &payload);
        }
        sim.assert_no_findings();
        assert_eq!(count(&mut sim, "lost "), 1);
        for peer in &sim.peers {
            let told = peer.changes.iter().filter(|it| it.carried_by.is_some());
            assert_eq!(told.count(), 1);
        }
        restart_all(&mut sim);
        assert_eq!(count(&mut sim, "lost "), 1);
    }
}

/// An author's own record may come to stand after all, before or after what was carried.
#[test]
fn its_authors_own_record_makes_it_no_second_time() {
    for (kind, own_first) in KINDS
        .into_iter()
        .flat_map(|kind| [(kind, true), (kind, false)])
    {
        let mut sim = sim(kind);
        let payload = lost(&mut sim, ANA, "lost ");
        for own in [own_first, !own_first] {
            match own {
                true => drop(sim.order(vec![payload.record.clone()], None)),
                false => drop(carry(&mut sim, BEN, &payload)),
            }
            sim.settle();
        }
        sim.assert_no_findings();
        assert_eq!(count(&mut sim, "lost "), 1);
    }
}

#[test]
fn an_author_whose_update_waits_here_takes_it_for_done() {
    for kind in KINDS {
        let mut sim = sim(kind);
        sim.peers[ANA].insert(0, "mine ");
        sim.disconnect(ANA);
        // It went out once, and somebody got it before the service lost it.
        sim.peers[ANA].online = true;
        sim.connect(ANA);
        let keys = sim.peers[ANA].keys.clone();
        let ctx = sim.world.ctx(ANA, 0, &keys);
        let append = sim.peers[ANA].next_append(&ctx, 10_000).unwrap();
        let author = sim.peers[ANA].author(&sim.world);
        let mut former = sim.service.clone();
        let sent = former.append(author, &append).unwrap().remove(0);
        let payload = wrapped(sent);
        carry(&mut sim, BEN, &payload);
        sim.connect(ANA);
        sim.settle();
        assert_eq!(count(&mut sim, "mine "), 1);
        assert_eq!(sim.peers[ANA].doc.pending_count(), 0);
    }
}

/// All members refuse it alike, name the carrier, and still do when the log is read again and after a restart.
fn refused(mut sim: Sim, by: usize, payload: &[u8], what: &str) {
    let before = sim.peers[0].text();
    // Something that is void later, so that what follows is judged once more.
    let update = conclave_crdt::create(CrdtKind::Yjs, ReplicaId::for_kind(CrdtKind::Yjs, [77; 16]));
    let mut other = update.unwrap();
    other.text().unwrap().splice(0, 0, "void ").unwrap();
    let mut updates = Vec::new();
    other.take_pending(&mut updates).unwrap();
    let record = sim.forge(0, &updates[0], |_| {});
    let leaf = record.leaf();
    sim.order(vec![record], None);
    sim.settle();
    let record = carried(&sim, by, payload);
    let seq = sim.order(vec![record], None);
    sim.settle();
    let finding = Finding {
        seq,
        fault: Fault::Record(RecordFault::Content),
        suspect: Suspect::author(author_of(&sim, by)),
    };
    for peer in &mut sim.peers {
        assert_eq!(peer.findings, vec![finding], "{what}");
        assert!(
            peer.changes.iter().all(|change| change.seq != seq),
            "{what}"
        );
        assert_eq!(peer.text().replace("void ", ""), before, "{what}");
    }
    restart_all(&mut sim);
    void(&mut sim, leaf);
    for peer in &mut sim.peers {
        assert_eq!(peer.text(), before, "{what}");
        assert_eq!(peer.findings, vec![finding], "{what}");
    }
    sim.peers[0].insert(0, "on ");
    sim.settle();
    sim.assert_converged();
    restart_all(&mut sim);
    sim.assert_converged();
}

#[test]
fn what_its_author_did_not_sign_is_refused() {
    let mut sim = sim(CrdtKind::Yjs);
    let mut payload = lost(&mut sim, ANA, "lost ");
    payload.record.sealed.signature[0] ^= 1;
    refused(sim, BEN, &payload.to_bytes(), "garbled");
    // Ben's own work under Ana's name.
    let mut sim = self::sim(CrdtKind::Yjs);
    let update = sim.update(CrdtKind::Yjs, SEED, "forged ");
    let ana = author_of(&sim, ANA);
    let record = sim.forge(BEN, &update, |header| header.author = ana);
    refused(sim, BEN, &wrapped(record).to_bytes(), "forged");
}

#[test]
fn operations_of_others_are_refused() {
    // Ana wrote under an id that is the owner's.
    let mut sim = sim(CrdtKind::Yjs);
    sim.peers[0].insert(0, "zero ");
    sim.settle();
    let theirs = sim.peers[0].doc.crdt().replica().clone();
    let mut crdt = conclave_crdt::create(CrdtKind::Yjs, theirs).unwrap();
    crdt.text().unwrap().splice(0, 0, "stolen ").unwrap();
    let mut updates = Vec::new();
    crdt.take_pending(&mut updates).unwrap();
    let payload = wrapped(sim.forge(ANA, &updates[0], |_| {}));
    refused(sim, BEN, &payload.to_bytes(), "the owner's id");
    // Her own id, but later operations than those that are there.
    let mut sim = self::sim(CrdtKind::Yjs);
    let mut crdt = conclave_crdt::create(CrdtKind::Yjs, replica(CrdtKind::Yjs)).unwrap();
    let mut updates = Vec::new();
    for text in ["first ", "second "] {
        crdt.text().unwrap().splice(0, 0, text).unwrap();
        crdt.take_pending(&mut updates).unwrap();
    }
    let payload = wrapped(sim.forge(ANA, &updates[1], |_| {}));
    refused(sim, BEN, &payload.to_bytes(), "a gap");
    // The carrier's own id is none of hers either.
    sim = self::sim(CrdtKind::Yjs);
    sim.peers[BEN].insert(0, "ben ");
    sim.settle();
    let bens = sim.peers[BEN].doc.crdt().replica().clone();
    let mut crdt = conclave_crdt::create(CrdtKind::Yjs, bens).unwrap();
    crdt.text().unwrap().splice(0, 0, "stolen ").unwrap();
    let mut updates = Vec::new();
    crdt.take_pending(&mut updates).unwrap();
    let payload = wrapped(sim.forge(ANA, &updates[0], |_| {}));
    refused(sim, BEN, &payload.to_bytes(), "the carrier's id");
}

#[test]
fn what_its_author_might_not_write_is_refused() {
    let mut sim = sim(CrdtKind::Yjs);
    let payload = lost(&mut sim, VIEWER, "viewed ");
    refused(sim, BEN, &payload.to_bytes(), "a viewer's");
    // Somebody who came later, back-dated.
    let mut sim = self::sim(CrdtKind::Yjs);
    let update = sim.update(CrdtKind::Yjs, SEED, "early ");
    sim.world.rekey();
    let dora = sim.world.add(5, Role::Editor);
    let record = sim.forge(dora, &update, |header| header.epoch = 0);
    sim.advance_epochs();
    refused(sim, BEN, &wrapped(record).to_bytes(), "before she came");
    // And from an epoch that is later than the carrier's.
    let mut sim = self::sim(CrdtKind::Yjs);
    sim.world.rekey();
    sim.advance_epochs();
    let payload = lost(&mut sim, ANA, "later ");
    let carrier = sim.forge(BEN, &payload.to_bytes(), |header| {
        header.body = RecordBody::Carried(header.body.chained().unwrap());
        header.epoch = 0;
    });
    let before = sim.peers[0].text();
    let seq = sim.order(vec![carrier], None);
    sim.settle();
    for peer in &mut sim.peers {
        assert_eq!(peer.text(), before);
        let finding = peer.findings.first().unwrap();
        assert_eq!(finding.seq, seq);
        assert_eq!(finding.fault, Fault::Record(RecordFault::Content));
    }
}

#[test]
fn other_keys_and_other_documents_are_refused() {
    let mut sim = sim(CrdtKind::Yjs);
    let good = lost(&mut sim, ANA, "lost ");
    let keys = good.keys.clone();
    let other_content = RecordKeys::from_bytes([3; 32], *keys.commitment());
    let other_commitment = RecordKeys::from_bytes(*keys.content(), [3; 32]);
    for keys in [other_content, other_commitment] {
        let payload = CarriedPayload {
            keys,
            record: good.record.clone(),
        };
        refused(self::sim(CrdtKind::Yjs), BEN, &payload.to_bytes(), "keys");
    }
    let update = sim.update(CrdtKind::Yjs, SEED, "elsewhere ");
    let record = sim.forge(ANA, &update, |header| header.document = DocumentId([9; 16]));
    let payload = wrapped(record).to_bytes();
    refused(self::sim(CrdtKind::Yjs), BEN, &payload, "document");
    let record = sim.forge(ANA, &update, |header| header.group = GroupId([9; 16]));
    let payload = wrapped(record).to_bytes();
    refused(self::sim(CrdtKind::Yjs), BEN, &payload, "group");
}

#[test]
fn only_updates_are_carried_and_whole() {
    let mut sim = sim(CrdtKind::Yjs);
    let good = lost(&mut sim, ANA, "lost ").to_bytes();
    refused(
        self::sim(CrdtKind::Yjs),
        BEN,
        &good[..good.len() - 1],
        "cut",
    );
    let longer = [good.as_slice(), &[0]].concat();
    refused(self::sim(CrdtKind::Yjs), BEN, &longer, "longer");
    refused(self::sim(CrdtKind::Yjs), BEN, b"nonsense", "nonsense");
    let verdict = VerdictPayload::new(Hash([1; 32]), 0, Judgement::Match).to_bytes();
    let record = sim.forge(ANA, &verdict, |header| {
        header.body = RecordBody::Verdict(header.body.chained().unwrap());
    });
    let payload = wrapped(record).to_bytes();
    refused(self::sim(CrdtKind::Yjs), BEN, &payload, "a verdict");
    // Nor what is carried already.
    let record = carried(&sim, ANA, &good);
    let payload = wrapped(record).to_bytes();
    refused(self::sim(CrdtKind::Yjs), BEN, &payload, "twice carried");
}

#[test]
fn a_viewer_carries_nothing() {
    let mut sim = sim(CrdtKind::Yjs);
    let payload = lost(&mut sim, ANA, "lost ");
    let before = sim.peers[0].text();
    let seq = carry(&mut sim, VIEWER, &payload);
    for peer in &mut sim.peers {
        let fault = Fault::Record(RecordFault::Role);
        assert!(
            peer.findings
                .iter()
                .any(|it| (it.seq, it.fault) == (seq, fault))
        );
        assert_eq!(peer.text(), before);
    }
}

/// A device that begins anew may have been given back from a copy: what it wrote before is its own to say.
#[test]
fn of_a_closed_instance_only_its_own_device_carries() {
    let mut sim = sim(CrdtKind::Yjs);
    // The instance is in the log, and closed by a later one.
    let first = sim.update(CrdtKind::Yjs, 60, "one ");
    let record = sim.forge(ANA, &first, |_| {});
    sim.order(vec![record], None);
    sim.settle();
    let payload = lost(&mut sim, ANA, "lost ");
    let later = Author {
        instance: instance(99),
        ..author_of(&sim, ANA)
    };
    let second = sim.update(CrdtKind::Yjs, 61, "two ");
    let record = sim.forge(ANA, &second, |header| {
        header.author = later;
        header.body = RecordBody::Update(conclave_proto::record::Chained {
            clock: 0,
            prev: Hash::ZERO,
        });
    });
    let head = record.leaf();
    sim.order(vec![record], None);
    sim.settle();
    let seq = carry(&mut sim, BEN, &payload);
    for peer in &sim.peers {
        let fault = Fault::Record(RecordFault::Content);
        assert!(
            peer.findings
                .iter()
                .any(|it| (it.seq, it.fault) == (seq, fault))
        );
    }
    assert!(!sim.peers[0].text().contains("lost"));
    let record = sim.forge(ANA, &payload.to_bytes(), |header| {
        header.author = later;
        header.body = RecordBody::Carried(conclave_proto::record::Chained {
            clock: 1,
            prev: head,
        });
    });
    sim.order(vec![record], None);
    sim.settle();
    assert!(
        sim.peers
            .iter_mut()
            .all(|peer| peer.text().contains("lost"))
    );
}

#[test]
fn what_is_void_is_not_carried_before_or_after() {
    for kind in KINDS {
        // Known to be void when it comes.
        let mut sim = sim(kind);
        let payload = lost(&mut sim, ANA, "lost ");
        void(&mut sim, payload.record.leaf());
        let seq = carry(&mut sim, BEN, &payload);
        for peer in &mut sim.peers {
            let finding = peer.findings.last().unwrap();
            let fault = Fault::Record(RecordFault::Content);
            assert_eq!((finding.seq, finding.fault), (seq, fault));
            assert!(!peer.text().contains("lost"));
        }
        restart_all(&mut sim);
        assert_eq!(count(&mut sim, "lost "), 0);
        // Void afterwards, under whichever record it lies.
        let mut sim = self::sim(kind);
        let payload = lost(&mut sim, ANA, "lost ");
        carry(&mut sim, BEN, &payload);
        carry(&mut sim, 0, &payload);
        restart_all(&mut sim);
        assert_eq!(count(&mut sim, "lost "), 1);
        void(&mut sim, payload.record.leaf());
        assert_eq!(count(&mut sim, "lost "), 0);
        restart_all(&mut sim);
        assert_eq!(count(&mut sim, "lost "), 0);
    }
}

/// What comes after something void is read again: the update in it is its author's then, too.
#[test]
fn what_is_carried_stands_when_the_log_is_read_again() {
    for kind in KINDS {
        let mut sim = sim(kind);
        let other = sim.update(kind, 77, "void ");
        let record = sim.forge(0, &other, |_| {});
        let leaf = record.leaf();
        sim.order(vec![record], None);
        sim.settle();
        let payload = lost(&mut sim, ANA, "lost ");
        carry(&mut sim, BEN, &payload);
        // Some have read it from their rows since.
        sim.peers[0].store();
        sim.restart(0);
        sim.connect(0);
        sim.settle();
        void(&mut sim, leaf);
        sim.assert_no_findings();
        assert_eq!((count(&mut sim, "lost "), count(&mut sim, "void ")), (1, 0));
        for peer in &sim.peers {
            let owner = peer.doc.owner_of(&replica(kind));
            assert_eq!(owner, Some(sim.world.devices[ANA]), "{kind}");
        }
    }
}

/// Under a root that some lack, its record waits as any other, and is read once the root is there.
#[test]
fn it_opens_without_the_root_of_its_own_epoch() {
    for kind in KINDS {
        let mut sim = sim(kind);
        let payload = lost(&mut sim, ANA, "lost ");
        sim.world.rekey();
        sim.advance_epochs();
        sim.peers[0].keys.withheld.insert(0);
        let seq = carry(&mut sim, BEN, &payload);
        sim.assert_no_findings();
        assert_eq!(count(&mut sim, "lost "), 1);
        let change = sim.peers[0].changes.last().unwrap();
        assert_eq!((change.seq, change.epoch), (seq, 1));
    }
}

#[test]
fn the_keys_of_one_record_open_no_other() {
    let mut sim = sim(CrdtKind::Yjs);
    let one = lost(&mut sim, ANA, "one ");
    let mut other = lost(&mut sim, ANA, "two ");
    // Each has a nonce of its own.
    let update = sim.update(CrdtKind::Yjs, SEED, "two ");
    let keys = DocKeys::derive(&root(0), &DOC);
    let signer = &sim.world.keys[ANA];
    other.record = seal_with_nonce(&one.record.header, &update, &keys, signer, 1, [5; 24]);
    assert!(open_with(&one.record, &one.keys).is_ok());
    assert!(open_with(&other.record, &keys.of_record(&[5; 24])).is_ok());
    assert_eq!(
        open_with(&other.record, &one.keys),
        Err(RecordFault::Commitment)
    );
    // Not even with the commitment's own key.
    let mixed = RecordKeys::from_bytes(*one.keys.content(), *keys.of_record(&[5; 24]).commitment());
    assert_eq!(open_with(&other.record, &mixed), Err(RecordFault::Open));
}

#[test]
fn the_largest_update_fits_into_a_carried_record() {
    let sim = sim(CrdtKind::Yjs);
    let longest = vec![7; limits::UPDATE_BYTES - 1];
    let payload = wrapped(sim.forge(ANA, &longest, |_| {}));
    assert_eq!(payload.record.sealed.ciphertext.len(), limits::UPDATE_BYTES);
    let bytes = payload.to_bytes();
    assert_eq!(CarriedPayload::from_bytes(&bytes).unwrap(), payload);
    let record = carried(&sim, BEN, &bytes);
    assert!(record.sealed.ciphertext.len() <= limits::CARRIED_BYTES);
    assert!(open(&record, &DocKeys::derive(&root(0), &DOC)).is_ok());
    assert!(!format!("{payload:?}").contains(&format!("{:?}", payload.keys.content())));
}

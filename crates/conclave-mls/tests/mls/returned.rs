//! Entries that come back to a service which lost them: judged as members judge what is ordered, whoever brings them.

use conclave_mls::{ClientGroup, Follower, Plan, PublicGroupState, Rows};
use conclave_proto::Hash;
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::policy::Role;
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::{CommitFault, Refusal};
use conclave_proto::{DocumentId, UnixMs};

use crate::world::World;

/// What a service and the owner have stored at some time.
struct Copy {
    service: Rows,
    roots: Vec<Hash>,
    owner: Rows,
    /// Entries of the log.
    size: usize,
}

impl Copy {
    fn of(world: &World) -> Self {
        Self {
            service: world.service_rows(),
            roots: world.roots(),
            owner: world.peers[0].rows.rows(),
            size: world.log.len(),
        }
    }

    fn service(&self) -> PublicGroupState {
        PublicGroupState::load(self.service.clone(), self.roots.clone()).unwrap()
    }

    fn follower(&self) -> Follower {
        let owner = ClientGroup::load(self.owner.clone()).unwrap();
        owner.follower().unwrap()
    }
}

/// A group with a history of all kinds of entries, and what its service had before. Gives the bundles of the commits too.
fn history() -> (World, Copy, Vec<CommitBundle>) {
    let mut world = World::with_roles(41, &[Role::Admin, Role::Editor, Role::Editor]);
    let copy = Copy::of(&world);
    let mut bundles = Vec::new();
    let document = DocumentId([4; 16]);
    let created = world.sign(1, EntryBody::DocumentCreated { document, crdt: 1 });
    world.put(1, created).unwrap();
    world.sync_all();
    let dora = world.outsider();
    let add = vec![world.package(dora)];
    bundles.push(
        world
            .commit(
                0,
                &Plan {
                    add,
                    ..Plan::default()
                },
            )
            .bundle,
    );
    world.leave(3).unwrap();
    world.sync_all();
    bundles.push(world.commit(1, &Plan::default()).bundle);
    let record = Hash([1; 32]);
    let voided = world.sign(0, EntryBody::RecordVoided { document, record });
    world.put(0, voided).unwrap();
    world.sync_all();
    let remove = vec![world.device(2)];
    let plan = Plan {
        remove,
        ..Plan::default()
    };
    bundles.push(world.commit(0, &plan).bundle);
    let epoch = world.service.state().epoch;
    let done = world.sign(0, EntryBody::RotationComplete { epoch });
    world.put(0, done).unwrap();
    world.sync_all();
    (world, copy, bundles)
}

#[test]
fn the_service_comes_to_the_state_that_it_had() {
    let (mut world, copy, bundles) = history();
    // Long after, and nobody who made any of it is connected.
    world.now = UnixMs(world.now.0 + 400 * 24 * 3_600_000);
    for with_bundles in [false, true] {
        let mut service = copy.service();
        for entry in &world.log[copy.size..] {
            let of_entry = bundles.iter().find(|it| is_of(it, entry));
            let bundle = of_entry.filter(|_| with_bundles);
            let taken = service.take_returned(entry, bundle).unwrap();
            assert_eq!(taken.beside.is_some(), bundle.is_some());
        }
        assert_eq!(service.state(), world.service.state());
        assert_eq!(service.tree(), world.service.tree());
        let epoch_is_its_own = service.group_info() == world.service.group_info();
        assert_eq!(epoch_is_its_own, with_bundles);
        // Whoever brings them signs a GroupInfo of the last epoch.
        let context = world.peers[1].context();
        let fresh = world.peers[1].group().export_group_info(&context).unwrap();
        service.replace_group_info(world.device(1), &fresh).unwrap();
        // It goes on from there, from its rows.
        let mut rows: std::collections::BTreeMap<_, _> = copy.service.iter().cloned().collect();
        for change in service.take_changes() {
            match change.value {
                Some(value) => rows.insert(change.key, value),
                None => rows.remove(&change.key),
            };
        }
        let again = PublicGroupState::load(rows.into_iter().collect(), world.roots()).unwrap();
        assert_eq!(again.state(), world.service.state());
        assert_eq!(again.group_info(), fresh);
    }
}

fn is_of(bundle: &CommitBundle, entry: &GroupEntry) -> bool {
    *entry == GroupEntry::Commit(bundle.commit.clone())
}

/// With any byte changed, or out of place, an entry is refused by both or by neither, and neither has taken anything in.
#[test]
fn followers_and_the_service_judge_returned_entries_alike() {
    let (world, copy, _) = history();
    let log = &world.log[copy.size..];
    let (mut refused, mut taken) = (0, 0);
    for (at, entry) in log.iter().enumerate() {
        let mut all: Vec<GroupEntry> = log.to_vec();
        all.extend(altered(entry));
        for entry in all {
            let (mut follower, mut service) = (copy.follower(), copy.service());
            for before in &log[..at] {
                follower.follow(before).unwrap();
                service.take_returned(before, None).unwrap();
            }
            let before = service.state().clone();
            let by_follower = follower.follow(&entry);
            let by_service = service.take_returned(&entry, None);
            assert_eq!(by_follower.is_ok(), by_service.is_ok(), "{at} {entry:?}");
            assert_eq!(follower.state(), service.state(), "{at} {entry:?}");
            if by_service.is_ok() {
                taken += 1;
            } else {
                assert_eq!(service.state(), &before);
                refused += 1;
            }
        }
    }
    assert!(taken >= log.len() && refused > 50, "{taken} {refused}");
}

fn altered(entry: &GroupEntry) -> Vec<GroupEntry> {
    let bytes = match entry {
        GroupEntry::Commit(bytes) | GroupEntry::Proposal(bytes) => bytes.as_slice().to_vec(),
        GroupEntry::Signed(record) => {
            let mut record = record.clone();
            record.sealed.signature[5] ^= 1;
            return vec![GroupEntry::Signed(record)];
        }
    };
    let places = [0, bytes.len() / 4, bytes.len() / 2, bytes.len() - 40];
    let changed = places.into_iter().map(|place| {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        match entry {
            GroupEntry::Commit(_) => GroupEntry::Commit(bytes.into()),
            _ => GroupEntry::Proposal(bytes.into()),
        }
    });
    changed.collect()
}

#[test]
fn a_bundle_that_is_not_of_its_commit_is_refused() {
    let (world, copy, bundles) = history();
    let from = copy.size;
    let faults = |change: &dyn Fn(&mut CommitBundle)| {
        let mut service = copy.service();
        service.take_returned(&world.log[from], None).unwrap();
        let mut bundle = bundles[0].clone();
        change(&mut bundle);
        let before = service.state().clone();
        let answer = service.take_returned(&world.log[from + 1], Some(&bundle));
        if answer.is_err() {
            assert_eq!(service.state(), &before);
        }
        answer.err()
    };
    let bad = |fault| Some(Refusal::BadCommit { fault });
    assert_eq!(faults(&|_| {}), None);
    assert_eq!(faults(&|it| it.welcome = None), bad(CommitFault::Welcome));
    assert_eq!(
        faults(&|it| it.wrap.clone_from(&bundles[1].wrap)),
        bad(CommitFault::Wrap)
    );
    assert_eq!(
        faults(&|it| it.group_info.clone_from(&bundles[1].group_info)),
        bad(CommitFault::GroupInfo)
    );
    assert_eq!(
        faults(&|it| it.group.0[0] ^= 1),
        Some(Refusal::UnknownGroup)
    );
}

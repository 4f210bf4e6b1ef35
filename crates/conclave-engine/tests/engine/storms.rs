//! Random sessions: members write, invite, remove and change roles while connections break and devices die. In the end all is calm, and every
//! edit that was answered is there.

use conclave_engine::Command;
use conclave_proto::{DocumentId, GroupId, Role};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::world::{Crash, World, edit};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;
const DAN: usize = 3;
const ACTIONS: usize = 40;

/// A device dies at one of its next outputs.
fn plan_crash(world: &mut World, dice: &mut ChaCha20Rng) {
    let device = dice.next_u32() as usize % 3;
    let output = world.devices[device].outputs + dice.next_u32() as usize % 20;
    let written = dice.next_u32().is_multiple_of(2);
    world.crash = Some(Crash {
        device,
        output,
        written,
    });
}

/// Dan comes and goes, by the hand of Ana or Ben; Cleo's role changes.
fn govern(world: &mut World, dice: &mut ChaCha20Rng, group: GroupId) {
    let by = dice.next_u32() as usize % 2;
    let (dan, cleo) = (world.devices[DAN].user, world.devices[CLEO].user);
    let command = match dice.next_u32() % 3 {
        0 => Command::Invite {
            group,
            user: dan,
            role: None,
        },
        1 => Command::Remove { group, user: dan },
        _ => Command::SetRole {
            group,
            user: cleo,
            role: Role::Admin,
        },
    };
    world.command(by, command);
    world.command(DAN, Command::Accept { group });
}

fn storm(seed: u64) {
    let mut world = World::new(seed, &["ana", "ben", "cleo", "dan"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, Some(Role::Admin));
    world.invite(group, ANA, CLEO, None);
    let document = world.create_document(group, ANA, "");
    let mut dice = ChaCha20Rng::seed_from_u64(seed ^ 0x5707);
    world.cut_every = Some(40);
    let mut written = Vec::new();
    for number in 0..ACTIONS {
        match dice.next_u32() % 12 {
            0 | 1 => plan_crash(&mut world, &mut dice),
            2 => {
                let at = dice.next_u32() as usize % 3;
                world.go_offline(at);
            }
            3 | 4 => (0..4).for_each(|at| world.go_online(at)),
            5..=7 => govern(&mut world, &mut dice, group),
            _ => {
                let at = dice.next_u32() as usize % 3;
                let mark = format!("<{number}>");
                let id = world.command(at, edit(group, document, &mark));
                written.push((at, id, mark));
            }
        }
        let pause = [0, 0, 5, 700, 4_000][dice.next_u32() as usize % 5];
        world.advance(pause);
    }
    calm(&mut world, group, document, &written);
}

fn calm(
    world: &mut World,
    group: GroupId,
    document: DocumentId,
    written: &[(usize, conclave_engine::CommandId, String)],
) {
    world.cut_every = None;
    world.crash = None;
    (0..4).for_each(|at| world.go_online(at));
    world.advance(120_000);
    let seed = world.seed;
    assert_eq!(world.state(group).rotating_since, 0, "seed {seed}");
    let dan = world.info(DAN, group).is_some_and(|info| info.active);
    let members: &[usize] = if dan {
        &[ANA, BEN, CLEO, DAN]
    } else {
        &[ANA, BEN, CLEO]
    };
    world.converged(group, members);
    let text = world.text(ANA, group, document);
    for (at, id, mark) in written {
        let count = text.matches(mark.as_str()).count();
        match world.reply(*at, *id) {
            Some(Ok(_)) => assert_eq!(count, 1, "seed {seed}: {mark} in {text}"),
            Some(Err(error)) => panic!("seed {seed}: {mark}: {error}"),
            None => assert!(count <= 1, "seed {seed}: {mark} in {text}"),
        }
    }
    for at in 0..4 {
        let grave =
            |finding: &&String| !finding.starts_with("refused.") && !finding.starts_with("engine.");
        let grave: Vec<String> = world.findings(at).iter().filter(grave).cloned().collect();
        assert_eq!(grave, [""; 0], "seed {seed}, {at}");
    }
}

#[test]
fn members_and_documents_come_out_of_a_storm_whole() {
    for seed in SEEDS {
        storm(seed);
    }
}

const SEEDS: std::ops::Range<u64> = 0..6;

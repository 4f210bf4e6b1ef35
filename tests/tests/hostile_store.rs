//! Stores of devices in the middle of everything, damaged row by row: an invitation that waits, a commit on its way, edits that are not
//! sent, documents half followed. The engine starts or says what is damaged, answers its user, and talks to the service.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "decoders/attack.rs"]
#[allow(
    dead_code,
    reason = "the tests of the registered decoders use all of it"
)]
mod attack;
#[path = "decoders/mutate.rs"]
#[allow(
    dead_code,
    reason = "the tests of the registered decoders use all of it"
)]
mod mutate;
#[path = "hostile_engine/net.rs"]
#[allow(dead_code, reason = "the storms use all of it")]
mod net;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use conclave_engine::{Command, Reply};
use conclave_proto::{DocumentId, GroupId, UnixMs};
use conclave_testkit::decoders::{Decoded, Decoder, Source, join_rows, split_rows};
use conclave_testkit::service::ConnId;
use peak_alloc::PeakAlloc;
use zeroize::Zeroizing;

use attack::{Attack, quiet_panics};
use mutate::Mutator;
use net::{Device, Net, Rows, edit};

/// Counts what the whole process allocates: this file has one test.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const SEED: u64 = 0x0c0c_1a7e;

struct Scene {
    now: UnixMs,
    group: GroupId,
    document: DocumentId,
    stores: Vec<Vec<u8>>,
}

fn joined(rows: &Rows) -> Vec<u8> {
    let rows = rows.0.iter();
    join_rows(rows.map(|(key, value)| (key.as_slice(), value.as_slice())))
}

/// Ana has a commit and edits on their way; Ben follows; Cleo has an invitation.
fn make() -> Scene {
    let mut net = Net::new(&["ana", "ben", "cleo"]);
    let (group, document) = net.group_with_document(0, &[1]);
    for at in [0, 1] {
        net.ask(at, edit(group, document, " word")).unwrap();
        net.settle();
    }
    let user = |net: &mut Net, at| match net.ask(at, Command::WhoAmI) {
        Ok(Reply::WhoAmI(me)) => me.user.unwrap(),
        other => panic!("{other:?}"),
    };
    let (ben, cleo) = (user(&mut net, 1), user(&mut net, 2));
    let role = None;
    net.ask(
        0,
        Command::Invite {
            group,
            user: cleo,
            role,
        },
    )
    .unwrap();
    net.settle();
    net.disconnect(1);
    net.ask(1, edit(group, document, " unsent")).unwrap();
    // What the service answers to these is lost with the connection.
    let now = net.now;
    net.devices[0].command(now, Command::Remove { group, user: ben });
    net.devices[0].command(now, edit(group, document, " unsent"));
    net.devices[0].up.clear();
    net.disconnect(0);
    let stores = net.devices.iter().map(|device| joined(&device.rows));
    Scene {
        now,
        group,
        document,
        stores: stores.collect(),
    }
}

fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(make)
}

fn start(bytes: &[u8]) -> Decoded {
    let rows = split_rows(bytes).ok_or("input.no_rows")?;
    let rows = rows
        .into_iter()
        .map(|(key, value)| (key, Zeroizing::new(value)));
    let rows = Rows(rows.collect());
    let Scene {
        now,
        group,
        document,
        ..
    } = *scene();
    let mut device = Device::try_open(rows, 9, now).map_err(|error| error.code())?;
    device.connect(now, ConnId(1));
    let listed = device.command(now, Command::Groups);
    let edited = device.command(now, edit(group, document, "x"));
    assert!(device.reply(listed).is_some(), "the user is not answered");
    device.disconnect(now);
    match device.reply(edited) {
        Some(Err(error)) => Err(error.code()),
        _ => Ok(None),
    }
}

#[test]
fn a_damaged_store_is_refused_or_goes_on() -> Result<()> {
    println!("seed {SEED:#x}");
    // Every table that there is holds a row of one of them.
    let mut tables = BTreeSet::new();
    for store in &scene().stores {
        for (key, _) in split_rows(store).unwrap_or_default() {
            tables.insert((key[0], key.get(17).copied().filter(|_| key[0] == 4)));
        }
    }
    for group_table in *b"mrsodf" {
        ensure!(tables.contains(&(4, Some(group_table))), "{tables:?}");
    }
    for table in [1, 2, 3, 5, 6] {
        ensure!(tables.iter().any(|(own, _)| *own == table), "{tables:?}");
    }
    let stores = || scene().stores.clone();
    let decoder =
        Decoder::new("engine.live_store", Source::Disk, usize::MAX, start, stores).of_rows();
    let mut mutator = Mutator::new(SEED, &decoder)?;
    let mut attack = Attack::new(&decoder, &MEMORY);
    quiet_panics();
    for inputs in [
        mutator.truncated(),
        mutator.flipped(),
        mutator.spliced(),
        mutator.lying_lengths(),
        mutator.random(),
    ] {
        for input in inputs {
            attack.with(&input)?;
        }
    }
    println!("{}", attack.report());
    Ok(())
}

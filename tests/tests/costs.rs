//! What edits leave at a real service, and what devices at rest send.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conclave_client::transport::Timing;
use conclave_client::{Client, Document, Setup};
use conclave_crdt::TextView as _;
use conclave_crdt::yjs::Yrs;
use conclave_proto::{GroupPolicy, RealmId};
use conclave_tests::meter::Stored;
use conclave_tests::texts::{append, synced};
use conclave_tests::{World, admit, document, online, until, verify_all};
use futures_util::future::try_join_all;

/// Edits that are under way at once.
const AT_ONCE: usize = 100;
/// With this variable set, as much is written as people may.
const FULL: &str = "CONCLAVE_FULL_COSTS";

/// Ana and Ben with a text of so many bytes.
async fn pair(
    world: &World,
    policy: GroupPolicy,
    timing: Timing,
    bytes: usize,
) -> Result<([Client; 2], [Document<Yrs>; 2])> {
    let user = async |name: &str| -> Result<Client> {
        let config = world.config(name).timing(timing);
        let setup = Setup::NewUser {
            name: name.to_owned(),
            realm: RealmId::ZERO,
        };
        let client = Client::create(config, setup).await?;
        online(&client).await?;
        Ok(client)
    };
    let (ana, ben) = (user("ana").await?, user("ben").await?);
    verify_all(&[&ana, &ben]).await?;
    let group = ana.create_group("Costs", policy).await?;
    let text: String = "a line of text\n".chars().cycle().take(bytes).collect();
    let made = group
        .create_document_with::<Yrs>("text", move |yrs| yrs.splice(0, 0, &text))
        .await?;
    synced(&made).await?;
    let joined = admit(&group, &[&ben]).await?;
    let joined = joined.first().context("Ben is no member")?;
    let theirs = document::<Yrs>(joined, &made.id()).await?;
    reaches(&theirs, bytes).await?;
    Ok(([ana, ben], [made, theirs]))
}

/// Waits until a text has so many characters.
async fn reaches(text: &Document<Yrs>, chars: usize) -> Result<()> {
    until("the text to be whole", || async {
        let here = text.read(|yrs| yrs.len()).await?;
        Ok((here == chars).then_some(()))
    })
    .await
}

/// Writes the same words so many times, each an edit, from a place on.
async fn write(text: &Document<Yrs>, from: usize, words: &'static str, edits: usize) -> Result<()> {
    let places: Vec<usize> = (0..edits).map(|at| from + at * words.len()).collect();
    for run in places.chunks(AT_ONCE) {
        let edits = run
            .iter()
            .copied()
            .map(|at| text.edit(move |yrs| yrs.splice(at, 0, words)));
        try_join_all(edits).await?;
    }
    Ok(())
}

/// Ana edits, Ben follows. Gives what the service has stored then.
async fn stored_after(
    policy: GroupPolicy,
    bytes: usize,
    words: &'static str,
    edits: usize,
) -> Result<Stored> {
    let world = World::start().await?;
    let (clients, [ana, ben]) = pair(&world, policy, Timing::default(), bytes).await?;
    // Some at a time, as a day's work comes: Ben reads, and may make a snapshot, in between.
    for run in 0..10 {
        let each = edits / 10;
        let from = bytes / 2 + run * each * words.len();
        write(&ana, from, words, each).await?;
        synced(&ana).await?;
        reaches(&ben, bytes + (run + 1) * each * words.len()).await?;
    }
    let stored = Stored::read(&world.service_folder()).await?;
    println!(
        "{bytes} bytes, {edits} edits of {} bytes: {stored:?}",
        words.len()
    );
    ensure!(stored.updates >= edits as u64, "updates are missing");
    for client in clients {
        client.close().await?;
    }
    Ok(stored)
}

/// Updates and snapshots together are at most twice the updates, and the newest snapshot: each snapshot that was replaced is no larger than
/// the updates that called for the next.
fn is_bounded(stored: &Stored) -> bool {
    let total = stored.update_record_bytes + stored.snapshot_bytes;
    total <= 2 * stored.update_record_bytes + stored.newest_snapshot_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_of_a_large_text_is_what_was_written() -> Result<()> {
    let (bytes, edits) = match std::env::var_os(FULL) {
        Some(_) => (5_000_000, 10_000),
        None => (500_000, 2_000),
    };
    let stored = stored_after(GroupPolicy::default(), bytes, "x", edits).await?;
    assert!(is_bounded(&stored), "{stored:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_grows_a_hundredfold_is_stored_twice_at_most() -> Result<()> {
    let policy = GroupPolicy {
        snapshot_after_bytes: 2_000,
        ..GroupPolicy::default()
    };
    let words = "a sentence that somebody has written into the middle of a text. ";
    let stored = stored_after(policy, 1_000, words, 1_500).await?;
    // Those that were replaced are still there, so this is no accident.
    assert!(stored.snapshots >= 6, "{stored:?}");
    assert!(is_bounded(&stored), "{stored:?}");
    Ok(())
}

/// Also where one device's snapshot is ordered while the other's edits, which name an older log, are on their way.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_on_two_devices_goes_over_the_wire_once() -> Result<()> {
    let edits = match std::env::var_os(FULL) {
        Some(_) => 20_000,
        None => 1_500,
    };
    let (mut world, traffic) = World::start_metered().await?;
    let timing = Timing::default();
    let (clients, [ana, ben]) = pair(&world, GroupPolicy::default(), timing, 1_000).await?;
    world.stop_service().await;
    write(&ana, 500, "x", edits).await?;
    write(&ben, 500, "y", edits).await?;
    let (up, down) = (traffic.up.bytes(), traffic.down.bytes());
    world.start_service().await?;
    for text in [&ana, &ben] {
        synced(text).await?;
        reaches(text, 1_000 + 2 * edits).await?;
    }
    let (up, down) = (traffic.up.bytes() - up, traffic.down.bytes() - down);
    println!("2 × {edits} edits that waited: {up} bytes up, {down} down");
    assert!(up <= 200 * 2 * edits as u64, "{up}");
    assert!(down <= up + up / 10, "{up} up, {down} down");
    for client in clients {
        client.close().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_at_rest_send_signs_of_life_and_nothing_else() -> Result<()> {
    /// Signs of life from devices that pass without anything else.
    const SIGNS: u64 = 400;
    let (world, traffic) = World::start_metered().await?;
    let timing = Timing {
        ping: Duration::from_millis(20),
        ..Timing::default()
    };
    let (clients, [ana, ben]) = pair(&world, GroupPolicy::default(), timing, 1_500_000).await?;
    append(&ana, "one line more\n").await?;
    append(&ben, "and another\n").await?;
    for text in [&ana, &ben] {
        synced(text).await?;
        reaches(text, 1_500_000 + 26).await?;
    }
    // What belongs to joining and to those edits is still on its way. Devices that never come to rest end the patience.
    let since = Cell::new((u64::MAX, 0, Stored::default()));
    until("the devices to be at rest", || async {
        let frames = traffic.up.frames() + traffic.down.frames();
        let signs = traffic.up.signs();
        let (frames_before, signs_before, _) = since.get();
        if frames != frames_before {
            let stored = Stored::read(&world.service_folder()).await?;
            since.set((frames, signs, stored));
            return Ok(None);
        }
        Ok((signs >= signs_before + SIGNS).then_some(()))
    })
    .await?;
    let stored = Stored::read(&world.service_folder()).await?;
    assert_eq!(stored, since.get().2, "something was stored");
    assert!(traffic.down.signs() >= SIGNS, "they are answered");
    for client in clients {
        client.close().await?;
    }
    Ok(())
}

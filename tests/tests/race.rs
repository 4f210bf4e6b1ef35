//! Many devices commit in the same epoch, again and again.

use anyhow::{Context as _, Result, ensure};
use conclave_client::Client;
use conclave_proto::{GroupId, GroupPolicy, Role};
use conclave_tests::{PATIENCE, World, admit, until, user_id, verify_all};
use futures_util::future::try_join_all;

/// Devices that race: all of one user, who owns the group.
const DEVICES: usize = 32;
const ROUNDS: u64 = 100;

/// Every device's epoch and the code made from its epoch authenticator.
async fn codes(devices: &[Client], group: &GroupId) -> Result<Vec<(u64, String)>> {
    try_join_all(devices.iter().map(|device| async {
        let info = device.group(group).await?.info().await?;
        anyhow::Ok((info.epoch, info.code))
    }))
    .await
}

async fn agree(devices: &[Client], group: &GroupId, least: u64) -> Result<u64> {
    until("all devices to agree on the epoch", || async {
        let codes = codes(devices, group).await?;
        let first = codes.first().cloned().context("no device")?;
        let same_epoch = codes.iter().all(|(epoch, _)| *epoch == first.0);
        if !same_epoch || first.0 < least {
            return Ok(None);
        }
        ensure!(
            codes.iter().all(|one| *one == first),
            "two members of one epoch show different codes"
        );
        Ok(Some(first.0))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_devices_race_and_one_commit_is_accepted_per_epoch() -> Result<()> {
    let world = World::start().await?;
    let first = world.user("ana").await?;
    let ben = world.user("ben").await?;
    verify_all(&[&first, &ben]).await?;
    let group = first.create_group("Race", GroupPolicy::default()).await?;
    admit(&group, &[&ben]).await?;
    let mut devices = vec![first];
    for number in 1..DEVICES {
        let device = world
            .second_device(&format!("ana-{number}"), &devices[0])
            .await?;
        devices.push(device);
    }
    let id = group.id();
    until("all devices to be members", || async {
        let members = group.members().await?;
        Ok((members
            .iter()
            .map(|member| member.devices.len())
            .sum::<usize>()
            == DEVICES + 1)
            .then_some(()))
    })
    .await?;
    for device in &devices {
        until("the group to be there", || async {
            Ok(device.group(&id).await.ok())
        })
        .await?;
    }
    let mut epoch = agree(&devices, &id, 0).await?;
    let begun = epoch;
    let target = user_id(&ben).await?;

    for round in 0..ROUNDS {
        // All want the same: one commits, the others find it done.
        let role = if round % 2 == 0 {
            Role::Viewer
        } else {
            Role::Editor
        };
        let racing = devices.iter().map(|device| async move {
            device.group(&id).await?.set_role(&target, role).await?;
            anyhow::Ok(())
        });
        tokio::time::timeout(PATIENCE, try_join_all(racing))
            .await
            .context("the race")??;
        epoch = agree(&devices, &id, epoch + 1).await?;
    }
    // One commit of each race is accepted; what comes on top is joiners renewing their leaves, once each.
    let raced = epoch - begun;
    assert!(
        (ROUNDS..=ROUNDS + DEVICES as u64 + 1).contains(&raced),
        "{raced} epochs in {ROUNDS} races"
    );

    // Now they want different things: each gets its turn.
    let roles = [Role::Viewer, Role::Editor, Role::Admin];
    let racing = devices
        .iter()
        .zip(roles.iter().cycle())
        .map(|(device, role)| async move {
            device.group(&id).await?.set_role(&target, *role).await?;
            anyhow::Ok(())
        });
    tokio::time::timeout(PATIENCE, try_join_all(racing))
        .await
        .context("the last race")??;
    agree(&devices, &id, epoch + 1).await?;

    // The log agrees: its commits end the epochs 0, 1, 2, … once each.
    let log = world.service_folder();
    let commits = conclave_tests::commit_epochs(&log, &id).await?;
    assert_eq!(commits, (0..commits.len() as u64).collect::<Vec<_>>());
    Ok(())
}

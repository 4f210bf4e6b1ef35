//! Devices that come back, over the real service and real stores: a folder that was copied back, and a return on request.

use std::path::Path;

use anyhow::Result;
use conclave_client::{Client, DeviceEvent, Event};
use conclave_crdt::yjs::Yrs;
use conclave_proto::{GroupId, GroupPolicy};
use conclave_tests::texts::{append, shows, synced, text};
use conclave_tests::{PATIENCE, World, admit, document, until, verify_all};

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

async fn code(client: &Client, group: &GroupId) -> Result<Option<String>> {
    let groups = client.groups().await?;
    let found = groups.into_iter().find(|info| info.group == *group);
    Ok(found
        .filter(|info| info.returning.is_none() && !info.unproven)
        .map(|info| info.code))
}

async fn same_code(clients: &[&Client], group: &GroupId) -> Result<()> {
    until("all to be in one epoch", || async {
        let mut codes = Vec::new();
        for client in clients {
            codes.push(code(client, group).await?);
        }
        codes.dedup();
        Ok((codes.len() == 1 && codes.iter().all(Option::is_some)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_copied_back_loses_no_edit_of_either_life() -> Result<()> {
    let mut world = World::start().await?;
    let ana = world.user("ana").await?;
    let ben = world.user("ben").await?;
    verify_all(&[&ana, &ben]).await?;
    let board = ana.create_group("Board", GroupPolicy::default()).await?;
    let minutes = board.create_document::<Yrs>("Minutes").await?;
    synced(&minutes).await?;
    let id = (board.id(), minutes.id());
    let ben_board = admit(&board, &[&ben]).await?.remove(0);
    let ben_minutes = document::<Yrs>(&ben_board, &id.1).await?;
    append(&ben_minutes, "one. ").await?;
    synced(&ben_minutes).await?;

    // The backup holds an edit that was never sent from it.
    world.stop_service().await;
    append(&ben_minutes, "unsent. ").await?;
    ben.close().await?;
    copy_folder(&world.store("ben"), &world.store("backup"))?;
    world.start_service().await?;

    // Life goes on: that edit and others are sent.
    let ben = Client::open(world.config("ben")).await?;
    let open = |client: &Client| {
        let client = client.clone();
        async move {
            let group = client.group(&id.0).await?;
            document::<Yrs>(&group, &id.1).await
        }
    };
    let ben_minutes = open(&ben).await?;
    append(&ben_minutes, "two. ").await?;
    append(&ben_minutes, "three. ").await?;
    synced(&ben_minutes).await?;
    shows(&minutes, &["one. ", "unsent. ", "two. ", "three. "]).await?;
    ben.close().await?;

    copy_folder(&world.store("backup"), &world.store("ben"))?;
    let ben = Client::open(world.config("ben")).await?;
    let mut events = ben.events();
    let ben_minutes = open(&ben).await?;
    append(&ben_minutes, "four. ").await?;
    // An older life is not believed by itself: a person says that it goes on here.
    ben.take_over().await?;
    let parts = ["one. ", "unsent. ", "two. ", "three. ", "four. "];
    shows(&minutes, &parts).await?;
    shows(&ben_minutes, &parts).await?;
    for one in [&minutes, &ben_minutes] {
        let now = text(one).await?;
        for part in parts {
            assert_eq!(now.matches(part).count(), 1, "{now}");
        }
    }
    same_code(&[&ana, &ben], &id.0).await?;
    let noticed = async {
        loop {
            match events.next().await {
                Some(Event::Device(DeviceEvent::Finding(found)))
                    if found.code == "device.restored" =>
                {
                    return Ok(());
                }
                Some(_) => {}
                None => anyhow::bail!("the client stopped"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_comes_back_on_request_while_others_write() -> Result<()> {
    let world = World::start().await?;
    let ana = world.user("ana").await?;
    let ben = world.user("ben").await?;
    let cleo = world.user("cleo").await?;
    verify_all(&[&ana, &ben, &cleo]).await?;
    let board = ana.create_group("Board", GroupPolicy::default()).await?;
    let minutes = board.create_document::<Yrs>("Minutes").await?;
    synced(&minutes).await?;
    let ben_board = admit(&board, &[&ben]).await?.remove(0);
    let cleo_board = admit(&board, &[&cleo]).await?.remove(0);
    let ben_minutes = document::<Yrs>(&ben_board, &minutes.id()).await?;
    let cleo_minutes = document::<Yrs>(&cleo_board, &minutes.id()).await?;
    for round in 0..3 {
        let (a, b, c) = (
            format!("<a{round}>"),
            format!("<b{round}>"),
            format!("<c{round}>"),
        );
        ben_board.rejoin().await?;
        cleo_board.rejoin().await?;
        tokio::try_join!(
            append(&minutes, &a),
            append(&ben_minutes, &b),
            append(&cleo_minutes, &c)
        )?;
        for one in [&minutes, &ben_minutes, &cleo_minutes] {
            shows(one, &[&a, &b, &c]).await?;
        }
        same_code(&[&ana, &ben, &cleo], &board.id()).await?;
    }
    assert_eq!(text(&minutes).await?, text(&cleo_minutes).await?);
    Ok(())
}

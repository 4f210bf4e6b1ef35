//! The whole path: verified devices, a group, documents, offline edits, a removal, restarts.

use anyhow::{Context as _, Result};
use conclave_client::Client;
use conclave_crdt::yjs::Yrs;
use conclave_proto::GroupPolicy;
use conclave_tests::texts::{append, shows, synced, text};
use conclave_tests::{PATIENCE, World, admit, document, until, user_id, verify_all};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_edits_a_document_and_a_removal_rekeys_it() -> Result<()> {
    let mut world = World::start().await?;
    let ana = world.user("ana").await?;
    let ana_phone = world.second_device("ana-phone", &ana).await?;
    let ben = world.user("ben").await?;
    let cleo = world.user("cleo").await?;
    verify_all(&[&ana, &ben, &cleo]).await?;

    let board = ana.create_group("Board", GroupPolicy::default()).await?;
    let minutes = board.create_document::<Yrs>("Minutes").await?;
    append(&minutes, "first line by ana. ").await?;
    synced(&minutes).await?;

    let ben_board = admit(&board, &[&ben]).await?.remove(0);
    let cleo_board = admit(&board, &[&cleo]).await?.remove(0);
    let ben_minutes = document::<Yrs>(&ben_board, &minutes.id()).await?;
    let cleo_minutes = document::<Yrs>(&cleo_board, &minutes.id()).await?;
    shows(&ben_minutes, &["first line by ana"]).await?;
    shows(&cleo_minutes, &["first line by ana"]).await?;

    // The second device is added by its sibling without being asked.
    let phone_board = until("the phone to be in the group", || async {
        Ok(ana_phone.group(&board.id()).await.ok())
    })
    .await?;
    let phone_minutes = document::<Yrs>(&phone_board, &minutes.id()).await?;
    append(&ben_minutes, "ben was here. ").await?;
    append(&phone_minutes, "from the phone. ").await?;
    append(&cleo_minutes, "cleo too. ").await?;
    for one in [&minutes, &ben_minutes, &phone_minutes, &cleo_minutes] {
        shows(one, &["ben was here", "from the phone", "cleo too"]).await?;
    }
    let members = ben_board.members().await?;
    assert_eq!(members.len(), 3);

    // An edit made while the service is away arrives when it is back.
    world.stop_service().await;
    append(&ben_minutes, "written offline. ").await?;
    world.start_service().await?;
    shows(&minutes, &["written offline"]).await?;

    let removal = tokio::time::timeout(PATIENCE, board.remove(&user_id(&cleo).await?))
        .await
        .context("re-keying")??;
    assert!(removal.documents >= 2, "the directory and the minutes");
    append(&minutes, "cleo cannot read this. ").await?;
    shows(&ben_minutes, &["cleo cannot read this"]).await?;
    until("cleo to notice", || async {
        let groups = cleo.groups().await?;
        Ok(groups.iter().all(|group| !group.active).then_some(()))
    })
    .await?;

    // A client that is closed and opened again has everything.
    let before = text(&ben_minutes).await?;
    ben.close().await?;
    let ben = Client::open(world.config("ben")).await?;
    let again = ben
        .group(&board.id())
        .await?
        .document::<Yrs>(&minutes.id())
        .await?;
    assert_eq!(text(&again).await?, before);
    append(&again, "after a restart. ").await?;
    shows(&phone_minutes, &["after a restart"]).await?;
    let (a, b, c) = (
        text(&minutes).await?,
        text(&again).await?,
        text(&phone_minutes).await?,
    );
    assert_eq!(a, b);
    assert_eq!(b, c);
    Ok(())
}

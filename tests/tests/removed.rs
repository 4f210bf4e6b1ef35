//! What a copy of a store can still open: nothing that was written after its device was removed.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use conclave_client::forensic::openable;
use conclave_client::store::Unlock;
use conclave_client::{Document, Group};
use conclave_crdt::{TextView as _, yjs::Yrs};
use conclave_proto::{GroupPolicy, Record};
use conclave_tests::{PATIENCE, World, admit, document, until, user_id, verify_all, whole_records};

async fn write(document: &Document<Yrs>, words: &str) -> Result<()> {
    let words = words.to_owned();
    document.edit(move |yrs| yrs.splice(0, 0, &words)).await?;
    tokio::time::timeout(PATIENCE, document.synced())
        .await
        .context("syncing")??;
    Ok(())
}

async fn settled(group: &Group) -> Result<()> {
    until("re-keying to be complete", || async {
        Ok(group.info().await?.rotating_since.is_none().then_some(()))
    })
    .await
}

fn count(opened: &[bool]) -> usize {
    opened.iter().filter(|one| **one).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_device_opens_nothing_new() -> Result<()> {
    let world = World::start().await?;
    let (ana, ben, cleo) = (
        world.user("ana").await?,
        world.user("ben").await?,
        world.user("cleo").await?,
    );
    verify_all(&[&ana, &ben, &cleo]).await?;
    let group = ana.create_group("Keys", GroupPolicy::default()).await?;
    let notes: Document<Yrs> = group.create_document("Notes").await?;
    write(&notes, "before. ").await?;
    let at_ben = admit(&group, &[&ben]).await?.remove(0);
    let at_cleo = admit(&group, &[&cleo]).await?.remove(0);
    let ben_notes: Document<Yrs> = document(&at_ben, &notes.id()).await?;
    let cleo_notes: Document<Yrs> = document(&at_cleo, &notes.id()).await?;
    write(&ben_notes, "while all were in. ").await?;
    until("cleo to read", || async {
        Ok(cleo_notes
            .read(|yrs| yrs.text())
            .await?
            .contains("all were in")
            .then_some(()))
    })
    .await?;

    // The thief's copy: everything that cleo's device holds before its removal.
    let cleo_id = user_id(&cleo).await?;
    cleo.close().await?;
    let stolen = world.store("cleo");
    let removal = tokio::time::timeout(PATIENCE, group.remove(&cleo_id))
        .await
        .context("removing")??;
    write(&notes, "after the removal. ").await?;
    write(&ben_notes, "and this too. ").await?;
    settled(&group).await?;

    let (records, wraps) = whole_records(&world.service_folder(), &group.id()).await?;
    let key = |folder: &Path| Unlock::KeyFile {
        path: folder.join(conclave_client::store::KEY_FILE_NAME),
        create: false,
    };
    let (old, new): (Vec<Record>, Vec<Record>) = records
        .into_iter()
        .partition(|record| record.header.epoch < removal.epoch);
    ensure!(
        !old.is_empty() && new.len() >= 4,
        "records on both sides of the removal"
    );
    let of_old = openable(&stolen, &key(&stolen), group.id(), &old, &wraps).await?;
    let of_new = openable(&stolen, &key(&stolen), group.id(), &new, &wraps).await?;
    assert!(
        count(&of_old) > 0,
        "the control: the copy opens what it could read before"
    );
    assert_eq!(
        count(&of_new),
        0,
        "a removed device opens nothing accepted after its removal"
    );
    Ok(())
}

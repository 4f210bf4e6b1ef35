//! What copies of stores can still open: a removed device nothing new, a member nothing that was erased.

use std::path::{Path, PathBuf};

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
async fn a_removed_device_opens_nothing_new_and_members_erase_what_nobody_needs() -> Result<()> {
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

    // Ana's device erases the roots of old records once ben's device has found the new snapshots right.
    let copies = tempfile::TempDir::new()?;
    until("old roots to be erased", || async {
        let folder = copy(&world.store("ana"), copies.path())?;
        let opened = openable(&folder, &key(&folder), group.id(), &old, &[]).await?;
        Ok((count(&opened) == 0).then_some(()))
    })
    .await?;

    // Whoever joins later gets none of them, not even with every wrap that was ever stored.
    let dana = world.user("dana").await?;
    verify_all(&[&ana, &dana]).await?;
    let mut every_wrap = wraps;
    let at_dana = admit(&group, &[&dana]).await?.remove(0);
    let (_, later) = whole_records(&world.service_folder(), &group.id()).await?;
    every_wrap.extend(later);
    let dana_notes: Document<Yrs> = document(&at_dana, &notes.id()).await?;
    until("dana to read", || async {
        Ok(dana_notes
            .read(|yrs| yrs.text())
            .await?
            .contains("after the removal")
            .then_some(()))
    })
    .await?;
    let folder = copy(&world.store("dana"), copies.path())?;
    let of_new = openable(&folder, &key(&folder), group.id(), &new, &every_wrap).await?;
    assert!(
        count(&of_new) > 0,
        "the control: a joiner opens what is live"
    );
    let of_old = openable(&folder, &key(&folder), group.id(), &old, &every_wrap).await?;
    assert_eq!(count(&of_old), 0, "a joiner opens no erased root");
    Ok(())
}

/// Copies a store's files into a fresh folder.
fn copy(store: &Path, into: &Path) -> Result<PathBuf> {
    let folder = into.join(format!("{}", std::fs::read_dir(into)?.count()));
    std::fs::create_dir(&folder)?;
    for entry in std::fs::read_dir(store)? {
        let path = entry?.path();
        if path.is_file() {
            std::fs::copy(&path, folder.join(path.file_name().context("name")?))?;
        }
    }
    Ok(folder)
}

//! What devices' stores keep of logs, so that what a service lost can be returned.

use anyhow::{Context as _, Result};
use conclave_client::Document;
use conclave_client::forensic::kept_logs;
use conclave_client::store::{KEY_FILE_NAME, Unlock};
use conclave_crdt::{TextView as _, yjs::Yrs};
use conclave_proto::{GroupPolicy, Record};
use conclave_tests::{PATIENCE, World, admit, document, until, verify_all, whole_records};

async fn write(document: &Document<Yrs>, words: String) -> Result<()> {
    document.edit(move |yrs| yrs.splice(0, 0, &words)).await?;
    tokio::time::timeout(PATIENCE, document.synced())
        .await
        .context("syncing")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_keep_what_leads_to_the_root() -> Result<()> {
    let world = World::start().await?;
    let (ana, ben) = (world.user("ana").await?, world.user("ben").await?);
    verify_all(&[&ana, &ben]).await?;
    let group = ana.create_group("Kept", GroupPolicy::default()).await?;
    let notes: Document<Yrs> = group.create_document("Notes").await?;
    let at_ben = admit(&group, &[&ben]).await?.remove(0);
    let ben_notes: Document<Yrs> = document(&at_ben, &notes.id()).await?;
    // Several checkpoints.
    for round in 0..20 {
        write(&notes, format!("{round} {}", "words ".repeat(12_000))).await?;
    }
    write(&ben_notes, "and ben".to_owned()).await?;
    until("ana to read", || async {
        let text = notes.read(|yrs| yrs.text()).await?;
        Ok(text.starts_with("and ben").then_some(()))
    })
    .await?;
    let (id, of) = (group.id(), notes.id());
    let (records, _) = whole_records(&world.service_folder(), &id).await?;
    let records: Vec<Record> = records
        .into_iter()
        .filter(|record| record.header.document == of)
        .collect();
    ana.close().await?;
    ben.close().await?;
    for name in ["ana", "ben"] {
        let folder = world.store(name);
        let key = Unlock::KeyFile {
            path: folder.join(KEY_FILE_NAME),
            create: false,
        };
        let (of_group, log) = kept_logs(&folder, &key, id, of).await?;
        assert!(!of_group.listing.is_empty());
        // Who was there from the beginning has all of it.
        assert!(name == "ben" || of_group.since(0).is_some_and(|all| all.len() > 2));
        assert_eq!(log.head().size, records.len() as u64, "{name}");
        let items = log.since(0).context("from the beginning")?;
        let leaves = items.iter().map(conclave_engine::kept::KeptItem::leaf);
        assert!(leaves.eq(records.iter().map(Record::leaf)), "{name}");
        let whole = |item: &&conclave_engine::kept::KeptItem| {
            matches!(item, conclave_engine::kept::KeptItem::Record(_))
        };
        assert_eq!(items.iter().filter(whole).count(), items.len(), "{name}");
    }
    Ok(())
}

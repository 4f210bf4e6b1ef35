//! Service and client in one process: everything that an application needs, without a server to set up.

use conclave_client::proto::{GroupPolicy, RealmId};
use conclave_client::{Client, Config, Crdt, CrdtError, Setup, Yrs};
use conclave_ds::Service;

/// Runs the example.
#[tokio::main]
pub async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;

    // A delivery service on an embedded database. Port 0 picks a free port.
    let config =
        conclave_ds::Config::new(folder.path().join("service"), ([127, 0, 0, 1], 0).into());
    let service = Service::start(config).await?;
    let url = format!("ws://{}", service.local_addr());

    // A device with an encrypted store, unlocked by a passphrase.
    let config =
        || Config::new(folder.path().join("ana"), &url).passphrase("correct horse battery staple");
    let setup = Setup::NewUser {
        name: "Ana".to_owned(),
        realm: RealmId::ZERO,
    };
    let ana = Client::create(config(), setup).await?;

    // A group, a document, an edit. Nothing here waits for the service but `synced`.
    let group = ana.create_group("Private", GroupPolicy::default()).await?;
    let note = group.create_document::<Yrs>("note").await?;
    note.edit(|note| {
        note.text()
            .ok_or(CrdtError::InvalidArgument)?
            .replace_all("sealed before it leaves")
    })
    .await?;
    note.synced().await?;
    ana.close().await?;

    // The next start of the application: the same store, the same document.
    let ana = Client::open(config()).await?;
    let note = ana
        .group(&group.id())
        .await?
        .document::<Yrs>(&note.id())
        .await?;
    let text = note
        .read(|note| note.text().ok_or(CrdtError::InvalidArgument)?.text())
        .await?;
    println!("{text}");
    anyhow::ensure!(text == "sealed before it leaves");

    ana.close().await?;
    service.shutdown().await;
    Ok(())
}

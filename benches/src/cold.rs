//! A group with one long document, and new members who open it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conclave_client::{Client, Config, Document, Group, Setup, Yrs};
use conclave_crdt::{Crdt as _, CrdtError};
use conclave_ds::Service;
use conclave_proto::{GroupPolicy, RealmId, UserId};
use futures_util::future::try_join_all;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use tempfile::TempDir;

use crate::device::{origin, serve};
use crate::log::places;
use crate::measure::process_time;

/// Edits that are asked for before the first is answered.
const EDITS_AT_ONCE: usize = 256;

/// Ana's group at a real service: a text that she typed, each character a record of the log, and no snapshot that covers any of them.
pub struct Scene {
    folder: TempDir,
    service: Service,
    ana: Client,
    group: Group,
    document: Document<Yrs>,
    characters: usize,
}

impl Scene {
    /// Types so many characters.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn start(characters: usize) -> Result<Self> {
        let folder = TempDir::new()?;
        let service = serve(&folder.path().join("service")).await?;
        let ana = client(&folder, "ana", &service).await?;
        let policy = GroupPolicy {
            snapshot_after_records: u32::MAX,
            snapshot_after_bytes: u32::MAX,
            ..GroupPolicy::default()
        };
        let group = ana.create_group("Bench", policy).await?;
        let document = group.create_document_with::<Yrs>("text", |_| Ok(()));
        let document = document.await?;
        let mut rng = ChaCha20Rng::seed_from_u64(5);
        for some in places(characters, &mut rng)?.chunks(EDITS_AT_ONCE) {
            let edits = some.iter().map(|at| {
                let at = *at;
                document.edit(move |crdt| {
                    let text = crdt.text().ok_or(CrdtError::InvalidArgument)?;
                    // Those at once come in any order.
                    let at = at.min(text.len()?);
                    text.splice(at, 0, "x")
                })
            });
            try_join_all(edits).await?;
        }
        document.synced().await?;
        Ok(Self {
            folder,
            service,
            ana,
            group,
            document,
            characters,
        })
    }

    /// Somebody new is invited. The processor time from accepting to the text.
    ///
    /// # Errors
    /// When a step fails, or it is another text.
    pub async fn open_once(&self) -> Result<Duration> {
        let home = TempDir::new_in(self.folder.path())?;
        let ben = client(&home, "ben", &self.service).await?;
        self.ana.verify(&contact(&ben).await?.1, true).await?;
        ben.verify(&contact(&self.ana).await?.1, true).await?;
        self.group.invite(&contact(&ben).await?.0).await?;
        let invitation = loop {
            if let Some(first) = ben.invitations().await?.into_iter().next() {
                break first;
            }
            ben.events().next().await;
        };
        let began = process_time();
        let group = invitation.accept().await?;
        let document = group.document::<Yrs>(&self.document.id()).await?;
        document.synced().await?;
        let length = document.read(|crdt| {
            let text = crdt.text().ok_or(CrdtError::InvalidArgument)?;
            text.len()
        });
        ensure!(length.await? == self.characters, "another text");
        let took = process_time().saturating_sub(began);
        ben.close().await?;
        Ok(took)
    }

    /// Ends everything.
    ///
    /// # Errors
    /// When something is left over.
    pub async fn end(self) -> Result<()> {
        self.ana.close().await?;
        self.service.shutdown().await;
        Ok(self.folder.close()?)
    }
}

async fn client(folder: &TempDir, name: &str, service: &Service) -> Result<Client> {
    let setup = Setup::NewUser {
        name: name.to_owned(),
        realm: RealmId::ZERO,
    };
    let config = Config::new(folder.path().join(name), origin(service));
    let client = Client::create(config, setup).await?;
    client.online().await?;
    Ok(client)
}

async fn contact(client: &Client) -> Result<(UserId, String)> {
    let me = client.whoami().await?;
    Ok((
        me.user.context("no user")?,
        me.contact.context("no contact text")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_member_has_the_text() {
        let scene = Scene::start(300).await.unwrap();
        scene.open_once().await.unwrap();
        scene.open_once().await.unwrap();
        scene.end().await.unwrap();
    }
}

//! What the examples have in common, so that each shows one thing: a service in this process, new users, and how they meet.
//!
//! Run one with `cargo run -p conclave-examples --example shared_note`. Each makes a temporary folder, starts a delivery service on a free
//! port, and ends by itself. Each is also run by a test.

use std::path::Path;

use anyhow::{Context, Result};
use conclave_client::proto::{GroupPolicy, RealmId};
use conclave_client::{Client, Config, Group, Setup};
use conclave_ds::Service;

/// A running service, and the folder in which it and the devices keep their files.
pub struct Place {
    service: Service,
    folder: tempfile::TempDir,
}

impl Place {
    /// Starts a service on a free loopback port.
    ///
    /// # Errors
    /// When the service does not start.
    pub async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let listen = ([127, 0, 0, 1], 0).into();
        let service = Service::start(conclave_ds::Config::new(
            folder.path().join("service"),
            listen,
        ))
        .await?;
        Ok(Self { service, folder })
    }

    /// What clients dial.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.service.local_addr())
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where a device keeps its store, and which service it uses. The store is unlocked by a key file beside it; see [`Config`] for
    /// passphrases.
    #[must_use]
    pub fn config(&self, device: &str) -> Config {
        Config::new(self.folder().join(device), self.url())
    }

    /// Makes a new user with one device.
    ///
    /// # Errors
    /// When the store cannot be made.
    pub async fn new_user(&self, name: &str) -> Result<Client> {
        let setup = Setup::NewUser {
            name: name.to_owned(),
            realm: RealmId::ZERO,
        };
        Ok(Client::create(self.config(name), setup).await?)
    }

    /// Stops the service.
    pub async fn close(self) {
        self.service.shutdown().await;
    }
}

/// Two people exchange their contact texts and compare the safety number. In life they do that face to face: here it is one line.
///
/// # Errors
/// When a text is not valid.
pub async fn meet(one: &Client, other: &Client) -> Result<()> {
    let texts = (one.whoami().await?.contact, other.whoami().await?.contact);
    let (Some(one_text), Some(other_text)) = texts else {
        anyhow::bail!("somebody is not enrolled yet")
    };
    let here = one.verify(&other_text, true).await?;
    let there = other.verify(&one_text, true).await?;
    anyhow::ensure!(
        here.safety_number == there.safety_number,
        "somebody sits between the two"
    );
    Ok(())
}

/// Makes a group and takes a second person in.
///
/// # Errors
/// When the invitation or the joining fails.
pub async fn group_of_two(owner: &Client, guest: &Client) -> Result<(Group, Group)> {
    meet(owner, guest).await?;
    // Whoever was never connected has published no key packages yet, and cannot be invited.
    guest.online().await?;
    let user = guest
        .whoami()
        .await?
        .user
        .context("the guest is not enrolled yet")?;
    let group = owner.create_group("Board", GroupPolicy::default()).await?;
    group.invite(&user).await?;
    Ok((group, accept(guest).await?))
}

/// Waits for an invitation and accepts it.
///
/// # Errors
/// When the inviter is not known, or the client stops.
pub async fn accept(client: &Client) -> Result<Group> {
    let mut events = client.events();
    loop {
        if let Some(invitation) = client.invitations().await?.first() {
            return Ok(invitation.accept().await?);
        }
        events.next().await.context("the client stopped")?;
    }
}

/// Waits until a group has a document of this title here, and gives its id.
///
/// # Errors
/// When the client stops.
pub async fn document_called(
    client: &Client,
    group: &Group,
    title: &str,
) -> Result<conclave_client::proto::DocumentId> {
    let mut events = client.events();
    loop {
        if let Some(info) = group
            .documents()
            .await?
            .into_iter()
            .find(|info| info.title.as_deref() == Some(title))
        {
            return Ok(info.document);
        }
        events.next().await.context("the client stopped")?;
    }
}

//! A world for end-to-end tests: a real service on loopback, real clients with stores of their own, nothing in between replaced.

pub mod breakages;
pub mod hostile;
pub mod meter;
pub mod rogue;
pub mod rotation;
pub mod rounds;
mod stored;
pub mod texts;
pub mod vectors;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use conclave_client::{Client, Config, Document, Group, Kind, Setup};
use conclave_ds::Service;
use conclave_proto::{GroupId, RealmId, UserId};
use tempfile::TempDir;

use crate::meter::{Relay, Traffic};

pub use stored::{all_commit_epochs, commit_epochs, whole_records};

/// Nothing that a test waits for may take longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again until `check` gives something, or patience ends.
///
/// # Errors
/// When patience ends, naming `what`.
pub async fn until<T, F, Fut>(what: &str, mut check: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let begun = tokio::time::Instant::now();
    // Each look is cheap; the interval only bounds how many there are.
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        if let Some(found) = check().await? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
    }
}

/// A service and a folder for stores.
pub struct World {
    folder: TempDir,
    address: SocketAddr,
    service: Option<Service>,
    /// What clients dial, where that is not the service itself.
    relay: Option<String>,
}

impl World {
    /// Starts a service without rate limits on a free port.
    ///
    /// # Errors
    /// When the service does not start.
    pub async fn start() -> Result<Self> {
        Self::start_at(None).await
    }

    /// The same behind a relay that counts what goes through.
    ///
    /// # Errors
    /// When the service does not start.
    pub async fn start_metered() -> Result<(Self, Traffic)> {
        let relay = Relay::bind().await?;
        let world = Self::start_at(Some(relay.url())).await?;
        let traffic = relay.start(world.address);
        Ok((world, traffic))
    }

    async fn start_at(relay: Option<String>) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut world = Self {
            folder,
            address: ([127, 0, 0, 1], 0).into(),
            service: None,
            relay,
        };
        world.start_service().await?;
        Ok(world)
    }

    /// Starts the service (again), on the same data and the same port.
    ///
    /// # Errors
    /// When the service does not start.
    pub async fn start_service(&mut self) -> Result<()> {
        let mut config = conclave_ds::Config::new(self.service_folder(), self.address);
        config.rate_limits = None;
        config.origins.extend(self.relay.clone());
        let service = Service::start(config)
            .await
            .context("starting the service")?;
        self.address = service.local_addr();
        self.service = Some(service);
        Ok(())
    }

    /// Stops the service; its data stays.
    pub async fn stop_service(&mut self) {
        if let Some(service) = self.service.take() {
            service.shutdown().await;
        }
    }

    /// Where the service keeps its data.
    #[must_use]
    pub fn service_folder(&self) -> PathBuf {
        self.folder.path().join("service")
    }

    /// Where a device keeps its store.
    #[must_use]
    pub fn store(&self, device: &str) -> PathBuf {
        self.folder.path().join(device)
    }

    /// Address that clients dial.
    #[must_use]
    pub fn url(&self) -> String {
        let direct = || format!("ws://{}", self.address);
        self.relay.clone().unwrap_or_else(direct)
    }

    /// How a device opens its store.
    #[must_use]
    pub fn config(&self, device: &str) -> Config {
        Config::new(self.store(device), self.url())
    }

    /// A new user with one device, online.
    ///
    /// # Errors
    /// When the store cannot be made or the service not be reached.
    pub async fn user(&self, name: &str) -> Result<Client> {
        let setup = Setup::NewUser {
            name: name.to_owned(),
            realm: RealmId::ZERO,
        };
        let client = Client::create(self.config(name), setup).await?;
        online(&client).await?;
        Ok(client)
    }

    /// A further device of a user, enrolled by text, online.
    ///
    /// # Errors
    /// When any step fails.
    pub async fn second_device(&self, name: &str, first: &Client) -> Result<Client> {
        let setup = Setup::NewDevice {
            name: name.to_owned(),
            realm: RealmId::ZERO,
        };
        let client = Client::create(self.config(name), setup).await?;
        let request = client.device_request().await?;
        let approval = first.approve_device(request.approved()).await?;
        client.finish_device(&approval).await?;
        online(&client).await?;
        Ok(client)
    }
}

/// Waits until the service knows the device.
///
/// # Errors
/// When it takes too long.
pub async fn online(client: &Client) -> Result<()> {
    tokio::time::timeout(PATIENCE, client.online())
        .await
        .context("going online")??;
    Ok(())
}

/// The client's user.
///
/// # Errors
/// When the device is not enrolled.
pub async fn user_id(client: &Client) -> Result<UserId> {
    client.whoami().await?.user.context("not enrolled")
}

/// Everybody takes everybody as compared in person.
///
/// # Errors
/// When a contact text is refused.
pub async fn verify_all(clients: &[&Client]) -> Result<()> {
    for one in clients {
        let me = one.whoami().await?;
        for other in clients {
            let them = other.whoami().await?;
            if them.user != me.user {
                one.verify(&them.contact.context("no contact")?, true)
                    .await?;
            }
        }
    }
    Ok(())
}

/// Invites a user and joins on the given devices.
///
/// # Errors
/// When a step fails or takes too long.
pub async fn admit(group: &Group, devices: &[&Client]) -> Result<Vec<Group>> {
    if let Some(first) = devices.first() {
        let user = user_id(first).await?;
        tokio::time::timeout(PATIENCE, group.invite(&user))
            .await
            .context("inviting")??;
    }
    let mut joined = Vec::new();
    for device in devices {
        joined.push(accept(device, &group.id()).await?);
    }
    Ok(joined)
}

/// Accepts the invitation to a group when it comes.
///
/// # Errors
/// When none comes or joining fails.
pub async fn accept(device: &Client, group: &GroupId) -> Result<Group> {
    until("an invitation", || async {
        let waiting = device.invitations().await?;
        Ok(waiting
            .iter()
            .any(|invitation| invitation.info().group == *group)
            .then_some(()))
    })
    .await?;
    Ok(device.accept(group).await?)
}

/// Opens a document when the group lists it here.
///
/// # Errors
/// When it is never listed.
pub async fn document<K: Kind>(
    group: &Group,
    id: &conclave_proto::DocumentId,
) -> Result<Document<K>> {
    until("a document to be listed", || async {
        let listed = group.documents().await?;
        Ok(listed.iter().any(|info| info.document == *id).then_some(()))
    })
    .await?;
    Ok(group.document(id).await?)
}

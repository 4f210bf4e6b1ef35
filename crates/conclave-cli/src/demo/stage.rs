//! The stage: folders, proxies, the service and the devices, the planted words, and the measurements that grow as the story goes on.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use conclave_client::Operation;
use conclave_client::proto::GroupId;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::sync::watch;

use super::canary::Canaries;
use super::cast::{Device, Part, Secret, ServiceProcess, until};
use super::narrate::Narrator;
use super::proxy::Proxy;
use super::report::Measured;
use super::typing::Desk;

/// Everything that the acts work with.
#[derive(Debug)]
pub struct Stage<'a> {
    /// Tells the story.
    pub narrator: &'a Narrator,
    /// Folder of everything.
    pub folder: PathBuf,
    /// Folder of the processes' output.
    pub logs: PathBuf,
    /// The service.
    pub service: ServiceProcess,
    /// Ana's first device: creates the group.
    pub laptop: Device,
    /// Ana's second device.
    pub phone: Device,
    /// Ben's device: loses its network for a while.
    pub ben: Device,
    /// Carla's device: is removed.
    pub carla: Device,
    /// Dora's device: joins late.
    pub dora: Device,
    /// For somebody who joins from another terminal.
    pub guest: Proxy,
    /// Planted words.
    pub canaries: Canaries,
    /// Chooses the words.
    pub rng: ChaCha20Rng,
    /// Words that were typed, one an edit.
    pub words: Vec<String>,
    /// Names and titles that were planted.
    pub names: Vec<String>,
    /// The measurements.
    pub measured: Measured,
}

impl<'a> Stage<'a> {
    /// Builds the stage. Nothing runs yet but the proxies.
    ///
    /// # Errors
    /// When folders or ports cannot be had.
    pub async fn build(folder: &Path, seed: u64, narrator: &'a Narrator) -> Result<Self> {
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("cannot create {}", logs.display()))?;
        let mut canaries = Canaries::default();
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let address = watch::Sender::new(None);
        let mut names = Vec::new();
        let mut devices = Vec::new();
        for (name, person, secret) in [
            ("ana-laptop", "Ana", Secret::Passphrase),
            ("ana-phone", "Phone", Secret::KeyFile),
            ("ben", "Ben", Secret::Passphrase),
            ("carla", "Carla", Secret::KeyFile),
            ("dora", "Dora", Secret::KeyFile),
        ] {
            let own_name = format!(
                "{person} {}",
                canaries.plant(&mut rng, &format!("name of {name}"))
            );
            let part = Part {
                name,
                own_name: &own_name,
                further: person == "Phone",
                secret,
            };
            let proxy = Proxy::start(address.subscribe()).await?;
            devices.push(Device::new(folder, &logs, &part, proxy)?);
            names.push(own_name);
        }
        let guest = Proxy::start(address.subscribe()).await?;
        let origins: Vec<String> = devices
            .iter()
            .map(|device| device.proxy.url())
            .chain([guest.url()])
            .collect();
        let service = ServiceProcess::new(folder, &logs, address, &origins);
        let [laptop, phone, ben, carla, dora] = <[Device; 5]>::try_from(devices)
            .map_err(|_| anyhow::anyhow!("the cast is not complete"))?;
        let measured = Measured {
            devices: 5,
            ..Measured::default()
        };
        let (folder, words) = (folder.to_owned(), Vec::new());
        Ok(Self {
            narrator,
            folder,
            logs,
            service,
            laptop,
            phone,
            ben,
            carla,
            dora,
            guest,
            canaries,
            rng,
            words,
            names,
            measured,
        })
    }

    /// All devices, in the order of the story.
    pub fn devices(&self) -> [&Device; 5] {
        [
            &self.laptop,
            &self.phone,
            &self.ben,
            &self.carla,
            &self.dora,
        ]
    }

    /// Devices that are members at the end.
    pub fn remaining(&self) -> [&Device; 4] {
        [&self.laptop, &self.phone, &self.ben, &self.dora]
    }

    /// Plants words to be typed, some for each of several devices.
    pub fn plant_words(&mut self, devices: usize, each: usize, act: &str) -> Vec<Vec<String>> {
        let all: Vec<Vec<String>> = (0..devices)
            .map(|_| {
                (0..each)
                    .map(|_| {
                        self.canaries
                            .plant(&mut self.rng, &format!("edit while {act}"))
                    })
                    .collect()
            })
            .collect();
        self.words.extend(all.iter().flatten().cloned());
        all
    }

    /// Waits until devices have everything and show the same.
    ///
    /// # Errors
    /// When they do not in time.
    pub async fn agree(&self, desk: &Desk, devices: &[&Device]) -> Result<()> {
        for device in devices {
            self.narrator
                .waiting(&format!("waiting for {}", device.name));
            desk.synced(device).await?;
        }
        until("all devices show the same", async || {
            let mut pages = Vec::new();
            for device in devices {
                pages.push(desk.page(device).await?.contents());
            }
            Ok(pages
                .windows(2)
                .all(|pair| matches!(pair, [a, b] if a == b)))
        })
        .await
    }

    /// Waits until devices see a number of users and devices in the group.
    ///
    /// # Errors
    /// When they do not in time.
    pub async fn see_members(
        &self,
        group: GroupId,
        devices: &[&Device],
        users: usize,
        leaves: usize,
    ) -> Result<()> {
        for device in devices {
            until(
                &format!("{} sees {users} users with {leaves} devices", device.name),
                async || {
                    let info = device.group(group).await?;
                    Ok(info.is_some_and(|info| info.users == users && info.devices == leaves))
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Waits until a device has its connection, or has lost it.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn see_connection(&self, device: &Device, online: bool) -> Result<()> {
        until(&format!("{} is {}", device.name, if online { "online" } else { "offline" }), async || {
            let status = device.run(Operation::Status).await?;
            Ok(matches!(status, conclave_client::Outcome::Status(status) if status.online == online))
        })
        .await
    }
}

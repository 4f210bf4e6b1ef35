//! The proofs at the end: what the removed device can open, whether a planted word is anywhere, what an update costs.

use std::path::Path;

use anyhow::{Context as _, Result};
use conclave_client::forensic::openable;
use conclave_client::proto::Record;
use conclave_client::store::Unlock;

use super::acts::{Removal, copy_store};
use super::canary::Leak;
use super::cast::{Device, Secret};
use super::evidence::Stored;
use super::proxy::Conversation;
use super::stage::Stage;
use super::typing::Desk;
use super::websocket::{RecordingFault, protocol_frames};

impl Stage<'_> {
    /// Ends every process, so that all files are as a crash would leave them.
    ///
    /// # Errors
    /// When a device does not end in peace.
    pub async fn close(&mut self) -> Result<()> {
        self.narrator
            .step("Every process ends; the service is killed once more");
        tokio::try_join!(
            self.laptop.end(),
            self.phone.end(),
            self.ben.end(),
            self.dora.end()
        )?;
        self.service.kill().await
    }

    /// The removed device is handed everything that the service holds.
    ///
    /// # Errors
    /// When the evidence cannot be read: nothing is proved then.
    pub async fn prove_removal(&mut self, desk: &Desk, removal: &Removal) -> Result<()> {
        self.narrator
            .step("Carla is handed every sealed record that the service holds");
        let stored = Stored::read(self.service.data(), desk.group).await?;
        let (after, before): (Vec<&Record>, Vec<&Record>) = stored
            .records
            .iter()
            .partition(|record| record.header.epoch >= removal.epoch);
        self.measured.records = stored.positions;
        self.measured.epochs = stored.epoch;
        self.measured.records_after_removal = after.len();
        self.narrator.say(&format!(
            "With her store from before the removal, and again with the one from after it, every key in it is tried on each of {} records: {} \
             accepted before her removal, {} after. Keys that were wrapped for other members are tried too.",
            stored.records.len(),
            before.len(),
            after.len()
        ));
        for copy in &removal.copies {
            let opened = opened(copy, &self.carla, desk, &stored).await?;
            let count = |wanted: bool| {
                let opened = stored
                    .records
                    .iter()
                    .zip(&opened)
                    .filter(|(_, opened)| **opened);
                opened
                    .filter(|(record, _)| (record.header.epoch >= removal.epoch) == wanted)
                    .count()
            };
            self.measured.removed_device_opened_after_removal += count(true);
            self.measured.records_opened_before_removal = self
                .measured
                .records_opened_before_removal
                .max(count(false));
        }
        let copy = copy_store(&self.ben, &self.folder.join("ben-after"))?;
        let opened = opened(&copy, &self.ben, desk, &stored).await?;
        let opened = stored
            .records
            .iter()
            .zip(&opened)
            .filter(|(record, opened)| **opened && record.header.epoch >= removal.epoch);
        self.measured.member_opened_after_removal = opened.count();
        self.narrator.seen(&format!(
            "she opens {} from before her removal and {} from after it; Ben, by the same routine, opens {} of those",
            self.measured.records_opened_before_removal,
            self.measured.removed_device_opened_after_removal,
            self.measured.member_opened_after_removal
        ));
        Ok(())
    }

    /// Planted words are searched for wherever plaintext must not be, and the cost of updates is measured on the way.
    ///
    /// # Errors
    /// When files cannot be read: nothing is proved then.
    pub fn prove_secrecy(&mut self) -> Result<()> {
        self.narrator
            .step("The planted words are searched for everywhere");
        self.narrator.say(
            "In the service's files, in every byte between devices and service, in all logs, and in the devices' own encrypted stores: as \
             they are, in UTF-16, and in pieces of eight bytes.",
        );
        let mut leaks: Vec<Leak> = Vec::new();
        let mut folders = vec![self.service.data().to_owned(), self.logs.clone()];
        folders.extend(self.devices().map(|device| device.home().to_owned()));
        for folder in folders {
            let found = self
                .canaries
                .search_folder(&folder)
                .with_context(|| format!("cannot search {}", folder.display()))?;
            leaks.extend(found);
        }
        let mut complete = true;
        let mut recordings: Vec<(String, Conversation)> = Vec::new();
        for (name, proxy) in self
            .devices()
            .map(|device| (device.name, &device.proxy))
            .into_iter()
            .chain([("guest", &self.guest)])
        {
            complete &= proxy.is_complete();
            recordings.extend(
                proxy
                    .conversations()
                    .into_iter()
                    .map(|one| (format!("connection of {name}"), one)),
            );
        }
        for (name, recording) in &recordings {
            for (side, bytes) in [
                ("sent", &recording.from_device),
                ("received", &recording.from_service),
            ] {
                let place = format!("{name}, {side}");
                leaks.extend(self.canaries.search(&place, bytes));
                match protocol_frames(bytes) {
                    Ok(frames) => leaks.extend(self.search_frames(&place, &frames)),
                    Err(fault) => complete = self.unreadable(&place, fault),
                }
            }
        }
        self.measured.recordings_complete = complete && self.measured.overhead.updates > 0;
        self.measured.searched_bytes = self.canaries.searched_bytes();
        self.measured.leaks = leaks;
        self.narrator.seen(&format!(
            "{} words, {:.1} MiB searched, {} found",
            self.canaries.count(),
            self.canaries.searched_bytes() as f64 / f64::from(1 << 20),
            self.measured.leaks.len()
        ));
        Ok(())
    }

    fn search_frames(&mut self, place: &str, frames: &[Vec<u8>]) -> Vec<Leak> {
        let mut leaks = Vec::new();
        for frame in frames {
            leaks.extend(self.canaries.search(&format!("{place}, unmasked"), frame));
            // Frames of the service are of another type: none of them is an Append.
            if place.ends_with("sent") {
                self.measured.overhead.add(frame);
            }
        }
        leaks
    }

    fn unreadable(&self, place: &str, fault: RecordingFault) -> bool {
        self.narrator.seen(&format!(
            "the recording of the {place} cannot be read: {fault}"
        ));
        false
    }
}

async fn opened(store: &Path, device: &Device, desk: &Desk, stored: &Stored) -> Result<Vec<bool>> {
    let unlock = match device.secret() {
        Secret::KeyFile => Unlock::KeyFile {
            path: device.secret_file(),
            create: false,
        },
        Secret::Passphrase => {
            let text = std::fs::read_to_string(device.secret_file())?;
            Unlock::passphrase(text.lines().next().unwrap_or_default())
        }
    };
    let opened = openable(store, &unlock, desk.group, &stored.records, &stored.wraps).await;
    opened.with_context(|| format!("the copy of {}'s store cannot be examined", device.name))
}

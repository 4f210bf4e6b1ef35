//! The story once everybody is there: typing, crashes, somebody who comes and somebody who has to go.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use conclave_client::{Operation, Outcome};
use tokio::sync::watch;

use super::cast::{Device, until};
use super::prologue::{user, verify_pairwise};
use super::stage::Stage;
use super::typing::Desk;

/// Steps that the acts and the proofs have.
pub const STEPS: usize = 13;
/// Edits that each device types while everybody types.
const EDITS_TOGETHER: usize = 24;
/// Edits that each device types while processes are killed.
const EDITS_WHILE_KILLING: usize = 24;
/// Edits that each of two devices types when somebody new has joined.
const EDITS_AFTER_JOIN: usize = 6;
/// Edits that each remaining device types after the removal.
const EDITS_AFTER_REMOVAL: usize = 10;

/// What the removal left for the proof.
#[derive(Debug)]
pub struct Removal {
    /// Epoch that it began.
    pub epoch: u64,
    /// Copies of the removed device's store: from before it could hear of the removal, and after it had.
    pub copies: Vec<PathBuf>,
}

impl Stage<'_> {
    /// Everybody types at once; Ben is cut off for half of it.
    ///
    /// # Errors
    /// When the devices do not come to show the same.
    pub async fn type_together(&mut self, desk: &Desk) -> Result<()> {
        self.narrator
            .step("Everybody types at the same time, Ben without a network");
        self.narrator.say(
            "Ben's connection is cut. He goes on typing; his edits are kept on his disk and merged when he is back. The others type at the \
             very same places.",
        );
        let words = self.plant_words(4, EDITS_TOGETHER, "typing together");
        self.ben.proxy.cut();
        self.see_connection(&self.ben, false).await?;
        let typed = watch::Sender::new(0);
        let ben_typed = watch::Sender::new(0);
        let [ana, phone, ben, carla] = four(&words);
        let back = async {
            reached(&ben_typed, EDITS_TOGETHER / 2).await;
            let pending = pending(&self.ben).await?;
            self.ben.proxy.mend();
            Ok(pending)
        };
        let ((), (), (), (), pending) = tokio::try_join!(
            desk.type_words(&self.laptop, ana, &typed),
            desk.type_words(&self.phone, phone, &typed),
            desk.type_words(&self.ben, ben, &ben_typed),
            desk.type_words(&self.carla, carla, &typed),
            back,
        )?;
        self.agree(desk, &[&self.laptop, &self.phone, &self.ben, &self.carla])
            .await?;
        let edits = 4 * EDITS_TOGETHER;
        self.narrator.seen(&format!("{edits} edits merged; {pending} of Ben's were waiting on his disk when his network came back"));
        Ok(())
    }

    /// The service and a device are killed in mid-edit.
    ///
    /// # Errors
    /// When something does not come back, or the devices do not come to show the same.
    pub async fn kill_in_mid_edit(&mut self, desk: &Desk) -> Result<()> {
        self.narrator
            .step("The service and a device are killed in the middle of it");
        self.narrator.say(
            "Both get SIGKILL while everybody types: no warning, no time to save. What was acknowledged has to be there afterwards; what was \
             not, is sent again.",
        );
        let words = self.plant_words(4, EDITS_WHILE_KILLING, "processes are killed");
        let typed = watch::Sender::new(0);
        let total = 4 * EDITS_WHILE_KILLING;
        let Self {
            service,
            laptop,
            phone,
            ben,
            carla,
            ..
        } = self;
        let [ana, phones, bens, carlas] = four(&words);
        let killing = async {
            reached(&typed, total / 4).await;
            service.kill().await?;
            reached(&typed, total / 2).await;
            service.start().await?;
            reached(&typed, total * 5 / 8).await;
            phone.kill().await?;
            phone.start().await
        };
        tokio::try_join!(
            desk.type_words(laptop, ana, &typed),
            desk.type_words(phone, phones, &typed),
            desk.type_words(ben, bens, &typed),
            desk.type_words(carla, carlas, &typed),
            killing,
        )?;
        self.measured.restarts += 2;
        self.agree(desk, &[&self.laptop, &self.phone, &self.ben, &self.carla])
            .await?;
        let page = desk.page(&self.laptop).await?;
        let lost = page.not_once(&self.words);
        self.narrator.seen(&format!("{total} more edits, typed while both came and went; {lost} of all so far are missing or doubled"));
        Ok(())
    }

    /// Dora joins.
    ///
    /// # Errors
    /// When she does not get in.
    pub async fn join_later(&mut self, desk: &Desk) -> Result<()> {
        self.narrator.step("Dora joins later");
        self.narrator.say(
            "She verifies the others as they did, is invited, and gets the keys of everything that is live: she reads both documents at once, \
             those parts included that were written before she came.",
        );
        verify_pairwise(&[
            &self.dora,
            &self.laptop,
            &self.phone,
            &self.ben,
            &self.carla,
        ])
        .await?;
        self.invite(desk.group, &self.dora).await?;
        self.see_members(desk.group, &self.devices(), 4, 5).await?;
        desk.synced(&self.dora).await?;
        let (hers, anas) = (
            desk.page(&self.dora).await?.contents(),
            desk.page(&self.laptop).await?.contents(),
        );
        self.measured.joiner_read = hers
            .iter()
            .zip(&anas)
            .filter(|(hers, anas)| hers == anas)
            .count();
        let words = self.plant_words(2, EDITS_AFTER_JOIN, "somebody joins");
        let typed = watch::Sender::new(0);
        let [hers, anas] =
            [words.first(), words.get(1)].map(|words| words.map(Vec::as_slice).unwrap_or_default());
        tokio::try_join!(
            desk.type_words(&self.dora, hers, &typed),
            desk.type_words(&self.laptop, anas, &typed)
        )?;
        self.agree(desk, &self.devices()).await?;
        self.narrator
            .seen("she read both documents and edits them like everybody else");
        Ok(())
    }

    /// Carla is removed.
    ///
    /// # Errors
    /// When the removal or the re-keying fails.
    pub async fn remove(&mut self, desk: &Desk) -> Result<Removal> {
        self.narrator
            .step("Carla is removed, and every document is re-keyed");
        self.narrator.say(
            "A copy of her store is kept from before, as a thief would. From the removal on the service takes only what is sealed under new \
             keys. Ana's device puts every document under them.",
        );
        let group = desk.group;
        self.carla.kill().await?;
        let before = copy_store(&self.carla, &self.folder.join("carla-before"))?;
        self.carla.start().await?;
        self.measured.restarts += 1;
        let removed = self
            .laptop
            .run(Operation::Remove {
                group,
                user: user(&self.carla).await?,
                anyway: false,
            })
            .await?;
        let Outcome::Removed {
            epoch,
            documents,
            elapsed_ms,
            ..
        } = removed
        else {
            bail!("the removal has no report")
        };
        let seconds = elapsed_ms as f64 / 1000.0;
        self.narrator.seen(&format!(
            "{documents} documents (titles included) have new keys after {seconds:.2} s"
        ));
        let words = self.plant_words(4, EDITS_AFTER_REMOVAL, "Carla is gone");
        let typed = watch::Sender::new(0);
        let [ana, phone, ben, dora] = four(&words);
        tokio::try_join!(
            desk.type_words(&self.laptop, ana, &typed),
            desk.type_words(&self.phone, phone, &typed),
            desk.type_words(&self.ben, ben, &typed),
            desk.type_words(&self.dora, dora, &typed),
        )?;
        self.agree(desk, &self.remaining()).await?;
        for device in self.remaining() {
            until(
                &format!("{} knows that re-keying is complete", device.name),
                async || {
                    Ok(device
                        .group(group)
                        .await?
                        .is_some_and(|info| info.rotating_since.is_none()))
                },
            )
            .await?;
        }
        self.measured.rotation_complete = true;
        until("Carla's device knows that it was removed", async || {
            Ok(self
                .carla
                .group(group)
                .await?
                .is_none_or(|info| !info.active))
        })
        .await?;
        self.narrator.seen(
            "every remaining device knows that re-keying is complete; Carla's knows that it is out",
        );
        self.carla.kill().await?;
        let after = copy_store(&self.carla, &self.folder.join("carla-after"))?;
        Ok(Removal {
            epoch,
            copies: vec![before, after],
        })
    }

    /// What the remaining devices show in the end.
    ///
    /// # Errors
    /// When one cannot be asked.
    pub async fn compare(&mut self, desk: &Desk) -> Result<()> {
        self.narrator.step("What all devices show is compared");
        let mut seen = self.names.join("\n");
        let mut lost = 0;
        let mut shown = Vec::new();
        for device in self.remaining() {
            let page = desk.page(device).await?;
            lost = lost.max(page.not_once(&self.words));
            shown.push((device.name.to_owned(), page.contents()));
            seen.push_str(&page.everything());
        }
        self.measured.shown = shown;
        self.measured.edits_typed = self.words.len();
        self.measured.edits_lost = lost;
        self.measured.canaries_planted = self.canaries.count();
        self.measured.canaries_seen_by_members = self.canaries.whole_words_in(&seen);
        let same = if self.measured.converged() {
            "the same"
        } else {
            "different things"
        };
        self.narrator.seen(&format!(
            "four devices show {same}; {lost} of {} edits are missing or doubled",
            self.words.len()
        ));
        Ok(())
    }
}

async fn pending(device: &Device) -> Result<usize> {
    match device.run(Operation::Status).await? {
        Outcome::Status(status) => Ok(status.pending),
        _ => bail!("{} gave an unexpected answer", device.name),
    }
}

/// Waits until so many edits were typed.
async fn reached(typed: &watch::Sender<usize>, count: usize) {
    // The sender lives as long as the caller.
    let _ = typed.subscribe().wait_for(|typed| *typed >= count).await;
}

fn four(words: &[Vec<String>]) -> [&[String]; 4] {
    [0, 1, 2, 3].map(|at| words.get(at).map(Vec::as_slice).unwrap_or_default())
}

/// Copies the store of a device whose process is gone, with what unlocks it.
pub fn copy_store(device: &Device, to: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(to)?;
    let store = device.home().join("store");
    for entry in std::fs::read_dir(&store)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(to.to_owned())
}

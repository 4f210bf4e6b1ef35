//! The story, act by act.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use conclave_client::proto::{DocumentId, GroupId, GroupPolicy, UserId};
use conclave_client::{CrdtKind, Operation, Outcome, PinInfo};
use serde_json::json;
use tokio::sync::watch;

use super::cast::{Device, until};
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
    /// Starts the service and four devices.
    ///
    /// # Errors
    /// When a process does not start.
    pub async fn open(&mut self) -> Result<()> {
        self.narrator.step("A service and four people's devices start");
        self.narrator.say(
            "Each is a process of its own. Each device has its own folder with an encrypted store, unlocked by a passphrase or a key \
             file. They reach the service through recorders that keep every byte.",
        );
        self.service.start().await?;
        tokio::try_join!(self.laptop.start(), self.phone.start(), self.ben.start(), self.carla.start(), self.dora.start())?;
        self.narrator.seen("the service, Ana's laptop and phone, and the devices of Ben, Carla and Dora are up");
        Ok(())
    }

    /// Ana's phone becomes hers.
    ///
    /// # Errors
    /// When the enrolment fails.
    pub async fn enrol(&mut self) -> Result<()> {
        self.narrator.step("Ana's laptop approves her phone");
        self.narrator.say(
            "The phone shows a text, the laptop signs it with Ana's key, the phone countersigns. Ana's key never leaves the laptop; the \
             phone is a device of its own, which can be revoked alone.",
        );
        let request = self.phone.text(Operation::DeviceRequest).await?;
        let approval = self.laptop.text(Operation::ApproveDevice { request }).await?;
        self.phone.run(Operation::FinishDevice { approval }).await?;
        let (laptop, phone) = (self.laptop.whoami().await?, self.phone.whoami().await?);
        ensure!(phone.enrolled && phone.user == laptop.user, "the phone is not Ana's");
        for device in self.devices() {
            self.see_connection(device, true).await?;
        }
        self.narrator.seen("the phone is enrolled, and every device is logged in by its key");
        Ok(())
    }

    /// Everybody but Dora compares safety numbers.
    ///
    /// # Errors
    /// When two people see different numbers.
    pub async fn verify(&mut self) -> Result<()> {
        self.narrator.step("They verify each other");
        self.narrator.say(
            "Contact texts are exchanged outside of the service, and each pair compares a safety number. The service has no say in who \
             is who.",
        );
        let devices = [&self.laptop, &self.phone, &self.ben, &self.carla];
        let pairs = verify_pairwise(&devices).await?;
        self.narrator.seen(&format!("{pairs} pairs of devices see the same 60 digits on both sides"));
        Ok(())
    }

    /// The group is founded.
    ///
    /// # Errors
    /// When somebody does not get in.
    pub async fn found(&mut self) -> Result<GroupId> {
        self.narrator.step("Ana founds a group and invites Ben and Carla");
        self.narrator.say(
            "The group is an MLS group (RFC 9420): its members agree on fresh keys in every epoch. Its name is content, so the service \
             does not learn it.",
        );
        let name = format!("Board {}", self.canaries.plant(&mut self.rng, "name of the group"));
        self.names.push(name.clone());
        let operation = Operation::CreateGroup { name, policy: Box::new(GroupPolicy::default()) };
        let Outcome::Group(group) = self.laptop.run(operation).await? else { bail!("no group was created") };
        self.phone.join(group).await?;
        for device in [&self.ben, &self.carla] {
            self.invite(group, device).await?;
        }
        self.see_members(group, &[&self.laptop, &self.phone, &self.ben, &self.carla], 3, 4).await?;
        self.narrator.seen("three people with four devices are in; Ana's phone was added by her laptop, without anybody's doing");
        Ok(group)
    }

    async fn invite(&self, group: GroupId, device: &Device) -> Result<()> {
        let user = user(device).await?;
        self.laptop.run(Operation::Invite { group, user, role: None }).await?;
        device.join(group).await
    }

    /// Two documents are created.
    ///
    /// # Errors
    /// When they do not reach everybody.
    pub async fn write_documents(&mut self, group: GroupId, text: &str) -> Result<Desk> {
        self.narrator.step("A text and a task list become documents");
        self.narrator.say(
            "Ana imports a file as a Yjs text, Ben a JSON task list as an Automerge document. Both are sealed before they leave the device.",
        );
        let title = self.title("title of the text", "Minutes");
        let word = self.canaries.plant(&mut self.rng, "imported text");
        let text = format!("{text}\n{word}\n");
        let create = Operation::CreateDocument { group, kind: CrdtKind::Yjs, title, text: Some(text) };
        let text = created(self.laptop.run(create).await?)?;
        let title = self.title("title of the task list", "Tasks");
        let create = Operation::CreateDocument { group, kind: CrdtKind::Automerge, title, text: None };
        let list = created(self.ben.run(create).await?)?;
        let word = self.canaries.plant(&mut self.rng, "imported JSON");
        let value = json!({
            "project": word,
            "tasks": [{"title": "write the letter", "done": false}, {"title": "ask the bank", "done": true}],
            "edits": {},
        });
        self.ben.run(Operation::EditJson { group, document: list, base: None, value }).await?;
        let desk = Desk { group, text, json: list };
        self.measured.documents = 2;
        let members = [&self.laptop, &self.phone, &self.ben, &self.carla];
        for device in members {
            self.see_documents(&desk, device).await?;
        }
        self.agree(&desk, &members).await?;
        self.narrator.seen("all four devices show both documents");
        Ok(desk)
    }

    fn title(&mut self, place: &str, kind: &str) -> String {
        let title = format!("{kind} {}", self.canaries.plant(&mut self.rng, place));
        self.names.push(title.clone());
        title
    }

    async fn see_documents(&self, desk: &Desk, device: &Device) -> Result<()> {
        until(&format!("{} sees the documents", device.name), async || {
            let list = device.run(Operation::Documents { group: desk.group }).await?;
            let Outcome::Documents(list) = list else { bail!("{} gave an unexpected answer", device.name) };
            Ok([desk.text, desk.json].iter().all(|id| list.iter().any(|info| info.document == *id && info.title.is_some())))
        })
        .await
    }

    /// Everybody types at once; Ben is cut off for half of it.
    ///
    /// # Errors
    /// When the devices do not come to show the same.
    pub async fn type_together(&mut self, desk: &Desk) -> Result<()> {
        self.narrator.step("Everybody types at the same time, Ben without a network");
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
        self.agree(desk, &[&self.laptop, &self.phone, &self.ben, &self.carla]).await?;
        let edits = 4 * EDITS_TOGETHER;
        self.narrator.seen(&format!("{edits} edits merged; {pending} of Ben's were waiting on his disk when his network came back"));
        Ok(())
    }

    /// The service and a device are killed in mid-edit.
    ///
    /// # Errors
    /// When something does not come back, or the devices do not come to show the same.
    pub async fn kill_in_mid_edit(&mut self, desk: &Desk) -> Result<()> {
        self.narrator.step("The service and a device are killed in the middle of it");
        self.narrator.say(
            "Both get SIGKILL while everybody types: no warning, no time to save. What was acknowledged has to be there afterwards; what was \
             not, is sent again.",
        );
        let words = self.plant_words(4, EDITS_WHILE_KILLING, "processes are killed");
        let typed = watch::Sender::new(0);
        let total = 4 * EDITS_WHILE_KILLING;
        let Self { service, laptop, phone, ben, carla, .. } = self;
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
        self.agree(desk, &[&self.laptop, &self.phone, &self.ben, &self.carla]).await?;
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
        verify_pairwise(&[&self.dora, &self.laptop, &self.phone, &self.ben, &self.carla]).await?;
        self.invite(desk.group, &self.dora).await?;
        self.see_members(desk.group, &self.devices(), 4, 5).await?;
        desk.synced(&self.dora).await?;
        let (hers, anas) = (desk.page(&self.dora).await?.contents(), desk.page(&self.laptop).await?.contents());
        self.measured.joiner_read = hers.iter().zip(&anas).filter(|(hers, anas)| hers == anas).count();
        let words = self.plant_words(2, EDITS_AFTER_JOIN, "somebody joins");
        let typed = watch::Sender::new(0);
        let [hers, anas] = [words.first(), words.get(1)].map(|words| words.map(Vec::as_slice).unwrap_or_default());
        tokio::try_join!(desk.type_words(&self.dora, hers, &typed), desk.type_words(&self.laptop, anas, &typed))?;
        self.agree(desk, &self.devices()).await?;
        self.narrator.seen("she read both documents and edits them like everybody else");
        Ok(())
    }

    /// Carla is removed.
    ///
    /// # Errors
    /// When the removal or the re-keying fails.
    pub async fn remove(&mut self, desk: &Desk) -> Result<Removal> {
        self.narrator.step("Carla is removed, and every document is re-keyed");
        self.narrator.say(
            "A copy of her store is kept from before, as a thief would. From the removal on the service takes only what is sealed under new \
             keys. Ana's device puts every document under them.",
        );
        let group = desk.group;
        self.carla.kill().await?;
        let before = copy_store(&self.carla, &self.folder.join("carla-before"))?;
        self.carla.start().await?;
        self.measured.restarts += 1;
        let removed = self.laptop.run(Operation::Remove { group, user: user(&self.carla).await? }).await?;
        let Outcome::Removed { epoch, documents, elapsed_ms } = removed else { bail!("the removal has no report") };
        let seconds = elapsed_ms as f64 / 1000.0;
        self.narrator.seen(&format!("epoch {epoch} began; {documents} documents (titles included) re-keyed in {seconds:.2} s"));
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
            until(&format!("{} knows that re-keying is complete", device.name), async || {
                Ok(device.group(group).await?.is_some_and(|info| info.rotating_since.is_none()))
            })
            .await?;
        }
        self.measured.rotation_complete = true;
        until("Carla's device knows that it was removed", async || {
            Ok(self.carla.group(group).await?.is_none_or(|info| !info.active))
        })
        .await?;
        self.narrator.seen("every remaining device knows that re-keying is complete; Carla's knows that it is out");
        self.carla.kill().await?;
        let after = copy_store(&self.carla, &self.folder.join("carla-after"))?;
        Ok(Removal { epoch, copies: vec![before, after] })
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
        let same = if self.measured.converged() { "the same" } else { "different things" };
        self.narrator.seen(&format!("four devices show {same}; {lost} of {} edits are missing or doubled", self.words.len()));
        Ok(())
    }
}

/// Each pair of different users exchanges contact texts and compares numbers. Gives the number of pairs.
async fn verify_pairwise(devices: &[&Device]) -> Result<usize> {
    let mut pairs = 0;
    for (at, one) in devices.iter().enumerate() {
        for other in devices.iter().skip(at + 1) {
            let (mine, theirs) = (one.whoami().await?, other.whoami().await?);
            if mine.user == theirs.user {
                continue;
            }
            let (mine, theirs) = (mine.contact.context("no contact text")?, theirs.contact.context("no contact text")?);
            let (here, there) = (pin(one, &theirs, false).await?, pin(other, &mine, false).await?);
            ensure!(here.safety_number == there.safety_number, "{} and {} see different numbers", one.name, other.name);
            pin(one, &theirs, true).await?;
            pin(other, &mine, true).await?;
            pairs += 1;
        }
    }
    Ok(pairs)
}

async fn pin(device: &Device, contact: &str, verified: bool) -> Result<PinInfo> {
    match device.run(Operation::Verify { contact: contact.to_owned(), verified }).await? {
        Outcome::Contact(pin) => Ok(pin),
        _ => bail!("{} gave an unexpected answer", device.name),
    }
}

async fn user(device: &Device) -> Result<UserId> {
    device.whoami().await?.user.with_context(|| format!("{} has no user", device.name))
}

async fn pending(device: &Device) -> Result<usize> {
    match device.run(Operation::Status).await? {
        Outcome::Status(status) => Ok(status.pending),
        _ => bail!("{} gave an unexpected answer", device.name),
    }
}

fn created(outcome: Outcome) -> Result<DocumentId> {
    match outcome {
        Outcome::Document(document) => Ok(document),
        _ => bail!("no document was created"),
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

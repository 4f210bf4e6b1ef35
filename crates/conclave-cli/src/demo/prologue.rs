//! How the story begins: processes, identities, a group, documents.

use anyhow::{Context as _, Result, bail, ensure};
use conclave_client::proto::{DocumentId, GroupId, GroupPolicy, UserId};
use conclave_client::{CrdtKind, FirstContent, Operation, Outcome, PinInfo};
use serde_json::json;

use super::cast::{Device, until};
use super::stage::Stage;
use super::typing::Desk;

impl Stage<'_> {
    /// Starts the service and four devices.
    ///
    /// # Errors
    /// When a process does not start.
    pub async fn open(&mut self) -> Result<()> {
        self.narrator
            .step("A service and four people's devices start");
        self.narrator.say(
            "Each is a process of its own. Each device has its own folder with an encrypted store, unlocked by a passphrase or a key \
             file. They reach the service through recorders that keep every byte.",
        );
        self.service.start().await?;
        tokio::try_join!(
            self.laptop.start(),
            self.phone.start(),
            self.ben.start(),
            self.carla.start(),
            self.dora.start()
        )?;
        self.narrator.seen(
            "the service, Ana's laptop and phone, and the devices of Ben, Carla and Dora are up",
        );
        Ok(())
    }

    /// Ana's phone becomes hers.
    ///
    /// # Errors
    /// When the enrolment fails.
    pub async fn enrol(&mut self) -> Result<()> {
        self.narrator.step("Ana's laptop approves her phone");
        self.narrator.say(
            "The phone shows a text and a code, the laptop signs the text with Ana's key, the phone countersigns. The phone is a device of its \
             own, which can be revoked alone; a copy of Ana's key goes along, sealed to it, so that losing the laptop is not the end.",
        );
        let Outcome::Request(request) = self.phone.run(Operation::DeviceRequest).await? else {
            bail!("the phone gave an unexpected answer");
        };
        let approve = Operation::ApproveDevice(request.approved());
        let approval = self.laptop.text(approve).await?;
        self.phone.run(Operation::FinishDevice { approval }).await?;
        let (laptop, phone) = (self.laptop.whoami().await?, self.phone.whoami().await?);
        ensure!(
            phone.enrolled && phone.user == laptop.user,
            "the phone is not Ana's"
        );
        for device in self.devices() {
            self.see_connection(device, true).await?;
        }
        self.narrator
            .seen("the phone is enrolled, and every device is logged in by its key");
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
        self.narrator.seen(&format!(
            "{pairs} pairs of devices see the same 60 digits on both sides"
        ));
        Ok(())
    }

    /// The group is founded.
    ///
    /// # Errors
    /// When somebody does not get in.
    pub async fn found(&mut self) -> Result<GroupId> {
        self.narrator
            .step("Ana founds a group and invites Ben and Carla");
        self.narrator.say(
            "The members agree on fresh keys after every change of their number, by the standard for that (RFC 9420). The name is content, so the service \
             does not learn it.",
        );
        let name = format!(
            "Board {}",
            self.canaries.plant(&mut self.rng, "name of the group")
        );
        self.names.push(name.clone());
        let operation = Operation::CreateGroup {
            name,
            policy: Box::new(GroupPolicy::default()),
        };
        let Outcome::Group(group) = self.laptop.run(operation).await? else {
            bail!("no group was created")
        };
        self.phone.join(group).await?;
        for device in [&self.ben, &self.carla] {
            self.invite(group, device).await?;
        }
        self.see_members(
            group,
            &[&self.laptop, &self.phone, &self.ben, &self.carla],
            3,
            4,
        )
        .await?;
        self.narrator.seen("three people with four devices are in; Ana's phone was added by her laptop, without anybody's doing");
        Ok(group)
    }

    /// Invites a device's user and waits until the device is in.
    ///
    /// # Errors
    /// When it does not get in.
    pub async fn invite(&self, group: GroupId, device: &Device) -> Result<()> {
        let user = user(device).await?;
        self.laptop
            .run(Operation::Invite {
                group,
                user,
                role: None,
            })
            .await?;
        device.join(group).await
    }

    /// Two documents are created.
    ///
    /// # Errors
    /// When they do not reach everybody.
    pub async fn write_documents(&mut self, group: GroupId, text: &str) -> Result<Desk> {
        self.narrator
            .step("A text and a task list become documents");
        self.narrator.say(
            "Ana imports a file as a Yjs text, Ben a JSON task list as an Automerge document. Both are sealed before they leave the device.",
        );
        let title = self.title("title of the text", "Minutes");
        let word = self.canaries.plant(&mut self.rng, "imported text");
        let text = format!("{text}\n{word}\n");
        let create = Operation::CreateDocument {
            group,
            kind: CrdtKind::Yjs,
            title,
            content: Some(FirstContent::Text(text)),
        };
        let text = created(self.laptop.run(create).await?)?;
        let title = self.title("title of the task list", "Tasks");
        let create = Operation::CreateDocument {
            group,
            kind: CrdtKind::Automerge,
            title,
            content: None,
        };
        let list = created(self.ben.run(create).await?)?;
        let word = self.canaries.plant(&mut self.rng, "imported JSON");
        let value = json!({
            "project": word,
            "tasks": [{"title": "write the letter", "done": false}, {"title": "ask the bank", "done": true}],
            "edits": {},
        });
        self.ben
            .run(Operation::EditJson {
                group,
                document: list,
                base: None,
                value,
            })
            .await?;
        let desk = Desk {
            group,
            text,
            json: list,
        };
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
            let list = device
                .run(Operation::Documents { group: desk.group })
                .await?;
            let Outcome::Documents(list) = list else {
                bail!("{} gave an unexpected answer", device.name)
            };
            Ok([desk.text, desk.json].iter().all(|id| {
                list.iter()
                    .any(|info| info.document == *id && info.title.is_some())
            }))
        })
        .await
    }
}

/// Each pair of different users exchanges contact texts and compares numbers. Gives the number of pairs.
pub async fn verify_pairwise(devices: &[&Device]) -> Result<usize> {
    let mut pairs = 0;
    for (at, one) in devices.iter().enumerate() {
        for other in devices.iter().skip(at + 1) {
            let (mine, theirs) = (one.whoami().await?, other.whoami().await?);
            if mine.user == theirs.user {
                continue;
            }
            let (mine, theirs) = (
                mine.contact.context("no contact text")?,
                theirs.contact.context("no contact text")?,
            );
            let (here, there) = (
                pin(one, &theirs, false).await?,
                pin(other, &mine, false).await?,
            );
            ensure!(
                here.safety_number == there.safety_number,
                "{} and {} see different numbers",
                one.name,
                other.name
            );
            pin(one, &theirs, true).await?;
            pin(other, &mine, true).await?;
            pairs += 1;
        }
    }
    Ok(pairs)
}

async fn pin(device: &Device, contact: &str, verified: bool) -> Result<PinInfo> {
    match device
        .run(Operation::Verify {
            contact: contact.to_owned(),
            name: None,
            verified,
        })
        .await?
    {
        Outcome::Contact(pin) => Ok(pin),
        _ => bail!("{} gave an unexpected answer", device.name),
    }
}

/// Whose device it is.
pub async fn user(device: &Device) -> Result<UserId> {
    device
        .whoami()
        .await?
        .user
        .with_context(|| format!("{} has no user", device.name))
}

fn created(outcome: Outcome) -> Result<DocumentId> {
    match outcome {
        Outcome::Document(document) => Ok(document),
        _ => bail!("no document was created"),
    }
}

//! What happens in the session.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use conclave_crdt::{Crdt, CrdtKind};
use conclave_engine::{Command, Reply};
use conclave_identity::ServiceKey;
use conclave_proto::codec::decode;
use conclave_proto::frame::{Answer, ServiceFrame};
use conclave_proto::{DocumentId, GroupId, GroupPolicy, Role, UserId};
use conclave_testkit::service::ORIGIN;

use super::super::LIMIT_BYTES;
use super::super::page::Page;
use super::documents::{Roots, content};
use super::world::{SERVICE_SEED, World};
use super::{Event, Hex, Person, ServiceKeys, Session, Way};

const ABOUT: &str = "A recorded session of PROTOCOL.md: three people, one service. All frames in the order in which the service took (up) \
    and sent (down) them, without the framing of section 13.1. Every key in here was made for this recording, was published with it, and \
    protects nothing.";

/// Plays the story and records it.
///
/// # Errors
/// Where something in it fails.
pub fn record(page: &Page) -> Result<Session> {
    let mut story = Story {
        world: World::new(page),
        users: Vec::new(),
        group: GroupId::ZERO,
    };
    let documents = story.tell()?;
    story.session(&documents)
}

struct Story<'p> {
    world: World<'p>,
    users: Vec<UserId>,
    group: GroupId,
}

const ANNA: usize = 0;
const BORIS: usize = 1;
const CLEO: usize = 2;

impl Story<'_> {
    fn tell(&mut self) -> Result<Vec<(&'static str, DocumentId, CrdtKind)>> {
        let mut contacts = Vec::new();
        for name in ["Anna", "Boris", "Cleo"] {
            self.world.step(&format!(
                "{name} begins: a user with one device, which logs in"
            ));
            let at = self.world.add(name)?;
            let Reply::WhoAmI(me) = self.world.ask(at, Command::WhoAmI)? else {
                bail!("nobody")
            };
            self.users.push(me.user.context("no user")?);
            contacts.push(me.contact.context("no contact")?);
        }
        for (at, contact) in [(ANNA, 1), (ANNA, 2), (BORIS, 0), (CLEO, 0)] {
            let contact = contacts.get(contact).context("no contact")?.clone();
            let (name, verified) = (None, true);
            self.world.ask(
                at,
                Command::Pin {
                    contact,
                    name,
                    verified,
                },
            )?;
        }

        self.world.step("Anna founds the group \"Board\"");
        let name = "Board".to_owned();
        let policy = Box::new(GroupPolicy::default());
        let create = Command::CreateGroup { name, policy };
        let Reply::Group(group) = self.world.ask(ANNA, create)? else {
            bail!("no group")
        };
        self.group = group;
        self.world
            .step("Anna creates the document \"Minutes\", a text of Yjs");
        let minutes = self.create(ANNA, CrdtKind::Yjs, "Minutes", "Those present: Anna. ")?;
        self.invite(BORIS, "Boris", None)?;
        self.invite(CLEO, "Cleo", Some(Role::Editor))?;
        self.world.step("Boris and Cleo write into the minutes");
        self.edit(BORIS, minutes, "Boris came later. ")?;
        self.edit(CLEO, minutes, "So did Cleo. ")?;
        self.world
            .step("Boris creates the document \"Plan\", a text of Automerge");
        let plan = self.create(BORIS, CrdtKind::Automerge, "Plan", "1. Begin. ")?;
        self.world.step("Cleo and Anna write into the plan");
        self.edit(CLEO, plan, "2. Go on. ")?;
        self.edit(ANNA, plan, "3. End. ")?;

        self.world
            .step("Anna removes Cleo; every document is re-keyed");
        let (group, user) = (self.group, *self.users.get(CLEO).context("no user")?);
        self.world.ask(ANNA, Command::Remove { group, user })?;
        self.world
            .step("Boris and Anna write what Cleo cannot read");
        self.edit(BORIS, minutes, "Cleo has left. ")?;
        self.edit(ANNA, plan, "4. Without Cleo. ")?;
        Ok(vec![
            (
                "the directory",
                DocumentId::directory(&group),
                CrdtKind::Yjs,
            ),
            ("Minutes", minutes, CrdtKind::Yjs),
            ("Plan", plan, CrdtKind::Automerge),
        ])
    }

    fn create(&mut self, at: usize, kind: CrdtKind, title: &str, text: &str) -> Result<DocumentId> {
        let (group, title, text) = (self.group, title.to_owned(), text.to_owned());
        let create = Command::CreateDocument {
            group,
            kind,
            title,
            initial: Some(Box::new(move |crdt| append(crdt, &text))),
        };
        match self.world.ask(at, create)? {
            Reply::Document(document) => Ok(document),
            _ => bail!("no document"),
        }
    }

    fn invite(&mut self, at: usize, name: &str, role: Option<Role>) -> Result<()> {
        self.world.step(&format!("Anna invites {name}"));
        let (group, user) = (self.group, *self.users.get(at).context("no user")?);
        self.world
            .ask(ANNA, Command::Invite { group, user, role })?;
        self.world.step(&format!("{name} accepts"));
        self.world.ask(at, Command::Accept { group })?;
        Ok(())
    }

    fn edit(&mut self, at: usize, document: DocumentId, text: &str) -> Result<()> {
        let (group, text) = (self.group, text.to_owned());
        let f = Box::new(move |crdt: &mut dyn Crdt| append(crdt, &text));
        self.world.ask(at, Command::Edit { group, document, f })?;
        Ok(())
    }

    fn session(self, documents: &[(&str, DocumentId, CrdtKind)]) -> Result<Session> {
        let Self {
            world,
            users,
            group,
        } = self;
        let service = ServiceKey::from_bytes(&[SERVICE_SEED; 32]);
        let mut people = Vec::new();
        for (device, user) in world.devices.iter().zip(&users) {
            let seeds = world.secrets.seeds.get(&device.name).context("no keys")?;
            let ids = world.service.state(&group).context("no group")?;
            let row = ids.roster.rows().iter().find(|row| row.user == *user);
            people.push(Person {
                name: device.name.clone(),
                user: Hex::of(user.as_bytes()),
                user_seed: Hex::of(seeds.user_key.context("no user key")?),
                device: Hex::of(row.context("never a member")?.device.as_bytes()),
                device_seed: Hex::of(seeds.device_key),
            });
        }
        let mut key_packages = Vec::new();
        for claimed in claimed(&world.events)? {
            key_packages.extend(world.secrets.package(&claimed));
        }
        let epochs: Vec<_> = world.secrets.epochs.into_values().collect();
        let roots = Roots::of(&epochs)?;
        let mut contents = Vec::new();
        for (what, document, kind) in documents {
            let records = world.service.records(&group, document);
            contents.push(content(what, *document, *kind, &records, &people, &roots)?);
        }
        Ok(Session {
            about: ABOUT.to_owned(),
            service: ServiceKeys {
                origin: ORIGIN.to_owned(),
                seed: Hex::of([SERVICE_SEED; 32]),
                key: Hex::of(service.public()),
            },
            people,
            key_packages,
            group: Hex::of(group.as_bytes()),
            epochs,
            documents: contents,
            frames: world.events,
        })
    }
}

fn append(crdt: &mut dyn Crdt, text: &str) -> Result<(), conclave_crdt::CrdtError> {
    let Some(view) = crdt.text() else {
        return Ok(());
    };
    let end = view.len()?;
    view.splice(end, 0, text)
}

/// Key packages that were handed out.
fn claimed(events: &[Event]) -> Result<BTreeSet<Vec<u8>>> {
    let mut all = BTreeSet::new();
    for event in events {
        let Event::Frame(frame) = event else { continue };
        if frame.way == Way::Up {
            continue;
        }
        let read: ServiceFrame = decode("frame", &frame.frame.0, LIMIT_BYTES)?;
        if let ServiceFrame::Response {
            answer: Answer::KeyPackages { packages },
            ..
        } = read
        {
            all.extend(packages.into_iter().map(|it| it.key_package.into_vec()));
        }
    }
    Ok(all)
}

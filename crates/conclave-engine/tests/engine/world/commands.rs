//! What users ask of their devices.

use std::sync::{Arc, Mutex};

use conclave_crdt::CrdtKind;
use conclave_engine::{ClockOffset, Status};
use conclave_rules::GroupState;

use super::*;

impl World {
    pub fn command(&mut self, at: usize, command: Command) -> CommandId {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        self.input(at, Input::Command { id, command });
        id
    }

    pub fn reply(&self, at: usize, id: CommandId) -> Option<Result2> {
        self.devices[at].replies.get(&id).cloned()
    }

    /// Runs a command to its reply. None: the device started again before.
    pub fn call(&mut self, at: usize, command: Command) -> Option<Result2> {
        let lives = self.devices[at].restarts;
        let id = self.command(at, command);
        let found = self.reply(at, id);
        if found.is_some() {
            return found;
        }
        self.run();
        let found = self.reply(at, id);
        assert!(
            found.is_some() || self.devices[at].restarts > lives,
            "seed {}: no reply",
            self.seed
        );
        found
    }

    pub fn ask(&mut self, at: usize, command: Command) -> Reply {
        match self.call(at, command) {
            Some(Ok(reply)) => reply,
            other => panic!(
                "seed {}: {other:?}; findings: {:?}",
                self.seed,
                self.findings(at)
            ),
        }
    }

    /// Asks for something that changes nothing: again, if the device starts again in between.
    pub fn look(&mut self, at: usize, make: impl Fn() -> Command) -> Reply {
        match self.call(at, make()) {
            None => self.ask(at, make()),
            Some(Ok(reply)) => reply,
            Some(Err(error)) => panic!("seed {}: {error}", self.seed),
        }
    }

    pub fn create_group(&mut self, at: usize) -> GroupId {
        self.create_group_with(at, GroupPolicy::default())
    }

    pub fn create_group_with(&mut self, at: usize, policy: GroupPolicy) -> GroupId {
        let name = "Board".to_owned();
        let policy = Box::new(policy);
        let Reply::Group(group) = self.ask(at, Command::CreateGroup { name, policy }) else {
            panic!("no group")
        };
        self.run();
        group
    }

    pub fn invite(&mut self, group: GroupId, at: usize, other: usize, role: Option<Role>) {
        let user = self.devices[other].user;
        self.ask(at, Command::Invite { group, user, role });
        self.run();
        self.ask(other, Command::Accept { group });
        self.run();
    }

    pub fn create_document(&mut self, group: GroupId, at: usize, text: &str) -> DocumentId {
        let command = create(group, "minutes", text);
        let Reply::Document(document) = self.ask(at, command) else {
            panic!("no document")
        };
        self.run();
        document
    }

    pub fn edit(&mut self, at: usize, group: GroupId, document: DocumentId, text: &str) {
        self.ask(at, edit(group, document, text));
    }

    pub fn text(&mut self, at: usize, group: GroupId, document: DocumentId) -> String {
        let found = Arc::new(Mutex::new(String::new()));
        self.look(at, || {
            let to = found.clone();
            let f = Box::new(move |crdt: &mut dyn conclave_crdt::Crdt| {
                *to.lock().unwrap() = crdt.text().unwrap().text()?;
                Ok(())
            });
            Command::View { group, document, f }
        });
        found.lock().unwrap().clone()
    }

    pub fn clock(&mut self, at: usize) -> Option<ClockOffset> {
        let Reply::Status(status) = self.look(at, || Command::Status) else {
            panic!("no status")
        };
        status.clock
    }

    /// A group's public state at the service.
    pub fn status(&mut self, at: usize) -> Status {
        match self.look(at, || Command::Status) {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    pub fn state(&self, group: GroupId) -> GroupState {
        self.service.state(&group).expect("a group")
    }

    pub fn info(&mut self, at: usize, group: GroupId) -> Option<GroupInfo> {
        let Reply::Groups(groups) = self.look(at, || Command::Groups) else {
            panic!("no groups")
        };
        groups.into_iter().find(|info| info.group == group)
    }
}

pub fn create(group: GroupId, title: &str, text: &str) -> Command {
    let text = text.to_owned();
    Command::CreateDocument {
        group,
        kind: CrdtKind::Yjs,
        title: title.to_owned(),
        initial: Some(Box::new(move |crdt| {
            crdt.text().unwrap().splice(0, 0, &text)
        })),
    }
}

pub fn edit(group: GroupId, document: DocumentId, text: &str) -> Command {
    let text = text.to_owned();
    let f = Box::new(move |crdt: &mut dyn conclave_crdt::Crdt| {
        let view = crdt.text().unwrap();
        let end = view.len()?;
        view.splice(end, 0, &text)
    });
    Command::Edit { group, document, f }
}

//! Rooms around a hub, in a time of their own.

#![allow(dead_code)]

use std::collections::BTreeMap;

use conclave_doc::DocKeys;
use conclave_identity::{DeviceKey, SignatureKey};
use conclave_mls::Secret32;
use conclave_presence::{Change, Held, Here, Refused, Room, StateId, Step, View};
use conclave_proto::codec::Bytes;
use conclave_proto::presence::{PresenceItem, Shown, ShownState};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, SessionId};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;

pub const GROUP: GroupId = GroupId([1; 16]);
pub const DOCUMENT: DocumentId = DocumentId([2; 16]);

pub fn author(of: usize) -> Author {
    let mut device = DeviceId([7; 16]);
    device.0[..8].copy_from_slice(&(of as u64).to_be_bytes());
    Author {
        device,
        instance: InstanceId([1; 8]),
    }
}

pub fn head(size: u64) -> Head {
    let mut root = Hash([9; 32]);
    root.0[..8].copy_from_slice(&size.to_be_bytes());
    Head { size, root }
}

pub fn state(index: u8, text: &str) -> ShownState {
    ShownState {
        index,
        kind: 3,
        value: Bytes::from(text.as_bytes()),
    }
}

/// One state; none where there is no text.
pub fn shows(text: &str) -> Shown {
    let states = (!text.is_empty()).then(|| state(0, text));
    Shown {
        states: states.into_iter().collect(),
    }
}

/// One device's log and members.
pub struct Log {
    pub base: u64,
    pub size: u64,
    pub members: BTreeMap<DeviceId, SignatureKey>,
}

impl View for Log {
    fn head(&self) -> Head {
        head(self.size)
    }

    fn held(&self, size: u64) -> Held {
        match size {
            size if size > self.size => Held::Ahead,
            size if size < self.base => Held::Below,
            size => Held::Known(head(size)),
        }
    }

    fn key_of(&self, device: &DeviceId) -> Option<SignatureKey> {
        self.members.get(device).cloned()
    }
}

pub struct Seat {
    pub author: Author,
    pub room: Room,
    pub key: DeviceKey,
    pub log: Log,
    pub epoch: u64,
    pub changes: Vec<Change>,
    pub refused: Vec<Refused>,
    /// Messages that came here.
    pub delivered: usize,
}

pub struct Hub {
    pub now_ms: u64,
    pub seats: BTreeMap<usize, Seat>,
    pub rng: ChaCha20Rng,
    /// Everything that was ever sent.
    pub tape: Vec<(Author, PresenceItem)>,
}

pub fn keys(epoch: u64) -> DocKeys {
    DocKeys::of_presence(
        &Secret32::new([u8::try_from(epoch).unwrap(); 32]),
        &DOCUMENT,
    )
}

pub fn device_key(of: usize) -> DeviceKey {
    DeviceKey::from_bytes(&[u8::try_from(of % 250).unwrap() + 1; 32])
}

impl Hub {
    pub fn new(seed: u64) -> Self {
        Self {
            now_ms: 1_000,
            seats: BTreeMap::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            tape: Vec::new(),
        }
    }

    /// A group of so many, in which all of `at` have the document open.
    pub fn of(members: usize, at: &[usize]) -> Self {
        let mut hub = Self::new(7);
        for of in at {
            hub.sit(*of, members, 0);
        }
        hub
    }

    /// Somebody opens the document.
    pub fn sit(&mut self, of: usize, members: usize, counter: u64) {
        self.enter(of, members, counter, 0);
    }

    /// As [`Self::sit`], and asks who is there so much later.
    pub fn enter(&mut self, of: usize, members: usize, counter: u64, wait_ms: u64) {
        let members = (0..members)
            .map(|of| {
                let key = device_key(of).public().to_vec();
                (author(of).device, SignatureKey::from(key))
            })
            .collect();
        let seat = Seat {
            author: author(of),
            room: Room::new(GROUP, DOCUMENT, author(of), counter, &mut self.rng),
            key: device_key(of),
            log: Log {
                base: 0,
                size: 5,
                members,
            },
            epoch: 1,
            changes: Vec::new(),
            refused: Vec::new(),
            delivered: 0,
        };
        self.seats.insert(of, seat);
        let step = self.at(of, |room, here| room.join(wait_ms, here));
        self.pass(of, step);
    }

    /// One call of one room.
    pub fn at<T>(&mut self, of: usize, call: impl FnOnce(&mut Room, &mut Here<'_>) -> T) -> T {
        let seat = self.seats.get_mut(&of).unwrap();
        let mut here = Here {
            now_ms: self.now_ms,
            epoch: seat.epoch,
            keys: &keys(seat.epoch),
            signer: &seat.key,
            view: &seat.log,
            rng: &mut self.rng,
        };
        call(&mut seat.room, &mut here)
    }

    pub fn show(&mut self, of: usize, text: &str) {
        let step = self
            .at(of, |room, here| room.show(shows(text), here))
            .unwrap();
        self.pass(of, step);
    }

    /// Ends a session; `told` says whether the others hear of it.
    pub fn leave(&mut self, of: usize, told: bool) -> u64 {
        let step = self.at(of, Room::leave);
        let counter = self.seats[&of].room.counter();
        if told {
            self.pass(of, step);
        }
        self.seats.remove(&of);
        counter
    }

    /// Takes what a call of a room gave.
    pub fn pass(&mut self, of: usize, step: Step) {
        let from = self.seats[&of].author;
        self.seats
            .get_mut(&of)
            .unwrap()
            .changes
            .extend(step.changes);
        for item in step.send {
            self.tape.push((from, item.clone()));
            self.carry(from, &item);
        }
    }

    /// What the service does with a message.
    pub fn carry(&mut self, from: Author, item: &PresenceItem) {
        let all: Vec<usize> = self.seats.keys().copied().collect();
        for of in all {
            let seat = &self.seats[&of];
            let is_for = item.to.is_none_or(|to| to == seat.room.session());
            if seat.author != from && is_for {
                self.deliver(of, from, item.clone());
            }
        }
    }

    pub fn deliver(&mut self, of: usize, from: Author, item: PresenceItem) {
        self.seats.get_mut(&of).unwrap().delivered += 1;
        match self.at(of, |room, here| room.receive(from, item, here)) {
            Ok(step) => self.pass(of, step),
            Err(refused) => self.seats.get_mut(&of).unwrap().refused.push(refused),
        }
    }

    /// Lets time pass; all that becomes due is done at its time.
    pub fn wait(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        loop {
            let next = self
                .seats
                .iter()
                .filter_map(|(of, seat)| Some((seat.room.due_ms()?, *of)))
                .min()
                .filter(|(due_ms, _)| *due_ms <= until_ms);
            let Some((due_ms, of)) = next else {
                break;
            };
            self.now_ms = self.now_ms.max(due_ms);
            let step = self.at(of, |room, here| room.tick(here));
            assert!(
                self.seats[&of]
                    .room
                    .due_ms()
                    .is_none_or(|ms| ms > self.now_ms),
                "a room has done what is due"
            );
            self.pass(of, step);
        }
        self.now_ms = until_ms;
    }

    /// What one sees of the others, by number.
    pub fn sees(&self, of: usize) -> Vec<(usize, String)> {
        let seen = self.seats[&of].room.others().map(|(id, state)| {
            let number = u64::from_be_bytes(id.author.device.0[..8].try_into().unwrap());
            let text = String::from_utf8(state.value.as_slice().to_vec()).unwrap();
            (usize::try_from(number).unwrap(), text)
        });
        seen.collect()
    }

    pub fn delivered(&self) -> usize {
        self.seats.values().map(|seat| seat.delivered).sum()
    }

    pub fn id(&self, of: usize, index: u8) -> StateId {
        StateId {
            author: author(of),
            session: self.session(of),
            index,
        }
    }

    pub fn session(&self, of: usize) -> SessionId {
        self.seats[&of].room.session()
    }
}

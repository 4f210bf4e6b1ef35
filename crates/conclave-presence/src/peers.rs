//! What is known of the others: for each author the highest counter, the session that has proven itself, and the one that is being asked.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::presence::{Shown, ShownState};
use conclave_proto::{Author, DeviceId, SessionId};

use crate::room::{Change, StateId};

/// Without a message for so long a peer is no longer shown, in milliseconds.
pub(crate) const EXPIRY_MS: u64 = 30_000;
/// Longest wait before one is asked for the first time, in milliseconds: not all at once.
pub(crate) const JITTER_MS: u64 = 300;
/// After the first time, one who is silent is asked again after so long, in milliseconds.
const AGAIN_MS: [u64; 2] = [2_000, 6_000];
/// A device is asked or answered at most once in so long, in milliseconds.
const PACE_MS: u64 = 2_000;
/// Most instances of one device that are remembered. An honest device has one, and another after each time that it was put back.
const INSTANCES: usize = 8;

/// One author, as far as it is known here.
#[derive(Default)]
pub(crate) struct Peer {
    /// Highest counter of any message that was taken: nothing at or below it is taken again.
    highest: Option<u64>,
    proven: Option<Proven>,
    asking: Option<Asking>,
}

/// A session that has sent back this one's nonce.
struct Proven {
    session: SessionId,
    shown: Shown,
    heard_ms: u64,
}

/// A session that has yet to prove itself.
struct Asking {
    session: SessionId,
    /// Its nonce, where it has told it.
    nonce: Option<[u8; 16]>,
    /// How often it was asked.
    asked: usize,
    /// When it is asked next; not any more.
    due_ms: Option<u64>,
    /// When it is given up.
    until_ms: u64,
}

impl Asking {
    /// It is asked now.
    fn ask(&mut self, now_ms: u64) -> Ask {
        let pause_ms = AGAIN_MS.get(self.asked);
        self.due_ms = pause_ms.map(|pause_ms| now_ms.saturating_add(*pause_ms));
        self.asked = self.asked.saturating_add(1);
        Ask {
            session: self.session,
            nonce: self.nonce,
        }
    }
}

/// What is to be said to a session that has yet to prove itself.
pub(crate) struct Ask {
    pub(crate) session: SessionId,
    /// Its nonce, where it has told it: then it gets a reply, otherwise a hello.
    pub(crate) nonce: Option<[u8; 16]>,
}

/// What became due of an author.
pub(crate) enum Due {
    Ask(Ask),
    /// What it showed is no longer shown.
    Expired(Vec<Change>),
}

#[derive(Default)]
struct Device {
    authors: BTreeSet<Author>,
    /// Before this it is not asked or greeted back again, in milliseconds.
    paced_ms: u64,
    /// Before this none of its proofs is answered again, in milliseconds.
    answered_ms: u64,
}

/// All that are known.
#[derive(Default)]
pub(crate) struct Peers {
    peers: BTreeMap<Author, Peer>,
    devices: BTreeMap<DeviceId, Device>,
    /// When which author has to be looked at, in milliseconds: one time for each, never later than what it stands for.
    due: BTreeSet<(u64, Author)>,
    due_of: BTreeMap<Author, u64>,
}

impl Peers {
    /// Whether a message with this counter is newer than everything that was taken of its author.
    pub(crate) fn is_new(&self, author: &Author, counter: u64) -> bool {
        let highest = self.peers.get(author).and_then(|peer| peer.highest);
        // Breakage: what was taken is taken again.
        highest.is_none_or(|highest| counter > highest) || crate::broken("presence-replay")
    }

    /// Takes note of a message that is its author's. Returns what had to be forgotten for it of another that was shown.
    pub(crate) fn heard(&mut self, author: Author, counter: u64) -> Vec<Change> {
        let mut forgotten = Vec::new();
        if !self.peers.contains_key(&author) {
            forgotten = self.make_room(&author.device);
            self.devices
                .entry(author.device)
                .or_default()
                .authors
                .insert(author);
        }
        self.peers.entry(author).or_default().highest = Some(counter);
        forgotten
    }

    /// A device that draws ever new instances is forgotten in part; others are not.
    fn make_room(&mut self, device: &DeviceId) -> Vec<Change> {
        let known = self.devices.get(device);
        let Some(known) = known.filter(|known| known.authors.len() >= INSTANCES) else {
            return Vec::new();
        };
        let idle = known
            .authors
            .iter()
            .find(|author| !self.peers.get(author).is_some_and(Peer::is_there));
        match idle.or(known.authors.first()).copied() {
            Some(author) => self.forget(&author),
            None => Vec::new(),
        }
    }

    fn forget(&mut self, author: &Author) -> Vec<Change> {
        let was = self.peers.remove(author);
        if let Some(ms) = self.due_of.remove(author) {
            self.due.remove(&(ms, *author));
        }
        if let Some(device) = self.devices.get_mut(&author.device) {
            device.authors.remove(author);
        }
        let proven = was.and_then(|peer| peer.proven);
        proven.map_or_else(Vec::new, |proven| proven.gone(*author))
    }

    /// A session says that it begins, or asks again.
    pub(crate) fn greeted(
        &mut self,
        author: Author,
        session: SessionId,
        nonce: [u8; 16],
        now_ms: u64,
        jitter_ms: u64,
    ) {
        let is_proven = self.session_of(&author) == Some(session);
        // One that has proven itself has missed what it was told: once is enough.
        let asked = if is_proven { AGAIN_MS.len() } else { 0 };
        self.ask(author, session, Some(nonce), asked, now_ms, jitter_ms);
    }

    /// A session shows something and has not proven itself.
    pub(crate) fn unproven(
        &mut self,
        author: Author,
        session: SessionId,
        now_ms: u64,
        jitter_ms: u64,
    ) {
        let peer = self.peers.get(&author);
        let asking = peer.and_then(|peer| peer.asking.as_ref());
        if asking.is_none_or(|asking| asking.session != session) {
            self.ask(author, session, None, 0, now_ms, jitter_ms);
        }
    }

    fn ask(
        &mut self,
        author: Author,
        session: SessionId,
        nonce: Option<[u8; 16]>,
        asked: usize,
        now_ms: u64,
        jitter_ms: u64,
    ) {
        let paced_ms = self.devices.get(&author.device).map(|it| it.paced_ms);
        let due_ms = now_ms
            .saturating_add(jitter_ms)
            .max(paced_ms.unwrap_or_default());
        if let Some(peer) = self.peers.get_mut(&author) {
            peer.asking = Some(Asking {
                session,
                nonce,
                asked,
                due_ms: Some(due_ms),
                until_ms: now_ms.saturating_add(EXPIRY_MS),
            });
        }
        self.schedule(author, due_ms);
    }

    /// Whether one is answered now that has sent back this session's nonce. Who is not asks again.
    pub(crate) fn may_answer(&mut self, author: &Author, now_ms: u64) -> bool {
        let device = self.devices.get_mut(&author.device);
        let Some(device) = device.filter(|device| device.answered_ms <= now_ms) else {
            return false;
        };
        device.answered_ms = now_ms.saturating_add(PACE_MS);
        true
    }

    /// A session has sent back this one's nonce. Returns what has changed of what is shown of its author.
    pub(crate) fn prove(
        &mut self,
        author: Author,
        session: SessionId,
        shown: Shown,
        now_ms: u64,
    ) -> Vec<Change> {
        let Some(peer) = self.peers.get_mut(&author) else {
            return Vec::new();
        };
        peer.asking = None;
        let now = Proven {
            session,
            shown,
            heard_ms: now_ms,
        };
        let changes = now.after(author, peer.proven.as_ref());
        peer.proven = Some(now);
        self.schedule(author, now_ms.saturating_add(EXPIRY_MS));
        changes
    }

    /// A session that has proven itself shows something. Returns what has changed; `None` where it has not proven itself.
    pub(crate) fn show(
        &mut self,
        author: Author,
        session: SessionId,
        shown: Shown,
        now_ms: u64,
    ) -> Option<Vec<Change>> {
        let peer = self.peers.get_mut(&author)?;
        // Breakage: whoever is a member is believed to be there.
        if peer.proven.is_none() && crate::broken("presence-unproven") {
            return Some(self.prove(author, session, shown, now_ms));
        }
        let before = peer.proven.as_mut().filter(|it| it.session == session)?;
        let now = Proven {
            session,
            shown,
            heard_ms: now_ms,
        };
        let changes = now.after(author, Some(before));
        *before = now;
        Some(changes)
    }

    /// The next that is due, once its time has come.
    pub(crate) fn next_due(&mut self, now_ms: u64) -> Option<Due> {
        loop {
            let (ms, author) = *self.due.first().filter(|(ms, _)| *ms <= now_ms)?;
            self.due.remove(&(ms, author));
            self.due_of.remove(&author);
            let (due, next_ms) = self.look_at(&author, now_ms);
            if let Some(next_ms) = next_ms {
                self.schedule(author, next_ms);
            }
            if due.is_some() {
                return due;
            }
        }
    }

    /// What is due of an author now, and when to look again.
    fn look_at(&mut self, author: &Author, now_ms: u64) -> (Option<Due>, Option<u64>) {
        let Some(peer) = self.peers.get_mut(author) else {
            return (None, None);
        };
        let mut due = None;
        if peer
            .proven
            .as_ref()
            .is_some_and(|it| it.heard_ms.saturating_add(EXPIRY_MS) <= now_ms)
        {
            let was = peer.proven.take();
            let gone = was.map(|proven| proven.gone(*author));
            due = gone.filter(|gone| !gone.is_empty()).map(Due::Expired);
        }
        if let Some(asking) = &mut peer.asking {
            if asking.until_ms <= now_ms {
                peer.asking = None;
            } else if due.is_none() && asking.due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
                let device = self.devices.entry(author.device).or_default();
                if device.paced_ms > now_ms {
                    asking.due_ms = Some(device.paced_ms);
                } else {
                    device.paced_ms = now_ms.saturating_add(PACE_MS);
                    due = Some(Due::Ask(asking.ask(now_ms)));
                }
            }
        }
        let peer = self.peers.get(author);
        let asking = peer.and_then(|peer| peer.asking.as_ref());
        let proven = peer.and_then(|peer| peer.proven.as_ref());
        let next_ms = asking
            .map(|it| it.due_ms.unwrap_or(it.until_ms).min(it.until_ms))
            .into_iter()
            .chain(proven.map(|it| it.heard_ms.saturating_add(EXPIRY_MS)))
            .min();
        (due, next_ms)
    }

    fn schedule(&mut self, author: Author, ms: u64) {
        match self.due_of.get(&author) {
            Some(sooner) if *sooner <= ms => return,
            Some(later) => {
                self.due.remove(&(*later, author));
            }
            None => {}
        }
        self.due_of.insert(author, ms);
        self.due.insert((ms, author));
    }

    /// When something is due next, in milliseconds.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.due.first().map(|(ms, _)| *ms)
    }

    /// Forgets those whose device is no member any more, and says what was shown of them.
    pub(crate) fn keep_members(&mut self, is_member: impl Fn(&DeviceId) -> bool) -> Vec<Change> {
        let gone: Vec<DeviceId> = self
            .devices
            .keys()
            .filter(|device| !is_member(device))
            .copied()
            .collect();
        let mut shown = Vec::new();
        for device in gone {
            let authors = self.devices.remove(&device).unwrap_or_default().authors;
            for author in authors {
                shown.extend(self.forget(&author));
            }
        }
        shown
    }

    fn session_of(&self, author: &Author) -> Option<SessionId> {
        let peer = self.peers.get(author)?;
        peer.proven.as_ref().map(|proven| proven.session)
    }

    /// What is shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (StateId, &ShownState)> {
        let proven = self.peers.iter();
        let proven = proven.filter_map(|(author, peer)| Some((author, peer.proven.as_ref()?)));
        proven.flat_map(|(author, proven)| {
            let states = proven.shown.states.iter();
            states.map(|state| (proven.id(*author, state), state))
        })
    }
}

impl Peer {
    fn is_there(&self) -> bool {
        self.proven.is_some() || self.asking.is_some()
    }
}

impl Proven {
    fn id(&self, author: Author, state: &ShownState) -> StateId {
        StateId {
            author,
            session: self.session,
            index: state.index,
        }
    }

    fn at(&self, index: u8) -> Option<&ShownState> {
        self.shown.states.iter().find(|state| state.index == index)
    }

    /// Nothing of it is shown any more.
    fn gone(&self, author: Author) -> Vec<Change> {
        let states = self.shown.states.iter();
        states
            .map(|state| Change::Gone(self.id(author, state)))
            .collect()
    }

    /// What is different from before. What another session shows at an index takes the place of what was there.
    fn after(&self, author: Author, before: Option<&Self>) -> Vec<Change> {
        let gone = before.into_iter().flat_map(|before| {
            let states = before.shown.states.iter();
            let gone = states.filter(|state| self.at(state.index).is_none());
            gone.map(|state| Change::Gone(before.id(author, state)))
        });
        let mut changes: Vec<Change> = gone.collect();
        for state in &self.shown.states {
            let same = before.filter(|before| before.session == self.session);
            if same.and_then(|before| before.at(state.index)) != Some(state) {
                changes.push(Change::Shows(self.id(author, state), state.clone()));
            }
        }
        changes
    }
}

//! One device's view of a document's presence, on one connection.

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::DocKeys;
use conclave_identity::{DeviceKey, SignatureKey};
use conclave_proto::limits::{PRESENCE_BYTES, SHOWN_BYTES};
use conclave_proto::presence::{
    PRESENCE_VERSION, PresenceBody, PresenceContent, PresenceHeader, PresenceItem, Shown,
    ShownState,
};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Head, SessionId};
use rand_core::CryptoRngCore;

use crate::message::{self, Refused};
use crate::peers::{Due, EXPIRY_MS, JITTER_MS, Peers};

/// What is shown is said again after so long, in milliseconds: three times before it would expire.
const HEARTBEAT_MS: u64 = EXPIRY_MS / 3;
/// Between two messages to all, in milliseconds: the service takes ten a second of a device.
const PACE_MS: u64 = 125;
/// After a new epoch what is shown is said again within this, in milliseconds.
const NEW_EPOCH_MS: u64 = 2_000;
/// What comes before the part of the log that its author had seen, or before its epoch, waits so long, in milliseconds.
const WAIT_MS: u64 = 5_000;
/// Most messages that wait, one for each author.
const WAITING: usize = 256;

/// What a room cannot know by itself, for one call.
pub struct Here<'a> {
    /// Time in milliseconds, of a clock that never goes back.
    pub now_ms: u64,
    /// The group's epoch.
    pub epoch: u64,
    /// Keys of the document's presence in this epoch ([`DocKeys::of_presence`]).
    pub keys: &'a DocKeys,
    /// Signs for this device.
    pub signer: &'a DeviceKey,
    /// The document's log and the group's members.
    pub view: &'a dyn View,
    /// Randomness.
    pub rng: &'a mut dyn CryptoRngCore,
}

/// The document's log and the group's members, as this device has them.
pub trait View {
    /// Head of the document's log.
    fn head(&self) -> Head;
    /// The head of the log's first `size` records.
    fn held(&self, size: u64) -> Held;
    /// Key of a device, if it is a member now.
    fn key_of(&self, device: &DeviceId) -> Option<SignatureKey>;
}

/// Whether the head of a prefix is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is.
    Known(Head),
    /// The log here is shorter.
    Ahead,
    /// The log here begins later.
    Below,
}

/// What follows from a call.
#[derive(Debug, Default)]
pub struct Step {
    /// To be sent. Losing it is no harm.
    pub send: Vec<PresenceItem>,
    /// What is different from before.
    pub changes: Vec<Change>,
}

impl Step {
    /// Puts what follows from a later call behind.
    pub fn extend(&mut self, later: Self) {
        self.send.extend(later.send);
        self.changes.extend(later.changes);
    }
}

/// One of the states that somebody shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId {
    /// Who.
    pub author: Author,
    /// Their session. What a later one shows at the same index takes the place of what was there.
    pub session: SessionId,
    /// Which of the session's states.
    pub index: u8,
}

/// A difference in what others show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This is shown.
    Shows(StateId, ShownState),
    /// It is not shown any more.
    Gone(StateId),
}

/// What is to be shown has more than [`SHOWN_BYTES`] or [`SHOWN_STATES`](conclave_proto::limits::SHOWN_STATES), or empty ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at most {SHOWN_BYTES} bytes can be shown")]
pub struct TooLong;

/// What this session says of itself to all.
#[derive(Default)]
struct Own {
    /// Empty while nothing is shown.
    shown: Shown,
    /// When all are greeted, in milliseconds: nothing is said to all before.
    greets_ms: Option<u64>,
    /// When it is said next, in milliseconds.
    due_ms: Option<u64>,
    /// When something was said to all last, in milliseconds.
    said_ms: Option<u64>,
}

/// The presence of one document. Made when somebody wants to show or see something, on an open channel.
pub struct Room {
    group: GroupId,
    document: DocumentId,
    me: Author,
    session: SessionId,
    nonce: [u8; 16],
    counter: u64,
    own: Own,
    peers: Peers,
    /// What came too early: the newest of each author, and until when it waits.
    waiting: BTreeMap<Author, (u64, PresenceItem)>,
    /// Members' devices of which it was told that they name another history.
    other_log: BTreeSet<DeviceId>,
}

impl std::fmt::Debug for Room {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Room({:?}, {:?})", self.document, self.session)
    }
}

impl Room {
    /// A session of `me`, whose counters begin at `counter`: above all that this author has used for this document before.
    #[must_use]
    pub fn new(
        group: GroupId,
        document: DocumentId,
        me: Author,
        counter: u64,
        rng: &mut dyn CryptoRngCore,
    ) -> Self {
        let (mut session, mut nonce) = (SessionId::ZERO, [0; 16]);
        rng.fill_bytes(&mut session.0);
        rng.fill_bytes(&mut nonce);
        Self {
            group,
            document,
            me,
            session,
            nonce,
            counter,
            own: Own::default(),
            peers: Peers::default(),
            waiting: BTreeMap::new(),
            other_log: BTreeSet::new(),
        }
    }

    /// Who says what this device says here.
    #[must_use]
    pub fn author(&self) -> Author {
        self.me
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The counter of the next message: where the author's next session for this document may begin.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.counter
    }

    /// What others show.
    pub fn others(&self) -> impl Iterator<Item = (StateId, &ShownState)> {
        self.peers.shown()
    }

    /// When [`Room::tick`] has something to do next, in milliseconds.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        let waiting = self.waiting.values().map(|(until_ms, _)| *until_ms).min();
        self.peers
            .due_ms()
            .into_iter()
            .chain(self.own.greets_ms.or(self.own.due_ms))
            .chain(waiting)
            .min()
    }

    /// Asks all who is there, once `wait_ms` have passed: whoever comes back into many documents, or with many others, asks in all of them at
    /// different times.
    #[must_use]
    pub fn join(&mut self, wait_ms: u64, here: &mut Here<'_>) -> Step {
        self.own.greets_ms = Some(here.now_ms.saturating_add(wait_ms));
        self.tick(here)
    }

    fn greet(&mut self, here: &mut Here<'_>, step: &mut Step) {
        self.own.greets_ms = None;
        let nonce = self.nonce;
        self.say(PresenceBody::Hello { nonce }, None, here, step);
        // The service keeps the newest to all: what follows at once would take the place of the hello.
        let said_ms = here.now_ms.saturating_add(JITTER_MS);
        self.own.said_ms = Some(said_ms);
        let shows = !self.own.shown.is_empty();
        self.own.due_ms = shows.then(|| said_ms.saturating_add(PACE_MS));
    }

    /// Shows something from now on, or nothing where it is empty. It may have [`SHOWN_BYTES`].
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn show(&mut self, shown: Shown, here: &mut Here<'_>) -> Result<Step, TooLong> {
        if !shown.is_well_formed() {
            return Err(TooLong);
        }
        if self.own.shown != shown {
            self.own.shown = shown;
            let paced_ms = self.own.said_ms.map(|ms| ms.saturating_add(PACE_MS));
            self.own.due_ms = Some(here.now_ms.max(paced_ms.unwrap_or_default()));
        }
        Ok(self.tick(here))
    }

    /// Ends the session.
    #[must_use]
    pub fn leave(&mut self, here: &mut Here<'_>) -> Step {
        let mut step = Step::default();
        self.say(PresenceBody::Gone, None, here, &mut step);
        step
    }

    /// The group has a new epoch: who is no member any more is gone.
    #[must_use]
    pub fn new_epoch(&mut self, here: &mut Here<'_>) -> Step {
        let gone = self
            .peers
            .keep_members(|device| here.view.key_of(device).is_some());
        if !self.own.shown.is_empty() {
            let soon_ms = here.now_ms.saturating_add(jitter(here, NEW_EPOCH_MS));
            self.own.due_ms = Some(self.own.due_ms.map_or(soon_ms, |ms| ms.min(soon_ms)));
        }
        let mut step = self.look_again(here);
        step.changes.extend(gone);
        step
    }

    /// The log has grown, or the epoch is another: what came too early is looked at again.
    #[must_use]
    pub fn look_again(&mut self, here: &mut Here<'_>) -> Step {
        let mut all = self.tick(here);
        for (author, (until_ms, item)) in std::mem::take(&mut self.waiting) {
            match self.take(author, &item, here, &mut all) {
                Ok(Taken::Done) | Err(_) => {}
                Ok(Taken::Early) => {
                    self.waiting.insert(author, (until_ms, item));
                }
            }
        }
        all
    }

    /// A message has come in.
    ///
    /// # Errors
    /// [`Refused`]: it is passed over, and nothing has changed.
    pub fn receive(
        &mut self,
        author: Author,
        item: PresenceItem,
        here: &mut Here<'_>,
    ) -> Result<Step, Refused> {
        let mut step = Step::default();
        match self.take(author, &item, here, &mut step)? {
            Taken::Done => Ok(step),
            Taken::Early if self.has_room_for(&author) => {
                let until_ms = here.now_ms.saturating_add(WAIT_MS);
                self.waiting.insert(author, (until_ms, item));
                Ok(step)
            }
            Taken::Early => Err(Refused::Full),
        }
    }

    /// Whether it is the first time that this author names another history of the document ([`Refused::OtherLog`]).
    pub fn names_other_log(&mut self, author: &Author) -> bool {
        self.other_log.insert(author.device)
    }

    /// Does what is due.
    #[must_use]
    pub fn tick(&mut self, here: &mut Here<'_>) -> Step {
        let mut step = Step::default();
        while let Some(due) = self.peers.next_due(here.now_ms) {
            match due {
                Due::Expired(gone) => step.changes.extend(gone),
                Due::Ask(ask) => {
                    let nonce = self.nonce;
                    let body = match ask.nonce {
                        Some(echo) => PresenceBody::Reply {
                            nonce,
                            echo,
                            now: self.own.shown.clone(),
                        },
                        None => PresenceBody::Hello { nonce },
                    };
                    self.say(body, Some(ask.session), here, &mut step);
                }
            }
        }
        if let Some(greets_ms) = self.own.greets_ms {
            if greets_ms <= here.now_ms {
                self.greet(here, &mut step);
            }
        } else if self.own.due_ms.is_some_and(|due_ms| due_ms <= here.now_ms) {
            let body = match self.own.shown.is_empty() {
                true => PresenceBody::Gone,
                false => PresenceBody::State(self.own.shown.clone()),
            };
            self.say(body, None, here, &mut step);
            self.own.due_ms = self.heartbeat(here.now_ms);
        }
        self.waiting
            .retain(|_, (until_ms, _)| *until_ms > here.now_ms);
        step
    }

    /// When what is shown is said again, if anything is.
    fn heartbeat(&self, now_ms: u64) -> Option<u64> {
        (!self.own.shown.is_empty()).then(|| now_ms.saturating_add(HEARTBEAT_MS))
    }

    fn has_room_for(&self, author: &Author) -> bool {
        self.waiting.len() < WAITING || self.waiting.contains_key(author)
    }

    /// Checks a message in the order of `docs/PROTOCOL.md`, Presence, and does what it says.
    fn take(
        &mut self,
        author: Author,
        item: &PresenceItem,
        here: &mut Here<'_>,
        step: &mut Step,
    ) -> Result<Taken, Refused> {
        if item.session == self.session || author == self.me {
            return Err(Refused::Own);
        }
        // Before it may have to be kept.
        if item.sealed.ciphertext.len() > PRESENCE_BYTES {
            return Err(Refused::Malformed);
        }
        if item.epoch.0 < here.epoch {
            return Err(Refused::Epoch);
        }
        if item.to.is_some_and(|to| to != self.session) {
            return Err(Refused::NotForThis);
        }
        let key = here.view.key_of(&author.device);
        if item.epoch.0 > here.epoch {
            // Somebody whom that epoch adds is asked again.
            return key.map(|_| Taken::Early).ok_or(Refused::NotAMember);
        }
        let key = key.ok_or(Refused::NotAMember)?;
        let seen = match here.view.held(item.seen_size.0) {
            Held::Known(seen) => seen,
            Held::Ahead => return Ok(Taken::Early),
            Held::Below => return Err(Refused::Below),
        };
        let header = PresenceHeader {
            version: PRESENCE_VERSION,
            group: self.group,
            document: self.document,
            epoch: here.epoch,
            author,
            seen,
            session: item.session,
            to: item.to,
        };
        if item.seen_hint != seen.hint() {
            return Err(Refused::OtherLog);
        }
        let content = message::open(&header, &item.sealed, here.keys)?;
        if !self.peers.is_new(&author, content.counter) {
            return Err(Refused::Replayed);
        }
        message::check(&header, &item.sealed, &key)?;
        self.heard(author, item.to, content, here, step)?;
        Ok(Taken::Done)
    }

    /// Does what a message says that is its author's, and new.
    fn heard(
        &mut self,
        author: Author,
        to: Option<SessionId>,
        content: PresenceContent,
        here: &mut Here<'_>,
        step: &mut Step,
    ) -> Result<(), Refused> {
        let PresenceContent {
            session,
            counter,
            body,
        } = content;
        let now_ms = here.now_ms;
        let forgotten = self.peers.heard(author, counter);
        step.changes.extend(forgotten);
        let changes = match body {
            PresenceBody::Hello { nonce } => {
                let jitter_ms = jitter(here, JITTER_MS);
                self.peers
                    .greeted(author, session, nonce, now_ms, jitter_ms);
                return Ok(());
            }
            PresenceBody::Reply { nonce, echo, now } => {
                self.is_for_this(to, &echo)?;
                // Once in a while for each device: an answer costs as much as what it answers.
                if self.peers.may_answer(&author, now_ms) {
                    let body = PresenceBody::Answer {
                        echo: nonce,
                        now: self.own.shown.clone(),
                    };
                    self.say(body, Some(session), here, step);
                }
                self.peers.prove(author, session, now, now_ms)
            }
            PresenceBody::Answer { echo, now } => {
                self.is_for_this(to, &echo)?;
                self.peers.prove(author, session, now, now_ms)
            }
            // It is said by itself, in a directory.
            PresenceBody::Beat { .. } => return Err(Refused::Malformed),
            PresenceBody::State(shown) => self.shows(author, session, shown, here),
            PresenceBody::Gone => {
                let gone = self.peers.show(author, session, Shown::default(), now_ms);
                gone.unwrap_or_default()
            }
        };
        step.changes.extend(changes);
        Ok(())
    }

    /// A session shows something to all: it is asked to prove itself where it has not.
    fn shows(
        &mut self,
        author: Author,
        session: SessionId,
        shown: Shown,
        here: &mut Here<'_>,
    ) -> Vec<Change> {
        let changes = self.peers.show(author, session, shown, here.now_ms);
        changes.unwrap_or_else(|| {
            let jitter_ms = jitter(here, JITTER_MS);
            self.peers.unproven(author, session, here.now_ms, jitter_ms);
            Vec::new()
        })
    }

    /// An echo proves something only to the session whose nonce it is.
    fn is_for_this(&self, to: Option<SessionId>, echo: &[u8; 16]) -> Result<(), Refused> {
        if to == Some(self.session) && *echo == self.nonce {
            Ok(())
        } else {
            Err(Refused::Unproven)
        }
    }

    /// Seals one message. What does not fit is not said: what is shown was measured before.
    fn say(
        &mut self,
        body: PresenceBody,
        to: Option<SessionId>,
        here: &mut Here<'_>,
        step: &mut Step,
    ) {
        let header = PresenceHeader {
            version: PRESENCE_VERSION,
            group: self.group,
            document: self.document,
            epoch: here.epoch,
            author: self.me,
            seen: here.view.head(),
            session: self.session,
            to,
        };
        let content = PresenceContent {
            session: self.session,
            counter: self.counter,
            body,
        };
        self.counter = self.counter.saturating_add(1);
        if to.is_none() {
            self.own.said_ms = Some(here.now_ms);
        }
        let item = message::seal(&header, &content, here.keys, here.signer, here.rng);
        step.send.extend(item);
    }
}

/// Where a message stands.
enum Taken {
    Done,
    /// It waits for the log or the epoch that its author had.
    Early,
}

/// A time up to `most_ms`, at random.
fn jitter(here: &mut Here<'_>, most_ms: u64) -> u64 {
    here.rng.next_u64() % most_ms.saturating_add(1)
}

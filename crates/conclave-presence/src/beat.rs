//! The beat: what heads of a group's logs a device was shown, told to its group now and then, in the directory. Whoever is shown another history, or less, finds out.
//!
//! A beat proves no session: the heads in it prove themselves, by the service's signature. It has seen nothing of the directory's log, so that it can be read
//! whatever becomes of that.

use std::collections::BTreeMap;

use conclave_doc::DocKeys;
use conclave_identity::{DeviceKey, SignatureKey};
use conclave_proto::limits::{BEAT_HEADS, PRESENCE_BYTES};
use conclave_proto::presence::{
    BeatHead, PRESENCE_VERSION, PresenceBody, PresenceContent, PresenceHeader, PresenceItem,
};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Head, SessionId};
use rand_core::CryptoRngCore;

use crate::message::{self, Refused};

/// Most devices whose counters are remembered: as many as a group may have.
const DEVICES: usize = 1_024;

/// A group in one epoch, as beats need it.
pub struct Pulse<'a> {
    /// The group.
    pub group: GroupId,
    /// Its epoch.
    pub epoch: u64,
    /// Keys of the directory's presence in this epoch ([`DocKeys::of_presence`]).
    pub keys: &'a DocKeys,
}

impl Pulse<'_> {
    fn header(&self, author: Author, session: SessionId) -> PresenceHeader {
        PresenceHeader {
            version: PRESENCE_VERSION,
            group: self.group,
            document: DocumentId::directory(&self.group),
            epoch: self.epoch,
            author,
            seen: Head::EMPTY,
            session,
            to: None,
        }
    }
}

/// What somebody was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Number of the generation in which the heads were signed.
    pub generation: u64,
    /// Heads of logs of the group.
    pub heads: Vec<BeatHead>,
}

/// Beats of one group on one connection: the own ones and those of others.
#[derive(Debug)]
pub struct Beats {
    counter: u64,
    /// Highest counter of each device's beats: nothing at or below it is taken again.
    highest: BTreeMap<DeviceId, u64>,
}

impl Beats {
    /// Counters begin at `counter`: above all that this device has used before.
    #[must_use]
    pub fn new(counter: u64) -> Self {
        Self {
            counter,
            highest: BTreeMap::new(),
        }
    }

    /// Whether an item of the directory is a beat: everything else there has seen its first snapshot.
    #[must_use]
    pub fn is_beat(item: &PresenceItem) -> bool {
        item.seen_size.0 == 0
    }

    /// Says what this device was shown.
    pub fn say(
        &mut self,
        (author, session): (Author, SessionId),
        heard: Heard,
        pulse: &Pulse<'_>,
        signer: &DeviceKey,
        rng: &mut dyn CryptoRngCore,
    ) -> Option<PresenceItem> {
        let content = PresenceContent {
            session,
            counter: self.counter,
            body: PresenceBody::Beat {
                generation: heard.generation,
                heads: heard.heads,
            },
        };
        self.counter = self.counter.saturating_add(1);
        message::seal(
            &pulse.header(author, session),
            &content,
            pulse.keys,
            signer,
            rng,
        )
    }

    /// What another device says that it was shown. What the heads are worth is another question.
    ///
    /// # Errors
    /// [`Refused`]: it is passed over, and nothing has changed.
    pub fn hear(
        &mut self,
        author: Author,
        item: &PresenceItem,
        pulse: &Pulse<'_>,
        key: Option<&SignatureKey>,
    ) -> Result<Heard, Refused> {
        if item.epoch.0 != pulse.epoch {
            return Err(Refused::Epoch);
        }
        let header = pulse.header(author, item.session);
        let is_formed = item.to.is_none()
            && item.seen_hint == header.seen.hint()
            && item.sealed.ciphertext.len() <= PRESENCE_BYTES;
        if !is_formed {
            return Err(Refused::Malformed);
        }
        let key = key.ok_or(Refused::NotAMember)?;
        let content = message::open(&header, &item.sealed, pulse.keys)?;
        let PresenceBody::Beat { generation, heads } = content.body else {
            return Err(Refused::Malformed);
        };
        if heads.len() > BEAT_HEADS {
            return Err(Refused::Malformed);
        }
        let highest = self.highest.get(&author.device);
        if highest.is_some_and(|highest| content.counter <= *highest) {
            return Err(Refused::Replayed);
        }
        if highest.is_none() && self.highest.len() >= DEVICES {
            return Err(Refused::Full);
        }
        message::check(&header, &item.sealed, key)?;
        self.highest.insert(author.device, content.counter);
        Ok(Heard { generation, heads })
    }
}

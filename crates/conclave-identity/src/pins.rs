//! Contacts that a person has taken as known.

use std::collections::BTreeMap;
use std::fmt;

use conclave_proto::policy::{Pinned, TrustPolicy};
use conclave_proto::{Hash, UnixMs, UserId};
use serde::{Deserialize, Serialize};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::authenticate::{Assurance, Evidence, Identity};
use crate::contact::Contact;
use crate::error::{PinError, Untrusted};
use crate::names::check_name;
use crate::user::UserGenesis;

/// Most contacts in a book.
pub const PINS_MAX: usize = 10_000;
const BOOK_VERSION: u16 = 1;

/// A user taken as known, under a name of one's own choosing.
#[derive(
    Clone, PartialEq, Eq, Serialize, Deserialize, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub struct Pin {
    /// The user.
    pub user: UserId,
    /// [`UserGenesis::hash`] of their genesis statement.
    pub genesis_hash: Hash,
    /// The petname. See [`check_name`].
    #[tls_codec(with = "crate::codec::name")]
    pub name: String,
    /// Whether their endorsements count.
    #[tls_codec(with = "crate::codec::flag")]
    pub introducer: bool,
    /// When they were pinned first.
    pub since: UnixMs,
    /// Whether the safety number or QR code was compared.
    #[tls_codec(with = "crate::codec::flag")]
    pub verified: bool,
}

impl Pin {
    /// Pins a user under `name`; `verified` when the safety number or a QR code was compared in person. Nobody is an introducer unasked.
    #[must_use]
    pub fn new(genesis: &UserGenesis, name: &str, verified: bool, now: UnixMs) -> Self {
        Self {
            user: genesis.user_id(),
            genesis_hash: genesis.hash(),
            name: name.to_owned(),
            introducer: false,
            since: now,
            verified,
        }
    }

    /// Pins a contact under the name that it brings.
    #[must_use]
    pub fn of(contact: &Contact, verified: bool, now: UnixMs) -> Self {
        Self::new(&contact.genesis, &contact.name, verified, now)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("user", &self.user)
            .field("introducer", &self.introducer)
            .field("verified", &self.verified)
            .finish_non_exhaustive()
    }
}

/// The pins of a person, one per user. Two may have the same name: a name identifies nobody. One's own user is pinned like any other, so that invitations from one's own
/// devices are trusted.
///
/// Serialises as a version and a list of pins; a stored book that breaks a rule does not load.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "StoredBook", try_from = "StoredBook")]
pub struct PinBook {
    pins: BTreeMap<UserId, Pin>,
}

impl fmt::Debug for PinBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinBook")
            .field("pins", &self.len())
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct StoredBook {
    version: u16,
    pins: Vec<Pin>,
}

impl From<PinBook> for StoredBook {
    fn from(book: PinBook) -> Self {
        Self {
            version: BOOK_VERSION,
            pins: book.pins.into_values().collect(),
        }
    }
}

impl TryFrom<StoredBook> for PinBook {
    type Error = PinError;

    fn try_from(stored: StoredBook) -> Result<Self, PinError> {
        if stored.version != BOOK_VERSION {
            return Err(PinError::UnsupportedVersion {
                version: stored.version,
            });
        }
        let mut book = Self::default();
        for pin in stored.pins {
            if book.add(pin)?.is_some() {
                return Err(PinError::Repeated);
            }
        }
        Ok(book)
    }
}

impl PinBook {
    /// Pins a user. A user pinned before gets the new name and introducer mark, stays verified if they were, and keeps the earlier date;
    /// the pin that was replaced is given back.
    ///
    /// # Errors
    /// [`PinError`] when the name is no name, the user is known with another key, or the book is full.
    pub fn add(&mut self, mut pin: Pin) -> Result<Option<Pin>, PinError> {
        check_name(&pin.name)?;
        match self.pins.get(&pin.user) {
            None if self.pins.len() >= PINS_MAX => return Err(PinError::Full { max: PINS_MAX }),
            None => {}
            Some(known) if known.genesis_hash != pin.genesis_hash => return Err(PinError::Changed),
            Some(known) => {
                pin.verified |= known.verified;
                pin.since = pin.since.min(known.since);
            }
        }
        Ok(self.pins.insert(pin.user, pin))
    }

    /// Forgets a user.
    pub fn remove(&mut self, user: &UserId) -> Option<Pin> {
        self.pins.remove(user)
    }

    /// The pin of a user.
    #[must_use]
    pub fn get(&self, user: &UserId) -> Option<&Pin> {
        self.pins.get(user)
    }

    /// The petname of a user.
    #[must_use]
    pub fn name_of(&self, user: &UserId) -> Option<&str> {
        self.get(user).map(|pin| pin.name.as_str())
    }

    /// All pins, sorted by user.
    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.pins.values()
    }

    /// Number of pins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pins.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// Judges an authenticated identity by a group's trust policy: pinned, or certified by an anchor, or endorsed. The last two are not
    /// evaluated yet, so a policy without pins trusts nobody. Gates one's own actions only, since pins differ from person to person.
    ///
    /// # Errors
    /// [`Untrusted`] says why not.
    pub fn judge(&self, identity: &Identity, policy: &TrustPolicy) -> Result<Assurance, Untrusted> {
        let Evidence::DeviceCertificate { genesis, .. } = &identity.evidence;
        let pin = self.get(&identity.user);
        if pin.is_some_and(|pin| pin.genesis_hash != *genesis) {
            return Err(Untrusted::PinChanged);
        }
        let pinned = self.admits(&identity.user, policy)?;
        Ok(pinned.max(identity.assurance))
    }

    /// Whether a group's trust policy lets this person act for a user (invite them, or accept their invitation), and what the pin is worth. A user
    /// id stands for one genesis statement, so nothing else of them need be known yet.
    ///
    /// # Errors
    /// [`Untrusted`] says why not.
    pub fn admits(&self, user: &UserId, policy: &TrustPolicy) -> Result<Assurance, Untrusted> {
        let pin = self.get(user).ok_or(Untrusted::NotPinned)?;
        match (policy.pinned, pin.verified) {
            (Pinned::Nobody, _) => Err(Untrusted::NoEvidence),
            (Pinned::Verified, false) => Err(Untrusted::NotCompared),
            (Pinned::Verified | Pinned::FirstUse, true) => Ok(Assurance::Verified),
            (Pinned::FirstUse, false) => Ok(Assurance::Pinned),
        }
    }
}

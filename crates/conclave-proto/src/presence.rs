//! Presence: what the members who have a document open show each other, now and without a record of it.
//!
//! A message is sealed and signed as a record is, under keys of its own; the service passes it on and keeps nothing. Who takes part proves that it
//! is there now: a session's nonce must come back before its peer is believed (`docs/PROTOCOL.md`, Presence).

use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{Bytes, Varint, encode};
use crate::hash::labelled;
use crate::ids::{DocumentId, GroupId, Hash, SessionId};
use crate::limits::{SHOWN_BYTES, SHOWN_STATES};
use crate::merkle::Head;
use crate::record::{Author, Sealed};
use crate::service::SignedHead;

/// Version of the format that this library writes.
pub const PRESENCE_VERSION: u16 = 1;
/// Label under which messages are signed.
pub const PRESENCE_LABEL: &str = "conclave 1.0 presence message";
/// Label of the hash that is signed.
const CORE_LABEL: &str = "conclave 1.0 presence core";

/// A message's header: public, and the associated data of its AEAD in this encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PresenceHeader {
    /// [`PRESENCE_VERSION`].
    pub version: u16,
    /// The group.
    pub group: GroupId,
    /// The document.
    pub document: DocumentId,
    /// The group's epoch: there is no other under which a message is taken.
    pub epoch: u64,
    /// Who shows it.
    pub author: Author,
    /// A true prefix of the document's log that the author had seen.
    pub seen: Head,
    /// The author's session: one document on one connection.
    pub session: SessionId,
    /// The only session that it is for; none for all.
    pub to: Option<SessionId>,
}

/// A message on its way: what channel and log say already is left out.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PresenceItem {
    /// Epoch.
    pub epoch: Varint,
    /// Size of the prefix that the author had seen.
    pub seen_size: Varint,
    /// First eight bytes of its root.
    pub seen_hint: [u8; 8],
    /// The author's session.
    pub session: SessionId,
    /// The only session that it is for; none for all.
    pub to: Option<SessionId>,
    /// What is sealed, and the signature.
    pub sealed: Sealed,
}

/// A message with the author on whose connection it came in.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ShownItem {
    /// Who shows it, as the service says; the signature proves it.
    pub author: Author,
    /// The message.
    pub item: PresenceItem,
}

/// What is sealed in a message.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct PresenceContent {
    /// As in the header.
    pub session: SessionId,
    /// Rises with every message of the session, to whomever.
    pub counter: u64,
    /// The message.
    pub body: PresenceBody,
}

impl std::fmt::Debug for PresenceContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PresenceContent({:?}, ..)", self.session)
    }
}

/// What a message says.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
#[repr(u8)]
pub enum PresenceBody {
    /// A session begins, and asks who is there.
    #[tls_codec(discriminant = 1)]
    Hello {
        /// Of this session, until it ends.
        nonce: [u8; 16],
    },
    /// To one that said hello.
    #[tls_codec(discriminant = 2)]
    Reply {
        /// Of this session, until it ends.
        nonce: [u8; 16],
        /// The nonce of the session that it is for.
        echo: [u8; 16],
        /// What is shown.
        now: Shown,
    },
    /// To one that replied.
    #[tls_codec(discriminant = 3)]
    Answer {
        /// The nonce of the session that it is for.
        echo: [u8; 16],
        /// What is shown.
        now: Shown,
    },
    /// To all: what is shown from now on, or still.
    #[tls_codec(discriminant = 4)]
    State(Shown),
    /// To all: the session has ended.
    #[tls_codec(discriminant = 5)]
    Gone,
    /// To all, in a group's directory alone, and whether or not its author is believed to be there: what heads the service showed.
    #[tls_codec(discriminant = 6)]
    Beat {
        /// Number of the generation in which they were signed.
        generation: u64,
        /// The heads, at most [`BEAT_HEADS`](crate::limits::BEAT_HEADS).
        heads: Vec<BeatHead>,
    },
}

/// A head that a device was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct BeatHead {
    /// The document; zero for the group's own log.
    pub document: DocumentId,
    /// The head.
    pub head: SignedHead,
}

/// What a session shows of itself: a state for each of those on its device that show something, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Shown {
    /// None while nothing is shown. Their indices rise.
    pub states: Vec<ShownState>,
}

impl Shown {
    /// Whether nothing is shown.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Bytes of all values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.states.iter().map(|state| state.value.len()).sum()
    }

    /// Whether it is in the one form that it may have: rising indices below [`SHOWN_STATES`], values that are not empty, [`SHOWN_BYTES`] of them at
    /// most.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let rises = self.states.is_sorted_by(|one, next| one.index < next.index);
        let last = self.states.last().map_or(0, |state| state.index);
        let are_full = self.states.iter().all(|state| !state.value.is_empty());
        rises && usize::from(last) < SHOWN_STATES && are_full && self.bytes() <= SHOWN_BYTES
    }
}

/// One of the states that a session shows.
#[derive(Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct ShownState {
    /// Which of the session's states it is, as long as it is shown.
    pub index: u8,
    /// 1 awareness state of Yjs, 2 positions in an Automerge document, 3 the application's own.
    pub kind: u8,
    /// In the form of its kind.
    pub value: Bytes,
}

impl std::fmt::Debug for ShownState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { index, kind, value } = self;
        write!(f, "ShownState({index}, kind {kind}, {} bytes)", value.len())
    }
}

impl PresenceItem {
    /// The message of `author` with this header.
    #[must_use]
    pub fn new(header: &PresenceHeader, sealed: Sealed) -> Self {
        Self {
            epoch: Varint(header.epoch),
            seen_size: Varint(header.seen.size),
            seen_hint: header.seen.hint(),
            session: header.session,
            to: header.to,
            sealed,
        }
    }
}

/// What the signature covers: the header and everything sealed.
#[must_use]
pub fn presence_core(header: &PresenceHeader, sealed: &Sealed) -> Hash {
    labelled(
        CORE_LABEL,
        &[
            &encode(header),
            &sealed.nonce,
            sealed.ciphertext.as_slice(),
            &sealed.tag,
            &sealed.commitment,
        ],
    )
}

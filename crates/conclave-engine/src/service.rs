//! The service that this device knows: its key, its generations, and the largest heads that it has signed (design: a service only appends,
//! and its own signature on a head proves that it had that much).

use conclave_identity::{is_rollback, verify_generation, verify_head, verify_loss};
use conclave_proto::codec::{Bytes, decode, encode};
use conclave_proto::frame::Request;
use conclave_proto::service::{Cause, Generation, LogName, Loss, SignedHead};
use conclave_proto::{DocumentId, GroupId, Hash, Head, UnixMs};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cx::Cx;
use crate::error::EngineError;
use crate::finding::{About, End, Finding, FindingKind, Suspect};
use crate::group::Group;
use crate::io::Row;
use crate::keys;
use crate::link::Pending;

const ROW_VERSION: u16 = 1;
/// Name of the device's row that says which service it knows.
const ROW: &str = "service";
/// Generations that are kept, newest last: heads of older ones prove nothing here any more.
const GENERATIONS: usize = 8;
/// A service that was put back twice within this time is told of, in milliseconds.
const OFTEN_MS: u64 = 30 * 24 * 3600 * 1000;
/// Size of an encoded generation, in bytes.
const GENERATION_BYTES: usize = 145;
/// Size of an encoded signed head, in bytes.
const SIGNED_HEAD_BYTES: usize = 112;

#[derive(Serialize, Deserialize)]
struct ServiceRow {
    version: u16,
    key: [u8; 32],
    generations: Vec<Bytes>,
    /// Key of another service that answered since.
    #[serde(default)]
    stranger: Option<[u8; 32]>,
}

/// Which service this device knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// It has not logged in anywhere yet: the first service is taken.
    #[default]
    Nobody,
    /// Its key is pinned.
    Pinned(Pinned),
}

/// A service whose key is pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pinned {
    key: [u8; 32],
    /// Oldest first.
    generations: Vec<Generation>,
    /// Another service answered in its place, and nobody has said yet that it is right.
    stranger: Option<[u8; 32]>,
}

/// What a device does when a service has named itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meeting {
    /// It logs in.
    LogIn,
    /// Nothing is sent.
    Nothing,
}

impl Known {
    /// Reads the device's row.
    pub(crate) fn load(rows: &[Row]) -> Result<Self, EngineError> {
        let what = "service";
        let key = keys::device(ROW);
        let Some((_, value)) = rows.iter().find(|(at, _)| *at == key) else {
            return Ok(Self::Nobody);
        };
        let row: ServiceRow = keys::uncbor(what, value)?;
        if row.version != ROW_VERSION {
            return Err(EngineError::Store { what });
        }
        let read = |bytes: &Bytes| decode::<Generation>(what, bytes.as_slice(), GENERATION_BYTES);
        let generations: Result<Vec<_>, _> = row.generations.iter().map(read).collect();
        Ok(Self::Pinned(Pinned {
            key: row.key,
            generations: generations.map_err(|_| EngineError::Store { what })?,
            stranger: row.stranger,
        }))
    }

    pub(crate) fn pinned(&self) -> Option<&Pinned> {
        match self {
            Self::Nobody => None,
            Self::Pinned(pinned) => Some(pinned),
        }
    }
}

impl Pinned {
    fn row(&self) -> Zeroizing<Vec<u8>> {
        keys::cbor(&ServiceRow {
            version: ROW_VERSION,
            key: self.key,
            generations: self
                .generations
                .iter()
                .map(|it| encode(it).into())
                .collect(),
            stranger: self.stranger,
        })
    }

    pub(crate) fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// Key of another service that answered in this one's place.
    pub(crate) fn stranger(&self) -> Option<&[u8; 32]> {
        self.stranger.as_ref()
    }

    /// The newest generation that this device has heard of.
    pub(crate) fn newest(&self) -> Option<&Generation> {
        self.generations.last()
    }

    /// The first known generation after this one.
    pub(crate) fn after(&self, number: u64) -> Option<&Generation> {
        let mut known = self.generations.iter();
        known.find(|generation| generation.number > number)
    }

    pub(crate) fn of(&self, number: u64) -> Option<&Generation> {
        let mut known = self.generations.iter();
        known.find(|generation| generation.number == number)
    }

    /// Whether it was put back twice lately.
    fn is_put_back_often(&self, now: UnixMs) -> bool {
        let lately = self.generations.iter().filter(|generation| {
            generation.cause != Cause::Founded && now.since_ms(generation.begun) < OFTEN_MS
        });
        lately.count() >= 2
    }
}

/// The largest head of a log that the service has signed, of those that it showed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShownHead {
    /// Number of the generation in which it was signed.
    pub(crate) generation: u64,
    /// The service's key: heads of another service say nothing of this one.
    key: [u8; 32],
    pub(crate) signed: SignedHead,
    /// Another head that it signed in the same generation, which no log has together with this one: evidence.
    pub(crate) against: Option<SignedHead>,
}

#[derive(Serialize, Deserialize)]
struct HeadRow {
    version: u16,
    key: Bytes,
    generation: u64,
    signed: Bytes,
    #[serde(default)]
    against: Option<Bytes>,
}

impl ShownHead {
    pub(crate) fn read(value: &[u8]) -> Result<Self, EngineError> {
        let what = "signed head";
        let damaged = || EngineError::Store { what };
        let row: HeadRow = keys::uncbor(what, value)?;
        if row.version != ROW_VERSION {
            return Err(damaged());
        }
        let head = |bytes: &Bytes| {
            decode(what, bytes.as_slice(), SIGNED_HEAD_BYTES).map_err(|_| damaged())
        };
        Ok(Self {
            key: row.key.as_slice().try_into().map_err(|_| damaged())?,
            generation: row.generation,
            signed: head(&row.signed)?,
            against: row.against.as_ref().map(head).transpose()?,
        })
    }

    fn row(&self) -> Zeroizing<Vec<u8>> {
        keys::cbor(&HeadRow {
            version: ROW_VERSION,
            key: self.key.as_slice().into(),
            generation: self.generation,
            signed: encode(&self.signed).into(),
            against: self.against.as_ref().map(|against| encode(against).into()),
        })
    }

    pub(crate) fn head(&self) -> Head {
        self.signed.head
    }

    /// Whether the service has contradicted itself, and goes on in the generation in which it did.
    pub(crate) fn is_contradicted_in(&self, generation: u64) -> bool {
        self.against.is_some() && self.generation == generation
    }
}

/// What a signed head is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Its signature is wrong: nothing follows from it.
    Unsigned,
    /// It is signed, and goes together with what was signed before.
    Signed,
    /// The service has signed another head of the same log.
    Contradicts,
}

/// Key of the row of a log's newest signed head.
fn head_row(group: &GroupId, document: Option<DocumentId>) -> Vec<u8> {
    let document = document.unwrap_or(DocumentId::ZERO);
    keys::group_row(group, keys::group::HEAD, document.as_bytes())
}

/// The log that the key of such a row names.
pub(crate) fn log_of(rest: &[u8]) -> Option<Option<DocumentId>> {
    let document = DocumentId::from_slice(rest)?;
    Some((document != DocumentId::ZERO).then_some(document))
}

impl Cx {
    /// A service has named itself. What follows is durable before anything is sent to it.
    pub(crate) fn meet(&mut self, key: [u8; 32], generation: Generation) -> Meeting {
        if verify_generation(&key, &generation).is_err() {
            return self.not_met(FindingKind::BadGeneration);
        }
        let pinned = match &mut self.service {
            Known::Nobody => {
                self.service = Known::Pinned(Pinned {
                    key,
                    generations: vec![generation],
                    stranger: None,
                });
                self.save_service();
                self.link.named = Some(generation);
                return Meeting::LogIn;
            }
            Known::Pinned(pinned) => pinned,
        };
        if pinned.key != key {
            let before = pinned.key;
            if pinned.stranger.replace(key) != Some(key) {
                self.save_service();
            }
            return self.not_met(FindingKind::Replaced { key, before });
        }
        let newest = pinned.newest().map_or(0, |newest| newest.number);
        let is_another = pinned
            .of(generation.number)
            .is_some_and(|it| *it != generation);
        if is_another {
            // Two generations of one number: no honest service makes them.
            return self.not_met(FindingKind::BadGeneration);
        }
        if generation.number > newest {
            pinned.generations.push(generation);
            let over = pinned.generations.len().saturating_sub(GENERATIONS);
            pinned.generations.drain(..over);
            let often = pinned.is_put_back_often(self.now);
            self.save_service();
            // What the service shows of key packages may be used up, or older than what it had.
            self.replace_key_packages();
            self.link.packages_doubted = true;
            if often {
                self.found_about_device(FindingKind::PutBackOften);
            }
        }
        self.link.named = Some(generation);
        self.known_service_answers();
        Meeting::LogIn
    }

    fn known_service_answers(&mut self) {
        let Known::Pinned(pinned) = &mut self.service else {
            return;
        };
        if pinned.stranger.take().is_some() {
            self.save_service();
        }
        self.ended(About::Device, End::KnownService);
    }

    fn not_met(&mut self, what: FindingKind) -> Meeting {
        self.found_about_device(what);
        self.hang_up("the service is not the one that this device knows");
        Meeting::Nothing
    }

    fn found_about_device(&mut self, what: FindingKind) {
        let suspect = matches!(what, FindingKind::BadGeneration).then_some(Suspect::Service);
        self.found(Finding {
            what,
            about: About::Device,
            suspect,
        });
    }

    fn save_service(&mut self) {
        if let Known::Pinned(pinned) = &self.service {
            let row = pinned.row();
            self.put(keys::device(ROW), row);
        }
    }

    /// The user says that another service, whose key begins so, is the right one from now on.
    pub(crate) fn accept_service(&mut self, digits: &str) -> Result<(), EngineError> {
        let Known::Pinned(pinned) = &mut self.service else {
            return Err(EngineError::NoOtherService);
        };
        let stranger = pinned.stranger.ok_or(EngineError::NoOtherService)?;
        let hex = Hash(stranger).to_string();
        if digits.len() < 4 || !hex.starts_with(&digits.to_ascii_lowercase()) {
            return Err(EngineError::NoOtherService);
        }
        *pinned = Pinned {
            key: stranger,
            generations: Vec::new(),
            stranger: None,
        };
        self.save_service();
        self.ended(About::Device, End::KnownService);
        self.hang_up("another service is accepted");
        Ok(())
    }

    /// The service shows a signed head of a log. The largest is kept.
    pub(crate) fn head_shown(
        &mut self,
        group: &mut Group,
        document: Option<DocumentId>,
        signed: &SignedHead,
    ) -> Shown {
        self.judge_head(group, document, signed, true)
    }

    /// As [`Self::head_shown`], of a log that goes another way than the own one: what the service had signed of that stays, since it proves that
    /// there was such a log.
    pub(crate) fn other_head_shown(
        &mut self,
        group: &mut Group,
        document: Option<DocumentId>,
        signed: &SignedHead,
    ) -> Shown {
        self.judge_head(group, document, signed, false)
    }

    fn judge_head(
        &mut self,
        group: &mut Group,
        document: Option<DocumentId>,
        signed: &SignedHead,
        keeps: bool,
    ) -> Shown {
        let number = self.link.generation();
        let known = self.largest_shown(group, document);
        if known.is_some_and(|known| known.is_contradicted_in(number)) {
            return Shown::Contradicts;
        }
        if known.is_some_and(|known| (known.generation, known.signed) == (number, *signed)) {
            return Shown::Signed;
        }
        let log = LogName {
            group: group.id,
            document,
        };
        let pinned = self.service.pinned();
        let named = self.link.named.as_ref();
        let verified = pinned.zip(named).is_some_and(|(pinned, generation)| {
            verify_head(&pinned.key, generation, &log, signed).is_ok()
        });
        if !verified {
            self.found(Finding {
                what: FindingKind::BadHead,
                about: About::of(log.group, log.document),
                suspect: Some(Suspect::Service),
            });
            return Shown::Unsigned;
        }
        let Some(known) = known else {
            self.keep_head(group, document, number, *signed);
            return Shown::Signed;
        };
        let (old, new) = (known.head(), signed.head);
        if let Some(generation) = self.link.named.filter(|_| known.generation == number) {
            let both = (&known.signed, signed);
            if old.size == new.size && old.root != new.root {
                self.convict_of_fork(log, &generation, both, &());
            } else if is_rollback(&known.signed, signed) {
                // Perhaps it was put back, and says so next.
                self.convict_of_rollback(log, &generation, both);
            }
        }
        if old.size == new.size && old.root != new.root && known.generation == number {
            self.contradicted(group, document, signed);
            return Shown::Contradicts;
        }
        // A smaller one of a newer generation says where the service was put back to; the larger one still proves what it had.
        if keeps && (new.size, number) > (old.size, known.generation) {
            self.keep_head(group, document, number, *signed);
        }
        Shown::Signed
    }

    /// The largest head of a log that this service has signed, of those that it showed here.
    pub(crate) fn largest_shown(
        &self,
        group: &Group,
        document: Option<DocumentId>,
    ) -> Option<ShownHead> {
        let shown = group.heads.get(&document).copied()?;
        let key = self.service.pinned()?.key;
        (shown.key == key).then_some(shown)
    }

    fn keep_head(
        &mut self,
        group: &mut Group,
        document: Option<DocumentId>,
        generation: u64,
        signed: SignedHead,
    ) {
        let Some(key) = self.service.pinned().map(|pinned| pinned.key) else {
            return;
        };
        if signed.head.size == 0 {
            return;
        }
        let shown = ShownHead {
            generation,
            key,
            signed,
            against: None,
        };
        self.put(head_row(&group.id, document), shown.row());
        group.heads.insert(document, shown);
    }

    /// What is here of a document goes on from this head of the service's, whatever that had signed before.
    pub(crate) fn follow_head(
        &mut self,
        group: &mut Group,
        document: DocumentId,
        signed: SignedHead,
    ) {
        self.keep_head(group, Some(document), self.link.generation(), signed);
    }

    /// The service has signed two heads in one generation that no log has together: both are kept.
    pub(crate) fn contradicted(
        &mut self,
        group: &mut Group,
        document: Option<DocumentId>,
        signed: &SignedHead,
    ) {
        let Some(shown) = group.heads.get_mut(&document) else {
            return;
        };
        shown.against = Some(*signed);
        let row = shown.row();
        self.put(head_row(&group.id, document), row);
    }

    /// Whether the service was put back, or is another one, since a log grew in this generation; where that is not known, since this device knows
    /// the service.
    pub(crate) fn is_put_back_since(&self, grown_in: Option<u64>) -> bool {
        let pinned = self.service.pinned();
        let generations = pinned.map_or(&[][..], |pinned| &pinned.generations);
        let now = self.link.generation();
        let first = generations.first().map_or(now, |first| first.number);
        let number = grown_in.unwrap_or(first);
        // Of a later one that this service has shown, it knows nothing any more: that is to be reported.
        let known = |number| generations.iter().any(|it| it.number == number);
        number < now || (number > now && !known(number))
    }

    /// Whether the service has said, and signed, that it gives up what is here of a log: it takes none of it back.
    /// What had come here in the generation that gave something up, or later, is not what it gave up.
    pub(crate) fn given_up(
        &self,
        log: &LogName,
        (own, grown_in): (u64, Option<u64>),
        losses: &[Loss],
    ) -> bool {
        let Some(key) = self.service.pinned().map(|pinned| pinned.key) else {
            return false;
        };
        let mut of_log = losses
            .iter()
            .filter(|loss| loss.log == *log && loss.kept.size < own)
            .filter(|loss| loss.generation > grown_in.unwrap_or(0));
        of_log.any(|loss| verify_loss(&key, loss).is_ok())
    }

    /// The service's log lacks what it had signed: it is shown its own signature, once on a connection.
    pub(crate) fn report(&mut self, group: &Group, document: Option<DocumentId>, have: u64) {
        let shown = self.largest_shown(group, document);
        let Some(shown) = shown.filter(|shown| shown.head().size > have) else {
            return;
        };
        let pinned = self.service.pinned();
        let Some(generation) = pinned.and_then(|pinned| pinned.of(shown.generation).copied())
        else {
            return;
        };
        if !self.link.reported.insert((group.id, document)) {
            return;
        }
        let log = LogName {
            group: group.id,
            document,
        };
        let request = Request::Report {
            generation,
            log,
            signed: shown.signed,
        };
        self.request(request, Pending::Report(group.id, document));
    }
}

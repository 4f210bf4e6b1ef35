//! Own edits without a place in the log, taken out: as words and as updates, so that they can be kept apart where the document cannot take them.

use std::collections::BTreeSet;
use std::fmt;

use conclave_crdt::{Crdt, CrdtKind};
use conclave_mls::Rows;
use rand_core::CryptoRngCore;
use zeroize::Zeroizing;

use crate::content::{Checkpoint, Content, Fresh, Plain, TailEntry};
use crate::context::DeliverOutcome;
use crate::document::Document;
use crate::error::DocError;
use crate::lost::{Lost, LostUpdates};
use crate::outbox::Own;
use crate::seal::{KeyRing, KeySource};
use crate::stored::{Sorted, malformed, read_idle, read_item, read_segment, read_update};
use crate::views::{Views, tell_all};
use crate::watch::Watch;
use crate::words::{Word, between};

/// Own edits that go out of a document. `Debug` prints no content.
#[derive(Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Kind of the document.
    pub kind: CrdtKind,
    /// How many edits.
    pub changes: usize,
    /// What they did.
    pub words: Vec<Word>,
    /// Whether the words tell everything. Formats and XML, and what else neither text nor JSON shows, is in the updates alone.
    pub words_tell_all: bool,
    /// The edits themselves: operations of this device only. Of a document that was never sent, its whole state.
    pub updates: Vec<Zeroizing<Vec<u8>>>,
    /// Whether the document was never sent.
    pub is_new: bool,
}

impl fmt::Debug for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsent({} changes, {:?})", self.changes, self.words)
    }
}

/// A document as its rows hold it, read without its group.
pub struct StoredDocument {
    /// Its content, own edits included.
    pub crdt: Box<dyn Crdt>,
    /// Own edits without a place in the log, if there are any.
    pub unsent: Option<Unsent>,
}

impl fmt::Debug for StoredDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredDocument({:?})", self.unsent)
    }
}

impl StoredDocument {
    /// Reads rows that [`Document::take_changes`] wrote.
    ///
    /// # Errors
    /// As [`Document::load`]; [`stored_updates`] may still give what is unsent.
    pub fn read(
        rows: Rows,
        keys: &dyn KeySource,
        rng: &mut dyn CryptoRngCore,
    ) -> Result<Self, DocError> {
        let mut fresh = Fresh::new(rng);
        let sorted = Sorted::read(rows)?;
        let row = sorted.checkpoint;
        let kind = CrdtKind::from_code(row.kind).ok_or(DocError::UnknownKind { code: row.kind })?;
        let checkpoint = Checkpoint {
            size: row.size,
            state: row.state,
            crdt: row.crdt,
        };
        let mut content = Content::new(kind, checkpoint, Watch::default(), &mut fresh)?;
        let mut keys = KeyRing::new(keys, row.document);
        let mut corrections = sorted.corrections;
        for (first, bytes) in sorted.segments {
            if first != content.size() {
                return Err(malformed("segment"));
            }
            for (seq, mut entry) in (first..).zip(read_segment(&bytes)?) {
                if let Some(effect) = corrections.remove(&seq) {
                    entry.effect = effect;
                }
                let update = read_update(&entry, &mut keys)?;
                let idle = read_idle(&entry)?;
                let effect = entry.effect;
                let entry = TailEntry {
                    effect,
                    update,
                    sealed: None,
                    idle,
                };
                content.push(entry, None);
            }
        }
        let mut lost = LostUpdates::default();
        for (number, payload) in sorted.lost {
            let read =
                Lost::read(payload, content.crdt.as_ref()).ok_or(malformed("lost update"))?;
            lost.restore(number, read);
        }
        let updates: Vec<Plain> = sorted
            .outbox
            .into_iter()
            .chain(sorted.drafts)
            .filter(|item| item.what == Own::Update)
            .map(|item| item.plain)
            .collect();
        let device = sorted.meta.author.device;
        let others: Vec<&Plain> = lost.of(device, false).map(|lost| &lost.plain).collect();
        let own = lost.of(device, true).map(|lost| &lost.plain);
        let own: Vec<&Plain> = own.chain(&updates).collect();
        let all: Vec<&Plain> = lost.plains().chain(&updates).collect();
        content.load_all(&all, &mut fresh)?;
        let unsent = unsent(&mut content, &others, &own, &mut fresh)?;
        Ok(Self {
            crdt: content.crdt,
            unsent,
        })
    }
}

/// Own updates without a place in the log, from rows of which nothing else need be readable.
#[must_use]
pub fn stored_updates(rows: &Rows) -> Vec<Zeroizing<Vec<u8>>> {
    let item = |(key, value): &(Vec<u8>, Zeroizing<Vec<u8>>)| {
        let number = key.strip_prefix(b"o").or(key.strip_prefix(b"q"))?;
        read_item(u64::from_be_bytes(number.try_into().ok()?), value).ok()
    };
    rows.iter()
        .filter_map(item)
        .filter(|item| item.what == Own::Update)
        .map(|item| item.plain.0)
        .collect()
}

/// What `own` edits do to the content, which shows them, and what the log has lost of `others`.
fn unsent(
    content: &mut Content,
    others: &[&Plain],
    own: &[&Plain],
    fresh: &mut Fresh,
) -> Result<Option<Unsent>, DocError> {
    let kind = content.kind;
    // Nothing of it is with the service yet.
    let is_new = content.size() == 0;
    if own.is_empty() && !is_new {
        return Ok(None);
    }
    let mut base = if is_new {
        conclave_crdt::create(kind, fresh.replica(kind))?
    } else {
        content.rebuild(content.size(), &BTreeSet::new(), others, fresh)?
    };
    let words = {
        let before = Views::of(base.as_mut());
        between(kind, &before, &Views::of(content.crdt.as_mut()))
    };
    let words_tell_all = tell_all(base.as_mut(), content.crdt.as_mut());
    let updates = if is_new {
        vec![Zeroizing::new(content.crdt.snapshot()?)]
    } else {
        own.iter().map(|plain| plain.0.clone()).collect()
    };
    Ok(Some(Unsent {
        kind,
        changes: own.len().saturating_add(usize::from(is_new)),
        words,
        words_tell_all,
        updates,
        is_new,
    }))
}

impl Document {
    /// How many own edits have no place in the log yet.
    #[must_use]
    pub fn unsent_count(&self) -> usize {
        let device = self.outbox.author.device;
        let lost = self.lost.of(device, true).count();
        self.outbox.update_count().saturating_add(lost)
    }

    /// Own edits without a place in the log, if there are any. The document stays as it is.
    ///
    /// # Errors
    /// [`DocError::Crdt`].
    pub fn unsent(&mut self) -> Result<Option<Unsent>, DocError> {
        self.collect_edits()?;
        let device = self.outbox.author.device;
        let plain = |lost: &'_ Lost| lost.plain.clone();
        let others: Vec<Plain> = self.lost.of(device, false).map(plain).collect();
        let own = self.lost.of(device, true).map(|lost| &lost.plain);
        let own: Vec<&Plain> = own.chain(self.outbox.updates()).collect();
        let others: Vec<&Plain> = others.iter().collect();
        unsent(&mut self.content, &others, &own, &mut self.fresh)
    }

    /// Takes own edits out: the document shows what the group has. Call it only where nothing is on its way, and keep [`Document::unsent`]
    /// in the same batch of writes.
    ///
    /// # Errors
    /// [`DocError::Crdt`] when the CRDT cannot be built again; drop the document and load it from its rows.
    pub fn drop_unsent(&mut self) -> Result<DeliverOutcome, DocError> {
        self.collect_edits()?;
        let mut outcome = DeliverOutcome::default();
        self.outbox.drop_updates();
        self.outbox.drop_kind(Own::Carried);
        self.lost.none_queued();
        let device = self.outbox.author.device;
        drop(self.lost.remove(|lost| lost.device() == device));
        self.rebuild()?;
        // Clocks of what went may be known to the service.
        self.renew_instance(&mut outcome);
        outcome.rebuilt = true;
        Ok(outcome)
    }

    /// The updates that are about to be dropped.
    pub(crate) fn dropped_updates(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let own = self.outbox.updates().into_iter();
        own.map(|plain| plain.0.clone()).collect()
    }

    /// What led from one view of this document to another and has no place in it; the edits did more than that where the views do not tell
    /// everything of them.
    pub(crate) fn lost_between(
        &self,
        base: &Views,
        wanted: &Views,
        updates: Vec<Zeroizing<Vec<u8>>>,
        words_tell_all: bool,
    ) -> Unsent {
        let kind = self.content.kind;
        Unsent {
            kind,
            changes: updates.len().max(1),
            words: between(kind, base, wanted),
            words_tell_all,
            updates,
            is_new: false,
        }
    }
}

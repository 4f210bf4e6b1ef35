//! What a document in memory is.

use super::*;
use crate::group::LastBy;

/// Most epochs of which it is remembered where a document's records lie.
const EPOCHS: usize = 256;

/// Who makes the snapshot that the edits since the active one, which is named here, call for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// None was called for yet.
    Open,
    /// This device.
    Here(Hash),
    /// The device whose edit called for it. This one waits a while first.
    Elsewhere(Hash),
    /// This device, whatever the edits call for.
    Wanted,
}

/// Why a document is read again from what is stored: what is in memory is not to be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reread {
    /// A call failed half-way: what is in memory may be ahead of what is stored.
    Failed,
    /// It was judged by a root that was false.
    FalseRoot,
    /// The service's log may be another one.
    Unlikely,
    /// There is no room to keep apart what the log leaves no place for.
    NoRoom,
}

impl Reread {
    /// Whether it may fail again in the same way.
    pub(super) fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::NoRoom)
    }
}

/// A document in memory. Where it stands towards the service is told by the connection's [`DocLink`].
#[derive(Debug)]
pub(crate) struct Doc {
    pub(crate) id: DocumentId,
    pub(crate) document: Box<Document>,
    pub(crate) notes: Notes,
    pub(crate) reread: Option<Reread>,
    /// What is to be done with it next, before anything else.
    pub(crate) errand: Option<Errand>,
    /// When it was worked on last, among the others.
    pub(crate) age: u64,
}

/// What is known of a document beside its log and content. It stays here while a job has the document.
#[derive(Debug)]
pub(crate) struct Notes {
    /// Who waits for it to be in step with the service.
    pub(crate) waiters: Vec<CommandId>,
    pub(super) turn: Turn,
    /// Size of its log when it was last looked whether that had grown.
    pub(super) size: u64,
    /// In which minute its row was saved last, and who had made the last change by then.
    pub(super) told_last: Option<(UnixMs, Option<LastBy>)>,
    /// The snapshot that is being read from its row.
    pub(super) reads: Option<u64>,
    /// First and last position at which records of an epoch were delivered.
    epochs: BTreeMap<u64, (u64, u64)>,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            waiters: Vec::new(),
            turn: Turn::Open,
            size: 0,
            told_last: None,
            reads: None,
            epochs: BTreeMap::new(),
        }
    }
}

impl Notes {
    /// Remembers where the records of an epoch lie. Epochs never fall along a log.
    pub(super) fn note_epochs(&mut self, first_seq: u64, records: &[DeliveredRecord]) {
        for (seq, record) in (first_seq..).zip(records) {
            let epoch = match record {
                DeliveredRecord::Update(it)
                | DeliveredRecord::Verdict(it)
                | DeliveredRecord::Carried(it) => it.epoch.0,
                DeliveredRecord::Whole { record, .. } => record.header.epoch,
                DeliveredRecord::Leaf(_) => continue,
            };
            let place = self.epochs.entry(epoch).or_insert((seq, seq));
            *place = (place.0.min(seq), place.1.max(seq));
        }
        // A log of which this is not true is not worth more.
        while self.epochs.len() > EPOCHS {
            self.epochs.pop_first();
        }
    }
}

impl Doc {
    pub(crate) fn new(id: DocumentId, document: Box<Document>) -> Self {
        Self {
            id,
            document,
            notes: Notes::default(),
            reread: None,
            errand: None,
            age: 0,
        }
    }

    /// Epoch of the record at a position, where it was delivered to this session.
    pub(crate) fn epoch_of(&self, seq: u64) -> Option<u64> {
        let mut places = self.notes.epochs.iter();
        let found = places.find(|(_, (first, last))| (*first..=*last).contains(&seq));
        found.map(|(epoch, _)| *epoch)
    }

    /// Answers who waits for it.
    pub(crate) fn answer(&mut self, cx: &mut Cx, error: &EngineError) {
        let waiters = std::mem::take(&mut self.notes.waiters);
        cx.reply_all(waiters, error);
    }

    /// The device whose edit made a snapshot due had its time.
    pub(crate) fn take_turn(&mut self) {
        self.notes.turn = Turn::Here(self.document.active_snapshot().0);
    }
}

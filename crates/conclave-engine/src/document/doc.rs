//! What a document in memory is.

use super::*;
use crate::group::LastBy;

/// Most epochs of which it is remembered where a document's records lie.
const EPOCHS: usize = 256;

/// So long a document may be under way before anybody is told how far it is, in milliseconds.
const QUIET_MS: u64 = 1_000;
/// And so often they are told then, in milliseconds.
const TELL_MS: u64 = 250;

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

/// How far the way is to what the service has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// All of it is here.
    #[default]
    Over,
    /// Not all.
    UnderWay {
        /// Size of the log when that began.
        from: u64,
        /// When it began.
        began: UnixMs,
        /// When it was told last how far it is.
        told: Option<UnixMs>,
    },
}

impl Progress {
    /// The log is so long here, and so long at the service. Gives how many records of how many are to be told now.
    pub(super) fn follow(&mut self, size: u64, target: u64, now: UnixMs) -> Option<(u64, u64)> {
        let is_over = size >= target;
        let (from, began, told) = match *self {
            Self::Over if is_over => return None,
            Self::Over => (size, now, None),
            Self::UnderWay { from, began, told } => (from, began, told),
        };
        let due = match told {
            None => now.since_ms(began) >= QUIET_MS && !is_over,
            Some(told) => now.since_ms(told) >= TELL_MS || is_over,
        };
        let told = if due { Some(now) } else { told };
        *self = match is_over {
            true => Self::Over,
            false => Self::UnderWay { from, began, told },
        };
        let total = target.max(size).saturating_sub(from);
        due.then(|| (size.saturating_sub(from), total))
    }
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
    pub(super) progress: Progress,
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
            progress: Progress::Over,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_told_now_and_then_and_when_it_is_over() {
        let mut progress = Progress::Over;
        let mut follow = |size, target, ms| progress.follow(size, target, UnixMs(ms));
        assert_eq!(follow(7, 7, 0), None);
        // It begins with 7 records; what is over within the first second nobody is told.
        assert_eq!(follow(7, 100, 1_000), None);
        assert_eq!(follow(50, 100, 1_900), None);
        assert_eq!(follow(100, 100, 9_000), None);
        assert_eq!(follow(100, 300, 10_000), None);
        assert_eq!(follow(150, 300, 11_000), Some((50, 200)));
        assert_eq!(follow(160, 300, 11_249), None);
        assert_eq!(follow(170, 310, 11_250), Some((70, 210)));
        assert_eq!(follow(310, 310, 11_251), Some((210, 210)));
        assert_eq!(follow(310, 310, 20_000), None);
        assert_eq!(follow(310, 311, 20_000), None);
    }
}

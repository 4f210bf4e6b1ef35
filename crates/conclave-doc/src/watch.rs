//! Where long work on a document is, for whoever waits for it: which record, or which state, a CRDT engine has just now.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use conclave_proto::{Author, Hash};
use serde::{Deserialize, Serialize};

/// A record that an engine is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordAt {
    /// Its position in the log.
    pub seq: u64,
    /// Its id.
    pub id: Hash,
    /// Who sealed it.
    pub author: Author,
    /// Its encoded size.
    pub bytes: u32,
}

/// Where work is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// In no engine.
    #[default]
    Elsewhere,
    /// An engine has all of these records in one call.
    Records {
        /// Position of the first.
        first: u64,
        /// Position of the last.
        last: u64,
    },
    /// An engine has this record.
    Record(RecordAt),
    /// An engine has the state with which what is stored of the document begins.
    Stored,
    /// An engine has a snapshot of the log.
    Snapshot {
        /// Its position.
        seq: u64,
        /// Who sealed it, where that is known.
        author: Option<Author>,
    },
}

/// Called with every record, and every state, before an engine is given it.
type Observer = Box<dyn Fn(&At) + Send + Sync>;

struct Shared {
    at: Mutex<At>,
    /// Records are given to engines one after the other.
    singly: bool,
    /// Records at which work on the document was stuck here.
    stuck: BTreeSet<Hash>,
    observer: OnceLock<Observer>,
}

/// Says where work on a document is. Copies say the same.
#[derive(Clone)]
pub struct Watch(Arc<Shared>);

impl Default for Watch {
    fn default() -> Self {
        Self::new(false, BTreeSet::new())
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.at())
    }
}

impl Watch {
    /// For one piece of work. With `singly` engines are given one record after the other, so that it can be told at which one work is. `stuck` are
    /// records at which work on this document did not come back: where they are void by now, no engine is given them again.
    #[must_use]
    pub fn new(singly: bool, stuck: BTreeSet<Hash>) -> Self {
        Self(Arc::new(Shared {
            at: Mutex::default(),
            singly,
            stuck,
            observer: OnceLock::new(),
        }))
    }

    /// Where the work is now. After a panic: where it was then.
    #[must_use]
    pub fn at(&self) -> At {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `observer` with every record, and every state, before an engine is given it: for tests, in which work stops at one.
    #[doc(hidden)]
    pub fn observe(&self, observer: Box<dyn Fn(&At) + Send + Sync>) {
        let _ = self.0.observer.set(observer);
    }

    pub(crate) fn is_singly(&self) -> bool {
        self.0.singly
    }

    pub(crate) fn stuck(&self) -> &BTreeSet<Hash> {
        &self.0.stuck
    }

    fn set(&self, at: At) -> At {
        let mut place = self.0.at.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, at)
    }

    /// Does some work there. Where that panics, the place stays told.
    pub(crate) fn within<R>(&self, at: At, work: impl FnOnce() -> R) -> R {
        let before = self.set(at);
        self.tell(&at);
        let result = work();
        self.set(before);
        result
    }

    fn tell(&self, at: &At) {
        if let Some(observer) = self.0.observer.get() {
            observer(at);
        }
    }

    /// The same for work with records that an engine is given in one call.
    pub(crate) fn with_records<R>(&self, records: &[RecordAt], work: impl FnOnce() -> R) -> R {
        let at = match records {
            [] => At::Elsewhere,
            [record] => At::Record(*record),
            [first, .., last] => At::Records {
                first: first.seq,
                last: last.seq,
            },
        };
        self.within(at, || {
            if records.len() > 1 {
                for record in records {
                    self.tell(&At::Record(*record));
                }
            }
            work()
        })
    }
}

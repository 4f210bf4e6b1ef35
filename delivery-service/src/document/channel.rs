//! One document open on one connection.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_order::query::document::Base;
use conclave_proto::{Author, Hash, Head};

use super::Document;
use crate::group::Group;

/// A document open on a connection, and the author that writes there.
pub(crate) struct Channel {
    pub(crate) document: Arc<Document>,
    pub(crate) group: Arc<Group>,
    pub(crate) author: Author,
    /// The snapshot that delivery began with, if it did.
    pub(crate) base: Option<Base>,
    ahead: Mutex<Ahead>,
    in_flight: AtomicUsize,
    /// Whether a wrong signature has come here: then each is checked by itself, where its frame is judged.
    single: AtomicBool,
}

/// How far the chain of this author has been checked: ahead of what is durable, by the frames in flight.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    /// Counts resets. A refusal resets only what was built in its own generation.
    generation: u64,
    /// Next clock and last leaf; none when they have to be read again.
    chain: Option<(u64, Hash)>,
    /// The head that the last record named as seen. A log's heads do not change.
    named: Option<Head>,
}

impl Channel {
    pub(crate) fn new(
        document: Arc<Document>,
        group: Arc<Group>,
        author: Author,
        base: Option<Base>,
        chain: (u64, Hash),
    ) -> Self {
        Self {
            document,
            group,
            author,
            base,
            ahead: Mutex::new(Ahead {
                generation: 0,
                chain: Some(chain),
                named: None,
            }),
            in_flight: AtomicUsize::new(0),
            single: AtomicBool::new(false),
        }
    }

    /// Number of the channel: the document's own number, the same on all connections, so that one encoded frame serves them all.
    pub(crate) fn number(&self) -> u64 {
        self.document.number
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Next clock and last leaf after everything in flight, with the generation.
    pub(crate) fn chain(&self) -> (u64, Option<(u64, Hash)>) {
        let ahead = self.ahead();
        (ahead.generation, ahead.chain)
    }

    /// Notes that a frame was checked up to here.
    pub(crate) fn advance(&self, generation: u64, next_clock: u64, last: Hash) {
        let mut ahead = self.ahead();
        if ahead.generation == generation {
            ahead.chain = Some((next_clock, last));
        }
    }

    /// The head that the last record named as seen.
    pub(crate) fn named(&self) -> Option<Head> {
        self.ahead().named
    }

    /// Notes that a record named a head that is one.
    pub(crate) fn names(&self, head: Head) {
        self.ahead().named = Some(head);
    }

    /// Sets what was read again, unless somebody else has.
    pub(crate) fn reload(&self, generation: u64, chain: (u64, Hash)) {
        let mut ahead = self.ahead();
        if ahead.generation == generation && ahead.chain.is_none() {
            ahead.chain = Some(chain);
        }
    }

    /// A frame of `generation` was refused: what was built on it is void. `durable` is the author's chain as stored, if known.
    pub(crate) fn reset(&self, generation: u64, durable: Option<(u64, Hash)>) {
        let mut ahead = self.ahead();
        if ahead.generation == generation {
            ahead.generation = ahead.generation.wrapping_add(1);
            ahead.chain = durable;
        }
    }

    /// A frame was accepted. One that was checked before a reset is news to the chain.
    pub(crate) fn accepted(&self, next_clock: u64, last: Hash) {
        let mut ahead = self.ahead();
        if ahead.chain.is_some_and(|(next, _)| next < next_clock) {
            ahead.chain = Some((next_clock, last));
        }
    }

    /// Whether signatures are checked one by one.
    pub(crate) fn is_single(&self) -> bool {
        self.single.load(Ordering::Acquire)
    }

    /// A wrong signature has come. True: the first.
    pub(crate) fn make_single(&self) -> bool {
        !self.single.swap(true, Ordering::AcqRel)
    }

    /// Frames given to the writer and not yet answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn depart(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn arrive(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

//! One document open on one connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use conclave_proto::{Author, Hash};

use super::Document;
use crate::group::Group;

/// A document open on a connection, and the author that writes there.
pub(crate) struct Channel {
    pub(crate) document: Arc<Document>,
    pub(crate) group: Arc<Group>,
    pub(crate) author: Author,
    /// Where delivery begins and which records need a proof.
    pub(crate) start: Start,
    ahead: Mutex<Ahead>,
    in_flight: AtomicUsize,
}

/// What a receiver had when it opened the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// First position delivered.
    pub(crate) from: u64,
    /// Position of the base snapshot, where it began with one.
    pub(crate) base_seq: Option<u64>,
    /// Records whose author had seen less than this travel whole, with a proof: the receiver may not know the root they name.
    pub(crate) proof_below: u64,
    /// Size of the head that such proofs lead to: one that the receiver surely knows.
    pub(crate) proof_to: u64,
}

/// How far the chain of this author has been checked: ahead of what is durable, by the frames in flight.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    /// Counts resets. A refusal resets only what was built in its own generation.
    generation: u64,
    /// Next clock and last leaf; none when they have to be read again.
    chain: Option<(u64, Hash)>,
}

impl Channel {
    pub(crate) fn new(
        document: Arc<Document>,
        group: Arc<Group>,
        author: Author,
        start: Start,
        chain: (u64, Hash),
    ) -> Self {
        Self {
            document,
            group,
            author,
            start,
            ahead: Mutex::new(Ahead {
                generation: 0,
                chain: Some(chain),
            }),
            in_flight: AtomicUsize::new(0),
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

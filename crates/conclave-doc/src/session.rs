//! What of a document's own records is on its way, on one connection. The document knows nothing of it: with the connection it is gone, and
//! everything unanswered is sent again on the next.

use std::collections::VecDeque;

use conclave_proto::frame::OpenedDocument;
use conclave_proto::{Author, Refusal};

use crate::document::Document;

/// Frames in flight of one document that is open on a connection. Made before [`Document::opened`].
#[derive(Debug, Clone)]
pub struct Session {
    /// Under whom the document is open. After a fresh instance was drawn nothing more is sent here.
    pub(crate) author: Author,
    /// Number of the first own record that was not sent.
    pub(crate) next: u64,
    /// Frames sent and not answered: first clock, count.
    frames: VecDeque<(u64, usize)>,
    /// After a refusal: nothing is sent before all frames are answered.
    draining: bool,
    /// The service has own records up to this clock; they come with the log.
    pub(crate) await_clock: u64,
    /// Refused for good.
    pub(crate) parked: Option<Refusal>,
}

/// What a refused frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fell {
    /// None that was sent.
    Unknown,
    /// One that fell with another before it.
    Echo,
    /// The first.
    First,
}

impl Session {
    /// As [`Document::session`], for a document that writes as `author`.
    #[must_use]
    pub fn new(author: Author, opened: &OpenedDocument) -> Self {
        Self {
            author,
            next: 0,
            frames: VecDeque::new(),
            draining: false,
            await_clock: opened.own_next_clock,
            parked: None,
        }
    }

    /// Under whom the document is open.
    #[must_use]
    pub fn author(&self) -> Author {
        self.author
    }

    /// How many frames are sent and not answered.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Why the service does not take this device's edits, if it does not: they are kept, and offered again when the document is opened again.
    #[must_use]
    pub fn parked(&self) -> Option<&Refusal> {
        self.parked.as_ref()
    }

    /// Whether anything may be sent by this author, whose next clock is `clock`.
    pub(crate) fn may_send(&self, author: Author, clock: u64) -> bool {
        let ready = !self.draining && self.parked.is_none();
        ready && author == self.author && clock >= self.await_clock
    }

    /// A frame was built.
    pub(crate) fn push_frame(&mut self, first_clock: u64, count: usize) {
        self.frames.push_back((first_clock, count));
    }

    /// A frame was acknowledged. False if no such frame was sent.
    pub(crate) fn answered(&mut self, first_clock: u64, count: u64) -> bool {
        let fits = self
            .frames
            .front()
            .is_some_and(|frame| frame.0 == first_clock && frame.1 as u64 == count);
        if fits {
            self.frames.pop_front();
            self.draining &= !self.frames.is_empty();
        }
        fits
    }

    /// A frame was refused: it and all after it are to be sent again.
    pub(crate) fn refused(&mut self, first_clock: u64) -> Fell {
        let front = self.frames.front();
        if front.is_none_or(|frame| frame.0 != first_clock) {
            return Fell::Unknown;
        }
        self.frames.pop_front();
        let fell = match self.draining {
            true => Fell::Echo,
            false => Fell::First,
        };
        self.draining = !self.frames.is_empty();
        fell
    }
}

impl Document {
    /// What is on its way on the connection on which the service has opened this document: nothing yet.
    #[must_use]
    pub fn session(&self, opened: &OpenedDocument) -> Session {
        Session::new(self.outbox.author, opened)
    }
}

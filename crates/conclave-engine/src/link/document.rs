//! Where documents stand towards the service on one connection. A lost connection replaces all of it.

use conclave_doc::Session;
use conclave_proto::{DocumentId, GroupId, Refusal, UnixMs};

use super::Link;
use crate::backoff::Backoff;
use crate::document::Doc;
use crate::timers::earlier;

/// Where a document stands. None: the next look at it asks the service.
#[derive(Debug)]
pub(crate) enum DocLink {
    /// The service was asked to open it, or first for the last record that is here.
    Asking {
        ask: u64,
    },
    /// Its creation was sent.
    Creating,
    /// It is not open.
    Refused(NotOpen),
    Open(Box<Open>),
}

/// Why a document is not open.
#[derive(Debug)]
pub(crate) enum NotOpen {
    /// It is asked for again after a while, or on the next connection.
    Later,
    /// The service's log lacks what is here, or went another way.
    Away,
    /// Receiving is paused, or of a new document also sending.
    Paused,
    /// The service does not take this new document. It is kept here, and offered again on the next connection.
    NotTaken(Refusal),
}

/// An open document.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) channel: u64,
    /// Size of the log, as far as the service has shown it.
    pub(crate) target: u64,
    /// What of the own edits is on its way.
    pub(crate) session: Session,
    pub(crate) fetch: Fetch,
    pub(crate) snapshot: SnapshotLink,
    pub(crate) snapshot_failures: Backoff,
    /// Own edits are not sent before this time.
    pub(crate) send_after: UnixMs,
    /// What the service said when it took none of them last, since it is collecting what it lost.
    pub(crate) collecting: Option<Refusal>,
}

/// Records that are asked for whole.
#[derive(Debug, Default)]
pub(crate) struct Fetch {
    pub(crate) asked: bool,
    /// None are asked for before this time.
    pub(crate) after: UnixMs,
    pub(crate) failures: Backoff,
}

/// An own snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnapshotLink {
    /// None is on its way.
    Idle,
    Sent,
    /// One was refused: the next is made after a while.
    Paused,
}

impl Open {
    pub(crate) fn new(channel: u64, target: u64, session: Session) -> Self {
        Self {
            channel,
            target,
            session,
            fetch: Fetch::default(),
            snapshot: SnapshotLink::Idle,
            snapshot_failures: Backoff::default(),
            send_after: UnixMs(0),
            collecting: None,
        }
    }
}

impl Link {
    /// The clock was set back by so much.
    pub(crate) fn move_back(&mut self, by_ms: u64) {
        self.opened_again = earlier(self.opened_again, by_ms);
        for link in self.documents.values_mut() {
            if let DocLink::Open(open) = link {
                open.send_after = earlier(open.send_after, by_ms);
                open.fetch.after = earlier(open.fetch.after, by_ms);
            }
        }
    }

    pub(crate) fn document(&self, group: GroupId, id: DocumentId) -> Option<&DocLink> {
        self.documents.get(&(group, id))
    }

    pub(crate) fn documents(&self) -> impl Iterator<Item = (&(GroupId, DocumentId), &DocLink)> {
        self.documents.iter()
    }

    /// The document that is open on a channel.
    pub(crate) fn at(&self, channel: u64) -> Option<(GroupId, DocumentId)> {
        self.channels.get(&channel).copied()
    }

    pub(crate) fn channels(&self) -> impl Iterator<Item = (u64, (GroupId, DocumentId))> {
        self.channels.iter().map(|(channel, key)| (*channel, *key))
    }

    pub(crate) fn set_document(&mut self, group: GroupId, id: DocumentId, link: DocLink) {
        if let DocLink::Open(open) = &link {
            self.channels.insert(open.channel, (group, id));
        }
        self.documents.insert((group, id), link);
    }

    /// The next look asks the service again. Gives the channel on which the document was open.
    pub(super) fn forget_document(&mut self, group: GroupId, id: DocumentId) -> Option<u64> {
        let Some(DocLink::Open(open)) = self.documents.remove(&(group, id)) else {
            return None;
        };
        self.channels.remove(&open.channel);
        Some(open.channel)
    }

    pub(crate) fn open(&self, group: GroupId, id: DocumentId) -> Option<&Open> {
        match self.documents.get(&(group, id)) {
            Some(DocLink::Open(open)) => Some(open),
            _ => None,
        }
    }

    pub(crate) fn open_mut(&mut self, group: GroupId, id: DocumentId) -> Option<&mut Open> {
        match self.documents.get_mut(&(group, id)) {
            Some(DocLink::Open(open)) => Some(open),
            _ => None,
        }
    }

    /// Whether everything that the service has shown of a document is here and applied.
    pub(crate) fn is_caught_up(&self, group: GroupId, doc: &Doc) -> bool {
        let open = self.open(group, doc.id);
        open.is_some_and(|open| doc.document.size() >= open.target)
    }

    /// Whether the log is here as far as the service has it, and nothing of this device is on its way into it.
    pub(crate) fn is_at_rest(&self, group: GroupId, doc: &Doc) -> bool {
        let open = self.open(group, doc.id);
        let still = open.is_some_and(|open| open.session.frames() == 0);
        still && self.is_caught_up(group, doc) && doc.reread.is_none()
    }

    /// Whether the service shows another state of a document than this device has.
    pub(crate) fn is_away(&self, group: GroupId, id: DocumentId) -> bool {
        let link = self.document(group, id);
        matches!(link, Some(DocLink::Refused(NotOpen::Away)))
    }

    /// Whether a document is not open, or not made known, because it is paused.
    pub(crate) fn is_paused(&self, group: GroupId, id: DocumentId) -> bool {
        let link = self.document(group, id);
        matches!(link, Some(DocLink::Refused(NotOpen::Paused)))
    }

    /// Whether the service did not open or take a document, or shows another state of it.
    pub(crate) fn is_refused(&self, group: GroupId, id: DocumentId) -> bool {
        matches!(self.document(group, id), Some(DocLink::Refused(_)))
    }

    /// Whether nothing is lost or delayed when a document leaves memory, as far as the service goes.
    pub(crate) fn is_quiet(&self, group: GroupId, id: DocumentId) -> bool {
        match self.document(group, id) {
            None | Some(DocLink::Refused(_)) => true,
            Some(DocLink::Asking { .. } | DocLink::Creating) => false,
            Some(DocLink::Open(open)) => !open.fetch.asked && open.snapshot == SnapshotLink::Idle,
        }
    }
}

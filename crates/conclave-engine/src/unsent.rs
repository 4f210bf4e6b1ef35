//! What waits for the service, by document: durable, read at start, and known without opening any document.

use std::collections::BTreeMap;

use conclave_proto::{DocumentId, GroupId, UnixMs};
use serde::{Deserialize, Serialize};

use crate::cx::Cx;
use crate::document::Doc;
use crate::error::EngineError;
use crate::finding::{About, End};
use crate::group::{DocRow, Group};
use crate::keys;
use crate::timers::earlier;

/// What of a document waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unsent {
    /// Own edits that are not acknowledged.
    pub(crate) edits: u64,
    /// Whether the service does not know the document yet.
    pub(crate) creating: bool,
    /// How many of these edits rest here while sending is paused, and their size.
    #[serde(default)]
    pub(crate) drafts: u64,
    #[serde(default)]
    pub(crate) draft_bytes: u64,
    /// Since when one of them rests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<UnixMs>,
    /// Whether it was told that they wait long or are many.
    #[serde(default)]
    pub(crate) told: bool,
}

impl Unsent {
    /// The service knows the document.
    pub(crate) fn created(self) -> Self {
        Self {
            creating: false,
            ..self
        }
    }
}

/// What waits, by document.
#[derive(Debug, Default)]
pub(crate) struct AllUnsent(BTreeMap<(GroupId, DocumentId), Unsent>);

impl AllUnsent {
    /// Takes a stored row back.
    pub(crate) fn load(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let what = "unsent edits";
        let ids = key
            .get(1..)
            .and_then(|ids| ids.split_at_checked(GroupId::LEN));
        let (group, document) = ids.ok_or(EngineError::Store { what })?;
        let group = GroupId::from_slice(group).ok_or(EngineError::Store { what })?;
        let document = DocumentId::from_slice(document).ok_or(EngineError::Store { what })?;
        self.0.insert((group, document), keys::uncbor(what, value)?);
        Ok(())
    }

    pub(crate) fn get(&self, group: &GroupId, document: &DocumentId) -> Unsent {
        let found = self.0.get(&(*group, *document));
        found.copied().unwrap_or_default()
    }

    /// Edits that wait, in all groups.
    pub(crate) fn edits(&self) -> usize {
        let edits = self.0.values().map(|unsent| unsent.edits).sum::<u64>();
        usize::try_from(edits).unwrap_or(usize::MAX)
    }

    /// Documents of a group of which something waits.
    pub(crate) fn of_group(&self, group: GroupId) -> impl Iterator<Item = DocumentId> {
        let ends = (group, DocumentId([0; 16]))..=(group, DocumentId([0xff; 16]));
        self.0.range(ends).map(|((_, id), _)| *id)
    }

    /// Documents of which something waits.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&(GroupId, DocumentId), &Unsent)> {
        self.0.iter()
    }
}

impl Cx {
    /// Keeps the row of a document in step with the document.
    pub(crate) fn note_unsent(&mut self, group: &Group, doc: &Doc) {
        let row = group.documents.get(&doc.id);
        let (drafts, draft_bytes) = doc.document.drafts();
        let before = self.unsent.get(&group.id, &doc.id);
        // A clock that was set back makes them no younger.
        let since = before.since.unwrap_or(self.now).min(self.now);
        let now = Unsent {
            edits: doc.document.pending_count() as u64,
            creating: row.is_some_and(DocRow::is_creating),
            drafts: drafts as u64,
            draft_bytes: draft_bytes as u64,
            since: (drafts > 0).then_some(since),
            told: before.told && drafts > 0,
        };
        if before.drafts > 0 && drafts == 0 {
            self.ended(About::Document(group.id, doc.id), End::Welcome);
        }
        self.set_unsent(&group.id, &doc.id, now);
        self.tell_drafts(group.id, doc.id);
    }

    /// The clock was set back by so much: what rests here has rested as long as before.
    pub(crate) fn move_drafts_back(&mut self, by_ms: u64) {
        let waiting: Vec<_> = self.unsent.documents().map(|(of, it)| (*of, *it)).collect();
        for ((group, document), unsent) in waiting {
            let since = unsent.since.map(|since| earlier(since, by_ms));
            self.set_unsent(&group, &document, Unsent { since, ..unsent });
        }
    }

    pub(crate) fn set_unsent(&mut self, group: &GroupId, document: &DocumentId, now: Unsent) {
        if now == self.unsent.get(group, document) {
            return;
        }
        if now == Unsent::default() {
            return self.forget_unsent(group, document);
        }
        self.unsent.0.insert((*group, *document), now);
        self.put(keys::unsent(group, document), keys::cbor(&now));
    }

    pub(crate) fn forget_unsent(&mut self, group: &GroupId, document: &DocumentId) {
        if self.unsent.0.remove(&(*group, *document)).is_some() {
            self.delete(keys::unsent(group, document));
        }
    }

    /// The group's documents go, and what waited of them.
    pub(crate) fn forget_unsent_group(&mut self, group: &GroupId) {
        self.unsent.0.retain(|(of, _), _| of != group);
        self.out.writes.delete_prefix(keys::unsent_prefix(group));
    }
}

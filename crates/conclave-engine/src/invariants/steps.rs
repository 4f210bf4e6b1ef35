//! What tests of whole worlds compare from one step to the next, and from one life of a device to the next.

use conclave_proto::{DocumentId, GroupId, Head};

use crate::document::WorkId;
use crate::engine::Engine;
use crate::keys;
use crate::membership::{GroupSlot, Membership};
use crate::slot::DocSlot;

/// How far a log is here.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    /// The group.
    pub group: GroupId,
    /// The document; none for the group's own log.
    pub document: Option<DocumentId>,
    /// The log's head.
    pub head: Head,
    /// The epoch that was reached in it.
    pub epoch: u64,
    /// Number of the service's generation in which it last grew; zero for a group's own.
    pub generation: u64,
}

impl Engine {
    /// Work that is lent, with the first bytes of the keys of the document's rows.
    #[doc(hidden)]
    #[must_use]
    pub fn away(&self) -> Vec<(WorkId, Vec<u8>)> {
        let slots = self.wholes().flat_map(|whole| {
            let group = whole.group.id;
            whole.docs.iter().map(move |(id, slot)| (group, id, slot))
        });
        let away = slots.filter_map(|(group, id, slot)| match slot {
            DocSlot::Away(away) => Some((away.work, keys::document_prefix(&group, id))),
            _ => None,
        });
        away.collect()
    }

    /// How far each log in memory is here.
    #[doc(hidden)]
    #[must_use]
    pub fn marks(&self) -> Vec<LogMark> {
        let mut marks = Vec::new();
        for whole in self.wholes() {
            let group = whole.group.id;
            marks.push(LogMark {
                group,
                document: None,
                head: whole.group.state().head(),
                epoch: whole.group.state().epoch,
                generation: 0,
            });
        }
        for (whole, doc) in self.hot_documents() {
            marks.push(LogMark {
                group: whole.group.id,
                document: Some(doc.id),
                head: doc.document.head(),
                epoch: doc.document.epoch_high(),
                generation: whole.group.grown_in(Some(doc.id)).unwrap_or(0),
            });
        }
        marks
    }

    /// What of a log that was here before speaks against what is here now. None too where it is not in memory.
    #[doc(hidden)]
    #[must_use]
    pub fn contradicted(&self, before: &LogMark) -> Option<String> {
        let whole = self.whole(&before.group)?;
        let state = whole.group.state();
        let (extends, epoch) = match &before.document {
            None => (state.size() >= before.head.size, state.epoch),
            Some(id) => {
                let document = &whole.docs.get(id)?.hot()?.document;
                if state.voided.count_of(id) > 0 {
                    // Records that an admin has declared void count as nothing, and what rests on them is read again.
                    return None;
                }
                if whole.group.grown_in(Some(*id)).unwrap_or(0) > before.generation {
                    // The service was put back since: it may have begun anew from there.
                    return None;
                }
                if document.is_going_over() {
                    // The log comes again from a snapshot, up to where it was.
                    return None;
                }
                let extends = document.goes_on_from(&before.head);
                (extends, document.epoch_high())
            }
        };
        let holds = extends && epoch >= before.epoch;
        (!holds).then(|| format!("{before:?}, now epoch {epoch}"))
    }

    /// Whether this device was in a group and is no more: what it had of it is gone.
    #[doc(hidden)]
    #[must_use]
    pub fn has_left(&self, group: &GroupId) -> bool {
        let slot = self.groups.get(group);
        matches!(slot, Some(GroupSlot::Cold(Membership::Left { .. })))
    }

    /// Whether this device may seal and commit in a group now: it is a member, in step, and what it does has a place.
    #[doc(hidden)]
    #[must_use]
    pub fn may_seal(&self, group: &GroupId) -> bool {
        let whole = self.whole(group);
        whole.is_some_and(|it| it.group.membership == Membership::Member && it.group.may_act())
    }

    /// The group of the document that is open on a channel.
    #[doc(hidden)]
    #[must_use]
    pub fn group_on(&self, channel: u64) -> Option<GroupId> {
        let mut channels = self.cx.link.channels();
        let found = channels.find(|(of, _)| *of == channel)?;
        Some(found.1.0)
    }
}

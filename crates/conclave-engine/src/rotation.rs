//! Re-keying after a removal: who does it, how far it is, when it is complete.

use conclave_proto::frame::{Answer, Request};
use conclave_proto::record::EntryBody;
use conclave_proto::{DeviceId, DocumentId, Role};
use serde::{Deserialize, Serialize};

use crate::command::Event;
use crate::cx::Cx;
use crate::finding::FindingKind;
use crate::group::{Group, Whole};
use crate::link::GroupPending;
use crate::timers::{GroupTimer, TimerKind};
use crate::work::{DocWork, GroupWork};

/// What this device does about the re-keying of its group's documents after a removal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rotation {
    /// Nothing, or it waits for others to do it.
    #[default]
    Watching,
    /// It re-keys what is due.
    Rekeying,
    /// It has said that all is done, and nobody has answered.
    Reporting,
}

impl Group {
    /// Whether this device re-keys.
    pub(crate) fn rekeys(&self) -> bool {
        self.rotation != Rotation::Watching
    }

    /// It begins to, if it does not already.
    pub(crate) fn rekey(&mut self) {
        if self.rotation == Rotation::Watching {
            self.rotation = Rotation::Rekeying;
        }
    }

    /// Whether all is done is looked at again.
    pub(crate) fn report_again(&mut self) {
        if self.rotation == Rotation::Reporting {
            self.rotation = Rotation::Rekeying;
        }
    }
}

impl Cx {
    /// A removal is in the log. Its author re-keys at once; others take over after a while.
    pub(crate) fn rotation_begins(&mut self, group: &mut Group, own: bool) {
        if own {
            group.rekey();
        }
        self.tell_rotation(group, false);
    }

    /// The one who removed has not finished in time: open documents are looked at again, the others when they open.
    pub(crate) fn take_over_rotation(&mut self, whole: &mut Whole) {
        if whole.group.state().rotating_since != 0 {
            whole.group.rekey();
            self.each_document(whole, || DocWork::Look);
        }
    }

    /// Documents re-keyed as far as this device knows, and all.
    fn rotation_progress(group: &Group) -> (usize, usize) {
        let since = group.rekey_since();
        let open = || {
            group
                .state()
                .documents
                .iter()
                .filter(|(_, entry)| entry.closed.is_none())
        };
        let done = open()
            .filter(|(id, entry)| {
                entry.created_epoch >= since
                    || group
                        .documents
                        .get(id)
                        .is_some_and(|row| row.rekeyed >= since)
            })
            .count();
        (done, open().count())
    }

    pub(crate) fn tell_rotation(&mut self, group: &Group, complete: bool) {
        let (done, total) = Self::rotation_progress(group);
        let epoch = group.rekey_since();
        self.event(Event::Rotation {
            group: group.id,
            epoch,
            done,
            total,
            complete,
        });
    }

    /// When every document is re-keyed, says so in the group log.
    pub(crate) fn pump_rotation(&mut self, group: &mut Group) {
        let (done, total) = Self::rotation_progress(group);
        let reported = group.state().rotating_since == 0;
        if reported && group.rekey_since() != 0 && done == total {
            // Others said so before; now it is true here too.
            let epoch = group.rekey_since();
            self.set_rekey_since(group, 0);
            group.rotation = Rotation::Watching;
            self.cancel_timer(TimerKind::Group(group.id, GroupTimer::Rotate));
            self.event(Event::Rotation {
                group: group.id,
                epoch,
                done,
                total,
                complete: true,
            });
        }
        let since = group.state().rotating_since;
        if since == 0 || group.rotation != Rotation::Rekeying {
            return;
        }
        if done < total || group.state().role_of(&self.device.id()) < Some(Role::Editor) {
            return;
        }
        let Ok(context) = self.device.context() else {
            return;
        };
        let body = EntryBody::RotationComplete { epoch: since };
        let entry = group.mls.sign_entry(&context, body, self.device.instance());
        group.rotation = Rotation::Reporting;
        let request = Request::PutEntry { entry };
        self.request_for(group.id, request, GroupPending::Complete);
    }

    pub(crate) fn completion_answered(&mut self, group: &Group, answer: &Answer) {
        if let Answer::Refused(_) = answer {
            let delay = self.jitter(300, 2_000);
            self.wake(delay, TimerKind::Group(group.id, GroupTimer::Complete));
        }
    }

    /// Somebody says that all documents are re-keyed. Believed when this device sees it: until then it goes on looking, and helps after a
    /// while.
    pub(crate) fn rotation_completed(&mut self, group: &mut Group, epoch: u64, author: DeviceId) {
        group.report_again();
        self.set_rekey_since(group, epoch);
        self.post_group(group.id, GroupWork::RotationReported { epoch, author });
    }

    /// What this device knows must agree.
    pub(crate) fn rotation_reported(&mut self, whole: &mut Whole, epoch: u64, author: DeviceId) {
        let group = &whole.group;
        let open = group.state().documents.iter();
        let due = open.filter(|(_, entry)| entry.closed.is_none() && entry.created_epoch < epoch);
        let behind = due.filter(|(id, _)| {
            let doc = whole.docs.get(*id).and_then(|slot| slot.hot());
            doc.is_some_and(|doc| {
                let here = self.link.is_caught_up(group.id, doc);
                here && doc.document.snapshot_epoch() < epoch
            })
        });
        let behind: Vec<DocumentId> = behind.map(|(id, _)| *id).collect();
        for document in behind {
            let what = FindingKind::RotationUntrue;
            self.finding(group.id, Some(document), what, Some(author.into()));
        }
    }
}

//! Re-keying after a removal: who does it, how far it is, when it is complete.

use conclave_proto::frame::{Answer, Request};
use conclave_proto::record::EntryBody;
use conclave_proto::{DeviceId, DocumentId, Role};

use crate::command::Event;
use crate::engine::{Engine, TimerKind};
use crate::finding::FindingKind;
use crate::group::Group;

impl Engine {
    /// A removal is in the log. Its author re-keys at once; others take over after a while.
    pub(crate) fn rotation_begins(&mut self, group: &mut Group, own: bool) {
        group.rotator |= own;
        self.tell_rotation(group, false);
    }

    /// The one who removed has not finished in time: open documents are looked at again, the others when they open.
    pub(crate) fn take_over_rotation(&mut self, group: &mut Group) {
        if group.state().rotating_since == 0 {
            return;
        }
        group.rotator = true;
        for id in self.hot_documents(&group.id) {
            self.with_document_in(group, id, None, Box::new(|_, _, _| {}));
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
            group.rotator = false;
            self.cancel_timer(TimerKind::Rotate(group.id));
            self.event(Event::Rotation {
                group: group.id,
                epoch,
                done,
                total,
                complete: true,
            });
        }
        let since = group.state().rotating_since;
        if since == 0 || !group.rotator || group.completing {
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
        group.completing = true;
        let id = group.id;
        self.request(
            Request::PutEntry { entry },
            Box::new(move |engine, answer| {
                if let Answer::Refused(_) = answer {
                    let delay = engine.jitter(300, 2_000);
                    engine.wake(delay, TimerKind::Complete(id));
                }
            }),
        );
    }

    /// Somebody says that all documents are re-keyed. What this device knows must agree.
    pub(crate) fn rotation_completed(&mut self, group: &mut Group, epoch: u64, author: DeviceId) {
        group.completing = false;
        let behind: Vec<DocumentId> = group
            .state()
            .documents
            .iter()
            .filter(|(_, entry)| entry.closed.is_none() && entry.created_epoch < epoch)
            .filter(|(id, _)| {
                let slot = self.documents.get(&(group.id, **id));
                slot.and_then(|slot| slot.hot())
                    .is_some_and(|doc| doc.is_caught_up() && doc.document.snapshot_epoch() < epoch)
            })
            .map(|(id, _)| *id)
            .collect();
        for document in behind {
            let what = FindingKind::RotationUntrue;
            self.finding(group.id, Some(document), what, Some(author.into()));
        }
        // Believed when this device sees it: until then it goes on looking, and helps after a while.
        self.set_rekey_since(group, epoch);
    }
}

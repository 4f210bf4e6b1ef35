//! Re-keying after a removal: who does it, how far it is, when it is complete.

use std::collections::BTreeSet;

use conclave_proto::frame::{Answer, Request};
use conclave_proto::record::EntryBody;
use conclave_proto::{DeviceId, DocumentId, Role, UnixMs};
use serde::{Deserialize, Serialize};

use crate::cx::Cx;
use crate::event::Event;
use crate::finding::FindingKind;
use crate::group::{Group, Whole};
use crate::link::{DocLink, GroupPending, NotOpen, SnapshotLink};
use crate::slot::DocSlot;
use crate::timers::{GroupTimer, TimerKind};
use crate::work::{DocWork, GroupWork};

/// So long after all documents are re-keyed it is looked for what others have found of them, in milliseconds: those who look do so within a minute.
const LET_GO_MS: (u64, u64) = (120_000, 300_000);
/// What is not received is put under new keys for another one only if nobody has done it for so long, in milliseconds.
const PAUSED_AFTER_MS: u64 = 60 * 60 * 1000;

/// What this device does about the re-keying of its group's documents after a removal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rotation {
    /// Nothing, or it waits for others to do it.
    #[default]
    Watching,
    /// It re-keys what is due.
    Rekeying,
    /// The same, for another one who removed somebody and has not finished in time.
    Helping {
        /// Since when.
        since: UnixMs,
    },
    /// It has said that all is done, and nobody has answered.
    Reporting,
}

/// How far a group's documents are under keys that those who were removed do not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RekeyingInfo {
    /// Epoch of the newest removal after which this device does not know every document to be under new keys.
    pub since: Option<u64>,
    /// Documents under new keys.
    pub done: usize,
    /// Documents in all.
    pub total: usize,
    /// Those that could not be put under new keys so far, and why. What only waits for its turn is not among them.
    pub stuck: Vec<NotRekeyed>,
    /// Those that were closed as lost since the newest removal, and were not under new keys: they count as neither.
    pub lost: Vec<DocumentId>,
}

/// A document that could not be put under new keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRekeyed {
    /// The document.
    pub document: DocumentId,
    /// Why not.
    pub why: NotRekeyedWhy,
}

/// Why a document could not be put under new keys by this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum NotRekeyedWhy {
    /// Keys that it needs are not here, and no member has sent them so far.
    NoKey {
        /// Their epoch.
        epoch: u64,
    },
    /// What is in it cannot be read here.
    Unreadable {
        /// Code of the error.
        code: String,
    },
    /// Work on it did not come back: it costs too much, or hangs.
    Held,
    /// Records in it cannot be opened, and wait for their keys or for an admin who declares them void.
    SetAside,
    /// The service's log of it lacks what is here, or went another way.
    Away,
    /// The service does not take its snapshot, or does not open it, for now.
    Refused,
}

impl Group {
    /// Why a document that is due is not re-keyed, where that is more than its turn.
    fn not_rekeyed(whole: &Whole, cx: &Cx, id: &DocumentId) -> Option<NotRekeyedWhy> {
        let group = &whole.group;
        let row = group.documents.get(id);
        if let Some(epoch) = row.and_then(|row| row.missing) {
            return Some(NotRekeyedWhy::NoKey { epoch });
        }
        match whole.docs.get(id) {
            _ if whole.docs.is_held(id) => return Some(NotRekeyedWhy::Held),
            Some(DocSlot::Unreadable(error)) => {
                let code = error.code().to_owned();
                return Some(NotRekeyedWhy::Unreadable { code });
            }
            Some(DocSlot::Hot(doc)) if !doc.document.set_aside_records().is_empty() => {
                return Some(NotRekeyedWhy::SetAside);
            }
            _ => {}
        }
        match cx.link.document(group.id, *id)? {
            DocLink::Refused(NotOpen::Away) => Some(NotRekeyedWhy::Away),
            DocLink::Refused(NotOpen::Later) => Some(NotRekeyedWhy::Refused),
            DocLink::Open(open) if open.snapshot == SnapshotLink::Paused => {
                Some(NotRekeyedWhy::Refused)
            }
            _ => None,
        }
    }

    /// Whether this device re-keys.
    pub(crate) fn rekeys(&self) -> bool {
        self.rotation != Rotation::Watching
    }

    /// Whether it does so with documents too that are not received.
    pub(crate) fn rekeys_paused(&self, now: UnixMs) -> bool {
        match self.rotation {
            Rotation::Watching => false,
            Rotation::Helping { since } => now.since_ms(since) >= PAUSED_AFTER_MS,
            Rotation::Rekeying | Rotation::Reporting => true,
        }
    }

    /// It begins to, if it does not already.
    pub(crate) fn rekey(&mut self, how: Rotation) {
        let helps = matches!(self.rotation, Rotation::Helping { .. });
        let own = helps && how == Rotation::Rekeying;
        if !self.rekeys() || own {
            self.rotation = how;
            self.note_rekeying();
            self.look_at_due();
        }
    }

    /// Whether it may be this device that puts documents under new keys after a removal by somebody else.
    pub(crate) fn may_help(&self, own: &DeviceId) -> bool {
        let state = self.state();
        state.rotating_since != 0 && state.role_of(own) >= Some(Role::Editor)
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
            group.rekey(Rotation::Rekeying);
        }
        if !group.meta_lost().is_empty() {
            self.set_lost(group, BTreeSet::new());
        }
        self.tell_rotation(group, false);
    }

    /// The one who removed has not finished in time: open documents are looked at again, the others when they open.
    pub(crate) fn take_over_rotation(&mut self, whole: &mut Whole) {
        if whole.group.may_help(&self.device.id()) {
            whole.group.rekey(Rotation::Helping { since: self.now });
            whole.group.look_at_due();
            self.each_document(whole, || DocWork::Look);
        }
    }

    /// One step of re-keying goes on with a few documents.
    pub(crate) fn rekey_next(&mut self, whole: &mut Whole) {
        while self.rekeys_left > 0
            && let Some(id) = whole.group.rekey_later.pop_first()
        {
            let before = self.rekeys_left;
            self.document_work(whole, id, DocWork::Look);
            // One that is not ready costs as much as a look.
            self.rekeys_left = self.rekeys_left.min(before.saturating_sub(1));
        }
        if !whole.group.rekey_later.is_empty() {
            let id = whole.group.id;
            self.wake(1, TimerKind::Group(id, GroupTimer::Rekey));
        }
    }

    /// How far re-keying is, and what stands in its way.
    pub(crate) fn rekeying_info(&self, whole: &Whole) -> RekeyingInfo {
        let group = &whole.group;
        let (done, total) = group.kept.progress();
        let since = group.rekey_since();
        let stuck = group.kept.due().filter_map(|document| {
            let why = Group::not_rekeyed(whole, self, &document)?;
            Some(NotRekeyed { document, why })
        });
        RekeyingInfo {
            since: (since != 0).then_some(since),
            done,
            total,
            stuck: stuck.collect(),
            lost: group.meta_lost().iter().copied().collect(),
        }
    }

    pub(crate) fn tell_rotation(&mut self, group: &mut Group, complete: bool) {
        group.note_rekeying();
        let (done, total) = group.kept.progress();
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
        group.note_rekeying();
        let (done, total) = group.kept.progress();
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
        let is_at_it = matches!(
            group.rotation,
            Rotation::Rekeying | Rotation::Helping { .. }
        );
        if since == 0 || !is_at_it {
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
        if let Answer::Refused(refusal) = answer {
            let delay = self.jitter_after(refusal, 300, 2_000);
            self.wake(delay, TimerKind::Group(group.id, GroupTimer::Complete));
        }
    }

    /// Somebody says that all documents are re-keyed. Believed when this device sees it: until then it goes on looking, and helps after a
    /// while.
    pub(crate) fn rotation_completed(&mut self, group: &mut Group, epoch: u64, author: DeviceId) {
        group.report_again();
        self.set_rekey_since(group, epoch);
        // What is not in memory was told of to nobody here.
        group.look_at_due();
        // Nor what others find of it from now on, without which former roots stay.
        self.plan(
            LET_GO_MS.0,
            LET_GO_MS.1,
            TimerKind::Group(group.id, GroupTimer::LetGo),
        );
        self.post_group(group.id, GroupWork::RotationReported { epoch, author });
    }

    /// What this device knows must agree.
    pub(crate) fn rotation_reported(&mut self, whole: &mut Whole, epoch: u64, author: DeviceId) {
        let group = &whole.group;
        let listed = &group.state().documents;
        let behind = whole.docs.iter().filter(|(id, slot)| {
            let entry = listed.get(*id);
            let due = entry.is_some_and(|it| it.closed.is_none() && it.created_epoch < epoch);
            let doc = slot.hot().filter(|doc| {
                let here = self.link.is_caught_up(group.id, doc);
                here && doc.document.snapshot_epoch() < epoch
            });
            due && doc.is_some()
        });
        let behind: Vec<DocumentId> = behind.map(|(id, _)| *id).collect();
        for document in behind {
            let what = FindingKind::RotationUntrue;
            self.finding(group.id, Some(document), what, Some(author.into()));
        }
    }
}

//! Pause: what a device writes stays on it as drafts, or what others write does not come to it; for one document, or for all. Durable, until it is
//! resumed.
//!
//! While sending is paused, edits have no place: no clock, no predecessor, no epoch. Nothing that others do waits for them, a rotation of keys least of
//! all. While receiving is paused, the document is not open at the service; the group's log is followed all the same, and roots stay until what they open
//! was fetched. A record says what its author had seen, and may go only to a log that is here to its end: so what is written then rests as drafts too.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::{DocumentId, GroupId, Role, UnixMs};
use serde::{Deserialize, Serialize};

use crate::command::Reply;
use crate::cx::Cx;
use crate::document::{Doc, Reread};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::finding::{About, End, FindingKind};
use crate::group::{Group, Whole};
use crate::io::{CommandId, Row};
use crate::keys;
use crate::link::{DocLink, NotOpen};
use crate::slot::DocSlot;
use crate::timers::{DocTimer, TimerKind};
use crate::work::{DocWork, GroupWork};

const ROWS: &str = "pause/";
const DEVICE: &str = "device";
const ROW_VERSION: u16 = 1;

/// Drafts are told of when they have waited so long, in milliseconds, or are so many bytes.
const TELL_AFTER_MS: u64 = 7 * 24 * 3600 * 1000;
const TELL_BYTES: u64 = 16 * 1024 * 1024;

/// What is paused, and since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What is written here is not sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<UnixMs>,
    /// What others write does not come here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<UnixMs>,
}

impl Pause {
    /// Whether nothing is paused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether what is written here rests here.
    #[must_use]
    pub fn keeps_drafts(&self) -> bool {
        !self.is_empty()
    }

    /// Since when something is paused.
    #[must_use]
    pub fn since(&self) -> Option<UnixMs> {
        earlier(self.send, self.receive)
    }

    /// Both pauses together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            send: earlier(self.send, other.send),
            receive: earlier(self.receive, other.receive),
        }
    }

    fn changed(mut self, change: PauseChange, now: UnixMs) -> Self {
        let set = |what: &mut Option<UnixMs>, is_meant: bool| {
            if is_meant {
                *what = change.pause.then(|| what.unwrap_or(now));
            }
        };
        set(&mut self.send, change.ways != Ways::Receive);
        set(&mut self.receive, change.ways != Ways::Send);
        self
    }
}

fn earlier(one: Option<UnixMs>, other: Option<UnixMs>) -> Option<UnixMs> {
    one.into_iter().chain(other).min()
}

/// Which way is paused, or resumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ways {
    /// Sending and receiving.
    #[default]
    Both,
    /// What is written here is not sent.
    Send,
    /// What others write does not come here.
    Receive,
}

/// What becomes of a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseChange {
    /// Whether it begins, or ends.
    pub pause: bool,
    /// Of what.
    pub ways: Ways,
}

/// How a document is paused, and what waits for that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseInfo {
    /// By itself.
    pub document: Pause,
    /// With all documents of the device.
    pub device: Pause,
    /// How many edits rest here as drafts.
    pub drafts: u64,
    /// Their size.
    pub draft_bytes: u64,
}

impl PauseInfo {
    /// Both together.
    #[must_use]
    pub fn all(&self) -> Pause {
        self.document.and(&self.device)
    }
}

#[derive(Serialize, Deserialize)]
struct PauseRow {
    version: u16,
    #[serde(flatten)]
    pause: Pause,
}

/// All that is paused.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    device: Pause,
    documents: BTreeMap<(GroupId, DocumentId), Pause>,
    /// Documents that are open for a while though they are not to be received: this device has to put them under new keys, for which their logs have to be
    /// here.
    for_keys: BTreeSet<(GroupId, DocumentId)>,
}

impl Pauses {
    /// Reads them from the rows of the device.
    pub(crate) fn load(rows: &[Row]) -> Result<Self, EngineError> {
        let what = "pause";
        let prefix = keys::device(ROWS);
        let mut all = Self::default();
        for (key, value) in rows {
            let Some(rest) = key.strip_prefix(prefix.as_slice()) else {
                continue;
            };
            let row: PauseRow = keys::uncbor(what, value)?;
            let of = match rest.split_at_checked(GroupId::LEN) {
                _ if rest == DEVICE.as_bytes() => None,
                Some((group, document)) => {
                    GroupId::from_slice(group).zip(DocumentId::from_slice(document))
                }
                None => None,
            };
            match of {
                _ if row.version != ROW_VERSION => return Err(EngineError::Store { what }),
                Some(of) => drop(all.documents.insert(of, row.pause)),
                None if rest == DEVICE.as_bytes() => all.device = row.pause,
                None => return Err(EngineError::Store { what }),
            }
        }
        Ok(all)
    }

    pub(crate) fn device(&self) -> Pause {
        self.device
    }

    /// Documents that are paused by themselves.
    pub(crate) fn documents(&self) -> usize {
        self.documents.len()
    }
}

/// Who asked for a document that was never here was told that it is paused: it is asked for anew.
fn forget_refusal(whole: &mut Whole, id: DocumentId) {
    if let Some(DocSlot::Unreadable(EngineError::Paused)) = whole.docs.get(&id) {
        whole.docs.remove(&id);
    }
}

fn key_of(of: Option<(GroupId, DocumentId)>) -> Vec<u8> {
    let mut key = keys::device(ROWS);
    match of {
        Some((group, document)) => {
            key.extend_from_slice(group.as_bytes());
            key.extend_from_slice(document.as_bytes());
        }
        None => key.extend_from_slice(DEVICE.as_bytes()),
    }
    key
}

impl Cx {
    /// What is paused of a document. Names come all the same: a group's directory is not paused by itself, and always received.
    pub(crate) fn pause_of(&self, group: GroupId, id: DocumentId) -> Pause {
        let device = self.pauses.device;
        if id == DocumentId::directory(&group) {
            return Pause {
                receive: None,
                ..device
            };
        }
        let own = self.pauses.documents.get(&(group, id));
        own.map_or(device, |own| own.and(&device))
    }

    /// Whether a new document is not made known yet. A group's directory is: nobody comes into a group before it is there.
    pub(crate) fn withholds_creation(&self, group: GroupId, id: DocumentId) -> bool {
        id != DocumentId::directory(&group) && self.pause_of(group, id).keeps_drafts()
    }

    /// A copy of a document is paused as that is.
    pub(crate) fn copy_pause(&mut self, from: (GroupId, DocumentId), to: (GroupId, DocumentId)) {
        if let Some(pause) = self.pauses.documents.get(&from).copied() {
            self.set_pause(Some(to), pause);
        }
    }

    /// Whether a document is not to be open at the service. New keys go before.
    pub(crate) fn is_receive_paused(&self, group: GroupId, id: DocumentId) -> bool {
        let is_paused = self.pause_of(group, id).receive.is_some();
        is_paused && !self.pauses.for_keys.contains(&(group, id))
    }

    /// A document is looked at: where it is to be put under new keys by this device, it is opened for that.
    pub(crate) fn open_for_keys(&mut self, whole: &mut Whole, id: DocumentId) {
        let group = &whole.group;
        let is_needed = group.rekeys_paused(self.now) && group.kept.is_due(&id);
        if is_needed && self.is_receive_paused(group.id, id) {
            self.pauses.for_keys.insert((group.id, id));
            if self.link.is_paused(group.id, id) {
                self.close_document(group.id, id);
            }
            forget_refusal(whole, id);
        }
    }

    /// A document is under new keys: if it was open for that, it is closed again.
    pub(crate) fn close_after_keys(&mut self, group: GroupId, id: DocumentId) {
        if self.pauses.for_keys.remove(&(group, id)) {
            self.post_document(group, id, DocWork::Look);
        }
    }

    /// How a document is paused, where it is or drafts of it wait.
    pub(crate) fn pause_info(&self, group: GroupId, id: DocumentId) -> Option<PauseInfo> {
        let unsent = self.unsent.get(&group, &id);
        let own = self.pauses.documents.get(&(group, id));
        let info = PauseInfo {
            document: own.copied().unwrap_or_default(),
            device: self.pauses.device,
            drafts: unsent.drafts,
            draft_bytes: unsent.draft_bytes,
        };
        (info != PauseInfo::default()).then_some(info)
    }

    fn set_pause(&mut self, of: Option<(GroupId, DocumentId)>, pause: Pause) {
        match of {
            Some(of) if pause.is_empty() => drop(self.pauses.documents.remove(&of)),
            Some(of) => drop(self.pauses.documents.insert(of, pause)),
            None => self.pauses.device = pause,
        }
        let key = key_of(of);
        if pause.is_empty() {
            return self.delete(key);
        }
        let version = ROW_VERSION;
        self.put(key, keys::cbor(&PauseRow { version, pause }));
    }

    /// Nothing of a document stays here.
    pub(crate) fn forget_pause(&mut self, group: GroupId, id: DocumentId) {
        self.pauses.for_keys.remove(&(group, id));
        if self.pauses.documents.contains_key(&(group, id)) {
            self.set_pause(Some((group, id)), Pause::default());
        }
    }

    /// Nothing of a group stays here.
    pub(crate) fn forget_pauses(&mut self, group: GroupId) {
        let keys = self.pauses.documents.keys();
        let of: Vec<_> = keys.filter(|(of, _)| *of == group).copied().collect();
        for (group, id) in of {
            self.forget_pause(group, id);
        }
    }

    /// Pauses or resumes one document.
    pub(crate) fn pause_document(
        &mut self,
        whole: &mut Whole,
        command: CommandId,
        id: DocumentId,
        change: PauseChange,
    ) {
        let group = whole.group.id;
        let is_directory = id == DocumentId::directory(&group);
        if is_directory || !whole.group.has_document(&id) {
            return self.reply(command, Err(EngineError::UnknownDocument));
        }
        let own = self.pauses.documents.get(&(group, id)).copied();
        let own = own.unwrap_or_default();
        let pause = own.changed(change, self.now);
        if pause != own {
            self.set_pause(Some((group, id)), pause);
            self.pause_changed(whole, [id]);
        }
        let info = self.pause_info(group, id).unwrap_or_default();
        self.reply(command, Ok(Reply::Pause(info)));
    }

    /// What is paused of all documents has changed. Sending is a matter of those of which something waits, or in which something is shown; what is written in
    /// others follows the pause then.
    pub(crate) fn pauses_changed(&mut self, whole: &mut Whole, receiving: bool) {
        let group = &whole.group;
        let ids: BTreeSet<DocumentId> = match receiving {
            true => {
                let listed = group.state().documents.keys();
                listed.chain(group.documents.keys()).copied().collect()
            }
            false => {
                let shown = self.presence.of_group(group.id);
                self.unsent.of_group(group.id).chain(shown).collect()
            }
        };
        self.pause_changed(whole, ids);
    }

    fn pause_changed(&mut self, whole: &mut Whole, ids: impl IntoIterator<Item = DocumentId>) {
        for id in ids {
            let is_received = !self.is_receive_paused(whole.group.id, id);
            match is_received {
                true => self.open_resumed(whole, id),
                false => self.close_paused(whole, id),
            }
            if let Some(DocSlot::Hot(_) | DocSlot::Away(_)) = whole.docs.get(&id) {
                self.document_work(whole, id, DocWork::Look);
            }
        }
    }

    /// A document is not received any more.
    fn close_paused(&mut self, whole: &mut Whole, id: DocumentId) {
        let group = whole.group.id;
        if let Some(DocSlot::Loading(_)) = whole.docs.get(&id)
            && !whole.group.is_local(&id)
        {
            self.give_up(whole, id, &EngineError::Paused);
        }
        if self.link.document(group, id).is_some() {
            self.close_document(group, id);
        }
        // Whether the service lacks something of it shows when it is open again.
        self.link.returning.remove(&(group, Some(id)));
        whole.group.missing.unopened.remove(&id);
    }

    /// A document may be received again, or sent. It is looked at.
    fn open_resumed(&mut self, whole: &mut Whole, id: DocumentId) {
        let group = whole.group.id;
        if let Some(DocLink::Refused(NotOpen::Paused)) = self.link.document(group, id) {
            self.close_document(group, id);
        }
        forget_refusal(whole, id);
        let here = matches!(whole.docs.get(&id), Some(DocSlot::Hot(_)));
        if !here || self.link.document(group, id).is_none() {
            whole.group.look_again(&id);
        }
    }

    /// A document in memory keeps what is written, or queues it, as it should now.
    pub(crate) fn follow_pause(&mut self, group: &Group, doc: &mut Doc) {
        let keep = self.pause_of(group.id, doc.id).keeps_drafts();
        if keep == doc.document.keeps_drafts() {
            return;
        }
        let open = self.link.open(group.id, doc.id);
        let kept = doc.document.keep_drafts(keep, open.map(|it| &it.session));
        if kept.is_err() {
            doc.reread = Some(Reread::Failed);
        }
    }

    /// What was written while receiving is paused is looked at when the document's log is here. That it can go to nobody any more is told as soon as the
    /// group's log says so.
    pub(crate) fn tell_barred_drafts(&mut self, group: &Group) {
        let state = group.state();
        let may_write = state.role_of(&self.device.id()) >= Some(Role::Editor);
        let drafts = self.unsent.of_group(group.id);
        let drafts = drafts.filter(|id| self.unsent.get(&group.id, id).drafts > 0);
        let drafts: Vec<DocumentId> = drafts.collect();
        for id in drafts {
            let entry = state.documents.get(&id);
            let is_closed = entry.is_some_and(|entry| entry.closed.is_some());
            let about = About::Document(group.id, id);
            if may_write && !is_closed {
                self.ended(about, End::Welcome);
            } else if self.is_receive_paused(group.id, id) && !self.is_told(about, End::Welcome) {
                self.finding(group.id, Some(id), FindingKind::DraftsBarred, None);
            }
        }
    }

    /// Tells of drafts that wait long, or are many: once, until they are sent.
    pub(crate) fn tell_drafts(&mut self, group: GroupId, id: DocumentId) {
        let unsent = self.unsent.get(&group, &id);
        let rests = self.pause_of(group, id).keeps_drafts() && !unsent.told;
        let Some(since) = unsent.since.filter(|_| rests) else {
            return;
        };
        let due = since.min(self.now).plus_ms(TELL_AFTER_MS);
        if self.now < due && unsent.draft_bytes < TELL_BYTES {
            return self.wake_at(due, TimerKind::Document(group, id, DocTimer::Drafts));
        }
        self.finding(group, Some(id), FindingKind::DraftsWait, None);
        self.set_unsent(
            &group,
            &id,
            crate::unsent::Unsent {
                told: true,
                ..unsent
            },
        );
    }
}

impl Engine {
    /// Pauses or resumes all documents of this device.
    pub(crate) fn pause_device(&mut self, command: CommandId, change: PauseChange) {
        let before = self.cx.pauses.device;
        let pause = before.changed(change, self.cx.now);
        if pause != before {
            self.cx.set_pause(None, pause);
            let receiving = pause.receive != before.receive;
            for group in self.active_groups() {
                self.with_group(group, GroupWork::PauseChanged { receiving });
            }
        }
        let unsent = self.cx.unsent.documents().map(|(_, unsent)| unsent);
        let (drafts, draft_bytes) = unsent.fold((0, 0), |(count, bytes), unsent| {
            (count + unsent.drafts, bytes + unsent.draft_bytes)
        });
        let info = PauseInfo {
            document: Pause::default(),
            device: pause,
            drafts,
            draft_bytes,
        };
        self.cx.reply(command, Ok(Reply::Pause(info)));
    }

    /// At start: drafts that have waited long meanwhile.
    pub(crate) fn tell_old_drafts(&mut self) {
        let documents = self.cx.unsent.documents();
        let drafts = documents.filter(|(_, unsent)| unsent.drafts > 0);
        let all: Vec<_> = drafts.map(|(of, _)| *of).collect();
        for (group, id) in all {
            self.cx.tell_drafts(group, id);
        }
    }
}

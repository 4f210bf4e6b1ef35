//! Presence of documents: what the application shows in them, and who watches what others show.
//!
//! What is wanted stays while the engine runs; a [`Room`] stands on an open channel and goes with it. Nothing of it is stored, and none of what it
//! sends waits for what is.

use std::collections::BTreeMap;

use conclave_crdt::{ReplicaId, anchor};
use conclave_doc::{DocKeys, Document};
use conclave_identity::SignatureKey;
use conclave_presence::{Change, Held, Here, Refused, Room, Step, View};
use conclave_proto::codec::{Bytes, Varint};
use conclave_proto::frame::ClientFrame;
use conclave_proto::limits::SHOWN_BYTES;
use conclave_proto::presence::{Shown, ShownItem};
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Head, SessionId, UnixMs};
use conclave_rules::GroupState;

use crate::command::Reply;
use crate::cx::Cx;
use crate::document::Doc;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::{Event, Present, Showing, ShowingKind};
use crate::finding::FindingKind;
use crate::group::{Group, Whole};
use crate::io::CommandId;
use crate::slot::DocSlot;
use crate::timers::TimerKind;
use crate::work::DocWork;

/// Most documents in which presence is shown or watched at once: they stay in memory for it, and what each says every ten seconds has to stay below what
/// the service takes of one device.
const MOST: usize = 64;
/// Counters of one login lie below those of the next.
const COUNTERS_PER_LOGIN: u32 = 32;

/// What the application wants of a document's presence.
#[derive(Default)]
struct Seat {
    /// What it wants to show.
    showing: Option<Showing>,
    /// What is shown of it, as far as that was looked at since.
    shown: Option<Shown>,
    /// Whether it names what is not in the log yet: then that part waits until it is.
    waits: bool,
    /// How many watch.
    watching: u32,
    room: Option<Open>,
}

/// A room, and what of the document it has seen.
struct Open {
    room: Room,
    channel: u64,
    size: u64,
    epoch: u64,
}

impl Seat {
    fn is_wanted(&self) -> bool {
        self.watching > 0 || self.showing.is_some()
    }
}

/// All that is wanted.
#[derive(Default)]
pub(crate) struct Presence {
    seats: BTreeMap<(GroupId, DocumentId), Seat>,
    /// Where the counters of a document's next session begin on this connection.
    counters: BTreeMap<(GroupId, DocumentId), u64>,
    /// Time that only goes forward, in milliseconds.
    time_ms: u64,
    told: UnixMs,
}

impl Presence {
    /// Time in milliseconds, which does not go back with the clock.
    fn time_ms(&mut self, now: UnixMs) -> u64 {
        self.time_ms = self.time_ms.saturating_add(now.since_ms(self.told));
        self.told = now;
        self.time_ms
    }

    /// Under which session this device is in a document's room, where it is.
    pub(crate) fn session(&self, group: GroupId, id: DocumentId) -> Option<SessionId> {
        let seat = self.seats.get(&(group, id))?;
        Some(seat.room.as_ref()?.room.session())
    }

    /// Whether a document stays in memory for it.
    pub(crate) fn is_wanted(&self, group: GroupId, id: DocumentId) -> bool {
        self.seats.contains_key(&(group, id))
    }
}

/// A document's log and its group's members.
struct Seen<'a> {
    document: &'a Document,
    state: &'a GroupState,
}

impl View for Seen<'_> {
    fn head(&self) -> Head {
        self.document.head()
    }

    fn held(&self, size: u64) -> Held {
        if size > self.document.size() {
            return Held::Ahead;
        }
        let root = self.document.root_at(size);
        root.map_or(Held::Below, |root| Held::Known(Head { size, root }))
    }

    fn key_of(&self, device: &DeviceId) -> Option<SignatureKey> {
        let row = self.state.roster.current_row(device)?;
        Some(row.key.clone())
    }
}

impl Cx {
    /// Shows something in a document, or nothing any more.
    pub(crate) fn show_presence(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        command: CommandId,
        showing: Option<Showing>,
    ) {
        let length = showing.as_ref().map_or(0, |showing| showing.value.len());
        let result = if length > SHOWN_BYTES {
            Err(EngineError::TooMuchShown)
        } else {
            self.seat(whole, id, |seat| {
                seat.showing = showing.filter(|showing| !showing.value.is_empty());
                seat.shown = None;
            })
        };
        self.reply(command, result.map(|()| Reply::Done));
    }

    /// Somebody begins or ends to watch what others show in a document.
    pub(crate) fn watch_presence(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        command: CommandId,
        watch: bool,
    ) {
        let group = whole.group.id;
        let result = self.seat(whole, id, |seat| {
            seat.watching = match watch {
                true => seat.watching.saturating_add(1),
                false => seat.watching.saturating_sub(1),
            };
        });
        let present = result.map(|()| {
            let seat = self.presence.seats.get(&(group, id));
            let room = seat.and_then(|seat| seat.room.as_ref());
            let others = room.into_iter().flat_map(|open| open.room.others());
            let shown: Vec<_> = others
                .map(|(author, shown)| (author, shown.clone()))
                .collect();
            let shown = shown.into_iter().filter_map(|(author, shown)| {
                Some((self.present(&whole.group, author)?, Showing::of(&shown)?))
            });
            Reply::Presence(shown.collect())
        });
        self.reply(command, present);
    }

    /// Changes what is wanted of a document, and does at once what follows where it is at hand.
    fn seat(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        change: impl FnOnce(&mut Seat),
    ) -> Result<(), EngineError> {
        let group = whole.group.id;
        if !whole.group.has_document(&id) {
            return Err(EngineError::UnknownDocument);
        }
        let seats = &mut self.presence.seats;
        if seats.len() >= MOST && !seats.contains_key(&(group, id)) {
            return Err(EngineError::TooManyPresences);
        }
        let seat = seats.entry((group, id)).or_default();
        change(seat);
        if !seat.is_wanted() && seat.room.is_none() {
            // There is nobody to say goodbye to.
            seats.remove(&(group, id));
            return Ok(());
        }
        // It is brought into memory and opened where it is not.
        self.document_work(whole, id, DocWork::Look);
        Ok(())
    }

    /// Does what is due in a document's room: after any work on the document, and when its time comes.
    pub(crate) fn pump_presence(&mut self, group: &Group, doc: &Doc) {
        let key = (group.id, doc.id);
        let Some(mut seat) = self.presence.seats.remove(&key) else {
            return;
        };
        self.end_stale_room(group, key, &mut seat);
        let may = group.may_act() && self.link.is_caught_up(group.id, doc);
        if seat.room.is_none() && may && seat.is_wanted() {
            self.join(group, doc, &mut seat);
        }
        if let Some(open) = &mut seat.room {
            let (size, epoch) = (doc.document.size(), group.state().epoch);
            let is_new_epoch = std::mem::replace(&mut open.epoch, epoch) != epoch;
            let has_grown = std::mem::replace(&mut open.size, size) != size;
            if seat.shown.is_none() || (seat.waits && has_grown) {
                let (shown, waits) = showable(seat.showing.as_ref(), doc);
                seat.shown = Some(shown);
                seat.waits = waits;
            }
            let shown = seat.shown.clone().unwrap_or_default();
            let step = self.in_room(group, doc, &mut open.room, |room, here| {
                let mut step = match (is_new_epoch, has_grown) {
                    (true, _) => room.new_epoch(here),
                    (false, true) => room.look_again(here),
                    (false, false) => room.tick(here),
                };
                // Its length was looked at when it was given.
                if let Ok(more) = room.show(shown, here) {
                    step.extend(more);
                }
                step
            });
            self.stepped(group, doc.id, open.channel, seat.watching > 0, step);
        }
        self.end_seat(group, doc, key, seat);
    }

    /// A room ends with its channel, and with the session for which the document was opened there; and where this device may not act any more nothing is
    /// sealed or believed in it either.
    fn end_stale_room(&mut self, group: &Group, key: (GroupId, DocumentId), seat: &mut Seat) {
        let open = self.link.open(key.0, key.1);
        let is = open.map(|open| (open.channel, open.session.author()));
        let was = seat.room.as_ref();
        let was = was.map(|open| (open.channel, open.room.author()));
        if was.is_some() && (was != is || !group.may_act()) {
            self.room_lost(key, seat);
        }
    }

    /// Keeps what is still wanted; otherwise says goodbye.
    fn end_seat(&mut self, group: &Group, doc: &Doc, key: (GroupId, DocumentId), mut seat: Seat) {
        let timer = TimerKind::Presence(key.0, key.1);
        self.timers.cancel(timer);
        if !seat.is_wanted() {
            if let Some(open) = seat.room.take() {
                let Open {
                    mut room, channel, ..
                } = open;
                let step = self.in_room(group, doc, &mut room, Room::leave);
                self.presence.counters.insert(key, room.counter());
                self.stepped(group, doc.id, channel, false, step);
            }
            return;
        }
        let due_ms = seat.room.as_ref().and_then(|open| open.room.due_ms());
        if let Some(due_ms) = due_ms {
            let wait_ms = due_ms.saturating_sub(self.presence.time_ms);
            self.timers.set(self.now.plus_ms(wait_ms), timer);
        }
        self.presence.seats.insert(key, seat);
    }

    fn join(&mut self, group: &Group, doc: &Doc, seat: &mut Seat) {
        let Some(open) = self.link.open(group.id, doc.id) else {
            return;
        };
        let (channel, author) = (open.channel, open.session.author());
        let first = self.device.life().logins << COUNTERS_PER_LOGIN;
        let before = self.presence.counters.get(&(group.id, doc.id)).copied();
        let counter = before.unwrap_or_default().max(first);
        let mut room = Room::new(group.id, doc.id, author, counter, &mut self.rng);
        let step = self.in_room(group, doc, &mut room, Room::join);
        seat.room = Some(Open {
            room,
            channel,
            size: doc.document.size(),
            epoch: group.state().epoch,
        });
        self.stepped(group, doc.id, channel, false, step);
    }

    /// Presence has come on a document's channel. What cannot be taken now is not kept.
    pub(crate) fn presence_shown(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        mut items: Vec<ShownItem>,
    ) {
        if id == DocumentId::directory(&whole.group.id) {
            self.take_beats(whole, &mut items);
        }
        if items.is_empty() {
            return;
        }
        let Some(DocSlot::Hot(doc)) = whole.docs.get(&id) else {
            return;
        };
        let group = &whole.group;
        let key = (group.id, id);
        let Some(mut seat) = self.presence.seats.remove(&key) else {
            return;
        };
        self.end_stale_room(group, key, &mut seat);
        let mut other_log = false;
        if let Some(open) = &mut seat.room {
            let step = self.in_room(group, doc, &mut open.room, |room, here| {
                let mut all = Step::default();
                for ShownItem { author, item } in items {
                    match room.receive(author, item, here) {
                        Ok(step) => all.extend(step),
                        Err(Refused::OtherLog) if room.names_other_log(&author) => {
                            other_log = true;
                        }
                        Err(_) => {}
                    }
                }
                all
            });
            self.stepped(group, id, open.channel, seat.watching > 0, step);
        }
        if other_log {
            // Whom the service names proves nothing: what was signed cannot be checked without the history that is meant.
            let what = FindingKind::OtherHistory;
            self.finding(group.id, Some(id), what, None);
        }
        self.presence.seats.insert(key, seat);
        self.pump_presence(group, doc);
    }

    /// One call of a room.
    fn in_room(
        &mut self,
        group: &Group,
        doc: &Doc,
        room: &mut Room,
        call: impl FnOnce(&mut Room, &mut Here<'_>) -> Step,
    ) -> Step {
        let epoch = group.state().epoch;
        let Some(secrets) = group.secrets.as_ref().filter(|it| it.epoch == epoch) else {
            return Step::default();
        };
        let view = Seen {
            document: &doc.document,
            state: group.state(),
        };
        let mut here = Here {
            now_ms: self.presence.time_ms(self.now),
            epoch,
            keys: &DocKeys::of_presence(&secrets.presence_root, &doc.id),
            signer: self.device.key(),
            view: &view,
            rng: &mut self.rng,
        };
        call(room, &mut here)
    }

    /// Sends and tells what follows from a call of a room.
    fn stepped(
        &mut self,
        group: &Group,
        id: DocumentId,
        channel: u64,
        is_watched: bool,
        step: Step,
    ) {
        let channel = Varint(channel);
        let shows = step.send.into_iter();
        self.out
            .fleeting
            .extend(shows.map(|item| ClientFrame::Show { channel, item }));
        if !is_watched {
            return;
        }
        for change in step.changes {
            let (author, shown) = match change {
                Change::Shows(author, shown) => (author, Showing::of(&shown)),
                Change::Gone(author) => (author, None),
            };
            if let Some(who) = self.present(group, author) {
                self.event(Event::Presence {
                    group: group.id,
                    document: id,
                    who,
                    showing: shown,
                });
            }
        }
    }

    /// Who somebody is. Also one who was a member until now.
    fn present(&self, group: &Group, author: Author) -> Option<Present> {
        let row = group.state().roster.newest_row(&author.device)?;
        Some(Present {
            user: row.user,
            device: author.device,
            instance: author.instance,
            name: self.name_of(&row.user),
            is_own: Some(row.user) == self.device.user(),
        })
    }

    /// A room's channel is gone: nobody is seen any more.
    fn room_lost(&mut self, (group, document): (GroupId, DocumentId), seat: &mut Seat) {
        let Some(open) = seat.room.take() else {
            return;
        };
        self.timers.cancel(TimerKind::Presence(group, document));
        // What the next log knows is looked at anew.
        seat.shown = None;
        let counter = open.room.counter();
        self.presence.counters.insert((group, document), counter);
        if seat.watching > 0 && open.room.others().next().is_some() {
            self.event(Event::PresenceLost { group, document });
        }
    }

    /// A document is not open any more.
    pub(crate) fn leave_room(&mut self, group: GroupId, document: DocumentId) {
        let key = (group, document);
        if let Some(mut seat) = self.presence.seats.remove(&key) {
            self.room_lost(key, &mut seat);
            self.presence.seats.insert(key, seat);
        }
    }

    /// A document's channel is about to be closed though the connection stays: whoever sees this device there is told so, before.
    pub(crate) fn say_goodbye(&mut self, group: &Group, doc: &Doc) {
        let key = (group.id, doc.id);
        let Some(mut seat) = self.presence.seats.remove(&key) else {
            return;
        };
        if let Some(open) = &mut seat.room {
            let channel = Varint(open.channel);
            let step = self.in_room(group, doc, &mut open.room, Room::leave);
            for item in step.send {
                // Not after the channel is closed, as what comes beside might be.
                self.send(ClientFrame::Show { channel, item });
            }
        }
        self.room_lost(key, &mut seat);
        self.presence.seats.insert(key, seat);
    }

    /// The connection is gone, and with it every room.
    pub(crate) fn leave_rooms(&mut self) {
        for (key, mut seat) in std::mem::take(&mut self.presence.seats) {
            self.room_lost(key, &mut seat);
            self.presence.seats.insert(key, seat);
        }
        // Those of the next login are higher.
        self.presence.counters.clear();
    }

    /// A group is gone from this device: nothing is wanted of its documents any more.
    pub(crate) fn forget_group_presence(&mut self, group: GroupId) {
        let of_group = (group, DocumentId([0; 16]))..=(group, DocumentId([0xff; 16]));
        let gone: Vec<_> = self
            .presence
            .seats
            .range(of_group)
            .map(|(key, _)| *key)
            .collect();
        for (group, document) in gone {
            self.forget_presence(group, document);
        }
    }

    /// A document is gone from this device, or its group.
    pub(crate) fn forget_presence(&mut self, group: GroupId, document: DocumentId) {
        self.leave_room(group, document);
        self.presence.seats.remove(&(group, document));
    }
}

impl Engine {
    /// Presence has come on a channel.
    pub(crate) fn presence_came(&mut self, channel: u64, items: Vec<ShownItem>) {
        if let Some((group, document)) = self.cx.link.at(channel) {
            self.on_whole(group, |cx, whole| cx.presence_shown(whole, document, items));
        }
    }

    /// The time of a document's room has come. Where the document is not at hand, it comes again with the next work on it.
    pub(crate) fn presence_due(&mut self, group: GroupId, document: DocumentId) {
        self.on_whole(group, |cx, whole| {
            if let Some(DocSlot::Hot(doc)) = whole.docs.get(&document) {
                cx.pump_presence(&whole.group, doc);
            }
        });
    }
}

/// What may be shown now of what the application wants to show, and whether something of it has to wait: whoever sees a replica id that the log
/// does not know yet could claim it first.
fn showable(showing: Option<&Showing>, doc: &Doc) -> (Shown, bool) {
    let Some(showing) = showing else {
        return (Shown::default(), false);
    };
    let shown = |value: &str| Shown {
        kind: showing.kind.code(),
        value: Bytes::from(value.as_bytes()),
    };
    // An application's own values name nothing.
    if showing.kind == ShowingKind::Application {
        return (shown(&showing.value), false);
    }
    let Ok(mut value) = serde_json::from_str(&showing.value) else {
        // Others may read in it what is not seen here.
        return (Shown::default(), false);
    };
    let accepted = |replica: &ReplicaId| doc.document.owner_of(replica).is_some();
    match anchor::withhold(doc.document.kind(), &mut value, &accepted) {
        true => match value.to_string() {
            text if text.len() <= SHOWN_BYTES => (shown(&text), true),
            _ => (Shown::default(), true),
        },
        false => (shown(&showing.value), false),
    }
}

impl Showing {
    /// What somebody shows; none where it is nothing, or nothing that is known here.
    fn of(shown: &Shown) -> Option<Self> {
        let kind = ShowingKind::of(shown.kind)?;
        let value = String::from_utf8(shown.value.as_slice().to_vec()).ok()?;
        (!value.is_empty()).then_some(Self { kind, value })
    }
}

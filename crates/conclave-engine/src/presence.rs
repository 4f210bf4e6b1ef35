//! Presence of documents: what the application shows in them, and who watches what others show.
//!
//! What is wanted stays while the engine runs; a [`Room`] stands on an open channel and goes with it. Nothing of it is stored, and none of what it
//! sends waits for what is.

use std::collections::{BTreeMap, BTreeSet};

use conclave_crdt::{ReplicaId, anchor};
use conclave_doc::{DocKeys, Document};
use conclave_identity::SignatureKey;
use conclave_presence::{Change, Held, Here, Refused, Room, StateId, Step, View};
use conclave_proto::codec::{Bytes, Varint};
use conclave_proto::frame::ClientFrame;
use conclave_proto::limits::{SHOWN_BYTES, SHOWN_STATES};
use conclave_proto::presence::{Shown, ShownItem, ShownState};
use conclave_proto::{DeviceId, DocumentId, GroupId, Head, SessionId};
use conclave_rules::GroupState;

use crate::command::Reply;
use crate::cx::Cx;
use crate::document::Doc;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::{Event, Present, Showing, ShowingKind};
use crate::finding::FindingKind;
use crate::group::{Group, Whole};
use crate::io::{CommandId, Output};
use crate::slot::DocSlot;
use crate::work::{DocWork, GroupWork};

/// Most documents in which presence is shown or watched at once: they stay in memory for it, and what each says every ten seconds has to stay below what
/// the service takes of one device.
const MOST: usize = 64;
/// Counters of one login lie below those of the next.
const COUNTERS_PER_LOGIN: u32 = 32;
/// Between greetings of two documents, in milliseconds: the service takes ten messages to all a second of a device.
const GREETING_MS: u64 = 125;
/// Whoever comes back on a new connection waits up to this before greeting, in milliseconds: others come back at the same time.
const COME_BACK_MS: u64 = 300;

/// Names one of those on this device that show or watch something in a document: a window, a command. The application draws it, and does not use it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttendeeId(pub u64);

/// One state that is wanted to be shown.
struct Wanted {
    index: u8,
    showing: Showing,
}

/// What the application wants of a document's presence.
#[derive(Default)]
struct Seat {
    /// What is to be shown, by whose it is.
    showing: BTreeMap<AttendeeId, Wanted>,
    /// What is shown of it, as far as that was looked at since.
    shown: Option<Shown>,
    /// Whether it names what is not in the log yet: then that part waits until it is.
    waits: bool,
    /// Who watches.
    watching: BTreeSet<AttendeeId>,
    room: Option<Open>,
    /// Whether it had a room on an earlier connection.
    comes_back: bool,
    /// When something is due in the room, in milliseconds of the clock that never steps; none where that was looked at.
    due_ms: Option<u64>,
}

/// A room, and what of the document it has seen.
struct Open {
    room: Room,
    channel: u64,
    size: u64,
    epoch: u64,
    /// With what its last message was sealed: to say goodbye nothing else is needed.
    sealer: Option<Sealer>,
}

struct Sealer {
    epoch: u64,
    keys: DocKeys,
    head: Head,
}

impl Seat {
    fn is_wanted(&self) -> bool {
        self.is_watched() || !self.showing.is_empty()
    }

    fn is_watched(&self) -> bool {
        !self.watching.is_empty()
    }

    /// From now on this is shown for somebody, or nothing.
    fn show(&mut self, whose: AttendeeId, showing: Option<Showing>) -> Result<(), EngineError> {
        let Some(showing) = showing.filter(|showing| !showing.value.is_empty()) else {
            self.showing.remove(&whose);
            self.shown = None;
            return Ok(());
        };
        let others = self.showing.iter().filter(|(other, _)| **other != whose);
        let others_bytes: usize = others.map(|(_, it)| it.showing.value.len()).sum();
        if others_bytes.saturating_add(showing.value.len()) > SHOWN_BYTES {
            return Err(EngineError::TooMuchShown);
        }
        let has = |index: &u8| self.showing.values().any(|it| it.index == *index);
        let own = self.showing.get(&whose).map(|it| it.index);
        let free = (0..).take(SHOWN_STATES).find(|index| !has(index));
        let index = own.or(free).ok_or(EngineError::TooManyStates)?;
        self.showing.insert(whose, Wanted { index, showing });
        self.shown = None;
        Ok(())
    }
}

/// What was wanted of an engine that had to be made anew: see [`Engine::take_attendance`].
#[derive(Default)]
pub struct Attended {
    seats: BTreeMap<(GroupId, DocumentId), Seat>,
}

impl Attended {
    /// Whether nothing was wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }
}

impl std::fmt::Debug for Attended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attended({} documents)", self.seats.len())
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
    /// Whether it was told: from what it counts is not known before.
    is_told: bool,
    /// Before this no other document is greeted, in milliseconds.
    greets_ms: u64,
}

impl Presence {
    /// What time it is by the clock that never steps. Returns how much has passed since it was told last, in milliseconds.
    pub(crate) fn tell_time(&mut self, steady_ms: u64) -> u64 {
        let passed_ms = match self.is_told {
            true => steady_ms.saturating_sub(self.time_ms),
            false => 0,
        };
        self.is_told = true;
        self.time_ms = self.time_ms.max(steady_ms);
        passed_ms
    }

    /// When something is due next, in milliseconds of that clock.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.seats.values().filter_map(|seat| seat.due_ms).min()
    }

    /// Takes what is due.
    fn take_due(&mut self) -> Vec<(GroupId, DocumentId)> {
        let now_ms = self.time_ms;
        let is_due = |seat: &Seat| seat.due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let due = self.seats.iter_mut().filter(|(_, seat)| is_due(seat));
        due.map(|(key, seat)| {
            seat.due_ms = None;
            *key
        })
        .collect()
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

    /// Documents of a group of which something is wanted.
    pub(crate) fn of_group(&self, group: GroupId) -> Vec<DocumentId> {
        let of_group = (group, DocumentId([0; 16]))..=(group, DocumentId([0xff; 16]));
        let seats = self.seats.range(of_group);
        seats.map(|((_, document), _)| *document).collect()
    }
}

/// What somebody needs to know who says goodbye.
struct Leaving(Head);

impl View for Leaving {
    fn head(&self) -> Head {
        self.0
    }

    fn held(&self, _: u64) -> Held {
        Held::Below
    }

    fn key_of(&self, _: &DeviceId) -> Option<SignatureKey> {
        None
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
        whose: AttendeeId,
        showing: Option<Showing>,
    ) {
        let result = self.seat(whole, id, |seat| seat.show(whose, showing));
        self.reply(command, result.map(|()| Reply::Done));
    }

    /// Somebody begins or ends to watch what others show in a document.
    pub(crate) fn watch_presence(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        command: CommandId,
        whose: AttendeeId,
        watch: bool,
    ) {
        let group = whole.group.id;
        let result = self.seat(whole, id, |seat| {
            match watch {
                true => seat.watching.insert(whose),
                false => seat.watching.remove(&whose),
            };
            Ok(())
        });
        let present = result.map(|()| {
            let seat = self.presence.seats.get(&(group, id));
            let room = seat.and_then(|seat| seat.room.as_ref());
            let others = room.into_iter().flat_map(|open| open.room.others());
            let shown: Vec<_> = others.map(|(id, state)| (id, state.clone())).collect();
            let shown = shown.into_iter().filter_map(|(id, state)| {
                Some((self.present(&whole.group, id)?, Showing::of(&state)?))
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
        change: impl FnOnce(&mut Seat) -> Result<(), EngineError>,
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
        let changed = change(seat);
        if !seat.is_wanted() && seat.room.is_none() {
            // There is nobody to say goodbye to.
            seats.remove(&(group, id));
            return changed;
        }
        changed?;
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
                let (shown, waits) = showable(seat.showing.values(), doc);
                seat.shown = Some(shown);
                seat.waits = waits;
            }
            // While nothing is sent nothing is shown either: whoever pauses does not want to be looked at.
            let pause = self.pause_of(group.id, doc.id);
            let shown = seat.shown.clone().filter(|_| pause.send.is_none());
            let shown = shown.unwrap_or_default();
            let step = self.in_room(group, doc, open, |room, here| {
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
            self.stepped(group, doc.id, open.channel, !seat.watching.is_empty(), step);
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
        if !seat.is_wanted() {
            if let Some(mut open) = seat.room.take() {
                let step = self.in_room(group, doc, &mut open, |room, here| room.leave(here));
                self.presence.counters.insert(key, open.room.counter());
                self.stepped(group, doc.id, open.channel, false, step);
            }
            return;
        }
        seat.due_ms = seat.room.as_ref().and_then(|open| open.room.due_ms());
        self.presence.seats.insert(key, seat);
    }

    /// How long a document waits before it is greeted, in milliseconds.
    fn greeting_wait_ms(&mut self, comes_back: bool) -> u64 {
        let jitter_ms = match comes_back {
            true => self.jitter(0, COME_BACK_MS),
            false => 0,
        };
        let now_ms = self.presence.time_ms;
        let at_ms = self
            .presence
            .greets_ms
            .max(now_ms.saturating_add(jitter_ms));
        self.presence.greets_ms = at_ms.saturating_add(GREETING_MS);
        at_ms.saturating_sub(now_ms)
    }

    /// Where counters of sessions and beats begin on this connection: above all of the logins before.
    pub(crate) fn first_counter(&self) -> u64 {
        self.device.life().logins << COUNTERS_PER_LOGIN
    }

    fn join(&mut self, group: &Group, doc: &Doc, seat: &mut Seat) {
        let Some(open) = self.link.open(group.id, doc.id) else {
            return;
        };
        let (channel, author) = (open.channel, open.session.author());
        let first = self.first_counter();
        let before = self.presence.counters.get(&(group.id, doc.id)).copied();
        let counter = before.unwrap_or_default().max(first);
        let room = Room::new(group.id, doc.id, author, counter, &mut self.rng);
        let mut open = Open {
            room,
            channel,
            size: doc.document.size(),
            epoch: group.state().epoch,
            sealer: None,
        };
        let wait_ms = self.greeting_wait_ms(seat.comes_back);
        let step = self.in_room(group, doc, &mut open, |room, here| room.join(wait_ms, here));
        seat.room = Some(open);
        seat.comes_back = true;
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
            let step = self.in_room(group, doc, open, |room, here| {
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
            self.stepped(group, id, open.channel, !seat.watching.is_empty(), step);
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
        open: &mut Open,
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
        let sealer = open.sealer.take().filter(|sealer| sealer.epoch == epoch);
        let keys = match sealer {
            Some(sealer) => sealer.keys,
            None => DocKeys::of_presence(&secrets.presence_root, &doc.id),
        };
        let mut here = Here {
            now_ms: self.presence.time_ms,
            epoch,
            keys: &keys,
            signer: self.device.key(),
            view: &view,
            rng: &mut self.rng,
        };
        let step = call(&mut open.room, &mut here);
        let head = doc.document.head();
        open.sealer = Some(Sealer { epoch, keys, head });
        step
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
            let (state, shown) = match change {
                Change::Shows(id, state) => (id, Showing::of(&state)),
                Change::Gone(id) => (id, None),
            };
            if let Some(who) = self.present(group, state) {
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
    fn present(&self, group: &Group, state: StateId) -> Option<Present> {
        let StateId {
            author,
            session,
            index,
        } = state;
        let row = group.state().roster.newest_row(&author.device)?;
        Some(Present {
            user: row.user,
            device: author.device,
            instance: author.instance,
            session,
            index,
            name: self.name_of(&row.user),
            is_own: Some(row.user) == self.device.user(),
        })
    }

    /// A room's channel is gone: nobody is seen any more.
    fn room_lost(&mut self, (group, document): (GroupId, DocumentId), seat: &mut Seat) {
        let Some(open) = seat.room.take() else {
            return;
        };
        seat.due_ms = None;
        // What the next log knows is looked at anew.
        seat.shown = None;
        let counter = open.room.counter();
        self.presence.counters.insert((group, document), counter);
        if seat.is_watched() && open.room.others().next().is_some() {
            self.event(Event::PresenceLost { group, document });
        }
    }

    /// A document is not open any more, though the connection stays.
    pub(crate) fn leave_room(&mut self, group: GroupId, document: DocumentId) {
        let key = (group, document);
        if let Some(mut seat) = self.presence.seats.remove(&key) {
            // Not after the channel is closed, as what comes beside might be.
            for frame in self.goodbye(&mut seat) {
                self.send(frame);
            }
            self.room_lost(key, &mut seat);
            self.presence.seats.insert(key, seat);
        }
    }

    /// Tells whoever sees this device in a room that it goes.
    fn goodbye(&mut self, seat: &mut Seat) -> Vec<ClientFrame> {
        let Some(open) = &mut seat.room else {
            return Vec::new();
        };
        let Some(Sealer { epoch, keys, head }) = open.sealer.take() else {
            return Vec::new();
        };
        let mut here = Here {
            now_ms: self.presence.time_ms,
            epoch,
            keys: &keys,
            signer: self.device.key(),
            view: &Leaving(head),
            rng: &mut self.rng,
        };
        let step = open.room.leave(&mut here);
        let channel = Varint(open.channel);
        let frames = step.send.into_iter();
        frames
            .map(|item| ClientFrame::Show { channel, item })
            .collect()
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
        for document in self.presence.of_group(group) {
            self.forget_presence(group, document);
        }
    }

    /// A group comes into memory: whatever rooms there were of it stand on nothing that is here.
    pub(crate) fn leave_group_rooms(&mut self, group: GroupId) {
        for document in self.presence.of_group(group) {
            self.leave_room(group, document);
        }
    }

    /// What was wanted before this engine was made anew: as far as it can be, it is wanted again.
    pub(crate) fn attend_again(&mut self, whole: &mut Whole, id: DocumentId) {
        if whole.group.has_document(&id) {
            self.document_work(whole, id, DocWork::Look);
        } else {
            self.forget_presence(whole.group.id, id);
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

    /// Does what has become due in rooms. Where a document is not at hand, it is done with the next work on it.
    pub(crate) fn run_presence(&mut self) {
        for (group, document) in self.cx.presence.take_due() {
            self.on_whole(group, |cx, whole| {
                if let Some(DocSlot::Hot(doc)) = whole.docs.get(&document) {
                    cx.pump_presence(&whole.group, doc);
                }
            });
        }
    }

    /// The process is about to end in order: what tells so to whoever sees this device in a document. To be sent at once; nothing is shown after it.
    #[must_use]
    pub fn end_presence(&mut self) -> Vec<ClientFrame> {
        let mut frames = Vec::new();
        for mut seat in std::mem::take(&mut self.cx.presence.seats).into_values() {
            frames.extend(self.cx.goodbye(&mut seat));
        }
        frames
    }

    /// What is wanted of documents' presence, for the engine that takes this one's place: nothing of it is stored.
    #[must_use]
    pub fn take_attendance(&mut self) -> Attended {
        let seats = std::mem::take(&mut self.cx.presence.seats).into_iter();
        let seats = seats.filter(|(_, seat)| seat.is_wanted());
        let seats = seats.map(|(key, seat)| {
            let seat = Seat {
                showing: seat.showing,
                watching: seat.watching,
                comes_back: seat.room.is_some() || seat.comes_back,
                ..Seat::default()
            };
            (key, seat)
        });
        Attended {
            seats: seats.collect(),
        }
    }

    /// Goes on with what another engine was wanted for. Of documents that this one does not know, nothing.
    #[must_use]
    pub fn attend(&mut self, attended: Attended) -> Output {
        for ((group, document), seat) in attended.seats {
            if self.is_member_of(&group) {
                self.cx.presence.seats.insert((group, document), seat);
                self.with_group(group, GroupWork::AttendAgain(document));
            }
        }
        self.drain();
        self.finish()
    }
}

/// What may be shown now of what the application wants to show, and whether something of it has to wait: whoever sees a replica id that the log
/// does not know yet could claim it first.
fn showable<'a>(wanted: impl Iterator<Item = &'a Wanted>, doc: &Doc) -> (Shown, bool) {
    let mut states = Vec::new();
    let mut waits = false;
    for Wanted { index, showing } in wanted {
        let (value, withheld) = showable_value(showing, doc);
        waits |= withheld;
        states.extend(value.map(|value| ShownState {
            index: *index,
            kind: showing.kind.code(),
            value,
        }));
    }
    states.sort_by_key(|state| state.index);
    let mut shown = Shown { states };
    // What was written anew without what waits may be longer.
    while shown.bytes() > SHOWN_BYTES {
        shown.states.pop();
    }
    (shown, waits)
}

fn showable_value(showing: &Showing, doc: &Doc) -> (Option<Bytes>, bool) {
    let whole = || Some(Bytes::from(showing.value.as_bytes()));
    // An application's own values name nothing.
    if showing.kind == ShowingKind::Application {
        return (whole(), false);
    }
    let Ok(mut value) = serde_json::from_str(&showing.value) else {
        // Others may read in it what is not seen here.
        return (None, false);
    };
    let accepted = |replica: &ReplicaId| doc.document.owner_of(replica).is_some();
    match anchor::withhold(doc.document.kind(), &mut value, &accepted) {
        true => (Some(Bytes::from(value.to_string().as_bytes())), true),
        false => (whole(), false),
    }
}

impl Showing {
    /// What somebody shows; none where it is nothing, or nothing that is known here.
    fn of(shown: &ShownState) -> Option<Self> {
        let kind = ShowingKind::of(shown.kind)?;
        let value = String::from_utf8(shown.value.as_slice().to_vec()).ok()?;
        Some(Self { kind, value })
    }
}

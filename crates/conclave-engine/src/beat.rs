//! The beat: members tell each other what heads the service showed them, in the group's directory, so that whoever is shown less, or something else, finds out with the
//! next one. What follows is asked of the service, and what it signs then convicts it.

use std::collections::BTreeMap;

use conclave_doc::DocKeys;
use conclave_identity::{is_parallel, is_rollback, verify_head};
use conclave_presence::{Beats, Heard, Pulse};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{Answer, ClientFrame, Request};
use conclave_proto::limits::{BEAT_HEADS, BEAT_MS, BEAT_PER_MEMBER_MS, BEAT_WAIT_MS};
use conclave_proto::presence::{BeatHead, ShownItem};
use conclave_proto::service::{Generation, LogName, SignedHead};
use conclave_proto::{DocumentId, GroupId, SessionId, UnixMs};

use crate::cx::{Cx, wait_ms};
use crate::engine::Engine;
use crate::evidence::OwnLog;
use crate::finding::{FindingKind, Suspect};
use crate::group::{Group, Whole};
use crate::link::GroupPending;
use crate::slot::DocSlot;
use crate::stand::Stand;
use crate::timers::TimerKind;

/// Most logs of a group of which somebody was shown more than this device, and that are looked into at once.
const AWAITED: usize = 64;
/// A service names its generation to a new connection: one is made for what members name, so often at most, in milliseconds.
const FETCH_MS: u64 = 10 * 60 * 1000;

/// A larger head than this device was shown.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    signed: SignedHead,
    /// When it is looked at again.
    due: UnixMs,
    stage: Stage,
}

/// How far it was looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The service is given time to show it by itself.
    Waits,
    /// The service was asked for its head.
    Asked,
    /// It has shown that it has as much: the log is to come, of which so much is here.
    Admitted(u64),
}

/// Beats of one group on one connection.
#[derive(Debug)]
struct OfGroup {
    beats: Beats,
    session: SessionId,
    /// What the own beats told of each log last.
    told: BTreeMap<Option<DocumentId>, SignedHead>,
    /// The last log that was told of again though it had not changed.
    turn: Option<DocumentId>,
    awaited: BTreeMap<Option<DocumentId>, Awaited>,
    /// When another device was heard last.
    heard: Option<UnixMs>,
    since: UnixMs,
}

/// Beats of all groups.
#[derive(Debug)]
pub(crate) struct Pulses {
    /// Whether this device tells what it was shown. It always listens.
    pub(crate) tells: bool,
    groups: BTreeMap<GroupId, OfGroup>,
    /// When a connection was ended last for a generation that a member named.
    fetched: Option<UnixMs>,
}

impl Default for Pulses {
    fn default() -> Self {
        Self {
            tells: true,
            groups: BTreeMap::new(),
            fetched: None,
        }
    }
}

impl Pulses {
    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.groups.clear();
    }

    /// The clock was set back by so much.
    pub(crate) fn move_back(&mut self, by_ms: u64) {
        let earlier = |at: &mut UnixMs| *at = UnixMs(at.0.saturating_sub(by_ms));
        self.fetched.iter_mut().for_each(earlier);
        for of in self.groups.values_mut() {
            earlier(&mut of.since);
            of.heard.iter_mut().for_each(earlier);
            of.awaited.values_mut().for_each(|it| earlier(&mut it.due));
        }
    }

    /// Since when this device listens in a group, and when it heard another one last.
    pub(crate) fn of(&self, group: &GroupId) -> Option<(UnixMs, Option<UnixMs>)> {
        let of = self.groups.get(group)?;
        Some((of.since, of.heard))
    }
}

/// Documents stand under their ids in a beat, the group's own log under that of none.
fn named(document: Option<DocumentId>) -> DocumentId {
    document.unwrap_or(DocumentId::ZERO)
}

fn log_named(document: DocumentId) -> Option<DocumentId> {
    (document != DocumentId::ZERO).then_some(document)
}

impl Engine {
    /// Whether this device tells its groups what the service showed it. A process that ends at once need not.
    pub fn set_beating(&mut self, yes: bool) {
        self.cx.pulses.tells = yes;
    }

    pub(crate) fn beat_due(&mut self, group: GroupId) {
        self.on_whole(group, |cx, whole| cx.beat(whole));
    }

    pub(crate) fn heads_due(&mut self, group: GroupId) {
        self.on_whole(group, |cx, whole| cx.look_at_awaited(whole));
    }
}

impl Cx {
    /// Listens in a group from now on, and plans what this device says there.
    pub(crate) fn plan_beat(&mut self, group: &Group) {
        let others = group.state().current_rows().nth(1).is_some();
        if !others || !group.may_act() {
            return;
        }
        let (now, first) = (self.now, self.first_counter());
        if !self.pulses.groups.contains_key(&group.id) {
            let of = OfGroup {
                beats: Beats::new(first),
                session: SessionId(self.random16()),
                told: BTreeMap::new(),
                turn: None,
                awaited: BTreeMap::new(),
                heard: None,
                since: now,
            };
            self.pulses.groups.insert(group.id, of);
            if self.pulses.tells {
                // Soon after it came, and then with the others.
                self.plan(1_000, 5_000, TimerKind::Beat(group.id));
            }
        } else if self.pulses.tells {
            let period = beat_ms(group);
            self.plan(period / 10 * 9, period, TimerKind::Beat(group.id));
        }
    }

    /// Tells the group what heads of its logs the service showed here: those that changed, the newest first, and then others in turn.
    fn beat(&mut self, whole: &Whole) {
        let group = &whole.group;
        if !self.pulses.tells {
            return;
        }
        let directory = DocumentId::directory(&group.id);
        let generation = self.link.generation();
        let open = self.link.open(group.id, directory);
        let open = open.map(|open| (open.channel, open.session.author()));
        let epoch = group.state().epoch;
        let secrets = group.secrets.as_ref().filter(|it| it.epoch == epoch);
        let of = self.pulses.groups.get_mut(&group.id);
        let (Some((channel, author)), Some(secrets), Some(of)) = (open, secrets, of) else {
            // It is not open yet.
            return self.plan(5_000, 10_000, TimerKind::Beat(group.id));
        };
        let shown = group.heads.iter().filter(|(document, shown)| {
            shown.generation == generation && document.is_none_or(|id| group.has_document(&id))
        });
        let (mut changed, rest): (Vec<_>, Vec<_>) = shown
            .map(|(document, shown)| (*document, shown.signed))
            .partition(|(document, signed)| of.told.get(document) != Some(signed));
        changed.sort_by_key(|(document, signed)| (std::cmp::Reverse(signed.seconds), *document));
        changed.truncate(BEAT_HEADS);
        let left = BEAT_HEADS.saturating_sub(changed.len());
        let after = |(document, _): &&(Option<DocumentId>, SignedHead)| {
            of.turn.is_some_and(|turn| named(*document) > turn)
        };
        let (later, earlier): (Vec<_>, Vec<_>) = rest.iter().partition(after);
        let again: Vec<_> = later
            .into_iter()
            .chain(earlier)
            .take(left)
            .copied()
            .collect();
        if let Some((document, _)) = again.last() {
            of.turn = Some(named(*document));
        }
        of.told.extend(changed.iter().copied());
        let heads = changed.into_iter().chain(again);
        let heads = heads.map(|(document, head)| BeatHead {
            document: named(document),
            head,
        });
        let heard = Heard {
            generation,
            heads: heads.collect(),
        };
        let pulse = Pulse {
            group: group.id,
            epoch,
            keys: &DocKeys::of_presence(&secrets.presence_root, &directory),
        };
        // Whoever is seen there answers to one session.
        let session = self
            .presence
            .session(group.id, directory)
            .unwrap_or(of.session);
        let who = (author, session);
        let item = of
            .beats
            .say(who, heard, &pulse, self.device.key(), &mut self.rng);
        let channel = Varint(channel);
        let shows = item.map(|item| ClientFrame::Show { channel, item });
        self.out.fleeting.extend(shows);
        self.plan_beat(group);
    }

    /// Takes the beats out of what has come in a group's directory.
    pub(crate) fn take_beats(&mut self, whole: &mut Whole, items: &mut Vec<ShownItem>) {
        let beats = items.extract_if(.., |it| Beats::is_beat(&it.item));
        for ShownItem { author, item } in beats.collect::<Vec<_>>() {
            let group = &whole.group;
            let epoch = group.state().epoch;
            let secrets = group.secrets.as_ref().filter(|it| it.epoch == epoch);
            let of = self.pulses.groups.get_mut(&group.id);
            let (Some(secrets), Some(of)) = (secrets, of) else {
                continue;
            };
            if author.device == self.device.id() {
                continue;
            }
            let directory = DocumentId::directory(&group.id);
            let pulse = Pulse {
                group: group.id,
                epoch,
                keys: &DocKeys::of_presence(&secrets.presence_root, &directory),
            };
            let key = group.state().roster.current_row(&author.device);
            let Ok(heard) = of
                .beats
                .hear(author, &item, &pulse, key.map(|row| &row.key))
            else {
                continue;
            };
            of.heard = Some(self.now);
            self.heard(whole, &heard);
        }
    }

    fn heard(&mut self, whole: &mut Whole, heard: &Heard) {
        let present = self.link.generation();
        let known = self.service.pinned().and_then(|it| it.of(heard.generation));
        let known = known.copied();
        for BeatHead { document, head } in &heard.heads {
            let log = LogName {
                group: whole.group.id,
                document: log_named(*document),
            };
            match known {
                Some(generation) if generation.number == present => {
                    self.compare(whole, &generation, &log, head);
                }
                Some(generation) => self.signed_too_late(&generation, &log, head),
                None => {}
            }
        }
        if known.is_none() && heard.generation > present {
            self.fetch_generation();
        }
    }

    /// A member names a generation that is not known here: the service names its own to a new connection.
    fn fetch_generation(&mut self) {
        let last = self.pulses.fetched;
        if last.is_none_or(|last| self.now.since_ms(last) >= FETCH_MS) {
            self.pulses.fetched = Some(self.now);
            self.hang_up("a member was shown a later generation of the service");
        }
    }

    /// The service signed a head in a generation that is over.
    fn signed_too_late(&mut self, of: &Generation, log: &LogName, head: &SignedHead) {
        let Some(pinned) = self.service.pinned() else {
            return;
        };
        let Some(later) = pinned.after(of.number).copied() else {
            return;
        };
        if is_parallel(&later, head) && self.convict_of_parallel(*log, of, &later, head) {
            let what = FindingKind::ParallelGeneration;
            self.finding(log.group, log.document, what, Some(Suspect::Service));
        }
    }

    /// Compares a head that a member was shown with what is here. Only where it is no prefix of that, its signature is looked at.
    fn compare(&mut self, whole: &mut Whole, of: &Generation, log: &LogName, head: &SignedHead) {
        let group = &whole.group;
        let document = log.document;
        if document.is_some_and(|id| !group.has_document(&id)) {
            return;
        }
        let known = self.largest_shown(group, document);
        let known = known.filter(|known| known.generation == of.number);
        if known.is_some_and(|known| known.signed == *head || known.against.is_some()) {
            return;
        }
        let known = known.map(|known| known.signed);
        let rolled = match known {
            Some(known) if is_rollback(&known, head) => Some((known, *head)),
            Some(known) if is_rollback(head, &known) => Some((*head, known)),
            _ => None,
        };
        let here = own_log(whole, document).head_at(head.head.size);
        if here == Some(head.head) && rolled.is_none() {
            return;
        }
        let pinned = self.service.pinned();
        let is_signed = pinned.is_some_and(|it| verify_head(it.key(), of, log, head).is_ok());
        if !is_signed {
            // Whoever said so proves nothing, and nobody else is to blame for it.
            return;
        }
        if let Some((a, b)) = &rolled {
            self.convict_of_rollback(*log, of, (a, b));
        }
        match here {
            Some(here) if here != head.head => self.other_history(whole, of, log, head),
            Some(_) => {}
            // It is not in memory: so much of it was shown here too.
            None if known.is_some_and(|known| known.head.size >= head.head.size) => {}
            None => self.await_head(&whole.group, document, head),
        }
        if rolled.is_some_and(|(a, _)| a == *head) {
            self.withheld(log);
        }
    }

    /// The service has signed another history of a log than is here.
    fn other_history(
        &mut self,
        whole: &mut Whole,
        of: &Generation,
        log: &LogName,
        head: &SignedHead,
    ) {
        let document = log.document;
        let own = own_log(whole, document);
        let known = self.largest_shown(&whole.group, document);
        let known = known.filter(|known| known.generation == of.number);
        let covers = known.filter(|known| {
            known.head().size >= head.head.size
                && own.head_at(known.head().size) == Some(known.head())
        });
        let is_proven = covers
            .is_some_and(|known| self.convict_of_fork(*log, of, (head, &known.signed), &*own));
        drop(own);
        if !is_proven {
            // What is here was not signed so far: the service is asked to.
            return self.await_head(&whole.group, document, head);
        }
        self.contradicted(&mut whole.group, document, head);
        match document {
            None => {
                let size = whole.group.state().size();
                self.log_away(&mut whole.group, Stand::Contradicted, size);
            }
            Some(id) => {
                let Whole { group, docs } = whole;
                if let Some(doc) = docs.hot_mut(&id) {
                    self.document_away(group, doc, Stand::Contradicted, 0);
                }
            }
        }
    }

    /// The service showed somebody more: it is given a while, and then asked.
    fn await_head(&mut self, group: &Group, document: Option<DocumentId>, signed: &SignedHead) {
        let due = self.now.plus_ms(BEAT_WAIT_MS);
        let Some(of) = self.pulses.groups.get_mut(&group.id) else {
            return;
        };
        let full = of.awaited.len() >= AWAITED;
        match of.awaited.get_mut(&document) {
            Some(known) if signed.head.size > known.signed.head.size => known.signed = *signed,
            Some(_) => return,
            None if full => return,
            None => {
                let stage = Stage::Waits;
                let signed = *signed;
                of.awaited.insert(document, Awaited { signed, due, stage });
            }
        }
        self.wake_at(due, TimerKind::Heads(group.id));
    }

    /// Looks at the heads that others were shown and that this device waits for.
    fn look_at_awaited(&mut self, whole: &mut Whole) {
        let id = whole.group.id;
        let now = self.now;
        let due: Vec<_> = match self.pulses.groups.get(&id) {
            Some(of) => {
                let due = of.awaited.iter().filter(|(_, it)| it.due <= now);
                due.map(|(document, it)| (*document, *it)).collect()
            }
            None => return,
        };
        for (document, awaited) in due {
            self.look_at(whole, document, awaited);
        }
        let next = self.pulses.groups.get(&id);
        let next = next.and_then(|of| of.awaited.values().map(|it| it.due).min());
        if let Some(next) = next {
            self.wake_at(next, TimerKind::Heads(id));
        }
    }

    fn look_at(&mut self, whole: &mut Whole, document: Option<DocumentId>, awaited: Awaited) {
        let log = LogName {
            group: whole.group.id,
            document,
        };
        let wanted = awaited.signed.head;
        let here = own_log(whole, document).head_at(wanted.size);
        let is_away = match document {
            None => whole.group.stand.is_away(),
            Some(id) => self.link.is_away(log.group, id) || self.link.is_paused(log.group, id),
        };
        if here == Some(wanted) || is_away {
            // It came, or it is known already how the service's log stands.
            return self.settled_awaited(&log);
        }
        match awaited.stage {
            Stage::Admitted(before) => {
                let size = own_log(whole, document).size();
                let is_followed = document.is_none_or(|id| {
                    let is_here = whole.docs.get(&id).is_some_and(|slot| slot.hot().is_some());
                    is_here && self.link.open(log.group, id).is_some()
                });
                if !is_followed {
                    // Nobody waits for it here.
                    self.settled_awaited(&log);
                } else if size <= before {
                    // It has the log, and does not give it.
                    self.withheld(&log);
                    self.settled_awaited(&log);
                } else {
                    self.set_awaited(&log, Stage::Admitted(size), BEAT_WAIT_MS);
                }
            }
            Stage::Waits | Stage::Asked => {
                let what = GroupPending::Head { document };
                self.request_for(log.group, Request::GetHead { log }, what);
                self.set_awaited(&log, Stage::Asked, BEAT_WAIT_MS);
            }
        }
    }

    fn settled_awaited(&mut self, log: &LogName) {
        if let Some(of) = self.pulses.groups.get_mut(&log.group) {
            of.awaited.remove(&log.document);
        }
    }

    fn set_awaited(&mut self, log: &LogName, stage: Stage, after_ms: u64) {
        let due = self.now.plus_ms(after_ms);
        let of = self.pulses.groups.get_mut(&log.group);
        let Some(awaited) = of.and_then(|of| of.awaited.get_mut(&log.document)) else {
            return;
        };
        awaited.stage = stage;
        awaited.due = due;
        self.wake_at(due, TimerKind::Heads(log.group));
    }

    /// The service says how far a log is, of which another member was shown more than this device.
    pub(crate) fn head_answered(
        &mut self,
        whole: &mut Whole,
        document: Option<DocumentId>,
        answer: &Answer,
    ) {
        let log = LogName {
            group: whole.group.id,
            document,
        };
        let of = self.pulses.groups.get(&log.group);
        let awaited = of.and_then(|of| of.awaited.get(&document)).copied();
        let (Some(awaited), Some(generation)) = (awaited, self.link.named) else {
            return;
        };
        match answer {
            Answer::Head { signed } => {
                let (a, b) = (awaited.signed, *signed);
                let of = |size| own_log(whole, document).head_at(size);
                let (own, at) = (of(a.head.size), of(b.head.size));
                if at.is_none_or(|at| at == b.head) {
                    self.head_shown(&mut whole.group, document, signed);
                } else {
                    self.other_head_shown(&mut whole.group, document, signed);
                }
                let pinned = self.service.pinned();
                let is_signed =
                    pinned.is_some_and(|it| verify_head(it.key(), &generation, &log, &b).is_ok());
                if !is_signed || b.head.size < a.head.size {
                    if is_signed {
                        self.convict_of_rollback(log, &generation, (&a, &b));
                    }
                    self.withheld(&log);
                    return self.settled_awaited(&log);
                }
                match own {
                    Some(own) if own == a.head => self.settled_awaited(&log),
                    Some(_) => {
                        self.settled_awaited(&log);
                        self.other_history(whole, &generation, &log, &a);
                    }
                    None => {
                        let size = own_log(whole, document).size();
                        self.set_awaited(&log, Stage::Admitted(size), BEAT_WAIT_MS);
                    }
                }
            }
            Answer::Refused(refusal) if refusal.is_retryable() => {
                self.set_awaited(&log, Stage::Waits, wait_ms(refusal).max(BEAT_WAIT_MS));
            }
            _ => {
                self.withheld(&log);
                self.settled_awaited(&log);
            }
        }
    }

    /// The service shows this device less than it showed another.
    fn withheld(&mut self, log: &LogName) {
        let what = FindingKind::Withheld;
        self.finding(log.group, log.document, what, Some(Suspect::Service));
    }
}

/// How often each device of a group says what it was shown, in milliseconds.
fn beat_ms(group: &Group) -> u64 {
    let members = group.state().current_rows().count() as u64;
    BEAT_MS.max(members.saturating_mul(BEAT_PER_MEMBER_MS))
}

/// What is at hand of a log.
fn own_log(whole: &Whole, document: Option<DocumentId>) -> Box<dyn OwnLog + '_> {
    match document {
        None => Box::new(whole.group.own_log()),
        Some(id) => match whole.docs.get(&id).and_then(DocSlot::hot) {
            Some(doc) => Box::new(&*doc.document),
            None => Box::new(()),
        },
    }
}

//! Whether this device is in step: what is under way between it and the service, as data, and who waits for the end of it.
//!
//! Under way is what this device and the service can finish by themselves, now. What needs somebody else (an invitation whose user has no
//! device that can be added, leaving), a clock that is set, or something that may never come (a root that nobody has) is not: nobody waits
//! for it.

use conclave_proto::{DocumentId, GroupId, Role};
use serde::{Deserialize, Serialize};

use crate::command::Reply;
use crate::commands::request_info;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::group::{Group, Whole};
use crate::io::CommandId;
use crate::life::Copy;
use crate::membership::GroupSlot;
use crate::slot::DocSlot;
use crate::timers::{DocTimer, TimerKind};

/// What is under way between a device and its service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderWay {
    /// What this device publishes of itself: its device list, its key packages.
    pub publishing: usize,
    /// Invitations, and groups that other devices of the user add this one to.
    pub invitations: usize,
    /// Groups whose creation, log or directory is on its way.
    pub groups: usize,
    /// Intents that this device carries out.
    pub intents: usize,
    /// Documents of which the service does not have everything.
    pub documents: usize,
    /// Logs that a put-back service lacks something of: they are being returned to it, or begin anew from there.
    #[serde(default)]
    pub returning: usize,
}

impl UnderWay {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// Every group is in memory: then the state of the device is known.
    Loaded,
    /// This device can be invited.
    Invitable,
    /// Nothing is under way.
    Settled,
    /// This copy of the store has taken over.
    TakenOver,
    /// This copy of the store is another device.
    BecameNew,
}

impl Engine {
    /// Answers when it is so: at once, or after a later transition.
    pub(crate) fn wait_until(&mut self, id: CommandId, until: Until) {
        self.waiting.push((id, until));
    }

    /// Answers who waits for what has come true. Costs nothing where nobody waits.
    pub(crate) fn answer_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let barred = self.cx.barred();
        for (id, until) in waiting {
            if !matches!(until, Until::Loaded | Until::BecameNew)
                && let Some(barred) = &barred
            {
                self.cx.reply(id, Err(barred.clone()));
                continue;
            }
            let reply = match until {
                Until::Loaded if self.is_loaded() => Reply::Status(self.status()),
                Until::Invitable if self.cx.link.is_invitable() => Reply::Done,
                Until::TakenOver
                    if self.cx.link.online && self.cx.device.life().copy == Copy::Only =>
                {
                    Reply::Done
                }
                Until::BecameNew if self.cx.device.credential().is_none() => {
                    let request = self.cx.device.request();
                    let request = request.map(|request| Reply::Request(request_info(&request)));
                    self.cx.reply(id, request);
                    continue;
                }
                // Nothing more goes before there is room.
                Until::BecameNew if self.cx.lacks_room() => {
                    self.cx.reply(id, Err(EngineError::RescueFull));
                    continue;
                }
                Until::Settled if self.cx.link.online && self.under_way().is_empty() => Reply::Done,
                until => {
                    self.waiting.push((id, until));
                    continue;
                }
            };
            self.cx.reply(id, Ok(reply));
        }
    }

    /// Whether all groups are in memory, but for those that cannot be.
    fn is_loaded(&self) -> bool {
        let mut slots = self.groups.values();
        !slots.any(|slot| matches!(slot, GroupSlot::Loading(..)))
    }

    pub(crate) fn under_way(&self) -> UnderWay {
        let mut all = UnderWay {
            publishing: self.cx.link.publishing_count(),
            invitations: usize::from(self.cx.link.memberships_asked),
            ..UnderWay::default()
        };
        if self.awaits_siblings() {
            all.invitations += 1;
        }
        for slot in self.groups.values() {
            match slot {
                GroupSlot::Hot(whole) => {
                    all.groups += usize::from(self.group_under_way(whole));
                    all.intents += self.intents_under_way(&whole.group);
                }
                GroupSlot::Cold(here) if !here.is_active() => {}
                GroupSlot::Stray(..) => {}
                GroupSlot::Cold(_) | GroupSlot::Loading(..) => all.groups += 1,
            }
        }
        let documents = self.cx.unsent.documents();
        all.documents = documents
            .filter(|((group, id), _)| self.unsent_under_way(*group, *id))
            .count();
        all.returning = self.cx.link.returning_count();
        all
    }

    /// Whether the group's creation, log or directory is still on its way.
    fn group_under_way(&self, whole: &Whole) -> bool {
        let group = &whole.group;
        if !group.is_followed() || self.cx.waits_for_clock(group) {
            return false;
        }
        if !group.caught_up() {
            return true;
        }
        let id = DocumentId::directory(&group.id);
        let listed = group.state().documents.get(&id);
        if listed.is_none_or(|entry| entry.closed.is_some()) {
            return false;
        }
        match whole.docs.get(&id) {
            Some(DocSlot::Hot(doc)) => {
                let link = &self.cx.link;
                !link.is_caught_up(group.id, doc) && !link.is_refused(group.id, id)
            }
            _ => !whole.is_out_of_reach(&id),
        }
    }

    fn intents_under_way(&self, group: &Group) -> usize {
        if !group.may_act() || group.stand.is_away() {
            return 0;
        }
        let own = self.cx.device.id();
        let pending = &group.state().pending;
        let leaving = pending.iter().any(|pending| pending.device == own);
        if leaving {
            // Another member commits it; until then nothing else goes out.
            return 0;
        }
        let mut count = group
            .intents
            .values()
            .filter(|intent| !intent.needs_somebody())
            .count();
        // Somebody else's leave, which is this device's to commit in a moment; and that commit.
        if (!pending.is_empty() && !self.cx.holds_commits(group))
            || group
                .inflight
                .as_ref()
                .is_some_and(|it| it.intent.is_none() && !it.waits_for_recovery())
        {
            count += 1;
        }
        count
    }

    /// Whether what waits of a document can go to the service now.
    fn unsent_under_way(&self, group: GroupId, id: DocumentId) -> bool {
        let Some(whole) = self.whole(&group) else {
            return false;
        };
        let of = &whole.group;
        let closed = of.state().documents.get(&id).and_then(|entry| entry.closed);
        let role = of.state().role_of(&self.cx.device.id());
        let pause = self.cx.pause_of(group, id);
        let unsent = self.cx.unsent.get(&group, &id);
        let withheld = unsent.creating && self.cx.withholds_creation(group, id);
        let only_drafts = !unsent.creating && unsent.edits == unsent.drafts;
        let rests = pause.receive.is_some() || withheld || only_drafts;
        if !of.may_act()
            || (pause.keeps_drafts() && rests)
            || of.stand.is_away()
            || closed.is_some()
            || role < Some(Role::Editor)
            || whole.is_out_of_reach(&id)
        {
            return false;
        }
        match whole.docs.get(&id) {
            Some(DocSlot::Hot(_)) => {
                let link = &self.cx.link;
                let again = TimerKind::Document(group, id, DocTimer::Open);
                let open = link.open(group, id);
                let waits = open.is_some_and(|open| {
                    open.session.parked().is_some() || open.collecting.is_some()
                });
                !waits
                    && (!link.is_refused(group, id)
                        || self.cx.timers.is_set(again)
                        || link.to_open.contains(&(group, id)))
            }
            _ => true,
        }
    }
}

//! Presence of a document: what this device shows to whoever has it open, and what they show.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use conclave_engine::{AttendeeId, Command, Present, Reply, Showing};
use conclave_proto::{DeviceId, DocumentId, GroupId, InstanceId};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::awareness::Awareness;
use crate::client::{Client, answer};
use crate::error::Error;
use crate::events::{DeviceEvent, Event, Events};

/// That somebody watches a document's presence, and perhaps shows something in it, for as long as they attend.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attendance {
    /// The group.
    pub group: GroupId,
    /// The document.
    pub document: DocumentId,
    /// What is shown; none: nothing.
    pub showing: Option<Showing>,
}

/// Where somebody attends, and under which number.
#[derive(Debug, Clone)]
struct Place {
    client: Client,
    group: GroupId,
    document: DocumentId,
    whose: AttendeeId,
}

impl Place {
    async fn watch(&self, watch: bool) -> Result<Vec<(Present, Showing)>, Error> {
        let command = Command::WatchPresence {
            group: self.group,
            document: self.document,
            whose: self.whose,
            watch,
        };
        answer!(self.client.command(command).await, Reply::Presence(there) => there)
    }

    async fn show(&self, showing: Option<Showing>) -> Result<(), Error> {
        let command = Command::ShowPresence {
            group: self.group,
            document: self.document,
            whose: self.whose,
            showing,
        };
        self.client.command_done(command).await
    }

    /// Watching it, and nothing more.
    fn attendance(&self) -> Attendance {
        Attendance {
            group: self.group,
            document: self.document,
            showing: None,
        }
    }

    fn is(&self, group: GroupId, document: DocumentId) -> bool {
        (self.group, self.document) == (group, document)
    }
}

/// Keeps an attendance up. When it is dropped nothing is watched or shown for it any more.
#[derive(Debug)]
pub(crate) struct Attending {
    place: Place,
    shows: AtomicBool,
}

impl Attending {
    /// Begins to attend. Gives who is there, as far as that is known already; who else is comes as events.
    pub(crate) async fn begin(
        client: &Client,
        attendance: &Attendance,
    ) -> Result<(Self, Vec<(Present, Showing)>), Error> {
        let attendees = &client.shared().attendees;
        let place = Place {
            client: client.clone(),
            group: attendance.group,
            document: attendance.document,
            whose: AttendeeId(attendees.fetch_add(1, Ordering::Relaxed)),
        };
        let shows = AtomicBool::new(false);
        let attending = Self { place, shows };
        let (answer, begun) = oneshot::channel();
        client.spawn(async move {
            let there = attending.place.watch(true).await;
            // Where nobody waits for it any more it is dropped here, and with it ends what had begun. So it does after an error: a store that had no room
            // makes the call fail, and not what it wanted.
            let _ = answer.send(there.map(|there| (attending, there)));
        });
        let begun = begun.await;
        let (attending, there) = begun.unwrap_or_else(|_| Err(client.shared().cause()))?;
        if attendance.showing.is_some() {
            attending.show(attendance.showing.clone()).await?;
        }
        Ok((attending, there))
    }

    pub(crate) async fn show(&self, showing: Option<Showing>) -> Result<(), Error> {
        self.shows.store(showing.is_some(), Ordering::Relaxed);
        self.place.show(showing).await
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        let place = self.place.clone();
        let shows = self.shows.load(Ordering::Relaxed);
        self.place.client.spawn(async move {
            // Where the client is gone there is nothing to end.
            if shows {
                let _ = place.show(None).await;
            }
            let _ = place.watch(false).await;
        });
    }
}

/// As events, who is there.
pub(crate) fn as_events(
    (group, document): (GroupId, DocumentId),
    there: Vec<(Present, Showing)>,
) -> VecDeque<Event> {
    let events = there.into_iter().map(|(who, showing)| {
        Event::from(DeviceEvent::Presence {
            group,
            document,
            who,
            showing: Some(showing),
        })
    });
    events.collect()
}

/// A document's presence, as an application sees it. It is of now: nothing of it is kept, and while this device is not connected nobody is seen.
///
/// One person may have a document open in several windows: each has a `Presence` of its own, and shows a state of its own. Up to eight of one device show
/// something in one document at once, in 4,000 bytes together. Where one is cleared, or dropped, its state goes and the others' stay; with the last of
/// them the device is gone from the document, which the others hear at once. The states of one device differ in [`Present::index`].
///
/// While sending is paused nothing is shown; while receiving is paused nobody is seen either.
///
/// What others show is theirs: signed by their device, and otherwise unchecked.
#[derive(Debug)]
pub struct Presence {
    attending: Attending,
    events: Events,
    others: BTreeMap<Key, (Present, Showing)>,
    /// Whether changes were missed, and it was not asked again yet who is there.
    is_stale: bool,
}

/// Which state of whom.
pub(crate) type Key = (DeviceId, InstanceId, u8);

pub(crate) fn key(who: &Present) -> Key {
    (who.device, who.instance, who.index)
}

/// What has changed in a document's presence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PresenceChange {
    /// Somebody shows this from now on, in place of what they showed at the same [`Present::index`].
    Shows(Present, Showing),
    /// Somebody shows nothing any more at this index.
    Gone(Present),
    /// Changes were not read in time, and some are not told: [`Presence::others`] says who is there.
    Missed,
    /// Nobody is seen any more: this device is not connected, or its store has no room for now.
    Lost,
}

impl Presence {
    pub(crate) async fn begin(
        client: &Client,
        group: GroupId,
        document: DocumentId,
    ) -> Result<Self, Error> {
        // Before it is asked who is there: nothing is missed in between.
        let events = client.events();
        let attendance = Attendance {
            group,
            document,
            showing: None,
        };
        let (attending, there) = Attending::begin(client, &attendance).await?;
        let mut presence = Self {
            attending,
            events,
            others: BTreeMap::new(),
            is_stale: false,
        };
        presence.are_there(there);
        Ok(presence)
    }

    fn are_there(&mut self, there: Vec<(Present, Showing)>) {
        let there = there.into_iter();
        self.others = there
            .map(|(who, showing)| (key(&who), (who, showing)))
            .collect();
    }

    /// Shows something to whoever has the document open, from now on, in place of what this `Presence` showed before, and beside what others of this device
    /// show.
    ///
    /// # Errors
    /// [`Error::Engine`]: it is too long with what others of this device show, eight of them show something already, or this device is no member.
    pub async fn show(&self, showing: Showing) -> Result<(), Error> {
        self.attending.show(Some(showing)).await
    }

    /// Shows nothing any more for this `Presence`.
    ///
    /// # Errors
    /// [`Error::Engine`]: this device is no member.
    pub async fn clear(&self) -> Result<(), Error> {
        self.attending.show(None).await
    }

    /// This presence for an editor of Yjs, whose awareness it takes part in.
    #[must_use]
    pub fn awareness(self) -> Awareness {
        Awareness::new(self)
    }

    /// Where this is.
    pub(crate) fn place(&self) -> (Client, Attendance) {
        let place = &self.attending.place;
        (place.client.clone(), place.attendance())
    }

    /// What others show, as of the last [`Presence::next`].
    pub fn others(&self) -> impl Iterator<Item = &(Present, Showing)> {
        self.others.values()
    }

    /// The next change; none when the client stopped. May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Option<PresenceChange> {
        loop {
            if self.is_stale {
                // Asked for by another that attends, which ends with this: only its answer counts. Where this client cannot say
                // it now, it is connected to nobody either.
                let attendance = self.attending.place.attendance();
                let again = Attending::begin(&self.attending.place.client, &attendance).await;
                self.are_there(again.map(|(_, there)| there).unwrap_or_default());
                self.is_stale = false;
                return Some(PresenceChange::Missed);
            }
            match self.events.next().await? {
                Event::Device(DeviceEvent::Presence {
                    group,
                    document,
                    who,
                    showing,
                }) if self.attending.place.is(group, document) => {
                    return Some(self.changed(who, showing));
                }
                Event::Device(DeviceEvent::PresenceLost { group, document })
                    if self.attending.place.is(group, document) =>
                {
                    self.others.clear();
                    return Some(PresenceChange::Lost);
                }
                // What was shown until then is not told as gone.
                Event::Stalled { .. } if !self.others.is_empty() => {
                    self.others.clear();
                    return Some(PresenceChange::Lost);
                }
                Event::Missed { .. } => self.is_stale = true,
                _ => {}
            }
        }
    }

    fn changed(&mut self, who: Present, showing: Option<Showing>) -> PresenceChange {
        let key = key(&who);
        match showing {
            Some(showing) => {
                self.others.insert(key, (who.clone(), showing.clone()));
                PresenceChange::Shows(who, showing)
            }
            None => {
                self.others.remove(&key);
                PresenceChange::Gone(who)
            }
        }
    }
}

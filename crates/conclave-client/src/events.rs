//! What a client tells without being asked.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use conclave_engine::{ChangeInfo, FindingInfo, InvitationInfo, RescueInfo};
use conclave_proto::{DeviceId, DocumentId, GroupId, UserId};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::ReusableBoxFuture;

use crate::error::RemoteError;
use crate::trouble::Trouble;

/// Something that happened. What it tells is durable in the store by then.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// The service is reached and knows this device.
    Online,
    /// The service is out of reach.
    Offline,
    /// The service cannot be reached, or does not let this device in, for another reason than before. It is tried again.
    Trouble {
        /// Why.
        trouble: Trouble,
    },
    /// Somebody invites this device.
    Invitation {
        /// To what, and who.
        invitation: InvitationInfo,
    },
    /// An invitation of this device's user waits until a device of the invited user connects; it goes on by itself.
    InvitationWaits {
        /// The group.
        group: GroupId,
        /// Who is invited.
        user: UserId,
    },
    /// A group's members changed.
    MembersChanged {
        /// The group.
        group: GroupId,
        /// New epoch.
        epoch: u64,
        /// Users of whom a device was added.
        added: Vec<UserId>,
        /// Users of whom a device was removed.
        removed: Vec<UserId>,
    },
    /// The group log says that this device leaves; another member completes it.
    Leaving {
        /// The group.
        group: GroupId,
    },
    /// This device is no longer a member.
    GroupLost {
        /// The group.
        group: GroupId,
        /// Why.
        why: String,
    },
    /// A document was created or closed.
    DocumentListed {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
    },
    /// Verified changes of others arrived.
    DocumentChanged {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Who changed it.
        changes: Vec<ChangeInfo>,
    },
    /// The service holds more of this device's edits.
    Acknowledged {
        /// The group.
        group: GroupId,
        /// The document.
        document: DocumentId,
        /// Local edits still unacknowledged.
        pending: usize,
    },
    /// Something does not fit: what, who is probably at fault, what to do. It is kept until somebody is done with it: see
    /// [`Client::findings`](crate::Client::findings).
    Finding(Box<FindingInfo>),
    /// Own edits lost their place; what they did is kept apart: see [`Client::rescue`](crate::Client::rescue).
    Rescued {
        /// What, and why.
        rescue: RescueInfo,
    },
    /// Re-keying after a removal.
    Rotation {
        /// The group.
        group: GroupId,
        /// Epoch that the removal began.
        epoch: u64,
        /// Documents re-keyed.
        done: usize,
        /// Documents in all.
        total: usize,
        /// Whether it is complete and in the group log.
        complete: bool,
    },
    /// The devices of a user changed.
    DevicesChanged {
        /// The user.
        user: UserId,
    },
    /// This device came back into a group whose log it could not follow.
    Returned {
        /// The group.
        group: GroupId,
        /// Epoch here.
        epoch: u64,
        /// Whether it is known to be the group that the others are in. If not, nothing is sealed until another member shows it, or
        /// [`Group::confirm`](crate::Group::confirm).
        proven: bool,
    },
    /// A member's device cannot come back by itself: see [`Group::readd`](crate::Group::readd).
    ReAddAsked {
        /// The group.
        group: GroupId,
        /// The device.
        device: DeviceId,
        /// Its user, by the roster.
        user: UserId,
    },
    /// The store has no room. What was not durable yet is undone, calls that waited have this error, and the connection is closed; both
    /// come back by themselves when there is room.
    Stalled {
        /// What the store said.
        error: RemoteError,
    },
    /// Another process has this store open from here on, or this one has. What happened in between was not told: ask for the state again.
    HandedOver,
    /// Whoever reads these events was too slow: this many were dropped before the next one. Ask for the state again.
    Missed {
        /// How many.
        events: u64,
    },
    /// The client stopped. No event follows.
    Stopped {
        /// Why; none when it was closed.
        error: Option<RemoteError>,
    },
}

impl Event {
    /// Translates an event of the engine. Replies are none: they go to who asked.
    pub(crate) fn from_engine(event: conclave_engine::Event) -> Option<Self> {
        use conclave_engine::Event as Told;
        Some(match event {
            Told::Online => Self::Online,
            Told::Offline => Self::Offline,
            Told::Invitation(invitation) => Self::Invitation { invitation },
            Told::InvitationWaits { group, user } => Self::InvitationWaits { group, user },
            Told::MembersChanged {
                group,
                epoch,
                added,
                removed,
            } => Self::MembersChanged {
                group,
                epoch,
                added,
                removed,
            },
            Told::Leaving { group } => Self::Leaving { group },
            Told::GroupLost { group, why } => Self::GroupLost { group, why },
            Told::DocumentListed { group, document } => Self::DocumentListed { group, document },
            Told::DocumentChanged {
                group,
                document,
                changes,
            } => Self::DocumentChanged {
                group,
                document,
                changes,
            },
            Told::Acknowledged {
                group,
                document,
                pending,
            } => Self::Acknowledged {
                group,
                document,
                pending,
            },
            Told::Finding(finding) => Self::Finding(finding),
            Told::Rescued(rescue) => Self::Rescued { rescue },
            Told::Rotation {
                group,
                epoch,
                done,
                total,
                complete,
            } => Self::Rotation {
                group,
                epoch,
                done,
                total,
                complete,
            },
            Told::DevicesChanged { user } => Self::DevicesChanged { user },
            Told::Returned {
                group,
                epoch,
                proven,
            } => Self::Returned {
                group,
                epoch,
                proven,
            },
            Told::ReAddAsked {
                group,
                device,
                user,
            } => Self::ReAddAsked {
                group,
                device,
                user,
            },
            _ => return None,
        })
    }

    /// The group that this is about.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::Invitation { invitation } => Some(invitation.group),
            Self::Finding(finding) => finding.group,
            Self::Rescued { rescue } => Some(rescue.group),
            Self::InvitationWaits { group, .. }
            | Self::Leaving { group }
            | Self::MembersChanged { group, .. }
            | Self::GroupLost { group, .. }
            | Self::DocumentListed { group, .. }
            | Self::DocumentChanged { group, .. }
            | Self::Acknowledged { group, .. }
            | Self::Returned { group, .. }
            | Self::ReAddAsked { group, .. }
            | Self::Rotation { group, .. } => Some(*group),
            _ => None,
        }
    }
}

type Received = (Result<Event, RecvError>, broadcast::Receiver<Event>);

async fn receive(mut receiver: broadcast::Receiver<Event>) -> Received {
    let result = receiver.recv().await;
    (result, receiver)
}

/// Events from now on, until the client stops. Use [`Events::next`], or as a [`Stream`].
#[derive(Debug)]
pub struct Events {
    next: ReusableBoxFuture<'static, Received>,
    over: bool,
}

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<Event>) -> Self {
        Self {
            next: ReusableBoxFuture::new(receive(receiver)),
            over: false,
        }
    }

    /// The next event; none after [`Event::Stopped`]. May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.over {
            return Poll::Ready(None);
        }
        let (result, receiver) = ready!(self.next.poll(context));
        self.next.set(receive(receiver));
        let event = match result {
            Ok(event) => event,
            Err(RecvError::Lagged(events)) => Event::Missed { events },
            Err(RecvError::Closed) => Event::Stopped { error: None },
        };
        self.over = matches!(event, Event::Stopped { .. });
        Poll::Ready(Some(event))
    }
}

/// A verified change that somebody else made to a document.
pub type Change = ChangeInfo;

/// Whoever reads changes was too slow, and some are not told: the document holds them all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("some changes were not told one by one, because they were not read in time")]
pub struct Missed;

/// Verified changes that others make to one document, from now on. Use [`Changes::next`], or as a [`Stream`].
#[derive(Debug)]
pub struct Changes {
    events: Events,
    group: GroupId,
    document: DocumentId,
    waiting: std::collections::VecDeque<Change>,
}

impl Changes {
    pub(crate) fn new(events: Events, group: GroupId, document: DocumentId) -> Self {
        Self {
            events,
            group,
            document,
            waiting: std::collections::VecDeque::new(),
        }
    }

    /// The next change; none when the client stopped. May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Option<Result<Change, Missed>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Changes {
    type Item = Result<Change, Missed>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            match ready!(Pin::new(&mut self.events).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Event::Missed { .. }) => return Poll::Ready(Some(Err(Missed))),
                Some(Event::DocumentChanged {
                    group,
                    document,
                    changes,
                }) if group == self.group && document == self.document => {
                    self.waiting = changes.into();
                }
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(group: GroupId, device: DeviceId) -> FindingInfo {
        use conclave_engine::finding::{About, Finding, FindingKind, Names, Notice};
        let finding = Finding {
            what: FindingKind::SetAside { seq: 7 },
            about: About::Document(group, DocumentId([2; 16])),
            suspect: Some(device.into()),
        };
        let words = finding.words(&Names::default());
        FindingInfo {
            id: finding.id(),
            code: finding.what.code().to_owned(),
            group: finding.about.group(),
            document: finding.about.document(),
            text: words.text(),
            happened: words.happened,
            fault: words.fault,
            remedy: words.remedy,
            finding,
            user: None,
            first: conclave_proto::UnixMs(1),
            last: conclave_proto::UnixMs(2),
            count: 3,
            settled: false,
            notice: Notice::Unseen,
        }
    }

    /// Scripts read these fields.
    #[test]
    fn a_finding_has_its_code_and_its_text_on_top() {
        let found = finding(GroupId([1; 16]), DeviceId([4; 16]));
        let event = Event::Finding(Box::new(found));
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event"], "finding");
        assert_eq!(json["code"], "document.set_aside");
        assert_eq!(json["group"], "01".repeat(16));
        assert!(
            json["text"].as_str().unwrap().contains("document"),
            "{json}"
        );
        assert_eq!(json["finding"]["suspect"]["device"], "04".repeat(16));
        assert_eq!(json["id"].as_str().map(str::len), Some(16));
    }

    /// Events cross the local socket as CBOR and reach scripts as JSON.
    #[test]
    fn events_survive_both_encodings() {
        let (group, document, user, device) = (
            GroupId([1; 16]),
            DocumentId([2; 16]),
            UserId([3; 32]),
            DeviceId([4; 16]),
        );
        let events = [
            Event::Online,
            Event::Invitation {
                invitation: InvitationInfo {
                    group,
                    inviter: user,
                    inviter_name: Some("Ben".into()),
                    users: 2,
                },
            },
            Event::MembersChanged {
                group,
                epoch: 3,
                added: vec![user],
                removed: vec![],
            },
            Event::DocumentChanged {
                group,
                document,
                changes: vec![ChangeInfo {
                    user,
                    device,
                    name: None,
                    seq: 9,
                }],
            },
            Event::Finding(Box::new(finding(group, device))),
            Event::Rotation {
                group,
                epoch: 3,
                done: 1,
                total: 2,
                complete: false,
            },
            Event::Missed { events: u64::MAX },
            Event::Stopped {
                error: Some(RemoteError {
                    code: "a.b".into(),
                    message: "text".into(),
                    retryable: true,
                }),
            },
        ];
        for event in events {
            let json = serde_json::to_value(&event).unwrap();
            let again: Event = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(serde_json::to_value(&again).unwrap(), json);
            let mut cbor = Vec::new();
            ciborium::into_writer(&event, &mut cbor).unwrap();
            let again: Event = ciborium::from_reader(cbor.as_slice()).unwrap();
            assert_eq!(serde_json::to_value(&again).unwrap(), json);
        }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_that_it_missed_something() {
        let sender = broadcast::Sender::new(2);
        let mut events = Events::new(sender.subscribe());
        let mut changes = Changes::new(
            Events::new(sender.subscribe()),
            GroupId::ZERO,
            DocumentId::ZERO,
        );
        for _ in 0..5 {
            sender.send(Event::Online).unwrap();
        }
        assert!(matches!(
            events.next().await,
            Some(Event::Missed { events: 3 })
        ));
        assert!(matches!(events.next().await, Some(Event::Online)));
        assert_eq!(
            changes.next().await.map(|change| change.is_err()),
            Some(true)
        );
        drop(sender);
        assert!(matches!(events.next().await, Some(Event::Online)));
        assert!(matches!(
            events.next().await,
            Some(Event::Stopped { error: None })
        ));
        assert!(events.next().await.is_none());
        assert!(changes.next().await.is_none());
    }
}

//! What a client tells without being asked.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use conclave_engine::ChangeInfo;
pub use conclave_engine::Event as DeviceEvent;
use conclave_proto::{DocumentId, GroupId};
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
    /// The service cannot be reached, or does not let this device in, for another reason than before. It is tried again.
    Trouble {
        /// Why.
        trouble: Trouble,
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
    /// Something happened to the device, in its groups or in its documents.
    #[serde(untagged)]
    Device(DeviceEvent),
}

impl Event {
    /// The group that this is about.
    #[must_use]
    pub fn group(&self) -> Option<GroupId> {
        match self {
            Self::Device(event) => event.group(),
            _ => None,
        }
    }
}

impl From<DeviceEvent> for Event {
    fn from(event: DeviceEvent) -> Self {
        Self::Device(event)
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

/// A verified change that somebody else made to a document. What it did is told by [`Document::changed`](crate::Document::changed), where that is asked for.
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
                Some(Event::Device(DeviceEvent::DocumentChanged {
                    group,
                    document,
                    changes,
                })) if group == self.group && document == self.document => {
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
    use conclave_engine::{Carrier, FindingInfo, InvitationInfo};
    use conclave_proto::{DeviceId, UserId};

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
        let event = Event::from(DeviceEvent::Finding(Box::new(found)));
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
        let of_device = [
            DeviceEvent::Online,
            DeviceEvent::Invitation {
                invitation: InvitationInfo {
                    group,
                    inviter: user,
                    inviter_name: Some("Ben".into()),
                    inviter_verified: true,
                    users: 2,
                },
            },
            DeviceEvent::MembersChanged {
                group,
                epoch: 3,
                added: vec![user],
                removed: vec![],
            },
            DeviceEvent::DocumentChanged {
                group,
                document,
                changes: vec![ChangeInfo {
                    user,
                    device,
                    name: None,
                    carried_by: Some(Carrier {
                        user,
                        device,
                        name: Some("Ben".into()),
                    }),
                    seq: 9,
                }],
            },
            DeviceEvent::Finding(Box::new(finding(group, device))),
            DeviceEvent::Rotation {
                group,
                epoch: 3,
                done: 1,
                total: 2,
                complete: false,
            },
        ];
        let of_client = [
            Event::Missed { events: u64::MAX },
            Event::Stopped {
                error: Some(RemoteError {
                    code: "a.b".into(),
                    message: "text".into(),
                    retryable: true,
                    until: Some(conclave_proto::UnixMs(5)),
                }),
            },
        ];
        for event in of_device.map(Event::from).into_iter().chain(of_client) {
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
            sender.send(DeviceEvent::Online.into()).unwrap();
        }
        assert!(matches!(
            events.next().await,
            Some(Event::Missed { events: 3 })
        ));
        assert!(matches!(
            events.next().await,
            Some(Event::Device(DeviceEvent::Online))
        ));
        assert_eq!(
            changes.next().await.map(|change| change.is_err()),
            Some(true)
        );
        drop(sender);
        assert!(matches!(
            events.next().await,
            Some(Event::Device(DeviceEvent::Online))
        ));
        assert!(matches!(
            events.next().await,
            Some(Event::Stopped { error: None })
        ));
        assert!(events.next().await.is_none());
        assert!(changes.next().await.is_none());
    }
}

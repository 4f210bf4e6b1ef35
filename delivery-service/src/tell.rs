//! Telling what became of operations, once that is durable: in the order of the transactions, and within one in the order of its operations.

use std::sync::Arc;

use bytes::Bytes;
use conclave_order::{Event, revoked};
use conclave_proto::codec::encode;
use conclave_proto::frame::ServiceFrame;
use conclave_proto::{DeviceId, Refusal, UserId, limits as wire};
use tokio::sync::oneshot;

use crate::document::append::AppendFrom;
use crate::document::publish::{Appended, publish_all};
use crate::document::snapshot::SnapshotFrom;
use crate::document::{Document, returned};
use crate::env::Env;
use crate::group::GroupFrom;
use crate::group::asks::PleaFrom;
use crate::group::returned::ReturnedFrom;

/// Where an operation came from, and who is told of it there.
pub(crate) enum From {
    /// A frame of records: its connection, and all who listen.
    Channel(AppendFrom),
    /// A snapshot: its connection, and all who listen.
    Snapshot(SnapshotFrom),
    /// Records that came back: all who listen.
    Returned(Arc<Document>),
    /// Entries that came back: all who follow.
    ReturnedGroup(Box<ReturnedFrom>),
    /// An entry of a group's log: all who follow.
    Group(Box<GroupFrom>),
    /// A plea: all who follow.
    Plea(Box<PleaFrom>),
    /// Devices and what belongs to them: devices that it concerns.
    Devices(Arc<Env>),
    /// Nobody but who asks.
    Asker,
}

/// Who waits for what becomes of an operation, where it is not answered in its place in a log.
pub(crate) type Reply = oneshot::Sender<Event>;

/// An operation's origin.
pub(crate) struct Origin {
    pub(crate) from: From,
    pub(crate) reply: Option<Reply>,
}

/// Tells what became of operations of one transaction. Neighbouring frames of records are told together.
pub(crate) fn tell(events: impl IntoIterator<Item = (Event, Origin)>) {
    let mut frames: Vec<Appended> = Vec::new();
    for (event, origin) in events {
        if let From::Channel(from) = origin.from {
            frames.push((from, event));
            continue;
        }
        publish_all(std::mem::take(&mut frames));
        match origin.from {
            From::Snapshot(from) => from.tell(&event),
            From::Returned(document) => returned::tell(&document, &event),
            From::ReturnedGroup(from) => from.tell(&event),
            From::Group(from) => from.tell(&event),
            From::Plea(from) => from.tell(&event),
            From::Devices(env) => tell_devices(&env, &event),
            From::Channel(_) | From::Asker => {}
        }
        if let Some(reply) = origin.reply {
            // Whoever asked may be gone; what was done stays done.
            let _ = reply.send(event);
        }
    }
    publish_all(frames);
}

fn tell_devices(env: &Env, event: &Event) {
    let changed = |user: UserId| Bytes::from(encode(&ServiceFrame::DeviceListChanged { user }));
    match event {
        Event::ListChanged { user, told, gone } => {
            env.hub.notify(told, &changed(*user));
            let why: Refusal = revoked();
            for device in gone {
                env.hub.disconnect(device, &why);
            }
        }
        Event::LoggedIn { device, at, .. } => {
            // Before the newer connection is answered. What the older ones have sent is durable by now, or is refused.
            env.hub
                .disconnect(device, &Refusal::OtherLife { since: *at });
        }
        Event::PackagesPut { user, siblings, .. } => env.hub.notify(siblings, &changed(*user)),
        Event::Claimed(claimed) => {
            for package in claimed {
                if (package.left as usize) < wire::KEY_PACKAGES_LOW {
                    tell_low(env, package.device, package.left);
                }
            }
        }
        _ => {}
    }
}

fn tell_low(env: &Env, device: DeviceId, left: u32) {
    let frame = Bytes::from(encode(&ServiceFrame::KeyPackagesLow { left }));
    env.hub.notify(&[device].into(), &frame);
}

//! What the actor leaves where every handle can see it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock};

use conclave_proto::GroupId;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::events::{DeviceEvent, Event};
use crate::trouble::Connection;

/// Events that a slow reader may fall behind.
const EVENTS: usize = 1024;

/// What was last told of a group's re-keying.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Epoch of the last removal after which everything is re-keyed.
    pub(crate) complete_epoch: u64,
    /// Documents that there were then.
    pub(crate) documents: usize,
    /// How often this device lost its membership.
    pub(crate) losses: u64,
}

/// How far the re-keying of all groups is.
pub(crate) type Rotations = watch::Receiver<BTreeMap<GroupId, Rotation>>;

/// What the actor leaves where everybody can see it.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Events for handles.
    pub(crate) events: broadcast::Sender<Event>,
    /// How far re-keying is, for those who wait for it.
    pub(crate) rotations: watch::Sender<BTreeMap<GroupId, Rotation>>,
    /// How this device stands with its service. Set anew with every attempt that failed.
    pub(crate) connection: watch::Sender<Connection>,
    /// Set once, when the actor is gone and the store is closed.
    pub(crate) stopped: watch::Sender<bool>,
    /// Whether this process lets go of the store so that another can have it.
    pub(crate) leaving: AtomicBool,
    /// Asks the actor to end.
    pub(crate) close: CancellationToken,
    /// Connections of other processes, which get a moment to hear the end.
    pub(crate) guests: TaskTracker,
    /// How many have attended to documents' presence: each has a number of its own.
    pub(crate) attendees: AtomicU64,
    /// The local socket, to be removed before anybody else can open the store.
    pub(crate) socket: Mutex<Option<PathBuf>>,
    pub(super) cause: OnceLock<Error>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            events: broadcast::Sender::new(EVENTS),
            rotations: watch::Sender::new(BTreeMap::new()),
            connection: watch::Sender::new(Connection::Unused),
            stopped: watch::Sender::new(false),
            leaving: AtomicBool::new(false),
            close: CancellationToken::new(),
            guests: TaskTracker::new(),
            attendees: AtomicU64::new(0),
            socket: Mutex::new(None),
            cause: OnceLock::new(),
        }
    }

    /// Why nobody answers any more.
    pub(crate) fn cause(&self) -> Error {
        // Where nobody said why, the thread is unwinding.
        self.cause.get().cloned().unwrap_or(Error::Crashed)
    }

    /// Removes the local socket, if this device serves one.
    pub(crate) fn remove_socket(&self) {
        let path = self.socket.lock().ok().and_then(|mut socket| socket.take());
        if let Some(path) = path
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::debug!(%error, "the local socket was gone already");
        }
    }

    /// Tells everybody who listens.
    pub(super) fn tell(&self, event: Event) {
        match &event {
            Event::Device(DeviceEvent::Rotation {
                group,
                epoch,
                total,
                complete: true,
                ..
            }) => {
                self.rotations.send_modify(|all| {
                    let entry = all.entry(*group).or_default();
                    entry.complete_epoch = entry.complete_epoch.max(*epoch);
                    entry.documents = *total;
                });
            }
            Event::Device(DeviceEvent::GroupLost { group, .. }) => {
                self.rotations
                    .send_modify(|all| all.entry(*group).or_default().losses += 1);
            }
            _ => {}
        }
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }
}

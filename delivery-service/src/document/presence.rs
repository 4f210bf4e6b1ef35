//! Presence of a document: passed on and kept nowhere.
//!
//! What is for all waits a moment, the newest of each device, and then goes to everybody in one frame. What is for one goes at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use conclave_proto::codec::{Tail, Varint, encode};
use conclave_proto::frame::ServiceFrame;
use conclave_proto::presence::{PresenceItem, ShownItem};
use conclave_proto::{DeviceId, SessionId, limits as wire};

use super::Document;
use super::channel::Channel;
use crate::connection::outbox::Batch;
use crate::hub::Conn;
use crate::limits;
use crate::shared::Shared;

/// What waits to be shown, and who can be spoken to alone.
#[derive(Default)]
pub(crate) struct Lane {
    /// The newest of each device that is for all, encoded with its author.
    newest: BTreeMap<DeviceId, Bytes>,
    /// Whether a task will show them.
    due: bool,
    /// Which device is in which session: the one that it used last.
    sessions: HashMap<SessionId, DeviceId>,
    session_of: HashMap<DeviceId, SessionId>,
}

impl Lane {
    /// A device is in this session from now on.
    fn enters(&mut self, device: DeviceId, session: SessionId) {
        if self.session_of.get(&device) != Some(&session) {
            self.leaves(&device);
            self.session_of.insert(device, session);
        }
        // Whoever names the session of another gets nothing that is for that one.
        self.sessions.entry(session).or_insert(device);
    }

    /// A device has closed the document. What it said last is still shown.
    pub(crate) fn leaves(&mut self, device: &DeviceId) {
        if let Some(session) = self.session_of.remove(device)
            && self.sessions.get(&session) == Some(device)
        {
            self.sessions.remove(&session);
        }
    }
}

/// Takes a message, if it is one that may be passed on. Whatever is wrong with it, nothing is answered: presence promises nothing.
pub(crate) fn show(shared: &Shared, conn: &Arc<Conn>, channel: &Channel, item: PresenceItem) {
    let document = &channel.document;
    let bytes = item.sealed.ciphertext.len() as u64;
    if item.sealed.ciphertext.len() > wire::PRESENCE_BYTES
        || item.epoch.0 != channel.group.view().epoch
        || shared
            .rates
            .shown(conn.device, item.to.is_some(), bytes)
            .is_err()
    {
        return;
    }
    let (to, session) = (item.to, item.session);
    let shown = ShownItem {
        author: channel.author,
        item,
    };
    let encoded = Bytes::from(encode(&shown));
    let mut live = document.live();
    if shown.item.seen_size.0 > live.roots.size() {
        return;
    }
    live.presence.enters(conn.device, session);
    let Some(to) = to else {
        live.presence.newest.insert(conn.device, encoded);
        if !std::mem::replace(&mut live.presence.due, true) {
            let document = document.clone();
            document.env.tasks.clone().spawn(async move {
                tokio::time::sleep(limits::PRESENCE_PAUSE).await;
                document.show_newest();
            });
        }
        return;
    };
    let Some(device) = live.presence.sessions.get(&to).copied() else {
        return;
    };
    let listener = live.listeners.iter().find(|it| it.conn.device == device);
    if let Some(listener) = listener {
        let frame = frame(document.number, [&encoded]);
        listener.conn.outbox.push_addressed(frame);
    }
}

impl Document {
    /// Shows everybody the newest of everybody.
    fn show_newest(&self) {
        let mut live = self.live();
        live.presence.due = false;
        let newest = std::mem::take(&mut live.presence.newest);
        let batch = Arc::new(Batch::new(self.number, newest));
        for listener in &live.listeners {
            listener.conn.outbox.push_fleeting(self.number, &batch);
        }
    }
}

/// One frame of messages that are encoded already.
pub(crate) fn frame<'a>(channel: u64, items: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut frame = encode(&ServiceFrame::Shown {
        channel: Varint(channel),
        items: Tail(Vec::new()),
    });
    for item in items {
        frame.extend_from_slice(item);
    }
    Bytes::from(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_the_session_of_another_takes_nothing_from_it() {
        let [honest, other] = [1, 2].map(|it| DeviceId([it; 16]));
        let [session, second] = [1, 2].map(|it| SessionId([it; 16]));
        let mut lane = Lane::default();
        lane.enters(honest, session);
        lane.enters(other, session);
        assert_eq!(lane.sessions.get(&session), Some(&honest));
        lane.enters(other, second);
        assert_eq!(lane.sessions.get(&session), Some(&honest));
        assert_eq!(lane.sessions.get(&second), Some(&other));
        lane.leaves(&other);
        assert_eq!(lane.sessions.get(&session), Some(&honest));
        assert_eq!(lane.sessions.len(), 1);
    }

    #[test]
    fn a_session_that_another_had_named_first_is_had_once_that_one_has_gone() {
        let [honest, other] = [1, 2].map(|it| DeviceId([it; 16]));
        let session = SessionId([1; 16]);
        let mut lane = Lane::default();
        lane.enters(other, session);
        lane.enters(honest, session);
        lane.leaves(&other);
        lane.enters(honest, session);
        assert_eq!(lane.sessions.get(&session), Some(&honest));
    }
}

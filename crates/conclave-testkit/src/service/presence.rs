//! Presence: passed on at once, and kept nowhere.

use conclave_proto::codec::{Tail, Varint};
use conclave_proto::frame::ServiceFrame;
use conclave_proto::presence::{PresenceItem, ShownItem};

use super::ConnId;
use super::desk::Desk;

impl Desk {
    /// Passes a message on to the one whom it is for, or to all who have the document open; its own device too.
    pub(super) fn show(&mut self, conn: ConnId, number: u64, item: PresenceItem) {
        let Some(open) = self.conns.get_mut(&conn) else {
            return;
        };
        let Some(channel) = open.channels.get(&number).copied() else {
            return;
        };
        open.sessions.insert(number, item.session);
        let Ok(core) = self.core(channel.log.group) else {
            return;
        };
        let epoch = core.state.state().epoch;
        self.keep(core);
        if epoch != item.epoch.0 {
            return;
        }
        let to = item.to;
        let shown = ShownItem {
            author: channel.author,
            item,
        };
        let listeners: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, other)| {
                let session = other.sessions.get(&number).copied();
                other.channels.contains_key(&number) && (to.is_none() || to == session)
            })
            .map(|(id, _)| *id)
            .collect();
        for listener in listeners {
            let frame = ServiceFrame::Shown {
                channel: Varint(number),
                items: Tail(vec![shown.clone()]),
            };
            self.push(listener, frame);
        }
    }
}

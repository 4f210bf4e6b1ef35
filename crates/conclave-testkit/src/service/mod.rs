//! A delivery service for worlds of tests: in memory, one frame after another, the same for the same frames.
//!
//! It orders nothing by itself. What it keeps lies in a [`Memory`] of `conclave-order`; every request is judged and applied there, and what is
//! only read is read there, as at the real service. Of its own are connections: who logged in, who follows what, and who is told of what
//! became of an operation (`desk.rs`). A document's log ([`log`]) serves worlds without groups too. How it lies is around that ([`Lies`]); what tests look at is in `look.rs`.
//!
//! A clone is a copy of its data: a world that is saved, or a service that is put back.
//!
//! [`Memory`]: conclave_order::memory::Memory

mod desk;
mod document;
mod group;
mod heads;
mod identity;
mod lies;
pub mod log;
mod look;
mod presence;
mod recovery;
mod signing;

use conclave_proto::frame::{ClientFrame, ServiceFrame};
use conclave_proto::group::RootWrap;
use conclave_proto::{GroupId, UnixMs};

use self::desk::Desk;
pub use self::lies::Lies;
pub use self::signing::Signing;

/// The origin that it is reached at.
pub const ORIGIN: &str = "wss://service.test";

/// Names a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Frames that are sent, in their order.
pub type Outgoing = Vec<(ConnId, ServiceFrame)>;

/// The service.
#[derive(Clone, Default)]
pub struct Service {
    desk: Desk,
    /// How it lies.
    pub lies: Lies,
    /// Every wrap that it ever had.
    wraps: Vec<RootWrap>,
}

impl Service {
    /// Somebody connects.
    pub fn connect(&mut self, id: ConnId) {
        self.desk.connect(id);
    }

    /// A connection is gone.
    pub fn disconnect(&mut self, id: ConnId) {
        self.desk.disconnect(id);
    }

    /// All connections are gone.
    pub fn disconnect_all(&mut self) {
        self.desk.disconnect_all();
    }

    /// Takes a frame; gives what it makes the service send, in order.
    pub fn handle(&mut self, conn: ConnId, frame: ClientFrame, now: UnixMs) -> Outgoing {
        self.desk.now = now;
        self.desk.signing.at(now);
        self.desk.is_unfenced = self.lies.unfenced;
        let out = match self.instead(conn, &frame) {
            Some(lie) => lie,
            None => {
                let out = self.desk.handle(conn, frame.clone());
                self.altered(conn, &frame, out)
            }
        };
        self.watch(conn, &frame, &out);
        out
    }

    /// The service goes back to what another one has of a group.
    pub fn take_group(&mut self, group: &GroupId, from: &Self) {
        self.desk.take_group(group, &from.desk);
    }
}

//! The local socket: how other processes of the same user reach the device that one process has open.
//!
//! A Unix socket lies in the store's folder, which only its owner may enter; the socket's own mode is 0600, and each side checks by the
//! operating system's word that the other runs as the same user. Whoever can connect can do all that an [`Operation`] can, as whoever can
//! read the unlocked store could anyway. A connection carries one request: frames are a length (4 bytes, big-endian) and CBOR.

mod client;
pub(crate) mod codec;
mod server;

use std::path::{Path, PathBuf};

use conclave_engine::OperationId;
use serde::{Deserialize, Serialize};

use crate::error::{Error, RemoteError};
use crate::events::Event;
use crate::operation::{Operation, Outcome};
use crate::presence::Attendance;

pub(crate) use client::Told;
pub use client::{LocalClient, LocalEvents};
pub use server::LocalServer;

/// Name of the socket in the store's folder.
pub const SOCKET_NAME: &str = "local.sock";
/// Version of what is spoken on the socket. Both processes are usually one program; where they are not, they notice.
const VERSION: u16 = 3;
/// Largest frame on the socket, in bytes.
pub const LOCAL_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// First frame on a connection. The version comes first and alone decides whether the rest is read.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello {
    version: u16,
    #[serde(default)]
    wants: Wants,
}

/// What a connection is for.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wants {
    /// One operation.
    #[default]
    Operation,
    /// Events, and for as long as they are read an attendance.
    Events(Option<Attendance>),
}

/// What is asked for after the first frame, unless events are.
#[derive(Serialize, Deserialize)]
pub(crate) struct Request {
    /// The same again when it is asked for again: of whoever has the store then.
    pub(crate) id: OperationId,
    /// Whether to answer as soon as it is durable that it will be done.
    pub(crate) begin: bool,
    pub(crate) operation: Operation,
}

/// What the device's process says.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It will be done; the last frame.
    Begun,
    /// This process lets go of the store: whoever has it next, or who asks, goes on with it; the last frame.
    Leaving,
    /// The operation's outcome; the last frame.
    Outcome(Outcome),
    /// The operation, or the request, failed; the last frame.
    Failed(RemoteError),
    /// Events from now on follow.
    Listening,
    /// An event.
    Event(Event),
}

/// A request of this version, as tests want one.
pub(crate) fn hello_sample() -> Hello {
    Hello {
        version: VERSION,
        wants: Wants::Operation,
    }
}

fn socket_path(folder: &Path) -> PathBuf {
    folder.join(SOCKET_NAME)
}

/// A request, as tests want one.
pub(crate) fn request_sample(operation: Operation) -> Request {
    Request {
        id: OperationId([1; 16]),
        begin: false,
        operation,
    }
}

fn local(what: &str, error: &std::io::Error) -> Error {
    Error::Local {
        why: format!("{what}: {error}"),
    }
}

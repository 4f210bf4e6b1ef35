//! Presence of one document: who has it open now, and what each of them shows.
//!
//! A [`Room`] is one device's view of a document's presence on one connection. It is told what comes in and what time it is, and says what to
//! send and what has changed. Nothing of it is stored: with the connection it is gone.
//!
//! # Promises
//! - Nobody is shown who has not proven to be there now: a session's peer has to send back the nonce that this session drew.
//! - No message is taken twice, nor after a later one of its author, whatever session it was sent in.
//! - Every message is bound to its group, document, epoch, author, session, and to the one whom it is for; and it is sealed and signed.
//! - A join costs three messages for each peer; nobody answers to all what concerns one.
//! - What comes in is bounded in bytes and in work: what anybody can make this device keep, sign or send does not grow with what he sends.
//!
//! # Never
//! It does no I/O and reads no clock. It reads nothing of what is shown, and prints nothing of it.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

include!(concat!(env!("OUT_DIR"), "/broken.rs"));

mod beat;
mod message;
mod peers;
mod room;

pub use beat::{Beats, Heard, Pulse};
pub use message::{Refused, open, seal, seal_with_nonce};
pub use room::{Change, Held, Here, Room, StateId, Step, TooLong, View};

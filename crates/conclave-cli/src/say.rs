//! What a person is told: for every code a sentence without words of the protocol, and a next step where there is one.
//!
//! Libraries keep their precise terms; those are shown with `--verbose`, and in JSON. A code without a sentence fails a test.

mod connection;
mod errors;
#[cfg(test)]
mod tests;

use conclave_client::{DeviceEvent, Event};

use crate::output::Form;

pub use connection::trouble;
pub use errors::{Sentence, hint, sentence};

/// What to say when the connection changes, to whoever stays and watches.
pub fn connection_change(event: &Event, form: Form) -> Option<String> {
    match event {
        Event::Device(DeviceEvent::Online) => Some("connected".to_owned()),
        Event::Trouble { trouble: why } => {
            Some(trouble(why, None).to_text("not connected, and trying again: ", form))
        }
        _ => None,
    }
}

/// Why a group takes no part in anything, by the code that the device keeps for it.
pub fn group_state(code: &str) -> &'static str {
    match (code, sentence(code)) {
        ("group.state_lost", _) => "what was stored of it here is damaged",
        ("group.upgrade_needed", _) => "it needs a newer version of this program",
        ("group.creation_refused", _) => "the service refused it when it was created",
        ("group.rejoin_wanted", _) => "you asked for it",
        ("device.restored", _) => "this device was put back from an older copy",
        (_, Some(Sentence::Fixed(text))) => text,
        _ => "this device cannot follow it",
    }
}

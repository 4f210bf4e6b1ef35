//! What is said of a document for which this device stopped waiting.

use conclave_doc::At;
use conclave_proto::DeviceId;

use super::words::named;
use super::{About, Names};
use crate::document::STUCK_SESSIONS;

const AGAIN: &str = "It is tried twice more by itself, with more time each time. If it stays so, close this program and open it again.";

/// Whose record or snapshot it was.
pub(super) fn held_by(at: &At) -> Option<DeviceId> {
    match at {
        At::Record(record) => Some(record.author.device),
        At::Snapshot { author, .. } => author.map(|author| author.device),
        _ => None,
    }
}

/// What happened, who is at fault, and what to do.
pub(super) fn held(
    (at, sessions, may_void): (&At, u32, bool),
    about: About,
    place: &str,
    names: &Names,
) -> (String, String, String) {
    let document = match about {
        About::Document(_, document) => document.to_string(),
        // No other is held.
        About::Group(_) | About::Device => String::new(),
    };
    let happened = format!(
        "{place} took so long to read or to bring up to date that this device stopped waiting. It cannot be used for now; nothing of it is lost."
    );
    let fault = match at {
        At::Elsewhere => "From here it cannot be told what takes so long.".to_owned(),
        At::Records { first, last } => {
            format!("It was at one of the changes number {first} to {last} of its log.")
        }
        At::Record(record) => format!(
            "It was at change number {} of its log, of {} bytes, by {} (device {}), who need not have meant harm.",
            record.seq,
            record.bytes,
            named(
                names.suspect.as_ref(),
                "somebody who is not among your contacts"
            ),
            record.author.device.short(),
        ),
        At::Stored => {
            "It was at the state that is stored here, and at no single change.".to_owned()
        }
        At::Snapshot { seq, author } => {
            let by = author.map_or_else(String::new, |author| {
                let name = named(
                    names.suspect.as_ref(),
                    "somebody who is not among your contacts",
                );
                format!(" by {name} (device {})", author.device.short())
            });
            format!(
                "It was at the short form with number {seq} in its log{by}, and at no single change."
            )
        }
    };
    let again = sessions < STUCK_SESSIONS;
    let remedy = match at {
        _ if again => AGAIN.to_owned(),
        // The next session tells which of them it is.
        At::Records { .. } => AGAIN.to_owned(),
        At::Record(record) if may_void => format!(
            "That was so in {sessions} sessions. As an admin you can make this change count for nobody, so that the document opens again: `conclave doc void {document} --record {}`. That cannot be undone.",
            record.seq
        ),
        At::Record(record) => format!(
            "That was so in {sessions} sessions. An admin of the group can make this change count for nobody, so that the document opens again: ask one to run `conclave doc void {document} --record {}`.",
            record.seq
        ),
        At::Stored => format!(
            "That was so in {sessions} sessions. Export the document on a device where it opens, and import it as a new one."
        ),
        At::Snapshot { .. } => format!(
            "That was so in {sessions} sessions. Where the document opens, edits go on, and the next short form may be another: this device takes that one then. Till then read it on another device, or ask an editor to export it and import it as a new one."
        ),
        At::Elsewhere => format!(
            "That was so in {sessions} sessions. Export the document on another device, and tell whoever runs the program."
        ),
    };
    (happened, fault, remedy)
}

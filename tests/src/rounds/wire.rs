//! What the rounds ask of a device's process, and what it answers: one JSON object a line.

use std::collections::BTreeMap;

use conclave_proto::{Role, UserId};
use serde::{Deserialize, Serialize};

/// A question or an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Ask {
    /// Who are you?
    Contact,
    /// Take this contact text as compared in person.
    Verify {
        /// The text.
        text: String,
    },
    /// Found the group and a document of each kind.
    Found,
    /// Join the group that you are invited to, as soon as you are.
    Join,
    /// Invite a user.
    Invite {
        /// Whom.
        user: UserId,
    },
    /// Remove a user.
    Remove {
        /// Whom.
        user: UserId,
    },
    /// Give a user another role.
    Role {
        /// Whom.
        user: UserId,
        /// Which.
        role: Role,
    },
    /// Begin or stop to edit.
    Edit {
        /// Which.
        on: bool,
    },
    /// How do you stand?
    State,
    /// What do the documents hold, and what was kept apart?
    Texts,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "told")]
pub enum Told {
    /// It is done.
    Done,
    /// Who this device is.
    Contact {
        /// Its user.
        user: UserId,
        /// Contact text.
        text: String,
    },
    /// How this device stands.
    State(State),
    /// What its documents hold.
    Texts {
        /// Texts by kind of document.
        texts: BTreeMap<String, String>,
        /// Lines that were kept apart for this user.
        kept: Vec<String>,
    },
    /// It could not be done.
    Failed {
        /// Code.
        code: String,
        /// For people.
        message: String,
    },
}

/// How a device stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Edits acknowledged since the process began.
    pub acknowledged: u64,
    /// Edits tried since the process began.
    pub tried: u64,
    /// Whether the service is reached.
    pub online: bool,
    /// Whether it is a member that takes and makes edits.
    pub member: bool,
    /// Epoch of the group.
    pub epoch: u64,
    /// Digits that members of one epoch share.
    pub code: String,
    /// Local edits that are not in the log yet.
    pub pending: usize,
    /// Records here, and a digest of the text, by kind of document.
    pub documents: BTreeMap<String, (u64, u64)>,
    /// Findings and returns since the process began, by code.
    pub findings: BTreeMap<String, u64>,
}

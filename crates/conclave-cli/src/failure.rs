//! Failures: a stable code, what happened, what to do next, and the exit code.

use std::path::Path;

use conclave_client::Error;

/// Exit codes, as documented in `conclave --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// Only queued here, or the service was not reached.
    Offline = 3,
    /// Somebody is not verified.
    NotVerified = 4,
    /// Refused by the service or the group's rules.
    Refused = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it should.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Stable code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// How the process ends.
    pub exit: Exit,
}

/// Result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with a next step.
    pub fn new(
        code: &str,
        exit: Exit,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            hint: Some(hint.into()),
            exit,
        }
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new("cli.usage", Exit::Usage, message, hint)
    }

    /// A file that could not be used.
    pub fn file(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot {action} {}: {error}", path.display());
        Self::new(
            "cli.file",
            Exit::Failed,
            message,
            "check the path and its permissions",
        )
    }

    /// Another next step.
    #[must_use]
    pub fn hinted(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = error.code().to_owned();
        Self {
            hint: hint(&code).map(str::to_owned),
            exit: exit(&code),
            message: error.to_string(),
            code,
        }
    }
}

/// Exit code that belongs to an error's stable code.
fn exit(code: &str) -> Exit {
    match code {
        "client.timed_out" | "engine.out_of_step" => Exit::Offline,
        "engine.not_verified" => Exit::NotVerified,
        "engine.forbidden" | "engine.inactive" | "engine.superseded" | "engine.last_owner" => {
            Exit::Refused
        }
        "client.group_lost" | "mls.forbidden" | "mls.not_member" | "mls.leaving" => Exit::Refused,
        "client.endpoint" | "client.argument" => Exit::Usage,
        other if other.starts_with("refused.") => Exit::Refused,
        other if other.starts_with("pin.") || other.starts_with("untrusted.") => Exit::NotVerified,
        _ => Exit::Failed,
    }
}

/// What a person can do about an error, where there is something.
fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "store.missing" => {
            "create one with `conclave init --name NAME`, or name another folder with --home"
        }
        "store.exists" => {
            "this home is set up already; `conclave whoami` shows it, --home names another one"
        }
        "store.in_use" => {
            "another process has this store open and does not answer; end it, or use another --home"
        }
        "store.wrong_secret" => "check the passphrase (or --key-file) and try again",
        "store.secret_kind" => {
            "this store is unlocked by another kind of secret: use --key-file FILE, --keyring, or a passphrase without them"
        }
        "store.keyring" => {
            "unlock the keyring of this system, or use a passphrase or --key-file FILE; `conclave device passphrase` changes what a store opens with"
        }
        "store.keyring_entry" => {
            "open it as the user and on the system that made it; a new device can be approved by your others"
        }
        "store.unknown_schema" | "store.unknown_format" => "update this program",
        "store.permissions" => {
            "only you may read this: run `chmod 600` on the file (700 on a folder)"
        }
        "store.key_file" => "this is no key file; `conclave init --key-file FILE` makes one",
        "store.file" => "check the path and its permissions",
        "store.full" => "make room on the disk and try again",
        "store.refused" => {
            "make room on the disk, or raise the quota or `ulimit -f`, and try again"
        }
        "store.damaged" | "store.row_damaged" | "store.rows_changed" => {
            "restore the home folder from a copy, or make a new device and have it approved"
        }
        "engine.not_enrolled" => {
            "on this device run `conclave device request`, approve its text on another of your devices, then `conclave device finish TEXT`"
        }
        "engine.already_enrolled" => "nothing to do: `conclave whoami` shows this device",
        "engine.no_user_key" => "approve from the device on which the user was created",
        "engine.not_verified" => {
            "exchange contact texts: `conclave whoami` there, `conclave verify TEXT --compared` here"
        }
        "engine.unknown_group" | "client.no_group" => {
            "list groups with `conclave group list`, invitations with `conclave group invitations`"
        }
        "engine.unknown_document" | "client.no_document" => {
            "list documents with `conclave doc list`"
        }
        "engine.unknown_member" => "list members with `conclave group members GROUP`",
        "engine.already_member" => "list members with `conclave group members GROUP`",
        "engine.no_invitation" => {
            "list invitations with `conclave group invitations`; ask the inviter whether it was sent"
        }
        "engine.no_key_packages" => {
            "ask them to run any command that connects, such as `conclave status`, and try again"
        }
        "engine.last_owner" => {
            "make somebody else an owner first: `conclave group role GROUP USER owner`"
        }
        "engine.forbidden" | "mls.forbidden" | "refused.forbidden" => {
            "ask an admin or owner of the group; `conclave group members GROUP` shows who they are"
        }
        "engine.inactive" | "client.group_lost" | "mls.not_member" => {
            "`conclave group list` says why; ask a member to invite you again"
        }
        "engine.superseded" => "look at `conclave group members GROUP` and decide again",
        "engine.clock_skew" | "mls.clock_skew" | "mls.clock_wrong" => {
            "`conclave status` shows by how much this device's clock is off; set it"
        }
        "invitation.group_taken" => {
            "if you do not expect it, decline it: that changes nothing in the group"
        }
        "client.timed_out" => {
            "check the network and --server; it is tried again by the next command, or keep `conclave agent` running"
        }
        "client.endpoint" => "write --server as wss://host or ws://host:port",
        "client.wrong_kind" | "client.no_view" => "`conclave doc list` shows each document's kind",
        "client.local" => "end the process that has the store open, or wait until it is done",
        "refused.rate_limited" => "wait a moment and try again",
        "refused.document_closed" => {
            "the document was put away or deleted; `conclave doc list` shows it"
        }
        "refused.bad_identity" | "refused.unauthenticated" => {
            "the service does not take this device; ask its operator, or use --token"
        }
        "name.empty" | "name.too_long" | "name.control" | "name.untrimmed" => {
            "a name has 1 to 64 visible characters"
        }
        other if other.starts_with("text.") => {
            "copy the whole text, from `conclave:` to its last letter"
        }
        other if other.starts_with("pin.") => {
            "somebody else is known under this name or key: look at `conclave contacts` and ask them in person"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_documented_exits() {
        let cases = [
            ("client.timed_out", 3),
            ("engine.not_verified", 4),
            ("pin.name_taken", 4),
            ("refused.forbidden", 5),
            ("engine.forbidden", 5),
            ("client.endpoint", 2),
            ("store.missing", 1),
            ("anything.else", 1),
        ];
        for (code, number) in cases {
            assert_eq!(exit(code) as u8, number, "{code}");
        }
    }

    #[test]
    fn hints_name_a_next_step() {
        assert!(hint("store.missing").is_some_and(|hint| hint.contains("conclave init")));
        assert!(hint("engine.not_verified").is_some_and(|hint| hint.contains("verify")));
        assert_eq!(hint("anything.else"), None);
    }
}

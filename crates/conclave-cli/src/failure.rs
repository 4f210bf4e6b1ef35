//! Failures: a stable code, what happened, what to do next, and the exit code.

use std::path::Path;

use conclave_client::Error;
use conclave_client::proto::UnixMs;
use serde_json::{Value, json};

use crate::output::Form;
use crate::say::{self, Sentence};

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
    /// Own changes lost their place and are kept apart.
    Rescued = 6,
    /// This home is an older copy of a device that is used elsewhere.
    OtherLife = 7,
    /// Evidence proves that the service signed two histories.
    Fork = 10,
    /// Evidence proves that the service signed a shorter state after a longer one.
    Rollback = 11,
    /// Evidence proves that a device signed two records for one place.
    Equivocation = 12,
    /// A file is not evidence.
    Unreadable = 13,
    /// Evidence proves that the service went on signing in a generation that was over.
    Parallel = 14,
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
    /// The same in the terms of the libraries, for `--verbose` and scripts.
    pub detail: Option<String>,
    /// When what was asked for goes on by itself, where that is known.
    pub until: Option<UnixMs>,
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
            detail: None,
            until: None,
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

    /// What the libraries say.
    #[must_use]
    pub fn detailed(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        let mut object = json!({"code": self.code, "message": self.message, "hint": self.hint, "detail": self.detail});
        if let (Some(until), Value::Object(fields)) = (self.until, &mut object) {
            fields.insert("until".to_owned(), json!(until));
        }
        object
    }

    /// For people: what happened, what to do next, and with `--verbose` what it is called.
    pub fn to_text(&self, before: &str, form: Form) -> String {
        let mut text = format!("{before}{}", self.message);
        if let Some(hint) = self.hint.as_deref().filter(|hint| !hint.is_empty()) {
            text.push_str(&format!("\nhint: {hint}"));
        }
        if form == Form::Verbose {
            let detail = self.detail.as_deref().unwrap_or(&self.message);
            text.push_str(&format!("\ndetail: {}: {detail}", self.code));
        }
        text
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
        let detail = error.to_string();
        Self {
            hint: say::hint(&code).map(str::to_owned),
            exit: exit(&code),
            message: match say::sentence(&code) {
                Some(Sentence::Fixed(text)) => text.to_owned(),
                Some(Sentence::Own) => detail.clone(),
                None => "something failed that this program has no words for".to_owned(),
            },
            detail: Some(detail),
            until: error.until(),
            code,
        }
    }
}

/// Exit code that belongs to an error's stable code.
fn exit(code: &str) -> Exit {
    match code {
        "client.timed_out"
        | "engine.out_of_step"
        | "engine.waits_for_step"
        | "engine.waits_for_clock"
        | "engine.waits_for_pace"
        | "engine.waits_for_recovery"
        | "document.not_here"
        | "pause.on"
        | "refused.recovering" => Exit::Offline,
        "engine.not_verified" => Exit::NotVerified,
        "engine.forbidden"
        | "engine.inactive"
        | "engine.superseded"
        | "engine.last_owner"
        | "document.attribution_off" => Exit::Refused,
        "client.group_lost" | "mls.forbidden" | "mls.not_member" | "mls.leaving" => Exit::Refused,
        "client.endpoint" | "client.argument" | "engine.invalid_policy" => Exit::Usage,
        "engine.rescued" => Exit::Rescued,
        "engine.other_life" | "refused.other_life" => Exit::OtherLife,
        other if other.starts_with("refused.") => Exit::Refused,
        other if other.starts_with("pin.") || other.starts_with("untrusted.") => Exit::NotVerified,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use conclave_client::plain::protocol_word;
    use conclave_client::{Clock, ClockOffset, EngineError};

    use super::*;

    /// What the library says of these holds what a person needs, and nothing of the protocol.
    #[test]
    fn who_invites_and_which_clock_is_wrong_are_named() {
        let inviter = "Ben".to_owned();
        let taken = Failure::from(Error::from(EngineError::GroupTaken { inviter }));
        assert!(taken.message.starts_with("Ben invites to a group"));
        let offset = ClockOffset {
            clock: Clock::Device,
            ahead_ms: -3 * 24 * 3600 * 1000,
            holds_back: true,
        };
        let held = Failure::from(Error::from(EngineError::WaitsForClock { offset }));
        assert!(held.message.contains("3 days slow; set it."));
        let until = UnixMs(1_795_874_520_000);
        let paced = Failure::from(Error::from(EngineError::WaitsForPace { until }));
        assert!(paced.message.contains("not before 28 Nov 2026 14:02 UTC"));
        assert_eq!(paced.to_json()["until"], json!(until));
        assert_eq!(held.to_json().get("until"), None);
        for failure in [taken, held, paced] {
            let hint = failure.hint.unwrap();
            for text in [failure.message, hint] {
                assert_eq!(protocol_word(&text), None, "{text}");
            }
        }
    }

    #[test]
    fn codes_have_the_documented_exits() {
        let cases = [
            ("client.timed_out", 3),
            ("engine.not_verified", 4),
            ("pin.changed", 4),
            ("refused.forbidden", 5),
            ("refused.recovering", 3),
            ("engine.forbidden", 5),
            ("engine.rescued", 6),
            ("engine.other_life", 7),
            ("engine.waits_for_clock", 3),
            ("engine.waits_for_pace", 3),
            ("engine.waits_for_recovery", 3),
            ("client.endpoint", 2),
            ("store.missing", 1),
            ("anything.else", 1),
        ];
        for (code, number) in cases {
            assert_eq!(exit(code) as u8, number, "{code}");
        }
    }
}

//! What cannot be undone is asked first, or needs `--yes`.

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{asked, can_ask};

impl Context {
    /// Asks whether to go on. `what` says in one sentence what will be done and lost.
    ///
    /// # Errors
    /// The answer is no; or nobody can be asked, and `--yes` was not given.
    pub fn confirm(&self, yes: bool, what: &str) -> Result<()> {
        if yes {
            return Ok(());
        }
        if self.global.json || !can_ask() {
            return Err(Failure::new(
                "cli.not_confirmed",
                Exit::Usage,
                what,
                "this cannot be undone; add --yes to do it",
            ));
        }
        let question = format!("{what} This cannot be undone. Go on? [y/N] ");
        // What cannot be read is no yes.
        let answer = asked(&question).unwrap_or_default();
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::new(
                "cli.not_confirmed",
                Exit::Usage,
                "not done",
                "answer y, or add --yes, to do it",
            )),
        }
    }
}

//! `agent`: keeps the store open and in step, and serves other commands.

use conclave_client::Error;

use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, note, print_line};

/// Runs until it is asked to end.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context) -> Result<Shown> {
    let Some(client) = context.session().client() else {
        let message = "another process has this store open already";
        return Err(Failure::new(
            "store.in_use",
            Exit::Failed,
            message,
            "nothing to do: other commands go through it",
        ));
    };
    let interrupted = crate::signals::interrupted();
    let store = context.home.store();
    if context.global.json {
        print_line(&serde_json::json!({"serving": store}).to_string());
    } else {
        note(
            &format!("serving {}; Ctrl-C ends it", store.display()),
            false,
        );
    }
    tokio::select! {
        () = interrupted => Ok(Shown::nothing()),
        error = client.stopped() => match error {
            // Another process asked for it.
            Error::Closed => Ok(Shown::nothing()),
            error => Err(error.into()),
        },
    }
}

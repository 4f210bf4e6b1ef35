//! `agent`: keeps the store open and in step, and serves other commands.

use conclave_client::finding::Notice;
use conclave_client::{Error, Event, FindingInfo};

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
    let mut events = context.session().events().await?;
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
    let told = async {
        while let Some(event) = events.next().await {
            if let Event::Finding(found) = event {
                tell(context, &found);
            }
        }
        // The client stopped: that is said below.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = interrupted => Ok(Shown::nothing()),
        () = told => Ok(Shown::nothing()),
        error = client.stopped() => match error {
            // Another process asked for it.
            Error::Closed => Ok(Shown::nothing()),
            error => Err(error.into()),
        },
    }
}

/// Tells what is new. It stays unseen: perhaps nobody looks at an agent.
fn tell(context: &Context, found: &FindingInfo) {
    if found.notice != Notice::Unseen || found.finding.what.is_note() {
        return;
    }
    match serde_json::to_value(found) {
        Ok(finding) if context.global.json => {
            print_line(&serde_json::json!({ "finding": finding }).to_string());
        }
        _ => note(&format!("finding: {}", found.text), context.global.json),
    }
}

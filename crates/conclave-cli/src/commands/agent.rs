//! `agent`: keeps the store open and in step, and serves other commands.

use conclave_client::finding::Notice;
use conclave_client::{
    Client, Connection, DeviceEvent, Error, Event, Events, FindingInfo, RescueInfo,
};

use crate::context::{Context, Spinner};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, note, print_json};
use crate::rescued::sentence;
use crate::say;

/// Tells what is found wrong, what lost its place, and how the connection is whenever that changes. Ends only with a failure.
async fn tell_all(context: &Context, client: &Client, mut events: Events) -> Result<Shown> {
    // What came before anybody listened.
    let form = context.global.form();
    let mut first = match client.connection() {
        Connection::Connected => Some(DeviceEvent::Online.into()),
        Connection::Trouble { cause, .. } => Some(Event::Trouble { trouble: cause }),
        _ => None,
    };
    let mut untold = client.rescues().await?;
    untold.retain(|info| !info.told);
    tell_rescued(context, client, &untold).await?;
    loop {
        let next = match first.take() {
            Some(event) => Some(event),
            None => events.next().await,
        };
        match next {
            Some(Event::Device(DeviceEvent::Finding(found))) => tell(context, &found)?,
            // It may have been here when all were looked at.
            Some(Event::Device(DeviceEvent::Rescued { rescue })) if untold.contains(&rescue) => {}
            Some(Event::Device(DeviceEvent::Rescued { rescue })) => {
                tell_rescued(context, client, &[rescue]).await?
            }
            Some(event) => {
                if matches!(event, Event::Device(DeviceEvent::Online)) {
                    context.was_answered();
                    // Now: whoever takes the store over needs it, also when this process is killed.
                    context.remember_server()?;
                }
                if let Some(text) = say::connection_change(&event, form) {
                    note(&text, context.global.json);
                }
            }
            // Why it stopped is told by who waits for that.
            None => return std::future::pending().await,
        }
    }
}

/// The store, open in this process: short commands that have it are waited for.
async fn own_store(context: &Context) -> Result<Client> {
    if let Some(client) = context.session().client() {
        return Ok(client);
    }
    let spinner = Spinner::new("waiting for another command to end", context.global.json);
    let here = tokio::time::timeout(context.time_left(), context.session().here()).await;
    drop(spinner);
    match here {
        Ok(client) => Ok(client?),
        Err(_) => Err(Failure::new(
            "store.in_use",
            Exit::Failed,
            "another process has this store open, and goes on",
            "if that is an agent, there is nothing to do: other commands go through it",
        )),
    }
}

/// Runs until it is asked to end.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context) -> Result<Shown> {
    context.tells_as_it_goes();
    let client = own_store(context).await?;
    let interrupted = crate::signals::interrupted();
    let store = context.home.store();
    if context.global.json {
        print_json(&serde_json::json!({"serving": store}))?;
    } else {
        note(
            &format!("serving {}; Ctrl-C ends it", store.display()),
            false,
        );
    }
    let told = tell_all(context, &client, client.events());
    tokio::select! {
        () = interrupted => Ok(Shown::nothing()),
        failed = told => failed,
        error = client.stopped() => match error {
            // Another process asked for it.
            Error::Closed => Ok(Shown::nothing()),
            error => Err(error.into()),
        },
    }
}

/// Tells what is new. It stays unseen: perhaps nobody looks at an agent.
fn tell(context: &Context, found: &FindingInfo) -> Result<()> {
    if found.notice != Notice::Unseen || found.finding.what.is_note() {
        return Ok(());
    }
    match serde_json::to_value(found) {
        // An agent goes on when nobody reads it any more.
        Ok(finding) if context.global.json => {
            print_json(&serde_json::json!({ "finding": finding }))?;
        }
        _ => note(&format!("finding: {}", found.text), context.global.json),
    }
    Ok(())
}

/// Tells of own changes that lost their place. They stay untold, as findings stay unseen.
async fn tell_rescued(context: &Context, client: &Client, told: &[RescueInfo]) -> Result<()> {
    let all = match told {
        [] => return Ok(()),
        _ => client.rescues().await?,
    };
    for info in told {
        match serde_json::to_value(info) {
            Ok(rescue) if context.global.json => {
                print_json(&serde_json::json!({ "rescued": rescue }))?;
            }
            _ => note(&sentence(info, &all), context.global.json),
        }
    }
    Ok(())
}

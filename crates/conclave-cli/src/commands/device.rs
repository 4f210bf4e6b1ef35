//! `device`: enrolling further devices of one user, and what unlocks this one.

use std::time::Duration;

use clap::Subcommand;
use conclave_client::{DeviceInfo, Operation, Outcome, RescueCause};

use crate::context::{Context, Reached, answer};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, columns, counted};
use crate::unlock::{NewSecret, new_secret};

/// How often it is looked whether everything was sent.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the text with which this new device asks to be approved
    Request,
    /// Approve another device of yours, with the text it shows; prints a text for it
    Approve {
        /// Text of the request
        #[arg(value_name = "TEXT")]
        request: String,
    },
    /// Finish this device's enrolment with the text that the approving device printed
    Finish {
        /// Text of the approval
        #[arg(value_name = "TEXT")]
        approval: String,
    },
    /// List your devices
    List,
    /// Go on with this copy of a home that is used in two places, and stop the other
    TakeOver,
    /// Make this copy of a home that is used in two places a device of its own
    BecomeNew,
    /// Change what unlocks this device's store: another passphrase, a key file, or the keyring of this system
    Passphrase(NewSecret),
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::Request => {
            let request =
                answer!(context.run(Operation::DeviceRequest).await?, Outcome::Text(text) => text)?;
            Ok(Shown::new(to_approve(&request), "request", request))
        }
        Command::Approve { request } => approve(context, &request).await,
        Command::Finish { approval } => finish(context, &approval).await,
        Command::List => list(context).await,
        Command::TakeOver => take_over(context).await,
        Command::BecomeNew => become_new(context).await,
        Command::Passphrase(new) => passphrase(context, &new).await,
    }
}

/// What is to be done with a request.
fn to_approve(request: &str) -> String {
    format!("On a device that is enrolled already:\n  conclave device approve {request}")
}

async fn become_new(context: &Context) -> Result<Shown> {
    let outcome = context.run(Operation::BecomeNew).await?;
    let request = answer!(outcome, Outcome::Text(text) => text)?;
    let rescues = answer!(context.run(Operation::Rescues).await?, Outcome::Rescues(all) => all)?;
    let copied = rescues
        .iter()
        .filter(|it| it.cause == RescueCause::OtherCopy);
    let kept = copied.count();
    let mut text =
        "this home is a device of its own now, and out of all groups until it is approved and added again"
            .to_owned();
    if kept > 0 {
        text.push_str(&format!(
            "\nwhat was not sent from here is kept ({}), as the other copy may have sent it: `conclave rescue list`",
            counted(kept, "document")
        ));
    }
    text.push('\n');
    text.push_str(&to_approve(&request));
    let shown = Shown::new(text, "request", request);
    Ok(shown.with("rescues", kept))
}

async fn approve(context: &Context, request: &str) -> Result<Shown> {
    let operation = Operation::ApproveDevice {
        request: joined(request),
    };
    let approval = answer!(context.run(operation).await?, Outcome::Text(text) => text)?;
    // The new device can log in only once the service has the list that names it.
    let reached = context.catch_up().await?;
    let text = format!("approved. On the new device:\n  conclave device finish {approval}");
    Ok(Shown::new(text, "approval", approval).queued(reached.is_queued()))
}

async fn finish(context: &Context, approval: &str) -> Result<Shown> {
    context
        .run(Operation::FinishDevice {
            approval: joined(approval),
        })
        .await?;
    let who = answer!(context.run(Operation::WhoAmI).await?, Outcome::WhoAmI(who) => who)?;
    let reached = context.catch_up().await?;
    let text = format!(
        "this is now a device of {}; it joins the groups of your other devices by itself",
        who.name
    );
    Ok(Shown::new(text, "user", who.user)
        .with("device", who.device)
        .with("name", who.name)
        .queued(reached.is_queued()))
}

async fn list(context: &Context) -> Result<Shown> {
    let devices =
        answer!(context.run(Operation::Devices).await?, Outcome::Devices(devices) => devices)?;
    let row = |device: &DeviceInfo| {
        let here = if device.this { "this device" } else { "" };
        vec![device.device.to_string(), here.to_owned()]
    };
    let text = columns(&devices.iter().map(row).collect::<Vec<_>>());
    Ok(Shown::new(text, "devices", devices))
}

async fn take_over(context: &Context) -> Result<Shown> {
    let limit_ms = u64::try_from(context.time_left().as_millis()).ok();
    let outcome = context.run(Operation::TakeOver { limit_ms }).await?;
    let connection = answer!(outcome, Outcome::Connection(connection) => connection)?;
    let reached = context.note_connection(&connection).await?;
    if reached == Reached::Yes {
        context.catch_up().await?;
        // It has to come back into groups in which the other copy has written, before it sends anything there.
        let status = loop {
            let status = context.run(Operation::Status).await?;
            let status = answer!(status, Outcome::Status(status) => status)?;
            if status.pending == 0 || context.time_left().is_zero() {
                break status;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        };
        let mut text =
            "this copy goes on; any other is told so, and keeps what was not sent from there"
                .to_owned();
        if status.pending > 0 {
            let edits = counted(status.pending, "edit");
            text.push_str(&format!(
                "\n{edits} made here: sent by the next command or agent that connects"
            ));
        }
        let shown = Shown::new(text, "taken_over", true);
        return Ok(shown.with("pending", status.pending));
    }
    context.note_stale_and(reached, "");
    let text =
        "remembered: this copy goes on, and any other stops, as soon as the service is reached";
    Ok(Shown::new(text, "taken_over", false).exit(Exit::Offline))
}

async fn passphrase(context: &Context, new: &NewSecret) -> Result<Shown> {
    // A secret does not travel to another process.
    let Some(client) = context.session().client() else {
        return Err(Failure::new(
            "cli.store_elsewhere",
            Exit::Failed,
            "another process has this store open",
            "end `conclave agent` (or whichever it is), then try again",
        ));
    };
    let (unlock, name) = new_secret(new)?;
    client.change_secret(unlock).await?;
    let text = format!("this store opens with {name} from now on, and no more with what opened it");
    Ok(Shown::new(text, "opens_with", name))
}

/// Texts get blanks and line ends when they are copied.
fn joined(text: &str) -> String {
    text.split_whitespace().collect()
}

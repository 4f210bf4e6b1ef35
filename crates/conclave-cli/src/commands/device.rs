//! `device`: enrolling further devices of one user, and what unlocks this one.

use clap::Subcommand;
use conclave_client::{DeviceInfo, Operation, Outcome};

use crate::context::{Context, answer};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, columns};
use crate::unlock::{NewSecret, new_secret};

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
            let text = format!(
                "On a device that is enrolled already:\n  conclave device approve {request}"
            );
            Ok(Shown::new(text, "request", request))
        }
        Command::Approve { request } => approve(context, &request).await,
        Command::Finish { approval } => finish(context, &approval).await,
        Command::List => list(context).await,
        Command::Passphrase(new) => passphrase(context, &new).await,
    }
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

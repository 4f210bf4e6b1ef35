//! `device`: enrolling further devices of one user, what they are called, and what unlocks this one.

use std::time::Duration;

use clap::{Args, Subcommand};
use conclave_client::finding::date;
use conclave_client::{Approval, DeviceInfo, Operation, Outcome, RequestInfo, RescueCause};

use super::{pause, revoke};
use crate::context::{Context, Reached, answer};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, asked, can_ask, columns, counted};
use crate::unlock::{NewSecret, new_secret};

/// How often it is looked whether everything was sent.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the text and the code with which this new device asks to be approved
    Request,
    /// Approve another device of yours, with the text and the code it shows; prints a text for it
    Approve(Approve),
    /// Finish this device's enrolment with the text that the approving device printed
    Finish {
        /// Text of the approval
        #[arg(value_name = "TEXT")]
        approval: String,
    },
    /// List your devices: what they are called here, when something of them last came here, and which can approve and take away others
    List,
    /// Call one of your devices otherwise, on this device
    Rename {
        /// The device: its name here, its id, or the beginning of that
        device: String,
        /// The new name
        name: String,
    },
    /// Take a device of yours away, because it is lost or not yours any more: out of every group, and every document under new keys
    Revoke {
        /// The device: its name here, its id, or the beginning of that
        device: String,
    },
    /// Say that a device which came onto your list is yours, after one that can approve devices was taken away
    Confirm {
        /// The device: its name here, its id, or the beginning of that
        device: String,
    },
    /// Keep what you write in all documents on this device, and what others write away from it, until it is resumed
    Pause {
        /// Which way; without an option both
        #[command(flatten)]
        way: pause::Way,
    },
    /// End a pause of all documents: what others wrote comes in, then what you wrote goes out
    Resume {
        /// Which way; without an option both
        #[command(flatten)]
        way: pause::Way,
    },
    /// Go on with this copy of a home that is used in two places, and stop the other
    TakeOver,
    /// Make this copy of a home that is used in two places a device of its own
    BecomeNew,
    /// Change what unlocks this device's store: another passphrase, a key file, or the keyring of this system
    Passphrase(NewSecret),
}

/// What approves a device.
#[derive(Debug, Args)]
pub struct Approve {
    /// Text of the request
    #[arg(value_name = "TEXT")]
    request: String,
    /// The code that the new device shows: thirty digits; asked for where it is not given
    #[arg(long, value_name = "DIGITS")]
    code: Option<String>,
    /// The new device can approve and take away devices too; so it is with your second one, if nothing else is said
    #[arg(long, conflicts_with = "no_user_key")]
    user_key: bool,
    /// The new device can approve and take away no device
    #[arg(long)]
    no_user_key: bool,
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::Request => {
            let outcome = context.run(Operation::DeviceRequest).await?;
            let request = answer!(outcome, Outcome::Request(request) => request)?;
            Ok(
                Shown::new(to_approve(&request), "request", request.text)
                    .with("code", request.code),
            )
        }
        Command::Approve(args) => approve(context, &args).await,
        Command::Finish { approval } => finish(context, &approval).await,
        Command::List => list(context).await,
        Command::Rename { device, name } => rename(context, &device, name).await,
        Command::Revoke { device } => revoke::revoke(context, &device).await,
        Command::Confirm { device } => confirm(context, &device).await,
        Command::Pause { way } => pause::device(context, true, way).await,
        Command::Resume { way } => pause::device(context, false, way).await,
        Command::TakeOver => take_over(context).await,
        Command::BecomeNew => become_new(context).await,
        Command::Passphrase(new) => passphrase(context, &new).await,
    }
}

/// What is to be done with a request.
fn to_approve(request: &RequestInfo) -> String {
    format!(
        "On a device that is enrolled already:\n  conclave device approve {}\nand type in there the code of this device:\n  {}",
        request.text, request.code
    )
}

async fn become_new(context: &Context) -> Result<Shown> {
    let outcome = context.run(Operation::BecomeNew).await?;
    let request = answer!(outcome, Outcome::Request(request) => request)?;
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
    let shown = Shown::new(text, "request", request.text).with("code", request.code);
    Ok(shown.with("rescues", kept))
}

async fn approve(context: &Context, args: &Approve) -> Result<Shown> {
    let code = match &args.code {
        Some(code) => code.clone(),
        None if can_ask() => asked("Code that the new device shows: ").map_err(|error| {
            Failure::usage(
                format!("the code could not be read: {error}"),
                "give it with --code DIGITS",
            )
        })?,
        None => {
            return Err(Failure::usage(
                "the code that the new device shows is needed: whoever could replace the text would otherwise get a device of yours",
                "read it there (`conclave device request`) and give it with --code DIGITS",
            ));
        }
    };
    let user_key = match (args.user_key, args.no_user_key) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let approval = Operation::ApproveDevice(Approval {
        request: joined(&args.request),
        code,
        user_key,
    });
    let before = context.devices().await?;
    let approval = answer!(context.run(approval).await?, Outcome::Text(text) => text)?;
    let devices = context.devices().await?;
    let is_new = |it: &&DeviceInfo| before.iter().all(|other| other.device != it.device);
    let new = devices.iter().find(is_new);
    // The new device can log in only once the service has the list that names it.
    let reached = context.catch_up().await?;
    let mut text = format!("approved. On the new device:\n  conclave device finish {approval}");
    let user_key = new.and_then(|it| it.holds_user_key);
    if user_key == Some(true) {
        text.push_str(
            "\nit can approve and take away devices too, so that losing this one is not the end",
        );
    }
    Ok(Shown::new(text, "approval", approval)
        .with("device", new.map(|it| it.device))
        .with("user_key", user_key)
        .queued(reached.is_queued()))
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
    let devices = context.devices().await?;
    let row = |device: &DeviceInfo| {
        let seen = match (device.this, device.seen) {
            (true, _) => "this device".to_owned(),
            (false, Some(at)) => format!("last heard from {}", date(at)),
            (false, None) => "not heard from since it is known here".to_owned(),
        };
        let mut notes = Vec::new();
        notes.extend((device.holds_user_key == Some(true)).then_some("can approve and take away"));
        notes.extend((!device.confirmed).then_some("not confirmed: in no group of yours"));
        let name = device.name.clone().unwrap_or_default();
        vec![device.device.to_string(), name, seen, notes.join("; ")]
    };
    let text = columns(&devices.iter().map(row).collect::<Vec<_>>());
    Ok(Shown::new(text, "devices", devices))
}

async fn rename(context: &Context, device: &str, name: String) -> Result<Shown> {
    let device = context.find_device(device, false).await?;
    let text = format!("device {} is called {name} here", device.short());
    context
        .run(Operation::RenameDevice { device, name })
        .await?;
    Ok(Shown::new(text, "device", device))
}

async fn confirm(context: &Context, device: &str) -> Result<Shown> {
    let device = context.find_device(device, false).await?;
    context.run(Operation::ConfirmDevice { device }).await?;
    let text = format!(
        "device {} is yours: it is added to your groups as others are",
        device.short()
    );
    Ok(Shown::new(text, "device", device))
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

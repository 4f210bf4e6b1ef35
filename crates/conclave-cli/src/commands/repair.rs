//! `group` commands for devices and groups that need help.

use clap::Subcommand;
use conclave_client::proto::{DeviceId, GroupId};
use conclave_client::{EvidenceInfo, Operation, Outcome};

use crate::context::{Context, answer};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, columns};
use crate::say;
use crate::target::Target;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make this device come back into a group, whatever it still holds of it
    Rejoin {
        /// The group: its id, or its name where that is known here
        group: String,
    },
    /// Say that you compared the group's code with another member: a device that came back blindly may write again
    Confirm {
        /// The group
        group: String,
    },
    /// Add a member's device again that cannot come back by itself
    Readd {
        /// The group
        group: String,
        /// The member
        user: String,
        /// The device's id
        device: DeviceId,
    },
    /// Found a frozen group anew, with its documents, roles and verified members
    Restart {
        /// The group
        group: String,
    },
    /// Show which entries of the group's history this device had to refuse, and who signed them
    Evidence {
        /// The group
        group: String,
    },
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::Rejoin { group } => rejoin(context, &group).await,
        Command::Confirm { group } => confirm(context, &group).await,
        Command::Readd {
            group,
            user,
            device,
        } => readd(context, &group, &user, device).await,
        Command::Restart { group } => restart(context, &group).await,
        Command::Evidence { group } => evidence(context, &group).await,
    }
}

/// A group that this store does not know can be named by its whole id.
async fn find(context: &Context, typed: &str) -> Result<GroupId> {
    match context.find_group(typed).await {
        Ok(info) => Ok(info.group),
        Err(failure) => typed.parse().map_err(|_| failure),
    }
}

async fn rejoin(context: &Context, typed: &str) -> Result<Shown> {
    let group = find(context, typed).await?;
    context.run(Operation::Rejoin { group }).await?;
    let reached = context.connect().await?;
    let text = "coming back; `conclave group list` shows when it is done";
    let target = context.group_target(group).await?;
    Ok(Shown::new(text, "group", group)
        .to(target)
        .queued(reached.is_queued()))
}

async fn confirm(context: &Context, typed: &str) -> Result<Shown> {
    let info = context.find_group(typed).await?;
    context
        .run(Operation::ConfirmGroup { group: info.group })
        .await?;
    let text = format!("confirmed: the group code is {}", info.code);
    let target = Target::group(&info);
    Ok(Shown::new(text, "group", info.group)
        .to(target)
        .with("code", info.code))
}

async fn readd(context: &Context, group: &str, user: &str, device: DeviceId) -> Result<Shown> {
    let group = context.find_group(group).await?.group;
    let id = context.find_member(group, user).await?;
    let operation = Operation::ReAdd {
        group,
        user: id,
        device,
    };
    let done = context.run_ordered(operation, "adding the device").await?;
    let text = match done {
        Some(_) => format!("the device of {user} is a member again"),
        None => format!("adding the device of {user} again is remembered"),
    };
    let target = context.member_target(group, id).await?;
    Ok(Shown::new(text, "group", group)
        .to(target)
        .with("device", device)
        .queued(done.is_none()))
}

async fn restart(context: &Context, typed: &str) -> Result<Shown> {
    let old = context.find_group(typed).await?;
    if old.frozen.is_none() {
        return Err(Failure::new(
            "cli.group_not_frozen",
            Exit::Refused,
            "this group is not frozen: nothing needs founding anew",
            "`conclave group list` shows which groups are",
        ));
    }
    let operation = Operation::RestartGroup { group: old.group };
    let group = answer!(context.run(operation).await?, Outcome::Group(group) => group)?;
    let reached = context.connect().await?;
    let text = format!("founded anew; its verified members are invited\n{group}");
    // The new one has the old one's name; what was named is the old one.
    let target = Target::group(&old);
    Ok(Shown::new(text, "parent", old.group)
        .to(target)
        .with("group", group)
        .queued(reached.is_queued()))
}

async fn evidence(context: &Context, typed: &str) -> Result<Shown> {
    let group = context.find_group(typed).await?.group;
    let operation = Operation::Evidence { group };
    let list = answer!(context.run(operation).await?, Outcome::Evidence(list) => list)?;
    let row = |item: &EvidenceInfo| {
        let signer = match &item.signer {
            Some(device) => format!("signed by device {}", device.short()),
            None => "signer unknown".to_owned(),
        };
        vec![
            format!("entry {}", item.seq),
            say::group_state(&item.code).to_owned(),
            signer,
        ]
    };
    let text = match list.is_empty() {
        true => "nothing had to be refused".to_owned(),
        false => columns(&list.iter().map(row).collect::<Vec<_>>()),
    };
    Ok(Shown::new(text, "evidence", list).with("group", group))
}

//! `group`: groups, invitations, members.

use std::time::Duration;

use clap::Subcommand;
use conclave_client::finding::date;
use conclave_client::proto::policy::Pinned;
use conclave_client::proto::{DocumentId, GroupId, GroupPolicy, Role, UnixMs, UserId};
use conclave_client::{
    DeviceEvent, Event, GroupInfo, InvitationInfo, MemberInfo, NotRekeyedWhy, Operation, Outcome,
    RekeyingInfo,
};

use crate::context::{Context, Spinner, answer};
use crate::failure::{Failure, Result};
use crate::names::{Named, find};
use crate::output::{Shown, columns, counted};
use crate::say;
use crate::target::Target;

/// How long another member, if one is connected, may take to complete a leave.
const COMPLETION: Duration = Duration::from_secs(3);

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a group; you become its owner
    Create {
        /// Its name; the service does not see it
        name: String,
    },
    /// List your groups
    List,
    /// Give a group another name, for all its members
    Rename {
        /// The group
        group: String,
        /// Its new name; the service does not see it
        name: String,
    },
    /// Invite a known contact, with all their devices
    Invite {
        /// The group
        group: String,
        /// The contact
        user: String,
        /// viewer, editor, admin or owner [default: editor]
        #[arg(long, value_name = "ROLE")]
        role: Option<Role>,
    },
    /// List invitations that wait for your answer
    Invitations,
    /// Join a group to which you are invited
    Accept {
        /// The group's id, or who invites
        group: String,
    },
    /// Decline an invitation
    Decline {
        /// The group's id, or who invites
        group: String,
    },
    /// List the members of a group
    Members {
        /// The group
        group: String,
    },
    /// Remove a user with all their devices, and wait until every document has a new key
    Remove {
        /// The group
        group: String,
        /// The member
        user: String,
        /// Also where their devices hold the only keys of some documents, which are lost then
        #[arg(long)]
        anyway: bool,
        /// Do not ask, where it is yourself
        #[arg(long)]
        yes: bool,
    },
    /// Leave a group with all your devices
    Leave {
        /// The group
        group: String,
        /// Also where your devices hold the only keys of some documents, which are lost then
        #[arg(long)]
        anyway: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Change a member's role
    Role {
        /// The group
        group: String,
        /// The member
        user: String,
        /// viewer, editor, admin or owner
        role: Role,
        /// Do not ask, where you lower your own role
        #[arg(long)]
        yes: bool,
    },
    /// Show or change the rules of a group
    #[command(subcommand)]
    Policy(super::policy::Command),
    /// Help for devices and groups in trouble.
    #[command(flatten)]
    Repair(super::repair::Command),
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::Create { name } => create(context, &name).await,
        Command::List => list(context).await,
        Command::Rename { group, name } => rename(context, &group, &name).await,
        Command::Invite { group, user, role } => invite(context, &group, &user, role).await,
        Command::Invitations => invitations(context).await,
        Command::Accept { group } => accept(context, &group).await,
        Command::Decline { group } => decline(context, &group).await,
        Command::Members { group } => members(context, &group).await,
        Command::Remove {
            group,
            user,
            anyway,
            yes,
        } => remove(context, &group, &user, anyway, yes).await,
        Command::Leave { group, anyway, yes } => leave(context, &group, anyway, yes).await,
        Command::Policy(command) => super::policy::run(context, command).await,
        Command::Repair(command) => super::repair::run(context, command).await,
        Command::Role {
            group,
            user,
            role,
            yes,
        } => set_role(context, &group, &user, role, yes).await,
    }
}

async fn rename(context: &Context, group: &str, name: &str) -> Result<Shown> {
    let group = context.find_group(group).await?.group;
    let operation = Operation::RenameGroup {
        group,
        name: name.to_owned(),
    };
    context.run(operation).await?;
    let reached = context.refresh(group).await?;
    let text = format!("group {} is called {name}", group.short());
    let shown = Shown::new(text, "group", group).with("name", name);
    Ok(shown.queued(reached.is_queued()))
}

async fn create(context: &Context, name: &str) -> Result<Shown> {
    let operation = Operation::CreateGroup {
        name: name.to_owned(),
        policy: Box::new(GroupPolicy::default()),
    };
    let group = answer!(context.run(operation).await?, Outcome::Group(group) => group)?;
    let reached = context
        .sync(group, DocumentId::directory(&group), "creating the group")
        .await?;
    let text = format!("created group {name}\n{group}");
    Ok(Shown::new(text, "group", group)
        .with("name", name)
        .queued(reached.is_queued()))
}

async fn list(context: &Context) -> Result<Shown> {
    context.touch_all();
    let reached = context.catch_up().await?;
    let groups = context.groups().await?;
    context.note_stale(reached.with(&groups));
    context.note_ailing(&groups);
    let text = match groups.is_empty() {
        true => {
            "no groups: `conclave group create NAME`, or `conclave group invitations`".to_owned()
        }
        false => columns(&groups.iter().map(row).collect::<Vec<_>>()),
    };
    Ok(Shown::new(text, "groups", groups))
}

fn row(group: &GroupInfo) -> Vec<String> {
    if !group.active && group.returning.is_none() {
        let name = group.name.clone().unwrap_or_default();
        let why = group.frozen.clone().unwrap_or_else(|| "left".to_owned());
        return vec![group.group.short(), name, why];
    }
    let state = match (&group.frozen, &group.returning, group.rotating_since) {
        (Some(code), ..) => format!("frozen: {}", say::group_state(code)),
        (_, Some(code), _) => format!("on its way back: {}", say::group_state(code)),
        _ if group.leaving => "leaving: another member completes it".to_owned(),
        _ if group.nameless => "its names cannot be read".to_owned(),
        _ if group.unproven => {
            "came back: compare the code, then `conclave group confirm`".to_owned()
        }
        (.., Some(_)) => "changing the keys of its documents".to_owned(),
        _ => silent_since(group).map_or_else(
            || "active".to_owned(),
            |since| format!("active; nobody heard since {}", date(since)),
        ),
    };
    let name = group
        .name
        .clone()
        .unwrap_or_else(|| "(name not here yet)".to_owned());
    let size = format!(
        "{}, {}",
        counted(group.users, "user"),
        counted(group.devices, "device")
    );
    vec![group.group.short(), name, size, state]
}

/// Since when nothing was heard of any other member's device, where that is long enough to be told: nobody is there, or the service lets nothing pass.
fn silent_since(group: &GroupInfo) -> Option<UnixMs> {
    const LONG_MS: u64 = 10 * 60 * 1000;
    let since = group.heard.or(group.listens)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now
        .ok()
        .and_then(|now| u64::try_from(now.as_millis()).ok())?;
    (UnixMs(now).since_ms(since) >= LONG_MS).then_some(since)
}

async fn invite(context: &Context, group: &str, user: &str, role: Option<Role>) -> Result<Shown> {
    let group = context.find_group(group).await?;
    let id = context.find_contact(user).await?;
    let operation = Operation::Invite {
        group: group.group,
        user: id,
        role,
    };
    let mut events = context.session().events().await?;
    let waits = async {
        loop {
            match events.next().await {
                Some(Event::Device(DeviceEvent::InvitationWaits { group: of, user }))
                    if (of, user) == (group.group, id) =>
                {
                    return;
                }
                Some(Event::Stopped { .. }) | None => std::future::pending().await,
                Some(_) => {}
            }
        }
    };
    let done = tokio::select! {
        done = context.run_ordered(operation, "inviting") => done?,
        () = waits => {
            let text = format!(
                "{user} has no device that can be added now: the invitation waits until one connects, and goes on by itself when this device is connected then"
            );
            let target = context.member_target(group.group, id).await?;
            return Ok(Shown::new(text, "waits", true)
                .to(target)
                .queued(true));
        }
    };
    let first_use = on_first_use(context, group.group, id).await?;
    let mut text = match done {
        Some(_) => format!(
            "{user} is a member now; they accept with `conclave group accept {}`",
            group.group.short()
        ),
        None => format!("the invitation of {user} is remembered"),
    };
    if first_use {
        text.push_str(&format!(
            "\n{user} is not verified: you compared no safety number, and the rules of this group allow that (trust on first use); compare it, then `conclave verify TEXT --compared`"
        ));
    }
    let target = context.member_target(group.group, id).await?;
    Ok(Shown::new(text, "first_use", first_use)
        .to(target)
        .queued(done.is_none()))
}

/// Whether somebody is let in whom this user has not verified, since the group's rules allow it.
async fn on_first_use(context: &Context, group: GroupId, user: UserId) -> Result<bool> {
    let contacts = context.contacts().await?;
    let verified = contacts.iter().any(|pin| pin.user == user && pin.verified);
    Ok(!verified && lets_in_known(context, group).await?)
}

/// Whether a group's rules let in people whom nobody verified.
async fn lets_in_known(context: &Context, group: GroupId) -> Result<bool> {
    let policy = super::policy::policy(context, group).await?;
    Ok(policy.trust.pinned == Pinned::FirstUse)
}

/// Invitations: those that had been sent when the device connected, as many as are kept.
async fn waiting_invitations(context: &Context) -> Result<Vec<InvitationInfo>> {
    context.need_server()?;
    let reached = context.catch_up().await?;
    context.note_stale(reached);
    answer!(context.run(Operation::Invitations).await?, Outcome::Invitations(list) => list)
}

async fn invitations(context: &Context) -> Result<Shown> {
    let list = waiting_invitations(context).await?;
    let row = |invitation: &InvitationInfo| {
        let inviter = invitation
            .inviter_name
            .clone()
            .unwrap_or_else(|| invitation.inviter.short());
        vec![
            invitation.group.short(),
            match invitation.inviter_verified {
                true => format!("from {inviter}"),
                false => format!("from {inviter}, whom you have not verified"),
            },
            counted(invitation.users, "user"),
        ]
    };
    let status = answer!(context.run(Operation::Status).await?, Outcome::Status(status) => status)?;
    let mut text = match list.is_empty() {
        true => "no invitation is waiting".to_owned(),
        false => columns(&list.iter().map(row).collect::<Vec<_>>()),
    };
    let more = status.more_invitations;
    if more > 0 {
        text.push_str(&format!(
            "\n{more} more at the service: they come in as these are answered; a few are kept of people who are not verified here"
        ));
    }
    Ok(Shown::new(text, "invitations", list).with("more", more))
}

async fn find_invitation(context: &Context, typed: &str) -> Result<GroupId> {
    // By the group's id, or by who invites.
    let named = |invitation: InvitationInfo| {
        let of = |id: String, name| Named {
            value: invitation.group,
            id,
            within: None,
            name,
        };
        let by_group = of(
            invitation.group.to_string(),
            invitation.inviter_name.clone(),
        );
        [by_group, of(invitation.inviter.to_string(), None)]
    };
    let list: Vec<_> = waiting_invitations(context)
        .await?
        .into_iter()
        .flat_map(named)
        .collect();
    find("invitation", typed, &list, "conclave group invitations")
}

async fn accept(context: &Context, typed: &str) -> Result<Shown> {
    let group = find_invitation(context, typed).await?;
    let done = context
        .run_ordered(Operation::Accept { group }, "joining")
        .await?;
    let reached = context.refresh(group).await?;
    let name = context
        .groups()
        .await?
        .into_iter()
        .find(|info| info.group == group)
        .and_then(|info| info.name);
    let text = format!("joined {}\n{group}", name.as_deref().unwrap_or("the group"));
    Ok(Shown::new(text, "group", group)
        .with("name", name)
        .queued(done.is_none() || reached.is_queued()))
}

async fn decline(context: &Context, typed: &str) -> Result<Shown> {
    let group = find_invitation(context, typed).await?;
    let done = context
        .run_ordered(Operation::Decline { group }, "declining")
        .await?;
    let text = format!("declined the invitation to group {}", group.short());
    Ok(Shown::new(text, "group", group).queued(done.is_none()))
}

async fn members(context: &Context, group: &str) -> Result<Shown> {
    let group = context.find_group(group).await?;
    // Also what waits here and changes who they are.
    context.catch_up().await?;
    let reached = context.refresh(group.group).await?;
    context.note_stale(reached);
    let members = context.members(group.group).await?;
    let row = |member: &MemberInfo| {
        let name = member
            .name
            .clone()
            .unwrap_or_else(|| "(unknown)".to_owned());
        let state = match (member.this, member.verified) {
            (true, _) => "you",
            (_, true) => "verified",
            _ => "not verified",
        };
        let devices = counted(member.devices.len(), "device");
        vec![
            member.user.short(),
            name,
            member.role.to_string(),
            devices,
            state.to_owned(),
        ]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    let info = context
        .groups()
        .await?
        .into_iter()
        .find(|info| info.group == group.group);
    let code = info.map(|info| info.code).unwrap_or_default();
    let mut text = format!(
        "{}\n\ngroup code, the same for every member: {code}",
        columns(&rows)
    );
    let first_use = group.active && lets_in_known(context, group.group).await?;
    if first_use {
        text.push_str("\nmembers may let in people whom they have not verified (trust on first use): `conclave group policy set GROUP --let-in verified` ends that");
    }
    Ok(Shown::new(text, "members", members)
        .with("first_use", first_use)
        .with("group", group.group)
        .with("code", code))
}

async fn remove(
    context: &Context,
    group: &str,
    user: &str,
    anyway: bool,
    yes: bool,
) -> Result<Shown> {
    let found = context.find_group(group).await?;
    let group = found.group;
    let id = context.find_member(group, user).await?;
    if me(context, group).await?.is_some_and(|me| me.user == id) {
        confirm_leaving(context, &found, yes).await?;
    }
    let target = context.member_target(group, id).await?;
    let operation = Operation::Remove {
        group,
        user: id,
        anyway,
    };
    let progress = Spinner::new("removing", context.global.json);
    let done = tokio::select! {
        done = context.run_quietly_ordered(operation) => done?,
        failure = show_rotation(context, group, &progress) => return Err(failure),
    };
    drop(progress);
    let shown = match done {
        Some(Outcome::Removed {
            epoch,
            documents,
            lost,
            elapsed_ms,
        }) => {
            let seconds = elapsed_ms as f64 / 1000.0;
            let mut text = format!(
                "removed {user}: {} under new keys after {seconds:.1} s",
                counted(documents, "document")
            );
            for document in &lost {
                text.push_str(&format!(
                    "\n  not document {}: it was closed as lost",
                    document.short()
                ));
            }
            Shown::new(text, "epoch", epoch)
                .with("documents", documents)
                .with("lost", lost)
                .with("elapsed_ms", elapsed_ms)
        }
        Some(_) => Shown::new(format!("removed {user}"), "epoch", None::<u64>),
        None if is_out(context, group, &id).await? => {
            context.has_it();
            let info = context.rekeying(group).await?;
            let mut text = format!(
                "removed {user}: what is written from now on opens for them no more; {} of {} under new keys, which goes on while a device of an editor is connected; `conclave group list` shows how far it is",
                info.done,
                counted(info.total, "document")
            );
            text.push_str(&hindrances(context, group, &info).await?);
            return Ok(Shown::new(text, "epoch", None::<u64>)
                .to(target)
                .with("completed", false)
                .with("rekeying", info)
                .queued(false));
        }
        None => {
            let text = format!(
                "the removal of {user} goes on in the background; `conclave group list` shows how far it is"
            );
            return Ok(Shown::new(text, "epoch", None::<u64>)
                .to(target)
                .queued(true));
        }
    };
    Ok(shown.to(target).queued(false))
}

/// Which documents could not be put under new keys so far, and why: a line for each.
async fn hindrances(context: &Context, group: GroupId, info: &RekeyingInfo) -> Result<String> {
    let mut text = String::new();
    if info.stuck.is_empty() {
        return Ok(text);
    }
    let documents = context.documents(group).await?;
    for stuck in &info.stuck {
        let known = documents.iter().find(|it| it.document == stuck.document);
        let title = known.and_then(|it| it.title.clone());
        let title = title.unwrap_or_else(|| format!("document {}", stuck.document.short()));
        let why = match &stuck.why {
            NotRekeyedWhy::NoKey { .. } => {
                "its keys are not here: it waits for a member who has them"
            }
            NotRekeyedWhy::Unreadable { .. } => {
                "what is in it cannot be read here; where nobody can read it, an admin can close it as lost"
            }
            NotRekeyedWhy::Held => "reading it takes too long here",
            NotRekeyedWhy::SetAside => {
                "changes in it cannot be opened: they wait for their keys, or for an admin who declares them void"
            }
            NotRekeyedWhy::Away => "the service shows another state of it",
            _ => "the service does not take it for now: it is tried again",
        };
        text.push_str(&format!("\n  {title}: {why}"));
    }
    Ok(text)
}

/// Whether the group's log has it that a user is no member any more.
async fn is_out(context: &Context, group: GroupId, user: &UserId) -> Result<bool> {
    let members = context.members(group).await?;
    Ok(members.iter().all(|member| member.user != *user))
}

/// Shows how far re-keying is. Ends only with a failure.
async fn show_rotation(context: &Context, group: GroupId, progress: &Spinner) -> Failure {
    let mut events = match context.session().events().await {
        Ok(events) => events,
        Err(error) => return error.into(),
    };
    loop {
        match events.next().await {
            Some(Event::Device(DeviceEvent::Rotation {
                group: of,
                done,
                total,
                ..
            })) if of == group => {
                let count = |count| u64::try_from(count).unwrap_or(u64::MAX);
                progress.show(count(done), count(total), "documents under new keys");
            }
            // The operation itself tells why.
            Some(Event::Stopped { .. }) | None => std::future::pending().await,
            Some(_) => {}
        }
    }
}

/// This user, as member.
async fn me(context: &Context, group: GroupId) -> Result<Option<MemberInfo>> {
    let members = context.members(group).await?;
    Ok(members.into_iter().find(|member| member.this))
}

/// Leaving takes every document of the group from this user's devices; whoever leaves last takes it from the world.
async fn confirm_leaving(context: &Context, group: &GroupInfo, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    let name = Target::group(group).named();
    // A group that cannot be looked into is left all the same.
    let documents = context.documents(group.group).await.unwrap_or_default();
    let open = documents
        .iter()
        .filter(|info| info.closed.is_none())
        .count();
    let documents = counted(open, "document");
    let alone = group.active && group.users == 1;
    let what = if alone {
        format!("You are the last member of {name}: leaving it deletes its {documents} everywhere.")
    } else {
        format!("Leaving {name} erases its {documents} from all your devices.")
    };
    context.confirm(yes, &what)
}

async fn leave(context: &Context, group: &str, anyway: bool, yes: bool) -> Result<Shown> {
    let group = context.find_group(group).await?;
    confirm_leaving(context, &group, yes).await?;
    let operation = Operation::Leave {
        group: group.group,
        anyway,
    };
    let done = tokio::select! {
        done = context.run_ordered(operation, "leaving") => done?,
        told = left_in_log(context, group.group) => {
            told?;
            let text = "you are leaving: the service has it, and the next member who connects completes it";
            return Ok(Shown::new(text, "completed", false)
                .to(Target::group(&group))
                .queued(false));
        }
    };
    let text = match done {
        Some(_) => "left the group",
        None => "leaving is remembered",
    };
    Ok(Shown::new(text, "completed", done.is_some())
        .to(Target::group(&group))
        .queued(done.is_none()))
}

/// Resolves when the group log says that this device leaves and no other member has completed it in a moment.
async fn left_in_log(context: &Context, group: GroupId) -> Result<()> {
    let mut events = context.session().events().await?;
    loop {
        let listed = context.groups().await?;
        if listed
            .iter()
            .any(|info| info.group == group && info.leaving)
        {
            tokio::time::sleep(COMPLETION.min(context.time_left())).await;
            return Ok(());
        }
        match events.next().await {
            Some(Event::Stopped { .. }) | None => std::future::pending().await,
            Some(_) => {}
        }
    }
}

async fn set_role(
    context: &Context,
    group: &str,
    user: &str,
    role: Role,
    yes: bool,
) -> Result<Shown> {
    let group = context.find_group(group).await?.group;
    let id = context.find_member(group, user).await?;
    if let Some(me) = me(context, group).await?
        && me.user == id
        && role < me.role
    {
        let what = format!(
            "You will be {role} instead of {} in {}; only others can change that back.",
            me.role,
            context.group_target(group).await?.named()
        );
        context.confirm(yes, &what)?;
    }
    let done = context
        .run_ordered(
            Operation::SetRole {
                group,
                user: id,
                role,
            },
            "changing the role",
        )
        .await?;
    let text = match done {
        Some(_) => format!("{user} is {role} now"),
        None => format!("the change to {role} is remembered"),
    };
    let target = context.member_target(group, id).await?;
    Ok(Shown::new(text, "role", role)
        .to(target)
        .queued(done.is_none()))
}

//! `status`: the state of this device.

use conclave_client::finding::date;
use conclave_client::{Connection, Operation, Outcome, Status};

use super::revoke::{called, progress};
use super::{findings, pause};
use crate::address::{OPEN_TO_OTHERS, is_open_to_others};
use crate::context::{Context, answer};
use crate::failure::Result;
use crate::output::{Shown, columns, counted, note};
use crate::rescued::sentence;

/// How many findings wait, and the newest.
fn newest(status: &conclave_client::Status) -> String {
    match &status.newest_finding {
        None => "none".to_owned(),
        Some(newest) => format!(
            "{}, the newest: {} See `conclave findings list`.",
            status.findings, newest.happened
        ),
    }
}

/// Shows it, after a moment to connect.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn run(context: &Context) -> Result<Shown> {
    let reached = context.catch_up().await?;
    let who = answer!(context.run(Operation::WhoAmI).await?, Outcome::WhoAmI(who) => who)?;
    // The newest finding is told with names: they are in memory once the groups were looked at.
    let _ = context.groups().await;
    let status = answer!(context.run(Operation::Status).await?, Outcome::Status(status) => status)?;
    let server = context.home.server(&context.global)?;
    if server.as_deref().is_some_and(is_open_to_others) && context.global.server.is_none() {
        note(OPEN_TO_OTHERS, context.global.json);
    }
    let connection = match &status.connection {
        Connection::Connected => "connected".to_owned(),
        Connection::Connecting => "not connected yet".to_owned(),
        Connection::Trouble { cause, .. } => {
            format!("none: {}", context.say_trouble(cause).await?.message)
        }
        _ => "none: working offline".to_owned(),
    };
    let mut invitable = match (status.online, status.key_packages) {
        (true, 1..) => "others can invite this device",
        (true, 0) => "others cannot invite this device yet",
        (false, _) => "not known while there is no connection",
    }
    .to_owned();
    if status.more_invitations > 0 {
        invitable.push_str(&format!(
            "; {} more wait at the service than are kept here: answer some of `conclave group invitations`",
            status.more_invitations
        ));
    }
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let clock = status.clock.map(|offset| row("clock", offset.to_string()));
    let rescues = context.rescues().await?;
    let states = findings::states(context).await?;
    let mut rows = vec![
        row("home", context.home.folder().display().to_string()),
        row(
            "service",
            server
                .clone()
                .unwrap_or_else(|| "none; name one with --server URL".to_owned()),
        ),
        row("connection", connection),
        row(
            "user",
            if who.enrolled {
                who.name.clone()
            } else {
                "not enrolled yet".to_owned()
            },
        ),
        row("groups", status.groups.to_string()),
        row("waiting", waiting(&status)),
        row("findings", newest(&status)),
        row("invitations", invitable),
    ];
    rows.extend(pause::of_device(&status).map(|text| row("paused", text)));
    rows.extend(clock);
    rows.extend(status.other_life.map(|since| {
        let text = format!("an older copy; used elsewhere since {}", date(since));
        row("device", text)
    }));
    rows.extend(status.revocations.iter().map(|info| {
        let text = format!("taking away {}: {}", called(info), progress(info));
        row("", text)
    }));
    let told = status.newest_finding.as_ref().map(|newest| newest.id);
    let others = states.iter().filter(|it| Some(it.id) != told);
    rows.extend(others.map(|it| row("", it.happened.clone())));
    let text = columns(&rows);
    context.touch_all();
    context.note_stale(reached);
    let kept: Vec<String> = rescues
        .iter()
        .map(|info| format!("\n{}", sentence(info, &rescues)))
        .collect();
    Ok(Shown::new(text + &kept.concat(), "status", status)
        .with("rescues", &rescues)
        .with("home", context.home.folder())
        .with("server", server)
        .with("enrolled", who.enrolled))
}

/// What the service does not have yet, in words.
fn waiting(status: &Status) -> String {
    let mut parts = Vec::new();
    if status.pending > 0 {
        parts.push(counted(status.pending, "edit"));
    }
    if status.new_documents > 0 {
        parts.push(counted(status.new_documents, "new document"));
    }
    let changes = status.intents.saturating_sub(status.awaited.len());
    if changes > 0 {
        parts.push(format!("{} to groups", counted(changes, "change")));
    }
    for awaited in &status.awaited {
        let name = awaited.name.clone().unwrap_or_else(|| awaited.user.short());
        parts.push(format!(
            "the invitation of {name} to {}, until a device of {name} connects",
            awaited.group.short()
        ));
    }
    if parts.is_empty() {
        parts.push("nothing".to_owned());
    }
    parts.join("; ")
}

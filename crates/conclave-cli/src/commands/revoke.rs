//! `device revoke`: a device is taken away, and what became of it.

use std::time::Duration;

use conclave_client::proto::DeviceId;
use conclave_client::{
    DocumentInfo, GroupInfo, Operation, Outcome, RevocationInfo, RevokedGroup, RevokedStage,
};
use serde::Serialize;

use crate::context::{Context, Spinner, answer};
use crate::failure::Result;
use crate::output::{Shown, counted};

/// How often it is looked how far it is.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What became of a device in a group, with names.
#[derive(Debug, Serialize)]
struct InGroup {
    #[serde(flatten)]
    info: RevokedGroup,
    name: Option<String>,
    /// Its documents, and whether each is under keys that the device does not have.
    titles: Vec<InDocument>,
}

#[derive(Debug, Serialize)]
struct InDocument {
    document: conclave_client::proto::DocumentId,
    title: Option<String>,
    rekeyed: bool,
}

/// Takes a device away, and waits until it is out of every group as far as the connection allows.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn revoke(context: &Context, typed: &str) -> Result<Shown> {
    let device = context.find_device(typed, true).await?;
    let outcome = context.run(Operation::RevokeDevice { device }).await?;
    answer!(outcome, Outcome::Revocations(all) => all)?;
    let spinner = Spinner::new("taking the device away", context.global.json);
    let reached = context.catch_up().await?;
    let info = loop {
        let info = how_far(context, device, false).await?;
        if info.done || reached.is_queued() || context.time_left().is_zero() {
            break info;
        }
        spinner.say(progress(&info));
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    drop(spinner);
    let info = match info.done {
        true => info,
        false => how_far(context, device, true).await?,
    };
    report(context, &info).await
}

async fn how_far(context: &Context, device: DeviceId, due: bool) -> Result<RevocationInfo> {
    let all = context.revocations(due).await?;
    let found = all.into_iter().find(|info| info.device == device);
    found.ok_or_else(|| conclave_client::Error::UnexpectedAnswer.into())
}

/// How far it is, in a few words.
pub fn progress(info: &RevocationInfo) -> String {
    if !info.off {
        return "the service does not know it yet".to_owned();
    }
    let out = |group: &&RevokedGroup| group.stage != RevokedStage::Member;
    let groups = info.groups.iter();
    let documents: usize = groups.clone().map(|group| group.documents).sum();
    let rekeyed: usize = groups.clone().map(|group| group.rekeyed).sum();
    format!(
        "out of {} of {}, {rekeyed} of {} under new keys",
        groups.filter(out).count(),
        counted(info.groups.len(), "group"),
        counted(documents, "document"),
    )
}

/// What a device that is taken away is called in a sentence.
pub fn called(info: &RevocationInfo) -> String {
    match &info.name {
        Some(name) => format!("{name} ({})", info.device.short()),
        None => format!("device {}", info.device.short()),
    }
}

async fn report(context: &Context, info: &RevocationInfo) -> Result<Shown> {
    let groups = context.groups().await?;
    let mut lines = Vec::new();
    let mut told = Vec::new();
    for of in &info.groups {
        let group = groups.iter().find(|group| group.group == of.group);
        let open = group.is_some_and(|group| group.active);
        let documents = match open {
            // One whose names cannot be read is told by ids.
            true => context.documents(of.group).await.unwrap_or_default(),
            false => Vec::new(),
        };
        let told_group = in_group(of, group, documents);
        lines.push(line(&told_group));
        told.push(told_group);
    }
    for id in &info.unseen {
        let group = groups.iter().find(|group| group.group == *id);
        let name = group.and_then(|group| group.name.clone());
        let name = name.unwrap_or_else(|| format!("group {}", id.short()));
        lines.push(format!("  {name}: not looked at yet"));
    }
    let what = called(info);
    let first = match info.off {
        true => format!(
            "{what} is taken away: the service lets it in no more, and nobody can add it again"
        ),
        false => format!("{what} is to be taken away: remembered here"),
    };
    lines.insert(0, first);
    if info.off && info.groups.is_empty() && info.unseen.is_empty() {
        lines.push("it was in no group of this device".to_owned());
    }
    let last = match (info.off, info.done) {
        (_, true) => {
            "all is done: nothing that is written from now on opens for it; what it had before, it may still have"
        }
        (true, false) => {
            "the rest goes on while this or another device of yours is connected; `conclave status` shows how far it is"
        }
        (false, false) => "it goes on when the service is reached",
    };
    lines.push(last.to_owned());
    lines.extend(info.unconfirmed.iter().map(|device| {
        let id = device.short();
        format!(
            "device {id} stays on your list and was not approved here: if it is yours, `conclave device confirm {id}`; if not, `conclave device revoke {id}`"
        )
    }));
    let shown = Shown::new(lines.join("\n"), "device", info.device)
        .with("name", &info.name)
        .with("off", info.off)
        .with("completed", info.done)
        .with("groups", told)
        .with("unseen", &info.unseen)
        .with("unconfirmed", &info.unconfirmed);
    Ok(shown.queued(!info.off))
}

fn in_group(of: &RevokedGroup, group: Option<&GroupInfo>, documents: Vec<DocumentInfo>) -> InGroup {
    let open = documents.into_iter().filter(|it| it.closed.is_none());
    let in_document = |it: DocumentInfo| InDocument {
        document: it.document,
        title: it.title,
        rekeyed: of.stage == RevokedStage::Complete
            || of.stage == RevokedStage::Rekeying && !of.due.contains(&it.document),
    };
    InGroup {
        info: of.clone(),
        name: group.and_then(|group| group.name.clone()),
        titles: open.map(in_document).collect(),
    }
}

fn line(group: &InGroup) -> String {
    let info = &group.info;
    let name = match &group.name {
        Some(name) => name.clone(),
        None => format!("group {}", info.group.short()),
    };
    let titles = |rekeyed: bool| -> String {
        let of = group.titles.iter().filter(|it| it.rekeyed == rekeyed);
        let titles = of.map(|it| it.title.clone().unwrap_or_else(|| it.document.short()));
        titles.collect::<Vec<_>>().join(", ")
    };
    let new = || {
        let documents = counted(info.documents, "document");
        let mut text = format!("{} of {documents} under new keys", info.rekeyed);
        let (done, due) = (titles(true), titles(false));
        if !done.is_empty() {
            text.push_str(&format!(": {done}"));
        }
        if !due.is_empty() {
            text.push_str(&format!("; still to come: {due}"));
        }
        text
    };
    match info.stage {
        RevokedStage::Complete | RevokedStage::Rekeying => format!("  {name}: removed, {}", new()),
        RevokedStage::Left => format!("  {name}: this device is not in it any more"),
        RevokedStage::Member => {
            let why = match info.held.as_deref() {
                Some("group.frozen") => {
                    " (this device only reads the group; another of yours, or an admin, has to remove it)"
                }
                Some("group.away") => " (the service shows another state of the group)",
                Some(_) => " (this device is on its way back into the group)",
                None => "",
            };
            format!("  {name}: still a member{why}")
        }
    }
}

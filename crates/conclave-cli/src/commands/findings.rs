//! `findings`: what did not fit, until somebody is done with it.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use conclave_client::finding::{Mark, Notice, date};
use conclave_client::proto::GroupId;
use conclave_client::{FindingId, FindingInfo, Operation, Outcome};

use crate::context::{Context, answer};
use crate::failure::Result;
use crate::names::{Named, find};
use crate::output::{Shown, columns, counted, said};

/// Digits of an id that lists show.
const ID_SHOWN: usize = 8;
/// Findings that a command puts on standard error; further ones are only counted.
const TOLD: usize = 3;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what this device found wrong, until it is dismissed
    List(Which),
    /// Show one with everything that is known of it
    Show {
        /// Its id, or the first digits
        id: String,
    },
    /// Say that you are done with some of them
    Dismiss {
        /// Their ids, or the first digits
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// All that are listed
        #[arg(long)]
        all: bool,
        /// With --all: of this group only
        #[arg(long, value_name = "GROUP", requires = "all")]
        group: Option<String>,
    },
}

/// Which ones to list.
#[derive(Debug, Args)]
pub struct Which {
    /// Of this group only
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Those that were dismissed as well
    #[arg(long)]
    all: bool,
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::List(which) => list(context, &which).await,
        Command::Show { id } => show(context, &id).await,
        Command::Dismiss { ids, all, group } => dismiss(context, &ids, all, group.as_deref()).await,
    }
}

/// What is not in order now, and has not been dismissed.
///
/// # Errors
/// Those of the operation.
pub async fn states(context: &Context) -> Result<Vec<FindingInfo>> {
    let mut found = kept(context, None, false).await?;
    found.retain(|it| !it.settled && it.finding.what.is_state());
    Ok(found)
}

/// What is kept, of one group or all.
///
/// # Errors
/// Those of the operation.
pub(super) async fn kept(
    context: &Context,
    group: Option<GroupId>,
    dismissed: bool,
) -> Result<Vec<FindingInfo>> {
    let operation = Operation::Findings { group, dismissed };
    answer!(context.run(operation).await?, Outcome::Findings(findings) => findings)
}

async fn group_of(context: &Context, typed: Option<&str>) -> Result<Option<GroupId>> {
    match typed {
        Some(typed) => Ok(Some(context.find_group(typed).await?.group)),
        None => Ok(None),
    }
}

fn short(id: FindingId) -> String {
    id.to_string().chars().take(ID_SHOWN).collect()
}

fn state(found: &FindingInfo) -> &'static str {
    match (found.notice, found.settled) {
        (Notice::Dismissed, _) => "dismissed",
        (_, true) => "settled",
        (Notice::Unseen, false) => "new",
        (Notice::Seen, false) => "open",
    }
}

async fn list(context: &Context, which: &Which) -> Result<Shown> {
    let group = group_of(context, which.group.as_deref()).await?;
    let findings = kept(context, group, which.all).await?;
    let text = if findings.is_empty() {
        "nothing was found wrong".to_owned()
    } else {
        let row = |found: &FindingInfo| {
            vec![
                short(found.id),
                date(found.last),
                state(found).to_owned(),
                found.happened.clone(),
            ]
        };
        let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
        format!(
            "{}\n`conclave findings show ID` says more, `conclave findings dismiss ID` ends it",
            columns(&rows)
        )
    };
    let ids = findings.iter().map(|found| found.id).collect();
    context.tells(ids, Vec::new());
    Ok(Shown::new(text, "findings", findings))
}

async fn one(context: &Context, typed: &str) -> Result<FindingInfo> {
    let all = kept(context, None, true).await?;
    let named = |found: FindingInfo| Named {
        id: found.id.to_string(),
        within: None,
        name: None,
        value: found,
    };
    let all: Vec<_> = all.into_iter().map(named).collect();
    find("finding", typed, &all, "conclave findings list")
}

async fn show(context: &Context, typed: &str) -> Result<Shown> {
    let found = one(context, typed).await?;
    context.tells(vec![found.id], Vec::new());
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let mut rows = vec![
        row("what", found.happened.clone()),
        row("who", found.fault.clone()),
        row("next", found.remedy.clone()),
        row("first", date(found.first)),
        row("last", date(found.last)),
        row("times", found.count.to_string()),
        row("state", state(&found).to_owned()),
        row("code", found.code.clone()),
    ];
    if let Some(group) = found.group {
        rows.push(row("group", group.to_string()));
    }
    if let Some(document) = found.document {
        rows.push(row("document", document.to_string()));
    }
    Ok(Shown::new(columns(&rows), "finding", found))
}

async fn dismiss(
    context: &Context,
    typed: &[String],
    all: bool,
    group: Option<&str>,
) -> Result<Shown> {
    let mut ids = BTreeSet::new();
    if all {
        let group = group_of(context, group).await?;
        let findings = kept(context, group, false).await?;
        ids.extend(findings.iter().map(|found| found.id));
    }
    for typed in typed {
        ids.insert(one(context, typed).await?.id);
    }
    let ids: Vec<FindingId> = ids.into_iter().collect();
    if !ids.is_empty() {
        let (ids, mark) = (ids.clone(), Mark::Dismissed);
        let operation = Operation::MarkFindings { ids, mark };
        answer!(context.run(operation).await?, Outcome::Done => ())?;
    }
    let text = format!("dismissed {}", counted(ids.len(), "finding"));
    Ok(Shown::new(text, "dismissed", ids))
}

/// What nobody has seen yet of the groups that a command had to do with, and of the device as a whole, nor sees in its result.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn unseen(context: &Context) -> Result<Vec<FindingInfo>> {
    let told = context.told_by_result();
    if told.as_it_went {
        return Ok(Vec::new());
    }
    let mut findings = kept(context, None, false).await?;
    findings.retain(|found| {
        found.notice == Notice::Unseen
            && !told.findings.contains(&found.id)
            && !found.settled
            && !found.finding.what.is_note()
            && found.group.is_none_or(|group| context.is_touched(group))
    });
    Ok(findings)
}

/// Tells people on standard error what was found wrong. Gives whether that could be written.
pub fn tell(findings: &[FindingInfo]) -> bool {
    let mut lines: Vec<String> = findings
        .iter()
        .rev()
        .take(TOLD)
        .map(|found| format!("finding {}: {}", short(found.id), found.text))
        .collect();
    if findings.len() > TOLD {
        let more = counted(findings.len() - TOLD, "finding");
        lines.push(format!("{more} more: `conclave findings list`"));
    }
    lines.iter().all(|line| said(line))
}

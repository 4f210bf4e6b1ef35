//! The end of a command: its result is printed, then what the user was not told yet. Only what was printed counts as told; what was not is
//! told by the next command.

use std::sync::PoisonError;

use conclave_client::finding::Mark;
use conclave_client::proto::RescueId;
use conclave_client::{FindingId, Operation};

use crate::commands::findings;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Reader, Shown, print_failure, said_failure};
use crate::rescued::failure;

/// What is told by what a command prints.
#[derive(Debug, Default, Clone)]
pub struct Told {
    /// What was found wrong.
    pub findings: Vec<FindingId>,
    /// Own changes that lost their place.
    pub rescues: Vec<RescueId>,
    /// The same that the command's failure names.
    pub in_failure: Vec<RescueId>,
    /// Everything was told while the command ran, perhaps to nobody.
    pub as_it_went: bool,
}

impl Context {
    /// The result of this command tells these.
    pub fn tells(&self, findings: Vec<FindingId>, rescues: Vec<RescueId>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.findings.extend(findings);
        told.rescues.extend(rescues);
    }

    /// The failure of this command names this.
    pub fn tells_in_failure(&self, rescue: RescueId) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.in_failure.push(rescue);
    }

    /// This command tells what is found while it runs: its end adds nothing.
    pub fn tells_as_it_goes(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.as_it_went = true;
    }

    /// What the result of this command tells.
    pub fn told_by_result(&self) -> Told {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.clone()
    }
}

/// Prints what came of a command and what else there is to tell, and ends the session.
pub async fn end(context: Context, done: Result<Shown>) -> Exit {
    let form = context.global.form();
    let done = context.finish(done).await;
    let mut exit = tell(&context, done).await;
    if let Err(failure) = context.close().await {
        let failed = print_failure(&failure, form);
        if exit == Exit::Done {
            exit = failed;
        }
    }
    exit
}

async fn tell(context: &Context, done: Result<Shown>) -> Exit {
    let (form, json) = (context.global.form(), context.global.json);
    let found = findings::unseen(context).await.unwrap_or_default();
    let rescued = context.untold_rescues().await.unwrap_or_default();
    let ids = || found.iter().map(|found| found.id);
    let mut told = Told::default();
    let printed = done.and_then(|shown| {
        let (shown, has_findings) = shown.found(&found);
        let (exit, reader) = shown.print(json)?;
        if reader == Reader::There {
            told = context.told_by_result();
            told.findings.extend(ids().filter(|_| has_findings && json));
        }
        Ok(exit)
    });
    // A failure's standard error holds one JSON object and nothing else.
    if !json && findings::tell(&found) {
        told.findings.extend(ids());
    }
    let exit = match (printed, rescued) {
        (Ok(exit), None) => exit,
        (Err(failure), None) => {
            if said_failure(&failure, form) {
                told.rescues.extend(context.told_by_result().in_failure);
            }
            failure.exit
        }
        (printed, Some((sentences, ids))) => {
            let failure = with_rescued(printed.err(), failure(&sentences));
            if said_failure(&failure, form) {
                told.rescues.extend(ids);
                told.rescues.extend(context.told_by_result().in_failure);
            }
            failure.exit
        }
    };
    mark(context, told).await;
    exit
}

/// Own changes that lost their place are told of whatever the command was for, and its exit code says so.
fn with_rescued(failed: Option<Failure>, rescued: Failure) -> Failure {
    match failed {
        Some(failure) if failure.code != rescued.code => Failure {
            message: format!("{}\n{}", rescued.message, failure.message),
            exit: Exit::Rescued,
            ..failure
        },
        _ => rescued,
    }
}

/// What cannot be noted is told again.
async fn mark(context: &Context, told: Told) {
    let Told {
        findings, rescues, ..
    } = told;
    if !rescues.is_empty() {
        let _ = context.run(Operation::RescuesTold { rescues }).await;
    }
    if !findings.is_empty() {
        let (ids, mark) = (findings, Mark::Seen);
        let _ = context.run(Operation::MarkFindings { ids, mark }).await;
    }
}

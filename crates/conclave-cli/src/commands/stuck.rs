//! `doc void --record`, and what is said of a document at which work is stuck.

use conclave_client::proto::GroupId;
use conclave_client::{DocumentInfo, Operation, Outcome, RecordInfo, StuckInfo};

use super::basis::person;
use super::document::{Which, open};
use crate::context::{Context, answer};
use crate::failure::Result;
use crate::output::{Shown, counted};

/// A change, to be put into a sentence.
fn change(record: &RecordInfo) -> String {
    let author = match &record.author {
        Some(author) => person(author),
        None => "somebody who was never a member".to_owned(),
    };
    format!(
        "change number {} of its log ({}, by {author}, device {})",
        record.seq,
        counted(usize::try_from(record.bytes).unwrap_or(usize::MAX), "byte"),
        record.device.short(),
    )
}

/// Where work on a document is stuck.
pub(super) fn sentence(stuck: &StuckInfo) -> String {
    let place = match (&stuck.record, stuck.snapshot) {
        (Some(record), _) => change(record),
        (None, Some(seq)) => format!("the short form with number {seq} in its log"),
        (None, None) => "a place that could not be told".to_owned(),
    };
    let sessions = usize::try_from(stuck.sessions).unwrap_or(usize::MAX);
    let offer = match (&stuck.record, stuck.may_void) {
        (Some(record), true) => format!(
            "; `doc void --record {}` makes it count for nobody",
            record.seq
        ),
        _ => String::new(),
    };
    format!(
        "took too long in {}, at {place}{offer}",
        counted(sessions, "session")
    )
}

/// The change of a number: as it is known where work is stuck at it, else as the log has it.
async fn find(
    context: &Context,
    which: &Which,
    seq: u64,
) -> Result<(GroupId, DocumentInfo, RecordInfo)> {
    let (group, info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
    let stuck = info.stuck.as_ref().and_then(|stuck| stuck.record.clone());
    if let Some(record) = stuck.filter(|record| record.seq == seq) {
        return Ok((group, info, record));
    }
    let (group, info, _) = open(context, which).await?;
    let operation = Operation::Record {
        group,
        document: info.document,
        seq,
    };
    let record = answer!(context.run(operation).await?, Outcome::Record(record) => record)?;
    Ok((group, info, record))
}

/// Declares one change void.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub(super) async fn void(context: &Context, which: &Which, seq: u64, yes: bool) -> Result<Shown> {
    let (group, info, record) = find(context, which, seq).await?;
    let target = context.document_target(group, &info).await?;
    let what = format!(
        "In {}, {} will count for nobody, and whatever builds on it is lost or written again.",
        target.named(),
        change(&record),
    );
    context.confirm(yes, &what)?;
    let document = info.document;
    let operation = Operation::VoidRecord {
        group,
        document,
        seq,
    };
    let done = context.run_ordered(operation, "declaring void").await?;
    Ok(Shown::new("this change is void", "document", document)
        .with("record", &record)
        .to(target)
        .queued(done.is_none()))
}

//! `doc log`: what a document's log holds, record by record.

use conclave_client::{
    EditInfo, LogInfo, LogRecordInfo, Operation, Outcome, RecordedInfo, Span, finding,
};

use super::blame::{named, record_of};
use super::document::{Which, open};
use crate::context::{Context, answer};
use crate::failure::Result;
use crate::output::{Shown, columns, counted};

/// Shows the last records before a position.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub(super) async fn run(
    context: &Context,
    which: &Which,
    limit: u32,
    before: Option<u64>,
) -> Result<Shown> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let (document, mut older) = (info.document, before);
    let mut left = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut records: Vec<LogRecordInfo> = Vec::new();
    let mut unsent = 0;
    // A page is bounded: as many are asked for as it takes.
    while left > 0 {
        let operation = Operation::Log {
            group,
            document,
            before: older,
            limit: left,
        };
        let page: LogInfo = answer!(context.run(operation).await?, Outcome::Log(page) => page)?;
        left = left.saturating_sub(page.records.len());
        unsent = page.unsent;
        older = page.older;
        records.splice(0..0, page.records);
        if older.is_none() {
            break;
        }
    }
    let mut text = columns(&records.iter().map(row).collect::<Vec<_>>());
    if records.is_empty() {
        "no changes".clone_into(&mut text);
    }
    let mut shown = Shown::new(text, "records", &records)
        .with("document", document)
        .with("title", info.title)
        .with("older", older)
        .with("unsent", unsent);
    if unsent > 0 {
        let edits = counted(unsent, "edit");
        shown = shown.line(&format!(
            "{edits} of this device with no place in the log yet"
        ));
    }
    if let Some(older) = older {
        shown = shown.line(&format!("older ones: --before {older}"));
    }
    Ok(shown)
}

fn row(record: &LogRecordInfo) -> Vec<String> {
    let number = match record.count {
        0 | 1 => record.seq.to_string(),
        count => format!("{}–{}", record.seq, record.seq.saturating_add(count - 1)),
    };
    let who = match record.what {
        RecordedInfo::Gone => String::new(),
        _ => named(&record.by),
    };
    let when = record_of(&record.by).and_then(|it| it.when);
    let bytes = record.bytes.and_then(|bytes| usize::try_from(bytes).ok());
    let bytes = bytes.map(|bytes| counted(bytes, "byte"));
    vec![
        number,
        who,
        when.map(span).unwrap_or_default(),
        what(record),
        bytes.unwrap_or_default(),
    ]
}

/// Between which times something was written, for people.
pub(super) fn span(when: Span) -> String {
    let after = finding::date(when.after);
    match when.before.map(finding::date) {
        Some(before) if before == after => after,
        Some(before) => format!("{after} – {before}"),
        None => format!("since {after}"),
    }
}

fn what(record: &LogRecordInfo) -> String {
    let carried = match record_of(&record.by).and_then(|it| it.carrier) {
        Some(device) => format!(", brought by device {}", device.short()),
        None => String::new(),
    };
    match &record.what {
        RecordedInfo::Edit(edit) => format!("{}{carried}", edited(edit)),
        RecordedInfo::Folded { operations } => {
            let count = usize::try_from(*operations).unwrap_or(usize::MAX);
            let count = counted(count, "operation");
            format!("edit, now part of the saved state: {count}{carried}")
        }
        RecordedInfo::Snapshot { covered: 0 } => "beginning of the document".to_owned(),
        RecordedInfo::Snapshot { covered } => format!("short form of what is before {covered}"),
        RecordedInfo::Check { snapshot, is_match } => {
            let found = match is_match {
                true => "found right",
                false => "says that it is wrong",
            };
            match snapshot {
                Some(seq) => format!("check of short form {seq}: {found}"),
                None => format!("check of a short form that is not known any more: {found}"),
            }
        }
        RecordedInfo::SetAside => "set aside: its key is missing".to_owned(),
        RecordedInfo::Void => "declared void by an admin".to_owned(),
        RecordedInfo::Costly => "left out: it would have cost too much".to_owned(),
        RecordedInfo::Nothing => "counts for nothing".to_owned(),
        RecordedInfo::Gone => "part of the saved state: no more is known".to_owned(),
    }
}

fn edited(edit: &EditInfo) -> String {
    let count = |count: u64, noun: &str| {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        (count > 0).then(|| counted(count, noun))
    };
    let wrote = [
        count(edit.chars, "character"),
        count(edit.values, "value"),
        count(edit.formats, "format"),
    ];
    let wrote: Vec<String> = wrote.into_iter().flatten().collect();
    let deleted = edit.deleted.iter();
    let mut deleted: Vec<String> = deleted
        .map(|it| format!("{} of {}", it.count, named(&it.of)))
        .collect();
    if edit.deleted_of_others > 0 {
        deleted.push(format!("{} of others", edit.deleted_of_others));
    }
    let mut parts = Vec::new();
    if !wrote.is_empty() {
        parts.push(format!("wrote {}", wrote.join(", ")));
    }
    if !deleted.is_empty() {
        parts.push(format!("took out {}", deleted.join(", ")));
    }
    if edit.deleted_again > 0 {
        parts.push(format!("and {} that were gone", edit.deleted_again));
    }
    match parts.is_empty() {
        true => "edit that leaves nothing behind".to_owned(),
        false => parts.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_client::proto::{DeviceId, UnixMs, UserId};
    use conclave_client::{DeletedInfo, Person, RecordWriter, WriterInfo};

    fn by(name: &str, seq: u64) -> WriterInfo {
        WriterInfo::Proven(RecordWriter {
            author: Some(Person {
                user: UserId([1; 32]),
                name: Some(name.to_owned()),
                verified: true,
                is_own: false,
            }),
            device: DeviceId([1; 16]),
            seq: Some(seq),
            id: None,
            when: Some(Span {
                after: UnixMs(0),
                before: Some(UnixMs(3_600_000)),
            }),
            carrier: None,
        })
    }

    fn record(what: RecordedInfo) -> LogRecordInfo {
        LogRecordInfo {
            seq: 7,
            count: 1,
            bytes: Some(90),
            by: by("Ana", 7),
            what,
        }
    }

    #[test]
    fn a_record_says_who_when_and_how_much() {
        let edit = EditInfo {
            chars: 12,
            values: 0,
            formats: 1,
            deleted: vec![DeletedInfo {
                of: by("Ben", 3),
                count: 2,
            }],
            deleted_of_others: 5,
            deleted_again: 1,
        };
        let expected = [
            "7",
            "Ana",
            "1 Jan 1970 00:00 UTC – 1 Jan 1970 01:00 UTC",
            "wrote 12 characters, 1 format; took out 2 of Ben, 5 of others; and 1 that were gone",
            "90 bytes",
        ];
        assert_eq!(row(&record(RecordedInfo::Edit(edit))), expected);
    }

    #[test]
    fn what_is_gone_names_nobody_and_says_so() {
        let gone = LogRecordInfo {
            count: 3,
            bytes: None,
            by: WriterInfo::Unknown,
            ..record(RecordedInfo::Gone)
        };
        let told = "part of the saved state: no more is known";
        assert_eq!(row(&gone), ["7–9", "", "", told, ""]);
        let carrier = Some(DeviceId([0xab; 16]));
        let mut carried = record(RecordedInfo::Folded { operations: 4 });
        if let WriterInfo::Proven(record) = &mut carried.by {
            record.carrier = carrier;
        }
        let told = &row(&carried)[3];
        assert!(
            told.contains("4 operations, brought by device abab"),
            "{told}"
        );
    }

    /// Scripts read these fields.
    #[test]
    fn records_as_json() {
        let json = serde_json::to_value(record(RecordedInfo::SetAside)).unwrap();
        assert_eq!(json["is"], "set_aside");
        assert_eq!(json["by"]["proof"], "proven");
        let page: LogRecordInfo = serde_json::from_value(json).unwrap();
        assert_eq!(page.what, RecordedInfo::SetAside);
    }
}

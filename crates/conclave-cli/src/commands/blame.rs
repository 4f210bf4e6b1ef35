//! `doc blame`: who wrote which part of what a document shows.

use conclave_client::proto::{GroupId, UnixMs};
use conclave_client::{
    BlameInfo, BlameShown, BlameValue, BlameView, DocumentInfo, Operation, Outcome, RecordWriter,
    Run, WriterInfo, finding,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::document::{Which, open};
use crate::content::{self, Content};
use crate::context::{Context, answer};
use crate::failure::Result;
use crate::output::{PaintedRow, Shown, note};

/// Shows who wrote what.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub(super) async fn run(context: &Context, which: &Which, since: Option<Since>) -> Result<Shown> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let view = match content::read(context, group, &info).await?.content {
        Content::Text(_) => BlameView::Text,
        Content::Json(_) => BlameView::Values,
    };
    let blame = ask(context, group, &info, view).await?;
    let since = since.unwrap_or(Since::Record(0));
    let rows = rows(&blame, since);
    if let (Since::Record(seq), Some(size)) = (since, info.size)
        && seq >= size.max(1)
    {
        note(&beyond(seq, size), context.global.json);
    }
    let mut writers = blame.writers.iter();
    if writers.any(|it| since.age(it) == Age::Either) {
        note(
            "note: changes carry no time of their own; who has a question mark wrote before or after that date",
            context.global.json,
        );
    }
    Ok(Shown::painted(rows, "document", info.document)
        .with("title", info.title)
        .with("blame", blame))
}

/// From where on somebody is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// The record with this number.
    Record(u64),
    /// This time.
    Time(UnixMs),
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if let Ok(seq) = text.parse() {
            return Ok(Self::Record(seq));
        }
        // A day begins where it does in the dates that are shown.
        let midnight = format!("{text}T00:00:00Z");
        let parsed = OffsetDateTime::parse(text, &Rfc3339);
        let parsed = parsed.or_else(|_| OffsetDateTime::parse(&midnight, &Rfc3339));
        let at = parsed.map_err(|_| {
            "neither a number nor a date such as 2026-03-01 or 2026-03-01T12:00:00Z".to_owned()
        })?;
        let ms = u64::try_from(at.unix_timestamp_nanos() / 1_000_000);
        let ms = ms.map_err(|_| "a date before 1970".to_owned())?;
        Ok(Self::Time(UnixMs(ms)))
    }
}

/// On which side of a time something was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Older,
    /// Its epoch was on both.
    Either,
    Newer,
}

impl Since {
    fn age(self, writer: &WriterInfo) -> Age {
        let record = record_of(writer);
        match (self, writer) {
            // What has no place in the log yet is newer than all that has.
            (_, WriterInfo::Unsent) => Age::Newer,
            (Self::Record(since), _) => match record.and_then(|record| record.seq) {
                Some(seq) if seq < since => Age::Older,
                _ => Age::Newer,
            },
            (Self::Time(since), _) => match record.and_then(|record| record.when) {
                // The time of what was carried is that of the record that carries it: it was written some time before.
                Some(when) if when.after >= since => match record {
                    Some(record) if record.carrier.is_some() => Age::Either,
                    _ => Age::Newer,
                },
                Some(when) if when.before.is_some_and(|before| before <= since) => Age::Older,
                // Also where nothing is known.
                _ => Age::Either,
            },
        }
    }
}

/// What is said of a number that no record has yet: it may have been meant as a year.
fn beyond(seq: u64, size: u64) -> String {
    let mut said = format!(
        "note: {seq} was taken as the number of a change, and there are {size} changes so far, numbered from 0"
    );
    if (1970..=9999).contains(&seq) {
        said.push_str(&format!("; a date is written as {seq}-01-01"));
    }
    said
}

async fn ask(
    context: &Context,
    group: GroupId,
    info: &DocumentInfo,
    view: BlameView,
) -> Result<BlameInfo> {
    let document = info.document;
    let operation = Operation::Blame {
        group,
        document,
        view,
    };
    answer!(context.run(operation).await?, Outcome::Blame(blame) => blame)
}

/// One row for each writer's part of a line, set where it stands in the line.
fn rows(blame: &BlameInfo, since: Since) -> Vec<PaintedRow> {
    let labels = blame.writers.iter();
    let mut labels: Vec<Label> = labels.map(|it| Label::of(it, since.age(it))).collect();
    // One colour for each of them, in however many records they wrote.
    let mut names: Vec<String> = Vec::new();
    for label in &mut labels {
        let known = names.iter().position(|name| *name == label.name);
        label.paint = known.unwrap_or(names.len());
        if known.is_none() {
            names.push(label.name.clone());
        }
    }
    let mut rows = Rows {
        labels: &labels,
        rows: Vec::new(),
    };
    match &blame.shown {
        BlameShown::Text { text, runs } => rows.text(text, runs),
        BlameShown::Values { json, values } => rows.values(json, values),
    }
    rows.rows
}

/// What stands beside a part.
struct Label {
    /// Who wrote it.
    name: String,
    /// The same, with when.
    who: String,
    /// A number for the name.
    paint: usize,
    age: Age,
}

impl Label {
    fn of(writer: &WriterInfo, age: Age) -> Self {
        let (name, record) = (named(writer), record_of(writer));
        let when = record.and_then(|record| record.when);
        let mut who = match when {
            Some(when) => format!("{name}  {}", finding::date(when.after)),
            None => name.clone(),
        };
        if age == Age::Either {
            who.push_str(" ?");
        }
        Self {
            name,
            who,
            paint: 0,
            age,
        }
    }
}

/// A writer's name, and on whose word it is.
pub(super) fn named(writer: &WriterInfo) -> String {
    match writer {
        WriterInfo::Proven(record) => name(record),
        WriterInfo::OnWordOf { word_of, writer } => {
            let giver = word_of.name.clone();
            let giver = giver.unwrap_or_else(|| word_of.user.short());
            format!("{}, says {giver}", name(writer))
        }
        WriterInfo::Unsent => "you, not sent yet".to_owned(),
        WriterInfo::Unknown => "unknown".to_owned(),
    }
}

/// The record that a writer is told with.
pub(super) fn record_of(writer: &WriterInfo) -> Option<&RecordWriter> {
    match writer {
        WriterInfo::Proven(record) | WriterInfo::OnWordOf { writer: record, .. } => Some(record),
        WriterInfo::Unsent | WriterInfo::Unknown => None,
    }
}

fn name(record: &RecordWriter) -> String {
    let Some(author) = &record.author else {
        return format!("device {}", record.device.short());
    };
    let name = author.name.clone();
    let name = name.unwrap_or_else(|| author.user.short());
    match author.verified {
        true => name,
        false => format!("{name} (not verified)"),
    }
}

struct Rows<'a> {
    labels: &'a [Label],
    rows: Vec<PaintedRow>,
}

impl Rows<'_> {
    fn push(&mut self, writer: u32, indent: usize, text: &str) {
        let label = usize::try_from(writer).ok();
        let label = label.and_then(|at| self.labels.get(at));
        let label = label.filter(|label| label.age != Age::Older);
        self.rows.push(PaintedRow {
            paint: label.map(|label| label.paint),
            margin: label.map(|label| label.who.clone()).unwrap_or_default(),
            indent,
            text: text.to_owned(),
        });
    }

    fn text(&mut self, text: &str, runs: &[Run]) {
        let mut rest = text;
        let mut column = 0;
        for run in runs {
            let end = rest.char_indices().nth(run.chars);
            let (part, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
            rest = after;
            for line in part.split_inclusive('\n') {
                let shown = line.trim_end_matches('\n');
                // Of a line's end alone there is nothing to be seen, unless the line is empty.
                if !shown.is_empty() || column == 0 {
                    self.push(run.writer, column, shown);
                }
                column = match line.ends_with('\n') {
                    true => 0,
                    false => column + console::measure_text_width(shown),
                };
            }
        }
    }

    fn values(&mut self, json: &serde_json::Value, values: &[BlameValue]) {
        for value in values {
            let place = place(&value.place);
            let shown = value.place.iter().try_fold(json, |at, step| {
                let index = step.as_u64().and_then(|index| usize::try_from(index).ok());
                match (step.as_str(), index) {
                    (Some(key), _) => at.get(key),
                    (None, Some(index)) => at.get(index),
                    (None, None) => None,
                }
            });
            match (shown, value.writer) {
                (Some(shown), Some(writer)) => {
                    let what = match shown {
                        serde_json::Value::Object(_) => "{}".to_owned(),
                        serde_json::Value::Array(_) => "[]".to_owned(),
                        value => value.to_string(),
                    };
                    self.push(writer, 0, &format!("{place}: {what}"));
                }
                (Some(shown), None) => {
                    let text = shown.as_str().unwrap_or_default();
                    self.rows.push(PaintedRow {
                        paint: None,
                        margin: String::new(),
                        indent: 0,
                        text: format!("{place}:"),
                    });
                    self.text(text, &value.runs);
                }
                (None, _) => {}
            }
        }
    }
}

/// A place as a path.
fn place(steps: &[serde_json::Value]) -> String {
    let steps = steps.iter().map(|step| match step.as_str() {
        Some(key) => key.to_owned(),
        None => step.to_string(),
    });
    steps.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_client::proto::{DeviceId, UserId};
    use conclave_client::{Person, Span};

    fn person(name: &str, verified: bool) -> Person {
        Person {
            user: UserId([1; 32]),
            name: Some(name.to_owned()),
            verified,
            is_own: false,
        }
    }

    fn record(name: &str, seq: u64) -> RecordWriter {
        RecordWriter {
            author: Some(person(name, true)),
            device: DeviceId([1; 16]),
            seq: Some(seq),
            id: None,
            when: None,
            carrier: None,
        }
    }

    fn run(writer: u32, chars: usize) -> Run {
        Run { writer, chars }
    }

    fn lines(blame: &BlameInfo, since: u64) -> Vec<String> {
        let rows = rows(blame, Since::Record(since)).into_iter();
        rows.map(|row| format!("{}|{}{}", row.margin, " ".repeat(row.indent), row.text))
            .collect()
    }

    #[test]
    fn each_part_of_a_line_stands_where_it_is_in_the_line() {
        let text = "hello [new] world\n\nlast\n";
        let on_word = WriterInfo::OnWordOf {
            word_of: person("Cleo", true),
            writer: record("Ben", 4),
        };
        let blame = BlameInfo {
            writers: vec![
                WriterInfo::Proven(record("Ana", 1)),
                on_word,
                WriterInfo::Unsent,
            ],
            shown: BlameShown::Text {
                text: text.to_owned(),
                runs: vec![run(0, 6), run(1, 5), run(0, 8), run(2, 5)],
            },
        };
        let all = [
            "Ana|hello ",
            "Ben, says Cleo|      [new]",
            "Ana|            world",
            "Ana|",
            "you, not sent yet|last",
        ];
        assert_eq!(lines(&blame, 0), all);
        let new = lines(&blame, 2);
        assert_eq!(new[0], "|hello ");
        assert_eq!(new[1], all[1]);
        assert_eq!(new[4], all[4]);
    }

    #[test]
    fn since_a_date_names_who_wrote_after_it_and_marks_what_may_be_older() {
        let wrote = |name: &str, after, before: Option<u64>| {
            let mut record = record(name, 1);
            record.when = Some(Span {
                after: UnixMs(after),
                before: before.map(UnixMs),
            });
            WriterInfo::Proven(record)
        };
        // When it was written is not known, only when it was carried.
        let carried = |mut writer: WriterInfo| {
            if let WriterInfo::Proven(record) = &mut writer {
                record.carrier = Some(DeviceId([9; 16]));
            }
            writer
        };
        let day = 24 * 3_600_000;
        let blame = BlameInfo {
            writers: vec![
                wrote("Ana", 0, Some(day)),
                wrote("Ben", 0, Some(day + 1)),
                wrote("Cleo", 0, None),
                wrote("Dana", day, None),
                WriterInfo::Unsent,
                WriterInfo::Unknown,
                carried(wrote("Emil", day, Some(day + 1))),
                carried(wrote("Fred", 0, Some(day))),
            ],
            shown: BlameShown::Text {
                text: "abcdefgh".to_owned(),
                runs: (0..8).map(|writer| run(writer, 1)).collect(),
            },
        };
        let rows = rows(&blame, "1970-01-02".parse().unwrap());
        let margins: Vec<_> = rows.iter().map(|row| row.margin.as_str()).collect();
        let expected = [
            "",
            "Ben  1 Jan 1970 00:00 UTC ?",
            "Cleo  1 Jan 1970 00:00 UTC ?",
            "Dana  2 Jan 1970 00:00 UTC",
            "you, not sent yet",
            "unknown ?",
            "Emil  2 Jan 1970 00:00 UTC ?",
            "",
        ];
        assert_eq!(margins, expected);
    }

    #[test]
    fn a_year_alone_is_a_number_and_that_is_said() {
        let said = beyond(2026, 40);
        assert!(said.contains("there are 40 changes"), "{said}");
        assert!(said.ends_with("2026-01-01"), "{said}");
        assert!(!beyond(50, 40).contains("date"));
    }

    #[test]
    fn since_is_a_number_or_a_date() {
        let since = |text: &str| text.parse::<Since>().ok();
        let day = 24 * 3_600_000;
        assert_eq!(since("12"), Some(Since::Record(12)));
        assert_eq!(since("1970-01-02"), Some(Since::Time(UnixMs(day))));
        let noon = Some(Since::Time(UnixMs(day / 2)));
        assert_eq!(since("1970-01-01T12:00:00Z"), noon);
        assert_eq!(since("1970-01-01T14:00:00+02:00"), noon);
        for bad in ["", "yesterday", "1969-12-31", "2026-13-01", "12.5", "-1"] {
            assert_eq!(since(bad), None, "{bad}");
        }
    }

    #[test]
    fn somebody_has_one_colour_in_all_records() {
        let records = [("Ana", 1), ("Ben", 2), ("Ana", 3)];
        let blame = BlameInfo {
            writers: records
                .map(|(name, seq)| WriterInfo::Proven(record(name, seq)))
                .to_vec(),
            shown: BlameShown::Text {
                text: "abc".to_owned(),
                runs: vec![run(0, 1), run(1, 1), run(2, 1)],
            },
        };
        let paints: Vec<_> = rows(&blame, Since::Record(0))
            .iter()
            .map(|row| row.paint)
            .collect();
        assert_eq!(paints, [Some(0), Some(1), Some(0)]);
    }

    #[test]
    fn values_have_their_places() {
        let json = serde_json::json!({ "list": [1], "name": "ab" });
        let value = |place: &[serde_json::Value], writer, runs| BlameValue {
            place: place.to_vec(),
            writer,
            runs,
        };
        let blame = BlameInfo {
            writers: vec![WriterInfo::Proven(record("Ana", 1)), WriterInfo::Unknown],
            shown: BlameShown::Values {
                values: vec![
                    value(&["list".into()], Some(0), vec![]),
                    value(&["list".into(), 0.into()], Some(1), vec![]),
                    value(&["name".into()], None, vec![run(0, 1), run(1, 1)]),
                ],
                json,
            },
        };
        let expected = [
            "Ana|list: []",
            "unknown|list/0: 1",
            "|name:",
            "Ana|a",
            "unknown| b",
        ];
        assert_eq!(lines(&blame, 0), expected);
    }
}

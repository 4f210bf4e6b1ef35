//! `doc blame`: who wrote which part of what a document shows.

use conclave_client::proto::GroupId;
use conclave_client::{
    BlameInfo, BlameShown, BlameValue, BlameView, DocumentInfo, Operation, Outcome, RecordWriter,
    Run, WriterInfo, finding,
};

use super::document::{Which, open};
use crate::content::{self, Content};
use crate::context::{Context, answer};
use crate::failure::Result;
use crate::output::{PaintedRow, Shown};

/// Shows who wrote what.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub(super) async fn run(context: &Context, which: &Which, since: Option<u64>) -> Result<Shown> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let view = match content::read(context, group, &info).await?.content {
        Content::Text(_) => BlameView::Text,
        Content::Json(_) => BlameView::Values,
    };
    let blame = ask(context, group, &info, view).await?;
    let rows = rows(&blame, since.unwrap_or_default());
    Ok(Shown::painted(rows, "document", info.document)
        .with("title", info.title)
        .with("blame", blame))
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
fn rows(blame: &BlameInfo, since: u64) -> Vec<PaintedRow> {
    let mut labels: Vec<Label> = blame.writers.iter().map(Label::of).collect();
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
        since,
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
    seq: Option<u64>,
}

impl Label {
    fn of(writer: &WriterInfo) -> Self {
        let (name, record) = match writer {
            WriterInfo::Proven(record) => (name(record), Some(record)),
            WriterInfo::OnWordOf { word_of, writer } => {
                let giver = word_of.name.clone();
                let giver = giver.unwrap_or_else(|| word_of.user.short());
                (format!("{}, says {giver}", name(writer)), Some(writer))
            }
            WriterInfo::Unsent => ("you, not sent yet".to_owned(), None),
            WriterInfo::Unknown => ("unknown".to_owned(), None),
        };
        let when = record.and_then(|record| record.when);
        let who = match when {
            Some(when) => format!("{name}  {}", finding::date(when.after)),
            None => name.clone(),
        };
        Self {
            name,
            who,
            paint: 0,
            seq: record.and_then(|record| record.seq),
        }
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
    since: u64,
    rows: Vec<PaintedRow>,
}

impl Rows<'_> {
    fn push(&mut self, writer: u32, indent: usize, text: &str) {
        let label = usize::try_from(writer).ok();
        let label = label.and_then(|at| self.labels.get(at));
        // What has no place in the log yet is newer than all that has.
        let seq = label.and_then(|label| label.seq);
        let is_new = seq.is_none_or(|seq| seq >= self.since);
        let margin = match label.filter(|_| is_new) {
            Some(label) => label.who.clone(),
            None => String::new(),
        };
        self.rows.push(PaintedRow {
            paint: label.filter(|_| is_new).map(|label| label.paint),
            margin,
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
    use conclave_client::Person;
    use conclave_client::proto::{DeviceId, UserId};

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
        let rows = rows(blame, since).into_iter();
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
        let paints: Vec<_> = rows(&blame, 0).iter().map(|row| row.paint).collect();
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

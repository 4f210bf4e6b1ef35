//! `doc watch`: changes of others, as they come.

use std::collections::BTreeSet;

use conclave_client::proto::limits::SHOWN_BYTES;
use conclave_client::proto::record::CloseReason;
use conclave_client::proto::{DeviceId, GroupId, InstanceId, UserId};
use conclave_client::{
    Attendance, Change, DeviceEvent, DocumentInfo, Event, Operation, Outcome, Present, Showing,
    ShowingKind,
};
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::document::{Which, open};
use crate::content;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output::{Reader, Shown, counted, folded, note, print_json, print_line};
use crate::say;

/// Watches a document until Ctrl-C. In JSON it prints one object a line.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, which: &Which, showing: Option<Showing>) -> Result<Shown> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let attends = showing.is_some();
    let mut events = match showing {
        None => context.session().events().await?,
        Some(showing) => {
            let attendance = Attendance {
                group,
                document: info.document,
                showing: Some(showing),
            };
            context.session().attend(attendance).await?
        }
    };
    let mut shown = content::read(context, group, &info)
        .await?
        .content
        .to_text();
    let mut interrupt = std::pin::pin!(crate::signals::interrupted());
    let title = info.title.clone().unwrap_or_else(|| info.document.short());
    if is_over(context, group, &info, &title).await? {
        return Ok(Shown::nothing());
    }
    note(
        &format!("watching {title}; Ctrl-C ends it"),
        context.global.json,
    );
    let mut there = There::default();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut interrupt => return Ok(Shown::nothing()),
        };
        match event {
            Some(Event::Device(DeviceEvent::DocumentChanged {
                group: of,
                document,
                changes,
            })) if (of, document) == (group, info.document) => {
                let now = text_of(context, group, &info, &title).await?;
                let reader = print_changes(context, &info, &changes, &shown, &now)?;
                if reader == Reader::Gone {
                    return Ok(Shown::nothing());
                }
                shown = now;
            }
            Some(Event::HandedOver) => {
                // Another command had the store open until now; what came meanwhile is shown without its authors.
                if is_over(context, group, &info, &title).await? {
                    return Ok(Shown::nothing());
                }
                let now = text_of(context, group, &info, &title).await?;
                if now != shown {
                    let reader = print_changes(context, &info, &[], &shown, &now)?;
                    if reader == Reader::Gone {
                        return Ok(Shown::nothing());
                    }
                    shown = now;
                }
            }
            Some(Event::Device(DeviceEvent::Presence {
                group: of,
                document,
                who,
                showing,
            })) if attends && (of, document) == (group, info.document) => {
                let at = place_of(context, group, &info, showing.as_ref()).await;
                if !there.changed(&who, showing.is_some()) && !context.global.json {
                    continue;
                }
                if print_presence(context, &info, &who, showing.as_ref(), at)? == Reader::Gone {
                    return Ok(Shown::nothing());
                }
            }
            Some(Event::Device(DeviceEvent::PresenceLost {
                group: of,
                document,
            })) if attends && (of, document) == (group, info.document) => {
                there = There::default();
                note("not connected: nobody is seen for now", context.global.json);
            }
            Some(Event::Device(DeviceEvent::DocumentListed {
                group: of,
                document,
            })) if (of, document) == (group, info.document) => {
                if is_over(context, group, &info, &title).await? {
                    return Ok(Shown::nothing());
                }
            }
            Some(Event::Missed { events }) => {
                note(
                    &format!("note: {events} events were missed"),
                    context.global.json,
                );
                if is_over(context, group, &info, &title).await? {
                    return Ok(Shown::nothing());
                }
            }
            Some(Event::Stalled { error }) => {
                there = There::default();
                note(
                    &format!("note: {}; it is tried again", error.message),
                    context.global.json,
                );
            }
            Some(Event::Device(DeviceEvent::Finding(found)))
                if found.group == Some(group) && found.document == Some(info.document) =>
            {
                note(&found.text, context.global.json);
            }
            Some(Event::Device(DeviceEvent::GroupLost { group: of, why })) if of == group => {
                let message = format!("this device is no longer a member: {why}");
                return Err(Failure::new(
                    "client.group_lost",
                    Exit::Refused,
                    message,
                    "ask a member to invite you again",
                ));
            }
            Some(Event::Stopped { error: Some(error) }) => {
                return Err(conclave_client::Error::Remote(error).into());
            }
            Some(Event::Stopped { error: None }) | None => {
                return Err(conclave_client::Error::Closed.into());
            }
            Some(event) => {
                if let Some(text) = say::connection_change(&event, context.global.form()) {
                    note(&text, context.global.json);
                }
            }
        }
    }
}

/// Whose states are seen. Several of one device are told as one, where it goes.
#[derive(Default)]
struct There(BTreeSet<(DeviceId, InstanceId, u8)>);

impl There {
    /// Takes note of a change. False: something of a device is gone of which other things are still seen.
    fn changed(&mut self, who: &Present, shows: bool) -> bool {
        let key = (who.device, who.instance, who.index);
        if shows {
            self.0.insert(key);
            return true;
        }
        self.0.remove(&key);
        let of = |(device, instance, _): &(DeviceId, InstanceId, u8)| {
            (*device, *instance) == (who.device, who.instance)
        };
        !self.0.iter().any(of)
    }
}

/// What is shown to others: a JSON object as it is, anything else as a note.
///
/// # Errors
/// [`Failure`]: it is too long.
pub fn showing(text: Option<&str>) -> Result<Showing> {
    let object = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let value = match (object.filter(Value::is_object), text) {
        (Some(object), _) => object,
        (None, Some(text)) => json!({"note": text}),
        (None, None) => json!({}),
    };
    let value = value.to_string();
    if value.len() > SHOWN_BYTES {
        return Err(Failure::new(
            "presence.too_much",
            Exit::Usage,
            format!("at most {SHOWN_BYTES} bytes can be shown to others"),
            "shorten what is given with --show",
        ));
    }
    Ok(Showing {
        kind: ShowingKind::Application,
        value,
    })
}

/// Where in the text somebody is, as line and column from 1, where they show that and it is here.
async fn place_of(
    context: &Context,
    group: GroupId,
    info: &DocumentInfo,
    showing: Option<&Showing>,
) -> Option<(usize, usize)> {
    let value: Value = serde_json::from_str(&showing?.value).ok()?;
    let anchor = match showing?.kind {
        ShowingKind::Awareness => value.get("cursor")?.get("head")?.clone(),
        ShowingKind::Positions => value.get("head")?.clone(),
        ShowingKind::Application => return None,
    };
    let document = info.document;
    let asked = Operation::Locate {
        group,
        document,
        anchor,
    };
    match context.session().run(asked).await.ok()? {
        Outcome::Place { line, column } => Some((line, column)),
        _ => None,
    }
}

fn print_presence(
    context: &Context,
    info: &DocumentInfo,
    who: &Present,
    showing: Option<&Showing>,
    at: Option<(usize, usize)>,
) -> Result<Reader> {
    let value = showing.map(|showing| {
        // What is no JSON is shown as the text that it is.
        serde_json::from_str(&showing.value).unwrap_or_else(|_| json!(showing.value))
    });
    if context.global.json {
        let at = at.map(|(line, column)| json!({"line": line, "column": column}));
        let shows = json!({"kind": showing.map(|showing| showing.kind), "value": value, "at": at});
        return print_json(&json!({"document": info.document, "presence": who, "shows": shows}));
    }
    let name = device_of(&who.name, &who.user, &who.device);
    let Some(value) = value else {
        return print_line(&folded(&format!("{name} is not here any more")));
    };
    let place = at.map(|(line, column)| format!(", at line {line}, column {column}"));
    let note = match value.get("note").and_then(Value::as_str) {
        Some(note) => format!(": {note}"),
        None if at.is_some() || value == json!({}) => String::new(),
        None => format!(": {value}"),
    };
    let place = place.unwrap_or_default();
    print_line(&folded(&format!("{name} is here{place}{note}")))
}

/// What the document shows.
async fn text_of(
    context: &Context,
    group: GroupId,
    info: &DocumentInfo,
    title: &str,
) -> Result<String> {
    match content::read(context, group, info).await {
        Ok(reading) => Ok(reading.content.to_text()),
        Err(failure) => {
            // It may just have been closed.
            is_over(context, group, info, title).await?;
            Err(failure)
        }
    }
}

/// Whether nothing more comes to the document, which is said then. One that is not there any more is a failure, as for every other command.
async fn is_over(
    context: &Context,
    group: GroupId,
    watched: &DocumentInfo,
    title: &str,
) -> Result<bool> {
    let listed = context.documents(group).await?;
    let now = listed.iter().find(|info| info.document == watched.document);
    let what = match now.and_then(|info| info.closed) {
        None => return Ok(false),
        Some(CloseReason::Archived) => {
            let text = format!("{title} was archived: nobody changes it any more");
            note(&text, context.global.json);
            return Ok(true);
        }
        Some(CloseReason::Deleted) => "deleted",
        Some(CloseReason::Lost) => "closed as lost",
    };
    let message = format!("{title} was {what}");
    let hint = "`conclave doc list` shows what is there";
    Err(Failure::new(
        "cli.document_closed",
        Exit::Refused,
        message,
        hint,
    ))
}

fn print_changes(
    context: &Context,
    info: &DocumentInfo,
    changes: &[Change],
    before: &str,
    now: &str,
) -> Result<Reader> {
    let difference = difference(before, now);
    if context.global.json {
        let object =
            json!({"document": info.document, "changes": changes, "difference": difference});
        return print_json(&object);
    }
    let by = by_author(changes)
        .into_iter()
        .map(|(who, count)| format!("{who}: {}", counted(count, "change")));
    let lines = difference.into_iter().map(|line| format!("  {line}"));
    let lines = by.chain(lines).map(|line| folded(&line));
    print_line(&lines.collect::<Vec<_>>().join("\n"))
}

fn device_of(name: &Option<String>, user: &UserId, device: &DeviceId) -> String {
    let name = name.clone().unwrap_or_else(|| user.short());
    format!("{name} (device {})", device.short())
}

/// Runs of changes by one device: who, and how many.
fn by_author(changes: &[Change]) -> Vec<(String, usize)> {
    let mut runs: Vec<(String, usize)> = Vec::new();
    for change in changes {
        let mut who = device_of(&change.name, &change.user, &change.device);
        if let Some(by) = &change.carried_by {
            let carrier = device_of(&by.name, &by.user, &by.device);
            who = format!("{who}, carried by {carrier}");
        }
        match runs.last_mut() {
            Some((last, count)) if *last == who => *count += 1,
            _ => runs.push((who, 1)),
        }
    }
    runs
}

/// Lines that went and came.
fn difference(before: &str, now: &str) -> Vec<String> {
    let diff = TextDiff::from_lines(before, now);
    let lines = diff.iter_all_changes().filter_map(|change| {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => return None,
        };
        Some(format!("{sign} {}", change.value().trim_end_matches('\n')))
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_client::Carrier;

    fn change(user: u8, device: u8, seq: u64, name: Option<&str>) -> Change {
        Change {
            user: UserId([user; 32]),
            device: DeviceId([device; 16]),
            name: name.map(str::to_owned),
            carried_by: None,
            seq,
        }
    }

    #[test]
    fn who_carried_a_change_is_said() {
        let mut carried = change(1, 1, 5, Some("Ana"));
        carried.carried_by = Some(Carrier {
            user: UserId([2; 32]),
            device: DeviceId([2; 16]),
            name: Some("Ben".into()),
        });
        let runs = by_author(&[carried, change(1, 1, 6, Some("Ana"))]);
        let ana = "Ana (device 01010101)".to_owned();
        let by_ben = format!("{ana}, carried by Ben (device 02020202)");
        assert_eq!(runs, [(by_ben, 1), (ana, 1)]);
    }

    #[test]
    fn changes_of_one_device_in_a_row_are_told_together() {
        let changes = [
            change(1, 1, 5, Some("Ana")),
            change(1, 1, 6, Some("Ana")),
            change(1, 2, 7, Some("Ana")),
            change(3, 3, 8, None),
        ];
        let runs = by_author(&changes);
        assert_eq!(runs.len(), 3);
        assert_eq!(runs[0], ("Ana (device 01010101)".into(), 2));
        assert_eq!(runs[2].0, "03030303 (device 03030303)");
    }

    #[test]
    fn differences_are_lines() {
        assert_eq!(
            difference("a\nb\nc\n", "a\nB\nc\nd\n"),
            ["- b", "+ B", "+ d"]
        );
        assert!(difference("same", "same").is_empty());
    }
}

//! `doc pause` and `device pause`, their ends, and what other commands say of a pause.

use clap::Args;
use conclave_client::finding::date;
use conclave_client::proto::{DocumentId, GroupId};
use conclave_client::{DocumentInfo, Operation, Outcome, Pause, PauseChange, PauseInfo, Ways};

use super::document::{Which, called};
use crate::context::{Context, answer};
use crate::failure::Result;
use crate::output::{Shown, counted, note};

/// Which way; neither: both.
#[derive(Debug, Clone, Copy, Args)]
pub struct Way {
    /// Only what is written here: it is not sent
    #[arg(long)]
    send: bool,
    /// Only what others write: it does not come here
    #[arg(long)]
    receive: bool,
}

impl Way {
    fn ways(self) -> Ways {
        match (self.send, self.receive) {
            (true, false) => Ways::Send,
            (false, true) => Ways::Receive,
            _ => Ways::Both,
        }
    }
}

/// What is paused, and since when.
fn paused(pause: &Pause) -> Option<String> {
    Some(match (pause.send, pause.receive) {
        (Some(send), Some(receive)) if date(send) == date(receive) => {
            format!("sending and receiving are paused since {}", date(send))
        }
        (Some(send), Some(receive)) => format!(
            "sending is paused since {}, receiving since {}",
            date(send),
            date(receive)
        ),
        (Some(send), None) => format!("sending is paused since {}", date(send)),
        (None, Some(receive)) => format!("receiving is paused since {}", date(receive)),
        (None, None) => return None,
    })
}

/// What ends it.
fn resumes(info: &PauseInfo, document: &DocumentId) -> String {
    let of_document = format!("`conclave doc resume {}`", document.short());
    match (info.document.is_empty(), info.device.is_empty()) {
        (true, false) => "`conclave device resume`".to_owned(),
        (false, false) => format!("{of_document} and `conclave device resume`"),
        _ => of_document,
    }
}

/// What becomes of something written while a document is paused.
pub fn kept(info: &PauseInfo, document: &DocumentId) -> Option<String> {
    let all = info.all();
    let why = match all.send {
        Some(_) => String::new(),
        None => ", and what is written here waits for that".to_owned(),
    };
    Some(format!(
        "kept here, not sent: {}{why}; {} sends it",
        paused(&all)?,
        resumes(info, document)
    ))
}

/// How a document is paused, for those who look at it.
pub fn sentence(info: &PauseInfo, document: &DocumentId) -> String {
    let bytes = match info.draft_bytes {
        0..1_048_576 => String::new(),
        bytes => format!(" ({} MiB)", bytes / 1_048_576),
    };
    let drafts = match info.drafts {
        0 => "nothing of yours waits".to_owned(),
        drafts => format!(
            "{}{bytes} of yours kept here",
            counted(usize::try_from(drafts).unwrap_or(usize::MAX), "edit")
        ),
    };
    let all = info.all();
    let keys = match all.receive {
        Some(_) => "; later keys of the group stay on this device meanwhile",
        None => "",
    };
    match paused(&all) {
        Some(paused) => format!(
            "{paused}: {drafts}{keys}; {} ends it",
            resumes(info, document)
        ),
        None => format!("resumed: {drafts} until what others wrote has come"),
    }
}

/// Says that what is shown may be old, where what others write does not come here.
pub fn note_old(context: &Context, info: &DocumentInfo) {
    let pause = info.pause.unwrap_or_default();
    if let Some(since) = pause.all().receive {
        let text = format!(
            "note: {} may be old: receiving is paused since {}; {} takes in what others wrote since",
            called(info),
            date(since),
            resumes(&pause, &info.document)
        );
        note(&text, context.global.json);
    }
}

fn begun(ways: Ways) -> &'static str {
    match ways {
        Ways::Both => {
            "paused: what you write stays on this device, and what others write does not come here"
        }
        Ways::Send => "sending paused: what you write stays on this device",
        Ways::Receive => {
            "receiving paused: what others write does not come here, and what you write waits for that"
        }
    }
}

fn ended(info: &PauseInfo) -> String {
    match info.drafts {
        _ if info.all().keeps_drafts() => "resumed in part".to_owned(),
        0 => "resumed".to_owned(),
        drafts => format!(
            "resumed: {} of yours can go now",
            counted(usize::try_from(drafts).unwrap_or(usize::MAX), "edit")
        ),
    }
}

async fn set(
    context: &Context,
    document: Option<(GroupId, DocumentId)>,
    pause: bool,
    way: Way,
) -> Result<PauseInfo> {
    let ways = way.ways();
    let change = PauseChange { pause, ways };
    let outcome = context.run(Operation::Pause { document, change }).await?;
    answer!(outcome, Outcome::Pause(info) => info)
}

/// Pauses a document, or resumes it.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn document(context: &Context, which: &Which, pause: bool, way: Way) -> Result<Shown> {
    let (group, info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
    let document = info.document;
    let target = context.document_target(group, &info).await?;
    let state = set(context, Some((group, document)), pause, way).await?;
    let text = match pause {
        true => begun(way.ways()).to_owned(),
        false => ended(&state),
    };
    let mut shown = Shown::new(text, "pause", state).to(target);
    if pause {
        return Ok(shown);
    }
    if let Some(left) = paused(&state.all()) {
        let left = format!("still: {left}; {} ends that", resumes(&state, &document));
        shown = shown.line(&left);
    }
    let reached = context.sync(group, document, "catching up").await?;
    context.note_stale(reached);
    Ok(shown.with("queued", reached.is_queued()))
}

/// Pauses all documents of this device, or resumes them.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn device(context: &Context, pause: bool, way: Way) -> Result<Shown> {
    let state = set(context, None, pause, way).await?;
    if pause {
        return Ok(Shown::new(begun(way.ways()), "pause", state));
    }
    let mut shown = Shown::new(ended(&state), "pause", state);
    if let Some(left) = paused(&state.device) {
        shown = shown.line(&format!(
            "still: {left}; `conclave device resume` ends that"
        ));
    }
    let reached = context.catch_up().await?;
    context.touch_all();
    context.note_stale(reached);
    Ok(shown.with("queued", reached.is_queued()))
}

/// How the device is paused, for its status.
pub fn of_device(status: &conclave_client::Status) -> Option<String> {
    let mut parts: Vec<String> = paused(&status.pause).into_iter().collect();
    if status.paused_documents > 0 {
        let documents = counted(status.paused_documents, "document");
        parts.push(format!(
            "{documents} paused by themselves: see `conclave doc list`"
        ));
    }
    if status.drafts > 0 {
        parts.push(format!("{} kept here", counted(status.drafts, "edit")));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use conclave_client::proto::UnixMs;

    use super::*;

    #[test]
    fn what_is_paused_and_what_ends_it_is_said() {
        let id = DocumentId([0xab; 16]);
        let began = UnixMs(1_764_547_200_000);
        let since = Some(began);
        let send = Pause {
            send: since,
            receive: None,
        };
        let mut info = PauseInfo {
            document: send,
            ..PauseInfo::default()
        };
        let day = date(began);
        assert_eq!(
            kept(&info, &id).unwrap(),
            format!(
                "kept here, not sent: sending is paused since {day}; `conclave doc resume abababab` sends it"
            )
        );
        info.device.receive = since;
        info.drafts = 2;
        info.draft_bytes = 20 << 20;
        assert_eq!(
            sentence(&info, &id),
            format!(
                "sending and receiving are paused since {day}: 2 edits (20 MiB) of yours kept here; later keys of the group stay on this device meanwhile; `conclave doc resume abababab` and `conclave device resume` ends it"
            )
        );
        info.document = Pause::default();
        assert_eq!(
            kept(&info, &id).unwrap(),
            format!(
                "kept here, not sent: receiving is paused since {day}, and what is written here waits for that; `conclave device resume` sends it"
            )
        );
        assert_eq!(kept(&PauseInfo::default(), &id), None);
    }
}

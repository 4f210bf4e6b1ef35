//! `doc`: documents.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use conclave_client::proto::GroupId;
use conclave_client::proto::record::CloseReason;
use conclave_client::{
    CrdtKind, DocumentInfo, FirstContent, LastInfo, Operation, Outcome, finding,
};

use super::{basis, blame, edit, export, findings, import, log, pause, stuck, watch};
use crate::content::{self, Content};
use crate::context::{Context, Reached, answer};
use crate::failure::{Exit, Failure, Result};
use crate::input::TextEncoding;
use crate::lookup;
use crate::output::{Shown, columns, counted};

/// Which document.
#[derive(Debug, Args)]
pub struct Which {
    /// The document: its id or title
    pub document: String,
    /// Look in this group only
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
}

/// Kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A text, as Yjs keeps it
    Yjs,
    /// JSON, as Automerge keeps it
    Automerge,
}

impl From<Kind> for CrdtKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Yjs => Self::Yjs,
            Kind::Automerge => Self::Automerge,
        }
    }
}

/// Forms in which documents are written to files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Its text
    Text,
    /// Its JSON
    Json,
    /// A Yjs update with the whole document
    Yjs,
    /// An Automerge file
    Automerge,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an empty document
    Create {
        /// The group
        group: String,
        /// Its title; the service does not see it
        title: String,
        /// What it holds
        #[arg(long, value_enum, default_value_t = Kind::Yjs)]
        kind: Kind,
    },
    /// List documents
    List {
        /// This group only
        group: Option<String>,
    },
    /// Create a document from a file: a Yjs or Automerge document as what it is, JSON from .json, a text from anything else
    Import {
        /// The group
        group: String,
        /// The file; - is standard input
        file: PathBuf,
        /// Its title [default: the file's name]
        #[arg(long)]
        title: Option<String>,
        /// How its text is encoded, such as utf-16 or windows-1252 [default: UTF-8]
        #[arg(long, value_name = "NAME")]
        encoding: Option<TextEncoding>,
    },
    /// Show how a document stands here: what waits, on whose word its older text rests, what was found wrong
    Status {
        /// The document
        #[command(flatten)]
        which: Which,
    },
    /// Print a document: its text, or its JSON
    Cat {
        /// The document
        #[command(flatten)]
        which: Which,
    },
    /// Show who wrote which part of a document, and what proves it
    Blame {
        /// The document
        #[command(flatten)]
        which: Which,
        /// Name only who wrote since then: since the change with this number in the document's log, or since a date such as 2026-03-01 or 2026-03-01T12:00:00Z
        #[arg(long, value_name = "NUMBER|DATE")]
        since: Option<blame::Since>,
    },
    /// List the changes of a document: who made each, when, and how much it wrote and took out; the newest last
    Log {
        /// The document
        #[command(flatten)]
        which: Which,
        /// How many at most
        #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only those before the change with this number
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
    },
    /// Edit a document in $VISUAL or $EDITOR; what others write meanwhile is kept
    Edit {
        /// The document
        #[command(flatten)]
        which: Which,
        /// No editor: this file is the new whole; - is standard input
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// What that file was made from: only what differs from it is done to the document
        #[arg(long, value_name = "FILE", requires = "from")]
        base: Option<PathBuf>,
        /// How that file's text is encoded [default: UTF-8]
        #[arg(long, value_name = "NAME", requires = "from")]
        encoding: Option<TextEncoding>,
    },
    /// Add to the end of a text, exactly as it is
    Append {
        /// The document
        #[command(flatten)]
        which: Which,
        /// What to add; - is standard input
        #[arg(default_value = "-")]
        file: PathBuf,
        /// How its text is encoded [default: UTF-8]
        #[arg(long, value_name = "NAME")]
        encoding: Option<TextEncoding>,
    },
    /// Print verified changes of others as they come, each with its author, until Ctrl-C
    Watch {
        /// The document
        #[command(flatten)]
        which: Which,
        /// Also print who else has the document open, and show them that you watch
        #[arg(long)]
        presence: bool,
        /// What to show them: a text, or a JSON object
        #[arg(long, value_name = "TEXT", requires = "presence")]
        show: Option<String>,
    },
    /// Keep what you write in a document on this device, and what others write away from it, until it is resumed
    Pause {
        /// The document
        #[command(flatten)]
        which: Which,
        /// Which way; without an option both
        #[command(flatten)]
        way: pause::Way,
    },
    /// End a pause: what others wrote comes in, then what you wrote goes out
    Resume {
        /// The document
        #[command(flatten)]
        which: Which,
        /// Which way; without an option both
        #[command(flatten)]
        way: pause::Way,
    },
    /// Change a document's title
    Rename {
        /// The document
        #[command(flatten)]
        which: Which,
        /// The new title
        title: String,
    },
    /// Put a document away for everybody: it stays readable
    Archive {
        /// The document
        #[command(flatten)]
        which: Which,
        /// Delete it instead: every member's copy is erased
        #[arg(long)]
        delete: bool,
        /// Close it as lost instead: nobody can open it any more
        #[arg(long, conflicts_with = "delete")]
        lost: bool,
        /// Do not ask, where it is deleted or closed as lost
        #[arg(long)]
        yes: bool,
    },
    /// Take a document up again that was put away: it can be edited as before
    Unarchive {
        /// The document
        #[command(flatten)]
        which: Which,
    },
    /// Declare void what nobody can open in a document, or one change that devices cannot get past, so that it can go on (admins)
    Void {
        /// The document
        #[command(flatten)]
        which: Which,
        /// This change instead, by its number in the document's log: one at which it takes too long to open, as `doc status` says
        #[arg(long, value_name = "NUMBER")]
        record: Option<u64>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Write a document to a file, unencrypted
    Export {
        /// The document
        #[command(flatten)]
        which: Which,
        /// The file; - is standard output
        file: PathBuf,
        /// In which form [default: by the file's extension: .txt, .md, .json, .yjs, .ydoc, .automerge; otherwise as `doc cat` prints it]
        #[arg(long, value_enum)]
        format: Option<Format>,
        /// Replace the file if it is there
        #[arg(long)]
        force: bool,
    },
}

/// Runs one of them. Watching prints by itself.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::Create { group, title, kind } => create(context, &group, &title, kind).await,
        Command::List { group } => list(context, group.as_deref()).await,
        Command::Import {
            group,
            file,
            title,
            encoding,
        } => import::run(context, &group, &file, title, encoding).await,
        Command::Status { which } => basis::status(context, &which).await,
        Command::Cat { which } => cat(context, &which).await,
        Command::Blame { which, since } => blame::run(context, &which, since).await,
        Command::Log {
            which,
            limit,
            before,
        } => log::run(context, &which, limit, before).await,
        Command::Edit {
            which, from: None, ..
        } => edit::in_editor(context, &which).await,
        Command::Edit {
            which,
            from: Some(file),
            base,
            encoding,
        } => edit::from_file(context, &which, &file, base.as_deref(), encoding).await,
        Command::Append {
            which,
            file,
            encoding,
        } => edit::append(context, &which, &file, encoding).await,
        Command::Watch {
            which,
            presence,
            show,
        } => {
            let showing = presence.then(|| watch::showing(show.as_deref()));
            watch::run(context, &which, showing.transpose()?).await
        }
        Command::Pause { which, way } => pause::document(context, &which, true, way).await,
        Command::Resume { which, way } => pause::document(context, &which, false, way).await,
        Command::Rename { which, title } => rename(context, &which, &title).await,
        Command::Archive {
            which,
            delete,
            lost,
            yes,
        } => {
            let reason = match (delete, lost) {
                (true, _) => CloseReason::Deleted,
                (_, true) => CloseReason::Lost,
                _ => CloseReason::Archived,
            };
            archive(context, &which, reason, yes).await
        }
        Command::Unarchive { which } => unarchive(context, &which).await,
        Command::Void {
            which,
            record: None,
            yes,
        } => void(context, &which, yes).await,
        Command::Void {
            which,
            record: Some(seq),
            yes,
        } => stuck::void(context, &which, seq, yes).await,
        Command::Export {
            which,
            file,
            format,
            force,
        } => export::run(context, &which, &file, format, force).await,
    }
}

/// Finds a document and brings it up to date, where the service can be reached.
///
/// # Errors
/// [`Failure`].
pub async fn open(context: &Context, which: &Which) -> Result<(GroupId, DocumentInfo, Reached)> {
    let (group, mut info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
    if info.closed == Some(CloseReason::Archived) {
        // It may have been taken up again, and written in.
        context.touch(group);
        let reached = context.catch_up().await?;
        info = as_it_is_now(context, group, info).await;
        if info.closed.is_some() {
            return Ok((group, info, reached));
        }
    }
    // Nothing more comes to a document that is gone for good.
    if info.closed.is_some() {
        return Ok((group, info, Reached::Yes));
    }
    let reached = fetch(context, group, &info).await?;
    // On whose word it rests is known once it is here.
    let info = as_it_is_now(context, group, info).await;
    basis::note_basis(context, &info);
    pause::note_old(context, &info);
    Ok((group, info, reached))
}

/// What is known of a document by now.
async fn as_it_is_now(context: &Context, group: GroupId, before: DocumentInfo) -> DocumentInfo {
    let mut listed = context.documents(group).await.unwrap_or_default();
    listed.retain(|it| it.document == before.document);
    listed.pop().unwrap_or(before)
}

/// Brings a document up to date. One in a group that takes no changes any more is shown as it is here.
async fn fetch(context: &Context, group: GroupId, info: &DocumentInfo) -> Result<Reached> {
    let failure = match context
        .sync(group, info.document, "fetching the document")
        .await
    {
        Ok(reached) => return Ok(reached),
        Err(failure) => failure,
    };
    let mut groups = context.groups().await?;
    groups.retain(|of| of.group == group);
    if groups.iter().any(|of| of.active && of.frozen.is_some()) {
        context.note_ailing(&groups);
        return Ok(Reached::Yes);
    }
    Err(failure)
}

async fn create(context: &Context, group: &str, title: &str, kind: Kind) -> Result<Shown> {
    let group = context.find_group(group).await?.group;
    let kind = CrdtKind::from(kind);
    let document = created(context, group, title, kind, None).await?;
    finish_new(context, group, document, title, kind).await
}

pub(super) async fn created(
    context: &Context,
    group: GroupId,
    title: &str,
    kind: CrdtKind,
    content: Option<FirstContent>,
) -> Result<conclave_client::proto::DocumentId> {
    let operation = Operation::CreateDocument {
        group,
        kind,
        title: title.to_owned(),
        content,
    };
    answer!(context.run(operation).await?, Outcome::Document(document) => document)
}

pub(super) async fn finish_new(
    context: &Context,
    group: GroupId,
    document: conclave_client::proto::DocumentId,
    title: &str,
    kind: CrdtKind,
) -> Result<Shown> {
    let mut reached = context
        .sync(group, document, "creating the document")
        .await?;
    if !reached.is_queued() {
        // The title is in the group's directory.
        reached = context.refresh(group).await?;
    }
    let text = format!("created {title}\n{document}");
    let target = context.group_target(group).await?;
    let shown = Shown::new(text, "document", document)
        .with("title", title)
        .to(target);
    Ok(shown
        .with("kind", kind.to_string())
        .queued(reached.is_queued()))
}

async fn list(context: &Context, group: Option<&str>) -> Result<Shown> {
    let reached = context.catch_up().await?;
    let groups = match group {
        Some(group) => vec![context.find_group(group).await?],
        None => context
            .groups()
            .await?
            .into_iter()
            .filter(|group| group.active)
            .collect(),
    };
    context.note_ailing(&groups);
    let states = findings::states(context).await?;
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for group in &groups {
        context.touch(group.group);
        let listed = match context.documents(group.group).await {
            Ok(listed) => listed,
            // It was named above; the others are listed all the same.
            Err(_) if groups.len() > 1 => continue,
            Err(failure) => return Err(failure),
        };
        for info in listed {
            let states: Vec<_> = states
                .iter()
                .filter(|it| it.document == Some(info.document) && it.group == Some(group.group))
                .collect();
            let mut row = row(&info);
            if groups.len() > 1 {
                row.push(lookup::told(group));
            }
            rows.push(row);
            let happened = states.iter().map(|it| it.happened.clone());
            rows.extend(happened.map(|happened| {
                let mut row = vec![String::new(); 3];
                row.push(happened);
                row
            }));
            let mut object = serde_json::to_value(&info).unwrap_or_default();
            if let Some(fields) = object.as_object_mut() {
                fields.insert("group".to_owned(), group.group.to_string().into());
                let codes: Vec<&str> = states.iter().map(|it| it.code.as_str()).collect();
                fields.insert("findings".to_owned(), codes.into());
            }
            objects.push(object);
        }
    }
    context.note_stale(reached.with(&groups));
    let text = match rows.is_empty() {
        true => "no documents: `conclave doc create GROUP TITLE`".to_owned(),
        false => columns(&rows),
    };
    Ok(Shown::new(text, "documents", objects))
}

/// What a document is in, where that is not the ordinary.
pub(super) fn state(info: &DocumentInfo) -> String {
    match (&info.closed, info.pending) {
        (Some(CloseReason::Archived), _) => "archived".to_owned(),
        (Some(CloseReason::Deleted), _) => "deleted".to_owned(),
        (Some(CloseReason::Lost), _) => "lost".to_owned(),
        (None, _) if info.pause.is_some_and(|it| it.all().keeps_drafts()) => paused(info),
        (None, 0) if info.size.is_none() => "not here yet".to_owned(),
        (None, 0) => String::new(),
        (None, pending) => format!("{} queued", counted(pending, "edit")),
    }
}

fn row(info: &DocumentInfo) -> Vec<String> {
    let title = info
        .title
        .clone()
        .unwrap_or_else(|| "(title not here yet)".to_owned());
    let written = info.last.as_ref().map(written).unwrap_or_default();
    vec![
        info.document.short(),
        info.kind.clone(),
        title,
        state(info),
        written,
    ]
}

/// Who wrote last, and when: changes carry no time, so that it came between two times; where those are not known, when it was received.
fn written(last: &LastInfo) -> String {
    let name = blame::named(&last.by);
    match blame::record_of(&last.by).and_then(|record| record.when) {
        Some(when) if when.before.is_some() => format!("{name}, {}", log::span(when)),
        _ => format!("{name}, received {}", finding::date(last.received)),
    }
}

/// What a list says of a document that is paused.
fn paused(info: &DocumentInfo) -> String {
    let what = match info.pause.unwrap_or_default().all() {
        all if all.receive.is_none() => "sending paused",
        all if all.send.is_none() => "receiving paused",
        _ => "paused",
    };
    match info.pending {
        0 => what.to_owned(),
        pending => format!("{what}, {} kept here", counted(pending, "edit")),
    }
}

async fn cat(context: &Context, which: &Which) -> Result<Shown> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let reading = content::read(context, group, &info).await?;
    reading.note_hidden(context.global.json);
    let text = reading.content.to_text();
    let mut shown = Shown::raw(text, "document", info.document).with("title", info.title);
    if let Some(parts) = reading.parts {
        shown = shown.with("parts", parts);
    }
    Ok(match reading.content {
        Content::Text(text) => shown.with("text", text),
        Content::Json(value) => shown.with("json", value),
    })
}

async fn rename(context: &Context, which: &Which, title: &str) -> Result<Shown> {
    let (group, info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
    context
        .run(Operation::Rename {
            group,
            document: info.document,
            title: title.to_owned(),
        })
        .await?;
    let reached = context.refresh(group).await?;
    // As it was called: that is what was named.
    let target = context.document_target(group, &info).await?;
    let shown = Shown::new(format!("renamed to {title}"), "document", info.document)
        .to(target)
        .with("title", title);
    Ok(shown.queued(reached.is_queued()))
}

/// What a document is called in a question.
pub(super) fn called(info: &DocumentInfo) -> String {
    match &info.title {
        Some(title) => format!("“{title}” {}", info.document.short()),
        None => format!("document {}", info.document.short()),
    }
}

async fn void(context: &Context, which: &Which, yes: bool) -> Result<Shown> {
    let (group, info, _) = open(context, which).await?;
    let target = context.document_target(group, &info).await?;
    let what = format!(
        "What nobody can open now in {} will count for nobody, even if its key is found later.",
        target.named()
    );
    context.confirm(yes, &what)?;
    let document = info.document;
    let operation = Operation::VoidRecords { group, document };
    let done = context.run_ordered(operation, "declaring void").await?;
    let text = "what nobody can open in this document is void";
    Ok(Shown::new(text, "document", document)
        .to(target)
        .queued(done.is_none()))
}

async fn archive(
    context: &Context,
    which: &Which,
    reason: CloseReason,
    yes: bool,
) -> Result<Shown> {
    let (group, info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
    let target = context.document_target(group, &info).await?;
    let name = target.named();
    match reason {
        CloseReason::Archived => {}
        CloseReason::Deleted => {
            let what = format!("This deletes {name} for every member.");
            context.confirm(yes, &what)?;
        }
        CloseReason::Lost => {
            let what =
                format!("This closes {name} for every member, and erases what they hold of it.");
            context.confirm(yes, &what)?;
        }
    }
    let verb = match reason {
        CloseReason::Deleted => "deleted",
        CloseReason::Lost => "closed as lost",
        CloseReason::Archived => "archived",
    };
    let operation = Operation::CloseDocument {
        group,
        document: info.document,
        reason,
    };
    let done = context
        .run_ordered(operation, "closing the document")
        .await?;
    Ok(Shown::new(verb, "document", info.document)
        .to(target)
        .with("reason", verb)
        .queued(done.is_none()))
}

async fn unarchive(context: &Context, which: &Which) -> Result<Shown> {
    let (group, info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
    let document = info.document;
    match info.closed {
        Some(CloseReason::Archived) => {}
        None => {
            let text = format!("{} is not archived", called(&info));
            return Ok(Shown::new(text, "document", document).with("reopened", false));
        }
        Some(reason) => {
            let how = match reason {
                CloseReason::Lost => "closed as lost",
                _ => "deleted",
            };
            return Err(Failure::new(
                "cli.document_closed",
                Exit::Refused,
                format!(
                    "{} was {how}: only what was archived can be taken up again",
                    called(&info)
                ),
                "`conclave rescue list` shows what was kept of your own words",
            ));
        }
    }
    let target = context.document_target(group, &info).await?;
    let operation = Operation::ReopenDocument { group, document };
    let done = context
        .run_ordered(operation, "taking the document up again")
        .await?;
    Ok(Shown::new("taken up again", "document", document)
        .to(target)
        .with("reopened", true)
        .queued(done.is_none()))
}

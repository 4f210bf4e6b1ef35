//! `doc`: documents.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use conclave_client::proto::GroupId;
use conclave_client::proto::record::CloseReason;
use conclave_client::{CrdtKind, DocumentInfo, Operation, Outcome, View};
use serde_json::Value;

use super::{edit, watch};
use crate::context::{Context, Reached, answer};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, columns, counted};

/// Largest file that is imported, in bytes.
const IMPORT_MAX_BYTES: u64 = 32 * 1024 * 1024;

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
    /// Create a document from a file: JSON from .json, a text from anything else
    Import {
        /// The group
        group: String,
        /// The file
        file: PathBuf,
        /// Its title [default: the file's name]
        #[arg(long)]
        title: Option<String>,
    },
    /// Print a document: its text, or its JSON
    Cat {
        /// The document
        #[command(flatten)]
        which: Which,
    },
    /// Edit a document in $VISUAL or $EDITOR; what others write meanwhile is kept
    Edit {
        /// The document
        #[command(flatten)]
        which: Which,
    },
    /// Print verified changes of others as they come, each with its author, until Ctrl-C
    Watch {
        /// The document
        #[command(flatten)]
        which: Which,
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
    },
    /// Declare void what nobody can open in a document, so that it can go on (admins)
    Void {
        /// The document
        #[command(flatten)]
        which: Which,
    },
    /// Write a document to a file, unencrypted
    Export {
        /// The document
        #[command(flatten)]
        which: Which,
        /// The file
        file: PathBuf,
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
        Command::Import { group, file, title } => import(context, &group, &file, title).await,
        Command::Cat { which } => cat(context, &which).await,
        Command::Edit { which } => edit::run(context, &which).await,
        Command::Watch { which } => watch::run(context, &which).await,
        Command::Rename { which, title } => rename(context, &which, &title).await,
        Command::Archive {
            which,
            delete,
            lost,
        } => {
            let reason = match (delete, lost) {
                (true, _) => CloseReason::Deleted,
                (_, true) => CloseReason::Lost,
                _ => CloseReason::Archived,
            };
            archive(context, &which, reason).await
        }
        Command::Void { which } => void(context, &which).await,
        Command::Export { which, file, force } => export(context, &which, &file, force).await,
    }
}

/// What a document shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Of a Yjs document.
    Text(String),
    /// Of an Automerge document.
    Json(Value),
}

impl Content {
    /// As text for people and files; ends with a line end, unless it is empty.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Json(value) => format!("{value:#}\n"),
        }
    }
}

/// Reads a document as it is here.
///
/// # Errors
/// [`Failure`].
pub async fn show(context: &Context, group: GroupId, info: &DocumentInfo) -> Result<Content> {
    let document = info.document;
    let view = if info.kind == CrdtKind::Automerge.to_string() {
        View::Json
    } else {
        View::Text
    };
    match context
        .run(Operation::Show {
            group,
            document,
            view,
        })
        .await?
    {
        Outcome::Text(text) => Ok(Content::Text(text)),
        Outcome::Json(value) => Ok(Content::Json(value)),
        _ => Err(conclave_client::Error::UnexpectedAnswer.into()),
    }
}

/// Finds a document and brings it up to date, where the service can be reached.
///
/// # Errors
/// [`Failure`].
pub async fn open(context: &Context, which: &Which) -> Result<(GroupId, DocumentInfo, Reached)> {
    let (group, info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
    // Nothing more comes to a document that was closed.
    let reached = match info.closed {
        Some(_) => Reached::Yes,
        None => {
            context
                .sync(group, info.document, "fetching the document")
                .await?
        }
    };
    Ok((group, info, reached))
}

async fn create(context: &Context, group: &str, title: &str, kind: Kind) -> Result<Shown> {
    let group = context.find_group(group).await?.group;
    let document = created(context, group, title, kind, None).await?;
    finish_new(context, group, document, title, kind).await
}

async fn created(
    context: &Context,
    group: GroupId,
    title: &str,
    kind: Kind,
    text: Option<String>,
) -> Result<conclave_client::proto::DocumentId> {
    let operation = Operation::CreateDocument {
        group,
        kind: kind.into(),
        title: title.to_owned(),
        text,
    };
    answer!(context.run(operation).await?, Outcome::Document(document) => document)
}

async fn finish_new(
    context: &Context,
    group: GroupId,
    document: conclave_client::proto::DocumentId,
    title: &str,
    kind: Kind,
) -> Result<Shown> {
    let mut reached = context
        .sync(group, document, "creating the document")
        .await?;
    if !reached.is_queued() {
        // The title is in the group's directory.
        reached = context.refresh(group).await?;
    }
    let text = format!("created {title}\n{document}");
    let shown = Shown::new(text, "document", document)
        .with("group", group)
        .with("title", title);
    Ok(shown
        .with("kind", CrdtKind::from(kind).to_string())
        .queued(reached.is_queued()))
}

async fn import(
    context: &Context,
    group: &str,
    file: &Path,
    title: Option<String>,
) -> Result<Shown> {
    let content = read_import(file)?;
    let title = title.or_else(|| {
        file.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    });
    let title = title.ok_or_else(|| {
        Failure::usage(
            "the file has no name to use as a title",
            "give one with --title",
        )
    })?;
    let group = context.find_group(group).await?.group;
    match content {
        Content::Text(text) => {
            let document = created(context, group, &title, Kind::Yjs, Some(text)).await?;
            finish_new(context, group, document, &title, Kind::Yjs).await
        }
        Content::Json(value) => {
            let document = created(context, group, &title, Kind::Automerge, None).await?;
            context
                .run(Operation::EditJson {
                    group,
                    document,
                    base: None,
                    value,
                })
                .await?;
            finish_new(context, group, document, &title, Kind::Automerge).await
        }
    }
}

fn read_import(file: &Path) -> Result<Content> {
    let failed = |error: std::io::Error| Failure::file("read", file, &error);
    if std::fs::metadata(file).map_err(failed)?.len() > IMPORT_MAX_BYTES {
        let message = format!("{} is larger than {IMPORT_MAX_BYTES} bytes", file.display());
        return Err(Failure::usage(message, "split it into several documents"));
    }
    let bytes = std::fs::read(file).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Failure::usage(
            format!("{} is not UTF-8 text", file.display()),
            "convert it, for example with iconv",
        )
    })?;
    if !file
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
    {
        return Ok(Content::Text(text));
    }
    parse_json(&text).map(Content::Json)
}

/// Reads JSON that a document can hold.
///
/// # Errors
/// It is none, or not an object.
pub fn parse_json(text: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        Failure::new(
            "cli.json",
            Exit::Failed,
            format!("this is not JSON: {error}"),
            "correct it and try again",
        )
    })?;
    if value.is_object() {
        return Ok(value);
    }
    let message = "a JSON document is an object: {…}";
    Err(Failure::new(
        "cli.json",
        Exit::Failed,
        message,
        "put the value into an object, such as {\"value\": …}",
    ))
}

async fn list(context: &Context, group: Option<&str>) -> Result<Shown> {
    let groups = match group {
        Some(group) => vec![context.find_group(group).await?],
        None => context
            .groups()
            .await?
            .into_iter()
            .filter(|group| group.active)
            .collect(),
    };
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    let mut reached = Reached::Yes;
    for group in groups {
        if reached != Reached::No {
            // One that is away does not keep from looking at the others.
            match context.refresh(group.group).await? {
                Reached::Yes => {}
                now => reached = now,
            }
        }
        for info in context.documents(group.group).await? {
            rows.push(row(&info));
            let mut object = serde_json::to_value(&info).unwrap_or_default();
            if let Some(fields) = object.as_object_mut() {
                fields.insert("group".to_owned(), group.group.to_string().into());
            }
            objects.push(object);
        }
    }
    context.note_stale(reached);
    let text = match rows.is_empty() {
        true => "no documents: `conclave doc create GROUP TITLE`".to_owned(),
        false => columns(&rows),
    };
    Ok(Shown::new(text, "documents", objects))
}

fn row(info: &DocumentInfo) -> Vec<String> {
    let state = match (&info.closed, info.pending) {
        (Some(CloseReason::Archived), _) => "archived".to_owned(),
        (Some(CloseReason::Deleted), _) => "deleted".to_owned(),
        (Some(CloseReason::Lost), _) => "lost".to_owned(),
        (None, 0) => String::new(),
        (None, pending) => format!("{} queued", counted(pending, "edit")),
    };
    let title = info
        .title
        .clone()
        .unwrap_or_else(|| "(title not here yet)".to_owned());
    vec![info.document.short(), info.kind.clone(), title, state]
}

async fn cat(context: &Context, which: &Which) -> Result<Shown> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let content = show(context, group, &info).await?;
    let shown = Shown::raw(content.to_text(), "document", info.document).with("title", info.title);
    Ok(match content {
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
    let shown =
        Shown::new(format!("renamed to {title}"), "document", info.document).with("title", title);
    Ok(shown.queued(reached.is_queued()))
}

async fn void(context: &Context, which: &Which) -> Result<Shown> {
    let (group, info, _) = open(context, which).await?;
    let document = info.document;
    let operation = Operation::VoidRecords { group, document };
    let done = context.run_ordered(operation, "declaring void").await?;
    let text = "what nobody can open in this document is void";
    Ok(Shown::new(text, "document", document).queued(done.is_none()))
}

async fn archive(context: &Context, which: &Which, reason: CloseReason) -> Result<Shown> {
    let (group, info) = context
        .find_document(&which.document, which.group.as_deref())
        .await?;
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
        .with("reason", verb)
        .queued(done.is_none()))
}

async fn export(context: &Context, which: &Which, file: &Path, force: bool) -> Result<Shown> {
    let (group, info, reached) = open(context, which).await?;
    context.note_stale(reached);
    let text = show(context, group, &info).await?.to_text();
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .create_new(!force);
    let written = options
        .open(file)
        .and_then(|mut to| std::io::Write::write_all(&mut to, text.as_bytes()));
    written.map_err(|error| {
        let failure = Failure::file("write", file, &error);
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.hinted("name another file, or use --force")
            }
            _ => failure,
        }
    })?;
    let shown = Shown::new(
        format!("wrote {}", file.display()),
        "document",
        info.document,
    );
    Ok(shown.with("file", file).with("bytes", text.len()))
}

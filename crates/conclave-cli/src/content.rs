//! What a document shows, and in which of its forms.

use conclave_client::proto::GroupId;
use conclave_client::{
    CrdtKind, DocumentInfo, EngineError, Error, Operation, Outcome, Part, RootShape, View,
};
use serde_json::{Map, Value};

use crate::context::{Context, answer};
use crate::failure::{Exit, Failure, Result};

/// What a document shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A text.
    Text(String),
    /// JSON.
    Json(Value),
}

impl Content {
    /// As text for people and files; JSON ends with a line end.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Json(value) => format!("{value:#}\n"),
        }
    }
}

/// A document as it is shown.
#[derive(Debug)]
pub struct Reading {
    /// What is shown.
    pub content: Content,
    /// Whether it can be edited in that form.
    pub editable: bool,
    /// Parts that are kept and not shown, each with what it is.
    pub hidden: Vec<String>,
    /// Everything by name, where that is more than what is shown.
    pub parts: Option<Value>,
}

impl Reading {
    /// What to say where it cannot be edited here.
    pub fn refuse_edit(&self) -> Result<()> {
        if self.editable {
            return Ok(());
        }
        Err(Failure::new(
            "cli.not_editable",
            Exit::Failed,
            "this program shows and keeps what this document holds, and cannot edit it: it is neither one text nor a JSON object",
            "`conclave doc export DOC FILE.yjs` writes it for the program that it came from",
        ))
    }

    /// Says on standard error what is not shown.
    pub fn note_hidden(&self, json: bool) {
        if !self.hidden.is_empty() {
            let text = format!(
                "note: the document also holds {}; --json shows it, `conclave doc export DOC FILE.yjs` writes all of it",
                self.hidden.join(", ")
            );
            crate::output::note(&text, json);
        }
    }
}

/// Reads a document in one of its forms. One of which nothing is here is not waited for.
pub async fn view(
    context: &Context,
    group: GroupId,
    info: &DocumentInfo,
    view: View,
) -> Result<Outcome> {
    // One that is paused says so.
    let receives = info.pause.unwrap_or_default().all().receive.is_none();
    if info.size.is_none() && receives {
        return Err(Error::from(EngineError::NotHere).into());
    }
    let document = info.document;
    let operation = Operation::Show {
        group,
        document,
        view,
    };
    context.run(operation).await
}

async fn json(context: &Context, group: GroupId, info: &DocumentInfo) -> Result<Value> {
    answer!(view(context, group, info, View::Json).await?, Outcome::Json(value) => value)
}

/// Reads a document as it is here: the text or JSON object that it is, or as much of it as can be shown.
///
/// # Errors
/// [`Failure`].
pub async fn read(context: &Context, group: GroupId, info: &DocumentInfo) -> Result<Reading> {
    if info.kind == CrdtKind::Automerge.to_string() {
        return Ok(Reading {
            content: Content::Json(json(context, group, info).await?),
            editable: true,
            hidden: Vec::new(),
            parts: None,
        });
    }
    let parts: Vec<Part> =
        answer!(view(context, group, info, View::Parts).await?, Outcome::Parts(parts) => parts)?;
    let of = |shape| {
        parts
            .iter()
            .position(|part| part.editable && part.shape == shape)
    };
    let shown = of(RootShape::Text).or_else(|| of(RootShape::Map));
    // Where nothing can be edited but there is one thing, that is shown.
    let shown = shown.or((parts.len() == 1).then_some(0));
    let all = || -> Map<String, Value> {
        parts
            .iter()
            .map(|part| (part.name.clone(), part.value.clone()))
            .collect()
    };
    let Some((at, part)) = shown.and_then(|at| Some((at, parts.get(at)?))) else {
        let content = match parts.is_empty() {
            true => Content::Text(String::new()),
            false => Content::Json(Value::Object(all())),
        };
        return Ok(Reading {
            content,
            editable: parts.is_empty(),
            hidden: Vec::new(),
            parts: None,
        });
    };
    let content = match (part.shape, &part.value) {
        // As edits are compared with it.
        (RootShape::Map, _) if part.editable => Content::Json(json(context, group, info).await?),
        (_, Value::String(text)) => Content::Text(text.clone()),
        (_, value) => Content::Json(value.clone()),
    };
    let others = parts.iter().enumerate().filter(|(other, _)| *other != at);
    Ok(Reading {
        content,
        editable: part.editable,
        hidden: others.map(|(_, part)| described(part)).collect(),
        parts: (parts.len() > 1).then(|| Value::Object(all())),
    })
}

fn described(part: &Part) -> String {
    let what = match part.shape {
        RootShape::Text => "a text",
        RootShape::Map => "a map",
        RootShape::List => "a list",
        RootShape::Xml => "rich text",
    };
    format!("{:?} ({what})", part.name)
}

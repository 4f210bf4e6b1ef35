//! A group's directory: an encrypted document that holds the group's name and the documents' titles. Titles are content.

use std::collections::BTreeMap;

use conclave_crdt::{CrdtError, CrdtKind, PathElement};
use conclave_doc::Document;
use conclave_proto::{DocumentId, GroupId};
use serde_json::Value;

use crate::document::Doc;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::group::Group;
use crate::io::DocFn;

/// CRDT kind of directories.
pub(crate) const KIND: CrdtKind = CrdtKind::Yjs;
const NAME: &str = "name";
const MAX_TITLE_CHARS: usize = 300;

/// What the directory said when it was last looked at.
#[derive(Default)]
pub(crate) struct Titles {
    pub(crate) name: Option<String>,
    pub(crate) titles: BTreeMap<DocumentId, String>,
}

impl Titles {
    /// Reads the directory document. Entries of other shapes are left alone.
    pub(crate) fn refresh(&mut self, document: &mut Document) {
        let Some(Ok(Value::Object(map))) = document.crdt().json().map(|json| json.to_json()) else {
            return;
        };
        self.name = map.get(NAME).and_then(Value::as_str).map(clip);
        self.titles = map
            .iter()
            .filter_map(|(key, value)| Some((key.parse().ok()?, clip(value.as_str()?))))
            .collect();
    }
}

fn clip(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_TITLE_CHARS)
        .collect()
}

fn set(key: String, text: &str) -> DocFn {
    let value = Value::String(clip(text));
    Box::new(move |crdt| {
        let json = crdt.json().ok_or(CrdtError::Engine)?;
        json.put(&[PathElement::Key(key)], &value)
    })
}

impl Engine {
    /// Creates the directory of a new group.
    pub(crate) fn create_directory(
        &mut self,
        group: &mut Group,
        name: &str,
    ) -> Result<(), EngineError> {
        let id = DocumentId::directory(&group.id);
        self.create_document(group, id, KIND, Some(set(NAME.to_owned(), name)))?;
        group.directory.name = Some(clip(name));
        Ok(())
    }

    /// Gives a document a title.
    pub(crate) fn set_title(&mut self, group: &mut Group, document: DocumentId, title: &str) {
        let f = set(document.to_string(), title);
        let directory = DocumentId::directory(&group.id);
        self.with_document_in(
            group,
            directory,
            None,
            Box::new(
                move |engine: &mut Engine, group: &mut Group, doc: &mut Doc| {
                    if let Err(error) = engine.edit(group, doc, f) {
                        let text = error.to_string();
                        engine.finding(group.id, Some(doc.id), error.code(), None, &text);
                    }
                },
            ),
        );
    }

    /// Looks into the directory when it is first needed.
    pub(crate) fn directory_of(&mut self, id: GroupId) {
        let directory = DocumentId::directory(&id);
        self.with_document(
            id,
            directory,
            None,
            Box::new(|_, group, doc| group.directory.refresh(&mut doc.document)),
        );
    }
}

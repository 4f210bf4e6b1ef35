//! A group's directory: an encrypted document that holds the group's name and the documents' titles. Titles are content.

use std::collections::BTreeMap;

use conclave_crdt::{Crdt, CrdtError, CrdtKind, PathElement};
use conclave_doc::Document;
use conclave_proto::{DocumentId, GroupId};
use serde_json::Value;

use crate::command::Reply;
use crate::document::{Beginning, Doc};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::finding::{FindingKind, Step};
use crate::group::{Group, GroupWork};
use crate::io::{CommandId, DocFn};
use crate::slot::Job;

/// CRDT kind of directories.
pub(crate) const KIND: CrdtKind = CrdtKind::Yjs;
const NAME: &str = "name";
const PARENT: &str = "parent";
const MAX_TITLE_CHARS: usize = 300;

/// What the directory said when it was last looked at.
#[derive(Default)]
pub(crate) struct Titles {
    pub(crate) name: Option<String>,
    /// The group in whose place this one was founded.
    pub(crate) parent: Option<GroupId>,
    pub(crate) titles: BTreeMap<DocumentId, String>,
    /// Whether it was looked at in this session.
    pub(crate) is_read: bool,
}

impl Titles {
    /// Reads the directory document. Entries of other shapes are left alone.
    pub(crate) fn refresh(&mut self, document: &mut Document) {
        self.read(document.crdt());
    }

    pub(crate) fn read(&mut self, crdt: &mut dyn Crdt) {
        self.is_read = true;
        let Some(Ok(Value::Object(map))) = crdt.json().map(|json| json.to_json()) else {
            return;
        };
        let parent = map.get(PARENT).and_then(Value::as_str);
        self.parent = parent.and_then(|parent| parent.parse().ok());
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
        let first = Beginning::Edit(set(NAME.to_owned(), name));
        self.create_document(group, id, KIND, first)?;
        group.directory.name = Some(clip(name));
        Ok(())
    }

    /// Names the group in whose place a new one was founded.
    pub(crate) fn name_parent(&mut self, group: GroupId, parent: GroupId) {
        let f = set(PARENT.to_owned(), &parent.to_string());
        self.with_document(
            group,
            DocumentId::directory(&group),
            None,
            Box::new(move |engine, group, doc| {
                if let Err(error) = engine.edit(group, doc, f) {
                    let what = FindingKind::failed(Step::Title, &error);
                    engine.finding(group.id, Some(doc.id), what, None);
                }
            }),
        );
    }

    /// Gives a document a title. The command is answered when the directory holds it, durably.
    pub(crate) fn set_title(
        &mut self,
        id: CommandId,
        group: &mut Group,
        document: DocumentId,
        title: &str,
    ) {
        let f = set(document.to_string(), title);
        self.with_document_in(
            group,
            DocumentId::directory(&group.id),
            Some(id),
            Box::new(
                move |engine: &mut Engine, group: &mut Group, doc: &mut Doc| {
                    let result = engine.edit(group, doc, f);
                    engine.reply(id, result.map(|()| Reply::Done));
                },
            ),
        );
    }

    /// Writes titles of new documents into the directory, as soon as it is here.
    pub(crate) fn pump_titles(&mut self, group: &mut Group) {
        if group.titling {
            return;
        }
        let waiting = group
            .documents
            .iter()
            .find_map(|(id, row)| row.title.clone().map(|title| (*id, title)));
        let Some((document, title)) = waiting else {
            return;
        };
        group.titling = true;
        let f = set(document.to_string(), &title);
        self.with_document_in(
            group,
            DocumentId::directory(&group.id),
            None,
            Box::new(
                move |engine: &mut Engine, group: &mut Group, doc: &mut Doc| {
                    group.titling = false;
                    if engine.edit(group, doc, f).is_ok()
                        && let Some(row) = group.documents.get_mut(&document)
                    {
                        row.title = None;
                        engine.save_document_row(group, &document);
                        let id = group.id;
                        engine.with_group(id, Box::new(|engine, group| engine.pump_titles(group)));
                    }
                },
            ),
        );
    }

    /// Goes on when the group's directory was looked into, where it is here at all.
    pub(crate) fn after_directory(&mut self, id: GroupId, waiter: CommandId, then: GroupWork) {
        let work: GroupWork = Box::new(move |engine, group| {
            let directory = DocumentId::directory(&group.id);
            let row = group.documents.get(&directory);
            let here = row.is_some_and(|row| row.local) && !group.unreadable.contains(&directory);
            if here {
                engine.with_document_in(
                    group,
                    directory,
                    Some(waiter),
                    Box::new(move |engine, group, doc| {
                        group.directory.refresh(&mut doc.document);
                        then(engine, group);
                    }),
                );
            } else {
                then(engine, group);
            }
        });
        self.with_group_for(
            id,
            Job {
                waiter: Some(waiter),
                work,
            },
        );
    }
}

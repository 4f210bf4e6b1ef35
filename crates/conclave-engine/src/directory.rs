//! A group's directory: an encrypted document that holds the group's name and the documents' titles. Titles are content.

use std::collections::BTreeMap;
use std::fmt;

use conclave_crdt::{Crdt, CrdtError, CrdtKind, PathElement};
use conclave_doc::Document;
use conclave_identity::{shown_name, shown_title};
use conclave_proto::{DocumentId, GroupId};
use serde_json::Value;

use crate::cx::Cx;
use crate::document::{Beginning, Doc};
use crate::error::EngineError;
use crate::finding::{FindingKind, Step};
use crate::group::{DocRow, Group, Whole};
use crate::io::{CommandId, DocFn};
use crate::work::{DirectoryCommand, DocCommand, DocWork};

/// CRDT kind of directories.
pub(crate) const KIND: CrdtKind = CrdtKind::Yjs;
const NAME: &str = "name";
const PARENT: &str = "parent";
/// One of so many titles may have changed unread.
const UNREAD_SHARE: usize = 64;

/// What the directory said when it was last looked at.
#[derive(Default)]
pub(crate) struct Titles {
    pub(crate) name: Option<String>,
    /// The group in whose place this one was founded.
    pub(crate) parent: Option<GroupId>,
    pub(crate) titles: BTreeMap<DocumentId, String>,
    /// Whether it was looked at in this session, and has not changed since.
    pub(crate) is_read: bool,
    /// How often it has changed since.
    unread: usize,
    /// Whether this session has to do without it.
    pub(crate) unreadable: bool,
}

impl fmt::Debug for Titles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Titles({}, {})", self.is_read, self.titles.len())
    }
}

impl Titles {
    /// Reads the directory document. Entries of other shapes are left alone.
    pub(crate) fn refresh(&mut self, document: &mut Document) {
        self.read(document.crdt());
    }

    /// The directory document changed. Reading it costs what all titles cost: where there are many, it waits until somebody needs it, or
    /// until much has changed.
    pub(crate) fn changed(&mut self, document: &mut Document) {
        if self.has_changed() {
            self.refresh(document);
        }
    }

    /// Whether it is time to read it.
    fn has_changed(&mut self) -> bool {
        self.is_read = false;
        self.unread = self.unread.saturating_add(1);
        self.unread >= self.titles.len() / UNREAD_SHARE
    }

    pub(crate) fn read(&mut self, crdt: &mut dyn Crdt) {
        self.unread = 0;
        self.is_read = true;
        self.unreadable = false;
        let Some(Ok(Value::Object(map))) = crdt.json().map(|json| json.to_json()) else {
            return;
        };
        let parent = map.get(PARENT).and_then(Value::as_str);
        self.parent = parent.and_then(|parent| parent.parse().ok());
        // Whoever may edit the directory may have written it with any program: what is no name is shown as none.
        self.name = map.get(NAME).and_then(Value::as_str).map(shown_name);
        self.titles = map
            .iter()
            .filter_map(|(key, value)| Some((key.parse().ok()?, shown_title(value.as_str()?))))
            .collect();
    }
}

fn set(key: String, text: &str) -> DocFn {
    let value = Value::String(text.to_owned());
    Box::new(move |crdt| {
        let json = crdt.json().ok_or(CrdtError::Engine)?;
        json.put(&[PathElement::Key(key)], &value)
    })
}

impl Cx {
    /// Creates the directory of a new group.
    pub(crate) fn create_directory(
        &mut self,
        whole: &mut Whole,
        name: &str,
    ) -> Result<(), EngineError> {
        let id = DocumentId::directory(&whole.group.id);
        let first = Beginning::Edit(set(NAME.to_owned(), name));
        self.create_document(whole, id, KIND, first)?;
        whole.group.directory.name = Some(shown_name(name));
        Ok(())
    }

    /// Makes the directory of a group that has none, where this device is alone in it: whoever founded it stopped half-way.
    pub(crate) fn supply_directory(&mut self, whole: &mut Whole) {
        let group = &whole.group;
        let id = DocumentId::directory(&group.id);
        let lacks = !group.state().has_directory() && !group.documents.contains_key(&id);
        if !lacks || group.state().current_rows().count() != 1 {
            return;
        }
        if let Err(error) = self.create_document(whole, id, KIND, Beginning::Empty) {
            let what = FindingKind::failed(Step::MakeDirectory, &error);
            self.finding(whole.group.id, None, what, None);
        }
    }

    /// Names the group in whose place a new one was founded.
    pub(crate) fn name_parent(&mut self, group: &mut Group, doc: &mut Doc, parent: GroupId) {
        let f = set(PARENT.to_owned(), &parent.to_string());
        if let Err(error) = self.edit(group, doc, f) {
            let what = FindingKind::failed(Step::Title, &error);
            self.finding(group.id, Some(doc.id), what, None);
        }
    }

    /// Gives a document a title, in the directory.
    pub(crate) fn edit_title(
        &mut self,
        group: &mut Group,
        directory: &mut Doc,
        document: DocumentId,
        title: &str,
    ) -> Result<(), EngineError> {
        self.edit(group, directory, set(document.to_string(), title))?;
        group.directory.titles.insert(document, shown_title(title));
        Ok(())
    }

    /// Gives the group another name, in its directory.
    pub(crate) fn edit_name(
        &mut self,
        group: &mut Group,
        directory: &mut Doc,
        name: &str,
    ) -> Result<(), EngineError> {
        self.edit(group, directory, set(NAME.to_owned(), name))?;
        group.directory.name = Some(shown_name(name));
        Ok(())
    }

    /// Writes titles of new documents into the directory, as soon as it is here.
    pub(crate) fn pump_titles(&mut self, whole: &mut Whole) {
        let directory = DocumentId::directory(&whole.group.id);
        for document in std::mem::take(&mut whole.group.titles_due) {
            self.document_work(whole, directory, DocWork::FirstTitle(document));
        }
    }

    /// A new document gets its title. Where that is not possible now, it is tried again.
    pub(crate) fn first_title(
        &mut self,
        group: &mut Group,
        directory: &mut Doc,
        document: DocumentId,
    ) {
        let row = group.documents.get(&document);
        let Some(title) = row.and_then(DocRow::title) else {
            return;
        };
        if let Err(_later) = self.edit_title(group, directory, document, &title) {
            group.titles_due.insert(document);
        } else if let Some(row) = group.documents.get_mut(&document) {
            row.title = None;
            self.save_document_row(group, &document);
        }
    }

    /// Goes on when the group's directory was looked into, where it is here at all.
    pub(crate) fn with_directory(
        &mut self,
        whole: &mut Whole,
        id: CommandId,
        what: DirectoryCommand,
    ) {
        let group = &mut whole.group;
        let directory = DocumentId::directory(&group.id);
        let here = group.is_local(&directory) && !group.directory.unreadable;
        if here {
            let work = DocWork::Command(id, DocCommand::Directory(what));
            self.document_work(whole, directory, work);
        } else {
            self.directory_command(group, id, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_of_the_directory_costs_does_not_grow_with_it() {
        for count in [10_u128, 1_000, 10_000] {
            let title = |n: u128| (DocumentId(n.to_be_bytes()), n.to_string());
            let mut titles = Titles {
                titles: (0..count).map(title).collect(),
                ..Titles::default()
            };
            let mut read = 0;
            for _ in 0..1_000 {
                if titles.has_changed() {
                    read += titles.titles.len();
                    titles.unread = 0;
                }
            }
            assert!(read <= 100 * 1_000, "{read} of {count}");
        }
    }
}

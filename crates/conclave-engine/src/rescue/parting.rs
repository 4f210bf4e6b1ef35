//! The end of a membership: own edits are taken out of what is in the store, then everything of the group goes, in one batch.

use std::collections::BTreeMap;

use conclave_doc::Step;

use super::*;
use crate::gather::GatherFor;
use crate::group::DocRow;
use crate::roots::Roots;

/// Why a membership ends: durable, until it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartingRow {
    pub(crate) cause: RescueCause,
    pub(crate) by: Option<UserId>,
    pub(crate) why: String,
}

impl PartingRow {
    pub(crate) fn left(why: &str) -> Self {
        Self {
            cause: RescueCause::Left,
            by: None,
            why: why.to_owned(),
        }
    }
}

/// A group whose membership has ended, while its rows are read once more.
#[derive(Debug, Clone)]
pub(crate) struct Parted {
    pub(crate) why: String,
    /// There is no room for what has to be kept apart.
    pub(crate) full: bool,
}

/// Whether a document holds own edits that nobody else has, as far as its index row tells.
pub(super) fn holds_unsent(row: &DocRow) -> bool {
    row.is_creating() || (row.is_local() && row.unsent != Some(0))
}

impl Cx {
    /// This device is out, which is durable at once: secrets and documents go, own edits are kept apart.
    pub(crate) fn lose_group(&mut self, group: &mut Group, parting: PartingRow) {
        if group.parting().is_none() {
            self.set_parting(group, parting);
            self.post_group(group.id, GroupWork::Part);
        }
    }

    /// Whether own edits wait in groups that this device is out of, since there is no room to keep them apart.
    pub(crate) fn lacks_room(&self) -> bool {
        self.parting.values().any(|parted| parted.full)
    }

    /// Reads what has to be kept apart before the group's rows go.
    pub(crate) fn begin_parting(&mut self, whole: &mut Whole) {
        let group = &whole.group;
        let id = group.id;
        let Some(parting) = group.parting() else {
            return;
        };
        if !group.documents.values().any(holds_unsent) {
            return self.post(Post::End(id));
        }
        let why = parting.why.clone();
        self.parting.insert(id, Parted { why, full: false });
        self.forget_documents_later(whole);
        // The directory says what they are called.
        let directory = DocumentId::directory(&id);
        let holding = whole.group.documents.iter();
        let holding = holding.filter(|(of, row)| **of != directory && holds_unsent(row));
        let read = holding.map(|(of, _)| of).chain([&directory]);
        let prefixes = read.map(|of| keys::document_prefix(&id, of)).collect();
        self.gather(prefixes, GatherFor::Parting(id));
    }

    /// Keeps apart what a group holds of own edits. False where there is no room.
    pub(crate) fn parting_read(&mut self, group: &Group, rows: &[Row]) -> bool {
        let id = group.id;
        let Some(parting) = group.parting() else {
            return false;
        };
        let made = self.rescue_all(id, &group.documents, &group.roots, rows, parting);
        if !self.has_room_for(&made) {
            // Nothing goes before there is room.
            if let Some(parted) = self.parting.get_mut(&id) {
                parted.full = true;
            }
            self.tell_full(id, None);
            self.answer_parted(id, None, &EngineError::RescueFull);
            return false;
        }
        for made in made {
            let document = made.info.document;
            let rescue = self.keep_apart(made);
            let error = EngineError::Rescued { id: rescue };
            self.answer_parted(id, Some(document), &error);
        }
        self.parting.remove(&id);
        true
    }

    /// Copies of all own edits in a group's rows.
    fn rescue_all(
        &mut self,
        id: GroupId,
        documents: &BTreeMap<DocumentId, DocRow>,
        roots: &Roots,
        rows: &[Row],
        parting: &PartingRow,
    ) -> Vec<Made> {
        let directory = DocumentId::directory(&id);
        let titles = titles_of(rows_of(&id, &directory, rows), roots, &mut self.rng);
        let mut made = Vec::new();
        for (document, row) in documents.iter().filter(|(_, row)| holds_unsent(row)) {
            let of = rows_of(&id, document, rows);
            let Some(mut unsent) = unsent_of(of, roots, row.crdt, &mut self.rng) else {
                continue;
            };
            if *document == directory {
                // Titles of documents that are kept apart go with those.
                let is_kept = |word: &Word| match word.path.first() {
                    Some(Step::Key(key)) => key
                        .parse()
                        .is_ok_and(|id: DocumentId| documents.get(&id).is_some_and(holds_unsent)),
                    _ => false,
                };
                unsent.words.retain(|word| !is_kept(word));
                if row.is_creating() || unsent.words.is_empty() {
                    continue;
                }
            }
            let title = row.title();
            let origin = Origin {
                cause: parting.cause,
                by: parting.by,
                group: id,
                group_name: titles.name.clone(),
                document: *document,
                title: title.or_else(|| titles.titles.get(document).cloned()),
            };
            made.push(self.make_rescue(origin, unsent));
        }
        made
    }
}

impl Engine {
    /// Tries again where there was no room.
    pub(super) fn go_on_parting(&mut self) {
        let full = self.cx.parting.iter().filter(|(_, parted)| parted.full);
        let full: Vec<GroupId> = full.map(|(id, _)| *id).collect();
        for id in full {
            self.with_group(id, GroupWork::Part);
        }
        for id in self.active_groups() {
            self.with_group(id, GroupWork::GoOnClosing);
        }
    }

    /// Leaves a group whose MLS rows cannot be read.
    pub(crate) fn leave_stray(&mut self, id: Option<CommandId>, group: GroupId, why: &str) {
        let why = why.to_owned();
        self.cx.parting.insert(group, Parted { why, full: false });
        let prefixes = vec![keys::group_prefix(&group), keys::documents_prefix(&group)];
        self.cx.gather(prefixes, GatherFor::Stray(group, id));
    }

    pub(crate) fn end_stray(&mut self, id: GroupId, rows: &[Row]) -> Result<(), EngineError> {
        let parted = self.cx.parting.remove(&id);
        let why = parted.map_or_else(String::new, |parted| parted.why);
        let (documents, roots) = Group::holdings(rows);
        let parting = PartingRow::left(&why);
        let made = self.cx.rescue_all(id, &documents, &roots, rows, &parting);
        if !self.cx.has_room_for(&made) {
            self.cx.tell_full(id, None);
            return Err(EngineError::RescueFull);
        }
        for made in made {
            self.cx.keep_apart(made);
        }
        self.cx.drop_group_rows(&id, &documents);
        self.list_as_left(id, &why);
        Ok(())
    }
}

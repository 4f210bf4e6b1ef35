//! The end of a membership: own edits are taken out of what is in the store, then everything of the group goes, in one batch.

use std::collections::BTreeMap;

use conclave_doc::Step;

use super::*;
use crate::group::DocRow;
use crate::roots::Roots;
use crate::slot::Slot;

/// Why a membership ends: durable, until it has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// Rows that are read together, and what is done with them then.
pub(crate) struct Gather {
    missing: usize,
    rows: Vec<Row>,
    then: Gathered,
}

/// What is done with rows that were read together.
pub(super) type Gathered = Box<dyn FnOnce(&mut Engine, Vec<Row>) + Send>;

/// Whether a document holds own edits that nobody else has, as far as its index row tells.
pub(super) fn holds_unsent(row: &DocRow) -> bool {
    row.creating || (row.local && row.unsent != Some(0))
}

impl Engine {
    /// Reads all rows below some prefixes, as they are after this transition's writes.
    pub(super) fn gather(&mut self, prefixes: Vec<Vec<u8>>, then: Gathered) {
        let number = self.fresh_id();
        self.gathers.insert(
            number,
            Gather {
                missing: prefixes.len(),
                rows: Vec::new(),
                then,
            },
        );
        for prefix in prefixes {
            self.read(prefix, ReadTarget::Gather(number));
        }
    }

    pub(crate) fn gathered(&mut self, number: u64, rows: Vec<Row>) {
        let Some(gather) = self.gathers.get_mut(&number) else {
            return;
        };
        gather.rows.extend(rows);
        gather.missing = gather.missing.saturating_sub(1);
        if gather.missing == 0
            && let Some(gather) = self.gathers.remove(&number)
        {
            (gather.then)(self, gather.rows);
        }
    }

    /// This device is out: secrets and documents go, own edits are kept apart.
    pub(crate) fn lose_group(&mut self, group: &mut Group, parting: PartingRow) {
        if group.is_gone() {
            return;
        }
        if group.documents.values().any(holds_unsent) {
            // What is out is durable at once; how it ends follows from it after a restart.
            self.set_parting(group, parting);
            self.begin_parting(group);
        } else {
            self.end_group(group, &parting.why);
        }
    }

    /// Reads what has to be kept apart before the group's rows go.
    pub(crate) fn begin_parting(&mut self, group: &mut Group) {
        let Some(parting) = group.parting().cloned() else {
            return;
        };
        let id = group.id;
        self.parting.insert(
            id,
            Parted {
                why: parting.why,
                full: false,
            },
        );
        self.forget_documents_later(id);
        // The directory says what they are called.
        let directory = DocumentId::directory(&id);
        let holding = group.documents.iter();
        let holding = holding.filter(|(of, row)| **of != directory && holds_unsent(row));
        let read = holding.map(|(of, _)| of).chain([&directory]);
        let prefixes = read.map(|of| keys::document_prefix(&id, of)).collect();
        self.gather(
            prefixes,
            Box::new(move |engine, rows| engine.parting_read(id, &rows)),
        );
    }

    fn parting_read(&mut self, id: GroupId, rows: &[Row]) {
        let mut group = match self.groups.remove(&id) {
            Some(Slot::Hot(group)) => group,
            Some(other) => {
                self.groups.insert(id, other);
                return;
            }
            None => return,
        };
        let Some(parting) = group.parting().cloned() else {
            self.groups.insert(id, Slot::Hot(group));
            return;
        };
        let made = self.rescue_all(id, &group.documents, &group.roots, rows, &parting);
        if !self.has_room_for(&made) {
            // Nothing goes before there is room.
            if let Some(parted) = self.parting.get_mut(&id) {
                parted.full = true;
            }
            self.tell_full(id, None);
            self.answer_parted(id, None, &EngineError::RescueFull);
            self.groups.insert(id, Slot::Hot(group));
            return;
        }
        for made in made {
            let document = made.info.document;
            let rescue = self.keep_apart(made);
            let error = EngineError::Rescued { id: rescue };
            self.answer_parted(id, Some(document), &error);
        }
        self.parting.remove(&id);
        self.end_group(&mut group, &parting.why);
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
                if row.creating || unsent.words.is_empty() {
                    continue;
                }
            }
            let title = row.title.clone();
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

    /// Tries again where there was no room.
    pub(super) fn go_on_parting(&mut self) {
        let full = self.parting.iter().filter(|(_, parted)| parted.full);
        let full: Vec<GroupId> = full.map(|(id, _)| *id).collect();
        for id in full {
            if let Some(Slot::Hot(mut group)) = self.groups.remove(&id) {
                self.begin_parting(&mut group);
                self.groups.insert(id, Slot::Hot(group));
            }
        }
        for id in self.active_groups() {
            self.with_group(id, Box::new(|engine, group| engine.go_on_closing(group)));
        }
    }

    /// Leaves a group whose MLS rows cannot be read.
    pub(crate) fn leave_stray(&mut self, id: CommandId, group: GroupId, why: &'static str) {
        self.parting.insert(
            group,
            Parted {
                why: why.to_owned(),
                full: false,
            },
        );
        let prefixes = vec![keys::group_prefix(&group), keys::documents_prefix(&group)];
        self.gather(
            prefixes,
            Box::new(move |engine, rows| {
                let result = engine.end_stray(group, &rows, why);
                engine.reply(id, result.map(|()| Reply::Done));
            }),
        );
    }

    fn end_stray(&mut self, id: GroupId, rows: &[Row], why: &str) -> Result<(), EngineError> {
        self.parting.remove(&id);
        let (documents, roots) = Group::holdings(rows);
        let parting = PartingRow::left(why);
        let made = self.rescue_all(id, &documents, &roots, rows, &parting);
        if !self.has_room_for(&made) {
            self.tell_full(id, None);
            return Err(EngineError::RescueFull);
        }
        for made in made {
            self.keep_apart(made);
        }
        self.strays.remove(&id);
        self.drop_group_rows(&id);
        self.index_as_left(id, why);
        Ok(())
    }
}

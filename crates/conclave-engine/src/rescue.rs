//! Own edits that have no place any more: their words are kept apart, in the batch that drops the edits, until the user has written them
//! somewhere else or thrown them away. They outlive the document and the membership.

use std::sync::{Arc, OnceLock};

use conclave_crdt::{Crdt, CrdtError, CrdtKind};
use conclave_doc::{
    Around, Inserted, Item, KeySource, Mark, Step, StoredDocument, Typed, Unsent, Word, Written,
    stored_updates, write_words,
};
use conclave_proto::codec::Bytes;
use conclave_proto::{DocumentId, GroupId, Hash, RescueId, UnixMs, UserId};
use serde::{Deserialize, Serialize};

use crate::command::Reply;
use crate::cx::{Cx, Post, ReadTarget};
use crate::directory::Titles;
use crate::document::Doc;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Event;
use crate::finding::{About, End, FindingKind, Suspect};
use crate::group::{Group, Whole};
use crate::io::{CommandId, Row};
use crate::keys;
use crate::membership::GroupSlot;
use crate::work::{DocCommand, DocWork, GroupCommand, GroupWork};

mod closed;
mod parting;
mod stay;

pub(crate) use parting::{Parted, PartingRow};

const VERSION: u16 = 1;
/// Most that is kept apart in one home, in bytes.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Why own edits have no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RescueCause {
    /// The document was deleted.
    Deleted,
    /// The document was put away.
    Archived,
    /// The document was closed since nobody could open it any more.
    Lost,
    /// This device was removed from the group.
    Removed,
    /// The user left the group.
    Left,
    /// The user's role allows no edits any more.
    RoleLost,
    /// The home became a device of its own; its other copy, and the service, may have the edits too.
    OtherCopy,
    /// The edits did not stand, and could not be written again.
    Refused,
    /// The document's log has lost them, and nobody here can carry them: who wrote them may not write there any more, or they are no longer
    /// here as they were signed.
    NotCarried,
    /// They were typed into a copy of the document and not saved into it: the program that had the copy was ended, or could not take them.
    NotSaved,
}

/// Edits that were kept apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueInfo {
    /// Names them.
    pub id: RescueId,
    /// When they lost their place, by this device's clock.
    pub at: UnixMs,
    /// Why.
    pub cause: RescueCause,
    /// Who did that, where somebody did.
    pub by: Option<UserId>,
    /// What they were called here then.
    pub by_name: Option<String>,
    /// The group.
    pub group: GroupId,
    /// What it was called.
    pub group_name: Option<String>,
    /// The document.
    pub document: DocumentId,
    /// What it was called.
    pub title: Option<String>,
    /// Its CRDT kind.
    pub kind: String,
    /// How many edits.
    pub changes: usize,
    /// Size of what is kept, in bytes.
    pub bytes: u64,
    /// Whether the user was told.
    pub told: bool,
}

/// What was kept of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// Where they come from.
    pub info: RescueInfo,
    /// What they did to the document, as far as that was not written into another one since. After a removal without what others wrote.
    pub words: Vec<Word>,
    /// Whether the words tell everything that the edits did.
    pub words_tell_all: bool,
    /// The edits themselves, in the encoding of the CRDT engine. After a removal only where the words do not tell everything, or the document
    /// was never sent.
    pub updates: Vec<Bytes>,
}

/// What became of a copy that was to be written into a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueApplied {
    /// Whether the document was changed.
    pub changed: bool,
    /// How many of its words have no sure place there: they stay in the copy.
    pub left: usize,
    /// Whether the copy stays since its edits did what no words tell.
    pub untold: bool,
}

#[derive(Serialize, Deserialize)]
struct HeadRow {
    version: u16,
    info: RescueInfo,
}

#[derive(Serialize, Deserialize)]
struct BodyRow {
    version: u16,
    words: Vec<Word>,
    words_tell_all: bool,
    updates: Vec<Bytes>,
}

/// What comes of a copy that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RescueUse {
    Show,
    Apply(GroupId, DocumentId),
}

/// A copy that is to be written into a document, as it was read.
pub(crate) struct Applying {
    info: RescueInfo,
    body: BodyRow,
}

/// Where edits come from that are to be kept apart.
pub(crate) struct Origin {
    pub(crate) cause: RescueCause,
    pub(crate) by: Option<UserId>,
    pub(crate) group: GroupId,
    pub(crate) group_name: Option<String>,
    pub(crate) document: DocumentId,
    pub(crate) title: Option<String>,
}

/// A copy that is ready to be stored.
pub(crate) struct Made {
    info: RescueInfo,
    body: zeroize::Zeroizing<Vec<u8>>,
}

impl RescueCause {
    /// Whether the copy holds words alone: nothing of what the group wrote.
    fn is_parting(self) -> bool {
        matches!(self, Self::Removed | Self::Left)
    }
}

/// Reads the first row of a copy.
pub(crate) fn read_head(value: &[u8]) -> Result<RescueInfo, EngineError> {
    let what = "rescue copy";
    let row: HeadRow = keys::uncbor(what, value)?;
    if row.version == VERSION {
        Ok(row.info)
    } else {
        Err(EngineError::Store { what })
    }
}

/// Reads what a copy holds.
fn read_body(value: &[u8]) -> Result<BodyRow, EngineError> {
    let what = "rescue copy";
    if value.len() as u64 > MAX_BYTES {
        return Err(EngineError::Store { what });
    }
    let row: BodyRow = keys::uncbor(what, value)?;
    if row.version == VERSION {
        Ok(row)
    } else {
        Err(EngineError::Store { what })
    }
}

/// Rows of a copy, for the register of decoders.
pub(crate) fn sample() -> (RescueId, Vec<Row>) {
    let id = RescueId([8; 16]);
    let word = Word {
        path: Vec::new(),
        at: 3,
        inserted: Inserted::Text("own words".to_owned()),
        deleted: 2,
        gone: Some("ow".to_owned()),
        around: Some(Around {
            before: "before".to_owned(),
            after: "after".to_owned(),
        }),
    };
    let item = Item {
        at: 0,
        known: None,
        before: None,
        after: Some(Mark {
            id: Some(("id".to_owned(), "1".to_owned())),
            content: Hash([4; 32]),
        }),
    };
    let value = Word {
        path: vec![Step::Key("list".to_owned()), Step::Item(Box::new(item))],
        at: 0,
        inserted: Inserted::Value(r#"{"own":[1,null]}"#.to_owned()),
        deleted: 0,
        gone: None,
        around: None,
    };
    let info = RescueInfo {
        id,
        at: UnixMs(1_700_000_000_000),
        cause: RescueCause::Deleted,
        by: Some(UserId([1; 32])),
        by_name: Some("Ana".to_owned()),
        group: GroupId([2; 16]),
        group_name: Some("Board".to_owned()),
        document: DocumentId([3; 16]),
        title: Some("minutes".to_owned()),
        kind: CrdtKind::Yjs.to_string(),
        changes: 1,
        bytes: 64,
        told: false,
    };
    let version = VERSION;
    let body = BodyRow {
        version,
        words: vec![word, value],
        words_tell_all: true,
        updates: vec![Bytes::from(vec![0, 0])],
    };
    let rows = vec![
        (
            keys::rescue_head(&id),
            keys::cbor(&HeadRow { version, info }),
        ),
        (keys::rescue_body(&id), keys::cbor(&body)),
    ];
    (id, rows)
}

/// What is unsent in a document's rows. Where the document cannot be read, the edits alone.
fn unsent_of(
    rows: Vec<Row>,
    keys: &dyn KeySource,
    kind: u8,
    rng: &mut rand_chacha::ChaCha20Rng,
) -> Option<Unsent> {
    let updates = stored_updates(&rows);
    if let Ok(stored) = StoredDocument::read(rows, keys, rng) {
        return stored.unsent;
    }
    (!updates.is_empty()).then(|| Unsent {
        kind: CrdtKind::from_code(kind).unwrap_or(CrdtKind::Yjs),
        changes: updates.len(),
        words: Vec::new(),
        words_tell_all: false,
        updates,
        is_new: false,
    })
}

/// Titles in a directory's rows.
fn titles_of(rows: Vec<Row>, keys: &dyn KeySource, rng: &mut rand_chacha::ChaCha20Rng) -> Titles {
    let mut titles = Titles::default();
    if let Ok(mut stored) = StoredDocument::read(rows, keys, rng) {
        titles.read(stored.crdt.as_mut());
    }
    titles
}

/// Rows of one document out of many, without their prefix.
fn rows_of(group: &GroupId, document: &DocumentId, rows: &[Row]) -> Vec<Row> {
    let own = rows.iter().filter_map(|(key, value)| {
        let of = keys::of_document(key)?;
        let same = (of.group, of.document) == (*group, *document);
        same.then(|| (of.row.to_vec(), value.clone()))
    });
    own.collect()
}

impl Cx {
    /// Makes a copy, to be stored by [`Self::keep_apart`] in the batch that drops the edits.
    pub(crate) fn make_rescue(&mut self, origin: Origin, unsent: Unsent) -> Made {
        let parting = origin.cause.is_parting();
        let (mut words, mut updates) = (unsent.words, unsent.updates);
        if parting {
            words.iter_mut().for_each(Word::keep_own);
            if unsent.words_tell_all && !unsent.is_new {
                updates.clear();
            }
        }
        let body = keys::cbor(&BodyRow {
            version: VERSION,
            words,
            words_tell_all: unsent.words_tell_all,
            updates: updates
                .iter()
                .map(|update| Bytes::from(update.to_vec()))
                .collect(),
        });
        let info = RescueInfo {
            id: RescueId(self.random16()),
            at: self.now,
            cause: origin.cause,
            by: origin.by,
            by_name: origin.by.and_then(|user| self.name_of(&user)),
            group: origin.group,
            group_name: origin.group_name,
            document: origin.document,
            title: origin.title,
            kind: unsent.kind.to_string(),
            changes: unsent.changes,
            bytes: body.len() as u64,
            told: false,
        };
        Made { info, body }
    }

    /// Whether copies fit in beside those that are here.
    pub(crate) fn has_room_for(&self, made: &[Made]) -> bool {
        let here: u64 = self.rescues.values().map(|info| info.bytes).sum();
        let more: u64 = made.iter().map(|made| made.info.bytes).sum();
        here.saturating_add(more) <= MAX_BYTES
    }

    /// Stores a copy and tells of it. The same batch has to drop the edits.
    pub(crate) fn keep_apart(&mut self, made: Made) -> RescueId {
        let Made { info, body } = made;
        let id = info.id;
        self.put(keys::rescue_body(&id), body);
        self.save_rescue(&info);
        let changes = info.changes as u64;
        let suspect = info.by.map(Suspect::User);
        let what = FindingKind::Rescued { changes };
        // Whoever did not save knows of it, or is told by who kept the words.
        if info.cause != RescueCause::NotSaved {
            self.finding(info.group, Some(info.document), what, suspect);
        }
        self.event(Event::Rescued {
            rescue: info.clone(),
        });
        self.rescues.insert(id, info);
        id
    }

    fn save_rescue(&mut self, info: &RescueInfo) {
        let row = HeadRow {
            version: VERSION,
            info: info.clone(),
        };
        self.put(keys::rescue_head(&info.id), keys::cbor(&row));
    }

    /// Says once per session and document that there is no room to keep more apart.
    pub(crate) fn tell_full(&mut self, group: GroupId, document: Option<DocumentId>) {
        if self.rescue_full.insert((group, document)) {
            self.finding(group, document, FindingKind::RescueFull, None);
        }
    }

    pub(crate) fn list_rescues(&mut self, id: CommandId) {
        let mut all: Vec<_> = self.rescues.values().cloned().collect();
        all.sort_by_key(|info| (info.at, info.id));
        self.reply(id, Ok(Reply::Rescues(all)));
    }

    /// Keeps apart what was typed into a copy of a document.
    pub(crate) fn keep_typed(&mut self, id: CommandId, origin: Origin, typed: &Typed) {
        let (kind, words) = typed.words();
        let unsent = Unsent {
            kind,
            changes: 1,
            words,
            words_tell_all: true,
            updates: Vec::new(),
            is_new: false,
        };
        let made = self.make_rescue(origin, unsent);
        if !self.has_room_for(std::slice::from_ref(&made)) {
            return self.reply(id, Err(EngineError::RescueFull));
        }
        let info = made.info.clone();
        self.keep_apart(made);
        self.reply(id, Ok(Reply::Rescues(vec![info])));
    }

    pub(crate) fn show_rescue(&mut self, id: CommandId, rescue: RescueId) {
        self.read_rescue(id, rescue, RescueUse::Show);
    }

    pub(crate) fn read_rescue_for(
        &mut self,
        id: CommandId,
        rescue: RescueId,
        group: GroupId,
        document: DocumentId,
    ) {
        self.read_rescue(id, rescue, RescueUse::Apply(group, document));
    }

    pub(crate) fn discard_rescue(&mut self, id: CommandId, rescue: &RescueId) {
        let result = if self.rescues.contains_key(rescue) {
            self.drop_rescue(rescue);
            Ok(Reply::Done)
        } else {
            Err(EngineError::UnknownRescue)
        };
        self.reply(id, result);
    }

    pub(crate) fn rescues_told(&mut self, id: CommandId, rescues: Vec<RescueId>) {
        for rescue in rescues {
            if let Some(info) = self.rescues.get_mut(&rescue) {
                info.told = true;
                let info = info.clone();
                self.save_rescue(&info);
            }
        }
        self.reply(id, Ok(Reply::Done));
    }

    fn read_rescue(&mut self, id: CommandId, rescue: RescueId, what: RescueUse) {
        if self.rescues.contains_key(&rescue) {
            let target = ReadTarget::Rescue(id, rescue, what);
            self.read(keys::rescue_body(&rescue), target);
        } else {
            self.reply(id, Err(EngineError::UnknownRescue));
        }
    }

    pub(crate) fn rescue_loaded(
        &mut self,
        id: CommandId,
        rescue: RescueId,
        what: RescueUse,
        rows: &[Row],
    ) {
        let info = self.rescues.get(&rescue).cloned();
        let (Some(info), Some((_, value))) = (info, rows.first()) else {
            return self.reply(id, Err(EngineError::UnknownRescue));
        };
        let body = match read_body(value) {
            Ok(body) => body,
            Err(error) => return self.reply(id, Err(error)),
        };
        match what {
            RescueUse::Show => {
                let rescue = Rescue {
                    info,
                    words: body.words,
                    words_tell_all: body.words_tell_all,
                    updates: body.updates,
                };
                self.reply(id, Ok(Reply::Rescue(Box::new(rescue))));
            }
            RescueUse::Apply(..) if body.words.is_empty() => {
                self.reply(id, Err(EngineError::NoWords));
            }
            RescueUse::Apply(group, document) => {
                let what = DocCommand::ApplyRescue(Box::new(Applying { info, body }));
                self.post_document(group, document, DocWork::Command(id, what));
            }
        }
    }

    /// Writes a copy into a document, unless another command has written it while the document was opened: then it is read again.
    pub(crate) fn apply_rescue(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        id: CommandId,
        what: Applying,
    ) {
        let rescue = what.info.id;
        match self.rescues.get(&rescue).cloned() {
            Some(now) if now.bytes == what.info.bytes => {
                let result = self.write_rescue(group, doc, now, what.body);
                self.reply(id, result.map(Reply::RescueApplied));
            }
            _ => self.read_rescue_for(id, rescue, group.id, doc.id),
        }
    }

    /// Writes a copy into a document. What was written leaves the copy in the same batch: nothing is written twice.
    fn write_rescue(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        mut info: RescueInfo,
        mut body: BodyRow,
    ) -> Result<RescueApplied, EngineError> {
        let words = std::mem::take(&mut body.words);
        let written = Arc::new(OnceLock::new());
        let write = {
            let written = Arc::clone(&written);
            move |crdt: &mut dyn Crdt| {
                let done = write_words(&words, crdt)?;
                written.set(done).map_err(|_| CrdtError::Engine)
            }
        };
        self.edit(group, doc, Box::new(write))?;
        let written = Arc::into_inner(written).and_then(OnceLock::into_inner);
        let Written { changed, left } = written.ok_or(EngineError::UnknownRescue)?;
        let applied = RescueApplied {
            changed,
            left: left.len(),
            untold: !body.words_tell_all,
        };
        if left.is_empty() && body.words_tell_all {
            self.drop_rescue(&info.id);
        } else {
            body.words = left;
            let body = keys::cbor(&body);
            info.bytes = body.len() as u64;
            self.put(keys::rescue_body(&info.id), body);
            self.save_rescue(&info);
            self.rescues.insert(info.id, info);
        }
        Ok(applied)
    }

    /// A copy is not needed any more; what waited for room goes on.
    fn drop_rescue(&mut self, rescue: &RescueId) {
        if let Some(gone) = self.rescues.remove(rescue) {
            let place = (gone.group, gone.document);
            let mut left = self.rescues.values();
            if left.all(|info| (info.group, info.document) != place) {
                self.ended(About::Document(place.0, place.1), End::Cleared);
            }
        }
        self.delete(keys::rescue_head(rescue));
        self.delete(keys::rescue_body(rescue));
        if !self.rescue_full.is_empty() {
            self.post(Post::RescueRoom);
        }
    }
}

impl Engine {
    /// Keeps apart what was typed into a copy of a document, with what document and group are called as far as that is known.
    pub(crate) fn keep_typed(
        &mut self,
        id: CommandId,
        group: GroupId,
        document: DocumentId,
        typed: Box<Typed>,
    ) {
        let here = self.groups.get(&group).map(GroupSlot::membership);
        if here.is_some_and(|here| here.is_active()) {
            let what = GroupCommand::KeepTyped { document, typed };
            return self.with_group(group, GroupWork::Command(id, what));
        }
        let origin = Origin {
            cause: RescueCause::NotSaved,
            by: None,
            group,
            group_name: None,
            document,
            title: None,
        };
        self.cx.keep_typed(id, origin, &typed);
    }

    /// What waited for room to keep edits apart goes on.
    pub(crate) fn rescue_room(&mut self) {
        let waited = std::mem::take(&mut self.cx.rescue_full);
        self.go_on_parting();
        for (group, document) in waited {
            if let Some(document) = document {
                self.with_document(group, document, DocWork::Look);
            }
        }
    }
}

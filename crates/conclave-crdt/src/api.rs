//! The traits that documents implement.

use crate::attribution::Attribution;
use crate::error::CrdtError;
use crate::inspected::Inspected;
use crate::kinds::CrdtKind;
use crate::types::{Applied, ReplicaId, Version};

/// One document of some engine. Object safe, synchronous, no clock, no I/O.
///
/// After [`CrdtError::Panicked`], and after any other refusal half-way, every call returns
/// [`CrdtError::Poisoned`]: drop the document and rebuild it with [`crate::load`] and the log.
pub trait Crdt: Send {
    /// Which engine this is.
    fn kind(&self) -> CrdtKind;

    /// The id under which local edits are written.
    fn replica(&self) -> &ReplicaId;

    /// Which operations an update contains. Pure: does not run the engine or change the document.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`], or [`CrdtError::TooLarge`] if a limit is exceeded.
    fn inspect(&self, update: &[u8]) -> Result<Inspected, CrdtError>;

    /// The counter that the next operation of `replica` must have: one past those that this document holds
    /// without a gap, waiting ones included. For an unknown replica 0 (Yjs) or 1 (Automerge, which numbers
    /// changes from 1). Local edits of Automerge count once they are taken or another update is applied.
    fn next_counter(&self, replica: &ReplicaId) -> u64;

    /// Applies updates of other replicas, in order, as one engine call where the engine allows it. Operations
    /// that are known already are checked against what the document holds and skipped. Operations whose
    /// dependencies are missing wait inside the document (and in its snapshots) until those arrive.
    ///
    /// Call [`Crdt::take_pending`] first.
    ///
    /// # Errors
    /// What [`Crdt::inspect`] refuses is found before anything is applied, anywhere in the batch. After any other error
    /// the updates before the offending one may have been applied; since applying is idempotent, find the culprit by
    /// applying them one by one. [`CrdtError::MissingDependency`]: the waiting room is full; nothing of that update was
    /// kept. A refusal by the engine half-way ([`CrdtError::Panicked`], rarely [`CrdtError::Malformed`]) poisons the
    /// document.
    fn apply(&mut self, updates: &[&[u8]]) -> Result<Applied, CrdtError>;

    /// As [`Crdt::apply`], of updates that [`Crdt::inspect`] has read: each with what that gave for the same bytes.
    ///
    /// # Errors
    /// As [`Crdt::apply`]; [`CrdtError::Malformed`] where an update comes with the reading of one of another kind or length.
    fn apply_inspected(&mut self, updates: Vec<(&[u8], Inspected)>) -> Result<Applied, CrdtError>;

    /// Appends what this replica wrote since the last call, as updates of at most
    /// [`crate::limits::MAX_UPDATE_BYTES`] each, in causal order. They contain operations of this replica only
    /// and no deletion made by anyone else. Nothing is appended if nothing was written.
    ///
    /// # Errors
    /// [`CrdtError::TooLarge`] if a single value does not fit into an update (nothing is taken then);
    /// [`CrdtError::Engine`] if operations of other replicas were written directly into the engine: the
    /// document then holds content that nobody else can get, and is poisoned.
    fn take_pending(&mut self, out: &mut Vec<Vec<u8>>) -> Result<(), CrdtError>;

    /// The whole state, with local edits not yet taken and with everything that waits for missing operations.
    ///
    /// # Errors
    /// [`CrdtError::TooLarge`] above [`crate::limits::MAX_SNAPSHOT_BYTES`]; [`CrdtError::Panicked`],
    /// [`CrdtError::Engine`].
    fn snapshot(&mut self) -> Result<Vec<u8>, CrdtError>;

    /// What the document has integrated (waiting operations not included).
    ///
    /// # Errors
    /// [`CrdtError::Panicked`], [`CrdtError::Engine`].
    fn version(&mut self) -> Result<Version, CrdtError>;

    /// One update with everything integrated here and not in `version`. It may be longer than
    /// [`crate::limits::MAX_UPDATE_BYTES`].
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] if `version` is not a version of this kind.
    fn diff_since(&mut self, version: &Version) -> Result<Vec<u8>, CrdtError>;

    /// A digest over the version, all live operations with their content and positions, the deletions, the
    /// visible text and what is waiting. Equal on all replicas that hold the same set of operations, however
    /// these arrived; used to compare a snapshot with a rebuilt document.
    ///
    /// # Errors
    /// [`CrdtError::Panicked`], [`CrdtError::Engine`].
    fn content_digest(&mut self) -> Result<[u8; 32], CrdtError>;

    /// A digest over everything that shows and nothing else: all parts of the document, with formats, attributes and embedded values, not who
    /// wrote them, when and in how many steps. Equal for two documents that read the same in every way but one: a text without formats and a
    /// plain string are alike, as are a shared map or list and a plain one.
    ///
    /// # Errors
    /// [`CrdtError::TooLarge`] if it is nested deeper than [`crate::limits::MAX_NESTING`]; [`CrdtError::Panicked`], [`CrdtError::Engine`].
    fn visible_digest(&mut self) -> Result<[u8; 32], CrdtError>;

    /// Whether operations wait for dependencies that have not arrived.
    fn has_missing(&self) -> bool;

    /// Every replica with operations in this document, sorted, and the counter of its next one.
    fn replicas(&self) -> Vec<(ReplicaId, u64)>;

    /// The document in the form in which other programs of its engine keep theirs: a Yjs update of version 1, or an Automerge file. With local
    /// edits not yet taken; without what waits for missing operations, of which nothing shows.
    ///
    /// # Errors
    /// [`CrdtError::Panicked`], [`CrdtError::Engine`].
    fn export(&mut self) -> Result<Vec<u8>, CrdtError>;

    /// The named parts of the document, where its kind has such (the root types of Yjs), as far as they can be shown. Empty ones are left out.
    ///
    /// # Errors
    /// [`CrdtError::Panicked`], [`CrdtError::Engine`].
    fn roots(&mut self) -> Result<Vec<Root>, CrdtError> {
        Ok(Vec::new())
    }

    /// Own updates that are in this document, in their order, and that nobody else has yet: as few that say the same, each of at most
    /// [`crate::limits::MAX_UPDATE_BYTES`]. What one replica wrote without a gap is one update. Of Yjs, texts that these updates hold and delete
    /// again are in it no more; of Automerge all changes stay as they are, since those after them name them.
    ///
    /// # Errors
    /// As [`Crdt::inspect`]; [`CrdtError::MissingDependency`] where they are not all in this document.
    fn coalesce(&self, updates: &[&[u8]]) -> Result<Vec<Vec<u8>>, CrdtError>;

    /// Continues under a fresh replica id. Own edits must have been taken. For Yjs this rebuilds the engine
    /// document: references into the old one are dead.
    ///
    /// # Errors
    /// [`CrdtError::Engine`] if own edits are pending or the id has been used in this document;
    /// [`CrdtError::Malformed`] if it is not an id of this kind.
    fn set_replica(&mut self, replica: ReplicaId) -> Result<(), CrdtError>;

    /// The document as one text, if this kind can show it so.
    fn text(&mut self) -> Option<&mut dyn TextView> {
        None
    }

    /// The document as JSON, if this kind can show it so.
    fn json(&mut self) -> Option<&mut dyn JsonView> {
        None
    }

    /// Who wrote what the document shows, if this kind can tell.
    fn attribution(&mut self) -> Option<&mut dyn Attribution> {
        None
    }

    /// The concrete adapter, for applications that use an engine directly.
    fn as_any_mut(&mut self) -> &mut dyn core::any::Any;
}

/// What a named part of a document holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootShape {
    /// A text: what [`TextView`] shows, or another one.
    Text,
    /// A map: what [`JsonView`] shows, or another one.
    Map,
    /// A list.
    List,
    /// A tree of XML elements, as rich-text editors keep it.
    Xml,
}

/// A named part of a document, for showing. `Debug` leaves the content out.
#[derive(Clone, PartialEq)]
pub struct Root {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub shape: RootShape,
    /// Its content as far as JSON can show it, as [`JsonView`] does; XML as a string.
    pub value: serde_json::Value,
    /// Whether it is what [`TextView`] or [`JsonView`] edits.
    pub editable: bool,
}

impl core::fmt::Debug for Root {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Root({:?})", self.shape)
    }
}

/// A plain-text view: the root text `text` of a Yjs document (where there is none and just one other root holds text: that), or the text object
/// under the root key `text` of an Automerge document. Positions and lengths are Unicode scalar values.
pub trait TextView {
    /// The text.
    ///
    /// # Errors
    /// [`CrdtError::Engine`] if the place of the text holds something else; the errors of reading a document.
    fn text(&mut self) -> Result<String, CrdtError>;

    /// Its length in Unicode scalar values.
    ///
    /// # Errors
    /// As [`TextView::text`].
    fn len(&mut self) -> Result<usize, CrdtError>;

    /// Whether the text is empty.
    ///
    /// # Errors
    /// As [`TextView::text`].
    fn is_empty(&mut self) -> Result<bool, CrdtError> {
        Ok(self.len()? == 0)
    }

    /// At `pos_chars`, deletes `delete_chars` characters, then inserts `insert`.
    ///
    /// # Errors
    /// [`CrdtError::InvalidArgument`] if the range is not inside the text.
    fn splice(
        &mut self,
        pos_chars: usize,
        delete_chars: usize,
        insert: &str,
    ) -> Result<(), CrdtError>;

    /// Does to the text what turned the copy `base` into `new`: lines, words and letters that stayed are not touched, words that were
    /// replaced are replaced whole. What has changed since the copy was made survives, as it does where two devices edit apart.
    ///
    /// # Errors
    /// As [`TextView::text`].
    fn merge(&mut self, base: &str, new: &str) -> Result<(), CrdtError>;

    /// The name of the object that holds the text, where anchors in it do not say that by themselves: an Automerge cursor is one of some object.
    ///
    /// # Errors
    /// Those of reading a document.
    fn object(&mut self) -> Result<Option<String>, CrdtError> {
        Ok(None)
    }

    /// What names the place before the character at `pos_chars`, or the end: it stays there while the text changes around it. In the engine's
    /// own form, as JSON ([`anchor`](crate::anchor)).
    ///
    /// # Errors
    /// [`CrdtError::InvalidArgument`] past the end of the text.
    fn anchor(&mut self, pos_chars: usize) -> Result<serde_json::Value, CrdtError>;

    /// Where an anchor stands now; none where it names what is not here, or stands elsewhere than in this text. It may be somebody else's.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] for what is no anchor of this engine; the errors of reading a document.
    fn locate(&mut self, anchor: &serde_json::Value) -> Result<Option<usize>, CrdtError>;

    /// Makes the text equal `new`, as [`TextView::merge`] does with the present text as the copy.
    ///
    /// # Errors
    /// As [`TextView::text`].
    fn replace_all(&mut self, new: &str) -> Result<(), CrdtError> {
        let base = self.text()?;
        self.merge(&base, new)
    }
}

/// One step of a path into a JSON document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathElement {
    /// A key of an object.
    Key(String),
    /// A position in an array.
    Index(usize),
}

impl From<&str> for PathElement {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for PathElement {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// Why an edit of JSON was refused, and where. Nothing was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The place, from the root. Keys are content.
    pub place: Vec<PathElement>,
}

impl core::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Refusal").finish_non_exhaustive()
    }
}

/// The outcome of an edit of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Edited {
    /// Done.
    Done,
    /// Something in the new value stands for what JSON cannot write (see [`JsonView`]), and is not what stood at that place.
    Refused(Refusal),
}

/// A JSON view: the root map `root` of a Yjs document (where there is none and just one other root is a map: that), or the root map of an
/// Automerge document (where the text that every document starts with is left out while it is empty). New strings are written as collaborative texts; a plain string, a date and
/// an unsigned number stay what they are when they are changed, and a counter is counted up or down by the difference.
///
/// What JSON has no word for is an object with the reserved key `$conclave`: `{"$conclave": "bytes", "base64": …}`,
/// `{"$conclave": "number", "value": "NaN" | "Infinity" | "-Infinity"}` and `{"$conclave": "undefined"}` can be written too;
/// `{"$conclave": "xml" | "document" | "unknown", "shown": …}` stands for something that is only carried. It stays as it is while the
/// object stays as it is, and can be removed.
///
/// Yjs numbers are JavaScript numbers: an integral float such as `1.0` reads back as `1`.
pub trait JsonView {
    /// The whole view as an object.
    ///
    /// # Errors
    /// [`CrdtError::TooLarge`] if it is nested deeper than [`crate::limits::MAX_JSON_DEPTH`].
    fn to_json(&mut self) -> Result<serde_json::Value, CrdtError>;

    /// Does to the view what turned the copy `base` into `new`; without a base it becomes `new`. Objects are compared by key, items of
    /// arrays by their ids, their content and their likeness, never by their place alone, and strings as [`TextView::merge`] does. Only
    /// what differs is touched. What has changed since the copy was made survives.
    ///
    /// # Errors
    /// [`CrdtError::InvalidArgument`] if a value is not an object or is nested too deeply.
    fn edit(
        &mut self,
        base: Option<&serde_json::Value>,
        new: &serde_json::Value,
    ) -> Result<Edited, CrdtError>;

    /// Makes the view equal the object `value`, as [`JsonView::edit`] without a base.
    ///
    /// # Errors
    /// [`CrdtError::InvalidArgument`] if `value` is not an object, is nested too deeply or was refused.
    fn merge_json(&mut self, value: &serde_json::Value) -> Result<(), CrdtError> {
        match self.edit(None, value)? {
            Edited::Done => Ok(()),
            Edited::Refused(_) => Err(CrdtError::InvalidArgument),
        }
    }

    /// Sets the value at `path`. The container must exist; an index equal to the length appends.
    ///
    /// # Errors
    /// [`CrdtError::InvalidArgument`] if there is no such place.
    fn put(&mut self, path: &[PathElement], value: &serde_json::Value) -> Result<(), CrdtError>;

    /// Removes the value at `path`.
    ///
    /// # Errors
    /// [`CrdtError::InvalidArgument`] if there is none.
    fn delete(&mut self, path: &[PathElement]) -> Result<(), CrdtError>;
}

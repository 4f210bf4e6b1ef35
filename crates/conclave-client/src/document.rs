//! A document as an application sees it.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use conclave_crdt::{Crdt, CrdtError, CrdtKind, Edited};
use conclave_engine::{
    BlameInfo, BlameView, ChangedInfo, Command, DocFn, DocumentInfo, LogInfo, PauseInfo, Reply,
    Showing, ShowingKind, Ways,
};
use conclave_proto::record::CloseReason;
use conclave_proto::{DocumentId, GroupId};
use serde_json::json;

use crate::client::answer;
use crate::error::Error;
use crate::events::{Change, Changes};
use crate::group::Group;
use crate::presence::Presence;

/// What a [`Document`] handle gives access to: one engine, or whatever the document is ([`Any`]).
pub trait Kind: Send + Sync + 'static {
    /// The CRDT kind that a document must have; none takes all.
    const WANTED: Option<CrdtKind>;
}

/// The adapter of a CRDT engine: its documents are edited with the engine's own API.
pub trait Adapter: Kind + Sized {
    /// The engine's kind.
    const CRDT: CrdtKind;

    /// The adapter behind the trait object, if it is of this engine.
    fn narrow(crdt: &mut dyn Crdt) -> Option<&mut Self>;
}

/// A document of whatever kind, edited through [`Crdt`]'s views.
#[derive(Debug)]
pub enum Any {}

impl Kind for Any {
    const WANTED: Option<CrdtKind> = None;
}

macro_rules! adapter {
    ($adapter:ty, $kind:expr) => {
        impl Kind for $adapter {
            const WANTED: Option<CrdtKind> = Some($kind);
        }

        impl Adapter for $adapter {
            const CRDT: CrdtKind = $kind;

            fn narrow(crdt: &mut dyn Crdt) -> Option<&mut Self> {
                crdt.as_any_mut().downcast_mut()
            }
        }
    };
}

adapter!(conclave_crdt::yjs::Yrs, CrdtKind::Yjs);
adapter!(conclave_crdt::automerge::Automerge, CrdtKind::Automerge);

/// A handle to a document.
///
/// Edits and reads are closures that run with the document in hand, on the client's thread or, where the document is large, on one beside it: keep
/// them short, and do not keep what they were given. What they return comes back, also an error of the application's own. A closure that panics is contained: the call gives
/// [`CrdtError::Panicked`], and the document is rebuilt from what is durable.
pub struct Document<K: Kind> {
    group: Group,
    id: DocumentId,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Clone for Document<K> {
    fn clone(&self) -> Self {
        Self::new(self.group.clone(), self.id)
    }
}

impl<K: Kind> std::fmt::Debug for Document<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document")
            .field("group", &self.group.id())
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why an edit or a reading did not come about. In both cases the document is as it was before: what a closure did is kept whole or not at all.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EditError<E> {
    /// What the closure gave back.
    #[error("{0}")]
    Closure(E),
    /// The closure did not run, or what it did cannot stand.
    #[error(transparent)]
    Client(#[from] Error),
}

impl<E: Into<Error>> From<EditError<E>> for Error {
    fn from(error: EditError<E>) -> Self {
        match error {
            EditError::Closure(error) => error.into(),
            EditError::Client(error) => error,
        }
    }
}

/// Keeps a panic of the application's closure from ending the client.
pub(crate) fn contained(f: DocFn) -> DocFn {
    Box::new(move |crdt: &mut dyn Crdt| {
        catch_unwind(AssertUnwindSafe(|| f(crdt))).unwrap_or(Err(CrdtError::Panicked))
    })
}

/// Where a closure leaves what it returns.
struct Returned<T, E>(Arc<Mutex<Option<Result<T, E>>>>);

impl<T, E> Returned<T, E> {
    /// What the whole call gives, once the command that carried the closure is answered.
    fn after(self, answer: Result<(), Error>) -> Result<T, EditError<E>> {
        let returned = self.0.lock().ok().and_then(|mut slot| slot.take());
        match (answer, returned) {
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Err(_), Some(Err(error))) => Err(EditError::Closure(error)),
            (Err(error), _) => Err(error.into()),
            (Ok(()), _) => Err(Error::UnexpectedAnswer.into()),
        }
    }
}

/// Wraps a closure so that what it returns can be fetched when the answer is there. The outer error: it does not fit the document.
fn returning<T: Send + 'static, E: Send + 'static>(
    f: impl FnOnce(&mut dyn Crdt) -> Result<Result<T, E>, CrdtError> + Send + 'static,
) -> (DocFn, Returned<T, E>) {
    let slot = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    let f: DocFn = Box::new(move |crdt: &mut dyn Crdt| {
        let returned = f(crdt)?;
        // Which error it is does not matter below: it makes the document undo what was done.
        let outcome = match &returned {
            Ok(_) => Ok(()),
            Err(_) => Err(CrdtError::InvalidArgument),
        };
        if let Ok(mut slot) = filled.lock() {
            *slot = Some(returned);
        }
        outcome
    });
    (contained(f), Returned(slot))
}

/// The same for a closure that takes one engine.
fn returning_of<K: Adapter, T: Send + 'static, E: Send + 'static>(
    f: impl FnOnce(&mut K) -> Result<T, E> + Send + 'static,
) -> (DocFn, Returned<T, E>) {
    returning(|crdt| {
        let crdt = K::narrow(crdt).ok_or(CrdtError::InvalidArgument)?;
        Ok(f(crdt))
    })
}

impl<K: Kind> Document<K> {
    pub(crate) fn new(group: Group, id: DocumentId) -> Self {
        Self {
            group,
            id,
            kind: PhantomData,
        }
    }

    /// The document.
    #[must_use]
    pub fn id(&self) -> DocumentId {
        self.id
    }

    /// Its group.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    fn ids(&self) -> (GroupId, DocumentId) {
        (self.group.id(), self.id)
    }

    async fn run<T, E>(
        &self,
        edits: bool,
        (f, returned): (DocFn, Returned<T, E>),
    ) -> Result<T, EditError<E>> {
        let (group, document) = self.ids();
        let command = match edits {
            true => Command::Edit { group, document, f },
            false => Command::View { group, document, f },
        };
        let answer = self.group.client().command_done(command).await;
        returned.after(answer)
    }

    /// The document as whatever it is, for edits through [`Crdt`]'s views.
    #[must_use]
    pub fn as_any(&self) -> Document<Any> {
        Document::new(self.group.clone(), self.id)
    }

    /// Title, kind, size, pending edits.
    ///
    /// # Errors
    /// [`Error::NoDocument`].
    pub async fn info(&self) -> Result<DocumentInfo, Error> {
        self.group.document_info(&self.id).await
    }

    /// Who wrote what the document shows, down to single characters and values: the record that brought them, and what proves it.
    ///
    /// # Errors
    /// [`Error::Engine`]: the group's policy keeps that out of its documents, or the document does not show itself so.
    pub async fn blame(&self, view: BlameView) -> Result<BlameInfo, Error> {
        let (group, document) = self.ids();
        let command = Command::Blame {
            group,
            document,
            view,
        };
        answer!(self.group.client().command(command).await, Reply::Blame(blame) => *blame)
    }

    /// The last records of the document's log before a position, or of all: who wrote each, when, and how much it did; of what is part of the saved state
    /// what is still known. At most 500 at once; [`LogInfo::older`] says where the page before begins.
    ///
    /// # Errors
    /// [`Error::Engine`] when there is no such document.
    pub async fn log(&self, before: Option<u64>, limit: usize) -> Result<LogInfo, Error> {
        let (group, document) = self.ids();
        let command = Command::Log {
            group,
            document,
            before,
            limit,
        };
        answer!(self.group.client().command(command).await, Reply::Log(page) => *page)
    }

    /// What a change did to what the document shows: places, with what was taken out and put in there. It is looked up when this is called, which takes time in
    /// proportion to the document; what is part of the saved state by then is not known any more. Own edits that had no place in the log before the change are not
    /// counted in.
    ///
    /// # Errors
    /// As [`Document::blame`].
    pub async fn changed(&self, change: &Change) -> Result<ChangedInfo, Error> {
        self.changed_between(change.seq, change.seq).await
    }

    /// What the records from `first` to `last` did together.
    ///
    /// # Errors
    /// As [`Document::blame`].
    pub async fn changed_between(&self, first: u64, last: u64) -> Result<ChangedInfo, Error> {
        let (group, document) = self.ids();
        let command = Command::Changed {
            group,
            document,
            first,
            last,
        };
        answer!(self.group.client().command(command).await, Reply::Changed(changed) => *changed)
    }

    /// Verified changes of others, from now on, each with its author.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let (group, document) = self.ids();
        Changes::new(self.group.client().events(), group, document)
    }

    /// What others show in the document now, and what this device shows there.
    ///
    /// # Errors
    /// [`Error::Engine`]: there is no such document, or presence is shown or watched in too many.
    pub async fn presence(&self) -> Result<Presence, Error> {
        let (group, document) = self.ids();
        Presence::begin(self.group.client(), group, document).await
    }

    /// Waits until the service has acknowledged every local edit and everything it holds is here. While offline that waits.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member or there is no such document, or it is paused (`pause.on`).
    pub async fn synced(&self) -> Result<(), Error> {
        let (group, document) = self.ids();
        self.group
            .client()
            .command_done(Command::Synced { group, document })
            .await
    }

    /// Pauses the document on this device, until it is resumed: also over restarts. While sending is paused, what is written here stays here as drafts;
    /// they are counted by [`Document::pending`], and others' devices and a change of the group's keys wait for none of them. While receiving is
    /// paused the document is not open at the service, and what is written here waits too: nothing goes out before what others wrote is here.
    ///
    /// At 16 MiB of drafts, or after a week, a finding tells of them (`document.drafts_wait`); edits beyond 64 MiB are refused (`pause.full`).
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member or there is no such document.
    pub async fn pause(&self, ways: Ways) -> Result<PauseInfo, Error> {
        let client = self.group.client();
        client.set_pause(Some(self.ids()), true, ways).await
    }

    /// Ends that. What others wrote meanwhile comes in first, in one step; then the drafts are joined, and sent in as few records as hold them. Where the
    /// whole device is paused the document stays so.
    ///
    /// # Errors
    /// As [`Document::pause`].
    pub async fn resume(&self, ways: Ways) -> Result<PauseInfo, Error> {
        let client = self.group.client();
        client.set_pause(Some(self.ids()), false, ways).await
    }

    /// Local edits that the service has not acknowledged, those included that stay here while sending is paused.
    ///
    /// # Errors
    /// [`Error::NoDocument`].
    pub async fn pending(&self) -> Result<usize, Error> {
        Ok(self.info().await?.pending)
    }

    /// Changes the title.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it.
    pub async fn rename(&self, title: &str) -> Result<(), Error> {
        let (group, document) = self.ids();
        self.group
            .client()
            .command_done(Command::Rename {
                group,
                document,
                title: title.to_owned(),
            })
            .await
    }

    /// Puts the document away for everybody: it can be read and no longer be edited.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it.
    pub async fn archive(&self) -> Result<(), Error> {
        self.group
            .close_document(&self.id, CloseReason::Archived)
            .await
    }

    /// Opens the document again for everybody, where it was put away.
    ///
    /// # Errors
    /// As [`Group::reopen_document`].
    pub async fn unarchive(&self) -> Result<(), Error> {
        self.group.reopen_document(&self.id).await
    }

    /// Deletes the document for everybody: members erase their copies.
    ///
    /// # Errors
    /// [`Error::Engine`]: the role does not allow it.
    pub async fn delete(&self) -> Result<(), Error> {
        self.group
            .close_document(&self.id, CloseReason::Deleted)
            .await
    }
}

impl<K: Adapter> Document<K> {
    /// Edits the document with the engine's own API. Resolves when the edit is durable here; it is then sealed, sent and acknowledged in the
    /// background, now or when the service is next reached.
    ///
    /// Where the closure gives an error or panics, nothing that it did stays. Where the call is dropped before the edit has begun, it never
    /// begins; after that it is kept, or undone, whole.
    ///
    /// # Errors
    /// [`EditError::Closure`] with what the closure gave back; [`EditError::Client`] with [`Error::Engine`]: the role does not allow it, the
    /// document is closed, the closure panicked, the edit is too large for one record, or this device is no member.
    pub async fn edit<T: Send + 'static, E: Send + 'static>(
        &self,
        f: impl FnOnce(&mut K) -> Result<T, E> + Send + 'static,
    ) -> Result<T, EditError<E>> {
        self.run(true, returning_of(f)).await
    }

    /// Reads the document as it is here now. The closure must not edit.
    ///
    /// # Errors
    /// [`EditError::Closure`] with what the closure gave back; [`EditError::Client`] with [`Error::Engine`]: no such document, its first
    /// snapshot has not arrived, or the closure panicked.
    pub async fn read<T: Send + 'static, E: Send + 'static>(
        &self,
        f: impl FnOnce(&mut K) -> Result<T, E> + Send + 'static,
    ) -> Result<T, EditError<E>> {
        self.run(false, returning_of(f)).await
    }
}

impl Document<Any> {
    /// Edits the document where nothing is to come back: also when the edit was made before, by an earlier call of the same operation.
    pub(crate) async fn change(
        &self,
        f: impl FnOnce(&mut dyn Crdt) -> Result<(), CrdtError> + Send + 'static,
    ) -> Result<(), Error> {
        let (group, document) = self.ids();
        let f = contained(Box::new(f));
        self.group
            .client()
            .command_done(Command::Edit { group, document, f })
            .await
    }

    /// Edits the document through [`Crdt`]'s views. As [`Document::edit`] of an engine.
    ///
    /// # Errors
    /// As there.
    pub async fn edit<T: Send + 'static, E: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Crdt) -> Result<T, E> + Send + 'static,
    ) -> Result<T, EditError<E>> {
        self.run(true, returning(|crdt| Ok(f(crdt)))).await
    }

    /// Reads the document through [`Crdt`]'s views. The closure must not edit.
    ///
    /// # Errors
    /// As [`Document::read`] of an engine.
    pub async fn read<T: Send + 'static, E: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Crdt) -> Result<T, E> + Send + 'static,
    ) -> Result<T, EditError<E>> {
        self.run(false, returning(|crdt| Ok(f(crdt)))).await
    }

    /// A selection in the text, to be shown to others ([`Document::presence`]): from `anchor` to `head`, which is where the cursor is, in
    /// characters. It stays where it is while the text changes. For Yjs it is an awareness state with a cursor of relative positions, as editors have it; for
    /// Automerge an object's id with two cursors in it.
    ///
    /// # Errors
    /// As [`Document::read`] of an engine; the closure's where a place lies past the end of the text.
    pub async fn selection(&self, anchor: usize, head: usize) -> Result<Showing, Error> {
        let shown = self.read(move |crdt| {
            let kind = crdt.kind();
            let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
            let (anchor, head) = (view.anchor(anchor)?, view.anchor(head)?);
            Ok::<_, CrdtError>(match kind {
                CrdtKind::Automerge => {
                    let object = view.object()?;
                    let positions = json!({"object": object, "anchor": anchor, "head": head});
                    (ShowingKind::Positions, positions)
                }
                _ => {
                    let cursor = json!({"anchor": anchor, "head": head});
                    (ShowingKind::Awareness, json!({"cursor": cursor}))
                }
            })
        });
        let (kind, value) = shown.await?;
        let value = value.to_string();
        Ok(Showing { kind, value })
    }

    /// Does to the text, in one step, what turned the copy `base` into `text`. What changed since the copy was made survives, as it does
    /// where two devices edit apart. Without a base the text becomes `text`, and what stays of it is not touched.
    ///
    /// # Errors
    /// As [`Document::edit`].
    pub async fn edit_text(&self, base: Option<String>, text: String) -> Result<(), Error> {
        self.change(move |crdt| {
            let view = crdt.text().ok_or(CrdtError::InvalidArgument)?;
            match base {
                Some(base) => view.merge(&base, &text),
                None => view.replace_all(&text),
            }
        })
        .await
    }

    /// The same for the JSON view.
    ///
    /// # Errors
    /// As [`Document::edit`].
    pub async fn edit_json(
        &self,
        base: Option<serde_json::Value>,
        value: serde_json::Value,
    ) -> Result<Edited, Error> {
        let refused = Arc::new(Mutex::new(None));
        let why = Arc::clone(&refused);
        let changed = self.change(move |crdt| {
            let view = crdt.json().ok_or(CrdtError::InvalidArgument)?;
            match view.edit(base.as_ref(), &value)? {
                Edited::Done => Ok(()),
                Edited::Refused(refusal) => {
                    if let Ok(mut why) = why.lock() {
                        *why = Some(refusal);
                    }
                    // A change that is refused is none, and is not remembered as one.
                    Err(CrdtError::InvalidArgument)
                }
            }
        });
        let changed = changed.await;
        match refused.lock().ok().and_then(|mut refused| refused.take()) {
            Some(refusal) => Ok(Edited::Refused(refusal)),
            None => changed.map(|()| Edited::Done),
        }
    }
}

//! A document as an application sees it.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use conclave_crdt::{Crdt, CrdtError, CrdtKind, Edited};
use conclave_engine::{Command, DocFn, DocumentInfo};
use conclave_proto::record::CloseReason;
use conclave_proto::{DocumentId, GroupId};

use crate::error::Error;
use crate::events::Changes;
use crate::group::Group;

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
/// Edits and reads are closures that run on the client's thread with the document in hand: keep them short, and do not keep what they were
/// given. What they return comes back. A closure that panics is contained: the call gives [`CrdtError::Panicked`], and the document is
/// rebuilt from what is durable.
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

/// Where a closure leaves what it returns.
type Slot<T> = Arc<Mutex<Option<T>>>;

/// Keeps a panic of the application's closure from ending the client.
pub(crate) fn contained(f: DocFn) -> DocFn {
    Box::new(move |crdt: &mut dyn Crdt| {
        catch_unwind(AssertUnwindSafe(|| f(crdt))).unwrap_or(Err(CrdtError::Panicked))
    })
}

/// Wraps a closure so that its result can be fetched when the answer is there.
fn returning<T: Send + 'static>(
    f: impl FnOnce(&mut dyn Crdt) -> Result<T, CrdtError> + Send + 'static,
) -> (DocFn, Slot<T>) {
    let slot: Slot<T> = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    let f: DocFn = Box::new(move |crdt: &mut dyn Crdt| {
        let value = f(crdt)?;
        if let Ok(mut slot) = filled.lock() {
            *slot = Some(value);
        }
        Ok(())
    });
    (contained(f), slot)
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

    async fn run<T: Send + 'static>(
        &self,
        edits: bool,
        f: impl FnOnce(&mut dyn Crdt) -> Result<T, CrdtError> + Send + 'static,
    ) -> Result<T, Error> {
        let (group, document) = self.ids();
        let (f, slot) = returning(f);
        let command = match edits {
            true => Command::Edit { group, document, f },
            false => Command::View { group, document, f },
        };
        self.group.client().command_done(command).await?;
        let value = slot.lock().ok().and_then(|mut slot| slot.take());
        value.ok_or(Error::UnexpectedAnswer)
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

    /// Verified changes of others, from now on, each with its author.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let (group, document) = self.ids();
        Changes::new(self.group.client().events(), group, document)
    }

    /// Waits until the service has acknowledged every local edit and everything it holds is here. While offline that waits.
    ///
    /// # Errors
    /// [`Error::Engine`] when this device is no member or there is no such document.
    pub async fn synced(&self) -> Result<(), Error> {
        let (group, document) = self.ids();
        self.group
            .client()
            .command_done(Command::Synced { group, document })
            .await
    }

    /// Local edits that the service has not acknowledged.
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
    /// # Errors
    /// What the closure returns; [`Error::Engine`]: the role does not allow it, the document is closed, or this device is no member.
    pub async fn edit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut K) -> Result<T, CrdtError> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(true, |crdt| {
            f(K::narrow(crdt).ok_or(CrdtError::InvalidArgument)?)
        })
        .await
    }

    /// Reads the document as it is here now. The closure must not edit.
    ///
    /// # Errors
    /// What the closure returns; [`Error::Engine`]: no such document, or its first snapshot has not arrived.
    pub async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut K) -> Result<T, CrdtError> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(false, |crdt| {
            f(K::narrow(crdt).ok_or(CrdtError::InvalidArgument)?)
        })
        .await
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
    pub async fn edit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Crdt) -> Result<T, CrdtError> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(true, f).await
    }

    /// Reads the document through [`Crdt`]'s views. The closure must not edit.
    ///
    /// # Errors
    /// As [`Document::read`] of an engine.
    pub async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut dyn Crdt) -> Result<T, CrdtError> + Send + 'static,
    ) -> Result<T, Error> {
        self.run(false, f).await
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

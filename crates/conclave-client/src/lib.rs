//! What an application embeds: one device with its encrypted store, its connection, its groups and documents.
//!
//! ```no_run
//! use conclave_client::proto::GroupPolicy;
//! use conclave_client::{Client, Config, CrdtError, Yrs};
//! use yrs::{Text, Transact};
//!
//! # async fn example(bobs_contact: &str, carols_contact: &str) -> Result<(), conclave_client::Error> {
//! let client = Client::open(Config::new("/home/ana/.conclave", "wss://ds.example")).await?;
//! let bob = client.verify(bobs_contact, true).await?.user;
//! let carol = client.verify(carols_contact, true).await?.user;
//!
//! let group = client.create_group("Board", GroupPolicy::default()).await?;
//! group.invite(&bob).await?; // verified first, or a typed error says why not
//! group.invite(&carol).await?;
//!
//! let notes = group.create_document::<Yrs>("minutes").await?;
//! notes
//!     .edit(|doc| {
//!         let text = doc.doc().get_or_insert_text("text");
//!         text.insert(&mut doc.doc().transact_mut(), 0, "Present: Ana, Bob"); // plain yrs code
//!         Ok::<_, CrdtError>(()) // or any error of your own
//!     })
//!     .await?; // durable here; sealed, sent and acknowledged in the background
//! notes.synced().await?;
//!
//! let mut changes = notes.changes(); // verified changes of others, each with its author
//! while let Some(Ok(change)) = changes.next().await {
//!     println!("{} wrote", change.name.unwrap_or_else(|| change.user.short()));
//! }
//!
//! let report = group.remove(&carol).await?; // resolves when every document is re-keyed
//! println!("{} documents re-keyed in {:?}", report.documents, report.elapsed);
//! client.close().await
//! # }
//! ```
//!
//! Everything works without a connection; what has to be sent waits in the store. A new device needs no service at all to begin:
//!
//! ```
//! use conclave_client::proto::{GroupPolicy, RealmId};
//! use conclave_client::{Automerge, Client, Config, CrdtError, Setup};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), conclave_client::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path().join("ana");
//! let setup = Setup::NewUser { name: "Ana".to_owned(), realm: RealmId::ZERO };
//! let client = Client::create(Config::offline(&folder), setup).await?;
//! let group = client.create_group("Home", GroupPolicy::default()).await?;
//! let list = group.create_document::<Automerge>("shopping").await?.as_any();
//! list.edit(|doc| doc.text().ok_or(CrdtError::InvalidArgument)?.replace_all("milk")).await?;
//! client.close().await?;
//!
//! let client = Client::open(Config::offline(&folder)).await?;
//! let list = client.group(&group.id()).await?.document::<Automerge>(&list.id()).await?.as_any();
//! let text = list.read(|doc| doc.text().ok_or(CrdtError::InvalidArgument)?.text()).await?;
//! assert_eq!(text, "milk");
//! # client.close().await
//! # }
//! ```
//!
//! # What it promises
//! - **Durable, then sent, then told.** What a call or an event reports is on disk; a frame leaves only after the state that it came from is.
//!   A crash at any point leaves a store from which the device goes on.
//! - **Sealed at rest.** See [`store`] for what is hidden and what is not.
//! - **No keys in sight.** An application handles names, ids and documents. Nobody is invited who was not verified, unless the group's policy says otherwise.
//! - **Any runtime.** The device runs on a thread of its own, beside whatever runtime the application has, or none. [`Session`] and
//!   [`local`] want tokio.
//! - **Bounded.** Every queue has a limit; a slow application slows the service down and never loses an acknowledged change.
//!
//! # What it never does
//! It never prints or logs content, names, passphrases or keys. It never opens a store that another process has open ([`Session`] talks to
//! that process instead). It contains no protocol logic: that is `conclave-engine`.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

include!(concat!(env!("OUT_DIR"), "/broken.rs"));

mod actor;
mod awareness;
mod client;
mod config;
mod document;
mod error;
mod events;
#[doc(hidden)]
pub mod forensic;
mod group;
#[cfg(unix)]
pub mod local;
pub mod naming;
mod operation;
mod presence;
#[doc(hidden)]
pub mod reading;
mod session;
pub mod store;
pub mod transport;
mod trouble;

pub use conclave_crdt::automerge::Automerge;
pub use conclave_crdt::limits::MAX_JSON_DEPTH;
pub use conclave_crdt::yjs::Yrs;
pub use conclave_crdt::{
    Crdt, CrdtError, CrdtKind, Edited, Foreign, ForeignError, PathElement, Refusal, RootShape,
    is_unwritable, recognise,
};
pub use conclave_engine::evidence;
#[doc(hidden)]
pub use conclave_engine::plain;
pub use conclave_engine::{
    Approval, AwaitedInfo, BasisInfo, BlameInfo, BlameShown, BlameValue, BlameView, Carrier,
    ChangedInfo, Clock, ClockOffset, DeletedInfo, DeviceInfo, DocumentInfo, EditInfo, EngineError,
    EvidenceInfo, Finding, FindingId, FindingInfo, GroupInfo, InvitationInfo, LastInfo, LogInfo,
    LogRecordInfo, MemberInfo, NotRekeyed, NotRekeyedWhy, Pause, PauseChange, PauseInfo, Person,
    PinInfo, PlaceChange, PlaceInfo, PolicyChange, Present, RecordInfo, RecordWriter, RecordedInfo,
    RekeyingInfo, RequestInfo, Rescue, RescueApplied, RescueCause, RescueInfo, RevocationInfo,
    RevokedGroup, RevokedStage, Run, Setup, Showing, ShowingKind, Span, StuckInfo, UnderWay, Ways,
    WhoAmI, WriterInfo, finding,
};
pub use conclave_engine::{Around, Inserted, Item, Mark, Step, Typed, Word};
pub use conclave_proto as proto;

pub use awareness::Awareness;
pub use client::{Client, Invitation, Status};
pub use config::Config;
pub use document::{Adapter, Any, Document, EditError, Kind};
pub use error::{Error, RemoteError};
pub use events::{Change, Changes, DeviceEvent, Event, Events, Missed};
pub use group::{Group, Removal};
pub use operation::{FirstContent, Operation, Outcome, Part, View, run};
pub use presence::{Attendance, Presence, PresenceChange};
pub use session::{Opening, Session, SessionEvents};
pub use trouble::{CertificateFault, Connection, Denial, Trouble};

//! One device as a pure state machine: groups, documents, intents, queues, rotation.
//!
//! [`Engine::handle`] takes one [`Input`] and gives one [`Output`]. The shell around it makes the output's writes durable as one transaction,
//! then sends its frames, then tells its events; it answers its reads. A crash between any two outputs leaves a store from which
//! [`Engine::open`] goes on.
//!
//! The engine promises that it never blocks, never fails half-way, never acknowledges what is not in its writes, and that what the user
//! wants is remembered until it is done, superseded or failed with a reason. It never does I/O, never reads a clock or the store by
//! itself, and never draws randomness but from its seed (OpenMLS has entropy of its own; no decision depends on it).

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

mod backoff;
mod beat;
mod clock;
mod command;
mod commands;
mod cx;
mod device;
mod directory;
mod document;
mod engine;
mod error;
mod event;
pub mod evidence;
pub mod finding;
#[doc(hidden)]
pub mod forensic;
mod gather;
mod give_back;
mod group;
mod intents;
mod invariants;
mod invitation;
mod io;
pub mod kept;
mod keys;
mod life;
mod link;
mod membership;
mod merge;
mod operations;
mod packages;
mod pause;
#[doc(hidden)]
pub mod plain;
mod policy;
mod presence;
mod print;
mod rescue;
mod revocation;
mod roots;
mod rotation;
mod service;
mod settled;
pub mod shell;
mod slot;
mod stand;
mod timers;
mod unsent;
mod work;

pub use clock::{Clock, ClockOffset};
pub use command::{
    Approval, AwaitedInfo, Command, DeviceInfo, DocumentInfo, EvidenceInfo, GroupInfo,
    InvitationInfo, LastInfo, MemberInfo, OperationId, PinInfo, RecordInfo, Reply, RequestInfo,
    Setup, Status, StuckInfo, WhoAmI,
};
pub use conclave_crdt::Run;
pub use conclave_doc::View as BlameView;
pub use conclave_doc::{
    Around, At, Cost, Inserted, Item, Mark, RecordAt, Step, Typed, Watch, Word,
};
pub use conclave_identity::is_escaped;
pub use document::{
    BlameInfo, BlameShown, BlameValue, ChangedInfo, DeletedInfo, Done, EditInfo, Job, Lending,
    LogInfo, LogRecordInfo, PlaceChange, PlaceInfo, RecordWriter, RecordedInfo, Span, Work, WorkId,
    WriterInfo,
};
pub use engine::Engine;
pub use error::EngineError;
pub use event::{
    BasisInfo, Carrier, ChangeInfo, Event, Person, Present, Showing, ShowingKind, Told,
};
pub use finding::{Finding, FindingId, FindingInfo, FindingKind};
#[doc(hidden)]
pub use invariants::LogMark;
pub use io::{CommandId, DocFn, Input, Moment, Output, Read, ReadId, Row, WriteBatch};
pub use pause::{Pause, PauseChange, PauseInfo, Ways};
pub use policy::PolicyChange;
pub use presence::{Attended, AttendeeId};
pub use rescue::{Rescue, RescueApplied, RescueCause, RescueInfo};
pub use revocation::{RevocationInfo, RevokedGroup, RevokedStage};
pub use rotation::{NotRekeyed, NotRekeyedWhy, RekeyingInfo};
pub use settled::UnderWay;

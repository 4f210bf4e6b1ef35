//! What tests of several crates share. For development only: it is never published, and only test targets may use it.
//!
//! [`suite`] is what every storage backend of `conclave-order` has to pass; [`decoders`] is the register of all that reads bytes;
//! [`founded`] is a group with real keys before the real ordering core;
//! [`costly`] are updates that cost an engine more than they are long;
//! [`rows`] are a device's rows in memory, [`service`] is a service for worlds; [`peers`] are no services, and [`merges`] cases of edits by several.

pub mod costly;
pub mod database;
pub mod decoders;
pub mod faulty;
pub mod founded;
pub mod ids;
pub mod members;
pub mod merges;
pub mod peers;
pub mod records;
pub mod rows;
pub mod service;
pub mod suite;
pub mod world;

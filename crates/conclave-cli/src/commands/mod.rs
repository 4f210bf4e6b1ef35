//! One file per group of commands.

pub mod agent;
pub mod basis;
mod blame;
pub mod device;
pub mod document;
pub mod edit;
pub mod evidence;
pub mod export;
pub mod findings;
pub mod group;
pub mod identity;
pub mod import;
mod log;
pub mod pause;
pub mod policy;
pub mod repair;
pub mod rescue;
pub mod revoke;
pub mod serve;
pub mod server;
pub mod status;
mod stuck;
pub mod watch;

//! What groups and documents need of the service around them.

use conclave_order::{Keys, Reader, Rows};
use conclave_proto::frame::Plea;
use conclave_proto::{DeviceId, GroupId, UserId};
use conclave_rules::LogId;
use tokio_util::task::TaskTracker;

use crate::apart::Apart;
use crate::config::{Clock, Limits};
use crate::error::OpError;
use crate::heads::Heads;
use crate::hub::Hub;
use crate::misconduct::Misconduct;
use crate::rate::Buckets;
use crate::sqlite::Reads;
use crate::writer::Writer;

/// The way to storage, time, tasks and connections.
pub(crate) struct Env {
    pub(crate) reads: Reads,
    pub(crate) writer: Writer,
    /// Tasks that a stopping service waits for.
    pub(crate) tasks: TaskTracker,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) hub: Hub,
    /// What signs heads, and the service's generation.
    pub(crate) heads: Heads,
    /// How often a user may renew leaves of a group.
    pub(crate) self_updates: Buckets<(GroupId, UserId)>,
    /// How often a group may renew leaves in all.
    pub(crate) group_self_updates: Buckets<GroupId>,
    /// How often a user may change a group's policy.
    pub(crate) policies: Buckets<(GroupId, UserId)>,
    /// How many of its own devices a user may add to a group.
    pub(crate) own_adds: Buckets<(GroupId, UserId)>,
    /// How many records of a group a user may declare void.
    pub(crate) voids: Buckets<(GroupId, UserId)>,
    /// How many devices of another user a user may add to a group: the user who adds, and whose they are.
    pub(crate) other_adds: Buckets<(GroupId, UserId, UserId)>,
    /// How often a device may come back into a group.
    pub(crate) returns: Buckets<(GroupId, DeviceId)>,
    /// Tells the operator who misbehaves.
    pub(crate) misconduct: Misconduct,
    /// Where offers are judged.
    pub(crate) apart: Apart,
    /// How often a plea is told again.
    pub(crate) repeated_asks: Buckets<(GroupId, DeviceId, Plea)>,
    /// How often a user may write snapshots of a document with little new in them.
    pub(crate) snapshots: Buckets<(UserId, LogId)>,
    /// Verdicts.
    pub(crate) verdicts: Buckets<(UserId, LogId)>,
}

impl Env {
    /// Loads rows beside those that are there.
    pub(crate) async fn load(&self, keys: &Keys, rows: &mut Rows) -> Result<(), OpError> {
        let mut reads = self.reads.acquire().await?;
        rows.extend(reads.load(keys).await?);
        Ok(())
    }
}

//! What groups and documents need of the service around them.

use sqlx::sqlite::SqlitePool;
use tokio_util::task::TaskTracker;

use crate::config::{Clock, Limits};
use crate::store::writer::Writer;

/// The way to storage, time and tasks.
pub(crate) struct Env {
    pub(crate) reads: SqlitePool,
    pub(crate) writer: Writer,
    /// Tasks that a stopping service waits for.
    pub(crate) tasks: TaskTracker,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
}

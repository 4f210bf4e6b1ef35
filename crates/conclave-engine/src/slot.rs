//! Things that are loaded when needed: work waits until they are.

use crate::io::CommandId;

/// A piece of work, and the command that waits for it: answered with an error if the work can never run.
pub(crate) struct Job<W> {
    pub(crate) waiter: Option<CommandId>,
    pub(crate) work: W,
}

impl<W> From<W> for Job<W> {
    fn from(work: W) -> Self {
        Self { waiter: None, work }
    }
}

/// A group or document.
pub(crate) enum Slot<T, W> {
    /// Its rows were asked for; work waits.
    Loading(Vec<Job<W>>),
    /// In memory.
    Hot(Box<T>),
    /// Taken out by a running piece of work; further work waits until it is put back.
    Busy(Vec<Job<W>>),
}

impl<T, W> Slot<T, W> {
    /// Commands that wait for it to come into memory.
    pub(crate) fn waiters(&self) -> Vec<CommandId> {
        match self {
            Self::Loading(queue) | Self::Busy(queue) => {
                queue.iter().filter_map(|job| job.waiter).collect()
            }
            Self::Hot(_) => Vec::new(),
        }
    }

    /// The thing itself, when it is in memory and not taken out.
    pub(crate) fn hot(&self) -> Option<&T> {
        match self {
            Self::Hot(thing) => Some(thing),
            _ => None,
        }
    }
}

//! Things that are loaded when needed: work waits until they are.

use crate::io::CommandId;

/// A piece of work. The command behind it, if there is one, is answered with an error if the work can never run.
pub(crate) trait Work {
    /// The command that waits for it.
    fn waiter(&self) -> Option<CommandId>;
}

/// A group or document.
#[derive(Debug)]
pub(crate) enum Slot<T, W> {
    /// Its rows were asked for; work waits.
    Loading(Vec<W>),
    /// In memory.
    Hot(Box<T>),
}

impl<T, W: Work> Slot<T, W> {
    /// Commands that wait for it to come into memory.
    pub(crate) fn waiters(&self) -> Vec<CommandId> {
        match self {
            Self::Loading(queue) => queue.iter().filter_map(Work::waiter).collect(),
            Self::Hot(_) => Vec::new(),
        }
    }

    /// The thing itself, when it is in memory.
    pub(crate) fn hot(&self) -> Option<&T> {
        match self {
            Self::Hot(thing) => Some(thing),
            Self::Loading(_) => None,
        }
    }

    pub(crate) fn hot_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Hot(thing) => Some(thing),
            Self::Loading(_) => None,
        }
    }
}

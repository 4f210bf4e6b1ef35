//! Things that are loaded when needed: work waits until they are.

/// A group or document.
pub(crate) enum Slot<T, W> {
    /// Its rows were asked for; work waits.
    Loading(Vec<W>),
    /// In memory.
    Hot(Box<T>),
    /// Taken out by a running piece of work; further work waits until it is put back.
    Busy(Vec<W>),
}

impl<T, W> Slot<T, W> {
    /// The thing itself, when it is in memory and not taken out.
    pub(crate) fn hot(&self) -> Option<&T> {
        match self {
            Self::Hot(thing) => Some(thing),
            _ => None,
        }
    }
}

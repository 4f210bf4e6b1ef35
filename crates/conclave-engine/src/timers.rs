//! When to do what. One timer of each kind; the earliest is known.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::{DocumentId, GroupId, UnixMs};

/// What is due when a timer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TimerKind {
    /// Publish the own device list again.
    Publish,
    /// Publish key packages: again, or in place of old ones.
    Packages,
    /// Whoever waits for other devices of the user has waited long enough.
    Siblings,
    /// Compare the clocks again.
    Clock,
    /// Take in invitations that were left at the service.
    Invitations,
    /// Open the next of the documents that are to be opened again.
    NextOpen,
    /// Look up the newest device list of the next member.
    Lists,
    /// Look at the own list again: somebody names a device on it again and again that was taken away here.
    OwnList,
    /// Try again to get back into a group whose MLS rows were lost.
    Stray(GroupId),
    /// Say in a group what the service showed here.
    Beat(GroupId),
    /// Look into what the service showed others in a group, and not here.
    Heads(GroupId),
    /// Something of a group.
    Group(GroupId, GroupTimer),
    /// Something of a document.
    Document(GroupId, DocumentId, DocTimer),
}

/// What is due in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum GroupTimer {
    /// Ask again about a user who is invited and has no device that can be added.
    Lacking,
    /// Look at its intents again.
    Pump,
    /// Commit pending proposals of others.
    Cover,
    /// Renew the own leaf.
    SelfUpdate,
    /// Remove what is off the own list, if nobody has.
    PruneOwn,
    /// Remove what is off members' lists, if none of theirs has.
    PruneListed,
    /// Help with re-keying.
    Rotate,
    /// Go on with re-keying.
    Rekey,
    /// Say again that re-keying is complete.
    Complete,
    /// See what others have found of documents that still need former roots.
    LetGo,
    /// See whether somebody lacks roots that are here.
    Wrap,
    /// Look at the GroupInfo that the service keeps.
    CheckInfo,
    /// Look for documents under old roots.
    Ages,
    /// Ask for roots that are still missing.
    Roots,
    /// Bring back what the service lost of the log, of which it has so much.
    GiveBack(Option<u64>),
}

/// What is due in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum DocTimer {
    /// Write a verdict.
    Verdict,
    /// See whether a snapshot can be confirmed.
    Confirm,
    /// Try a snapshot again after a refusal, if one is still due.
    Snapshot,
    /// Make the snapshot that another device was to make, if it is still due.
    SnapshotTurn,
    /// See again what it lacks.
    Fetch,
    /// Ask again to open it.
    Open,
    /// Carry what its log has lost of others.
    Carry,
    /// Tell of drafts that wait long.
    Drafts,
}

impl TimerKind {
    /// Whether it is of the connection on which it was set. The next one asks and publishes anew.
    pub(crate) fn is_of_connection(&self) -> bool {
        match self {
            Self::Publish
            | Self::Packages
            | Self::Clock
            | Self::Invitations
            | Self::NextOpen
            | Self::Lists
            | Self::OwnList
            | Self::Beat(_)
            | Self::Heads(_) => true,
            Self::Document(_, _, what) => match what {
                DocTimer::Snapshot | DocTimer::Fetch | DocTimer::Open | DocTimer::Carry => true,
                DocTimer::Verdict
                | DocTimer::Confirm
                | DocTimer::SnapshotTurn
                | DocTimer::Drafts => false,
            },
            Self::Group(_, what) => matches!(what, GroupTimer::GiveBack(_)),
            Self::Siblings | Self::Stray(_) => false,
        }
    }
}

/// The same time by a clock that was set back by so much.
pub(crate) fn earlier(at: UnixMs, by_ms: u64) -> UnixMs {
    UnixMs(at.0.saturating_sub(by_ms))
}

/// All timers that are set.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(UnixMs, TimerKind)>,
    by_kind: BTreeMap<TimerKind, UnixMs>,
}

impl Timers {
    /// Sets a timer; one of the same kind that is set already stays.
    pub(crate) fn set(&mut self, at: UnixMs, kind: TimerKind) {
        if !self.is_set(kind) {
            self.by_kind.insert(kind, at);
            self.by_time.insert((at, kind));
        }
    }

    pub(crate) fn cancel(&mut self, kind: TimerKind) {
        if let Some(at) = self.by_kind.remove(&kind) {
            self.by_time.remove(&(at, kind));
        }
    }

    pub(crate) fn cancel_where(&mut self, gone: impl Fn(&TimerKind) -> bool) {
        self.by_kind.retain(|kind, _| !gone(kind));
        self.by_time.retain(|(_, kind)| !gone(kind));
    }

    /// When a timer is due, where it is set.
    pub(crate) fn at(&self, kind: TimerKind) -> Option<UnixMs> {
        self.by_kind.get(&kind).copied()
    }

    pub(crate) fn is_set(&self, kind: TimerKind) -> bool {
        self.by_kind.contains_key(&kind)
    }

    pub(crate) fn next(&self) -> Option<UnixMs> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes those that are due.
    pub(crate) fn take_due(&mut self, now: UnixMs) -> Vec<TimerKind> {
        let mut due = Vec::new();
        while let Some((at, kind)) = self.by_time.first().copied().filter(|(at, _)| *at <= now) {
            self.by_time.remove(&(at, kind));
            self.by_kind.remove(&kind);
            due.push(kind);
        }
        due
    }

    /// Whether both orders hold the same timers.
    pub(crate) fn agree(&self) -> bool {
        let by_kind = self.by_kind.iter().map(|(kind, at)| (*at, *kind));
        by_kind.collect::<BTreeSet<_>>() == self.by_time
    }

    /// The clock was set back by so much.
    pub(crate) fn move_back(&mut self, by_ms: u64) {
        let times = self.by_kind.values_mut();
        times.for_each(|at| *at = earlier(*at, by_ms));
        let moved = std::mem::take(&mut self.by_time).into_iter();
        self.by_time = moved.map(|(at, kind)| (earlier(at, by_ms), kind)).collect();
    }
}

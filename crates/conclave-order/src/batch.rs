//! Operations that share a transaction.

use conclave_proto::Refusal;

use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits::Limits;
use crate::op::{Asked, Op, Session};
use crate::runs;
use crate::usage::{Deltas, charge};

/// What an operation comes to.
#[derive(Debug)]
pub struct Decided {
    /// What it changes; all of it or nothing.
    pub changes: Vec<Change>,
    /// What is told then.
    pub event: Event,
}

impl Decided {
    /// Nothing changes.
    #[must_use]
    pub fn event(event: Event) -> Self {
        Self {
            changes: Vec::new(),
            event,
        }
    }
}

/// What the driver of a batch does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Write the changes so far, and load these rows.
    Need(Box<Keys>),
    /// Write the changes, and commit.
    Done,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is durable.
    Committed,
    /// Nothing of it took place.
    Undone,
    /// It is not known what became of it.
    Unknown,
}

/// Operations that share a transaction, in their order.
#[derive(Debug)]
pub struct Batch {
    ops: Vec<Op>,
    /// The sessions that they came over, in the same order.
    sessions: Vec<Option<Session>>,
    limits: Limits,
    rows: Rows,
    changes: Vec<Change>,
    /// What is stored more or less, of what is not written yet: written once for many operations.
    usage: Deltas,
    events: Vec<Event>,
    /// What was found that cannot have been stored.
    damaged: Vec<&'static str>,
    /// Signatures that were checked.
    checks: usize,
    /// Whether runs were cut.
    was_cut: bool,
}

impl Batch {
    /// A batch of these operations. Signatures are checked here, which takes a while.
    #[must_use]
    pub fn new(asked: Vec<impl Into<Asked>>, limits: Limits) -> Self {
        let asked = asked.into_iter().map(Into::into);
        let (mut ops, sessions): (Vec<Op>, Vec<_>) =
            asked.map(|Asked { session, op }| (op, session)).unzip();
        let checks = runs::check(&mut ops);
        Self::checked(ops, sessions, limits, checks)
    }

    fn checked(
        ops: Vec<Op>,
        sessions: Vec<Option<Session>>,
        limits: Limits,
        checks: usize,
    ) -> Self {
        Self {
            events: Vec::with_capacity(ops.len()),
            ops,
            sessions,
            limits,
            rows: Rows::default(),
            changes: Vec::new(),
            usage: Deltas::new(),
            damaged: Vec::new(),
            checks,
            was_cut: false,
        }
    }

    /// How many signatures were checked for it.
    #[must_use]
    pub fn checks(&self) -> usize {
        self.checks
    }

    /// How many operations it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// How many of them are decided.
    pub(crate) fn decided(&self) -> usize {
        self.events.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Rows that its operations will surely compare.
    #[must_use]
    pub fn keys(&self) -> Keys {
        let mut keys = Keys::default();
        for op in &self.ops {
            op.keys(&mut keys);
        }
        let sessions = self.sessions.iter().flatten();
        keys.devices.extend(sessions.map(|session| session.device));
        keys
    }

    /// Goes on with rows that were loaded after the changes so far were written.
    pub fn apply(&mut self, rows: Rows) -> Step {
        self.rows.extend(rows);
        let step = self.decide();
        let usage = std::mem::take(&mut self.usage).into_iter();
        let usage = usage.filter(|(_, delta)| *delta != 0);
        self.changes
            .extend(usage.map(|((log, user), delta)| Change::Usage { log, user, delta }));
        step
    }

    fn decide(&mut self) -> Step {
        while let Some(op) = self.ops.get(self.events.len()) {
            let session = self.sessions.get(self.events.len()).copied().flatten();
            // Whatever a device asks: what one has in flight that is taken away meanwhile is not taken.
            let heard = session.map_or(Ok(()), |session| self.rows.ensure_current(&session));
            let decided = heard.and_then(|()| op.decide(&self.rows, &self.limits));
            let device = session.map(|session| session.device);
            let charged = decided.and_then(|decided| {
                let (changes, rows) = (&decided.changes, &self.rows);
                let charge = charge(op, device, changes, rows, &self.limits)?;
                Ok((decided, charge))
            });
            let event = match charged {
                Ok((decided, charge)) => {
                    for ((log, user), delta) in charge.deltas {
                        self.rows.follow(&Change::Usage { log, user, delta });
                        let sum = self.usage.entry((log, user)).or_default();
                        *sum = sum.saturating_add(delta);
                    }
                    for change in decided.changes.iter().chain(&charge.paid) {
                        self.rows.follow(change);
                    }
                    self.changes.extend(decided.changes);
                    self.changes.extend(charge.paid);
                    decided.event
                }
                Err(Stop::Lacks(keys)) => return Step::Need(keys),
                Err(Stop::Refused(refusal)) => op.refused(refusal),
                Err(Stop::Damaged { what }) => {
                    self.damaged.push(what);
                    op.refused(Refusal::Storage)
                }
            };
            self.events.push(event);
        }
        Step::Done
    }

    /// The changes that are not written yet, in their order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Whether every frame of records that came to stand is vouched for by a signature that came to stand. Where not, the runs are cut, and the
    /// batch has to begin anew: nothing of it may be committed.
    ///
    /// What is cut leaves room for others, whose runs may then have to be cut: the second time every frame answers for itself, so that there is
    /// no third.
    pub fn is_covered(&mut self) -> bool {
        let uncovered = runs::uncovered(&self.ops, &self.events);
        if uncovered.is_empty() {
            return true;
        }
        let cut = if std::mem::replace(&mut self.was_cut, true) {
            runs::leaning(&self.ops)
        } else {
            uncovered
        };
        self.checks += runs::cut(&mut self.ops, &cut);
        false
    }

    /// Begins anew: nothing of the transaction before took place.
    pub fn restart(&mut self) {
        self.rows = Rows::default();
        self.changes.clear();
        self.usage.clear();
        self.events.clear();
        self.damaged.clear();
    }

    /// One batch for each operation.
    #[must_use]
    pub fn split(self) -> Vec<Self> {
        let limits = self.limits;
        let mut ops = self.ops;
        // Each stands by itself from here on.
        let leaning = runs::leaning(&ops);
        runs::cut(&mut ops, &leaning);
        let asked = ops.into_iter().zip(self.sessions);
        asked
            .map(|(op, session)| Self::checked(vec![op], vec![session], limits, 0))
            .collect()
    }

    /// What stored rows were found to be damaged.
    #[must_use]
    pub fn damaged(&self) -> &[&'static str] {
        &self.damaged
    }

    /// What became of each operation, in their order.
    #[must_use]
    pub fn finish(self, end: End) -> Vec<Event> {
        if end == End::Committed && self.events.len() == self.ops.len() {
            return self.events;
        }
        let ops = self.ops.iter();
        ops.map(|op| op.refused(Refusal::Storage)).collect()
    }
}

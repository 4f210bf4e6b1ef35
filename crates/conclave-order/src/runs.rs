//! One signature for an author's run of frames.
//!
//! Records name the one before, so the last signature of a run covers all of it, once it stands in the log: whoever reads the log has it, and
//! has the others through it. A frame may therefore stand without a check of its own only where a later one of its author stands too
//! (`uncovered`), and near: a member that finds the own signature wrong asks for what follows, and finds the cover in the answer.

use std::collections::BTreeMap;

use conclave_proto::{Author, Hash};
use conclave_rules::LogId;

use crate::event::Event;
use crate::limits::{RUN_BYTES, RUN_RECORDS};
use crate::op::Op;
use crate::op::append::{Append, Cover, Offer};
use crate::op::snapshot::log_of;

/// Checks the signatures of a batch: the last one of each run, or where that is wrong, each from the front.
/// Gives how many were checked.
pub(crate) fn check(ops: &mut [Op]) -> usize {
    let mut checks = 0;
    for run in runs(ops) {
        let Some((last, before)) = run.split_last() else {
            continue;
        };
        checks += 1;
        if check_one(ops, *last) {
            for at in before {
                lean(ops, *at);
            }
            continue;
        }
        for at in before {
            checks += 1;
            if !check_one(ops, *at) {
                // What comes after names it.
                break;
            }
        }
    }
    checks
}

/// Where a run began, and where it has come to.
#[derive(Clone, Copy)]
struct Begun {
    at: usize,
    /// What there was of the document before it.
    before: Extent,
    last: Hash,
}

/// How much of a document comes, up to somewhere.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extent {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl Extent {
    fn add(&mut self, records: usize, bytes: usize) {
        self.records += records;
        self.bytes += bytes;
    }

    /// What came after an earlier one.
    pub(crate) fn after(self, earlier: Self) -> Self {
        Self {
            records: self.records - earlier.records,
            bytes: self.bytes - earlier.bytes,
        }
    }

    /// Whether a signature at its end covers what is at its beginning.
    pub(crate) fn is_within_reach(self) -> bool {
        self.records <= RUN_RECORDS && self.bytes <= RUN_BYTES
    }
}

/// Frames of one author and epoch that nobody vouches for yet, in their order; each follows the one before, and all lie within reach
/// ([`RUN_RECORDS`]) of the last.
fn runs(ops: &[Op]) -> Vec<Vec<usize>> {
    let mut runs: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut begun: BTreeMap<(LogId, Author, u64), Begun> = BTreeMap::new();
    let mut documents: BTreeMap<LogId, Extent> = BTreeMap::new();
    for (at, op) in ops.iter().enumerate() {
        let append = match op {
            Op::Append(append) => append,
            Op::PutSnapshot(put) => {
                let log = log_of(&put.record.header);
                documents.entry(log).or_default().add(1, op.bytes());
                continue;
            }
            _ => continue,
        };
        let Offer::Frame(frame, cover) = &append.offer else {
            continue;
        };
        let extent = documents.entry(append.log).or_default();
        let before = *extent;
        extent.add(frame.records.len(), op.bytes());
        if !matches!(cover, Cover::Nothing(_)) {
            continue;
        }
        let key = (append.log, append.author, frame.epoch);
        let mut run = Begun {
            at,
            before,
            last: frame.last(),
        };
        if let Some(earlier) = begun.get(&key)
            && earlier.last == frame.prev
            && extent.after(earlier.before).is_within_reach()
        {
            (run.at, run.before) = (earlier.at, earlier.before);
        }
        begun.insert(key, run);
        runs.entry(run.at).or_default().push(at);
    }
    runs.into_values().collect()
}

fn append_at(ops: &mut [Op], at: usize) -> Option<&mut Append> {
    match ops.get_mut(at) {
        Some(Op::Append(append)) => Some(append),
        _ => None,
    }
}

/// Checks the own signature of a frame; where it is wrong, nothing vouches for it.
fn check_one(ops: &mut [Op], at: usize) -> bool {
    let Some(append) = append_at(ops, at) else {
        return false;
    };
    let Offer::Frame(frame, Cover::Nothing(signed) | Cover::Later(signed)) = &append.offer else {
        return true;
    };
    let good = signed.check().is_ok();
    let cover = if good {
        Cover::Own
    } else {
        Cover::Nothing(signed.clone())
    };
    append.offer = Offer::Frame(frame.clone(), cover);
    good
}

/// A later frame vouches for this one.
fn lean(ops: &mut [Op], at: usize) {
    if let Some(append) = append_at(ops, at)
        && let Offer::Frame(frame, Cover::Nothing(signed)) = &append.offer
    {
        append.offer = Offer::Frame(frame.clone(), Cover::Later(signed.clone()));
    }
}

/// Frames that came to stand while none that vouches for them did, by author, in their order.
pub(crate) fn uncovered(ops: &[Op], events: &[Event]) -> Vec<Vec<usize>> {
    let mut open: BTreeMap<(LogId, Author), Vec<usize>> = BTreeMap::new();
    for (at, (op, event)) in ops.iter().zip(events).enumerate() {
        let (Op::Append(append), Event::Records(_)) = (op, event) else {
            continue;
        };
        let of_author = open.entry((append.log, append.author)).or_default();
        match &append.offer {
            Offer::Frame(_, Cover::Own) => of_author.clear(),
            _ => of_author.push(at),
        }
    }
    open.into_values().filter(|run| !run.is_empty()).collect()
}

/// Frames that lean on a later one, each by itself.
pub(crate) fn leaning(ops: &[Op]) -> Vec<Vec<usize>> {
    let leans = |op: &Op| {
        let Op::Append(append) = op else { return false };
        matches!(append.offer, Offer::Frame(_, Cover::Later(_)))
    };
    let ops = ops.iter().enumerate();
    let leaning = ops.filter(|(_, op)| leans(op));
    leaning.map(|(at, _)| vec![at]).collect()
}

/// Cuts runs after their last frame whose own signature is right: the frames behind it are refused. Gives how many were checked.
pub(crate) fn cut(ops: &mut [Op], runs: &[Vec<usize>]) -> usize {
    let mut checks = 0;
    for run in runs {
        for at in run.iter().rev() {
            checks += 1;
            if check_one(ops, *at) {
                break;
            }
        }
    }
    checks
}

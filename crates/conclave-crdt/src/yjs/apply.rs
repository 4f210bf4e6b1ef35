//! Applying updates: sort, check, wait, integrate.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::{BranchID, Doc, ReadTxn, StateVector, Transact, Update};

use super::apart::Apart;
use super::capture::FOREIGN_ORIGIN;
use super::frontier::Progress;
use super::plan::{Plan, Released};
use super::scan::{Body, Id, Scan, Section};
use super::waiting::split_deletes;
use super::{Yrs, compare, encode, runs};
use crate::contain::contained;
use crate::error::{CrdtError, Result};
use crate::types::Applied;

/// Most updates decoded before they are applied, to bound memory in a long catch-up.
const GROUP: usize = 1024;

/// Most bytes that go to the engine as one transaction, beside one update that is longer: some of what it does at a transaction's end takes
/// longer the more there is of it, the square of it at worst.
const TRANSACTION_BYTES: usize = 4 << 10;
/// Most updates of one transaction that go on where an earlier one ended: the engine joins them only when it ends.
const TRANSACTION_RUNS: usize = 8;

/// Decoded updates on their way into the engine.
#[derive(Default)]
pub(super) struct Staged {
    updates: Vec<Update>,
    /// How many of the updates are in earlier transactions, of which each ends here.
    ends: Vec<usize>,
    bytes: usize,
    runs: usize,
    /// Operations became known since the waiting room was last looked at.
    moved: bool,
    /// The engine reported a change.
    pub(super) changed: bool,
}

impl Staged {
    /// Whether there is nothing in hand.
    pub(super) fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    fn push(&mut self, update: Update, bytes: usize, goes_on: bool) {
        if self.bytes > 0
            && (self.bytes + bytes > TRANSACTION_BYTES
                || self.runs + usize::from(goes_on) > TRANSACTION_RUNS)
        {
            self.ends.push(self.updates.len());
            (self.bytes, self.runs) = (0, 0);
        }
        self.bytes += bytes;
        self.runs += usize::from(goes_on);
        self.updates.push(update);
    }

    /// Takes the updates out, by transaction.
    fn take(&mut self) -> Vec<Vec<Update>> {
        let mut updates = core::mem::take(&mut self.updates);
        let mut transactions = Vec::new();
        for end in core::mem::take(&mut self.ends).into_iter().rev() {
            transactions.push(updates.split_off(end));
        }
        transactions.push(updates);
        transactions.reverse();
        (self.bytes, self.runs) = (0, 0);
        transactions
    }
}

impl Yrs {
    /// Hands updates to the engine in one transaction. Whether anything changed.
    pub(super) fn integrate(&mut self, updates: Vec<Update>) -> Result<bool> {
        if updates.is_empty() {
            return Ok(false);
        }
        let outcome = self.write(Some(FOREIGN_ORIGIN), |txn| {
            for update in updates {
                #[cfg(test)]
                note_handed(&update);
                txn.apply_update(update).map_err(|_| CrdtError::Malformed)?;
            }
            // Everything was ready, so the engine must have nothing left over.
            if txn.has_missing_updates() {
                Err(CrdtError::Malformed)
            } else {
                Ok(txn.has_changes())
            }
        });
        match outcome {
            Ok(Ok(changed)) => Ok(changed),
            Ok(Err(error)) => self.poisoned_by(error),
            // The frontier has moved on without the engine.
            Err(CrdtError::Engine) => self.poisoned_by(CrdtError::Engine),
            Err(error) => Err(error),
        }
    }

    /// Sorts one update into what can be applied and what has to wait.
    pub(super) fn stage(
        &mut self,
        scan: &Scan<'_>,
        update: Update,
        staged: &mut Staged,
    ) -> Result<()> {
        let goes_on = scan.sections.iter().any(goes_on(scan.bytes));
        self.known.arrived(scan.plain);
        let overlaps = scan.sections.iter().any(|section| {
            section
                .blocks
                .first()
                .is_some_and(|first| first.clock < self.frontier.clock(section.client))
        });
        if overlaps {
            self.flush(staged)?;
            self.compare_known(scan)?;
        }
        self.waiting.compare(scan)?;
        let progress = match self.advance(scan) {
            // What decides may still be in hand.
            Err(CrdtError::TooLarge) if !staged.is_empty() => {
                self.flush(staged)?;
                self.advance(scan)?
            }
            progress => progress?,
        };
        let (known, unknown) = match &scan.plan {
            Some(plan) => (plan.known.clone(), plan.unknown.clone()),
            None => split_deletes(scan.deletes.clone(), &self.frontier),
        };
        let waits = !progress.is_complete() || !unknown.is_empty();
        if waits && !self.waiting.has_room_for(scan, &unknown) {
            self.frontier.undo(&progress);
            return Err(CrdtError::MissingDependency);
        }
        if !waits && progress.ready.len() <= 1 {
            let joined = runs::joined(scan, &|id| self.frontier.is_keyed(id), &Apart::default());
            let update = match joined {
                Ok(None) => update,
                Ok(Some(joined)) => self.decode_own(&joined)?,
                Err(error) => return self.poisoned_by(error),
            };
            staged.push(update, scan.bytes.len(), goes_on);
        } else {
            for (update, bytes) in self.in_order(scan, &progress, &Apart::default())? {
                staged.push(update, bytes, goes_on);
            }
            if !known.is_empty() {
                let bytes = encode::deletes_only(&known);
                staged.push(self.decode_own(&bytes)?, bytes.len(), false);
            }
            self.waiting.keep(scan, &progress.stops);
            self.waiting.keep_deletes(unknown);
        }
        match &scan.plan {
            Some(plan) => {
                if !self.waiting.is_empty() {
                    // Some of it may have come in another way.
                    for section in &scan.sections {
                        let clock = self.frontier.clock(section.client);
                        self.waiting.take(section.client, clock);
                    }
                }
                self.stage_released(plan, staged)?;
            }
            None => staged.moved |= !progress.ready.is_empty(),
        }
        Ok(())
    }

    /// Takes out of the waiting room what a plan says.
    fn stage_released(&mut self, plan: &Plan, staged: &mut Staged) -> Result<()> {
        for released in &plan.released {
            let Released {
                client,
                start,
                end,
                gone,
            } = *released;
            let held = self.waiting.take(client, end);
            if self.frontier.clock(client) >= end {
                continue;
            }
            let bytes = match held {
                _ if gone => encode::gone(client, start, end),
                Some(held) => held,
                None => return self.poisoned_by(CrdtError::Malformed),
            };
            let progress = Scan::exact(&bytes).and_then(|scan| self.advance(&scan));
            match progress {
                Ok(progress) if progress.is_complete() => {}
                Ok(_) | Err(_) => return self.poisoned_by(CrdtError::Malformed),
            }
            staged.push(
                self.decode_joined(&bytes, &Apart::default())?,
                bytes.len(),
                true,
            );
        }
        self.waiting.forget_deletes(&plan.due);
        if !plan.deletes.is_empty() {
            let bytes = encode::deletes_only(&plan.deletes);
            staged.push(self.decode_own(&bytes)?, bytes.len(), false);
        }
        Ok(())
    }

    /// What became known, stretch by stretch in the order in which it did: the engine would begin with the highest replica id, and what an
    /// item passes on the way to its place depends on what stands there already. With the bytes of each.
    pub(super) fn in_order(
        &mut self,
        scan: &Scan<'_>,
        progress: &Progress,
        apart: &Apart,
    ) -> Result<Vec<(Update, usize)>> {
        let mut updates = Vec::with_capacity(progress.ready.len());
        for segment in &progress.ready {
            let Some(section) = scan.sections.get(segment.section) else {
                continue;
            };
            let blocks = section.blocks.get(segment.from..segment.to).unwrap_or(&[]);
            let bytes = encode::blocks_only(section.client, blocks, scan.bytes);
            let update = match blocks {
                [_] => self.decode_own(&bytes)?,
                _ => self.decode_joined(&bytes, apart)?,
            };
            updates.push((update, bytes.len()));
        }
        Ok(updates)
    }

    /// Decodes what this crate encoded after the frontier had moved.
    fn decode_own(&mut self, bytes: &[u8]) -> Result<Update> {
        decode(bytes).or_else(|error| self.poisoned_by(error))
    }

    /// The same, with its runs joined.
    fn decode_joined(&mut self, bytes: &[u8], apart: &Apart) -> Result<Update> {
        let joined = Scan::exact(bytes).and_then(|scan| self.joined(&scan, apart));
        match joined {
            Ok(joined) => self.decode_own(&joined),
            Err(error) => self.poisoned_by(error),
        }
    }

    /// An update that the frontier has passed, with its runs joined, but for what is to stay apart.
    pub(super) fn joined<'a>(&self, scan: &Scan<'a>, apart: &Apart) -> Result<Cow<'a, [u8]>> {
        let joined = runs::joined(scan, &|id| self.frontier.is_keyed(id), apart)?;
        Ok(joined.map_or(Cow::Borrowed(scan.bytes), Cow::Owned))
    }

    /// Moves the frontier over an update.
    pub(super) fn advance(&mut self, scan: &Scan<'_>) -> Result<Progress> {
        let doc = &self.doc;
        let dropped = |id| is_dropped(doc, id);
        match &scan.plan {
            Some(plan) => self.frontier.advance_planned(scan, plan, &dropped),
            None => self.frontier.advance(scan, &dropped),
        }
    }

    /// Applies what was staged, and what it lets out of the waiting room.
    pub(super) fn flush(&mut self, staged: &mut Staged) -> Result<()> {
        if staged.moved && !self.waiting.is_empty() {
            let released = self.waiting.release(&mut self.frontier)?;
            for bytes in released {
                staged.push(
                    self.decode_joined(&bytes, &Apart::default())?,
                    bytes.len(),
                    true,
                );
            }
        }
        staged.moved = false;
        for updates in staged.take() {
            staged.changed |= self.integrate(updates)?;
        }
        Ok(())
    }

    /// Compares operations that are known already with what the engine holds of them.
    fn compare_known(&mut self, scan: &Scan<'_>) -> Result<()> {
        let mut since: HashMap<ClientID, u32, BuildHasherDefault<_>> = self
            .frontier
            .clocks()
            .map(|(client, clock)| (ClientID::new(client), clock))
            .collect();
        // Own edits that nobody has seen cannot come back.
        since.insert(ClientID::new(self.client), u32::MAX);
        for section in &scan.sections {
            let (Some(first), known) =
                (section.blocks.first(), self.frontier.clock(section.client))
            else {
                continue;
            };
            since.insert(ClientID::new(section.client), first.clock.min(known));
        }
        let held = self.read(|txn| txn.encode_diff_v1(&StateVector::new(since)))?;
        compare::compare(&Scan::exact(&held)?, scan)
    }

    /// Refuses new operations under the own id.
    fn check_replicas(&self, scan: &Scan<'_>) -> Result<()> {
        let known = self.frontier.clock(self.client).max(self.sent);
        let own_end = scan
            .section(self.client)
            .and_then(|section| section.blocks.last())
            .map_or(0, |last| last.end());
        if own_end > known {
            Err(CrdtError::Equivocation)
        } else {
            Ok(())
        }
    }

    /// Applies updates in their order; nothing where the ids of one are refused.
    pub(super) fn apply_scans(&mut self, scans: &[Scan<'_>]) -> Result<Applied> {
        self.usable()?;
        for scan in scans {
            self.check_replicas(scan)?;
        }
        // A transaction of the application would block the engine half-way.
        self.doc
            .try_transact_mut_with(FOREIGN_ORIGIN)
            .map(drop)
            .map_err(|_| CrdtError::Engine)?;
        let mut staged = Staged::default();
        for group in scans.chunks(GROUP) {
            self.apply_group(group, &mut staged)?;
        }
        Ok(match (!self.waiting.is_empty(), staged.changed) {
            (true, _) => Applied::Pending,
            (false, true) => Applied::Complete,
            (false, false) => Applied::Duplicate,
        })
    }

    /// Applies some updates. Whatever is staged is flushed even if one is refused.
    fn apply_group(&mut self, group: &[Scan<'_>], staged: &mut Staged) -> Result<()> {
        for scan in group {
            let staging = decode(scan.bytes).and_then(|update| self.stage(scan, update, staged));
            if let Err(error) = staging {
                if !self.poisoned {
                    self.flush(staged)?;
                }
                return Err(error);
            }
        }
        self.flush(staged)
    }
}

#[cfg(test)]
thread_local! {
    /// Whose operations this thread has handed to an engine, in that order.
    pub(super) static HANDED: core::cell::RefCell<Vec<Vec<u64>>> = const { core::cell::RefCell::new(Vec::new()) };
}

#[cfg(test)]
fn note_handed(update: &Update) {
    let written = update.insertions(true);
    let mut clients: Vec<u64> = written.iter().map(|(client, _)| client.get()).collect();
    clients.sort_unstable();
    if !clients.is_empty() {
        HANDED.with_borrow_mut(|handed| handed.push(clients));
    }
}

/// Whether a section goes on where its replica ended.
fn goes_on(update: &[u8]) -> impl Fn(&Section) -> bool + '_ {
    move |section| {
        let first = section.blocks.first();
        first.is_some_and(|first| match first.body(update) {
            Ok(Body::Item(item)) => item.origin.is_some_and(|origin| {
                origin.client == section.client && origin.clock + 1 == first.clock
            }),
            Ok(Body::Gc | Body::Skip) | Err(_) => true,
        })
    }
}

/// Decodes an update that has been scanned. A panic here has touched no document.
pub(super) fn decode(bytes: &[u8]) -> Result<Update> {
    match contained(|| Update::decode_v1(bytes)) {
        Ok(Ok(update)) => Ok(update),
        Ok(Err(_)) | Err(_) => Err(CrdtError::Malformed),
    }
}

/// Whether the engine has dropped the type with this id.
fn is_dropped(doc: &Doc, id: Id) -> bool {
    let id = yrs::ID::new(ClientID::new(id.client), id.clock);
    doc.try_transact()
        .is_ok_and(|txn| BranchID::get_nested(&txn, &id).is_none())
}

//! Applying updates: sort, check, wait, integrate.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::{BranchID, Doc, ReadTxn, StateVector, Transact, Update};

use super::capture::FOREIGN_ORIGIN;
use super::frontier::Progress;
use super::scan::{Id, Scan};
use super::waiting::split_deletes;
use super::{Yrs, compare, encode};
use crate::contain::contained;
use crate::error::{CrdtError, Result};
use crate::types::Applied;

/// Most updates decoded before they are applied, to bound memory in a long catch-up.
const GROUP: usize = 1024;

/// Decoded updates on their way into the engine.
#[derive(Default)]
pub(super) struct Staged {
    updates: Vec<Update>,
    /// Operations became known since the waiting room was last looked at.
    moved: bool,
    /// The engine reported a change.
    pub(super) changed: bool,
}

impl Yrs {
    /// Hands updates to the engine in one transaction. Whether anything changed.
    pub(super) fn integrate(&mut self, updates: Vec<Update>) -> Result<bool> {
        if updates.is_empty() {
            return Ok(false);
        }
        let outcome = self.write(Some(FOREIGN_ORIGIN), |txn| {
            for update in updates {
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
            Err(CrdtError::TooLarge) if !staged.updates.is_empty() => {
                self.flush(staged)?;
                self.advance(scan)?
            }
            progress => progress?,
        };
        let (known, unknown) = split_deletes(scan.deletes.clone(), &self.frontier);
        if progress.is_complete() && unknown.is_empty() {
            staged.updates.push(update);
        } else {
            if !self.waiting.has_room_for(scan, &unknown) {
                self.frontier.undo(&progress);
                return Err(CrdtError::MissingDependency);
            }
            for segment in &progress.ready {
                let Some(section) = scan.sections.get(segment.section) else {
                    continue;
                };
                let blocks = section.blocks.get(segment.from..segment.to).unwrap_or(&[]);
                staged.updates.push(self.decode_own(&encode::blocks_only(
                    section.client,
                    blocks,
                    scan.bytes,
                ))?);
            }
            if !known.is_empty() {
                staged
                    .updates
                    .push(self.decode_own(&encode::deletes_only(&known))?);
            }
            self.waiting.keep(scan, &progress.stops);
            self.waiting.keep_deletes(unknown);
        }
        staged.moved |= !progress.ready.is_empty();
        Ok(())
    }

    /// Decodes what this crate encoded after the frontier had moved.
    fn decode_own(&mut self, bytes: &[u8]) -> Result<Update> {
        decode(bytes).or_else(|error| self.poisoned_by(error))
    }

    /// Moves the frontier over an update.
    pub(super) fn advance(&mut self, scan: &Scan<'_>) -> Result<Progress> {
        let doc = &self.doc;
        self.frontier.advance(scan, &|id| is_dropped(doc, id))
    }

    /// Applies what was staged, and what it lets out of the waiting room.
    pub(super) fn flush(&mut self, staged: &mut Staged) -> Result<()> {
        let mut updates = core::mem::take(&mut staged.updates);
        if staged.moved && !self.waiting.is_empty() {
            let released = self.waiting.release(&mut self.frontier)?;
            for bytes in released {
                updates.push(self.decode_own(&bytes)?);
            }
        }
        staged.moved = false;
        staged.changed |= self.integrate(updates)?;
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

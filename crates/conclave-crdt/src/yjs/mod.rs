//! Yjs documents, on the `yrs` engine.

mod apart;
mod apply;
#[cfg(test)]
mod apply_tests;
mod attribution;
mod canon;
mod capture;
mod coalesce;
mod compare;
mod deeds;
mod digest;
mod encode;
mod file;
mod frontier;
mod json;
mod layout;
mod order;
mod plan;
mod roots;
mod runs;
mod scan;
mod second;
mod text;
mod visible;
mod waiting;
mod xml;

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use sha2::{Digest, Sha256};
use yrs::block::ClientID;
use yrs::{Doc, GetString, OffsetKind, Options, ReadTxn, StateVector, Transact, TransactionMut};

use crate::api::{Crdt, JsonView, Root, TextView};
use crate::attribution::Attribution;
use crate::contain::contained;
use crate::error::{CrdtError, Result};
use crate::inspected::{Inspected, Reading};
use crate::kinds::{CrdtKind, MAX_YJS_CLIENT};
use crate::limits::{
    MAX_REPLICAS_PER_UPDATE, MAX_SNAPSHOT_BYTES, MAX_UPDATE_BYTES, MAX_VERSION_BYTES,
};
use crate::ranges::RangeSet;
use crate::reader::{Reader, write_uint};
use crate::types::{Applied, OpRange, ReplicaId, UpdateInfo, Version};
use apart::Apart;
use apply::{Staged, decode};
use capture::{Capture, Captured};
use digest::{Digested, digest};
pub(crate) use file::read_file;
use frontier::Frontier;
pub(crate) use order::Order;
pub(crate) use scan::Layout;
use scan::{Deletes, Scan};
use text::Known;
use waiting::{Waiting, split_deletes, split_snapshot};

/// A Yjs document.
///
/// Deleted content is dropped by the engine (its tombstones stay). Formatting marks that became redundant are not cleaned
/// up, since that cleanup deletes different operations on different replicas. Subdocuments are carried as references;
/// their content is a document of its own.
pub struct Yrs {
    doc: Doc,
    replica: ReplicaId,
    client: u64,
    capture: Capture,
    frontier: Frontier,
    waiting: Waiting,
    /// Own operations below this clock have been taken.
    sent: u32,
    known: Known,
    poisoned: bool,
}

impl Yrs {
    /// An empty document.
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] if `replica` is not a Yjs client id.
    pub fn create(replica: ReplicaId) -> Result<Self> {
        let client = replica.to_client().ok_or(CrdtError::Malformed)?;
        let doc = new_doc(client);
        let capture = Capture::default();
        capture.watch(&doc)?;
        Ok(Self {
            doc,
            replica,
            client,
            capture,
            frontier: Frontier::default(),
            waiting: Waiting::default(),
            sent: 0,
            known: Known::empty(),
            poisoned: false,
        })
    }

    /// A document from a snapshot of [`Crdt::snapshot`], or from any complete Yjs state (version 1).
    ///
    /// # Errors
    /// [`CrdtError::Malformed`] or [`CrdtError::TooLarge`] if the bytes are not a complete state.
    pub fn load(snapshot: &[u8], replica: ReplicaId) -> Result<Self> {
        if snapshot.len() > MAX_SNAPSHOT_BYTES {
            return Err(CrdtError::TooLarge);
        }
        let mut loaded = Self::create(replica)?;
        let scans = split_snapshot(snapshot)?;
        let mut scans = scans.iter();
        if let Some(state) = scans.next() {
            loaded.load_state(state)?;
        }
        let mut staged = Staged::default();
        for rest in scans {
            let update = decode(rest.bytes)?;
            loaded.stage(rest, update, &mut staged)?;
            // Nothing of what waits is ready.
            if !staged.is_empty() {
                return Err(CrdtError::Malformed);
            }
        }
        loaded.sent = loaded.frontier.clock(loaded.client);
        let sent = loaded.sent;
        loaded.capture.with(|captured| captured.clock = sent);
        Ok(loaded)
    }

    fn load_state(&mut self, state: &Scan<'_>) -> Result<()> {
        decode(state.bytes)?;
        self.known.arrived(state.plain);
        let progress = self.frontier.advance(state, &|_| false)?;
        let (_, unknown) = split_deletes(state.deletes.clone(), &self.frontier);
        if !progress.is_complete() || !unknown.is_empty() {
            return Err(CrdtError::Malformed);
        }
        let apart = Apart::of(state)?;
        let mut updates = Vec::new();
        if progress.ready.len() <= 1 {
            updates.push(decode(&self.joined(state, &apart)?)?);
        } else {
            let in_order = self.in_order(state, &progress, &apart)?;
            updates.extend(in_order.into_iter().map(|(update, _)| update));
            updates.push(decode(&encode::deletes_only(&state.deletes))?);
        }
        self.integrate(updates).map(|_| ())
    }

    /// The engine document, for plain `yrs` code: create shared types, open transactions, observe.
    ///
    /// Edits become part of [`Crdt::take_pending`] when their transaction ends. Do not
    /// - hold a transaction while calling anything on this adapter (it answers [`CrdtError::Engine`]);
    /// - apply updates of other replicas to it, or create transactions with the origin `conclave-crdt`;
    /// - edit at a UTF-16 position inside a surrogate pair: the engine then breaks the character on this replica only;
    /// - let an observer panic: observers run inside calls of this adapter, and that poisons the document;
    /// - keep a clone of it, or of anything in it, across [`Crdt::set_replica`] or an error: after a panic the engine's
    ///   lock is never released, and this returns a fresh, detached document whose edits go nowhere.
    #[must_use]
    pub fn doc(&self) -> &Doc {
        &self.doc
    }

    fn usable(&self) -> Result<()> {
        if self.poisoned {
            Err(CrdtError::Poisoned)
        } else {
            Ok(())
        }
    }

    /// Gives the engine document up: nothing in it can be trusted, and dropping it is foreign code as well.
    fn poison(&mut self) {
        self.poisoned = true;
        let broken = core::mem::replace(&mut self.doc, new_doc(self.client));
        let _ = contained(move || drop(broken));
    }

    fn poisoned_by<T>(&mut self, error: CrdtError) -> Result<T> {
        self.poison();
        Err(error)
    }

    /// Reads the engine document.
    fn read<T>(&mut self, f: impl FnOnce(&yrs::Transaction<'_>) -> T) -> Result<T> {
        self.usable()?;
        let outcome = {
            let txn = self.doc.try_transact().map_err(|_| CrdtError::Engine)?;
            contained(|| f(&txn))
        };
        outcome.or_else(|error| self.poisoned_by(error))
    }

    /// Writes to the engine document, as `origin` says: locally, or for others.
    fn write<T>(
        &mut self,
        origin: Option<&'static str>,
        f: impl FnOnce(&mut TransactionMut<'_>) -> T,
    ) -> Result<T> {
        self.usable()?;
        let outcome = {
            let txn = match origin {
                Some(origin) => self.doc.try_transact_mut_with(origin),
                None => self.doc.try_transact_mut(),
            };
            let mut txn = txn.map_err(|_| CrdtError::Engine)?;
            match contained(|| f(&mut txn)) {
                Ok(value) => contained(move || drop(txn)).map(|()| value),
                Err(error) => {
                    // Dropping a transaction commits it: on a broken store that could panic again. Leak it.
                    core::mem::forget(txn);
                    Err(error)
                }
            }
        };
        outcome.or_else(|error| self.poisoned_by(error))
    }

    /// Own operations from `sent` on, encoded together, with all deletions of others removed.
    fn encode_own(&mut self, deletes: &Deletes) -> Result<Vec<Vec<u8>>> {
        let (client, sent) = (self.client, self.sent);
        let encoded = self.read(|txn| {
            let mut since: HashMap<ClientID, u32, BuildHasherDefault<_>> = txn
                .state_vector()
                .iter()
                .map(|(client, clock)| (*client, *clock))
                .collect();
            since.insert(ClientID::new(client), sent);
            txn.encode_diff_v1(&StateVector::new(since))
        })?;
        let scan = Scan::exact(&encoded)?;
        let small = scan.blocks_end + 16 * deletes.values().map(RangeSet::len).sum::<usize>()
            < MAX_UPDATE_BYTES;
        if small {
            let mut update = encoded.get(..scan.blocks_end).unwrap_or(&[]).to_vec();
            encode::write_deletes(&mut update, deletes);
            return Ok(vec![update]);
        }
        encode::pack(client, &scan, deletes)
    }
}

impl Drop for Yrs {
    fn drop(&mut self) {
        // The engine's destructors are foreign code too.
        let doc = core::mem::replace(&mut self.doc, new_doc(self.client));
        let _ = contained(move || drop(doc));
    }
}

impl core::fmt::Debug for Yrs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Yrs")
            .field("replica", &self.replica)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

fn new_doc(client: u64) -> Doc {
    // A fixed guid: it is not part of the content, and drawing one would need randomness.
    let mut options = Options::with_guid_and_client_id("conclave".into(), ClientID::new(client));
    options.offset_kind = OffsetKind::Utf16;
    options.cleanup_formatting = false;
    options.skip_gc = false;
    Doc::with_options(options)
}

impl Crdt for Yrs {
    fn kind(&self) -> CrdtKind {
        CrdtKind::Yjs
    }

    fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    fn inspect(&self, update: &[u8]) -> Result<Inspected> {
        let scan = scan_update(update)?;
        let mut ranges = Vec::new();
        for section in &scan.sections {
            let mut clocks = RangeSet::default();
            for block in section.blocks.iter().filter(|block| !block.is_skip(update)) {
                clocks.insert(u64::from(block.clock), u64::from(block.end()));
            }
            let replica = ReplicaId::from_client(section.client);
            ranges.extend(clocks.iter().map(|(start, end)| OpRange {
                replica: replica.clone(),
                start,
                end,
            }));
        }
        ranges.sort_by(|a, b| (&a.replica, a.start).cmp(&(&b.replica, b.start)));
        Ok(Inspected {
            info: UpdateInfo {
                ranges,
                has_deletes: !scan.deletes.is_empty(),
            },
            reading: Reading::Yjs(scan.into_layout()),
        })
    }

    fn next_counter(&self, replica: &ReplicaId) -> u64 {
        let Some(client) = replica.to_client() else {
            return 0;
        };
        let mut clock = self.frontier.clock(client);
        if client == self.client {
            clock = clock
                .max(self.capture.with(|captured| captured.clock))
                .max(self.sent);
        }
        self.waiting.first_gap(client, clock)
    }

    fn apply(&mut self, updates: &[&[u8]]) -> Result<Applied> {
        self.usable()?;
        let scans = updates.iter().map(|update| scan_update(update));
        self.apply_scans(&scans.collect::<Result<Vec<_>>>()?)
    }

    fn apply_inspected(&mut self, updates: Vec<(&[u8], Inspected)>) -> Result<Applied> {
        let scans = updates
            .into_iter()
            .map(|(bytes, inspected)| match inspected.reading {
                Reading::Yjs(layout) => layout.over(bytes),
                #[cfg(feature = "automerge")]
                Reading::Automerge(_) => Err(CrdtError::Malformed),
            });
        self.apply_scans(&scans.collect::<Result<Vec<_>>>()?)
    }

    fn take_pending(&mut self, out: &mut Vec<Vec<u8>>) -> Result<()> {
        self.usable()?;
        let (transactions, foreign, clock, edits) = self.capture.with(|captured| {
            let Captured {
                transactions,
                foreign,
                clock,
                edits,
                ..
            } = *captured;
            (transactions, foreign, clock, edits)
        });
        if foreign {
            return self.poisoned_by(CrdtError::Engine);
        }
        if transactions == 0 {
            return Ok(());
        }
        let (first, deletes) = self
            .capture
            .with(|captured| (captured.first.clone(), captured.deletes.clone()));
        let mut updates = if transactions == 1 && first.len() <= MAX_UPDATE_BYTES {
            vec![first]
        } else {
            self.encode_own(&deletes)?
        };
        // Record own operations like everybody else's.
        let mut plain = true;
        for update in &updates {
            let scan = Scan::exact(update)?;
            plain &= scan.plain;
            if !self.advance(&scan)?.is_complete() {
                return self.poisoned_by(CrdtError::Engine);
            }
        }
        self.sent = clock;
        self.known.taken(edits, plain);
        self.capture.with(|captured| {
            captured.transactions = 0;
            captured.first.clear();
            captured.deletes.clear();
        });
        out.append(&mut updates);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Vec<u8>> {
        let mut snapshot =
            self.read(|txn| txn.encode_state_as_update_v1(&StateVector::default()))?;
        for update in self.waiting.updates() {
            snapshot.extend_from_slice(&update);
        }
        if snapshot.len() > MAX_SNAPSHOT_BYTES {
            return Err(CrdtError::TooLarge);
        }
        Ok(snapshot)
    }

    fn version(&mut self) -> Result<Version> {
        let clocks: BTreeMap<u64, u32> = self.read(|txn| {
            txn.state_vector()
                .iter()
                .map(|(client, clock)| (client.get(), *clock))
                .collect()
        })?;
        let mut bytes = Vec::new();
        write_uint(&mut bytes, clocks.len() as u64);
        for (client, clock) in clocks {
            write_uint(&mut bytes, client);
            write_uint(&mut bytes, u64::from(clock));
        }
        Ok(Version::from_bytes(bytes))
    }

    fn diff_since(&mut self, version: &Version) -> Result<Vec<u8>> {
        let since = read_state_vector(version.as_bytes())?;
        self.read(|txn| txn.encode_diff_v1(&since))
    }

    fn content_digest(&mut self) -> Result<[u8; 32]> {
        let (state, texts) = self.read(|txn| {
            let state = txn.encode_diff_v1(&StateVector::default());
            // Whatever a root is used as, its text reads the same on all replicas.
            let names: Vec<String> = txn.root_refs().map(|(name, _)| name.to_owned()).collect();
            let texts: BTreeMap<String, String> = names
                .into_iter()
                .filter_map(|name| {
                    let text = txn.get_text(name.as_str())?.get_string(txn);
                    (!text.is_empty()).then_some((name, text))
                })
                .collect();
            (state, texts)
        })?;
        digest(&Digested {
            state: &Scan::exact(&state)?,
            waiting: &self.waiting.ranges(),
            waiting_deletes: self.waiting.deletes(),
            texts: &texts,
        })
    }

    fn visible_digest(&mut self) -> Result<[u8; 32]> {
        let shown = self.read(|txn| visible::visible(txn))??;
        Ok(Sha256::digest(shown.to_string()).into())
    }

    fn has_missing(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn replicas(&self) -> Vec<(ReplicaId, u64)> {
        let next = |(client, clock)| (ReplicaId::from_client(client), u64::from(clock));
        let mut replicas: Vec<_> = self.frontier.clocks().map(next).collect();
        replicas.sort();
        replicas
    }

    fn export(&mut self) -> Result<Vec<u8>> {
        self.read(|txn| txn.encode_diff_v1(&StateVector::default()))
    }

    fn roots(&mut self) -> Result<Vec<Root>> {
        self.read_roots()
    }

    fn coalesce(&self, updates: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        self.coalesced(updates)
    }

    fn set_replica(&mut self, replica: ReplicaId) -> Result<()> {
        self.usable()?;
        let client = replica.to_client().ok_or(CrdtError::Malformed)?;
        let pending = self.capture.with(|captured| captured.transactions > 0);
        if pending || self.next_counter(&replica) > 0 {
            return Err(CrdtError::Engine);
        }
        // The engine fixes the client id of a document for life.
        let state = self.read(|txn| txn.encode_state_as_update_v1(&StateVector::default()))?;
        let fresh = new_doc(client);
        let capture = Capture::default();
        capture.watch(&fresh)?;
        let old = core::mem::replace(&mut self.doc, fresh);
        let _ = contained(move || drop(old));
        self.capture = capture;
        self.known.recount();
        self.client = client;
        self.replica = replica;
        self.sent = 0;
        let update = decode(&state)?;
        self.integrate(vec![update]).map(|_| ())
    }

    fn text(&mut self) -> Option<&mut dyn TextView> {
        Some(self)
    }

    fn json(&mut self) -> Option<&mut dyn JsonView> {
        Some(self)
    }

    fn attribution(&mut self) -> Option<&mut dyn Attribution> {
        Some(self)
    }

    fn as_any_mut(&mut self) -> &mut dyn core::any::Any {
        self
    }
}

/// Reads an update, within the limits of one.
fn scan_update(update: &[u8]) -> Result<Scan<'_>> {
    if update.len() > MAX_UPDATE_BYTES {
        return Err(CrdtError::TooLarge);
    }
    let scan = Scan::exact(update)?;
    if scan.sections.len() > MAX_REPLICAS_PER_UPDATE {
        return Err(CrdtError::TooLarge);
    }
    Ok(scan)
}

/// Cuts an update of one replica into several of about so many bytes.
pub(crate) fn split(update: &[u8], about_bytes: usize) -> Result<Vec<Vec<u8>>> {
    let scan = scan_update(update)?;
    let client = match scan.sections.as_slice() {
        [] => 0,
        [section] if !section.blocks.iter().any(|block| block.is_skip(update)) => section.client,
        _ => return Ok(vec![update.to_vec()]),
    };
    encode::pack_within(client, &scan, &scan.deletes, about_bytes)
}

fn read_state_vector(bytes: &[u8]) -> Result<StateVector> {
    if bytes.len() > MAX_VERSION_BYTES {
        return Err(CrdtError::TooLarge);
    }
    let mut reader = Reader::new(bytes);
    let mut clocks = Vec::new();
    for _ in 0..reader.uint(u64::from(u32::MAX))? {
        let client = reader.uint(MAX_YJS_CLIENT)?;
        let clock = reader.uint(i32::MAX as u64)? as u32;
        clocks.push((ClientID::new(client), clock));
    }
    if reader.is_empty() {
        Ok(clocks.into_iter().collect())
    } else {
        Err(CrdtError::Malformed)
    }
}

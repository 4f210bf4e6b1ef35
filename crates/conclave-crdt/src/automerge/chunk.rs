//! A strict reader of Automerge chunks.
//!
//! The engine's own readers do not verify a change's checksum, drop corrupted input silently when it is added to a
//! document, inflate without a limit and walk whatever run lengths declare. Everything foreign passes here first: magic,
//! checksum, full consumption, sizes, counts, and the head of every change.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::columns::{Columns, Declared, Limits, inflate};
use crate::error::{CrdtError, Result};
use crate::limits::{
    MAX_CHANGE_ROWS, MAX_INFLATED_SNAPSHOT_BYTES, MAX_INFLATED_UPDATE_BYTES, MAX_SNAPSHOT_ROWS,
};
use crate::reader::{Reader, write_uint};
use crate::types::ReplicaId;

pub(super) const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
const CHUNK_DOCUMENT: u8 = 0;
const CHUNK_CHANGE: u8 = 1;
const CHUNK_DEFLATED_CHANGE: u8 = 2;

/// Most dependencies or actors named by one change.
const MAX_NAMES: u64 = 1 << 16;

/// The SHA-256 that names a change.
pub(super) type Hash = [u8; 32];

/// A verified change and what its head says.
#[derive(Debug, Clone)]
pub(crate) struct Parsed {
    pub(super) hash: Hash,
    pub(super) actor: ReplicaId,
    pub(super) seq: u64,
    pub(super) deps: Vec<Hash>,
    pub(super) declared: Declared,
    /// How many actors it names beside its own.
    pub(super) actors: u64,
    /// The change chunk, inflated.
    pub(super) bytes: Vec<u8>,
}

/// The changes of an update: one or more change chunks and nothing else.
pub(super) fn read_update(bytes: &[u8]) -> Result<Vec<Parsed>> {
    let mut reader = Reader::new(bytes);
    let mut budget = MAX_INFLATED_UPDATE_BYTES;
    let mut changes = Vec::new();
    while !reader.is_empty() {
        let chunk = Chunk::read(&mut reader)?;
        changes.push(chunk.into_change(&mut budget)?);
    }
    if changes.is_empty() {
        Err(CrdtError::Malformed)
    } else {
        Ok(changes)
    }
}

/// A snapshot: at most one document chunk at the front, then changes.
pub(super) struct Snapshot<'a> {
    pub(super) document: Option<&'a [u8]>,
    pub(super) tables: Option<Tables>,
    pub(super) changes: Vec<Parsed>,
}

impl<'a> Snapshot<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let Chunks {
            documents,
            tables,
            changes,
        } = Chunks::read(bytes)?;
        let document = match documents.as_slice() {
            [] => None,
            [only] if bytes.starts_with(only) => Some(*only),
            _ => return Err(CrdtError::Malformed),
        };
        let tables = tables.into_iter().next();
        if document.is_none() && changes.is_empty() {
            return Err(CrdtError::Malformed);
        }
        Ok(Self {
            document,
            tables,
            changes,
        })
    }
}

/// A file of another program: chunks in any order.
pub(super) struct Chunks<'a> {
    pub(super) documents: Vec<&'a [u8]>,
    /// What the documents declare.
    pub(super) tables: Vec<Tables>,
    pub(super) changes: Vec<Parsed>,
}

impl<'a> Chunks<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let mut budget = MAX_INFLATED_SNAPSHOT_BYTES;
        let mut chunks = Self {
            documents: Vec::new(),
            tables: Vec::new(),
            changes: Vec::new(),
        };
        while !reader.is_empty() {
            let start = reader.position();
            let chunk = Chunk::read(&mut reader)?;
            if chunk.kind == CHUNK_DOCUMENT {
                chunks.tables.push(chunk.check_document()?);
                let document = bytes.get(start..reader.position());
                chunks.documents.push(document.ok_or(CrdtError::Malformed)?);
            } else {
                chunks.changes.push(chunk.into_change(&mut budget)?);
            }
        }
        Ok(chunks)
    }
}

/// What the tables of a document declare.
pub(super) struct Tables {
    /// Every actor, and how many changes it made.
    pub(super) actors: Vec<(ReplicaId, u64)>,
    pub(super) changes: Declared,
    pub(super) operations: Declared,
}

struct Chunk<'a> {
    kind: u8,
    checksum: [u8; 4],
    body: &'a [u8],
}

impl<'a> Chunk<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        if reader.take(4)? != MAGIC {
            return Err(CrdtError::Malformed);
        }
        let checksum = reader
            .take(4)?
            .try_into()
            .map_err(|_| CrdtError::Malformed)?;
        let kind = reader.byte()?;
        let body = reader.buffer()?;
        Ok(Self {
            kind,
            checksum,
            body,
        })
    }

    fn verify(&self, kind: u8, body: &[u8]) -> Result<Hash> {
        let hash = chunk_hash(kind, body);
        if hash.starts_with(&self.checksum) {
            Ok(hash)
        } else {
            Err(CrdtError::Malformed)
        }
    }

    /// Verifies a change. Its checksum is over the inflated form.
    fn into_change(self, budget: &mut usize) -> Result<Parsed> {
        let body = match self.kind {
            CHUNK_CHANGE => Cow::Borrowed(self.body),
            CHUNK_DEFLATED_CHANGE => Cow::Owned(inflate(self.body, *budget)?),
            // Documents are for snapshots; bundles are experimental.
            _ => return Err(CrdtError::Malformed),
        };
        *budget = budget.checked_sub(body.len()).ok_or(CrdtError::TooLarge)?;
        let hash = self.verify(CHUNK_CHANGE, &body)?;
        let mut reader = Reader::new(&body);
        let deps = read_hashes(&mut reader)?;
        let actor = ReplicaId::from_bytes(reader.buffer()?)?;
        let seq = reader.uint(u64::from(u32::MAX))?;
        let start_op = reader.uint(u64::from(u32::MAX))?;
        if seq == 0 || start_op == 0 {
            return Err(CrdtError::Malformed);
        }
        reader.int()?; // time
        core::str::from_utf8(reader.buffer()?).map_err(|_| CrdtError::Malformed)?; // message
        let actors = read_actors(&mut reader)?.len() as u64;
        let columns = Columns::read(&mut reader)?;
        let declared = columns.check(
            &mut reader,
            Limits {
                rows: MAX_CHANGE_ROWS,
                inflated_bytes: None,
            },
        )?;
        Ok(Parsed {
            hash,
            actor,
            seq,
            deps,
            declared,
            actors,
            bytes: write_chunk(&hash, &body),
        })
    }

    /// Verifies a document chunk and counts its tables.
    fn check_document(&self) -> Result<Tables> {
        self.verify(CHUNK_DOCUMENT, self.body)?;
        let mut reader = Reader::new(self.body);
        let actors = read_actors(&mut reader)?;
        read_hashes(&mut reader)?;
        let changes = Columns::read(&mut reader)?;
        let operations = Columns::read(&mut reader)?;
        let limits = Limits {
            rows: MAX_SNAPSHOT_ROWS,
            inflated_bytes: Some(MAX_INFLATED_SNAPSHOT_BYTES),
        };
        let mut counts = vec![0; actors.len()];
        let changes = changes.check_counting(&mut reader, limits, &mut counts)?;
        let operations = operations.check(&mut reader, limits)?;
        // What follows are indexes of the heads, one each.
        while !reader.is_empty() {
            reader.uint(u64::MAX)?;
        }
        Ok(Tables {
            actors: actors.into_iter().zip(counts).collect(),
            changes,
            operations,
        })
    }
}

fn read_hashes(reader: &mut Reader<'_>) -> Result<Vec<Hash>> {
    let mut hashes = Vec::new();
    for _ in 0..reader.uint(MAX_NAMES)? {
        hashes.push(
            reader
                .take(32)?
                .try_into()
                .map_err(|_| CrdtError::Malformed)?,
        );
    }
    Ok(hashes)
}

fn read_actors(reader: &mut Reader<'_>) -> Result<Vec<ReplicaId>> {
    let mut actors = Vec::new();
    for _ in 0..reader.uint(MAX_NAMES)? {
        actors.push(ReplicaId::from_bytes(reader.buffer()?)?);
    }
    Ok(actors)
}

fn chunk_hash(kind: u8, body: &[u8]) -> Hash {
    let mut header = vec![kind];
    write_uint(&mut header, body.len() as u64);
    Sha256::new()
        .chain_update(&header)
        .chain_update(body)
        .finalize()
        .into()
}

fn write_chunk(hash: &Hash, body: &[u8]) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(body.len() + 20);
    chunk.extend_from_slice(&MAGIC);
    chunk.extend_from_slice(hash.get(..4).unwrap_or(&[]));
    chunk.push(CHUNK_CHANGE);
    write_uint(&mut chunk, body.len() as u64);
    chunk.extend_from_slice(body);
    chunk
}

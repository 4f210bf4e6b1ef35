//! A digest of a Yjs document that does not depend on how its operations were cut, joined or dropped.
//!
//! Hashed are: the clocks, the deletions, every live operation (its neighbours, its place, its content), what is waiting,
//! and the visible texts. Two replicas with the same operations agree on all of it; the engine's bytes may still differ.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

use super::canon;
use super::scan::{
    Block, Body, CONTENT_ANY, CONTENT_DELETED, CONTENT_STRING, Deletes, Id, Item, Parent, Scan,
    Section,
};
use crate::error::Result;
use crate::ranges::RangeSet;
use crate::reader::{Reader, write_uint};

const LABEL: &[u8] = b"conclave-crdt yjs digest 1";
/// Bytes collected before they are hashed.
const BUFFER_BYTES: usize = 16 << 10;

/// Everything a digest covers.
pub(super) struct Digested<'a> {
    /// The engine's whole state.
    pub(super) state: &'a Scan<'a>,
    /// Operations that wait, by client.
    pub(super) waiting: &'a BTreeMap<u64, RangeSet>,
    /// Deletions that wait.
    pub(super) waiting_deletes: &'a Deletes,
    /// Non-empty root texts by name.
    pub(super) texts: &'a BTreeMap<String, String>,
}

struct Hasher {
    hash: Sha256,
    buffer: Vec<u8>,
}

impl Hasher {
    fn spill(&mut self) {
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.hash.update(&self.buffer);
        self.buffer.clear();
    }

    fn uint(&mut self, value: u64) {
        write_uint(&mut self.buffer, value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.uint(bytes.len() as u64);
        self.buffer.extend_from_slice(bytes);
        self.spill();
    }

    fn id(&mut self, id: Option<Id>) {
        match id {
            Some(id) => {
                self.uint(1);
                self.uint(id.client);
                self.uint(u64::from(id.clock));
            }
            None => self.uint(0),
        }
    }

    fn ranges(&mut self, by_client: &BTreeMap<u64, RangeSet>) {
        self.uint(by_client.len() as u64);
        for (client, ranges) in by_client {
            self.uint(*client);
            self.uint(ranges.len() as u64);
            for (start, end) in ranges.iter() {
                self.uint(start);
                self.uint(end);
                self.spill();
            }
        }
    }
}

/// Computes the digest.
pub(super) fn digest(of: &Digested<'_>) -> Result<[u8; 32]> {
    let mut out = Hasher {
        hash: Sha256::new(),
        buffer: Vec::with_capacity(BUFFER_BYTES * 2),
    };
    out.bytes(LABEL);
    let mut sections: Vec<&Section> = of.state.sections.iter().collect();
    sections.sort_by_key(|section| section.client);
    let deletes = deleted(of.state, &sections)?;
    out.ranges(&deletes);
    for section in sections {
        out.uint(section.client);
        hash_section(
            &mut out,
            section,
            of.state.bytes,
            deletes.get(&section.client),
        )?;
        out.uint(u64::from(section.blocks.last().map_or(0, Block::end)));
    }
    out.ranges(of.waiting);
    out.ranges(of.waiting_deletes);
    for (name, text) in of.texts {
        out.bytes(name.as_bytes());
        out.bytes(text.as_bytes());
    }
    out.flush();
    Ok(out.hash.finalize().into())
}

/// All deletions: the delete set and whatever has lost its content.
fn deleted(state: &Scan<'_>, sections: &[&Section]) -> Result<Deletes> {
    let mut deletes = state.deletes.clone();
    for section in sections {
        for block in &section.blocks {
            let gone = match block.body(state.bytes)? {
                Body::Gc => true,
                Body::Item(item) => item.content == CONTENT_DELETED,
                Body::Skip => false,
            };
            if gone {
                let ranges = deletes.entry(section.client).or_default();
                ranges.insert(u64::from(block.clock), u64::from(block.end()));
            }
        }
    }
    Ok(deletes)
}

/// The live operation hashed last: where it ended and what a following one is joined to.
struct Previous {
    end: u32,
    right_origin: Option<Id>,
    content: u8,
}

fn hash_section(
    out: &mut Hasher,
    section: &Section,
    update: &[u8],
    deletes: Option<&RangeSet>,
) -> Result<()> {
    let mut previous: Option<Previous> = None;
    for block in &section.blocks {
        let Body::Item(item) = block.body(update)? else {
            continue;
        };
        let mut start = block.clock;
        let (from, to) = (u64::from(block.clock), u64::from(block.end()));
        let gone: Vec<(u64, u64)> = deletes
            .map(|ranges| ranges.within(from, to).collect())
            .unwrap_or_default();
        for (gone_start, gone_end) in gone.into_iter().chain([(to, to)]) {
            if u64::from(start) < gone_start {
                hash_live(
                    out,
                    section.client,
                    block,
                    &item,
                    (start, gone_start as u32),
                    &mut previous,
                )?;
            }
            start = gone_end as u32;
        }
    }
    Ok(())
}

/// Hashes operations `start..end` of an item. The position is left out where it follows from the operation before, so
/// that it makes no difference whether the engine has joined the two.
fn hash_live(
    out: &mut Hasher,
    client: u64,
    block: &Block,
    item: &Item<'_>,
    (start, end): (u32, u32),
    previous: &mut Option<Previous>,
) -> Result<()> {
    let origin = if start == block.clock {
        item.origin
    } else {
        Some(Id {
            client,
            clock: start.saturating_sub(1),
        })
    };
    let follows = previous.as_ref().is_some_and(|last| {
        last.end == start
            && last.right_origin == item.right_origin
            && last.content == item.content
            && matches!(item.content, CONTENT_STRING | CONTENT_ANY)
            && origin == start.checked_sub(1).map(|clock| Id { client, clock })
    });
    if !follows {
        out.bytes(b"item");
        out.uint(u64::from(start));
        out.id(origin);
        out.id(item.right_origin);
        if start == block.clock {
            hash_parent(out, item);
        }
        out.uint(u64::from(item.content));
    }
    hash_content(out, item, start - block.clock, end - block.clock)?;
    *previous = Some(Previous {
        end,
        right_origin: item.right_origin,
        content: item.content,
    });
    Ok(())
}

fn hash_parent(out: &mut Hasher, item: &Item<'_>) {
    match &item.parent {
        Some(Parent::Root(name)) => out.bytes(name.as_bytes()),
        Some(Parent::Item(id)) => out.id(Some(*id)),
        None => {}
    }
    if let Some(key) = item.parent_sub {
        out.bytes(key.as_bytes());
    }
}

fn hash_content(out: &mut Hasher, item: &Item<'_>, from: u32, to: u32) -> Result<()> {
    match item.content {
        CONTENT_STRING => {
            let text = Reader::new(item.data).string()?;
            for unit in text
                .encode_utf16()
                .skip(from as usize)
                .take((to - from) as usize)
            {
                out.buffer.extend_from_slice(&unit.to_be_bytes());
                out.spill();
            }
        }
        CONTENT_ANY => {
            for value in canon::values(item.content, item.data, from, to)? {
                out.bytes(&value);
            }
        }
        content => {
            let mut value = Vec::new();
            canon::write_single(&mut value, content, item.data)?;
            out.bytes(&value);
        }
    }
    Ok(())
}

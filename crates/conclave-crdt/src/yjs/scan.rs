//! A strict reader of Yjs updates (lib0 encoding, version 1).
//!
//! Every foreign byte passes here before the engine sees it. The engine trusts counts and clocks (it reserves memory by
//! declared counts, wraps clocks, recurses into nested values, reads two legacy contents differently from Yjs); this
//! reader refuses what would make it misbehave, so that an update has exactly one meaning. Blocks are kept as offsets
//! and read again where needed.

use std::collections::BTreeMap;

use super::plan::Plan;
use crate::error::{CrdtError, Result};
use crate::kinds::MAX_YJS_CLIENT;
use crate::limits::{MAX_BLOCKS, MAX_VALUE_DEPTH};
use crate::ranges::RangeSet;
use crate::reader::Reader;

/// Clocks are 32-bit in the engine, and it computes differences as signed numbers.
const MAX_CLOCK: u64 = i32::MAX as u64;

pub(super) const INFO_GC: u8 = 0;
pub(super) const INFO_SKIP: u8 = 10;
pub(super) const HAS_ORIGIN: u8 = 0x80;
pub(super) const HAS_RIGHT_ORIGIN: u8 = 0x40;
pub(super) const HAS_PARENT_SUB: u8 = 0x20;

pub(super) const CONTENT_DELETED: u8 = 1;
pub(super) const CONTENT_BINARY: u8 = 3;
pub(super) const CONTENT_STRING: u8 = 4;
pub(super) const CONTENT_EMBED: u8 = 5;
pub(super) const CONTENT_FORMAT: u8 = 6;
pub(super) const CONTENT_TYPE: u8 = 7;
pub(super) const CONTENT_ANY: u8 = 8;
pub(super) const CONTENT_DOC: u8 = 9;

pub(super) const TYPE_XML_ELEMENT: u8 = 3;
/// XmlHook: the engine does not read its name.
const TYPE_XML_HOOK: u8 = 5;
const TYPE_XML_TEXT: u8 = 6;

/// The id of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    pub(super) client: u64,
    pub(super) clock: u32,
}

/// Deleted operations by client.
pub(super) type Deletes = BTreeMap<u64, RangeSet>;

/// A run of operations with consecutive clocks; `start..end` are its bytes in the update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) clock: u32,
    pub(super) len: u32,
    start: u32,
    end: u32,
}

/// The blocks of one client, in clock order without gaps (a gap is a skip block).
#[derive(Debug)]
pub(super) struct Section {
    pub(super) client: u64,
    pub(super) blocks: Vec<Block>,
}

/// A scanned update.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) sections: Vec<Section>,
    pub(super) deletes: Deletes,
    /// Where the delete set begins.
    pub(super) blocks_end: usize,
    /// Whether there is nothing in it but characters of one unit each, and what was dropped.
    pub(super) plain: bool,
    /// How it was counted, if it was.
    pub(super) plan: Option<Box<Plan>>,
}

/// A scan without the bytes that were scanned.
pub(crate) struct Layout {
    sections: Vec<Section>,
    deletes: Deletes,
    blocks_end: usize,
    plain: bool,
    length: usize,
    pub(super) plan: Option<Box<Plan>>,
}

impl Layout {
    /// Whether something that had waited comes in with it.
    pub(crate) fn lets_in(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| !plan.released.is_empty() || !plan.due.is_empty())
    }

    /// Nothing that waits comes in with it.
    pub(crate) fn keep_waiting(&mut self) {
        if let Some(plan) = &mut self.plan {
            plan.released.clear();
            plan.deletes = Deletes::default();
            plan.due = Deletes::default();
        }
    }

    /// The blocks, without their bytes.
    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    pub(super) fn deletes(&self) -> &Deletes {
        &self.deletes
    }

    /// How long the update is that this is the layout of.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// The scan of these bytes, which this is the layout of.
    pub(super) fn over(self, bytes: &[u8]) -> Result<Scan<'_>> {
        let Self {
            sections,
            deletes,
            blocks_end,
            plain,
            length,
            plan,
        } = self;
        if bytes.len() != length {
            return Err(CrdtError::Malformed);
        }
        Ok(Scan {
            bytes,
            sections,
            deletes,
            blocks_end,
            plain,
            plan,
        })
    }
}

/// What a block is.
pub(super) enum Body<'a> {
    /// A gap.
    Skip,
    /// Operations whose content and position have been dropped.
    Gc,
    Item(Item<'a>),
}

/// Position and content of an item.
pub(super) struct Item<'a> {
    pub(super) origin: Option<Id>,
    pub(super) right_origin: Option<Id>,
    /// Present only if there is no origin on either side.
    pub(super) parent: Option<Parent<'a>>,
    pub(super) parent_sub: Option<&'a str>,
    /// One of the `CONTENT_` numbers.
    pub(super) content: u8,
    /// The content's bytes.
    pub(super) data: &'a [u8],
}

#[derive(PartialEq, Eq)]
pub(super) enum Parent<'a> {
    Root(&'a str),
    Item(Id),
}

impl Block {
    pub(super) fn end(&self) -> u32 {
        self.clock + self.len
    }

    /// The encoded block.
    pub(super) fn raw<'a>(&self, update: &'a [u8]) -> &'a [u8] {
        update
            .get(self.start as usize..self.end as usize)
            .unwrap_or(&[])
    }

    pub(super) fn is_skip(&self, update: &[u8]) -> bool {
        self.raw(update).first() == Some(&INFO_SKIP)
    }

    pub(super) fn body<'a>(&self, update: &'a [u8]) -> Result<Body<'a>> {
        let raw = self.raw(update);
        let mut reader = Reader::new(raw);
        let info = reader.byte()?;
        match info {
            INFO_SKIP => Ok(Body::Skip),
            INFO_GC => Ok(Body::Gc),
            _ => {
                let mut item = read_position(&mut reader, info)?;
                item.data = raw.get(reader.position()..).unwrap_or(&[]);
                Ok(Body::Item(item))
            }
        }
    }
}

impl<'a> Scan<'a> {
    /// Reads a whole update; nothing may follow it.
    pub(super) fn exact(bytes: &'a [u8]) -> Result<Self> {
        let (scan, length) = Self::prefix(bytes)?;
        if length == bytes.len() {
            Ok(scan)
        } else {
            Err(CrdtError::Malformed)
        }
    }

    /// Reads the update at the front of `bytes` and says how long it is.
    pub(super) fn prefix(bytes: &'a [u8]) -> Result<(Self, usize)> {
        #[cfg(test)]
        SCANS.with(|scans| scans.set(scans.get() + 1));
        let mut reader = Reader::new(bytes);
        let count = reader.uint(u64::from(u32::MAX))?;
        // Grown by what is really there, not by the declared count.
        let mut sections: Vec<Section> = Vec::with_capacity(count.min(4) as usize);
        let mut budget = MAX_BLOCKS;
        let mut plain = true;
        for _ in 0..count {
            let section = read_section(&mut reader, &mut budget, &mut plain)?;
            sections.push(section);
        }
        refuse_repeated_clients(&sections)?;
        let blocks_end = reader.position();
        let deletes = read_deletes(&mut reader)?;
        let length = reader.position();
        let bytes = bytes.get(..length).ok_or(CrdtError::Malformed)?;
        Ok((
            Self {
                bytes,
                sections,
                deletes,
                blocks_end,
                plain,
                plan: None,
            },
            length,
        ))
    }

    /// The scan without the bytes.
    pub(super) fn into_layout(self) -> Layout {
        Layout {
            sections: self.sections,
            deletes: self.deletes,
            blocks_end: self.blocks_end,
            plain: self.plain,
            length: self.bytes.len(),
            plan: None,
        }
    }

    /// The section of a client.
    pub(super) fn section(&self, client: u64) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.client == client)
    }
}

#[cfg(test)]
thread_local! {
    /// How many updates this thread has scanned.
    pub(super) static SCANS: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

fn refuse_repeated_clients(sections: &[Section]) -> Result<()> {
    if sections.len() < 2 {
        return Ok(());
    }
    let mut clients: Vec<u64> = sections.iter().map(|section| section.client).collect();
    clients.sort_unstable();
    if clients.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(CrdtError::Malformed);
    }
    Ok(())
}

fn read_section(reader: &mut Reader<'_>, budget: &mut usize, plain: &mut bool) -> Result<Section> {
    let count = reader.uint(u64::from(u32::MAX))?;
    let client = reader.uint(MAX_YJS_CLIENT)?;
    let mut clock = reader.uint(MAX_CLOCK)? as u32;
    if count == 0 {
        return Err(CrdtError::Malformed);
    }
    // Grown by what is really there, not by the declared count.
    let mut blocks = Vec::with_capacity(count.min(64) as usize);
    for _ in 0..count {
        *budget = budget.checked_sub(1).ok_or(CrdtError::TooLarge)?;
        let start = reader.position();
        let len = read_block(reader, Id { client, clock }, plain)?;
        let end = reader.position();
        let next = u64::from(clock) + len;
        if next > MAX_CLOCK || end > u32::MAX as usize {
            return Err(CrdtError::Malformed);
        }
        // Old Yjs versions wrote empty items; they mean nothing.
        if len > 0 {
            blocks.push(Block {
                clock,
                len: len as u32,
                start: start as u32,
                end: end as u32,
            });
        }
        clock = next as u32;
    }
    if blocks.is_empty() {
        Err(CrdtError::Malformed)
    } else {
        Ok(Section { client, blocks })
    }
}

/// Reads one block and returns how many clocks it takes.
fn read_block(reader: &mut Reader<'_>, id: Id, plain: &mut bool) -> Result<u64> {
    let info = reader.byte()?;
    if info == INFO_SKIP || info == INFO_GC {
        let len = reader.uint(MAX_CLOCK)?;
        return if len == 0 {
            Err(CrdtError::Malformed)
        } else {
            Ok(len)
        };
    }
    let item = read_position(reader, info)?;
    // An item cannot stand next to an operation of its own future.
    let own_future =
        |other: Option<Id>| other.is_some_and(|o| o.client == id.client && o.clock >= id.clock);
    let parent = match item.parent {
        Some(Parent::Item(parent)) => Some(parent),
        _ => None,
    };
    if own_future(item.origin) || own_future(item.right_origin) || own_future(parent) {
        return Err(CrdtError::Malformed);
    }
    read_content(reader, item.content, plain)
}

fn read_id(reader: &mut Reader<'_>) -> Result<Id> {
    Ok(Id {
        client: reader.uint(MAX_YJS_CLIENT)?,
        clock: reader.uint(MAX_CLOCK)? as u32,
    })
}

/// Reads an item up to its content.
fn read_position<'a>(reader: &mut Reader<'a>, info: u8) -> Result<Item<'a>> {
    let origin = if info & HAS_ORIGIN != 0 {
        Some(read_id(reader)?)
    } else {
        None
    };
    let right_origin = if info & HAS_RIGHT_ORIGIN != 0 {
        Some(read_id(reader)?)
    } else {
        None
    };
    let mut item = Item {
        origin,
        right_origin,
        parent: None,
        parent_sub: None,
        content: info & 0x0f,
        data: &[],
    };
    if origin.is_none() && right_origin.is_none() {
        item.parent = Some(match reader.uint(1)? {
            1 => Parent::Root(reader.string()?),
            _ => Parent::Item(read_id(reader)?),
        });
        if info & HAS_PARENT_SUB != 0 {
            item.parent_sub = Some(reader.string()?);
        }
    }
    Ok(item)
}

/// Reads content and returns its length in clocks.
fn read_content(reader: &mut Reader<'_>, content: u8, plain: &mut bool) -> Result<u64> {
    match content {
        CONTENT_DELETED => return reader.uint(MAX_CLOCK),
        CONTENT_STRING => {
            let text = reader.string()?;
            // Characters of two units begin with this byte or a higher one.
            *plain &= text.bytes().all(|byte| byte < 0xf0);
            return Ok(utf16_len(text));
        }
        _ => *plain = false,
    }
    match content {
        CONTENT_BINARY => reader.buffer().map(|_| 1),
        CONTENT_EMBED => read_json(reader).map(|()| 1),
        CONTENT_FORMAT => {
            reader.string()?;
            read_json(reader).map(|()| 1)
        }
        CONTENT_TYPE => read_type(reader).map(|()| 1),
        CONTENT_ANY => {
            let count = reader.uint(MAX_CLOCK)?;
            for _ in 0..count {
                skip_any(reader, 0)?;
            }
            Ok(count)
        }
        CONTENT_DOC => {
            reader.string()?;
            skip_any(reader, 0).map(|()| 1)
        }
        // 2 is JSON of very old Yjs versions, which the engine reads one string too far.
        _ => Err(CrdtError::Malformed),
    }
}

fn read_json(reader: &mut Reader<'_>) -> Result<()> {
    serde_json::from_str::<serde_json::Value>(reader.string()?)
        .map(|_| ())
        .map_err(|_| CrdtError::Malformed)
}

fn read_type(reader: &mut Reader<'_>) -> Result<()> {
    match reader.byte()? {
        TYPE_XML_ELEMENT => reader.string().map(|_| ()),
        TYPE_XML_HOOK => Err(CrdtError::Malformed),
        tag if tag <= TYPE_XML_TEXT => Ok(()),
        _ => Err(CrdtError::Malformed),
    }
}

/// Skips one lib0 value.
pub(super) fn skip_any(reader: &mut Reader<'_>, depth: usize) -> Result<()> {
    count_any(reader, depth).map(|_| ())
}

/// Skips one lib0 value. How many there are in it, itself among them.
pub(super) fn count_any(reader: &mut Reader<'_>, depth: usize) -> Result<u64> {
    if depth > MAX_VALUE_DEPTH {
        return Err(CrdtError::TooLarge);
    }
    match reader.byte()? {
        120 | 121 | 126 | 127 => Ok(1),
        125 => read_signed(reader).map(|_| 1),
        124 => reader.take(4).map(|_| 1),
        123 | 122 => reader.take(8).map(|_| 1),
        119 => reader.string().map(|_| 1),
        116 => reader.buffer().map(|_| 1),
        118 => {
            let mut count = 1;
            for _ in 0..reader.uint(MAX_CLOCK)? {
                reader.string()?;
                count += count_any(reader, depth + 1)?;
            }
            Ok(count)
        }
        117 => {
            let mut count = 1;
            for _ in 0..reader.uint(MAX_CLOCK)? {
                count += count_any(reader, depth + 1)?;
            }
            Ok(count)
        }
        _ => Err(CrdtError::Malformed),
    }
}

/// A lib0 signed integer: a sign bit and magnitude, of at most 62 bits.
pub(super) fn read_signed(reader: &mut Reader<'_>) -> Result<i64> {
    let (negative, magnitude) = read_sign_and_magnitude(reader)?;
    let magnitude = i64::try_from(magnitude).map_err(|_| CrdtError::Malformed)?;
    Ok(if negative { -magnitude } else { magnitude })
}

/// The same where zero has a sign of its own: whether it is negative, and how large.
pub(super) fn read_sign_and_magnitude(reader: &mut Reader<'_>) -> Result<(bool, u64)> {
    let first = reader.byte()?;
    let mut magnitude = u64::from(first & 0x3f);
    let mut shift = 6;
    let mut more = first & 0x80 != 0;
    while more {
        if shift > 55 {
            return Err(CrdtError::Malformed);
        }
        let byte = reader.byte()?;
        magnitude |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        more = byte & 0x80 != 0;
    }
    Ok((first & 0x40 != 0, magnitude))
}

fn read_deletes(reader: &mut Reader<'_>) -> Result<Deletes> {
    let mut deletes = Deletes::new();
    for _ in 0..reader.uint(u64::from(u32::MAX))? {
        let client = reader.uint(MAX_YJS_CLIENT)?;
        let mut ranges = RangeSet::default();
        let mut next = 0;
        for _ in 0..reader.uint(u64::from(u32::MAX))? {
            let start = reader.uint(MAX_CLOCK)?;
            let end = start + reader.uint(MAX_CLOCK)?;
            // The engine assumes sorted, disjoint, non-empty ranges.
            if start < next || end == start || end > MAX_CLOCK {
                return Err(CrdtError::Malformed);
            }
            ranges.insert(start, end);
            next = end;
        }
        if ranges.is_empty() || deletes.insert(client, ranges).is_some() {
            return Err(CrdtError::Malformed);
        }
    }
    Ok(deletes)
}

/// The length of a string as Yjs counts it.
pub(super) fn utf16_len(text: &str) -> u64 {
    text.chars().map(|c| c.len_utf16() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `insert "seed" into root "t"` by client 1, as Yjs writes it.
    const SEED: &[u8] = &[1, 1, 7, 0, 4, 1, 1, b't', 4, b's', b'e', b'e', b'd', 0];

    #[test]
    fn a_captured_update_reads_as_yjs_wrote_it() {
        let scan = Scan::exact(SEED).unwrap();
        assert_eq!(scan.sections.len(), 1);
        let block = scan.section(7).unwrap().blocks[0];
        assert_eq!((block.clock, block.end()), (0, 4));
        let Body::Item(item) = block.body(SEED).unwrap() else {
            panic!("an item")
        };
        assert!(matches!(item.parent, Some(Parent::Root("t"))));
        assert_eq!(
            (item.content, item.data),
            (CONTENT_STRING, &b"\x04seed"[..])
        );
        assert!(scan.deletes.is_empty());
    }

    #[test]
    fn every_truncation_and_every_suffix_is_refused() {
        for length in 0..SEED.len() {
            assert!(Scan::exact(&SEED[..length]).is_err(), "{length}");
        }
        let mut longer = SEED.to_vec();
        longer.push(0);
        assert!(Scan::exact(&longer).is_err());
    }

    #[test]
    fn hostile_numbers_are_refused() {
        // Name, bytes.
        let cases: [(&str, &[u8]); 9] = [
            ("four billion clients", &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            ("no blocks", &[1, 0, 7, 0, 0]),
            ("legacy JSON content", &[1, 1, 7, 0, 2, 1, 1, b't', 0, 0]),
            (
                "client of 54 bits",
                &[
                    1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f, 0, 0, 1, 0,
                ],
            ),
            (
                "clock overflow",
                &[1, 1, 7, 0xff, 0xff, 0xff, 0xff, 7, 0, 1, 0],
            ),
            ("empty GC", &[1, 1, 7, 0, 0, 0, 0]),
            (
                "origin in the own future",
                &[1, 1, 7, 0, 0x84, 7, 0, 1, b'x', 0],
            ),
            ("unsorted deletes", &[0, 1, 7, 2, 5, 1, 0, 1]),
            ("empty delete", &[0, 1, 7, 1, 5, 0]),
        ];
        for (name, bytes) in cases {
            assert!(Scan::exact(bytes).is_err(), "{name}");
        }
    }

    #[test]
    fn deeply_nested_values_are_refused_without_recursing_into_them() {
        let mut bytes = vec![1, 1, 7, 0, 8, 1, 1, b't', 1];
        for _ in 0..200_000 {
            bytes.extend([117, 1]);
        }
        bytes.extend([126, 0]);
        assert_eq!(Scan::exact(&bytes).err(), Some(CrdtError::TooLarge));
    }

    #[test]
    fn signed_integers() {
        for (bytes, value) in [
            (&[0u8][..], 0i64),
            (&[0x41], -1),
            (&[0x80, 1], 64),
            (&[0xff, 0x7f], -8191),
        ] {
            assert_eq!(read_signed(&mut Reader::new(bytes)), Ok(value));
        }
        assert!(read_signed(&mut Reader::new(&[0xff; 12])).is_err());
    }
}

//! Own updates that nobody has yet, as few that say the same: what one replica wrote on and on is one update, its runs joined, and a text that was
//! typed and deleted again is not in it.

use super::Yrs;
use super::apart::Apart;
use super::encode::{
    deletes_only, pack_within, write_deletes, write_position, write_section_header,
};
use super::scan::{
    Block, Body, CONTENT_ANY, CONTENT_DELETED, CONTENT_STRING, Deletes, Id, Item, Scan, skip_any,
};
use crate::error::{CrdtError, Result};
use crate::limits::MAX_UPDATE_BYTES;
use crate::ranges::RangeSet;
use crate::reader::{Reader, write_uint};

/// What one replica wrote without a gap, and what was deleted meanwhile.
#[derive(Default)]
struct Stretch {
    client: Option<u64>,
    start: u32,
    end: u32,
    count: usize,
    blocks: Vec<u8>,
    deletes: Deletes,
}

impl Stretch {
    fn is_empty(&self) -> bool {
        self.client.is_none() && self.deletes.is_empty()
    }

    /// Whether what begins there goes on from it.
    fn goes_on(&self, client: u64, clock: u32) -> bool {
        self.client.is_none() || (self.client, self.end) == (Some(client), clock)
    }

    fn delete(&mut self, deletes: &Deletes) {
        for (client, ranges) in deletes {
            let all = self.deletes.entry(*client).or_default();
            ranges.iter().for_each(|(from, to)| all.insert(from, to));
        }
    }
}

/// Part of an item: from one unit to another, and from one byte of its content to another.
struct Part {
    from: u32,
    to: u32,
    bytes: (usize, usize),
    is_gone: bool,
}

/// An item cut where what is deleted of it begins and ends; none where nothing is, or it would be cut inside of a character.
fn parts(block: &Block, item: &Item<'_>, gone: &RangeSet) -> Result<Option<Vec<Part>>> {
    let first = u64::from(block.clock);
    let mut cuts = Vec::new();
    for (from, to) in gone.within(first, u64::from(block.end())) {
        cuts.push(((from - first) as u32, true));
        cuts.push(((to - first) as u32, false));
    }
    if cuts.is_empty() {
        return Ok(None);
    }
    cuts.push((block.len, false));
    let mut places = Places::of(item)?;
    let mut parts = Vec::with_capacity(cuts.len());
    let (mut from, mut byte, mut is_gone) = (0, places.byte, false);
    for (to, then_gone) in cuts {
        let Some(end) = places.byte_of(to)? else {
            return Ok(None);
        };
        if from < to {
            let bytes = (byte, end);
            parts.push(Part {
                from,
                to,
                bytes,
                is_gone,
            });
        }
        (from, byte, is_gone) = (to, end, then_gone);
    }
    Ok(Some(parts))
}

/// Where in the bytes of a content its units begin: asked for from the front to the back.
struct Places<'a> {
    reader: Reader<'a>,
    is_text: bool,
    unit: u32,
    byte: usize,
}

impl<'a> Places<'a> {
    fn of(item: &Item<'a>) -> Result<Self> {
        let mut reader = Reader::new(item.data);
        reader.uint(u64::from(u32::MAX))?;
        Ok(Self {
            byte: reader.position(),
            reader,
            is_text: item.content == CONTENT_STRING,
            unit: 0,
        })
    }

    /// None inside of a character.
    fn byte_of(&mut self, unit: u32) -> Result<Option<usize>> {
        while self.unit < unit {
            self.unit += match self.is_text {
                true => {
                    let lead = self.reader.byte()?;
                    let more = match lead {
                        0..0xc0 => 0,
                        0xc0..0xe0 => 1,
                        0xe0..0xf0 => 2,
                        0xf0.. => 3,
                    };
                    self.reader.take(more)?;
                    if more == 3 { 2 } else { 1 }
                }
                false => {
                    skip_any(&mut self.reader, 0)?;
                    1
                }
            };
            self.byte = self.reader.position();
        }
        Ok((self.unit == unit).then_some(self.byte))
    }
}

/// The content of a part.
fn content(item: &Item<'_>, part: &Part) -> Vec<u8> {
    let mut out = Vec::new();
    let (from, to) = part.bytes;
    let units = u64::from(part.to - part.from);
    if part.is_gone {
        write_uint(&mut out, units);
        return out;
    }
    let length = match item.content {
        CONTENT_STRING => (to - from) as u64,
        _ => units,
    };
    write_uint(&mut out, length);
    out.extend_from_slice(item.data.get(from..to).unwrap_or(&[]));
    out
}

impl Yrs {
    /// See [`Crdt::coalesce`](crate::Crdt::coalesce).
    pub(super) fn coalesced(&self, updates: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        let scans = updates.iter().map(|update| super::scan_update(update));
        let scans = scans.collect::<Result<Vec<_>>>()?;
        let mut gone = Stretch::default();
        scans.iter().for_each(|scan| gone.delete(&scan.deletes));
        let gone = gone.deletes;
        let mut all = Vec::new();
        let mut stretch = Stretch::default();
        for scan in &scans {
            match scan.sections.as_slice() {
                [] => {}
                [section] if !section.blocks.iter().any(|it| it.is_skip(scan.bytes)) => {
                    let end = section.blocks.last().map_or(0, Block::end);
                    if end > self.frontier.clock(section.client) {
                        // What is a value of a key would not be known.
                        return Err(CrdtError::MissingDependency);
                    }
                    let clock = section.blocks.first().map_or(0, |block| block.clock);
                    if !stretch.goes_on(section.client, clock) {
                        self.end_stretch(std::mem::take(&mut stretch), &mut all)?;
                    }
                    if stretch.client.is_none() {
                        stretch.client = Some(section.client);
                        stretch.start = clock;
                    }
                    for block in &section.blocks {
                        self.take_block(&mut stretch, section.client, block, scan, &gone)?;
                    }
                }
                _ => {
                    self.end_stretch(std::mem::take(&mut stretch), &mut all)?;
                    all.push(scan.bytes.to_vec());
                    continue;
                }
            }
            stretch.delete(&scan.deletes);
        }
        self.end_stretch(stretch, &mut all)?;
        Ok(all)
    }

    fn take_block(
        &self,
        stretch: &mut Stretch,
        client: u64,
        block: &Block,
        scan: &Scan<'_>,
        gone: &Deletes,
    ) -> Result<()> {
        stretch.end = block.end();
        let clock = block.clock;
        if let Some(gone) = gone.get(&client)
            && let Body::Item(mut item) = block.body(scan.bytes)?
            && matches!(item.content, CONTENT_STRING | CONTENT_ANY)
            // What a key held before deletes nothing by itself.
            && !self.frontier.is_keyed(Id { client, clock })
            && let Some(parts) = parts(block, &item, gone)?
        {
            for part in parts {
                let kind = match part.is_gone {
                    true => CONTENT_DELETED,
                    false => item.content,
                };
                let before = part.from.checked_sub(1).map(|before| Id {
                    client,
                    clock: clock + before,
                });
                let right_origin = item.right_origin;
                let place = match before {
                    Some(_) => Item {
                        origin: before,
                        right_origin,
                        parent: None,
                        parent_sub: None,
                        content: kind,
                        data: &[],
                    },
                    None => Item {
                        origin: item.origin,
                        right_origin,
                        parent: item.parent.take(),
                        parent_sub: item.parent_sub,
                        content: kind,
                        data: &[],
                    },
                };
                write_position(&mut stretch.blocks, &place);
                stretch.blocks.extend(content(&item, &part));
                stretch.count += 1;
            }
        } else {
            stretch.blocks.extend_from_slice(block.raw(scan.bytes));
            stretch.count += 1;
        }
        Ok(())
    }

    /// Writes what came together, in as few updates as hold it.
    fn end_stretch(&self, stretch: Stretch, all: &mut Vec<Vec<u8>>) -> Result<()> {
        if stretch.is_empty() {
            return Ok(());
        }
        let update = match stretch.client {
            Some(client) => {
                let mut out = Vec::with_capacity(stretch.blocks.len() + 64);
                write_section_header(&mut out, client, stretch.start, stretch.count);
                out.extend_from_slice(&stretch.blocks);
                write_deletes(&mut out, &stretch.deletes);
                out
            }
            None => deletes_only(&stretch.deletes),
        };
        let scan = Scan::exact(&update)?;
        let joined = self.joined(&scan, &Apart::default())?;
        // A record ends its padding with one byte more.
        if joined.len() < MAX_UPDATE_BYTES {
            all.push(joined.into_owned());
            return Ok(());
        }
        let scan = Scan::exact(&joined)?;
        let client = stretch.client.unwrap_or_default();
        let most = MAX_UPDATE_BYTES - 1;
        all.extend(pack_within(client, &scan, &scan.deletes, most)?);
        Ok(())
    }
}

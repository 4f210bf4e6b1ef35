//! Writing Yjs updates (version 1) out of scanned blocks.

use super::scan::{
    Block, Body, CONTENT_ANY, CONTENT_STRING, Deletes, INFO_GC, Id, Item, Parent, Scan, skip_any,
    utf16_len,
};
use crate::error::{CrdtError, Result};
use crate::limits::{MAX_INSERT_CHARS, MAX_UPDATE_BYTES};
use crate::reader::{Reader, write_uint};

/// Room for the header of an update: counts, client, clock.
const HEADER_BYTES: usize = 64;
/// Most delete ranges in one produced update.
const MAX_DELETE_RANGES: usize = 50_000;
/// Each takes at most so many bytes.
const DELETE_RANGE_BYTES: usize = 10;

/// Appends a delete set.
pub(super) fn write_deletes(out: &mut Vec<u8>, deletes: &Deletes) {
    write_uint(out, deletes.len() as u64);
    for (client, ranges) in deletes {
        write_uint(out, *client);
        write_uint(out, ranges.len() as u64);
        for (start, end) in ranges.iter() {
            write_uint(out, start);
            write_uint(out, end - start);
        }
    }
}

/// An update that only deletes.
pub(super) fn deletes_only(deletes: &Deletes) -> Vec<u8> {
    let mut out = vec![0];
    write_deletes(&mut out, deletes);
    out
}

/// An update of consecutive blocks of one client, taken as they are.
pub(super) fn blocks_only(client: u64, blocks: &[Block], update: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    write_section_header(
        &mut out,
        client,
        blocks.first().map_or(0, |block| block.clock),
        blocks.len(),
    );
    for block in blocks {
        out.extend_from_slice(block.raw(update));
    }
    out.push(0);
    out
}

/// An update of operations without their content and place.
pub(super) fn gone(client: u64, start: u32, end: u32) -> Vec<u8> {
    let mut block = vec![INFO_GC];
    write_uint(&mut block, u64::from(end.saturating_sub(start)));
    raw_blocks(client, start, 1, &block)
}

/// An update of `count` consecutive encoded blocks.
pub(super) fn raw_blocks(client: u64, clock: u32, count: usize, blocks: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blocks.len() + HEADER_BYTES);
    write_section_header(&mut out, client, clock, count);
    out.extend_from_slice(blocks);
    out.push(0);
    out
}

pub(super) fn write_section_header(out: &mut Vec<u8>, client: u64, clock: u32, blocks: usize) {
    out.push(1);
    write_uint(out, blocks as u64);
    write_uint(out, client);
    write_uint(out, u64::from(clock));
}

/// Cuts one client's operations and its deletions into updates of at most [`MAX_UPDATE_BYTES`].
pub(super) fn pack(client: u64, scan: &Scan<'_>, deletes: &Deletes) -> Result<Vec<Vec<u8>>> {
    pack_within(client, scan, deletes, MAX_UPDATE_BYTES)
}

/// As [`pack`], into updates of about so many bytes. What is one operation stays one.
pub(super) fn pack_within(
    client: u64,
    scan: &Scan<'_>,
    deletes: &Deletes,
    about_bytes: usize,
) -> Result<Vec<Vec<u8>>> {
    let mut pieces = Vec::new();
    if let Some(section) = scan.section(client) {
        for block in &section.blocks {
            cut_block(client, block, scan.bytes, &mut pieces)?;
        }
    }
    let mut updates = Vec::new();
    let mut batch: Vec<&Piece> = Vec::new();
    let mut size = HEADER_BYTES;
    for piece in &pieces {
        if size + piece.bytes.len() > about_bytes && !batch.is_empty() {
            updates.push(join(client, &batch));
            batch.clear();
            size = HEADER_BYTES;
        }
        size += piece.bytes.len();
        batch.push(piece);
    }
    if !batch.is_empty() {
        updates.push(join(client, &batch));
    }
    append_deletes(&mut updates, deletes, about_bytes);
    if updates.iter().any(|update| update.len() > MAX_UPDATE_BYTES) {
        return Err(CrdtError::TooLarge);
    }
    Ok(updates)
}

struct Piece {
    clock: u32,
    bytes: Vec<u8>,
}

/// One update of consecutive pieces, without deletions.
fn join(client: u64, pieces: &[&Piece]) -> Vec<u8> {
    let mut out = Vec::new();
    write_section_header(
        &mut out,
        client,
        pieces.first().map_or(0, |piece| piece.clock),
        pieces.len(),
    );
    for piece in pieces {
        out.extend_from_slice(&piece.bytes);
    }
    out.push(0);
    out
}

/// Adds deletions, which may name any operation before them: to the last update if they fit, else after it.
fn append_deletes(updates: &mut Vec<Vec<u8>>, deletes: &Deletes, about_bytes: usize) {
    if deletes.is_empty() {
        return;
    }
    let encoded = deletes_only(deletes);
    if let Some(last) = updates.last_mut()
        && last.len() + encoded.len() <= about_bytes
    {
        last.pop();
        last.extend_from_slice(encoded.get(1..).unwrap_or(&[]));
        return;
    }
    let all: Vec<(u64, u64, u64)> = deletes
        .iter()
        .flat_map(|(client, ranges)| ranges.iter().map(|(start, end)| (*client, start, end)))
        .collect();
    for chunk in all.chunks((about_bytes / DELETE_RANGE_BYTES).clamp(1, MAX_DELETE_RANGES)) {
        let mut part = Deletes::new();
        for (client, start, end) in chunk {
            part.entry(*client).or_default().insert(*start, *end);
        }
        updates.push(deletes_only(&part));
    }
}

/// Takes a block as it is, or cuts a long text or list into shorter items as Yjs itself splits items: each part follows
/// the last operation of the part before.
fn cut_block(client: u64, block: &Block, update: &[u8], pieces: &mut Vec<Piece>) -> Result<()> {
    let raw = block.raw(update);
    if raw.len() + HEADER_BYTES <= MAX_UPDATE_BYTES {
        pieces.push(Piece {
            clock: block.clock,
            bytes: raw.to_vec(),
        });
        return Ok(());
    }
    let Body::Item(item) = block.body(update)? else {
        return Err(CrdtError::Malformed);
    };
    let parts = match item.content {
        CONTENT_STRING => cut_string(item.data)?,
        CONTENT_ANY => cut_values(item.data)?,
        _ => return Err(CrdtError::TooLarge),
    };
    let mut clock = block.clock;
    for (len, content) in parts {
        let mut bytes = Vec::with_capacity(content.len() + HEADER_BYTES);
        if clock == block.clock {
            write_position(&mut bytes, &item);
        } else {
            let origin = Some(Id {
                client,
                clock: clock - 1,
            });
            let right_origin = item.right_origin;
            let content = item.content;
            write_position(
                &mut bytes,
                &Item {
                    origin,
                    right_origin,
                    parent: None,
                    parent_sub: None,
                    content,
                    data: &[],
                },
            );
        }
        bytes.extend_from_slice(&content);
        pieces.push(Piece { clock, bytes });
        clock += len;
    }
    Ok(())
}

fn cut_string(data: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let text = Reader::new(data).string()?;
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let cut = rest
            .char_indices()
            .nth(MAX_INSERT_CHARS)
            .map_or(rest.len(), |(index, _)| index);
        let (part, tail) = rest.split_at(cut);
        let mut content = Vec::with_capacity(part.len() + 5);
        write_uint(&mut content, part.len() as u64);
        content.extend_from_slice(part.as_bytes());
        parts.push((utf16_len(part) as u32, content));
        rest = tail;
    }
    Ok(parts)
}

fn cut_values(data: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut reader = Reader::new(data);
    let count = reader.uint(u64::from(u32::MAX))?;
    let mut parts = Vec::new();
    let mut values = Vec::new();
    let mut len = 0u32;
    let flush = |parts: &mut Vec<(u32, Vec<u8>)>, len: &mut u32, values: &mut Vec<u8>| {
        let mut content = Vec::with_capacity(values.len() + 5);
        write_uint(&mut content, u64::from(*len));
        content.append(values);
        parts.push((*len, content));
        *len = 0;
    };
    for _ in 0..count {
        let start = reader.position();
        skip_any(&mut reader, 0)?;
        let value = data
            .get(start..reader.position())
            .ok_or(CrdtError::Malformed)?;
        if len > 0 && values.len() + value.len() + HEADER_BYTES > MAX_UPDATE_BYTES {
            flush(&mut parts, &mut len, &mut values);
        }
        values.extend_from_slice(value);
        len += 1;
    }
    flush(&mut parts, &mut len, &mut values);
    Ok(parts)
}

fn write_id(out: &mut Vec<u8>, id: Id) {
    write_uint(out, id.client);
    write_uint(out, u64::from(id.clock));
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    write_uint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Writes an item up to its content.
pub(super) fn write_position(out: &mut Vec<u8>, item: &Item<'_>) {
    let mut info = item.content;
    info |= if item.origin.is_some() { 0x80 } else { 0 };
    info |= if item.right_origin.is_some() { 0x40 } else { 0 };
    info |= if item.parent_sub.is_some() { 0x20 } else { 0 };
    out.push(info);
    if let Some(origin) = item.origin {
        write_id(out, origin);
    }
    if let Some(right_origin) = item.right_origin {
        write_id(out, right_origin);
    }
    match &item.parent {
        Some(Parent::Root(name)) => {
            out.push(1);
            write_string(out, name);
        }
        Some(Parent::Item(id)) => {
            out.push(0);
            write_id(out, *id);
        }
        None => {}
    }
    if let Some(key) = item.parent_sub {
        write_string(out, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::RangeSet;
    use crate::yjs::scan::Scan;

    fn one_item(content: u8, data: &[u8]) -> Vec<u8> {
        let mut update = vec![1, 1, 7, 0, content, 1, 1, b't'];
        update.extend_from_slice(data);
        update.push(0);
        update
    }

    #[test]
    fn a_long_text_is_cut_between_characters_into_linked_items() {
        let text = "\u{1f600}a".repeat(MAX_UPDATE_BYTES / 4);
        let mut data = Vec::new();
        write_string(&mut data, &text);
        let update = one_item(CONTENT_STRING, &data);
        let scan = Scan::exact(&update).unwrap();
        let total = scan.sections[0].blocks[0].len;
        let updates = pack(7, &scan, &Deletes::new()).unwrap();
        assert!(updates.len() > 1);
        let mut clock = 0;
        for part in &updates {
            assert!(part.len() <= MAX_UPDATE_BYTES);
            for block in &Scan::exact(part).unwrap().sections[0].blocks {
                assert_eq!(block.clock, clock);
                let Body::Item(item) = block.body(part).unwrap() else {
                    panic!("an item")
                };
                let follows = item.origin.map(|origin| (origin.client, origin.clock + 1));
                assert_eq!(follows, (clock > 0).then_some((7, clock)));
                clock = block.end();
            }
        }
        assert_eq!(clock, total);
    }

    #[test]
    fn a_single_value_that_fits_no_update_is_too_large() {
        let mut data = vec![1, 119];
        write_string(&mut data, &"x".repeat(MAX_UPDATE_BYTES));
        let update = one_item(CONTENT_ANY, &data);
        let scan = Scan::exact(&update).unwrap();
        assert_eq!(
            pack(7, &scan, &Deletes::new()).err(),
            Some(CrdtError::TooLarge)
        );
    }

    #[test]
    fn many_deletions_are_spread_over_updates() {
        let mut deletes = Deletes::new();
        for i in 0..200_000u64 {
            deletes
                .entry(9)
                .or_default()
                .insert(i * 2 + 1_000_000, i * 2 + 1_000_001);
        }
        let mut updates = Vec::new();
        append_deletes(&mut updates, &deletes, MAX_UPDATE_BYTES);
        assert_eq!(updates.len(), 4);
        let total: usize = updates
            .iter()
            .map(|update| {
                Scan::exact(update)
                    .unwrap()
                    .deletes
                    .values()
                    .map(RangeSet::len)
                    .sum::<usize>()
            })
            .sum();
        assert_eq!(total, 200_000);
    }
}

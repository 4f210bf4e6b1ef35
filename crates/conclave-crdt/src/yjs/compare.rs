//! Finding two different operations under one id.
//!
//! The engine skips operations whose clock it knows without looking at them, so two members who received different ones
//! would differ for ever. Known operations that arrive again are compared here with what is held: position and content,
//! clock by clock. Content and positions that were dropped after a deletion can no longer be compared.

use super::canon;
use super::scan::{
    Block, Body, CONTENT_ANY, CONTENT_DELETED, CONTENT_STRING, Id, Item, Scan, Section,
};
use crate::error::{CrdtError, Result};
use crate::reader::Reader;

/// Compares every operation that is in both updates.
///
/// # Errors
/// [`CrdtError::Equivocation`] if two of them differ.
pub(super) fn compare(held: &Scan<'_>, arrived: &Scan<'_>) -> Result<()> {
    for section in &arrived.sections {
        if let Some(known) = held.section(section.client) {
            compare_sections(
                section.client,
                (known, held.bytes),
                (section, arrived.bytes),
            )?;
        }
    }
    Ok(())
}

fn compare_sections(
    client: u64,
    held: (&Section, &[u8]),
    arrived: (&Section, &[u8]),
) -> Result<()> {
    for block in &arrived.0.blocks {
        let first = held
            .0
            .blocks
            .partition_point(|known| known.end() <= block.clock);
        for known in held
            .0
            .blocks
            .iter()
            .skip(first)
            .take_while(|known| known.clock < block.end())
        {
            let (a, b) = (known.body(held.1)?, block.body(arrived.1)?);
            if let (Body::Item(a), Body::Item(b)) = (a, b) {
                let start = known.clock.max(block.clock);
                let end = known.end().min(block.end());
                let held = Part {
                    client,
                    block: known,
                    item: &a,
                };
                let arrived = Part {
                    client,
                    block,
                    item: &b,
                };
                if !same(&held, &arrived, start, end)? {
                    return Err(CrdtError::Equivocation);
                }
            }
        }
    }
    Ok(())
}

/// An item and where it stands.
struct Part<'a> {
    client: u64,
    block: &'a Block,
    item: &'a Item<'a>,
}

impl Part<'_> {
    /// The operation left of `clock`: inside an item, the clock before.
    fn origin_at(&self, clock: u32) -> Option<Id> {
        if clock == self.block.clock {
            self.item.origin
        } else {
            Some(Id {
                client: self.client,
                clock: clock - 1,
            })
        }
    }
}

fn same(held: &Part<'_>, arrived: &Part<'_>, start: u32, end: u32) -> Result<bool> {
    let (a, b) = (held.item, arrived.item);
    if held.origin_at(start) != arrived.origin_at(start) || a.right_origin != b.right_origin {
        return Ok(false);
    }
    // Named only by the first operation of an item without neighbours.
    if a.parent.is_some()
        && b.parent.is_some()
        && (a.parent != b.parent || a.parent_sub != b.parent_sub)
    {
        return Ok(false);
    }
    if a.content == CONTENT_DELETED || b.content == CONTENT_DELETED {
        return Ok(true);
    }
    if a.content != b.content {
        return Ok(false);
    }
    let (from_a, from_b, len) = (
        start - held.block.clock,
        start - arrived.block.clock,
        end - start,
    );
    match a.content {
        CONTENT_STRING => same_text(a.data, from_a, b.data, from_b, len),
        CONTENT_ANY => Ok(canon::values(a.content, a.data, from_a, from_a + len)?
            == canon::values(b.content, b.data, from_b, from_b + len)?),
        content => {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            canon::write_single(&mut x, content, a.data)?;
            canon::write_single(&mut y, content, b.data)?;
            Ok(x == y)
        }
    }
}

fn same_text(a: &[u8], from_a: u32, b: &[u8], from_b: u32, len: u32) -> Result<bool> {
    let (a, b) = (Reader::new(a).string()?, Reader::new(b).string()?);
    let units = |text: &'_ str, from: u32| {
        text.encode_utf16()
            .skip(from as usize)
            .take(len as usize)
            .collect::<Vec<_>>()
    };
    Ok(units(a, from_a)
        .iter()
        .zip(&units(b, from_b))
        .all(|(x, y)| same_unit(*x, *y)))
}

/// Splitting an item inside a surrogate pair leaves a replacement character on both sides.
fn same_unit(x: u16, y: u16) -> bool {
    const REPLACEMENT: u16 = 0xfffd;
    let surrogate = |unit: u16| (0xd800..0xe000).contains(&unit);
    x == y || (x == REPLACEMENT && surrogate(y)) || (y == REPLACEMENT && surrogate(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(held: &[u8], arrived: &[u8]) -> Result<()> {
        compare(&Scan::exact(held).unwrap(), &Scan::exact(arrived).unwrap())
    }

    /// `text` in root `t` by client 7 from clock 0.
    fn first(text: &str) -> Vec<u8> {
        let mut update = vec![1, 1, 7, 0, 4, 1, 1, b't', text.len() as u8];
        update.extend_from_slice(text.as_bytes());
        update.push(0);
        update
    }

    /// `text` by client 7 at `clock`, after the clock before.
    fn next(clock: u8, text: &str) -> Vec<u8> {
        let mut update = vec![1, 1, 7, clock, 0x84, 7, clock - 1, text.len() as u8];
        update.extend_from_slice(text.as_bytes());
        update.push(0);
        update
    }

    #[test]
    fn the_same_operations_cut_differently_are_the_same() {
        assert_eq!(check(&first("abcd"), &first("ab")), Ok(()));
        assert_eq!(check(&first("abcd"), &next(2, "cd")), Ok(()));
        assert_eq!(check(&first("ab\u{1f600}"), &next(4, "x")), Ok(()));
        assert_eq!(
            check(&first("a\u{fffd}\u{fffd}"), &first("a\u{1f600}")),
            Ok(())
        );
    }

    #[test]
    fn different_content_or_position_is_equivocation() {
        assert_eq!(
            check(&first("abcd"), &first("abcx")),
            Err(CrdtError::Equivocation)
        );
        assert_eq!(
            check(&first("abcd"), &next(2, "xd")),
            Err(CrdtError::Equivocation)
        );
        let elsewhere = [1, 1, 7, 2, 0x84, 7, 0, 1, b'c', 0];
        assert_eq!(
            check(&first("abcd"), &elsewhere),
            Err(CrdtError::Equivocation)
        );
        let other_root = [1, 1, 7, 0, 4, 1, 1, b'u', 1, b'a', 0];
        assert_eq!(
            check(&first("abcd"), &other_root),
            Err(CrdtError::Equivocation)
        );
        let other_kind = [1, 1, 7, 0, 8, 1, 1, b't', 1, 126, 0];
        assert_eq!(
            check(&first("abcd"), &other_kind),
            Err(CrdtError::Equivocation)
        );
    }

    #[test]
    fn what_was_dropped_cannot_be_compared() {
        let dropped = [1, 1, 7, 0, 0, 4, 0];
        assert_eq!(check(&dropped, &first("abcd")), Ok(()));
        let deleted = [1, 1, 7, 0, 1, 1, 1, b't', 4, 0];
        assert_eq!(check(&deleted, &first("abcd")), Ok(()));
    }
}

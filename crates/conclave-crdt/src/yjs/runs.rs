//! Joining what one replica wrote on and on, before an engine sees it.
//!
//! The engine joins neighbours itself, after it took all of them in: from the last to the first, so that it copies a long text once for each of
//! its characters. What it would join in the end is given to it joined. Values of a key are none of that: each of them deletes the one before.

use super::apart::Apart;
use super::encode::{write_deletes, write_position};
use super::scan::{
    Block, Body, CONTENT_ANY, CONTENT_DELETED, CONTENT_STRING, Id, Item, Scan, Section,
};
use crate::error::Result;
use crate::reader::{Reader, write_uint};

/// The update with its runs joined, if there are any. `keyed` says whether an operation is a value of a key.
pub(super) fn joined(
    scan: &Scan<'_>,
    keyed: &dyn Fn(Id) -> bool,
    apart: &Apart,
) -> Result<Option<Vec<u8>>> {
    let mut runs = Vec::with_capacity(scan.sections.len());
    let mut found = false;
    for section in &scan.sections {
        let of_section = runs_of(section, scan.bytes, keyed, apart)?;
        found |= of_section.len() < section.blocks.len();
        runs.push(of_section);
    }
    if !found {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(scan.bytes.len());
    write_uint(&mut out, scan.sections.len() as u64);
    for (section, runs) in scan.sections.iter().zip(&runs) {
        write_uint(&mut out, runs.len() as u64);
        write_uint(&mut out, section.client);
        let clock = section.blocks.first().map_or(0, |block| block.clock);
        write_uint(&mut out, u64::from(clock));
        for run in runs {
            write_run(&mut out, run, scan.bytes)?;
        }
    }
    write_deletes(&mut out, &scan.deletes);
    Ok(Some(out))
}

/// How a run begins and how it goes on.
struct Last<'a> {
    end: Id,
    body: Body<'a>,
    keyed: bool,
}

fn runs_of<'s>(
    section: &'s Section,
    update: &[u8],
    keyed: &dyn Fn(Id) -> bool,
    apart: &Apart,
) -> Result<Vec<&'s [Block]>> {
    let mut runs = Vec::new();
    let mut start = 0;
    let mut last: Option<Last<'_>> = None;
    if section.blocks.len() > 1 {
        for (index, block) in section.blocks.iter().enumerate() {
            let body = block.body(update)?;
            let client = section.client;
            let begins = Id {
                client,
                clock: block.clock,
            };
            let goes_on = last
                .as_ref()
                .is_some_and(|last| !last.keyed && goes_on(last, &body))
                && !apart.holds(begins);
            if !goes_on && index > start {
                runs.extend(section.blocks.get(start..index));
                start = index;
            }
            let clock = block.end() - 1;
            let is_keyed = if goes_on {
                false
            } else {
                joins(&body) && keyed(begins)
            };
            last = Some(Last {
                end: Id { client, clock },
                body,
                keyed: is_keyed,
            });
        }
    }
    runs.extend(section.blocks.get(start..));
    Ok(runs)
}

fn joins(body: &Body<'_>) -> bool {
    match body {
        Body::Skip => false,
        Body::Gc => true,
        Body::Item(item) => matches!(item.content, CONTENT_STRING | CONTENT_ANY | CONTENT_DELETED),
    }
}

fn goes_on(last: &Last<'_>, next: &Body<'_>) -> bool {
    match (&last.body, next) {
        (Body::Gc, Body::Gc) => true,
        (Body::Item(before), Body::Item(after)) => {
            joins(next)
                && before.content == after.content
                && after.origin == Some(last.end)
                && after.right_origin == before.right_origin
        }
        _ => false,
    }
}

fn write_run(out: &mut Vec<u8>, run: &[Block], update: &[u8]) -> Result<()> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else {
        return Ok(());
    };
    if run.len() == 1 {
        out.extend_from_slice(first.raw(update));
        return Ok(());
    }
    let len = u64::from(last.end() - first.clock);
    let item = match first.body(update)? {
        Body::Skip | Body::Gc => {
            out.push(super::scan::INFO_GC);
            write_uint(out, len);
            return Ok(());
        }
        Body::Item(item) => item,
    };
    write_position(out, &item);
    if item.content == CONTENT_DELETED {
        write_uint(out, len);
        return Ok(());
    }
    let mut parts = Vec::with_capacity(run.len());
    for block in run {
        if let Body::Item(item) = block.body(update)? {
            parts.push(content(&item)?);
        }
    }
    if item.content == CONTENT_STRING {
        write_uint(out, parts.iter().map(|part| part.len() as u64).sum());
    } else {
        write_uint(out, len);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    Ok(())
}

/// The characters or values of an item, without how many there are.
fn content<'a>(item: &Item<'a>) -> Result<&'a [u8]> {
    let mut reader = Reader::new(item.data);
    reader.uint(u64::from(u32::MAX))?;
    Ok(item.data.get(reader.position()..).unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yjs::scan::Parent;

    /// Items of client 1 in root `t`, each after the last; every third one something else.
    fn items(contents: &[&[u8]]) -> Vec<u8> {
        let mut update = vec![1, contents.len() as u8, 1, 0];
        for (clock, content) in contents.iter().enumerate() {
            match clock {
                0 => update.extend([content[0], 1, 1, b't']),
                _ => update.extend([content[0] | 0x80, 1, clock as u8 - 1]),
            }
            update.extend(&content[1..]);
        }
        update.push(0);
        update
    }

    #[test]
    fn runs_are_joined_and_nothing_else() {
        let (a, b) = (&[4, 1, b'a'][..], &[4, 1, b'b'][..]);
        let (one, none) = (&[8, 1, 126][..], &[8, 1, 127][..]);
        let embed = &[5, 2, b'{', b'}'][..];
        let gone = &[1, 1][..];
        let update = items(&[a, b, a, embed, embed, one, none, gone, gone, a]);
        let scan = Scan::exact(&update).unwrap();
        let joined = joined(&scan, &|_| false, &Apart::default())
            .unwrap()
            .unwrap();
        let scan = Scan::exact(&joined).unwrap();
        let blocks = &scan.sections[0].blocks;
        let lens: Vec<u32> = blocks.iter().map(|block| block.len).collect();
        assert_eq!(lens, [3, 1, 1, 2, 2, 1]);
        let Body::Item(first) = blocks[0].body(&joined).unwrap() else {
            panic!("an item")
        };
        assert!(matches!(first.parent, Some(Parent::Root("t"))));
        assert_eq!(first.data, b"\x03aba");
        let Body::Item(values) = blocks[3].body(&joined).unwrap() else {
            panic!("an item")
        };
        assert_eq!(values.data, [2, 126, 127]);
        assert!(
            super::joined(&scan, &|_| false, &Apart::default())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn values_of_a_key_stay_apart() {
        let one = &[8, 1, 126][..];
        let update = items(&[one, one]);
        let scan = Scan::exact(&update).unwrap();
        assert!(
            joined(&scan, &|_| true, &Apart::default())
                .unwrap()
                .is_none()
        );
    }
}

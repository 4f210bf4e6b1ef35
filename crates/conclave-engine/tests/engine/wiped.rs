//! What is secret does not stay in memory: this process looks through its own. What it looks for it holds only in another form.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the own memory is a file"
)]

use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt;

use conclave_testkit::rows::MemoryRows;

use crate::revocation::enrol;
use crate::world::World;

/// No byte of what is looked for lies anywhere as it is, but where it was left.
const MASK: u8 = 0xa5;
/// Read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// A secret in another form: as it is used, and as a row holds it.
struct Masked {
    used: Vec<u8>,
    stored: Vec<u8>,
}

/// The user key in a device's rows. It is read byte by byte.
fn user_key(rows: &MemoryRows) -> Masked {
    let mut rows = rows.0.iter().filter(|(key, _)| key.ends_with(b"keys"));
    let (_, row) = rows.next().unwrap();
    let name = b"user_key";
    let at = row.windows(name.len()).position(|it| it == name).unwrap();
    let mut rest = row.iter().skip(at + name.len());
    // An array of 32 numbers, each of one byte or of two.
    assert_eq!(rest.next(), Some(&0x98));
    assert_eq!(rest.next(), Some(&32));
    let mut masked = Masked {
        used: Vec::with_capacity(32),
        stored: Vec::with_capacity(64),
    };
    while masked.used.len() < 32 {
        let byte = *rest.next().unwrap();
        masked.stored.push(byte ^ MASK);
        let byte = match byte {
            0x18 => {
                let next = *rest.next().unwrap();
                masked.stored.push(next ^ MASK);
                next
            }
            byte => byte,
        };
        masked.used.push(byte ^ MASK);
    }
    masked
}

/// How often something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    heap: usize,
    /// On the stack of who looks.
    stack: usize,
}

/// Looks for both forms in all that this process can write to, its program excepted. What is read for that is not looked through.
fn look(masked: &Masked) -> Found {
    let mut found = Found { heap: 0, stack: 0 };
    let mut buffer = vec![0u8; CHUNK];
    let own = buffer.as_ptr().addr();
    let own = own..own + buffer.len();
    let here = std::ptr::from_ref(&own).addr();
    let most = masked.stored.len();
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = read_to_string("/proc/self/maps").unwrap();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (begin, end) = fields.next().unwrap().split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        let (begin, end) = (address(begin), address(end));
        let is_writable = fields.next().unwrap().starts_with("rw");
        let is_file = line.contains(" /");
        if !is_writable || is_file {
            continue;
        }
        let is_stack = (begin..end).contains(&here) || line.ends_with("[stack]");
        let mut from = begin;
        while from < end {
            let length = CHUNK.min(end - from);
            let part = &mut buffer[..length];
            if memory.read_exact_at(part, from as u64).is_ok() {
                let mut count = 0;
                for form in [&masked.used, &masked.stored] {
                    count += positions(part, form)
                        .filter(|at| !own.contains(&(from + at)))
                        .count();
                }
                match is_stack {
                    true => found.stack += count,
                    false => found.heap += count,
                }
            }
            if length < CHUNK {
                break;
            }
            // What lies across the end is found by the next.
            from += CHUNK - most;
        }
    }
    buffer.fill(0);
    found
}

fn positions<'a>(bytes: &'a [u8], masked: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let windows = bytes.windows(masked.len()).enumerate();
    let same = windows.filter(move |(_, it)| it.iter().zip(masked).all(|(a, b)| a ^ MASK == *b));
    same.map(|(at, _)| at)
}

/// A user key is made, stored, read again, handed to a second device, used to list a third, and given away with its device. Nothing of it stays.
#[test]
fn a_user_key_is_wiped_when_its_devices_are_gone() {
    let mut world = World::new(31, &["ana"]);
    let masked = user_key(&world.devices[0].rows);
    let phone = enrol(&mut world, 0, "phone", Some(true));
    world.restart(0);
    world.restart(phone);
    world.run();
    enrol(&mut world, phone, "tablet", Some(false));
    let held = look(&masked);
    // In two devices, and in their rows.
    assert!(held.heap >= 4, "{held:?}");
    drop(world);
    assert_eq!(look(&masked), Found { heap: 0, stack: 0 });
}

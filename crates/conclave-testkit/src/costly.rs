//! Updates that cost an engine far more than they are long, of any size: what a cost bound has to refuse, and what it must not underrate.

pub mod histories;

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// A replica and a clock.
type Id = (u64, u32);

/// A document, and updates that are dear in it.
#[derive(Debug, Clone, Default)]
pub struct Costly {
    /// What comes first, each cheap.
    pub base: Vec<Vec<u8>>,
    /// What is dear.
    pub dear: Vec<Vec<u8>>,
}

/// A way to be dear, in any size.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Its name.
    pub name: &'static str,
    /// Of one size, in so many records.
    pub build: fn(u32, u32) -> Costly,
    /// The size at which it was seen to take seconds.
    pub size: u32,
    /// Whether one record of that size is refused, and whether a thousand of ten times that are, sooner or later.
    pub once: bool,
    /// See `once`.
    pub spread: bool,
}

/// The ways of Yjs updates.
pub const YJS: &[Way] = &[
    Way {
        name: "two replicas at one place",
        build: two_at_one_place,
        size: 4_000,
        once: true,
        spread: true,
    },
    Way {
        name: "from the first character to the end",
        build: spans,
        size: 400,
        once: true,
        spread: true,
    },
    Way {
        name: "a section whose rest comes late",
        build: sections,
        size: 20_000,
        once: false,
        spread: false,
    },
    Way {
        name: "what waited for one operation",
        build: released,
        size: 4_000,
        once: false,
        spread: false,
    },
    Way {
        name: "cuts back to front",
        build: cuts,
        size: 400,
        once: true,
        spread: true,
    },
    Way {
        name: "over a run that others cut",
        build: over_marks,
        size: 20_000,
        once: true,
        spread: true,
    },
    Way {
        name: "what was between deletions is deleted",
        build: joins,
        size: 20_000,
        once: true,
        spread: false,
    },
    Way {
        name: "a type whose items lie apart",
        build: apart,
        size: 20_000,
        once: true,
        spread: false,
    },
    Way {
        name: "before all values of a key",
        build: key_history,
        size: 40_000,
        once: true,
        spread: true,
    },
    Way {
        name: "keys overwritten out of order",
        build: keys_out_of_order,
        size: 40_000,
        once: true,
        spread: false,
    },
    Way {
        name: "values in values",
        build: values,
        size: 3_000_000,
        once: false,
        spread: false,
    },
    Way {
        name: "halves of halves, joined again",
        build: halves,
        size: 16_000,
        once: false,
        spread: false,
    },
    Way {
        name: "what is known, again and again",
        build: repeats,
        size: 100_000,
        once: false,
        spread: true,
    },
];

fn uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn id(out: &mut Vec<u8>, (client, clock): Id) {
    uint(out, client);
    uint(out, u64::from(clock));
}

/// One update in the making.
#[derive(Debug, Default)]
struct Update {
    /// By replica: the first clock, how many items, and their bytes.
    sections: BTreeMap<u64, (u32, u32, Vec<u8>)>,
    deletes: BTreeMap<u64, Vec<(u32, u32)>>,
}

/// Where an item stands.
#[derive(Clone, Copy, Default)]
struct Spot<'a> {
    origin: Option<Id>,
    right: Option<Id>,
    /// The type, without neighbours; else a root.
    parent: Option<Id>,
    key: Option<&'a str>,
}

impl Update {
    /// An item at a clock, with its content from the number of its kind on.
    fn item(&mut self, at: Id, spot: Spot<'_>, content: u8, data: &[u8]) {
        let (_, count, out) = self
            .sections
            .entry(at.0)
            .or_insert_with(|| (at.1, 0, Vec::new()));
        *count += 1;
        let beside = spot.origin.is_some() || spot.right.is_some();
        let mut info = content;
        info |= if spot.origin.is_some() { 0x80 } else { 0 };
        info |= if spot.right.is_some() { 0x40 } else { 0 };
        info |= if !beside && spot.key.is_some() {
            0x20
        } else {
            0
        };
        out.push(info);
        spot.origin.into_iter().for_each(|origin| id(out, origin));
        spot.right.into_iter().for_each(|right| id(out, right));
        if !beside {
            match spot.parent {
                Some(parent) => {
                    out.push(0);
                    id(out, parent);
                }
                None => out.extend([1, 1, b't']),
            }
            if let Some(key) = spot.key {
                uint(out, key.len() as u64);
                out.extend(key.as_bytes());
            }
        }
        out.extend(data);
    }

    fn text(&mut self, at: Id, origin: Option<Id>, right: Option<Id>, text: &str) {
        let mut data = Vec::with_capacity(text.len() + 4);
        uint(&mut data, text.len() as u64);
        data.extend(text.as_bytes());
        let spot = Spot {
            origin,
            right,
            ..Spot::default()
        };
        self.item(at, spot, 4, &data);
    }

    fn delete(&mut self, client: u64, start: u32, len: u32) {
        self.deletes.entry(client).or_default().push((start, len));
    }

    fn bytes(self) -> Vec<u8> {
        let mut out = Vec::new();
        uint(&mut out, self.sections.len() as u64);
        for (client, (clock, count, items)) in self.sections {
            uint(&mut out, u64::from(count));
            id(&mut out, (client, clock));
            out.extend(items);
        }
        uint(&mut out, self.deletes.len() as u64);
        for (client, ranges) in self.deletes {
            uint(&mut out, client);
            uint(&mut out, ranges.len() as u64);
            for (start, len) in ranges {
                uint(&mut out, u64::from(start));
                uint(&mut out, u64::from(len));
            }
        }
        out
    }
}

/// Does something `size` times, spread over records.
fn spread(size: u32, records: u32, mut step: impl FnMut(&mut Update, u32)) -> Vec<Vec<u8>> {
    let each = size.div_ceil(records.max(1)).max(1);
    let mut updates = Vec::new();
    let mut next = 0;
    while next < size {
        let mut update = Update::default();
        for index in next..(next + each).min(size) {
            step(&mut update, index);
        }
        updates.push(update.bytes());
        next += each;
    }
    updates
}

/// One update.
fn one(step: impl FnOnce(&mut Update)) -> Vec<u8> {
    let mut update = Update::default();
    step(&mut update);
    update.bytes()
}

/// In records that are cheap.
fn base(size: u32, step: impl FnMut(&mut Update, u32)) -> Vec<Vec<u8>> {
    spread(size, size.div_ceil(500), step)
}

fn two_at_one_place(size: u32, records: u32) -> Costly {
    let front = |client: u64| {
        move |update: &mut Update, index: u32| {
            let right = index.checked_sub(1).map_or((1, 0), |last| (client, last));
            update.text((client, index), None, Some(right), "x");
        }
    };
    let mut base = vec![one(|update| update.text((1, 0), None, None, "x"))];
    base.append(&mut self::base(size, front(5)));
    Costly {
        base,
        dear: spread(size, records, front(9)),
    }
}

/// What two replicas wrote at one place, in one update: each item of the second passes all of the first.
#[must_use]
pub fn one_place_at_once(size: u32) -> Vec<u8> {
    one(|update| {
        update.text((1, 0), None, None, "x");
        for client in [5, 9] {
            for index in 0..size {
                let right = index.checked_sub(1).map_or((1, 0), |last| (client, last));
                update.text((client, index), None, Some(right), "x");
            }
        }
    })
}

/// A text that two replicas wrote by turns, one character each.
#[must_use]
pub fn by_turns(size: u32) -> Vec<Vec<u8>> {
    let at = |index: u32| (1 + u64::from(index % 2), index / 2);
    base(size, |update, index| {
        update.text(at(index), index.checked_sub(1).map(at), None, "x");
    })
}

fn spans(size: u32, records: u32) -> Costly {
    Costly {
        base: by_turns(40_000),
        dear: spread(size, records, |update, index| {
            let origin = index.checked_sub(1).map(|last| (9, last));
            // In turn from the first character and before the last such item: neither joins with the one before.
            match index % 2 {
                0 => update.text((9, index), Some((1, 0)), None, "x"),
                _ => update.text((9, index), Some((1, 0)), origin, "x"),
            }
        }),
    }
}

fn long_text(len: usize) -> Vec<u8> {
    one(|update| update.text((1, 0), None, None, &"a".repeat(len)))
}

fn cuts(size: u32, records: u32) -> Costly {
    let len = 1_000_000;
    Costly {
        base: vec![long_text(len as usize)],
        dear: spread(size, records, |update, index| {
            let place = len - 3 - index * 7;
            let (origin, right) = (Some((1, place)), Some((1, place + 1)));
            update.text((5, index), origin, right, "x");
        }),
    }
}

fn over_marks(size: u32, records: u32) -> Costly {
    let len = size.min(20_000);
    let mut base = vec![long_text(len as usize)];
    // Each stands before the whole text and cuts it where it says that it ends.
    base.append(&mut self::base(len - 1, |update, index| {
        let origin = index.checked_sub(1).map(|last| (0, last));
        update.text((0, index), origin, Some((1, index + 1)), "x");
    }));
    Costly {
        base,
        dear: spread(size, records, |update, index| {
            update.text((11, index), Some((1, 0)), None, "z");
        }),
    }
}

fn joins(size: u32, records: u32) -> Costly {
    let len = (2 * size).min(80_000);
    Costly {
        base: [
            vec![long_text(len as usize)],
            base(len / 2, |update, index| update.delete(1, 2 * index, 1)),
        ]
        .concat(),
        dear: spread(len / 2, records, |update, index| {
            update.delete(1, 2 * index + 1, 1);
        }),
    }
}

/// A list in a type, newest first, pairs of whose items lie apart by something else; then the type is deleted.
fn apart(size: u32, _: u32) -> Costly {
    let mut base = vec![one(|update| {
        update.item((1, 0), Spot::default(), 7, &[0]);
    })];
    let first = 1;
    base.append(&mut self::base(size, |update, index| {
        let clock = first + 3 * index;
        for (offset, len) in [(0, 1), (1, 1)] {
            let at = (1, clock + offset);
            // The item before it: past what lies between.
            let last = (clock + offset).checked_sub(if offset == 0 { 2 } else { 1 });
            let right = last.filter(|_| index + offset > 0).map(|last| (1, last));
            let spot = Spot {
                right,
                parent: Some((1, 0)),
                ..Spot::default()
            };
            update.item(at, spot, 8, &[len, 126]);
        }
        update.text((1, clock + 2), None, Some((1, 0)), "x");
    }));
    Costly {
        base,
        dear: vec![one(|update| update.delete(1, 0, 1))],
    }
}

fn key_history(size: u32, records: u32) -> Costly {
    let history = 40_000;
    let spot = Spot {
        key: Some("k"),
        ..Spot::default()
    };
    Costly {
        base: base(history, |update, index| {
            let spot = Spot {
                origin: index.checked_sub(1).map(|last| (9, last)),
                ..spot
            };
            update.item((9, index), spot, 8, &[1, 126]);
        }),
        // Each comes before all others and looks for the first of them.
        dear: spread(size, records, |update, index| {
            update.item((5, index), spot, 8, &[1, 126]);
        }),
    }
}

fn keys_out_of_order(size: u32, records: u32) -> Costly {
    let key = |index: u32| format!("{index:x}");
    Costly {
        base: base(size, |update, index| {
            let spot = Spot {
                key: Some(&key(index)),
                ..Spot::default()
            };
            update.item((1, 2 * index), spot, 8, &[1, 126]);
            update.text((1, 2 * index + 1), None, None, "x");
        }),
        dear: spread(size, records, |update, index| {
            let spot = Spot {
                origin: Some((1, 2 * (size - 1 - index))),
                ..Spot::default()
            };
            update.item((5, index), spot, 8, &[1, 126]);
        }),
    }
}

fn values(size: u32, records: u32) -> Costly {
    let records = records.max(size.div_ceil(1_000_000));
    let each = size.div_ceil(records);
    Costly {
        base: Vec::new(),
        dear: (0..records)
            .map(|index| {
                one(|update| {
                    let mut data = vec![1, 117];
                    uint(&mut data, u64::from(each / 2));
                    for _ in 0..each / 2 {
                        data.extend([117, 0]);
                    }
                    let spot = Spot {
                        origin: index.checked_sub(1).map(|last| (1, last)),
                        ..Spot::default()
                    };
                    update.item((1, index), spot, 8, &data);
                })
            })
            .collect(),
    }
}

/// A text cut in halves of halves by what stands before it; then its replica writes on, and all is one again.
fn halves(size: u32, _: u32) -> Costly {
    let len = 1_000_000;
    let mut places = Vec::new();
    let mut step = len / 2;
    while places.len() < size as usize && step > 1 {
        places.extend(
            (0..)
                .map(|n| step + 2 * step * n)
                .take_while(|at| *at < len),
        );
        step /= 2;
    }
    places.truncate(size as usize);
    let mut dear = spread(places.len() as u32, 1, |update, index| {
        let origin = index.checked_sub(1).map(|last| (9, last));
        let right = places.get(index as usize).map(|place| (1, *place));
        update.text((9, index), origin, right, "x");
    });
    dear.push(one(|update| {
        update.text((1, len), Some((1, len - 1)), None, "x");
    }));
    Costly {
        base: vec![long_text(len as usize)],
        dear,
    }
}

fn repeats(size: u32, records: u32) -> Costly {
    Costly {
        base: by_turns(size),
        dear: (0..records)
            .map(|_| one(|update| update.text((1, 0), None, None, "x")))
            .collect(),
    }
}

/// Two replicas' sections in one update: an item of the one is needed by the other, whose items stand where the rest of the first go.
fn sections(size: u32, records: u32) -> Costly {
    let dear = spread(size, records, |update, index| {
        if index == 0 {
            update.text((2, 0), Some((1, 1)), Some((1, 2)), "a");
        }
        update.text((2, index + 1), Some((1, 0)), Some((1, 2)), "b");
        update.text((3, index), Some((1, 1)), Some((2, 0)), "c");
    });
    let base = vec![one(|update| update.text((1, 0), None, None, "WXY"))];
    Costly { base, dear }
}

/// Items from the first character of a text to its end, all after one operation that comes last.
#[must_use]
pub fn released(size: u32, _: u32) -> Costly {
    let mut base = by_turns(4_000);
    base.append(&mut self::base(size, |update, index| {
        // In turn with and without an end, so that they do not join.
        let right = (index % 2 == 1).then_some((9, index));
        update.text((9, index + 1), Some((1, 0)), right, "x");
    }));
    Costly {
        base,
        dear: vec![one(|update| {
            update.text((9, 0), None, Some((1, 0)), "x");
        })],
    }
}

/// So many maps, each in the last.
#[must_use]
pub fn nested(depth: u32) -> Vec<u8> {
    one(|update| {
        for index in 0..depth {
            let parent = index.checked_sub(1).map(|last| (1, last));
            let spot = Spot {
                parent,
                key: Some("k"),
                ..Spot::default()
            };
            update.item((1, index), spot, 7, &[1]);
        }
    })
}

/// A character each by so many replicas, each after the last.
#[must_use]
pub fn replicas(count: u32) -> Vec<u8> {
    one(|update| {
        for index in 0..count {
            let last = index.checked_sub(1).map(|last| (1 + u64::from(last), 0));
            update.text((1 + u64::from(index), 0), last, None, "x");
        }
    })
}

/// Characters at places all over the text of [`written`], one an update.
pub fn scattered(len: u32, edits: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..edits).map(move |index| {
        let place = (u64::from(index) * 611_953 % u64::from(len - 1)) as u32;
        one(|update| {
            let (origin, right) = (Some((1, place)), Some((1, place + 1)));
            update.text((5, index), origin, right, "x");
        })
    })
}

/// The state after these edits, as engines keep it: the text in pieces, with an edit after each.
#[must_use]
pub fn scattered_state(len: u32, edits: u32) -> Vec<u8> {
    let place = |index: u32| (u64::from(index) * 611_953 % u64::from(len - 1)) as u32;
    let mut starts: Vec<u32> = (0..edits).map(|index| place(index) + 1).collect();
    starts.push(0);
    starts.sort_unstable();
    let ends = starts.iter().copied().skip(1).chain([len]);
    one(|update| {
        for (start, end) in starts.iter().copied().zip(ends) {
            let origin = start.checked_sub(1).map(|last| (1, last));
            update.text(
                (1, start),
                origin,
                None,
                &"a".repeat((end - start) as usize),
            );
        }
        for index in 0..edits {
            let (origin, right) = (place(index), place(index) + 1);
            update.text((5, index), Some((1, origin)), Some((1, right)), "x");
        }
    })
}

/// A state whose text is in pieces of one character, each of which an item names that stands before all of it.
#[must_use]
pub fn apart_in_vain(len: u32) -> Vec<u8> {
    one(|update| {
        for index in 0..len {
            let origin = index.checked_sub(1).map(|last| (1, last));
            update.text((1, index), origin, None, "a");
        }
        for index in 0..len - 1 {
            let origin = index.checked_sub(1).map(|last| (0, last));
            update.text((0, index), origin, Some((1, index + 1)), "x");
        }
    })
}

/// So many characters, each an item after the last: dear for an engine that is given them as they are.
#[must_use]
pub fn typed(size: u32) -> Vec<u8> {
    one(|update| {
        for index in 0..size {
            let origin = index.checked_sub(1).map(|last| (1, last));
            update.text((1, index), origin, None, "x");
        }
    })
}

/// A text of so many UTF-16 units by one replica, as one item.
#[must_use]
pub fn written(size: u32) -> Vec<u8> {
    long_text(size as usize)
}

/// More of the text of [`written`], which is so long already.
#[must_use]
pub fn written_on(len: u32, size: u32) -> Vec<u8> {
    let last = len.checked_sub(1).map(|last| (1, last));
    one(|update| update.text((1, len), last, None, &"a".repeat(size as usize)))
}

/// A text of so many records of 15 times 64 Ki characters, by two replicas in turn.
#[must_use]
pub fn imported(records: u32) -> Vec<Vec<u8>> {
    let each = 64 << 10;
    let part = "a".repeat(each as usize);
    let at = |index: u32| (1 + u64::from(index % 2), index / 2 * each);
    let mut next = 0u32;
    let mut update = |_| {
        one(|update| {
            for index in next..next + 15 {
                let last = index.checked_sub(1).map(at);
                let origin = last.map(|(client, clock)| (client, clock + each - 1));
                update.text(at(index), origin, None, &part);
            }
            next += 15;
        })
    };
    (0..records).map(&mut update).collect()
}

/// So many nulls in one item.
#[must_use]
pub fn nulls(size: u32) -> Vec<u8> {
    one(|update| {
        let mut data = Vec::new();
        uint(&mut data, u64::from(size));
        data.resize(data.len() + size as usize, 126);
        update.item((1, 0), Spot::default(), 8, &data);
    })
}

/// An Automerge change that sets one key so many times, run-length encoded.
#[must_use]
pub fn automerge(ops: u32) -> Vec<u8> {
    fn int(out: &mut Vec<u8>, mut value: i64) {
        loop {
            let byte = (value & 0x7f) as u8;
            value >>= 7;
            if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
                out.push(byte);
                return;
            }
            out.push(byte | 0x80);
        }
    }
    let run = |count: u32, value: &[u8]| {
        let mut column = Vec::new();
        int(&mut column, i64::from(count));
        column.extend(value);
        column
    };
    let mut flags = Vec::new();
    uint(&mut flags, u64::from(ops));
    let mut followed = run(1, &[0]);
    if ops == 2 {
        followed = vec![0x7e, 0, 1];
    } else if ops > 2 {
        followed = [vec![0x7f, 0], run(ops - 1, &[1])].concat();
    }
    let followers = |value: u8| match ops {
        2 => vec![0x7f, value],
        _ => run(ops - 1, &[value]),
    };
    let single = |value: &[u8]| match ops {
        1 => [&[0x7f][..], value].concat(),
        _ => run(ops, value),
    };
    let mut columns = vec![
        (0x15, single(&[1, b'k'])),
        (0x34, flags),
        (0x42, single(&[1])),
        (0x56, single(&[0])),
        (0x70, if ops == 1 { vec![0x7f, 0] } else { followed }),
    ];
    if ops > 1 {
        columns.push((0x71, followers(0)));
        columns.push((0x73, followers(1)));
    }
    // No dependencies; an actor; change 1 from operation 1 on; no time, no message, no other actors.
    let mut body = vec![0, 16];
    body.extend([7; 16]);
    body.extend([1, 1, 0, 0, 0]);
    uint(&mut body, columns.len() as u64);
    for (specification, column) in &columns {
        uint(&mut body, *specification);
        uint(&mut body, column.len() as u64);
    }
    columns.iter().for_each(|(_, column)| body.extend(column));
    let mut hashed = vec![1];
    uint(&mut hashed, body.len() as u64);
    hashed.extend(&body);
    let hash = Sha256::digest(&hashed);
    let sum: Vec<u8> = hash.into_iter().take(4).collect();
    [&[0x85, 0x6f, 0x4a, 0x83][..], &sum, &hashed].concat()
}

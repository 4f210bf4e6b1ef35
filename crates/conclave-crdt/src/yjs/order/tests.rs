use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use yrs::types::Attrs;
use yrs::{
    Any, Array, ArrayPrelim, ArrayRef, GetString, Map, MapPrelim, Text, TextPrelim, TextRef,
    Transact, XmlElementPrelim, XmlFragment, XmlTextPrelim,
};

use super::super::scan::{Body, CONTENT_STRING};
use super::super::{Yrs, scan::Scan};
use super::state::{Kind, NIL, Place};
use super::*;
use crate::api::Crdt;
use crate::cost::BALANCE_CAP;
use crate::types::ReplicaId;

const FULL: Allowance = Allowance {
    balance: BALANCE_CAP,
    room: u64::MAX,
};

fn replica(client: u64) -> ReplicaId {
    ReplicaId::from_client(client)
}

/// Everything that decides what an update costs, without what depends on how it arrived.
fn dump(order: &Order) -> Vec<String> {
    let state = &order.state;
    let mut lines = Vec::new();
    let id = |op: state::Op| (state.id_of(op.client), op.clock);
    for (place, list) in state.places() {
        let place = match place {
            Place::Root(root, key) => format!("{root:?} {key:?}"),
            Place::Type(owner, key) => format!("{:?} {key:?}", id(owner)),
        };
        let list = state.list(list).unwrap();
        if list.pieces == 0 {
            continue;
        }
        let mut next = list.head;
        let mut blocks = Vec::new();
        while let Some(block) = state.block(next) {
            blocks.push(format!(
                "{:?}+{} {:?} {} {:?} {:?}",
                id(block.at),
                block.len,
                block.kind,
                block.marks,
                id(block.origin),
                id(block.right)
            ));
            next = block.next;
        }
        if !blocks.is_empty() {
            lines.push(format!("{place} {}: {blocks:?}", list.pieces));
        }
    }
    for client in &state.clients {
        let gone: Vec<String> = client
            .blocks
            .values()
            .map(|index| state.block(*index).unwrap())
            .filter(|block| block.kind == Kind::Gone)
            .map(|block| format!("{}+{}", block.at.clock, block.len))
            .collect();
        if client.count.clock > 0 {
            lines.push(format!("{} {:?} {gone:?}", client.id, client.count));
        }
    }
    lines.push(format!("{} {}", order.size(), state.longest()));
    lines.sort();
    lines
}

/// Says where two meters differ first.
fn same(a: &Order, b: &Order, seed: u64) {
    let (a, b) = (dump(a), dump(b));
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a, b, "{seed}");
    }
    assert_eq!(a.len(), b.len(), "{seed}");
}

/// Members of one document.
struct Group {
    rng: ChaCha8Rng,
    members: Vec<Yrs>,
    /// What was written, and by how many members each was read.
    log: Vec<Vec<u8>>,
    read: Vec<usize>,
}

impl Group {
    fn new(seed: u64, members: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            members: (0..members)
                .map(|client| Yrs::create(replica(client * 7 + 3)).unwrap())
                .collect(),
            log: Vec::new(),
            read: vec![0; members as usize],
        }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.rng.next_u32() % bound.max(1)
    }

    /// One member does something.
    fn act(&mut self, rich: bool) {
        let member = self.below(self.members.len() as u32) as usize;
        if self.below(3) == 0 {
            let unread = self.log.len() - self.read[member];
            let more = self.below(unread as u32 + 1) as usize;
            let updates: Vec<&[u8]> = self.log[self.read[member]..self.read[member] + more]
                .iter()
                .map(Vec::as_slice)
                .collect();
            if !updates.is_empty() {
                self.members[member].apply(&updates).unwrap();
            }
            self.read[member] += more;
        }
        let kind = if rich { self.below(9) } else { self.below(2) };
        let (a, b, c) = (self.below(1000), self.below(1000), self.below(1000));
        let doc = self.members[member].doc().clone();
        let text = doc.get_or_insert_text("text");
        let map = doc.get_or_insert_map("root");
        let xml = doc.get_or_insert_xml_fragment("xml");
        let mut txn = doc.transact_mut();
        let len = text.get_string(&txn).encode_utf16().count() as u32;
        match kind {
            0 => text.insert(&mut txn, a % (len + 1), &"xyzzy"[..1 + (b % 5) as usize]),
            1 if len > 0 => {
                let at = a % len;
                text.remove_range(&mut txn, at, 1 + b % (len - at).min(4));
            }
            1 => {}
            2 if len > 0 => {
                let at = a % len;
                let bold = Attrs::from([("b".into(), Any::Bool(c % 2 == 0))]);
                text.format(&mut txn, at, 1 + b % (len - at), bold);
            }
            2 => {}
            3 => {
                map.insert(&mut txn, format!("k{}", a % 3), i64::from(b));
            }
            4 => {
                let items = ArrayPrelim::from([1, 2, 3]);
                map.insert(&mut txn, format!("l{}", a % 3), items);
            }
            5 | 6 => {
                if let Some(list) = map.get(&txn, &format!("l{}", a % 3)) {
                    let list: ArrayRef = list.cast().unwrap();
                    let len = list.len(&txn);
                    match c % 4 {
                        0 => {
                            let inner = MapPrelim::from([("t", 1), ("u", 2)]);
                            list.insert(&mut txn, b % (len + 1), inner);
                        }
                        1 => {
                            let inner = TextPrelim::new("inner");
                            let inner: TextRef = list.insert(&mut txn, b % (len + 1), inner);
                            inner.insert(&mut txn, 2, "more");
                        }
                        2 if len > 0 => list.remove(&mut txn, b % len),
                        _ => {
                            list.insert(&mut txn, b % (len + 1), i64::from(c));
                        }
                    }
                }
            }
            7 => {
                let len = xml.len(&txn);
                let element = xml.insert(&mut txn, a % (len + 1), XmlElementPrelim::empty("p"));
                element.push_back(&mut txn, XmlTextPrelim::new("line"));
            }
            _ => {
                let len = xml.len(&txn);
                if len > 0 {
                    xml.remove_range(&mut txn, a % len, 1);
                }
            }
        }
        drop(txn);
        let mut updates = Vec::new();
        self.members[member].take_pending(&mut updates).unwrap();
        self.log.append(&mut updates);
    }

    fn meter(&self) -> Order {
        let mut order = Order::default();
        let reader = Yrs::create(replica(1)).unwrap();
        for update in &self.log {
            count(&mut order, &reader, update, FULL).unwrap();
        }
        order
    }
}

fn count(
    order: &mut Order,
    reader: &Yrs,
    update: &[u8],
    allowance: Allowance,
) -> core::result::Result<Counted, Refused> {
    count_reading(
        order,
        &mut reader.inspect(update).unwrap(),
        update,
        allowance,
    )
}

fn count_reading(
    order: &mut Order,
    read: &mut crate::inspected::Inspected,
    update: &[u8],
    allowance: Allowance,
) -> core::result::Result<Counted, Refused> {
    let crate::inspected::Reading::Yjs(layout) = &mut read.reading else {
        panic!("a Yjs update")
    };
    order.count(update, layout, allowance, false)
}

/// The live characters of a list in its order.
fn text_of(order: &Order, log: &[Vec<u8>], list: u32) -> String {
    let mut characters = BTreeMap::new();
    for update in log {
        let scan = Scan::exact(update).unwrap();
        for section in &scan.sections {
            for block in &section.blocks {
                if let Body::Item(item) = block.body(update).unwrap()
                    && item.content == CONTENT_STRING
                {
                    let text = crate::reader::Reader::new(item.data).string().unwrap();
                    for (clock, unit) in (block.clock..).zip(text.chars()) {
                        characters.insert((section.client, clock), unit);
                    }
                }
            }
        }
    }
    let state = &order.state;
    let mut text = String::new();
    let mut next = state.list(list).unwrap().head;
    while let Some(block) = state.block(next) {
        if block.kind == Kind::Text {
            let client = state.id_of(block.at.client);
            text.extend((block.at.clock..block.end()).map(|clock| characters[&(client, clock)]));
        }
        next = block.next;
    }
    text
}

#[test]
fn lists_are_in_the_engines_order() {
    for seed in 0..60 {
        let mut group = Group::new(seed, 2 + seed % 4);
        for _ in 0..120 {
            group.act(false);
        }
        let order = group.meter();
        let mut reader = Yrs::create(replica(1)).unwrap();
        let updates: Vec<&[u8]> = group.log.iter().map(Vec::as_slice).collect();
        reader.apply(&updates).unwrap();
        let list = order.state.places().first().map_or(NIL, |(_, list)| *list);
        let text = reader.text().unwrap().text().unwrap();
        assert_eq!(text_of(&order, &group.log, list), text, "{seed}");
    }
}

#[test]
fn whoever_read_the_log_and_whoever_read_a_snapshot_count_alike() {
    for seed in 0..120 {
        let mut group = Group::new(seed, 2 + seed % 4);
        for _ in 0..150 {
            group.act(seed % 3 > 0);
        }
        let mut from_log = group.meter();
        let mut reader = Yrs::create(replica(1)).unwrap();
        for update in &group.log {
            reader.apply(&[update]).unwrap();
        }
        let mut from_snapshot =
            Order::load(&reader.snapshot().unwrap(), LoadLimit::units(u64::MAX))
                .unwrap()
                .0;
        same(&from_log, &from_snapshot, seed);
        // What comes next costs the same.
        let known = group.log.len();
        for _ in 0..30 {
            group.act(seed % 3 > 0);
        }
        for update in &group.log[known..] {
            let a = count(&mut from_log, &reader, update, FULL).unwrap();
            let b = count(&mut from_snapshot, &reader, update, FULL).unwrap();
            assert_eq!(a, b, "{seed}");
        }
    }
}

/// Blocks of a section that stand in a list.
fn standing(section: &Section, update: &[u8]) -> u64 {
    let blocks = section.blocks.iter();
    let standing = blocks.filter(|block| !matches!(block.body(update), Ok(Body::Gc)));
    standing.count() as u64
}

/// What an engine walks over is what it wrote out: each of its blocks was looked at in a unit, at most.
#[test]
fn an_engine_never_has_more_pieces() {
    let mut fewer = 0;
    for seed in 0..120 {
        let mut group = Group::new(seed, 2 + seed % 4);
        for _ in 0..150 {
            group.act(seed % 3 > 0);
        }
        let mut order = Order::default();
        let mut reader = Yrs::create(replica(1)).unwrap();
        for update in &group.log {
            count(&mut order, &reader, update, FULL).unwrap();
            reader.apply(&[update]).unwrap();
        }
        let snapshot = reader.snapshot().unwrap();
        let state = Scan::exact(&snapshot).unwrap();
        for section in &state.sections {
            let client = order.state.known_client(section.client).unwrap();
            let pieces = order.state.clients[client as usize].blocks.values();
            let pieces = pieces.map(|index| order.state.block(*index).unwrap());
            let pieces = pieces.filter(|block| block.kind != Kind::Gone);
            let pieces = pieces.map(state::Block::pieces).sum();
            assert!(standing(section, &snapshot) <= pieces, "{seed}");
            let blocks = order.state.clients[client as usize].blocks.values();
            let blocks = blocks.filter(|index| {
                let block = order.state.block(**index).unwrap();
                block.kind != Kind::Gone
            });
            fewer += u64::from(standing(section, &snapshot) > blocks.count() as u64);
        }
    }
    assert!(fewer > 0, "canonical blocks alone would do");
}

#[test]
fn a_refused_update_leaves_nothing_behind() {
    for seed in 0..60 {
        let mut group = Group::new(seed, 3);
        for _ in 0..100 {
            group.act(true);
        }
        let mut order = Order::default();
        let reader = Yrs::create(replica(1)).unwrap();
        for update in &group.log {
            let before = dump(&order);
            let poor = Allowance { room: 0, ..FULL };
            let refused = count(&mut order, &reader, update, poor).is_err();
            if !refused {
                order.revert();
            }
            assert_eq!(dump(&order), before, "{seed}");
            count(&mut order, &reader, update, FULL).unwrap();
        }
    }
}

/// A copy of a large document's numbers for each record that is on its way would cost more the larger the document is.
#[test]
fn what_was_counted_on_top_is_taken_out_one_after_the_other() {
    for seed in 0..60 {
        let mut group = Group::new(seed, 3);
        for _ in 0..100 {
            group.act(true);
        }
        let mut order = Order::default();
        let reader = Yrs::create(replica(1)).unwrap();
        let mut counted = 0;
        for start in (0..group.log.len()).step_by(7) {
            let mut before = Vec::new();
            let rest = &group.log[start..];
            for update in rest.iter().take(20) {
                before.push(dump(&order));
                let mut read = reader.inspect(update).unwrap();
                let crate::inspected::Reading::Yjs(layout) = &mut read.reading else {
                    panic!("a Yjs update")
                };
                let poor = Allowance { room: 0, ..FULL };
                let refused = order.count(update, layout, poor, true);
                match refused {
                    Ok(_) => order.revert(),
                    Err(_) => assert_eq!(Some(&dump(&order)), before.last(), "{seed}"),
                }
                order.count(update, layout, FULL, true).unwrap();
            }
            for dumped in before.into_iter().rev() {
                order.revert();
                assert_eq!(dump(&order), dumped, "{seed}");
            }
            for update in rest.iter().take(7) {
                count(&mut order, &reader, update, FULL).unwrap();
                counted += 1;
            }
        }
        assert_eq!(counted, group.log.len());
        same(&order, &group.meter(), seed);
    }
}

#[test]
fn what_waits_is_counted_alike_however_it_came() {
    for seed in 0..60 {
        let mut group = Group::new(seed, 3);
        for _ in 0..60 {
            group.act(true);
        }
        let mut order = Order::default();
        let mut reader = Yrs::create(replica(1)).unwrap();
        let mut updates = group.log.clone();
        for index in 1..updates.len() {
            let other = group.below(index as u32 + 1) as usize;
            updates.swap(index, other);
        }
        for update in &updates {
            let mut read = reader.inspect(update).unwrap();
            count_reading(&mut order, &mut read, update, FULL).unwrap();
            reader.apply_inspected(vec![(update, read)]).unwrap();
            assert_eq!(!order.state.waiting.is_empty(), reader.has_missing());
            let loaded = Order::load(&reader.snapshot().unwrap(), LoadLimit::units(u64::MAX))
                .unwrap()
                .0;
            same(&order, &loaded, seed);
        }
        assert!(!reader.has_missing());
        same(&order, &group.meter(), seed);
    }
}

/// Members who all write at one place while they are apart.
fn conflicts(seed: u64, members: u64, records: u32) -> (u64, u64, u64) {
    let mut group = Group::new(seed, members);
    let mut order = Order::default();
    let mut total = 0;
    // Ids in no order: which is higher decides who passes whom.
    for member in &mut group.members {
        let id = u64::from(group.rng.next_u32());
        *member = Yrs::create(replica(1 + id)).unwrap();
    }
    let mut cursors = vec![0u32; members as usize];
    for _ in 0..records {
        let member = group.below(members as u32) as usize;
        let way = (member as u32 + seed as u32) % 4;
        if group.below(40) == 0 {
            let read = group.read[member];
            let unread: Vec<&[u8]> = group.log[read..].iter().map(Vec::as_slice).collect();
            if !unread.is_empty() {
                group.members[member].apply(&unread).unwrap();
            }
            group.read[member] = group.log.len();
        }
        let spread = group.below(8);
        let doc = group.members[member].doc().clone();
        let text = doc.get_or_insert_text("text");
        let mut txn = doc.transact_mut();
        let len = text.get_string(&txn).encode_utf16().count() as u32;
        let cursor = &mut cursors[member];
        let at = match way {
            0 => 0,
            1 => (*cursor).min(len),
            2 => len / 2,
            _ => spread.min(len),
        };
        text.insert(&mut txn, at, "word ");
        *cursor = at + 5;
        if way == 1 && spread == 0 && len > 9 {
            text.remove_range(&mut txn, at.min(len - 3), 2);
        }
        drop(txn);
        let before = group.log.len();
        group.members[member].take_pending(&mut group.log).unwrap();
        for update in &group.log[before..] {
            let mut layout = Scan::exact(update).unwrap().into_layout();
            let counted = order.count(update, &mut layout, FULL, false).unwrap();
            total += counted.cost;
        }
    }
    let mut reader = Yrs::create(replica(99_999_999_999)).unwrap();
    let all: Vec<&[u8]> = group.log.iter().map(Vec::as_slice).collect();
    reader.apply(&all).unwrap();
    let snapshot = reader.snapshot().unwrap();
    let (loaded, units) = Order::load(&snapshot, LoadLimit::units(u64::MAX)).unwrap();
    same(&order, &loaded, seed);
    (total, units, order.size())
}

#[test]
fn what_was_written_at_one_place_loads_for_no_more_than_it_cost() {
    for (seed, members) in [(0, 2), (2, 3), (3, 4), (5, 5), (14, 12), (23, 20)] {
        let (total, units, size) = conflicts(seed, members, 600);
        println!("{members} members, {size} blocks: {total} in the log, {units} in a snapshot");
        assert!(units <= 3 * total, "{seed}: {units} of {total}, {size}");
    }
}

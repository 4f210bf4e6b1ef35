//! The cost bound on updates at random: it is never below what an engine walks over, and what was written costs no more to load than to write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use conclave_crdt::cost::{Allowance, BALANCE_CAP, Counted, ITEM_EARNS, LoadLimit, Meter};
use conclave_crdt::{Crdt, CrdtKind, ReplicaId, create};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

const FULL: Allowance = Allowance {
    balance: BALANCE_CAP,
    room: u64::MAX,
};

/// A replica and a clock.
type Id = (u64, u32);

fn below(rng: &mut ChaCha8Rng, bound: usize) -> usize {
    rng.next_u32() as usize % bound.max(1)
}

/// A reader with its meter.
struct Member {
    reader: Box<dyn Crdt>,
    meter: Meter,
}

impl Member {
    fn new(kind: CrdtKind) -> Self {
        Self {
            reader: create(kind, ReplicaId::for_kind(kind, [0xfd; 16])).unwrap(),
            meter: Meter::new(kind),
        }
    }

    fn take_in(&mut self, update: &[u8]) -> Counted {
        let mut read = self.reader.inspect(update).unwrap();
        let counted = self.meter.count(update, &mut read, FULL).unwrap();
        self.reader.apply_inspected(vec![(update, read)]).unwrap();
        counted
    }
}

/// Characters of one replica that stand together in an engine.
#[derive(Clone)]
struct Piece {
    at: Id,
    text: String,
    origin: Option<Id>,
    right: Option<Id>,
}

impl Piece {
    fn holds(&self, id: Id) -> bool {
        let end = self.at.1 + self.text.len() as u32;
        self.at.0 == id.0 && (self.at.1..end).contains(&id.1)
    }

    fn goes_on(&self, item: &Self) -> bool {
        let end = self.at.1 + self.text.len() as u32;
        let follows = item.at == (self.at.0, end) && item.origin == Some((self.at.0, end - 1));
        follows && self.right == item.right
    }
}

/// A text as an engine keeps it that never joins again what it has cut: none walks over more pieces.
#[derive(Default)]
struct Walker {
    pieces: Vec<Piece>,
    visits: u64,
}

impl Walker {
    fn find(&self, id: Id) -> Option<usize> {
        self.pieces.iter().position(|piece| piece.holds(id))
    }

    /// Cuts before an operation. Where the piece stands that begins with it.
    fn cut(&mut self, id: Id) -> Option<usize> {
        let index = self.find(id)?;
        let piece = &mut self.pieces[index];
        let offset = (id.1 - piece.at.1) as usize;
        if offset == 0 {
            return Some(index);
        }
        let text = piece.text.split_off(offset);
        let origin = Some((id.0, id.1 - 1));
        let rest = Piece {
            at: id,
            text,
            origin,
            right: piece.right,
        };
        self.pieces.insert(index + 1, rest);
        Some(index + 1)
    }

    /// The loop of Yjs.
    fn integrate(&mut self, item: Piece) {
        let after = item.origin.map(|(client, clock)| (client, clock + 1));
        after.and_then(|id| self.cut(id));
        item.right.and_then(|id| self.cut(id));
        let left = item.origin.map(|id| self.find(id).unwrap());
        let right = item.right.map(|id| self.find(id).unwrap());
        let first = left.map_or(0, |left| left + 1);
        let (mut place, mut conflicts) = (first, first);
        for index in first..self.pieces.len() {
            if Some(index) == right {
                break;
            }
            self.visits += 1;
            let other = &self.pieces[index];
            if other.origin == item.origin {
                if other.at.0 < item.at.0 {
                    (place, conflicts) = (index + 1, index + 1);
                } else if other.right == item.right {
                    break;
                }
            } else {
                // What was passed, and what was since the place moved last, stands together.
                let origin = other.origin.and_then(|id| self.find(id));
                match origin {
                    Some(at) if (first..=index).contains(&at) => {
                        if !(conflicts..=index).contains(&at) {
                            (place, conflicts) = (index + 1, index + 1);
                        }
                    }
                    _ => break,
                }
            }
        }
        // What goes on where the piece before it ends is given to an engine with that, or joined when the update is in.
        let before = place.checked_sub(1).map(|at| &mut self.pieces[at]);
        match before.filter(|it| it.goes_on(&item)) {
            Some(before) => before.text.push_str(&item.text),
            None => self.pieces.insert(place, item),
        }
    }

    fn text(&self) -> String {
        self.pieces.iter().map(|it| it.text.as_str()).collect()
    }
}

fn uint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// One update of items of one replica that follow each other.
fn encoded(items: &[Piece]) -> Vec<u8> {
    let mut out = vec![1];
    uint(&mut out, items.len() as u64);
    uint(&mut out, items[0].at.0);
    uint(&mut out, u64::from(items[0].at.1));
    for item in items {
        let of = |id: Option<Id>, flag: u8| if id.is_some() { flag } else { 0 };
        out.push(4 | of(item.origin, 0x80) | of(item.right, 0x40));
        for (client, clock) in [item.origin, item.right].into_iter().flatten() {
            uint(&mut out, client);
            uint(&mut out, u64::from(clock));
        }
        if item.origin.is_none() && item.right.is_none() {
            out.extend([1, 4]);
            out.extend(b"text");
        }
        uint(&mut out, item.text.len() as u64);
        out.extend(item.text.as_bytes());
    }
    out.push(0);
    out
}

/// Some operation that is known.
fn some(rng: &mut ChaCha8Rng, clocks: &[(u64, u32)]) -> Option<Id> {
    let known: Vec<&(u64, u32)> = clocks.iter().filter(|(_, next)| *next > 0).collect();
    let (client, next) = **known.get(below(rng, known.len()))?;
    Some((client, below(rng, next as usize) as u32))
}

/// Items that end wherever they like, as no honest program's do, and others before all that their replica wrote.
#[test]
fn the_bound_is_never_below_what_an_engine_walks_over() {
    let (mut walked, mut counted) = (0, 0);
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut member = Member::new(CrdtKind::Yjs);
        let mut walker = Walker::default();
        let mut clocks: Vec<(u64, u32)> = Vec::new();
        for _ in 0..2 + seed % 4 {
            clocks.push((1 + u64::from(rng.next_u32() % 1_000), 0));
        }
        clocks.sort_unstable();
        clocks.dedup_by_key(|it| it.0);
        // Some write all over the text, some at one place.
        let wild = seed % 3;
        for _ in 0..60 {
            let writer = below(&mut rng, clocks.len());
            let before = walker.visits;
            let mut items: Vec<Piece> = Vec::new();
            for _ in 0..1 + below(&mut rng, 12) {
                let (client, next) = clocks[writer];
                let text: String = "abcdefgh"[..1 + below(&mut rng, 7)].to_owned();
                let mut pick = |odds: usize| match below(&mut rng, odds) {
                    0 => some(&mut rng, &clocks),
                    _ => None,
                };
                let (mut origin, mut right) = (pick(2), pick(2));
                if wild == 0 {
                    // Before all that this replica wrote.
                    origin = None;
                    right = next.checked_sub(1).map(|last| (client, last));
                }
                // An item that ends before it begins comes to stand where an engine happens to have cut.
                let place = |id: Option<Id>| id.map(|id| (walker.find(id), id.1));
                if right.is_some() && place(right) <= place(origin) {
                    right = None;
                }
                let item = Piece {
                    at: (client, next),
                    text,
                    origin,
                    right,
                };
                clocks[writer].1 += item.text.len() as u32;
                walker.integrate(item.clone());
                items.push(item);
            }
            let visits = walker.visits - before;
            let cost = member.take_in(&encoded(&items)).cost;
            assert!(
                visits + items.len() as u64 <= cost,
                "{seed}: {visits} {cost}"
            );
            (walked, counted) = (walked + visits, counted + cost);
        }
        let text = member.reader.text().unwrap().text().unwrap();
        assert_eq!(text, walker.text(), "{seed}: it walks as the engine does");
    }
    // Nor is it far above it: the rest is cuts and what is moved.
    assert!(
        walked > 20_000 && counted < 2 * walked,
        "{walked} {counted}"
    );
}

/// Members who write texts and values, and read each other from time to time: what each record cost.
fn honest(kind: CrdtKind, seed: u64) -> (Member, u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut docs = Vec::new();
    for member in 0..2 + seed as u8 % 5 {
        let mut id = [member + 1; 16];
        rng.fill_bytes(&mut id[..8]);
        docs.push((0, create(kind, ReplicaId::for_kind(kind, id)).unwrap()));
    }
    let (mut log, mut member, mut total) = (Vec::new(), Member::new(kind), 0);
    for step in 0..250usize {
        let writer = below(&mut rng, docs.len());
        let (read, doc) = &mut docs[writer];
        if below(&mut rng, 8) == 0 {
            let unread: Vec<&[u8]> = log[*read..].iter().map(Vec::as_slice).collect();
            if !unread.is_empty() {
                doc.apply(&unread).unwrap();
            }
            *read = log.len();
        }
        let text = doc.text().unwrap();
        let len = text.len().unwrap();
        let at = match seed % 3 {
            0 => 0,
            1 => len / 2,
            _ => below(&mut rng, len + 1),
        };
        let delete = below(&mut rng, 4).min(len - at);
        text.splice(
            at,
            delete,
            ["a", "word ", "", "several words "][below(&mut rng, 4)],
        )
        .unwrap();
        if step % 5 == 0 {
            let key = format!("k{}", below(&mut rng, 4));
            let value = serde_json::json!({ key: [step, { "x": step % 3 }] });
            doc.json().unwrap().merge_json(&value).unwrap();
        }
        let known = log.len();
        doc.take_pending(&mut log).unwrap();
        for update in &log[known..] {
            total += member.take_in(update).cost;
        }
    }
    (member, total)
}

/// Its budget is twice what its users can have spent, and what is earned for what it holds: so nobody who is honest makes one that is not loaded.
#[test]
fn an_honest_snapshot_is_never_over_its_budget() {
    for seed in 0..18 {
        let (mut member, total) = honest(CrdtKind::Yjs, seed);
        let snapshot = member.reader.snapshot().unwrap();
        let budget = 2 * total + ITEM_EARNS * member.meter.size();
        let loaded = Meter::load_within(CrdtKind::Yjs, &snapshot, LoadLimit::units(budget));
        let (meter, units) = loaded.unwrap_or_else(|it| panic!("{seed}: {it:?}"));
        assert_eq!(meter.size(), member.meter.size());
        // The size that a snapshot may say of itself is bounded by what it holds.
        let limit = LoadLimit {
            units: 2 * total,
            per_item: ITEM_EARNS,
            items_max: meter.size(),
        };
        let believed = Meter::load_within(CrdtKind::Yjs, &snapshot, limit);
        assert!(believed.is_ok(), "{seed}");
        assert!(units > 0);
    }
    for seed in 0..3 {
        let (mut member, _) = honest(CrdtKind::Automerge, seed);
        let snapshot = member.reader.snapshot().unwrap();
        let size = member.meter.size();
        let loaded =
            Meter::load_within(CrdtKind::Automerge, &snapshot, LoadLimit::units(17 * size));
        assert_eq!(loaded.unwrap().0.size(), size, "{seed}");
    }
}

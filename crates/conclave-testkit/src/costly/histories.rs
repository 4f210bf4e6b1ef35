//! Small histories of updates, for pages and for whoever counts them anew.

use conclave_crdt::cost::BALANCE_CAP;
use conclave_crdt::{CrdtError, CrdtKind, ReplicaId, create};

use super::{Costly, Spot, YJS, automerge, by_turns, nested, one, two_at_one_place, typed};

/// Updates in the order of a log, all by one user.
#[derive(Debug, Clone)]
pub struct History {
    /// What they show.
    pub name: String,
    /// Of which kind they are.
    pub kind: CrdtKind,
    /// What the user has at first.
    pub balance: u64,
    /// By how much the document may grow with each.
    pub room: u64,
    /// The updates.
    pub updates: Vec<Vec<u8>>,
}

/// Small histories that go through every part of the rule.
///
/// # Errors
/// Where an engine refuses.
pub fn histories(seeds: u64) -> Result<Vec<History>, CrdtError> {
    let mut all = Vec::new();
    let mut push = |name: String, kind, balance, updates| {
        all.push(History {
            name,
            kind,
            balance,
            room: 1 << 20,
            updates,
        });
    };
    for way in YJS {
        let Costly { mut base, dear } = (way.build)(SMALL, 3);
        if base.iter().map(Vec::len).sum::<usize>() < MOST_BYTES {
            base.extend(dear);
            push(way.name.to_owned(), CrdtKind::Yjs, BALANCE_CAP, base);
        }
    }
    let mut poor = by_turns(40);
    poor.extend(two_at_one_place(40, 4).dear);
    poor.push(typed(20));
    push("a balance that ends".into(), CrdtKind::Yjs, 300, poor);
    let lists = vec![
        vec![1, 1, b't', 0, 4, 1, 1, b't', 3, b'x', b'y', b'z', 0],
        vec![1, 1, b'u', 0, 4, 1, 1, b'u', 1, b'x', 0],
        vec![1, 1, 9, 0, 0xc4, b't', 0, b'u', 0, 1, b'y', 0],
        vec![1, 1, 9, 0, 0x84, b't', 1, 1, b'y', 0],
    ];
    push("between lists".into(), CrdtKind::Yjs, 1_000, lists);
    // Once each comes in as it is, once as what was dropped: it would pass too much.
    for turns in [300, 700] {
        let mut waited = by_turns(turns);
        for clock in [3, 1, 2] {
            waited.push(one(|update| {
                update.text((9, clock), Some((1, 0)), None, "x");
            }));
        }
        waited.push(one(|update| update.delete(9, 0, 3)));
        waited.push(one(|update| update.text((9, 0), None, Some((1, 0)), "x")));
        let name = format!("what waited in a text of {turns}");
        push(name, CrdtKind::Yjs, 10_000, waited);
    }
    // Marks inside of a block stay when it is deleted, and where it is joined again.
    let marked = vec![
        one(|update| update.text((1, 0), None, None, &"x".repeat(64))),
        one(|update| {
            for index in 0..20 {
                update.text((9, index), Some((1, 0)), Some((1, 2 * index + 3)), "y");
            }
        }),
        one(|update| update.delete(1, 1, 63)),
        one(|update| update.delete(9, 0, 20)),
        one(|update| update.text((5, 0), Some((1, 0)), None, "z")),
        one(|update| update.delete(1, 0, 1)),
    ];
    push(
        "marks of what is deleted".into(),
        CrdtKind::Yjs,
        2_000,
        marked,
    );
    // Each but the last comes before others, as a deleted block.
    let key = Spot {
        key: Some("k"),
        ..Spot::default()
    };
    let before = vec![
        one(|update| update.item((9, 0), key, 8, &[1, 126])),
        one(|update| {
            for client in (2..9).rev() {
                update.item((client, 0), key, 8, &[1, 126]);
            }
        }),
        one(|update| update.item((10, 0), key, 8, &[1, 126])),
    ];
    push(
        "before another value of a key".into(),
        CrdtKind::Yjs,
        2_000,
        before,
    );
    let nowhere = vec![
        vec![1, 1, b't', 0, 4, 1, 1, b't', 2, b'x', b'y', 0],
        vec![1, 1, b'u', 0, 4, 1, 1, b'u', 1, b'x', 0],
        vec![1, 1, 9, 1, 4, 0, b't', 0, 1, b'y', 0],
        vec![1, 1, 9, 2, 0xc4, b't', 0, b'u', 0, 1, b'y', 0],
        vec![1, 1, 9, 3, 0x84, 9, 2, 1, b'y', 0],
        vec![1, 1, 9, 4, 0xc4, b't', 0, b't', 1, 1, b'y', 0],
        vec![1, 1, 9, 1, 4, 0, b't', 0, 2, b'y', b'y', 0],
        vec![0, 1, 9, 1, 0, 9],
        vec![1, 1, 9, 0, 0x84, b't', 1, 1, b'y', 0],
        nested(200),
        nested(201),
    ];
    push("what stands nowhere".into(), CrdtKind::Yjs, 10_000, nowhere);
    for seed in 0..seeds {
        let updates = edited(CrdtKind::Yjs, seed)?;
        let mut mixed = updates.clone();
        let mut random = Random(seed);
        for index in 1..mixed.len() {
            mixed.swap(index, random.below(index + 1));
        }
        push(format!("edits {seed}"), CrdtKind::Yjs, BALANCE_CAP, updates);
        push(
            format!("edits {seed} in another order"),
            CrdtKind::Yjs,
            1 << 16,
            mixed,
        );
        let updates = edited(CrdtKind::Automerge, seed)?;
        push(
            format!("changes {seed}"),
            CrdtKind::Automerge,
            BALANCE_CAP,
            updates,
        );
    }
    let ops = [1, 2, 1_000, 131_056, 131_057, 1_000_000];
    for ops in ops {
        let updates = vec![automerge(ops), automerge(ops)];
        let name = format!("{ops} operations");
        push(name, CrdtKind::Automerge, 500, updates);
    }
    Ok(all)
}

/// Small enough for a page.
const SMALL: u32 = 12;
const MOST_BYTES: usize = 20_000;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }

    fn pick<T: Clone + Default>(&mut self, from: &[T]) -> T {
        let index = self.below(from.len());
        from.get(index).cloned().unwrap_or_default()
    }
}

/// What three members write who read each other from time to time.
fn edited(kind: CrdtKind, seed: u64) -> Result<Vec<Vec<u8>>, CrdtError> {
    let mut random = Random(seed);
    let mut docs = Vec::new();
    for member in 1..=3 {
        docs.push((0, create(kind, ReplicaId::for_kind(kind, [member; 16]))?));
    }
    let mut log: Vec<Vec<u8>> = Vec::new();
    for _ in 0..40 {
        let member = random.below(docs.len());
        let Some((read, doc)) = docs.get_mut(member) else {
            continue;
        };
        if random.below(3) == 0 {
            let unread: Vec<&[u8]> = log.iter().skip(*read).map(Vec::as_slice).collect();
            doc.apply(&unread)?;
            *read = log.len();
        }
        if random.below(3) > 0 {
            let text = doc.text().ok_or(CrdtError::Engine)?;
            let len = text.len()?;
            let at = random.below(len + 1);
            let delete = random.below(4).min(len - at);
            text.splice(at, delete, random.pick(&["a", "word", "", "of"]))?;
        } else {
            let json = doc.json().ok_or(CrdtError::Engine)?;
            let value = random.below(100);
            let lists = [
                serde_json::json!([value]),
                serde_json::json!([1, { "x": value, "y": [2] }]),
                serde_json::json!("text"),
            ];
            let mut now = json.to_json()?;
            let key = random.pick(&["k", "l"]);
            if let Some(object) = now.as_object_mut() {
                object.insert(key.into(), random.pick(&lists));
            }
            json.merge_json(&now)?;
        }
        doc.take_pending(&mut log)?;
    }
    Ok(log)
}

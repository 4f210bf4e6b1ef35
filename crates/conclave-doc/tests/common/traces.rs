//! Histories of one text that several people wrote at once, played by members of a document: each edit is made on what its author had read, and has a
//! place in one log.

use std::collections::BTreeMap;

use conclave_doc::*;
use conclave_proto::DeviceId;
use serde_json::Value;

use super::*;

/// One edit of one person.
pub struct Edit {
    /// Who.
    pub agent: usize,
    /// How many edits of each they had read, their own included.
    pub read: Vec<usize>,
    pub patches: Vec<Patch>,
}

pub struct Patch {
    pub at: Place,
    pub delete: usize,
    pub insert: String,
}

#[derive(Clone, Copy)]
pub enum Place {
    /// As it was recorded.
    At(usize),
    /// Drawn: somewhere in the text as it is then.
    Anywhere(usize),
}

pub struct Trace {
    pub agents: usize,
    /// In an order in which a log can have them.
    pub edits: Vec<Edit>,
    /// The text in the end, where it was recorded.
    pub end: Option<String>,
}

impl Trace {
    /// A concurrent one in the JSON of <https://github.com/josephg/editing-traces>.
    pub fn of_json(json: &Value) -> Option<Self> {
        let agents = number(&json["numAgents"])?;
        let mut read_after: Vec<Vec<usize>> = Vec::new();
        let mut own = vec![0; agents];
        let mut edits = Vec::new();
        for txn in json["txns"].as_array()? {
            let agent = number(&txn["agent"])?;
            let mut read = vec![0; agents];
            for parent in txn["parents"].as_array()? {
                let parent = read_after.get(number(parent)?)?;
                for (most, of) in read.iter_mut().zip(parent) {
                    *most = (*most).max(*of);
                }
            }
            // A person is one thread of edits.
            let of = own.get_mut(agent)?;
            if read[agent] != *of {
                return None;
            }
            *of += 1;
            let mut after = read.clone();
            after[agent] += 1;
            read_after.push(after);
            let patches = txn["patches"].as_array()?.iter().map(|patch| {
                Some(Patch {
                    at: Place::At(number(&patch[0])?),
                    delete: number(&patch[1])?,
                    insert: patch[2].as_str()?.to_owned(),
                })
            });
            edits.push(Edit {
                agent,
                read,
                patches: patches.collect::<Option<_>>()?,
            });
        }
        Some(Self {
            agents,
            edits: in_a_log(agents, edits)?,
            end: json["endContent"].as_str().map(str::to_owned),
        })
    }

    /// People who write words and take some out, each reading what the others wrote only now and then.
    pub fn generated(agents: usize, edits: usize, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut below = move |bound: usize| (rng.next_u64() % bound as u64) as usize;
        let mut written = vec![0; agents];
        let mut read = vec![vec![0; agents]; agents];
        let mut cursors: Vec<usize> = (0..agents).map(|at| 1000 * at).collect();
        let edits = (0..edits).map(|_| {
            let agent = below(agents);
            if below(8) == 0 {
                read[agent].clone_from(&written);
            }
            read[agent][agent] = written[agent];
            written[agent] += 1;
            if below(12) == 0 {
                cursors[agent] = below(1 << 20);
            }
            cursors[agent] += 1;
            Edit {
                agent,
                read: read[agent].clone(),
                patches: vec![Patch {
                    at: Place::Anywhere(cursors[agent]),
                    delete: [0, 0, 0, 1, 3][below(5)],
                    insert: ["a", "of ", "four"][below(3)].to_owned(),
                }],
            }
        });
        Self {
            agents,
            edits: edits.collect(),
            end: None,
        }
    }
}

fn number(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// Puts edits into an order in which whoever reads a log from its beginning has, besides their own, just what each edit's author had read.
fn in_a_log(agents: usize, edits: Vec<Edit>) -> Option<Vec<Edit>> {
    let mut of: Vec<Vec<usize>> = vec![Vec::new(); agents];
    for (at, edit) in edits.iter().enumerate() {
        of[edit.agent].push(at);
    }
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); edits.len()];
    let mut waits = vec![0; edits.len()];
    let mut known = std::collections::BTreeSet::new();
    let mut before = |first: usize, then: usize| {
        if known.insert((first, then)) {
            after[first].push(then);
            waits[then] += 1;
        }
    };
    for (at, edit) in edits.iter().enumerate() {
        for one in 0..agents {
            let Some(last) = edit.read[one].checked_sub(1).map(|last| of[one][last]) else {
                continue;
            };
            before(last, at);
            // What was not read yet stands after all that was.
            let others = (0..agents).filter(|it| ![one, edit.agent].contains(it));
            for other in others.filter(|_| one != edit.agent) {
                if let Some(unread) = of[other].get(edit.read[other]) {
                    before(last, *unread);
                }
            }
        }
    }
    let mut ready: BTreeMap<usize, ()> = (0..edits.len())
        .filter(|at| waits[*at] == 0)
        .map(|at| (at, ()))
        .collect();
    let mut order = Vec::new();
    while let Some((at, ())) = ready.pop_first() {
        order.push(at);
        for then in &after[at] {
            waits[*then] -= 1;
            if waits[*then] == 0 {
                ready.insert(*then, ());
            }
        }
    }
    let mut edits: Vec<Option<Edit>> = edits.into_iter().map(Some).collect();
    let whole = order.len() == edits.len();
    let order = order.into_iter().map(|at| edits[at].take());
    whole.then(|| order.flatten().collect())
}

/// Each character that is written is another one, which names the edit that wrote it.
const FIRST_MARK: u32 = 0x1_0000;

/// A trace that was played.
pub struct Played {
    pub sim: Sim,
    /// What stands for each character that was written, and the record that brought it.
    pub written: Vec<(char, DeviceId, u64)>,
    /// The record that took each character out first.
    pub deleted: BTreeMap<char, u64>,
    /// Whether characters are marks.
    marked: bool,
}

/// Members do what a trace says, in a document of this kind.
pub fn play(trace: &Trace, kind: CrdtKind, marked: bool) -> Played {
    let roles = [(1, Role::Owner), (2, Role::Editor), (3, Role::Editor)];
    let mut sim = Sim::new(kind, &roles[..trace.agents], "");
    sim.settle();
    let mut written = Vec::new();
    let mut deleted = BTreeMap::new();
    // Of each member how many edits of each they have read; and whose each position of the log is.
    let mut read = vec![vec![0; trace.agents]; trace.agents];
    let mut log: Vec<Option<usize>> = vec![None; usize::try_from(sim.service.size()).unwrap()];
    for edit in &trace.edits {
        let at = edit.agent;
        let lacks = |read: &[usize]| {
            let others = (0..trace.agents).filter(|it| *it != at);
            others.into_iter().any(|it| read[it] < edit.read[it])
        };
        while lacks(&read[at]) {
            let before = sim.peers[at].doc.size();
            assert!(sim.receive(at), "what was read is in the log");
            for seq in before..sim.peers[at].doc.size() {
                if let Some(of) = log[usize::try_from(seq).unwrap()] {
                    read[at][of] += 1;
                }
            }
        }
        let first = sim.service.size();
        for (patch, seq) in edit.patches.iter().zip(first..) {
            let ((from, delete), insert) = (place(&mut sim, at, patch), &patch.insert);
            let first = FIRST_MARK + u32::try_from(written.len()).unwrap();
            let marks = (first..)
                .filter_map(char::from_u32)
                .take(insert.chars().count());
            let marks: String = marks.collect();
            if marked && delete > 0 {
                let text = sim.peers[at].text();
                let gone = text.chars().skip(from).take(delete);
                gone.for_each(|it| _ = deleted.entry(it).or_insert(seq));
            }
            let device = sim.world.devices[sim.peers[at].member];
            written.extend(insert.chars().map(|it| (it, device, seq)));
            let insert = if marked { &marks } else { insert };
            sim.peers[at].edit(|crdt| crdt.text().unwrap().splice(from, delete, insert));
        }
        while sim.send(at, 64 * 1024) {}
        let size = first + edit.patches.len() as u64;
        assert_eq!(sim.service.size(), size, "a record for each patch");
        log.resize(usize::try_from(size).unwrap(), None);
        *log.last_mut().unwrap() = Some(at);
    }
    sim.settle();
    sim.assert_no_findings();
    Played {
        sim,
        written,
        deleted,
        marked,
    }
}

/// Where a patch begins in the text as its author has it, and how much it takes out.
fn place(sim: &mut Sim, at: usize, patch: &Patch) -> (usize, usize) {
    match patch.at {
        Place::At(from) => (from, patch.delete),
        Place::Anywhere(drawn) => {
            let len = sim.peers[at].doc.crdt().text().unwrap().len().unwrap();
            let from = drawn % (len + 1);
            (from, patch.delete.min(len - from))
        }
    }
}

impl Played {
    /// A member's text, with what was written in place of marks.
    pub fn text(&mut self, at: usize) -> String {
        let text = self.sim.peers[at].text();
        match self.marked {
            true => text.chars().map(|mark| self.of(mark).0).collect(),
            false => text,
        }
    }

    /// What a mark stands for.
    fn of(&self, mark: char) -> (char, DeviceId, u64) {
        self.written[(u32::from(mark) - FIRST_MARK) as usize]
    }

    /// Of each character of a member's text the device and record that it is told to be of.
    pub fn blamed(&mut self, at: usize) -> Vec<(char, DeviceId, u64)> {
        let (member, epoch) = (self.sim.peers[at].member, self.sim.peers[at].epoch);
        let keys = self.sim.peers[at].keys.clone();
        let ctx = self.sim.world.ctx(member, epoch, &keys);
        let blame = self.sim.peers[at].doc.blame(&ctx, View::Text).unwrap();
        let Shown::Text { text, runs } = &blame.shown else {
            panic!("a text was asked for");
        };
        let writers = runs.iter().flat_map(|run| {
            let record = match blame.writers[run.writer as usize] {
                Writer::Proven(record) => record,
                Writer::OnWordOf {
                    record: Some(record),
                    ..
                } => record,
                other => panic!("{other:?}"),
            };
            std::iter::repeat_n((record.device, record.seq), run.chars)
        });
        let writers: Vec<_> = writers.collect();
        assert_eq!(writers.len(), text.chars().count());
        let each = text.chars().zip(writers);
        each.map(|(it, (device, seq))| (it, device, seq)).collect()
    }

    /// Characters of a member's text that are not told to be of the record that brought them; and how many there are.
    pub fn wrong(&mut self, at: usize) -> (usize, usize) {
        assert!(self.marked);
        let all = self.blamed(at);
        let wrong = all.iter().filter(|(mark, device, seq)| {
            let (_, by, brought) = self.of(*mark);
            (by, brought) != (*device, *seq)
        });
        (wrong.count(), all.len())
    }

    /// Marks that nobody took out, sorted.
    pub fn left(&self) -> Vec<char> {
        let all = (FIRST_MARK..)
            .filter_map(char::from_u32)
            .take(self.written.len());
        all.filter(|mark| !self.deleted.contains_key(mark))
            .collect()
    }
}

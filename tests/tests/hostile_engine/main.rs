//! A live device whose service sends anything that decodes: real frames with bits flipped, lengths and numbers that lie, frames out of
//! order and twice. It never panics, never writes or takes memory without end, answers its user, keeps what the user wrote, starts again
//! from its store, and works with an honest service as if nothing had been.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod net;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use conclave_engine::{Command, Input, Reply};
use conclave_proto::codec::{Tail, Varint, decode, encode};
use conclave_proto::frame::{Answer, ClientFrame, OpenedDocument, Request, ServiceFrame};
use conclave_proto::service::SignedHead;
use conclave_proto::{DocumentId, GroupId, Head, UnixMs, limits};
use conclave_testkit::service::{ConnId, Service};
use peak_alloc::PeakAlloc;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use net::{Net, Rows, edit};

/// Counts what the whole process allocates: this file has one test.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Storms, each on its own seed.
const STORMS: u8 = 60;
/// Things that happen in a storm; half of them are hostile frames.
const STEPS: usize = 120;
/// What one frame may make the engine take for a moment, in bytes.
const FRAME_MEMORY_BYTES: usize = 64 * 1024 * 1024;
/// What a storm may leave in memory and in the store, in bytes.
const STORM_MEMORY_BYTES: usize = 64 * 1024 * 1024;

/// What is there before every storm: the service, the rows of both devices, and what the service says to the second when it is honest.
struct Scene {
    now: UnixMs,
    service: Service,
    ana: Rows,
    ben: Rows,
    /// Everything that Ben heard.
    heard: Vec<ServiceFrame>,
    /// What comes first.
    greeting: Vec<ServiceFrame>,
    /// Answers, each with the kind of request that it is for.
    answers: Vec<(u8, Answer)>,
    /// What comes without having been asked for.
    pushed: Vec<ServiceFrame>,
    group: GroupId,
    document: DocumentId,
}

/// Ben was away while Ana wrote and admitted Cleo, and he wrote too. What he then hears is every kind of frame that a device hears.
fn scene() -> Scene {
    let mut net = Net::new(&["ana", "ben", "cleo"]);
    let (group, document) = net.group_with_document(0, &[1]);
    net.ask(1, edit(group, document, " ben")).unwrap();
    net.settle();
    net.disconnect(1);
    net.ask(1, edit(group, document, " offline")).unwrap();
    for word in [" one", " two"] {
        net.ask(0, edit(group, document, word)).unwrap();
        net.settle();
    }
    net.invite(group, 0, 2);
    net.ask(0, edit(group, document, " three")).unwrap();
    net.settle();
    net.disconnect(0);
    net.disconnect(2);
    let (ana, ben) = (net.devices[0].rows.clone(), net.devices[1].rows.clone());
    let (now, service) = (net.now, net.service.clone());

    let mut honest = Net::again(now, service.clone(), &[&ben], 2);
    honest.tapped = 0;
    honest.connect(0);
    honest.settle();
    honest.ask(0, edit(group, document, " more")).unwrap();
    honest.settle();
    let heard = std::mem::take(&mut honest.heard);
    assert!(heard.len() > 8, "{heard:?}");
    assert_eq!(honest.devices[0].findings(), [""; 0]);
    let (mut greeting, mut answers, mut pushed) = (Vec::new(), Vec::new(), Vec::new());
    for frame in &heard {
        match frame {
            ServiceFrame::Challenge { .. } | ServiceFrame::Ready { .. } => {
                greeting.push(frame.clone());
            }
            ServiceFrame::Response { id, answer } => {
                let asked = honest.asked.iter().find(|(own, _)| own == id);
                answers.push((kind(&asked.unwrap().1), answer.clone()));
            }
            other => pushed.push(other.clone()),
        }
    }
    Scene {
        now,
        service,
        ana,
        ben,
        heard,
        greeting,
        answers,
        pushed,
        group,
        document,
    }
}

struct Storm {
    rng: ChaCha20Rng,
    /// Encodings of frames to begin with: real ones, and one of every shape.
    seeds: Vec<Vec<u8>>,
    /// Requests that have no answer yet.
    open: Vec<(Varint, u8)>,
    fed: usize,
    /// Hostile frames that changed what is stored.
    moved: usize,
    kinds: BTreeSet<u8>,
}

impl Storm {
    fn new(seed: u8, scene: &Scene) -> Self {
        let mut seeds: Vec<Vec<u8>> = scene.heard.iter().map(encode).collect();
        seeds.extend(conclave_testkit::decoders::service_frames());
        Self {
            rng: ChaCha20Rng::from_seed([seed; 32]),
            seeds,
            open: Vec::new(),
            fed: 0,
            moved: 0,
            kinds: BTreeSet::new(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        (self.rng.next_u64() % end.max(1) as u64) as usize
    }

    /// A number that is small, or at an edge.
    fn number(&mut self) -> u64 {
        let edges = [
            0,
            1,
            2,
            3,
            1 << 20,
            1 << 31,
            1 << 32,
            Varint::MAX - 1,
            Varint::MAX,
        ];
        match self.below(3) {
            0 => self.rng.next_u64() % 16,
            1 => edges[self.below(edges.len())],
            _ => self.rng.next_u64() >> (2 + self.below(62)),
        }
    }

    /// Bytes of a real frame with a few changes that leave it decodable.
    fn mutated(&mut self) -> Option<ServiceFrame> {
        let at = self.below(self.seeds.len());
        let mut bytes = self.seeds[at].clone();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.rng.next_u32() as u8,
                2 => {
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill(0xff);
                }
                3 => {
                    // A stretch of another frame in its place.
                    let other = self.below(self.seeds.len());
                    let other = &self.seeds[other];
                    let end = (at + 32).min(bytes.len()).min(other.len());
                    if at < end {
                        bytes[at..end].copy_from_slice(&other[at..end]);
                    }
                }
                4 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + 16).min(bytes.len());
                    bytes.extend_from_within(at..end);
                }
            }
        }
        decode("frame", &bytes, limits::FRAME_BYTES).ok()
    }

    /// A well-formed frame whose numbers lie.
    fn lying(&mut self) -> Option<ServiceFrame> {
        let at = self.below(self.seeds.len());
        let frame = decode("frame", &self.seeds[at], limits::FRAME_BYTES).ok()?;
        let number = self.number();
        let (channel, other) = (Varint(number), Varint(self.number()));
        Some(match frame {
            ServiceFrame::Deliver { mut records, .. } => {
                if self.below(4) == 0 {
                    let all = records.0.iter().cycle().take(limits::RECORDS_PER_FRAME);
                    records = Tail(all.cloned().collect());
                }
                ServiceFrame::Deliver {
                    channel: Varint(self.rng.next_u64() % 4),
                    first_seq: other,
                    records,
                }
            }
            ServiceFrame::Ack { .. } => ServiceFrame::Ack {
                channel: Varint(self.rng.next_u64() % 4),
                next_clock: channel,
                first_seq: other,
                count: Varint(self.number()),
            },
            ServiceFrame::NewAuthor { author, .. } => ServiceFrame::NewAuthor { channel, author },
            ServiceFrame::AppendRefused { refusal, .. } => ServiceFrame::AppendRefused {
                channel: Varint(self.rng.next_u64() % 4),
                first_clock: other,
                refusal,
            },
            ServiceFrame::GroupEntries { group, entries, .. } => ServiceFrame::GroupEntries {
                group,
                first_seq: number,
                entries,
            },
            ServiceFrame::Response { answer, .. } => ServiceFrame::Response {
                id: match self.open.first() {
                    Some((id, _)) if number.is_multiple_of(2) => *id,
                    _ => Varint(self.rng.next_u64() % 40),
                },
                answer: self.lying_answer(answer),
            },
            ServiceFrame::Goodbye { why, .. } => ServiceFrame::Goodbye {
                why,
                retry_after_ms: self.rng.next_u64(),
            },
            other => other,
        })
    }

    fn lying_answer(&mut self, answer: Answer) -> Answer {
        let number = self.number();
        match answer {
            Answer::Accepted { head, .. } => Answer::Accepted { seq: number, head },
            Answer::Subscribed {
                head,
                epoch,
                signed,
                losses,
                ..
            } => Answer::Subscribed {
                head: Head {
                    size: number,
                    root: head.root,
                },
                epoch,
                now: UnixMs(self.rng.next_u64()),
                signed,
                losses,
            },
            Answer::Opened(opened) => Answer::Opened(OpenedDocument {
                channel: Varint(self.rng.next_u64() % 4),
                signed: SignedHead {
                    head: Head {
                        size: number,
                        root: opened.head().root,
                    },
                    ..opened.signed
                },
                from: self.number(),
                own_next_clock: self.number(),
                ..opened
            }),
            Answer::Records { records, .. } => Answer::Records {
                first_seq: number,
                records,
            },
            other => other,
        }
    }

    /// The oldest open request gets what an honest service once said to one of its kind, or nearly that.
    fn answer(&mut self, scene: &Scene) -> Option<ServiceFrame> {
        if self.open.is_empty() {
            return None;
        }
        let (id, kind) = self.open.remove(0);
        let fitting: Vec<&Answer> = scene
            .answers
            .iter()
            .filter(|(own, _)| *own == kind)
            .map(|(_, answer)| answer)
            .collect();
        let answer = fitting.get(self.below(fitting.len())).copied().cloned();
        let mut answer = answer.unwrap_or(Answer::Done);
        if self.below(4) == 0 {
            answer = self.lying_answer(answer);
        }
        Some(ServiceFrame::Response { id, answer })
    }

    fn next(&mut self) -> ServiceFrame {
        loop {
            let frame = if self.below(2) == 0 {
                self.mutated()
            } else {
                self.lying()
            };
            if let Some(frame) = frame {
                self.fed += 1;
                self.kinds.extend(encode(&frame).first());
                return frame;
            }
        }
    }
}

/// Ben alone with the hostile service, which mixes what an honest one would say with what it makes up.
fn weather(seed: u8, scene: &Scene) -> (Net, Storm) {
    let mut storm = Storm::new(seed, scene);
    let mut net = Net::again(scene.now, Service::default(), &[&scene.ben], 2);
    let before = MEMORY.current_usage();
    let mut conns = 0;
    for _ in 0..STEPS {
        if net.devices[0].conn.is_none() {
            conns += 1;
            storm.open.clear();
            net.devices[0].connect(net.now, ConnId(conns));
            for frame in &scene.greeting {
                feed(&mut net, seed, frame.clone());
            }
        }
        for frame in net.devices[0].up.drain(..) {
            if let ClientFrame::Request { id, body } = frame {
                storm.open.push((id, kind(&body)));
            }
        }
        match storm.below(20) {
            0..7 => {
                if let Some(frame) = storm.answer(scene) {
                    feed(&mut net, seed, frame);
                }
            }
            7..17 => {
                let frame = storm.next();
                feed(&mut net, seed, frame);
                storm.moved += usize::from(net.devices[0].moved);
            }
            17..19 => {
                let at = storm.below(scene.pushed.len());
                feed(&mut net, seed, scene.pushed[at].clone());
            }
            _ => {
                let (group, document) = (scene.group, scene.document);
                let now = net.now;
                net.devices[0].command(now, edit(group, document, "~"));
                net.now = now.plus_ms(storm.rng.next_u64() % 20_000);
                if net.devices[0].wakes().is_some_and(|at| at <= net.now) {
                    net.devices[0].input(net.now, Input::Timer);
                }
            }
        }
    }
    net.devices[0].disconnect(net.now);
    let grown = MEMORY.current_usage().saturating_sub(before);
    let stored: usize = net.devices[0]
        .rows
        .0
        .values()
        .map(|value| value.len())
        .sum();
    assert!(
        grown < STORM_MEMORY_BYTES && stored < STORM_MEMORY_BYTES,
        "storm {seed}: {grown} bytes in memory, {stored} in the store"
    );
    (net, storm)
}

/// One frame for Ben: no panic, and no more memory than it may take.
fn feed(net: &mut Net, seed: u8, frame: ServiceFrame) {
    net.devices[0].moved = false;
    if net.devices[0].conn.is_none() {
        return;
    }
    let shown = format!("{frame:?}");
    MEMORY.reset_peak_usage();
    let held = MEMORY.current_usage();
    let (now, device) = (net.now, &mut net.devices[0]);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        device.input(now, Input::Frame(Box::new(frame)));
    }));
    assert!(outcome.is_ok(), "storm {seed}: panicked on {shown}");
    let taken = MEMORY.peak_usage().saturating_sub(held);
    assert!(
        taken < FRAME_MEMORY_BYTES,
        "storm {seed}: {taken} bytes for {shown}"
    );
}

/// Which request this is.
fn kind(body: &Request) -> u8 {
    encode(body)[0]
}

#[test]
fn a_device_weathers_a_service_that_sends_anything() {
    let scene = scene();
    let (group, document) = (scene.group, scene.document);
    let (mut fed, mut moved, mut converged) = (0, 0, 0);
    let (mut kinds, mut codes) = (BTreeSet::new(), BTreeSet::new());
    for seed in 1..=STORMS {
        println!("storm {seed}");
        let (mut net, storm) = weather(seed, &scene);
        fed += storm.fed;
        moved += storm.moved;
        kinds.extend(storm.kinds);

        // Offline, still in the same life: the user is answered. Only where the group was found to be broken is an edit refused.
        let edited = net.ask(0, edit(group, document, " after"));
        let refused = edited.as_ref().err().map(|error| error.code());
        let findings = net.devices[0].findings();
        codes.extend(findings.iter().cloned());
        assert!(
            edited.is_ok() || !findings.is_empty(),
            "storm {seed}: {edited:?}"
        );
        let text = net.text(0, group, document);
        assert!(text.contains(" ben") && text.contains(" offline"), "{text}");
        assert_eq!(text.contains(" after"), edited.is_ok(), "{refused:?}");

        // From its rows, with an honest service.
        let rows = net.devices[0].rows.clone();
        let now = net.now;
        let mut net = Net::again(now, scene.service.clone(), &[&scene.ana, &rows], 20 + seed);
        // What the storm showed may be signed by the service's key: shown it, the service begins anew and sends everybody off once.
        net.reconnects = 20;
        net.connect(0);
        net.connect(1);
        net.settle();
        let text = net.text(1, group, document);
        assert!(text.contains(" ben") && text.contains(" offline"), "{text}");
        // The old group goes on, or the device has said what is wrong with it.
        let same = text == net.text(0, group, document);
        converged += u8::from(same);
        assert!(
            same || !findings.is_empty() || !net.devices[1].findings().is_empty(),
            "storm {seed}: {text}"
        );
        // A new one works as any.
        let (group, document) = net.group_with_document(1, &[0]);
        net.ask(0, edit(group, document, " ana")).unwrap();
        net.ask(1, edit(group, document, " ben")).unwrap();
        net.settle();
        let text = net.text(0, group, document);
        assert!(text.contains(" ana") && text.contains(" ben"), "{text}");
        assert_eq!(net.text(1, group, document), text, "storm {seed}");
        let listed = net.ask(1, Command::Groups);
        assert!(matches!(listed, Ok(Reply::Groups(groups)) if groups.len() == 2));
    }
    println!(
        "{fed} hostile frames of {} kinds; {moved} changed a store",
        kinds.len()
    );
    println!("{converged} of {STORMS} groups unharmed; found: {codes:?}");
    // The storms reach the engine: they are not all refused at the door.
    assert!(fed > 2_000 && moved > 50, "{fed} {moved}");
    assert!(kinds.len() >= 13, "{kinds:?}");
    assert!(codes.len() > 4, "{codes:?}");
}

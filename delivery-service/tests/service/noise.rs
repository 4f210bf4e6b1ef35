//! Bytes that nobody who follows the protocol would send, to the service's own program: it ends such connections, keeps its memory, and
//! serves everybody else.

use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{ClientFrame, Plea, Request, ServiceFrame};
use conclave_proto::{DeviceId, DocumentId, GroupId, GroupPolicy, Refusal, UserId, limits};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Member, Pen, Person, Wire};
use crate::process::Process;
use crate::scenes::ONE;

/// Markers of a chunk that is not, or is, the last of its frame.
const MORE: u8 = 0xfe;
const LAST: u8 = 0xff;
/// Most memory while no frame is large: what 2,000 connections and frames leave behind must not add up.
const SMALL_BYTES: u64 = 64 * 1024 * 1024;
/// Most memory while one frame of the largest size is put together, again and again.
const LARGE_BYTES: u64 = 320 * 1024 * 1024;

/// A service with a group whose document two members have open.
struct Scene {
    _dir: TempDir,
    process: Process,
    alice: Member,
    pen: Pen,
    bob: Member,
    bobs: Pen,
    written: u64,
}

impl Scene {
    async fn set() -> Self {
        let dir = TempDir::new().unwrap();
        let process = Process::start(&dir);
        let mut alice = process.member(&Person::new()).await;
        alice.create_group(GroupPolicy::default()).await;
        let mut bob = process.member(&Person::new()).await;
        alice.invite(&mut bob).await;
        let (document, _) = alice.create_document().await;
        let (_, pen) = alice.open(document, ONE, None).await;
        let (_, bobs) = bob.open(document, ONE, Some(1)).await;
        Self {
            _dir: dir,
            process,
            alice,
            pen,
            bob,
            bobs,
            written: 0,
        }
    }

    /// Others are served, on connections that they had before.
    async fn goes_on(&mut self) {
        let frame = self.pen.updates(3);
        self.alice.wire.send(&frame).await;
        self.written += 3;
        let acked = self.alice.wire.appended(self.pen.channel).await.unwrap();
        assert_eq!(acked.0, self.written);
        let delivered = self.bob.wire.delivered(self.bobs.channel, 3).await;
        assert_eq!(delivered.last().unwrap().0, self.written);
    }

    /// The most memory that the process ever had.
    fn peak_bytes(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.process.child.id());
        let status = std::fs::read_to_string(path).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }

    fn end(self, most: u64) {
        if cfg!(target_os = "linux") {
            let peak = self.peak_bytes().unwrap();
            assert!(peak < most, "{peak} bytes");
        }
        let said = self.process.said();
        assert!(!said.contains("panicked"), "{said}");
    }

    fn address(&self) -> String {
        let url = &self.process.url;
        url.trim_start_matches("ws://")
            .trim_end_matches("/v1")
            .to_owned()
    }
}

fn noise(rng: &mut ChaCha20Rng, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.next_u32() as usize % most];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// What may come before login, and does not begin with a frame that is one.
fn before_login(rng: &mut ChaCha20Rng, hello: &[u8], round: usize) -> Vec<Message> {
    let mut mutated = hello.to_vec();
    let at = rng.next_u32() as usize % mutated.len();
    match round % 8 {
        0 => vec![Message::Binary(
            [&[9][..], &noise(rng, 20_000)].concat().into(),
        )],
        1 => vec![Message::Text("{\"hello\": 1}".into())],
        2 => {
            mutated.truncate(at);
            vec![Message::Binary(mutated.into())]
        }
        3 => {
            // A length that lies.
            mutated[1] |= 0x80;
            vec![Message::Binary(mutated.into())]
        }
        4 => {
            let too_large = vec![1; limits::UNAUTHENTICATED_FRAME_BYTES + 1];
            vec![Message::Binary(too_large.into())]
        }
        // Chunks are for those who are known, even small ones.
        5 => vec![Message::Binary(vec![MORE, 1].into()); 4],
        6 => vec![Message::Binary(vec![MORE].into()); 4],
        _ => vec![
            Message::Ping(vec![1; 100].into()),
            Message::Binary(vec![5].into()),
        ],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_before_login_ends_each_connection_and_nothing_else() {
    let mut scene = Scene::set().await;
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let person = Person::new();
    let hello = encode(&ClientFrame::Hello {
        versions: vec![conclave_proto::policy::PROTOCOL_VERSION],
        credential: person.devices[0].credential.to_bytes().into(),
    });
    for round in 0..1200 {
        let mut wire = Wire::connect(&scene.process.url).await;
        for message in before_login(&mut rng, &hello, round) {
            wire.send_raw(message).await;
        }
        wire.ended().await;
        if round % 300 == 0 {
            scene.goes_on().await;
        }
    }
    // What is not even HTTP, or never ends.
    for round in 0..200 {
        let mut socket = TcpStream::connect(scene.address()).await.unwrap();
        let mut bytes = match round % 3 {
            0 => noise(&mut rng, 4096),
            1 => b"GET /v1 HTTP/1.1\r\nX: ".repeat(200),
            _ => [
                b"GET /v1 HTTP/1.1\r\nHost: x\r\nX: ".to_vec(),
                vec![b'x'; 600_000],
            ]
            .concat(),
        };
        bytes.extend(b"\r\n\r\n");
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        assert!(rest.len() < 4096);
    }
    scene.goes_on().await;
    scene.end(SMALL_BYTES);
}

/// Valid frames of every kind that a device sends.
fn frames(scene: &Scene) -> Vec<Vec<u8>> {
    let group = scene.alice.group_id();
    let document = DocumentId([4; 16]);
    let (_, entry, snapshot) = scene.alice.new_document();
    let requests = vec![
        Request::GetDeviceList {
            user: UserId([1; 32]),
        },
        Request::PutDeviceList {
            list: vec![1; 40].into(),
        },
        Request::PutKeyPackages {
            one_time: vec![vec![1; 30].into()],
            last_resort: Some(vec![2; 20].into()),
        },
        Request::ClaimKeyPackages {
            user: UserId([1; 32]),
            devices: vec![DeviceId([3; 16])],
        },
        Request::CreateGroup {
            group_info: vec![1; 50].into(),
            tree: vec![2; 50].into(),
            founded: conclave_proto::UnixMs(3),
        },
        Request::Propose {
            group,
            message: vec![1; 50].into(),
        },
        Request::PutEntry {
            entry: entry.clone(),
        },
        Request::CreateDocument {
            entry,
            snapshot: snapshot.clone(),
        },
        Request::PutSnapshot { record: snapshot },
        Request::SubscribeGroup { group, from: 1 },
        Request::OpenDocument {
            group,
            document,
            instance: ONE,
            from: Some(3),
        },
        Request::CloseDocument { channel: Varint(3) },
        Request::GetRecords {
            group,
            document,
            from: 0,
            count: 9,
        },
        Request::GetWraps { group, epoch: 1 },
        Request::GetGroupInfo { group },
        Request::AckWelcome { id: 5 },
        Request::GetStatus {
            group: GroupId([9; 16]),
        },
        Request::PutGroupInfo {
            group,
            group_info: vec![1; 60].into(),
        },
        Request::Ask {
            group,
            what: Plea::Wrap,
        },
        Request::GetMemberships,
    ];
    let id = Varint(7);
    requests
        .into_iter()
        .map(|body| encode(&ClientFrame::Request { id, body }))
        .collect()
}

/// A device of its own for hostile frames, which comes back whenever it is thrown out.
struct Hostile {
    person: Person,
    wire: Wire,
    thrown_out: usize,
}

impl Hostile {
    async fn new(scene: &Scene) -> Self {
        let person = Person::new();
        let wire = scene.process.login(&person).await;
        Self {
            person,
            wire,
            thrown_out: 0,
        }
    }

    /// Sends messages; either they were only refused, or the connection ends with a word. There is no third.
    async fn send(&mut self, scene: &Scene, messages: impl IntoIterator<Item = Vec<u8>>) {
        for message in messages {
            self.wire.send_raw(Message::Binary(message.into())).await;
        }
        let ping = encode(&ClientFrame::Ping);
        self.wire.send_raw(Message::Binary(ping.into())).await;
        loop {
            match self.wire.receive().await {
                Some(ServiceFrame::Pong) => return,
                Some(ServiceFrame::Goodbye { why, .. }) => {
                    assert!(matches!(
                        why,
                        Refusal::Malformed | Refusal::RateLimited { .. }
                    ));
                }
                Some(_) => {}
                None => break,
            }
        }
        self.thrown_out += 1;
        self.wire = scene.process.login(&self.person).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_changed_byte_by_byte_are_refused_or_end_their_connection() {
    let mut scene = Scene::set().await;
    let mut hostile = Hostile::new(&scene).await;
    let mut rng = ChaCha20Rng::from_seed([2; 32]);
    let mut sent = 0;
    for frame in frames(&scene) {
        // Every byte of what is short, a sample of what is long.
        let step = frame.len().div_ceil(60);
        for at in (0..frame.len()).step_by(step) {
            let mut flipped = frame.clone();
            flipped[at] ^= 1 << (rng.next_u32() % 8);
            let mut large = frame.clone();
            large[at] = 0xff;
            for changed in [flipped, large, frame[..at].to_vec()] {
                // Alone these two mean something else, which the next test is about.
                if matches!(changed.first(), Some(&(MORE | LAST))) {
                    continue;
                }
                hostile.send(&scene, [changed]).await;
                sent += 1;
            }
        }
        let longer = [&frame[..], &[0; 9]].concat();
        hostile.send(&scene, [longer]).await;
    }
    // An Append by somebody who has nothing open.
    let append = encode(&scene.pen.updates(2));
    scene.pen.restore((scene.written, scene.pen.last));
    for at in 0..append.len() {
        let mut changed = append.clone();
        changed[at] ^= 0x41;
        hostile.send(&scene, [changed]).await;
        sent += 1;
    }
    for _ in 0..300 {
        let mut bytes = noise(&mut rng, 3000);
        if let Some(first) = bytes.first_mut() {
            *first %= 12;
        }
        hostile.send(&scene, [bytes]).await;
        sent += 1;
    }
    assert!(sent > 2000, "{sent}");
    assert!(hostile.thrown_out > 200, "{}", hostile.thrown_out);
    let (_, pen) = scene
        .alice
        .open(scene.pen.document, ONE, Some(scene.written + 1))
        .await;
    scene.pen = pen;
    scene.goes_on().await;
    scene.end(SMALL_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_lie_or_never_end_are_cut_off() {
    let mut scene = Scene::set().await;
    let mut hostile = Hostile::new(&scene).await;
    // Nothing in it, a frame in between, a frame that is none at its end, a marker inside.
    for messages in [
        vec![vec![MORE]],
        vec![vec![MORE, 3, 1], vec![5]],
        vec![vec![MORE, 3, 1], vec![LAST, 77]],
        vec![vec![LAST, 77]],
        vec![vec![MORE, MORE], vec![LAST, LAST]],
        vec![vec![]],
        vec![vec![1; limits::WIRE_MESSAGE_BYTES + 1]],
    ] {
        let before = hostile.thrown_out;
        hostile.send(&scene, messages).await;
        assert_eq!(hostile.thrown_out, before + 1);
    }
    hostile.wire.send_raw(Message::Text("never".into())).await;
    assert_eq!(hostile.wire.goodbye().await, Refusal::Malformed);
    hostile.wire = scene.process.login(&hostile.person).await;
    // A frame that never ends is cut off at its limit, and its memory is free again: three times one after the other.
    let mut chunk = vec![7; limits::WIRE_MESSAGE_BYTES];
    chunk[0] = MORE;
    for _ in 0..3 {
        let count = limits::FRAME_BYTES / (limits::WIRE_MESSAGE_BYTES - 1) + 1;
        for _ in 0..count {
            hostile
                .wire
                .send_raw(Message::Binary(chunk.clone().into()))
                .await;
        }
        assert_eq!(hostile.wire.goodbye().await, Refusal::Malformed);
        hostile.wire = scene.process.login(&hostile.person).await;
        scene.goes_on().await;
    }
    scene.end(LARGE_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_chunks_take_nobodys_place() {
    let mut scene = Scene::set().await;
    let mut hostile = Hostile::new(&scene).await;
    // More messages than there are places for chunks.
    for _ in 0..conclave_ds::limits::UNFINISHED_CHUNKS + 100 {
        let message = Message::Binary(vec![MORE, 1].into());
        hostile.wire.send_raw(message).await;
    }
    // Before login there are no chunks at all.
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let mut wire = Wire::connect(&scene.process.url).await;
        wire.send_raw(Message::Binary(vec![MORE, 1].into())).await;
        waiting.push(wire);
    }
    for wire in &mut waiting {
        wire.ended().await;
    }
    // Somebody else's large frame passes meanwhile.
    let list = vec![1; 3 * limits::WIRE_MESSAGE_BYTES].into();
    let refused = scene
        .bob
        .wire
        .refused(Request::PutDeviceList { list })
        .await;
    assert!(matches!(refused, Refusal::TooLarge { .. }), "{refused:?}");
    scene.goes_on().await;
    scene.end(SMALL_BYTES);
}

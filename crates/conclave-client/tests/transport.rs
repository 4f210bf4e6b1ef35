//! The transport against small WebSocket services that behave well and badly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use conclave_client::Trouble;
use conclave_client::transport::{Backoff, Endpoint, Sender, Timing, Transport, Wire};
use conclave_proto::chunk::{Assembler, split};
use conclave_proto::codec::{Bytes, Varint, decode, encode};
use conclave_proto::frame::{Answer, ClientFrame, ServiceFrame};
use conclave_proto::{LifeToken, Refusal, UnixMs, limits};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

type Peer = WebSocketStream<TcpStream>;

/// No test may depend on a machine's speed: this only ends one that hangs.
const HANG: Duration = Duration::from_secs(60);

fn quick() -> Timing {
    Timing {
        backoff: Backoff {
            least_ms: 1,
            most_ms: 20,
        },
        ..Timing::default()
    }
}

async fn listener() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::parse(&format!("ws://{}", listener.local_addr().unwrap())).unwrap();
    (listener, endpoint)
}

async fn accept(listener: &TcpListener) -> Peer {
    let (peer, path) = accept_any(listener).await;
    assert_eq!(path, "/v1");
    peer
}

async fn accept_any(listener: &TcpListener) -> (Peer, String) {
    let (stream, _) = tokio::time::timeout(HANG, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let mut path = String::new();
    #[allow(clippy::result_large_err)]
    let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(&mut path);
        Ok(response)
    };
    let peer = accept_hdr_async(stream, note).await.unwrap();
    (peer, path)
}

/// The next that is told of a connection.
async fn next(transport: &mut Transport) -> Wire {
    loop {
        match tokio::time::timeout(HANG, transport.next())
            .await
            .unwrap()
            .unwrap()
        {
            Wire::Failed { .. } => {}
            other => return other,
        }
    }
}

async fn failed(transport: &mut Transport) -> Trouble {
    match tokio::time::timeout(HANG, transport.next())
        .await
        .unwrap()
        .unwrap()
    {
        Wire::Failed { cause, .. } => cause,
        other => panic!("not failed: {other:?}"),
    }
}

async fn up(transport: &mut Transport) -> Sender {
    match next(transport).await {
        Wire::Up(sender) => sender,
        other => panic!("not up: {other:?}"),
    }
}

async fn down(transport: &mut Transport) -> Trouble {
    match next(transport).await {
        Wire::Down { cause, .. } => cause,
        other => panic!("not down: {other:?}"),
    }
}

async fn frame(transport: &mut Transport) -> ServiceFrame {
    match next(transport).await {
        Wire::Frame(received) => *received.into_frame(),
        other => panic!("no frame: {other:?}"),
    }
}

async fn tell(peer: &mut Peer, frame: &ServiceFrame) {
    for message in split(encode(frame)) {
        peer.send(Message::binary(message)).await.unwrap();
    }
}

async fn heard(peer: &mut Peer, assembler: &mut Assembler) -> ClientFrame {
    loop {
        let message = tokio::time::timeout(HANG, peer.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(message.len() <= limits::WIRE_MESSAGE_BYTES);
        if let Message::Binary(bytes) = message
            && let Some(frame) = assembler.take(bytes.to_vec()).unwrap()
        {
            return decode("frame", &frame, limits::FRAME_BYTES).unwrap();
        }
    }
}

fn ready() -> ServiceFrame {
    ServiceFrame::Ready {
        now: UnixMs(1),
        key_packages: 0,
        last_resort: 0,
        life: 1,
        next: LifeToken::default(),
    }
}

fn hello(size: usize) -> ClientFrame {
    ClientFrame::Hello {
        versions: vec![1],
        credential: Bytes::from(vec![9; size]),
    }
}

#[tokio::test]
async fn frames_of_every_size_pass_in_order_both_ways() {
    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint, quick());
    let mut peer = accept(&listener).await;
    let sender = up(&mut transport).await;
    let mut assembler = Assembler::new(limits::FRAME_BYTES);
    let sizes = [
        0,
        1,
        limits::WIRE_MESSAGE_BYTES,
        3 * limits::WIRE_MESSAGE_BYTES + 5,
    ];
    for size in sizes {
        sender.room().await.unwrap().send(encode(&hello(size)));
    }
    for size in sizes {
        assert_eq!(heard(&mut peer, &mut assembler).await, hello(size));
    }
    for size in sizes {
        let told = ServiceFrame::Response {
            id: Varint(size as u64),
            answer: Answer::DeviceList {
                list: Bytes::from(vec![7; size]),
            },
        };
        tell(&mut peer, &told).await;
        assert_eq!(frame(&mut transport).await, told);
    }
}

#[tokio::test]
async fn a_lost_connection_is_told_and_made_again() {
    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint, quick());
    let mut first: Option<Sender> = None;
    for round in 0..4u32 {
        let mut peer = accept(&listener).await;
        let sender = up(&mut transport).await;
        tell(&mut peer, &ready()).await;
        assert_eq!(frame(&mut transport).await, ready());
        match round % 2 {
            0 => drop(peer),
            _ => peer.close(None).await.unwrap(),
        }
        down(&mut transport).await;
        first.get_or_insert(sender);
    }
    // What was meant for an old connection goes nowhere.
    assert!(first.unwrap().room().await.is_err());
}

/// A service need not guess whether a client that wants nothing more of it has gone.
#[tokio::test]
async fn a_connection_that_is_given_up_before_any_login_ends_with_a_close_frame() {
    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint, quick());
    let mut peer = accept(&listener).await;
    let _sender = up(&mut transport).await;
    transport.close().await;
    let last = tokio::time::timeout(HANG, peer.next()).await.unwrap();
    assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
}

#[tokio::test]
async fn a_service_that_is_not_there_yet_is_found_later() {
    let (listener, endpoint) = listener().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut transport = Transport::start(endpoint, quick());
    let refused = Trouble::Refused {
        address: address.to_string(),
    };
    assert_eq!(failed(&mut transport).await, refused);
    let listener = TcpListener::bind(address).await.unwrap();
    let _peer = accept(&listener).await;
    up(&mut transport).await;
}

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint, quick());
    let interrupted = vec![
        Message::binary(vec![0xfe, 1]),
        Message::binary(encode(&ready())),
    ];
    let endless = std::iter::repeat_n(
        Message::binary(vec![0xfe; limits::WIRE_MESSAGE_BYTES]),
        limits::FRAME_BYTES / limits::WIRE_MESSAGE_BYTES + 2,
    );
    let cases: Vec<(&str, Vec<Message>)> = vec![
        ("no frame", vec![Message::binary(vec![0x77; 40])]),
        (
            "trailing bytes",
            vec![Message::binary(
                [encode(&ServiceFrame::Pong), vec![0]].concat(),
            )],
        ),
        ("empty message", vec![Message::binary(vec![])]),
        ("text", vec![Message::text("hello")]),
        (
            "message too large",
            vec![Message::binary(vec![1; limits::WIRE_MESSAGE_BYTES + 1])],
        ),
        ("interrupted frame", interrupted),
        ("endless frame", endless.collect()),
    ];
    for (name, messages) in cases {
        let mut peer = accept(&listener).await;
        let _sender = up(&mut transport).await;
        for message in messages {
            // The other side may hang up before the last one.
            if peer.send(message).await.is_err() {
                break;
            }
        }
        let why = down(&mut transport).await.to_string();
        assert!(!why.is_empty() && !why.contains("hello"), "{name}: {why}");
    }
}

/// While one connection that is let in pings away, another one that is not says nothing but its login.
#[tokio::test]
async fn pings_begin_with_the_login_and_pongs_stay_below() {
    let timing = Timing {
        ping: Duration::from_millis(5),
        ..quick()
    };
    let (outside_listener, endpoint) = listener().await;
    let mut outside = Transport::start(endpoint, timing);
    let mut outside_peer = accept(&outside_listener).await;
    let outside_sender = up(&mut outside).await;

    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint, timing);
    let mut peer = accept(&listener).await;
    let _sender = up(&mut transport).await;
    let mut assembler = Assembler::new(limits::FRAME_BYTES);
    tell(&mut peer, &ready()).await;
    for _ in 0..5 {
        assert_eq!(heard(&mut peer, &mut assembler).await, ClientFrame::Ping);
        tell(&mut peer, &ServiceFrame::Pong).await;
    }
    outside_sender.room().await.unwrap().send(encode(&hello(3)));
    assert_eq!(heard(&mut outside_peer, &mut assembler).await, hello(3));

    let low = ServiceFrame::KeyPackagesLow { left: 3 };
    tell(&mut peer, &low).await;
    assert_eq!(frame(&mut transport).await, ready());
    assert_eq!(frame(&mut transport).await, low);
}

#[tokio::test]
async fn a_silent_service_is_given_up() {
    let (listener, endpoint) = listener().await;
    let timing = Timing {
        idle: Duration::from_millis(30),
        ..quick()
    };
    let mut transport = Transport::start(endpoint, timing);
    let _silent = accept(&listener).await;
    let _sender = up(&mut transport).await;
    let why = "the service fell silent".to_owned();
    assert_eq!(down(&mut transport).await, Trouble::Lost { why });
    let _again = accept(&listener).await;
    let _sender = up(&mut transport).await;
}

/// A service that never shakes hands does not hold the client for ever.
#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let (listener, endpoint) = listener().await;
    let timing = Timing {
        connect_timeout: Duration::from_millis(30),
        ..quick()
    };
    let mut transport = Transport::start(endpoint, timing);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(
            tokio::time::timeout(HANG, listener.accept())
                .await
                .unwrap()
                .unwrap(),
        );
        let cause = failed(&mut transport).await;
        assert!(matches!(cause, Trouble::TimedOut { .. }), "{cause:?}");
    }
}

/// Two clients of one service: while the one that was sent away for a while keeps quiet, the other comes back time after time.
#[tokio::test]
async fn a_goodbye_is_honoured() {
    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint.clone(), quick());
    let mut peer = accept(&listener).await;
    let _sender = up(&mut transport).await;
    let goodbye = ServiceFrame::Goodbye {
        why: Refusal::ShuttingDown,
        retry_after_ms: 300_000,
    };
    tell(&mut peer, &goodbye).await;
    assert_eq!(frame(&mut transport).await, goodbye);
    drop(peer);
    let busy = Trouble::Busy {
        code: "refused.shutting_down".to_owned(),
    };
    assert_eq!(down(&mut transport).await, busy);

    let other = format!("{}/other", endpoint.origin());
    let mut eager = Transport::start(Endpoint::parse(&other).unwrap(), quick());
    for _ in 0..50 {
        let (peer, path) = accept_any(&listener).await;
        assert_eq!(path, "/other/v1");
        let _sender = up(&mut eager).await;
        drop(peer);
        down(&mut eager).await;
    }
    drop(eager);
    // Only a nudge ends the pause.
    transport.connect_now();
    let mut path = String::new();
    while path != "/v1" {
        path = accept_any(&listener).await.1;
    }
    up(&mut transport).await;
}

#[tokio::test]
async fn closing_a_connection_here_is_told_like_any_other_loss() {
    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint, quick());
    let _peer = accept(&listener).await;
    drop(up(&mut transport).await);
    down(&mut transport).await;
    let mut peer = accept(&listener).await;
    // Dropping the sender writes what is queued, then closes.
    let sender = up(&mut transport).await;
    sender.room().await.unwrap().send(encode(&hello(8)));
    drop(sender);
    let mut assembler = Assembler::new(limits::FRAME_BYTES);
    assert_eq!(heard(&mut peer, &mut assembler).await, hello(8));
    assert!(matches!(peer.next().await, Some(Ok(Message::Close(_)))));
    down(&mut transport).await;
}

/// When nobody takes frames, the transport stops reading instead of collecting them. Two services send as fast as they can; only one is
/// listened to, so that the other has all the time in the world.
#[tokio::test]
async fn what_nobody_takes_is_left_with_the_service() {
    const FRAMES: usize = 2_000;
    let told = ServiceFrame::Response {
        id: Varint(1),
        answer: Answer::DeviceList {
            list: Bytes::from(vec![7; 200_000]),
        },
    };
    let mut services = Vec::new();
    for _ in 0..2 {
        let (listener, endpoint) = listener().await;
        let mut transport = Transport::start(endpoint, quick());
        let mut peer = accept(&listener).await;
        let sender = up(&mut transport).await;
        let (sent, bytes) = (Arc::new(AtomicUsize::new(0)), encode(&told));
        let counter = Arc::clone(&sent);
        let flood = tokio::spawn(async move {
            for _ in 0..FRAMES {
                peer.send(Message::binary(bytes.clone())).await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
            }
            peer
        });
        services.push((transport, sender, sent, flood));
    }
    let (mut heard, _heard_sender, ..) = services.remove(0);
    let (mut ignored, _ignored_sender, sent, flood) = services.remove(0);
    for _ in 0..FRAMES {
        assert_eq!(frame(&mut heard).await, told);
    }
    // The queue holds 64 frames, the operating system some megabytes more.
    let taken = sent.load(Ordering::SeqCst);
    assert!(taken < FRAMES / 4, "{taken} frames were taken in");
    // Nothing of it is lost, in the end.
    for _ in 0..FRAMES {
        assert_eq!(frame(&mut ignored).await, told);
    }
    flood.await.unwrap();
}

/// Without a cryptography provider, the TLS library panics on its first connection, which would end the transport.
#[tokio::test]
async fn a_service_without_tls_is_no_reason_to_stop() {
    let (listener, endpoint) = listener().await;
    let secure = endpoint.origin().replace("ws://", "wss://");
    let mut transport = Transport::start(Endpoint::parse(&secure).unwrap(), quick());
    for _ in 0..3 {
        drop(
            tokio::time::timeout(HANG, listener.accept())
                .await
                .unwrap()
                .unwrap(),
        );
        let cause = failed(&mut transport).await;
        // A machine without root certificates ends it on this side.
        assert!(
            matches!(cause, Trouble::Tls { .. } | Trouble::NoRoots),
            "{cause:?}"
        );
    }
}

#[tokio::test]
async fn dropping_the_transport_closes_the_connection() {
    let (listener, endpoint) = listener().await;
    let mut transport = Transport::start(endpoint, quick());
    let mut peer = accept(&listener).await;
    let _sender = up(&mut transport).await;
    drop(transport);
    let ended = tokio::time::timeout(HANG, peer.next()).await.unwrap();
    assert!(matches!(
        ended,
        None | Some(Err(_)) | Some(Ok(Message::Close(_)))
    ));
}

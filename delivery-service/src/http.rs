//! The service's HTTP face: the WebSocket, and whether it is alive and ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use conclave_order::Op;
use conclave_order::op::upkeep::Probe;
use conclave_proto::{Refusal, limits as wire};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::connection;
use crate::limits;
use crate::listener::Trusted;
use crate::shared::Shared;

/// How long the answer to a readiness probe holds: probing writes, and anybody may ask.
const PROBE_HOLDS: Duration = Duration::from_secs(1);
/// How long a probing write may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Face {
    shared: Arc<Shared>,
    probe: Arc<Mutex<Option<(Instant, StatusCode)>>>,
}

/// The routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let face = Face {
        shared,
        probe: Arc::default(),
    };
    Router::new()
        .route("/v1", get(upgrade))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(face)
}

async fn upgrade(
    State(face): State<Face>,
    ConnectInfo(trusted): ConnectInfo<Trusted>,
    headers: HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    // Any page that somebody visits can open a socket from their browser, also to a service that only their machine reaches.
    let page = headers.get(header::ORIGIN);
    if page.is_some_and(|page| !is_allowed(&face.shared.pages, page.as_bytes())) {
        return (StatusCode::FORBIDDEN, "this page may not connect\n").into_response();
    }
    // Never past its own bound: one message, and what was gathered before it.
    let write_max = 2 * (wire::WIRE_MESSAGE_BYTES + limits::SOCKET_WRITE_BYTES);
    let shared = face.shared;
    socket
        .read_buffer_size(limits::SOCKET_READ_BYTES)
        .write_buffer_size(limits::SOCKET_WRITE_BYTES)
        .max_write_buffer_size(write_max)
        .max_message_size(wire::WIRE_MESSAGE_BYTES)
        .max_frame_size(wire::WIRE_MESSAGE_BYTES)
        .on_upgrade(move |socket| async move {
            let connections = shared.connections.clone();
            connections
                .track_future(connection::serve(socket, shared, trusted))
                .await;
        })
}

fn is_allowed(pages: &[String], page: &[u8]) -> bool {
    pages.iter().any(|allowed| allowed.as_bytes() == page)
}

/// Ready means: a write becomes durable, and there is room for more.
async fn ready(State(face): State<Face>) -> (StatusCode, &'static str) {
    let mut probe = face.probe.lock().await;
    let known = probe.as_ref().filter(|(at, _)| at.elapsed() < PROBE_HOLDS);
    let status = match known {
        Some((_, status)) => *status,
        None => {
            let status = write_probe(&face.shared).await;
            *probe = Some((Instant::now(), status));
            status
        }
    };
    let text = if status == StatusCode::OK {
        "ready\n"
    } else {
        "not ready\n"
    };
    (status, text)
}

async fn write_probe(shared: &Shared) -> StatusCode {
    let now = shared.env.clock.now();
    let probe = async {
        shared.env.writer.own(Op::Probe(Probe { now })).await?;
        let room = shared.env.reads.has_room().await;
        room.map_err(|_| Refusal::Storage)
    };
    match timeout(PROBE_TIMEOUT, probe).await {
        Ok(Ok(true)) => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

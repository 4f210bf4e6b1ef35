//! The service's HTTP face: the WebSocket, and whether it is alive and ready.

use std::net::{IpAddr, SocketAddr};
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

use crate::addresses::{Held, Place};
use crate::connection;
use crate::limits;
use crate::listener::{Peer, Standing};
use crate::shared::Shared;

/// Where a proxy says whom it stands for.
const FORWARDED_FOR: &str = "x-forwarded-for";
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
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    socket: WebSocketUpgrade,
) -> Response {
    // Any page that somebody visits can open a socket from their browser, also to a service that only their machine reaches.
    let page = headers.get(header::ORIGIN);
    if page.is_some_and(|page| !is_allowed(&face.shared.pages, page.as_bytes())) {
        return (StatusCode::FORBIDDEN, "this page may not connect\n").into_response();
    }
    let Ok(held) = place(&face.shared, &peer, &headers) else {
        let retry = [(header::RETRY_AFTER, limits::CROWDED_RETRY_S.to_string())];
        let text = "this address has too many connections\n";
        return (StatusCode::TOO_MANY_REQUESTS, retry, text).into_response();
    };
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
                .track_future(connection::serve(socket, shared, peer.trusted))
                .await;
            drop(held);
        })
}

/// There are too many connections from there.
struct Crowded;

/// A place for a connection where it comes from, held for as long as it lasts; none where the listener holds it.
fn place(shared: &Shared, peer: &Peer, headers: &HeaderMap) -> Result<Option<Held>, Crowded> {
    let proxy = match peer.standing {
        Standing::Direct => return Ok(None),
        Standing::Crowded => return Err(Crowded),
        Standing::Proxied(proxy) => proxy,
    };
    // What it does not say counts for the proxy itself.
    let address = forwarded(headers).unwrap_or(proxy);
    match shared.addresses.take(address) {
        Place::Free(held) => Ok(Some(held)),
        Place::Told(_) | Place::Closed => Err(Crowded),
    }
}

/// Whom a proxy stands for: what it added itself is at the end, whatever it was given before that.
fn forwarded(headers: &HeaderMap) -> Option<IpAddr> {
    let last = headers.get_all(FORWARDED_FOR).iter().next_back()?;
    let last = last.to_str().ok()?.rsplit(',').next()?.trim();
    let plain = last.trim_start_matches('[').trim_end_matches(']');
    let parsed = plain.parse().ok();
    parsed.or_else(|| {
        last.parse()
            .ok()
            .map(|with_port: SocketAddr| with_port.ip())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_added_is_the_last() {
        let cases = [
            (&["10.0.0.1"][..], Some("10.0.0.1")),
            (&["1.2.3.4, 10.0.0.1"], Some("10.0.0.1")),
            (&["1.2.3.4", "10.0.0.2:5000"], Some("10.0.0.2")),
            (&["[2001:db8::1]:5000"], Some("2001:db8::1")),
            (&["[2001:db8::1]"], Some("2001:db8::1")),
            (&["10.0.0.1, somebody"], None),
            (&[""], None),
            (&[], None),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, value.parse().unwrap());
            }
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(forwarded(&headers), expected, "{values:?}");
        }
    }
}

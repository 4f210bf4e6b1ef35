//! One address does not take the places of all others.

use conclave_ds::limits::CONNECTIONS_SPARE;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::{self, Error};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::harness::TestService;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects, as if it came through a proxy that says this.
async fn connect(service: &TestService, forwarded: Option<&str>) -> Result<Socket, Error> {
    let mut request = service.url().into_client_request().unwrap();
    if let Some(forwarded) = forwarded {
        let headers = request.headers_mut();
        headers.insert("x-forwarded-for", forwarded.parse().unwrap());
    }
    let connected = tokio_tungstenite::connect_async(request).await;
    connected.map(|(socket, _)| socket)
}

fn is_crowded(result: Result<Socket, Error>) -> bool {
    let Err(tungstenite::Error::Http(response)) = result else {
        return false;
    };
    response.status() == StatusCode::TOO_MANY_REQUESTS
        && response.headers().contains_key("retry-after")
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_is_told_so() {
    let service = TestService::with(|config| config.limits.connections_per_address = 2).await;
    let _one = connect(&service, None).await.unwrap();
    let two = connect(&service, None).await.unwrap();
    assert!(is_crowded(connect(&service, None).await));
    // Whoever is no proxy that was named says in vain that it is somebody else.
    assert!(is_crowded(connect(&service, Some("10.0.0.1")).await));
    drop(two);
    while connect(&service, None).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn behind_a_proxy_the_address_that_it_adds_counts() {
    let service = TestService::with(|config| {
        config.limits.connections_per_address = 1;
        config.proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let mut sockets = Vec::new();
    for address in ["10.0.0.1", "10.0.0.2", "2001:db8:0:1::1", "2001:db8:0:2::1"] {
        sockets.push(connect(&service, Some(address)).await.unwrap());
        assert!(is_crowded(connect(&service, Some(address)).await));
    }
    // What the client itself wrote there stands before it; and a network of 64 bits is one.
    for address in ["10.9.9.9, 10.0.0.1", "2001:db8:0:1:ffff::2"] {
        assert!(is_crowded(connect(&service, Some(address)).await));
    }
}

#[tokio::test]
async fn connections_that_say_nothing_count_too() {
    let service = TestService::with(|config| config.limits.connections_per_address = 1).await;
    let address = service.url();
    let address = address
        .trim_start_matches("ws://")
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let mut silent = Vec::new();
    for _ in 0..=CONNECTIONS_SPARE {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    // The service takes them in the order in which they came: when this one is closed, it has taken all.
    let mut last = TcpStream::connect(&address).await.unwrap();
    assert!(matches!(last.read(&mut [0]).await, Ok(0) | Err(_)));
    drop(silent);
    while connect(&service, None).await.is_err() {
        tokio::task::yield_now().await;
    }
}

//! Why the service is not reached: each cause by its name, at once where it is known, and tried again all the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::time::Duration;

use conclave_client::proto::codec::encode;
use conclave_client::proto::frame::ServiceFrame;
use conclave_client::proto::refusal::ForbiddenWhy;
use conclave_client::proto::{RealmId, Refusal, UnixMs};
use conclave_client::store::PassphraseCost;
use conclave_client::transport::{Backoff, Timing};
use conclave_client::{Client, Config, Connection, Event, Operation, Outcome, Setup, Trouble, run};
use conclave_testkit::peers::{Certificate, Peer, nobody};
use futures_util::SinkExt as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

/// Only ends a test that hangs.
const HANG: Duration = Duration::from_secs(60);

fn quick() -> Timing {
    let backoff = Backoff {
        least_ms: 1,
        most_ms: 20,
    };
    Timing {
        backoff,
        ..Timing::default()
    }
}

/// Pauses that no test lives to see the end of.
fn patient() -> Timing {
    let backoff = Backoff {
        least_ms: u64::MAX / 2,
        most_ms: u64::MAX / 2,
    };
    Timing {
        backoff,
        ..Timing::default()
    }
}

async fn device(folder: &TempDir, url: &str, timing: Timing, enrolled: bool) -> Client {
    let config = Config::new(folder.path().join("store"), url)
        .passphrase("right")
        .passphrase_cost(PassphraseCost::insecure_for_tests())
        .timing(timing);
    let (name, realm) = ("Ana".to_owned(), RealmId::ZERO);
    let setup = match enrolled {
        true => Setup::NewUser { name, realm },
        false => Setup::NewDevice { name, realm },
    };
    Client::create(config, setup).await.unwrap()
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, wait).await.expect("it hangs")
}

async fn cause(url: &str, timing: Timing) -> Trouble {
    let folder = TempDir::new().unwrap();
    let client = device(&folder, url, timing, true).await;
    let connection = within(client.reach()).await.unwrap();
    assert_eq!(client.status().await.unwrap().connection, connection);
    let trouble = connection.trouble().cloned().expect("it is in trouble");
    client.close().await.unwrap();
    trouble
}

#[tokio::test]
async fn what_answers_in_place_of_the_service_is_named() {
    let cases = [
        (200, None, "connection.web_page"),
        (
            302,
            Some("https://login.example/a?b=c"),
            "connection.redirect",
        ),
        (401, None, "connection.login_wanted"),
        (404, None, "connection.no_such_page"),
        (407, None, "connection.proxy_login"),
        (502, None, "connection.gateway"),
        (500, None, "connection.http"),
    ];
    for (status, location, code) in cases {
        let peer = Peer::http(status, location);
        let trouble = cause(&peer.url("ws"), patient()).await;
        assert_eq!(trouble.code(), code);
        let target = location.map(|_| "https://login.example".to_owned());
        assert_eq!(trouble, Trouble::Http { status, target });
    }
    let noise = Peer::noise();
    let trouble = cause(&noise.url("ws"), patient()).await;
    assert_eq!(trouble.code(), "connection.not_a_service");
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_named() {
    let address = nobody();
    let refused = cause(&format!("ws://{address}"), patient()).await;
    let address = address.to_string();
    assert_eq!(refused, Trouble::Refused { address });
    let unknown = cause("ws://nobody.invalid:7700", patient()).await;
    assert_eq!(unknown.code(), "connection.unknown_host");
    let silent = Peer::silent();
    let timing = Timing {
        connect_timeout: Duration::from_millis(30),
        ..patient()
    };
    let late = cause(&silent.url("ws"), timing).await;
    assert_eq!(late.code(), "connection.timed_out");
}

/// This system does not trust the peer's authority; what other certificates look like where it does is tried through the command line,
/// whose environment can name that authority.
#[tokio::test]
async fn a_connection_that_is_not_secure_is_named() {
    let peer = Peer::tls(Certificate::Good);
    let untrusted = cause(&peer.url("wss"), patient()).await;
    let plain = Peer::noise();
    let not_tls = cause(&plain.url("wss"), patient()).await;
    // A machine without root certificates does not get so far.
    if untrusted != Trouble::NoRoots {
        assert_eq!(untrusted.code(), "connection.certificate_unknown_issuer");
        assert_eq!(not_tls.code(), "connection.not_tls");
    }
}

/// A service that shakes hands and says goodbye, again and again.
async fn sent_away(why: Refusal) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut peer) = accept_async(stream).await else {
                continue;
            };
            let goodbye = ServiceFrame::Goodbye {
                why: why.clone(),
                retry_after_ms: 0,
            };
            let _ = peer.send(Message::binary(encode(&goodbye))).await;
            let _ = peer.close(None).await;
        }
    });
    url
}

#[tokio::test]
async fn a_service_that_does_not_let_the_device_in_is_asked_why() {
    let forbidden = |why| Refusal::Forbidden { why };
    let cases = [
        (
            forbidden(ForbiddenWhy::NotAdmitted),
            "connection.not_admitted",
        ),
        (
            forbidden(ForbiddenWhy::WrongOrigin),
            "connection.wrong_origin",
        ),
        (forbidden(ForbiddenWhy::CertificateTime), "connection.clock"),
        (forbidden(ForbiddenWhy::DeviceRevoked), "connection.revoked"),
        (
            Refusal::UpgradeNeeded { minimum: 9 },
            "connection.upgrade_needed",
        ),
        (Refusal::Unauthenticated, "connection.credential"),
    ];
    for (why, code) in cases {
        let url = sent_away(why).await;
        assert_eq!(cause(&url, patient()).await.code(), code);
    }
}

#[tokio::test]
async fn a_device_that_is_not_enrolled_says_so_and_does_not_wait() {
    let url = sent_away(Refusal::ShuttingDown).await;
    let folder = TempDir::new().unwrap();
    let client = device(&folder, &url, quick(), false).await;
    for _ in 0..3 {
        let connection = within(client.reach()).await.unwrap();
        assert_eq!(connection.trouble(), Some(&Trouble::NotEnrolled));
    }
    client.close().await.unwrap();
}

/// The pauses would be endless: only an attempt that is asked for is made, and its answer is the present one.
#[tokio::test]
async fn who_asks_gets_the_answer_of_a_new_attempt() {
    let peer = Peer::http(502, None);
    let folder = TempDir::new().unwrap();
    let client = device(&folder, &peer.url("ws"), patient(), true).await;
    let first = within(client.reach()).await.unwrap();
    // One, or two where the client's own first attempt had ended before it was asked.
    let before = peer.seen();
    let again = within(client.reach()).await.unwrap();
    assert_eq!(peer.seen(), before + 1);
    let since = |connection: &Connection| match connection {
        Connection::Trouble { since, .. } => *since,
        other => panic!("{other:?}"),
    };
    assert_eq!(since(&first), since(&again));
    // As plain data too, as another process asks; a limit that is over answers with what is known.
    let outcome = run(&client, Operation::Reach { limit_ms: Some(0) }).await;
    assert!(matches!(
        outcome.unwrap(),
        Outcome::Connection(Connection::Trouble { .. })
    ));
    let outcome = run(&client, Operation::Trouble).await.unwrap();
    assert!(matches!(outcome, Outcome::Connection(_)));
    client.close().await.unwrap();
}

#[tokio::test]
async fn trouble_is_told_once_and_tried_again_by_itself() {
    let peer = Peer::http(503, None);
    let folder = TempDir::new().unwrap();
    let client = device(&folder, &peer.url("ws"), quick(), true).await;
    let mut events = client.events();
    let status = within(async {
        while peer.seen() < 5 {
            client.reach().await.unwrap();
        }
        client.status().await.unwrap()
    })
    .await;
    assert!(!status.online);
    let next = match status.connection {
        Connection::Trouble { next_try, .. } => next_try,
        other => panic!("{other:?}"),
    };
    assert!(next.is_some_and(|at| at > UnixMs(0)));
    client.close().await.unwrap();
    let mut told = Vec::new();
    while let Some(event) = within(events.next()).await {
        if let Event::Trouble { trouble } = event {
            told.push(trouble);
        }
    }
    // The first one may have come before anybody listened.
    assert!(told.len() <= 1, "{told:?}");
}

#[tokio::test]
async fn a_client_without_a_service_is_in_no_trouble() {
    let folder = TempDir::new().unwrap();
    let config = Config::offline(folder.path().join("store"))
        .passphrase("right")
        .passphrase_cost(PassphraseCost::insecure_for_tests());
    let setup = Setup::NewUser {
        name: "Ana".to_owned(),
        realm: RealmId::ZERO,
    };
    let client = Client::create(config, setup).await.unwrap();
    assert_eq!(within(client.reach()).await.unwrap(), Connection::Unused);
    client.close().await.unwrap();
}

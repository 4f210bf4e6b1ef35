//! Logging in, and who may not.

use conclave_ds::{Admission, Invitations, Recovery, Service};
use conclave_order::rows::STORED_VERSION;
use conclave_proto::codec::encode;
use conclave_proto::frame::{
    Answer, ClientFrame, LOGIN_LABEL, LoginStatement, Request, ServiceFrame,
};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{GroupPolicy, Refusal};
use sqlx::{Connection as _, SqliteConnection};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::harness::{Person, TestService};

const REVOKED: Refusal = Refusal::Forbidden {
    why: ForbiddenWhy::DeviceRevoked,
};
const NOT_ADMITTED: Refusal = Refusal::Forbidden {
    why: ForbiddenWhy::NotAdmitted,
};

#[tokio::test]
async fn a_device_logs_in_and_learns_its_stock() {
    let service = TestService::start().await;
    let mut member = service.member().await;
    member.publish_key_packages(3, true).await;
    member.wire = service.wire().await;
    let ready = member
        .wire
        .login(&member.device, &service.origin(), None)
        .await
        .unwrap();
    assert_eq!((ready.key_packages, ready.last_resort), (3, 1));
    member.wire.ping().await;
}

#[tokio::test]
async fn another_origin_is_refused_though_it_is_signed() {
    let service = TestService::start().await;
    let person = Person::new();
    let mut wire = service.wire().await;
    let refused = wire
        .login(&person.devices[0], "wss://evil.example", None)
        .await;
    let wrong_origin = Refusal::Forbidden {
        why: ForbiddenWhy::WrongOrigin,
    };
    assert_eq!(refused.unwrap_err(), wrong_origin);
    wire.ended().await;
}

#[tokio::test]
async fn a_signature_for_another_nonce_is_refused() {
    let service = TestService::start().await;
    let person = Person::new();
    let device = &person.devices[0];
    let mut first = service.wire().await;
    let (nonce, service_key) = first.hello(device).await.unwrap();
    let statement = LoginStatement {
        nonce,
        origin: service.origin().as_bytes().into(),
        service_key,
        device: device.id,
        life: 0,
        life_token: conclave_proto::LifeToken::default(),
        take_over: 0,
    };
    let signature = device.key().sign(LOGIN_LABEL, &encode(&statement));
    let mut second = service.wire().await;
    second.hello(device).await.unwrap();
    let replayed = second
        .finish_login(&service.origin(), signature, None)
        .await;
    assert_eq!(replayed.unwrap_err(), Refusal::Unauthenticated);
    // Where it belongs it is good.
    first
        .finish_login(&service.origin(), signature, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stolen_credential_is_worthless_without_its_key() {
    let service = TestService::start().await;
    let person = Person::new();
    let thief = person.devices[0].with_foreign_key();
    let refused = service
        .wire()
        .await
        .login(&thief, &service.origin(), None)
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::Unauthenticated);
}

#[tokio::test]
async fn a_device_id_cannot_be_taken_over_by_another_user() {
    let service = TestService::start().await;
    let victim = service.member().await;
    let mut squatter = Person::new();
    let mut device = squatter.add_device();
    // Certified by the squatter's own key under the victim's id.
    device.credential.certificate.device = victim.device.id;
    let refused = service
        .wire()
        .await
        .login(&device, &service.origin(), None)
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::Unauthenticated);
}

#[tokio::test]
async fn an_unknown_version_is_told_what_works() {
    let service = TestService::start().await;
    let person = Person::new();
    // One of before, and one of later.
    let minimum = PROTOCOL_VERSION;
    for versions in [
        vec![minimum - 1],
        vec![minimum + 1],
        vec![minimum + 2, 999],
        vec![],
    ] {
        let mut wire = service.wire().await;
        wire.send(&ClientFrame::Hello {
            versions,
            credential: person.devices[0].credential.to_bytes().into(),
        })
        .await;
        assert_eq!(wire.goodbye().await, Refusal::UpgradeNeeded { minimum });
    }
}

#[tokio::test]
async fn a_revoked_device_is_cut_off_and_stays_out() {
    let service = TestService::start().await;
    let mut person = Person::new();
    let phone = person.add_device();
    let mut laptop = service.member_of(&person, 0).await;
    let mut lost = service.member_of(&person, 1).await;
    lost.publish_key_packages(2, true).await;
    let list = person.list.to_bytes().into();
    assert_eq!(
        laptop.wire.request(Request::PutDeviceList { list }).await,
        Answer::Done
    );
    person.revoke(phone.id);
    let list = person.list.to_bytes().into();
    assert_eq!(
        laptop.wire.request(Request::PutDeviceList { list }).await,
        Answer::Done
    );

    assert_eq!(lost.wire.goodbye().await, REVOKED);
    let again = service
        .wire()
        .await
        .login(&phone, &service.origin(), None)
        .await;
    assert_eq!(again.unwrap_err(), REVOKED);
    assert!(
        laptop.claim(person.user()).await.is_empty(),
        "its key packages are gone"
    );
}

#[tokio::test]
async fn device_lists_only_go_forward() {
    let service = TestService::start().await;
    let mut person = Person::new();
    let mut laptop = service.member_of(&person, 0).await;
    let first = person.list.to_bytes();
    person.add_device();
    let second = person.list.to_bytes();
    let put = |list: &[u8]| Request::PutDeviceList { list: list.into() };
    assert_eq!(laptop.wire.request(put(&second)).await, Answer::Done);
    assert_eq!(
        laptop.wire.request(put(&second)).await,
        Answer::Done,
        "again is fine"
    );
    assert_eq!(
        laptop.wire.refused(put(&first)).await,
        Refusal::StaleDeviceList { newest: 2 }
    );
    let user = person.user();
    let stored = laptop.wire.request(Request::GetDeviceList { user }).await;
    assert_eq!(
        stored,
        Answer::DeviceList {
            list: second.clone().into()
        }
    );

    let mut forged = person.list.clone();
    forged.signature[0] ^= 1;
    assert_eq!(
        laptop.wire.refused(put(&forged.to_bytes())).await,
        Refusal::BadIdentity
    );
    let other = Person::new();
    let foreign = laptop.wire.refused(put(&other.list.to_bytes())).await;
    assert_eq!(
        foreign,
        Refusal::Forbidden {
            why: ForbiddenWhy::NotYours
        }
    );
    let user = other.user();
    assert_eq!(
        laptop.wire.refused(Request::GetDeviceList { user }).await,
        Refusal::UnknownUser
    );
}

#[tokio::test]
async fn siblings_hear_of_a_new_list_and_of_a_new_device() {
    let service = TestService::start().await;
    let mut person = Person::new();
    let mut laptop = service.member_of(&person, 0).await;
    person.add_device();
    let list = person.list.to_bytes().into();
    laptop.wire.request(Request::PutDeviceList { list }).await;
    let user = person.user();
    let notice = |frame: &ServiceFrame| {
        matches!(frame, ServiceFrame::DeviceListChanged { user: of } if *of == user).then_some(())
    };
    laptop.wire.until(notice).await;
    let mut phone = service.member_of(&person, 1).await;
    phone.publish_key_packages(1, true).await;
    laptop.wire.until(notice).await;
    // Only the first time: siblings have seen it.
    phone.publish_key_packages(1, false).await;
    laptop.wire.ping().await;
    assert!(!laptop.wire.kept().any(|frame| notice(frame).is_some()));
}

/// What stands beside a service that runs is of its version, or leaves it alone.
#[tokio::test]
async fn invitations_leave_the_schema_of_a_running_service_alone() {
    let service = TestService::start().await;
    let invitations = Invitations::of(service.dir.path());
    assert!(invitations.list().await.unwrap().is_empty());
    // As if a service of an older version ran.
    let file = service.dir.path().join("service.sqlite");
    let mut database = SqliteConnection::connect(&format!("sqlite:{}", file.display()))
        .await
        .unwrap();
    let older = STORED_VERSION - 1;
    let mark = format!("PRAGMA user_version = {older}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(mark))
        .execute(&mut database)
        .await
        .unwrap();
    let refused = invitations.create(1, 60_000).await.unwrap_err();
    assert_eq!(refused.code(), "store.older_schema", "{refused}");
    let (found,): (u32,) = sqlx::query_as("PRAGMA user_version")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(found, older);
    assert!(
        refused.to_string().contains(&format!("schema {found}")),
        "{refused}"
    );
}

#[tokio::test]
async fn invitations_admit_one_account_once() {
    let service = TestService::with(|config| config.admission = Admission::Invitation).await;
    let invitations = Invitations::of(service.dir.path());
    let new = invitations.create(1, 60_000).await.unwrap();
    let origin = service.origin();
    let mut person = Person::new();
    let device = person.devices[0].clone();

    let without = service.wire().await.login(&device, &origin, None).await;
    assert_eq!(without.unwrap_err(), NOT_ADMITTED);
    let wrong = service
        .wire()
        .await
        .login(&device, &origin, Some("wrong"))
        .await;
    assert_eq!(wrong.unwrap_err(), NOT_ADMITTED);
    service
        .wire()
        .await
        .login(&device, &origin, Some(&new.token))
        .await
        .unwrap();
    // The account exists: neither it nor its user's further devices need a token.
    service
        .wire()
        .await
        .login(&device, &origin, None)
        .await
        .unwrap();
    let phone = person.add_device();
    service
        .wire()
        .await
        .login(&phone, &origin, None)
        .await
        .unwrap();

    let stranger = Person::new();
    let used = service
        .wire()
        .await
        .login(&stranger.devices[0], &origin, Some(&new.token))
        .await;
    assert_eq!(used.unwrap_err(), NOT_ADMITTED);
    let expired = invitations.create(1, 0).await.unwrap();
    let late = service
        .wire()
        .await
        .login(&stranger.devices[0], &origin, Some(&expired.token))
        .await;
    assert_eq!(late.unwrap_err(), NOT_ADMITTED);
    let revoked = invitations.create(1, 60_000).await.unwrap();
    assert!(invitations.revoke(&revoked.invitation.id).await.unwrap());
    let gone = service
        .wire()
        .await
        .login(&stranger.devices[0], &origin, Some(&revoked.token))
        .await;
    assert_eq!(gone.unwrap_err(), NOT_ADMITTED);
    let listed = invitations.list().await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|invitation| invitation.uses_left)
            .sum::<u64>(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_admits_one_of_many_at_once() {
    let service = TestService::with(|config| config.admission = Admission::Invitation).await;
    let token = Invitations::of(service.dir.path())
        .create(1, 60_000)
        .await
        .unwrap()
        .token;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (mut wire, origin, token) = (service.wire().await, service.origin(), token.clone());
        tasks.spawn(async move {
            let person = Person::new();
            wire.login(&person.devices[0], &origin, Some(&token))
                .await
                .is_ok()
        });
    }
    let admitted = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|admitted| *admitted)
        .count();
    assert_eq!(admitted, 1);
}

#[tokio::test]
async fn a_directory_is_served_by_one_process() {
    let service = TestService::start().await;
    let second = Service::start(service.config()).await;
    assert_eq!(second.unwrap_err().code(), "store.in_use");
}

/// What another version wrote is left alone, and whoever starts the service is told the way out.
#[tokio::test]
async fn a_database_of_another_version_is_refused() {
    let mut service = TestService::start().await;
    let mut alice = service.member().await;
    alice.create_group(GroupPolicy::default()).await;
    service.stop().await;
    let path = service.dir.path().join("service.sqlite");
    let url = format!("sqlite:{}", path.display());
    for (version, code, way_out) in [
        (
            STORED_VERSION - 1,
            "store.older_schema",
            "conclave doc export",
        ),
        (
            STORED_VERSION + 1,
            "store.newer_schema",
            "update the program",
        ),
    ] {
        let mut database = SqliteConnection::connect(&url).await.unwrap();
        let mark = format!("PRAGMA user_version = {version}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(mark))
            .execute(&mut database)
            .await
            .unwrap();
        drop(database);
        let error = Service::start(service.config()).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(!error.is_retryable());
        let said = error.to_string();
        assert!(said.contains(way_out), "{said}");
        assert!(
            said.contains(&format!("schema {version}, this one has {STORED_VERSION}")),
            "{said}"
        );
        let mut database = SqliteConnection::connect(&url).await.unwrap();
        let (kept, groups): (u32, u32) = sqlx::query_as(
            "SELECT (SELECT user_version FROM pragma_user_version), (SELECT COUNT(*) FROM groups)",
        )
        .fetch_one(&mut database)
        .await
        .unwrap();
        assert_eq!((kept, groups), (version, 1));
    }
}

#[tokio::test]
async fn rubbish_before_login_ends_the_connection() {
    let service = TestService::start().await;
    let big = vec![1; conclave_proto::limits::UNAUTHENTICATED_FRAME_BYTES + 1];
    let huge = vec![1; 8 * 1024 * 1024];
    for message in [
        Message::Binary(vec![].into()),
        Message::Binary(vec![0xff; 40].into()),
        Message::Binary(big.into()),
        Message::Binary(huge.into()),
        Message::Text("hello".into()),
    ] {
        let mut wire = service.wire().await;
        wire.send_raw(message).await;
        wire.ended().await;
    }
    service.member().await.wire.ping().await;
}

#[tokio::test]
async fn who_says_nothing_is_cut_off() {
    let service = TestService::with(|config| config.limits.handshake_ms = 200).await;
    let mut silent = service.wire().await;
    silent.ended().await;
    // So is who never finishes its HTTP request.
    let address = service.url().replace("ws://", "").replace("/v1", "");
    let mut half = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut half, b"GET /v1 HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut half, &mut rest).await;
}

/// One connection for each device: the older is closed before the newer is answered.
#[tokio::test]
async fn a_newer_connection_of_a_device_ends_the_older() {
    let service = TestService::start().await;
    let person = Person::new();
    let mut first = service.login(&person.devices[0]).await;
    let mut other = service.login(&Person::new().devices[0]).await;
    let mut second = service.login(&person.devices[0]).await;
    assert!(matches!(first.goodbye().await, Refusal::OtherLife { .. }));
    second.ping().await;
    other.ping().await;
}

#[tokio::test]
async fn stopping_says_goodbye_and_frees_the_directory() {
    let mut service = TestService::start().await;
    let mut member = service.member().await;
    service.restart().await;
    assert_eq!(member.wire.goodbye().await, Refusal::ShuttingDown);
    member.reconnect(&service).await;
    member.wire.ping().await;
}

#[tokio::test]
async fn health_is_served() {
    let service = TestService::start().await;
    for (path, wanted) in [("/livez", "200"), ("/readyz", "200"), ("/nothing", "404")] {
        let address = service.url().replace("ws://", "").replace("/v1", "");
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
            .await
            .unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {wanted}")),
            "{path}: {answer}"
        );
    }
}

/// A page that somebody visits opens a socket from their browser, which names the page. What is no browser names none.
#[tokio::test]
async fn only_pages_that_are_allowed_open_a_socket() {
    let app = "https://app.example";
    let service = TestService::with(move |config| config.pages = vec![app.to_owned()]).await;
    let cases = [
        (None, true),
        (Some(app), true),
        (Some("https://evil.example"), false),
        (Some("https://app.example.evil.example"), false),
        (Some("null"), false),
    ];
    for (page, lets_in) in cases {
        let mut request = service.url().into_client_request().unwrap();
        if let Some(page) = page {
            request
                .headers_mut()
                .insert("origin", page.parse().unwrap());
        }
        let answer = tokio_tungstenite::connect_async(request).await;
        match answer {
            Ok(_) => assert!(lets_in, "{page:?}"),
            Err(tungstenite::Error::Http(response)) => {
                assert!(!lets_in, "{page:?}");
                assert_eq!(response.status(), 403);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// A mistyped folder does not become a service of its own.
#[tokio::test]
async fn commands_make_no_database() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("typo");
    let refused = Invitations::of(&folder)
        .create(1, 60_000)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), "store.missing");
    assert!(refused.to_string().contains("typo"), "{refused}");
    let refused = Recovery::of(&folder).declare(0).await.unwrap_err();
    assert_eq!(refused.code(), "store.missing");
    assert!(!folder.exists());
}

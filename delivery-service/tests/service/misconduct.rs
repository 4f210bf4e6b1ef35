//! What the operator reads of devices that are not let in, or send what is not valid.

use conclave_ds::Clock;
use conclave_proto::frame::Request;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{Refusal, UnixMs};
use tempfile::TempDir;

use crate::harness::{Person, TestService, Wire, now};
use crate::process::Process;

const TOKEN: &str = "a-token-that-nobody-gave";
const CENTURY_MS: u64 = 100 * 366 * 24 * 3600 * 1000;

/// Ids in the forms in which they could be written.
fn assert_unnamed(said: &str, person: &Person) {
    let device = person.devices[0].id;
    for id in [&device.0[..], &person.user().0[..]] {
        let hex = data_encoding::HEXLOWER.encode(&id[..4]);
        assert!(!said.to_lowercase().contains(&hex), "{said}");
        assert!(
            !said.contains(&format!("{}, {}, {}", id[0], id[1], id[2])),
            "{said}"
        );
    }
    assert!(!said.contains(TOKEN), "{said}");
}

fn line<'a>(said: &'a str, word: &str) -> &'a str {
    let found = said.lines().find(|line| line.contains(word));
    found.unwrap_or_else(|| panic!("{word} is not told: {said}"))
}

#[tokio::test]
async fn refused_logins_and_lies_are_logged_under_hashed_ids() {
    let dir = TempDir::new().unwrap();
    let process = Process::logging(dir.path(), "warn", &[]).unwrap();
    let person = Person::new();
    let device = &person.devices[0];
    let mut wire = Wire::connect(&process.url).await;
    let elsewhere = wire.login(device, "wss://evil.example", Some(TOKEN)).await;
    let wrong_origin = Refusal::Forbidden {
        why: ForbiddenWhy::WrongOrigin,
    };
    assert_eq!(elsewhere.unwrap_err(), wrong_origin);
    let mut wire = process.login(&person).await;
    let rubbish = Request::PutKeyPackages {
        one_time: vec![vec![7; 300].into()],
        last_resort: None,
    };
    assert_eq!(wire.refused(rubbish).await, Refusal::BadIdentity);

    let said = process.said();
    let login = line(&said, "WrongOrigin");
    let lie = line(&said, "refused.bad_identity");
    assert!(
        login.contains("WARN") && login.contains("login refused"),
        "{said}"
    );
    assert!(lie.contains("a device sent what is not valid"), "{said}");
    // One device, one name.
    let name = |line: &str| line.split("device=").nth(1).unwrap()[..14].to_owned();
    assert_eq!(name(login), name(lie));
    assert_unnamed(&said, &person);
}

#[tokio::test]
async fn who_is_not_admitted_is_logged_and_the_token_is_not() {
    let dir = TempDir::new().unwrap();
    let process = Process::logging(dir.path(), "warn", &["--admission", "invitation"]).unwrap();
    let person = Person::new();
    let origin = process.url.trim_end_matches("/v1").to_owned();
    let mut wire = Wire::connect(&process.url).await;
    let refused = wire.login(&person.devices[0], &origin, Some(TOKEN)).await;
    let not_admitted = Refusal::Forbidden {
        why: ForbiddenWhy::NotAdmitted,
    };
    assert_eq!(refused.unwrap_err(), not_admitted);
    let said = process.said();
    line(&said, "NotAdmitted");
    assert_unnamed(&said, &person);
}

/// A service a century ahead: one of the two clocks is wrong, and the device is told so.
#[tokio::test]
async fn a_certificate_that_is_not_valid_at_the_time_is_told_apart() {
    let service = TestService::with(|config| {
        config.clock = Clock::new(|| UnixMs(now().0.saturating_add(CENTURY_MS)));
    })
    .await;
    let person = Person::new();
    let refused = service.wire().await.hello(&person.devices[0]).await;
    let wrong_time = Refusal::Forbidden {
        why: ForbiddenWhy::CertificateTime,
    };
    assert_eq!(refused.unwrap_err(), wrong_time);
}

/// A lost network, or a process that was killed, is no misconduct: an operator who reads of it everywhere overlooks what is.
#[tokio::test]
async fn who_vanishes_without_a_goodbye_is_not_named() {
    let dir = TempDir::new().unwrap();
    let process = Process::logging(dir.path(), "warn", &[]).unwrap();
    let person = Person::new();
    Wire::connect(&process.url).await.vanish().await;
    let mut before_login = Wire::connect(&process.url).await;
    before_login.hello(&person.devices[0]).await.unwrap();
    before_login.vanish().await;
    process.login(&person).await.vanish().await;
    let said = process.said();
    assert!(!said.contains("WARN"), "{said}");
}

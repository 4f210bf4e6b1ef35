//! Groups that were frozen over what is judged otherwise now.

use ciborium::Value;
use conclave_engine::finding::{About, Cause, Notice};
use conclave_engine::{Command, Finding, FindingKind};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::group::GroupEntry;
use conclave_proto::{DeviceId, DocumentId, GroupId, UnixMs, UserId};
use zeroize::Zeroizing;

use crate::world::{World, edit};

const ANA: usize = 0;
const BEN: usize = 1;
const CLEO: usize = 2;

#[derive(serde::Serialize)]
struct Evidence {
    code: String,
    signer: Option<DeviceId>,
    at: UnixMs,
    entry: Bytes,
}

/// Writes into a store what a device leaves there that finds an entry illegal.
fn freeze(world: &mut World, at: usize, group: GroupId, seq: u64, entry: &GroupEntry) {
    let code = "mls.illegal_entry".to_owned();
    let rows = &mut world.devices[at].rows.0;
    let key = [&[4], group.as_bytes(), b"f".as_slice()].concat();
    let flags = rows
        .get(&key)
        .map(|row| ciborium::from_reader(row.as_slice()).unwrap());
    let mut flags = flags.unwrap_or(Value::Map(Vec::new()));
    let Value::Map(fields) = &mut flags else {
        panic!("{flags:?}")
    };
    fields.retain(|(name, _)| !matches!(name.as_text(), Some("frozen" | "evidence")));
    fields.push((Value::from("frozen"), Value::from(code.as_str())));
    fields.push((Value::from("evidence"), Value::from(1)));
    let evidence = Evidence {
        code,
        signer: None,
        at: world.now,
        entry: encode(entry).into(),
    };
    let mut put = |key: Vec<u8>, value: &dyn erased::Cbor| {
        rows.insert(key, Zeroizing::new(value.bytes()));
    };
    put(key, &flags);
    let key = [&[7], group.as_bytes(), &seq.to_be_bytes()[..]].concat();
    put(key, &evidence);
    let finding = illegal(group);
    let key = [&[10], finding.id().0.as_slice()].concat();
    put(key, &Told::of(finding, world.now));
}

fn illegal(group: GroupId) -> Finding {
    let cause = Cause {
        code: "mls.illegal_entry".to_owned(),
        detail: String::new(),
    };
    Finding {
        what: FindingKind::IllegalEntry { cause },
        about: About::Group(group),
        suspect: None,
    }
}

/// A finding as it is stored.
#[derive(serde::Serialize)]
struct Told {
    version: u16,
    finding: Finding,
    user: Option<UserId>,
    first: UnixMs,
    last: UnixMs,
    count: u64,
    settled: bool,
    notice: Notice,
}

impl Told {
    fn of(finding: Finding, at: UnixMs) -> Self {
        Self {
            version: 2,
            finding,
            user: None,
            first: at,
            last: at,
            count: 1,
            settled: false,
            notice: Notice::Seen,
        }
    }
}

mod erased {
    pub trait Cbor {
        fn bytes(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Cbor for T {
        fn bytes(&self) -> Vec<u8> {
            let mut out = Vec::new();
            ciborium::into_writer(self, &mut out).unwrap();
            out
        }
    }
}

/// Ben was offline while Cleo was added: the number of entries that he has, and the next.
fn behind(seed: u64) -> (World, GroupId, DocumentId, usize) {
    let mut world = World::new(seed, &["ana", "ben", "cleo"]);
    let group = world.create_group(ANA);
    world.invite(group, ANA, BEN, None);
    let document = world.create_document(group, ANA, "hello");
    world.run();
    let size = world.service.entries(&group).len();
    world.go_offline(BEN);
    world.invite(group, ANA, CLEO, None);
    world.edit(CLEO, group, document, " cleo");
    world.run();
    (world, group, document, size)
}

#[test]
fn what_was_refused_by_an_old_rule_is_taken_up_at_the_next_start() {
    let (mut world, group, document, size) = behind(1);
    let entry = world.service.entries(&group)[size].clone();
    freeze(&mut world, BEN, group, size as u64, &entry);
    world.restart(BEN);
    // It is judged before the service is heard.
    world.run();
    assert_eq!(world.info(BEN, group).unwrap().frozen, None);
    assert_eq!(world.open_findings(BEN), []);
    world.edit(BEN, group, document, " ben");
    world.go_online(BEN);
    world.run();
    let text = world.text(ANA, group, document);
    assert!(text.contains(" ben") && text.contains(" cleo"), "{text}");
    world.converged(group, &[ANA, BEN, CLEO]);
    world.no_findings();
    // Also after another start.
    world.restart(BEN);
    world.run();
    world.converged(group, &[ANA, BEN, CLEO]);
}

#[test]
fn what_still_breaks_the_rules_stays_refused() {
    let (mut world, group, document, size) = behind(2);
    // A commit of an epoch that is over.
    let log = world.service.entries(&group);
    let mut commits = log
        .iter()
        .filter(|entry| matches!(entry, GroupEntry::Commit(_)));
    let old = commits.next().unwrap().clone();
    freeze(&mut world, BEN, group, size as u64, &old);
    world.restart(BEN);
    world.go_online(BEN);
    world.run();
    let info = world.info(BEN, group).unwrap();
    assert_eq!(info.frozen.as_deref(), Some("mls.illegal_entry"));
    assert_eq!(world.text(BEN, group, document), "hello");
    let refused = world.call(BEN, edit(group, document, " no")).unwrap();
    assert!(refused.is_err());
    // What is kept is neither lost nor told again.
    let kept = world.ask(BEN, Command::Evidence { group });
    assert!(format!("{kept:?}").contains("mls.illegal_entry"));
    assert_eq!(world.open_findings(BEN).len(), 1);
    assert_eq!(world.findings(BEN), [""; 0]);
}

#[test]
fn a_group_that_the_service_refused_is_offered_again() {
    let mut world = World::new(3, &["ana", "ben"]);
    world.service.lies.refuse_creations = true;
    let group = world.create_group(ANA);
    let info = world.info(ANA, group).unwrap();
    assert_eq!(info.frozen.as_deref(), Some("group.creation_refused"));
    assert_eq!(world.findings(ANA).len(), 1);
    // Not again and again within one life.
    let offers = world.count(ANA, "create_group");
    world.cut(ANA);
    world.advance(600_000);
    assert_eq!(world.count(ANA, "create_group"), offers);
    world.service.lies.refuse_creations = false;
    world.advance(3_600_000);
    world.restart(ANA);
    world.run();
    let document = world.create_document(group, ANA, "hello");
    world.invite(group, ANA, BEN, None);
    assert_eq!(world.text(BEN, group, document), "hello");
    world.converged(group, &[ANA, BEN]);
    assert_eq!(world.open_findings(ANA), []);
}

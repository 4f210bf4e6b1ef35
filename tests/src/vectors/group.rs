//! Entries of a group's log, data of commits, the roster, the public state.

use anyhow::{Result, ensure};
use conclave_identity::{CREDENTIAL_TYPE, DeviceKey, SCHEME_ED25519, UserKey, enrol_first};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::group::{COMMIT_DATA_VERSION, Checkpoint, CommitData, GroupEntry};
use conclave_proto::hash::labelled;
use conclave_proto::merkle::leaf_hash;
use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::record::{
    CloseReason, EntryBody, RECORD_LABEL, RECORD_VERSION, Record, RecordBody, RecordHeader, Sealed,
};
use conclave_proto::{
    Author, CommitId, DeviceId, DocumentId, Frontier, GroupId, Hash, Head, InstanceId,
};
use conclave_rules::{GROUP_STATE_VERSION, GroupState, RosterRow, RowCause};

use super::identity::Cast;
use super::value::Shown;
use super::{Book, NOW};

const GROUP: GroupId = GroupId([1; 16]);
const MINUTES: DocumentId = DocumentId([2; 16]);
const PLAN: DocumentId = DocumentId([3; 16]);
const VOIDED: Hash = Hash([0x0f; 32]);

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let cast = Cast::new()?;
    let log = entries(book, &cast)?;
    let (rows, hash) = roster(book, &cast)?;
    commit_data(book, hash, &log)?;
    state(book, &cast, &rows, hash, &log)
}

fn entry(cast: &Cast, epoch: u64, seen: Head, body: EntryBody) -> Record {
    let device = cast.credential.certificate.device;
    let header = RecordHeader {
        version: RECORD_VERSION,
        group: GROUP,
        document: DocumentId::ZERO,
        epoch,
        author: Author {
            device,
            instance: InstanceId([0x22; 8]),
        },
        seen,
        body: RecordBody::Entry(body),
    };
    let core = Sealed::public([0; 64]).core(&header);
    let sealed = Sealed::public(cast.first_key.sign(RECORD_LABEL, &core.0));
    Record { header, sealed }
}

/// A log's entries. The messages of MLS in it are not real: what is hashed of them is their bytes.
fn entries(book: &mut Book<'_>, cast: &Cast) -> Result<Vec<GroupEntry>> {
    let message = |text: &str| Bytes::from(text.as_bytes());
    let mut log: Vec<GroupEntry> = Vec::new();
    let head = |log: &[GroupEntry]| {
        let mut frontier = Frontier::new();
        log.iter().for_each(|entry| frontier.push(entry.leaf()));
        frontier.head()
    };
    let (archived, crdt) = (CloseReason::Archived, 2);
    let bodies = [
        (
            1,
            EntryBody::DocumentCreated {
                document: MINUTES,
                crdt: 1,
            },
        ),
        (
            1,
            EntryBody::DocumentCreated {
                document: PLAN,
                crdt,
            },
        ),
        (
            1,
            EntryBody::DocumentClosed {
                document: PLAN,
                reason: archived,
            },
        ),
        (
            2,
            EntryBody::RecordVoided {
                document: MINUTES,
                record: VOIDED,
            },
        ),
    ];
    log.push(GroupEntry::Commit(message("the first commit")));
    for (epoch, body) in bodies {
        if epoch == 2 && log.len() == 4 {
            log.push(GroupEntry::Commit(message("the second commit")));
        }
        let record = entry(cast, epoch, head(&log), body);
        log.push(GroupEntry::Signed(record));
    }
    log.push(GroupEntry::Proposal(message("a leave")));
    // The public state below is that before the last two.
    let mut whole = log.clone();
    for body in [
        EntryBody::RotationComplete { epoch: 2 },
        EntryBody::DocumentReopened { document: PLAN },
    ] {
        let record = entry(cast, 2, head(&whole), body);
        whole.push(GroupEntry::Signed(record));
    }
    for (seq, entry) in whole.iter().enumerate() {
        one(book, cast, seq, entry)?;
    }
    Ok(log)
}

fn one(book: &mut Book<'_>, cast: &Cast, seq: usize, entry: &GroupEntry) -> Result<()> {
    let leaf = entry.leaf().0;
    let mut shown = book.of(
        &format!("entry {seq} of a group's log"),
        "GroupEntry",
        entry,
    )?;
    match entry {
        GroupEntry::Commit(message) => {
            let data = [&[1], message.as_slice()].concat();
            ensure!(leaf_hash(&[&data]).0 == leaf);
            shown.makes("leaf", "leaf", &[("data", &data)], leaf);
        }
        GroupEntry::Proposal(message) => {
            let data = [&[2], message.as_slice()].concat();
            ensure!(leaf_hash(&[&data]).0 == leaf);
            shown.makes("leaf", "leaf", &[("data", &data)], leaf);
        }
        GroupEntry::Signed(record) => {
            let key = cast.first_key.public();
            super::records::core(&mut shown, record, &key)?;
        }
    }
    Ok(())
}

fn row(cast: &Cast, role: Role) -> RosterRow {
    RosterRow {
        device: cast.credential.certificate.device,
        user: cast.anna.user_id(),
        credential_type: CREDENTIAL_TYPE,
        credential: cast.credential.to_bytes().into(),
        key: cast.first_key.public().to_vec().into(),
        scheme: SCHEME_ED25519,
        role,
        first_epoch: 0,
        last_epoch: None,
        time: NOW,
        cause: RowCause::Own,
    }
}

/// A row of another user, in the group from epoch 1 on.
fn other(seed: u8, realm: &Cast) -> Result<RosterRow> {
    let user = UserKey::from_bytes(&[seed; 32]);
    let key = DeviceKey::from_bytes(&[seed | 0x80; 32]);
    let mut genesis = realm.boris.clone();
    genesis.key = user.public();
    let (credential, _) = enrol_first(&user, &genesis, &key, DeviceId([seed; 16]), NOW)?;
    Ok(RosterRow {
        device: DeviceId([seed; 16]),
        user: genesis.user_id(),
        credential: credential.to_bytes().into(),
        key: key.public().to_vec().into(),
        role: Role::Editor,
        first_epoch: 1,
        time: NOW.plus_ms(1_000),
        cause: RowCause::Other,
        ..row(realm, Role::Editor)
    })
}

/// Three epochs: Anna; Anna, Boris and a third; Anna and the third.
fn roster(book: &mut Book<'_>, cast: &Cast) -> Result<(Vec<RosterRow>, Hash)> {
    let label = "conclave 1.0 roster";
    let (anna, boris, third) = (row(cast, Role::Owner), other(2, cast)?, other(3, cast)?);
    let gone = RosterRow {
        last_epoch: Some(1),
        ..boris.clone()
    };
    let changed = [
        vec![anna.clone()],
        vec![boris, third.clone()],
        vec![gone.clone()],
    ];
    let mut hash = Hash::ZERO;
    for (epoch, rows) in changed.iter().enumerate() {
        for row in rows {
            book.of(
                &format!("a row that the commit of epoch {epoch} changed"),
                "RosterRow",
                row,
            )?;
        }
        let bytes = encode(rows);
        let next = labelled(label, &[&hash.0, &bytes]);
        book.plain(&format!("roster hash of epoch {epoch}"))
            .given_hex("hash before", hash.0)
            .given_hex("changed<V>", &bytes)
            .labelled("roster hash", label, &[&hash.0, &bytes], &next)?;
        hash = next;
    }
    Ok((vec![anna, gone, third], hash))
}

fn commit_data(book: &mut Book<'_>, roster: Hash, log: &[GroupEntry]) -> Result<()> {
    let mut frontier = Frontier::new();
    log.iter()
        .take(4)
        .for_each(|entry| frontier.push(entry.leaf()));
    let seen = frontier.head();
    for (name, checkpoint) in [
        ("authenticated_data of a commit", None),
        (
            "the same with the checkpoint that is reserved",
            Some(Checkpoint { head: seen }),
        ),
    ] {
        let data = CommitData {
            version: COMMIT_DATA_VERSION,
            time: NOW.plus_ms(2_000),
            seen,
            roster,
            checkpoint,
            id: CommitId([0x0c; 16]),
        };
        book.of(name, "CommitData", &data)?;
    }
    Ok(())
}

fn fields(parts: Vec<(&str, Shown)>) -> Shown {
    Shown::Fields(
        parts
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

/// The public state in epoch 2, written by the page, read by the program.
fn state(
    book: &mut Book<'_>,
    cast: &Cast,
    rows: &[RosterRow],
    roster_hash: Hash,
    log: &[GroupEntry],
) -> Result<()> {
    let mut policy = GroupPolicy::default();
    policy.set_role(cast.anna.user_id(), Role::Owner);
    let start = 5;
    let mut frontier = Frontier::new();
    let mut roots = Vec::new();
    for entry in log {
        frontier.push(entry.leaf());
        if frontier.size() >= start {
            roots.push(Shown::hex(&frontier.root().0));
        }
    }
    let begun_by = log.get(4).map_or(Hash::ZERO, GroupEntry::leaf);
    let leave = log.last().map_or(Hash::ZERO, GroupEntry::leaf);
    let third = rows.last().map_or(DeviceId::ZERO, |row| row.device);
    let pending = fields(vec![
        ("seq", frontier.size().saturating_sub(1).into()),
        ("leaf", Shown::hex(&leave.0)),
        ("kind", "leave".into()),
        ("device", Shown::hex(third.as_bytes())),
    ]);
    let nodes = frontier
        .nodes()
        .iter()
        .map(|node| Shown::hex(&node.0))
        .collect();
    let edge = fields(vec![
        ("size", frontier.size().into()),
        ("nodes", Shown::List(nodes)),
    ]);
    let core = fields(vec![
        ("version", u64::from(GROUP_STATE_VERSION).into()),
        ("group", Shown::hex(GROUP.as_bytes())),
        ("epoch", 2u64.into()),
        ("policy", Shown::hex(&encode(&policy))),
        ("roster_hash", Shown::hex(&roster_hash.0)),
        ("last_time", NOW.plus_ms(2_000).0.into()),
        ("pending", Shown::List(vec![pending])),
        ("rotating_since", 2u64.into()),
        ("frontier", edge),
        ("epoch_start", start.into()),
        ("epoch_log_roots", Shown::List(roots)),
        ("begun_by", Shown::hex(&begun_by.0)),
    ]);
    let document = |id: DocumentId, crdt: u64, closed: Shown| {
        let entry = fields(vec![
            ("crdt", crdt.into()),
            ("created_epoch", 1u64.into()),
            ("closed", closed),
        ]);
        fields(vec![
            ("document", Shown::hex(id.as_bytes())),
            ("entry", entry),
        ])
    };
    let listed = vec![
        document(MINUTES, 1, Shown::Nothing),
        document(PLAN, 2, "archived".into()),
    ];
    let voided = fields(vec![
        ("document", Shown::hex(MINUTES.as_bytes())),
        ("record", Shown::hex(&VOIDED.0)),
        ("user", Shown::hex(cast.anna.user_id().as_bytes())),
    ]);
    let documents = fields(vec![
        ("documents", Shown::List(listed)),
        ("voided", Shown::List(vec![voided])),
    ]);
    let by_page = |of: &str, fields: &Shown| {
        super::value::encode(book.page, of, &serde_json::to_value(fields)?)
    };
    let parts = [
        by_page("Core", &core)?,
        encode(&rows.to_vec()),
        by_page("Documents", &documents)?,
    ];
    let whole: Vec<u8> = parts
        .iter()
        .flat_map(|part| encode(&Bytes::from(part.as_slice())))
        .collect();
    let read = GroupState::from_bytes(&whole)?;
    ensure!(read.to_bytes() == whole, "another encoding");
    ensure!(read.roster.verify_chain(2).is_ok(), "another roster");
    let [core, _, documents] = &parts;
    book.bytes("what changes with every entry", "Core", core)?;
    book.bytes("what changes with documents", "Documents", documents)?;
    book.bytes("public state of a group", "GroupState", &whole)?;
    Ok(())
}

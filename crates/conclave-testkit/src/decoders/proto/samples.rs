//! One good input for each shape that a decoder knows. They are shapes, not truth: no signature here verifies.

use conclave_proto::chunk::split;
use conclave_proto::codec::{Bytes, Tail, Varint, encode};
use conclave_proto::evidence::{Charge, EVIDENCE_VERSION, Evidence};
use conclave_proto::frame::{
    Answer, AppendedRecord, BaseNode, BaseSnapshot, ClaimedKeyPackage, ClientFrame,
    DeliveredRecord, DocumentBase, DocumentStatus, ElidedRecord, GroupStatus, JoinState,
    OpenedDocument, Plea, Request, Returned, ServiceFrame, WelcomeDelivery,
};
use conclave_proto::group::{
    COMMIT_DATA_VERSION, Checkpoint, CommitBundle, CommitData, GroupEntry, RootWrap, WrapStatement,
};
use conclave_proto::merkle::{Frontier, Head, consistency_proof};
use conclave_proto::policy::{Anchor, GroupPolicy, Role};
use conclave_proto::presence::{
    BeatHead, PresenceBody, PresenceContent, PresenceItem, Shown, ShownItem, ShownState,
};
use conclave_proto::record::{
    Author, Chained, CloseReason, EntryBody, RECORD_VERSION, Record, RecordBody, RecordHeader,
    Sealed, SnapshotHeader,
};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault, Refusal};
use conclave_proto::service::{Cause, Generation, LogName, Loss, SignedHead, note};
use conclave_proto::{
    CommitId, DeviceId, DocumentId, GroupId, Hash, InstanceId, LifeToken, SessionId, UnixMs, UserId,
};
use tls_codec::Size;

const GROUP: GroupId = GroupId([1; 16]);
const DOCUMENT: DocumentId = DocumentId([2; 16]);
const DEVICE: DeviceId = DeviceId([3; 16]);
const USER: UserId = UserId([4; 32]);
const NOW: UnixMs = UnixMs(1_700_000_000_000);
const AUTHOR: Author = Author {
    device: DEVICE,
    instance: InstanceId([5; 8]),
};

fn frontier(size: u8) -> Frontier {
    let mut frontier = Frontier::new();
    for at in 0..size {
        frontier.push(Hash([at; 32]));
    }
    frontier
}

fn generation() -> Generation {
    Generation {
        number: NOW.0,
        previous: Hash([40; 32]),
        cause: Cause::PutBack,
        begun: NOW,
        head_key: [41; 32],
        signature: [42; 64],
    }
}

fn signed_head() -> SignedHead {
    SignedHead {
        head: head(),
        seconds: NOW.0 / 1000,
        signature: [43; 64],
    }
}

fn log_name(document: Option<DocumentId>) -> LogName {
    let group = GROUP;
    LogName { group, document }
}

fn loss(document: Option<DocumentId>) -> Loss {
    Loss {
        generation: NOW.0,
        log: log_name(document),
        kept: frontier(2).head(),
        lost: head(),
        signature: [44; 64],
    }
}

fn head() -> Head {
    frontier(5).head()
}

fn bytes(length: u8) -> Bytes {
    Bytes::from((0..length).collect::<Vec<u8>>())
}

fn bodies() -> Vec<RecordBody> {
    let chained = Chained {
        clock: 7,
        prev: Hash([6; 32]),
    };
    let entries = [
        EntryBody::DocumentCreated {
            document: DOCUMENT,
            crdt: 1,
        },
        EntryBody::DocumentClosed {
            document: DOCUMENT,
            reason: CloseReason::Archived,
        },
        EntryBody::RecordVoided {
            document: DOCUMENT,
            record: Hash([7; 32]),
        },
        EntryBody::RotationComplete { epoch: 9 },
        EntryBody::DocumentReopened { document: DOCUMENT },
    ];
    let mut all = vec![
        RecordBody::Update(chained),
        RecordBody::Verdict(chained),
        RecordBody::Snapshot(SnapshotHeader {
            parent: Hash([8; 32]),
            chain_proof: Hash([9; 32]),
            covered: head(),
            crdt: 2,
        }),
        RecordBody::Presence {
            session: SessionId([10; 16]),
        },
        RecordBody::Carried(chained),
    ];
    all.extend(entries.map(RecordBody::Entry));
    all
}

fn header(body: RecordBody) -> RecordHeader {
    RecordHeader {
        version: RECORD_VERSION,
        group: GROUP,
        document: DOCUMENT,
        epoch: 3,
        author: AUTHOR,
        seen: head(),
        body,
    }
}

fn sealed_part() -> Sealed {
    Sealed {
        nonce: [11; 24],
        ciphertext: bytes(70),
        tag: [12; 16],
        commitment: [13; 32],
        signature: [14; 64],
    }
}

fn record(body: RecordBody) -> Record {
    let sealed = match body {
        RecordBody::Entry(_) => Sealed::public([15; 64]),
        _ => sealed_part(),
    };
    Record {
        header: header(body),
        sealed,
    }
}

fn entry() -> Record {
    record(RecordBody::Entry(EntryBody::RotationComplete { epoch: 9 }))
}

fn snapshot() -> Record {
    record(RecordBody::Snapshot(SnapshotHeader {
        parent: Hash::ZERO,
        chain_proof: Hash::ZERO,
        covered: Head::EMPTY,
        crdt: 1,
    }))
}

fn wrap() -> RootWrap {
    RootWrap {
        statement: WrapStatement {
            group: GROUP,
            epoch: 4,
            commit: Hash([16; 32]),
            roster: Hash([17; 32]),
            nonce: [18; 24],
            ciphertext: bytes(56),
        },
        signer: DEVICE,
        signature: [19; 64],
    }
}

fn bundle(welcome: Option<Bytes>) -> CommitBundle {
    CommitBundle {
        group: GROUP,
        commit: bytes(100),
        welcome,
        group_info: bytes(80),
        wrap: wrap(),
    }
}

fn join_state() -> JoinState {
    JoinState {
        group_state: bytes(90),
        frontier: frontier(6),
        entries: vec![entry(), entry()],
        wrap: wrap(),
    }
}

fn welcome() -> WelcomeDelivery {
    WelcomeDelivery {
        id: 1,
        group: GROUP,
        epoch: 4,
        welcome: bytes(90),
        tree: bytes(60),
        state: join_state(),
    }
}

fn appended_tail() -> Tail<AppendedRecord> {
    Tail(
        [1, 2, 7]
            .map(|kind| AppendedRecord {
                kind,
                seen_size: Varint(70),
                seen_hint: [20; 8],
                sealed: sealed_part(),
            })
            .to_vec(),
    )
}

fn delivered_list() -> Vec<DeliveredRecord> {
    let elided = ElidedRecord {
        author: Varint(1),
        epoch: Varint(4),
        seen_back: Varint(2),
        seen_hint: [21; 8],
        sealed: sealed_part(),
    };
    vec![
        DeliveredRecord::Update(elided.clone()),
        DeliveredRecord::Verdict(elided.clone()),
        DeliveredRecord::Carried(elided),
        DeliveredRecord::Whole {
            record: snapshot(),
            proof: vec![Hash([22; 32]), Hash([23; 32])],
        },
        DeliveredRecord::Leaf(Hash([24; 32])),
    ]
}

fn requests() -> Vec<Request> {
    let (group, document) = (GROUP, DOCUMENT);
    vec![
        Request::PutDeviceList { list: bytes(50) },
        Request::GetDeviceList { user: USER },
        Request::PutKeyPackages {
            one_time: vec![bytes(40), bytes(41)],
            last_resort: Some(bytes(42)),
        },
        Request::ClaimKeyPackages {
            user: USER,
            devices: vec![DEVICE],
        },
        Request::CreateGroup {
            group_info: bytes(60),
            tree: bytes(61),
            founded: NOW,
        },
        Request::Commit(bundle(Some(bytes(30)))),
        Request::Propose {
            group,
            message: bytes(62),
        },
        Request::PutEntry { entry: entry() },
        Request::CreateDocument {
            entry: entry(),
            snapshot: snapshot(),
        },
        Request::SubscribeGroup { group, from: 3 },
        Request::OpenDocument {
            group,
            document,
            instance: AUTHOR.instance,
            from: Some(9),
        },
        Request::CloseDocument { channel: Varint(1) },
        Request::PutSnapshot { record: snapshot() },
        Request::GetRecords {
            group,
            document,
            from: 1,
            count: 2,
        },
        Request::GetWraps { group, epoch: 4 },
        Request::PutWrap { wrap: wrap() },
        Request::GetGroupInfo { group },
        Request::AckWelcome { id: 7 },
        Request::GetStatus { group },
        Request::PutGroupInfo {
            group,
            group_info: bytes(63),
        },
        Request::Ask {
            group,
            what: Plea::ReAdd,
        },
        Request::ReturnGroup {
            group,
            from: 3,
            entries: vec![
                GroupEntry::Proposal(bytes(9)),
                GroupEntry::Commit(bytes(10)),
            ],
            group_info: Some(bytes(11)),
            wrap: Some(wrap()),
            bundles: vec![bundle(Some(bytes(12)))],
        },
        Request::AdoptGroup {
            group,
            group_info: bytes(13),
            tree: bytes(14),
            state: join_state(),
            pending: vec![bytes(15)],
        },
        Request::ReturnDocument {
            group,
            document,
            base: Some(DocumentBase {
                frontier: frontier(3),
                nodes: vec![BaseNode {
                    level: 0,
                    index: 1,
                    hash: Hash([46; 32]),
                }],
            }),
            from: 3,
            items: vec![Returned::Record(snapshot()), Returned::Leaf(Hash([45; 32]))],
        },
        Request::Report {
            generation: generation(),
            log: log_name(None),
            signed: signed_head(),
        },
        Request::GetMemberships,
        Request::ClearKeyPackages,
        Request::ConfirmLife,
        Request::GetHead {
            log: log_name(None),
        },
        Request::GetHead {
            log: log_name(Some(DOCUMENT)),
        },
    ]
}

fn all_refusals() -> Vec<Refusal> {
    vec![
        Refusal::StaleEpoch { current: 4 },
        Refusal::ClockGap { expected: 3 },
        Refusal::AlreadyAccepted {
            leaf: Hash([25; 32]),
            seq: 6,
        },
        Refusal::SnapshotRequired,
        Refusal::Forbidden {
            why: ForbiddenWhy::Role,
        },
        Refusal::TooLarge { max: 1 << 20 },
        Refusal::RateLimited {
            retry_after_ms: 250,
        },
        Refusal::ProposalPending,
        Refusal::UpgradeNeeded { minimum: 9 },
        Refusal::EpochTaken { current: 5 },
        Refusal::BadCommit {
            fault: CommitFault::Roster,
        },
        Refusal::BadRecord {
            fault: RecordFault::SeenHead,
        },
        Refusal::UnknownGroup,
        Refusal::UnknownDocument,
        Refusal::UnknownUser,
        Refusal::DocumentClosed,
        Refusal::AlreadyExists,
        Refusal::Malformed,
        Refusal::BadIdentity,
        Refusal::StaleDeviceList { newest: 8 },
        Refusal::NoChannel,
        Refusal::Storage,
        Refusal::ShuttingDown,
        Refusal::Unauthenticated,
        Refusal::Recovering { have: 3, want: 9 },
        Refusal::OtherLife { since: NOW },
    ]
}

/// A refusal of every kind.
#[must_use]
pub fn refusals() -> Vec<Vec<u8>> {
    all_refusals().iter().map(encode).collect()
}

fn answers() -> Vec<Answer> {
    let opened = OpenedDocument {
        channel: Varint(2),
        signed: signed_head(),
        from: 1,
        base: Some(BaseSnapshot {
            seq: 0,
            record: snapshot(),
        }),
        authors: vec![AUTHOR],
        own_next_clock: 3,
        own_last: Hash([26; 32]),
        losses: vec![loss(Some(DOCUMENT))],
    };
    let status = DocumentStatus {
        document: DOCUMENT,
        due: 1,
        head: head(),
        first_seq_of_snapshot_epoch: 2,
        snapshot: snapshot().header,
        snapshot_id: Hash([27; 32]),
    };
    let mut all = vec![
        Answer::Done,
        Answer::Accepted {
            seq: 4,
            head: head(),
        },
        Answer::DeviceList { list: bytes(50) },
        Answer::KeyPackageCount { left: 9 },
        Answer::KeyPackages {
            packages: vec![ClaimedKeyPackage {
                device: DEVICE,
                key_package: bytes(33),
                last_resort: 1,
            }],
        },
        Answer::Subscribed {
            head: head(),
            epoch: 4,
            now: NOW,
            signed: Some(signed_head()),
            losses: vec![loss(None)],
        },
        Answer::Opened(opened),
        Answer::Records {
            first_seq: 2,
            records: delivered_list(),
        },
        Answer::Wraps {
            wraps: vec![wrap()],
        },
        Answer::GroupInfo {
            epoch: 4,
            group_info: bytes(40),
            tree: bytes(41),
            state: join_state(),
            pending: vec![bytes(42), bytes(0)],
        },
        Answer::Status(GroupStatus {
            epoch: 4,
            rotating_since: 2,
            documents: vec![status],
        }),
        Answer::Memberships {
            groups: vec![GROUP],
        },
        Answer::Head {
            signed: signed_head(),
        },
    ];
    all.extend(all_refusals().into_iter().map(Answer::Refused));
    all
}

fn presence(to: Option<SessionId>) -> PresenceItem {
    PresenceItem {
        epoch: Varint(3),
        seen_size: Varint(300),
        seen_hint: [33; 8],
        session: SessionId([35; 16]),
        to,
        sealed: sealed_part(),
    }
}

/// What is sealed in presence, of every kind.
pub(super) fn presence_contents() -> Vec<Vec<u8>> {
    let state = |index| ShownState {
        index,
        kind: 3,
        value: Bytes::from(b"{}".as_slice()),
    };
    let now = || Shown {
        states: vec![state(0), state(7)],
    };
    let (nonce, echo) = ([36; 16], [37; 16]);
    let bodies = [
        PresenceBody::Hello { nonce },
        PresenceBody::Reply {
            nonce,
            echo,
            now: now(),
        },
        PresenceBody::Answer { echo, now: now() },
        PresenceBody::State(now()),
        PresenceBody::Gone,
        PresenceBody::Beat {
            generation: NOW.0,
            heads: vec![
                BeatHead {
                    document: DocumentId::ZERO,
                    head: signed_head(),
                },
                BeatHead {
                    document: DOCUMENT,
                    head: signed_head(),
                },
            ],
        },
    ];
    let session = SessionId([35; 16]);
    let contents = (7..).zip(bodies).map(|(counter, body)| PresenceContent {
        session,
        counter,
        body,
    });
    contents.map(|content| encode(&content)).collect()
}

/// A client frame of every kind, with a request of every kind.
#[must_use]
pub fn client_frames() -> Vec<Vec<u8>> {
    let mut all = vec![
        ClientFrame::Hello {
            versions: vec![1, 2],
            credential: bytes(60),
        },
        ClientFrame::Login {
            origin: Bytes::from(b"wss://ds.example".as_slice()),
            signature: [28; 64],
            token: Some(bytes(16)),
            life: 7,
            life_token: LifeToken([31; 16]),
            take_over: 1,
        },
        ClientFrame::Append {
            channel: Varint(1),
            epoch: Varint(4),
            first_clock: Varint(300),
            records: appended_tail(),
        },
        ClientFrame::Ping,
        ClientFrame::Show {
            channel: Varint(1),
            item: presence(None),
        },
    ];
    let id = Varint(77);
    all.extend(
        requests()
            .into_iter()
            .map(|body| ClientFrame::Request { id, body }),
    );
    all.iter().map(encode).collect()
}

/// A service frame of every kind, with an answer of every kind.
#[must_use]
pub fn service_frames() -> Vec<Vec<u8>> {
    let channel = Varint(1);
    let mut all = vec![
        ServiceFrame::Challenge {
            version: 1,
            nonce: [29; 32],
            service_key: [30; 32],
            now: NOW,
            generation: generation(),
        },
        ServiceFrame::Ready {
            now: NOW,
            key_packages: 20,
            last_resort: 1,
            life: 8,
            next: LifeToken([32; 16]),
        },
        ServiceFrame::GroupEntries {
            group: GROUP,
            first_seq: 1,
            entries: group_entries(),
        },
        ServiceFrame::NewAuthor {
            channel,
            author: AUTHOR,
        },
        ServiceFrame::Deliver {
            channel,
            first_seq: Varint(5),
            records: Tail(delivered_list()),
        },
        ServiceFrame::Shown {
            channel,
            items: Tail(
                [None, Some(SessionId([34; 16]))]
                    .map(|to| ShownItem {
                        author: AUTHOR,
                        item: presence(to),
                    })
                    .into(),
            ),
        },
        ServiceFrame::Ack {
            channel,
            next_clock: Varint(4),
            first_seq: Varint(9),
            count: Varint(2),
        },
        ServiceFrame::AppendRefused {
            channel,
            first_clock: Varint(4),
            refusal: Refusal::ClockGap { expected: 3 },
        },
        ServiceFrame::Welcome(welcome()),
        ServiceFrame::KeyPackagesLow { left: 3 },
        ServiceFrame::Pong,
        ServiceFrame::Goodbye {
            why: Refusal::RateLimited { retry_after_ms: 5 },
            retry_after_ms: 6,
        },
        ServiceFrame::DeviceListChanged { user: USER },
        ServiceFrame::Asked {
            group: GROUP,
            device: DEVICE,
            user: USER,
            what: Plea::Wrap,
        },
        ServiceFrame::Head {
            log: log_name(Some(DOCUMENT)),
            signed: signed_head(),
        },
        ServiceFrame::Head {
            log: log_name(None),
            signed: signed_head(),
        },
    ];
    let id = Varint(77);
    all.extend(
        answers()
            .into_iter()
            .map(|answer| ServiceFrame::Response { id, answer }),
    );
    all.iter().map(encode).collect()
}

/// The beginning of a frame that puts a snapshot, and a whole one.
pub(super) fn begun_snapshots() -> Vec<Vec<u8>> {
    let frame = encode(&ClientFrame::Request {
        id: Varint(300),
        body: Request::PutSnapshot { record: snapshot() },
    });
    let most = frame
        .len()
        .saturating_sub(sealed_part().tls_serialized_len());
    let begun = frame.get(..most).unwrap_or_default().to_vec();
    vec![frame, begun]
}

/// Messages with their lengths in front: one frame whole, one in three chunks.
pub(super) fn chunks() -> Vec<Vec<u8>> {
    let whole = split(client_frames().into_iter().next().unwrap_or_default());
    let parts = [&[0xfe, 1, 2, 3][..], &[0xfe, 4], &[0xff, 5]].map(<[u8]>::to_vec);
    [whole, parts.to_vec()]
        .into_iter()
        .map(|messages| {
            let framed = messages.into_iter().flat_map(|message| {
                let length = u16::try_from(message.len()).unwrap_or_default();
                [&length.to_be_bytes()[..], &message].concat()
            });
            framed.collect()
        })
        .collect()
}

pub(super) fn commit_data() -> Vec<Vec<u8>> {
    [None, Some(Checkpoint { head: head() })]
        .map(|checkpoint| {
            encode(&CommitData {
                version: COMMIT_DATA_VERSION,
                time: NOW,
                seen: head(),
                roster: Hash([31; 32]),
                checkpoint,
                id: CommitId([32; 16]),
            })
        })
        .to_vec()
}

pub(super) fn policies() -> Vec<Vec<u8>> {
    let mut policy = GroupPolicy::default();
    let plain = encode(&policy);
    policy.set_role(USER, Role::Owner);
    policy.set_role(UserId([33; 32]), Role::Viewer);
    policy.trust.anchors = vec![Anchor {
        uri_prefix: bytes(9),
        certificate: bytes(20),
    }];
    vec![plain, encode(&policy)]
}

pub(super) fn proofs() -> Vec<Vec<u8>> {
    let leaves: Vec<Hash> = (0..13).map(|at| Hash([at; 32])).collect();
    let claims = [0, 1, 5, 8, 13].into_iter().map(|size: u8| {
        let proof = consistency_proof(&leaves, u64::from(size)).unwrap_or_default();
        let heads = [frontier(size).head(), frontier(13).head()];
        let mut claim: Vec<u8> = heads.iter().flat_map(encode).collect();
        claim.extend(encode(&proof));
        claim
    });
    claims.collect()
}

pub(super) fn welcomes() -> Vec<Vec<u8>> {
    vec![encode(&welcome())]
}

pub(super) fn bundles() -> Vec<Vec<u8>> {
    [None, Some(bytes(30))]
        .map(|it| encode(&bundle(it)))
        .to_vec()
}

pub(super) fn records() -> Vec<Vec<u8>> {
    bodies()
        .into_iter()
        .map(|body| encode(&record(body)))
        .collect()
}

pub(super) fn headers() -> Vec<Vec<u8>> {
    bodies()
        .into_iter()
        .map(|body| encode(&header(body)))
        .collect()
}

pub(super) fn sealed() -> Vec<Vec<u8>> {
    vec![encode(&sealed_part()), encode(&Sealed::public([34; 64]))]
}

pub(super) fn delivered() -> Vec<Vec<u8>> {
    delivered_list().iter().map(encode).collect()
}

pub(super) fn appended() -> Vec<Vec<u8>> {
    vec![encode(&appended_tail())]
}

fn group_entries() -> Vec<GroupEntry> {
    vec![
        GroupEntry::Commit(bytes(70)),
        GroupEntry::Proposal(bytes(40)),
        GroupEntry::Signed(entry()),
    ]
}

pub(super) fn entries() -> Vec<Vec<u8>> {
    group_entries().iter().map(encode).collect()
}

pub(super) fn join_states() -> Vec<Vec<u8>> {
    vec![encode(&join_state())]
}

pub(super) fn wraps() -> Vec<Vec<u8>> {
    vec![encode(&wrap())]
}

pub(super) fn frontiers() -> Vec<Vec<u8>> {
    [0, 1, 7, 64].map(|size| encode(&frontier(size))).to_vec()
}

pub(super) fn varints() -> Vec<Vec<u8>> {
    [0, 64, 1 << 20, Varint::MAX]
        .map(|value| encode(&Varint(value)))
        .to_vec()
}

pub(super) fn id_texts() -> Vec<Vec<u8>> {
    vec![DEVICE.to_string().into_bytes()]
}

pub(super) fn role_texts() -> Vec<Vec<u8>> {
    let roles = [Role::Viewer, Role::Editor, Role::Admin, Role::Owner];
    roles.map(|role| role.to_string().into_bytes()).to_vec()
}

/// Generations.
pub(super) fn generations() -> Vec<Vec<u8>> {
    vec![encode(&generation())]
}

/// Losses of a group's log and of a document's.
pub(super) fn losses() -> Vec<Vec<u8>> {
    vec![encode(&loss(None)), encode(&loss(Some(DOCUMENT)))]
}

fn note_of(document: Option<DocumentId>) -> Vec<u8> {
    note(
        &[60; 32],
        &generation(),
        &log_name(document),
        &signed_head(),
    )
}

/// Signed heads as notes.
pub(super) fn notes() -> Vec<Vec<u8>> {
    vec![note_of(None), note_of(Some(DOCUMENT))]
}

/// Evidence of each kind.
pub(super) fn evidence() -> Vec<Vec<u8>> {
    let of = || Bytes::from(note_of(Some(DOCUMENT)));
    let record = || record(bodies().swap_remove(0));
    let all = [
        Charge::Fork {
            a: of(),
            b: of(),
            root: Hash([61; 32]),
            proof: vec![Hash([62; 32]); 3],
        },
        Charge::Rollback { a: of(), b: of() },
        Charge::Equivocation {
            certificate: bytes(40),
            a: record(),
            b: record(),
        },
        Charge::Parallel {
            later: generation(),
            a: of(),
        },
    ];
    let evidence = |charge| Evidence {
        version: EVIDENCE_VERSION,
        generation: generation(),
        charge,
    };
    all.map(|charge| evidence(charge).to_bytes()).to_vec()
}

//! What MLS reads: messages, key packages, Welcomes, commits, the public state, and the rows of both sides.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::OnceLock;

use super::register::{
    Decoded, Decoder,
    Source::{Disk, Network},
    join_rows, split_rows,
};
use conclave_identity::{
    DeviceCredential, DeviceKey, Reference, STATEMENT_VERSION, UserGenesis, UserKey, enrol_first,
};
use conclave_mls::{
    ClientGroup, CommitInputs, DeviceContext, EpochSecrets, KeyStore, MlsError, Plan, ProcessError,
    PublicGroupState, RejoinOffer, Rows, check_key_package,
};
use conclave_proto::frame::{JoinState, WelcomeDelivery};
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::record::EntryBody;
use conclave_proto::{
    CommitId, DeviceId, DocumentId, GroupId, GroupPolicy, InstanceId, RealmId, Refusal, UnixMs,
    limits,
};
use conclave_rules::{GROUP_STATE_BYTES, GroupState};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use zeroize::Zeroizing;

use super::{code, once, read, sample, split_two, two};
use crate::members::list_directory;

/// In the past of any machine that runs this: OpenMLS compares leaf lifetimes with the true clock.
const NOW: UnixMs = UnixMs(1_700_000_000_000);
const GROUP: GroupId = GroupId([7; 16]);
const MESSAGE: usize = limits::MLS_MESSAGE_BYTES;

pub(super) fn decoders() -> Vec<Decoder> {
    vec![
        Decoder::new("mls.key_package", Network, MESSAGE, key_package, || {
            let pair = pair();
            vec![pair.package.clone(), pair.last_resort.clone()]
        }),
        Decoder::new("mls.new_group", Network, 2 * MESSAGE + 8, new_group, || {
            vec![two(&pair().group_info, &pair().tree)]
        }),
        Decoder::new("mls.group_state", Network, GROUP_STATE_BYTES, state, || {
            vec![
                pair().first.state().to_bytes(),
                pair().second.state().to_bytes(),
            ]
        }),
        Decoder::new(
            "mls.commit_bundle",
            Network,
            limits::FRAME_BYTES,
            bundle,
            || sample(&pair().bundle),
        ),
        Decoder::new("mls.proposal", Network, MESSAGE, proposal, || {
            vec![pair().leave.clone()]
        }),
        Decoder::new("mls.welcome", Network, limits::FRAME_BYTES, welcome, || {
            sample(&pair().delivery)
        }),
        Decoder::new(
            "mls.rejoin_offer",
            Network,
            limits::FRAME_BYTES,
            rejoin,
            || {
                let pair = pair();
                let messages = two(&pair.group_info_after, &pair.tree_after);
                vec![two(
                    &conclave_proto::codec::encode(&pair.delivery.state),
                    &messages,
                )]
            },
        ),
        Decoder::new(
            "mls.group_entry",
            Network,
            limits::FRAME_BYTES,
            entry,
            || {
                pair()
                    .entries
                    .iter()
                    .map(conclave_proto::codec::encode)
                    .collect()
            },
        ),
        Decoder::new("mls.root_wrap", Network, usize::MAX, wrap, || {
            sample(&pair().bundle.wrap)
        }),
        Decoder::new("mls.public_rows", Disk, usize::MAX, public_rows, || {
            let pair = pair();
            [&pair.first, &pair.second]
                .map(|it| joined(&it.rows()))
                .to_vec()
        })
        .of_rows(),
        Decoder::new("mls.group_rows", Disk, usize::MAX, group_rows, || {
            vec![
                joined(&pair().member),
                joined(&pair().committing),
                joined(&pair().joiner),
            ]
        })
        .of_rows(),
        Decoder::new("mls.key_package_rows", Disk, usize::MAX, key_rows, || {
            vec![joined(&pair().keys)]
        })
        .of_rows(),
    ]
}

/// A device with all its keys.
pub struct Member {
    key: DeviceKey,
    credential: DeviceCredential,
}

impl Member {
    /// A user with one device, all made of one byte.
    #[must_use]
    pub fn new(seed: u8) -> Self {
        let user = UserKey::from_bytes(&[seed; 32]);
        let genesis = UserGenesis {
            version: STATEMENT_VERSION,
            realm: RealmId([5; 16]),
            key: user.public(),
            created: NOW,
            salt: [seed; 16],
        };
        let key = DeviceKey::from_bytes(&[seed + 100; 32]);
        let (credential, _) =
            enrol_first(&user, &genesis, &key, DeviceId([seed; 16]), NOW).unwrap();
        Self { key, credential }
    }

    fn context(&self) -> DeviceContext<'_> {
        DeviceContext {
            key: &self.key,
            credential: &self.credential,
        }
    }

    fn id(&self) -> DeviceId {
        self.credential.certificate.device
    }
}

/// A group whose creator has added a second member: everything that went over the wire and into the stores.
pub struct Pair {
    creator: Member,
    other: Member,
    package: Vec<u8>,
    last_resort: Vec<u8>,
    group_info: Vec<u8>,
    tree: Vec<u8>,
    group_info_after: Vec<u8>,
    tree_after: Vec<u8>,
    bundle: CommitBundle,
    delivery: WelcomeDelivery,
    leave: Vec<u8>,
    entries: Vec<GroupEntry>,
    secrets: EpochSecrets,
    /// At the service, before and after the commit.
    first: PublicGroupState,
    second: PublicGroupState,
    /// Rows of the creator in epoch 0, with its commit on the way, and of the joiner.
    member: Rows,
    committing: Rows,
    joiner: Rows,
    keys: Rows,
}

fn rows_of(changes: Vec<conclave_mls::RowChange>, onto: &Rows) -> Rows {
    let mut rows: std::collections::BTreeMap<_, _> = onto.iter().cloned().collect();
    for change in changes {
        match change.value {
            Some(value) => rows.insert(change.key, value),
            None => rows.remove(&change.key),
        };
    }
    rows.into_iter().collect()
}

fn pair() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    once(&PAIR, Pair::new)
}

impl Pair {
    fn new() -> Self {
        let (creator, other) = (Member::new(1), Member::new(2));
        let mut rng = ChaCha20Rng::from_seed([9; 32]);
        let mut keystore = KeyStore::load(Vec::new()).unwrap();
        let made = keystore.generate(&other.context(), 1, true, NOW).unwrap();
        let keys = rows_of(keystore.take_changes(), &Vec::new());
        let (package, last_resort) = (
            made.one_time.first().unwrap().clone(),
            made.last_resort.unwrap(),
        );

        let (mut group, created) =
            ClientGroup::create(&creator.context(), GROUP, GroupPolicy::default(), NOW).unwrap();
        let member = rows_of(group.take_changes(), &Vec::new());
        let make = || {
            PublicGroupState::create(&created.group_info, &created.tree, creator.id(), NOW)
                .unwrap()
                .0
        };
        let (mut first, mut second) = (make(), make());
        let services = &mut [&mut first, &mut second];
        let directory =
            list_directory(&creator.context(), creator.id(), &mut group, services).unwrap();
        let member = rows_of(group.take_changes(), &member);
        let plan = Plan {
            add: vec![package.clone()],
            ..Plan::default()
        };
        let prepared = group
            .commit(&creator.context(), &plan, inputs(), &mut rng)
            .unwrap();
        let committing = rows_of(group.take_changes(), &member);
        let bundle = prepared.bundle;
        let judged = second.judge_bundle(&bundle, creator.id(), NOW).unwrap();
        second.apply(judged).unwrap();
        let delivery = WelcomeDelivery {
            id: 1,
            group: GROUP,
            epoch: 1,
            welcome: bundle.welcome.clone().unwrap(),
            tree: second.tree().into(),
            state: second.join_state(bundle.wrap.clone(), vec![directory]),
        };
        let (mut joined, _) =
            ClientGroup::join(&other.context(), &mut keystore, &delivery, NOW).unwrap();
        let joiner = rows_of(joined.take_changes(), &Vec::new());
        let leave = joined.propose_self_remove(&other.context()).unwrap();
        let body = EntryBody::DocumentCreated {
            document: DocumentId([3; 16]),
            crdt: 1,
        };
        let signed = joined.sign_entry(&other.context(), body, InstanceId([4; 8]));
        let entries = vec![
            GroupEntry::Commit(bundle.commit.clone()),
            GroupEntry::Proposal(leave.clone().into()),
            GroupEntry::Signed(signed),
        ];
        Self {
            package,
            last_resort,
            group_info: created.group_info,
            tree: created.tree,
            group_info_after: second.group_info().to_vec(),
            tree_after: second.tree(),
            bundle,
            delivery,
            leave,
            entries,
            secrets: prepared.secrets,
            first,
            second,
            member,
            committing,
            joiner,
            keys,
            creator,
            other,
        }
    }
}

fn inputs() -> CommitInputs<'static> {
    CommitInputs {
        now: NOW,
        service_time: NOW,
        id: CommitId([6; 16]),
        live_roots: &[],
    }
}

fn joined(rows: &Rows) -> Vec<u8> {
    join_rows(
        rows.iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice())),
    )
}

fn rows(bytes: &[u8]) -> Result<Rows, &'static str> {
    let rows = split_rows(bytes).ok_or("input.no_rows")?;
    Ok(rows
        .into_iter()
        .map(|(key, value)| (key, Zeroizing::new(value)))
        .collect())
}

fn key_package(bytes: &[u8]) -> Decoded {
    code(
        check_key_package(bytes, &Reference::default(), NOW),
        MlsError::code,
    )
}

fn new_group(bytes: &[u8]) -> Decoded {
    if bytes.len() > 2 * MESSAGE + 8 {
        return Err("input.too_large");
    }
    let (info, tree) = split_two(bytes)?;
    code(
        PublicGroupState::create(&info, &tree, pair().creator.id(), NOW),
        Refusal::code,
    )
}

fn state(bytes: &[u8]) -> Decoded {
    match GroupState::from_bytes(bytes) {
        Ok(state) => {
            // A joiner computes this before it believes anything.
            let _ = state.roster.verify_chain(state.epoch);
            Ok(Some(state.to_bytes()))
        }
        Err(error) => Err(error.code()),
    }
}

fn bundle(bytes: &[u8]) -> Decoded {
    let bundle: CommitBundle = read(bytes, limits::FRAME_BYTES)?;
    let pair = pair();
    code(
        pair.first.judge_bundle(&bundle, pair.creator.id(), NOW),
        Refusal::code,
    )
}

fn proposal(bytes: &[u8]) -> Decoded {
    let pair = pair();
    code(
        pair.second.judge_proposal(bytes, pair.other.id()),
        Refusal::code,
    )
}

fn welcome(bytes: &[u8]) -> Decoded {
    let delivery: WelcomeDelivery = read(bytes, limits::FRAME_BYTES)?;
    let pair = pair();
    let mut keys = KeyStore::load(pair.keys.clone()).unwrap();
    let before = keys.count();
    let outcome = ClientGroup::join(&pair.other.context(), &mut keys, &delivery, NOW);
    // A Welcome that fails must not burn the key package.
    assert!(outcome.is_ok() || keys.count() == before);
    code(outcome, MlsError::code)
}

fn rejoin(bytes: &[u8]) -> Decoded {
    if bytes.len() > limits::FRAME_BYTES {
        return Err("input.too_large");
    }
    let (state, messages) = split_two(bytes)?;
    let (group_info, tree) = split_two(&messages)?;
    let state: JoinState = read(&state, limits::FRAME_BYTES)?;
    let pair = pair();
    let offer = RejoinOffer {
        group: GROUP,
        group_info: &group_info,
        tree: &tree,
        state: &state,
        pending: &[],
        known: None,
    };
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    code(
        ClientGroup::rejoin(&pair.other.context(), &offer, inputs(), &mut rng),
        MlsError::code,
    )
}

/// The input comes down the group log to the creator, who waits for its own commit, and to the joiner.
fn entry(bytes: &[u8]) -> Decoded {
    let entry: GroupEntry = read(bytes, limits::FRAME_BYTES)?;
    let outcomes = [&pair().committing, &pair().joiner].map(|rows| {
        let mut group = ClientGroup::load(rows.clone()).unwrap();
        let before = group.state().clone();
        let outcome = group.process(&entry);
        // What was refused has changed nothing.
        assert!(outcome.is_ok() || *group.state() == before);
        outcome
    });
    let [first, second] = outcomes;
    code(first.or(second), ProcessError::code)
}

fn wrap(bytes: &[u8]) -> Decoded {
    let wrap: RootWrap = read(bytes, usize::MAX)?;
    let pair = pair();
    pair.second
        .state()
        .judge_wrap(&wrap)
        .map_err(|_| "mls.bad_wrap")?;
    code(ClientGroup::open_wrap(&pair.secrets, &wrap), MlsError::code)
}

fn public_rows(bytes: &[u8]) -> Decoded {
    let pair = pair();
    let rows = rows(bytes)?;
    // Either is as long as the other.
    for state in [&pair.first, &pair.second] {
        let roots = state.state().epoch_log_roots.iter().copied().collect();
        let read = PublicGroupState::load(rows.clone(), roots);
        if let Ok(restored) = &read {
            let _ = (restored.tree(), restored.rows());
            return Ok(None);
        }
    }
    let roots = pair.second.state().epoch_log_roots.iter().copied();
    code(
        PublicGroupState::load(rows, roots.collect()),
        MlsError::code,
    )
}

fn group_rows(bytes: &[u8]) -> Decoded {
    let mut group = ClientGroup::load(rows(bytes)?).map_err(|error| error.code())?;
    // What loading did not look at is looked at when it is used.
    let _ = group.epoch_secrets();
    let next = pair().entries.first().unwrap();
    let _ = group.process(next);
    Ok(None)
}

fn key_rows(bytes: &[u8]) -> Decoded {
    let mut keys = KeyStore::load(rows(bytes)?).map_err(|error| error.code())?;
    let pair = pair();
    code(
        ClientGroup::join(&pair.other.context(), &mut keys, &pair.delivery, NOW),
        MlsError::code,
    )
}

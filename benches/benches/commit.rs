//! Making, following and judging a commit, beside bare OpenMLS doing so over the same store. The commit renews its author's leaf.

use anyhow::{Context as _, Result, bail};
use conclave_bench::group::{GROUP, Group};
use conclave_bench::measure::{Bench, sure};
use conclave_identity::DeviceKey;
use conclave_mls::{ClientGroup, Plan, Prepared, Provider, PublicGroupState, RowChange, Rows};
use conclave_proto::group::GroupEntry;
use conclave_testkit::members::NOW;
use criterion::BatchSize;
use openmls::group::{GroupId, MlsGroup, ProposalStore, PublicGroup};
use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, ProcessedMessageContent, PublicMessageIn, RatchetTreeIn,
};
use openmls_traits::OpenMlsProvider as _;
use openmls_traits::signatures::{Signer, SignerError};
use openmls_traits::types::SignatureScheme;
use tls_codec::DeserializeBytes as _;

fn main() {
    let mut bench = Bench::asked();
    let sizes: &[usize] = bench.form.pick(&[3], &[10, 100, 1_000]);
    for members in sizes {
        let group = sure(Group::of(*members));
        let renewal = sure(group.renewal());
        making(&mut bench, *members, &group);
        following(&mut bench, *members, &group, &renewal);
        judging(&mut bench, *members, &group, &renewal);
    }
    bench.finish();
}

/// A member's group under bare OpenMLS.
fn bare_member(rows: &Rows) -> Result<(Provider, MlsGroup)> {
    let provider = Provider::new(rows.clone());
    let group = MlsGroup::load(provider.storage(), &GroupId::from_slice(GROUP.as_bytes()))?;
    Ok((provider, group.context("no group")?))
}

/// The service's rows under bare OpenMLS.
fn bare_service(service: &PublicGroupState) -> Result<Rows> {
    let MlsMessageBodyIn::GroupInfo(info) = parse(service.group_info())? else {
        bail!("no GroupInfo");
    };
    let tree = RatchetTreeIn::tls_deserialize_exact_bytes(&service.tree())?;
    let provider = Provider::default();
    let (crypto, storage) = (provider.crypto(), provider.storage());
    PublicGroup::from_external(crypto, storage, tree, info, ProposalStore::new())?;
    Ok(provider.overlay().rows())
}

fn parse(bytes: &[u8]) -> Result<MlsMessageBodyIn> {
    Ok(MlsMessageIn::tls_deserialize_exact_bytes(bytes)?.extract())
}

fn parse_commit(bytes: &[u8]) -> Result<PublicMessageIn> {
    match parse(bytes)? {
        MlsMessageBodyIn::PublicMessage(message) => Ok(message),
        _ => bail!("no commit"),
    }
}

struct BareSigner<'a>(&'a DeviceKey);

impl Signer for BareSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_raw(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

fn bare_make(provider: &Provider, group: &mut MlsGroup, key: &DeviceKey) -> Result<Vec<RowChange>> {
    group
        .commit_builder()
        .force_self_update(true)
        .load_psks(provider.storage())?
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &BareSigner(key), |_| {
            true
        })?
        .stage_commit(provider)?;
    Ok(provider.overlay().drain())
}

fn bare_follow(provider: &Provider, group: &mut MlsGroup, commit: &[u8]) -> Result<Vec<RowChange>> {
    let processed = group.process_message(provider, parse_commit(commit)?)?;
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
        bail!("no commit");
    };
    group.merge_staged_commit(provider, *staged)?;
    Ok(provider.overlay().drain())
}

fn bare_judge(
    provider: &Provider,
    group: &mut PublicGroup,
    commit: &[u8],
) -> Result<Vec<RowChange>> {
    let processed = group.process_message(provider.crypto(), parse_commit(commit)?)?;
    let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
        bail!("no commit");
    };
    group.merge_commit(provider.storage(), *staged)?;
    Ok(provider.overlay().drain())
}

fn making(bench: &mut Bench, members: usize, group: &Group) {
    bench.pair(
        "commit",
        &format!("{members} members, make"),
        1,
        ("OpenMLS", &mut |bencher| {
            bencher.iter_batched(
                || sure(bare_member(&group.owner_rows)),
                |(provider, mut mls)| {
                    let changes = sure(bare_make(&provider, &mut mls, &group.owner.key));
                    (provider, mls, changes)
                },
                BatchSize::PerIteration,
            );
        }),
        ("member", &mut |bencher| {
            bencher.iter_batched(
                || sure(ClientGroup::load(group.owner_rows.clone())),
                |mut mls| {
                    let prepared = sure(group.owner.commit(&mut mls, &Plan::default()));
                    let changes = mls.take_changes();
                    (mls, prepared, changes)
                },
                BatchSize::PerIteration,
            );
        }),
    );
}

fn following(bench: &mut Bench, members: usize, group: &Group, renewal: &Prepared) {
    let commit = renewal.bundle.commit.as_slice();
    let entry = GroupEntry::Commit(renewal.bundle.commit.clone());
    bench.pair(
        "commit",
        &format!("{members} members, follow"),
        1,
        ("OpenMLS", &mut |bencher| {
            bencher.iter_batched(
                || sure(bare_member(&group.member_rows)),
                |(provider, mut mls)| {
                    let changes = sure(bare_follow(&provider, &mut mls, commit));
                    (provider, mls, changes)
                },
                BatchSize::PerIteration,
            );
        }),
        ("member", &mut |bencher| {
            bencher.iter_batched(
                || sure(ClientGroup::load(group.member_rows.clone())),
                |mut mls| {
                    let processed = sure(mls.process(&entry));
                    let changes = mls.take_changes();
                    (mls, processed, changes)
                },
                BatchSize::PerIteration,
            );
        }),
    );
}

/// The service judges, applies, and makes what it stores.
fn judging(bench: &mut Bench, members: usize, group: &Group, renewal: &Prepared) {
    let commit = renewal.bundle.commit.as_slice();
    let restore = || {
        let (rows, roots) = (group.service_rows.clone(), group.roots.clone());
        let service = sure(PublicGroupState::load(rows, roots));
        // A service keeps its groups: keys are read and credentials were checked before this commit came.
        sure(service.judge_bundle(&renewal.bundle, group.owner.device, NOW));
        service
    };
    let rows = sure(bare_service(&restore()));
    let id = GroupId::from_slice(GROUP.as_bytes());
    bench.pair(
        "commit",
        &format!("{members} members, judge"),
        1,
        ("OpenMLS", &mut |bencher| {
            bencher.iter_batched(
                || {
                    let provider = Provider::new(rows.clone());
                    let loaded = sure(PublicGroup::load(provider.storage(), &id));
                    (provider, sure(loaded.context("no group")))
                },
                |(provider, mut tree)| {
                    let changes = sure(bare_judge(&provider, &mut tree, commit));
                    (provider, tree, changes)
                },
                BatchSize::PerIteration,
            );
        }),
        ("service", &mut |bencher| {
            bencher.iter_batched(
                restore,
                |mut service| {
                    let device = group.owner.device;
                    let judged = sure(service.judge_bundle(&renewal.bundle, device, NOW));
                    sure(service.apply(judged));
                    let stored = service.take_changes();
                    (service, stored)
                },
                BatchSize::PerIteration,
            );
        }),
    );
}

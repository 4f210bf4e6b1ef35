//! Tools of somebody who follows none of our rules.

use conclave_identity::{DeviceCredential, DeviceKey};
use conclave_mls::ProcessError;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::group::{
    CommitBundle, CommitData, GroupEntry, RootWrap, WRAP_LABEL, WrapStatement,
};
use conclave_proto::{CommitId, Hash, Refusal};
use conclave_rules::{CommitFacts, Committer, LeafFacts};
use openmls::group::{CommitBuilder, CommitMessageBundle, GroupContext, Initial, MlsGroup};
use openmls::prelude::MlsMessageOut;
use openmls_traits::OpenMlsProvider;

use crate::world::{GROUP, Peer, Raw, RawSigner, World, raw};

/// Authenticated data that is honest but for the roster hash.
pub fn data(world: &World) -> CommitData {
    CommitData {
        version: 1,
        time: world.now,
        seen: world.service.state().head(),
        roster: Hash::ZERO,
        checkpoint: None,
        id: CommitId([9; 16]),
    }
}

/// A wrap that states anything, signed by `peer`.
pub fn wrap(peer: &Peer, epoch: u64, commit: Hash, roster: Hash, ciphertext: Bytes) -> RootWrap {
    let statement = WrapStatement {
        group: GROUP,
        epoch,
        commit,
        roster,
        nonce: [0; 24],
        ciphertext,
    };
    let signature = peer.key.sign(WRAP_LABEL, &statement.signed_bytes());
    RootWrap {
        statement,
        signer: peer.device,
        signature,
    }
}

/// A commit built with raw OpenMLS over a member's rows.
pub fn commit(
    world: &World,
    peer: usize,
    data: &CommitData,
    plan: impl for<'a> FnOnce(CommitBuilder<'a, Initial>, &MlsContext) -> CommitBuilder<'a, Initial>,
) -> CommitBundle {
    commit_with_tree(world, peer, data, false, plan)
}

/// As [`commit`], with the ratchet tree inside the GroupInfo where asked.
pub fn commit_with_tree(
    world: &World,
    peer: usize,
    data: &CommitData,
    tree: bool,
    plan: impl for<'a> FnOnce(CommitBuilder<'a, Initial>, &MlsContext) -> CommitBuilder<'a, Initial>,
) -> CommitBundle {
    let peer = &world.peers[peer];
    let Raw { provider, mut mls } = raw(peer);
    let context = MlsContext {
        extensions: mls.extensions().clone(),
        leaves: leaves(&mls),
    };
    mls.set_aad(encode(data));
    let made = plan(mls.commit_builder(), &context)
        .load_psks(provider.storage())
        .unwrap()
        .create_group_info(true)
        .use_ratchet_tree_extension(tree)
        .build(
            provider.rand(),
            provider.crypto(),
            &RawSigner(&peer.key),
            |_| true,
        )
        .unwrap()
        .stage_commit(&provider)
        .unwrap();
    bundle(peer, world.service.state().epoch + 1, data, &made)
}

/// What the group looks like to whoever builds a commit.
pub struct MlsContext {
    pub extensions: openmls::extensions::Extensions<GroupContext>,
    pub leaves: Vec<(Vec<u8>, openmls::prelude::LeafNodeIndex)>,
}

impl MlsContext {
    pub fn leaf(&self, peer: &Peer) -> openmls::prelude::LeafNodeIndex {
        let key = peer.key.public();
        let found = self
            .leaves
            .iter()
            .find(|(known, _)| known.as_slice() == key);
        found.unwrap().1
    }
}

fn leaves(mls: &MlsGroup) -> Vec<(Vec<u8>, openmls::prelude::LeafNodeIndex)> {
    mls.members()
        .map(|member| (member.signature_key, member.index))
        .collect()
}

pub fn bundle(
    peer: &Peer,
    epoch: u64,
    data: &CommitData,
    made: &CommitMessageBundle,
) -> CommitBundle {
    let commit = made.commit().to_bytes().unwrap();
    let leaf = GroupEntry::Commit(commit.as_slice().into()).leaf();
    let info = MlsMessageOut::from(made.group_info().unwrap().clone());
    CommitBundle {
        group: GROUP,
        commit: commit.into(),
        welcome: made
            .to_welcome_msg()
            .map(|welcome| welcome.to_bytes().unwrap().into()),
        group_info: info.to_bytes().unwrap().into(),
        wrap: wrap(peer, epoch, leaf, data.roster, Bytes::default()),
    }
}

/// What every honest member makes of a commit that a dishonest service orders: it refuses, and is as before.
pub fn refused_by_members(world: &mut World, commit: &Bytes, but: &[usize]) -> Vec<ProcessError> {
    let entry = GroupEntry::Commit(commit.clone());
    let mut errors = Vec::new();
    for at in 0..world.peers.len() {
        if but.contains(&at) || !world.is_member(at) {
            continue;
        }
        let group = world.peers[at].group_mut();
        let before = (group.state().clone(), group.epoch_secrets().unwrap());
        errors.push(group.process(&entry).unwrap_err());
        let after = (group.state().clone(), group.epoch_secrets().unwrap());
        assert_eq!(before, after);
        assert!(group.take_changes().is_empty());
    }
    errors
}

/// Refused by the service with this answer.
pub fn refusal(world: &World, peer: usize, bundle: &CommitBundle) -> Refusal {
    world.judge(peer, bundle).unwrap_err()
}

/// A leaf of a peer's, as facts show it.
pub fn leaf(key: &DeviceKey, credential: &DeviceCredential) -> LeafFacts {
    LeafFacts {
        credential_type: conclave_identity::CREDENTIAL_TYPE,
        credential: credential.to_bytes().into(),
        scheme: conclave_identity::SCHEME_ED25519,
        key: key.public().to_vec().into(),
        capable: 1,
        lifetime: None,
    }
}

/// Facts of a commit that renews its author's leaf and does nothing else.
pub fn facts(world: &World, author: usize) -> CommitFacts {
    let peer = &world.peers[author];
    CommitFacts {
        epoch: world.service.state().epoch,
        committer: Committer::Member(peer.device),
        path: Some(leaf(&peer.key, &peer.credential)),
        adds: Vec::new(),
        removes: Vec::new(),
        covered: Vec::new(),
        policy: None,
        data: data(world),
    }
}

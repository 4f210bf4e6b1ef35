//! External commits by whoever follows none of our rules: raw OpenMLS, and commits changed byte by byte and signed again.

use conclave_identity::{CREDENTIAL_TYPE, DeviceCredential, DeviceKey};
use conclave_mls::Provider;
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::frame::{Answer, JoinState, Request};
use conclave_proto::group::{
    CommitBundle, CommitData, GroupEntry, RootWrap, WRAP_LABEL, WrapStatement,
};
use conclave_proto::{CommitId, DeviceId, GroupId, Hash, Head};
use openmls::group::{MlsGroup, MlsGroupJoinConfig, PURE_PLAINTEXT_WIRE_FORMAT_POLICY};
use openmls::prelude::{
    Capabilities, Credential, CredentialType, CredentialWithKey, ExtensionType, LeafNodeParameters,
    MlsMessageBodyIn, MlsMessageIn, MlsMessageOut, ProposalType, RatchetTreeIn, SignatureScheme,
};
use openmls_traits::OpenMlsProvider;
use openmls_traits::signatures::{Signer, SignerError};
use tls_codec::{Deserialize, DeserializeBytes};

use crate::harness::{Member, now, random};

/// What the service tells those who may come back.
pub struct Offer {
    pub group: GroupId,
    pub group_info: Vec<u8>,
    pub tree: Vec<u8>,
    pub state: JoinState,
    pub pending: Vec<Bytes>,
    pub head: Head,
}

pub async fn offer(member: &mut Member) -> Offer {
    let group = member.group_id();
    match member.wire.request(Request::GetGroupInfo { group }).await {
        Answer::GroupInfo {
            group_info,
            tree,
            state,
            pending,
            ..
        } => Offer {
            group,
            group_info: group_info.into_vec(),
            tree: tree.into_vec(),
            head: state.frontier.head(),
            state,
            pending,
        },
        other => panic!("{other:?}"),
    }
}

pub struct RawSigner<'a>(pub &'a DeviceKey);

impl Signer for RawSigner<'_> {
    fn sign(&self, payload: &[u8]) -> Result<Vec<u8>, SignerError> {
        Ok(self.0.sign_raw(payload).to_vec())
    }

    fn signature_scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// An external commit under any key and credential, by raw OpenMLS. Whatever it does not know is made up: it is judged first.
pub fn external(
    offer: &Offer,
    device: DeviceId,
    key: &DeviceKey,
    credential: &DeviceCredential,
) -> CommitBundle {
    let data = CommitData {
        version: 1,
        time: now(),
        seen: offer.head,
        roster: Hash::ZERO,
        checkpoint: None,
        id: CommitId(random()),
    };
    let info = MlsMessageIn::tls_deserialize_exact_bytes(&offer.group_info).unwrap();
    let MlsMessageBodyIn::GroupInfo(info) = info.extract() else {
        panic!("no GroupInfo")
    };
    let epoch = info.epoch().as_u64() + 1;
    let tree = RatchetTreeIn::tls_deserialize(&mut offer.tree.as_slice()).unwrap();
    let capabilities = Capabilities::builder()
        .ciphersuites(vec![info.ciphersuite()])
        .extensions(vec![
            ExtensionType::from(conclave_mls::POLICY_EXTENSION),
            ExtensionType::LastResort,
        ])
        .proposals(vec![ProposalType::SelfRemove])
        .credentials(vec![CredentialType::from(CREDENTIAL_TYPE)])
        .build();
    let provider = Provider::default();
    let config = MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .build();
    let with_key = CredentialWithKey {
        credential: Credential::new(CredentialType::from(CREDENTIAL_TYPE), credential.to_bytes()),
        signature_key: key.public().to_vec().into(),
    };
    let (_, made) = MlsGroup::external_commit_builder()
        .with_ratchet_tree(tree)
        .with_config(config)
        .with_aad(encode(&data))
        .skip_lifetime_validation()
        .build_group(&provider, info, with_key)
        .unwrap()
        .leaf_node_parameters(
            LeafNodeParameters::builder()
                .with_capabilities(capabilities)
                .build(),
        )
        .load_psks(provider.storage())
        .unwrap()
        .create_group_info(true)
        .build(provider.rand(), provider.crypto(), &RawSigner(key), |_| {
            true
        })
        .unwrap()
        .finalize(&provider)
        .unwrap();
    let commit = made.commit().to_bytes().unwrap();
    let statement = WrapStatement {
        group: offer.group,
        epoch,
        commit: GroupEntry::Commit(commit.as_slice().into()).leaf(),
        roster: Hash::ZERO,
        nonce: [0; 24],
        ciphertext: Bytes::default(),
    };
    let signature = key.sign(WRAP_LABEL, &statement.signed_bytes());
    CommitBundle {
        group: offer.group,
        commit: commit.into(),
        welcome: None,
        group_info: MlsMessageOut::from(made.group_info().unwrap().clone())
            .to_bytes()
            .unwrap()
            .into(),
        wrap: RootWrap {
            statement,
            signer: device,
            signature,
        },
    }
}

/// Length of a vector (RFC 9420 §2.1.2) at `at`, and where its content begins.
fn vector(bytes: &[u8], at: usize) -> (usize, usize) {
    let width = 1 << (bytes[at] >> 6);
    let mut length = usize::from(bytes[at] & 0x3f);
    for byte in &bytes[at + 1..at + width] {
        length = length << 8 | usize::from(*byte);
    }
    (length, at + width)
}

fn skip_vector(bytes: &[u8], at: usize) -> usize {
    let (length, start) = vector(bytes, at);
    start + length
}

pub fn with_length(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    let mut out = match length {
        0..64 => vec![length as u8],
        64..16384 => (length as u16 | 0x4000).to_be_bytes().to_vec(),
        _ => (length | 0x8000_0000).to_be_bytes().to_vec(),
    };
    out.extend_from_slice(content);
    out
}

/// Signature and confirmation tag, each with its length.
const TAIL_BYTES: usize = 2 + 64 + 1 + 32;

/// An external commit in its parts.
pub struct Parts {
    head: Vec<u8>,
    pub proposals: Vec<u8>,
    rest: Vec<u8>,
    tag: Vec<u8>,
}

pub fn parts(commit: &[u8]) -> Parts {
    // Version and wire format, group, epoch, sender type, authenticated data, content type.
    let group = skip_vector(commit, 4);
    let data = group + 8 + 1;
    assert_eq!(commit[data - 1], 4, "not an external commit");
    let proposals = skip_vector(commit, data) + 1;
    let (length, start) = vector(commit, proposals);
    let end = commit.len() - TAIL_BYTES;
    Parts {
        head: commit[..proposals].to_vec(),
        proposals: commit[start..start + length].to_vec(),
        rest: commit[start + length..end].to_vec(),
        tag: commit[end + 66..].to_vec(),
    }
}

/// The GroupContext inside a GroupInfo, and its extensions.
pub fn context(group_info: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let group = 4 + 2 + 2;
    let tree_hash = skip_vector(group_info, group) + 8;
    let transcript = skip_vector(group_info, tree_hash);
    let extensions = skip_vector(group_info, transcript);
    let end = skip_vector(group_info, extensions);
    let (_, start) = vector(group_info, extensions);
    (group_info[4..end].to_vec(), group_info[start..end].to_vec())
}

impl Parts {
    /// The commit again, signed by `key` (RFC 9420 §6.1).
    pub fn sign(&self, offer: &Offer, key: &DeviceKey) -> Bytes {
        let mut commit = self.head.clone();
        commit.extend(with_length(&self.proposals));
        commit.extend_from_slice(&self.rest);
        let mut signed = commit.clone();
        signed.extend(context(&offer.group_info).0);
        let signature = key.sign("FramedContentTBS", &signed);
        commit.extend(with_length(&signature));
        commit.extend_from_slice(&self.tag);
        commit.into()
    }

    pub fn remove(mut self, leaf: u32) -> Self {
        self.proposals.extend([1, 0, 3]);
        self.proposals.extend(leaf.to_be_bytes());
        self
    }

    /// `key_package` is an `MLSMessage`.
    pub fn add(mut self, key_package: &[u8]) -> Self {
        self.proposals.extend([1, 0, 1]);
        self.proposals.extend_from_slice(&key_package[4..]);
        self
    }

    pub fn extensions(mut self, extensions: &[u8]) -> Self {
        self.proposals.extend([1, 0, 7]);
        self.proposals.extend(with_length(extensions));
        self
    }
}

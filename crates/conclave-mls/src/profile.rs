//! The MLS profile: suite, capabilities, extensions and group configuration (`docs/PROTOCOL.md`, MLS profile).

use conclave_identity::CREDENTIAL_TYPE;
use conclave_proto::codec::encode;
use conclave_proto::policy::GroupPolicy;
use conclave_proto::refusal::CommitFault;
use conclave_proto::{UnixMs, limits};
use conclave_rules::LeafLifetime;
use openmls::credentials::CredentialType;
use openmls::extensions::{
    Extension, ExtensionType, Extensions, RequiredCapabilitiesExtension, UnknownExtension,
};
use openmls::group::{
    GroupContext, MlsGroupCreateConfig, MlsGroupJoinConfig, PURE_PLAINTEXT_WIRE_FORMAT_POLICY,
};
use openmls::key_packages::Lifetime;
use openmls::messages::proposals::ProposalType;
use openmls::prelude::Capabilities;
use openmls::treesync::{LeafNode, LeafNodeSource};
use openmls_traits::types::{Ciphersuite, VerifiableCiphersuite};

/// GroupContext extension that carries the [`GroupPolicy`] (private use, RFC 9420 §17.3).
pub const POLICY_EXTENSION: u16 = 0xF0C2;

/// The default cipher suite, 0x0003.
pub(crate) const SUITE: Ciphersuite =
    Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519;

fn policy_type() -> ExtensionType {
    ExtensionType::from(POLICY_EXTENSION)
}

fn device_credential_type() -> CredentialType {
    CredentialType::from(CREDENTIAL_TYPE)
}

/// Capabilities of every leaf.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities::builder()
        .ciphersuites(vec![SUITE])
        .extensions(vec![policy_type(), ExtensionType::LastResort])
        .proposals(vec![ProposalType::SelfRemove])
        .credentials(vec![device_credential_type()])
        .build()
}

/// What every group requires of its leaves, from epoch 0 and for good.
pub(crate) fn required_capabilities() -> RequiredCapabilitiesExtension {
    RequiredCapabilitiesExtension::new(
        &[policy_type(), ExtensionType::LastResort],
        &[ProposalType::SelfRemove],
        &[device_credential_type()],
    )
}

/// Whether a leaf has every capability that groups here need.
pub(crate) fn capabilities_complete(found: &Capabilities) -> bool {
    let wanted = capabilities();
    found
        .versions()
        .iter()
        .any(|v| wanted.versions().contains(v))
        && found
            .ciphersuites()
            .contains(&VerifiableCiphersuite::from(SUITE))
        && wanted
            .extensions()
            .iter()
            .all(|e| found.extensions().contains(e))
        && wanted
            .proposals()
            .iter()
            .all(|p| found.proposals().contains(p))
        && wanted
            .credentials()
            .iter()
            .all(|c| found.credentials().contains(c))
}

/// Configuration of groups joined or rejoined.
pub(crate) fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .build()
}

/// Configuration of a new group.
pub(crate) fn create_config(
    policy: &GroupPolicy,
    now: UnixMs,
) -> Result<MlsGroupCreateConfig, CommitFault> {
    Ok(MlsGroupCreateConfig::builder()
        .ciphersuite(SUITE)
        .capabilities(capabilities())
        .lifetime(lifetime(now))
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .use_ratchet_tree_extension(false)
        .max_past_epochs(0)
        .number_of_resumption_psks(0)
        .with_group_context_extensions(context_extensions(policy)?)
        .build())
}

/// GroupContext extensions under a policy: required capabilities and the policy, nothing else.
pub(crate) fn context_extensions(
    policy: &GroupPolicy,
) -> Result<Extensions<GroupContext>, CommitFault> {
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(required_capabilities()),
        Extension::Unknown(POLICY_EXTENSION, UnknownExtension(encode(policy))),
    ])
    .map_err(|_| CommitFault::Policy)
}

/// Reads the policy of a GroupContext, which must have exactly the extensions of [`context_extensions`], and the suite of the profile.
pub(crate) fn read_policy(context: &GroupContext) -> Result<GroupPolicy, CommitFault> {
    let extensions = context.extensions();
    let bytes = extensions
        .unknown(POLICY_EXTENSION)
        .ok_or(CommitFault::Policy)?;
    let policy = GroupPolicy::from_bytes(&bytes.0).map_err(|_| CommitFault::Policy)?;
    let required = extensions
        .required_capabilities()
        .ok_or(CommitFault::Policy)?;
    if *required != required_capabilities()
        || extensions.iter().count() != 2
        || context.ciphersuite() != SUITE
    {
        return Err(CommitFault::Policy);
    }
    Ok(policy)
}

/// Lifetime of a key package or of a creator's leaf made now. OpenMLS compares lifetimes with the clock of whoever processes them; this one
/// is neutral: it holds for every clock that is set to this century or the last.
pub(crate) fn lifetime(now: UnixMs) -> Lifetime {
    let now_s = now.0 / 1000;
    Lifetime::init(0, now_s.saturating_add(limits::KEY_PACKAGE_VALIDITY_S))
}

/// The lifetime of a leaf that came with a key package.
pub(crate) fn leaf_lifetime(leaf: &LeafNode) -> Option<LeafLifetime> {
    match leaf.leaf_node_source() {
        LeafNodeSource::KeyPackage(lifetime) => Some(LeafLifetime {
            not_before_s: lifetime.not_before(),
            not_after_s: lifetime.not_after(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_leaves_are_complete_and_others_are_not() {
        assert!(capabilities_complete(&capabilities()));
        assert!(!capabilities_complete(&Capabilities::default()));
    }

    #[test]
    fn only_the_neutral_form_suits_within_its_bounds() {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let now = UnixMs(1_760_000_000_000);
        let own = lifetime(now);
        let own = LeafLifetime {
            not_before_s: own.not_before(),
            not_after_s: own.not_after(),
        };
        assert_eq!(own.made(), Some(now));
        for (time, suits) in [
            (now, true),
            (now.plus_ms(366 * DAY_MS), true),
            (now.plus_ms(366 * DAY_MS + 1), false),
            (UnixMs(now.0 - 3_600_000), true),
            (UnixMs(now.0 - 3_600_001), false),
        ] {
            assert_eq!(own.suits_add_at(time), suits, "{time:?}");
        }
        let others = [
            (1, own.not_after_s),
            (now.0 / 1000 - 3600, own.not_after_s),
            (0, limits::KEY_PACKAGE_VALIDITY_S - 1),
            (0, 0),
            (0, u64::MAX),
        ];
        for (not_before_s, not_after_s) in others {
            let other = LeafLifetime {
                not_before_s,
                not_after_s,
            };
            assert!(!other.suits_add_at(now), "{other:?}");
        }
    }
}

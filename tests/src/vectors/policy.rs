//! Group policies, and the extensions of the GroupContext.

use anyhow::{Context as _, Result, ensure};
use conclave_mls::{ClientGroup, DeviceContext, POLICY_EXTENSION};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::policy::{Anchor, GroupPolicy, JoinerAccess, Pinned, Role};
use conclave_proto::{GroupId, UserId};
use tls_codec::DeserializeBytes as _;

use super::identity::Cast;
use super::{Book, NOW};

/// RFC 9420 §17.3.
const REQUIRED_CAPABILITIES: u16 = 3;

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let cast = Cast::new()?;
    let mut policy = GroupPolicy::default();
    policy.set_role(cast.anna.user_id(), Role::Owner);
    book.of(
        "default policy of a group that Anna creates",
        "GroupPolicy",
        &policy,
    )?;
    let context = context_extensions(&cast, policy.clone())?;
    let [required, of_policy] = context.as_slice() else {
        anyhow::bail!("{} extensions", context.len());
    };
    ensure!(required.kind == REQUIRED_CAPABILITIES && of_policy.kind == POLICY_EXTENSION);
    ensure!(
        of_policy.data.as_slice() == encode(&policy),
        "another policy"
    );
    let kinds = [required, of_policy].map(encode);
    book.plain("extensions of the GroupContext under that policy")
        .makes(
            "required_capabilities, with type and length",
            "",
            &[],
            &kinds[0],
        )
        .makes("0xF0C2, with type and length", "", &[], &kinds[1])
        .makes(
            "both, as the GroupContext has them",
            "",
            &[],
            encode(&context),
        );
    policy.set_role(UserId([0x33; 32]), Role::Viewer);
    policy.default_role = Role::Editor;
    policy.trust.pinned = Pinned::FirstUse;
    policy.trust.anchors = vec![Anchor {
        uri_prefix: Bytes::from(b"https://people.example/".as_slice()),
        certificate: Bytes::from([0x30, 0x03, 0x02, 0x01, 0x05].as_slice()),
    }];
    policy.joiner_access = JoinerAccess::FromJoin;
    policy.padding_bytes = 256;
    book.of("another policy", "GroupPolicy", &policy)?;
    Ok(())
}

/// An extension of MLS.
#[derive(Debug, tls_codec::TlsSize, tls_codec::TlsSerialize, tls_codec::TlsDeserializeBytes)]
struct Extension {
    kind: u16,
    data: Bytes,
}

/// What a GroupInfo begins with, up to the extensions of its GroupContext (RFC 9420 §6, §8.1, §12.4.3).
#[derive(tls_codec::TlsSize, tls_codec::TlsDeserializeBytes)]
struct InfoStart {
    _version: u16,
    _wire_format: u16,
    _mls: u16,
    _suite: u16,
    _group: Bytes,
    _epoch: u64,
    _tree_hash: Bytes,
    _transcript: Bytes,
    extensions: Vec<Extension>,
}

/// The extensions of a real group. Everything else in its GroupInfo is random.
fn context_extensions(cast: &Cast, policy: GroupPolicy) -> Result<Vec<Extension>> {
    let device = DeviceContext {
        key: &cast.first_key,
        credential: &cast.credential,
    };
    let (_, created) = ClientGroup::create(&device, GroupId([1; 16]), policy, NOW)?;
    let (start, _) = InfoStart::tls_deserialize_bytes(&created.group_info)
        .ok()
        .context("no GroupInfo")?;
    Ok(start.extensions)
}

//! Reading MLS messages: capped, whole, and with panics contained.

use std::panic::{AssertUnwindSafe, catch_unwind};

use conclave_identity::verify;
use conclave_proto::codec::{Bytes, decode};
use conclave_proto::limits::MLS_MESSAGE_BYTES;
use conclave_proto::refusal::CommitFault;
use openmls::extensions::Extension;
use openmls::framing::{MlsMessageBodyIn, MlsMessageIn, PublicMessageIn};
use openmls::group::GroupContext;
use openmls::messages::group_info::VerifiableGroupInfo;
use openmls::messages::{ConfirmationTag, Welcome};
use openmls::prelude::{LeafNodeIndex, RatchetTreeIn};
use tls_codec::{DeserializeBytes, Serialize};

/// Length in bytes of the header of an `MLSMessage`: version and wire format (RFC 9420 §6).
const MESSAGE_HEADER_BYTES: usize = 4;
/// Label under which MLS signs a GroupInfo (RFC 9420 §12.4.3).
const GROUP_INFO_LABEL: &str = "GroupInfoTBS";
/// Length in bytes of an X25519 public key.
const X25519_KEY_BYTES: usize = 32;

/// OpenMLS panicked. Whatever it was working on has to be dropped and loaded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Runs OpenMLS on foreign bytes. A panic becomes an error; the caller reverts what the closure touched.
pub(crate) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// Reads one whole `MLSMessage`.
pub(crate) fn parse(bytes: &[u8]) -> Option<MlsMessageBodyIn> {
    if bytes.len() > MLS_MESSAGE_BYTES {
        return None;
    }
    contained(|| MlsMessageIn::tls_deserialize_exact_bytes(bytes).ok())
        .ok()
        .flatten()
        .map(MlsMessageIn::extract)
}

/// A commit or proposal: always a PublicMessage here.
pub(crate) fn handshake(bytes: &[u8]) -> Result<PublicMessageIn, CommitFault> {
    match parse(bytes) {
        Some(MlsMessageBodyIn::PublicMessage(message)) => Ok(message),
        _ => Err(CommitFault::Mls),
    }
}

/// A GroupInfo.
pub(crate) fn group_info(bytes: &[u8]) -> Result<VerifiableGroupInfo, CommitFault> {
    match parse(bytes) {
        Some(MlsMessageBodyIn::GroupInfo(info)) => Ok(info),
        _ => Err(CommitFault::GroupInfo),
    }
}

/// A Welcome.
pub(crate) fn welcome(bytes: &[u8]) -> Result<Welcome, CommitFault> {
    match parse(bytes) {
        Some(MlsMessageBodyIn::Welcome(welcome)) => Ok(welcome),
        _ => Err(CommitFault::Welcome),
    }
}

/// A ratchet tree, as served beside a Welcome or GroupInfo.
pub(crate) fn ratchet_tree(bytes: &[u8]) -> Result<RatchetTreeIn, CommitFault> {
    if bytes.len() > MLS_MESSAGE_BYTES {
        return Err(CommitFault::Limit);
    }
    contained(|| RatchetTreeIn::tls_deserialize_exact_bytes(bytes).ok())
        .ok()
        .flatten()
        .ok_or(CommitFault::GroupInfo)
}

/// What the GroupInfo of the epoch that a commit begins has to say.
pub(crate) struct ExpectedGroupInfo<'a> {
    /// GroupContext of the new epoch.
    pub(crate) context: &'a GroupContext,
    /// The commit's confirmation tag.
    pub(crate) tag: &'a ConfirmationTag,
    /// Leaf of the committer in the new epoch.
    pub(crate) signer: LeafNodeIndex,
    /// Its signature key.
    pub(crate) key: &'a [u8],
}

impl ExpectedGroupInfo<'_> {
    /// Checks an encoded GroupInfo byte for byte: context, exactly one `external_pub` extension, confirmation tag, signer, signature.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<(), CommitFault> {
        self.matches(bytes).ok_or(CommitFault::GroupInfo)
    }

    fn matches(&self, bytes: &[u8]) -> Option<()> {
        let info = group_info(bytes).ok()?;
        check_extensions(&info).ok()?;
        let mut signed = self.context.tls_serialize_detached().ok()?;
        signed.extend(info.extensions().tls_serialize_detached().ok()?);
        signed.extend(self.tag.tls_serialize_detached().ok()?);
        signed.extend(self.signer.tls_serialize_detached().ok()?);
        let body = bytes.get(MESSAGE_HEADER_BYTES..)?;
        let rest = body.strip_prefix(signed.as_slice())?;
        let signature: Bytes = decode("signature", rest, 128).ok()?;
        let signature: &[u8; 64] = signature.as_slice().try_into().ok()?;
        verify(self.key, GROUP_INFO_LABEL, &signed, signature).ok()
    }
}

/// A GroupInfo here has one extension, an X25519 `external_pub`; trees travel beside it.
pub(crate) fn check_extensions(info: &VerifiableGroupInfo) -> Result<(), CommitFault> {
    let mut extensions = info.extensions().iter();
    match (extensions.next(), extensions.next()) {
        (Some(Extension::ExternalPub(key)), None)
            if key.external_pub().as_slice().len() == X25519_KEY_BYTES =>
        {
            Ok(())
        }
        _ => Err(CommitFault::GroupInfo),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_refused_and_panics_are_contained() {
        assert!(parse(&[]).is_none());
        assert!(parse(&[0xff; 64]).is_none());
        assert!(ratchet_tree(&[0xff; 9]).is_err());
        assert_eq!(contained(|| panic!("as a test")), Err::<(), _>(Panicked));
    }
}

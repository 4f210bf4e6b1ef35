//! One message: sealed and signed, opened and checked.

use conclave_doc::{DocKeys, open_bytes, seal_bytes};
use conclave_identity::{DeviceKey, SignatureKey};
use conclave_proto::codec::encode;
use conclave_proto::limits::{PRESENCE_BYTES, PRESENCE_PADDING_BYTES};
use conclave_proto::presence::{
    PRESENCE_LABEL, PresenceBody, PresenceContent, PresenceHeader, PresenceItem, Shown,
    presence_core,
};
use conclave_proto::record::Sealed;
use rand_core::CryptoRngCore;
use tls_codec::DeserializeBytes;

/// Why a message is passed over. Nothing else follows from it: presence is not kept, and the next message may be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It is this session's own.
    #[error("the message is this session's own")]
    Own,
    /// Of an epoch that is over.
    #[error("the message is of an epoch that is over")]
    Epoch,
    /// Whoever wrote it is no member.
    #[error("the message is of a device that is no member")]
    NotAMember,
    /// It is for another session.
    #[error("the message is for another session")]
    NotForThis,
    /// Its author had seen less of the log than this device can check.
    #[error("the message is of somebody who is far behind")]
    Below,
    /// Its author names another history of the document than the one that is here.
    #[error("the message names another history of the document")]
    OtherLog,
    /// It came before, or one that its author sent later did.
    #[error("the message, or a later one, came before")]
    Replayed,
    /// An echo that is not of this session.
    #[error("the message proves nothing to this session")]
    Unproven,
    /// It is not made of what it has to be made of.
    #[error("the message is malformed")]
    Malformed,
    /// Its commitment is to another key.
    #[error("the message is sealed under another key")]
    Commitment,
    /// It does not open.
    #[error("the message does not open")]
    Open,
    /// It is not signed by its author.
    #[error("the message is not signed by its author")]
    Signature,
    /// There is no room for more that waits.
    #[error("too much waits to be checked")]
    Full,
}

/// Seals and signs a message. Its content may take [`PRESENCE_BYTES`] less one when encoded; `None` where it is longer.
#[must_use]
pub fn seal(
    header: &PresenceHeader,
    content: &PresenceContent,
    keys: &DocKeys,
    signer: &DeviceKey,
    rng: &mut dyn CryptoRngCore,
) -> Option<PresenceItem> {
    let mut nonce = [0; 24];
    rng.fill_bytes(&mut nonce);
    seal_with_nonce(header, content, keys, signer, nonce)
}

/// As [`seal`], with a given nonce: for test vectors. A nonce must never be used twice under one key.
#[must_use]
pub fn seal_with_nonce(
    header: &PresenceHeader,
    content: &PresenceContent,
    keys: &DocKeys,
    signer: &DeviceKey,
    nonce: [u8; 24],
) -> Option<PresenceItem> {
    let payload = encode(content);
    if payload.len() >= PRESENCE_BYTES {
        return None;
    }
    let mut sealed = seal_bytes(
        &encode(header),
        &payload,
        keys,
        PRESENCE_PADDING_BYTES,
        nonce,
    );
    let core = presence_core(header, &sealed);
    sealed.signature = signer.sign(PRESENCE_LABEL, &core.0);
    Some(PresenceItem::new(header, sealed))
}

/// Opens a message. Its signature is not looked at.
///
/// # Errors
/// [`Refused::Malformed`], [`Refused::Commitment`], [`Refused::Open`].
pub fn open(
    header: &PresenceHeader,
    sealed: &Sealed,
    keys: &DocKeys,
) -> Result<PresenceContent, Refused> {
    use conclave_proto::refusal::RecordFault;
    let payload = open_bytes(
        &encode(header),
        sealed,
        PRESENCE_BYTES,
        &keys.of_record(&sealed.nonce),
    )
    .map_err(|fault| match fault {
        RecordFault::Commitment => Refused::Commitment,
        RecordFault::Open => Refused::Open,
        _ => Refused::Malformed,
    })?;
    let content =
        PresenceContent::tls_deserialize_exact_bytes(&payload).map_err(|_| Refused::Malformed)?;
    let shown = match &content.body {
        PresenceBody::Reply { now, .. } | PresenceBody::Answer { now, .. } => Some(now),
        PresenceBody::State(shown) => Some(shown),
        PresenceBody::Hello { .. } | PresenceBody::Gone | PresenceBody::Beat { .. } => None,
    };
    if content.session == header.session && shown.is_none_or(Shown::is_well_formed) {
        Ok(content)
    } else {
        Err(Refused::Malformed)
    }
}

/// Checks a message's signature.
///
/// # Errors
/// [`Refused::Signature`].
pub(crate) fn check(
    header: &PresenceHeader,
    sealed: &Sealed,
    key: &SignatureKey,
) -> Result<(), Refused> {
    let core = presence_core(header, sealed);
    key.verify(PRESENCE_LABEL, &core.0, &sealed.signature)
        .map_err(|_| Refused::Signature)
}

//! Root wraps: older live roots, sealed to whoever holds an epoch's wrap key (`docs/PROTOCOL.md`, Epoch keys).

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use conclave_proto::codec::{Bytes, decode, encode};
use conclave_proto::group::{RootWrap, WRAP_LABEL, WrapStatement};
use conclave_proto::limits;
use conclave_proto::policy::JoinerAccess;
use conclave_rules::GroupState;
use rand_core::CryptoRngCore;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};
use zeroize::{Zeroize, Zeroizing};

use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::keys::{EpochRoot, EpochSecrets};

const TAG_BYTES: usize = 16;
const WRAPPED_ROOT_BYTES: usize = 8 + 32;
/// Most roots in one wrap: those, the list's prefix and the tag stay below the size limit.
const MAX_ROOTS: usize = (limits::WRAP_BYTES - TAG_BYTES - 8) / WRAPPED_ROOT_BYTES;

/// One root in a wrap's plaintext: `uint64 epoch; opaque root[32];`.
#[derive(TlsSize, TlsSerialize, TlsDeserializeBytes)]
struct WrappedRoot {
    epoch: u64,
    root: [u8; 32],
}

impl std::fmt::Debug for WrappedRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WrappedRoot(epoch {}, ..)", self.epoch)
    }
}

impl Drop for WrappedRoot {
    fn drop(&mut self) {
        self.root.zeroize();
    }
}

/// Seals `roots` (those older than the epoch, at most the newest [`MAX_ROOTS`]) for the epoch that `state` is in, and signs the statement.
/// Where joiners may not read what is older, nothing is sealed; the statement is signed all the same, for joiners check the roster by it.
pub(crate) fn seal(
    state: &GroupState,
    device: &DeviceContext<'_>,
    secrets: &EpochSecrets,
    roots: &[(u64, EpochRoot)],
    rng: &mut dyn CryptoRngCore,
) -> Result<RootWrap, MlsError> {
    let mut statement = WrapStatement {
        group: state.group,
        epoch: state.epoch,
        commit: state.begun_by,
        roster: state.roster_hash(),
        nonce: [0; 24],
        ciphertext: Bytes::default(),
    };
    if secrets.epoch != state.epoch {
        return Err(MlsError::BadWrap);
    }
    let mut wanted: Vec<WrappedRoot> = match state.policy.joiner_access {
        JoinerAccess::FromJoin => Vec::new(),
        JoinerAccess::LiveContent => roots
            .iter()
            .filter(|(epoch, _)| *epoch < state.epoch)
            .map(|(epoch, root)| WrappedRoot {
                epoch: *epoch,
                root: *root.as_bytes(),
            })
            .collect(),
    };
    wanted.sort_by_key(|root| root.epoch);
    wanted.dedup_by_key(|root| root.epoch);
    let surplus = wanted.len().saturating_sub(MAX_ROOTS);
    wanted.drain(..surplus);
    if !wanted.is_empty() {
        rng.fill_bytes(&mut statement.nonce);
        let plaintext = Zeroizing::new(encode(&wanted));
        let sealed = cipher(secrets)
            .encrypt(
                XNonce::from_slice(&statement.nonce),
                Payload {
                    msg: &plaintext,
                    aad: &statement.associated_data(),
                },
            )
            .map_err(|_| MlsError::BadWrap)?;
        statement.ciphertext = sealed.into();
    }
    let signature = device.key.sign(WRAP_LABEL, &statement.signed_bytes());
    Ok(RootWrap {
        statement,
        signer: device.device(),
        signature,
    })
}

/// Opens a wrap with the secrets of its epoch: the older roots, by epoch. Who signed it and what it states is
/// [`GroupState::judge_wrap`]'s to check, first.
///
/// # Errors
/// [`MlsError::BadWrap`].
pub fn open_wrap(
    secrets: &EpochSecrets,
    wrap: &RootWrap,
) -> Result<Vec<(u64, EpochRoot)>, MlsError> {
    let statement = &wrap.statement;
    if statement.epoch != secrets.epoch || statement.ciphertext.len() > limits::WRAP_BYTES {
        return Err(MlsError::BadWrap);
    }
    if statement.ciphertext.is_empty() {
        return Ok(Vec::new());
    }
    let plaintext = cipher(secrets)
        .decrypt(
            XNonce::from_slice(&statement.nonce),
            Payload {
                msg: statement.ciphertext.as_slice(),
                aad: &statement.associated_data(),
            },
        )
        .map(Zeroizing::new)
        .map_err(|_| MlsError::BadWrap)?;
    let roots: Vec<WrappedRoot> =
        decode("root wrap", &plaintext, limits::WRAP_BYTES).map_err(|_| MlsError::BadWrap)?;
    let ascending = roots.windows(2).all(|pair| match pair {
        [a, b] => a.epoch < b.epoch,
        _ => true,
    });
    let older = roots.last().is_none_or(|root| root.epoch < secrets.epoch);
    if !ascending || !older {
        return Err(MlsError::BadWrap);
    }
    Ok(roots
        .iter()
        .map(|root| (root.epoch, EpochRoot::new(root.root)))
        .collect())
}

fn cipher(secrets: &EpochSecrets) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(secrets.wrap_key.as_bytes().into())
}

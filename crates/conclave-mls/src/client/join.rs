//! Joining by Welcome.

use conclave_identity::Identity;
use conclave_proto::UnixMs;
use conclave_proto::frame::WelcomeDelivery;
use conclave_rules::GroupState;
use openmls::group::{MlsGroup, StagedWelcome, WelcomeError};

use super::{ClientGroup, invitation};
use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::keys::EpochSecrets;
use crate::keystore::KeyStore;
use crate::message;
use crate::overlay::{self, storage::KEY_PACKAGE};
use crate::profile;
use crate::provider::Provider;

const JOINING: MlsError = MlsError::Mls {
    what: "joining by welcome",
};

/// A group joined.
#[derive(Debug)]
pub struct Joined {
    /// Secrets of the epoch joined.
    pub secrets: EpochSecrets,
    /// Who made the commit that brought this device in. The caller decides whether that user is trusted.
    pub inviter: Identity,
}

impl ClientGroup {
    /// Joins a group. The old rows of a group with the same id have to be deleted first.
    ///
    /// Checked: the tree's leaves, each through the one door and as the same set as the roster's members; the roster by its own chain of
    /// hashes; the inviter's signature over group, epoch, roster and the commit; the document list by its signed entries; that the
    /// credential of the inviter holds at `now`.
    ///
    /// # Errors
    /// [`MlsError`]. The key store is then as before: the key package that the Welcome answers stays usable.
    pub fn join(
        device: &DeviceContext<'_>,
        keys: &mut KeyStore,
        delivery: &WelcomeDelivery,
        now: UnixMs,
    ) -> Result<(Self, Joined), MlsError> {
        let state = read_delivery(delivery)?;
        // OpenMLS deletes the key package as soon as it has looked at the Welcome: lend it a copy.
        let provider = Provider::new(keys.rows());
        let (mls, inviter) = stage(&provider, device, &state, delivery, now)?;

        let lent = overlay::prefix(KEY_PACKAGE);
        let left = provider.overlay().rows_under(&lent);
        let mut own = provider.overlay().rows();
        own.retain(|(key, _)| !key.starts_with(&lent));
        let provider = Provider::default();
        for (key, value) in own {
            provider.overlay().put_row(&key, Some(value));
        }
        let group = Self::start(provider, mls, state, device.device(), None);
        let secrets = group.epoch_secrets()?;
        keys.adopt(&left);
        Ok((group, Joined { secrets, inviter }))
    }
}

fn read_delivery(delivery: &WelcomeDelivery) -> Result<GroupState, MlsError> {
    let state = invitation::read_state(delivery.group, &delivery.state)?;
    let fits = state.epoch == delivery.epoch
        && state.epoch > 0
        && state.frontier == delivery.state.frontier
        && state.frontier.size() == state.epoch_start
        && state.pending.is_empty();
    if fits {
        Ok(state)
    } else {
        Err(MlsError::BadInvitation { what: "state" })
    }
}

fn stage(
    provider: &Provider,
    device: &DeviceContext<'_>,
    state: &GroupState,
    delivery: &WelcomeDelivery,
    now: UnixMs,
) -> Result<(MlsGroup, Identity), MlsError> {
    let welcome = message::welcome(delivery.welcome.as_slice())?;
    let tree = message::ratchet_tree(delivery.tree.as_slice())?;
    let config = profile::join_config();
    let staged = message::contained(|| {
        StagedWelcome::build_from_welcome(provider, &config, welcome)?
            .with_ratchet_tree(tree)
            .skip_lifetime_validation()
            .build()
    })
    .map_err(|_| MlsError::Panicked)?
    .map_err(|error| match error {
        WelcomeError::NoMatchingKeyPackage => MlsError::NoKeyPackage,
        _ => JOINING,
    })?;
    invitation::check_tree(state, staged.group_context(), staged.members())?;
    let own_key = staged
        .own_leaf_node()
        .map(|leaf| leaf.signature_key().as_slice().to_vec());
    invitation::check_own(state, device, &own_key.unwrap_or_default())?;
    let inviter = staged
        .welcome_sender()
        .ok()
        .and_then(|leaf| state.row_by_key(leaf.signature_key().as_slice()))
        .ok_or(MlsError::BadInvitation { what: "inviter" })?;
    let inviter = invitation::check_inviter(state, inviter, &delivery.state, now)?;
    let mls = message::contained(|| staged.into_group(provider))
        .map_err(|_| MlsError::Panicked)?
        .map_err(|_| JOINING)?;
    Ok((mls, inviter))
}

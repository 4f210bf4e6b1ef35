//! Creating a group.

use conclave_proto::policy::{GroupPolicy, Role};
use conclave_proto::refusal::CommitFault;
use conclave_proto::{GroupId, UnixMs};
use openmls::group::{GroupId as MlsGroupId, MlsGroup};
use openmls_traits::OpenMlsProvider;
use tls_codec::Serialize;

use super::ClientGroup;
use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::profile;
use crate::provider::Provider;
use crate::public::genesis;
use crate::stored::Changed;

/// What the service needs to take up a new group.
#[derive(Debug, Clone)]
pub struct Created {
    /// GroupInfo of epoch 0 (`MLSMessage`).
    pub group_info: Vec<u8>,
    /// Ratchet tree of epoch 0.
    pub tree: Vec<u8>,
}

impl ClientGroup {
    /// Creates a group with this device as its only member. Its user becomes an owner, whatever `policy` says.
    ///
    /// # Errors
    /// [`MlsError::Forbidden`] for a policy or credential that no group can begin with.
    pub fn create(
        device: &DeviceContext<'_>,
        group: GroupId,
        mut policy: GroupPolicy,
        now: UnixMs,
    ) -> Result<(Self, Created), MlsError> {
        policy.set_role(device.credential.certificate.user, Role::Owner);
        let provider = Provider::default();
        let failed = MlsError::Mls {
            what: "creating the group",
        };
        let mls = MlsGroup::new_with_group_id(
            &provider,
            &device.signer(),
            &profile::create_config(&policy, now)?,
            MlsGroupId::from_slice(group.as_bytes()),
            device.credential_with_key(),
        )
        .map_err(|_| failed.clone())?;
        // The same reading as the service's: what one refuses, the other does.
        let state = genesis(mls.public_group(), now)?;
        let group_info = mls
            .export_group_info(provider.crypto(), &device.signer(), false)
            .ok()
            .and_then(|message| message.to_bytes().ok())
            .ok_or(failed.clone())?;
        let tree = mls
            .export_ratchet_tree()
            .tls_serialize_detached()
            .map_err(|_| failed)?;
        let created = Created { group_info, tree };
        let client = Self::start(provider, mls, state, device.device(), None);
        Ok((client, created))
    }

    /// Says when a group that the service does not have yet begins: before it is offered, and again only where the service has refused that
    /// time. MLS state, ids and what was sealed stay.
    ///
    /// # Errors
    /// [`MlsError::Forbidden`] for a group that has gone on.
    pub fn found(&mut self, founded: UnixMs) -> Result<(), MlsError> {
        if self.state.epoch != 0 || self.state.head().size != 0 || self.pending.is_some() {
            return Err(CommitFault::Time.into());
        }
        self.state = genesis(self.mls.public_group(), founded)?;
        self.save_state(Changed::All);
        Ok(())
    }
}

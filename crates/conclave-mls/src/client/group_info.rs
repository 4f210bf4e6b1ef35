//! Looking after the GroupInfo with which members come back.

use conclave_proto::DeviceId;
use openmls_traits::OpenMlsProvider;
use tls_codec::Serialize;

use super::ClientGroup;
use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::message::{self, ExpectedGroupInfo};

const EXPORTING: MlsError = MlsError::Mls {
    what: "exporting a GroupInfo",
};

/// What a member finds of a GroupInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupInfoVerdict {
    /// A device can come back with it: it is of the current epoch, a member signed it, and its external key is the group's.
    Good,
    /// Nobody can.
    Useless {
        /// The member who signed it all the same; none where no member did.
        signer: Option<DeviceId>,
    },
}

impl ClientGroup {
    /// The ratchet tree of the present epoch.
    #[must_use]
    pub fn export_tree(&self) -> Vec<u8> {
        // It was read or built here, so it is within every bound of the encoding.
        let tree = self.mls.export_ratchet_tree();
        tree.tls_serialize_detached().unwrap_or_default()
    }

    /// A GroupInfo of the current epoch (`MLSMessage`), signed by this device, with `external_pub` and without the ratchet tree.
    ///
    /// # Errors
    /// [`MlsError::NotMember`].
    pub fn export_group_info(&self, device: &DeviceContext<'_>) -> Result<Vec<u8>, MlsError> {
        self.check_own(device)?;
        self.mls
            .export_group_info(self.provider.crypto(), &device.signer(), false)
            .ok()
            .and_then(|info| info.to_bytes().ok())
            .ok_or(EXPORTING)
    }

    /// Looks at a GroupInfo of the current epoch as only members can.
    ///
    /// # Errors
    /// [`MlsError::NotMember`].
    pub fn examine_group_info(
        &self,
        device: &DeviceContext<'_>,
        bytes: &[u8],
    ) -> Result<GroupInfoVerdict, MlsError> {
        let own = self.export_group_info(device)?;
        let own = message::group_info(&own)?;
        let tree = self.mls.public_group();
        let signed = |member: &openmls::group::Member| {
            ExpectedGroupInfo {
                context: tree.group_context(),
                tag: self.mls.confirmation_tag(),
                signer: member.index,
                key: &member.signature_key,
            }
            .check(bytes)
            .is_ok()
        };
        let signer = tree.members().find(signed);
        let signer = signer.and_then(|member| self.state.row_by_key(&member.signature_key));
        let signer = signer.map(|row| row.device);
        let key =
            message::group_info(bytes).is_ok_and(|info| info.extensions() == own.extensions());
        Ok(if key && signer.is_some() {
            GroupInfoVerdict::Good
        } else {
            GroupInfoVerdict::Useless { signer }
        })
    }
}

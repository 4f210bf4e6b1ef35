//! Looking after the GroupInfo with which members come back.

use openmls_traits::OpenMlsProvider;

use super::ClientGroup;
use crate::device::DeviceContext;
use crate::error::MlsError;
use crate::message::{self, ExpectedGroupInfo};

const EXPORTING: MlsError = MlsError::Mls {
    what: "exporting a GroupInfo",
};

impl ClientGroup {
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

    /// Whether a device could come back with this GroupInfo: it is of the current epoch, a member signed it, and its external key is the
    /// group's. Only members can tell the last.
    ///
    /// # Errors
    /// [`MlsError::NotMember`].
    pub fn is_good_group_info(
        &self,
        device: &DeviceContext<'_>,
        bytes: &[u8],
    ) -> Result<bool, MlsError> {
        let own = self.export_group_info(device)?;
        let own = message::group_info(&own)?;
        let Ok(offered) = message::group_info(bytes) else {
            return Ok(false);
        };
        if offered.extensions() != own.extensions() {
            return Ok(false);
        }
        let tree = self.mls.public_group();
        Ok(tree.members().any(|member| {
            ExpectedGroupInfo {
                context: tree.group_context(),
                tag: self.mls.confirmation_tag(),
                signer: member.index,
                key: &member.signature_key,
            }
            .check(bytes)
            .is_ok()
        }))
    }
}

//! Replacing the stored GroupInfo: the service cannot see whether its `external_pub` is the group's; members can.

use conclave_proto::DeviceId;
use conclave_proto::limits::MLS_MESSAGE_BYTES;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, Refusal};

use super::{PublicGroupState, refuse};
use crate::message::ExpectedGroupInfo;

impl PublicGroupState {
    /// Judges a GroupInfo of the current epoch that the member `device` signed, in place of the stored one.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn judge_group_info(&self, device: DeviceId, bytes: &[u8]) -> Result<(), Refusal> {
        let row = self
            .state
            .roster
            .current_row(&device)
            .ok_or(Refusal::Forbidden {
                why: ForbiddenWhy::NotMember,
            })?;
        if bytes.len() > MLS_MESSAGE_BYTES {
            return Err(refuse(CommitFault::Limit));
        }
        let signer = self
            .tree
            .members()
            .find(|member| member.signature_key == row.key.as_slice())
            .ok_or(refuse(CommitFault::GroupInfo))?;
        ExpectedGroupInfo {
            context: self.tree.group_context(),
            tag: self.tree.confirmation_tag(),
            signer: signer.index,
            key: row.key.as_slice(),
        }
        .check(bytes)
        .map_err(refuse)
    }

    /// Puts a GroupInfo in place of the stored one.
    ///
    /// # Errors
    /// As [`PublicGroupState::judge_group_info`].
    pub fn replace_group_info(&mut self, device: DeviceId, bytes: &[u8]) -> Result<(), Refusal> {
        self.judge_group_info(device, bytes)?;
        self.set_group_info(bytes.to_vec());
        Ok(())
    }
}

//! Following a group log without its secrets: what a member can still judge while it is on its way back.

use conclave_proto::DeviceId;
use conclave_proto::group::GroupEntry;
use conclave_rules::GroupState;
use openmls::group::{GroupContext, GroupId as MlsGroupId, PublicGroup};
use openmls_traits::OpenMlsProvider;

use crate::error::{MlsError, ProcessError};
use crate::message::contained;
use crate::provider::Provider;
use crate::public::judge_followed;

/// A group as its log shows it from a state on that this device had processed as a member. Every entry is judged as the service and all
/// members judge it; secrets are not needed and not held.
pub struct Follower {
    provider: Provider,
    tree: PublicGroup,
    state: GroupState,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("group", &self.state.group)
            .field("epoch", &self.state.epoch)
            .field("head", &self.state.head())
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// Begins at a member's state, from the rows of its group.
    pub(crate) fn begin(rows: crate::overlay::Rows, state: &GroupState) -> Result<Self, MlsError> {
        let provider = Provider::new(rows);
        let id = MlsGroupId::from_slice(state.group.as_bytes());
        let tree = contained(|| PublicGroup::load(provider.storage(), &id))
            .map_err(|_| MlsError::Panicked)?
            .ok()
            .flatten()
            .filter(|tree| tree.group_context().epoch().as_u64() == state.epoch)
            .ok_or(MlsError::Damaged)?;
        Ok(Self {
            provider,
            tree,
            state: state.clone(),
        })
    }

    /// The public state.
    #[must_use]
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    pub(crate) fn context(&self) -> &GroupContext {
        self.tree.group_context()
    }

    /// Judges the entry at position `state().head().size`, and takes it in. Gives who made it, where it is a commit.
    ///
    /// # Errors
    /// [`ProcessError::Illegal`], [`ProcessError::ClockWrong`]; nothing was taken in.
    pub fn follow(&mut self, entry: &GroupEntry) -> Result<Option<DeviceId>, ProcessError> {
        let judged = judge_followed(&self.tree, &self.provider, &self.state, entry)?;
        let author = judged.committer();
        judged.take(&mut self.tree, &self.provider, &mut self.state, entry)?;
        Ok(author)
    }
}

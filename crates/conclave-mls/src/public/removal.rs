//! What can be seen of a commit that came too late to be judged.

use openmls::messages::proposals_in::ProposalIn;

use crate::lifetimes::CommitStart;
use crate::message::contained;

/// Whether a commit (`MLSMessage`) says that it removes somebody, by what it begins with. Nothing of it is verified.
#[must_use]
pub fn removes_somebody(commit: &[u8]) -> bool {
    let removes = || {
        let start = CommitStart::read(commit)?;
        let mut inline = start.inline();
        Some(inline.any(|proposal| matches!(proposal, ProposalIn::Remove(_))))
    };
    contained(removes).ok().flatten() == Some(true)
}

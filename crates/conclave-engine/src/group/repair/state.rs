//! Where a device stands on its way back.

use conclave_mls::Follower;

use super::*;
use crate::backoff::Backoff;

/// The log from where this device can no longer process it, judged without secrets: what an offer has to be, byte for byte.
#[derive(Debug)]
pub(super) struct Shadow {
    pub(super) follower: Follower,
    /// Roster and commit that began each epoch since.
    epochs: BTreeMap<u64, (Hash, Hash)>,
}

impl Shadow {
    pub(super) fn begin(mls: &ClientGroup) -> Option<Self> {
        let follower = mls.follower().ok()?;
        Some(Self {
            follower,
            epochs: BTreeMap::new(),
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.follower.state().size()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.follower.state().epoch
    }

    /// Gives who made the entry, where it is a commit.
    pub(super) fn push(&mut self, entry: &GroupEntry) -> Result<Option<DeviceId>, ProcessError> {
        let by = self.follower.follow(entry)?;
        let state = self.follower.state();
        self.epochs
            .insert(state.epoch, (state.roster_hash(), state.begun_by));
        Ok(by)
    }
}

/// An external commit on its way.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) mls: ClientGroup,
    pub(super) sent: bool,
}

/// What is stored of an external commit beside its scratch state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::group) struct ReturnRow {
    pub(super) bundle: Bytes,
    pub(super) leaf: Hash,
}

/// Where the way back stands.
#[derive(Debug, Default)]
pub(in crate::group) struct Returning {
    pub(super) asked: bool,
    pub(super) refusals: u32,
    pub(super) tries: Backoff,
    pub(super) told: Option<String>,
    /// Whether the service takes the way back only later.
    pub(super) paced: bool,
    /// How many offers were of an earlier state than the one known.
    pub(super) older: u32,
    pub(in crate::group) bundle: Option<ReturnRow>,
    pub(super) scratch: Option<Box<Scratch>>,
    pub(super) shadow: Option<Shadow>,
}

impl Returning {
    /// Reads scratch state. What cannot be read is made again.
    pub(in crate::group) fn load(&mut self, rows: Vec<Row>) {
        if self.bundle.is_none() || rows.is_empty() {
            self.bundle = None;
            return;
        }
        match ClientGroup::load(rows) {
            Ok(mls) => self.scratch = Some(Box::new(Scratch { mls, sent: false })),
            Err(_) => self.bundle = None,
        }
    }

    pub(in crate::group) fn disconnected(&mut self) {
        self.asked = false;
        if let Some(scratch) = &mut self.scratch {
            scratch.sent = false;
        }
    }
}

impl Group {
    /// Whether the service takes this device's way back only later.
    pub(crate) fn is_return_paced(&self) -> bool {
        self.returning.paced
    }

    /// Whether this device has to come back before it seals anything more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken().is_some()
    }

    /// The log as far as it can be judged without secrets.
    pub(super) fn shadow(&mut self) -> Option<&mut Shadow> {
        if self.returning.shadow.is_none() {
            self.returning.shadow = Shadow::begin(&self.mls);
        }
        self.returning.shadow.as_mut()
    }

    /// Whether this device knows nothing of the group to compare with, and has asked to be added again.
    pub(crate) fn asks_blindly(&self) -> bool {
        self.is_blind() && self.returning.refusals >= REFUSALS
    }

    /// Whether this device knows nothing of the group to compare with.
    pub(crate) fn is_blind(&self) -> bool {
        matches!(
            self.membership.thawed(),
            Membership::Returning { blind: true, .. }
        )
    }

    /// Whether a member added this device again by the commit that began an epoch, as the judged log says.
    pub(crate) fn was_readded(&self, state: &GroupState) -> bool {
        let shadow = self.returning.shadow.as_ref();
        shadow
            .and_then(|shadow| shadow.epochs.get(&state.epoch))
            .is_some_and(|known| *known == (state.roster_hash(), state.begun_by))
    }

    /// Why this device has to come back.
    pub(crate) fn broken(&self) -> Option<&str> {
        match self.membership.thawed() {
            Membership::Returning { why, .. } => Some(why),
            _ => None,
        }
    }

    /// Whether this device came back with nothing to compare the group with, and nobody has shown yet that it is the right one.
    pub(crate) fn is_unproven(&self) -> bool {
        matches!(self.membership.thawed(), Membership::Unproven { .. })
    }
}

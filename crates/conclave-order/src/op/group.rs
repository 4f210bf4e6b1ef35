//! New groups, and the GroupInfo by which devices come back.

use conclave_mls::{PublicGroupState, check_founded};
use conclave_proto::hash::labelled;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy};
use conclave_proto::{DeviceId, GroupId, Hash, Refusal, UnixMs, UserId, limits};

use conclave_rules::LogId;

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::op::Asker;
use crate::rows::{GroupAt, PartChange};

/// A new group. The same offer again is accepted again, however long ago it was founded.
#[derive(Debug, Clone)]
pub struct CreateGroup {
    /// The group.
    pub group: GroupId,
    /// Who founds it.
    pub device: DeviceId,
    /// The founder's user.
    pub user: UserId,
    /// Hash of what it is founded with.
    pub genesis: Hash,
    /// Root of its empty log.
    pub root: Hash,
    /// Its public state.
    pub parts: Vec<PartChange>,
    /// When it was founded, as its founder says.
    pub founded: UnixMs,
    /// The time.
    pub now: UnixMs,
}

impl CreateGroup {
    /// Judges an offer: a GroupInfo and a ratchet tree.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(
        by: Asker,
        (group_info, tree): (&[u8], &[u8]),
        founded: UnixMs,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        if group_info.len().max(tree.len()) > limits::MLS_MESSAGE_BYTES {
            let fault = CommitFault::Limit;
            return Err(Refusal::BadCommit { fault });
        }
        let (mut core, state) = PublicGroupState::create(group_info, tree, by.device, founded)?;
        if let Some(minimum) = state.later_version() {
            return Err(Refusal::UpgradeNeeded { minimum });
        }
        let creator = state.roster.current_row(&by.device).map(|row| row.user);
        let Some(user) = creator.filter(|user| *user == by.user) else {
            let why = ForbiddenWhy::NotYours;
            return Err(Refusal::Forbidden { why });
        };
        Ok(Self {
            group: state.group,
            device: by.device,
            user,
            genesis: labelled(
                "conclave 1.0 group genesis",
                &[group_info, tree, &founded.0.to_be_bytes()],
            ),
            root: state.head().root,
            parts: PartChange::taken(&mut core),
            founded: state.last_time,
            now,
        })
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.services.insert(());
        keys.groups.insert(self.group);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        if let Some(known) = rows.group(&self.group)? {
            return if (known.genesis, known.creator) == (self.genesis, self.device) {
                Ok(Decided::event(Event::Done))
            } else {
                Err(Refusal::AlreadyExists.into())
            };
        }
        // A group of this id may be among what is being returned.
        rows.ensure_growing(&LogId::of_group(self.group))?;
        check_founded(self.founded, self.now)?;
        Ok(Decided {
            changes: vec![Change::Group {
                group: self.group,
                genesis: self.genesis,
                creator: self.device,
                user: self.user,
                root: self.root,
                parts: self.parts.clone(),
            }],
            event: Event::Done,
        })
    }
}

/// A member's GroupInfo in place of the stored one.
#[derive(Debug, Clone)]
pub struct PutGroupInfo {
    /// The group.
    pub group: GroupId,
    /// Who sends it.
    pub device: DeviceId,
    /// Where it was judged.
    pub expected: GroupAt,
    /// What it changes of the public state.
    pub parts: Vec<PartChange>,
}

impl PutGroupInfo {
    /// Judges one, and puts it into the public state. None: it is there already.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(
        core: &mut PublicGroupState,
        version: u64,
        device: DeviceId,
        group_info: &[u8],
    ) -> Result<Option<Self>, Refusal> {
        if core.group_info() == group_info {
            return Ok(None);
        }
        core.replace_group_info(device, group_info)?;
        let state = core.state();
        let expected = GroupAt {
            epoch: state.epoch,
            size: state.frontier.size(),
            version,
        };
        Ok(Some(Self {
            group: state.group,
            device,
            expected,
            parts: PartChange::taken(core),
        }))
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.groups.insert(self.group);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let row = rows.group(&self.group)?.ok_or(Refusal::UnknownGroup)?;
        if row.at() != self.expected {
            return Err(Refusal::StaleEpoch { current: row.epoch }.into());
        }
        Ok(Decided {
            changes: vec![Change::GroupInfo {
                group: self.group,
                expected: self.expected,
                parts: self.parts.clone(),
            }],
            event: Event::Done,
        })
    }
}

//! New groups, and the GroupInfo by which devices come back.

use bytes::Bytes;
use conclave_mls::check_founded;
use conclave_proto::{DeviceId, GroupId, Hash, Refusal, UnixMs, UserId};

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::rows::GroupAt;

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
    pub checkpoint: Bytes,
    /// Its GroupInfo.
    pub group_info: Bytes,
    /// When it was founded, as its founder says.
    pub founded: UnixMs,
    /// The time.
    pub now: UnixMs,
}

impl CreateGroup {
    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
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
        check_founded(self.founded, self.now)?;
        Ok(Decided {
            changes: vec![Change::Group {
                group: self.group,
                genesis: self.genesis,
                creator: self.device,
                user: self.user,
                root: self.root,
                checkpoint: self.checkpoint.clone(),
                group_info: self.group_info.clone(),
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
    /// The GroupInfo.
    pub group_info: Bytes,
    /// The public state with it.
    pub checkpoint: Bytes,
}

impl PutGroupInfo {
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
                checkpoint: self.checkpoint.clone(),
                group_info: self.group_info.clone(),
            }],
            event: Event::Done,
        })
    }
}

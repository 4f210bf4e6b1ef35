//! What members need of each other: root wraps, pleas, Welcomes.

use std::collections::BTreeSet;

use conclave_proto::frame::Plea;
use conclave_proto::group::RootWrap;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, Refusal, UnixMs, limits};
use conclave_rules::GroupState;

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits as own;
use crate::op::Asker;
use crate::rows::PleaRow;

/// A member's root wrap for the current epoch.
#[derive(Debug, Clone)]
pub struct PutWrap {
    /// The wrap: its signer sends it.
    pub wrap: RootWrap,
    /// The member devices of the signer's user.
    pub siblings: BTreeSet<DeviceId>,
}

impl PutWrap {
    /// Judges a wrap for the current epoch.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(view: &GroupState, by: Asker, wrap: RootWrap) -> Result<Self, Refusal> {
        if !view.is_member(&by.device) {
            return Err(view.not_member(&by.device));
        }
        if wrap.signer != by.device {
            let why = ForbiddenWhy::NotYours;
            return Err(Refusal::Forbidden { why });
        }
        if wrap.statement.epoch != view.epoch {
            let current = view.epoch;
            return Err(Refusal::StaleEpoch { current });
        }
        view.judge_wrap(&wrap)
            .map_err(|fault| Refusal::BadCommit { fault })?;
        let own = view.current_rows().filter(|row| row.user == by.user);
        let siblings = own.map(|row| row.device).collect();
        Ok(Self { wrap, siblings })
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        let statement = &self.wrap.statement;
        keys.devices.insert(self.wrap.signer);
        keys.groups.insert(statement.group);
        keys.commit_wraps.insert(statement.group);
        keys.wraps.insert((statement.group, statement.epoch));
        keys.group_pleas.insert(statement.group);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        let (statement, signer) = (&self.wrap.statement, self.wrap.signer);
        let group = statement.group;
        rows.ensure_active(&signer)?;
        let row = rows.group(&group)?.ok_or(Refusal::UnknownGroup)?;
        if row.epoch != statement.epoch {
            return Err(Refusal::StaleEpoch { current: row.epoch }.into());
        }
        self.check_room(rows)?;
        let mut changes = vec![Change::Wrap {
            wrap: self.wrap.clone(),
        }];
        // It is there for everybody else.
        let pleas = rows.pleas_in(&group)?.into_iter().flatten();
        let answered = pleas.filter(|plea| plea.what == Plea::Wrap && plea.device != signer);
        changes.extend(answered.map(|plea| Change::PleaGone {
            group,
            device: plea.device,
            what: plea.what,
        }));
        let event = Event::Done;
        Ok(Decided { changes, event })
    }

    /// A signer has one wrap, so that a bad one displaces nobody else's, and a user has few: one user's devices could take every place. The
    /// committer's came first, and does not count.
    fn check_room(&self, rows: &Rows) -> Result<(), Stop> {
        let (statement, signer) = (&self.wrap.statement, &self.wrap.signer);
        let newest = rows.commit_wrap_of(&statement.group)?;
        let committer = newest.map(|wrap| &wrap.signer);
        let there = rows.wraps_of(&(statement.group, statement.epoch))?;
        let others = || {
            let signers = there.into_iter().flat_map(|wraps| wraps.keys());
            signers.filter(|other| *other != signer)
        };
        let of_user = others()
            .filter(|other| self.siblings.contains(other) && Some(*other) != committer)
            .count() as u64;
        let max = own::WRAPS_PER_USER;
        if committer != Some(signer) && of_user >= max {
            return Err(Refusal::TooLarge { max }.into());
        }
        if others().count() >= limits::WRAPS_PER_EPOCH {
            let max = limits::WRAPS_PER_EPOCH as u64;
            return Err(Refusal::TooLarge { max }.into());
        }
        Ok(())
    }
}

/// A plea to the members of a group.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The plea.
    pub plea: PleaRow,
    /// Epoch that it was judged in.
    pub epoch: u64,
}

impl Ask {
    /// Judges a plea. Members ask for a wrap. To be added anew may ask who belongs to a member's user and was not removed. For others the
    /// group does not exist.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(view: &GroupState, by: Asker, what: Plea, now: UnixMs) -> Result<Self, Refusal> {
        let is_member = view.is_member(&by.device);
        match what {
            _ if view.role_of_user(&by.user).is_none() => return Err(Refusal::UnknownGroup),
            Plea::Wrap if is_member => {}
            Plea::ReAdd if !view.is_tombstoned(&by.device) => {}
            _ => return Err(view.not_member(&by.device)),
        }
        Ok(Self {
            plea: PleaRow {
                group: view.group,
                device: by.device,
                user: by.user,
                what,
                at: now,
            },
            epoch: view.epoch,
        })
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.plea.device);
        keys.groups.insert(self.plea.group);
        keys.group_pleas.insert(self.plea.group);
        keys.device_pleas.insert(self.plea.device);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        let plea = &self.plea;
        rows.ensure_active(&plea.device)?;
        // A commit may have come between that removes the device.
        let row = rows.group(&plea.group)?.ok_or(Refusal::UnknownGroup)?;
        if row.epoch != self.epoch {
            return Err(Refusal::StaleEpoch { current: row.epoch }.into());
        }
        let none = Vec::new();
        let of_group = rows.pleas_in(&plea.group)?.unwrap_or(&none);
        let same = |other: &&PleaRow| (other.device, other.what) == (plea.device, plea.what);
        if of_group.iter().any(|other| same(&other)) {
            return Ok(Decided::event(Event::Asked { is_new: false }));
        }
        let of_device = rows.pleas_of(&plea.device)?.unwrap_or(&none);
        let of_user = of_group.iter().filter(|other| other.user == plea.user);
        for (count, max) in [
            (of_group.len(), own::ASKS_PER_GROUP),
            (of_user.count(), own::ASKS_PER_GROUP_AND_USER),
            (of_device.len(), own::ASKS_PER_DEVICE),
        ] {
            if count as u64 >= max {
                return Err(Refusal::TooLarge { max }.into());
            }
        }
        Ok(Decided {
            changes: vec![Change::Plea(*plea)],
            event: Event::Asked { is_new: true },
        })
    }
}

/// A Welcome was taken: it goes, with what only it needed. One that is not this device's, or gone already, changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct AckWelcome {
    /// The device.
    pub device: DeviceId,
    /// Number of the Welcome.
    pub id: u64,
}

impl AckWelcome {
    pub(crate) fn keys(self, keys: &mut Keys) {
        keys.welcomes.insert(self.id);
    }

    pub(crate) fn decide(self, rows: &Rows) -> Result<Decided, Stop> {
        let row = rows.welcome(&self.id)?;
        let Some(row) = row.filter(|row| row.device == self.device) else {
            return Ok(Decided::event(Event::Done));
        };
        let group = rows
            .group(&row.group)?
            .ok_or(Stop::Damaged { what: "group" })?;
        Ok(Decided {
            changes: vec![
                Change::WelcomeGone {
                    id: self.id,
                    device: self.device,
                },
                Change::ForgetEpochs {
                    group: row.group,
                    current: group.epoch,
                },
            ],
            event: Event::Done,
        })
    }
}

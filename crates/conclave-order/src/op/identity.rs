//! Accounts, devices, device lists, invitations.

use std::collections::BTreeSet;

use conclave_identity::{AuthError, SignedDeviceList};
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, GroupId, Hash, LifeToken, Refusal, UnixMs, UserId};

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop, revoked};
use crate::limits::{DEVICE_LIST_BYTES, DEVICES_PER_ACCOUNT};
use crate::op::Asker;
use crate::rows::{InvitationRow, ListRow, LoginRow};

/// A device that logs in, already authenticated.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// Its user.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// Its key.
    pub key: Vec<u8>,
}

/// What is known of a device that logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Known, with this key and user.
    Known,
    /// Its user has an account; the device is new.
    NewDevice,
    /// The user has no account.
    NewUser,
}

impl Newcomer {
    /// Asks for what [`Newcomer::standing`] compares.
    pub fn keys(&self, keys: &mut Keys) {
        keys.lists.insert(self.user);
        keys.devices.insert(self.device);
        keys.accounts.insert(self.user);
    }

    /// Judges a device that logs in by what is stored: its user's newest list, where there is one, has to name it with its key.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn standing(&self, rows: &Rows) -> Result<Standing, Stop> {
        if let Some(list) = rows.list(&self.user)? {
            let list = SignedDeviceList::from_bytes(&list.bytes);
            let list = list.map_err(|_| Stop::Damaged {
                what: "device list",
            })?;
            if !list.contains(&self.device, &self.key) {
                return Err(revoked().into());
            }
        }
        let account = rows.account(&self.user)?;
        if account.is_some_and(|account| account.disabled) {
            return Err(revoked().into());
        }
        match (rows.device(&self.device)?, account) {
            (Some(row), _) if row.user != self.user || row.key != self.key => {
                Err(Refusal::Unauthenticated.into())
            }
            (Some(row), _) if row.revoked => Err(revoked().into()),
            (Some(_), _) => Ok(Standing::Known),
            (None, Some(_)) => Ok(Standing::NewDevice),
            (None, None) => Ok(Standing::NewUser),
        }
    }
}

/// What a new account needs.
#[derive(Debug, Clone, Copy)]
pub enum Door {
    /// Nothing.
    Open,
    /// The hash of a valid invitation token.
    Invitation(Option<Hash>),
}

/// What a device says of its life when it logs in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Claim {
    /// The life's number.
    pub life: u64,
    /// Its token.
    pub token: LifeToken,
    /// Whether this copy of its store is to go on, whatever is known here.
    pub take_over: bool,
}

impl Claim {
    /// What a login with this claim makes of the one before; `fresh` is for the next life.
    fn follow(&self, last: &LoginRow, fresh: LifeToken, now: UnixMs) -> Result<LoginRow, Refusal> {
        let is_present = last.token == Some(self.token);
        // It was told its next life and has stored it, and the confirmation was lost.
        let is_next = last.next == Some(self.token);
        // It was told of later lives than are known here: it is the service that was put back.
        let is_later = self.life > last.life;
        let goes_on = last.token.is_none() || is_present || is_next || is_later || self.take_over;
        if !goes_on {
            return Err(Refusal::OtherLife { since: last.at });
        }
        let begun = last.life.saturating_add(u64::from(is_next));
        // A token that was told and not confirmed is told again: a confirmation may still be on its way.
        let told = last.next.filter(|_| is_present && !self.take_over);
        Ok(LoginRow {
            session: last.session.saturating_add(1),
            at: now,
            life: begun
                .max(self.life)
                .saturating_add(u64::from(self.take_over)),
            token: Some(self.token),
            next: Some(told.unwrap_or(fresh)),
        })
    }
}

/// A device logs in. Account and device are made known where they are missing; its older sessions are over.
#[derive(Debug, Clone)]
pub struct LogIn {
    /// Who.
    pub who: Newcomer,
    /// What a new account needs.
    pub door: Door,
    /// What it says of its life.
    pub claim: Claim,
    /// A token for its next life, drawn at random.
    pub fresh: LifeToken,
    /// The time.
    pub now: UnixMs,
}

impl LogIn {
    pub(crate) fn keys(&self, keys: &mut Keys) {
        self.who.keys(keys);
        if let Door::Invitation(Some(token)) = self.door {
            keys.invitations.insert(token);
        }
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        let who = &self.who;
        let standing = who.standing(rows)?;
        let mut changes = Vec::new();
        if standing == Standing::NewUser {
            if let Door::Invitation(token) = self.door {
                changes.push(self.redeem(token, rows)?);
            }
            changes.push(Change::Account {
                user: who.user,
                created: self.now,
            });
        }
        if standing == Standing::NewDevice {
            let known = rows.siblings_of(&who.user)?.map_or(0, BTreeSet::len);
            if known >= DEVICES_PER_ACCOUNT {
                let max = DEVICES_PER_ACCOUNT as u64;
                return Err(Refusal::TooLarge { max }.into());
            }
        }
        if standing != Standing::Known {
            changes.push(Change::Device {
                device: who.device,
                user: who.user,
                key: who.key.clone(),
                created: self.now,
            });
        }
        let known = rows.device(&who.device)?;
        let last = known.map_or_else(LoginRow::default, |row| row.login);
        let row = self.claim.follow(&last, self.fresh, self.now)?;
        changes.push(Change::Login {
            device: who.device,
            expected: last.session,
            row,
        });
        let event = Event::LoggedIn {
            device: who.device,
            at: row.at,
            session: row.session,
            life: row.life.saturating_add(1),
            next: row.next.unwrap_or(self.fresh),
        };
        Ok(Decided { changes, event })
    }

    fn redeem(&self, token: Option<Hash>, rows: &Rows) -> Result<Change, Stop> {
        let why = ForbiddenWhy::NotAdmitted;
        let hash = token.ok_or(Refusal::Forbidden { why })?;
        match rows.invitation(&hash)? {
            Some(row) if row.uses_left > 0 && row.expires > self.now => Ok(Change::Redeemed {
                hash,
                expected: row.uses_left,
            }),
            _ => Err(Refusal::Forbidden { why }.into()),
        }
    }
}

/// A device has stored its next life, which begins. Once more changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct ConfirmLife {
    /// The device.
    pub device: DeviceId,
}

impl ConfirmLife {
    pub(crate) fn keys(self, keys: &mut Keys) {
        keys.devices.insert(self.device);
    }

    pub(crate) fn decide(self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let known = rows.device(&self.device)?;
        let last = known.map_or_else(LoginRow::default, |row| row.login);
        let confirmed = last.next.map(|next| Change::Login {
            device: self.device,
            expected: last.session,
            row: LoginRow {
                life: last.life.saturating_add(1),
                token: Some(next),
                next: None,
                ..last
            },
        });
        Ok(Decided {
            changes: confirmed.into_iter().collect(),
            event: Event::Done,
        })
    }
}

/// A new invitation.
#[derive(Debug, Clone)]
pub struct CreateInvitation {
    /// Hash of its token.
    pub hash: Hash,
    /// What is stored of it.
    pub row: InvitationRow,
}

impl CreateInvitation {
    pub(crate) fn decide(&self) -> Decided {
        Decided {
            changes: vec![Change::Invitation {
                hash: self.hash,
                row: self.row.clone(),
            }],
            event: Event::Done,
        }
    }
}

/// A newer device list of a user, verified as far as it can be alone and against the one before.
#[derive(Debug, Clone)]
pub struct PutDeviceList {
    /// Whose.
    pub user: UserId,
    /// Its number.
    pub seq: u64,
    /// The list, encoded.
    pub bytes: Vec<u8>,
    /// The devices on it.
    pub devices: BTreeSet<DeviceId>,
    /// Number of the one that it was compared with.
    pub expected: Option<u64>,
    /// The time.
    pub now: UnixMs,
}

impl PutDeviceList {
    /// Judges a list by itself and by the stored one. None: it is that very one.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn judge(
        by: Asker,
        bytes: Vec<u8>,
        stored: Option<&ListRow>,
        now: UnixMs,
    ) -> Result<Option<Self>, Stop> {
        if bytes.len() > DEVICE_LIST_BYTES {
            let max = DEVICE_LIST_BYTES as u64;
            return Err(Refusal::TooLarge { max }.into());
        }
        let list = SignedDeviceList::from_bytes(&bytes).map_err(|_| Refusal::BadIdentity)?;
        list.verify().map_err(|_| Refusal::BadIdentity)?;
        if list.user() != by.user {
            let why = ForbiddenWhy::NotYours;
            return Err(Refusal::Forbidden { why }.into());
        }
        let stored = stored.map(|row| SignedDeviceList::from_bytes(&row.bytes));
        let stored = stored.transpose().map_err(|_| Stop::Damaged {
            what: "device list",
        })?;
        if let Some(stored) = &stored
            && !supersedes(&list, stored)?
        {
            return Ok(None);
        }
        Ok(Some(Self {
            user: by.user,
            seq: list.list.seq,
            bytes,
            devices: list.list.devices.iter().map(|entry| entry.device).collect(),
            expected: stored.map(|stored| stored.list.seq),
            now,
        }))
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.lists.insert(self.user);
        keys.siblings.insert(self.user);
        keys.acquainted.insert(self.user);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        let newest = rows.list(&self.user)?.map(|row| row.seq);
        if newest != self.expected {
            let newest = newest.unwrap_or_default();
            return Err(Refusal::StaleDeviceList { newest }.into());
        }
        let told = rows.acquainted_with(&self.user)?;
        let told = told.cloned().unwrap_or_default();
        let mut changes = vec![Change::List {
            user: self.user,
            expected: self.expected,
            seq: self.seq,
            bytes: self.bytes.clone(),
            stored: self.now,
        }];
        let mut gone = Vec::new();
        let siblings = rows.siblings_of(&self.user)?.into_iter().flatten();
        rows.need(|keys| keys.devices.extend(siblings.clone()))?;
        let changed = siblings.filter(|device| {
            let row = rows.devices.get(device).and_then(Option::as_ref);
            row.is_some_and(|row| row.revoked == self.devices.contains(device))
        });
        rows.need(|keys| {
            keys.device_pleas.extend(changed.clone());
            keys.waiting.extend(changed.clone());
        })?;
        for device in changed {
            let revoked = !self.devices.contains(device);
            changes.push(Change::Revoked {
                device: *device,
                revoked,
            });
            if revoked {
                gone.push(*device);
                changes.extend(lost(*device, rows)?);
            }
        }
        let event = Event::ListChanged {
            user: self.user,
            told,
            gone,
        };
        Ok(Decided { changes, event })
    }
}

/// Whether a list replaces the stored one; false when it is the very same.
fn supersedes(list: &SignedDeviceList, stored: &SignedDeviceList) -> Result<bool, Refusal> {
    list.supersedes(stored).map_err(|error| match error {
        AuthError::StaleList { .. } | AuthError::Equivocation { .. } | AuthError::BrokenChain => {
            Refusal::StaleDeviceList {
                newest: stored.list.seq,
            }
        }
        _ => Refusal::BadIdentity,
    })
}

/// A device that is revoked loses its key packages, the Welcomes that wait for it, its pleas for help, and the tokens of its lives. What its
/// connection has sent and is not decided yet is refused by its standing.
fn lost(device: DeviceId, rows: &Rows) -> Result<Vec<Change>, Stop> {
    let mut changes = vec![Change::ClearPackages { device }];
    if let Some(row) = rows.device(&device)? {
        let last = row.login;
        changes.push(Change::Login {
            device,
            expected: last.session,
            row: LoginRow {
                token: None,
                next: None,
                ..last
            },
        });
    }
    let waiting = rows.waiting_for(&device)?.into_iter().flatten();
    let waiting: Vec<(u64, GroupId)> = waiting.map(|row| (row.id, row.group)).collect();
    rows.need(|keys| keys.groups.extend(waiting.iter().map(|(_, group)| *group)))?;
    for (id, group) in waiting {
        let row = rows.group(&group)?.ok_or(Stop::Damaged { what: "group" })?;
        let current = row.epoch;
        changes.push(Change::WelcomeGone { id, device });
        changes.push(Change::ForgetEpochs { group, current });
    }
    let pleas = rows.pleas_of(&device)?.into_iter().flatten();
    changes.extend(pleas.map(|plea| Change::PleaGone {
        group: plea.group,
        device,
        what: plea.what,
    }));
    Ok(changes)
}

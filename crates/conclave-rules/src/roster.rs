//! The roster: who was in the group, with which key and role, in which epochs. Public and never pruned.
//!
//! `roster(n) = H(roster(n−1) ‖ rows changed by commit n)`, computed alike by the service and all members. A row changed by commit n
//! either begins at n or ended with n−1, so the whole chain can be computed again from the rows: a joiner checks it that way.

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::{ReceivedCredential, SignatureKey};
use conclave_proto::codec::encode;
use conclave_proto::hash::labelled;
use conclave_proto::policy::Role;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{DeviceId, Hash, UnixMs, UserId};
use tls_codec::{Size as _, TlsDeserializeBytes, TlsSerialize, TlsSize};

const ROSTER_LABEL: &str = "conclave 1.0 roster";
/// Most epochs for which a chain is computed again. Far above what a group reaches, and a bound on the work that a stranger can cause.
const MAX_CHAIN_EPOCHS: u64 = 1 << 22;

/// Why a row began: whose doing it is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[repr(u8)]
pub enum RowCause {
    /// Its own user's: who founded the group, added an own device, renewed the own leaf under another credential or key, or came back.
    Own = 1,
    /// Another user's, who added the device.
    Other = 2,
    /// The policy gave its user another role. The row before it ended for that alone.
    Role = 3,
}

/// One device's membership with one key, credential and role. A change of any of these ends the row and begins another.
#[derive(Debug, Clone, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct RosterRow {
    /// The device.
    pub device: DeviceId,
    /// Its user.
    pub user: UserId,
    /// MLS credential type of `credential`.
    pub credential_type: u16,
    /// Content of its credential.
    pub credential: ReceivedCredential,
    /// Its signature key.
    pub key: SignatureKey,
    /// Signature scheme of the key.
    pub scheme: u16,
    /// Its user's role under the policy in force.
    pub role: Role,
    /// First epoch of this row.
    pub first_epoch: u64,
    /// Last epoch; none while the row is current.
    pub last_epoch: Option<u64>,
    /// Time of the commit that began the row.
    pub time: UnixMs,
    /// Why that commit began it.
    pub cause: RowCause,
}

impl RosterRow {
    /// Whether the row holds in `epoch`.
    #[must_use]
    pub fn covers(&self, epoch: u64) -> bool {
        self.first_epoch <= epoch && self.last_epoch.is_none_or(|last| epoch <= last)
    }

    /// With what the device signs.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer {
            scheme: self.scheme,
            key: self.key.clone(),
        }
    }

    /// Whether credential and key are those of `other`.
    pub(crate) fn same_keys(&self, other: &Self) -> bool {
        self.credential_type == other.credential_type
            && self.credential == other.credential
            && self.key == other.key
            && self.scheme == other.scheme
    }

    /// Whether it can have begun for a role: where `before` ended, with another role and nothing else.
    fn can_be_for_role(&self, before: &Self) -> bool {
        let adjoins = before.last_epoch.and_then(|last| last.checked_add(1));
        adjoins == Some(self.first_epoch) && self.same_keys(before) && self.role != before.role
    }

    /// Whether device, user, credential, key and role are those of `other`. Why they began is not looked at: a row that stays stays as it is.
    fn same_content(&self, other: &Self) -> bool {
        self.device == other.device
            && self.user == other.user
            && self.same_keys(other)
            && self.role == other.role
    }
}

/// Checks a signature by a roster row's key: Ed25519, strictly, over `SignContent(label, content)`.
///
/// # Errors
/// [`RecordFault::Signature`].
pub fn verify_signature(
    row: &RosterRow,
    label: &str,
    content: &[u8],
    signature: &[u8; 64],
) -> Result<(), RecordFault> {
    row.signer().verify(label, content, signature)
}

/// With what a roster row's device signs.
#[derive(Debug, Clone)]
pub struct Signer {
    scheme: u16,
    key: SignatureKey,
}

impl Signer {
    /// As [`verify_signature`].
    ///
    /// # Errors
    /// As there.
    pub fn verify(
        &self,
        label: &str,
        content: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), RecordFault> {
        if self.scheme != conclave_identity::SCHEME_ED25519 {
            return Err(RecordFault::Signature);
        }
        let checked = self.key.verify(label, content, signature);
        checked.map_err(|_| RecordFault::Signature)
    }
}

/// All rows since genesis, the hash that chains them, and the devices that were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    /// In the order of their first epochs, within one epoch by device.
    rows: Vec<RosterRow>,
    hash: Hash,
    tombstones: BTreeSet<DeviceId>,
    /// Positions of each device's rows. Follows from `rows`.
    by_device: BTreeMap<DeviceId, Vec<usize>>,
    /// Positions of the rows with a signature key. Follows from `rows`.
    by_key: BTreeMap<Vec<u8>, Vec<usize>>,
    /// How many rows each user has begun for itself. Follows from `rows`.
    own_rows: BTreeMap<UserId, usize>,
    /// Bytes that the encoded rows have at most. Follows from `rows`.
    bytes: usize,
}

/// Bytes that a row has at most once it has ended.
fn row_bytes(row: &RosterRow) -> usize {
    let ends = if row.last_epoch.is_none() {
        size_of::<u64>()
    } else {
        0
    };
    row.tls_serialized_len().saturating_add(ends)
}

impl Roster {
    const fn empty() -> Self {
        Self {
            rows: Vec::new(),
            hash: Hash::ZERO,
            tombstones: BTreeSet::new(),
            by_device: BTreeMap::new(),
            by_key: BTreeMap::new(),
            own_rows: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Notes where a row lies, and counts it.
    fn index(&mut self, row: &RosterRow, at: usize) {
        self.by_device.entry(row.device).or_default().push(at);
        let of_key = self.by_key.entry(row.key.as_slice().to_vec());
        of_key.or_default().push(at);
        if row.cause == RowCause::Own {
            *self.own_rows.entry(row.user).or_default() += 1;
        }
        self.bytes = self.bytes.saturating_add(row_bytes(row));
    }

    /// The roster of epoch 0.
    #[must_use]
    pub fn genesis(rows: Vec<RosterRow>) -> Self {
        let after = rows.into_iter().map(|row| (row.device, row)).collect();
        Self::empty().next(0, after, &BTreeSet::new())
    }

    /// A roster from stored or received rows.
    ///
    /// Everything that follows from the rows is computed, not believed; whether the hash is the right one says [`Roster::verify_chain`].
    ///
    /// # Errors
    /// [`BadRoster`] when rows are out of order, overlap, name epochs after `epoch`, or cannot have begun for what they say.
    pub fn from_rows(rows: Vec<RosterRow>, hash: Hash, epoch: u64) -> Result<Self, BadRoster> {
        let ordered = rows.windows(2).all(|pair| match pair {
            [a, b] => (a.first_epoch, a.device) < (b.first_epoch, b.device),
            _ => true,
        });
        let bounded = rows.iter().all(|row| {
            row.first_epoch <= epoch
                && row
                    .last_epoch
                    .is_none_or(|last| last >= row.first_epoch && last < epoch)
        });
        if !ordered || !bounded {
            return Err(BadRoster);
        }
        let mut roster = Self {
            hash,
            ..Self::empty()
        };
        for (at, row) in rows.iter().enumerate() {
            roster.index(row, at);
        }
        roster.rows = rows;
        for (device, positions) in &roster.by_device {
            let mut free_from = 0;
            let mut current = false;
            let mut before: Option<&RosterRow> = None;
            for row in positions.iter().filter_map(|at| roster.rows.get(*at)) {
                let begins = match row.cause {
                    RowCause::Own => true,
                    RowCause::Other => row.first_epoch > 0,
                    RowCause::Role => before.is_some_and(|before| row.can_be_for_role(before)),
                };
                if current || row.first_epoch < free_from || !begins {
                    return Err(BadRoster);
                }
                current = row.last_epoch.is_none();
                free_from = row.last_epoch.unwrap_or(epoch).saturating_add(1);
                before = Some(row);
            }
            if !current {
                roster.tombstones.insert(*device);
            }
        }
        Ok(roster)
    }

    /// All rows, ended ones included.
    #[must_use]
    pub fn rows(&self) -> &[RosterRow] {
        &self.rows
    }

    /// Bytes that the encoded rows have at most.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows of a user count against it, ended ones included: those that it began itself. What somebody else began, by adding its devices
    /// or by giving roles, is not its doing.
    #[must_use]
    pub fn rows_of(&self, user: &UserId) -> usize {
        self.own_rows.get(user).copied().unwrap_or(0)
    }

    /// The roster hash of the current epoch.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Devices that were members and are no more.
    #[must_use]
    pub fn tombstones(&self) -> &BTreeSet<DeviceId> {
        &self.tombstones
    }

    /// Rows without an end.
    pub fn current(&self) -> impl Iterator<Item = &RosterRow> {
        self.rows.iter().filter(|row| row.last_epoch.is_none())
    }

    /// The device's row without an end.
    #[must_use]
    pub fn current_row(&self, device: &DeviceId) -> Option<&RosterRow> {
        self.newest_row(device)
            .filter(|row| row.last_epoch.is_none())
    }

    /// The device's newest row, be it a member or one that was.
    #[must_use]
    pub fn newest_row(&self, device: &DeviceId) -> Option<&RosterRow> {
        self.rows.get(*self.by_device.get(device)?.last()?)
    }

    /// The row without an end that has this signature key.
    #[must_use]
    pub fn current_by_key(&self, key: &[u8]) -> Option<&RosterRow> {
        let positions = self.by_key.get(key)?.iter();
        let mut rows = positions.filter_map(|at| self.rows.get(*at));
        rows.find(|row| row.last_epoch.is_none())
    }

    /// The device's row in `epoch`.
    #[must_use]
    pub fn row(&self, device: &DeviceId, epoch: u64) -> Option<&RosterRow> {
        self.by_device
            .get(device)?
            .iter()
            .rev()
            .filter_map(|at| self.rows.get(*at))
            .find(|row| row.covers(epoch))
    }

    /// The device's first row.
    #[must_use]
    pub fn first_row(&self, device: &DeviceId) -> Option<&RosterRow> {
        let at = *self.by_device.get(device)?.first()?;
        self.rows.get(at)
    }

    /// When the group accepted a row's credential and key: the time of the first of the device's adjoining rows that has both. A row that
    /// began for a new role keeps the credential of the row before it.
    #[must_use]
    pub fn accepted_at(&self, row: &RosterRow) -> UnixMs {
        let mut time = row.time;
        let mut begins = row.first_epoch;
        let earlier = self.by_device.get(&row.device).into_iter().flatten().rev();
        for before in earlier.filter_map(|at| self.rows.get(*at)) {
            let adjoins = before.last_epoch.and_then(|last| last.checked_add(1)) == Some(begins);
            if adjoins && before.credential == row.credential && before.key == row.key {
                time = before.time;
                begins = before.first_epoch;
            }
        }
        time
    }

    /// The roster of epoch `epoch`, where `after` are all its members and `reopened` those whose row begins anew although nothing in it
    /// changed (removed and added by one commit). `first_epoch`, `last_epoch` in `after` are ignored for rows that stay.
    #[must_use]
    pub(crate) fn next(
        &self,
        epoch: u64,
        after: BTreeMap<DeviceId, RosterRow>,
        reopened: &BTreeSet<DeviceId>,
    ) -> Self {
        let mut next = self.clone();
        let mut changed = Vec::new();
        for row in next.rows.iter_mut().filter(|row| row.last_epoch.is_none()) {
            let stays = !reopened.contains(&row.device)
                && after
                    .get(&row.device)
                    .is_some_and(|wanted| row.same_content(wanted));
            if !stays {
                row.last_epoch = Some(epoch.saturating_sub(1));
                changed.push(row.clone());
            }
            if !after.contains_key(&row.device) {
                next.tombstones.insert(row.device);
            }
        }
        // In the order of devices, as `after` is.
        for (device, mut row) in after {
            if next.current_row(&device).is_some() {
                continue;
            }
            row.first_epoch = epoch;
            row.last_epoch = None;
            changed.push(row.clone());
            next.tombstones.remove(&device);
            next.index(&row, next.rows.len());
            next.rows.push(row);
        }
        next.hash = chain(&self.hash, changed);
        next
    }

    /// Computes the chain of hashes again, from genesis to `epoch`, and compares.
    ///
    /// # Errors
    /// [`BadRoster`] when the rows do not lead to the hash, or there are more epochs than anybody computes.
    pub fn verify_chain(&self, epoch: u64) -> Result<(), BadRoster> {
        if epoch >= MAX_CHAIN_EPOCHS {
            return Err(BadRoster);
        }
        let mut changed: BTreeMap<u64, Vec<RosterRow>> = BTreeMap::new();
        for row in &self.rows {
            let opened = RosterRow {
                last_epoch: None,
                ..row.clone()
            };
            changed.entry(row.first_epoch).or_default().push(opened);
            if let Some(last) = row.last_epoch {
                let ended_by = last.saturating_add(1);
                changed.entry(ended_by).or_default().push(row.clone());
            }
        }
        let mut hash = Hash::ZERO;
        for at in 0..=epoch {
            hash = chain(&hash, changed.remove(&at).unwrap_or_default());
        }
        if hash == self.hash && changed.is_empty() {
            Ok(())
        } else {
            Err(BadRoster)
        }
    }
}

/// The next link: changed rows sorted by device, then first epoch.
fn chain(previous: &Hash, mut changed: Vec<RosterRow>) -> Hash {
    changed.sort_by_key(|row| (row.device, row.first_epoch));
    labelled(ROSTER_LABEL, &[&previous.0, &encode(&changed)])
}

/// The rows are not those of a roster, or not those behind the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the roster does not add up")]
pub struct BadRoster;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(device: u8, role: Role) -> RosterRow {
        RosterRow {
            device: DeviceId([device; 16]),
            user: UserId([device; 32]),
            credential_type: 1,
            credential: vec![device].into(),
            key: vec![device; 32].into(),
            scheme: conclave_identity::SCHEME_ED25519,
            role,
            first_epoch: 0,
            last_epoch: None,
            time: UnixMs(5),
            cause: RowCause::Own,
        }
    }

    fn set(rows: &[RosterRow]) -> BTreeMap<DeviceId, RosterRow> {
        rows.iter().map(|row| (row.device, row.clone())).collect()
    }

    fn history() -> Roster {
        let (a, b) = (row(1, Role::Owner), row(2, Role::Editor));
        let none = BTreeSet::new();
        let roster = Roster::genesis(vec![a.clone()]);
        let roster = roster.next(1, set(&[a.clone(), b.clone()]), &none);
        let roster = roster.next(2, set(&[a.clone(), b.clone()]), &none);
        let demoted = RosterRow {
            role: Role::Viewer,
            ..b.clone()
        };
        let roster = roster.next(3, set(&[a.clone(), demoted.clone()]), &none);
        let roster = roster.next(4, set(std::slice::from_ref(&a)), &none);
        roster.next(5, set(&[a, demoted]), &none)
    }

    #[test]
    fn rows_say_who_was_there_when() {
        let roster = history();
        let b = DeviceId([2; 16]);
        let role = |epoch| roster.row(&b, epoch).map(|row| row.role);
        assert_eq!(role(0), None);
        assert_eq!(role(1), Some(Role::Editor));
        assert_eq!(role(2), Some(Role::Editor));
        assert_eq!(role(3), Some(Role::Viewer));
        assert_eq!(role(4), None);
        assert_eq!(role(5), Some(Role::Viewer));
        assert!(roster.tombstones().is_empty());
        assert_eq!(roster.rows().len(), 4);
    }

    #[test]
    fn a_signature_key_leads_to_the_row_that_has_it_now() {
        let none = BTreeSet::new();
        let (a, b) = (row(1, Role::Owner), row(2, Role::Editor));
        let renewed = RosterRow {
            key: vec![9; 32].into(),
            ..b.clone()
        };
        let device = |roster: &Roster, key: u8| {
            let again = Roster::from_rows(roster.rows().to_vec(), roster.hash(), 9).unwrap();
            assert_eq!(
                again.current_by_key(&[key; 32]),
                roster.current_by_key(&[key; 32])
            );
            roster.current_by_key(&[key; 32]).map(|row| row.device)
        };
        let roster = Roster::genesis(vec![a.clone()]).next(1, set(&[a.clone(), b.clone()]), &none);
        assert_eq!(
            (device(&roster, 1), device(&roster, 2)),
            (Some(a.device), Some(b.device))
        );
        let roster = roster.next(2, set(&[a.clone(), renewed.clone()]), &none);
        assert_eq!(
            (device(&roster, 2), device(&roster, 9)),
            (None, Some(b.device))
        );
        let roster = roster.next(3, set(std::slice::from_ref(&a)), &none);
        assert_eq!(device(&roster, 9), None);
        let roster = roster.next(4, set(&[a, renewed]), &none);
        assert_eq!(device(&roster, 9), Some(b.device));
    }

    #[test]
    fn the_chain_is_computed_again_from_the_rows() {
        let roster = history();
        let again = Roster::from_rows(roster.rows().to_vec(), roster.hash(), 5).unwrap();
        assert_eq!(again, roster);
        again.verify_chain(5).unwrap();
        assert_eq!(again.verify_chain(6), Err(BadRoster));
        assert_eq!(again.verify_chain(u64::MAX), Err(BadRoster));
    }

    #[test]
    fn any_changed_row_breaks_the_chain() {
        let roster = history();
        for at in 0..roster.rows().len() {
            let mut rows = roster.rows().to_vec();
            rows[at].role = Role::Admin;
            let forged = Roster::from_rows(rows, roster.hash(), 5).unwrap();
            assert_eq!(forged.verify_chain(5), Err(BadRoster));
            let mut rows = roster.rows().to_vec();
            rows.remove(at);
            let forged = Roster::from_rows(rows, roster.hash(), 5).unwrap();
            assert_eq!(forged.verify_chain(5), Err(BadRoster));
        }
    }

    #[test]
    fn only_what_a_user_began_counts_against_it() {
        let none = BTreeSet::new();
        let (a, b) = (row(1, Role::Owner), row(2, Role::Editor));
        let for_role = |role| RosterRow {
            role,
            cause: RowCause::Role,
            ..b.clone()
        };
        let by_other = RosterRow {
            cause: RowCause::Other,
            ..b.clone()
        };
        let mut roster = Roster::genesis(vec![a.clone()]);
        let count = |roster: &Roster| {
            let again = Roster::from_rows(roster.rows().to_vec(), roster.hash(), 99).unwrap();
            assert_eq!(&again, roster);
            roster.rows_of(&b.user)
        };
        let viewer = for_role(Role::Viewer);
        let steps = [(1, &by_other), (2, &viewer), (3, &for_role(Role::Editor))];
        for (epoch, row) in steps {
            roster = roster.next(epoch, set(&[a.clone(), row.clone()]), &none);
            assert_eq!(roster.rows().len(), 1 + epoch as usize);
            assert_eq!(count(&roster), 0);
        }
        // A new key, be it with a new role; the same device taken out and in by one commit, or by two.
        let renewed = RosterRow {
            key: vec![9; 32].into(),
            role: Role::Viewer,
            ..b.clone()
        };
        roster = roster.next(4, set(&[a.clone(), renewed.clone()]), &none);
        assert_eq!(count(&roster), 1);
        let both = BTreeSet::from([b.device]);
        roster = roster.next(5, set(&[a.clone(), renewed]), &both);
        assert_eq!(count(&roster), 2);
        for epoch in [6, 8, 10] {
            let back = [&by_other, &b, &by_other][(epoch - 6) / 2];
            let epoch = epoch as u64;
            roster = roster.next(epoch, set(std::slice::from_ref(&a)), &none);
            roster = roster.next(epoch + 1, set(&[a.clone(), back.clone()]), &none);
        }
        assert_eq!(count(&roster), 3);
        assert_eq!(roster.rows_of(&a.user), 1);
    }

    #[test]
    fn a_row_began_for_what_it_says() {
        let roster = history();
        let with = |at: usize, cause| {
            let mut rows = roster.rows().to_vec();
            rows[at].cause = cause;
            Roster::from_rows(rows, roster.hash(), 5).map(drop)
        };
        // The founder's; one that came; one whose role alone changed; one that came back.
        for (at, other, role) in [
            (0, false, false),
            (1, true, false),
            (2, true, true),
            (3, true, false),
        ] {
            assert_eq!(with(at, RowCause::Own), Ok(()), "{at}");
            assert_eq!(with(at, RowCause::Other).is_ok(), other, "{at}");
            assert_eq!(with(at, RowCause::Role).is_ok(), role, "{at}");
        }
    }

    #[test]
    fn impossible_rows_are_refused() {
        let roster = history();
        let mut rows = roster.rows().to_vec();
        rows.reverse();
        assert_eq!(Roster::from_rows(rows, roster.hash(), 5), Err(BadRoster));
        let mut rows = roster.rows().to_vec();
        rows[1].last_epoch = None;
        assert_eq!(Roster::from_rows(rows, roster.hash(), 5), Err(BadRoster));
        assert_eq!(
            Roster::from_rows(roster.rows().to_vec(), roster.hash(), 4),
            Err(BadRoster)
        );
    }

    #[test]
    fn a_removed_device_is_tombstoned_until_it_is_added() {
        let a = row(1, Role::Owner);
        let none = BTreeSet::new();
        let both = Roster::genesis(vec![a.clone()]).next(
            1,
            set(&[a.clone(), row(2, Role::Editor)]),
            &none,
        );
        let gone = both.next(2, set(std::slice::from_ref(&a)), &none);
        assert!(gone.tombstones().contains(&DeviceId([2; 16])));
        let again = Roster::from_rows(gone.rows().to_vec(), gone.hash(), 2).unwrap();
        assert_eq!(again.tombstones(), gone.tombstones());
        let back = gone.next(3, set(&[a, row(2, Role::Editor)]), &none);
        assert!(back.tombstones().is_empty());
    }

    #[test]
    fn removed_and_added_at_once_begins_a_row() {
        let rows = set(&[row(1, Role::Owner), row(2, Role::Editor)]);
        let roster = Roster::empty().next(0, rows.clone(), &BTreeSet::new());
        let again = roster.next(1, rows, &BTreeSet::from([DeviceId([2; 16])]));
        assert_eq!(again.rows().len(), 3);
        assert_eq!(again.rows()[1].last_epoch, Some(0));
        again.verify_chain(1).unwrap();
    }
}

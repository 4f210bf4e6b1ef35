//! What is loaded, by name: [`Keys`] say what, [`Rows`] are what was there.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::group::RootWrap;
use conclave_proto::merkle::NodeId;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::service::Loss;
use conclave_proto::{Author, DeviceId, GroupId, Hash, Refusal, UnixMs, UserId};
use conclave_rules::LogId;

use crate::op::Session;
use crate::rows::{
    AccountRow, ActiveRow, AuthorRow, BaseRow, DeviceRow, DocumentRow, ErasingRow, GroupRow,
    InvitationRow, JoinRow, ListRow, Mark, PackageRow, PaidRow, PartsRow, PleaRow, Position,
    RecoveryRow, ReplacedRow, ServiceRow, StockRow, WelcomeRow,
};

/// Why something goes no further.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// The service says no.
    Refused(Refusal),
    /// Rows are missing that decide it: load them, and ask again.
    Lacks(Box<Keys>),
    /// A stored row cannot be what was stored.
    Damaged {
        /// Which.
        what: &'static str,
    },
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Stop {
    fn lacks(want: impl FnOnce(&mut Keys)) -> Self {
        let mut keys = Keys::default();
        want(&mut keys);
        Self::Lacks(Box::new(keys))
    }
}

/// The tables, each with its key and its row: what may be asked for, what was found, and how one is looked up.
macro_rules! tables {
    ($($(#[$doc:meta])* $field:ident, $get:ident: $key:ty => $row:ty;)*) => {
        /// Names of rows to load. Sorted, so that a backend that locks them locks them in one order.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Keys {
            $($(#[$doc])* pub $field: BTreeSet<$key>,)*
        }

        /// Rows as they were loaded. What was asked for and is not there is in it as none.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Rows {
            $($(#[$doc])* pub $field: BTreeMap<$key, Option<$row>>,)*
        }

        impl Keys {
            /// Whether nothing is asked for.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                $(self.$field.is_empty())&&*
            }

            /// Without those of which `rows` know.
            pub(crate) fn not_in(mut self, rows: &Rows) -> Self {
                $(self.$field.retain(|key| !rows.$field.contains_key(key));)*
                self
            }

            /// Of how many tables something is asked for.
            #[must_use]
            pub fn tables(&self) -> usize {
                let mut tables = 0;
                $(tables += usize::from(!self.$field.is_empty());)*
                tables
            }

            /// Asks for these too.
            pub fn extend(&mut self, other: Self) {
                $(self.$field.extend(other.$field);)*
            }
        }

        impl Rows {
            /// Takes newer rows.
            pub fn extend(&mut self, newer: Self) {
                $(self.$field.extend(newer.$field);)*
            }

            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`Stop::Lacks`] where it was not loaded.
                pub fn $get(&self, key: &$key) -> Result<Option<&$row>, Stop> {
                    match self.$field.get(key) {
                        Some(row) => Ok(row.as_ref()),
                        None => Err(Stop::lacks(|keys| {
                            keys.$field.insert(key.clone());
                        })),
                    }
                }
            )*
        }
    };
}

tables! {
    /// Accounts.
    accounts, account: UserId => AccountRow;
    /// Devices, with what their accounts say.
    devices, device: DeviceId => DeviceRow;
    /// Devices of a user.
    siblings, siblings_of: UserId => BTreeSet<DeviceId>;
    /// Devices of a user and of all who share a group with it.
    acquainted, acquainted_with: UserId => BTreeSet<DeviceId>;
    /// Newest device lists.
    lists, list: UserId => ListRow;
    /// Invitations, by the hash of their tokens.
    invitations, invitation: Hash => InvitationRow;
    /// What can be handed out of a device's key packages.
    stocks, stock: DeviceId => StockRow;
    /// Key packages, by their references.
    packages, package: Hash => PackageRow;
    /// Where groups stand.
    groups, group: GroupId => GroupRow;
    /// Where logs of groups begin that members brought.
    bases, base_of: GroupId => BaseRow;
    /// Public states of groups.
    parts, parts_of: GroupId => PartsRow;
    /// The wrap that came with a group's newest commit.
    commit_wraps, commit_wrap_of: GroupId => RootWrap;
    /// Entries of a group's log, by their leaves.
    entries, entry: (GroupId, Hash) => Position;
    /// Who wrote the entry that lists a document.
    listers, lister_of: LogId => Author;
    /// The commit that ended an epoch.
    commits, commit: (GroupId, u64) => Position;
    /// Root wraps of an epoch, by their signers.
    wraps, wraps_of: (GroupId, u64) => BTreeMap<DeviceId, RootWrap>;
    /// What joiners of an epoch need.
    joins, join: (GroupId, u64) => JoinRow;
    /// Welcomes, by their numbers.
    welcomes, welcome: u64 => WelcomeRow;
    /// Welcomes that wait for a device, the oldest first.
    waiting, waiting_for: DeviceId => Vec<WelcomeRow>;
    /// Groups of which a device is a member with no Welcome left to answer.
    memberships, memberships_of: DeviceId => Vec<GroupId>;
    /// Pleas in a group, the oldest first.
    group_pleas, pleas_in: GroupId => Vec<PleaRow>;
    /// Pleas of a device, over all groups.
    device_pleas, pleas_of: DeviceId => Vec<PleaRow>;
    /// The least epoch for which an open document of a group is due for a snapshot.
    due, least_due: GroupId => u64;
    /// Where documents' logs stand.
    documents, document: LogId => DocumentRow;
    /// Active snapshots.
    actives, active: LogId => ActiveRow;
    /// Authors of documents.
    authors, author: (LogId, Author) => AuthorRow;
    /// Records of an author (by number) at a clock.
    clocks, at_clock: (LogId, u64, u64) => (u64, Hash);
    /// What the log says at a size above 0.
    marks, mark: (LogId, u64) => Mark;
    /// Snapshots, by their ids.
    snapshots, snapshot: (LogId, Hash) => Position;
    /// Snapshots, by their encoded headers.
    headers, with_header: (LogId, Vec<u8>) => u64;
    /// Inner nodes of a document's tree.
    nodes, node: (LogId, NodeId) => Hash;
    /// Replaced snapshots whose time was over at some time, so many of them: the longest replaced first, of equals those of the lesser log.
    overdue, overdue_at: (UnixMs, u32) => Vec<ReplacedRow>;
    /// The generation that the service is in. None before it was founded.
    services, service: () => ServiceRow;
    /// Logs that are being returned.
    recoveries, recovery_of: LogId => RecoveryRow;
    /// Logs that are held no longer than to some time, so many of them: the first ones first.
    ended, ended_at: (UnixMs, u32) => Vec<RecoveryRow>;
    /// Declared losses of a log that are told, the oldest first.
    losses, losses_of: LogId => Vec<Loss>;
    /// The generation that began when a group was removed that had this id.
    dropped, dropped_in: GroupId => u64;
    /// Bytes that are stored for a user.
    usage_of_users, user_usage: UserId => u64;
    /// Bytes that are stored of a group.
    usage_of_groups, group_usage: GroupId => u64;
    /// Bytes that are stored of a log, by users.
    shares, shares_of: LogId => BTreeMap<UserId, u64>;
    /// For whom snapshots count that have their content.
    paids, paid: (LogId, u64) => PaidRow;
    /// A deleted document that still has content.
    erasing, erasing_first: () => ErasingRow;
    /// Root of a group's log at a size above 0, as far as it is here.
    group_roots, group_root: (GroupId, u64) => Hash;
}

impl Rows {
    /// Asks for all of these that were not loaded at once: one after the other, each would cost a round.
    pub(crate) fn need(&self, want: impl FnOnce(&mut Keys)) -> Result<(), Stop> {
        let mut keys = Keys::default();
        want(&mut keys);
        let lacking = keys.not_in(self);
        match lacking.is_empty() {
            true => Ok(()),
            false => Err(Stop::Lacks(Box::new(lacking))),
        }
    }

    /// Refuses what comes over another session than the device's newest: another process has logged in since, or another copy of its store.
    pub(crate) fn ensure_newest(&self, session: &Session) -> Result<(), Stop> {
        let row = self.device(&session.device)?.ok_or_else(revoked)?;
        // Breakage: what an older connection has sent is still written.
        if row.login.session == session.number || crate::broken("session-fence") {
            return Ok(());
        }
        let since = row.login.at;
        Err(Refusal::OtherLife { since }.into())
    }

    /// Refuses a session that is not its device's newest, and a device that is not known, revoked, or whose account is shut.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn ensure_current(&self, session: &Session) -> Result<(), Stop> {
        self.ensure_active(&session.device)?;
        self.ensure_newest(session)
    }

    /// Refuses unless the device is known, not revoked and its account not shut.
    pub(crate) fn ensure_active(&self, device: &DeviceId) -> Result<(), Stop> {
        match self.device(device)? {
            Some(row) if !row.revoked && !row.disabled => Ok(()),
            _ => Err(revoked().into()),
        }
    }
}

/// The refusal for a device that has lost its standing.
#[must_use]
pub fn revoked() -> Refusal {
    Refusal::Forbidden {
        why: ForbiddenWhy::DeviceRevoked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::LoginRow;

    #[test]
    fn only_the_newest_session_of_a_device_is_heard() {
        let (device, at) = (DeviceId([1; 16]), UnixMs(7));
        let login = LoginRow {
            session: 2,
            at,
            ..LoginRow::default()
        };
        let row = DeviceRow {
            user: UserId([2; 32]),
            key: vec![3; 32],
            revoked: false,
            disabled: false,
            login,
        };
        let mut rows = Rows::default();
        rows.devices.insert(device, Some(row));
        let heard = |number| rows.ensure_newest(&Session { device, number });
        assert_eq!(heard(2), Ok(()));
        for other in [0, 1, 3] {
            let since = at;
            assert_eq!(heard(other), Err(Refusal::OtherLife { since }.into()));
        }
    }
}

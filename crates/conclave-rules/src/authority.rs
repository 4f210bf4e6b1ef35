//! Who holds the keys of a document.

use conclave_proto::{DeviceId, DocumentId, Hash, Refusal, UserId};

use crate::roster::RosterRow;
use crate::state::GroupState;

/// Whoever holds the keys of documents, as far as documents need to know: who may write when, who else reads, what counts as nothing. A group
/// is one; what documents promise rests on nothing else that a group has.
pub trait Authority {
    /// The epoch whose keys seal now.
    fn epoch(&self) -> u64;

    /// Epoch from which on documents are re-keyed; 0 when none has to be.
    fn rekey_since(&self) -> u64;

    /// The row under which a device writes in an epoch.
    fn row(&self, device: &DeviceId, epoch: u64) -> Option<&RosterRow>;

    /// The user of a device that was a member in an epoch or before it.
    fn user_of(&self, device: &DeviceId, epoch: u64) -> Option<UserId> {
        self.row(device, epoch).map(|row| row.user)
    }

    /// The refusal for a device that may not write now.
    fn refusal(&self, device: &DeviceId) -> Refusal;

    /// Whether all who held the keys of an epoch are devices of one user: then nobody else can check.
    fn is_of_one_user(&self, epoch: u64) -> bool;

    /// Whether all members of an epoch are devices of these users.
    fn is_of_users(&self, epoch: u64, users: &[UserId]) -> bool;

    /// Leaves of a document's records that count as nothing, in the order in which that was decided.
    fn voided(&self, document: &DocumentId) -> Box<dyn Iterator<Item = Hash> + '_>;

    /// Plaintexts are padded to a multiple of this, in bytes.
    fn padding_bytes(&self) -> u16;

    /// Whether snapshots tell which record brought what is in them.
    fn keeps_attribution(&self) -> bool;

    /// Whether a record of a document counts as nothing.
    fn is_void(&self, document: &DocumentId, leaf: &Hash) -> bool {
        self.voided(document).any(|void| void == *leaf)
    }
}

impl Authority for GroupState {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn rekey_since(&self) -> u64 {
        self.rotating_since
    }

    fn row(&self, device: &DeviceId, epoch: u64) -> Option<&RosterRow> {
        self.roster.row(device, epoch)
    }

    fn user_of(&self, device: &DeviceId, epoch: u64) -> Option<UserId> {
        let row = self.roster.first_row(device)?;
        (row.first_epoch <= epoch).then_some(row.user)
    }

    fn refusal(&self, device: &DeviceId) -> Refusal {
        self.not_member(device)
    }

    fn is_of_one_user(&self, epoch: u64) -> bool {
        let rows = self.roster.rows().iter();
        let mut users = rows.filter(|row| row.covers(epoch)).map(|row| row.user);
        let first = users.next();
        users.all(|user| Some(user) == first)
    }

    fn is_of_users(&self, epoch: u64, users: &[UserId]) -> bool {
        let rows = self.roster.rows().iter();
        let mut of_epoch = rows.filter(|row| row.covers(epoch));
        of_epoch.all(|row| users.contains(&row.user))
    }

    fn voided(&self, document: &DocumentId) -> Box<dyn Iterator<Item = Hash> + '_> {
        Box::new(self.voided.of(document).copied())
    }

    fn is_void(&self, document: &DocumentId, leaf: &Hash) -> bool {
        self.voided.contains(document, leaf)
    }

    fn padding_bytes(&self) -> u16 {
        self.policy.padding_bytes
    }

    fn keeps_attribution(&self) -> bool {
        self.policy.attribution == 1
    }
}

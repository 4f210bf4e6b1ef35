//! Copies of what is durable: what a service is put back to.

use conclave_proto::GroupId;

use crate::memory::tables::{Logs, Tables};
use crate::memory::{Memory, Stored};
use crate::rows::WelcomeRow;

impl Memory {
    /// An independent copy. No transaction is open.
    #[must_use]
    pub fn copy(&self) -> Self {
        let stored = self.stored();
        let copy = Stored {
            tables: stored.tables.clone(),
            logs: stored.logs.copy(),
            before: None,
        };
        Self::of(copy)
    }

    /// Takes all that another store has of a group in place of what is here. No transaction is open.
    pub fn take_group(&self, group: &GroupId, from: &Self) {
        let from = from.copy();
        let (mut from, mut stored) = (from.stored(), self.stored());
        stored.tables.take_group(group, &mut from.tables);
        stored.logs.take_group(group, &mut from.logs);
    }
}

/// Moves what holds from one table to another, in place of what holds there.
macro_rules! take {
    ($to:expr, $from:expr, |$key:ident, $row:ident| $holds:expr) => {
        $to.retain(|$key, $row| !$holds);
        $to.extend($from.extract_if(.., |$key, $row| $holds));
    };
}

impl Tables {
    fn take_group(&mut self, group: &GroupId, from: &mut Self) {
        take!(self.groups, from.groups, |key, _row| key == group);
        take!(self.members, from.members, |key, _row| key.0 == *group);
        take!(self.wraps, from.wraps, |key, _row| key.0 == *group);
        take!(self.joins, from.joins, |key, _row| key.0 == *group);
        let of_group = |row: &WelcomeRow| row.group == *group;
        take!(self.welcomes, from.welcomes, |_key, row| of_group(row));
        self.last_welcome = self.last_welcome.max(from.last_welcome);
        take!(self.pleas, from.pleas, |key, _row| key.0 == *group);
        take!(self.documents, from.documents, |key, _row| key.group
            == *group);
        take!(self.authors, from.authors, |key, _row| key.0.group
            == *group);
        self.replaced.retain(|row| row.log.group != *group);
        self.replaced
            .extend(from.replaced.iter().filter(|row| row.log.group == *group));
    }
}

impl Logs {
    fn take_group(&mut self, group: &GroupId, from: &mut Self) {
        take!(self.entries, from.entries, |key, _row| key == group);
        take!(self.records, from.records, |key, _row| key.group == *group);
    }
}

//! Copies of what is durable: what a service is put back to.

use conclave_proto::GroupId;

use crate::memory::tables::{Logs, Tables};
use crate::memory::{Memory, Stored};

impl Memory {
    /// An independent copy. No transaction is open.
    #[must_use]
    pub fn copy(&self) -> Self {
        let stored = self.stored();
        let copy = Stored {
            tables: stored.tables.copy(),
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

impl Tables {
    pub(super) fn drop_group(&mut self, group: &GroupId) {
        macro_rules! drop {
            ($($table:ident: |$key:ident, $row:ident| $of:expr;)*) => {
                $(self.$table.remove_where(|$key, $row| $of == *group);)*
            };
        }
        drop! {
            groups: |key, _row| *key;
            bases: |key, _row| *key;
            parts: |key, _row| key.0;
            members: |key, _row| key.0;
            wraps: |key, _row| key.0;
            joins: |key, _row| key.0;
            welcomes: |_key, row| row.group;
            pleas: |key, _row| key.0;
            documents: |key, _row| key.group;
            authors: |key, _row| key.0.group;
            nodes: |key, _row| key.0.group;
            replaced: |key, _row| key.log.group;
            losses: |key, _row| key.0.group;
        }
        // What a report wants was signed.
        self.recovery
            .remove_where(|key, row| key.group == *group && row.of == 0);
    }

    fn take_group(&mut self, group: &GroupId, from: &mut Self) {
        macro_rules! take {
            ($($table:ident: |$key:ident, $row:ident| $of:expr;)*) => {
                $(self.$table.take(&mut from.$table, |$key, $row| $of == *group);)*
            };
        }
        take! {
            groups: |key, _row| *key;
            bases: |key, _row| *key;
            parts: |key, _row| key.0;
            members: |key, _row| key.0;
            wraps: |key, _row| key.0;
            joins: |key, _row| key.0;
            welcomes: |_key, row| row.group;
            pleas: |key, _row| key.0;
            documents: |key, _row| key.group;
            authors: |key, _row| key.0.group;
            nodes: |key, _row| key.0.group;
            replaced: |key, _row| key.log.group;
            recovery: |key, _row| key.group;
            losses: |key, _row| key.0.group;
        }
        let last = from.numbers.last_welcome;
        self.numbers.last_welcome = self.numbers.last_welcome.max(last);
    }
}

impl Logs {
    fn take_group(&mut self, group: &GroupId, from: &mut Self) {
        self.entries.retain(|key, _| key != group);
        self.entries.extend(from.entries.remove_entry(group));
        let records = &mut from.records;
        self.records.retain(|key, _| key.group != *group);
        self.records
            .extend(records.extract_if(.., |key, _| key.group == *group));
    }
}

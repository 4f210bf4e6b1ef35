//! Rows that a transaction can be taken back from, at the cost of what it touched.

use std::collections::BTreeMap;
use std::ops::{Deref, RangeBounds};

/// A table, and the rows that the open transaction has touched, as they were before it. Rows are read as those of the map that it is.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    rows: BTreeMap<K, V>,
    before: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }
}

impl<K, V> Deref for Table<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    fn touch(&mut self, key: &K) {
        if !self.before.contains_key(key) {
            let row = self.rows.get(key).cloned();
            self.before.insert(key.clone(), row);
        }
    }

    /// Puts a row in place of the one before. Gives whether there was one.
    pub(super) fn insert(&mut self, key: K, row: V) -> bool {
        self.touch(&key);
        self.rows.insert(key, row).is_some()
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.touch(key);
        self.rows.remove(key);
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if self.rows.contains_key(key) {
            self.touch(key);
        }
        self.rows.get_mut(key)
    }

    /// Removes the rows of which this holds.
    pub(super) fn remove_where(&mut self, holds: impl Fn(&K, &V) -> bool) {
        for key in self.keys_where(.., holds) {
            self.remove(&key);
        }
    }

    /// Changes the rows with these keys of which this holds.
    pub(super) fn change_where(
        &mut self,
        keys: impl RangeBounds<K>,
        holds: impl Fn(&K, &V) -> bool,
        change: impl Fn(&mut V),
    ) {
        for key in self.keys_where(keys, holds) {
            if let Some(row) = self.get_mut(&key) {
                change(row);
            }
        }
    }

    fn keys_where(&self, keys: impl RangeBounds<K>, holds: impl Fn(&K, &V) -> bool) -> Vec<K> {
        let found = self.rows.range(keys).filter(|(key, row)| holds(key, row));
        found.map(|(key, _)| key.clone()).collect()
    }

    /// What was touched stays as it is.
    pub(super) fn keep(&mut self) {
        self.before.clear();
    }

    /// All is as it was before.
    pub(super) fn undo(&mut self) {
        for (key, row) in std::mem::take(&mut self.before) {
            match row {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
    }

    /// An independent copy. No transaction is open.
    pub(super) fn copy(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            before: BTreeMap::new(),
        }
    }

    /// Takes the rows with keys of which this holds from another table, in place of those here. No transaction is open.
    pub(super) fn take(&mut self, from: &mut Self, holds: impl Fn(&K, &V) -> bool) {
        self.rows.retain(|key, row| !holds(key, row));
        let taken = from.rows.extract_if(.., |key, row| holds(key, row));
        self.rows.extend(taken);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A row that counts its copies.
    #[derive(Debug)]
    struct Counted(u64, Rc<Cell<usize>>);

    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.1.set(self.1.get() + 1);
            Self(self.0, self.1.clone())
        }
    }

    fn values(table: &Table<u64, Counted>) -> Vec<(u64, u64)> {
        table.iter().map(|(key, row)| (*key, row.0)).collect()
    }

    /// Four rows, of few or of many, and each more than once.
    fn some_changes(table: &mut Table<u64, Counted>, copies: &Rc<Cell<usize>>) {
        for round in 0..3 {
            table.insert(3, Counted(100 + round, copies.clone()));
            table.insert(1_000_000, Counted(round, copies.clone()));
            table.remove(&4);
            table.change_where(5..7, |_, _| true, |row| row.0 += 1);
        }
    }

    #[test]
    fn a_transaction_costs_what_it_touches_whether_it_is_kept_or_not() {
        for rows in [10, 10_000] {
            let copies = Rc::new(Cell::new(0));
            let mut table = Table::default();
            for key in 0..rows {
                table.insert(key, Counted(key, copies.clone()));
            }
            table.keep();
            let before = values(&table);
            assert_eq!(copies.get(), 0);
            some_changes(&mut table, &copies);
            assert_ne!(values(&table), before);
            table.undo();
            assert_eq!(values(&table), before);
            assert_eq!(copies.get(), 4, "{rows} rows");
            some_changes(&mut table, &copies);
            let after = values(&table);
            table.keep();
            table.undo();
            assert_eq!(values(&table), after);
            assert_eq!(copies.get(), 8, "{rows} rows");
        }
    }
}

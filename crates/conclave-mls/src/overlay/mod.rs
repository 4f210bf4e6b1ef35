//! OpenMLS storage in memory: a base, and changes on top of it.
//!
//! OpenMLS writes a dozen values when it merges one commit, and knows no transaction. Here all of them land in an overlay; the caller
//! drains it as one batch of row changes, or forgets them. Values that did not change are not reported. Values are CBOR (RFC 8949) and
//! are zeroized when they are dropped; keys name the kind of value and whose it is, and hold no secret.

mod pieces;
mod secret_buffer;
pub(crate) mod storage;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use secret_buffer::SecretBuffer;

/// Rows of a store: key and value. Keys are unique within one group, or within the global key store.
pub type Rows = Vec<(Vec<u8>, Zeroizing<Vec<u8>>)>;

/// One row to write or to delete.
#[derive(Clone, PartialEq, Eq)]
pub struct RowChange {
    /// Key of the row.
    pub key: Vec<u8>,
    /// New value; none deletes the row.
    pub value: Option<Zeroizing<Vec<u8>>>,
}

impl std::fmt::Debug for RowChange {
    /// Prints the key's kind and the value's length: values hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            Some(value) => write!(f, "RowChange(write {} bytes)", value.len()),
            None => f.write_str("RowChange(delete)"),
        }
    }
}

/// A value could not be written or read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// The value could not be encoded.
    #[error("a value could not be encoded for the store")]
    Encode,
    /// A stored value could not be decoded.
    #[error("a stored value is damaged")]
    Damaged,
}

type Value = Zeroizing<Vec<u8>>;

/// What a key held in the change set before it was written; the inner option is a deletion.
type Undo = (Vec<u8>, Option<Option<Value>>);

#[derive(Default)]
struct Inner {
    base: BTreeMap<Vec<u8>, Value>,
    changes: BTreeMap<Vec<u8>, Option<Value>>,
    /// Undo log while a savepoint is open.
    journal: Option<Vec<Undo>>,
}

impl Inner {
    fn get(&self, key: &[u8]) -> Option<&Value> {
        match self.changes.get(key) {
            Some(change) => change.as_ref(),
            None => self.base.get(key),
        }
    }

    fn set(&mut self, key: Vec<u8>, value: Option<Value>) {
        let before = self.changes.insert(key.clone(), value);
        if let Some(journal) = &mut self.journal {
            journal.push((key, before));
        }
    }

    fn keys_under(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let from = || (Bound::Included(prefix.to_vec()), Bound::Unbounded);
        let base = self.base.range::<Vec<u8>, _>(from());
        let base = base.map(|(key, _)| key);
        let changed = self.changes.range::<Vec<u8>, _>(from());
        let changed = changed.map(|(key, _)| key);
        let below = |key: &&Vec<u8>| key.starts_with(prefix);
        let all = base.take_while(below).chain(changed.take_while(below));
        all.filter(|key| self.get(key).is_some()).cloned().collect()
    }
}

/// An in-memory OpenMLS storage provider. See the module's comment.
#[derive(Default)]
pub struct Overlay {
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        write!(
            f,
            "Overlay({} rows, {} changed)",
            inner.base.len(),
            inner.changes.len()
        )
    }
}

impl Overlay {
    /// An overlay over stored rows.
    #[must_use]
    pub fn new(rows: Rows) -> Self {
        let inner = Inner {
            base: rows.into_iter().collect(),
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// The changes since the last call, unchanged values left out. They become the new base.
    pub fn drain(&self) -> Vec<RowChange> {
        let mut inner = self.lock();
        inner.journal = None;
        let changes = std::mem::take(&mut inner.changes);
        let mut out = Vec::new();
        for (key, value) in changes {
            if inner.base.get(&key) == value.as_ref() {
                continue;
            }
            match &value {
                Some(value) => inner.base.insert(key.clone(), value.clone()),
                None => inner.base.remove(&key),
            };
            out.push(RowChange { key, value });
        }
        out
    }

    /// Forgets everything since the last [`Overlay::drain`].
    pub fn rollback(&self) {
        let mut inner = self.lock();
        inner.journal = None;
        inner.changes.clear();
    }

    /// Opens a savepoint: [`Overlay::revert`] undoes what comes after it.
    pub fn begin(&self) {
        self.lock().journal = Some(Vec::new());
    }

    /// Closes the savepoint and keeps what came after it.
    pub fn keep(&self) {
        self.lock().journal = None;
    }

    /// Undoes everything since the savepoint and closes it.
    pub fn revert(&self) {
        let mut inner = self.lock();
        let journal = inner.journal.take().unwrap_or_default();
        for (key, before) in journal.into_iter().rev() {
            match before {
                Some(value) => inner.changes.insert(key, value),
                None => inner.changes.remove(&key),
            };
        }
    }

    /// All rows as they are now, changes included.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let inner = self.lock();
        let mut all = inner.base.clone();
        for (key, value) in &inner.changes {
            match value {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            };
        }
        all.into_iter().collect()
    }

    /// Rows whose key begins with `prefix`, changes included.
    #[must_use]
    pub fn rows_under(&self, prefix: &[u8]) -> Rows {
        let inner = self.lock();
        let from = || Bound::Included(prefix.to_vec());
        let below = |key: &[u8]| key.starts_with(prefix);
        let base = inner.base.range((from(), Bound::Unbounded));
        let base = base.take_while(|(key, _)| below(key));
        let mut all: BTreeMap<_, _> = base.map(|(key, row)| (key.clone(), row.clone())).collect();
        let changes = inner.changes.range((from(), Bound::Unbounded));
        for (key, value) in changes.take_while(|(key, _)| below(key)) {
            match value {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            };
        }
        all.into_iter().collect()
    }

    /// The row with exactly this key.
    #[must_use]
    pub fn get_row(&self, key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.lock().get(key).cloned()
    }

    /// Writes or deletes the row with exactly this key.
    pub fn put_row(&self, key: &[u8], value: Option<Zeroizing<Vec<u8>>>) {
        self.lock().set(key.to_vec(), value);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code between lock and unlock can leave the maps half-changed in a way that matters: after a panic the caller reverts.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &self,
        label: &str,
        key: &K,
        value: &V,
    ) -> Result<(), OverlayError> {
        let key = row_key(label, key)?;
        let value = encode(value)?;
        self.lock().set(key, Some(value));
        Ok(())
    }

    /// As `put`, in pieces: only those that are others than before change.
    fn put_in_pieces<K: Serialize + ?Sized, V: Serialize + ?Sized>(
        &self,
        label: &str,
        key: &K,
        value: &V,
    ) -> Result<(), OverlayError> {
        let prefix = row_key(label, key)?;
        let value = encode(value)?;
        let pieces = pieces::cut(&value);
        let rows: BTreeMap<Vec<u8>, &[u8]> = pieces
            .iter()
            .map(|piece| (piece.key(&prefix), piece.bytes))
            .collect();
        let mut inner = self.lock();
        for gone in inner.keys_under(&prefix) {
            if !rows.contains_key(&gone) {
                inner.set(gone, None);
            }
        }
        for (key, bytes) in rows {
            if inner
                .get(&key)
                .is_none_or(|known| known.as_slice() != bytes)
            {
                inner.set(key, Some(Zeroizing::new(bytes.to_vec())));
            }
        }
        Ok(())
    }

    /// What [`Overlay::put_in_pieces`] has put, or was put whole.
    fn get_from_pieces<K: Serialize + ?Sized, V: DeserializeOwned>(
        &self,
        label: &str,
        key: &K,
    ) -> Result<Option<V>, OverlayError> {
        let rows = self.rows_under(&row_key(label, key)?);
        let bytes: Vec<u8> = rows
            .iter()
            .flat_map(|(_, row)| row.iter().copied())
            .collect();
        (!rows.is_empty()).then(|| decode(&bytes)).transpose()
    }

    fn delete_pieces<K: Serialize + ?Sized>(
        &self,
        label: &str,
        key: &K,
    ) -> Result<(), OverlayError> {
        let prefix = row_key(label, key)?;
        let mut inner = self.lock();
        for key in inner.keys_under(&prefix) {
            inner.set(key, None);
        }
        Ok(())
    }

    fn get<K: Serialize + ?Sized, V: DeserializeOwned>(
        &self,
        label: &str,
        key: &K,
    ) -> Result<Option<V>, OverlayError> {
        let key = row_key(label, key)?;
        let value = self.lock().get(&key).cloned();
        value.map(|bytes| decode(&bytes)).transpose()
    }

    fn delete<K: Serialize + ?Sized>(&self, label: &str, key: &K) -> Result<(), OverlayError> {
        let key = row_key(label, key)?;
        self.lock().set(key, None);
        Ok(())
    }
}

/// `label "/" CBOR(key)`.
fn row_key<K: Serialize + ?Sized>(label: &str, key: &K) -> Result<Vec<u8>, OverlayError> {
    let mut out = prefix(label);
    ciborium::into_writer(key, &mut out).map_err(|_| OverlayError::Encode)?;
    Ok(out)
}

/// Beginning of the keys of all values with this label.
pub(crate) fn prefix(label: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(label.as_bytes());
    out.push(b'/');
    out
}

fn encode<V: Serialize + ?Sized>(value: &V) -> Result<Value, OverlayError> {
    let mut buffer = SecretBuffer::default();
    ciborium::into_writer(value, &mut buffer).map_err(|_| OverlayError::Encode)?;
    Ok(buffer.into_inner())
}

fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Result<V, OverlayError> {
    ciborium::from_reader(bytes).map_err(|_| OverlayError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &[u8], value: &[u8]) -> (Vec<u8>, Zeroizing<Vec<u8>>) {
        (key.to_vec(), Zeroizing::new(value.to_vec()))
    }

    #[test]
    fn unchanged_values_are_not_reported() {
        let overlay = Overlay::new(vec![row(b"a", b"1"), row(b"b", b"2")]);
        overlay.put_row(b"a", Some(Zeroizing::new(b"1".to_vec())));
        overlay.put_row(b"b", Some(Zeroizing::new(b"3".to_vec())));
        overlay.put_row(b"c", None);
        let changes = overlay.drain();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].key, b"b");
        assert!(overlay.drain().is_empty());
        assert_eq!(overlay.get_row(b"b").unwrap().as_slice(), b"3");
    }

    #[test]
    fn a_savepoint_undoes_only_what_follows_it() {
        let overlay = Overlay::new(vec![row(b"a", b"1")]);
        overlay.put_row(b"a", Some(Zeroizing::new(b"2".to_vec())));
        overlay.begin();
        overlay.put_row(b"a", None);
        overlay.put_row(b"b", Some(Zeroizing::new(b"x".to_vec())));
        overlay.put_row(b"a", Some(Zeroizing::new(b"4".to_vec())));
        overlay.revert();
        assert_eq!(overlay.get_row(b"a").unwrap().as_slice(), b"2");
        assert!(overlay.get_row(b"b").is_none());
        overlay.rollback();
        assert_eq!(overlay.get_row(b"a").unwrap().as_slice(), b"1");
    }

    #[test]
    fn of_a_value_in_pieces_only_what_changed_is_reported() {
        #[derive(serde::Serialize, serde::Deserialize, Clone, PartialEq, Debug)]
        struct Node {
            name: Option<String>,
        }
        type Tree = (u64, Vec<Node>, String, Vec<Node>);
        let node = |n: usize| Node {
            name: (!n.is_multiple_of(3)).then(|| "n".repeat(n)),
        };
        let mut tree: Tree = (7, (0..50).map(node).collect(), "end".into(), vec![]);
        let overlay = Overlay::default();
        let read = |overlay: &Overlay| overlay.get_from_pieces::<_, Tree>("tree", &1u8).unwrap();
        overlay.put("tree", &1u8, &tree).unwrap();
        assert_eq!(read(&overlay).as_ref(), Some(&tree));
        overlay.put_in_pieces("tree", &1u8, &tree).unwrap();
        assert_eq!(read(&overlay).as_ref(), Some(&tree));
        assert_eq!(overlay.drain().len(), 52);
        tree.1[20] = node(1);
        overlay.put_in_pieces("tree", &1u8, &tree).unwrap();
        assert_eq!(overlay.drain().len(), 1);
        tree.1.push(node(2));
        overlay.put_in_pieces("tree", &1u8, &tree).unwrap();
        // Its length lies before it.
        assert_eq!(overlay.drain().len(), 2);
        tree.1.truncate(40);
        overlay.put_in_pieces("tree", &1u8, &tree).unwrap();
        assert_eq!(overlay.drain().len(), 12);
        assert_eq!(read(&overlay), Some(tree));
        overlay.delete_pieces("tree", &1u8).unwrap();
        assert_eq!(read(&overlay), None);
        assert_eq!(overlay.rows(), Rows::new());
    }

    #[test]
    fn damaged_values_are_errors() {
        let overlay = Overlay::default();
        overlay.put("kind", &1u8, &"text").unwrap();
        assert_eq!(
            overlay.get::<_, u64>("kind", &1u8),
            Err(OverlayError::Damaged)
        );
        assert_eq!(overlay.get::<_, String>("kind", &2u8), Ok(None));
        assert!(format!("{overlay:?}").starts_with("Overlay(0 rows"));
    }
}

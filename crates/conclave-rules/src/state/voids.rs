//! Records declared void, in log order, and by document: whether a record is one of them is asked for every record that is read.

use conclave_proto::{DocumentId, Hash};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync, VectorSync};

/// Records declared void. Copies share what they have in common.
#[derive(Debug, Clone, Default)]
pub struct Voids {
    all: VectorSync<(DocumentId, Hash)>,
    /// Follows from `all`.
    of: RedBlackTreeMapSync<DocumentId, OfDocument>,
}

#[derive(Debug, Clone, Default)]
struct OfDocument {
    order: VectorSync<Hash>,
    set: RedBlackTreeSetSync<Hash>,
}

impl PartialEq for Voids {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Voids {}

impl Voids {
    /// Adds a record, by its leaf. One that is there already is there twice: whoever judges asks before.
    pub fn push(&mut self, document: DocumentId, record: Hash) {
        self.all.push_back_mut((document, record));
        if self.of.get(&document).is_none() {
            self.of.insert_mut(document, OfDocument::default());
        }
        if let Some(of) = self.of.get_mut(&document) {
            of.order.push_back_mut(record);
            of.set.insert_mut(record);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them, in log order.
    pub fn iter(&self) -> impl Iterator<Item = &(DocumentId, Hash)> {
        self.all.iter()
    }

    /// The one with this number, counted from 0 in log order.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&(DocumentId, Hash)> {
        self.all.get(number)
    }

    /// Those of a document, in log order.
    pub fn of<'a>(&'a self, document: &DocumentId) -> impl Iterator<Item = &'a Hash> + use<'a> {
        let of = self.of.get(document).into_iter();
        of.flat_map(|of| of.order.iter())
    }

    /// How many a document has.
    #[must_use]
    pub fn count_of(&self, document: &DocumentId) -> usize {
        self.of.get(document).map_or(0, |of| of.order.len())
    }

    /// The most that any document has.
    pub(super) fn most_of_one(&self) -> usize {
        let counts = self.of.values().map(|of| of.order.len());
        counts.max().unwrap_or(0)
    }

    /// Whether a record of a document is one of them.
    #[must_use]
    pub fn contains(&self, document: &DocumentId, record: &Hash) -> bool {
        let of = self.of.get(document);
        of.is_some_and(|of| of.set.contains(record))
    }
}

impl FromIterator<(DocumentId, Hash)> for Voids {
    fn from_iter<T: IntoIterator<Item = (DocumentId, Hash)>>(voids: T) -> Self {
        let mut all = Self::default();
        for (document, record) in voids {
            all.push(document, record);
        }
        all
    }
}

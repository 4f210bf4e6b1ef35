//! Records declared void, in log order, and by document: whether a record is one of them is asked for every record that is read.

use conclave_proto::{DocumentId, Hash, UserId};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync, VectorSync};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

/// A record declared void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub struct Void {
    /// The document.
    pub document: DocumentId,
    /// The record's leaf.
    pub record: Hash,
    /// Who declared it.
    pub user: UserId,
}

/// Records declared void. Copies share what they have in common.
#[derive(Debug, Clone, Default)]
pub struct Voids {
    all: VectorSync<Void>,
    /// Follows from `all`.
    of: RedBlackTreeMapSync<DocumentId, OfDocument>,
    /// How many each user declared. Follows from `all`.
    by: RedBlackTreeMapSync<UserId, usize>,
}

#[derive(Debug, Clone, Default)]
struct OfDocument {
    order: VectorSync<Hash>,
    set: RedBlackTreeSetSync<Hash>,
    by: RedBlackTreeMapSync<UserId, usize>,
}

impl PartialEq for Voids {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl Eq for Voids {}

fn count_one_more(counts: &mut RedBlackTreeMapSync<UserId, usize>, user: &UserId) {
    let before = counts.get(user).copied().unwrap_or(0);
    counts.insert_mut(*user, before.saturating_add(1));
}

impl Voids {
    /// Adds a record. One that is there already is there twice: whoever judges asks before.
    pub fn push(&mut self, void: Void) {
        self.all.push_back_mut(void);
        count_one_more(&mut self.by, &void.user);
        if self.of.get(&void.document).is_none() {
            self.of.insert_mut(void.document, OfDocument::default());
        }
        if let Some(of) = self.of.get_mut(&void.document) {
            of.order.push_back_mut(void.record);
            of.set.insert_mut(void.record);
            count_one_more(&mut of.by, &void.user);
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
    pub fn iter(&self) -> impl Iterator<Item = &Void> {
        self.all.iter()
    }

    /// The one with this number, counted from 0 in log order.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<&Void> {
        self.all.get(number)
    }

    /// Leaves of those of a document, in log order.
    pub fn of<'a>(&'a self, document: &DocumentId) -> impl Iterator<Item = &'a Hash> + use<'a> {
        let of = self.of.get(document).into_iter();
        of.flat_map(|of| of.order.iter())
    }

    /// How many a document has.
    #[must_use]
    pub fn count_of(&self, document: &DocumentId) -> usize {
        self.of.get(document).map_or(0, |of| of.order.len())
    }

    /// How many a user declared, of one document and in all.
    #[must_use]
    pub fn counts_by(&self, user: &UserId, document: &DocumentId) -> (usize, usize) {
        let count = |by: &RedBlackTreeMapSync<UserId, usize>| by.get(user).copied().unwrap_or(0);
        let of = self.of.get(document);
        (of.map_or(0, |of| count(&of.by)), count(&self.by))
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

impl FromIterator<Void> for Voids {
    fn from_iter<T: IntoIterator<Item = Void>>(voids: T) -> Self {
        let mut all = Self::default();
        voids.into_iter().for_each(|void| all.push(void));
        all
    }
}

//! What is kept of all documents of a group together, so that nothing walks them: which are to be looked at, which are to be re-keyed, which
//! roots they need. It follows from the group's state and the documents' rows; whoever changes these for a document says so with
//! [`Group::note_document`].

use super::*;

/// In which order documents are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Names first.
    Directory,
    /// Then what others wait for.
    Unsent,
    Rest,
}

/// Which roots a document needs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    /// None: it is gone.
    None,
    /// That is not known: it was never opened here.
    Unknown,
    Known {
        epochs: BTreeSet<u64>,
        all_below: u64,
        complete: u64,
    },
}

/// What one document contributes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Share {
    wanted: Option<Rank>,
    /// Whether it is listed and not closed.
    open: bool,
    /// Whether it is open, and still to be re-keyed.
    due: bool,
    need: Need,
}

/// How many documents say so, by what they say.
type Counts = BTreeMap<u64, usize>;

fn add(counts: &mut Counts, value: u64) {
    *counts.entry(value).or_default() += 1;
}

fn take(counts: &mut Counts, value: u64) {
    if let Some(count) = counts.get_mut(&value) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&value);
        }
    }
}

/// What is kept. See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// How often a document's contribution was looked at: for whoever counts work.
    looks: u64,
    shares: BTreeMap<DocumentId, Share>,
    /// By rank, and then in an order of this device's own: see [`Group::order`].
    wanted: BTreeSet<(Rank, u128)>,
    order: u128,
    open: usize,
    due: usize,
    /// Epoch since which documents are due.
    since: u64,
    unknown: usize,
    epochs: Counts,
    all_below: Counts,
    complete: Counts,
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        let counts = |kept: &Self| (kept.open, kept.due, kept.since, kept.unknown);
        self.shares == other.shares
            && self.wanted == other.wanted
            && counts(self) == counts(other)
            && self.epochs == other.epochs
            && self.all_below == other.all_below
            && self.complete == other.complete
    }
}

impl Kept {
    pub(crate) fn looks(&self) -> u64 {
        self.looks
    }

    fn add(&mut self, id: DocumentId, share: Share) {
        if let Some(rank) = share.wanted {
            self.wanted.insert((rank, self.turn(&id)));
        }
        self.open += usize::from(share.open);
        self.due += usize::from(share.due);
        match &share.need {
            Need::None => {}
            Need::Unknown => self.unknown += 1,
            Need::Known {
                epochs,
                all_below,
                complete,
            } => {
                epochs
                    .iter()
                    .for_each(|epoch| add(&mut self.epochs, *epoch));
                add(&mut self.all_below, *all_below);
                add(&mut self.complete, *complete);
            }
        }
        self.shares.insert(id, share);
    }

    fn remove(&mut self, id: &DocumentId) {
        let Some(share) = self.shares.remove(id) else {
            return;
        };
        if let Some(rank) = share.wanted {
            self.wanted.remove(&(rank, self.turn(id)));
        }
        self.open -= usize::from(share.open);
        self.due -= usize::from(share.due);
        match share.need {
            Need::None => {}
            Need::Unknown => self.unknown -= 1,
            Need::Known {
                epochs,
                all_below,
                complete,
            } => {
                epochs
                    .iter()
                    .for_each(|epoch| take(&mut self.epochs, *epoch));
                take(&mut self.all_below, all_below);
                take(&mut self.complete, complete);
            }
        }
    }

    /// The document to be looked at next.
    pub(crate) fn next_wanted(&self) -> Option<DocumentId> {
        let (_, turn) = self.wanted.first()?;
        Some(DocumentId((turn ^ self.order).to_be_bytes()))
    }

    /// Where a document stands in this device's order.
    fn turn(&self, id: &DocumentId) -> u128 {
        u128::from_be_bytes(id.0) ^ self.order
    }

    /// Documents that are re-keyed, and all.
    pub(crate) fn progress(&self) -> (usize, usize) {
        (self.open - self.due, self.open)
    }

    /// Documents that are still to be re-keyed.
    pub(crate) fn due(&self) -> impl Iterator<Item = DocumentId> {
        let due = self.shares.iter().filter(|(_, share)| share.due);
        due.map(|(id, _)| *id)
    }

    /// Whether a document is still to be re-keyed.
    pub(crate) fn is_due(&self, id: &DocumentId) -> bool {
        self.shares.get(id).is_some_and(|share| share.due)
    }

    /// Whether the root of a former epoch can go: no document needs it, or may come to need it. Evidence is demanded for every listed document.
    pub(crate) fn is_needless(&self, epoch: u64) -> bool {
        let complete = self.complete.first_key_value();
        let all_below = self.all_below.last_key_value();
        self.unknown == 0
            && !self.epochs.contains_key(&epoch)
            // Records of an epoch may still be on their way where a log is not known to have left it.
            && complete.is_none_or(|(complete, _)| epoch < *complete)
            && all_below.is_none_or(|(all_below, _)| epoch >= *all_below)
    }

    /// Whether some document is known to need the root of an epoch.
    pub(super) fn is_needed(&self, epoch: u64) -> bool {
        let all_below = self.all_below.last_key_value();
        self.epochs.contains_key(&epoch) || all_below.is_some_and(|(below, _)| epoch < *below)
    }

    /// Everything anew, by a walk over all documents.
    pub(crate) fn scan(group: &Group) -> Self {
        let mut kept = Self {
            since: group.rekey_since(),
            order: group.order,
            ..Self::default()
        };
        let listed = group.state().documents.keys();
        let all: BTreeSet<&DocumentId> = listed.chain(group.documents.keys()).collect();
        for id in all {
            kept.add(*id, group.share(id));
        }
        kept.looks = group.kept.looks + kept.shares.len() as u64;
        kept
    }
}

impl Group {
    /// What a document contributes now.
    fn share(&self, id: &DocumentId) -> Share {
        let entry = self.state().documents.get(id);
        let row = self.documents.get(id);
        let closed = entry.and_then(|entry| entry.closed);
        let open = entry.is_some() && closed.is_none();
        let creating = self.is_creating(id);
        let unsent = row.is_some_and(|row| creating || row.unsent.is_some_and(|edits| edits > 0));
        let here = match closed {
            // To know which roots it needs, and what of the own edits is in it.
            Some(CloseReason::Archived) => {
                !self.is_local(id) || row.is_none_or(|row| row.unsent != Some(0))
            }
            Some(_) => creating,
            None => true,
        };
        let looked_at = self.looked_at.contains(id);
        let rank = match id {
            id if *id == DocumentId::directory(&self.id) => Rank::Directory,
            _ if unsent => Rank::Unsent,
            _ => Rank::Rest,
        };
        let since = self.rekey_since();
        let due = entry.is_some_and(|entry| open && entry.created_epoch < since)
            && row.is_none_or(|row| row.rekeyed < since);
        // One with a row still has own edits to be kept apart.
        let gone = closed.is_some_and(|why| why != CloseReason::Archived) && row.is_none();
        let need = match row.filter(|row| row.is_local()) {
            _ if entry.is_none() || gone => Need::None,
            None => Need::Unknown,
            Some(row) => Need::Known {
                epochs: row.needed.clone(),
                all_below: row.all_below,
                complete: row.complete,
            },
        };
        Share {
            wanted: Some(rank).filter(|_| here && !looked_at),
            open,
            due,
            need,
        }
    }

    /// Something about a document has changed.
    pub(crate) fn note_document(&mut self, id: &DocumentId) {
        let known = self.documents.contains_key(id) || self.state().documents.contains_key(id);
        let share = self.share(id);
        self.kept.looks += 1;
        if known && self.kept.shares.get(id) == Some(&share) {
            return;
        }
        self.kept.remove(id);
        if known {
            self.kept.add(*id, share);
        }
    }

    /// A document is being looked at on this connection.
    pub(crate) fn look_at(&mut self, id: DocumentId) {
        self.looked_at.insert(id);
        self.note_document(&id);
    }

    /// A document is looked at again.
    pub(crate) fn look_again(&mut self, id: &DocumentId) {
        self.looked_at.remove(id);
        self.note_document(id);
    }

    /// Documents that were made here are looked at again: now they can be listed.
    pub(crate) fn look_at_creating(&mut self) {
        let creating = self.documents.iter().filter(|(_, row)| row.is_creating());
        let creating: Vec<DocumentId> = creating.map(|(id, _)| *id).collect();
        for id in creating {
            self.look_again(&id);
        }
    }

    /// Everything about documents may have changed: a new connection, another state, another epoch since which they are due.
    pub(crate) fn note_documents(&mut self) {
        self.kept = Kept::scan(self);
    }

    /// Follows the epoch since which documents are due. Those that are due are looked at again.
    pub(crate) fn note_rekeying(&mut self) {
        if self.kept.since == self.rekey_since() {
            return;
        }
        self.note_documents();
        if self.rekeys() {
            self.look_at_due();
        }
    }

    /// What needs roots from before it was re-keyed is looked at again.
    pub(crate) fn look_at_former(&mut self) {
        let needs = |row: &DocRow| row.needed.iter().any(|epoch| *epoch < row.rekeyed);
        let rows = self.documents.iter().filter(|(_, row)| needs(row));
        let former: Vec<DocumentId> = rows.map(|(id, _)| *id).collect();
        for id in former {
            self.look_again(&id);
        }
    }

    /// What is still to be re-keyed is looked at again.
    pub(crate) fn look_at_due(&mut self) {
        let shares = self.kept.shares.iter();
        let due: Vec<DocumentId> = shares.filter(|(_, it)| it.due).map(|(id, _)| *id).collect();
        for id in due {
            self.look_again(&id);
        }
    }
}

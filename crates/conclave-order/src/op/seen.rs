//! The heads that records name as seen: whether the log had them, and what shows it to receivers who do not know them.

use std::collections::BTreeSet;

use conclave_proto::codec::encode;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::merkle::empty_root;
use conclave_proto::record::RecordHeader;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Hash, Head, Refusal};
use conclave_rules::{LogId, Seen};

use super::append::{Late, View};
use crate::keys::{Keys, Stop};
use crate::proofs::{Proofs, proof};

/// The seen heads of one frame. Most of its records name the same.
pub(crate) struct SeenHeads<'a> {
    view: &'a View<'a>,
    head: Option<Head>,
    /// The last size below what is covered for which a proof was made.
    shown: Option<u64>,
    proofs: Proofs,
}

impl<'a> SeenHeads<'a> {
    pub(crate) fn new(view: &'a View<'a>) -> Self {
        Self {
            view,
            head: view.named,
            shown: None,
            proofs: Proofs::default(),
        }
    }

    /// Asks at once for all that the heads need which a frame names: for their roots, and then for what shows those that are right.
    pub(crate) fn load(view: &View<'_>, records: &[AppendedRecord]) -> Result<(), Stop> {
        let mut heads = SeenHeads::new(view);
        let mut lacking = Keys::default();
        let mut late = BTreeSet::new();
        for record in records {
            let size = record.seen_size.0;
            match heads.head(size, record.seen_hint) {
                Ok((_, Seen::True)) => late.insert(size),
                Err(Stop::Lacks(keys)) => {
                    lacking.extend(*keys);
                    continue;
                }
                // The frame goes no further than here.
                _ => break,
            };
        }
        if lacking.is_empty() {
            for size in late.range(..view.covered) {
                if let Err(Stop::Lacks(keys)) = proof(view.log, *size, view.covered, view.rows) {
                    lacking.extend(*keys);
                }
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Stop::Lacks(Box::new(lacking)))
    }

    /// The head of this size, and whether the log had it and it begins like this.
    pub(crate) fn head(&mut self, size: u64, begins: [u8; 8]) -> Result<(Head, Seen), Stop> {
        let head = match self.head.take() {
            Some(head) if head.size == size => head,
            _ => match root_at(self.view.log, size, self.view)? {
                Some(root) => Head { size, root },
                None => {
                    let root = Hash::ZERO;
                    return Ok((Head { size, root }, Seen::False));
                }
            },
        };
        self.head = Some(head);
        Ok((head, Seen::known(hint(&head.root) == begins)))
    }

    /// The last one that was asked for, and is one.
    pub(crate) fn named(&self) -> Head {
        self.head.unwrap_or(Head::EMPTY)
    }

    pub(crate) fn late(&mut self, header: &RecordHeader) -> Result<Option<Box<Late>>, Stop> {
        let (size, covered) = (header.seen.size, self.view.covered);
        if size >= covered || self.shown == Some(size) {
            return Ok(None);
        }
        let (log, rows) = (self.view.log, self.view.rows);
        let proof = self.proofs.get(log, size, covered, rows)?;
        self.shown = Some(size);
        let header = encode(header);
        Ok(Some(Box::new(Late { header, proof })))
    }
}

/// The root of the first `size` records; none when there are fewer.
fn root_at(log: LogId, size: u64, view: &View<'_>) -> Result<Option<Hash>, Stop> {
    if size > view.size {
        return Ok(None);
    }
    if size == 0 {
        return Ok(Some(empty_root()));
    }
    if let Some(root) = (view.roots)(size) {
        return Ok(Some(root));
    }
    // The log began here later. Whoever has not seen more than that has to write again.
    if size < view.base {
        let fault = RecordFault::Gap;
        return Err(Refusal::BadRecord { fault }.into());
    }
    let mark = view.rows.mark(&(log, size))?;
    let mark = mark.ok_or(Stop::Damaged { what: "log" })?;
    Ok(Some(mark.root))
}

/// First eight bytes of a root.
#[must_use]
pub fn hint(root: &Hash) -> [u8; 8] {
    root.0.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use conclave_proto::{Author, DeviceId, DocumentId, GroupId, InstanceId, UserId};
    use conclave_rules::{Authority, RosterRow};

    use crate::keys::Rows;
    use crate::rows::Mark;

    struct Nobody;

    impl Authority for Nobody {
        fn epoch(&self) -> u64 {
            0
        }
        fn rekey_since(&self) -> u64 {
            0
        }
        fn row(&self, _: &DeviceId, _: u64) -> Option<&RosterRow> {
            None
        }
        fn refusal(&self, _: &DeviceId) -> Refusal {
            Refusal::UnknownGroup
        }
        fn is_of_one_user(&self, _: u64) -> bool {
            false
        }
        fn is_of_users(&self, _: u64, _: &[UserId]) -> bool {
            false
        }
        fn voided(&self, _: &DocumentId) -> Box<dyn Iterator<Item = Hash> + '_> {
            Box::new(std::iter::empty())
        }
        fn padding_bytes(&self) -> u16 {
            0
        }

        fn keeps_attribution(&self) -> bool {
            true
        }
    }

    #[test]
    fn an_old_head_is_looked_up_once_however_often_it_is_named() {
        let log = LogId {
            group: GroupId([1; 16]),
            document: DocumentId([2; 16]),
        };
        let author = Author {
            device: DeviceId([3; 16]),
            instance: InstanceId([4; 8]),
        };
        let (size, root) = (3, Hash([5; 32]));
        let named = |before: Option<Head>, rows: &Rows| {
            let view = View {
                authority: &Nobody,
                log,
                author,
                chain: (0, Hash::ZERO),
                named: before,
                size: 5_000,
                base: 0,
                covered: 0,
                roots: &|_| None,
                rows,
                singly: true,
            };
            let mut heads = SeenHeads::new(&view);
            heads
                .head(size, hint(&root))
                .map(|(head, _)| (head, heads.named()))
        };
        let Err(Stop::Lacks(keys)) = named(None, &Rows::default()) else {
            panic!("it was not looked up");
        };
        assert_eq!(keys.marks, [(log, size)].into());
        let mut rows = Rows::default();
        let mark = Mark {
            root,
            weight: 0,
            epoch: 0,
        };
        rows.marks.insert((log, size), Some(mark));
        let head = Head { size, root };
        assert_eq!(named(None, &rows), Ok((head, head)));
        assert_eq!(named(Some(head), &Rows::default()), Ok((head, head)));
    }
}

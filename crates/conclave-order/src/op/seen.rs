//! The heads that records name as seen: whether the log had them, and what shows it to receivers who do not know them.

use conclave_proto::codec::encode;
use conclave_proto::merkle::empty_root;
use conclave_proto::record::RecordHeader;
use conclave_proto::{Hash, Head};
use conclave_rules::{LogId, Seen};

use super::append::{Late, View};
use crate::keys::Stop;
use crate::proofs::Proofs;

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
            head: None,
            shown: None,
            proofs: Proofs::default(),
        }
    }

    /// The head of this size, and whether the log had it and it begins like this.
    pub(crate) fn head(&mut self, size: u64, begins: [u8; 8]) -> Result<(Head, Seen), Stop> {
        let head = match self.head {
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
    let mark = view.rows.mark(&(log, size))?;
    let mark = mark.ok_or(Stop::Damaged { what: "log" })?;
    Ok(Some(mark.root))
}

/// First eight bytes of a root.
#[must_use]
pub fn hint(root: &Hash) -> [u8; 8] {
    root.0.first_chunk().copied().unwrap_or_default()
}

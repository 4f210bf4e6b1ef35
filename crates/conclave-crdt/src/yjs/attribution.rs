//! Who wrote what a Yjs document shows. Texts tell their operations themselves; what stands in maps and lists is told by the lists of operations that
//! are kept for counting.

use yrs::branch::{Branch, BranchID};
use yrs::types::text::YChange;
use yrs::{
    Any, Array, GetString, Map, Out, ReadTxn, Snapshot, StateVector, Text, TextRef, TransactionMut,
    WriteTxn,
};

use super::capture::FOREIGN_ORIGIN;
use super::json::{JSON_ROOT, Node, slot};
use super::order::{Order, Owner};
use super::scan::Id;
use super::text::root;
use super::{Yrs, roots};
use crate::api::RootShape;
use crate::attribution::{
    Asking, Attributed, AttributedValue, Attribution, Op, Run, Writers, of_values, push_run,
};
use crate::cost::LoadLimit;
use crate::deeds::Deeds;
use crate::differences::{Numbers, Outline, lettered, outlined};
use crate::error::{CrdtError, Result};
use crate::json::Slot;
use crate::types::ReplicaId;

impl Attribution for Yrs {
    fn of_text(&mut self, writers: &mut dyn Writers) -> Result<Vec<Run>> {
        self.write(Some(FOREIGN_ORIGIN), |txn| {
            let text = root(txn);
            runs(&text, txn, &mut Asking::new(writers))
        })
    }

    fn of_values(&mut self, writers: &mut dyn Writers) -> Result<Vec<AttributedValue>> {
        self.with_tree(|tree| of_values(tree, writers))
    }

    fn deeds(
        &mut self,
        before: &[u8],
        updates: &[&[u8]],
        from: usize,
        writers: &mut dyn Writers,
    ) -> Result<Vec<Deeds>> {
        self.deeds_of(before, updates, from, writers)
    }

    fn outline(&mut self, numbers: &mut Numbers) -> Result<Outline> {
        self.with_tree(|tree| {
            let text = Node::Text(root(tree.txn));
            Ok(Outline {
                text: Some(lettered(tree, &text, numbers)?),
                values: outlined(tree, numbers)?,
            })
        })
    }
}

impl Yrs {
    fn with_tree<T>(&mut self, f: impl FnOnce(&mut Tree<'_, '_>) -> Result<T>) -> Result<T> {
        let state = self.read(|txn| txn.encode_state_as_update_v1(&StateVector::default()))?;
        let order = Order::load(&state, LoadLimit::units(u64::MAX));
        let (order, _) = order.map_err(|_| CrdtError::Engine)?;
        self.write(Some(FOREIGN_ORIGIN), |txn| {
            f(&mut Tree { txn, order: &order })
        })?
    }
}

fn runs(text: &TextRef, txn: &mut TransactionMut<'_>, asking: &mut Asking<'_>) -> Vec<Run> {
    // Against an empty snapshot everything counts as added, and each chunk names the operation that added its first character.
    let now = txn.snapshot();
    let chunks = text.diff_range(
        txn,
        Some(&now),
        Some(&Snapshot::default()),
        YChange::identity,
    );
    let mut runs = Vec::new();
    for chunk in chunks {
        if let (Out::Any(Any::String(part)), Some(change)) = (&chunk.insert, &chunk.ychange) {
            let replica = ReplicaId::from_client(change.id.client.get());
            // Operations are counted as units of UTF-16.
            let mut counter = u64::from(change.id.clock);
            for character in part.chars() {
                push_run(&mut runs, asking.who(&replica, counter).writer, 1);
                counter += character.len_utf16() as u64;
            }
        }
    }
    runs
}

struct Tree<'a, 'doc> {
    txn: &'a mut TransactionMut<'doc>,
    order: &'a Order,
}

fn op(id: Id) -> Op {
    (ReplicaId::from_client(id.client), u64::from(id.clock))
}

fn owner(branch: &Branch) -> Owner {
    match branch.id() {
        BranchID::Root(name) => Owner::Root(name.to_string()),
        BranchID::Nested(id) => Owner::Type(Id {
            client: id.client.get(),
            clock: id.clock,
        }),
    }
}

impl Attributed for Tree<'_, '_> {
    type Node = Node;

    fn root(&mut self) -> Node {
        let name = roots::place(self.txn, JSON_ROOT, RootShape::Map);
        Node::Map(self.txn.get_or_insert_map(name))
    }

    fn entries(&mut self, map: &Node) -> Result<Vec<(String, Slot<Node>, Op)>> {
        let map = map.map()?;
        let owner = owner(map.as_ref());
        let entries = map.iter(self.txn);
        let entries = entries.map(|(key, value)| {
            let id = self.order.value_of(&owner, key).ok_or(CrdtError::Engine)?;
            Ok((key.to_owned(), slot(value, self.txn), op(id)))
        });
        let mut entries: Vec<_> = entries.collect::<Result<_>>()?;
        entries.sort_by(|(one, ..), (other, ..)| one.cmp(other));
        Ok(entries)
    }

    fn items(&mut self, list: &Node) -> Result<Vec<(Slot<Node>, Op)>> {
        let list = list.array()?;
        let ids = self.order.values_in(&owner(list.as_ref()));
        if ids.len() != list.len(self.txn) as usize {
            return Err(CrdtError::Engine);
        }
        let items = list.iter(self.txn).zip(ids);
        Ok(items
            .map(|(value, id)| (slot(value, self.txn), op(id)))
            .collect())
    }

    fn text(&mut self, text: &Node, asking: &mut Asking<'_>) -> Result<Vec<Run>> {
        Ok(runs(text.text()?, self.txn, asking))
    }

    fn letters(&mut self, text: &Node) -> Result<String> {
        Ok(text.text()?.get_string(self.txn))
    }
}

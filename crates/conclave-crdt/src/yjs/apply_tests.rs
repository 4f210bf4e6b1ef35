use super::Yrs;
use super::apply::HANDED;
use super::scan::SCANS;
use crate::api::{Crdt, TextView};
use crate::error::CrdtError;
use crate::kinds::CrdtKind;
use crate::types::{Applied, ReplicaId};

fn document(id: u8) -> Yrs {
    Yrs::create(ReplicaId::for_kind(CrdtKind::Yjs, [id; 16])).unwrap()
}

/// Two updates of one document.
fn updates() -> Vec<Vec<u8>> {
    let mut author = document(1);
    let mut updates = Vec::new();
    for text in ["one", "two"] {
        author.splice(0, 0, text).unwrap();
        author.take_pending(&mut updates).unwrap();
    }
    updates
}

#[test]
fn an_update_that_was_inspected_is_not_read_again() {
    let updates = updates();
    let mut reader = document(2);
    let before = SCANS.get();
    let read = updates.iter().map(|update| {
        let read = reader.inspect(update).unwrap();
        (update.as_slice(), read)
    });
    let read: Vec<_> = read.collect();
    assert_eq!(reader.apply_inspected(read), Ok(Applied::Complete));
    assert_eq!(SCANS.get() - before, updates.len());
    assert_eq!(TextView::text(&mut reader).unwrap(), "twoone");
}

#[test]
fn the_reading_of_something_else_is_refused() {
    let updates = updates();
    let mut reader = document(2);
    let read = reader.inspect(&updates[0]).unwrap();
    let short = &updates[0][1..];
    assert_eq!(
        reader.apply_inspected(vec![(short, read)]),
        Err(CrdtError::Malformed)
    );
    #[cfg(feature = "automerge")]
    {
        let mut other = crate::create(
            CrdtKind::Automerge,
            ReplicaId::for_kind(CrdtKind::Automerge, [3; 16]),
        )
        .unwrap();
        let read = reader.inspect(&updates[0]).unwrap();
        assert_eq!(
            other.apply_inspected(vec![(&updates[0], read)]),
            Err(CrdtError::Malformed)
        );
    }
    assert_eq!(reader.apply(&[&updates[0]]), Ok(Applied::Complete));
}

/// Sections of replicas 1, 3 and 2, of which 3 needs the first operation of 2.
fn sections_that_need_each_other() -> Vec<u8> {
    let mut update = vec![3];
    update.extend([1, 1, 0, 4, 1, 1, b't', 3, b'W', b'X', b'Y']);
    update.extend([
        2, 3, 0, 0xc4, 1, 1, 2, 0, 1, b'c', 0xc4, 1, 1, 2, 0, 1, b'd',
    ]);
    update.extend([
        2, 2, 0, 0xc4, 1, 1, 1, 2, 1, b'a', 0xc4, 1, 0, 1, 2, 1, b'b',
    ]);
    update.push(0);
    update
}

#[test]
fn operations_reach_the_engine_in_the_order_in_which_they_are_counted() {
    let update = sections_that_need_each_other();
    let handed = |act: &dyn Fn()| {
        HANDED.take();
        act();
        HANDED.take()
    };
    // The highest first would be 3, after the one operation of 2 that it needs, and only then the rest of 2.
    let counted = [[1], [2], [3]];
    let applied = handed(&|| {
        document(9).apply(&[&update]).unwrap();
    });
    assert_eq!(applied, counted);
    let loaded = handed(&|| {
        let replica = ReplicaId::for_kind(CrdtKind::Yjs, [9; 16]);
        Yrs::load(&update, replica).unwrap();
    });
    assert_eq!(loaded, counted);
    // What waited comes in the same order.
    let waiting = handed(&|| {
        let later = [1, 1, 7, 1, 0x84, 7, 0, 1, b'z', 0];
        let mut reader = document(9);
        assert_eq!(reader.apply(&[&later]), Ok(Applied::Pending));
        assert_eq!(reader.apply(&[&update]), Ok(Applied::Pending));
    });
    assert_eq!(waiting, counted);
}

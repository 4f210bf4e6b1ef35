use super::Yrs;
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

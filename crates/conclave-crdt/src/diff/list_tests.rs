use super::*;
use serde_json::json;

fn items(value: Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn align(old: Value, new: Value) -> Vec<Option<usize>> {
    Alignment::of(&items(old), &items(new)).in_order
}

#[test]
fn items_are_known_by_their_ids() {
    let old = json!([{"id": 1, "done": 0}, {"id": 2, "done": 0}, {"id": 3, "done": 0}]);
    let new = json!([{"id": 9, "done": 0}, {"id": 1, "done": 0}, {"id": 2, "done": 1}]);
    assert_eq!(align(old, new), [Some(1), Some(2), None]);
    // Two with one id: neither is known by it.
    let old = json!([{"id": 1, "t": "a"}, {"id": 2, "t": "b"}]);
    let new = json!([{"id": 1, "t": "a"}, {"id": 1, "t": "a"}, {"id": 2, "t": "b"}]);
    let found = align(old, new);
    assert_eq!((found[0].is_some(), found[1]), (true, Some(2)));
}

#[test]
fn items_without_ids_are_known_by_content_and_likeness() {
    assert_eq!(
        align(json!([1, 2, 3]), json!([10, 2, 3])),
        [Some(0), Some(1), Some(2)]
    );
    assert_eq!(
        align(json!(["a", "b"]), json!(["new", "a", "b"])),
        [Some(1), Some(2)]
    );
    let old = json!([{"t": "write", "done": false}, {"t": "test", "done": false}]);
    let new = json!([{"t": "zzz", "by": "ana"}, {"t": "write", "done": true}]);
    assert_eq!(align(old, new), [Some(1), None]);
}

#[test]
fn what_moved_is_followed() {
    let old = items(json!([{"id": 1}, {"id": 2}, {"id": 3}]));
    let new = items(json!([{"id": 3, "x": 1}, {"id": 1}, {"id": 2}]));
    let found = Alignment::of(&old, &new);
    assert_eq!(found.anywhere, [Some(1), Some(2), Some(0)]);
    assert_eq!(found.in_order, [Some(1), Some(2), None]);
    // Two alike stay unknown.
    let (old, new) = (items(json!([7, 1, 2])), items(json!([1, 2, 7, 7])));
    assert_eq!(Alignment::of(&old, &new).anywhere[0], None);
}

#[test]
fn work_per_item_does_not_grow() {
    let list = |count: u64, salt: u64| -> Vec<Value> {
        let item = |n: u64| json!({"title": format!("item {n}"), "done": salt, "n": [n]});
        (0..count).map(item).collect()
    };
    let work = |count: u64| {
        work::take();
        let places = Alignment::of(&list(count, 0), &list(count, 1)).in_order;
        assert!(
            places
                .iter()
                .enumerate()
                .all(|(at, place)| *place == Some(at))
        );
        work::take() / count
    };
    let (short, long) = (work(50), work(5_000));
    assert!(long <= short + 60, "{short} became {long}");
    assert!(work(5_000) <= work(500) * 3 / 2 + 2);
}

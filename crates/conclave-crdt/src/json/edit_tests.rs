use serde_json::{Value, json};

use super::merged_value;

const HERE: usize = 1;
const THERE: usize = 2;

fn task(n: usize, done: usize) -> Value {
    json!({ "title": format!("task number {n} of many"), "done": done, "by": n % 3 })
}

/// Tasks by their numbers, and who has done them.
fn tasks(items: &[(usize, usize)]) -> Value {
    items.iter().map(|(n, done)| task(*n, *done)).collect()
}

fn texts(items: &[&str]) -> Value {
    let text = |item: &&str| match item.split_once(' ') {
        Some((n, more)) => json!(format!("item number {n} to get {more}")),
        None => json!(format!("item number {item} to get")),
    };
    items.iter().map(text).collect()
}

#[test]
fn an_item_that_was_changed_is_found_among_others_like_it() {
    // Others left only the first item, changed it, and put one in front of it that is more like the second than the second's own kind.
    let base = tasks(&[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
    let current = tasks(&[(100_000, 0), (0, THERE)]);
    let new = tasks(&[(0, HERE), (100_001, 0), (1, 0), (3, 0), (4, 0)]);
    assert_eq!(
        merged_value(&base, &new, &current),
        tasks(&[(100_000, 0), (0, HERE), (100_001, 0)])
    );
}

#[test]
fn what_many_have_tells_no_item_from_another() {
    // Of these only the removed item and the one that was put in have `by: 2`.
    let base = tasks(&[(6, 0), (7, 0), (8, 0), (9, 0)]);
    let new = tasks(&[(6, HERE), (14, 0), (7, HERE), (9, HERE)]);
    let current = tasks(&[(6, 0), (7, THERE), (8, 0), (9, 0)]);
    assert_eq!(merged_value(&base, &new, &current), new);
}

#[test]
fn a_text_among_texts_is_known_by_the_words_that_only_it_has() {
    let base = texts(&["100", "101"]);
    let new = texts(&["100000", "100 Wa", "101"]);
    let current = texts(&["100 Wb", "101"]);
    let both = texts(&["100000", "100 Wb Wa", "101"]);
    assert_eq!(merged_value(&base, &new, &current), both);
    // The other way round it is others who put something beside it.
    let both = texts(&["100000", "100 Wa Wb", "101"]);
    assert_eq!(merged_value(&base, &current, &new), both);
}

#[test]
fn what_moved_as_it_is_is_no_change_of_another() {
    let base = texts(&["13", "14", "15", "16", "17", "18"]);
    let current = texts(&["14", "15", "16", "17 Wa", "13", "18"]);
    let new = texts(&["13", "14", "15", "16", "17 Wb", "18"]);
    let both = texts(&["14", "15", "16", "17 Wa Wb", "13", "18"]);
    assert_eq!(merged_value(&base, &new, &current), both);
}

#[test]
fn what_moved_and_was_changed_is_found() {
    let base = tasks(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
    let current = tasks(&[(2, 0), (3, 0), (4, 0), (5, 0), (1, THERE)]);
    let new = tasks(&[(1, HERE), (2, 0), (3, 0), (4, 0), (5, 0)]);
    let both = tasks(&[(2, 0), (3, 0), (4, 0), (5, 0), (1, HERE)]);
    assert_eq!(merged_value(&base, &new, &current), both);
    // Also where others put something in its old place that is more like it.
    let base = texts(&["1", "2", "3", "4", "5", "6"]);
    let current = texts(&["1", "100000", "3 Wa", "4", "5", "2 Wa", "6"]);
    let new = texts(&["1", "2 Wb", "3", "4", "5", "6"]);
    let both = texts(&["1", "100000", "3 Wa", "4", "5", "2 Wa Wb", "6"]);
    assert_eq!(merged_value(&base, &new, &current), both);
    // What was removed and something alike that was put elsewhere are two.
    let base = tasks(&[(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]);
    let new = tasks(&[(1, HERE), (2, 0), (3, 0), (4, 0), (5, 0)]);
    let current = tasks(&[(2, 0), (3, 0), (4, 0), (5, 0), (100_001, 0)]);
    let both = tasks(&[(1, HERE), (2, 0), (3, 0), (4, 0), (5, 0), (100_001, 0)]);
    assert_eq!(merged_value(&base, &new, &current), both);
}

#[test]
fn what_is_new_keeps_its_place_where_its_neighbours_are_gone() {
    let named = |items: &[u32]| -> Value { items.iter().map(|id| json!({ "id": id })).collect() };
    let base = named(&[1, 2, 3, 4, 5]);
    // Others removed all around it; what stands was before it.
    let new = named(&[3, 4, 9, 5]);
    let mut current = named(&[1, 2]);
    current[0]["done"] = json!("others");
    let both = json!([{ "id": 1, "done": "others" }, { "id": 9 }]);
    assert_eq!(merged_value(&base, &new, &current), both);
    // What it followed was moved away: it stays.
    let current = named(&[1, 3, 4, 5, 2]);
    let new = named(&[1, 2, 9, 3, 4, 5]);
    let both = named(&[1, 9, 3, 4, 5, 2]);
    assert_eq!(merged_value(&base, &new, &current), both);
    // What others removed and this side changed comes again between its neighbours.
    let current = named(&[1, 2, 5]);
    let mut new = named(&[3, 4, 5]);
    new[1]["done"] = json!("here");
    let both = json!([{ "id": 4, "done": "here" }, { "id": 5 }]);
    assert_eq!(merged_value(&base, &new, &current), both);
}

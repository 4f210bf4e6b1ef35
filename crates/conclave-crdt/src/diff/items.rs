//! Lists, for those who keep apart what was done to one: which items are the same, and what one is known by.

use serde_json::Value;

use super::list::{Alignment, NAMES, id, names};

/// For each item of one list the item of another that it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemMatch {
    /// In the order of both: what moved is gone here and new there.
    pub in_order: Vec<Option<usize>>,
    /// What moved is found where it is now.
    pub anywhere: Vec<Option<usize>>,
}

/// Which items of two lists are the same, as [`crate::JsonView::edit`] finds them.
#[must_use]
pub fn match_items(old: &[Value], new: &[Value]) -> ItemMatch {
    let found = Alignment::of(old, new);
    ItemMatch {
        in_order: found.in_order,
        anywhere: found.anywhere,
    }
}

/// The member that names the items of a list: the first of those usual for it that every object among them has.
#[must_use]
pub fn naming_member(items: &[Value]) -> Option<&'static str> {
    NAMES.into_iter().find(|name| names(items, name))
}

/// What a member names an item, as JSON. Case does not matter for the member.
#[must_use]
pub fn item_id(item: &Value, member: &str) -> Option<String> {
    id(item, member)
}

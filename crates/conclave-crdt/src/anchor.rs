//! Positions that stay where they are while a text changes around them, in the form in which the engines' own editors know them: for Yjs a
//! relative position as JSON (`{"item": {"client", "clock"}, "assoc"}`, or with `tname` or `type`), for Automerge a cursor as text
//! (`counter@actor`, `s`, `e`), beside the id of the object that it is in.
//!
//! An anchor names operations, and with them replica ids. One that nobody has claimed yet in a log must not be shown to others: whoever sees it
//! could claim it first. [`withhold`] takes such anchors out.

use serde_json::Value;

use crate::kinds::CrdtKind;
use crate::types::ReplicaId;

/// Takes all anchors out of a value that name a replica id for which `is_accepted` does not hold: `null` stands in their place. Returns whether
/// there were any.
pub fn withhold(
    kind: CrdtKind,
    value: &mut Value,
    is_accepted: &dyn Fn(&ReplicaId) -> bool,
) -> bool {
    let names_other = match (kind, &*value) {
        #[cfg(feature = "yjs")]
        (CrdtKind::Yjs, Value::Object(fields)) => ["item", "type"].iter().any(|key| {
            let client = fields.get(*key).and_then(|id| id.get("client"));
            client.is_some_and(|client| {
                let client = client.as_u64().map(ReplicaId::from_client);
                !client.is_some_and(|client| is_accepted(&client))
            })
        }),
        (CrdtKind::Automerge, Value::String(text)) => {
            replica_of_cursor(text).is_some_and(|replica| !is_accepted(&replica))
        }
        _ => false,
    };
    if names_other {
        *value = Value::Null;
        return true;
    }
    match value {
        // All of them are looked at, whatever was found in the first.
        Value::Object(fields) => fields.values_mut().fold(false, |found, field| {
            withhold(kind, field, is_accepted) | found
        }),
        Value::Array(items) => items.iter_mut().fold(false, |found, item| {
            withhold(kind, item, is_accepted) | found
        }),
        _ => false,
    }
}

/// The replica id in a text that has the form of an Automerge cursor or object id.
fn replica_of_cursor(text: &str) -> Option<ReplicaId> {
    let (counter, actor) = text.strip_prefix('-').unwrap_or(text).split_once('@')?;
    let is_counter = !counter.is_empty() && counter.bytes().all(|byte| byte.is_ascii_digit());
    let digits = actor.as_bytes();
    if !is_counter || !digits.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    ReplicaId::from_bytes(&bytes?).ok()
}

/// Whether a text has the form of an Automerge cursor. The engine's own reading of others panics.
#[cfg(feature = "automerge")]
pub(crate) fn is_cursor(text: &str) -> bool {
    matches!(text, "s" | "e") || replica_of_cursor(text).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_names_an_id_that_nobody_has_claimed_is_taken_out() {
        let mine = json!({"item": {"client": 7, "clock": 3}, "assoc": 0});
        let known = json!({"item": {"client": 8, "clock": 3}, "assoc": 0});
        let in_mine = json!({"type": {"client": 7, "clock": 3}, "assoc": 0});
        let end = json!({"tname": "text", "assoc": 0});
        let state = |anchor: &Value, head: &Value| json!([{"user": {"name": "Ana"}, "cursor": {"anchor": anchor, "head": head}}]);
        let accepted = |replica: &ReplicaId| *replica == ReplicaId::from_client(8);
        for (anchor, stays) in [
            (&mine, false),
            (&known, true),
            (&in_mine, false),
            (&end, true),
        ] {
            let mut value = state(anchor, &end);
            let found = withhold(CrdtKind::Yjs, &mut value, &accepted);
            assert_eq!(found, !stays, "{anchor}");
            let left = if stays { anchor.clone() } else { Value::Null };
            assert_eq!(value, state(&left, &end));
        }
        let mut both = state(&mine, &in_mine);
        assert!(withhold(CrdtKind::Yjs, &mut both, &accepted));
        assert_eq!(both, state(&Value::Null, &Value::Null));
        // What is no number names nobody whom anybody could have accepted.
        let mut odd = json!({"item": {"client": "7"}});
        assert!(withhold(CrdtKind::Yjs, &mut odd, &accepted));
    }

    #[test]
    fn cursors_of_automerge_are_taken_out_wherever_they_stand() {
        let accepted = |replica: &ReplicaId| replica.as_bytes() == [0xab, 0xcd];
        let mut value =
            json!({"anchor": "12@abcd", "head": "-3@0102", "object": "1@0102", "name": "a@b"});
        assert!(withhold(CrdtKind::Automerge, &mut value, &accepted));
        let left = json!({"anchor": "12@abcd", "head": null, "object": null, "name": "a@b"});
        assert_eq!(value, left);
        assert!(!withhold(CrdtKind::Automerge, &mut value, &accepted));
    }

    #[test]
    #[cfg(feature = "automerge")]
    fn only_cursors_are_read_as_such() {
        for good in ["s", "e", "0@00", "-12@abcd"] {
            assert!(is_cursor(good), "{good}");
        }
        for bad in [
            "", "-", "@", "x", "é", "1@", "1@abc", "1@zz", "-@ab", "1 @ab",
        ] {
            assert!(!is_cursor(bad), "{bad}");
        }
    }
}

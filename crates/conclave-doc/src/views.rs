//! Writing edits again as a difference between two states of a document.

use conclave_crdt::{Crdt, CrdtError, CrdtKind, merged_json, merged_text};
use serde_json::Value;

/// What a document shows, in the forms in which edits can be made from a difference.
#[derive(PartialEq)]
pub(crate) struct Views {
    pub text: Option<String>,
    pub json: Option<Value>,
}

impl Views {
    /// Reads a document. A view that cannot be read is left out.
    pub(crate) fn of(crdt: &mut dyn Crdt) -> Self {
        let text = crdt.text().and_then(|view| view.text().ok());
        let mut json = crdt.json().and_then(|view| view.to_json().ok());
        // Automerge's text stands in the document's map as well, but for an empty one: then a text that was written into it elsewhere would be a new value.
        if crdt.kind() == CrdtKind::Automerge
            && text.as_deref() == Some("")
            && let Some(Value::Object(map)) = &mut json
        {
            map.entry("text").or_insert_with(|| "".into());
        }
        Self { text, json }
    }

    /// What led from `base` to `mine`, done to `onto`.
    pub(crate) fn merge(base: &Self, mine: &Self, onto: &Self) -> Self {
        let text = match (&base.text, &mine.text, &onto.text) {
            (Some(base), Some(mine), Some(onto)) => Some(merged_text(base, mine, onto)),
            _ => mine.text.clone(),
        };
        let json = match (&base.json, &mine.json, &onto.json) {
            (Some(base), Some(mine), Some(onto)) => Some(merged_json(base, mine, onto)),
            _ => mine.json.clone(),
        };
        Self { text, json }
    }

    /// Does here what led from `base` to `former`. Gives whether that is everything.
    pub(crate) fn follow(&mut self, mut base: Box<dyn Crdt>, former: &mut dyn Crdt) -> bool {
        *self = Self::merge(&Self::of(base.as_mut()), &Self::of(former), self);
        tell_all(base.as_mut(), former)
    }

    /// Edits `crdt` until it shows this. What it shows already is not touched, so that others' edits survive.
    pub(crate) fn write_to(&self, crdt: &mut dyn Crdt) -> Result<(), CrdtError> {
        let present = Self::of(crdt);
        if let (Some(wanted), Some(view)) = (&self.text, crdt.text())
            && present.text.as_ref() != Some(wanted)
        {
            view.replace_all(wanted)?;
        }
        let present = Self::of(crdt);
        if let (Some(wanted), Some(view)) = (&self.json, crdt.json())
            && present.json.as_ref() != Some(wanted)
        {
            view.merge_json(wanted)?;
        }
        Ok(())
    }
}

/// Whether the views tell everything that led from `base` to `mine`: whether `base`, edited until it shows the same in them, shows the same in
/// every way, formats and XML and parts that no view shows included. Leaves `base` so.
pub(crate) fn tell_all(base: &mut dyn Crdt, mine: &mut dyn Crdt) -> bool {
    // What waits shows nowhere.
    if mine.has_missing() && !base.has_missing() {
        return false;
    }
    let written = Views::of(mine).write_to(base);
    let all = |crdt: &mut dyn Crdt| crdt.visible_digest().ok();
    written.is_ok() && all(base).is_some_and(|shown| Some(shown) == all(mine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Fresh;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn view(kind: CrdtKind, text: &str, fresh: &mut Fresh) -> Views {
        let mut crdt = conclave_crdt::create(kind, fresh.replica(kind)).unwrap();
        crdt.text().unwrap().splice(0, 0, text).unwrap();
        Views::of(crdt.as_mut())
    }

    #[test]
    fn edits_are_carried_over_to_another_text() {
        let mut fresh = Fresh::new(&mut ChaCha20Rng::seed_from_u64(1));
        for kind in CrdtKind::ALL {
            let base = view(kind, "{lost} hello (after)", &mut fresh);
            let mine = view(kind, "{lost} h(zero)ello (after)", &mut fresh);
            let onto = view(kind, "(one) hello", &mut fresh);
            let merged = Views::merge(&base, &mine, &onto);
            assert_eq!(merged.text.as_deref(), Some("(one) h(zero)ello"), "{kind}");
        }
    }
}

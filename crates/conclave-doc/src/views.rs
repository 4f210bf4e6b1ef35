//! Writing edits again as a difference between two states of a document.

use conclave_crdt::{Crdt, CrdtError, CrdtKind};

use crate::content::Fresh;

/// What a document shows, in the forms in which edits can be made from a difference.
#[derive(PartialEq)]
pub(crate) struct Views {
    text: Option<String>,
    json: Option<serde_json::Value>,
}

impl Views {
    /// Reads a document. A view that cannot be read is left out.
    pub(crate) fn of(crdt: &mut dyn Crdt) -> Self {
        let text = crdt.text().and_then(|view| view.text().ok());
        let json = crdt.json().and_then(|view| view.to_json().ok());
        Self { text, json }
    }

    /// What led from `base` to `mine`, done to `onto`: by way of two documents that begin alike.
    pub(crate) fn merge(
        kind: CrdtKind,
        base: &Self,
        mine: &Self,
        onto: &Self,
        fresh: &mut Fresh,
    ) -> Result<Self, CrdtError> {
        let mut ours = conclave_crdt::create(kind, fresh.replica(kind))?;
        let mut theirs = conclave_crdt::create(kind, fresh.replica(kind))?;
        base.write_to(ours.as_mut())?;
        pass_on(ours.as_mut(), theirs.as_mut())?;
        mine.write_to(ours.as_mut())?;
        onto.write_to(theirs.as_mut())?;
        ours.take_pending(&mut Vec::new())?;
        pass_on(theirs.as_mut(), ours.as_mut())?;
        Ok(Self::of(ours.as_mut()))
    }

    /// Does here what led from `base` to what `former` shows.
    pub(crate) fn follow(
        &mut self,
        kind: CrdtKind,
        base: &Self,
        former: &mut dyn Crdt,
        fresh: &mut Fresh,
    ) -> Result<(), CrdtError> {
        *self = Self::merge(kind, base, &Self::of(former), self, fresh)?;
        Ok(())
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

/// Brings what was written in one document to another.
fn pass_on(from: &mut dyn Crdt, to: &mut dyn Crdt) -> Result<(), CrdtError> {
    let mut updates: Vec<Vec<u8>> = Vec::new();
    from.take_pending(&mut updates)?;
    let updates: Vec<&[u8]> = updates.iter().map(Vec::as_slice).collect();
    to.apply(&updates).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
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
        for kind in [CrdtKind::Yjs, CrdtKind::Automerge] {
            let base = view(kind, "{lost} hello (after)", &mut fresh);
            let mine = view(kind, "{lost} h(zero)ello (after)", &mut fresh);
            let onto = view(kind, "(one) hello", &mut fresh);
            let merged = Views::merge(kind, &base, &mine, &onto, &mut fresh).unwrap();
            assert_eq!(merged.text.as_deref(), Some("(one) h(zero)ello"), "{kind}");
        }
    }
}

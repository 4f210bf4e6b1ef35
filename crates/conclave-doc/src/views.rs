//! Writing edits again as a difference between two states of a document.

use conclave_crdt::{Crdt, CrdtError};

/// What a document shows, in the forms in which edits can be made from a difference.
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

//! A group that its operator removes, because it keeps the place of another: a stranger took its id, or a member brought something else than it was.

use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{GroupId, Refusal};

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::op::recovery::Next;

/// A group goes with all that belongs to it, and its id is free. The service leads to none of the heads that it has signed of it, so a generation begins.
#[derive(Debug, Clone)]
pub struct DropGroup {
    /// The group.
    pub group: GroupId,
    /// The generation.
    pub next: Next,
    /// Whether it goes too where no member brought it.
    pub even_if_founded_here: bool,
}

impl DropGroup {
    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.services.insert(());
        keys.groups.insert(self.group);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        let row = rows.group(&self.group)?.ok_or(Refusal::UnknownGroup)?;
        if row.base.is_none() && !self.even_if_founded_here {
            let why = ForbiddenWhy::NotYours;
            return Err(Refusal::Forbidden { why }.into());
        }
        let mut changes = self.next.begin(rows)?;
        let generation = self.next.generation;
        changes.push(Change::Dropped {
            group: self.group,
            generation: generation.number,
        });
        let event = Event::Declared { generation };
        Ok(Decided { changes, event })
    }
}

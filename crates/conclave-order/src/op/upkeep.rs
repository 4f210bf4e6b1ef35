//! What the service does of itself.

use conclave_proto::UnixMs;

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits::{ERASED_AT_ONCE, REPLACED_SNAPSHOT_MS};
use crate::rows::ErasingRow;

/// Replaced snapshots whose time is over lose their content: the longest replaced first, over all documents. So do deleted documents.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// The time.
    pub now: UnixMs,
    /// At most so many.
    pub most: u32,
}

impl Sweep {
    fn key(self) -> (UnixMs, u32) {
        let before = self.now.0.saturating_sub(REPLACED_SNAPSHOT_MS);
        (UnixMs(before), self.most)
    }

    pub(crate) fn keys(self, keys: &mut Keys) {
        keys.overdue.insert(self.key());
    }

    /// What goes.
    pub(crate) fn changes(self, rows: &Rows) -> Result<Vec<Change>, Stop> {
        let over = rows.overdue_at(&self.key())?;
        let over = over.into_iter().flatten();
        Ok(over.copied().map(Change::LetGo).collect())
    }

    pub(crate) fn decide(self, rows: &Rows) -> Result<Decided, Stop> {
        let mut changes = self.changes(rows)?;
        let mut swept = changes.len();
        if let Some(ErasingRow { log, from, size }) = rows.erasing_first(&())?.copied() {
            let until = size.min(from.saturating_add(ERASED_AT_ONCE));
            let is_last = until == size;
            changes.push(Change::Erase {
                log,
                from,
                until,
                is_last,
            });
            // There may be more.
            swept = self.most as usize;
        }
        let event = Event::Swept(swept);
        Ok(Decided { changes, event })
    }
}

/// Whether a write becomes durable.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// The time.
    pub now: UnixMs,
}

impl Probe {
    pub(crate) fn decide(self) -> Decided {
        Decided {
            changes: vec![Change::Probe { now: self.now }],
            event: Event::Done,
        }
    }
}

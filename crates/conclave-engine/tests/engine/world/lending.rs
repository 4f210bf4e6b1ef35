//! What devices lend, and who does it: here, in an order that follows from the world's seed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use conclave_engine::{At, Lending, Row, Work};

use super::*;

/// What a device lends of their work on documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lends {
    Nothing,
    Everything,
    /// What a device with threads lends.
    Long,
    /// Now this, now that.
    AtRandom,
}

/// Where an engine never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Record(u64),
    Snapshot,
    Stored,
}

impl Stop {
    fn is_at(self, place: &At) -> bool {
        match (self, place) {
            (Self::Record(seq), At::Record(record)) => record.seq == seq,
            (Self::Snapshot, At::Snapshot { .. }) | (Self::Stored, At::Stored) => true,
            _ => false,
        }
    }
}

impl Lends {
    /// As the environment wants it: every world of these tests can be run so.
    #[allow(clippy::disallowed_methods, reason = "which way all tests are run")]
    pub fn wanted() -> Self {
        match std::env::var("CONCLAVE_LENDS").as_deref() {
            Ok("everything") => Self::Everything,
            Ok("long") => Self::Long,
            Ok("random") => Self::AtRandom,
            _ => Self::Nothing,
        }
    }
}

impl World {
    /// What a device lends in its next transition.
    pub(super) fn set_lending(&mut self, at: usize) {
        let lending = match self.devices[at].lends {
            Lends::Nothing => Lending::Nothing,
            Lends::Everything => Lending::Everything,
            Lends::Long => Lending::Long,
            Lends::AtRandom if self.lots.next_u32().is_multiple_of(2) => Lending::Everything,
            Lends::AtRandom => Lending::Nothing,
        };
        self.devices[at].shell.engine_mut().set_lending(lending);
        if let Some(most) = self.in_memory {
            let engine = self.devices[at].shell.engine_mut();
            engine.set_documents_in_memory(most);
        }
    }

    /// Whether somebody does this work.
    pub(super) fn is_done(&self, work: &Work) -> bool {
        self.slow != Some(work.document)
    }

    /// One job that a device has lent is done and handed back.
    pub(super) fn work(&mut self, at: usize) {
        let work = self.devices[at].work.iter().enumerate();
        let done = work.filter(|(_, work)| self.is_done(work));
        let can: Vec<usize> = done.map(|(which, _)| which).collect();
        let which = can[(self.lots.next_u64() % can.len() as u64) as usize];
        let Work { id, document, job } = self.devices[at].work.remove(which);
        let stops = self.stops.filter(|(of, _)| *of == document);
        if let Some((_, stop)) = stops.filter(|_| self.devices[at].stops) {
            job.watch().observe(Box::new(move |place| {
                if stop.is_at(place) {
                    resume_unwind(Box::new("it does not come back"));
                }
            }));
        }
        match catch_unwind(AssertUnwindSafe(|| job.run())) {
            Ok(done) => {
                let done = Box::new(done);
                self.input(at, Input::Worked { id, done });
            }
            Err(_) => self.input(at, Input::Stuck { id, begun: true }),
        }
    }

    /// Rows of a document, by their keys.
    pub fn rows_of(&self, at: usize, group: &GroupId, document: &DocumentId) -> Vec<Row> {
        let prefix = [&[5], group.as_bytes(), document.as_bytes()].concat();
        self.devices[at].rows.read(&prefix)
    }
}

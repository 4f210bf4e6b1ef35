//! A group's documents: how far each is in memory. Work on one that is not waits.

use std::collections::BTreeMap;

use conclave_doc::Watch;
use conclave_proto::{DocumentId, InstanceId};

use crate::document::{Doc, Notes, Stuck, WorkId};
use crate::error::EngineError;
use crate::io::CommandId;
use crate::work::DocWork;

/// A piece of work. The command behind it, if there is one, is answered with an error if the work can never run.
pub(crate) trait Awaited {
    /// The command that waits for it.
    fn waiter(&self) -> Option<CommandId>;
}

/// Work that waits for a document, in its order.
pub(crate) type Queue = Vec<DocWork>;

/// How far a document is in memory.
#[derive(Debug)]
pub(crate) enum DocSlot {
    /// Its rows were asked for, or the service was.
    Loading(Queue),
    /// In memory.
    Hot(Box<Doc>),
    /// A job has it.
    Away(Box<Away>),
    /// This session does without it, for this reason.
    Unreadable(EngineError),
}

/// What stays here of a document that a job has.
#[derive(Debug)]
pub(crate) struct Away {
    /// Which work.
    pub(crate) work: WorkId,
    /// The command that it answers, if it answers one.
    pub(crate) answers: Option<CommandId>,
    pub(crate) notes: Notes,
    /// Says where the work is.
    pub(crate) watch: Watch,
    pub(crate) queue: Queue,
    /// Under which instance it writes, as far as is known here.
    pub(crate) instance: InstanceId,
    /// How many roots had turned out false when it went.
    pub(crate) false_roots: u64,
    /// Whether it was open on the connection when it went.
    pub(crate) was_open: bool,
}

impl DocSlot {
    /// Commands that wait for it.
    pub(crate) fn waiters(&self) -> Vec<CommandId> {
        let of = |queue: &Queue| queue.iter().filter_map(Awaited::waiter).collect::<Vec<_>>();
        match self {
            Self::Loading(queue) => of(queue),
            Self::Hot(doc) => doc.notes.waiters.clone(),
            Self::Away(away) => {
                let mut waiters = of(&away.queue);
                waiters.extend(away.answers.iter().chain(&away.notes.waiters));
                waiters
            }
            Self::Unreadable(_) => Vec::new(),
        }
    }

    /// The document itself, when it is in memory.
    pub(crate) fn hot(&self) -> Option<&Doc> {
        match self {
            Self::Hot(doc) => Some(doc),
            _ => None,
        }
    }

    fn takes_memory(&self) -> bool {
        !matches!(self, Self::Unreadable(_))
    }
}

/// A group's documents that are in memory, on their way there, away, or given up in this session.
#[derive(Debug, Default)]
pub(crate) struct Docs {
    slots: BTreeMap<DocumentId, DocSlot>,
    /// How many of them take memory.
    in_memory: usize,
    /// Documents on which work did not come back in this session.
    stuck: BTreeMap<DocumentId, Stuck>,
}

impl Docs {
    /// How many take memory, or will.
    pub(crate) fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// How often work on a document did not come back.
    pub(crate) fn tries(&self, id: &DocumentId) -> u8 {
        self.stuck.get(id).map_or(0, |stuck| stuck.tries)
    }

    /// Whether work on a document did not come back once.
    pub(crate) fn is_held(&self, id: &DocumentId) -> bool {
        self.stuck.contains_key(id)
    }

    /// Work on a document does not come back. Gives how often that is so by now.
    pub(crate) fn note_stuck(&mut self, id: DocumentId) -> u8 {
        let stuck = self.stuck_mut(id);
        stuck.tries = stuck.tries.saturating_add(1);
        stuck.tries
    }

    /// What this session knows of that.
    pub(crate) fn stuck_mut(&mut self, id: DocumentId) -> &mut Stuck {
        self.stuck.entry(id).or_default()
    }

    /// What held a document is out of the way.
    pub(crate) fn free(&mut self, id: &DocumentId) {
        self.stuck.remove(id);
    }

    pub(crate) fn get(&self, id: &DocumentId) -> Option<&DocSlot> {
        self.slots.get(id)
    }

    pub(crate) fn hot_mut(&mut self, id: &DocumentId) -> Option<&mut Doc> {
        match self.slots.get_mut(id) {
            Some(DocSlot::Hot(doc)) => Some(doc),
            _ => None,
        }
    }

    /// What waits for a document that is loading or away.
    pub(crate) fn queue_mut(&mut self, id: &DocumentId) -> Option<&mut Queue> {
        match self.slots.get_mut(id) {
            Some(DocSlot::Loading(queue)) => Some(queue),
            Some(DocSlot::Away(away)) => Some(&mut away.queue),
            _ => None,
        }
    }

    /// What waits for a document while it loads; it is not loading any more.
    pub(crate) fn take_loading(&mut self, id: &DocumentId) -> Option<Queue> {
        if !matches!(self.slots.get(id), Some(DocSlot::Loading(_))) {
            return None;
        }
        match self.remove(id) {
            Some(DocSlot::Loading(queue)) => Some(queue),
            _ => None,
        }
    }

    /// What stayed here of a document that this work has; it is away no more.
    pub(crate) fn take_away(&mut self, id: &DocumentId, work: WorkId) -> Option<Away> {
        if !matches!(self.slots.get(id), Some(DocSlot::Away(away)) if away.work == work) {
            return None;
        }
        match self.remove(id) {
            Some(DocSlot::Away(away)) => Some(*away),
            _ => None,
        }
    }

    pub(crate) fn insert(&mut self, id: DocumentId, slot: DocSlot) {
        self.in_memory += usize::from(slot.takes_memory());
        if self
            .slots
            .insert(id, slot)
            .is_some_and(|it| it.takes_memory())
        {
            self.in_memory -= 1;
        }
    }

    pub(crate) fn remove(&mut self, id: &DocumentId) -> Option<DocSlot> {
        let slot = self.slots.remove(id)?;
        self.in_memory -= usize::from(slot.takes_memory());
        Some(slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&DocumentId, &DocSlot)> {
        self.slots.iter()
    }

    /// Documents in memory, and those that come back to it.
    pub(crate) fn at_work(&self) -> Vec<DocumentId> {
        let at_work = |slot: &DocSlot| matches!(slot, DocSlot::Hot(_) | DocSlot::Away(_));
        let slots = self.slots.iter().filter(|(_, slot)| at_work(slot));
        slots.map(|(id, _)| *id).collect()
    }

    pub(crate) fn is_unreadable(&self, id: &DocumentId) -> bool {
        matches!(self.slots.get(id), Some(DocSlot::Unreadable(_)))
    }

    /// Takes out what cannot be done without documents that are still to come. Who waits for it.
    pub(crate) fn without(&mut self, is_missing: impl Fn(&DocumentId) -> bool) -> Vec<CommandId> {
        let mut waiters = Vec::new();
        for (id, slot) in &mut self.slots {
            if let DocSlot::Loading(queue) = slot
                && is_missing(id)
            {
                let needs = |work: &mut DocWork| work.needs_content();
                waiters.extend(queue.extract_if(.., needs).filter_map(|work| work.waiter()));
            }
        }
        waiters
    }

    /// The connection is gone: what came on it and waits is of no use.
    pub(crate) fn disconnected(&mut self) {
        for slot in self.slots.values_mut() {
            match slot {
                DocSlot::Loading(queue) => queue.retain(|work| !work.is_of_connection()),
                DocSlot::Away(away) => away.queue.retain(|work| !work.is_of_connection()),
                DocSlot::Hot(_) | DocSlot::Unreadable(_) => {}
            }
        }
    }
}

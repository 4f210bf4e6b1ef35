//! Work on documents: done here at once where it is short, else lent to the shell as a [`Job`] that owns the document. What it gives comes back
//! in one transition; until then whatever comes for the document waits.

use super::errand::{Ended, Errand, Finished, Held, Job, Made, Making, What};
use conclave_doc::Watch;

use super::*;
use crate::slot::Away;

/// Work beyond which an engine may lend, of what takes as long as it is large: about 2 ms.
const LONG: Cost = Cost {
    records: 256,
    bytes: 64 * 1024,
    engine_us: 2_000,
};
/// Most work from the connection that waits for a document that is away. Beyond it the document is closed there, and opened again later.
const WAITING_FRAMES: usize = 4096;

/// Names work that was lent until it comes back. No other engine of the same store, before or after, names its own so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkId(u64);

/// Long work on a document, for the shell to do: any time, on any thread. See [`Output::work`](crate::Output::work).
#[derive(Debug)]
pub struct Work {
    /// Repeated when it comes back.
    pub id: WorkId,
    /// The document that it has.
    pub document: DocumentId,
    /// The work itself.
    pub job: Job,
}

/// What work an engine lends instead of doing it at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lending {
    /// None: for shells that do everything on one thread.
    #[default]
    Nothing,
    /// What gives a CRDT engine something from elsewhere, for how long that takes its length does not tell; and what is long.
    Long,
    /// All of it.
    Everything,
}

impl Cx {
    /// What did not come back once is lent, however short it looks.
    fn is_lent(&self, cost: Cost, foreign: bool, held: bool) -> bool {
        match self.lending {
            Lending::Nothing => false,
            Lending::Long if foreign || held => true,
            Lending::Long => {
                let by_length = cost.records > LONG.records || cost.bytes > LONG.bytes;
                by_length || cost.engine_us > LONG.engine_us
            }
            Lending::Everything => true,
        }
    }

    /// Randomness for one errand.
    pub(crate) fn seed(&mut self) -> errand::Seed {
        let mut seed = errand::Seed::default();
        self.rng.fill_bytes(seed.as_mut_slice());
        seed
    }

    /// Works on a document in memory and settles it, as far as that goes here. After a call that failed half-way the rest waits until it is read
    /// again; where a long errand begins, until it is back. `back` is what came of one that was away.
    pub(super) fn run_document(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        back: Option<Finished>,
        work: Vec<DocWork>,
    ) {
        let Whole { group, docs } = whole;
        let held = docs.is_held(&id);
        let Some(doc) = docs.hot_mut(&id) else {
            return;
        };
        self.worked += 1;
        self.by_age.remove(&doc.age);
        doc.age = self.worked;
        self.by_age.insert(doc.age, (group.id, id));
        self.follow_pause(group, doc);
        let mut settled = back.as_ref().is_some_and(Finished::is_of_settling);
        let (mut finished, mut work) = (back, work.into_iter());
        while doc.reread.is_none() {
            if let Some(finished) = finished.take() {
                self.finish_errand(group, doc, finished);
            } else if let Some(errand) = doc.errand.take() {
                let cost = errand.cost(&doc.document);
                let foreign = errand.is_foreign(&doc.document);
                if self.is_lent(cost, foreign, held) {
                    return self.lend(whole, id, errand, cost, work.collect());
                }
                let watch = group.watch(&id);
                let mut context = group.doc_context(&self.device);
                context.watch = watch.as_ref();
                finished = Some(errand.run(&mut doc.document, &context));
            } else if let Some(next) = work.next() {
                settled = false;
                if !group.roots.1.is_empty() {
                    // What comes may show that a root is false, and then only what is stored counts.
                    self.store_document(group, doc);
                }
                self.doc_work(group, doc, next);
            } else if !settled {
                settled = true;
                self.settle_document(group, doc);
            } else {
                return;
            }
        }
        if let Some(why) = doc.reread {
            self.reload_document(whole, id, why, work.collect());
        }
    }

    /// A document goes away with an errand. What was done with it before is durable with this transition, whatever becomes of the errand.
    fn lend(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        errand: Errand,
        cost: Cost,
        queue: Vec<DocWork>,
    ) {
        if let Some(doc) = whole.docs.hot_mut(&id) {
            self.keep_document(&mut whole.group, doc);
        }
        let Some(DocSlot::Hot(doc)) = whole.docs.remove(&id) else {
            return;
        };
        self.by_age.remove(&doc.age);
        let Doc {
            document, notes, ..
        } = *doc;
        let instance = document.instance();
        let devices = whole.group.state().roster.rows().len();
        let cost = document.with_judging(cost, devices);
        let what = What::Do(document, errand);
        self.send_away(whole, id, what, cost, (notes, instance, queue));
    }

    fn send_away(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        what: What,
        cost: Cost,
        (notes, instance, queue): (Notes, InstanceId, Vec<DocWork>),
    ) {
        let Whole { group, docs } = whole;
        let work = WorkId(self.rng.next_u64());
        let tries = docs.tries(&id);
        let watch = match group.watch(&id) {
            Some(watch) => watch,
            None => Watch::new(tries > 0, std::collections::BTreeSet::new()),
        };
        let away = Away {
            watch: watch.clone(),
            work,
            answers: what.answers(),
            notes,
            queue,
            instance,
            false_roots: group.roots.1.false_ones(),
            was_open: self.link.open(group.id, id).is_some(),
        };
        docs.insert(id, DocSlot::Away(Box::new(away)));
        group.lent.insert(id);
        self.lent.insert(work, (group.id, id));
        let held = Held::new(
            group.state().clone(),
            group.roots.0.clone(),
            self.device.id(),
        );
        let job = Job {
            watch,
            held,
            what,
            cost,
            tries,
        };
        self.out.work.push(Work {
            id: work,
            document: id,
            job,
        });
    }

    /// Brings a document into memory, for what waits for it.
    pub(super) fn make_document(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        making: Making,
        queue: Vec<DocWork>,
    ) {
        let cost = making.cost();
        if self.is_lent(cost, making.is_foreign(), whole.docs.is_held(&id)) {
            let here = (Notes::default(), self.device.instance(), queue);
            return self.send_away(whole, id, What::Make(making), cost, here);
        }
        let watch = whole.group.watch(&id);
        let mut context = whole.group.doc_context(&self.device);
        context.watch = watch.as_ref();
        let made = making.run(&context);
        self.made(whole, id, made, queue);
    }

    fn made(&mut self, whole: &mut Whole, id: DocumentId, made: Made, queue: Vec<DocWork>) {
        match made {
            Made::Loaded(result) => self.loaded(whole, id, result, queue),
            Made::Begun(result, asked) => self.begun(whole, id, result, asked, queue),
            Made::Opened {
                result,
                channel,
                base,
            } => self.opened_first(whole, id, result, (channel, base), queue),
        }
    }

    /// What was lent is back. What is late, or of no work that is known, is dropped.
    pub(crate) fn take_back(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        work: WorkId,
        done: Done,
    ) {
        let Some(away) = whole.docs.take_away(&id, work) else {
            return;
        };
        let group = &mut whole.group;
        group.lent.remove(&id);
        let of = group.id;
        let is_false = away.false_roots != group.roots.1.false_ones();
        match done.0 {
            // What begins here was opened by no root.
            Ended::Made(made) if is_false && !matches!(*made, Made::Begun(..)) => {
                // It may have been opened by a root that has gone since.
                self.close_document(of, id);
                whole.docs.insert(id, DocSlot::Loading(away.queue));
                self.load_or_fetch(whole, id);
            }
            Ended::Made(made) => self.made(whole, id, *made, away.queue),
            Ended::Done(document, finished) => {
                let closed = away.was_open && self.link.open(of, id).is_none();
                let mut doc = Box::new(Doc::new(id, document));
                doc.notes = away.notes;
                if is_false && finished.is_judged() {
                    doc.reread = Some(Reread::FalseRoot);
                } else if closed && finished.accuses_service() {
                    // Its log can only be compared on a connection: it will be delivered again.
                    doc.reread = Some(Reread::Unlikely);
                }
                whole.docs.insert(id, DocSlot::Hot(doc));
                let finished = Some(*finished);
                self.run_document(whole, id, finished, away.queue);
            }
        }
        // Those that were not erased on its account.
        self.erase_roots(&mut whole.group);
    }

    /// Work that was lent does not come back in time. That says nothing about the document: its rows stay as they are. It is read again, and has more time
    /// then; where that is not enough either, this session does without it.
    pub(crate) fn work_stuck(
        &mut self,
        whole: &mut Whole,
        id: DocumentId,
        work: WorkId,
        begun: bool,
    ) {
        let Some(away) = whole.docs.take_away(&id, work) else {
            return;
        };
        let group = &mut whole.group;
        group.lent.remove(&id);
        self.close_document(group.id, id);
        let at = away.watch.at();
        let slot = DocSlot::Away(Box::new(away));
        self.reply_all(slot.waiters(), &EngineError::Held);
        if !whole.group.has_document(&id) {
            // It was to begin: nothing of it is anywhere.
            return self.erase_roots(&mut whole.group);
        }
        // Where no thread has begun it, it is read again when somebody asks for it.
        self.note_stuck(whole, id, begun.then_some(at));
        if begun && whole.docs.note_stuck(id) < TRIES {
            whole.docs.insert(id, DocSlot::Loading(Vec::new()));
            self.load_or_fetch(whole, id);
        } else {
            whole.set_unreadable(id, EngineError::Held);
        }
        self.erase_roots(&mut whole.group);
    }

    /// Work for a document that is loading or away waits.
    pub(super) fn queue_work(&mut self, whole: &mut Whole, id: DocumentId, work: DocWork) {
        let Some(queue) = whole.docs.queue_mut(&id) else {
            return;
        };
        queue.push(work);
        let frames = queue.iter().filter(|work| work.is_of_channel());
        if queue.len() > WAITING_FRAMES && frames.count() > WAITING_FRAMES {
            queue.retain(|work| !work.is_of_channel());
            self.close_document(whole.group.id, id);
        }
    }
}

impl Engine {
    /// What was lent is back.
    pub(crate) fn worked(&mut self, work: WorkId, done: Done) {
        self.on_lent(work, |cx, whole, id| cx.take_back(whole, id, work, done));
    }

    /// What was lent does not come back in time.
    pub(crate) fn stuck(&mut self, work: WorkId, begun: bool) {
        self.on_lent(work, |cx, whole, id| {
            cx.work_stuck(whole, id, work, begun);
        });
    }

    fn on_lent(&mut self, work: WorkId, what: impl FnOnce(&mut Cx, &mut Whole, DocumentId)) {
        let Some((group, id)) = self.cx.lent.remove(&work) else {
            return;
        };
        if self
            .on_whole(group, |cx, whole| what(cx, whole, id))
            .is_some()
        {
            self.settle_later(group);
        }
    }

    /// What is lent from now on.
    pub fn set_lending(&mut self, lending: Lending) {
        self.cx.lending = lending;
    }
}

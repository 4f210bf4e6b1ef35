//! Where long work is done: on threads of its own, so that whatever does not need it goes on. Work that does not come back in time is given up:
//! a thread cannot be stopped, so another takes its place, and what it brings after all is dropped.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, available_parallelism};
use std::time::Duration;

use conclave_engine::Job;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::until;

/// Most threads at work at once.
const MOST_THREADS: usize = 4;
/// Time between two looks at what is waited for. Where much more has passed the process was stopped, or starved, and so were its threads: that is nobody's time.
const LOOK: Duration = Duration::from_millis(500);
/// Most threads that are replaced because what they do does not come back.
const MOST_REPLACED: usize = 4;

/// How long a job is waited for. An application's closure takes the time that it takes.
pub(super) fn time_for(job: &Job) -> Option<Duration> {
    job.deadline_ms().map(Duration::from_millis)
}

/// What became of work.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came<K, T> {
    Done(K, T),
    /// It is not waited for any longer.
    Stuck(K),
    /// It was never begun: all threads have something that does not come back.
    Refused(K),
}

type Run<T> = Box<dyn FnOnce() -> T + Send>;

/// Work that has no thread yet.
struct Waiting<K, D, T> {
    id: K,
    of: D,
    time: Option<Duration>,
    run: Run<T>,
}

/// The threads, and what they do. Work is named by a `K` that is given once, and is of a `D`, of which one thread at most does not come back: more
/// of it is begun when that has ended.
pub(super) struct Pool<K, D, T> {
    threads: usize,
    waiting: VecDeque<Waiting<K, D, T>>,
    /// What is done now, and until when it is waited for.
    running: BTreeMap<K, (D, Option<Instant>)>,
    /// When that was looked at last.
    looked: Instant,
    /// What was given up while its thread goes on.
    lost: BTreeMap<K, D>,
    /// Nothing comes of work whose thread ended without a result.
    sender: mpsc::UnboundedSender<(K, Option<T>)>,
    results: mpsc::UnboundedReceiver<(K, Option<T>)>,
}

impl<K: Copy + Ord + Send + 'static, D: Copy + Eq, T: Send + 'static> Pool<K, D, T> {
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self::of(cores.min(MOST_THREADS))
    }

    fn of(threads: usize) -> Self {
        let (sender, results) = mpsc::unbounded_channel();
        Self {
            threads,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            looked: Instant::now(),
            lost: BTreeMap::new(),
            sender,
            results,
        }
    }

    /// Takes work, which is waited for no longer than this once it has begun.
    pub(super) fn take(
        &mut self,
        (id, of): (K, D),
        time: Option<Duration>,
        run: impl FnOnce() -> T + Send + 'static,
    ) {
        let run = Box::new(run);
        self.waiting.push_back(Waiting { id, of, time, run });
        self.begin();
    }

    /// Nobody wants what has not begun any more.
    pub(super) fn forget_waiting(&mut self) {
        self.waiting.clear();
    }

    /// Waits for work to come back, or to be given up. Loses nothing where it is dropped.
    pub(super) async fn next(&mut self) -> Came<K, T> {
        loop {
            while let Ok((id, result)) = self.results.try_recv() {
                if let Some(came) = self.arrived(id, result) {
                    return came;
                }
            }
            if self.room() == 0
                && self.running.is_empty()
                && let Some(never) = self.waiting.pop_front()
            {
                // All threads are lost, and none is replaced any more.
                return Came::Refused(never.id);
            }
            self.look(Instant::now());
            let times = self.running.iter();
            let first = times.filter_map(|(id, (_, at))| Some(((*at)?, *id))).min();
            let next_look = self.looked + LOOK;
            tokio::select! {
                Some((id, result)) = self.results.recv() => {
                    if let Some(came) = self.arrived(id, result) {
                        return came;
                    }
                }
                () = until(first.map(|(at, _)| at.min(next_look))) => if let Some(id) = self.overdue(Instant::now()) {
                    let of = self.running.remove(&id).map(|(of, _)| of);
                    self.lost.extend(of.map(|of| (id, of)));
                    self.begin();
                    return Came::Stuck(id);
                }
            }
        }
    }

    /// Passes over the time for which nothing here ran.
    fn look(&mut self, now: Instant) {
        let passed = now.duration_since(self.looked);
        self.looked = now;
        if passed > LOOK * 2 {
            let times = self.running.values_mut().filter_map(|(_, at)| at.as_mut());
            times.for_each(|at| *at += passed - LOOK);
        }
    }

    /// What is waited for no longer.
    fn overdue(&mut self, now: Instant) -> Option<K> {
        self.look(now);
        let mut running = self.running.iter();
        let overdue = running.find(|(_, (_, at))| at.is_some_and(|at| at <= now));
        overdue.map(|(id, _)| *id)
    }

    /// A thread has ended. None where nobody waits for what it did any more.
    fn arrived(&mut self, id: K, result: Option<T>) -> Option<Came<K, T>> {
        let awaited = self.running.remove(&id).is_some();
        self.lost.remove(&id);
        self.begin();
        awaited.then(|| result.map_or(Came::Stuck(id), |result| Came::Done(id, result)))
    }

    /// How many threads may still begin something.
    fn room(&self) -> usize {
        let unreplaced = self.lost.len().saturating_sub(MOST_REPLACED);
        self.threads
            .saturating_sub(self.running.len().saturating_add(unreplaced))
    }

    /// The first that may begin.
    fn next_waiting(&mut self) -> Option<Waiting<K, D, T>> {
        let is_lost = |it: &Waiting<K, D, T>| self.lost.values().any(|of| *of == it.of);
        let at = self.waiting.iter().position(|it| !is_lost(it))?;
        self.waiting.remove(at)
    }

    fn begin(&mut self) {
        self.look(Instant::now());
        while self.room() > 0
            && let Some(Waiting { id, of, time, run }) = self.next_waiting()
        {
            let until = time.map(|time| Instant::now() + time);
            self.running.insert(id, (of, until));
            let sender = self.sender.clone();
            let work = move || {
                // A fault of ours costs one document, not the device.
                let result = catch_unwind(AssertUnwindSafe(run)).ok();
                let _ = sender.send((id, result));
            };
            let thread = Builder::new().name("conclave-work".to_owned());
            if thread.spawn(work).is_err() {
                let _ = self.sender.send((id, None));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Over as soon as it begins.
    const NONE: Option<Duration> = Some(Duration::ZERO);

    /// Work that ends when it is told to.
    fn held(pool: &mut Pool<u32, u32, u32>, id: u32, time: Option<Duration>) -> Sender<()> {
        let (end, ended): (Sender<()>, Receiver<()>) = channel();
        pool.take((id, id), time, move || {
            let _ = ended.recv();
            id
        });
        end
    }

    #[tokio::test]
    async fn no_more_runs_at_once_than_there_are_threads() {
        let mut pool = Pool::of(2);
        let ends: Vec<_> = (0..5).map(|id| held(&mut pool, id, None)).collect();
        assert_eq!((pool.running.len(), pool.waiting.len()), (2, 3));
        for (id, end) in (0..).zip(ends) {
            end.send(()).unwrap();
            assert_eq!(pool.next().await, Came::Done(id, id));
            assert!(pool.running.len() <= 2);
        }
        assert!(pool.running.is_empty() && pool.waiting.is_empty());
    }

    #[tokio::test]
    async fn what_is_stuck_is_given_up_and_its_late_result_dropped() {
        let mut pool = Pool::of(1);
        let end = held(&mut pool, 1, NONE);
        let next = held(&mut pool, 2, None);
        assert_eq!(pool.next().await, Came::Stuck(1));
        // Another thread has taken its place.
        assert!(pool.running.contains_key(&2) && pool.lost.contains_key(&1));
        end.send(()).unwrap();
        next.send(()).unwrap();
        assert_eq!(pool.next().await, Came::Done(2, 2));
        assert_eq!(pool.running.len(), 0);
    }

    /// As by a person at the terminal, or a machine that has no time.
    #[tokio::test]
    async fn time_for_which_the_process_was_stopped_does_not_count() {
        let mut pool = Pool::of(1);
        let end = held(&mut pool, 1, Some(LOOK * 4));
        let mut now = pool.looked + LOOK * 100;
        for _ in 0..3 {
            assert_eq!(pool.overdue(now), None);
            now += LOOK;
        }
        // A little more than that: it was begun a moment after it was looked.
        assert_eq!(pool.overdue(now + LOOK), Some(1));
        drop(end);
    }

    #[tokio::test]
    async fn so_many_threads_are_replaced_and_no_more() {
        let mut pool = Pool::of(2);
        let most = 2 + MOST_REPLACED as u32;
        let ends: Vec<_> = (0..most).map(|id| held(&mut pool, id, NONE)).collect();
        for _ in 0..most {
            assert!(matches!(pool.next().await, Came::Stuck(_)));
        }
        assert_eq!((pool.room(), pool.lost.len()), (0, most as usize));
        // What comes then is not kept waiting for ever.
        let end = held(&mut pool, 90, None);
        assert_eq!(pool.next().await, Came::Refused(90));
        drop(end);
        // One that comes back after all makes room again.
        ends[0].send(()).unwrap();
        let back = pool.results.recv().await.unwrap();
        pool.sender.send(back).unwrap();
        let end = held(&mut pool, 91, None);
        end.send(()).unwrap();
        assert_eq!(pool.next().await, Came::Done(91, 91));
        drop(ends);
    }

    #[tokio::test]
    async fn what_is_stuck_keeps_one_thread_and_not_one_more_for_each_try() {
        let mut pool: Pool<u32, char, u32> = Pool::of(1);
        let (end, ended) = channel::<()>();
        pool.take((1, 'a'), NONE, move || {
            let _ = ended.recv();
            1
        });
        assert_eq!(pool.next().await, Came::Stuck(1));
        // Tried again: not while the first try goes on. What is of something else is not behind it.
        pool.take((2, 'a'), NONE, || 2);
        pool.take((3, 'b'), None, || 3);
        assert_eq!(pool.next().await, Came::Done(3, 3));
        assert_eq!((pool.waiting.len(), pool.lost.len()), (1, 1));
        end.send(()).unwrap();
        let back = pool.results.recv().await.unwrap();
        assert_eq!(pool.arrived(back.0, back.1), None);
        assert!(pool.running.contains_key(&2) && pool.lost.is_empty());
    }

    #[tokio::test]
    async fn work_that_panics_is_given_up() {
        let mut pool: Pool<u32, u32, u32> = Pool::of(1);
        pool.take((1, 1), None, || panic!("a fault"));
        pool.take((2, 2), None, || 7);
        assert_eq!(pool.next().await, Came::Stuck(1));
        assert_eq!(pool.next().await, Came::Done(2, 7));
    }
}

//! Signed heads: a service proves to its clients how far it had come, so that it cannot go back unnoticed, whoever made it.
//!
//! When a log grows that somebody listens to, its head is signed and told before what made it grow is acknowledged; what follows within a
//! second is told together. Time is counted in ticks, so that a clock that is set back stops nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use conclave_proto::codec::encode;
use conclave_proto::frame::ServiceFrame;
use conclave_proto::limits::HEAD_PERIOD_MS;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use conclave_identity::{HeadKey, ServiceKey};
use conclave_proto::Head;
use conclave_proto::service::{Generation, SignedHead};
use conclave_rules::LogId;

use crate::config::Clock;
use crate::limits;

/// The service's keys, and the generation that it is in.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) service: ServiceKey,
    pub(crate) generation: Generation,
    pub(crate) heads: HeadKey,
}

/// Milliseconds of a tick.
const TICK_MS: u64 = 250;
/// Ticks between two heads of one log.
const PERIOD_TICKS: u64 = HEAD_PERIOD_MS / TICK_MS;
/// Heads signed for telling within a tick: 800 a second, which is 2 % of a core.
const SIGNED_PER_TICK: u32 = 200;

/// Where a log is in telling its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Pace {
    /// Nothing was told for a second: the next is told at once.
    #[default]
    Quiet,
    /// A head was told within the last second.
    Told,
    /// The log has grown since the last one that was told.
    Changed,
}

/// A log whose head is told to who listens.
pub(crate) trait Telling: Send + Sync {
    /// Its turn has come: tells its head if that has changed, and is ready again if not. True: a head was signed.
    fn turn(self: Arc<Self>) -> bool;
}

/// Logs that were told within a second or wait to be told, the longest waiting first.
#[derive(Default)]
struct Queue {
    tick: u64,
    signed: u32,
    /// Each by the tick in which its turn comes, and by when it came here.
    logs: BTreeMap<(u64, u64), Weak<dyn Telling>>,
    came: u64,
}

impl Queue {
    fn push(&mut self, ticks: u64, log: Weak<dyn Telling>) {
        self.came += 1;
        self.logs.insert((self.tick + ticks, self.came), log);
    }
}

/// The newest head of a log that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newest {
    /// Number of the generation.
    generation: u64,
    signed: SignedHead,
}

/// What signs heads.
pub(crate) struct Heads {
    queue: Mutex<Queue>,
    service_key: [u8; 32],
    standing: RwLock<Arc<Standing>>,
    clock: Clock,
    /// No head's time lies before it.
    seconds: AtomicU64,
    /// No head's time lies past it: what is reserved, so that none lies before it after a restart.
    reserved: AtomicU64,
    /// Losses that everybody was told of.
    losses: AtomicU64,
}

impl Heads {
    /// `since` is what was reserved before: no head was dated later.
    pub(crate) fn new(standing: Standing, clock: Clock, since: u64, losses: u64) -> Self {
        Self {
            service_key: standing.service.public(),
            standing: RwLock::new(Arc::new(standing)),
            clock,
            seconds: AtomicU64::new(since),
            reserved: AtomicU64::new(since),
            losses: AtomicU64::new(losses),
            queue: Mutex::default(),
        }
    }

    /// The service's public key.
    pub(crate) fn service_key(&self) -> [u8; 32] {
        self.service_key
    }

    /// The service's keys, and the generation that it is in.
    pub(crate) fn standing(&self) -> Arc<Standing> {
        let standing = self.standing.read();
        standing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs the head that a log has now. Whoever asks holds the log's lock, and keeps `newest` under it: a head that was signed is not
    /// signed again, and no smaller one after it.
    pub(crate) fn sign(&self, log: &LogId, head: Head, newest: &mut Option<Newest>) -> SignedHead {
        let standing = self.standing();
        let number = standing.generation.number;
        if let Some(known) = newest.filter(|known| known.generation == number)
            && known.signed.head.size >= head.size
        {
            return known.signed;
        }
        let seconds = self.seconds();
        let signed = (standing.heads).sign(&self.service_key, number, &log.name(), head, seconds);
        *newest = Some(Newest {
            generation: number,
            signed,
        });
        signed
    }

    /// As [`Self::sign`], at this time, also where the log has not grown since: whoever asks is told that there is no more now.
    pub(crate) fn sign_now(
        &self,
        log: &LogId,
        head: Head,
        newest: &mut Option<Newest>,
    ) -> SignedHead {
        let number = self.standing().generation.number;
        let seconds = self.seconds();
        let is_old = |known: &Newest| {
            known.generation == number
                && known.signed.head == head
                && known.signed.seconds < seconds
        };
        // What it says stays true: it is dated anew.
        newest.take_if(|known| is_old(known));
        self.sign(log, head, newest)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log has grown that somebody listens to. True: its head is to be signed and told now. Whoever asks holds the log's lock.
    pub(crate) fn grown(&self, pace: &mut Pace, log: Weak<dyn Telling>) -> bool {
        if *pace != Pace::Quiet {
            *pace = Pace::Changed;
            return false;
        }
        let mut queue = self.queue();
        let now = queue.signed < SIGNED_PER_TICK;
        queue.signed += u32::from(now);
        queue.push(if now { PERIOD_TICKS } else { 1 }, log);
        *pace = if now { Pace::Told } else { Pace::Changed };
        now
    }

    /// A log's turn has come. True: its head is to be signed and told. Whoever asks holds the log's lock.
    pub(crate) fn turn(&self, pace: &mut Pace, log: Weak<dyn Telling>) -> bool {
        if *pace != Pace::Changed {
            *pace = Pace::Quiet;
            return false;
        }
        *pace = Pace::Told;
        self.queue().push(PERIOD_TICKS, log);
        true
    }

    /// Time goes on: tells the heads whose turn has come, as many as may be.
    fn tick(&self) {
        let mut queue = self.queue();
        queue.tick += 1;
        queue.signed = 0;
        let tick = queue.tick;
        drop(queue);
        while let Some(log) = self.next(tick) {
            let signed = log.upgrade().is_some_and(Telling::turn);
            self.queue().signed += u32::from(signed);
        }
    }

    fn next(&self, tick: u64) -> Option<Weak<dyn Telling>> {
        let mut queue = self.queue();
        let first = queue.logs.first_entry();
        let is_due = first.is_some_and(|first| first.key().0 <= tick);
        let next = (is_due && queue.signed < SIGNED_PER_TICK).then(|| queue.logs.pop_first());
        next.flatten().map(|(_, log)| log)
    }

    /// Tells heads until the service stops.
    pub(crate) async fn run(&self, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_millis(TICK_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn seconds(&self) -> u64 {
        let now = self.clock.now().0 / 1000;
        let now = now.min(self.reserved.load(Ordering::Acquire));
        let before = self.seconds.fetch_max(now, Ordering::AcqRel);
        before.max(now)
    }

    /// Up to where times of heads are to be reserved.
    pub(crate) fn to_reserve(&self) -> u64 {
        let least = self.seconds.load(Ordering::Acquire);
        let now = self.clock.now().0 / 1000;
        now.max(least).saturating_add(limits::HEAD_TIME_S)
    }

    /// Times up to here are durably reserved.
    pub(crate) fn reserved(&self, until: u64) {
        self.reserved.fetch_max(until, Ordering::AcqRel);
    }

    /// So many losses are declared. True: there were fewer.
    pub(crate) fn note_losses(&self, losses: u64) -> bool {
        self.losses.fetch_max(losses, Ordering::AcqRel) < losses
    }

    /// Another generation has begun.
    pub(crate) fn begin(&self, standing: Standing) {
        let mut present = self
            .standing
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *present = Arc::new(standing);
    }
}

/// The frame that tells a log's head.
pub(crate) fn frame(log: &LogId, signed: SignedHead) -> Bytes {
    let log = log.name();
    Bytes::from(encode(&ServiceFrame::Head { log, signed }))
}

#[cfg(test)]
mod tests {
    use conclave_identity::NewGeneration;
    use conclave_proto::UnixMs;
    use conclave_proto::service::Cause;
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn heads() -> Arc<Heads> {
        let service = ServiceKey::from_bytes(&[1; 32]);
        let heads = HeadKey::from_bytes(&[2; 32]);
        let new = NewGeneration {
            cause: Cause::Founded,
            begun: UnixMs(0),
            head_key: heads.public(),
        };
        let standing = Standing {
            generation: service.begin(None, new),
            service,
            heads,
        };
        let heads = Heads::new(standing, Clock::default(), 0, 0);
        heads.reserved(heads.to_reserve());
        Arc::new(heads)
    }

    struct Log {
        heads: Arc<Heads>,
        pace: Mutex<Pace>,
        told: AtomicU32,
    }

    impl Log {
        fn new(heads: &Arc<Heads>) -> Arc<Self> {
            Arc::new(Self {
                heads: heads.clone(),
                pace: Mutex::default(),
                told: AtomicU32::new(0),
            })
        }

        fn grow(self: &Arc<Self>) {
            let log = Arc::downgrade(self) as Weak<dyn Telling>;
            let now = self.heads.grown(&mut self.pace.lock().unwrap(), log);
            self.told.fetch_add(u32::from(now), Ordering::Relaxed);
        }

        fn told(&self) -> u32 {
            self.told.load(Ordering::Relaxed)
        }
    }

    impl Telling for Log {
        fn turn(self: Arc<Self>) -> bool {
            let log = Arc::downgrade(&self) as Weak<dyn Telling>;
            let now = self.heads.turn(&mut self.pace.lock().unwrap(), log);
            self.told.fetch_add(u32::from(now), Ordering::Relaxed);
            now
        }
    }

    #[test]
    fn a_head_is_told_at_once_and_then_once_a_second() {
        let heads = heads();
        let log = Log::new(&heads);
        for seconds in 1..4 {
            for _ in 0..PERIOD_TICKS {
                log.grow();
                assert_eq!(log.told(), seconds);
                heads.tick();
            }
        }
        // The last growth is told too, and then nothing more.
        assert_eq!(log.told(), 4);
        for _ in 0..3 * PERIOD_TICKS {
            heads.tick();
        }
        assert_eq!(log.told(), 4);
        assert_eq!(*log.pace.lock().unwrap(), Pace::Quiet);
        assert!(heads.queue().logs.is_empty());
        log.grow();
        assert_eq!(log.told(), 5);
    }

    #[test]
    fn past_the_bound_heads_are_told_in_the_order_in_which_logs_grew() {
        let heads = heads();
        let count = 2 * SIGNED_PER_TICK as usize + 1;
        let logs: Vec<_> = (0..count).map(|_| Log::new(&heads)).collect();
        for log in &logs {
            log.grow();
        }
        let told = || logs.iter().take_while(|log| log.told() == 1).count();
        assert_eq!(told(), SIGNED_PER_TICK as usize);
        heads.tick();
        assert_eq!(told(), 2 * SIGNED_PER_TICK as usize);
        heads.tick();
        assert_eq!(told(), count);
    }

    #[test]
    fn a_clock_that_goes_back_dates_no_head_earlier() {
        let heads = heads();
        heads.seconds.store(u64::MAX - 1, Ordering::Release);
        let log = LogId::of_group(conclave_proto::GroupId([1; 16]));
        let signed = heads.sign(&log, Head::EMPTY, &mut None);
        assert_eq!(signed.seconds, u64::MAX - 1);
    }

    #[test]
    fn no_head_is_dated_past_what_is_reserved() {
        let standing = heads().standing();
        let standing = Standing {
            service: standing.service.clone(),
            generation: standing.generation,
            heads: standing.heads.clone(),
        };
        let heads = Heads::new(standing, Clock::default(), 70, 0);
        let log = LogId::of_group(conclave_proto::GroupId([1; 16]));
        let sign = || heads.sign(&log, Head::EMPTY, &mut None).seconds;
        assert_eq!(sign(), 70);
        heads.reserved(90);
        assert_eq!(sign(), 90);
        assert!(heads.to_reserve() > 90);
    }

    #[test]
    fn in_another_generation_a_head_is_signed_anew() {
        let heads = heads();
        let log = LogId::of_group(conclave_proto::GroupId([1; 16]));
        let mut newest = None;
        let before = heads.sign(&log, Head::EMPTY, &mut newest);
        let standing = heads.standing();
        let new = NewGeneration {
            cause: Cause::Restored,
            begun: UnixMs(0),
            head_key: standing.heads.public(),
        };
        heads.begin(Standing {
            generation: standing.service.begin(Some(&standing.generation), new),
            service: standing.service.clone(),
            heads: standing.heads.clone(),
        });
        let after = heads.sign(&log, Head::EMPTY, &mut newest);
        assert_ne!(before.signature, after.signature);
    }

    #[test]
    fn whoever_asks_is_told_that_there_is_no_more_now() {
        let heads = heads();
        let log = LogId::of_group(conclave_proto::GroupId([1; 16]));
        let mut newest = None;
        let before = heads.sign(&log, Head::EMPTY, &mut newest);
        assert_eq!(heads.sign(&log, Head::EMPTY, &mut newest), before);
        heads.seconds.fetch_add(5, Ordering::AcqRel);
        assert_eq!(heads.sign(&log, Head::EMPTY, &mut newest), before);
        let now = heads.sign_now(&log, Head::EMPTY, &mut newest);
        assert_eq!((now.head, now.seconds), (before.head, before.seconds + 5));
        assert_eq!(newest.unwrap().signed, now);
    }

    #[test]
    fn no_smaller_head_is_signed_after_a_larger_one() {
        let heads = heads();
        let log = LogId::of_group(conclave_proto::GroupId([1; 16]));
        let at = |size| Head {
            size,
            root: conclave_proto::Hash([7; 32]),
        };
        let mut newest = None;
        let larger = heads.sign(&log, at(5), &mut newest);
        assert_eq!(heads.sign(&log, at(4), &mut newest), larger);
        assert_eq!(newest.unwrap().signed, larger);
    }
}

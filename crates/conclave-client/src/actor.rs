//! The task that owns the engine and the store.
//!
//! It runs on a thread of its own, so that CRDT and MLS work never blocks the application's runtime, whatever its flavour, and beside it a
//! small runtime moves frames. Its one rule is **durable, then send**: several inputs that are ready are handled together, their batches
//! become one transaction in the order in which they arose, and only when that is on disk do frames leave and does anybody hear anything.
//! When the store fails, nothing of that is released. A store that only lacks room is tried again (see `stall`); otherwise the client stops.

mod inbox;
mod link;
mod pool;
mod reach;
mod shared;
mod stall;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conclave_engine::shell::{Released, Shell};
use conclave_engine::{Command, CommandId, Done, Input, Moment, Reply, Told, WorkId};
use conclave_proto::{DocumentId, UnixMs};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::error::Error;
use crate::events::DeviceEvent;
use crate::store::{Store, Unlock};
use crate::transport::Wire;
use crate::trouble::Connection;
use link::{Link, room};
use pool::{Came, Pool, time_for};
use stall::Stall;

pub(crate) use shared::{Rotations, Shared};
pub(crate) use thread::start;

/// Calls that wait for the actor.
const CALLS: usize = 256;
/// Most inputs whose changes become one transaction.
const GROUP_INPUTS: usize = 256;
/// Time after which no further input joins a transaction: whoever waits for it is answered soon, however much there is to do.
const GROUP_TIME: Duration = Duration::from_millis(50);
/// Size of one transaction, in bytes, after which no further input joins it.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// Time after which replaced and deleted values are gone from the store's files.
const SCRUB_AFTER: Duration = Duration::from_secs(5);
/// The wall clock can jump: no wait for it is longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Timers fire no closer together than this: never a busy loop.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
/// Time for queued frames to leave when the client closes.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the rest of the crate asks of the actor.
pub(crate) enum Call {
    /// A command for the engine. Not begun when nobody waits for the answer any more.
    Command {
        command: Command,
        reply: oneshot::Sender<Result<Reply, Error>>,
    },
    /// Another passphrase or key file.
    ChangeSecret {
        unlock: Unlock,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Ends the pause between two attempts to connect, if there is one.
    TryNow { reply: oneshot::Sender<()> },
}

/// What both clocks show.
fn now() -> Moment {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let ms = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Moment {
        wall: UnixMs(ms(since.unwrap_or_default())),
        steady_ms: ms(BEGAN.elapsed()),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

/// Something that became ready.
enum Happened {
    Wire(Option<Wire>),
    Call(Option<Call>),
    Timer,
    Lent(Came<WorkId, Box<Done>>),
    Scrub,
    Sent,
    Resume,
    Closed,
}

struct Actor {
    shell: Shell,
    store: Store,
    link: Link,
    calls: mpsc::Receiver<Call>,
    shared: Arc<Shared>,
    replies: HashMap<CommandId, oneshot::Sender<Result<Reply, Error>>>,
    scrub_at: Option<Instant>,
    stall: Stall,
    /// Where long work on documents is done.
    pool: Pool<WorkId, DocumentId, Box<Done>>,
    /// Every handle is gone.
    alone: bool,
}

impl Actor {
    fn new(
        shell: Shell,
        store: Store,
        link: Link,
        calls: mpsc::Receiver<Call>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            shell,
            store,
            link,
            calls,
            shared,
            replies: HashMap::new(),
            scrub_at: None,
            stall: Stall::default(),
            pool: Pool::new(),
            alone: false,
        }
    }

    /// Runs until it is closed or the store fails.
    async fn run(&mut self) -> Result<(), Error> {
        if !self.link.inbox.can_connect() {
            self.transition(Input::Unreachable);
        }
        self.release_or_stall().await?;
        while !self.closing() {
            // Rows are read right after what was written before: nothing comes in between.
            if self.stall.is_over() && self.shell.wants_rows() {
                self.shell.load(now(), &mut self.store).await?;
            } else {
                let happened = self.wait().await;
                self.take(happened).await?;
            }
            self.gather().await?;
            self.lend();
            if self.stall.is_over() {
                self.release_or_stall().await?;
            }
        }
        self.farewell().await;
        Ok(())
    }

    /// Gives the engine's long work to threads that have time for it.
    fn lend(&mut self) {
        while let Some(work) = self.shell.take_work() {
            let time = time_for(&work.job);
            self.pool.take((work.id, work.document), time, move || {
                Box::new(work.job.run())
            });
        }
    }

    fn closing(&self) -> bool {
        self.alone || self.shared.close.is_cancelled()
    }

    async fn wait(&mut self) -> Happened {
        let timer = self.shell.wake_in_ms(now()).map(|ms| {
            let wait = Duration::from_millis(ms);
            Instant::now() + wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
        });
        let scrub_at = self.scrub_at;
        let resume_at = self.stall.until();
        let stalled = resume_at.is_some();
        let choked = self.link.is_choked();
        let has_frames = self.link.has_frames();
        let Link {
            inbox,
            sender,
            backlog,
            backlog_bytes,
            fleeting,
            ..
        } = &mut self.link;
        tokio::select! {
            room = room(sender), if has_frames => {
                Link::sent(room, backlog, backlog_bytes, fleeting);
                Happened::Sent
            }
            wire = inbox.next(), if !choked && !stalled => Happened::Wire(wire),
            call = self.calls.recv(), if !choked => Happened::Call(call),
            came = self.pool.next(), if !stalled => Happened::Lent(came),
            () = until(timer), if !stalled => Happened::Timer,
            () = until(resume_at) => Happened::Resume,
            // Also when the socket takes nothing and no call is heard.
            () = self.shared.close.cancelled() => Happened::Closed,
            () = until(scrub_at) => Happened::Scrub,
        }
    }

    /// Lets inputs that are ready join the transaction, wires and calls in turn.
    async fn gather(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        for _ in 0..GROUP_INPUTS {
            if self.closing()
                || began.elapsed() > GROUP_TIME
                || !self.stall.is_over()
                || self.shell.wants_rows()
                || self.shell.unreleased_bytes() > GROUP_BYTES
                || self.link.is_choked()
            {
                break;
            }
            let wire = self.link.inbox.try_next();
            let call = self.calls.try_recv().ok();
            if wire.is_none() && call.is_none() {
                break;
            }
            if let Some(wire) = wire {
                self.take(Happened::Wire(Some(wire))).await?;
            }
            if let Some(call) = call {
                self.take(Happened::Call(Some(call))).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, happened: Happened) -> Result<(), Error> {
        match happened {
            Happened::Sent | Happened::Closed => {}
            Happened::Resume => self.stall.try_again(),
            Happened::Wire(Some(wire)) => self.wire(wire),
            Happened::Wire(None) => return Err(Error::Crashed),
            Happened::Call(Some(Call::Command { command, reply })) => self.command(command, reply),
            Happened::Call(Some(Call::ChangeSecret { unlock, reply })) => {
                // A refusal (a key file that cannot be read, say) is no reason to stop.
                let result = self.store.change_secret(&unlock).await.map_err(Error::from);
                let _ = reply.send(result);
            }
            Happened::Call(Some(Call::TryNow { reply })) => {
                self.link.inbox.connect_now();
                let _ = reply.send(());
            }
            Happened::Call(None) => self.alone = true,
            Happened::Timer => {
                self.shell.wake(now());
                self.show();
            }
            Happened::Lent(Came::Done(id, done)) => self.transition(Input::Worked { id, done }),
            Happened::Lent(Came::Stuck(id)) => {
                tracing::warn!("work on a document does not come back");
                let begun = true;
                self.transition(Input::Stuck { id, begun });
            }
            Happened::Lent(Came::Refused(id)) => {
                tracing::warn!("no thread has time for work on a document");
                let begun = false;
                self.transition(Input::Stuck { id, begun });
            }
            Happened::Scrub => {
                self.scrub_at = None;
                self.store.scrub_if_room().await?;
                self.plan_scrub();
            }
        }
        Ok(())
    }

    fn command(&mut self, command: Command, reply: oneshot::Sender<Result<Reply, Error>>) {
        if reply.is_closed() {
            return;
        }
        // Somebody wants something: perhaps there is room again.
        self.stall.try_again();
        // A device that has just been enrolled need not sit out a pause.
        if matches!(command, Command::FinishDevice { .. }) {
            self.link.inbox.connect_now();
        }
        let id = self.shell.command(now(), command);
        self.show();
        self.replies.insert(id, reply);
    }

    fn wire(&mut self, wire: Wire) {
        match wire {
            Wire::Up(sender) => {
                self.connection_changed();
                self.link.sender = Some(sender);
                self.was_reached();
                let input = Input::ConnectionUp {
                    origin: self.link.origin.clone(),
                    token: self.link.token.clone(),
                };
                self.transition(input);
            }
            Wire::Frame(received) => {
                if !self.link.deaf {
                    self.transition(Input::Frame(received.into_frame()));
                }
            }
            Wire::Down { cause, pause } => {
                tracing::debug!(origin = self.link.origin, %cause, "connection lost");
                self.connection_changed();
                self.transition(Input::ConnectionDown);
                let cause = self.other_service().unwrap_or(cause);
                self.was_not_reached(cause, pause);
            }
            Wire::Failed { cause, pause } => {
                self.transition(Input::Unreachable);
                self.was_not_reached(cause, pause);
            }
        }
    }

    /// Frames that were meant for the last connection must not reach the next one.
    fn connection_changed(&mut self) {
        self.link.forget();
        self.link.deaf = false;
    }

    fn transition(&mut self, input: Input) {
        self.shell.handle(now(), input);
        self.show();
    }

    /// Presence waits for nothing.
    fn show(&mut self) {
        for frame in self.shell.take_fleeting() {
            self.link.show(&frame);
        }
    }

    /// Durable, then send, then tell.
    async fn release(&mut self) -> Result<(), Error> {
        // Breakage: frames and answers do not wait for the disk.
        if crate::broken("send-before-durable") {
            let wants = self.shell.unreleased();
            let (sends, told) = (wants.sends.clone(), wants.told.clone());
            self.announce(Released {
                sends,
                told,
                ..Released::default()
            });
        }
        let released = self.shell.release(&mut self.store).await?;
        if released.stored {
            self.stall.forget();
        }
        self.plan_scrub();
        self.announce(released);
        Ok(())
    }

    fn plan_scrub(&mut self) {
        if self.store.needs_scrub() && self.scrub_at.is_none() {
            self.scrub_at = Some(Instant::now() + SCRUB_AFTER);
        }
    }

    fn announce(&mut self, ready: Released) {
        self.look_at_enrolment();
        for frame in &ready.sends {
            self.link.queue(frame);
        }
        if let Some(why) = ready.hang_up {
            tracing::debug!(origin = self.link.origin, why, "closing the connection");
            self.link.forget();
            self.link.deaf = true;
        }
        for told in ready.told {
            match told {
                Told::Reply { command, result } => {
                    if let Some(reply) = self.replies.remove(&command) {
                        // Whoever asked may have stopped waiting.
                        let _ = reply.send(result.map_err(Error::from));
                    }
                }
                Told::Event(event) => {
                    if matches!(event, DeviceEvent::Online) {
                        self.shared.connection.send_replace(Connection::Connected);
                    }
                    self.shared.tell(event.into());
                }
            }
        }
    }

    /// Gives frames that are durable already a moment to leave. None is lost if they do not: they are sent again.
    async fn farewell(&mut self) {
        // Whoever sees this device in a document need not wait until that expires.
        for frame in self.shell.end_presence() {
            self.link.show(&frame);
        }
        let leave = async {
            while self.link.has_frames() && self.link.sender.is_some() {
                let Link {
                    sender,
                    backlog,
                    backlog_bytes,
                    fleeting,
                    ..
                } = &mut self.link;
                let room = room(sender).await;
                Link::sent(room, backlog, backlog_bytes, fleeting);
            }
            if self.link.sender.take().is_some() {
                while !matches!(self.link.inbox.next().await, None | Some(Wire::Down { .. })) {}
            }
        };
        let _ = tokio::time::timeout(FAREWELL, leave).await;
    }
}

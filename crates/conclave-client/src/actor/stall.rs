//! What happens when the store has no room.
//!
//! The engine is ahead of the store then, and nothing can take a transition back. So everything that is not durable is dropped: the
//! engine, which is made again from the store as after a crash; the connection, whose service may have seen a half of something; and the
//! calls that wait, which get the store's error. What is wanted of documents' presence stays: it was never stored. Then nothing is done until somebody asks for something or a pause is over, and if there is
//! no room still, all of this happens again.

use std::time::Duration;

use conclave_engine::Lending;
use tokio::time::Instant;

use super::{Actor, thread};
use crate::error::Error;
use crate::events::{DeviceEvent, Event};
use crate::trouble::Connection;

/// First pause; each that follows without success is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether nothing is done for now, and for how long.
#[derive(Debug, Default)]
pub(super) struct Stall {
    until: Option<Instant>,
    failures: u32,
}

impl Stall {
    fn begin(&mut self) {
        let pause = PAUSE.saturating_mul(2u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + pause.min(LONGEST_PAUSE));
    }

    /// Ends the pause, to see whether there is room.
    pub(super) fn try_again(&mut self) {
        self.until = None;
    }

    /// There is room: something was stored.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_none()
    }

    #[cfg(test)]
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

impl Actor {
    /// Releases what is ready; a store without room is no reason to stop.
    pub(super) async fn release_or_stall(&mut self) -> Result<(), Error> {
        match self.release().await {
            Err(Error::Store(error)) if error.wants_room() => self.stall(Error::Store(error)).await,
            other => other,
        }
    }

    async fn stall(&mut self, error: Error) -> Result<(), Error> {
        tracing::warn!(code = error.code(), "the store has no room");
        let was_connected = self.link.sender.is_some();
        self.link.forget();
        self.link.deaf = true;
        let (mut engine, output) = thread::load(&mut self.store).await?;
        engine.trust_service_clock(self.shell.engine().trusts_service_clock());
        engine.set_lending(Lending::Long);
        let attended = self.shell.take_attendance();
        self.shell.begin_again(engine, output);
        self.shell.attend(attended);
        self.pool.forget_waiting();
        for (_, reply) in self.replies.drain() {
            let _ = reply.send(Err(error.clone()));
        }
        self.stall.begin();
        self.shared.tell(Event::Stalled {
            error: error.to_remote(),
        });
        if was_connected {
            self.shared.connection.send_replace(Connection::Connecting);
            self.shared.tell(DeviceEvent::Offline.into());
        }
        Ok(())
    }
}

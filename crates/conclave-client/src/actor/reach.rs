//! What is told of the connection: reached or not, and why not.

use std::time::Duration;

use conclave_proto::Hash;

use super::{Actor, now};
use crate::events::Event;
use crate::trouble::{Connection, Trouble};

impl Actor {
    /// There is a connection. Whether the service lets this device in shows later; one that is not enrolled does not ask.
    pub(super) fn was_reached(&mut self) {
        if !self.shell.engine().is_enrolled() {
            self.trouble(Trouble::NotEnrolled, None);
        }
    }

    /// The device may have been enrolled just now: then it asks on the connection that is there.
    pub(super) fn look_at_enrolment(&self) {
        self.shared.connection.send_if_modified(|connection| {
            let over = matches!(connection.trouble(), Some(Trouble::NotEnrolled))
                && self.shell.engine().is_enrolled();
            if over {
                *connection = Connection::Connecting;
            }
            over
        });
    }

    /// Another service has answered than the one that this device knows: why its device has hung up.
    pub(super) fn other_service(&self) -> Option<Trouble> {
        let (key, before) = self.shell.engine().other_service()?;
        let digits = |key| Hash(key).to_string();
        Some(Trouble::OtherService {
            key: digits(key),
            before: digits(before),
        })
    }

    /// There is none, or none any more.
    pub(super) fn was_not_reached(&mut self, cause: Trouble, pause: Duration) {
        let held = matches!(
            self.shared.connection.borrow().trouble(),
            Some(Trouble::NotEnrolled)
        );
        // A service hangs up on who does not log in: that is not what is the matter.
        if held && cause.is_passing() && !self.shell.engine().is_enrolled() {
            return;
        }
        self.trouble(cause, Some(pause));
    }

    fn trouble(&self, cause: Trouble, pause: Option<Duration>) {
        let at = now().wall;
        let mut is_news = true;
        self.shared.connection.send_modify(|connection| {
            let since = match &*connection {
                Connection::Trouble {
                    cause: before,
                    since,
                    ..
                } => {
                    is_news = before.code() != cause.code();
                    *since
                }
                _ => at,
            };
            let pause_ms = pause.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
            *connection = Connection::Trouble {
                cause: cause.clone(),
                since,
                next_try: pause_ms.map(|ms| at.plus_ms(ms)),
            };
        });
        if is_news {
            self.shared.tell(Event::Trouble { trouble: cause });
        }
    }
}

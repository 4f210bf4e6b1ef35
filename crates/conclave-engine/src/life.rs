//! One device, one life: which of the copies of a store goes on, as far as this one knows.
//!
//! With every login the service tells a token for the device's next life. It is stored here, and then confirmed: a store that was copied before
//! has an older token, and is not let in while the other is in use. Which of them is to go on, a person decides.

use conclave_proto::frame::Request;
use conclave_proto::{LifeToken, Refusal, UnixMs};
use serde::{Deserialize, Serialize};

use crate::cx::Cx;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::finding::{About, End, Finding, FindingKind};
use crate::io::{CommandId, Row, WriteBatch};
use crate::keys;
use crate::link::Pending;
use crate::settled::Until;

const ROW: &str = "life";
const ROW_VERSION: u16 = 1;

/// What this copy of the store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Copy {
    /// The one that goes on, as far as is known here.
    #[default]
    Only,
    /// An older one: another is in use.
    Older {
        /// When that one logged in last.
        since: UnixMs,
    },
    /// The one that a person wants to go on.
    TakesOver,
}

/// The life of this store. Its token is not printed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Life {
    version: u16,
    pub(crate) number: u64,
    pub(crate) token: LifeToken,
    pub(crate) copy: Copy,
}

impl Life {
    pub(crate) fn load(rows: &[Row]) -> Result<Self, EngineError> {
        let key = keys::device(ROW);
        let what = "life";
        let Some((_, value)) = rows.iter().find(|(at, _)| *at == key) else {
            return Ok(Self::default());
        };
        let life: Self = keys::uncbor(what, value)?;
        match life.version {
            ROW_VERSION => Ok(life),
            _ => Err(EngineError::Store { what }),
        }
    }

    /// When another copy logged in last, where that one is in use.
    pub(crate) fn elsewhere(&self) -> Option<UnixMs> {
        match self.copy {
            Copy::Older { since } => Some(since),
            Copy::Only | Copy::TakesOver => None,
        }
    }

    fn save(&mut self, writes: &mut WriteBatch) {
        self.version = ROW_VERSION;
        writes.put(keys::device(ROW), keys::cbor(self));
    }
}

impl Cx {
    /// The service lets this store in: it is the one that goes on. Its next life is stored before it is confirmed.
    pub(crate) fn let_in(&mut self, number: u64, next: LifeToken) {
        let life = self.device.life_mut();
        let took_over = life.copy == Copy::TakesOver;
        let was = std::mem::take(&mut life.copy);
        // Lives only go up. What says otherwise was said before, or by a service that lies: it would bar this device from an honest one.
        let begins = number > life.number;
        if begins {
            life.number = number;
            life.token = next;
        }
        if begins || was != Copy::Only {
            life.save(&mut self.out.writes);
        }
        self.ended(About::Device, End::Alone);
        if begins {
            self.request(Request::ConfirmLife, Pending::Quiet);
        }
        if took_over {
            // Private halves of what was published last may be with the other copy, and its instance was used there.
            self.device.renew_instance(&mut self.rng);
            self.replace_key_packages();
            self.restored.clear();
        }
    }

    /// The service refuses to let this device in.
    pub(crate) fn kept_out(&mut self, why: Refusal) {
        if let Refusal::OtherLife { since } = why {
            let copy = Copy::Older { since };
            let life = self.device.life_mut();
            if life.copy == Copy::TakesOver {
                // This answers a login from before it was to take over: the next one does.
                return;
            }
            if life.copy != copy {
                life.copy = copy;
                life.save(&mut self.out.writes);
            }
            self.found(Finding {
                what: FindingKind::OtherLife { since },
                about: About::Device,
                suspect: None,
            });
        }
        self.link.refused = Some(why);
    }

    /// Why nothing goes to the service from this copy of the store, and will not by itself.
    pub(crate) fn barred(&self) -> Option<EngineError> {
        match self.link.refused {
            Some(Refusal::OtherLife { since }) => Some(EngineError::OtherLife { since }),
            _ => None,
        }
    }
}

impl Engine {
    /// This copy of the store is to go on, and the other to stop. Answered when the service has let it in.
    pub(crate) fn take_over(&mut self, id: CommandId) {
        if self.cx.device.credential().is_none() {
            return self.cx.reply(id, Err(EngineError::NotEnrolled));
        }
        let life = self.cx.device.life_mut();
        life.copy = Copy::TakesOver;
        life.save(&mut self.cx.out.writes);
        self.cx.link.refused = None;
        self.cx.hang_up("this copy takes over");
        self.wait_until(id, Until::TakenOver);
    }
}

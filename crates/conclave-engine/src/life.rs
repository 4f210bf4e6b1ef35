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
use crate::work::GroupWork;

const ROW: &str = "life";
const ROW_VERSION: u16 = 1;
/// Why groups are left by a copy that becomes another device.
pub(crate) const BECAME_NEW: &str = "this home became another device";

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
    /// An older one that a person wants to be a device of its own: it is on its way out of all groups.
    BecomesNew,
}

/// The life of this store. Its token is not printed.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Life {
    version: u16,
    pub(crate) number: u64,
    pub(crate) token: LifeToken,
    pub(crate) copy: Copy,
    /// How often this store was let in.
    #[serde(default)]
    pub(crate) logins: u64,
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
            Copy::Only | Copy::TakesOver | Copy::BecomesNew => None,
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
        if life.copy == Copy::BecomesNew {
            // Of a login from before that.
            return;
        }
        let took_over = life.copy == Copy::TakesOver;
        life.copy = Copy::Only;
        life.logins = life.logins.saturating_add(1);
        // Lives only go up. What says otherwise was said before, or by a service that lies: it would bar this device from an honest one.
        let begins = number > life.number;
        if begins {
            life.number = number;
            life.token = next;
        }
        life.save(&mut self.out.writes);
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
            if matches!(life.copy, Copy::TakesOver | Copy::BecomesNew) {
                // This answers a login from before it was to: the next one does, or there is none.
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
        if self.cx.device.life().copy == Copy::BecomesNew {
            return self.cx.reply(id, Err(EngineError::BecomesNew));
        }
        let life = self.cx.device.life_mut();
        life.copy = Copy::TakesOver;
        life.save(&mut self.cx.out.writes);
        self.cx.link.refused = None;
        self.cx.hang_up("this copy takes over");
        self.wait_until(id, Until::TakenOver);
    }

    /// This older copy of the store is to be a device of its own. Answered when it is, with its request to be approved.
    ///
    /// It goes out of all groups first, and keeps apart what was never sent: that may be in the other copy too, and at the service by now.
    pub(crate) fn become_new(&mut self, id: CommandId) {
        let life = self.cx.device.life_mut();
        match life.copy {
            Copy::Older { .. } => {
                life.copy = Copy::BecomesNew;
                life.save(&mut self.cx.out.writes);
                self.cx.hang_up("this copy becomes another device");
                self.leave_everything();
            }
            Copy::BecomesNew => {}
            Copy::Only | Copy::TakesOver => return self.cx.reply(id, Err(EngineError::OnlyCopy)),
        }
        self.wait_until(id, Until::BecameNew);
    }

    /// Every group is left as it is at the service, from where this copy stands.
    fn leave_everything(&mut self) {
        for group in self.active_groups() {
            if self.is_stray(&group) {
                self.leave_stray(None, group, BECAME_NEW);
            } else {
                self.with_group(group, GroupWork::LeaveToCopy);
            }
        }
    }

    /// Goes on becoming another device, where that was begun: at the start, and whenever a group was left.
    pub(crate) fn go_on_becoming(&mut self, starts: bool) {
        if self.cx.device.life().copy != Copy::BecomesNew {
            return;
        }
        if starts {
            self.leave_everything();
        }
        if self.active_groups().is_empty() {
            self.begin_as_new();
        }
    }

    /// Nothing of the other copy's is here any more: what this one does from now on, it does as somebody else.
    fn begin_as_new(&mut self) {
        for group in std::mem::take(&mut self.invitations).into_keys() {
            self.cx.delete(keys::invitation(&group));
        }
        let cx = &mut self.cx;
        // The private halves belong to the other copy.
        cx.keystore.forget_made_before(UnixMs(u64::MAX));
        cx.device.become_new(&mut cx.rng);
        cx.device.life_mut().save(&mut cx.out.writes);
        cx.device.save(&mut cx.out.writes);
        cx.restored.clear();
        cx.link.refused = None;
        cx.ended(About::Device, End::Alone);
        cx.hang_up("this store is another device now");
    }
}

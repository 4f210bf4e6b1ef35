//! On what a document rests that this device shows, and whether what it computes proves anything.

use super::*;

/// On what a document rests that this device shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "on")]
pub enum Basis {
    /// This device judged every record itself.
    Checked,
    /// Other users found the snapshot right from which this device opened the document.
    Vouched {
        /// Who made it.
        author: UserId,
        /// Who found it right.
        by: Vec<UserId>,
    },
    /// Its author alone says that it is right.
    Word {
        /// Who made it.
        author: UserId,
    },
    /// Somebody says that it is wrong.
    Disputed {
        /// Who made it.
        author: UserId,
        /// Who found it right.
        for_it: Vec<UserId>,
        /// Who says that it differs from the log.
        against: Vec<UserId>,
    },
}

impl Document {
    /// Whether what this device computes proves something about the whole log.
    pub(crate) fn is_sure(&self) -> bool {
        self.checks.ground.is_log() || self.base().is_some_and(|base| self.is_vouched(base))
    }

    /// Whether it is to make a snapshot before others do: it is sure of what it has, or there is nobody but devices of its user.
    #[must_use]
    pub fn is_sure_or_alone(&self, ctx: &DocContext<'_>) -> bool {
        self.is_sure() || ctx.one_user()
    }

    /// Whether it objects to what differs from what it has. Not where somebody objects to what it rests on, unless there is nobody else who could.
    pub(super) fn may_object(&self, ctx: &DocContext<'_>) -> bool {
        self.is_sure() || !self.base_is_disputed() || ctx.one_user()
    }

    /// The snapshot that this device rests on, and what is said of it.
    fn base(&self) -> Option<&Heard> {
        self.state.heard_of(&self.checks.rests_on()?)
    }

    /// Whether another user who judged the whole log finds it right, and no objection stands that weighs.
    pub(super) fn is_vouched(&self, base: &Heard) -> bool {
        self.has_voucher(base) && !base.is_contested(|user| !self.lied(user))
    }

    /// Whether there is such a user, of those whose word counts here.
    fn has_voucher(&self, heard: &Heard) -> bool {
        self.believed(heard.vouchers()).next().is_some()
    }

    /// Whether a user other than its author finds it right, of those whose word counts here.
    pub(super) fn is_matched(&self, heard: &Heard) -> bool {
        self.believed(heard.matches()).next().is_some()
    }

    /// Whether somebody objects to it, of those whose word counts here.
    pub(super) fn has_objection(&self, heard: &Heard) -> bool {
        self.believed(heard.objections()).next().is_some()
    }

    /// What those say whose word counts here: whom this device has not named.
    pub(super) fn believed<'a>(
        &'a self,
        voices: impl Iterator<Item = &'a Voice>,
    ) -> impl Iterator<Item = &'a Voice> {
        voices.filter(|it| !self.lied(&it.user))
    }

    pub(super) fn lied(&self, user: &UserId) -> bool {
        self.checks.own.liars.contains(user)
    }

    /// Whether anybody objects to the snapshot that this device rests on.
    pub(crate) fn base_is_disputed(&self) -> bool {
        self.base().is_some_and(|base| self.has_objection(base))
    }

    /// Whether the active snapshot says something else than what this device has, or this device cannot tell.
    pub(crate) fn says_otherwise(&self) -> bool {
        match self.checks.found(&self.state.active.id) {
            Some(found) => found != Judgement::Match,
            None => self.size() > self.state.active.seq && !self.can_check(&self.state.active),
        }
    }

    /// On what this document rests here. Verdicts that this device has refuted do not count.
    #[must_use]
    pub fn basis(&self) -> Basis {
        let Some(rests) = self.checks.ground.base() else {
            return Basis::Checked;
        };
        let author = rests.author;
        let Some(base) = self.base() else {
            // The document has begun anew from a later one that this device found right.
            return Basis::Word { author };
        };
        let users = |voice: &Voice| voice.user;
        let by: Vec<UserId> = self.believed(base.vouchers()).map(users).collect();
        let against: Vec<UserId> = self.believed(base.objections()).map(users).collect();
        if !against.is_empty() {
            Basis::Disputed {
                author,
                for_it: by,
                against,
            }
        } else if by.is_empty() {
            Basis::Word { author }
        } else {
            Basis::Vouched { author, by }
        }
    }
}

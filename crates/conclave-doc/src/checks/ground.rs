//! From where a device knows what the log says, and what it may do from there.

use super::*;

/// The snapshot that a device rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub on: Hash,
    /// Who made it.
    pub author: UserId,
    /// What it covers: from there the device has judged every record itself.
    pub from: u64,
}

impl Base {
    fn of(base: &SnapshotInfo) -> Self {
        Self {
            on: base.id,
            author: base.user,
            from: base.covered.size,
        }
    }
}

/// From where a device knows what the log says. Nothing but the log from its beginning leads back to [`Ground::Log`].
///
/// | | names liars | lets keys go on its base | on a later snapshot, of those that it found right |
/// |---|---|---|---|
/// | log | yes | – | an hour after another user's match |
/// | joined | no | an hour after somebody vouched, if uncontested | likewise, if it is sure or a third user says the same |
/// | moved | no | likewise, if permitted | likewise, if permitted |
/// | overruled | no | no | no |
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ground {
    /// It judged every record.
    #[default]
    Log,
    /// It opened the document from a snapshot.
    Joined(Base),
    /// It held the log and could not check a snapshot that others say is right: its state went back to that, or forward, where the service did not give what lies
    /// between.
    Moved(Base),
    /// It held the log, found wrong what others say is right, and had to give way.
    Overruled(Base),
}

/// How a document came to begin anew from a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Went {
    /// The service has what lies between only by hash.
    #[default]
    Forward,
    /// The state had to go back, where the own check could not be done.
    Back,
    /// Against the own check.
    Overruled,
}

impl Ground {
    /// A document's first snapshot is no word on anything before it.
    pub(crate) fn opened_from(base: &SnapshotInfo) -> Self {
        match base.is_first() {
            true => Self::Log,
            false => Self::Joined(Base::of(base)),
        }
    }

    /// The document begins anew from a snapshot that this device did not find right.
    pub(crate) fn begin_from(self, base: &SnapshotInfo, went: Went) -> Self {
        if base.is_first() {
            return Self::Log;
        }
        let base = Base::of(base);
        match (self, went) {
            (Self::Overruled(_), _) | (Self::Log | Self::Moved(_), Went::Overruled) => {
                Self::Overruled(base)
            }
            (Self::Moved(_) | Self::Log, _) => Self::Moved(base),
            (Self::Joined(_), _) => Self::Joined(base),
        }
    }

    /// What it rests on.
    pub(crate) fn base(&self) -> Option<&Base> {
        match self {
            Self::Log => None,
            Self::Joined(base) | Self::Moved(base) | Self::Overruled(base) => Some(base),
        }
    }

    /// Whether it may convict: who cannot judge from the beginning proves nothing against who could.
    pub(crate) fn is_log(&self) -> bool {
        *self == Self::Log
    }
}

impl Document {
    /// Whether any key may go. Not before a look that an objection to what this device rests on makes due.
    pub(super) fn may_let_go(&self, ctx: &DocContext<'_>) -> bool {
        let active = &self.state.active.id;
        let is_due = || self.may_look() && self.is_unchecked(active) && !self.is_withheld(active);
        match self.checks.ground {
            _ if ctx.one_user() => true,
            Ground::Log => true,
            Ground::Joined(_) | Ground::Moved(_) => !(self.base_is_disputed() && is_due()),
            Ground::Overruled(_) => false,
        }
    }

    /// Whether a match begins the hour after which keys go on a snapshot. Of one who held the log more is asked than of a newcomer: the match of another user
    /// who may write, and one of the two who say so, its author or who writes the match, is an admin.
    pub(super) fn permits(&self, ctx: &DocContext<'_>, heard: &Heard, voice: &Voice) -> bool {
        if !matches!(self.checks.ground, Ground::Moved(_)) {
            return true;
        }
        let author = ctx.row(&heard.info.author.device, heard.info.epoch);
        let least = match author.is_some_and(|row| row.role >= Role::Admin) {
            true => Role::Editor,
            false => Role::Admin,
        };
        voice.role >= least && ctx.own_row().is_some_and(|own| own.user != voice.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::snapshot;

    #[test]
    fn nothing_but_the_beginning_leads_back_to_the_log() {
        let (first, next) = (snapshot(0, 0, 1, true), snapshot(9, 8, 1, false));
        let base = Base::of(&next);
        let (joined, moved) = (Ground::Joined(base), Ground::Moved(base));
        let overruled = Ground::Overruled(base);
        let all = [Ground::Log, joined, moved, overruled];
        let ways = [Went::Forward, Went::Back, Went::Overruled];
        let table = [
            [moved, moved, overruled],
            [joined, joined, joined],
            [moved, moved, overruled],
            [overruled, overruled, overruled],
        ];
        for (ground, row) in all.into_iter().zip(table) {
            for (went, then) in ways.into_iter().zip(row) {
                assert_eq!(ground.begin_from(&next, went), then, "{ground:?} {went:?}");
                assert_eq!(ground.begin_from(&first, went), Ground::Log);
            }
        }
        assert_eq!(Ground::opened_from(&first), Ground::Log);
        assert_eq!(Ground::opened_from(&next), joined);
    }
}

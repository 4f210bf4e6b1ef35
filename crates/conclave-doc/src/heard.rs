//! What members say of snapshots, as the log has it: the same for all who read it. Whether a member speaks the truth, each device finds out for
//! itself ([`crate::checks`]).

use conclave_proto::policy::Role;
use conclave_proto::{Hash, UserId};
use serde::{Deserialize, Serialize};

use crate::payload::Judgement;
use crate::state::SnapshotInfo;

/// Snapshots of which verdicts are remembered.
const SNAPSHOTS: usize = 16;
/// Users whose verdicts of one kind are remembered of one snapshot.
const VOICES: usize = 128;

/// A member's verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Voice {
    pub user: UserId,
    /// Their role in the epoch in which they wrote it.
    pub role: Role,
    pub judgement: Judgement,
    /// Position from which their device has judged every record itself.
    pub from: u64,
    /// Whether all members were devices of one user then.
    pub one_user: bool,
}

impl Voice {
    pub(crate) fn is_match(&self) -> bool {
        self.judgement == Judgement::Match
    }
}

/// A snapshot, and the verdicts on it in log order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub info: SnapshotInfo,
    pub voices: Vec<Voice>,
}

impl Heard {
    pub(crate) fn new(info: SnapshotInfo) -> Self {
        Self {
            info,
            voices: Vec::new(),
        }
    }

    /// A user's second verdict of one kind counts for nothing, but for a match where the same user has objected since the first, and an admin's where
    /// others have: that answers them. So each user objects once, and nobody has the last word by saying it again.
    fn hear(&mut self, voice: Voice) {
        let same = |it: &Voice| it.user == voice.user && it.is_match() == voice.is_match();
        if let Some(first) = self.voices.iter().position(same) {
            let is_admin = voice.role >= Role::Admin;
            let mut since = self.voices.iter().skip(first);
            let objected = since.any(|it| !it.is_match() && (is_admin || it.user == voice.user));
            if !voice.is_match() || !objected {
                return;
            }
            self.voices.remove(first);
        }
        let of_kind = |it: &&Voice| it.is_match() == voice.is_match();
        if self.voices.iter().filter(of_kind).count() < VOICES {
            self.voices.push(voice);
        }
    }

    /// Users other than its author who find it right, and have not said otherwise since.
    pub(crate) fn matches(&self) -> impl Iterator<Item = &Voice> {
        let voices = self.standing();
        voices.filter(|it| it.is_match() && it.user != self.info.user)
    }

    /// Those of them who judged the whole log: what others say rests on a word itself.
    pub(crate) fn vouchers(&self) -> impl Iterator<Item = &Voice> {
        self.matches().filter(|it| it.from == 0)
    }

    /// Users who say that it differs, and have not said otherwise since.
    pub(crate) fn objections(&self) -> impl Iterator<Item = &Voice> {
        self.standing().filter(|it| !it.is_match())
    }

    /// Each user's last verdict.
    fn standing(&self) -> impl Iterator<Item = &Voice> {
        self.voices.iter().enumerate().filter_map(|(at, voice)| {
            let mut later = self.voices.iter().skip(at.saturating_add(1));
            (!later.any(|it| it.user == voice.user)).then_some(voice)
        })
    }

    /// Whether an objection stands that weighs for those who cannot check: an editor's, which no admin other than the author has answered with
    /// a later match. `counts` says whose verdicts count.
    pub(crate) fn is_contested(&self, counts: impl Fn(&UserId) -> bool) -> bool {
        let author = self.info.user;
        self.voices.iter().enumerate().any(|(at, voice)| {
            let weighs = !voice.is_match() && voice.role >= Role::Editor && counts(&voice.user);
            let mut later = self.voices.iter().skip(at.saturating_add(1));
            weighs
                && !later.any(|it| {
                    let answers = it.role >= Role::Admin && it.user != author;
                    it.is_match() && (it.user == voice.user || (answers && counts(&it.user)))
                })
        })
    }

    /// Users whose word on it a verdict contradicts: one of the two says what is not true.
    pub(crate) fn contradicted_by(&self, voice: &Voice) -> impl Iterator<Item = UserId> {
        let (user, is_match) = (voice.user, voice.is_match());
        let author = Some(self.info.user).filter(|author| !is_match && *author != user);
        let others = self
            .standing()
            .filter(move |it| it.user != user && it.is_match() != is_match);
        others.map(|it| it.user).chain(author)
    }

    /// Whether the log says that somebody found it right who had judged all of it, and no objection stands that weighs: then it settles for all what the records that it
    /// covers mean.
    pub(crate) fn is_settled(&self) -> bool {
        let author = self.info.user;
        let judged = |it: &Voice| it.is_match() && it.from == 0;
        let right = |it: &Voice| judged(it) && (it.user != author || it.one_user);
        (self.info.is_first() || self.voices.iter().any(right)) && !self.is_contested(|_| true)
    }
}

/// Adds an accepted snapshot. The first of all stays, and so do the newest, and the newest that is settled. Gives the one that makes room.
pub(crate) fn remember(heard: &mut Vec<Heard>, info: SnapshotInfo) -> Option<Heard> {
    let goes = (heard.len() >= SNAPSHOTS).then(|| {
        let settled = heard.iter().rposition(Heard::is_settled);
        heard.remove(if settled == Some(1) { 2 } else { 1 })
    });
    heard.push(Heard::new(info));
    goes
}

/// Hears a verdict, if its snapshot is remembered. Gives whom it contradicts there.
pub(crate) fn hear(heard: &mut [Heard], snapshot: &Hash, voice: Voice) -> Vec<UserId> {
    let Some(of) = heard.iter_mut().find(|it| it.info.id == *snapshot) else {
        return Vec::new();
    };
    of.hear(voice);
    of.contradicted_by(&voice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::DiffersWhy;
    use crate::state::tests::snapshot;

    const DIFFERS: Judgement = Judgement::Differs(DiffersWhy::Content);

    fn voice(user: u8, role: Role, judgement: Judgement) -> Voice {
        Voice {
            user: UserId([user; 32]),
            role,
            judgement,
            from: 0,
            one_user: false,
        }
    }

    /// A snapshot of user 1, and what was said of it.
    fn said(voices: &[Voice]) -> Heard {
        let mut heard = Heard::new(snapshot(5, 5, 3, false));
        voices.iter().for_each(|it| heard.hear(*it));
        heard
    }

    #[test]
    fn only_another_users_match_counts_and_only_the_last_word_of_each() {
        let own = said(&[voice(1, Role::Owner, Judgement::Match)]);
        assert_eq!(own.matches().count(), 0);
        assert!(!own.is_settled());
        let other = said(&[voice(2, Role::Viewer, Judgement::Match)]);
        assert_eq!(other.matches().count(), 1);
        assert!(other.is_settled());
        let turned = said(&[
            voice(2, Role::Viewer, Judgement::Match),
            voice(2, Role::Viewer, DIFFERS),
        ]);
        assert_eq!(turned.matches().count(), 0);
        assert_eq!(turned.objections().count(), 1);
        assert!(turned.is_settled(), "a viewer unsettles nothing");
        let editor = voice(3, Role::Editor, DIFFERS);
        let contested = said(&[voice(2, Role::Viewer, Judgement::Match), editor]);
        assert!(!contested.is_settled());
        let back = said(&[
            voice(2, Role::Viewer, DIFFERS),
            voice(2, Role::Viewer, Judgement::Match),
        ]);
        assert_eq!(back.objections().count(), 0);
    }

    #[test]
    fn a_user_lifts_an_own_objection_once() {
        let (right, wrong) = (
            voice(2, Role::Editor, Judgement::Match),
            voice(2, Role::Editor, DIFFERS),
        );
        let lifted = said(&[right, wrong, right]);
        assert_eq!(
            (lifted.matches().count(), lifted.objections().count()),
            (1, 0)
        );
        assert!(lifted.is_settled());
        let again = said(&[right, wrong, right, wrong, wrong, right]);
        assert_eq!(again, lifted);
    }

    #[test]
    fn who_rests_on_a_word_vouches_for_nothing() {
        let late = Voice {
            from: 3,
            ..voice(2, Role::Editor, Judgement::Match)
        };
        let heard = said(&[late]);
        assert_eq!((heard.matches().count(), heard.vouchers().count()), (1, 0));
        assert!(!heard.is_settled());
        assert!(said(&[late, voice(3, Role::Viewer, Judgement::Match)]).is_settled());
    }

    #[test]
    fn a_viewers_objection_holds_nobody_up_and_an_admin_answers_an_editors() {
        let contested = |voices: &[Voice]| said(voices).is_contested(|_| true);
        let found = voice(2, Role::Editor, Judgement::Match);
        assert!(!contested(&[found, voice(3, Role::Viewer, DIFFERS)]));
        let objection = voice(3, Role::Editor, DIFFERS);
        assert!(contested(&[found, objection]));
        let admin = |user| voice(user, Role::Admin, Judgement::Match);
        assert!(!contested(&[found, objection, admin(4)]));
        assert!(contested(&[found, objection, admin(1)]), "its author");
        assert!(contested(&[admin(4), objection]), "before the objection");
        assert!(!contested(&[admin(4), objection, admin(4)]));
        let ignored = said(&[found, objection]);
        assert!(!ignored.is_contested(|user| *user != objection.user));
    }

    #[test]
    fn what_is_said_stays_bounded() {
        let mut heard = said(&[]);
        for _ in 0..3 {
            for user in 0..=255 {
                heard.hear(voice(user, Role::Viewer, DIFFERS));
                heard.hear(voice(user, Role::Viewer, Judgement::Match));
            }
        }
        assert_eq!(heard.voices.len(), 2 * VOICES);
        let mut all = vec![Heard::new(snapshot(0, 0, 1, true))];
        for seq in 1..100 {
            remember(&mut all, snapshot(seq, seq, 1, false));
        }
        assert_eq!(all.len(), SNAPSHOTS);
        assert_eq!(all[0].info.seq, 0);
        assert_eq!(all[SNAPSHOTS - 1].info.seq, 99);
    }

    #[test]
    fn the_newest_that_settles_stays_whatever_comes() {
        let mut all = vec![Heard::new(snapshot(0, 0, 1, true))];
        remember(&mut all, snapshot(1, 1, 1, false));
        let right = voice(2, Role::Viewer, Judgement::Match);
        hear(&mut all, &snapshot(1, 1, 1, false).id, right);
        let gone: Vec<u64> = (2..40)
            .filter_map(|seq| remember(&mut all, snapshot(seq, seq, 1, false)))
            .map(|it| it.info.seq)
            .collect();
        assert_eq!((all.len(), all[1].info.seq), (SNAPSHOTS, 1));
        assert!(gone.iter().copied().eq(2..26));
    }

    #[test]
    fn who_says_the_contrary_is_contradicted_and_so_is_the_author() {
        let mut all = vec![Heard::new(snapshot(5, 5, 3, false))];
        let id = all[0].info.id;
        let (right, wrong) = (
            voice(2, Role::Editor, Judgement::Match),
            voice(3, Role::Viewer, DIFFERS),
        );
        assert_eq!(hear(&mut all, &id, right), []);
        let others = hear(&mut all, &id, wrong);
        assert_eq!(others, [UserId([2; 32]), UserId([1; 32])]);
        let third = voice(4, Role::Editor, Judgement::Match);
        assert_eq!(hear(&mut all, &id, third), [UserId([3; 32])]);
    }
}

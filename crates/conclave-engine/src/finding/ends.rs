//! What ends the states that findings tell of. Each kind says it here, and nowhere else; whoever brings an end about says so with
//! [`Cx::ended`]. A place that goes takes all its states along: [`Cx::place_gone`].

use conclave_proto::{DocumentId, GroupId};

use super::{About, Finding, FindingKind, Step};
use crate::cx::Cx;

/// What ends a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The service lets this copy of the device in.
    Alone,
    /// This device's clock and the service's agree again.
    ClockRight,
    /// The rows are read.
    Loaded,
    /// The service lets the group's log be followed.
    Followed,
    /// The group's log is here as far as the service has it.
    CaughtUp,
    /// The service shows all that this device has.
    InStep,
    /// The service has taken the group.
    Founded,
    /// What was refused is accepted after all.
    Thawed,
    /// This device is in the group, as everybody else.
    Back,
    /// The group is one of this device's, or one that the service does not name any more.
    Known,
    /// Every listed device is the user's, as they say.
    Confirmed,
    /// Nobody is in the group whom its user's newest list does not name, and whom only others may remove.
    Pruned,
    /// Nothing that this device does in the group waits for the service's pace.
    LetIn,
    /// No document lies under keys that are too old.
    Rekeyed,
    /// The document was taken along.
    Carried,
    /// Nothing is left of what the document's log has lost.
    Merged,
    /// The document is here as far as the service has it.
    Opened,
    /// The service has taken the document.
    Published,
    /// Nothing of this device waits in the document.
    Sent,
    /// Nothing rests here in the document that could not go to anybody.
    Welcome,
    /// No short form of the document is due.
    Condensed,
    /// The document's short form was checked.
    Checked,
    /// This device does not differ alone from snapshots of others.
    Agrees,
    /// Nobody objects to the snapshot on which the document rests here.
    Undisputed,
    /// Nothing of the document is set aside.
    Whole,
    /// Nothing waits to be brought back because it costs too much now.
    Paid,
    /// Work on the document is past where it was stuck.
    Passed,
    /// No changes to the document are kept apart.
    Cleared,
    /// The service is the one that this device knows.
    KnownService,
    /// Only the place itself.
    Gone,
}

impl FindingKind {
    /// What ends the state that it tells of. None: it tells of something that happened, and only its reader is done with it.
    pub(crate) fn end(&self) -> Option<End> {
        Some(match self {
            // That the service agrees with itself later settles nothing.
            Self::OtherHistory => return None,
            Self::Failed { step, .. } => match step {
                Step::LoadGroup | Step::LoadDocument => End::Loaded,
                Step::LoadMembership | Step::Return | Step::JoinOwn => End::Back,
                Step::Follow => End::Followed,
                Step::TakeBack => End::Gone,
                Step::CarryOver => End::Carried,
                Step::OpenDocument | Step::ReadDocument => End::Opened,
                Step::PublishDocument => End::Published,
                Step::SendEdits => End::Sent,
                Step::Condense => End::Condensed,
                Step::CheckCondensed => End::Checked,
                Step::MakeDirectory
                | Step::Title
                | Step::ChangeGroup
                | Step::DeviceList
                | Step::ReadKeys => return None,
            },
            Self::OtherLife { .. } => End::Alone,
            Self::OwnClock { .. } => End::ClockRight,
            Self::ClockWrong { .. } => End::CaughtUp,
            Self::Ahead { .. }
            | Self::Apart
            | Self::Parted
            | Self::CannotMerge
            | Self::Returning { .. }
            | Self::NotReturned { .. } => End::InStep,
            Self::Merging { .. } => End::Merged,
            Self::Replaced { .. } => End::KnownService,
            Self::CreationRefused { .. } => End::Founded,
            Self::IllegalEntry { .. } | Self::NeedsUpgrade { .. } => End::Thawed,
            Self::Undecryptable
            | Self::ReAdded
            | Self::LostPlace { .. }
            | Self::LogBeginsLater
            | Self::Restored
            | Self::RejoinWanted
            | Self::CannotReturn { .. }
            | Self::AsksReAdd => End::Back,
            Self::MembershipUnknown { .. } => End::Known,
            Self::UnconfirmedDevice => End::Confirmed,
            Self::RevokedMember => End::Pruned,
            Self::Paced { .. } => End::LetIn,
            Self::RootsOverdue { .. } => End::Rekeyed,
            Self::NotCarriedOver => End::Carried,
            Self::SetAside { .. } => End::Whole,
            Self::Held { .. } => End::Passed,
            Self::EngineDiffers => End::Agrees,
            Self::BaseDisputed => End::Undisputed,
            Self::EditsRefused { .. }
            | Self::EditsParked { .. }
            | Self::EditsWait
            | Self::EditsTooCostly
            | Self::DraftsWait
            | Self::RescueFull
            | Self::Collecting => End::Sent,
            Self::DraftsBarred => End::Welcome,
            Self::CarriedWaits => End::Paid,
            Self::Rescued { .. } => End::Cleared,
            Self::Record { .. }
            | Self::TwoLists { .. }
            | Self::ApproveAgain
            | Self::ForeignList
            | Self::NotInvitedAgain
            | Self::RotationUntrue
            | Self::WrongWrap
            | Self::BadGroupInfo
            | Self::Contradicted
            | Self::LossDeclared { .. }
            | Self::Withheld
            | Self::ParallelGeneration
            | Self::PutBackOften
            | Self::BadGeneration
            | Self::BadHead
            | Self::BadWelcome
            | Self::BadWrap
            | Self::ForeignKeyPackage
            | Self::OldGroupInfo
            | Self::DocumentLost
            | Self::AsideNotCarriedOver
            | Self::FalseSnapshot { .. }
            | Self::FalseVerdict { .. }
            | Self::SnapshotsUnchecked { .. }
            | Self::SnapshotWithheld { .. }
            | Self::PassedOver { .. }
            | Self::NewerProgram
            | Self::OwnEditRewritten
            | Self::Dropped { .. } => return None,
        })
    }

    /// Whether it tells of a state, which is settled by itself when that ends. Otherwise it tells of something that happened: somebody has to
    /// dismiss it.
    #[must_use]
    pub fn is_state(&self) -> bool {
        self.end().is_some()
    }
}

impl Cx {
    /// Something has come about that ends states of a place: they are settled.
    pub(crate) fn ended(&mut self, about: About, end: End) {
        let is_over = |finding: &Finding| finding.about == about && finding.what.end() == Some(end);
        self.found.retain(|(_, finding)| !is_over(finding));
        self.settle(self.findings.in_state(about, end));
    }

    /// Whether a state of a place is told of already, that ends so.
    pub(crate) fn is_told(&self, about: About, end: End) -> bool {
        let is = |finding: &Finding| finding.about == about && finding.what.end() == Some(end);
        self.found.iter().any(|(_, finding)| is(finding))
            || !self.findings.in_state(about, end).is_empty()
    }

    /// A group, or one of its documents, is not here any more: whatever state it was in is over.
    pub(crate) fn place_gone(&mut self, group: GroupId, document: Option<DocumentId>) {
        let is_there = |about: &About| match document {
            Some(document) => *about == About::Document(group, document),
            None => about.group() == Some(group),
        };
        // What is kept apart outlives its place.
        let is_over = |about: &About, end: End| is_there(about) && end != End::Cleared;
        self.found.retain(|(_, finding)| {
            let end = finding.what.end();
            !end.is_some_and(|end| is_over(&finding.about, end))
        });
        self.settle(self.findings.in_states(is_over));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use conclave_proto::{RealmId, UnixMs};

    use super::*;
    use crate::command::Setup;
    use crate::engine::Engine;
    use crate::finding::words::tests::every;

    const GROUP: GroupId = GroupId([1; 16]);
    const PLACES: [About; 5] = [
        About::Device,
        About::Group(GROUP),
        About::Group(GroupId([2; 16])),
        About::Document(GROUP, DocumentId([1; 16])),
        About::Document(GROUP, DocumentId([2; 16])),
    ];

    fn finding(what: &FindingKind, about: About) -> Finding {
        Finding {
            what: what.clone(),
            about,
            suspect: None,
        }
    }

    /// A device that tells the same of every place.
    fn telling(what: &FindingKind) -> Engine {
        let setup = Setup::NewUser {
            name: "Ana".to_owned(),
            realm: RealmId([3; 16]),
        };
        let (mut engine, _) = Engine::init(setup, [4; 32], UnixMs(1)).unwrap();
        for about in PLACES {
            engine.cx.found(finding(what, about));
        }
        engine.keep_findings();
        engine
    }

    fn still_told(engine: &Engine, what: &FindingKind) -> Vec<About> {
        let told = |about: &About| engine.cx.open_finding(&finding(what, *about)).is_some();
        PLACES.into_iter().filter(told).collect()
    }

    #[test]
    fn every_state_is_settled_by_its_own_end_there_and_nothing_else_is() {
        let ends: BTreeSet<End> = every().iter().filter_map(FindingKind::end).collect();
        for what in every() {
            let own = what.end();
            assert_eq!(what.is_state(), own.is_some());
            for about in PLACES {
                let mut engine = telling(&what);
                for end in ends.iter().filter(|end| Some(**end) != own) {
                    engine.cx.ended(about, *end);
                }
                assert_eq!(still_told(&engine, &what), PLACES, "{what:?}");
                let Some(own) = own else { continue };
                engine.cx.ended(about, own);
                let left: Vec<About> = PLACES.into_iter().filter(|it| *it != about).collect();
                assert_eq!(still_told(&engine, &what), left, "{what:?}");
                // The same again is told again.
                engine.cx.found(finding(&what, about));
                engine.keep_findings();
                assert_eq!(still_told(&engine, &what), PLACES, "{what:?}");
            }
        }
    }

    #[test]
    fn a_place_takes_its_states_along() {
        for what in every() {
            let left = |gone: &dyn Fn(&About) -> bool| -> Vec<About> {
                let end = what.end();
                let stays =
                    |about: &About| end.is_none_or(|end| end == End::Cleared) || !gone(about);
                PLACES.into_iter().filter(stays).collect()
            };
            let mut engine = telling(&what);
            let document = DocumentId([2; 16]);
            engine.cx.place_gone(GROUP, Some(document));
            let gone = |about: &About| about.document() == Some(document);
            assert_eq!(still_told(&engine, &what), left(&gone), "{what:?}");
            engine.cx.place_gone(GROUP, None);
            let gone = |about: &About| about.group() == Some(GROUP);
            assert_eq!(still_told(&engine, &what), left(&gone), "{what:?}");
        }
    }

    #[test]
    fn what_ends_before_it_was_told_is_not_told() {
        for what in every().iter().filter(|what| what.is_state()) {
            let mut engine = telling(&FindingKind::BadWrap);
            engine.cx.found(finding(what, PLACES[1]));
            engine.cx.ended(PLACES[1], what.end().unwrap());
            engine.keep_findings();
            assert_eq!(still_told(&engine, what), [], "{what:?}");
        }
    }
}

//! What can be done with a group, or with a document of it: each piece of work is data, and here stands who does it.

mod document;

use conclave_crdt::CrdtKind;
use conclave_doc::Typed;
use conclave_proto::frame::{Answer, Plea, WelcomeDelivery};
use conclave_proto::group::GroupEntry;
use conclave_proto::service::SignedHead;
use conclave_proto::{DeviceId, DocumentId, GroupId, UnixMs, UserId};

pub(crate) use self::document::{DocCommand, DocFrame, DocWork};
use crate::command::Reply;
use crate::cx::{Cx, Post};
use crate::document::{Asked, Beginning};
use crate::error::EngineError;
use crate::event::Showing;
use crate::group::{Copied, Group, LOST, Whole};
use crate::intents::Want;
use crate::io::{CommandId, Row};
use crate::life::BECAME_NEW;
use crate::link::GroupPending;
use crate::pause::PauseChange;
use crate::presence::AttendeeId;
use crate::print::Hidden;
use crate::rescue::{PartingRow, RescueCause};
use crate::slot::Awaited;
use crate::timers::{DocTimer, GroupTimer};

/// Work on a group.
#[derive(Debug)]
pub(crate) enum GroupWork {
    /// Nothing but what follows all work: what can go on goes on.
    Look,
    /// Ordered entries of its log.
    Entries {
        first_seq: u64,
        entries: Vec<GroupEntry>,
    },
    /// What it asked of the service.
    Answer(GroupPending, Box<Answer>),
    Timer(GroupTimer),
    Command(CommandId, GroupCommand),
    /// A signed head of its log, or of a document's.
    Head(Option<DocumentId>, Box<SignedHead>),
    /// A member's device asks for help.
    Plea(DeviceId, Plea),
    /// A Welcome into a group that this device is in.
    Welcome(Box<WelcomeDelivery>),
    /// Work on one of its documents.
    Document(DocumentId, DocWork),
    /// A document that could not be opened is asked for again.
    OpenAgain(DocumentId),
    /// Rows of a document.
    Loaded(DocumentId, Vec<Row>),
    /// Kept evidence, to be judged again.
    Thaw(Vec<Row>),
    /// Rows of a document that is to begin anew, and what is kept of its log.
    Merge(DocumentId, Vec<Row>),
    /// Rows of a closed document with own edits, and of the directory.
    ClosedRead(DocumentId, Vec<Row>),
    /// Rows of what is kept of its log, of which a put-back service lacks something.
    GiveBack(Vec<Row>),
    /// Its log is compared with the service's anew, from this time on at the latest.
    CompareAgain(UnixMs),
    /// The put-back service goes on without what is here of its log, or a document's.
    WentOn(Option<DocumentId>),
    /// The log is here again as far as the service has it.
    BackInStep,
    /// This store is older than what its device has done.
    Restored,
    /// The membership has ended.
    Part,
    /// Another copy of this store is the member; this one becomes another device.
    LeaveToCopy,
    /// The own user's devices may have changed.
    MatchDevices,
    /// Other members' devices may have changed.
    MatchListed,
    /// Something is wanted for which nobody waits.
    Intend(Want),
    /// Documents look again whether they can go on.
    RetryDocuments,
    /// Documents look again what is to be sent.
    LookAtDocuments,
    /// The device was paused or resumed.
    PauseChanged {
        /// Whether it is about receiving too.
        receiving: bool,
    },
    /// Something is wanted of a document's presence, since before this engine was made.
    AttendAgain(DocumentId),
    /// Records were declared void.
    Voided,
    /// A record was at which work on this document was stuck.
    Freed(DocumentId),
    /// A document was closed.
    Closed {
        document: DocumentId,
        by: Option<DeviceId>,
    },
    /// Documents that were closed are still to go.
    GoOnClosing,
    /// Somebody says that all documents are re-keyed.
    RotationReported {
        epoch: u64,
        author: DeviceId,
    },
    /// It takes the place of another group, whose documents it still lacks.
    CarryFrom(GroupId),
    /// Its documents are carried over into the group that takes its place.
    CarryTo(GroupId),
    /// These documents are to be carried over into it.
    CarryCopies(Vec<DocumentId>),
    /// A document that was carried over into it.
    TakeCopy(Box<Copied>),
}

/// What the application wants of a group.
#[derive(Debug)]
pub(crate) enum GroupCommand {
    Members,
    Policy,
    Intend(Want),
    Remove {
        user: UserId,
        anyway: bool,
    },
    Leave {
        anyway: bool,
    },
    Create {
        document: DocumentId,
        kind: CrdtKind,
        title: Hidden<String>,
        beginning: Beginning,
    },
    Rename {
        document: DocumentId,
        title: Hidden<String>,
    },
    RenameGroup(Hidden<String>),
    KeepTyped {
        document: DocumentId,
        typed: Box<Typed>,
    },
    Confirm,
    Pause {
        document: DocumentId,
        change: PauseChange,
    },
    ShowPresence {
        document: DocumentId,
        whose: AttendeeId,
        showing: Option<Showing>,
    },
    WatchPresence {
        document: DocumentId,
        whose: AttendeeId,
        watch: bool,
    },
    Rejoin,
    ReAdd {
        user: UserId,
        device: DeviceId,
    },
    /// Once its directory was looked into.
    WithDirectory(DirectoryCommand),
    /// What can be told of the documents though the directory cannot be read.
    UntitledDocuments(Option<DocumentId>),
    Rekeying,
    /// Of which kind a document is.
    Kind(DocumentId),
}

/// What is done when the directory was looked into.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DirectoryCommand {
    /// Tells of the group, in a list of all.
    Info,
    /// All, or one alone.
    Documents(Option<DocumentId>),
    Restart,
}

impl Awaited for GroupWork {
    fn waiter(&self) -> Option<CommandId> {
        match self {
            Self::Command(id, _) => Some(*id),
            Self::Document(_, work) => work.waiter(),
            _ => None,
        }
    }
}

impl Cx {
    /// Refuses what could never be done while it is as it is, at once: also where the service is not reached.
    fn check_want(&self, group: &Group, want: &Want) -> Result<(), EngineError> {
        match want {
            Want::Invite { user, .. } => self.check_contact(group, user),
            _ => Ok(()),
        }
    }

    /// Works on a group in memory. It is settled afterwards, when nothing more is to be done with it.
    pub(crate) fn group_work(&mut self, whole: &mut Whole, work: GroupWork) {
        if whole.group.parting().is_some() && !matches!(work, GroupWork::Part) {
            return self.reply_all(work.waiter(), &LOST);
        }
        let group = &mut whole.group;
        match work {
            GroupWork::Look => {}
            GroupWork::Entries { first_seq, entries } => {
                self.group_entries(group, first_seq, entries);
            }
            GroupWork::Answer(what, answer) => self.group_answered(whole, what, *answer),
            GroupWork::Timer(what) => self.group_timer(whole, what),
            GroupWork::Head(document, signed) => self.head_frame(group, document, &signed),
            GroupWork::Command(id, what) => self.group_command(whole, id, what),
            GroupWork::Plea(device, what) => self.asked(group, device, what),
            GroupWork::Welcome(delivery) => {
                // A member gets a Welcome again, or one for the time after a removal that has not arrived yet.
                if delivery.epoch <= group.state().epoch && !group.is_broken() {
                    self.ack_welcome(delivery.id);
                } else {
                    self.post(Post::KeepWelcome(delivery));
                }
            }
            // It asks for what may not be here.
            GroupWork::Document(id, DocWork::Timer(DocTimer::Open)) => {
                self.open_in_turn(whole.group.id, id);
            }
            GroupWork::OpenAgain(id) => self.open_due(whole, id),
            GroupWork::Document(id, work) => self.document_work(whole, id, work),
            GroupWork::Loaded(id, rows) => self.document_loaded(whole, id, rows),
            GroupWork::Merge(id, rows) => self.merge_read(whole, id, &rows),
            GroupWork::Thaw(rows) => self.evidence_again(group, &rows),
            GroupWork::ClosedRead(id, rows) => self.closed_read(group, id, &rows),
            GroupWork::GiveBack(rows) => self.give_back_group_read(group, &rows),
            GroupWork::CompareAgain(at) => self.compare_again(group, at),
            GroupWork::WentOn(None) => self.log_went_on(group),
            GroupWork::WentOn(Some(id)) => self.document_went_on(group, id),
            GroupWork::BackInStep => {
                self.back_in_step(group);
                self.match_own_devices(group);
                self.match_listed(group);
                self.plan_look_ups(group);
            }
            GroupWork::Restored => self.found_restored(group),
            GroupWork::Part => self.begin_parting(whole),
            GroupWork::LeaveToCopy => {
                let parting = PartingRow {
                    cause: RescueCause::OtherCopy,
                    by: None,
                    why: BECAME_NEW.to_owned(),
                };
                self.lose_group(group, parting);
            }
            GroupWork::MatchDevices => self.match_own_devices(group),
            GroupWork::MatchListed => self.match_listed(group),
            GroupWork::Intend(want) => self.intend(group, want),
            GroupWork::RetryDocuments => self.each_document(whole, || DocWork::Retry),
            GroupWork::PauseChanged { receiving } => self.pauses_changed(whole, receiving),
            GroupWork::LookAtDocuments => self.each_document(whole, || DocWork::Look),
            GroupWork::AttendAgain(document) => self.attend_again(whole, document),
            GroupWork::Voided => self.each_document(whole, || DocWork::Voided),
            GroupWork::Freed(document) => self.freed(whole, document),
            GroupWork::Closed { document, by } => self.document_closed(whole, document, by),
            GroupWork::GoOnClosing => self.go_on_closing(whole),
            GroupWork::RotationReported { epoch, author } => {
                self.rotation_reported(whole, epoch, author);
            }
            GroupWork::CarryFrom(old) => self.carry_from(group, old),
            GroupWork::CarryTo(new) => self.carry_documents(whole, new),
            GroupWork::CarryCopies(copies) => self.carried(group, &copies),
            GroupWork::TakeCopy(copy) => self.take_copy(whole, *copy),
        }
    }

    fn group_timer(&mut self, whole: &mut Whole, what: GroupTimer) {
        let group = &mut whole.group;
        match what {
            GroupTimer::Lacking | GroupTimer::Pump => {}
            GroupTimer::Rekey => self.rekey_next(whole),
            GroupTimer::Cover => group.cover_due = true,
            GroupTimer::SelfUpdate => self.self_update_due(group),
            GroupTimer::PruneOwn => self.prune_own_due(group),
            GroupTimer::PruneListed => self.prune_listed_due(group),
            GroupTimer::Rotate => self.take_over_rotation(whole),
            GroupTimer::Complete => group.report_again(),
            GroupTimer::LetGo => group.look_at_former(),
            GroupTimer::Wrap => self.wrap_due(group),
            GroupTimer::CheckInfo => self.check_info(group),
            GroupTimer::Ages => self.ages_due(whole),
            GroupTimer::Roots => self.roots_due(whole),
            GroupTimer::GiveBack(have) => self.give_back_due(group, have),
        }
    }

    fn group_answered(&mut self, whole: &mut Whole, what: GroupPending, answer: Answer) {
        let group = &mut whole.group;
        match what {
            GroupPending::Create => self.creation_answered(group, answer),
            GroupPending::Follow => self.follow_answered(group, answer),
            GroupPending::Commit { leaf } => self.commit_answered(group, leaf, answer),
            GroupPending::ReturnInfo => self.offered(group, answer),
            GroupPending::Return { leaf } => self.return_answered(group, leaf, answer),
            GroupPending::CheckInfo { epoch } => self.info_answered(group, epoch, answer),
            GroupPending::MissingWraps { epoch, pleaded } => {
                self.missing_wraps_answered(whole, epoch, pleaded, answer);
            }
            GroupPending::OwnWrap { epoch } => self.own_wrap_answered(group, epoch, answer),
            GroupPending::Complete => self.completion_answered(group, &answer),
            GroupPending::Intent(id, what) => self.intent_answered(group, id, what, answer),
            GroupPending::Open { document, ask } => {
                self.open_answered(whole, document, ask, answer);
            }
            GroupPending::Head { document } => self.head_answered(whole, document, &answer),
            GroupPending::Last { document, ask } => {
                self.last_answered(whole, document, ask, answer);
            }
        }
    }

    fn group_command(&mut self, whole: &mut Whole, id: CommandId, what: GroupCommand) {
        let group = &mut whole.group;
        match what {
            GroupCommand::Members => {
                let members = self.members(group);
                self.reply(id, Ok(Reply::Members(members)));
            }
            GroupCommand::Policy => {
                let policy = Box::new(group.state().policy.clone());
                self.reply(id, Ok(Reply::Policy(policy)));
            }
            GroupCommand::Intend(want) => match self.check_want(group, &want) {
                Ok(()) => self.intend_waited(group, want, id),
                Err(error) => self.reply(id, Err(error)),
            },
            GroupCommand::Remove { user, anyway } => self.remove(id, group, user, anyway),
            GroupCommand::Leave { anyway } => self.leave(id, group, anyway),
            GroupCommand::Create {
                document,
                kind,
                title,
                beginning,
            } => {
                let asked = Asked {
                    command: id,
                    kind,
                    title,
                };
                self.create_titled(whole, document, beginning, asked);
            }
            GroupCommand::Rename { document, title } => {
                self.rename(whole, id, document, title.0);
            }
            GroupCommand::RenameGroup(name) => {
                let directory = DocumentId::directory(&whole.group.id);
                let work = DocWork::Command(id, DocCommand::Name(name.0));
                self.document_work(whole, directory, work);
            }
            GroupCommand::Confirm => {
                self.confirm_group(group);
                self.reply(id, Ok(Reply::Done));
            }
            GroupCommand::KeepTyped { document, typed } => {
                let origin = self.origin(group, document, RescueCause::NotSaved);
                self.keep_typed(id, origin, &typed);
            }
            GroupCommand::Pause { document, change } => {
                self.pause_document(whole, id, document, change);
            }
            GroupCommand::ShowPresence {
                document,
                whose,
                showing,
            } => self.show_presence(whole, document, id, whose, showing),
            GroupCommand::WatchPresence {
                document,
                whose,
                watch,
            } => self.watch_presence(whole, document, id, whose, watch),
            GroupCommand::Rejoin => self.rejoin(id, group),
            GroupCommand::ReAdd { user, device } => self.readd(id, group, user, device),
            GroupCommand::WithDirectory(what) => self.with_directory(whole, id, what),
            GroupCommand::UntitledDocuments(only) => {
                let documents = self.document_infos(group, only);
                self.reply(id, Ok(Reply::Documents(documents)));
            }
            GroupCommand::Rekeying => {
                let info = self.rekeying_info(whole);
                self.reply(id, Ok(Reply::Rekeying(Box::new(info))));
            }
            GroupCommand::Kind(document) => {
                let kind = group.lists(&document).then(|| group.kind_of(&document));
                self.reply(id, Ok(Reply::Kind(kind)));
            }
        }
    }

    /// Goes on when the directory was looked into.
    pub(crate) fn directory_command(
        &mut self,
        group: &mut Group,
        id: CommandId,
        what: DirectoryCommand,
    ) {
        match what {
            DirectoryCommand::Info => self.list_group(group, id),
            DirectoryCommand::Documents(only) => {
                self.listing.remove(&id);
                let documents = self.document_infos(group, only);
                self.reply(id, Ok(Reply::Documents(documents)));
            }
            DirectoryCommand::Restart => self.begin_restart(id, group),
        }
    }
}

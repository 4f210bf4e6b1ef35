//! What can be done with a document.

use std::fmt;

use conclave_doc::View;
use conclave_proto::frame::{Answer, DeliveredRecord, OpenedDocument};
use conclave_proto::{Author, DocumentId, GroupId, Refusal};

use super::DirectoryCommand;
use crate::command::Reply;
use crate::cx::Cx;
use crate::document::{Doc, Errand, Then};
use crate::error::EngineError;
use crate::group::Group;
use crate::io::{CommandId, DocFn, Row};
use crate::link::DocPending;
use crate::print::Hidden;
use crate::rescue::Applying;
use crate::slot::Awaited;
use crate::timers::DocTimer;

/// Work on a document.
#[derive(Debug)]
pub(crate) enum DocWork {
    /// Nothing but what follows all work: what can be sent is sent.
    Look,
    /// What came on a channel on which it was open.
    Frame {
        channel: u64,
        frame: DocFrame,
    },
    /// The service has opened it.
    Opened(Box<OpenedDocument>),
    /// The last record that is here, as the service has it.
    Compare {
        first_seq: u64,
        records: Vec<DeliveredRecord>,
    },
    /// The service does not know it.
    Unknown,
    Answer(DocPending, Box<Answer>),
    Timer(DocTimer),
    Command(CommandId, DocCommand),
    /// Something came that it may have waited for.
    Retry,
    /// Records were declared void.
    Voided,
    /// Nobody gives the root that it waits for.
    SetAside,
    /// Its content lies under an old root.
    SnapshotForAge,
    /// The row of a snapshot, for a look.
    SnapshotRead {
        seq: u64,
        rows: Vec<Row>,
    },
    /// The directory: it is looked into for the sake of a document that is to be looked at then.
    TitlesFor(DocumentId),
    /// The directory: a new document gets its title.
    FirstTitle(DocumentId),
    /// The directory: it names the group in whose place this one was founded.
    NameParent(GroupId),
    /// It is carried over into the group that takes its group's place.
    CarryOver {
        new: GroupId,
        title: Hidden<Option<String>>,
    },
}

/// What comes on a document's channel.
#[derive(Debug)]
pub(crate) enum DocFrame {
    NewAuthor(Author),
    Deliver {
        first_seq: u64,
        records: Vec<DeliveredRecord>,
    },
    Acked {
        next_clock: u64,
        first_seq: u64,
        count: u64,
    },
    Refused {
        first_clock: u64,
        refusal: Refusal,
    },
}

/// What the application wants of a document.
pub(crate) enum DocCommand {
    Edit(DocFn),
    View(DocFn),
    /// Who wrote what it shows.
    Blame(View),
    /// The last records of its log before a position.
    Log(Option<u64>, usize),
    /// What records did, from the first to the last.
    Changed(u64, u64),
    Synced,
    Void,
    /// One record, whatever it is.
    VoidRecord(u64),
    /// What is known of one record.
    Record(u64),
    ApplyRescue(Box<Applying>),
    /// The directory: a document gets a title.
    Title(DocumentId, String),
    /// The directory: the group gets another name.
    Name(String),
    /// The directory: it is looked into first.
    Directory(DirectoryCommand),
}

impl fmt::Debug for DocCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Edit(_) => "Edit",
            Self::View(_) => "View",
            Self::Blame(_) => "Blame",
            Self::Log(..) => "Log",
            Self::Changed(..) => "Changed",
            Self::Synced => "Synced",
            Self::Void => "Void",
            Self::VoidRecord(_) => "VoidRecord",
            Self::Record(_) => "Record",
            Self::ApplyRescue(_) => "ApplyRescue",
            Self::Title(..) => "Title",
            Self::Name(_) => "Name",
            Self::Directory(_) => "Directory",
        })
    }
}

impl Awaited for DocWork {
    fn waiter(&self) -> Option<CommandId> {
        match self {
            Self::Command(id, _) => Some(*id),
            _ => None,
        }
    }
}

impl DocWork {
    /// Whether it is about a channel on which the document was open.
    pub(crate) fn is_of_channel(&self) -> bool {
        matches!(self, Self::Frame { .. } | Self::Opened(_))
    }

    /// Whether it says nothing any more when the connection on which it came is gone.
    pub(crate) fn is_of_connection(&self) -> bool {
        let answer = matches!(
            self,
            Self::Answer(..) | Self::Compare { .. } | Self::Unknown
        );
        answer || self.is_of_channel()
    }

    /// Whether somebody waits for it who needs what the document holds. Who waits until all is sent needs nothing of it.
    pub(crate) fn needs_content(&self) -> bool {
        matches!(self, Self::Command(_, what) if !matches!(what, DocCommand::Synced))
    }
}

impl Cx {
    /// Works on a document in memory. It is settled afterwards.
    pub(crate) fn doc_work(&mut self, group: &mut Group, doc: &mut Doc, work: DocWork) {
        match work {
            DocWork::Look => {}
            DocWork::Frame { channel, frame } => {
                // It may have been closed while the document was away.
                if self.is_open_on(group.id, doc.id, channel) {
                    self.document_frame(group, doc, frame);
                }
            }
            DocWork::Opened(opened) => self.reopened(group, doc, opened),
            DocWork::Compare { first_seq, records } => {
                doc.take_records(first_seq, records, Then::Compared);
            }
            DocWork::Unknown => self.document_unknown(group, doc),
            DocWork::Answer(what, answer) => self.document_answered(group, doc, what, *answer),
            DocWork::Timer(what) => self.document_timer(group, doc, what),
            DocWork::Command(id, what) => self.document_command(group, doc, id, what),
            DocWork::Retry => doc.retry(),
            DocWork::Voided => doc.voided(group),
            DocWork::SetAside => doc.set_aside(),
            DocWork::SnapshotRead { seq, rows } => self.snapshot_read(doc, seq, &rows),
            DocWork::SnapshotForAge => self.snapshot_for_age(group, doc),
            DocWork::TitlesFor(other) => {
                group.directory.refresh(&mut doc.document);
                self.post_document(group.id, other, DocWork::Look);
            }
            DocWork::FirstTitle(document) => self.first_title(group, doc, document),
            DocWork::NameParent(parent) => self.name_parent(group, doc, parent),
            DocWork::CarryOver { new, title } => self.carry_over(group, doc, new, title.0),
        }
    }

    fn document_frame(&mut self, group: &mut Group, doc: &mut Doc, frame: DocFrame) {
        match frame {
            DocFrame::NewAuthor(author) => doc.document.new_author(author),
            DocFrame::Deliver { first_seq, records } => {
                self.deliver(group, doc, first_seq, records);
            }
            DocFrame::Acked {
                next_clock,
                first_seq,
                count,
            } => self.acked(group, doc, next_clock, first_seq, count),
            DocFrame::Refused {
                first_clock,
                refusal,
            } => self.append_refused(group, doc, first_clock, refusal),
        }
    }

    fn document_answered(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        what: DocPending,
        answer: Answer,
    ) {
        match what {
            DocPending::Records => self.records_answered(group, doc, answer),
            DocPending::Create => self.document_creation_answered(group, doc, answer),
            DocPending::Snapshot => self.snapshot_answered(group, doc, &answer),
        }
    }

    fn document_timer(&mut self, group: &mut Group, doc: &mut Doc, what: DocTimer) {
        match what {
            DocTimer::Verdict => self.verdict_due(group, doc),
            DocTimer::Snapshot => self.snapshot_paused(group, doc),
            DocTimer::SnapshotTurn => doc.take_turn(),
            DocTimer::Carry => self.carry_others(group, doc),
            DocTimer::Fetch => doc.retry(),
            // What follows all work asks the service, and confirms.
            DocTimer::Open | DocTimer::Confirm | DocTimer::Drafts => {}
        }
    }

    fn document_command(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        id: CommandId,
        what: DocCommand,
    ) {
        let result = match what {
            DocCommand::Edit(f) => match self.check_edit(group, &doc.id) {
                Ok(()) => return doc.errand = Some(Errand::Edit(id, f)),
                Err(error) => Err(error),
            },
            DocCommand::View(f) => return doc.errand = Some(Errand::View(id, f)),
            DocCommand::Blame(view) => match self.check_attribution(group) {
                Ok(()) => return doc.errand = Some(Errand::Blame(id, view)),
                Err(error) => Err(error),
            },
            DocCommand::Log(before, limit) => match self.check_attribution(group) {
                Ok(()) => return doc.errand = Some(Errand::Log(id, before, limit)),
                Err(error) => Err(error),
            },
            DocCommand::Changed(first, last) => {
                return doc.errand = Some(Errand::Changed(id, first, last));
            }
            DocCommand::Title(document, title) => self.edit_title(group, doc, document, &title),
            DocCommand::Name(name) => self.edit_name(group, doc, &name),
            DocCommand::Synced => return doc.notes.waiters.push(id),
            DocCommand::Void => return self.void_records(group, doc, id),
            DocCommand::VoidRecord(seq) => return self.void_record(group, doc, id, seq),
            DocCommand::Record(seq) => {
                let record = doc.document.record_at(seq);
                let record = record.map(|record| self.record_info(group, &record));
                let record = record.ok_or(EngineError::NoSuchRecord { seq });
                return self.reply(id, record.map(|it| Reply::Record(Box::new(it))));
            }
            DocCommand::ApplyRescue(what) => return self.apply_rescue(group, doc, id, *what),
            DocCommand::Directory(what) => {
                group.directory.refresh(&mut doc.document);
                return self.directory_command(group, id, what);
            }
        };
        self.reply(id, result.map(|()| Reply::Done));
    }
}

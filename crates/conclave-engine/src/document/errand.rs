//! Long work on a document, as data: what is done is the same whether it is done here at once or lent to the shell.

use std::collections::BTreeMap;
use std::fmt;

use conclave_crdt::cost::UNIT_NS;
use conclave_crdt::{CrdtKind, Differences};
use conclave_doc::{
    Blame, Checked, Cost, DeliverOutcome, DocContext, DocError, Document, KeptLog, KeySource,
    LogPage, PreparedSnapshot, RefusedOutcome, View, Watch,
};
use conclave_mls::EpochRoot;
use conclave_proto::frame::{DeliveredRecord, OpenedDocument};
use conclave_proto::service::SignedHead;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, InstanceId, Refusal};
use conclave_rules::GroupState;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tls_codec::Size;
use zeroize::Zeroizing;

use super::{Beginning, CommandId, DocFn, Row};
use crate::print::Hidden;

/// Content beyond which the application's closures count as long: in bytes, and by what an engine takes to build it.
const LONG_CONTENT_BYTES: usize = 4 * 1024 * 1024;
const LONG_CONTENT_US: u64 = 100_000;

/// Randomness for one errand.
pub(crate) type Seed = Zeroizing<[u8; 32]>;

/// Something to be done with a document at length.
pub(crate) enum Errand {
    /// Records are taken in.
    Deliver {
        first_seq: u64,
        records: Vec<DeliveredRecord>,
        then: Then,
    },
    /// What waits is tried again, after what a call began.
    GoOn(Box<DeliverOutcome>, Then),
    /// Records were declared void.
    Voided,
    /// The service has opened it.
    Opened(Box<OpenedDocument>, Seed),
    /// The service has opened it, and it begins anew from there.
    Merge {
        opened: Box<OpenedDocument>,
        kept: Box<KeptLog>,
        instance: InstanceId,
        seed: Seed,
    },
    /// Its snapshot has this place in the log.
    SnapshotPlaced(u64),
    /// Nobody gives the root that it waits for.
    SetAside,
    /// A snapshot of somebody else is compared with what is here.
    Check,
    /// A snapshot is made, up to its seal.
    Snapshot(Purpose),
    /// Own edits that cost too much are brought into another form.
    Lighten,
    /// Drafts are queued, as few updates as say the same.
    QueueDrafts,
    /// The application edits or reads it.
    Edit(CommandId, DocFn),
    View(CommandId, DocFn),
    /// Who wrote what it shows is looked up.
    Blame(CommandId, View),
    /// The last records before a position are listed.
    Log(CommandId, Option<u64>, usize),
    /// What records did, from the first to the last, is looked up.
    Changed(CommandId, u64, u64),
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Errand(..)")
    }
}

/// What follows when records were taken in.
#[derive(Debug)]
pub(crate) enum Then {
    Nothing,
    /// They were asked for when the log had this size.
    Fetched {
        before: u64,
    },
    /// Own ones were acknowledged.
    Acked,
    /// Own ones were refused.
    Refused(RefusedOutcome, Refusal),
    /// The service has opened it, from this base.
    Opened {
        channel: u64,
        base: Option<Base>,
    },
    /// It has begun anew from this base, where the service has signed this head.
    Merged {
        channel: u64,
        base: Option<Base>,
        signed: Box<SignedHead>,
    },
    /// So many records were set aside before.
    SetAside {
        before: usize,
    },
    /// They show whether the service's log is the own one.
    Compared,
}

/// Who sealed the snapshot from which a document is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base {
    pub(crate) epoch: u64,
    pub(crate) author: Author,
}

impl Base {
    pub(crate) fn of(opened: &OpenedDocument) -> Option<Self> {
        let header = opened.base.as_ref().map(|base| base.record.header)?;
        Some(Self {
            epoch: header.epoch,
            author: header.author,
        })
    }
}

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The document is to be made known to the service.
    Creation,
    /// One is due.
    Turn,
}

/// What came of an errand.
pub(crate) enum Finished {
    Delivered(Result<DeliverOutcome, DocError>, Then),
    Checked(Result<Option<Checked>, DocError>),
    Prepared(Result<PreparedSnapshot, DocError>, Purpose),
    Lightened(Result<DeliverOutcome, DocError>),
    Edited(CommandId, Result<(), DocError>),
    Viewed(CommandId, Result<(), DocError>),
    Blamed(CommandId, Result<Blame, DocError>),
    Logged(CommandId, Result<LogPage, DocError>),
    ToldChanges(CommandId, Result<Option<Differences>, DocError>),
}

impl Finished {
    /// Whether it belongs to what follows all work on a document.
    pub(crate) fn is_of_settling(&self) -> bool {
        matches!(
            self,
            Self::Checked(_) | Self::Prepared(..) | Self::Lightened(_)
        )
    }

    /// Whether records were opened and judged for it.
    pub(crate) fn is_judged(&self) -> bool {
        matches!(self, Self::Delivered(..) | Self::Checked(_))
    }

    /// Whether it speaks against the service.
    pub(crate) fn accuses_service(&self) -> bool {
        match self {
            Self::Delivered(Ok(outcome), _) => outcome.findings.iter().any(|it| it.suspect.service),
            _ => false,
        }
    }
}

fn size_of(records: &[DeliveredRecord]) -> Cost {
    Cost {
        records: records.len(),
        bytes: records.iter().map(Size::tls_serialized_len).sum(),
        engine_us: 0,
    }
}

/// Whether the application's closures count as long on such content.
fn is_long(content: Cost) -> bool {
    content.bytes > LONG_CONTENT_BYTES || content.engine_us > LONG_CONTENT_US
}

impl Errand {
    /// How much there is to do, at most.
    pub(crate) fn cost(&self, document: &Document) -> Cost {
        let waiting = document.cost_of_waiting();
        let content = document.cost_of_content();
        match self {
            Self::Deliver { records, .. } => waiting.and(size_of(records)),
            Self::GoOn(..) | Self::SnapshotPlaced(_) => waiting,
            Self::Voided | Self::SetAside => waiting.and(content),
            Self::Opened(opened, _) => waiting.and(base_cost(opened)),
            Self::Merge { opened, .. } => waiting.and(content).and(base_cost(opened)),
            Self::Check | Self::Snapshot(_) | Self::Lighten | Self::QueueDrafts => content,
            // Not only what is shown is read: all records since the checkpoint as well, and those before that once or twice.
            Self::Log(..) | Self::Changed(..) => content.and(content),
            Self::Edit(..) | Self::View(..) | Self::Blame(..) => match is_long(content) {
                true => content,
                false => Cost::default(),
            },
        }
    }

    /// Whether a CRDT engine is given something by it that was not written here just now.
    pub(crate) fn is_foreign(&self, document: &Document) -> bool {
        match self {
            Self::Deliver { records, .. } => !records.is_empty() || document.is_engine_due(),
            Self::GoOn(..) | Self::SnapshotPlaced(_) => document.is_engine_due(),
            Self::Voided
            | Self::SetAside
            | Self::Opened(..)
            | Self::Merge { .. }
            | Self::Check
            // It builds the document again, twice.
            | Self::Changed(..)
            | Self::Lighten => true,
            Self::Snapshot(_)
            | Self::QueueDrafts
            | Self::Edit(..)
            | Self::View(..)
            | Self::Blame(..)
            | Self::Log(..) => false,
        }
    }

    /// Does it.
    pub(crate) fn run(self, document: &mut Document, context: &DocContext<'_>) -> Finished {
        if let Some(watch) = context.watch {
            document.set_watch(watch.clone());
        }
        match self {
            Self::Deliver {
                first_seq,
                records,
                then,
            } => Finished::Delivered(document.deliver(context, first_seq, records), then),
            Self::GoOn(begun, then) => Finished::Delivered(document.go_on(context, *begun), then),
            Self::Voided => Finished::Delivered(document.voided(context), Then::Nothing),
            Self::Opened(opened, seed) => {
                let mut rng = ChaCha20Rng::from_seed(*seed);
                let then = Then::Opened {
                    channel: opened.channel.0,
                    base: Base::of(&opened),
                };
                Finished::Delivered(document.opened(context, &opened, &mut rng), then)
            }
            Self::Merge {
                opened,
                kept,
                instance,
                seed,
            } => {
                let mut rng = ChaCha20Rng::from_seed(*seed);
                let then = Then::Merged {
                    channel: opened.channel.0,
                    base: Base::of(&opened),
                    signed: Box::new(opened.signed),
                };
                let merged = document.merge(context, &opened, &kept, instance, &mut rng);
                Finished::Delivered(merged, then)
            }
            Self::SnapshotPlaced(seq) => {
                Finished::Delivered(document.snapshot_accepted(context, seq), Then::Nothing)
            }
            Self::SetAside => {
                let before = document.set_aside_records().len();
                Finished::Delivered(document.set_aside(context), Then::SetAside { before })
            }
            Self::Check => Finished::Checked(document.check_snapshot(context)),
            Self::Lighten => Finished::Lightened(document.lighten(context)),
            Self::QueueDrafts => Finished::Lightened(document.queue_drafts()),
            Self::Snapshot(purpose) => {
                Finished::Prepared(document.prepare_snapshot(context), purpose)
            }
            Self::Edit(id, f) => {
                let mut f = Some(f);
                let mut run = |crdt: &mut dyn conclave_crdt::Crdt| match f.take() {
                    Some(f) => f(crdt),
                    None => Err(conclave_crdt::CrdtError::Engine),
                };
                Finished::Edited(id, document.edit(&mut run).map(|_| ()))
            }
            Self::View(id, f) => Finished::Viewed(id, f(document.crdt()).map_err(DocError::from)),
            Self::Blame(id, view) => Finished::Blamed(id, document.blame(context, view)),
            Self::Log(id, before, limit) => {
                Finished::Logged(id, document.log(context, before, limit))
            }
            Self::Changed(id, first, last) => {
                Finished::ToldChanges(id, document.changed(first, last))
            }
        }
    }
}

fn base_cost(opened: &OpenedDocument) -> Cost {
    let base = opened.base.as_ref();
    Cost {
        records: 0,
        bytes: base.map_or(0, |base| base.record.tls_serialized_len()),
        engine_us: 0,
    }
}

/// A document is brought into memory.
pub(crate) enum Making {
    /// From its rows.
    Load { rows: Vec<Row>, seed: Seed },
    /// From the service's answer.
    Open {
        opened: Box<OpenedDocument>,
        group: GroupId,
        id: DocumentId,
        instance: InstanceId,
        seed: Seed,
    },
    /// From what it is to begin with.
    Begin {
        beginning: Beginning,
        group: GroupId,
        id: DocumentId,
        instance: InstanceId,
        seed: Seed,
        asked: Asked,
    },
}

/// Of a document that is to begin: the command that asked for it, and what is said of it.
pub(crate) struct Asked {
    pub(crate) command: CommandId,
    pub(crate) kind: CrdtKind,
    pub(crate) title: Hidden<String>,
}

/// What came of it.
pub(crate) enum Made {
    Loaded(Result<Box<Document>, DocError>),
    Begun(Result<(Box<Document>, PreparedSnapshot), DocError>, Asked),
    Opened {
        result: Result<(Box<Document>, Box<DeliverOutcome>), DocError>,
        channel: u64,
        base: Option<Base>,
    },
}

impl Making {
    pub(crate) fn cost(&self) -> Cost {
        match self {
            Self::Load { rows, .. } => Cost {
                records: 0,
                bytes: rows.iter().map(|(_, value)| value.len()).sum(),
                engine_us: 0,
            },
            Self::Open { opened, .. } => base_cost(opened),
            Self::Begin { beginning, .. } => Cost {
                records: 0,
                bytes: beginning.bytes(),
                engine_us: 0,
            },
        }
    }

    /// Whether a CRDT engine is given something, and how long that takes is not known from its length.
    pub(crate) fn is_foreign(&self) -> bool {
        match self {
            Self::Load { .. } | Self::Open { .. } => true,
            Self::Begin { beginning, .. } => !matches!(beginning, Beginning::Empty),
        }
    }

    pub(crate) fn run(self, context: &DocContext<'_>) -> Made {
        match self {
            Self::Load { rows, seed } => {
                let mut rng = ChaCha20Rng::from_seed(*seed);
                Made::Loaded(Document::load(context, rows, &mut rng).map(Box::new))
            }
            Self::Open {
                opened,
                group,
                id,
                instance,
                seed,
            } => {
                let mut rng = ChaCha20Rng::from_seed(*seed);
                let made = Document::open_remote(context, &opened, group, id, instance, &mut rng);
                Made::Opened {
                    result: made.map(|(document, outcome)| (Box::new(document), Box::new(outcome))),
                    channel: opened.channel.0,
                    base: Base::of(&opened),
                }
            }
            Self::Begin {
                beginning,
                group,
                id,
                instance,
                seed,
                asked,
            } => {
                let mut rng = ChaCha20Rng::from_seed(*seed);
                let kind = asked.kind;
                let made = beginning
                    .with(|it| Document::begin(context, group, id, kind, instance, it, &mut rng));
                let made = made.map(|(document, first)| (Box::new(document), first));
                Made::Begun(made, asked)
            }
        }
    }
}

/// Copies of roots. They are wiped with it.
struct HeldRoots(BTreeMap<u64, EpochRoot>);

impl KeySource for HeldRoots {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        self.0.get(&epoch).cloned()
    }
}

/// What a job knows of the document's group and device: as they stood when it was lent. Copies of the group's state share its parts. No key that
/// signs is among it.
pub(crate) struct Held {
    authority: GroupState,
    roots: HeldRoots,
    device: DeviceId,
}

impl Held {
    pub(crate) fn new(
        authority: GroupState,
        roots: BTreeMap<u64, EpochRoot>,
        device: DeviceId,
    ) -> Self {
        Self {
            authority,
            roots: HeldRoots(roots),
            device,
        }
    }

    fn context(&self) -> DocContext<'_> {
        DocContext {
            authority: &self.authority,
            keys: &self.roots,
            device: self.device,
            watch: None,
        }
    }
}

pub(crate) enum What {
    Make(Making),
    Do(Box<Document>, Errand),
}

/// Long work on one document, with all that it needs. Pure: it may run anywhere, on any thread, and what it gives goes back to the engine.
pub struct Job {
    pub(crate) held: Held,
    pub(crate) what: What,
    pub(crate) cost: Cost,
    /// How often work on the document did not come back in this session.
    pub(crate) tries: u8,
    /// Says where it is.
    pub(crate) watch: Watch,
}

/// Least time that work is given, in milliseconds: the first time, and when the document was held before.
const LEAST_MS: [u64; 3] = [2_000, 20_000, 200_000];
/// So often work on a document may not come back before this session does without it.
pub(crate) const TRIES: u8 = LEAST_MS.len() as u8;
/// What a record costs at most beside what its author has saved up, in units: a cut in the longest block.
const RECORD_UNITS: u64 = 6_554;
/// And each byte of content: items earn 64 units, and none is shorter than eight bytes with its seal.
const BYTE_UNITS: u64 = 8;

/// What was counted of it is told beside its length. What is not known before it is opened, as of a snapshot, is given the longer times at the second and the
/// third try, of which the last is longer than anything within the bounds takes.
fn deadline_ms(cost: Cost, tries: u8) -> u64 {
    let (records, bytes) = (cost.records as u64, cost.bytes as u64);
    let units = records
        .saturating_mul(RECORD_UNITS)
        .saturating_add(bytes.saturating_mul(BYTE_UNITS));
    let by_length_us = units.saturating_mul(UNIT_NS) / 1_000;
    let estimate_ms = by_length_us.saturating_add(cost.engine_us) / 1_000;
    let least = LEAST_MS.get(usize::from(tries)).or(LEAST_MS.last());
    let least = least.copied().unwrap_or_default();
    estimate_ms.saturating_mul(2).max(least)
}

impl Job {
    /// Does it.
    #[must_use]
    pub fn run(self) -> Done {
        let mut context = self.held.context();
        context.watch = Some(&self.watch);
        Done(match self.what {
            What::Make(making) => Ended::Made(Box::new(making.run(&context))),
            What::Do(mut document, errand) => {
                let finished = errand.run(&mut document, &context);
                Ended::Done(document, Box::new(finished))
            }
        })
    }

    /// Says where it is while it runs. Whoever has given it away asks the engine what was known when it did not come back in time.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// How much there is to do, as far as it can be told without doing it.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// How long it is waited for, in milliseconds: twice what it is estimated to take, and the longer the more often the document was held. Code of the
    /// application takes the time that it takes. A deadline says nothing about the content.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        (!self.is_closure()).then(|| deadline_ms(self.cost, self.tries))
    }

    /// Whether somebody waits for what it reads, or it runs code of the application, which takes the time that it takes.
    #[must_use]
    pub fn is_closure(&self) -> bool {
        let is_import = matches!(
            &self.what,
            What::Make(Making::Begin {
                beginning: Beginning::State(_),
                ..
            })
        );
        self.what.answers().is_some() && !is_import
    }
}

impl What {
    /// The command that it answers, if it answers one.
    pub(crate) fn answers(&self) -> Option<CommandId> {
        match self {
            Self::Make(Making::Begin { asked, .. }) => Some(asked.command),
            Self::Do(
                _,
                Errand::Edit(id, _)
                | Errand::View(id, _)
                | Errand::Blame(id, _)
                | Errand::Log(id, ..)
                | Errand::Changed(id, ..),
            ) => Some(*id),
            _ => None,
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({:?})", self.cost)
    }
}

pub(crate) enum Ended {
    Made(Box<Made>),
    Done(Box<Document>, Box<Finished>),
}

/// What came of a [`Job`]: for [`Input::Worked`](crate::Input::Worked).
pub struct Done(pub(crate) Ended);

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A document of many operations may be short: runs are encoded as one.
    #[test]
    fn time_goes_by_what_was_counted() {
        let cost = |records, bytes, engine_us| Cost {
            records,
            bytes,
            engine_us,
        };
        assert_eq!(deadline_ms(cost(1, 100, 0), 0), 2_000);
        assert_eq!(deadline_ms(cost(1, 100, 0), 1), 20_000);
        assert_eq!(deadline_ms(cost(1, 100, 5_000_000), 0), 10_002);
        assert!(deadline_ms(cost(0, 50 << 20, 0), 0) > 100_000);
        assert!(!is_long(cost(0, 100, LONG_CONTENT_US)));
        assert!(is_long(cost(0, 100, LONG_CONTENT_US + 1)));
        assert!(is_long(cost(0, LONG_CONTENT_BYTES + 1, 0)));
    }
}

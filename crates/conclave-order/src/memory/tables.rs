//! What lies in memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use conclave_proto::group::RootWrap;
use conclave_proto::{Author, DeviceId, GroupId, Hash, UnixMs, UserId};
use conclave_rules::LogId;

use crate::rows::{
    AccountRow, ActiveRow, AuthorRow, DeviceRow, DocumentRow, EntryRow, GroupRow, InvitationRow,
    JoinRow, ListRow, PackageRow, PleaRow, RecordRow, ReplacedRow, WelcomeRow,
};

/// Rows that change: small enough to be copied for each transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    pub(super) accounts: BTreeMap<UserId, AccountRow>,
    pub(super) devices: BTreeMap<DeviceId, DeviceRow>,
    pub(super) lists: BTreeMap<UserId, ListRow>,
    pub(super) invitations: BTreeMap<Hash, InvitationRow>,
    pub(super) packages: BTreeMap<Hash, PackageRow>,
    pub(super) groups: BTreeMap<GroupId, Group>,
    pub(super) members: BTreeMap<(GroupId, DeviceId), UserId>,
    pub(super) wraps: BTreeMap<(GroupId, u64), BTreeMap<DeviceId, RootWrap>>,
    pub(super) joins: BTreeMap<(GroupId, u64), JoinRow>,
    pub(super) welcomes: BTreeMap<u64, WelcomeRow>,
    pub(super) last_welcome: u64,
    pub(super) pleas: BTreeMap<(GroupId, DeviceId, u8), PleaRow>,
    pub(super) documents: BTreeMap<LogId, Document>,
    pub(super) authors: BTreeMap<(LogId, Author), AuthorRow>,
    pub(super) replaced: BTreeSet<ReplacedRow>,
    pub(super) probe: UnixMs,
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) row: GroupRow,
    pub(super) checkpoint: Bytes,
    pub(super) wrap: Option<RootWrap>,
}

#[derive(Debug, Clone)]
pub(super) struct Document {
    /// The order in which documents were made.
    pub(super) no: usize,
    pub(super) row: DocumentRow,
    pub(super) active: ActiveRow,
}

/// What only grows.
#[derive(Debug, Default)]
pub(super) struct Logs {
    pub(super) entries: BTreeMap<GroupId, Vec<EntryRow>>,
    pub(super) records: BTreeMap<LogId, Vec<RecordRow>>,
    undo: Vec<Undo>,
}

/// What the open transaction did.
#[derive(Debug)]
enum Undo {
    Entry(GroupId),
    Records(LogId, usize),
    LetGo(LogId, u64, Option<Bytes>),
}

impl Logs {
    pub(super) fn push_entry(&mut self, group: GroupId, entry: EntryRow) {
        self.entries.entry(group).or_default().push(entry);
        self.undo.push(Undo::Entry(group));
    }

    pub(super) fn push_records(&mut self, log: LogId, records: Vec<RecordRow>) {
        let of = self.records.entry(log).or_default();
        self.undo.push(Undo::Records(log, of.len()));
        of.extend(records);
    }

    pub(super) fn let_go(&mut self, log: LogId, seq: u64) {
        if let Some(record) = record_mut(&mut self.records, &log, seq) {
            let sealed = record.sealed.take();
            self.undo.push(Undo::LetGo(log, seq, sealed));
        }
    }

    pub(super) fn record(&self, log: &LogId, seq: u64) -> Option<&RecordRow> {
        self.records.get(log)?.get(usize::try_from(seq).ok()?)
    }

    pub(super) fn copy(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            records: self.records.clone(),
            undo: Vec::new(),
        }
    }

    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    pub(super) fn undo(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Entry(group) => {
                    self.entries.entry(group).or_default().pop();
                }
                Undo::Records(log, len) => self.records.entry(log).or_default().truncate(len),
                Undo::LetGo(log, seq, sealed) => {
                    if let Some(record) = record_mut(&mut self.records, &log, seq) {
                        record.sealed = sealed;
                    }
                }
            }
        }
    }
}

fn record_mut<'a>(
    records: &'a mut BTreeMap<LogId, Vec<RecordRow>>,
    log: &LogId,
    seq: u64,
) -> Option<&'a mut RecordRow> {
    records.get_mut(log)?.get_mut(usize::try_from(seq).ok()?)
}

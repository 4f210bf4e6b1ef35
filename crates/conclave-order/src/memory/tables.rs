//! What lies in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use conclave_proto::group::RootWrap;
use conclave_proto::merkle::NodeId;
use conclave_proto::service::{Generation, Loss};
use conclave_proto::{Author, DeviceId, GroupId, Hash, UnixMs, UserId};
use conclave_rules::LogId;

use crate::memory::table::Table;
use crate::rows::{
    AccountRow, ActiveRow, AuthorRow, BaseRow, DeviceRow, DocumentRow, EntryRow, GroupRow,
    InvitationRow, JoinRow, ListRow, PackageRow, PaidRow, PartChange, PleaRow, RecordRow,
    RecoveryRow, ReplacedRow, WelcomeRow,
};

/// The tables of rows that change, and what is done to all of them alike.
macro_rules! tables {
    ($($field:ident: $key:ty => $row:ty,)*) => {
        #[derive(Debug, Default)]
        pub(super) struct Tables {
            $(pub(super) $field: Table<$key, $row>,)*
            pub(super) numbers: Numbers,
        }

        impl Tables {
            pub(super) fn keep(&mut self) {
                $(self.$field.keep();)*
            }

            pub(super) fn undo(&mut self) {
                $(self.$field.undo();)*
            }

            pub(super) fn copy(&self) -> Self {
                Self {
                    $($field: self.$field.copy(),)*
                    numbers: self.numbers,
                }
            }
        }
    };
}

tables! {
    accounts: UserId => AccountRow,
    devices: DeviceId => DeviceRow,
    lists: UserId => ListRow,
    invitations: Hash => InvitationRow,
    packages: Hash => PackageRow,
    groups: GroupId => Group,
    bases: GroupId => BaseRow,
    parts: (GroupId, Bytes) => Bytes,
    members: (GroupId, DeviceId) => UserId,
    wraps: (GroupId, u64) => BTreeMap<DeviceId, RootWrap>,
    joins: (GroupId, u64) => JoinRow,
    welcomes: u64 => WelcomeRow,
    pleas: (GroupId, DeviceId, u8) => PleaRow,
    documents: LogId => Document,
    authors: (LogId, Author) => AuthorRow,
    nodes: (LogId, NodeId) => Hash,
    replaced: ReplacedRow => (),
    recovery: LogId => RecoveryRow,
    losses: (LogId, u64) => Loss,
    dropped: GroupId => u64,
    usage: (LogId, UserId) => u64,
    usage_of_users: UserId => u64,
    usage_of_groups: GroupId => u64,
    paids: (LogId, u64) => PaidRow,
    erasing: LogId => u64,
}

/// What is there once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Numbers {
    pub(super) last_welcome: u64,
    pub(super) probe: UnixMs,
    pub(super) generation: Option<Generation>,
    pub(super) hold: Option<UnixMs>,
    pub(super) head_time: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) row: GroupRow,
    pub(super) wrap: Option<RootWrap>,
}

impl Tables {
    /// What is stored of a group counts for nobody any more.
    pub(super) fn free_group(&mut self, group: &GroupId) {
        let shares = self.usage.range((LogId::of_group(*group), UserId::ZERO)..);
        let shares = shares.take_while(|((log, _), _)| log.group == *group);
        let shares: Vec<(UserId, u64)> = shares.map(|((_, user), bytes)| (*user, *bytes)).collect();
        for (user, bytes) in shares {
            if let Some(stored) = self.usage_of_users.get_mut(&user) {
                *stored = stored.saturating_sub(bytes);
            }
        }
        self.usage.remove_where(|(log, _), _| log.group == *group);
        self.usage_of_groups.remove(group);
        self.paids.remove_where(|(log, _), _| log.group == *group);
        self.erasing.remove_where(|log, _| log.group == *group);
    }

    pub(super) fn put_parts(&mut self, group: GroupId, parts: Vec<PartChange>) {
        for PartChange { part, value } in parts {
            match value {
                Some(value) => _ = self.parts.insert((group, part), value),
                None => self.parts.remove(&(group, part)),
            }
        }
    }

    pub(super) fn parts_of(&self, group: &GroupId) -> BTreeMap<Bytes, Bytes> {
        let from = self.parts.range((*group, Bytes::new())..);
        let found = from.take_while(|((of, _), _)| of == group);
        found
            .map(|((_, part), value)| (part.clone(), value.clone()))
            .collect()
    }
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
    Dropped(Vec<(GroupId, Vec<EntryRow>)>, Vec<(LogId, Vec<RecordRow>)>),
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

    pub(super) fn drop_group(&mut self, group: &GroupId) {
        let entries = self.entries.remove_entry(group).into_iter().collect();
        let records = self.records.extract_if(.., |log, _| log.group == *group);
        let records = records.collect();
        self.undo.push(Undo::Dropped(entries, records));
    }

    pub(super) fn record(&self, log: &LogId, seq: u64) -> Option<&RecordRow> {
        let records = self.records.get(log)?;
        records.get(place(records, seq)?)
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
                Undo::Dropped(entries, records) => {
                    self.entries.extend(entries);
                    self.records.extend(records);
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
    let records = records.get_mut(log)?;
    let at = place(records, seq)?;
    records.get_mut(at)
}

/// Where a position lies among the records that are here: of some logs what was first is not.
pub(super) fn place(records: &[RecordRow], seq: u64) -> Option<usize> {
    let first = records.first()?.seq;
    usize::try_from(seq.checked_sub(first)?).ok()
}

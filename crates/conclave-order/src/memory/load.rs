//! Reading rows by their keys.

use std::collections::{BTreeMap, BTreeSet};

use conclave_proto::merkle::NodeId;
use conclave_proto::service::Loss;
use conclave_proto::{Author, DeviceId, GroupId, Hash, UnixMs, UserId, limits};
use conclave_rules::LogId;

use crate::keys::{Keys, Rows};
use crate::memory::Stored;
use crate::memory::tables::place;
use crate::op::based::{based as mark_of, within};
use crate::query::group::lists;
use crate::rows::{
    DeviceRow, ErasingRow, LeftPackage, Mark, PartsRow, PleaRow, Position, RecordKind, RecoveryRow,
    ServiceRow, StockRow, WelcomeRow, lister,
};

impl Stored {
    pub(super) fn load(&self, keys: &Keys) -> Rows {
        let mut rows = Rows::default();
        macro_rules! each {
            ($($field:ident: $find:expr;)*) => {
                $(
                    let find = $find;
                    for key in &keys.$field {
                        rows.$field.insert(key.clone(), find(key));
                    }
                )*
            };
        }
        let tables = &self.tables;
        each! {
            accounts: |key: &UserId| tables.accounts.get(key).copied();
            devices: |key: &DeviceId| self.device(key);
            siblings: |key: &UserId| Some(self.siblings(key));
            acquainted: |key: &UserId| Some(self.acquainted(key));
            lists: |key: &UserId| tables.lists.get(key).cloned();
            invitations: |key: &Hash| tables.invitations.get(key).cloned();
            stocks: |key: &DeviceId| Some(self.stock(key));
            packages: |key: &Hash| tables.packages.get(key).cloned();
            groups: |key: &GroupId| tables.groups.get(key).map(|group| group.row);
            bases: |key: &GroupId| tables.bases.get(key).cloned();
            parts: |key: &GroupId| tables.groups.get(key).map(|group| PartsRow {
                parts: tables.parts_of(key),
                version: group.row.version,
                wrap: group.wrap.clone(),
            });
            commit_wraps: |key: &GroupId| tables.groups.get(key).and_then(|group| group.wrap.clone());
            entries: |key: &(GroupId, Hash)| self.entry(&key.0, |entry| entry.leaf == key.1);
            listers: |key: &LogId| self.lister(key);
            commits: |key: &(GroupId, u64)| self.entry(&key.0, |entry| entry.epoch == Some(key.1));
            wraps: |key: &(GroupId, u64)| Some(tables.wraps.get(key).cloned().unwrap_or_default());
            joins: |key: &(GroupId, u64)| tables.joins.get(key).cloned();
            welcomes: |key: &u64| tables.welcomes.get(key).copied();
            waiting: |key: &DeviceId| Some(self.waiting(key));
            memberships: |key: &DeviceId| Some(self.memberships(key));
            group_pleas: |key: &GroupId| Some(self.pleas(|row| row.group == *key));
            device_pleas: |key: &DeviceId| Some(self.pleas(|row| row.device == *key));
            due: |key: &GroupId| self.due(key);
            documents: |key: &LogId| tables.documents.get(key).map(|it| it.row.clone());
            actives: |key: &LogId| tables.documents.get(key).map(|it| it.active.clone());
            authors: |key: &(LogId, _)| tables.authors.get(key).copied();
            clocks: |key: &(LogId, u64, u64)| self.clock(key);
            marks: |key: &(LogId, u64)| self.mark(key);
            snapshots: |key: &(LogId, Hash)| self.snapshot(key);
            headers: |key: &(LogId, Vec<u8>)| self.header(key);
            nodes: |key: &(LogId, NodeId)| self.node(key);
            services: |(): &()| self.service();
            recoveries: |key: &LogId| tables.recovery.get(key).copied();
            ended: |key: &(UnixMs, u32)| Some(self.ended(*key));
            losses: |key: &LogId| Some(self.losses(key));
            dropped: |key: &GroupId| tables.dropped.get(key).copied();
            usage_of_users: |key: &UserId| tables.usage_of_users.get(key).copied();
            usage_of_groups: |key: &GroupId| tables.usage_of_groups.get(key).copied();
            shares: |key: &LogId| Some(self.shares(key));
            paids: |key: &(LogId, u64)| tables.paids.get(key).copied();
            erasing: |(): &()| self.erasing();
            group_roots: |key: &(GroupId, u64)| self.group_root(key);
            overdue: |key: &(_, u32)| Some(
                tables
                    .replaced
                    .keys()
                    .filter(|row| row.since <= key.0)
                    .take(key.1 as usize)
                    .copied()
                    .collect(),
            );
        }
        rows
    }

    fn shares(&self, log: &LogId) -> BTreeMap<UserId, u64> {
        let from = self.tables.usage.range((*log, UserId::ZERO)..);
        let own = from.take_while(|((of, _), _)| of == log);
        own.map(|((_, user), bytes)| (*user, *bytes)).collect()
    }

    fn erasing(&self) -> Option<ErasingRow> {
        let (log, from) = self.tables.erasing.range(..).next()?;
        let document = self.tables.documents.get(log)?;
        Some(ErasingRow {
            log: *log,
            from: *from,
            size: document.row.frontier.size(),
        })
    }

    fn service(&self) -> Option<ServiceRow> {
        let numbers = &self.tables.numbers;
        let recovers = self.tables.recovery.values().next().is_some();
        numbers.generation.map(|generation| ServiceRow {
            generation,
            hold: numbers.hold,
            recovers,
        })
    }

    fn ended(&self, (at, most): (UnixMs, u32)) -> Vec<RecoveryRow> {
        let rows = self.tables.recovery.values();
        let mut ended: Vec<_> = rows.filter(|row| row.ends <= at).copied().collect();
        ended.sort_by_key(|row| (row.ends, row.log));
        ended.truncate(most as usize);
        ended
    }

    fn losses(&self, log: &LogId) -> Vec<Loss> {
        let losses = self.tables.losses.range((*log, 0)..);
        let of_log = losses.take_while(|((of, _), _)| of == log);
        let all: Vec<_> = of_log.map(|(_, loss)| *loss).collect();
        let from = all.len().saturating_sub(limits::LOSSES_PER_LOG);
        all.into_iter().skip(from).collect()
    }

    fn group_root(&self, (group, size): &(GroupId, u64)) -> Option<Hash> {
        let seq = size.checked_sub(1)?;
        let base = self.tables.bases.get(group);
        if let Some(root) = base.and_then(|base| base.root_at(*size)) {
            return Some(root);
        }
        let at = usize::try_from(seq.checked_sub(self.first_entry(group))?).ok()?;
        let entry = self.logs.entries.get(group)?.get(at)?;
        Some(entry.root)
    }

    fn lister(&self, log: &LogId) -> Option<Author> {
        let base = self.tables.bases.get(&log.group);
        let mut before = base.into_iter().flat_map(|base| &base.entries);
        let entries = self.logs.entries.get(&log.group).into_iter().flatten();
        // What it holds it has encoded itself.
        let mut since = entries.filter_map(|row| lists(row, log).ok().flatten());
        let listed = before.find_map(|record| lister(record, log));
        listed.or_else(|| since.next())
    }

    /// Position of the first entry of a group's log that is here.
    pub(super) fn first_entry(&self, group: &GroupId) -> u64 {
        let base = self.tables.bases.get(group);
        base.map_or(0, |base| base.frontier.size())
    }

    fn device(&self, device: &DeviceId) -> Option<DeviceRow> {
        let row = self.tables.devices.get(device)?;
        let account = self.tables.accounts.get(&row.user);
        Some(DeviceRow {
            disabled: account.is_none_or(|account| account.disabled),
            ..row.clone()
        })
    }

    fn siblings(&self, user: &UserId) -> BTreeSet<DeviceId> {
        let devices = self.tables.devices.iter();
        let own = devices.filter(|(_, row)| row.user == *user);
        own.map(|(device, _)| *device).collect()
    }

    fn acquainted(&self, user: &UserId) -> BTreeSet<DeviceId> {
        let members = &self.tables.members;
        let own = members.iter().filter(|(_, of)| *of == user);
        let groups: BTreeSet<GroupId> = own.map(|((group, _), _)| *group).collect();
        let others = members.keys().filter(|(group, _)| groups.contains(group));
        let mut all = self.siblings(user);
        all.extend(others.map(|(_, device)| *device));
        all
    }

    fn stock(&self, device: &DeviceId) -> StockRow {
        let mut stock = StockRow::default();
        for (hash, row) in self.tables.packages.iter() {
            if row.device != *device {
                continue;
            }
            stock.known = true;
            if row.bytes.is_some() {
                stock.left.push(LeftPackage {
                    last_resort: row.last_resort,
                    created: row.created,
                    hash: *hash,
                });
            }
        }
        stock.left.sort();
        stock
    }

    fn entry(
        &self,
        group: &GroupId,
        is: impl Fn(&crate::rows::EntryRow) -> bool,
    ) -> Option<Position> {
        let entries = self.logs.entries.get(group)?;
        let at = entries.iter().position(is)?;
        let root = entries.get(at)?.root;
        let seq = self.first_entry(group).saturating_add(at as u64);
        Some(Position::of(seq, root))
    }

    fn waiting(&self, device: &DeviceId) -> Vec<WelcomeRow> {
        let welcomes = self.tables.welcomes.values();
        welcomes
            .filter(|row| row.device == *device)
            .copied()
            .collect()
    }

    fn memberships(&self, device: &DeviceId) -> Vec<GroupId> {
        let waiting = self.waiting(device);
        let members = self.tables.members.keys();
        let own = members.filter(|(_, of)| of == device);
        let answered =
            own.filter(|(group, _)| waiting.iter().all(|welcome| welcome.group != *group));
        answered.map(|(group, _)| *group).collect()
    }

    pub(super) fn pleas(&self, wanted: impl Fn(&PleaRow) -> bool) -> Vec<PleaRow> {
        let pleas = self.tables.pleas.values();
        let mut found: Vec<PleaRow> = pleas.filter(|row| wanted(row)).copied().collect();
        found.sort_by_key(|row| (row.at, row.group, row.device, row.what as u8));
        found
    }

    fn due(&self, group: &GroupId) -> Option<u64> {
        let documents = self.tables.documents.iter();
        let open = documents.filter(|(log, it)| log.group == *group && it.row.closed.is_none());
        let due = open.map(|(_, it)| it.active.due_epoch);
        due.filter(|epoch| *epoch > 0).min()
    }

    fn clock(&self, (log, author, clock): &(LogId, u64, u64)) -> Option<(u64, Hash)> {
        let records = self.logs.records.get(log)?;
        let chained = Some((*author, *clock));
        let found = records.iter().find(|record| record.chained == chained)?;
        Some((found.seq, found.leaf))
    }

    pub(super) fn mark(&self, (log, size): &(LogId, u64)) -> Option<Mark> {
        let Some(record) = self.logs.record(log, size.checked_sub(1)?) else {
            let base = &self.tables.documents.get(log)?.row.base;
            return (base.size() == *size).then(|| mark_of(&base.head()));
        };
        Some(Mark {
            root: record.root,
            weight: record.weight,
            epoch: record.epoch,
        })
    }

    fn snapshot(&self, (log, id): &(LogId, Hash)) -> Option<Position> {
        let mut records = self.logs.records.get(log)?.iter();
        let found =
            records.find(|record| record.kind == RecordKind::Snapshot && record.leaf == *id)?;
        Some(Position::of(found.seq, found.root))
    }

    fn header(&self, (log, header): &(LogId, Vec<u8>)) -> Option<u64> {
        let mut records = self.logs.records.get(log)?.iter();
        let found = records.find(|record| record.header.as_deref() == Some(header.as_slice()))?;
        Some(found.seq)
    }

    fn node(&self, (log, node): &(LogId, NodeId)) -> Option<Hash> {
        let base = &self.tables.documents.get(log)?.row.base;
        let records = self.logs.records.get(log)?;
        let width = 1u64.checked_shl(node.level)?;
        let from = node.index.checked_mul(width)?;
        let end = from.checked_add(width)?;
        if end <= base.size() {
            return self.tables.nodes.get(&(*log, *node)).copied();
        }
        let mut under = within(base, from)?;
        let at = |seq| place(records, seq);
        for record in records.get(at(from.max(base.size()))?..at(end)?)? {
            under.push(record.leaf);
        }
        Some(under.root())
    }
}

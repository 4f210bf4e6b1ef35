//! Writing changes.

use std::ops::RangeInclusive;

use conclave_proto::merkle::NodeId;
use conclave_proto::record::CloseReason;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, InstanceId};
use conclave_rules::LogId;

use crate::change::Change;
use crate::memory::Stored;
use crate::memory::table::Table;
use crate::memory::tables::{Document, Group};
use crate::rows::{
    AccountRow, AuthorRow, DeviceRow, GroupRow, ListRow, LoginRow, PackageRow, WelcomeRow,
};
use crate::store::Failure;
use crate::usage::{counted, erases};

fn expect(holds: bool) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::Conflict)
    }
}

/// The keys of a group's documents.
fn documents_of(group: GroupId) -> RangeInclusive<LogId> {
    let log = |document| LogId { group, document };
    log(DocumentId::ZERO)..=log(DocumentId([0xff; 16]))
}

/// The keys of a device's instances.
fn instances_of(log: LogId, device: DeviceId) -> RangeInclusive<(LogId, Author)> {
    let author = |instance| (log, Author { device, instance });
    author(InstanceId([0; 8]))..=author(InstanceId([0xff; 8]))
}

/// Position after the last leaf below a node.
fn end(node: &NodeId) -> u64 {
    let next = node.index.saturating_add(1);
    next.checked_shl(node.level).unwrap_or(u64::MAX)
}

impl Stored {
    pub(super) fn write(&mut self, change: Change) -> Result<(), Failure> {
        let tables = &mut self.tables;
        match change {
            Change::Account { user, .. } => {
                let row = AccountRow { disabled: false };
                expect(!tables.accounts.insert(user, row))?;
            }
            Change::Device {
                device, user, key, ..
            } => {
                let row = DeviceRow {
                    user,
                    key,
                    revoked: false,
                    disabled: false,
                    login: LoginRow::default(),
                };
                expect(!tables.devices.insert(device, row))?;
            }
            Change::Login {
                device,
                expected,
                row,
            } => {
                let known = tables.devices.get_mut(&device);
                let known = known.filter(|known| known.login.session == expected);
                known.ok_or(Failure::Conflict)?.login = row;
            }
            Change::Revoked { device, revoked } => {
                if let Some(row) = tables.devices.get_mut(&device) {
                    row.revoked = revoked;
                }
            }
            Change::List {
                user,
                expected,
                seq,
                bytes,
                ..
            } => {
                expect(tables.lists.get(&user).map(|row| row.seq) == expected)?;
                tables.lists.insert(user, ListRow { seq, bytes });
            }
            Change::Invitation { hash, row } => {
                expect(!tables.invitations.insert(hash, row))?;
            }
            Change::Redeemed { hash, expected } => {
                let row = tables.invitations.get_mut(&hash);
                let row = row.filter(|row| row.uses_left == expected);
                row.ok_or(Failure::Conflict)?.uses_left = expected.saturating_sub(1);
            }
            Change::Package { hash, row } => {
                expect(!tables.packages.insert(hash, row))?;
            }
            Change::TakePackage { hash, .. } => {
                let row = tables.packages.get_mut(&hash);
                let taken = row.and_then(|row| row.bytes.take());
                expect(taken.is_some())?;
            }
            Change::DropLastResort { device } => {
                let is = |_: &_, row: &PackageRow| row.device == device && row.last_resort;
                tables.packages.remove_where(is);
            }
            Change::ClearPackages { device } => {
                let is_own = |_: &_, row: &PackageRow| row.device == device;
                let packages = &mut tables.packages;
                packages.remove_where(|hash, row| is_own(hash, row) && row.last_resort);
                packages.change_where(.., is_own, |row| row.bytes = None);
            }
            Change::ForgetPackages { before } => {
                tables.packages.remove_where(|_, row| row.created < before);
            }
            Change::Replaced(row) => {
                tables.replaced.insert(row, ());
            }
            Change::LetGo(row) => {
                tables.replaced.remove(&row);
                tables.paids.remove(&(row.log, row.seq));
                self.logs.let_go(row.log, row.seq);
            }
            Change::Usage { log, user, delta } => {
                fn add<K: Ord + Clone>(table: &mut Table<K, u64>, key: K, delta: i64) {
                    let before = table.get(&key).copied().unwrap_or(0);
                    table.insert(key, counted(before, delta));
                }
                add(&mut tables.usage, (log, user), delta);
                add(&mut tables.usage_of_users, user, delta);
                add(&mut tables.usage_of_groups, log.group, delta);
            }
            Change::Paid { log, seq, row } => _ = tables.paids.insert((log, seq), row),
            Change::Erase {
                log,
                from,
                until,
                is_last,
            } => {
                (from..until).for_each(|seq| self.logs.let_go(log, seq));
                if is_last {
                    tables.erasing.remove(&log);
                    tables.replaced.remove_where(|row, ()| row.log == log);
                    tables.paids.remove_where(|(of, _), _| *of == log);
                } else {
                    tables.erasing.insert(log, until);
                }
            }
            Change::Probe { now } => tables.numbers.probe = now,
            other => return self.write_to_logs(other),
        }
        Ok(())
    }

    fn write_to_logs(&mut self, change: Change) -> Result<(), Failure> {
        let tables = &mut self.tables;
        match change {
            Change::Entry {
                group,
                expected,
                epoch,
                generation,
                entry,
            } => {
                let row = tables.groups.get_mut(&group).map(|group| &mut group.row);
                let row = row.filter(|row| row.at() == expected);
                let row = row.ok_or(Failure::Conflict)?;
                row.epoch = epoch;
                row.grown_in = generation;
                row.size = row.size.saturating_add(1);
                row.version = row.version.saturating_add(1);
                self.logs.push_entry(group, entry);
            }
            Change::Document {
                log, row, active, ..
            } => {
                let no = tables.documents.len();
                let document = Document { no, row, active };
                expect(!tables.documents.insert(log, document))?;
            }
            Change::Closed { log, reason } => {
                if let Some(document) = tables.documents.get_mut(&log) {
                    document.row.closed = Some(reason);
                    if reason != CloseReason::Archived {
                        document.active.due_epoch = 0;
                    }
                    if erases(reason) {
                        tables.erasing.insert(log, document.row.base.size());
                    }
                }
            }
            Change::Reopened { log } => {
                if let Some(document) = tables.documents.get_mut(&log) {
                    document.row.closed = None;
                }
            }
            Change::Append {
                log,
                expected,
                records,
                nodes,
                row,
            } => {
                // Of what is here they follow from the leaves.
                let base = row.base.size();
                let below = nodes.into_iter().filter(|(node, _)| end(node) <= base);
                for (node, hash) in below {
                    tables.nodes.insert((log, node), hash);
                }
                let document = tables.documents.get_mut(&log);
                let document = document.filter(|it| it.row.frontier.size() == expected);
                document.ok_or(Failure::Conflict)?.row = row;
                self.logs.push_records(log, records);
            }
            Change::Author { log, author, row } => {
                tables.authors.insert((log, author), row);
            }
            Change::CloseAuthors {
                log,
                device,
                before,
            } => {
                let is_older = |_: &_, row: &AuthorRow| row.no < before;
                let close = |row: &mut AuthorRow| row.closed = true;
                let instances = instances_of(log, device);
                tables.authors.change_where(instances, is_older, close);
            }
            Change::Active { log, row } => {
                if let Some(document) = tables.documents.get_mut(&log) {
                    document.row.covered = row.snapshot().map_or(0, |header| header.covered.size);
                    document.active = row;
                }
            }
            Change::MarkDue { group, epoch } => {
                // What is put away may be taken up again.
                let is_open = |_: &_, document: &Document| {
                    let closed = document.row.closed;
                    closed.is_none_or(|why| why == CloseReason::Archived)
                };
                let mark = |document: &mut Document| document.active.due_epoch = epoch;
                let documents = documents_of(group);
                tables.documents.change_where(documents, is_open, mark);
            }
            other => return self.write_to_groups(other),
        }
        Ok(())
    }

    fn write_to_groups(&mut self, change: Change) -> Result<(), Failure> {
        let tables = &mut self.tables;
        match change {
            Change::Group {
                group,
                genesis,
                creator,
                user,
                parts,
                ..
            } => {
                let row = GroupRow {
                    epoch: 0,
                    size: 0,
                    version: 0,
                    genesis,
                    creator,
                    grown_in: 0,
                    base: None,
                };
                let new = Group { row, wrap: None };
                expect(!tables.groups.insert(group, new))?;
                tables.put_parts(group, parts);
                tables.members.insert((group, creator), user);
            }
            Change::Adopted {
                group,
                genesis,
                creator,
                epoch,
                base,
            } => {
                let size = base.frontier.size();
                let row = GroupRow {
                    epoch,
                    size,
                    version: 0,
                    genesis,
                    creator,
                    grown_in: 0,
                    base: Some(size),
                };
                let new = Group { row, wrap: None };
                expect(!tables.groups.insert(group, new))?;
                tables.bases.insert(group, base);
            }
            Change::Dropped { group, generation } => {
                tables.drop_group(&group);
                tables.free_group(&group);
                tables.dropped.insert(group, generation);
                self.logs.drop_group(&group);
            }
            Change::GroupInfo {
                group,
                expected,
                parts,
            } => {
                let row = tables.groups.get_mut(&group).map(|group| &mut group.row);
                let row = row.filter(|row| row.at() == expected);
                let row = row.ok_or(Failure::Conflict)?;
                row.version = row.version.saturating_add(1);
                tables.put_parts(group, parts);
            }
            Change::Parts { group, parts, wrap } => {
                if let Some(wrap) = wrap
                    && let Some(group) = tables.groups.get_mut(&group)
                {
                    group.wrap = Some(wrap);
                }
                tables.put_parts(group, parts);
            }
            Change::Member {
                group,
                device,
                user,
            } => {
                tables.members.insert((group, device), user);
            }
            Change::MemberGone { group, device } => {
                tables.members.remove(&(group, device));
                let is_its = |row: &WelcomeRow| (row.group, row.device) == (group, device);
                tables.welcomes.remove_where(|_, row| is_its(row));
            }
            Change::Join {
                group,
                epoch,
                row,
                devices,
            } => {
                expect(!tables.joins.insert((group, epoch), row))?;
                for device in devices {
                    let last = &mut tables.numbers.last_welcome;
                    *last = last.saturating_add(1);
                    let row = WelcomeRow {
                        id: *last,
                        device,
                        group,
                        epoch,
                    };
                    tables.welcomes.insert(row.id, row);
                }
            }
            Change::WelcomeGone { id, .. } => {
                tables.welcomes.remove(&id);
            }
            Change::Wrap { wrap } => {
                let statement = &wrap.statement;
                let key = (statement.group, statement.epoch);
                let mut of_epoch = tables.wraps.get(&key).cloned().unwrap_or_default();
                of_epoch.insert(wrap.signer, wrap);
                tables.wraps.insert(key, of_epoch);
            }
            Change::ForgetEpochs { group, current } => {
                let wanted: Vec<(_, u64)> = tables
                    .welcomes
                    .values()
                    .map(|row| (row.group, row.epoch))
                    .collect();
                let gone = |key: &(_, u64)| key.0 == group && !wanted.contains(key);
                let wraps = &mut tables.wraps;
                wraps.remove_where(|key, _| key.1 < current && gone(key));
                let joins = &mut tables.joins;
                joins.remove_where(|key, _| key.1 <= current && gone(key));
            }
            Change::Plea(row) => {
                let key = (row.group, row.device, row.what as u8);
                if !tables.pleas.contains_key(&key) {
                    tables.pleas.insert(key, row);
                }
            }
            Change::PleaGone {
                group,
                device,
                what,
            } => {
                tables.pleas.remove(&(group, device, what as u8));
            }
            other => return self.write_recovery(other),
        }
        Ok(())
    }

    fn write_recovery(&mut self, change: Change) -> Result<(), Failure> {
        let tables = &mut self.tables;
        match change {
            Change::Generation {
                expected,
                generation,
                ..
            } => {
                let present = tables.numbers.generation.map(|it| it.number);
                expect(present == expected)?;
                tables.numbers.generation = Some(generation);
            }
            Change::Hold { ends } => tables.numbers.hold = ends,
            Change::HeadTime { until } => tables.numbers.head_time = until,
            Change::PackagesVoid => {
                tables.packages.remove_where(|_, row| row.last_resort);
                let left: Vec<_> = tables.packages.keys().copied().collect();
                for hash in left {
                    if let Some(row) = tables.packages.get_mut(&hash) {
                        row.bytes = None;
                    }
                }
            }
            Change::Recovery(row) => {
                tables.recovery.insert(row.log, row);
            }
            Change::RecoveryGone { log } => tables.recovery.remove(&log),
            Change::Loss(loss) => {
                tables
                    .losses
                    .insert((loss.log.into(), loss.generation), loss);
            }
            _ => return Err(Failure::unwritten()),
        }
        Ok(())
    }
}

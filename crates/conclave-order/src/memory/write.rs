//! Writing changes.

use crate::change::Change;
use crate::memory::Stored;
use crate::memory::tables::{Document, Group};
use crate::rows::{AccountRow, DeviceRow, GroupRow, ListRow, WelcomeRow};
use crate::store::Failure;

fn expect(holds: bool) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::Conflict)
    }
}

impl Stored {
    pub(super) fn write(&mut self, change: Change) -> Result<(), Failure> {
        let tables = &mut self.tables;
        match change {
            Change::Account { user, .. } => {
                let row = AccountRow { disabled: false };
                expect(tables.accounts.insert(user, row).is_none())?;
            }
            Change::Device {
                device, user, key, ..
            } => {
                let row = DeviceRow {
                    user,
                    key,
                    revoked: false,
                    disabled: false,
                };
                expect(tables.devices.insert(device, row).is_none())?;
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
                let before = tables.lists.insert(user, ListRow { seq, bytes });
                expect(before.map(|row| row.seq) == expected)?;
            }
            Change::Invitation { hash, row } => {
                expect(tables.invitations.insert(hash, row).is_none())?;
            }
            Change::Redeemed { hash, expected } => {
                let row = tables.invitations.get_mut(&hash);
                let row = row.filter(|row| row.uses_left == expected);
                row.ok_or(Failure::Conflict)?.uses_left = expected.saturating_sub(1);
            }
            Change::Package { hash, row } => {
                expect(tables.packages.insert(hash, row).is_none())?;
            }
            Change::TakePackage { hash, .. } => {
                let row = tables.packages.get_mut(&hash);
                let taken = row.and_then(|row| row.bytes.take());
                expect(taken.is_some())?;
            }
            Change::DropLastResort { device } => {
                let packages = &mut tables.packages;
                packages.retain(|_, row| row.device != device || !row.last_resort);
            }
            Change::ClearPackages { device } => {
                let packages = &mut tables.packages;
                packages.retain(|_, row| row.device != device || !row.last_resort);
                for row in packages.values_mut().filter(|row| row.device == device) {
                    row.bytes = None;
                }
            }
            Change::ForgetPackages { before } => {
                tables.packages.retain(|_, row| row.created >= before);
            }
            Change::Replaced(row) => {
                tables.replaced.insert(row);
            }
            Change::LetGo(row) => {
                tables.replaced.remove(&row);
                self.logs.let_go(row.log, row.seq);
            }
            Change::Probe { now } => tables.probe = now,
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
                entry,
            } => {
                let row = tables.groups.get_mut(&group).map(|group| &mut group.row);
                let row = row.filter(|row| row.at() == expected);
                let row = row.ok_or(Failure::Conflict)?;
                row.epoch = epoch;
                row.size = row.size.saturating_add(1);
                row.version = row.version.saturating_add(1);
                self.logs.push_entry(group, entry);
            }
            Change::Document {
                log, row, active, ..
            } => {
                let no = tables.documents.len();
                let document = Document { no, row, active };
                expect(tables.documents.insert(log, document).is_none())?;
            }
            Change::Closed { log, reason } => {
                if let Some(document) = tables.documents.get_mut(&log) {
                    document.row.closed = Some(reason);
                    document.active.due_epoch = 0;
                }
            }
            Change::Append {
                log,
                expected,
                records,
                row,
                ..
            } => {
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
                for ((of, author), row) in &mut tables.authors {
                    if *of == log && author.device == device && row.no < before {
                        row.closed = true;
                    }
                }
            }
            Change::Active { log, row } => {
                if let Some(document) = tables.documents.get_mut(&log) {
                    document.row.covered = row.snapshot().map_or(0, |header| header.covered.size);
                    document.active = row;
                }
            }
            Change::MarkDue { group, epoch } => {
                let documents = tables.documents.iter_mut();
                for (_, document) in documents.filter(|(log, _)| log.group == group) {
                    if document.row.closed.is_none() {
                        document.active.due_epoch = epoch;
                    }
                }
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
                checkpoint,
                ..
            } => {
                let row = GroupRow {
                    epoch: 0,
                    size: 0,
                    version: 0,
                    genesis,
                    creator,
                };
                let new = Group {
                    row,
                    checkpoint,
                    wrap: None,
                };
                expect(tables.groups.insert(group, new).is_none())?;
                tables.members.insert((group, creator), user);
            }
            Change::GroupInfo {
                group,
                expected,
                checkpoint,
                ..
            } => {
                let group = tables.groups.get_mut(&group);
                let group = group.filter(|group| group.row.at() == expected);
                let group = group.ok_or(Failure::Conflict)?;
                group.row.version = group.row.version.saturating_add(1);
                group.checkpoint = checkpoint;
            }
            Change::Checkpoint {
                group,
                checkpoint,
                wrap,
                ..
            } => {
                if let Some(group) = tables.groups.get_mut(&group) {
                    group.checkpoint = checkpoint;
                    group.wrap = wrap.or(group.wrap.take());
                }
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
                let welcomes = &mut tables.welcomes;
                welcomes.retain(|_, row| (row.group, row.device) != (group, device));
            }
            Change::Join {
                group,
                epoch,
                row,
                devices,
            } => {
                expect(tables.joins.insert((group, epoch), row).is_none())?;
                for device in devices {
                    tables.last_welcome = tables.last_welcome.saturating_add(1);
                    let row = WelcomeRow {
                        id: tables.last_welcome,
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
                let of_epoch = tables.wraps.entry(key).or_default();
                of_epoch.insert(wrap.signer, wrap);
            }
            Change::ForgetEpochs { group, current } => {
                let wanted: Vec<(_, u64)> = tables
                    .welcomes
                    .values()
                    .map(|row| (row.group, row.epoch))
                    .collect();
                let needed = |key: &(_, u64)| key.0 != group || wanted.contains(key);
                tables
                    .wraps
                    .retain(|key, _| key.1 >= current || needed(key));
                tables.joins.retain(|key, _| key.1 > current || needed(key));
            }
            Change::Plea(row) => {
                let key = (row.group, row.device, row.what as u8);
                tables.pleas.entry(key).or_insert(row);
            }
            Change::PleaGone {
                group,
                device,
                what,
            } => {
                tables.pleas.remove(&(group, device, what as u8));
            }
            // The other tables'.
            _ => {}
        }
        Ok(())
    }
}

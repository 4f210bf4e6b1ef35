//! Entries of a group's log: commits, standalone proposals, signed entries.

use conclave_identity::SignedDeviceList;
use conclave_mls::{Beside, JudgedCommit, JudgedProposal, PublicGroupState, Retaken, RowChange};
use conclave_proto::codec::encode;
use conclave_proto::frame::Plea;
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::record::{EntryBody, Record};
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, GroupId, Head, RecordBody, Refusal, UserId};
use conclave_rules::LogId;

use super::document;
use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop, revoked};
use crate::rows::{EntryKind, EntryRow, GroupAt, JoinRow, PartChange, Position};

/// An entry, judged for the next position of the log.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// The group.
    pub group: GroupId,
    /// Who made it: it sends it too, unless it came back.
    pub device: DeviceId,
    /// Where it was judged.
    pub expected: GroupAt,
    /// The entry.
    pub entry: GroupEntry,
    /// The head after it.
    pub head: Head,
    /// What it changes of the group's public state.
    pub parts: Vec<PartChange>,
    /// What it does beside.
    pub does: Does,
}

/// What an entry does beside lying in the log.
#[derive(Debug, Clone)]
pub enum Does {
    /// A commit begins an epoch.
    Commit(Box<Begins>),
    /// A standalone proposal waits to be covered.
    Propose,
    /// A signed entry does what it says.
    Put,
    /// A signed entry lists a document that begins with this snapshot.
    CreateDocument {
        /// The snapshot.
        first: Box<Record>,
        /// Code of the document's CRDT kind.
        crdt: u8,
    },
    /// A signed entry that came back does what it says. A document that it lists comes back with its own log.
    PutAgain,
}

/// What begins with a commit.
#[derive(Debug, Clone)]
pub struct Begins {
    /// The epoch.
    pub epoch: u64,
    /// The root wrap: none where the commit came back and it did not.
    pub wrap: Option<RootWrap>,
    /// Devices added by Welcome.
    pub added: Vec<DeviceId>,
    /// Devices that are members no more.
    pub removed: Vec<DeviceId>,
    /// Roster rows that begin: who is new, or has changed.
    pub begun: Vec<(DeviceId, UserId)>,
    /// Users who have a member.
    pub users: std::collections::BTreeSet<UserId>,
    /// Whether all documents are due for a new snapshot.
    pub due: bool,
    /// What joiners are handed.
    pub join: Option<JoinRow>,
}

impl Begins {
    /// What began with the commit that a group's state has just taken in.
    fn of(
        core: &PublicGroupState,
        added: Vec<DeviceId>,
        removed: Vec<DeviceId>,
        beside: Option<Beside>,
    ) -> Self {
        let next = core.state();
        let (wrap, welcome) = match beside {
            Some(Beside { welcome, wrap }) => (Some(wrap), welcome),
            None => (None, None),
        };
        let join = welcome.zip(wrap.clone()).map(|(welcome, wrap)| JoinRow {
            size: next.size(),
            frontier: next.frontier.clone(),
            state: next.to_bytes().into(),
            tree: core.tree().into(),
            wrap,
            welcome: welcome.into(),
        });
        let begun = next
            .current_rows()
            .filter(|row| row.first_epoch == next.epoch);
        Self {
            epoch: next.epoch,
            wrap,
            added,
            removed,
            begun: begun.map(|row| (row.device, row.user)).collect(),
            users: next.current_rows().map(|row| row.user).collect(),
            due: next.rotating_since == next.epoch,
            join,
        }
    }
}

impl PartChange {
    /// What of a public state has changed since it was asked before.
    #[must_use]
    pub fn taken(core: &mut PublicGroupState) -> Vec<Self> {
        let changes = core.take_changes().into_iter();
        let change = |change: RowChange| Self {
            part: change.key.into(),
            value: change.value.map(|value| value.to_vec().into()),
        };
        changes.map(change).collect()
    }
}

/// Where a group stands whose stored version is this.
fn at(core: &PublicGroupState, version: u64) -> GroupAt {
    let state = core.state();
    GroupAt {
        epoch: state.epoch,
        size: state.frontier.size(),
        version,
    }
}

impl NewEntry {
    /// A commit that was judged; the group's state goes on to the epoch that it begins.
    ///
    /// # Errors
    /// [`Refusal::Storage`]: it was judged somewhere else.
    pub fn of_commit(
        core: &mut PublicGroupState,
        version: u64,
        judged: JudgedCommit,
        device: DeviceId,
    ) -> Result<Self, Refusal> {
        let expected = at(core, version);
        let (entry, head) = (judged.entry.clone(), judged.next.head());
        let (added, removed) = (judged.added.clone(), judged.removed.clone());
        let beside = Beside {
            welcome: judged.welcome.clone(),
            wrap: judged.wrap.clone(),
        };
        core.apply(judged)?;
        let begins = Begins::of(core, added, removed, Some(beside));
        let group = core.state().group;
        Ok(Self {
            group,
            device,
            expected,
            entry,
            head,
            parts: PartChange::taken(core),
            does: Does::Commit(Box::new(begins)),
        })
    }

    /// A standalone proposal that was judged; the group's state has it then.
    ///
    /// # Errors
    /// [`Refusal::Storage`]: it was judged somewhere else.
    pub fn of_proposal(
        core: &mut PublicGroupState,
        version: u64,
        judged: JudgedProposal,
        device: DeviceId,
    ) -> Result<Self, Refusal> {
        let expected = at(core, version);
        let entry = judged.entry.clone();
        core.apply_proposal(judged)?;
        Ok(Self {
            group: core.state().group,
            device,
            expected,
            entry,
            head: core.state().head(),
            parts: PartChange::taken(core),
            does: Does::Propose,
        })
    }

    /// Judges a signed entry; the group's state has it then.
    ///
    /// # Errors
    /// The answer to the device.
    pub fn of_signed(
        core: &mut PublicGroupState,
        version: u64,
        record: Record,
        does: Does,
        device: DeviceId,
    ) -> Result<Self, Refusal> {
        let effect = core.judge_entry(&record, device)?;
        let expected = at(core, version);
        core.apply_entry(&effect);
        Ok(Self {
            group: core.state().group,
            device,
            expected,
            entry: GroupEntry::Signed(record),
            head: core.state().head(),
            parts: PartChange::taken(core),
            does,
        })
    }

    /// Takes in an entry that came back from a device: judged as members judge what was ordered. Of own commits their bundles come back too.
    ///
    /// What it changes of the group's state is not taken: that is the last one's to say.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn returned(
        core: &mut PublicGroupState,
        version: u64,
        entry: &GroupEntry,
        bundle: Option<&CommitBundle>,
        from: DeviceId,
    ) -> Result<Self, Refusal> {
        let expected = at(core, version);
        let Retaken {
            author,
            added,
            removed,
            beside,
            ..
        } = core.take_returned(entry, bundle)?;
        // A Welcome is signed by nobody: others could spoil it.
        if beside.is_some() && author != from {
            let why = ForbiddenWhy::NotYours;
            return Err(Refusal::Forbidden { why });
        }
        let does = match entry {
            GroupEntry::Commit(_) => {
                Does::Commit(Box::new(Begins::of(core, added, removed, beside)))
            }
            GroupEntry::Proposal(_) => Does::Propose,
            GroupEntry::Signed(_) => Does::PutAgain,
        };
        Ok(Self {
            group: core.state().group,
            device: author,
            expected,
            entry: entry.clone(),
            head: core.state().head(),
            parts: Vec::new(),
            does,
        })
    }

    /// Devices that it adds, and devices that it removes.
    #[must_use]
    pub fn moves(&self) -> (&[DeviceId], &[DeviceId]) {
        match &self.does {
            Does::Commit(begins) => (&begins.added, &begins.removed),
            _ => (&[], &[]),
        }
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.services.insert(());
        keys.groups.insert(self.group);
        keys.entries.insert((self.group, self.entry.leaf()));
        if matches!(self.does, Does::Commit(_)) {
            keys.group_pleas.insert(self.group);
        }
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let leaf = self.entry.leaf();
        if let Some(Position { seq, head }) = rows.entry(&(self.group, leaf))?.copied() {
            return Ok(Decided::event(Event::Known { seq, head }));
        }
        let row = rows.group(&self.group)?.ok_or(Refusal::UnknownGroup)?;
        let generation = rows.ensure_growing(&LogId::of_group(self.group))?;
        if row.at() != self.expected {
            let current = row.epoch;
            return Err(match self.does {
                Does::Commit(_) => Refusal::EpochTaken { current },
                _ => Refusal::StaleEpoch { current },
            }
            .into());
        }
        self.ensure_standing(rows)?;
        let changes = self.changes(rows, generation)?;
        let event = Event::Ordered {
            seq: self.expected.size,
            head: self.head,
        };
        Ok(Decided { changes, event })
    }

    /// Refuses to add a device that its user has taken away, perhaps after its key package was handed out; and one that never logged in, unless
    /// its user's list names it.
    fn ensure_standing(&self, rows: &Rows) -> Result<(), Stop> {
        let (added, _) = self.moves();
        rows.need(|keys| keys.devices.extend(added))?;
        let Does::Commit(begins) = &self.does else {
            return Ok(());
        };
        let unknown = |device: &DeviceId| rows.devices.get(device).is_none_or(Option::is_none);
        let begun = begins.begun.iter();
        let strangers = begun.filter(|(device, _)| added.contains(device) && unknown(device));
        rows.need(|keys| keys.lists.extend(strangers.clone().map(|(_, user)| *user)))?;
        for device in added {
            let is_revoked = rows.device(device)?.is_some_and(|row| row.revoked);
            // Breakage: a revoked device is added by a package that was handed out before.
            if is_revoked && !crate::broken("add-revoked") {
                return Err(revoked().into());
            }
        }
        for (device, user) in strangers {
            let Some(row) = rows.list(user)? else {
                continue;
            };
            let list = SignedDeviceList::from_bytes(&row.bytes);
            let list = list.map_err(|_| Stop::Damaged {
                what: "device list",
            })?;
            let is_named = list.list.devices.iter().any(|it| it.device == *device);
            if !is_named {
                return Err(revoked().into());
            }
        }
        Ok(())
    }

    /// What it changes where it was judged, whoever brought it. Says in which of the service's generations its log then last grew.
    pub(crate) fn changes(&self, rows: &Rows, generation: u64) -> Result<Vec<Change>, Stop> {
        let (epoch, wrap) = match &self.does {
            Does::Commit(begins) => (begins.epoch, begins.wrap.clone()),
            _ => (self.expected.epoch, None),
        };
        let mut changes = vec![Change::Entry {
            group: self.group,
            expected: self.expected,
            epoch,
            generation,
            entry: self.row(),
        }];
        if !self.parts.is_empty() || wrap.is_some() {
            changes.push(Change::Parts {
                group: self.group,
                parts: self.parts.clone(),
                wrap,
            });
        }
        match &self.does {
            Does::Commit(begins) => self.begin(begins, rows, &mut changes)?,
            Does::Propose => {}
            Does::Put => changes.extend(self.effect(rows)?),
            Does::CreateDocument { first, crdt } => {
                changes.extend(document::begin(first, *crdt, self.device, generation));
            }
            Does::PutAgain => changes.extend(self.closes()),
        }
        Ok(changes)
    }

    fn row(&self) -> EntryRow {
        let kind = match &self.entry {
            GroupEntry::Commit(_) => EntryKind::Commit,
            GroupEntry::Proposal(_) => EntryKind::Proposal,
            GroupEntry::Signed(_) => EntryKind::Signed,
        };
        EntryRow {
            kind,
            epoch: (kind == EntryKind::Commit).then_some(self.expected.epoch),
            leaf: self.entry.leaf(),
            root: self.head.root,
            bytes: encode(&self.entry).into(),
        }
    }

    /// What a signed entry does to the documents.
    fn effect(&self, rows: &Rows) -> Result<Option<Change>, Stop> {
        let GroupEntry::Signed(record) = &self.entry else {
            return Err(Refusal::Malformed.into());
        };
        match record.header.body {
            RecordBody::Entry(
                EntryBody::DocumentClosed { .. } | EntryBody::DocumentReopened { .. },
            ) => Ok(self.closes()),
            RecordBody::Entry(EntryBody::RotationComplete { epoch }) => {
                let due = rows.least_due(&self.group)?;
                if due.is_some_and(|due| *due <= epoch) {
                    return Err(Refusal::SnapshotRequired.into());
                }
                Ok(None)
            }
            RecordBody::Entry(EntryBody::RecordVoided { .. }) => Ok(None),
            _ => Err(Refusal::Malformed.into()),
        }
    }

    /// The document that it closes or opens again, if it does.
    fn closes(&self) -> Option<Change> {
        let GroupEntry::Signed(record) = &self.entry else {
            return None;
        };
        let group = self.group;
        match record.header.body {
            RecordBody::Entry(EntryBody::DocumentClosed { document, reason }) => {
                let log = LogId { group, document };
                Some(Change::Closed { log, reason })
            }
            RecordBody::Entry(EntryBody::DocumentReopened { document }) => {
                let log = LogId { group, document };
                Some(Change::Reopened { log })
            }
            _ => None,
        }
    }

    fn begin(&self, begins: &Begins, rows: &Rows, changes: &mut Vec<Change>) -> Result<(), Stop> {
        let group = self.group;
        let removed = begins.removed.iter().copied();
        changes.extend(removed.map(|device| Change::MemberGone { group, device }));
        let begun = begins.begun.iter().copied();
        changes.extend(begun.map(|(device, user)| Change::Member {
            group,
            device,
            user,
        }));
        changes.extend(begins.join.clone().map(|row| Change::Join {
            group,
            epoch: begins.epoch,
            row,
            devices: begins.added.clone(),
        }));
        changes.extend(begins.wrap.clone().map(|wrap| Change::Wrap { wrap }));
        changes.push(Change::ForgetEpochs {
            group,
            current: begins.epoch,
        });
        let pleas = rows.pleas_in(&group)?.into_iter().flatten();
        let over = pleas.filter(|plea| {
            plea.what == Plea::Wrap
                || !begins.users.contains(&plea.user)
                || self.settles(begins, &plea.device)
        });
        changes.extend(over.map(|plea| Change::PleaGone {
            group,
            device: plea.device,
            what: plea.what,
        }));
        changes.extend(begins.due.then_some(Change::MarkDue {
            group,
            epoch: begins.epoch,
        }));
        Ok(())
    }

    /// Whether a device needs nobody's help after this commit: who made it could, and who came or went has its answer.
    fn settles(&self, begins: &Begins, device: &DeviceId) -> bool {
        self.device == *device
            || begins.begun.iter().any(|(begun, _)| begun == device)
            || begins.added.contains(device)
            || begins.removed.contains(device)
    }
}

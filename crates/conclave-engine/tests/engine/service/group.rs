//! Groups: commits, proposals, entries, Welcomes, wraps, following.

use conclave_mls::{PublicGroupState, check_founded};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{Answer, Plea, ServiceFrame, WelcomeDelivery};
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::record::{EntryBody, Record, RecordBody};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{DeviceId, DocumentId, GroupId, Head, Refusal, UnixMs, UserId};
use conclave_rules::GroupState;
use std::collections::BTreeMap;

use super::{ConnId, DocLog, Service};

/// A Welcome that was not acknowledged.
#[derive(Clone)]
pub struct Waiting {
    pub device: DeviceId,
    pub delivery: WelcomeDelivery,
}

pub struct GroupLog {
    /// What made it known, and when it was founded.
    offer: (Vec<u8>, UnixMs),
    pub core: PublicGroupState,
    pub entries: Vec<GroupEntry>,
    pub heads: Vec<Head>,
    /// Position of the commit that ended an epoch.
    commits: BTreeMap<u64, u64>,
    pub wraps: BTreeMap<(u64, DeviceId), RootWrap>,
    pub welcomes: Vec<Waiting>,
    pub documents: BTreeMap<DocumentId, DocLog>,
    /// The wrap that came with the commit that began the epoch.
    pub begun: Option<RootWrap>,
    /// Who asks for what.
    pub asks: BTreeMap<(DeviceId, Plea), UserId>,
}

impl Clone for GroupLog {
    fn clone(&self) -> Self {
        Self {
            offer: self.offer.clone(),
            core: PublicGroupState::restore(&self.core.checkpoint()).unwrap(),
            entries: self.entries.clone(),
            heads: self.heads.clone(),
            commits: self.commits.clone(),
            wraps: self.wraps.clone(),
            welcomes: self.welcomes.clone(),
            documents: self.documents.clone(),
            begun: self.begun.clone(),
            asks: self.asks.clone(),
        }
    }
}

impl GroupLog {
    pub fn state(&self) -> &GroupState {
        self.core.state()
    }

    pub fn for_member(&self, device: &DeviceId) -> Result<(), Refusal> {
        if self.state().is_member(device) {
            Ok(())
        } else {
            Err(Refusal::UnknownGroup)
        }
    }

    fn accepted(&self, seq: usize) -> Answer {
        Answer::Accepted {
            seq: seq as u64,
            head: self.heads[seq],
        }
    }

    fn known(&self, entry: &GroupEntry) -> Option<Answer> {
        let seq = self.entries.iter().position(|other| other == entry)?;
        Some(self.accepted(seq))
    }

    /// Notes what was applied to the core.
    fn append(&mut self, entry: GroupEntry) -> Answer {
        self.entries.push(entry);
        self.heads.push(self.core.state().head());
        self.accepted(self.entries.len() - 1)
    }

    pub(super) fn document_entries(&self) -> Vec<Record> {
        let signed = self.entries.iter().filter_map(|entry| match entry {
            GroupEntry::Signed(record) => Some(record),
            _ => None,
        });
        let kept = signed.filter(|record| {
            let body = record.header.body;
            !matches!(body, RecordBody::Entry(EntryBody::RotationComplete { .. }))
        });
        kept.cloned().collect()
    }

    /// Size up to which the device may follow.
    fn reach(&self, device: &DeviceId) -> Result<u64, Refusal> {
        if self.state().is_member(device) {
            return Ok(self.entries.len() as u64);
        }
        let rows = self.state().roster.rows();
        let last = rows
            .iter()
            .filter(|row| row.device == *device)
            .filter_map(|row| row.last_epoch)
            .max()
            .ok_or(Refusal::UnknownGroup)?;
        Ok(self.commits[&last] + 1)
    }
}

impl Service {
    pub(super) fn group(&mut self, group: GroupId) -> Result<&mut GroupLog, Refusal> {
        self.groups.get_mut(&group).ok_or(Refusal::UnknownGroup)
    }

    pub(super) fn create_group(
        &mut self,
        device: DeviceId,
        (group_info, tree): (&[u8], &[u8]),
        founded: UnixMs,
        now: UnixMs,
    ) -> Result<Answer, Refusal> {
        let (core, state) = PublicGroupState::create(group_info, tree, device, founded)?;
        if let Some(known) = self.groups.get(&state.group) {
            let same = known.offer == (group_info.to_vec(), founded);
            return if same {
                Ok(Answer::Accepted {
                    seq: 0,
                    head: Head::EMPTY,
                })
            } else {
                Err(Refusal::AlreadyExists)
            };
        }
        check_founded(founded, now)?;
        let offer = (group_info.to_vec(), founded);
        self.groups.entry(state.group).or_insert(GroupLog {
            offer,
            core,
            entries: Vec::new(),
            heads: Vec::new(),
            commits: BTreeMap::new(),
            wraps: BTreeMap::new(),
            welcomes: Vec::new(),
            documents: BTreeMap::new(),
            begun: None,
            asks: BTreeMap::new(),
        });
        Ok(Answer::Accepted {
            seq: 0,
            head: Head::EMPTY,
        })
    }

    pub(super) fn commit(
        &mut self,
        device: DeviceId,
        bundle: CommitBundle,
        now: UnixMs,
    ) -> Result<Answer, Refusal> {
        let id = bundle.group;
        let first_number = self.next_number;
        let anything = self.lies.order_anything;
        let external = self.lies.refuse_external;
        let log = self.group(id)?;
        if let Some(answer) = log.known(&GroupEntry::Commit(bundle.commit.clone())) {
            return Ok(answer);
        }
        let judged = match log.core.judge_bundle(&bundle, device, now) {
            Ok(judged) if external && log.state().is_member(&device) && judged.is_external() => {
                let fault = conclave_proto::refusal::CommitFault::External;
                return Err(Refusal::BadCommit { fault });
            }
            Ok(judged) => judged,
            Err(_) if anything => {
                let entry = GroupEntry::Commit(bundle.commit);
                let answer = log.append(entry.clone());
                self.publish_entry(id, entry, &[]);
                return Ok(answer);
            }
            Err(refusal) => return Err(refusal),
        };
        let (added, removed) = (judged.added.clone(), judged.removed.clone());
        let (entry, welcome) = (judged.entry.clone(), judged.welcome.clone());
        let wrap = judged.wrap.clone();
        let before = log.state().epoch;
        log.core.apply(judged)?;
        log.commits.insert(before, log.entries.len() as u64);
        let answer = log.append(entry.clone());
        let epoch = log.state().epoch;
        log.wraps.insert((epoch, wrap.signer), wrap.clone());
        log.begun = Some(wrap.clone());
        log.asks
            .retain(|(who, what), _| *what == Plea::ReAdd && !added.contains(who));
        if log.state().rotating_since == epoch {
            for document in log.documents.values_mut() {
                document.due_epoch = epoch;
            }
        }
        log.welcomes
            .retain(|waiting| !removed.contains(&waiting.device));
        if let Some(welcome) = welcome {
            let state = log.core.join_state(wrap, log.document_entries());
            let tree = log.core.tree();
            for (number, device) in (first_number + 1..).zip(&added) {
                let delivery = WelcomeDelivery {
                    id: number,
                    group: id,
                    epoch,
                    welcome: welcome.clone().into(),
                    tree: tree.clone().into(),
                    state: state.clone(),
                };
                log.welcomes.push(Waiting {
                    device: *device,
                    delivery,
                });
            }
        }
        self.next_number = first_number + added.len() as u64;
        self.publish_entry(id, entry, &removed);
        for device in added {
            for conn in self.of_device(device) {
                self.deliver_welcomes(conn, device);
            }
        }
        Ok(answer)
    }

    pub(super) fn deliver_welcomes(&mut self, conn: ConnId, device: DeviceId) {
        let waiting: Vec<WelcomeDelivery> = self
            .groups
            .values()
            .flat_map(|log| &log.welcomes)
            .filter(|waiting| waiting.device == device)
            .map(|waiting| waiting.delivery.clone())
            .collect();
        for delivery in waiting {
            self.push(conn, ServiceFrame::Welcome(delivery));
        }
    }

    pub(super) fn propose(
        &mut self,
        device: DeviceId,
        group: GroupId,
        message: &[u8],
    ) -> Result<Answer, Refusal> {
        let log = self.group(group)?;
        if let Some(answer) = log.known(&GroupEntry::Proposal(message.into())) {
            return Ok(answer);
        }
        let judged = log.core.judge_proposal(message, device)?;
        let entry = judged.entry.clone();
        log.core.apply_proposal(judged)?;
        let answer = log.append(entry.clone());
        self.publish_entry(group, entry, &[]);
        Ok(answer)
    }

    pub(super) fn put_entry(&mut self, device: DeviceId, entry: Record) -> Result<Answer, Refusal> {
        let RecordBody::Entry(body) = entry.header.body else {
            return Err(Refusal::Malformed);
        };
        let group = entry.header.group;
        let log = self.group(group)?;
        if let Some(answer) = log.known(&GroupEntry::Signed(entry.clone())) {
            return Ok(answer);
        }
        let effect = log.core.judge_entry(&entry, device)?;
        match body {
            EntryBody::RotationComplete { epoch } => {
                let due = log.documents.iter().any(|(_, document)| {
                    document.open && document.due_epoch > 0 && document.due_epoch <= epoch
                });
                if due {
                    return Err(Refusal::SnapshotRequired);
                }
            }
            EntryBody::DocumentClosed { document, .. } => {
                log.documents.get_mut(&document).unwrap().open = false;
            }
            _ => {}
        }
        log.core.apply_entry(&effect);
        let entry = GroupEntry::Signed(entry);
        let answer = log.append(entry.clone());
        self.publish_entry(group, entry, &[]);
        Ok(answer)
    }

    pub(super) fn create_document(
        &mut self,
        device: DeviceId,
        entry: Record,
        first: Record,
    ) -> Result<Answer, Refusal> {
        let RecordBody::Entry(EntryBody::DocumentCreated { document, .. }) = entry.header.body
        else {
            return Err(Refusal::Malformed);
        };
        let group = entry.header.group;
        let number = self.number();
        let log = self.group(group)?;
        if let Some(answer) = log.known(&GroupEntry::Signed(entry.clone())) {
            return Ok(answer);
        }
        super::document::judge_first(log.state(), device, &first)?;
        if first.header.document != document || first.header.group != group {
            return Err(Refusal::BadRecord {
                fault: RecordFault::WrongDocument,
            });
        }
        let effect = log.core.judge_entry(&entry, device)?;
        log.core.apply_entry(&effect);
        log.documents.insert(document, DocLog::new(number, first));
        let entry = GroupEntry::Signed(entry);
        let answer = log.append(entry.clone());
        self.publish_entry(group, entry, &[]);
        Ok(answer)
    }

    /// Shows a new entry to all who follow; those whom it removes see no more.
    pub fn publish_entry(&mut self, group: GroupId, entry: GroupEntry, removed: &[DeviceId]) {
        let first_seq = self.groups[&group].entries.len() as u64 - 1;
        let following: Vec<(ConnId, DeviceId)> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.follows.contains(&group))
            .filter_map(|(id, conn)| Some((*id, conn.who?.0)))
            .collect();
        for (conn, device) in following {
            let frame = ServiceFrame::GroupEntries {
                group,
                first_seq,
                entries: vec![entry.clone()],
            };
            self.push(conn, frame);
            if removed.contains(&device) {
                let conn = self.conns.get_mut(&conn).unwrap();
                conn.follows.remove(&group);
                conn.channels.retain(|_, channel| channel.group != group);
            }
        }
    }

    /// Orders an entry without judging it: what only a lying service does. Its own state no longer follows.
    pub fn force_entry(&mut self, group: GroupId, entry: GroupEntry) -> super::Outgoing {
        let log = self.groups.get_mut(&group).unwrap();
        let head = log.state().head();
        log.entries.push(entry.clone());
        log.heads.push(head);
        self.publish_entry(group, entry, &[]);
        std::mem::take(&mut self.out)
    }

    pub(super) fn subscribe(
        &mut self,
        conn: ConnId,
        device: DeviceId,
        group: GroupId,
        from: u64,
        id: Varint,
        now: UnixMs,
    ) -> Option<Result<Answer, Refusal>> {
        let forget = self.lies.forget;
        let log = match self.group(group) {
            Ok(log) => log,
            Err(refusal) => return Some(Err(refusal)),
        };
        let reach = match log.reach(&device) {
            Ok(reach) => reach.saturating_sub(forget),
            Err(refusal) => return Some(Err(refusal)),
        };
        let member = log.state().is_member(&device);
        let head = match reach {
            0 => Head::EMPTY,
            size => log.heads[size as usize - 1],
        };
        let epoch = log.state().epoch;
        let entries = log.entries[from.min(reach) as usize..reach as usize].to_vec();
        if member {
            let conn = self.conns.get_mut(&conn).unwrap();
            conn.follows.insert(group);
        }
        let answer = Answer::Subscribed { head, epoch, now };
        self.push(conn, ServiceFrame::Response { id, answer });
        if !entries.is_empty() {
            let frame = ServiceFrame::GroupEntries {
                group,
                first_seq: from,
                entries,
            };
            self.push(conn, frame);
        }
        self.tell_asks(group, Some(conn));
        None
    }

    pub(super) fn wraps(
        &mut self,
        device: DeviceId,
        group: GroupId,
        epoch: u64,
    ) -> Result<Answer, Refusal> {
        let log = self.group(group)?;
        log.for_member(&device)?;
        let of = log.wraps.range((epoch, DeviceId::ZERO)..);
        let wraps = of
            .take_while(|((other, _), _)| *other == epoch)
            .map(|(_, wrap)| wrap.clone())
            .collect();
        Ok(Answer::Wraps { wraps })
    }
}

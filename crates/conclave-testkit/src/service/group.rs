//! Groups: what enters their logs, who follows, and what members need of each other.

use std::collections::BTreeMap;

use conclave_mls::{Adoption, removes_somebody};
use conclave_order::op::adopt::AdoptGroup;
use conclave_order::op::enter::check_kind;
use conclave_order::op::entry::NewEntry;
use conclave_order::op::group::{CreateGroup, PutGroupInfo};
use conclave_order::op::help::{AckWelcome, Ask, PutWrap};
use conclave_order::query::group::{Core, group_info, may_rejoin};
use conclave_order::rows::PleaRow;
use conclave_order::{Asker, Bounds, Event, Op, Reader as _, query};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{Answer, Plea, Request, ServiceFrame};
use conclave_proto::group::{CommitBundle, GroupEntry};
use conclave_proto::{DeviceId, GroupId, Head, Refusal, Role};
use conclave_rules::LogId;

use super::ConnId;
use super::desk::Desk;
use crate::rows::ready;

impl Desk {
    pub(super) fn ask_of_group(&mut self, by: Asker, request: Request) -> Result<Answer, Refusal> {
        let mut reads = self.store.clone();
        let read = match request {
            Request::CreateGroup {
                group_info,
                tree,
                founded,
            } => {
                let offer = (group_info.as_slice(), tree.as_slice());
                let op = CreateGroup::judge(by, offer, founded, self.now)?;
                self.run(Op::CreateGroup(Box::new(op)))?;
                let (seq, head) = (0, Head::EMPTY);
                return Ok(Answer::Accepted { seq, head });
            }
            Request::AdoptGroup {
                group,
                group_info,
                tree,
                state,
                pending,
            } => {
                let offer = Adoption {
                    group,
                    sender: by.device,
                    group_info: group_info.as_slice(),
                    tree: tree.as_slice(),
                    state: &state,
                    pending: &pending,
                };
                return self.adopt(by, &offer);
            }
            Request::Commit(bundle) => return self.commit_in_turn(by, bundle),
            Request::Propose { group, message } => {
                let leaf = GroupEntry::Proposal(message.clone()).leaf();
                let core = self.joined(group, by)?;
                self.ask_turn(&core, by)?;
                return self.enter(core, leaf, |core| {
                    let Core { state, version } = core;
                    NewEntry::proposal(state, *version, message.as_slice(), by.device)
                });
            }
            Request::PutEntry { entry } => {
                check_kind(&entry)?;
                let core = self.joined(entry.header.group, by)?;
                self.ask_turn(&core, by)?;
                let leaf = entry.leaf();
                return self.enter(core, leaf, |core| {
                    let Core { state, version } = core;
                    NewEntry::signed(state, *version, entry, by.device)
                });
            }
            Request::CreateDocument { entry, snapshot } => {
                let core = self.joined(entry.header.group, by)?;
                self.ask_turn(&core, by)?;
                let leaf = entry.leaf();
                return self.enter(core, leaf, |core| {
                    let Core { state, version } = core;
                    NewEntry::document(state, *version, entry, snapshot, by.device)
                });
            }
            Request::PutWrap { wrap } => {
                let core = self.joined(wrap.statement.group, by)?;
                let op = PutWrap::judge(core.state.state(), by, wrap)?;
                self.keep(core);
                self.run(Op::PutWrap(op))?;
                return Ok(Answer::Done);
            }
            Request::AckWelcome { id } => {
                let device = by.device;
                self.run(Op::AckWelcome(AckWelcome { device, id }))?;
                return Ok(Answer::Done);
            }
            Request::GetGroupInfo { group } => return self.group_info(by, group),
            Request::PutGroupInfo { group, group_info } => {
                let mut core = self.joined(group, by)?;
                let Core { state, version } = &mut core;
                let info = group_info.as_slice();
                if let Some(op) = PutGroupInfo::judge(state, *version, by.device, info)? {
                    self.run(Op::PutGroupInfo(op))?;
                    *version = version.saturating_add(1);
                }
                self.keep(core);
                return Ok(Answer::Done);
            }
            Request::Ask { group, what } => return self.ask(by, group, what),
            Request::GetWraps { group, epoch } => {
                let core = self.joined(group, by)?;
                self.keep(core);
                let wraps = ready(query::group::wraps(&mut reads, group, epoch));
                wraps.map(|wraps| Answer::Wraps { wraps })
            }
            Request::GetMemberships => ready(query::group::memberships(&mut reads, by.device)),
            Request::GetStatus { group } => {
                let core = self.joined(group, by)?;
                let status = ready(query::group::status(&mut reads, core.state.state()));
                self.keep(core);
                status
            }
            _ => return Err(Refusal::Malformed),
        };
        read.map_err(|_| Refusal::Storage)
    }

    fn adopt(&mut self, by: Asker, offer: &Adoption<'_>) -> Result<Answer, Refusal> {
        let rows = self.load(|keys| {
            AdoptGroup::needs(offer, keys);
            keys.services.insert(());
        })?;
        if !AdoptGroup::is_known(offer, &rows).map_err(super::log::refusal)? {
            // As it is stored: a lying service signs as another.
            let stored = rows.services.get(&()).and_then(Option::as_ref);
            let generation = stored.map_or(0, |row| row.generation.number);
            let op = AdoptGroup::judge(by, offer, generation, self.now)?;
            self.run(Op::AdoptGroup(Box::new(op)))?;
        }
        Ok(Answer::Done)
    }

    /// Whether a device may bring anything into the log now.
    fn ask_turn(&mut self, core: &Core, by: Asker) -> Result<(), Refusal> {
        let state = core.state.state();
        let turns = self.turns.entry(state.group).or_default();
        turns.ask(by.device, state.role_of(&by.device), self.now)
    }

    fn commit_in_turn(&mut self, by: Asker, bundle: CommitBundle) -> Result<Answer, Refusal> {
        let (group, commit) = (bundle.group, bundle.commit.clone());
        let before = self.members(group)?;
        let answer = self.commit(by, bundle);
        let removes = removes_somebody(commit.as_slice());
        let late = matches!(
            answer,
            Err(Refusal::EpochTaken { .. } | Refusal::RateLimited { .. })
        );
        let after = self.members(group)?;
        let turns = self.turns.entry(group).or_default();
        if answer.is_ok() {
            let out = before.keys().filter(|device| !after.contains_key(device));
            let out: Vec<DeviceId> = out.copied().collect();
            turns.ordered(by.device, removes, &out);
        } else if let Some(role) = after.get(&by.device)
            && late
            && removes
        {
            turns.lost(by.device, by.user, *role, self.now);
        }
        answer
    }

    /// Members with their roles.
    fn members(&mut self, group: GroupId) -> Result<BTreeMap<DeviceId, Role>, Refusal> {
        let core = self.core(group)?;
        let rows = core.state.state().current_rows();
        let members = rows.map(|row| (row.device, row.role)).collect();
        self.keep(core);
        Ok(members)
    }

    fn commit(&mut self, by: Asker, bundle: CommitBundle) -> Result<Answer, Refusal> {
        let core = self.core(bundle.group)?;
        self.ask_turn(&core, by)?;
        let state = core.state.state();
        let mut rows = state.roster.rows().iter();
        let was_there = rows.any(|row| row.device == by.device);
        if !was_there && !state.is_alone(&by.user) {
            return Err(Refusal::UnknownGroup);
        }
        let leaf = GroupEntry::Commit(bundle.commit.clone()).leaf();
        let now = self.now;
        self.enter(core, leaf, |core| {
            let Core { state, version } = core;
            let judged = state.judge_bundle(&bundle, by.device, now)?;
            NewEntry::of_commit(state, *version, judged, by.device)
        })
    }

    /// Orders what is judged to be the next entry of a group's log, and shows it to all who follow.
    fn enter(
        &mut self,
        mut core: Core,
        leaf: conclave_proto::Hash,
        judge: impl FnOnce(&mut Core) -> Result<NewEntry, Refusal>,
    ) -> Result<Answer, Refusal> {
        let group = core.state.state().group;
        let known = ready(query::group::known(&mut self.store.clone(), group, leaf));
        if let Some(answer) = known.map_err(|_| Refusal::Storage)? {
            self.keep(core);
            return Ok(answer);
        }
        let new = judge(&mut core)?;
        let entry = new.entry.clone();
        let (added, removed) = new.moves();
        let (added, removed) = (added.to_vec(), removed.to_vec());
        let epoch = core.state.state().epoch;
        let (seq, head) = match self.run(Op::Enter(Box::new(new)))? {
            Event::Ordered { seq, head } => (seq, head),
            Event::Known { seq, head } => return Ok(Answer::Accepted { seq, head }),
            _ => return Err(Refusal::Storage),
        };
        core.version = core.version.saturating_add(1);
        self.keep(core);
        self.publish_entry(group, seq, &entry, &removed);
        self.grown(LogId::of_group(group));
        self.announce(group, epoch, &added)?;
        Ok(Answer::Accepted { seq, head })
    }

    /// Hands their Welcomes to the devices that an epoch has added.
    pub(super) fn announce(
        &mut self,
        group: GroupId,
        epoch: u64,
        added: &[DeviceId],
    ) -> Result<(), Refusal> {
        for device in added {
            for conn in self.conns_of(device) {
                self.hand_welcomes(conn, *device, Some((group, epoch)))?;
            }
        }
        Ok(())
    }

    /// Shows an entry to all who follow. Those it removes get it as their last.
    pub(super) fn publish_entry(
        &mut self,
        group: GroupId,
        first_seq: u64,
        entry: &GroupEntry,
        removed: &[DeviceId],
    ) {
        for (conn, device) in self.followers(&group) {
            let frame = ServiceFrame::GroupEntries {
                group,
                first_seq,
                entries: vec![entry.clone()],
            };
            self.push(conn, frame);
            if let Some(conn) = self.conns.get_mut(&conn)
                && removed.contains(&device)
            {
                conn.follows.remove(&group);
                conn.channels
                    .retain(|_, channel| channel.log.group != group);
            }
        }
    }

    fn followers(&self, group: &GroupId) -> Vec<(ConnId, DeviceId)> {
        let follow = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.follows.contains(group));
        follow
            .filter_map(|(id, conn)| Some((*id, conn.who?.device)))
            .collect()
    }

    pub(super) fn follow(
        &mut self,
        conn: ConnId,
        by: Asker,
        id: Varint,
        group: GroupId,
        from: u64,
    ) -> Result<(), Refusal> {
        let core = self.core(group)?;
        let mut reads = self.store.clone();
        let reach = ready(query::group::reach(
            &mut reads,
            core.state.state(),
            &by.device,
        ));
        self.keep(core);
        let reach = reach.map_err(|_| Refusal::Storage)??;
        let log = LogId::of_group(group);
        let is_whole = reach.until.is_none();
        let answer = Answer::Subscribed {
            head: reach.head,
            epoch: reach.epoch,
            now: self.now,
            signed: is_whole.then(|| self.signing.sign(&log, reach.head)),
            losses: self.losses(log)?,
        };
        self.push(conn, ServiceFrame::Response { id, answer });
        let first = ready(query::group::first(&mut reads, group, from));
        let from = first.map_err(|_| Refusal::Storage)?;
        let bounds = Bounds {
            from,
            end: reach.head.size,
            bytes: usize::MAX,
        };
        let entries = ready(query::group::entries(&mut reads, &group, bounds));
        let entries = entries.map_err(|_| Refusal::Storage)?;
        if reach.until.is_none() {
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.follows.insert(group);
            }
            let pleas = ready(reads.pleas(&group)).map_err(|_| Refusal::Storage)?;
            for plea in pleas.iter().filter(|plea| plea.device != by.device) {
                self.push(conn, asked(plea));
            }
        }
        if !entries.is_empty() {
            let frame = ServiceFrame::GroupEntries {
                group,
                first_seq: from,
                entries,
            };
            self.push(conn, frame);
        }
        Ok(())
    }

    fn ask(&mut self, by: Asker, group: GroupId, what: Plea) -> Result<Answer, Refusal> {
        let core = self.core(group)?;
        let op = Ask::judge(core.state.state(), by, what, self.now)?;
        self.keep(core);
        self.run(Op::Ask(op))?;
        for (conn, device) in self.followers(&group) {
            if device != by.device {
                self.push(conn, asked(&op.plea));
            }
        }
        Ok(Answer::Done)
    }

    /// GroupInfo, tree and public state of the current epoch.
    pub(super) fn group_info(&mut self, by: Asker, group: GroupId) -> Result<Answer, Refusal> {
        let core = self.core(group)?;
        if !may_rejoin(core.state.state(), by) {
            return Err(Refusal::UnknownGroup);
        }
        let answer = ready(group_info(&mut self.store.clone(), &core.state));
        self.keep(core);
        let answer = answer.map_err(|_| Refusal::Storage)?;
        answer.ok_or(Refusal::UnknownGroup)
    }
}

fn asked(plea: &PleaRow) -> ServiceFrame {
    ServiceFrame::Asked {
        group: plea.group,
        device: plea.device,
        user: plea.user,
        what: plea.what,
    }
}

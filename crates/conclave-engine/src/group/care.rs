//! Looking after a group: the GroupInfo with which devices come back, devices that cannot, evidence of what had to be refused, stores that
//! were restored from a backup.

use sha2::{Digest, Sha256};

use conclave_mls::GroupInfoVerdict;

use super::*;
use crate::command::{EvidenceInfo, Reply};
use crate::intents::Want;
use crate::work::GroupCommand;

/// Members that look at the GroupInfo after a commit.
const INFO_CHECKERS: usize = 2;
/// Why a group was left that this device could not follow.
const LEFT_LOST: &str = "left while this device could not follow the group";
/// Most refused entries kept of one group.
const EVIDENCE_ROWS: u32 = 32;

#[derive(Serialize, Deserialize)]
struct EvidenceRow {
    code: String,
    signer: Option<DeviceId>,
    at: UnixMs,
    entry: Bytes,
}

/// Position and entry of kept evidence.
pub(super) fn refused_entry((key, value): &Row) -> Option<(u64, GroupEntry)> {
    let row: EvidenceRow = keys::uncbor("evidence", value).ok()?;
    let seq = key.get(1 + GroupId::LEN..)?.try_into().ok()?;
    let entry = decode("group entry", row.entry.as_slice(), limits::FRAME_BYTES).ok()?;
    Some((u64::from_be_bytes(seq), entry))
}

impl Group {
    /// Whether a member's device asks to be added again.
    pub(crate) fn is_asking(&self, device: &DeviceId) -> bool {
        self.asking.contains(device)
    }

    /// A device that follows the group would lose what it holds by being added again: only those that ask are.
    fn check_readd(&self, user: &UserId, device: &DeviceId) -> Result<(), EngineError> {
        self.check_in_step()?;
        let row = self.state().roster.current_row(device);
        if row.is_none_or(|row| row.user != *user) {
            Err(EngineError::UnknownMember)
        } else if self.asking.contains(device) {
            Ok(())
        } else {
            Err(EngineError::NotAsking)
        }
    }
}

impl Cx {
    /// Keeps an ordered entry that had to be refused.
    pub(super) fn keep_evidence(
        &mut self,
        group: &mut Group,
        seq: u64,
        entry: &GroupEntry,
        code: &str,
        signer: Option<DeviceId>,
    ) {
        if group.meta.evidence >= EVIDENCE_ROWS {
            return;
        }
        group.meta.evidence += 1;
        self.save_meta(group);
        let row = EvidenceRow {
            code: code.to_owned(),
            signer,
            at: self.now,
            entry: encode(entry).into(),
        };
        let key = keys::evidence(&group.id, seq);
        self.put(key, keys::cbor(&row));
    }

    pub(crate) fn evidence_loaded(&mut self, id: CommandId, rows: &[Row]) {
        let skip = 1 + GroupId::LEN;
        let read = |(key, value): &Row| {
            let row: EvidenceRow = keys::uncbor("evidence", value).ok()?;
            let seq = key.get(skip..)?.try_into().ok()?;
            Some(EvidenceInfo {
                seq: u64::from_be_bytes(seq),
                code: row.code,
                signer: row.signer,
                at: row.at,
                entry: row.entry,
            })
        };
        let evidence = rows.iter().filter_map(read).collect();
        self.reply(id, Ok(Reply::Evidence(evidence)));
    }

    /// This store is older than what its device has done: it was copied back. Under the same keys nothing must be written twice: a new
    /// instance is drawn, key packages are replaced, and every group is entered anew before anything is sealed.
    pub(crate) fn found_restored(&mut self, group: &mut Group) {
        if group.is_founding() {
            // Nothing was written in it yet. Where the service has it all the same, its log will show what this device has done.
            return;
        }
        let first = self.restored.is_empty();
        if !self.restored.insert(group.id) {
            return;
        }
        if crate::broken("skip-resync") {
            // Breakage: a restored store goes on with the keys of its other life.
            return;
        }
        self.come_back(group, FindingKind::Restored, None);
        if first {
            self.device.renew_instance(&mut self.rng);
            self.device.save(&mut self.out.writes);
            self.replace_key_packages();
            self.post(Post::RestoredEverywhere);
        }
    }

    /// After a commit of somebody else: a few members, who follow from the commit, look at the GroupInfo that came with it.
    pub(super) fn plan_info_check(&mut self, group: &Group, outcome: &CommitOutcome) {
        if outcome.own {
            return;
        }
        let rank = |device: &DeviceId| -> [u8; 32] {
            let hash = Sha256::new_with_prefix(outcome.leaf.0);
            hash.chain_update(device.as_bytes()).finalize().into()
        };
        let own = self.device.id();
        let own_rank = rank(&own);
        let before = group
            .state()
            .current_rows()
            .filter(|row| Some(row.device) != outcome.author && rank(&row.device) < own_rank)
            .count();
        if before < INFO_CHECKERS {
            let delay = self.jitter(500, 5_000);
            self.cancel_timer(TimerKind::Group(group.id, GroupTimer::CheckInfo));
            self.wake(delay, TimerKind::Group(group.id, GroupTimer::CheckInfo));
        }
    }

    pub(crate) fn check_info(&mut self, group: &mut Group) {
        if !group.may_act() {
            return;
        }
        let epoch = group.state().epoch;
        let request = Request::GetGroupInfo { group: group.id };
        self.request_for(group.id, request, GroupPending::CheckInfo { epoch });
    }

    pub(crate) fn info_answered(&mut self, group: &mut Group, epoch: u64, answer: Answer) {
        let Answer::GroupInfo { group_info, .. } = answer else {
            return;
        };
        if group.state().epoch == epoch && group.may_act() {
            self.judge_info(group, group_info.as_slice());
        }
    }

    fn judge_info(&mut self, group: &mut Group, offered: &[u8]) {
        let Ok(context) = self.device.context() else {
            return;
        };
        let Ok(GroupInfoVerdict::Useless { signer }) =
            group.mls.examine_group_info(&context, offered)
        else {
            return;
        };
        let own = group.mls.export_group_info(&context);
        let signer = signer.map(Suspect::Device);
        self.finding(group.id, None, FindingKind::BadGroupInfo, signer);
        if let Ok(group_info) = own {
            self.request(
                Request::PutGroupInfo {
                    group: group.id,
                    group_info: group_info.into(),
                },
                Pending::Quiet,
            );
        }
    }

    /// A device asks to be added again. Own devices are, at once; the rest is for people to decide.
    pub(crate) fn readd_asked(&mut self, group: &mut Group, device: DeviceId) {
        if device == self.device.id() || group.check_writable().is_err() {
            return;
        }
        let row = group.state().roster.current_row(&device);
        let Some(user) = row.map(|row| row.user) else {
            return;
        };
        let first = group.asking.insert(device);
        let own = self.device.user();
        let listed = self.adds_own(&device);
        if Some(user) == own && listed {
            self.intend(group, Want::ReAdd { user, device });
            // Siblings hear it too: one of them is enough.
            let delay = self.jitter(0, 5_000);
            let until = self.now.plus_ms(delay);
            for intent in group.intents.values_mut().filter(|it| it.is_readd(&device)) {
                intent.not_before(until);
            }
            self.wake(delay, TimerKind::Group(group.id, GroupTimer::Pump));
        } else if first {
            self.event(Event::ReAddAsked {
                group: group.id,
                device,
                user,
            });
        }
    }

    /// Devices that were added again, or came back, ask no more; nobody need add them.
    pub(super) fn helped(&mut self, group: &mut Group, outcome: &CommitOutcome) {
        let back = outcome.author.filter(|_| outcome.external);
        for device in outcome.added.iter().copied().chain(back) {
            group.asking.remove(&device);
        }
    }

    /// A leave that would have left no owner is void for all.
    pub(super) fn leave_void(&mut self, group: &mut Group) {
        let leaving: Vec<u64> = group
            .intents
            .iter()
            .filter(|(_, intent)| intent.is_leave())
            .map(|(id, _)| *id)
            .collect();
        for id in leaving {
            self.finish_intent(group, id, Err(EngineError::LastOwner));
        }
    }

    pub(crate) fn readd(
        &mut self,
        id: CommandId,
        group: &mut Group,
        user: UserId,
        device: DeviceId,
    ) {
        match group.check_readd(&user, &device) {
            Err(error) => self.reply(id, Err(error)),
            Ok(()) => self.intend_waited(group, Want::ReAdd { user, device }, id),
        }
    }

    /// Leaves a group. One that this device cannot follow is let go of here; members see its leaf until one of them removes it.
    pub(crate) fn leave(&mut self, id: CommandId, group: &mut Group, anyway: bool) {
        if group.is_broken() || group.is_unproven() || group.is_frozen() {
            self.lose_group(group, PartingRow::left(LEFT_LOST));
            self.reply(id, Ok(Reply::Done));
            return;
        }
        let user = self.device.user();
        let going: BTreeSet<DeviceId> = user
            .map(|user| Self::devices_of(group, user).into_iter().collect())
            .unwrap_or_default();
        match group.check_holders(&going, &self.device.id()) {
            Err(error) if !anyway => self.reply(id, Err(error)),
            _ => self.intend_waited(group, Want::Leave, id),
        }
    }

    /// The user wants to come back, whatever is here.
    pub(crate) fn rejoin(&mut self, id: CommandId, group: &mut Group) {
        let result = if group.is_founding() {
            Err(EngineError::NotFounded)
        } else if group.is_frozen() {
            Err(FROZEN)
        } else {
            Ok(Reply::Done)
        };
        self.come_back(group, FindingKind::RejoinWanted, None);
        self.reply(id, result);
    }
}

impl Engine {
    /// Answers with what was kept. Rows are read anew: evidence stays out of memory.
    pub(crate) fn tell_evidence(&mut self, id: CommandId, group: GroupId) {
        // Also of a group that this device was removed from.
        if self.groups.contains_key(&group) {
            let prefix = keys::evidence_prefix(&group);
            self.cx.read(prefix, ReadTarget::Evidence(id));
        } else {
            self.cx.reply(id, Err(EngineError::UnknownGroup));
        }
    }

    /// One group was found older than what this device has done: so are the others.
    pub(crate) fn restored_everywhere(&mut self) {
        for id in self.active_groups() {
            self.with_group(id, GroupWork::Restored);
        }
    }

    pub(crate) fn leave(&mut self, id: CommandId, group: GroupId, anyway: bool) {
        if self.is_stray(&group) {
            self.leave_stray(Some(id), group, LEFT_LOST);
        } else {
            self.on_group(id, group, GroupCommand::Leave { anyway });
        }
    }

    pub(crate) fn rejoin(&mut self, id: CommandId, group: GroupId) {
        if self.is_stray(&group) {
            self.cx.reply(id, Ok(Reply::Done));
        } else if self.is_member_of(&group) {
            self.on_group(id, group, GroupCommand::Rejoin);
        } else {
            // Known to the service only: a store that was restored from before it joined.
            let here = Membership::Returning {
                why: FindingKind::RejoinWanted.code().to_owned(),
                blind: true,
            };
            self.cx.put(keys::index(&group), keys::cbor(&here));
            self.cx.ended(About::Group(group), End::Known);
            let stray = Box::new(Stray::default());
            self.groups.insert(group, GroupSlot::Stray(here, stray));
            self.pump_stray(group);
            self.cx.reply(id, Ok(Reply::Done));
        }
    }
}

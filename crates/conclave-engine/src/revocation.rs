//! Devices taken away from their user: signed off the list, out of every group, each document under new keys. Each is a durable job that goes
//! on by itself until that is so. What became of it is read off the groups' own state, so that a restart forgets nothing and it does not matter
//! which of the user's devices did it.

mod prune;

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::{AuthError, SignedDeviceList};
use conclave_proto::frame::{Answer, Request};
use conclave_proto::{DeviceId, DocumentId, GroupId, Refusal, Role, UnixMs, UserId};
use serde::{Deserialize, Serialize};

use crate::command::Reply;
use crate::cx::Cx;
use crate::device::{News, random};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Event;
use crate::finding::{About, End, FindingKind, Suspect};
use crate::group::{Group, Whole};
use crate::intents::{Intent, Want};
use crate::io::{CommandId, Row};
use crate::keys;
use crate::link::Pending;
use crate::membership::GroupSlot;
use crate::print::Hidden;
use crate::timers::{GroupTimer, TimerKind};
use crate::work::GroupWork;

/// Rows of jobs.
const ROWS: &str = "revoke/";
/// Jobs that are kept, those that are done included.
const JOBS: usize = 64;

/// Lists without a device that are signed one after another: a list that lost a race is built anew at once.
const FREE_SIGNATURES: u32 = 2;
/// Rest before the next one, in milliseconds; each that follows is twice as long.
const FIRST_REST_MS: u64 = 5_000;
/// Longest such rest, in milliseconds.
const LONGEST_REST_MS: u64 = 5 * 60 * 1000;

/// What became of a device in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Member,
    Removed {
        epoch: u64,
    },
    Rekeyed {
        epoch: u64,
        documents: usize,
    },
    /// This device is not in the group any more.
    Left,
}

impl Stage {
    fn is_over(&self) -> bool {
        matches!(self, Self::Rekeyed { .. } | Self::Left)
    }
}

/// A device that is being taken away, or was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    name: Option<Hidden<String>>,
    since: UnixMs,
    /// Whether the service has a list that does not name it.
    off: bool,
    /// Lists without it that were signed here, and when the last of them was.
    signed: u32,
    signed_at: UnixMs,
    groups: BTreeMap<GroupId, Stage>,
    done: Option<UnixMs>,
}

impl Job {
    /// Until when no further list is signed. Whoever names the device again and again draws no more signatures than this lets.
    fn rests_until(&self) -> UnixMs {
        match self.signed.checked_sub(FREE_SIGNATURES) {
            None => UnixMs(0),
            Some(more) => {
                let rest = FIRST_REST_MS.saturating_mul(1 << more.min(16));
                self.signed_at.plus_ms(rest.min(LONGEST_REST_MS))
            }
        }
    }
}

/// How far it is that a device is taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationInfo {
    /// The device.
    pub device: DeviceId,
    /// What it was called on this device.
    pub name: Option<String>,
    /// When that was asked for.
    pub since: UnixMs,
    /// Whether the service knows: then the device is let in no more, and nobody can add it.
    pub off: bool,
    /// Whether it is out of every group that this device is in, and all of their documents are under new keys.
    pub done: bool,
    /// The groups that it was in, of those that this device is in.
    pub groups: Vec<RevokedGroup>,
    /// Groups of which it is not known yet whether it is in them: their logs are not here as far as the service has them.
    pub unseen: Vec<GroupId>,
    /// Devices that stay on the list, and that were not approved here: whoever had the user key may have put them there.
    pub unconfirmed: Vec<DeviceId>,
}

/// What became of a device in one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedGroup {
    /// The group.
    pub group: GroupId,
    /// How far it is.
    pub stage: RevokedStage,
    /// Epoch that its removal began.
    pub epoch: Option<u64>,
    /// Documents under keys that it does not have.
    pub rekeyed: usize,
    /// Documents in all.
    pub documents: usize,
    /// Those that are not, where they were asked for.
    pub due: Vec<DocumentId>,
    /// Code of what keeps this device from removing it, where something does.
    pub held: Option<String>,
}

/// How far it is in one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokedStage {
    /// It is still a member.
    Member,
    /// It is out: what is written from now on opens for it no more. Documents are being put under new keys.
    Rekeying,
    /// All documents are.
    Complete,
    /// This device is not in the group any more.
    Left,
}

pub(crate) fn load(rows: &[Row]) -> Result<BTreeMap<DeviceId, Job>, EngineError> {
    let prefix = keys::device(ROWS);
    let what = "revocation";
    let read = |(key, value): &Row| {
        let device = DeviceId::from_slice(key.strip_prefix(prefix.as_slice())?);
        let job = keys::uncbor::<Job>(what, value);
        let device = device.ok_or(EngineError::Store { what });
        Some(device.and_then(|device| Ok((device, job?))))
    };
    rows.iter().filter_map(read).collect()
}

fn key_of(device: &DeviceId) -> Vec<u8> {
    let mut key = keys::device(ROWS);
    key.extend_from_slice(device.as_bytes());
    key
}

impl Group {
    /// What became of a device that was a member, or is.
    fn stage_of(&self, device: &DeviceId, before: Option<&Stage>) -> Option<Stage> {
        if self.parting().is_some() {
            return before.map(|_| Stage::Left);
        }
        if self.state().is_member(device) {
            return Some(Stage::Member);
        }
        if let Some(before) = before.filter(|before| before.is_over()) {
            return Some(before.clone());
        }
        let rows = self.state().roster.rows().iter();
        let last = rows.filter(|row| row.device == *device);
        let epoch = last.filter_map(|row| row.last_epoch).max();
        if before.is_none() && epoch.is_none() {
            return None;
        }
        let epoch = epoch.unwrap_or_default().saturating_add(1);
        let (_, documents) = self.kept.progress();
        Some(match self.rekey_since() == 0 && self.caught_up() {
            true => Stage::Rekeyed { epoch, documents },
            false => Stage::Removed { epoch },
        })
    }

    /// Code of what keeps this device from changing the group, where something does.
    fn held(&self) -> Option<String> {
        let why = match self {
            _ if self.is_frozen() => "group.frozen",
            _ if self.is_broken() || self.is_unproven() => "group.returning",
            _ if self.stand.is_away() => "group.away",
            _ => return None,
        };
        Some(why.to_owned())
    }
}

impl Cx {
    fn save_job(&mut self, device: &DeviceId) {
        if let Some(job) = self.revocations.get(device) {
            let row = keys::cbor(job);
            self.put(key_of(device), row);
        }
    }

    /// The user has approved a device again that was taken away.
    pub(crate) fn forget_revocation(&mut self, device: &DeviceId) {
        if self.revocations.remove(device).is_some() {
            self.delete(key_of(device));
        }
    }

    /// Whether one is not over.
    fn is_revoking(&self) -> bool {
        self.revocations.values().any(|job| job.done.is_none())
    }

    /// Devices of the own user that count as listed: those that the list names, but not what was taken away here, whoever names it again.
    pub(crate) fn own_listed(&self) -> BTreeSet<DeviceId> {
        let mut listed = self.device.own_devices();
        let taken = self.revocations.iter();
        let taken = taken.filter(|(_, job)| job.off || job.signed > 0);
        taken.for_each(|(device, _)| _ = listed.remove(device));
        listed
    }

    /// Whether this device adds a device of the own user to groups.
    pub(crate) fn adds_own(&self, device: &DeviceId) -> bool {
        !self.revocations.contains_key(device) && self.device.is_addable(device)
    }

    /// Looks at the own list.
    pub(crate) fn check_own_list(&mut self) {
        if let Some(user) = self.device.user() {
            self.check_devices(user);
        }
    }

    /// The newest own list is here, as far as the service has it: what this device wants of it is signed and published.
    pub(crate) fn go_on_with_list(&mut self) {
        let (wanted, rests_until) = self.see_listed();
        if !wanted.is_empty() && self.now < rests_until && self.device.adding().is_empty() {
            return self.wake_at(rests_until, TimerKind::OwnList);
        }
        let before = self.device.own_devices();
        let now = self.latest();
        match self.device.sign_next_list(&wanted, now) {
            Ok(true) => {
                for device in &wanted {
                    if let Some(job) = self.revocations.get_mut(device) {
                        job.signed = job.signed.saturating_add(1);
                        job.signed_at = self.now;
                    }
                    self.save_job(device);
                }
                self.device.guard_against(&before);
                self.own_list_signed();
            }
            Ok(false) => {}
            Err(error) => {
                let what = FindingKind::failed(crate::finding::Step::DeviceList, &error);
                self.found_of_device(what, None);
            }
        }
    }

    /// What was taken away here and is on the list, still or again, and until when no list is signed for that.
    fn see_listed(&mut self) -> (BTreeSet<DeviceId>, UnixMs) {
        let published = self.device.is_list_published();
        let listed = self.device.own_devices();
        let mut wanted = BTreeSet::new();
        let mut changed = Vec::new();
        let mut rests_until = UnixMs(0);
        let mut again = false;
        for (device, job) in &mut self.revocations {
            let off = !listed.contains(device);
            if !off {
                wanted.insert(*device);
                rests_until = rests_until.max(job.rests_until());
            }
            if off != job.off && (published || !off) {
                again |= job.off;
                job.off = off;
                job.done = job.done.filter(|_| off);
                changed.push(*device);
            }
        }
        changed.iter().for_each(|device| self.save_job(device));
        if again {
            self.found_of_device(FindingKind::ForeignList, None);
        }
        (wanted, rests_until)
    }

    /// The next own list was signed here: it is kept and published.
    fn own_list_signed(&mut self) {
        self.device.save(&mut self.out.writes);
        self.tell_unconfirmed();
        if let Some(user) = self.device.user() {
            self.event(Event::DevicesChanged { user });
        }
        self.publish_list();
    }

    pub(crate) fn found_of_device(&mut self, what: FindingKind, suspect: Option<Suspect>) {
        self.found(crate::finding::Finding {
            what,
            about: About::Device,
            suspect,
        });
    }

    /// Tells what a list that came shows.
    pub(crate) fn tell_list(&mut self, user: UserId, news: News) {
        if news.two {
            let own = Some(user) == self.device.user();
            let what = FindingKind::TwoLists { own };
            self.found_of_device(what, Some(Suspect::User(user)));
        }
        if news.lacks_approved {
            self.found_of_device(FindingKind::ApproveAgain, None);
        }
    }

    /// The own list as the service has it.
    fn learn_own_list(&mut self, bytes: &[u8]) {
        let Some(user) = self.device.user() else {
            return;
        };
        let before = self.device.own_devices();
        let news = SignedDeviceList::from_bytes(bytes).and_then(|list| {
            if list.user() != user {
                return Err(AuthError::WrongUser);
            }
            self.device.learn_list(list, &mut self.out.writes)
        });
        let news = match news {
            Ok(news) => news,
            Err(error) => {
                let what = FindingKind::failed(crate::finding::Step::DeviceList, &error);
                return self.found_of_device(what, Some(Suspect::Service));
            }
        };
        self.tell_list(user, news);
        if news.newer || news.two {
            self.own_list_changed(user, &before);
        }
    }

    /// Another list of the own user's is the newest here.
    pub(crate) fn own_list_changed(&mut self, user: UserId, before: &BTreeSet<DeviceId>) {
        let now = self.device.own_devices();
        let guarded = self.device.is_guarded();
        let is_alarming = before.difference(&now).next().is_some()
            || now.difference(before).any(|it| self.device.was_listed(it));
        self.device.guard_against(before);
        self.device.save(&mut self.out.writes);
        // Of a device that is only new the other finding tells, until the user has said that it is theirs.
        if guarded && is_alarming {
            self.found_of_device(FindingKind::ForeignList, None);
        }
        self.tell_unconfirmed();
        self.event(Event::DevicesChanged { user });
    }

    /// Devices that wait for the user's word are told of as long as there are any.
    fn tell_unconfirmed(&mut self) {
        let own = self.device.own_devices();
        let is_settled = |device: &DeviceId| {
            self.revocations.contains_key(device) || self.device.is_confirmed(device)
        };
        match own.iter().all(is_settled) {
            true => self.ended(About::Device, End::Confirmed),
            false => self.found_of_device(FindingKind::UnconfirmedDevice, None),
        }
    }
}

impl Engine {
    pub(crate) fn revoke_device(&mut self, id: CommandId, device: DeviceId) {
        let result = self.begin_revoking(device);
        let infos = |this: &Self| this.revocation_infos(Some(device), true);
        let result = result.map(|()| Reply::Revocations(infos(self)));
        self.cx.reply(id, result);
    }

    fn begin_revoking(&mut self, device: DeviceId) -> Result<(), EngineError> {
        let who = self.cx.device.whoami();
        let Some(user) = who.user.filter(|_| who.enrolled) else {
            return Err(EngineError::NotEnrolled);
        };
        if device == who.device {
            return Err(EngineError::OwnDevice);
        }
        let listed = self.cx.device.lists_own(&device);
        if let Some(job) = self.cx.revocations.get_mut(&device) {
            // Asked for again: it goes on, or was done. Where it is listed again, the user's word needs no rest.
            if listed {
                (job.off, job.signed, job.done) = (false, job.signed.min(1), None);
                self.cx.save_job(&device);
                self.cx.check_devices(user);
            }
            return Ok(());
        }
        if !listed {
            return Err(EngineError::UnknownDevice);
        }
        if !who.holds_user_key {
            return Err(EngineError::NoUserKey);
        }
        let stage = |whole: &Whole| {
            let stage = whole.group.stage_of(&device, None)?;
            Some((whole.group.id, stage))
        };
        let job = Job {
            name: self.cx.device.name_of_device(&device).map(Hidden),
            since: self.cx.now,
            off: false,
            signed: 0,
            signed_at: UnixMs(0),
            groups: self.wholes().filter_map(stage).collect(),
            done: None,
        };
        self.forget_old_jobs();
        self.cx.revocations.insert(device, job);
        self.cx.save_job(&device);
        self.cx.device.guard_from(&device);
        self.cx.device.save(&mut self.cx.out.writes);
        self.cx.tell_unconfirmed();
        // The newest list first. Offline it waits for that.
        self.cx.check_devices(user);
        Ok(())
    }

    /// Room for one more: the oldest of those that are done go.
    fn forget_old_jobs(&mut self) {
        while self.cx.revocations.len() >= JOBS {
            let jobs = self.cx.revocations.iter();
            let done = jobs.filter_map(|(device, job)| Some((job.done?, *device)));
            let Some((_, oldest)) = done.min() else {
                return;
            };
            self.cx.forget_revocation(&oldest);
        }
    }

    /// What became of the own list's question: from here on what this device wants of it can be signed.
    pub(crate) fn own_list_answered(&mut self, answer: &Answer) {
        match answer {
            Answer::DeviceList { list } => {
                self.cx.link.lists_seen.extend(self.cx.device.user());
                self.cx.learn_own_list(list.as_slice());
            }
            Answer::Refused(Refusal::UnknownUser) => {}
            _ => return,
        }
        self.cx.go_on_with_list();
        for id in self.active_groups() {
            self.with_group(id, GroupWork::MatchDevices);
        }
    }

    /// The user says that a device is theirs: it is added to groups as others are. Where there are two lists of one number, the next one is signed,
    /// so that it is known which counts.
    pub(crate) fn confirm_device(&mut self, id: CommandId, device: DeviceId) {
        let result = self.cx.device.confirm_device(device);
        if result.is_ok() {
            self.cx.forget_revocation(&device);
            let now = self.cx.latest();
            match self.cx.device.settle_two_lists(now) {
                true => self.cx.own_list_signed(),
                false => {
                    self.cx.device.save(&mut self.cx.out.writes);
                    self.cx.tell_unconfirmed();
                }
            }
            for group in self.active_groups() {
                self.with_group(group, GroupWork::MatchDevices);
            }
        }
        self.cx.reply(id, result.map(|()| Reply::Done));
    }

    /// Follows what became of devices that are taken away. Costs nothing where none is.
    pub(crate) fn go_on_revoking(&mut self) {
        if !self.cx.is_revoking() {
            return;
        }
        let devices: Vec<DeviceId> = self.cx.revocations.keys().copied().collect();
        for device in devices {
            self.follow_revocation(device);
        }
    }

    fn follow_revocation(&mut self, device: DeviceId) {
        let job = self.cx.revocations.get(&device);
        let Some(mut job) = job.filter(|job| job.done.is_none()).cloned() else {
            return;
        };
        let before = job.groups.clone();
        let unseen = !self.unseen(&job).is_empty();
        let mut on_its_way = false;
        for (id, slot) in &self.groups {
            let known = job.groups.get(id);
            let stage = match slot {
                GroupSlot::Hot(whole) => whole.group.stage_of(&device, known),
                slot if !slot.membership().is_active() => known.map(|_| Stage::Left),
                // It comes into memory, or back.
                _ => {
                    on_its_way |= known.is_some_and(|stage| !stage.is_over());
                    None
                }
            };
            if let Some(stage) = stage {
                job.groups.insert(*id, stage);
            }
        }
        let gone = |id: &GroupId| !self.groups.contains_key(id);
        for (_, stage) in job.groups.iter_mut().filter(|(id, _)| gone(id)) {
            *stage = Stage::Left;
        }
        let over = job.off && !unseen && !on_its_way && job.groups.values().all(Stage::is_over);
        job.done = over.then_some(self.cx.now);
        if job.groups == before && !over {
            return;
        }
        self.cx.revocations.insert(device, job);
        self.cx.save_job(&device);
        if over && let Some(revocation) = self.revocation_infos(Some(device), false).pop() {
            self.cx.event(Event::Revoked { revocation });
        }
    }

    /// Groups of which it is not known yet whether a device is in them.
    fn unseen(&self, job: &Job) -> Vec<GroupId> {
        let is_unseen = |slot: &GroupSlot| match slot {
            GroupSlot::Hot(whole) => !whole.group.caught_up(),
            slot => slot.membership().is_active(),
        };
        let unknown = self.groups.iter().filter(|(id, slot)| {
            let here = slot.membership().is_active();
            here && !job.groups.contains_key(*id) && is_unseen(slot)
        });
        unknown.map(|(id, _)| *id).collect()
    }

    /// How far it is with one device, or all that are kept, the newest last. Documents that are due are named only where that is wanted.
    pub(crate) fn revocation_infos(
        &self,
        only: Option<DeviceId>,
        due: bool,
    ) -> Vec<RevocationInfo> {
        let jobs = self.cx.revocations.iter();
        let wanted = jobs.filter(|(device, _)| only.is_none_or(|only| only == **device));
        let mut all: Vec<RevocationInfo> = wanted
            .map(|(device, job)| self.revocation_info(*device, job, due))
            .collect();
        all.sort_by_key(|info| (info.since, info.device));
        all
    }

    /// Those that are not over.
    pub(crate) fn open_revocations(&self) -> Vec<RevocationInfo> {
        let mut all = self.revocation_infos(None, false);
        all.retain(|info| !info.done);
        all
    }

    fn revocation_info(&self, device: DeviceId, job: &Job, due: bool) -> RevocationInfo {
        let stays = self.cx.own_listed().into_iter();
        let stays = stays.filter(|it| *it != self.cx.device.id() && !self.cx.device.is_known(it));
        let groups = job.groups.iter();
        RevocationInfo {
            device,
            name: job.name.as_ref().map(|name| name.0.clone()),
            since: job.since,
            off: job.off,
            done: job.done.is_some(),
            groups: groups
                .map(|(id, it)| self.revoked_group(*id, it, due))
                .collect(),
            unseen: match job.done {
                Some(_) => Vec::new(),
                None => self.unseen(job),
            },
            unconfirmed: stays.filter(|it| *it != device).collect(),
        }
    }

    fn revoked_group(&self, id: GroupId, stage: &Stage, due: bool) -> RevokedGroup {
        let group = self.whole(&id).map(|whole| &whole.group);
        let mut info = RevokedGroup {
            group: id,
            stage: RevokedStage::Left,
            epoch: None,
            rekeyed: 0,
            documents: 0,
            due: Vec::new(),
            held: None,
        };
        match *stage {
            Stage::Left => {}
            Stage::Member => {
                info.stage = RevokedStage::Member;
                info.documents = group.map_or(0, |group| group.kept.progress().1);
                info.held = group.and_then(Group::held);
            }
            Stage::Removed { epoch } => {
                info.stage = RevokedStage::Rekeying;
                info.epoch = Some(epoch);
                if let Some(group) = group {
                    (info.rekeyed, info.documents) = group.kept.progress();
                    if due {
                        info.due = group.kept.due().collect();
                    }
                }
            }
            Stage::Rekeyed { epoch, documents } => {
                info.stage = RevokedStage::Complete;
                info.epoch = Some(epoch);
                (info.rekeyed, info.documents) = (documents, documents);
            }
        }
        info
    }
}

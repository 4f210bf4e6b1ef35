//! Root wraps: taken from others, and given to them.

use std::collections::BTreeSet;

use conclave_mls::{ClientGroup, EpochRoot, EpochSecrets};
use conclave_proto::DeviceId;
use conclave_proto::frame::{Answer, Request};
use conclave_proto::group::RootWrap;
use conclave_proto::policy::JoinerAccess;

use super::doubts::Verdict;
use crate::cx::Cx;
use crate::finding::{FindingKind, Step, Suspect};
use crate::group::{Group, Whole};
use crate::link::{GroupPending, Pending};
use crate::timers::{GroupTimer, TimerKind};
use crate::work::GroupWork;

impl Cx {
    /// Asks for the wraps of the current epoch: some root is missing here.
    pub(crate) fn ask_for_wraps(&mut self, group: &mut Group) {
        let epoch = group.state().epoch;
        if !self.link.online || group.missing.asked == Some(epoch) {
            return;
        }
        group.missing.asked = Some(epoch);
        let pleaded = group.missing.pleas.tries() > 0;
        let request = Request::GetWraps {
            group: group.id,
            epoch,
        };
        let what = GroupPending::MissingWraps { epoch, pleaded };
        self.request_for(group.id, request, what);
    }

    /// Where the service has no answer, or a new epoch has begun meanwhile, what is still missing then is asked for again.
    pub(crate) fn missing_wraps_answered(
        &mut self,
        whole: &mut Whole,
        epoch: u64,
        pleaded: bool,
        answer: Answer,
    ) {
        let group = &mut whole.group;
        if group.missing.asked == Some(epoch) {
            group.missing.asked = None;
        }
        let Some(wraps) = group.current_wraps(epoch, answer) else {
            return;
        };
        self.use_wraps(group, &wraps);
        if pleaded {
            self.wraps_answered(whole, &wraps);
        }
    }

    fn use_wraps(&mut self, group: &mut Group, wraps: &[RootWrap]) {
        let own = self.device.id();
        let (mut news, mut wrong) = (false, false);
        for wrap in wraps.iter().filter(|wrap| wrap.signer != own) {
            for (epoch, root) in self.read_wrap(group, wrap) {
                news |= self.take_value(group, epoch, root, wrap.signer, &own);
            }
            if group.is_wrong_wrap(wrap) {
                wrong = true;
                self.wrong_wrap(group, wrap.signer);
            }
        }
        if news {
            self.intents_epoch_changed(group);
            self.post_group(group.id, GroupWork::RetryDocuments);
            self.open_again(group);
            // What nobody needs here does not come back through somebody else's wrap.
            self.erase_roots(group);
        }
        if wrong && !wraps.iter().any(|wrap| wrap.signer == own) {
            self.put_own_wrap(group);
        }
    }

    /// The roots in a wrap, if it is one.
    fn read_wrap(&mut self, group: &mut Group, wrap: &RootWrap) -> Vec<(u64, EpochRoot)> {
        let Some(secrets) = group.secrets.clone() else {
            return Vec::new();
        };
        if group.state().judge_wrap(wrap).is_err() {
            let service = Some(Suspect::Service);
            self.finding(group.id, None, FindingKind::BadWrap, service);
            return Vec::new();
        }
        let roots = match ClientGroup::open_wrap(&secrets, wrap) {
            Ok(roots) => roots,
            Err(error) => {
                let what = FindingKind::failed(Step::ReadKeys, &error);
                self.finding(group.id, None, what, Some(wrap.signer.into()));
                return Vec::new();
            }
        };
        if !roots.is_empty() {
            // Whoever sealed it holds the secrets of this epoch.
            self.proven(group, wrap.statement.epoch);
        }
        roots
    }

    /// A value for a root, from somebody's wrap. True where it is taken.
    pub(super) fn take_value(
        &mut self,
        group: &mut Group,
        epoch: u64,
        root: EpochRoot,
        from: DeviceId,
        own: &DeviceId,
    ) -> bool {
        match group.roots.0.get(&epoch) {
            Some(known) if *known == root => false,
            Some(_) if group.roots.1.is_open(epoch) => {
                group.roots.1.contest(epoch, root, from);
                false
            }
            Some(_) => false,
            None => {
                let from = match group.judge_value(epoch, &root, from, own) {
                    Verdict::Try => Some(from),
                    Verdict::Believe => None,
                    Verdict::Refuse => return false,
                };
                self.keep_root(group, epoch, root, from)
            }
        }
    }

    /// A device came back or asks for roots: one member, whoever is first, gives them.
    pub(crate) fn plan_wrap(&mut self, group: &Group) {
        if group.state().policy.joiner_access == JoinerAccess::LiveContent {
            let delay = self.jitter(200, 3_000);
            self.wake(delay, TimerKind::Group(group.id, GroupTimer::Wrap));
        }
    }

    /// Puts a wrap unless others' already hold all that this device knows. One that differs is told of, and answered by an own
    /// one.
    pub(crate) fn wrap_due(&mut self, group: &mut Group) {
        if !group.may_act() || group.roots.0.len() < 2 {
            return;
        }
        let epoch = group.state().epoch;
        let request = Request::GetWraps {
            group: group.id,
            epoch,
        };
        self.request_for(group.id, request, GroupPending::OwnWrap { epoch });
    }

    pub(crate) fn own_wrap_answered(&mut self, group: &mut Group, epoch: u64, answer: Answer) {
        let own = self.device.id();
        let returned = group.came_back;
        // Whoever asks although there is one wants a second opinion.
        let wanted = 1 + usize::from(std::mem::take(&mut group.missing.heard_plea));
        let (mut givers, mut given) = (BTreeSet::new(), false);
        for wrap in group.current_wraps(epoch, answer).unwrap_or_default() {
            given |= wrap.signer == own;
            if group.is_wrong_wrap(&wrap) {
                self.wrong_wrap(group, wrap.signer);
            } else if Some(wrap.signer) != returned && group.has_all(&wrap) {
                let row = group.state().roster.current_row(&wrap.signer);
                givers.extend(row.map(|row| row.user));
            }
        }
        if givers.len() < wanted && !given {
            self.put_own_wrap(group);
        }
    }

    /// Gives joiners another wrap to choose from.
    fn put_own_wrap(&mut self, group: &mut Group) {
        if group.may_act()
            && let Some(wrap) = self.own_wrap(group)
        {
            self.request(Request::PutWrap { wrap }, Pending::Quiet);
        }
    }

    /// All live roots that are here, sealed for joiners of the present epoch.
    pub(crate) fn own_wrap(&mut self, group: &Group) -> Option<RootWrap> {
        let context = self.device.context().ok()?;
        let secrets = group.secrets.as_ref()?;
        let roots = group.live_roots();
        let sealed = group
            .mls
            .seal_wrap(&context, secrets, &roots, &mut self.rng);
        sealed.ok()
    }
}

impl Group {
    /// Wraps that were asked for. None where the service gives none, or where another epoch has begun meanwhile.
    fn current_wraps(&self, epoch: u64, answer: Answer) -> Option<Vec<RootWrap>> {
        match answer {
            Answer::Wraps { wraps } => Some(wraps).filter(|_| self.state().epoch == epoch),
            _ => None,
        }
    }

    fn roots_of(&self, wrap: &RootWrap) -> Vec<(u64, EpochRoot)> {
        let good = self.state().judge_wrap(wrap).is_ok();
        let open = |secrets: &EpochSecrets| ClientGroup::open_wrap(secrets, wrap).ok();
        let secrets = self.secrets.as_ref().filter(|_| good);
        secrets.and_then(open).unwrap_or_default()
    }

    /// Whether a value differs from a root that is certain.
    fn is_wrong(&self, epoch: u64, root: &EpochRoot) -> bool {
        let known = self.roots.0.get(&epoch);
        known.is_some_and(|known| known != root) && !self.roots.1.is_open(epoch)
    }

    fn is_wrong_wrap(&self, wrap: &RootWrap) -> bool {
        let roots = self.roots_of(wrap);
        roots
            .iter()
            .any(|(epoch, root)| self.is_wrong(*epoch, root))
    }

    /// Whether a wrap holds every older root that this device would wrap, as it is here.
    fn has_all(&self, wrap: &RootWrap) -> bool {
        let held = self.roots_of(wrap);
        let current = self.state().epoch;
        let mut own = self.live_roots().into_iter();
        own.all(|root| root.0 >= current || held.contains(&root))
    }

    /// Whether another member, who was one in `epoch`, has wrapped roots in answer and that epoch's is not among them.
    pub(super) fn is_without(&self, wrap: &RootWrap, own: &DeviceId, epoch: u64) -> bool {
        let held = self.roots_of(wrap);
        wrap.signer != *own
            && !held.is_empty()
            && held.iter().all(|(other, _)| *other != epoch)
            && self.state().row(&wrap.signer, epoch).is_some()
    }
}

//! Welcomes: kept until the user accepts or declines. Siblings' and own users' are accepted at once.

use std::collections::BTreeMap;

use conclave_mls::{ClientGroup, EpochRoot, EpochSecrets, MlsError};
use conclave_proto::codec::{Bytes, decode, encode};
use conclave_proto::frame::{Request, WelcomeDelivery};
use conclave_proto::policy::TrustPolicy;
use conclave_proto::{DeviceId, GroupId, UserId, limits};
use conclave_rules::GroupState;
use serde::{Deserialize, Serialize};

use crate::command::{InvitationInfo, Reply};
use crate::cx::Cx;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Event;
use crate::finding::{About, End, FindingKind, Step, Suspect};
use crate::group::{Group, Whole};
use crate::intents::Want;
use crate::io::CommandId;
use crate::keys;
use crate::link::Pending;
use crate::membership::{GroupSlot, Membership};
use crate::slot::Awaited;
use crate::timers::TimerKind;
use crate::work::GroupWork;

/// Invitations kept at most.
const INVITATIONS: usize = 64;
/// Most that are counted beside those.
const LEFT: usize = 4096;
/// After an answer this long passes until others take its place, in milliseconds: it may not be the last.
const FETCH_AFTER_MS: u64 = 5_000;
/// Largest invitation kept, in bytes.
const INVITATION_BYTES: usize = 16 * 1024 * 1024;

/// A Welcome that waits.
#[derive(Debug)]
pub(crate) struct Invitation {
    delivery: WelcomeDelivery,
    pub(crate) inviter: UserId,
    users: usize,
    /// What its group says of whom people may trust.
    trust: TrustPolicy,
}

#[derive(Serialize, Deserialize)]
struct InvitationRow {
    delivery: Bytes,
}

impl Invitation {
    pub(crate) fn load(row: &[u8]) -> Result<Self, EngineError> {
        let row: InvitationRow = keys::uncbor("invitation", row)?;
        let delivery = decode("invitation", row.delivery.as_slice(), limits::FRAME_BYTES);
        delivery
            .ok()
            .and_then(Self::read)
            .ok_or(EngineError::Store { what: "invitation" })
    }

    /// Reads who invites from the public state; joining verifies it.
    fn read(delivery: WelcomeDelivery) -> Option<Self> {
        let state = GroupState::from_bytes(delivery.state.group_state.as_slice()).ok()?;
        let signer: DeviceId = delivery.state.wrap.signer;
        if state.epoch != delivery.epoch || state.group != delivery.group {
            return None;
        }
        let inviter = state.current_rows().find(|row| row.device == signer)?.user;
        let users: std::collections::BTreeSet<UserId> =
            state.current_rows().map(|row| row.user).collect();
        Some(Self {
            delivery,
            inviter,
            users: users.len(),
            trust: state.policy.trust.clone(),
        })
    }
}

impl Invitation {
    /// Whether the log that this device has judged says that a member added it again by this very invitation.
    fn is_shown_by(&self, group: &Group) -> bool {
        GroupState::from_bytes(self.delivery.state.group_state.as_slice())
            .is_ok_and(|state| group.was_readded(&state))
    }
}

impl Engine {
    pub(crate) fn welcome(&mut self, delivery: WelcomeDelivery) {
        let group = delivery.group;
        let parting = self.cx.parting.contains_key(&group);
        if parting || !self.is_member_of(&group) {
            self.keep_welcome(delivery);
            return;
        }
        self.with_group(group, GroupWork::Welcome(Box::new(delivery)));
    }

    /// Stores a Welcome until the user decides.
    pub(crate) fn keep_welcome(&mut self, delivery: WelcomeDelivery) {
        let (group, id) = (delivery.group, delivery.id);
        let newer = self
            .invitations
            .get(&group)
            .is_none_or(|known| known.delivery.epoch < delivery.epoch);
        let row = InvitationRow {
            delivery: encode(&delivery).into(),
        };
        let Some(invitation) = Invitation::read(delivery) else {
            let service = Some(Suspect::Service);
            self.cx
                .finding(group, None, FindingKind::BadWelcome, service);
            self.cx.ack_welcome(id);
            return;
        };
        if !newer || row.delivery.len() > INVITATION_BYTES {
            return;
        }
        let has_room = self.has_room_for_invitation(&invitation.inviter);
        let left = &mut self.cx.link.left_invitations;
        left.remove(&group);
        if !has_room {
            if left.len() < LEFT {
                left.insert(group, invitation.inviter);
            }
            return;
        }
        let key = keys::invitation(&group);
        self.cx.put(key, keys::cbor(&row));
        self.invitations.insert(group, invitation);
        self.cx.ended(About::Group(group), End::Known);
        self.offer_invitation(group);
    }

    /// Strangers' invitations cannot be accepted before they are verified; a few are kept for then.
    fn has_room_for_invitation(&self, inviter: &UserId) -> bool {
        let known =
            self.cx.device.pins().get(inviter).is_some() || Some(*inviter) == self.cx.device.user();
        let room = if known { INVITATIONS } else { INVITATIONS / 4 };
        self.invitations.len() < room
    }

    /// Some that were left at the service may have room now: they come with the next connection, which is made in a while.
    pub(crate) fn plan_invitations(&mut self) {
        let mut left = self.cx.link.left_invitations.values();
        if left.any(|inviter| self.has_room_for_invitation(inviter)) {
            self.cx.wake(FETCH_AFTER_MS, TimerKind::Invitations);
        }
    }

    pub(crate) fn fetch_invitations(&mut self) {
        let mut left = self.cx.link.left_invitations.values();
        if left.any(|inviter| self.has_room_for_invitation(inviter)) {
            self.cx
                .hang_up("there is room for the invitations that wait");
        }
    }

    /// Joins at once what a listed device of the own user invites to, and a group that this device wants back into; tells the user of the
    /// rest.
    pub(crate) fn offer_invitation(&mut self, group: GroupId) {
        let active = self.is_member_of(&group);
        if active && self.is_broken(&group) {
            // Still a member, as far as it knows: it joins at once where the log that it has judged says that it was added again.
            return self.offer_readmission(group);
        }
        let wanted = self.is_stray(&group);
        let Some(invitation) = self.invitations.get(&group).filter(|_| !active || wanted) else {
            return;
        };
        let signer = invitation.delivery.state.wrap.signer;
        let own = Some(invitation.inviter) == self.cx.device.user() && self.cx.adds_own(&signer);
        if own {
            if let Err(error) = self.join(group, false) {
                let what = FindingKind::failed(Step::JoinOwn, &error);
                self.cx.finding(group, None, what, None);
            }
        } else if let Some(info) = self.invitation_info(&group) {
            self.cx.event(Event::Invitation { invitation: info });
        }
    }

    fn offer_readmission(&mut self, id: GroupId) {
        let (Some(invitation), Some(whole)) = (self.invitations.get(&id), self.whole(&id)) else {
            return;
        };
        let readded = invitation.is_shown_by(&whole.group);
        // One that can compare nothing takes the word of somebody whom its user knows; it seals nothing before more is shown.
        let trust = &whole.group.state().policy.trust;
        let known = self.cx.device.pins().admits(&invitation.inviter, trust);
        let known = known.is_ok();
        if readded || (whole.group.asks_blindly() && known) {
            if let Err(error) = self.join(id, false) {
                let what = FindingKind::failed(Step::JoinOwn, &error);
                self.cx.finding(id, None, what, None);
            }
        } else if let Some(info) = self.invitation_info(&id) {
            self.cx.event(Event::Invitation { invitation: info });
        }
    }

    /// Whether this device cannot follow a group that is in memory, and may join it anew. An invitation into a frozen one waits.
    fn is_broken(&self, group: &GroupId) -> bool {
        self.whole(group)
            .is_some_and(|whole| whole.group.is_broken() && !whole.group.is_frozen())
    }

    fn invitation_info(&self, group: &GroupId) -> Option<InvitationInfo> {
        let invitation = self.invitations.get(group)?;
        Some(InvitationInfo {
            group: *group,
            inviter: invitation.inviter,
            inviter_name: self.cx.name_of(&invitation.inviter),
            inviter_verified: self.cx.is_verified(&invitation.inviter),
            users: invitation.users,
        })
    }

    pub(crate) fn invitation_infos(&self) -> Vec<InvitationInfo> {
        self.invitations
            .keys()
            .filter_map(|group| self.invitation_info(group))
            .collect()
    }

    pub(crate) fn accept(&mut self, id: CommandId, group: GroupId) {
        let result = match self.is_broken(&group) {
            true => self.join_again(group),
            false => self.join(group, false),
        };
        self.cx.reply(id, result.map(|()| Reply::Done));
    }

    /// Joins a group anew that this device cannot follow: where its judged log shows this very invitation, or where there is nothing left to
    /// compare with. Then it is the inviter's word that the user takes, and nothing is sealed before more is shown.
    fn join_again(&mut self, group: GroupId) -> Result<(), EngineError> {
        let invitation = self.invitations.get(&group);
        let invitation = invitation.ok_or(EngineError::NoInvitation)?;
        let may = |whole: &Whole| invitation.is_shown_by(&whole.group) || whole.group.is_blind();
        if self.whole(&group).is_some_and(may) {
            self.join(group, false)
        } else {
            Err(self.group_taken(invitation))
        }
    }

    /// Whoever declines joins, to leave at once; but a group that this device is in is not left by declining somebody's invitation to it.
    pub(crate) fn decline(&mut self, id: CommandId, group: GroupId) {
        let result = if !self.is_member_of(&group) {
            self.join(group, true)
        } else if let Some(invitation) = self.invitations.get(&group) {
            let delivery = invitation.delivery.id;
            self.drop_invitation(&group, delivery);
            Ok(())
        } else {
            Err(EngineError::NoInvitation)
        };
        self.cx.reply(id, result.map(|()| Reply::Done));
    }

    fn group_taken(&self, invitation: &Invitation) -> EngineError {
        let name = self.cx.name_of(&invitation.inviter);
        EngineError::GroupTaken {
            inviter: name.unwrap_or_else(|| invitation.inviter.to_string()),
        }
    }

    fn drop_invitation(&mut self, group: &GroupId, delivery: u64) {
        self.invitations.remove(group);
        let key = keys::invitation(group);
        self.cx.delete(key);
        self.cx.ack_welcome(delivery);
        self.plan_invitations();
    }

    /// Puts a group in place that a Welcome opened.
    fn enter(
        &mut self,
        id: GroupId,
        mls: ClientGroup,
        secrets: EpochSecrets,
        wrapped: (Vec<(u64, EpochRoot)>, DeviceId),
        declining: bool,
    ) {
        let (wrapped, signer) = wrapped;
        if self.is_broken(&id) {
            // Still a member, and added again: documents and edits stay.
            self.on_whole(id, |cx, whole| {
                let group = &mut whole.group;
                // What the judged log does not show was accepted by the user, on the inviter's word.
                let blind = !group.was_readded(mls.state());
                for (epoch, root) in wrapped {
                    cx.keep_root(group, epoch, root, Some(signer));
                }
                cx.replace_mls(group, mls, secrets, blind);
            });
            return self.with_group(id, GroupWork::Look);
        }
        self.cx.ended(About::Group(id), End::Back);
        let mut group = if self.is_stray(&id) {
            let alone = mls.state().current_rows().count() == 1;
            let membership = match alone {
                true => Membership::Member,
                false => Membership::Unproven {
                    since: secrets.epoch,
                },
            };
            self.group_of_stray(id, mls, membership)
        } else {
            // Whatever an earlier membership left behind does not belong to this one. What it wrote is at the service still, where it would look
            // like another life's.
            if self.groups.contains_key(&id) {
                self.cx.device.renew_instance(&mut self.cx.rng);
                self.cx.device.save(&mut self.cx.out.writes);
            }
            let mut documents = BTreeMap::new();
            match self.remove_group(&id) {
                Some(GroupSlot::Hot(mut whole)) => {
                    self.cx.forget_documents(&mut whole);
                    documents = whole.group.documents;
                }
                Some(GroupSlot::Loading(_, work)) => {
                    let waiters = work.iter().filter_map(Awaited::waiter);
                    self.cx.reply_all(waiters, &EngineError::UnknownGroup);
                }
                Some(GroupSlot::Cold(_) | GroupSlot::Stray(..)) | None => {}
            }
            self.cx.drop_group_rows(&id, &documents);
            Group::new(id, mls, Membership::Member)
        };
        for (epoch, root) in wrapped {
            self.cx.keep_root(&mut group, epoch, root, Some(signer));
        }
        if declining {
            self.cx.mark_declined(&mut group);
            self.cx.intend(&mut group, Want::Leave);
        }
        self.adopt_group(group, secrets);
    }

    /// Joins by a Welcome. Declining joins too, only to leave at once: the leaf has to go.
    fn join(&mut self, id: GroupId, declining: bool) -> Result<(), EngineError> {
        let invitation = self.invitations.get(&id).ok_or(EngineError::NoInvitation)?;
        // A Welcome never takes the place of a group that this device is in and follows.
        let comes_back = self.is_stray(&id) || self.is_broken(&id);
        if self.is_member_of(&id) && !comes_back {
            return Err(self.group_taken(invitation));
        }
        let own = Some(invitation.inviter) == self.cx.device.user();
        // Whoever joins believes who invites as whoever invites believes who joins.
        if !own && !declining {
            let pins = self.cx.device.pins();
            let admitted = pins.admits(&invitation.inviter, &invitation.trust);
            admitted.map_err(EngineError::NotVerified)?;
        }
        let delivery = invitation.delivery.clone();
        let context = self.cx.device.context()?;
        let packages = self.cx.keystore.count();
        let (mls, joined) =
            match ClientGroup::join(&context, &mut self.cx.keystore, &delivery, self.cx.now) {
                Ok(joined) => joined,
                Err(error) => {
                    if matches!(error, MlsError::NoKeyPackage) {
                        // Others like it were published too. The device is a member all the same: its user is told, and can rejoin.
                        self.cx.replace_key_packages();
                        let what = FindingKind::MembershipUnknown { invited: true };
                        self.cx.finding(id, None, what, None);
                    }
                    if matches!(
                        error,
                        MlsError::BadInvitation { .. } | MlsError::NoKeyPackage
                    ) {
                        // It will never work, and keeps a true one out.
                        self.drop_invitation(&id, delivery.id);
                    }
                    return Err(error.into());
                }
            };
        // A one-time package is gone after its use; where none is, the last-resort package was used and has to be replaced.
        let last_resort_used = self.cx.keystore.count() == packages;
        // A wrap that does not open is no reason not to join: others can be asked for.
        let wrapped = ClientGroup::open_wrap(&joined.secrets, &delivery.state.wrap);
        self.enter(
            id,
            mls,
            joined.secrets,
            (wrapped.unwrap_or_default(), delivery.state.wrap.signer),
            declining,
        );
        self.cx.keep_listing(&id, &delivery.state.entries);
        self.drop_invitation(&id, delivery.id);
        if last_resort_used {
            self.cx.refill(true);
        }
        if !declining {
            // Added without a path: the leaf is renewed soon, paced.
            self.on_whole(id, |cx, whole| cx.mark_renew_due(&mut whole.group, true));
            self.with_group(id, GroupWork::MatchDevices);
        }
        self.with_group(id, GroupWork::Look);
        Ok(())
    }
}

impl Cx {
    pub(crate) fn ack_welcome(&mut self, id: u64) {
        self.request(Request::AckWelcome { id }, Pending::Quiet);
    }
}

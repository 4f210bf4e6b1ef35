//! Groups that the service does not have and a member brings: it was wiped, set up anew, or put back to before they were founded.
//!
//! Nothing proves to a service that has nothing of a group what the group was: it believes a member as a joiner believes a service. What the log was
//! before is not here; it goes on from there, and whoever has more than was brought brings that, while the log stands.

use conclave_mls::{Adoption, PublicGroupState};
use conclave_proto::codec::encode;
use conclave_proto::group::RootWrap;
use conclave_proto::hash::labelled;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault};
use conclave_proto::{DeviceId, GroupId, Hash, Refusal, UnixMs, UserId, limits};
use conclave_rules::LogId;

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits::ADOPTED_HOLD_MS;
use crate::op::Asker;
use crate::rows::{BaseRow, GroupRow, PartChange, RecoveryRow};

/// A group as a member brought it, judged. The same offer again is accepted again.
#[derive(Debug, Clone)]
pub struct AdoptGroup {
    group: GroupId,
    pub(crate) device: DeviceId,
    /// Hash of what was offered.
    genesis: Hash,
    epoch: u64,
    pub(crate) base: BaseRow,
    pub(crate) parts: Vec<PartChange>,
    members: Vec<(DeviceId, UserId)>,
    /// Root wrap of its epoch: epoch 0 has none.
    pub(crate) wrap: Option<RootWrap>,
    /// Number of the generation in which it was judged.
    generation: u64,
    /// The time.
    now: UnixMs,
}

/// Hash of what is offered.
fn genesis(offer: &Adoption<'_>) -> Hash {
    let (state, pending) = (encode(offer.state), encode(&offer.pending.to_vec()));
    labelled(
        "conclave 1.0 group adoption",
        &[
            offer.group.as_bytes(),
            offer.group_info,
            offer.tree,
            &state,
            &pending,
        ],
    )
}

/// Refuses a group that is here, unless it came with this very offer: then there is nothing to do.
fn known(row: &GroupRow, genesis: Hash, device: DeviceId) -> Result<(), Refusal> {
    if (row.genesis, row.creator) == (genesis, device) {
        Ok(())
    } else {
        Err(Refusal::AlreadyExists)
    }
}

impl AdoptGroup {
    /// Asks for what has to be known before anything of an offer is judged.
    pub fn needs(offer: &Adoption<'_>, keys: &mut Keys) {
        keys.groups.insert(offer.group);
    }

    /// Whether this very offer was taken before: what it costs nothing to say before anything is judged.
    ///
    /// # Errors
    /// [`Refusal::AlreadyExists`] where there is another group of this id.
    pub fn is_known(offer: &Adoption<'_>, rows: &Rows) -> Result<bool, Stop> {
        match rows.group(&offer.group)? {
            Some(row) => {
                known(row, genesis(offer), offer.sender)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Judges an offer, in the generation of this number.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(
        by: Asker,
        offer: &Adoption<'_>,
        generation: u64,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        let mut core = PublicGroupState::adopt(offer)?;
        let state = core.state();
        let user = state.roster.current_row(&offer.sender).map(|row| row.user);
        if offer.sender != by.device || user != Some(by.user) {
            let why = ForbiddenWhy::NotYours;
            return Err(Refusal::Forbidden { why });
        }
        // No commit could follow it here.
        if state.last_time.since_ms(now) > limits::COMMIT_TIME_SKEW_MS {
            let fault = CommitFault::Time;
            return Err(Refusal::BadCommit { fault });
        }
        let members = state.current_rows();
        Ok(Self {
            group: offer.group,
            device: by.device,
            genesis: genesis(offer),
            epoch: state.epoch,
            base: BaseRow {
                frontier: state.frontier.clone(),
                roots: state.epoch_log_roots.iter().copied().collect(),
                entries: offer.state.entries.clone(),
            },
            members: members.map(|row| (row.device, row.user)).collect(),
            wrap: (state.epoch > 0).then(|| offer.state.wrap.clone()),
            parts: PartChange::taken(&mut core),
            generation,
            now,
        })
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.services.insert(());
        keys.groups.insert(self.group);
        keys.recoveries.insert(LogId::of_group(self.group));
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let (group, event) = (self.group, Event::Done);
        if let Some(row) = rows.group(&group)? {
            known(row, self.genesis, self.device)?;
            return Ok(Decided::event(event));
        }
        // Where another has begun, whoever judged this has to see first what became of the group that had this id.
        let present = rows.service(&())?.map_or(0, |row| row.generation.number);
        if present != self.generation {
            return Err(Refusal::Storage.into());
        }
        let log = LogId::of_group(group);
        // A larger head may be about to be shown.
        let want = rows.ensure_no_hold(&log)?;
        let (size, root) = (self.base.frontier.size(), |size| self.base.root_at(size));
        if want.is_some_and(|want| root(want.size).is_some_and(|root| root != want.root)) {
            let fault = RecordFault::SeenHead;
            return Err(Refusal::BadRecord { fault }.into());
        }
        let mut changes = vec![
            Change::Adopted {
                group,
                genesis: self.genesis,
                creator: self.device,
                epoch: self.epoch,
                base: self.base.clone(),
            },
            Change::Parts {
                group,
                parts: self.parts.clone(),
                wrap: self.wrap.clone(),
            },
        ];
        let members = self.members.iter().copied();
        changes.extend(members.map(|(device, user)| Change::Member {
            group,
            device,
            user,
        }));
        changes.extend(self.wrap.clone().map(|wrap| Change::Wrap { wrap }));
        // What is wanted beyond it still has to come. Otherwise whoever is further on may bring that first.
        if want.is_none_or(|want| want.size <= size) {
            changes.push(Change::Recovery(RecoveryRow {
                log,
                want: self.base.frontier.head(),
                of: 0,
                began: self.now,
                ends: UnixMs(self.now.0.saturating_add(ADOPTED_HOLD_MS)),
            }));
        }
        Ok(Decided { changes, event })
    }
}

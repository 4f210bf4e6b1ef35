//! Groups: one ordered log each, and the public MLS state that judges what may be appended to it.
//!
//! What changes a group goes one after another through its core: judged there, made durable by the writer, which compares epoch and size in
//! its transaction, and only then shown to others through the view. When anything fails on the way the core is dropped and read again.

pub(crate) mod asks;
pub(crate) mod commit;
pub(crate) mod create;
pub(crate) mod documents;
pub(crate) mod entries;
pub(crate) mod follow;
pub(crate) mod group_info;
pub(crate) mod join;
pub(crate) mod status;
mod stored;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use conclave_mls::PublicGroupState;
use conclave_order::op::entry::NewEntry;
use conclave_order::{Event, Op};
use conclave_proto::frame::Answer;
use conclave_proto::group::GroupEntry;
use conclave_proto::{DeviceId, GroupId, Refusal};
use conclave_rules::GroupState;

use self::follow::Follower;
use crate::env::Env;
use crate::error::OpError;
use crate::hub::Conn;
use crate::limits;
use crate::tell::From;

/// A group in memory.
pub(crate) struct Group {
    pub(crate) env: Arc<Env>,
    pub(crate) id: GroupId,
    view: RwLock<Arc<GroupState>>,
    /// None: to be read from the database.
    core: tokio::sync::Mutex<Option<PublicGroupState>>,
    live: Mutex<Live>,
}

/// What has been published of the log, and to whom.
pub(crate) struct Live {
    pub(crate) size: u64,
    pub(crate) followers: Vec<Follower>,
    /// How many pleas have been told since the group is in memory.
    pub(crate) asked: u64,
}

impl Group {
    fn new(env: Arc<Env>, id: GroupId, core: PublicGroupState) -> Self {
        let state = core.state().clone();
        Self {
            env,
            id,
            live: Mutex::new(Live {
                size: state.frontier.size(),
                followers: Vec::new(),
                asked: 0,
            }),
            view: RwLock::new(Arc::new(state)),
            core: tokio::sync::Mutex::new(Some(core)),
        }
    }

    /// The public state as far as it is durable and published.
    pub(crate) fn view(&self) -> Arc<GroupState> {
        self.view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the device is a member; otherwise the group does not exist for it.
    pub(crate) fn for_member(&self, device: &DeviceId) -> Result<Arc<GroupState>, Refusal> {
        let view = self.view();
        // Breakage: whoever knows a group's id is treated as its member.
        if view.is_member(device) || crate::broken("member-check") {
            Ok(view)
        } else {
            Err(Refusal::UnknownGroup)
        }
    }

    /// The core, for one change. It is gone afterwards unless it is given back.
    async fn core(&self) -> Result<CoreGuard<'_>, OpError> {
        let mut guard = self.core.lock().await;
        let state = match guard.take() {
            Some(state) => state,
            None => stored::restore(&self.env, self.id).await?,
        };
        Ok(CoreGuard { guard, state })
    }

    /// Shows a new state and an entry of the log, after both are durable.
    fn publish(&self, next: Arc<GroupState>, entry: &GroupEntry, removed: &[DeviceId]) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = next;
        follow::publish(self, entry, removed);
        for device in removed {
            self.close_channels(device);
        }
    }

    /// Ends delivery of this group's documents to a device.
    fn close_channels(&self, device: &DeviceId) {
        for conn in self.env.hub.of_device(device) {
            for channel in conn.take_channels(|channel| channel.group.id == self.id) {
                channel.document.leave(&channel);
            }
        }
    }

    /// Ends delivery of the log to a connection.
    pub(crate) fn unfollow(&self, conn: &Conn) {
        self.live()
            .followers
            .retain(|follower| follower.conn.id != conn.id);
    }
}

/// Where an entry of the log came from, and what follows from it.
pub(crate) struct GroupFrom {
    group: Arc<Group>,
    next: Arc<GroupState>,
    entry: GroupEntry,
    added: Vec<DeviceId>,
    removed: Vec<DeviceId>,
}

impl GroupFrom {
    /// Shows the new state and the entry, once both are durable.
    pub(crate) fn tell(&self, event: &Event) {
        if !matches!(event, Event::Ordered { .. }) {
            return;
        }
        self.group
            .publish(self.next.clone(), &self.entry, &self.removed);
        join::announce(&self.group, self.next.epoch, &self.added);
    }
}

/// Who comes and goes with an entry.
#[derive(Default)]
struct Moves {
    added: Vec<DeviceId>,
    removed: Vec<DeviceId>,
}

/// Orders an entry that the core was advanced by. Only where it is durable, and was not before, is the core what is stored.
async fn order(
    group: &Arc<Group>,
    core: CoreGuard<'_>,
    new: NewEntry,
    moves: Moves,
) -> Result<Answer, OpError> {
    let from = GroupFrom {
        group: group.clone(),
        next: Arc::new(core.state.state().clone()),
        entry: new.entry.clone(),
        added: moves.added,
        removed: moves.removed,
    };
    let op = Op::Enter(Box::new(new));
    match group
        .env
        .writer
        .run(op, From::Group(Box::new(from)))
        .await?
    {
        Event::Ordered { seq, head } => {
            core.keep();
            Ok(Answer::Accepted { seq, head })
        }
        Event::Known { seq, head } => Ok(Answer::Accepted { seq, head }),
        _ => Err(Refusal::Storage.into()),
    }
}

/// The core while something changes it.
struct CoreGuard<'a> {
    guard: tokio::sync::MutexGuard<'a, Option<PublicGroupState>>,
    state: PublicGroupState,
}

impl CoreGuard<'_> {
    /// Keeps the core: it is what is stored.
    fn keep(mut self) {
        *self.guard = Some(self.state);
    }
}

/// The groups in memory.
#[derive(Default)]
pub(crate) struct Groups {
    known: Mutex<HashMap<GroupId, Arc<Group>>>,
    /// Held while a group is read.
    loading: tokio::sync::Mutex<()>,
}

impl Groups {
    fn known(&self) -> MutexGuard<'_, HashMap<GroupId, Arc<Group>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group, from memory or the database.
    pub(crate) async fn get(&self, env: &Arc<Env>, id: GroupId) -> Result<Arc<Group>, OpError> {
        let found = self.known().get(&id).cloned();
        if let Some(group) = found {
            return Ok(group);
        }
        let _loading = self.loading.lock().await;
        let found = self.known().get(&id).cloned();
        if let Some(group) = found {
            return Ok(group);
        }
        let core = stored::restore(env, id).await?;
        let group = Arc::new(Group::new(env.clone(), id, core));
        let mut known = self.known();
        if known.len() >= limits::IDLE_GROUPS {
            // Only this map holds an idle group, and while its lock is held nobody can ask for one.
            known.retain(|_, group| Arc::strong_count(group) > 1);
        }
        known.insert(id, group.clone());
        Ok(group)
    }

    /// The group, if it is in memory.
    pub(crate) fn in_memory(&self, id: &GroupId) -> Option<Arc<Group>> {
        self.known().get(id).cloned()
    }

    /// Forgets everything: it is not known what is durable.
    pub(crate) fn clear(&self) {
        self.known().clear();
    }
}

//! Groups: one ordered log each, and the public MLS state that judges what may be appended to it.
//!
//! What changes a group goes one after another through its core: judged there, made durable by the writer, which compares epoch and size in
//! its transaction, and only then shown to others through the view. When anything fails on the way the core is dropped and read again.

pub(crate) mod adopt;
pub(crate) mod asks;
pub(crate) mod commit;
pub(crate) mod create;
pub(crate) mod documents;
pub(crate) mod entries;
pub(crate) mod follow;
pub(crate) mod group_info;
pub(crate) mod join;
pub(crate) mod returned;
pub(crate) mod status;
mod stored;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use conclave_mls::PublicGroupState;
use conclave_order::op::entry::NewEntry;
use conclave_order::query::group::Core;
use conclave_order::turn::Turns;
use conclave_order::{Asker, Event, Keys, Op, Rows};
use conclave_proto::frame::Answer;
use conclave_proto::group::GroupEntry;
use conclave_proto::service::SignedHead;
use conclave_proto::{DeviceId, GroupId, Refusal};
use conclave_rules::{GroupState, LogId};

use self::follow::Follower;
use crate::env::Env;
use crate::error::OpError;
use crate::heads::{self, Newest, Pace, Telling};
use crate::hub::Conn;
use crate::limits;
use crate::tell::From;

/// A group in memory.
pub(crate) struct Group {
    pub(crate) env: Arc<Env>,
    pub(crate) id: GroupId,
    view: RwLock<View>,
    /// None: to be read from the database.
    core: tokio::sync::Mutex<Option<Core>>,
    live: Mutex<Live>,
    turns: Mutex<Turns>,
}

/// What is shown of a group.
struct View {
    state: Arc<GroupState>,
    /// The stored version that it is of.
    version: u64,
}

/// What has been published of the log, and to whom.
pub(crate) struct Live {
    pub(crate) size: u64,
    pub(crate) followers: Vec<Follower>,
    /// How many pleas have been told since the group is in memory.
    pub(crate) asked: u64,
    /// The newest head of the log that was signed since the group is in memory.
    pub(crate) signed: Option<Newest>,
    /// Where it is in telling its head.
    pub(crate) pace: Pace,
}

impl Group {
    fn new(env: Arc<Env>, id: GroupId, core: Core) -> Self {
        let state = core.state.state().clone();
        let version = core.version;
        Self {
            env,
            id,
            live: Mutex::new(Live {
                size: state.frontier.size(),
                followers: Vec::new(),
                asked: 0,
                signed: None,
                pace: Pace::default(),
            }),
            view: RwLock::new(View {
                state: Arc::new(state),
                version,
            }),
            core: tokio::sync::Mutex::new(Some(core)),
            turns: Mutex::new(Turns::default()),
        }
    }

    /// Who may begin the next epoch.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The public state as far as it is durable and published.
    pub(crate) fn view(&self) -> Arc<GroupState> {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.state.clone()
    }

    fn version(&self) -> u64 {
        let view = self.view.read().unwrap_or_else(PoisonError::into_inner);
        view.version
    }

    fn show(&self, state: Arc<GroupState>, version: u64) {
        let view = View { state, version };
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    async fn is_current(&self) -> Result<bool, OpError> {
        let mut keys = Keys::default();
        keys.groups.insert(self.id);
        let mut rows = Rows::default();
        self.env.load(&keys, &mut rows).await?;
        let row = rows.group(&self.id)?.ok_or(Refusal::UnknownGroup)?;
        Ok(row.version == self.version())
    }

    /// Brings the view up to what is stored, where somebody else has changed that, and tells those who follow. True: it was behind.
    pub(crate) async fn refresh(self: &Arc<Self>) -> Result<bool, OpError> {
        if self.is_current().await? {
            return Ok(false);
        }
        // What is on its way from here is shown before it lets go of the core.
        let mut core = self.core.lock().await;
        if self.is_current().await? {
            return Ok(false);
        }
        let fresh = stored::restore(&self.env, self.id).await?;
        let before = self.view();
        let after = Arc::new(fresh.state.state().clone());
        self.show(after.clone(), fresh.version);
        *core = Some(fresh);
        drop(core);
        let came = after
            .current_rows()
            .filter(|row| !before.is_member(&row.device));
        let came: Vec<DeviceId> = came.map(|row| row.device).collect();
        let gone = before
            .current_rows()
            .filter(|row| !after.is_member(&row.device));
        let gone: Vec<DeviceId> = gone.map(|row| row.device).collect();
        follow::catch_up(self, &after, &gone).await?;
        for device in &gone {
            self.close_channels(device);
        }
        join::announce_all(self, &came);
        Ok(true)
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs the head of its log, under its lock.
    pub(crate) fn sign(&self, live: &mut Live) -> SignedHead {
        let (log, head) = (LogId::of_group(self.id), self.view().frontier.head());
        self.env.heads.sign(&log, head, &mut live.signed)
    }

    /// The head of its log now, dated now.
    pub(crate) fn head_now(&self) -> SignedHead {
        let mut live = self.live();
        let (log, head) = (LogId::of_group(self.id), self.view().frontier.head());
        self.env.heads.sign_now(&log, head, &mut live.signed)
    }

    /// Its log has grown: tells its head, or lets that wait for its turn.
    pub(crate) fn grown(self: &Arc<Self>, live: &mut Live) {
        let log = Arc::downgrade(self) as Weak<dyn Telling>;
        if !live.followers.is_empty() && self.env.heads.grown(&mut live.pace, log) {
            self.tell_head(live);
        }
    }

    /// Only members are told: for who was removed, the log ends with that.
    fn tell_head(&self, live: &mut Live) {
        let signed = self.sign(live);
        let frame = heads::frame(&LogId::of_group(self.id), signed);
        for follower in live
            .followers
            .iter()
            .filter(|follower| follower.is_member())
        {
            follower.conn.outbox.push(frame.clone());
        }
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
        let Core { state, version } = match guard.take() {
            Some(core) => core,
            None => stored::restore(&self.env, self.id).await?,
        };
        Ok(CoreGuard {
            guard,
            state,
            version,
        })
    }

    /// Shows a new state and an entry of the log, after both are durable.
    fn publish(
        self: &Arc<Self>,
        (next, version): (Arc<GroupState>, u64),
        (seq, entry): (u64, &GroupEntry),
        removed: &[DeviceId],
    ) {
        // Who reads it from storage may have been faster.
        if self.version() < version {
            self.show(next, version);
        }
        follow::publish(self, seq, entry, removed);
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

impl Telling for Group {
    fn turn(self: Arc<Self>) -> bool {
        let mut live = self.live();
        let log = Arc::downgrade(&self) as Weak<dyn Telling>;
        let tells = self.env.heads.turn(&mut live.pace, log) && !live.followers.is_empty();
        if tells {
            self.tell_head(&mut live);
        }
        tells
    }
}

/// Where an entry of the log came from, and what follows from it.
pub(crate) struct GroupFrom {
    group: Arc<Group>,
    next: Arc<GroupState>,
    version: u64,
    entry: GroupEntry,
    added: Vec<DeviceId>,
    removed: Vec<DeviceId>,
}

impl GroupFrom {
    /// Shows the new state and the entry, once both are durable.
    pub(crate) fn tell(&self, event: &Event) {
        let Event::Ordered { seq, .. } = event else {
            return;
        };
        let next = (self.next.clone(), self.version);
        self.group.publish(next, (*seq, &self.entry), &self.removed);
        join::announce(&self.group, self.next.epoch, &self.added);
    }
}

/// Orders an entry that the core was advanced by. Only where it is durable, and was not before, is the core what is stored.
async fn order(
    group: &Arc<Group>,
    by: Asker,
    mut core: CoreGuard<'_>,
    new: NewEntry,
) -> Result<Answer, OpError> {
    core.version = new.expected.version.saturating_add(1);
    let (added, removed) = new.moves();
    let from = GroupFrom {
        group: group.clone(),
        next: Arc::new(core.state.state().clone()),
        version: core.version,
        entry: new.entry.clone(),
        added: added.to_vec(),
        removed: removed.to_vec(),
    };
    let asked = by.asks(Op::Enter(Box::new(new)));
    let from = From::Group(Box::new(from));
    match group.env.writer.run(asked, from).await? {
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
    guard: tokio::sync::MutexGuard<'a, Option<Core>>,
    state: PublicGroupState,
    version: u64,
}

impl CoreGuard<'_> {
    /// Keeps the core: it is what is stored.
    fn keep(mut self) {
        *self.guard = Some(Core {
            state: self.state,
            version: self.version,
        });
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
            // Another process may have changed it.
            group.refresh().await?;
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
            // Only this map holds an idle group, and while its lock is held nobody can ask for one. Who follows it holds only its id.
            let is_idle = |group: &Arc<Group>| {
                Arc::strong_count(group) == 1
                    && group.live().followers.is_empty()
                    && group.turns().is_idle()
            };
            known.retain(|_, group| !is_idle(group));
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

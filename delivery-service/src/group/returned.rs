//! Entries that were lost and come back.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_order::op::entry::{Does, NewEntry};
use conclave_order::op::returned_group::{Offer, ReturnGroup};
use conclave_order::{Event, Keys, Op, Rows};
use conclave_proto::codec::Bytes;
use conclave_proto::frame::Answer;
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::{DeviceId, GroupId, Refusal, UnixMs};
use conclave_rules::GroupState;

use super::{Group, follow, join, stored};
use crate::error::OpError;
use crate::hub::Conn;
use crate::tell::From;

/// What a device brings back of a group's log.
pub(crate) struct Given {
    pub(crate) from: u64,
    pub(crate) entries: Vec<GroupEntry>,
    pub(crate) group_info: Option<Bytes>,
    pub(crate) wrap: Option<RootWrap>,
    pub(crate) bundles: Vec<CommitBundle>,
}

impl Given {
    fn offer(&self, group: GroupId, device: DeviceId, now: UnixMs) -> Offer<'_> {
        Offer {
            device,
            group,
            from: self.from,
            entries: &self.entries,
            group_info: self.group_info.as_ref().map(Bytes::as_slice),
            wrap: self.wrap.as_ref(),
            bundles: &self.bundles,
            now,
        }
    }
}

/// Takes it.
pub(crate) async fn give_back(
    group: &Arc<Group>,
    conn: &Conn,
    given: Given,
) -> Result<Answer, OpError> {
    let env = &group.env;
    let (id, device, now) = (group.id, conn.device, env.clock.now());
    let offer = given.offer(id, device, now);
    let mut keys = Keys::default();
    offer.needs(&mut keys);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    // Before the group is read for it.
    offer.check(&group.view(), &rows)?;
    // Its turn before the core: while it waits, the group goes on.
    let turn = env.apart.turn(conn.user).await;
    let mut core = group.core().await?;
    // What is refused has gone into it by then.
    let mut scratch = stored::restore(env, id).await?;
    let judge = move || {
        let offer = given.offer(id, device, now);
        let judged = ReturnGroup::judge(offer, &mut scratch, &rows);
        (judged, scratch)
    };
    let (judged, scratch) = match turn.judge(judge).await {
        Ok(judged) => judged,
        Err(error) => {
            core.keep();
            return Err(error);
        }
    };
    let op = match judged {
        Ok(op) => op,
        Err(stop) => {
            core.keep();
            return Err(stop.into());
        }
    };
    let entries = op.entries();
    let version = scratch.version.saturating_add(entries.len() as u64);
    let next = Arc::new(scratch.state.state().clone());
    let from = ReturnedFrom {
        group: group.clone(),
        gone: gone(entries, &next),
        came: came(entries),
        next,
        version,
    };
    let asked = conn.asker().asks(Op::ReturnGroup(Box::new(op)));
    let from = From::ReturnedGroup(Box::new(from));
    match env.writer.run(asked, from).await? {
        Event::Returned { seq, head } => {
            (core.state, core.version) = (scratch.state, version);
            core.keep();
            Ok(Answer::Accepted { seq, head })
        }
        _ => Err(Refusal::Storage.into()),
    }
}

/// Devices that are no members any more, each with the size of the log that ends with its removal.
fn gone(entries: &[NewEntry], after: &GroupState) -> Vec<(DeviceId, u64)> {
    let mut gone = BTreeMap::new();
    for entry in entries {
        let (_, removed) = entry.moves();
        let size = entry.head.size;
        gone.extend(removed.iter().map(|device| (*device, size)));
    }
    let gone = gone.into_iter();
    gone.filter(|(device, _)| !after.is_member(device))
        .collect()
}

/// Epochs, and whom they have added.
fn came(entries: &[NewEntry]) -> Vec<(u64, Vec<DeviceId>)> {
    let begun = entries.iter().filter_map(|entry| match &entry.does {
        Does::Commit(begins) if !begins.added.is_empty() => {
            Some((begins.epoch, begins.added.clone()))
        }
        _ => None,
    });
    begun.collect()
}

/// Entries that came back, and what follows from them.
pub(crate) struct ReturnedFrom {
    group: Arc<Group>,
    next: Arc<GroupState>,
    version: u64,
    gone: Vec<(DeviceId, u64)>,
    came: Vec<(u64, Vec<DeviceId>)>,
}

impl ReturnedFrom {
    /// Shows the new state, once it is durable, and lets all who follow read on: those who are gone, up to their removal.
    pub(crate) fn tell(&self, event: &Event) {
        let Event::Returned { head, .. } = event else {
            return;
        };
        let group = &self.group;
        // Who reads it from storage may have been faster.
        if group.version() < self.version {
            group.show(self.next.clone(), self.version);
        }
        follow::read_up_to(group, head.size, &self.gone);
        for (device, _) in &self.gone {
            group.close_channels(device);
        }
        for (epoch, added) in &self.came {
            join::announce(group, *epoch, added);
        }
    }
}

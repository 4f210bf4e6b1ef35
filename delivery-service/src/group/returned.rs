//! Entries that were lost and come back.

use std::collections::BTreeMap;
use std::sync::Arc;

use conclave_order::op::entry::{Does, NewEntry};
use conclave_order::op::returned_group::{Offer, ReturnGroup};
use conclave_order::{Event, Keys, Op, Rows};
use conclave_proto::frame::Answer;
use conclave_proto::{DeviceId, Refusal};
use conclave_rules::GroupState;

use super::{Group, follow, join, stored};
use crate::error::OpError;
use crate::hub::Conn;
use crate::tell::From;

/// Takes what a device brings back of a group's log.
pub(crate) async fn give_back(
    group: &Arc<Group>,
    conn: &Conn,
    offer: Offer<'_>,
) -> Result<Answer, OpError> {
    let env = &group.env;
    let mut keys = Keys::default();
    offer.needs(&mut keys);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    // Before the group is read for it.
    offer.check(&group.view(), &rows)?;
    let mut core = group.core().await?;
    // What is refused has gone into it by then.
    let mut scratch = stored::restore(env, group.id).await?;
    let op = match ReturnGroup::judge(offer, &mut scratch, &rows) {
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

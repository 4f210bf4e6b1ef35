//! Following a group's log: history, then live, without a gap or a repetition, as for documents.

use std::sync::Arc;

use bytes::Bytes;
use conclave_order::query::group::Reach;
use conclave_order::{Bounds, Keys, Rows, query};
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{Answer, ServiceFrame};
use conclave_proto::group::GroupEntry;
use conclave_proto::service::Loss;
use conclave_proto::{DeviceId, GroupId};
use conclave_rules::{GroupState, LogId};

use super::{Group, Live, asks};
use crate::error::OpError;
use crate::hub::Conn;
use crate::limits;
use crate::sqlite::StoreError;

/// A connection that follows the log.
pub(crate) struct Follower {
    pub(crate) conn: Arc<Conn>,
    /// Whether it was told that it follows.
    answered: bool,
    /// Whether it has everything and gets entries as they come.
    live: bool,
    /// Size after which it gets nothing more: it was removed by the entry before.
    until: Option<u64>,
    /// Tells following anew from what it replaces.
    turn: u64,
}

impl Follower {
    /// Whether it was a member when the log was last told of.
    pub(crate) fn is_member(&self) -> bool {
        self.until.is_none()
    }
}

/// Follows the log on a connection from `from` on; what the connection followed of it before ends.
pub(crate) async fn follow(
    group: &Arc<Group>,
    conn: &Arc<Conn>,
    from: u64,
    request: Varint,
) -> Result<(), OpError> {
    let turn = request.0;
    let losses = losses(group).await?;
    let from = first(group, from).await?;
    let (reach, signed) = loop {
        let mut reach = reach(group, &group.view(), &conn.device).await?;
        let mut live = group.live();
        // A new view is shown before its commit is published, which needs this lock: whoever is a member here is told of its removal.
        let view = group.view();
        if reach.until.is_none() && !view.is_member(&conn.device) {
            continue;
        }
        // Only the newest head is signed.
        let signed = reach.until.is_none().then(|| group.sign(&mut live));
        if let Some(signed) = signed {
            (reach.head, reach.epoch) = (signed.head, view.epoch);
        }
        live.followers
            .retain(|follower| follower.conn.id != conn.id);
        live.followers.push(Follower {
            conn: conn.clone(),
            answered: false,
            live: false,
            until: reach.until,
            turn,
        });
        break (reach, signed);
    };
    conn.follow(group.id);
    if conn.outbox.closing().is_cancelled() {
        group.unfollow(conn);
    }
    let answer = Answer::Subscribed {
        head: reach.head,
        epoch: reach.epoch,
        now: group.env.clock.now(),
        signed,
        losses,
    };
    let frame = ServiceFrame::Response {
        id: request,
        answer,
    };
    let mut first = vec![Bytes::from(encode(&frame))];
    let asked_before = group.live().asked;
    if reach.until.is_none() {
        first.extend(asks::open(group, &conn.device).await);
    }
    if conn.outbox.send_all(first).await {
        if reach.until.is_none() && answered(group, conn, turn) != asked_before {
            // Somebody asked in between. What is told twice is harmless.
            let again = asks::open(group, &conn.device).await;
            conn.outbox.send_all(again).await;
        }
        let task = run(group.clone(), conn.clone(), from, turn);
        group.env.tasks.spawn(task);
    }
    Ok(())
}

/// Where there is something to follow from `from` on: not before the log begins here.
async fn first(group: &Group, from: u64) -> Result<u64, OpError> {
    let mut reads = group.env.reads.acquire().await?;
    Ok(query::group::first(&mut reads, group.id, from).await?)
}

async fn losses(group: &Group) -> Result<Vec<Loss>, OpError> {
    let log = LogId::of_group(group.id);
    let mut keys = Keys::default();
    keys.losses.insert(log);
    let mut rows = Rows::default();
    group.env.load(&keys, &mut rows).await?;
    Ok(rows.losses_of(&log)?.cloned().unwrap_or_default())
}

/// From here on the connection is told of pleas as they come. Gives how many there have been.
fn answered(group: &Group, conn: &Conn, turn: u64) -> u64 {
    let mut live = group.live();
    let mut followers = live.followers.iter_mut();
    if let Some(follower) = followers.find(|other| other.conn.id == conn.id && other.turn == turn) {
        follower.answered = true;
    }
    live.asked
}

/// Pushes a plea to every member's connection that follows, but to those of the device that asks.
pub(crate) fn tell(group: &Group, but: &DeviceId, frame: &Bytes) {
    let mut live = group.live();
    live.asked = live.asked.wrapping_add(1);
    for follower in &live.followers {
        let listens = follower.answered && follower.until.is_none();
        if listens && follower.conn.device != *but {
            follower.conn.outbox.push(frame.clone());
        }
    }
}

async fn reach(group: &Group, view: &GroupState, device: &DeviceId) -> Result<Reach, OpError> {
    let mut reads = group.env.reads.acquire().await?;
    Ok(query::group::reach(&mut reads, view, device).await??)
}

async fn run(group: Arc<Group>, conn: Arc<Conn>, from: u64, turn: u64) {
    let mut cursor = from;
    loop {
        let Some(end) = window(&group, &conn, cursor, turn) else {
            return;
        };
        match read(&group, cursor, end).await {
            Ok((frame, next)) => {
                cursor = next;
                if !conn.outbox.send(frame).await {
                    return;
                }
            }
            Err(error) => {
                let refusal = OpError::from(error).into_refusal();
                conn.outbox.close(refusal, limits::SLOW_CONSUMER_RETRY_MS);
                return;
            }
        }
    }
}

/// Where to read to. None when nothing is left, in which case the follower is live or done, or when it is gone.
fn window(group: &Group, conn: &Conn, cursor: u64, turn: u64) -> Option<u64> {
    let mut live = group.live();
    let size = live.size;
    let at = live
        .followers
        .iter()
        .position(|follower| follower.conn.id == conn.id && follower.turn == turn)?;
    let follower = live.followers.get_mut(at)?;
    let end = follower.until.map_or(size, |until| size.min(until));
    if cursor < end {
        return Some(end);
    }
    if follower.until.is_some() {
        live.followers.remove(at);
    } else {
        follower.live = true;
    }
    None
}

async fn read(group: &Group, from: u64, end: u64) -> Result<(Bytes, u64), StoreError> {
    let mut reads = group.env.reads.acquire().await?;
    let bounds = Bounds {
        from,
        end,
        bytes: limits::BACKLOG_BYTES,
    };
    let entries = query::group::entries(&mut reads, &group.id, bounds).await?;
    if entries.is_empty() {
        return Err(StoreError::Corrupt { what: "group log" });
    }
    let next = from.saturating_add(entries.len() as u64);
    Ok((frame(group.id, from, entries), next))
}

fn frame(group: GroupId, first_seq: u64, entries: Vec<GroupEntry>) -> Bytes {
    Bytes::from(encode(&ServiceFrame::GroupEntries {
        group,
        first_seq,
        entries,
    }))
}

/// The log has grown by what others ordered: whoever follows reads it from where the telling stopped, those who are gone up to the commit that
/// removed them.
pub(crate) async fn catch_up(
    group: &Arc<Group>,
    view: &GroupState,
    gone: &[DeviceId],
) -> Result<(), OpError> {
    let mut ends = Vec::new();
    for device in gone {
        let until = reach(group, view, device).await?.until;
        ends.extend(until.map(|until| (*device, until)));
    }
    read_up_to(group, view.frontier.size(), &ends);
    Ok(())
}

/// The log is this long: whoever follows reads on from where the telling stopped, those who are gone up to where their log ends.
pub(crate) fn read_up_to(group: &Arc<Group>, size: u64, ends: &[(DeviceId, u64)]) {
    let mut live = group.live();
    for follower in &mut live.followers {
        let mut ends = ends.iter();
        if let Some((_, until)) = ends.find(|(device, _)| *device == follower.conn.device) {
            follower.until = Some(*until);
        }
    }
    read_on(group, &mut live, size);
    group.grown(&mut live);
}

/// Lets all who are live read from where the telling stopped, up to `size`.
fn read_on(group: &Arc<Group>, live: &mut Live, size: u64) {
    let from = live.size;
    live.size = from.max(size);
    for follower in &mut live.followers {
        if std::mem::take(&mut follower.live) {
            let task = run(group.clone(), follower.conn.clone(), from, follower.turn);
            group.env.tasks.spawn(task);
        }
    }
}

/// Pushes a durable entry to all who follow, and the head. Those it removes get it as their last.
pub(crate) fn publish(group: &Arc<Group>, seq: u64, entry: &GroupEntry, removed: &[DeviceId]) {
    let mut live = group.live();
    publish_entry(group, &mut live, (seq, entry), removed);
    group.grown(&mut live);
}

fn publish_entry(
    group: &Arc<Group>,
    live: &mut Live,
    (seq, entry): (u64, &GroupEntry),
    removed: &[DeviceId],
) {
    // It was read from storage already, or what is before it is still to be read.
    if seq < live.size {
        return;
    }
    let size = seq.saturating_add(1);
    if seq > live.size {
        for follower in &mut live.followers {
            if removed.contains(&follower.conn.device) {
                follower.until = Some(size);
            }
        }
        read_on(group, live, size);
        return;
    }
    live.size = size;
    let frame = frame(group.id, seq, vec![entry.clone()]);
    live.followers.retain_mut(|follower| {
        let goes = removed.contains(&follower.conn.device);
        if follower.live {
            follower.conn.outbox.push(frame.clone());
            return !goes;
        }
        if goes {
            follower.until = Some(size);
        }
        true
    });
}

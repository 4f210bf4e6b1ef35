//! What must hold from one step of a device to the next, and from one of its lives to the next.

use std::collections::BTreeMap;

use conclave_engine::{Engine, LogMark, WorkId};

use super::*;

/// A device before a step.
pub(super) struct Before {
    away: BTreeMap<WorkId, Vec<u8>>,
    may_seal: BTreeSet<GroupId>,
    channels: BTreeMap<u64, GroupId>,
}

/// What a device may not fall behind, since it is durable.
pub type Marks = BTreeMap<(GroupId, Option<DocumentId>), LogMark>;

impl Before {
    fn of(engine: &Engine) -> Self {
        let marks = engine.marks();
        let groups = marks.iter().map(|mark| mark.group);
        let channels = (0..64).filter_map(|at| Some((at, engine.group_on(at)?)));
        Self {
            away: engine.away().into_iter().collect(),
            may_seal: groups.filter(|group| engine.may_seal(group)).collect(),
            channels: channels.collect(),
        }
    }
}

impl World {
    pub(super) fn before(&self, at: usize) -> Before {
        Before::of(self.devices[at].shell.engine())
    }

    /// After a step of a device, before anything of it is durable.
    pub(super) fn check_step(&self, at: usize, before: &Before) {
        let shell = &self.devices[at].shell;
        let now = Before::of(shell.engine());
        let wants = shell.unreleased();
        let mut keys = wants.batches.iter().flat_map(|batch| {
            let puts = batch.puts.keys().chain(&batch.deletes);
            puts.chain(&batch.delete_prefixes)
        });
        // Breakage of a rule: rows of a document that a job has.
        let stays = now
            .away
            .iter()
            .filter(|(id, _)| before.away.contains_key(id));
        let prefixes: Vec<&Vec<u8>> = stays.map(|(_, prefix)| prefix).collect();
        let written = keys.find(|key| prefixes.iter().any(|it| key.starts_with(it)));
        assert_eq!(written, None, "seed {}: rows of one away", self.seed);
        for frame in &wants.sends {
            let group = match frame {
                ClientFrame::Append { channel, .. } => {
                    let channels = [&before.channels, &now.channels];
                    channels.into_iter().find_map(|it| it.get(&channel.0))
                }
                ClientFrame::Request { body, .. } => match body {
                    Request::PutSnapshot { record } => Some(&record.header.group),
                    Request::CreateDocument { snapshot, .. } => Some(&snapshot.header.group),
                    _ => None,
                },
                _ => None,
            };
            let Some(group) = group else { continue };
            let may = before.may_seal.contains(group) || now.may_seal.contains(group);
            assert!(may, "seed {}: {} out of step", self.seed, kind(frame));
        }
    }

    /// Where a test has changed a device's rows, they say nothing about what it knew.
    pub(super) fn forget_changed(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if device.left.0 != device.rows.0 {
            device.left = device.rows.clone();
            device.marks.clear();
        }
    }

    /// After what a device wanted is durable.
    pub(super) fn check_durable(&mut self, at: usize, sends: &[ClientFrame]) {
        let device = &self.devices[at];
        for frame in sends {
            if let ClientFrame::Request {
                body: Request::Commit(bundle),
                ..
            } = frame
            {
                let below = [&[4], bundle.group.as_bytes(), &b"o"[..]].concat();
                let kept = device.rows.read(&below);
                let kept = kept.iter().any(|(key, _)| !key.ends_with(b"creation"));
                assert!(kept, "seed {}: a commit that is not kept", self.seed);
            }
        }
        let device = &mut self.devices[at];
        let engine = device.shell.engine();
        // What it had of a group that it has left is gone.
        device.marks.retain(|(group, _), _| !engine.has_left(group));
        for mark in device.marks.values() {
            let against = engine.contradicted(mark);
            assert_eq!(against, None, "seed {}: {}", self.seed, device.name);
        }
        for mark in engine.marks() {
            device.marks.insert((mark.group, mark.document), mark);
        }
    }
}

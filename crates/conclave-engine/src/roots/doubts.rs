//! Roots that came with somebody's wrap and have opened nothing yet: they may be false. Where one opens nothing, the next value is tried,
//! and who gave the false one is named when another value has opened something.

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::{ChangeKind, DeliverOutcome, Fault};
use conclave_mls::EpochRoot;
use conclave_proto::DeviceId;
use conclave_proto::refusal::RecordFault;

use crate::cx::Cx;
use crate::document::Doc;
use crate::finding::FindingKind;
use crate::group::Group;

/// Most values that are remembered for one epoch.
const VALUES: usize = 8;

/// A value for a root, and whose wrap it came with.
#[derive(Debug)]
struct Given {
    root: EpochRoot,
    from: DeviceId,
}

/// What is not certain of a group's roots.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    /// Whose wrap a root came with that has opened nothing of anybody else yet.
    from: BTreeMap<u64, DeviceId>,
    /// Other values for such roots.
    others: BTreeMap<u64, Vec<Given>>,
    /// Values under which a record did not open.
    refused: BTreeMap<u64, Vec<Given>>,
    /// Whose wraps were told of, by the wraps' epoch.
    told: BTreeSet<(u64, DeviceId)>,
    /// How many roots turned out false: what was judged by them counts for nothing.
    false_ones: u64,
}

fn remember(values: &mut Vec<Given>, root: EpochRoot, from: DeviceId) {
    let known = values.iter().any(|given| given.from == from);
    if !known && values.len() < VALUES {
        values.push(Given { root, from });
    }
}

impl Doubts {
    pub(crate) fn came_from(&mut self, epoch: u64, from: DeviceId) {
        self.from.insert(epoch, from);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    /// A root that was here was false.
    pub(super) fn note_false(&mut self) {
        self.false_ones += 1;
    }

    /// How many roots turned out false.
    pub(crate) fn false_ones(&self) -> u64 {
        self.false_ones
    }

    /// Whose word a root is on.
    pub(super) fn giver(&self, epoch: u64) -> Option<DeviceId> {
        self.from.get(&epoch).copied()
    }

    pub(super) fn is_open(&self, epoch: u64) -> bool {
        self.from.contains_key(&epoch)
    }

    /// Whether members gave different values and none has opened anything yet, or it is on the word of one who gave a false root.
    pub(crate) fn is_contested(&self, epoch: u64) -> bool {
        let from = self.from.get(&epoch);
        let lied = |from: &DeviceId| self.told.iter().any(|(_, liar)| liar == from);
        self.others.contains_key(&epoch) || from.is_some_and(lied)
    }

    pub(super) fn forget(&mut self, epoch: u64) {
        self.from.remove(&epoch);
        self.others.remove(&epoch);
        self.refused.remove(&epoch);
    }

    /// Another value for a root that is not certain.
    pub(super) fn contest(&mut self, epoch: u64, root: EpochRoot, from: DeviceId) {
        let refused = self.refused.get(&epoch);
        if self.from.get(&epoch) != Some(&from)
            && refused.is_none_or(|values| values.iter().all(|given| given.root != root))
        {
            remember(self.others.entry(epoch).or_default(), root, from);
        }
    }
}

/// What to do with a value for a root that is not here.
pub(super) enum Verdict {
    /// Take it, on its giver's word.
    Try,
    /// Two members who do not belong together gave it: what did not open under it is to blame.
    Believe,
    Refuse,
}

impl Group {
    pub(super) fn judge_value(
        &mut self,
        epoch: u64,
        root: &EpochRoot,
        from: DeviceId,
        own: &DeviceId,
    ) -> Verdict {
        let user = |device: &DeviceId| self.state().roster.current_row(device).map(|row| row.user);
        let (giver, me) = (user(&from), user(own));
        let Some(refused) = self.roots.1.refused.get(&epoch) else {
            return Verdict::Try;
        };
        if refused.iter().any(|given| given.from == from) {
            return Verdict::Refuse;
        }
        let mut same = refused
            .iter()
            .filter(|given| given.root == *root)
            .peekable();
        if same.peek().is_none() {
            return Verdict::Try;
        }
        if giver == me || same.any(|given| user(&given.from) != giver) {
            return Verdict::Believe;
        }
        let values = self.roots.1.refused.entry(epoch).or_default();
        remember(values, root.clone(), from);
        Verdict::Refuse
    }
}

impl Cx {
    /// A member wrapped what differs from a root that is certain. Told once for the epoch in which they wrapped it.
    pub(super) fn wrong_wrap(&mut self, group: &mut Group, signer: DeviceId) {
        let current = group.state().epoch;
        let told = &mut group.roots.1.told;
        told.retain(|(epoch, _)| *epoch == current);
        if told.insert((current, signer)) {
            let signer = Some(signer.into());
            self.finding(group.id, None, FindingKind::WrongWrap, signer);
        }
    }

    /// Something that `author` sealed has opened under this root.
    pub(crate) fn root_opened(&mut self, group: &mut Group, epoch: u64, author: DeviceId) {
        let doubts = &mut group.roots.1;
        // Whoever gives a false root can seal under it.
        if doubts.from.get(&epoch).is_none_or(|from| *from == author) {
            return;
        }
        doubts.from.remove(&epoch);
        let mut values = doubts.others.remove(&epoch).unwrap_or_default();
        values.extend(doubts.refused.remove(&epoch).unwrap_or_default());
        self.save_root(group, epoch);
        let root = group.roots.0.get(&epoch).cloned();
        for given in values {
            if Some(&given.root) != root.as_ref() {
                self.wrong_wrap(group, given.from);
            }
        }
    }

    /// Something under this root did not open, and the root is on its giver's word: it goes, and another value is tried.
    pub(crate) fn root_doubted(&mut self, group: &mut Group, epoch: u64) -> bool {
        let Some(from) = group.roots.1.from.remove(&epoch) else {
            return false;
        };
        let root = self.drop_root(group, epoch);
        let doubts = &mut group.roots.1;
        doubts.note_false();
        if let Some(root) = root {
            remember(doubts.refused.entry(epoch).or_default(), root, from);
        }
        let own = self.device.id();
        for given in doubts.others.remove(&epoch).unwrap_or_default() {
            self.take_value(group, epoch, given.root, given.from, &own);
        }
        true
    }

    /// Looks whether what a document took in speaks for or against roots that are not certain. True where one has gone: the document must be
    /// read from the store again, since it has judged by that root.
    pub(crate) fn judge_roots(
        &mut self,
        group: &mut Group,
        doc: &Doc,
        outcome: &DeliverOutcome,
    ) -> bool {
        if group.roots.1.is_empty() {
            return false;
        }
        for change in &outcome.changes {
            if change.kind != ChangeKind::Snapshot {
                self.root_opened(group, change.epoch, change.sealed_by().device);
            }
        }
        let mut gone = false;
        for finding in &outcome.findings {
            if finding.fault == Fault::Record(RecordFault::Commitment) {
                let missing = group.documents.get(&doc.id).and_then(|row| row.missing);
                let epoch = doc.epoch_of(finding.seq).or(missing);
                gone |= epoch.is_some_and(|epoch| self.root_doubted(group, epoch));
            }
        }
        gone
    }
}

//! Snapshots when due.

use conclave_doc::PreparedSnapshot;

use super::*;
use crate::cx::wait_ms;

/// A device whose edit did not make a snapshot due makes it after a time between these, in milliseconds.
const OTHERS_TURN_MS: (u64, u64) = (15_000, 45_000);
/// As [`OTHERS_TURN_MS`], for a device that is not sure of what it has: others would make a better one.
const UNSURE_TURN_MS: (u64, u64) = (600_000, 900_000);
/// Longest pause between two tries to make a snapshot, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 400 << 10;

impl Cx {
    /// Writes a snapshot where a removal asks for one, or the edits since the last call for it, or the last is wrong by this device's own check; and
    /// it is this device's turn.
    pub(super) fn pump_snapshot(&mut self, group: &mut Group, doc: &mut Doc) {
        let may_write = group.state().role_of(&self.device.id()) >= Some(Role::Editor);
        let open = self.link.open(group.id, doc.id);
        if open.is_none_or(|open| open.snapshot != SnapshotLink::Idle) {
            return;
        }
        let rekey = group.rekeys() && group.rekey_due(&doc.document);
        let wanted = doc.document.snapshot_due(&group.state().policy)
            || doc.document.is_heal_due(&group.doc_context(&self.device));
        let due = wanted && self.is_turn(group, doc);
        if !may_write || (!rekey && !due && doc.notes.turn != Turn::Wanted) {
            return self.ended(About::Document(group.id, doc.id), End::Condensed);
        }
        if rekey && self.rekeys_left == 0 {
            group.rekey_later.insert(doc.id);
            return self.wake(1, TimerKind::Group(group.id, GroupTimer::Rekey));
        }
        self.rekeys_left -= usize::from(rekey);
        doc.errand = Some(Errand::Snapshot(Purpose::Turn));
    }

    /// Seals and sends a snapshot that was prepared, if it still can be.
    pub(super) fn put_snapshot(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        prepared: Result<PreparedSnapshot, DocError>,
    ) {
        self.send_snapshot(group, doc, prepared);
        if self.link.is_caught_up(group.id, doc) && group.may_act() {
            self.pump_check(group, doc);
        }
        self.end_settling(group, doc);
    }

    fn send_snapshot(
        &mut self,
        group: &mut Group,
        doc: &mut Doc,
        prepared: Result<PreparedSnapshot, DocError>,
    ) {
        let open = self.link.open(group.id, doc.id);
        let idle = open.is_some_and(|open| open.snapshot == SnapshotLink::Idle);
        if !idle || !group.may_act() {
            return;
        }
        let context = group.doc_context(&self.device);
        let sealer = Sealer {
            key: self.device.key(),
            rng: &mut self.rng,
        };
        let sealed = prepared.and_then(|it| doc.document.seal_snapshot(&context, it, sealer));
        let record = match sealed {
            Ok(record) => record,
            // Something waits or is held: the next delivery tries again.
            Err(DocError::NotNow | DocError::SetAside { .. }) => return,
            Err(error) => {
                let what = FindingKind::failed(Step::Condense, &error);
                self.finding(group.id, Some(doc.id), what, None);
                self.snapshot_later(group, doc, 0);
                return;
            }
        };
        if doc.notes.turn == Turn::Wanted {
            doc.notes.turn = Turn::Open;
        }
        if let Some(open) = self.link.open_mut(group.id, doc.id) {
            open.snapshot = SnapshotLink::Sent;
        }
        let what = Pending::Document(group.id, doc.id, DocPending::Snapshot);
        self.request(Request::PutSnapshot { record }, what);
    }

    /// Whether this device makes the snapshot that is due: at once where its own edit made it so, after a while where the device whose edit did
    /// has not made it, and last where it is not sure of what it has.
    fn is_turn(&mut self, group: &Group, doc: &mut Doc) -> bool {
        let (active, _) = doc.document.active_snapshot();
        if doc.notes.turn == Turn::Wanted {
            return true;
        }
        if doc.notes.turn != Turn::Here(active) && doc.notes.turn != Turn::Elsewhere(active) {
            let by = doc.document.made_due_by(&group.state().policy);
            let timer = TimerKind::Document(group.id, doc.id, DocTimer::SnapshotTurn);
            self.cancel_timer(timer);
            let sure = doc
                .document
                .is_sure_or_alone(&group.doc_context(&self.device));
            doc.notes.turn = if sure && by == Some(self.device.id()) {
                Turn::Here(active)
            } else {
                let (least, most) = if sure { OTHERS_TURN_MS } else { UNSURE_TURN_MS };
                self.plan(least, most, timer);
                Turn::Elsewhere(active)
            };
        }
        doc.notes.turn == Turn::Here(active)
    }

    /// The document's content lies under an old root: it gets a new snapshot.
    pub(crate) fn snapshot_for_age(&mut self, group: &mut Group, doc: &mut Doc) {
        let now = self.service_now();
        let aged = group.documents.get(&doc.id);
        if aged.is_some_and(|row| group.is_aged(row, now))
            && doc.document.snapshot_epoch() < group.state().epoch
        {
            doc.notes.turn = Turn::Wanted;
        }
    }

    pub(crate) fn snapshot_answered(&mut self, group: &mut Group, doc: &mut Doc, answer: &Answer) {
        let open = self.link.open_mut(group.id, doc.id);
        if let Some(open) = open {
            open.snapshot = SnapshotLink::Idle;
            if let Answer::Accepted { seq, .. } = answer {
                open.target = open.target.max(seq.saturating_add(1));
                open.snapshot_failures.reset();
            }
        }
        match answer {
            Answer::Accepted { seq, .. } => {
                doc.errand = Some(Errand::SnapshotPlaced(*seq));
            }
            Answer::Refused(refusal) => {
                doc.document.snapshot_refused();
                self.snapshot_later(group, doc, wait_ms(refusal));
                if !refusal.is_retryable() && !matches!(refusal, Refusal::BadRecord { .. }) {
                    let what = FindingKind::failed(Step::Condense, refusal);
                    self.finding(group.id, Some(doc.id), what, None);
                }
            }
            _ => {}
        }
    }

    /// Where a snapshot is still due, it is made after a while, longer each time, and not before the service takes it.
    fn snapshot_later(&mut self, group: &Group, doc: &mut Doc, least_ms: u64) {
        let Some(open) = self.link.open_mut(group.id, doc.id) else {
            return;
        };
        let most = open.snapshot_failures.next_ms(400, LONGEST_PAUSE_MS);
        open.snapshot = SnapshotLink::Paused;
        let delay = self.jitter(most / 2, most).saturating_add(least_ms);
        self.wake(
            delay,
            TimerKind::Document(group.id, doc.id, DocTimer::Snapshot),
        );
    }

    /// The pause after a refused snapshot is over.
    pub(crate) fn snapshot_paused(&mut self, group: &Group, doc: &Doc) {
        let open = self.link.open_mut(group.id, doc.id);
        if let Some(open) = open.filter(|open| open.snapshot == SnapshotLink::Paused) {
            open.snapshot = SnapshotLink::Idle;
        }
    }
}

//! Groups that were frozen over what is judged otherwise now: at each start what was refused is looked at again.

use conclave_proto::policy::PROTOCOL_VERSION;

use super::*;

impl Cx {
    /// A frozen group has come into memory.
    pub(super) fn thaw(&mut self, group: &mut Group) {
        if !group.is_frozen() {
            return;
        }
        if let Some(minimum) = group.awaited_version() {
            // As long as this program is not that one.
            if minimum > PROTOCOL_VERSION {
                return;
            }
            self.ended(About::Group(group.id), End::Thawed);
            return self.unfreeze(group);
        }
        if group.is_founding() {
            // The service is asked again.
            return self.unfreeze(group);
        }
        if group.is_broken() {
            // It was judged from the outside: the log brings it again, and is judged again before anything is sealed.
            group.meta.evidence = group.meta.evidence.saturating_sub(1);
            self.save_meta(group);
            return self.unfreeze(group);
        }
        let key = keys::evidence(&group.id, group.state().size());
        self.read(key, ReadTarget::Thaw(group.id));
    }

    pub(crate) fn evidence_again(&mut self, group: &mut Group, rows: &[Row]) {
        if let Some((seq, entry)) = rows.first().and_then(care::refused_entry) {
            self.judge_again(group, seq, &entry);
        }
    }

    fn judge_again(&mut self, group: &mut Group, seq: u64, entry: &GroupEntry) {
        let frozen = group.is_frozen() && !group.is_broken();
        if !frozen || group.state().size() != seq || !group.mls.is_active() {
            return;
        }
        let judged = group.mls.process(entry);
        if matches!(judged, Err(ProcessError::Illegal { .. })) {
            return;
        }
        self.unfreeze(group);
        self.ended(About::Group(group.id), End::Thawed);
        self.entry_judged(group, seq, entry, judged);
    }

    fn unfreeze(&mut self, group: &mut Group) {
        group.membership.unfreeze();
        self.save_membership(group);
    }
}

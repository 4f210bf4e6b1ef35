//! The log while a device is on its way back, and the end of the way: scratch state takes the place of the old one.

use super::*;

impl Cx {
    /// An ordered entry while this device is on its way back. False when the rest has to wait.
    pub(in crate::group) fn entry_while_broken(
        &mut self,
        group: &mut Group,
        seq: u64,
        entry: &GroupEntry,
    ) -> bool {
        if !group.is_blind() {
            match self.judge_while_broken(group, seq, entry) {
                Some(true) => {
                    let epoch = group.shadow().map_or(0, |shadow| shadow.epoch());
                    self.keep_entry(group, seq, entry, epoch);
                }
                Some(false) => return false,
                None => return true,
            }
        }
        let blind = group.is_blind();
        let Some(scratch) = &mut group.returning.scratch else {
            return true;
        };
        if seq != scratch.mls.state().size() {
            return true;
        }
        match scratch.mls.process(entry) {
            Ok(Processed::Commit(outcome)) => {
                if blind {
                    self.keep_entry(group, seq, entry, outcome.epoch);
                }
                self.returned(group, *outcome);
            }
            Ok(_) => {
                self.put_mls_changes(&group.id, keys::group::SCRATCH, &mut scratch.mls);
                let epoch = scratch.mls.state().epoch;
                if blind {
                    self.keep_entry(group, seq, entry, epoch);
                }
            }
            Err(_) => self.lost_race(group),
        }
        true
    }

    /// Takes an entry into what an offer is compared with. None when nothing more is to be done with it; false when entries are missing
    /// before it, or when it breaks the rules.
    fn judge_while_broken(
        &mut self,
        group: &mut Group,
        seq: u64,
        entry: &GroupEntry,
    ) -> Option<bool> {
        let Some(shadow) = group.shadow() else {
            self.go_blind(group);
            return Some(true);
        };
        let next = shadow.size();
        if seq > next {
            group.subscription = Subscription::None;
            return Some(false);
        }
        if seq < next {
            return None;
        }
        let by = match shadow.push(entry) {
            Ok(by) => by,
            Err(error) => {
                if error.is_retryable() {
                    // Only the local clock says so: the entry comes again.
                    self.process_failed(group, seq, entry, &error);
                    return Some(false);
                }
                let signer = match &error {
                    ProcessError::Illegal { signer, .. } => *signer,
                    _ => None,
                };
                self.drop_scratch(group);
                self.keep_evidence(group, seq, entry, error.code(), signer);
                let cause = (&error).into();
                let signer = signer.map(Suspect::Device);
                self.freeze(group, FindingKind::IllegalEntry { cause }, signer);
                return Some(false);
            }
        };
        if let Some(minimum) = shadow.follower.state().later_version() {
            self.drop_scratch(group);
            self.park(group, minimum, by);
            return Some(false);
        }
        // It may be the commit to which an invitation belongs.
        self.post(Post::OfferInvitation(group.id));
        Some(true)
    }

    /// The external commit is in the log: the scratch state takes the place of the old one.
    fn returned(&mut self, group: &mut Group, outcome: CommitOutcome) {
        let blind = group.is_blind();
        let Some(scratch) = group.returning.scratch.take() else {
            return;
        };
        self.drop_scratch(group);
        let Some(secrets) = outcome.secrets else {
            return;
        };
        self.replace_mls(group, scratch.mls, secrets, blind);
        self.event(Event::Returned {
            group: group.id,
            epoch: outcome.epoch,
            proven: !group.is_unproven(),
        });
        // Roots of the epochs that were missed; and a wrap of somebody else shows that this is the group that they are in.
        self.ask_for_wraps(group);
        self.plead_later(group);
    }

    /// Other MLS state of the same group: what was known of its documents stays, with every edit.
    pub(crate) fn replace_mls(
        &mut self,
        group: &mut Group,
        mut mls: ClientGroup,
        secrets: EpochSecrets,
        blind: bool,
    ) {
        self.drop_scratch(group);
        self.put_mls(&group.id, keys::group::MLS, &mut mls);
        let before = std::mem::replace(&mut group.mls, mls);
        group.note_documents();
        group.returning = Returning::default();
        group.inflight = None;
        let key = keys::group_row(&group.id, keys::group::OUTBOX, b"commit");
        self.delete(key);
        for intent in group.intents.values_mut() {
            intent.judge_again();
        }
        // What was refused before is part of what it came back into.
        for end in [End::Back, End::Thawed] {
            self.ended(About::Group(group.id), end);
        }
        // What waits in it for the service's pace goes on waiting.
        self.end_pace(group);
        let alone = group.state().current_rows().count() == 1;
        *group.membership.thawed_mut() = match blind && !alone {
            true => Membership::Unproven {
                since: secrets.epoch,
            },
            false => Membership::Member,
        };
        self.save_membership(group);
        group.meta.renew_due = false;
        group.meta.leaf_renewed = self.service_now();
        group.asking.clear();
        self.save_meta(group);
        self.cancel_timer(TimerKind::Group(group.id, GroupTimer::SelfUpdate));
        self.enter_epoch(group, secrets);
        self.tell_what_changed(group, before.state());
        if group.state().rotating_since == group.state().epoch {
            self.rotation_begins(group, true);
        }
        self.epoch_changed(group);
    }

    /// What the log said while this device could not read it.
    fn tell_what_changed(&mut self, group: &mut Group, before: &GroupState) {
        let users = |state: &GroupState| -> BTreeSet<UserId> {
            state.current_rows().map(|row| row.user).collect()
        };
        let (then, now) = (users(before), users(group.state()));
        let added: Vec<UserId> = now.difference(&then).copied().collect();
        let removed: Vec<UserId> = then.difference(&now).copied().collect();
        if !added.is_empty() || !removed.is_empty() {
            self.event(Event::MembersChanged {
                group: group.id,
                epoch: group.state().epoch,
                added,
                removed,
            });
        }
        let changed: Vec<(DocumentId, bool)> = group
            .state()
            .documents
            .iter()
            .filter(|(id, entry)| before.documents.get(id) != Some(entry))
            .map(|(id, entry)| (*id, entry.closed.is_some()))
            .collect();
        for (document, closed) in changed {
            self.document_created(group, document);
            self.event(Event::DocumentListed {
                group: group.id,
                document,
            });
            if closed {
                self.post_group(group.id, GroupWork::Closed { document, by: None });
            }
        }
        if before.voided.len() < group.state().voided.len() {
            self.post_group(group.id, GroupWork::Voided);
        }
    }

    /// Somebody else has shown that they hold the secrets of the epoch in which this device came back: it is the group that they are in.
    pub(crate) fn proven(&mut self, group: &mut Group, epoch: u64) {
        let here = group.membership.thawed_mut();
        if matches!(here, Membership::Unproven { since } if epoch >= *since) {
            *here = Membership::Member;
            self.save_membership(group);
            self.event(Event::Returned {
                group: group.id,
                epoch: group.state().epoch,
                proven: true,
            });
            group.missing.forget();
            self.post_group(group.id, GroupWork::RetryDocuments);
        }
    }

    /// The user has compared the group's code with another member.
    pub(crate) fn confirm_group(&mut self, group: &mut Group) {
        let epoch = group.state().epoch;
        self.proven(group, epoch);
    }
}

//! A group comes into memory, goes, and becomes durable.

use super::*;

impl Engine {
    pub(crate) fn group_loaded(&mut self, id: GroupId, rows: Vec<Row>) {
        let Some(GroupSlot::Loading(known, work)) = self.groups.get_mut(&id) else {
            return;
        };
        let (known, work) = (known.clone(), std::mem::take(work));
        match Group::load(id, rows, known.clone()) {
            Ok(mut group) => {
                let cx = &mut self.cx;
                if group.membership != known {
                    // It is told by rows of a program before this one, or what else is known of the group is lost.
                    cx.save_membership(&group);
                    cx.save_meta(&group);
                    cx.delete(keys::group_row(&id, keys::group::OUTBOX, CREATION_ROW));
                }
                let damaged = std::mem::take(&mut group.damaged);
                if damaged.is_empty() {
                    cx.ended(About::Group(id), End::Loaded);
                }
                for error in damaged {
                    let what = FindingKind::failed(Step::LoadGroup, &error);
                    cx.finding(id, None, what, None);
                }
                if group.is_unproven() {
                    cx.plead_later(&group);
                }
                let mut first = Vec::new();
                if group.parting().is_some() {
                    first.push(GroupWork::Part);
                } else {
                    cx.thaw(&mut group);
                    cx.go_on_carrying(&group);
                    first.push(GroupWork::GoOnClosing);
                }
                self.insert_whole(id, Whole::new(group));
                for work in first.into_iter().chain(work) {
                    self.with_group(id, work);
                }
            }
            Err(error) => {
                let what = FindingKind::failed(Step::LoadMembership, &error);
                self.cx.finding(id, None, what, None);
                let parting = known.parting().cloned();
                let stray = Box::new(Stray::default());
                self.groups.insert(id, GroupSlot::Stray(known, stray));
                let waiters = work.iter().filter_map(Awaited::waiter);
                self.cx.reply_all(waiters, &EngineError::Returning);
                self.cx.pass_turns(&id);
                match parting {
                    Some(parting) => self.leave_stray(None, id, &parting.why),
                    None => self.pump_stray(id),
                }
            }
        }
    }

    /// Puts a new group in place and stores all of it.
    pub(crate) fn adopt_group(&mut self, mut group: Group, secrets: EpochSecrets) {
        let id = group.id;
        self.cx.save_membership(&group);
        self.cx.ended(About::Group(id), End::Known);
        self.cx.enter_epoch(&mut group, secrets);
        self.insert_whole(id, Whole::new(group));
    }

    /// A group is listed as left, for this reason.
    pub(crate) fn list_as_left(&mut self, id: GroupId, why: &str) {
        let why = why.to_owned();
        let left = Membership::Left { why };
        self.cx.put(keys::index(&id), keys::cbor(&left));
        self.remove_group(&id);
        self.groups.insert(id, GroupSlot::Cold(left));
    }

    /// Secrets and documents of a group go. Own edits were kept apart before.
    pub(crate) fn end_group(&mut self, id: GroupId) {
        let parting = self.whole(&id).and_then(|whole| whole.group.parting());
        let Some(PartingRow { why, .. }) = parting.cloned() else {
            return;
        };
        let declined = self.on_whole(id, |cx, whole| {
            cx.wind_up(whole);
            whole.group.meta.declined
        });
        if declined == Some(true) {
            self.remove_group(&id);
            self.cx.delete(keys::index(&id));
        } else {
            self.list_as_left(id, &why);
            self.cx.event(Event::GroupLost { group: id, why });
        }
        self.offer_invitation(id);
    }
}

impl Cx {
    /// After any work on a group: what changed becomes durable, what can go on goes on.
    pub(crate) fn settle_group(&mut self, whole: &mut Whole) {
        self.worked += 1;
        whole.group.note_rekeying();
        self.pump_group(whole);
        let group = &mut whole.group;
        self.put_mls_changes(&group.id, keys::group::MLS, &mut group.mls);
        self.settle_past(group);
        self.note_ordered(group);
        self.tell_barred_drafts(group);
        if group.rotation != group.meta.rotation {
            group.meta.rotation = group.rotation;
            self.save_meta(group);
        }
        let caught_up = group.caught_up();
        let size = match group.subscription {
            Subscription::Live(size) | Subscription::CaughtUp(size) => size,
            Subscription::None | Subscription::Creating | Subscription::Asked => return,
        };
        if caught_up && group.subscription == Subscription::Live(size) {
            // Documents wait for the group: edits to be sent, records to be opened.
            self.ended(About::Group(group.id), End::CaughtUp);
            self.post_group(group.id, GroupWork::BackInStep);
        }
        group.subscription = match caught_up {
            true => Subscription::CaughtUp(size),
            false => Subscription::Live(size),
        };
    }

    /// What changed of MLS state becomes durable in its table.
    pub(super) fn put_mls_changes(&mut self, group: &GroupId, table: u8, mls: &mut ClientGroup) {
        for change in mls.take_changes() {
            let key = keys::group_row(group, table, &change.key);
            match change.value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
    }

    /// All of MLS state takes the place of what its table held.
    pub(super) fn put_mls(&mut self, group: &GroupId, table: u8, mls: &mut ClientGroup) {
        let prefix = keys::group_row(group, table, b"");
        self.out.writes.delete_prefix(prefix);
        for (key, value) in mls.rows() {
            self.put(keys::group_row(group, table, &key), value);
        }
        mls.take_changes();
    }

    pub(crate) fn set_parting(&mut self, group: &mut Group, parting: PartingRow) {
        group.membership = Membership::Parting(parting);
        self.save_membership(group);
    }

    pub(crate) fn save_membership(&mut self, group: &Group) {
        let value = keys::cbor(&group.membership);
        self.put(keys::index(&group.id), value);
    }

    pub(super) fn save_meta(&mut self, group: &Group) {
        let key = keys::group_row(&group.id, keys::group::META, b"");
        self.put(key, keys::cbor(&group.meta));
    }

    /// The own leaf was added without a path: it is renewed soon.
    pub(crate) fn mark_renew_due(&mut self, group: &mut Group, due: bool) {
        if group.meta.renew_due != due {
            group.meta.renew_due = due;
            self.save_meta(group);
        }
    }

    /// The own leaf is new.
    pub(crate) fn leaf_renewed(&mut self, group: &mut Group) {
        group.meta.renew_due = false;
        group.meta.leaf_renewed = self.service_now();
        self.save_meta(group);
        self.cancel_timer(TimerKind::Group(group.id, GroupTimer::SelfUpdate));
    }

    pub(crate) fn set_rekey_since(&mut self, group: &mut Group, epoch: u64) {
        if group.meta.rekey_since != epoch {
            group.meta.rekey_since = epoch;
            group.note_rekeying();
            self.save_meta(group);
        }
    }

    /// Documents that were closed as lost before they were re-keyed.
    pub(crate) fn set_lost(&mut self, group: &mut Group, lost: BTreeSet<DocumentId>) {
        group.meta.lost = lost;
        self.save_meta(group);
    }

    pub(crate) fn mark_declined(&mut self, group: &mut Group) {
        group.meta.declined = true;
        self.save_meta(group);
    }

    pub(crate) fn save_document_row(&mut self, group: &mut Group, document: &DocumentId) {
        group.note_document(document);
        if let Some(row) = group.documents.get(document) {
            let key = keys::group_row(&group.id, keys::group::DOCUMENT, document.as_bytes());
            self.put(key, keys::cbor(row));
        }
    }
}

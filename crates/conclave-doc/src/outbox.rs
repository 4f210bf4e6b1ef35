//! Own updates and verdicts that have no place in the log yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conclave_crdt::ReplicaId;
use conclave_identity::DeviceKey;
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::{Author, DocumentId, GroupId, Hash, Head, SessionId};
use conclave_rules::max_sealed_bytes;
use rand_core::CryptoRngCore;

use crate::content::Plain;
use crate::drafts::Drafts;
use crate::seal::{DocKeys, padded_len, seal};
use crate::session::Session;

/// Fresh instances drawn one after another without any record accepted, after which edits are parked.
const FRESH_TRIES: u8 = 3;

/// What an own record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Own {
    /// An edit.
    Update,
    /// A judgement of a snapshot.
    Verdict,
    /// An update that the log has lost, of this device or another.
    Carried,
}

impl Own {
    /// What a record is that is not a snapshot.
    pub(crate) fn of(body: &RecordBody) -> Option<Self> {
        match body {
            RecordBody::Update(_) => Some(Self::Update),
            RecordBody::Verdict(_) => Some(Self::Verdict),
            RecordBody::Carried(_) => Some(Self::Carried),
            _ => None,
        }
    }

    fn body(self, chained: Chained) -> RecordBody {
        match self {
            Self::Update => RecordBody::Update(chained),
            Self::Verdict => RecordBody::Verdict(chained),
            Self::Carried => RecordBody::Carried(chained),
        }
    }
}

/// One own record. Its clock is its place: the first has the author's next clock.
#[derive(Debug, Clone)]
pub(crate) struct OutItem {
    /// Key of its row.
    pub number: u64,
    pub what: Own,
    /// Frozen: a clock never gets another plaintext.
    pub plain: Plain,
    /// Replica ids that it writes under.
    pub replicas: Vec<ReplicaId>,
    /// Id of the update that it carries, as its author gave it.
    pub carries: Option<Hash>,
    /// As last sealed. Within one epoch and after one predecessor a resend is byte-identical.
    pub sealed: Option<Record>,
}

/// What records are sealed with.
pub(crate) struct SealWith<'a> {
    pub keys: &'a DocKeys,
    pub signer: &'a DeviceKey,
    pub padding_bytes: u16,
}

/// The queue. What of it is on its way is known by the connection's [`Session`].
pub(crate) struct Outbox {
    pub author: Author,
    items: VecDeque<OutItem>,
    /// Updates that wait behind it, without a place in it, while sending is paused.
    pub(crate) drafts: Drafts,
    /// How many items are updates.
    update_count: usize,
    /// Size of all items, in bytes.
    bytes: usize,
    /// Replica ids under which items write, with how many do.
    writers: BTreeMap<ReplicaId, usize>,
    /// Numbers of the items that carry lost updates, by the ids of these.
    carried: BTreeMap<Hash, u64>,
    next_number: u64,
    /// Nothing is sealed before this epoch is reached.
    pub min_epoch: u64,
    fresh_tries: u8,
    /// Rows that changed.
    dirty: BTreeSet<u64>,
    /// Rows in the store.
    stored: BTreeSet<u64>,
    /// Whether the author changed.
    pub author_dirty: bool,
}

impl Outbox {
    pub(crate) fn new(author: Author) -> Self {
        Self {
            author,
            items: VecDeque::new(),
            drafts: Drafts::default(),
            update_count: 0,
            bytes: 0,
            writers: BTreeMap::new(),
            carried: BTreeMap::new(),
            next_number: 0,
            min_epoch: 0,
            fresh_tries: 0,
            dirty: BTreeSet::new(),
            stored: BTreeSet::new(),
            author_dirty: true,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Number of the next item: another once anything was put here.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Size of what waits, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.saturating_add(self.drafts.bytes())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many items were sent on a connection and have no place yet: the first ones.
    pub(crate) fn in_flight(&self, session: &Session) -> usize {
        self.items
            .partition_point(|item| item.number < session.next)
    }

    /// Updates that have no place in the log yet.
    pub(crate) fn updates(&self) -> Vec<&Plain> {
        let items = self.items.iter();
        let updates = items.filter(|item| item.what == Own::Update);
        let updates = updates.chain(self.drafts.iter());
        updates.map(|item| &item.plain).collect()
    }

    /// Whether there are updates that have no place in the log yet.
    pub(crate) fn has_updates(&self) -> bool {
        self.update_count() > 0
    }

    pub(crate) fn has_verdicts(&self) -> bool {
        self.items.iter().any(|item| item.what == Own::Verdict)
    }

    /// How many these are.
    pub(crate) fn update_count(&self) -> usize {
        self.update_count.saturating_add(self.drafts.len())
    }

    pub(crate) fn writes_under(&self, replica: &ReplicaId) -> bool {
        self.writers.contains_key(replica)
    }

    /// Whether a draft writes under a replica id.
    pub(crate) fn drafts_under(&self, replica: &ReplicaId) -> bool {
        let mut drafts = self.drafts.iter();
        self.writes_under(replica) && drafts.any(|item| item.replicas.contains(replica))
    }

    /// An own update, last of all: into the queue, or behind it while that is not to grow.
    pub(crate) fn push_update(&mut self, plain: Plain, replicas: Vec<ReplicaId>) {
        if self.drafts.are_made() || !self.drafts.is_empty() {
            self.count(&replicas);
            self.drafts.push(plain, replicas);
        } else {
            self.push(Own::Update, plain, replicas);
        }
    }

    /// Puts own edits back that were taken out. Where some of them were drafts all are, so that they are joined before they go.
    pub(crate) fn put_back(&mut self, items: Vec<OutItem>, were_drafts: bool) {
        let made = self.drafts.are_made();
        self.drafts.make(made || were_drafts);
        for item in items {
            self.push_update(item.plain, item.replicas);
        }
        self.drafts.make(made);
    }

    /// Takes out of the queue what was never sent, from place `from` on: it waits behind it, before what waits there.
    pub(crate) fn hold(&mut self, from: usize) {
        let is_held = |item: &OutItem| item.what == Own::Update && item.sealed.is_none();
        let mut held = Vec::new();
        let mut at = from;
        while let Some(item) = self.items.get(at) {
            match is_held(item) {
                true => held.extend(self.items.remove(at)),
                false => at += 1,
            }
        }
        for item in &held {
            self.left(item);
            self.count(&item.replicas);
        }
        self.drafts.put_before(held);
    }

    /// All that waits behind the queue: it is put into it in another form.
    pub(crate) fn take_drafts(&mut self) -> Vec<OutItem> {
        let drafts = self.drafts.take();
        drafts.iter().for_each(|item| self.uncount(item));
        drafts
    }

    pub(crate) fn push(&mut self, what: Own, plain: Plain, replicas: Vec<ReplicaId>) {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        self.dirty.insert(number);
        self.update_count += usize::from(what == Own::Update);
        self.bytes = self.bytes.saturating_add(plain.len());
        self.count(&replicas);
        self.items.push_back(OutItem {
            number,
            what,
            plain,
            replicas,
            carries: None,
            sealed: None,
        });
    }

    /// Queues lost updates, before own edits where none of what is here was ever sealed: these may go on from them.
    pub(crate) fn carry(&mut self, carried: Vec<(Plain, Hash)>) {
        if carried.is_empty() {
            return;
        }
        let mut after = Vec::new();
        if self.items.iter().all(|item| item.sealed.is_none()) {
            after.extend(self.items.drain(..));
            after.iter().for_each(|item| self.left(item));
        }
        for (plain, leaf) in carried {
            self.push(Own::Carried, plain, Vec::new());
            self.last_carries(leaf);
        }
        for item in after {
            self.push(item.what, item.plain, item.replicas);
            if let Some(leaf) = item.carries {
                self.last_carries(leaf);
            }
        }
    }

    fn last_carries(&mut self, leaf: Hash) {
        if let Some(item) = self.items.back_mut() {
            item.carries = Some(leaf);
            self.carried.insert(leaf, item.number);
        }
    }

    /// Ids of the lost updates that are queued.
    pub(crate) fn carried(&self) -> impl Iterator<Item = &Hash> {
        self.carried.keys()
    }

    /// Somebody else has carried an update: it need not be sent again, unless it was sealed for a place already.
    pub(crate) fn drop_carried(&mut self, leaf: &Hash) {
        let Some(number) = self.carried.get(leaf) else {
            return;
        };
        let at = self
            .items
            .binary_search_by_key(number, |item| item.number)
            .ok();
        let unsealed = |at: &usize| self.items.get(*at).is_some_and(|it| it.sealed.is_none());
        let at = at.filter(unsealed);
        if let Some(item) = at.and_then(|at| self.items.remove(at)) {
            self.left(&item);
        }
    }

    /// Own edits that wait, in their order.
    pub(crate) fn unsent_updates(&self) -> Vec<OutItem> {
        let updates = self.items.iter().filter(|item| item.what == Own::Update);
        updates.chain(self.drafts.iter()).cloned().collect()
    }

    fn count(&mut self, replicas: &[ReplicaId]) {
        for replica in replicas {
            let count = self.writers.entry(replica.clone()).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Notes that an item has left.
    fn left(&mut self, item: &OutItem) {
        self.dirty.insert(item.number);
        self.update_count -= usize::from(item.what == Own::Update);
        self.bytes = self.bytes.saturating_sub(item.plain.len());
        if let Some(leaf) = &item.carries {
            self.carried.remove(leaf);
        }
        self.uncount(item);
    }

    fn uncount(&mut self, item: &OutItem) {
        for replica in &item.replicas {
            if let Some(count) = self.writers.get_mut(replica) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.writers.remove(replica);
                }
            }
        }
    }

    /// The record of the item at `at`, if it was ever sealed.
    pub(crate) fn sealed_at(&self, at: usize) -> Option<&Record> {
        self.items.get(at)?.sealed.as_ref()
    }

    /// Whether the item at `at` is an update.
    pub(crate) fn is_update(&self, at: usize) -> bool {
        self.update_at(at).is_some()
    }

    /// The update of the item at `at`, where it is one.
    pub(crate) fn update_at(&self, at: usize) -> Option<&Plain> {
        let item = self.items.get(at)?;
        (item.what == Own::Update).then_some(&item.plain)
    }

    /// Whether the item at `at` costs its user something: all but verdicts do.
    pub(crate) fn has_cost(&self, at: usize) -> bool {
        self.items
            .get(at)
            .is_some_and(|item| item.what != Own::Verdict)
    }

    /// The lost update that the item at `at` carries, by the id that its author gave it.
    pub(crate) fn carries_at(&self, at: usize) -> Option<Hash> {
        self.items.get(at)?.carries
    }

    /// Takes out the item at `at`, which was not sealed yet and carries a lost update.
    pub(crate) fn take_carried(&mut self, at: usize) -> Option<Hash> {
        let item = self.items.get(at)?;
        let leaf = item.carries.filter(|_| item.sealed.is_none())?;
        let item = self.items.remove(at)?;
        self.left(&item);
        Some(leaf)
    }

    /// Replica ids under which the first item writes.
    pub(crate) fn front_replicas(&self) -> Vec<ReplicaId> {
        let front = self.items.front();
        front.map(|item| item.replicas.clone()).unwrap_or_default()
    }

    /// Replica ids under which own edits write that have no place in the log yet.
    pub(crate) fn replicas(&self) -> BTreeSet<ReplicaId> {
        let all = self.items.iter().chain(self.drafts.iter());
        all.flat_map(|item| &item.replicas).cloned().collect()
    }

    /// Takes parts of the first item, which was not sealed yet, in its place.
    pub(crate) fn replace_front(&mut self, parts: Vec<Vec<u8>>, replicas: &[ReplicaId]) {
        let Some(first) = self.items.pop_front() else {
            return;
        };
        self.left(&first);
        let after: Vec<OutItem> = self.items.drain(..).collect();
        after.iter().for_each(|item| self.left(item));
        for part in parts {
            self.push(Own::Update, Plain::from(part), replicas.to_vec());
        }
        for item in after {
            self.push(item.what, item.plain, item.replicas);
            if let Some(leaf) = item.carries {
                self.last_carries(leaf);
            }
        }
    }

    /// Plaintext of the first item.
    pub(crate) fn front_plain(&self) -> Plain {
        self.items
            .front()
            .map(|item| item.plain.clone())
            .unwrap_or_default()
    }

    /// Whether the first item is of this kind, and says this.
    pub(crate) fn front_says(&self, what: Own, plain: &[u8]) -> bool {
        self.items
            .front()
            .is_some_and(|item| item.what == what && item.plain.as_slice() == plain)
    }

    /// Whether an update waits here with these bytes.
    pub(crate) fn holds_update(&self, update: &[u8]) -> bool {
        let mut items = self.items.iter().chain(self.drafts.iter());
        items.any(|item| item.what == Own::Update && item.plain.as_slice() == update)
    }

    /// The first item has its place in the log.
    pub(crate) fn pop(&mut self) -> Option<OutItem> {
        let item = self.items.pop_front()?;
        self.left(&item);
        self.fresh_tries = 0;
        Some(item)
    }

    /// Takes out an update that is in the log as a record of another life of this device. What follows it is sealed again.
    pub(crate) fn take_update(&mut self, update: &[u8]) -> bool {
        let found = self
            .items
            .iter()
            .position(|item| item.what == Own::Update && item.plain.as_slice() == update);
        let Some(item) = found.and_then(|at| self.items.remove(at)) else {
            let draft = self.drafts.take_one(update);
            draft.iter().for_each(|item| self.uncount(item));
            return draft.is_some();
        };
        self.left(&item);
        self.unseal();
        true
    }

    /// Drops all updates: they are written again in another form.
    pub(crate) fn drop_updates(&mut self) {
        self.drop_kind(Own::Update);
        self.take_drafts();
    }

    /// Drops all items of a kind.
    pub(crate) fn drop_kind(&mut self, what: Own) {
        let (others, gone) = std::mem::take(&mut self.items)
            .into_iter()
            .partition(|item| item.what != what);
        self.items = others;
        let gone: VecDeque<OutItem> = gone;
        gone.iter().for_each(|item| self.left(item));
    }

    /// What waits is sealed again.
    pub(crate) fn unseal(&mut self) {
        self.unseal_from(0);
    }

    /// The same of what waits from place `from` on.
    pub(crate) fn unseal_from(&mut self, from: usize) {
        for item in self.items.iter_mut().skip(from) {
            if item.sealed.take().is_some() {
                self.dirty.insert(item.number);
            }
        }
    }

    /// Continues as another author: everything is sealed again, on a newly opened channel.
    pub(crate) fn renew(&mut self, author: Author) {
        self.author = author;
        self.author_dirty = true;
        self.unseal();
        self.fresh_tries = self.fresh_tries.saturating_add(1);
    }

    /// Whether another fresh instance may help.
    pub(crate) fn may_renew(&self) -> bool {
        self.fresh_tries < FRESH_TRIES
    }

    /// Whether anything may be sent on a connection, where the author's next clock is `next` and the group is at `epoch`.
    pub(crate) fn may_send(&self, session: &Session, next: u64, epoch: u64) -> bool {
        session.may_send(self.author, next)
            && epoch >= self.min_epoch
            && self.in_flight(session) < self.items.len()
            && self
                .flying_epoch(session)
                .is_none_or(|flying| flying == epoch)
    }

    /// Whether there is a next item, and its kind is allowed.
    pub(crate) fn next_may_go(&self, session: &Session, may_update: bool) -> bool {
        self.items
            .get(self.in_flight(session))
            .is_some_and(|item| item.what == Own::Verdict || may_update)
    }

    /// Epoch of what is on its way.
    fn flying_epoch(&self, session: &Session) -> Option<u64> {
        let last = self.in_flight(session).checked_sub(1)?;
        self.sealed_at(last).map(|record| record.header.epoch)
    }

    /// The next item to send, sealed under the epoch of `template`. `chain` is the author's next clock and last leaf.
    pub(crate) fn seal_next(
        &mut self,
        session: &Session,
        template: &RecordHeader,
        chain: (u64, Hash),
        with: &SealWith<'_>,
        rng: &mut dyn CryptoRngCore,
    ) -> Option<Record> {
        let at = self.in_flight(session);
        let prev = match at.checked_sub(1) {
            None => chain.1,
            Some(before) => self.sealed_at(before)?.leaf(),
        };
        let chained = Chained {
            clock: chain.0.saturating_add(at as u64),
            prev,
        };
        let item = self.items.get_mut(at)?;
        let body = item.what.body(chained);
        let fits = |record: &Record| {
            let header = &record.header;
            (header.epoch, header.author, header.body) == (template.epoch, template.author, body)
        };
        // Breakage: what is sent again is sealed again.
        let resend = !crate::broken("reseal-resend");
        if let Some(record) = item.sealed.as_ref().filter(|it| resend && fits(it)) {
            return Some(record.clone());
        }
        let header = RecordHeader { body, ..*template };
        // What fits only without padding goes without.
        let padded = padded_len(item.plain.len(), with.padding_bytes);
        let fits_padded = padded <= max_sealed_bytes(&body);
        let padding_bytes = if fits_padded { with.padding_bytes } else { 1 };
        let record = seal(
            &header,
            item.plain.as_slice(),
            with.keys,
            with.signer,
            padding_bytes,
            rng,
        );
        item.sealed = Some(record.clone());
        self.dirty.insert(item.number);
        Some(record)
    }

    /// The next item goes out with the frame that is being built.
    pub(crate) fn mark_sent(&self, session: &mut Session) {
        if let Some(item) = self.items.get(self.in_flight(session)) {
            session.next = item.number.saturating_add(1);
        }
    }

    /// Only the first so many items were sent: the others go again.
    pub(crate) fn keep_sent(&self, session: &mut Session, keep: usize) {
        if let Some(item) = self.items.get(keep) {
            session.next = session.next.min(item.number);
        }
    }

    /// Whether items stand in the order of their numbers, and each that is sealed under the present author at its place in the author's chain,
    /// which goes on with clock `next`.
    pub(crate) fn is_contiguous(&self, next: u64) -> bool {
        let ordered = self.items.iter().zip(self.items.iter().skip(1));
        let clocks = (next..).zip(&self.items).all(|(clock, item)| {
            let header = item.sealed.as_ref().map(|record| record.header);
            header.is_none_or(|header| {
                let chained = header.body.chained();
                let fits =
                    |chained: Chained| header.author != self.author || chained.clock == clock;
                chained.is_some_and(fits)
            })
        });
        clocks
            && ordered
                .into_iter()
                .all(|(one, other)| one.number < other.number)
    }

    /// Rows to write and to delete since the last call.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Option<OutItem>)> {
        let mut out = Vec::new();
        for number in std::mem::take(&mut self.dirty) {
            let at = self.items.binary_search_by_key(&number, |item| item.number);
            match at.ok().and_then(|at| self.items.get(at)) {
                Some(item) => {
                    self.stored.insert(number);
                    out.push((number, Some(item.clone())));
                }
                None if self.stored.remove(&number) => out.push((number, None)),
                None => {}
            }
        }
        out
    }

    /// Puts stored items back, in the order of their numbers.
    pub(crate) fn restore(&mut self, item: OutItem) {
        self.next_number = self.next_number.max(item.number.saturating_add(1));
        self.stored.insert(item.number);
        self.update_count += usize::from(item.what == Own::Update);
        self.bytes = self.bytes.saturating_add(item.plain.len());
        self.count(&item.replicas);
        if let Some(leaf) = item.carries {
            self.carried.insert(leaf, item.number);
        }
        self.items.push_back(item);
    }

    /// The same of what waits behind the queue.
    pub(crate) fn restore_draft(&mut self, item: OutItem) {
        self.count(&item.replicas);
        self.drafts.restore(item);
    }
}

/// First eight bytes of a root, as hint.
pub(crate) fn hint(head: &Head) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = head.root.0;
    [a, b, c, d, e, f, g, h]
}

/// A header that only lacks its body.
pub(crate) fn header_template(
    group: GroupId,
    document: DocumentId,
    epoch: u64,
    author: Author,
    seen: Head,
) -> RecordHeader {
    let body = RecordBody::Presence {
        session: SessionId::ZERO,
    };
    RecordHeader {
        version: RECORD_VERSION,
        group,
        document,
        epoch,
        author,
        seen,
        body,
    }
}

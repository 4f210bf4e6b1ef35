//! Own edits that would cost more than they may where they are sent now. They are counted before they are sealed, on the log as it is here and what is on
//! its way: what is refused for its cost everywhere is not sent. It goes in parts, or is written again as a difference, from the front to the back. What
//! cannot be written so waits.

use conclave_crdt::cost::Counted;
use conclave_crdt::{Crdt, Inspected, TextEdit, split_update, text_edits};

use crate::charge::{ANY, allowance, charge_own};
use crate::context::{DeliverOutcome, DocContext};
use crate::document::Document;
use crate::error::DocError;
use crate::payload::Account;
use crate::views::{Views, tell_all};

/// Into so many parts an update is cut at most.
const PARTS: usize = 4096;

/// Longest piece in which a text is inserted, in characters.
const CHUNK_CHARS: usize = 64 * 1024;
/// After so many more records another form is looked for.
const PATIENCE_RECORDS: u64 = 64;

/// So much more to spend makes it worth while to look again at what cost too much: half of what the dearest update may cost.
const MORE_UNITS: u64 = 1 << 18;

/// How the first of the own edits that are still to be sent stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Light {
    /// Nothing speaks against it.
    #[default]
    Fine,
    /// It is to be sent in another form.
    Due,
    /// There is no other form for it: until something of this has changed no other is looked for.
    Waits(Tried),
    /// The same, and whatever there were to spend, it would cost more than an update may.
    Never(Tried),
}

/// Another form of own edits.
enum Lighter {
    /// The first one, in parts.
    Parts(Vec<Vec<u8>>),
    /// All of them, written again.
    Written(Vec<Vec<u8>>),
}

/// When a form for the first own edit was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tried {
    /// Not again before the log has this size, if nothing else changes.
    until: u64,
    /// What the user had.
    account: Account,
    /// Number of the next item of the outbox.
    next_number: u64,
}

impl Tried {
    /// Whether there is so much more to spend, or so much new, that what cost too much then is looked at again.
    pub(crate) fn is_over(&self, size: u64, account: Account) -> bool {
        size >= self.until || account.balance >= self.account.balance.saturating_add(MORE_UNITS)
    }

    /// Whether there is no more to spend, and nothing else to send.
    fn is_as(&self, now: &Self) -> bool {
        self.account == now.account && self.next_number == now.next_number
    }
}

/// What the meter of the log says with own edits on top that are not there yet. They are taken out of it again by [`Document::go_back`].
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    account: Account,
    ops: u64,
    /// So many items of the outbox are in it.
    items: usize,
    /// So many updates.
    counted: usize,
    /// Whether something did not fit of which more would fit if there were more to spend, or when what it goes on from is there.
    short: bool,
}

impl Ahead {
    /// What stood at this place in the outbox went out of it, and was not counted.
    pub(crate) fn items_up_to(&mut self, at: usize) {
        self.items = self.items.min(at);
    }
}

/// Whether an own record may be sent as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fits {
    Yes,
    /// It goes on from what waits here.
    After,
    /// It would cost more than there is now.
    NotNow,
    /// Whatever there is, it would cost more than an update may.
    Never,
}

impl Document {
    /// What the log says of this device's user.
    pub(crate) fn own_account(&self, ctx: &DocContext<'_>) -> Account {
        let user = ctx.own_row().map(|row| row.user);
        user.map_or(Account::FULL, |user| self.state.tables.account(&user))
    }

    pub(crate) fn tried(&self, ctx: &DocContext<'_>) -> Tried {
        Tried {
            until: self.size().saturating_add(PATIENCE_RECORDS),
            account: self.own_account(ctx),
            next_number: self.outbox.next_number(),
        }
    }

    /// Whether nothing has changed since a form was looked for.
    pub(crate) fn is_tried(&self, ctx: &DocContext<'_>, then: &Tried) -> bool {
        self.size() < then.until && then.is_as(&self.tried(ctx))
    }

    /// Nothing is ahead of the log yet.
    pub(crate) fn ahead(&self, ctx: &DocContext<'_>) -> Ahead {
        Ahead {
            account: self.own_account(ctx),
            ops: self.state.tables.ops,
            items: 0,
            counted: 0,
            short: false,
        }
    }

    /// Takes out of the meter what was counted on top of it since.
    pub(crate) fn go_back(&mut self, now: &mut Ahead, then: Ahead) {
        if let Some(meter) = &mut self.content.meter {
            for _ in then.counted..now.counted {
                meter.revert();
            }
        }
        let short = now.short;
        *now = Ahead { short, ..then };
    }

    /// Whether the own record at `at` in the outbox may be sent as it is. `ahead` is kept from one to the next. The meter is here: loading it takes as long
    /// as the document is large, and is done where [`Document::lighten`] is.
    pub(crate) fn may_cost(
        &mut self,
        ctx: &DocContext<'_>,
        ahead: &mut Ahead,
        at: usize,
    ) -> Result<Fits, DocError> {
        if !self.outbox.has_cost(at) || self.outbox.sealed_at(at).is_some() {
            return Ok(Fits::Yes);
        }
        if self.content.meter.is_none() {
            self.light = Light::Due;
        }
        let is_update = self.outbox.is_update(at);
        if at == 0 && is_update && self.light == Light::Due {
            return Ok(Fits::NotNow);
        }
        let fits = self.count_up_to(ahead, at)?;
        if at == 0 && is_update {
            self.light = match self.light {
                _ if fits == Fits::Yes => Light::Fine,
                Light::Waits(then) | Light::Never(then) if self.is_tried(ctx, &then) => self.light,
                // In another form it would go on from the same.
                _ if fits == Fits::After => Light::Waits(self.tried(ctx)),
                _ => Light::Due,
            };
        }
        Ok(fits)
    }

    /// Counts the items of the outbox up to the one at `at`. Gives whether that one may be sent.
    fn count_up_to(&mut self, ahead: &mut Ahead, at: usize) -> Result<Fits, DocError> {
        let mut fits = Fits::Yes;
        while ahead.items <= at {
            let update = self.outbox.update_at(ahead.items).cloned();
            let leaf = self.outbox.carries_at(ahead.items);
            let carried = leaf.and_then(|leaf| self.lost.plain_of(&leaf).cloned());
            fits = match update.as_ref().or(carried.as_ref()) {
                Some(plain) if !self.lost.is_holding() => {
                    let read = self.content.crdt.inspect(plain.as_slice())?;
                    self.count(ahead, plain.as_slice(), read)
                }
                Some(plain) => {
                    let read = self.content.crdt.inspect(plain.as_slice())?;
                    let ranges = read.info.ranges.iter();
                    let mut replicas = ranges.map(|range| &range.replica);
                    let of = leaf.as_ref().filter(|_| update.is_none());
                    let goes_on = replicas.any(|replica| self.lost.holds_under(replica, of));
                    match goes_on {
                        true => Fits::After,
                        false => self.count(ahead, plain.as_slice(), read),
                    }
                }
                None => Fits::Yes,
            };
            ahead.items += 1;
        }
        Ok(fits)
    }

    /// Counts an update on top of what is ahead, where it fits.
    pub(crate) fn count(&mut self, ahead: &mut Ahead, update: &[u8], read: Inspected) -> Fits {
        self.content.counts += 1;
        let mut read = read;
        let holds_back = self.lost.is_holding();
        let allowed = allowance(self.kind(), ahead.account, ahead.ops);
        let Some(meter) = &mut self.content.meter else {
            ahead.short = true;
            return Fits::NotNow;
        };
        let waited = meter.waiting();
        let counted: Counted = match meter.count_on_top(update, &mut read, allowed) {
            Ok(counted) => counted,
            Err(_) => {
                return match meter.count_on_top(update, &mut read, ANY) {
                    Ok(_) => {
                        meter.revert();
                        ahead.short = true;
                        Fits::NotNow
                    }
                    Err(_) => Fits::Never,
                };
            }
        };
        // While something is held back here, what goes on from it is too: others would keep only its place.
        if holds_back && meter.waiting() > waited {
            meter.revert();
            ahead.short = true;
            return Fits::After;
        }
        ahead.ops = meter.size();
        ahead.account = charge_own(ahead.account, &counted);
        ahead.counted += 1;
        Fits::Yes
    }

    fn count_all(&mut self, ahead: &mut Ahead, updates: &[Vec<u8>]) -> Result<bool, DocError> {
        let before = *ahead;
        for update in updates {
            let read = self.content.crdt.inspect(update)?;
            if self.count(ahead, update, read) != Fits::Yes {
                self.go_back(ahead, before);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the next own edit cannot be sent as it is: [`Document::lighten`] is to be called.
    #[must_use]
    pub fn is_lightening_due(&self) -> bool {
        self.light == Light::Due
    }

    /// Whether own edits wait because there is no form of them that may be sent now, or lost updates because they would cost too much now.
    #[must_use]
    pub fn waits_for_cost(&self) -> bool {
        matches!(self.light, Light::Waits(_) | Light::Never(_)) || self.carried_waits()
    }

    /// Whether own edits wait that would cost more than an update may in any form that was found for them, whatever there were to spend.
    #[must_use]
    pub fn is_too_costly(&self) -> bool {
        matches!(self.light, Light::Never(_))
    }

    /// Whether lost updates wait to be carried because they would cost this device's user more than there is now. They go when there is more.
    #[must_use]
    pub fn carried_waits(&self) -> bool {
        self.lost.tried().is_some()
    }

    /// How many updates were counted for what is to be sent: for tests, which count work.
    #[doc(hidden)]
    #[must_use]
    pub fn counted_updates(&self) -> u64 {
        self.content.counts
    }

    /// Brings own edits that cost too much into a form that may be sent: in parts, or written again as a difference. Where there is none they stay as they
    /// are, and wait until the log has grown. Takes time in proportion to the document.
    ///
    /// # Errors
    /// [`DocError::Crdt`] when the CRDT cannot be built again; drop the document and load it from its rows.
    pub fn lighten(&mut self, ctx: &DocContext<'_>) -> Result<DeliverOutcome, DocError> {
        let mut outcome = DeliverOutcome::default();
        if self.light != Light::Due {
            return Ok(outcome);
        }
        self.collect_edits()?;
        self.content.ready_meter()?;
        self.light = Light::Fine;
        // What was sealed once may be in the log already: it goes as it is.
        if !self.outbox.is_update(0) || self.outbox.sealed_at(0).is_some() {
            return Ok(outcome);
        }
        let start = self.ahead(ctx);
        let mut ahead = start;
        let parts = self.lighter(&mut ahead);
        self.go_back(&mut ahead, start);
        match parts? {
            Some(Lighter::Parts(parts)) => {
                let replicas = self.outbox.front_replicas();
                self.outbox.replace_front(parts, &replicas);
            }
            Some(Lighter::Written(parts)) => {
                self.outbox.drop_updates();
                self.queue_updates(parts)?;
                self.rebuild()?;
                outcome.rebuilt = true;
            }
            None => {
                let tried = self.tried(ctx);
                self.light = match ahead.short {
                    true => Light::Waits(tried),
                    false => Light::Never(tried),
                };
                outcome.waits_for_cost = true;
            }
        }
        Ok(outcome)
    }

    fn lighter(&mut self, ahead: &mut Ahead) -> Result<Option<Lighter>, DocError> {
        let start = *ahead;
        let first = self.outbox.front_plain();
        if let Some(parts) = self.fitting(ahead, first.as_slice().to_vec())? {
            return Ok(Some(Lighter::Parts(parts)));
        }
        self.go_back(ahead, start);
        let written = self.written_lightly(ahead)?;
        Ok(written.map(Lighter::Written))
    }

    /// An update as it is, or in parts, each of which may be sent, one after the other. They are counted then.
    fn fitting(
        &mut self,
        ahead: &mut Ahead,
        update: Vec<u8>,
    ) -> Result<Option<Vec<Vec<u8>>>, DocError> {
        let read = self.content.crdt.inspect(&update)?;
        if self.count(ahead, &update, read) == Fits::Yes {
            return Ok(Some(vec![update]));
        }
        let mut about_bytes = update.len();
        let mut last = 1;
        while last < PARTS && about_bytes > 32 {
            about_bytes /= 2;
            let parts = split_update(self.kind(), &update, about_bytes)?;
            if parts.len() == last {
                continue;
            }
            last = parts.len();
            if self.count_all(ahead, &parts)? {
                return Ok(Some(parts));
            }
        }
        Ok(None)
    }

    /// All own updates as a difference, in parts each of which may be sent. `None` where there are none, or where a difference does not tell all.
    fn written_lightly(&mut self, ahead: &mut Ahead) -> Result<Option<Vec<Vec<u8>>>, DocError> {
        let mut base = self.without_own()?;
        let from = Views::of(base.as_mut());
        let wanted = Views::of(self.content.crdt.as_mut());
        if !tell_all(base.as_mut(), self.content.crdt.as_mut()) {
            return Ok(None);
        }
        let edits = match (&from.text, &wanted.text) {
            (Some(from), Some(wanted)) => text_edits(from, wanted, from),
            _ => Vec::new(),
        };
        let edits = front_to_back(edits);
        let mut together = edits.len().max(1);
        loop {
            let mut scratch = self.without_own()?;
            let start = *ahead;
            if let Some(mut parts) = self.write_parts(scratch.as_mut(), ahead, &edits, together)? {
                let told = wanted.write_to(scratch.as_mut()).is_ok();
                let rest = self.taken(scratch.as_mut(), ahead)?;
                let is_all = told && Views::of(scratch.as_mut()) == wanted;
                return Ok(rest.filter(|_| is_all).map(|mut rest| {
                    parts.append(&mut rest);
                    parts
                }));
            }
            self.go_back(ahead, start);
            if together == 1 {
                return Ok(None);
            }
            together = together.div_ceil(4);
        }
    }

    /// What was written into a scratch document, in parts that may be sent.
    fn taken(
        &mut self,
        scratch: &mut dyn Crdt,
        ahead: &mut Ahead,
    ) -> Result<Option<Vec<Vec<u8>>>, DocError> {
        let (mut updates, mut all) = (Vec::new(), Vec::new());
        scratch.take_pending(&mut updates)?;
        for update in updates {
            match self.fitting(ahead, update)? {
                Some(mut parts) => all.append(&mut parts),
                None => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    /// Makes edits of a text, given first position first, so many in each part. `None` where one of these may not be sent.
    fn write_parts(
        &mut self,
        scratch: &mut dyn Crdt,
        ahead: &mut Ahead,
        edits: &[TextEdit],
        together: usize,
    ) -> Result<Option<Vec<Vec<u8>>>, DocError> {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for part in edits.chunks(together) {
            for edit in part {
                let Some(view) = scratch.text() else {
                    return Ok(None);
                };
                view.splice(edit.position, edit.delete, &edit.insert)?;
            }
            let Some(mut parts) = self.taken(scratch, ahead)? else {
                return Ok(None);
            };
            all.append(&mut parts);
            if part.iter().any(|edit| edit.insert.len() >= CHUNK_CHARS) {
                // What one id writes without a gap is one block, which has a limit.
                scratch.set_replica(self.fresh.replica(self.content.kind))?;
            }
        }
        Ok(Some(all))
    }
}

/// Edits that were to be made last position first, to be made first position first, and long insertions in pieces.
fn front_to_back(edits: Vec<TextEdit>) -> Vec<TextEdit> {
    let mut all = Vec::with_capacity(edits.len());
    // How much text there is more before a place by then, and how much less.
    let (mut more, mut less) = (0usize, 0usize);
    for edit in edits.into_iter().rev() {
        let mut position = edit.position.saturating_add(more).saturating_sub(less);
        let mut delete = edit.delete;
        let mut rest = edit.insert.as_str();
        loop {
            let cut = rest.char_indices().nth(CHUNK_CHARS);
            let (piece, after) = rest.split_at(cut.map_or(rest.len(), |(at, _)| at));
            let chars = piece.chars().count();
            all.push(TextEdit {
                position,
                delete,
                insert: piece.to_owned(),
            });
            (rest, delete) = (after, 0);
            position = position.saturating_add(chars);
            more = more.saturating_add(chars);
            if rest.is_empty() {
                break;
            }
        }
        less = less.saturating_add(edit.delete);
    }
    all
}

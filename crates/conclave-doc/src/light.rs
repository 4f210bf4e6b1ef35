//! Own edits that would cost more than they may where they are sent now. They are counted before they are sealed, on the log as it is here and what is on
//! its way: what is refused for its cost everywhere is not sent. It goes in parts, or is written again as a difference, from the front to the back. What
//! cannot be written so waits.

use conclave_crdt::cost::{Counted, Meter};
use conclave_crdt::{Crdt, Inspected, TextEdit, split_update, text_edits};

use crate::charge::{allowance, charge_own};
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
    /// Whether there is no more to spend, and nothing else to send.
    fn is_as(&self, now: &Self) -> bool {
        self.account == now.account && self.next_number == now.next_number
    }
}

/// What a meter of the log says with own edits that are not there yet.
#[derive(Clone)]
pub(crate) struct Ahead {
    meter: Meter,
    account: Account,
    ops: u64,
    /// So many items of the outbox are in it.
    items: usize,
}

impl Document {
    /// What the log says of this device's user.
    fn own_account(&self, ctx: &DocContext<'_>) -> Account {
        let user = ctx.own_row().map(|row| row.user);
        user.map_or(Account::FULL, |user| self.state.tables.account(&user))
    }

    fn tried(&self, ctx: &DocContext<'_>) -> Tried {
        Tried {
            until: self.size().saturating_add(PATIENCE_RECORDS),
            account: self.own_account(ctx),
            next_number: self.outbox.next_number(),
        }
    }

    fn ahead(&mut self, ctx: &DocContext<'_>) -> Result<Option<Ahead>, DocError> {
        self.content.ready_meter()?;
        let account = self.own_account(ctx);
        let ops = self.state.tables.ops;
        Ok(self.content.meter.clone().map(|meter| Ahead {
            meter,
            account,
            ops,
            items: 0,
        }))
    }

    /// Whether the own update at `at` in the outbox may be sent as it is. `ahead` is kept from one to the next.
    pub(crate) fn may_cost(
        &mut self,
        ctx: &DocContext<'_>,
        ahead: &mut Option<Ahead>,
        at: usize,
    ) -> Result<bool, DocError> {
        if !self.outbox.is_update(at) || self.outbox.sealed_at(at).is_some() {
            return Ok(true);
        }
        if at == 0 && self.light == Light::Due {
            return Ok(false);
        }
        let fits = if at == 0 && ahead.is_none() {
            // The one edit of somebody who types needs no copy.
            self.content.ready_meter()?;
            let account = self.own_account(ctx);
            let plain = self.outbox.front_plain();
            let mut read = self.content.crdt.inspect(plain.as_slice())?;
            let (kind, ops) = (self.kind(), self.state.tables.ops);
            self.content.meter.as_mut().is_none_or(|meter| {
                let allowed = allowance(kind, account, ops);
                let counted = meter.count(plain.as_slice(), &mut read, allowed);
                if counted.is_ok() {
                    meter.revert();
                }
                counted.is_ok()
            })
        } else {
            if ahead.is_none() {
                *ahead = self.ahead(ctx)?;
            }
            match ahead {
                Some(ahead) => self.count_up_to(ahead, at)?,
                None => true,
            }
        };
        if at == 0 {
            let now = self.tried(ctx);
            self.light = match self.light {
                _ if fits => Light::Fine,
                Light::Waits(then) if self.size() < then.until && then.is_as(&now) => {
                    Light::Waits(then)
                }
                _ => Light::Due,
            };
        }
        Ok(fits)
    }

    /// Counts the items of the outbox up to the one at `at`. Gives whether that one may be sent.
    fn count_up_to(&mut self, ahead: &mut Ahead, at: usize) -> Result<bool, DocError> {
        let mut fits = true;
        while ahead.items <= at {
            fits = match self.outbox.update_at(ahead.items) {
                Some(plain) => {
                    let mut read = self.content.crdt.inspect(plain.as_slice())?;
                    self.count(ahead, plain.as_slice(), &mut read)
                }
                None => true,
            };
            ahead.items += 1;
        }
        Ok(fits)
    }

    fn count(&self, ahead: &mut Ahead, update: &[u8], read: &mut Inspected) -> bool {
        let allowed = allowance(self.kind(), ahead.account, ahead.ops);
        let before = ahead.meter.size();
        let counted: Option<Counted> = ahead.meter.count(update, read, allowed).ok();
        let Some(counted) = counted else {
            return false;
        };
        ahead.ops = ahead.meter.size();
        ahead.account = charge_own(ahead.account, &counted, (before, ahead.ops));
        true
    }

    fn count_all(&self, ahead: &mut Ahead, updates: &[Vec<u8>]) -> Result<bool, DocError> {
        for update in updates {
            let mut read = self.content.crdt.inspect(update)?;
            if !self.count(ahead, update, &mut read) {
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

    /// Whether own edits wait because there is no form of them that may be sent now.
    #[must_use]
    pub fn waits_for_cost(&self) -> bool {
        matches!(self.light, Light::Waits(_))
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
        self.light = Light::Fine;
        let Some(ahead) = self.ahead(ctx)? else {
            return Ok(outcome);
        };
        let first = self.outbox.front_plain();
        if let Some(parts) = self.fitting(&mut ahead.clone(), first.as_slice().to_vec())? {
            let replicas = self.outbox.front_replicas();
            self.outbox.replace_front(parts, &replicas);
        } else if let Some(parts) = self.written_lightly(&ahead)? {
            self.outbox.drop_updates();
            self.queue_updates(parts)?;
            self.rebuild()?;
            outcome.rebuilt = true;
        } else {
            self.light = Light::Waits(self.tried(ctx));
            outcome.waits_for_cost = true;
        }
        Ok(outcome)
    }

    /// An update as it is, or in parts, each of which may be sent, one after the other. They are counted then.
    fn fitting(
        &self,
        ahead: &mut Ahead,
        update: Vec<u8>,
    ) -> Result<Option<Vec<Vec<u8>>>, DocError> {
        let mut read = self.content.crdt.inspect(&update)?;
        if self.count(ahead, &update, &mut read) {
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
            let mut then = ahead.clone();
            if self.count_all(&mut then, &parts)? {
                *ahead = then;
                return Ok(Some(parts));
            }
        }
        Ok(None)
    }

    /// All own updates as a difference, in parts each of which may be sent. `None` where there are none, or where a difference does not tell all.
    fn written_lightly(&mut self, ahead: &Ahead) -> Result<Option<Vec<Vec<u8>>>, DocError> {
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
            let mut then = ahead.clone();
            if let Some(mut parts) =
                self.write_parts(scratch.as_mut(), &mut then, &edits, together)?
            {
                let told = wanted.write_to(scratch.as_mut()).is_ok();
                let rest = self.taken(scratch.as_mut(), &mut then)?;
                let is_all = told && Views::of(scratch.as_mut()) == wanted;
                return Ok(rest.filter(|_| is_all).map(|mut rest| {
                    parts.append(&mut rest);
                    parts
                }));
            }
            if together == 1 {
                return Ok(None);
            }
            together = together.div_ceil(4);
        }
    }

    /// What was written into a scratch document, in parts that may be sent.
    fn taken(
        &self,
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

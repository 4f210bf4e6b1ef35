//! What a service does that was put back: it says so, waits for what it lost, and gives up what does not come.

use conclave_identity::{ServiceKey, verify_generation, verify_head};
use conclave_proto::merkle::Head;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::service::{Cause, Generation, LogName, Loss, SignedHead};
use conclave_proto::{DeviceId, GroupId, Hash, Refusal, UnixMs};
use conclave_rules::LogId;

use crate::batch::Decided;
use crate::change::{Change, Secret};
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::limits::{ADOPTED_HOLD_MS, HOLD_MS, RETURN_FIRST_MS, RETURN_PAST_MS};
use crate::rows::{RecoveryRow, ServiceRow};

/// A generation, ready to begin.
#[derive(Debug, Clone)]
pub struct Next {
    /// The generation that it was made to follow, by its number: none where there is none.
    pub expected: Option<u64>,
    /// The generation.
    pub generation: Generation,
    /// Seed of its head key.
    pub seed: Secret,
}

impl Next {
    /// What makes it the present one. Whoever knows of another by now has to make another.
    pub(crate) fn begin(&self, rows: &Rows) -> Result<Vec<Change>, Stop> {
        let present = rows.service(&())?.map(|row| row.generation.number);
        if present != self.expected {
            return Err(Refusal::Storage.into());
        }
        let mut changes = vec![Change::Generation {
            expected: self.expected,
            generation: self.generation,
            seed: self.seed.clone(),
        }];
        if self.generation.cause == Cause::Founded {
            return Ok(changes);
        }
        // Packages that were handed out before are there again.
        changes.push(Change::PackagesVoid);
        // So is what was waited for before, with times that may be over: nobody could show or bring anything in them.
        let begun = self.generation.begun;
        let until = (begun.plus_ms(HOLD_MS), u32::MAX);
        for row in rows.ended_at(&until)?.into_iter().flatten() {
            let ends = row.ends.max(begun.plus_ms(row.hold_ms()));
            changes.push(Change::Recovery(RecoveryRow { ends, ..*row }));
        }
        Ok(changes)
    }
}

/// A head that the service signed itself, and that a device says its log does not lead to.
#[derive(Debug, Clone)]
pub struct Report {
    /// Who shows it.
    pub device: DeviceId,
    /// The log.
    pub log: LogId,
    /// The head.
    pub head: Head,
    /// Number of the generation in which it was signed.
    pub number: u64,
    /// The generation that begins if it is true.
    pub next: Next,
    /// Until when all logs are held then: whoever has a head of another log shows it before anybody goes on there.
    pub hold: Option<UnixMs>,
    /// The time.
    pub now: UnixMs,
}

impl Report {
    /// Checks that it is of the service's own making.
    ///
    /// # Errors
    /// [`Refusal`] where it is not, or says nothing.
    pub fn judge(
        service_key: &[u8; 32],
        generation: &Generation,
        log: &LogName,
        signed: &SignedHead,
    ) -> Result<(), Refusal> {
        verify_generation(service_key, generation).map_err(|_| Refusal::BadIdentity)?;
        verify_head(service_key, generation, log, signed).map_err(|_| Refusal::BadIdentity)?;
        match signed.head.size {
            0 => Err(Refusal::Malformed),
            _ => Ok(()),
        }
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.services.insert(());
        keys.losses.insert(self.log);
        keys.dropped.insert(self.log.group);
        keys.recoveries.insert(self.log);
        if self.log.is_group() {
            keys.groups.insert(self.log.group);
        } else {
            keys.documents.insert(self.log);
        }
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let (log, head) = (&self.log, &self.head);
        let done = Ok(Decided::event(Event::Done));
        let present = rows.service(&())?.map_or(0, |row| row.generation.number);
        let mut losses = rows.losses_of(log)?.into_iter().flatten();
        // It was given up. What was signed in the generation that gave it up, the log has come to since.
        if losses.any(|loss| loss.lost.size >= head.size && loss.generation > self.number) {
            return done;
        }
        // It was of another group, which is gone.
        if rows
            .dropped_in(&log.group)?
            .is_some_and(|dropped| self.number < *dropped)
        {
            return done;
        }
        // Below what a member brought nothing is known of the log, and nothing that is missing can come to lie there.
        let leads =
            head.size < base_of(rows, log)? || root_at(rows, log, head.size)? == Some(head.root);
        // A log as long as that went another way: nothing leads there any more. What is missing is carried, not returned.
        let returns = !leads && size_of(rows, log)? < head.size;
        let row = RecoveryRow {
            log: *log,
            want: *head,
            of: self.number,
            began: self.now,
            ends: UnixMs(self.now.0.saturating_add(HOLD_MS)),
        };
        // A later generation than the present one was lost, whatever became of this log.
        if self.number > present || (self.number == present && !leads) {
            let mut changes = self.next.begin(rows)?;
            changes.extend(held_until(rows, self.hold)?);
            if returns {
                changes.push(Change::Recovery(row));
            }
            let generation = self.next.generation;
            let event = Event::Declared { generation };
            return Ok(Decided { changes, event });
        }
        if !returns {
            return done;
        }
        let row = match rows.recovery_of(log)? {
            Some(known) if (known.of, known.want.size) >= (self.number, head.size) => return done,
            // Nothing was known to be missing: it was held for minutes.
            Some(known) if known.of == 0 => RecoveryRow {
                ends: row.ends.max(known.ends),
                ..row
            },
            Some(known) => RecoveryRow {
                want: *head,
                of: self.number,
                ..*known
            },
            // It went another way since.
            None if grown_in(rows, log)? > self.number => return done,
            None if has_loss_since(rows, log, self.number)? => return done,
            None => row,
        };
        Ok(Decided {
            changes: vec![Change::Recovery(row)],
            event: Event::Done,
        })
    }
}

/// Size below which a log is not here; 0 where all of it is.
fn base_of(rows: &Rows, log: &LogId) -> Result<u64, Stop> {
    if !log.is_group() {
        return Ok(rows.document(log)?.map_or(0, |row| row.base.size()));
    }
    let row = rows.group(&log.group)?;
    Ok(row.and_then(|row| row.base).unwrap_or(0))
}

fn has_loss_since(rows: &Rows, log: &LogId, generation: u64) -> Result<bool, Stop> {
    let mut losses = rows.losses_of(log)?.into_iter().flatten();
    Ok(losses.any(|loss| loss.generation > generation))
}

/// The root that a log had at a size above 0, if it has come so far.
fn root_at(rows: &Rows, log: &LogId, size: u64) -> Result<Option<Hash>, Stop> {
    if size > size_of(rows, log)? {
        return Ok(None);
    }
    if log.is_group() {
        return Ok(rows.group_root(&(log.group, size))?.copied());
    }
    Ok(rows.mark(&(*log, size))?.map(|mark| mark.root))
}

/// Size of a log; 0 where there is none.
pub(crate) fn size_of(rows: &Rows, log: &LogId) -> Result<u64, Stop> {
    if log.is_group() {
        return Ok(rows.group(&log.group)?.map_or(0, |row| row.size));
    }
    let row = rows.document(log)?;
    Ok(row.map_or(0, |row| row.frontier.size()))
}

/// The head of a log.
fn head_of(rows: &Rows, log: &LogId) -> Result<Head, Stop> {
    let size = size_of(rows, log)?;
    if size == 0 {
        return Ok(Head::EMPTY);
    }
    let root = root_at(rows, log, size)?.ok_or(Stop::Damaged { what: "log" })?;
    Ok(Head { size, root })
}

fn grown_in(rows: &Rows, log: &LogId) -> Result<u64, Stop> {
    if log.is_group() {
        return Ok(rows.group(&log.group)?.map_or(0, |row| row.grown_in));
    }
    Ok(rows.document(log)?.map_or(0, |row| row.grown_in))
}

impl Rows {
    /// Refuses while all logs are held. Gives what the log is known to have lost, if it is.
    pub(crate) fn ensure_no_hold(&self, log: &LogId) -> Result<Option<Head>, Stop> {
        let want = self.recovery_of(log)?.map(|row| row.want);
        if self.service(&())?.is_none_or(|row| row.hold.is_none()) {
            return Ok(want);
        }
        let have = size_of(self, log)?;
        let want = want.map_or(have, |want| want.size.max(have));
        Err(Refusal::Recovering { have, want }.into())
    }

    /// Refuses where the service waits for what it lost of this log: it does not go another way meanwhile. Gives the number of the present
    /// generation.
    ///
    /// What a group's log is missing may end the epoch of what its documents would get: they wait with it.
    pub(crate) fn ensure_growing(&self, log: &LogId) -> Result<u64, Stop> {
        let Some(service) = self.service(&())? else {
            return Ok(0);
        };
        let number = service.generation.number;
        let mut held = service.hold.is_some();
        let mut want = 0;
        if service.recovers {
            for log_or_group in [*log, LogId::of_group(log.group)] {
                let row = self.recovery_of(&log_or_group)?;
                held |= row.is_some();
                if log_or_group == *log {
                    want = row.map_or(0, |row| row.want.size);
                }
            }
        }
        if !held {
            return Ok(number);
        }
        let have = size_of(self, log)?;
        let want = have.max(want);
        Err(Refusal::Recovering { have, want }.into())
    }
}

/// What a log may get back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// What it is known to have lost.
    pub(crate) head: Option<Head>,
    /// What it had beyond that. No signature proves that it was there.
    pub(crate) past: Past,
}

/// Whether a log gets back what goes past all that the service is known to have signed of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Past {
    /// It does: it has not gone another way since the service was put back, and who has a later head has had time to show it.
    Taken,
    /// Later: somebody may show a later head still.
    Held,
    /// No more.
    Over,
}

impl RecoveryRow {
    /// How long it is held at least from where that is begun anew: where nothing is known to be missing, as long as a group that a member brought.
    fn hold_ms(&self) -> u64 {
        match self.of {
            0 => ADOPTED_HOLD_MS,
            _ => HOLD_MS,
        }
    }

    /// What becomes of the hold of a log that stood here, when more has come back. Where nothing was known to be missing, it goes on as long as it was
    /// to: whoever has still more may come.
    pub(crate) fn after(&self, have: u64, reached: Head) -> Change {
        match self.want.size > have {
            true => Change::RecoveryGone { log: self.log },
            false => Change::Recovery(Self {
                want: reached,
                ..*self
            }),
        }
    }
}

impl ServiceRow {
    /// Whether all logs are held, and will be for a while.
    fn holds_back(&self, now: UnixMs) -> bool {
        self.hold
            .is_some_and(|hold| hold.since_ms(now) > RETURN_FIRST_MS)
    }
}

/// Of what is offered, nothing is taken any more.
pub(crate) const WENT_ON: Refusal = Refusal::Forbidden {
    why: ForbiddenWhy::WentOn,
};

impl Wanted {
    /// How many of what is offered are wanted at least, where the log has so many. None: it is not from here, or not enough.
    pub(crate) fn least(&self, have: u64, from: u64, offered: usize) -> Result<usize, Refusal> {
        let want = self.head.map_or(have, |head| head.size);
        let least = usize::try_from(want.saturating_sub(have)).unwrap_or(usize::MAX);
        let recovering = Refusal::Recovering { have, want };
        match self.past {
            _ if from != have => Err(recovering),
            Past::Over if least == 0 => Err(WENT_ON),
            Past::Held if least == 0 => Err(recovering),
            _ if offered == 0 || offered < least => Err(recovering),
            _ => Ok(least),
        }
    }
}

impl Rows {
    /// What of a log may come back at this time.
    pub(crate) fn wanted_of(&self, log: &LogId, now: UnixMs) -> Result<Wanted, Stop> {
        let head = self.recovery_of(log)?.map(|row| row.want);
        let of_group = self.recovery_of(&LogId::of_group(log.group))?;
        let has = self.group(&log.group)?.map_or(0, |row| row.size);
        let waits_for_group = !log.is_group() && of_group.is_some_and(|row| row.want.size > has);
        let past = match self.service(&())? {
            Some(row) => {
                // A service that members bring a group to has lost it, whatever it says of itself.
                let Generation { cause, begun, .. } = row.generation;
                let is_late = now.since_ms(begun) >= RETURN_PAST_MS;
                let put_back =
                    self.is_brought(&log.group)? || (cause != Cause::Founded && !is_late);
                let stands = grown_in(self, log)? < row.generation.number;
                // What was given up is carried, if at all.
                // Of a document of which nothing is there nothing else stands in the way.
                let has_nothing = !log.is_group() && self.document(log)?.is_none();
                let given_up = !has_nothing
                    && has_loss_since(self, log, row.generation.number.saturating_sub(1))?;
                if !put_back || !stands || given_up {
                    Past::Over
                } else if row.holds_back(now) || waits_for_group {
                    Past::Held
                } else {
                    Past::Taken
                }
            }
            None => Past::Over,
        };
        Ok(Wanted { head, past })
    }

    /// Whether a member brought a group to this service.
    pub(crate) fn is_brought(&self, group: &GroupId) -> Result<bool, Stop> {
        let row = self.group(group)?;
        Ok(row.is_some_and(|row| row.base.is_some()))
    }

    /// In which generation a log has last grown, that takes what nobody had signed: in the present one, since others may have something else in its place.
    /// But a group that a member brought goes on from there as long as somebody has more.
    pub(crate) fn grows_past(&self, log: &LogId, grown_in: u64) -> Result<u64, Stop> {
        let number = self.service(&())?.map_or(0, |row| row.generation.number);
        Ok(match self.is_brought(&log.group)? {
            true => grown_in,
            false => number,
        })
    }
}

/// Asks for what [`Rows::wanted_of`] has to know.
pub(crate) fn wanted_keys(log: &LogId, keys: &mut Keys) {
    keys.services.insert(());
    keys.losses.insert(*log);
    keys.recoveries.insert(*log);
    keys.recoveries.insert(LogId::of_group(log.group));
    keys.groups.insert(log.group);
    if !log.is_group() {
        keys.documents.insert(*log);
    }
}

/// What holds all logs until then. A hold that stands is not made shorter.
fn held_until(rows: &Rows, ends: Option<UnixMs>) -> Result<Option<Change>, Stop> {
    let before = rows.service(&())?.and_then(|row| row.hold);
    Ok((ends > before).then_some(Change::Hold { ends }))
}

/// A generation begins: the operator said so, or the service itself.
#[derive(Debug, Clone)]
pub struct Declare {
    /// The generation.
    pub next: Next,
    /// Until when all logs are held.
    pub hold: Option<UnixMs>,
}

impl Declare {
    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.services.insert(());
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        let mut changes = self.next.begin(rows)?;
        changes.extend(held_until(rows, self.hold)?);
        let generation = self.next.generation;
        let event = Event::Declared { generation };
        Ok(Decided { changes, event })
    }
}

/// What is held is held longer, and all logs are held as long.
#[derive(Debug, Clone, Copy)]
pub struct Prolong {
    /// Until when.
    pub ends: UnixMs,
}

impl Prolong {
    pub(crate) fn keys(self, keys: &mut Keys) {
        keys.services.insert(());
        keys.ended.insert(ALL);
    }

    pub(crate) fn decide(self, rows: &Rows) -> Result<Decided, Stop> {
        let mut changes = Vec::new();
        changes.extend(held_until(rows, Some(self.ends))?);
        let held = rows.ended_at(&ALL)?.into_iter().flatten();
        let sooner = held.filter(|row| row.ends < self.ends);
        changes.extend(sooner.map(|row| {
            let ends = self.ends;
            Change::Recovery(RecoveryRow { ends, ..*row })
        }));
        let event = Event::Done;
        Ok(Decided { changes, event })
    }
}

/// Every log that is held: more than a service has.
const ALL: (UnixMs, u32) = (UnixMs(i64::MAX as u64), u32::MAX);

/// The hold over all logs is over.
#[derive(Debug, Clone, Copy)]
pub struct EndHold {
    /// The time.
    pub now: UnixMs,
}

impl EndHold {
    pub(crate) fn keys(self, keys: &mut Keys) {
        keys.services.insert(());
    }

    pub(crate) fn decide(self, rows: &Rows) -> Result<Decided, Stop> {
        let hold = rows.service(&())?.and_then(|row| row.hold);
        let is_over = hold.is_some_and(|hold| hold <= self.now);
        let changes = is_over.then_some(Change::Hold { ends: None });
        Ok(Decided {
            changes: changes.into_iter().collect(),
            event: Event::Done,
        })
    }
}

/// What a log did not get back is given up.
#[derive(Debug, Clone)]
pub struct AcceptLoss {
    /// The loss, as it was signed.
    pub loss: Loss,
}

impl AcceptLoss {
    /// Gives up what a log did not get back, as things stand.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn judge(service: &ServiceKey, rows: &Rows, row: &RecoveryRow) -> Result<Self, Stop> {
        let generation = rows.service(&())?.map_or(0, |row| row.generation.number);
        let kept = head_of(rows, &row.log)?;
        let loss = service.declare_loss(generation, row.log.name(), kept, row.want);
        Ok(Self { loss })
    }

    fn log(&self) -> LogId {
        self.loss.log.into()
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.recoveries.insert(self.log());
        keys.services.insert(());
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        let log = self.log();
        let Some(row) = rows.recovery_of(&log)? else {
            return Ok(Decided::event(Event::Done));
        };
        let present = rows.service(&())?.map_or(0, |row| row.generation.number);
        let Loss {
            generation,
            kept,
            lost,
            ..
        } = self.loss;
        // It was signed for what was so then.
        if head_of(rows, &log)? != kept || row.want != lost || generation != present {
            return Err(Refusal::Storage.into());
        }
        // Nothing was known to be missing: who was further on had time to say so.
        if kept.size >= lost.size {
            return Ok(Decided {
                changes: vec![Change::RecoveryGone { log }],
                event: Event::Done,
            });
        }
        Ok(Decided {
            changes: vec![Change::RecoveryGone { log }, Change::Loss(self.loss)],
            event: Event::LossAccepted,
        })
    }
}

/// No head's time will lie past this before it is raised again: after a restart none lies before it.
#[derive(Debug, Clone, Copy)]
pub struct ReserveTime {
    /// Seconds since 1970.
    pub until: u64,
}

impl ReserveTime {
    pub(crate) fn decide(self) -> Decided {
        let until = self.until;
        Decided {
            changes: vec![Change::HeadTime { until }],
            event: Event::Done,
        }
    }
}

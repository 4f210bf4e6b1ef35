//! A service that was put back: reports, the hold, declared losses.

use conclave_order::limits::FOUND_HOLD_MS;
use conclave_order::op::entry::Does;
use conclave_order::op::recovery::{AcceptLoss, Declare, EndHold, Next, Report};
use conclave_order::op::returned::{Offer, ReturnDocument};
use conclave_order::op::returned_group::{Offer as GroupOffer, ReturnGroup};
use conclave_order::rows::RecoveryRow;
use conclave_order::{Asker, Event, Op, Rows, Stop};
use conclave_proto::frame::{Answer, DocumentBase, Returned};
use conclave_proto::service::{Cause, Generation, LogName, Loss, SignedHead};
use conclave_proto::{Refusal, UnixMs};
use conclave_rules::LogId;

use super::desk::Desk;
use super::{Outgoing, Service};

/// Every log that is held.
const ALL: (UnixMs, u32) = (UnixMs(i64::MAX.unsigned_abs()), u32::MAX);

impl Service {
    /// Its operator declares that it was put back, and holds all logs for so long. Everybody is sent away.
    pub fn recover(&mut self, hold_ms: u64, now: UnixMs) -> Outgoing {
        self.desk.now = now;
        let next = self.desk.signing.next(None, Cause::Restored, now);
        let hold = Some(UnixMs(now.0.saturating_add(hold_ms)));
        self.desk.declare(next, hold);
        std::mem::take(&mut self.desk.out)
    }

    /// Its operator gives up what did not come back.
    pub fn accept_losses(&mut self) -> Outgoing {
        self.desk.accept_losses(ALL.0);
        std::mem::take(&mut self.desk.out)
    }

    /// Logs that are being returned.
    #[must_use]
    pub fn recovering(&self) -> Vec<RecoveryRow> {
        self.desk.ended(ALL.0)
    }

    /// The generation that it is in.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.desk.signing.generation()
    }
}

impl Desk {
    pub(super) fn report(
        &mut self,
        by: Asker,
        (generation, log): (Generation, LogName),
        signed: SignedHead,
    ) -> Result<Answer, Refusal> {
        let key = self.signing.service_key();
        Report::judge(&key, &generation, &log, &signed)?;
        let cause = Cause::PutBack;
        let next = self.signing.next(Some(&generation), cause, self.now);
        let op = Report {
            device: by.device,
            log: log.into(),
            head: signed.head,
            number: generation.number,
            next: next.clone(),
            hold: Some(UnixMs(self.now.0.saturating_add(FOUND_HOLD_MS))),
            now: self.now,
        };
        if let Event::Declared { .. } = self.run(Op::Report(Box::new(op)))? {
            self.signing.begin(&next);
            self.begin_anew();
        }
        Ok(Answer::Done)
    }

    pub(super) fn give_back(
        &mut self,
        by: Asker,
        (log, base): (LogId, Option<DocumentBase>),
        from: u64,
        items: Vec<Returned>,
    ) -> Result<Answer, Refusal> {
        let records = Returned::records(items)?;
        let core = self.joined(log.group, by)?;
        let offer = Offer {
            device: by.device,
            log,
            base: base.as_ref(),
            from,
            records: &records,
        };
        let mut rows = Rows::default();
        let op = loop {
            match ReturnDocument::judge(offer, core.state.state(), self.now, &rows) {
                Ok(op) => break Ok(op),
                Err(Stop::Lacks(keys)) => rows.extend(self.load(|wanted| wanted.extend(*keys))?),
                Err(stop) => break Err(super::log::refusal(stop)),
            }
        };
        self.keep(core);
        let op = op?;
        let fresh = op.fresh().to_vec();
        let Event::Returned { seq, head } = self.run(Op::ReturnDocument(Box::new(op)))? else {
            return Err(Refusal::Storage);
        };
        self.publish(log, (seq, head.size), None, &fresh)?;
        Ok(Answer::Accepted { seq, head })
    }

    pub(super) fn give_back_group(&mut self, offer: GroupOffer<'_>) -> Result<Answer, Refusal> {
        let group = offer.group;
        let log = LogId::of_group(group);
        let rows = self.load(|keys| offer.needs(keys))?;
        // What is not taken has gone into it.
        let mut core = self.restore(group)?;
        let judged = ReturnGroup::judge(offer, &mut core, &rows);
        let op = judged.map_err(super::log::refusal)?;
        let entries = op.entries().to_vec();
        let Event::Returned { seq, head } = self.run(Op::ReturnGroup(Box::new(op)))? else {
            return Err(Refusal::Storage);
        };
        for (seq, new) in (seq..).zip(&entries) {
            let (_, removed) = new.moves();
            self.publish_entry(group, seq, &new.entry, removed);
        }
        self.grown(log);
        for new in &entries {
            if let Does::Commit(begins) = &new.does {
                self.announce(group, begins.epoch, &begins.added)?;
            }
        }
        Ok(Answer::Accepted { seq, head })
    }

    fn declare(&mut self, next: Next, hold: Option<UnixMs>) {
        let declare = Declare {
            next: next.clone(),
            hold,
        };
        if self.run(Op::Declare(Box::new(declare))).is_ok() {
            self.signing.begin(&next);
            self.begin_anew();
        }
    }

    /// Everybody has to come back and compare.
    fn begin_anew(&mut self) {
        self.told.clear();
        let all: Vec<_> = self.conns.keys().copied().collect();
        for conn in all {
            self.hang_up(conn, Refusal::ShuttingDown);
        }
    }

    /// Ends what is over.
    pub(super) fn end_holds(&mut self) {
        let now = self.now;
        let rows = self.load(|keys| _ = keys.services.insert(()));
        let row = rows.ok().and_then(|rows| rows.services.get(&()).copied());
        let Some(row) = row.flatten() else {
            return;
        };
        let is_held = row.hold.is_some_and(|hold| hold > now);
        if row.hold.is_some() && !is_held {
            // It is over for who asks next, or was already.
            let _ = self.run(Op::EndHold(EndHold { now }));
        }
        // Not before everybody could come.
        if row.recovers && !is_held {
            self.accept_losses(now);
        }
    }

    fn ended(&self, at: UnixMs) -> Vec<RecoveryRow> {
        let key = (at, u32::MAX);
        let rows = self.load(|keys| _ = keys.ended.insert(key));
        let rows = rows.ok().and_then(|mut rows| rows.ended.remove(&key));
        rows.flatten().unwrap_or_default()
    }

    fn accept_losses(&mut self, until: UnixMs) {
        let over = self.ended(until);
        let mut declared = false;
        for row in &over {
            if let Ok(op) = self.loss(row) {
                let done = self.run(Op::AcceptLoss(Box::new(op)));
                declared |= matches!(done, Ok(Event::LossAccepted));
            }
        }
        if declared {
            self.begin_anew();
        }
    }

    fn loss(&self, row: &RecoveryRow) -> Result<AcceptLoss, Refusal> {
        let mut rows = Rows::default();
        loop {
            match AcceptLoss::judge(self.signing.key(), &rows, row) {
                Ok(op) => return Ok(op),
                Err(Stop::Lacks(keys)) => rows.extend(self.load(|wanted| wanted.extend(*keys))?),
                Err(stop) => return Err(super::log::refusal(stop)),
            }
        }
    }

    /// Declared losses of a log.
    pub(super) fn losses(&self, log: LogId) -> Result<Vec<Loss>, Refusal> {
        let mut rows = self.load(|keys| _ = keys.losses.insert(log))?;
        Ok(rows.losses.remove(&log).flatten().unwrap_or_default())
    }

    /// Founds the service in its store.
    pub(super) fn found(&mut self) {
        let (next, hold) = (self.signing.founding(), None);
        // An empty store takes it.
        let _ = self.run(Op::Declare(Box::new(Declare { next, hold })));
    }
}

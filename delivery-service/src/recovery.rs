//! What a running service does that was put back: it takes reports, goes over to a new generation, and ends holds.

use std::sync::Arc;

use conclave_identity::{HeadKey, NewGeneration, ServiceKey};
use conclave_order::op::recovery::{AcceptLoss, EndHold, Next, Report, ReserveTime};
use conclave_order::rows::RecoveryRow;
use conclave_order::{Event, Keys, Op, Rows, Secret, Stop};
use conclave_proto::frame::Answer;
use conclave_proto::service::{Cause, Generation, LogName, SignedHead};
use conclave_proto::{Refusal, UnixMs};
use zeroize::Zeroizing;

use crate::error::{OpError, StartError};
use crate::heads::Standing;
use crate::hub::Conn;
use crate::limits;
use crate::shared::Shared;

/// A fresh secret.
pub(crate) fn fresh_seed() -> Result<Zeroizing<[u8; 32]>, StartError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|_| StartError::Random)?;
    Ok(seed)
}

/// A generation to follow the present one, and every one that is known of.
pub(crate) fn next(
    service: &ServiceKey,
    present: Option<&Generation>,
    known: Option<&Generation>,
    (cause, begun): (Cause, UnixMs),
) -> Result<Next, StartError> {
    let seed = fresh_seed()?;
    let new = NewGeneration {
        cause,
        begun,
        head_key: HeadKey::from_bytes(&seed).public(),
    };
    let newest = present
        .into_iter()
        .chain(known)
        .max_by_key(|generation| generation.number);
    Ok(Next {
        expected: present.map(|generation| generation.number),
        generation: service.begin(newest, new),
        seed: Secret::new(seed),
    })
}

/// Takes a head that the service is said to have signed and not to lead to. If that is so it was put back, whoever did it.
pub(crate) async fn report(
    shared: &Arc<Shared>,
    conn: &Conn,
    (generation, log): (Generation, LogName),
    signed: SignedHead,
) -> Result<Answer, OpError> {
    let env = &shared.env;
    // Breakage: whoever likes makes the service begin anew.
    if !crate::broken("unsigned-report") {
        Report::judge(&env.heads.service_key(), &generation, &log, &signed)?;
    }
    for _ in 0..limits::REPORT_ATTEMPTS {
        let standing = env.heads.standing();
        let now = env.clock.now();
        let cause = (Cause::PutBack, now);
        let (present, known) = (Some(&standing.generation), Some(&generation));
        let next = next(&standing.service, present, known, cause);
        let hold_ms = env.limits.found_hold_ms;
        let hold = (hold_ms > 0).then(|| UnixMs(now.0.saturating_add(hold_ms)));
        let op = Report {
            device: conn.device,
            log: log.into(),
            head: signed.head,
            number: generation.number,
            next: next.map_err(|_| Refusal::Storage)?,
            hold,
            now,
        };
        match env
            .writer
            .ask(conn.asker().asks(Op::Report(Box::new(op))))
            .await
        {
            Ok(Event::Declared { generation }) => {
                let number = generation.number;
                tracing::error!(
                    number,
                    "this service was put back to an earlier state: a new generation begins, and what members still have is asked for"
                );
                renew(shared).await?;
                return Ok(Answer::Done);
            }
            Ok(_) => return Ok(Answer::Done),
            // Another generation has begun meanwhile.
            Err(Refusal::Storage) => _ = renew(shared).await?,
            Err(other) => return Err(other.into()),
        }
    }
    Err(Refusal::Storage.into())
}

/// Goes over to the stored generation, where that is another: everybody has to come back and compare. True: it was.
pub(crate) async fn renew(shared: &Shared) -> Result<bool, OpError> {
    let env = &shared.env;
    let stored = env.reads.generation().await?;
    let present = env.heads.standing();
    let Some((generation, seed)) = stored.filter(|(it, _)| *it != present.generation) else {
        return Ok(false);
    };
    env.heads.begin(Standing {
        service: present.service.clone(),
        generation,
        heads: HeadKey::from_bytes(&seed),
    });
    shared.begin_anew();
    Ok(true)
}

/// Whether a log is waited for no longer, at a service that runs since then.
fn is_over(row: &RecoveryRow, now: UnixMs, since: UnixMs) -> bool {
    row.ends <= now && (row.ends >= since || now.since_ms(since) >= limits::DOWN_GRACE_MS)
}

/// Looks whether the operator has declared something, and ends what is over. It runs since then.
async fn look(shared: &Shared, since: UnixMs) -> Result<(), OpError> {
    renew(shared).await?;
    let env = &shared.env;
    let now = env.clock.now();
    let ended = (now, limits::HOLDS_ENDED_AT_ONCE);
    let mut keys = Keys::default();
    keys.services.insert(());
    keys.ended.insert(ended);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    let hold = rows.service(&())?.and_then(|row| row.hold);
    let is_held = hold.is_some_and(|hold| hold > now);
    if hold.is_some() && !is_held {
        env.writer.own(Op::EndHold(EndHold { now })).await?;
        tracing::info!("the hold over all logs has ended");
    }
    let over: Vec<RecoveryRow> = rows.ended_at(&ended)?.cloned().unwrap_or_default();
    // Not before everybody could come, while everything is held.
    let over = over
        .iter()
        .filter(|row| !is_held && is_over(row, now, since));
    for row in over {
        // Of the others each stands for itself.
        if let Err(error) = accept_loss(shared, &mut rows, row).await {
            let (group, document) = (row.log.group, row.log.document);
            tracing::error!(%group, %document, "what this log lost cannot be given up");
            error.into_refusal();
        }
    }
    // By whomever they were declared.
    let losses = env.reads.losses().await?;
    if env.heads.note_losses(losses) {
        tracing::warn!(losses, "logs go on without what was lost of them");
        shared.begin_anew();
    }
    Ok(())
}

async fn accept_loss(shared: &Shared, rows: &mut Rows, row: &RecoveryRow) -> Result<(), OpError> {
    let env = &shared.env;
    let service = env.heads.standing().service.clone();
    let op = loop {
        match AcceptLoss::judge(&service, rows, row) {
            Ok(op) => break op,
            Err(Stop::Lacks(keys)) => env.load(&keys, rows).await?,
            Err(stop) => return Err(stop.into()),
        }
    };
    match env.writer.own(Op::AcceptLoss(Box::new(op))).await {
        // Or something came back meanwhile: the next look decides.
        Ok(_) | Err(Refusal::Storage) => Ok(()),
        Err(other) => Err(other.into()),
    }
}

/// Reserves times for signed heads.
pub(crate) async fn reserve_time(shared: &Shared) -> Result<(), OpError> {
    let env = &shared.env;
    let until = env.heads.to_reserve();
    let op = Op::ReserveTime(ReserveTime { until });
    env.writer.own(op).await?;
    env.heads.reserved(until);
    Ok(())
}

/// Does these now and then, until the service stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let since = shared.env.clock.now();
    let mut looks = tokio::time::interval(limits::RECOVERY_INTERVAL);
    let mut times = tokio::time::interval(limits::HEAD_TIME_INTERVAL);
    loop {
        let done = tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = looks.tick() => look(&shared, since).await,
            _ = times.tick() => reserve_time(&shared).await,
        };
        // Told where it is known what is wrong; the next time it may do.
        if let Err(error) = done {
            error.into_refusal();
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::{DocumentId, GroupId, Head};
    use conclave_rules::LogId;

    use super::*;

    #[test]
    fn what_ended_while_the_service_was_down_is_waited_for_a_little() {
        let ends = UnixMs(5_000_000);
        let group = GroupId([1; 16]);
        let row = RecoveryRow {
            ends,
            log: LogId {
                group,
                document: DocumentId::ZERO,
            },
            want: Head::EMPTY,
            of: 1,
            began: UnixMs(0),
        };
        let over = |since: UnixMs, ms| is_over(&row, since.plus_ms(ms), since);
        let before = UnixMs(ends.0 - 7);
        assert!(!over(before, 6) && over(before, 7));
        assert!(over(ends, 0));
        let after = UnixMs(ends.0 + 1);
        assert!(!over(after, 0) && !over(after, limits::DOWN_GRACE_MS - 1));
        assert!(over(after, limits::DOWN_GRACE_MS));
    }
}

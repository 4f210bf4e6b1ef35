//! A service that was put back: what it declares, what it holds, what it gives up.

use anyhow::{Context as _, Result, ensure};
use conclave_identity::ServiceKey;
use conclave_order::op::recovery::{AcceptLoss, Declare, EndHold, Next, Prolong, Report};
use conclave_order::rows::{RecoveryRow, ServiceRow};
use conclave_order::{Event, Op, Rows, Stop, limits};
use conclave_proto::service::{Cause, Loss};
use conclave_proto::{Head, Refusal, UnixMs};
use conclave_rules::LogId;

use super::dump::{Known, dump};
use super::identity::{claim, package, put};
use crate::database::Database;
use crate::ids::{author, device, group, log, some_hash};
use crate::service::Signing;
use crate::world::{Moves, START, World, admit, commit, found, refusal};

/// A service with a document of some records, and what it signs with.
async fn founded<D: Database>() -> Result<(World<D>, Signing)> {
    let signing = Signing::default();
    let mut world = World::<D>::furnished().await?;
    let (next, hold) = (signing.founding(), None);
    let op = Op::Declare(Box::new(Declare { next, hold }));
    world.accepted(vec![op]).await?;
    let updates = world.updates(log(1, 1), author(10, 1), 3).await?;
    world.accepted(vec![updates]).await?;
    Ok((world, signing))
}

/// Somebody has a head of this size that the service does not lead to.
fn report(signing: &Signing, log: LogId, size: u64) -> Op {
    let root = some_hash(size);
    report_of(signing, log, Head { size, root })
}

fn report_of(signing: &Signing, log: LogId, head: Head) -> Op {
    let next = signing.next(None, Cause::PutBack, START);
    reporting(signing.generation().number, log, head, next)
}

fn reporting(number: u64, log: LogId, head: Head, next: Next) -> Op {
    Op::Report(Box::new(Report {
        device: device(20),
        log,
        head,
        number,
        next,
        hold: Some(START),
        now: START,
    }))
}

async fn service<D: Database>(world: &World<D>) -> Result<ServiceRow> {
    let rows = world.load(|keys| _ = keys.services.insert(())).await?;
    let row = rows.services.get(&()).copied().flatten();
    row.context("not founded")
}

async fn held<D: Database>(world: &World<D>) -> Result<Vec<RecoveryRow>> {
    let all = (UnixMs(u64::MAX >> 1), 1000);
    let mut rows = world.load(|keys| _ = keys.ended.insert(all)).await?;
    rows.ended.remove(&all).flatten().context("not asked")
}

async fn all<D: Database>(world: &World<D>) -> Result<super::dump::Dump> {
    let known = Known {
        groups: vec![group(1)],
        logs: vec![log(1, 1)],
        ..Known::default()
    };
    dump(&world.database, &known).await
}

/// Declares by a report, and goes over. The hold over all logs is over then.
async fn put_back<D: Database>(
    world: &mut World<D>,
    signing: &mut Signing,
    of: LogId,
    size: u64,
) -> Result<()> {
    let next = signing.next(None, Cause::PutBack, START);
    let event = world.one(report(signing, of, size)).await?;
    ensure!(matches!(event, Event::Declared { .. }), "{event:?}");
    signing.begin(&next);
    let end = Op::EndHold(EndHold { now: START });
    world.accepted(vec![end]).await?;
    Ok(())
}

/// Two that were made to follow the same: one begins. The number rises with a clock that stands still.
///
/// # Errors
/// When it is not so.
pub async fn a_generation_follows_the_one_it_was_made_for<D: Database>() -> Result<()> {
    let (mut world, signing) = founded::<D>().await?;
    let [one, two] = [1, 2].map(|at| signing.next(None, Cause::Restored, UnixMs(at)));
    let declare = |next: &Next| {
        let (next, hold) = (next.clone(), None);
        Op::Declare(Box::new(Declare { next, hold }))
    };
    let events = world.run(vec![declare(&one), declare(&two)]).await?;
    ensure!(
        matches!(events.first(), Some(Event::Declared { generation }) if *generation == one.generation)
    );
    ensure!(events.get(1).and_then(refusal) == Some(Refusal::Storage));
    ensure!(service(&world).await?.generation == one.generation);
    ensure!(one.generation.number > signing.generation().number);
    ensure!(one.generation.previous == signing.generation().hash());
    Ok(())
}

/// A head that the log leads to changes nothing, of whatever log.
///
/// # Errors
/// When it is not so.
pub async fn old_and_true_reports_change_nothing<D: Database>() -> Result<()> {
    let (mut world, signing) = founded::<D>().await?;
    let log = log(1, 1);
    let at = world.group(log.group).await?;
    world
        .accepted(vec![commit(log.group, 10, at, &members(), 1)])
        .await?;
    let before = all(&world).await?;
    let (document, _) = world.document(log).await?;
    let roots = world
        .load(|keys| {
            keys.marks.extend((1..5).map(|size| (log, size)));
            keys.group_roots.insert((log.group, 1));
        })
        .await?;
    for size in 1..5 {
        let mark = roots.marks.get(&(log, size)).copied().flatten();
        let root = mark.context("no mark")?.root;
        let report = report_of(&signing, log, Head { size, root });
        ensure!(matches!(world.one(report).await?, Event::Done));
    }
    let root = roots.group_roots.get(&(log.group, 1)).copied().flatten();
    let head = Head {
        size: 1,
        root: root.context("no root")?,
    };
    let of_group = report_of(&signing, LogId::of_group(log.group), head);
    ensure!(matches!(world.one(of_group).await?, Event::Done));
    ensure!(document.frontier.size() == 4);
    ensure!(all(&world).await? == before);
    // Who has lost its standing shows nothing.
    let stranger = Op::Report(Box::new(Report {
        device: device(77),
        log,
        head: Head {
            size: 9,
            root: some_hash(9),
        },
        number: signing.generation().number,
        next: signing.next(None, Cause::PutBack, START),
        hold: Some(START),
        now: START,
    }));
    ensure!(matches!(
        world.refused(stranger).await?,
        Refusal::Forbidden { .. }
    ));
    ensure!(all(&world).await? == before);
    Ok(())
}

fn members() -> Moves {
    Moves {
        users: (1..10).map(crate::ids::user).collect(),
        ..Moves::default()
    }
}

/// Longer, and as long with another root: the service was put back. It says so once; a larger head of the older generation is wanted then,
/// and of other logs what was lost.
///
/// # Errors
/// When it is not so.
pub async fn a_report_ahead_declares_once<D: Database>() -> Result<()> {
    let log = log(1, 1);
    for of in [log, LogId::of_group(log.group), crate::ids::log(7, 1)] {
        for size in [7, 9] {
            let (mut world, mut signing) = founded::<D>().await?;
            let old = signing.clone();
            put_back(&mut world, &mut signing, of, size).await?;
            ensure!(service(&world).await?.generation == signing.generation());
            let row = held(&world).await?.pop().context("not held")?;
            ensure!((row.log, row.want.size) == (of, size), "{row:?}");
            ensure!(row.ends == UnixMs(START.0 + limits::HOLD_MS));
            // Again, smaller, larger: of the generation before now.
            let number = old.generation().number;
            for (other, wanted) in [(size, size), (size - 1, size), (size + 3, size + 3)] {
                let root = some_hash(other);
                let head = Head { size: other, root };
                let next = signing.next(None, Cause::PutBack, START);
                let report = reporting(number, of, head, next);
                ensure!(matches!(world.one(report).await?, Event::Done));
                ensure!(service(&world).await?.generation == signing.generation());
                let row = held(&world).await?.pop().context("not held")?;
                ensure!(row.want.size == wanted, "{row:?}");
            }
            let next = signing.next(None, Cause::PutBack, START);
            let root = some_hash(5);
            let another = crate::ids::log(7, 7);
            let report = reporting(number, another, Head { size: 5, root }, next);
            world.accepted(vec![report]).await?;
            ensure!(held(&world).await?.len() == 2);
        }
    }
    Ok(())
}

/// A generation that the service does not know of any more: it began, so it was lost, whatever became of this log.
///
/// # Errors
/// When it is not so.
pub async fn a_head_of_a_generation_that_was_lost_declares<D: Database>() -> Result<()> {
    let (mut world, signing) = founded::<D>().await?;
    let log = log(1, 1);
    let lost = signing.next(None, Cause::PutBack, START).generation;
    let head = world.document(log).await?.0.frontier.head();
    let next = signing.next(Some(&lost), Cause::PutBack, START);
    let began = next.generation;
    let event = world.one(reporting(lost.number, log, head, next)).await?;
    ensure!(matches!(event, Event::Declared { .. }), "{event:?}");
    ensure!(began.number > lost.number && began.previous == lost.hash());
    ensure!(held(&world).await?.is_empty());
    Ok(())
}

/// Appends, snapshots, entries: refused while the log is held, with what it has and wants. A group holds its documents, a document not its
/// group, and none another one's.
///
/// # Errors
/// When it is not so.
pub async fn a_held_log_takes_nothing_and_says_how_much_it_wants<D: Database>() -> Result<()> {
    let (one, two) = (log(1, 1), log(1, 2));
    for of in [one, LogId::of_group(one.group)] {
        let (mut world, mut signing) = founded::<D>().await?;
        world.begin(two, 10).await?;
        let elsewhere = log(2, 1);
        world.accepted(vec![found(elsewhere.group, 10)]).await?;
        put_back(&mut world, &mut signing, of, 9).await?;
        let before = all(&world).await?;
        let want = if of == one { 9 } else { 4 };
        let recovering = Refusal::Recovering { have: 4, want };
        let updates = world.updates(one, author(10, 1), 1).await?;
        ensure!(world.refused(updates).await? == recovering);
        let snapshot = world.snapshot(one, 10, START).await?;
        ensure!(world.refused(snapshot).await? == recovering);
        // What is there already is answered as ever.
        ensure!(all(&world).await? == before);
        let at = world.group(one.group).await?;
        let entry = commit(one.group, 10, at, &members(), 1);
        let updates = world.updates(two, author(10, 1), 1).await?;
        if of == one {
            world.accepted(vec![updates, entry]).await?;
        } else {
            let recovering = Refusal::Recovering { have: 2, want: 9 };
            ensure!(world.refused(entry).await? == recovering);
            let recovering = Refusal::Recovering { have: 1, want: 1 };
            ensure!(world.refused(updates).await? == recovering);
        }
        world.begin(elsewhere, 10).await?;
    }
    Ok(())
}

/// A log that went another way since the generation began: what is missing there is carried.
///
/// # Errors
/// When it is not so.
pub async fn a_log_that_grew_since_is_not_held<D: Database>() -> Result<()> {
    let (mut world, mut signing) = founded::<D>().await?;
    let log = log(1, 1);
    let number = signing.generation().number;
    put_back(&mut world, &mut signing, crate::ids::log(7, 1), 3).await?;
    let updates = world.updates(log, author(10, 1), 1).await?;
    let at = world.group(log.group).await?;
    let entry = commit(log.group, 10, at, &members(), 1);
    world.accepted(vec![updates, entry]).await?;
    for of in [log, LogId::of_group(log.group)] {
        let root = some_hash(20);
        let next = signing.next(None, Cause::PutBack, START);
        let report = reporting(number, of, Head { size: 20, root }, next);
        world.accepted(vec![report]).await?;
        ensure!(held(&world).await?.iter().all(|row| row.log != of));
    }
    Ok(())
}

async fn accept<D: Database>(world: &World<D>, signing: &Signing) -> Result<(Op, Loss)> {
    let row = held(world).await?.pop().context("not held")?;
    let service: &ServiceKey = signing.key();
    let mut rows = Rows::default();
    let op = loop {
        match AcceptLoss::judge(service, &rows, &row) {
            Ok(op) => break op,
            Err(Stop::Lacks(keys)) => {
                rows.extend(world.load(|wanted| wanted.extend(*keys)).await?);
            }
            Err(stop) => anyhow::bail!("{stop:?}"),
        }
    };
    let loss = op.loss;
    Ok((Op::AcceptLoss(Box::new(op)), loss))
}

/// A loss says what was kept; one that was signed for something else is not taken. The log goes on then, and the same head asks for nothing
/// any more.
///
/// # Errors
/// When it is not so.
pub async fn a_loss_is_of_what_was_kept<D: Database>() -> Result<()> {
    let (mut world, mut signing) = founded::<D>().await?;
    let (log, old) = (log(1, 1), signing.clone());
    put_back(&mut world, &mut signing, log, 9).await?;
    let (op, loss) = accept(&world, &signing).await?;
    ensure!((loss.kept.size, loss.lost.size) == (4, 9));
    ensure!(loss.generation == signing.generation().number);
    conclave_identity::verify_loss(&signing.service_key(), &loss)?;
    let before = all(&world).await?;
    let wrong = Loss {
        kept: Head::EMPTY,
        ..loss
    };
    let stale = Op::AcceptLoss(Box::new(AcceptLoss { loss: wrong }));
    ensure!(world.refused(stale).await? == Refusal::Storage);
    ensure!(all(&world).await? == before);
    ensure!(matches!(world.one(op.clone()).await?, Event::LossAccepted));
    ensure!(matches!(world.one(op).await?, Event::Done));
    ensure!(held(&world).await?.is_empty());
    let rows = world.load(|keys| _ = keys.losses.insert(log)).await?;
    ensure!(rows.losses.get(&log) == Some(&Some(vec![loss])));
    let head = |size| Head {
        size,
        root: some_hash(size),
    };
    let number = old.generation().number;
    let next = signing.next(None, Cause::PutBack, START);
    let report = reporting(number, log, head(9), next);
    ensure!(matches!(world.one(report).await?, Event::Done));
    ensure!(held(&world).await?.is_empty());
    let updates = world.updates(log, author(10, 1), 1).await?;
    world.accepted(vec![updates]).await?;
    // A head of the generation that gave it up: so far the log had come again, when it was put back once more.
    let gave_up = signing.generation().number;
    let next = signing.next(None, Cause::PutBack, START);
    let report = reporting(gave_up, log, head(9), next);
    ensure!(matches!(world.one(report).await?, Event::Declared { .. }));
    ensure!(held(&world).await?.len() == 1);
    Ok(())
}

/// A log that is as long as a head says, and leads elsewhere, never comes to it: nothing is held for it.
///
/// # Errors
/// When it is not so.
pub async fn a_log_that_went_another_way_waits_for_nothing<D: Database>() -> Result<()> {
    let log = log(1, 1);
    let head = |size| Head {
        size,
        root: some_hash(size),
    };
    for size in [2, 4] {
        let (mut world, signing) = founded::<D>().await?;
        let number = signing.generation().number;
        let next = signing.next(None, Cause::PutBack, START);
        let event = world.one(reporting(number, log, head(size), next)).await?;
        ensure!(matches!(event, Event::Declared { .. }), "{event:?}");
        ensure!(held(&world).await?.is_empty());
    }
    // One that has grown in a generation after the head's: also where the present one is later still.
    let (mut world, mut signing) = founded::<D>().await?;
    let number = signing.generation().number;
    for round in 0..2 {
        let next = signing.next(None, Cause::Restored, START);
        signing.begin(&next);
        let hold = None;
        let declare = Declare { next, hold };
        world.accepted(vec![Op::Declare(Box::new(declare))]).await?;
        if round == 0 {
            let updates = world.updates(log, author(10, 1), 1).await?;
            world.accepted(vec![updates]).await?;
        }
    }
    let next = signing.next(None, Cause::PutBack, START);
    let event = world.one(reporting(number, log, head(9), next)).await?;
    ensure!(matches!(event, Event::Done), "{event:?}");
    ensure!(held(&world).await?.is_empty());
    Ok(())
}

/// The operator's hold: nothing is taken, no group made. It ends when it is ended, which is not before its time, and not sooner when it was
/// prolonged.
///
/// # Errors
/// When it is not so.
pub async fn a_hold_over_all_ends_when_its_time_is_over<D: Database>() -> Result<()> {
    let (mut world, signing) = founded::<D>().await?;
    let ends = UnixMs(START.0 + 1000);
    let next = signing.next(None, Cause::Restored, START);
    let hold = Some(ends);
    let declare = Op::Declare(Box::new(Declare { next, hold }));
    let updates = world.updates(log(1, 1), author(10, 1), 1).await?;
    let recovering = Refusal::Recovering { have: 4, want: 4 };
    // Behind it in the same batch, it is in force.
    let events = world.run(vec![declare, updates.clone()]).await?;
    ensure!(events.get(1).and_then(refusal) == Some(recovering.clone()));
    let nothing = Refusal::Recovering { have: 0, want: 0 };
    ensure!(world.refused(found(group(2), 10)).await? == nothing);
    // Who founded a group is told so again.
    world.accepted(vec![found(group(1), 10), admit(60)]).await?;
    let later = UnixMs(ends.0 + 1000);
    world
        .accepted(vec![Op::Prolong(Prolong { ends: later })])
        .await?;
    for (now, hold) in [(ends, Some(later)), (later, None)] {
        let end = Op::EndHold(EndHold { now });
        world.accepted(vec![end]).await?;
        ensure!(service(&world).await?.hold == hold);
    }
    world.accepted(vec![updates, found(group(2), 10)]).await?;
    // Where nothing is held, that begins with it.
    let prolong = Op::Prolong(Prolong { ends: later });
    world.accepted(vec![prolong]).await?;
    ensure!(service(&world).await?.hold == Some(later));
    Ok(())
}

/// Whoever shows first that the service was put back shows one log: the others wait too, until those who have heads of them have shown these. A hold that
/// stands is not made shorter by it, nor is one begun by a head of before.
///
/// # Errors
/// When it is not so.
pub async fn a_report_holds_all_logs_for_a_while<D: Database>() -> Result<()> {
    let one = log(1, 1);
    let until = |ms| UnixMs(START.0 + ms);
    let held_until = |op, ends| match op {
        Op::Report(mut report) => {
            report.hold = Some(ends);
            Op::Report(report)
        }
        op => op,
    };
    for operator in [None, Some(until(500)), Some(until(9000))] {
        let (mut world, mut signing) = founded::<D>().await?;
        if let Some(hold) = operator {
            let next = signing.next(None, Cause::Restored, START);
            signing.begin(&next);
            let hold = Some(hold);
            let declare = Op::Declare(Box::new(Declare { next, hold }));
            world.accepted(vec![declare]).await?;
        }
        let number = signing.generation().number;
        let next = signing.next(None, Cause::PutBack, START);
        let elsewhere = crate::ids::log(7, 1);
        let first = held_until(report(&signing, elsewhere, 3), until(1000));
        // Behind it in the same batch, what it lost is asked for elsewhere too.
        let updates = world.updates(one, author(10, 1), 1).await?;
        let events = world.run(vec![first, updates.clone()]).await?;
        ensure!(
            matches!(events.first(), Some(Event::Declared { .. })),
            "{events:?}"
        );
        let recovering = Refusal::Recovering { have: 4, want: 4 };
        ensure!(
            events.get(1).and_then(refusal) == Some(recovering),
            "{operator:?} {events:?}"
        );
        signing.begin(&next);
        let ends = operator.max(Some(until(1000))).context("none")?;
        ensure!(service(&world).await?.hold == Some(ends));
        // Now the other log's head is shown.
        let root = some_hash(9);
        let next = signing.next(None, Cause::PutBack, START);
        let other = reporting(number, one, Head { size: 9, root }, next);
        let other = held_until(other, until(90_000));
        ensure!(matches!(world.one(other).await?, Event::Done));
        ensure!(service(&world).await?.hold == Some(ends));
        let end = Op::EndHold(EndHold { now: ends });
        world.accepted(vec![end]).await?;
        ensure!(service(&world).await?.hold.is_none());
        let recovering = Refusal::Recovering { have: 4, want: 9 };
        ensure!(world.refused(updates).await? == recovering);
    }
    Ok(())
}

/// Packages that were handed out may be there again.
///
/// # Errors
/// When it is not so.
pub async fn packages_from_before_are_not_handed_out<D: Database>() -> Result<()> {
    let (mut world, signing) = founded::<D>().await?;
    let put = |n| put(10, vec![package(n, 0)], Some(package(n + 10, 0)), START);
    world.accepted(vec![put(1)]).await?;
    let next = signing.next(None, Cause::Restored, START);
    let hold = None;
    let declare = Op::Declare(Box::new(Declare { next, hold }));
    world.accepted(vec![declare]).await?;
    let given = |event: &Event| match event {
        Event::Claimed(claimed) => claimed.len(),
        _ => usize::MAX,
    };
    let event = world.one(claim(20, 1, START)).await?;
    ensure!(given(&event) == 0, "{event:?}");
    // The same one-time package is not taken again; another one is.
    let again = world.one(put(1)).await?;
    ensure!(
        matches!(again, Event::PackagesPut { left: 0, .. }),
        "{again:?}"
    );
    world.accepted(vec![put(2)]).await?;
    let event = world.one(claim(20, 1, START)).await?;
    ensure!(given(&event) == 1, "{event:?}");
    Ok(())
}

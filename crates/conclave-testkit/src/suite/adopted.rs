//! A group that a service does not have, brought by a member: its log goes on from there.

use anyhow::{Context as _, Result, ensure};
use conclave_mls::Plan;
use conclave_order::query::group::{document_entries, entries, first, group_info, reach};
use conclave_order::{Bounds, Keys};
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault};
use conclave_proto::{DocumentId, Head, Refusal, UnixMs};
use conclave_rules::LogId;

use super::lost::{ANA, BEN, Brought, CAROL, Club, DORA, GROUP, LOG, join};
use crate::database::Database;
use crate::ids::some_hash;
use crate::members::NOW;

const ONE: DocumentId = DocumentId([1; 16]);
const TWO: DocumentId = DocumentId([2; 16]);
const ALL: Bounds = Bounds {
    from: 0,
    end: u64::MAX,
    bytes: usize::MAX,
};

fn void(nonce: u64) -> EntryBody {
    EntryBody::RecordVoided {
        document: ONE,
        record: some_hash(nonce),
    }
}

/// A document, one who was removed, one who is about to leave; then nobody but the members has it.
async fn wiped<D: Database>() -> Result<Club<D>> {
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.remove(ANA, CAROL).await?;
    club.put(ANA, void(1)).await?;
    club.leave(BEN).await?;
    club.wipe().await?;
    Ok(club)
}

/// Both have the same group; of its log, the one to which it was brought has what came since.
async fn ensure_same<D: Database>(club: &Club<D>, base: u64) -> Result<()> {
    let (full, lost) = (club.full.core().await?, club.lost.core().await?);
    ensure!(full.state.state() == lost.state.state());
    ensure!(full.state.state() == club.core().state());
    ensure!(full.state.tree() == lost.state.tree());
    let (mut of_full, mut of_lost) = (club.full.reader().await?, club.lost.reader().await?);
    let end = club.head().size;
    let listed = document_entries(&mut of_full, &GROUP, end).await?;
    ensure!(document_entries(&mut of_lost, &GROUP, end).await? == listed);
    let all = entries(&mut of_full, &GROUP, ALL).await?;
    let since = all.get(usize::try_from(base)?..).context("too short")?;
    let here = entries(&mut of_lost, &GROUP, ALL).await?;
    ensure!(here == since);
    // A stretch from anywhere, little at once.
    for from in 0..=end {
        let bounds = Bounds {
            from,
            end,
            bytes: 1,
        };
        let next = entries(&mut of_lost, &GROUP, bounds).await?;
        let at = usize::try_from(from.max(base))?;
        ensure!(
            next.as_slice()
                == all
                    .get(at..)
                    .unwrap_or_default()
                    .get(..1)
                    .unwrap_or_default()
        );
    }
    let devices = [ANA, BEN, CAROL, DORA].map(|seat| club.device(seat));
    let want = |keys: &mut Keys| {
        keys.memberships.extend(devices.iter().flatten());
        keys.waiting.extend(devices.iter().flatten());
        keys.group_roots
            .extend((base..=end).map(|size| (GROUP, size)));
    };
    let (mut full, mut lost) = (club.full.load(want).await?, club.lost.load(want).await?);
    // Numbers of Welcomes are each service's own.
    for rows in [&mut full, &mut lost] {
        rows.waiting
            .values_mut()
            .flatten()
            .flatten()
            .for_each(|row| row.id = 0);
    }
    ensure!(full == lost, "{full:#?}\n{lost:#?}");
    Ok(())
}

/// Members, documents, pending proposals and wraps are there as they were, and after a restart too. The log goes on: entries, a commit that covers
/// what was pending, a Welcome; whoever comes back is offered what it would have been.
///
/// # Errors
/// When it is not so.
pub async fn a_service_that_has_nothing_takes_a_group_from_a_member<D: Database>() -> Result<()> {
    let mut club = wiped::<D>().await?;
    let base = club.head().size;
    let brought = club.brought(ANA).await?;
    ensure!(brought.pending.len() == 1);
    ensure!(club.adopt(&brought).await? == Ok(()));
    // Whoever is further on has time to bring that first.
    ensure!(club.end_holds().await? == 1);
    ensure_same(&club, base).await?;
    let core = club.lost.core().await?;
    ensure!(core.state.group_info() == brought.group_info);
    let epoch = core.state.state().epoch;
    let rows = club.lost.load(|keys| {
        keys.commit_wraps.insert(GROUP);
        keys.wraps.insert((GROUP, epoch));
    });
    let rows = rows.await?;
    let wrap = &brought.state.wrap;
    ensure!(rows.commit_wraps.get(&GROUP) == Some(&Some(wrap.clone())));
    let wraps = rows.wraps.into_values().flatten().flatten();
    ensure!(wraps.map(|(_, wrap)| wrap).collect::<Vec<_>>() == [wrap.clone()]);
    club.lost.restart().await?;
    club.is_copied = false;
    club.put(ANA, void(2)).await?;
    ensure_same(&club, base).await?;
    club.commit(ANA, &Plan::default()).await?;
    ensure_same(&club, base).await?;
    club.invite(&[DORA]).await?;
    club.put(ANA, void(3)).await?;
    ensure_same(&club, base).await?;
    club.lost.restart().await?;
    ensure_same(&club, base).await?;
    // All that belongs to the last epochs is the same, and what comes beside a Welcome or is offered to who comes back.
    let epoch = club.core().state().epoch;
    let want = |keys: &mut Keys| {
        keys.parts.insert(GROUP);
        keys.commit_wraps.insert(GROUP);
        keys.wraps.insert((GROUP, epoch));
        keys.joins.insert((GROUP, epoch));
        keys.commits.extend((0..epoch).map(|ended| (GROUP, ended)));
    };
    let (mut full, mut lost) = (club.full.load(want).await?, club.lost.load(want).await?);
    for rows in [&mut full, &mut lost] {
        // Raised with each change that it has seen.
        rows.parts
            .values_mut()
            .flatten()
            .for_each(|row| row.version = 0);
    }
    full.commits
        .retain(|key, _| lost.commits.get(key) != Some(&None));
    lost.commits.retain(|_, row| row.is_some());
    ensure!(lost.commits.len() == 2);
    ensure!(full == lost, "{full:#?}\n{lost:#?}");
    let offered = [
        group_info(
            &mut club.full.reader().await?,
            &club.full.core().await?.state,
        )
        .await?,
        group_info(
            &mut club.lost.reader().await?,
            &club.lost.core().await?.state,
        )
        .await?,
    ];
    ensure!(offered[0].is_some() && offered[0] == offered[1]);
    let side = &club.lost;
    join(side, club.seats.get_mut(DORA).context("nobody")?).await?;
    let dora = club.seat(DORA)?.group()?.state().head();
    ensure!(dora.size < club.head().size);
    Ok(())
}

/// Epoch 0 has no commit that began it, and no wrap.
///
/// # Errors
/// When it is not so.
pub async fn a_group_that_has_had_no_commit_is_taken_too<D: Database>() -> Result<()> {
    for documents in [0, 1] {
        let mut club = Club::<D>::of_owner().await?;
        if documents > 0 {
            club.create(ANA, ONE).await?;
        }
        // The directory is the first that is listed.
        let listed = documents + 1;
        club.wipe().await?;
        let brought = club.brought(ANA).await?;
        ensure!(club.adopt(&brought).await? == Ok(()));
        ensure!(club.end_holds().await? == 1);
        ensure_same(&club, listed).await?;
        club.is_copied = false;
        club.create(ANA, TWO).await?;
        ensure_same(&club, listed).await?;
        club.invite(&[DORA]).await?;
        ensure_same(&club, listed).await?;
    }
    Ok(())
}

/// Only a member brings it, for itself, and once. While all logs are held, a larger head may be shown.
///
/// # Errors
/// When it is not so.
pub async fn not_from_a_stranger_and_not_twice<D: Database>() -> Result<()> {
    let mut club = wiped::<D>().await?;
    let good = club.brought(ANA).await?;
    let (ben, dora) = (club.seat(BEN)?.member.user, club.device(DORA)?);
    let with = |change: &dyn Fn(&mut Brought)| {
        let mut other = good.clone();
        change(&mut other);
        other
    };
    let forbidden = |why| Refusal::Forbidden { why };
    let fault = CommitFault::Time;
    let late = Refusal::BadCommit { fault };
    let carol = club.device(CAROL)?;
    let cases = [
        (
            with(&|it| it.sender = dora),
            forbidden(ForbiddenWhy::NotMember),
        ),
        (
            with(&|it| it.sender = carol),
            forbidden(ForbiddenWhy::Tombstoned),
        ),
        (with(&|it| it.user = ben), forbidden(ForbiddenWhy::NotYours)),
        (with(&|it| it.pending.clear()), Refusal::ProposalPending),
        // It would take no commit: what was ordered last lies in its future.
        (with(&|it| it.now = UnixMs(NOW.0 - 3_600_000)), late),
    ];
    let before = club.copy().await?;
    for (other, expected) in cases {
        let answer = club.adopt(&other).await?;
        ensure!(answer == Err(expected), "{answer:?}");
        ensure!(club.copy().await? == before);
    }
    club.hold(Some(NOW)).await?;
    let held = club.adopt(&good).await?;
    ensure!(held == Err(Refusal::Recovering { have: 0, want: 0 }));
    club.hold(None).await?;
    ensure!(club.adopt(&good).await? == Ok(()));
    let before = club.copy().await?;
    // The same again is the same, whatever has become of it; anything else is another group.
    ensure!(club.adopt(&good).await? == Ok(()));
    let of_ben = club.brought(BEN).await?;
    let with_his_wrap = with(&|it| it.state.wrap = of_ben.state.wrap.clone());
    for other in [of_ben.clone(), with_his_wrap] {
        ensure!(club.adopt(&other).await? == Err(Refusal::AlreadyExists));
        ensure!(club.copy().await? == before);
    }
    club.is_copied = false;
    club.end_holds().await?;
    club.put(ANA, void(2)).await?;
    ensure!(club.adopt(&good).await? == Ok(()));
    Ok(())
}

/// Who brought it was behind: whoever has more brings that, though no signature proves it and the service does not know that it lost anything. So do
/// documents come. Once the log has grown it goes its own way.
///
/// # Errors
/// When it is not so.
pub async fn an_adopted_group_takes_what_members_have_beyond_it<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    let one = club.create(ANA, ONE).await?;
    club.put(ANA, void(1)).await?;
    let brought = club.brought(BEN).await?;
    let base = club.head().size;
    club.put(ANA, void(2)).await?;
    club.remove(ANA, CAROL).await?;
    let two = club.create(ANA, TWO).await?;
    club.wipe().await?;
    ensure!(club.adopt(&brought).await? == Ok(()));
    let carol = club.device(CAROL)?;
    ensure!(club.lost.core().await?.state.state().is_member(&carol));
    let given = club.offer(ANA).await?;
    ensure!(given.from == base);
    ensure!(club.give(&given).await? == Ok(club.head()));
    // There may be still more.
    ensure!(club.waits_for().await? == Some(club.head()));
    ensure!(club.end_holds().await? == 1);
    ensure_same(&club, base).await?;
    for (seat, first) in [(BEN, &one), (ANA, &two)] {
        let records = std::slice::from_ref(first);
        let head = club.give_records(seat, 0, records).await?;
        ensure!(head.map(|head| head.size) == Ok(1));
    }
    // Of each, the log and not another one.
    club.is_copied = false;
    club.put(ANA, void(3)).await?;
    club.is_copied = true;
    club.put(ANA, void(4)).await?;
    let given = club.offer(ANA).await?;
    let answer = club.give(&given).await?;
    let why = ForbiddenWhy::WentOn;
    ensure!(answer == Err(Refusal::Forbidden { why }));
    Ok(())
}

/// A service that was put back to before the group was founded is shown a head of it: what is brought has to lead there, or the rest is waited for.
///
/// # Errors
/// When it is not so.
pub async fn what_is_known_to_be_lost_is_waited_for<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    let behind = club.brought(BEN).await?;
    let base = club.head().size;
    club.put(ANA, void(1)).await?;
    let head = club.head();
    club.put(ANA, void(2)).await?;
    let wanted = |size, root| Head { size, root };
    for brings in [0, 1, 2] {
        club.wipe().await?;
        let it = match brings {
            0 => behind.clone(),
            _ => club.brought(ANA).await?,
        };
        let root = match brings {
            2 => some_hash(9),
            _ => head.root,
        };
        club.report(LOG, wanted(head.size, root)).await?;
        let answer = club.adopt(&it).await?;
        let waits = club.waits_for().await?;
        match brings {
            // It is still held.
            0 => {
                ensure!(answer == Ok(()) && waits == Some(head));
                let given = club.offer(ANA).await?;
                ensure!(given.from == base);
                ensure!(club.give(&given).await? == Ok(club.head()));
                ensure!(club.waits_for().await?.is_none());
            }
            // More than was wanted: whoever has still more may bring that.
            1 => ensure!(answer == Ok(()) && waits == Some(club.head())),
            // It is another group's log.
            _ => {
                let fault = RecordFault::SeenHead;
                ensure!(answer == Err(Refusal::BadRecord { fault }) && waits.is_some());
            }
        }
    }
    Ok(())
}

/// Of what was before nothing is told: who follows from there gets what is here, and sees by its position that something is missing. Who was removed
/// before hears no more than that. A head from before says nothing of the log.
///
/// # Errors
/// When it is not so.
pub async fn who_is_behind_the_base_sees_a_gap<D: Database>() -> Result<()> {
    let mut club = wiped::<D>().await?;
    let base = club.head();
    let brought = club.brought(ANA).await?;
    ensure!(club.adopt(&brought).await? == Ok(()));
    club.is_copied = false;
    club.end_holds().await?;
    club.put(ANA, void(2)).await?;
    let mut reads = club.lost.reader().await?;
    for from in 0..=base.size {
        ensure!(first(&mut reads, GROUP, from).await? == base.size);
    }
    ensure!(first(&mut reads, GROUP, base.size + 1).await? == base.size + 1);
    ensure!(first(&mut club.full.reader().await?, GROUP, 1).await? == 1);
    // Below the base nothing is known to be wrong.
    let service = |rows: conclave_order::Rows| rows.services.into_values().flatten().next();
    let want = |keys: &mut Keys| _ = keys.services.insert(());
    let before = service(club.lost.load(want).await?);
    for (size, root) in [
        (1, some_hash(1)),
        (base.size - 1, some_hash(1)),
        (base.size, base.root),
        (club.head().size, club.head().root),
    ] {
        club.report(LOG, Head { size, root }).await?;
        ensure!(service(club.lost.load(want).await?) == before);
    }
    let carol = club.device(CAROL)?;
    let core = club.lost.core().await?;
    let why = ForbiddenWhy::Tombstoned;
    let gone = reach(&mut reads, core.state.state(), &carol).await?;
    ensure!(gone == Err(Refusal::Forbidden { why }), "{gone:?}");
    // Who goes after that is told so.
    club.commit(ANA, &Plan::default()).await?;
    let core = club.lost.core().await?;
    let ben = reach(&mut reads, core.state.state(), &club.device(BEN)?).await?;
    ensure!(ben.is_ok_and(|ben| ben.until == Some(club.head().size)));
    // At the base and past it, a head that it does not lead to is one that it lost.
    let root = some_hash(1);
    club.report(
        LOG,
        Head {
            size: base.size,
            root,
        },
    )
    .await?;
    let after = service(club.lost.load(want).await?);
    ensure!(after != before);
    let log = LogId {
        group: GROUP,
        ..LOG
    };
    let rows = club
        .lost
        .load(|keys| _ = keys.recoveries.insert(log))
        .await?;
    ensure!(rows.recoveries.get(&log) == Some(&None));
    Ok(())
}

/// A stranger was first with the id, or a member with something of before: the operator removes what keeps the place, with all that came to belong to it, and
/// a member brings the right group, to which everything leads as if there had been no other. One that was founded here goes only where that is said; and a
/// head of what is gone, which the service had signed, says nothing of the group that is there now.
///
/// # Errors
/// When it is not so.
pub async fn an_id_that_another_group_keeps_is_freed<D: Database>() -> Result<()> {
    for founded in [true, false] {
        let mut club = Club::<D>::new().await?;
        let first = club.create(ANA, ONE).await?;
        let behind = club.brought(BEN).await?;
        club.remove(ANA, CAROL).await?;
        club.put(ANA, void(1)).await?;
        club.wipe().await?;
        let right = club.brought(ANA).await?;
        let empty = club.copy().await?.in_any_generation();
        if founded {
            club.squat(DORA).await?;
        } else {
            ensure!(club.adopt(&behind).await? == Ok(()));
            let given = club
                .give_records(BEN, 0, std::slice::from_ref(&first))
                .await?;
            ensure!(given.is_ok(), "{given:?}");
        }
        let kept = club.copy().await?;
        ensure!(club.copy().await?.in_any_generation() != empty);
        ensure!(club.adopt(&right).await? == Err(Refusal::AlreadyExists));
        ensure!(club.copy().await? == kept);
        if founded {
            let why = ForbiddenWhy::NotYours;
            let refused = club.drop_group(false).await?;
            ensure!(refused == Err(Refusal::Forbidden { why }));
            ensure!(club.copy().await? == kept);
        }
        let before = club.generation();
        ensure!(club.drop_group(founded).await? == Ok(()));
        let gone = club.drop_group(true).await?;
        ensure!(gone == Err(Refusal::UnknownGroup));
        let now = club.copy().await?.in_any_generation();
        ensure!(now == empty, "{now:#?}\n{empty:#?}");
        ensure!(club.generation() > before);
        let base = club.head().size;
        ensure!(club.adopt(&right).await? == Ok(()));
        // Whoever was shown what is gone would make the right one wait for it.
        let (size, root) = (base + 9, some_hash(9));
        club.report_of(before, LOG, Head { size, root }).await?;
        ensure!(club.waits_for().await? == Some(club.head()));
        ensure!(club.end_holds().await? == 1);
        ensure_same(&club, base).await?;
        let given = club.give_records(BEN, 0, &[first]).await?;
        ensure!(given.map(|head| head.size) == Ok(1));
        club.lost.restart().await?;
        club.is_copied = false;
        club.put(ANA, void(2)).await?;
        ensure_same(&club, base).await?;
    }
    Ok(())
}

/// Who judged an offer before another generation began does not know what became of the group since.
///
/// # Errors
/// When it is not so.
pub async fn what_was_judged_before_a_generation_is_not_adopted_in_it<D: Database>() -> Result<()> {
    let mut club = wiped::<D>().await?;
    let right = club.brought(ANA).await?;
    club.squat(DORA).await?;
    let op = club.judged(&right).await??;
    ensure!(club.drop_group(true).await? == Ok(()));
    let answer = club.lost.run(op).await?;
    let refused = crate::world::refusal(&answer);
    ensure!(refused == Some(Refusal::Storage), "{answer:?}");
    ensure!(club.adopt(&right).await? == Ok(()));
    Ok(())
}

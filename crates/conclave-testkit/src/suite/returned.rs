//! What a service lost and is given back: all of it as it was, or nothing.

use anyhow::{Context as _, Result, ensure};
use conclave_mls::Plan;
use conclave_order::query::document::{ensure_readable, unknown};
use conclave_proto::group::GroupEntry;
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::refusal::{CommitFault, ForbiddenWhy, RecordFault};
use conclave_proto::{DocumentId, Frontier, RecordBody, Refusal};
use conclave_rules::LogId;

use super::lost::{ANA, BEN, CAROL, Club, DORA, GROUP, Given, LOG, join};
use crate::database::Database;
use crate::ids::some_hash;

const ONE: DocumentId = DocumentId([1; 16]);
const TWO: DocumentId = DocumentId([2; 16]);

fn refused<T: std::fmt::Debug>(answer: &Result<T, Refusal>) -> Result<Refusal> {
    let refusal = answer.as_ref().err().cloned();
    refusal.with_context(|| format!("{answer:?}"))
}

fn void(nonce: u64) -> EntryBody {
    EntryBody::RecordVoided {
        document: ONE,
        record: some_hash(nonce),
    }
}

/// Commits, proposals and entries come back with their bundles, and all is as if nothing had been lost: members, wraps, Welcomes, due documents.
/// Without the bundles whoever brings them makes GroupInfo and wrap anew. The log goes on then.
///
/// # Errors
/// When it is not so.
pub async fn a_removal_that_was_lost_comes_back_and_stands<D: Database>() -> Result<()> {
    for with_bundles in [true, false] {
        let mut club = Club::<D>::new().await?;
        club.create(ANA, ONE).await?;
        club.is_copied = true;
        club.put(ANA, void(1)).await?;
        club.remove(ANA, CAROL).await?;
        club.leave(BEN).await?;
        club.commit(ANA, &Plan::default()).await?;
        club.report(LOG, club.head()).await?;
        let given = match with_bundles {
            true => club.offer_of_owner().await?,
            false => club.offer(ANA).await?,
        };
        ensure!(club.give(&given).await? == Ok(club.head()));
        let core = club.lost.core().await?;
        let carol = club.device(CAROL)?;
        ensure!(!core.state.state().is_member(&carol));
        if with_bundles {
            let (full, copy) = club.both().await?;
            ensure!(full == copy, "{full:#?}\n{copy:#?}");
        } else {
            ensure!(Some(core.state.group_info()) == given.group_info.as_deref());
            let rows = club.lost.load(|keys| {
                keys.commit_wraps.insert(GROUP);
                keys.wraps.insert((GROUP, core.state.state().epoch));
                keys.memberships.insert(carol);
            });
            let rows = rows.await?;
            ensure!(rows.commit_wraps.get(&GROUP) == Some(&given.wrap));
            let wraps = rows.wraps.into_values().flatten().next();
            ensure!(wraps.context("no wraps")?.into_values().next() == given.wrap);
            ensure!(rows.memberships.get(&carol) == Some(&Some(vec![])));
        }
        // What is there is not taken again, and the log goes on.
        let (have, want) = (club.head().size, club.head().size);
        let again = club.give(&given).await?;
        ensure!(refused(&again)? == Refusal::Recovering { have, want });
        club.is_copied = false;
        if with_bundles {
            club.put(ANA, void(2)).await?;
            club.add(&[DORA]).await?;
        }
    }
    Ok(())
}

/// Two entries in another order, one with another byte, one too few, one too many from the wrong place: nothing is stored.
///
/// # Errors
/// When it is not so.
pub async fn entries_reordered_altered_or_cut_store_nothing<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.is_copied = true;
    club.put_all(ANA, vec![void(1), void(2)]).await?;
    let head = club.head();
    club.put(ANA, void(3)).await?;
    club.report(LOG, head).await?;
    let good = club.offer(ANA).await?;
    let before = club.copy().await?;
    let have = good.from;
    let recovering = Refusal::Recovering {
        have,
        want: head.size,
    };
    let fault = RecordFault::SeenHead;
    let elsewhere = Refusal::BadRecord { fault };
    let with = |change: &dyn Fn(&mut Given)| {
        let mut given = good.clone();
        change(&mut given);
        given
    };
    let cases = [
        (with(&|it| it.entries.truncate(1)), &recovering),
        (with(&|it| it.entries.clear()), &recovering),
        (with(&|it| it.from += 1), &recovering),
        (with(&|it| it.from -= 1), &recovering),
        (with(&|it| it.entries.swap(0, 1)), &elsewhere),
        (with(&|it| _ = it.entries.remove(0)), &elsewhere),
        (with(&altered), &elsewhere),
        // Bundles without end cost what is stored for each.
        (
            with(&|it| it.bundles = vec![bundle(); 65]),
            &Refusal::TooLarge { max: 64 },
        ),
    ];
    for (given, expected) in cases {
        let answer = club.give(&given).await?;
        ensure!(refused(&answer)? == *expected, "{answer:?}");
        ensure!(club.copy().await? == before);
    }
    ensure!(club.give(&good).await? == Ok(club.head()));
    Ok(())
}

/// What the log had beyond the largest head that was signed comes back with the rest, or after it, as long as the log has not gone another way: but not
/// while all logs are held, since a larger head may be shown then.
///
/// # Errors
/// When it is not so.
pub async fn what_no_signature_proves_comes_back_while_the_log_stands<D: Database>() -> Result<()> {
    const WENT_ON: Refusal = Refusal::Forbidden {
        why: ForbiddenWhy::WentOn,
    };
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.is_copied = true;
    club.put(ANA, void(1)).await?;
    let head = club.head();
    club.remove(ANA, CAROL).await?;
    club.put(ANA, void(2)).await?;
    // Nobody said that the service was put back: it takes nothing.
    let given = club.offer(ANA).await?;
    ensure!(refused(&club.give(&given).await?)? == WENT_ON);
    club.report_first(LOG, head).await?;
    ensure!(club.give(&given).await? == Ok(head));
    let given = club.offer(ANA).await?;
    let (have, want) = (head.size, head.size);
    let answer = club.give(&given).await?;
    ensure!(refused(&answer)? == Refusal::Recovering { have, want });
    club.hold(None).await?;
    // Whoever is removed by it does not bring it, and what is not legal is not taken.
    let of_carol = club.offer(CAROL).await?;
    ensure!(club.give(&of_carol).await?.is_err());
    let mut wrong = given.clone();
    wrong.entries.truncate(1);
    wrong.entries.push(GroupEntry::Proposal(vec![1].into()));
    ensure!(club.give(&wrong).await?.is_err());
    ensure!(club.give(&given).await? == Ok(club.head()));
    // Once it has grown, it goes its own way.
    club.is_copied = false;
    club.put(ANA, void(3)).await?;
    club.is_copied = true;
    club.put(ANA, void(4)).await?;
    let given = club.offer(ANA).await?;
    ensure!(refused(&club.give(&given).await?)? == WENT_ON);
    Ok(())
}

fn altered(given: &mut Given) {
    if let Some(GroupEntry::Signed(record)) = given.entries.first_mut()
        && let Some(byte) = record.sealed.signature.first_mut()
    {
        *byte ^= 1;
    }
}

fn bundle() -> conclave_proto::group::CommitBundle {
    conclave_proto::group::CommitBundle {
        group: GROUP,
        commit: Vec::new().into(),
        welcome: None,
        group_info: Vec::new().into(),
        wrap: crate::world::wrap(GROUP, 0, 1),
    }
}

/// The group went another way since its copy was put back: what would have to be undone is not taken.
///
/// # Errors
/// When it is not so.
pub async fn commits_on_both_sides_the_second_is_refused<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.is_copied = true;
    club.commit_elsewhere(BEN).await?;
    club.remove(ANA, CAROL).await?;
    club.put(ANA, void(1)).await?;
    club.put(ANA, void(2)).await?;
    club.report(LOG, club.head()).await?;
    let before = club.copy().await?;
    let mut given = club.offer(ANA).await?;
    let (have, want) = (given.from, club.head().size);
    let answer = club.give(&given).await?;
    let fault = RecordFault::SeenHead;
    ensure!(refused(&answer)? == Refusal::BadRecord { fault });
    // From where the ways part.
    given.from -= 1;
    let entries = club.log.iter().skip(usize::try_from(given.from)?);
    given.entries = entries.cloned().collect();
    let answer = club.give(&given).await?;
    ensure!(refused(&answer)? == Refusal::Recovering { have, want });
    ensure!(club.copy().await? == before);
    let core = club.lost.core().await?;
    ensure!(core.state.state().is_member(&club.device(CAROL)?));
    Ok(())
}

/// Of the epoch that the last commit begins both have to be there, good, and its own.
///
/// # Errors
/// When it is not so.
pub async fn a_commit_without_its_group_info_or_wrap_is_refused<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    let stale = club.offer(ANA).await?;
    club.is_copied = true;
    club.remove(ANA, CAROL).await?;
    club.report(LOG, club.head()).await?;
    let good = club.offer(ANA).await?;
    let of_ben = club.offer(BEN).await?;
    let before = club.copy().await?;
    let (info, wrap) = (CommitFault::GroupInfo, CommitFault::Wrap);
    let with = |change: &dyn Fn(&mut Given)| {
        let mut given = good.clone();
        change(&mut given);
        given
    };
    let cases = [
        (with(&|it| it.group_info = None), info),
        (with(&|it| it.wrap = None), wrap),
        (
            with(&|it| it.group_info.clone_from(&stale.group_info)),
            info,
        ),
        (with(&|it| it.wrap.clone_from(&stale.wrap)), wrap),
        // Signed by somebody else than who brings it.
        (
            with(&|it| it.group_info.clone_from(&of_ben.group_info)),
            info,
        ),
    ];
    for (given, fault) in cases {
        let answer = club.give(&given).await?;
        ensure!(
            refused(&answer)? == Refusal::BadCommit { fault },
            "{answer:?}"
        );
        ensure!(club.copy().await? == before);
    }
    // Any member's wrap is as good.
    let given = with(&|it| it.wrap.clone_from(&of_ben.wrap));
    ensure!(club.give(&given).await? == Ok(club.head()));
    Ok(())
}

/// Whoever is no member after what is offered brings nothing, and for who never was one there is no group.
///
/// # Errors
/// When it is not so.
pub async fn who_the_offer_removes_may_not_bring_it<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.is_copied = true;
    club.remove(ANA, CAROL).await?;
    club.report(LOG, club.head()).await?;
    let before = club.copy().await?;
    let given = club.offer(ANA).await?;
    let forbidden = |why| Refusal::Forbidden { why };
    let removed = Given {
        device: club.device(CAROL)?,
        ..given.clone()
    };
    let answer = club.give(&removed).await?;
    ensure!(refused(&answer)? == forbidden(ForbiddenWhy::Tombstoned));
    ensure!(club.copy().await? == before);
    ensure!(club.give(&given).await? == Ok(club.head()));
    // Where nothing but entries is wanted, nothing else would keep them out.
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.is_copied = true;
    club.put(ANA, void(1)).await?;
    let given = club.offer(ANA).await?;
    let stranger = Given {
        device: club.device(DORA)?,
        ..given.clone()
    };
    let answer = club.give(&stranger).await?;
    ensure!(refused(&answer)? == Refusal::UnknownGroup);
    club.report(LOG, club.head()).await?;
    let before = club.copy().await?;
    let answer = club.give(&stranger).await?;
    ensure!(refused(&answer)? == forbidden(ForbiddenWhy::NotMember));
    ensure!(club.copy().await? == before);
    ensure!(club.give(&given).await? == Ok(club.head()));
    Ok(())
}

/// A device that came in with what was lost may be the only one that has it.
///
/// # Errors
/// When it is not so.
pub async fn who_the_offer_adds_may_bring_it<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.is_copied = true;
    club.add(&[DORA]).await?;
    club.report(LOG, club.head()).await?;
    let given = club.offer(DORA).await?;
    ensure!(club.give(&given).await? == Ok(club.head()));
    let core = club.lost.core().await?;
    ensure!(core.state.state().is_member(&club.device(DORA)?));
    // Nobody brought its Welcome: it is there without.
    let dora = club.device(DORA)?;
    let rows = club.lost.load(|keys| {
        keys.waiting.insert(dora);
        keys.memberships.insert(dora);
    });
    let rows = rows.await?;
    ensure!(rows.waiting.get(&dora) == Some(&Some(vec![])));
    ensure!(rows.memberships.get(&dora) == Some(&Some(vec![GROUP])));
    Ok(())
}

/// Who had not taken its Welcome yet has it from whoever made the commit, and from nobody else; the Welcome answers the packages that the
/// commit adds.
///
/// # Errors
/// When it is not so.
pub async fn a_welcome_comes_back_from_the_committers_bundle<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.is_copied = true;
    club.invite(&[DORA]).await?;
    // The joiner is handed what belongs to its epoch, though the log went on.
    club.remove(ANA, CAROL).await?;
    club.report(LOG, club.head()).await?;
    let given = club.offer_of_owner().await?;
    let before = club.copy().await?;
    let mut of_ben = club.offer(BEN).await?;
    of_ben.bundles.clone_from(&given.bundles);
    let why = ForbiddenWhy::NotYours;
    let answer = club.give(&of_ben).await?;
    ensure!(
        refused(&answer)? == Refusal::Forbidden { why },
        "{answer:?}"
    );
    let mut wrong = given.clone();
    let welcome = wrong.bundles.first().and_then(|it| it.welcome.clone());
    for bundle in &mut wrong.bundles {
        bundle.welcome = bundle.welcome.is_some().then(|| welcome.clone()).flatten();
    }
    let fault = CommitFault::Welcome;
    let answer = club.give(&wrong).await?;
    ensure!(
        refused(&answer)? == Refusal::BadCommit { fault },
        "{answer:?}"
    );
    ensure!(club.copy().await? == before);
    ensure!(club.give(&given).await? == Ok(club.head()));
    let dora = club.seats.get_mut(DORA).context("nobody")?;
    join(&club.lost, dora).await?;
    let group = dora.group.as_mut().context("not in")?;
    group.process(club.log.last().context("no entry")?)?;
    ensure!(group.state() == club.lost.core().await?.state.state());
    let (full, copy) = club.both().await?;
    ensure!(full == copy, "{full:#?}\n{copy:#?}");
    Ok(())
}

/// A document that was made after the copy: its group lists it once that is back, and until its log comes back too, from its first snapshot
/// on, it is said to be on its way. It is due, and closed, as its group's log says.
///
/// # Errors
/// When it is not so.
pub async fn a_document_comes_back_with_its_first_snapshot<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.is_copied = true;
    let first = club.create(BEN, ONE).await?;
    let closed = club.create(ANA, TWO).await?;
    club.remove(ANA, CAROL).await?;
    let second = club.snap(ANA, &first).await?;
    let reason = CloseReason::Archived;
    let document = TWO;
    club.put(ANA, EntryBody::DocumentClosed { document, reason })
        .await?;
    club.report(LOG, club.head()).await?;
    let group = GROUP;
    let log = |document| LogId { group, document };
    let records = [vec![first, second], vec![closed]];
    for of in &records {
        let mut end = Frontier::new();
        of.iter().for_each(|record| end.push(record.leaf()));
        let document = of.first().context("none")?.header.document;
        club.report(log(document), end.head()).await?;
    }
    let [of_one, of_two] = &records;
    // Not before the group's log says what it is.
    let answer = club.give_records(ANA, 0, of_one).await?;
    ensure!(refused(&answer)? == Refusal::UnknownDocument, "{answer:?}");
    let given = club.offer_of_owner().await?;
    ensure!(club.give(&given).await? == Ok(club.head()));
    let rows = club.lost.load(|keys| {
        keys.documents.insert(log(ONE));
        keys.recoveries.insert(log(ONE));
    });
    let rows = rows.await?;
    ensure!(ensure_readable(rows.document(&log(ONE)).ok().flatten()).is_err());
    let recovery = rows.recoveries.get(&log(ONE)).copied().flatten();
    let (have, want) = (0, 2);
    ensure!(unknown(recovery.as_ref()) == Refusal::Recovering { have, want });
    ensure!(unknown(None) == Refusal::UnknownDocument);
    let before = club.copy().await?;
    let recovering = Refusal::Recovering { have, want };
    let fault = RecordFault::SeenHead;
    let elsewhere = Refusal::BadRecord { fault };
    let [one, two] = of_one.as_slice() else {
        anyhow::bail!("not two");
    };
    let cases = [
        (1, vec![two.clone()], &recovering),
        (0, vec![one.clone()], &recovering),
        (0, vec![two.clone(), one.clone()], &elsewhere),
    ];
    for (from, records, expected) in cases {
        let answer = club.give_records(BEN, from, &records).await?;
        ensure!(refused(&answer)? == *expected, "{answer:?}");
        ensure!(club.copy().await? == before);
    }
    for records in [of_one, of_two] {
        club.give_records(BEN, 0, records).await??;
    }
    let (full, copy) = club.both().await?;
    let (full, copy) = (full.ungrown(), copy.ungrown());
    ensure!(full == copy, "{full:#?}\n{copy:#?}");
    Ok(())
}

/// That something leads to a head that the service signed spares it nothing: it is judged as everybody else will judge it.
///
/// # Errors
/// When it is not so.
pub async fn what_leads_to_the_head_is_judged_all_the_same<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    let first = club.create(ANA, ONE).await?;
    club.is_copied = true;
    let mut second = club.snap(ANA, &first).await?;
    club.put(ANA, void(1)).await?;
    let before = club.lost.core().await?.state.state().frontier.clone();
    let mut given = club.offer(ANA).await?;
    altered(&mut given);
    let mut end = before;
    given.entries.iter().for_each(|it| end.push(it.leaf()));
    club.report(LOG, end.head()).await?;
    let log = LogId {
        group: GROUP,
        document: ONE,
    };
    if let Some(byte) = second.sealed.signature.first_mut() {
        *byte ^= 1;
    }
    let mut end = Frontier::new();
    for record in [&first, &second] {
        end.push(record.leaf());
    }
    club.report(log, end.head()).await?;
    let before = club.copy().await?;
    let fault = RecordFault::Signature;
    let answer = club.give(&given).await?;
    ensure!(
        refused(&answer)? == Refusal::BadRecord { fault },
        "{answer:?}"
    );
    let answer = club.give_records(ANA, 1, &[second]).await?;
    ensure!(
        refused(&answer)? == Refusal::BadRecord { fault },
        "{answer:?}"
    );
    ensure!(club.copy().await? == before);
    Ok(())
}

/// The first snapshot of a document of which nothing is there: signed by who made it, of the kind that the group lists.
///
/// # Errors
/// When it is not so.
pub async fn a_document_begins_again_only_with_its_own_snapshot<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.is_copied = true;
    let first = club.create(ANA, ONE).await?;
    let second = club.snap(ANA, &first).await?;
    club.report(LOG, club.head()).await?;
    let given = club.offer(ANA).await?;
    club.give(&given).await??;
    let mut unsigned = first.clone();
    if let Some(byte) = unsigned.sealed.signature.first_mut() {
        *byte ^= 1;
    }
    let mut other = first.clone();
    if let RecordBody::Snapshot(header) = &mut other.header.body {
        header.crdt += 1;
    }
    let mut foreign = first.clone();
    foreign.header.author.device = club.device(DORA)?;
    let log = LogId {
        group: GROUP,
        document: ONE,
    };
    let cases = [
        (unsigned, RecordFault::Signature),
        (other, RecordFault::Malformed),
        (second, RecordFault::Parent),
        (foreign, RecordFault::NotMember),
    ];
    // Each is part of a longer log that the service had signed, so that it is what is wanted.
    for (size, (record, fault)) in (1..).zip(cases) {
        let records = vec![record; size];
        let mut end = Frontier::new();
        records.iter().for_each(|record| end.push(record.leaf()));
        club.report(log, end.head()).await?;
        let before = club.copy().await?;
        let answer = club.give_records(ANA, 0, &records).await?;
        let bad = Refusal::BadRecord { fault };
        ensure!(refused(&answer)? == bad, "{answer:?}");
        ensure!(club.copy().await? == before);
    }
    Ok(())
}

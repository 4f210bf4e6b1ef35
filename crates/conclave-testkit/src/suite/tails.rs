//! What comes back beyond what the service had signed: nothing proves that it was there, so it has to be what could be written now, as far as nothing
//! is lost by that.

use anyhow::{Context as _, Result, ensure};
use conclave_order::limits::CHECKS_PER_OFFER;
use conclave_proto::record::{EntryBody, SnapshotHeader};
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{DocumentId, Hash, Head, InstanceId, Record, Refusal};
use conclave_rules::LogId;

use super::lost::{ANA, BEN, CAROL, Club, GROUP, LOG};
use super::story::Story;
use crate::database::Database;
use crate::ids::some_hash;
use crate::records::CRDT;

const ONE: DocumentId = DocumentId([1; 16]);
const TWO: DocumentId = DocumentId([2; 16]);

const fn log(document: DocumentId) -> LogId {
    let group = GROUP;
    LogId { group, document }
}

/// The copy knows that it was put back, and of nothing that `ONE` lost.
async fn put_back<D: Database>(club: &mut Club<D>) -> Result<()> {
    let (size, root) = (9, some_hash(9));
    club.report(log(TWO), Head { size, root }).await
}

/// The least epoch for which a document of the copy is due.
async fn due<D: Database>(club: &Club<D>) -> Result<Option<u64>> {
    let rows = club.lost.load(|keys| _ = keys.due.insert(GROUP)).await?;
    Ok(rows.due.get(&GROUP).copied().flatten())
}

/// What was sealed before a commit may have been lost with it. It comes back, and what is due covers it too; behind a record of a later epoch it does not.
///
/// # Errors
/// When it is not so.
pub async fn records_of_former_epochs_come_back_only_before_those_of_later_ones<D: Database>()
-> Result<()> {
    for late in [false, true] {
        let mut club = Club::<D>::new().await?;
        club.create(ANA, ONE).await?;
        club.is_copied = true;
        let former = club.update(BEN, ONE, InstanceId([2; 8]))?;
        club.remove(ANA, CAROL).await?;
        let present = club.update(BEN, ONE, InstanceId([3; 8]))?;
        club.report(LOG, club.head()).await?;
        let given = club.offer(ANA).await?;
        ensure!(club.give(&given).await? == Ok(club.head()));
        let epoch = club.core().state().epoch;
        let before = club.copy().await?;
        if late {
            let answer = club.give_records(ANA, 1, &[present, former]).await?;
            let fault = RecordFault::EpochDecreased;
            ensure!(answer == Err(Refusal::BadRecord { fault }), "{answer:?}");
            ensure!(club.copy().await? == before);
        } else {
            let answer = club.give_records(ANA, 1, &[former, present]).await?;
            ensure!(answer.map(|head| head.size) == Ok(3));
        }
        ensure!(due(&club).await? == Some(epoch));
    }
    Ok(())
}

/// Whoever may write in a group could take the place of a document's beginning, with what nobody can open. Only who listed the document begins it.
///
/// # Errors
/// When it is not so.
pub async fn a_document_begins_again_by_who_listed_it<D: Database>() -> Result<()> {
    for wiped in [false, true] {
        let mut club = Club::<D>::new().await?;
        club.is_copied = true;
        let first = club.create(ANA, ONE).await?;
        club.create(BEN, TWO).await?;
        if wiped {
            club.wipe().await?;
            let brought = club.brought(BEN).await?;
            ensure!(club.adopt(&brought).await? == Ok(()));
        } else {
            club.report(LOG, club.head()).await?;
            let given = club.offer(ANA).await?;
            ensure!(club.give(&given).await? == Ok(club.head()));
        }
        let header = SnapshotHeader {
            parent: Hash::ZERO,
            chain_proof: Hash::ZERO,
            covered: Head::EMPTY,
            crdt: CRDT,
        };
        let other = club.snapshot(BEN, ONE, header, Head::EMPTY)?;
        let before = club.copy().await?;
        let answer = club.give_records(BEN, 0, &[other]).await?;
        let why = ForbiddenWhy::NotYours;
        ensure!(answer == Err(Refusal::Forbidden { why }), "{answer:?}");
        ensure!(club.copy().await? == before);
        // Any member brings the right one.
        let answer = club.give_records(BEN, 0, &[first]).await?;
        ensure!(answer.map(|head| head.size) == Ok(1));
    }
    Ok(())
}

/// Each author and each snapshot of an offer costs a signature's check. Beyond what was signed so many are done at most, and what is not taken is not
/// looked at.
///
/// # Errors
/// When it is not so.
pub async fn an_offer_is_taken_up_to_so_many_checks<D: Database>() -> Result<()> {
    let mut club = Club::<D>::new().await?;
    club.create(ANA, ONE).await?;
    club.is_copied = true;
    put_back(&mut club).await?;
    let instance = |no: usize| InstanceId((no as u64 + 1).to_be_bytes());
    let records = (0..=CHECKS_PER_OFFER).map(|no| club.update(BEN, ONE, instance(no)));
    let mut records: Vec<Record> = records.collect::<Result<_>>()?;
    let last = records.last_mut().context("none")?;
    if let Some(byte) = last.sealed.signature.first_mut() {
        *byte ^= 1;
    }
    let answer = club.give_records(ANA, 1, &records).await?;
    let size = CHECKS_PER_OFFER as u64 + 1;
    ensure!(answer.map(|head| head.size) == Ok(size));
    Ok(())
}

/// The entry that ends a rotation comes back before the snapshots that it speaks of, which lie in other logs: the group would part from all who have it
/// otherwise. It may be a lie, so it hides nothing: what is due at the service stays so until its snapshot is there.
///
/// # Errors
/// When it is not so.
pub async fn a_rotation_that_is_said_to_be_complete_hides_nothing_that_is_due<D: Database>()
-> Result<()> {
    let mut club = Club::<D>::new().await?;
    let first = club.create(ANA, ONE).await?;
    club.remove(ANA, CAROL).await?;
    let epoch = club.core().state().epoch;
    let directory = club.directory.clone().context("no directory")?;
    club.snap(ANA, &directory).await?;
    ensure!(due(&club).await? == Some(epoch));
    club.is_copied = true;
    let second = club.snap(ANA, &first).await?;
    club.put(ANA, EntryBody::RotationComplete { epoch }).await?;
    put_back(&mut club).await?;
    let given = club.offer(BEN).await?;
    ensure!(club.give(&given).await? == Ok(club.head()));
    let core = club.lost.core().await?;
    ensure!(core.state.state().rotating_since == 0);
    ensure!(due(&club).await? == Some(epoch));
    let answer = club.give_records(BEN, 1, &[second]).await?;
    ensure!(answer.map(|head| head.size) == Ok(2));
    ensure!(due(&club).await?.is_none());
    Ok(())
}

/// Who made a document, and who wrote in it, may have left since. At a service that has nothing of it their records are believed by the word of a member who
/// covers them with a snapshot, as a document is that comes back from there; by nobody else's, and nothing that comes after it.
///
/// # Errors
/// When it is not so.
pub async fn a_document_comes_back_though_its_authors_have_left<D: Database>() -> Result<()> {
    for (by, taken) in [(ANA, 5), (CAROL, 1)] {
        let mut club = Club::<D>::new().await?;
        let first = club.create(CAROL, ONE).await?;
        let mut story = Story::begun(first.clone());
        for (by, seen) in [(CAROL, 1), (BEN, 2)] {
            let record = story.update(&club, by, seen)?;
            story.place(record);
        }
        let snapshot = story.snapshot(&club, by, Some(&first), 3)?;
        story.place(snapshot);
        for (by, seen) in [(BEN, 4), (CAROL, 5), (ANA, 6)] {
            let record = story.update(&club, by, seen)?;
            story.place(record);
        }
        club.remove(ANA, CAROL).await?;
        club.wipe().await?;
        let brought = club.brought(ANA).await?;
        ensure!(club.adopt(&brought).await? == Ok(()));
        let answer = club.give_records(BEN, 0, &story.records).await?;
        ensure!(answer == Ok(story.head(taken)?), "{by} {answer:?}");
        // What nobody vouches for is not taken afterwards either.
        let rest = story.since(taken)?.to_vec();
        let answer = club.give_records(BEN, taken, &rest).await?;
        let why = ForbiddenWhy::WentOn;
        ensure!(answer == Err(Refusal::Forbidden { why }), "{answer:?}");
    }
    Ok(())
}

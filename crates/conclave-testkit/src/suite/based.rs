//! A document of a group that a member brought, of which nobody has the beginning any more: its log goes on from where a snapshot stands.

use anyhow::{Context as _, Result, bail, ensure};
use conclave_mls::Plan;
use conclave_order::op::append::{Append, Arrived, View, judge};
use conclave_order::query::document::{base, prove};
use conclave_order::{Bounds, Event, Keys, Op, Proofs, Reader as _, Rows, Stop, WholeRecord};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{AppendedRecord, BaseNode, DocumentBase};
use conclave_proto::merkle::consistency_proof;
use conclave_proto::policy::{Role, RoleEntry};
use conclave_proto::record::EntryBody;
use conclave_proto::refusal::RecordFault;
use conclave_proto::{DocumentId, Frontier, Hash, Head, InstanceId, Record, RecordBody, Refusal};
use conclave_rules::LogId;

use super::lost::{ANA, BEN, CAROL, Club, DORA, GROUP, INSTANCE};
use super::story::{Story, put};
use crate::database::Database;
use crate::ids::some_hash;

const ONE: DocumentId = DocumentId([1; 16]);
const LOG: LogId = LogId {
    group: GROUP,
    document: ONE,
};
/// Size of the log below which nobody has it.
const BASE: u64 = 70;
/// Position of the snapshot that covers that.
const AT: u64 = 71;

/// A log in which Ana, Ben and Carol have written, with a snapshot at [`AT`]; the group is brought to a service that has nothing of it.
async fn wiped<D: Database>() -> Result<(Club<D>, Story)> {
    let mut club = Club::<D>::new().await?;
    let first = club.create(ANA, ONE).await?;
    let mut story = Story::begun(first);
    for at in 1..BASE {
        let by = match at % 3 {
            0 => ANA,
            1 => BEN,
            _ => CAROL,
        };
        let record = story.update(&club, by, at)?;
        story.place(record);
    }
    // She had not seen what the snapshot covers.
    let late = story.update(&club, CAROL, 69)?;
    story.place(late);
    let snapshot = story.snapshot(&club, BEN, None, BASE)?;
    story.place(snapshot);
    for (by, seen) in [(ANA, 72), (CAROL, 3), (BEN, BASE), (ANA, 75), (ANA, 0)] {
        let record = story.update(&club, by, seen)?;
        story.place(record);
    }
    club.wipe().await?;
    let brought = club.brought(ANA).await?;
    ensure!(club.adopt(&brought).await? == Ok(()));
    Ok((club, story))
}

const SHOWN: [u64; 2] = [3, 69];

/// As before, and the document has come back.
async fn brought<D: Database>() -> Result<(Club<D>, Story)> {
    let (mut club, story) = wiped::<D>().await?;
    let base = story.base(BASE, &SHOWN)?;
    let head = story.head(story.records.len() as u64)?;
    let records = story.since(BASE)?.to_vec();
    let answer = club.give_from(BEN, Some(&base), BASE, &records).await?;
    ensure!(answer == Ok(head), "{answer:?}");
    Ok((club, story))
}

/// Appends a record of a member, as it comes over a connection.
async fn append<D: Database>(club: &mut Club<D>, record: &Record) -> Result<Result<u64, Refusal>> {
    let author = record.header.author;
    let body = record.header.body;
    let chained = body.chained().context("no update")?;
    let seen = record.header.seen;
    let arrived = Arrived {
        epoch: record.header.epoch,
        first_clock: chained.clock,
        records: vec![AppendedRecord {
            kind: body.kind_code(),
            seen_size: Varint(seen.size),
            seen_hint: seen.root.0.first_chunk().copied().unwrap_or_default(),
            sealed: record.sealed.clone(),
        }],
    };
    let core = club.lost.core().await?;
    let rows = club.lost.load(|keys| {
        keys.documents.insert(LOG);
        keys.authors.insert((LOG, author));
    });
    let mut rows = rows.await?;
    let row = rows.documents.get(&LOG).cloned().flatten();
    let row = row.context("no document")?;
    let chain = rows.authors.get(&(LOG, author)).copied().flatten();
    let offer = loop {
        let view = View {
            authority: core.state.state(),
            log: LOG,
            author,
            chain: chain.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf)),
            named: None,
            size: row.frontier.size(),
            base: row.base.size(),
            covered: row.covered,
            roots: &|_| None,
            rows: &rows,
            singly: true,
        };
        match judge(&arrived, &view) {
            Ok(offer) => break offer,
            Err(Stop::Lacks(keys)) => {
                rows.extend(club.lost.load(|wanted| wanted.extend(*keys)).await?);
            }
            Err(Stop::Refused(refusal)) => return Ok(Err(refusal)),
            Err(stop) => bail!("{stop:?}"),
        }
    };
    let op = Append {
        log: LOG,
        author,
        first_clock: chained.clock,
        offer,
    };
    match club.lost.run(Op::Append(op)).await? {
        Event::Records(placed) => Ok(Ok(placed.first_seq)),
        Event::RecordsRefused { refusal, .. } => Ok(Err(refusal)),
        event => bail!("{event:?}"),
    }
}

/// All that is here is as its members have it: records, roots, and proofs between any two heads that somebody may ask for.
async fn ensure_same<D: Database>(club: &Club<D>, story: &Story) -> Result<()> {
    let mut reads = club.lost.reader().await?;
    let end = story.records.len() as u64;
    let leaves = story.leaves();
    for from in [0, BASE - 1, BASE, AT, end] {
        let bounds = Bounds {
            from,
            end: u64::MAX,
            bytes: usize::MAX,
        };
        let found = reads.records(&LOG, bounds).await?;
        let seqs: Vec<u64> = found.iter().map(|row| row.seq).collect();
        ensure!(seqs == (from.max(BASE)..end).collect::<Vec<_>>());
    }
    for seq in 0..end {
        let found = reads.whole(&LOG, seq).await?;
        let wanted = story.since(seq)?.first().filter(|_| seq >= BASE);
        match (found, wanted) {
            (Some(WholeRecord::Whole { record, .. }), Some(wanted)) => {
                ensure!(*record == *wanted, "{seq}: {record:?}");
            }
            (None, None) => {}
            (found, _) => bail!("{seq}: {found:?}"),
        }
    }
    let rows = club.lost.load(|keys| {
        keys.marks.extend((1..=end + 1).map(|size| (LOG, size)));
        keys.documents.insert(LOG);
    });
    let rows = rows.await?;
    for ((_, size), mark) in &rows.marks {
        let root = mark.map(|mark| mark.root);
        let wanted = (BASE..=end).contains(size).then(|| story.head(*size));
        ensure!(root == wanted.transpose()?.map(|head| head.root), "{size}");
    }
    let row = rows.documents.get(&LOG).cloned().flatten();
    ensure!(row.context("no document")?.frontier.head() == story.head(end)?);
    let olds = SHOWN.into_iter().chain(BASE..=end);
    for old in olds.chain([0]) {
        for new in old.max(BASE)..=end {
            let proof = prove(&mut reads, &mut Proofs::default(), LOG, (old, new)).await?;
            let all = leaves.get(..usize::try_from(new)?).context("shorter")?;
            ensure!(proof == consistency_proof(all, old)?, "{old} {new}");
        }
    }
    Ok(())
}

/// It is opened from the snapshot, as elsewhere; all that can be asked for is there, after a restart too; and it goes on. Chains go on where they are here,
/// and who wrote nothing since begins anew.
///
/// # Errors
/// When it is not so.
pub async fn a_document_goes_on_from_a_snapshot_of_which_nobody_has_more<D: Database>() -> Result<()>
{
    let (mut club, mut story) = brought::<D>().await?;
    ensure_same(&club, &story).await?;
    let opened = base(&mut club.lost.reader().await?, &LOG, AT).await?;
    ensure!(Some(&opened.record) == story.since(AT)?.first());
    club.lost.restart().await?;
    club.end_holds().await?;
    // On, past where inner nodes are stored that began before the base.
    let mut newest = opened.record;
    while story.records.len() < 140 {
        let size = story.records.len() as u64;
        let seen = match size % 3 {
            0 => size,
            1 => size - 1,
            _ => BASE,
        };
        let record = story.update(&club, ANA, seen)?;
        match append(&mut club, &record).await? {
            Ok(seq) => ensure!(seq == size, "{seq}"),
            Err(Refusal::SnapshotRequired) => {
                newest = story.snapshot(&club, ANA, Some(&newest), size)?;
                ensure!(put(&mut club, &newest).await? == Ok(()));
                story.place(newest.clone());
                continue;
            }
            refused => bail!("{refused:?}"),
        }
        story.place(record);
    }
    let fresh = (CAROL, InstanceId([9; 8]));
    let record = story.update_of(&club, fresh, 139)?;
    ensure!(append(&mut club, &record).await?.is_ok());
    story.place(record);
    let size = story.records.len() as u64;
    let snapshot = story.snapshot(&club, CAROL, Some(&newest), size)?;
    ensure!(put(&mut club, &snapshot).await? == Ok(()));
    story.place(snapshot);
    let record = story.update(&club, ANA, size + 1)?;
    ensure!(append(&mut club, &record).await? == Ok(size + 1));
    story.place(record);
    club.lost.restart().await?;
    ensure_same(&club, &story).await
}

fn change(records: &mut [Record], at: usize, how: impl FnOnce(&mut Record)) {
    if let Some(record) = records.get_mut(at) {
        how(record);
    }
}

/// What is cut, reordered, altered or foreign; a right edge that contradicts what is said of it; subtrees that show nothing, or not what was seen: nothing
/// is stored.
///
/// # Errors
/// When it is not so.
pub async fn what_does_not_belong_to_its_base_stores_nothing<D: Database>() -> Result<()> {
    let (mut club, mut story) = wiped::<D>().await?;
    let before = club.copy().await?;
    let good = story.base(BASE, &SHOWN)?;
    let records = story.since(BASE)?.to_vec();
    let (at, bad) = (usize::try_from(AT - BASE)?, |fault| Refusal::BadRecord {
        fault,
    });
    let with = |change: &dyn Fn(&mut Vec<Record>)| {
        let mut other = records.clone();
        change(&mut other);
        other
    };
    let edge = |change: &dyn Fn(&mut DocumentBase)| {
        let mut other = good.clone();
        change(&mut other);
        other
    };
    let forged = |size| {
        let mut frontier = Frontier::new();
        (0..size).for_each(|at| frontier.push(some_hash(at)));
        frontier
    };
    let carol = club.device(CAROL)?;
    let dora = club.device(DORA)?;
    let other_kind = {
        let mut header = story.snapshot(&club, BEN, None, BASE)?.header;
        if let RecordBody::Snapshot(snapshot) = &mut header.body {
            snapshot.crdt += 1;
        }
        story.write(&club, (BEN, INSTANCE), AT, |_| header.body)?
    };
    let first_of_all = {
        let mut header = story.snapshot(&club, BEN, None, BASE)?.header;
        if let RecordBody::Snapshot(snapshot) = &mut header.body {
            snapshot.parent = Hash::ZERO;
        }
        story.write(&club, (BEN, INSTANCE), AT, |_| header.body)?
    };
    let covers_more = story.snapshot(&club, BEN, None, AT)?;
    let snapshot = |record: &Record| {
        let record = record.clone();
        with(&|it| {
            if let Some(place) = it.get_mut(at) {
                *place = record.clone();
            }
        })
    };
    let of = |records: Vec<Record>| (good.clone(), BASE, records);
    let on = |base: DocumentBase| (base, BASE, records.clone());
    let (malformed, shows_nothing) = (
        Refusal::Malformed,
        BaseNode {
            level: 0,
            index: 40,
            hash: some_hash(1),
        },
    );
    let seen_head = bad(RecordFault::SeenHead);
    let not_member = bad(RecordFault::NotMember);
    let signature = bad(RecordFault::Signature);
    let flip = |at| with(&|it| change(it, at, |one| one.sealed.signature[0] ^= 1));
    let by = |at, device| with(&|it| change(it, at, |one| one.header.author.device = device));
    let elsewhere = (good.clone(), BASE + 1, with(&|it| _ = it.remove(0)));
    let empty = (edge(&|it| it.frontier = forged(0)), 0, records.clone());
    let cases = [
        ("no snapshot", of(with(&|it| it.truncate(at))), &malformed),
        ("from elsewhere", elsewhere, &malformed),
        ("an empty edge", empty, &malformed),
        (
            "another size",
            on(edge(&|it| it.frontier = forged(BASE + 1))),
            &malformed,
        ),
        (
            "a forged edge",
            on(edge(&|it| it.frontier = forged(BASE))),
            &bad(RecordFault::Covered),
        ),
        (
            "covers more",
            of(snapshot(&covers_more)),
            &bad(RecordFault::Covered),
        ),
        (
            "another kind",
            of(snapshot(&other_kind)),
            &bad(RecordFault::Malformed),
        ),
        (
            "the first of all",
            of(snapshot(&first_of_all)),
            &bad(RecordFault::Parent),
        ),
        (
            "reordered",
            of(with(&|it| it.swap(at + 1, at + 5))),
            &bad(RecordFault::Replayed),
        ),
        (
            "the snapshot first",
            of(with(&|it| it.swap(0, at))),
            &seen_head,
        ),
        (
            "one is missing",
            of(with(&|it| _ = it.remove(at + 1))),
            &seen_head,
        ),
        ("an altered snapshot", of(flip(at)), &signature),
        ("an altered record", of(flip(at + 5)), &signature),
        ("a foreign snapshot", of(by(at, dora)), &not_member),
        ("by somebody else", of(by(at, carol)), &signature),
        ("a foreign record", of(by(0, dora)), &not_member),
        (
            "a later epoch",
            of(with(&|it| change(it, at, |one| one.header.epoch += 1))),
            &bad(RecordFault::EpochDecreased),
        ),
        (
            "nothing shown",
            on(edge(&|it| it.nodes.clear())),
            &seen_head,
        ),
        (
            "a wrong subtree",
            on(edge(&|it| {
                it.nodes
                    .iter_mut()
                    .for_each(|node| node.hash = some_hash(1))
            })),
            &seen_head,
        ),
        (
            "shows nothing",
            on(edge(&|it| it.nodes.push(shows_nothing))),
            &malformed,
        ),
        (
            "one twice",
            on(edge(&|it| it.nodes.extend_from_within(..1))),
            &malformed,
        ),
        (
            "another head",
            of(with(&|it| {
                change(it, 0, |one| one.header.seen.root = some_hash(2))
            })),
            &seen_head,
        ),
    ];
    for (what, (base, from, records), expected) in cases {
        let answer = club.give_from(BEN, Some(&base), from, &records).await?;
        ensure!(answer == Err(expected.clone()), "{what}: {answer:?}");
        ensure!(club.copy().await? == before, "{what}");
    }
    // Who brings it is no member, or only reads.
    let answer = club.give_from(DORA, Some(&good), BASE, &records).await?;
    ensure!(answer.is_err(), "{answer:?}");
    ensure!(club.copy().await? == before);
    ensure!(
        club.give_from(BEN, Some(&good), BASE, &records)
            .await?
            .is_ok()
    );
    // Somebody else comes second, with another base or the same.
    let before = club.copy().await?;
    let size = story.records.len() as u64;
    for base in [good.clone(), story.base(AT, &SHOWN)?] {
        let from = base.frontier.size();
        let records = story.since(from)?.to_vec();
        let answer = club.give_from(ANA, Some(&base), from, &records).await?;
        let (have, want) = (size, size);
        ensure!(
            answer == Err(Refusal::Recovering { have, want }),
            "{answer:?}"
        );
        ensure!(club.copy().await? == before);
    }
    Ok(())
}

/// A snapshot by somebody who only reads is none; nor does a service take a document from a base whose group was founded there, or that does not list it.
///
/// # Errors
/// When it is not so.
pub async fn only_a_group_that_was_brought_takes_a_document_from_a_base<D: Database>() -> Result<()>
{
    let (mut club, story) = wiped::<D>().await?;
    let records = story.since(BASE)?.to_vec();
    let base = story.base(BASE, &SHOWN)?;
    let mut unlisted = records.clone();
    for record in &mut unlisted {
        record.header.document = DocumentId([2; 16]);
    }
    let answer = club.give_from(BEN, Some(&base), BASE, &unlisted).await?;
    ensure!(answer == Err(Refusal::UnknownDocument), "{answer:?}");
    let mut founded = Club::<D>::new().await?;
    founded.is_copied = true;
    let first = founded.create(ANA, ONE).await?;
    founded.report(super::lost::LOG, founded.head()).await?;
    let given = founded.offer(ANA).await?;
    founded.give(&given).await??;
    let mut log = Story::begun(first);
    let record = log.update(&founded, ANA, 1)?;
    log.place(record);
    let snapshot = log.snapshot(&founded, ANA, None, 2)?;
    log.place(snapshot);
    let before = founded.copy().await?;
    let (base, records) = (log.base(2, &[])?, log.since(2)?.to_vec());
    let answer = founded.give_from(ANA, Some(&base), 2, &records).await?;
    ensure!(answer == Err(Refusal::Malformed), "{answer:?}");
    ensure!(founded.copy().await? == before);
    // A reader's word that the log had this head.
    drop(club);
    let mut club = Club::<D>::new().await?;
    let first = club.create(ANA, ONE).await?;
    let role = Role::Viewer;
    let user = club.seat(CAROL)?.member.user;
    let mut policy = club.core().state().policy.clone();
    policy.roles.push(RoleEntry { user, role });
    policy.roles.sort_by_key(|entry| entry.user);
    let plan = Plan {
        policy: Some(policy),
        ..Plan::default()
    };
    club.commit(ANA, &plan).await?;
    club.put(
        ANA,
        EntryBody::RecordVoided {
            document: ONE,
            record: some_hash(1),
        },
    )
    .await?;
    club.wipe().await?;
    let brought = club.brought(ANA).await?;
    ensure!(club.adopt(&brought).await? == Ok(()));
    let mut story = Story::begun(first);
    let update = story.update(&club, ANA, 1)?;
    story.place(update);
    let base = story.base(2, &[])?;
    let of_carol = story.snapshot(&club, CAROL, None, 2)?;
    let before = club.copy().await?;
    let answer = club.give_from(ANA, Some(&base), 2, &[of_carol]).await?;
    let fault = RecordFault::Role;
    ensure!(answer == Err(Refusal::BadRecord { fault }), "{answer:?}");
    ensure!(club.copy().await? == before);
    let of_ben = story.snapshot(&club, BEN, None, 2)?;
    ensure!(
        club.give_from(CAROL, Some(&base), 2, &[of_ben])
            .await?
            .is_ok()
    );
    Ok(())
}

/// What was before the base nobody is told, and nothing is taken that leads there: each is refused by a name.
///
/// # Errors
/// When it is not so.
pub async fn what_is_asked_below_the_base_is_refused<D: Database>() -> Result<()> {
    let (mut club, mut story) = brought::<D>().await?;
    club.end_holds().await?;
    let before = club.copy().await?;
    let bad = |fault| Refusal::BadRecord { fault };
    // Whoever had seen less than that has to write again.
    let behind = story.update(&club, ANA, BASE - 1)?;
    let answer = append(&mut club, &behind).await?;
    ensure!(answer == Err(bad(RecordFault::Gap)), "{answer:?}");
    let mut lies = story.update(&club, ANA, BASE)?;
    lies.header.seen.root = some_hash(1);
    let answer = append(&mut club, &lies).await?;
    ensure!(answer == Err(bad(RecordFault::SeenHead)), "{answer:?}");
    // Its place in the chain was used before that; at a later one the record is known.
    let by_ana = |record: &&Record| {
        let of_ana = story.records.first().map(|it| it.header.author) == Some(record.header.author);
        of_ana && record.header.body.chained().is_some()
    };
    let of_ana: Vec<Record> = story.records.iter().filter(by_ana).cloned().collect();
    let answer = append(&mut club, of_ana.first().context("none")?).await?;
    ensure!(answer == Err(bad(RecordFault::Replayed)), "{answer:?}");
    let last = of_ana.last().context("none")?;
    let answer = append(&mut club, last).await?;
    let is_known =
        matches!(answer, Err(Refusal::AlreadyAccepted { leaf, .. }) if leaf == last.leaf());
    ensure!(is_known, "{answer:?}");
    let opens = story.since(AT)?.first().cloned();
    for covered in [0, 1, BASE - 1, BASE, AT] {
        let snapshot = story.snapshot(&club, ANA, opens.as_ref(), covered)?;
        let answer = put(&mut club, &snapshot).await?;
        ensure!(
            answer == Err(bad(RecordFault::Covered)),
            "{covered} {answer:?}"
        );
    }
    ensure!(club.copy().await? == before);
    // A head from before says nothing of the log; another one at the base does.
    let service = |rows: Rows| rows.services.into_values().flatten().next();
    let want = |keys: &mut Keys| _ = keys.services.insert(());
    let before = service(club.lost.load(want).await?);
    let root = some_hash(1);
    for size in [1, BASE - 1] {
        club.report(LOG, Head { size, root }).await?;
        ensure!(service(club.lost.load(want).await?) == before);
    }
    club.report(LOG, story.head(BASE)?).await?;
    ensure!(service(club.lost.load(want).await?) == before);
    club.report(LOG, Head { size: BASE, root }).await?;
    ensure!(service(club.lost.load(want).await?) != before);
    Ok(())
}

/// Who brought it was not the one who had most: the rest follows, by whoever has it, also of those whose chains begin there.
///
/// # Errors
/// When it is not so.
pub async fn what_others_have_beyond_it_follows<D: Database>() -> Result<()> {
    let (mut club, mut story) = wiped::<D>().await?;
    let base = story.base(BASE, &[69])?;
    let until = usize::try_from(AT - BASE + 1)?;
    let some = story.since(BASE)?.get(..until).context("shorter")?.to_vec();
    let head = story.head(AT + 1)?;
    ensure!(club.give_from(BEN, Some(&base), BASE, &some).await? == Ok(head));
    // What they had seen before that cannot be shown any more.
    let rest = story.since(AT + 1)?.to_vec();
    let answer = club.give_records(CAROL, AT + 1, &rest).await?;
    let fault = RecordFault::SeenHead;
    ensure!(answer == Err(Refusal::BadRecord { fault }), "{answer:?}");
    let (one, _) = rest.split_first().context("nothing")?;
    let one = std::slice::from_ref(one);
    let head = story.head(AT + 2)?;
    ensure!(club.give_records(CAROL, AT + 1, one).await? == Ok(head));
    story.truncate(AT + 2)?;
    let opens = story.since(AT)?.first().cloned();
    let snapshot = story.snapshot(&club, ANA, opens.as_ref(), AT + 2)?;
    story.place(snapshot.clone());
    let of_ben = story.update(&club, BEN, BASE)?;
    story.place(of_ben.clone());
    let head = story.head(AT + 4)?;
    let rest = [snapshot, of_ben];
    ensure!(club.give_records(ANA, AT + 2, &rest).await? == Ok(head));
    club.end_holds().await?;
    let record = story.update(&club, BEN, AT + 4)?;
    ensure!(append(&mut club, &record).await? == Ok(AT + 4));
    Ok(())
}

//! One signature for an author's run of frames.

use std::sync::Arc;

use anyhow::{Result, ensure};
use conclave_identity::DeviceKey;
use conclave_order::op::append::{Append, Cover, Frame, Offer, Signed};
use conclave_order::{Batch, Event, Op, run_batch};
use conclave_proto::record::{RECORD_LABEL, record_leaf};
use conclave_proto::{Hash, Head};
use conclave_rules::{RosterRow, Signer};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::database::Database;
use crate::ids::{author, log};
use crate::records::{frame_record, roster_row, update};
use crate::world::{LIMITS, START, World, admit, refusal};

/// An author who signs, well or not.
struct Pen {
    of: u8,
    key: DeviceKey,
    signer: Signer,
    clock: u64,
    last: Hash,
}

impl Pen {
    fn new(of: u8) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(u64::from(of));
        let key = DeviceKey::generate(&mut rng);
        let row = RosterRow {
            key: key.public().to_vec().into(),
            ..roster_row(of)
        };
        Self {
            of,
            key,
            signer: row.signer(),
            clock: 0,
            last: Hash::ZERO,
        }
    }

    /// The next frame, of one record.
    fn frame(&mut self, is_signed: bool) -> Op {
        let (log, author) = (log(1, 1), author(self.of, 1));
        let mut record = update(log, author, 0, self.clock, self.last);
        let core = record.core();
        if is_signed {
            record.sealed.signature = self.key.sign(RECORD_LABEL, &core.0);
        }
        let signature = record.sealed.signature;
        let frame = Frame {
            epoch: 0,
            prev: self.last,
            covered: 0,
            named: Head::EMPTY,
            records: vec![frame_record(&record)],
        };
        let first_clock = self.clock;
        self.clock += 1;
        self.last = record_leaf(&core, &signature);
        let signed = Signed {
            by: self.signer.clone(),
            core,
            signature,
        };
        Op::Append(Append {
            log,
            author,
            first_clock,
            offer: Offer::Frame(Arc::new(frame), Cover::Nothing(signed)),
        })
    }
}

/// Room that the log has for records.
async fn leave_room<D: Database>(world: &mut World<D>, room: u64) -> Result<()> {
    let filled = LIMITS.tail_records - 1 - room;
    let others = world.updates(log(1, 1), author(30, 1), filled).await?;
    world.accepted(vec![others]).await?;
    Ok(())
}

/// Whatever is wrong with a run, and wherever the log cuts it, its last record that stands carries a signature that is right; and where all
/// are right, as much stands as there is room for.
///
/// # Errors
/// When it is not so.
pub async fn no_run_ends_uncovered<D: Database>() -> Result<()> {
    const FRAMES: u32 = 5;
    for signed in 0..1u32 << FRAMES {
        for room in [2, 4, 20] {
            let mut world = World::<D>::furnished().await?;
            leave_room(&mut world, room).await?;
            let is_signed = |at: u64| signed & (1 << at) != 0;
            let mut pen = Pen::new(10);
            let ops = (0..u64::from(FRAMES)).map(|at| pen.frame(is_signed(at)));
            world.run(ops.collect()).await?;
            let (next, _) = world.chain(log(1, 1), author(10, 1)).await?;
            let what = format!("signed {signed:05b}, room for {room}: {next}");
            ensure!(next == 0 || is_signed(next - 1), "{what}");
            if signed == (1 << FRAMES) - 1 {
                ensure!(next == room.min(u64::from(FRAMES)), "{what}");
            }
        }
    }
    Ok(())
}

/// What is cut leaves room in the log for what others lean on, which may have to be cut too: however many there are, it ends, and whoever is
/// honest is not concerned.
///
/// # Errors
/// When it is not so.
pub async fn no_cut_leaves_room_for_another<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let devices = [40, 50, 60, 70, 80, 90, 100];
    world.accepted(devices.map(admit).into()).await?;
    world.begin(log(1, 2), 10).await?;
    leave_room(&mut world, 1).await?;
    let elsewhere = world.updates(log(1, 2), author(20, 1), 1).await?;
    let mut ops = Vec::new();
    for mut cheat in devices.map(Pen::new) {
        ops.extend([cheat.frame(false), cheat.frame(true)]);
    }
    ops.extend([elsewhere, Pen::new(20).frame(true)]);
    let events = world.run(ops).await?;
    let placed = events.iter().map(|event| refusal(event).is_none());
    let placed: Vec<bool> = placed.collect();
    let (honest, cheats) = (placed.iter().rev().take(2), 2 * devices.len());
    ensure!(honest.eq(&[true, true]), "{events:?}");
    ensure!(!placed.iter().take(cheats).any(|is| *is), "{events:?}");
    Ok(())
}

/// As many checks as authors, however many frames; an author that cheats pays for its own.
///
/// # Errors
/// When it is not so.
pub async fn cheat_pays_single_checks<D: Database>() -> Result<()> {
    let mut world = World::<D>::furnished().await?;
    let mut pens = [10, 20, 30].map(Pen::new);
    let mut honest = Vec::new();
    for _ in 0..7 {
        honest.extend(pens.iter_mut().map(|pen| pen.frame(true)));
    }
    let batch = Batch::new(honest, LIMITS);
    ensure!(batch.checks() == pens.len(), "{}", batch.checks());
    for ended in run_batch(&mut world.store, batch, &()).await {
        let end = ended.end();
        let events = ended.batch.finish(end);
        ensure!(
            events
                .iter()
                .all(|event| matches!(event, Event::Records(_)))
        );
    }
    // A wrong signature at the end, and one in the middle.
    let [cheat, other, _] = &mut pens;
    let mut ops: Vec<Op> = [true, true, false, true, false]
        .map(|is_signed| cheat.frame(is_signed))
        .into();
    ops.extend((0..3).map(|_| other.frame(true)));
    let batch = Batch::new(ops, LIMITS);
    // The last, then from the front up to the first that is wrong; and the other's one.
    ensure!(batch.checks() == 1 + 3 + 1, "{}", batch.checks());
    let ended = run_batch(&mut world.store, batch, &()).await;
    let events = ended.into_iter().flat_map(|ended| {
        let end = ended.end();
        ended.batch.finish(end)
    });
    let placed: Vec<bool> = events
        .map(|event| matches!(event, Event::Records(_)))
        .collect();
    ensure!(placed == [true, true, false, false, false, true, true, true]);
    ensure!(world.chain(log(1, 1), author(10, 1)).await?.0 == 9);
    Ok(())
}

/// A frame has its cover within reach of whoever finds its own signature wrong, however many of others lie between.
///
/// # Errors
/// When it is not so.
pub async fn covers_are_near<D: Database>() -> Result<()> {
    use conclave_order::limits::{RUN_BYTES, RUN_RECORDS};
    let world = World::<D>::furnished().await?;
    let mut pen = Pen::new(10);
    let others = world.updates(log(1, 1), author(30, 1), 50).await?;
    let mut ops = Vec::new();
    for _ in 0..5 {
        ops.extend([pen.frame(true), others.clone()]);
    }
    // Two frames, or three with what lies between, are within reach.
    ensure!(RUN_RECORDS == 128);
    let checks = Batch::new(ops, LIMITS).checks();
    ensure!(checks == 2, "{checks}");
    // A snapshot may lie between too.
    for (bytes, wanted) in [(60, 1), (RUN_BYTES, 2)] {
        let mut pen = Pen::new(10);
        let mut snapshot = world.snapshot(log(1, 1), 20, START).await?;
        if let Op::PutSnapshot(put) = &mut snapshot {
            Arc::make_mut(&mut put.record).sealed.ciphertext = vec![0; bytes].into();
        }
        let ops = vec![pen.frame(true), snapshot, pen.frame(true)];
        let checks = Batch::new(ops, LIMITS).checks();
        ensure!(checks == wanted, "{checks} with {bytes} bytes between");
    }
    Ok(())
}

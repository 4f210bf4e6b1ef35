//! Operations by chance: every backend comes to the same, and it does not matter which of them share a transaction.
//!
//! `CONCLAVE_SUITE_BATCHES` says how many batches there are: `CONCLAVE_SUITE_BATCHES=10000 cargo test -p conclave-testkit --test storage batches_come`.

use anyhow::{Context as _, Result, ensure};
use conclave_order::op::help::{AckWelcome, Ask, PutWrap};
use conclave_order::op::packages::{ClearKeyPackages, Package};
use conclave_order::op::upkeep::{Probe, Sweep};
use conclave_order::rows::{GroupRow, PleaRow};
use conclave_order::{Backend as _, Batch, Op, Step, Transaction as _};
use conclave_proto::frame::Plea;
use conclave_proto::record::{CloseReason, EntryBody};
use conclave_proto::{Head, UnixMs};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::dump::{Known, dump};
use super::identity::{claim, put};
use crate::database::{Database, InMemory};
use crate::ids::{author, device, group, log, some_hash, user, user_of};
use crate::records::{snapshot, updates};
use crate::world::{
    LIMITS, Moves, START, World, admit, commit, create_document, propose, put_entry, wrap,
};

/// Batches, where the test is one among others.
const BATCHES: u64 = 2_000;
/// Batches in one world.
const IN_A_WORLD: u64 = 40;
const DEVICES: [u8; 6] = [10, 11, 20, 21, 30, 31];

/// The backend, and one in memory where each operation has a transaction of its own.
struct Pair<D: Database> {
    tried: World<D>,
    plain: World<InMemory>,
    rng: ChaCha20Rng,
    known: Known,
    now: u64,
    nonce: u64,
}

/// The same operations come to the same answers and rows on this backend, many in a transaction, and in memory, each in its own.
///
/// # Errors
/// When it is not so.
pub async fn batches_come_to_the_same<D: Database>() -> Result<()> {
    let batches = match std::env::var("CONCLAVE_SUITE_BATCHES") {
        Ok(batches) => batches.parse()?,
        Err(_) => BATCHES,
    };
    let mut accepted = 0;
    for seed in 0..batches.div_ceil(IN_A_WORLD) {
        let mut pair = Pair::<D> {
            tried: World::furnished().await?,
            plain: World::furnished().await?,
            rng: ChaCha20Rng::seed_from_u64(seed),
            known: Known {
                groups: vec![group(1), group(2)],
                logs: (1..4).map(|n| log(1, n)).collect(),
                ..Known::default()
            },
            now: START.0,
            nonce: 1000 * seed,
        };
        for n in DEVICES {
            pair.known.keys.devices.insert(device(n));
            pair.known.keys.waiting.insert(device(n));
            pair.known.keys.memberships.insert(device(n));
            pair.known.keys.stocks.insert(device(n));
            pair.known.keys.device_pleas.insert(device(n));
            pair.known.keys.siblings.insert(user_of(n));
            pair.known.keys.acquainted.insert(user_of(n));
        }
        for round in 0..IN_A_WORLD {
            let step = pair.step().await;
            accepted += step.with_context(|| format!("world {seed}, batch {round}"))?;
        }
        let plain = dump(&pair.plain.database, &pair.known).await?;
        let tried = dump(&pair.tried.database, &pair.known).await?;
        ensure!(tried == plain, "world {seed}");
    }
    println!("{batches} batches, {accepted} operations accepted");
    // Nothing of this is vacuous.
    ensure!(accepted > 2 * batches, "{accepted}");
    Ok(())
}

impl<D: Database> Pair<D> {
    /// One batch on both. Gives how many of its operations were not refused.
    async fn step(&mut self) -> Result<u64> {
        let count = 1 + self.below(12);
        let mut ops = Vec::new();
        for _ in 0..count {
            ops.extend(self.some_op().await?);
        }
        self.known
            .keys
            .extend(Batch::new(ops.clone(), LIMITS).keys());
        if !self.often() {
            self.abandon(ops.clone()).await?;
        }
        let tried = self.tried.run(ops.clone()).await?;
        let mut accepted = 0;
        for (op, event) in ops.into_iter().zip(&tried) {
            let plain = self.plain.one(op.clone()).await?;
            let (is, was) = (format!("{event:?}"), format!("{plain:?}"));
            ensure!(is == was, "{op:?}\ncame to {is}\nand to {was}");
            accepted += u64::from(crate::world::refusal(event).is_none());
        }
        Ok(accepted)
    }

    /// Goes as far as the end of a transaction, and leaves it: it was not.
    async fn abandon(&mut self, ops: Vec<Op>) -> Result<()> {
        let mut batch = Batch::new(ops, LIMITS);
        let mut tx = self.tried.store.begin().await?;
        let mut wanted = batch.keys();
        while let Step::Need(keys) = batch.apply(tx.load(&wanted).await?) {
            wanted = *keys;
            tx.write(batch.take_changes()).await?;
        }
        tx.write(batch.take_changes()).await?;
        Ok(())
    }

    fn below(&mut self, n: u32) -> u32 {
        self.rng.next_u32() % n
    }

    fn often(&mut self) -> bool {
        self.below(5) > 0
    }

    fn device(&mut self) -> u8 {
        let at = self.below(6) as usize;
        DEVICES.get(at).copied().unwrap_or(10)
    }

    fn nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    fn time(&mut self) -> UnixMs {
        self.now += u64::from(self.below(4)) * 24 * 3600 * 1000;
        UnixMs(self.now)
    }

    /// An operation that may stand, or nearly.
    async fn some_op(&mut self) -> Result<Option<Op>> {
        Ok(Some(match self.below(30) {
            0..12 => return self.append().await,
            12..15 => return self.snapshot().await,
            15 => self.enter(|pair, by| pair.commit(by)).await?,
            16 => {
                self.enter(|pair, by| {
                    let nonce = pair.nonce();
                    Box::new(move |at| propose(group(1), by, at, nonce))
                })
                .await?
            }
            17 => self.enter(|pair, by| pair.entry(by)).await?,
            18 => return self.document().await,
            19 => self.packages(),
            20 => {
                let now = self.time();
                claim(self.device(), user_number(self.device()), now)
            }
            21 => {
                let device = device(self.device());
                Op::ClearKeyPackages(ClearKeyPackages { device })
            }
            22 => admit(self.device()),
            23 | 24 => self.plea(),
            25 => self.wrap().await?,
            26 => Op::AckWelcome(AckWelcome {
                device: device(self.device()),
                id: u64::from(self.below(6)),
            }),
            27 => Op::Sweep(Sweep {
                now: self.time(),
                most: 64,
            }),
            28 => crate::world::found(group(2), self.device()),
            _ => Op::Probe(Probe { now: self.time() }),
        }))
    }

    async fn append(&mut self) -> Result<Option<Op>> {
        let log = log(1, 1 + u8::try_from(self.below(3))?);
        let author = author(self.device(), 1 + u8::try_from(self.below(3))?);
        let epoch = self.plain.group(log.group).await?.epoch;
        let (mut clock, mut prev) = self.plain.chain(log, author).await?;
        if !self.often() {
            clock = clock
                .saturating_add(1)
                .saturating_sub(u64::from(self.below(3)));
        }
        if !self.often() {
            prev = some_hash(u64::from(self.below(2)));
        }
        let count = 1 + u64::from(self.below(4));
        Ok(Some(updates(log, author, epoch, (clock, prev), count)))
    }

    async fn snapshot(&mut self) -> Result<Option<Op>> {
        let log = log(1, 1 + u8::try_from(self.below(3))?);
        let Ok((row, active)) = self.plain.document(log).await else {
            return Ok(None);
        };
        let epoch = self.plain.group(log.group).await?.epoch;
        let mut covered = row.frontier.head();
        if !self.often() {
            covered = Head {
                size: covered.size + 1,
                ..covered
            };
        }
        let now = self.time();
        let by = self.device();
        Ok(Some(snapshot(log, by, epoch, &active, covered, now)))
    }

    /// An entry for the next position, or the one before it.
    async fn enter(
        &mut self,
        make: impl FnOnce(&mut Self, u8) -> Box<dyn Fn(GroupRow) -> Op>,
    ) -> Result<Op> {
        let mut at = self.plain.group(group(1)).await?;
        if !self.often() {
            at.size = at.size.saturating_sub(1);
        }
        let by = self.device();
        Ok(make(self, by)(at))
    }

    fn commit(&mut self, by: u8) -> Box<dyn Fn(GroupRow) -> Op> {
        let mut moves = Moves {
            users: [user(1), user(2)].into(),
            ..Moves::default()
        };
        match self.below(3) {
            0 => moves.added = vec![self.device()],
            1 => moves.removed = vec![self.device()],
            _ => {}
        }
        let nonce = self.nonce();
        Box::new(move |at| commit(group(1), by, at, &moves, nonce))
    }

    fn entry(&mut self, by: u8) -> Box<dyn Fn(GroupRow) -> Op> {
        let document = log(1, 2 + u8::try_from(self.below(2)).unwrap_or(0)).document;
        let epoch = u64::from(self.below(4));
        let body = match self.below(5) {
            0 => EntryBody::DocumentClosed {
                document,
                reason: CloseReason::Archived,
            },
            _ => EntryBody::RotationComplete { epoch },
        };
        let nonce = self.nonce();
        Box::new(move |at| put_entry(group(1), by, at, body, nonce))
    }

    async fn document(&mut self) -> Result<Option<Op>> {
        let log = log(1, 2 + u8::try_from(self.below(2))?);
        // That a document is there already is found before it comes here.
        if self.plain.document(log).await.is_ok() {
            return Ok(None);
        }
        let at = self.plain.group(log.group).await?;
        Ok(Some(create_document(log, self.device(), at)))
    }

    fn packages(&mut self) -> Op {
        let now = self.time();
        let mut some = |count: u32| -> Vec<Package> {
            let packages = (0..count).map(|_| {
                let n = u64::from(self.below(40));
                Package {
                    hash: some_hash(n),
                    created: UnixMs(now.0 - 1000 * n),
                    bytes: n.to_be_bytes().to_vec(),
                }
            });
            packages.collect()
        };
        let (one_time, last_resort) = (some(3), some(1).pop());
        let last_resort = last_resort.filter(|package| {
            let taken = one_time.iter().any(|other| other.hash == package.hash);
            !taken && package.created.0 % 2 == 0
        });
        put(self.device(), one_time, last_resort, now)
    }

    fn plea(&mut self) -> Op {
        let by = self.device();
        let what = match self.below(2) {
            0 => Plea::Wrap,
            _ => Plea::ReAdd,
        };
        let plea = PleaRow {
            group: group(1),
            device: device(by),
            user: user_of(by),
            what,
            at: UnixMs(self.now),
        };
        let epoch = u64::from(self.below(2));
        Op::Ask(Ask { plea, epoch })
    }

    async fn wrap(&mut self) -> Result<Op> {
        let epoch = self.plain.group(group(1)).await?.epoch;
        let by = self.device();
        let own = DEVICES
            .iter()
            .filter(|other| user_of(**other) == user_of(by));
        Ok(Op::PutWrap(PutWrap {
            wrap: wrap(group(1), epoch, by),
            siblings: own.map(|other| device(*other)).collect(),
        }))
    }
}

fn user_number(device: u8) -> u8 {
    device / 10
}

//! The heads that records name as seen.

use anyhow::{Result, bail, ensure};
use conclave_identity::DeviceKey;
use conclave_order::op::append::{Arrived, Offer, View, judge};
use conclave_order::{Reader as _, Rows, Stop};
use conclave_proto::codec::Varint;
use conclave_proto::frame::AppendedRecord;
use conclave_proto::{DeviceId, DocumentId, Hash, Head, Refusal, UserId};
use conclave_rules::{Authority, RosterRow};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::database::Database;
use crate::ids::{author, log};
use crate::records::{roster_row, sealed};
use crate::world::{START, World};

/// One device in its first epoch.
struct Alone(RosterRow);

impl Authority for Alone {
    fn epoch(&self) -> u64 {
        0
    }

    fn rekey_since(&self) -> u64 {
        0
    }

    fn row(&self, device: &DeviceId, _: u64) -> Option<&RosterRow> {
        (self.0.device == *device).then_some(&self.0)
    }

    fn refusal(&self, _: &DeviceId) -> Refusal {
        Refusal::UnknownGroup
    }

    fn is_of_one_user(&self, _: u64) -> bool {
        true
    }

    fn is_of_users(&self, _: u64, _: &[UserId]) -> bool {
        true
    }

    fn voided(&self, _: &DocumentId) -> Box<dyn Iterator<Item = Hash> + '_> {
        Box::new(std::iter::empty())
    }

    fn padding_bytes(&self) -> u16 {
        0
    }

    fn keeps_attribution(&self) -> bool {
        true
    }
}

/// However many old heads a frame names, they are looked up at once, and so is what shows them to those who do not know them: nobody is made
/// to look at a frame once for each of its records.
///
/// # Errors
/// When it is not so.
pub async fn a_frame_loads_at_once_what_its_heads_need<D: Database>() -> Result<()> {
    const SEEN: u64 = 30;
    let (log, of) = (log(1, 1), 10);
    let mut world = World::<D>::furnished().await?;
    let filled = world.updates(log, author(20, 1), SEEN).await?;
    world.accepted(vec![filled]).await?;
    let snapshot = world.snapshot(log, 20, START).await?;
    world.accepted(vec![snapshot]).await?;
    let marks = world.load(|keys| keys.marks.extend((1..=SEEN).map(|size| (log, size))));
    let marks = marks.await?.marks;
    // Each names another head than the one before it, the first and the last the one that is known.
    let mut named = None;
    let mut records = Vec::new();
    for ((_, size), mark) in marks.iter().rev().chain(marks.last_key_value()) {
        let root = mark.map_or(Hash::ZERO, |mark| mark.root);
        named = Some(Head { size: *size, root });
        records.push(AppendedRecord {
            kind: 1,
            seen_size: Varint(*size),
            seen_hint: root.0.first_chunk().copied().unwrap_or_default(),
            sealed: sealed(0, 20),
        });
    }
    let arrived = Arrived {
        epoch: 0,
        first_clock: 0,
        records,
    };
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let authority = Alone(RosterRow {
        key: DeviceKey::generate(&mut rng).public().to_vec().into(),
        ..roster_row(of)
    });
    let (row, _) = world.document(log).await?;
    let mut reader = world.database.reader().await?;
    let (mut rows, mut loads) = (Rows::default(), 0);
    let frame = loop {
        let view = View {
            authority: &authority,
            log,
            author: author(of, 1),
            chain: (0, Hash::ZERO),
            named,
            size: row.frontier.size(),
            base: row.base.size(),
            covered: row.covered,
            roots: &|_| None,
            rows: &rows,
            singly: false,
        };
        match judge(&arrived, &view) {
            Ok(Offer::Frame(frame, _)) => break frame,
            Err(Stop::Lacks(keys)) => rows.extend(reader.load(&keys).await?),
            other => bail!("{other:?}"),
        }
        loads += 1;
    };
    ensure!(loads <= 2, "{loads} loads");
    let shown = frame.records.iter().filter(|record| record.late.is_some());
    ensure!(shown.count() as u64 == SEEN + 1);
    Ok(())
}

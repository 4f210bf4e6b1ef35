//! What updates cost, one after the other.

use anyhow::{Context as _, Result, bail};
use conclave_crdt::cost::{Allowance, Meter, Refused};
use conclave_crdt::{Crdt, ReplicaId, create};
use conclave_testkit::costly::histories::histories;

use super::Book;
use super::value::Shown;

/// How many documents are edited at random.
const SEEDS: u64 = 2;

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    for history in histories(SEEDS)? {
        let mut entry = book.plain(&history.name);
        entry
            .given("kind", u64::from(history.kind.code()))
            .given("balance", history.balance)
            .given("room", history.room);
        let reader = create(history.kind, ReplicaId::for_kind(history.kind, [0xfd; 16]))?;
        let mut meter = Meter::new(history.kind);
        let mut balance = history.balance;
        for (index, update) in history.updates.iter().enumerate() {
            let is = count(&*reader, &mut meter, &mut balance, history.room, update)
                .with_context(|| format!("{} {index}", history.name))?;
            let of = [("update", Shown::hex(update))];
            entry.follows(&format!("update {}", index + 1), "cost", &of, is);
        }
    }
    Ok(())
}

fn count(
    reader: &dyn Crdt,
    meter: &mut Meter,
    balance: &mut u64,
    room: u64,
    update: &[u8],
) -> Result<Shown> {
    let mut read = reader.inspect(update)?;
    let allowance = Allowance {
        balance: *balance,
        room,
    };
    let mut parts = Vec::new();
    match meter.count(update, &mut read, allowance) {
        Ok(counted) => {
            *balance = counted.balance;
            parts.push(("cost".to_owned(), counted.cost.into()));
            let grown = counted.grown.max(0).unsigned_abs();
            parts.push(("grown".to_owned(), grown.into()));
            parts.push(("released".to_owned(), counted.released.into()));
        }
        Err(Refused::Cost { balance: left }) => {
            *balance = left;
            parts.push(("refused".to_owned(), "cost".into()));
        }
        Err(Refused::Content { balance: left }) => {
            *balance = left;
            parts.push(("refused".to_owned(), "content".into()));
        }
        Err(Refused::Malformed(error)) => bail!(error),
    }
    parts.push(("balance".to_owned(), (*balance).into()));
    parts.push(("size".to_owned(), meter.size().into()));
    Ok(Shown::Fields(parts))
}

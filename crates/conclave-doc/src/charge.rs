//! What updates cost. Before an engine applies an update its cost is computed, on the state of the log before it and from numbers alone, and charged to
//! the user of whoever sealed the record. One that would cost more than that user has left is left out, by all members alike and without blame: an
//! honest edit can become costly by what others wrote meanwhile.

use std::collections::BTreeSet;
use std::ops::Bound;

use conclave_crdt::cost::{
    Allowance, BALANCE_CAP, Counted, ITEM_EARNS, LoadLimit, Meter, NAME_UNITS, Refused,
    document_size, unit_ns, update_units,
};
use conclave_crdt::{CrdtError, CrdtKind, Inspected};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, InstanceId, UserId};

use crate::content::Content;
use crate::context::DocContext;
use crate::error::DocError;
use crate::payload::{Account, SnapshotPayload, Tables};
use crate::state::Effect;

/// Whatever it costs: of updates that have their place already.
pub(crate) const ANY: Allowance = Allowance {
    balance: BALANCE_CAP,
    room: u64::MAX,
};

/// Who pays for a record, and what of accounts is known before it.
#[derive(Clone, Copy)]
pub(crate) struct Payer<'a> {
    pub ctx: &'a DocContext<'a>,
    /// State before the record.
    pub tables: &'a Tables,
    /// Who sealed it.
    pub device: DeviceId,
    /// Its epoch.
    pub epoch: u64,
}

impl Payer<'_> {
    fn user(&self) -> UserId {
        let row = self.ctx.row(&self.device, self.epoch);
        row.map_or(UserId::ZERO, |row| row.user)
    }
}

/// What a user may still spend on a document and add to it.
pub(crate) fn allowance(kind: CrdtKind, account: Account, ops: u64) -> Allowance {
    let all = document_size(kind);
    let of_user = (all / 2).saturating_sub(account.size);
    Allowance {
        balance: account.balance,
        room: all.saturating_sub(ops).min(of_user),
    }
}

/// An account after an update of its user.
pub(crate) fn charge_own(account: Account, counted: &Counted) -> Account {
    Account {
        balance: counted.balance,
        size: account.size.saturating_add_signed(counted.grown),
    }
}

/// Judges what an update costs, and writes into its effect what that does to accounts, also where it is refused: what was counted was paid for. A meter that
/// has refused is as before.
pub(crate) fn charge(
    meter: &mut Meter,
    kind: CrdtKind,
    payer: &Payer<'_>,
    (update, read): (&[u8], &mut Inspected),
    effect: &mut Effect,
) -> Result<(), RecordFault> {
    let (user, tables) = (payer.user(), payer.tables);
    let mut account = tables.account(&user);
    effect.costs.clear();
    effect.ops = None;
    let mut fault = RecordFault::Cost;
    match meter.count(update, read, allowance(kind, account, tables.ops)) {
        Ok(counted) => {
            effect.costs.push((user, charge_own(account, &counted)));
            effect.ops = Some(meter.size());
        }
        Err(Refused::Cost { balance }) => {
            account.balance = balance;
            effect.costs.push((user, account));
        }
        Err(Refused::Content { balance }) => {
            account.balance = balance;
            effect.costs.push((user, account));
            fault = RecordFault::Content;
        }
        Err(Refused::Malformed(_)) => return Err(RecordFault::Content),
    }
    effect
        .costs
        .retain(|(user, account)| *account != tables.account(user));
    match effect.ops {
        Some(_) => Ok(()),
        // Breakage: whatever an update costs, it is applied.
        None if crate::broken("cost-free") && fault == RecordFault::Cost => Ok(()),
        None => Err(fault),
    }
}

/// What a user pays for an update that the engine refuses though it was counted without fault, in place of its cost: everybody has built the document
/// again for it. What its balance does not hold is added to its part of the document.
const ENGINE_REFUSAL_UNITS: u64 = 1 << 19;

/// Writes into the effect of a record that the engine has refused what that does to accounts.
pub(crate) fn charge_unfit(ctx: &DocContext<'_>, tables: &Tables, effect: &mut Effect) {
    effect.costs.clear();
    effect.ops = None;
    let Some(((author, _), epoch)) = effect.link.zip(effect.epoch) else {
        return;
    };
    let payer = Payer {
        ctx,
        tables,
        device: author.device,
        epoch,
    };
    let user = payer.user();
    let before = tables.account(&user);
    // Whoever cannot pay has less room, and none before long: what it sends then is refused before an engine sees it.
    let unpaid = ENGINE_REFUSAL_UNITS.saturating_sub(before.balance);
    let account = Account {
        balance: before.balance.saturating_sub(ENGINE_REFUSAL_UNITS),
        size: before.size.saturating_add(unpaid),
    };
    effect
        .costs
        .extend((account != before).then_some((user, account)));
}

/// Units of an engine's time that a canonical block or an operation takes where a document is built again.
const BUILDING_UNITS: u64 = 3;

fn us(kind: CrdtKind, units: u64) -> u64 {
    units.saturating_mul(unit_ns(kind)) / 1_000
}

/// About how long an engine takes to build a document of this size again, in microseconds.
pub(crate) fn building_us(kind: CrdtKind, size: u64) -> u64 {
    us(kind, size.saturating_mul(BUILDING_UNITS))
}

/// How long an engine may take for so many updates by the users of so many devices, in microseconds.
pub(crate) fn judging_us(kind: CrdtKind, updates: u64, devices: u64) -> u64 {
    let by_limit = updates.saturating_mul(update_units(kind));
    us(kind, by_limit.min(devices.saturating_mul(BALANCE_CAP)))
}

/// Units that loading a Yjs snapshot may cost whoever wrote it.
const LOAD_UNITS: u64 = 1 << 22;
/// And for each user who has an account, as far as that goes.
const ACCOUNT_LOAD_UNITS: u64 = 1 << 23;
/// For all accounts together: whoever writes a snapshot can name every member in it.
const ACCOUNTS_LOAD_UNITS: u64 = 1 << 26;

/// Why a snapshot of somebody else is not given to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unbounded {
    /// No engine would load it.
    Content,
    /// To load it would cost more than all of its users could have spent.
    Cost,
}

/// What loading a snapshot may cost.
fn load_limit(kind: CrdtKind, accounts: usize, ops: u64) -> LoadLimit {
    let accounts = accounts as u64;
    match kind {
        // Every operation is a row at most, and every change and dependency costs what a name does.
        CrdtKind::Automerge => LoadLimit::units(ops.saturating_mul(1 + NAME_UNITS)),
        _ => LoadLimit {
            units: ACCOUNT_LOAD_UNITS
                .saturating_mul(accounts)
                .min(ACCOUNTS_LOAD_UNITS)
                .saturating_add(LOAD_UNITS),
            per_item: ITEM_EARNS,
            // What it says of its size is not believed beyond what it holds.
            items_max: ops,
        },
    }
}

/// Whether an engine can load a snapshot of somebody else within bounds: known before any does. Gives what counting has learnt of it.
pub(crate) fn bounded(kind: CrdtKind, payload: &SnapshotPayload) -> Result<Meter, Unbounded> {
    if payload.tables.ops > document_size(kind) {
        return Err(Unbounded::Cost);
    }
    // Breakage: a snapshot is loaded, whatever that costs.
    let limit = match crate::broken("snapshot-free") {
        true => LoadLimit::units(u64::MAX),
        false => load_limit(kind, payload.tables.costs.len(), payload.tables.ops),
    };
    match Meter::load_within(kind, &payload.state, limit) {
        Ok((meter, _)) => Ok(meter),
        Err(Refused::Cost { .. }) => Err(Unbounded::Cost),
        Err(Refused::Malformed(_) | Refused::Content { .. }) => Err(Unbounded::Content),
    }
}

/// A meter of what a document is to begin with, where everybody else can load it: what they would hold is not made. The engine has seen it here.
pub(crate) fn founded(kind: CrdtKind, crdt: &[u8]) -> Result<Meter, DocError> {
    let most = load_limit(kind, 0, document_size(kind));
    let (meter, units) = Meter::load_within(kind, crdt, most).map_err(|refused| match refused {
        Refused::Malformed(error) => error.into(),
        _ => DocError::TooCostly,
    })?;
    let size = meter.size();
    let limit = load_limit(kind, 0, size);
    let most = limit
        .units
        .saturating_add(limit.per_item.saturating_mul(size));
    if size > document_size(kind) || units > most {
        return Err(DocError::TooCostly);
    }
    Ok(meter)
}

/// Whether all accounts of a snapshot are of users who can have written in the document: each of them makes a larger one legal.
pub(crate) fn accounts_are_of_members(ctx: &DocContext<'_>, tables: &Tables, epoch: u64) -> bool {
    let mut wanted: BTreeSet<&UserId> = tables.costs.keys().collect();
    let mut find = |device: &DeviceId| {
        if let Some(user) = ctx.authority.user_of(device, epoch) {
            wanted.remove(&user);
        }
        wanted.is_empty()
    };
    // Each device once, however many instances it has had, and no more of them than it takes.
    let mut next = tables.chains.keys().next().map(|author| author.device);
    while let Some(device) = next {
        if find(&device) {
            return true;
        }
        let last = Author {
            device,
            instance: InstanceId([u8::MAX; 8]),
        };
        let rest = tables
            .chains
            .range((Bound::Excluded(last), Bound::Unbounded));
        next = rest.map(|(author, _)| author.device).next();
    }
    let owners: BTreeSet<DeviceId> = tables.owners.values().map(|owner| owner.device).collect();
    owners.iter().any(find) || tables.costs.is_empty()
}

impl Content {
    /// Makes sure that there is a meter of the log so far. It knows nothing of own edits without a place there.
    pub(crate) fn ready_meter(&mut self) -> Result<(), CrdtError> {
        if self.meter.is_some() {
            return Ok(());
        }
        let mut meter = Meter::load(self.kind, self.checkpoint.crdt.as_slice())?;
        for entry in &self.tail {
            let Some(update) = &entry.update else {
                continue;
            };
            let mut read = self.crdt.inspect(update.as_slice())?;
            if meter.count(update.as_slice(), &mut read, ANY).is_err() {
                return Err(CrdtError::Engine);
            }
        }
        self.meter = Some(meter);
        Ok(())
    }

    /// As [`charge`], on the log so far.
    pub(crate) fn charge(
        &mut self,
        payer: &Payer<'_>,
        update: (&[u8], &mut Inspected),
        effect: &mut Effect,
    ) -> Result<(), RecordFault> {
        // It was made ready before any record was judged.
        let meter = self.meter.as_mut().ok_or(RecordFault::Content)?;
        charge(meter, self.kind, payer, update, effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is earned on the way is told by the length of the records.
    #[test]
    fn updates_take_no_longer_than_their_users_can_pay_for() {
        for (kind, one, all) in [
            (CrdtKind::Yjs, 104_857, 838_860),
            (CrdtKind::Automerge, 57_344, 2_097_152),
        ] {
            assert_eq!(judging_us(kind, 0, 3), 0);
            assert_eq!(judging_us(kind, 1, 3), one, "{kind}");
            assert_eq!(judging_us(kind, 1_000, 1), all, "{kind}");
        }
    }

    #[test]
    fn who_names_all_members_in_a_snapshot_may_spend_no_more_for_that() {
        let limit = |accounts: u64| {
            let mut tables = Tables::default();
            for user in 0..accounts {
                let mut id = [0; 32];
                id[..8].copy_from_slice(&user.to_be_bytes());
                let (balance, size) = (0, 1);
                tables.set_account(UserId(id), Account { balance, size });
            }
            load_limit(CrdtKind::Yjs, tables.costs.len(), 0).units
        };
        assert_eq!(limit(0), LOAD_UNITS);
        assert_eq!(limit(2), LOAD_UNITS + 2 * ACCOUNT_LOAD_UNITS);
        assert_eq!(limit(8), LOAD_UNITS + (1 << 26));
        assert_eq!(limit(500), limit(8));
    }
}

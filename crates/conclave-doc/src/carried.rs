//! Carried records: updates that a log has lost, as their authors signed them, in records of whoever still held them.
//!
//! A carried record is always legal, and all members judge it alike without knowing what was lost: it stands for the update in it, on the word
//! of its carrier that this belongs here, and on nobody's word but its author's as to what it says. Its keys come along, so it opens
//! without the root of the epoch in which it was written.

use conclave_crdt::{OpRange, ReplicaId};
use conclave_proto::record::{RECORD_LABEL, RECORD_VERSION, RecordBody, RecordHeader};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{Author, DeviceId, Hash, UserId};
use conclave_rules::actions::Action;
use conclave_rules::verify_signature;
use serde::{Deserialize, Serialize};

use crate::content::Plain;
use crate::context::DocContext;
use crate::payload::{CarriedPayload, Tables};
use crate::replica::judge_replicas;
use crate::seal::open_with;

/// Whose update a carried record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Carried {
    /// Id of the record that its author wrote.
    pub leaf: Hash,
    /// Its author.
    pub author: Author,
    /// Its epoch.
    pub epoch: u64,
}

impl Carried {
    /// Who wrote it, and their user, by the roster of the epoch in which they did.
    pub(crate) fn written_by(&self, ctx: &DocContext<'_>) -> Option<(Author, UserId)> {
        let row = ctx.row(&self.author.device, self.epoch)?;
        Some((self.author, row.user))
    }
}

/// Whose operations those of a carried record are: its author's device's, whoever carries them.
pub(crate) fn owner(by: &Carried, carrier: DeviceId) -> DeviceId {
    // Breakage: what is carried counts as the carrier's own.
    match crate::broken("carried-owner") {
        true => carrier,
        false => by.author.device,
    }
}

/// The rules for what a carried record would add: those for replica ids, for its author's device, and, where it has operations, that its
/// instance is not closed, unless its own device carries it. `tables` are those before it. What is known already does nothing, whoever comes
/// late with it; nor does a deletion, once more.
pub(crate) fn judge_operations(
    tables: &Tables,
    first_counter: u64,
    by: &Carried,
    carrier: DeviceId,
    ranges: &[OpRange],
) -> Result<Option<Vec<(ReplicaId, u64)>>, RecordFault> {
    let claims =
        judge_replicas(tables, first_counter, owner(by, carrier), ranges).map_err(|_| BAD)?;
    let chain = tables.chains.get(&by.author);
    let is_closed = chain.is_some_and(|chain| chain.closed);
    let adds = claims.as_ref().is_some_and(|claims| !claims.is_empty());
    if adds && is_closed && carrier != by.author.device {
        return Err(BAD);
    }
    Ok(claims)
}

/// What is wrong with what a carried record holds, whatever it is.
pub(crate) const BAD: RecordFault = RecordFault::Content;

/// Judges what is in a carried record, but for its operations (`docs/PROTOCOL.md`, Order of checks). Gives the update in it.
pub(crate) fn judge_carried(
    ctx: &DocContext<'_>,
    outer: &RecordHeader,
    payload: &[u8],
    voids_count: bool,
) -> Result<(Carried, Plain), RecordFault> {
    let CarriedPayload { record, keys } = CarriedPayload::from_bytes(payload).map_err(|_| BAD)?;
    let header = &record.header;
    let is_update = matches!(header.body, RecordBody::Update(_));
    let of_this_log = (header.group, header.document) == (outer.group, outer.document);
    if header.version != RECORD_VERSION || !is_update || !of_this_log {
        return Err(BAD);
    }
    let core = record.core();
    let by = Carried {
        leaf: record.leaf(),
        author: header.author,
        epoch: header.epoch,
    };
    if voids_count && ctx.authority.is_void(&header.document, &by.leaf) {
        return Err(BAD);
    }
    let row = ctx.row(&by.author.device, by.epoch).ok_or(BAD)?;
    if by.epoch > outer.epoch || !Action::WriteUpdate.allowed(row.role) {
        return Err(BAD);
    }
    // Breakage: whatever a carrier brings is taken for its author's.
    if !crate::broken("carried-signature") {
        verify_signature(row, RECORD_LABEL, &core.0, &record.sealed.signature).map_err(|_| BAD)?;
    }
    let plain = open_with(&record, &keys).map_err(|_| BAD)?;
    Ok((by, Plain::from(plain)))
}

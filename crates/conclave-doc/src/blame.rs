//! Who wrote what a document shows, and what proves it.

use std::collections::{BTreeSet, HashMap};

use conclave_crdt::{AttributedValue, ReplicaId, Run, Stretch, Writers};
use conclave_proto::{DeviceId, Hash, UserId};

use crate::checks::Checks;
use crate::claims::Claim;
use crate::context::DocContext;
use crate::document::Document;
use crate::error::DocError;
use crate::log::LogView;
use crate::outbox::Outbox;
use crate::state::LogState;

/// Who wrote characters or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Writer {
    /// The author of this record, whose signature this device checked.
    Proven(ByRecord),
    /// The author of this record, on the word of whoever made the snapshot from which this device opened the document.
    OnWordOf {
        /// Who made it.
        snapshot_author: UserId,
        /// Whose the replica id is, as the snapshot says.
        device: DeviceId,
        /// The record, where the snapshot tells it.
        record: Option<ByRecord>,
    },
    /// This device, in an edit that has no place in the log yet.
    Unsent,
    /// Nobody can prove it: the log does not say who may write under its replica id, or has lost the edit.
    Unknown,
}

/// The record that brought an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByRecord {
    /// The device that wrote it.
    pub device: DeviceId,
    /// Position in the document's log.
    pub seq: u64,
    /// The record's id, where the log is known there.
    pub id: Option<Hash>,
    /// Its epoch; of what was carried: that of the record that carries it.
    pub epoch: Option<u64>,
    /// Who carried it into the log, where that was another device.
    pub carrier: Option<DeviceId>,
}

/// The text or the values of a document, and who wrote them.
#[derive(Clone, PartialEq)]
pub struct Blame {
    /// Who wrote: runs and values name them by their place in this list.
    pub writers: Vec<Writer>,
    /// What they wrote.
    pub shown: Shown,
}

/// What is shown, with who wrote which part.
#[derive(Clone, PartialEq)]
pub enum Shown {
    /// The text.
    Text {
        /// All of it.
        text: String,
        /// Its runs, in text order.
        runs: Vec<Run>,
    },
    /// The values.
    Values {
        /// All of them, as one object.
        json: serde_json::Value,
        /// Each by its place.
        values: Vec<AttributedValue>,
    },
}

impl std::fmt::Debug for Blame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Blame").field(&self.writers).finish()
    }
}

/// Which view of a document is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum View {
    /// The text.
    Text,
    /// The values.
    Values,
}

/// Who wrote what a record brought, where what lies before a position rests on somebody's word. What others had written before the document began is in it on
/// its founder's, where that one is known.
pub(crate) fn judged(
    rests: Option<(u64, UserId)>,
    founder: impl FnOnce() -> Option<UserId>,
    record: ByRecord,
) -> Writer {
    let on_word = |snapshot_author| Writer::OnWordOf {
        snapshot_author,
        device: record.device,
        record: Some(record),
    };
    match rests {
        Some((from, author)) if record.seq < from => on_word(author),
        _ if record.seq == 0 && record.carrier.is_some() => {
            founder().map_or(Writer::Unknown, on_word)
        }
        _ => Writer::Proven(record),
    }
}

/// What tells whose an operation is.
pub(crate) struct Known<'a> {
    pub(crate) state: &'a LogState,
    pub(crate) log: &'a LogView,
    /// The replica ids of own edits that are not in the log.
    unsent: BTreeSet<ReplicaId>,
    /// Whose word it is what lies before a position, where this device did not judge all records.
    rests: Option<(u64, UserId)>,
    context: &'a DocContext<'a>,
    numbers: HashMap<Writer, u32>,
    writers: Vec<Writer>,
}

impl<'a> Known<'a> {
    pub(crate) fn new(
        state: &'a LogState,
        log: &'a LogView,
        outbox: &Outbox,
        checks: &Checks,
        context: &'a DocContext<'a>,
    ) -> Self {
        let base = checks.ground.base();
        Self {
            state,
            log,
            unsent: outbox.replicas(),
            rests: base.map(|base| (base.from, base.author)),
            context,
            numbers: HashMap::new(),
            writers: Vec::new(),
        }
    }

    /// Those who were given a number, in that order.
    pub(crate) fn into_writers(self) -> Vec<Writer> {
        self.writers
    }

    pub(crate) fn number(&mut self, writer: Writer) -> u32 {
        let next = u32::try_from(self.writers.len()).unwrap_or(u32::MAX);
        *self.numbers.entry(writer).or_insert_with(|| {
            self.writers.push(writer);
            next
        })
    }

    /// Who wrote a record of which this is told.
    pub(crate) fn judged(&self, record: ByRecord) -> Writer {
        judged(self.rests, || self.founder(record.carrier?), record)
    }

    /// Who founded the document with what others had written.
    fn founder(&self, device: DeviceId) -> Option<UserId> {
        let epoch = self.state.claims.as_ref()?.known().epoch_at(0)?;
        self.context.authority.user_of(&device, epoch)
    }

    /// Who wrote an operation, and up to which counter.
    pub(crate) fn who(&self, replica: &ReplicaId, counter: u64) -> (Writer, u64) {
        let owner = self.state.tables.owners.get(replica);
        let Some(owner) = owner.filter(|owner| counter < owner.next) else {
            let writer = match self.unsent.contains(replica) {
                true => Writer::Unsent,
                false => Writer::Unknown,
            };
            return (writer, u64::MAX);
        };
        let claims = self.state.claims.as_ref().map(|claims| claims.known());
        let claim = claims.and_then(|claims| claims.find(replica, counter));
        let record = |claim: Claim| ByRecord {
            device: owner.device,
            seq: claim.seq,
            id: self.log.leaf_at(claim.seq),
            epoch: claims.and_then(|claims| claims.epoch_at(claim.seq)),
            carrier: claim.carrier,
        };
        // Of what follows more may be known.
        let known_from = claims.and_then(|claims| claims.known_from(replica, counter));
        let end = claim.map_or(known_from.unwrap_or(owner.next), |claim| claim.end);
        let writer = match (claim, self.rests) {
            (None, None) => Writer::Unknown,
            (None, Some((_, snapshot_author))) => Writer::OnWordOf {
                snapshot_author,
                device: owner.device,
                record: None,
            },
            (Some(claim), _) => self.judged(record(claim)),
        };
        (writer, end)
    }
}

impl Writers for Known<'_> {
    fn writer(&mut self, replica: &ReplicaId, counter: u64) -> Stretch {
        let (writer, end) = self.who(replica, counter);
        Stretch {
            writer: self.number(writer),
            end,
        }
    }
}

impl Document {
    /// Who wrote what the document shows, down to single characters and values, own edits that are not in the log yet included. Takes time in proportion to
    /// the document.
    ///
    /// # Errors
    /// [`DocError::Crdt`] where the document does not show itself so.
    pub fn blame(&mut self, ctx: &DocContext<'_>, view: View) -> Result<Blame, DocError> {
        self.collect_edits()?;
        let mut known = Known::new(&self.state, &self.log, &self.outbox, &self.checks, ctx);
        let crdt = self.content.crdt.as_mut();
        let refused = || DocError::Crdt(conclave_crdt::CrdtError::InvalidArgument);
        let shown = match view {
            View::Text => {
                let text = crdt.text().ok_or_else(refused)?.text()?;
                let attribution = crdt.attribution().ok_or_else(refused)?;
                let runs = attribution.of_text(&mut known)?;
                Shown::Text { text, runs }
            }
            View::Values => {
                let json = crdt.json().ok_or_else(refused)?.to_json()?;
                let attribution = crdt.attribution().ok_or_else(refused)?;
                let values = attribution.of_values(&mut known)?;
                Shown::Values { json, values }
            }
        };
        Ok(Blame {
            writers: known.writers,
            shown,
        })
    }
}

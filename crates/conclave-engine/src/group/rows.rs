//! What of a group is in the store, and how it is read.

use conclave_doc::{Basis, ByRecord, Writer};

use super::*;
use crate::document::StuckRow;

/// How far a document has come on this device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DocStage {
    /// Made here and not yet accepted by the service.
    Creating {
        /// The first snapshot was refused for good: the next one is another.
        remake: bool,
    },
    /// The group's log lists it.
    #[default]
    Listed,
    /// It was opened here, and its rows are in the store: what its row says of the roots that it needs counts.
    Here,
}

/// What is known of a document without opening it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct DocRow {
    pub(crate) stage: DocStage,
    /// Code of its CRDT kind, once it was opened here.
    pub(crate) crdt: u8,
    /// Every root of an older epoch is needed.
    pub(crate) all_below: u64,
    /// And the roots of these epochs.
    pub(crate) needed: BTreeSet<u64>,
    /// Newest epoch in which it was seen to be re-keyed.
    pub(crate) rekeyed: u64,
    /// Records that are here.
    pub(crate) size: u64,
    /// The log holds no further record of an epoch below this one.
    pub(crate) complete: u64,
    /// The epoch whose root is missing, where that is why the document cannot be read on.
    #[serde(default)]
    pub(crate) missing: Option<u64>,
    /// When its newest record came here, to the minute.
    #[serde(default)]
    pub(crate) changed: UnixMs,
    /// Its last change, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<LastRow>,
    /// Generation of the service in which that came; zero where none has come.
    #[serde(default)]
    pub(crate) grown_in: u64,
    /// Title that the directory has not taken yet.
    pub(crate) title: Option<Hidden<String>>,
    /// How many own edits have no place in the log yet; none where that was not counted.
    #[serde(default)]
    pub(crate) unsent: Option<u64>,
    /// What is kept of its log to be returned, in bytes.
    #[serde(default)]
    pub(crate) kept: u64,
    /// On what it rests here, unless that was checked here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) basis: Option<Basis>,
    /// Where work on it was stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stuck: Option<StuckRow>,
    /// Who closed it, while own edits in it are still to be kept apart.
    #[serde(default)]
    pub(crate) closed_by: Option<UserId>,
}

/// Who made a document's last change, on whose word, and who carried it.
pub(crate) type LastBy = (DeviceId, Option<UserId>, Option<DeviceId>);

/// The last change of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastRow {
    pub(crate) device: DeviceId,
    pub(crate) seq: u64,
    pub(crate) epoch: Option<u64>,
    pub(crate) carrier: Option<DeviceId>,
    /// On whose word it is, where that was not checked here.
    pub(crate) word_of: Option<UserId>,
    /// When it came here, to the minute.
    pub(crate) received: UnixMs,
}

impl LastRow {
    fn of(writer: Writer, received: UnixMs) -> Option<Self> {
        let (record, word_of) = match writer {
            Writer::Proven(record) => (record, None),
            Writer::OnWordOf {
                snapshot_author,
                record: Some(record),
                ..
            } => (record, Some(snapshot_author)),
            Writer::OnWordOf { record: None, .. } | Writer::Unsent | Writer::Unknown => {
                return None;
            }
        };
        Some(Self {
            device: record.device,
            seq: record.seq,
            epoch: record.epoch,
            carrier: record.carrier,
            word_of,
            received,
        })
    }

    /// Who made it.
    pub(crate) fn writer(&self) -> Writer {
        let record = ByRecord {
            device: self.device,
            seq: self.seq,
            id: None,
            epoch: self.epoch,
            carrier: self.carrier,
        };
        match self.word_of {
            Some(snapshot_author) => Writer::OnWordOf {
                snapshot_author,
                device: self.device,
                record: Some(record),
            },
            None => Writer::Proven(record),
        }
    }
}

impl DocRow {
    fn read(value: &[u8]) -> Result<Self, EngineError> {
        keys::uncbor("document index", value)
    }

    /// Follows who made the last change. One after those that are known has come at this time; any other has not come now.
    pub(crate) fn follow_last(&mut self, writer: Option<Writer>, came: UnixMs) {
        let known = self.last.as_ref().map(|last| (last.seq, last.received));
        self.last = writer.and_then(|writer| LastRow::of(writer, came));
        if let (Some(last), Some((seq, received))) = (&mut self.last, known)
            && last.seq <= seq
        {
            last.received = received;
        }
    }

    /// Who made the last change, and what is to be said of that.
    pub(crate) fn last_by(&self) -> Option<LastBy> {
        let last = self.last.as_ref();
        last.map(|last| (last.device, last.word_of, last.carrier))
    }

    pub(crate) fn is_creating(&self) -> bool {
        matches!(self.stage, DocStage::Creating { .. })
    }

    /// Whether its rows are in the store.
    pub(crate) fn is_local(&self) -> bool {
        self.stage != DocStage::Listed
    }

    /// On what it rests here, where it was opened.
    pub(crate) fn basis(&self) -> Option<Basis> {
        let basis = self.basis.clone().unwrap_or(Basis::Checked);
        (self.stage == DocStage::Here).then_some(basis)
    }

    /// The title that the directory has not taken yet.
    pub(crate) fn title(&self) -> Option<String> {
        self.title.as_ref().map(|title| title.0.clone())
    }
}

impl Group {
    /// Rows by sub-table.
    pub(super) fn tables(rows: Vec<Row>) -> BTreeMap<u8, Vec<Row>> {
        let skip = 1 + GroupId::LEN;
        let mut tables: BTreeMap<u8, Vec<Row>> = BTreeMap::new();
        for (key, value) in rows {
            if let Some((table, rest)) = key.get(skip..).and_then(<[u8]>::split_first) {
                tables
                    .entry(*table)
                    .or_default()
                    .push((rest.to_vec(), value));
            }
        }
        tables
    }

    pub(super) fn load(
        id: GroupId,
        rows: Vec<Row>,
        membership: Membership,
    ) -> Result<Self, EngineError> {
        let mut tables = Self::tables(rows);
        let mut take = |table: u8| tables.remove(&table).unwrap_or_default();
        let scratch = take(keys::group::SCRATCH);
        let mls = match ClientGroup::load(take(keys::group::MLS)) {
            // A return is on its way whose MLS rows were lost: the scratch state says what is publicly known.
            Err(_) if !scratch.is_empty() => ClientGroup::load(scratch.clone())?,
            mls => mls?,
        };
        let mut group = Self::new(id, mls, membership);
        group.load_tables(&mut take);
        group.returning.load(scratch);
        Ok(group)
    }

    /// Everything but MLS state. A row that cannot be read is left out: the others are of use without it.
    pub(super) fn load_tables(&mut self, take: &mut impl FnMut(u8) -> Vec<Row>) {
        let mut before = Before::default();
        for table in [
            keys::group::ROOT,
            keys::group::SECRETS,
            keys::group::INTENT,
            keys::group::DOCUMENT,
            keys::group::OUTBOX,
            keys::group::HEAD,
            keys::group::PAST,
            keys::group::META,
        ] {
            for (key, value) in take(table) {
                if let Err(error) = self.load_row(table, &key, &value, &mut before) {
                    self.damaged.push(error);
                    if table == keys::group::META {
                        // Whether this device may seal is not known any more.
                        self.membership = Membership::state_lost();
                    }
                }
            }
        }
        if let Some(membership) = before.membership() {
            self.membership = membership;
        }
        self.rotation = self.meta.rotation;
        self.report_again();
    }

    fn load_row(
        &mut self,
        table: u8,
        key: &[u8],
        value: &[u8],
        before: &mut Before,
    ) -> Result<(), EngineError> {
        match table {
            keys::group::ROOT => {
                let what = "epoch root";
                let epoch = key.try_into().map(u64::from_be_bytes);
                let epoch = epoch.map_err(|_| EngineError::Store { what })?;
                let row: RootRow = keys::uncbor(what, value)?;
                self.root_times.insert(epoch, row.since);
                self.roots.0.insert(epoch, row.root);
                if let Some(from) = row.from {
                    self.roots.1.came_from(epoch, from);
                }
            }
            keys::group::SECRETS => self.secrets = Some(keys::uncbor("epoch secrets", value)?),
            keys::group::INTENT => {
                let row: IntentRow = keys::uncbor("intent", value)?;
                self.intents.insert(row.id, Intent::from_row(row));
            }
            keys::group::DOCUMENT => {
                let what = "document index";
                let document = DocumentId::from_slice(key).ok_or(EngineError::Store { what })?;
                let row = DocRow::read(value)?;
                if row.title.is_some() {
                    self.titles_due.insert(document);
                }
                self.documents.insert(document, row);
            }
            keys::group::OUTBOX => match key {
                b"commit" => self.inflight = Some(keys::uncbor("commit", value)?),
                b"return" => self.returning.bundle = Some(keys::uncbor("return", value)?),
                _ => before.creation = Some(keys::uncbor("group creation", value)?),
            },
            keys::group::HEAD => {
                let what = "signed head";
                let log = crate::service::log_of(key).ok_or(EngineError::Store { what })?;
                self.heads.insert(log, ShownHead::read(value)?);
            }
            keys::group::PAST => self.past = Past::read(value)?,
            keys::group::META => {
                self.meta = keys::uncbor("group flags", value)?;
                before.flags = keys::uncbor("group flags", value)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// What a group's rows say of its documents, and its roots: for a group whose MLS rows cannot be read.
    pub(crate) fn holdings(rows: &[Row]) -> (BTreeMap<DocumentId, DocRow>, Roots) {
        let mut tables = Self::tables(rows.to_vec());
        let mut documents = BTreeMap::new();
        for (key, value) in tables.remove(&keys::group::DOCUMENT).unwrap_or_default() {
            if let (Some(id), Ok(row)) = (DocumentId::from_slice(&key), DocRow::read(&value)) {
                documents.insert(id, row);
            }
        }
        let mut roots = Roots::default();
        for (key, value) in tables.remove(&keys::group::ROOT).unwrap_or_default() {
            if let (Ok(epoch), Ok(row)) = (
                key.as_slice().try_into().map(u64::from_be_bytes),
                keys::uncbor::<RootRow>("epoch root", &value),
            ) {
                roots.0.insert(epoch, row.root);
            }
        }
        (documents, roots)
    }

    /// What is durable of it, as it prints.
    pub(crate) fn durable(&self) -> String {
        let intents: Vec<&u64> = self.intents.keys().collect();
        let rows = self.documents.iter().map(|(id, row)| {
            // Its size is stored now and then only.
            (
                id,
                row.stage,
                &row.needed,
                row.all_below,
                row.rekeyed,
                row.unsent,
            )
        });
        let rows: Vec<_> = rows.collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {intents:?} {rows:?}",
            self.id, self.membership, self.meta, self.mls, self.root_times
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(device: u8, seq: u64) -> Option<Writer> {
        Some(Writer::Proven(ByRecord {
            device: DeviceId([device; 16]),
            seq,
            id: None,
            epoch: None,
            carrier: None,
        }))
    }

    #[test]
    fn a_change_came_when_it_came_also_where_the_one_after_it_is_void() {
        let mut row = DocRow::default();
        let mut follow = |writer, came| {
            row.follow_last(writer, UnixMs(came));
            let last = row.last.as_ref();
            last.map(|last| (last.device.0[0], last.seq, last.received.0))
        };
        assert_eq!(follow(written(1, 4), 60), Some((1, 4, 60)));
        assert_eq!(follow(written(1, 4), 120), Some((1, 4, 60)));
        assert_eq!(follow(written(2, 6), 180), Some((2, 6, 180)));
        // The newest became void.
        assert_eq!(follow(written(1, 4), 240), Some((1, 4, 180)));
        assert_eq!(follow(None, 300), None);
    }

    #[test]
    fn on_whose_word_it_is_and_who_carried_it_is_part_of_who_wrote_last() {
        let mut row = DocRow::default();
        row.follow_last(written(1, 4), UnixMs(0));
        let by = row.last_by();
        if let Some(last) = &mut row.last {
            last.word_of = Some(UserId([3; 32]));
        }
        assert_ne!(row.last_by(), by);
    }
}

//! Documents of a session: their records opened, their content made again.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use conclave_crdt::{Crdt, CrdtKind, ReplicaId, load};
use conclave_doc::{DocKeys, SnapshotPayload, VerdictPayload, open};
use conclave_identity::{DeviceKey, verify};
use conclave_mls::EpochRoot;
use conclave_proto::record::{RECORD_LABEL, Record, RecordBody};
use conclave_proto::{DocumentId, Frontier};

use super::{Content, Entry, Epoch, Hex, Keys, Person};

/// Roots by epoch.
pub(super) struct Roots(BTreeMap<u64, EpochRoot>);

impl Roots {
    pub(super) fn of(epochs: &[Epoch]) -> Result<Self> {
        let root = |it: &Epoch| Ok((it.epoch, EpochRoot::new(it.epoch_root.exactly()?)));
        Ok(Self(epochs.iter().map(root).collect::<Result<_>>()?))
    }

    pub(super) fn get(&self, epoch: u64) -> Result<&EpochRoot> {
        let root = self.0.get(&epoch);
        root.with_context(|| format!("no root of epoch {epoch}"))
    }
}

/// What a document's log says: each record's signature checked, opened by the root of its epoch, and applied.
pub(super) fn content(
    what: &str,
    document: DocumentId,
    kind: CrdtKind,
    records: &[Record],
    people: &[Person],
    roots: &Roots,
) -> Result<Content> {
    let mut frontier = Frontier::new();
    let mut keys: BTreeMap<u64, Keys> = BTreeMap::new();
    let mut entries = Vec::new();
    let mut crdt: Option<Box<dyn Crdt>> = None;
    for record in records {
        let header = &record.header;
        ensure!(header.document == document, "a record of another document");
        let by = people
            .iter()
            .find(|it| it.device.0 == header.author.device.as_bytes());
        let by = by.context("a stranger's record")?;
        let key = DeviceKey::from_bytes(&by.device_seed.exactly()?).public();
        verify(
            &key,
            RECORD_LABEL,
            &record.core().0,
            &record.sealed.signature,
        )?;
        let root = roots.get(header.epoch)?;
        keys.entry(header.epoch).or_insert_with(|| Keys {
            epoch: header.epoch,
            content_key: Hex::of(root.content_key(&document).as_bytes()),
            commit_key: Hex::of(root.commit_key(&document).as_bytes()),
        });
        let payload = open(record, &DocKeys::derive(root, &document));
        let payload = payload.map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
        let named = match header.body {
            RecordBody::Snapshot(_) => {
                let snapshot = SnapshotPayload::from_bytes(&payload)?;
                let mut loaded = load(kind, &snapshot.state, replica(kind)?)?;
                match &mut crdt {
                    None => crdt = Some(loaded),
                    Some(known) => ensure!(
                        known.content_digest()? == loaded.content_digest()?,
                        "a snapshot of something else"
                    ),
                }
                "snapshot"
            }
            RecordBody::Update(_) => {
                let crdt = crdt
                    .as_mut()
                    .context("an update before the first snapshot")?;
                crdt.apply(&[payload.as_slice()])?;
                "update"
            }
            RecordBody::Verdict(_) => {
                VerdictPayload::from_bytes(&payload)?;
                "verdict"
            }
            _ => bail!("a record of another kind"),
        };
        entries.push(Entry {
            seq: frontier.size(),
            by: by.name.clone(),
            epoch: header.epoch,
            kind: named.to_owned(),
            leaf: Hex::of(record.leaf().0),
            payload: Hex::of(payload.as_slice()),
        });
        frontier.push(record.leaf());
    }
    let mut crdt = crdt.context("an empty log")?;
    Ok(Content {
        what: what.to_owned(),
        document: Hex::of(document.as_bytes()),
        crdt: kind as u8,
        keys: keys.into_values().collect(),
        records: entries,
        root: Hex::of(frontier.root().0),
        text: crdt.text().context("no text")?.text()?,
        json: crdt.json().context("no JSON")?.to_json()?,
    })
}

/// A replica that writes nothing.
fn replica(kind: CrdtKind) -> Result<ReplicaId> {
    Ok(ReplicaId::for_kind(kind, [0x99; 16]))
}

/// The kind of a code.
pub(super) fn kind_of(code: u8) -> Result<CrdtKind> {
    match code {
        1 => Ok(CrdtKind::Yjs),
        2 => Ok(CrdtKind::Automerge),
        _ => bail!("no kind {code}"),
    }
}

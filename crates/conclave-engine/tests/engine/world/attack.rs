//! What members do with the keys in their stores who follow none of the rules about snapshots.

use conclave_crdt::{CrdtKind, ReplicaId, load};
use conclave_doc::{
    DocKeys, Judgement, LogView, SNAPSHOT_VERSION, SnapshotPayload, VERDICT_VERSION,
    VerdictPayload, open, seal,
};
use conclave_mls::EpochRoot;
use conclave_proto::codec::Tail;
use conclave_proto::frame::{AppendedRecord, DeliveredRecord};
use conclave_proto::merkle::Frontier;
use conclave_proto::record::{Chained, RECORD_VERSION, Record, RecordBody, RecordHeader};
use conclave_proto::{Author, Hash, InstanceId};
use zeroize::Zeroizing;

use super::*;
use crate::forge::device_key;

/// Where a device has a document open: for whoever speaks in its name.
#[derive(Debug, Clone, Copy)]
pub struct Channel {
    request: u64,
    instance: InstanceId,
    number: Option<Varint>,
}

#[derive(serde::Deserialize)]
struct RootRow {
    root: EpochRoot,
}

impl World {
    /// A device asks to open a document.
    pub(super) fn note_asked(&mut self, at: usize, frame: &ClientFrame) {
        if let ClientFrame::Request {
            id,
            body: Request::OpenDocument {
                document, instance, ..
            },
        } = frame
        {
            let channel = Channel {
                request: id.0,
                instance: *instance,
                number: None,
            };
            self.channels.insert((at, *document), channel);
        }
    }

    /// The service has opened it.
    pub(super) fn note_opened(&mut self, at: usize, frame: &ServiceFrame) {
        if let ServiceFrame::Response {
            id,
            answer: Answer::Opened(opened),
        } = frame
        {
            let mut of_device = self.channels.iter_mut().filter(|((who, _), _)| *who == at);
            if let Some((_, channel)) = of_device.find(|(_, it)| it.request == id.0) {
                channel.number = Some(opened.channel);
            }
        }
    }

    /// What the service shows a device of records, where it gives one of them only by its leaf.
    pub(super) fn withheld(&self, at: usize, mut frame: ServiceFrame) -> ServiceFrame {
        let records = match &mut frame {
            ServiceFrame::Deliver { records, .. } => &mut records.0,
            ServiceFrame::Response {
                answer: Answer::Records { records, .. },
                ..
            } => records,
            _ => return frame,
        };
        for given in records {
            if let DeliveredRecord::Whole { record, .. } = given
                && self.withholds == Some((at, record.leaf()))
            {
                *given = DeliveredRecord::Leaf(record.leaf());
            }
        }
        frame
    }

    /// What the service delivers to a device, where it alters one record of it.
    pub(super) fn altered(&mut self, at: usize, mut frame: ServiceFrame) -> ServiceFrame {
        let Some((_, document)) = self.alters.filter(|(who, _)| *who == at) else {
            return frame;
        };
        let number = self.channels.get(&(at, document)).and_then(|it| it.number);
        if let ServiceFrame::Deliver {
            channel, records, ..
        } = &mut frame
            && Some(*channel) == number
            && let Some(DeliveredRecord::Update(elided)) = records.0.get_mut(1)
        {
            let mut bytes = elided.sealed.ciphertext.as_slice().to_vec();
            bytes[0] ^= 1;
            elided.sealed.ciphertext = bytes.into();
            self.alters = None;
        }
        frame
    }

    fn doc_keys(&self, at: usize, group: &GroupId, document: &DocumentId, epoch: u64) -> DocKeys {
        let key = [&[4], group.as_bytes(), b"r", &epoch.to_be_bytes()[..]].concat();
        let row = &self.devices[at].rows.0[key.as_slice()];
        let row: RootRow = ciborium::from_reader(row.as_slice()).unwrap();
        DocKeys::derive(&row.root, document)
    }

    /// The same snapshot with words in its state that nobody wrote.
    pub(super) fn forged(&mut self, at: usize, record: &Record) -> Record {
        let header = record.header;
        let keys = self.doc_keys(at, &header.group, &header.document, header.epoch);
        let mut payload = SnapshotPayload::from_bytes(&open(record, &keys).unwrap()).unwrap();
        let kind = CrdtKind::Yjs;
        let mut crdt = load(kind, &payload.state, ReplicaId::for_kind(kind, [88; 16])).unwrap();
        crdt.text().unwrap().splice(0, 0, "forged ").unwrap();
        crdt.take_pending(&mut vec![]).unwrap();
        payload.state = Zeroizing::new(crdt.snapshot().unwrap());
        let key = device_key(&self.devices[at].rows);
        let keys = match self.unreadable {
            true => DocKeys::derive(&EpochRoot::new([9; 32]), &header.document),
            false => keys,
        };
        let mut bytes = payload.to_bytes();
        if self.newer {
            bytes[..2].copy_from_slice(&(SNAPSHOT_VERSION + 1).to_be_bytes());
        }
        seal(&header, &bytes, &keys, &key, 1, &mut self.lots)
    }

    /// A device says something of the newest snapshot of a document, whatever it thinks of it.
    pub fn claim(&mut self, at: usize, group: GroupId, document: DocumentId, what: Judgement) {
        let records = self.service.records(&group, &document);
        let mut log = LogView::new(Frontier::new());
        records.iter().for_each(|record| log.push(record.leaf()));
        let mut newest = records.iter().rev();
        let is_snapshot = |it: &&Record| matches!(it.header.body, RecordBody::Snapshot(_));
        let snapshot = newest.find(is_snapshot).unwrap().leaf();
        let channel = self.channels[&(at, document)];
        let author = Author {
            device: self.devices[at].id,
            instance: channel.instance,
        };
        let mut own = records.iter().filter(|it| it.header.author == author);
        let last = own.rfind(|it| it.header.body.chained().is_some());
        let chained = last.map_or(
            Chained {
                clock: 0,
                prev: Hash::ZERO,
            },
            |it| Chained {
                clock: it.header.body.chained().unwrap().clock + 1,
                prev: it.leaf(),
            },
        );
        let epoch = self.state(group).epoch;
        let seen = log.head();
        let header = RecordHeader {
            version: RECORD_VERSION,
            group,
            document,
            epoch,
            author,
            seen,
            body: RecordBody::Verdict(chained),
        };
        let keys = self.doc_keys(at, &group, &document, epoch);
        let mut payload = VerdictPayload::new(snapshot, 0, what).to_bytes();
        if self.newer {
            payload[0] = VERDICT_VERSION + 1;
        }
        let key = device_key(&self.devices[at].rows);
        let record = seal(&header, &payload, &keys, &key, 1, &mut self.lots);
        let mut seen_hint = [0; 8];
        seen_hint.copy_from_slice(&seen.root.as_bytes()[..8]);
        let frame = ClientFrame::Append {
            channel: channel.number.unwrap(),
            epoch: Varint(epoch),
            first_clock: Varint(chained.clock),
            records: Tail(vec![AppendedRecord {
                kind: header.body.kind_code(),
                seen_size: Varint(seen.size),
                seen_hint,
                sealed: record.sealed,
            }]),
        };
        let conn = self.devices[at].conn.unwrap();
        self.serve(at, conn, frame);
        let now = self.service.records(&group, &document).len();
        assert_eq!(now, records.len() + 1, "seed {}: it is taken", self.seed);
    }
}

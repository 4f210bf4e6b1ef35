//! Snapshots on their way from a connection to the writer.

use std::sync::Arc;

use bytes::Bytes;
use conclave_order::op::snapshot;
use conclave_order::op::snapshot::{PutSnapshot, Written, check, check_header, judge};
use conclave_order::{Event, Keys, Op, Rows, Stop};
use conclave_proto::Head;
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{Answer, ServiceFrame};
use conclave_proto::record::{Record, RecordHeader};
use conclave_rules::Place;

use super::Document;
use super::publish::publish_snapshot;
use crate::error::OpError;
use crate::group::Group;
use crate::hub::Conn;

/// Where a snapshot came from.
pub(crate) struct SnapshotFrom {
    document: Arc<Document>,
    pub(crate) conn: Arc<Conn>,
    request: Varint,
}

impl SnapshotFrom {
    /// Answers the request once the snapshot is durable, in the log's order where the connection has the document open.
    pub(crate) fn tell(&self, event: &Event) {
        match event {
            Event::Snapshot(new) => {
                let frame = self.frame(new.seq, new.head);
                if !publish_snapshot(&self.document, new, self.conn.id, &frame) {
                    self.conn.outbox.push(frame);
                }
            }
            Event::Known { seq, head } => self.conn.outbox.push(self.frame(*seq, *head)),
            // Whoever asks is answered.
            _ => {}
        }
    }

    fn frame(&self, seq: u64, head: Head) -> Bytes {
        Bytes::from(encode(&ServiceFrame::Response {
            id: self.request,
            answer: Answer::Accepted { seq, head },
        }))
    }
}

/// Takes a snapshot and answers the request, in the log's order where the connection has the document open.
pub(crate) async fn put(
    group: &Group,
    document: &Arc<Document>,
    conn: &Arc<Conn>,
    record: Record,
    request: Varint,
) -> Result<(), OpError> {
    let env = &document.env;
    let id = (document.log, record.leaf());
    let mut keys = Keys::default();
    keys.snapshots.insert(id);
    snapshot::keys(&record.header, &mut keys);
    let mut rows = Rows::default();
    env.load(&keys, &mut rows).await?;
    if let Some(at) = rows.snapshot(&id)? {
        let answer = Answer::Accepted {
            seq: at.seq,
            head: at.head,
        };
        conn.outbox
            .send_frame(&ServiceFrame::Response {
                id: request,
                answer,
            })
            .await;
        return Ok(());
    }
    let view = group.view();
    let at = Place::of_device(&*view, &conn.device, &record.header)?;
    check(&record, &at)?;
    let written = written(document, &record.header, &at).await?;
    let has_news = has_news(document, &record.header, &written, rows).await?;
    let now = env.clock.now();
    if !has_news {
        env.snapshots.take((conn.user, document.log), 1, now)?;
    }
    let op = PutSnapshot {
        device: conn.device,
        written,
        record: Arc::new(record),
        paid: !has_news,
        now,
    };
    let from = SnapshotFrom {
        document: document.clone(),
        conn: conn.clone(),
        request,
    };
    let op = Op::PutSnapshot(Box::new(op));
    Ok(env.writer.snapshot(op, from).await?)
}

/// Judges a snapshot of which only the header has come yet, so that nobody uploads what is refused anyway.
pub(crate) async fn judge_early(
    group: &Group,
    document: &Document,
    conn: &Conn,
    header: &RecordHeader,
) -> Result<(), OpError> {
    let view = group.view();
    let at = Place::of_device(&*view, &conn.device, header)?;
    check_header(header, &at)?;
    let written = written(document, header, &at).await?;
    // With this very header it is there already: then it is answered once it has come whole.
    let key = (document.log, encode(header));
    let mut keys = Keys::default();
    keys.headers.insert(key.clone());
    snapshot::keys(header, &mut keys);
    let mut rows = Rows::default();
    document.env.load(&keys, &mut rows).await?;
    if rows.with_header(&key)?.is_some() || has_news(document, header, &written, rows).await? {
        return Ok(());
    }
    let now = document.env.clock.now();
    Ok(document
        .env
        .snapshots
        .has((conn.user, document.log), 1, now)?)
}

async fn written(
    document: &Document,
    header: &RecordHeader,
    at: &Place<'_>,
) -> Result<Written, OpError> {
    let seen = document.has_seen(header).await?;
    let row = at.row.cloned();
    let row = row.ok_or(at.answer(conclave_proto::refusal::RecordFault::NotMember))?;
    Ok(Written { row, seen })
}

/// Judges a snapshot by its header, against what is durable. Gives whether it has news.
async fn has_news(
    document: &Document,
    header: &RecordHeader,
    written: &Written,
    mut rows: Rows,
) -> Result<bool, OpError> {
    loop {
        match judge(header, written, &rows) {
            Ok(fits) => return Ok(fits.has_news),
            Err(Stop::Lacks(keys)) => document.env.load(&keys, &mut rows).await?,
            Err(stop) => return Err(stop.into()),
        }
    }
}

//! Opening a document, and reading whole records of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use conclave_order::query::document::{Base, Stretch, base, ensure_readable, whole_records};
use conclave_order::{Keys, Reader, Rows};
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{Answer, BaseSnapshot, OpenedDocument, ServiceFrame};
use conclave_proto::{Author, Hash, InstanceId, Refusal};

use super::channel::Channel;
use super::{Document, Listener, history};
use crate::error::OpError;
use crate::group::Group;
use crate::hub::Conn;
use crate::limits;

/// What a client asks to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) instance: InstanceId,
    pub(crate) from: Option<u64>,
}

/// Opens a document on a connection: answers the request, then delivers. An already open channel of the document is replaced.
pub(crate) async fn open(
    conn: &Arc<Conn>,
    group: &Arc<Group>,
    document: &Arc<Document>,
    opening: Opening,
    request: Varint,
) -> Result<(), OpError> {
    let author = Author {
        device: conn.device,
        instance: opening.instance,
    };
    let (chain, losses) = {
        let key = (document.log, author);
        let mut keys = Keys::default();
        keys.documents.insert(document.log);
        keys.authors.insert(key);
        keys.losses.insert(document.log);
        let mut rows = Rows::default();
        document.env.load(&keys, &mut rows).await?;
        ensure_readable(rows.document(&document.log)?)?;
        let row = rows.author(&key)?;
        let chain = row.map_or((0, Hash::ZERO), |row| (row.next_clock, row.last_leaf));
        (chain, rows.losses_of(&document.log)?.cloned())
    };
    document.catch_up().await?;
    let (channel, mut opened) = {
        let mut live = document.live();
        let signed = document.sign(&mut live);
        let active = live.active;
        let base = opening.from.is_none().then_some(Base {
            seq: active.seq,
            covered: active.covered,
        });
        let channel = Arc::new(Channel::new(
            document.clone(),
            group.clone(),
            author,
            base,
            chain,
        ));
        if let Some(old) = conn.insert_channel(channel.clone())? {
            live.leave(&old);
        }
        let opened = OpenedDocument {
            channel: Varint(document.number),
            signed,
            // Whoever has more than the service is told how much the service has: nothing precedes what comes next.
            // And what the log was before it began here nobody is told: whoever is behind that begins anew.
            from: (opening.from.unwrap_or(active.covered).max(document.base)).min(signed.head.size),
            base: None,
            authors: live.authors.clone(),
            own_next_clock: chain.0,
            own_last: chain.1,
            losses: losses.unwrap_or_default(),
        };
        let announced = live.authors.len();
        live.listeners.push(Listener {
            conn: conn.clone(),
            channel: channel.clone(),
            live: false,
            announced,
            own: BTreeMap::new(),
            refused: VecDeque::new(),
        });
        (channel, opened)
    };
    // A new view is shown before the channels of those it removes are closed: who is a member here, with its channel known, is found then.
    let mut still = group
        .for_member(&conn.device)
        .map(|_| ())
        .map_err(OpError::from);
    if conn.outbox.closing().is_cancelled() {
        still = Err(Refusal::NoChannel.into());
    }
    if let (Ok(()), Some(Base { seq, .. })) = (&still, channel.base) {
        still = read_base(document, seq)
            .await
            .map(|base| opened.base = Some(base));
    }
    if let Err(error) = still {
        conn.remove_this(&channel);
        document.leave(&channel);
        return Err(error);
    }
    let from = opened.from;
    let frame = ServiceFrame::Response {
        id: request,
        answer: Answer::Opened(opened),
    };
    if conn.outbox.send(Bytes::from(encode(&frame))).await {
        let conn = conn.clone();
        document
            .env
            .tasks
            .spawn(async move { history::run(conn, channel, from).await });
    }
    Ok(())
}

async fn read_base(document: &Document, seq: u64) -> Result<BaseSnapshot, OpError> {
    let mut reads = document.env.reads.acquire().await?;
    Ok(base(&mut reads, &document.log, seq).await?)
}

/// Whole records from `from` on, with proofs to what the connection's channel, if it has one, surely knows.
pub(crate) async fn records(
    conn: &Conn,
    document: &Document,
    from: u64,
    count: u32,
) -> Result<Answer, OpError> {
    let base = conn
        .channel(document.number)
        .and_then(|channel| channel.base);
    let mut reads = document.env.reads.acquire().await?;
    let mut keys = Keys::default();
    keys.documents.insert(document.log);
    ensure_readable(reads.load(&keys).await?.document(&document.log)?)?;
    let (size, active) = {
        let live = document.live();
        (live.roots.size(), live.active)
    };
    let stretch = Stretch {
        log: document.log,
        base,
        from,
        end: size.min(from.saturating_add(u64::from(count.min(limits::RECORDS_PER_ANSWER)))),
        covered: active.covered,
        bytes: limits::RECORDS_ANSWER_BYTES,
    };
    Ok(whole_records(&mut reads, stretch).await?)
}

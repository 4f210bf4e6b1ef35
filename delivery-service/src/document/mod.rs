//! Documents: one ordered log each.
//!
//! A [`Document`] in memory holds what every append needs (head, newest roots, authors) and who is listening. It only ever shows durable
//! state: it advances after the commit, in the order of the log.

pub(crate) mod append;
pub(crate) mod channel;
pub(crate) mod history;
pub(crate) mod open;
pub(crate) mod presence;
pub(crate) mod publish;
pub(crate) mod returned;
pub(crate) mod snapshot;

pub(crate) use conclave_order::frames as encode;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use conclave_order::op::snapshot as judged;
use conclave_order::{Keys, Reader, Roots, Rows, query};
use conclave_proto::record::RecordHeader;
use conclave_proto::service::SignedHead;
use conclave_proto::{Author, Hash, Head, Refusal};
use conclave_rules::{LogId, Seen};

use self::channel::Channel;
use self::presence::Lane;
use crate::env::Env;
use crate::error::OpError;
use crate::heads::{self, Newest, Pace, Telling};
use crate::hub::Conn;
use crate::sqlite::StoreError;

/// A document in memory.
pub(crate) struct Document {
    pub(crate) env: Arc<Env>,
    pub(crate) log: LogId,
    /// Number of its channel on every connection.
    pub(crate) number: u64,
    /// Size below which its log is not here.
    pub(crate) base: u64,
    live: Mutex<Live>,
}

/// What changes.
pub(crate) struct Live {
    pub(crate) roots: Roots,
    pub(crate) authors: Vec<Author>,
    pub(crate) active: Active,
    pub(crate) listeners: Vec<Listener>,
    /// Whether others have written what is not known here: its authors, its active snapshot.
    pub(crate) is_behind: bool,
    /// The newest head of it that was signed since it is in memory.
    pub(crate) signed: Option<Newest>,
    /// Where it is in telling its head.
    pub(crate) pace: Pace,
    /// What those who have it open show.
    pub(crate) presence: Lane,
}

/// The active snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Active {
    pub(crate) seq: u64,
    pub(crate) covered: u64,
}

/// A connection that has the document open.
pub(crate) struct Listener {
    pub(crate) conn: Arc<Conn>,
    pub(crate) channel: Arc<Channel>,
    /// Whether it has everything and gets records as they come. Otherwise a task is reading history for it.
    pub(crate) live: bool,
    /// Authors that it was told about.
    pub(crate) announced: usize,
    /// Positions of its own records that were accepted while it was reading history, with what to send instead of them.
    pub(crate) own: BTreeMap<u64, Own>,
    /// Refusals that came meanwhile, each with the position of the own record before it: they are told after that.
    pub(crate) refused: VecDeque<(u64, Bytes)>,
}

impl Listener {
    /// Tells of refusals behind own records before `cursor`, which were told.
    pub(crate) fn tell_refused(&mut self, cursor: u64) {
        while self.refused.front().is_some_and(|(seq, _)| *seq < cursor) {
            if let Some((_, frame)) = self.refused.pop_front() {
                self.conn.outbox.push(frame);
            }
        }
    }
}

/// What a connection gets in place of its own records.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    pub(crate) count: u64,
    pub(crate) frame: Bytes,
}

impl Live {
    pub(crate) fn head(&self) -> Head {
        Head {
            size: self.roots.size(),
            root: self.roots.newest(),
        }
    }

    /// The log goes on at `seq`, with these roots. True: others have written before it, and whoever listens has to read on from where the
    /// telling stopped.
    pub(crate) fn advance(&mut self, seq: u64, roots: &[Hash]) -> bool {
        let skips = seq > self.roots.size();
        if skips {
            self.roots.skip_to(seq);
            self.is_behind = true;
        }
        for root in roots {
            self.roots.push(*root);
        }
        skips
    }

    /// Ends delivery to a channel.
    pub(crate) fn leave(&mut self, channel: &Arc<Channel>) {
        let before = self.listeners.len();
        self.listeners
            .retain(|listener| !Arc::ptr_eq(&listener.channel, channel));
        if self.listeners.len() < before {
            self.presence.leaves(&channel.author.device);
        }
    }

    pub(crate) fn listener(&mut self, channel: &Arc<Channel>) -> Option<&mut Listener> {
        self.listeners
            .iter_mut()
            .find(|listener| Arc::ptr_eq(&listener.channel, channel))
    }
}

impl Document {
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs its head, under its lock.
    pub(crate) fn sign(&self, live: &mut Live) -> SignedHead {
        let head = live.head();
        self.env.heads.sign(&self.log, head, &mut live.signed)
    }

    /// Its head now, dated now.
    pub(crate) fn head_now(&self) -> SignedHead {
        let mut live = self.live();
        let head = live.head();
        self.env.heads.sign_now(&self.log, head, &mut live.signed)
    }

    /// It has grown: tells its head, or lets that wait for its turn. Before anybody is told what made it grow.
    pub(crate) fn grown(self: &Arc<Self>, live: &mut Live) {
        let log = Arc::downgrade(self) as Weak<dyn Telling>;
        if !live.listeners.is_empty() && self.env.heads.grown(&mut live.pace, log) {
            self.tell_head(live);
        }
    }

    fn tell_head(&self, live: &mut Live) {
        let signed = self.sign(live);
        let frame = heads::frame(&self.log, signed);
        for listener in &live.listeners {
            listener.conn.outbox.push(frame.clone());
        }
    }

    /// Ends delivery to a channel.
    pub(crate) fn leave(&self, channel: &Arc<Channel>) {
        self.live().leave(channel);
    }

    /// Learns of authors and of the active snapshot, where others have written.
    pub(crate) async fn catch_up(&self) -> Result<(), OpError> {
        if !self.live().is_behind {
            return Ok(());
        }
        let mut keys = Keys::default();
        keys.actives.insert(self.log);
        let mut reads = self.env.reads.acquire().await?;
        let rows = reads.load(&keys).await?;
        let authors = reads.authors(&self.log).await?;
        let active = rows.active(&self.log)?.ok_or(Refusal::UnknownDocument)?;
        let mut live = self.live();
        live.is_behind = false;
        if authors.len() > live.authors.len() {
            live.authors = authors;
        }
        if active.seq > live.active.seq {
            live.active = Active {
                seq: active.seq,
                covered: judged::covered(&active.header).size,
            };
        }
        Ok(())
    }

    /// The root of the first `size` records, from memory or the database. None when there are fewer.
    pub(crate) async fn root_at(&self, size: u64) -> Result<Option<Hash>, OpError> {
        {
            let live = self.live();
            if size > live.roots.size() {
                return Ok(None);
            }
            if let Some(root) = live.roots.get(size) {
                return Ok(Some(root));
            }
            // The log began here later.
            if size < self.base {
                return Ok(None);
            }
        }
        let key = (self.log, size);
        let mut keys = Keys::default();
        keys.marks.insert(key);
        let mut rows = Rows::default();
        self.env.load(&keys, &mut rows).await?;
        let mark = rows.mark(&key)?;
        let mark = mark.ok_or(StoreError::Corrupt { what: "log" })?;
        Ok(Some(mark.root))
    }

    /// Whether the log had the head that a record's author has seen.
    pub(crate) async fn has_seen(&self, header: &RecordHeader) -> Result<Seen, OpError> {
        let root = self.root_at(header.seen.size).await?;
        Ok(Seen::known(root == Some(header.seen.root)))
    }
}

impl Telling for Document {
    fn turn(self: Arc<Self>) -> bool {
        let mut live = self.live();
        let log = Arc::downgrade(&self) as Weak<dyn Telling>;
        let tells = self.env.heads.turn(&mut live.pace, log) && !live.listeners.is_empty();
        if tells {
            self.tell_head(&mut live);
        }
        tells
    }
}

/// The documents in memory. Each stays as long as anybody uses it.
#[derive(Default)]
pub(crate) struct Documents {
    known: Mutex<HashMap<LogId, Weak<Document>>>,
    /// Held while a document is read: while somebody reads, nobody else puts an older or newer copy in its place.
    loading: tokio::sync::Mutex<()>,
    numbers: AtomicU64,
}

impl Documents {
    fn known(&self, key: &LogId) -> Option<Arc<Document>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).and_then(Weak::upgrade)
    }

    /// The document, from memory or the database.
    pub(crate) async fn get(&self, env: &Arc<Env>, log: LogId) -> Result<Arc<Document>, OpError> {
        if let Some(document) = self.find(env, log).await? {
            return Ok(document);
        }
        let mut keys = Keys::default();
        keys.recoveries.insert(log);
        let mut rows = Rows::default();
        env.load(&keys, &mut rows).await?;
        Err(query::document::unknown(rows.recovery_of(&log)?).into())
    }

    /// As [`Documents::get`]. None where nothing of it is stored.
    pub(crate) async fn find(
        &self,
        env: &Arc<Env>,
        log: LogId,
    ) -> Result<Option<Arc<Document>>, OpError> {
        if let Some(document) = self.known(&log) {
            return Ok(Some(document));
        }
        let _loading = self.loading.lock().await;
        if let Some(document) = self.known(&log) {
            return Ok(Some(document));
        }
        let mut keys = Keys::default();
        keys.documents.insert(log);
        keys.actives.insert(log);
        let mut reads = env.reads.acquire().await?;
        let rows = reads.load(&keys).await?;
        let authors = reads.authors(&log).await?;
        let Some((stored, active)) = rows.document(&log)?.zip(rows.active(&log)?) else {
            return Ok(None);
        };
        let head = stored.frontier.head();
        let document = Arc::new(Document {
            env: env.clone(),
            log,
            // Numbers say nothing but the order in which documents were first used in this process.
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            base: stored.base.size(),
            live: Mutex::new(Live {
                roots: Roots::new(head.size, head.root),
                authors,
                active: Active {
                    seq: active.seq,
                    covered: stored.covered,
                },
                listeners: Vec::new(),
                is_behind: false,
                signed: None,
                pace: Pace::default(),
                presence: Lane::default(),
            }),
        });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Now and then, so that it costs little in all.
        if known.len().is_power_of_two() {
            known.retain(|_, document| document.strong_count() > 0);
        }
        known.insert(log, Arc::downgrade(&document));
        Ok(Some(document))
    }

    /// Forgets everything: it is not known what is durable.
    pub(crate) fn clear(&self) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

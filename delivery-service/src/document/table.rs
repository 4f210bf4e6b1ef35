//! A document inside the writer's transaction: read once, changed in memory by every job of the batch, written back at once.

use std::collections::HashMap;

use conclave_proto::merkle::Frontier;
use conclave_proto::record::Chained;
use conclave_proto::refusal::{ForbiddenWhy, RecordFault};
use conclave_proto::{Author, Hash, Refusal};
use conclave_rules::{Chain, Gate, check_chain};
use sqlx::SqliteConnection;

use super::insert::{NewRow, insert_nodes, insert_rows};
use super::prepare::{PreparedFrame, PreparedRecord};
use super::rows::NODE_LEVEL;
use crate::store::codes::{decode, hash, int, uint};
use crate::store::{OpError, StoreError};

/// Kind of a record that is an update.
const UPDATE: u8 = 1;

/// Where a frame of records came to lie.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) first_seq: u64,
    /// Number of the author.
    pub(crate) author: u64,
    /// Roots after each record.
    pub(crate) roots: Vec<Hash>,
    pub(crate) next_clock: u64,
    /// Size that the active snapshot covers.
    pub(crate) covered: u64,
}

/// Why a frame was refused, and the author's chain as it stands.
#[derive(Debug)]
pub(crate) struct NotPlaced {
    pub(crate) refusal: Refusal,
    pub(crate) chain: (u64, Hash),
}

/// An author inside the transaction.
#[derive(Debug, Clone)]
struct AuthorRow {
    /// None until its first record.
    no: Option<u64>,
    next_clock: u64,
    last_leaf: Hash,
    closed: bool,
    active: bool,
    changed: bool,
    /// Whether its first record is in this transaction.
    fresh: bool,
}

/// A document inside the transaction.
pub(crate) struct Table {
    doc: i64,
    /// The group's epoch.
    pub(crate) epoch: u64,
    pub(crate) closed: bool,
    frontier: Frontier,
    last_epoch: u64,
    pub(crate) last_epoch_seq: u64,
    author_count: u64,
    pub(crate) covered: u64,
    /// Encoded bytes of all updates.
    weight: u64,
    authors: HashMap<Author, AuthorRow>,
    rows: Vec<NewRow>,
    nodes: Vec<(u32, u64, Hash)>,
}

impl Table {
    /// A document that has no record yet.
    pub(crate) fn empty(doc: i64, epoch: u64) -> Self {
        Self {
            doc,
            epoch,
            closed: false,
            frontier: Frontier::new(),
            last_epoch: epoch,
            last_epoch_seq: 0,
            author_count: 0,
            covered: 0,
            weight: 0,
            authors: HashMap::new(),
            rows: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Reads a document's row.
    pub(crate) async fn load(conn: &mut SqliteConnection, doc: i64) -> Result<Self, StoreError> {
        let (epoch, closed, frontier, last_epoch, last_epoch_seq, author_count, covered, weight): (
            i64,
            Option<i64>,
            Vec<u8>,
            i64,
            i64,
            i64,
            i64,
            i64,
        ) = sqlx::query_as(
            "SELECT g.epoch, d.closed, d.frontier, d.last_epoch, d.last_epoch_seq, d.author_count, d.covered, d.weight \
             FROM documents d JOIN groups g ON g.id = d.group_id WHERE d.id = ?",
        )
        .bind(doc)
        .fetch_one(&mut *conn)
        .await?;
        Ok(Self {
            doc,
            epoch: uint(epoch)?,
            closed: closed.is_some(),
            frontier: decode("frontier", &frontier)?,
            last_epoch: uint(last_epoch)?,
            last_epoch_seq: uint(last_epoch_seq)?,
            author_count: uint(author_count)?,
            covered: uint(covered)?,
            weight: uint(weight)?,
            authors: HashMap::new(),
            rows: Vec::new(),
            nodes: Vec::new(),
        })
    }

    /// Records so far.
    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root over all records so far.
    pub(crate) fn root(&self) -> Hash {
        self.frontier.root()
    }

    async fn author(
        &mut self,
        conn: &mut SqliteConnection,
        author: &Author,
    ) -> Result<AuthorRow, StoreError> {
        if let Some(row) = self.authors.get(author) {
            return Ok(row.clone());
        }
        type Columns = (
            i64,
            i64,
            Option<i64>,
            Option<i64>,
            Option<Vec<u8>>,
            Option<i64>,
        );
        let row: Option<Columns> = sqlx::query_as(
            "SELECT d.revoked, u.disabled, a.no, a.next_clock, a.last_leaf, a.closed \
             FROM devices d JOIN accounts u USING (user) \
             LEFT JOIN authors a ON a.doc = ?1 AND a.device = d.device AND a.instance = ?2 \
             WHERE d.device = ?3",
        )
        .bind(self.doc)
        .bind(author.instance.as_bytes())
        .bind(author.device.as_bytes())
        .fetch_optional(&mut *conn)
        .await?;
        let mut row = match row {
            None => AuthorRow {
                no: None,
                next_clock: 0,
                last_leaf: Hash::ZERO,
                closed: false,
                active: false,
                changed: false,
                fresh: false,
            },
            Some((revoked, disabled, no, next_clock, last_leaf, closed)) => AuthorRow {
                no: no.map(uint).transpose()?,
                next_clock: uint(next_clock.unwrap_or(0))?,
                last_leaf: last_leaf.as_deref().map_or(Ok(Hash::ZERO), hash)?,
                closed: closed.unwrap_or(0) != 0,
                active: revoked == 0 && disabled == 0,
                changed: false,
                fresh: false,
            },
        };
        // A later instance of the device may have had its first record in this very transaction.
        row.closed = row.closed
            || self.authors.iter().any(|(other, later)| {
                other.device == author.device && row.no.is_some() && later.fresh
            });
        self.authors.insert(*author, row.clone());
        Ok(row)
    }

    /// An author's next clock and last leaf.
    pub(crate) async fn chain(
        &mut self,
        conn: &mut SqliteConnection,
        author: &Author,
    ) -> Result<(u64, Hash), StoreError> {
        let row = self.author(conn, author).await?;
        Ok((row.next_clock, row.last_leaf))
    }

    /// Takes a frame of chained records, or says why not. `first_clock` is the frame's; `frame` is missing where checking it already
    /// showed that it cannot follow. `tail_max` bounds the records after the covered head.
    pub(crate) async fn place(
        &mut self,
        conn: &mut SqliteConnection,
        author: &Author,
        first_clock: u64,
        frame: Option<&PreparedFrame>,
        tail_max: u64,
    ) -> Result<Result<Placed, NotPlaced>, StoreError> {
        let mut row = self.author(conn, author).await?;
        let chain = (row.next_clock, row.last_leaf);
        if first_clock < row.next_clock {
            let refusal = self.taken(conn, &row, first_clock).await?;
            return Ok(Err(NotPlaced { refusal, chain }));
        }
        if let Err(refusal) = self.judge(&row, first_clock, frame, tail_max) {
            return Ok(Err(NotPlaced { refusal, chain }));
        }
        // The judge lets only frames pass.
        let Some(frame) = frame else {
            return Ok(Err(NotPlaced {
                refusal: Refusal::Malformed,
                chain,
            }));
        };
        let no = match row.no {
            Some(no) => no,
            None => {
                row.fresh = true;
                self.first_record_of(author)
            }
        };
        row.no = Some(no);
        row.changed = true;
        let first_seq = self.size();
        let roots = self.push_frame(frame, no, first_clock);
        row.next_clock = first_clock.saturating_add(frame.records.len() as u64);
        row.last_leaf = frame
            .records
            .last()
            .map_or(row.last_leaf, |record| record.leaf);
        let next_clock = row.next_clock;
        self.authors.insert(*author, row);
        Ok(Ok(Placed {
            first_seq,
            author: no,
            roots,
            next_clock,
            covered: self.covered,
        }))
    }

    fn judge(
        &self,
        row: &AuthorRow,
        first_clock: u64,
        frame: Option<&PreparedFrame>,
        tail_max: u64,
    ) -> Result<(), Refusal> {
        if !row.active {
            return Err(Refusal::Forbidden {
                why: ForbiddenWhy::DeviceRevoked,
            });
        }
        if self.closed {
            return Err(Refusal::DocumentClosed);
        }
        if row.closed {
            return Err(Refusal::BadRecord {
                fault: RecordFault::InstanceClosed,
            });
        }
        let gap = Refusal::ClockGap {
            expected: row.next_clock,
        };
        let Some(frame) = frame else {
            return Err(gap);
        };
        let gate = Gate::Before {
            current: self.epoch,
        };
        if gate.admits(frame.epoch).is_err() || frame.epoch < self.last_epoch {
            return Err(Refusal::StaleEpoch {
                current: self.epoch,
            });
        }
        let chain = Chain {
            next: row.next_clock,
            last: row.last_leaf,
            closed: row.closed,
        };
        let first = Chained {
            clock: first_clock,
            prev: frame.prev,
        };
        if check_chain(Some(chain), &first).is_err() {
            return Err(gap);
        }
        if self.size().saturating_sub(self.covered) >= tail_max {
            return Err(Refusal::SnapshotRequired);
        }
        Ok(())
    }

    /// The refusal for a clock that was used before.
    async fn taken(
        &self,
        conn: &mut SqliteConnection,
        row: &AuthorRow,
        clock: u64,
    ) -> Result<Refusal, StoreError> {
        let in_batch = self
            .rows
            .iter()
            .find(|new| new.author == row.no && new.clock == Some(clock))
            .map(|new| Refusal::AlreadyAccepted {
                leaf: new.leaf,
                seq: new.seq,
            });
        if let Some(refusal) = in_batch {
            return Ok(refusal);
        }
        let (leaf, seq): (Vec<u8>, i64) = sqlx::query_as(
            "SELECT leaf, seq FROM records WHERE doc = ? AND author = ? AND clock = ?",
        )
        .bind(self.doc)
        .bind(row.no.map(int))
        .bind(int(clock))
        .fetch_one(&mut *conn)
        .await?;
        Ok(Refusal::AlreadyAccepted {
            leaf: hash(&leaf)?,
            seq: uint(seq)?,
        })
    }

    /// Numbers a new author; its device's other instances are closed by it.
    fn first_record_of(&mut self, author: &Author) -> u64 {
        for (other, row) in &mut self.authors {
            if other.device == author.device && other.instance != author.instance {
                row.closed = true;
                row.changed = row.changed || row.no.is_some();
            }
        }
        let no = self.author_count;
        self.author_count = no.saturating_add(1);
        no
    }

    fn push_frame(&mut self, frame: &PreparedFrame, author: u64, first_clock: u64) -> Vec<Hash> {
        let mut clock = first_clock;
        let mut roots = Vec::with_capacity(frame.records.len());
        for record in &frame.records {
            let PreparedRecord {
                kind,
                seen,
                hint,
                leaf,
                sealed,
                bytes,
                ..
            } = record;
            let root = self.push(NewRow {
                seq: 0,
                kind: *kind,
                author: Some(author),
                clock: Some(clock),
                epoch: frame.epoch,
                seen: *seen,
                hint: *hint,
                covered: 0,
                leaf: *leaf,
                root: Hash::ZERO,
                header: None,
                sealed: sealed.clone(),
                bytes: *bytes,
                weight: 0,
            });
            roots.push(root);
            clock = clock.saturating_add(1);
        }
        roots
    }

    /// Appends a record at the end; its position, its root, what is covered before it and what is written up to it are filled in.
    pub(crate) fn push(&mut self, mut row: NewRow) -> Hash {
        row.seq = self.size();
        row.covered = self.covered;
        if row.kind == UPDATE {
            self.weight = self.weight.saturating_add(row.bytes);
        }
        row.weight = self.weight;
        if row.epoch > self.last_epoch {
            self.last_epoch = row.epoch;
            self.last_epoch_seq = row.seq;
        }
        let nodes = &mut self.nodes;
        self.frontier.push_with(row.leaf, |level, index, hash| {
            if level >= NODE_LEVEL {
                nodes.push((level, index, hash));
            }
        });
        row.root = self.frontier.root();
        let root = row.root;
        self.rows.push(row);
        root
    }

    /// Writes everything back.
    pub(crate) async fn write(&mut self, conn: &mut SqliteConnection) -> Result<(), OpError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        insert_rows(conn, self.doc, &self.rows).await?;
        insert_nodes(conn, self.doc, &self.nodes).await?;
        self.write_authors(conn).await?;
        sqlx::query(
            "UPDATE documents SET size = ?, frontier = ?, last_epoch = ?, last_epoch_seq = ?, author_count = ?, weight = ? \
             WHERE id = ?",
        )
        .bind(int(self.size()))
        .bind(conclave_proto::codec::encode(&self.frontier))
        .bind(int(self.last_epoch))
        .bind(int(self.last_epoch_seq))
        .bind(int(self.author_count))
        .bind(int(self.weight))
        .bind(self.doc)
        .execute(&mut *conn)
        .await?;
        Ok(())
    }

    async fn write_authors(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        // In the order of their numbers: a later instance of a device closes the earlier ones after they are written.
        let mut changed: Vec<(&Author, &AuthorRow)> =
            self.authors.iter().filter(|(_, row)| row.changed).collect();
        changed.sort_by_key(|(_, row)| row.no);
        for (author, row) in changed {
            if row.fresh {
                sqlx::query(
                    "UPDATE authors SET closed = 1 WHERE doc = ? AND device = ? AND no < ?",
                )
                .bind(self.doc)
                .bind(author.device.as_bytes())
                .bind(row.no.map(int))
                .execute(&mut *conn)
                .await?;
            }
            sqlx::query(
                "INSERT INTO authors (doc, no, device, instance, next_clock, last_leaf, closed) \
                 VALUES (?, ?, ?, ?, ?, ?, ?) \
                 ON CONFLICT (doc, no) DO UPDATE SET next_clock = excluded.next_clock, \
                     last_leaf = excluded.last_leaf, closed = excluded.closed",
            )
            .bind(self.doc)
            .bind(row.no.map(int))
            .bind(author.device.as_bytes())
            .bind(author.instance.as_bytes())
            .bind(int(row.next_clock))
            .bind(row.last_leaf.as_bytes())
            .bind(i64::from(row.closed))
            .execute(&mut *conn)
            .await?;
        }
        Ok(())
    }
}

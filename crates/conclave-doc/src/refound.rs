//! Carrying a document over into a group that is founded anew.

use conclave_crdt::CrdtKind;
use conclave_proto::merkle::Frontier;
use conclave_proto::record::Record;
use conclave_proto::{Author, DocumentId, GroupId, Hash, Head, InstanceId};

use crate::charge::founded;
use crate::content::{Checkpoint, Content, Fresh, Plain};
use crate::context::{DocContext, Sealer};
use crate::document::Document;
use crate::error::DocError;
use crate::payload::{ReplicaOwner, Tables};
use crate::state::{LogState, SnapshotInfo};
use crate::weight::Weight;

/// What a document takes along: its content with its history, edits that are still unsent among it, and who owns which replica id.
#[derive(Debug, Clone)]
pub struct Founding {
    pub(crate) kind: CrdtKind,
    pub(crate) crdt: Plain,
    pub(crate) tables: Tables,
}

impl Founding {
    /// The document's CRDT kind.
    #[must_use]
    pub fn kind(&self) -> CrdtKind {
        self.kind
    }
}

impl Document {
    /// What this document takes along into another group.
    ///
    /// # Errors
    /// [`DocError::Crdt`].
    pub fn founding(&mut self, ctx: &DocContext<'_>) -> Result<Founding, DocError> {
        self.collect_edits()?;
        let mut tables = Tables {
            owners: self.state.tables.owners.clone(),
            ..Tables::default()
        };
        let lost = self.lost.plains().zip(self.lost.devices());
        let own = self.outbox.updates().into_iter();
        for (update, device) in lost.chain(own.map(|update| (update, ctx.device))) {
            let read = self.content.crdt.inspect(update.as_slice())?;
            for range in read.info.ranges {
                let owner = tables.owners.entry(range.replica).or_insert(ReplicaOwner {
                    device,
                    next: range.end,
                });
                owner.next = owner.next.max(range.end);
            }
        }
        Ok(Founding {
            kind: self.content.kind,
            crdt: Plain::from(self.content.crdt.snapshot()?),
            tables,
        })
    }

    /// A new document that begins with what another one took along, as [`Document::create`] begins with an edit: on the word of whoever
    /// founds it.
    ///
    /// # Errors
    /// As [`Document::create`].
    pub fn refound(
        ctx: &DocContext<'_>,
        group: GroupId,
        document: DocumentId,
        founding: Founding,
        instance: InstanceId,
        sealer: Sealer<'_>,
    ) -> Result<(Self, Record), DocError> {
        let fresh = Fresh::new(sealer.rng);
        let mut this = Self::found(ctx, group, document, founding, instance, fresh)?;
        let snapshot = this.make_snapshot(ctx, sealer)?;
        Ok((this, snapshot))
    }

    /// A document begins with this content. Its first snapshot is still to be made.
    pub(crate) fn found(
        ctx: &DocContext<'_>,
        group: GroupId,
        document: DocumentId,
        founding: Founding,
        instance: InstanceId,
        mut fresh: Fresh,
    ) -> Result<Self, DocError> {
        let row = ctx.own_row().ok_or(DocError::Role)?;
        let meter = founded(founding.kind, founding.crdt.as_slice())?;
        let mut founding = founding;
        founding.tables.ops = meter.size();
        let author = Author {
            device: ctx.device,
            instance,
        };
        let active = SnapshotInfo {
            seq: 0,
            id: Hash::ZERO,
            author,
            user: row.user,
            epoch: ctx.authority.epoch(),
            parent: Hash::ZERO,
            chain_proof: Hash::ZERO,
            covered: Head::EMPTY,
            // Known when it is made.
            bytes: 0,
            weight: Weight::default(),
        };
        let state = LogState::new(founding.kind, founding.tables, None, active);
        let checkpoint = Checkpoint {
            size: 0,
            state: state.clone(),
            crdt: founding.crdt,
        };
        let mut content = Content::new(founding.kind, checkpoint, ctx.watch(), &mut fresh)?;
        content.meter = Some(meter);
        let base = Frontier::new();
        Ok(Self::assemble(
            group, document, base, state, content, author, fresh,
        ))
    }
}

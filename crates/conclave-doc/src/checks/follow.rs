//! Whoever signs a snapshot answers for it. A device that came after a false one of somebody else may have opened the document from that, and could not check it: it
//! is excused for what it took from there, and for nothing else.

use super::look::Mark;
use super::*;
use crate::charge::bounded;
use crate::content::{Checkpoint, Content, Plain};
use crate::context::DeliverOutcome;
use crate::payload::SnapshotPayload;
use crate::seal::{DocKeys, open};
use crate::state::LogState;

/// Two snapshots that are false, of which the later may be what follows from the earlier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descent {
    pub from: SnapshotInfo,
    pub to: SnapshotInfo,
}

impl Document {
    /// Whether the author of a false snapshot may have opened the document from an earlier one of somebody else, and have added nothing to that.
    pub(super) fn may_be_misled(&self, ctx: &DocContext<'_>, snapshot: &SnapshotInfo) -> bool {
        self.may_descend(ctx, *snapshot).next().is_some()
    }

    /// The earlier ones. The device came after that, and it was not found that the snapshot says something else than what follows from there.
    fn may_descend(
        &self,
        ctx: &DocContext<'_>,
        snapshot: SnapshotInfo,
    ) -> impl Iterator<Item = &SnapshotInfo> {
        let row = ctx.row(&snapshot.author.device, snapshot.epoch);
        let first = row.map(|row| row.first_epoch);
        let mine = self.checks.get(&snapshot.id);
        self.remembered().map(|it| &it.info).filter(move |it| {
            let is_known = mine.is_some_and(|mine| mine.adds_to.contains(&it.seq));
            it.seq < snapshot.seq
                && it.user != snapshot.user
                && first.is_some_and(|first| first >= it.epoch)
                && self.is_false_base(&it.id)
                && !is_known
        })
    }

    /// Whether somebody may have opened the document from a snapshot that is false.
    pub(super) fn is_false_base(&self, snapshot: &Hash) -> bool {
        use DiffersWhy::{Unloadable, Unreadable};
        match self.checks.found(snapshot) {
            Some(Judgement::Differs(why)) => !matches!(why, Unreadable | Unloadable),
            _ => false,
        }
    }

    /// What is to be compared next of all that may excuse somebody, as far as it can be.
    pub(super) fn next_descent(&self, ctx: &DocContext<'_>) -> Option<Descent> {
        if !self.checks.ground.is_log() {
            return None;
        }
        let open = self.remembered().map(|it| it.info).filter(|it| {
            let mine = self.checks.get(&it.id);
            mine.is_some_and(|it| it.shown.is_some() && !it.follows)
        });
        let mut open = open.flat_map(|to| {
            let from = self.may_descend(ctx, to);
            from.map(move |from| Descent { from: *from, to })
        });
        open.find(|it| self.can_descend(ctx, it))
    }

    /// Whether what is here tells what follows from a snapshot up to another.
    fn can_descend(&self, ctx: &DocContext<'_>, descent: &Descent) -> bool {
        let Descent { from, to } = descent;
        let is_here = self.rows.has_snapshot(from.seq) || self.has_sealed(from);
        let aside = &self.content.aside;
        is_here
            && self.content.checkpoint.size <= from.covered.size
            && from.covered.size <= to.covered.size
            && aside.range(..to.covered.size).next().is_none()
            && !self.aside.is_tainted()
            && self.content.is_whole()
            && !self.checks.covers_void(to)
            && ctx.keys.root(from.epoch).is_some()
    }

    /// Finds out whether a snapshot is what follows from another, which is given as it was received.
    pub(super) fn descend(
        &mut self,
        ctx: &DocContext<'_>,
        descent: &Descent,
        record: &Record,
    ) -> Result<(), DocError> {
        let watch = self.content.watch.clone();
        let followed = watch.within(descent.from.place(), || self.follow(ctx, descent, record))?;
        let Some(mine) = self.checks.mine(descent.to.id) else {
            return Ok(());
        };
        match followed {
            Followed::Unknown => mine.follows = true,
            Followed::To(mark) if mine.shown.is_some_and(|it| it.agrees_with(&mark)) => {
                mine.follows = true;
            }
            Followed::To(_) | Followed::Nowhere => {
                mine.adds_to.insert(descent.from.seq);
            }
        }
        self.rows.meta_dirty = true;
        Ok(())
    }

    /// What a device has that opened the document from one of them, at what the other covers.
    fn follow(
        &mut self,
        ctx: &DocContext<'_>,
        descent: &Descent,
        record: &Record,
    ) -> Result<Followed, DocError> {
        let Descent { from, to } = descent;
        let epoch = record.header.epoch;
        let root = ctx.keys.root(epoch);
        let root = root.ok_or(DocError::MissingRoot { epoch })?;
        let payload = open(record, &DocKeys::derive(&root, &self.id)).ok();
        let payload = payload.and_then(|bytes| SnapshotPayload::from_bytes(&bytes).ok());
        let kind = self.kind();
        let payload =
            payload.filter(|it| it.frontier.head() == from.covered && bounded(kind, it).is_ok());
        let Some(payload) = payload else {
            return Ok(Followed::Nowhere);
        };
        let (begin, end) = (from.covered.size, to.covered.size);
        let entries = (begin..end).map_while(|seq| self.content.entry(seq).cloned());
        let entries: Vec<_> = entries.collect();
        let own = self.content.state_at(begin).tables;
        let mut authors = entries.iter().filter_map(|it| it.effect.link);
        // Whether a record stands in its author's chain was judged by the own log.
        let chains = &payload.tables.chains;
        if authors.any(|(author, _)| chains.get(&author) != own.chains.get(&author)) {
            return Ok(Followed::Unknown);
        }
        let state = LogState::new(kind, payload.tables, payload.claims, *from);
        let checkpoint = Checkpoint {
            size: begin,
            state: state.clone(),
            crdt: Plain::from(payload.state),
        };
        let watch = self.content.watch.clone();
        let Ok(mut content) = Content::new(kind, checkpoint, watch, &mut self.fresh) else {
            return Ok(Followed::Nowhere);
        };
        for entry in entries {
            content.push(entry, None);
        }
        // For as long as it takes, this document is that one.
        let former = std::mem::replace(&mut self.content, content);
        let former = (former, std::mem::replace(&mut self.state, state));
        let (checks, dirty) = (self.checks.clone(), self.rows.meta_dirty);
        let judged = self.judge_again(ctx, begin, None, &mut DeliverOutcome::default());
        let mark = judged.and_then(|_| Mark::of(&self.state, self.content.crdt.as_mut()));
        (self.content, self.state) = former;
        (self.checks, self.rows.meta_dirty) = (checks, dirty);
        Ok(mark.map_or(Followed::Unknown, Followed::To))
    }
}

/// Where a device comes to that has opened the document from a false snapshot.
enum Followed {
    To(Mark),
    /// No device can open it from there.
    Nowhere,
    /// That cannot be told from here.
    Unknown,
}

//! Full checks: which snapshots this device looks at, and the look.

use conclave_crdt::Crdt;
use conclave_proto::hash;
use conclave_proto::merkle::Frontier;
use conclave_proto::record::RecordBody;
use zeroize::Zeroizing;

use super::follow::Descent;
use super::*;
use crate::charge::{accounts_are_of_members, bounded};
use crate::claims::{Claims, KnownClaims};
use crate::content::Received;
use crate::kept::read_snapshot;
use crate::payload::{SNAPSHOT_VERSION, SnapshotPayload, Tables};
use crate::seal::{DocKeys, open};
use crate::state::LogState;

/// Full checks of one document within an hour, at most, however many snapshots come and whatever is said of them.
const LOOKS: u8 = 16;
/// Snapshots that a device makes in the place of wrong ones while nobody writes anything. Two who read one log otherwise would go on for ever.
const HEALS: u8 = 4;

/// What a document holds at one head of its log, as far as it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    tables: Hash,
    /// Which records brought which operations, where all of that is known.
    #[serde(default)]
    claims: Option<Hash>,
    content: Hash,
}

impl Mark {
    pub(super) fn of(state: &LogState, crdt: &mut dyn Crdt) -> Result<Self, DocError> {
        let claims = state.claims.as_ref().and_then(KnownClaims::whole);
        Ok(Self {
            tables: digest_of(&state.tables),
            claims: claims.map(|claims| digest_of_claims(&state.tables, claims)),
            content: Hash(crdt.content_digest()?),
        })
    }
}

impl Mark {
    /// What is not told is not compared, nor what cannot be.
    fn has_tables_of(&self, other: &Self) -> bool {
        // Breakage: who wrote what is believed as it is told.
        let claims = self.claims.zip(other.claims);
        let claims = claims.filter(|_| !crate::broken("claims-unchecked"));
        self.tables == other.tables && claims.is_none_or(|(it, other)| it == other)
    }

    /// Whether both are of the same, as far as both tell.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        self.has_tables_of(other) && self.content == other.content
    }
}

fn alone(tables: &Tables, claims: Option<&Claims>) -> Zeroizing<Vec<u8>> {
    let alone = SnapshotPayload {
        frontier: Frontier::new(),
        tables: tables.clone(),
        claims: claims.cloned(),
        state: Zeroizing::new(Vec::new()),
    };
    alone.to_bytes()
}

fn digest_of(tables: &Tables) -> Hash {
    hash::labelled("compared tables", &[&alone(tables, None)])
}

fn digest_of_claims(tables: &Tables, claims: &Claims) -> Hash {
    hash::labelled("compared claims", &[&alone(tables, Some(claims))])
}

/// How long the service keeps a snapshot that was replaced, in milliseconds.
const REPLACED_MS: u64 = 30 * 24 * 3600 * 1000;
/// How exactly it is kept when one was seen to be the active one, in milliseconds.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Whether the service has the content of a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Gone {
    /// As far as is known.
    #[default]
    No,
    /// It answers with the leaf alone.
    Yes,
    /// And it was told that it should have it.
    Told,
}

impl Mine {
    /// Whether this program may be able to read it.
    pub(super) fn is_readable(&self) -> bool {
        self.unknown
            .is_none_or(|version| version == SNAPSHOT_VERSION)
    }
}

/// How often this device has looked, in the hour that began then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Looks {
    since: UnixMs,
    count: u8,
}

/// How many snapshots this device has made in the place of wrong ones since the log had so many updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heals {
    updates: u64,
    count: u8,
}

impl Document {
    /// Keeps a snapshot that has its place, if it may have to be checked.
    pub(crate) fn keep_for_check(&mut self, ctx: &DocContext<'_>, record: &Record) {
        let made = self.snapshot.as_ref().is_some_and(|own| own == record);
        if made {
            self.snapshot = None;
            self.rows.snapshot_dirty = true;
            self.count_heal();
        }
        // Alone, a user looks whether the own one can be loaded: nobody else does.
        let knows = made && !ctx.one_user();
        if knows && let Some(mine) = self.checks.mine(record.leaf()) {
            mine.found = Some(Judgement::Match);
            mine.said = mine.found;
            if let RecordBody::Snapshot(header) = record.header.body {
                self.checks.note_right(header.covered.size);
            }
            self.rows.meta_dirty = true;
        }
        self.checks.sealed = (!knows).then(|| record.clone());
    }

    /// An own snapshot takes the place of the active one. Counts it, if that was wrong or is nothing to begin from.
    fn count_heal(&mut self) {
        let replaced = &self.state.active.id;
        let was_wrong = matches!(self.checks.found(replaced), Some(Judgement::Differs(_)));
        if !was_wrong && !self.checks.is_unreadable(replaced) {
            return;
        }
        let updates = self.state.weight.updates;
        let before = self.checks.own.heals;
        let count = match before.updates == updates {
            true => before.count.saturating_add(1),
            false => 1,
        };
        self.checks.own.heals = Heals { updates, count };
        self.rows.meta_dirty = true;
    }

    /// Whether it has made as many in the place of wrong ones as it does without an update in between.
    pub(super) fn has_healed_enough(&self) -> bool {
        let heals = self.checks.own.heals;
        heals.updates == self.state.weight.updates && heals.count >= HEALS
    }

    /// Whether this device is able to check a snapshot, and has not.
    pub(crate) fn can_check(&self, snapshot: &SnapshotInfo) -> bool {
        let mine = self.checks.get(&snapshot.id);
        self.is_open(snapshot, mine) && self.can_compare(snapshot, mine)
    }

    /// The same, or it can tell at least whether the snapshot was right before records were void.
    pub(crate) fn can_look(&self, snapshot: &SnapshotInfo) -> bool {
        let mine = self.checks.get(&snapshot.id);
        let has_before = mine.is_some_and(|it| !it.before.is_empty());
        self.is_open(snapshot, mine) && (has_before || self.can_compare(snapshot, mine))
    }

    /// Whether it was not looked at, and can be had.
    fn is_open(&self, snapshot: &SnapshotInfo, mine: Option<&Mine>) -> bool {
        self.size() > snapshot.seq
            && !snapshot.is_first()
            && self.checks.rests_on() != Some(snapshot.id)
            && mine.is_none_or(|it| it.found.is_none() && it.is_readable())
            && (mine.is_none_or(|it| it.gone == Gone::No)
                || snapshot.id == self.state.active.id
                || self.rows.has_snapshot(snapshot.seq)
                || self.received(snapshot).is_some())
    }

    /// Whether it can be told what this device has there now.
    fn can_compare(&self, snapshot: &SnapshotInfo, mine: Option<&Mine>) -> bool {
        let has_mark = mine.is_some_and(|it| it.mark.is_some());
        !self.aside.is_tainted() && (has_mark || self.reaches(snapshot.covered.size))
    }

    /// Whether what is here tells the state at a position.
    pub(super) fn reaches(&self, covered: u64) -> bool {
        let content = &self.content;
        // What it holds of a record set aside cannot be told from here.
        content.checkpoint.size <= covered && content.aside.range(..covered).next().is_none()
    }

    /// Snapshots that this device could check.
    pub(super) fn unchecked(&self) -> impl Iterator<Item = &Heard> {
        self.remembered().filter(|it| self.can_look(&it.info))
    }

    /// Whether it is one of them.
    pub(crate) fn is_unchecked(&self, snapshot: &Hash) -> bool {
        let heard = self.remembered_of(snapshot);
        heard.is_some_and(|it| self.can_look(&it.info))
    }

    /// Whether a snapshot as received is of use: it is to be looked at, or it is false and others may follow from it.
    pub(crate) fn is_of_use(&self, snapshot: &Hash) -> bool {
        self.is_unchecked(snapshot) || self.is_false_base(snapshot)
    }

    /// The newest for which no lot was drawn.
    fn undrawn(&self) -> Option<Hash> {
        let is_open = |id: &Hash| self.checks.get(id).is_none_or(|it| it.lot.is_none());
        let open = self.unchecked().filter(|it| is_open(&it.info.id));
        let newest = open.max_by_key(|it| it.info.seq);
        newest.map(|it| it.info.id)
    }

    /// Whether a lot is to be drawn if this device checks a snapshot.
    #[must_use]
    pub fn is_lot_open(&self) -> bool {
        self.undrawn().is_some()
    }

    /// Draws it, among so many devices that hold the log: nobody can know on whom it falls.
    pub fn draw_lot(&mut self, devices: u64, random: u64) {
        let falls = random % devices.max(1) < CHECKERS;
        let newest = self.undrawn();
        let newest = newest.or_else(|| {
            let newest = self.unchecked().max_by_key(|it| it.info.seq);
            newest.map(|it| it.info.id)
        });
        if let Some(mine) = newest.and_then(|id| self.checks.mine(id)) {
            mine.lot = Some(falls);
            self.rows.meta_dirty = true;
        }
    }

    /// The snapshot that this device is to check next: the lot fell on it, or somebody objects, or roots could go afterwards, or the log settles by
    /// it what is void here, or somebody says what this device refutes and rests on it. Those that were replaced as well: somebody may have opened the document
    /// from one. One that rests on a disputed snapshot checks the active one, to see whether it says something else. Every other look is at the oldest, so
    /// that nobody escapes one by making more of them.
    #[must_use]
    pub fn check_wanted(&self, ctx: &DocContext<'_>) -> Option<CheckWanted> {
        let info = self.next_look(ctx)?.of();
        Some(CheckWanted {
            seq: info.seq,
            have: self.has_sealed(&info),
            kept: self.rows.has_snapshot(info.seq),
        })
    }

    /// A snapshot that was not looked at, else one that is to be looked at again for what may follow from it.
    fn next_look(&self, ctx: &DocContext<'_>) -> Option<Look> {
        let first = self.next_check(ctx).map(|it| Look::First(Box::new(it)));
        let again = || self.next_descent(ctx).filter(|_| self.may_look());
        first.or_else(|| again().map(|it| Look::Again(Box::new(it))))
    }

    /// Whether it has not looked as often within the hour as it does.
    pub(super) fn may_look(&self) -> bool {
        self.checks.own.looks.count < LOOKS
    }

    fn next_check(&self, ctx: &DocContext<'_>) -> Option<SnapshotInfo> {
        if !self.may_look() {
            return None;
        }
        let due = self.unchecked().filter(|it| self.is_check_due(ctx, it));
        let due = due.map(|it| it.info);
        match self.checks.own.looks.count % 2 {
            0 => due.max_by_key(|it| it.seq),
            _ => due.min_by_key(|it| it.seq),
        }
    }

    fn is_check_due(&self, ctx: &DocContext<'_>, snapshot: &Heard) -> bool {
        let is_active = snapshot.info.id == self.state.active.id;
        self.is_owed(snapshot)
            || (is_active && (self.base_is_disputed() || self.frees(ctx, snapshot)))
            || (self.checks.ground.is_log() && self.is_ground(&snapshot.info))
    }

    /// Whether it is to be looked at, whatever else comes.
    fn is_owed(&self, snapshot: &Heard) -> bool {
        let info = &snapshot.info;
        let mine = self.checks.get(&info.id);
        mine.is_some_and(|it| it.lot == Some(true))
            || self.has_objection(snapshot)
            || (self.checks.covers_void(info) && snapshot.is_settled())
            || self.was_missed(&info.user)
    }

    /// Epochs of snapshots that are still to be looked at.
    pub(super) fn owed_epochs(&self) -> impl Iterator<Item = u64> {
        let owed = self.unchecked().filter(|it| self.is_owed(it));
        owed.map(|it| it.info.epoch)
    }

    /// Whether roots that are here could go if the active snapshot were confirmed. One look is enough for that, while what it gave is neither
    /// confirmed nor of less use than the active one.
    fn frees(&self, ctx: &DocContext<'_>, active: &Heard) -> bool {
        let own = &self.checks.own;
        let is_overruled = matches!(self.checks.ground, Ground::Overruled(_));
        if own.waiting.is_some() || (is_overruled && !ctx.one_user()) {
            return false;
        }
        let after = own.confirmed.map_or(0, |it| it.seq);
        let mut open = self.state.heard().iter().map(|it| it.info);
        let is_known = |it: SnapshotInfo| {
            it.seq > after && self.checks.found(&it.id) == Some(Judgement::Match)
        };
        if open.any(is_known) && !self.is_matched(active) {
            return false;
        }
        let now = self.needed_by_log();
        let then = self.state.roots_needed(Some(&active.info), self.size());
        let mut gone = now.epochs.iter().filter(|epoch| !then.needs(**epoch));
        now.all_below > 0 || gone.any(|epoch| ctx.keys.root(*epoch).is_some())
    }

    /// Whether it may soon check a snapshot against records that are not in a checkpoint.
    pub(crate) fn may_soon_check(&self, ctx: &DocContext<'_>) -> bool {
        let after = self.checks.own.confirmed.map_or(0, |it| it.seq);
        let mut newer = self.unmarked().filter(|it| it.info.seq > after);
        newer.any(|it| {
            let mine = self.checks.get(&it.info.id);
            mine.is_none_or(|it| it.lot.is_none()) || self.is_check_due(ctx, it)
        }) || self.next_descent(ctx).is_some()
    }

    fn unmarked(&self) -> impl Iterator<Item = &Heard> {
        let is_open = |it: &&Heard| {
            let mine = self.checks.get(&it.info.id);
            self.can_compare(&it.info, mine) && mine.is_none_or(|it| it.mark.is_none())
        };
        self.unchecked().filter(is_open)
    }

    /// Begins to count looks anew, if the hour is over. Gives when to come back for those that wait for that.
    pub(super) fn count_looks(&mut self, now: UnixMs) -> Option<UnixMs> {
        let looks = self.checks.own.looks;
        let is_over = now < looks.since || now.since_ms(looks.since) >= MATCH_AGE_MS;
        if is_over && looks.count > 0 {
            self.checks.own.looks = Looks::default();
            self.rows.meta_dirty = true;
        } else if is_over {
            self.checks.own.looks.since = now;
        }
        let looks = self.checks.own.looks;
        (looks.count >= LOOKS).then(|| looks.since.plus_ms(MATCH_AGE_MS))
    }

    /// Checks a snapshot against this device's own log: loads both in scratch documents and compares what they hold. Takes time
    /// linear in the document: for when the device is idle. `None` where [`Document::check_wanted`] does not have it.
    ///
    /// # Errors
    /// [`DocError::MissingRoot`], [`DocError::UnknownSnapshot`], once, where another program made it: nobody is at fault, and it is not looked at again
    /// before this program knows that version; and [`DocError::Crdt`] when the own state cannot be built.
    pub fn check_snapshot(&mut self, ctx: &DocContext<'_>) -> Result<Option<Checked>, DocError> {
        let Some(look) = self.next_look(ctx) else {
            return Ok(None);
        };
        let info = look.of();
        let Some(record) = self.sealed(&info)? else {
            return Ok(None);
        };
        if let Look::Again(descent) = look {
            self.descend(ctx, &descent, &record)?;
            let found = self.checks.found(&descent.to.id);
            return self.looked(ctx, &descent.to, found);
        }
        let watch = self.content.watch.clone();
        let compared = watch.within(info.place(), || self.compare_snapshot(ctx, &info, &record));
        let found = match compared {
            Ok(found) => found,
            Err(DocError::MissingRoot { epoch }) if !self.roots_needed().needs(epoch) => {
                // It went since a later one was confirmed: nobody owed this one a look then.
                if let Some(mine) = self.checks.mine(info.id) {
                    mine.gone = Gone::Told;
                }
                self.rows.lost_snapshot(info.seq);
                self.rows.meta_dirty = true;
                return Ok(None);
            }
            Err(DocError::UnknownSnapshot { version }) => {
                // Whoever made it has another program. What cannot be read is not judged.
                if let Some(mine) = self.checks.mine(info.id) {
                    mine.unknown = Some(version);
                }
                self.looked(ctx, &info, None)?;
                return Err(DocError::UnknownSnapshot { version });
            }
            Err(error) => return Err(error),
        };
        if let Some(mine) = self.checks.mine(info.id) {
            mine.found = found;
            mine.mark = None;
            mine.before.clear();
        }
        if found == Some(Judgement::Match) {
            self.checks.note_right(info.covered.size);
        }
        self.looked(ctx, &info, found)
    }

    fn looked(
        &mut self,
        ctx: &DocContext<'_>,
        info: &SnapshotInfo,
        found: Option<Judgement>,
    ) -> Result<Option<Checked>, DocError> {
        let looks = &mut self.checks.own.looks;
        looks.count = looks.count.saturating_add(1);
        self.checks.sealed = None;
        self.rows.meta_dirty = true;
        self.maintain(ctx)?;
        Ok(found.map(|judgement| Checked {
            epoch: info.epoch,
            author: info.author.device,
            judgement,
        }))
    }

    /// Compares it with what this device has there, and with what that was before records were void. `None` where only the latter is known, and says the
    /// same.
    fn compare_snapshot(
        &mut self,
        ctx: &DocContext<'_>,
        info: &SnapshotInfo,
        record: &Record,
    ) -> Result<Option<Judgement>, DocError> {
        let epoch = record.header.epoch;
        let root = ctx
            .keys
            .root(epoch)
            .ok_or(DocError::MissingRoot { epoch })?;
        let payload = open(record, &DocKeys::derive(&root, &self.id)).ok();
        let version = payload.as_deref();
        let version = version.and_then(|bytes| SnapshotPayload::unknown_version(bytes));
        if let Some(version) = version {
            return Err(DocError::UnknownSnapshot { version });
        }
        let payload = payload.and_then(|bytes| SnapshotPayload::from_bytes(&bytes).ok());
        let mine = self.checks.get(&info.id);
        let can_compare = self.can_compare(info, mine);
        let known = mine.and_then(|it| it.mark);
        let before = mine.map_or_else(Vec::new, |it| it.before.clone());
        let now = match known {
            _ if !can_compare => None,
            Some(mark) => Some(mark),
            None => Some(self.mark_at(info.covered.size)?),
        };
        let all: Vec<Mark> = now.into_iter().chain(before.iter().copied()).collect();
        let shown = match payload {
            Some(payload) if payload.frontier.head() == info.covered => {
                self.mark_of(ctx, info, &payload, &all)
            }
            Some(_) => Err(DiffersWhy::Tables),
            None => Err(DiffersWhy::Unreadable),
        };
        let was_right = shown.is_ok_and(|mark| before.iter().any(|it| it.agrees_with(&mark)));
        if let Some(mine) = self.checks.mine(info.id)
            && !before.is_empty()
        {
            let was_wrong = !was_right && mine.was_right != Some(true);
            mine.was_right = Some(!was_wrong);
        }
        if let Some(mine) = self.checks.mine(info.id) {
            let is_now = |mark: &Mark| now.is_some_and(|now| mark.agrees_with(&now));
            mine.shown = shown.ok().filter(|mark| !is_now(mark));
        }
        Ok(match (now, shown) {
            (None, Ok(_)) if was_right => None,
            (_, Err(why)) => Some(Judgement::Differs(why)),
            (Some(now), Ok(mark)) if mark.agrees_with(&now) => Some(Judgement::Match),
            (Some(now), Ok(mark)) if !mark.has_tables_of(&now) => {
                Some(Judgement::Differs(DiffersWhy::Tables))
            }
            (_, Ok(_)) => Some(Judgement::Differs(DiffersWhy::Content)),
        })
    }

    /// What a snapshot holds. One whose tables are not those of what it is compared with is loaded only within what they may allow it.
    fn mark_of(
        &mut self,
        ctx: &DocContext<'_>,
        info: &SnapshotInfo,
        payload: &SnapshotPayload,
        with: &[Mark],
    ) -> Result<Mark, DiffersWhy> {
        let tables = digest_of(&payload.tables);
        let why = match with.iter().any(|mark| mark.tables == tables) {
            true => DiffersWhy::Unloadable,
            false => DiffersWhy::Tables,
        };
        let (kind, of) = (self.kind(), &payload.tables);
        if why == DiffersWhy::Tables && !accounts_are_of_members(ctx, of, info.epoch) {
            return Err(why);
        }
        bounded(kind, payload).map_err(|_| why)?;
        let digest = conclave_crdt::load(kind, &payload.state, self.fresh.replica(kind))
            .and_then(|mut scratch| scratch.content_digest());
        let content = digest.map(Hash).map_err(|_| why)?;
        let claims = payload.claims.as_ref();
        Ok(Mark {
            tables,
            claims: claims.map(|claims| digest_of_claims(&payload.tables, claims)),
            content,
        })
    }

    /// What this device has at a position that its content reaches.
    pub(super) fn mark_at(&mut self, covered: u64) -> Result<Mark, DocError> {
        let state = self.content.state_at(covered);
        let none = BTreeSet::new();
        let mut own = self.content.rebuild(covered, &none, &[], &mut self.fresh)?;
        Mark::of(&state, own.as_mut())
    }

    /// Keeps what there is to compare unchecked snapshots with, before the records that they cover become a checkpoint.
    pub(crate) fn mark_unchecked(&mut self) -> Result<(), DocError> {
        let open: Vec<SnapshotInfo> = self.unmarked().map(|it| it.info).collect();
        for info in open {
            let mark = self.mark_at(info.covered.size)?;
            if let Some(mine) = self.checks.mine(info.id) {
                mine.mark = Some(mark);
                self.rows.meta_dirty = true;
            }
        }
        Ok(())
    }

    /// Whether a snapshot is here as it was received.
    pub(super) fn has_sealed(&self, snapshot: &SnapshotInfo) -> bool {
        let have = self.checks.sealed.as_ref();
        have.is_some_and(|record| record.leaf() == snapshot.id) || self.received(snapshot).is_some()
    }

    /// Where it is not in its row yet.
    fn received(&self, snapshot: &SnapshotInfo) -> Option<&[u8]> {
        match &self.content.entry(snapshot.seq)?.sealed {
            Some(Received::Snapshot(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn sealed(&self, snapshot: &SnapshotInfo) -> Result<Option<Record>, DocError> {
        let have = self.checks.sealed.clone();
        let have = have.filter(|record| record.leaf() == snapshot.id);
        let received = self.received(snapshot).filter(|_| have.is_none());
        let received = received.map(read_snapshot).transpose()?;
        Ok(have.or(received))
    }

    /// Takes the snapshot that is wanted for a look from its row: what this device was given once the service cannot withhold. Where the row is not there, or
    /// holds something else, the service is asked.
    pub fn take_snapshot(&mut self, seq: u64, row: &[u8]) {
        let Some(known) = self.remembered_at(seq) else {
            return;
        };
        match read_snapshot(row) {
            Ok(record) if record.leaf() == known => {
                if self.is_of_use(&known) {
                    self.checks.sealed = Some(record);
                }
            }
            _ => self.rows.lost_snapshot(seq),
        }
    }

    /// The service answers with the leaf of a snapshot alone.
    pub(crate) fn is_gone(&mut self, snapshot: &Hash) {
        if self.is_unchecked(snapshot)
            && let Some(mine) = self.checks.mine(*snapshot)
            && mine.gone == Gone::No
        {
            mine.gone = Gone::Yes;
            self.rows.meta_dirty = true;
        }
    }

    /// Whether the service has answered with its leaf alone.
    pub(super) fn is_withheld(&self, snapshot: &Hash) -> bool {
        let mine = self.checks.get(snapshot);
        mine.is_some_and(|it| it.gone != Gone::No)
    }

    /// The document is in step with the service, which has said now which snapshot is the active one: from now on it keeps that for 30 days at least.
    pub fn in_step(&mut self, now: UnixMs) {
        let active = self.state.active.id;
        if let Some(mine) = self.checks.mine(active)
            && mine
                .active
                .is_none_or(|at| now.since_ms(at) >= DAY_MS || at > now)
        {
            mine.active = Some(now);
            self.rows.meta_dirty = true;
        }
    }

    /// Positions of what the service withholds, though it must have it: snapshots that this device should look at, of which it keeps the active
    /// one and its parent, and any for 30 days after it was the active one; and what follows in the log, where this device was in step with it within
    /// that time. Each is told once.
    pub fn withheld(&mut self, now: UnixMs) -> Vec<u64> {
        let recent = |it: &Mine| it.active.is_some_and(|at| now.since_ms(at) < REPLACED_MS);
        let kept = [self.state.active.id, self.state.active.parent];
        let in_step = self.checks.get(&self.state.active.id).is_some_and(recent);
        let must = |it: &&Mine| it.gone == Gone::Yes && (kept.contains(&it.id) || recent(it));
        let mine = self.checks.own.mine.iter().filter(must);
        let place = |it: &Mine| Some((it.id, self.remembered_of(&it.id)?.info.seq));
        let told: Vec<(Hash, u64)> = mine.filter_map(place).collect();
        for (id, _) in &told {
            if let Some(mine) = self.checks.mine(*id) {
                mine.gone = Gone::Told;
                self.rows.meta_dirty = true;
            }
        }
        let stub = self.checks.stub.take().filter(|_| in_step);
        let snapshots = told.into_iter().map(|(_, seq)| seq);
        snapshots.chain(stub).collect()
    }
}

/// What is looked at next.
enum Look {
    First(Box<SnapshotInfo>),
    Again(Box<Descent>),
}

impl Look {
    /// The snapshot for which it takes its record.
    fn of(&self) -> SnapshotInfo {
        match self {
            Self::First(info) => **info,
            Self::Again(descent) => descent.from,
        }
    }
}

/// What a look at a snapshot gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// Epoch under which the snapshot is sealed.
    pub epoch: u64,
    /// Who sealed it.
    pub author: DeviceId,
    /// What was found.
    pub judgement: Judgement,
}

//! What a member knows after a prefix of the log, as a fold over the effects of its records.

use std::collections::BTreeSet;

use conclave_crdt::{CrdtKind, ReplicaId};
use conclave_proto::policy::Role;
use conclave_proto::record::SnapshotHeader;
use conclave_proto::{Author, DeviceId, Hash, Head, UserId};
use conclave_rules::Active;
use serde::{Deserialize, Serialize};

use crate::carried::{Carried, owner};
use crate::claims::{ClaimRun, Claims, KnownClaims};
use crate::context::RootsNeeded;
use crate::heard::{self, Heard, Voice};
use crate::payload::{Account, Judgement, Tables};
use crate::watch::At;
use crate::weight::Weight;

/// How much is written between two positions whose weight is remembered, in bytes.
const STEP_BYTES: u64 = 64 * 1024;
/// Snapshots of which it is remembered what they cover.
const COVERS: usize = 256;
/// Users who are remembered because somebody says otherwise than they.
const DOUBTED: usize = 64;

/// An accepted snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotInfo {
    pub seq: u64,
    pub id: Hash,
    pub author: Author,
    pub user: UserId,
    pub epoch: u64,
    pub parent: Hash,
    pub chain_proof: Hash,
    pub covered: Head,
    /// Encoded size.
    pub bytes: u64,
    /// What the records before its covered head weigh.
    pub weight: Weight,
}

impl SnapshotInfo {
    /// As the rules see it, in a document of this kind.
    pub(crate) fn as_active(&self, kind: CrdtKind) -> Active {
        Active {
            seq: self.seq,
            id: self.id,
            header: SnapshotHeader {
                parent: self.parent,
                chain_proof: self.chain_proof,
                covered: self.covered,
                crdt: kind.code(),
            },
        }
    }

    /// As a place where work can be.
    pub(crate) fn place(&self) -> At {
        At::Snapshot {
            seq: self.seq,
            author: Some(self.author),
        }
    }

    pub(crate) fn is_first(&self) -> bool {
        self.seq == 0 && self.parent == Hash::ZERO
    }
}

fn least() -> Role {
    Role::Viewer
}

/// What a record means beside its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum News {
    /// Nothing: refused, or only its position counts.
    None,
    /// Set aside: its root is missing, and nobody could supply it. What it means is not known.
    Aside,
    /// Void for all, by an admin's entry in the group log.
    Void,
    /// An update that would have cost more than its user had left.
    Costly,
    /// An update that was applied.
    Update,
    /// A new active snapshot.
    Snapshot(Box<SnapshotInfo>),
    /// A member's judgement. In a group of one user, that user's own counts.
    Verdict {
        snapshot: Hash,
        judgement: Judgement,
        user: UserId,
        #[serde(default = "least")]
        role: Role,
        from: u64,
        one_user: bool,
    },
}

/// Everything that one position of the log changes. Kept with the record, so that a log is replayed without judging again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Effect {
    pub leaf: Hash,
    pub bytes: u32,
    /// Epoch of an authentic record; it may not fall afterwards.
    pub epoch: Option<u64>,
    /// Its place at the end of its author's chain.
    pub link: Option<(Author, u64)>,
    /// Replica ids that it writes under, with the next counter of each.
    pub claims: Vec<(ReplicaId, u64)>,
    /// Whose update this is, where its author only carried it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
    /// The accounts of users to whom it was charged, as they are afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<(UserId, Account)>,
    /// Size of the document afterwards, where it may have changed that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops: Option<u64>,
    pub news: News,
}

impl Effect {
    /// The device whose operations these are.
    pub(crate) fn owner(&self) -> Option<DeviceId> {
        let (author, _) = self.link?;
        let carried = self.carried.as_ref();
        Some(carried.map_or(author.device, |by| owner(by, author.device)))
    }

    /// What it says of a snapshot, if it is a verdict.
    pub(crate) fn voice(&self) -> Option<Voice> {
        match self.news {
            News::Verdict {
                judgement,
                user,
                role,
                from,
                one_user,
                ..
            } => Some(Voice {
                user,
                role,
                judgement,
                from,
                one_user,
            }),
            _ => None,
        }
    }
}

/// The last change of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastChange {
    pub seq: u64,
    pub device: DeviceId,
    pub epoch: Option<u64>,
    pub carrier: Option<DeviceId>,
}

/// State of the log's fold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogState {
    pub tables: Tables,
    /// Which record brought which operations. What was written before there were such rows knows none.
    #[serde(default)]
    pub claims: Option<KnownClaims>,
    /// The last change of the content, as far as it is known.
    #[serde(default)]
    pub last: Option<LastChange>,
    /// Counter of a replica's first operation.
    #[serde(default)]
    first_counter: u64,
    pub active: SnapshotInfo,
    /// The snapshot that this began with, and the newest after it, the active one last; with what was said of each. What is remembered follows from
    /// the log alone, since it settles what is void.
    #[serde(default)]
    heard: Vec<Heard>,
    /// What the newest snapshots cover: from there a device may have opened the document.
    #[serde(default)]
    covers: Vec<u64>,
    /// Users whose word on a snapshot somebody contradicts: for those who believe the other, theirs is none.
    #[serde(default)]
    doubted: BTreeSet<UserId>,
    /// (first position, epoch) where a higher epoch begins.
    epochs: Vec<(u64, u64)>,
    /// Carried records that count and that no confirmed snapshot covers: their positions, and the ids that their authors gave them.
    carried: Vec<(u64, Hash)>,
    /// Devices of which a record was left out for its cost: what they had sent after it does not fit, through no fault of theirs.
    costly: BTreeSet<DeviceId>,
    /// What the records so far weigh.
    pub weight: Weight,
    /// (size, weight) after every so many bytes since the active snapshot's covered head.
    steps: Vec<(u64, Weight)>,
}

impl LogState {
    /// The state that a snapshot gives. Records from its covered head on follow.
    pub(crate) fn new(
        kind: CrdtKind,
        tables: Tables,
        claims: Option<Claims>,
        active: SnapshotInfo,
    ) -> Self {
        let first_counter = kind.first_counter();
        let claims = match claims {
            // Who founds a document brings all of it, whatever that one says.
            _ if active.is_first() => {
                let founder = active.author.device;
                KnownClaims::founded(&tables.owners, first_counter, founder)
            }
            Some(claims) => KnownClaims::all(claims),
            None => KnownClaims::begin(active.covered.size),
        };
        let last = claims.known().last().and_then(|(replica, seq, run)| {
            let (device, carrier) = run.author(seq, tables.owners.get(replica)?.device);
            Some(LastChange {
                seq,
                device,
                epoch: match seq == active.seq {
                    true => Some(active.epoch),
                    false => claims.known().epoch_at(seq),
                },
                carrier,
            })
        });
        Self {
            tables,
            claims: Some(claims),
            last,
            first_counter,
            active,
            heard: vec![Heard::new(active)],
            covers: vec![active.covered.size],
            doubted: BTreeSet::new(),
            epochs: Vec::new(),
            carried: Vec::new(),
            costly: BTreeSet::new(),
            weight: active.weight,
            steps: Vec::new(),
        }
    }

    /// What a record changes. Gives a snapshot that is remembered no more.
    pub(crate) fn apply(&mut self, seq: u64, effect: &Effect) -> Option<Heard> {
        if let Some((author, clock)) = effect.link {
            self.tables.advance(author, clock, effect.leaf);
            let device = effect.owner().unwrap_or(author.device);
            self.note_claims(seq, author.device, effect);
            self.tables.claim(device, &effect.claims);
        }
        for (user, account) in &effect.costs {
            self.tables.set_account(*user, *account);
        }
        self.tables.ops = effect.ops.unwrap_or(self.tables.ops);
        if let Some(epoch) = effect.epoch {
            self.tables.epoch_high = self.tables.epoch_high.max(epoch);
            if let Some(claims) = &mut self.claims {
                claims.known_mut().note_epoch(seq, epoch);
            }
            if self.epochs.last().is_none_or(|(_, last)| *last < epoch) {
                self.epochs.push((seq, epoch));
            }
        }
        let carried = effect.carried.map(|carried| (seq, carried.leaf));
        self.carried.extend(carried);
        self.weigh(seq, effect);
        match &effect.news {
            News::None | News::Aside | News::Void => {}
            News::Update => self.last = self.changed_by(seq, effect).or(self.last),
            News::Costly => self.costly.extend(effect.owner()),
            News::Snapshot(info) => return self.adopt(**info),
            News::Verdict { snapshot, .. } => {
                if let Some(voice) = effect.voice() {
                    let others = heard::hear(&mut self.heard, snapshot, voice);
                    self.doubt(voice.user, others);
                }
            }
        }
        None
    }

    fn changed_by(&self, seq: u64, effect: &Effect) -> Option<LastChange> {
        let (author, _) = effect.link?;
        Some(LastChange {
            seq,
            device: effect.owner()?,
            epoch: effect.epoch,
            carrier: effect.carried.map(|_| author.device),
        })
    }

    /// A record by this device has brought operations, of which the tables do not know yet.
    fn note_claims(&mut self, seq: u64, by: DeviceId, effect: &Effect) {
        let Some(claims) = &mut self.claims else {
            return;
        };
        for (replica, next) in &effect.claims {
            let owner = self.tables.owners.get(replica);
            let counter = owner.map_or(self.first_counter, |owner| owner.next);
            let run = ClaimRun {
                counter,
                seq,
                records: 1,
                each: next.saturating_sub(counter),
                carrier: effect.carried.map(|_| by),
            };
            claims.known_mut().note(replica, run);
        }
    }

    /// A user says the contrary of what others say.
    fn doubt(&mut self, user: UserId, others: Vec<UserId>) {
        let own = (!others.is_empty()).then_some(user);
        for user in others.into_iter().chain(own) {
            if self.doubted.len() < DOUBTED {
                self.doubted.insert(user);
            }
        }
    }

    fn weigh(&mut self, seq: u64, effect: &Effect) {
        self.weight = self.weight.plus(Weight::of(effect));
        let last = self.steps.last().map_or(self.active.weight, |step| step.1);
        if self.weight.minus(last).bytes >= STEP_BYTES {
            self.steps.push((seq.saturating_add(1), self.weight));
        }
    }

    fn adopt(&mut self, mut info: SnapshotInfo) -> Option<Heard> {
        // What came between its covered head and the next step counts as covered: never more is new than there is.
        let covered = info.covered.size;
        let next = self.steps.iter().find(|(size, _)| *size >= covered);
        info.weight = next.map_or(self.weight, |step| step.1);
        self.steps.retain(|(size, _)| *size > covered);
        self.active = info;
        if self.covers.len() >= COVERS {
            self.covers.remove(0);
        }
        self.covers.push(covered);
        heard::remember(&mut self.heard, info)
    }

    /// Whether a device may have opened the document at a position, which then judges a snapshot: what another covers that came before it.
    pub(crate) fn may_begin_at(&self, from: u64, snapshot: &SnapshotInfo) -> bool {
        let is_full = self.covers.len() >= COVERS;
        let forgotten = is_full && self.covers.first().is_some_and(|oldest| from < *oldest);
        from < snapshot.covered.size && (forgotten || self.covers.binary_search(&from).is_ok())
    }

    /// Whether somebody contradicts what a user says of snapshots.
    pub(crate) fn is_doubted(&self, user: &UserId) -> bool {
        self.doubted.contains(user)
    }

    /// What was said of snapshots, as far as remembered, the oldest first.
    pub(crate) fn heard(&self) -> &[Heard] {
        &self.heard
    }

    /// What was said of one of them.
    pub(crate) fn heard_of(&self, snapshot: &Hash) -> Option<&Heard> {
        self.heard.iter().find(|it| it.info.id == *snapshot)
    }

    /// What was written before there were such rows knows of the active snapshot alone, and of nothing that was said of it; and of no record before `size`
    /// which operations it brought.
    pub(crate) fn mend(&mut self, kind: CrdtKind, size: u64) {
        if self.heard.is_empty() {
            self.heard.push(Heard::new(self.active));
        }
        if self.claims.is_none() {
            self.claims = Some(KnownClaims::begin(size));
            self.first_counter = kind.first_counter();
        }
    }

    /// The newest snapshot of which the log says that it is right.
    pub(crate) fn settled(&self) -> Option<&SnapshotInfo> {
        let settled = self.heard.iter().rev().find(|it| it.is_settled());
        settled.map(|it| &it.info)
    }

    /// Whether the log says so of the active one.
    pub(crate) fn active_is_settled(&self) -> bool {
        self.settled().is_some_and(|info| info.id == self.active.id)
    }

    /// Roots of what lies before a snapshot that this device has confirmed are not needed any more.
    pub(crate) fn confirm(&mut self, snapshot: &SnapshotInfo) {
        let keep_from = snapshot.covered.size;
        let first_kept = self.epochs.partition_point(|(seq, _)| *seq <= keep_from);
        self.epochs.drain(..first_kept.saturating_sub(1));
        // What is void is settled by the log, and not by what this device has confirmed.
        let settled = self.settled().map_or(0, |info| info.covered.size);
        let keep_from = keep_from.min(settled);
        self.carried.retain(|(seq, _)| *seq >= keep_from);
    }

    /// Whether a carried record counts that holds the record with this id, as far as that is remembered.
    pub(crate) fn has_carried(&self, leaf: &Hash) -> bool {
        self.carriers_of(leaf).next().is_some()
    }

    /// Positions of carried records that hold the record with this id.
    pub(crate) fn carriers_of(&self, leaf: &Hash) -> impl Iterator<Item = u64> {
        let all = self.carried.iter().filter(move |(_, of)| of == leaf);
        all.map(|(seq, _)| *seq)
    }

    /// Whether a later instance of the author's device has written.
    pub(crate) fn is_closed(&self, author: &Author) -> bool {
        let chain = self.tables.chains.get(author);
        chain.is_some_and(|chain| chain.closed)
    }

    /// Whether a record of the device was left out for its cost.
    pub(crate) fn was_costly(&self, device: &DeviceId) -> bool {
        self.costly.contains(device)
    }

    /// Epochs of the records from `seq` on, as far as known.
    pub(crate) fn epochs_from(&self, seq: u64, size: u64) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for (at, (first, epoch)) in self.epochs.iter().enumerate() {
            let end = self.epochs.get(at + 1).map_or(size, |(next, _)| *next);
            if end > seq && *first < size {
                found.insert(*epoch);
            }
        }
        found
    }

    /// Roots that this document's log needs: those of the snapshot that this device has confirmed, and of everything after its covered head. Where
    /// it has confirmed none, all below the one that it began with as well.
    pub(crate) fn roots_needed(&self, confirmed: Option<&SnapshotInfo>, size: u64) -> RootsNeeded {
        let first = self.heard.first().map_or(&self.active, |it| &it.info);
        let anchor = confirmed.unwrap_or(first);
        let mut epochs = self.epochs_from(anchor.covered.size, size);
        epochs.insert(anchor.epoch);
        let since = self.heard.iter().map(|it| &it.info);
        let since = since.filter(|info| info.seq >= anchor.seq);
        epochs.extend(since.map(|info| info.epoch));
        RootsNeeded {
            all_below: confirmed.map_or(anchor.epoch, |_| 0),
            epochs,
            all_from: self.tables.epoch_high,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use conclave_proto::InstanceId;

    fn author(device: u8) -> Author {
        Author {
            device: DeviceId([device; 16]),
            instance: InstanceId([device; 8]),
        }
    }

    pub(crate) fn snapshot(seq: u64, covered: u64, epoch: u64, first: bool) -> SnapshotInfo {
        SnapshotInfo {
            seq,
            id: Hash([seq as u8 + 1; 32]),
            author: author(1),
            user: UserId([1; 32]),
            epoch,
            parent: if first { Hash::ZERO } else { Hash([99; 32]) },
            chain_proof: Hash::ZERO,
            covered: Head {
                size: covered,
                root: Hash([0; 32]),
            },
            bytes: 1,
            weight: Weight::default(),
        }
    }

    fn plain(seq: u64, epoch: u64, news: News) -> Effect {
        Effect {
            leaf: Hash([seq as u8; 32]),
            bytes: 1,
            epoch: Some(epoch),
            link: None,
            claims: vec![],
            carried: None,
            costs: vec![],
            ops: None,
            news,
        }
    }

    fn verdict(snapshot: &SnapshotInfo, judgement: Judgement, user: u8) -> News {
        News::Verdict {
            snapshot: snapshot.id,
            judgement,
            user: UserId([user; 32]),
            role: Role::Editor,
            from: 0,
            one_user: false,
        }
    }

    #[test]
    fn a_root_is_needed_until_a_confirmed_snapshot_covers_its_records_whatever_is_said() {
        let first = snapshot(0, 0, 1, true);
        let mut state = LogState::new(CrdtKind::Yjs, Tables::default(), None, first);
        for seq in 0..4 {
            state.apply(seq, &plain(seq, 1, News::Update));
        }
        state.apply(4, &plain(4, 2, News::Update));
        let needed = |state: &LogState, confirmed| state.roots_needed(Some(confirmed), 8);
        assert_eq!(needed(&state, &first).epochs, BTreeSet::from([1, 2]));
        let second = snapshot(5, 5, 3, false);
        state.apply(5, &plain(5, 3, News::Snapshot(Box::new(second))));
        state.apply(6, &plain(6, 3, verdict(&second, Judgement::Match, 1)));
        assert!(!state.active_is_settled(), "its author does not count");
        state.apply(7, &plain(7, 3, verdict(&second, Judgement::Match, 2)));
        assert!(state.active_is_settled());
        assert_eq!(needed(&state, &first).epochs, BTreeSet::from([1, 2, 3]));
        state.confirm(&second);
        assert_eq!(needed(&state, &second).epochs, BTreeSet::from([3]));
        assert!(!needed(&state, &second).needs(2));
        let differs = Judgement::Differs(crate::payload::DiffersWhy::Content);
        state.apply(8, &plain(8, 3, verdict(&second, differs, 3)));
        assert!(!state.active_is_settled());
        assert!(!needed(&state, &second).needs(2), "it is known to be right");
    }

    /// Whoever writes a document's first snapshot brings what is in it, whatever it says.
    #[test]
    fn a_first_snapshot_that_gives_its_content_to_others_is_its_authors() {
        let first = snapshot(0, 0, 1, true);
        let founder = first.author.device;
        let other = DeviceId([0xbe; 16]);
        assert_ne!(founder, other);
        let replica = ReplicaId::from_bytes(&[1, 2]).unwrap();
        let owner = crate::payload::ReplicaOwner {
            device: other,
            next: 5,
        };
        let tables = Tables {
            owners: [(replica.clone(), owner)].into(),
            ..Tables::default()
        };
        let run = ClaimRun {
            counter: 0,
            seq: 0,
            records: 1,
            each: 5,
            carrier: None,
        };
        let forged = Claims {
            runs: [(replica.clone(), vec![run])].into(),
            epochs: Vec::new(),
        };
        let state = LogState::new(CrdtKind::Yjs, tables, Some(forged), first);
        let claims = state.claims.as_ref().unwrap().whole().unwrap();
        let carrier = claims.find(&replica, 3).and_then(|claim| claim.carrier);
        assert_eq!(carrier, Some(founder));
        let last = state.last.unwrap();
        assert_eq!((last.device, last.carrier), (founder, None));
    }

    #[test]
    fn an_unconfirmed_base_keeps_older_roots() {
        let state = LogState::new(
            CrdtKind::Yjs,
            Tables::default(),
            None,
            snapshot(9, 8, 5, false),
        );
        let needed = state.roots_needed(None, 8);
        assert!(needed.needs(4));
        assert!(needed.needs(5));
        assert!(needed.needs(6), "what comes may be under any later epoch");
    }
}

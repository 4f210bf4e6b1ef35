//! The service's rows of a group: OpenMLS's, the public state's, and the GroupInfo.

use std::collections::BTreeMap;

use conclave_proto::Hash;
use conclave_proto::codec::Bytes;
use conclave_proto::group::GroupEntry;
use conclave_rules::GroupState;
use openmls::group::{GroupId as MlsGroupId, PublicGroup};
use openmls_traits::OpenMlsProvider;
use zeroize::Zeroizing;

use super::{PublicGroupState, has_members_of};
use crate::error::MlsError;
use crate::message;
use crate::overlay::{RowChange, Rows};
use crate::provider::Provider;
use crate::stored::{self, Changed, OWN_ROWS};

const GROUP_INFO_ROW: &[u8] = b"own/group-info";
/// Followed by a position of the log.
const PENDING_ROWS: &[u8] = b"own/pending/";

impl PublicGroupState {
    /// A group that no rows are stored of: all of them are changes.
    pub(super) fn start(
        provider: Provider,
        tree: PublicGroup,
        state: GroupState,
        group_info: Vec<u8>,
    ) -> Self {
        let mut group = Self {
            provider,
            tree,
            state,
            group_info: Vec::new(),
            pending: BTreeMap::new(),
            changed: BTreeMap::new(),
        };
        group.save(Changed::All);
        group.set_group_info(group_info);
        group
    }

    pub(super) fn save(&mut self, changed: Changed) {
        let rows = &mut self.changed;
        stored::write(&self.state, changed, &mut |key, value| {
            rows.insert(key, Some(value));
        });
        if matches!(changed, Changed::Epoch) {
            for (seq, _) in std::mem::take(&mut self.pending) {
                self.changed.insert(pending_row(seq), None);
            }
        }
    }

    /// Positions of pending proposals of which only the log has what was sent.
    #[must_use]
    pub fn pending_in_log(&self) -> Vec<u64> {
        let named = self.state.pending.iter().map(|pending| pending.seq);
        named
            .filter(|seq| !self.pending.contains_key(seq))
            .collect()
    }

    /// Takes a pending proposal from the log. Another entry than that changes nothing.
    pub fn supply_pending(&mut self, seq: u64, entry: GroupEntry) {
        if let GroupEntry::Proposal(message) = entry
            && is_pending(&self.state, seq, &message)
        {
            self.pending.insert(seq, message);
        }
    }

    /// Keeps a pending proposal as it was sent.
    pub(super) fn note_pending(&mut self, seq: u64, message: Bytes) {
        let value = message.as_slice().to_vec();
        self.changed.insert(pending_row(seq), Some(value));
        self.pending.insert(seq, message);
    }

    pub(super) fn set_group_info(&mut self, group_info: Vec<u8>) {
        self.changed
            .insert(GROUP_INFO_ROW.to_vec(), Some(group_info.clone()));
        self.group_info = group_info;
    }

    /// The changes since the last call, to be written in one transaction.
    pub fn take_changes(&mut self) -> Vec<RowChange> {
        let own = std::mem::take(&mut self.changed).into_iter();
        let own = own.map(|(key, value)| RowChange {
            key,
            value: value.map(Zeroizing::new),
        });
        own.chain(self.provider.overlay().drain()).collect()
    }

    /// Every row.
    #[must_use]
    pub fn rows(&self) -> Rows {
        let mut rows = self.provider.overlay().rows();
        stored::write(&self.state, Changed::All, &mut |key, value| {
            rows.push((key, Zeroizing::new(value)));
        });
        let group_info = Zeroizing::new(self.group_info.clone());
        rows.push((GROUP_INFO_ROW.to_vec(), group_info));
        let pending = self.pending.iter();
        rows.extend(pending.map(|(seq, message)| {
            let message = Zeroizing::new(message.as_slice().to_vec());
            (pending_row(*seq), message)
        }));
        rows
    }

    /// Reads a group from its rows, and from the roots of its log from the size on at which its epoch began. No clock is asked: a group whose
    /// members' key packages have long expired loads like any other.
    ///
    /// # Errors
    /// [`MlsError::Damaged`] and others, when rows are missing or contradict each other.
    pub fn load(rows: Rows, roots: Vec<Hash>) -> Result<Self, MlsError> {
        let (own, mls) = rows
            .into_iter()
            .partition::<Rows, _>(|(key, _)| key.starts_with(OWN_ROWS));
        let group_info = own.iter().find(|(key, _)| key == GROUP_INFO_ROW);
        let group_info = group_info.ok_or(MlsError::Damaged)?.1.to_vec();
        let state = stored::read(&own, roots)?;
        let pending = pending(&own, &state)?;
        let provider = Provider::new(mls);
        Ok(Self {
            tree: tree(&provider, &state)?,
            provider,
            state,
            group_info,
            pending,
            changed: BTreeMap::new(),
        })
    }
}

fn pending_row(seq: u64) -> Vec<u8> {
    [PENDING_ROWS, &seq.to_be_bytes()].concat()
}

/// What is pending, as it was sent. What was stored before such rows were is not among them.
fn pending(rows: &Rows, state: &GroupState) -> Result<BTreeMap<u64, Bytes>, MlsError> {
    let mut found = BTreeMap::new();
    for (key, message) in rows {
        let Some(seq) = key.strip_prefix(PENDING_ROWS) else {
            continue;
        };
        let seq = u64::from_be_bytes(seq.try_into().map_err(|_| MlsError::Damaged)?);
        let message = Bytes::from(message.to_vec());
        if !is_pending(state, seq, &message) {
            return Err(MlsError::Damaged);
        }
        found.insert(seq, message);
    }
    Ok(found)
}

/// Whether this message is the proposal that is pending at this position.
fn is_pending(state: &GroupState, seq: u64, message: &Bytes) -> bool {
    let leaf = GroupEntry::Proposal(message.clone()).leaf();
    let mut pending = state.pending.iter();
    pending.any(|pending| (pending.seq, pending.leaf) == (seq, leaf))
}

/// The tree, which has to be that of the state's epoch and members.
fn tree(provider: &Provider, state: &GroupState) -> Result<PublicGroup, MlsError> {
    let id = MlsGroupId::from_slice(state.group.as_bytes());
    message::contained(|| PublicGroup::load(provider.storage(), &id))
        .ok()
        .and_then(Result::ok)
        .flatten()
        .filter(|tree| tree.group_context().epoch().as_u64() == state.epoch)
        .filter(|tree| has_members_of(tree, state))
        .filter(|tree| {
            let queued = tree.queued_proposals(provider.storage());
            queued.is_ok_and(|queued| queued.len() == state.pending.len())
        })
        .ok_or(MlsError::Damaged)
}

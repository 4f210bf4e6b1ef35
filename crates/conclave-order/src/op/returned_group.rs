//! Entries of a group's log that a service had and lost, brought back by somebody who has them.
//!
//! As with documents, an offer is taken whole or not at all: its entries have to lead from where the log stands to a head that the service itself
//! had signed, and each is judged as every member judges it. The public tree follows from that; what does not is the GroupInfo and the root wrap
//! of the epoch that the last commit begins, which whoever brings the entries makes anew, and the Welcomes, which their committers have.

use std::collections::BTreeMap;

use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::refusal::{CommitFault, RecordFault};
use conclave_proto::{DeviceId, GroupId, Hash, Head, Refusal, UnixMs, limits};
use conclave_rules::{GroupState, LogId};

use crate::batch::Decided;
use crate::change::Change;
use crate::event::Event;
use crate::keys::{Keys, Rows, Stop};
use crate::op::entry::{Does, NewEntry};
use crate::op::recovery::{Past, Wanted, wanted_keys};
use crate::query::group::Core;
use crate::rows::{GroupAt, PartChange};

/// Entries for the end of a group's log.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Who brings them.
    pub device: DeviceId,
    /// The group.
    pub group: GroupId,
    /// Position of the first.
    pub from: u64,
    /// The entries.
    pub entries: &'a [GroupEntry],
    /// GroupInfo of the epoch after them.
    pub group_info: Option<&'a [u8]>,
    /// Root wrap of that epoch.
    pub wrap: Option<&'a RootWrap>,
    /// Own commits among them, as they were first sent.
    pub bundles: &'a [CommitBundle],
    /// The time.
    pub now: UnixMs,
}

impl Offer<'_> {
    /// Asks for what has to be known to judge it.
    pub fn needs(&self, keys: &mut Keys) {
        wanted_keys(&LogId::of_group(self.group), keys);
    }

    /// Whether it leads from where the group stands to what is wanted: what it costs nothing to say before anything is judged.
    ///
    /// # Errors
    /// As [`ReturnGroup::judge`].
    pub fn check(&self, state: &GroupState, rows: &Rows) -> Result<(), Stop> {
        wanted(self, state, rows).map(drop)
    }
}

/// Entries, judged, ready for their places.
#[derive(Debug, Clone)]
pub struct ReturnGroup {
    device: DeviceId,
    group: GroupId,
    /// Where the group stood when they were judged.
    expected: GroupAt,
    /// What was wanted.
    wanted: Wanted,
    /// When they were judged.
    now: UnixMs,
    /// What they lead to.
    reached: Head,
    pub(crate) entries: Vec<NewEntry>,
    /// What they change of the group's public state, all together.
    pub(crate) parts: Vec<PartChange>,
    /// Root wrap of the epoch that the last commit begins, if there is one.
    pub(crate) wrap: Option<RootWrap>,
}

fn bad(fault: CommitFault) -> Refusal {
    Refusal::BadCommit { fault }
}

impl ReturnGroup {
    /// Judges an offer against a group's state as it is stored, and takes it into that. Where it is refused, the state is good for nothing more.
    ///
    /// # Errors
    /// [`Stop`]. [`Refusal::Recovering`] where the log stands elsewhere, or the offer does not reach what is wanted; with nothing missing where nothing
    /// is wanted.
    pub fn judge(offer: Offer<'_>, core: &mut Core, rows: &Rows) -> Result<Self, Stop> {
        let state = core.state.state();
        let expected = GroupAt {
            epoch: state.epoch,
            size: state.size(),
            version: core.version,
        };
        let (entries, wanted) = wanted(&offer, state, rows)?;
        let proven = wanted.head.map_or(0, |want| want.size);
        let max = limits::BUNDLES_PER_OFFER;
        if offer.bundles.len() > max {
            let max = max as u64;
            return Err(Refusal::TooLarge { max }.into());
        }
        let own = offer.bundles.iter();
        let own = own.map(|own| (GroupEntry::Commit(own.commit.clone()).leaf(), own));
        let bundles: BTreeMap<Hash, &CommitBundle> = own.collect();
        let mut taken = Vec::with_capacity(entries.len());
        for (entry, version) in entries.iter().zip(core.version..) {
            let bundle = bundles.get(&entry.leaf()).copied();
            let state = &mut core.state;
            let new = NewEntry::returned(state, version, entry, bundle, offer.device)?;
            // What the service had signed it had compared with its clock. The rest may not say that it is of a time to come: no commit could follow it.
            let state = core.state.state();
            let ahead_ms = state.last_time.since_ms(offer.now);
            if state.size() > proven && ahead_ms > limits::COMMIT_TIME_SKEW_MS {
                return Err(bad(CommitFault::Time).into());
            }
            taken.push(new);
        }
        // Who was removed by them brings nothing, and who came in by them may: nobody else may be there who could.
        let state = core.state.state();
        // Breakage: whoever has what was lost may bring it.
        if !state.is_member(&offer.device) && !crate::broken("returned-by-whom") {
            return Err(state.not_member(&offer.device).into());
        }
        let is_whole = entries.len() == offer.entries.len();
        let wrap = epoch_of_last(&offer, core, &taken, is_whole)?;
        Ok(Self {
            device: offer.device,
            group: offer.group,
            expected,
            wanted,
            now: offer.now,
            reached: core.state.state().head(),
            parts: PartChange::taken(&mut core.state),
            entries: taken,
            wrap,
        })
    }

    /// The entries, with what each does.
    #[must_use]
    pub fn entries(&self) -> &[NewEntry] {
        &self.entries
    }

    pub(crate) fn keys(&self, keys: &mut Keys) {
        keys.devices.insert(self.device);
        keys.groups.insert(self.group);
        wanted_keys(&LogId::of_group(self.group), keys);
        keys.group_pleas.insert(self.group);
    }

    pub(crate) fn decide(&self, rows: &Rows) -> Result<Decided, Stop> {
        rows.ensure_active(&self.device)?;
        let group = self.group;
        let log = LogId::of_group(group);
        let row = rows.group(&group)?.ok_or(Refusal::UnknownGroup)?;
        let wanted = rows.wanted_of(&log, self.now)?;
        // It was judged where this stood.
        if (row.at(), wanted) != (self.expected, self.wanted) {
            let have = row.size;
            let want = wanted.head.map_or(have, |want| want.size);
            return Err(Refusal::Recovering { have, want }.into());
        }
        let mut changes = Vec::new();
        let proven = wanted.head.map_or(0, |want| want.size);
        for entry in &self.entries {
            let generation = match entry.head.size > proven {
                true => rows.grows_past(&log, row.grown_in)?,
                // What comes back goes no other way than it went.
                false => row.grown_in,
            };
            changes.extend(entry.changes(rows, generation)?);
        }
        changes.push(Change::Parts {
            group,
            parts: self.parts.clone(),
            wrap: self.wrap.clone(),
        });
        changes.extend(self.wrap.clone().map(|wrap| Change::Wrap { wrap }));
        let hold = rows.recovery_of(&log)?;
        changes.extend(hold.map(|hold| hold.after(row.size, self.reached)));
        let event = Event::Returned {
            seq: self.expected.size,
            head: self.reached,
        };
        Ok(Decided { changes, event })
    }
}

/// The entries of an offer that are taken, and what was wanted. That they lead there is compared before anything of them is judged: what the
/// service had not ordered itself costs hashes, as long as it knows better.
fn wanted<'a>(
    offer: &Offer<'a>,
    state: &GroupState,
    rows: &Rows,
) -> Result<(&'a [GroupEntry], Wanted), Stop> {
    let log = LogId::of_group(offer.group);
    rows.need(|keys| wanted_keys(&log, keys))?;
    let wanted = rows.wanted_of(&log, offer.now)?;
    if wanted.head.is_none() && !state.is_member(&offer.device) {
        // For who is no member there is no such group, unless what was lost made it one.
        return Err(Refusal::UnknownGroup.into());
    }
    let least = wanted.least(state.size(), offer.from, offer.entries.len())?;
    let mut frontier = state.frontier.clone();
    for entry in offer.entries.iter().take(least) {
        frontier.push(entry.leaf());
    }
    // Breakage: whatever comes back is taken for what was lost.
    if wanted.head.is_some_and(|want| frontier.head() != want) && !crate::broken("returned-root") {
        let fault = RecordFault::SeenHead;
        return Err(Refusal::BadRecord { fault }.into());
    }
    let taken = match wanted.past {
        Past::Taken => offer.entries.len(),
        Past::Held | Past::Over => least,
    };
    Ok((offer.entries.get(..taken).unwrap_or_default(), wanted))
}

/// What belongs to the epoch that the last commit begins: its GroupInfo is in the state then, its root wrap is given. Where that commit came
/// back with its bundle, they may be those. Where only a part of the offer is taken they are of another epoch: members put others there.
fn epoch_of_last(
    offer: &Offer<'_>,
    core: &mut Core,
    taken: &[NewEntry],
    is_whole: bool,
) -> Result<Option<RootWrap>, Refusal> {
    let mut commits = taken.iter().rev().filter_map(|entry| match &entry.does {
        Does::Commit(begins) => Some(begins),
        _ => None,
    });
    let Some(last) = commits.next() else {
        return Ok(None);
    };
    if !is_whole {
        return Ok(last.wrap.clone());
    }
    match offer.group_info {
        Some(group_info) => core.state.replace_group_info(offer.device, group_info)?,
        // It came in the same bundle.
        None if last.wrap.is_some() => {}
        None => return Err(bad(CommitFault::GroupInfo)),
    }
    match offer.wrap.or(last.wrap.as_ref()) {
        Some(wrap) => {
            core.state.state().judge_wrap(wrap).map_err(bad)?;
            Ok(Some(wrap.clone()))
        }
        None => Err(bad(CommitFault::Wrap)),
    }
}

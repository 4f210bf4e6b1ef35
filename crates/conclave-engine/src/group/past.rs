//! What is kept of a group's log, so that entries that the service lost can be returned: the entries of the last weeks, all that list documents,
//! and the own commits with what they handed to joiners. A row of the group tells what there is; the rest is read only to be returned.

use std::collections::VecDeque;

use conclave_proto::Record;
use conclave_proto::record::{EntryBody, RecordBody};

use super::*;

const VERSION: u16 = 2;

/// How long entries and own commits are kept, in milliseconds.
const KEPT_MS: u64 = 14 * 24 * 3600 * 1000;
/// And entries for so many epochs.
const KEPT_EPOCHS: u64 = 16;
/// Most that entries take, in bytes.
const LOG_BYTES: u64 = 64 << 20;
/// Entries that are pruned together.
const RUN: u64 = 32;
/// Rows that are pruned in one transition, at most.
const DELETIONS: u64 = 32;

/// What is kept of a group's log.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Past {
    version: u16,
    /// Entries without gaps, up to the last that came.
    runs: VecDeque<Run>,
    /// Own commits, by the epoch that each began, with when that was.
    bundles: VecDeque<(u64, UnixMs)>,
    /// Generation of the service in which the last entry came; zero where none is kept.
    generation: u64,
    /// Whether this differs from its row.
    #[serde(skip)]
    dirty: bool,
}

/// Entries that follow each other. Of the last of them is known when it came, and in which epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    first: u64,
    count: u64,
    at: UnixMs,
    epoch: u64,
    bytes: u64,
}

impl Run {
    fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// An entry as it is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct EntryRow {
    version: u16,
    pub(crate) at: UnixMs,
    pub(crate) epoch: u64,
    pub(crate) entry: Bytes,
}

impl EntryRow {
    pub(crate) fn read(value: &[u8]) -> Result<Self, EngineError> {
        let what = "kept entry";
        let row: Self = keys::uncbor(what, value)?;
        match row.version {
            VERSION => Ok(row),
            _ => Err(EngineError::Store { what }),
        }
    }
}

impl Past {
    pub(crate) fn read(value: &[u8]) -> Result<Self, EngineError> {
        let what = "kept entries";
        let row: Self = keys::uncbor(what, value)?;
        match row.version {
            VERSION => Ok(row),
            _ => Err(EngineError::Store { what }),
        }
    }

    /// First and last position (exclusive) of the entries.
    pub(crate) fn entries(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.runs.front()?, self.runs.back()?);
        Some((first.first, last.end()))
    }

    /// Generation of the service in which the last entry came.
    pub(crate) fn grown_in(&self) -> Option<u64> {
        Some(self.generation).filter(|number| *number > 0)
    }

    /// All of it is at the service in this generation.
    pub(crate) fn note_generation(&mut self, generation: u64) {
        self.generation = generation;
        self.dirty = true;
    }

    /// Epochs that own commits began.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = u64> {
        self.bundles.iter().map(|(epoch, _)| *epoch)
    }

    /// Adds an entry after the last.
    fn push(&mut self, seq: u64, at: UnixMs, epoch: u64, bytes: u64) {
        match self.runs.back_mut().filter(|run| run.count < RUN) {
            Some(run) => {
                run.count += 1;
                run.at = run.at.max(at);
                run.epoch = run.epoch.max(epoch);
                run.bytes = run.bytes.saturating_add(bytes);
            }
            None => self.runs.push_back(Run {
                first: seq,
                count: 1,
                at,
                epoch,
                bytes,
            }),
        }
    }

    /// Takes out what is not kept any longer, the oldest first: a few at a time. Gives keys of rows.
    fn prune(&mut self, group: &GroupId, now: UnixMs, epoch: u64) -> Vec<Vec<u8>> {
        let mut gone = Vec::new();
        let mut left = DELETIONS;
        let mut bytes: u64 = self.runs.iter().map(|run| run.bytes).sum();
        while let Some(run) = self.runs.front() {
            let old =
                now.since_ms(run.at) > KEPT_MS && run.epoch.saturating_add(KEPT_EPOCHS) < epoch;
            let over = bytes > LOG_BYTES && self.runs.len() > 1;
            if !(old || over) || run.count > left {
                break;
            }
            left -= run.count;
            bytes = bytes.saturating_sub(run.bytes);
            let entries = run.first..run.end();
            gone.extend(entries.map(|seq| keys::kept_entry(group, keys::kept::ENTRY, seq)));
            self.runs.pop_front();
        }
        while let Some((epoch, at)) = self.bundles.front().copied() {
            if left == 0 || now.since_ms(at) <= KEPT_MS {
                break;
            }
            left -= 1;
            gone.push(keys::kept_entry(group, keys::kept::BUNDLE, epoch));
            self.bundles.pop_front();
        }
        self.dirty |= !gone.is_empty();
        gone
    }
}

/// Whether a joiner is handed an entry: it lists a document, or says what became of one.
fn lists_documents(record: &Record) -> bool {
    match record.header.body {
        RecordBody::Entry(body) => !matches!(body, EntryBody::RotationComplete { .. }),
        _ => false,
    }
}

impl Cx {
    /// Keeps an entry that has its place, with the epoch that the log is in after it.
    pub(super) fn keep_entry(
        &mut self,
        group: &mut Group,
        seq: u64,
        entry: &GroupEntry,
        epoch: u64,
    ) {
        let (id, at) = (group.id, self.now);
        let value = keys::cbor(&EntryRow {
            version: VERSION,
            at,
            epoch,
            entry: encode(entry).into(),
        });
        let bytes = value.len() as u64;
        let past = &mut group.past;
        let here = past.entries();
        let again = here.is_some_and(|(first, end)| (first..end).contains(&seq));
        if !again {
            if here.is_none_or(|(_, end)| end != seq) {
                // What came before does not lead here.
                past.runs.clear();
                let prefix = keys::kept_entries(&id, keys::kept::ENTRY);
                self.out.writes.delete_prefix(prefix);
            }
            past.push(seq, at, epoch, bytes);
            past.generation = self.link.generation();
            past.dirty = true;
        }
        self.put(keys::kept_entry(&id, keys::kept::ENTRY, seq), value);
        if let GroupEntry::Signed(record) = entry
            && lists_documents(record)
        {
            let value = encode(record).into();
            self.put(keys::kept_entry(&id, keys::kept::LISTING, seq), value);
        }
    }

    /// Keeps the entries that list documents, as a joiner or a device that comes back is handed them. No entry to come has as low a number as
    /// one of them has in this order.
    pub(crate) fn keep_listing(&mut self, group: &GroupId, entries: &[Record]) {
        let prefix = keys::kept_entries(group, keys::kept::LISTING);
        self.out.writes.delete_prefix(prefix);
        for (number, record) in (0..).zip(entries) {
            let key = keys::kept_entry(group, keys::kept::LISTING, number);
            self.put(key, encode(record).into());
        }
    }

    /// Keeps an own commit that is in the log, with its Welcome.
    pub(super) fn keep_bundle(&mut self, group: &mut Group, epoch: u64, bundle: &Bytes) {
        let past = &mut group.past;
        past.bundles.retain(|(of, _)| *of != epoch);
        past.bundles.push_back((epoch, self.now));
        past.dirty = true;
        let key = keys::kept_entry(&group.id, keys::kept::BUNDLE, epoch);
        self.put(key, bundle.as_slice().to_vec().into());
    }

    /// What is kept becomes durable, and what is not kept any longer goes.
    pub(super) fn settle_past(&mut self, group: &mut Group) {
        let epoch = group.state().epoch;
        for key in group.past.prune(&group.id, self.now, epoch) {
            self.delete(key);
        }
        if std::mem::take(&mut group.past.dirty) {
            group.past.version = VERSION;
            let key = keys::group_row(&group.id, keys::group::PAST, b"");
            self.put(key, keys::cbor(&group.past));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId([1; 16]);
    const DAY_MS: u64 = 24 * 3600 * 1000;

    fn filled(entries: u64, bytes: u64) -> Past {
        let mut past = Past::default();
        for seq in 0..entries {
            // One a day, and an epoch for each.
            past.push(10 + seq, UnixMs(seq * DAY_MS), seq, bytes);
        }
        past
    }

    #[test]
    fn entries_stay_for_two_weeks_and_sixteen_epochs() {
        let mut past = filled(64, 100);
        let at = |day: u64| UnixMs(day * DAY_MS);
        // Old, but of the last epochs; and of former epochs, but new.
        assert_eq!(past.prune(&GROUP, at(900), 47).len(), 0);
        assert_eq!(past.prune(&GROUP, at(31 + 14), 900).len(), 0);
        assert!(!past.dirty);
        let gone = past.prune(&GROUP, at(31 + 15), 48);
        assert_eq!(gone.len(), 32);
        assert_eq!(gone[0], keys::kept_entry(&GROUP, keys::kept::ENTRY, 10));
        assert_eq!(past.entries(), Some((42, 74)));
        assert!(past.dirty);
    }

    #[test]
    fn the_oldest_go_where_there_are_too_many_a_few_at_a_time() {
        let mut past = filled(320, LOG_BYTES / 64);
        past.bundles.push_back((7, UnixMs(0)));
        for left in [288, 256, 224] {
            let gone = past.prune(&GROUP, UnixMs(0), 0);
            assert_eq!(gone.len() as u64, DELETIONS);
            let (first, end) = past.entries().unwrap();
            assert_eq!((end - first, end), (left, 330));
        }
        let mut one = filled(3, LOG_BYTES);
        assert_eq!(
            one.prune(&GROUP, UnixMs(0), 0).len(),
            0,
            "the last run stays"
        );
        let rest = past.prune(&GROUP, UnixMs(15 * DAY_MS), 0);
        assert_eq!(rest.len() as u64, DELETIONS);
    }

    #[test]
    fn own_commits_stay_for_two_weeks() {
        let mut past = Past::default();
        past.bundles
            .extend((0..40).map(|epoch| (epoch, UnixMs(epoch))));
        let now = UnixMs(14 * DAY_MS);
        assert_eq!(past.prune(&GROUP, now, 0).len(), 0);
        let later = UnixMs(15 * DAY_MS);
        assert_eq!(past.prune(&GROUP, later, 0).len() as u64, DELETIONS);
        assert_eq!(past.prune(&GROUP, later, 0).len(), 8);
    }

    #[test]
    fn a_row_of_another_version_is_refused() {
        let mut past = filled(3, 9);
        past.version = VERSION + 1;
        assert!(Past::read(&keys::cbor(&past)).is_err());
        past.version = VERSION;
        assert_eq!(Past::read(&keys::cbor(&past)).unwrap().runs, past.runs);
    }
}

//! Findings as rows: each once, until somebody has dismissed it.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use conclave_proto::{DocumentId, GroupId, UnixMs, UserId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::held::held_by;
use super::{About, End, Finding, FindingKind, Names, Step, Suspect};
use crate::command::Reply;
use crate::cx::Cx;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::{Event, Told};
use crate::io::{CommandId, Row};
use crate::keys;

/// Findings kept at most.
const KEPT: usize = 512;
const ROW_VERSION: u16 = 2;

/// Names a finding: the same for the same code, place and suspect. Sixteen hexadecimal digits for people and in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FindingId(pub [u8; 8]);

impl FindingId {
    pub(super) fn of(hash: &[u8; 32]) -> Self {
        let mut id = [0; 8];
        for (to, from) in id.iter_mut().zip(hash) {
            *to = *from;
        }
        Self(id)
    }
}

impl std::fmt::Display for FindingId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for FindingId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(|number| Self(number.to_be_bytes())).ok_or(())
    }
}

impl Serialize for FindingId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FindingId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|()| de::Error::custom("no finding id"))
    }
}

/// How far a finding has come to somebody's notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Nobody has seen it.
    Unseen,
    /// It was shown.
    Seen,
    /// Somebody is done with it.
    Dismissed,
}

/// What [`crate::Command::MarkFindings`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// They were shown.
    Seen,
    /// Somebody is done with them: they are no longer listed, unless they are found again with something new about them.
    Dismissed,
}

/// A finding as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingInfo {
    /// Names it.
    pub id: FindingId,
    /// Stable code.
    pub code: String,
    /// The group, where it is about one.
    pub group: Option<GroupId>,
    /// The document, where it is about one.
    pub document: Option<DocumentId>,
    /// What happened, who is at fault as far as known, what to do: for people.
    pub text: String,
    /// The first sentence of it: what happened.
    pub happened: String,
    /// Who is at fault, as far as known.
    pub fault: String,
    /// What to do.
    pub remedy: String,
    /// The finding itself.
    pub finding: Finding,
    /// The user who is suspected, also where the suspect is a device.
    pub user: Option<UserId>,
    /// When it was found first, by this device's clock.
    pub first: UnixMs,
    /// When it was found last.
    pub last: UnixMs,
    /// How often.
    pub count: u64,
    /// Whether it is settled: what it is about is in order again.
    pub settled: bool,
    /// How far it has come to somebody's notice.
    pub notice: Notice,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct FindingRow {
    version: u16,
    finding: Finding,
    user: Option<UserId>,
    first: UnixMs,
    last: UnixMs,
    count: u64,
    settled: bool,
    notice: Notice,
}

/// All that are kept.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    rows: BTreeMap<FindingId, FindingRow>,
    /// Those that tell of a state which has not ended.
    states: BTreeSet<(About, End, FindingId)>,
    unreadable: bool,
}

impl Findings {
    /// Rows that cannot be read are left alone: the others are of use without them.
    pub(crate) fn load<'a>(rows: impl Iterator<Item = &'a Row>) -> Self {
        let mut this = Self::default();
        for (_, value) in rows {
            match keys::uncbor::<FindingRow>("finding", value) {
                Ok(row) if row.version == ROW_VERSION => this.insert(row.finding.id(), row),
                _ => this.unreadable = true,
            }
        }
        this
    }

    fn insert(&mut self, id: FindingId, row: FindingRow) {
        self.remove(&id);
        self.states.extend(row.state(id));
        self.rows.insert(id, row);
    }

    fn remove(&mut self, id: &FindingId) -> Option<FindingRow> {
        let row = self.rows.remove(id)?;
        if let Some(state) = row.state(*id) {
            self.states.remove(&state);
        }
        Some(row)
    }

    /// Those that tell of a state of a place which such an end is the end of.
    pub(super) fn in_state(&self, about: About, end: End) -> Vec<FindingId> {
        let all = FindingId([0; 8])..=FindingId([0xff; 8]);
        let range = (about, end, *all.start())..=(about, end, *all.end());
        self.states.range(range).map(|(.., id)| *id).collect()
    }

    /// Those that tell of certain states.
    pub(super) fn in_states(&self, meant: impl Fn(&About, End) -> bool) -> Vec<FindingId> {
        let states = self
            .states
            .iter()
            .filter(|(about, end, _)| meant(about, *end));
        states.map(|(.., id)| *id).collect()
    }

    /// Groups of which such a state is told.
    pub(crate) fn groups_in_state(&self, end: End) -> Vec<GroupId> {
        let states = self.states.iter().filter(|(_, other, _)| *other == end);
        states.filter_map(|(about, ..)| about.group()).collect()
    }

    /// How many wait for somebody, and the newest of them.
    fn open(&self) -> (usize, Option<FindingId>) {
        let open = || self.rows.iter().filter(|(_, row)| row.is_open());
        let newest = open().max_by_key(|(id, row)| (row.last, **id));
        (open().count(), newest.map(|(id, _)| *id))
    }

    /// The one that is missed least: dismissed or settled before others, older before newer.
    fn least(&self) -> Option<FindingId> {
        let rank = |row: &FindingRow| (row.is_open(), row.notice == Notice::Unseen, row.last);
        let summary = |row: &FindingRow| matches!(row.finding.what, FindingKind::Dropped { .. });
        let rows = self.rows.iter().filter(|(_, row)| !summary(row));
        rows.min_by_key(|(id, row)| (rank(row), **id))
            .map(|(id, _)| *id)
    }
}

impl FindingRow {
    /// The state that it tells of, while that has not ended.
    fn state(&self, id: FindingId) -> Option<(About, End, FindingId)> {
        let end = self.finding.what.end().filter(|_| !self.settled)?;
        Some((self.finding.about, end, id))
    }

    fn is_open(&self) -> bool {
        self.notice != Notice::Dismissed && !self.settled && !self.finding.what.is_note()
    }
}

impl Cx {
    /// Something does not fit. It becomes durable and is told at the end of this transition.
    pub(crate) fn finding(
        &mut self,
        group: GroupId,
        document: Option<DocumentId>,
        what: FindingKind,
        suspect: Option<Suspect>,
    ) {
        self.found(Finding {
            what,
            about: About::of(group, document),
            suspect,
        });
    }

    /// Its words are made when the transition is over and groups are at rest; its place among the events is here.
    pub(crate) fn found(&mut self, finding: Finding) {
        self.found.push((self.out.told.len(), finding));
    }

    /// Rows that could not be read when the store was opened are told of as well.
    pub(crate) fn findings_loaded(&mut self) {
        if std::mem::take(&mut self.findings.unreadable) {
            let error = EngineError::Store { what: "finding" };
            self.found(Finding {
                what: FindingKind::failed(Step::LoadGroup, &error),
                about: About::Device,
                suspect: None,
            });
        }
    }

    fn put_finding(&mut self, id: FindingId, row: FindingRow) {
        self.put(keys::finding(&id), keys::cbor(&row));
        self.findings.insert(id, row);
    }

    /// What was found is in order again.
    pub(super) fn settle(&mut self, ids: Vec<FindingId>) {
        for id in ids {
            if let Some(mut row) = self.findings.rows.get(&id).cloned() {
                row.settled = true;
                self.put_finding(id, row);
            }
        }
    }

    /// The same as it was found before and is not settled.
    pub(crate) fn open_finding(&self, finding: &Finding) -> Option<FindingKind> {
        let row = self.findings.rows.get(&finding.id());
        row.filter(|row| !row.settled)
            .map(|row| row.finding.what.clone())
    }
}

impl Engine {
    /// What was found in this transition becomes durable and gets its words.
    pub(crate) fn keep_findings(&mut self) {
        if self.cx.found.is_empty() {
            return;
        }
        let found = std::mem::take(&mut self.cx.found);
        let mut told = Vec::with_capacity(self.cx.out.told.len() + found.len());
        let mut events = std::mem::take(&mut self.cx.out.told).into_iter();
        let mut taken = 0;
        for (at, finding) in found {
            told.extend(events.by_ref().take(at.saturating_sub(taken)));
            taken = at;
            let info = self.keep_finding(finding);
            told.extend(info.map(|info| Told::Event(Event::Finding(Box::new(info)))));
        }
        told.extend(events);
        self.cx.out.told = told;
    }

    fn keep_finding(&mut self, finding: Finding) -> Option<FindingInfo> {
        let id = finding.id();
        let group = finding.about.group();
        if let Some(whole) = group.and_then(|id| self.groups.get_mut(&id)?.hot_mut()) {
            // It is told by its title.
            whole.read_titles();
        }
        let user = self.user_of(&finding);
        let now = self.cx.now;
        let row = match self.cx.findings.remove(&id) {
            Some(mut row) => {
                // The same again, in every detail, is nothing new to who has seen it.
                if row.settled || row.finding.what != finding.what {
                    row.notice = Notice::Unseen;
                }
                row.settled = false;
                row.finding = finding;
                row.user = user.or(row.user);
                row.last = now;
                row.count = row.count.saturating_add(1);
                row
            }
            None => FindingRow {
                version: ROW_VERSION,
                finding,
                user,
                first: now,
                last: now,
                count: 1,
                settled: false,
                notice: Notice::Unseen,
            },
        };
        self.cx.put_finding(id, row);
        while self.cx.findings.rows.len() > KEPT {
            self.drop_finding();
        }
        self.finding_info(&id)
    }

    /// There is no room: one goes, and is counted.
    fn drop_finding(&mut self) {
        let Some(id) = self.cx.findings.least() else {
            return;
        };
        let Some(row) = self.cx.findings.remove(&id) else {
            return;
        };
        self.cx.delete(keys::finding(&id));
        if !row.is_open() && row.notice != Notice::Unseen {
            return;
        }
        let mut summary = Finding {
            what: FindingKind::Dropped {
                codes: BTreeMap::new(),
            },
            about: About::Device,
            suspect: None,
        };
        let at = summary.id();
        let before = self.cx.findings.rows.get(&at);
        if let Some(FindingKind::Dropped { codes }) = before.map(|row| &row.finding.what) {
            summary.what = FindingKind::Dropped {
                codes: codes.clone(),
            };
        }
        if let FindingKind::Dropped { codes } = &mut summary.what {
            *codes.entry(row.finding.what.code().to_owned()).or_default() += 1;
        }
        let first = before.map_or(self.cx.now, |row| row.first);
        let count = before.map_or(0, |row| row.count);
        let row = FindingRow {
            version: ROW_VERSION,
            finding: summary,
            user: None,
            first,
            last: self.cx.now,
            count: count.saturating_add(1),
            settled: false,
            notice: Notice::Unseen,
        };
        self.cx.put_finding(at, row);
    }

    /// The user behind a suspect, where the group's members are known here.
    fn user_of(&self, finding: &Finding) -> Option<UserId> {
        let named = match &finding.what {
            FindingKind::Held { at, .. } => held_by(at).map(Suspect::Device),
            _ => None,
        };
        match finding.suspect.or(named)? {
            Suspect::User(user) => Some(user),
            Suspect::Service => None,
            Suspect::Device(device) => {
                let group = &self.whole(&finding.about.group()?)?.group;
                let rows = group.state().roster.rows().iter();
                // Also of one that is no member any more.
                let row = rows.rev().find(|row| row.device == device)?;
                Some(row.user)
            }
        }
    }

    fn finding_info(&self, id: &FindingId) -> Option<FindingInfo> {
        let row = self.cx.findings.rows.get(id)?;
        let about = row.finding.about;
        let whole = about.group().and_then(|group| self.whole(&group));
        let titles = whole.map(|whole| &whole.group.directory);
        let title = |document| titles.and_then(|titles| titles.titles.get(&document).cloned());
        let names = Names {
            group: titles.and_then(|titles| titles.name.clone()),
            document: about.document().and_then(title),
            suspect: row.user.and_then(|user| self.cx.name_of(&user)),
        };
        let words = row.finding.words(&names);
        Some(FindingInfo {
            id: *id,
            code: row.finding.what.code().to_owned(),
            group: about.group(),
            document: about.document(),
            text: words.text(),
            happened: words.happened,
            fault: words.fault,
            remedy: words.remedy,
            finding: row.finding.clone(),
            user: row.user,
            first: row.first,
            last: row.last,
            count: row.count,
            settled: row.settled,
            notice: row.notice,
        })
    }

    /// How many findings wait for somebody, and the newest of them.
    pub(crate) fn open_findings(&self) -> (usize, Option<FindingInfo>) {
        let (count, newest) = self.cx.findings.open();
        (count, newest.and_then(|id| self.finding_info(&id)))
    }

    /// Findings of a group, or all; the newest last. Those that were dismissed are among them only if asked for.
    pub(crate) fn list_findings(&mut self, id: CommandId, group: Option<GroupId>, all: bool) {
        let rows = self.cx.findings.rows.iter().filter(|(_, row)| {
            (group.is_none() || row.finding.about.group() == group)
                && (all || row.notice != Notice::Dismissed)
        });
        let mut found: Vec<(UnixMs, FindingId)> = rows.map(|(id, row)| (row.last, *id)).collect();
        found.sort_unstable();
        let infos = found.iter().filter_map(|(_, id)| self.finding_info(id));
        let reply = Reply::Findings(infos.collect());
        self.cx.reply(id, Ok(reply));
    }

    /// Notes that findings were shown, or that somebody is done with them.
    pub(crate) fn mark_findings(&mut self, command: CommandId, ids: Vec<FindingId>, mark: Mark) {
        for id in ids {
            let Some(mut row) = self.cx.findings.rows.get(&id).cloned() else {
                continue;
            };
            let notice = match (mark, row.notice) {
                (Mark::Dismissed, _) => Notice::Dismissed,
                (Mark::Seen, Notice::Unseen) => Notice::Seen,
                (Mark::Seen, notice) => notice,
            };
            if notice != row.notice {
                row.notice = notice;
                self.cx.put_finding(id, row);
            }
        }
        self.cx.reply(command, Ok(Reply::Done));
    }
}

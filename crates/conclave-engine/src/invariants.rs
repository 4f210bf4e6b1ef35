//! What holds of a device after every transition. Tests ask for it after each step; see also the checks of whole worlds in
//! `tests/engine/world`: each command is answered once, logs only extend and epochs never fall, over restarts too, only members in step seal, a
//! commit is durable before it leaves, stored rows lead back to the same state.

mod steps;

use std::collections::BTreeSet;

use conclave_proto::{DocumentId, GroupId};

#[doc(hidden)]
pub use self::steps::LogMark;
use crate::cx::ReadTarget;
use crate::document::Doc;
use crate::engine::Engine;
use crate::gather::GatherFor;
use crate::group::{Kept, Whole};
use crate::io::CommandId;
use crate::link::{DocLink, DocPending, GroupPending, Pending};
use crate::membership::{GroupSlot, Membership};
use crate::slot::{Awaited, DocSlot};
use crate::unsent::Unsent;
use crate::work::DocWork;

type Invariant = fn(&Engine) -> Result<(), String>;

/// All of them, by name.
const ALL: &[(&str, Invariant)] = &[
    (
        "a transition leaves nothing posted and nothing unsettled",
        nothing_left,
    ),
    (
        "offline nothing is asked, open or on its way",
        offline_nothing,
    ),
    (
        "whoever is asked for has its question, and each creation its own",
        asked_matches_pending,
    ),
    (
        "channels lead to open documents, and each of these has one",
        channels_match_open,
    ),
    (
        "an open document is in memory, or comes back to it",
        open_is_here,
    ),
    (
        "what is not to be received is not open, and rests as drafts where it is in memory",
        paused_is_closed,
    ),
    (
        "what is kept of all documents is what a walk over them gives",
        kept_is_scan,
    ),
    ("timers are the same by time and by kind", timers_agree),
    ("documents in memory are counted", documents_counted),
    ("each document in memory has its age", ages_fit),
    ("titles that are due are in rows", titles_in_rows),
    ("a command waits in one place", waits_in_one_place),
    (
        "what waits for the service of a document is its row",
        unsent_is_row,
    ),
    (
        "what is kept of a document is counted in its row",
        kept_is_counted,
    ),
    (
        "whose membership is ending is parting, or lost its rows",
        parting_matches,
    ),
    (
        "a group or document that loads has its read, or its question",
        loading_is_read,
    ),
    (
        "what the service does not have yet is not followed",
        founding_not_followed,
    ),
    (
        "a group in memory is one that this device is in",
        hot_is_active,
    ),
    ("a commit is asked for once", one_commit),
    (
        "own records that wait stand in an unbroken chain",
        outbox_is_contiguous,
    ),
    (
        "one job has a document, and each that is away is known",
        one_job_each,
    ),
];

impl Engine {
    /// The first invariant that does not hold, with what speaks against it.
    #[doc(hidden)]
    #[must_use]
    pub fn violated(&self) -> Option<String> {
        ALL.iter().find_map(|(name, holds)| {
            let error = holds(self).err()?;
            Some(format!("{name}: {error}"))
        })
    }

    /// How much was done so far: groups settled and documents worked on, and documents looked at for what is kept of all.
    #[doc(hidden)]
    #[must_use]
    pub fn work_done(&self) -> (u64, u64) {
        let looks = self.wholes().map(|whole| whole.group.kept.looks());
        (self.cx.worked, looks.sum())
    }

    /// How many documents are in memory.
    #[doc(hidden)]
    #[must_use]
    pub fn documents_in_memory(&self) -> usize {
        self.wholes().map(|whole| whole.docs.in_memory()).sum()
    }

    /// What is durable of groups and documents, as it prints: the same before and after a restart, once all groups are in memory.
    #[doc(hidden)]
    #[must_use]
    pub fn durable(&self) -> String {
        let groups = self.wholes().map(|whole| whole.group.durable());
        let groups: Vec<String> = groups.collect();
        format!("{groups:?} {:?}", self.cx.unsent)
    }

    fn hot_documents(&self) -> impl Iterator<Item = (&Whole, &Doc)> {
        self.wholes().flat_map(|whole| {
            let hot = whole.docs.iter().filter_map(|(_, slot)| slot.hot());
            hot.map(move |doc| (whole, doc))
        })
    }
}

fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

fn nothing_left(engine: &Engine) -> Result<(), String> {
    let posts = &engine.cx.posts;
    require(posts.is_empty() && engine.is_settled(), || {
        format!("{posts:?}")
    })
}

fn offline_nothing(engine: &Engine) -> Result<(), String> {
    let link = &engine.cx.link;
    let quiet = link.pending().next().is_none() && link.documents().next().is_none();
    require(link.online || quiet, || format!("{link:?}"))
}

fn asked_matches_pending(engine: &Engine) -> Result<(), String> {
    let link = &engine.cx.link;
    for ((group, id), state) in link.documents() {
        let fits = |pending: &Pending| match (state, pending) {
            (
                DocLink::Asking { ask },
                Pending::Group(
                    of,
                    GroupPending::Open {
                        document,
                        ask: other,
                    }
                    | GroupPending::Last {
                        document,
                        ask: other,
                    },
                ),
            ) => (of, document, other) == (group, id, ask),
            (DocLink::Creating, Pending::Document(of, document, DocPending::Create)) => {
                (of, document) == (group, id)
            }
            _ => false,
        };
        // An answer that came while a job has the document waits for it.
        let waits = |work: &DocWork| matches!(work, DocWork::Answer(DocPending::Create, _));
        let slot = engine.whole(group).and_then(|whole| whole.docs.get(id));
        let came = match slot {
            Some(DocSlot::Away(away)) => away.queue.iter().any(waits),
            _ => false,
        };
        let asks = matches!(state, DocLink::Asking { .. } | DocLink::Creating);
        require(!asks || came || link.pending().any(fits), || {
            format!("{id:?} {state:?}")
        })?;
    }
    Ok(())
}

fn channels_match_open(engine: &Engine) -> Result<(), String> {
    let link = &engine.cx.link;
    let open: BTreeSet<(u64, (GroupId, DocumentId))> = link
        .documents()
        .filter_map(|(key, state)| match state {
            DocLink::Open(open) => Some((open.channel, *key)),
            _ => None,
        })
        .collect();
    let channels: BTreeSet<_> = link.channels().collect();
    require(open == channels, || format!("{open:?} {channels:?}"))
}

fn paused_is_closed(engine: &Engine) -> Result<(), String> {
    let cx = &engine.cx;
    for ((group, id), link) in cx.link.documents() {
        let is_open = matches!(link, DocLink::Open(_) | DocLink::Asking { .. });
        let may = !is_open || !cx.is_receive_paused(*group, *id);
        require(may, || format!("{id:?} {link:?}"))?;
    }
    for (whole, doc) in engine.hot_documents() {
        // Where nothing waits, it follows before the next work on it.
        let keeps = cx.pause_of(whole.group.id, doc.id).keeps_drafts();
        let fits = keeps == doc.document.keeps_drafts() || !doc.document.has_unsent();
        require(fits, || format!("{:?}", doc.id))?;
    }
    Ok(())
}

fn open_is_here(engine: &Engine) -> Result<(), String> {
    for ((group, id), state) in engine.cx.link.documents() {
        let whole = engine.whole(group);
        let slot = whole.and_then(|whole| whole.docs.get(id));
        let hot = matches!(slot, Some(DocSlot::Hot(_) | DocSlot::Away(_)));
        let needs = matches!(state, DocLink::Open(_) | DocLink::Creating);
        require(!needs || hot, || format!("{id:?} {state:?}"))?;
    }
    Ok(())
}

fn kept_is_scan(engine: &Engine) -> Result<(), String> {
    for whole in engine.wholes() {
        let group = &whole.group;
        // Follows with the next settling, where a group is leaving.
        let scan = Kept::scan(group);
        let gone = group.parting().is_some();
        require(gone || group.kept == scan, || {
            format!("{:?} {:?}", group.kept, scan)
        })?;
    }
    Ok(())
}

fn timers_agree(engine: &Engine) -> Result<(), String> {
    require(engine.cx.timers.agree(), || {
        format!("{:?}", engine.cx.timers)
    })
}

fn documents_counted(engine: &Engine) -> Result<(), String> {
    let sum: usize = engine.wholes().map(|whole| whole.docs.in_memory()).sum();
    require(engine.documents_here() == sum, || {
        format!("{} {sum}", engine.documents_here())
    })
}

fn ages_fit(engine: &Engine) -> Result<(), String> {
    let hot = engine.hot_documents();
    let ages: std::collections::BTreeMap<_, _> = hot
        .map(|(whole, doc)| (doc.age, (whole.group.id, doc.id)))
        .collect();
    require(ages == engine.cx.by_age, || {
        format!("{ages:?} {:?}", engine.cx.by_age)
    })
}

fn titles_in_rows(engine: &Engine) -> Result<(), String> {
    for whole in engine.wholes() {
        let rows = &whole.group.documents;
        let titled = |id: &DocumentId| rows.get(id).is_none_or(|row| row.title.is_some());
        let due = &whole.group.titles_due;
        require(due.iter().all(titled), || format!("{due:?}"))?;
    }
    Ok(())
}

fn waits_in_one_place(engine: &Engine) -> Result<(), String> {
    let mut waiting: Vec<CommandId> = engine.waiting.iter().map(|(id, _)| *id).collect();
    for slot in engine.groups.values() {
        match slot {
            GroupSlot::Loading(_, work) => waiting.extend(work.iter().filter_map(Awaited::waiter)),
            GroupSlot::Hot(whole) => {
                for (_, slot) in whole.docs.iter() {
                    waiting.extend(slot.waiters());
                }
                let intents = whole.group.intents.values();
                waiting.extend(intents.filter_map(crate::intents::Intent::waiter));
            }
            GroupSlot::Cold(_) | GroupSlot::Stray(..) => {}
        }
    }
    waiting.extend(engine.cx.letting_go.values().flatten());
    let different: BTreeSet<&CommandId> = waiting.iter().collect();
    require(different.len() == waiting.len(), || format!("{waiting:?}"))
}

fn unsent_is_row(engine: &Engine) -> Result<(), String> {
    for (whole, doc) in engine.hot_documents() {
        let group = &whole.group;
        let known = engine.cx.unsent.get(&group.id, &doc.id);
        let (drafts, draft_bytes) = doc.document.drafts();
        let now = Unsent {
            drafts: drafts as u64,
            draft_bytes: draft_bytes as u64,
            since: known.since.filter(|_| drafts > 0),
            told: known.told,
            edits: doc.document.pending_count() as u64,
            creating: group.is_creating(&doc.id),
        };
        let fits = known == now && known.since.is_some() == (drafts > 0);
        require(fits, || format!("{:?} {known:?} {now:?}", doc.id))?;
    }
    Ok(())
}

fn kept_is_counted(engine: &Engine) -> Result<(), String> {
    for (whole, doc) in engine.hot_documents() {
        let row = whole.group.documents.get(&doc.id);
        let listed = row.map_or(0, |row| row.kept);
        let here = doc.document.kept_bytes();
        require(listed == here, || format!("{:?} {listed} {here}", doc.id))?;
    }
    let wholes = engine.wholes().map(|whole| &whole.group.documents);
    let sum: u64 = wholes.flatten().map(|(_, row)| row.kept).sum();
    let all = engine.cx.kept_bytes;
    require(sum <= all, || format!("{sum} of {all}"))
}

fn parting_matches(engine: &Engine) -> Result<(), String> {
    for id in engine.cx.parting.keys() {
        let slot = engine.groups.get(id);
        let stray = matches!(slot, Some(GroupSlot::Stray(..)));
        let here = slot.map(GroupSlot::membership);
        let parting = matches!(here, Some(Membership::Parting(_)));
        require(stray || parting, || format!("{id:?} {here:?}"))?;
    }
    Ok(())
}

fn loading_is_read(engine: &Engine) -> Result<(), String> {
    let reads = || engine.cx.reads.values();
    for (id, slot) in &engine.groups {
        let loads = matches!(slot, GroupSlot::Loading(..));
        let read = reads().any(|read| matches!(read, ReadTarget::Group(of) if of == id));
        require(!loads || read, || format!("{id:?}"))?;
        let Some(whole) = slot.hot() else { continue };
        for (document, slot) in whole.docs.iter() {
            let loads = matches!(slot, DocSlot::Loading(_)) && whole.group.is_local(document);
            let wanted = GatherFor::Document(*id, *document);
            let read = engine.cx.gathers.values().any(|it| it.is_for(wanted));
            require(!loads || read, || format!("{document:?}"))?;
        }
    }
    Ok(())
}

fn founding_not_followed(engine: &Engine) -> Result<(), String> {
    for whole in engine.wholes() {
        let group = &whole.group;
        require(!group.is_founding() || !group.is_subscribed(), || {
            format!("{group:?}")
        })?;
    }
    Ok(())
}

fn hot_is_active(engine: &Engine) -> Result<(), String> {
    for whole in engine.wholes() {
        let here = &whole.group.membership;
        require(here.is_active(), || format!("{here:?}"))?;
    }
    Ok(())
}

fn one_commit(engine: &Engine) -> Result<(), String> {
    for whole in engine.wholes() {
        let group = &whole.group;
        let Some(kept) = group.inflight.as_ref().filter(|commit| commit.is_sent()) else {
            continue;
        };
        // The answer to one that is in the log already, or lost its race, may still come.
        let asked = engine.cx.link.pending().filter(|pending| {
            let what = GroupPending::Commit { leaf: kept.leaf };
            **pending == Pending::Group(group.id, what)
        });
        let count = asked.count();
        require(count <= 1, || format!("{:?} {count}", kept.leaf))?;
    }
    Ok(())
}

fn outbox_is_contiguous(engine: &Engine) -> Result<(), String> {
    for (_, doc) in engine.hot_documents() {
        require(doc.document.outbox_is_contiguous(), || {
            format!("{:?}", doc.document)
        })?;
    }
    Ok(())
}

fn one_job_each(engine: &Engine) -> Result<(), String> {
    let mut away = BTreeSet::new();
    for whole in engine.wholes() {
        let group = &whole.group;
        let mut here = BTreeSet::new();
        for (id, slot) in whole.docs.iter() {
            if let DocSlot::Away(it) = slot {
                here.insert(*id);
                away.insert((it.work, (group.id, *id)));
            }
        }
        require(here == group.lent, || format!("{here:?} {:?}", group.lent))?;
    }
    let lent = engine.cx.lent.iter().map(|(work, at)| (*work, *at));
    let lent: BTreeSet<_> = lent.collect();
    require(away == lent, || format!("{away:?} {lent:?}"))
}

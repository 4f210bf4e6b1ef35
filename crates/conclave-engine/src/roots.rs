//! Epoch roots: kept while a document needs them. Members supply each other with them by wraps, and ask where one is missing. What nobody
//! can supply is set aside.

use std::collections::{BTreeMap, BTreeSet};

use conclave_doc::KeySource;
use conclave_mls::{ClientGroup, EpochRoot, EpochSecrets};
use conclave_proto::frame::{Answer, Plea, Request};
use conclave_proto::group::RootWrap;
use conclave_proto::policy::JoinerAccess;
use conclave_proto::record::CloseReason;
use conclave_proto::{DeviceId, DocumentId, GroupId, UnixMs};
use serde::{Deserialize, Serialize};

use crate::engine::{Engine, TimerKind};
use crate::group::Group;
use crate::keys;

/// How often members are asked for a root before what it seals is set aside.
const PLEAS: u32 = 2;
/// Between two pleas, in milliseconds.
const PLEA_MS: u64 = 5_000;

/// What is missing of a group's roots.
#[derive(Default)]
pub(crate) struct Missing {
    /// Documents that stand still for want of a root, with how often members were asked.
    waiting: BTreeMap<DocumentId, u32>,
    /// How often members were asked since anything changed.
    pleas: u32,
    asked: bool,
}

impl Missing {
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// A stored epoch root.
#[derive(Serialize, Deserialize)]
pub(crate) struct RootRow {
    pub(crate) root: EpochRoot,
    /// When its epoch began, or when it came here.
    pub(crate) since: UnixMs,
}

/// Roots by epoch.
#[derive(Default)]
pub(crate) struct Roots(pub(crate) BTreeMap<u64, EpochRoot>);

impl KeySource for Roots {
    fn root(&self, epoch: u64) -> Option<EpochRoot> {
        self.0.get(&epoch).cloned()
    }
}

impl Engine {
    /// Keeps the root of a new epoch; the wrap key and presence root of the old one are gone with their row.
    pub(crate) fn enter_epoch(&mut self, group: &mut Group, secrets: EpochSecrets) {
        let key = keys::group_row(&group.id, keys::group::SECRETS, b"");
        self.put(key, keys::cbor(&secrets));
        self.keep_root(group, secrets.epoch, secrets.root.clone());
        group.secrets = Some(secrets);
    }

    pub(crate) fn keep_root(&mut self, group: &mut Group, epoch: u64, root: EpochRoot) {
        let key = keys::group_row(&group.id, keys::group::ROOT, &epoch.to_be_bytes());
        let since = self.service_now();
        let row = RootRow { root, since };
        self.put(key, keys::cbor(&row));
        group.roots.0.insert(epoch, row.root);
        group.root_times.insert(epoch, since);
    }

    /// Erases the roots that no document needs any more. Evidence is demanded for every listed document.
    pub(crate) fn erase_roots(&mut self, group: &mut Group) {
        let current = group.state().epoch;
        let mut needed = BTreeSet::from([current]);
        let mut all_below = 0;
        let mut complete = current;
        for (document, entry) in &group.state().documents {
            if entry.closed.is_some_and(|why| why != CloseReason::Archived) {
                continue;
            }
            match group.documents.get(document) {
                Some(row) if row.local => {
                    needed.extend(&row.needed);
                    all_below = all_below.max(row.all_below);
                    complete = complete.min(row.complete);
                }
                _ => return,
            }
        }
        let gone: Vec<u64> = group
            .roots
            .0
            .keys()
            // Records of an epoch may still be on their way where a log is not known to have left it.
            .filter(|epoch| **epoch < complete && **epoch >= all_below && !needed.contains(epoch))
            .copied()
            .collect();
        for epoch in gone {
            if cfg!(feature = "break-keep-roots") {
                // Breakage: roots that nothing needs are kept.
                continue;
            }
            group.roots.0.remove(&epoch);
            group.root_times.remove(&epoch);
            let key = keys::group_row(&group.id, keys::group::ROOT, &epoch.to_be_bytes());
            self.delete(key);
        }
    }

    /// A document stands still because a root is missing.
    pub(crate) fn root_missing(&mut self, group: &mut Group, document: DocumentId, epoch: u64) {
        let row = group.documents.entry(document).or_default();
        if row.missing.replace(epoch) != Some(epoch) {
            self.save_document_row(group, &document);
        }
        if group.state().policy.joiner_access == JoinerAccess::FromJoin {
            // Nothing older is wrapped: the document comes with its next snapshot.
            return;
        }
        group.missing.waiting.entry(document).or_default();
        self.ask_for_wraps(group);
        self.plead_later(group);
    }

    /// Asks the members after a while, unless what is missing has come; longer each time.
    pub(crate) fn plead_later(&mut self, group: &Group) {
        let delay = PLEA_MS << group.missing.pleas.min(2);
        self.wake(delay, TimerKind::Roots(group.id));
    }

    /// A document goes on.
    pub(crate) fn root_found(&mut self, group: &mut Group, document: DocumentId) {
        group.missing.waiting.remove(&document);
        let row = group.documents.get_mut(&document);
        if row.is_some_and(|row| row.missing.take().is_some()) {
            self.save_document_row(group, &document);
        }
    }

    /// Roots are still missing: members are asked, and in the end what nobody can open is set aside.
    pub(crate) fn roots_due(&mut self, group: &mut Group) {
        let wanting = !group.missing.waiting.is_empty() || group.is_unproven();
        if !wanting || group.is_broken() {
            return;
        }
        if !self.link.online {
            return self.plead_later(group);
        }
        group.missing.pleas = group.missing.pleas.saturating_add(1);
        self.ask_members(group.id, Plea::Wrap);
        let mut hopeless = Vec::new();
        for (document, pleas) in &mut group.missing.waiting {
            *pleas = pleas.saturating_add(1);
            if *pleas > PLEAS {
                hopeless.push(*document);
            }
        }
        for document in hopeless {
            group.missing.waiting.remove(&document);
            if self.hot_documents(&group.id).contains(&document) {
                self.set_aside(group, document);
            }
        }
        self.ask_for_wraps(group);
        self.plead_later(group);
    }

    /// Asks for the wraps of the current epoch: some root is missing here.
    pub(crate) fn ask_for_wraps(&mut self, group: &mut Group) {
        if group.missing.asked {
            return;
        }
        group.missing.asked = true;
        self.with_wraps(group, |engine, group, wraps| {
            group.missing.asked = false;
            for wrap in wraps {
                engine.use_wrap(group, &wrap);
            }
        });
    }

    /// Gets the wraps of the current epoch. Nothing happens where a new one has begun meanwhile: what is still missing then is asked for
    /// again.
    fn with_wraps(
        &mut self,
        group: &Group,
        work: impl FnOnce(&mut Self, &mut Group, Vec<RootWrap>) + Send + 'static,
    ) {
        let (id, epoch) = (group.id, group.state().epoch);
        self.request(
            Request::GetWraps { group: id, epoch },
            Box::new(move |engine, answer| {
                let wraps = match answer {
                    Answer::Wraps { wraps } => wraps,
                    _ => Vec::new(),
                };
                engine.with_group(
                    id,
                    Box::new(move |engine, group| {
                        let current = group.state().epoch == epoch;
                        work(engine, group, if current { wraps } else { Vec::new() });
                    }),
                );
            }),
        );
    }

    /// Takes the roots of a wrap that are not here yet. A root that differs from a known one is a finding.
    fn use_wrap(&mut self, group: &mut Group, wrap: &RootWrap) {
        let Some(secrets) = group.secrets.clone() else {
            return;
        };
        if group.state().judge_wrap(wrap).is_err() {
            self.finding(
                group.id,
                None,
                "service.bad_wrap",
                None,
                "the service gave a root wrap that no member signed for this epoch",
            );
            return;
        }
        let roots = match ClientGroup::open_wrap(&secrets, wrap) {
            Ok(roots) => roots,
            Err(error) => {
                let text = error.to_string();
                self.finding(group.id, None, error.code(), Some(wrap.signer), &text);
                return;
            }
        };
        if wrap.signer != self.device.id() && !roots.is_empty() {
            // Whoever sealed it holds the secrets of this epoch.
            self.proven(group, wrap.statement.epoch);
        }
        let (mut news, mut wrong) = (false, false);
        for (epoch, root) in roots {
            match group.roots.0.get(&epoch) {
                Some(known) if *known == root => {}
                Some(_) => wrong = true,
                None => {
                    self.keep_root(group, epoch, root);
                    news = true;
                }
            }
        }
        if wrong {
            self.finding(
                group.id,
                None,
                "group.wrong_wrap",
                Some(wrap.signer),
                "a member wrapped a root that differs from the one known here",
            );
            self.put_own_wrap(group, &secrets);
        }
        if news {
            self.epoch_changed(group);
            // What nobody needs here does not come back through somebody else's wrap.
            self.erase_roots(group);
        }
    }

    /// A device came back or asks for roots: one member, whoever is first, gives them.
    pub(crate) fn plan_wrap(&mut self, group: &Group) {
        if group.state().policy.joiner_access == JoinerAccess::LiveContent {
            let delay = self.jitter(200, 3_000);
            self.wake(delay, TimerKind::Wrap(group.id));
        }
    }

    /// Puts a wrap unless another member's already holds all that this device knows.
    pub(crate) fn wrap_due(&mut self, group: &mut Group) {
        if !group.may_act() || group.roots.0.len() < 2 {
            return;
        }
        let own = self.device.id();
        self.with_wraps(group, move |engine, group, wraps| {
            let Some(secrets) = group.secrets.clone() else {
                return;
            };
            let older: BTreeSet<u64> = group
                .roots
                .0
                .keys()
                .copied()
                .filter(|epoch| *epoch < secrets.epoch)
                .collect();
            let returned = group.came_back;
            let enough = wraps.iter().any(|wrap| {
                let good = Some(wrap.signer) != returned && group.state().judge_wrap(wrap).is_ok();
                good && ClientGroup::open_wrap(&secrets, wrap).is_ok_and(|roots| {
                    let held: BTreeSet<u64> = roots.iter().map(|(epoch, _)| *epoch).collect();
                    older.is_subset(&held)
                })
            });
            let given = wraps.iter().any(|wrap| wrap.signer == own);
            if group.may_act() && !enough && !given {
                engine.put_own_wrap(group, &secrets);
            }
        });
    }

    /// Gives joiners another wrap to choose from.
    fn put_own_wrap(&mut self, group: &mut Group, secrets: &EpochSecrets) {
        let roots: Vec<(u64, EpochRoot)> = group.live_roots();
        let Ok(context) = self.device.context() else {
            return;
        };
        if let Ok(wrap) = group
            .mls
            .seal_wrap(&context, secrets, &roots, &mut self.rng)
        {
            self.request(Request::PutWrap { wrap }, Box::new(|_, _| {}));
        }
    }

    /// A device asks the members for help.
    pub(crate) fn asked(&mut self, group: GroupId, device: DeviceId, what: Plea) {
        self.with_group(
            group,
            Box::new(move |engine, group| match what {
                Plea::Wrap => engine.plan_wrap(group),
                Plea::ReAdd => engine.readd_asked(group, device),
            }),
        );
    }
}

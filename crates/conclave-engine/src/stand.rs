//! How the service's logs stand to what this device has of them. What is behind or away is told; nothing is sent to a log that is away.

use conclave_proto::service::{LogName, SignedHead};
use conclave_proto::{DocumentId, GroupId, UnixMs};

use crate::cx::Cx;
use crate::evidence::OwnLog;
use crate::finding::{About, End, Finding, FindingKind, Suspect};
use crate::group::Group;

/// How the service's log of a group or document stands to the own one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stand {
    /// Nothing else is known.
    #[default]
    InStep,
    /// The service has more: it is being fetched.
    Behind,
    /// The service's log is shorter, and the same as far as own leaves reach. The service says nothing of having been put back.
    Ahead,
    /// As before, and the service was put back since: what it lacks is returned to it.
    Returning,
    /// Both went on, each in another way.
    Apart,
    /// As before, and the service was put back since, or has given up what is here: a group's log, which nobody can merge.
    Parted,
    /// As before, a document's log: it begins anew from there, and what is lost is carried.
    Merging,
    /// The service has signed two histories.
    Contradicted,
}

impl Stand {
    /// Whether nothing may be sent to the log.
    pub(crate) fn is_away(self) -> bool {
        !matches!(self, Self::InStep | Self::Behind)
    }
}

/// What is missing at the service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Missing {
    /// Entries or records that it does not show.
    pub(crate) count: u64,
    /// When the newest of them was ordered, or came here; zero where that is not known.
    pub(crate) newest: UnixMs,
}

fn finding(what: FindingKind, about: About) -> Finding {
    // Put back or dishonest: from here nobody can tell, so nobody is accused, but of two signatures that go not together.
    let suspect = (what == FindingKind::Contradicted).then_some(Suspect::Service);
    Finding {
        what,
        about,
        suspect,
    }
}

impl Cx {
    /// The service's log has only `have` of what is here. It is shown what it had signed, where that is more.
    pub(crate) fn shorter(
        &mut self,
        group: &Group,
        document: Option<DocumentId>,
        have: u64,
    ) -> Stand {
        self.report(group, document, have);
        if self.is_put_back_since(group.grown_in(document)) {
            Stand::Returning
        } else {
            Stand::Ahead
        }
    }

    /// The service shows another head than the own log has at that place. Where it has signed both in one generation, it has contradicted itself.
    pub(crate) fn forked(
        &mut self,
        group: &mut Group,
        document: Option<DocumentId>,
        signed: Option<&SignedHead>,
        own: &dyn OwnLog,
    ) -> Stand {
        let number = self.link.generation();
        // Whether it was put back and went on, or lies: what it had signed is shown to it.
        self.report(group, document, 0);
        let shown = self.largest_shown(group, document);
        let proven = shown.is_some_and(|shown| {
            let head = shown.head();
            shown.generation == number && own.head_at(head.size) == Some(head)
        });
        let covered =
            |signed: &SignedHead| shown.is_some_and(|shown| signed.head.size <= shown.head().size);
        match signed.filter(|signed| proven && covered(signed)) {
            Some(signed) => {
                let log = LogName {
                    group: group.id,
                    document,
                };
                if let Some((generation, shown)) = self.link.named.zip(shown) {
                    self.convict_of_fork(log, &generation, (signed, &shown.signed), own);
                }
                self.contradicted(group, document, signed);
                Stand::Contradicted
            }
            None => self.apart(group, document),
        }
    }

    /// Both logs went on, each in another way, and nothing proves that the service lies.
    pub(crate) fn apart(&self, group: &Group, document: Option<DocumentId>) -> Stand {
        match document {
            _ if !self.is_put_back_since(group.grown_in(document)) => Stand::Apart,
            None => Stand::Parted,
            Some(_) => Stand::Merging,
        }
    }

    /// The service's log is behind the own one, or went another way: it is told. The service may have lost the device's key packages, or give
    /// used ones, too: where this is news, they are replaced.
    pub(crate) fn tell_away(
        &mut self,
        group: GroupId,
        document: Option<DocumentId>,
        stand: Stand,
        missing: Missing,
    ) {
        let what = match stand {
            Stand::Ahead => FindingKind::Ahead {
                missing: missing.count,
                seen: missing.newest,
            },
            Stand::Returning => FindingKind::Returning {
                missing: missing.count,
            },
            Stand::Apart => FindingKind::Apart,
            Stand::Parted => FindingKind::Parted,
            Stand::Contradicted => FindingKind::Contradicted,
            // Told when it begins.
            Stand::InStep | Stand::Behind | Stand::Merging => return,
        };
        match stand {
            Stand::Returning => self.link.returning.insert((group, document)),
            _ => self.link.returning.remove(&(group, document)),
        };
        let found = finding(what.clone(), About::of(group, document));
        let before = self.open_finding(&found);
        if before.as_ref() == Some(&what) {
            return;
        }
        if before.is_none() && !self.link.packages_doubted {
            self.link.packages_doubted = true;
            self.replace_key_packages();
        }
        // How it stood before is over.
        self.ended(About::of(group, document), End::InStep);
        self.found(found);
    }

    /// The service shows all that this device has of a log: from here on that is what it has in this generation.
    pub(crate) fn note_in_step(&mut self, group: &mut Group, document: Option<DocumentId>) {
        let now = self.link.generation();
        if group.grown_in(document) == Some(now) {
            return;
        }
        match document {
            None => group.past.note_generation(now),
            Some(id) => {
                let Some(row) = group.documents.get_mut(&id) else {
                    return;
                };
                row.grown_in = now;
                self.save_document_row(group, &id);
            }
        }
    }

    /// The service shows all that this device has.
    pub(crate) fn tell_in_step(&mut self, group: GroupId, document: Option<DocumentId>) {
        self.link.returning.remove(&(group, document));
        self.ended(About::of(group, document), End::InStep);
    }
}

//! How the service's logs stand to what this device has of them. What is behind or away is told; nothing is sent to a log that is away.

use conclave_proto::{DocumentId, GroupId, UnixMs};

use crate::cx::Cx;
use crate::finding::{About, End, Finding, FindingKind};

/// How the service's log of a group or document stands to the own one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stand {
    /// Nothing else is known.
    #[default]
    InStep,
    /// The service has more: it is being fetched.
    Behind,
    /// The service's log is shorter, and the same as far as own leaves reach.
    Ahead,
    /// Both went on, each in another way.
    Apart,
}

impl Stand {
    /// Whether nothing may be sent to the log.
    pub(crate) fn is_away(self) -> bool {
        matches!(self, Self::Ahead | Self::Apart)
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

fn about(group: GroupId, document: Option<DocumentId>) -> About {
    match document {
        Some(document) => About::Document(group, document),
        None => About::Group(group),
    }
}

fn finding(what: FindingKind, about: About) -> Finding {
    // Put back or dishonest: from here nobody can tell, so nobody is accused.
    Finding {
        what,
        about,
        suspect: None,
    }
}

impl Cx {
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
            Stand::Apart => FindingKind::Apart,
            Stand::InStep | Stand::Behind => return,
        };
        let found = finding(what.clone(), about(group, document));
        let before = self.open_finding(&found);
        if before.as_ref() == Some(&what) {
            return;
        }
        if before.is_none() && !self.link.packages_doubted {
            self.link.packages_doubted = true;
            self.replace_key_packages();
        }
        // How it stood before is over.
        self.tell_in_step(group, document);
        self.finding(group, document, what, None);
    }

    /// The service shows all that this device has.
    pub(crate) fn tell_in_step(&mut self, group: GroupId, document: Option<DocumentId>) {
        self.ended(about(group, document), End::InStep);
    }
}

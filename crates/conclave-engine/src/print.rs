//! A device's state as text. Equal states print the same; secrets and content are not printed.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::commands::Listing;
use crate::cx::Cx;
use crate::device::Device;
use crate::engine::Engine;

/// Content: it is not printed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden<T>(pub(crate) T);

impl<T> fmt::Debug for Hidden<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("cx", &self.cx)
            .field("groups", &self.groups)
            .field("invitations", &self.invitations)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rescues = self.rescues.values();
        let rescues: Vec<_> = rescues.map(|it| (it.id, it.bytes, it.told)).collect();
        f.debug_struct("Cx")
            .field("device", &self.device)
            .field("key_packages", &self.keystore.count())
            .field("link", &self.link)
            .field("clocks", &self.clocks)
            .field("timers", &self.timers)
            .field("findings", &self.findings)
            .field("operations", &self.operations)
            .field("unsent", &self.unsent)
            .field("rescues", &rescues)
            .field("rescue_full", &self.rescue_full)
            .field("parting", &self.parting)
            .field("gathers", &self.gathers)
            .field("letting_go", &self.letting_go)
            .field("listing", &self.listing)
            .field("restored", &self.restored)
            .field("reads", &self.reads)
            .field("lent", &self.lent)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("id", &self.id())
            .field("instance", &self.instance())
            .field("user", &self.user())
            .field("list", &self.list())
            .field("packages_lost", &self.packages_lost())
            .field("packages_made", &self.packages_made())
            .field("life", self.life())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Groups { rest, done } => write!(f, "Groups({rest:?}, {} done)", done.len()),
            Self::Documents(group, only) => write!(f, "Documents({group:?}, {only:?})"),
        }
    }
}

impl Engine {
    /// A hash of what the state prints as.
    #[must_use]
    pub fn state_hash(&self) -> [u8; 32] {
        Sha256::digest(format!("{self:?}")).into()
    }
}

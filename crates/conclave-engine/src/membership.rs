//! Where this device stands in a group: one durable row, in memory from the start.

use std::collections::BTreeSet;

use conclave_proto::codec::Bytes;
use conclave_proto::{DeviceId, DocumentId, GroupId, UnixMs};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::EngineError;
use crate::group::{Stray, Whole};
use crate::keys;
use crate::rescue::PartingRow;
use crate::rotation::Rotation;
use crate::work::GroupWork;

/// A group's creation on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Creation {
    pub(crate) group_info: Bytes,
    pub(crate) tree: Bytes,
    /// When the group begins, from the first offer on.
    #[serde(default)]
    pub(crate) founded: Option<UnixMs>,
}

/// Where this device stands in a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Membership {
    /// It was made here, and the service does not have it yet.
    Founding(Creation),
    Member,
    /// This device cannot follow the log, and comes back by an external commit before it seals anything more.
    Returning {
        /// Code of why.
        why: String,
        /// Whether it has nothing to compare the group with: what it holds of it came from the service alone.
        blind: bool,
    },
    /// It came back with nothing to compare the group with, and nobody has shown yet that it is the right one.
    Unproven {
        /// Epoch in which it came back.
        since: u64,
    },
    /// An ordered entry broke the rules: nothing is sealed, reading goes on.
    Frozen {
        /// Code of what was wrong.
        why: String,
        /// Where it stood before.
        was: Box<Membership>,
    },
    /// The membership has ended, and own edits are still to be kept apart.
    Parting(PartingRow),
    Left {
        why: String,
    },
}

impl Membership {
    /// Whether this device is in the group, or believes so.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(self, Self::Left { .. })
    }

    pub(crate) fn parting(&self) -> Option<&PartingRow> {
        match self {
            Self::Parting(parting) => Some(parting),
            _ => None,
        }
    }

    /// Where it stands, or stood before the group was frozen.
    pub(crate) fn thawed(&self) -> &Self {
        match self {
            Self::Frozen { was, .. } => was.thawed(),
            other => other,
        }
    }

    pub(crate) fn thawed_mut(&mut self) -> &mut Self {
        match self {
            Self::Frozen { was, .. } => was.thawed_mut(),
            other => other,
        }
    }

    pub(crate) fn freeze(&mut self, why: &str) {
        let was = match std::mem::replace(self, Self::Member) {
            // The newer reason counts.
            Self::Frozen { was, .. } => was,
            other => Box::new(other),
        };
        let why = why.to_owned();
        *self = Self::Frozen { why, was };
    }

    pub(crate) fn unfreeze(&mut self) {
        if let Self::Frozen { was, .. } = self {
            *self = std::mem::replace(was, Self::Member);
        }
    }

    /// Reads a row. One of a program before this one says only whether and why not; the rest stands with the group's flags.
    pub(crate) fn read(value: &[u8]) -> Result<Self, EngineError> {
        let what = "group index";
        if let Ok(row) = keys::uncbor::<Self>(what, value) {
            return Ok(row);
        }
        let row: IndexRow = keys::uncbor(what, value)?;
        Ok(match row.active {
            true => Self::Member,
            false => Self::Left {
                why: row.why.unwrap_or_default(),
            },
        })
    }

    /// The row as this program writes it, where it is of one before: that program opens the store no more.
    pub(crate) fn rewritten(&self, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let row = keys::cbor(self);
        (row.as_slice() != value).then_some(row)
    }

    /// What tells where this device stands cannot be read: it comes back with nothing to compare.
    pub(crate) fn state_lost() -> Self {
        Self::Returning {
            why: "group.state_lost".to_owned(),
            blind: true,
        }
    }
}

/// A group of this device.
#[derive(Debug)]
pub(crate) enum GroupSlot {
    /// Nobody has needed it yet, or this device is out of it.
    Cold(Membership),
    /// Its rows were asked for; work waits.
    Loading(Membership, Vec<GroupWork>),
    /// In memory.
    Hot(Box<Whole>),
    /// Its MLS rows cannot be read: this device is on its way back into it.
    Stray(Membership, Box<Stray>),
}

impl GroupSlot {
    pub(crate) fn membership(&self) -> &Membership {
        match self {
            Self::Cold(here) | Self::Loading(here, _) | Self::Stray(here, _) => here,
            Self::Hot(whole) => &whole.group.membership,
        }
    }

    /// The group itself, when it is in memory.
    pub(crate) fn hot(&self) -> Option<&Whole> {
        match self {
            Self::Hot(whole) => Some(whole),
            _ => None,
        }
    }

    pub(crate) fn hot_mut(&mut self) -> Option<&mut Whole> {
        match self {
            Self::Hot(whole) => Some(whole),
            _ => None,
        }
    }

    pub(crate) fn stray_mut(&mut self) -> Option<&mut Stray> {
        match self {
            Self::Stray(_, stray) => Some(stray),
            _ => None,
        }
    }
}

/// What said where a device stands before there was one row for it.
#[derive(Debug, Default)]
pub(crate) struct Before {
    pub(crate) creation: Option<Creation>,
    pub(crate) flags: FlagsRow,
}

impl Before {
    /// Where a device stands by these rows. None: they do not say, or say that it is a member.
    pub(crate) fn membership(self) -> Option<Membership> {
        let Self { creation, flags } = self;
        if let Some(parting) = flags.parting {
            return Some(Membership::Parting(parting));
        }
        let was = if let Some(creation) = creation {
            Membership::Founding(creation)
        } else if let Some(why) = flags.broken {
            let blind = flags.blind || flags.unproven.is_some();
            Membership::Returning { why, blind }
        } else if let Some(since) = flags.unproven {
            Membership::Unproven { since }
        } else {
            Membership::Member
        };
        match flags.frozen {
            Some(why) => {
                let was = Box::new(was);
                Some(Membership::Frozen { why, was })
            }
            None => Some(was).filter(|was| *was != Membership::Member),
        }
    }
}

/// The row of before.
#[derive(Deserialize)]
struct IndexRow {
    active: bool,
    why: Option<String>,
}

/// Flags of a group, as far as they told where this device stands.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct FlagsRow {
    frozen: Option<String>,
    broken: Option<String>,
    unproven: Option<u64>,
    blind: bool,
    parting: Option<PartingRow>,
}

/// What else is durable of a group.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MetaRow {
    pub(crate) rotation: Rotation,
    /// Joined only to leave at once.
    pub(crate) declined: bool,
    /// Added without a path and not yet renewed.
    pub(crate) renew_due: bool,
    /// Re-keying was reported complete, but not as this device sees it.
    pub(crate) rekey_since: u64,
    /// Documents that were closed as lost before they were re-keyed, since that removal.
    pub(crate) lost: BTreeSet<DocumentId>,
    /// The group in whose place this one was founded, while documents are still carried over.
    pub(crate) carry_from: Option<GroupId>,
    /// How many refused entries are kept.
    pub(crate) evidence: u32,
    /// When this device last renewed its leaf.
    pub(crate) leaf_renewed: UnixMs,
    /// Who made commits that this device could not decrypt.
    pub(crate) garblers: BTreeSet<DeviceId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows as programs before this one wrote them.
    #[derive(Serialize)]
    struct OldRow<'a> {
        active: bool,
        why: Option<&'a str>,
    }

    #[derive(Clone, Default, Serialize)]
    struct Flags {
        rotator: bool,
        frozen: Option<&'static str>,
        declined: bool,
        renew_due: bool,
        rekey_since: u64,
        broken: Option<&'static str>,
        unproven: Option<u64>,
        blind: bool,
        parting: Option<PartingRow>,
        evidence: u32,
    }

    fn flags(flags: &Flags) -> FlagsRow {
        keys::uncbor("flags", &keys::cbor(flags)).unwrap()
    }

    fn returning(blind: bool) -> Membership {
        let why = "mls.undecryptable".to_owned();
        Membership::Returning { why, blind }
    }

    fn frozen(was: Membership) -> Membership {
        let why = "mls.illegal".to_owned();
        let was = Box::new(was);
        Membership::Frozen { why, was }
    }

    #[test]
    fn index_rows_of_before_are_read() {
        let (active, why) = (true, None);
        let row = keys::cbor(&OldRow { active, why });
        assert_eq!(Membership::read(&row).unwrap(), Membership::Member);
        let (active, why) = (false, Some("you left"));
        let row = keys::cbor(&OldRow { active, why });
        let why = "you left".to_owned();
        assert_eq!(Membership::read(&row).unwrap(), Membership::Left { why });
        assert!(Membership::read(b"\x01").is_err());
    }

    #[test]
    fn every_combination_of_flags_of_before_is_one_standing() {
        let creation = Creation {
            group_info: vec![1].into(),
            tree: vec![2].into(),
            founded: Some(UnixMs(3)),
        };
        let founding = Membership::Founding(creation.clone());
        let none = Flags::default;
        let (ice, lost) = (Some("mls.illegal"), Some("mls.undecryptable"));
        for (before, creation, now) in [
            (none(), None, None),
            (none(), Some(&creation), Some(founding.clone())),
            (
                Flags {
                    frozen: ice,
                    ..none()
                },
                Some(&creation),
                Some(frozen(founding)),
            ),
            (
                Flags {
                    frozen: ice,
                    ..none()
                },
                None,
                Some(frozen(Membership::Member)),
            ),
            (
                Flags {
                    broken: lost,
                    ..none()
                },
                None,
                Some(returning(false)),
            ),
            (
                Flags {
                    broken: lost,
                    blind: true,
                    ..none()
                },
                None,
                Some(returning(true)),
            ),
            // One that came back blindly, was shown nothing, and lost its place again.
            (
                Flags {
                    broken: lost,
                    unproven: Some(4),
                    ..none()
                },
                None,
                Some(returning(true)),
            ),
            (
                Flags {
                    broken: lost,
                    frozen: ice,
                    ..none()
                },
                None,
                Some(frozen(returning(false))),
            ),
            (
                Flags {
                    unproven: Some(4),
                    blind: true,
                    ..none()
                },
                None,
                Some(Membership::Unproven { since: 4 }),
            ),
            (
                Flags {
                    unproven: Some(4),
                    blind: true,
                    frozen: ice,
                    ..none()
                },
                None,
                Some(frozen(Membership::Unproven { since: 4 })),
            ),
            (
                Flags {
                    parting: Some(PartingRow::left("you left")),
                    unproven: Some(4),
                    ..none()
                },
                None,
                Some(Membership::Parting(PartingRow::left("you left"))),
            ),
        ] {
            let creation = creation.cloned();
            let flags = flags(&before);
            let found = Before { creation, flags }.membership();
            assert_eq!(found, now);
            let Some(now) = now else { continue };
            // What is written now is not read by the program before, and read again here.
            let row = keys::cbor(&now);
            assert!(keys::uncbor::<IndexRow>("group index", &row).is_err());
            assert_eq!(Membership::read(&row).unwrap(), now);
        }
    }

    #[test]
    fn a_group_thaws_into_what_it_was() {
        for was in [
            Membership::Member,
            returning(true),
            Membership::Unproven { since: 4 },
        ] {
            let mut here = was.clone();
            here.freeze("mls.illegal");
            assert_eq!(*here.thawed(), was);
            here.freeze("mls.other");
            assert_eq!(*here.thawed(), was);
            here.unfreeze();
            assert_eq!(here, was);
        }
    }
}

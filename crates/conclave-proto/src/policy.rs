//! Group policy: the group-context extension that every member and the service judge by.

use serde::{Deserialize, Serialize};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

use crate::codec::{Bytes, DecodeError, decode};
use crate::ids::UserId;

/// Version of the policy encoding.
pub const POLICY_VERSION: u16 = 1;
/// Version of the whole protocol that this library speaks.
pub const PROTOCOL_VERSION: u16 = 12;
/// Largest encoded policy in bytes.
pub const MAX_POLICY_BYTES: usize = 256 * 1024;

/// What a user may do in a group. Order matters: a greater role may do all that a lesser one may.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Role {
    /// Reads.
    Viewer = 1,
    /// Reads and writes documents.
    Editor = 2,
    /// Also invites, removes and closes.
    Admin = 3,
    /// Also changes owners, trust, external senders and required capabilities.
    Owner = 4,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
            Self::Owner => "owner",
        })
    }
}

impl std::str::FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "editor" => Ok(Self::Editor),
            "admin" => Ok(Self::Admin),
            "owner" => Ok(Self::Owner),
            _ => Err(UnknownRole),
        }
    }
}

/// The text names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is viewer, editor, admin or owner")]
pub struct UnknownRole;

/// One user's role where it differs from the default.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub struct RoleEntry {
    /// The user.
    pub user: UserId,
    /// Their role.
    pub role: Role,
}

/// A certificate authority that the group accepts, for users whose URI begins with `uri_prefix`.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub struct Anchor {
    /// Users this authority may name, as `conclave://<realm>/…`.
    pub uri_prefix: Bytes,
    /// The authority's certificate in DER.
    pub certificate: Bytes,
}

/// Which contacts of a member that member may let in.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Pinned {
    /// None for being a contact alone.
    #[default]
    Nobody = 0,
    /// Those whose safety number was compared.
    Verified = 1,
    /// Also those who were taken as known without comparing anything: trust on first use.
    FirstUse = 2,
}

/// How members become trusted. `pinned or certified by an anchor or endorsed`.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
pub struct TrustPolicy {
    /// Which pins of the inviter suffice.
    pub pinned: Pinned,
    /// Certificate authorities; enforced on everybody's commits.
    pub anchors: Vec<Anchor>,
    /// Endorsers needed; 0 turns endorsements off.
    pub endorsements: u8,
    /// Longest chain of endorsements.
    pub endorsement_depth: u8,
}

/// What a joiner can read.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum JoinerAccess {
    /// Everything live: older roots that are still needed are wrapped for joiners.
    #[default]
    LiveContent = 0,
    /// Only what is sealed after the join: no roots are wrapped, and all documents are due after every Add.
    FromJoin = 1,
}

/// The policy of a group.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TlsSize, TlsSerialize, TlsDeserializeBytes,
)]
pub struct GroupPolicy {
    /// [`POLICY_VERSION`].
    pub version: u16,
    /// Members older than this park the group.
    pub min_protocol_version: u16,
    /// Role of users not listed.
    pub default_role: Role,
    /// Other roles, sorted by user, each user once.
    pub roles: Vec<RoleEntry>,
    /// How members become trusted.
    pub trust: TrustPolicy,
    /// What a joiner can read.
    pub joiner_access: JoinerAccess,
    /// Whether attribution is shown (0 or 1).
    pub attribution: u8,
    /// Whether the service may propose removals (0 or 1).
    pub service_may_remove: u8,
    /// Whether share links may be made (0 or 1).
    pub links_allowed: u8,
    /// Age at which a leaf is renewed, in days.
    pub max_leaf_age_days: u16,
    /// Age at which a root makes its documents due, in days.
    pub max_root_age_days: u16,
    /// Records in a tail after which a snapshot is due.
    pub snapshot_after_records: u32,
    /// Bytes in a tail after which a snapshot is due.
    pub snapshot_after_bytes: u32,
    /// Sealed payloads are padded to a multiple of this many bytes; 1 pads by one byte only.
    pub padding_bytes: u16,
}

impl Default for GroupPolicy {
    fn default() -> Self {
        Self {
            version: POLICY_VERSION,
            min_protocol_version: PROTOCOL_VERSION,
            default_role: Role::Editor,
            roles: Vec::new(),
            trust: TrustPolicy {
                pinned: Pinned::Verified,
                ..TrustPolicy::default()
            },
            joiner_access: JoinerAccess::LiveContent,
            attribution: 1,
            service_may_remove: 0,
            links_allowed: 0,
            max_leaf_age_days: 30,
            max_root_age_days: 30,
            snapshot_after_records: 500,
            snapshot_after_bytes: 1024 * 1024,
            padding_bytes: 1,
        }
    }
}

impl GroupPolicy {
    /// The role of `user` if the user is a member.
    #[must_use]
    pub fn role(&self, user: &UserId) -> Role {
        self.roles
            .binary_search_by(|entry| entry.user.cmp(user))
            .ok()
            .and_then(|at| self.roles.get(at))
            .map_or(self.default_role, |entry| entry.role)
    }

    /// Gives `user` a role.
    pub fn set_role(&mut self, user: UserId, role: Role) {
        match self.roles.binary_search_by(|entry| entry.user.cmp(&user)) {
            Ok(at) => {
                if let Some(entry) = self.roles.get_mut(at) {
                    entry.role = role;
                }
            }
            Err(at) => self.roles.insert(at, RoleEntry { user, role }),
        }
    }

    /// Users with the role of owner.
    pub fn owners(&self) -> impl Iterator<Item = &UserId> {
        self.roles
            .iter()
            .filter(|entry| entry.role == Role::Owner)
            .map(|entry| &entry.user)
    }

    /// Reads and validates a policy.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are no policy of a known version, or roles are unsorted or repeated, or a flag is neither 0 nor 1.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = "group policy";
        let policy: Self = decode(what, bytes, MAX_POLICY_BYTES)?;
        if policy.is_valid() {
            Ok(policy)
        } else {
            Err(DecodeError::Malformed { what })
        }
    }

    /// Whether it is of a known version and keeps the rules of `docs/PROTOCOL.md`, Group policy.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let flags = [
            self.attribution,
            self.service_may_remove,
            self.links_allowed,
        ];
        let sorted = self
            .roles
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.user < b.user));
        self.version == POLICY_VERSION
            && self.default_role < Role::Owner
            && sorted
            && self.padding_bytes > 0
            && flags.iter().all(|flag| *flag <= 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;

    #[test]
    fn roles_are_sorted_and_default() {
        let mut policy = GroupPolicy::default();
        policy.set_role(UserId([2; 32]), Role::Owner);
        policy.set_role(UserId([1; 32]), Role::Viewer);
        assert_eq!(policy.role(&UserId([1; 32])), Role::Viewer);
        assert_eq!(policy.role(&UserId([9; 32])), Role::Editor);
        assert_eq!(GroupPolicy::from_bytes(&encode(&policy)).unwrap(), policy);
        policy.roles.reverse();
        assert!(GroupPolicy::from_bytes(&encode(&policy)).is_err());
    }

    #[test]
    fn nobody_is_owner_by_default() {
        let policy = GroupPolicy {
            default_role: Role::Owner,
            ..GroupPolicy::default()
        };
        assert!(GroupPolicy::from_bytes(&encode(&policy)).is_err());
    }
}

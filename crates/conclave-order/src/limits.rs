//! Limits of ordering itself; those of the protocol are in [`conclave_proto::limits`]. Units are in the names.

/// Roots of a document's log kept in memory.
pub const ROOTS_IN_MEMORY: usize = 1024;
/// How long a replaced snapshot keeps its content, in milliseconds.
pub const REPLACED_SNAPSHOT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Replaced snapshots that may lose their content with one that is accepted.
pub const SWEPT_WITH_SNAPSHOT: u32 = 4;
/// Records of a document within which a frame has a signature that covers it. Members who find a wrong one ask for this many more at once, and
/// must not find the service guilty.
pub const RUN_RECORDS: usize = 128;
/// Bytes of them, for the same reason.
pub const RUN_BYTES: usize = 4 * 1024 * 1024;
/// How often a transaction that met a conflict is tried in all.
pub const CONFLICT_TRIES: u32 = 5;
/// Pause that is asked for where an operation met somebody else's, in milliseconds.
pub const RETRY_MS: u64 = 1_000;

/// Devices of one account, whether its device list names them or not.
pub const DEVICES_PER_ACCOUNT: usize = 1024;

/// Largest key package in bytes.
pub const KEY_PACKAGE_BYTES: usize = 64 * 1024;
/// Largest device list in bytes.
pub const DEVICE_LIST_BYTES: usize = 256 * 1024;

/// Pleas kept for one group.
pub const ASKS_PER_GROUP: u64 = 64;
/// Pleas kept for one user in one group: nobody can take the places of all others.
pub const ASKS_PER_GROUP_AND_USER: u64 = 16;
/// Pleas kept for one device, over all groups.
pub const ASKS_PER_DEVICE: u64 = 256;
/// Wraps kept for one user and epoch, beside the committer's: nobody can take the places of all others.
pub const WRAPS_PER_USER: u64 = 2;

/// Records of a deleted document that lose their content in one transaction.
pub const ERASED_AT_ONCE: u64 = 1024;

/// What an operator may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records that a document takes after the head that its active snapshot covers.
    pub tail_records: u64,
    /// Most that is stored for one user, in bytes; none for as much as there is room.
    pub user_bytes: Option<u64>,
    /// Most that is stored of one group, in bytes; none for as much as there is room.
    pub group_bytes: Option<u64>,
}

impl Limits {
    /// Those for what no device asks for.
    pub const OWN: Self = Self {
        tail_records: 0,
        user_bytes: None,
        group_bytes: None,
    };
}
/// How long a log is held that lost something, unless it comes back sooner, in milliseconds (a day).
pub const HOLD_MS: u64 = 24 * 3600 * 1000;
/// Signatures that are checked of what an offer of records brings beyond what the service had signed: one of each author, one of each snapshot.
pub const CHECKS_PER_OFFER: usize = 1024;
/// How long all logs are held when a report shows that the service was put back, in milliseconds: others show heads of other logs meanwhile.
pub const FOUND_HOLD_MS: u64 = 60 * 1000;
/// For so long before a hold over all logs ends they take what nothing proves, in milliseconds, and nothing new yet: whoever has the end of a log need not
/// be faster than whoever goes on from before it.
pub const RETURN_FIRST_MS: u64 = 30 * 1000;
/// For so long after a generation began logs that stand take what nothing proves, in milliseconds (14 days): as long as members keep what they have.
pub const RETURN_PAST_MS: u64 = 14 * 24 * 3600 * 1000;
/// How long a group that a member brought takes nothing new, in milliseconds: whoever is further on brings that first.
pub const ADOPTED_HOLD_MS: u64 = 10 * 60 * 1000;

//! Every limit of the protocol in one place. Units are in the names.

/// Largest WebSocket message in bytes. Larger frames travel in chunks.
pub const WIRE_MESSAGE_BYTES: usize = 256 * 1024;
/// Largest reassembled frame in bytes.
pub const FRAME_BYTES: usize = 96 * 1024 * 1024;
/// Largest reassembled frame that a service takes from a device that has not authenticated, in bytes.
pub const UNAUTHENTICATED_FRAME_BYTES: usize = 16 * 1024;
/// Most records in one frame.
pub const RECORDS_PER_FRAME: usize = 1024;
/// Most items of a list in a frame whose items take more memory than bytes on the wire.
pub const ITEMS_PER_LIST: usize = 4096;
/// Most records that are brought back of a document's log at once.
pub const ITEMS_PER_OFFER: usize = 32_768;
/// Most bundles of own commits beside entries of a group's log that come back: for each, what joiners need is stored.
pub const BUNDLES_PER_OFFER: usize = 64;
/// Largest sealed payload of an update, in bytes.
pub const UPDATE_BYTES: usize = 1024 * 1024;
/// Largest sealed payload of a verdict, in bytes: one, with the most padding that a policy can ask for.
pub const VERDICT_BYTES: usize = 64 * 1024;
/// Largest sealed payload of a carried record, in bytes: a whole update, its header and its keys.
pub const CARRIED_BYTES: usize = UPDATE_BYTES + 8 * 1024;
/// Largest sealed payload of a presence message, padding included, in bytes.
pub const PRESENCE_BYTES: usize = 4096;
/// Most that a session shows of itself, in bytes: the values of all its states.
pub const SHOWN_BYTES: usize = 4000;
/// Most states that a session shows of itself.
pub const SHOWN_STATES: usize = 8;
/// A presence message is padded to a multiple of this, in bytes, whatever the policy asks of records.
pub const PRESENCE_PADDING_BYTES: u16 = 64;
/// Largest sealed payload of a snapshot, in bytes.
pub const SNAPSHOT_BYTES: usize = 80 * 1024 * 1024;
/// Largest MLS message (commit, proposal, Welcome, GroupInfo), in bytes.
pub const MLS_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Largest root wrap, in bytes.
pub const WRAP_BYTES: usize = 256 * 1024;
/// Most wraps kept for one epoch.
pub const WRAPS_PER_EPOCH: usize = 8;
/// Most leaves in a group.
pub const GROUP_LEAVES: usize = 1000;
/// Most open documents in a group.
pub const GROUP_OPEN_DOCUMENTS: usize = 20_000;
/// Most documents that a group lists, closed ones included.
pub const GROUP_DOCUMENTS: usize = 200_000;
/// Most records of a document that are declared void.
pub const DOCUMENT_VOIDS: usize = 1024;
/// Most records that are declared void in a group.
pub const GROUP_VOIDS: usize = 16_384;
/// Records of a document that are void from which on only owners declare more.
pub const DOCUMENT_VOIDS_OF_ADMINS: usize = 768;
/// Records of a group that are void from which on only owners declare more.
pub const GROUP_VOIDS_OF_ADMINS: usize = 12_288;
/// Most records of a document that one user declares void, unless it is an owner.
pub const USER_DOCUMENT_VOIDS: usize = 128;
/// Most records of a group that one user declares void, unless it is an owner.
pub const USER_GROUP_VOIDS: usize = 2048;
/// Roster rows that a user began itself, from which on no device of the user comes in, or changes its credential or key, by the user's own commit.
pub const USER_ROSTER_ROWS: usize = 256;
/// Largest public state of a group that a service lets grow, in bytes.
pub const GROWING_STATE_BYTES: usize = 48 * 1024 * 1024;
/// Largest standalone proposal (`MLSMessage`), in bytes.
pub const PROPOSAL_BYTES: usize = 4 * 1024;
/// Most devices of one user.
pub const USER_DEVICES: usize = 32;
/// One-time key packages that a device keeps published.
pub const KEY_PACKAGES_TARGET: usize = 20;
/// The service tells a device when fewer one-time key packages than this are left.
pub const KEY_PACKAGES_LOW: usize = 8;
/// Most one-time key packages that the service keeps for a device.
pub const KEY_PACKAGES_MAX: usize = 100;
/// Shelf life of a key package in milliseconds (28 days): the service hands out no older one.
pub const KEY_PACKAGE_SHELF_LIFE_MS: u64 = 28 * 24 * 3600 * 1000;
/// Validity of a key package's leaf in seconds (a hundred years): no clock that is merely wrong takes it for expired.
pub const KEY_PACKAGE_VALIDITY_S: u64 = 36_525 * 24 * 3600;
/// How long before the commit that adds it a leaf may have been made, in milliseconds (366 days).
pub const LEAF_MADE_BEFORE_MS: u64 = 366 * 24 * 3600 * 1000;
/// How long after the commit that adds it a leaf may say that it was made, in milliseconds: clocks differ.
pub const LEAF_MADE_AFTER_MS: u64 = 3600 * 1000;
/// Largest credential in bytes: it has to fit into the first frame of a login, beside the versions.
pub const CREDENTIAL_BYTES: usize = 15 * 1024;
/// Documents open on one connection.
pub const CHANNELS_PER_CONNECTION: usize = 4096;
/// How far a commit's time may lie from the service's clock, in milliseconds.
pub const COMMIT_TIME_SKEW_MS: u64 = 5 * 60 * 1000;
/// How far ahead of its own clock a device authors a commit time, in milliseconds.
pub const OWN_CLOCK_SKEW_MS: u64 = 24 * 3600 * 1000;
/// Most replica ids that one record may introduce.
pub const REPLICAS_PER_RECORD: usize = 64;
/// Updates after the covered head past which the service demands a snapshot first.
pub const TAIL_RECORDS_HARD: u64 = 500_000;
/// Time an unauthenticated connection has to authenticate, in milliseconds.
pub const HANDSHAKE_MS: u64 = 10_000;
/// Time between pings, in milliseconds.
pub const PING_MS: u64 = 20_000;
/// A connection without any frame for this long is closed, in milliseconds.
pub const IDLE_MS: u64 = 60_000;
/// Most declared losses of one log that are told, in items: the newest.
pub const LOSSES_PER_LOG: usize = 16;
/// Least time between two signed heads of one log, in milliseconds.
pub const HEAD_PERIOD_MS: u64 = 1000;
/// Most heads in a beat, in items.
pub const BEAT_HEADS: usize = 16;
/// Least time between two beats of a device in a group, in milliseconds.
pub const BEAT_MS: u64 = 60_000;
/// And for each of the group's devices, in milliseconds.
pub const BEAT_PER_MEMBER_MS: u64 = 500;
/// So long a service may take to show a device what it showed another, in milliseconds.
pub const BEAT_WAIT_MS: u64 = 30_000;

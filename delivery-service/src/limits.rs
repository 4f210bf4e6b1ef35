//! Limits of the service itself; those of the protocol are in [`conclave_proto::limits`]. Units are in the names.

use std::time::Duration;

pub use conclave_order::limits::{
    ASKS_PER_DEVICE, ASKS_PER_GROUP, ASKS_PER_GROUP_AND_USER, DEVICE_LIST_BYTES, FOUND_HOLD_MS,
    KEY_PACKAGE_BYTES, REPLACED_SNAPSHOT_MS, ROOTS_IN_MEMORY, SWEPT_WITH_SNAPSHOT, WRAPS_PER_USER,
};

use crate::rate::Bucket;

/// Jobs that may wait for the writer.
pub const WRITER_QUEUE_JOBS: usize = 4096;
/// Most jobs in one transaction.
pub const WRITER_BATCH_JOBS: usize = 1024;
/// Bytes after which a transaction takes no further job.
pub const WRITER_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// Committed transactions that may wait to be published.
pub const PUBLISH_QUEUE_BATCHES: usize = 4;
/// Least that the database may be limited to, in bytes.
pub const DATABASE_BYTES_LEAST: u64 = 4 * 1024 * 1024;
/// Room in a limited database below which the service is not ready, in bytes.
pub const DATABASE_ROOM_BYTES: u64 = 1024 * 1024;
/// Size of a database page in bytes.
pub const PAGE_BYTES: u32 = 4096;
/// Read connections to the database.
pub const READ_CONNECTIONS: u32 = 4;
/// How long a connection to the database waits for another process's lock.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Most that is stored for one user, in bytes, unless the operator says otherwise (10 GiB): half of what a group may take, so that nobody fills one alone. It is never more.
pub const USER_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// Most that is stored of one group, in bytes, unless the operator says otherwise (20 GiB).
pub const GROUP_BYTES: u64 = 20 * 1024 * 1024 * 1024;
/// Connections of one address.
pub const CONNECTIONS_PER_ADDRESS: usize = 1_000;
/// Connections of an address beyond that which are told that there is no place; further ones are closed at once.
pub const CONNECTIONS_SPARE: usize = 16;
/// Pause that they are asked to make, in seconds.
pub const CROWDED_RETRY_S: u32 = 30;

/// Frames that may wait for one connection before it counts as a slow consumer.
pub const OUTBOX_FRAMES: usize = 4096;
/// Bytes that may wait for one connection before it counts as a slow consumer.
pub const OUTBOX_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that may wait for one connection before history and answers wait in their turn.
pub const OUTBOX_BACKLOG_BYTES: usize = 512 * 1024;
/// How long a socket may take over one message.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last frames may take once a connection is being closed.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause that a slow consumer is asked to make, in milliseconds.
pub const SLOW_CONSUMER_RETRY_MS: u64 = 1_000;
/// Pause that an older copy of a device's store is asked to make, in milliseconds: only a person changes what it is.
pub const OTHER_LIFE_RETRY_MS: u64 = 300_000;
/// Pause that clients are asked to make when the service stops, in milliseconds; each adds its own jitter.
pub const SHUTDOWN_RETRY_MS: u64 = 500;
/// How long a stop may take before the rest is cut off.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);

/// Read buffer of a WebSocket, in bytes.
pub const SOCKET_READ_BYTES: usize = 8 * 1024;
/// Bytes that a WebSocket gathers before it writes.
pub const SOCKET_WRITE_BYTES: usize = 16 * 1024;
/// Requests of one connection that may be under way.
pub const CONCURRENT_REQUESTS: usize = 32;
/// Chunks of unfinished frames held over all connections, each of at most
/// [`conclave_proto::limits::WIRE_MESSAGE_BYTES`].
pub const UNFINISHED_CHUNKS: usize = 4096;

/// Bytes of an accepted frame past which listeners read it from storage, in pieces: pushed as a whole it would fill their queues, and those
/// that are as large as may be would not fit into one frame with what delivery adds.
pub const LIVE_FRAME_BYTES: usize = OUTBOX_BYTES;
/// Bytes of history in one frame.
pub const BACKLOG_FRAME_BYTES: usize = 128 * 1024;
/// Rows of history read at once.
pub const BACKLOG_ROWS: u32 = 1024;
/// Bytes of history read at once.
pub const BACKLOG_BYTES: usize = 1024 * 1024;
/// Rows that a read connection prepares ahead.
pub const ROWS_AHEAD: usize = 16;
/// Most records in one answer to a request for whole records.
pub const RECORDS_PER_ANSWER: u32 = 1024;
/// Bytes after which an answer with whole records takes no further record.
pub const RECORDS_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// How often something is judged anew because somebody else has changed the group.
pub const VIEW_REFRESHES: u32 = 2;
/// Groups in memory past which those go that nobody uses or follows.
pub const IDLE_GROUPS: usize = 256;
/// Largest origin or token in a login, in bytes.
pub const LOGIN_FIELD_BYTES: usize = 1024;
/// How often one plea is told to those who follow the log: every ten seconds, however often its device repeats it.
pub const ASKS_TOLD: Bucket = Bucket::new(1, 6);
/// Replaced snapshots that may lose their content at one look.
pub const SWEPT_AT_ONCE: u32 = 64;
/// How often the service looks for replaced snapshots whose time is over.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Snapshots with little new in them, by user and document.
pub const SNAPSHOTS_WITHOUT_NEWS: Bucket = Bucket::per_hour(4, 4);
/// Verdicts, by user and document: a member's devices write one or two of a snapshot. They weigh nothing, so that nothing else bounds them.
pub const VERDICTS: Bucket = Bucket::per_hour(200, 400);
/// Lines about refused logins and invalid statements, for the whole service: nobody fills a disk with them.
pub(crate) const MISCONDUCT_LINES: Bucket = Bucket::new(200, 60);
/// How far ahead times of signed heads are reserved, in seconds.
pub(crate) const HEAD_TIME_S: u64 = 120;
/// How often they are reserved.
pub(crate) const HEAD_TIME_INTERVAL: Duration = Duration::from_secs(60);
/// How often the service looks whether its operator has declared something, and which holds are over.
pub(crate) const RECOVERY_INTERVAL: Duration = Duration::from_secs(2);
/// Holds that end at one look.
pub(crate) const HOLDS_ENDED_AT_ONCE: u32 = 64;
/// How long all logs are held after a crash that may have cost something, in milliseconds.
pub(crate) const CRASH_HOLD_MS: u64 = 60 * 1000;
/// How long after the start a log is still waited for whose time was over by then, in milliseconds: nobody could bring anything meanwhile.
pub(crate) const DOWN_GRACE_MS: u64 = 10 * 60 * 1000;
/// Offers of lost records with more than so many are judged apart from the threads that serve connections; what is offered of a group always is.
pub(crate) const RECORDS_JUDGED_AT_ONCE: usize = 64;
/// Offers that are judged apart at the same time, each of another user.
pub(crate) const JUDGED_APART: usize = 2;
/// How often a report is judged anew because another generation began meanwhile.
pub(crate) const REPORT_ATTEMPTS: u32 = 3;
/// How long presence that is for all waits, so that what follows it goes with it.
pub const PRESENCE_PAUSE: Duration = Duration::from_millis(100);
/// Bytes after which a frame of presence takes no further message.
pub const PRESENCE_FRAME_BYTES: usize = 128 * 1024;
/// Messages of presence for one connection alone that may wait for it.
pub const ADDRESSED_FRAMES: usize = 1024;
/// Bytes of presence that may wait for one connection and that no other shares.
pub const FLEETING_BYTES: usize = 1024 * 1024;
/// How long presence waits for other frames.
pub const FLEETING_WAIT: Duration = Duration::from_millis(500);

//! One service's state, shared by its connections.

use std::sync::Arc;

use conclave_proto::service::LogName;
use conclave_proto::{DeviceId, Refusal, UserId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::config::{Admission, Clock};
use crate::document::Documents;
use crate::env::Env;
use crate::group::Groups;
use crate::rate::{Buckets, RateLimits};

/// What every connection needs.
pub(crate) struct Shared {
    pub(crate) env: Arc<Env>,
    pub(crate) groups: Groups,
    pub(crate) documents: Documents,
    pub(crate) origins: Vec<String>,
    /// Web pages that may connect.
    pub(crate) pages: Vec<String>,
    pub(crate) admission: Admission,
    pub(crate) rates: Rates,
    /// Connections by where they come from.
    pub(crate) addresses: Arc<Addresses>,
    /// Chunks of unfinished frames that all connections may hold together.
    pub(crate) chunks: Arc<Semaphore>,
    /// Connections, which a stopping service waits for.
    pub(crate) connections: TaskTracker,
    /// Cancelled when the service stops.
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// It is not known what became of a transaction: forgets what is in memory, and lets everybody come back and resume.
    pub(crate) fn forget(&self) {
        self.groups.clear();
        self.documents.clear();
        self.env
            .hub
            .disconnect_all(&Refusal::Storage, crate::limits::SLOW_CONSUMER_RETRY_MS);
    }

    /// What was told before is to be compared anew: forgets what is in memory, and lets everybody come back.
    pub(crate) fn begin_anew(&self) {
        self.groups.clear();
        self.documents.clear();
        self.env
            .hub
            .disconnect_all(&Refusal::ShuttingDown, crate::limits::SHUTDOWN_RETRY_MS);
    }
}

/// How often a device may do what.
pub(crate) struct Rates {
    clock: Clock,
    requests: Buckets<DeviceId>,
    records: Buckets<DeviceId>,
    bytes: Buckets<DeviceId>,
    shown: Buckets<DeviceId>,
    shown_to_one: Buckets<DeviceId>,
    shown_bytes: Buckets<DeviceId>,
    shown_to_one_bytes: Buckets<DeviceId>,
    pub(crate) claims: Buckets<DeviceId>,
    /// One-time packages that a user takes from another.
    pub(crate) claims_of_user: Buckets<(UserId, UserId)>,
    /// One-time packages that others take from a user.
    pub(crate) claims_from_user: Buckets<UserId>,
    pub(crate) repairs: Buckets<DeviceId>,
    heads: Buckets<(DeviceId, LogName)>,
}

impl Rates {
    pub(crate) fn new(limits: Option<&RateLimits>, clock: Clock) -> Self {
        Self {
            clock,
            requests: Buckets::new(limits.map(|limits| limits.requests)),
            records: Buckets::new(limits.map(|limits| limits.records)),
            bytes: Buckets::new(limits.map(|limits| limits.bytes)),
            shown: Buckets::new(limits.map(|limits| limits.shown)),
            shown_to_one: Buckets::new(limits.map(|limits| limits.shown_to_one)),
            shown_bytes: Buckets::new(limits.map(|limits| limits.shown_bytes)),
            shown_to_one_bytes: Buckets::new(limits.map(|limits| limits.shown_to_one_bytes)),
            claims: Buckets::new(limits.map(|limits| limits.claims)),
            claims_of_user: Buckets::new(limits.map(|limits| limits.claims_of_user)),
            claims_from_user: Buckets::new(limits.map(|limits| limits.claims_from_user)),
            repairs: Buckets::new(limits.map(|limits| limits.repairs)),
            heads: Buckets::new(limits.map(|limits| limits.heads)),
        }
    }

    /// Counts a frame of records.
    pub(crate) fn append(&self, device: DeviceId, records: u64, bytes: u64) -> Result<(), Refusal> {
        let now = self.clock.now();
        self.records.take(device, records, now)?;
        self.bytes.take(device, bytes, now)
    }

    /// Counts presence.
    pub(crate) fn shown(&self, device: DeviceId, to_one: bool, bytes: u64) -> Result<(), Refusal> {
        let now = self.clock.now();
        if to_one {
            self.shown_to_one.take(device, 1, now)?;
            return self.shown_to_one_bytes.take(device, bytes, now);
        }
        self.shown.take(device, 1, now)?;
        self.shown_bytes.take(device, bytes, now)
    }

    /// Counts a head that is asked for.
    pub(crate) fn head(&self, device: DeviceId, log: LogName) -> Result<(), Refusal> {
        self.heads.take((device, log), 1, self.clock.now())
    }

    /// Counts a request.
    pub(crate) fn request(&self, device: DeviceId, bytes: u64) -> Result<(), Refusal> {
        let now = self.clock.now();
        self.requests.take(device, 1, now)?;
        self.bytes.take(device, bytes, now)
    }
}

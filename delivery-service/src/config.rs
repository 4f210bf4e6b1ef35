//! What a service is started with.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use conclave_proto::UnixMs;

use crate::rate::RateLimits;

/// Who may open an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Admission {
    /// Anybody who can reach the service.
    #[default]
    Open,
    /// Who brings an invitation token. Further devices of an admitted user need none: their user's key vouches for them.
    Invitation,
}

/// What "acknowledged" means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Acknowledged data survives a power failure (`synchronous=FULL`).
    #[default]
    Full,
    /// Acknowledged data survives a crash of the process, but the last of it may be lost with the machine's power
    /// (`synchronous=NORMAL`).
    Normal,
}

/// Where the service reads the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMs + Send + Sync>);

impl Clock {
    /// A clock that asks `read`.
    #[must_use]
    pub fn new(read: impl Fn() -> UnixMs + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        (self.0)()
    }
}

impl Default for Clock {
    /// The system's clock.
    fn default() -> Self {
        Self::new(|| {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        })
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// Bounds that an operator may want to change. Units are in the names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address; of IPv6 from one network of 64 bits.
    pub connections_per_address: usize,
    /// Time that a connection has to log in, in milliseconds.
    pub handshake_ms: u64,
    /// A connection without any message for this long is closed, in milliseconds.
    pub idle_ms: u64,
    /// Time between pings, in milliseconds.
    pub ping_ms: u64,
    /// Bytes that may wait for one connection before it is closed as a slow consumer.
    pub outbox_bytes: usize,
    /// Updates after the covered head past which a document demands a snapshot first.
    pub tail_records: u64,
    /// How long everything is held when a member shows that the service was put back, in milliseconds, so that others show what else it lost; 0
    /// for not at all.
    pub found_hold_ms: u64,
    /// Most that is stored for one user in documents and groups, in bytes; none for as much as there is room. Not more than half of a group's,
    /// where that is limited: nobody fills a group alone.
    pub user_bytes: Option<u64>,
    /// Most that is stored of one group, in bytes; none for as much as there is room.
    pub group_bytes: Option<u64>,
    /// Largest database in bytes; none for as much as the disk holds. Past it nothing new is stored, and everything stored stays readable.
    /// The write-ahead log comes in addition.
    pub database_bytes: Option<u64>,
}

impl Limits {
    /// Sets what is stored of one group at most, in bytes, and makes what is stored for one user half of it, where it was more.
    pub fn limit_groups(&mut self, bytes: Option<u64>) {
        self.group_bytes = bytes;
        let half = bytes.map(|bytes| bytes / 2);
        self.user_bytes = match (self.user_bytes, half) {
            (Some(most), Some(half)) => Some(most.min(half)),
            (most, half) => most.or(half),
        };
    }

    fn one_user_fills_a_group(&self) -> bool {
        self.group_bytes
            .is_some_and(|group| self.user_bytes.is_none_or(|user| user > group / 2))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: crate::limits::CONNECTIONS_PER_ADDRESS,
            handshake_ms: conclave_proto::limits::HANDSHAKE_MS,
            idle_ms: conclave_proto::limits::IDLE_MS,
            ping_ms: conclave_proto::limits::PING_MS,
            outbox_bytes: crate::limits::OUTBOX_BYTES,
            tail_records: conclave_proto::limits::TAIL_RECORDS_HARD,
            found_hold_ms: crate::limits::FOUND_HOLD_MS,
            user_bytes: Some(crate::limits::USER_BYTES),
            group_bytes: Some(crate::limits::GROUP_BYTES),
            database_bytes: None,
        }
    }
}

/// Configuration of one service.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory for the database. Created where needed, readable by its owner only.
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Origins under which clients dial this service, for example `wss://ds.example`. Derived from the address when empty.
    pub origins: Vec<String>,
    /// Web pages that may connect, by their origins, for example `https://app.example`. Programs that are no browser name none, and may in any case.
    pub pages: Vec<String>,
    /// Proxies by their addresses. Only what comes from one is asked whom it stands for (the last address in `X-Forwarded-For`).
    pub proxies: Vec<IpAddr>,
    /// Who may open an account.
    pub admission: Admission,
    /// What "acknowledged" means.
    pub durability: Durability,
    /// Bounds.
    pub limits: Limits,
    /// Rate limits by device, and pacing of self-updates, own devices and returns; none to switch all of them off.
    pub rate_limits: Option<RateLimits>,
    /// The clock.
    pub clock: Clock,
}

impl Config {
    /// A configuration with defaults everywhere else.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            origins: Vec::new(),
            pages: Vec::new(),
            proxies: Vec::new(),
            admission: Admission::default(),
            durability: Durability::default(),
            limits: Limits::default(),
            rate_limits: Some(RateLimits::default()),
            clock: Clock::default(),
        }
    }

    /// Everything that is wrong with this configuration, one message each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.data_dir.as_os_str().is_empty() {
            problems.push("the data directory has no name".to_owned());
        }
        for origin in &self.origins {
            if !is_origin(origin) {
                problems.push(format!(
                    "\"{origin}\" is no origin: write ws://host:port or wss://host, without a path"
                ));
            }
        }
        for page in &self.pages {
            if !is_page(page) {
                problems.push(format!(
                    "\"{page}\" is no web page's origin: write https://host or http://host:port, without a path"
                ));
            }
        }
        let limits = [
            ("connections", self.limits.connections),
            (
                "connections of one address",
                self.limits.connections_per_address,
            ),
            ("outbox bytes", self.limits.outbox_bytes),
        ];
        for (name, value) in limits {
            if value == 0 {
                problems.push(format!("the limit on {name} is zero"));
            }
        }
        let least = crate::limits::DATABASE_BYTES_LEAST;
        if self.limits.database_bytes.is_some_and(|max| max < least) {
            problems.push(format!(
                "the limit on the database is below {least} bytes: that holds no group"
            ));
        }
        if self.limits.one_user_fills_a_group() {
            problems.push(
                "the limit on what is stored for one user is more than half of a group's: one user could fill a group alone"
                    .to_owned(),
            );
        }
        for (name, value) in [
            ("handshake time", self.limits.handshake_ms),
            ("idle time", self.limits.idle_ms),
            ("ping interval", self.limits.ping_ms),
        ] {
            if value == 0 {
                problems.push(format!("the {name} is zero"));
            }
        }
        problems
    }
}

/// Whether this is `ws://` or `wss://` with a host, perhaps a port, and nothing after it.
fn is_origin(text: &str) -> bool {
    let rest = text
        .strip_prefix("ws://")
        .or_else(|| text.strip_prefix("wss://"));
    rest.is_some_and(|host| {
        !host.is_empty()
            && host.len() < crate::limits::LOGIN_FIELD_BYTES
            && host.bytes().all(|byte| {
                byte.is_ascii_alphanumeric()
                    || matches!(byte, b'.' | b'-' | b':' | b'[' | b']' | b'_')
            })
    })
}

/// Whether a browser names a page so in `Origin` (RFC 6454, section 6.2).
fn is_page(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '?' | '#' | '@');
        !rest.is_empty() && rest.chars().all(plain) && !rest.chars().any(|c| c.is_ascii_uppercase())
    })
}

/// The origins that follow from an address: the address itself, and `localhost` where it is the machine's own.
pub(crate) fn derived_origins(address: SocketAddr) -> Vec<String> {
    let port = address.port();
    let mut origins = Vec::new();
    let ip = address.ip();
    if ip.is_unspecified() || ip.is_loopback() {
        origins.push(format!("ws://localhost:{port}"));
        origins.push(format!("ws://127.0.0.1:{port}"));
        if ip.is_ipv6() {
            origins.push(format!("ws://[::1]:{port}"));
        }
    }
    if !ip.is_unspecified() {
        let host = match ip {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        let own = format!("ws://{host}:{port}");
        if !origins.contains(&own) {
            origins.push(own);
        }
    }
    origins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_named_at_once() {
        let mut config = Config::new("", "127.0.0.1:0".parse().unwrap());
        config.origins = vec![
            "https://x".into(),
            "ws://ok:1".into(),
            "ws://host/path".into(),
        ];
        config.limits.connections = 0;
        config.limits.database_bytes = Some(1);
        config.limits.user_bytes = None;
        assert_eq!(config.problems().len(), 6);
    }

    #[test]
    fn nobody_may_store_more_than_half_of_a_group() {
        let mut config = Config::new("x", "127.0.0.1:0".parse().unwrap());
        assert_eq!(config.problems(), [""; 0]);
        let default = config.limits.user_bytes;
        for (group, user) in [
            (Some(1 << 30), Some(1 << 29)),
            (Some(7), Some(3)),
            (Some(1 << 50), default),
            (None, default),
        ] {
            config.limits = Limits::default();
            config.limits.limit_groups(group);
            assert_eq!(
                (config.limits.group_bytes, config.limits.user_bytes),
                (group, user)
            );
            assert_eq!(config.problems(), [""; 0]);
        }
        for user in [Some(501), None] {
            config.limits.group_bytes = Some(1000);
            config.limits.user_bytes = user;
            assert_eq!(config.problems().len(), 1, "{user:?}");
        }
        config.limits.user_bytes = Some(500);
        assert_eq!(config.problems(), [""; 0]);
        config.limits.group_bytes = None;
        config.limits.user_bytes = None;
        assert_eq!(config.problems(), [""; 0]);
    }

    #[test]
    fn loopback_is_also_localhost() {
        let origins = derived_origins("127.0.0.1:7".parse().unwrap());
        assert_eq!(origins, ["ws://localhost:7", "ws://127.0.0.1:7"]);
        let origins = derived_origins("10.0.0.1:7".parse().unwrap());
        assert_eq!(origins, ["ws://10.0.0.1:7"]);
    }
}

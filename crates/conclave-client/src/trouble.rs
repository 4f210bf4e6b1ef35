//! Why there is no connection to the service, by cause.

use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{Refusal, UnixMs};
use serde::{Deserialize, Serialize};

/// How this device stands with its service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
#[non_exhaustive]
pub enum Connection {
    /// The client was opened without a service.
    Unused,
    /// The first attempt is under way.
    Connecting,
    /// The service is reached and has let this device in.
    Connected,
    /// The last attempt failed, or the connection was lost. It is tried again and again.
    Trouble {
        /// Why.
        cause: Trouble,
        /// Since when there has been trouble, whatever its causes.
        since: UnixMs,
        /// When it is tried again. None while that is under way, or waits for something else.
        next_try: Option<UnixMs>,
    },
}

impl Connection {
    /// The cause, where there is trouble.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Trouble { cause, .. } => Some(cause),
            _ => None,
        }
    }

    /// Whether waiting a little longer may change something: a first attempt is under way, or what happened passes by itself.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Connecting => true,
            Self::Trouble { cause, .. } => cause.is_passing(),
            Self::Unused | Self::Connected => false,
        }
    }
}

/// Why there is no connection. Quotes addresses that the user gave, and of what a peer sent at most a status and a host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "cause")]
#[non_exhaustive]
pub enum Trouble {
    /// The host's name has no address, or names cannot be looked up now.
    #[error("the name {host} was not found: {why}")]
    UnknownHost {
        /// The name.
        host: String,
        /// What the system says.
        why: String,
    },
    /// Nothing listens there.
    #[error("{address} refused the connection")]
    Refused {
        /// Host and port.
        address: String,
    },
    /// The network does not lead there.
    #[error("{address} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system says.
        why: String,
    },
    /// Name lookup, TCP, TLS and the WebSocket handshake together took too long.
    #[error("connecting to {address} took longer than {seconds} s")]
    TimedOut {
        /// Host and port.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// The service's certificate is not good.
    #[error("the certificate of {host} is refused: {fault}")]
    Certificate {
        /// The host's name.
        host: String,
        /// Why.
        fault: CertificateFault,
    },
    /// This system has no root certificates to check others by.
    #[error("this system has no root certificates")]
    NoRoots,
    /// The address begins with `wss`, and the port does not speak TLS.
    #[error("{address} does not speak TLS")]
    NotTls {
        /// Host and port.
        address: String,
    },
    /// Another failure of TLS.
    #[error("the TLS handshake with {host} failed: {why}")]
    Tls {
        /// The host's name.
        host: String,
        /// What the TLS library says.
        why: String,
    },
    /// A web server that answers, but not as the service does.
    #[error("the answer is HTTP status {status} instead of a WebSocket")]
    Http {
        /// Status code.
        status: u16,
        /// Where it redirects to: scheme and host.
        target: Option<String>,
    },
    /// Something else than a WebSocket service listens there.
    #[error("{address} is no WebSocket service: {why}")]
    NotAService {
        /// Host and port.
        address: String,
        /// What does not fit.
        why: String,
    },
    /// There was a connection, and it is gone.
    #[error("the connection was lost: {why}")]
    Lost {
        /// Why.
        why: String,
    },
    /// The service let this device not in, or sent it away.
    #[error("the service refused the login ({denial:?})")]
    Denied {
        /// Why.
        denial: Denial,
    },
    /// Another service answers than the one that this device knows. Nothing was sent to it.
    #[error("another service answers here (key {key}, before {before})")]
    OtherService {
        /// Its key, in hexadecimal digits.
        key: String,
        /// Key of the one that this device knows.
        before: String,
    },
    /// The service cannot serve this device just now.
    #[error("the service is busy or stopping ({code})")]
    Busy {
        /// Code of the refusal.
        code: String,
    },
    /// This device is not enrolled yet: no service knows it.
    #[error("this device is not enrolled yet")]
    NotEnrolled,
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CertificateFault {
    /// It has expired, by this device's clock.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet, by this device's clock.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Nobody whom this system trusts has issued it.
    #[error("its issuer is unknown")]
    UnknownIssuer,
    /// It is for another name.
    #[error("it is for another name")]
    WrongName,
    /// It was revoked.
    #[error("it was revoked")]
    Revoked,
    /// Malformed, not for servers, or signed in a way that is not accepted.
    #[error("it is not valid")]
    Invalid,
}

/// Why a service does not let a device in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Denial {
    /// It admits by invitation, and no valid token came.
    NotAdmitted,
    /// The account or device is disabled, or its user's device list no longer names it.
    Revoked,
    /// The service goes by other addresses than the one that was dialled.
    WrongOrigin,
    /// The device's certificate is not valid at the service's time: one of both clocks is wrong.
    Clock,
    /// The service speaks a later version only.
    UpgradeNeeded {
        /// Least protocol version that works.
        minimum: u16,
    },
    /// The credential or signature was not accepted.
    Credential,
    /// What was sent made no sense to the service.
    Misunderstood,
    /// Another copy of this device's home is in use.
    OtherLife {
        /// When that one logged in last.
        since: UnixMs,
    },
}

impl Trouble {
    /// What a service's last word before the end of a connection means.
    pub(crate) fn from_refusal(why: &Refusal) -> Self {
        let denial = match why {
            Refusal::Forbidden { why } => match why {
                ForbiddenWhy::NotAdmitted => Denial::NotAdmitted,
                ForbiddenWhy::DeviceRevoked => Denial::Revoked,
                ForbiddenWhy::WrongOrigin => Denial::WrongOrigin,
                ForbiddenWhy::CertificateTime => Denial::Clock,
                _ => Denial::Credential,
            },
            Refusal::UpgradeNeeded { minimum } => Denial::UpgradeNeeded { minimum: *minimum },
            Refusal::Unauthenticated => Denial::Credential,
            Refusal::OtherLife { since } => Denial::OtherLife { since: *since },
            Refusal::Malformed | Refusal::TooLarge { .. } => Denial::Misunderstood,
            other => {
                return Self::Busy {
                    code: other.code().to_owned(),
                };
            }
        };
        Self::Denied { denial }
    }

    /// Stable code, listed in `docs/ERRORS.md`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownHost { .. } => "connection.unknown_host",
            Self::Refused { .. } => "connection.refused",
            Self::Unreachable { .. } => "connection.unreachable",
            Self::TimedOut { .. } => "connection.timed_out",
            Self::Certificate { fault, .. } => match fault {
                CertificateFault::Expired => "connection.certificate_expired",
                CertificateFault::NotYetValid => "connection.certificate_not_yet_valid",
                CertificateFault::UnknownIssuer => "connection.certificate_unknown_issuer",
                CertificateFault::WrongName => "connection.certificate_wrong_name",
                CertificateFault::Revoked => "connection.certificate_revoked",
                CertificateFault::Invalid => "connection.certificate_invalid",
            },
            Self::NoRoots => "connection.no_roots",
            Self::NotTls { .. } => "connection.not_tls",
            Self::Tls { .. } => "connection.tls",
            Self::Http { status, .. } => match status {
                200..=299 => "connection.web_page",
                300..=399 => "connection.redirect",
                401 | 403 => "connection.login_wanted",
                407 => "connection.proxy_login",
                404 | 405 | 410 => "connection.no_such_page",
                429 => "connection.crowded",
                502..=504 => "connection.gateway",
                _ => "connection.http",
            },
            Self::NotAService { .. } => "connection.not_a_service",
            Self::Lost { .. } => "connection.lost",
            Self::Denied { denial } => match denial {
                Denial::NotAdmitted => "connection.not_admitted",
                Denial::Revoked => "connection.revoked",
                Denial::WrongOrigin => "connection.wrong_origin",
                Denial::Clock => "connection.clock",
                Denial::UpgradeNeeded { .. } => "connection.upgrade_needed",
                Denial::Credential => "connection.credential",
                Denial::Misunderstood => "connection.misunderstood",
                Denial::OtherLife { .. } => "connection.other_life",
            },
            Self::OtherService { .. } => "connection.other_service",
            Self::Busy { .. } => "connection.busy",
            Self::NotEnrolled => "connection.not_enrolled",
        }
    }

    /// Whether it says that another copy of this home is in use.
    #[must_use]
    pub fn is_other_life(&self) -> bool {
        matches!(
            self,
            Self::Denied {
                denial: Denial::OtherLife { .. }
            }
        )
    }

    /// Whether it passes by itself, in seconds rather than minutes: whoever waits should wait on.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Busy { .. })
    }

    /// Whether a service of this kind answered under the address that was dialled, and goes by it.
    #[must_use]
    pub fn is_of_the_service(&self) -> bool {
        match self {
            Self::Denied { denial } => *denial != Denial::WrongOrigin,
            Self::Busy { .. } | Self::NotEnrolled => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goodbye_says_what_it_means() {
        let forbidden = |why| Refusal::Forbidden { why };
        let cases = [
            (
                forbidden(ForbiddenWhy::NotAdmitted),
                "connection.not_admitted",
            ),
            (forbidden(ForbiddenWhy::DeviceRevoked), "connection.revoked"),
            (
                forbidden(ForbiddenWhy::WrongOrigin),
                "connection.wrong_origin",
            ),
            (forbidden(ForbiddenWhy::CertificateTime), "connection.clock"),
            (
                Refusal::UpgradeNeeded { minimum: 7 },
                "connection.upgrade_needed",
            ),
            (Refusal::Unauthenticated, "connection.credential"),
            (Refusal::Malformed, "connection.misunderstood"),
            (
                Refusal::OtherLife { since: UnixMs(1) },
                "connection.other_life",
            ),
            (Refusal::ShuttingDown, "connection.busy"),
            (Refusal::Storage, "connection.busy"),
            (
                Refusal::RateLimited { retry_after_ms: 1 },
                "connection.busy",
            ),
        ];
        for (refusal, code) in cases {
            assert_eq!(Trouble::from_refusal(&refusal).code(), code);
        }
    }

    /// It crosses the local socket as CBOR and reaches scripts as JSON.
    #[test]
    fn a_connection_survives_both_encodings() {
        let connection = Connection::Trouble {
            cause: Trouble::Certificate {
                host: "ds.example".to_owned(),
                fault: CertificateFault::Expired,
            },
            since: UnixMs(5),
            next_try: None,
        };
        let json = serde_json::to_string(&connection).unwrap();
        assert_eq!(
            serde_json::from_str::<Connection>(&json).unwrap(),
            connection
        );
        let mut cbor = Vec::new();
        ciborium::into_writer(&connection, &mut cbor).unwrap();
        let again: Connection = ciborium::from_reader(cbor.as_slice()).unwrap();
        assert_eq!(again, connection);
    }
}

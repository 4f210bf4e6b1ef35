//! What went wrong while connecting.

use std::io;

use rustls::CertificateError;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::http::header::LOCATION;

use super::Endpoint;
use crate::trouble::{CertificateFault, Trouble};

/// Longest host name that is repeated from a redirect: as long as names can be.
const HOST_MAX_BYTES: usize = 253;

/// Host and port, as people write them.
pub(super) fn address(endpoint: &Endpoint) -> String {
    let (host, port) = endpoint.host_and_port();
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// A name that was not found.
pub(super) fn lookup(endpoint: &Endpoint, error: &io::Error) -> Trouble {
    Trouble::UnknownHost {
        host: endpoint.host_and_port().0.to_owned(),
        why: error.to_string(),
    }
}

/// A TCP connection that was not made.
pub(super) fn tcp(endpoint: &Endpoint, error: &io::Error) -> Trouble {
    let address = address(endpoint);
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Trouble::Refused { address },
        _ => Trouble::Unreachable {
            address,
            why: error.to_string(),
        },
    }
}

/// A TLS or WebSocket handshake that failed.
pub(super) fn handshake(endpoint: &Endpoint, error: &tungstenite::Error) -> Trouble {
    match error {
        tungstenite::Error::Io(error) => io_failed(endpoint, error),
        tungstenite::Error::Tls(error) => Trouble::Tls {
            host: endpoint.host_and_port().0.to_owned(),
            why: error.to_string(),
        },
        tungstenite::Error::Http(response) => Trouble::Http {
            status: response.status().as_u16(),
            target: response
                .headers()
                .get(LOCATION)
                .and_then(|location| location.to_str().ok())
                .and_then(target),
        },
        other => Trouble::NotAService {
            address: address(endpoint),
            why: describe(other),
        },
    }
}

fn io_failed(endpoint: &Endpoint, error: &io::Error) -> Trouble {
    let host = endpoint.host_and_port().0.to_owned();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(fault)) => Trouble::Certificate {
            host,
            fault: certificate(fault),
        },
        // What came back has not the form of TLS.
        Some(rustls::Error::InvalidMessage(_)) => Trouble::NotTls {
            address: address(endpoint),
        },
        Some(other) => Trouble::Tls {
            host,
            why: other.to_string(),
        },
        // The TLS connector says so before it has sent anything.
        None if error.kind() == io::ErrorKind::NotFound => Trouble::NoRoots,
        None if is_secure(endpoint) => Trouble::Tls {
            host,
            why: error.to_string(),
        },
        None => Trouble::NotAService {
            address: address(endpoint),
            why: error.to_string(),
        },
    }
}

fn is_secure(endpoint: &Endpoint) -> bool {
    endpoint.url().starts_with("wss:")
}

fn certificate(fault: &CertificateError) -> CertificateFault {
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateFault::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateFault::NotYetValid
        }
        CertificateError::UnknownIssuer => CertificateFault::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateFault::WrongName
        }
        CertificateError::Revoked => CertificateFault::Revoked,
        _ => CertificateFault::Invalid,
    }
}

/// Scheme and host of a redirect. The rest of what a peer says there is nobody's business.
fn target(location: &str) -> Option<String> {
    let uri: Uri = location.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    let plain = |text: &str| {
        text.len() <= HOST_MAX_BYTES
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-+:[]".contains(&byte))
    };
    (plain(scheme) && plain(host)).then(|| format!("{scheme}://{host}"))
}

/// Texts of errors that cannot quote what a peer sent.
pub(super) fn describe(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => error.to_string(),
        tungstenite::Error::Http(response) => format!("HTTP status {}", response.status().as_u16()),
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            "closed".to_owned()
        }
        tungstenite::Error::Capacity(_) => "a message is too large".to_owned(),
        tungstenite::Error::Protocol(error) => error.to_string(),
        tungstenite::Error::Tls(error) => error.to_string(),
        _ => "not a WebSocket service".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_redirect_only_scheme_and_host_are_told() {
        assert_eq!(
            target("https://login.example/start?token=secret").as_deref(),
            Some("https://login.example")
        );
        assert_eq!(target("/elsewhere"), None);
        assert_eq!(target("not an address"), None);
        assert_eq!(target(&format!("https://{}/", "a".repeat(300))), None);
    }
}

//! Where the service is.

use tokio_tungstenite::tungstenite::http::Uri;

/// Path of the protocol's first version, below whatever path the address has.
const PATH: &str = "/v1";

/// The address of a service, for example `wss://ds.example` or `ws://127.0.0.1:7700`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    origin: String,
    url: String,
    host: String,
    port: u16,
}

/// Why an address is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// Not of the form `scheme://host[:port][/path]`.
    #[error("the address of a service looks like wss://host or wss://host:port")]
    Malformed,
    /// Another scheme than `ws` or `wss`.
    #[error("the address of a service begins with wss:// (or ws:// without TLS)")]
    Scheme,
    /// The address holds a user name or password.
    #[error("the address of a service holds no user name; admission is by token")]
    UserInfo,
}

impl Endpoint {
    /// Reads an address.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn parse(address: &str) -> Result<Self, EndpointError> {
        let uri: Uri = address
            .trim()
            .parse()
            .map_err(|_| EndpointError::Malformed)?;
        let authority = uri.authority().ok_or(EndpointError::Malformed)?;
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let (scheme, default_port) = match uri.scheme_str() {
            Some("wss") => ("wss", 443),
            Some("ws") => ("ws", 80),
            _ => return Err(EndpointError::Scheme),
        };
        if uri.query().is_some() || authority.host().is_empty() {
            return Err(EndpointError::Malformed);
        }
        // `Authority::port` takes a port that is out of range for none.
        let given = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => None,
            Some(rest) => {
                let port = rest
                    .strip_prefix(':')
                    .and_then(|port| port.parse::<u16>().ok());
                Some(port.ok_or(EndpointError::Malformed)?)
            }
            None => return Err(EndpointError::Malformed),
        };
        let host = authority.host().to_ascii_lowercase();
        let origin = match given {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        let below = uri.path().trim_end_matches('/');
        // People copy addresses with the path in them.
        let below = below.strip_suffix(PATH).unwrap_or(below);
        let url = format!("{origin}{below}{PATH}");
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(Self {
            origin,
            url,
            host,
            port: given.unwrap_or(default_port),
        })
    }

    /// `scheme://host` and the port where the address names one, in lower case: what a login is bound to.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn host_and_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_dialled() {
        let cases = [
            (
                "wss://DS.example",
                "wss://ds.example",
                "wss://ds.example/v1",
                "ds.example",
                443,
            ),
            (
                "wss://ds.example/",
                "wss://ds.example",
                "wss://ds.example/v1",
                "ds.example",
                443,
            ),
            (
                "ws://127.0.0.1:7700",
                "ws://127.0.0.1:7700",
                "ws://127.0.0.1:7700/v1",
                "127.0.0.1",
                7700,
            ),
            (
                "wss://ds.example/v1/",
                "wss://ds.example",
                "wss://ds.example/v1",
                "ds.example",
                443,
            ),
            (
                "wss://a.example:444/conclave/",
                "wss://a.example:444",
                "wss://a.example:444/conclave/v1",
                "a.example",
                444,
            ),
            (
                "ws://[::1]:80",
                "ws://[::1]:80",
                "ws://[::1]:80/v1",
                "::1",
                80,
            ),
        ];
        for (address, origin, url, host, port) in cases {
            let endpoint = Endpoint::parse(address).unwrap();
            assert_eq!((endpoint.origin(), endpoint.url()), (origin, url));
            assert_eq!(endpoint.host_and_port(), (host, port));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let cases = [
            ("", EndpointError::Malformed),
            ("ds.example", EndpointError::Scheme),
            ("https://ds.example", EndpointError::Scheme),
            ("wss://user:word@ds.example", EndpointError::UserInfo),
            ("wss://ds.example?token=1", EndpointError::Malformed),
            ("wss://ds.example:99999", EndpointError::Malformed),
        ];
        for (address, error) in cases {
            assert_eq!(Endpoint::parse(address), Err(error), "{address}");
        }
    }
}

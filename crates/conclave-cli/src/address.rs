//! What a service's address says of the way to it.

/// What is said of a service's address that [`is_open_to_others`].
pub const OPEN_TO_OTHERS: &str = "note: ws:// to another machine is not encrypted on the way: documents are sealed all the same, but whoever is in between sees who talks to the service, and can cut it off; use wss://";

/// Whether whoever is between here and a service at this address can look on.
pub fn is_open_to_others(server: &str) -> bool {
    let Some(rest) = server.trim().strip_prefix("ws://") else {
        return false;
    };
    let host = rest.split('/').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(host, _)| host),
    };
    let own = host.parse::<std::net::IpAddr>();
    !(host.eq_ignore_ascii_case("localhost") || own.is_ok_and(|ip| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_can_listen_to_is_told_from_the_own_machine() {
        let own = [
            "ws://localhost:7700",
            "ws://127.0.0.1",
            "ws://[::1]:7700/",
            "ws://127.8.8.8:1",
        ];
        let safe = ["wss://ds.example", "wss://10.0.0.1:443"];
        for server in own.iter().chain(&safe) {
            assert!(!is_open_to_others(server), "{server}");
        }
        for server in [
            "ws://ds.example",
            "ws://10.0.0.1:7700",
            "ws://[fd00::1]:7700",
            " ws://localhost.evil.example",
        ] {
            assert!(is_open_to_others(server), "{server}");
        }
    }
}

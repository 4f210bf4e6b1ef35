//! What is the matter with the connection, in plain words.

use conclave_client::finding::date;
use conclave_client::{CertificateFault, Denial, Trouble};

use crate::failure::{Exit, Failure};

/// What a copy of a home can do that is not the one that goes on.
pub const OTHER_LIFE_HINT: &str = "`conclave device become-new` makes it a device of its own; `conclave device take-over` goes on here and stops the other, and what is written here waits until then";

/// What happened, and what to do. `device` is what this device is called.
fn words(trouble: &Trouble, device: Option<&str>) -> (String, &'static str) {
    let fixed = |text: &str, hint| (text.to_owned(), hint);
    match trouble {
        Trouble::UnknownHost { host, .. } => (
            format!("the name {host} was not found"),
            "check --server for a typing error, and this device's network",
        ),
        Trouble::Refused { address } => (
            format!("nothing answers at {address}"),
            "check --server and its port; if they are right the service is down: tell its operator",
        ),
        Trouble::Unreachable { address, .. } => (
            format!("the network does not lead to {address}"),
            "check this device's network, and --server",
        ),
        Trouble::TimedOut { address, seconds } => (
            format!("{address} did not answer within {seconds} s"),
            "check this device's network and --server; a firewall may lie in between",
        ),
        Trouble::Certificate { host, fault } => certificate(host, *fault),
        Trouble::NoRoots => fixed(
            "this system has no list of trusted certificates to check the service by",
            "install it (on Debian: the package ca-certificates), or name a file in SSL_CERT_FILE",
        ),
        Trouble::NotTls { address } => (
            format!("{address} does not speak TLS, which wss:// demands"),
            "check the port in --server; ws:// does without TLS, which only suits one machine",
        ),
        Trouble::Tls { host, .. } => (
            format!("no secure connection to {host} could be made"),
            "check --server; if it is right tell the operator of the service (--verbose says more)",
        ),
        Trouble::Http { status, target } => http(*status, target.as_deref()),
        Trouble::NotAService { address, .. } => (
            format!("what answers at {address} is no Conclave service"),
            "check --server: wss:// or ws://, the name, the port and the path",
        ),
        Trouble::Lost { .. } => fixed(
            "the connection was lost",
            "check this device's network, and try again",
        ),
        Trouble::OtherService { key, before } => (
            format!(
                "another service answers here (key {}…, before {}…). Nothing was sent",
                beginning(key),
                beginning(before)
            ),
            "if it was set up anew, compare the key with its operator, then `conclave server accept KEY`; otherwise check --server",
        ),
        Trouble::Busy { .. } => fixed("the service is busy or stopping", "try again in a moment"),
        Trouble::NotEnrolled => fixed(
            "this device is not approved yet, and no service knows it before",
            "run `conclave device request` here, approve its text on another of your devices, then `conclave device finish TEXT`",
        ),
        Trouble::Denied {
            denial: Denial::OtherLife { since },
        } => (
            format!(
                "this home is an older copy of {}, used elsewhere since {}",
                device.map_or_else(|| "this device".to_owned(), |name| format!("“{name}”")),
                date(*since)
            ),
            OTHER_LIFE_HINT,
        ),
        Trouble::Denied { denial } => {
            let (text, hint) = denied(*denial);
            fixed(text, hint)
        }
        _ => fixed("it is not known why", "--verbose says more"),
    }
}

/// The first digits of a key, for people to compare.
fn beginning(key: &str) -> String {
    key.chars().take(8).collect()
}

fn certificate(host: &str, fault: CertificateFault) -> (String, &'static str) {
    match fault {
        CertificateFault::Expired => (
            format!("the certificate of {host} has expired, by this device's clock"),
            "check this device's clock; if it is right tell the operator of the service",
        ),
        CertificateFault::NotYetValid => (
            format!("the certificate of {host} is not valid yet, by this device's clock"),
            "check this device's clock; if it is right tell the operator of the service",
        ),
        CertificateFault::UnknownIssuer => (
            format!("nobody whom this system trusts vouches for the certificate of {host}"),
            "check --server and the network; where the service has an issuer of its own, add that to the system's trusted certificates or name its file in SSL_CERT_FILE",
        ),
        CertificateFault::WrongName => (
            format!("the certificate that answers at {host} is for another name"),
            "use the name that the operator gives out; otherwise somebody may sit in between",
        ),
        CertificateFault::Revoked => (
            format!("the certificate of {host} was revoked"),
            "tell the operator of the service",
        ),
        _ => (
            format!("the certificate of {host} is not valid"),
            "tell the operator of the service",
        ),
    }
}

fn http(status: u16, target: Option<&str>) -> (String, &'static str) {
    match (status, target) {
        (200..=299, _) => (
            format!("a web page answers there, not the service (status {status})"),
            "check --server and its path; a network with a login page answers like this too: log in with a browser first",
        ),
        (300..=399, Some(target)) => (
            format!("the address leads elsewhere, to {target} (status {status})"),
            "if the service moved there name it with --server; a network with a login page does this too: log in with a browser first",
        ),
        (300..=399, None) => (
            format!("the address leads elsewhere (status {status})"),
            "look with a browser where, and name that with --server if it is the service",
        ),
        (401 | 403, _) => (
            format!("a web server in front of the service wants a login (status {status})"),
            "ask the operator of the service; --token is for the service itself, not for web servers",
        ),
        (407, _) => (
            format!("a proxy on the way wants a login (status {status})"),
            "ask whoever runs this network how to reach the service past the proxy",
        ),
        (404 | 405 | 410, _) => (
            format!("a web server answers, and the service is not at this path (status {status})"),
            "check the path in --server",
        ),
        (429, _) => (
            format!(
                "there are too many connections to the service from this network already (status {status})"
            ),
            "try again later; if it stays so tell the operator of the service, who sets how many one address may have",
        ),
        (502..=504, _) => (
            format!(
                "the web server in front answers, and the service behind it is down (status {status})"
            ),
            "try again later, and tell the operator of the service",
        ),
        _ => (
            format!("a web server answers in place of the service (status {status})"),
            "check --server: wss:// or ws://, the name, the port and the path",
        ),
    }
}

fn denied(denial: Denial) -> (&'static str, &'static str) {
    match denial {
        Denial::NotAdmitted => (
            "the service admits only whom its operator invites",
            "ask the operator for a token, and give it once with --token TOKEN",
        ),
        Denial::Revoked => (
            "the service lets this device in no more: it was taken off its user's devices",
            "approve it again on another of your devices, or ask the operator of the service",
        ),
        Denial::WrongOrigin => (
            "the service does not go by this address",
            "use the address that its operator gives out; operators name further ones with --origin",
        ),
        Denial::Clock => (
            "by the service's clock this device's certificate is not valid: one of the two clocks is wrong",
            "set this device's clock; if it is right tell the operator of the service",
        ),
        Denial::UpgradeNeeded { .. } => (
            "the service needs a newer version of this program",
            "update this program",
        ),
        Denial::Credential => (
            "the service does not accept this device's proof of who it is",
            "check --server; if it is right tell the operator of the service",
        ),
        _ => (
            "the service did not understand this device",
            "update this program; if it is the newest tell the operator of the service",
        ),
    }
}

/// Trouble as a failure, with the exit code that says whether the service was not reached or refused.
pub fn trouble(trouble: &Trouble, device: Option<&str>) -> Failure {
    let (message, hint) = words(trouble, device);
    let exit = match trouble {
        trouble if trouble.is_other_life() => Exit::OtherLife,
        Trouble::Denied { .. } | Trouble::OtherService { .. } => Exit::Refused,
        _ => Exit::Offline,
    };
    Failure::new(trouble.code(), exit, message, hint).detailed(trouble.to_string())
}

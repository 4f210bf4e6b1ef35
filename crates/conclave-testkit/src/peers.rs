//! Small peers on real sockets, each wrong in its own way: what a mistyped address, a proxy or a bad certificate looks like from outside.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "peers of tests"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};

/// A peer that hangs on to a connection lets go of it after this, so that none outlives its test.
const HANG: Duration = Duration::from_secs(60);

/// A certificate that is wrong, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// Right.
    Good,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// For another name.
    WrongName,
}

/// A listening peer. Dropping it ends it.
pub struct Peer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The authority that signed its certificate, as PEM.
    pub root: Option<String>,
    seen: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Peer {
    fn start(root: Option<String>, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, over) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stop, serve) = (Arc::clone(&seen), Arc::clone(&over), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.set_read_timeout(Some(HANG));
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self {
            address,
            root,
            seen,
            over,
        }
    }

    /// How many connections it has taken.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }

    /// Its address as one for this scheme.
    #[must_use]
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// A web server that answers every request with a status, and a place where it is redirected to.
    ///
    /// # Panics
    /// Where it cannot listen.
    #[must_use]
    pub fn http(status: u16, location: Option<&str>) -> Self {
        let location = location.map(|to| format!("Location: {to}\r\n"));
        let answer = format!(
            "HTTP/1.1 {status} Words\r\n{}Content-Length: 6\r\nConnection: close\r\n\r\n<html>",
            location.unwrap_or_default()
        );
        Self::start(None, move |mut stream| {
            let mut request = Vec::new();
            let mut some = [0; 1024];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut some) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => request.extend_from_slice(&some[..count]),
                }
            }
            let _ = stream.write_all(answer.as_bytes());
        })
    }

    /// Something that is no web server at all.
    ///
    /// # Panics
    /// Where it cannot listen.
    #[must_use]
    pub fn noise() -> Self {
        Self::start(None, |mut stream| {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        })
    }

    /// Takes connections and says nothing.
    ///
    /// # Panics
    /// Where it cannot listen.
    #[must_use]
    pub fn silent() -> Self {
        Self::start(None, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        })
    }

    /// A port that speaks TLS under a certificate, and a web server that is down behind it.
    ///
    /// # Panics
    /// Where it cannot listen.
    #[must_use]
    pub fn tls(certificate: Certificate) -> Self {
        let (config, root) = tls_config(certificate);
        Self::start(Some(root), move |mut stream| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::Stream::new(&mut tls, &mut stream);
            if stream.read(&mut [0; 4096]).is_ok() {
                let answer = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(answer);
                let _ = stream.flush();
            }
        })
    }
}

/// An address at which nothing listens: it was free a moment ago.
///
/// # Panics
/// Where none is free.
#[must_use]
pub fn nobody() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn tls_config(certificate: Certificate) -> (Arc<ServerConfig>, String) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::new(Vec::new()).unwrap();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root, root_key);
    let name = match certificate {
        Certificate::WrongName => "other.example",
        _ => "127.0.0.1",
    };
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (leaf.not_before, leaf.not_after) = match certificate {
        Certificate::Expired => (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1)),
        Certificate::NotYetValid => (date_time_ymd(3001, 1, 1), date_time_ymd(3002, 1, 1)),
        _ => (date_time_ymd(2001, 1, 1), date_time_ymd(3002, 1, 1)),
    };
    let key = KeyPair::generate().unwrap();
    let chain = vec![leaf.signed_by(&key, &issuer).unwrap().der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(config), root_pem)
}

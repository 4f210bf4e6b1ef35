//! A loopback TCP proxy in front of the service, one per device: it keeps every byte in both directions, and can cut the device off.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Bytes read at a time.
const BUFFER_BYTES: usize = 32 * 1024;
/// Most bytes kept by one proxy. A recording that is not complete proves nothing, so more than this fails the demonstration.
const RECORDED_MAX_BYTES: u64 = 512 * 1024 * 1024;

/// What one connection carried.
#[derive(Debug, Default, Clone)]
pub struct Conversation {
    /// Bytes from the device.
    pub from_device: Vec<u8>,
    /// Bytes from the service.
    pub from_service: Vec<u8>,
}

/// Where the service listens now; none while it is down.
pub type Upstream = watch::Receiver<Option<SocketAddr>>;

#[derive(Debug, Default)]
struct Tape {
    conversations: Mutex<Vec<Arc<Mutex<Conversation>>>>,
    bytes: AtomicU64,
    overflowed: AtomicBool,
}

/// A running proxy. Stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    open: watch::Sender<bool>,
    tape: Arc<Tape>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// What the system refused.
    pub async fn start(upstream: Upstream) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (open, opened) = watch::channel(true);
        let tape = Arc::new(Tape::default());
        let task = tokio::spawn(accept(listener, upstream, opened, tape.clone()));
        Ok(Self {
            address,
            open,
            tape,
            task,
        })
    }

    /// What the device dials.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Cuts every connection and takes no new one.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Lets the device connect again.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }

    /// Everything carried so far.
    pub fn conversations(&self) -> Vec<Conversation> {
        let all = self
            .tape
            .conversations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|one| one.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// Whether nothing was left out of the recording.
    pub fn is_complete(&self) -> bool {
        !self.tape.overflowed.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    upstream: Upstream,
    mut open: watch::Receiver<bool>,
    tape: Arc<Tape>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((device, _)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let service = *upstream.borrow();
        if !*open.borrow_and_update() {
            continue;
        }
        let Some(service) = service else { continue };
        let conversation = Arc::new(Mutex::new(Conversation::default()));
        tape.conversations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(conversation.clone());
        let (tape, mut open) = (tape.clone(), open.clone());
        connections.spawn(async move {
            tokio::select! {
                _ = carry(device, service, &conversation, &tape) => {}
                _ = open.wait_for(|open| !*open) => {}
            }
        });
    }
}

async fn carry(
    device: TcpStream,
    service: SocketAddr,
    conversation: &Mutex<Conversation>,
    tape: &Tape,
) -> std::io::Result<()> {
    let service = TcpStream::connect(service).await?;
    device.set_nodelay(true)?;
    service.set_nodelay(true)?;
    let (from_device, to_device) = device.into_split();
    let (from_service, to_service) = service.into_split();
    // When one direction ends, so does the other: a device must notice that its service is gone.
    tokio::select! {
        ended = pump(from_device, to_service, |bytes| keep(conversation, tape, bytes, |c| &mut c.from_device)) => ended,
        ended = pump(from_service, to_device, |bytes| keep(conversation, tape, bytes, |c| &mut c.from_service)) => ended,
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    keep: impl Fn(&[u8]),
) -> std::io::Result<()> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        // Kept first: whatever the other side got is on the tape.
        keep(bytes);
        to.write_all(bytes).await?;
    }
}

fn keep(
    conversation: &Mutex<Conversation>,
    tape: &Tape,
    bytes: &[u8],
    side: impl Fn(&mut Conversation) -> &mut Vec<u8>,
) {
    if tape.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) > RECORDED_MAX_BYTES {
        tape.overflowed.store(true, Ordering::Relaxed);
        return;
    }
    let mut conversation = conversation.lock().unwrap_or_else(PoisonError::into_inner);
    side(&mut conversation).extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo_service() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn dial(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address).await.unwrap()
    }

    #[tokio::test]
    async fn both_directions_are_kept() {
        let (_up, upstream) = watch::channel(Some(echo_service().await));
        let proxy = Proxy::start(upstream).await.unwrap();
        let mut device = dial(&proxy).await;
        device.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        device.read_exact(&mut back).await.unwrap();
        let kept = proxy.conversations();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].from_device, b"hello");
        assert_eq!(kept[0].from_service, b"hello");
        assert!(proxy.is_complete());
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_refuses_new_ones_until_mended() {
        let (_up, upstream) = watch::channel(Some(echo_service().await));
        let proxy = Proxy::start(upstream).await.unwrap();
        let mut device = dial(&proxy).await;
        device.write_all(b"x").await.unwrap();
        let mut byte = [0; 1];
        device.read_exact(&mut byte).await.unwrap();
        proxy.cut();
        assert!(matches!(device.read(&mut byte).await, Ok(0) | Err(_)));
        let mut refused = dial(&proxy).await;
        assert!(matches!(refused.read(&mut byte).await, Ok(0) | Err(_)));
        proxy.mend();
        let mut again = dial(&proxy).await;
        again.write_all(b"y").await.unwrap();
        again.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"y");
    }

    #[tokio::test]
    async fn while_the_service_is_down_nobody_gets_through() {
        let (up, upstream) = watch::channel(None);
        let proxy = Proxy::start(upstream).await.unwrap();
        let mut byte = [0; 1];
        assert!(matches!(
            dial(&proxy).await.read(&mut byte).await,
            Ok(0) | Err(_)
        ));
        up.send_replace(Some(echo_service().await));
        let mut device = dial(&proxy).await;
        device.write_all(b"z").await.unwrap();
        device.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"z");
    }
}

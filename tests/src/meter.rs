//! What goes over the wire and what lies in the service's database: figures for whoever compares two builds.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use conclave_proto::codec::encode;
use conclave_proto::frame::{ClientFrame, ServiceFrame};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What went one way.
#[derive(Debug, Default)]
pub struct Counts {
    bytes: AtomicU64,
    frames: AtomicU64,
    signs: AtomicU64,
    sign_bytes: AtomicU64,
}

impl Counts {
    /// Bytes on the wire so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// WebSocket data frames so far; signs of life are none.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Signs of life so far: pings and pongs, of the WebSocket and of the protocol.
    #[must_use]
    pub fn signs(&self) -> u64 {
        self.signs.load(Ordering::Relaxed)
    }

    /// Bytes that were neither signs of life nor their frames.
    #[must_use]
    pub fn bytes_beside_signs(&self) -> u64 {
        let signs = self.sign_bytes.load(Ordering::Relaxed);
        self.bytes().saturating_sub(signs)
    }
}

/// A relay on loopback that counts what goes through it. Devices dial it instead of the service.
pub struct Relay {
    address: SocketAddr,
    listener: TcpListener,
}

/// What a [`Relay`] counts.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// From devices.
    pub up: Arc<Counts>,
    /// To devices.
    pub down: Arc<Counts>,
}

impl Relay {
    /// Takes a free port.
    ///
    /// # Errors
    /// When there is none.
    pub async fn bind() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
        })
    }

    /// What devices dial.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Relays to the service from now on.
    #[must_use]
    pub fn start(self, service: SocketAddr) -> Traffic {
        let traffic = Traffic::default();
        let counted = traffic.clone();
        tokio::spawn(async move {
            while let Ok((device, _)) = self.listener.accept().await {
                let counted = counted.clone();
                tokio::spawn(async move {
                    let Ok(service) = TcpStream::connect(service).await else {
                        return;
                    };
                    let (from_device, to_device) = device.into_split();
                    let (from_service, to_service) = service.into_split();
                    let up = copy(from_device, to_service, counted.up);
                    let down = copy(from_service, to_device, counted.down);
                    let _ = tokio::join!(up, down);
                });
            }
        });
        traffic
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counts: Arc<Counts>,
) -> std::io::Result<()> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        counts.bytes.fetch_add(read as u64, Ordering::Relaxed);
        let found = frames.count(bytes);
        counts.frames.fetch_add(found.data, Ordering::Relaxed);
        counts.signs.fetch_add(found.signs, Ordering::Relaxed);
        let sign_bytes = found.sign_bytes;
        counts.sign_bytes.fetch_add(sign_bytes, Ordering::Relaxed);
        to.write_all(bytes).await?;
    }
}

/// Follows the framing of RFC 6455 behind the HTTP handshake.
#[derive(Debug, Default)]
struct Frames {
    /// Whether the handshake's empty line was seen.
    begun: bool,
    /// Bytes that are not looked at yet.
    rest: Vec<u8>,
    /// Content of the present frame that is still to come.
    content: u64,
}

/// What heads of frames tell.
#[derive(Debug, Default)]
struct Told {
    /// Data frames.
    data: u64,
    /// Signs of life.
    signs: u64,
    sign_bytes: u64,
}

/// Most bytes of content that are looked at: a sign of life is shorter.
const SIGN_BYTES: u64 = 8;

impl Frames {
    /// What is told by heads that end within these bytes.
    fn count(&mut self, bytes: &[u8]) -> Told {
        let mut told = Told::default();
        self.rest.extend_from_slice(bytes);
        if !self.begun {
            let end = self.rest.windows(4).position(|it| it == b"\r\n\r\n");
            let Some(end) = end else { return told };
            self.rest.drain(..end + 4);
            self.begun = true;
        }
        loop {
            let skip = usize::try_from(self.content).unwrap_or(usize::MAX);
            let skip = skip.min(self.rest.len());
            self.rest.drain(..skip);
            self.content = self.content.saturating_sub(skip as u64);
            if self.content > 0 {
                return told;
            }
            let Some(head) = Head::read(&self.rest) else {
                return told;
            };
            let Some(is_sign) = head.is_sign(&self.rest) else {
                return told;
            };
            self.rest.drain(..head.bytes);
            self.content = head.content;
            if is_sign {
                told.signs += 1;
                told.sign_bytes += head.bytes as u64 + head.content;
            } else if head.opcode < 8 {
                told.data += 1;
            }
        }
    }
}

/// Head of a frame of RFC 6455.
pub(crate) struct Head {
    pub(crate) opcode: u8,
    mask: [u8; 4],
    /// Its own size.
    pub(crate) bytes: usize,
    /// Size of what follows it.
    content: u64,
}

impl Head {
    /// The head that these bytes begin with, if it is whole.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        let (second, rest) = rest.split_first()?;
        let (width, content) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (8, u64::from_be_bytes(*rest.first_chunk()?)),
            short => (0, u64::from(short)),
        };
        let rest = rest.get(width..)?;
        let (mask_bytes, mask) = match second & 0x80 {
            0 => (0, [0; 4]),
            _ => (4, *rest.first_chunk()?),
        };
        Some(Self {
            opcode: first & 0x0f,
            mask,
            bytes: 2 + width + mask_bytes,
            content,
        })
    }

    /// The frame's content, if it is whole.
    pub(crate) fn unmasked(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let size = usize::try_from(self.content).ok()?;
        let masked = frame.get(self.bytes..)?.get(..size)?;
        let mask = self.mask.iter().cycle();
        Some(
            masked
                .iter()
                .zip(mask)
                .map(|(it, mask)| it ^ mask)
                .collect(),
        )
    }

    /// Whether the frame is a ping or a pong; `None` where that is yet to come.
    fn is_sign(&self, frame: &[u8]) -> Option<bool> {
        if self.opcode == 9 || self.opcode == 10 {
            return Some(true);
        }
        if self.content > SIGN_BYTES {
            return Some(false);
        }
        let content = self.unmasked(frame)?;
        Some(content == encode(&ClientFrame::Ping) || content == encode(&ServiceFrame::Pong))
    }
}

/// What the service has stored of its documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Records that are updates.
    pub updates: u64,
    /// Sealed bytes of updates.
    pub update_bytes: u64,
    /// Bytes of the whole updates, headers included: what they weigh where a snapshot is called for.
    pub update_record_bytes: u64,
    /// Snapshots that have their content, the first of each document among them.
    pub snapshots: u64,
    /// Sealed bytes of these.
    pub snapshot_bytes: u64,
    /// Sealed bytes of the largest document's active snapshot.
    pub newest_snapshot_bytes: u64,
    /// Pages of the database that are in use, in bytes.
    pub database_bytes: u64,
}

impl Stored {
    /// Reads the figures from the service's folder; the service may be running.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn read(service_folder: &Path) -> Result<Self> {
        let file = service_folder.join("service.sqlite");
        let options = SqliteConnectOptions::new().filename(file).read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let (updates, update_bytes, snapshots, snapshot_bytes): (i64, i64, i64, i64) =
            sqlx::query_as(
                "SELECT IFNULL(SUM(kind = 1), 0), IFNULL(SUM(CASE WHEN kind = 1 THEN LENGTH(sealed) END), 0), \
                        IFNULL(SUM(kind = 3 AND sealed IS NOT NULL), 0), \
                        IFNULL(SUM(CASE WHEN kind = 3 THEN LENGTH(sealed) END), 0) FROM records",
            )
            .fetch_one(&mut connection)
            .await
            .context("reading the records")?;
        let (newest,): (i64,) = sqlx::query_as(
            "SELECT IFNULL(MAX(LENGTH(r.sealed)), 0) FROM documents d \
             JOIN records r ON r.doc = d.id AND r.seq = d.snapshot_seq",
        )
        .fetch_one(&mut connection)
        .await?;
        let (record_bytes,): (i64,) =
            sqlx::query_as("SELECT IFNULL(SUM(weight), 0) FROM documents")
                .fetch_one(&mut connection)
                .await?;
        let mut pages = [0i64; 3];
        let pragmas = [
            "PRAGMA page_count",
            "PRAGMA freelist_count",
            "PRAGMA page_size",
        ];
        for (pragma, value) in pragmas.into_iter().zip(&mut pages) {
            (*value,) = sqlx::query_as(pragma).fetch_one(&mut connection).await?;
        }
        let [count, free, size] = pages;
        Ok(Self {
            updates: updates.cast_unsigned(),
            update_bytes: update_bytes.cast_unsigned(),
            update_record_bytes: record_bytes.cast_unsigned(),
            snapshots: snapshots.cast_unsigned(),
            snapshot_bytes: snapshot_bytes.cast_unsigned(),
            newest_snapshot_bytes: newest.cast_unsigned(),
            database_bytes: ((count - free) * size).cast_unsigned(),
        })
    }

    /// Sealed bytes of updates and snapshots together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.update_bytes.saturating_add(self.snapshot_bytes)
    }
}

/// Processor time that this process has used, in milliseconds; counted in hundredths of a second.
///
/// # Errors
/// Where the system does not tell.
pub fn cpu_ms() -> Result<u64> {
    cpu_ms_of("self")
}

/// The same of another process.
///
/// # Errors
/// Where the system does not tell, or there is none.
pub fn cpu_ms_of(process: &str) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in brackets, may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("too short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) * 10)
}

/// Most memory that a process had, in bytes.
///
/// # Errors
/// As [`cpu_ms_of`].
pub fn peak_bytes_of(process: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = number.context("no figure")?.parse()?;
    Ok(kib * 1024)
}

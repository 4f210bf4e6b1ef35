//! Starting and stopping a service.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use conclave_identity::{HeadKey, ServiceKey};
use conclave_order::op::recovery::Declare;
use conclave_order::op::upkeep::Sweep;
use conclave_order::{Event, Op, limits as order_limits};
use conclave_proto::UnixMs;
use conclave_proto::service::Cause;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::apart::Apart;
use crate::config::{Config, Durability, derived_origins};
use crate::document::Documents;
use crate::env::Env;
use crate::error::StartError;
use crate::group::Groups;
use crate::heads::{Heads, Standing};
use crate::http;
use crate::hub::Hub;
use crate::limits;
use crate::listener::{CappedListener, Peer};
use crate::misconduct::Misconduct;
use crate::rate::Buckets;
use crate::recover::once;
use crate::recovery::{self, fresh_seed, next};
use crate::shared::{Rates, Shared};
use crate::sqlite::open::{self, Place};
use crate::sqlite::{Reads, Store};
use crate::writer::{self, WriterSetup};

/// A running delivery service. Dropping it stops it in the background; [`Service::shutdown`] waits for that.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    stop: CancellationToken,
    stopped: watch::Receiver<bool>,
}

impl Service {
    /// Starts a service: locks the data directory, brings the database up to date, listens.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(StartError::Config { problems });
        }
        let lock = open::lock(&config.data_dir)?;
        let place = Place {
            directory: config.data_dir.clone(),
            durability: config.durability,
            max_bytes: config.limits.database_bytes,
        };
        let mut store = Store::open(place.clone()).await?;
        let standing = standing(&mut store, config.durability, config.clock.now()).await?;
        let since = store.head_time().await?;
        let reads = Reads::open(&place).await?;
        let losses = reads.losses().await?;
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: config.listen,
                    source,
                })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;

        let stop = CancellationToken::new();
        let stop_writer = CancellationToken::new();
        let writer_tasks = TaskTracker::new();
        let doubted: Arc<OnceLock<Weak<Shared>>> = Arc::default();
        let in_doubt = doubted.clone();
        let writer = writer::start(
            WriterSetup {
                store,
                limits: order_limits::Limits {
                    tail_records: config.limits.tail_records,
                    user_bytes: config.limits.user_bytes,
                    group_bytes: config.limits.group_bytes,
                },
                lock,
                doubt: Box::new(move || {
                    if let Some(shared) = in_doubt.get().and_then(Weak::upgrade) {
                        shared.forget();
                    }
                }),
                stop: stop_writer.clone(),
            },
            &writer_tasks,
        );
        let rates = config.rate_limits.as_ref();
        let env = Arc::new(Env {
            reads,
            writer,
            tasks: TaskTracker::new(),
            clock: config.clock.clone(),
            limits: config.limits.clone(),
            hub: Hub::default(),
            self_updates: Buckets::new(rates.map(|rates| rates.self_updates)),
            group_self_updates: Buckets::new(rates.map(|rates| rates.group_self_updates)),
            policies: Buckets::new(rates.map(|rates| rates.policies)),
            own_adds: Buckets::new(rates.map(|rates| rates.own_adds)),
            voids: Buckets::new(rates.map(|rates| rates.voids)),
            other_adds: Buckets::new(rates.map(|rates| rates.other_adds)),
            returns: Buckets::new(rates.map(|rates| rates.returns)),
            misconduct: Misconduct::new(standing.service.public()),
            heads: Heads::new(standing, config.clock.clone(), since, losses),
            apart: Apart::default(),
            repeated_asks: Buckets::new(Some(limits::ASKS_TOLD)),
            snapshots: Buckets::new(Some(limits::SNAPSHOTS_WITHOUT_NEWS)),
            verdicts: Buckets::new(Some(limits::VERDICTS)),
        });
        let shared = Arc::new(Shared {
            env,
            groups: Groups::default(),
            documents: Documents::default(),
            pages: config.pages.clone(),
            origins: if config.origins.is_empty() {
                derived_origins(address)
            } else {
                config.origins.clone()
            },
            admission: config.admission,
            rates: Rates::new(rates, config.clock.clone()),
            addresses: Addresses::new(config.limits.connections_per_address),
            chunks: Arc::new(Semaphore::new(limits::UNFINISHED_CHUNKS)),
            connections: TaskTracker::new(),
            stop: stop.clone(),
        });
        // Set once, here.
        let _ = doubted.set(Arc::downgrade(&shared));

        shared.env.tasks.spawn(sweep_replaced(shared.clone()));
        // Before the first head is signed.
        if let Err(error) = recovery::reserve_time(&shared).await {
            error.into_refusal();
        }
        shared.env.tasks.spawn(recovery::run(shared.clone()));
        let told = shared.clone();
        (shared.env.tasks).spawn(async move { told.env.heads.run(&told.stop).await });
        let handshake = Duration::from_millis(config.limits.handshake_ms);
        let by_address = (shared.addresses.clone(), config.proxies.clone());
        let connections = config.limits.connections;
        let listener = CappedListener::new(listener, connections, by_address, handshake);
        let (done, stopped) = watch::channel(false);
        let running = Running {
            shared,
            stop_writer,
            writer_tasks,
            done,
        };
        tokio::spawn(running.run(listener));
        tracing::info!(%address, "listening");
        Ok(Self {
            address,
            stop,
            stopped,
        })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The URL of its WebSocket on this machine.
    #[must_use]
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        format!("ws://{address}/v1")
    }

    /// Stops: accepts nothing new, tells clients, finishes what has begun, folds the write-ahead log in. At most about ten seconds.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        // An error means that it is gone, which is what is waited for.
        let _ = self.stopped.wait_for(|stopped| *stopped).await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A future that resolves when the process is asked to end (SIGTERM, SIGINT). Signals count from the call on: call it before the service is
/// announced.
///
/// # Errors
/// When signals cannot be received.
#[cfg(unix)]
pub fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// The same, where Ctrl-C is all there is.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    })
}

/// The service's own key and its generation, made at the first start.
async fn standing(
    store: &mut Store,
    durability: Durability,
    now: UnixMs,
) -> Result<Standing, StartError> {
    let service = match store.service_seed().await? {
        Some(seed) => ServiceKey::from_bytes(&seed),
        None => {
            let seed = fresh_seed()?;
            store.put_service_seed(&seed).await?;
            ServiceKey::from_bytes(&seed)
        }
    };
    let stored = store.generation().await?;
    // What was acknowledged last may be lost: who knows of it is asked, before anybody is told another history. However it runs now.
    let crashed = store.ran().await? == Some(Durability::Normal);
    let (present, cause, hold) = match stored {
        None => (None, Cause::Founded, None),
        Some((generation, _)) if crashed => {
            let ends = now.0.saturating_add(limits::CRASH_HOLD_MS);
            (Some(generation), Cause::Restored, Some(UnixMs(ends)))
        }
        Some((generation, seed)) => {
            store.note_running(Some(durability)).await?;
            return Ok(Standing {
                service,
                generation,
                heads: HeadKey::from_bytes(&seed),
            });
        }
    };
    let next = next(&service, present.as_ref(), None, (cause, now))?;
    let heads = HeadKey::from_bytes(next.seed.bytes());
    let generation = next.generation;
    once(store, Op::Declare(Box::new(Declare { next, hold }))).await?;
    // Not before it is declared.
    store.note_running(Some(durability)).await?;
    Ok(Standing {
        service,
        generation,
        heads,
    })
}

/// Lets go of replaced snapshots whose time is over: at the start, and now and then, also where nobody writes.
async fn sweep_replaced(shared: Arc<Shared>) {
    let most = limits::SWEPT_AT_ONCE;
    let mut looks = tokio::time::interval(limits::SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = looks.tick() => {}
        }
        let now = shared.env.clock.now();
        let mut swept = most as usize;
        while swept == most as usize && !shared.stop.is_cancelled() {
            swept = match shared.env.writer.own(Op::Sweep(Sweep { now, most })).await {
                Ok(Event::Swept(swept)) => swept,
                _ => 0,
            };
        }
    }
}

/// The tasks of a running service.
struct Running {
    shared: Arc<Shared>,
    stop_writer: CancellationToken,
    writer_tasks: TaskTracker,
    done: watch::Sender<bool>,
}

impl Running {
    async fn run(self, listener: CappedListener) {
        let service =
            http::router(self.shared.clone()).into_make_service_with_connect_info::<Peer>();
        let stop = self.shared.stop.clone();
        let stopping = stop.clone();
        let serving = async move {
            let graceful = async move { stopping.cancelled().await };
            axum::serve(listener, service)
                .with_graceful_shutdown(graceful)
                .await
        };
        let serving = tokio::spawn(serving);
        stop.cancelled().await;
        tracing::info!("stopping");
        self.finish().await;
        serving.abort();
        // The receiver may be gone: then nobody waits.
        let _ = self.done.send(true);
    }

    async fn finish(&self) {
        let shared = &self.shared;
        let env = &shared.env;
        env.hub.disconnect_all(
            &conclave_proto::Refusal::ShuttingDown,
            limits::SHUTDOWN_RETRY_MS,
        );
        shared.connections.close();
        env.tasks.close();
        let drained = async {
            shared.connections.wait().await;
            env.tasks.wait().await;
        };
        if timeout(limits::SHUTDOWN_TIMEOUT, drained).await.is_err() {
            tracing::warn!("some connections were cut off");
        }
        self.stop_writer.cancel();
        self.writer_tasks.close();
        self.writer_tasks.wait().await;
        env.reads.close().await;
        tracing::info!("stopped");
    }
}

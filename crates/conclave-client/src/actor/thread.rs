//! The thread and the runtime under the actor.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use conclave_engine::shell::Shell;
use conclave_engine::{Engine, Lending, Output, Setup};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};

use crate::actor::link::Link;
use crate::actor::{Actor, CALLS, Call, FAREWELL, Shared, now};
use crate::config::Config;
use crate::error::Error;
use crate::events::Event;
use crate::store::{Store, StoreError};
use crate::transport::Endpoint;
use crate::trouble::Connection;

/// What [`start`] gives back.
pub(crate) struct Started {
    pub(crate) calls: mpsc::Sender<Call>,
    pub(crate) shared: Arc<Shared>,
    /// The runtime on which frames are moved.
    pub(crate) runtime: Handle,
}

/// Opens a store, or creates one when there is a `setup`, and starts the actor on a thread of its own. Works inside any runtime.
pub(crate) async fn start(config: Config, setup: Option<Setup>) -> Result<Started, Error> {
    let (opened, wait) = oneshot::channel();
    std::thread::Builder::new()
        .name("conclave".to_owned())
        .spawn(move || thread(config, setup, opened))
        .map_err(|error| Error::Start {
            why: error.to_string(),
        })?;
    wait.await.unwrap_or(Err(Error::Crashed))
}

type Opened = oneshot::Sender<Result<Started, Error>>;

fn thread(config: Config, setup: Option<Setup>, opened: Opened) {
    let builder = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("conclave-io")
        .enable_all()
        .build();
    let runtime = match builder {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = opened.send(Err(Error::Start {
                why: error.to_string(),
            }));
            return;
        }
    };
    let shared = Arc::new(Shared::new());
    let run = run(
        config,
        setup,
        Arc::clone(&shared),
        runtime.handle().clone(),
        opened,
    );
    // The engine contains what hostile bytes can provoke; should a fault of ours panic all the same, callers are told.
    let result =
        catch_unwind(AssertUnwindSafe(|| runtime.block_on(run))).unwrap_or(Err(Error::Crashed));
    finish(&shared, result);
    shared.guests.close();
    let _ = runtime.block_on(async { tokio::time::timeout(FAREWELL, shared.guests.wait()).await });
    runtime.shutdown_background();
}

fn finish(shared: &Shared, result: Result<(), Error>) {
    let error = result.err();
    if let Some(error) = &error {
        tracing::error!(code = error.code(), "the client stopped");
    }
    let _ = shared.cause.set(error.clone().unwrap_or(Error::Closed));
    shared.stopped.send_replace(true);
    shared.tell(Event::Stopped {
        error: error.map(|error| error.to_remote()),
    });
    // Whoever waits for re-keying looks again.
    shared.rotations.send_modify(|_| {});
}

async fn run(
    config: Config,
    setup: Option<Setup>,
    shared: Arc<Shared>,
    runtime: Handle,
    opened: Opened,
) -> Result<(), Error> {
    let (calls, waiting) = mpsc::channel(CALLS);
    let mut actor = match open(config, setup, Arc::clone(&shared), waiting).await {
        Ok(actor) => actor,
        Err(error) => {
            let _ = opened.send(Err(error));
            return Ok(());
        }
    };
    let _ = opened.send(Ok(Started {
        calls,
        shared,
        runtime,
    }));
    let result = actor.run().await;
    stop(actor, result).await
}

/// Answers everybody who waits, then closes the store.
pub(super) async fn stop(actor: Actor, result: Result<(), Error>) -> Result<(), Error> {
    let Actor {
        store,
        mut calls,
        replies,
        link,
        shared,
        ..
    } = actor;
    let cause = match &result {
        Ok(()) => Error::Closed,
        Err(error) => error.clone(),
    };
    let _ = shared.cause.set(cause.clone());
    let leaving = link.inbox.close();
    shared.remove_socket();
    for (_, reply) in replies {
        let _ = reply.send(Err(cause.clone()));
    }
    calls.close();
    while let Some(call) = calls.recv().await {
        match call {
            Call::Command { reply, .. } => drop(reply.send(Err(cause.clone()))),
            Call::ChangeSecret { reply, .. } => drop(reply.send(Err(cause.clone()))),
            Call::TryNow { reply } => drop(reply),
        }
    }
    // After a failure the first error is the one that counts.
    let closed = store.close().await.map_err(Error::from);
    leaving.await;
    result.and(closed)
}

async fn open(
    config: Config,
    setup: Option<Setup>,
    shared: Arc<Shared>,
    calls: mpsc::Receiver<Call>,
) -> Result<Actor, Error> {
    let endpoint = config.service.as_deref().map(Endpoint::parse).transpose()?;
    let (mut engine, store, output) = match setup {
        Some(setup) => {
            let (engine, mut output) = Engine::init(setup, *seed()?, now().wall)?;
            let first = std::mem::take(&mut output.writes);
            let mut store = Store::create(&config.folder, &config.unlock, &first).await?;
            store.limit_bytes(config.max_store_bytes).await?;
            (engine, store, output)
        }
        None => {
            let mut store = Store::open(&config.folder, &config.unlock).await?;
            store.limit_bytes(config.max_store_bytes).await?;
            let (engine, output) = load(&mut store).await?;
            (engine, store, output)
        }
    };
    engine.trust_service_clock(config.trust_service_clock);
    engine.set_lending(Lending::Long);
    if endpoint.is_some() {
        shared.connection.send_replace(Connection::Connecting);
    }
    let link = Link::new(endpoint, config.timing, config.token);
    let shell = Shell::new(engine, output);
    Ok(Actor::new(shell, store, link, calls, shared))
}

/// Makes the engine from what is durable.
pub(super) async fn load(store: &mut Store) -> Result<(Engine, Output), Error> {
    let mut rows = Vec::new();
    for prefix in Engine::startup_prefixes() {
        rows.extend(store.read(&prefix).await?);
    }
    Ok(Engine::open(rows, *seed()?, now().wall)?)
}

fn seed() -> Result<zeroize::Zeroizing<[u8; 32]>, StoreError> {
    let mut seed = zeroize::Zeroizing::new([0u8; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(|_| StoreError::Randomness)?;
    Ok(seed)
}

//! A device wherever it is open: here, or in another process of the same user.
//!
//! One process has a store at a time, and it may end at any moment, asked or killed. Whoever works through it notices and goes on: it opens the
//! store itself, or finds the process that did. What it had asked for is asked for again under the same id, so that nothing is done twice, and
//! nothing that was done is told as failed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use conclave_engine::{OperationId, Setup};
use tokio::time::Instant;

use crate::client::Client;
use crate::config::Config;
use crate::error::Error;
use crate::events::{Event, Events};
#[cfg(unix)]
use crate::local::{LocalClient, LocalEvents, LocalServer, Told};
use crate::operation::{self, Operation, Outcome};
use crate::presence::{Attendance, Attending, as_events};
use crate::store::StoreError;

/// First pause between two tries at a store that is in use but answers at no socket; each that follows is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// A device to run [`Operation`]s on, without caring which process has its store open. Needs a tokio runtime with I/O and time.
///
/// ```no_run
/// use conclave_client::{Config, Operation, Outcome, Session};
/// # async fn example() -> Result<(), conclave_client::Error> {
/// let session = Session::open(Config::new("/home/ana/.conclave", "wss://ds.example")).await?;
/// if let Outcome::Groups(groups) = session.run(Operation::Groups).await? {
///     println!("{} groups", groups.len());
/// }
/// session.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

/// A configuration that is on its way: whoever gives it may have to ask somebody for a passphrase.
pub type Opening = Pin<Box<dyn Future<Output = Result<Config, Error>> + Send>>;

/// Gives the configuration to open the store with, when it turns out that this process has to.
type Opener = Box<dyn Fn() -> Opening + Send + Sync>;

struct Inner {
    folder: PathBuf,
    patience: Duration,
    /// None for a session that never opens the store by itself.
    opener: Option<Opener>,
    config: tokio::sync::OnceCell<Config>,
    place: RwLock<Arc<Place>>,
    /// Held while another place is looked for.
    moving: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("folder", &self.folder)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Place {
    Here {
        client: Client,
        #[cfg(unix)]
        _server: Option<LocalServer>,
    },
    #[cfg(unix)]
    There(LocalClient),
    Closed,
}

impl Place {
    fn here(client: Client) -> Self {
        #[cfg(unix)]
        let server = LocalServer::start(&client)
            .inspect_err(|error| tracing::warn!(%error, "other processes cannot reach this device"))
            .ok();
        Self::Here {
            client,
            #[cfg(unix)]
            _server: server,
        }
    }
}

/// An id for something that somebody wants done once.
pub(crate) fn fresh_id() -> Result<OperationId, Error> {
    let mut id = [0u8; 16];
    getrandom::fill(&mut id).map_err(|_| StoreError::Randomness)?;
    Ok(OperationId(id))
}

impl Session {
    /// Opens the store, and serves the local socket while it is open; or, where another process has it open, finds that process.
    ///
    /// # Errors
    /// As [`Client::open`]; [`StoreError::InUse`] where another process has the store open and cannot be reached.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let (folder, patience) = (config.folder().to_owned(), config.patience);
        Self::find(
            folder,
            patience,
            Box::new(move || {
                let config = config.clone();
                Box::pin(async { Ok(config) })
            }),
        )
        .await
    }

    /// As [`Session::open`], with a configuration that is asked for only when this process has to open the store: now, or when the process that
    /// has it open ends. An opener that finds the store in use says so with [`StoreError::InUse`] and is asked again, for as long as
    /// `patience`.
    ///
    /// # Errors
    /// As [`Session::open`], and what the opener says.
    pub async fn find(
        folder: PathBuf,
        patience: Duration,
        opener: Box<dyn Fn() -> Opening + Send + Sync>,
    ) -> Result<Self, Error> {
        let inner = Inner::new(folder, patience, Some(opener), Place::Closed);
        let place = inner.reach().await?;
        inner.set_place(Arc::new(place));
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Makes a new device here.
    ///
    /// # Errors
    /// As [`Client::create`].
    pub async fn create(config: Config, setup: Setup) -> Result<Self, Error> {
        let (folder, patience) = (config.folder().to_owned(), config.patience);
        let client = Client::create(config.clone(), setup).await?;
        let opener: Opener = Box::new(move || {
            let config = config.clone();
            Box::pin(async { Ok(config) })
        });
        let inner = Inner::new(folder, patience, Some(opener), Place::here(client));
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Finds the process that has the store in `folder` open; never opens it here.
    ///
    /// # Errors
    /// [`Error::Local`] when there is none.
    pub async fn connect(folder: &Path) -> Result<Self, Error> {
        #[cfg(unix)]
        {
            let place = Place::There(LocalClient::connect(folder).await?);
            let inner = Inner::new(folder.to_owned(), Duration::ZERO, None, place);
            Ok(Self {
                inner: Arc::new(inner),
            })
        }
        #[cfg(not(unix))]
        {
            let _ = folder;
            Err(Error::Local {
                why: "this system has no local sockets".to_owned(),
            })
        }
    }

    /// The client, where the store is open in this process.
    #[must_use]
    pub fn client(&self) -> Option<Client> {
        match &*self.inner.place() {
            Place::Here { client, .. } => Some(client.clone()),
            _ => None,
        }
    }

    /// The client, once the store is open in this process: another one that has it open goes on until it ends by itself.
    ///
    /// # Errors
    /// As [`Session::find`], and [`Error::Closed`] after the session's end.
    pub async fn here(&self) -> Result<Client, Error> {
        let mut place = self.inner.place();
        loop {
            match &*place {
                Place::Here { client, .. } => return Ok(client.clone()),
                #[cfg(unix)]
                Place::There(there) => {
                    if let Ok(mut events) = there.listen(None).await? {
                        while let Some(Ok(_)) = events.hear().await {}
                    }
                }
                Place::Closed => return Err(Error::Closed),
            }
            place = self.inner.leave(&place).await?;
        }
    }

    /// Performs an operation, wherever the store is open. Where the process that has it ends meanwhile, this one goes on with the operation, or
    /// finds what came of it.
    ///
    /// # Errors
    /// Those of the operation: as they are, or as [`Error::Remote`].
    pub async fn run(&self, operation: Operation) -> Result<Outcome, Error> {
        let outcome = self.inner.run(fresh_id()?, operation, false).await?;
        outcome.ok_or(Error::UnexpectedAnswer)
    }

    /// Performs an operation as far as it takes to make durable what is wanted. None: it is remembered and not done yet.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub async fn begin(&self, operation: Operation) -> Result<Option<Outcome>, Error> {
        self.inner.run(fresh_id()?, operation, true).await
    }

    /// As [`Session::run`], for no longer than a limit. None: it is remembered and not done yet.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub async fn run_within(
        &self,
        operation: Operation,
        limit: Duration,
    ) -> Result<Option<Outcome>, Error> {
        self.run_unless(operation, tokio::time::sleep(limit)).await
    }

    /// As [`Session::run`], until something says that waiting is of no use. None: it is remembered and not done yet.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub async fn run_unless(
        &self,
        operation: Operation,
        give_up: impl Future<Output = ()>,
    ) -> Result<Option<Outcome>, Error> {
        let id = fresh_id()?;
        let done = self.inner.run(id, operation.clone(), false);
        tokio::select! {
            biased;
            done = done => done,
            // The same once more, only to be sure that it is remembered.
            () = give_up => self.inner.run(id, operation, true).await,
        }
    }

    /// Events from now on.
    ///
    /// # Errors
    /// [`Error::Local`] when the other process is gone and no other is found.
    pub async fn events(&self) -> Result<SessionEvents, Error> {
        self.listen(None).await
    }

    /// The same, and for as long as they are read a document's presence is watched, and something shown in it. Who is there is told first, and
    /// after [`Event::HandedOver`] anew.
    ///
    /// # Errors
    /// As [`Session::events`], and those of [`Document::presence`](crate::Document::presence).
    pub async fn attend(&self, attendance: Attendance) -> Result<SessionEvents, Error> {
        self.listen(Some(attendance)).await
    }

    async fn listen(&self, attendance: Option<Attendance>) -> Result<SessionEvents, Error> {
        let place = self.inner.place();
        let (place, source) = self.inner.listen(place, attendance.as_ref()).await?;
        Ok(SessionEvents {
            session: Arc::clone(&self.inner),
            attendance,
            place,
            source,
        })
    }

    /// Ends the session. A store that is open here is closed, and whoever works through it takes it over; a process that has it open elsewhere
    /// goes on.
    ///
    /// # Errors
    /// As [`Client::close`].
    pub async fn close(self) -> Result<(), Error> {
        let place = self.inner.set_place(Arc::new(Place::Closed));
        match &*place {
            Place::Here { client, .. } => {
                client.shared().leaving.store(true, Ordering::Relaxed);
                client.close().await
            }
            _ => Ok(()),
        }
    }
}

impl Inner {
    fn new(folder: PathBuf, patience: Duration, opener: Option<Opener>, place: Place) -> Self {
        Self {
            folder,
            patience,
            opener,
            config: tokio::sync::OnceCell::new(),
            place: RwLock::new(Arc::new(place)),
            moving: tokio::sync::Mutex::new(()),
        }
    }

    fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives back the place before.
    fn set_place(&self, place: Arc<Place>) -> Arc<Place> {
        let mut held = self.place.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut held, place)
    }

    /// Finds the process that has the store open, or opens it here.
    async fn reach(&self) -> Result<Place, Error> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            #[cfg(unix)]
            let absent = match LocalClient::connect(&self.folder).await {
                Ok(client) => return Ok(Place::There(client)),
                Err(error) => error,
            };
            #[cfg(not(unix))]
            let absent = Error::Closed;
            let Some(opener) = &self.opener else {
                return Err(absent);
            };
            let opened = match self.config.get_or_try_init(opener).await {
                Ok(config) => Client::open(config.clone()).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(client) => return Ok(Place::here(client)),
                // It is just being opened or closed.
                Err(error) if is_in_use(&error) && began.elapsed() < self.patience => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Another place than one that is gone.
    async fn leave(&self, gone: &Arc<Place>) -> Result<Arc<Place>, Error> {
        let _moving = self.moving.lock().await;
        let now = self.place();
        if !Arc::ptr_eq(&now, gone) {
            // Another call of this session was here first.
            return Ok(now);
        }
        let place = Arc::new(self.reach().await?);
        // Unless the session was closed meanwhile.
        let mut held = self.place.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&held, gone) {
            *held = Arc::clone(&place);
        }
        Ok(Arc::clone(&held))
    }

    async fn run(
        &self,
        id: OperationId,
        operation: Operation,
        begin: bool,
    ) -> Result<Option<Outcome>, Error> {
        let began = Instant::now();
        let mut place = self.place();
        loop {
            let operation = operation.clone().after(began.elapsed());
            match &*place {
                Place::Here { client, .. } => {
                    return operation::run_once(client, id, operation, begin).await;
                }
                #[cfg(unix)]
                Place::There(there) => {
                    let last = matches!(operation, Operation::Shutdown);
                    match there.run_once(id, operation, begin).await? {
                        Told::Outcome(outcome) => return Ok(Some(*outcome)),
                        Told::Begun => return Ok(None),
                        // That is what was wanted.
                        Told::Gone(_) if last => return Ok(Some(Outcome::Done)),
                        Told::Gone(error) if self.opener.is_none() => return Err(error),
                        Told::Gone(_) => {}
                    }
                }
                Place::Closed => return Err(Error::Closed),
            }
            place = self.leave(&place).await?;
        }
    }

    async fn listen(
        &self,
        mut place: Arc<Place>,
        attendance: Option<&Attendance>,
    ) -> Result<(Arc<Place>, Source), Error> {
        loop {
            match &*place {
                Place::Here { client, .. } => {
                    let source = Here::begin(client, attendance).await?;
                    return Ok((place, Source::Here(Box::new(source))));
                }
                #[cfg(unix)]
                Place::There(there) => match there.listen(attendance).await? {
                    Ok(events) => return Ok((Arc::clone(&place), Source::There(events))),
                    Err(error) if self.opener.is_none() => return Err(error),
                    Err(_) => {}
                },
                Place::Closed => return Err(Error::Closed),
            }
            place = self.leave(&place).await?;
        }
    }
}

fn is_in_use(error: &Error) -> bool {
    matches!(error, Error::Store(store) if matches!(**store, StoreError::InUse { .. }))
}

/// Events of a [`Session`].
#[derive(Debug)]
pub struct SessionEvents {
    session: Arc<Inner>,
    attendance: Option<Attendance>,
    place: Arc<Place>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Here(Box<Here>),
    #[cfg(unix)]
    There(LocalEvents),
}

/// Events of a client in this process.
#[derive(Debug)]
struct Here {
    /// Who was there already, to be told first.
    first: VecDeque<Event>,
    events: Events,
    _attending: Option<Attending>,
}

impl Here {
    async fn begin(client: &Client, attendance: Option<&Attendance>) -> Result<Self, Error> {
        let mut here = Self {
            first: VecDeque::new(),
            events: client.events(),
            _attending: None,
        };
        if let Some(attendance) = attendance {
            let (attending, there) = Attending::begin(client, attendance).await?;
            here.first = as_events((attendance.group, attendance.document), there);
            here._attending = Some(attending);
        }
        Ok(here)
    }

    async fn next(&mut self) -> Option<Event> {
        match self.first.pop_front() {
            Some(event) => Some(event),
            None => self.events.next().await,
        }
    }
}

impl SessionEvents {
    /// The next event; none after [`Event::Stopped`]. A call that is dropped while it waits may lose an event of another process.
    pub async fn next(&mut self) -> Option<Event> {
        match &mut self.source {
            Source::Here(here) => here.next().await,
            #[cfg(unix)]
            Source::There(events) => match events.hear().await? {
                Ok(event) => Some(event),
                Err(error) => Some(self.move_on(error).await),
            },
        }
    }

    /// The other process is gone: events come from whoever has the store now.
    #[cfg(unix)]
    async fn move_on(&mut self, error: Error) -> Event {
        let stopped = |error: Option<Error>| Event::Stopped {
            error: error.map(|error| error.to_remote()),
        };
        if self.session.opener.is_none() {
            return stopped(Some(error));
        }
        let moved = match self.session.leave(&self.place).await {
            Ok(place) => self.session.listen(place, self.attendance.as_ref()).await,
            Err(error) => Err(error),
        };
        match moved {
            Ok((place, source)) => {
                self.place = place;
                self.source = source;
                Event::HandedOver
            }
            Err(Error::Closed) => stopped(None),
            Err(error) => stopped(Some(error)),
        }
    }
}

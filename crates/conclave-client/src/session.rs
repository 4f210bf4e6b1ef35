//! A device wherever it is open: here, or in another process of the same user.

use std::path::Path;

use conclave_engine::Setup;

use crate::client::Client;
use crate::config::Config;
use crate::error::Error;
use crate::events::{Event, Events};
#[cfg(unix)]
use crate::local::{LocalClient, LocalEvents, LocalServer};
use crate::operation::{self, Operation, Outcome};

/// Pause between two tries at a store that is in use but answers at no socket.
#[cfg(unix)]
const BETWEEN_TRIES: std::time::Duration = std::time::Duration::from_millis(50);

/// A device to run [`Operation`]s on, without caring which process has its store open. Needs a tokio runtime with I/O and time.
///
/// ```no_run
/// use conclave_client::{Config, Operation, Outcome, Session};
/// # async fn example() -> Result<(), conclave_client::Error> {
/// let session = Session::open(Config::new("/home/ana/.conclave", "wss://ds.example")).await?;
/// if let Outcome::Groups(groups) = session.run(Operation::Groups).await? {
///     println!("{} groups", groups.len());
/// }
/// session.close().await
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    place: Place,
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
}

impl Session {
    /// Opens the store, and serves the local socket while it is open; or, where another process has it open, finds that process.
    ///
    /// # Errors
    /// As [`Client::open`]; [`StoreError::InUse`](crate::store::StoreError::InUse) where another process has the store open and cannot be
    /// reached.
    pub async fn open(config: Config) -> Result<Self, Error> {
        #[cfg(unix)]
        let started = tokio::time::Instant::now();
        loop {
            let error = match Client::open(config.clone()).await {
                Ok(client) => return Ok(Self::here(client)),
                Err(error) => error,
            };
            if !is_in_use(&error) {
                return Err(error);
            }
            #[cfg(unix)]
            {
                match LocalClient::connect(config.folder()).await {
                    Ok(client) => {
                        return Ok(Self {
                            place: Place::There(client),
                        });
                    }
                    Err(_) if started.elapsed() < config.patience => {
                        tokio::time::sleep(BETWEEN_TRIES).await
                    }
                    Err(_) => return Err(error),
                }
            }
            #[cfg(not(unix))]
            return Err(error);
        }
    }

    /// Makes a new device here.
    ///
    /// # Errors
    /// As [`Client::create`].
    pub async fn create(config: Config, setup: Setup) -> Result<Self, Error> {
        Client::create(config, setup).await.map(Self::here)
    }

    /// Finds the process that has the store in `folder` open; never opens it here.
    ///
    /// # Errors
    /// [`Error::Local`] when there is none.
    pub async fn connect(folder: &Path) -> Result<Self, Error> {
        #[cfg(unix)]
        return Ok(Self {
            place: Place::There(LocalClient::connect(folder).await?),
        });
        #[cfg(not(unix))]
        {
            let _ = folder;
            Err(Error::Local {
                why: "this system has no local sockets".to_owned(),
            })
        }
    }

    fn here(client: Client) -> Self {
        #[cfg(unix)]
        let server = LocalServer::start(&client)
            .inspect_err(|error| tracing::warn!(%error, "other processes cannot reach this device"))
            .ok();
        Self {
            place: Place::Here {
                client,
                #[cfg(unix)]
                _server: server,
            },
        }
    }

    /// The client, where the store is open in this process.
    #[must_use]
    pub fn client(&self) -> Option<&Client> {
        match &self.place {
            Place::Here { client, .. } => Some(client),
            #[cfg(unix)]
            Place::There(_) => None,
        }
    }

    /// Performs an operation.
    ///
    /// # Errors
    /// Those of the operation: as they are, or as [`Error::Remote`].
    pub async fn run(&self, operation: Operation) -> Result<Outcome, Error> {
        match &self.place {
            Place::Here { client, .. } => operation::run(client, operation).await,
            #[cfg(unix)]
            Place::There(client) => client.run(operation).await,
        }
    }

    /// Events from now on.
    ///
    /// # Errors
    /// [`Error::Local`] when the other process is gone.
    pub async fn events(&self) -> Result<SessionEvents, Error> {
        Ok(match &self.place {
            Place::Here { client, .. } => SessionEvents::Here(client.events()),
            #[cfg(unix)]
            Place::There(client) => SessionEvents::There(client.events().await?),
        })
    }

    /// Ends the session. A store that is open here is closed; a process that has it open elsewhere goes on.
    ///
    /// # Errors
    /// As [`Client::close`].
    pub async fn close(self) -> Result<(), Error> {
        match self.place {
            Place::Here { client, .. } => client.close().await,
            #[cfg(unix)]
            Place::There(_) => Ok(()),
        }
    }
}

fn is_in_use(error: &Error) -> bool {
    matches!(error, Error::Store(store) if matches!(**store, crate::store::StoreError::InUse { .. }))
}

/// Events of a [`Session`].
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionEvents {
    /// Of a store that is open here.
    Here(Events),
    /// Of another process.
    #[cfg(unix)]
    There(LocalEvents),
}

impl SessionEvents {
    /// The next event; none after [`Event::Stopped`]. A call that is dropped while it waits may lose an event of another process.
    pub async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Here(events) => events.next().await,
            #[cfg(unix)]
            Self::There(events) => events.next().await,
        }
    }
}

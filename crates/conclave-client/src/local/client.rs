//! The side that asks.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

use super::codec::{read, write};
use super::{Answer, Hello, Operation, Outcome, VERSION, local, socket_path};
use crate::error::Error;
use crate::events::Event;

/// A device that another process has open. Cheap: it holds no connection.
#[derive(Debug, Clone)]
pub struct LocalClient {
    path: PathBuf,
}

fn hung_up() -> Error {
    Error::Local {
        why: "it hung up".to_owned(),
    }
}

impl LocalClient {
    /// Finds the process that has the store in `folder` open.
    ///
    /// # Errors
    /// [`Error::Local`] when there is none.
    pub async fn connect(folder: &Path) -> Result<Self, Error> {
        let client = Self {
            path: socket_path(folder),
        };
        client.dial().await?;
        Ok(client)
    }

    async fn dial(&self) -> Result<UnixStream, Error> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|error| local("the socket", &error))?;
        // Passphrases of device texts and content go here: not to another user's process.
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let owner = std::fs::metadata(folder)
            .map_err(|error| local("the folder", &error))?
            .uid();
        if stream.peer_cred().is_ok_and(|peer| peer.uid() == owner) {
            Ok(stream)
        } else {
            Err(Error::Local {
                why: "it belongs to another user".to_owned(),
            })
        }
    }

    /// Performs an operation there. Dropping the call gives up waiting; see [`Client`](crate::Client) for what that means.
    ///
    /// # Errors
    /// [`Error::Remote`] with what the other process answered, [`Error::Local`].
    pub async fn run(&self, operation: Operation) -> Result<Outcome, Error> {
        let mut stream = self.dial().await?;
        write(
            &mut stream,
            &Hello {
                version: VERSION,
                listen: false,
            },
        )
        .await?;
        write(&mut stream, &operation).await?;
        match read(&mut stream).await?.ok_or_else(hung_up)? {
            Answer::Outcome(outcome) => Ok(outcome),
            Answer::Failed(error) => Err(Error::Remote(error)),
            Answer::Listening | Answer::Event(_) => Err(Error::UnexpectedAnswer),
        }
    }

    /// Events from now on.
    ///
    /// # Errors
    /// As [`LocalClient::run`].
    pub async fn events(&self) -> Result<LocalEvents, Error> {
        let mut stream = self.dial().await?;
        write(
            &mut stream,
            &Hello {
                version: VERSION,
                listen: true,
            },
        )
        .await?;
        match read(&mut stream).await?.ok_or_else(hung_up)? {
            Answer::Listening => Ok(LocalEvents {
                stream: Some(stream),
            }),
            Answer::Failed(error) => Err(Error::Remote(error)),
            Answer::Outcome(_) | Answer::Event(_) => Err(Error::UnexpectedAnswer),
        }
    }
}

/// Events of a device that another process has open.
#[derive(Debug)]
pub struct LocalEvents {
    stream: Option<UnixStream>,
}

impl LocalEvents {
    /// The next event; none after [`Event::Stopped`]. A call that is dropped while it waits may lose an event.
    pub async fn next(&mut self) -> Option<Event> {
        let stream = self.stream.as_mut()?;
        let event = match read(stream).await {
            Ok(Some(Answer::Event(event))) => event,
            Ok(Some(Answer::Failed(error))) => Event::Stopped { error: Some(error) },
            Ok(_) => Event::Stopped {
                error: Some(hung_up().to_remote()),
            },
            Err(error) => Event::Stopped {
                error: Some(error.to_remote()),
            },
        };
        if matches!(event, Event::Stopped { .. }) {
            self.stream = None;
        }
        Some(event)
    }
}

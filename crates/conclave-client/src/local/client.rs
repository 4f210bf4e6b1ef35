//! The side that asks.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use conclave_engine::OperationId;
use tokio::net::UnixStream;

use super::codec::{CodecError, read, write};
use super::{Answer, Hello, Operation, Outcome, Request, VERSION, Wants, local, socket_path};
use crate::error::Error;
use crate::events::Event;
use crate::presence::Attendance;

/// A device that another process has open. Cheap: it holds no connection.
#[derive(Debug, Clone)]
pub struct LocalClient {
    path: PathBuf,
}

/// What came of asking.
pub(crate) enum Told {
    /// Done.
    Outcome(Box<Outcome>),
    /// It will be done.
    Begun,
    /// The process is gone, or lets go of the store. Whether it did what was asked is known to whoever has the store next.
    Gone(Error),
}

fn hung_up() -> Error {
    Error::Local {
        why: "it hung up".to_owned(),
    }
}

/// A process that is gone is no failure: somebody else goes on.
fn gone(error: CodecError) -> Result<Error, Error> {
    match error {
        CodecError::Io(_) => Ok(error.into()),
        other => Err(other.into()),
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
        client.dial().await??;
        Ok(client)
    }

    /// The inner failure says that nobody is there.
    async fn dial(&self) -> Result<Result<UnixStream, Error>, Error> {
        let stream = match UnixStream::connect(&self.path).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(local("the socket", &error))),
        };
        // Passphrases of device texts and content go here: not to another user's process.
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let owner = std::fs::metadata(folder)
            .map_err(|error| local("the folder", &error))?
            .uid();
        if stream.peer_cred().is_ok_and(|peer| peer.uid() == owner) {
            Ok(Ok(stream))
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
        let id = crate::session::fresh_id()?;
        match self.run_once(id, operation, false).await? {
            Told::Outcome(outcome) => Ok(*outcome),
            Told::Begun => Err(Error::UnexpectedAnswer),
            Told::Gone(error) => Err(error),
        }
    }

    /// The same under an id, for those who ask whoever has the store next.
    pub(crate) async fn run_once(
        &self,
        id: OperationId,
        operation: Operation,
        begin: bool,
    ) -> Result<Told, Error> {
        let mut stream = match self.dial().await? {
            Ok(stream) => stream,
            Err(error) => return Ok(Told::Gone(error)),
        };
        let hello = Hello {
            version: VERSION,
            wants: Wants::Operation,
        };
        let request = Request {
            id,
            begin,
            operation,
        };
        let told = async {
            write(&mut stream, &hello).await?;
            write(&mut stream, &request).await?;
            read(&mut stream).await
        };
        match told.await {
            Ok(Some(Answer::Outcome(outcome))) => Ok(Told::Outcome(Box::new(outcome))),
            Ok(Some(Answer::Begun)) => Ok(Told::Begun),
            Ok(Some(Answer::Failed(error))) => Err(Error::Remote(error)),
            Ok(Some(Answer::Leaving) | None) => Ok(Told::Gone(hung_up())),
            Ok(Some(Answer::Listening | Answer::Event(_))) => Err(Error::UnexpectedAnswer),
            Err(error) => gone(error).map(Told::Gone),
        }
    }

    /// Events from now on.
    ///
    /// # Errors
    /// As [`LocalClient::run`].
    pub async fn events(&self) -> Result<LocalEvents, Error> {
        self.listen(None).await?
    }

    /// The inner failure says that nobody is there.
    pub(crate) async fn listen(
        &self,
        attendance: Option<&Attendance>,
    ) -> Result<Result<LocalEvents, Error>, Error> {
        let mut stream = match self.dial().await? {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error)),
        };
        let hello = Hello {
            version: VERSION,
            wants: Wants::Events(attendance.cloned()),
        };
        let told = async {
            write(&mut stream, &hello).await?;
            read(&mut stream).await
        };
        match told.await {
            Ok(Some(Answer::Listening)) => Ok(Ok(LocalEvents {
                stream: Some(stream),
            })),
            Ok(Some(Answer::Failed(error))) => Err(Error::Remote(error)),
            Ok(Some(Answer::Leaving) | None) => Ok(Err(hung_up())),
            Ok(Some(_)) => Err(Error::UnexpectedAnswer),
            Err(error) => gone(error).map(Err),
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
        Some(self.hear().await?.unwrap_or_else(|error| Event::Stopped {
            error: Some(error.to_remote()),
        }))
    }

    /// The same; a failure says that the process is gone or lets go of the store.
    pub(crate) async fn hear(&mut self) -> Option<Result<Event, Error>> {
        let stream = self.stream.as_mut()?;
        let heard = match read(stream).await {
            Ok(Some(Answer::Event(event))) => Ok(event),
            Ok(Some(Answer::Failed(error))) => Ok(Event::Stopped { error: Some(error) }),
            Ok(_) => Err(hung_up()),
            Err(error) => Err(error.into()),
        };
        if matches!(heard, Ok(Event::Stopped { .. }) | Err(_)) {
            self.stream = None;
        }
        Some(heard)
    }
}

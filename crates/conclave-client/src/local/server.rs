//! The side that has the store open.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::codec::{CodecError, read, write};
use super::{Answer, Hello, Request, VERSION, Wants, local, socket_path};
use crate::client::Client;
use crate::error::{Error, RemoteError};
use crate::events::Event;
use crate::operation;
use crate::presence::{Attendance, Attending, as_events};

/// Connections at one time.
const CONNECTIONS: usize = 64;

/// Serves the local socket of a client. Dropping it stops that; so does closing the client.
#[derive(Debug)]
pub struct LocalServer {
    client: Client,
    path: PathBuf,
    _stop: DropGuard,
}

impl LocalServer {
    /// Begins to listen in the client's folder. A socket that a crash left behind is replaced: whoever holds the store is alone.
    ///
    /// # Errors
    /// [`Error::Local`]: the folder is open to others, its path is too long for a socket, or the operating system refused.
    pub fn start(client: &Client) -> Result<Self, Error> {
        let folder = client.folder();
        let mode = fs::metadata(folder)
            .map_err(|error| local("the folder", &error))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(Error::Local {
                why: "the store's folder is open to other users".to_owned(),
            });
        }
        let path = socket_path(folder);
        let shared = client.shared();
        let Ok(mut socket) = shared.socket.lock() else {
            return Err(Error::Crashed);
        };
        if socket.is_some() {
            return Err(Error::Local {
                why: "this client serves its socket already".to_owned(),
            });
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(local("the old socket", &error));
            }
            _ => {}
        }
        let context = client.runtime().enter();
        let listener = UnixListener::bind(&path).map_err(|error| local("the socket", &error))?;
        drop(context);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(|error| local("the socket", &error))?;
        let owner = fs::symlink_metadata(&path)
            .map_err(|error| local("the socket", &error))?
            .uid();
        *socket = Some(path.clone());
        drop(socket);
        let stop = CancellationToken::new();
        shared.guests.spawn_on(
            accept(listener, owner, client.clone(), stop.child_token()),
            client.runtime(),
        );
        Ok(Self {
            client: client.clone(),
            path,
            _stop: stop.drop_guard(),
        })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        self.client.shared().remove_socket();
    }
}

async fn accept(listener: UnixListener, owner: u32, client: Client, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors, say: others may give theirs back.
                Err(error) => {
                    tracing::warn!(%error, "the local socket cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
            _ = client.stopped() => return,
        };
        // Only the operating system's word counts, and only for this very user.
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == owner) {
            tracing::warn!("another user tried the local socket");
            continue;
        }
        let guest = client.clone();
        let stop = stop.clone();
        client.shared().guests.spawn(async move {
            tokio::select! {
                result = serve(stream, &guest) => {
                    if let Err(error) = result {
                        tracing::debug!(code = error.code(), "a local connection ended early");
                    }
                }
                () = stop.cancelled() => {}
            }
            drop(place);
        });
    }
}

async fn serve(mut stream: UnixStream, client: &Client) -> Result<(), Error> {
    let Some(hello) = read::<Hello>(&mut stream).await? else {
        return Ok(());
    };
    if hello.version != VERSION {
        let failed = RemoteError {
            code: "client.local_version".to_owned(),
            message: "the process that has this store open is of another version; restart it"
                .to_owned(),
            retryable: false,
            until: None,
        };
        return Ok(write(&mut stream, &Answer::Failed(failed)).await?);
    }
    if let Wants::Events(attendance) = hello.wants {
        return tell(stream, client, attendance).await;
    }
    let Some(request) = read::<Request>(&mut stream).await? else {
        return Ok(());
    };
    let Request {
        id,
        begin,
        operation,
    } = request;
    let answer = tokio::select! {
        result = operation::run_once(client, id, operation, begin) => match result {
            Ok(Some(outcome)) => Answer::Outcome(outcome),
            Ok(None) => Answer::Begun,
            Err(Error::Closed) => Answer::Leaving,
            Err(error) => Answer::Failed(error.to_remote()),
        },
        // Nobody waits for the answer any more.
        () = gone(&stream) => return Ok(()),
    };
    match write(&mut stream, &answer).await {
        Err(CodecError::TooLarge) => {
            let error = Error::from(CodecError::TooLarge);
            Ok(write(&mut stream, &Answer::Failed(error.to_remote())).await?)
        }
        other => Ok(other?),
    }
}

async fn tell(
    mut stream: UnixStream,
    client: &Client,
    attendance: Option<Attendance>,
) -> Result<(), Error> {
    let mut events = client.events();
    let attending = match &attendance {
        None => None,
        Some(attendance) => match Attending::begin(client, attendance).await {
            Ok((attending, there)) => {
                let place = (attendance.group, attendance.document);
                Some((attending, as_events(place, there)))
            }
            Err(error) => {
                return Ok(write(&mut stream, &Answer::Failed(error.to_remote())).await?);
            }
        },
    };
    write(&mut stream, &Answer::Listening).await?;
    // What is attended ends with this connection.
    let (_attending, there) = attending.unzip();
    for event in there.into_iter().flatten() {
        write(&mut stream, &Answer::Event(event)).await?;
    }
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = gone(&stream) => return Ok(()),
        };
        let Some(event) = event else { return Ok(()) };
        let last = matches!(event, Event::Stopped { .. });
        let answer = match event {
            Event::Stopped { error: None } if client.shared().leaving.load(Ordering::Relaxed) => {
                Answer::Leaving
            }
            event => Answer::Event(event),
        };
        write(&mut stream, &answer).await?;
        if last {
            return Ok(());
        }
    }
}

/// Waits until the other side hangs up. It has nothing more to say; if it talks all the same, it is not listened to.
async fn gone(stream: &UnixStream) {
    let mut nothing = [0u8; 1];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut nothing) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

//! What the demonstration's children do: the service, and a device that serves its local socket as `conclave agent` does.
//!
//! Each prints one line when it is ready and ends when its standard input does.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;
use conclave_client::Setup;
use conclave_ds::{Config, Service};
use tokio::io::AsyncReadExt;

use crate::args::Global;
use crate::commands::identity::REALM;
use crate::context::Context;
use crate::failure::{Exit, Failure, Result};
use crate::home::Home;
use crate::output::{Shown, print_line};

/// Options of the service.
#[derive(Debug, Args)]
pub struct ServiceChild {
    /// Folder for the database
    #[arg(long)]
    data: PathBuf,
    /// Addresses that clients dial
    #[arg(long)]
    origin: Vec<String>,
}

/// Options of a device.
#[derive(Debug, Args)]
pub struct DeviceChild {
    /// Name for a new store
    #[arg(long)]
    name: String,
    /// A new store is of a further device
    #[arg(long)]
    further: bool,
}

/// Runs the service; its first line is the port.
///
/// # Errors
/// [`Failure`].
pub async fn serve(args: ServiceChild) -> Result<Shown> {
    let mut config = Config::new(args.data, (Ipv4Addr::LOCALHOST, 0).into());
    config.origins = args.origin;
    let service = Service::start(config).await;
    let service = service.map_err(|error| {
        Failure::new(error.code(), Exit::Failed, error.to_string(), "see the log")
    })?;
    print_line(&service.local_addr().to_string())?;
    ended().await;
    service.shutdown().await;
    Ok(Shown::nothing())
}

/// Runs a device; its first line says that its socket is served.
///
/// # Errors
/// [`Failure`].
pub async fn device(global: &Global, args: DeviceChild) -> Result<Shown> {
    let context = if Home::find(global)?.store().exists() {
        Context::open(global).await?
    } else {
        let setup = match args.further {
            false => Setup::NewUser {
                name: args.name,
                realm: REALM,
            },
            true => Setup::NewDevice {
                name: args.name,
                realm: REALM,
            },
        };
        Context::create(global, setup).await?
    };
    let Some(client) = context.session().client() else {
        return Err(Failure::new(
            "store.in_use",
            Exit::Failed,
            "another process has this store open",
            "end it",
        ));
    };
    print_line("ready")?;
    tokio::select! {
        () = ended() => {}
        error = client.stopped() => return Err(error.into()),
    }
    context.close().await?;
    Ok(Shown::nothing())
}

/// Resolves when standard input ends (the parent is gone, or wants this process to end) or a signal says so.
async fn ended() {
    let end_of_input = async {
        let mut input = tokio::io::stdin();
        let mut nothing = [0u8; 64];
        while input.read(&mut nothing).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! {
        () = end_of_input => {}
        () = crate::signals::interrupted() => {}
    }
}

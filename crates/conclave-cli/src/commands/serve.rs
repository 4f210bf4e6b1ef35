//! `serve`: a delivery service in this process, by the same library as the binary `conclave-ds`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use conclave_ds::{Admission, Config, Service, StartError};

use crate::args::Global;
use crate::failure::{Exit, Failure, Result};
use crate::home::Home;
use crate::output::{Shown, note, print_json};

/// Folder of the service's data within the home folder.
const DATA: &str = "service";

/// Who may open an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Admit {
    /// Anybody who can reach the service
    Open,
    /// Who brings a token (`conclave-ds invitation create` makes them)
    Invitation,
}

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Folder for the database [default: `service` in the home folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7700")]
    listen: SocketAddr,
    /// Address under which clients dial this service, such as wss://ds.example; several times for several [default: the address listened on]
    #[arg(long, value_name = "ORIGIN")]
    origin: Vec<String>,
    /// Who may open an account
    #[arg(long, value_enum, default_value_t = Admit::Open)]
    admission: Admit,
}

/// Runs a service until it is asked to end.
///
/// # Errors
/// [`Failure`].
pub async fn run(global: &Global, args: Serve) -> Result<Shown> {
    let data = match args.data {
        Some(data) => data,
        None => Home::find(global)?.folder().join(DATA),
    };
    let mut config = Config::new(data, args.listen);
    config.origins = args.origin;
    config.admission = match args.admission {
        Admit::Open => Admission::Open,
        Admit::Invitation => Admission::Invitation,
    };
    let interrupted = crate::signals::interrupted();
    let service = Service::start(config).await.map_err(failed)?;
    let url = url(&service);
    if global.json {
        print_json(&serde_json::json!({"url": url}))?;
    } else {
        note(
            &format!("serving {url}; Ctrl-C ends it\nclients: conclave --server {url} …"),
            false,
        );
    }
    interrupted.await;
    service.shutdown().await;
    Ok(Shown::nothing())
}

/// The address that clients on this machine dial.
pub fn url(service: &Service) -> String {
    let mut address = service.local_addr();
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    format!("ws://{address}")
}

fn failed(error: StartError) -> Failure {
    let hint = match &error {
        StartError::Listen { .. } => {
            "another program may have this port; choose one with --listen ADDRESS"
        }
        StartError::Config { .. } => "correct the options and try again",
        _ => "check --data and its permissions; another service may be running on it",
    };
    let exit = if matches!(error, StartError::Config { .. }) {
        Exit::Usage
    } else {
        Exit::Failed
    };
    Failure::new(error.code(), exit, error.to_string(), hint)
}

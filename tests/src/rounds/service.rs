//! The process of the service.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use conclave_ds::{Config, Service};

/// Serves until standard input ends. The first line of standard output is the address.
///
/// # Errors
/// When the service cannot start.
pub async fn run(folder: PathBuf, origins: Vec<String>) -> Result<()> {
    let listen: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let mut config = Config::new(folder, listen);
    config.origins = origins;
    // Members are changed much faster here than people do.
    config.rate_limits = None;
    let service = Service::start(config).await?;
    println!("{}", service.local_addr());
    let mut lines = super::process::input_lines();
    while lines.recv().await.is_some() {}
    service.shutdown().await;
    Ok(())
}

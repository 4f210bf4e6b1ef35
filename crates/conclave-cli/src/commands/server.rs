//! `server`: which service this device trusts to be the one that it knows.

use clap::Subcommand;
use conclave_client::Operation;

use crate::context::Context;
use crate::failure::Result;
use crate::output::Shown;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say that another service, which answers in place of the one that this device knows, is the right one from now on
    Accept {
        /// The first digits of its key, as this device showed them and its operator confirmed them
        key: String,
    },
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    let Command::Accept { key } = command;
    let operation = Operation::AcceptService { key: key.clone() };
    context.run(operation).await?;
    let text = "accepted: this device goes on with the other service";
    Ok(Shown::new(text, "key", key))
}

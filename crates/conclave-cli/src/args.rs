//! What can be written on the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands::{
    device, document, evidence, findings, group, identity, rescue, serve, server,
};
use crate::demo;
use crate::output::Form;

/// Variables that stand in for options.
pub const ENVIRONMENT: [&str; 5] = [HOME, SERVER, PASSPHRASE, TOKEN, LOG];
const HOME: &str = "CONCLAVE_HOME";
const SERVER: &str = "CONCLAVE_SERVER";
/// Variable that holds the token of an invitation.
pub const TOKEN: &str = "CONCLAVE_TOKEN";
/// Variable that switches logging on, as in `CONCLAVE_LOG=debug`.
pub const LOG: &str = "CONCLAVE_LOG";
/// Variable that holds the passphrase of the store.
pub const PASSPHRASE: &str = "CONCLAVE_PASSPHRASE";

const ABOUT: &str = "Edit documents together in closed, verified groups, end-to-end encrypted";
const LONG_ABOUT: &str = "\
Edit documents together in closed, verified groups, end-to-end encrypted.

The service that carries the documents sees neither their content nor their titles nor any name. \
Run `conclave demo` to see everything at work on this machine, without setting anything up.";
const AFTER_HELP: &str = "\
Groups, users and documents are named by the first digits of their id (eight or more), or by name or title where nothing else could be meant by it.

Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  only queued on this device, or the service was not reached: what is shown is what this device has
  4  not verified: compare safety numbers first
  5  refused: by the service, by the group's rules, or because this device is no member
  6  unsent changes of yours lost their place and are kept apart: see `conclave rescue list`
  7  this home is an older copy of a device that is used elsewhere: nothing is sent from here
  10 to 14: what `conclave evidence verify` found

CONCLAVE_LOG=debug logs to standard error. CONCLAVE_PASSPHRASE holds the passphrase of the store.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "conclave", version, about = ABOUT, long_about = LONG_ABOUT, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Folder of this device's store and settings [default: the platform's folder for application data]
    #[arg(long, global = true, value_name = "DIR", env = HOME, hide_env_values = true)]
    pub home: Option<PathBuf>,
    /// Address of the service, such as wss://ds.example; remembered in the home folder once it answers
    #[arg(long, global = true, value_name = "URL", env = SERVER, hide_env_values = true)]
    pub server: Option<String>,
    /// Print one JSON object on standard output; errors as one JSON object on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// Print text exactly as it is, also on a terminal, which does whatever the text says; into files and other programs it always goes so
    #[arg(long, global = true)]
    pub raw: bool,
    /// Also print what a failure or trouble is called: its code, and the text for developers
    #[arg(long, short, global = true)]
    pub verbose: bool,
    /// Read the store's passphrase from the first line of a file [default: $CONCLAVE_PASSPHRASE, else ask]
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// Unlock the store with a key file instead of a passphrase; `init` creates the file
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Unlock the store with the keyring of this system instead of a passphrase; `init` makes an entry there, later commands see it
    #[arg(long, global = true, conflicts_with_all = ["key_file", "passphrase_file"])]
    pub keyring: bool,
    /// Do not connect: work with what is here, and queue what is written
    #[arg(long, global = true)]
    pub offline: bool,
    /// Token for a service that admits by invitation
    #[arg(long, global = true, value_name = "TOKEN", env = TOKEN, hide_env_values = true)]
    pub token: Option<String>,
    /// Believe the service's clock where it is more than a day ahead of this machine's
    #[arg(long, global = true)]
    pub trust_service_clock: bool,
    /// Seconds to wait for the service
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Where the help of a command leads for what every command has.
const MORE_HELP: &str = "\
Options of every command (--home, --server, --offline, --json and others) and exit codes: `conclave --help`";

/// The command line, where each command's help shows its own options only.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    // Options of every command are handed down to the others here.
    command.build();
    command.get_subcommands_mut().for_each(shorten);
    command
}

fn shorten(command: &mut clap::Command) {
    let short = std::mem::take(command).mut_args(|arg| match arg.is_global_set() {
        true => arg.hide(true),
        false => arg,
    });
    *command = short.after_help(MORE_HELP);
    command.get_subcommands_mut().for_each(shorten);
}

impl Global {
    /// How results and failures are told.
    pub fn form(&self) -> Form {
        match (self.json, self.verbose) {
            (true, _) => Form::Json,
            (_, true) => Form::Verbose,
            _ => Form::Plain,
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create this device's store, and a user for it
    Init(identity::Init),
    /// Show this device's user, with the contact text for others
    Whoami(identity::WhoAmI),
    /// Take a contact text as known, and show the safety number to compare
    Verify(identity::Verify),
    /// List known contacts, call them otherwise, or forget them
    Contacts {
        /// What to do; without it they are listed
        #[command(subcommand)]
        command: Option<identity::Contacts>,
    },
    /// Manage this user's devices
    #[command(subcommand)]
    Device(device::Command),
    /// Say which service is the right one, where another answers
    #[command(subcommand)]
    Server(server::Command),
    /// Manage groups and their members
    #[command(subcommand)]
    Group(group::Command),
    /// Create, read and edit documents
    #[command(subcommand)]
    Doc(document::Command),
    /// See what this device found wrong: what happened, who is at fault as far as known, what to do
    #[command(subcommand)]
    Findings(findings::Command),
    /// Keep, hand on and check what convicts the service, or a device, of having been dishonest
    #[command(subcommand)]
    Evidence(evidence::Command),
    /// Look after changes of yours that lost their place, as when a document was deleted before they were sent
    #[command(subcommand)]
    Rescue(rescue::Command),
    /// Show the state of this device
    Status,
    /// Keep the store open, keep it in step with the service, and serve other commands
    Agent,
    /// Run a delivery service
    Serve(serve::Serve),
    /// Play a whole session on this machine: a service, five devices, a removal, crashes; and check every claim
    Demo(demo::Demo),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The demonstration's service
    #[command(hide = true)]
    DemoService(demo::child::ServiceChild),
    /// One of the demonstration's devices
    #[command(hide = true)]
    DemoDevice(demo::child::DeviceChild),
}

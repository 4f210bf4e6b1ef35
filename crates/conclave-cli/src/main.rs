//! The command `conclave`: a thin face of `conclave-client` and `conclave-ds`.
//!
//! It promises that standard output holds the result and nothing else (one JSON object with `--json`), that every failure has a stable code
//! and, where there is one, a next step; that the exit code says what happened (see [`failure::Exit`]); and that what is only queued on this
//! device is called so. It never handles a key, never prints a passphrase, and writes plaintext to a file only where it was asked to: `doc
//! edit` and `doc export`.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod address;
mod args;
mod commands;
mod confirm;
mod content;
mod context;
mod demo;
mod failure;
#[cfg(test)]
mod help;
mod home;
mod input;
mod json;
mod lookup;
mod names;
mod output;
mod painted;
mod rescued;
mod say;
mod signals;
mod target;
mod terminal;
mod told;
mod unlock;
mod write;

include!(concat!(env!("OUT_DIR"), "/broken.rs"));

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command, Global};
use commands::{
    agent, device, document, edit, evidence, findings, group, identity, rescue, serve, server,
    status,
};
use context::Context;
use failure::{Exit, Failure, Result};
use output::{Form, Shown, print_failure, print_raw, print_untamed, print_usage};

fn main() -> ExitCode {
    conclave_ds::leave_no_core();
    let mut command = args::command();
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage(&error.format(&mut command)).into(),
    };
    start_log();
    if cli.global.raw {
        print_untamed();
    }
    let form = cli.global.form();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => {
            let done = runtime.block_on(run(cli));
            // A prompt or a file that is still being read must not hold the process.
            runtime.shutdown_background();
            done
        }
        Err(error) => {
            let message = format!("the system refused to start threads: {error}");
            Err(Failure::new(
                "cli.start",
                Exit::Failed,
                message,
                "free some resources and try again",
            ))
        }
    };
    match done {
        Ok(exit) => exit.into(),
        Err(failure) => print_failure(&failure, form).into(),
    }
}

/// Shows help or what is wrong with the command line.
fn usage(error: &clap::Error) -> Exit {
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let json = std::env::args_os().any(|argument| argument == "--json");
    if json && !asked {
        let message = error.to_string();
        let message = message
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned();
        return print_failure(
            &Failure::usage(message, "`conclave --help` lists commands and options"),
            Form::Json,
        );
    }
    match print_usage(error) {
        Err(failure) => print_failure(&failure, Form::Plain),
        Ok(()) if asked => Exit::Done,
        Ok(()) => Exit::Usage,
    }
}

/// Logs to standard error, where somebody asked for it.
fn start_log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env(args::LOG) {
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| output::Log)
            .with_ansi(false);
        // Fails only when there is a log already.
        let _ = log.try_init();
    }
}

async fn run(cli: Cli) -> Result<Exit> {
    let global = cli.global;
    let shown = match cli.command {
        Command::Init(args) => identity::init(&global, args).await,
        Command::Serve(args) => serve::run(&global, args).await,
        Command::Demo(args) => demo::run(&global, args).await,
        Command::DemoService(args) => demo::child::serve(args).await,
        Command::DemoDevice(args) => demo::child::device(&global, args).await,
        Command::Completions { shell } => completions(&global, shell),
        Command::Evidence(evidence::Command::Verify { file, key }) => evidence::verify(&file, &key),
        other => {
            let context = Context::open(&global).await?;
            edit::sweep(&context).await;
            let done = run_with(&context, other).await;
            return Ok(told::end(context, done).await);
        }
    };
    Ok(shown?.print(global.json)?.0)
}

async fn run_with(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::Whoami(args) => identity::whoami(context, &args).await,
        Command::Verify(args) => identity::verify(context, args).await,
        Command::Contacts { command } => identity::contacts(context, command).await,
        Command::Device(command) => device::run(context, command).await,
        Command::Server(command) => server::run(context, command).await,
        Command::Group(command) => group::run(context, command).await,
        Command::Doc(command) => document::run(context, command).await,
        Command::Findings(command) => findings::run(context, command).await,
        Command::Evidence(command) => evidence::run(context, command).await,
        Command::Rescue(command) => rescue::run(context, command).await,
        Command::Status => status::run(context).await,
        Command::Agent => agent::run(context).await,
        // Handled before a store is opened.
        _ => Ok(Shown::nothing()),
    }
}

fn completions(global: &Global, shell: clap_complete::Shell) -> Result<Shown> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "conclave", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    if global.json {
        return Ok(Shown::new("", "script", script));
    }
    print_raw(&script)?;
    Ok(Shown::nothing())
}

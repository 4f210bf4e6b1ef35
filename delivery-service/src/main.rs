//! The binary `conclave-ds`: serves, makes invitations, copies and recovers, prints shell completions.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use conclave_ds::{Admission, Config, Durability, Invitations, Recovery, Service};
use conclave_proto::GroupId;
use tracing_subscriber::EnvFilter;

/// Milliseconds in an hour.
const HOUR_MS: u64 = 3600 * 1000;

/// Delivery service for end-to-end encrypted documents. It orders and stores what it cannot read.
#[derive(Debug, Parser)]
#[command(name = "conclave-ds", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service until SIGTERM or SIGINT.
    Serve(Serve),
    /// Invite people to a service that admits by invitation. Works beside a running service.
    Invitation {
        #[command(subcommand)]
        command: InvitationCommand,
    },
    /// Declare that the service was put back, so that members bring back what it lost; or give up what does not come. Works beside a running
    /// service.
    Recover {
        #[command(flatten)]
        data: Data,
        /// How long all documents take nothing new while members bring back what they have, for example 90s, 10m, 24h.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time_ms, conflicts_with_all = ["accept_loss", "prolong"])]
        hold: u64,
        /// Declare nothing: what takes nothing new goes on so for so long from now on, and so does everything else.
        #[arg(long, value_name = "TIME", value_parser = time_ms, conflicts_with = "accept_loss")]
        prolong: Option<u64>,
        /// Give up what did not come back: documents go on from what there is. What members still have of it, they write in again themselves.
        #[arg(long)]
        accept_loss: bool,
        /// Of this group only.
        #[arg(long, value_name = "ID", requires = "accept_loss")]
        group: Option<GroupId>,
    },
    /// Groups that this service has.
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Put a copy in the place of the database, and declare it. The service must not run.
    Restore {
        #[command(flatten)]
        data: Data,
        /// The copy.
        file: PathBuf,
        /// As of `recover`.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = time_ms)]
        hold: u64,
    },
    /// Show for which users and of which groups how many bytes are stored, the most first. Works beside a running service.
    Usage {
        #[command(flatten)]
        data: Data,
        /// At most so many of each.
        #[arg(long, value_name = "N", default_value_t = 20)]
        most: u32,
    },
    /// Copy the database into a new file, also beside a running service. The file holds the service's key.
    Backup {
        #[command(flatten)]
        data: Data,
        /// The file.
        file: PathBuf,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct Serve {
    /// Directory for the database; created where needed.
    #[arg(long, env = "CONCLAVE_DS_DATA", value_name = "DIR")]
    data: PathBuf,
    /// Address to listen on.
    #[arg(
        long,
        env = "CONCLAVE_DS_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:7700"
    )]
    listen: SocketAddr,
    /// URL origin under which clients dial this service, for example wss://ds.example; may be repeated. Derived from the address when
    /// missing.
    #[arg(
        long = "origin",
        env = "CONCLAVE_DS_ORIGINS",
        value_name = "URL",
        value_delimiter = ','
    )]
    origins: Vec<String>,
    /// Web page that may connect, by its origin, for example https://app.example; may be repeated. No other page may; programs that are no
    /// browser may in any case.
    #[arg(
        long = "allow-page",
        env = "CONCLAVE_DS_PAGES",
        value_name = "URL",
        value_delimiter = ','
    )]
    pages: Vec<String>,
    /// Who may open an account.
    #[arg(long, env = "CONCLAVE_DS_ADMISSION", value_enum, default_value_t = AdmissionArg::Open)]
    admission: AdmissionArg,
    /// What "acknowledged" means: `full` survives a power failure; with `normal` the last moments may be lost to one.
    #[arg(long, env = "CONCLAVE_DS_DURABILITY", value_enum, default_value_t = DurabilityArg::Full)]
    durability: DurabilityArg,
    /// Switch off rate limits and pacing.
    #[arg(long, env = "CONCLAVE_DS_NO_RATE_LIMITS")]
    no_rate_limits: bool,
    /// Most connections at once.
    #[arg(long, env = "CONCLAVE_DS_CONNECTIONS", value_name = "N")]
    connections: Option<usize>,
    /// Most connections from one address, or from one network of 64 bits in IPv6.
    #[arg(long, env = "CONCLAVE_DS_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    connections_per_address: Option<usize>,
    /// Proxy that stands before the service, by its address; may be repeated. Connections from there count for the last address in their
    /// X-Forwarded-For; of others nobody believes it.
    #[arg(
        long = "trusted-proxy",
        env = "CONCLAVE_DS_TRUSTED_PROXIES",
        value_name = "ADDR",
        value_delimiter = ','
    )]
    proxies: Vec<IpAddr>,
    /// Most that is stored for one user in documents and groups, in bytes; 0 for as much as there is room. Not more than half of a group's, where
    /// that is limited [default: 10 GiB, or half of a group's].
    #[arg(long, env = "CONCLAVE_DS_MAX_USER_BYTES", value_name = "N")]
    max_user_bytes: Option<u64>,
    /// Most that is stored of one group, in bytes; 0 for as much as there is room [default: 20 GiB].
    #[arg(long, env = "CONCLAVE_DS_MAX_GROUP_BYTES", value_name = "N")]
    max_group_bytes: Option<u64>,
    /// Largest database in bytes. Past it the service takes nothing new and is not ready, and still serves what it has. The write-ahead
    /// log comes in addition.
    #[arg(long, env = "CONCLAVE_DS_MAX_DATABASE_BYTES", value_name = "N")]
    max_database_bytes: Option<u64>,
    /// How long everything is held when a member shows that the service was put back, so that others show what else it lost, for example 60s, 10m; 0s for
    /// not at all.
    #[arg(long, env = "CONCLAVE_DS_FOUND_HOLD", value_name = "TIME", default_value = "60s", value_parser = time_ms)]
    found_hold: u64,
    /// Log as JSON, one object a line.
    #[arg(long, env = "CONCLAVE_DS_JSON_LOG")]
    json_log: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AdmissionArg {
    /// Anybody who can reach the service.
    Open,
    /// Who brings an invitation token.
    Invitation,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DurabilityArg {
    /// Synchronous writes.
    Full,
    /// Faster, not safe against power failures.
    Normal,
}

#[derive(Debug, Subcommand)]
enum InvitationCommand {
    /// Make an invitation and print its token, which is shown only here.
    Create {
        #[command(flatten)]
        data: Data,
        /// Accounts that it admits.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
        uses: u64,
        /// Hours until it ends.
        #[arg(long, default_value_t = 72, value_parser = clap::value_parser!(u64).range(1..=87_600))]
        hours: u64,
    },
    /// List invitations: name, accounts left, hours left.
    List {
        #[command(flatten)]
        data: Data,
    },
    /// End an invitation.
    Revoke {
        #[command(flatten)]
        data: Data,
        /// Its name, as listed.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    /// Remove a group and its documents from this service, because it keeps the place of the right one: members bring that anew. Their devices lose
    /// nothing. Works beside a running service.
    Drop {
        #[command(flatten)]
        data: Data,
        /// The group.
        id: GroupId,
        /// Also where it was founded at this service, not brought by a member.
        #[arg(long)]
        even_if_founded_here: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Data {
    /// Directory of the database.
    #[arg(long, env = "CONCLAVE_DS_DATA", value_name = "DIR")]
    data: PathBuf,
}

fn main() -> ExitCode {
    conclave_ds::leave_no_core();
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime does not start")
        .and_then(|runtime| runtime.block_on(run(cli.command)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing else can be done where even this cannot be written.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(options) => serve(options).await,
        Command::Invitation { command } => invitation(command).await,
        Command::Recover {
            data,
            hold,
            prolong,
            accept_loss,
            group,
        } => {
            let does = match prolong {
                _ if accept_loss => Recover::AcceptLoss(group),
                Some(hold) => Recover::Prolong(hold),
                None => Recover::Declare(hold),
            };
            recover(Recovery::of(data.data), does).await
        }
        Command::Restore { data, file, hold } => {
            restore(Recovery::of(data.data), &file, hold).await
        }
        Command::Group {
            command:
                GroupCommand::Drop {
                    data,
                    id,
                    even_if_founded_here,
                    yes,
                },
        } => drop_group(Recovery::of(data.data), id, (even_if_founded_here, yes)).await,
        Command::Usage { data, most } => usage(&Recovery::of(data.data), most).await,
        Command::Backup { data, file } => Ok(Recovery::of(data.data).backup(&file).await?),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "conclave-ds", &mut script);
            std::io::stdout()
                .write_all(&script)
                .context("cannot write the script")
        }
    }
}

async fn usage(recovery: &Recovery, most: u32) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let usage = recovery.usage(most).await?;
    for (user, bytes) in usage.users {
        writeln!(out, "user\t{user}\t{bytes}")?;
    }
    for (group, bytes) in usage.groups {
        writeln!(out, "group\t{group}\t{bytes}")?;
    }
    Ok(())
}

/// What `recover` is to do; times in milliseconds.
enum Recover {
    Declare(u64),
    Prolong(u64),
    AcceptLoss(Option<GroupId>),
}

async fn recover(recovery: Recovery, does: Recover) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if let Recover::AcceptLoss(group) = does {
        let losses = recovery.accept_loss(group).await?;
        for loss in losses.iter().flatten() {
            let document = loss.log.document;
            let document = document.map_or_else(|| "-".to_owned(), |id| id.to_string());
            let (kept, lost) = (loss.kept.size, loss.lost.size);
            writeln!(out, "{}\t{document}\t{kept}\t{lost}", loss.log.group)?;
        }
        anyhow::ensure!(
            losses.is_some(),
            "nothing is waiting to be brought back, so there is nothing to give up"
        );
        return Ok(());
    }
    match does {
        Recover::Declare(hold) => {
            let generation = recovery.declare(hold).await?;
            writeln!(out, "generation {}", generation.number)?;
        }
        Recover::Prolong(hold) => {
            recovery.prolong(hold).await?;
            writeln!(out, "prolonged")?;
        }
        Recover::AcceptLoss(_) => {}
    }
    Ok(())
}

async fn drop_group(
    recovery: Recovery,
    group: GroupId,
    (even_if_founded_here, yes): (bool, bool),
) -> anyhow::Result<()> {
    if !yes {
        let there = recovery.group(group).await?;
        confirm(&format!("Remove group {group} ({there})? [y/N] "))?;
    }
    let removed = recovery.drop_group(group, even_if_founded_here).await?;
    writeln!(std::io::stdout(), "removed {group} ({removed})")?;
    Ok(())
}

/// Asks who sits there.
fn confirm(question: &str) -> anyhow::Result<()> {
    let input = std::io::stdin();
    anyhow::ensure!(
        input.is_terminal(),
        "nobody is there to ask: say --yes if it is to be removed"
    );
    let mut out = std::io::stderr();
    write!(out, "{question}")?;
    out.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    let answer = answer.trim();
    anyhow::ensure!(
        answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes"),
        "nothing was removed"
    );
    Ok(())
}

async fn restore(recovery: Recovery, file: &Path, hold: u64) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    let restored = recovery.restore(file, hold).await?;
    writeln!(out, "generation {}", restored.generation.number)?;
    if let Some(before) = restored.before {
        writeln!(out, "before {}", before.display())?;
    }
    if let Some(error) = restored.unread {
        let mut out = std::io::stderr();
        writeln!(
            out,
            "warning: what was there before cannot be read: {error}"
        )?;
        writeln!(
            out,
            "Devices that know of a later generation than this one make the service begin another by themselves."
        )?;
    }
    Ok(())
}

/// Milliseconds of a time in seconds, minutes or hours.
fn time_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text} is not a time like 90s, 10m or 24h");
    let split = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(split).ok_or_else(wrong)?;
    let unit_ms = match unit {
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => HOUR_MS,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    Ok(u64::from(number) * unit_ms)
}

async fn serve(options: Serve) -> anyhow::Result<()> {
    start_log(options.json_log);
    let mut config = Config::new(options.data, options.listen);
    config.origins = options.origins;
    config.pages = options.pages;
    config.admission = match options.admission {
        AdmissionArg::Open => Admission::Open,
        AdmissionArg::Invitation => Admission::Invitation,
    };
    config.durability = match options.durability {
        DurabilityArg::Full => Durability::Full,
        DurabilityArg::Normal => Durability::Normal,
    };
    if options.no_rate_limits {
        config.rate_limits = None;
    }
    if let Some(connections) = options.connections {
        config.limits.connections = connections;
    }
    if let Some(connections) = options.connections_per_address {
        config.limits.connections_per_address = connections;
    }
    config.proxies = options.proxies;
    let most = |bytes: u64| (bytes > 0).then_some(bytes);
    if let Some(bytes) = options.max_group_bytes {
        config.limits.limit_groups(most(bytes));
    }
    if let Some(bytes) = options.max_user_bytes {
        config.limits.user_bytes = most(bytes);
    }
    config.limits.database_bytes = options.max_database_bytes;
    config.limits.found_hold_ms = options.found_hold;
    let asked_to_end = conclave_ds::asked_to_end().context("signals cannot be received")?;
    survive_file_size_limit().context("signals cannot be received")?;
    let service = Service::start(config).await?;
    writeln!(std::io::stdout(), "{}", service.url()).context("cannot write the address")?;
    asked_to_end.await;
    service.shutdown().await;
    Ok(())
}

/// A write past the limit on file sizes (`ulimit -f`, `LimitFSIZE`) then fails like one to a full disk. Unhandled, its signal would end
/// the process.
#[cfg(unix)]
fn survive_file_size_limit() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // SIGXFSZ, where it has its usual number. The handler stays when the stream is dropped.
    let usual = !cfg!(any(
        target_arch = "mips",
        target_arch = "mips64",
        target_os = "haiku"
    ));
    if usual {
        drop(signal(SignalKind::from_raw(25))?);
    }
    Ok(())
}

#[cfg(not(unix))]
fn survive_file_size_limit() -> std::io::Result<()> {
    Ok(())
}

fn start_log(json: bool) {
    let filter =
        EnvFilter::try_from_env("CONCLAVE_DS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

async fn invitation(command: InvitationCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match command {
        InvitationCommand::Create { data, uses, hours } => {
            let valid_ms = hours.saturating_mul(HOUR_MS);
            let new = Invitations::of(data.data).create(uses, valid_ms).await?;
            writeln!(out, "{}", new.token)?;
        }
        InvitationCommand::List { data } => {
            let now = conclave_ds::Clock::default().now();
            for invitation in Invitations::of(data.data).list().await? {
                let hours = invitation.expires.since_ms(now) / HOUR_MS;
                writeln!(out, "{}\t{}\t{hours}", invitation.id, invitation.uses_left)?;
            }
        }
        InvitationCommand::Revoke { data, id } => {
            anyhow::ensure!(
                Invitations::of(data.data).revoke(&id).await?,
                "there is no invitation named {id}"
            );
        }
    }
    Ok(())
}

//! `evidence`: what was signed and contradicts itself, kept here, handed on, and checked by whoever has the service's key.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use conclave_client::evidence::{EvidenceKind, NoProof, ProofInfo, Proven};
use conclave_client::finding::date;
use conclave_client::proto::service::{LogName, SignedHead};
use conclave_client::proto::{Hash, UnixMs};
use conclave_client::{Operation, Outcome};

use crate::context::{Context, answer};
use crate::failure::{Exit, Failure, Result};
use crate::input::is_standard;
use crate::names::{Named, find};
use crate::output::{Shown, columns, print_bytes};
use crate::{say, write};

/// Digits of an id that lists show.
const ID_SHOWN: usize = 8;
/// A file of more bytes is not read: no evidence is as long.
const FILE_BYTES: u64 = 4 << 20;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List what this device holds against the service, or against a member's device
    List,
    /// Write a piece of evidence to a file, to be shown to others
    ///
    /// It holds what was signed, the ids of group and document, and nothing that they hold. Whoever has the service's key, which the list shows, checks it
    /// with `conclave evidence verify`.
    Export {
        /// Its id, or the first digits
        id: String,
        /// The file, or - for standard output
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// Check a file, knowing nothing but the service's public key; nothing is opened or asked for
    ///
    /// Exit codes: 10 the service signed two histories, 11 it signed a shorter state after a longer one, 12 a device signed two changes for one place, 14 the
    /// service went on in a life that was over, 1 the file proves nothing, 13 it cannot be read.
    Verify {
        /// The file
        file: PathBuf,
        /// The service's public key: 64 hexadecimal digits, from its operator or from your own device
        #[arg(long)]
        key: String,
    },
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`].
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::List => list(context).await,
        Command::Export { id, file, force } => export(context, &id, &file, force).await,
        Command::Verify { file, key } => verify(&file, &key),
    }
}

async fn kept(context: &Context) -> Result<Vec<ProofInfo>> {
    answer!(context.run(Operation::Proofs).await?, Outcome::Proofs(all) => all)
}

fn what(kind: EvidenceKind) -> &'static str {
    match kind {
        EvidenceKind::Fork => "two histories",
        EvidenceKind::Rollback => "a shorter state after a longer one",
        EvidenceKind::Equivocation => "two changes of a device for one place",
        EvidenceKind::Parallel => "a former life that goes on",
    }
}

async fn list(context: &Context) -> Result<Shown> {
    context.touch_all();
    let all = kept(context).await?;
    let row = |info: &ProofInfo| {
        let id = info.id.to_string().chars().take(ID_SHOWN).collect();
        let place = match info.document {
            Some(document) => format!("document {}", document.short()),
            None => format!("group {}", info.group.short()),
        };
        vec![id, date(info.at), what(info.kind).to_owned(), place]
    };
    let text = match all.last() {
        None => "this device holds no evidence against anybody".to_owned(),
        Some(last) => format!(
            "{}\n`conclave evidence export ID FILE` writes it to a file; `conclave evidence verify FILE --key {}` checks that",
            columns(&all.iter().map(row).collect::<Vec<_>>()),
            last.service_key,
        ),
    };
    Ok(Shown::new(text, "evidence", all))
}

async fn export(context: &Context, typed: &str, file: &Path, force: bool) -> Result<Shown> {
    let to_standard = is_standard(file);
    if to_standard && context.global.json {
        return Err(Failure::usage(
            "with --json, standard output holds one JSON object",
            "leave --json away, or name a file",
        ));
    }
    let named = |info: ProofInfo| Named {
        id: info.id.to_string(),
        within: None,
        name: None,
        value: info,
    };
    let all: Vec<_> = kept(context).await?.into_iter().map(named).collect();
    let info = find("evidence", typed, &all, "conclave evidence list")?;
    let operation = Operation::Proof { evidence: info.id };
    let bytes = answer!(context.run(operation).await?, Outcome::Proof(bytes) => bytes)?;
    if to_standard {
        print_bytes(bytes.as_slice())?;
        return Ok(Shown::nothing());
    }
    write::replace(file, bytes.as_slice(), force)?;
    let text = format!(
        "wrote {}; check it with `conclave evidence verify {} --key {}`",
        file.display(),
        file.display(),
        info.service_key
    );
    let shown = Shown::new(text, "evidence", info.id);
    Ok(shown
        .with("file", file)
        .with("service_key", info.service_key))
}

/// Checks a file by the service's key.
///
/// # Errors
/// [`Failure`]: the file proves nothing, or cannot be read.
pub fn verify(file: &Path, key: &str) -> Result<Shown> {
    let key: Hash = key.parse().map_err(|_| {
        Failure::usage(
            "a service's key has 64 hexadecimal digits",
            "its operator has it; `conclave evidence list` shows the one that your device knows",
        )
    })?;
    let bytes = read(file)?;
    let proven = conclave_client::evidence::verify(&bytes, &key.0).map_err(failure)?;
    Ok(told(&proven).with("file", file).with("service_key", key))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| {
        let mut failure = Failure::file("read", file, &error);
        failure.exit = Exit::Unreadable;
        failure
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened
        .take(FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

fn failure(error: NoProof) -> Failure {
    let detail = error.to_string();
    let failure = match error {
        NoProof::Unreadable(_) => Failure::new(
            "cli.evidence_unreadable",
            Exit::Unreadable,
            "this file is not evidence, or is damaged",
            "ask whoever gave it to you for the file that `conclave evidence export` wrote",
        ),
        NoProof::Unproven(why) => {
            let said = match say::sentence(why.code()) {
                Some(say::Sentence::Fixed(text)) => text.to_owned(),
                _ => detail.clone(),
            };
            let message = format!("nothing is proven: {said}");
            let hint =
                "compare the key with the service's operator, and ask whoever gave you the file";
            Failure::new(why.code(), Exit::Failed, message, hint)
        }
    };
    failure.detailed(detail)
}

fn place(log: &LogName) -> String {
    match log.document {
        Some(document) => format!("document {document} of group {}", log.group),
        None => format!("the membership of group {}", log.group),
    }
}

fn head(signed: &SignedHead) -> String {
    let at = date(UnixMs(signed.seconds.saturating_mul(1000)));
    let (size, root) = (signed.head.size, signed.head.root.short());
    format!("{size} entries (fingerprint {root}…) at {at}")
}

/// What is proven, and what an honest explanation could be.
fn told(proven: &Proven) -> Shown {
    let (exit, verdict, lines) = match proven {
        Proven::Fork { log, a, b } => (
            Exit::Fork,
            "fork",
            [
                format!("proven: the service signed two histories of {}", place(log)),
                format!("it signed {}, and {} of another history", head(a), head(b)),
                "innocent only if its data were put back or copied and it went on without a word; members who relied on it were shown different things either way"
                    .to_owned(),
            ],
        ),
        Proven::Rollback { log, a, b } => (
            Exit::Rollback,
            "rollback",
            [
                format!(
                    "proven: the service signed a shorter state of {} after a longer one",
                    place(log)
                ),
                format!("it signed {}, and later {}", head(a), head(b)),
                "innocent if a backup was put back, or a disk lost what it had confirmed; then the service says so when it is shown this, and collects what it lost"
                    .to_owned(),
            ],
        ),
        Proven::Equivocation {
            group,
            document,
            author,
            user,
            clock,
        } => (
            Exit::Equivocation,
            "equivocation",
            [
                format!("proven: device {} of user {user} signed two changes for one place", author.device),
                format!("change {clock} of its own in document {document} of group {group}"),
                "innocent if its home was copied, or put back from a backup, and both were used"
                    .to_owned(),
            ],
        ),
        Proven::Parallel { log, a, later } => (
            Exit::Parallel,
            "parallel",
            [
                format!(
                    "proven: the service went on signing for {} in a life that was over",
                    place(log)
                ),
                format!("it signed {}; its next life began at {}", head(a), date(later.begun)),
                "innocent if a second copy of the service was left running, or its clock was wrong"
                    .to_owned(),
            ],
        ),
    };
    Shown::new(lines.join("\n"), "verdict", verdict).exit(exit)
}

//! The table of benchmarks, and the counting of what the sources still hold. `docs/TESTING.md` says how to use it.

use std::io::Write as _;

use anyhow::Result;
use clap::{Parser, Subcommand};
use conclave_bench::counts::{Tree, count, list, table as counts_table};
use conclave_bench::measure::Form;
use conclave_bench::presence::{Scale, measure};
use conclave_bench::table::{Options, keep, make, workspace};

#[derive(Parser)]
#[command(about = "Benchmarks of Conclave, and counts of its sources")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs all benchmarks and writes docs/BENCHMARKS.md
    Table {
        /// Small numbers, in seconds; prints the page and writes nothing
        #[arg(long, conflicts_with = "long")]
        short: bool,
        /// Also what takes many minutes
        #[arg(long)]
        long: bool,
        /// Writes docs/BENCHMARKS.md in the short form too
        #[arg(long)]
        write: bool,
        /// How often baseline and subject take turns [default: 5, in the short form 1]
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100))]
        rounds: Option<u64>,
    },
    /// Presence of a large group over a real service: how long it takes, and what is lost
    Presence {
        /// Devices that have the document open
        #[arg(long, default_value_t = 500)]
        devices: usize,
        /// How often each shows something, once a second
        #[arg(long, default_value_t = 30)]
        rounds: usize,
    },
    /// Counts what the sources hold of a design that is being replaced
    Counts {
        /// Also counts in this commit
        #[arg(long)]
        against: Option<String>,
        /// Also says where everything was found
        #[arg(long)]
        list: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Table {
            short,
            long,
            write,
            rounds,
        } => {
            let form = match (short, long) {
                (true, _) => Form::Short,
                (_, true) => Form::Long,
                _ => Form::Usual,
            };
            let rounds = rounds.unwrap_or(form.pick(1, 5));
            let rounds = usize::try_from(rounds)?;
            let page = make(Options { form, rounds })?;
            if write || form != Form::Short {
                keep(&page)?;
            }
            say(&page)
        }
        What::Presence { devices, rounds } => say(&measure(Scale { devices, rounds })?),
        What::Counts {
            against,
            list: places,
        } => {
            let root = workspace();
            let now = count(&Tree::here(&root))?;
            let before = match &against {
                Some(commit) => Some(count(&Tree::of_commit(&root, commit))?),
                None => None,
            };
            let against = against.as_deref().zip(before.as_deref());
            say(&counts_table(&now, against))?;
            match places {
                true => say(&list(&now)),
                false => Ok(()),
            }
        }
    }
}

fn say(text: &str) -> Result<()> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

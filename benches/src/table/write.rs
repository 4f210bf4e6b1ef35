//! The page: facts of the machine, and a table for each subject.

use std::fmt::Write as _;

use super::machine::Machine;
use super::results::Measured;
use super::{SUBJECTS, Subject};

/// The whole page. `command` is what made it.
#[must_use]
pub fn page(machine: &Machine, measured: &[Measured], command: &str) -> String {
    let mut page = head(machine, command);
    for subject in SUBJECTS {
        let rows: Vec<&Measured> = measured
            .iter()
            .filter(|it| it.subject == subject.name)
            .collect();
        if !rows.is_empty() {
            page.push_str(&table(subject, &rows));
        }
    }
    page
}

fn head(machine: &Machine, command: &str) -> String {
    let Machine {
        processor,
        cores,
        memory_mib,
        kernel,
        rustc,
    } = machine;
    format!(
        "# Benchmarks\n\n\
         Written by\n\n```\n{command}\n```\n\n\
         Do not edit it; [TESTING.md](TESTING.md#benchmarks) says how to run it. Each subject was measured in turn with its baseline, in one \
         process. Times are medians of rounds, of processor time unless said otherwise. Of the ratios the median, the lowest and the highest \
         are given: they hold where the times of another machine do not.\n\n\
         | | |\n|---|---|\n\
         | Processor | {processor} |\n\
         | Cores | {cores} |\n\
         | Memory | {memory_mib} MiB |\n\
         | Kernel | {kernel} |\n\
         | Compiler | {rustc} |\n"
    )
}

fn table(subject: Subject, rows: &[&Measured]) -> String {
    let Subject {
        title, about, per, ..
    } = subject;
    let mut table = format!("\n## {title}\n\n{about}\n\n");
    let header = format!("| case | baseline | per {per} | measured | per {per} | ratio |\n");
    table.push_str(&header);
    table.push_str("|---|---|---|---|---|---|\n");
    for row in rows {
        let Measured {
            case,
            baseline,
            own,
            ..
        } = row;
        let (bare, ours) = row.rounds.iter().copied().unzip();
        let line = writeln!(
            table,
            "| {case} | {baseline} | {} | {own} | {} | {} |",
            time(median(bare)),
            time(median(ours)),
            ratio(&row.rounds)
        );
        // Writing to a string cannot fail.
        debug_assert!(line.is_ok());
    }
    table
}

fn ratio(rounds: &[(f64, f64)]) -> String {
    let mut ratios: Vec<f64> = rounds.iter().map(|(bare, own)| own / bare).collect();
    ratios.sort_by(f64::total_cmp);
    let (lowest, highest) = (ratios.first().copied(), ratios.last().copied());
    let middle = median(ratios);
    match (lowest, highest) {
        (Some(lowest), Some(highest)) if rounds.len() > 1 => {
            format!("**{middle:.2}** ({lowest:.2}–{highest:.2})")
        }
        _ => format!("**{middle:.2}**"),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied();
    let lower = values.get(values.len().saturating_sub(1) / 2).copied();
    upper
        .zip(lower)
        .map_or(f64::NAN, |(a, b)| f64::midpoint(a, b))
}

/// A time in a unit that fits, with three digits.
fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        small if small < 1e3 => (small, "ns"),
        small if small < 1e6 => (small / 1e3, "µs"),
        small if small < 1e9 => (small / 1e6, "ms"),
        large => (large / 1e9, "s"),
    };
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            processor: "Some CPU".to_owned(),
            cores: 2,
            memory_mib: 24_000,
            kernel: "6.1.0".to_owned(),
            rustc: "rustc 1.94.0".to_owned(),
        }
    }

    fn measured(subject: &str, rounds: &[(f64, f64)]) -> Measured {
        Measured {
            subject: subject.to_owned(),
            case: "a case".to_owned(),
            baseline: "bare".to_owned(),
            own: "ours".to_owned(),
            rounds: rounds.to_vec(),
        }
    }

    #[test]
    fn every_case_has_a_row_with_its_ratio() {
        let rounds = [(1_000.0, 1_500.0), (2_000.0, 2_000.0), (1_000.0, 2_000.0)];
        let all = [measured("seal", &rounds), measured("load", &[(5.0, 20.0)])];
        let page = page(&machine(), &all, "some command --short");
        let tables = page.split_once("| Compiler | rustc 1.94.0 |\n").unwrap().1;
        let lines: Vec<&str> = tables
            .lines()
            .filter(|line| line.starts_with('|'))
            .collect();
        assert_eq!(
            lines,
            [
                "| case | baseline | per record | measured | per record | ratio |",
                "|---|---|---|---|---|---|",
                "| a case | bare | 5.00 ns | ours | 20.0 ns | **4.00** |",
                "| case | baseline | per record | measured | per record | ratio |",
                "|---|---|---|---|---|---|",
                "| a case | bare | 1.00 µs | ours | 2.00 µs | **1.50** (1.00–2.00) |",
            ]
        );
        assert!(page.contains("```\nsome command --short\n```"));
        assert!(page.find("## Cold load").unwrap() < page.find("## Sealing").unwrap());
        assert!(!page.contains("## A commit"));
    }

    #[test]
    fn times_are_short() {
        for (nanoseconds, text) in [
            (0.123, "0.12 ns"),
            (12_345.0, "12.3 µs"),
            (999_000.0, "999 µs"),
            (1_234_567.0, "1.23 ms"),
            (61_000_000_000.0, "61.0 s"),
        ] {
            assert_eq!(time(nanoseconds), text);
        }
    }

    #[test]
    fn the_middle_of_an_even_number_lies_between() {
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }
}

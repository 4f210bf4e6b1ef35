//! Reading what criterion kept of a run: one folder for each name, with the estimates in it.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::measure::BASELINE;

/// A case, measured in one or more rounds: what one unit took, in nanoseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The subject.
    pub subject: String,
    /// The case.
    pub case: String,
    /// What it is compared with.
    pub baseline: String,
    /// What was measured.
    pub own: String,
    /// Both, round by round.
    pub rounds: Vec<(f64, f64)>,
}

#[derive(Deserialize)]
struct Id {
    group_id: String,
    function_id: String,
    value_str: String,
    throughput: Throughput,
}

#[derive(Deserialize)]
struct Throughput {
    #[serde(rename = "Elements")]
    elements: u64,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// What was measured under one name.
#[derive(Default)]
struct Side {
    name: String,
    rounds: BTreeMap<usize, f64>,
}

/// Reads all results below a folder, by subject and case.
///
/// # Errors
/// When a file is not as criterion writes it, or half of a pair is missing.
pub fn read(folder: &Path) -> Result<Vec<Measured>> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    let mut found: BTreeMap<(String, String), [Side; 2]> = BTreeMap::new();
    for file in files {
        let id: Id = parse(&file)?;
        let estimates: Estimates = parse(&file.with_file_name("estimates.json"))?;
        let (name, round) = id.function_id.rsplit_once(" #").context("no round")?;
        let [baseline, own] = found.entry((id.group_id, id.value_str)).or_default();
        let (side, name) = match name.strip_prefix(BASELINE) {
            Some(name) => (baseline, name),
            None => (own, name),
        };
        name.clone_into(&mut side.name);
        let units = id.throughput.elements.max(1) as f64;
        let each = estimates.median.point_estimate / units;
        side.rounds.insert(round.parse()?, each);
    }
    let mut all = Vec::new();
    for ((subject, case), [baseline, own]) in found {
        all.push(pair(subject, case, baseline, own)?);
    }
    all.sort_by(|a, b| a.subject.cmp(&b.subject).then(natural(&a.case, &b.case)));
    Ok(all)
}

fn pair(subject: String, case: String, baseline: Side, own: Side) -> Result<Measured> {
    let same = baseline.rounds.keys().eq(own.rounds.keys());
    anyhow::ensure!(same, "{subject}, {case}: half of a pair is missing");
    Ok(Measured {
        subject,
        case,
        baseline: baseline.name,
        own: own.name,
        rounds: baseline
            .rounds
            .into_values()
            .zip(own.rounds.into_values())
            .collect(),
    })
}

fn parse<T: for<'a> Deserialize<'a>>(file: &Path) -> Result<T> {
    let name = || file.display().to_string();
    let bytes = fs::read(file).with_context(name)?;
    serde_json::from_slice(&bytes).with_context(name)
}

/// The descriptions of newest results: `…/new/benchmark.json`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.ends_with("new/benchmark.json") {
            files.push(path);
        }
    }
    Ok(())
}

/// Orders texts with numbers in them by these.
fn natural(a: &str, b: &str) -> Ordering {
    let words = |text: &str| -> Vec<(u64, String)> {
        let words = text.split_inclusive(' ');
        words
            .map(|word| (word.trim().parse().unwrap_or(0), word.to_owned()))
            .collect()
    };
    words(a).cmp(&words(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(folder: &Path, name: &str, case: &str, units: u64, median: f64) {
        let place = folder.join(format!("{name}{case}").replace([':', ' ', '#'], "_"));
        let place = place.join("new");
        fs::create_dir_all(&place).unwrap();
        let id = serde_json::json!({"group_id": "load", "function_id": name, "value_str": case,
            "throughput": {"Elements": units}, "full_id": "", "directory_name": "", "title": ""});
        fs::write(place.join("benchmark.json"), id.to_string()).unwrap();
        let estimates = serde_json::json!({"median": {"point_estimate": median}, "slope": null});
        fs::write(place.join("estimates.json"), estimates.to_string()).unwrap();
    }

    #[test]
    fn rounds_come_together_by_unit_and_cases_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for (case, units) in [("yjs, 10 records", 10), ("yjs, 9 records", 9)] {
            for (round, factor) in [(1, 1.0), (2, 2.0)] {
                let bare = units as f64 * 10.0;
                let name = format!("{BASELINE}yrs #{round}");
                keep(folder.path(), &name, case, units, bare);
                keep(
                    folder.path(),
                    &format!("open #{round}"),
                    case,
                    units,
                    bare * factor,
                );
            }
        }
        let all = read(folder.path()).unwrap();
        let cases: Vec<&str> = all.iter().map(|it| it.case.as_str()).collect();
        assert_eq!(cases, ["yjs, 9 records", "yjs, 10 records"]);
        for measured in all {
            assert_eq!(measured.rounds, [(10.0, 10.0), (10.0, 20.0)]);
            assert_eq!(
                (measured.baseline.as_str(), measured.own.as_str()),
                ("yrs", "open")
            );
        }
    }

    #[test]
    fn half_a_pair_is_no_result() {
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path(), "open #1", "yjs", 1, 5.0);
        assert!(read(folder.path()).is_err());
        keep(folder.path(), &format!("{BASELINE}yrs #1"), "yjs", 1, 5.0);
        assert!(read(folder.path()).is_ok());
        fs::write(folder.path().join("new"), "").unwrap();
        assert!(read(&folder.path().join("absent")).is_err());
    }
}

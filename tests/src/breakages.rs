//! Breakages: cargo features that take one property away each, so that a test can be seen to notice.
//!
//! The table `tests/breakages.tsv` says for each which test has to fail. The program `breakages` builds each one and runs that test;
//! `docs/TESTING.md` shows the table to people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::{Metadata, MetadataCommand};

/// First line of the table.
pub const HEADER: &str = "feature\tcrate\tpackage\ttarget\ttest\twhat is broken";
/// Every breakage's feature begins so.
pub const PREFIX: &str = "break-";
/// Where the table begins in `docs/TESTING.md`.
pub const BEGIN: &str =
    "<!-- breakages: written by `cargo run -p conclave-tests --bin breakages -- table` -->";
/// Where it ends.
pub const END: &str = "<!-- end of breakages -->";

/// One breakage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breakage {
    /// The crate that has the feature. First, so that rows sort by crate and little is built again between them.
    pub owner: String,
    /// The feature.
    pub feature: String,
    /// The package whose test fails.
    pub package: String,
    /// `lib`, or the name of a test target.
    pub target: String,
    /// Full name of the test.
    pub test: String,
    /// What is broken, for somebody who does not know the code.
    pub what: String,
}

impl Breakage {
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [feature, owner, package, target, test, what] = fields.as_slice() else {
            bail!("{} fields instead of 6: {line}", fields.len());
        };
        ensure!(
            fields.iter().all(|field| !field.is_empty()),
            "an empty field: {line}"
        );
        let owned = |text: &&str| (*text).to_owned();
        Ok(Self {
            owner: owned(owner),
            feature: owned(feature),
            package: owned(package),
            target: owned(target),
            test: owned(test),
            what: owned(what),
        })
    }

    /// What `cargo test` is given to build the broken code and the test.
    ///
    /// A test of its own file is built with the features that the whole workspace gives to what it links, as the ordinary build does, so
    /// that nothing but the broken crate and what rests on it is built again. `namesakes` are other packages with a test of that name.
    #[must_use]
    pub fn cargo_arguments(&self, namesakes: &[String]) -> Vec<String> {
        let mut arguments = vec![
            "--features".to_owned(),
            format!("{}/{}", self.owner, self.feature),
        ];
        let mut give = |option: &str, value: &str| {
            arguments.extend([option, value].map(ToOwned::to_owned));
        };
        if self.target == "lib" {
            give("--package", &self.package);
        } else {
            give("--test", &self.target);
            for other in namesakes {
                give("--exclude", other);
            }
        }
        let whole = if self.target == "lib" {
            "--lib"
        } else {
            "--workspace"
        };
        arguments.push(whole.to_owned());
        arguments
    }

    /// Other packages with a test of the same name.
    #[must_use]
    pub fn namesakes(&self, metadata: &Metadata) -> Vec<String> {
        let has_it = |package: &&cargo_metadata::Package| {
            let mut targets = package.targets.iter();
            *package.name != self.package
                && targets.any(|target| target.is_test() && target.name == self.target)
        };
        let packages = metadata.packages.iter().filter(has_it);
        packages.map(|package| package.name.to_string()).collect()
    }
}

/// The root of the workspace.
///
/// # Errors
/// Never where this package lies in its workspace.
pub fn workspace_root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the tests have no parent folder")?;
    Ok(root.to_owned())
}

/// Reads the table: sorted by crate and feature, each feature once.
///
/// # Errors
/// When it is not.
pub fn parse(table: &str) -> Result<Vec<Breakage>> {
    let mut lines = table.lines();
    ensure!(lines.next() == Some(HEADER), "the table has no header");
    let rows = lines.map(Breakage::parse).collect::<Result<Vec<_>>>()?;
    for (one, next) in rows.iter().zip(rows.iter().skip(1)) {
        ensure!(
            (&one.owner, &one.feature) < (&next.owner, &next.feature),
            "{} does not belong after {}",
            next.feature,
            one.feature
        );
    }
    Ok(rows)
}

/// The committed table.
///
/// # Errors
/// When it cannot be read.
pub fn committed() -> Result<Vec<Breakage>> {
    parse(&fs::read_to_string(
        workspace_root()?.join("tests/breakages.tsv"),
    )?)
}

/// The section for people.
#[must_use]
pub fn render(rows: &[Breakage]) -> String {
    let mut out = String::from("| switch | what is broken | test that fails |\n|---|---|---|\n");
    for row in rows {
        let place = match row.target.as_str() {
            "lib" => row.package.clone(),
            target => format!("{}, {target}", row.package),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| `{}/{}` | {} | `{}` ({place}) |",
            row.owner, row.feature, row.what, row.test
        );
    }
    out
}

/// A document with the section between the marks replaced.
///
/// # Errors
/// When it has no marks.
pub fn with_section(document: &str, section: &str) -> Result<String> {
    let (before, rest) = document.split_once(BEGIN).context("no mark to begin at")?;
    let (_, after) = rest.split_once(END).context("no mark to end at")?;
    Ok(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

/// The features of the workspace that break something, by crate.
///
/// # Errors
/// When one is not empty or on by default.
pub fn declared(metadata: &Metadata) -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for package in &metadata.packages {
        for (name, needs) in &package.features {
            let breaks = name.starts_with(PREFIX);
            ensure!(
                !breaks || needs.is_empty(),
                "{}: {name} brings others",
                package.name
            );
            ensure!(
                breaks || !needs.iter().any(|it| it.contains(PREFIX)),
                "{}: {name} breaks something",
                package.name
            );
            if breaks {
                found.insert((package.name.to_string(), name.clone()));
            }
        }
    }
    Ok(found)
}

/// The workspace's packages, without what they depend on.
///
/// # Errors
/// When cargo fails.
pub fn packages() -> Result<Metadata> {
    Ok(MetadataCommand::new()
        .manifest_path(workspace_root()?.join("Cargo.toml"))
        .no_deps()
        .exec()?)
}

/// Folders of the workspace's packages, by name.
#[must_use]
pub fn folders(metadata: &Metadata) -> BTreeMap<String, PathBuf> {
    let packages = metadata.packages.iter();
    packages
        .filter_map(|package| {
            let folder = package.manifest_path.parent()?;
            Some((package.name.to_string(), folder.as_std_path().to_owned()))
        })
        .collect()
}

/// What is wrong between the table and the declared features.
#[must_use]
pub fn mismatches(rows: &[Breakage], declared: &BTreeSet<(String, String)>) -> Vec<String> {
    let listed: BTreeSet<(String, String)> = rows
        .iter()
        .map(|row| (row.owner.clone(), row.feature.clone()))
        .collect();
    let missing = declared.difference(&listed);
    let gone = listed.difference(declared);
    missing
        .map(|(owner, feature)| format!("{owner}/{feature} has no row in tests/breakages.tsv"))
        .chain(gone.map(|(owner, feature)| format!("{owner}/{feature} is in no Cargo.toml")))
        .collect()
}

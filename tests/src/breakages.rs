//! Breakages: switches that take one property away each, so that a test can be seen to notice.
//!
//! The table `tests/breakages.tsv` says for each which test has to fail. The program `breakages` runs each of these tests with its switch
//! thrown; `docs/TESTING.md` shows the table to people. `conclave-breakages` says how a switch is thrown.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use cargo_metadata::{Metadata, MetadataCommand};

/// First line of the table.
pub const HEADER: &str = "switch\tcrate\tpackage\ttarget\ttest\twhat is broken";
/// What brings every feature that the workspace gives to packages of others, so that a library's own tests link what is built already.
const FEATURE_BRINGERS: &[&str] = &["conclave-cli", "conclave-crdt"];
/// Where the table begins in `docs/TESTING.md`.
pub const BEGIN: &str =
    "<!-- breakages: written by `cargo run -p conclave-tests --bin breakages -- table` -->";
/// Where it ends.
pub const END: &str = "<!-- end of breakages -->";

/// One breakage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Breakage {
    /// The crate that has the switch. Rows sort by it.
    pub owner: String,
    /// The switch.
    pub switch: String,
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
        let [switch, owner, package, target, test, what] = fields.as_slice() else {
            bail!("{} fields instead of 6: {line}", fields.len());
        };
        ensure!(
            fields.iter().all(|field| !field.is_empty()),
            "an empty field: {line}"
        );
        let owned = |text: &&str| (*text).to_owned();
        Ok(Self {
            owner: owned(owner),
            switch: owned(switch),
            package: owned(package),
            target: owned(target),
            test: owned(test),
            what: owned(what),
        })
    }

    /// As the variable names it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.owner, self.switch)
    }
}

/// What `cargo test` is given to build the tests of these rows, once for all of them, with switches that can be thrown: one list of arguments
/// for test targets, one for libraries' own tests.
///
/// All are built with the features that the whole workspace gives to what they link, as the ordinary build does, so that nothing but our own
/// crates is built again.
#[must_use]
pub fn build_arguments(rows: &[Breakage]) -> Vec<Vec<String>> {
    let distinct = |pick: fn(&Breakage) -> &String, library: bool| -> BTreeSet<&String> {
        let rows = rows.iter().filter(|row| (row.target == "lib") == library);
        rows.map(pick).collect()
    };
    // Cargo tells builds apart by the profile, and not by what a build script sets: another profile for the crates with switches gives
    // them, and what rests on them, names of their own beside the good ones.
    let owners: BTreeSet<&String> = rows.iter().map(|row| &row.owner).collect();
    let profiles = owners
        .into_iter()
        .map(|owner| format!("profile.dev.package.{owner}.debug=false"));
    let profiles: Vec<String> = profiles
        .flat_map(|it| ["--config".to_owned(), it])
        .collect();
    let list = |option: &str, values: BTreeSet<&String>, rest: &[&str]| -> Option<Vec<String>> {
        let named = values
            .iter()
            .flat_map(|value| [option.to_owned(), (*value).clone()]);
        let rest = rest.iter().map(|it| (*it).to_owned());
        let arguments = profiles.iter().cloned().chain(named).chain(rest);
        (!values.is_empty()).then(|| arguments.collect())
    };
    let bringers: Vec<&str> = FEATURE_BRINGERS
        .iter()
        .flat_map(|other| ["--package", other])
        .chain(["--lib"])
        .collect();
    let targets = list(
        "--test",
        distinct(|row| &row.target, false),
        &["--workspace"],
    );
    let libraries = list("--package", distinct(|row| &row.package, true), &bringers);
    targets.into_iter().chain(libraries).collect()
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

/// Reads the table: sorted by crate and switch, each switch once.
///
/// # Errors
/// When it is not.
pub fn parse(table: &str) -> Result<Vec<Breakage>> {
    let mut lines = table.lines();
    ensure!(lines.next() == Some(HEADER), "the table has no header");
    let rows = lines.map(Breakage::parse).collect::<Result<Vec<_>>>()?;
    for (one, next) in rows.iter().zip(rows.iter().skip(1)) {
        ensure!(
            (&one.owner, &one.switch) < (&next.owner, &next.switch),
            "{} does not belong after {}",
            next.switch,
            one.switch
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
            "| `{}` | {} | `{}` ({place}) |",
            row.name(),
            row.what,
            row.test
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

/// The switches that build scripts of the workspace declare, by crate.
///
/// # Errors
/// When a build script cannot be read, or a feature weakens something.
pub fn declared(metadata: &Metadata) -> Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for package in &metadata.packages {
        for feature in package.features.keys() {
            ensure!(
                !feature.contains("break"),
                "{}: no feature may break anything, and {feature} sounds so",
                package.name
            );
        }
        let script = |target: &&cargo_metadata::Target| target.is_custom_build();
        if let Some(script) = package.targets.iter().find(script) {
            let text = fs::read_to_string(&script.src_path)?;
            let switches = switches(&text).with_context(|| script.src_path.to_string())?;
            found.extend(switches.map(|switch| (package.name.to_string(), switch)));
        }
    }
    Ok(found)
}

/// The switches in the text of a build script.
fn switches(script: &str) -> Result<impl Iterator<Item = String>> {
    let (_, rest) = script
        .split_once("conclave_breakages::declare(&[")
        .context("it declares no switches")?;
    let (list, _) = rest.split_once(']').context("the list has no end")?;
    Ok(list.split('"').skip(1).step_by(2).map(ToOwned::to_owned))
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

/// What is wrong between the table and the declared switches.
#[must_use]
pub fn mismatches(rows: &[Breakage], declared: &BTreeSet<(String, String)>) -> Vec<String> {
    let listed: BTreeSet<(String, String)> = rows
        .iter()
        .map(|row| (row.owner.clone(), row.switch.clone()))
        .collect();
    let missing = declared.difference(&listed);
    let gone = listed.difference(declared);
    missing
        .map(|(owner, switch)| format!("{owner}/{switch} has no row in tests/breakages.tsv"))
        .chain(gone.map(|(owner, switch)| format!("{owner}/{switch} is in no build.rs")))
        .collect()
}

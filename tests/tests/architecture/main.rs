//! The architecture, checked: which way imports go, who never does I/O, and that the delivery
//! service cannot open a record because the code is not there.
//!
//! The checks run on `cargo metadata` and on the sources. The tests in `can_fail` show that each
//! of them finds what it is there to find.

mod can_fail;
mod decoding;
mod elsewhere;
mod graph;
mod lexer;
mod places;
mod promises;
mod scan;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cargo_metadata::MetadataCommand;

use graph::{DEV_ONLY, Graph, IO_PACKAGES, MAY_IMPORT, OPENMLS_USER, RECORD_OPENERS, SANS_IO};

fn workspace_root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().context("the tests have no parent folder")?;
    Ok(root.to_owned())
}

/// The platform that cargo builds for here. The graph of another one could name packages that
/// were never downloaded.
fn host_platform() -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("cargo -vV names no host")?.to_owned())
}

fn workspace_graph() -> Result<Graph> {
    let manifest = workspace_root()?.join("Cargo.toml");
    let platform = format!("--filter-platform={}", host_platform()?);
    let run = |options: &[&str]| {
        let options = options.iter().map(|option| (*option).to_owned());
        MetadataCommand::new()
            .manifest_path(&manifest)
            .other_options(options.collect::<Vec<_>>())
            .exec()
    };
    // Everything was downloaded to build the workspace; only a build of this package alone may
    // lack something.
    let metadata =
        run(&["--locked", "--offline", &platform]).or_else(|_| run(&["--locked", &platform]))?;
    Graph::from_metadata(&metadata)
}

fn ensure_none(found: &[String]) -> Result<()> {
    ensure!(found.is_empty(), "\n{}", found.join("\n"));
    Ok(())
}

#[test]
fn imports_go_in_the_stated_direction() -> Result<()> {
    ensure_none(&graph::direction_violations(
        &workspace_graph()?,
        MAY_IMPORT,
    ))
}

#[test]
fn crates_without_io_never_reach_a_package_with_io() -> Result<()> {
    let graph = workspace_graph()?;
    ensure_none(&graph::reach_violations(&graph, SANS_IO, IO_PACKAGES))
}

#[test]
fn the_delivery_service_never_reaches_what_opens_a_record() -> Result<()> {
    let graph = workspace_graph()?;
    ensure_none(&graph::reach_violations(
        &graph,
        &["conclave-ds"],
        RECORD_OPENERS,
    ))
}

/// But for the tests of the delivery service, which have to forge what no honest client makes, and for
/// benchmarks, which compare with it.
#[test]
fn only_one_crate_names_openmls() -> Result<()> {
    let graph = workspace_graph()?;
    let found = graph::naming_violations(&graph, "openmls", OPENMLS_USER, "conclave-ds", DEV_ONLY);
    ensure_none(&found)
}

#[test]
fn what_is_there_for_development_is_in_nothing_that_is_shipped() -> Result<()> {
    ensure_none(&graph::development_violations(
        &workspace_graph()?,
        DEV_ONLY,
    ))
}

#[test]
fn what_is_there_for_development_is_never_published() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace_root()?.join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let mut packages = metadata.packages.iter();
    let published = packages.find(|it| {
        let never = it.publish.as_ref().is_some_and(Vec::is_empty);
        DEV_ONLY.contains(&it.name.as_str()) && !never
    });
    ensure!(published.is_none(), "{published:?} may be published");
    Ok(())
}

/// The graph that the other tests judge is the real one: known edges are in it.
#[test]
fn the_graph_holds_what_is_known_to_be_there() -> Result<()> {
    let graph = workspace_graph()?;
    for (from, to) in [
        ("conclave-ds", "tokio"),
        ("conclave-ds", "openmls"),
        ("conclave-client", "libsqlite3-sys"),
        ("conclave-engine", "yrs"),
        ("conclave-cli", "conclave-ds"),
    ] {
        ensure!(
            !graph.chains_to(from, &[to]).is_empty(),
            "{from} does not reach {to}"
        );
    }
    Ok(())
}

#[test]
fn sources_without_io_name_no_clock_file_socket_thread_or_terminal() -> Result<()> {
    let root = workspace_root()?;
    let mut found = Vec::new();
    for name in SANS_IO {
        found.extend(scan::scan_folder(
            &root.join("crates").join(name).join("src"),
        )?);
    }
    ensure_none(&found)
}

/// What reads bytes is attacked with bytes: see the package's `decoders` tests.
#[test]
fn every_place_that_reads_bytes_is_reached_by_a_registered_decoder() -> Result<()> {
    ensure_none(&decoding::gaps_of_the_workspace(&workspace_root()?)?)
}

/// Clippy reads only the nearest `clippy.toml`: the ones of the crates without I/O must repeat
/// what the root's says, and must not drift apart.
#[test]
fn crates_without_io_share_one_clippy_file_that_repeats_the_roots() -> Result<()> {
    let root = workspace_root()?;
    let read =
        |path: PathBuf| fs::read_to_string(&path).with_context(|| path.display().to_string());
    let settings = read(root.join("clippy.toml"))?;
    let mut shared: Option<String> = None;
    for name in SANS_IO {
        let text = read(root.join("crates").join(name).join("clippy.toml"))?;
        for line in settings.lines() {
            ensure!(
                text.lines().any(|own| own == line),
                "{name}/clippy.toml lacks: {line}"
            );
        }
        let first = shared.get_or_insert_with(|| text.clone());
        ensure!(*first == text, "{name}/clippy.toml differs from the others");
    }
    Ok(())
}

/// What tests of several packages share is in the testkit.
#[test]
fn no_test_takes_in_a_file_of_another_package() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace_root()?.join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let mut found = Vec::new();
    for package in &metadata.packages {
        let folder = package.manifest_path.parent().context("no folder")?;
        found.extend(elsewhere::borrowed_by_tests(folder.as_std_path())?);
    }
    ensure_none(&found)
}

/// The lints that deny panics hold only where a package asks for them.
#[test]
fn every_package_takes_the_workspaces_lints() -> Result<()> {
    let root = workspace_root()?;
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()?;
    for package in &metadata.packages {
        let text = fs::read_to_string(&package.manifest_path)?;
        let mut lines = text.lines().skip_while(|line| *line != "[lints]").skip(1);
        ensure!(
            lines.next() == Some("workspace = true"),
            "{} does not take the workspace's lints",
            package.name
        );
    }
    Ok(())
}

/// What is promised is tested: a test that goes takes its name out of the page.
#[test]
fn every_test_that_the_threat_model_names_is_there() -> Result<()> {
    let root = workspace_root()?;
    let page = fs::read_to_string(root.join("docs/THREAT_MODEL.md"))?;
    let named = promises::named(&page).len();
    ensure!(named >= 390, "only {named} tests");
    ensure_none(&promises::missing(&root, &page)?)
}

/// Nor does the page that goes through the cases of Secsync outlive what it names.
#[test]
fn the_page_on_secsync_has_a_test_that_is_there_for_every_case() -> Result<()> {
    let root = workspace_root()?;
    let page = fs::read_to_string(root.join("docs/SECSYNC.md"))?;
    ensure_none(&promises::missing(&root, &page)?)?;
    let (wrong, suites, cases) = promises::miscounted(&page);
    ensure_none(&wrong)?;
    ensure!(
        (suites, cases) == (26, 170),
        "{cases} cases of {suites} suites"
    );
    Ok(())
}

/// Whoever looks for the place of a change is not sent where nothing is.
#[test]
fn the_table_of_places_names_files_that_are_there() -> Result<()> {
    let root = workspace_root()?;
    let page = fs::read_to_string(root.join("docs/ARCHITECTURE.md"))?;
    let (_, rest) = page
        .split_once("## Where do I change")
        .context("the page has no table of places")?;
    let table = rest.split("\n## ").next().unwrap_or_default();
    let named = table.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = named.filter(|it| it.contains('/')).collect();
    ensure!(paths.len() >= 40, "only {} places", paths.len());
    let gone = paths.iter().filter(|path| !root.join(path).exists());
    let gone: Vec<_> = gone.collect();
    ensure!(gone.is_empty(), "{gone:?}");
    Ok(())
}

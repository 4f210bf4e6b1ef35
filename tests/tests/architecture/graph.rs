//! The dependency graph, and the rules about who may reach whom.
//!
//! The rules work on a plain [`Graph`], so that they can be tried on small made-up ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata};

/// What a workspace package may import of the workspace.
#[derive(Clone, Copy, Debug)]
pub enum Imports {
    /// These alone.
    Only(&'static [&'static str]),
    /// These, and whatever they may import.
    Through(&'static [&'static str]),
}

use Imports::{Only, Through};

/// Which workspace packages each workspace package may import, from the bottom up. A package that is not listed is a violation, so that the
/// table stays complete.
pub const MAY_IMPORT: &[(&str, Imports)] = &[
    // For build scripts.
    ("conclave-breakages", Only(&[])),
    ("conclave-proto", Through(&["conclave-breakages"])),
    ("conclave-identity", Through(&["conclave-proto"])),
    ("conclave-rules", Through(&["conclave-identity"])),
    ("conclave-mls", Through(&["conclave-rules"])),
    ("conclave-order", Through(&["conclave-mls"])),
    ("conclave-crdt", Through(&["conclave-breakages"])),
    ("conclave-doc", Through(&["conclave-mls", "conclave-crdt"])),
    ("conclave-presence", Through(&["conclave-doc"])),
    ("conclave-engine", Through(&["conclave-presence"])),
    ("conclave-client", Through(&["conclave-engine"])),
    ("conclave-ds", Through(&["conclave-order"])),
    (
        "conclave-cli",
        Only(&["conclave-client", "conclave-ds", "conclave-breakages"]),
    ),
    (
        "conclave-examples",
        Only(&["conclave-client", "conclave-ds"]),
    ),
    // What tests share looks at everything but the command; only tests may import it.
    (
        "conclave-testkit",
        Through(&["conclave-client", "conclave-ds"]),
    ),
    // The tests look at everything; nothing may import them, nor the benchmarks.
    ("conclave-tests", Through(&["conclave-testkit"])),
    ("conclave-bench", Through(&["conclave-testkit"])),
    // The same for what a browser gets: no client, no service.
    ("conclave-wasm-tests", Through(&["conclave-engine"])),
    ("conclave-wasm-bundle", Only(&[])),
];

/// Packages that do no I/O and read no clock.
pub const SANS_IO: &[&str] = &[
    "conclave-proto",
    "conclave-identity",
    "conclave-rules",
    "conclave-mls",
    "conclave-order",
    "conclave-crdt",
    "conclave-doc",
    "conclave-presence",
    "conclave-engine",
];

/// Packages whose purpose is I/O: runtimes, sockets, databases, HTTP, file watching.
pub const IO_PACKAGES: &[&str] = &[
    "async-global-executor",
    "async-io",
    "async-net",
    "async-std",
    "axum",
    "axum-core",
    "crossterm",
    "curl",
    "diesel",
    "h2",
    "hyper",
    "hyper-util",
    "isahc",
    "libsqlite3-sys",
    "mio",
    "native-tls",
    "notify",
    "polling",
    "postgres",
    "quinn",
    "redb",
    "reqwest",
    "rocksdb",
    "rusqlite",
    "rustls",
    "signal-hook",
    "signal-hook-registry",
    "sled",
    "smol",
    "socket2",
    "sqlx",
    "sqlx-core",
    "sqlx-sqlite",
    "tempfile",
    "tokio",
    "tokio-postgres",
    "tokio-rustls",
    "tokio-tungstenite",
    "tokio-util",
    "tungstenite",
    "ureq",
];

/// Packages that would let the delivery service open a record.
pub const RECORD_OPENERS: &[&str] = &[
    "conclave-crdt",
    "conclave-doc",
    "conclave-presence",
    "conclave-engine",
    "yrs",
    "automerge",
    "loro",
    "diamond-types",
];

/// Packages that are there for development alone: never published, and reached by others for development only.
pub const DEV_ONLY: &[&str] = &["conclave-bench", "conclave-testkit", "conclave-tests"];

/// The one package that may name OpenMLS.
pub const OPENMLS_USER: &str = "conclave-mls";

/// A package as the rules see it.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// Its name. Several versions of one name are several packages.
    pub name: String,
    /// Names that a workspace package's manifest lists under normal and build dependencies, for
    /// any platform, optional or not.
    pub declared: BTreeSet<String>,
    /// The same, development dependencies included.
    pub declared_anywhere: BTreeSet<String>,
    /// What normal and build dependencies were resolved to, as keys of [`Graph::packages`].
    pub resolved: Vec<String>,
}

/// All packages, by package id.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Package id to package.
    pub packages: BTreeMap<String, Package>,
    /// Ids of the workspace's own packages.
    pub members: BTreeSet<String>,
}

impl Graph {
    /// Reads what `cargo metadata` reports.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        let resolve = metadata
            .resolve
            .as_ref()
            .context("cargo metadata gave no resolved graph")?;
        let mut graph = Self::default();
        for package in &metadata.packages {
            let mut entry = Package {
                name: package.name.to_string(),
                ..Package::default()
            };
            for dependency in &package.dependencies {
                let name = dependency.name.clone();
                if dependency.kind != DependencyKind::Development {
                    entry.declared.insert(name.clone());
                }
                entry.declared_anywhere.insert(name);
            }
            graph.packages.insert(package.id.repr.clone(), entry);
        }
        for node in &resolve.nodes {
            let used = node.deps.iter().filter(|dependency| {
                dependency
                    .dep_kinds
                    .iter()
                    .any(|kind| kind.kind != DependencyKind::Development)
            });
            let resolved = used.map(|dependency| dependency.pkg.repr.clone()).collect();
            match graph.packages.get_mut(&node.id.repr) {
                Some(package) => package.resolved = resolved,
                None => bail!("{} is resolved but not described", node.id.repr),
            }
        }
        let members = metadata.workspace_members.iter();
        graph.members = members.map(|id| id.repr.clone()).collect();
        Ok(graph)
    }

    /// The workspace's own packages.
    pub fn workspace(&self) -> impl Iterator<Item = &Package> {
        self.members.iter().filter_map(|id| self.packages.get(id))
    }

    fn member_id(&self, name: &str) -> Option<&String> {
        let is_named = |id: &&String| self.packages.get(*id).is_some_and(|it| it.name == name);
        self.members.iter().find(is_named)
    }

    /// For each forbidden name that `from` reaches: the shortest chain of names that leads there.
    pub fn chains_to(&self, from: &str, forbidden: &[&str]) -> Vec<Vec<String>> {
        let Some(start) = self.member_id(from) else {
            return Vec::new();
        };
        let mut came_from: BTreeMap<&String, Option<&String>> = BTreeMap::from([(start, None)]);
        let mut queue = VecDeque::from([start]);
        let mut chains = Vec::new();
        while let Some(id) = queue.pop_front() {
            let Some(package) = self.packages.get(id) else {
                continue;
            };
            if id != start && forbidden.contains(&package.name.as_str()) {
                chains.push(self.chain(id, &came_from));
            }
            for next in &package.resolved {
                if !came_from.contains_key(next) {
                    came_from.insert(next, Some(id));
                    queue.push_back(next);
                }
            }
        }
        chains
    }

    fn chain(&self, end: &String, came_from: &BTreeMap<&String, Option<&String>>) -> Vec<String> {
        let mut names = Vec::new();
        let mut at = Some(end);
        while let Some(id) = at {
            names.extend(self.packages.get(id).map(|package| package.name.clone()));
            at = came_from.get(id).copied().flatten();
        }
        names.reverse();
        names
    }
}

/// What each may import in all.
fn allowed(
    may_import: &[(&'static str, Imports)],
) -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut all = BTreeMap::<&str, BTreeSet<&str>>::new();
    for (name, imports) in may_import {
        let (Only(listed) | Through(listed)) = imports;
        let mut own: BTreeSet<&str> = listed.iter().copied().collect();
        if let Through(_) = imports {
            own.extend(listed.iter().filter_map(|it| all.get(it)).flatten());
        }
        all.insert(name, own);
    }
    all
}

/// Imports between workspace packages that go another way than the table says.
pub fn direction_violations(graph: &Graph, may_import: &[(&'static str, Imports)]) -> Vec<String> {
    let own: BTreeSet<&str> = graph.workspace().map(|it| it.name.as_str()).collect();
    let allowed = allowed(may_import);
    let mut found = Vec::new();
    for package in graph.workspace() {
        let name = package.name.as_str();
        let Some(allowed) = allowed.get(name) else {
            found.push(format!("{name} is not in the table of import directions"));
            continue;
        };
        for dependency in &package.declared {
            if own.contains(dependency.as_str()) && !allowed.contains(dependency.as_str()) {
                found.push(format!("{name} must not import {dependency}"));
            }
        }
    }
    for (listed, _) in may_import {
        if !own.contains(listed) {
            found.push(format!("{listed} is in the table but not in the workspace"));
        }
    }
    found
}

/// Packages that list one of `dev_only` as more than a development dependency, and are not themselves of that kind.
pub fn development_violations(graph: &Graph, dev_only: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for package in graph.workspace() {
        let name = package.name.as_str();
        if dev_only.contains(&name) {
            continue;
        }
        for dependency in &package.declared {
            if dev_only.contains(&dependency.as_str()) {
                found.push(format!("{name} needs {dependency} in what it ships"));
            }
        }
    }
    for listed in dev_only {
        if graph.member_id(listed).is_none() {
            found.push(format!("{listed} is not in the workspace"));
        }
    }
    found
}

/// Forbidden packages that any of `from` reaches, over any number of steps.
pub fn reach_violations(graph: &Graph, from: &[&str], forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for name in from {
        if graph.member_id(name).is_none() {
            found.push(format!("{name} is not in the workspace"));
        }
        for chain in graph.chains_to(name, forbidden) {
            found.push(format!("forbidden: {}", chain.join(" -> ")));
        }
    }
    found
}

/// Workspace packages other than `user` that list a package whose name starts with `prefix`, be
/// it for development only; `forger` may do that, and whoever is there for development alone.
pub fn naming_violations(
    graph: &Graph,
    prefix: &str,
    user: &str,
    forger: &str,
    dev_only: &[&str],
) -> Vec<String> {
    let mut found = Vec::new();
    let ships = |it: &&Package| it.name != user && !dev_only.contains(&it.name.as_str());
    for package in graph.workspace().filter(ships) {
        let named = match package.name == forger {
            true => &package.declared,
            false => &package.declared_anywhere,
        };
        for dependency in named {
            if dependency.starts_with(prefix) {
                let name = &package.name;
                found.push(format!("{name} names {dependency}; only {user} may"));
            }
        }
    }
    found
}

//! Modules of tests that lie elsewhere than their names say: in their own package all the same. What packages share is in the testkit.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use crate::scan::collect;

/// What a file of a package takes in by `#[path]` from outside the package.
pub fn borrowed(package: &Path, file: &Path, source: &str) -> Vec<String> {
    let home = file.parent().unwrap_or(file);
    let mut found = Vec::new();
    for line in source.lines() {
        let path = line.trim().strip_prefix("#[path = \"");
        let Some(path) = path.and_then(|rest| rest.strip_suffix("\"]")) else {
            continue;
        };
        if !normal(&home.join(path)).starts_with(package) {
            found.push(format!("{} takes in {path}", file.display()));
        }
    }
    found
}

/// The path without its steps back.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for step in path.components() {
        match step {
            Component::ParentDir => _ = normal.pop(),
            Component::CurDir => {}
            step => normal.push(step),
        }
    }
    normal
}

/// The same of all tests of a package.
pub fn borrowed_by_tests(package: &Path) -> Result<Vec<String>> {
    let (tests, mut files) = (package.join("tests"), Vec::new());
    if tests.is_dir() {
        collect(&tests, &mut files)?;
    }
    let mut found = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        found.extend(borrowed(package, &file, &source));
    }
    Ok(found)
}

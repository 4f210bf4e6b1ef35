//! The sources of a tree: of the working copy, or of a commit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use syn::{Attribute, File, Item};

/// Where sources are read from.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
    commit: Option<String>,
}

/// One source file.
pub struct Source {
    /// Path from the root of the workspace.
    pub path: String,
    /// What stands in it.
    pub text: String,
    /// The same, read.
    pub file: File,
}

impl Tree {
    /// The working copy below a folder.
    #[must_use]
    pub fn here(root: &Path) -> Self {
        let root = root.to_owned();
        Self { root, commit: None }
    }

    /// A commit of the repository there.
    #[must_use]
    pub fn of_commit(root: &Path, commit: &str) -> Self {
        let commit = Some(commit.to_owned());
        Self {
            commit,
            ..Self::here(root)
        }
    }

    /// All Rust files that are in the repository, by path.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn sources(&self) -> Result<Vec<Source>> {
        let listed = match &self.commit {
            Some(commit) => self.git(&["ls-tree", "-r", "--name-only", commit])?,
            None => self.git(&["ls-files", "--cached", "--others", "--exclude-standard"])?,
        };
        let mut paths: Vec<&str> = listed
            .lines()
            .filter(|path| path.ends_with(".rs"))
            .collect();
        paths.sort_unstable();
        let mut sources = Vec::new();
        for path in paths {
            // A file that is deleted and still known to git is none.
            if let Some(text) = self.text(path)? {
                sources.push(Source::read(path, text)?);
            }
        }
        Ok(sources)
    }

    fn text(&self, path: &str) -> Result<Option<String>> {
        match &self.commit {
            Some(commit) => self.git(&["show", &format!("{commit}:{path}")]).map(Some),
            None if self.root.join(path).exists() => {
                Ok(Some(fs::read_to_string(self.root.join(path))?))
            }
            None => Ok(None),
        }
    }

    fn git(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("git")
            .current_dir(&self.root)
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("git: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Source {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is no Rust.
    pub fn read(path: &str, text: String) -> Result<Self> {
        let file = syn::parse_file(&text).with_context(|| path.to_owned())?;
        Ok(Self {
            path: path.to_owned(),
            text,
            file,
        })
    }

    /// Whether it stands in a folder of tests, or is the file of a test module.
    #[must_use]
    pub fn is_test(&self) -> bool {
        let mut parts = self.path.split('/').skip(1);
        let file_of_tests = self.path.ends_with("/tests.rs") || self.path.ends_with("_tests.rs");
        file_of_tests || parts.any(|part| part == "tests")
    }

    /// Its items, without those that exist in test builds only.
    pub fn product_items(&self) -> impl Iterator<Item = Item> {
        self.file.items.iter().filter_map(product)
    }
}

/// An item as it is outside test builds; none where it is not there.
fn product(item: &Item) -> Option<Item> {
    if attributes(item).iter().any(is_for_tests) {
        return None;
    }
    let mut item = item.clone();
    if let Item::Mod(module) = &mut item
        && let Some((_, items)) = &mut module.content
    {
        *items = items.iter().filter_map(product).collect();
    }
    Some(item)
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Enum(it) => &it.attrs,
        Item::Fn(it) => &it.attrs,
        Item::Impl(it) => &it.attrs,
        Item::Mod(it) => &it.attrs,
        Item::Struct(it) => &it.attrs,
        Item::Trait(it) => &it.attrs,
        Item::Type(it) => &it.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let Ok(list) = attribute.meta.require_list() else {
        return false;
    };
    let condition = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
}

#[cfg(test)]
pub(crate) fn source(path: &str, text: &str) -> Source {
    Source::read(path, text.to_owned()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_in_test_builds_only_is_left_out() {
        let text = "
            fn a() {}
            #[cfg(test)] mod tests { fn b() {} }
            #[cfg(all(test, unix))] fn c() {}
            #[cfg(not(test))] fn d() {}
            mod inner { #[cfg(test)] fn e() {} fn f() {} }";
        let names: Vec<String> = source("src/a.rs", text)
            .product_items()
            .map(|item| match item {
                Item::Fn(it) => it.sig.ident.to_string(),
                Item::Mod(it) => format!("{} {}", it.ident, it.content.unwrap().1.len()),
                _ => String::new(),
            })
            .collect();
        assert_eq!(names, ["a", "d", "inner 1"]);
    }

    #[test]
    fn test_files_are_known_by_their_place() {
        for (path, is_test) in [
            ("crates/a/src/lib.rs", false),
            ("crates/a/src/x/tests.rs", true),
            ("crates/a/src/x_tests.rs", true),
            ("crates/a/tests/it/main.rs", true),
            ("tests/tests/race.rs", true),
            ("tests/src/lib.rs", false),
        ] {
            assert_eq!(source(path, "").is_test(), is_test, "{path}");
        }
    }

    #[test]
    fn a_commit_is_read_beside_the_working_copy() {
        let folder = tempfile::tempdir().unwrap();
        let here = Tree::here(folder.path());
        let name = ["-c", "user.name=a", "-c", "user.email=a@b"];
        here.git(&["init", "-q"]).unwrap();
        fs::write(folder.path().join("a.rs"), "fn before() {}").unwrap();
        here.git(&["add", "."]).unwrap();
        here.git(&[&name[..], &["commit", "-q", "-m", "one"]].concat())
            .unwrap();
        fs::write(folder.path().join("a.rs"), "fn after() {}").unwrap();
        fs::write(folder.path().join("b.rs"), "").unwrap();
        let texts = |tree: Tree| -> Vec<String> {
            let sources = tree.sources().unwrap();
            sources.into_iter().map(|source| source.text).collect()
        };
        assert_eq!(texts(here), ["fn after() {}", ""]);
        assert_eq!(
            texts(Tree::of_commit(folder.path(), "HEAD")),
            ["fn before() {}"]
        );
        assert!(Tree::of_commit(folder.path(), "none").sources().is_err());
    }
}

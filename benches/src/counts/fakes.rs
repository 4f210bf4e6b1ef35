//! Lines of services that only tests have: of a type `Service` defined below a folder of tests. Where a module bears its name all of the
//! module counts, elsewhere the type and what is implemented for it.

use std::collections::BTreeMap;

use syn::Item;

use super::{Count, Source};

const NAME: &str = "Service";
const MODULE: &str = "service";

pub(super) fn count(sources: &[Source]) -> Count {
    let mut lines = BTreeMap::new();
    for definer in sources.iter().filter(|it| it.is_test() && defines(it)) {
        match module(&definer.path) {
            Some(module) => {
                let files = sources.iter().filter(|it| it.path.starts_with(&module));
                lines.extend(files.map(|it| (it.path.clone(), it.text.lines().count())));
            }
            None => {
                lines.insert(definer.path.clone(), of_items(definer));
            }
        }
    }
    Count {
        what: "lines of fake services in tests",
        found: lines.into_iter().collect(),
    }
}

fn defines(source: &Source) -> bool {
    let mut items = source.file.items.iter();
    items.any(|item| matches!(item, Item::Struct(it) if it.ident == NAME))
}

/// What the paths of all files of the module begin with, where this file is its first.
fn module(path: &str) -> Option<String> {
    let module = path
        .strip_suffix("/mod.rs")
        .or_else(|| path.strip_suffix(".rs"))?;
    let named = module.rsplit('/').next() == Some(MODULE);
    named.then(|| module.to_owned())
}

/// Lines of the type and of what is implemented for it. In formatted sources an item ends where a line begins with its last brace.
fn of_items(source: &Source) -> usize {
    let (mut lines, mut inside) = (0, false);
    for line in source.text.lines() {
        let begins = begins(line);
        lines += usize::from(inside || begins);
        inside = (inside || begins && line.ends_with('{')) && !line.starts_with('}');
    }
    lines
}

fn begins(line: &str) -> bool {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let mut words = line.split_whitespace();
    let is_item = matches!(words.next(), Some("struct" | "impl"));
    let of = words.take_while(|word| *word != "{").last();
    is_item && of.map(|word| word.trim_end_matches(';')) == Some(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::tree::source;

    #[test]
    fn a_module_counts_whole_and_a_type_among_others_by_itself() {
        let sources = [
            source(
                "crates/a/tests/it/service/mod.rs",
                "pub struct Service;\nfn f() {}\n",
            ),
            source("crates/a/tests/it/service/log.rs", "struct Log;\n"),
            source("crates/a/tests/it/main.rs", "mod service;\n"),
            source(
                "crates/b/tests/common/mod.rs",
                "struct Other;\n#[derive(Debug)]\npub struct Service {\n    a: u8,\n}\n\nimpl Service {\n    fn f() {\n    }\n}\n\
                 impl Other {\n    fn g() {}\n}\nimpl Drop for Service {\n}\nstruct ServiceOf {\n    a: u8,\n}\n",
            ),
            source("crates/c/src/service.rs", "pub struct Service;\n"),
            source(
                "crates/c/tests/it/harness.rs",
                "pub struct TestService;\nuse c::Service;\n",
            ),
        ];
        assert_eq!(
            count(&sources).found,
            [
                ("crates/a/tests/it/service/log.rs".to_owned(), 1),
                ("crates/a/tests/it/service/mod.rs".to_owned(), 2),
                ("crates/b/tests/common/mod.rs".to_owned(), 9),
            ]
        );
    }
}

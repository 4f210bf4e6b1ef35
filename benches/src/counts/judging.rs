//! Places that judge records: trees in which a function itself finds out whether a record follows its author's last one.

use std::collections::BTreeSet;

use syn::visit::{self, Visit};
use syn::{Attribute, ExprPath, ExprStruct, ImplItemFn, ItemFn, Pat, Path};

use super::{Count, Source};

/// What is said of a record that does not follow.
const VERDICTS: [(&str, &str); 4] = [
    ("RecordFault", "Gap"),
    ("RecordFault", "Prev"),
    ("RecordFault", "Replayed"),
    ("Refusal", "ClockGap"),
];
/// Where they are defined, and where tests expect them.
const NAMED_ONLY: [&str; 3] = [
    "crates/conclave-proto/",
    "crates/conclave-testkit/src/decoders/",
    "crates/conclave-testkit/src/suite/",
];

pub(super) fn count(sources: &[Source]) -> Count {
    let judging = sources.iter().filter(|source| judges(source));
    let places: BTreeSet<String> = judging.map(|source| place(&source.path)).collect();
    Count {
        what: "places that judge records",
        found: places.into_iter().map(|place| (place, 1)).collect(),
    }
}

fn judges(source: &Source) -> bool {
    let mut found = Found(false);
    found.visit_file(&source.file);
    let named_only = NAMED_ONLY.iter().any(|path| source.path.starts_with(path));
    found.0 && !named_only
}

/// The package's sources or its tests: a path up to `src` or `tests`.
fn place(path: &str) -> String {
    let mut place = Vec::new();
    for (at, part) in path.split('/').enumerate() {
        place.push(part);
        // The package `tests` has both below it.
        if at > 0 && (part == "src" || part == "tests") {
            break;
        }
    }
    place.join("/")
}

struct Found(bool);

impl<'a> Visit<'a> for Found {
    fn visit_item_fn(&mut self, function: &'a ItemFn) {
        if !function.attrs.iter().any(is_test) {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a ImplItemFn) {
        if !function.attrs.iter().any(is_test) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_expr_path(&mut self, path: &'a ExprPath) {
        self.0 |= is_verdict(&path.path);
    }

    fn visit_expr_struct(&mut self, made: &'a ExprStruct) {
        self.0 |= is_verdict(&made.path);
        visit::visit_expr_struct(self, made);
    }

    /// Whoever looks at a verdict does not pass it.
    fn visit_pat(&mut self, _: &'a Pat) {}
}

fn is_test(attribute: &Attribute) -> bool {
    let last = attribute.path().segments.last();
    last.is_some_and(|it| it.ident == "test")
}

fn is_verdict(path: &Path) -> bool {
    let mut segments = path.segments.iter().rev();
    let (Some(value), Some(of)) = (segments.next(), segments.next()) else {
        return false;
    };
    let is = |(a, b): &(&str, &str)| of.ident == *a && value.ident == *b;
    VERDICTS.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::tree::source;

    #[test]
    fn only_who_passes_a_verdict_judges() {
        for (text, judging) in [
            ("fn f() -> R { Err(RecordFault::Prev) }", true),
            (
                "fn f() -> R { Err(Refusal::ClockGap { expected: 1 }) }",
                true,
            ),
            (
                "impl A { fn f(&self) { g(proto::RecordFault::Gap) } }",
                true,
            ),
            (
                "fn f(a: A) -> R { match a { A::B => RecordFault::Replayed } }",
                true,
            ),
            (
                "fn f(a: R) -> u8 { match a { RecordFault::Prev => 1 } }",
                false,
            ),
            (
                "fn f(a: R) { if let Refusal::ClockGap { expected } = a {} }",
                false,
            ),
            ("fn f() -> R { Err(RecordFault::Open) }", false),
            ("#[test] fn f() { g(RecordFault::Prev) }", false),
            (
                "#[tokio::test] async fn f() { g(RecordFault::Prev) }",
                false,
            ),
            ("enum RecordFault { Prev, Gap }", false),
        ] {
            let file = source("crates/a/src/x.rs", text);
            assert_eq!(judges(&file), judging, "{text}");
        }
        let judge = "fn f() -> R { Err(RecordFault::Prev) }";
        let defined = source("crates/conclave-proto/src/x.rs", judge);
        assert!(!judges(&defined));
    }

    #[test]
    fn a_place_is_a_packages_sources_or_its_tests() {
        let judge = "fn f() -> R { Err(RecordFault::Prev) }";
        let paths = [
            "crates/a/src/x.rs",
            "crates/a/src/y/z.rs",
            "crates/a/tests/it/x.rs",
            "delivery-service/src/x.rs",
            "tests/src/x.rs",
            "tests/tests/x/y.rs",
        ];
        let sources = paths.map(|path| source(path, judge));
        let found: Vec<String> = count(&sources).found.into_iter().map(|it| it.0).collect();
        assert_eq!(
            found,
            [
                "crates/a/src",
                "crates/a/tests",
                "delivery-service/src",
                "tests/src",
                "tests/tests"
            ]
        );
    }
}

//! Tests that pages name: each is there, and is run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::lexer::{Kind, Token, lex};

/// Where a check is an ordinary function, and one list makes it a test on each backend.
const SUITE: &str = "crates/conclave-testkit/src/suite";

/// Tests that a page names, as paths and functions.
pub fn named(page: &str) -> Vec<(&str, &str)> {
    let spans = page.split('`').skip(1).step_by(2);
    let tests = spans.filter_map(|span| span.split_once("::"));
    tests.filter(|(path, _)| path.ends_with(".rs")).collect()
}

/// Those of them that no run would run.
pub fn missing(root: &Path, page: &str) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for (path, name) in named(page) {
        let file = root.join(path);
        let source = fs::read_to_string(&file).unwrap_or_default();
        let there = match path.strip_prefix(SUITE) {
            Some(check) => {
                let list = root.join(SUITE).join("mod.rs");
                let list = fs::read_to_string(&list).context("the suite has no list")?;
                let module = check.trim_start_matches('/').trim_end_matches(".rs");
                has_function(&source, name) && is_listed(&list, module, name)
            }
            None => has_test(&source, name),
        };
        if !there {
            missing.push(format!("{path}::{name}"));
        }
    }
    Ok(missing)
}

/// What is wrong with the tables of a page that goes through another project's suites: rows for more or fewer cases than a suite has, and rows without a
/// test. With how many suites and cases there are.
pub fn miscounted(page: &str) -> (Vec<String>, usize, usize) {
    let (mut wrong, mut suites, mut cases) = (Vec::new(), 0, 0);
    for section in page.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let Some((name, count)) = title.rsplit_once(": ") else {
            continue;
        };
        let Ok(count) = count.parse::<usize>() else {
            continue;
        };
        let mut counted = 0;
        for row in section.lines().filter(|line| line.starts_with("| ")) {
            let of_row = row.split(" | ").nth(1).and_then(|it| it.parse().ok());
            // The heading of the table has no number.
            let Some(of_row): Option<usize> = of_row else {
                continue;
            };
            counted += of_row;
            if named(row).is_empty() {
                wrong.push(format!("{name}: no test in {row}"));
            }
        }
        if counted != count {
            wrong.push(format!("{name}: {counted} of {count} cases"));
        }
        suites += 1;
        cases += counted;
    }
    (wrong, suites, cases)
}

/// Whether a source has a test of this name: a function that says it is one, or what a macro among the items makes one of.
pub fn has_test(source: &str, name: &str) -> bool {
    let tokens = lex(source);
    let functions = functions(&tokens, name);
    functions.into_iter().any(|at| is_test(&tokens, at)) || is_made(&tokens, name)
}

fn has_function(source: &str, name: &str) -> bool {
    !functions(&lex(source), name).is_empty()
}

/// Where functions of this name begin.
fn functions(tokens: &[Token], name: &str) -> Vec<usize> {
    let pairs = tokens.windows(2).enumerate();
    let found = pairs.filter(
        |(_, pair)| matches!(pair, [keyword, it] if keyword.is_word("fn") && it.is_word(name)),
    );
    found.map(|(at, _)| at).collect()
}

/// Whether one of the attributes before a function ends with `test`, as `#[tokio::test(…)]` does.
fn is_test(tokens: &[Token], function: usize) -> bool {
    let before = tokens.get(..function).unwrap_or_default();
    // Back to the end of what stands before its attributes.
    let begin = before
        .iter()
        .rposition(|it| it.is_mark(';') || it.is_mark('}') || it.is_mark('{'));
    let attributes = before
        .get(begin.map_or(0, |at| at + 1)..)
        .unwrap_or_default();
    attributes.windows(2).any(|pair| {
        matches!(pair, [test, end] if test.is_word("test") && (end.is_mark(']') || end.is_mark('(')))
    })
}

/// Whether the name stands first in an item of the list that a macro is given: `cases!(name, …)`, `phases! { name: Phase, … }`.
fn is_made(tokens: &[Token], name: &str) -> bool {
    let (mut depth, mut opened) = (0usize, None);
    for (at, token) in tokens.iter().enumerate() {
        let before = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
        match token.kind {
            Kind::Mark('(' | '{' | '[') => {
                let called = before(1).is_some_and(|it| it.is_mark('!'))
                    && before(2).is_some_and(|it| matches!(it.kind, Kind::Word(_)));
                if depth == 0 && called {
                    opened = Some(at);
                }
                depth += 1;
            }
            Kind::Mark(')' | '}' | ']') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    opened = None;
                }
            }
            Kind::Word(_) if depth == 1 && opened.is_some() && token.is_word(name) => {
                let begins = opened.is_some_and(|open| open + 1 == at)
                    || before(1).is_some_and(|it| it.is_mark(','));
                let next = tokens.get(at + 1);
                let ends = next.is_some_and(|it| {
                    it.is_mark(',') || it.is_mark(':') || it.is_mark(')') || it.is_mark('}')
                });
                if begins && ends {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

/// Whether a list names a check of a module.
fn is_listed(list: &str, module: &str, name: &str) -> bool {
    lex(list).windows(4).any(|path| {
        matches!(path, [of, a, b, it]
            if of.is_word(module) && a.is_mark(':') && b.is_mark(':') && it.is_word(name))
    })
}

#[test]
fn a_test_is_told_from_what_is_none() {
    let source = "
        /// Says fn in_a_comment().
        fn helper() { let fn_ = \"fn in_a_string()\"; }
        #[test]
        fn plain() { inner!(deep, x); }
        #[tokio::test(flavor = \"multi_thread\")]
        async fn over_time() {}
        proptest! { #[test] fn of_any(x in 0..3) {} }
        phases! { first: Edit, second: Race, }
        cases!(one, two);
        struct S { member: u8, other: u8 }
    ";
    for name in [
        "plain",
        "over_time",
        "of_any",
        "first",
        "second",
        "one",
        "two",
    ] {
        assert!(has_test(source, name), "{name}");
    }
    for name in [
        "helper",
        "in_a_comment",
        "in_a_string",
        "deep",
        "x",
        "Edit",
        "member",
        "other",
        "inner",
    ] {
        assert!(!has_test(source, name), "{name}");
    }
    let list = "@each $database; usage::counters, groups::two,";
    assert!(is_listed(list, "usage", "counters"));
    assert!(!is_listed(list, "groups", "counters"));
    assert_eq!(
        named("| a `x/y.rs::t`<br>`z.rs::u` | `::` | `no::test` |"),
        [("x/y.rs", "t"), ("z.rs", "u")]
    );
}

#[test]
fn rows_that_do_not_add_up_are_found() {
    let row = |count: &str, test: &str| format!("| a case | {count} | what is done | {test} |\n");
    let page =
        |rows: &str| format!("# Page\n\n## One: 3\n\n| Case | Cases |\n{rows}\n## No suite\n");
    let test = "`x/y.rs::t`";
    let good = page(&(row("2", test) + &row("1", test)));
    assert_eq!(miscounted(&good), (vec![], 1, 3));
    let fewer = page(&row("2", test));
    assert_eq!(
        miscounted(&fewer),
        (vec!["One: 2 of 3 cases".to_owned()], 1, 2)
    );
    let (wrong, ..) = miscounted(&page(&(row("2", test) + &row("1", "none"))));
    assert_eq!(wrong.len(), 1, "{wrong:?}");
}

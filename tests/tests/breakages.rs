//! The table of breakages agrees with the switches there are, with the tests there are, and with what people read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use conclave_tests::breakages::{
    HEADER, build_arguments, committed, declared, folders, mismatches, packages, parse, render,
    with_section, workspace_root,
};

#[test]
fn every_breakage_has_a_row_and_every_row_a_breakage() -> Result<()> {
    let wrong = mismatches(&committed()?, &declared(&packages()?)?);
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_section_for_people_is_up_to_date() -> Result<()> {
    let document = fs::read_to_string(workspace_root()?.join("docs/TESTING.md"))?;
    let fresh = with_section(&document, &render(&committed()?))?;
    ensure!(
        fresh == document,
        "docs/TESTING.md is out of date: cargo run -p conclave-tests --bin breakages -- table"
    );
    Ok(())
}

/// All Rust text below a folder.
fn sources(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            text.push_str(&sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(text)
}

/// Nothing asks for a switch that is not in the table: a build would not notice.
#[test]
fn no_other_switch_is_asked_for() -> Result<()> {
    let rows = committed()?;
    for (package, folder) in folders(&packages()?) {
        let folder = folder.join("src");
        if package == "conclave-breakages" || package == "conclave-tests" || !folder.is_dir() {
            continue;
        }
        let asked = sources(&folder)?.matches("broken(\"").count();
        let own = rows.iter().filter(|row| row.owner == package).count();
        ensure!(
            asked == own,
            "{package} asks for {asked} switches and has {own}"
        );
    }
    Ok(())
}

/// A switch is thrown in one place, and the test that the row names is there to fail.
#[test]
fn every_switch_is_in_one_place_and_its_test_exists() -> Result<()> {
    let folders = folders(&packages()?);
    let mut wrong = Vec::new();
    for row in committed()? {
        let folder = folders.get(&row.owner).context(row.owner.clone())?;
        let gate = format!("broken(\"{}\")", row.switch);
        let places = sources(&folder.join("src"))?.matches(&gate).count();
        if places != 1 {
            wrong.push(format!("{}: {places} places", row.switch));
        }
        let folder = folders.get(&row.package).context(row.package.clone())?;
        let (tests, path) = match row.target.as_str() {
            "lib" => (folder.join("src"), None),
            target => {
                let tests = folder.join("tests");
                let file = tests.join(format!("{target}.rs"));
                if file.exists() {
                    (tests, Some(file))
                } else {
                    (tests.join(target), None)
                }
            }
        };
        let text = match path {
            Some(file) => fs::read_to_string(file)?,
            None => sources(&tests)?,
        };
        let name = row.test.rsplit("::").next().unwrap_or_default();
        if !text.contains(&format!("fn {name}(")) {
            wrong.push(format!("{}: no test {}", row.switch, row.test));
        }
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_table_that_is_wrong_is_found() -> Result<()> {
    let row = |switch: &str| format!("{switch}\tcrate\tcrate\tlib\tit::fails\twords\n");
    let table = format!("{HEADER}\n{}{}", row("a"), row("b"));
    let rows = parse(&table)?;
    ensure!(
        rows.len() == 2 && render(&rows).contains("| `crate/b` | words | `it::fails` (crate) |")
    );
    ensure!(parse(&row("a")).is_err(), "no header");
    ensure!(parse(&format!("{HEADER}\n{}{}", row("b"), row("a"))).is_err());
    ensure!(parse(&format!("{HEADER}\n{}{}", row("a"), row("a"))).is_err());
    ensure!(parse(&format!("{HEADER}\na\tcrate\n")).is_err());
    ensure!(parse(&format!("{HEADER}\na\tcrate\tcrate\tlib\t\twords\n")).is_err());

    let switch = |name: &str| ("crate".to_owned(), name.to_owned());
    let both = BTreeSet::from([switch("a"), switch("b")]);
    ensure!(mismatches(&rows, &both).is_empty());
    let other = BTreeSet::from([switch("a"), switch("c")]);
    ensure!(
        mismatches(&rows, &other)
            == [
                "crate/c has no row in tests/breakages.tsv",
                "crate/b is in no build.rs"
            ]
    );
    ensure!(with_section("text without marks", "x").is_err());
    Ok(())
}

#[test]
fn tests_are_built_as_the_whole_workspace_builds_them() -> Result<()> {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    let lines = [
        "a\tconclave-doc\tconclave-doc\town\tmodule::fails\twords",
        "a\tconclave-proto\tconclave-proto\tlib\tmodule::fails\twords",
    ];
    let rows = parse(&format!("{HEADER}\n{}\n", lines.join("\n")))?;
    let profiles = "--config profile.dev.package.conclave-doc.debug=false --config profile.dev.package.conclave-proto.debug=false";
    let expected = [
        format!("{profiles} --test own --workspace"),
        format!(
            "{profiles} --package conclave-proto --package conclave-cli --package conclave-crdt --lib"
        ),
    ];
    let expected: Vec<_> = expected.iter().map(|line| words(line)).collect();
    ensure!(
        build_arguments(&rows) == expected,
        "{:?}",
        build_arguments(&rows)
    );
    ensure!(
        build_arguments(&rows[..1]).len() == 1,
        "nothing of libraries"
    );
    Ok(())
}

//! The checks can fail: each is tried on something small that breaks its rule.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::decoding::{Found, gaps, reading_functions};
use crate::elsewhere::borrowed;
use crate::graph::{
    Graph,
    Imports::{Only, Through},
    Package, development_violations, direction_violations, naming_violations, reach_violations,
};
use crate::lexer::{Kind, lex};
use crate::places::Reached;
use crate::scan::{scan_folder, scan_source};

/// A graph in which every name is an id. Packages with a star are the workspace's.
fn graph_of(edges: &[(&str, &[&str])]) -> Graph {
    let mut graph = Graph::default();
    for (name, targets) in edges {
        let is_member = name.starts_with('*');
        let name = name.trim_start_matches('*').to_owned();
        let names: BTreeSet<String> = targets.iter().map(|it| (*it).to_owned()).collect();
        if is_member {
            graph.members.insert(name.clone());
        }
        let package = Package {
            name: name.clone(),
            declared: names.clone(),
            declared_anywhere: names.clone(),
            resolved: names.into_iter().collect(),
        };
        graph.packages.insert(name, package);
    }
    graph
}

#[test]
fn an_import_the_wrong_way_is_found() {
    let table = &[("low", Only(&[])), ("high", Through(&["low"]))];
    let good = graph_of(&[("*low", &["serde"]), ("*high", &["low"]), ("serde", &[])]);
    assert_eq!(direction_violations(&good, table), Vec::<String>::new());

    let backwards = graph_of(&[("*low", &["high"]), ("*high", &[])]);
    assert_eq!(
        direction_violations(&backwards, table),
        ["low must not import high"]
    );
    let unlisted = graph_of(&[("*low", &[]), ("*high", &[]), ("*new", &[])]);
    assert_eq!(
        direction_violations(&unlisted, table),
        ["new is not in the table of import directions"]
    );
    let gone = graph_of(&[("*low", &[])]);
    assert_eq!(
        direction_violations(&gone, table),
        ["high is in the table but not in the workspace"]
    );
}

#[test]
fn whoever_may_import_only_what_is_listed_does_not_reach_past_it() {
    let past = graph_of(&[("*low", &[]), ("*middle", &["low"]), ("*high", &["low"])]);
    let low = ("low", Only(&[]));
    let middle = ("middle", Through(&["low"]));
    let through = [low, middle, ("high", Through(&["middle"]))];
    assert_eq!(direction_violations(&past, &through), Vec::<String>::new());
    for table in [
        [low, middle, ("high", Only(&["middle"]))],
        // Nothing is had through what stands further down.
        [("high", Through(&["middle"])), low, middle],
    ] {
        assert_eq!(
            direction_violations(&past, &table),
            ["high must not import low"]
        );
    }
}

#[test]
fn a_forbidden_package_is_found_at_any_distance_with_the_way_there() {
    let graph = graph_of(&[
        ("*low", &["a"]),
        ("*high", &["tokio"]),
        ("a", &["b", "c"]),
        ("b", &["a"]),
        ("c", &["mio"]),
        ("mio", &[]),
        ("tokio", &["mio"]),
    ]);
    assert_eq!(
        reach_violations(&graph, &["low"], &["tokio", "mio"]),
        ["forbidden: low -> a -> c -> mio"]
    );
    assert_eq!(
        reach_violations(&graph, &["high"], &["mio"]),
        ["forbidden: high -> tokio -> mio"]
    );
    assert!(reach_violations(&graph, &["low"], &["tokio"]).is_empty());
    // A misspelt name must not pass as clean.
    assert_eq!(
        reach_violations(&graph, &["lwo"], &["tokio"]),
        ["lwo is not in the workspace"]
    );
}

#[test]
fn what_is_for_development_is_found_in_what_is_shipped() {
    let dev_only = ["bench", "kit"];
    let mut graph = graph_of(&[("*low", &[]), ("*bench", &["kit"]), ("*kit", &["low"])]);
    if let Some(low) = graph.packages.get_mut("low") {
        low.declared_anywhere.insert("kit".to_owned());
    }
    assert!(development_violations(&graph, &dev_only).is_empty());
    if let Some(low) = graph.packages.get_mut("low") {
        low.declared.insert("kit".to_owned());
    }
    assert_eq!(
        development_violations(&graph, &dev_only),
        ["low needs kit in what it ships"]
    );
    assert_eq!(
        development_violations(&graph, &["gone"]),
        ["gone is not in the workspace"]
    );
}

#[test]
fn naming_a_package_is_found_even_for_development() {
    let mut graph = graph_of(&[("*mls", &["openmls"]), ("*doc", &[]), ("openmls", &[])]);
    assert!(naming_violations(&graph, "openmls", "mls", "ds", &[]).is_empty());
    if let Some(doc) = graph.packages.get_mut("doc") {
        doc.declared_anywhere.insert("openmls_traits".to_owned());
    }
    assert_eq!(
        naming_violations(&graph, "openmls", "mls", "ds", &[]),
        ["doc names openmls_traits; only mls may"]
    );
    assert!(naming_violations(&graph, "openmls", "mls", "ds", &["doc"]).is_empty());
}

/// What the scan finds, as `line:what`.
fn findings(source: &str) -> Vec<String> {
    let found = scan_source(source);
    let found = found.iter();
    found.map(|it| format!("{}:{}", it.line, it.what)).collect()
}

#[test]
fn every_spelling_of_a_forbidden_name_is_found() {
    for (source, expected) in [
        ("use std::fs;", "1:std::fs"),
        ("fn f() { ::std::fs::read(p) }", "1:std::fs::read"),
        ("use std :: net :: TcpStream;", "1:std::net::TcpStream"),
        ("use std::{fmt,\n    env};", "2:std::env"),
        (
            "use std::{fmt, io::{self, Read}, thread::{self, Thread}};",
            "1:std::thread::self",
        ),
        ("use {std::process};", "1:std::process"),
        ("use std::fs as files;", "1:std::fs"),
        ("use std as s;", "1:std as"),
        ("use std::{self as s};", "1:std::self as"),
        ("extern crate std as s;", "1:std as"),
        ("use std::*;", "1:std::*"),
        ("use std::thread::*;", "1:std::thread::*"),
        ("let t: Instant = x;", "1:Instant"),
        ("use web_time::SystemTime;", "1:SystemTime"),
        ("println!(\"x\");", "1:println!"),
        ("eprint ! {}", "1:eprint!"),
        ("let x = r#std::fs::read(p);", "1:std::fs::read"),
        ("let e = OsRng;", "1:OsRng"),
        ("let a = 'a'; std::env::var(\"X\")", "1:std::env::var"),
        ("let a = '\\''; std::fs::read(p)", "1:std::fs::read"),
        (
            "fn f<'a>(x: &'a str) { std::fs::read(x) }",
            "1:std::fs::read",
        ),
        (
            "let s = r#\"\"quoted\"\"#; std::fs::read(s)",
            "1:std::fs::read",
        ),
        ("let s = \"\\\\\"; std::fs::read(s)", "1:std::fs::read"),
        ("let s = b'\"'; std::fs::read(s)", "1:std::fs::read"),
        ("/* /* */ */ std::fs::read(s)", "1:std::fs::read"),
        ("for i in 0..3 { std::fs::read(i) }", "1:std::fs::read"),
        ("std::io::stdout().flush()", "1:std::io::stdout"),
    ] {
        let found = findings(source);
        assert!(
            found.iter().any(|it| it == expected),
            "{source}: {found:?} lacks {expected}"
        );
    }
}

#[test]
fn what_only_looks_forbidden_is_let_through() {
    for source in [
        "// std::fs::read, println!(), SystemTime",
        "/* std::net /* nested */ Instant */",
        "//! `std::thread` is not used here\n/// nor Instant\nfn f() {}",
        "let s = \"std::fs and println!() and Instant\";",
        "let s = r##\"std::env \"# still inside Instant\"##;",
        "let s = b\"std::fs\"; let t = c\"std::net\"; let u = br#\"std::os\"#;",
        "use std::{collections::BTreeMap, fmt, io::{self, Read}, panic, time::Duration};",
        "use core::time::Duration;",
        "fn print(println: u8) -> bool { println != 3 }",
        "let instant = 1; let my_std = instant; struct InstantMessage;",
        "mod mystd { pub mod fs {} } use mystd::fs;",
        "std::mem::swap(&mut a, &mut b); std::panic::catch_unwind(f);",
        "std::array::from_fn::<u8, 4, _>(|_| 0);",
        "use std::environment_like::x;",
    ] {
        assert_eq!(findings(source), Vec::<String>::new(), "{source}");
    }
}

#[test]
fn only_items_for_tests_are_left_out() {
    let source = "
        #[cfg(test)]
        use std::env;
        #[cfg(test)]
        #[allow(dead_code)]
        mod tests { fn f() { if true { std::fs::read(p) } } }
        #[cfg(all(test, unix))]
        fn g(a: [u8; 3]) -> u8 { std::thread::sleep(d) }
        fn real() { std::net::lookup() }
        #[cfg(not(test))]
        fn also_real() { std::process::exit(1) }
        #[cfg(any(test, feature = \"x\"))]
        fn in_a_feature() { println!() }
        struct S { #[cfg(test)] at: Instant, other: SystemTime }
        struct T { other: u8, #[cfg(test)] at: Instant }
        fn after() { std::env::args() }";
    assert_eq!(
        findings(source),
        [
            "9:std::net::lookup",
            "11:std::process::exit",
            "13:println!",
            "14:SystemTime",
            "16:std::env::args"
        ]
    );
    assert!(findings("#![cfg(test)]\nuse std::fs;").is_empty());
}

#[test]
fn files_of_test_modules_are_left_out_and_no_others() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |path: &str, text: &str| -> Result<()> {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder.path()))?;
        Ok(fs::write(path, text)?)
    };
    let bad = "use std::fs;\n";
    write(
        "lib.rs",
        "#[cfg(test)]\nmod tests;\nmod inner;\nmod testsuite;\n",
    )?;
    write("tests.rs", bad)?;
    write("tests/deep.rs", bad)?;
    write("testsuite.rs", bad)?;
    write("inner/mod.rs", "#[cfg(test)] mod checks;\nmod tests;")?;
    write("inner/checks.rs", bad)?;
    write("inner/tests.rs", bad)?;
    write("inner/more.rs", "#[cfg(test)] mod checks;")?;
    write("inner/more/checks/mod.rs", bad)?;
    write("notes.txt", bad)?;
    let found = scan_folder(folder.path())?;
    let names: Vec<String> = found
        .iter()
        .map(|it| it.replace(&folder.path().display().to_string(), ""))
        .collect();
    ensure!(
        names == ["/inner/tests.rs:1: std::fs", "/testsuite.rs:1: std::fs"],
        "{names:?}"
    );
    // A crate that was moved must not pass as clean.
    ensure!(scan_folder(&folder.path().join("absent")).is_err());
    Ok(())
}

#[test]
fn an_unfinished_source_ends_the_lexer() {
    for source in [
        "\"open",
        "/* open",
        "r#\"open",
        "'",
        "'\\",
        "b'",
        "r#",
        "0.",
        "#[cfg(test)]",
    ] {
        let words = lex(source)
            .into_iter()
            .filter(|it| matches!(&it.kind, Kind::Word(word) if word == "open"));
        assert_eq!(words.count(), 0, "{source}");
        assert!(findings(source).is_empty());
    }
}

#[test]
fn every_spelling_of_reading_bytes_is_found_with_its_function() {
    for (source, functions) in [
        ("fn f() { decode::<Frame>(a, b, c) }", vec!["f"]),
        ("fn f() { codec::decode(a) }", vec!["f"]),
        ("fn f() { bytes.map(UserGenesis::from_bytes) }", vec!["f"]),
        ("fn f() { ciborium::from_reader(bytes) }", vec!["f"]),
        ("fn f() { BASE32.decode(bytes) }", vec!["f"]),
        (
            "impl T { fn f() { g(|x| { T::tls_deserialize_bytes(x) }) } }",
            vec!["f"],
        ),
        ("fn f() { fn g() { uncbor(x) } h() }", vec!["g"]),
        ("fn f() { { a } uncbor(x) } fn g() { b }", vec!["f"]),
        ("fn f() -> [u8; 3] { serde_json::from_slice(x) }", vec!["f"]),
        ("static X: u8 = T::from_bytes(1);", vec![""]),
        // What only looks alike.
        ("use codec::{decode, from_bytes};", vec![]),
        ("use codec::decode; fn f() { x }", vec![]),
        ("fn decode(x: u8) { y }", vec![]),
        ("fn f() { Hash::from_slice(x); text.parse() }", vec![]),
        ("fn f(decode: bool) { if decode { x } }", vec![]),
        ("// decode(x)\nfn f() { \"decode(x)\" }", vec![]),
    ] {
        let found: Vec<String> = reading_functions(&lex(source)).into_iter().collect();
        assert_eq!(found, functions, "{source}");
    }
}

#[test]
fn a_gap_in_the_register_is_found() {
    let found = |places: &[(&str, &str)]| -> BTreeSet<Found> {
        let place = |(file, function): &(&str, &str)| Found {
            file: (*file).to_owned(),
            function: (*function).to_owned(),
        };
        places.iter().map(place).collect()
    };
    let registered = BTreeSet::from(["a.b"]);
    let table = [("x.rs", "f", Reached::By(&["a.b"]))];
    let one = found(&[("x.rs", "f")]);
    let none_defined = BTreeSet::new();
    assert!(gaps(&one, &none_defined, &table, &registered).is_empty());

    let expect = |found, table: &[_], registered: &BTreeSet<&str>, words: &str| {
        let gaps = gaps(found, &none_defined, table, registered);
        assert!(gaps.len() == 1 && gaps[0].contains(words), "{gaps:?}");
    };
    let two = found(&[("x.rs", "f"), ("x.rs", "g")]);
    expect(&two, &table, &registered, "x.rs: g reads bytes");
    let gone = [
        table[0],
        ("y.rs", "f", Reached::Not("a reason that is long")),
    ];
    expect(&one, &gone, &registered, "y.rs: f reads nothing");
    let both = BTreeSet::from(["a.b", "a.c"]);
    expect(&one, &table, &both, "a.c is registered");
    let wrong = [("x.rs", "f", Reached::By(&["a.b", "a.x"]))];
    expect(&one, &wrong, &registered, "a.x is not registered");
    let lazy = [table[0], ("x.rs", "g", Reached::Not("why"))];
    expect(&two, &lazy, &registered, "gives no reason");
    let twice = [table[0], table[0]];
    expect(&one, &twice, &registered, "listed twice");
    let none = [table[0], ("x.rs", "g", Reached::By(&[]))];
    expect(&two, &none, &registered, "names no decoder");
    // What reads by hand only has to be there.
    let by_hand = [table[0], ("x.rs", "h", Reached::ByHand(&["a.b"]))];
    expect(&one, &by_hand, &registered, "x.rs: h reads nothing");
    assert!(gaps(&one, &found(&[("x.rs", "h")]), &by_hand, &registered).is_empty());
}

#[test]
fn a_file_of_another_package_is_found() {
    let found = |path: &str| {
        let source = format!("mod a;\n#[path = \"{path}\"]\nmod b;\n");
        borrowed(Path::new("/w/a"), Path::new("/w/a/tests/it.rs"), &source)
    };
    for own in ["other.rs", "../examples/bot.rs", "deep/../b.rs"] {
        assert_eq!(found(own), Vec::<String>::new());
    }
    for foreign in ["../../b/tests/b.rs", "/w/b.rs", "../../ab/c.rs"] {
        assert_eq!(
            found(foreign),
            [format!("/w/a/tests/it.rs takes in {foreign}")]
        );
    }
}

//! The files of `docs/vectors` against the program and against the page.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use conclave_tests::vectors::page::Page;
use conclave_tests::vectors::session::{self, Event, Hex, Session, Way};
use conclave_tests::vectors::value::{encode, hex};
use conclave_tests::vectors::{files, folder, page_file, read_page};
use serde_json::Value;

/// All files together.
const MOST_BYTES: u64 = 1 << 20;

fn read(name: &str) -> Result<String> {
    let file = folder().join(name);
    std::fs::read_to_string(&file).with_context(|| file.display().to_string())
}

fn recorded() -> Result<Session> {
    Session::from_json(&read(session::FILE)?)
}

#[test]
fn the_files_are_what_the_program_makes() -> Result<()> {
    let (files, _) = files(&read_page()?)?;
    let mut named: BTreeSet<String> = files.iter().map(|file| file.name.to_owned()).collect();
    for file in files {
        let made = file.content()?;
        ensure!(
            read(file.name)? == made,
            "{} is another: cargo run -p conclave-tests --bin vectors -- write",
            file.name
        );
    }
    named.extend([session::FILE.to_owned(), "README.md".to_owned()]);
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder())? {
        let entry = entry?;
        bytes += entry.metadata()?.len();
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(named.remove(&name), "{name} belongs to nothing");
    }
    ensure!(named.is_empty(), "missing: {named:?}");
    ensure!(bytes <= MOST_BYTES, "{bytes} bytes");
    Ok(())
}

/// The files that a row of the first table of a page is about.
fn rows_of(readme: &str) -> Vec<String> {
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| ["));
    let links = rows.filter_map(|row| row.split_once(')')?.0.split_once("]("));
    links
        .filter(|(name, link)| name == link)
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[test]
fn the_table_of_files_is_what_is_in_the_folder() -> Result<()> {
    let rows = rows_of(&read("README.md")?);
    let table: BTreeSet<String> = rows.iter().cloned().collect();
    ensure!(table.len() == rows.len(), "one is there twice: {rows:?}");
    let mut there = BTreeSet::new();
    for entry in std::fs::read_dir(folder())? {
        there.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(there.remove("README.md"), "no README.md");
    let apart: Vec<&String> = table.symmetric_difference(&there).collect();
    ensure!(
        apart.is_empty(),
        "in the folder or in the table alone: {apart:?}"
    );
    Ok(())
}

#[test]
fn every_struct_of_the_page_has_a_vector() -> Result<()> {
    let page = read_page()?;
    ensure!(
        page.structs.len() > 60,
        "the page was not read: {:?}",
        page.structs
    );
    let (_, met) = files(&page)?;
    let cases = page.cases();
    let all = page.structs.iter().chain(&cases);
    let missing: Vec<&String> = all.filter(|name| !met.contains(*name)).collect();
    ensure!(missing.is_empty(), "no vector of {missing:?}");
    Ok(())
}

#[test]
fn the_bytes_follow_from_the_fields_by_the_page_alone() -> Result<()> {
    let page = read_page()?;
    let (files, _) = files(&page)?;
    let mut count = 0;
    for file in &files {
        let content: Value = serde_json::from_str(&read(file.name)?)?;
        for vector in content["vectors"].as_array().context("no vectors")? {
            let Some(of) = vector["struct"].as_str() else {
                continue;
            };
            let bytes = encode(&page, of, &vector["fields"])?;
            ensure!(
                Some(hex(&bytes).as_str()) == vector["bytes"].as_str(),
                "{}",
                vector["name"]
            );
            count += 1;
        }
    }
    ensure!(count > 150, "{count} vectors");
    Ok(())
}

/// What the page itself says after "A vector.", block by block.
fn vectors_on_the_page(page: &str) -> Vec<String> {
    let blocks = page.split("\nA vector. ").skip(1);
    let blocks = blocks.filter_map(|after| after.split("\n```").nth(1));
    let is_hex =
        |word: &&str| word.len().is_multiple_of(2) && word.bytes().all(|it| it.is_ascii_hexdigit());
    let mut all: Vec<String> = Vec::new();
    for block in blocks {
        for line in block.lines().filter(|line| !line.is_empty()) {
            let words: String = line.split(' ').filter(is_hex).collect();
            match all.last_mut() {
                // What goes on in the next line is indented.
                Some(last) if line.starts_with(' ') => last.push_str(&words),
                _ => all.push(words),
            }
        }
    }
    all.retain(|words| !words.is_empty());
    all
}

#[test]
fn the_numbers_on_the_page_are_those_of_the_files() -> Result<()> {
    let page = std::fs::read_to_string(page_file())?;
    let files = [
        read("records.json")?,
        read("service.json")?,
        read("basics.json")?,
    ]
    .concat();
    let mut numbers = vectors_on_the_page(&page);
    ensure!(numbers.len() > 12, "{numbers:?}");
    let first = page
        .split("\n856f4a83d777")
        .nth(1)
        .context("no first change")?;
    let first = format!("856f4a83d777{first}");
    let first = first.split("\n```").next().unwrap_or_default();
    numbers.extend(first.split("\n\n").map(|it| it.replace('\n', "")));
    numbers.push("7c69c32900b13f63bf8109a4e25c7d67".to_owned());
    for number in numbers {
        ensure!(files.contains(&number), "{number} is in no file");
    }
    Ok(())
}

#[test]
fn a_page_with_another_field_has_no_vectors() -> Result<()> {
    let page = std::fs::read_to_string(page_file())?;
    for (from, to) in [
        ("    UnixMs  created;\n", ""),
        ("    uint64     epoch_high; ", "    uint32     epoch_high; "),
        (
            "(4)  struct {}                           snapshot_required;",
            "",
        ),
    ] {
        ensure!(page.contains(from), "the page has no {from:?}");
        let other = Page::read(&page.replace(from, to))?;
        ensure!(files(&other).is_err(), "{from:?} was not missed");
    }
    Ok(())
}

#[test]
fn the_recorded_session_is_what_the_page_and_the_program_say() -> Result<()> {
    let played = session::play(&read_page()?, &recorded()?)?;
    ensure!(played.frames > 150 && played.commits >= 3, "{played:?}");
    ensure!(
        played.welcomes == 2 && played.wraps >= 5 && played.heads > 10,
        "{played:?}"
    );
    ensure!(played.records > 12 && played.elided > 5, "{played:?}");
    Ok(())
}

#[test]
fn a_session_in_which_one_byte_is_another_is_refused() -> Result<()> {
    let page = read_page()?;
    let last = |hex: &mut Hex| {
        if let Some(byte) = hex.0.last_mut() {
            *byte ^= 1;
        }
    };
    let mut secrets = recorded()?;
    secrets
        .epochs
        .iter_mut()
        .take(1)
        .for_each(|it| last(&mut it.epoch_root));
    ensure!(session::play(&page, &secrets).is_err(), "another root");
    let mut wraps = recorded()?;
    wraps
        .epochs
        .iter_mut()
        .for_each(|it| last(&mut it.wrap_key));
    ensure!(session::play(&page, &wraps).is_err(), "another wrap key");
    let mut packages = recorded()?;
    packages
        .key_packages
        .iter_mut()
        .for_each(|it| last(&mut it.init_key));
    // The lowest bits of such a key are not looked at.
    packages
        .key_packages
        .iter_mut()
        .for_each(|it| it.init_key.0.iter_mut().for_each(|byte| *byte ^= 8));
    ensure!(session::play(&page, &packages).is_err(), "another init key");
    let mut said = recorded()?;
    said.documents.iter_mut().for_each(|it| it.text.push('x'));
    ensure!(session::play(&page, &said).is_err(), "another text");
    // Of what was signed or sealed, any frame that was sent.
    for wanted in [
        "append",
        "request: commit",
        "request: put_entry",
        "request: put_snapshot",
        "login",
    ] {
        let mut frames = recorded()?;
        let changed = frames
            .frames
            .iter_mut()
            .rev()
            .find_map(|event| match event {
                Event::Frame(frame) if frame.way == Way::Up && frame.what == wanted => {
                    last(&mut frame.frame);
                    Some(())
                }
                _ => None,
            });
        changed.with_context(|| format!("nobody sent {wanted}"))?;
        ensure!(session::play(&page, &frames).is_err(), "another {wanted}");
    }
    Ok(())
}

//! The whole command line as text, committed: whoever changes an option sees in the diff what changes for people.

use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use crate::args::Cli;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help.txt");
/// Set to write the file anew.
const UPDATE: &str = "CONCLAVE_UPDATE_SNAPSHOTS";

fn describe(command: &mut Command, path: &str, out: &mut String) {
    let path = if path.is_empty() {
        command.get_name().to_owned()
    } else {
        format!("{path} {}", command.get_name())
    };
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    out.push_str(&format!(
        "$ {path} --help\n{}\n\n",
        help.join("\n").trim_end()
    ));
    for inner in command
        .get_subcommands_mut()
        .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
    {
        describe(inner, &path, out);
    }
}

#[test]
fn help_of_every_command_is_as_committed() {
    let mut command = crate::args::command();
    let mut now = String::new();
    describe(&mut command, "", &mut now);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(SNAPSHOT, &now).unwrap();
    }
    let committed = std::fs::read_to_string(SNAPSHOT).unwrap_or_default();
    assert!(
        committed == now,
        "the help changed; write it anew with {UPDATE}=1 and read the diff:\n{now}"
    );
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

/// All that stands between "`conclave " and "`" in a file.
fn named_in(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let after = text.split("`conclave ").skip(1);
    after
        .filter_map(|rest| rest.split_once('`'))
        .map(|(named, _)| named.split_whitespace().collect::<Vec<_>>().join(" "))
        // A label of the protocol.
        .filter(|named| !named.starts_with("1.0 "))
        .collect()
}

fn long<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(name))
}

/// What of a command line does not exist: a command, or an option.
fn unknown_in(root: &Command, line: &str) -> Option<String> {
    let mut command = root;
    let mut words = line.split(' ');
    while let Some(word) = words.next() {
        if let Some(option) = word.strip_prefix("--").filter(|rest| !rest.is_empty()) {
            let letters = |c: char| c.is_ascii_lowercase() || c == '-';
            let (name, rest) =
                option.split_at(option.find(|c| !letters(c)).unwrap_or(option.len()));
            let arg = long(command, name).or_else(|| long(root, name));
            match arg {
                None if matches!(name, "help" | "version") => {}
                None => return Some(word.to_owned()),
                Some(arg) if arg.get_action().takes_values() && rest.is_empty() => {
                    words.next();
                }
                Some(_) => {}
            }
        } else if let Some(inner) = command.find_subcommand(word) {
            command = inner;
        } else if command.has_subcommands() && word.bytes().all(|b| b.is_ascii_lowercase()) {
            // Several at once, as in `conclave doc pause|resume`, and what is left open are not words.
            return Some(word.to_owned());
        }
    }
    None
}

/// People are sent to commands that exist.
#[test]
fn every_command_that_is_named_exists() {
    let root = crate::args::command();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut ahead = vec![
        top.join("crates"),
        top.join("docs"),
        top.join("README.md"),
        top.join("delivery-service"),
    ];
    let (mut judged, mut wrong) = (0, Vec::new());
    while let Some(path) = ahead.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                ahead.push(entry.unwrap().path());
            }
            continue;
        }
        let kind = path.extension().and_then(|kind| kind.to_str());
        if !matches!(kind, Some("rs" | "md")) || path.ends_with("src/help.rs") {
            continue;
        }
        for line in named_in(&String::from_utf8_lossy(&std::fs::read(&path).unwrap())) {
            judged += 1;
            if let Some(word) = unknown_in(&root, &line) {
                wrong.push(format!("{}: {word} in `conclave {line}`", path.display()));
            }
        }
    }
    assert!(judged > 100, "only {judged} were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

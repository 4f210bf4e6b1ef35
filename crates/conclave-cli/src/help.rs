//! The whole command line as text, committed: whoever changes an option sees in the diff what changes for people.

use clap::{Command, CommandFactory};

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

//! Every text that a person can see, read for words of the protocol.

use std::path::{Path, PathBuf};

use clap::Command;
use conclave_client::{CertificateFault, Denial, Trouble};

use super::{Sentence, hint, sentence, trouble};
use crate::output::Form;
use conclave_client::plain::protocol_word;

/// The first word of the protocol in a literal. What stands in braces is filled in, and judged where it is written.
fn of_the_protocol(text: &str) -> Option<&'static str> {
    let mut shown = String::new();
    let mut depth = 0usize;
    for character in text.chars() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => shown.push(character),
            _ => {}
        }
    }
    protocol_word(&shown)
}

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// String literals of Rust source, comments and character literals left out.
fn literals(source: &str) -> Vec<String> {
    let characters: Vec<char> = source.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let (mut found, mut index) = (Vec::new(), 0);
    while index < characters.len() {
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < characters.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '\'' if at(index + 1) == '\\' || at(index + 2) == '\'' => {
                index += if at(index + 1) == '\\' { 3 } else { 2 };
                while index < characters.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            'r' if at(index + 1) == '"' || at(index + 1) == '#' && at(index + 2) == '"' => {
                let hash = usize::from(at(index + 1) == '#');
                index += 2 + hash;
                let begin = index;
                while index < characters.len()
                    && !(at(index) == '"' && (hash == 0 || at(index + 1) == '#'))
                {
                    index += 1;
                }
                found.push(characters[begin..index].iter().collect());
                index += 1 + hash;
            }
            '"' => {
                index += 1;
                let mut text = String::new();
                while index < characters.len() && at(index) != '"' {
                    if at(index) == '\\' {
                        index += 1;
                        text.push(' ');
                    } else {
                        text.push(at(index));
                    }
                    index += 1;
                }
                found.push(text);
                index += 1;
            }
            _ => index += 1,
        }
    }
    found
}

/// Of one file without its tests.
fn texts(source: &str) -> Vec<String> {
    let shown = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    literals(shown)
        .into_iter()
        // Names of fields, codes, file names; and what a database is asked.
        .filter(|text| text.trim().contains(char::is_whitespace))
        .filter(|text| {
            !["SELECT ", "UPDATE ", "INSERT ", "DELETE "]
                .iter()
                .any(|sql| text.starts_with(sql))
        })
        .collect()
}

/// The definition of one type in a source file.
fn definition<'a>(source: &'a str, name: &str) -> &'a str {
    let begin = source
        .find(&format!("enum {name} {{"))
        .unwrap_or_else(|| panic!("no {name}"));
    let rest = &source[begin..];
    &rest[..rest.find("\n}").unwrap()]
}

fn help(command: &mut Command, out: &mut String) {
    out.push_str(&command.render_long_help().to_string());
    command
        .get_subcommands_mut()
        .for_each(|inner| help(inner, out));
}

#[test]
fn no_text_of_the_command_line_uses_a_word_of_the_protocol() {
    let mut files = Vec::new();
    sources(Path::new(SOURCES), &mut files);
    let mut bad = Vec::new();
    let mut judged = 0;
    for file in files.iter().filter(|file| !file.ends_with("say/tests.rs")) {
        for text in texts(&read(file)) {
            judged += 1;
            if let Some(word) = of_the_protocol(&text) {
                bad.push(format!("{}: {word}: {text}", file.display()));
            }
        }
    }
    assert!(judged > 500, "only {judged} texts were found");
    let mut shown = String::new();
    help(&mut crate::args::command(), &mut shown);
    for line in shown.lines() {
        if let Some(word) = of_the_protocol(line) {
            bad.push(format!("help: {word}: {line}"));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Texts that the libraries' errors bring along.
#[test]
fn texts_of_errors_that_are_told_as_they_are_are_plain() {
    let types = [
        ("crates/conclave-client/src/error.rs", "Error"),
        ("crates/conclave-client/src/store/error.rs", "StoreError"),
        (
            "crates/conclave-client/src/transport/endpoint.rs",
            "EndpointError",
        ),
        ("crates/conclave-identity/src/error.rs", "NameError"),
        ("crates/conclave-identity/src/error.rs", "TextError"),
        ("delivery-service/src/error.rs", "StartError"),
    ];
    for (file, name) in types {
        let source = read(Path::new(REPOSITORY).join(file));
        for text in literals(definition(&source, name)) {
            assert_eq!(of_the_protocol(&text), None, "{name}: {text}");
        }
    }
}

/// Codes of the documentation, with the heading under which each stands.
fn documented() -> Vec<(String, String)> {
    let mut heading = String::new();
    let mut codes = Vec::new();
    for line in read(Path::new(REPOSITORY).join("docs/ERRORS.md")).lines() {
        if let Some(title) = line.strip_prefix("## ") {
            heading = title.to_owned();
        } else if line.starts_with("| `") {
            let cell = line.split('|').nth(1).unwrap();
            codes.extend(
                cell.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(|code| (code.to_owned(), heading.clone())),
            );
        }
    }
    codes
}

#[test]
fn every_code_has_a_sentence() {
    // Findings have sentences of their own; what the command line finds itself is written where it is found.
    let elsewhere = [
        "found.",
        "service.",
        "group.",
        "document.",
        "device.",
        "clock.device",
        "cli.",
        "demo.",
        "connection.",
        // Of `conclave-ds`.
        "recover.",
    ];
    let mut judged = 0;
    for (code, heading) in documented() {
        if elsewhere.iter().any(|family| code.starts_with(family)) {
            continue;
        }
        judged += 1;
        assert!(
            sentence(&code).is_some(),
            "no sentence for {code} ({heading})"
        );
    }
    assert!(judged > 150, "only {judged} codes were found");
    assert_eq!(sentence("engine.invented"), None);
}

#[test]
fn hints_name_a_next_step() {
    assert!(hint("store.missing").is_some_and(|hint| hint.contains("conclave init")));
    assert!(hint("engine.not_verified").is_some_and(|hint| hint.contains("verify")));
    assert_eq!(hint("anything.else"), None);
    assert_eq!(sentence("store.missing"), Some(Sentence::Own));
}

fn troubles() -> Vec<Trouble> {
    let (host, address, why) = (
        "ds.example".to_owned(),
        "ds.example:443".to_owned(),
        "root of MLS".to_owned(),
    );
    let mut all = vec![
        Trouble::UnknownHost {
            host: host.clone(),
            why: why.clone(),
        },
        Trouble::Refused {
            address: address.clone(),
        },
        Trouble::Unreachable {
            address: address.clone(),
            why: why.clone(),
        },
        Trouble::TimedOut {
            address: address.clone(),
            seconds: 10,
        },
        Trouble::NoRoots,
        Trouble::NotTls {
            address: address.clone(),
        },
        Trouble::Tls {
            host: host.clone(),
            why: why.clone(),
        },
        Trouble::NotAService {
            address,
            why: why.clone(),
        },
        Trouble::Lost { why },
        Trouble::Busy {
            code: "refused.storage".to_owned(),
        },
        Trouble::NotEnrolled,
    ];
    let faults = [
        CertificateFault::Expired,
        CertificateFault::NotYetValid,
        CertificateFault::UnknownIssuer,
        CertificateFault::WrongName,
        CertificateFault::Revoked,
        CertificateFault::Invalid,
    ];
    all.extend(faults.map(|fault| Trouble::Certificate {
        host: host.clone(),
        fault,
    }));
    let denials = [
        Denial::NotAdmitted,
        Denial::Revoked,
        Denial::WrongOrigin,
        Denial::Clock,
        Denial::UpgradeNeeded { minimum: 2 },
        Denial::Credential,
        Denial::Misunderstood,
        Denial::OtherLife {
            since: conclave_client::proto::UnixMs(1_795_874_520_000),
        },
    ];
    all.extend(denials.map(|denial| Trouble::Denied { denial }));
    all.extend(
        [200, 302, 401, 404, 407, 418, 429, 502].map(|status| Trouble::Http {
            status,
            target: None,
        }),
    );
    all.push(Trouble::Http {
        status: 301,
        target: Some("https://login.example".to_owned()),
    });
    all
}

#[test]
fn every_trouble_has_words_a_next_step_and_a_documented_code() {
    let documented = documented();
    let mut told = std::collections::BTreeSet::new();
    for cause in troubles() {
        let failure = trouble(&cause, None);
        let text = failure.to_text("", Form::Plain);
        assert_eq!(of_the_protocol(&text), None, "{text}");
        assert!(
            failure.hint.is_some() && !text.contains("not known why"),
            "{cause:?}"
        );
        assert!(
            documented.iter().any(|(code, _)| *code == failure.code),
            "{} is not documented",
            failure.code
        );
        assert!(failure.to_text("", Form::Verbose).contains(&failure.code));
        told.insert(failure.message);
    }
    assert_eq!(
        told.len(),
        troubles().len(),
        "two causes are told in the same words"
    );
}

#[test]
fn literals_are_found_and_placeholders_are_not_read() {
    assert_eq!(of_the_protocol("{epoch} documents"), None);
    assert_eq!(of_the_protocol("{} intents"), Some("intents"));
    let source = "let a = \"one two\"; // \"not this\"\nlet b = '\"'; let c = r#\"raw \"text\"\"#; let d = 'x';";
    assert_eq!(literals(source), ["one two", "raw \"text\""]);
}

//! The source scan: what a crate without I/O must not name outside its tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lexer::{Kind, Token, lex};

/// Paths below `std` that stand for the outside world, each with everything below it.
const FORBIDDEN_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
];

/// Names that are refused wherever they come from: clocks, process-wide randomness, terminals.
const FORBIDDEN_WORDS: &[&str] = &[
    "Instant",
    "OsRng",
    "SystemTime",
    "ThreadRng",
    "from_entropy",
    "from_os_rng",
    "stderr",
    "stdin",
    "stdout",
    "thread_rng",
];

/// Macros that write to a terminal.
const FORBIDDEN_MACROS: &[&str] = &["dbg", "eprint", "eprintln", "print", "println"];

/// Something that a file must not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Line, counted from 1.
    pub line: usize,
    /// What was named.
    pub what: String,
}

/// Scans the source of one file. Items under `#[cfg(test)]` are left out.
pub fn scan_source(source: &str) -> Vec<Finding> {
    scan_tokens(&without_tests(&lex(source)).0)
}

fn scan_tokens(tokens: &[Token]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for at in 0..tokens.len() {
        let rest = tokens.get(at..).unwrap_or_default();
        let Some(first) = rest.first() else { break };
        let Kind::Word(word) = &first.kind else {
            continue;
        };
        let mut report = |line, what: String| {
            let finding = Finding { line, what };
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        };
        if word == "std" {
            for (line, path) in paths(rest) {
                if is_forbidden_path(&path) {
                    report(line, path);
                }
            }
        }
        if FORBIDDEN_WORDS.contains(&word.as_str()) {
            report(first.line, word.clone());
        }
        if FORBIDDEN_MACROS.contains(&word.as_str()) && is_macro_call(rest) {
            report(first.line, format!("{word}!"));
        }
    }
    findings
}

fn is_macro_call(rest: &[Token]) -> bool {
    let is_bang = rest.get(1).is_some_and(|token| token.is_mark('!'));
    is_bang && !rest.get(2).is_some_and(|token| token.is_mark('='))
}

fn is_forbidden_path(path: &str) -> bool {
    // All of std, or std under another name, would make the scan blind.
    matches!(path, "std::*" | "std as" | "std::self as")
        || FORBIDDEN_PATHS.iter().any(|forbidden| {
            path.strip_prefix(forbidden)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        })
}

/// All paths that begin at the first token, groups in braces written out, each with its line.
fn paths(tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    follow(tokens, String::new(), &mut found);
    found
}

/// Follows one path or group and returns how many tokens it took.
fn follow(tokens: &[Token], prefix: String, found: &mut Vec<(usize, String)>) -> usize {
    let Some(first) = tokens.first() else {
        return 0;
    };
    match &first.kind {
        Kind::Word(word) => {
            let path = match prefix.as_str() {
                "" => word.clone(),
                _ => format!("{prefix}::{word}"),
            };
            let rest = tokens.get(1..).unwrap_or_default();
            if let [a, b, below @ ..] = rest
                && a.is_mark(':')
                && b.is_mark(':')
            {
                return 3 + follow(below, path, found);
            }
            if rest.first().is_some_and(|token| token.is_word("as")) {
                found.push((first.line, format!("{path} as")));
                // The plain path counts too; `as` and the new name are taken with it.
                found.push((first.line, path));
                return 3;
            }
            found.push((first.line, path));
            1
        }
        Kind::Mark('{') => group(tokens, &prefix, found),
        Kind::Mark('*') => {
            found.push((first.line, format!("{prefix}::*")));
            1
        }
        // `std::<something else>`, such as generic arguments: the path ends before it.
        _ => {
            found.push((first.line, prefix));
            0
        }
    }
}

fn group(tokens: &[Token], prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let mut at = 1;
    while let Some(token) = tokens.get(at) {
        if token.is_mark('}') {
            return at + 1;
        }
        let taken = match token.kind {
            Kind::Word(_) | Kind::Mark('{' | '*') => {
                let rest = tokens.get(at..).unwrap_or_default();
                follow(rest, prefix.to_owned(), found)
            }
            _ => 0,
        };
        at += taken.max(1);
    }
    at
}

/// The tokens without items that exist in test builds only, and the names of modules among those
/// that live in files of their own.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, BTreeSet<String>) {
    let mut kept = Vec::new();
    let mut modules = BTreeSet::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let rest = tokens.get(at..).unwrap_or_default();
        let Some(inner) = test_attribute(rest) else {
            kept.push(token.clone());
            at += 1;
            continue;
        };
        if inner {
            // `#![cfg(test)]`: the rest of the file.
            return (kept, modules);
        }
        let length = item_length(rest);
        modules.extend(file_module(rest.get(..length).unwrap_or_default()));
        at += length;
    }
    (kept, modules)
}

/// Whether the tokens begin with `#[cfg(test)]` or `#[cfg(all(test, …))]`; `Some(true)` for the
/// inner form with `!`.
fn test_attribute(tokens: &[Token]) -> Option<bool> {
    let (hash, rest) = tokens.split_first()?;
    if !hash.is_mark('#') {
        return None;
    }
    let inner = rest.first()?.is_mark('!');
    let rest = if inner { rest.get(1..)? } else { rest };
    let [open, cfg, bracket, first, second, third, ..] = rest else {
        return None;
    };
    if !(open.is_mark('[') && cfg.is_word("cfg") && bracket.is_mark('(')) {
        return None;
    }
    let plain = first.is_word("test") && second.is_mark(')');
    let all = first.is_word("all") && second.is_mark('(') && third.is_word("test");
    (plain || all).then_some(inner)
}

/// How many tokens the item at the start takes, its attributes included: up to a semicolon, or to
/// the end of its first braces.
fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    let mut opened_by_brace = false;
    for (at, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Mark('{' | '(' | '[') => {
                opened_by_brace |= depth == 0 && token.is_mark('{');
                depth += 1;
            }
            Kind::Mark('}' | ')' | ']') => {
                // The end of the surrounding item: the attribute stood on a field or an argument.
                if depth == 0 {
                    return at;
                }
                depth -= 1;
                if depth == 0 && opened_by_brace {
                    return at + 1;
                }
            }
            Kind::Mark(';' | ',') if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The name in `mod name;`.
fn file_module(item: &[Token]) -> Option<String> {
    let [.., keyword, name, end] = item else {
        return None;
    };
    match &name.kind {
        Kind::Word(name) if keyword.is_word("mod") && end.is_mark(';') => Some(name.clone()),
        _ => None,
    }
}

/// Scans all files below a `src` folder, test modules left out. Each finding is a line of text.
pub fn scan_folder(src: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (file, tokens) in sources(src)? {
        for Finding { line, what } in scan_tokens(&tokens) {
            found.push(format!("{}:{line}: {what}", file.display()));
        }
    }
    Ok(found)
}

/// All files below a `src` folder with their tokens, what exists in test builds only left out.
pub fn sources(src: &Path) -> Result<Vec<(PathBuf, Vec<Token>)>> {
    let mut files = Vec::new();
    collect(src, &mut files)?;
    let mut kept = Vec::new();
    let mut tests = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let (tokens, modules) = without_tests(&lex(&text));
        let home = module_folder(&file);
        tests.extend(modules.iter().map(|name| home.join(name)));
        kept.push((file, tokens));
    }
    // `tests` stands for tests.rs and for everything in the folder tests/.
    kept.retain(|(file, _)| {
        let module = file.with_extension("");
        !tests.iter().any(|test| module.starts_with(test))
    });
    Ok(kept)
}

/// The folder in which a file's submodules live.
fn module_folder(file: &Path) -> PathBuf {
    let name = file.file_stem().and_then(|name| name.to_str());
    match (name, file.parent()) {
        (Some("lib" | "main" | "mod"), Some(parent)) => parent.to_owned(),
        _ => file.with_extension(""),
    }
}

/// All Rust files below a folder.
pub fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

//! The register of decoders, complete: every place in the sources where bytes are read is listed here, with the registered decoders
//! that reach it or with the reason why none has to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;

use crate::lexer::{Kind, Token};
use crate::places::{PLACES, Place, Reached};
use crate::scan::sources;

/// Calls that read bytes or text of another program, whatever type they belong to.
const ENTRY_POINTS: &[&str] = &[
    "decode",
    "decode_canonical",
    "decode_v1",
    "decode_v2",
    "from_bytes",
    "from_reader",
    "from_text",
    "load_with",
    "tls_deserialize",
    "tls_deserialize_bytes",
    "tls_deserialize_exact",
    "tls_deserialize_exact_bytes",
    "uncbor",
];

/// The same, of these crates and types only: others have harmless functions of the same name.
const QUALIFIED: &[(&str, &str)] = &[
    ("PublicGroupState", "load"),
    ("serde_json", "from_slice"),
    ("serde_json", "from_str"),
    ("serde_json", "from_value"),
];

/// What reads for the register alone.
const REGISTER: &[&str] = &["crates/conclave-client/src/reading.rs"];

/// A place where bytes are read: file and function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Path from the root of the workspace.
    pub file: String,
    /// The innermost function around it; empty outside of all.
    pub function: String,
}

/// Functions of a file that read bytes.
pub fn reading_functions(tokens: &[Token]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Functions around the present place, each with the depth of braces at which it began.
    let mut around: Vec<(String, usize)> = Vec::new();
    let mut announced: Option<String> = None;
    let (mut depth, mut brackets, mut in_import) = (0usize, 0usize, false);
    for at in 0..tokens.len() {
        let Some(token) = tokens.get(at) else { break };
        let before = at.checked_sub(1).and_then(|at| tokens.get(at));
        match &token.kind {
            Kind::Mark('{') => {
                depth += 1;
                around.extend(announced.take().map(|name| (name, depth)));
            }
            Kind::Mark('}') => {
                around.retain(|(_, began)| *began < depth);
                depth = depth.saturating_sub(1);
            }
            Kind::Mark('(' | '[') => brackets += 1,
            Kind::Mark(')' | ']') => brackets = brackets.saturating_sub(1),
            // Not the one in `[u8; 32]`.
            Kind::Mark(';') if brackets == 0 => {
                in_import = false;
                announced = None;
            }
            Kind::Word(word) if word == "use" => in_import = true,
            Kind::Word(word) if before.is_some_and(|token| token.is_word("fn")) => {
                announced = Some(word.clone());
            }
            Kind::Word(word) if !in_import && is_entry_point(word, tokens, at) => {
                found.insert(
                    around
                        .last()
                        .map_or_else(String::new, |(name, _)| name.clone()),
                );
            }
            _ => {}
        }
    }
    found
}

fn is_entry_point(word: &str, tokens: &[Token], at: usize) -> bool {
    let is_mark = |ahead: usize, mark| {
        tokens
            .get(at + ahead)
            .is_some_and(|token| token.is_mark(mark))
    };
    let behind = |back: usize| at.checked_sub(back).and_then(|at| tokens.get(at));
    let in_path = behind(1).is_some_and(|token| token.is_mark(':'));
    let called = is_mark(1, '(') || (is_mark(1, ':') && is_mark(2, ':') && is_mark(3, '<'));
    if ENTRY_POINTS.contains(&word) {
        return called || in_path;
    }
    in_path
        && QUALIFIED.iter().any(|(owner, name)| {
            *name == word && behind(3).is_some_and(|token| token.is_word(owner))
        })
}

/// What is wrong with the table: places that are not in it, rows whose place is gone, names that nobody registered, decoders that no
/// place needs.
pub fn gaps(
    found: &BTreeSet<Found>,
    defined: &BTreeSet<Found>,
    places: &[Place],
    registered: &BTreeSet<&str>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut listed = BTreeMap::new();
    let mut named = BTreeSet::new();
    for (file, function, reached) in places {
        let place = Found {
            file: (*file).to_owned(),
            function: (*function).to_owned(),
        };
        let is_there = match reached {
            Reached::ByHand(_) => defined.contains(&place),
            _ => found.contains(&place),
        };
        if !is_there {
            wrong.push(format!("{file}: {function} reads nothing any more"));
        }
        if listed.insert(place, reached).is_some() {
            wrong.push(format!("{file}: {function} is listed twice"));
        }
        match reached {
            Reached::By(names) | Reached::ByHand(names) => {
                if names.is_empty() {
                    wrong.push(format!("{file}: {function} names no decoder"));
                }
                for name in *names {
                    named.insert(*name);
                    if !registered.contains(name) {
                        wrong.push(format!("{file}: {function}: {name} is not registered"));
                    }
                }
            }
            Reached::Not(reason) => {
                if reason.len() < 10 {
                    wrong.push(format!("{file}: {function} gives no reason"));
                }
            }
        }
    }
    for place in found {
        if !listed.contains_key(place) {
            let Found { file, function } = place;
            wrong.push(format!(
                "{file}: {function} reads bytes: register a decoder that reaches it and list it in tests/tests/architecture/places.rs"
            ));
        }
    }
    for name in registered.difference(&named) {
        wrong.push(format!("{name} is registered, but no place names it"));
    }
    wrong
}

/// Names of all functions of a file.
fn defined_functions(tokens: &[Token]) -> BTreeSet<String> {
    let pairs = tokens.iter().zip(tokens.iter().skip(1));
    pairs
        .filter(|(keyword, _)| keyword.is_word("fn"))
        .filter_map(|(_, name)| match &name.kind {
            Kind::Word(name) => Some(name.clone()),
            _ => None,
        })
        .collect()
}

/// Every place below these source folders where bytes are read, and every function there is.
fn places_below(root: &Path, folders: &[&str]) -> Result<[BTreeSet<Found>; 2]> {
    let (mut found, mut defined) = (BTreeSet::new(), BTreeSet::new());
    for folder in folders {
        for (file, tokens) in sources(&root.join(folder))? {
            let file = file.strip_prefix(root)?.display().to_string();
            if REGISTER.contains(&file.as_str()) {
                continue;
            }
            let place = |function| Found {
                file: file.clone(),
                function,
            };
            found.extend(reading_functions(&tokens).into_iter().map(place));
            defined.extend(defined_functions(&tokens).into_iter().map(place));
        }
    }
    Ok([found, defined])
}

/// What the real table lacks.
pub fn gaps_of_the_workspace(root: &Path) -> Result<Vec<String>> {
    let folders = [
        "crates/conclave-proto/src",
        "crates/conclave-identity/src",
        "crates/conclave-rules/src",
        "crates/conclave-mls/src",
        "crates/conclave-order/src",
        "crates/conclave-crdt/src",
        "crates/conclave-doc/src",
        "crates/conclave-presence/src",
        "crates/conclave-engine/src",
        "crates/conclave-client/src",
        "crates/conclave-cli/src",
        "delivery-service/src",
    ];
    let decoders = conclave_testkit::decoders::decoders();
    let registered = decoders.iter().map(|decoder| decoder.name).collect();
    let [found, defined] = places_below(root, &folders)?;
    Ok(gaps(&found, &defined, PLACES, &registered))
}

//! Finding a group, user or document by what somebody typed.

use conclave_client::naming::meant;

use crate::failure::{Exit, Failure, Result};

/// Most candidates that are listed.
const CANDIDATES_SHOWN: usize = 5;

/// Something that can be named.
#[derive(Debug, Clone)]
pub struct Named<T> {
    /// What is found.
    pub value: T,
    /// Its id in hexadecimal.
    pub id: String,
    /// Its name or title, where known.
    pub name: Option<String>,
    /// The group that it is in, as it is told.
    pub within: Option<String>,
}

/// Finds the one thing that `typed` names: see [`conclave_client::naming`].
///
/// # Errors
/// Nothing has that name, or several things may be meant.
pub fn find<T: Clone>(
    what: &str,
    typed: &str,
    candidates: &[Named<T>],
    list_with: &str,
) -> Result<T> {
    let id = |named: &Named<T>| named.id.clone();
    let found = meant(typed, candidates, id, |named| named.name.as_deref());
    match found.as_slice() {
        [one] => Ok(one.value.clone()),
        [] => {
            let message = format!("no {what} is called \"{typed}\" here");
            let code = format!("cli.no_{what}");
            Err(Failure::new(
                &code,
                Exit::Failed,
                message,
                format!("list them with `{list_with}`"),
            ))
        }
        several => {
            let ids: Vec<String> = several
                .iter()
                .take(CANDIDATES_SHOWN)
                .map(|named| describe(named))
                .collect();
            let message = format!(
                "\"{typed}\" could be {} {what}s: {}",
                several.len(),
                ids.join(", ")
            );
            let code = format!("cli.ambiguous_{what}");
            Err(Failure::new(
                &code,
                Exit::Usage,
                message,
                "type the id, or more of its digits",
            ))
        }
    }
}

fn describe<T>(named: &Named<T>) -> String {
    let short: String = named.id.chars().take(12).collect();
    match (&named.name, &named.within) {
        (Some(name), Some(within)) => format!("{short} ({name}, in {within})"),
        (Some(name), None) => format!("{short} ({name})"),
        (None, Some(within)) => format!("{short} (in {within})"),
        (None, None) => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Named<u8>> {
        let named = |value, id: &str, name: Option<&str>, within: Option<&str>| Named {
            value,
            id: id.into(),
            name: name.map(str::to_owned),
            within: within.map(str::to_owned),
        };
        vec![
            named(1, "aaaa1111aaaa1111", Some("Board"), None),
            named(2, "aaaa1111bbbb2222", Some("Legal"), None),
            named(3, "bbbb3333bbbb3333", Some("Twice"), Some("Home")),
            named(4, "cccc4444cccc4444", Some("twice"), Some("Work")),
        ]
    }

    #[test]
    fn one_thing_is_found_and_several_are_told() {
        let find_here = |typed| find("document", typed, &candidates(), "conclave doc list");
        for (typed, value) in [("board", 1), ("AAAA1111B", 2), ("cccc4444cccc4444", 4)] {
            assert_eq!(find_here(typed).ok(), Some(value), "{typed}");
        }
        let failure = find_here("Twice").unwrap_err();
        assert_eq!(failure.code, "cli.ambiguous_document");
        assert_eq!(failure.exit, Exit::Usage);
        let told = "\"Twice\" could be 2 documents: bbbb3333bbbb (Twice, in Home), cccc4444cccc (twice, in Work)";
        assert_eq!(failure.message, told);
        assert_eq!(find_here("aaaa").unwrap_err().code, "cli.no_document");
    }
}

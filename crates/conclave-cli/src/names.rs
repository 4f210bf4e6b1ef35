//! Finding a group, user or document by what somebody typed.

use crate::failure::{Exit, Failure, Result};

/// Fewest digits of an id that name something.
const ID_PREFIX_MIN: usize = 4;
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
}

/// Finds the one thing that `typed` names: an exact name first, then the beginning of an id, then a name in other case.
///
/// # Errors
/// Nothing has that name, or several things have.
pub fn find<T: Clone>(
    what: &str,
    typed: &str,
    candidates: &[Named<T>],
    list_with: &str,
) -> Result<T> {
    let lower = typed.to_lowercase();
    let is_prefix =
        lower.len() >= ID_PREFIX_MIN && lower.bytes().all(|byte| byte.is_ascii_hexdigit());
    let exact = |named: &&Named<T>| named.name.as_deref() == Some(typed);
    let by_id = |named: &&Named<T>| is_prefix && named.id.starts_with(&lower);
    let loose = |named: &&Named<T>| {
        named
            .name
            .as_ref()
            .is_some_and(|name| name.to_lowercase() == lower)
    };
    let found: Vec<&Named<T>> = [
        candidates.iter().filter(exact).collect::<Vec<_>>(),
        candidates.iter().filter(by_id).collect(),
        candidates.iter().filter(loose).collect(),
    ]
    .into_iter()
    .find(|found| !found.is_empty())
    .unwrap_or_default();
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
                "type more digits of the id",
            ))
        }
    }
}

fn describe<T>(named: &Named<T>) -> String {
    let short: String = named.id.chars().take(12).collect();
    match &named.name {
        Some(name) => format!("{short} ({name})"),
        None => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates() -> Vec<Named<u8>> {
        let named = |value, id: &str, name: Option<&str>| Named {
            value,
            id: id.into(),
            name: name.map(str::to_owned),
        };
        vec![
            named(1, "aaaa1111", Some("Board")),
            named(2, "aaaa2222", Some("Legal")),
            named(3, "bbbb3333", Some("board")),
            named(4, "cccc4444", None),
            named(5, "dddd5555", Some("cccc")),
            named(6, "eeee6666", Some("Twice")),
            named(7, "ffff7777", Some("Twice")),
        ]
    }

    fn find_here(typed: &str) -> std::result::Result<u8, String> {
        find("group", typed, &candidates(), "conclave group list").map_err(|failure| failure.code)
    }

    #[test]
    fn names_and_id_prefixes_find_one_thing() {
        let cases = [
            ("Board", 1),
            ("board", 3),
            ("LEGAL", 2),
            ("aaaa1", 1),
            ("AAAA2222", 2),
            ("bbbb", 3),
            ("cccc4", 4),
        ];
        for (typed, value) in cases {
            assert_eq!(find_here(typed), Ok(value), "{typed}");
        }
        // A name beats the id of something else.
        assert_eq!(find_here("cccc"), Ok(5));
    }

    #[test]
    fn what_is_unclear_or_unknown_is_refused() {
        assert_eq!(find_here("aaaa"), Err("cli.ambiguous_group".into()));
        assert_eq!(find_here("Twice"), Err("cli.ambiguous_group".into()));
        // Two names in other case.
        assert_eq!(find_here("BOARD"), Err("cli.ambiguous_group".into()));
        assert_eq!(find_here("aaa"), Err("cli.no_group".into()));
        assert_eq!(find_here("Unknown"), Err("cli.no_group".into()));
        assert_eq!(find_here(""), Err("cli.no_group".into()));
    }
}

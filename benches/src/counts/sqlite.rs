//! Lines of the service that name a SQLite type, outside the module that is there for it.

use super::{Count, Source};

/// What the service is made of.
const SERVICE: [&str; 2] = ["delivery-service/src/", "crates/conclave-order/src/"];
/// The module that may name them.
const MODULE: &str = "sqlite";

pub(super) fn count(sources: &[Source]) -> Count {
    let counted = sources.iter().filter(|it| is_counted(&it.path));
    let lines = counted.map(|source| {
        let lines = source.text.lines().filter(|line| names_one(line));
        (source.path.clone(), lines.count())
    });
    Count {
        what: "lines naming SQLite types outside their module",
        found: lines.filter(|(_, number)| *number > 0).collect(),
    }
}

fn is_counted(path: &str) -> bool {
    let below = SERVICE.iter().find_map(|folder| path.strip_prefix(folder));
    below.is_some_and(|below| {
        let mut parts = below.trim_end_matches(".rs").split('/');
        parts.all(|part| part != MODULE)
    })
}

/// Whether a word of the line, comments left out, begins as the names of these types do.
fn names_one(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.any(|word| word.starts_with("Sqlite"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::tree::source;

    #[test]
    fn lines_count_once_and_only_outside_the_module() {
        let text = "use sqlx::{Sqlite, SqliteConnection};\n\
                    // SqliteConnection\n\
                    fn f(a: &mut SqliteConnection) -> MySqlite {}\n\
                    fn g() -> MySqlite {} // not SqlitePool\n\
                    call!(\n    SqlitePool\n);\n";
        let sources = [
            source("crates/conclave-client/src/a.rs", text),
            source("crates/conclave-order/src/a.rs", text),
            source("delivery-service/src/a.rs", text),
            source("delivery-service/src/store/sqlite.rs", text),
            source("delivery-service/src/sqlite/a.rs", text),
            source("delivery-service/src/plain.rs", "fn f() {}"),
            source("delivery-service/tests/a.rs", text),
        ];
        assert_eq!(
            count(&sources).found,
            [
                ("crates/conclave-order/src/a.rs".to_owned(), 3),
                ("delivery-service/src/a.rs".to_owned(), 3),
            ]
        );
    }
}

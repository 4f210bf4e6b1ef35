//! SQLite: the one place that knows it. One connection writes; a pool of others reads what is durable.

mod bases;
mod codes;
mod error;
mod hot;
mod invitations;
mod load;
mod logs;
pub(crate) mod open;
mod parts;
mod read;
mod recovery;
mod sums;
mod usage;
mod write;
mod write_groups;
mod write_logs;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use conclave_order::{Backend, Change, Failure, Keys, Rows, Transaction};
use conclave_proto::GroupId;
use conclave_proto::service::Generation;
use conclave_rules::LogId;
use sqlx::{Connection, SqliteConnection};
use zeroize::Zeroizing;

pub use self::error::StoreError;
use crate::config::Durability;
use crate::recover::Holding;

use self::error::is_full;
pub use self::open::Place;
pub use self::read::{Read, Reads};
pub use self::usage::Usage;

/// The connection that writes.
pub struct Store {
    connection: SqliteConnection,
    place: Place,
    /// Whether a transaction is open: one that is dropped is rolled back before the next begins.
    is_open: bool,
}

/// How a service runs, as it is noted.
const FULL: &[u8] = b"full";
const NORMAL: &[u8] = b"normal";

impl Store {
    /// Opens the database; makes it where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(place: Place) -> Result<Self, StoreError> {
        Ok(Self {
            connection: open::open_writer(&place).await?,
            place,
            is_open: false,
        })
    }

    /// Opens the database of a service that runs.
    pub(crate) async fn open_beside(place: Place) -> Result<Self, StoreError> {
        Ok(Self {
            connection: open::open_beside(&place).await?,
            place,
            is_open: false,
        })
    }

    /// Seed of the service's own key.
    pub(crate) async fn service_seed(&mut self) -> Result<Option<Zeroizing<[u8; 32]>>, StoreError> {
        let stored = self.meta("service_key").await?;
        stored.map(|stored| seed(stored, "service key")).transpose()
    }

    pub(crate) async fn put_service_seed(&mut self, seed: &[u8; 32]) -> Result<(), StoreError> {
        self.put_meta("service_key", seed).await
    }

    /// The present generation, and the seed of its head key.
    pub(crate) async fn generation(
        &mut self,
    ) -> Result<Option<(Generation, Zeroizing<[u8; 32]>)>, StoreError> {
        recovery::generation(&mut self.connection).await
    }

    /// For whom most is stored, and of which groups.
    pub(crate) async fn usage(&mut self, most: u32) -> Result<Usage, StoreError> {
        usage::most(&mut self.connection, most).await
    }

    /// Seconds past which no signed head was dated.
    pub(crate) async fn head_time(&mut self) -> Result<u64, StoreError> {
        let stored = self.meta("heads").await?;
        stored.map_or(Ok(0), |stored| Ok(recovery::time(&stored)?.0))
    }

    /// How a service ran that has not come to its end. What is not known to keep all that it acknowledged may have lost some.
    pub(crate) async fn ran(&mut self) -> Result<Option<Durability>, StoreError> {
        let note = self.meta("running").await?;
        Ok(note.map(|note| match note.as_slice() {
            FULL => Durability::Full,
            _ => Durability::Normal,
        }))
    }

    /// Notes that a service runs, and how, or that it has come to its end.
    pub(crate) async fn note_running(
        &mut self,
        runs: Option<Durability>,
    ) -> Result<(), StoreError> {
        let note = match runs {
            None => sqlx::query("DELETE FROM meta WHERE name = 'running'"),
            Some(durability) => {
                let how = match durability {
                    Durability::Full => FULL,
                    Durability::Normal => NORMAL,
                };
                sqlx::query("INSERT OR REPLACE INTO meta (name, value) VALUES ('running', ?)")
                    .bind(how)
            }
        };
        note.execute(&mut self.connection).await?;
        Ok(())
    }

    /// Opens the database of a data directory for a command: beside a service that runs, or instead of one.
    pub(crate) async fn open_for_command(
        directory: &Path,
    ) -> Result<(Self, Option<Arc<open::DirectoryLock>>), StoreError> {
        let place = Place {
            directory: directory.to_owned(),
            durability: Durability::Full,
            max_bytes: None,
        };
        // Else a mistyped folder would become a service of its own, of which nobody knows.
        if !directory.join(open::DATABASE_FILE).exists() {
            return Err(StoreError::Missing(directory.to_owned()));
        }
        match open::lock(directory) {
            Ok(lock) => Ok((Self::open(place).await?, Some(lock))),
            Err(StoreError::InUse) => Ok((Self::open_beside(place).await?, None)),
            Err(other) => Err(other),
        }
    }

    /// Copies the database as it is now into an empty file.
    pub(crate) async fn copy_into(&mut self, file: &str) -> Result<(), StoreError> {
        sqlx::query("VACUUM INTO ?")
            .bind(file)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// What there is of a group, if there is one.
    pub(crate) async fn holding(&mut self, group: &GroupId) -> Result<Option<Holding>, StoreError> {
        let row: Option<(bool, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT base IS NOT NULL, (SELECT COUNT(*) FROM group_log WHERE group_id = g.id), \
                 (SELECT COUNT(*) FROM documents WHERE group_id = g.id), \
                 (SELECT COUNT(*) FROM records r JOIN documents d ON d.id = r.doc WHERE d.group_id = g.id), \
                 (SELECT COUNT(*) FROM members WHERE group_id = g.id) \
             FROM groups g WHERE id = ?",
        )
        .bind(group.as_bytes())
        .fetch_optional(&mut self.connection)
        .await?;
        row.map(|(brought, entries, documents, records, members)| {
            Ok(Holding {
                brought,
                entries: codes::uint(entries)?,
                documents: codes::uint(documents)?,
                records: codes::uint(records)?,
                members: codes::uint(members)?,
            })
        })
        .transpose()
    }

    /// Reads all of the database, and says whether it is sound.
    pub(crate) async fn is_sound(&mut self) -> Result<bool, StoreError> {
        let (found,): (String,) = sqlx::query_as("PRAGMA quick_check(1)")
            .fetch_one(&mut self.connection)
            .await?;
        Ok(found == "ok")
    }

    async fn meta(&mut self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        recovery::meta(&mut self.connection, name).await
    }

    async fn put_meta(&mut self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO meta (name, value) VALUES (?, ?)")
            .bind(name)
            .bind(value)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    async fn roll_back(&mut self) -> bool {
        let rolled = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
        self.is_open = self.is_open && rolled.is_err();
        rolled.is_ok()
    }

    /// SQLite may have rolled back by itself; a fresh connection is certain to be outside any transaction.
    async fn reopen(&mut self) -> bool {
        match open::connect_writer(&self.place).await {
            Ok(fresh) => {
                let old = std::mem::replace(&mut self.connection, fresh);
                let _ = old.close().await;
                self.is_open = false;
                true
            }
            Err(error) => {
                tracing::error!(
                    code = error.code(),
                    "the database could not be opened again"
                );
                false
            }
        }
    }

    /// Where the write-ahead log cannot grow, the database may have room for what it holds; the log then begins anew.
    async fn make_room(&mut self) {
        self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)", "there is no room")
            .await;
    }

    async fn checkpoint(&mut self, pragma: &'static str, otherwise: &'static str) {
        let folded = sqlx::query(pragma).execute(&mut self.connection).await;
        if let Err(error) = folded {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the write-ahead log stays: {otherwise}");
        }
    }

    /// Lets go of the database, which others may use.
    pub(crate) async fn let_go(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }

    /// Folds the write-ahead log into the database and lets go of it.
    pub async fn close(mut self) {
        self.checkpoint(
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "the next start folds it in",
        )
        .await;
        if let Err(error) = self.connection.close().await {
            let error = StoreError::from(error);
            tracing::warn!(code = error.code(), "closing the database failed");
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}

fn seed(stored: Vec<u8>, what: &'static str) -> Result<Zeroizing<[u8; 32]>, StoreError> {
    let stored = Zeroizing::new(stored);
    let seed = stored.as_slice().try_into();
    seed.map(Zeroizing::new)
        .map_err(|_| StoreError::Corrupt { what })
}

/// A transaction.
pub struct Tx<'a> {
    store: &'a mut Store,
    /// Rows of the documents that it has met.
    numbers: HashMap<LogId, i64>,
}

impl Backend for Store {
    type Tx<'a> = Tx<'a>;

    async fn begin(&mut self) -> Result<Tx<'_>, Failure> {
        if self.is_open && !self.roll_back().await {
            self.reopen().await;
        }
        sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut self.connection)
            .await
            .map_err(|error| Failure::NotBegun(error.into()))?;
        self.is_open = true;
        Ok(Tx {
            store: self,
            numbers: HashMap::new(),
        })
    }

    async fn recover(&mut self, after: &Failure) -> bool {
        let usable = match after {
            Failure::NotBegun(_) => self.connection.ping().await.is_ok(),
            _ => self.roll_back().await,
        } || self.reopen().await;
        if usable && matches!(after, Failure::Full(_)) {
            self.make_room().await;
        }
        usable
    }
}

impl Transaction for Tx<'_> {
    async fn load(&mut self, keys: &Keys) -> Result<Rows, Failure> {
        let (conn, numbers) = (&mut self.store.connection, &mut self.numbers);
        Ok(load::load(conn, keys, numbers).await?)
    }

    async fn write(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        let (conn, numbers) = (&mut self.store.connection, &mut self.numbers);
        write::write(conn, changes, numbers).await
    }

    async fn commit(self) -> Result<(), Failure> {
        let committed = sqlx::query("COMMIT").execute(&mut self.store.connection);
        let committed = committed.await;
        // Breakage: it is answered before anybody knows whether it is durable.
        if committed.is_err() && crate::broken("ack-before-durable") {
            return Ok(());
        }
        committed.map_err(|error| match is_full(&error) {
            true => Failure::Full(error.into()),
            false => Failure::Unknown(error.into()),
        })?;
        self.store.is_open = false;
        Ok(())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Corrupt { what } => Self::Corrupt { what },
            StoreError::Database(error) if is_full(&error) => Self::Full(error.into()),
            StoreError::Transaction(failure) => failure,
            other => Self::Undone(other.into()),
        }
    }
}

/// As [`Failure::Undone`], or what the error tells more.
fn failed(error: sqlx::Error) -> Failure {
    StoreError::from(error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What others wait for does not go through a table, or through all of a document.
    #[tokio::test]
    async fn statements_that_could_read_much_go_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            directory: folder.path().to_owned(),
            durability: Durability::Normal,
            max_bytes: None,
        };
        let mut store = Store::open(place).await.unwrap();
        for (statement, index) in [
            (write_logs::CLOSE_AUTHORS, "authors_open"),
            (logs::WITH_HEADER, "records_snapshots"),
            (load::KNOWN_PACKAGES, "key_packages_by_device"),
            (write_groups::DROP_LAST_RESORT, "key_packages_by_device"),
            (write_groups::CLEAR_PACKAGES, "key_packages_by_device"),
        ] {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
                .fetch_all(&mut store.connection)
                .await
                .unwrap();
            let plan: Vec<String> = plan.into_iter().map(|(_, _, _, step)| step).collect();
            assert!(plan.iter().any(|step| step.contains(index)), "{plan:?}");
            assert!(
                !plan.iter().any(|step| step.starts_with("SCAN")),
                "{plan:?}"
            );
        }
    }
}

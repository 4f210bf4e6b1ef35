//! The storage suite on every backend, and what only those with files have to do.

use anyhow::{Context as _, Result, ensure};
use conclave_ds::StoreError;
use conclave_ds::sqlite::{Place, Store};
use conclave_testkit::database::{Database as _, InMemory, InSqlite};
use conclave_testkit::storage_suite;

storage_suite!(memory, InMemory);
storage_suite!(sqlite, InSqlite);

/// A file that is not a database is not taken for one.
#[tokio::test]
async fn a_flipped_byte_in_the_header_is_refused() -> Result<()> {
    let database = InSqlite::create().await?;
    let file = database.folder().join("service.sqlite");
    let mut bytes = std::fs::read(&file)?;
    *bytes.get_mut(3).context("an empty file")? ^= 0x55;
    let folder = tempfile::TempDir::new()?;
    std::fs::write(folder.path().join("service.sqlite"), bytes)?;
    let place = Place {
        directory: folder.path().to_owned(),
        ..database.place()
    };
    let opened = Store::open(place).await;
    ensure!(
        matches!(opened, Err(StoreError::Corrupt { .. })),
        "{opened:?}"
    );
    Ok(())
}

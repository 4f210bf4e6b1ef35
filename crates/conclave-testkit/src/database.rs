//! Backends that the storage suite runs on.

use anyhow::Result;
use conclave_ds::Durability;
use conclave_ds::sqlite::{Place, Read, Reads, Store};
use conclave_order::memory::Memory;
use conclave_order::{Backend, Reader};
use tempfile::TempDir;

/// A database of its own, with as many drivers and readers as are wanted.
pub trait Database: Sized {
    /// What writes.
    type Store: Backend;
    /// What reads.
    type Reader: Reader;

    /// An empty one.
    ///
    /// # Errors
    /// When there can be none.
    fn create() -> impl Future<Output = Result<Self>>;

    /// Another driver.
    ///
    /// # Errors
    /// When there can be none.
    fn store(&self) -> impl Future<Output = Result<Self::Store>>;

    /// Another reader.
    ///
    /// # Errors
    /// When there can be none.
    fn reader(&self) -> impl Future<Output = Result<Self::Reader>>;
}

/// In memory.
pub struct InMemory(Memory);

impl Database for InMemory {
    type Store = Memory;
    type Reader = Memory;

    async fn create() -> Result<Self> {
        Ok(Self(Memory::new()))
    }

    async fn store(&self) -> Result<Memory> {
        Ok(self.0.clone())
    }

    async fn reader(&self) -> Result<Memory> {
        Ok(self.0.clone())
    }
}

/// SQLite, in a folder that goes with it.
pub struct InSqlite {
    folder: TempDir,
    reads: Reads,
}

impl InSqlite {
    /// The one in a folder, or a new one there.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn of(folder: TempDir) -> Result<Self> {
        Store::open(Self::place_of(&folder)).await?.close().await;
        let reads = Reads::open(&Self::place_of(&folder)).await?;
        Ok(Self { folder, reads })
    }

    /// Where it lies.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// What a service would open.
    #[must_use]
    pub fn place(&self) -> Place {
        Self::place_of(&self.folder)
    }

    fn place_of(folder: &TempDir) -> Place {
        Place {
            directory: folder.path().to_owned(),
            // Nobody pulls the plug here.
            durability: Durability::Normal,
            max_bytes: None,
        }
    }
}

impl Database for InSqlite {
    type Store = Store;
    type Reader = Read;

    async fn create() -> Result<Self> {
        Self::of(TempDir::new()?).await
    }

    async fn store(&self) -> Result<Store> {
        Ok(Store::open(self.place()).await?)
    }

    async fn reader(&self) -> Result<Read> {
        Ok(self.reads.acquire().await?)
    }
}

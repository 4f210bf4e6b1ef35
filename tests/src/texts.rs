//! Text documents as tests read and write them.

use anyhow::{Context as _, Result};
use conclave_client::Document;
use conclave_crdt::TextView as _;
use conclave_crdt::yjs::Yrs;

use crate::{PATIENCE, until};

/// The whole text.
///
/// # Errors
/// When the document cannot be read.
pub async fn text(document: &Document<Yrs>) -> Result<String> {
    Ok(document.read(|yrs| yrs.text()).await?)
}

/// Adds words at the end.
///
/// # Errors
/// When the edit is refused.
pub async fn append(document: &Document<Yrs>, words: &str) -> Result<()> {
    let words = words.to_owned();
    document
        .edit(move |yrs| {
            let end = yrs.len()?;
            yrs.splice(end, 0, &words)
        })
        .await?;
    Ok(())
}

/// Waits until all these words are there.
///
/// # Errors
/// When patience ends.
pub async fn shows(document: &Document<Yrs>, words: &[&str]) -> Result<()> {
    until("words to arrive", || async {
        let now = text(document).await?;
        Ok(words.iter().all(|word| now.contains(word)).then_some(()))
    })
    .await
}

/// Waits until the service has acknowledged every edit.
///
/// # Errors
/// When it takes too long.
pub async fn synced(document: &Document<Yrs>) -> Result<()> {
    tokio::time::timeout(PATIENCE, document.synced())
        .await
        .context("syncing")??;
    Ok(())
}

//! Two people edit one text, at the same time.

use conclave_client::{Crdt, CrdtError, Yrs};
use conclave_examples::{Place, document_called, group_of_two};

/// Runs the example.
#[tokio::main]
pub async fn main() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let (ana, ben) = (place.new_user("Ana").await?, place.new_user("Ben").await?);
    let (anas_group, bens_group) = group_of_two(&ana, &ben).await?;

    // Ana writes. `edit` returns when it is on her disk; it is sealed and sent in the background.
    let anas_note = anas_group.create_document::<Yrs>("note").await?;
    anas_note.edit(|note| write(note, "Bring cake.\n")).await?;
    anas_note.synced().await?;

    // Ben opens the same note and writes too: from now on both have a copy, and neither waits for the other.
    let id = document_called(&ben, &bens_group, "note").await?;
    let bens_note = bens_group.document::<Yrs>(&id).await?;
    let mut news = bens_note.changes();
    bens_note.synced().await?;
    while !bens_note.read(read).await?.contains("cake") {
        news.next().await;
    }
    let mut changes = anas_note.changes();
    bens_note.edit(|note| write(note, "And tea.\n")).await?;

    // Ana hears of it with its verified author.
    while !anas_note.read(read).await?.contains("tea") {
        if let Some(Ok(change)) = changes.next().await {
            println!("{} wrote something", change.name.unwrap_or_default());
        }
    }
    let (anas, bens) = (anas_note.read(read).await?, bens_note.read(read).await?);
    println!("{anas}");
    anyhow::ensure!(anas == bens && anas.contains("cake") && anas.contains("tea"));

    ana.close().await?;
    ben.close().await?;
    place.close().await;
    Ok(())
}

/// Adds a line at the end.
fn write(note: &mut Yrs, line: &str) -> Result<(), CrdtError> {
    let text = note.text().ok_or(CrdtError::InvalidArgument)?;
    let end = text.len()?;
    text.splice(end, 0, line)
}

fn read(note: &mut Yrs) -> Result<String, CrdtError> {
    note.text().ok_or(CrdtError::InvalidArgument)?.text()
}

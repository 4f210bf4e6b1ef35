//! One person, two devices: the new one is approved by a text, and is in all groups of the first by itself.

use anyhow::Context;
use conclave_client::proto::{GroupPolicy, RealmId};
use conclave_client::{Client, Crdt, CrdtError, Setup, Yrs};
use conclave_examples::Place;

/// Runs the example.
#[tokio::main]
pub async fn main() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let laptop = place.new_user("Ana").await?;
    let group = laptop.create_group("Diary", GroupPolicy::default()).await?;
    let diary = group
        .create_document_with::<Yrs>("today", |page| write(page, "Rain."))
        .await?;
    diary.synced().await?;

    // The phone asks, the laptop approves, the phone finishes. The texts go by hand: a QR code, a message to oneself. The code is read on the
    // phone and typed into the laptop.
    let setup = Setup::NewDevice {
        name: "phone".to_owned(),
        realm: RealmId::ZERO,
    };
    let phone = Client::create(place.config("phone"), setup).await?;
    let request = phone.device_request().await?;
    let approval = laptop.approve_device(request.approved()).await?;
    phone.finish_device(&approval).await?;
    anyhow::ensure!(phone.whoami().await?.user == laptop.whoami().await?.user);

    // The laptop takes the phone into the group. Nobody has to do anything.
    let mut events = phone.events();
    while !phone
        .groups()
        .await?
        .iter()
        .any(|info| info.group == group.id() && info.active)
    {
        events.next().await.context("the phone stopped")?;
    }
    let page = phone
        .group(&group.id())
        .await?
        .document::<Yrs>(&diary.id())
        .await?;
    page.synced().await?;
    println!("the phone reads: {}", page.read(read).await?);
    let mut changes = diary.changes();
    page.edit(|page| write(page, " Then sun.")).await?;
    changes.next().await.context("the laptop stopped")?.ok();
    anyhow::ensure!(diary.read(read).await? == "Rain. Then sun.");

    phone.close().await?;
    laptop.close().await?;
    place.close().await;
    Ok(())
}

/// Adds text at the end.
fn write(page: &mut Yrs, more: &str) -> Result<(), CrdtError> {
    let text = page.text().ok_or(CrdtError::InvalidArgument)?;
    let end = text.len()?;
    text.splice(end, 0, more)
}

fn read(page: &mut Yrs) -> Result<String, CrdtError> {
    page.text().ok_or(CrdtError::InvalidArgument)?.text()
}

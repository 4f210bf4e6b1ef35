//! A task list as JSON, on Automerge; one of two people ticks something off without a network.

use anyhow::Context;
use conclave_client::{Automerge, Client, Config, Crdt, CrdtError};
use conclave_examples::{Place, document_called, group_of_two};
use serde_json::{Value, json};

/// Runs the example.
#[tokio::main]
pub async fn main() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let (ana, ben) = (place.new_user("Ana").await?, place.new_user("Ben").await?);
    let (anas_group, bens_group) = group_of_two(&ana, &ben).await?;

    // Ana makes a list.
    let tasks = json!({"tasks": [{"title": "write the letter", "done": false}, {"title": "ask the bank", "done": false}]});
    let anas_list = anas_group.create_document::<Automerge>("tasks").await?;
    anas_list
        .edit(move |list| {
            list.json()
                .ok_or(CrdtError::InvalidArgument)?
                .merge_json(&tasks)
        })
        .await?;
    anas_list.synced().await?;

    // Ben has it; then his network is gone, which is the same as opening his store without a service.
    let id = document_called(&ben, &bens_group, "tasks").await?;
    bens_group
        .document::<Automerge>(&id)
        .await?
        .synced()
        .await?;
    ben.close().await?;
    let ben = Client::open(Config::offline(place.folder().join("Ben"))).await?;
    let bens_list = ben
        .group(&bens_group.id())
        .await?
        .document::<Automerge>(&id)
        .await?;
    bens_list.edit(|list| tick(list, 1)).await?;
    println!("Ben has {} edit waiting", bens_list.pending().await?);
    ben.close().await?;

    // Meanwhile Ana ticks off another one.
    anas_list.edit(|list| tick(list, 0)).await?;
    anas_list.synced().await?;

    // Ben is back: his edit is sent, hers comes, and she hears of his.
    let mut changes = anas_list.changes();
    let ben = Client::open(place.config("Ben")).await?;
    let bens_list = ben
        .group(&bens_group.id())
        .await?
        .document::<Automerge>(&id)
        .await?;
    bens_list.synced().await?;
    changes.next().await.context("the client stopped")?.ok();
    let (anas, bens) = (anas_list.read(read).await?, bens_list.read(read).await?);
    println!("{anas:#}");
    let done = |at: usize| anas.pointer(&format!("/tasks/{at}/done")) == Some(&Value::Bool(true));
    anyhow::ensure!(anas == bens && done(0) && done(1));

    ana.close().await?;
    ben.close().await?;
    place.close().await;
    Ok(())
}

fn read(list: &mut Automerge) -> Result<Value, CrdtError> {
    list.json().ok_or(CrdtError::InvalidArgument)?.to_json()
}

/// Marks a task as done: one small edit, whatever else changes in the list.
fn tick(list: &mut Automerge, task: usize) -> Result<(), CrdtError> {
    let view = list.json().ok_or(CrdtError::InvalidArgument)?;
    view.put(
        &["tasks".into(), task.into(), "done".into()],
        &Value::Bool(true),
    )
}

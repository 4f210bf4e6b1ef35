//! What operations weigh: as much as they bring, whatever brings it.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use conclave_order::Op;
use conclave_order::op::entry::Does;
use conclave_testkit::database::InMemory;
use conclave_testkit::ids::{author, log};
use conclave_testkit::world::{Moves, START, World, commit, create_document, found};

const LARGE: usize = 1024 * 1024;

#[tokio::test]
async fn what_is_large_weighs_much() -> Result<()> {
    let world = World::<InMemory>::furnished().await?;
    let log = log(1, 1);
    let at = world.group(log.group).await?;
    let records = world.updates(log, author(10, 1), 1000).await?;
    ensure!(records.bytes() > 1000 * 20);

    let large = || Bytes::from(vec![0; LARGE]);
    let mut snapshot = world.snapshot(log, 10, START).await?;
    if let Op::PutSnapshot(put) = &mut snapshot {
        Arc::make_mut(&mut put.record).sealed.ciphertext = large().to_vec().into();
    }
    let mut document = create_document(log, 10, at);
    if let Op::Enter(new) = &mut document
        && let Does::CreateDocument { first, .. } = &mut new.does
    {
        first.sealed.ciphertext = large().to_vec().into();
    }
    let moves = Moves {
        added: vec![20],
        ..Moves::default()
    };
    let mut joins = commit(log.group, 10, at, &moves, 1);
    if let Op::Enter(new) = &mut joins
        && let Does::Commit(begins) = &mut new.does
        && let Some(join) = &mut begins.join
    {
        join.tree = large();
    }
    let mut founds = found(log.group, 10);
    if let Op::CreateGroup(new) = &mut founds
        && let Some(part) = new.parts.first_mut()
    {
        part.value = Some(large());
    }
    for op in [snapshot, document, joins, founds] {
        ensure!(op.bytes() >= LARGE, "{op:?}");
    }
    Ok(())
}

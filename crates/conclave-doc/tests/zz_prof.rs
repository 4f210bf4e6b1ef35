#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod common;
use common::*;
use conclave_crdt::CrdtKind;
use conclave_proto::Role;
use std::time::Instant;
#[test]
fn prof() {
    let mut sim = Sim::new(CrdtKind::Yjs, &[(1, Role::Owner), (2, Role::Editor)], "hello");
    sim.settle();
    for _ in 0..6 {
        let t = Instant::now();
        for _ in 0..500 { sim.peers[1].insert(0, "ab"); }
        let edit = t.elapsed();
        let t = Instant::now();
        while sim.send(1, 64*1024) {}
        let send = t.elapsed();
        let t = Instant::now();
        while sim.receive(0) {}
        let recv = t.elapsed();
        let t = Instant::now();
        while sim.receive(1) {}
        let ack = t.elapsed();
        let t = Instant::now();
        sim.peers.iter_mut().for_each(Peer::store);
        println!("edit {edit:?} send {send:?} recv {recv:?} ack {ack:?} store {:?}", t.elapsed());
    }
}

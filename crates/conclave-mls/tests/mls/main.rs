//! A group and its service, tried from every side: honest members, thieves, and a service that orders what it should not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod adopted;
mod attacks;
mod clocks;
mod companions;
mod entries;
mod flow;
mod forge;
mod grease;
mod group_info;
mod growth;
mod invitations;
mod judgement;
mod leaves;
mod packages;
mod property;
mod races;
mod rejoin;
mod returned;
mod world;

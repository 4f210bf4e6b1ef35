//! Whole groups of engines on one seed: no I/O, no clock, no threads.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod adopted;
mod ages;
mod answers;
mod based;
mod basics;
mod beat;
mod clocks;
mod copies;
mod counting;
mod crashes;
mod determinism;
mod drafts;
mod evidence;
mod forge;
mod give_back;
mod give_back_group;
mod heads;
mod in_flight;
mod kept;
mod last;
mod lent;
mod lies;
mod looks;
mod lost_replies;
mod many;
mod merge;
mod newer;
mod paces;
mod packages;
mod pauses;
mod policy;
mod presence;
mod put_back;
mod races;
mod repair;
mod rescue;
mod restarts;
mod revocation;
mod roots;
mod rotation;
mod rules;
mod short;
mod snapshots;
mod standing;
mod storms;
mod stuck;
mod taken;
mod thaw;
mod told;
mod trust;
mod verdicts;
mod went_on;
mod wiped;
mod world;

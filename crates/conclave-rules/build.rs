//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), conclave_breakages::Refused> {
    conclave_breakages::declare(&[
        "accept-stale-epoch",
        "external-rule",
        "ignore-prev",
        "ignore-seen-head",
        "pending-leave",
        "skip-roster",
        "tombstone",
    ])
}

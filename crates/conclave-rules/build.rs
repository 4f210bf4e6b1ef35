//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    conclave_breakages::declare(&[
        "accept-stale-epoch",
        "external-rule",
        "ignore-prev",
        "ignore-seen-head",
        "no-directory",
        "pending-leave",
        "roster-rows",
        "skip-roster",
        "tombstone",
        "void-shares",
    ])
}

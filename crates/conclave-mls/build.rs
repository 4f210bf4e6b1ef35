//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), conclave_breakages::Refused> {
    conclave_breakages::declare(&["merge-early"])
}

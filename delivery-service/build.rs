//! Declares the breakages of this crate (see docs/TESTING.md), and makes cargo rebuild when a migration changes: they are compiled
//! into the program.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=migrations");
    conclave_breakages::declare(&[
        "accept-duplicate-commit",
        "ack-before-durable",
        "member-check",
        "skip-origin",
        "unsigned-report",
    ])
}

//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    conclave_breakages::declare(&[
        "accept-duplicate-commit",
        "ack-before-durable",
        "member-check",
        "skip-origin",
        "unsigned-report",
    ])
}

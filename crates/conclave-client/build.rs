//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), conclave_breakages::Refused> {
    conclave_breakages::declare(&[
        "send-before-durable",
        "store-full-keeps-memory",
        "store-no-key-binding",
        "store-no-row-sum",
    ])
}

//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    conclave_breakages::declare(&[
        "names-exact",
        "send-before-durable",
        "store-no-key-binding",
        "store-no-row-sum",
    ])
}

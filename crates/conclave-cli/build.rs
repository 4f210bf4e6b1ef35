//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    conclave_breakages::declare(&["terminal-raw"])
}

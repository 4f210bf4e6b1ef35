//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    conclave_breakages::declare(&[
        "add-revoked",
        "returned-by-whom",
        "returned-root",
        "session-fence",
    ])
}

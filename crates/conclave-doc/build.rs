//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    conclave_breakages::declare(&[
        "carried-owner",
        "carried-signature",
        "claims-unchecked",
        "confirm-unchecked",
        "cost-free",
        "cover-aside",
        "drop-draft-row",
        "drop-outbox-row",
        "ignore-void",
        "leaf-before-content",
        "objection-stops",
        "reseal-resend",
        "reuse-instance",
        "skip-commitment",
        "skip-replica-rules",
        "skip-signature",
        "snapshot-free",
    ])
}

//! Declares the breakages of this crate: see docs/TESTING.md.

fn main() -> Result<(), conclave_breakages::Refused> {
    conclave_breakages::declare(&[
        "cover-aside",
        "drop-outbox-row",
        "ignore-void",
        "reseal-resend",
        "reuse-instance",
        "skip-commitment",
        "skip-replica-rules",
        "skip-signature",
    ])
}

//! The rounds of faults notice what is wrong: a device that claims an edit which it never made, and one that makes an edit twice.
//! The rounds themselves are `cargo run --release -p conclave-tests --bin kill-rounds`.

use std::process::{Command, Output};

use anyhow::{Result, ensure};

fn rounds(arguments: &[&str]) -> Result<Output> {
    let program = env!("CARGO_BIN_EXE_kill-rounds");
    Ok(Command::new(program).args(arguments).output()?)
}

fn notices(seeded: &str, wanted: &str) -> Result<()> {
    let output = rounds(&["--rounds", "1", "--only", "cut", "--seeded", seeded])?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{}: {told}", output.status);
    // One edit, of that kind, and no other complaint.
    let found = told.matches("Token {").count();
    ensure!(found == 1 && told.contains(wanted), "{told}");
    Ok(())
}

#[test]
fn an_acknowledged_edit_that_was_never_made_is_noticed() -> Result<()> {
    notices("lost", "lost: [\n        Token {")
}

#[test]
fn an_edit_that_was_made_twice_is_noticed() -> Result<()> {
    notices("doubled", "doubled: [\n        Token {")
}

#[test]
fn a_round_without_a_seeded_fault_passes_and_an_unknown_option_is_refused() -> Result<()> {
    let output = rounds(&["--rounds", "1", "--only", "kill-device", "--json"])?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{told}");
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(figures["lost"] == 0 && figures["rounds"] == 1, "{figures}");
    ensure!(figures["acknowledged"].as_u64() > Some(100), "{figures}");
    let refused = rounds(&["--nonsense"])?;
    ensure!(!refused.status.success());
    ensure!(String::from_utf8_lossy(&refused.stderr).contains("usage"));
    Ok(())
}

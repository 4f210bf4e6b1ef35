//! A removal in a group of more documents than a device has in memory, with real processes: the short form of the program that measures it with ten thousand.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

fn play(arguments: &[&str]) -> Result<Value> {
    let program = env!("CARGO_BIN_EXE_rotation");
    let output = Command::new(program)
        .args(["--documents", "300", "--json"])
        .args(arguments)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{told}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Whoever was removed opens what it could read, and nothing that came after; others edit meanwhile.
fn is_good(figures: &Value) -> bool {
    let opened = |which: &str| figures.get(which)?.get(1)?.as_u64();
    opened("old") > Some(0) && opened("new") == Some(0) && figures["edits"].as_u64() > Some(0)
}

#[test]
fn all_documents_are_under_new_keys_and_edits_go_on_meanwhile() -> Result<()> {
    let figures = play(&[])?;
    ensure!(is_good(&figures), "{figures}");
    // Each once, and none by who only looks on.
    let snapshots = |who: &str| figures["frames"][who]["up snapshot"]["frames"].as_u64();
    ensure!(snapshots("ana") >= Some(300), "{figures}");
    Ok(())
}

#[test]
fn where_the_device_that_re_keys_is_killed_half_way_another_finishes() -> Result<()> {
    let figures = play(&["--kill"])?;
    ensure!(is_good(&figures), "{figures}");
    let snapshots = &figures["frames"]["ben"]["up snapshot"]["frames"];
    ensure!(snapshots.as_u64() > Some(0), "{figures}");
    ensure!(figures["after_kill_s"].as_f64().is_some(), "{figures}");
    Ok(())
}

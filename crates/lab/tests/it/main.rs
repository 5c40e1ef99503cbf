//! The short cases of `./chaos`, with the programs of this build.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    reason = "a failed test is a panic"
)]

use std::{path::Path, process::Command};

#[test]
fn the_short_cases_of_chaos_hold() {
    let lab = Path::new(env!("CARGO_BIN_EXE_bonafide-lab"));
    // Cargo builds it for the tests of the command line: with the whole workspace, not for this package alone.
    if !lab.with_file_name("bonafide").exists() {
        eprintln!("skipped: `bonafide` is not built; use `cargo test --workspace`");
        return;
    }
    let played = Command::new(lab).args(["chaos", "--short", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    println!("{said}");
    let failed: Vec<_> = said.lines().filter(|line| line.contains(r#""verdict":"failed""#)).collect();
    assert!(played.status.success(), "{failed:#?}\n{}", String::from_utf8_lossy(&played.stderr));
}

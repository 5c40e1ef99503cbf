//! Chores of the repository. `cargo xtask codegen` writes the protobuf code that is checked in.

#[cfg(test)]
mod arch;
mod codegen;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("codegen") => codegen::write_all(&codegen::repository_root()?),
        _ => bail!("usage: cargo xtask codegen"),
    }
}

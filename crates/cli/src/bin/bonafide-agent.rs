//! The agent alone, with the commands that a node needs.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonafide_cli::run_agent()
}

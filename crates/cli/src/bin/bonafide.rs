//! All roles and every command.

use std::process::ExitCode;

fn main() -> ExitCode {
    bonafide_cli::run()
}

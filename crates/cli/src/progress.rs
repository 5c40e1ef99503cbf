//! A spinner for what may take more than a second; only on a terminal.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::Console;

/// Runs `work` under a spinner on standard error. Without a terminal, or with `--quiet`, nothing is shown.
pub async fn with_spinner<T>(console: &Console, message: &str, work: impl Future<Output = T>) -> T {
    if console.is_quiet() || !std::io::stderr().is_terminal() {
        return work.await;
    }
    let spinner = ProgressBar::new_spinner().with_message(message.to_owned());
    spinner.set_style(ProgressStyle::default_spinner());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let result = work.await;
    spinner.finish_and_clear();
    result
}

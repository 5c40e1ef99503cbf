//! One token that tells every part of a process to finish.

use std::future::Future;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Tells everybody who holds a clone that it is time to stop. It is triggered once and stays so.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A token that nobody has triggered yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every holder to stop. Does not wait for them.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether it was triggered.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves once triggered. Owned, so that it fits `serve_with_incoming_shutdown` and spawned tasks.
    pub fn triggered(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// A token that follows this one, and that can be triggered on its own.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }

    /// Runs `work` until it ends (`Some`) or until the token is triggered (`None`).
    pub async fn unless_triggered<F: Future>(&self, work: F) -> Option<F::Output> {
        self.token.run_until_cancelled(work).await
    }

    /// Triggers on SIGTERM or SIGINT. A second signal ends the process at once, as people expect of Ctrl-C.
    ///
    /// # Errors
    /// When the signal handlers can't be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let this = self.clone();
        tokio::spawn(async move {
            for first in [true, false] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if first {
                    tracing::info!("shutting down");
                    this.trigger();
                }
            }
            // The operator asked twice. 130 is what shells show for Ctrl-C.
            std::process::exit(130);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_follows_its_parent_but_not_the_other_way() {
        let parent = Shutdown::new();
        let first = parent.child();
        let second = parent.child();
        first.trigger();
        assert!(first.is_triggered() && !parent.is_triggered() && !second.is_triggered());
        parent.trigger();
        second.triggered().await;
        assert_eq!(second.unless_triggered(std::future::pending::<()>()).await, None);
    }
}

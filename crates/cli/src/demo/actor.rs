//! A workload process of the demo, seen from outside: what it tells, line by line.

use std::time::Duration;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};

use super::{event::Event, stage::observation_failed};
use crate::Failure;

/// A running actor. It ends when its standard input closes, and when it is dropped.
#[derive(Debug)]
pub(super) struct Actor {
    name: &'static str,
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Actor {
    pub(super) fn new(name: &'static str, mut child: Child) -> Self {
        let lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
        Self { name, child, lines }
    }

    /// Its PID.
    pub(super) fn pid(&self) -> i32 {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default()
    }

    /// Waits for the next event for which `pick` has a value.
    ///
    /// # Errors
    /// When it is not told in time, and when the actor ends before.
    pub(super) async fn expect<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(Event) -> Option<T>,
    ) -> Result<T, Failure> {
        let found = tokio::time::timeout(within, async {
            loop {
                let event = self.next().await?;
                if let Some(value) = pick(event) {
                    return Ok(value);
                }
            }
        });
        match found.await {
            Ok(result) => result,
            Err(_) => Err(observation_failed(format!(
                "the {} did not tell within {} s: {what}",
                self.name,
                within.as_secs()
            ))),
        }
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// When the actor has ended.
    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        let line = match &mut self.lines {
            Some(lines) => lines.next_line().await.ok().flatten(),
            None => None,
        };
        let Some(line) = line else {
            return Err(self.ended().await);
        };
        serde_json::from_str(&line).map_err(|cause| {
            observation_failed(format!("the {} told something odd: {cause}: {line}", self.name))
        })
    }

    /// Closes its standard input and waits until it ends.
    pub(super) async fn dismiss(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(Duration::from_secs(2), self.child.wait()).await.is_err() {
            // It is killed when dropped.
            let _ = self.child.start_kill();
        }
    }

    async fn ended(&mut self) -> Failure {
        let mut words = Vec::new();
        if let Some(stderr) = &mut self.child.stderr {
            let mut bounded = stderr.take(4_096);
            let _ = tokio::time::timeout(Duration::from_secs(1), bounded.read_to_end(&mut words)).await;
        }
        let words = String::from_utf8_lossy(&words).trim().replace('\n', "; ");
        observation_failed(format!("the {} ended: {words}", self.name))
    }
}

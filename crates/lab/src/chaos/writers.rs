//! Callers that write all the time, and know what was acknowledged to them.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use bonafide_wire::types::Problem;
use futures_util::future::join_all;

use super::admin::{Operator, count_of, entry};

/// Entries of one writer, which are always written together: who sees two values of them sees half a write.
const TOGETHER: [&str; 3] = ["left", "middle", "right"];

/// Each counts upwards, in several entries at once.
#[derive(Debug)]
pub(crate) struct Writers(Vec<Writer>);

#[derive(Debug)]
struct Writer {
    name: String,
    sent: u64,
    acknowledged: u64,
    total: u64,
}

impl Writers {
    pub(crate) fn new(count: usize) -> Self {
        Self::named("writer", count)
    }

    /// Beside others of another name.
    pub(crate) fn named(name: &str, count: usize) -> Self {
        let writer = |number| Writer { name: format!("{name}-{number}"), sent: 0, acknowledged: 0, total: 0 };
        Self((0..count).map(writer).collect())
    }

    /// Writes until each of them has failed; why.
    pub(crate) async fn write(&mut self, operator: &Operator) -> Vec<Problem> {
        join_all(self.0.iter_mut().map(|writer| writer.write(operator.clone()))).await
    }

    /// Writes on and on, whatever is refused, until it is told that this is enough.
    pub(crate) async fn write_until(&mut self, operator: &Operator, enough: &AtomicBool) {
        let writes = self.0.iter_mut().map(|writer| {
            let mut operator = operator.clone();
            async move {
                while !enough.load(Ordering::Relaxed) {
                    let _refused = writer.write_once(&mut operator).await;
                }
            }
        });
        join_all(writes).await;
    }

    /// One write of each; what was refused.
    pub(crate) async fn write_once(&mut self, operator: &Operator) -> Vec<Problem> {
        let writes = self.0.iter_mut().map(|writer| {
            let mut operator = operator.clone();
            async move { writer.write_once(&mut operator).await.err() }
        });
        join_all(writes).await.into_iter().flatten().collect()
    }

    /// Whether everything that was acknowledged is there, and nothing is there in half. What is seen counts as
    /// acknowledged from now on.
    pub(crate) async fn check(&mut self, operator: &mut Operator) -> Result<()> {
        let all = operator.registrations().await?;
        for writer in &mut self.0 {
            let mut values = Vec::new();
            for part in TOGETHER {
                values.push(count_of(&all, &writer.id(part))?);
            }
            let seen = values.first().copied().unwrap_or_default();
            let name = &writer.name;
            ensure!(values.iter().all(|&value| value == seen), "{name} was written in half: {values:?}");
            let (least, most) = (writer.acknowledged, writer.sent);
            ensure!(seen >= least, "{name}: write {least} was acknowledged, and lost: there is {seen}");
            ensure!(seen <= most, "{name}: there is write {seen}, and the last one was {most}");
            (writer.acknowledged, writer.sent) = (seen, seen);
        }
        Ok(())
    }

    /// Writes that were acknowledged.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|writer| writer.total).sum()
    }
}

impl Writer {
    async fn write(&mut self, mut operator: Operator) -> Problem {
        loop {
            if let Err(problem) = self.write_once(&mut operator).await {
                return problem;
            }
        }
    }

    async fn write_once(&mut self, operator: &mut Operator) -> Result<(), Problem> {
        self.sent += 1;
        let value = self.sent.to_string();
        let entries = TOGETHER.map(|part| {
            let mut entry = entry(&self.id(part), &[("unix.user", &self.id(part))]);
            entry.hint.clone_from(&value);
            entry
        });
        operator.apply(entries).await?;
        self.acknowledged = self.sent;
        self.total += 1;
        Ok(())
    }

    fn id(&self, part: &str) -> String {
        format!("{}-{part}", self.name)
    }
}

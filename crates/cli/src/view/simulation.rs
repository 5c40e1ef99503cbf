//! What a simulation has measured.

use std::time::Duration;

use bonafide_simulation::{Latencies, Outcome, Traffic, Usage};
use serde::Serialize;

use crate::{console::View, page::Page, text::count};

/// A simulation.
#[derive(Debug, Serialize)]
pub struct SimulationView {
    /// Nodes.
    pub agents: u32,
    /// Registrations.
    pub entries: u32,
    /// Launches.
    pub workloads: u32,
    /// Lifetime of SVIDs.
    pub ttl_seconds: u32,
    /// Whether keys of workloads were used several times.
    pub reused_keys: bool,
    /// Until everybody had everything.
    pub set_up: Phase,
    /// From then on.
    pub steady: Phase,
}

/// A part of the time.
#[derive(Debug, Serialize)]
pub struct Phase {
    /// How long it took.
    pub seconds: f64,
    /// What the authority's process has used; absent if its process can't be seen.
    pub authority: Option<PhaseUsage>,
    /// Bytes of all agents.
    pub bytes: Traffic,
    /// Latencies and errors.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What the authority's process has used in a part of the time.
#[derive(Debug, Serialize)]
pub struct PhaseUsage {
    /// CPU time.
    pub cpu_seconds: f64,
    /// CPU time for each second, of one core.
    pub cpu_percent: f64,
    /// Bytes in memory at the end.
    pub memory: u64,
    /// The most bytes that it has had in memory, since it started.
    pub peak_memory: u64,
}

impl Phase {
    /// What happened between two looks at the authority.
    pub fn new(
        took: Duration,
        before: Option<Usage>,
        after: Option<Usage>,
        bytes: Traffic,
        outcome: Outcome,
    ) -> Self {
        let seconds = took.as_secs_f64();
        let authority = before.zip(after).map(|(before, after)| {
            let cpu_seconds = after.cpu_seconds - before.cpu_seconds;
            PhaseUsage {
                cpu_seconds,
                cpu_percent: cpu_seconds / seconds * 100.0,
                memory: after.memory,
                peak_memory: after.peak_memory,
            }
        });
        Self { seconds, authority, bytes, outcome }
    }

    fn draw(&self, name: &str, page: &mut Page) {
        page.gap();
        page.line(&format!("{name}, {:.1} s", self.seconds));
        page.record([
            ("authority", self.authority.iter().map(PhaseUsage::line).collect()),
            (
                "bytes",
                vec![format!(
                    "{} to agents, {} from agents",
                    bytes(self.bytes.to_agents),
                    bytes(self.bytes.from_agents)
                )],
            ),
            ("opened again", vec![count(self.outcome.reconnects, "stream", "streams")]),
            ("errors", self.outcome.errors.iter().map(|(code, times)| format!("{code}: {times}")).collect()),
        ]);
        let Outcome { join, sync, first_svid, renewal, change, .. } = &self.outcome;
        let rows = [
            ("join", join),
            ("connect and sync", sync),
            ("first SVID", first_svid),
            ("renewal", renewal),
            ("change acknowledged", change),
        ];
        let rows = rows.into_iter().filter(|(_, latencies)| latencies.count > 0).map(row);
        page.table(["LATENCY", "COUNT", "P50 MS", "P99 MS", "MAX MS"], rows);
    }
}

impl PhaseUsage {
    fn line(&self) -> String {
        format!(
            "{:.2} s of CPU time ({:.2} % of a core), {} of memory, at most {}",
            self.cpu_seconds,
            self.cpu_percent,
            bytes(self.memory),
            bytes(self.peak_memory)
        )
    }
}

impl View for SimulationView {
    fn draw(&self, page: &mut Page) {
        page.line(&format!(
            "{}, {}, {}, SVIDs for {}{}",
            count(self.agents.into(), "agent", "agents"),
            count(self.entries.into(), "entry", "entries"),
            count(self.workloads.into(), "workload", "workloads"),
            crate::duration::format(self.ttl_seconds.into()),
            if self.reused_keys { ", keys used again" } else { "" }
        ));
        self.set_up.draw("Setting up", page);
        self.steady.draw("Steady", page);
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

fn row((name, latencies): (&str, &Latencies)) -> [String; 5] {
    let number = |value: f64| format!("{value:.1}");
    [
        name.to_owned(),
        latencies.count.to_string(),
        number(latencies.p50_ms),
        number(latencies.p99_ms),
        number(latencies.max_ms),
    ]
}

fn bytes(number: u64) -> String {
    let number = number as f64;
    if number >= 1e6 { format!("{:.1} MB", number / 1e6) } else { format!("{:.1} kB", number / 1e3) }
}

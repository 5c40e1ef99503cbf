//! What goes wrong in the world, done to the real programs. Each case has a file of its own, and says what is done and
//! what must hold.

mod admin;
mod agent;
mod bombs;
mod cage;
mod case;
mod clock;
mod cut;
mod database;
mod disk_full;
mod flood;
mod frames;
mod fsync;
mod hung;
mod issuing;
mod kill;
mod peers;
mod pid;
mod postgres;
mod proxy;
mod rogue;
mod rollback;
mod room;
mod rotation;
mod server;
mod shim;
mod theft;
mod theft_go;
mod token;
mod writers;

use std::{io::Write as _, path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::case::{Case, Skipped, Stage, Verdict};

const CASES: &[Case] = &[
    kill::CASE,
    fsync::ERROR,
    fsync::TORN,
    disk_full::STORE,
    disk_full::LEDGER,
    hung::CASE,
    clock::FORWARD,
    clock::BACK,
    cut::CASE,
    pid::CASE,
    rotation::CASE,
    theft::INTERMEDIATE,
    theft::ROOT,
    theft_go::CASE,
    flood::CASE,
    bombs::CASE,
    rollback::CASE,
    database::KILLED,
    database::FAILED_OVER,
    database::SLOW,
    database::ONE_WAY,
    token::CASE,
    rogue::CASE,
];

/// In short runs, bounds are this much wider.
const SHORT_SLACK: f64 = 10.0;

/// Breaks things, and looks what holds.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChaosArgs {
    /// One JSON object per line in place of a table
    #[arg(long)]
    json: bool,
    /// Only print the names, what is done and what must hold
    #[arg(long)]
    list: bool,
    /// Those that take a few seconds, smaller; figures may be ten times what is promised, for a busy machine and a
    /// program that is not optimised
    #[arg(long)]
    short: bool,
    /// Where authorities write; should be on a real disk
    #[arg(long, value_name = "DIRECTORY", default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
    /// Be the strangers of a case
    #[arg(long, hide = true, value_names = ["KIND", "WORD"], num_args = 2)]
    flood: Option<Vec<String>>,
    /// Which cases; all of them without
    names: Vec<String>,
}

/// A case that was played.
#[derive(Debug, Serialize)]
struct Played {
    name: &'static str,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_most: Option<f64>,
    seconds: f64,
    what: String,
}

/// Plays the cases. Whether all of them held, or were skipped.
pub(crate) async fn run(args: &ChaosArgs) -> Result<bool> {
    if let Some([kind, word]) = args.flood.as_deref() {
        return flood::flood(kind, word).await.map(|()| true);
    }
    let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
    if let Some(unknown) = args.names.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no case `{unknown}`; there are {}", names.join(", "));
    }
    let mut out = std::io::stdout();
    if args.list {
        for case in CASES {
            writeln!(out, "{}: {}.\n    {}.", case.name, case.fault, case.promise)?;
        }
        return Ok(true);
    }
    let wanted = |case: &&Case| {
        if args.names.is_empty() {
            !args.short || case.short
        } else {
            args.names.iter().any(|name| name == case.name)
        }
    };
    // Whoever ends this program ends what it has started.
    let mut told = signal(SignalKind::terminate())?;
    let mut played = Vec::new();
    for case in CASES.iter().filter(wanted) {
        let done = tokio::select! {
            done = play(case, args) => done,
            _ = told.recv() => bail!("it was told to end"),
            _ = tokio::signal::ctrl_c() => bail!("it was told to end"),
        };
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&done)?)?;
        } else {
            writeln!(std::io::stderr(), "{} {:?} after {:.1} s", done.name, done.verdict, done.seconds)?;
        }
        played.push(done);
    }
    if !args.json {
        writeln!(out, "{}", table(&played))?;
    }
    Ok(played.iter().all(|done| done.verdict != Verdict::Failed))
}

async fn play(case: &Case, args: &ChaosArgs) -> Played {
    let began = Instant::now();
    let report = match Stage::new(&args.directory, args.short) {
        Ok(stage) => (case.run)(&stage).await,
        Err(error) => Err(error),
    };
    let seconds = began.elapsed().as_secs_f64();
    let (verdict, value, unit, at_most, what) = match report {
        Ok(mut report) => {
            if args.short {
                report.at_most = report.at_most.map(|most| most * SHORT_SLACK);
            }
            let verdict = match report.at_most {
                Some(most) if report.value > most => Verdict::Failed,
                _ => Verdict::Held,
            };
            (verdict, Some(report.value), Some(report.unit), report.at_most, report.what)
        }
        Err(error) => {
            let verdict = if error.is::<Skipped>() { Verdict::Skipped } else { Verdict::Failed };
            (verdict, None, None, None, format!("{error:#}"))
        }
    };
    Played { name: case.name, verdict, value, unit, at_most, seconds, what }
}

/// A table for people.
fn table(played: &[Played]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["case", "verdict", "figure", "bound", "what", "took"]);
    for done in played {
        let number = |value: f64| format!("{value:.1} {}", done.unit.unwrap_or_default());
        table.add_row([
            done.name.to_owned(),
            format!("{:?}", done.verdict).to_lowercase(),
            done.value.map(number).unwrap_or_default(),
            done.at_most.map(|most| format!("≤ {}", number(most))).unwrap_or_default(),
            done.what.clone(),
            format!("{:.0} s", done.seconds),
        ]);
    }
    table
}
